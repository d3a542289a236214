"""Events and orders: what is written is read back, and anything else is refused with the name of the field."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from darts_core import io
from darts_core.errors import BadInput
from darts_core.events import (
    KINDS,
    TYPES,
    Alarm,
    Applied,
    Checkpoint,
    Epoch,
    Failure,
    Finished,
    Interrupted,
    Line,
    Order,
    Phase,
    Result,
    Resumed,
    Rewound,
    Sample,
    StageStarted,
    Step,
    Trained,
    from_json,
    new_order,
    order_json,
    parse_order,
    to_json,
)

LEVEL = {"derived_skips": 1, "derived_edges": 8, "mean_skip_weight": 0.2, "level": "healthy"}
EXAMPLES: list[Line] = [
    Epoch(3, 400, {"val_loss": 1.5}, {"entropy": 0.4}, {"space": "tiny"}, LEVEL, 2.5),
    StageStarted(1, 400, "the first stage is over"),
    Phase("data", "reading digits"),
    Phase("search", "searching", 1200),
    Checkpoint(3, 400, "e0003.safetensors", "ab" * 32, 1000),
    Applied("abc", 401, "set", "w_lr", 0.01, True, "", 3),
    Applied("abd", 401, "set", "seed", True, False, "seed cannot change"),
    Rewound(500, 4, 3, {"w_decay": 0.003}),
    Alarm(500, 4, "collapsed", "7 of 8 derived edges are skip connections"),
    Resumed(400, 3, "e0003.safetensors", None, "went on from step 400"),
    Resumed(400, 3, "e0003.safetensors", False, "not bit-identical from step 412"),
    Trained("random", 2, 7, {"space": "tiny"}, 0.91, None, 10_000, 3.5, 2, {"loss": 0.3}),
    Trained("supernet", 0, 7, None, 0.5),
    Result(1200, 10, {"space": "tiny"}, {"val_accuracy": 0.9}, False),
    Finished("stopped", 1200, {"accuracy": 0.9, "note": None}),
    Interrupted(77, "Ctrl-C"),
    Failure(812, "loss became NaN at step 812", "Traceback ..."),
    Sample(500, 4, "the cat sleeps"),
]


@pytest.mark.parametrize("event", EXAMPLES, ids=lambda event: type(event).__name__)
def test_an_event_survives_json_with_and_without_its_stamps(event: Line) -> None:
    data = io.loads(io.dumps(to_json(event)).encode(), "x")
    assert from_json(data) == event
    assert from_json({**data, "n": 3, "time": 1.5}) == event


def test_every_type_of_line_has_an_example_and_a_name_in_snake_case() -> None:
    assert {type(event) for event in EXAMPLES} == set(TYPES.values())
    assert TYPES["stage_started"] is StageStarted and TYPES["epoch"] is Epoch


@pytest.mark.parametrize("event", EXAMPLES, ids=lambda event: type(event).__name__)
def test_a_missing_a_strange_and_a_wrong_field_are_named(event: Line) -> None:
    data = to_json(event)
    optional = {
        f.name for f in dataclasses.fields(event) if f.default is not dataclasses.MISSING or f.name == "metrics"
    }
    for key in data:
        if key not in optional:
            with pytest.raises(BadInput) as caught:
                from_json({k: v for k, v in data.items() if k != key}, "events.jsonl, line 3")
            assert caught.value.where == "events.jsonl, line 3" and key in str(caught.value)
        with pytest.raises(BadInput, match=key):
            from_json({**data, key: object()})
        with pytest.raises(BadInput, match="unknown"):
            from_json({**data, key + "s": 1})


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"epoch": True}, "True is not a whole number"),
        ({"epoch": 1.5}, "1.5 is not a whole number"),
        ({"seconds": "1"}, "'1' is not a number"),
        ({"metrics": {"a": None}}, "is not a table of numbers"),
        ({"metrics": []}, "is not a table of numbers"),
        ({"type": "epok"}, "did you mean 'epoch'"),
        ({"type": None}, "unknown type None"),
        ({"stepp": 1}, "unknown key 'stepp'; did you mean 'step'"),
    ],
)
def test_a_wrong_value_is_said_in_words(change: dict[str, Any], said: str) -> None:
    with pytest.raises(BadInput, match=said):
        from_json({**to_json(EXAMPLES[0]), **change})


def test_roles_and_endings_come_from_closed_lists() -> None:
    with pytest.raises(BadInput, match="one of derived, random, pruned, supernet"):
        from_json({**to_json(EXAMPLES[11]), "role": "best"})
    with pytest.raises(BadInput, match="one of finished, stopped"):
        from_json({**to_json(EXAMPLES[14]), "state": "done"})


@settings(max_examples=300, deadline=None, suppress_health_check=(HealthCheck.too_slow, HealthCheck.data_too_large))
@given(
    st.sampled_from(EXAMPLES),
    st.data(),
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5) | st.lists(st.integers(), max_size=2)
    | st.dictionaries(st.text(max_size=3), st.integers(), max_size=2),
)  # fmt: skip
def test_a_mutated_event_is_an_event_or_bad_input(event: Line, data: Any, value: Any) -> None:
    line = to_json(event)
    line[data.draw(st.sampled_from([*line, "n", "x"]))] = value
    try:
        again = from_json(line)
    except BadInput as error:
        assert "\n" not in str(error)
    else:
        assert from_json(to_json(again)) == again or value != value  # NaN


def test_steps_are_equal_when_their_numbers_are() -> None:
    table = {"normal": np.ones((2, 3), np.float32)}
    first = Step(1, 0, 0, 1, {"a": float("nan")}, table, table)

    def step(**change: Any) -> Step:
        return dataclasses.replace(first, **change)

    assert step() == step(alphas={"normal": np.ones((2, 3), np.float32)})
    for change in ({"step": 2}, {"flags": 0}, {"metrics": {"a": 1.0}}, {"metrics": {}}, {"mix": {}}):
        assert step() != step(**change)
    assert step() != step(alphas={"normal": np.zeros((2, 3), np.float32)})
    assert step() != "a step"


# Orders -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
def test_an_order_survives_json(kind: str) -> None:
    about = {"set": ("w_lr", 0.5), "pin": ("normal-0-2", "skip_connect"), "ban": ("normal-0-2", "skip_connect")}
    order = new_order(kind, *about.get(kind, ("normal-0-2",) if kind == "reset" else ()))
    assert parse_order(io.loads(io.dumps(order_json(order)).encode(), "x")) == order
    assert order.id != new_order("pause").id and order.time > 1e9


GOOD = {"id": "abc", "kind": "set", "name": "w_lr", "value": 1.0, "time": 1.0}


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"id": ""}, "identifier"),
        ({"id": "../x"}, "identifier"),
        ({"id": 3}, "identifier"),
        ({"id": "a" * 65}, "identifier"),
        ({"kind": "sett"}, "unknown order 'sett'; did you mean 'set'"),
        ({"kind": ["set"]}, "unknown order"),
        ({"kind": "pause"}, "pause takes no setting"),
        ({"name": None}, "no setting is named"),
        ({"name": "a b"}, "no setting is named"),
        ({"value": [1]}, "no number or short text"),
        ({"value": "x" * 201}, "no number or short text"),
        ({"time": "now"}, "seconds"),
        ({"extra": 1}, "unknown key 'extra'"),
    ],
)
def test_a_wrong_order_is_refused_with_its_field(change: dict[str, Any], said: str) -> None:
    assert parse_order(GOOD) == Order("abc", "set", "w_lr", 1.0, 1.0)
    with pytest.raises(BadInput, match=said):
        parse_order({**GOOD, **change})


@pytest.mark.parametrize("data", [None, [], 3, "pause", {}, {"id": "a"}])
def test_what_is_no_order_is_refused(data: Any) -> None:
    with pytest.raises(BadInput):
        parse_order(data)
