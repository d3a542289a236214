"""The one writer of a run: makes the folder, records events, compares them in a replay, takes orders, saves states."""

from __future__ import annotations

import contextlib
import errno
import os
import platform
import time
import uuid
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

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
    Result,
    Resumed,
    Rewound,
    StageStarted,
    Step,
    Trained,
    from_json,
    to_json,
)
from darts_core.runs import checkpoints as saved
from darts_core.runs.orders import Inbox
from darts_core.runs.reading import RunReader, check_name, existing, folders, free_name, lock_text, tails
from darts_core.runs.records import (
    CHECKPOINTS,
    COMMANDS,
    EVENTS,
    EVENTS_LIMIT,
    FACTS,
    HEADER,
    LINE_LIMIT,
    LOCK,
    MAY_BE_MISSING,
    RUN,
    STEPS,
    Layout,
    as_lines,
    checked_line,
    facts,
    whole_lines,
)

TRASH, ASIDE = ".trash", "tail-new"
BUDGET = 2_000_000_000  # bytes of checkpoints kept per run
REPEATED = (StageStarted, Epoch, Checkpoint, Applied, Rewound, Alarm, Trained, Result)  # what a replay says again
HARMLESS = ("pause", "resume", "step", "stop", "checkpoint")  # no number depends on these: a replay leaves them out


class NameTaken(BadInput):
    """A run of this name exists."""


class GoodCheckpoint(NamedTuple):
    """Where a run can go on from. `event` is None where there is no checkpoint: then it starts from its first step."""

    event: Checkpoint | None
    data: bytes
    skipped: list[str]  # one sentence for each newer checkpoint that cannot be used
    step: int


@dataclass
class Replay:
    """Where the comparison of what is computed with what is recorded stands."""

    start: int  # step of the checkpoint
    epoch: int
    file: str  # "" for the very beginning
    until: int  # the last step recorded when it began
    computed: int  # the last step computed again
    waiting: dict[int, Line]  # index in the file -> recorded lines that are expected again
    around: str  # what is different around the run now, in words


