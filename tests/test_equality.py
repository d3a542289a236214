"""Fast and compiled are the reference supernet, to 1e-10 in float64, for every space and option that a net can have.

Output, the gradient of every weight, of the mix and of the image, and three whole steps of a search in each order. A
few combinations that together hold every value are quick; all of them are slow.

Running statistics of batch norm are not compared: this supernet has none (`ops.BatchStatistics` says why).
"""

from __future__ import annotations

from collections.abc import Iterator
from copy import deepcopy
from itertools import product
from typing import Any, NamedTuple

import pytest
import torch
from small import search
from test_compiled import assert_equal, everything
from torch import Tensor

from darts_core.nets import weighted
from darts_core.nets.compiled import CompiledSupernet
from darts_core.nets.fast import FastSupernet
from darts_core.nets.kernels import Kernels, build
from darts_core.nets.mixed import Supernet
from darts_core.space import space_named

CHANNELS = (4, 8, 12, 16, 36)
REDUCTIONS = ("thirds", "middle", "none")
STEMS = ((3, 1), (1, 2), (2, 1))  # multiple of the channels, stride
SHAPES = ((8, 8), (7, 7), (9, 6), (5, 11))
BACKENDS = ("fast", "weighted", "compiled")  # weighted: fast with its sums as one function, as GPU kernels have it


class Options(NamedTuple):
    """What decides the form of a net."""

    space: str
    nodes: int
    channels: int
    reductions: str
    stem: tuple[int, int]
    shape: tuple[int, int]

    def __str__(self) -> str:
        words = (self.space, self.nodes, self.channels, self.reductions, *self.stem, *self.shape)
        return "-".join(map(str, words))


QUICK = [
    Options("darts", 4, 4, "thirds", (3, 1), (8, 8)),
    Options("darts", 2, 12, "middle", (1, 2), (9, 6)),
    Options("darts", 1, 36, "none", (2, 1), (5, 11)),
    Options("s2", 3, 8, "middle", (2, 1), (7, 7)),
    Options("s2", 2, 36, "thirds", (1, 2), (8, 8)),
    Options("tiny", 2, 16, "none", (1, 2), (7, 7)),
    Options("tiny", 3, 8, "thirds", (3, 1), (5, 11)),
]
ALL = [  # every channels with every reduction and stem, each with two of the shapes in turn
    Options(space, nodes, *rest, SHAPES[(turn + half) % 4])
    for turn, ((space, nodes), *rest) in enumerate(
        product((("darts", 2), ("s2", 3), ("tiny", 2)), CHANNELS, REDUCTIONS, STEMS)
    )
    for half in (0, 2)
]


@pytest.fixture(scope="module")
def kernels() -> Iterator[Kernels | None]:
    """The compiled kernels, where there is a compiler."""
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv(build.OFF, raising=False)
        yield Kernels(build.build()) if build.compiler() else None


def formed(backend: str, reference: Supernet, kernels: Kernels | None) -> FastSupernet | CompiledSupernet:
    """The same weights as `reference`, which is left whole, in the form of `backend`."""
    if backend == "fast":
        return FastSupernet(deepcopy(reference))
    if backend == "weighted":
        return FastSupernet(deepcopy(reference), sums=weighted)
    if kernels is None:
        pytest.skip("no C++ compiler on this machine")
    return CompiledSupernet(reference, kernels)


def nets(options: Options, backend: str, kernels: Kernels | None) -> tuple[Supernet, FastSupernet | CompiledSupernet]:
    places = {"thirds": (1, 2), "middle": (1,), "none": ()}[options.reductions]
    torch.manual_seed(4)
    multiple, stride = options.stem
    space = space_named(options.space, options.nodes, reduce=bool(places))
    reference = Supernet(space, 2, 3, options.channels, 3, places, multiple, stride).double()
    return reference, formed(backend, reference, kernels)


