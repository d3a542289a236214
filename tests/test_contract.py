"""What every strategy in the registry promises, whatever it does inside."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch
from small import SMALL, config, task

from darts_core.config import SearchConfig, steerable
from darts_core.derive import derive
from darts_core.events import Applied, Epoch, Order, Result, Step, from_json, to_json
from darts_core.genotype import Genotype
from darts_core.nets.kernels import build
from darts_core.search.bilevel import Host, Search, Snapshot
from darts_core.search.method import _no_projection, strongest
from darts_core.search.state import State, from_bytes
from darts_core.strategies import STRATEGIES, method_of, strategy_named

# What makes a method work in a search of a few steps: every alpha moves from the first one on.
TINY: dict[str, dict[str, Any]] = {
    "pc-darts": {"share": 2, "rest": 0.0},
    "dr-nas": {"first": 2, "second": 1, "rest": 0.0},
    "p-darts": {"more_cells": 1, "rest": 0.0},
    "darts-plus": {"skips": 100},
    "darts-pt": {"nodes": 2},
    "robust-darts": {"every": 1, "factor": 100, "drop_path": 0.2},
    "proxyless": {"every": 1, "warm_up": 0.0, "backend": "reference"},
}
TIMES = {"seconds": 0.0}
METHODS = [name for name, entry in STRATEGIES.items() if not entry.baseline]
# `reference` and `fast` compute the same (test_equality.py); here every method runs on one, and DARTS on all.
WAYS = [*((name, "fast") for name in METHODS), ("darts", "compiled"), ("darts-minus", "compiled")]
ALL = pytest.mark.parametrize(("name", "backend"), WAYS, indirect=["backend"])
BILEVEL = pytest.mark.parametrize("name", METHODS)


@pytest.fixture
def backend(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """How the supernet is computed in this test."""
    monkeypatch.setitem(SMALL, "backend", request.param)
    monkeypatch.delenv(build.OFF, raising=False)
    if request.param == "compiled" and build.compiler() is None:
        pytest.skip("no C++ compiler on this machine")
    return request.param


def tiny(name: str, **changes: Any) -> SearchConfig:
    """Two epochs of two steps, unless said otherwise."""
    return config(strategy=name, **{"nodes": 1, "batch": 16, "arch_batch": 8, **TINY.get(name, {}), **changes})


def events(
    settings: SearchConfig, start: State | None = None, orders: dict[int, list[Order]] | None = None
) -> Iterator[Any]:
    given = dict(orders or {})
    host = Host(start, lambda step: given.pop(step, []))
    return strategy_named(settings.strategy)(task(settings, torch.float32), settings, host)


def plain(found: Iterator[Any]) -> list[Any]:
    """Events without wall-clock seconds, and states as bytes at the moment they pass."""
    return [
        ("snapshot", e.reason, e.state.to_bytes())
        if isinstance(e, Snapshot)
        else {**to_json(e), **TIMES}
        if isinstance(e, Epoch)
        else e
        for e in found
    ]


def steps_of(found: list[Any]) -> list[Step]:
    return [e for e in found if isinstance(e, Step)]


@ALL
def test_equal_seeds_give_equal_events_and_other_seeds_others(name: str, backend: str) -> None:
    one, two = (plain(events(tiny(name, epochs=1))) for _ in range(2))
    other = plain(events(tiny(name, epochs=1, seed=2)))
    assert one == two
    assert steps_of(one)[0].metrics["train_loss"] != steps_of(other)[0].metrics["train_loss"]


@ALL
def test_it_ends_with_a_valid_genotype_and_events_survive_json(name: str, backend: str) -> None:
    found = list(events(tiny(name, epochs=1)))
    assert isinstance(found[-1], Result) and not found[-1].stopped
    Genotype.from_json(found[-1].genotype)
    for event in found:
        if not isinstance(event, Step | Snapshot):
            assert from_json(to_json(event)) == event


def resumes_exactly(settings: SearchConfig) -> None:
    """From the state at every step, mid-epoch and between epochs, the rest is that of the search never stopped."""
    total = settings.epochs * 2
    asked = {k: [Order(f"c{k}", "checkpoint")] for k in range(1, total)}
    whole = plain(events(settings, orders=asked))
    steps, states = steps_of(whole), [e[2] for e in whole if isinstance(e, tuple)]
    assert len(steps) == total
    tried = 0
    for data in states[:-1]:
        state = from_bytes(data, "memory")
        if 0 < state.step < total:
            rest = plain(events(settings, start=state))
            assert steps_of(rest) == steps[state.step :], f"from step {state.step}, {state.index} into its epoch"
            assert [e[2] for e in rest if isinstance(e, tuple)][-1] == states[-1]
            tried += 1
    assert tried >= total - 1


@ALL
def test_resuming_equals_never_having_stopped_at_every_step(name: str, backend: str) -> None:
    resumes_exactly(tiny(name, epochs=3, w_decay=0.01, retrain_epochs=0))


@pytest.mark.parametrize("order", ["2", "exact"])
def test_second_order_searches_resume_exactly_at_every_step(order: str) -> None:
    resumes_exactly(tiny("darts", order=order, skip_dropout=0.3, w_decay=0.01))


PARTS = "sigmoid,zero-one,partial-channels,edge-norm,extra-skip,perturbed,drop-path,skip-dropout,beta"


def test_a_method_that_wears_many_parts_resumes_exactly_at_every_step() -> None:
    resumes_exactly(tiny("darts", parts=PARTS, **{"partial-channels.share": 2}))


@ALL
@pytest.mark.parametrize("piece", ["weights", "alphas", "w_optimiser", "a_optimiser", "a_steps", "settings", "index"])
def test_nothing_may_be_left_out_of_a_checkpoint(name: str, backend: str, piece: str) -> None:
    """The exactness test must notice each missing piece, else it proves nothing."""
    if name != "darts":
        pytest.skip("the loop saves, not the method: one is enough")
    settings = tiny(name, batch=8)
    steered = {1: [Order("a", "set", "w_lr", 0.2)]}
    steps = steps_of(list(events(settings, orders=dict(steered))))
    part = plain(events(settings, orders={**steered, 3: [Order("x", "interrupt")]}))
    state = from_bytes(part[-1][2], "memory")
    blank = {
        "weights": {k: torch.zeros_like(t) for k, t in state.weights.items()},
        "alphas": state.alphas.replaced([torch.zeros_like(a) for a in state.alphas.tensors()]),
        "w_optimiser": {k: torch.zeros_like(t) for k, t in state.w_optimiser.items()},
        "a_optimiser": {k: torch.zeros_like(t) for k, t in state.a_optimiser.items()},
        "a_steps": 1,
        "settings": settings.to_dict(),
        "index": 0,
    }
    setattr(state, piece, blank[piece])
    assert steps_of(list(events(settings, start=state))) != steps[3:]


@ALL
def test_orders_are_acknowledged_once_where_they_take_effect(name: str, backend: str) -> None:
    settings = tiny(name)
    orders = {2: [Order("a", "set", "a_lr", 0.5), Order("b", "set", "channels", 4), Order("c", "checkpoint")]}
    found = list(events(settings, orders=orders))
    answers = [e for e in found if isinstance(e, Applied)]
    assert [(a.id, a.step, a.accepted) for a in answers] == [("a", 2, True), ("b", 2, False), ("c", 2, True)]
    assert "steer" in answers[1].reason and "known" in answers[1].reason
    rates = [e.metrics["a_lr"] for e in steps_of(found)]
    assert rates[:2] == [0.1, 0.1] and set(rates[2:]) == {0.5}


@ALL
def test_every_steerable_setting_takes_its_default(name: str, backend: str) -> None:
    settings = tiny(name)
    orders = [Order(f"o{k}", "set", s.name, s.default) for k, s in enumerate(steerable(name).values())]
    answers = [e for e in events(settings, orders={1: orders}) if isinstance(e, Applied)]
    assert [a.accepted for a in answers] == [True] * len(orders), [a.reason for a in answers]


@ALL
def test_stop_derives_and_ends(name: str, backend: str) -> None:
    found = list(events(tiny(name), orders={3: [Order("s", "stop")]}))
    assert isinstance(found[-1], Result) and found[-1].stopped and found[-1].step == 3
    assert len(steps_of(found)) == 3


@ALL
def test_a_repeated_steered_run_is_identical(name: str, backend: str) -> None:
    settings = tiny(name)
    orders = {1: [Order("a", "set", "a_lr", 0.5)], 2: [Order("b", "set", "w_decay", 0.01)]}
    one, two = (plain(events(settings, orders=dict(orders))) for _ in range(2))
    assert one == two
    assert one != plain(events(settings))


@BILEVEL
def test_weights_move_in_weight_steps_only_and_alphas_in_architecture_steps_only(name: str) -> None:
    settings = tiny(name)
    search = Search(STRATEGIES[name].factory, task(settings), settings, Host())
    batch, numbers = search.task.batch("weights", 0, 0), {}
    snapshot = lambda: ([p.detach().clone() for p in search.params.values()], search.alphas.copied().tensors())  # noqa: E731
    weights, alphas = snapshot()
    search.architecture_step(batch, numbers)
    moved_weights, moved_alphas = snapshot()
    assert all(torch.equal(a, b) for a, b in zip(weights, moved_weights, strict=True))
    assert not any(torch.equal(a, b) for a, b in zip(alphas, moved_alphas, strict=True))
    search.weight_step(batch, numbers)
    later_weights, later_alphas = snapshot()
    assert all(torch.equal(a, b) for a, b in zip(moved_alphas, later_alphas, strict=True))
    assert not all(torch.equal(a, b) for a, b in zip(moved_weights, later_weights, strict=True))


@BILEVEL
def test_probes_leave_no_trace(name: str) -> None:
    """With and without the eigenvalue the search takes the same course, to the last bit."""
    one = steps_of(list(events(tiny(name, hessian_every=0))))
    two = list(events(tiny(name, hessian_every=1)))
    assert steps_of(two) == one
    assert all(np.isfinite(e.probes["eigenvalue"]) for e in two if isinstance(e, Epoch))


@ALL
def test_one_epoch_and_a_batch_of_one_work(name: str, backend: str) -> None:
    found = list(events(tiny(name, epochs=1, batch=1, arch_batch=1, train_portion=0.1)))
    assert isinstance(found[-1], Result)


@BILEVEL
def test_shown_and_derived_mix_is_the_same(name: str) -> None:
    """Where the cell is read off the mix by the paper's rule: from the record alone comes the cell of the result."""
    settings = tiny(name, epochs=1)
    method = method_of(settings)
    if method.derive is not strongest or method.project is not _no_projection:
        pytest.skip("this method derives by a rule of its own")
    found = list(events(settings))
    assert derive(settings.search_space(), steps_of(found)[-1].mix).to_json() == found[-1].genotype
