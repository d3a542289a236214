/* The live board: a run as it happens, in one element that keeps its own state.

   Streamlit calls the function exported at the end again at every rerun, on the same element. History comes once as a
   binary block, then server-sent events; records lie in one growing typed array, nothing is kept as an object per step.
   The ribbons move on every animation frame, the charts at most every 450 ms and one per frame. `mountRibbon` comes
   from darts_core/view/ribbon.js, which stands before this text. Sections: 1 small helpers, 2 records, 3 tables,
   4 events, 5 feed, 6 charts, 7 panels, 8 the board, 9 the component. */

const CHARTS_EVERY = 450; // milliseconds between two drawings of one chart
const POINTS = 300; // at most this many points per trace, as in darts_core/view/tables.py
const WINDOWS = 40; // a running mean reaches over a fortieth of what is shown
const SLOW = 2; // seconds without a new step from which the board says so
const LONG_START = 15; // seconds of starting from which the board points to the log
const KEEP_BYTES = 24e6; // beyond this, every second record is let go
const RETRY = 1000; // milliseconds before the next try to connect
const STALE = { finished: 1, stopped: 1, failed: 1, interrupted: 1, corrupt: 1 }; // states in which nothing more comes
const QUIET = ["pause", "resume", "step", "checkpoint"]; // orders that change nothing in the search
const CHART_NAMES = ["shares", "loss", "accuracy", "entropy", "eigenvalue"];
const SPEEDS = [1, 2, 5, 10, 20, 60];

// ------------------------------------------------------------------------------------------------ 1 small helpers

/** An HTML element with attributes ("class", "aria-label", onclick...) and children (nodes or text). */
function make(tag, attributes = {}, ...children) {
  const node = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (name.startsWith("on")) node.addEventListener(name.slice(2), value);
    else if (value !== null && value !== undefined && value !== false) node.setAttribute(name, value);
  }
  node.append(...children);
  return node;
}

/** Set text only where it changed: an unchanged text node costs no layout and no announcement. */
function say(node, text) {
  if (node.textContent !== text) node.textContent = text;
}

const percent = (part, digits = 0) => `${(100 * part).toFixed(digits)} %`;

/** A setting's value in few characters (0.01, 3e-5), as darts_core/view/tables.py writes it. */
function short(value) {
  if (typeof value !== "number") return value === null ? "none" : String(value);
  if (value !== 0 && Math.abs(value) < 1e-4) return Number(value.toPrecision(6)).toExponential();
  return String(Number(value.toPrecision(6)));
}

/** Seconds for people: "8 s", "2 min 5 s", "1 h 4 min". */
function duration(seconds) {
  const s = Math.max(0, Math.round(seconds));
  if (s < 60) return `${s} s`;
  if (s < 3600) return s % 60 ? `${Math.floor(s / 60)} min ${s % 60} s` : `${s / 60} min`;
  return `${Math.floor(s / 3600)} h ${Math.floor((s % 3600) / 60)} min`;
}

/** A state's name with its subscript set low: c_{k-2}. */
function stateNodes(name) {
  const found = /^c_\{(.+)\}$/.exec(name);
  return found ? ["c", make("sub", {}, found[1].replace("-", "\u2212"))] : [name];
}

const clamp = (value, low, high) => Math.min(high, Math.max(low, value));

/** Two CSS colours mixed, as rgb() text: Plotly knows no color-mix. */
function blended(over, under, part) {
  const pen = document.createElement("canvas").getContext("2d", { willReadFrequently: true });
  for (const [colour, alpha] of [[under, 1], [over, part]]) {
    pen.globalAlpha = alpha;
    pen.fillStyle = colour;
    pen.fillRect(0, 0, 1, 1);
  }
  return `rgb(${[...pen.getImageData(0, 0, 1, 1).data].slice(0, 3).join(", ")})`;
}

function bytesOfBase64(text) {
  if (Uint8Array.fromBase64) return Uint8Array.fromBase64(text);
  return Uint8Array.from(atob(text), (character) => character.charCodeAt(0));
}

/** Split a history block: u32 length, JSON, raw records from a multiple of 4 on. */
function readBlock(bytes) {
  const length = new DataView(bytes.buffer, bytes.byteOffset).getUint32(0, true);
  const head = JSON.parse(new TextDecoder().decode(bytes.subarray(4, 4 + length)));
  const from = 4 + length;
  return { head, records: bytes.subarray(from, from + head.count * head.record_bytes) };
}

// ------------------------------------------------------------------------------------------------------- 2 records

/** Steps as they lie in steps.bin, record after record, in one buffer that doubles when it is full. Checksums were
    looked at by the server, which reads the file. */
class Records {
  constructor(layout, recordBytes) {
    this.bytes = recordBytes;
    this.words = recordBytes / 4;
    this.count = 0;
    this.metricAt = Object.fromEntries(layout.metrics.map((name, i) => [name, 3 + i]));
    this.tensorAt = {};
    let at = 3 + layout.metrics.length;
    for (const [name, shape] of layout.tensors) {
      const size = shape.reduce((product, n) => product * n, 1);
      this.tensorAt[name] = [at, size];
      at += size;
    }
    this.view(new ArrayBuffer(recordBytes * 256));
  }

  view(buffer) {
    this.u8 = new Uint8Array(buffer);
    this.u32 = new Uint32Array(buffer);
    this.u16 = new Uint16Array(buffer);
    this.f32 = new Float32Array(buffer);
  }

  step(i) {
    return this.u32[i * this.words];
  }
  epoch(i) {
    return this.u16[i * this.words * 2 + 2];
  }
  metric(name, i) {
    return this.f32[i * this.words + this.metricAt[name]];
  }
  /** The numbers of a tensor in record i, row by row: a view, not a copy. */
  tensor(name, i) {
    const [at, size] = this.tensorAt[name];
    return this.f32.subarray(i * this.words + at, i * this.words + at + size);
  }
  get lastStep() {
    return this.count ? this.step(this.count - 1) : 0;
  }

  /** Index of the newest record at or before `step`; 0 where there is none. */
  indexOf(step) {
    let low = 0;
    let high = this.count - 1;
    while (low < high) {
      const middle = (low + high + 1) >> 1;
      if (this.step(middle) <= step) low = middle;
      else high = middle - 1;
    }
    return low;
  }

  /** Take raw records. One that is there already is passed over; one that differs replaces all from its step on (a
      resumed run that could not be repeated exactly). Returns the index from which records are new. */
  append(raw) {
    let from = this.count;
    for (let at = 0; at + this.bytes <= raw.length; at += this.bytes) {
      const record = raw.subarray(at, at + this.bytes);
      const step = new DataView(record.buffer, record.byteOffset).getUint32(0, true);
      if (this.count && step <= this.lastStep) {
        const i = this.indexOf(step);
        if (this.step(i) !== step || this.equals(i, record)) continue;
        this.count = i;
        from = Math.min(from, i);
      }
      this.push(record);
    }
    return this.count * this.bytes > KEEP_BYTES ? this.halve() : from;
  }

  equals(i, record) {
    const at = i * this.bytes;
    return record.every((byte, k) => byte === this.u8[at + k]);
  }

  push(record) {
    if ((this.count + 1) * this.bytes > this.u8.length) {
      const larger = new ArrayBuffer(this.u8.length * 2);
      new Uint8Array(larger).set(this.u8);
      this.view(larger);
    }
    this.u8.set(record, this.count * this.bytes);
    this.count += 1;
  }

  /** Keep every second record, the newest among them. Returns 0: all indices changed. */
  halve() {
    const first = (this.count - 1) % 2;
    let kept = 0;
    for (let i = first; i < this.count; i += 2, kept += 1) {
      this.u8.copyWithin(kept * this.bytes, i * this.bytes, (i + 1) * this.bytes);
    }
    this.count = kept;
    return 0;
  }
}

// -------------------------------------------------------------------------------------------------------- 3 tables
// The same tables as darts_core/derive.py and darts_core/view/tables.py make in Python; tests hold them together.

