"""The learning rate of the weights: the cosine of DARTS and the cosine power annealing of sharpDARTS."""

from __future__ import annotations

import math
from typing import Any

import pytest
from small import config as small
from small import task

from darts_core.config import SearchConfig
from darts_core.errors import BadInput
from darts_core.events import Step
from darts_core.search.bilevel import Host
from darts_core.search.rates import annealed, cosine_power
from darts_core.strategies import strategy_named


def rates(**changes: Any) -> list[float]:
    config = SearchConfig.from_dict(changes)
    return [annealed(config, epoch) for epoch in range(config.epochs)]


def test_two_epochs_by_hand() -> None:
    """N = 4, p = 4: c = (1 + cos(e pi/4)) / 2 at e = 1 ... 4; r = 4^(c + 1); the first is 1, the last 0."""
    c = [(1 + x) / 2 for x in (math.sqrt(0.5), 0.0, -math.sqrt(0.5), -1.0)]
    assert c[1] == 0.5 and c[3] == 0
    second = (4**1.5 - 4) / (4 ** (c[0] + 1) - 4)  # 4^1.5 = 8
    assert cosine_power(4, 4) == pytest.approx([1, second, (4 ** (c[2] + 1) - 4) / (4 ** (c[0] + 1) - 4), 0])
    assert second == pytest.approx(4 / (4 * 4 ** c[0] - 4))


@pytest.mark.parametrize(
    "settings, expected",
    [
        (
            {"w_lr": 0.1, "w_lr_min": 1e-4, "w_power": 10, "epochs": 10},
            [0.1, 0.083146194, 0.061815357, 0.041627379, 0.025657147, 0.014467853, 0.007278469, 0.003006709,
             0.000785133, 0.0001],
        ),
        (
            {"w_lr": 0.025, "w_lr_min": 1e-4, "w_power": 2, "epochs": 10},
            [0.025, 0.022566215, 0.019006264, 0.014892175, 0.010772944, 0.007072069, 0.00405704, 0.001863203,
             0.000540797, 0.0001],
        ),
        (
            {"w_lr": 0.1, "w_lr_min": 1e-4, "w_power": 10, "w_rise": 3, "epochs": 10},
            [0.025075, 0.05005, 0.075025, 0.1, 0.060956144, 0.034350643, 0.016168303, 0.00612293, 0.00144052, 0.0001],
        ),
    ],
)  # fmt: skip
def test_the_rates_are_those_of_the_released_code(settings: dict[str, Any], expected: list[float]) -> None:
    """Numbers that the code of sharpDARTS gives."""
    assert rates(**settings) == pytest.approx(expected, abs=5e-10)


def test_the_published_search_has_the_rates_of_the_released_code() -> None:
    found = rates(w_lr=0.025, w_lr_min=1e-4, w_power=2, w_rise=5, epochs=120)
    first = [0.00425, 0.0084, 0.01255, 0.0167, 0.02085, 0.025, 0.024974252, 0.024942104]
    assert found[:8] == pytest.approx(first, abs=5e-10) and found[60] == pytest.approx(0.010917439, abs=5e-10)
    assert found[-3:] == pytest.approx([0.000112881, 0.00010322, 0.0001], abs=5e-10)


def test_order_one_is_a_cosine_and_higher_orders_fall_sooner() -> None:
    turn = [(1 + math.cos(math.pi * e / 20)) / 2 for e in range(1, 21)]
    assert cosine_power(20, 1) == pytest.approx([c / turn[0] for c in turn])
    for e in range(1, 19):
        assert cosine_power(20, 1)[e] > cosine_power(20, 2)[e] > cosine_power(20, 10)[e]


def test_one_epoch_has_the_highest_rate() -> None:
    assert rates(w_power=2, epochs=1) == [0.025]


def test_a_search_learns_at_these_rates_and_its_order_may_be_steered() -> None:
    settings = small(epochs=3, w_lr=0.2, w_lr_min=0.0, w_power=2, w_rise=1)
    steps = [e for e in strategy_named("darts")(task(settings), settings, Host()) if isinstance(e, Step)]
    per_epoch = {step.epoch: step.metrics["w_lr"] for step in steps}
    assert list(per_epoch.values()) == pytest.approx([0.1, 0.2, 0.0])


@pytest.mark.parametrize(
    "changes, expected",
    [
        ({"w_power": 0.5}, "0.5 is below 1"),
        ({"w_rise": 3}, "w_rise: needs cosine power annealing"),
        ({"w_power": 2, "w_rise": 50}, "50 epochs leave none to fall in"),
    ],
)
def test_what_makes_no_schedule_is_one_sentence(changes: dict[str, Any], expected: str) -> None:
    with pytest.raises(BadInput, match=expected):
        SearchConfig.from_dict(changes)
