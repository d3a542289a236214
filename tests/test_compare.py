"""A comparison: its plan, its searches, its table; interrupted and gone on with."""

from __future__ import annotations

import xml.etree.ElementTree as ET
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from darts_core import contest, tally, truth
from darts_core.config import SearchConfig
from darts_core.contest import Budget
from darts_core.errors import BadInput
from darts_core.genotype import every_genotype
from darts_core.runs import RunReader
from darts_core.space import space_named
from darts_core.tally import Outcome, Row, Tally
from darts_core.view.contest import contest_svg

QUICK = {
    "space": "nb3", "reductions": "none", "cells": 1, "channels": 2, "subset": 120, "batch": 20, "arch_batch": 20,
    "retrain_epochs": 0, "random_cells": 0, "threads": 1,
}  # fmt: skip


@pytest.fixture(autouse=True)
def a_table(monkeypatch: pytest.MonkeyPatch) -> None:
    rows = np.arange(729)[:, None] / 1000 + np.array([0.0, 0.0001, 0.0002])
    table = truth.Table("nb3", rows, rows, {})
    monkeypatch.setattr(truth, "table_of", lambda space, *rest: table if space == "nb3" else None)


def planned(root: Path, budget: str | None = "2epochs", methods: str = "darts,random:score=table") -> dict[str, Any]:
    chosen = contest.methods_in(methods)
    found = contest.plan("c", chosen, [0, 1], "tiny", QUICK, Budget.read(budget), lambda words: None)
    contest.keep_plan(found, root)
    return found


def test_every_search_is_run_and_tallied_and_a_second_call_runs_none(tmp_path: Path) -> None:
    root, said = tmp_path / "runs", []
    plan = planned(root)
    found = contest.run(plan, root, said.append)
    assert len(said) == 4 and not found.missing and [len(row.outcomes) for row in found.rows] == [2, 2]
    darts, chance = found.rows
    assert all(o.edges == 6 and o.steps == 4 and o.gap is not None for o in darts.outcomes)  # 2 epochs of 2 steps
    assert all(o.steps == 200 * 4 and o.gap is None for o in chance.outcomes)  # 4 look-ups
    for row in found.rows:
        for o in row.outcomes:
            assert o.accuracy is not None and o.regret == pytest.approx(0.7281 - o.accuracy, abs=1e-3)
    again: list[str] = []
    assert contest.run(contest.kept_plan("c", root) or {}, root, again.append) == found and not again
    folder = tally.place(root) / "c"
    assert tally.read(folder) == found and list(tally.found(tally.place(root))) == ["c"]
    assert len((folder / "table.csv").read_text().splitlines()) == 5
    assert "| darts | 2 |" in (folder / "table.md").read_text()
    ET.fromstring((folder / "plot.svg").read_text())


