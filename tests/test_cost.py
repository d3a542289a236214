"""What operations cost, counted by formula, against the real modules."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from small import config
from torch import Tensor, nn

from darts_core import cost, data, derive, ops
from darts_core.config import SearchConfig
from darts_core.data.sources import DATASETS
from darts_core.mix import Mix
from darts_core.nets.fixed import Network, parameters
from darts_core.nets.mixed import Supernet
from darts_core.strategies import method_of


def measured(net: nn.Module, *inputs: object) -> cost.Count:
    """Parameters, and multiply-adds of convolutions and linear layers in one forward pass, by hooks."""
    macs = 0

    def hear(module: nn.Module, given: tuple[Tensor, ...], out: Tensor) -> None:
        nonlocal macs
        if isinstance(module, nn.Conv2d):
            window = module.kernel_size[0] * module.kernel_size[1] * module.in_channels // module.groups
            macs += out.numel() * window
        elif isinstance(module, nn.Linear):
            macs += out.numel() * module.in_features

    hooks = [module.register_forward_hook(hear) for module in net.modules()]
    with torch.no_grad():
        net.eval()(*inputs)
    for hook in hooks:
        hook.remove()
    return cost.Count(parameters(net), macs)


@pytest.mark.parametrize("op", ops.OPS)
@pytest.mark.parametrize("shrinks", [False, True])
@pytest.mark.parametrize("search", [False, True])
@pytest.mark.parametrize("size", [(8, 8), (7, 5)])
def test_each_operation_costs_what_its_module_does(op: str, shrinks: bool, search: bool, size: tuple[int, int]) -> None:
    module = ops.build(op, 6, 2 if shrinks else 1, search)
    assert cost.operation(op, 6, size, shrinks, search) == measured(module, torch.zeros(1, 6, *size))


SHAPES = [
    {"space": "tiny", "cells": 3, "reductions": "middle", "channels": 4, "stem_multiplier": 1, "stem_stride": 2},
    {"space": "darts", "cells": 5, "reductions": "thirds", "channels": 6, "stem_multiplier": 3},
    {"space": "s2", "cells": 4, "reductions": "none", "channels": 8, "stem_multiplier": 2, "nodes": 3},
]


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("side", [8, 9])
def test_a_supernet_and_a_derived_network_cost_what_they_do(shape: dict[str, object], side: int) -> None:
    settings = SearchConfig.from_dict(shape)
    space, image = settings.search_space(), cost.Image(3, side, side, 7)
    layout = {
        "image_channels": 3, "classes": 7, "channels": settings.channels, "cells": settings.cells,
        "reductions": settings.reduction_cells(), "stem_multiplier": settings.stem_multiplier,
        "stem_stride": settings.stem_stride,
    }  # fmt: skip
    x = torch.zeros(1, 3, side, side)
    every = Mix({kind: torch.ones(cell.shape) for kind, cell in space.cells.items()})
    supernet = cost.costs_of(space, settings, image, search=True)
    assert supernet is not None and supernet.whole() == measured(Supernet(space, **layout), x, every)
    rng = np.random.default_rng(3)
    for _ in range(3):
        mixes = {kind: rng.dirichlet(np.ones(len(c.ops)), len(c.edges)) for kind, c in space.cells.items()}
        network = Network(derive.derive(space, mixes), **layout)
        counts = cost.costs_of(space, settings, image, search=False)
        assert counts is not None and cost.derived(counts, space, mixes) == measured(network, x)


def test_the_papers_search_network_has_its_published_parameters() -> None:
    settings = SearchConfig.from_dict({"dataset": "cifar10"})
    counts = cost.costs_of(settings.search_space(), settings, cost.KNOWN["cifar10"], search=True)
    assert counts is not None and counts.whole().params == 1_930_618


def test_a_mixture_lies_between_its_cheapest_and_its_dearest_operations() -> None:
    settings = config(space="darts")
    space = settings.search_space()
    counts = cost.costs_of(space, settings, cost.Image(1, 6, 6, 3), search=True)
    assert counts is not None
    one = lambda pick: {  # noqa: E731
        k: np.eye(len(space.cells[k].ops))[pick(counts.params[k])] for k in space.cells
    }
    cheap, dear = counts.of(one(lambda t: t.argmin(1))), counts.of(one(lambda t: t.argmax(1)))
    even = counts.of({kind: np.full(cell.shape, 1 / len(cell.ops)) for kind, cell in space.cells.items()})
    assert cheap.params == counts.fixed.params < even.params < dear.params
    heavy = counts.of({kind: np.full(cell.shape, 1.0) for kind, cell in space.cells.items()})
    assert heavy == even, "weights that sum to more than one count as one"


def test_what_is_known_of_the_data_sets_is_so() -> None:
    for name, image in cost.KNOWN.items():
        assert DATASETS[name].shape == image[:3]
    digits = SearchConfig.from_dict({"dataset": "digits"})
    real = data.load("digits", path=None, subset=0, resize=0, label_noise=0.0, seed=0)
    shape = (*real.train.shape[1:], len(real.classes), len(real.train), len(real.test))
    assert tuple(cost.image_of(digits.to_dict()) or ()) == shape


def test_images_of_your_own_are_read_off_what_the_run_said() -> None:
    said = {"type": "phase", "name": "data", "message": "mine: 90 training and 30 test images of 3x20x24, 5 classes. x"}
    assert cost.image_of({"dataset": "folder"}, [said]) == cost.Image(3, 20, 24, 5, 90, 30)
    assert cost.image_of({"dataset": "folder"}, []) is None
    resized = cost.image_of({"dataset": "cifar10", "resize": 16, "subset": 1000})
    assert resized == cost.Image(3, 16, 16, 10, 1000, 10_000)


def test_cells_that_are_not_counted_are_said_to_be_so() -> None:
    settings = SearchConfig.from_dict({"space": "nasbench201"})
    assert cost.costs_of(settings.search_space(), settings, cost.KNOWN["digits"], search=True) is None


def test_partial_channels_make_a_quarter_of_the_channels_cost_worked_out_by_hand() -> None:
    """One cell of 8 channels with two nodes, five edges, skip or sep_conv_3x3, on one-channel images of 8x8; K = 4.

    An operation sees 2 channels: sep_conv_3x3 has twice 2 * 9 + 2 * 2 weights, 44 parameters, and skip none. Half and
    half on five edges: 110. Around it: stem 72 + 16 of its batch norm, two 1x1 convolutions of 8 to 8 (128), and
    16 to 10 classes (170). Multiply-adds: 64 places times (72 + 128 + 110), and 160.
    """
    shape = {
        "space": "s2", "nodes": 2, "cells": 1, "reductions": "none", "channels": 8, "stem_multiplier": 1,
        "dataset": "digits",
    }  # fmt: skip
    image = cost.KNOWN["digits"]
    for strategy, operations in (("pc-darts", 110), ("darts", 5 * (2 * (8 * 9 + 8 * 8)) / 2)):
        settings = SearchConfig.from_dict({**shape, "strategy": strategy})
        space = settings.search_space()
        counts = cost.costs_of(space, settings, image, search=True)
        assert counts is not None
        half = {"normal": np.full((5, 2), 0.5)}
        assert counts.of(half) == (72 + 16 + 128 + 170 + operations, 64 * (72 + 128 + operations) + 160)
    settings = SearchConfig.from_dict({**shape, "strategy": "pc-darts"})
    counts = cost.costs_of(space, settings, image, search=True)
    assert counts is not None
    weights = np.array([0.3, 0.7, 0.2, 0.1, 0.7])[:, None]  # of the edges, softmaxes over each node's
    weighed = {"normal": weights * half["normal"]}
    assert counts.of(weighed) == pytest.approx(counts.of(half)), "an edge costs as much at any weight"
    network = cost.costs_of(space, settings, image, search=False)
    assert network is not None and network.params["normal"].max() == 2 * (72 + 64 + 16), "the derived one sees them all"
    every = Mix({"normal": torch.ones(5, 2)}, {"normal": torch.ones(5)})
    layout = {"channels": 8, "cells": 1, "reductions": (), "stem_multiplier": 1, "partial_channels": 4}
    assert counts.whole() == measured(Supernet(space, 1, 10, **layout), torch.zeros(1, 1, 8, 8), every)


def test_the_share_of_channels_follows_the_method_its_parts_and_its_stages() -> None:
    assert SearchConfig.from_dict({}).partial_channels() == 1
    assert SearchConfig.from_dict({"strategy": "pc-darts", "share": 2}).partial_channels() == 2
    worn = SearchConfig.from_dict({"parts": "partial-channels", "partial-channels.share": 8})
    assert worn.partial_channels() == 8
    staged = SearchConfig.from_dict({"strategy": "dr-nas", "first": 4, "second": 2})
    assert [staged.partial_channels(stage) for stage in range(3)] == [4, 2, 2] and staged.stages() == 2
    for settings, stages in ((worn, 1), (staged, 2), (SearchConfig.from_dict({"strategy": "pc-darts"}), 1)):
        for stage in range(stages):
            assert method_of(settings).net_of(stage)["partial_channels"] == settings.partial_channels(stage)


def test_the_stages_of_p_darts_are_as_deep_as_the_method_makes_them() -> None:
    """The mixture's cost follows the supernet: with each stage some cells more."""
    settings = SearchConfig.from_dict(
        {"strategy": "p-darts", "space": "s2", "cells": 3, "channels": 4, "more_cells": 2}
    )
    method, space, image = method_of(settings), settings.search_space(), cost.KNOWN["digits"]
    assert settings.stages() == len(method.stages) == 3
    counted = []
    for stage in range(3):
        assert settings.supernet_cells(stage) == settings.cells + method.net_of(stage).get("more_cells", 0)
        found = cost.costs_of(space, settings, image, True, stage)
        deeper = cost.costs_of(space, settings.with_(cells=3 + 2 * stage), image, True)
        assert found is not None and deeper is not None and found.whole() == deeper.whole()
        counted.append(found.whole().params)
    assert counted == sorted(counted) and len(set(counted)) == 3
