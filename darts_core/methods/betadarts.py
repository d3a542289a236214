"""beta-DARTS (Ye et al. 2022): DARTS plus one penalty that keeps the alphas of an edge from growing apart.

L = L_val + lambda(e) * mean over edges of logsumexp_k(alpha_k), lambda growing from 0.
"""

from __future__ import annotations

from typing import Annotated

from darts_core.card import Card
from darts_core.search.hypergrad import HYPERGRADS, Order
from darts_core.search.method import Method
from darts_core.search.option import Range
from darts_core.search.parts import beta, worn

CARD = Card(
    "beta-DARTS",
    "L = L_val + lambda(e) mean_edges logsumexp_k(alpha_k),  lambda(e) = 50 e / E",
    "One term more in the alphas' loss. Its gradient is softmax(alpha): it pulls the largest logits down most, so no "
    "operation runs away.",
    "Ye et al.: beta-DARTS, CVPR 2022; Sunshine-Ye/Beta-DARTS",
    (
        "lambda grows with the share of epochs done, to 50; the code's 50 e / 100 is the same for its 100 epochs. The "
        "released driver for this space calls the architect without the epoch and fails.",
    ),
)


def betadarts(
    order: Order = "1",
    weight: Annotated[float, Range(0, 1000), "Weight of the penalty at the end; it grows from 0."] = 50.0,
) -> Method:
    """The softmax relaxation with the beta penalty."""
    return worn(Method(hypergrad=HYPERGRADS[order]), beta(weight))