/** The DARTS rule. Per edge its best operation that is not `none`, and whether derivation keeps the edge: per node the
    `keep` edges whose best operation weighs most, the lower source first among equals. */
function strongest(cell, mix) {
  const n = cell.ops.length;
  const best = new Int8Array(cell.edges.length);
  const kept = new Uint8Array(cell.edges.length);
  for (let e = 0; e < cell.edges.length; e += 1) best[e] = bestOp(cell, mix, e);
  for (let node = 0; node < cell.nodes; node += 1) {
    const into = [];
    for (let e = 0; e < cell.edges.length; e += 1) if (cell.edges[e][1] === cell.inputs + node) into.push(e);
    into.sort((a, b) => mix[b * n + best[b]] - mix[a * n + best[a]]);
    for (const e of cell.keep === null ? into : into.slice(0, cell.keep)) kept[e] = 1;
  }
  return { best, kept };
}

function bestOp(cell, mix, e) {
  const n = cell.ops.length;
  let best = -1;
  for (let o = 0; o < n; o += 1) {
    if (cell.ops[o] === "none") continue;
    const better =
      best < 0 ||
      (cell.legal[e][o] && !cell.legal[e][best]) ||
      (cell.legal[e][o] === cell.legal[e][best] && mix[e * n + o] > mix[e * n + best]);
    if (better) best = o;
  }
  return best;
}

/** Skips among the derived edges, the number of derived edges, and the mean weight of skip over edges that may hold it. */
function collapseOf(cell, mix, skip) {
  const { best, kept } = strongest(cell, mix);
  const n = cell.ops.length;
  const column = cell.ops.indexOf(skip);
  let [skips, edges, weight, may] = [0, 0, 0, 0];
  for (let e = 0; e < cell.edges.length; e += 1) {
    edges += kept[e];
    skips += kept[e] && best[e] === column ? 1 : 0;
    if (!cell.legal[e][column]) continue;
    weight += mix[e * n + column];
    may += 1;
  }
  return { skips, edges, weight: may ? weight / may : 0 };
}

/** At most `most` indices out of `count`, evenly spread, with the first and the last. */
function thin(count, most = POINTS) {
  if (count <= most) return Array.from({ length: count }, (_, i) => i);
  return Array.from({ length: most }, (_, i) => Math.floor((i * (count - 1)) / (most - 1) + 0.5));
}

/** Mean of the last `window` values up to each index in `at`, leaving out what is not a number. */
function runningMean(value, count, window, at) {
  const total = new Float64Array(count + 1);
  const there = new Uint32Array(count + 1);
  for (let i = 0; i < count; i += 1) {
    const v = value(i);
    const counts = Number.isFinite(v);
    total[i + 1] = total[i] + (counts ? v : 0);
    there[i + 1] = there[i] + (counts ? 1 : 0);
  }
  return at.map((i) => {
    const first = Math.max(0, i + 1 - window);
    const n = there[i + 1] - there[first];
    return n ? (total[i + 1] - total[first]) / n : null;
  });
}

/** Every column that a figure may name, thinned. */
function columnsOf(records, story, cell, kind, edge) {
  const at = thin(records.count);
  const window = Math.max(1, Math.ceil(records.count / WINDOWS));
  const finite = (value) => (Number.isFinite(value) ? value : null);
  const table = { step: at.map((i) => records.step(i)) };
  for (const name of Object.keys(records.metricAt)) {
    table[`metric:${name}`] = at.map((i) => finite(records.metric(name, i)));
    table[`smooth:${name}`] = runningMean((i) => records.metric(name, i), records.count, window, at);
  }
  const n = cell.ops.length;
  const rows = at.map((i) => records.tensor(`mix.${kind}`, i));
  const byOp = rows.map((mix) => shares(mix, cell.edges.length, n));
  cell.ops.forEach((op, o) => {
    table[`share:${op}`] = byOp.map((row) => row[o]);
    table[`edge:${op}`] = rows.map((mix) => mix[edge * n + o]);
  });
  return Object.assign(table, story.probes);
}

/** What part of all edges each operation has; a row that sums to more than one counts as one. */
function shares(mix, edges, n) {
  const part = new Array(n).fill(0);
  for (let e = 0; e < edges; e += 1) {
    let whole = 0;
    for (let o = 0; o < n; o += 1) whole += mix[e * n + o];
    for (let o = 0; o < n; o += 1) part[o] += mix[e * n + o] / Math.max(1, whole) / edges;
  }
  return part;
}

// -------------------------------------------------------------------------------------------------------- 4 events

/** What the events add up to: marks on the charts, probes, start-up phases, trainings, the end. */
class Story {
  constructor() {
    this.events = [];
    this.read([]);
  }

  add(events) {
    const known = new Set(this.events.map((event) => event.n));
    this.events.push(...events.filter((event) => event.n === undefined || !known.has(event.n)));
    this.read(this.events);
  }

  read(events) {
    const of = (type) => events.filter((event) => event.type === type);
    this.marks = events.map(markOf).filter(Boolean).sort((a, b) => a.step - b.step);
    this.epochs = of("epoch");
    this.probes = probesOf(this.epochs);
    this.phases = phasesOf(events);
    this.trained = of("trained");
    this.result = of("result").at(-1) ?? null;
    this.resumed = of("resumed").at(-1) ?? null;
    this.totalSteps = of("phase").findLast((event) => event.total_steps)?.total_steps ?? null;
    this.pace = paceOf(this.epochs);
  }
}

/** A line on every chart: {step, text, kind} with kind "edit", "alarm" or "rewind"; null for what changes nothing. */
function markOf(event) {
  if (event.type === "applied" && event.accepted && !QUIET.includes(event.kind)) {
    const what = event.kind === "set" ? `${event.name} = ${short(event.value)}` : event.kind;
    return { step: event.step, text: `${what} at step ${event.step}`, kind: "edit" };
  }
  if (event.type === "alarm") return { step: event.step, text: `${event.level} at step ${event.step}`, kind: "alarm" };
  if (event.type === "rewound") {
    return { step: event.step, text: `back to epoch ${event.to_epoch} at step ${event.step}`, kind: "rewind" };
  }
  return null;
}

function probesOf(epochs) {
  const names = new Set(epochs.flatMap((event) => Object.keys(event.probes)));
  const table = { probe_step: epochs.map((event) => event.step) };
  for (const name of names) table[`probe:${name}`] = epochs.map((event) => event.probes[name] ?? null);
  return table;
}

/** The phases since the process last started, each {name, message, time}. */
function phasesOf(events) {
  const phases = events.filter((event) => event.type === "phase");
  const start = phases.findLastIndex((event) => event.name === "process");
  return phases.slice(Math.max(0, start));
}

/** Steps per second at which the search ran, by the ends of its epochs; null before the second one. */
function paceOf(epochs) {
  const seconds = epochs.slice(1).reduce((sum, event) => sum + event.seconds, 0);
  return seconds > 0 ? (epochs.at(-1).step - epochs[0].step) / seconds : null;
}

// ---------------------------------------------------------------------------------------------------------- 5 feed

/** Brings history and stream to the board, and comes back by itself when the server goes away. */
class Feed {
  constructor(base, run, board) {
    Object.assign(this, { base, run, board, position: null, source: null, timer: 0, stopped: false, ended: false });
  }

  get path() {
    return `${this.base}/runs/${encodeURIComponent(this.run)}`;
  }

