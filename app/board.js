/* The live board: a run as it happens, in one element that keeps its own state.

   Streamlit calls the function exported at the end again at every rerun, on the same element. History comes once as a
   binary block, then server-sent events; records lie in one growing typed array, nothing is kept as an object per step.
   The ribbons move on every animation frame, the charts at most every 450 ms and one per frame.

   app/board.py puts files together, in this order, as one module: darts_core/view/ribbon.js (mountRibbon),
   board_data.js, board_charts.js, board_panels.js, board_edges.js, board_outcome.js and this one. */

const RETRY = 1000; // milliseconds before the next try to connect
const LOOK_AGAIN = 3000; // the same for a run that failed or was stopped: somebody may resume it
const CHART_NAMES = ["shares", "loss", "accuracy", "entropy", "eigenvalue"];
const TEXT_NAMES = ["shares", "perplexity", "loss", "entropy", "eigenvalue"]; // of a search on text
const LEARNING = ["perplexity", "loss", "accuracy"]; // what is left of them where a fixed cell is trained
const COST_NAMES = ["parameters", "macs"];
const TRUTH_NAMES = ["truth", "rank"]; // where every cell of the space is known

// Feed

/** Brings history and stream to the board, and comes back by itself when the server goes away. */
class Feed {
  constructor(base, run, board) {
    Object.assign(this, { base, run, board, position: null, source: null, timer: 0, stopped: false, ended: false });
  }

  get path() {
    return `${this.base}/runs/${encodeURIComponent(this.run)}`;
  }

  start() {
    if (this.position === null) this.fetchHistory();
    else this.listen();
  }

  stop() {
    this.stopped = true;
    this.close();
  }

  close() {
    clearTimeout(this.timer);
    this.source?.close();
    this.source = null;
  }

  /** The page ran again: perhaps the search was resumed. */
  wake() {
    if (!this.ended || this.stopped) return;
    this.close();
    this.listen();
  }

  async fetchHistory() {
    try {
      const answer = await fetch(`${this.path}/history?max=5000`, { credentials: "same-origin" });
      if (!answer.ok) throw new Refused(answer.status, await answer.text());
      const { head, records } = readBlock(new Uint8Array(await answer.arrayBuffer()));
      if (this.stopped) return;
      this.position = head.position;
      this.board.takeHistory(head, records);
      this.listen();
    } catch (problem) {
      this.again(problem instanceof Refused ? problem.message : "");
    }
  }

  listen() {
    const source = new EventSource(`${this.path}/stream?after=${this.position}`);
    this.source = source;
    const on = (name, take) =>
      source.addEventListener(name, (event) => {
        if (this.source !== source) return;
        if (event.lastEventId) this.position = event.lastEventId;
        take(event.data);
      });
    source.onopen = () => this.ended || this.board.takeLink("live");
    on("steps", (data) => this.board.takeSteps(bytesOfBase64(data)));
    on("events", (data) => this.board.takeEvents(JSON.parse(data)));
    on("status", (data) => this.takeStatus(JSON.parse(data)));
    on("reset", () => this.restart());
    on("end", () => this.end());
    source.onerror = () => this.source === source && this.again("");
  }

  takeStatus(status) {
    if (this.ended && !STALE[status.state]) {
      this.ended = false;
      this.board.takeLink("live");
    }
    this.board.takeStatus(status);
  }

  /** The recorded past changed (a tail was moved aside): begin from nothing. */
  restart() {
    this.close();
    this.position = null;
    this.fetchHistory();
  }

  end() {
    this.close();
    this.ended = true;
    this.board.takeLink("ended");
    if (this.board.stateName !== "finished") this.timer = setTimeout(() => this.listen(), LOOK_AGAIN);
  }

  again(why) {
    this.close();
    if (this.stopped) return;
    if (!this.ended) this.board.takeLink("down", why);
    this.timer = setTimeout(() => this.start(), this.ended ? LOOK_AGAIN : RETRY);
  }
}

