"""Searches side by side: each lane is the search of its seed alone."""

from __future__ import annotations

from collections.abc import Callable
from copy import deepcopy
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from small import config, task
from test_fast import SPACES, mix, pair

from darts_core.config import SearchConfig
from darts_core.drive import drive, new_run
from darts_core.events import Order, Step
from darts_core.methods.darts import darts
from darts_core.mix import Mix
from darts_core.nets import lanes as nets_of_lanes
from darts_core.nets.compiled import CompiledSupernet
from darts_core.nets.fast import FastSupernet
from darts_core.nets.kernels import Kernels, build
from darts_core.nets.lanes import side_by_side, twice_differentiable
from darts_core.nets.mixed import Supernet
from darts_core.runs import RunReader, RunWriter, send_order
from darts_core.search.bilevel import Search
from darts_core.search.host import Host, Waits, Work
from darts_core.search.joint import Lanes
from darts_core.search.state import State
from darts_core.together import drive_together, lane_config, members


def lane(seed: int, **changes: Any) -> Search:
    settings = config(seed=seed, shuffle_split=True, w_decay=0.01, **changes)
    return Search(darts, task(settings), settings, Host())


def states_agree(one: State, other: State, close: float) -> None:
    ours, theirs = one.tensors(), other.tensors()
    assert ours.keys() == theirs.keys()
    for name, tensor in ours.items():
        if tensor.dtype.is_floating_point:
            torch.testing.assert_close(theirs[name], tensor, rtol=close, atol=close, msg=lambda m, n=name: f"{n}: {m}")


@pytest.fixture(params=["fast", "compiled"])
def form(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """A form of the supernet whose lanes share their passes; compiled ones where there is a compiler."""
    if request.param == "compiled":
        monkeypatch.delenv(build.OFF, raising=False)
        if build.compiler() is None:
            pytest.skip("no C++ compiler on this machine")
    return request.param


def net_of(form: str, reference: Supernet) -> FastSupernet | CompiledSupernet:
    return FastSupernet(reference) if form == "fast" else CompiledSupernet(reference, Kernels(build.build()))


@pytest.mark.parametrize("name", SPACES)
def test_nets_side_by_side_are_each_net_alone_in_output_and_every_gradient(name: str, form: str) -> None:
    space, count = SPACES[name], 3
    nets, images, mixes = [], [], []
    for k in range(count):
        reference, _ = pair(space)
        g = torch.Generator().manual_seed(20 + k)
        for p in reference.parameters():
            p.data = torch.randn(p.shape, generator=g, dtype=torch.float64) * 0.3
        nets.append(net_of(form, reference))
        images.append(torch.randn(4, 2, 7, 7, generator=g, dtype=torch.float64))
        mixes.append(
            mix(space)._replace(
                ops={kind: (row.detach() * (k + 1)).requires_grad_() for kind, row in mix(space).ops.items()}
            )
        )
    together = side_by_side(nets)
    assert together is not None
    params = [dict(net.named_parameters()) for net in nets]
    logits = together(params, images, mixes)
    for net, own, x, m, y in zip(nets, params, images, mixes, logits, strict=True):
        alone, _ = net(x, m)
        torch.testing.assert_close(y, alone, rtol=1e-10, atol=1e-11)
        wanted = [*m.ops.values(), *own.values()]
        weigh = torch.arange(12.0, dtype=torch.float64).view(4, 3)
        ours = torch.autograd.grad((y * weigh).sum(), wanted, retain_graph=True, materialize_grads=True)
        theirs = torch.autograd.grad((alone * weigh).sum(), wanted, materialize_grads=True)
        for a, b in zip(ours, theirs, strict=True):
            torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-10)


@pytest.mark.parametrize("order", ["1", "2", "exact"])
def test_a_lane_makes_the_steps_of_its_search_alone(order: str, form: str) -> None:
    """Weights, alphas, momentum and Adam's moments after several steps; difference quotients lose digits (order 2)."""
    settings: dict[str, Any] = {"order": order, "backend": form, "clip": 0.5}
    alone, beside = ([lane(seed, **settings) for seed in (0, 3, 4)] for _ in range(2))
    lanes, told = Lanes(), []
    for _ in range(3):
        lanes.move([Waits(one, Search.launch) for one in beside])
        told.append([one.recorded(lanes.made.pop(id(one))) for one in beside])
    for k, one in enumerate(alone):
        for row in told:
            step = one.one_step()
            assert step.metrics == pytest.approx(row[k].metrics, rel=1e-6)
        states_agree(one.state(), beside[k].state(), 1e-7 if order == "2" else 1e-9)
    assert not torch.allclose(beside[0].alphas.tensors()[0], beside[1].alphas.tensors()[0])


