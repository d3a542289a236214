"""Where runs are, and a run as its files tell it. Nothing here writes."""

from __future__ import annotations

import os
import platform
import re
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from darts_core import io
from darts_core.errors import BadInput, unknown
from darts_core.events import (
    CHANGES,
    NAMES,
    Applied,
    Checkpoint,
    Failure,
    Finished,
    Interrupted,
    Line,
    Phase,
    from_json,
)
from darts_core.runs import checkpoints as saved
from darts_core.runs.records import (
    AGAIN,
    CHECKPOINTS,
    EVENTS,
    HEADER,
    LOCK,
    LOG,
    RUN,
    STEPS,
    Layout,
    facts,
    is_record,
    whole_lines,
)

READ_LIMIT = 64 << 20  # bytes that one call reads at most
JUST_NOW = 5.0  # seconds after which a run that nobody opened was interrupted

# Places -----------------------------------------------------------------------------------------------------


def runs_root(path: str | Path | None = None) -> Path:
    """The folder of the runs: `path`, else $DARTS_RUNS, else data/runs of the clone or, without one, of this folder."""
    given = path or os.environ.get("DARTS_RUNS")
    if given:
        return Path(given).expanduser().absolute()
    clone = Path(__file__).resolve().parents[2]
    return (clone if (clone / "pyproject.toml").is_file() else Path.cwd()) / "data" / "runs"


def samples_root() -> Path:
    """The folder of the runs that come with the clone, for looking at; it need not exist."""
    return Path(__file__).resolve().parents[2] / "data" / "samples"


def check_name(name: object) -> str:
    """`name` if a run may have it, else BadInput."""
    return io.safe_name(name, "", "run name")


def free_name(root: str | Path, stem: str) -> str:
    """A name like stem-001 that no run has now; another process may take it first (see `RunWriter.create_free`)."""
    stem = check_name(stem)[:56]
    numbered = re.compile(re.escape(stem) + r"-([0-9]{1,6})")
    taken = [int(match[1]) for name in folders(Path(root)) if (match := numbered.fullmatch(name))]
    return check_name(f"{stem}-{max(taken, default=0) + 1:03d}")


def free_group(root: str | Path, stem: str, seeds: Sequence[int]) -> str:
    """A name like stem-001 such that no run is called like its runs, stem-001-s0 and so on."""
    there, number = set(folders(Path(root))), 1
    while there & {f"{stem[:44]}-{number:03d}-s{seed}" for seed in seeds}:
        number += 1
    return check_name(f"{stem[:44]}-{number:03d}")


def folders(root: Path) -> list[str]:
    """Names of the folders in `root`, links left out; none where it cannot be read."""
    try:
        return [entry.name for entry in os.scandir(root) if entry.is_dir(follow_symlinks=False)]
    except OSError:
        return []


def existing(root: Path, name: str) -> Path:
    """The folder of the run `name`, no link; BadInput names the nearest that there is."""
    folder = io.inside(root, check_name(name))
    if folder.is_dir():
        return folder
    known = sorted(other for other in folders(root) if io.NAME.fullmatch(other))
    if known:
        raise unknown(root, "run", name, known[:20])
    raise BadInput(root, "run", f"there is no run {name!r}", "start a search first")


# What the lines add up to -----------------------------------------------------------------------------------


# The lines that `Story.then` looks at
TELLING = frozenset(NAMES[kind] for kind in (Phase, Applied, Checkpoint, Finished, Failure, Interrupted))


@dataclass(frozen=True)
class Story:
    """What the first `lines` lines add up to, which take `offset` bytes."""

    offset: int = 0
    lines: int = 0
    generation: int = 0  # of the files when they were read
    ending: str = ""  # finished, stopped, failed, interrupted; "" while the last line is none of these
    reason: str = ""  # of that ending
    phase: str = ""  # of the last Phase
    doing: str = ""  # its message
    total_steps: int | None = None  # of the last Phase that knew
    paused_at: float | None = None  # unix seconds of the pause in force
    edited: bool = False
    checkpoints: Mapping[str, Checkpoint] = field(default_factory=dict)  # file -> its last event

    def then(self, event: Line, when: float) -> Story:
        """The story with one more line, written at `when` (unix seconds)."""
        told = replace(self, lines=self.lines + 1, ending="", reason="")
        match event:
            case Phase():
                total = self.total_steps if event.total_steps is None else event.total_steps
                return replace(told, phase=event.name, doing=event.message, total_steps=total)
            case Applied(accepted=True, kind="pause"):
                return replace(told, paused_at=when)
            case Applied(accepted=True, kind="resume"):
                return replace(told, paused_at=None)
            case Applied(accepted=True, kind=kind) if kind in CHANGES:
                return replace(told, edited=True)
            case Checkpoint():
                return replace(told, checkpoints={**self.checkpoints, event.file: event})
            case Finished():
                return replace(told, ending=event.state)
            case Failure():
                return replace(told, ending="failed", reason=event.message)
            case Interrupted():
                return replace(told, ending="interrupted", reason=event.reason)
        return told

    def quiet(self, lines: int) -> Story:
        """The story with so many more lines that say nothing of it."""
        return replace(self, lines=self.lines + lines, ending="", reason="") if lines else self


