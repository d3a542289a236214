"""Separable convolutions with a way back of their own are the plain ones, for every form and at odd sizes."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from darts_core.nets import separable
from darts_core.nets.separable import Form, Separable, composed, kernel_gradient, pointwise

SIZES = [(3, 8, 8), (2, 7, 9), (1, 3, 2), (2, 12, 5), (2, 1, 1)]  # images, height, width


def images(*shape: int, seed: int = 1) -> Tensor:
    x = torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return x.contiguous(memory_format=torch.channels_last) if x.dim() == 4 else x


def given(kernel: int, form: Form, size: tuple[int, int, int], channels: int) -> list[Tensor]:
    """Image, depthwise and 1x1 weights, all leaves."""
    (N, H, W), K = size, form.groups * channels
    x = images(N, K if form.normed else form.lanes * channels, H, W)
    weights = images(K, 1, kernel, kernel, seed=2), images(K, channels, 1, 1, seed=3)
    return [t.requires_grad_() for t in (x if form.normed else x.relu(), *weights)]


FORMS = [Form(groups, lanes, s, d, False) for groups, lanes in ((2, 1), (6, 3)) for s in (1, 2) for d in (1, 2)]


@pytest.mark.parametrize("size", SIZES, ids=str)
@pytest.mark.parametrize("form", [*FORMS, Form(2, 1, 1, 1, True)], ids=str)
@pytest.mark.parametrize("kernel", [3, 5])
def test_output_and_all_three_gradients_are_those_of_pytorch(
    kernel: int, form: Form, size: tuple[int, int, int]
) -> None:
    inputs = given(kernel, form, size, 3)
    ours, plain = Separable.apply(*inputs, form), composed(*inputs, form)
    torch.testing.assert_close(ours, plain, rtol=1e-11, atol=1e-11)
    slope = images(*plain.shape, seed=4)
    expected = torch.autograd.grad(plain, inputs, slope)
    for found, wanted in zip(torch.autograd.grad(ours, inputs, slope), expected, strict=True):
        torch.testing.assert_close(found, wanted, rtol=1e-11, atol=1e-11)


def test_a_gradient_for_the_image_alone_asks_for_no_weights() -> None:
    form = Form(2, 1, 1, 2, False)
    x, depthwise, point = given(5, form, (2, 6, 6), 3)
    held = depthwise.detach(), point.detach()
    (found,) = torch.autograd.grad(Separable.apply(x, *held, form).square().sum(), [x])
    (wanted,) = torch.autograd.grad(composed(x, *held, form).square().sum(), [x])
    torch.testing.assert_close(found, wanted)


@pytest.mark.parametrize("channels", [3, 20])  # a dense product, and grouped convolutions
@pytest.mark.parametrize("normed", [False, True])
def test_second_derivatives_are_those_of_pytorch(normed: bool, channels: int) -> None:
    form = Form(3, 1, 1, 1, normed)
    inputs, found = given(3, form, (2, 5, 4), channels), []
    for function in (Separable.apply, composed):
        slopes = torch.autograd.grad(function(*inputs, form).square().sum(), inputs, create_graph=True)
        found.append(torch.autograd.grad(torch.stack([s.sin().sum() for s in slopes]).sum(), inputs))
    for ours, plain in zip(*found, strict=True):
        torch.testing.assert_close(ours, plain)


def test_an_image_is_repeated_once_forward_and_once_back_for_all_who_see_it(monkeypatch: pytest.MonkeyPatch) -> None:
    form, repeats, made = Form(4, 1, 1, 1, False), separable.Repeats(), []
    inputs = [given(k, form, (2, 6, 6), 3) for k in (3, 5)]
    x = inputs[0][0]
    plain = separable.repeated
    monkeypatch.setattr(separable, "repeated", lambda *given: made.append(1) or plain(*given))
    total = sum(Separable.apply(x, *weights, form, repeats) for _, *weights in inputs)  # type: ignore[misc]
    assert len(made) == 1
    repeats.made.clear()
    torch.autograd.grad(total.square().sum(), [x, *(w for _, *weights in inputs for w in weights)])  # type: ignore[union-attr]
    assert len(made) == 2 and not repeats.made, "made again, and forgotten by the last"


@pytest.mark.parametrize(
    ("side", "dilation", "seeing"), [(2, 1, 3), (2, 2, 1), (3, 2, 3), (4, 1, 5), (4, 2, 3), (5, 2, 5)]
)
def test_taps_that_see_margins_alone_are_neither_computed_nor_learned(side: int, dilation: int, seeing: int) -> None:
    form = Form(2, 1, 1, dilation, False)
    x, depthwise, point = given(5, form, (3, side, side), 3)
    assert separable._reaching(depthwise, (side, side), form).shape == (6, 1, seeing, seeing)
    (found,) = torch.autograd.grad(Separable.apply(x, depthwise, point, form).square().sum(), [depthwise])
    outside = (5 - seeing) // 2
    inner = found[:, :, outside : 5 - outside, outside : 5 - outside]
    assert torch.equal(found.count_nonzero(), inner.count_nonzero()) and bool(inner.count_nonzero() > 0)


def test_what_is_kept_for_the_way_back_is_the_map_before_it() -> None:
    kept: list[int] = []
    form, maps = Form(4, 1, 1, 1, False), []
    for function in (Separable.apply, composed):
        inputs = given(5, form, (2, 16, 16), 8)
        kept.clear()
        with torch.autograd.graph.saved_tensors_hooks(lambda t: kept.append(t.numel()) or t, lambda t: t):
            function(*inputs, form)
        maps.append(sum(count for count in kept if count >= 2 * 8 * 16 * 16) / (2 * 8 * 16 * 16))
    assert maps[0] == 1, "the image that all four edges see"
    assert maps[1] >= 8, "four edges: what their depthwise convolutions see, and what they give"


@pytest.mark.parametrize(("kernel", "dilation"), [(5, 1), (3, 2), (5, 2)])
def test_weight_gradients_of_many_pixels_are_the_librarys_in_float32_to_its_rounding(
    kernel: int, dilation: int
) -> None:
    x, slope = images(4, 32, 16, 16).float(), images(4, 32, 16, 16, seed=5).float()
    weight = images(32, 1, kernel, kernel, seed=2).float()
    padding = dilation * (kernel - 1) // 2
    wide = weight.double().requires_grad_()
    exact = F.conv2d(x.double(), wide, None, 1, padding, dilation, groups=32)
    (wanted,) = torch.autograd.grad(exact, [wide], slope.double())
    found = kernel_gradient(slope, x, weight, 1, dilation).double()
    assert float((found - wanted).abs().max() / wanted.abs().max()) < 1e-5


def test_dense_and_grouped_products_agree() -> None:
    x, weight = images(2, 60, 3, 3), images(60, 20, 1, 1, seed=2)
    apart = torch.cat([F.conv2d(x[:, 20 * k : 20 * k + 20], weight[20 * k : 20 * k + 20]) for k in range(3)], dim=1)
    torch.testing.assert_close(pointwise(x, weight, 3), apart)
    torch.testing.assert_close(pointwise(x[:, :40], weight[:40], 2), apart[:, :40])