def moved(beside: list[Search], work: Work) -> list[Any]:
    lanes = Lanes()
    lanes.move([Waits(one, work) for one in beside])
    return [lanes.made[id(one)] for one in beside]


def test_a_lane_measures_at_the_end_of_an_epoch_what_its_search_alone_measures(
    form: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Validation and exact Hessian; one lane has an operation less, so its Hessian has fewer rows and columns."""
    settings: dict[str, Any] = {"backend": form, "hessian_batch": 5, "space": "s2", "nodes": 2, "a_decay": 0.1}
    beside = [lane(seed, **settings) for seed in (0, 3, 4)]
    for k, one in enumerate(beside):
        one.alphas = one.alphas.replaced([(300 * (k + 1) * a.detach()).requires_grad_() for a in one.alphas.tensors()])
    assert beside[1].obey(Order("x", "ban", "normal-0-2", "skip_connect")).accepted
    valid, hessians = moved(beside, Search.validated), moved(beside, Search.hessian)
    for one, found, hessian in zip(beside, valid, hessians, strict=True):
        assert one.validated() == pytest.approx(found, rel=1e-10)
        np.testing.assert_allclose(hessian, one.hessian(), rtol=0, atol=1e-9 * np.abs(hessian).max())
    assert len(hessians[1]) == len(hessians[0]) - 1
    assert np.abs(hessians[0] - hessians[2]).max() > 1e-3 * np.abs(hessians[0]).max()
    monkeypatch.setattr(nets_of_lanes, "LARGEST", 1)  # too large to compute all at once
    for before, found in zip(valid, moved(beside, Search.validated), strict=True):
        assert before == pytest.approx(found, rel=1e-10)


@pytest.mark.parametrize("name", SPACES)
def test_second_derivatives_of_nets_side_by_side_are_those_of_each_reference_alone(name: str) -> None:
    space, images = SPACES[name], torch.randn(4, 2, 7, 7, dtype=torch.float64)
    references = [pair(space)[0] for _ in range(2)]
    for k, reference in enumerate(references):
        g = torch.Generator().manual_seed(k)
        for p in reference.parameters():
            p.data = torch.randn(p.shape, generator=g, dtype=torch.float64) * 0.3
    nets = [FastSupernet(deepcopy(reference)) for reference in references]
    together, mixes = twice_differentiable(nets), [mix(space), mix(space)]
    assert together is not None
    logits = together([dict(net.named_parameters()) for net in nets], [images, -images], mixes)

    def bent(y: torch.Tensor, at: Mix) -> list[torch.Tensor]:
        """The Hessian over the mix along (1, 2, 3 ...)."""
        rows = list(at.ops.values())
        slope = torch.autograd.grad(y.square().sum(), rows, create_graph=True)
        along = sum((s * torch.arange(1.0, s.numel() + 1, dtype=s.dtype).view_as(s)).sum() for s in slope)
        return list(torch.autograd.grad(along, rows, retain_graph=True, materialize_grads=True))  # type: ignore[arg-type]

    for reference, x, m, y in zip(references, (images, -images), mixes, logits, strict=True):
        for ours, theirs in zip(bent(y, m), bent(reference(x, m)[0], m), strict=True):
            torch.testing.assert_close(ours, theirs, rtol=1e-8, atol=1e-8 * float(theirs.abs().max()))


# ---- in run folders

DIGITS = {
    "dataset": "digits", "space": "tiny", "cells": 3, "reductions": "middle", "channels": 2, "stem_multiplier": 1,
    "stem_stride": 2, "batch": 20, "arch_batch": 20, "train_portion": 0.1, "epochs": 2, "a_lr": 0.1, "w_lr": 0.05,
    "shuffle_split": True,
}  # fmt: skip


def launch(
    root: Path, seeds: list[int], says: dict[int, Callable[[Any], None]] | None = None, **changes: Any
) -> list[int]:
    """The group "many" of runs, driven to their ends; `says`: seed -> who is told of its events."""
    configs = [lane_config(SearchConfig.from_dict({**DIGITS, **changes}), seed) for seed in seeds]
    writers = [new_run(root, f"many-s{c.seed}", c, ["test"], group="many") for c in configs]
    return drive_together(writers, configs, [(says or {}).get(c.seed, lambda event: None) for c in configs])


def alone(root: Path, seed: int, **changes: Any) -> RunReader:
    config = lane_config(SearchConfig.from_dict({**DIGITS, **changes}), seed)
    assert drive(new_run(root, f"alone-{seed}", config, ["test"]), config) == 0
    return RunReader(root, f"alone-{seed}")


def lines(run: RunReader, kind: str) -> list[dict[str, Any]]:
    return [line for line in run.events()[0] if line["type"] == kind]


def test_the_runs_of_a_group_are_the_runs_of_their_seeds_alone(tmp_path: Path) -> None:
    assert launch(tmp_path, [0, 2], backend="fast") == [0, 0]
    for run in members(tmp_path, "many"):
        one = alone(tmp_path, run.info["seed"], backend="fast")
        assert run.status().state == "finished" and run.step_count() == one.step_count() > 4
        np.testing.assert_allclose(run.steps()["mix.normal"], one.steps()["mix.normal"], atol=2e-3)  # float32
        np.testing.assert_allclose(run.steps()["mix.normal"][0], one.steps()["mix.normal"][0], atol=1e-6)
        assert any("one pass computes a step of all" in line["message"] for line in lines(run, "phase"))
        assert [line["role"] for line in lines(run, "trained")] == [line["role"] for line in lines(one, "trained")]


def test_lanes_that_share_nothing_take_turns_and_are_their_seeds_alone_to_the_bit(tmp_path: Path) -> None:
    assert launch(tmp_path, [1, 0], backend="reference") == [0, 0]
    for run in members(tmp_path, "many"):
        one = alone(tmp_path, run.info["seed"], backend="reference")
        assert run.raw_steps() == one.raw_steps()
        assert run.read_checkpoint("e0002.safetensors") == one.read_checkpoint("e0002.safetensors")
        assert any("one after another" in line["message"] for line in lines(run, "phase"))


def test_ctrl_c_stops_all_and_they_go_on_together_or_alone(tmp_path: Path) -> None:
    import signal

    def stop(event: Any) -> None:
        if isinstance(event, Step) and event.step == 7:
            signal.raise_signal(signal.SIGINT)

    assert launch(tmp_path, [0, 1, 2], {1: stop}, backend="reference", epochs=3) == [0, 0, 0]
    runs = members(tmp_path, "many")
    assert [run.status().state for run in runs] == ["interrupted"] * 3
    assert max(run.status().step for run in runs) <= 8
    first = runs[0]
    assert drive(RunWriter.open(tmp_path, first.name), SearchConfig.from_dict(first.info["config"])) == 0
    others = [RunWriter.open(tmp_path, run.name) for run in runs[1:]]
    configs = [SearchConfig.from_dict(run.info["config"]) for run in runs[1:]]
    assert drive_together(others, configs, [lambda event: None] * 2) == [0, 0]
    for run in members(tmp_path, "many"):
        assert run.status().state == "finished"
        assert run.raw_steps() == alone(tmp_path, run.info["seed"], backend="reference", epochs=3).raw_steps()


def test_a_lane_that_is_paused_or_fails_leaves_the_others_alone(tmp_path: Path) -> None:
    """Seed 0 is paused at its start and goes on when seed 1 has finished; seed 2 breaks."""
    order: list[str] = []

    def slow(event: Any) -> None:
        if isinstance(event, Step):
            order.append("paused lane steps")
            if event.step == 2:
                send_order(tmp_path, "many-s0", "pause")

    def quick(event: Any) -> None:
        if type(event).__name__ == "Finished":
            order.append("other lane has finished")
            send_order(tmp_path, "many-s0", "resume")

    def broken(event: Any) -> None:
        if isinstance(event, Step) and event.step == 3:
            raise RuntimeError("out of memory")

    assert launch(tmp_path, [0, 1, 2], {0: slow, 1: quick, 2: broken}, backend="fast") == [0, 0, 1]
    states = [run.status() for run in members(tmp_path, "many")]
    assert [status.state for status in states] == ["finished", "finished", "failed"]
    assert "out of memory" in states[2].message
    assert order[:3] == ["paused lane steps"] * 2 + ["other lane has finished"]


def test_a_lane_of_shared_passes_resumed_alone_says_what_differs_and_that_it_is_rounding(tmp_path: Path) -> None:
    def crash(event: Any) -> None:
        if isinstance(event, Step) and event.step == 11:
            raise RuntimeError("killed")

    launch(tmp_path, [0, 1, 2], {0: crash}, backend="fast", channels=4, epochs=3)
    run = RunReader(tmp_path, "many-s0")
    assert drive(RunWriter.open(tmp_path, "many-s0"), SearchConfig.from_dict(run.info["config"])) == 0
    told = lines(run, "resumed")[0]
    assert told["identical"] or "shared its passes with other seeds then, which changes the rounding" in told["message"]