/** The server answered, but not with a run; its text is one sentence for people. */
class Refused extends Error {
  constructor(status, text) {
    const sentence = text.trim().split("\n")[0];
    super(
      status >= 500 || sentence.length > 300 || sentence.startsWith("<") ? `The server answered ${status}.` : sentence,
    );
  }
}

// The board

class Board {
  constructor(root, data, tell, send) {
    Object.assign(this, {
      root,
      data,
      tell,
      send,
      asked: null,
      run: data.run,
      records: null,
      story: new Story(data.cells),
      status: data.status ?? { state: "starting", step: 0 },
      view: { mode: "follow", step: 0, speed: data.view.speed, loop: data.view.play },
      index: 0,
      op: null,
      pinned: null,
      link: "waiting",
      linkWhy: "",
      began: Date.now(),
      arrived: performance.now(),
      changed: true,
      alive: true,
      pending: {},
      marked: new Uint8Array(0),
      playAt: 0,
      lastFrame: 0,
      lastSlowLook: 0,
      painted: false,
      askedForCharts: false,
    });
    this.takeView(data.view);
    this.build();
    this.theme = this.readTheme();
    this.onKey = (event) => this.key(event);
    document.addEventListener("keydown", this.onKey);
    // A link to another page is followed: what is told after that click would be this page's word, and a busy server
    // would stay here.
    this.onLeave = (event) => event.target.closest?.("a[href]") && clearTimeout(this.reporting);
    addEventListener("click", this.onLeave, true);
    this.feed = data.rows === null ? new Feed(data.base, data.run, this) : null;
    if (this.feed) this.feed.start();
    else this.takeRows(data.rows);
    requestAnimationFrame((now) => this.frame(now));
  }

  build() {
    const { figures } = this.data;
    this.transport = transportPanel(this);
    this.statusLine = statusPanel();
    this.meter = meterPanel(this.data.collapse?.op);
    this.legend = legendPanel(this);
    this.cells = cellPanel(this);
    this.edgeChart = new Chart("edge", figures.edge, this);
    this.edgeCard = edgePanel(this, this.edgeChart);
    this.heat = heatPanel(this);
    this.table = tablePanel(this);
    this.outcome = outcomePanel(this);
    this.sample = samplePanel();
    const named = (names) => names.map((name) => new Chart(name, figures[name], this));
    const { fixed, baseline, costs, cells } = this.data;
    const usual = this.data.text ? TEXT_NAMES : CHART_NAMES;
    const told = (name) => (!fixed || LEARNING.includes(name)) && !(baseline && name === "entropy"); // it would be 0
    this.charts = named(usual.filter(told));
    if (this.data.known) this.charts.splice(3, 0, ...named(TRUTH_NAMES));
    this.truth = truthPanel(this.data.known);
    this.otherShares = !fixed && Object.keys(cells).length === 2 ? new Chart("shares-other", figures.shares, this) : null;
    this.charts.push(...(this.otherShares ? [this.otherShares] : []), ...named(costs && !fixed ? COST_NAMES : []));
    this.meter.el.hidden = !this.data.collapse;
    this.edgeCard.el.hidden = this.heat.el.hidden = Boolean(this.data.fixed);
    this.root.classList.toggle("db-fixed", Boolean(this.data.fixed));
    const curves = make(
      "div",
      { class: "db-charts" },
      ...this.charts.slice(0, 3).map((c) => c.card),
      this.heat.el,
      ...this.charts.slice(3).map((c) => c.card),
    );
    const choose = fixed ? "" : "; Tab and Enter choose an edge";
    const keys = `Keys: Space pauses the view, \u2190 \u2192 one step, L follows, T shows the numbers${choose}. Drag over a chart to zoom, double-click to see all, click to go to that step.`;
    this.root.replaceChildren(
      this.transport.el,
      this.statusLine.el,
      this.meter.el,
      this.truth.el,
      make("div", { class: "db-main" }, this.cells.el, this.edgeCard.el, ...(fixed ? [curves] : [])),
      this.outcome.el,
      this.sample.el,
      ...(fixed ? [] : [curves]),
      this.table.el,
      make("p", { class: "db-about db-keys" }, keys),
    );
    this.root.dataset.run = this.run;
  }

