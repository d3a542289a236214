"""REINFORCE (Williams 1992; Zoph and Le 2017): a controller draws cells, and what scored well becomes more likely.

The controller is a table of logits, one per edge and operation, as in the code of NAS-Bench-201, or the LSTM of ENAS.
"""

from __future__ import annotations

from typing import Annotated

from darts_core.baselines.propose import sampled
from darts_core.baselines.trials import Baseline
from darts_core.card import Card
from darts_core.search.option import Choice, Range

CARD = Card(
    "REINFORCE",
    "theta moves along (R - b) grad log p_theta(cell);  R: the score of a drawn cell, b: a running mean of R",
    "A distribution over whole cells is learned from their scores alone; no gradient passes through a supernet.",
    "Williams: REINFORCE, 1992; Zoph, Le: Neural Architecture Search with Reinforcement Learning, ICLR 2017; the LSTM: "
    "Pham et al.: ENAS, ICML 2018; D-X-Y/AutoDL-Projects, melodyguan/enas",
    (
        "The table learns at 0.1, a hundred times faster than in the code (0.001), for it has few trials here. Its "
        "mean reward has heard the present reward, as in the code.",
        "The LSTM draws the sources of a node in rising order, so that a cell has one probability; its code's fixed "
        "preference for the first two operations is left out.",
    ),
)

RATES = {"table": 0.1, "lstm": 0.0035}  # the second is that of ENAS


def reinforce(
    score: Annotated[
        str,
        Choice("short", "shared", "table"),
        "How a cell is scored: trained for a short while, by weights that all cells share, or looked up (space nb3).",
    ] = "short",
    controller: Annotated[
        str, Choice("table", "lstm"), "Who draws: a table of logits for each edge, or the LSTM of ENAS."
    ] = "table",
    rate: Annotated[
        float, Range(0, 10), "Learning rate of the controller (Adam); 0: 0.1 for the table, 0.0035 for the LSTM."
    ] = 0.0,
    baseline: Annotated[
        float, Range(0, 0.9999), "How slowly the mean reward moves that a reward is held against (ENAS: 0.99)."
    ] = 0.9,
    samples: Annotated[int, Range(1, 1000), "Cells drawn for each step of the controller (ENAS: 10)."] = 1,
    bound: Annotated[
        float, Range(0.01, 100), "Of the LSTM: largest logit of a source, 2.5 times that of operations."
    ] = 1.1,
    entropy: Annotated[float, Range(0, 100), "Of the LSTM: weight of its entropy in the reward (ENAS: 0.0001)."] = 1e-4,
    trial_steps: Annotated[int, Range(1, 100_000), "Training steps of each cell, where it is trained."] = 20,
    trials: Annotated[int, Range(0, 1_000_000), "End after so many cells; 0: when the steps are spent."] = 0,
    score_images: Annotated[int, Range(1, 1_000_000), "Validation images that a score is measured on."] = 600,
    shared_part: Annotated[float, Range(0.01, 0.99), "Share of the steps that train the shared weights."] = 0.7,
) -> Baseline:
    """A policy that is moved along reward times grad log p."""
    return Baseline(
        sampled, score, trial_steps, trials, score_images, shared_part, rate=rate or RATES[controller],
        baseline=baseline, samples=samples, bound=bound if controller == "lstm" else 0.0, entropy=entropy,
        population=20 if controller == "lstm" else 0,
    )  # fmt: skip
