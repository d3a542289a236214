"""Resuming equals never having stopped: orders at their steps, kills and full disks in between."""

from __future__ import annotations

import dataclasses
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from darts_core import runs
from darts_core.errors import BadInput
from darts_core.events import (
    Step,
    Trained,
)
from darts_core.runs import RunReader, RunWriter
from tests import stored
from tests.stored import (
    HEADER,
    LAYOUT,
    PER_EPOCH,
    RECORD,
    info,
    lines_of,
    outcome,
    resume,
    start,
    state_of,
    steer,
    steps,
)

# Replay -----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory: pytest.TempPathFactory) -> Any:
    root = tmp_path_factory.mktemp("uninterrupted")
    start(root, "a", 14)
    return outcome(root, "a")


@pytest.mark.parametrize("until", range(1, 15))
def test_resuming_equals_never_having_stopped(tmp_path: Path, uninterrupted: Any, until: int) -> None:
    start(tmp_path, "a", 14, until=until)
    writer = resume(tmp_path, "a", 14)
    assert outcome(tmp_path, "a") == uninterrupted
    compared = until % PER_EPOCH != 0
    assert writer.identical is (True if compared else None)
    resumed = [line for line in lines_of(tmp_path, "a") if line["type"] == "resumed"]
    first = until - until % PER_EPOCH
    assert len(resumed) == 1 and resumed[0]["step"] == first and resumed[0]["identical"] is writer.identical
    assert resumed[0]["checkpoint"] == (runs.epoch_file(first // PER_EPOCH) if first else "")
    if compared:
        assert writer.message == f"steps {first + 1} to {until} came out bit-identical"
    assert RunReader(tmp_path, "a").generation() == 0 and state_of(tmp_path, "a") == "finished"


def test_resuming_again_and_again_equals_never_having_stopped(tmp_path: Path, uninterrupted: Any) -> None:
    start(tmp_path, "a", 14, until=6)
    for until in (5, 6, 7, 7, 9, 13):  # some of them die inside the replay
        resume(tmp_path, "a", 14, until=until)
    resume(tmp_path, "a", 14)
    assert outcome(tmp_path, "a") == uninterrupted


@pytest.mark.parametrize("lost", [1, 3, 6])
def test_lines_that_outlived_their_records_are_not_written_twice(tmp_path: Path, uninterrupted: Any, lost: int) -> None:
    """After a power cut events.jsonl may be ahead of steps.bin."""
    start(tmp_path, "a", 14, until=13)
    os.truncate(tmp_path / "a" / "steps.bin", HEADER + (13 - lost) * RECORD)
    resume(tmp_path, "a", 14)
    assert outcome(tmp_path, "a") == uninterrupted


@pytest.mark.parametrize("until", range(7, 14))
def test_a_steered_run_is_replayed_with_its_orders_at_their_steps(tmp_path: Path, until: int) -> None:
    def steered(root: Path) -> None:
        start(root, "a", 14, until=3)
        steer(root)  # taken at step 0: the checkpoint of step 4 is not there yet
        resume(root, "a", 14, until=6)
        steer(root, ("set", "w_lr", 0.7))

    for name in ("straight", "broken"):
        (tmp_path / name).mkdir()
        steered(tmp_path / name)
    resume(tmp_path / "straight", "a", 14)
    resume(tmp_path / "broken", "a", 14, until=until)
    writer = resume(tmp_path / "broken", "a", 14)
    anonymous = []
    for name in ("straight", "broken"):
        records, files, lines = outcome(tmp_path / name, "a")
        anonymous.append((records, files, [{k: v for k, v in line.items() if k != "id"} for line in lines]))
    assert anonymous[0] == anonymous[1] and writer.identical is not False
    assert [line["value"] for line in anonymous[1][2] if line["type"] == "applied"] == [0.3, 0.7]
    assert RunReader(tmp_path / "broken", "a").status().edited


def test_an_order_that_comes_during_a_replay_waits_for_its_end(tmp_path: Path) -> None:
    start(tmp_path, "a", 14, until=7)
    set_id, pause_id = steer(tmp_path), runs.send_order(tmp_path, "a", "pause")
    writer = resume(tmp_path, "a", 14)
    applied = {line["id"]: line["step"] for line in lines_of(tmp_path, "a") if line["type"] == "applied"}
    assert writer.identical is True and applied == {pause_id: 4, set_id: 7}


def test_a_run_that_comes_out_different_keeps_both_stories(tmp_path: Path) -> None:
    start(tmp_path, "a", 14, until=11)
    before = (tmp_path / "a" / "steps.bin").read_bytes()
    old = RunReader(tmp_path, "a").read_checkpoint("e0002.safetensors")
    (tmp_path / "a" / "checkpoints" / "e0002.safetensors").write_bytes(b"spoiled")  # so that it starts from step 4
    writer = resume(tmp_path, "a", 14, kick=7)
    assert writer.identical is False
    assert writer.message == "not bit-identical from step 7: 1 thread then, 2 now"
    reader = RunReader(tmp_path, "a")
    assert reader.generation() == 1 and reader.step_count() == 14 and state_of(tmp_path, "a") == "finished"
    now = (tmp_path / "a" / "steps.bin").read_bytes()
    assert now[: HEADER + 6 * RECORD] == before[: HEADER + 6 * RECORD]
    assert now[HEADER + 6 * RECORD : len(before)] != before[HEADER + 6 * RECORD :]
    tail = tmp_path / "a" / "tail-1"
    assert (tail / "steps.bin").read_bytes() == LAYOUT.header() + before[HEADER + 6 * RECORD :]
    moved = [json.loads(line) for line in (tail / "events.jsonl").read_text().splitlines()]
    assert [(line["type"], line["step"]) for line in moved] == [("epoch", 8), ("checkpoint", 8)]
    assert (tail / "e0002.safetensors").read_bytes() == b"spoiled" and old != reader.read_checkpoint(
        "e0002.safetensors"
    )
    kept = lines_of(tmp_path, "a")
    assert [line["n"] for line in kept] == list(range(len(kept)))
    assert [line["step"] for line in kept if line["type"] == "epoch"] == [4, 8, 12]
    assert [line["identical"] for line in kept if line["type"] == "resumed"] == [False]


def test_readers_learn_that_a_tail_was_moved_aside(tmp_path: Path) -> None:
    start(tmp_path, "a", 14, until=7)
    reader = RunReader(tmp_path, "a")
    assert (reader.generation(), reader.step_count(), reader.status().edited) == (0, 7, False)
    resume(tmp_path, "a", 14, until=6, kick=6)
    assert (reader.generation(), reader.step_count()) == (1, 6)
    assert reader.status().step == 6 and list(reader.steps()["step"]) == [1, 2, 3, 4, 5, 6]


def test_an_epoch_that_says_something_else_is_a_difference_too(tmp_path: Path) -> None:
    """Steps may agree while what is measured at the epoch's end does not: running statistics, for one."""
    start(tmp_path, "a", 14, until=5)
    path = tmp_path / "a" / "events.jsonl"
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    for line in lines:
        if line["type"] == "epoch":
            line["metrics"]["val_loss"] += 1e-9
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    (tmp_path / "a" / "checkpoints" / "e0001.safetensors").unlink()
    writer = resume(tmp_path, "a", 14)
    assert writer.identical is False and "not bit-identical from step 5" in writer.message
    assert [line["step"] for line in lines_of(tmp_path, "a") if line["type"] == "epoch"] == [4, 8, 12]
    assert RunReader(tmp_path, "a").step_count() == 14


class Killed(BaseException):
    """As if the process had died there."""


class Nth:
    """A function whose n-th call does something else."""

    def __init__(self, real: Callable[..., Any], nth: int, instead: Callable[..., Any]):
        self.real, self.nth, self.instead, self.calls = real, nth, instead, 0

    def __call__(self, *given: Any, **more: Any) -> Any:
        self.calls += 1
        return (self.instead if self.calls == self.nth else self.real)(*given, **more)


def die(*_: Any, **__: Any) -> None:
    raise Killed


@pytest.mark.parametrize("point", ["mkdir", "replace", "rename", "ftruncate"])
@pytest.mark.parametrize("nth", range(1, 5))
def test_a_kill_while_a_tail_is_moved_aside_leaves_a_run_that_can_be_resumed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, point: str, nth: int
) -> None:
    start(tmp_path, "a", 14, until=7)
    with RunWriter.open(tmp_path, "a") as writer, monkeypatch.context() as patch:
        writer.begin_replay(writer.last_good_checkpoint().step)
        writer.append(steps(5)[4])
        patch.setattr(os, point, Nth(getattr(os, point), nth, die))
        try:
            writer.append(dataclasses.replace(steps(6)[5], flags=0))
        except Killed:
            pass
    resume(tmp_path, "a", 14)
    reader = RunReader(tmp_path, "a")
    assert reader.step_count() == 14 and reader.status().state == "finished"
    assert reader.generation() >= 1 or (point, nth) == ("mkdir", 1)  # before anything was moved
    assert not (reader.folder / "tail-new").exists()


def test_replaying_begins_at_a_checkpoint_only(tmp_path: Path) -> None:
    start(tmp_path, "a", 14, until=7)
    with RunWriter.open(tmp_path, "a") as writer:
        for step in (3, 8, 12):
            with pytest.raises(BadInput, match=f"no checkpoint of step {step}"):
                writer.begin_replay(step)
        with pytest.raises(AssertionError):
            writer.append(steps(5)[4])  # recorded, and no replay
        with pytest.raises(AssertionError):
            writer.append(steps(9)[8])  # step 8 is missing
        with pytest.raises(AssertionError):
            writer.orders_to_replay(4)
        assert writer.recorded(7) == LAYOUT.record(steps(7)[6]) and writer.recorded(8) is writer.recorded(0) is None


def test_a_stopped_run_that_goes_on_ends_with_its_last_line(tmp_path: Path) -> None:
    start(tmp_path, "a", 6)
    resume(tmp_path, "a", 14)
    assert state_of(tmp_path, "a") == "finished" and RunReader(tmp_path, "a").step_count() == 14
    assert [line["step"] for line in lines_of(tmp_path, "a") if line["type"] == "result"] == [6, 14]


def test_trainings_after_the_search_are_matched_by_what_was_trained(tmp_path: Path) -> None:
    start(tmp_path, "a", 6, until=6)
    trained = Trained("random", 1, 3, None, 0.5, seconds=1.0)
    with RunWriter.open(tmp_path, "a") as writer:
        writer.append(trained)
    with RunWriter.open(tmp_path, "a") as writer:
        writer.begin_replay(4)
        for step in steps(6)[4:]:
            writer.append(step)
        writer.append(dataclasses.replace(trained, seconds=9.0))
        writer.append(dataclasses.replace(trained, index=2))
    assert [line["index"] for line in lines_of(tmp_path, "a") if line["type"] == "trained"] == [1, 2]


# Faults of the disk -----------------------------------------------------------------------------------------


def no_space(*_: Any) -> None:
    raise OSError(28, "No space left on device")


def half_written(fd: int, data: bytes) -> int:
    return WRITE(fd, bytes(data)[: len(data) // 2])


WRITE = os.write
FAULTS = {
    "write": (os.write, no_space),
    "short write": (os.write, half_written),
    "fsync": (lambda fd: None, no_space),
    "replace": (os.replace, no_space),
}


class Noted(RunWriter):
    """Remembers the last step whose `append` returned."""

    acknowledged = 0

    def append(self, event: Any) -> None:
        super().append(event)
        if isinstance(event, Step):
            type(self).acknowledged = event.step


@pytest.mark.parametrize("call", FAULTS)
def test_whichever_call_fails_nothing_acknowledged_is_lost_and_the_run_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, uninterrupted: Any, call: str
) -> None:
    """The n-th write, sync or rename fails for want of space, for every n; then there is room again."""
    monkeypatch.setattr(os, "fsync", lambda fd: None)
    for nth in range(1, 1000):
        root = tmp_path / f"{nth}"
        real, instead = FAULTS[call]
        faulty = Nth(real, nth, instead)
        Noted.acknowledged = 0
        with monkeypatch.context() as patch:
            patch.setattr(os, call.split()[-1], faulty)
            try:
                with Noted.create(root, "a", info()) as writer:
                    stored.drive(writer, 14)
            except BadInput as error:
                assert "disk full: 1 MB needed in" in str(error) and "make room and resume" in str(error)
        if faulty.calls < nth:
            break
        if not (root / "a").exists():
            assert Noted.acknowledged == 0 and os.listdir(root) == []
            start(root, "a", 14)
        else:
            assert RunReader(root, "a").step_count() >= Noted.acknowledged
            if state_of(root, "a") != "finished":
                resume(root, "a", 14)
        assert outcome(root, "a") == uninterrupted, (call, nth)
    assert nth > 5
