"""Tables and sentences about several runs, and about why a cell is what it is, against slower ways of finding out."""

from __future__ import annotations

import base64
import copy
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from darts_core import derive, runs
from darts_core.genotype import CellGenes, Gene, Genotype
from darts_core.space import space_named
from darts_core.view import compare
from darts_core.view.compare import Curve
from darts_core.view.explain import reasons, summary
from darts_core.view.lecture import lecture_data, reason_cards
from darts_core.view.recorded import Recorded, recorded
from tests import fake_writer

SAMPLES = Path(__file__).parent.parent / "data" / "samples"


@pytest.fixture(scope="module")
def samples() -> dict[str, Recorded]:
    return {name: recorded(runs.RunReader(SAMPLES, name), most=5000) for name in ("collapsing", "healthy")}


def info(**changes: Any) -> dict[str, Any]:
    made = copy.deepcopy(fake_writer.info("x", 100))
    parent = changes.pop("parent", None)
    group = changes.pop("group", None)
    made["config"] |= changes
    made["seed"] = made["config"]["seed"]
    made["parent"] = parent
    return made | ({"group": group} if group else {})


# The rule at many steps -----------------------------------------------------------------------------------


@given(st.integers(0, 10_000), st.sampled_from(["darts", "s2", "tiny"]))
def test_the_rule_at_many_steps_is_the_rule_at_each(seed: int, name: str) -> None:
    space = space_named(name, 3)
    random = np.random.default_rng(seed)
    for cell in space.cells.values():
        mix = random.dirichlet(np.ones(len(cell.ops)), (4, len(cell.edges))).round(1)  # rounded: many ties
        best, kept = derive.strongest_over_time(cell, mix)
        for at in range(4):
            genes = derive.strongest(cell, mix[at])
            assert derive.kept_edges(cell, genes) == kept[at].tolist()
            ops = {(cell.edges[e][1], cell.edges[e][0]): cell.ops[best[at, e]] for e in np.flatnonzero(kept[at])}
            assert ops == {(cell.inputs + n, g.source): g.op for n, node in enumerate(genes.nodes) for g in node}


# Several runs ---------------------------------------------------------------------------------------------


def test_runs_that_differ_by_seed_threads_or_device_alone_belong_together() -> None:
    infos = {
        "a": info(seed=1),
        "b": info(seed=0, threads=7),
        "c": info(seed=0, a_lr=0.5),
        "d": info(seed=0, parent={"run": "a", "epoch": 3}),
        "e": info(seed=0, group="launch"),
        "f": info(seed=1, group="launch"),
    }
    assert sorted(compare.groups(infos).values()) == [["b", "a"], ["c"], ["d"], ["e", "f"]]
    assert compare.group_title(["e", "f"], infos) == "launch: darts on digits, seeds 0, 1"


def test_the_table_of_settings_holds_what_differs_and_only_that() -> None:
    rows = compare.differences({"a": info(), "b": info(a_lr=0.5, seed=4), "c": info(a_lr=0.5)})
    assert {row["setting"]: (row["a"], row["b"], row["c"]) for row in rows} == {
        "a_lr": (str(info()["config"]["a_lr"]), "0.5", "0.5"),
        "seed": ("0", "4", "0"),
    }


def test_kinship_says_who_starts_from_the_same_weights() -> None:
    child, sister = (info(parent={"run": "root", "epoch": 12}) for _ in range(2))
    (one,) = compare.kinship({"root": info(), "child": child})
    assert "child goes on from root after 12 epochs" in one and "same weights" in one
    (two,) = compare.kinship({"child": child, "sister": sister})
    assert "child and sister start from the same weights, those of root after 12 epochs" in two
    assert compare.kinship({"child": child, "stranger": info()}) == []


def test_edges_of_two_cells_are_kept_other_added_or_removed() -> None:
    def cell(*genes: tuple[str, int]) -> Genotype:
        return Genotype("toy", {"normal": CellGenes((tuple(Gene(*gene) for gene in genes),), (2,))})

    changes = compare.cell_changes(
        cell(("skip_connect", 0), ("sep_conv_3x3", 1)), cell(("skip_connect", 0), ("skip_connect", 1))
    )
    assert [(c.how, c.edge) for c in changes] == [("kept", (0, 2)), ("other", (1, 2))]
    changes = compare.cell_changes(cell(("skip_connect", 0)), cell(("skip_connect", 1)))
    assert [(c.how, c.edge) for c in changes] == [("removed", (0, 2)), ("added", (1, 2))]


def test_a_band_is_the_mean_and_the_range_where_all_curves_are() -> None:
    x = np.arange(11.0)
    made = compare.band("m", [Curve("a", x, 2 * x), Curve("b", x + 2, 0 * x)])
    assert made is not None and made.low is not None and made.high is not None
    assert (made.x[0], made.x[-1]) == (2, 10)
    np.testing.assert_allclose(made.y, made.x)
    np.testing.assert_allclose(made.high, 2 * made.x)
    np.testing.assert_allclose(made.low, 0)
    assert compare.band("m", [Curve("a", x, x), Curve("b", x + 100, x)]) is None, "they never meet"


