"""The selection protocol: what is chosen, by which images, that it goes on where it stopped, and what it says."""

from __future__ import annotations

import statistics
from pathlib import Path

import pytest

from darts_core.config import SearchConfig
from darts_core.drive import drive
from darts_core.errors import BadInput
from darts_core.evaluation import ACCURACY, PERPLEXITY
from darts_core.runs import RunReader, RunWriter, list_runs
from darts_core.selection import Plan, Stopped, keep, select, told_apart, usual_brief

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
    assert "[1/10] p-search-0: search, seed 0, done before" in said
    assert "[4/10] p-brief-searched-1: cell of p-search-1, 1 epoch, seed 0, goes on" in said
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
    assert told_apart(found, ACCURACY).startswith("The searched cell is ")
    table, picture = keep(found, tmp_path)
    assert "searched" in table.read_text("utf-8") and picture.read_text("utf-8").count("<circle") == 4
    with pytest.raises(BadInput, match="another a_lr"):
        other = plan(search=SearchConfig.from_dict({**SEARCH, "a_lr": 0.2}))
        select(tmp_path, other, run, lambda words: None)


def brief_genotype(root: Path, kind: str, index: int) -> str:
    return RunReader(root, f"p-brief-{kind}-{index}").info["config"]["genotype"]


def test_a_difference_is_called_one_only_beyond_two_standard_errors() -> None:
    def of(ours: list[float], theirs: list[float]) -> dict[str, object]:
        kinds = {}
        for kind, values in (("searched", ours), ("random", theirs)):
            spread = statistics.stdev(values) if len(values) > 1 else 0.0
            kinds[kind] = {"test": values, "mean": statistics.fmean(values), "std": spread}
        return {"kinds": kinds}

    clear = told_apart(of([0.91, 0.93], [0.81, 0.83]), ACCURACY)
    assert "10.00 points better" in clear and "these two cells differ" in clear
    assert "do not tell the two cells apart" in told_apart(of([0.81, 0.93], [0.80, 0.83]), ACCURACY)
    assert "1.00 worse" in told_apart(of([3.0, 3.0], [2.0, 2.0]), PERPLEXITY), "a higher perplexity is worse"
    assert "nothing can be said" in told_apart(of([0.9], [0.8]), ACCURACY)


def test_short_trainings_are_a_sixth_of_the_full_ones_but_long_enough_to_be_measured() -> None:
    assert [usual_brief(full) for full in (600, 60, 24, 6, 2)] == [100, 10, 6, 6, 2]


TEXT = {
    "space": "darts-rnn", "dataset": "markov", "nodes": 2, "units": 4, "batch": 100, "arch_batch": 50, "bptt": 40,
    "epochs": 1, "threads": 1,
}  # fmt: skip


def test_language_models_are_chosen_by_validation_perplexity_and_their_test_text_is_read_at_the_end_only(
    tmp_path: Path,
) -> None:
    train = {"units": 4, "batch": 100, "bptt": 40, "threads": 1, "w_lr": 1.0}
    made = plan(search=SearchConfig.from_dict(TEXT), train=train, full=1, repeats=1)
    found = select(tmp_path, made, lambda writer, config: drive(writer, config), lambda words: None)
    assert found["measure"] == "perplexity"
    for kind, told in found["kinds"].items():
        perplexities = [row["validation"] for row in told["brief"]]
        assert told["chosen"] == perplexities.index(min(perplexities)) and told["test"][0] > 1
        lines = RunReader(tmp_path, f"p-brief-{kind}-0").events()[0]
        trained = next(line for line in lines if line["type"] == "trained")
        assert trained["test_accuracy"] is None and not any("test" in name for name in lines[-1]["summary"])
    assert "perplexity" in keep(found, tmp_path)[1].read_text("utf-8")
