"""PC-DARTS (Xu et al. 2020): operations see a share of the channels, and edges compete by weights of their own.

Partial channels, edge normalisation, derivation by the product of both weights; alphas rest for 15 of 50 epochs.
"""

from __future__ import annotations

from typing import Annotated

from darts_core.card import Card
from darts_core.search.hypergrad import HYPERGRADS, Order
from darts_core.search.method import Method
from darts_core.search.option import Fixed, Partial, Range
from darts_core.search.parts import edge_norm, partial_channels, warm_up, worn

CARD = Card(
    "PC-DARTS",
    "edge(x) = shuffle(sum_k softmax(alpha)_k o_k(x[first C/K channels]), other channels);  "
    "node_j = sum_i softmax_i(beta_ij) edge_ij;  derive from softmax(alpha) softmax(beta)",
    "Only C/K channels go through the operations, the others pass by, so operations without weights gain less; edges "
    "have logits of their own. Memory and time fall with K.",
    "Xu et al.: PC-DARTS, ICLR 2020; yuhuixu1993/PC-DARTS",
    (
        "At odd image sizes the channels that pass by keep their last row and column; the original cannot join them.",
        "No compiled kernel has partial channels: the search runs on the fast supernet, and says so.",
    ),
)


def pcdarts(
    order: Order = "1",
    share: Annotated[int, Range(1, 16), "K: one in this many channels goes through operations.", Fixed, Partial] = 4,
    rest: Annotated[float, Range(0, 1), "Share of the epochs before the alphas begin to move."] = 0.3,
) -> Method:
    """Partial channels, edge normalisation and a warm-up of the weights."""
    return worn(Method(hypergrad=HYPERGRADS[order]), partial_channels(share), edge_norm(), warm_up(rest))
