/* Part of the board: what a search found and what that is worth. Loaded after board_edges.js. */

/** What the search found and what it is worth: the derived cell, and its accuracies beside random cells. */
function outcomePanel(board) {
  const sums = make("div", { class: "db-outcells" });
  const gap = make("div", { class: "db-outwords" });
  const worth = make("div", { class: "db-outwords" });
  const el = make(
    "section",
    { class: "db-card db-outcome", hidden: "" },
    make("h3", {}, board.data.fixed ? "The trained cell" : "The cell it found"),
    make("div", { class: "db-outgrid" }, make("div", { class: "db-outwords" }, sums, gap), worth),
  );
  let shown = "";

  function update() {
    const { result, trained, summary } = board.story;
    el.hidden = !result;
    const key = result ? `${result.step} ${trained.length} ${summary !== null} ${board.live}` : "";
    if (!result || key === shown) return;
    shown = key;
    const found = Object.entries(result.genotype.cells).filter(([kind]) => board.data.cells[kind]);
    sums.replaceChildren(
      ...found.map(([kind, genes]) => derivedSums(board.data.cells[kind], genes, (op) => board.colour(op))),
    );
    const measure = board.data.text ? PERPLEXITY : ACCURACY;
    const spreads = summaryOf(trained, measure);
    gap.replaceChildren(...gapOf(spreads, measure));
    const alone = board.data.fixed && summary?.multiply_adds !== undefined;
    worth.replaceChildren(...(alone ? aloneWorth(summary) : worthOf(spreads, measure, board)));
  }

  return { el, update };
}

/** A derived cell as sums: "0 = skip_connect(c_{k-2}) + sep_conv_3x3(c_{k-1})", one line per node. */
function derivedSums(spec, genes, colour) {
  const name = (state) => stateNodes(spec.states[state].replace("node ", ""));
  const lines = genes.nodes.map((node, i) => {
    const terms = node.flatMap(([op, source], k) => [
      k ? " + " : "",
      make("span", { class: "db-term", style: `border-color:${colour(op)}` }, `${op}(`, ...name(source), ")"),
    ]);
    return make("li", {}, make("b", {}, String(i)), " = ", ...(terms.length ? terms : ["nothing"]));
  });
  return make("div", {}, make("h4", {}, spec.title), make("ol", { class: "db-sums" }, ...lines));
}

/** How good a trained network is: how it is named, written, and which of two values is the better one. */
const ACCURACY = {
  of: ({ accuracy, test_accuracy }) => test_accuracy ?? accuracy,
  write: (value) => percent(value, 1),
  better: (one, other) => one > other,
  said: (value) => `${percent(value, 1)} test accuracy`,
  about: "Accuracy on test images.",
  pad: 0.005,
};
const PERPLEXITY = {
  of: ({ metrics }) => metrics?.test_perplexity ?? metrics?.valid_perplexity,
  write: (value) => value.toFixed(2),
  better: (one, other) => one < other,
  said: (value) => `a perplexity of ${value.toFixed(2)} on the test text, where lower is better`,
  about: "Perplexity on the test text: lower is better.",
  pad: 0.01,
};

/** role -> {mean, worst, best, count, values} of all its trainings, on test data where they were. */
function summaryOf(trained, { of, better }) {
  const roles = {};
  for (const event of trained) if (Number.isFinite(of(event))) (roles[event.role] ??= []).push(of(event));
  return Object.fromEntries(
    Object.entries(roles).map(([role, values]) => [
      role,
      {
        values,
        count: values.length,
        worst: values.reduce((a, b) => (better(a, b) ? b : a)),
        best: values.reduce((a, b) => (better(a, b) ? a : b)),
        mean: values.reduce((s, v) => s + v, 0) / values.length,
      },
    ]),
  );
}

/** What the derived cell is worth, beside random cells of its space. */
function worthOf({ derived, random }, measure, { data, story, live }) {
  if (!derived) return [make("p", {}, live ? BEING_TRAINED : notTrained(story.result.metrics ?? {}, data.known))];
  const size = story.trained.findLast((event) => event.role === "derived").parameters;
  const words = data.fixed
    ? `It reaches ${measure.said(derived.mean)}${size ? `, with ${grouped(size)} parameters` : ""}.`
    : comparison(derived, random, measure);
  const nodes = [make("p", { class: "db-verdict" }, words)];
  if (random)
    nodes.push(
      dotPlot(
        [
          ["derived", derived],
          ["random", random],
        ],
        measure,
      ),
    );
  return nodes;
}