class RunWriter:
    """Holds the lock of a run from `create` or `open` to `close`; a context manager.

    Methods raise BadInput for what a person can mend (a full disk, a damaged file) and AssertionError for a fault of
    the caller. After either the files hold whole records and lines, and nothing that was reported is lost.
    """

    def __init__(self, root: Path, name: str, lock: io.Lock):
        """For `open`, which holds the lock."""
        self._lock = lock
        self.reader = RunReader(root, name)
        self.root, self.name, self.folder = self.reader.root, name, self.reader.folder
        self.info, self.layout, self.first_step = self.reader.info, self.reader.layout, self.reader.first_step
        self.budget = BUDGET
        self.identical: bool | None = None  # did the replay come out equal? None: not known yet, or nothing to compare
        self.message = ""  # of the Resumed event
        with io.told(self.folder):
            for folder in (self.folder, self.folder / COMMANDS, self.folder / CHECKPOINTS):
                io.own_folder(folder)
                io.sweep(folder)
            if (self.folder / ASIDE).is_dir():  # killed while a tail was moved aside
                self._number_the_tail()
        self._lines, used = whole_lines(io.read_bytes(self.folder / EVENTS, EVENTS_LIMIT), self.folder / EVENTS, 0)
        self._count = self._whole_records()
        self._events = io.Appender(self.folder / EVENTS)
        self._steps = io.Appender(self.folder / STEPS)
        for file, size in ((self._events, used), (self._steps, HEADER + self._count * self.reader.record_bytes)):
            if size < file.size:
                file.cut(size)
        self._known = len(self._lines)  # lines of earlier processes
        self._replay: Replay | None = None
        self._last: Checkpoint | None = None
        self._inbox = Inbox(self.folder / COMMANDS, (e.id for e in self._lines_as_events() if isinstance(e, Applied)))

    @classmethod
    def create(cls, root: str | Path, name: str, info: Mapping[str, Any]) -> RunWriter:
        """A new run, open for writing. `info` holds keys of `records.FACTS` and `MAY_BE_MISSING`, "layout" among them.

        The folder appears whole, by one rename. NameTaken when a run of this name exists, unless it failed before its
        first step: then that one goes to the trash.
        """
        check_name(name)
        root = Path(root)
        for key in info:
            if key not in FACTS and key not in MAY_BE_MISSING:
                raise unknown(RUN, "key", key, [*FACTS, *MAY_BE_MISSING])
        defaults = {key: default for key, (_, default) in FACTS.items() if default is not ...}
        full = {**defaults, "title": name, "created": time.time(), **info, "name": name}
        full = facts(io.loads(io.dumps(full, RUN).encode(), RUN), RUN)
        header = Layout.from_json(full["layout"], RUN).header()
        make_room(root, name)
        install(root, name, {STEPS: header, EVENTS: b"", RUN: (io.dumps(full) + "\n").encode()})
        return cls.open(root, name)

    @classmethod
    def create_free(cls, root: str | Path, stem: str, info: Mapping[str, Any]) -> RunWriter:
        """A new run with a free name like stem-001, however many processes ask at once."""
        for _ in range(1000):
            try:
                return cls.create(root, free_name(root, stem), info)
            except NameTaken:
                continue
        raise BadInput(root, "name", f"no free name like {stem}-001 was found", "choose a name")

    @classmethod
    def open(cls, root: str | Path, name: str) -> RunWriter:
        """Takes the lock of a run and cuts torn ends. BadInput names the process that holds it, or what is damaged."""
        folder = existing(Path(root), name)
        text = io.dumps({"pid": os.getpid(), "host": platform.node(), "started": time.time()})
        try:
            with io.told(folder):
                lock = io.Lock(folder / LOCK, text)
        except BadInput as error:
            if isinstance(error.__cause__, BlockingIOError):
                raise _held(folder, name) from None
            raise
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

    def _whole_records(self) -> int:
        """How many records there are before the first that is not whole.

        After a power cut the last second may hold holes; it is computed again. Before a checkpoint, whose records were
        synced, a hole is damage: BadInput.
        """
        count = (io.size(self.folder / STEPS) - HEADER) // self.reader.record_bytes
        bad = [index for index, sound in enumerate(self._soundness(count)) if not sound]
        good = bad[0] if bad else count
        synced = max((line["step"] for line in self._lines if line["type"] == "checkpoint"), default=0)
        if len(bad) < count - good and self.first_step + good <= synced:
            what = f"the record of step {self.first_step + good} is damaged, and whole ones follow it"
            raise BadInput(self.folder / STEPS, "", what, "branch from a checkpoint, or take another copy of the run")
        return good

    def _soundness(self, count: int) -> Iterator[bool]:
        size = self.reader.record_bytes
        batch = max(1, (4 << 20) // size)
        with io.opened(self.folder / STEPS) as file:
            for first in range(0, count, batch):
                data = io.read_at(file, HEADER + first * size, min(batch, count - first) * size)
                for place in range(min(batch, count - first)):
                    yield self.reader.is_sound(data[place * size : (place + 1) * size], first + place)

    def _lines_as_events(self) -> list[Line]:
        return [from_json(line, EVENTS) for line in self._lines]

    # Appending

    @property
    def step(self) -> int:
        """The last recorded step; before the first, that of the parent's checkpoint, or 0."""
        return self.first_step - 1 + self._count

    def append(self, event: Step | Line) -> None:
        """Records an event, or in a replay compares it. When this returns, a kill of the process loses nothing of it.

        BadInput: the disk is full, a value is not finite. AssertionError: a step out of order or of another layout.
        """
        if isinstance(event, Step):
            self._append_step(event)
        elif event != self._last and not self._recalled(event):  # `save_checkpoint` has recorded its event
            self._write(event)

    def _append_step(self, event: Step) -> None:
        record = self.layout.record(event)
        if event.step <= self.step:
            assert self._replay is not None, f"step {event.step} is recorded already, and this is no replay"
            assert event.step == self._replay.computed + 1, f"step {event.step} after step {self._replay.computed}"
            self._replay.computed += 1
            if record == self.recorded(event.step):
                if event.step == self._replay.until:
                    self._resumed(True, f"steps {self._replay.start + 1} to {event.step} came out bit-identical")
                return
            self._differs(event.step)
        assert event.step == self.step + 1, f"step {event.step} after step {self.step}"
        self._steps.append(record)
        self._count += 1

    def _write(self, event: Line) -> None:
        line = {**to_json(event), "n": len(self._lines), "time": time.time()}
        text = as_lines([line])
        if len(text) > LINE_LIMIT:
            raise BadInput(EVENTS, line["type"], f"{len(text):,} bytes are too long for a line", "record less")
        line = checked_line(io.loads(text, EVENTS), EVENTS)
        self._events.append(text)
        self._lines.append(line)
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

    def begin_replay(self, step: int, around: str = "") -> None:
        """From now on what is recorded after `step`, that of a checkpoint, is compared with what `append` is given.

        `around`: what is different around the run now ("2 threads then, 4 now"), for the message if steps differ too.
        """
        events = self._lines_as_events()
        there = [(n, e) for n, e in enumerate(events) if isinstance(e, Checkpoint) and e.step == step]
        if (not there and step != self.first_step - 1) or step > self.step:
            raise BadInput(f"run {self.name}", "step", f"there is no checkpoint of step {step}", "resume from another")
        place, epoch, file = (there[-1][0], there[-1][1].epoch, there[-1][1].file) if there else (-1, 0, "")
        # Lines of the checkpoint's own step come again only if they were written after it.
        waiting = {n: e for n, e in enumerate(events) if _at(e) > step or (_at(e) == step and n > place)}
        self._replay = Replay(step, epoch, file, self.step, step, waiting, around)
        self.identical = None
        if self.step == step:
            self._resumed(None, f"went on from step {step}")

    def orders_to_replay(self, after_step: int) -> dict[int, list[Order]]:
        """step -> orders that were carried out there, after the checkpoint of `after_step`: to be given again there."""
        assert self._replay is not None and self._replay.start == after_step, f"begin_replay({after_step}) comes first"
        found: dict[int, list[Order]] = {}
        for event in self._replay.waiting.values():
            if isinstance(event, Applied) and event.accepted and event.kind not in HARMLESS:
                found.setdefault(event.step, []).append(Order(event.id, event.kind, event.name, event.value))
        return found

    @property
    def replaying(self) -> bool:
        """Are there recorded steps still to be computed again?"""
        return self._replay is not None and self.identical is None and self._replay.until > self._replay.start

    def _recalled(self, event: Line) -> bool:
        """Does a recorded line say the same? One that should, and does not, moves the tail aside."""
        if self._replay is None:
            return False
        for n, known in self._replay.waiting.items():
            if _key(known) == _key(event):
                if isinstance(event, Applied) or _said(known) == _said(event):
                    del self._replay.waiting[n]
                    return True
                self._differs(int(min(_at(event), self.step)) + 1, n)
                return False
        return False

    def _differs(self, step: int, line: int | None = None) -> None:
        """The run is another one from `step` on; `line`: the index of a line that differs."""
        assert self._replay is not None
        around = f": {self._replay.around}" if self._replay.around else ""
        self.move_tail_aside(step, line)
        self._resumed(False, f"not bit-identical from step {step}{around}")
        self._replay = None

    def _resumed(self, identical: bool | None, message: str) -> None:
        assert self._replay is not None
        self.identical, self.message = identical, message
        self._write(Resumed(self._replay.start, self._replay.epoch, self._replay.file, identical, message))

    def move_tail_aside(self, step: int, line: int | None = None) -> None:
        """Moves the records from `step` on, the lines that belong to them and their checkpoints to a new `tail-<n>`.

        `line`: the index of one more line to move. What this process wrote stays. A kill at any point leaves a run that
        can be resumed: copies come first, then the lines go, then the records.
        """
        events = self._lines_as_events()
        expected = range(self._known) if self._replay is None else self._replay.waiting
        moved = {n for n in expected if _at(events[n]) >= step} | ({line} if line is not None else set())
        kept = [n for n in range(len(events)) if n not in moved]
        held = {e.file for n in kept if isinstance(e := events[n], Checkpoint)}
        gone = {e.file for n in moved if isinstance(e := events[n], Checkpoint)} - held
        index, size = max(0, step - self.first_step), self.reader.record_bytes
        aside = self.folder / ASIDE
        with io.told(self.folder):
            aside.mkdir(mode=0o700)
            with io.opened(self.folder / STEPS) as file:
                records = io.read_at(file, HEADER + index * size, max(0, self._count - index) * size)
            io.atomic_write(aside / STEPS, self.layout.header() + records)
            io.atomic_write(aside / EVENTS, as_lines([self._lines[n] for n in sorted(moved)]))
            for name in gone:
                if saved.NAME.fullmatch(name) and (self.folder / CHECKPOINTS / name).is_file():
                    os.replace(self.folder / CHECKPOINTS / name, aside / name)
            lines = [{**self._lines[n], "n": place} for place, n in enumerate(kept)]
            self._events.rewrite(as_lines(lines))
            self._lines, self._known = lines, sum(n < self._known for n in kept)
            if index < self._count:
                self._steps.cut(HEADER + index * size)
                self._count = index
            self._number_the_tail()

    def _number_the_tail(self) -> None:
        os.rename(self.folder / ASIDE, self.folder / f"tail-{max(tails(self.folder), default=0) + 1}")
        io.sync_folder(self.folder)

    # Orders

    def orders(self) -> list[Order]:
        """Orders that came in since the last call. Files that are no orders are refused in an `Applied` event.

        Answer each with an `Applied` event, then `done`. In a replay only pause, resume and step come through.
        """
        self._steps.sync_if_due()
        self._events.sync_if_due()
        found, refused = self._inbox.take(self.replaying)
        for id, reason in refused:
            self.append(Applied(id, self.step, "unknown", None, None, False, reason))
        return found

    def done(self, order: Order) -> None:
        """The order is answered: its file goes."""
        self._inbox.done(order)

    # Checkpoints

    def save_checkpoint(self, file: str, data: bytes, epoch: int, step: int) -> Checkpoint:
        """Writes checkpoints/`file` (a safetensors file) and its event, safe from a power cut when this returns.

        In a replay, a checkpoint that is there and equal is left alone. BadInput: the disk is full.
        """
        assert saved.NAME.fullmatch(file), f"{file} is no name of a checkpoint"
        assert step <= self.step, f"a checkpoint of step {step}, but {self.step} is the last recorded one"
        io.check_tensors(data, file)
        event = Checkpoint(epoch, step, file, io.sha256(data), len(data))
        known = self._recalled(event)
        self._steps.sync()  # no event of a checkpoint is ahead of the records up to it
        if not (known and self._is_sound(event)):
            io.atomic_write(self.folder / CHECKPOINTS / file, data)
        if not known:
            self._write(event)
        self._events.sync()
        self._last = event
        self._thin_out()
        return event

    def _is_sound(self, event: Checkpoint) -> bool:
        try:
            return bool(saved.sound(self.folder, event))
        except BadInput:
            return False

    def read_checkpoint(self, file: str) -> bytes:
        """As `RunReader.read_checkpoint`."""
        return self.reader.read_checkpoint(file)

    def last_good_checkpoint(self) -> GoodCheckpoint:
        """The newest checkpoint that is sound and whose steps are recorded. BadInput: a branch without any."""
        skipped = []
        for event in sorted(self.reader.story().checkpoints.values(), key=saved.by_step, reverse=True):
            try:
                if event.step > self.step:
                    raise BadInput("", "", f"the records end before its step {event.step}", "")
                return GoodCheckpoint(event, saved.sound(self.folder, event), skipped, event.step)
            except BadInput as error:
                skipped.append(f"{event.file}: {error.what}")
        if self.first_step > 1:
            said = "; ".join(skipped) or "there is none"
            raise BadInput(f"run {self.name}", "", f"no checkpoint of this branch can be used ({said})", "branch again")
        return GoodCheckpoint(None, b"", skipped, 0)

    def adopt_checkpoint(self, parent: RunReader, file: str) -> Checkpoint:
        """Copies the checkpoint that this run branches from, checked, and records it as its first."""
        data = parent.read_checkpoint(file)
        event, origin = parent.story().checkpoints[file], self.info["parent"]
        if origin is None or (origin["sha256"], origin["step"]) != (event.sha256, event.step):
            what = f"{file} of {parent.name} is not the checkpoint that {RUN} tells of"
            raise BadInput(f"run {self.name}", "parent", what, "branch again")
        return self.save_checkpoint(file, data, event.epoch, event.step)

    def _thin_out(self) -> None:
        there = self.reader.checkpoints()
        if sum(event.bytes for event in there) > self.budget:
            with io.told(self.folder):
                for event in saved.superfluous(there, self.budget, self._branch_points(there)):
                    (self.folder / CHECKPOINTS / event.file).unlink(missing_ok=True)

    def _branch_points(self, there: Sequence[Checkpoint]) -> set[str]:
        """Files that other runs beside this one branch from."""
        origins = set()
        for name in folders(self.root):
            try:
                parent = RunReader(self.root, name).info["parent"]
            except BadInput:
                continue
            if parent and parent["run"] == self.name:
                origins.add(parent["sha256"])
        return {event.file for event in there if event.sha256 in origins}


def _at(event: Line) -> float:
    """The step at which a replay says this line again: infinity for trainings, after all steps; -1 for never."""
    if isinstance(event, Trained):
        return float("inf")
    return event.step if isinstance(event, REPEATED) else -1


def _key(event: Line) -> tuple[Any, ...]:
    """What makes two lines the same line of a run that is computed again."""
    names = ("step", "epoch", "stage", "id", "file", "role", "index", "seed")
    return type(event), *(getattr(event, name, None) for name in names)


def _said(event: Line) -> dict[str, Any]:
    """What a line says, seconds aside."""
    said = io.loads(io.dumps(to_json(event), EVENTS).encode(), EVENTS)
    return {key: value for key, value in to_json(from_json(said)).items() if key != "seconds"}


# Folders ----------------------------------------------------------------------------------------------------


def _held(folder: Path, name: str) -> BadInput:
    pid, host, started = lock_text(folder)
    since = f" since {time.strftime('%Y-%m-%d %H:%M', time.localtime(started))}" if started else ""
    what = f"process {pid or '?'} on {host or 'another machine'} has it open{since}"
    return BadInput(f"run {name}", "", what, "stop it there first, or branch from one of its checkpoints")


def make_room(root: Path, name: str) -> None:
    """Makes `root`. NameTaken when `name` is there, unless it is a run that failed at once: to the trash."""
    with io.told(root):
        root.mkdir(mode=0o700, parents=True, exist_ok=True)
    if not os.path.lexists(root / name):
        return
    said = "something else"
    if (root / name / RUN).exists():
        try:
            reader = RunReader(root, name)
            state, step = reader.status()[:2]
            if state == "failed" and step == reader.first_step - 1:
                trash(root, name)
                return
            said = f"a run ({state}, step {step})"
        except BadInput:
            said = "a damaged run"
    raise NameTaken(root, "name", f"{name} is the name of {said} already", "choose another name, or resume that run")


def install(root: Path, name: str, files: Mapping[str, bytes]) -> None:
    """The new run folder `name` with these files (names of our own), whole from the start: made aside, renamed."""
    aside = root / f".new-{uuid.uuid4().hex[:12]}"
    try:
        with io.told(root, sum(len(data) for data in files.values())):
            for folder in (aside, aside / COMMANDS, aside / CHECKPOINTS):
                folder.mkdir(mode=0o700)
            for file, data in files.items():
                io.atomic_write(aside / file, data)
            os.rename(aside, root / name)  # fails where the name was taken meanwhile, for no run folder is empty
            io.sync_folder(root)
    except BaseException as error:
        with contextlib.suppress(OSError):
            for path in (*(aside / file for file in files), aside / COMMANDS, aside / CHECKPOINTS, aside):
                path.rmdir() if path.is_dir() else path.unlink(missing_ok=True)
        if isinstance(error.__cause__, OSError) and error.__cause__.errno in (errno.EEXIST, errno.ENOTEMPTY):
            what = f"{name} is the name of a run already"
            raise NameTaken(root, "name", what, "choose another name, or resume that run") from error
        raise


def trash(root: str | Path, name: str) -> Path:
    """Moves a run that nobody writes to `.trash/` beside the others, and says where it is now."""
    folder, bin_ = existing(Path(root), name), Path(root) / TRASH
    with io.told(Path(root)):
        if io.locked(folder / LOCK):
            raise _held(folder, name)
        bin_.mkdir(mode=0o700, exist_ok=True)
        there = bin_ / f"{name}-{time.time_ns()}"
        os.rename(folder, there)
        return there
