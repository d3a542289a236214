"""RobustDARTS (Zela et al. 2020): DARTS that watches the eigenvalue of the validation Hessian, and regularises more.

Early stopping (DARTS-ES), adaptive regularisation (DARTS-ADA), and drop path or L2 at a fixed strength (R-DARTS).
"""

from __future__ import annotations

from typing import Annotated

from darts_core.card import Card
from darts_core.search.hypergrad import HYPERGRADS, Order
from darts_core.search.method import Course, Method, Verdict
from darts_core.search.option import Choice, Range
from darts_core.search.parts import drop_path as edge_drop_path
from darts_core.search.parts import eigenvalue_verdict, stopping, worn

CARD = Card(
    "RobustDARTS",
    "stop at epoch e when mean(lambda, 5 values)(e) / mean(lambda, 5 values)(4 evaluations earlier) > 1.3",
    "The search is DARTS; when the smoothed dominant eigenvalue of the Hessian of L_val over alpha grows too fast, it "
    "stops with the earlier cell (DARTS-ES), or goes back and regularises more (DARTS-ADA).",
    "Zela et al.: Understanding and Robustifying DARTS, ICLR 2020; automl/RobustDARTS",
    (
        "Ratio and look-back are the code's (1.3, 8 epochs); the paper says 1/0.75 and 5 epochs.",
        "Drop path grows as rate * epoch / (epochs - 1), on edges, as in the code.",
        "Adaptive runs stop for good when the next strength would pass the largest; the code then searches on.",
        "R-DARTS searches with several strengths and keeps the best cell: here a sweep over w_decay or drop_path.",
        "Spaces S1 to S4 are `--space s1` to `s4`. First order by default; the paper's script is second order.",
    ),
)


def robustdarts(
    order: Order = "1",
    factor: Annotated[float, Range(1, 100), "Act when the smoothed eigenvalue grew by more than this."] = 1.3,
    every: Annotated[int, Range(1, 100), "Epochs between eigenvalues."] = 2,
    first: Annotated[int, Range(0, 1000), "The earliest epoch whose cell may be returned."] = 10,
    adapt: Annotated[
        str, Choice("none", "l2", "drop_path"), "Stop; or go back, with more weight decay or more drop path."
    ] = "none",
    decay_factor: Annotated[float, Range(1, 1000), "Weight decay times this at each going back."] = 10.0,
    largest_decay: Annotated[float, Range(0, 1), "Weight decay beyond which it stops after all."] = 0.03,
    drop_path: Annotated[float, Range(0, 0.95), "Share of samples for which an edge is dropped, at the end."] = 0.0,
    drop_more: Annotated[float, Range(0.01, 0.95), "Added to drop_path at each going back."] = 0.2,
    largest_drop: Annotated[float, Range(0, 0.95), "drop_path beyond which it stops after all."] = 0.6,
) -> Method:
    """DARTS with drop path and the eigenvalue rule."""

    def stop(course: Course) -> Verdict | None:
        found = eigenvalue_verdict(course, factor, every, first)
        if found is None or adapt == "none":
            return found
        if adapt == "l2":
            name, after, largest = "w_decay", float(course.settings["w_decay"]) * decay_factor, largest_decay
        else:
            name, after, largest = "drop_path", float(course.settings["drop_path"]) + drop_more, largest_drop
        return found._replace(change={name: after}) if 0 < after <= largest * (1 + 1e-9) else found

    base = Method(hypergrad=HYPERGRADS[order])
    return worn(base, edge_drop_path(drop_path), stopping(stop, eigenvalue_every=every))
