"""Spaces as data: sizes, counts, and files that describe them."""

from __future__ import annotations

import itertools
import random

import numpy as np
import pytest

from darts_core.derive import collapse, derive, kept_edges, one_hot, strongest
from darts_core.errors import BadInput
from darts_core.genotype import random_genotype
from darts_core.space import SPACES, SearchSpace, count_genotypes, space_named


@pytest.mark.parametrize("name", SPACES)
@pytest.mark.parametrize("nodes", [1, 3, 5])
def test_a_space_survives_its_json(name: str, nodes: int) -> None:
    space = space_named(name, nodes)
    assert SearchSpace.from_json(space.to_json()) == space
    assert all(len(cell.edges) == nodes * (nodes + 3) // 2 for cell in space.cells.values())


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
