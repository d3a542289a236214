"""What every strategy in the registry promises, whatever it does inside."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch
from small import SMALL, config, task

from darts_core.config import SearchConfig, steerable
from darts_core.events import Applied, Epoch, Order, Result, Step, from_json, to_json
from darts_core.genotype import Genotype
from darts_core.nets.kernels import build
from darts_core.search.bilevel import Host, Search, Snapshot
from darts_core.search.state import State, from_bytes
from darts_core.strategies import STRATEGIES, strategy_named

ALL = pytest.mark.parametrize("name", [name for name, entry in STRATEGIES.items() if not entry.baseline])
TIMES = {"seconds": 0.0}


@pytest.fixture(autouse=True, params=["fast", "compiled"])
def backend(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Everything holds for every way of computing the supernet."""
    monkeypatch.setitem(SMALL, "backend", request.param)
    monkeypatch.delenv(build.OFF, raising=False)
    if request.param == "compiled" and build.compiler() is None:
        pytest.skip("no C++ compiler on this machine")


def events(
    settings: SearchConfig, start: State | None = None, orders: dict[int, list[Order]] | None = None
) -> Iterator[Any]:
    given = dict(orders or {})
    host = Host(start, lambda step: given.pop(step, []))
    return strategy_named(settings.strategy)(task(settings, torch.float32), settings, host)


def comparable(found: list[Any]) -> list[Any]:
    """Events without wall-clock seconds; snapshots as their bytes."""
    return [
        e.state.to_bytes() if isinstance(e, Snapshot) else {**to_json(e), **TIMES} if isinstance(e, Epoch) else e
        for e in found
    ]


def frozen(found: Iterator[Any]) -> list[Any]:
    """Events as they pass, states as bytes at that moment."""
    return [("snapshot", e.reason, e.state.to_bytes()) if isinstance(e, Snapshot) else e for e in found]


@ALL
def test_equal_seeds_give_equal_events(name: str) -> None:
    one, two = (comparable(list(events(config(strategy=name, epochs=1)))) for _ in range(2))
    assert one == two


@ALL
def test_another_seed_gives_other_events(name: str) -> None:
    one, two = ([e for e in events(config(strategy=name, epochs=1, seed=s)) if isinstance(e, Step)] for s in (1, 2))
    assert one[0].metrics["train_loss"] != two[0].metrics["train_loss"]


@ALL
def test_it_ends_with_a_valid_genotype_and_events_survive_json(name: str) -> None:
    found = list(events(config(strategy=name, epochs=1)))
    assert isinstance(found[-1], Result) and not found[-1].stopped
    Genotype.from_json(found[-1].genotype)
    for event in found:
        if not isinstance(event, Step | Snapshot):
            assert from_json(to_json(event)) == event


@ALL
@pytest.mark.parametrize("order", ["1", "2", "exact"])
def test_resuming_equals_never_having_stopped_at_every_step(name: str, order: str) -> None:
    settings = config(strategy=name, order=order, skip_dropout=0.3, w_decay=0.01)
    whole = frozen(events(settings))
    steps = [e for e in whole if isinstance(e, Step)]
    end = [e[2] for e in whole if isinstance(e, tuple)][-1]
    for at in range(1, len(steps)):
        part = frozen(events(settings, orders={at: [Order("x", "interrupt")]}))
        state = from_bytes(part[-1][2], "memory")
        assert part[-1][1] == "interrupt" and state.step == at
        rest = frozen(events(settings, start=state))
        assert [e for e in rest if isinstance(e, Step)] == steps[at:]
        assert [e[2] for e in rest if isinstance(e, tuple)][-1] == end


@ALL
@pytest.mark.parametrize("piece", ["weights", "alphas", "w_optimiser", "a_optimiser", "a_steps", "settings", "index"])
def test_nothing_may_be_left_out_of_a_checkpoint(name: str, piece: str) -> None:
    """The exactness test must notice each missing piece, else it proves nothing."""
    settings = config(strategy=name)
    steered = {1: [Order("a", "set", "w_lr", 0.2)]}
    steps = [e for e in events(settings, orders=dict(steered)) if isinstance(e, Step)]
    part = frozen(events(settings, orders={**steered, 3: [Order("x", "interrupt")]}))
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
    assert [e for e in events(settings, start=state) if isinstance(e, Step)] != steps[3:]


@ALL
def test_orders_are_acknowledged_once_where_they_take_effect(name: str) -> None:
    settings = config(strategy=name)
    orders = {2: [Order("a", "set", "a_lr", 0.5), Order("b", "set", "channels", 4), Order("c", "checkpoint")]}
    found = list(events(settings, orders=orders))
    answers = [e for e in found if isinstance(e, Applied)]
    assert [(a.id, a.step, a.accepted) for a in answers] == [("a", 2, True), ("b", 2, False), ("c", 2, True)]
    assert "steer" in answers[1].reason and "known" in answers[1].reason
    rates = [e.metrics["a_lr"] for e in found if isinstance(e, Step)]
    assert rates[:2] == [0.1, 0.1] and set(rates[2:]) == {0.5}


@ALL
def test_every_steerable_setting_takes_its_default(name: str) -> None:
    settings = config(strategy=name)
    orders = [Order(f"o{k}", "set", s.name, s.default) for k, s in enumerate(steerable(name).values())]
    answers = [e for e in events(settings, orders={1: orders}) if isinstance(e, Applied)]
    assert [a.accepted for a in answers] == [True] * len(orders), [a.reason for a in answers]


@ALL
def test_stop_derives_and_ends(name: str) -> None:
    found = list(events(config(strategy=name), orders={3: [Order("s", "stop")]}))
    assert isinstance(found[-1], Result) and found[-1].stopped and found[-1].step == 3
    assert sum(isinstance(e, Step) for e in found) == 3


@ALL
def test_a_repeated_steered_run_is_identical(name: str) -> None:
    settings = config(strategy=name)
    orders = {2: [Order("a", "set", "a_lr", 0.5)], 5: [Order("b", "set", "w_decay", 0.01)]}
    one, two = (comparable(list(events(settings, orders=dict(orders)))) for _ in range(2))
    assert one == two
    assert one != comparable(list(events(settings)))


@ALL
def test_weights_move_in_weight_steps_only_and_alphas_in_architecture_steps_only(name: str) -> None:
    settings = config(strategy=name)
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


@ALL
def test_probes_leave_no_trace(name: str) -> None:
    """With and without the eigenvalue the search takes the same course, to the last bit."""
    one = [e for e in events(config(strategy=name, hessian_every=0)) if isinstance(e, Step)]
    two = list(events(config(strategy=name, hessian_every=1)))
    assert [e for e in two if isinstance(e, Step)] == one
    assert all(np.isfinite(e.probes["eigenvalue"]) for e in two if isinstance(e, Epoch))


@ALL
def test_one_epoch_and_a_batch_of_one_work(name: str) -> None:
    settings = config(strategy=name, epochs=1, batch=1, arch_batch=1, train_portion=0.1)
    found = list(events(settings))
    assert isinstance(found[-1], Result)


@ALL
def test_shown_and_derived_mix_is_the_same(name: str) -> None:
    from darts_core.derive import derive

    settings = config(strategy=name, epochs=1)
    found = list(events(settings))
    last = [e for e in found if isinstance(e, Step)][-1]
    assert derive(settings.search_space(), last.mix).to_json() == found[-1].genotype
