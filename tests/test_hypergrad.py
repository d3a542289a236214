"""Gradients of the alphas against brute force, closed forms and the formula written out step by step."""

from __future__ import annotations

import copy
from dataclasses import replace

import numpy as np
import pytest
import torch
from small import search
from torch import Tensor
from torch.func import functional_call

from darts_core.mix import Alphas, Mix
from darts_core.optimise import joint_norm as norm
from darts_core.search.bilevel import Search
from darts_core.search.hypergrad import unrolled, unrolled_fd
from darts_core.search.method import Hyper, Loss, Objective, first_order, softmax_rows
from darts_core.search.probes import alpha_hessian, dominant_eigenvalue
from darts_core.search.rates import annealed


def prepared(steps: int = 2) -> tuple[Search, Objective]:
    """A search with momentum in its buffers, and the objective of its next step."""
    found = search()
    for _ in range(steps):
        found.one_step()
    return found, found.objective(found.task.batch("weights", 0, steps), found.task.batch("arch", 0, steps))


def brute_force(found: Search) -> list[Tensor]:
    """Double backward through one real optimiser step: SGD's update written as a graph that keeps everything."""
    weights_batch, arch_batch = found.task.batch("weights", 0, found.index), found.task.batch("arch", 0, found.index)
    alphas = found.alphas.leaves()
    params = {n: p.detach().clone().requires_grad_() for n, p in found.params.items()}

    def loss(weights: dict[str, Tensor], batch: tuple[Tensor, Tensor]) -> Tensor:
        mix = type(found.read())(softmax_rows(alphas))
        logits, _ = functional_call(found.net, weights, (batch[0], mix))
        return torch.nn.functional.cross_entropy(logits, batch[1])

    grads = torch.autograd.grad(loss(params, weights_batch), list(params.values()), create_graph=True)
    settings, rate = found.config, annealed(found.config, found.epoch)
    ahead = {}
    for (name, p), g in zip(params.items(), grads, strict=True):
        ahead[name] = p - rate * (settings.momentum * found.sgd.buffer(name) + g + settings.w_decay * p)
    return list(torch.autograd.grad(loss(ahead, arch_batch), alphas.tensors()))


def test_exact_second_order_equals_double_backward_through_a_real_step() -> None:
    found, objective = prepared()
    for ours, theirs in zip(unrolled(objective).grads, brute_force(found), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-8, atol=1e-12)


def test_virtual_step_is_the_step_that_sgd_would_make() -> None:
    found, objective = prepared()
    grads = [torch.randn_like(p) for p in found.params.values()]
    ahead = objective.ahead(objective.weights, grads)
    found.sgd.step(grads, annealed(found.config, 0), found.config.momentum, found.config.w_decay)
    for name, p in found.params.items():
        torch.testing.assert_close(ahead[name], p.detach(), rtol=1e-12, atol=1e-14)


def test_virtual_step_has_no_momentum_before_the_first_real_step() -> None:
    found, objective = prepared(steps=0)
    grads = [torch.ones_like(p) for p in found.params.values()]
    rate, decay = annealed(found.config, 0), found.config.w_decay
    for name, w in objective.ahead(objective.weights, grads).items():
        p = found.params[name].detach()
        torch.testing.assert_close(w, p - rate * (1 + decay * p))


def test_published_difference_is_its_formula_step_by_step() -> None:
    """The eight steps of the released code on copies of the whole module, moved in place, as it does."""
    found, objective = prepared()
    weights_batch, arch_batch = found.task.batch("weights", 0, found.index), found.task.batch("arch", 0, found.index)
    net, rate, settings = found.net, annealed(found.config, 0), found.config

    def loss(module: torch.nn.Module, alphas: Alphas, batch: tuple[Tensor, Tensor]) -> Tensor:
        logits, _ = module(batch[0], type(found.read())(softmax_rows(alphas)))
        return torch.nn.functional.cross_entropy(logits, batch[1])

    params = list(net.parameters())
    g = torch.autograd.grad(loss(net, found.alphas, weights_batch), params)  # 1
    m = [settings.momentum * found.sgd.buffer(name) for name in found.params]  # 2
    copied = copy.deepcopy(net)
    with torch.no_grad():  # 3
        for p, q, mm, gg in zip(params, copied.parameters(), m, g, strict=True):
            q.copy_(p - rate * (mm + gg + settings.w_decay * p))
    alphas = found.alphas.leaves()
    wanted = [*alphas.tensors(), *copied.parameters()]
    grads = torch.autograd.grad(loss(copied, alphas, arch_batch), wanted)  # 4
    d, v = grads[: len(alphas.tensors())], grads[len(alphas.tensors()) :]
    radius = 0.01 / torch.cat([t.ravel() for t in v]).norm()  # 5
    sides = []
    for sign in (1, -1):  # 6
        moved = copy.deepcopy(net)
        with torch.no_grad():
            for q, vv in zip(moved.parameters(), v, strict=True):
                q.add_(sign * radius * vv)
        leaves = found.alphas.leaves()
        sides.append(torch.autograd.grad(loss(moved, leaves, weights_batch), leaves.tensors()))
    expected = [dd - rate * (p - n) / (2 * radius) for dd, p, n in zip(d, *sides, strict=True)]  # 7, 8
    for ours, theirs in zip(unrolled_fd(objective).grads, expected, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-9, atol=1e-13)


