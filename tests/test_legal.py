"""Pin, ban and reset: what an edge may hold, in every method and way of computing, resumed and repeated exactly."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from small import SMALL, config, task

from darts_core.__main__ import main
from darts_core.config import SearchConfig
from darts_core.drive import branch, drive, new_run
from darts_core.errors import BadInput
from darts_core.events import Applied, Order, Step, new_order, order_json, order_words, parse_order
from darts_core.legal import edge_name, edge_named, row_after
from darts_core.nets.kernels import build
from darts_core.optimise import Adam
from darts_core.runs import RunReader
from darts_core.search.bilevel import Host, Snapshot
from darts_core.search.state import State, from_bytes
from darts_core.space import space_named
from darts_core.strategies import STRATEGIES, strategy_named

ALL = pytest.mark.parametrize("name", [name for name, entry in STRATEGIES.items() if not entry.baseline])
SPACE = space_named("darts", 2)
CELL = SPACE.cells["normal"]
PIN = Order("pin", "pin", "normal-0-2", "skip_connect")
BAN = Order("ban", "ban", "normal-1-3", "max_pool_3x3")
RESET = Order("reset", "reset", "normal-0-2")
EIGHT = {"epochs": 1, "batch": 4, "arch_batch": 4, "channels": 4}  # eight steps before any method may stop by itself


def row(*ops: str) -> np.ndarray:
    return np.array([op in ops for op in CELL.ops])


# The rule --------------------------------------------------------------------------------------------------


def test_names_of_edges_are_read_back_and_others_refused() -> None:
    for kind, cell in SPACE.cells.items():
        for index, edge in enumerate(cell.edges):
            assert edge_named(SPACE, edge_name(kind, edge)) == (kind, index)
    for bad in ("normal-0-1", "reduced-0-2", "normal", "", None, 3, "normal-0-2-3"):
        with pytest.raises(BadInput, match="edge"):
            edge_named(SPACE, bad)


def test_pin_leaves_one_ban_takes_one_reset_gives_all_back() -> None:
    every = np.ones(len(CELL.ops), bool)
    assert (row_after(CELL, 0, every, "pin", "skip_connect") == row("skip_connect")).all()
    banned = row_after(CELL, 0, every, "ban", "skip_connect")
    assert (banned == ~row("skip_connect")).all()
    assert (row_after(CELL, 0, banned, "ban", "sep_conv_3x3") == ~row("skip_connect", "sep_conv_3x3")).all()
    assert (row_after(CELL, 0, row("sep_conv_3x3"), "pin", "skip_connect") == row("skip_connect")).all()
    assert row_after(CELL, 0, banned, "reset").all()


@pytest.mark.parametrize(
    ("now", "order", "op", "said"),
    [
        (row("skip_connect"), "ban", "skip_connect", "without an operation"),
        (row("skip_connect", "none"), "ban", "skip_connect", "without an operation"),
        (row("skip_connect"), "pin", "none", "never holds none"),
        (row("skip_connect"), "pin", "conv_9x9", "unknown"),
        (row("skip_connect"), "ban", None, "unknown"),
    ],
)
def test_an_edge_never_ends_without_an_operation(now: np.ndarray, order: str, op: Any, said: str) -> None:
    with pytest.raises(BadInput, match=said):
        row_after(CELL, 0, now, order, op)


def test_the_space_has_the_last_word() -> None:
    legal = tuple(tuple(op != "skip_connect" for op in CELL.ops) for _ in CELL.edges)
    narrow = type(CELL)(CELL.inputs, CELL.nodes, CELL.ops, CELL.edges, legal, CELL.keep, CELL.output)
    now = narrow.legal_array()[0]
    with pytest.raises(BadInput, match="no operation of this edge"):
        row_after(narrow, 0, now, "pin", "skip_connect")
    assert (row_after(narrow, 0, row("sep_conv_3x3"), "reset") == now).all()


# Orders ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("order", [PIN, BAN, RESET])
def test_orders_about_edges_survive_their_file(order: Order) -> None:
    assert parse_order(order_json(order)) == order
    assert order.name and order.name in order_words(order.kind, order.name, order.value)


@pytest.mark.parametrize(
    ("kind", "name", "value"),
    [("pin", "normal-0-2", None), ("pin", None, "skip_connect"), ("ban", "normal-0-2", 3), ("reset", "normal-0-2", "x"),
     ("reset", None, None), ("ban", "../0-2", "skip_connect"), ("pin", "normal-0-2", "x" * 300)],
)  # fmt: skip
def test_half_an_order_is_refused(kind: str, name: Any, value: Any) -> None:
    with pytest.raises(BadInput):
        new_order(kind, name, value)


# In a search -----------------------------------------------------------------------------------------------


@pytest.fixture(params=["reference", "fast", "compiled"])
def backend(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setitem(SMALL, "backend", request.param)
    monkeypatch.delenv(build.OFF, raising=False)
    if request.param == "compiled" and build.compiler() is None:
        pytest.skip("no C++ compiler on this machine")
    return request.param


def events(settings: SearchConfig, orders: dict[int, list[Order]], start: State | None = None) -> Iterator[Any]:
    given = dict(orders)
    host = Host(start, lambda step: given.pop(step, []))
    return strategy_named(settings.strategy)(task(settings, torch.float32), settings, host)


def told(found: Iterator[Any]) -> tuple[list[Step], list[Applied], list[bytes]]:
    """Steps, answers, and states as bytes at their moment."""
    steps, answers, states = [], [], []
    for event in found:
        if isinstance(event, Snapshot):
            states.append(event.state.to_bytes())
        elif isinstance(event, Step):
            steps.append(event)
        elif isinstance(event, Applied):
            answers.append(event)
    return steps, answers, states


@ALL
def test_a_pinned_edge_holds_one_operation_from_the_next_step_on(name: str, backend: str) -> None:
    settings = config(strategy=name, **EIGHT)
    steps, answers, _ = told(events(settings, {2: [PIN, BAN], 4: [RESET]}))
    assert [(a.step, a.accepted) for a in answers] == [(2, True), (2, True), (4, True)]
    cell = settings.search_space().cells["normal"]
    pinned, skip = cell.edges.index((0, 2)), cell.ops.index("skip_connect")
    banned, pool = cell.edges.index((1, 3)), cell.ops.index("max_pool_3x3")
    mixes = [step.mix["normal"] for step in steps]
    assert all((mix[pinned] > 0).all() and mix[banned, pool] > 0 for mix in mixes[:2])
    for mix in mixes[2:4]:
        assert np.flatnonzero(mix[pinned]).tolist() == [skip] and mix[banned, pool] == 0
    assert all((mix[pinned] > 0).all() and mix[banned, pool] == 0 for mix in mixes[4:])
    assert all(np.isfinite(mix).all() for mix in mixes)


@ALL
def test_logits_of_operations_that_are_not_legal_stand_still(name: str) -> None:
    settings = config(strategy=name, a_decay=0.1, **EIGHT)
    steps, _, _ = told(events(settings, {2: [PIN]}))
    cell = settings.search_space().cells["normal"]
    pinned, skip = cell.edges.index((0, 2)), cell.ops.index("skip_connect")
    dead = [op for op in range(len(cell.ops)) if op != skip]
    alphas = np.stack([step.alphas["normal"][pinned][dead] for step in steps])
    assert (alphas[1:] == alphas[1]).all()
    if name == "darts":  # others begin with steps of the weights alone
        assert not (alphas[0] == alphas[1]).all()


@ALL
def test_a_search_with_pins_that_is_resumed_equals_one_never_stopped(name: str, backend: str) -> None:
    settings = config(strategy=name, **EIGHT)
    orders = {1: [PIN], 3: [BAN], 5: [RESET]}
    whole, _, states = told(events(settings, orders))
    for at in (2, 3, 6):  # between the orders, at one, and after all of them
        before = {step: given for step, given in orders.items() if step <= at}
        _, _, cut = told(events(settings, {**before, at: [*before.get(at, []), Order("x", "interrupt")]}))
        state = from_bytes(cut[-1], "memory")
        rest, _, ends = told(events(settings, {s: given for s, given in orders.items() if s > at}, state))
        assert rest == whole[at:] and ends[-1] == states[-1]


def test_a_ban_that_leaves_nothing_is_refused_in_a_sentence_and_changes_nothing() -> None:
    settings = config(epochs=1)
    ops = settings.search_space().cells["normal"].ops
    bans = [Order(f"b{k}", "ban", "normal-0-2", op) for k, op in enumerate(ops)]
    steps, answers, _ = told(events(settings, {2: [*bans, Order("p", "pin", "normal-9-9", "skip_connect")]}))
    assert [a.accepted for a in answers] == [True] * (len(ops) - 1) + [False, False]
    assert "without an operation" in answers[-2].reason and "known" in answers[-1].reason
    assert all(np.isfinite(step.mix["normal"]).all() and step.mix["normal"].sum(-1).all() for step in steps)


def test_an_operation_that_comes_back_moves_no_faster_than_the_others() -> None:
    """Banned from the first step on, its moments are zero: Adam's first step would be 16 learning rates long."""
    params = {"a": torch.zeros(1, 4)}
    adam, still = Adam(params), {"a": torch.tensor([[True, False, False, False]])}
    grads = [torch.tensor([[0.5, 0.5, -0.5, 0.25]])]
    for _ in range(200):
        adam.step(grads, 0.01, (0.5, 0.999), 0.0, still)
    assert params["a"][0, 0] == 0 and adam.first["a"][0, 0] == 0
    adam.revive("a", still["a"])
    before = params["a"].clone()
    adam.step(grads, 0.01, (0.5, 0.999), 0.0)
    assert (params["a"] - before).abs().max() < 0.02


