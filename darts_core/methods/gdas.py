"""GDAS (Dong and Yang 2019): one operation per edge, drawn by Gumbel-softmax, with a straight-through gradient.

h = one-hot of argmax((log softmax(alpha) + gumbel) / tau), weights h - stop(q) + q with q that softmax.
"""

from __future__ import annotations

from typing import Annotated

import torch
from torch import Tensor

from darts_core.card import Card
from darts_core.mix import Alphas, Mix
from darts_core.search.method import Method, Moment, cooled, gumbel_softmax, softmax_rows
from darts_core.search.option import Range

CARD = Card(
    "GDAS",
    "o(x) = (h_k - stop(q_k) + q_k) o_k(x) for the drawn k;  q = softmax((log p + Gumbel) / tau), h = one_hot(q)",
    "A step runs one sampled operation per edge instead of all, so operations never lean on each other.",
    "Dong, Yang: Searching for a Robust Neural Architecture in Four GPU Hours, CVPR 2019; D-X-Y/AutoDL-Projects",
    (
        "Alphas move before the weights, as in DARTS; the code moves the weights first.",
        "Derivation is DARTS'; the code's may choose the same edge twice (its issue 87).",
        "Shown and measured is softmax(alpha): the supernet was trained one path at a time, so its own accuracy under "
        "that mix is low and says little.",
        "SGD without Nesterov. On the fast and compiled supernets the operations not drawn weigh exactly 0.",
    ),
)


def gdas(
    hottest: Annotated[float, Range(0.01, 100), "Temperature at the start; high: close to uniform."] = 10.0,
    coldest: Annotated[float, Range(0.01, 100), "Temperature at the end."] = 0.1,
) -> Method:
    """Hard Gumbel samples; the temperature falls on a straight line."""

    def relax(alphas: Alphas, moment: Moment) -> Mix:
        if moment.phase == "read":
            return Mix(softmax_rows(alphas))
        soft = gumbel_softmax(alphas, cooled(hottest, coldest, moment), moment)
        hard = {kind: _straight_through(q) for kind, q in soft.items()}
        active = {kind: tuple(frozenset(row.nonzero().flatten().tolist()) for row in h) for kind, h in hard.items()}
        return Mix(hard, active=active)

    return Method(relax=relax)


def _straight_through(q: Tensor) -> Tensor:
    """One at each row's largest entry, with the gradient of q there; exactly 0, without a gradient, elsewhere.

    A row of an edge without any operation stays 0.
    """
    chosen = torch.zeros_like(q, dtype=torch.bool).scatter(-1, q.argmax(-1, keepdim=True), True) & (q > 0)
    return torch.where(chosen, 1 - q.detach() + q, 0.0)