  start() {
    this.ended = false;
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

  /** Where the search was resumed after its end, listen again. */
  wake() {
    if (this.ended && !this.stopped) this.start();
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
    source.onopen = () => this.board.takeLink("live");
    on("steps", (data) => this.board.takeSteps(bytesOfBase64(data)));
    on("events", (data) => this.board.takeEvents(JSON.parse(data)));
    on("status", (data) => this.board.takeStatus(JSON.parse(data)));
    on("reset", () => this.restart());
    on("end", () => this.end());
    source.onerror = () => this.source === source && this.again("");
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
  }

  again(why) {
    this.close();
    if (this.stopped) return;
    this.board.takeLink("down", why);
    this.timer = setTimeout(() => this.start(), RETRY);
  }
}

/** The server answered, but not with a run; its text is one sentence for people. */
class Refused extends Error {
  constructor(status, text) {
    const sentence = text.trim().split("\n")[0];
    super(status >= 500 || sentence.length > 300 || sentence.startsWith("<") ? `The server answered ${status}.` : sentence);
  }
}

// -------------------------------------------------------------------------------------------------------- 6 charts

let plotlyLoading = null;

/** plotly.js once per page, from our own server. */
function loadPlotly(url) {
  if (window.Plotly) return Promise.resolve(window.Plotly);
  plotlyLoading ??= new Promise((resolve, reject) => {
    const script = make("script", { src: url });
    script.onload = () => resolve(window.Plotly);
    script.onerror = () => {
      plotlyLoading = null;
      script.remove();
      reject(new Error("plotly.js"));
    };
    document.head.append(script);
  });
  return plotlyLoading;
}

/** One Plotly figure in a card, filled from a template of darts_core/view/figures.py. */
class Chart {
  constructor(name, template, board) {
    Object.assign(this, { name, template, board, drawnAt: -1e9, dirty: true, plotted: false });
    this.plot = make("div", { class: "db-plot" });
    this.cursor = make("div", { class: "db-cursor", hidden: "" });
    this.box = make("div", { class: "db-plotbox db-waiting", role: "img", "aria-label": template.layout.title.text }, this.plot, this.cursor);
    this.head = make("h3", {}, template.layout.title.text);
    this.about = make("p", { class: "db-about" }, template.layout.meta.about);
    this.card = make("section", { class: "db-card", "data-chart": name }, this.head, this.about, this.box);
  }

  draw(Plotly, columns, marks, theme) {
    const { data, layout } = this.fill(columns, marks, theme);
    Plotly.react(this.plot, data, layout, { displayModeBar: false, doubleClick: "reset+autosize" });
    if (!this.plotted) this.listen(Plotly);
    this.dirty = false;
    this.drawnAt = performance.now();
    this.point(this.board.op);
  }

  fill(columns, marks, theme) {
    const data = this.template.data.map((trace) => ({
      ...trace,
      x: columns[trace.meta.x] ?? [],
      y: columns[trace.meta.column] ?? [],
      ...(trace.meta.ink ? inked(trace, theme) : {}),
    }));
    const { title, ...layout } = this.template.layout;
    const labels = endLabels(data, theme);
    const axis = { gridcolor: theme.line, zerolinecolor: theme.line, linecolor: theme.line };
    return {
      data,
      layout: {
        ...layout,
        xaxis: { ...layout.xaxis, ...axis, title: { text: "step", standoff: 4, font: { size: 11.5 } }, nticks: 6 },
        yaxis: { ...layout.yaxis, ...axis, nticks: 6 },
        font: { color: theme.ink, family: theme.font, size: 11.5 },
        margin: { l: 46, r: 14 + 5.8 * Math.max(0, ...labels.map((label) => label.text.length)), t: 8, b: 36 },
        height: 232,
        uirevision: this.board.run,
        hoverlabel: { bgcolor: theme.ground, bordercolor: theme.line, font: { color: theme.ink } },
        shapes: marks.map((mark) => markLine(mark, theme)),
        annotations: [...markLabels(marks, columns.step, layout.meta.labels, theme), ...labels],
      },
    };
  }

  listen(Plotly) {
    this.plotted = true;
    this.box.classList.remove("db-waiting");
    this.plot.on("plotly_hover", (event) => this.board.point(event.points[0]?.data.meta.op ?? null));
    this.plot.on("plotly_unhover", () => this.board.point(null));
    this.plot.on("plotly_click", (event) => this.board.goTo(event.points[0].x));
    this.plot.on("plotly_relayout", () => this.moveCursor());
    this.resizing = new ResizeObserver(() => this.plot.isConnected && Plotly.Plots.resize(this.plot));
    this.resizing.observe(this.box);
  }

  /** A thin line at the step that is shown; moved by style alone, so that scrubbing redraws no chart. */
  moveCursor() {
    const step = this.board.heldStep;
    const axis = this.plot._fullLayout?.xaxis;
    const at = step && axis?.l2p ? axis.l2p(step) : -1;
    this.cursor.hidden = !(step && axis && at >= 0 && at <= axis._length);
    if (!this.cursor.hidden) this.cursor.style.transform = `translateX(${axis._offset + at}px)`;
  }

  /** Dim every trace but that of one operation. Plotly puts the area of a stacked trace into the group of the trace below
      it, so areas are found by their order. */
  point(op) {
    const areas = this.plot.querySelectorAll(".js-fill");
    this.template.data.forEach((trace, i) => {
      const lines = this.plot.querySelector(`.trace${CSS.escape(trace.uid)} > .lines`);
      for (const node of [lines, areas[i]]) {
        node?.classList.toggle("db-dim", Boolean(op && trace.meta.op && trace.meta.op !== op));
      }
    });
  }

