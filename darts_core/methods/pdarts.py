"""P-DARTS (Chen et al. 2019): three stages of deeper nets and fewer operations, with dropout on skips that dies away.

Progressive search, and search space regularisation: skip dropout, and at most two skips.
"""

from __future__ import annotations

import math
from typing import Annotated

import numpy as np
import torch

from darts_core.card import Card
from darts_core.genotype import CellGenes, Gene, Genotype
from darts_core.mix import as_arrays
from darts_core.search.hypergrad import HYPERGRADS, Order, clipped_at
from darts_core.search.method import Derive, Method, Stage, Trained, near_zero, strongest_columns
from darts_core.search.option import Fixed, Range
from darts_core.search.parts import skip_dropout as skip_part
from darts_core.search.parts import warm_up, worn
from darts_core.space import CellSpec

CARD = Card(
    "P-DARTS",
    "stages of L, L + 6, L + 12 cells with 8, 5, 3 operations per edge;  skips are followed by dropout that dies away",
    "Depth grows toward that of the final network while the weakest operations of each edge are dropped; each stage "
    "starts anew. At the end the normal cell keeps at most two skips.",
    "Chen, Xie, Wu, Tian: Progressive Differentiable Architecture Search, ICCV 2019; chenxin061/pdarts",
    (
        "One rate of skip dropout for all stages; the authors' command has 0.1, 0.4, 0.7, which is skip_dropout=0.1 "
        "more_dropout=0.3 here.",
        "In spaces of other than 8 operations 5/8 and 3/8 of them stay.",
        "Ties between edges go to the later one, as in the code (DARTS: to the earlier one).",
        "Each stage is a third of the epochs; rates and the alphas' rest are as in the code's 25 epochs per stage.",
    ),
)
CLIP = 5.0  # largest norm of the alphas' gradient, as in the code
KEPT = (1.0, 5 / 8, 3 / 8)  # share of an edge's operations in each stage


def pdarts(
    order: Order = "1",
    more_cells: Annotated[int, Range(0, 20), "Cells added with each stage.", Fixed] = 6,
    skip_dropout: Annotated[float, Range(0, 0.95), "Dropout behind skip connections at the start of each stage."] = 0.4,
    more_dropout: Annotated[float, Range(0, 0.5), "Added to that dropout with each later stage."] = 0.0,
    skips: Annotated[int, Range(0, 100), "Most skip connections of the derived normal cell."] = 2,
    rest: Annotated[float, Range(0, 1), "Share of each stage before the alphas move."] = 0.4,
) -> Method:
    """Three stages, skip dropout, and a limit on skips."""
    stages = tuple({"more_cells": more_cells * k} if more_cells else {} for k in range(len(KEPT)))
    base = Method(
        hypergrad=clipped_at(CLIP, HYPERGRADS[order]), stages=stages, next_stage=fewer, restarts=True,
        derive=at_most(skips),
    )  # fmt: skip
    return worn(base, skip_part(skip_dropout, more_dropout), warm_up(rest))


def fewer(stage: int, trained: Trained, generator: torch.Generator) -> Stage:
    """New alphas, for the operations of each edge that weighed most; in the last stage `none` goes first."""
    legal = {}
    for kind, cell in trained.space.cells.items():
        mix, mask = trained.mix.ops[kind].detach().clone(), trained.alphas.legal[kind]
        if "none" in cell.ops:  # an edge keeps an operation that a cell can hold
            column, others = cell.ops.index("none"), mask.sum(-1) > 1
            last = stage == len(KEPT) - 1
            mix[:, column] = torch.where(others & last, -1.0, mix[:, column])
            others_best = [o for o in range(len(cell.ops)) if o != column]
            best = mix[:, others_best].argmax(-1)
            for e, o in enumerate(best.tolist()):  # never drop the best operation that is not `none`
                mix[e, others_best[o]] += 1.0
        whole = torch.from_numpy(cell_legal(trained, kind)).sum(-1)
        wanted = [max(1, math.ceil(int(n) * KEPT[stage])) for n in whole]
        rows = [strongest_columns(mix[e : e + 1], mask[e : e + 1], lambda _, n=n: n) for e, n in enumerate(wanted)]
        legal[kind] = torch.cat(rows)
    fresh = near_zero(trained.space, generator)._replace(legal=legal)
    return Stage(fresh, f"{legal_range(legal)} operations per edge, a deeper net, new weights and alphas")


def cell_legal(trained: Trained, kind: str) -> np.ndarray:
    """(edges, ops) bool: what the edges could hold in the first stage."""
    assert trained.whole is not None, "the loop says what the whole space is"
    return trained.whole.cells[kind].legal_array()


def legal_range(legal: dict[str, torch.Tensor]) -> str:
    counts = torch.cat([mask.sum(-1) for mask in legal.values()])
    low, high = int(counts.min()), int(counts.max())
    return str(low) if low == high else f"{low} to {high}"


def at_most(skips: int) -> Derive:
    """The strongest edges of each node; while the normal cell has too many skips, the weakest of them is taken away."""

    def derive(trained: Trained) -> Genotype:
        mixes = as_arrays(trained.mix.weights())
        cells = {}
        for kind, cell in trained.space.cells.items():
            mix = mixes[kind].copy()
            genes = strongest_later_first(cell, mix)
            while kind == "normal" and len(found := skips_of(cell, genes)) > skips:
                column = cell.ops.index("skip_connect")
                standing = [e for e in found if mix[e, column] > 0]
                if not standing:  # nothing else is left on these edges
                    break
                mix[min(standing, key=lambda e: mix[e, column]), column] = 0.0
                genes = strongest_later_first(cell, mix)
            cells[kind] = genes
        return Genotype(trained.space.name, cells)

    return derive


def skips_of(cell: CellSpec, genes: CellGenes) -> list[int]:
    """Edges of the derived cell that hold a skip connection."""
    into = [(gene.source, cell.inputs + i) for i, node in enumerate(genes.nodes) for gene in node
            if gene.op == "skip_connect"]  # fmt: skip
    return sorted(cell.edges.index(edge) for edge in into)


def strongest_later_first(cell: CellSpec, mix: np.ndarray) -> CellGenes:
    """As DARTS, with ties between edges going to the later one and genes in the order of edges (pdarts' parser)."""
    candidates = [o for o, op in enumerate(cell.ops) if op != "none"]
    nodes = []
    for node in range(cell.nodes):
        into = cell.edges_into(node)
        best = {e: max(candidates, key=lambda o, e=e: (cell.legal[e][o], mix[e, o])) for e in into}
        kept = sorted(into, key=lambda e: mix[e, best[e]])[-(cell.keep or len(into)) :]
        nodes.append(tuple(Gene(cell.ops[best[e]], cell.edges[e][0]) for e in sorted(kept)))
    return CellGenes(tuple(nodes), cell.output, cell.inputs)