  // What comes in ---------------------------------------------------------------------------------------------

  /** Another rerun of the page: new data of the same run. */
  receive(data) {
    const asked = data.view.version !== this.data.view.version;
    const { rows, view, steer } = data;
    this.data = { ...this.data, rows, view, steer };
    this.changed = true;
    if (asked) this.takeView(data.view);
    if (data.rows !== null) this.takeRows(data.rows);
    else this.feed?.wake();
  }

  takeView({ cell, show, edge, step, play, speed }) {
    const kinds = Object.keys(this.data.cells);
    this.cell = cell ?? kinds[0];
    this.chosenShow = show;
    this.edge = this.edgeNamed(edge) ?? { kind: kinds.includes(this.cell) ? this.cell : kinds[0], index: 0 };
    this.view.speed = speed;
    this.view.mode = play ? "play" : step ? "hold" : "follow";
    this.view.step = step;
    this.touch();
  }

  edgeNamed(name) {
    for (const [kind, spec] of Object.entries(this.data.cells)) {
      const index = spec.edges.findIndex(([source, target]) => `${kind}-${source}-${target}` === name);
      if (index >= 0) return { kind, index };
    }
    return null;
  }

  takeHistory(head, raw) {
    this.records = new Records(head.layout, head.record_bytes);
    this.story = new Story(this.data.cells);
    this.marked = new Uint8Array(0);
    this.takeEvents(head.events);
    this.takeSteps(raw);
    this.takeStatus(head.status);
    this.arrived -= 1000 * (head.status.silent_s ?? 0);
  }

  /** Rows through the page: the whole block comes again at every rerun. */
  takeRows(text) {
    const { head, records } = readBlock(bytesOfBase64(text));
    this.takeHistory(head, records);
    this.takeLink(STALE[head.status.state] ? "ended" : "page");
  }

  takeSteps(raw) {
    const from = this.records.append(raw);
    this.compareDerived(from);
    this.arrived = performance.now();
    this.touch();
  }

  takeEvents(events) {
    this.story.add(events);
    this.sample.update(events.findLast((event) => event.type === "sample"));
    this.root.dataset.events = this.story.events.length;
    this.touch();
  }

  takeStatus(status) {
    this.status = status;
    this.touch();
  }

  takeLink(state, why = "") {
    this.link = state;
    this.linkWhy = why;
    this.root.dataset.link = state;
    this.transport.setLink(state, why);
  }

  touch() {
    this.changed = true;
    for (const chart of this.charts ?? []) chart.dirty = true;
    if (this.edgeChart) this.edgeChart.dirty = true;
  }

  /** Remember for each record whether another cell would be derived than at the one before. */
  compareDerived(from) {
    const marked = new Uint8Array(this.records.count);
    marked.set(this.marked.subarray(0, Math.min(from, marked.length)));
    let before = from > 0 ? this.derivedText(from - 1) : null;
    for (let i = from; i < marked.length; i += 1) {
      const now = this.derivedText(i);
      marked[i] = before !== null && now !== before ? 1 : 0;
      before = now;
    }
    this.marked = marked;
  }

  derivedText(i) {
    return Object.entries(this.data.cells)
      .map(([kind, spec]) => {
        const { best, kept } = strongest(spec, this.records.tensor(`mix.${kind}`, i));
        return best.map((op, e) => (kept[e] ? op : -1)).join();
      })
      .join();
  }

  /** Steps at which the derived cell changed, at most one per two hundredth of the scrubber. */
  changeSteps() {
    const n = this.records.count;
    const places = new Map();
    this.marked.forEach((mark, i) => mark && places.set(Math.floor((200 * i) / n), this.records.step(i)));
    return [...places.values()];
  }

