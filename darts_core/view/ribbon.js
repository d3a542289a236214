/* A cell drawn as ribbons: every edge is striped by the weights of its operations, in their fixed order.

   One file without imports or exports; each host (dashboard, notebook, report) appends an adapter of a few lines.
   Nodes never move and no element is made or removed while weights change: only the `d` of the bands is written.

   mountRibbon(host, {onEdge, onOp}) -> {update, select, highlight, svg, destroy}
     onEdge(edge)         a person chose an edge by click, Enter or Space; without it, edges are a picture alone
     onOp(op | null)      a person points at a stripe of this operation, or at none any more
   update({layout, edges, states, ops, colours, weights, kept, held, tween, alt})
     layout   boxes and lines of darts_core/view/layout.py     edges   [[source, target], ...]
     spoken   the states in words, for labels                  weights row-major (edges x ops), any array of numbers
     kept     per edge true or false, or null: others fade     tween   milliseconds; 0 jumps
     alt      what the drawing is, "Normal cell"            held    per edge what was pinned or banned on it, or ""
*/
function mountRibbon(host, options = {}) {
  const SVG = "http://www.w3.org/2000/svg";
  const WIDE = 15; // thickness of a ribbon
  const SAMPLES = 37; // points along a ribbon
  const SEAM = 0.1; // overlap of neighbouring bands, so that no light shines between them
  const THIN = 0.015; // bands below this thickness, a thousandth of the ribbon, are left out
  const LARGEST = 1.4; // pixels of a drawing unit, at most
  const STILL = 0.002; // an edge is drawn again when one of its weights moved by more than this

  const reduced = window.matchMedia("(prefers-reduced-motion: reduce)");
  let data = null;
  let built = ""; // what the drawing was built from; it is built again only when that changes
  let parts = []; // per edge: {group, bands, title, curve, drawn (weights on screen)}
  let root = null;
  let selected = -1;
  let lit = null;
  let from = null; // weights at the start of the tween
  let target = null;
  let frame = 0;

  /** Show new data; the bands move there within `tween` milliseconds. */
  function update(next) {
    data = next;
    const key = JSON.stringify([next.layout, next.edges, next.ops, next.colours, next.spoken]);
    if (key !== built) {
      built = key;
      build();
    }
    root.setAttribute("aria-label", next.alt ?? "Cell");
    const began = target;
    target = Float64Array.from(next.weights);
    fade();
    describe();
    cancelAnimationFrame(frame);
    const tween = reduced.matches ? 0 : (next.tween ?? 0);
    if (!began || !tween) return draw(target);
    from = shownWeights();
    const start = performance.now();
    const move = (now) => {
      const part = Math.min(1, (now - start) / tween);
      draw(target.map((weight, i) => from[i] + (weight - from[i]) * part));
      if (part < 1) frame = requestAnimationFrame(move);
      else draw(target);
    };
    frame = requestAnimationFrame(move);
  }

  // ------------------------------------------------------------------------------------------------------- building

  function build() {
    const { layout, edges, ops, colours } = data;
    host.replaceChildren();
    target = null;
    root = element("svg", { viewBox: `0 0 ${layout.width} ${layout.height}`, class: "rb", role: "group" }, host);
    root.style.maxWidth = `${Math.round(LARGEST * layout.width)}px`; // a small cell is not blown up
    const under = element("g", {}, root);
    parts = edges.map((edge, e) => buildEdge(e, curveOf(layout.lines[e]), ops, colours, under));
    const badges = element("g", { class: "rb-badges", "aria-hidden": "true" }, root);
    parts.forEach((part) => (part.badge = buildBadge(part.curve, badges)));
    const boxes = element("g", { class: "rb-boxes", "aria-hidden": "true" }, root);
    layout.boxes.forEach((box) => buildBox(box, boxes));
    root.addEventListener("pointerover", (event) => options.onOp?.(event.target.dataset?.op ?? null));
    root.addEventListener("pointerleave", () => options.onOp?.(null));
    select(selected);
    highlight(lit);
  }

  function buildEdge(e, curve, ops, colours, under) {
    const chosen = options.onEdge ? { tabindex: 0, role: "button", "aria-pressed": "false" } : { role: "img" };
    const group = element("g", { class: "rb-edge", ...chosen }, under);
    const title = element("title", {}, group);
    const middle = "M" + curve.map((p) => `${round(p.x)},${round(p.y)}`).join("L");
    element("path", { d: middle, class: "rb-halo" }, group);
    element("path", { d: middle, class: "rb-pick" }, group);
    element("path", { d: band(curve, -WIDE / 2 - 0.5, WIDE / 2 + 0.5), class: "rb-casing" }, group);
    const bands = ops.map((op, o) => element("path", { fill: colours[o], class: "rb-band", "data-op": op }, group));
    if (options.onEdge) makeChoosable(group, e);
    return { group, bands, title, curve, badge: null, drawn: new Float64Array(ops.length).fill(-1) };
  }

  function makeChoosable(group, e) {
    group.addEventListener("mousedown", (event) => event.preventDefault()); // a click takes no focus: Space stays the page's
    group.addEventListener("click", () => pick(e));
    group.addEventListener("keydown", (event) => {
      if (event.key !== "Enter" && event.key !== " ") return;
      event.preventDefault();
      event.stopPropagation();
      pick(e);
    });
  }

  /** A small lock a third along the edge, for edges that were pinned or banned by hand; above all ribbons. */
  function buildBadge(curve, parent) {
    const { x, y } = curve[Math.floor(SAMPLES / 3)];
    const badge = element("g", { class: "rb-held", transform: `translate(${round(x)},${round(y)})` }, parent);
    element("circle", { r: 9, class: "rb-box" }, badge);
    element("path", { d: "M-3.2,-0.8V4.4H3.2V-0.8ZM-2,-0.8V-2.6A2,2.4 0 0 1 2,-2.6V-0.8", class: "rb-lock" }, badge);
    return badge;
  }

  function buildBox(box, parent) {
    const { x, y, width, height } = box;
    element("rect", { x: x - width / 2, y: y - height / 2, width, height, rx: 10, class: "rb-box" }, parent);
    const text = element("text", { x, y: y + 5, "text-anchor": "middle", class: "rb-text" }, parent);
    text.textContent = box.text;
    if (box.sub) element("tspan", { dy: 4, class: "rb-sub" }, text).textContent = box.sub;
  }

  // -------------------------------------------------------------------------------------------------------- geometry

  /** Points with normals of a cubic that leaves its source and reaches its target level. */
  function curveOf([x0, y0, x1, y1]) {
    const half = (x1 - x0) / 2;
    const points = Array.from({ length: SAMPLES }, (_, i) => {
      const t = i / (SAMPLES - 1);
      const [a, b, c, d] = [(1 - t) ** 3, 3 * (1 - t) ** 2 * t, 3 * (1 - t) * t ** 2, t ** 3];
      return { x: a * x0 + b * (x0 + half) + c * (x1 - half) + d * x1, y: (a + b) * y0 + (c + d) * y1 };
    });
    points.forEach((point, i) => {
      const before = points[Math.max(0, i - 1)];
      const after = points[Math.min(SAMPLES - 1, i + 1)];
      const length = Math.hypot(after.x - before.x, after.y - before.y) || 1;
      point.nx = -(after.y - before.y) / length;
      point.ny = (after.x - before.x) / length;
    });
    return points;
  }

  /** The closed strip from `low` to `high` beside the middle line. */
  function band(curve, low, high) {
    let there = "";
    let back = "";
    for (const { x, y, nx, ny } of curve) {
      there += `${there ? "L" : "M"}${round(x + nx * low)},${round(y + ny * low)}`;
      back = `L${round(x + nx * high)},${round(y + ny * high)}${back}`;
    }
    return `${there}${back}Z`;
  }

  // --------------------------------------------------------------------------------------------------------- drawing

  /** Write the bands of every edge whose weights moved. `weights`: row-major (edges x ops). */
  function draw(weights) {
    const n = data.ops.length;
    parts.forEach((part, e) => {
      const row = weights.subarray(e * n, e * n + n);
      const moved = row.some((weight, o) => Math.abs(weight - part.drawn[o]) > STILL);
      if (!moved && !(weights === target && row.some((weight, o) => weight !== part.drawn[o]))) return;
      const whole = Math.max(
        1,
        row.reduce((sum, weight) => sum + weight, 0),
      );
      let offset = -WIDE / 2;
      row.forEach((weight, o) => {
        const thick = (WIDE * weight) / whole;
        part.bands[o].setAttribute("d", thick < THIN ? "" : band(part.curve, offset, offset + thick + SEAM));
        offset += thick;
      });
      part.drawn.set(row);
    });
  }

  function shownWeights() {
    const n = data.ops.length;
    const weights = new Float64Array(parts.length * n);
    parts.forEach((part, e) => weights.set(part.drawn, e * n));
    return weights;
  }

  function fade() {
    parts.forEach(({ group }, e) => group.classList.toggle("rb-dropped", Boolean(data.kept && !data.kept[e])));
  }

  /** What a screen reader says of each edge, and what shows on hover. */
  function describe() {
    const n = data.ops.length;
    parts.forEach((part, e) => {
      const row = Array.from(target.subarray(e * n, e * n + n));
      const order = row.map((_, o) => o).sort((a, b) => row[b] - row[a]);
      const said = order
        .slice(0, 3)
        .map((o) => `${data.ops[o]} ${Math.round(100 * row[o])} %`)
        .join(", ");
      const total = row.reduce((sum, weight) => sum + weight, 0);
      const sum = Math.abs(total - 1) < 0.005 ? "" : ` (weights sum to ${total.toFixed(2)})`;
      const [source, end] = data.edges[e].map((state) => data.spoken[state]);
      const held = data.held?.[e] ? `, ${data.held[e]} by hand` : "";
      part.badge.classList.toggle("rb-on", Boolean(held));
      const sentence = `Edge from ${source} to ${end}: ${said}${sum}${held}`;
      if (part.title.textContent === sentence) return;
      part.title.textContent = sentence;
      part.group.setAttribute("aria-label", sentence);
    });
  }

  // ------------------------------------------------------------------------------------------------- pointing, export

  function pick(e) {
    select(e);
    options.onEdge?.(e);
  }

  /** Mark an edge as chosen; -1 for none. */
  function select(e) {
    selected = e;
    parts.forEach(({ group }, i) => {
      group.classList.toggle("rb-selected", i === e);
      if (options.onEdge) group.setAttribute("aria-pressed", String(i === e));
    });
  }

  /** Dim every stripe but those of one operation; null for none. */
  function highlight(op) {
    lit = op;
    root?.classList.toggle("rb-pointing", op !== null && op !== undefined);
    parts.forEach(({ bands }) => bands.forEach((path) => path.classList.toggle("rb-lit", path.dataset.op === op)));
  }

  /** This frame as a file of its own: colours that the page's theme gives are written into the elements. */
  function svg() {
    const copy = root.cloneNode(true);
    const originals = root.querySelectorAll("*");
    copy.querySelectorAll("*").forEach((node, i) => inline(node, getComputedStyle(originals[i])));
    copy.querySelectorAll(".rb-pick, .rb-halo, .rb-held:not(.rb-on)").forEach((node) => node.remove());
    const { width, height } = data.layout;
    const ground = element("rect", {
      width,
      height,
      fill: getComputedStyle(root).getPropertyValue("--rb-ground") || "#fff",
    });
    copy.prepend(ground);
    copy.setAttribute("xmlns", SVG);
    copy.setAttribute("width", width);
    copy.setAttribute("height", height);
    return new XMLSerializer().serializeToString(copy);
  }

  function inline(node, style) {
    const wanted = ["fill", "stroke", "stroke-width", "opacity", "font-family", "font-size", "paint-order"];
    wanted.forEach((name) => node.setAttribute(name, style.getPropertyValue(name)));
    ["tabindex", "role", "aria-pressed"].forEach((name) => node.removeAttribute(name));
  }

  function destroy() {
    cancelAnimationFrame(frame);
    host.replaceChildren();
    parts = [];
    built = "";
  }

  function element(name, attributes, parent) {
    const node = document.createElementNS(SVG, name);
    for (const key in attributes) node.setAttribute(key, attributes[key]);
    parent?.appendChild(node);
    return node;
  }

  function round(value) {
    return Math.round(value * 100) / 100; // so that stripes are as wide as their weights to a thousandth
  }

  return { update, select, highlight, svg, destroy };
}
