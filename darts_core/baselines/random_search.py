"""Random search (Li and Talwalkar 2019): cells drawn uniformly, the best one kept. What every search must beat."""

from __future__ import annotations

from typing import Annotated

from darts_core.baselines.propose import drawn
from darts_core.baselines.trials import Baseline
from darts_core.card import Card
from darts_core.search.option import Choice, Range

CARD = Card(
    "Random search",
    "argmax score(cell) over cells drawn uniformly;  score: accuracy on validation images after a short training, "
    "with weights that all cells share, or looked up",
    "No alphas and no gradient over architectures: whole cells are drawn and scored. A step is one training step "
    "(shared weights: or one score), so that equal steps are an equal budget.",
    "Li, Talwalkar: Random Search and Reproducibility for NAS, UAI 2019; liamcli/randomNAS_release",
    (
        "With shared weights every later step scores one cell on score_images, and the best score wins; the code "
        "scores 1000 cells on ten batches and the best ten of them on all validation images.",
        "Cells hold no `none` where a node keeps two edges, as in cells that DARTS derives; the code draws it too.",
    ),
)


def random_search(
    score: Annotated[
        str,
        Choice("short", "shared", "table"),
        "How a cell is scored: trained for a short while, by weights that all cells share, or looked up (space nb3).",
    ] = "short",
    trial_steps: Annotated[int, Range(1, 100_000), "Training steps of each cell, where it is trained."] = 20,
    trials: Annotated[int, Range(0, 1_000_000), "End after so many cells; 0: when the steps are spent."] = 0,
    score_images: Annotated[int, Range(1, 1_000_000), "Validation images that a score is measured on."] = 600,
    shared_part: Annotated[float, Range(0.01, 0.99), "Share of the steps that train the shared weights."] = 0.7,
) -> Baseline:
    """Cells drawn uniformly from the space."""
    return Baseline(drawn, score, trial_steps, trials, score_images, shared_part)
