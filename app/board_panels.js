/* Part of the board: its panels. Each is a function that makes elements once and gives back {el, update}; `update` writes
   only what changed. They read the board and call its methods, and know nothing of one another. Loaded after
   board_charts.js. */

const SLOW = 2; // seconds without a new step from which the board says so
const LONG_START = 15; // seconds of starting from which the board points to the log
const STALE = { finished: 1, stopped: 1, failed: 1, interrupted: 1, corrupt: 1 }; // states in which nothing more comes
const SPEEDS = [1, 2, 5, 10, 20, 60];

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
    type: "range",
    min: 0,
    max: 0,
    value: 0,
    step: 1,
    class: "db-range",
    "aria-label": "Step shown",
    oninput: () => board.goToIndex(Number(range.value)),
  });
  const ticks = make("div", { class: "db-ticks", "aria-hidden": "true" });
  const speed = make(
    "select",
    {
      class: "db-speed",
      "aria-label": "Replay speed",
      title: "Replay speed: 1x is as fast as it was searched",
      onchange: () => (board.view.speed = Number(speed.value)),
    },
    ...SPEEDS.map((s) => make("option", { value: s }, `${s}x`)),
  );
  const position = make("span", { class: "db-position" });
  const dot = make("i", { class: "db-dot" });
  const linkText = make("span");
  const link = make("span", { class: "db-link" }, dot, linkText);
  const branch = make(
    "button",
    {
      type: "button",
      class: "db-button db-branch",
      title: "A new search from the end of the last epoch before this step, with something changed",
      onclick: () => board.send("branch", { epoch: board.finishedEpochs, nonce: Date.now() }),
    },
    "Branch from here",
  );
  const el = make(
    "div",
    { class: "db-transport" },
    play,
    follow,
    branch,
    make("div", { class: "db-scrub" }, ticks, range),
    speed,
    position,
    link,
  );

  /** After data came or the view changed. */
  function update() {
    const { records, view, live } = board;
    const n = records?.count ?? 0;
    branch.hidden = !board.data.branch || n < 2;
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
    const text = n ? positionText(board) : board.link === "waiting" ? "reading the record" : "no steps yet";
    say(position, text);
    range.setAttribute("aria-valuetext", text);
  }

  function setLink(state, why) {
    const words = {
      waiting: "connecting",
      live: STALE[board.stateName] ? "connected" : "live", // an interrupted run is listened to: it may be resumed
      down: "disconnected, trying again",
      ended: "complete",
      page: "through the page",
    };
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
    const nodes = board
      .changeSteps()
      .map((step) => make("i", { class: "db-tick db-change", style: `left:${place(step)}` }));
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
  const of = total ? ` of ${grouped(total)}` : "";
  return `step ${grouped(records.step(index))}${of}, epoch ${records.epoch(index) + 1}${board.data.epochs ? ` of ${board.data.epochs}` : ""}`;
}

/** The state of the run in a chip and a sentence. A page with a heading of its own gets only what that does not say. */
function statusPanel() {
  const chip = make("span", { class: "db-chip" });
  const line = make("span", { class: "db-line" });
  const edited = make(
    "span",
    { class: "db-chip db-edited", hidden: "", title: "Settings were changed while it ran" },
    "edited",
  );
  const el = make("div", { class: "db-status" }, chip, line, edited);
  return {
    el,
    update(board) {
      const headed = Boolean(board.data.headed);
      say(chip, board.stateName);
      chip.dataset.state = board.stateName;
      say(line, headed && isPlain(board) ? "" : statusSentence(board));
      chip.hidden = headed;
      edited.hidden = headed || !board.status.edited;
    },
  };
}

/** Does the run simply go on, or was it simply done? */
function isPlain(board) {
  const busy = board.story.phases.at(-1)?.name === "evaluate";
  const calm = board.stateName === "running" && !board.slow && !busy && board.link !== "down" && board.view.mode !== "hold";
  const broken = board.stateName === "failed" || board.stateName === "interrupted"; // the heading has a card for it
  return calm || broken || board.stateName === "finished" || board.stateName === "stopped";
}

function statusSentence(board) {
  const { status, records, view } = board;
  const state = board.stateName;
  const held = view.mode === "hold" && board.live ? ` Your view is held; the ${board.data.fixed ? "training" : "search"} goes on.` : "";
  if (board.link === "down" && !records) return board.linkWhy || "The server cannot be reached; trying again.";
  if (state === "starting")
    return records?.count
      ? "The process is starting again; it goes on from its last checkpoint."
      : "The first steps appear here by themselves.";
  if (state === "running") return runningSentence(board) + held;
  if (state === "paused")
    return `Paused at step ${records?.lastStep ?? status.step}: nothing is lost, resume it when you like.`;
  if (state === "finished") return `Finished after ${records?.lastStep ?? status.step} steps.`;
  if (state === "stopped")
    return `Stopped by request at step ${records?.lastStep ?? status.step}; this is the cell it had by then.`;
  if (state === "interrupted") {
    return sentence(status.message ?? "") || `The process ended at step ${status.step}; resume it to go on from its last checkpoint.`;
  }
  if (state === "failed") return sentence(status.message ?? "") || "The run ended by a fault.";
  if (state === "corrupt") return status.message || "This run cannot be read."; // begins with the name of a file
  return "";
}

