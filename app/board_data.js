/* Part of the board: small helpers, the records of a run, and the tables and events that are made of them. Nothing here
   touches the page, but for the helpers that make its elements. Loaded before board_charts.js; see board.js. */

const POINTS = 300; // at most this many points per trace, as in darts_core/view/tables.py
const WINDOWS = 40; // a running mean reaches over a fortieth of what is shown
const KEEP_BYTES = 24e6; // beyond this, every second record is let go
const ON_EDGES = ["pin", "ban", "reset"]; // orders about an edge
const QUIET = ["pause", "resume", "step", "checkpoint"]; // orders that change nothing in the search

// Small helpers

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

/** A count for people: 1,600. */
const grouped = (count) => count.toLocaleString("en-US");

/** A message of a process as a sentence, as `sentence` in app/words.py. */
function sentence(message) {
  const said = message.trim().replace(/^(search|evaluate): /, "");
  return said ? said[0].toUpperCase() + said.slice(1) + (/[.!?]$/.test(said) ? "" : ".") : "";
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
  for (const [colour, alpha] of [
    [under, 1],
    [over, part],
  ]) {
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

// Records

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
  stage(i) {
    return this.u16[i * this.words * 2 + 3];
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

// Tables: the same as darts_core/derive.py and darts_core/view/tables.py make in Python; tests hold them together

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

/** The same of a cell that the search itself has derived, perhaps by another rule: its genes, [operation, source] by node. */
function asDerived(cell, genes) {
  const best = new Int8Array(cell.edges.length).fill(-1);
  const kept = new Uint8Array(cell.edges.length);
  genes.nodes.forEach((node, i) => {
    for (const [op, source] of node) {
      const e = cell.edges.findIndex(([from, to]) => from === source && to === cell.inputs + i);
      if (e < 0 || kept[e]) continue; // of several operations on one edge the first
      kept[e] = 1;
      best[e] = cell.ops.indexOf(op);
    }
  });
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

/** What the mixture costs, and the cell derived from it; the same as darts_core/view/tables.py's `costs`. */
function costColumns(records, cells, costs) {
  const at = thin(records.count);
  const table = { step: at.map((i) => records.step(i)) };
  for (const name of ["mixture", "derived"]) {
    const rows = at.map((i) => {
      const tables = costs[name][Math.min(records.stage(i), costs[name].length - 1)]; // a method may change it by stage
      return costOf(tables, cells, (kind) => records.tensor(`mix.${kind}`, i), name === "derived");
    });
    table[`cost:${name}_params`] = rows.map(([params]) => params);
    table[`cost:${name}_macs`] = rows.map(([, macs]) => macs);
  }
  return table;
}

/** [parameters, multiply-adds]: the fixed part, and of each operation as much as it weighs (`derived`: of those alone
    that derivation keeps). A row that sums to more than one counts as one, and every row where weights of edges are
    multiplied in. */
function costOf(costs, cells, mixOf, derived) {
  let [params, macs] = costs.fixed;
  for (const kind of Object.keys(costs.params)) {
    const cell = cells[kind];
    const n = cell.ops.length;
    const mix = mixOf(kind);
    const { best, kept } = derived ? strongest(cell, mix) : {};
    for (let e = 0; e < cell.edges.length; e += 1) {
      let whole = 0;
      for (let o = 0; o < n; o += 1) whole += mix[e * n + o];
      for (let o = 0; o < n; o += 1) {
        const share = derived ? Number(kept[e] && best[e] === o) : mix[e * n + o] / Math.max(costs.edges ? 1e-12 : 1, whole);
        params += share * costs.params[kind][e * n + o];
        macs += share * costs.macs[kind][e * n + o];
      }
    }
  }
  return [params, macs];
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

// Events

/** What the events add up to: marks on the charts, probes, start-up phases, trainings, the end. */
class Story {
  constructor(cells) {
    this.cells = cells;
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
    this.marks = events
      .map((event) => markOf(event, this.cells))
      .filter(Boolean)
      .sort((a, b) => a.step - b.step);
    this.epochs = of("epoch");
    this.probes = probesOf(this.epochs);
    this.phases = phasesOf(events);
    this.trained = of("trained");
    this.onEdges = of("applied").filter((event) => event.accepted && ON_EDGES.includes(event.kind));
    this.result = of("result").at(-1) ?? null;
    this.summary = of("finished").at(-1)?.summary ?? null;
    this.resumed = of("resumed").at(-1) ?? null;
    this.totalSteps = of("phase").findLast((event) => event.total_steps)?.total_steps ?? null;
    this.pace = paceOf(this.epochs);
  }
}

/** A line on every chart: {step, text, kind} with kind "edit", "alarm", "rewind" or "stage"; null for what changes
    nothing. */
function markOf(event, cells) {
  if (event.type === "applied" && event.accepted && !QUIET.includes(event.kind)) {
    return { step: event.step, text: `${orderWords(event, cells)} at step ${event.step}`, kind: "edit" };
  }
  if (event.type === "alarm") return { step: event.step, text: `${event.level} at step ${event.step}`, kind: "alarm" };
  if (event.type === "rewound") {
    return { step: event.step, text: `back to epoch ${event.to_epoch} at step ${event.step}`, kind: "rewind" };
  }
  if (event.type === "stage_started") {
    return { step: event.step, text: `stage ${event.stage + 1} begins at step ${event.step}`, kind: "stage" };
  }
  return null;
}

/** An order or its answer in words, as darts_core/legal.py says it: edges are called as in the picture. */
function orderWords({ kind, name, value }, cells) {
  if (kind === "set") return `${name} = ${short(value)}`;
  return [kind, value ? `${value} on` : "", ON_EDGES.includes(kind) ? edgeWords(name, cells) : (name ?? "")].filter(Boolean).join(" ");
}

const LOW = { k: "\u2096", "-": "\u208B", 1: "\u2081", 2: "\u2082" }; // characters of a subscript

/** "normal-0-2" by its ends: "c_{k-2} to node 0, normal cell", the subscript set low. */
function edgeWords(name, cells) {
  const [, kind, ...ends] = /^(.+)-(\d+)-(\d+)$/.exec(name) ?? [];
  if (!cells[kind] || ends.some((state) => !cells[kind].states[state])) return name;
  const low = (label) => label.replace(/_\{(.+?)\}/, (_, sub) => [...sub].map((c) => LOW[c] ?? c).join(""));
  const [source, target] = ends.map((state) => low(cells[kind].states[state]));
  return `${source} to ${target}${Object.keys(cells).length > 1 ? `, ${kind} cell` : ""}`;
}

/** What an edge may hold after orders about it: its row of the space, then pin, ban and reset in turn, as
    darts_core/legal.py has it. `orders`: [{kind, name, value}, ...] */
function legalAfter(row, ops, edge, orders) {
  return orders.reduce((now, { kind, name, value }) => {
    if (name !== edge) return now;
    if (kind === "pin") return ops.map((op) => op === value);
    if (kind === "ban") return now.map((ok, o) => ok && ops[o] !== value);
    return kind === "reset" ? row : now;
  }, row);
}

function probesOf(epochs) {
  const names = new Set(epochs.flatMap((event) => Object.keys(event.probes)));
  const table = { probe_step: epochs.map((event) => event.step) };
  for (const name of names) table[`probe:${name}`] = epochs.map((event) => event.probes[name] ?? null);
  const { "probe:truth_accuracy": exact, "probe:truth_regret": regret } = table;
  if (exact && regret) table["probe:truth_best"] = exact.map((value, i) => (value === null ? null : value + regret[i]));
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
