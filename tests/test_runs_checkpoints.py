"""Checkpoints: checked on both ways, found by their epoch, kept within a budget; branches that begin with one."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from darts_core import io, runs
from darts_core.errors import BadInput
from darts_core.events import (
    Checkpoint,
)
from darts_core.runs import RunReader, RunWriter
from darts_core.runs.checkpoints import superfluous
from tests import stored
from tests.stored import (
    HEADER,
    RECORD,
    info,
    outcome,
    resume,
    start,
    steps,
)

# Checkpoints ------------------------------------------------------------------------------------------------


def damage_flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[-3] ^= 4
    path.write_bytes(data)


def damage_cut(path: Path) -> None:
    os.truncate(path, path.stat().st_size // 2)


def damage_empty(path: Path) -> None:
    os.truncate(path, 0)


def damage_grow(path: Path) -> None:
    path.write_bytes(path.read_bytes() + b"more")


def damage_link(path: Path) -> None:
    shutil.move(path, path.parent.parent / "elsewhere")
    path.symlink_to(path.parent.parent / "elsewhere")


@pytest.mark.parametrize("damage", [damage_flip, damage_cut, damage_empty, damage_grow, damage_link, Path.unlink])
def test_a_damaged_newest_checkpoint_is_named_and_the_one_before_is_used(
    tmp_path: Path, uninterrupted: Any, damage: Callable[[Path], None]
) -> None:
    start(tmp_path, "a", 14, until=11)
    damage(tmp_path / "a" / "checkpoints" / "e0002.safetensors")
    with pytest.raises(BadInput):
        RunReader(tmp_path, "a").read_checkpoint("e0002.safetensors")
    with RunWriter.open(tmp_path, "a") as writer:
        found = writer.last_good_checkpoint()
        assert found.event is not None and (found.event.file, found.step) == ("e0001.safetensors", 4)
        assert len(found.skipped) == 1 and found.skipped[0].startswith("e0002.safetensors: ")
    resume(tmp_path, "a", 14)
    assert outcome(tmp_path, "a") == uninterrupted  # the damaged one was computed and written again


def test_without_any_sound_checkpoint_a_run_starts_again_and_compares(tmp_path: Path, uninterrupted: Any) -> None:
    start(tmp_path, "a", 14, until=9)
    for path in (tmp_path / "a" / "checkpoints").iterdir():
        damage_flip(path)
    writer = resume(tmp_path, "a", 14)
    assert writer.identical is True and outcome(tmp_path, "a") == uninterrupted


def test_a_checkpoint_ahead_of_its_records_is_not_used(tmp_path: Path) -> None:
    start(tmp_path, "a", 14, until=9)
    os.truncate(tmp_path / "a" / "steps.bin", HEADER + 7 * RECORD)
    with RunWriter.open(tmp_path, "a") as writer:
        found = writer.last_good_checkpoint()
    assert found.step == 4 and "end before its step 8" in found.skipped[0]


def test_a_checkpoint_is_checked_before_it_is_written(tmp_path: Path) -> None:
    with RunWriter.create(tmp_path, "a", info()) as writer:
        with pytest.raises(BadInput, match="cut off"):
            writer.save_checkpoint("e0000.safetensors", b"junk", 0, 0)
        for file, step in (("../x.safetensors", 0), ("e0000.pt", 0), ("e0000.safetensors", 3)):
            with pytest.raises(AssertionError):
                writer.save_checkpoint(file, stored.to_bytes(np.zeros((2, 2)), 0.1), 0, step)
        assert os.listdir(tmp_path / "a" / "checkpoints") == [] and writer.reader.events()[0] == []


def test_a_checkpoint_is_recorded_once_and_found_by_its_epoch(tmp_path: Path) -> None:
    with RunWriter.create(tmp_path, "a", info()) as writer:
        data = stored.to_bytes(np.zeros((2, 2)), 0.1)
        event = writer.save_checkpoint(runs.epoch_file(0), data, 0, 0)
        writer.append(event)  # a driver may pass on what it was given
        writer.append(steps(1)[0])
        middle = writer.save_checkpoint(runs.step_file(1), data, 0, 1)
        assert (event.file, middle.file) == ("e0000.safetensors", "s00000001.safetensors")
        reader = RunReader(tmp_path, "a")
        assert reader.checkpoints() == [event, middle] and len(reader.events()[0]) == 2
        assert reader.checkpoint_at(0) == event and reader.read_checkpoint(event.file) == data
        with pytest.raises(BadInput, match="no checkpoint of epoch 3; there are: 0"):
            reader.checkpoint_at(3)
        with pytest.raises(BadInput, match="did you mean 'e0000.safetensors'"):
            reader.read_checkpoint("e0001.safetensors")


def test_no_name_in_an_event_leads_outside(root: Path) -> None:
    (root / "secret").write_bytes(b"")
    with RunWriter.open(root, "whole") as writer:
        writer.append(Checkpoint(9, 9, "../../secret", io.sha256(b""), 0))
    reader = RunReader(root, "whole")
    with pytest.raises(BadInput, match="not the name of a checkpoint"):
        reader.read_checkpoint("../../secret")
    assert "../../secret" not in [event.file for event in reader.checkpoints()]


def checkpoints_of(sizes: list[int]) -> list[Checkpoint]:
    return [Checkpoint(n, 4 * n, runs.epoch_file(n), "", size) for n, size in enumerate(sizes)]


def test_over_the_budget_every_second_old_checkpoint_goes() -> None:
    def gone(count: int, budget: int, pinned: tuple[str, ...] = ()) -> list[int]:
        return [event.epoch for event in superfluous(checkpoints_of([10] * count), budget, pinned)]

    assert gone(8, 80) == [] and gone(8, 79) == [1] and gone(8, 60) == [1, 3] and gone(8, 50) == [1, 3, 5]
    assert gone(8, 40) == [1, 3, 5, 2] and gone(8, 0) == [1, 3, 5, 2, 4]  # the first and the last two stay
    assert gone(8, 50, ("e0001.safetensors",)) == [2, 4, 3] and gone(2, 0) == [] and gone(0, 0) == []


@given(st.lists(st.integers(0, 50), max_size=12), st.integers(0, 300))
def test_thinning_keeps_within_the_budget_or_keeps_only_what_must_stay(sizes: list[int], budget: int) -> None:
    there = checkpoints_of(sizes)
    gone = superfluous(there, budget, ())
    left = [event for event in there if event not in gone]
    assert len(set(gone)) == len(gone) and left[:1] == there[:1] and left[-2:] == there[-2:]
    assert sum(event.bytes for event in left) <= budget or len(left) <= 3


def test_a_writer_keeps_to_its_budget_and_spares_branch_points(tmp_path: Path) -> None:
    with RunWriter.create(tmp_path, "a", info()) as writer:
        size = len(stored.to_bytes(np.zeros((2, 2)), 0.1))
        stored.drive(writer, 8)
    branched = RunReader(tmp_path, "a").checkpoint_at(1)
    origin = {"run": "a", "epoch": 1, "step": 4, "sha256": branched.sha256}
    RunWriter.create(tmp_path, "b", info(parent=origin)).close()
    with RunWriter.open(tmp_path, "a") as writer:
        writer.budget = 5 * size
        stored.drive(writer, 40)
    kept = [event.epoch for event in RunReader(tmp_path, "a").checkpoints()]
    assert len(kept) <= 6 and kept[:1] == [1] and kept[-2:] == [9, 10]
    with RunWriter.open(tmp_path, "a") as writer:
        assert writer.last_good_checkpoint().skipped == []


# Branches ---------------------------------------------------------------------------------------------------


def branch(root: Path, epoch: int) -> RunWriter:
    parent = RunReader(root, "whole")
    event = parent.checkpoint_at(epoch)
    origin = {"run": "whole", "epoch": epoch, "step": event.step, "sha256": event.sha256}
    writer = RunWriter.create(root, "branch", info(parent=origin))
    writer.adopt_checkpoint(parent, event.file)
    return writer


def test_an_unchanged_branch_repeats_its_parent_and_holds_only_its_own_steps(root: Path) -> None:
    with branch(root, 1) as writer:
        assert (writer.step, writer.first_step, writer.last_good_checkpoint().step) == (4, 5, 4)
        stored.drive(writer, 10)
    reader = RunReader(root, "branch")
    assert list(reader.steps()["step"]) == [5, 6, 7, 8, 9, 10] and reader.status().step == 10
    assert reader.raw_steps() == RunReader(root, "whole").raw_steps(4)
    assert [event.epoch for event in reader.checkpoints()] == [1, 2]


@pytest.mark.parametrize("until", [5, 7, 8, 9])
def test_a_branch_is_resumed_like_any_run(root: Path, until: int) -> None:
    with branch(root, 1) as writer:
        stored.drive(writer, 10, until=until)
    writer = resume(root, "branch", 10)
    assert writer.identical is not False
    assert RunReader(root, "branch").raw_steps() == RunReader(root, "whole").raw_steps(4)


def test_a_branch_takes_no_other_checkpoint_than_the_one_it_names(root: Path) -> None:
    parent = RunReader(root, "whole")
    origin = {"run": "whole", "epoch": 1, "step": 4, "sha256": parent.checkpoint_at(1).sha256}
    with RunWriter.create(root, "b", info(parent=origin)) as writer:
        with pytest.raises(BadInput, match="no checkpoint of this branch can be used .there is none."):
            writer.last_good_checkpoint()
        with pytest.raises(BadInput, match="not the checkpoint that run.json tells of"):
            writer.adopt_checkpoint(parent, "e0002.safetensors")
        damage_flip(root / "whole" / "checkpoints" / "e0001.safetensors")
        with pytest.raises(BadInput, match="SHA-256"):
            writer.adopt_checkpoint(parent, "e0001.safetensors")
