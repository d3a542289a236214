"""From a mix to a genotype, and the one definition of collapse that search, app and notebooks share.

A mix is what the supernet weighs operations by, shown as an array (edges, ops) per kind of cell. NumPy only.
Source: DARTS (Liu et al. 2019, section 2.4); ties and the treatment of `none` follow the authors' code.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from darts_core.errors import BadInput, unknown
from darts_core.genotype import CellGenes, Gene, Genotype
from darts_core.space import CellSpec, SearchSpace

Mixes = Mapping[str, np.ndarray]
SKIPS = ("skip_connect", "identity")  # operations that pass their input on: of image cells, of recurrent cells
LEVELS = ("healthy", "drifting", "collapsed")  # of collapse, from good to bad
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
    return CellGenes(tuple(nodes), cell.output, cell.inputs)


def strongest_over_time(cell: CellSpec, mix: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """`strongest` at many steps at once: which operation is best on each edge, and which edges are kept.

    Args:
        mix: (steps, edges, ops), finite.

    Returns: (steps, edges) column of the best operation, and (steps, edges) bool.
    """
    mix = np.asarray(mix, dtype=float)
    candidates = np.array([op != "none" for op in cell.ops])
    legal = cell.legal_array()
    # As in `strongest`: a legal operation goes before one that is not, then weight decides, the first of equals.
    best = np.where(candidates, np.where(legal, mix, mix - 2.0 - mix.max()), -np.inf).argmax(-1)
    score = np.take_along_axis(mix, best[..., None], -1)[..., 0]
    kept = np.zeros(best.shape, dtype=bool)
    for node in range(cell.nodes):
        into = cell.edges_into(node)
        order = np.argsort(-score[:, into], axis=-1, kind="stable")
        keep = len(into) if cell.keep is None else min(cell.keep, len(into))
        np.put_along_axis(kept, np.asarray(into)[order[:, :keep]], True, axis=-1)
    return best, kept


def derive(space: SearchSpace, mixes: Mixes) -> Genotype:
    """`strongest` for every kind of cell."""
    return Genotype(space.name, {kind: strongest(cell, mixes[kind]) for kind, cell in space.cells.items()})


# Other rules, for the same alphas ---------------------------------------------------------------------------


class Reading(NamedTuple):
    """What a search recorded of one cell at one step."""

    mix: np.ndarray  # (edges, ops) weights, 0 where not legal
    alpha: np.ndarray | None  # (edges, ops) logits; what stands where an operation is not legal means nothing
    edge: np.ndarray | None = None  # (edges,) logits of the edges themselves, where the method has them (PC-DARTS)


CellRule = Callable[[CellSpec, Reading], CellGenes]


def top_two(cell: CellSpec, at: Reading) -> CellGenes:
    """The paper's rule, `strongest`."""
    return strongest(cell, at.mix)


def with_none(cell: CellSpec, at: Reading) -> CellGenes:
    """As the paper, but `none` may win an edge, and an edge that it wins is gone: a node may keep fewer than `keep`.

    Source: DARTS (section 2.4) leaves `none` out, so that cells are comparable with those of other spaces and because
    its logit is not determined (it only scales what batch norm scales back). This rule shows what that choice hides.
    """
    mix = _checked(cell, at.mix)
    legal = cell.legal_array()
    best = np.where(legal, mix, -np.inf).argmax(-1)  # (edges,), the first of equals
    score = np.take_along_axis(mix, best[:, None], -1)[:, 0]
    gone = {e for e in range(len(cell.edges)) if cell.ops[best[e]] == "none"}
    return _heaviest(cell, score, best, gone)


def edge_normalised(cell: CellSpec, at: Reading) -> CellGenes:
    """Edges compete too: an operation weighs softmax over the node's incoming edges, times its weight on its edge.

    Source: PC-DARTS (Xu et al. 2020), with the edge logits beta that it learns. A search without
    them gets beta = logsumexp of the edge's alphas; the product is then one softmax over all that enters the node.
    """
    mix, legal = _checked(cell, at.mix), cell.legal_array()
    if at.alpha is None:
        raise BadInput("derivation", "alpha", "was not recorded", "choose another rule, or a run that searches")
    alpha = np.where(legal, np.asarray(at.alpha, dtype=float), -np.inf)
    if not np.isfinite(alpha[legal]).all():
        raise _not_finite("alpha")
    if at.edge is not None:  # a recorded mix has the edge weights in it
        mix = mix / np.maximum(mix.sum(-1, keepdims=True), 1e-12)
    top = alpha.max(-1)
    beta = (
        np.asarray(at.edge, dtype=float) if at.edge is not None else top + np.log(np.exp(alpha - top[:, None]).sum(-1))
    )
    if not np.isfinite(beta).all():
        raise _not_finite("edge")
    share = np.zeros(len(cell.edges))
    for node in range(cell.nodes):
        into = cell.edges_into(node)
        powers = np.exp(beta[into] - beta[into].max())
        share[into] = powers / powers.sum()
    return strongest(cell, mix * share[:, None])


