/* One scrubber over one or several recorded runs: their ribbons, meters and charts move together. Serves the Compare page
   and the HTML report. Needs ribbon.js and charts.js before it; one file without imports or exports.

   mountLecture(host, data, onMove) -> {update, destroy}      data is what darts_core/view/lecture.py makes:
     runs      [{name, title, note, colour, dash, steps, epochs, cells: {kind: {...}}, meter}]
     align     "step", "epoch" or "percent": what the scrubber counts, and what "the same place" means for several runs
     charts    [{title, about, data, layout}] of the only run; [] where the page draws its own
     at        where to start on that axis; null is the end
   onMove(position) is called a moment after a person has moved the scrubber. */
function mountLecture(host, data, onMove = () => {}) {
  const WIDE = 65535; // weights are sent as whole numbers from 0 to this
  const make = (tag, attributes = {}, ...children) => {
    const node = document.createElement(tag);
    for (const [name, value] of Object.entries(attributes)) {
      if (name.startsWith("on")) node.addEventListener(name.slice(2), value);
      else if (value !== null && value !== undefined) node.setAttribute(name, value);
    }
    node.append(...children);
    return node;
  };
  const say = (node, text) => node.textContent !== text && (node.textContent = text);
  const bytes = (text) => Uint8Array.from(atob(text), (character) => character.charCodeAt(0));

  let [runs, positions, at, playing, frame, before, reporting] = [[], [], 0, false, 0, 0, 0];
  let [alive, kind, edge, edgeChart] = [true, null, 0, null];
  let charts = [];

  // What a run is at a place -----------------------------------------------------------------------------------------

  const coordinate = (run, i) => {
    if (data.align === "step") return run.steps[i];
    if (data.align === "epoch") return run.epochs[i];
    return (100 * run.steps[i]) / (run.steps.at(-1) || 1);
  };

  /** The newest record at or before a position; the first one where the run begins later. */
  function indexAt(run, position) {
    let low = 0;
    let high = run.steps.length - 1;
    while (low < high) {
      const middle = (low + high + 1) >> 1;
      if (coordinate(run, middle) <= position + 1e-9) low = middle;
      else high = middle - 1;
    }
    return low;
  }

  function weightsAt(run, name, i) {
    const cell = run.cells[name];
    const size = cell.edges.length * cell.ops.length;
    return Float32Array.from(cell.mix.subarray(i * size, (i + 1) * size), (whole) => whole / WIDE);
  }

  const keptAt = (run, name, i) => {
    const cell = run.cells[name];
    return cell.kept.subarray(i * cell.edges.length, (i + 1) * cell.edges.length);
  };

  function unpacked(run) {
    const cells = {};
    for (const [name, cell] of Object.entries(run.cells)) {
      const raw = bytes(cell.mix);
      cells[name] = { ...cell, mix: new Uint16Array(raw.buffer, 0, raw.length / 2), kept: bytes(cell.kept) };
    }
    return { ...run, cells };
  }

  // The page ---------------------------------------------------------------------------------------------------------

  const play = make("button", { type: "button", class: "lc-button", onclick: () => (playing ? pause() : start()) });
  const range = make("input", { type: "range", min: 0, step: 1, class: "lc-range", "aria-label": "Place in the search" });
  const where = make("output", { class: "lc-where" });
  const show = make(
    "button",
    { type: "button", class: "lc-button", "aria-pressed": "false", title: "Fade the edges that derivation drops" },
    "Derived edges",
  );
  const pickers = make("div", { class: "lc-kinds", role: "group", "aria-label": "Cell" });
  const bar = make("div", { class: "lc-bar" }, play, range, where, pickers, show);
  const cards = make("div", { class: "lc-cards" });
  const edgeCard = make("section", { class: "lc-card lc-edge" });
  const chartCards = make("div", { class: "lc-charts" });
  range.addEventListener("input", () => {
    pause();
    goTo(Number(range.value));
    clearTimeout(reporting);
    reporting = setTimeout(() => onMove(positions[at]), 350);
  });

  /** A link to another page is followed: what is told after that click would be this page's word, and a busy server
      would stay here. */
  const leave = (event) => event.target.closest?.("a[href]") && clearTimeout(reporting);
  addEventListener("click", leave, true);

  show.addEventListener("click", () => {
    show.setAttribute("aria-pressed", String(show.getAttribute("aria-pressed") !== "true"));
    draw();
  });
  host.replaceChildren(bar, make("div", { class: "lc-main" }, cards, edgeCard), chartCards);

  function build() {
    runs = data.runs.map(unpacked).filter((run) => run.steps.length);
    const kinds = [...new Set(runs.flatMap((run) => Object.keys(run.cells)))];
    kind = kinds.includes(kind) ? kind : (kinds[0] ?? null);
    pickers.hidden = !runs.some((run) => Object.keys(run.cells).length > 1); // else there is nothing to choose
    pickers.replaceChildren(
      ...kinds.map((name) =>
        make("button", { type: "button", class: "lc-button", "data-kind": name, onclick: () => pickKind(name) }, name),
      ),
    );
    const places = new Set(runs.flatMap((run) => run.steps.map((_, i) => coordinate(run, i))));
    positions = data.align === "percent" ? Array.from({ length: 101 }, (_, i) => i) : [...places].sort((a, b) => a - b);
    range.max = Math.max(0, positions.length - 1);
    cards.dataset.count = runs.length;
    cards.replaceChildren(...runs.map(cardOf));
    edgeCard.hidden = chartCards.hidden = !data.charts.length;
    charts = data.charts.map((chart) => {
      const box = make("div", { class: "lc-plot" });
      const about = make("p", { class: "lc-about" }, chart.about);
      chartCards.append(make("section", { class: "lc-card" }, make("h3", {}, chart.title), about, box));
      return drawChart(box, { data: chart.data, layout: chart.layout, label: `${chart.title}. ${chart.about}` });
    });
    const wanted = data.at === null ? -1 : positions.findLastIndex((place) => place <= data.at);
    goTo(wanted < 0 ? positions.length - 1 : wanted);
  }

  function cardOf(run) {
    run.ribbonHost = make("div", { class: "lc-ribbon" });
    run.ribbon = mountRibbon(run.ribbonHost, { onEdge: (e) => pickEdge(e) });
    run.words = make("p", { class: "lc-about" });
    run.squares = make("span", { class: "lc-squares", "aria-hidden": "true" });
    const swatch = run.colour ? make("i", { class: "lc-line", "data-dash": run.dash }) : "";
    if (run.colour) swatch.style.borderTopColor = run.colour;
    const head = make("h3", {}, swatch, run.title);
    return make(
      "section",
      { class: "lc-card", "data-run": run.name },
      head,
      make("p", { class: "lc-about" }, run.note),
      run.ribbonHost,
      make("div", { class: "lc-meter" }, run.squares, run.words),
    );
  }

  function pickKind(name) {
    kind = name;
    edge = 0;
    draw();
    drawEdge();
  }

  function pickEdge(e) {
    edge = e;
    draw();
    drawEdge();
  }

  /** The chosen edge over time, of the only run: its weights are in the record already. */
  function drawEdge() {
    if (edgeCard.hidden || !runs.length) return;
    const run = runs[0];
    const cell = run.cells[kind];
    edge = Math.min(edge, cell.edges.length - 1);
    const [source, target] = cell.edges[edge].map((state) => cell.states[state]);
    const [n, size] = [cell.ops.length, cell.ops.length * cell.edges.length];
    const traces = cell.ops.map((op, o) => ({
      name: op,
      x: run.steps,
      y: run.steps.map((_, i) => cell.mix[i * size + edge * n + o] / WIDE),
      line: { color: cell.colours[o], width: op === "skip_connect" ? 3 : 1.8 },
    }));
    const title = `Edge ${source} to ${target}`;
    const box = make("div", { class: "lc-plot" });
    const about = "How much each operation counts on the chosen edge. Choose another one in the picture.";
    edgeCard.replaceChildren(make("h3", {}, title), make("p", { class: "lc-about" }, about), box);
    edgeChart = drawChart(box, {
      data: traces,
      layout: { yaxis: { tickformat: ".0%", rangemode: "tozero" } },
      label: `${title}: weights over time`,
    });
    edgeChart.moveTo(run.steps[indexAt(run, positions[at])]);
  }

  function goTo(place) {
    at = Math.min(Math.max(0, place), positions.length - 1);
    range.value = at;
    draw();
  }

  function draw() {
    const position = positions[at] ?? 0;
    const text = {
      step: () => `step ${position}`,
      epoch: () => `epoch ${Math.floor(position) + 1}`,
      percent: () => `${position} % of each run`,
    }[data.align]();
    say(where, text);
    range.setAttribute("aria-valuetext", text);
    host.dataset.position = position;
    host.dataset.shown = runs.map((run) => run.steps[indexAt(run, position)]).join();
    const derived = show.getAttribute("aria-pressed") === "true";
    for (const button of pickers.children) button.setAttribute("aria-pressed", String(button.dataset.kind === kind));
    for (const run of runs) {
      const i = indexAt(run, position);
      const own = run.cells[kind] ? kind : Object.keys(run.cells)[0]; // of another space: a cell that it has
      const cell = run.cells[own];
      const kept = derived ? keptAt(run, own, i) : null;
      run.ribbon.update({ ...cell, weights: weightsAt(run, own, i), kept, tween: 0, alt: `${run.title}: ${cell.title}` });
      run.ribbon.select(data.charts.length && edge < cell.edges.length ? edge : -1);
      const later = coordinate(run, 0) > position + 1e-9 ? "begins later; " : "";
      const meter = run.meter;
      say(run.words, `${later}step ${run.steps[i]}${meter ? `: ${meter.skips[i]} of ${meter.edges} derived edges are ${meter.word}, ${meter.levels[i]}` : ""}`);
      if (!meter) continue;
      if (run.squares.childElementCount !== meter.edges)
        run.squares.replaceChildren(...Array.from({ length: meter.edges }, () => make("i")));
      [...run.squares.children].forEach((square, k) => square.classList.toggle("lc-skip", k < meter.skips[i]));
    }
    if (runs.length) {
      const step = runs[0].steps[indexAt(runs[0], position)];
      for (const chart of charts) chart.moveTo(step);
      edgeChart?.moveTo(step);
    }
    say(play, playing ? "\u275A\u275A Pause" : "\u25B6 Play");
  }

  // Time -------------------------------------------------------------------------------------------------------------

  function start() {
    playing = true;
    if (at >= positions.length - 1) at = 0;
    before = performance.now();
    const began = before;
    const from = at;
    const pace = Math.max(8, positions.length / 12); // the whole of it in twelve seconds
    const tick = (now) => {
      if (!playing || !alive || !host.isConnected) return;
      goTo(from + Math.floor(((now - began) / 1000) * pace));
      if (at >= positions.length - 1) return pause();
      frame = requestAnimationFrame(tick);
    };
    frame = requestAnimationFrame(tick);
    draw();
  }

  function pause() {
    playing = false;
    cancelAnimationFrame(frame);
    draw();
  }

  function update(next) {
    const same = JSON.stringify([next.align, next.runs.map((run) => [run.name, run.steps.length, run.colour])]);
    if (same === host.dataset.made) return;
    host.dataset.made = same;
    data = next;
    pause();
    chartCards.replaceChildren();
    build();
    drawEdge();
  }

  function destroy() {
    alive = false;
    cancelAnimationFrame(frame);
    clearTimeout(reporting);
    removeEventListener("click", leave, true);
    for (const run of runs) run.ribbon?.destroy();
    host.replaceChildren();
  }

  update(data);
  return { update, destroy };
}
