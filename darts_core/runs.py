"""A run folder: one writer, many readers, whole after any crash. See `Layout` for `steps.bin`, `events.py` for the lines.

    run.json          what was asked for; written once
    steps.bin         a header of 4,096 bytes, then one record of fixed size per step, each with its own checksum
    events.jsonl      everything rarer than a step, one numbered line each
    commands/         orders, one file each, deleted when they are answered
    checkpoints/      safetensors; e0012 after 12 finished epochs, s00000345 in the middle of one
    lock              held by the writer as long as it lives; the text in it is for people
    log.txt           stdout and stderr of the process
    tail-1/ ...       records and lines that a resumed run could not reproduce

**State** is derived, never stored: while the lock is held the run is starting, running or paused; otherwise its last line
says finished, stopped, failed or interrupted; otherwise it was interrupted.

**Resuming.** A driver opens the run, takes the last good checkpoint, and computes from there as if nothing were recorded:

    writer = RunWriter.open(root, name)                    # takes the lock, cuts torn tails
    found = writer.last_good_checkpoint()                  # its bytes checked; found.skipped names the damaged ones
    writer.begin_replay(found.step)
    orders = writer.orders_to_replay(found.step)           # step -> orders that took effect there, to be given again
    for event in strategy(task, config, host):             # host.orders: those first, then writer.orders()
        writer.append(event)

Between the checkpoint and the last recorded step, `append` compares instead of writing. A step must equal its record byte
for byte. A line that would be repeated (same type, step and so on) must say the same, seconds left aside. When the last
record is reached, one `Resumed` line says that the run is identical. At the first difference the old records from that step
on, and the lines that belong to them, move to `tail-<n>/` (with the checkpoints they name), a `Resumed` line says from which
step the run differs, and the run goes on from there. Killed at any point of this, it can be resumed in the same way.

An order acknowledged above a checkpoint's line is part of that checkpoint; one below it is in `orders_to_replay`. While
records are being compared, new orders other than pause, resume and step wait in their folder.

Readers that keep a position (bytes of `events.jsonl`, records of `steps.bin`) start again from zero when `generation()`
grows: then a tail was moved aside. In everything else the files only grow.
"""

from __future__ import annotations

import io as memory
import math
import os
import platform
import re
import struct
import time
import uuid
import zipfile
import zlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from darts_core import io
from darts_core.errors import BadInput, unknown
from darts_core.events import (
    Alarm,
    Applied,
    Checkpoint,
    Epoch,
    Failure,
    Finished,
    Interrupted,
    Line,
    Order,
    Phase,
    Result,
    Resumed,
    Rewound,
    Scalar,
    StageStarted,
    Step,
    Trained,
    from_json,
    new_order,
    order_json,
    parse_order,
    to_json,
)
from darts_core.space import SearchSpace

RUN, STEPS, EVENTS, LOCK, LOG = "run.json", "steps.bin", "events.jsonl", "lock", "log.txt"
COMMANDS, CHECKPOINTS, TRASH, TAIL = "commands", "checkpoints", ".trash", "tail-new"
SCHEMA = 1
MAGIC, VERSION, HEADER = b"DARTSRUN", 1, 4096
HEAD = struct.Struct("<8sIIII")  # magic, version, header bytes, record bytes, bytes of layout JSON
RECORD_LIMIT = 1 << 20  # bytes
LINE_LIMIT = 1 << 20  # bytes
READ_LIMIT = 64 << 20  # bytes that one call reads at most
EVENTS_LIMIT = 256 << 20
CHECKPOINT_LIMIT = 2 << 30
BUDGET = 2_000_000_000  # bytes of checkpoints kept per run
CHECKPOINT_NAME = re.compile(r"e[0-9]{4,6}\.safetensors|s[0-9]{8,10}\.safetensors")
ORDER_NAME = re.compile(r"[0-9]{1,20}-[0-9a-f]{8,32}\.json")
ORDER_LIMIT = 4096  # bytes
ORDERS_LIMIT = 1000  # files waiting
REPEATED = (StageStarted, Epoch, Checkpoint, Applied, Rewound, Alarm, Trained, Result)  # lines that a replay says again
HARMLESS = ("pause", "resume", "step", "stop", "checkpoint")  # orders without an effect on any number