function runningSentence(board) {
  const { status, story, records } = board;
  const phase = story.phases.at(-1);
  if (phase?.name === "evaluate") return sentence(phase.message ?? "") || "Training the derived cell to see what it is worth.";
  if (board.slow) return `Last update ${Math.floor(board.age)} s ago.`;
  const rate = status.rate ? `${status.rate.toFixed(status.rate < 10 ? 1 : 0)} steps/s` : board.data.fixed ? "training" : "searching";
  const left = status.rate && board.totalSteps ? (board.totalSteps - (records?.lastStep ?? 0)) / status.rate : 0;
  return left > 0 ? `${rate}, about ${duration(left)} left.` : `${rate}.`;
}

/** What the language model writes at the end of an epoch; nothing is shown before the first text. */
function samplePanel() {
  const title = make("h3", {});
  const text = make("p", { class: "db-sample-text" });
  const el = make("section", { class: "db-card db-sample", hidden: "" }, title, text);
  return {
    el,
    update(event) {
      if (!event) return;
      el.hidden = false;
      say(title, `What the model writes after ${event.epoch + 1} ${event.epoch ? "epochs" : "epoch"}`);
      say(text, event.text);
    },
  };
}

/** How far the cell has gone toward skips: squares, numbers, a word. Announced when the word changes. */
function meterPanel(op) {
  const skip = op === "identity" ? "identity" : "skip";
  const squares = make("span", { class: "db-squares", "aria-hidden": "true" });
  const text = make("span", { class: "db-meter-text" });
  const level = make("b", { class: "db-level" });
  const why = make("span", { class: "db-about" });
  const facts = make("dl", { class: "db-facts" });
  const caveat = make("span", { class: "db-about", hidden: "" });
  const reason = make("p", { class: "db-reason", hidden: "" });
  const status = make("span", { class: "db-heard", role: "status" });
  const el = make(
    "div",
    { class: "db-meter" },
    make("span", { class: "db-meter-name" }, "Collapse meter"),
    squares,
    text,
    level,
    why,
    facts,
    caveat,
    reason,
    status,
  );
  const meaning = skip === "identity" ? {
    healthy: "Few of the nodes that derivation would make have no curve of their own (identity).",
    drifting: "Nodes without a curve of their own (identity) are taking over.",
    collapsed: "Nearly every node that derivation would make is an identity: only gates bend what passes through.",
  } : {
    healthy: "Few of the edges that derivation would keep are skips.",
    drifting: "Skips are taking over the edges that derivation would keep.",
    collapsed: "Nearly every edge that derivation would keep only passes its input on: little is left to learn with.",
  };
  return {
    el,
    update({ skips, edges, weight }, word, board) {
      if (squares.childElementCount !== edges)
        squares.replaceChildren(...Array.from({ length: edges }, () => make("i")));
      [...squares.children].forEach((square, i) => square.classList.toggle("db-skip", i < skips));
      say(text, `${skips} of ${edges} derived edges are ${skip}, mean ${skip} weight ${percent(weight)}, `);
      say(why, meaning[word] ?? "");
      updateFacts(board);
      if (level.textContent === word) return;
      say(level, word);
      level.dataset.level = word;
      say(status, `${text.textContent}${word}`);
    },
  };

  /** What was measured at the last end of an epoch, and why the level got worse. */
  function updateFacts(board) {
    const { epoch, alarm } = board.lastMeasured;
    const { control } = board.data;
    const rows = [];
    const near = (name) => (control[name] ? `; healthy control: ${control[name].map((v) => v.toFixed(2)).join(" to ")}` : "");
    const { valid_rise: rise, eigenvalue } = epoch?.probes ?? {};
    if (rise !== undefined) rows.push(["Validation loss", `${rise.toFixed(2)} above its minimum${near("valid_rise")}`]);
    if (eigenvalue !== undefined) rows.push(["Dominant eigenvalue", `${eigenvalue.toFixed(2)}${near("eigenvalue")}`]);
    const key = JSON.stringify([rows, alarm?.step]);
    if (facts.dataset.said === key) return;
    facts.dataset.said = key;
    facts.replaceChildren(...rows.map(([name, value]) => make("div", {}, make("dt", {}, name), make("dd", {}, value))));
    facts.hidden = !rows.length;
    caveat.hidden = !rows.length || board.data.text; // it was measured on images
    say(caveat, `In the recorded searches on noisy labels ${eigenvalue === undefined ? CAVEATS.rise : CAVEATS.both}`);
    reason.hidden = !alarm;
    const said = alarm?.reason.replace(/(\d)%/g, "$1 %"); // runs of earlier versions
    say(reason, alarm ? `It became ${alarm.level} at step ${grouped(alarm.step)}: ${said}.` : "");
  }
}

