"""Which cell to try next: the three baselines as functions of what was tried before.

Everything is decided by the past trials and a generator of this trial alone, so a resumed search proposes the same.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from darts_core.genotype import CellGenes, Gene, Genotype, random_genotype
from darts_core.mix import Alphas
from darts_core.space import CellSpec, SearchSpace


class Trial(NamedTuple):
    """A cell and what it scored: an accuracy from 0 to 1, the higher the better."""

    genotype: Genotype
    score: float


# (space with what its edges may hold now, past trials, policy, generator) -> the next cell
Propose = Callable[[SearchSpace, Sequence[Trial], Alphas, random.Random], Genotype]


def drawn(space: SearchSpace, past: Sequence[Trial], policy: Alphas, rng: random.Random) -> Genotype:
    """Random search: uniform, whatever came before (Li and Talwalkar 2019)."""
    return random_genotype(space, rng)


def evolved(population: int, tournament: int) -> Propose:
    """Regularised evolution (Real et al. 2019, algorithm 1): of `tournament` cells drawn with replacement from the last
    `population` trials the best one is copied with one change. The oldest die, also when they are good.
    """

    def propose(space: SearchSpace, past: Sequence[Trial], policy: Alphas, rng: random.Random) -> Genotype:
        if len(past) < population:
            return random_genotype(space, rng)
        alive = past[-population:]
        parent = max((rng.choice(alive) for _ in range(tournament)), key=lambda trial: trial.score)
        return mutated(space, parent.genotype, rng)

    return propose


def mutated(space: SearchSpace, genotype: Genotype, rng: random.Random) -> Genotype:
    """A copy with one change: another operation on one edge or, where edges are chosen, another edge into one node."""
    kind = rng.choice(list(space.cells))
    cell, nodes = space.cells[kind], [list(node) for node in genotype.cells[kind].nodes]
    changes = [*_other_ops(cell, nodes), *_other_edges(cell, nodes)]
    if changes:
        node, old, op, source = rng.choice(changes)
        nodes[node] = [gene for gene in nodes[node] if gene.source != old]
        nodes[node] += [Gene(op, source)] if op != "none" else []
    genes = CellGenes(tuple(tuple(sorted(node, key=lambda g: g.source)) for node in nodes), cell.output, cell.inputs)
    return Genotype(genotype.space, {**genotype.cells, kind: genes})


def _other_ops(cell: CellSpec, nodes: Sequence[Sequence[Gene]]) -> list[tuple[int, int, str, int]]:
    """Every change of one operation: (node, source, new operation, source)."""
    found = []
    for node, genes in enumerate(nodes):
        now = {gene.source: gene.op for gene in genes}
        for e in cell.edges_into(node):
            source = cell.edges[e][0]
            if source in now or cell.keep is None:
                before = now.get(source, "none")
                found += [(node, source, op, source) for op in cell.choices(e) if op != before]
    return found


def _other_edges(cell: CellSpec, nodes: Sequence[Sequence[Gene]]) -> list[tuple[int, int, str, int]]:
    """Every change of one gene's source that keeps its operation: (node, old source, operation, new source)."""
    if cell.keep is None:
        return []
    found = []
    for node, genes in enumerate(nodes):
        used = {gene.source for gene in genes}
        free = {cell.edges[e][0]: e for e in cell.edges_into(node) if cell.edges[e][0] not in used}
        found += [(node, g.source, g.op, s) for g in genes for s, e in free.items() if g.op in cell.choices(e)]
    return found


def sampled(space: SearchSpace, past: Sequence[Trial], policy: Alphas, rng: random.Random) -> Genotype:
    """A cell drawn from the controller's policy; `log_probability` is that of this drawing."""
    cells = {}
    for kind, cell in space.cells.items():
        logits = policy.ops[kind].detach()
        nodes = []
        for node in range(cell.nodes):
            picked: list[tuple[int, str]] = []
            for choices in _turns(cell, node, picked):
                scores = torch.stack([logits[e, cell.ops.index(op)] for e, op in choices])
                weights = torch.softmax(scores.double(), 0).tolist()
                picked.append(rng.choices(choices, weights)[0])
            genes = [Gene(op, cell.edges[e][0]) for e, op in sorted(picked) if op != "none"]
            nodes.append(tuple(genes))
        cells[kind] = CellGenes(tuple(nodes), cell.output, cell.inputs)
    return Genotype(space.name, cells)


def log_probability(space: SearchSpace, genotype: Genotype, policy: Alphas) -> Tensor:
    """log p(cell) under the policy, 0-d: REINFORCE's gradient goes through it.

    Where every edge is kept, each edge draws its operation from a softmax of its own logits. Where a node keeps k of
    its edges, it draws k times from a softmax over all (edge, operation) pairs of the edges not taken yet; a cell is
    then reached in any order of its genes, and the probability is that of the order by source.
    """
    total = next(iter(policy.ops.values())).new_zeros(())
    for kind, cell in space.cells.items():
        logits = policy.ops[kind]
        for node, genes in enumerate(genotype.cells[kind].nodes):
            into = {cell.edges[e][0]: e for e in cell.edges_into(node)}
            now = {into[gene.source]: gene.op for gene in genes}
            wanted = [(e, now.get(e, "none")) for e in (into.values() if cell.keep is None else sorted(now))]
            picked: list[tuple[int, str]] = []
            for choices, choice in zip(_turns(cell, node, picked), wanted, strict=True):
                scores = torch.stack([logits[e, cell.ops.index(op)] for e, op in choices])
                total = total + torch.log_softmax(scores, 0)[choices.index(choice)]
                picked.append(choice)
    return total


def _turns(cell: CellSpec, node: int, picked: list[tuple[int, str]]) -> Iterator[list[tuple[int, str]]]:
    """The (edge, operation) pairs to choose among, turn by turn; `picked` is filled by the caller between turns."""
    into = cell.edges_into(node)
    if cell.keep is None:
        for e in into:
            yield [(e, op) for op in cell.choices(e)]
        return
    for _ in range(min(cell.keep, len(into))):
        taken = {e for e, _ in picked}
        yield [(e, op) for e in into if e not in taken for op in cell.choices(e)]
