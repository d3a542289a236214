"""DARTS (Liu, Simonyan, Yang 2019): the architecture relaxed by a softmax and trained with the weights, in turns.

Equations: 2 (relaxation), 3-4 (bilevel problem), 7 (its gradient through one virtual step), 8 (finite difference).
"""

from __future__ import annotations

from typing import Annotated

import torch

from darts_core.mix import Alphas, Mix
from darts_core.search.hypergrad import unrolled, unrolled_fd
from darts_core.search.method import Method, Moment, first_order, softmax_rows
from darts_core.search.option import Choice, Range

HYPERGRADS = {"1": first_order, "2": unrolled_fd, "exact": unrolled}


def darts(
    order: Annotated[
        str,
        Choice("1", "2", "exact"),
        "Gradient of the alphas: first order, second order as published, or second order exact.",
    ] = "1",
    temperature: Annotated[
        float, Range(0.01, 100), "Divides the alphas before the softmax; above 1 the mix is softer."
    ] = 1.0,
    skip_dropout: Annotated[
        float,
        Range(0, 0.95),
        "Share of samples whose skip connections are dropped in weight steps (P-DARTS, section 3.3).",
    ] = 0.0,
) -> Method:
    """First order, second order as published (equation 8), or exact second order."""

    def relax(alphas: Alphas, moment: Moment) -> Mix:
        drops = {"skip_connect": torch.tensor(skip_dropout)} if skip_dropout and moment.phase == "weights" else {}
        return Mix(softmax_rows(alphas, temperature), drop=drops)

    return Method(relax=relax, hypergrad=HYPERGRADS[order])
