/* Part of the board: its panels about edges: the chosen one with its formula, all of them as a heat map, and the same
   numbers as tables. Loaded after board_panels.js, whose words hold for these too. */

/** The chosen edge: its weights now, over time, and as the formula that the supernet computes. */
function edgePanel(board, chart) {
  const title = make("h3", {});
  const fate = make("span", { class: "db-chip" });
  const bars = make("div", { class: "db-bars" });
  const reset = make(
    "button",
    { type: "button", class: "db-button", title: "All operations of the space again", onclick: () => give("reset", null) },
    "Reset edge",
  );
  const answer = make("span", { class: "db-about", role: "status" });
  const steering = make("div", { class: "db-steering" }, answer, reset);
  const terms = make("p", { class: "db-terms" });
  const note = make("p", { class: "db-about" });
  const equation = make("div", { class: "db-equation" });
  let rows = [];
  let shownKey = "";
  const el = make(
    "section",
    { class: "db-card db-edge" },
    make("div", { class: "db-cardhead" }, title, fate),
    bars,
    steering,
    make("div", { class: "db-formula" }, equation, terms, note),
    chart.head,
    chart.about,
    chart.box,
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
      const does = (kind, text, hint) =>
        make("button", {
          type: "button",
          class: "db-act",
          title: hint,
          "aria-label": `${text} ${op} on this edge`,
          onclick: () => give(kind, op),
        }, text);
      const pin = does("pin", "Pin", `Only ${op} from the next step on`);
      const ban = does("ban", "Ban", `No ${op} from the next step on`);
      const row = make(
        "div",
        {
          class: "db-barrow",
          "data-op": op,
          onpointerenter: () => board.point(op),
          onpointerleave: () => board.point(null),
        },
        make("span", { class: "db-barname" }, swatch(spec.colours[o]), op),
        make("span", { class: "db-bar" }, fill),
        value,
        alpha,
        make("span", { class: "db-acts" }, pin, ban),
      );
      return { row, fill, value, alpha, pin, ban };
    });
    bars.replaceChildren(
      make(
        "div",
        { class: "db-barrow db-barhead", "aria-hidden": "true" },
        make("span"),
        make("span"),
        make("span", {}, "weight"),
        make("span", {}, "alpha"),
        make("span", { class: "db-acts" }),
      ),
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
    const legal = board.legal(kind, edge, board.records?.count ? board.shownStep : Infinity);
    updateSteering(spec, kind, edge);
    weights.forEach((weight, o) => {
      rows[o].fill.style.transform = `scaleX(${clamp(weight / Math.max(1, whole), 0, 1).toFixed(4)})`;
      say(rows[o].value, legal[o] ? percent(weight, 1) : spec.legal[edge][o] ? "banned" : "not allowed");
      say(rows[o].alpha, alphas ? alphas[o].toFixed(3) : "");
      rows[o].row.classList.toggle("db-dim", Boolean(board.op) && board.op !== spec.ops[o]);
    });
    updateFate(kind, spec, edge);
    updateFormula(spec, weights, alphas, whole, edge, legal);
  }

  function give(kind, op) {
    board.order({ kind, name: board.edgeName(board.edge.kind, board.edge.index), value: op });
  }

  /** Buttons only where a search takes orders; each only where it would change something. */
  function updateSteering(spec, kind, edge) {
    const takes = board.data.steer && ["running", "paused"].includes(board.stateName);
    el.classList.toggle("db-steers", takes);
    const now = board.legal(kind, edge, Infinity);
    const may = now.filter((ok, o) => ok && spec.ops[o] !== "none").length;
    rows.forEach(({ pin, ban }, o) => {
      const none = spec.ops[o] === "none";
      pin.disabled = none || !spec.legal[edge][o] || (now[o] && now.filter(Boolean).length === 1);
      ban.disabled = !now[o] || (!none && may === 1);
    });
    reset.hidden = !takes || now.every((ok, o) => ok === spec.legal[edge][o]);
    say(answer, takes || board.asked ? answerTo(board.asked) : "");
    steering.hidden = reset.hidden && !answer.textContent;
  }

  function answerTo(asked) {
    if (!asked || asked.name !== board.edgeName(board.edge.kind, board.edge.index)) return "";
    const same = (event) =>
      event.type === "applied" && event.kind === asked.kind && event.name === asked.name && event.value === asked.value;
    const answered = board.story.events.slice(asked.after).find(same);
    const words = asked.value ? `${asked.kind} ${asked.value}` : asked.kind;
    if (!answered) return `${words}: pending`;
    return answered.accepted ? `${words}: applied at step ${answered.step}` : `${words}: refused, ${answered.reason}`;
  }

  function updateFate(kind, spec, edge) {
    const { best, kept } = board.derived(kind);
    fate.hidden = !board.records?.count;
    say(fate, kept[edge] ? `would be kept as ${spec.ops[best[edge]]}` : "would be dropped");
  }

  function updateFormula(spec, weights, alphas, whole, edge, legal) {
    const order = weights
      .map((_, o) => o)
      .filter((o) => weights[o] >= 0.005)
      .sort((a, b) => weights[b] - weights[a]);
    const parts = order.slice(0, 4).flatMap((o, i) => [
      i ? " + " : "",
      make(
        "span",
        {
          class: board.op && board.op !== spec.ops[o] ? "db-term db-dim" : "db-term",
          style: `border-color:${spec.colours[o]}`,
        },
        `${weights[o].toFixed(3)} ${spec.ops[o]}(x)`,
      ),
    ]);
    const rest = weights.filter((w, o) => !order.slice(0, 4).includes(o) && w > 0).length;
    terms.replaceChildren("\u014D(x) = ", ...parts, rest ? ` + ${rest} smaller` : "");
    const relaxed = alphas ? softmaxFits(weights, alphas, legal, board.temperature) : true;
    setEquation(relaxed ? (board.temperature === 1 ? "softmax" : "temperature") : "weights");
    const sum =
      Math.abs(whole - 1) < 0.005
        ? ""
        : ` The weights sum to ${whole.toFixed(2)}; the ribbon is drawn divided by ${Math.max(1, whole).toFixed(2)}.`;
    const source = spec.states[spec.edges[edge][0]];
    if (note.dataset.said === source + sum) return;
    note.dataset.said = source + sum;
    const highway = spec.ops.includes("tanh")
      ? " In a recurrent cell each is a highway: tanh(x) stands for x + \u03c3(c) \u00b7 (tanh(h) \u2212 x), [c, h] = x W."
      : "";
    const adds = "; a node adds up what its edges bring.";
    note.replaceChildren(source === "input" ? "x is the " : "x is the output of ", ...stateNodes(source), adds, highway, sum);
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
const exponential = (power, index) =>
  `<mi>exp</mi><mo>(</mo><msub><mi>&#x3B1;</mi><mi>${index}</mi></msub>${power}<mo>)</mo>`;
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
  const about = make("p", { class: "db-about" });
  const el = make(
    "section",
    { class: "db-card", "data-chart": "heat" },
    make("h3", {}, "All edges at a glance"),
    about,
    grids,
  );
  let shown = "";
  let maps = [];

  function build() {
    maps = board.kindsShown.map((kind) => {
      const spec = board.data.cells[kind];
      const grid = make("div", {
        class: "db-heat",
        style: `--ops:${spec.ops.length}`,
        role: "img",
        "aria-label": `${spec.title}: weights of all edges`,
      });
      grid.append(
        make("span"),
        ...spec.ops.map((op, o) => make("span", { class: "db-heathead", title: op }, swatch(spec.colours[o]))),
      );
      const cells = spec.edges.flatMap((edge, e) => {
        const [source, target] = edge.map((state) => spec.states[state].replace("node ", ""));
        grid.append(make("span", { class: "db-heatname" }, ...stateNodes(source), "\u2192", target));
        return spec.ops.map((op, o) => {
          const tile = make("i", { style: `--tint:${spec.colours[o]}` });
          const box = make("span", { class: "db-tile" }, tile);
          box.addEventListener("pointerenter", () => board.point(op));
          box.addEventListener("click", () => board.pickEdge(kind, e));
          grid.append(box);
          return { tile, box, edge: `from ${spec.spoken[edge[0]]} to ${spec.spoken[edge[1]]}`, op };
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
    let hatched = false;
    for (const { kind, spec, cells } of maps) {
      const mix = board.mix(kind);
      const { best, kept } = board.derived(kind);
      const n = spec.ops.length;
      const shut = spec.edges.map((_, e) => board.legal(kind, e, board.records?.count ? board.shownStep : Infinity));
      hatched ||= shut.some((row) => !row.every(Boolean));
      cells.forEach((cell, i) => {
        const e = Math.floor(i / n);
        cell.box.classList.toggle("db-shut", !shut[e][i % n]);
        const said = `${cell.edge}: ${cell.op} ${percent(mix[i], 1)}`;
        if (cell.said !== said) {
          cell.said = said;
          cell.tile.style.opacity = clamp(mix[i], 0, 1).toFixed(3);
          cell.box.title = said;
        }
        cell.box.classList.toggle("db-kept", Boolean(board.records?.count) && kept[e] === 1 && best[e] === i % n);
        cell.box.classList.toggle("db-dim", Boolean(board.op) && board.op !== cell.op);
      });
    }
    const words = "One row per edge; the stronger the colour, the larger the weight. A ring: what derivation would keep.";
    say(about, hatched ? `${words} Hatched: not allowed on that edge.` : words);
  }

  return { el, update };
}

/** The numbers of the step shown, one keystroke away. */
function tablePanel(board) {
  const body = make("div", {
    class: "db-tablebox",
    tabindex: 0,
    role: "region",
    "aria-label": "Weights of all edges in numbers",
  });
  const close = make("button", { type: "button", class: "db-button", onclick: () => board.toggleTable() }, "Close (T)");
  const title = make("h3", {}, "Numbers of this step");
  const el = make(
    "section",
    { class: "db-card db-table", hidden: "" },
    make("div", { class: "db-cardhead" }, title, close),
    body,
  );

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
    const text = !Number.isFinite(value)
      ? "not measured"
      : name.endsWith("accuracy")
        ? percent(value, 1)
        : String(Number(value.toPrecision(4)));
    return make("td", {}, text);
  });
  const head = make("thead", {}, make("tr", {}, ...names.map((name) => make("th", { scope: "col" }, name))));
  return make(
    "table",
    {},
    make("caption", {}, "Of this step's batches"),
    head,
    make("tbody", {}, make("tr", {}, ...cells)),
  );
}

function weightsTable(board, kind) {
  const spec = board.data.cells[kind];
  const mix = board.mix(kind);
  const { best, kept } = board.derived(kind);
  const n = spec.ops.length;
  const head = make(
    "thead",
    {},
    make("tr", {}, ...["edge", ...spec.ops, "derived"].map((name) => make("th", { scope: "col" }, name))),
  );
  const rows = spec.edges.map((edge, e) =>
    make(
      "tr",
      {},
      make("th", { scope: "row" }, ...stateNodes(spec.states[edge[0]]), ` to ${spec.states[edge[1]]}`),
      ...spec.ops.map((_, o) => make("td", {}, percent(mix[e * n + o], 1))),
      make("td", {}, kept[e] ? spec.ops[best[e]] : "dropped"),
    ),
  );
  return make(
    "table",
    { class: "db-weights" },
    make("caption", {}, `${spec.title}: weight of each operation on each edge`),
    head,
    make("tbody", {}, ...rows),
  );
}