# What steps.bin holds ---------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Layout:
    """The fields of a record of `steps.bin`, little-endian:

    u32 step, u16 epoch, u16 stage, u32 flags, float32 metrics, float32 tensors row by row, u32 crc32 of all before it.
    There is no clock in it: a repeated run writes the same bytes.
    """

    metrics: tuple[str, ...]
    tensors: tuple[
        tuple[str, tuple[int, ...]], ...
    ]  # ("alpha.normal", (edges, ops)), "mix.<kind>", "edge.<kind>" (edges,)

    @staticmethod
    def of(metrics: Sequence[str], space: SearchSpace, edge_alphas: bool = False) -> Layout:
        """The layout of a search in `space` that records `metrics`, in this order."""
        shapes = {kind: (len(cell.edges), len(cell.ops)) for kind, cell in space.cells.items()}
        tensors = [(f"{table}.{kind}", shape) for table in ("alpha", "mix") for kind, shape in shapes.items()]
        edges = [(f"edge.{kind}", shape[:1]) for kind, shape in shapes.items()] if edge_alphas else []
        return Layout(tuple(metrics), (*tensors, *edges))

    def to_json(self) -> dict[str, Any]:
        """As it stands in `run.json` and in the header of `steps.bin`."""
        return {"metrics": list(self.metrics), "tensors": [[name, list(shape)] for name, shape in self.tensors]}

    @staticmethod
    def from_json(data: Any, where: object) -> Layout:
        """The layout in `data`; BadInput for anything else, or for records of more than 1 MB."""

        def bad(what: str) -> BadInput:
            return BadInput(where, "layout", what, "the file is damaged: take another copy of the run")

        if not isinstance(data, dict) or set(data) != {"metrics", "tensors"}:
            raise bad("it is not a table of metrics and tensors")
        metrics, tensors = data["metrics"], data["tensors"]
        if not isinstance(metrics, list) or len(set(map(str, metrics))) < len(metrics) or len(metrics) > 256:
            raise bad("metrics is not a list of up to 256 different names")
        if not all(isinstance(name, str) and re.fullmatch(r"[a-z0-9_.]{1,64}", name) for name in metrics):
            raise bad("a metric has a strange name")
        if not isinstance(tensors, list) or len(tensors) > 64:
            raise bad("tensors is not a list of up to 64")
        found: dict[str, tuple[int, ...]] = {}
        for entry in tensors:
            if not isinstance(entry, list) or len(entry) != 2 or not isinstance(entry[1], list):
                raise bad("a tensor is not a name and a shape")
            name, shape = entry
            if (
                not isinstance(name, str)
                or not re.fullmatch(r"(alpha|mix|edge)\.[a-z0-9_]{1,32}", name)
                or name in found
            ):
                raise bad("a tensor has a strange name, or one that stands there twice")
            if len(shape) > 2 or not all(type(n) is int and 0 < n <= 4096 for n in shape):
                raise bad(f"{name} has a strange shape")
            found[name] = tuple(shape)
        layout = Layout(tuple(metrics), tuple(found.items()))
        numbers = len(metrics) + sum(math.prod(shape) for shape in found.values())
        if numbers * 4 + 16 > RECORD_LIMIT:
            raise bad("a record would be larger than 1 MB")
        return layout

    @cached_property
    def dtype(self) -> np.dtype:
        """One record as a NumPy structure."""
        head = [
            ("step", "<u4"),
            ("epoch", "<u2"),
            ("stage", "<u2"),
            ("flags", "<u4"),
            ("metrics", "<f4", (len(self.metrics),)),
        ]
        return np.dtype([*head, *((name, "<f4", shape) for name, shape in self.tensors), ("crc", "<u4")])

    def header(self) -> bytes:
        """The first 4,096 bytes of `steps.bin`."""
        text = io.dumps(self.to_json()).encode()
        if len(text) > HEADER - HEAD.size - 4:
            raise BadInput(STEPS, "layout", "the names are too long for the header", "use fewer or shorter ones")
        head = (HEAD.pack(MAGIC, VERSION, HEADER, self.dtype.itemsize, len(text)) + text).ljust(HEADER - 4, b"\0")
        return head + struct.pack("<I", zlib.crc32(head))

    @staticmethod
    def from_header(head: bytes, where: object) -> Layout:
        """The layout that the first 4,096 bytes of `steps.bin` state; BadInput when they are damaged."""

        def bad(what: str) -> BadInput:
            return BadInput(where, "header", what, "take another copy of the run")

        if len(head) < HEADER:
            raise bad(f"it is cut off after {len(head):,} of {HEADER:,} bytes")
        magic, version, size, record, length = HEAD.unpack_from(head)
        if magic != MAGIC:
            raise bad("these are not the records of a run")
        if struct.unpack("<I", head[HEADER - 4 : HEADER])[0] != zlib.crc32(head[: HEADER - 4]):
            raise bad("its checksum is wrong")
        if version != VERSION or size != HEADER or length > HEADER - HEAD.size - 4:
            raise bad(f"version {version} is not known here")
        layout = Layout.from_json(io.loads(head[HEAD.size : HEAD.size + length], where), where)
        if layout.dtype.itemsize != record:
            raise bad(f"it says {record} bytes per record, its layout makes {layout.dtype.itemsize}")
        return layout

    def record(self, step: Step) -> bytes:
        """`step` as one record. BadInput for an alpha or a weight that is not finite; AssertionError for another layout."""
        row = np.zeros(1, self.dtype)
        row["step"], row["epoch"], row["stage"], row["flags"] = step.step, step.epoch, step.stage, step.flags
        assert step.metrics.keys() == set(self.metrics), f"metrics {list(step.metrics)}, layout {self.metrics}"
        tables = {"alpha": step.alphas, "mix": step.mix, "edge": step.edge_alphas}
        given = {f"{table}.{kind}" for table, kinds in tables.items() for kind in kinds}
        assert given == {name for name, _ in self.tensors}, f"tensors {sorted(given)}, layout {self.tensors}"
        with np.errstate(over="ignore"):
            row["metrics"][0] = [step.metrics[name] for name in self.metrics]
            for name, shape in self.tensors:
                table, kind = name.split(".", 1)
                value = np.asarray(tables[table][kind], np.float32)
                assert value.shape == shape, f"{name} {value.shape}, layout {shape}"
                if not np.isfinite(value).all():
                    what = f"{name} became {'NaN' if np.isnan(value).any() else 'infinite'} at step {step.step}"
                    raise BadInput("", "", what, "lower the learning rates, or resume from an earlier epoch")
                row[name][0] = value
        body = row.tobytes()[:-4]
        return body + struct.pack("<I", zlib.crc32(body))


def whole(record: bytes, step: int) -> bool:
    """Is this a record whose checksum holds, and that of `step`?"""
    return record[-4:] == struct.pack("<I", zlib.crc32(record[:-4])) and record[:4] == struct.pack("<I", step)


# What events.jsonl holds ------------------------------------------------------------------------------------


def whole_lines(data: bytes, where: object, number: int | None) -> tuple[list[dict[str, Any]], int]:
    """The events at the start of `data`, and the bytes they take. A damaged end is left out; damage before a whole line is BadInput.

    `number` is that of the first line; None where it is not known.
    """
    found: list[dict[str, Any]] = []
    lines = data[: data.rfind(b"\n") + 1].split(b"\n")[:-1]
    used = 0
    for index, line in enumerate(lines):
        place = f"{where}, line {index + 1 if number is None else number + index + 1}"
        try:
            value = _line(line, place)
            expected = found[-1]["n"] + 1 if found else value["n"] if number is None else number
            if value["n"] != expected:
                raise BadInput(
                    place, "n", f"line {value['n']} stands where line {expected} should", "take another copy"
                )
        except BadInput:
            if any(_is_line(later, place) for later in lines[index + 1 :]):
                raise
            break
        found.append(value)
        used += len(line) + 1
    return found, used


def _line(line: bytes, where: object) -> dict[str, Any]:
    value = io.loads(line, where, LINE_LIMIT)
    from_json(value, where)
    if type(value.get("n")) is not int or not isinstance(value.get("time"), (int, float)):
        raise BadInput(where, "n", "the line has no number or time", "take another copy of the run")
    return value


def _is_line(line: bytes, where: object) -> bool:
    try:
        return bool(_line(line, where))
    except BadInput:
        return False


def _key(event: Line) -> tuple[Any, ...]:
    """What makes two lines the same line of a run that is computed again."""
    names = ("step", "epoch", "stage", "id", "file", "role", "index", "seed")
    return type(event), *(getattr(event, name, None) for name in names)


def _same(event: Line, line: Mapping[str, Any], where: object) -> bool:
    """Does a recorded line say what `event` says, seconds aside?"""
    said = io.loads(io.dumps(to_json(event), where).encode(), where)
    return {k: v for k, v in said.items() if k != "seconds"} == {
        k: v for k, v in to_json(from_json(dict(line), where)).items() if k != "seconds"
    }


@dataclass(frozen=True)
class Story:
    """What the lines up to `offset` (bytes) add up to."""

    offset: int = 0
    generation: int = 0
    lines: int = 0
    ending: str = ""  # finished, stopped, failed, interrupted; "" while the last line is none of these
    message: str = ""
    phase: str = ""
    doing: str = ""
    paused_at: float | None = None  # unix seconds of the pause in force
    edited: bool = False
    total_steps: int | None = None
    checkpoints: Mapping[str, Checkpoint] = field(default_factory=dict)  # file -> its last event

    def then(self, event: Line, when: float) -> Story:
        """The story with one more line."""
        told = replace(self, lines=self.lines + 1, ending="", message="")
        match event:
            case Phase():
                total = self.total_steps if event.total_steps is None else event.total_steps
                return replace(told, phase=event.name, doing=event.message, total_steps=total)
            case Applied(accepted=True, kind="pause"):
                return replace(told, paused_at=when)
            case Applied(accepted=True, kind="resume") | Resumed():
                return replace(told, paused_at=None)
            case Applied(accepted=True, kind="set"):
                return replace(told, edited=True)
            case Checkpoint():
                return replace(told, checkpoints={**self.checkpoints, event.file: event})
            case Finished():
                return replace(told, ending=event.state)
            case Failure():
                return replace(told, ending="failed", message=event.message)
            case Interrupted():
                return replace(told, ending="interrupted", message=event.reason)
        return told


