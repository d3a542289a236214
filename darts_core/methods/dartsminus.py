"""DARTS- (Chu et al. 2021): an auxiliary skip beside every mixed operation takes over what makes training easy.

o(x) = beta * x + sum_k softmax(alpha)_k o_k(x), with beta falling from 1 to 0; derivation looks at alpha alone.
"""

from __future__ import annotations

from typing import Annotated

from darts_core.card import Card
from darts_core.search.hypergrad import HYPERGRADS, Order
from darts_core.search.method import Method
from darts_core.search.option import Choice, Range
from darts_core.search.parts import extra_skip, worn

CARD = Card(
    "DARTS-",
    "o(x) = beta(e) x + sum_k softmax(alpha)_k o_k(x),  beta(e) = 1 - e / E",
    "A skip does two things: it is an operation, and it makes a deep net easy to train. A second skip with a weight "
    "that fades does the latter, so the searched one competes as an operation only.",
    "Chu et al.: DARTS-: Robustly Stepping out of Performance Collapse Without Indicators, ICLR 2021; "
    "Meituan-AutoML/DARTS-",
    (
        "Where an edge halves the image the auxiliary skip is a factorised reduction with weights of its own.",
        "The weight moves once per epoch, so it is 1/E in the last one, as in the code.",
    ),
)


def dartsminus(
    order: Order = "1",
    start: Annotated[float, Range(0, 10), "Weight of the auxiliary skip at the start."] = 1.0,
    fall: Annotated[str, Choice("linear", "cosine", "slow"), "How it falls to zero."] = "linear",
) -> Method:
    """The softmax relaxation beside an auxiliary skip."""
    return worn(Method(hypergrad=HYPERGRADS[order]), extra_skip(start, fall))