/** What the cell of the last epoch is worth, where every cell of the space was trained beforehand (`cells` of them); the
    same words as darts_core/truth.py. The rank is a band, for the seeds' noise allows no more. */
function truthPanel(cells) {
  const text = make("span");
  const el = make("p", { class: "db-truth", hidden: "" }, make("b", {}, "The truth: "), text);
  return {
    el,
    update(epoch) {
      const found = epoch?.probes ?? {};
      el.hidden = !cells || found.truth_rank === undefined;
      if (el.hidden) return;
      const [low, high] = [found.truth_low, found.truth_high];
      const rank = low === high ? `rank ${low}` : `rank ${low} to ${high}`;
      say(
        text,
        `trained beforehand, this cell reaches ${(100 * found.truth_accuracy).toFixed(1)} % on test images, ` +
          `${(100 * found.truth_regret).toFixed(1)} points below the best; ${rank} of ${cells.toLocaleString("en")} ` +
          `within the seeds' noise (the cell of epoch ${epoch.epoch + 1}).`,
      );
    },
  };
}

// What was measured of the two numbers beside the meter: that they go with a collapse, not that they foretell it.
const CAVEATS = {
  both: "a rise of either accompanies the collapse; the eigenvalue gave no warning before it.",
  rise: "a rise accompanies the collapse.",
};

/** Names of the operations with their colours: point at one to see it everywhere, press to keep it lit. */
function legendPanel(board) {
  const el = make("div", { class: "db-legend", role: "group", "aria-label": "Operations" });
  const ops = [...new Set(Object.values(board.data.cells).flatMap((cell) => cell.ops))];
  const buttons = ops.map((op) =>
    make(
      "button",
      {
        type: "button",
        class: "db-op",
        "data-op": op,
        title: board.data.meanings[op] ?? "",
        "aria-pressed": "false",
        onpointerenter: () => board.point(op),
        onpointerleave: () => board.point(null),
        onfocus: () => board.point(op),
        onblur: () => board.point(null),
        onclick: () => board.pin(op),
      },
      swatch(board.colour(op)),
      op,
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
  const show = segmented(
    "Edges",
    [
      ["all", "all edges"],
      ["derived", "derived"],
    ],
    (value) => board.setShow(value),
  );
  const save = make(
    "button",
    { type: "button", class: "db-button", title: "Save this picture as an SVG file", onclick: () => board.saveSvg() },
    "SVG",
  );
  cell.el.hidden = kinds.length < 2;
  const drawings = Object.fromEntries(kinds.map((kind) => [kind, drawing(kind)]));
  const start = startPanel();
  const el = make(
    "section",
    { class: "db-card db-cell" },
    make("div", { class: "db-cardhead" }, make("h3", {}, "The cell"), cell.el, show.el, save),
    board.legend.el,
    make("div", { class: "db-drawings" }, ...kinds.map((kind) => drawings[kind].el), start.el),
    make("p", { class: "db-about" }, caption(board.data.cells[kinds[0]], board.data)),
  );

  function drawing(kind) {
    const spec = board.data.cells[kind];
    const host = make("div", { class: "db-ribbon" });
    const ribbon = mountRibbon(host, {
      onEdge: board.data.fixed ? null : (edge) => board.pickEdge(kind, edge), // nothing is said of an edge alone then
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
      const kept = board.show === "derived" && board.records?.count ? board.derived(kind).kept : null;
      ribbon.update({ ...spec, weights, kept, held: board.held(kind), tween, alt: spec.title });
      ribbon.select(board.edge.kind === kind && !board.data.fixed ? board.edge.index : -1);
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

function caption(cell, { fixed, baseline, text }) {
  const nodes = cell.output.map((state) => cell.states[state].replace("node ", ""));
  const many = `nodes ${nodes[0]} ${nodes.length === 2 ? "and" : "to"} ${nodes.at(-1)}`;
  const output = nodes.length < 2 ? `node ${nodes[0]}` : text ? `the mean of ${many}` : `${many} side by side`;
  if (fixed) return `Data flows from left to right, each edge through one operation. The cell's output is ${output}.`;
  if (baseline) {
    return (
      "This method tries whole cells, one after another: the picture is the one that was tried at this step, with one " +
      `operation on each edge. The cell's output is ${output}.`
    );
  }
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
    return {
      el: make("li", {}, make("i", { class: "db-stage" }), make("span", {}, text), message, time),
      message,
      time,
    };
  });
  const late = make(
    "p",
    { class: "db-about", hidden: "" },
    "This takes longer than usual: look at the log of the run.",
  );
  const el = make(
    "div",
    { class: "db-start", hidden: "" },
    make("div", {}, make("h4", {}, "It is starting"), make("ol", {}, ...rows.map((r) => r.el)), late),
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
      const stageOf = (phase) => stages.findIndex(([name]) => name === (phase?.name === "train" ? "search" : phase?.name));
      const current = Math.max(0, stageOf(phases.at(-1)));
      rows.forEach((row, i) => {
        const own = phases.find((phase) => stageOf(phase) === i);
        const next = phases.find((phase) => stageOf(phase) > i);
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
