/* Part of the board: Plotly figures, filled from the templates of darts_core/view/figures.py. Loaded after board_data.js. */

const CHARTS_EVERY = 450; // milliseconds between two drawings of one chart
const NAMES = 8; // that find room below one another at the end of the lines
const HIDDEN_EVERY = 2000; // the same for a chart that is scrolled out of sight: a search may share these processors

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
    this.box = make(
      "div",
      { class: "db-plotbox db-waiting", role: "img", "aria-label": template.layout.title.text },
      this.plot,
      this.cursor,
    );
    this.head = make("h3", {}, template.layout.title.text);
    this.about = make("p", { class: "db-about" }, template.layout.meta.about);
    this.card = make("section", { class: "db-card", "data-chart": name }, this.head, this.about, this.box);
  }

  rename(text) {
    say(this.head, text);
    this.box.setAttribute("aria-label", text);
  }

  isDue(now) {
    if (now - this.drawnAt > HIDDEN_EVERY) return true;
    const { top, bottom } = this.box.getBoundingClientRect();
    return bottom > 0 && top < window.innerHeight;
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
    const labels = endLabels(data, layout.yaxis, theme);
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

/** Names at the right end of the lines, of the strongest where there are many: colour is never the only sign.
    On a logarithmic axis Plotly wants the places of annotations as powers of ten. */
function endLabels(data, axis, theme) {
  const stacked = data[0].stackgroup !== undefined;
  const named = data.filter((trace) => trace.hoverinfo !== "skip" && trace.y.some((y) => y !== null));
  if (named.length < 2) return [];
  const last = (trace) => trace.y.findLast((y) => y !== null);
  const placed = axis.type === "log" ? Math.log10 : (y) => y;
  let below = 0;
  const ends = named.map((trace) => {
    const y = stacked ? below + last(trace) / 2 : last(trace);
    below += last(trace);
    return { name: trace.name, y: placed(y), weight: last(trace) };
  });
  const values = named.flatMap((trace) => trace.y).filter((y) => y !== null).map(placed);
  const least = axis.rangemode === "tozero" ? 0 : Infinity;
  const [low, high] = axis.range ?? [Math.min(least, ...values), Math.max(...values)];
  const shown = ends
    .sort((a, b) => b.weight - a.weight)
    .slice(0, NAMES)
    .sort((a, b) => a.y - b.y);
  const gap = (high - low || 1) * 0.075;
  for (let i = 1; i < shown.length; i += 1) shown[i].y = Math.max(shown[i].y, shown[i - 1].y + gap);
  shown.at(-1).y = Math.min(shown.at(-1).y, high); // and from the top down again what went beyond it
  for (let i = shown.length - 2; i >= 0; i -= 1) shown[i].y = Math.min(shown[i].y, shown[i + 1].y - gap);
  return shown.map(({ name, y }) => ({
    x: 1,
    xref: "paper",
    xanchor: "left",
    xshift: 4,
    y,
    yanchor: "middle",
    text: name,
    showarrow: false,
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
  return [...marks]
    .sort((a, b) => (b.kind === "edit") - (a.kind === "edit"))
    .flatMap((mark) => {
      if (taken.some((step) => Math.abs(step - mark.step) < near)) return [];
      taken.push(mark.step);
      return {
        x: mark.step,
        yref: "paper",
        y: side === "top" ? 1 : 0,
        text: mark.text,
        textangle: -90,
        showarrow: false,
        xanchor: "right",
        yanchor: side,
        font: { size: 10, color: theme.muted },
        bgcolor: theme.veil,
      };
    });
}
