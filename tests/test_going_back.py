"""Going back: families of branches, when a search got worse, and what may be tried then."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from app import stream
from app.live.going_back import control_of, inherited
from darts_core import runs
from darts_core.config import PRESETS, catalogue
from darts_core.cures import MOST_SKIPS, cures, fewer_skips
from darts_core.derive import derive
from darts_core.drive import new_run
from darts_core.events import Applied
from darts_core.space import space_named
from darts_core.view.tables import before_worse, family, ranges
from tests import fake_writer

ROOT = Path(__file__).resolve().parent.parent
SPACE = PRESETS["collapse"].config().search_space()


def epoch(number: int, level: str, **probes: float) -> dict[str, Any]:
    return {"type": "epoch", "epoch": number, "step": 8 * number + 8, "collapse": {"level": level}, "probes": probes}


def test_a_family_is_told_parent_before_child_and_earlier_branches_first() -> None:
    parents = {
        "alone": None, "one": None, "late": {"run": "one", "epoch": 9}, "early": {"run": "one", "epoch": 2},
        "deep": {"run": "late", "epoch": 12},
    }  # fmt: skip
    expected = [("one", 0, None), ("early", 1, 2), ("late", 1, 9), ("deep", 2, 12)]
    for member in ("one", "early", "deep"):
        assert [tuple(r) for r in family(parents, member)] == expected
    assert [tuple(r) for r in family(parents, "alone")] == [("alone", 0, None)]


def test_a_family_whose_first_run_is_deleted_keeps_its_branches_and_circles_end() -> None:
    gone = {"a": {"run": "gone", "epoch": 1}, "b": {"run": "gone", "epoch": 3}}
    assert [r.name for r in family(gone, "b")] == ["gone", "a", "b"]
    circle = {"a": {"run": "b", "epoch": 1}, "b": {"run": "a", "epoch": 1}}
    assert sorted(r.name for r in family(circle, "a")) == ["a", "b"]


@pytest.mark.parametrize(
    ("levels", "worse"),
    [("hhh", None), ("hdd", 1), ("hhdhc", 4), ("hdcd", 1), ("c", 0), ("hdh", 1), ("", None)],
)
def test_going_back_goes_to_where_it_was_last_healthy(levels: str, worse: int | None) -> None:
    names = {"h": "healthy", "d": "drifting", "c": "collapsed"}
    assert before_worse([epoch(n, names[level]) for n, level in enumerate(levels)]) == worse


def test_with_the_bans_no_derived_cell_can_hold_more_skips() -> None:
    """Even where skip weighs most on every edge."""
    cell = SPACE.cells["normal"]
    skip = cell.ops.index("skip_connect")
    weights = np.linspace(0.6, 0.9, len(cell.edges))
    mix = np.stack([weights, 1 - weights], 1) if skip == 0 else np.stack([1 - weights, weights], 1)
    bans = fewer_skips(SPACE, {"normal": mix})
    assert len(bans) == len(cell.edges) - MOST_SKIPS
    from darts_core.legal import edge_named

    for kind, name, op in bans:
        assert kind == "ban" and op == "skip_connect"
        mix[edge_named(SPACE, name)[1]] = [float(column != skip) for column in range(len(cell.ops))]
    genes = [gene for node in derive(SPACE, {"normal": mix}).cells["normal"].nodes for gene in node]
    assert sum(gene.op == "skip_connect" for gene in genes) <= MOST_SKIPS


def test_the_cures_grow_with_the_registry_and_offer_nothing_that_is_there_already() -> None:
    config = PRESETS["collapse"].config().to_dict()
    mixes = {kind: cell.legal_array() / len(cell.ops) for kind, cell in SPACE.cells.items()}
    found = {cure.name: cure for cure in cures(config, SPACE, mixes)}
    others = {name for name, entry in catalogue()["strategies"].items() if not entry["baseline"]} - {"darts"}
    assert {"clean", "fewer-skips", "skip-dropout"} <= set(found) and others <= set(found)
    assert all(cure.known and cure.about for cure in found.values())
    for cure in found.values():
        PRESETS["collapse"].config().with_(**cure.settings)
    for row in json.loads((ROOT / "data" / "methods" / "collapse.json").read_text("utf-8"))["rows"]:
        if row["method"] != "darts":
            ends = " ".join(str(outcome["skips"]) for outcome in row["outcomes"])
            assert f" {ends} skips of 6" in found[row["method"]].known, "what was measured, as it was recorded"
    assert found["pc-darts"].fresh and not found["max-w"].fresh, "partial channels are another network"
    again = cures({**config, "label_noise": 0.0, "skip_dropout": 0.5}, SPACE, mixes)
    assert not {"clean", "skip-dropout"} & {cure.name for cure in again}
    tiny = space_named("tiny")
    assert cures({"strategy": "darts"}, tiny, {k: c.legal_array() / 3 for k, c in tiny.cells.items()})


def test_the_eigenvalue_has_a_control_where_one_was_recorded_and_nowhere_else() -> None:
    known = control_of(PRESETS["collapse"].config().to_dict())
    low, high = known["eigenvalue"]
    recorded = runs.RunReader(stream.SAMPLES, "healthy").events()[0]
    values = [e["probes"]["eigenvalue"] for e in recorded if e["type"] == "epoch" and "eigenvalue" in e["probes"]]
    assert low == min(values) and high == max(values) and ranges(recorded)["eigenvalue"] == (low, high)
    assert control_of(PRESETS["laptop"].config().to_dict()) == {}
    assert control_of(PRESETS["collapse"].config(channels=16).to_dict()) == {}


def test_a_branch_knows_what_was_pinned_before_it_began(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DARTS_RUNS", str(tmp_path))
    config = PRESETS["collapse"].config()
    with new_run(tmp_path, "parent", config, ["test"]) as writer:
        for step in range(1, 9):
            writer.append(fake_writer.step_of(step, 320, SPACE, {"w_lr": 0.05, "a_lr": 0.03}))
            if step in (3, 8):
                name = f"normal-0-{2 if step == 3 else 3}"
                writer.append(Applied(f"o{step}", step, "ban", name, "skip_connect", True, ""))
                writer.append(Applied(f"r{step}", step, "ban", name, "sep_conv_3x3", False, "it would be empty"))
    info = {"parent": {"run": "parent", "epoch": 1, "step": 8, "sha256": ""}}
    assert [(e["name"], e["value"]) for e in inherited(info)] == [("normal-0-2", "skip_connect")]
    assert inherited({"parent": {"run": "gone", "epoch": 1, "step": 8, "sha256": ""}}) == []
    assert inherited({"parent": None}) == []
