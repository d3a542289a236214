"""Regularised evolution (Real, Aggarwal, Huang, Le 2019): the best of a few copied with one change; the oldest die."""

from __future__ import annotations

from typing import Annotated

from darts_core.baselines.propose import evolved
from darts_core.baselines.trials import Baseline
from darts_core.card import Card
from darts_core.search.option import Choice, Range

CARD = Card(
    "Regularised evolution",
    "parent = argmax score over S cells drawn from the last P;  child = parent with one change;  the oldest leaves",
    "No alphas and no gradient over architectures: whole cells are changed and scored, by a short training, by "
    "shared weights or by the table. The best cell ever seen is the result, not the best one alive.",
    "Real, Aggarwal, Huang, Le: Regularized Evolution for Image Classifier Architecture Search, AAAI 2019, "
    "algorithm 1; D-X-Y/AutoDL-Projects",
    (
        "10 cells alive and tournaments of 3, as the code of NAS-Bench-201; the paper has 100 and 25. The first 10 "
        "trials are random search.",
        "A change is another operation on an edge or another edge into a node, all of them equally likely.",
    ),
)


def evolution(
    score: Annotated[
        str,
        Choice("short", "shared", "table"),
        "How a cell is scored: trained for a short while, by weights that all cells share, or looked up (space nb3).",
    ] = "short",
    population: Annotated[int, Range(1, 10_000), "Cells alive; the paper has 100, the code of NAS-Bench-201 10."] = 10,
    tournament: Annotated[int, Range(1, 10_000), "Cells drawn to find a parent; the paper has 25."] = 3,
    trial_steps: Annotated[int, Range(1, 100_000), "Training steps of each cell, where it is trained."] = 20,
    trials: Annotated[int, Range(0, 1_000_000), "End after so many cells; 0: when the steps are spent."] = 0,
    score_images: Annotated[int, Range(1, 1_000_000), "Validation images that a score is measured on."] = 600,
    shared_part: Annotated[float, Range(0.01, 0.99), "Share of the steps that train the shared weights."] = 0.7,
) -> Baseline:
    """The best of a tournament is copied with one change."""
    propose = evolved(population, tournament)
    return Baseline(propose, score, trial_steps, trials, score_images, shared_part, population=population)
