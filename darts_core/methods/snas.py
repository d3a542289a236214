"""SNAS (Xie et al. 2019): soft Gumbel samples, and alphas trained with the weights on one and the same loss.

Z = softmax((alpha + gumbel) / tau); single-level: the alphas follow the training loss.
"""

from __future__ import annotations

from typing import Annotated

import torch

from darts_core.card import Card
from darts_core.derive import Reading, with_none
from darts_core.genotype import Genotype
from darts_core.mix import Alphas, Mix, as_arrays
from darts_core.search.method import Hyper, Method, Moment, Objective, Trained, cooled, gumbel_softmax, softmax_rows
from darts_core.search.option import Range

CARD = Card(
    "SNAS",
    "o(x) = sum_k Z_k o_k(x),  Z = softmax((log p + Gumbel) / tau);  alpha and w both follow L_train",
    "The mix is sampled, not averaged, and there is no second level: alphas learn from the training batch too.",
    "Xie, Zheng, Liu, Lin: SNAS, ICLR 2019; SNAS-series (no first-party release is known)",
    (
        "The alpha step comes before the weight step, on the same batch with a sample of its own; the paper makes one "
        "joint step.",
        "`none` may win an edge, and the edge is gone then. The resource penalty is not built.",
        "Alphas start at 1e-3 N(0, 1); the code found draws from N(1, 0.01), which a softmax cannot tell from it.",
    ),
)


def snas(
    hottest: Annotated[float, Range(0.01, 100), "Temperature at the start."] = 1.0,
    coldest: Annotated[float, Range(0.01, 100), "Temperature at the end."] = 0.03,
) -> Method:
    """Soft Gumbel samples; the temperature falls on a straight line; the alphas follow the training loss."""

    def relax(alphas: Alphas, moment: Moment) -> Mix:
        if moment.phase == "read":
            return Mix(softmax_rows(alphas))
        return Mix(gumbel_softmax(alphas, cooled(hottest, coldest, moment), moment))

    return Method(relax=relax, hypergrad=joint, derive=none_may_win)


def joint(objective: Objective) -> Hyper:
    """The gradient of L_train(w, alpha): one level for alphas and weights."""
    alphas = objective.alphas.leaves()
    loss = objective.train(objective.weights, alphas)
    return Hyper(list(torch.autograd.grad(loss.value, alphas.tensors(), materialize_grads=True)), loss)


def none_may_win(trained: Trained) -> Genotype:
    """The strongest operation of each edge, `none` included; at most two edges per node."""
    mixes, alphas = as_arrays(trained.mix.weights()), as_arrays(trained.alphas.ops)
    cells = {kind: with_none(cell, Reading(mixes[kind], alphas[kind])) for kind, cell in trained.space.cells.items()}
    return Genotype(trained.space.name, cells)
