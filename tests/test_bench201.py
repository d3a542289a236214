"""Networks of NAS-Bench-201: sizes, the derived network beside the supernet, and a search in them."""

from __future__ import annotations

import random

import pytest
import torch
from small import config, task

from darts_core.derive import one_hot
from darts_core.events import Epoch, Result
from darts_core.genotype import Genotype, genotype_of, random_genotype
from darts_core.mix import Mix
from darts_core.nets.bench201 import BenchNetwork, BenchSupernet
from darts_core.nets.fast import FastSupernet, covers
from darts_core.nets.fixed import parameters
from darts_core.ops import BatchStatistics
from darts_core.search.bilevel import Host
from darts_core.space import space_named
from darts_core.strategies import strategy_named

SIZES = {"channels": 16, "cells": 15, "reductions": (5, 10)}


@pytest.mark.parametrize("op", ["nor_conv_3x3", "nor_conv_1x1", "skip_connect", "avg_pool_3x3"])
def test_networks_of_one_operation_are_as_large_as_in_the_benchmark(op: str) -> None:
    """73,306 as the benchmark says of skips alone; per convolution kernel^2 C^2 + 2 C with its norm."""
    cell = space_named("nasbench201").cells["normal"]
    side = {"nor_conv_3x3": 3, "nor_conv_1x1": 1}.get(op)
    convolutions = sum(30 * (side**2 * c**2 + 2 * c) for c in (16, 32, 64)) if side else 0
    found = parameters(BenchNetwork(genotype_of("nasbench201", "normal", cell, (op,) * 6), 3, 10, **SIZES))
    assert found == 73_306 + convolutions


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("side", [8, 7])
def test_the_derived_network_is_the_supernet_under_a_one_hot_mix(seed: int, side: int) -> None:
    """Pools excepted, which have a norm in the supernet alone: so none are drawn here."""
    space = space_named("nb4")
    genotype = random_genotype(space, random.Random(seed))
    torch.manual_seed(1)
    net = BenchSupernet(space, 2, 3, channels=4, cells=3, reductions=(1,)).double()
    fixed = BenchNetwork(genotype, 2, 3, channels=4, cells=3, reductions=(1,)).double()
    theirs = dict(net.named_parameters())
    with torch.no_grad():
        for name, p in fixed.named_parameters():
            if ".nodes." in name:
                cell, _, node, gene, layer, rest = name.removeprefix("cells.").split(".")[:6]
                found = genotype.cells["normal"].nodes[int(node)][int(gene)]
                edge = space.cells["normal"].edges.index((found.source, 1 + int(node)))
                if layer == "1":  # the convolution; a norm without learned scale has neither
                    p.copy_(theirs[f"cells.{cell}.edges.{edge}.candidates.{found.op}.1.weight"])
            elif name in theirs:
                p.copy_(theirs[name])
    x = torch.randn(6, 2, side, side, dtype=torch.float64)
    hot = Mix({"normal": torch.from_numpy(one_hot(space.cells["normal"], genotype.cells["normal"]))})
    assert torch.allclose(fixed.train()(x), net(x, hot)[0], atol=1e-10)


@pytest.mark.parametrize("name", ["nb3", "nasbench201", "s4"])
def test_a_space_without_a_fast_form_is_searched_on_the_reference(name: str) -> None:
    settings = config(space=name, backend="fast", epochs=1, reductions="none" if name == "s4" else "middle")
    subject = task(settings, torch.float32)
    assert not covers(subject.space) and not isinstance(subject.supernet(subject.space), FastSupernet)
    found = list(strategy_named("darts")(subject, settings, Host()))
    assert isinstance(found[-1], Result) and any(isinstance(event, Epoch) for event in found)
    derived = Genotype.from_json(found[-1].genotype)
    images, _ = subject.batch("weights", 0, 0)
    assert subject.network(derived)(images).shape == (len(images), 3)


def test_noise_hears_nothing_of_its_input_and_repeats_with_the_seed() -> None:
    from darts_core.ops import build

    op = build("noise", 2, 2, True)
    outputs = []
    for x in (torch.zeros(1, 2, 6, 6), torch.ones(1, 2, 6, 6)):
        torch.manual_seed(3)
        outputs.append(op(x))
    assert torch.equal(*outputs) and outputs[0].shape == (1, 2, 3, 3) and outputs[0].std() > 0.5


def test_the_supernet_keeps_no_statistics() -> None:
    net = BenchSupernet(space_named("nasbench201"), 1, 2, channels=2, cells=3, reductions=(1,))
    assert not list(net.buffers()) and any(isinstance(m, BatchStatistics) for m in net.modules())
