"""The selection protocol: what is chosen, by which images, that it goes on where it stopped, and what it says."""

from __future__ import annotations

import statistics
from pathlib import Path

import pytest

from darts_core.config import SearchConfig
from darts_core.drive import drive
from darts_core.errors import BadInput
from darts_core.runs import RunReader, RunWriter, list_runs
from darts_core.selection import Plan, Stopped, keep, select

SEARCH = {
    "space": "tiny", "cells": 3, "reductions": "middle", "channels": 2, "stem_multiplier": 1, "batch": 20,
    "arch_batch": 20, "epochs": 1, "augment": False, "a_lr": 0.1, "subset": 60, "threads": 1,
}  # fmt: skip
TRAIN = {"cells": 3, "channels": 2, "batch": 20, "subset": 80, "threads": 1, "augment": False}


def plan(name: str = "p", **changes: object) -> Plan:
    made = Plan(name, SearchConfig.from_dict(SEARCH), (0, 1), "quick", 1, 2, 2, TRAIN)
    return made._replace(**changes)


def test_a_selection_stops_and_goes_on_and_looks_at_test_images_only_at_the_end(tmp_path: Path) -> None:
    started: list[str] = []

    def run(writer: RunWriter, config: SearchConfig) -> int:
        started.append(writer.name)
        if len(started) == 4:
            writer.close()
            return 1  # as if the machine had gone
        return drive(writer, config)

    with pytest.raises(Stopped, match="p-brief-searched-1 did not finish"):
        select(tmp_path, plan(), run, lambda words: None)
    said: list[str] = []
    found = select(tmp_path, plan(), run, said.append)
    assert started.count("p-search-0") == 1 and started.count("p-brief-searched-1") == 2
    assert "p-search-0: done before" in said
    assert {run.name for run in list_runs(tmp_path)} == {
        *(f"p-search-{i}" for i in range(2)), *(f"p-brief-{k}-{i}" for k in ("searched", "random") for i in range(2)),
        *(f"p-full-{k}-{i}" for k in ("searched", "random") for i in range(2)),
    }  # fmt: skip
    for kind, told in found["kinds"].items():
        validations = [row["validation"] for row in told["brief"]]
        assert told["chosen"] == validations.index(max(validations))
        assert told["mean"] == pytest.approx(statistics.fmean(told["test"])) and len(told["test"]) == 2
        for index in range(2):
            brief, full = (RunReader(tmp_path, f"p-{step}-{kind}-{index}") for step in ("brief", "full"))
            assert brief.info["config"]["train_on"] == "split"
            assert "test_accuracy" not in brief.events()[0][-1]["summary"]
            measured = [e for e in full.events()[0] if e["type"] == "epoch" and "valid_accuracy" in e["metrics"]]
            assert [e["epoch"] for e in measured] == [1]
            assert full.info["config"]["genotype"] == brief_genotype(tmp_path, kind, told["chosen"])
    table, picture = keep(found, tmp_path)
    assert "searched" in table.read_text("utf-8") and picture.read_text("utf-8").count("<circle") == 4
    with pytest.raises(BadInput, match="another a_lr"):
        other = plan(search=SearchConfig.from_dict({**SEARCH, "a_lr": 0.2}))
        select(tmp_path, other, run, lambda words: None)


def brief_genotype(root: Path, kind: str, index: int) -> str:
    return RunReader(root, f"p-brief-{kind}-{index}").info["config"]["genotype"]
