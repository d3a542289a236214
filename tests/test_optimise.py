"""The optimisers are PyTorch's: the same numbers as its classes, step for step."""

from __future__ import annotations

import torch

from darts_core.optimise import Adam, Momentum, clipped


def tensors(seed: int) -> list[torch.Tensor]:
    g = torch.Generator().manual_seed(seed)
    return [torch.randn(shape, generator=g, dtype=torch.float64) for shape in ((3, 4), (5,), (2, 1, 3))]


def test_momentum_is_torch_s_sgd() -> None:
    ours, theirs = tensors(0), [t.requires_grad_() for t in tensors(0)]
    mine = Momentum({str(k): t for k, t in enumerate(ours)})
    other = torch.optim.SGD(theirs, lr=0.1, momentum=0.9, weight_decay=0.01)
    for step in range(1, 5):
        for p, g in zip(theirs, tensors(step), strict=True):
            p.grad = g
        other.step()
        mine.step(tensors(step), 0.1, 0.9, 0.01)
    for a, b in zip(ours, theirs, strict=True):
        torch.testing.assert_close(a, b.detach(), rtol=1e-14, atol=1e-14)


def test_adam_is_torch_s_adam() -> None:
    ours, theirs = tensors(0), [t.requires_grad_() for t in tensors(0)]
    mine = Adam({str(k): t for k, t in enumerate(ours)})
    other = torch.optim.Adam(theirs, lr=0.1, betas=(0.5, 0.95), weight_decay=0.01)
    for step in range(1, 5):
        for p, g in zip(theirs, tensors(step), strict=True):
            p.grad = g
        other.step()
        mine.step(tensors(step), 0.1, (0.5, 0.95), 0.01)
    for a, b in zip(ours, theirs, strict=True):
        torch.testing.assert_close(a, b.detach(), rtol=1e-14, atol=1e-14)


def test_clipping_is_torch_s_clipping() -> None:
    for largest in (0.5, 100.0):
        ours, theirs = tensors(3), [t.requires_grad_() for t in tensors(0)]
        for p, g in zip(theirs, tensors(3), strict=True):
            p.grad = g
        expected = torch.nn.utils.clip_grad_norm_(theirs, largest)
        torch.testing.assert_close(clipped(ours, largest), expected)
        for a, p in zip(ours, theirs, strict=True):
            torch.testing.assert_close(a, p.grad)