  destroy() {
    this.resizing?.disconnect();
    if (this.plotted) window.Plotly?.purge(this.plot);
  }
}

function inked(trace, theme) {
  return {
    line: { ...trace.line, color: theme.ink },
    ...(trace.marker ? { marker: { ...trace.marker, color: theme.ink } } : {}),
  };
}

/** Names at the right end of the strongest lines (of all lines, where there are two): colour is never the only sign. */
function endLabels(data, theme) {
  const stacked = data[0].stackgroup !== undefined;
  const named = data.filter((trace) => trace.hoverinfo !== "skip" && trace.y.some((y) => y !== null));
  if (named.length < 2) return [];
  const last = (trace) => trace.y.findLast((y) => y !== null);
  let below = 0;
  const ends = named.map((trace) => {
    const y = stacked ? below + last(trace) / 2 : last(trace);
    below += last(trace);
    return { name: trace.name, y, weight: last(trace) };
  });
  const values = named.flatMap((trace) => trace.y).filter((y) => y !== null);
  const [low, high] = stacked ? [0, 1] : [Math.min(...values), Math.max(...values)];
  const shown = ends.sort((a, b) => b.weight - a.weight).slice(0, 4).sort((a, b) => a.y - b.y);
  const gap = (high - low || 1) * 0.085;
  for (let i = 1; i < shown.length; i += 1) shown[i].y = Math.max(shown[i].y, shown[i - 1].y + gap);
  const over = shown.at(-1).y - high;
  if (over > 0) for (const end of shown) end.y -= over;
  return shown.map(({ name, y }) => ({
    x: 1, xref: "paper", xanchor: "left", xshift: 4, y, yanchor: "middle", text: name, showarrow: false,
    font: { size: 10.5, color: theme.ink },
  }));
}

function markLine(mark, theme) {
  const line = { color: theme.muted, width: 1.3, dash: "dash" };
  return { type: "line", x0: mark.step, x1: mark.step, yref: "paper", y0: 0, y1: 1, line, name: mark.text };
}

/** Labels of the marks, edits first; one that would cover another is left out (its line is there, its text on the scrubber). */
function markLabels(marks, steps, side, theme) {
  const near = ((steps.at(-1) ?? 0) - (steps[0] ?? 0)) * 0.06;
  const taken = [];
  return [...marks].sort((a, b) => (b.kind === "edit") - (a.kind === "edit")).flatMap((mark) => {
    if (taken.some((step) => Math.abs(step - mark.step) < near)) return [];
    taken.push(mark.step);
    return {
      x: mark.step, yref: "paper", y: side === "top" ? 1 : 0, text: mark.text, textangle: -90, showarrow: false,
      xanchor: "right", yanchor: side, font: { size: 10, color: theme.muted }, bgcolor: theme.veil,
    };
  });
}

// -------------------------------------------------------------------------------------------------------- 7 panels

/** Buttons of which one is on. `choices`: [[value, text], ...] */
function segmented(label, choices, choose) {
  const buttons = choices.map(([value, text]) =>
    make("button", { type: "button", class: "db-seg", "data-value": value, onclick: () => choose(value) }, text),
  );
  const el = make("div", { class: "db-segments", role: "group", "aria-label": label }, ...buttons);
  const set = (value) => buttons.forEach((b) => b.setAttribute("aria-pressed", String(b.dataset.value === value)));
  return { el, set };
}

/** Play, follow, scrubber with its ticks, speed, position and connection. */
function transportPanel(board) {
  const play = make("button", { type: "button", class: "db-button db-play", onclick: () => board.togglePlay() });
  const follow = make("button", { type: "button", class: "db-button db-follow", onclick: () => board.follow() });
  const range = make("input", {
    type: "range", min: 0, max: 0, value: 0, step: 1, class: "db-range", "aria-label": "Step shown",
    oninput: () => board.goToIndex(Number(range.value)),
  });
  const ticks = make("div", { class: "db-ticks", "aria-hidden": "true" });
  const speed = make(
    "select",
    { class: "db-speed", "aria-label": "Replay speed", title: "Replay speed: 1x is as fast as it was searched",
      onchange: () => (board.view.speed = Number(speed.value)) },
    ...SPEEDS.map((s) => make("option", { value: s }, `${s}x`)),
  );
  const position = make("output", { class: "db-position" });
  const dot = make("i", { class: "db-dot" });
  const linkText = make("span");
  const link = make("span", { class: "db-link" }, dot, linkText);
  const el = make(
    "div", { class: "db-transport" }, play, follow, make("div", { class: "db-scrub" }, ticks, range), speed, position, link,
  );

  /** After data came or the view changed. */
  function update() {
    const { records, view, live } = board;
    const n = records?.count ?? 0;
    range.max = Math.max(0, n - 1);
    range.disabled = n < 2;
    range.value = board.index;
    const moving = board.moving;
    say(play, moving ? "\u275A\u275A Pause view" : "\u25B6 Play");
    play.disabled = n < 2;
    play.title = moving ? "Hold the picture; a running search goes on (Space)" : "Replay from here (Space)";
    say(follow, live ? "Follow live" : "Go to the end");
    follow.title = live ? "Show every new step as it comes (L)" : "Show the last step (L)";
    follow.disabled = n < 2 || view.mode === "follow";
    speed.value = String(view.speed);
    const text = n ? positionText(board) : "no steps yet";
    say(position, text);
    range.setAttribute("aria-valuetext", text);
  }

  function setLink(state, why) {
    const words = { waiting: "connecting", live: "live", down: "disconnected, trying again", ended: "complete", page: "through the page" };
    link.dataset.state = state;
    link.title = why ?? "";
    say(linkText, words[state]);
  }

  /** Marks above the scrubber: edits, alarms, and where the derived cell changed. */
  function setTicks() {
    const { records, story } = board;
    const n = records?.count ?? 0;
    if (n < 2) return ticks.replaceChildren();
    const place = (step) => `${(100 * records.indexOf(step)) / (n - 1)}%`;
    const nodes = board.changeSteps().map((step) => make("i", { class: "db-tick db-change", style: `left:${place(step)}` }));
    for (const mark of story.marks) {
      nodes.push(make("i", { class: `db-tick db-${mark.kind}`, style: `left:${place(mark.step)}`, title: mark.text }));
    }
    ticks.replaceChildren(...nodes);
  }

  return { el, update, setLink, setTicks };
}

function positionText(board) {
  const { records, index } = board;
  const total = board.totalSteps;
  const of = total ? ` of ${total}` : "";
  return `step ${records.step(index)}${of}, epoch ${records.epoch(index) + 1}${board.data.epochs ? ` of ${board.data.epochs}` : ""}`;
}

/** The state of the run in a chip and a sentence. */
function statusPanel() {
  const chip = make("span", { class: "db-chip" });
  const line = make("span", { class: "db-line" });
  const edited = make("span", { class: "db-chip db-edited", hidden: "", title: "Settings were changed while it ran" }, "edited");
  const el = make("div", { class: "db-status" }, chip, line, edited);
  return {
    el,
    update(board) {
      say(chip, board.stateName);
      chip.dataset.state = board.stateName;
      say(line, statusSentence(board));
      edited.hidden = !board.status.edited;
    },
  };
}

function statusSentence(board) {
  const { status, records, view } = board;
  const state = board.stateName;
  const held = view.mode === "hold" && board.live ? " Your view is held; the search goes on." : "";
  if (board.link === "down" && !records) return board.linkWhy || "The server cannot be reached; trying again.";
  if (state === "starting") return records?.count ? "The process is starting again; it goes on from its last checkpoint." : "The first steps appear here by themselves.";
  if (state === "running") return runningSentence(board) + held;
  if (state === "paused") return `Paused at step ${records?.lastStep ?? status.step}: nothing is lost, resume it when you like.`;
  if (state === "finished") return `Finished after ${records?.lastStep ?? status.step} steps.`;
  if (state === "stopped") return `Stopped by request at step ${records?.lastStep ?? status.step}; this is the cell it had by then.`;
  if (state === "interrupted") {
    return status.message || `The process ended at step ${status.step}; resume it to go on from its last checkpoint.`;
  }
  if (state === "failed" || state === "corrupt") return status.message || "The run ended by a fault.";
  return "";
}

function runningSentence(board) {
  const { status, story, records } = board;
  const phase = story.phases.at(-1);
  if (phase?.name === "evaluate") return phase.message || "Training the derived cell to see what it is worth.";
  if (board.slow) return `Last update ${Math.floor(board.age)} s ago.`;
  const rate = status.rate ? `${status.rate.toFixed(status.rate < 10 ? 1 : 0)} steps/s` : "searching";
  const left = status.rate && board.totalSteps ? (board.totalSteps - (records?.lastStep ?? 0)) / status.rate : 0;
  return left > 0 ? `${rate}, about ${duration(left)} left.` : `${rate}.`;
}

/** How far the cell has gone toward skips: squares, numbers, a word. Announced when the word changes. */
function meterPanel() {
  const squares = make("span", { class: "db-squares", "aria-hidden": "true" });
  const text = make("span", { class: "db-meter-text" });
  const level = make("b", { class: "db-level" });
  const why = make("span", { class: "db-about" });
  const status = make("span", { class: "db-heard", role: "status" });
  const el = make("div", { class: "db-meter" }, make("span", { class: "db-meter-name" }, "Collapse meter"), squares, text, level, why, status);
  const meaning = {
    healthy: "Few of the edges that derivation would keep are skips.",
    drifting: "Skips are taking over the edges that derivation would keep.",
    collapsed: "Nearly every edge that derivation would keep only passes its input on: little is left to learn with.",
  };
  return {
    el,
    update({ skips, edges, weight }, word) {
      if (squares.childElementCount !== edges) squares.replaceChildren(...Array.from({ length: edges }, () => make("i")));
      [...squares.children].forEach((square, i) => square.classList.toggle("db-skip", i < skips));
      say(text, `${skips} of ${edges} derived edges are skip, mean skip weight ${percent(weight)}, `);
      say(why, meaning[word] ?? "");
      if (level.textContent === word) return;
      say(level, word);
      level.dataset.level = word;
      say(status, `${text.textContent}${word}`);
    },
  };
}

/** Names of the operations with their colours: point at one to see it everywhere, press to keep it lit. */
function legendPanel(board) {
  const el = make("div", { class: "db-legend", role: "group", "aria-label": "Operations" });
  const ops = [...new Set(Object.values(board.data.cells).flatMap((cell) => cell.ops))];
  const buttons = ops.map((op) =>
    make(
      "button",
      {
        type: "button", class: "db-op", "data-op": op, title: board.data.meanings[op] ?? "", "aria-pressed": "false",
        onpointerenter: () => board.point(op), onpointerleave: () => board.point(null),
        onfocus: () => board.point(op), onblur: () => board.point(null), onclick: () => board.pin(op),
      },
      swatch(board.colour(op)), op,
    ),
  );
  el.append(...buttons);
  const set = (op, pinned) =>
    buttons.forEach((b) => {
      b.classList.toggle("db-dim", Boolean(op) && b.dataset.op !== op);
      b.setAttribute("aria-pressed", String(b.dataset.op === pinned));
    });
  return { el, set };
}

const swatch = (colour) => make("i", { class: "db-swatch", style: `background:${colour}` });

/** The ribbon drawings of the cells shown. */
function cellPanel(board) {
  const kinds = Object.keys(board.data.cells);
  const choices = [...kinds.map((kind) => [kind, kind]), ["both", "both"]];
  const cell = segmented("Cell", choices, (value) => board.setCell(value));
  const show = segmented("Edges", [["all", "all edges"], ["derived", "derived"]], (value) => board.setShow(value));
  const save = make(
    "button", { type: "button", class: "db-button", title: "Save this picture as an SVG file", onclick: () => board.saveSvg() }, "SVG",
  );
  cell.el.hidden = kinds.length < 2;
  const drawings = Object.fromEntries(kinds.map((kind) => [kind, drawing(kind)]));
  const start = startPanel();
  const el = make(
    "section", { class: "db-card db-cell" },
    make("div", { class: "db-cardhead" }, make("h3", {}, "The cell"), cell.el, show.el, save),
    board.legend.el,
    make("div", { class: "db-drawings" }, ...kinds.map((kind) => drawings[kind].el), start.el),
    make("p", { class: "db-about" }, caption(board.data.cells[kinds[0]])),
  );

  function drawing(kind) {
    const spec = board.data.cells[kind];
    const host = make("div", { class: "db-ribbon" });
    const ribbon = mountRibbon(host, {
      onEdge: (edge) => board.pickEdge(kind, edge),
      onOp: (op) => board.point(op),
    });
    const title = make("h4", {}, spec.title);
    return { el: make("div", { "data-kind": kind }, title, host), ribbon, title, spec };
  }

  function update(tween) {
    for (const kind of kinds) {
      const { el: box, ribbon, title, spec } = drawings[kind];
      box.hidden = !board.kindsShown.includes(kind);
      if (box.hidden) continue;
      title.hidden = board.cell !== "both";
      const weights = board.mix(kind);
      const kept = board.show === "derived" && board.records?.count ? strongest(spec, weights).kept : null;
      ribbon.update({ ...spec, weights, kept, tween, alt: spec.title });
      ribbon.select(board.edge.kind === kind ? board.edge.index : -1);
    }
    cell.set(board.cell);
    show.set(board.show);
  }

  return {
    el,
    update,
    start,
    highlight: (op) => kinds.forEach((kind) => drawings[kind].ribbon.highlight(op)),
    svg: () => drawings[board.kindsShown[0]].ribbon.svg(),
    destroy: () => kinds.forEach((kind) => drawings[kind].ribbon.destroy()),
  };
}

function caption(cell) {
  const nodes = cell.output.map((state) => cell.states[state].replace("node ", ""));
  const output = nodes.length > 1 ? `nodes ${nodes[0]} to ${nodes.at(-1)} side by side` : `node ${nodes[0]}`;
  return (
    "Data flows from left to right. Each ribbon is an edge; its stripes are the operations mixed on it, as wide as their " +
    `weights. The cell's output is ${output}. Choose an edge to see its numbers.`
  );
}

/** What the process is busy with before the first step, over the resting picture. */
function startPanel() {
  const stages = [
    ["process", "Starting the process"],
    ["torch", "Loading PyTorch"],
    ["data", "Reading the data"],
    ["search", "Making the first step"],
  ];
  const rows = stages.map(([, text]) => {
    const message = make("span", { class: "db-about" });
    const time = make("span", { class: "db-time" });
    return { el: make("li", {}, make("i", { class: "db-stage" }), make("span", {}, text), message, time), message, time };
  });
  const late = make("p", { class: "db-about", hidden: "" }, "This takes longer than usual: look at the log of the run.");
  const el = make(
    "div", { class: "db-start", hidden: "" },
    make("div", {}, make("h4", {}, "The search is starting"), make("ol", {}, ...rows.map((r) => r.el)), late),
  );
  return {
    el,
    update(board) {
      const waiting = !board.records?.count && !STALE[board.stateName];
      el.hidden = !waiting;
      if (!waiting) return;
      const phases = board.story.phases;
      const now = Date.now() / 1000;
      const began = phases[0]?.time ?? board.began / 1000;
      const current = Math.max(0, stages.findIndex(([name]) => name === phases.at(-1)?.name));
      rows.forEach((row, i) => {
        const own = phases.find((phase) => phase.name === stages[i][0]);
        const next = phases.find((phase) => stages.findIndex(([name]) => name === phase.name) > i);
        row.el.dataset.stage = i < current ? "done" : i === current ? "now" : "next";
        say(row.message, own?.message ?? "");
        const since = own?.time ?? (i === 0 ? began : null);
        say(row.time, since === null || i > current ? "" : duration((next?.time ?? now) - since));
      });
      late.hidden = now - began < LONG_START;
    },
  };
}

/** The chosen edge: its weights now, over time, and as the formula that the supernet computes. */
function edgePanel(board, chart) {
  const title = make("h3", {});
  const fate = make("span", { class: "db-chip" });
  const bars = make("div", { class: "db-bars" });
  const terms = make("p", { class: "db-terms" });
  const note = make("p", { class: "db-about" });
  const equation = make("div", { class: "db-equation" });
  let rows = [];
  let shownKey = "";
  const el = make(
    "section", { class: "db-card db-edge" },
    make("div", { class: "db-cardhead" }, title, fate),
    bars,
    make("div", { class: "db-formula" }, equation, terms, note),
    chart.head, chart.about, chart.box,
  );
  el.dataset.chart = "edge";

  function build(spec, kind, edge) {
    const [source, target] = spec.edges[edge].map((state) => spec.states[state]);
    const many = Object.keys(board.data.cells).length > 1;
    title.replaceChildren("Edge ", ...stateNodes(source), " to ", ...stateNodes(target), many ? `, ${kind} cell` : "");
    rows = spec.ops.map((op, o) => {
      const fill = make("i", { style: `background:${spec.colours[o]}` });
      const value = make("span", { class: "db-value" });
      const alpha = make("span", { class: "db-alpha", title: "alpha, the number the search learns" });
      const row = make(
        "div",
        { class: "db-barrow", "data-op": op, onpointerenter: () => board.point(op), onpointerleave: () => board.point(null) },
        make("span", { class: "db-barname" }, swatch(spec.colours[o]), op), make("span", { class: "db-bar" }, fill), value, alpha,
      );
      return { row, fill, value, alpha };
    });
    bars.replaceChildren(
      make("div", { class: "db-barrow db-barhead", "aria-hidden": "true" }, make("span"), make("span"), make("span", {}, "weight"), make("span", {}, "alpha")),
      ...rows.map((r) => r.row),
    );
  }

  function update() {
    const { kind, index: edge } = board.edge;
    const spec = board.data.cells[kind];
    if (shownKey !== `${kind} ${edge}`) {
      shownKey = `${kind} ${edge}`;
      build(spec, kind, edge);
    }
    const n = spec.ops.length;
    const mix = board.mix(kind);
    const weights = Array.from(mix.subarray(edge * n, edge * n + n));
    const alphas = board.records?.count ? Array.from(board.alphas(kind).subarray(edge * n, edge * n + n)) : null;
    const whole = weights.reduce((sum, w) => sum + w, 0);
    weights.forEach((weight, o) => {
      rows[o].fill.style.transform = `scaleX(${clamp(weight / Math.max(1, whole), 0, 1).toFixed(4)})`;
      say(rows[o].value, spec.legal[edge][o] ? percent(weight, 1) : "not allowed");
      say(rows[o].alpha, alphas ? alphas[o].toFixed(3) : "");
      rows[o].row.classList.toggle("db-dim", Boolean(board.op) && board.op !== spec.ops[o]);
    });
    updateFate(spec, mix, edge);
    updateFormula(spec, weights, alphas, whole, edge);
  }

  function updateFate(spec, mix, edge) {
    const { best, kept } = strongest(spec, mix);
    fate.hidden = !board.records?.count;
    say(fate, kept[edge] ? `would be kept as ${spec.ops[best[edge]]}` : "would be dropped");
  }

  function updateFormula(spec, weights, alphas, whole, edge) {
    const order = weights.map((_, o) => o).filter((o) => weights[o] >= 0.005).sort((a, b) => weights[b] - weights[a]);
    const parts = order.slice(0, 4).flatMap((o, i) => [
      i ? " + " : "",
      make("span", { class: "db-term", style: `border-color:${spec.colours[o]}` }, `${weights[o].toFixed(3)} ${spec.ops[o]}(x)`),
    ]);
    const rest = weights.filter((w, o) => !order.slice(0, 4).includes(o) && w > 0).length;
    terms.replaceChildren("\u014D(x) = ", ...parts, rest ? ` + ${rest} smaller` : "");
    const relaxed = alphas ? softmaxFits(weights, alphas, spec.legal[edge], board.temperature) : true;
    setEquation(relaxed ? (board.temperature === 1 ? "softmax" : "temperature") : "weights");
    const sum = Math.abs(whole - 1) < 0.005 ? "" : ` The weights sum to ${whole.toFixed(2)}; the ribbon is drawn divided by ${Math.max(1, whole).toFixed(2)}.`;
    const source = stateNodes(spec.states[spec.edges[edge][0]]);
    note.replaceChildren("x is the output of ", ...source, "; a node adds up what its edges bring.", sum);
  }

  function setEquation(form) {
    if (equation.dataset.form === form) return;
    equation.dataset.form = form;
    equation.innerHTML = EQUATIONS[form]; // constants of this file
  }

  return { el, update };
}

const SUM = "<munder><mo>&#x2211;</mo><mrow><mi>o</mi><mo>&#x2208;</mo><mi>O</mi></mrow></munder>";
const BAR_O = "<mover><mi>o</mi><mo>&#xAF;</mo></mover><mo>(</mo><mi>x</mi><mo>)</mo><mo>=</mo>";
const exponential = (power, index) => `<mi>exp</mi><mo>(</mo><msub><mi>&#x3B1;</mi><mi>${index}</mi></msub>${power}<mo>)</mo>`;
const fraction = (power) =>
  `<mfrac><mrow>${exponential(power, "o")}</mrow><mrow><munder><mo>&#x2211;</mo><mrow><mi>o&#x2032;</mi></mrow></munder>` +
  `${exponential(power, "o&#x2032;")}</mrow></mfrac>`;
const equationOf = (weight, source) =>
  `<math display="inline">${BAR_O}${SUM}${weight}<mi>o</mi><mo>(</mo><mi>x</mi><mo>)</mo></math><span class="db-about">${source}</span>`;
const EQUATIONS = {
  softmax: equationOf(fraction(""), "the mixed operation, eq. 2 of DARTS"),
  temperature: equationOf(fraction("<mo>/</mo><mi>T</mi>"), "eq. 2 of DARTS with temperature T"),
  weights: equationOf("<msub><mi>w</mi><mi>o</mi></msub>", "with the weights that this method gives"),
};

/** Are the recorded weights the softmax of the recorded alphas? Other methods relax otherwise, and the card says so. */
function softmaxFits(weights, alphas, legal, temperature) {
  const top = Math.max(...alphas.filter((_, o) => legal[o]));
  const powers = alphas.map((alpha, o) => (legal[o] ? Math.exp((alpha - top) / temperature) : 0));
  const sum = powers.reduce((total, p) => total + p, 0);
  return powers.every((p, o) => Math.abs(p / sum - weights[o]) < 2e-3);
}

/** Edges down, operations across: strength of colour is the weight, a ring what would be derived. */
function heatPanel(board) {
  const grids = make("div", { class: "db-heats" });
  const el = make(
    "section", { class: "db-card", "data-chart": "heat" }, make("h3", {}, "All edges at a glance"),
    make("p", { class: "db-about" }, "One row per edge; the stronger the colour, the larger the weight. A ring: what derivation would keep."),
    grids,
  );
  let shown = "";
  let maps = [];

  function build() {
    maps = board.kindsShown.map((kind) => {
      const spec = board.data.cells[kind];
      const grid = make("div", { class: "db-heat", style: `--ops:${spec.ops.length}`, role: "img", "aria-label": `${spec.title}: weights of all edges` });
      grid.append(make("span"), ...spec.ops.map((op, o) => make("span", { class: "db-heathead", title: op }, swatch(spec.colours[o]))));
      const cells = spec.edges.flatMap((edge, e) => {
        const [source, target] = edge.map((state) => spec.states[state].replace("node ", ""));
        grid.append(make("span", { class: "db-heatname" }, ...stateNodes(source), "\u2192", target));
        return spec.ops.map((op, o) => {
          const tile = make("i", { style: `--tint:${spec.colours[o]}` });
          const box = make("span", { class: "db-tile" }, tile);
          box.addEventListener("pointerenter", () => board.point(op));
          box.addEventListener("click", () => board.pickEdge(kind, e));
          grid.append(box);
          return { tile, box, edge: spec.states[edge[0]] + " to " + spec.states[edge[1]], op };
        });
      });
      grid.addEventListener("pointerleave", () => board.point(null));
      return { kind, spec, grid, cells };
    });
    grids.replaceChildren(...maps.map((map) => map.grid));
  }

  function update() {
    if (shown !== board.kindsShown.join()) {
      shown = board.kindsShown.join();
      build();
    }
    for (const { kind, spec, cells } of maps) {
      const mix = board.mix(kind);
      const { best, kept } = strongest(spec, mix);
      const n = spec.ops.length;
      cells.forEach(({ tile, box, edge, op }, i) => {
        const e = Math.floor(i / n);
        const opacity = clamp(mix[i], 0, 1).toFixed(3);
        if (tile.style.opacity !== opacity) {
          tile.style.opacity = opacity;
          box.title = `${edge}: ${op} ${percent(mix[i], 1)}`;
        }
        box.classList.toggle("db-kept", Boolean(board.records?.count) && kept[e] === 1 && best[e] === i % n);
      });
    }
  }

  return { el, update };
}

/** The numbers of the step shown, one keystroke away. */
function tablePanel(board) {
  const body = make("div", { class: "db-tablebox", tabindex: 0, role: "region", "aria-label": "Weights of all edges in numbers" });
  const close = make("button", { type: "button", class: "db-button", onclick: () => board.toggleTable() }, "Close (T)");
  const title = make("h3", {}, "Numbers of this step");
  const el = make("section", { class: "db-card db-table", hidden: "" }, make("div", { class: "db-cardhead" }, title, close), body);

  function update() {
    if (el.hidden) return;
    say(title, board.records?.count ? `Numbers of step ${board.records.step(board.index)}` : "Numbers of this step");
    body.replaceChildren(metricsTable(board), ...board.kindsShown.map((kind) => weightsTable(board, kind)));
  }

  return { el, update, focus: () => body.focus() };
}

function metricsTable(board) {
  const names = Object.keys(board.records?.metricAt ?? {});
  const cells = names.map((name) => {
    const value = board.records.metric(name, board.index);
    const text = !Number.isFinite(value) ? "not measured" : name.endsWith("accuracy") ? percent(value, 1) : String(Number(value.toPrecision(4)));
    return make("td", {}, text);
  });
  const head = make("thead", {}, make("tr", {}, ...names.map((name) => make("th", { scope: "col" }, name))));
  return make("table", {}, make("caption", {}, "Of this step's batches"), head, make("tbody", {}, make("tr", {}, ...cells)));
}

function weightsTable(board, kind) {
  const spec = board.data.cells[kind];
  const mix = board.mix(kind);
  const { best, kept } = strongest(spec, mix);
  const n = spec.ops.length;
  const head = make("thead", {}, make("tr", {}, ...["edge", ...spec.ops, "derived"].map((name) => make("th", { scope: "col" }, name))));
  const rows = spec.edges.map((edge, e) =>
    make(
      "tr", {}, make("th", { scope: "row" }, `${spec.states[edge[0]]} to ${spec.states[edge[1]]}`),
      ...spec.ops.map((_, o) => make("td", {}, percent(mix[e * n + o], 1))),
      make("td", {}, kept[e] ? spec.ops[best[e]] : "dropped"),
    ),
  );
  return make("table", {}, make("caption", {}, `${spec.title}: weight of each operation on each edge`), head, make("tbody", {}, ...rows));
}

/** What the search found and what it is worth: the derived cell, and its accuracies beside random cells. */
function outcomePanel(board) {
  const sums = make("div", { class: "db-outcells" });
  const gap = make("div", { class: "db-outwords" });
  const worth = make("div", { class: "db-outwords" });
  const el = make(
    "section", { class: "db-card db-outcome", hidden: "" }, make("h3", {}, "The cell it found"),
    make("div", { class: "db-outgrid" }, make("div", { class: "db-outwords" }, sums, gap), worth),
  );
  let shown = "";

  function update() {
    const { result, trained } = board.story;
    el.hidden = !result;
    const key = result ? `${result.step} ${trained.length}` : "";
    if (!result || key === shown) return;
    shown = key;
    const found = Object.entries(result.genotype.cells).filter(([kind]) => board.data.cells[kind]);
    sums.replaceChildren(...found.map(([kind, genes]) => derivedSums(board.data.cells[kind], genes, (op) => board.colour(op))));
    const accuracies = summaryOf(trained);
    gap.replaceChildren(...gapOf(accuracies));
    worth.replaceChildren(...worthOf(accuracies));
  }

  return { el, update };
}

/** A derived cell as sums: "0 = skip_connect(c_{k-2}) + sep_conv_3x3(c_{k-1})", one line per node. */
function derivedSums(spec, genes, colour) {
  const name = (state) => stateNodes(spec.states[state].replace("node ", ""));
  const lines = genes.nodes.map((node, i) => {
    const terms = node.flatMap(([op, source], k) => [
      k ? " + " : "", make("span", { class: "db-term", style: `border-color:${colour(op)}` }, `${op}(`, ...name(source), ")"),
    ]);
    return make("li", {}, make("b", {}, String(i)), " = ", ...(terms.length ? terms : ["nothing"]));
  });
  return make("div", {}, make("h4", {}, spec.title), make("ol", { class: "db-sums" }, ...lines));
}

/** role -> {mean, low, high, count, values} of the accuracies of all its trainings. */
function summaryOf(trained) {
  const roles = {};
  for (const { role, accuracy } of trained) (roles[role] ??= []).push(accuracy);
  return Object.fromEntries(
    Object.entries(roles).map(([role, values]) => [
      role,
      { values, count: values.length, low: Math.min(...values), high: Math.max(...values), mean: values.reduce((s, v) => s + v, 0) / values.length },
    ]),
  );
}

/** What the derived cell is worth, beside random cells of its space. */
function worthOf({ derived, random }) {
  if (!derived) return [make("p", {}, "This run did not train its cell again, so nothing is known yet of how good it is.")];
  const nodes = [make("p", { class: "db-verdict" }, comparison(derived, random))];
  if (random) nodes.push(dotPlot([["derived", derived], ["random", random]]));
  return nodes;
}

/** The discretisation gap as three numbers: before the cut, right after it, and trained again. */
function gapOf({ derived, supernet, pruned }) {
  if (!supernet && !pruned) return [];
  const numbers = [
    ["supernet", "all operations mixed", supernet],
    ["pruned at once", "only the derived edges, same weights", pruned],
    ["retrained", "derived cell, from scratch", derived],
  ].filter(([, , accuracies]) => accuracies);
  const boxes = numbers.map(([name, about, { mean }]) =>
    make("div", {}, make("dt", {}, name), make("dd", {}, percent(mean, 1)), make("dd", { class: "db-about" }, about)),
  );
  return [
    make("h4", {}, "Discretisation gap"),
    make("dl", { class: "db-gap" }, ...boxes),
    make("p", { class: "db-about" }, "Validation accuracy. From the first number to the second: what cutting all but the strongest operations costs before any training."),
  ];
}

function comparison(derived, random) {
  const range = ({ count, low, high }) => (count > 1 ? ` (${count} trainings, ${percent(low, 1)} to ${percent(high, 1)})` : "");
  const own = `Trained from scratch, the derived cell reaches ${percent(derived.mean, 1)} validation accuracy${range(derived)}.`;
  if (!random) return own;
  const others = ` ${random.count} random ${random.count > 1 ? "cells" : "cell"} of the same space reach ${percent(random.mean, 1)} on average` +
    (random.count > 1 ? ` (${percent(random.low, 1)} to ${percent(random.high, 1)}).` : ".");
  const verdict =
    derived.mean > random.high ? " It beats every random cell tried."
    : derived.mean >= random.mean ? " That is within the spread of random cells, above their mean."
    : " That is below the mean of random cells.";
  return own + others + verdict;
}

/** Accuracies as dots on one line per role; a bar marks the mean. */
function dotPlot(rows) {
  const all = rows.flatMap(([, s]) => s.values);
  const pad = Math.max(0.005, (Math.max(...all) - Math.min(...all)) * 0.12);
  const [low, high] = [Math.min(...all) - pad, Math.max(...all) + pad];
  const place = (value) => `left:${(100 * (value - low)) / (high - low)}%`;
  return make(
    "div", { class: "db-dots", "aria-hidden": "true" },
    ...rows.flatMap(([name, s]) => [
      make("span", {}, name),
      make("span", { class: "db-dotrow" }, ...s.values.map((v) => make("i", { style: place(v), title: percent(v, 1) })), make("b", { style: place(s.mean) })),
    ]),
    make("span"), make("span", { class: "db-dotaxis" }, make("span", {}, percent(low, 1)), make("span", {}, percent(high, 1))),
  );
}

// ------------------------------------------------------------------------------------------------------ 8 the board

class Board {
  constructor(root, data, tell) {
    Object.assign(this, {
      root, data, tell, run: data.run, records: null, story: new Story(), status: data.status ?? { state: "starting", step: 0 },
      view: { mode: "follow", step: 0, speed: data.view.speed, loop: data.view.play }, index: 0, op: null, pinned: null,
      link: "waiting", linkWhy: "", began: Date.now(), arrived: performance.now(), changed: true, alive: true, pending: {},
      marked: new Uint8Array(0), showChosen: false, playAt: 0, lastFrame: 0, lastSlowLook: 0, lastStored: 0,
    });
    this.takeView(data.view);
    this.build();
    this.theme = this.readTheme();
    this.onKey = (event) => this.key(event);
    document.addEventListener("keydown", this.onKey);
    this.feed = data.rows === null ? new Feed(data.base, data.run, this) : null;
    if (this.feed) this.feed.start();
    else this.takeRows(data.rows);
    loadPlotly(data.plotly).then((Plotly) => (this.Plotly = Plotly), () => this.root.classList.add("db-nocharts"));
    requestAnimationFrame((now) => this.frame(now));
  }

