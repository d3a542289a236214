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
