"""DARTS+ (Liang et al. 2019): DARTS that stops when the derived normal cell holds two skip connections."""

from __future__ import annotations

from typing import Annotated

from darts_core.card import Card
from darts_core.search.hypergrad import HYPERGRADS, Order
from darts_core.search.method import Method
from darts_core.search.option import Range
from darts_core.search.parts import skip_stop, worn

CARD = Card(
    "DARTS+",
    "stop as soon as the derived normal cell holds two or more skip connections",
    "The course is DARTS; only the end is earlier.",
    "Liang et al.: DARTS+: Improved Differentiable Architecture Search with Early Stopping, 2019, criterion 1",
    (
        "In small spaces chance alone gives two skips (S2 with 6 edges: three), so `first` can hold the rule back.",
        "The cell returned is the one at the stop. Their second rule (stable ranks of the alphas) is not built.",
    ),
)


def dartsplus(
    order: Order = "1",
    skips: Annotated[int, Range(1, 100), "Skip connections in the derived normal cell at which it stops."] = 2,
    first: Annotated[int, Range(0, 1000), "No stop before this many epochs."] = 0,
) -> Method:
    """DARTS with the skip-count stop."""
    return worn(Method(hypergrad=HYPERGRADS[order]), skip_stop(skips, first))
