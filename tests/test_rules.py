"""Derivation rules on alphas small enough to check by hand, and against slower ways of saying the same."""

from __future__ import annotations

import itertools
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from darts_core import derive, runs
from darts_core.derive import RULES, Reading, derive_by, readings
from darts_core.errors import BadInput
from darts_core.genotype import Gene
from darts_core.space import SearchSpace, conv_cell, space_named

OPS = ("none", "skip_connect", "sep_conv_3x3")
SPACE = SearchSpace("toy", {"normal": conv_cell(2, OPS)})  # edges 0-2 1-2 | 0-3 1-3 2-3
SAMPLES = Path(__file__).parent.parent / "data" / "samples"


def softmax(alpha: np.ndarray) -> np.ndarray:
    powers = np.exp(alpha - alpha.max(-1, keepdims=True))
    return powers / powers.sum(-1, keepdims=True)


def reading(alpha: np.ndarray, edge: np.ndarray | None = None) -> dict[str, Reading]:
    return {"normal": Reading(softmax(alpha), alpha, edge)}


def genes(alpha: np.ndarray, rule: str, edge: np.ndarray | None = None, threshold: float = 0.5) -> list[set[Gene]]:
    return [set(node) for node in derive_by(SPACE, reading(alpha, edge), rule, threshold).cells["normal"].nodes]


def random_alpha(seed: int) -> np.ndarray:
    return np.random.default_rng(seed).normal(0, 2, SPACE.cells["normal"].shape)


@given(st.integers(0, 10_000))
def test_top_two_is_the_rule_of_the_search(seed: int) -> None:
    alpha = random_alpha(seed)
    assert derive_by(SPACE, reading(alpha)) == derive.derive(SPACE, {"normal": softmax(alpha)})


@given(st.integers(0, 10_000))
def test_where_none_wins_an_edge_the_edge_is_gone_and_nowhere_else(seed: int) -> None:
    alpha = random_alpha(seed)
    cell, mix = SPACE.cells["normal"], softmax(alpha)
    for node, found in enumerate(genes(alpha, "with_none")):
        open_edges = [e for e in cell.edges_into(node) if mix[e].argmax() != 0]
        heaviest = sorted(open_edges, key=lambda e: mix[e].max())[-2:]
        assert found == {Gene(OPS[mix[e].argmax()], cell.edges[e][0]) for e in heaviest}


@given(st.integers(0, 10_000))
def test_without_edge_logits_edge_normalisation_is_one_softmax_over_all_that_enters_a_node(seed: int) -> None:
    alpha = random_alpha(seed)
    cell = SPACE.cells["normal"]
    for node, found in enumerate(genes(alpha, "edge_normalised")):
        into = cell.edges_into(node)
        joint = softmax(alpha[into].reshape(-1)).reshape(len(into), -1)[:, 1:]  # none is no candidate
        best = sorted(range(len(into)), key=lambda i: joint[i].max())[-2:]
        assert found == {Gene(OPS[1 + joint[i].argmax()], cell.edges[into[i]][0]) for i in best}


def test_edge_logits_of_the_search_decide_between_edges() -> None:
    alpha = np.tile([0.0, 0.1, 0.2], (5, 1))
    beta = np.array([0.0, 0.0, 1.0, 3.0, 2.0])  # node 1 prefers its second and third input
    assert genes(alpha, "edge_normalised", beta)[1] == {Gene("sep_conv_3x3", 1), Gene("sep_conv_3x3", 2)}


@given(st.integers(0, 10_000), st.sampled_from([0.1, 0.3, 0.5, 0.9]))
def test_the_threshold_keeps_exactly_what_weighs_at_least_as_much(seed: int, threshold: float) -> None:
    alpha = random_alpha(seed)
    cell, mix = SPACE.cells["normal"], softmax(alpha)
    kept = {(e, o) for e, o in itertools.product(range(5), (1, 2)) if mix[e, o] >= threshold}
    told = [(gene, node) for node, found in enumerate(genes(alpha, "threshold", threshold=threshold)) for gene in found]
    assert {(Gene(OPS[o], cell.edges[e][0]), cell.edges[e][1] - 2) for e, o in kept} == set(told)


def test_an_operation_that_is_not_legal_is_never_derived_by_any_rule() -> None:
    space = space_named("darts", 2)
    cells = {}
    for kind, cell in space.cells.items():
        legal = tuple(tuple(op not in ("sep_conv_3x3", "none") for op in cell.ops) for _ in cell.edges)
        cells[kind] = derive.CellSpec(cell.inputs, cell.nodes, cell.ops, cell.edges, legal, cell.keep, cell.output)
    masked = SearchSpace("masked", cells)
    at = {}
    for kind, cell in masked.cells.items():
        alpha = np.random.default_rng(5).normal(0, 1, cell.shape)
        alpha[:, cell.ops.index("sep_conv_3x3")] = 50.0
        at[kind] = Reading(softmax(np.where(cell.legal_array(), alpha, -np.inf)), alpha)
    for rule in RULES:
        cut = derive_by(masked, at, rule, 0.1)
        assert all(g.op != "sep_conv_3x3" for c in cut.cells.values() for node in c.nodes for g in node), rule


@pytest.mark.parametrize("rule", RULES)
def test_no_rule_makes_a_cell_from_what_is_no_number(rule: str) -> None:
    alpha = np.zeros(SPACE.cells["normal"].shape)
    mix = softmax(alpha)
    mix[0, 1] = np.nan
    with pytest.raises(BadInput, match="not a finite number"):
        derive_by(SPACE, {"normal": Reading(mix, alpha)}, rule)


@pytest.mark.parametrize("rule", RULES)
def test_every_rule_reads_a_recorded_run_and_names_its_source(rule: str) -> None:
    reader = runs.RunReader(SAMPLES, "collapsing")
    space = SearchSpace.from_json(reader.info["space"])
    cut = derive_by(space, readings(space, reader.steps(reader.step_count() - 1, 1)[0]), rule)
    assert set(cut.cells) == set(space.cells) and RULES[rule].source and RULES[rule].doc.endswith(".")


def test_an_unknown_rule_and_a_threshold_that_is_no_share_are_a_sentence() -> None:
    alpha = np.zeros(SPACE.cells["normal"].shape)
    with pytest.raises(BadInput, match="unknown rule"):
        derive_by(SPACE, reading(alpha), "top3")
    with pytest.raises(BadInput, match="from 0 to 1"):
        derive_by(SPACE, reading(alpha), "threshold", 1.5)
