/* Small charts as SVG, drawn from the filled templates of darts_core/view/figures.py (a subset of Plotly's JSON), for files
   without a server and for cards too small for Plotly. One file without imports or exports.

   drawChart(host, {data, layout, label}) -> {moveTo(x), destroy}
     data     traces: {x, y, name, line: {color, width, dash}, opacity, stackgroup, fillcolor, meta: {ink}}
     layout   {title: {text}, yaxis: {tickformat, range, rangemode}, shapes: [{x0, name}]}
     label    what a screen reader is told
   moveTo(x) shows a thin line at x; null hides it. */
function drawChart(host, { data, layout, label }) {
  const SVG = "http://www.w3.org/2000/svg";
  const DASH = { dash: "6 4", dot: "2 3", dashdot: "7 3 2 3", longdash: "10 4", longdashdot: "10 3 2 3" };
  const [W, H, LEFT, TOP, BOTTOM] = [460, 210, 46, 10, 34];

  const node = (name, attributes, parent, text) => {
    const made = document.createElementNS(SVG, name);
    for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
    if (text !== undefined) made.textContent = text;
    parent?.append(made);
    return made;
  };
  const finite = (value) => value !== null && Number.isFinite(value);

  /** At most about five round numbers that cover a range. */
  function roundTicks(low, high) {
    const raw = (high - low || 1) / 4;
    const size = 10 ** Math.floor(Math.log10(raw));
    const step = [1, 2, 5, 10].map((n) => n * size).find((n) => n >= raw);
    const ticks = [];
    for (let at = Math.ceil(low / step - 1e-9) * step; at <= high + step * 1e-6; at += step) ticks.push(at);
    return ticks;
  }

  const percent = (layout.yaxis?.tickformat ?? "").endsWith("%");
  const shown = (value) =>
    percent ? `${Math.round(100 * value)} %` : String(Number(value.toPrecision(3))).replace("e+", "e");

  // Stacked traces lie on those before them.
  const stacked = data.some((trace) => trace.stackgroup);
  let below = null;
  const lines = data.map((trace) => {
    if (!trace.stackgroup) return { trace, y: trace.y, from: null };
    const from = below ?? trace.y.map(() => 0);
    below = trace.y.map((value, i) => from[i] + (value ?? 0));
    return { trace, y: below, from };
  });
  const all = lines.flatMap(({ y }) => y).filter(finite);
  const xs = data.flatMap((trace) => trace.x).filter(finite);
  if (!all.length || !xs.length) {
    host.replaceChildren(Object.assign(document.createElement("p"), { textContent: "Nothing was recorded." }));
    return { moveTo() {}, destroy() {} };
  }
  const named = lines.filter(({ trace }) => trace.hoverinfo !== "skip" && trace.y.some(finite));
  const right = 12 + (named.length > 1 ? 6.4 * Math.max(...named.map(({ trace }) => trace.name.length)) : 0);
  let [low, high] = layout.yaxis?.range ?? [Math.min(...all), Math.max(...all)];
  if (layout.yaxis?.rangemode === "tozero") low = Math.min(0, low);
  if (!layout.yaxis?.range) high += (high - low || Math.abs(high) || 1) * 0.04;
  if (high === low) high = low + 1;
  const [first, last] = [Math.min(...xs), Math.max(...xs)];
  const px = (x) => LEFT + ((W - LEFT - right) * (x - first)) / (last - first || 1);
  const py = (y) => TOP + ((H - TOP - BOTTOM) * (high - y)) / (high - low);

  host.replaceChildren();
  const root = node("svg", { viewBox: `0 0 ${W} ${H}`, class: "ch", role: "img", "aria-label": label }, host);
  for (const at of roundTicks(low, high)) {
    node("line", { x1: LEFT, x2: W - right, y1: py(at), y2: py(at), class: "ch-grid" }, root);
    node("text", { x: LEFT - 5, y: py(at) + 3.5, "text-anchor": "end", class: "ch-tick" }, root, shown(at));
  }
  for (const at of roundTicks(first, last)) {
    if (at < first) continue;
    node("text", { x: px(at), y: H - BOTTOM + 15, "text-anchor": "middle", class: "ch-tick" }, root, String(at));
  }
  const axis = layout.xaxis?.title?.text ?? "step";
  node("text", { x: (LEFT + W - right) / 2, y: H - 4, "text-anchor": "middle", class: "ch-tick" }, root, axis);

  for (const { trace, y, from } of lines) {
    const places = trace.x.map((_, i) => i).filter((i) => finite(y[i]));
    if (!places.length) continue;
    const there = places.map((i, k) => `${k ? "L" : "M"}${px(trace.x[i]).toFixed(1)},${py(y[i]).toFixed(1)}`).join("");
    const line = trace.line ?? {};
    const ink = trace.meta?.ink;
    if (from) {
      const back = [...places].reverse().map((i) => `L${px(trace.x[i]).toFixed(1)},${py(from[i]).toFixed(1)}`);
      node("path", { d: `${there}${back.join("")}Z`, fill: line.color, "fill-opacity": 0.86 }, root);
      continue;
    }
    const attributes = { d: there, fill: "none", "stroke-width": line.width ?? 2, "stroke-linejoin": "round" };
    if (DASH[line.dash]) attributes["stroke-dasharray"] = DASH[line.dash];
    if (trace.opacity) attributes["stroke-opacity"] = trace.opacity;
    if (!ink) attributes.stroke = line.color;
    node("path", { ...attributes, class: ink ? "ch-ink" : "" }, root);
    if (places.length === 1) node("circle", { cx: px(trace.x[places[0]]), cy: py(y[places[0]]), r: 3, class: "ch-dot" }, root);
  }

  for (const mark of layout.shapes ?? []) {
    const x = px(mark.x0);
    const made = node("line", { x1: x, x2: x, y1: TOP, y2: H - BOTTOM, class: "ch-mark" }, root);
    node("title", {}, made, mark.name ?? "");
  }

  // Names at the right end: colour is never the only sign.
  if (named.length > 1) {
    const ends = named.map(({ trace, y, from }) => {
      const i = y.findLastIndex(finite);
      return { name: trace.name, at: py(from ? (y[i] + from[i]) / 2 : y[i]), weight: trace.y[i] };
    });
    const kept = ends.sort((a, b) => b.weight - a.weight).slice(0, 6).sort((a, b) => a.at - b.at);
    for (let i = 1; i < kept.length; i += 1) kept[i].at = Math.max(kept[i].at, kept[i - 1].at + 12);
    const over = kept.at(-1).at - (H - BOTTOM);
    if (over > 0) for (const end of kept) end.at -= over;
    for (const end of kept) node("text", { x: W - right + 5, y: end.at + 3.5, class: "ch-name" }, root, end.name);
  }

  const cursor = node("line", { y1: TOP, y2: H - BOTTOM, class: "ch-cursor", visibility: "hidden" }, root);
  return {
    moveTo(x) {
      const there = x !== null && x >= first && x <= last;
      cursor.setAttribute("visibility", there ? "visible" : "hidden");
      if (!there) return;
      cursor.setAttribute("x1", px(x));
      cursor.setAttribute("x2", px(x));
    },
    destroy: () => host.replaceChildren(),
  };
}
