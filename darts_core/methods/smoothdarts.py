"""SmoothDARTS (Chen and Hsieh 2020): the weights learn at a perturbed mix, so that L_val is flat around the alphas.

Random (uniform noise in a box around the mix) or adversarial (the worst mix there, by 7 steps of gradient ascent).
"""

from __future__ import annotations

from typing import Annotated

from darts_core.card import Card
from darts_core.search.hypergrad import HYPERGRADS, Order
from darts_core.search.method import Method
from darts_core.search.option import Choice, Range
from darts_core.search.parts import perturbed, worn

CARD = Card(
    "SmoothDARTS",
    "w moves along grad_w L_train(w, p + d),  d uniform in [-eps, eps] or the worst there;  eps = 0.03 ... 0.3",
    "Alpha steps see the clean mix; weight steps a perturbed one. This bounds the Hessian over alpha implicitly.",
    "Chen, Hsieh: Stabilizing Differentiable Architecture Search via Perturbation-based Regularization, ICML 2020; "
    "xiangning-chen/SmoothDARTS",
    (
        "The attack runs with batch statistics, as everything here; the code switches to evaluation mode for it.",
        "The adversarial form costs seven more passes per weight step.",
    ),
)


def smoothdarts(
    order: Order = "1",
    kind: Annotated[str, Choice("random", "adversarial"), "Uniform noise, or the worst mix nearby."] = "random",
    largest: Annotated[float, Range(0, 1), "Half the side of the box at the end; it grows from 0.03."] = 0.3,
) -> Method:
    """The softmax relaxation, perturbed in weight steps."""
    return worn(Method(hypergrad=HYPERGRADS[order]), perturbed(kind, largest))
