"""The cost of a search before it starts: timed, scaled, and said."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from app.live.price import words
from darts_core import io
from darts_core.__main__ import main
from darts_core.calibrate import calibrate
from darts_core.config import SearchConfig
from darts_core.errors import BadInput
from darts_core.estimate import Estimate, Measured, estimate, key_of

CONFIG = SearchConfig.from_dict(
    {"dataset": "digits", "space": "tiny", "cells": 3, "reductions": "middle", "channels": 4, "stem_multiplier": 1,
     "stem_stride": 2, "batch": 20, "arch_batch": 20, "epochs": 3, "train_portion": 0.5, "threads": 1,
     "backend": "reference", "hessian_every": 0}
)  # fmt: skip
MEASURED = Measured(
    CONFIG.to_dict(), (1, 8, 8, 10, 1200, 597), 0.01, 0.2, 0.0, 0.0, 3.0, 500, 400, 10_000, "cpu", "fast"
)


def of(config: SearchConfig, measured: Measured = MEASURED) -> Estimate:
    found = estimate(config, measured)
    assert found is not None
    return found


def test_the_whole_is_the_sum_of_its_parts() -> None:
    """30 steps of 10 ms and 0.2 s of validation per epoch, three epochs, 3 s to start."""
    found = of(CONFIG)
    assert not found.scaled and found.step == 0.01
    assert found.epoch == pytest.approx(30 * 0.01 + 0.2) and found.total == pytest.approx(3 + 3 * found.epoch)
    assert found.memory == 500


def test_more_epochs_take_longer_in_proportion_and_more_channels_more_than_that() -> None:
    longer, wider = of(CONFIG.with_(epochs=30)), of(CONFIG.with_(channels=8))
    assert longer.total - 3 == pytest.approx(10 * (of(CONFIG).total - 3)) and not longer.scaled
    assert wider.scaled and 2 < wider.step / 0.01 < 4, "1x1 convolutions grow with the square, depthwise ones linearly"
    assert wider.memory > 2 * 100 + 400


def test_larger_batches_make_fewer_and_longer_steps() -> None:
    found = of(CONFIG.with_(batch=40, arch_batch=40))
    assert found.step == pytest.approx(0.02) and found.epoch == pytest.approx(15 * 0.02 + 0.2)


def test_a_pace_is_the_least_time_of_a_step_and_training_afterwards_is_counted() -> None:
    assert of(CONFIG.with_(pace=5.0)).epoch == pytest.approx(30 / 5 + 0.2)
    settings = CONFIG.with_(retrain_epochs=2, random_cells=3)
    found = of(settings, replace(MEASURED, config=settings.to_dict(), retrain=0.005))
    assert found.total == pytest.approx(of(CONFIG).total + 2 * (3 + 3) * 60 * 0.005)


def test_what_will_not_fit_is_known_before() -> None:
    assert of(CONFIG).fits
    assert not of(CONFIG.with_(batch=6000, arch_batch=6000)).fits
    assert replace(of(CONFIG), available=0).fits, "nothing is said where the system does not say what is free"


def test_settings_that_change_the_way_of_computing_are_not_scaled_into_one_another() -> None:
    same = [CONFIG.with_(channels=16), CONFIG.with_(epochs=9, batch=8, pace=3.0), CONFIG.with_(seed=4)]
    other = [
        CONFIG.with_(order="2"),
        CONFIG.with_(space="darts"),
        CONFIG.with_(backend="fast"),
        CONFIG.with_(resize=16),
    ]
    assert {key_of(config) for config in same} == {key_of(CONFIG)}
    assert key_of(CONFIG) not in {key_of(config) for config in other}


def test_a_calibration_times_real_steps_and_survives_json() -> None:
    found = calibrate(CONFIG.with_(hessian_every=2, hessian_batch=8, retrain_epochs=1))
    assert found.step > 0 and found.measure > 0 and found.hessian > 0 and found.retrain > 0
    assert found.memory >= found.resident > 50e6 and found.backend == "reference"
    assert Measured.from_json(json.loads(json.dumps(found.to_json()))) == found
    with pytest.raises(BadInput):
        Measured.from_json({"step": 1})


def test_a_huge_batch_is_timed_on_fewer_images_and_scaled() -> None:
    """A step of 8,192 images would take minutes: it is not made."""
    small, large = calibrate(CONFIG), calibrate(CONFIG.with_(batch=8192, arch_batch=8192, channels=16))
    assert large.step > 20 * small.step


def test_a_method_without_steps_says_so(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["cost", "--preset", "tiny", "--set", "strategy=random"])
    assert ended.value.code == 2 and "no steps that could be timed" in capsys.readouterr().err


def test_free_memory_is_known_on_linux() -> None:
    assert not Path("/proc/meminfo").exists() or io.memory_available() > 10e6


def test_a_price_is_said_in_a_sentence() -> None:
    said = words(Estimate(0.012, 3.1, 62.4, 640e6, 1e10, True))
    assert said.startswith(
        "About 62 s here: 3.1 s an epoch, 12 ms a step, 640 MB of memory; scaled from other settings"
    )