def test_an_interrupted_comparison_goes_on_and_ends_with_the_same_table(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = contest.run(planned(tmp_path / "a" / "runs"), tmp_path / "a" / "runs", lambda words: None)
    root, calls = tmp_path / "b" / "runs", []
    plan, real = planned(root), contest.drive

    def interrupted(writer: Any, config: Any) -> int:
        calls.append(writer.name)
        if len(calls) != 2:
            return real(writer, config)
        import signal

        return real(
            writer, config, lambda event: signal.raise_signal(signal.SIGINT) if type(event).__name__ == "Step" else None
        )

    monkeypatch.setattr(contest, "drive", interrupted)
    with pytest.raises(KeyboardInterrupt):
        contest.run(plan, root, lambda words: None)
    found = contest.run(plan, root, lambda words: None)
    assert calls[1] == calls[2] and len(calls) == 5, "the interrupted one is resumed, nothing is run twice"
    for one, two in zip(whole.rows, found.rows, strict=True):
        assert one.values("accuracy") == two.values("accuracy") and one.values("skips") == two.values("skips")


@pytest.mark.parametrize("wrong", ["", "60", "s", "-3s", "0s", "3 weeks", "nan"])
def test_a_budget_is_seconds_steps_or_epochs(wrong: str) -> None:
    assert Budget.read("2m") == Budget("seconds", 120) and Budget.read("400steps") == Budget("steps", 400)
    assert Budget.read(None) is None
    with pytest.raises(BadInput, match="budget"):
        Budget.read(wrong)


def test_a_budget_gives_each_method_what_it_can_spend(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plan = planned(tmp_path / "runs", "2000steps")
    darts, chance = (plan["methods"][m]["config"] for m in ("darts", "random:score=table"))
    assert darts["epochs"] == 1000 and chance["trials"] == 10  # 2 steps per epoch; a look-up stands for 200
    monkeypatch.setattr(contest, "seconds_per_step", lambda config, task: 0.5)
    plan = planned(tmp_path / "again", "30s")
    darts, chance = (plan["methods"][m]["config"] for m in ("darts", "random:score=table"))
    assert darts["epochs"] == 30 and chance["trials"] == 66


def test_timing_a_method_leaves_no_run(tmp_path: Path) -> None:
    plan = planned(tmp_path / "runs", "1s", "darts")
    assert plan["methods"]["darts"]["config"]["epochs"] >= 1 and not (tmp_path / "runs").exists()


@pytest.mark.parametrize("wrong", ["", "darts,darts", "darts:order"])
def test_methods_are_named_once_with_options_after_colons(wrong: str) -> None:
    found = contest.methods_in("darts,darts:order=2")
    assert found == {"darts": {"strategy": "darts"}, "darts:order=2": {"strategy": "darts", "order": "2"}}
    with pytest.raises(BadInput, match="methods"):
        contest.methods_in(wrong)


def test_a_method_of_a_comparison_may_wear_parts_whose_options_are_its_own(tmp_path: Path) -> None:
    word = "pc-darts+beta+eigenvalue-stop:share=2:beta.weight=7"
    found = contest.methods_in(f"darts,{word}")[word]
    assert found == {"strategy": "pc-darts", "parts": "beta,eigenvalue-stop", "share": "2", "beta.weight": "7"}
    plan = contest.plan("c", contest.methods_in(f"darts+beta,{word}"), [0], "tiny", QUICK, None, lambda words: None)
    config = SearchConfig.from_dict(plan["methods"][word]["config"])
    assert config.parts == "beta,eigenvalue-stop"
    assert (config.options["beta.weight"], config.options["share"]) == (7, 2)
    assert SearchConfig.from_dict(plan["methods"]["darts+beta"]["config"]).options["beta.weight"] == 50
    assert plan["methods"][word]["runs"]["0"] == "c-pc-darts-beta-eigenvalue-stop-share-2-beta-weight-7-s0"
    for wrong, known in (("darts+bta", "did you mean 'beta'"), ("dart+beta", "did you mean 'darts'")):
        with pytest.raises(BadInput, match=known):
            contest.methods_in(wrong)


def test_parts_of_the_settings_are_worn_by_methods_that_name_none(tmp_path: Path) -> None:
    both = contest.methods_in("darts,darts+max-w")
    plan = contest.plan("c", both, [0], "tiny", {**QUICK, "parts": "beta", "beta.weight": 3}, None, lambda words: None)
    configs = [SearchConfig.from_dict(entry["config"]) for entry in plan["methods"].values()]
    assert [c.parts for c in configs] == ["beta", "max-w"] and configs[0].options["beta.weight"] == 3


def row(method: str, *accuracies: float) -> Row:
    return Row(method, tuple(Outcome(s, a, 1, 6, None, 2.0, 10) for s, a in enumerate(accuracies)))


def test_words_do_not_go_beyond_two_standard_errors() -> None:
    rows = (row("good", 0.95, 0.951, 0.952), row("even", 0.92, 0.90, 0.94), row("bad", 0.5, 0.51, 0.5))
    found = Tally("c", {}, (*rows, row("random", 0.91, 0.92, 0.90)), (0.8, 0.9, 0.95), "trained", ("x, seed 3",))
    said = " ".join(tally.sentences(found))
    assert "more than two standard errors: good." in said and "Worse by as much: bad." in said
    assert "Not told apart from it: even." in said and "Not finished: x, seed 3." in said
    pair = replace(found, rows=(row("good", 0.95, 0.951), row("random", 0.8, 0.801)))
    assert "Not told apart from it: good." in tally.sentences(pair), "two seeds tell nothing apart"
    assert Tally.from_json(found.to_json(), "here") == found
    picture = contest_svg(found)
    assert picture.count("<circle") == 12 and "good 95.1 %" in picture


def test_the_band_of_random_cells_says_how_many_it_is_of_and_few_are_no_eight_of_ten() -> None:
    few = Tally("c", {}, (row("darts", 0.9, 0.8),), tally._band([0.5, 0.6, 1.0]), "trained", (), "3 cells")
    assert few.band == pytest.approx((0.5, 0.7, 1.0))
    assert "3 cells: 50.0 to 100.0 %; mean 70.0 %." in tally.sentences(few)
    assert "grey: 3 cells; dashed: their mean" in contest_svg(few) and Tally.from_json(few.to_json(), "here") == few
    assert tally._band([k / 20 for k in range(20)]) == pytest.approx((0.1, 0.475, 0.85)), "two below, two above"


def test_searches_of_one_seed_train_the_same_random_cell_which_counts_once(tmp_path: Path) -> None:
    chosen = contest.methods_in("darts,max-w")
    settings = {**QUICK, "space": "tiny", "cells": 2, "retrain_epochs": 1, "random_cells": 2}
    plan = contest.plan("c", chosen, [0, 1], "tiny", settings, Budget.read("1epochs"), lambda words: None)
    found = contest.run(plan, tmp_path / "runs", lambda words: None)
    assert found.band_of == "4 cells drawn at random, all of them", "two seeds of two, though four searches trained"
    assert found.band is not None
    trained = [
        {
            event["test_accuracy"]
            for event in RunReader(tmp_path / "runs", name).events()[0]
            if event.get("role") == "random"
        }
        for entry in plan["methods"].values()
        for name in entry["runs"].values()
    ]
    assert trained[:2] == trained[2:] and {found.band[0], found.band[2]} <= set.union(*trained)


def test_seconds_and_steps_are_both_said_whatever_the_budget_was_in() -> None:
    long = Row("random", (Outcome(0, 0.7, 1, 6, None, 60.0, 2000),))
    found = Tally("c", {"budget": ["seconds", 60.0]}, (row("darts", 0.9, 0.8), long), None, "trained")
    assert "Given 60 seconds each" in tally.spent(found)
    assert "2 to 60 s and 10 to 2,000 training steps" in tally.spent(found)
    assert tally.spent(found) in tally.sentences(found)
    assert "with its own settings" in tally.spent(Tally("c", {}, found.rows, None, "trained"))
    assert tally.spent(Tally("c", {}, (Row("darts", ()),), None, "trained")) == ""


def test_a_table_from_elsewhere_is_read_with_care() -> None:
    for wrong in ({}, [], {"name": "c"}, {"name": "c", "about": {}, "rows": [{"method": "x", "outcomes": [{}]}]}):
        with pytest.raises(BadInput, match="comparison"):
            Tally.from_json(wrong, "here")


def test_an_outcome_reads_the_end_of_a_search() -> None:
    cell = list(every_genotype(space_named("nb3")))[700].to_json()
    events = [
        {"type": "epoch", "seconds": 2.0, "metrics": {}},
        {"type": "epoch", "seconds": 3.0, "metrics": {"training_steps": 77.0}},
        {"type": "trained", "role": "supernet", "test_accuracy": 0.9, "parameters": 5},
        {"type": "trained", "role": "pruned", "test_accuracy": 0.3, "parameters": 5},
        {"type": "trained", "role": "derived", "test_accuracy": 0.8, "parameters": 7},
        {"type": "trained", "role": "derived", "test_accuracy": 0.9, "parameters": 7},
        {"type": "result", "step": 20, "genotype": cell},
    ]
    found = tally.outcome(3, events, None)
    assert (found.seconds, found.steps, found.parameters) == (5.0, 77, 7)
    assert found.accuracy == pytest.approx(0.85) and found.gap == pytest.approx(0.6)
    assert tally.outcome(3, events, truth.table_of("nb3")).accuracy == pytest.approx(0.7001)
