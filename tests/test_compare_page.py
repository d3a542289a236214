"""The Compare page on what was measured: the truth about runs of a known space, and recorded comparisons of methods."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from streamlit.testing.v1 import AppTest

from app import process, stream
from darts_core import events, runs, tally, truth
from darts_core.config import preset_named
from darts_core.derive import derive
from darts_core.genotype import random_genotype
from darts_core.space import SearchSpace
from darts_core.view import compare, figures, tables
from darts_core.view.recorded import Recorded, recorded
from tests import fake_writer

ROOT = Path(__file__).resolve().parent.parent
BUNDLED = ROOT / "data" / "comparisons"


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("DARTS_RUNS", str(tmp_path / "runs"))
    monkeypatch.setattr(stream, "SAMPLES", tmp_path / "none")
    monkeypatch.setattr(process, "_launches", {})
    fake_writer.write(tmp_path / "runs", "one", steps=40, rate=0)
    return tmp_path / "runs"


def page(**query: str) -> AppTest:
    test = AppTest.from_file(str(ROOT / "app" / "dashboard.py"), default_timeout=60)
    test.switch_page("app_pages/compare.py")
    for key, text in query.items():
        test.query_params[key] = text
    test.run()
    assert not test.exception, [found.value for found in test.exception]
    return test


# The truth about a known space


def known_run(root: Path, name: str, seed: int) -> Recorded:
    """A run of made-up weights in nb3 whose epochs say the truth about the cell that these weights derive."""
    config = preset_named("known").config(seed=seed)
    facts = fake_writer.info(name, 80) | {"config": config.to_dict(), "space": config.search_space().to_json()}
    space = SearchSpace.from_json(facts["space"], name)
    shapes = {kind: [len(cell.edges), len(cell.ops)] for kind, cell in space.cells.items()}
    tensors = [[f"{what}.{kind}", shape] for what in ("alpha", "mix") for kind, shape in shapes.items()]
    facts |= {"seed": seed, "layout": {"metrics": fake_writer.METRICS, "tensors": tensors}}
    random = np.random.default_rng(seed)
    with runs.RunWriter.create(root, name, facts) as writer:
        for number in range(1, 81):
            step = fake_writer.step_of(number, 80, space, {"w_lr": 0.05, "a_lr": 0.1})
            mixes = {kind: random.dirichlet(np.ones(shape[1]), shape[0]) for kind, shape in shapes.items()}
            writer.append(replace(step, mix={kind: mix.astype(np.float32) for kind, mix in mixes.items()}))
            if number % 20 == 0:
                cell = derive(space, mixes)
                probes = truth.probed(config, cell)
                assert probes, "the space is known"
                told = {"derived_skips": 0, "derived_edges": 6, "mean_skip_weight": 0.1, "level": "healthy"}
                writer.append(events.Epoch(number // 20 - 1, number, {}, probes, cell.to_json(), told, 1.0))
        writer.append(events.Finished("finished", 80, {}))
    return recorded(runs.RunReader(root, name))


def test_runs_of_a_known_space_are_compared_by_the_table(folder: Path) -> None:
    made = [known_run(folder, f"known-{seed}", seed) for seed in (0, 1)]
    table = truth.read("nb3", truth.folder())
    shown = page(runs="known-0,known-1").dataframe
    rows = next(found.value for found in shown if "exact accuracy" in found.value)
    for run, row in zip(made, rows.to_dict("records"), strict=True):
        cell = derive(run.space, run.mixes())
        rating = table.rating(cell)
        assert row["run"] == run.name and row["exact accuracy"] == rating.accuracy
        assert row["below the best"] == pytest.approx(float(table.means.max()) - rating.accuracy)
        assert row["rank within the seeds' noise"] == (
            f"{rating.low} to {rating.high}" if rating.low < rating.high else f"{rating.low}"
        )


def test_a_run_whose_space_is_not_known_has_no_truth(folder: Path) -> None:
    fake_writer.write(folder, "two", steps=40, rate=0, seed=1)
    assert not [found for found in page(runs="one,two").dataframe if "exact accuracy" in found.value]
    info = runs.RunReader(folder, "one").info
    assert truth.known_cells(info) is None
    assert truth.known_cells(known_run(folder, "known", 3).info) == 729


def test_the_band_of_ranks_goes_from_the_best_bound_of_any_run_to_the_worst() -> None:
    def run(name: str, steps: list[int], low: list[int], high: list[int]) -> Recorded:
        told = [
            {"type": "epoch", "epoch": i, "step": s, "probes": {"truth_low": lo, "truth_high": hi, "truth_rank": lo}}
            for i, (s, lo, hi) in enumerate(zip(steps, low, high, strict=True))
        ]
        space = preset_named("known").config().search_space()
        empty = np.zeros(0, [("step", "<u4"), ("epoch", "<u2")])
        return Recorded(name, {"config": {}}, space, [], empty, told)

    alone = compare.rank_band("a", [run("a", [10, 20], [5, 1], [50, 3])], "step")
    assert alone is not None and alone.low is not None and alone.high is not None
    assert (alone.x.tolist(), alone.low.tolist(), alone.high.tolist()) == ([10, 20], [5, 1], [50, 3])
    both = compare.rank_band("b", [run("a", [10, 20], [5, 1], [50, 3]), run("b", [15, 30], [9, 2], [12, 90])], "step")
    assert both is not None and both.low is not None and both.high is not None
    # at 15 the first is still where it was at 10, at 30 where it was at 20
    assert both.x.tolist() == [15, 20, 30]
    assert both.low.tolist() == [5, 1, 1] and both.high.tolist() == [50, 12, 90]
    assert compare.rank_band("c", [run("c", [], [], [])], "step") is None
    drawn = figures.ranks("Ranks", [figures.Line(both, "#0072B2")], "step")
    assert [trace["y"] for trace in drawn["data"]] == [[5, 1, 1], [50, 12, 90]], "two bounds and no line between"
    assert drawn["layout"]["yaxis"]["autorange"] == "reversed"


def test_the_best_cells_accuracy_is_accuracy_and_regret_together() -> None:
    told = [
        {"type": "epoch", "step": s, "probes": probes}
        for s, probes in ((10, {"truth_accuracy": 0.9, "truth_regret": 0.07}), (20, {"entropy": 1.0}))
    ]
    found = tables.probes(told)
    assert found["probe:truth_best"][0] == pytest.approx(0.97) and np.isnan(found["probe:truth_best"][1])


def test_the_rating_of_a_cell_does_not_depend_on_the_way_it_is_asked() -> None:
    config = preset_named("known").config()
    table = truth.of_search(config)
    assert table is not None
    import random

    cell = random_genotype(config.search_space(), random.Random(5))
    assert truth.probed(config, cell) == truth.probes(table, cell)
    assert truth.of_search(config.with_(resize=16)) is None and truth.of_search(config.with_(space="s2")) is None


# Recorded comparisons


@pytest.mark.parametrize("name", [path.parent.name for path in sorted(BUNDLED.glob("*/table.json"))])
def test_a_recorded_comparison_is_read_on_the_page(folder: Path, name: str) -> None:
    found = tally.read(BUNDLED / name)
    test = page(contest=name)
    rows = next(shown.value for shown in test.dataframe if "gap" in shown.value)
    assert rows["method"].tolist() == [row.method for row in found.rows]
    for row, shown in zip(found.rows, rows.to_dict("records"), strict=True):
        for column, value in (("accuracy", row.mean("accuracy")), ("spread", row.spread("accuracy")),
                              ("skips", row.mean("skips")), ("gap", row.mean("gap")), ("seconds", row.mean("seconds")),
                              ("steps", row.mean("steps"))):  # fmt: skip
            assert value is None or shown[column] == pytest.approx(value), column
    texts = [text.value for text in test.text]
    assert all(sentence in texts for sentence in tally.sentences(found))
    assert found.about["command"] in [code.value for code in test.code]


def test_your_own_comparison_stands_beside_the_recorded_ones(folder: Path) -> None:
    shutil.copytree(BUNDLED / "nb3-look-up", folder.parent / "comparisons" / "mine")
    shutil.copytree(BUNDLED / "nb3-look-up", folder.parent / "comparisons" / "Not a name!")
    options = next(box for box in page().selectbox if box.label == "Comparison").options
    known = "Every cell known; random, evolution, reinforce over 10 seeds"
    assert f"mine · {known}" in options and f"recorded: {known}" in options
    assert "recorded: Every cell known, 40 % of the labels random; 7 methods over 5 seeds" in options
    assert not any("Not a name" in option for option in options)


@pytest.mark.parametrize(
    "spoil",
    [
        lambda data: data["rows"][0]["outcomes"][0].update(accuracy="<b>"),
        lambda data: data["rows"][0]["outcomes"][0].update(seconds=None),
        lambda data: data["rows"][0]["outcomes"][0].update(skips=True),
        lambda data: data.update(band=[1, 2]),
        lambda data: data.update(rows=3),
    ],
)
def test_a_damaged_comparison_is_a_sentence(folder: Path, spoil) -> None:  # type: ignore[no-untyped-def]
    there = folder.parent / "comparisons" / "mine"
    shutil.copytree(BUNDLED / "nb3-look-up", there)
    data = json.loads((there / "table.json").read_text())
    spoil(data)
    (there / "table.json").write_text(json.dumps(data))
    test = page(contest="mine")
    assert any("table of a comparison" in error.value for error in test.error)


def test_without_any_comparison_the_page_says_how_to_make_one(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from app import contest

    monkeypatch.setattr(contest, "BUNDLED", folder / "none")
    assert any("darts_core compare" in code.value for code in page().code)


# Settings that differ


def test_settings_that_differ_are_said_in_words_and_how_they_were_computed_is_none_of_them() -> None:
    one, other = fake_writer.info("one", 80), fake_writer.info("other", 80, {"a_lr": 0.02})
    one["config"] |= {"backend": "auto", "threads": 1}
    other["config"] |= {"backend": "compiled", "threads": 2}
    infos = {"one": one, "other": other}
    (row,) = compare.differences(infos)
    assert (row["setting"], row["other"]) == ("a_lr", "0.02") and row["what it is"].startswith("Learning rate of the")
    assert "(threads and form of the supernet)" in compare.computed_apart(infos)
    assert compare.computed_apart({"one": one, "again": one}) == "" and compare.differences({"one": one}) == []
