"""DARTS (Liu, Simonyan, Yang 2019): the architecture relaxed by a softmax and trained with the weights, in turns.

Equations: 2 (relaxation), 3-4 (bilevel problem), 7 (its gradient through one virtual step), 8 (finite difference).
"""

from __future__ import annotations

from typing import Annotated

import torch

from darts_core.card import Card
from darts_core.mix import Alphas, Mix
from darts_core.search.hypergrad import HYPERGRADS, Order
from darts_core.search.method import Method, Moment, softmax_rows
from darts_core.search.option import Range

CARD = Card(
    "DARTS",
    "o(x) = sum_k softmax(alpha)_k o_k(x);  alpha moves along the gradient of L_val(w - xi grad_w L_train, alpha)",
    "It is DARTS: first order (xi = 0), second order as published (finite difference) or exact.",
    "Liu, Simonyan, Yang: DARTS: Differentiable Architecture Search, ICLR 2019, equations 2 to 8; quark0/darts",
    (
        "Each epoch walks a permutation of the architecture split; the code draws a fresh batch with replacement.",
        "Batch statistics always, as the paper says; the code also tracks running ones, which no gradient sees.",
        "The cell is that of the final alphas; the code's log ends with the one before the last epoch.",
    ),
)


def darts(
    order: Order = "1",
    temperature: Annotated[
        float, Range(0.01, 100), "Divides the alphas before the softmax; above 1 the mix is softer."
    ] = 1.0,
    skip_dropout: Annotated[
        float,
        Range(0, 0.95),
        "Share of samples whose skip connections are dropped in weight steps (an idea of P-DARTS).",
    ] = 0.0,
) -> Method:
    """First order, second order as published (equation 8), or exact second order."""

    def relax(alphas: Alphas, moment: Moment) -> Mix:
        drops = {"skip_connect": torch.tensor(skip_dropout)} if skip_dropout and moment.phase == "weights" else {}
        return Mix(softmax_rows(alphas, temperature), drop=drops)

    return Method(relax=relax, hypergrad=HYPERGRADS[order])