const BEING_TRAINED = "Its cell is being looked at now, and trained from scratch where that was asked for.";

function notTrained({ trials, valid_accuracy: best }, known) {
  if (known) return "This run did not train its cell again: what the cell is worth was looked up, see the truth above.";
  if (trials && best !== undefined)
    return `The best of ${grouped(trials)} cells tried: ${percent(best, 1)} validation accuracy after a short training of each.`;
  return "This run did not train its cell from scratch, so what it is worth is not known yet: Train this cell tells.";
}

/** What one cell that was trained from scratch is worth, and what its network costs. */
function aloneWorth({ test_accuracy: test, valid_accuracy: valid, parameters, multiply_adds: adds, latency_ms: wait }) {
  const images = test === undefined ? "held-out training images" : "test images";
  const rows = [
    [percent(test ?? valid, 1), `of the ${images} named rightly, after the last epoch`],
    [parameters.toLocaleString("en"), "parameters"],
    [adds.toLocaleString("en"), "multiply-adds per image, in convolutions and linear layers"],
    [`${wait.toFixed(1)} ms`, "for one image, on the machine that trained it"],
  ];
  const boxes = rows.map(([number, about]) =>
    make("div", {}, make("dd", {}, number), make("dd", { class: "db-about" }, about)),
  );
  return [make("h4", {}, "Trained from scratch"), make("dl", { class: "db-gap db-alone" }, ...boxes)];
}

/** The discretisation gap as three numbers: before the cut, right after it, and trained again. */
function gapOf({ derived, supernet, pruned }, { write, about }) {
  if (!supernet && !pruned) return [];
  const numbers = [
    ["supernet", "all operations mixed", supernet],
    ["pruned at once", "only the derived edges, same weights", pruned],
    ["retrained", "derived cell, from scratch", derived],
  ].filter(([, , spread]) => spread);
  const boxes = numbers.map(([name, what, { mean }]) =>
    make("div", {}, make("dt", {}, name), make("dd", {}, write(mean)), make("dd", { class: "db-about" }, what)),
  );
  return [
    make("h4", {}, "Discretisation gap"),
    make("dl", { class: "db-gap" }, ...boxes),
    make(
      "p",
      { class: "db-about" },
      `${about} From the first number to the second: what cutting all but the strongest operations costs before any training.`,
    ),
  ];
}

/** In words and without praise: a search that only equals chance is said to. */
function comparison(derived, random, { write, better, said }) {
  const from = ({ worst, best }) => (worst < best ? [worst, best] : [best, worst]).map(write).join(" to ");
  const range = (spread) => (spread.count > 1 ? ` (${spread.count} trainings, ${from(spread)})` : "");
  const own = `Trained from scratch, the derived cell reaches ${said(derived.mean)}${range(derived)}.`;
  if (!random) return own;
  if (random.count === 1) {
    return `${own} A random cell of the same space reaches ${write(random.mean)}. A single cell to compare with proves little.`;
  }
  const others = ` ${random.count} random cells of the same space reach ${write(random.mean)} on average (${from(random)}).`;
  const verdict = better(derived.mean, random.best)
    ? " It beats every random cell tried."
    : !better(random.mean, derived.mean)
      ? " That is within the spread of random cells, no worse than their mean."
      : better(random.worst, derived.best)
        ? " It is worse than every random cell tried."
        : " That is worse than the mean of random cells.";
  return own + others + verdict;
}

/** Values as dots on one line per role; a bar marks the mean. */
function dotPlot(rows, { write, pad }) {
  const all = rows.flatMap(([, s]) => s.values);
  const room = Math.max(pad, (Math.max(...all) - Math.min(...all)) * 0.12);
  const [low, high] = [Math.min(...all) - room, Math.max(...all) + room];
  const place = (value) => `left:${(100 * (value - low)) / (high - low)}%`;
  return make(
    "div",
    { class: "db-dots", "aria-hidden": "true" },
    ...rows.flatMap(([name, s]) => [
      make("span", {}, name),
      make(
        "span",
        { class: "db-dotrow" },
        ...s.values.map((v) => make("i", { style: place(v), title: write(v) })),
        make("b", { style: place(s.mean) }),
      ),
    ]),
    make("span"),
    make("span", { class: "db-dotaxis" }, make("span", {}, write(low)), make("span", {}, write(high))),
  );
}