# A run ------------------------------------------------------------------------------------------------------


class Status(NamedTuple):
    """How a run is. `state`: starting running paused finished stopped failed interrupted silent corrupt."""

    state: str
    step: int  # the last recorded one
    total_steps: int | None
    message: str  # a sentence: why it ended; while it lives, what it is doing
    paused: bool
    edited: bool  # a setting was changed while it ran
    last_write: float  # unix seconds
    pid: int | None
    host: str
    phase: str  # name of the last Phase event

    @property
    def alive(self) -> bool:
        """Does a process hold this run open?"""
        return self.state in ("starting", "running", "paused")


class Summary(NamedTuple):
    """A run as a row of a table."""

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
    """A run, live or not. Never writes, trusts whole records and lines only. Every fault of a file is BadInput."""

    def __init__(self, root: str | Path, name: str):
        """BadInput: there is no such run, or its run.json is missing, damaged or of a later schema."""
        self.root, self.name = Path(root), name
        self.folder = existing(self.root, name)
        path = self.folder / RUN
        self.info: dict[str, Any] = facts(io.loads(io.read_bytes(path, io.JSON_LIMIT), path), path)
        self.first_step: int = (self.info["parent"] or {"step": 0})["step"] + 1  # a branch holds only its own steps
        self._sound = 0  # records known to be whole
        self._story = Story()
        # The files as `status` saw them, and what they said then
        self._known: tuple[list[io.Stamp | None], Story, int] | None = None

    # Steps

    @cached_property
    def layout(self) -> Layout:
        """What the header of `steps.bin` states; BadInput when it is damaged or does not agree with run.json."""
        path = self.folder / STEPS
        with io.opened(path) as file:
            layout = Layout.from_header(io.read_at(file, 0, HEADER), path)
        if layout != Layout.from_json(self.info["layout"], self.folder / RUN):
            raise BadInput(path, "header", f"its layout is not that of {RUN}", AGAIN)
        return layout

    @property
    def record_bytes(self) -> int:
        """Bytes of one record of `steps.bin`."""
        return self.layout.dtype.itemsize

    def step_count(self) -> int:
        """How many whole records there are; a torn, zeroed or scrambled end is left out."""
        size = self.record_bytes
        with io.opened(self.folder / STEPS) as file:
            count = max(0, (os.fstat(file.fileno()).st_size - HEADER) // size)
            while count > self._sound and not self.is_sound(
                io.read_at(file, HEADER + (count - 1) * size, size), count - 1
            ):
                count -= 1
        self._sound = count
        return count

    def is_sound(self, record: bytes, index: int) -> bool:
        """Is `record` a whole one, and does it belong at `index` (from 0)?"""
        return len(record) == self.record_bytes and is_record(record, self.first_step + index)

    def raw_steps(self, first: int = 0, count: int | None = None, stride: int = 1) -> bytes:
        """Every `stride`-th of the `count` records from index `first` (from 0), as they stand in the file.

        Ends before the first of them that is not whole. BadInput for more than 64 MB: take a stride.
        """
        assert first >= 0 and stride >= 1 and (count is None or count >= 0), f"{first}, {count}, {stride}"
        have, size = self.step_count(), self.record_bytes
        indices = range(first, have if count is None else min(have, first + count), stride)
        if len(indices) * size > READ_LIMIT:
            raise BadInput(self.folder / STEPS, "", f"{len(indices):,} records are more than 64 MB", "take a stride")
        with io.opened(self.folder / STEPS) as file:
            if stride == 1:
                data = io.read_at(file, HEADER + first * size, len(indices) * size)
            else:
                data = b"".join(io.read_at(file, HEADER + index * size, size) for index in indices)
        for place, index in enumerate(indices):
            if not self.is_sound(data[place * size : (place + 1) * size], index):
                return data[: place * size]
        return data

    def steps(self, first: int = 0, count: int | None = None, stride: int = 1) -> np.ndarray:
        """The records of `raw_steps`, with fields step, epoch, stage, flags, metrics (M,) and each tensor by name."""
        rows = np.frombuffer(self.raw_steps(first, count, stride), self.layout.dtype)
        return rows[[name for name in self.layout.dtype.names or () if name != "crc"]]

    # Lines

    def events(self, offset: int = 0) -> tuple[list[dict[str, Any]], int]:
        """The whole lines from byte `offset` on (64 MB at most), and the next offset.

        Each is a dict as `events.to_json` makes it, with "n" (its number) and "time" (unix seconds). A damaged end is
        left out; damage before a whole line is BadInput.
        """
        return self._lines(offset, None)

    def _lines(self, offset: int, closely: frozenset[str] | None) -> tuple[list[dict[str, Any]], int]:
        """As `events`; types not in `closely` are not checked in full."""
        path = self.folder / EVENTS
        with io.opened(path) as file:
            there = os.fstat(file.fileno()).st_size - offset
            data = io.read_at(file, offset, min(there, READ_LIMIT))
        found, used = whole_lines(data, path, 0 if offset == 0 else None, closely)
        return found, offset + used

    def generation(self) -> int:
        """How many tails were moved aside. When it grows, records and lines read before may no longer stand."""
        return len(tails(self.folder))

    def story(self) -> Story:
        """What all lines add up to; only new ones are read, and those that tell nothing of the state not closely."""
        path, story, generation = self.folder / EVENTS, self._story, self.generation()
        if generation != story.generation or io.size(path) < story.offset:
            story = Story(generation=generation)
        while True:
            found, offset = self._lines(story.offset, TELLING)
            if found and found[0]["n"] != story.lines:
                raise BadInput(path, "n", f"line {found[0]['n']} stands where line {story.lines} should", AGAIN)
            quiet = 0
            for line in found:
                if line["type"] in TELLING:
                    story, quiet = story.quiet(quiet).then(from_json(line, path), line["time"]), 0
                else:
                    quiet += 1
            story = story.quiet(quiet)
            if offset == story.offset:
                break
            story = replace(story, offset=offset)
        self._story = story
        return story

    # Status

    def status(self) -> Status:
        """How the run is now. Of a damaged folder the state is corrupt, and the message says what is damaged."""
        held = io.locked(self.folder / LOCK)
        try:
            seen = [io.stamp(self.folder / name) for name in (STEPS, EVENTS)]
            if self._known is None or self._known[0] != seen:
                self._known = seen, self.story(), self.step_count()
            _, story, count = self._known
            written = max(os.stat(self.folder / name).st_mtime for name in (STEPS, EVENTS))
        except (BadInput, OSError) as error:
            return Status("corrupt", 0, None, str(error), False, False, 0.0, None, "", "")
        pid, host, started = lock_text(self.folder)
        step = self.first_step - 1 + count
        total = self.info["total_steps"] if story.total_steps is None else story.total_steps
        paused = held and story.paused_at is not None and story.paused_at >= started  # a new process is not paused
        if held:
            state, message = "starting" if count == 0 else "paused" if paused else "running", story.doing
        elif story.ending:
            state, message = story.ending, story.reason
        elif host and host != platform.node():
            state, message = "silent", f"silent for {ago(time.time() - written)}"
        elif pid is None and story.lines == 0 and abs(time.time() - self.info["created"]) < JUST_NOW:
            state, message = "starting", ""  # its maker has not opened it yet
        else:
            message = f"the process ended without a word at step {step}; resume goes on from its last checkpoint"
            state = "interrupted"
        return Status(state, step, total, message, paused, story.edited, written, pid, host, story.phase)

    def summary(self) -> Summary:
        """The run as a row of a table."""
        now, config = self.status(), self.info["config"]
        title, created = self.info["title"], float(self.info["created"])
        strategy, dataset = (str(config.get(key, ""))[:64] for key in ("strategy", "dataset"))
        place = (now.state, now.step, now.total_steps)
        return Summary(self.name, title, *place, created, strategy, dataset, now.message, now.edited)

    # Checkpoints and the log

    def checkpoints(self) -> list[Checkpoint]:
        """Those that are there, by step; of a file that was written twice, the last event."""
        try:
            there = set(os.listdir(self.folder / CHECKPOINTS))
        except OSError:
            there = set()
        return sorted((event for event in self.story().checkpoints.values() if event.file in there), key=saved.by_step)

    def checkpoint_at(self, epoch: int) -> Checkpoint:
        """The checkpoint after `epoch` finished epochs; BadInput lists those there are."""
        found = {event.epoch: event for event in self.checkpoints() if event.file.startswith("e")}
        if epoch not in found:
            there = ", ".join(str(known) for known in sorted(found)) or "none"
            raise BadInput(
                f"run {self.name}", "epoch", f"there is no checkpoint of epoch {epoch}", f"there are: {there}"
            )
        return found[epoch]

    def read_checkpoint(self, file: str) -> bytes:
        """The bytes of a checkpoint, a sound safetensors file of the length and SHA-256 that its event says."""
        event = self.story().checkpoints.get(file)
        if event is None:
            raise unknown(f"run {self.name}", "checkpoint", file, [known.file for known in self.checkpoints()])
        return saved.sound(self.folder, event)

    def log_tail(self, lines: int = 40) -> str:
        """The last lines of `log.txt`, at most 64 kB; "" where there is none."""
        try:
            with io.opened(self.folder / LOG) as file:
                skipped = max(0, os.fstat(file.fileno()).st_size - (64 << 10))
                text = io.read_at(file, skipped, 64 << 10).decode("utf-8", "replace")
        except BadInput:
            return ""
        return "\n".join(text.splitlines()[-lines:])


def tails(folder: Path) -> list[int]:
    """Numbers of the tails that were moved aside in a run."""
    return [int(name[5:]) for name in folders(folder) if re.fullmatch(r"tail-[0-9]{1,6}", name)]


def lock_text(folder: Path) -> tuple[int | None, str, float]:
    """Process, host and start (unix seconds) of the last writer, as it wrote them; None, "", 0.0 if unsound."""
    try:
        data = io.loads(io.read_bytes(folder / LOCK, 4096), folder / LOCK)
        pid, host, started = data["pid"], data["host"], data["started"]
    except (BadInput, KeyError, TypeError):
        return None, "", 0.0
    sound = type(pid) is int and isinstance(host, str) and type(started) in (int, float) and 0 <= started < 1e11
    return (pid, host[:255], float(started)) if sound else (None, "", 0.0)


def ago(seconds: float) -> str:
    """A duration for people: "40 s", "3 min", "2 h", "5 days"."""
    for unit, size in (("days", 86_400), ("h", 3_600), ("min", 60)):
        if seconds >= 2 * size:
            return f"{seconds / size:.0f} {unit}"
    return f"{max(seconds, 0):.0f} s"


_READERS: dict[tuple[str, int, int], RunReader] = {}  # (folder, inode and mtime of run.json): saves reading again


def cards(root: str | Path) -> dict[str, dict[str, Any]]:
    """`run.json` of every run that `list_runs` could read when it last looked, by name."""
    return {Path(key[0]).name: reader.info for key, reader in _READERS.items() if Path(key[0]).parent == Path(root)}


def list_runs(root: str | Path) -> list[Summary]:
    """All runs below `root`, the newest first. Links and foreign folders are left out; damaged runs are corrupt."""
    root, found, seen = Path(root), [], set()
    for name in folders(root):
        if not io.NAME.fullmatch(name) or name in io.RESERVED:
            continue
        try:
            stamp = os.lstat(root / name / RUN if (root / name / RUN).exists() else root / name / STEPS)
        except OSError:  # neither file: no run
            continue
        key = (str(root / name), stamp.st_ino, stamp.st_mtime_ns)
        try:
            reader = _READERS.get(key) or RunReader(root, name)
            found.append(reader.summary())
            _READERS[key] = reader
            seen.add(key)
        except BadInput as error:
            found.append(Summary(name, name, "corrupt", 0, None, stamp.st_mtime, "", "", str(error), False))
    for key in list(_READERS):
        if Path(key[0]).parent == root and key not in seen:
            _READERS.pop(key, None)
    return sorted(found, key=lambda run: (-run.created, run.name))
