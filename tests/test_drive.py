"""A search inside its run folder: orders and their answers, pauses, failures, and going on after them."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from darts_core.config import SearchConfig
from darts_core.drive import branch, drive, new_run
from darts_core.errors import BadInput
from darts_core.events import Order, Step, Trained
from darts_core.runs import RunReader, RunWriter, send_order

CONFIG = SearchConfig.from_dict(
    {
        "dataset": "digits", "space": "tiny", "cells": 3, "reductions": "middle", "channels": 2, "stem_multiplier": 1,
        "stem_stride": 2, "batch": 20, "arch_batch": 20, "train_portion": 0.1, "epochs": 4, "a_lr": 0.1, "w_lr": 0.05,
        "threads": 1,
    }
)  # fmt: skip


class Crash(RuntimeError):
    """Stands for a process that dies: raised in the middle of things."""


def crash_at(step: int) -> Callable[[Any], None]:
    def say(event: Any) -> None:
        if isinstance(event, Step) and event.step == step:
            raise Crash("out of memory")

    return say


def lines(root: Path, name: str, kind: str) -> list[dict[str, Any]]:
    return [line for line in RunReader(root, name).events()[0] if line["type"] == kind]


def until(found: Callable[[], bool], seconds: float = 60.0) -> None:
    end = time.monotonic() + seconds
    while not found():
        assert time.monotonic() < end, "it did not happen in time"
        time.sleep(0.02)


@pytest.fixture(autouse=True)
def _same_threads_afterwards() -> Any:
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


def test_pause_freezes_step_makes_one_and_resume_goes_on(tmp_path: Path) -> None:
    config = CONFIG.with_(epochs=300)
    writer = new_run(tmp_path, "live", config, ["test"])
    worker = threading.Thread(target=drive, args=(writer, config))
    worker.start()
    reader = RunReader(tmp_path, "live")
    until(lambda: reader.step_count() > 2)
    send_order(tmp_path, "live", "pause")
    until(lambda: RunReader(tmp_path, "live").status().state == "paused")
    frozen = reader.step_count()
    time.sleep(0.3)
    assert reader.step_count() == frozen
    send_order(tmp_path, "live", "step")
    until(lambda: reader.step_count() == frozen + 1)
    send_order(tmp_path, "live", "set", name="a_lr", value=0.25)
    until(lambda: any(e["kind"] == "set" for e in lines(tmp_path, "live", "applied")))  # answered while paused
    assert reader.step_count() == frozen + 1
    send_order(tmp_path, "live", "resume")
    until(lambda: reader.step_count() > frozen + 5)
    send_order(tmp_path, "live", "stop")
    worker.join(60)
    assert not worker.is_alive()
    status = RunReader(tmp_path, "live").status()
    assert status.state == "stopped" and status.edited
    answers = lines(tmp_path, "live", "applied")
    assert [a["kind"] for a in answers] == ["pause", "step", "set", "resume", "stop"]
    assert answers[2]["step"] == frozen + 1 and answers[2]["accepted"]
    rates = reader.steps()["metrics"][:, 5]
    assert set(rates[: frozen + 1]) == {np.float32(0.1)} and set(rates[frozen + 1 :]) == {np.float32(0.25)}
    assert not any((tmp_path / "live" / "commands").iterdir())


def test_a_stop_ends_at_once_and_trains_nothing(tmp_path: Path) -> None:
    """Who clicks Stop does not wait for three networks that are trained from scratch: Train this cell does that."""
    config = CONFIG.with_(retrain_epochs=1000, random_cells=1)
    assert drive(new_run(tmp_path, "left", config, ["test"]), config, orders={7: [Order("a", "stop")]}) == 0
    told = [line["type"] for line in RunReader(tmp_path, "left").events()[0]]
    assert told[-3:] == ["checkpoint", "result", "finished"] and "trained" not in told
    status = RunReader(tmp_path, "left").status()
    assert (status.state, status.step) == ("stopped", 7)


def test_a_stop_while_its_cell_is_trained_ends_that_and_the_search_counts_as_finished(tmp_path: Path) -> None:
    config = CONFIG.with_(epochs=1, retrain_epochs=1000, random_cells=1)
    asked: list[str] = []

    def say(event: Any) -> None:
        if isinstance(event, Trained) and event.role == "pruned" and not asked:
            asked.extend(send_order(tmp_path, "long", kind) for kind in ("pause", "stop"))

    assert drive(new_run(tmp_path, "long", config, ["test"]), config, say) == 0
    assert RunReader(tmp_path, "long").status().state == "finished"
    assert [event["role"] for event in lines(tmp_path, "long", "trained")] == ["supernet", "pruned"]
    answers = [(event["kind"], event["accepted"], event["reason"]) for event in lines(tmp_path, "long", "applied")]
    assert answers == [("pause", False, "the search is over; its cell is being trained"), ("stop", True, "")]
    assert not any((tmp_path / "long" / "commands").iterdir())


def test_a_crash_leaves_a_sentence_and_resuming_equals_never_having_crashed(tmp_path: Path) -> None:
    """A setting was steered after the last checkpoint: it must take effect again at the same step."""
    orders = {14: [Order("a", "set", "a_lr", 0.3)], 3: [Order("b", "set", "w_decay", 0.01)]}
    assert drive(new_run(tmp_path, "whole", CONFIG, ["test"]), CONFIG, orders=orders) == 0
    assert drive(new_run(tmp_path, "cut", CONFIG, ["test"]), CONFIG, crash_at(17), orders) == 1
    status = RunReader(tmp_path, "cut").status()
    assert status.state == "failed" and "Crash: out of memory" in status.message and "\n" not in status.message
    assert "Traceback" in lines(tmp_path, "cut", "failure")[0]["traceback"]
    assert drive(RunWriter.open(tmp_path, "cut"), CONFIG) == 0
    whole, cut = RunReader(tmp_path, "whole"), RunReader(tmp_path, "cut")
    assert (whole.folder / "steps.bin").read_bytes() == (cut.folder / "steps.bin").read_bytes()
    assert whole.read_checkpoint("e0004.safetensors") == cut.read_checkpoint("e0004.safetensors")
    assert [e["identical"] for e in lines(tmp_path, "cut", "resumed")] == [True]
    assert len(lines(tmp_path, "cut", "applied")) == 2


def test_a_resumed_run_that_differs_says_so_and_keeps_the_old_tail(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert drive(new_run(tmp_path, "cut", CONFIG, ["test"]), CONFIG, crash_at(17)) == 1
    monkeypatch.setattr("darts_core.search.stepping.annealed", lambda *rest: 0.011)  # another program than then
    assert drive(RunWriter.open(tmp_path, "cut"), CONFIG) == 0
    told = lines(tmp_path, "cut", "resumed")
    assert told[0]["identical"] is False and "not bit-identical from step" in told[0]["message"]
    assert (tmp_path / "cut" / "tail-1" / "steps.bin").is_file()
    assert RunReader(tmp_path, "cut").status().state == "finished"


def test_a_full_disk_is_said_and_nothing_recorded_is_lost(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from darts_core import io

    real, room = io.Appender.append, [40]

    def append(self: io.Appender, data: bytes) -> None:
        room[0] -= 1
        if room[0] < 0:
            raise BadInput("disk full", "", "1 MB needed", "make room and resume")
        real(self, data)

    monkeypatch.setattr(io.Appender, "append", append)
    assert drive(new_run(tmp_path, "full", CONFIG, ["test"]), CONFIG) == 2
    monkeypatch.setattr(io.Appender, "append", real)
    before = RunReader(tmp_path, "full").raw_steps()
    assert RunReader(tmp_path, "full").status().state == "interrupted" and len(before) > 0
    assert drive(RunWriter.open(tmp_path, "full"), CONFIG) == 0
    assert RunReader(tmp_path, "full").raw_steps()[: len(before)] == before
    assert RunReader(tmp_path, "full").status().state == "finished"


def test_a_branch_takes_the_settings_in_force_and_its_own_changes(tmp_path: Path) -> None:
    orders = {3: [Order("b", "set", "w_decay", 0.01)]}
    assert drive(new_run(tmp_path, "one", CONFIG, ["test"]), CONFIG, orders=orders) == 0
    parent = RunReader(tmp_path, "one")
    writer = branch(tmp_path, parent, 2, {"a_lr": "0.02"}, "two", ["test"])
    config = SearchConfig.from_dict(writer.info["config"])
    assert (config.w_decay, config.a_lr) == (0.01, 0.02)
    assert drive(writer, config) == 0
    child = RunReader(tmp_path, "two")
    assert child.first_step == parent.steps()["step"][parent.step_count() // 2]  # half of the epochs were done
    assert child.status().state == "finished"


@pytest.mark.parametrize(
    "epoch, changes, expected",
    [
        (9, {}, "no checkpoint"),
        (2, {"channels": "4"}, "--weights fresh"),
        (2, {"space": "s2"}, "--weights fresh"),
        (4, {}, "already the end"),
        (2, {"a_lrr": "1"}, "did you mean"),
    ],
)
def test_a_branch_that_cannot_be_is_one_sentence_and_leaves_no_folder(
    tmp_path: Path, epoch: int, changes: dict[str, str], expected: str
) -> None:
    drive(new_run(tmp_path, "one", CONFIG.with_(epochs=4), ["test"]), CONFIG)
    with pytest.raises(BadInput, match=expected):
        branch(tmp_path, RunReader(tmp_path, "one"), epoch, changes, "two", ["test"])
    assert not (tmp_path / "two").exists()


def test_a_damaged_newest_checkpoint_is_passed_over(tmp_path: Path) -> None:
    assert drive(new_run(tmp_path, "cut", CONFIG, ["test"]), CONFIG, crash_at(17)) == 1
    newest = RunReader(tmp_path, "cut").checkpoints()[-1].file
    path = tmp_path / "cut" / "checkpoints" / newest
    path.write_bytes(path.read_bytes()[:-5])
    assert drive(RunWriter.open(tmp_path, "cut"), CONFIG) == 0
    told = lines(tmp_path, "cut", "resumed")
    assert told[0]["identical"] is True and told[0]["checkpoint"] != newest
    assert any(newest in line["message"] for line in lines(tmp_path, "cut", "phase"))
    assert RunReader(tmp_path, "cut").status().state == "finished"


def test_a_pace_slows_a_search_down_and_changes_no_number(tmp_path: Path) -> None:
    assert drive(new_run(tmp_path, "free", CONFIG, ["test"]), CONFIG) == 0
    paced = CONFIG.with_(epochs=4, pace=30)
    assert drive(new_run(tmp_path, "paced", paced, ["test"]), paced) == 0
    free, slow = RunReader(tmp_path, "free"), RunReader(tmp_path, "paced")
    assert free.raw_steps() == slow.raw_steps()
    spent = sum(line["seconds"] for line in lines(tmp_path, "paced", "epoch"))
    assert spent >= 0.9 * (slow.step_count() - 1) / 30


def test_a_gpu_without_memory_left_is_one_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What PyTorch raises when an allocation on a GPU fails, from the middle of a search."""

    def spent(task: Any, config: Any, host: Any) -> Any:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB.")

    monkeypatch.setattr("darts_core.strategies.strategy_named", lambda name: spent)
    assert drive(new_run(tmp_path, "full", CONFIG, ["test"]), CONFIG) == 2
    status = RunReader(tmp_path, "full").status()
    assert status.state == "failed" and "GPU: memory: is used up by a batch of 20" in status.message
    assert "smaller batch" in status.message and "bfloat16" in status.message