def test_second_order_differs_from_first_order() -> None:
    _, objective = prepared()
    first, exact = first_order(objective).grads, unrolled(objective).grads
    assert float(norm([a - b for a, b in zip(first, exact, strict=True)]) / norm(first)) > 1e-4


def test_no_gradient_leaves_a_trace_on_weights_or_alphas() -> None:
    found, objective = prepared()
    before = [p.detach().clone() for p in (*found.params.values(), *found.alphas.tensors())]
    for hypergrad in (first_order, unrolled_fd, unrolled):
        hypergrad(objective)
    for old, p in zip(before, (*found.params.values(), *found.alphas.tensors()), strict=True):
        assert torch.equal(old, p.detach()) and p.grad is None


# A bilevel problem with a closed form: L_train = (w - a)^2 / 2 + c a w^2, L_val = a w - 2 a + 1


def quadratic(a: float, w: float, rate: float, cubic: float = 0.0) -> Objective:
    def train(weights: dict[str, Tensor], alphas: Alphas) -> Loss:
        ww, aa = weights["w"], alphas.ops["x"]
        return Loss(((ww - aa) ** 2).sum() / 2 + cubic * (aa * ww**3).sum(), None, {})

    def val(weights: dict[str, Tensor], alphas: Alphas) -> Loss:
        ww, aa = weights["w"], alphas.ops["x"]
        return Loss((aa * ww - 2 * aa + 1).sum(), None, {})

    one = lambda x: torch.full((1, 1), x, dtype=torch.float64)  # noqa: E731
    alphas = Alphas({"x": one(a)}, {"x": torch.ones(1, 1, dtype=torch.bool)})
    ahead = lambda weights, grads: {"w": weights["w"] - rate * grads[0]}  # noqa: E731
    return Objective(train, val, ahead, {"w": one(w)}, alphas, rate)  # type: ignore[arg-type]


@pytest.mark.parametrize("rate", [0.0, 0.1, 0.5, 1.0])
def test_quadratic_has_its_closed_form(rate: float) -> None:
    a, w = 2.0, -2.0
    ahead = w - rate * (w - a)
    expected = (ahead - 2) + a * rate  # d/da of a w'(a) - 2 a + 1 with w'(a) = w - rate (w - a)
    for hypergrad in (unrolled, unrolled_fd):
        assert hypergrad(quadratic(a, w, rate)).grads[0].item() == pytest.approx(expected, rel=1e-9)


def test_finite_differences_approach_the_exact_gradient(monkeypatch: pytest.MonkeyPatch) -> None:
    objective = quadratic(1.3, 0.7, 0.2, cubic=2.0)
    exact = unrolled(objective).grads[0].item()
    errors = []
    for radius in (0.3, 0.1, 0.01):
        monkeypatch.setattr("darts_core.search.hypergrad.RADIUS", radius)
        errors.append(abs(unrolled_fd(objective).grads[0].item() - exact))
    assert errors[0] > 5 * errors[1] > 50 * errors[2] > 0  # a central difference: the error falls with the square