  build() {
    const { figures } = this.data;
    this.transport = transportPanel(this);
    this.statusLine = statusPanel();
    this.meter = meterPanel();
    this.legend = legendPanel(this);
    this.cells = cellPanel(this);
    this.edgeChart = new Chart("edge", figures.edge, this);
    this.edgeCard = edgePanel(this, this.edgeChart);
    this.heat = heatPanel(this);
    this.table = tablePanel(this);
    this.outcome = outcomePanel(this);
    this.charts = CHART_NAMES.map((name) => new Chart(name, figures[name], this));
    this.meter.el.hidden = !this.data.collapse;
    const keys = "Keys: Space pauses the view, \u2190 \u2192 one step, L follows, T shows the numbers. Drag over a chart to zoom, double-click to see all, click to go to that step.";
    this.root.replaceChildren(
      this.transport.el, this.statusLine.el, this.meter.el,
      make("div", { class: "db-main" }, this.cells.el, this.edgeCard.el),
      this.outcome.el,
      make("div", { class: "db-charts" }, ...this.charts.slice(0, 3).map((c) => c.card), this.heat.el, ...this.charts.slice(3).map((c) => c.card)),
      this.table.el,
      make("p", { class: "db-about db-keys" }, keys),
    );
    this.root.dataset.run = this.run;
  }