def test_positions_end_at_the_whole_of_a_run(samples: dict[str, Recorded]) -> None:
    run = samples["collapsing"]
    assert compare.position(run, "percent")[-1] == 100
    assert compare.position(run, "step").tolist() == run.steps["step"].tolist()
    epochs = compare.position(run, "epoch")
    assert (np.diff(epochs) > 0).all() and (np.floor(epochs) == run.steps["epoch"]).all()


def test_agreement_counts_seeds(samples: dict[str, Recorded]) -> None:
    run = samples["collapsing"]
    rows = compare.agreement([run, run, samples["healthy"]])
    alone = {row.edge for row in compare.agreement([run])}
    assert sum(row.kept for row in rows) == 3 * len(alone), "each cell has as many edges"
    for row in rows:
        assert row.kept == sum(count for _, count in row.ops) <= row.runs == 3
        assert (row.kept >= 2) == (row.edge in alone)


# Why a cell is what it is ---------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["collapsing", "healthy"])
@pytest.mark.parametrize("step", [None, 200, 3])
def test_reasons_agree_with_the_rule_run_step_by_step(
    samples: dict[str, Recorded], name: str, step: int | None
) -> None:
    run = samples[name]
    cell = run.space.cells["normal"]
    last = run.index(step)
    derived = [derive.derive(run.space, run.mixes(i)).cells["normal"] for i in range(last + 1)]

    def choice(i: int, source: int, node: int) -> str | None:
        return next((gene.op for gene in derived[i].nodes[node] if gene.source == source), None)

    found = reasons(run, step)
    assert len(found) == sum(map(len, derived[-1].nodes))
    for reason in found:
        source, target = cell.edges[reason.edge]
        node = target - cell.inputs
        history = [choice(i, source, node) for i in range(last + 1)]
        assert history[-1] == reason.op
        first = next(i for i in range(last, -1, -1) if i == 0 or history[i - 1] != reason.op)
        assert reason.since == run.steps["step"][first]
        assert reason.changes == sum(a != b for a, b in zip(history, history[1:], strict=False))
        weights = sorted(run.mixes(last)["normal"][reason.edge])[-2:]
        assert reason.op_margin == pytest.approx(weights[1] - weights[0])
        assert reason.edge_margin >= 0
    assert str(len(found)) in summary(found)


def test_reasons_count_the_other_seeds(samples: dict[str, Recorded]) -> None:
    run = samples["collapsing"]
    for reason in reasons(run, others=[run, samples["healthy"]]):
        assert reason.seeds == 2 and 1 <= reason.same_op <= reason.same_edge <= 2
        assert any("Of 2 other seeds" in sentence for sentence in reason.sentences())
    assert all(reason.seeds == 0 for reason in reasons(run))


def test_a_near_tie_is_called_one(samples: dict[str, Recorded]) -> None:
    for reason in reasons(samples["collapsing"]):
        near = (reason.second and reason.op_margin < 0.03) or (reason.rival and reason.edge_margin < 0.03)
        assert ("near tie" in " ".join(reason.sentences())) == bool(near)


# What the browser gets ------------------------------------------------------------------------------------


def test_packed_weights_are_those_of_the_record(samples: dict[str, Recorded]) -> None:
    run = samples["healthy"]
    data = lecture_data([run], charts=True)["runs"][0]
    cell = data["cells"]["normal"]
    mix = np.frombuffer(base64.b64decode(cell["mix"]), "<u2").reshape(run.steps["mix.normal"].shape) / 65535
    np.testing.assert_allclose(mix, run.steps["mix.normal"], atol=1e-5)
    kept = np.frombuffer(base64.b64decode(cell["kept"]), np.uint8).reshape(mix.shape[:2])
    assert (kept == run.choices["normal"][1]).all()
    for at in (0, 150, len(data["steps"]) - 1):
        found = derive.collapse(run.space, run.mixes(at))
        assert (data["meter"]["skips"][at], data["meter"]["levels"][at]) == (found.derived_skips, found.level)


def test_cards_mark_since_when_an_edge_is_the_choice(samples: dict[str, Recorded]) -> None:
    run = samples["healthy"]
    found = reasons(run)
    for reason, card in zip(found, reason_cards(run, found), strict=True):
        assert card["chart"]["layout"]["shapes"][0]["x0"] == reason.since
        widest = max(card["chart"]["data"], key=lambda trace: trace["line"]["width"])
        assert widest["name"] == reason.op and widest["y"][-1] == pytest.approx(reason.weight, abs=1e-3)


def test_a_long_run_is_thinned_with_its_last_record(tmp_path: Path) -> None:
    fake_writer.write(tmp_path, "long", steps=1001, rate=0)
    run = recorded(runs.RunReader(tmp_path, "long"))
    assert len(run.steps) <= 300 and run.last_step == 1001 and run.stride == 4
    assert not any(reason.exact for reason in reasons(run))