def brute_hessian(found: Search, order: tuple[str, int, int] = ("arch", 0, 0)) -> np.ndarray:
    """Row by row through the whole of loss(relax(alphas)), the weights as they are."""
    own = {name: p.detach() for name, p in found.params.items()}
    leaves = found.alphas.leaves()
    loss = found.evaluate(own, found.relax(leaves, "read"), found.task.batch(*order), "read").value  # type: ignore
    tensors = list(leaves.ops.values())
    legal = torch.cat([leaves.legal[kind].reshape(-1) for kind in leaves.ops])
    slope = torch.autograd.grad(loss, tensors, create_graph=True, materialize_grads=True)
    rows = []
    for entry in torch.cat([g.reshape(-1) for g in slope])[legal]:
        row = torch.autograd.grad(entry, tensors, retain_graph=True, materialize_grads=True)
        rows.append(torch.cat([r.reshape(-1) for r in row])[legal])
    return torch.stack(rows).numpy()


@pytest.mark.parametrize(("space", "backend"), [("tiny", "reference"), ("s2", "fast"), ("darts", "fast")])
def test_hessian_equals_a_double_backward_through_everything(space: str, backend: str) -> None:
    found = search(space=space, nodes=1, backend=backend, hessian_every=1, a_decay=0.0, temperature=0.7)
    found.alphas.legal["normal"][0, 1] = False  # a ban: its row and column are not there
    for alpha in found.alphas.tensors():
        alpha.data[-1, 0] += 9.0  # an edge that has all but made up its mind
    expected = brute_hessian(found, ("arch", 0, found.task.steps("weights") - 1))
    np.testing.assert_allclose(found.hessian(), expected, rtol=0, atol=1e-9 * np.abs(expected).max())


def test_hessian_of_a_relaxation_that_is_no_softmax() -> None:
    """Sigmoids: every logit counts, and the mix bends along each."""
    found = search(space="tiny", backend="fast", a_decay=0.0)
    found.method = replace(
        found.method, relax=lambda alphas, moment: Mix({k: a.sigmoid() for k, a in alphas.ops.items()})
    )
    expected = brute_hessian(found, ("arch", 0, found.task.steps("weights") - 1))
    np.testing.assert_allclose(found.hessian(), expected, rtol=0, atol=1e-9 * np.abs(expected).max())


def test_hessian_costs_one_backward_pass_per_direction_that_moves_the_mix() -> None:
    found, passes = search(space="tiny", backend="fast"), []
    relax = lambda alphas: found.relax(alphas, "read")  # noqa: E731

    class Counted(torch.autograd.Function):
        @staticmethod
        def forward(ctx: object, x: Tensor) -> Tensor:  # type: ignore[override]
            return x.clone()

        @staticmethod
        def backward(ctx: object, *grads: Tensor) -> Tensor:
            passes.append(1)
            return grads[0]

    def loss(mix: Mix) -> Tensor:
        return sum(Counted.apply(m).pow(3).sum() for m in mix.ops.values())  # type: ignore[return-value,union-attr]

    hessian = alpha_hessian(loss, relax, found.alphas)
    cells = found.task.space.cells.values()
    directions = sum(len(cell.edges) * (len(cell.ops) - 1) for cell in cells)
    assert len(hessian) == sum(len(cell.edges) * len(cell.ops) for cell in cells)
    assert len(passes) == len(cells) * (1 + directions)  # once for the slope, then once per direction


def test_dominant_eigenvalue_is_the_largest_not_the_largest_in_magnitude() -> None:
    rotation = np.linalg.qr(np.arange(9.0).reshape(3, 3) + np.eye(3))[0]
    assert dominant_eigenvalue(rotation @ np.diag([-5.0, 0.5, 2.0]) @ rotation.T) == pytest.approx(2.0)


def test_decay_stands_on_the_diagonal_of_the_hessian() -> None:
    found, _ = prepared()
    relax = lambda alphas: found.relax(alphas, "read")  # noqa: E731
    loss = lambda mix: sum(m.pow(3).sum() for m in mix.ops.values())  # noqa: E731
    plain, decayed = alpha_hessian(loss, relax, found.alphas), alpha_hessian(loss, relax, found.alphas, decay=0.25)
    np.testing.assert_allclose(decayed - plain, 0.25 * np.eye(len(plain)), atol=1e-12)


def test_gradients_of_float32_are_close_to_those_of_float64() -> None:
    grads: dict[torch.dtype, Hyper] = {}
    for dtype in (torch.float32, torch.float64):
        found = search(dtype)
        grads[dtype] = unrolled(found.objective(found.task.batch("weights", 0, 0), found.task.batch("arch", 0, 0)))
    for small, large in zip(grads[torch.float32].grads, grads[torch.float64].grads, strict=True):
        assert float((small.double() - large).norm() / large.norm()) < 1e-3