  // What comes in ---------------------------------------------------------------------------------------------

  /** Another rerun of the page: new data of the same run. */
  receive(data) {
    const asked = data.view.version !== this.data.view.version;
    this.data = { ...this.data, rows: data.rows, view: data.view };
    if (asked) this.takeView(data.view);
    if (data.rows !== null) this.takeRows(data.rows);
    else if (data.status && !STALE[data.status.state]) this.feed?.wake();
  }

  takeView({ cell, show, edge, step, play, speed }) {
    const kinds = Object.keys(this.data.cells);
    this.cell = cell ?? kinds[0];
    this.show = show ?? "all";
    this.showChosen = show !== null;
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
    this.story = new Story();
    this.marked = new Uint8Array(0);
    this.takeEvents(head.events);
    this.takeSteps(raw);
    this.takeStatus(head.status);
  }

  /** Rows through the page: the whole block comes again at every rerun. */
  takeRows(text) {
    const { head, records } = readBlock(bytesOfBase64(text));
    const before = this.records?.lastStep;
    this.takeHistory(head, records);
    this.takeLink(STALE[head.status.state] ? "ended" : "page");
    if (before === this.records.lastStep) this.arrived = this.lastStored;
    this.lastStored = this.arrived;
  }

  takeSteps(raw) {
    const from = this.records.append(raw);
    this.compareDerived(from);
    this.arrived = performance.now();
    this.touch();
  }

