"""The learning rate of the weights, epoch by epoch, as closed forms: nothing is kept, so nothing is forgotten.

DARTS falls along a cosine. sharpDARTS (Hundt, Jain, Hager 2019) falls along a power of one, after a straight rise:

    c(e) = (1 + cos(pi e / N)) / 2,   r(e) = p^(c(e) + 1),   brought to 0 ... 1 over all epochs,   e = 1 ... N
"""

from __future__ import annotations

import math
from functools import lru_cache

from darts_core.config import SearchConfig


def annealed(config: SearchConfig, epoch: int, epochs: int = 0, part: float = 1.0) -> float:
    """The weights' rate in `epoch` (0-based) of `epochs` (0: of the settings), from `part` of w_lr on; the same for all
    steps of an epoch.

    Without `w_power` the cosine of DARTS, as the original's schedule under the torch of its day: it begins at w_lr and
    does not quite reach w_lr_min. With it cosine power annealing, which ends at w_lr_min.
    """
    count = epochs or config.epochs
    if config.w_power:
        share = cosine_power(count, config.w_power, min(config.w_rise, count - 1))[epoch]
    else:
        share = (1 + math.cos(math.pi * epoch / count)) / 2
    top = part * config.w_lr
    low = min(config.w_lr_min, top)
    return low + (top - low) * share


@lru_cache(maxsize=64)
def cosine_power(epochs: int, power: float, rise: int = 0) -> tuple[float, ...]:
    """Per epoch the share of the way from the lowest rate (0) to the highest (1), as the code of sharpDARTS.

    With `rise` = W the curve is that of the last N - W epochs, and epochs 1 to W + 1 are e / (W + 1) instead: the top
    is reached in epoch W + 1. Lowest and highest are taken before that, over the shifted curve.

    Args:
        power: p, at least 1; 1 is a plain cosine.
        rise: less than `epochs`.
    """
    if epochs == 1:
        return (1.0,)
    numbers = range(1, epochs + 1)
    turns = [(1 + math.cos(math.pi * (e - rise) / (epochs - rise))) / 2 for e in numbers]
    raised = turns if power == 1 else [power ** (c + 1) for c in turns]
    low = min(raised)
    top = max(raised) - low
    shares = [(r - low) / top for r in raised]
    return tuple(e / (rise + 1) if rise and e <= rise + 1 else share for e, share in zip(numbers, shares, strict=True))
