"""Second order on text: exact through the clipped virtual step, and what the released recurrent code does instead."""

from __future__ import annotations

import pytest
import torch
from small_text import config, task
from torch import Tensor

from darts_core.optimise import joint_norm
from darts_core.search.bilevel import Host, Search
from darts_core.search.hypergrad import unrolled, unrolled_fd
from darts_core.search.method import Objective
from darts_core.strategies import STRATEGIES


def objective(clip: float, **changes: float) -> Objective:
    settings = config(clip=clip, nodes=2, w_lr=0.5, w_lr_min=0.1, w_decay=0.01, **changes)
    search = Search(STRATEGIES["darts"].factory, task(settings), settings, Host())
    g = torch.Generator().manual_seed(7)
    values = [torch.randn(a.shape, generator=g, dtype=torch.float64) for a in search.alphas.tensors()]
    search.alphas = search.alphas.replaced([v.requires_grad_() for v in values])
    with torch.no_grad():
        for p in search.params.values():
            p.mul_(10)
    return search.objective(search.task.batch("weights", 0, 0), search.task.batch("arch", 0, 0))


def brute(o: Objective, clip: float) -> Tensor:
    """Differentiate the whole: a virtual step with its graph, its clip included."""
    alphas = o.alphas.leaves()
    weights = {n: w.detach().requires_grad_() for n, w in o.weights.items()}
    train = o.train(weights, alphas).value
    grads = torch.autograd.grad(train, list(weights.values()), create_graph=True, materialize_grads=True)
    norm = torch.sqrt(sum((g * g).sum() for g in grads))  # type: ignore[arg-type]
    factor = (clip / (norm + 1e-6)).clamp(max=1.0)
    ahead = {n: w - o.rate * (factor * g + 0.01 * w) for (n, w), g in zip(weights.items(), grads, strict=True)}
    return torch.autograd.grad(o.val(ahead, alphas).value, alphas.tensors())[0]


@pytest.mark.parametrize("clip", [0.05, 100.0])
def test_the_exact_gradient_is_that_of_the_whole_clipped_step(clip: float) -> None:
    o = objective(clip)
    torch.testing.assert_close(unrolled(o).grads[0], brute(o, clip), rtol=1e-6, atol=1e-9)
    first = torch.autograd.grad(o.val(o.weights, (a := o.alphas.leaves())).value, a.tensors())[0]
    assert not torch.allclose(unrolled(o).grads[0], first, rtol=1e-3)


def original(o: Objective, clip: float) -> Tensor:
    """The released recurrent architect, with its two faults: the factor is not capped where it is used again, and the
    matrix that embedding and decoder share does not move in the virtual step. Masks are held, where it redraws them.
    """
    weights = {n: w.detach().requires_grad_() for n, w in o.weights.items()}
    grads = torch.autograd.grad(o.train(weights, o.alphas).value, list(weights.values()), materialize_grads=True)
    uncapped = clip / (joint_norm(grads) + 1e-6)
    step = [g * uncapped.clamp(max=1.0) for g in grads]
    ahead = {n: w - o.rate * (g + 0.01 * w) for (n, w), g in zip(o.weights.items(), step, strict=True)}
    ahead["words"] = o.weights["words"]
    alphas = o.alphas.leaves()
    at = {n: w.detach().requires_grad_() for n, w in ahead.items()}
    direct, *v = torch.autograd.grad(o.val(at, alphas).value, [*alphas.tensors(), *at.values()], materialize_grads=True)
    v = [x * (clip / (joint_norm(v) + 1e-6)).clamp(max=1.0) for x in v]
    radius, sides = 0.01 / joint_norm(v), []
    for sign in (1, -1):
        moved = {n: w + sign * radius * d for (n, w), d in zip(o.weights.items(), v, strict=True)}
        leaves = o.alphas.leaves()
        sides.append(torch.autograd.grad(o.train(moved, leaves).value, leaves.tensors())[0])
    return direct - o.rate * uncapped * (sides[0] - sides[1]) / (2 * radius)


def test_the_originals_second_order_differs_by_its_two_faults_alone() -> None:
    o = objective(100.0)  # a clip that does not act: the original then multiplies its second term by clip / |g|
    grads = torch.autograd.grad(
        o.train(w := {n: t.detach().requires_grad_() for n, t in o.weights.items()}, o.alphas).value, list(w.values())
    )
    assert float(100 / joint_norm(grads)) > 10
    ours, theirs = unrolled_fd(o).grads[0], original(o, 100.0)
    assert float((theirs - ours).norm() / ours.norm()) > 1, "blown up"


def test_the_finite_difference_clips_as_published_and_stays_bounded() -> None:
    small, exact = unrolled_fd(objective(100.0)).grads[0], unrolled(objective(100.0)).grads[0]
    assert float((small - exact).norm() / exact.norm()) < 0.35, "kinks make it coarse"