  // What is shown ---------------------------------------------------------------------------------------------

  get stateName() {
    return this.status.state;
  }
  get live() {
    return !STALE[this.stateName];
  }
  get totalSteps() {
    return this.status.total_steps ?? this.story.totalSteps;
  }
  get age() {
    return (performance.now() - this.arrived) / 1000;
  }
  /** Does the picture change by itself? */
  get moving() {
    return this.view.mode === "play" || (this.view.mode === "follow" && this.live);
  }
  get slow() {
    return this.stateName === "running" && this.story.phases.at(-1)?.name !== "evaluate" && this.age > SLOW;
  }
  /** All edges or those that derivation keeps: as chosen, else the derived cell where a search has ended. */
  get show() {
    const ended = ["finished", "stopped"].includes(this.stateName) && this.view.mode === "follow";
    return this.chosenShow ?? (ended ? "derived" : "all");
  }
  get kindsShown() {
    return this.cell === "both" ? Object.keys(this.data.cells) : [this.cell];
  }
  /** The cell whose shares the charts show: the one of the chosen edge when both are drawn. */
  get kind() {
    return this.cell === "both" ? this.edge.kind : this.cell;
  }
  /** The step that a person holds or replays, or 0 while the newest one is shown. */
  get heldStep() {
    return this.view.mode === "follow" || !this.records?.count ? 0 : this.records.step(this.index);
  }
  /** The temperature in force at the shown step: the last one that was set, else the configuration's. */
  get temperature() {
    const step = this.records?.count ? this.records.step(this.index) : 0;
    const set = this.story.events.findLast(
      (event) => event.type === "applied" && event.accepted && event.name === "temperature" && event.step < step,
    );
    return Number(set?.value ?? this.data.temperature);
  }

  edgeName(kind, index) {
    const [source, target] = this.data.cells[kind].edges[index];
    return `${kind}-${source}-${target}`;
  }

  /** Which operations an edge may hold in `step`: the space's, and what was pinned, banned and reset until then. */
  legal(kind, index, step) {
    const { legal, ops } = this.data.cells[kind];
    const orders = [...this.data.inherited, ...this.story.onEdges.filter((event) => event.step < step)];
    return legalAfter(legal[index], ops, this.edgeName(kind, index), orders);
  }
  /** Per edge of a kind "pinned", "steered" or "" at the shown step, for the drawing. */
  held(kind) {
    const { legal, edges, ops } = this.data.cells[kind];
    if (!this.records?.count || (!this.story.onEdges.length && !this.data.inherited.length)) return null;
    return edges.map((_, e) => {
      const now = this.legal(kind, e, this.shownStep);
      const may = now.map((ok, o) => (ok ? ops[o] : null)).filter(Boolean);
      if (now.every((ok, o) => ok === legal[e][o])) return "";
      return may.length === 1 ? `pinned to ${may[0]}` : `without ${ops.filter((_, o) => legal[e][o] && !now[o]).join(", ")}`;
    });
  }
  /** Finished epochs at the shown step: where a branch from here would begin. */
  get finishedEpochs() {
    const ended = this.story.epochs.findLast((event) => event.step <= this.shownStep);
    return ended ? ended.epoch + 1 : this.records.epoch(0);
  }
  /** The newest epoch event at the shown step, its probes with those that are taken more seldom, and the newest alarm
      about the collapse. */
  get lastMeasured() {
    const until = (event) => event.step <= this.shownStep;
    const epochs = this.story.epochs.filter(until);
    const probes = Object.assign({}, ...epochs.map((event) => event.probes));
    const alarm = this.story.events.findLast((event) => event.type === "alarm" && event.level !== "stopped" && until(event));
    return { epoch: epochs.length ? { ...epochs.at(-1), probes } : null, alarm };
  }
  get shownStep() {
    return this.records?.count ? this.records.step(this.index) : 0;
  }