def compared(options: Options, backend: str, kernels: Kernels | None) -> None:
    reference, net = nets(options, backend, kernels)
    space = space_named(options.space, options.nodes, reduce=options.reductions != "none")
    x = torch.randn(4, 2, *options.shape, generator=torch.Generator().manual_seed(6), dtype=torch.float64)
    assert_equal(everything(net, space, x), everything(reference, space, x))  # type: ignore[arg-type]


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("options", QUICK, ids=str)
def test_output_and_every_gradient(options: Options, backend: str, kernels: Kernels | None) -> None:
    compared(options, backend, kernels)


def test_the_quick_options_hold_every_value_and_so_does_the_grid() -> None:
    for rows in (QUICK, ALL):
        assert {row.space for row in rows} == {"darts", "s2", "tiny"}
        assert {row.channels for row in rows} == set(CHANNELS) and {row.stem for row in rows} == set(STEMS)
        assert {row.reductions for row in rows} == set(REDUCTIONS) and {row.shape for row in rows} == set(SHAPES)


@pytest.mark.slow
@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("channels", CHANNELS)
@pytest.mark.parametrize("space", ["darts", "s2", "tiny"])
def test_output_and_every_gradient_in_every_combination(
    space: str, channels: int, backend: str, kernels: Kernels | None
) -> None:
    for options in (row for row in ALL if row.space == space and row.channels == channels):
        compared(options, backend, kernels)


# -- three whole steps


def three_steps(backend: str, **changes: Any) -> dict[str, Tensor]:
    """The losses and norms of three steps, and everything that a search keeps after them, by the reference's names."""
    with pytest.MonkeyPatch.context() as patch:
        backend = "triton" if backend == "weighted" else backend  # on a CPU: the formulas
        if backend == "compiled":
            patch.delenv(build.OFF, raising=False)
        one = search(backend=backend, w_decay=0.01, **changes)
    steps = [one.one_step() for _ in range(3)]
    numbers = [[s.metrics[name] for name in ("train_loss", "val_loss", "w_grad_norm", "a_grad_norm")] for s in steps]
    return {"numbers": torch.tensor(numbers, dtype=torch.float64), **one.state().tensors()}


def same_steps(backend: str, **changes: Any) -> None:
    """Within 1e-10 of the largest entry. `legal` masks are compared as they are."""
    if backend == "compiled" and not build_is_possible():
        pytest.skip("no C++ compiler on this machine")
    found, expected = three_steps(backend, **changes), three_steps("reference", **changes)
    masks = {name for name in expected if name.startswith("legal.")}
    assert masks and all(torch.equal(found[name], expected[name]) for name in masks)
    numbers = lambda tensors: {name: t for name, t in tensors.items() if name not in masks}  # noqa: E731
    assert_equal(numbers(found), numbers(expected))


def build_is_possible() -> bool:
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv(build.OFF, raising=False)
        return build.compiler() is not None


STEP_OPTIONS: list[dict[str, Any]] = [
    {"space": "tiny"},
    {"space": "s2", "nodes": 2, "channels": 8, "reductions": "thirds", "stem_stride": 2},
    {"space": "darts", "nodes": 2, "channels": 4, "reductions": "none", "stem_multiplier": 3},
]


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("order", ["1", "2", "exact"])
@pytest.mark.parametrize("options", STEP_OPTIONS, ids=lambda row: row["space"])
def test_three_whole_steps(options: dict[str, Any], order: str, backend: str) -> None:
    same_steps(backend, order=order, **options)


@pytest.mark.slow
@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("order", ["1", "2", "exact"])
@pytest.mark.parametrize("channels", CHANNELS)
@pytest.mark.parametrize("space", ["darts", "s2", "tiny"])
def test_three_whole_steps_in_every_combination(space: str, channels: int, order: str, backend: str) -> None:
    turn = CHANNELS.index(channels)  # each reduction with another stem for other channels: in all, every pair
    for k, reductions in enumerate(REDUCTIONS):
        multiple, stride = STEMS[(k + turn) % 3]
        same_steps(
            backend, order=order, space=space, nodes=2, channels=channels, reductions=reductions,
            stem_multiplier=multiple, stem_stride=stride,
        )  # fmt: skip
