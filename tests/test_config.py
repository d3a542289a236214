"""Settings: presets are whole, every setting is described, and what does not fit is one sentence."""

from __future__ import annotations

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from darts_core.config import (
    PRESETS,
    SETTINGS,
    SearchConfig,
    catalogue,
    options_of,
    preset_named,
    settings_of,
    steerable,
)
from darts_core.errors import BadInput


@pytest.mark.parametrize("name", PRESETS)
def test_a_preset_survives_its_dict_and_json(name: str) -> None:
    config = preset_named(name).config()
    assert SearchConfig.from_dict(json.loads(json.dumps(config.to_dict()))) == config


def test_the_paper_preset_is_the_paper_s_setting() -> None:
    c = preset_named("paper").config()
    assert (c.channels, c.cells, c.batch, c.epochs, c.reduction_cells()) == (16, 8, 64, 50, (2, 5))
    assert (c.w_lr, c.w_lr_min, c.momentum, c.w_decay, c.clip) == (0.025, 0.001, 0.9, 3e-4, 5.0)
    assert (c.a_lr, c.a_beta1, c.a_beta2, c.a_decay, c.train_portion) == (3e-4, 0.5, 0.999, 1e-3, 0.5)


def test_the_learning_rate_is_the_original_one() -> None:
    from darts_core.search.rates import annealed

    paper = preset_named("paper").config()
    known = {
        0: 0.025,
        1: 0.0249763207,
        2: 0.0249053764,
        10: 0.0227082039,
        25: 0.013,
        40: 0.0032917961,
        49: 0.0010236793,
    }
    for epoch, rate in known.items():
        assert annealed(paper, epoch) == pytest.approx(rate, abs=5e-11)


def test_every_setting_has_a_sentence_a_default_in_range_and_a_name_of_its_own() -> None:
    for strategy in catalogue()["strategies"]:
        assert not set(SETTINGS) & set(options_of(strategy))
        for setting in settings_of(strategy).values():
            assert setting.doc.endswith(".") and setting.check(setting.default) == setting.default


def test_rates_decays_and_method_options_may_be_steered_and_layouts_may_not() -> None:
    found = steerable("darts")
    assert {"w_lr", "a_lr", "w_decay", "a_decay", "clip", "order", "temperature", "skip_dropout"} <= set(found)
    assert not {"channels", "space", "seed", "batch", "epochs"} & set(found)


@pytest.mark.parametrize(
    "changes, expected",
    [
        ({"chanels": 4}, "did you mean 'channels'"),
        ({"channels": 5}, "odd"),
        ({"cells": 2}, "thirds"),
        ({"w_lr": 0.0001}, "w_lr_min"),
        ({"epochs": "many"}, "whole number"),
        ({"epochs": 1.5}, "whole number"),
        ({"a_lr": float("nan")}, "not a number"),
        ({"a_lr": -1}, "out of range"),
        ({"augment": "perhaps"}, "true nor false"),
        ({"random_cells": 3}, "retrain_epochs"),
        ({"order": "third"}, "known: 1, 2, exact"),
        ({"strategy": "gdaz"}, "unknown strategy"),
        ({"path": "a\0b"}, "path"),
    ],
)
def test_what_does_not_fit_is_one_sentence(changes: dict[str, object], expected: str) -> None:
    with pytest.raises(BadInput, match=expected) as found:
        SearchConfig.from_dict(changes)
    assert "\n" not in str(found.value) and found.value.fix


JUNK = st.one_of(
    st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=8), st.lists(st.integers(), max_size=2)
)


@settings(max_examples=600, deadline=None)
@given(name=st.sampled_from([*settings_of("darts"), "nonsense"]), value=JUNK)
def test_any_value_for_any_setting_fits_or_is_refused(name: str, value: object) -> None:
    try:
        config = SearchConfig.from_dict({name: value})
    except BadInput as error:
        assert "\n" not in str(error)
    else:
        assert SearchConfig.from_dict(config.to_dict()) == config