  /** Weights of the shown step (edges x ops); before the first step those every search starts from: all equal. */
  mix(kind) {
    if (this.records?.count) return this.records.tensor(`mix.${kind}`, this.index);
    const { legal } = this.data.cells[kind];
    return Float32Array.from(legal.flatMap((row) => row.map((ok) => (ok ? 1 / row.filter(Boolean).length : 0))));
  }

  /** {best, kept}: what would be derived at the step shown; where the search has ended there, what it did derive. */
  derived(kind) {
    const { result } = this.story;
    const genes = result && this.records?.count && result.step === this.shownStep && result.genotype.cells[kind];
    return genes ? asDerived(this.data.cells[kind], genes) : strongest(this.data.cells[kind], this.mix(kind));
  }

  /** The numbers that a search learns; null where the cell is fixed and nothing is searched. */
  alphas(kind) {
    return this.data.fixed ? null : this.records.tensor(`alpha.${kind}`, this.index);
  }

  colour(op) {
    const spec = Object.values(this.data.cells).find((cell) => cell.ops.includes(op));
    return spec.colours[spec.ops.indexOf(op)];
  }

  // What a person does ----------------------------------------------------------------------------------------

  togglePlay() {
    if (this.moving) this.hold(this.records.step(this.index));
    else this.play();
  }

  hold(step) {
    Object.assign(this.view, { mode: "hold", step, loop: false });
    this.index = this.records.indexOf(step); // at once: a second key may come before the next frame
    this.report("step", step);
    this.changed = true;
  }

  play() {
    const atEnd = this.index >= this.records.count - 1;
    this.playAt = atEnd ? this.records.step(0) : this.records.step(this.index);
    this.view.mode = "play";
    this.changed = true;
  }

  follow() {
    Object.assign(this.view, { mode: "follow", step: 0, loop: false });
    this.index = Math.max(0, (this.records?.count ?? 0) - 1);
    this.report("step", null);
    this.changed = true;
  }

  goTo(step) {
    if (this.records?.count) this.goToIndex(this.records.indexOf(step));
  }

  goToIndex(index) {
    const i = clamp(index, 0, this.records.count - 1);
    if (i === this.records.count - 1) this.follow();
    else this.hold(this.records.step(i));
  }

  pickEdge(kind, index) {
    this.edge = { kind, index };
    this.report("edge", this.edgeName(kind, index));
    this.touch();
  }

  /** Ask the page to give the search an order; the answer comes as an event of the run. */
  order(order) {
    this.asked = { ...order, after: this.story.events.length };
    this.send("order", { ...order, nonce: Date.now() });
    this.changed = true;
  }

  setCell(cell) {
    this.cell = cell;
    if (cell !== "both" && this.edge.kind !== cell) {
      this.edge = { kind: cell, index: Math.min(this.edge.index, this.data.cells[cell].edges.length - 1) };
    }
    this.report("cell", cell);
    this.touch();
  }

  setShow(show) {
    this.chosenShow = show;
    this.report("show", show);
    this.touch();
  }

  /** Light one operation in every panel; null goes back to the pinned one, or to all. */
  point(op) {
    const lit = op ?? this.pinned;
    if (lit === this.op) return;
    this.op = lit;
    this.root.classList.toggle("db-pointing", lit !== null);
    this.cells.highlight(lit);
    this.legend.set(lit, this.pinned);
    for (const chart of [this.edgeChart, ...this.charts]) chart.point(lit);
    this.changed = true;
  }

  pin(op) {
    this.pinned = this.pinned === op ? null : op;
    this.op = undefined;
    this.point(this.pinned);
  }

  toggleTable() {
    this.table.el.hidden = !this.table.el.hidden;
    this.changed = true;
    if (this.table.el.hidden) return;
    this.table.update();
    this.table.el.scrollIntoView({ block: "nearest" });
    this.table.focus();
  }

