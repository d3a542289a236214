"""Spaces as data: sizes, counts, and files that describe them."""

from __future__ import annotations

import itertools
import math
import random

import numpy as np
import pytest

from darts_core.derive import collapse, derive, kept_edges, one_hot, strongest
from darts_core.errors import BadInput
from darts_core.genotype import Genotype, every_genotype, ops_of, random_genotype
from darts_core.space import SPACES, CellSpec, SearchSpace, count_genotypes, meaning, space_named


@pytest.mark.parametrize("name", SPACES)
@pytest.mark.parametrize("nodes", [1, 3, 4])
def test_a_space_survives_its_json(name: str, nodes: int) -> None:
    space = space_named(name, nodes)
    assert SearchSpace.from_json(space.to_json()) == space
    for cell in space.cells.values():  # node i (from 1) sees all inputs and the nodes before it
        chain = SPACES[name].chain
        assert len(cell.edges) == (nodes if chain else sum(cell.inputs + i for i in range(nodes)))


def test_s1_is_defined_for_its_four_nodes_only() -> None:
    with pytest.raises(BadInput, match="1 to 4"):
        space_named("s1", 5)


def test_s1_allows_two_operations_on_each_edge_as_published() -> None:
    cells = space_named("s1").cells
    named = {
        k: [tuple(op for op, ok in zip(c.ops, row, strict=True) if ok) for row in c.legal] for k, c in cells.items()
    }
    assert all(len(pair) == 2 for rows in named.values() for pair in rows)
    assert named["normal"][:6] == [
        ("skip_connect", "dil_conv_3x3"), ("skip_connect", "dil_conv_5x5"), ("skip_connect", "dil_conv_5x5"),
        ("skip_connect", "sep_conv_3x3"), ("skip_connect", "dil_conv_3x3"), ("max_pool_3x3", "skip_connect"),
    ]  # fmt: skip
    assert named["normal"][-1] == ("dil_conv_3x3", "dil_conv_5x5")
    assert named["reduce"][6] == ("max_pool_3x3", "sep_conv_3x3") and named["reduce"][-1][0] == "skip_connect"
    assert sum(len(pair) for rows in named.values() for pair in rows) == 56  # the Hessian's dimension in the paper


def published_name(cell: CellSpec, ops: tuple[str, ...], zero: bool) -> str:
    """Two cells with one name are the same for NAS-Bench-201: its own rule for counting distinct cells. Zeros stay in
    sums, and a sum that a skip passes on stays in its brackets."""
    nodes = ["0"]
    for node in range(cell.nodes):
        terms = []
        for e in cell.edges_into(node):
            op, source = ops[e], nodes[cell.edges[e][0]]
            none = zero and (op == "none" or source == "#")
            terms.append("#" if none else source if op == "skip_connect" else f"({source})@{op}")
        nodes.append("+".join(sorted(terms)))
    return nodes[-1]


def test_nas_bench_201_has_its_published_number_of_cells_and_of_distinct_ones() -> None:
    cell = space_named("nasbench201").cells["normal"]
    every = list(itertools.product(cell.ops, repeat=len(cell.edges)))
    assert count_genotypes(cell) == len(every) == 15_625
    assert len({published_name(cell, ops, True) for ops in every}) == 6_466
    assert len({published_name(cell, ops, False) for ops in every}) == 12_751


@pytest.mark.parametrize("name, distinct", [("nb3", 78), ("nb4", 871), ("nasbench201", 4_930)])
def test_cells_of_one_meaning_are_those_that_compute_the_same_numbers(name: str, distinct: int) -> None:
    """Each convolution and pool stands for a function without any law; whatever then agrees on numbers is one cell."""
    cell = space_named(name).cells["normal"]
    values: dict[str, set[float]] = {}
    odd = {"nor_conv_1x1": 1.0, "nor_conv_3x3": 2.0, "avg_pool_3x3": 3.0}
    for ops in itertools.product(cell.ops, repeat=len(cell.edges)):
        states = [0.7]
        for node in range(cell.nodes):
            total = 0.0
            for e in cell.edges_into(node):
                x = states[cell.edges[e][0]]
                if ops[e] == "skip_connect":
                    total += x
                elif ops[e] != "none" and x:  # a convolution of nothing is nothing
                    total += math.sin(12.9898 * x + 78.233 * odd[ops[e]]) * 43.5
            states.append(total)
        values.setdefault(meaning(cell, ops), set()).add(round(states[-1], 6))
    assert len(values) == distinct and all(len(found) == 1 for found in values.values())
    assert len({value for found in values.values() for value in found}) == distinct


