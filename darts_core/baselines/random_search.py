"""Random search (Li and Talwalkar 2019): cells drawn uniformly, the best one kept. What every search must beat."""

from __future__ import annotations

from typing import Annotated

from darts_core.baselines.propose import drawn
from darts_core.baselines.trials import Baseline
from darts_core.search.option import Choice, Range


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
