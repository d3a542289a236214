"""Max-W (sharpDARTS, Hundt, Jain, Hager 2019): the strongest operation of an edge always weighs 1.

w_k = 1 - max(p) + p_k with p = softmax(alpha). With G_k the loss gradient along o_k, the gradient of the winner's p is
-sum of the others' G: it rises only as far as the others do harm.
"""

from __future__ import annotations

from typing import Annotated

from darts_core.card import Card
from darts_core.search.hypergrad import HYPERGRADS, Order
from darts_core.search.method import Method
from darts_core.search.parts import max_w, worn

CARD = Card(
    "Max-W (sharpDARTS)",
    "o(x) = sum_k (1 - max_j p_j + p_k) o_k(x),  p = softmax(alpha)",
    "The strongest operation of an edge has weight exactly 1, so its own activation gives its logit no gradient: it is "
    "pushed up only as much as the others are harmful. At equal alphas the edge is the plain sum of its operations.",
    "Hundt, Jain, Hager: sharpDARTS, 2019; ahundt/sharpDARTS",
    (
        "The popular description, 'subtract the maximum weight gradient from each weight before back-propagation', is "
        "wrong: no gradient is subtracted by hand. In the forward pass the largest weight is subtracted and 1 added; "
        "the minus in the winner's gradient is what automatic differentiation makes of it.",
        "A comment in the released code says that no gradient should pass through the maximum; the active code lets it "
        "pass, and so does this one. Detached, the gradient is that of DARTS (option attached=false).",
        "Of the paper's other parts, its blocks are operations of the spaces sharp and sharper (parameter counts as "
        "in its code), its released cells are in the zoo, its learning rate is w_power=2 w_rise=5; not built: "
        "AutoAugment.",
        "Second order is offered; the released code drops its settings there, so all published runs are first order.",
    ),
)


def maxw(
    order: Order = "1",
    attached: Annotated[
        bool, "Let the gradient through the maximum, as the released code does; detached it equals DARTS' gradient."
    ] = True,
) -> Method:
    """The softmax relaxation with the largest weight lifted to 1."""
    return worn(Method(hypergrad=HYPERGRADS[order]), max_w(attached))
