"""FairDARTS (Chu et al. 2020): each operation has a sigmoid of its own, pushed toward 0 or 1; several may stay.

Weights do not compete, so skips need not win.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Annotated

import numpy as np
import torch

from darts_core.card import Card
from darts_core.derive import strongest
from darts_core.genotype import CellGenes, Gene, Genotype
from darts_core.mix import Alphas, as_arrays
from darts_core.search.hypergrad import HYPERGRADS, Order
from darts_core.search.method import Derive, Method, Trained, without
from darts_core.search.option import Choice, Range
from darts_core.search.parts import sigmoid, worn, zero_one
from darts_core.space import CellSpec, SearchSpace

CARD = Card(
    "FairDARTS",
    "o(x) = sum_k sigmoid(alpha_k) o_k(x);  L = L_val - w mean((sigmoid(alpha) - 1/2)^2)",
    "Sigmoids instead of a softmax: an operation gains nothing when another loses. The zero-one loss makes the weights "
    "decide, and the cell keeps what passed a threshold.",
    "Chu, Zhou, Zhang, Li: Fair DARTS, ECCV 2020; xiaomi-automl/FairDARTS",
    (
        "`none` is left out, as in the code: with independent weights it has no part to play.",
        "The default keeps the two strongest edges of each node by sigmoid (the code's parser `darts`), so that a cell "
        "always exists: in short searches few weights reach the threshold of 0.85.",
        "A node without operations stays as zeros that nothing is concatenated from; the code takes it out.",
    ),
)


def fairdarts(
    order: Order = "1",
    weight: Annotated[float, Range(0, 1000), "Weight of the zero-one loss."] = 10.0,
    distance: Annotated[str, Choice("l2", "l1"), "Zero-one loss by squared or absolute distance from one half."] = "l2",
    parser: Annotated[
        str,
        Choice("darts", "threshold_sparse", "threshold_edge"),
        "Which cell: two edges per node; those above the threshold of these; all above it, at most two per edge.",
    ] = "darts",
    threshold: Annotated[float, Range(0, 1), "Sigmoid from which an operation counts."] = 0.85,
) -> Method:
    """Sigmoid relaxation with the zero-one loss; alphas start at zero."""
    base = Method(init=zeros, hypergrad=HYPERGRADS[order], derive=parsed(parser, threshold))
    return worn(base, sigmoid(), zero_one(weight, distance))


def zeros(space: SearchSpace, generator: torch.Generator) -> Alphas:
    """Every sigmoid at one half; `none` is not searched."""
    legal = without("none", space)
    return Alphas({kind: torch.zeros(mask.shape) for kind, mask in legal.items()}, legal)


def parsed(parser: str, threshold: float) -> Derive:
    """The cell by one of the three parsers of the released code."""
    rule = {"darts": strongest, "threshold_sparse": _sparse(threshold), "threshold_edge": _per_edge(threshold)}[parser]

    def derive(trained: Trained) -> Genotype:
        mixes = as_arrays(trained.mix.weights())
        cells = {kind: rule(cell, mixes[kind]) for kind, cell in trained.space.cells.items()}
        if parser != "darts":
            cells = {kind: _full_nodes_only(genes, trained.space.cells[kind]) for kind, genes in cells.items()}
        return Genotype(trained.space.name, cells)

    return derive


def _sparse(threshold: float) -> Callable[[CellSpec, np.ndarray], CellGenes]:
    """The two strongest edges of each node, as DARTS, but only where the operation passed the threshold."""

    def rule(cell: CellSpec, mix: np.ndarray) -> CellGenes:
        passed = lambda node, gene: (  # noqa: E731
            mix[cell.edges.index((gene.source, cell.inputs + node)), cell.ops.index(gene.op)] >= threshold
        )
        genes = strongest(cell, mix)
        nodes = tuple(tuple(g for g in node if passed(i, g)) for i, node in enumerate(genes.nodes))
        return replace(genes, nodes=nodes)

    return rule


def _per_edge(threshold: float) -> Callable[[CellSpec, np.ndarray], CellGenes]:
    """Every operation above the threshold, at most the two largest of an edge; edges in order, weaker one first."""

    def rule(cell: CellSpec, mix: np.ndarray) -> CellGenes:
        nodes = []
        for node in range(cell.nodes):
            genes = []
            for e in cell.edges_into(node):
                columns = [o for o, op in enumerate(cell.ops) if op != "none" and mix[e, o] >= threshold]
                largest = sorted(columns, key=lambda o, e=e: mix[e, o])[-2:]
                genes += [Gene(cell.ops[o], cell.edges[e][0]) for o in largest]
            nodes.append(tuple(genes))
        return CellGenes(tuple(nodes), cell.output, cell.inputs)

    return rule


def _full_nodes_only(genes: CellGenes, cell: CellSpec) -> CellGenes:
    """The output without the nodes that hold no operation; all of them where none does, for a cell has an output."""
    full = tuple(s for s in cell.output if genes.nodes[s - cell.inputs])
    return replace(genes, output=full or cell.output)