  saveSvg() {
    const blob = new Blob([this.cells.svg()], { type: "image/svg+xml" });
    const step = this.records?.count ? this.records.step(this.index) : 0;
    const link = make("a", {
      href: URL.createObjectURL(blob),
      download: `${this.run}-${this.kindsShown[0]}-step${step}.svg`,
    });
    link.click();
    URL.revokeObjectURL(link.href);
  }

  key(event) {
    const within = (selector) => Boolean(event.target.closest?.(selector));
    const typing = within(
      "input:not([type=range]), textarea, select, [contenteditable], [role=dialog], [role=tab], [role=listbox]",
    );
    if (event.ctrlKey || event.metaKey || event.altKey || typing || !this.records?.count) return;
    const acts = {
      " ": () => this.togglePlay(),
      ArrowLeft: () => this.goToIndex(this.index - 1),
      ArrowRight: () => this.goToIndex(this.index + 1),
      l: () => this.follow(),
      t: () => this.toggleTable(),
    };
    const name = event.key.length === 1 ? event.key.toLowerCase() : event.key;
    const theirs =
      name === " " ? within("button, a, summary, [role=button], [role=slider]") : within("[type=range], [role=slider]");
    if (!acts[name] || (theirs && name !== "l" && name !== "t")) return; // the focused control has this key itself
    event.preventDefault();
    acts[name]();
  }

  /** Tell Python what was picked, a moment later and only the newest: it goes into the address of the page. */
  report(name, value) {
    this.pending[name] = value;
    clearTimeout(this.reporting);
    this.reporting = setTimeout(() => {
      const pending = this.pending;
      this.pending = {};
      for (const [key, picked] of Object.entries(pending)) this.tell(key, picked);
    }, 350);
  }

  // Drawing ---------------------------------------------------------------------------------------------------

  frame(now) {
    if (!this.alive) return;
    if (!this.root.isConnected) return this.destroy();
    if (this.painted && !this.askedForCharts) this.loadCharts();
    this.painted = this.records !== null;
    this.advance(now);
    this.lookNowAndThen(now);
    if (this.changed) this.draw(now);
    this.drawOneChart(now);
    this.root.dataset.age = this.age.toFixed(2);
    this.lastFrame = now;
    requestAnimationFrame((next) => this.frame(next));
  }

  /** Once the cell is on the screen: the library of the charts keeps a browser busy for half a second. */
  loadCharts() {
    this.askedForCharts = true;
    loadPlotly(this.data.plotly).then(
      (Plotly) => (this.Plotly = Plotly),
      () => this.root.classList.add("db-nocharts"),
    );
  }

  /** Which record is shown now: the newest, the held one, or where the replay has come to. */
  advance(now) {
    const { records, view } = this;
    if (!records?.count) return;
    const before = this.index;
    if (view.mode === "play") this.advanceReplay(now);
    this.index = view.mode === "follow" ? records.count - 1 : records.indexOf(view.step);
    if (this.index !== before) this.changed = true;
  }

  advanceReplay(now) {
    const { records, view } = this;
    const pace = this.story.pace ?? (this.status.rate || 10);
    const seconds = Math.min(0.1, (now - this.lastFrame) / 1000);
    this.playAt = Math.max(this.playAt, records.step(0)) + seconds * pace * view.speed;
    view.step = Math.floor(this.playAt);
    if (view.step < records.lastStep) return;
    if (view.loop) this.playAt = records.step(0);
    else this.follow();
  }

  /** Things that change without data: elapsed times, slowness, the theme. */
  lookNowAndThen(now) {
    if (now - this.lastSlowLook < 250) return;
    this.lastSlowLook = now;
    this.cells.start.update(this);
    this.statusLine.update(this);
    this.root.dataset.slow = this.slow;
    if (this.themeText() !== this.theme.text) {
      this.theme = this.readTheme();
      this.touch();
    }
  }