def test_every_cell_of_the_small_benchmark_is_listed_once_and_read_back() -> None:
    space = space_named("nb3")
    cell, found = space.cells["normal"], list(every_genotype(space))
    assert len(found) == 729 and len({genotype.dumps() for genotype in found}) == 729
    for number in (0, 1, 100, 728):
        ops = ops_of(cell, found[number].cells["normal"])
        assert sum(cell.ops.index(op) * 3 ** (5 - e) for e, op in enumerate(ops)) == number
        assert Genotype.from_json(found[number].to_json()) == found[number]


def test_a_random_cell_of_a_space_that_keeps_all_edges_leaves_some_out() -> None:
    rng, space = random.Random(0), space_named("nasbench201")
    counts = [sum(map(len, random_genotype(space, rng).cells["normal"].nodes)) for _ in range(400)]
    assert {3, 4, 5, 6} <= set(counts) and abs(np.mean(counts) - 6 * 4 / 5) < 0.15


def test_the_darts_cell_holds_as_many_genotypes_as_its_closed_form() -> None:
    assert count_genotypes(space_named("darts").cells["normal"]) == 1 * 3 * 6 * 10 * 7**8


def test_counting_is_what_enumeration_gives() -> None:
    cell = space_named("tiny").cells["normal"]
    found = set()
    for choice in itertools.product(range(1, 4), repeat=len(cell.edges)):  # which operation each edge prefers ...
        for order in itertools.permutations(range(len(cell.edges))):  # ... and how strongly
            mix = np.zeros(cell.shape)
            for rank, e in enumerate(order):
                mix[e, choice[e] - 1] = 1 + rank
            found.add(tuple(tuple(sorted(node)) for node in strongest(cell, mix).nodes))
    assert len(found) == count_genotypes(cell)


@pytest.mark.parametrize(
    "field, value", [("nodes", 0), ("edges", [[3, 2]]), ("ops", ["nonsense"]), ("legal", []), ("output", [9])]
)
def test_a_damaged_space_names_its_field(field: str, value: object) -> None:
    data = space_named("tiny").to_json()
    data["cells"]["normal"][field] = value
    with pytest.raises(BadInput, match=field if field != "ops" else "operation"):
        SearchSpace.from_json(data, "run.json")


def test_a_random_cell_is_legal_and_the_derived_cell_of_its_own_mix() -> None:
    space = space_named("darts")
    for seed in range(20):
        genotype = random_genotype(space, random.Random(seed))
        hot = {kind: one_hot(cell, genotype.cells[kind]) for kind, cell in space.cells.items()}
        again = derive(space, hot)
        for kind, cell in space.cells.items():
            assert sum(kept_edges(cell, genotype.cells[kind])) == 8
            assert [sorted(n) for n in again.cells[kind].nodes] == [sorted(n) for n in genotype.cells[kind].nodes]
            assert "none" not in {gene.op for node in genotype.cells[kind].nodes for gene in node}


def test_derivation_refuses_nan() -> None:
    cell = space_named("tiny").cells["normal"]
    with pytest.raises(BadInput, match="finite"):
        strongest(cell, np.full(cell.shape, np.nan))


@pytest.mark.parametrize(
    "name, skips, level",
    [
        ("s2", 3, "healthy"),
        ("s2", 4, "drifting"),
        ("s2", 5, "collapsed"),
        ("darts", 2, "healthy"),
        ("darts", 3, "drifting"),
    ],
)
def test_levels_of_collapse_stand_between_chance_and_all(name: str, skips: int, level: str) -> None:
    space = space_named(name, 3, reduce=False)
    cell = space.cells["normal"]
    mix = np.full(cell.shape, 0.01)
    skip, other = cell.ops.index("skip_connect"), cell.ops.index("sep_conv_3x3")
    kept = [e for node in range(3) for e in cell.edges_into(node)[:2]]
    for place, e in enumerate(kept):
        mix[e, skip if place < skips else other] = 0.9
    found = collapse(space, {"normal": mix})
    assert (found.derived_skips, found.derived_edges, found.level) == (skips, 6, level)
