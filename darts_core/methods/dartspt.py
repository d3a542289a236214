"""DARTS-PT (Wang et al. 2021): the cell is chosen by trying: what the supernet misses most stays.

Edge by edge, each operation is taken out in turn and the supernet measured; the one it misses most stays.
"""

from __future__ import annotations

from typing import Annotated

import torch
from torch import Tensor

from darts_core.card import Card
from darts_core.mix import Alphas, Mix
from darts_core.search.hypergrad import HYPERGRADS, Order
from darts_core.search.method import Method, Moment, Trained
from darts_core.search.option import Range
from darts_core.space import CellSpec

CARD = Card(
    "DARTS-PT",
    "on a random undecided edge keep argmin_k accuracy(supernet without o_k); between choices the supernet is tuned",
    "The weight of an operation need not say what it is worth to the supernet. After the search, edges are decided one "
    "by one by measuring the supernet without each operation; then nodes lose the edges it misses least.",
    "Wang et al.: Rethinking Architecture Selection in Differentiable NAS, ICLR 2021; ruocwang/darts-pt",
    (
        "The projection fills the last part of the search, with a second cosine from a tenth of the rate; the original "
        "gives it 81 epochs after 50, and its optimiser forgets the momentum at the turn, which is kept here.",
        "Choices fall between epochs, as many after each as are needed to end in time; the original makes one every 5.",
        "Accuracy on at most 2000 images of the architecture split. Alphas go on moving on edges not yet decided.",
    ),
)

SLOWER = 0.1  # share of the weights' rate from which the projection's cosine falls (the code: learning_rate / 10)


def dartspt(
    order: Order = "1",
    projected: Annotated[float, Range(0.01, 1), "Share of the epochs in which edges are decided."] = 0.5,
) -> Method:
    """DARTS, then projection by perturbation."""
    begin = lambda epochs: epochs - max(1, round(epochs * projected))  # noqa: E731  # the first epoch of the projection

    def project(trained: Trained, moment: Moment) -> Alphas | None:
        if moment.epoch < begin(moment.epochs):
            return None
        assert moment.generator is not None and trained.accuracy is not None, "the loop gives both"
        alphas, left = trained.alphas, moment.epochs - moment.epoch  # epochs left, this one included
        for kind, cell in trained.space.cells.items():
            waiting = len(undecided(cell, alphas.legal[kind])) + len(crowded(cell, alphas.legal[kind]))
            for _ in range(-(-waiting // left)):
                alphas = one_choice(kind, cell, alphas, trained, moment)
        return alphas

    anew = lambda epochs: {begin(epochs): SLOWER} if begin(epochs) else {}  # noqa: E731
    return Method(hypergrad=HYPERGRADS[order], project=project, anew=anew)


def undecided(cell: CellSpec, legal: Tensor) -> list[int]:
    """Edges that may still hold more than one operation."""
    return [e for e in range(len(cell.edges)) if int(legal[e].sum()) > 1]


def crowded(cell: CellSpec, legal: Tensor) -> list[int]:
    """Nodes with more incoming edges than a derived cell keeps."""
    into = lambda node: [e for e in cell.edges_into(node) if bool(legal[e].any())]  # noqa: E731
    return [node for node in range(cell.nodes) if cell.keep is not None and len(into(node)) > cell.keep]


def one_choice(kind: str, cell: CellSpec, alphas: Alphas, trained: Trained, moment: Moment) -> Alphas:
    """Decide one random edge; where all are decided, thin out one random node."""
    draw = lambda options: options[int(torch.randint(len(options), (1,), generator=moment.generator))]  # noqa: E731
    legal = alphas.legal[kind].clone()
    edges = undecided(cell, legal)
    if edges:
        edge = draw(edges)
        legal[edge] = missed_most(kind, cell, edge, alphas, trained)
    else:
        node = draw(crowded(cell, legal))
        while len(into := [e for e in cell.edges_into(node) if bool(legal[e].any())]) > (cell.keep or 0):
            now = alphas._replace(legal={**alphas.legal, kind: legal})
            left = {e: accuracy_without(kind, (e, slice(None)), now, trained) for e in into}
            legal[max(into, key=lambda e, left=left: (left[e], e))] = False  # ties: the later edge, as the code
    return alphas._replace(legal={**alphas.legal, kind: legal})


def missed_most(kind: str, cell: CellSpec, edge: int, alphas: Alphas, trained: Trained) -> Tensor:
    """(ops,) bool: the operation whose absence leaves the lowest accuracy; the first of equals."""
    row = alphas.legal[kind][edge]
    columns = [o for o in row.nonzero().flatten().tolist() if cell.ops[o] != "none"]
    worst = min(columns, key=lambda o: accuracy_without(kind, (edge, o), alphas, trained))
    only = torch.zeros_like(row)
    only[worst] = True
    return only


def accuracy_without(kind: str, place: tuple[int, int | slice], alphas: Alphas, trained: Trained) -> float:
    """Of the supernet with that weight at zero; the other weights stay, they are not renormalised."""
    assert trained.relaxed is not None and trained.accuracy is not None, "the loop gives both"
    mix: Mix = trained.relaxed(alphas)
    rows = mix.ops[kind].clone()
    rows[place] = 0.0
    return trained.accuracy(mix._replace(ops={**mix.ops, kind: rows}))