  draw(now) {
    this.changed = false;
    const tween = this.view.mode === "follow" ? clamp(now - (this.lastDraw ?? 0), 80, 240) : 0;
    this.lastDraw = now;
    this.cells.update(tween);
    if (!this.data.fixed) {
      this.edgeCard.update();
      this.heat.update();
    }
    this.table.update();
    this.outcome.update();
    this.transport.update();
    this.cells.start.update(this);
    this.statusLine.update(this);
    this.updateMeter();
    this.truth.update(this.lastMeasured.epoch);
    for (const chart of [this.edgeChart, ...this.charts]) chart.moveCursor();
    const data = this.root.dataset;
    data.step = this.records?.lastStep ?? 0;
    data.shown = this.records?.count ? this.records.step(this.index) : 0;
    data.state = this.stateName;
  }

  updateMeter() {
    const { collapse } = this.data;
    if (!collapse) return;
    const now = collapseOf(this.data.cells[collapse.kind], this.mix(collapse.kind), collapse.op);
    this.meter.el.hidden = !this.records?.count;
    this.meter.update(now, collapse.levels[Math.min(now.skips, collapse.levels.length - 1)], this);
  }

  /** The chart that waited longest, if one is due: one per frame, so that no frame is long. */
  drawOneChart(now) {
    if (!this.Plotly || !this.records?.count) return;
    const due = [...(this.data.fixed ? [] : [this.edgeChart]), ...this.charts].filter(
      (chart) => chart.dirty && now - chart.drawnAt > CHARTS_EVERY && chart.isDue(now),
    );
    const chart = due.sort((a, b) => a.drawnAt - b.drawnAt)[0];
    if (!chart) return;
    const isEdge = chart === this.edgeChart;
    const other = Object.keys(this.data.cells).find((kind) => kind !== this.kind);
    const kind = isEdge ? this.edge.kind : chart === this.otherShares ? other : this.kind;
    const columns = COST_NAMES.includes(chart.name)
      ? costColumns(this.records, this.data.cells, this.data.costs)
      : columnsOf(this.records, this.story, this.data.cells[kind], kind, isEdge ? this.edge.index : 0);
    if (this.otherShares && chart.name.startsWith("shares")) chart.rename(`Share of each operation, ${kind} cell`);
    const empty = chart.template.data.every((trace) => !columns[trace.meta.column]?.some((y) => y !== null));
    chart.card.hidden = empty;
    if (empty) chart.dirty = false;
    else chart.draw(this.Plotly, columns, this.story.marks, this.theme);
    chart.moveCursor();
    if (chart === this.charts[0]) this.transport.setTicks();
  }

  themeText() {
    const style = getComputedStyle(this.root);
    const names = ["--st-text-color", "--st-background-color", "--st-border-color", "--st-font"];
    return names.map((name) => style.getPropertyValue(name).trim()).join("|");
  }

  readTheme() {
    const text = this.themeText();
    const [ink, ground, line, font] = text.split("|");
    const paper = ground || "#ffffff";
    const black = ink || "#262730";
    return {
      text,
      ink: black,
      ground: paper,
      line: line || "#c9ccd3",
      font: font || "sans-serif",
      muted: blended(black, paper, 0.76),
      veil: blended(paper, paper, 1).replace("rgb", "rgba").replace(")", ", 0.7)"), // lets curves through under a label
    };
  }

  destroy() {
    this.alive = false;
    this.feed?.stop();
    clearTimeout(this.reporting);
    document.removeEventListener("keydown", this.onKey);
    removeEventListener("click", this.onLeave, true);
    this.cells.destroy();
    for (const chart of [this.edgeChart, ...this.charts]) chart.destroy();
  }
}

// The component

export default function ({ data: [data], parentElement, setStateValue, setTriggerValue }) {
  const root = parentElement.querySelector(".darts-board");
  if (root.board?.run === data.run && root.board.alive) {
    Object.assign(root.board, { tell: setStateValue, send: setTriggerValue });
    root.board.receive(data);
  } else {
    root.board?.destroy();
    root.board = new Board(root, data, setStateValue, setTriggerValue);
  }
  return () => {
    if (!root.isConnected) root.board?.destroy();
  };
}