  takeEvents(events) {
    this.story.add(events);
    this.root.dataset.events = this.story.events.length;
    this.touch();
  }

  takeStatus(status) {
    this.status = status;
    if ((status.state === "finished" || status.state === "stopped") && !this.showChosen) this.show = "derived";
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

  /** Weights of the shown step (edges x ops); before the first step those every search starts from: all equal. */
  mix(kind) {
    if (this.records?.count) return this.records.tensor(`mix.${kind}`, this.index);
    const { legal } = this.data.cells[kind];
    return Float32Array.from(legal.flatMap((row) => row.map((ok) => (ok ? 1 / row.filter(Boolean).length : 0))));
  }

  alphas(kind) {
    return this.records.tensor(`alpha.${kind}`, this.index);
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
    this.report("step", null);
    this.changed = true;
  }

  goTo(step) {
    if (this.records?.count) this.goToIndex(this.records.indexOf(step));
  }

  goToIndex(index) {
    const i = clamp(index, 0, this.records.count - 1);
    if (i === this.records.count - 1 && this.live) this.follow();
    else this.hold(this.records.step(i));
  }

  pickEdge(kind, index) {
    this.edge = { kind, index };
    const [source, target] = this.data.cells[kind].edges[index];
    this.report("edge", `${kind}-${source}-${target}`);
    this.touch();
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
    this.show = show;
    this.showChosen = true;
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
    const link = make("a", { href: URL.createObjectURL(blob), download: `${this.run}-${this.kindsShown[0]}-step${step}.svg` });
    link.click();
    URL.revokeObjectURL(link.href);
  }

  key(event) {
    const typing = event.target.closest?.("input:not([type=range]), textarea, select, [contenteditable], [role=dialog], [role=tab]");
    if (event.ctrlKey || event.metaKey || event.altKey || typing || !this.records?.count || !this.root.isConnected) return;
    const button = event.target.closest?.("button, a, summary, [role=button], [role=slider], [role=radio], [role=option]");
    const keys = {
      " ": () => !button && this.togglePlay(),
      ArrowLeft: () => event.target.type !== "range" && !event.target.closest("[role=slider], [role=radio]") && this.goToIndex(this.index - 1),
      ArrowRight: () => event.target.type !== "range" && !event.target.closest("[role=slider], [role=radio]") && this.goToIndex(this.index + 1),
      l: () => this.follow(),
      t: () => this.toggleTable(),
    };
    const act = keys[event.key.length === 1 ? event.key.toLowerCase() : event.key];
    if (act && act() !== false) event.preventDefault();
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
    this.advance(now);
    this.lookNowAndThen(now);
    if (this.changed) this.draw(now);
    this.drawOneChart(now);
    this.root.dataset.age = this.age.toFixed(2);
    this.lastFrame = now;
    requestAnimationFrame((next) => this.frame(next));
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
    const theme = this.readTheme();
    if (JSON.stringify(theme) !== JSON.stringify(this.theme)) {
      this.theme = theme;
      this.touch();
    }
  }

  draw(now) {
    this.changed = false;
    const tween = this.view.mode === "follow" ? clamp(now - (this.lastDraw ?? 0), 80, 240) : 0;
    this.lastDraw = now;
    this.cells.update(tween);
    this.edgeCard.update();
    this.heat.update();
    this.table.update();
    this.outcome.update();
    this.transport.update();
    this.cells.start.update(this);
    this.statusLine.update(this);
    this.updateMeter();
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
    this.meter.update(now, collapse.levels[Math.min(now.skips, collapse.levels.length - 1)]);
  }

  /** The chart that waited longest, if one is due: one per frame, so that no frame is long. */
  drawOneChart(now) {
    if (!this.Plotly || !this.records?.count) return;
    const due = [this.edgeChart, ...this.charts].filter((chart) => chart.dirty && now - chart.drawnAt > CHARTS_EVERY);
    const chart = due.sort((a, b) => a.drawnAt - b.drawnAt)[0];
    if (!chart) return;
    const isEdge = chart === this.edgeChart;
    const kind = isEdge ? this.edge.kind : this.kind;
    const columns = columnsOf(this.records, this.story, this.data.cells[kind], kind, isEdge ? this.edge.index : 0);
    const empty = chart.template.data.every((trace) => !columns[trace.meta.column]?.some((y) => y !== null));
    chart.card.hidden = empty;
    if (empty) chart.dirty = false;
    else chart.draw(this.Plotly, columns, this.story.marks, this.theme);
    chart.moveCursor();
    if (chart === this.charts[0]) this.transport.setTicks();
  }

  readTheme() {
    const style = getComputedStyle(this.root);
    const of = (name, otherwise) => style.getPropertyValue(name).trim() || otherwise;
    const ink = of("--st-text-color", "#262730");
    const ground = of("--st-background-color", "#ffffff");
    const line = of("--st-border-color", "#c9ccd3");
    return { ink, ground, line, muted: blended(ink, ground, 0.76), veil: blended(ground, ground, 1).replace(")", ", 0.7)").replace("rgb", "rgba"), font: of("--st-font", "sans-serif") };
  }

  destroy() {
    this.alive = false;
    this.feed?.stop();
    clearTimeout(this.reporting);
    document.removeEventListener("keydown", this.onKey);
    this.cells.destroy();
    for (const chart of [this.edgeChart, ...this.charts]) chart.destroy();
  }
}

// -------------------------------------------------------------------------------------------------- 9 the component

export default function ({ data, parentElement, setStateValue }) {
  const root = parentElement.querySelector(".darts-board");
  if (root.board?.run === data.run && root.board.alive) {
    root.board.tell = setStateValue;
    root.board.receive(data);
  } else {
    root.board?.destroy();
    root.board = new Board(root, data, setStateValue);
  }
  return () => {
    if (!root.isConnected) root.board?.destroy();
  };
}
