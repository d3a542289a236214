"""From a mix to a genotype, and the one definition of collapse that search, app and notebooks share.

A mix is what the supernet weighs operations by, shown as an array (edges, ops) per kind of cell. NumPy only.
Source: DARTS (Liu et al. 2019, section 2.4); ties and the treatment of `none` follow the authors' code.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from darts_core.errors import BadInput
from darts_core.genotype import CellGenes, Gene, Genotype
from darts_core.space import CellSpec, SearchSpace

Mixes = Mapping[str, np.ndarray]
SKIP = "skip_connect"
COLLAPSED = 0.8  # share of derived edges that are skips from which a cell is called collapsed


@dataclass(frozen=True)
class Collapse:
    """How far the normal cell has gone toward skip connections.

    `level` is read from the derived cell: with four fifths of its edges being skips it is "collapsed", and halfway
    there from the share that chance would give it is "drifting" (chance is a half in S2, a seventh in the DARTS space,
    so a fixed share would call every S2 cell drifting). `mean_skip_weight` is the mean mix weight of skip over all
    edges that may hold it (no unit, 0 to 1).
    """

    derived_skips: int
    derived_edges: int
    mean_skip_weight: float
    level: str

    @property
    def share(self) -> float:
        return self.derived_skips / self.derived_edges if self.derived_edges else 0.0


def strongest(cell: CellSpec, mix: np.ndarray) -> CellGenes:
    """The DARTS rule: per node the `keep` edges whose best operation weighs most, each with that operation.

    `none` is not a candidate but keeps its mass: scores are not renormalised. Ties go to the lower source and the lower
    operation index, and genes are ordered by strength, as in the authors' code.

    Args:
        mix: (edges, ops), finite; 0 where not legal.

    Raises:
        BadInput: the mix is not finite (a cell derived from NaN would look plausible).
    """
    mix = _checked(cell, mix)
    candidates = [o for o, op in enumerate(cell.ops) if op != "none"]
    nodes = []
    for node in range(cell.nodes):
        into = cell.edges_into(node)
        best = {e: max(candidates, key=lambda o, e=e: (cell.legal[e][o], mix[e, o])) for e in into}  # first of equals
        order = sorted(into, key=lambda e: -mix[e, best[e]])  # stable: equal scores keep the lower source
        kept = order if cell.keep is None else order[: cell.keep]
        nodes.append(tuple(Gene(cell.ops[best[e]], cell.edges[e][0]) for e in kept))
    return CellGenes(tuple(nodes), cell.output)


def derive(space: SearchSpace, mixes: Mixes) -> Genotype:
    """`strongest` for every kind of cell."""
    return Genotype(space.name, {kind: strongest(cell, mixes[kind]) for kind, cell in space.cells.items()})


def kept_edges(cell: CellSpec, genes: CellGenes) -> list[bool]:
    """Per edge of the cell: does the derived cell use it?"""
    used = {(gene.source, cell.inputs + node) for node, genes_in in enumerate(genes.nodes) for gene in genes_in}
    return [edge in used for edge in cell.edges]


def one_hot(cell: CellSpec, genes: CellGenes) -> np.ndarray:
    """(edges, ops) with 1 at each gene and 0 elsewhere: the derived cell written as a mix of the supernet."""
    mix = np.zeros(cell.shape)
    for node, genes_in in enumerate(genes.nodes):
        for gene in genes_in:
            mix[cell.edges.index((gene.source, cell.inputs + node)), cell.ops.index(gene.op)] = 1.0
    return mix


def collapse(space: SearchSpace, mixes: Mixes, genotype: Genotype | None = None) -> Collapse:
    """Skip share and level of the normal cell (of the only kind, where there is no normal cell)."""
    kind = "normal" if "normal" in space.cells else next(iter(space.cells))
    cell, genotype = space.cells[kind], genotype or derive(space, mixes)
    genes: Sequence[Gene] = [gene for node in genotype.cells[kind].nodes for gene in node]
    skips = sum(gene.op == SKIP for gene in genes)
    share = skips / len(genes) if genes else 0.0
    chance = 1 / max(1, sum(op != "none" for op in cell.ops))
    drifting = (chance + COLLAPSED) / 2
    level = "collapsed" if share >= COLLAPSED else "drifting" if share >= drifting else "healthy"
    if SKIP not in cell.ops:
        return Collapse(0, len(genes), 0.0, "healthy")
    column = cell.ops.index(SKIP)
    may = cell.legal_array()[:, column]
    weight = float(np.asarray(mixes[kind], dtype=float)[may, column].mean()) if may.any() else 0.0
    return Collapse(skips, len(genes), weight, level)


def entropy(space: SearchSpace, mixes: Mixes) -> float:
    """Mean over all edges of the entropy of an edge's normalised mix, in nats (uniform over 8 operations: 2.08)."""
    rows = []
    for kind in space.cells:
        mix = np.asarray(mixes[kind], dtype=float)
        p = mix / np.maximum(mix.sum(-1, keepdims=True), 1e-12)
        rows.append(-(p * np.log(np.maximum(p, 1e-12))).sum(-1))
    return float(np.concatenate(rows).mean())


def _checked(cell: CellSpec, mix: np.ndarray) -> np.ndarray:
    mix = np.asarray(mix, dtype=float)
    if mix.shape != cell.shape:
        raise BadInput(
            "derivation", "mix", f"has shape {mix.shape}, the cell needs {cell.shape}", "use the mix of this space"
        )
    if not np.isfinite(mix).all():
        raise BadInput("derivation", "mix", "holds a value that is not a finite number", "derive from an earlier epoch")
    return mix