# Places -----------------------------------------------------------------------------------------------------


def runs_root(path: str | Path | None = None) -> Path:
    """The folder of the runs: `path`, else $DARTS_RUNS, else data/runs of the clone, else data/runs here. It need not exist."""
    given = path or os.environ.get("DARTS_RUNS")
    if given:
        return Path(given).expanduser().absolute()
    clone = Path(__file__).resolve().parent.parent
    return (clone if (clone / "pyproject.toml").is_file() else Path.cwd()) / "data" / "runs"


def check_name(name: object) -> str:
    """`name` if a run may have it, else BadInput."""
    return io.safe_name(name, "", "run name")


def free_name(root: Path, stem: str) -> str:
    """A name like stem-001 that no run has now. Another process may take it first: see `RunWriter.create_free`."""
    check_name(stem)
    taken = re.compile(re.escape(stem[:56]) + r"-([0-9]{1,6})")
    found = [int(match[1]) for name in _names(root) if (match := taken.fullmatch(name))]
    return check_name(f"{stem[:56]}-{max(found, default=0) + 1:03d}")


def _names(root: Path) -> list[str]:
    try:
        return [entry.name for entry in os.scandir(root) if entry.is_dir(follow_symlinks=False)]
    except OSError:
        return []


def _existing(root: Path, name: str) -> Path:
    check_name(name)
    folder = io.inside(Path(root), name)
    if not folder.is_dir():
        known = sorted(other for other in _names(Path(root)) if io.NAME.fullmatch(other))
        raise (
            unknown(root, "run", name, known)
            if known
            else BadInput(root, "run", f"there is no run {name!r}", "start one")
        )
    return folder


# run.json ---------------------------------------------------------------------------------------------------

INFO: Mapping[str, tuple[Any, Any]] = {  # key -> (types, default; ... where it must be given)
    "schema": (int, SCHEMA),
    "name": (str, ...),
    "title": (str, ...),
    "config": (dict, {}),
    "space": (dict, {}),
    "seed": (int, 0),
    "total_steps": ((int, type(None)), None),
    "epochs": (int, 0),
    "parent": ((dict, type(None)), None),  # of a branch: run, epoch, step, sha256 of the checkpoint
    "versions": (dict, {}),
    "commit": ((str, type(None)), None),
    "device": (str, "cpu"),
    "threads": (int, 1),
    "cpu": (str, ""),
    "ranks": (int, 1),
    "deterministic": (bool, True),
    "created": ((int, float), ...),  # unix seconds
    "command": (list, []),
    "layout": (dict, ...),
}
PARENT = {"run": str, "epoch": int, "step": int, "sha256": str}


def _info(data: Any, where: object) -> dict[str, Any]:
    """`data` if it is a whole run.json of a schema known here."""
    if not isinstance(data, dict):
        raise BadInput(where, "", "it is not a table", "take another copy of the run")
    if data.get("schema") != SCHEMA:
        raise BadInput(where, "schema", f"{str(data.get('schema'))[:40]} is not known here", "update this program")
    for key in data:
        if key not in INFO:
            raise unknown(where, "key", key, INFO)
    for key, (kind, _) in INFO.items():
        _typed(data, key, kind, where)
    if data["parent"] is not None:
        if set(data["parent"]) != set(PARENT):
            raise BadInput(where, "parent", f"it needs exactly {', '.join(PARENT)}", "take another copy of the run")
        for key, kind in PARENT.items():
            _typed(data["parent"], key, kind, where)
        if data["parent"]["step"] < 0:
            raise BadInput(where, "parent", "its step is negative", "take another copy of the run")
    Layout.from_json(data["layout"], where)
    return data


def _typed(data: Mapping[str, Any], key: str, kind: Any, where: object) -> None:
    value = data.get(key, ...)
    if not isinstance(value, kind) or (isinstance(value, bool) and kind is not bool):
        what = "it is missing" if value is ... else f"{str(value)[:40]!r} is of the wrong type"
        raise BadInput(where, key, what, "take another copy of the run")


# Reading ----------------------------------------------------------------------------------------------------


class Status(NamedTuple):
    """How a run is. `state`: starting running paused finished stopped failed interrupted silent corrupt."""

    state: str
    step: int  # the last recorded one
    total_steps: int | None
    message: str  # why it ended so; while it lives, what it is doing
    paused: bool
    edited: bool  # a setting was changed while it ran
    last_write: float  # unix seconds
    pid: int | None
    host: str
    phase: str  # of the last Phase event

    @property
    def alive(self) -> bool:
        """Does a process hold this run open?"""
        return self.state in ("starting", "running", "paused")


class Summary(NamedTuple):
    """One line of a table of runs."""

    name: str
    title: str
    state: str
    step: int
    total_steps: int | None
    created: float  # unix seconds
    strategy: str
    dataset: str
    message: str
    edited: bool