# In a run folder -------------------------------------------------------------------------------------------

RUN = SearchConfig.from_dict(
    {"dataset": "digits", "space": "tiny", "cells": 3, "reductions": "middle", "channels": 2, "stem_multiplier": 1,
     "stem_stride": 2, "batch": 20, "arch_batch": 20, "train_portion": 0.1, "epochs": 2, "a_lr": 0.1, "threads": 1}
)  # fmt: skip


def test_a_branch_goes_on_with_its_parents_pins_and_repeat_gives_them_again(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert drive(new_run(tmp_path, "one", RUN, ["test"]), RUN, orders={2: [PIN], 3: [BAN]}) == 0
    reader = RunReader(tmp_path, "one")
    assert reader.status().edited
    writer = branch(tmp_path, reader, 1, {}, "two", ["test"])
    assert drive(writer, SearchConfig.from_dict(writer.info["config"])) == 0
    child = RunReader(tmp_path, "two")
    assert child.raw_steps() == reader.raw_steps(child.first_step - 1)
    main_code = _main("repeat", "one", "--name", "again", "--runs", str(tmp_path))
    assert main_code == 0 and "identical" in capsys.readouterr().out


def _main(*words: str) -> int:
    with pytest.raises(SystemExit) as ended:
        main(words)
    return int(ended.value.code or 0)
