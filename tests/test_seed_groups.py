"""Which runs make one picture of several seeds."""

from __future__ import annotations

from typing import Any

from darts_core.view.compare import seed_groups


def info(seed: int, created: float, **settings: Any) -> dict[str, Any]:
    return {
        "config": {"seed": seed, "epochs": 2, **settings},
        "space": {},
        "parent": None,
        "seed": seed,
        "created": created,
    }


def test_a_seed_run_twice_counts_once_and_the_newest_stands_for_it() -> None:
    infos = {"a": info(0, 1.0), "b": info(1, 2.0), "again": info(0, 3.0)}
    assert list(seed_groups(infos).values()) == [["again", "b"]]


def test_repeats_of_one_seed_are_no_several_seeds() -> None:
    assert seed_groups({"a": info(0, 1.0), "again": info(0, 2.0)}) == {}


def test_other_settings_are_another_group() -> None:
    infos = {"a": info(0, 1.0), "b": info(1, 2.0), "c": info(2, 3.0, epochs=3)}
    assert list(seed_groups(infos).values()) == [["a", "b"]]