def above(threshold: float) -> CellRule:
    """Every operation but `none` that weighs at least `threshold` stays, however many that are, on however many edges.

    Source: FairDARTS (Chu et al. 2020), whose weights are sigmoids and whose threshold is 0.85. Weights of
    a softmax sum to one: from 0.5 on, at most one operation of an edge can stay.
    """

    def rule(cell: CellSpec, at: Reading) -> CellGenes:
        mix, legal = _checked(cell, at.mix), cell.legal_array()
        passed = legal & (mix >= threshold) & (np.array(cell.ops) != "none")
        nodes = []
        for node in range(cell.nodes):
            found = [(-mix[e, o], e, int(o)) for e in cell.edges_into(node) for o in np.flatnonzero(passed[e])]
            nodes.append(tuple(Gene(cell.ops[o], cell.edges[e][0]) for _, e, o in sorted(found)))
        return CellGenes(tuple(nodes), cell.output, cell.inputs)

    return rule


def _heaviest(cell: CellSpec, score: np.ndarray, best: np.ndarray, gone: set[int]) -> CellGenes:
    """Per node the `keep` edges of the highest score that are not gone, each with its best operation."""
    nodes = []
    for node in range(cell.nodes):
        order = sorted((e for e in cell.edges_into(node) if e not in gone), key=lambda e: -score[e])
        kept = order if cell.keep is None else order[: cell.keep]
        nodes.append(tuple(Gene(cell.ops[best[e]], cell.edges[e][0]) for e in kept))
    return CellGenes(tuple(nodes), cell.output, cell.inputs)


@dataclass(frozen=True)
class Rule:
    """A way to cut a mix down to a cell, as people choose it."""

    title: str
    doc: str
    source: str
    make: Callable[[float], CellRule]  # the threshold, which only one rule looks at


PERTURBATION = "perturbation"  # the rule that needs a supernet: `trying.py` carries it out
THRESHOLD = 0.5
RULES: Mapping[str, Rule] = {
    "top2": Rule(
        "Top two (the paper)",
        "Per node the two edges (a recurrent cell: the one) whose best operation weighs most; none is no candidate.",
        "DARTS, section 2.4",
        lambda _: top_two,
    ),
    "with_none": Rule(
        "None allowed",
        "The same, but none may win an edge, and the edge is gone then.",
        "DARTS, section 2.4, without its exception",
        lambda _: with_none,
    ),
    "edge_normalised": Rule(
        "Edge-normalised",
        "The edges of a node compete too: one softmax over everything that enters it.",
        "PC-DARTS",
        lambda _: edge_normalised,
    ),
    "threshold": Rule(
        "Threshold",
        "Every operation that weighs at least the threshold, on any number of edges.",
        "FairDARTS",
        above,
    ),
}


def derive_by(
    space: SearchSpace, at: Mapping[str, Reading], rule: str = "top2", threshold: float = THRESHOLD
) -> Genotype:
    """The cell that a rule of `RULES` gives.

    Args:
        at: kind of cell -> its reading.
        threshold: of the rule "threshold", 0 to 1.

    Raises:
        BadInput: the rule is unknown, the threshold is no share, or a reading is not finite.
    """
    if rule not in RULES:
        raise unknown("derivation", "rule", rule, RULES)
    if not 0 <= threshold <= 1:
        raise BadInput("derivation", "threshold", f"{threshold:g} is no share", "give a number from 0 to 1")
    cut = RULES[rule].make(threshold)
    return Genotype(space.name, {kind: cut(cell, at[kind]) for kind, cell in space.cells.items()})


def readings(space: SearchSpace, record: np.ndarray) -> dict[str, Reading]:
    """Kind of cell -> what one record of `steps.bin` (a row of `RunReader.steps`) says of it."""
    names = record.dtype.names or ()
    return {
        kind: Reading(
            np.asarray(record[f"mix.{kind}"], dtype=float),
            np.asarray(record[f"alpha.{kind}"], dtype=float) if f"alpha.{kind}" in names else None,
            np.asarray(record[f"edge.{kind}"], dtype=float) if f"edge.{kind}" in names else None,
        )
        for kind in space.cells
    }


# What a derived cell is -------------------------------------------------------------------------------------


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


def skip_of(cell: CellSpec) -> str | None:
    """The operation of this cell that only passes its input on; None where it has none."""
    return next((op for op in SKIPS if op in cell.ops), None)


def collapse(space: SearchSpace, mixes: Mixes, genotype: Genotype | None = None) -> Collapse:
    """Skip share and level of the normal cell (of the only kind, where there is no normal cell).

    In a recurrent cell the share is that of `identity`, its operation without a function of its own.
    """
    kind = "normal" if "normal" in space.cells else next(iter(space.cells))
    cell, genotype = space.cells[kind], genotype or derive(space, mixes)
    genes: Sequence[Gene] = [gene for node in genotype.cells[kind].nodes for gene in node]
    skip = skip_of(cell)
    skips = sum(gene.op == skip for gene in genes)
    share = skips / len(genes) if genes else 0.0
    chance = 1 / max(1, sum(op != "none" for op in cell.ops))
    drifting = (chance + COLLAPSED) / 2
    level = "collapsed" if share >= COLLAPSED else "drifting" if share >= drifting else "healthy"
    if skip is None:
        return Collapse(0, len(genes), 0.0, "healthy")
    column = cell.ops.index(skip)
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
        raise _not_finite("mix")
    return mix


def _not_finite(field: str) -> BadInput:
    return BadInput("derivation", field, "holds a value that is not a finite number", "derive from an earlier epoch")
