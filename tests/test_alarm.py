"""The alarm of a collapse says why in numbers that can be worked out by hand."""

from __future__ import annotations

import math

import pytest
import small
import torch

from darts_core.events import Alarm, Epoch
from darts_core.search.bilevel import Search
from darts_core.tasks import VALIDATE_AT_MOST


def leaning(skip: float) -> Search:
    """A search in S2 (skip or sep_conv_3x3 on each edge) in which skip's logit is `skip` everywhere, the other's 0."""
    search = small.search(space="s2", nodes=2, reductions="none")
    with torch.no_grad():
        for kind, alpha in search.alphas.ops.items():
            alpha.zero_()
            alpha[:, search.space.cells[kind].ops.index("skip_connect")] = skip
    return search


def alarms(search: Search) -> list[Alarm]:
    return [event for event in search.end_epoch(1.0) if isinstance(event, Alarm)]


def remembered(loss: float, level: str = "healthy") -> dict[str, object]:
    return {"epoch": 0, "metrics": {"valid_loss": loss}, "probes": {}, "genotype": {}, "level": level}


@pytest.mark.parametrize("skip", [1.0, 2.0])
def test_the_alarm_counts_skips_weighs_them_and_says_how_far_the_loss_has_risen(skip: float) -> None:
    """All 4 derived edges (2 for each of 2 nodes) are skips, each weighing e^a / (e^a + 1): 73 % at 1, 88 % at 2."""
    search = leaning(skip)
    now = search.task.measure(search.net, search.read(), "arch", VALIDATE_AT_MOST)["loss"]
    search.history = [remembered(now - 0.31), remembered(now - 0.1)]
    (alarm,) = alarms(search)
    percent = round(100 * math.exp(skip) / (math.exp(skip) + 1))
    assert percent == {1.0: 73, 2.0: 88}[skip]
    assert alarm.level == "collapsed"
    assert alarm.reason == (
        f"4 of 4 derived edges are skip connections, mean weight {percent} %; "
        "the validation loss stands 0.31 above its minimum"
    )


def test_without_skips_and_without_a_change_for_the_worse_there_is_no_alarm() -> None:
    assert alarms(leaning(-1.0)) == []
    search = leaning(2.0)
    search.history = [remembered(9.0, "collapsed")]
    assert alarms(search) == [], "it was said when it became so"


def test_a_loss_at_its_minimum_stands_nothing_above_it() -> None:
    search = leaning(2.0)
    search.history = [remembered(99.0)]
    told = list(search.end_epoch(1.0))
    (alarm,) = [event for event in told if isinstance(event, Alarm)]
    (epoch,) = [event for event in told if isinstance(event, Epoch)]
    assert alarm.reason.endswith("the validation loss stands 0.00 above its minimum")
    assert (epoch.collapse["derived_skips"], epoch.collapse["derived_edges"]) == (4, 4)
    assert epoch.collapse["mean_skip_weight"] == pytest.approx(math.exp(2) / (math.exp(2) + 1), abs=1e-6)
