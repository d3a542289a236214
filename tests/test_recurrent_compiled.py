"""The compiled recurrent cell is the reference: any number of units and columns, output and every gradient."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise

import pytest
import torch
from small_text import config, task
from test_recurrent import inputs
from torch import Tensor

from darts_core.nets.kernels import Kernels, build
from darts_core.nets.recurrent import Masks, MixedRecurrentCell
from darts_core.nets.recurrent_compiled import CompiledRecurrentCell
from darts_core.search.bilevel import Host, Search
from darts_core.space import recurrent_cell
from darts_core.strategies import STRATEGIES


@pytest.fixture(scope="module")
def kernels() -> Iterator[Kernels]:
    patch = pytest.MonkeyPatch()
    patch.delenv(build.OFF, raising=False)
    if build.compiler() is None:
        pytest.skip("no C++ compiler on this machine")
    yield Kernels(build.build())
    patch.undo()


def pair(
    kernels: Kernels, limit: float = 0.0, nodes: int = 4, units: int = 5
) -> tuple[MixedRecurrentCell, CompiledRecurrentCell]:
    torch.manual_seed(3)
    spec = recurrent_cell(nodes)
    reference = MixedRecurrentCell(spec, units, limit).double()
    with torch.no_grad():
        for p in reference.parameters():
            p.mul_(20)
    compiled = CompiledRecurrentCell(spec, units, limit, kernels).double()
    compiled.load_state_dict(reference.state_dict())
    return reference, compiled


def agree(reference: MixedRecurrentCell, compiled: CompiledRecurrentCell, drops: bool, T: int, B: int) -> None:
    x, h, rows, masks = inputs(reference, drops, T, B)
    wave = torch.linspace(-1, 1, T * B * reference.units, dtype=torch.float64).view(T, B, reference.units)
    found = []
    for cell in (reference, compiled):
        out = cell(x, h, rows, masks)
        wanted = [x, h, rows, *cell.parameters()]
        found.append([out, *torch.autograd.grad((out * wave).sin().sum(), wanted)])
    for mine, theirs in zip(*found, strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-9, atol=1e-11)


@pytest.mark.parametrize("drops", [False, True])
@pytest.mark.parametrize("limit", [0.0, 1.6])
def test_it_equals_the_reference_in_output_and_every_gradient(kernels: Kernels, drops: bool, limit: float) -> None:
    agree(*pair(kernels, limit), drops, T=3, B=4)


@pytest.mark.parametrize(("units", "B"), [(1, 3), (7, 2), (8, 5), (16, 17), (19, 33), (40, 3)])
def test_rows_may_have_any_length_and_batches_any_number_of_columns(kernels: Kernels, units: int, B: int) -> None:
    agree(*pair(kernels, 0.0, 2, units), True, T=2, B=B)


def test_a_batch_of_one_is_zero_behind_batch_norm_in_both(kernels: Kernels) -> None:
    reference, compiled = pair(kernels)
    x, h, rows, masks = inputs(reference, False, B=1)
    with torch.no_grad():
        torch.testing.assert_close(compiled(x, h, rows, masks), reference(x, h, rows, masks))


def test_functions_hold_at_both_ends(kernels: Kernels) -> None:
    """Gates and functions of states far from zero, where an exponential would overflow."""
    reference, compiled = pair(kernels, units=8)
    with torch.no_grad():
        for cell in (reference, compiled):
            cell.matrices.mul_(300)
            cell.first.mul_(300)
    agree(reference, compiled, False, T=2, B=4)


def test_gradients_for_the_mix_alone_are_the_same_ones(kernels: Kernels) -> None:
    reference, compiled = pair(kernels)
    x, h, rows, masks = inputs(reference, True)
    (whole,) = torch.autograd.grad(compiled(x, h, rows, masks).sin().sum(), [rows])
    compiled.requires_grad_(False)
    (alone,) = torch.autograd.grad(compiled(x.detach(), h.detach(), rows, masks).sin().sum(), [rows])
    torch.testing.assert_close(alone, whole, rtol=1e-12, atol=1e-14)


def test_second_derivatives_equal_the_reference(kernels: Kernels) -> None:
    reference, compiled = pair(kernels, nodes=3)
    x, h, rows, masks = inputs(reference, True)
    found = []
    for cell in (reference, compiled):
        weights = list(cell.parameters())
        grads = torch.autograd.grad(cell(x, h, rows, masks).sin().sum(), weights, create_graph=True)
        found.append(torch.autograd.grad(sum(g.pow(2).sum() for g in grads), [rows, *weights]))  # type: ignore
    for mine, theirs in zip(*found, strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-8, atol=1e-10)


def test_two_walks_at_once_keep_their_own_memory(kernels: Kernels) -> None:
    _, compiled = pair(kernels)
    x, h, rows, masks = inputs(compiled, True)
    first, second = compiled(x, h, rows, masks), compiled(x + 1, h, rows, masks)
    late = torch.autograd.grad(first.sin().sum(), [rows, x])
    again = torch.autograd.grad(compiled(x, h, rows, masks).sin().sum(), [rows, x])
    assert all(torch.equal(a, b) for a, b in zip(late, again, strict=True))
    assert bool(torch.isfinite(second).all())


def test_float32_is_as_near_as_float32_is(kernels: Kernels) -> None:
    reference, compiled = pair(kernels, units=24)
    x, h, rows, masks = inputs(reference, True, T=5, B=8)
    exact = reference(x, h, rows, masks)
    spare = (t.detach().float() for t in (x, h, rows))
    single = Masks(*(m.float() for m in masks if m is not None))
    plain = reference.float()(*(t.detach().float() for t in (x, h, rows)), single)
    ours = compiled.float()(*spare, single)
    distance = lambda out: float((out - exact).detach().abs().max())  # noqa: E731
    assert distance(ours) < 4 * max(distance(plain), 1e-6)


@pytest.mark.parametrize("order", ["1", "2", "exact"])
def test_three_steps_of_a_search_agree_with_the_reference(kernels: Kernels, order: str) -> None:
    found: list[list[Tensor]] = []
    for backend in ("reference", "compiled"):
        settings = config(order=order, backend=backend)
        made = Search(STRATEGIES["darts"].factory, task(settings), settings, Host())
        steps = [made.one_step() for _ in range(3)]
        assert [b.step - a.step for a, b in pairwise(steps)] == [1, 1]
        found.append([*made.alphas.tensors(), *made.params.values(), *made.carry.values()])
    for mine, theirs in zip(*found, strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-7, atol=1e-10)