class RunReader:
    """A run as its files tell it, live or not. Never writes; trusts whole records and whole lines only."""

    def __init__(self, root: str | Path, name: str):
        """BadInput when there is no such run, or its run.json is missing, damaged or of a later schema."""
        self.root = Path(root)
        self.name = name
        self.folder = _existing(self.root, name)
        path = self.folder / RUN
        self.info: dict[str, Any] = _info(io.loads(io.read_bytes(path, io.JSON_LIMIT), path), path)
        self.first_step: int = (self.info["parent"] or {"step": 0})["step"] + 1  # a branch holds only its own steps
        self._good = 0  # records known to be whole
        self._story = Story()

    # Steps

    @cached_property
    def layout(self) -> Layout:
        """The layout that the header of `steps.bin` states; BadInput when it is damaged or not that of run.json."""
        path = self.folder / STEPS
        with io.opened(path) as file:
            layout = Layout.from_header(io.read_at(file, 0, HEADER), path)
        if layout != Layout.from_json(self.info["layout"], self.folder / RUN):
            raise BadInput(path, "header", f"its layout is not that of {RUN}", "take another copy of the run")
        return layout

    @property
    def record_bytes(self) -> int:
        """Bytes of one record of `steps.bin`."""
        return self.layout.dtype.itemsize

    def step_count(self) -> int:
        """How many whole records there are; a torn, zeroed or scrambled end is left out. BadInput for a damaged header."""
        size = self.record_bytes
        with io.opened(self.folder / STEPS) as file:
            count = max(0, (os.fstat(file.fileno()).st_size - HEADER) // size)
            while count > self._good and not self._whole(
                io.read_at(file, HEADER + (count - 1) * size, size), count - 1
            ):
                count -= 1
        self._good = count
        return count

    def _whole(self, record: bytes, index: int) -> bool:
        return len(record) == self.record_bytes and whole(record, self.first_step + index)

    def raw_steps(self, first: int = 0, count: int | None = None, stride: int = 1) -> bytes:
        """Every `stride`-th of the `count` records from index `first` (from 0), as they stand in the file, one after the other.

        Ends before the first record that is not whole. BadInput for more than 64 MB: take a stride.
        """
        assert first >= 0 and stride >= 1 and (count is None or count >= 0), (
            f"first {first}, count {count}, stride {stride}"
        )
        have = self.step_count()
        indices = range(first, have if count is None else min(have, first + count), stride)
        size = self.record_bytes
        if len(indices) * size > READ_LIMIT:
            raise BadInput(
                self.folder / STEPS, "", f"{len(indices):,} records are more than 64 MB", "read with a stride"
            )
        with io.opened(self.folder / STEPS) as file:
            if stride == 1:
                data = io.read_at(file, HEADER + first * size, len(indices) * size)
            else:
                data = b"".join(io.read_at(file, HEADER + index * size, size) for index in indices)
        for place, index in enumerate(indices):
            if not self._whole(data[place * size : (place + 1) * size], index):
                return data[: place * size]
        return data

    def steps(self, first: int = 0, count: int | None = None, stride: int = 1) -> np.ndarray:
        """The records of `raw_steps` as a structured array: step, epoch, stage, flags, metrics (M,), and each tensor by name."""
        rows = np.frombuffer(self.raw_steps(first, count, stride), self.layout.dtype)
        return rows[[name for name in self.layout.dtype.names or () if name != "crc"]]

    # Lines

    def events(self, offset: int = 0) -> tuple[list[dict[str, Any]], int]:
        """The whole lines from byte `offset` on, each a dict as in `events.to_json` with "n" and "time", and the next offset.

        One call reads 64 MB at most. BadInput for damage in the middle of the file; a damaged end is left out.
        """
        path = self.folder / EVENTS
        with io.opened(path) as file:
            data = io.read_at(file, offset, READ_LIMIT)
        found, used = whole_lines(data, path, 0 if offset == 0 else None)
        return found, offset + used

    def generation(self) -> int:
        """How many tails were moved aside. When it grows, records and lines read before may no longer stand."""
        return len(_tails(self.folder))

    def story(self) -> Story:
        """What the lines add up to; only new ones are read again."""
        path, story, generation = self.folder / EVENTS, self._story, self.generation()
        if generation != story.generation or os.stat(path).st_size < story.offset:
            story = Story(generation=generation)
        while True:
            found, offset = self.events(story.offset)
            if found and found[0]["n"] != story.lines:
                raise BadInput(
                    path, "n", f"line {found[0]['n']} stands where {story.lines} should", "take another copy"
                )
            for line in found:
                story = story.then(from_json(line, path), line["time"])
            if offset == story.offset:
                break
            story = replace(story, offset=offset)
        self._story = story
        return story

    def status(self) -> Status:
        """How the run is now. A damaged folder is the state corrupt, with the sentence as its message."""
        held = io.locked(self.folder / LOCK)
        try:
            story, count = self.story(), self.step_count()
            written = max(os.stat(self.folder / name).st_mtime for name in (STEPS, EVENTS))
        except (BadInput, OSError) as error:
            return Status("corrupt", 0, None, str(error), False, False, 0.0, None, "", "")
        pid, host, started = lock_text(self.folder)
        step = self.first_step - 1 + count
        total = self.info["total_steps"] if story.total_steps is None else story.total_steps
        paused = held and story.paused_at is not None and story.paused_at >= started
        if held:
            state, message = "starting" if count == 0 else "paused" if paused else "running", story.doing
        elif story.ending:
            state, message = story.ending, story.message
        elif host and host != platform.node():
            state, message = "silent", f"silent for {ago(time.time() - written)}"
        elif story.lines == 0 and pid is None and time.time() - self.info["created"] < 5:
            state, message = "starting", ""
        else:
            state, message = (
                "interrupted",
                f"the process ended without a word at step {step}; resume goes on from there",
            )
        return Status(state, step, total, message, paused, story.edited, written, pid, host, story.phase)

    def summary(self) -> Summary:
        """One line about the run for a table."""
        now, config = self.status(), self.info["config"]
        strategy, dataset = (str(config.get(key, ""))[:64] for key in ("strategy", "dataset"))
        title, created = self.info["title"], float(self.info["created"])
        done = (now.state, now.step, now.total_steps)
        return Summary(self.name, title, *done, created, strategy, dataset, now.message, now.edited)

    # Checkpoints and the log

    def checkpoints(self) -> list[Checkpoint]:
        """Those that are there, by step; of a file that was written again, the last event."""
        there = {entry.name for entry in os.scandir(self.folder / CHECKPOINTS)} if self._has(CHECKPOINTS) else set()
        return sorted((event for event in self.story().checkpoints.values() if event.file in there), key=_by_step)

    def _has(self, name: str) -> bool:
        return (self.folder / name).is_dir() and not (self.folder / name).is_symlink()

    def checkpoint_at(self, epoch: int) -> Checkpoint:
        """The checkpoint after `epoch` finished epochs; BadInput lists those there are."""
        found = {event.epoch: event for event in self.checkpoints() if event.file.startswith("e")}
        if epoch not in found:
            known = ", ".join(str(known) for known in sorted(found)) or "none"
            raise BadInput(self.name, "epoch", f"no checkpoint is kept of epoch {epoch}", f"there are: {known}")
        return found[epoch]

    def read_checkpoint(self, file: str) -> bytes:
        """The bytes of a checkpoint, equal in length and SHA-256 to what its event says, a sound safetensors file; else BadInput."""
        event = self.story().checkpoints.get(file)
        if event is None or not CHECKPOINT_NAME.fullmatch(file):
            raise unknown(self.name, "checkpoint", file, [known.file for known in self.checkpoints()])
        return _sound(self.folder, event)

    def log_tail(self, lines: int = 40) -> str:
        """The last lines of `log.txt`, at most 64 kB; "" when there is none."""
        try:
            with io.opened(self.folder / LOG) as file:
                size = os.fstat(file.fileno()).st_size
                text = io.read_at(file, max(0, size - (64 << 10)), 64 << 10).decode("utf-8", "replace")
        except BadInput:
            return ""
        return "\n".join(text.splitlines()[-lines:])


def _by_step(event: Checkpoint) -> tuple[int, str]:
    return event.step, event.file


def _sound(folder: Path, event: Checkpoint) -> bytes:
    """The bytes of the checkpoint that `event` tells of; BadInput when they are not those."""
    path = folder / CHECKPOINTS / event.file
    if not CHECKPOINT_NAME.fullmatch(event.file):
        raise BadInput(path, "", "this is not the name of a checkpoint", "take another copy of the run")
    data = io.read_bytes(path, min(CHECKPOINT_LIMIT, max(event.bytes, 0)))
    if len(data) != event.bytes or io.sha256(data) != event.sha256:
        what = (
            f"it is damaged ({len(data):,} of {event.bytes:,} bytes)" if len(data) != event.bytes else "it is damaged"
        )
        raise BadInput(path, "", what, "use an earlier checkpoint")
    io.check_tensors(data, path)
    return data


def _tails(folder: Path) -> list[int]:
    return [int(name[5:]) for name in _names(folder) if re.fullmatch(r"tail-[0-9]{1,6}", name)]


def lock_text(folder: Path) -> tuple[int | None, str, float]:
    """Process id, host and start (unix seconds) of the last writer, as it wrote them; (None, "", 0.0) where there is none."""
    try:
        data = io.loads(io.read_bytes(folder / LOCK, 4096), folder / LOCK)
        pid, host, started = data["pid"], data["host"], data["started"]
    except (BadInput, KeyError, TypeError):
        return None, "", 0.0
    sound = type(pid) is int and isinstance(host, str) and isinstance(started, (int, float))
    return (pid, host[:255], float(started)) if sound else (None, "", 0.0)


def ago(seconds: float) -> str:
    """A duration for people: "40 s", "3 min", "2 h", "5 days"."""
    for unit, size in (("days", 172_800), ("h", 7_200), ("min", 120)):
        if seconds >= size:
            return f"{seconds / (size / 2):.0f} {unit}"
    return f"{max(seconds, 0):.0f} s"


_READERS: dict[tuple[str, int, int], RunReader] = {}  # (folder, inode and mtime of run.json): only a saving of time


def list_runs(root: str | Path) -> list[Summary]:
    """All runs below `root`, the newest first. Links and folders without a run.json are left out; damaged runs are corrupt."""
    found, seen = [], set()
    for name in _names(Path(root)):
        folder = Path(root) / name
        if not io.NAME.fullmatch(name) or name in io.RESERVED:
            continue
        try:
            stamp = os.lstat(folder / RUN)
        except OSError:
            continue
        key = (str(folder), stamp.st_ino, stamp.st_mtime_ns)
        try:
            if key not in _READERS:
                _READERS[key] = RunReader(root, name)
            found.append(_READERS[key].summary())
            seen.add(key)
        except BadInput as error:
            found.append(Summary(name, name, "corrupt", 0, None, stamp.st_mtime, "", "", str(error), False))
    for key in [key for key in list(_READERS) if Path(key[0]).parent == Path(root) and key not in seen]:
        _READERS.pop(key, None)
    return sorted(found, key=lambda run: (-run.created, run.name))


# Writing ----------------------------------------------------------------------------------------------------


class GoodCheckpoint(NamedTuple):
    """Where a run can go on from. `event` is None when there is no checkpoint: then it starts from its first step."""

    event: Checkpoint | None
    data: bytes
    skipped: list[str]  # one sentence for each newer checkpoint that could not be used
    step: int


@dataclass
class Replay:
    """Where a comparison of recomputed events with recorded ones stands."""

    start: int  # step of the checkpoint
    epoch: int
    file: str
    until: int  # last step recorded
    line: int  # next recorded line that may be said again
    lines: int  # end of the recorded lines
    settings: str  # what is different around the run now, in words


class RunWriter:
    """The one writer of a run. Holds its lock from `create` or `open` to `close`; a context manager."""

    def __init__(self, root: Path, name: str, lock: io.Lock):
        self._lock = lock
        self.reader = RunReader(root, name)
        self.root, self.name, self.folder = self.reader.root, name, self.reader.folder
        self.info, self.layout, self.first_step = self.reader.info, self.reader.layout, self.reader.first_step
        self.identical: bool | None = None  # did recomputed steps equal the recorded ones? None: not known yet, or none
        self.message = ""  # of the last Resumed event
        self.budget = BUDGET
        with io.told(self.folder):
            for folder in (self.folder, self.folder / COMMANDS, self.folder / CHECKPOINTS):
                folder.mkdir(mode=0o700, exist_ok=True)
                io.sweep(folder)
            if (self.folder / TAIL).is_dir():  # killed while moving a tail aside
                os.rename(self.folder / TAIL, self.folder / f"tail-{max(_tails(self.folder), default=0) + 1}")
        self._events = io.Appender(self.folder / EVENTS)
        self._steps = io.Appender(self.folder / STEPS)
        self._lines = self._repaired_lines()
        self._count = self._repaired_steps()
        self._replay: Replay | None = None
        self._opened = len(self._lines)
        self._answered = {line["id"] for line in self._lines if line["type"] == "applied"}
        self._given: dict[str, Path] = {}  # order id -> its file
        self._saved: Checkpoint | None = None

    @classmethod
    def create(cls, root: str | Path, name: str, info: Mapping[str, Any]) -> RunWriter:
        """A new run, open for writing. `info` holds the keys of `INFO`; "layout" must be among them.

        The folder appears whole, by one rename. BadInput when a run of this name exists, unless it failed before its first
        step: then it goes to the trash.
        """
        check_name(name)
        root = Path(root)
        given = {"name": name, "title": name, "created": time.time(), **info}
        full = {key: given.get(key, default) for key, (_, default) in INFO.items()} | {"name": name}
        for key in info:
            if key not in INFO:
                raise unknown(RUN, "key", key, INFO)
        full = _info(io.loads(io.dumps(full, RUN).encode(), RUN), RUN)
        with io.told(root):
            root.mkdir(mode=0o700, parents=True, exist_ok=True)
        _make_room(root, name)
        files = {
            STEPS: Layout.from_json(full["layout"], RUN).header(),
            EVENTS: b"",
            RUN: (io.dumps(full) + "\n").encode(),
        }
        _install(root, name, files)
        return cls.open(root, name)

    @classmethod
    def create_free(cls, root: str | Path, stem: str, info: Mapping[str, Any]) -> RunWriter:
        """A new run with a free name like stem-001, however many processes ask at once."""
        for _ in range(1000):
            name = free_name(Path(root), stem)
            try:
                return cls.create(root, name, info)
            except BadInput:
                if not (Path(root) / name).exists():
                    raise
        raise BadInput(root, "name", f"no free name like {stem}-001 was found", "choose a name")

    @classmethod
    def open(cls, root: str | Path, name: str) -> RunWriter:
        """Takes the lock of an existing run and cuts torn ends. BadInput names the process that holds it, or the damage."""
        folder = _existing(Path(root), name)
        text = io.dumps({"pid": os.getpid(), "host": platform.node(), "started": time.time()})
        try:
            with io.told(folder):
                lock = io.Lock(folder / LOCK, text)
        except BadInput as error:
            if not isinstance(error.__cause__, BlockingIOError):
                raise
            pid, host, started = lock_text(folder)
            since = f" since {time.strftime('%Y-%m-%d %H:%M', time.localtime(started))}" if started else ""
            what = f"process {pid or '?'} on {host or 'another machine'} has it open{since}"
            raise BadInput(
                f"run {name}", "", what, "stop it there first, or branch from one of its checkpoints"
            ) from None
        try:
            return cls(Path(root), name, lock)
        except BaseException:
            lock.release()
            raise

    def __enter__(self) -> RunWriter:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Syncs everything and lets the run go."""
        try:
            self._steps.close()
            self._events.close()
        finally:
            self._lock.release()

    # Opening: back to whole records and lines

    def _repaired_lines(self) -> list[dict[str, Any]]:
        path = self.folder / EVENTS
        lines, used = whole_lines(io.read_bytes(path, EVENTS_LIMIT), path, 0)
        if used < self._events.size:
            self._events.cut(used)
        return lines

    def _repaired_steps(self) -> int:
        """Cuts what follows the last whole record. Damage before a checkpoint is not an end but a hole: BadInput."""
        size, count = self.reader.record_bytes, (self._steps.size - HEADER) // self.reader.record_bytes
        needed = max((line["step"] for line in self._lines if line["type"] == "checkpoint"), default=0)
        bad = [index for index, sound in enumerate(self._soundness(count)) if not sound]
        good = bad[0] if bad else count
        if bad and len(bad) < count - good and self.first_step + good <= needed:
            what = f"the record of step {self.first_step + good} is damaged, and whole ones follow it"
            raise BadInput(self.folder / STEPS, "", what, "branch from a checkpoint, or take another copy of the run")
        if HEADER + good * size < self._steps.size:
            self._steps.cut(HEADER + good * size)
        return good

    def _soundness(self, count: int) -> Iterator[bool]:
        size = self.reader.record_bytes
        batch = max(1, (4 << 20) // size)
        with io.opened(self.folder / STEPS) as file:
            for first in range(0, count, batch):
                data = io.read_at(file, HEADER + first * size, min(batch, count - first) * size)
                for place in range(min(batch, count - first)):
                    yield self.reader._whole(data[place * size : (place + 1) * size], first + place)

    # Appending

    @property
    def step(self) -> int:
        """The last recorded step; that of the parent's checkpoint, or 0, where there is none."""
        return self.first_step - 1 + self._count

    def append(self, event: Step | Line) -> None:
        """Records an event; during a replay, compares it. When this returns, a kill of the process loses nothing of it.

        BadInput: the disk is full, an alpha is not finite. AssertionError: steps out of order or of another layout.
        """
        if isinstance(event, Step):
            self._append_step(event)
        elif isinstance(event, Checkpoint) and event == self._saved:
            return  # `save_checkpoint` has recorded it
        elif not self._recalled(event):
            self._write(event)

    def _append_step(self, event: Step) -> None:
        record = self.layout.record(event)
        if event.step <= self.step:
            assert self._replay is not None, f"step {event.step} is recorded already"
            if record == self.recorded(event.step):
                if event.step == self._replay.until:
                    self._resumed(
                        True, f"steps {self._replay.start + 1} to {event.step} came out identical", event.epoch
                    )
                return
            self._differs(event.step)
        assert event.step == self.step + 1, f"step {event.step} after step {self.step}"
        self._steps.append(record)
        self._count += 1

    def _write(self, event: Line) -> None:
        line = {**to_json(event), "n": len(self._lines), "time": time.time()}
        text = io.dumps(line, EVENTS).encode() + b"\n"
        if len(text) > LINE_LIMIT:
            raise BadInput(EVENTS, line["type"], f"{len(text):,} bytes are too long for a line", "record less")
        self._events.append(text)
        self._lines.append(io.loads(text, EVENTS))
        if isinstance(event, (Finished, Failure, Interrupted)):
            self._steps.sync()
            self._events.sync()

    def recorded(self, step: int) -> bytes | None:
        """The record of `step` as it stands in the file, or None."""
        index, size = step - self.first_step, self.reader.record_bytes
        if not 0 <= index < self._count:
            return None
        with io.opened(self.folder / STEPS) as file:
            return io.read_at(file, HEADER + index * size, size)

    # Replaying

    def begin_replay(self, step: int, settings: str = "") -> None:
        """From now on events after `step`, the step of a checkpoint, are compared where they are recorded already.

        `settings`: what is different around the run now ("2 threads then, 4 now"), for the message if the steps differ too.
        """
        line, epoch, file = -1, 0, ""
        for index, known in enumerate(self._lines):
            if known["type"] == "checkpoint" and known["step"] == step:
                line, epoch, file = index, known["epoch"], known["file"]
        if (line < 0 and step != self.first_step - 1) or step > self.step:
            raise BadInput(self.name, "step", f"there is no checkpoint of step {step}", "resume from another one")
        self._replay = Replay(step, epoch, file, self.step, line + 1, self._opened, settings)
        self.identical = None
        if self.step == step:
            self._resumed(None, f"went on from step {step}", epoch)

    def orders_to_replay(self, after_step: int) -> dict[int, list[Order]]:
        """step -> accepted orders that took effect after that step, below the checkpoint's line, to be given again there."""
        assert self._replay is not None and self._replay.start == after_step, f"begin_replay({after_step}) comes first"
        found: dict[int, list[Order]] = {}
        for line in self._lines[self._replay.line : self._replay.lines]:
            if line["type"] == "applied" and line["accepted"] and line["kind"] not in HARMLESS:
                order = Order(line["id"], line["kind"], line["name"], line["value"], line["time"])
                found.setdefault(line["step"], []).append(order)
        return found

    @property
    def replaying(self) -> bool:
        """Are there recorded steps that were not computed again yet?"""
        return self._replay is not None and self.identical is None and self._replay.until > self._replay.start

    def _recalled(self, event: Line) -> bool:
        """Is `event` recorded already, and says the same? A line that says something else moves the tail aside."""
        if self._replay is None or not isinstance(event, REPEATED):
            return False
        for index in range(self._replay.line, self._replay.lines):
            known = self._lines[index]
            if _key(from_json(known, EVENTS)) == _key(event):
                if isinstance(event, Applied) or _same(event, known, EVENTS):
                    self._replay.line = index + 1
                    return True
                self._differs(getattr(event, "step", self.step) + 1, index)
                return False
        return False

    def _differs(self, step: int, line: int | None = None) -> None:
        assert self._replay is not None
        replay = self._replay
        self.move_tail_aside(step, line)
        told = f": {replay.settings}" if replay.settings else ""
        self._resumed(False, f"not bit-identical from step {step}{told}", replay.epoch)
        self._replay = None

    def _resumed(self, identical: bool | None, message: str, epoch: int) -> None:
        assert self._replay is not None
        self.identical, self.message = identical, message
        self._write(Resumed(self._replay.start, epoch, self._replay.file, identical, message))

    def move_tail_aside(self, step: int, line: int | None = None) -> None:
        """Moves the records from `step` on, the lines that belong to them and their checkpoints to a new folder `tail-<n>`.

        `line`: the first line to move; by default the first that a replay would say again at `step` or later. Lines of this
        process stay. Each stage leaves a run that can be opened: copies first, then the lines, then the records.
        """
        first = self._replay.line if self._replay else 0
        if line is None:
            later = (k for k in range(first, self._opened) if _belongs(self._lines[k], step))
            line = next(later, self._opened)
        moved, kept = self._lines[line : self._opened], self._lines[:line] + self._lines[self._opened :]
        index = max(0, step - self.first_step)
        aside, size = self.folder / TAIL, self.reader.record_bytes
        with io.told(self.folder, self._steps.size - HEADER - index * size), io.opened(self.folder / STEPS) as file:
            aside.mkdir(mode=0o700)
            records = io.read_at(file, HEADER + index * size, max(0, self._count - index) * size)
            io.atomic_write(aside / STEPS, self.layout.header() + records)
            io.atomic_write(aside / EVENTS, _text(moved))
            held = {known["file"] for known in kept if known["type"] == "checkpoint"}
            for name in {known["file"] for known in moved if known["type"] == "checkpoint"} - held:
                if CHECKPOINT_NAME.fullmatch(name) and (self.folder / CHECKPOINTS / name).is_file():
                    os.replace(self.folder / CHECKPOINTS / name, aside / name)
            self._lines = [{**known, "n": n} for n, known in enumerate(kept)]
            self._opened = line
            self._events.close()
            io.atomic_write(self.folder / EVENTS, _text(self._lines))
            self._events = io.Appender(self.folder / EVENTS)
            if index < self._count:
                self._steps.cut(HEADER + index * size)
                self._count = index
            os.rename(aside, self.folder / f"tail-{max(_tails(self.folder), default=0) + 1}")
            io.sync_folder(self.folder)

    # Orders

    def orders(self) -> list[Order]:
        """Orders that came in since the last call, by file name. Damaged ones are refused in an `Applied` event and deleted.

        Answer each with an `Applied` event, then `done`. During a replay only pause, resume and step come through.
        """
        found = []
        self._steps.sync_if_due()
        self._events.sync_if_due()
        try:
            names = sorted(name for name in os.listdir(self.folder / COMMANDS) if ORDER_NAME.fullmatch(name))
        except OSError:
            return []
        for name in names[:ORDERS_LIMIT]:
            path = self.folder / COMMANDS / name
            if path in self._given.values():
                continue
            try:
                order = parse_order(io.loads(io.read_bytes(path, ORDER_LIMIT), path), path)
            except BadInput as error:
                what = f"{error.what}; {error.fix}"
                self.append(Applied(name[:64].removesuffix(".json"), self.step, "unknown", None, None, False, what))
                _unlink(path)
                continue
            if order.id in self._answered or order.id in self._given:
                _unlink(path)  # answered by a process that died before it could delete the file
            elif not self.replaying or order.kind in ("pause", "resume", "step"):
                self._given[order.id] = path
                found.append(order)
        return found

    def done(self, order: Order) -> None:
        """The order is answered: its file goes."""
        self._answered.add(order.id)
        if path := self._given.pop(order.id, None):
            _unlink(path)

    # Checkpoints

    def save_checkpoint(self, file: str, data: bytes, epoch: int, step: int) -> Checkpoint:
        """Writes checkpoints/`file` and records its event, both safe from a power cut when this returns.

        `data`: a safetensors file. In a replay a checkpoint that is there and equal is left alone. BadInput: disk full.
        """
        assert CHECKPOINT_NAME.fullmatch(file), f"{file} is no checkpoint name"
        assert step <= self.step, f"checkpoint of step {step}, but step {self.step} is the last recorded one"
        path = self.folder / CHECKPOINTS / file
        io.check_tensors(data, path)
        event = Checkpoint(epoch, step, file, io.sha256(data), len(data))
        known = self._recalled(event)
        self._steps.sync()
        if not (known and self._intact(event)):
            io.atomic_write(path, data)
        if not known:
            self._write(event)
        self._events.sync()
        self._saved = event
        self._thin()
        return event

    def _intact(self, event: Checkpoint) -> bool:
        try:
            return bool(_sound(self.folder, event))
        except BadInput:
            return False

    def read_checkpoint(self, file: str) -> bytes:
        """As `RunReader.read_checkpoint`."""
        return self.reader.read_checkpoint(file)

    def last_good_checkpoint(self) -> GoodCheckpoint:
        """The newest checkpoint whose bytes are those its event tells of, and whose steps are recorded."""
        skipped = []
        for event in sorted(self.reader.story().checkpoints.values(), key=_by_step, reverse=True):
            try:
                if event.step > self.step:
                    raise BadInput(event.file, "", f"its step {event.step} is not recorded", "")
                return GoodCheckpoint(event, _sound(self.folder, event), skipped, event.step)
            except BadInput as error:
                skipped.append(f"{event.file}: {error.what}")
        return GoodCheckpoint(None, b"", skipped, self.first_step - 1)

    def adopt_checkpoint(self, parent: RunReader, file: str) -> Checkpoint:
        """Copies a checkpoint of the run that this one branches from, checked, and records it as this run's first."""
        data = parent.read_checkpoint(file)
        event, expected = parent.story().checkpoints[file], self.info["parent"]
        if expected is None or (expected["sha256"], expected["step"]) != (event.sha256, event.step):
            raise BadInput(
                self.name, "parent", f"{file} of {parent.name} is not the checkpoint in {RUN}", "branch again"
            )
        return self.save_checkpoint(file, data, event.epoch, event.step)

    def _thin(self) -> None:
        """Over the budget every second old checkpoint goes; the first, the last two and parents of branches stay."""
        there = self.reader.checkpoints()
        excess = sum(event.bytes for event in there) - self.budget
        if excess <= 0:
            return
        kept = {there[0].file, *(event.file for event in there[-2:])} | self._branch_points(there)
        old = [event for event in there if event.file not in kept]
        while excess > 0 and old:
            for event in old[::2]:
                _unlink(self.folder / CHECKPOINTS / event.file)
                excess -= event.bytes
                if excess <= 0:
                    return
            old = old[1::2]

    def _branch_points(self, there: Sequence[Checkpoint]) -> set[str]:
        hashes = set()
        for name in _names(self.root):
            try:
                parent = RunReader(self.root, name).info["parent"] if name != self.name else None
            except BadInput:
                continue
            if parent and parent["run"] == self.name:
                hashes.add(parent["sha256"])
        return {event.file for event in there if event.sha256 in hashes}


def _belongs(line: Mapping[str, Any], step: int) -> bool:
    """Would a replay say this line again at `step` or later? Training runs come after all steps."""
    event = from_json(dict(line), EVENTS)
    return isinstance(event, Trained) or (isinstance(event, REPEATED) and event.step >= step)


def _text(lines: Sequence[Mapping[str, Any]]) -> bytes:
    return "".join(io.dumps(line, EVENTS) + "\n" for line in lines).encode()


def _unlink(path: Path) -> None:
    with io.told(path.parent):
        path.unlink(missing_ok=True)


def _make_room(root: Path, name: str) -> None:
    """Raises BadInput if `name` is taken by anything but a run that failed before its first step, which goes to the trash."""
    folder = root / name
    if not os.path.lexists(folder):
        return
    said = "something that is no run"
    if (folder / RUN).exists():
        try:
            status = RunReader(root, name).status()
        except BadInput:
            said = "a damaged run"
        else:
            if status.state == "failed" and RunReader(root, name).step_count() == 0:
                trash(root, name)
                return
            said = f"a run ({status.state}, step {status.step})"
    raise BadInput(root, "name", f"{name} is the name of {said} already", "choose another name, or resume that run")


def _install(root: Path, name: str, files: Mapping[str, bytes]) -> None:
    """Makes the run folder `name` of `files`, in one rename; names in `files` are our own."""
    aside = root / f".new-{uuid.uuid4().hex[:12]}"
    with io.told(root, sum(len(data) for data in files.values())):
        try:
            for folder in (aside, aside / COMMANDS, aside / CHECKPOINTS):
                folder.mkdir(mode=0o700)
            for file, data in files.items():
                io.atomic_write(aside / file, data)
            os.rename(aside, root / name)  # fails where the name was taken meanwhile: folders of runs are never empty
            io.sync_folder(root)
        except BaseException as error:
            for file in (*files, COMMANDS, CHECKPOINTS, ""):
                path = aside / file
                path.rmdir() if path.is_dir() else path.unlink(missing_ok=True)
            if isinstance(error, OSError) and os.path.lexists(root / name):
                what = f"{name} is the name of a run already"
                raise BadInput(root, "name", what, "choose another name, or resume that run") from error
            raise


# Orders, trash, zip -----------------------------------------------------------------------------------------


def send_order(root: str | Path, run: str, kind: str, /, *, name: str | None = None, value: Scalar = None) -> str:
    """Leaves an order for a run ("set" takes the `name` of a setting and its `value`) and returns the order's id.

    The run answers with an `Applied` event of this id. BadInput: no such run, no such order, a folder that is not ours.
    """
    folder = _existing(Path(root), run) / COMMANDS
    order = new_order(kind, name, value)
    try:
        waiting = len(os.listdir(folder))
    except OSError as error:
        raise BadInput(folder, "", "this run takes no orders", "take another copy of the run") from error
    if waiting >= ORDERS_LIMIT:
        raise BadInput(
            f"run {run}", "", f"{waiting} orders are waiting already", "wait until the run answers, or resume it"
        )
    data = io.dumps(order_json(order)).encode()
    io.atomic_write(folder / f"{time.time_ns():020d}-{order.id}.json", data)
    return order.id


def trash(root: str | Path, name: str) -> Path:
    """Moves a run that nobody writes to `.trash/` beside the others, and says where it is now."""
    folder = _existing(Path(root), name)
    bin_ = Path(root) / TRASH
    with io.told(Path(root)):
        if io.locked(folder / LOCK):
            pid, host, _ = lock_text(folder)
            raise BadInput(f"run {name}", "", f"process {pid} on {host} has it open", "stop it first")
        bin_.mkdir(mode=0o700, exist_ok=True)
        there = bin_ / f"{name}-{time.time_ns()}"
        os.rename(folder, there)
    return there


ZIP_LIMIT = 4 << 30  # bytes of all members together
ZIP_FILES = (RUN, STEPS, EVENTS)
MEMBERS_LIMIT = 2000


def export_run(root: str | Path, name: str, checkpoints: bool = False) -> bytes:
    """The run as a zip that `import_run` reads: run.json, steps.bin, events.jsonl and, if asked for, its checkpoints.

    A live run gives what is whole at the moment. The log and orders stay at home: they name paths and people.
    """
    run = RunReader(root, name)
    out = memory.BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as zipped:
        kept = run.checkpoints() if checkpoints else []
        lines = io.read_bytes(run.folder / EVENTS, EVENTS_LIMIT)
        lines = lines[: whole_lines(lines, run.folder / EVENTS, 0)[1]]
        zipped.writestr(EVENTS, lines)
        with zipped.open(STEPS, "w") as member:  # after the lines: no line is ahead of the steps
            member.write(run.layout.header())
            for first in range(0, run.step_count(), 4096):
                member.write(run.raw_steps(first, min(4096, READ_LIMIT // run.record_bytes)))
        zipped.writestr(RUN, io.dumps(run.info) + "\n")
        for event in kept:
            zipped.writestr(zipfile.ZipInfo(f"{CHECKPOINTS}/{event.file}"), _sound(run.folder, event))
    return out.getvalue()


def import_run(root: str | Path, data: bytes, name: str) -> RunReader:
    """Makes the new run `name` of a zip from `export_run`. Only members of a fixed list are read, each with a limit.

    BadInput, and no folder, when anything is missing, damaged, unexpected or too large, or the name is taken.
    """
    check_name(name)
    root = Path(root)
    where = "zip"
    try:
        with zipfile.ZipFile(memory.BytesIO(data)) as zipped:
            files = _members(zipped, where)
    except BadInput:
        raise
    except (
        zipfile.BadZipFile,
        zlib.error,
        EOFError,
        NotImplementedError,
        RuntimeError,
        ValueError,
        OSError,
        struct.error,
    ) as error:
        raise BadInput(where, "", "this is not a sound zip file", "export the run again") from error
    info = _info(io.loads(files[RUN], f"{where}: {RUN}"), f"{where}: {RUN}")
    layout = Layout.from_header(files[STEPS][:HEADER], f"{where}: {STEPS}")
    if layout != Layout.from_json(info["layout"], f"{where}: {RUN}"):
        raise BadInput(f"{where}: {STEPS}", "header", f"its layout is not that of {RUN}", "export the run again")
    lines, used = whole_lines(files[EVENTS], f"{where}: {EVENTS}", 0)
    told = {line["file"]: line for line in lines if line["type"] == "checkpoint"}
    for member, content in files.items():
        file = member.removeprefix(f"{CHECKPOINTS}/")
        if file != member and (file not in told or told[file]["sha256"] != io.sha256(content)):
            raise BadInput(where, member, "it is not the checkpoint that the events tell of", "export the run again")
    files[RUN] = (io.dumps({**info, "name": name}) + "\n").encode()
    files[EVENTS] = files[EVENTS][:used]
    with io.told(root):
        root.mkdir(mode=0o700, parents=True, exist_ok=True)
    _make_room(root, name)
    _install(root, name, files)
    return RunReader(root, name)


def _members(zipped: zipfile.ZipFile, where: str) -> dict[str, bytes]:
    """The content of every member, none of them unexpected, all of them together below the limit."""
    entries = zipped.infolist()
    names = [entry.filename for entry in entries]
    if len(entries) > MEMBERS_LIMIT or len(set(names)) < len(names):
        raise BadInput(where, "", "it has too many members, or one twice", "export the run again")
    for missing in (file for file in ZIP_FILES if file not in names):
        raise BadInput(where, missing, "it is missing", "export the run again")
    files: dict[str, bytes] = {}
    room = ZIP_LIMIT
    for entry in entries:
        file = entry.filename.removeprefix(f"{CHECKPOINTS}/")
        if entry.filename not in ZIP_FILES and (file == entry.filename or not CHECKPOINT_NAME.fullmatch(file)):
            raise BadInput(where, entry.filename[:80], "this has no place in a run", "export the run again")
        limit = min(room, {RUN: io.JSON_LIMIT, EVENTS: EVENTS_LIMIT}.get(entry.filename, CHECKPOINT_LIMIT))
        with zipped.open(entry) as member:
            content = member.read(min(limit, entry.file_size) + 1)
        if len(content) > min(limit, entry.file_size):
            raise BadInput(
                where, entry.filename, f"it is larger than {limit:,} bytes or than it says", "export it again"
            )
        files[entry.filename] = content
        room -= len(content)
    return files
