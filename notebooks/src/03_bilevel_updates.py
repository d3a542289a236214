# ---
# jupyter:
#   jupytext:
#     text_representation:
#       extension: .py
#       format_name: percent
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # 03 · Bilevel updates
#
# **Afterwards you can** derive the first-order and the second-order gradient of the alphas, say what each leaves out,
# and check an implementation against autograd. You need: derivatives, notebook 02. Time: twenty-five minutes.
#
# Weights $w$ and alphas $\alpha$ are not trained on the same loss. Weights fit the training half; the architecture is
# judged on the validation half, *at the weights that training would give it*:
#
# $$\min_\alpha\; L_{val}(w^*(\alpha), \alpha) \quad\text{with}\quad w^*(\alpha) = \arg\min_w L_{train}(w, \alpha)
# \qquad\text{(equations 3 and 4)}$$
#
# Training to the end for each small change of $\alpha$ is out of the question. DARTS takes **one** step of length
# $\xi$ in place of the end:
#
# $$w' = w - \xi\, \nabla_w L_{train}(w, \alpha)$$
#
# and differentiates through it:
#
# $$\nabla_\alpha L_{val}(w', \alpha) \;-\; \xi\, \nabla^2_{\alpha, w} L_{train}(w, \alpha)\; \nabla_{w'} L_{val}(w', \alpha)
# \qquad\text{(equation 7)}$$
#
# | name | what it does | cost |
# |---|---|---|
# | **first order** | sets $\xi = 0$: pretends that the weights do not answer to alpha | one backward pass |
# | **second order, published** | replaces the second term by a finite difference (equation 8) | about four |
# | **second order, exact** | lets autograd compute the second term | about three, more memory |

# %%
from collections.abc import Sequence

import ipywidgets
import numpy as np
import torch
from torch import Tensor

from darts_core.mix import Alphas
from darts_core.search.hypergrad import unrolled, unrolled_fd
from darts_core.search.method import Loss, Objective, Weights, first_order
from darts_core.view.widgets import Chart, Panel

ORDERS = {
    "first order": first_order,
    "second order, published": unrolled_fd,
    "second order, exact": unrolled,
}
COLOURS = {
    "first order": "#0072b2",
    "second order, published": "#009e73",
    "second order, exact": "#cc79a7",
}

# %% [markdown]
# ## A problem small enough to see
#
# One weight, one alpha (the toy of the paper's figure 2):
#
# $$L_{val}(w, \alpha) = \alpha w - 2\alpha + 1, \qquad L_{train}(w, \alpha) = w^2 - 2\alpha w + \alpha^2 = (w - \alpha)^2$$
#
# Training always pulls $w$ to $\alpha$, so the true problem is $\min_\alpha\, \alpha^2 - 2\alpha + 1$: the answer is
# $\alpha = w = 1$ with a validation loss of 0. The functions below that compute gradients are **the search's own**:
# what you see here is the code that searches cells.


# %%
def validation(w: Tensor, a: Tensor) -> Tensor:
    return a * w - 2 * a + 1


def training(w: Tensor, a: Tensor) -> Tensor:
    return (w - a) ** 2


def objective(w: float, a: float, xi: float) -> Objective:
    """The toy as the search sees a problem: two pure losses and a virtual step of plain gradient descent."""
    number = lambda x: torch.tensor([[x]], dtype=torch.float64)  # noqa: E731
    alphas = Alphas({"toy": number(a)}, {"toy": torch.ones(1, 1, dtype=torch.bool)})

    def loss(of) -> object:
        return lambda weights, alphas: Loss(of(weights["w"], alphas.ops["toy"]).sum(), None, {})

    def ahead(weights: Weights, grads: Sequence[Tensor]) -> Weights:
        return {"w": weights["w"] - xi * grads[0]}

    return Objective(loss(training), loss(validation), ahead, {"w": number(w)}, alphas, xi)


def gradient(name: str, w: float, a: float, xi: float) -> float:
    return float(ORDERS[name](objective(w, a, xi)).grads[0])


for name in ORDERS:
    print(f"{name:>24}: {gradient(name, w=-2.0, a=2.0, xi=0.25):+.6f}")

# %% [markdown]
# By hand at $w = -2$, $\alpha = 2$, $\xi = 0.25$: first order is $\partial L_{val}/\partial\alpha = w - 2 = -4$.
# For the second order $w' = w - 2\xi(w - \alpha) = 0$; the direct term is $w' - 2 = -2$, and
# $\nabla^2_{\alpha,w} L_{train} = -2$, $\nabla_{w'} L_{val} = \alpha = 2$, so the second term is
# $-\xi \cdot (-2) \cdot 2 = +1$. Together $-1$. First order overrates this step fourfold.
#
# ## Where does each rule end?
#
# Take turns: one step of alpha with the rule's gradient, then one step of $w$ on the training loss. Choose the start
# and $\xi$, and see where each path goes. The star is the true answer; the grey line is $w = \alpha$, where every
# training step pulls.

# %%
STEPS, A_RATE = 160, 0.1


def path(name: str, w: float, a: float, xi: float) -> np.ndarray:
    """(STEPS + 1, 2): alpha and w at every step of the alternation."""
    rate = xi
    points = [(a, w)]
    for _ in range(STEPS):
        a = a - A_RATE * gradient(name, w, a, xi)
        w = w - rate * 2 * (w - a)
        points.append((a, w))
    return np.array(points)


start_a = ipywidgets.FloatSlider(
    value=2, min=-2, max=3, step=0.1, description="start alpha", continuous_update=False
)
start_w = ipywidgets.FloatSlider(
    value=-2, min=-3, max=3, step=0.1, description="start w", continuous_update=False
)
xi = ipywidgets.FloatSlider(
    value=0.25, min=0.05, max=0.5, step=0.05, description="xi", continuous_update=False
)
answer = ipywidgets.HTML()
plane = Chart(
    [
        *({"name": n, "mode": "lines", "line": {"color": COLOURS[n], "width": 7 if "published" in n else 2.5}} for n in ORDERS),
        {"name": "w = alpha", "mode": "lines", "line": {"color": "#bbb", "dash": "dot"}, "x": [-3, 4], "y": [-3, 4]},
        {"name": "the answer", "mode": "markers", "marker": {"symbol": "star", "size": 14, "color": "#111"}, "x": [1], "y": [1]},
    ],
    {
        "title": "Paths of the three rules", "height": 460, "width": 720,
        "xaxis": {"title": {"text": "alpha"}, "range": [-2.5, 3.5]}, "yaxis": {"title": {"text": "w"}, "range": [-3.5, 3.5]},
    },
)  # fmt: skip


def redraw(_=None) -> None:
    tracks = {name: path(name, start_w.value, start_a.value, xi.value) for name in ORDERS}
    plane.put(*((track[:, 0], track[:, 1]) for track in tracks.values()))
    ends = "".join(
        f"<li>{name}: alpha {track[-1, 0]:.3f}, validation loss {(track[-1, 0] - 1) ** 2:.4f} once w is trained</li>"
        for name, track in tracks.items()
    )
    answer.value = f"<ul>{ends}<li>predicted for second order: 2 / (1 + 2 xi) = {2 / (1 + 2 * xi.value):.3f}</li></ul>"


for control in (start_a, start_w, xi):
    control.observe(redraw, "value")
redraw()
Panel([ipywidgets.HBox([start_a, start_w, xi]), plane, answer])

# %% [markdown]
# *Claim: first order ends at $\alpha = 2$, whatever you do: it never learns that $w$ will follow. Second order ends at
# $\alpha = 2/(1 + 2\xi)$, and reaches the truth only for $\xi = 1/2$, which is one over the curvature of the training
# loss: there, one step **is** training to the end.* The two second orders lie on each other here, since the toy is quadratic.
#
# So second order is not "the exact method": it is exact about **one step**. Whoever chooses $\xi$ chooses a bias.
# (In DARTS, $\xi$ is the learning rate of the weights.)
#
# ## Is the published finite difference the same as the exact term?
#
# Equation 8 approximates the product of a matrix and a vector by two gradients at $w \pm \epsilon v$, with
# $\epsilon = 0.01 / \lVert v \rVert$. On smooth losses the error is tiny. On networks with ReLU and max pooling it is
# not always, since a step of $\epsilon$ may cross a kink. Here, on a real (tiny) supernet in float64:

# %%
from darts_core import data
from darts_core.config import preset_named
from darts_core.methods.darts import darts
from darts_core.search.bilevel import Host, Search
from darts_core.tasks import ImageTask

settings = preset_named("tiny").config(backend="reference", channels=4, batch=16, arch_batch=16)
images = data.load("digits", seed=0)
search = Search(darts, ImageTask(settings, images, dtype=torch.float64), settings, Host())
steps = search.run()
for _ in range(12):
    next(steps)  # a few real steps, so that momentum and alphas are not zero

# %%
problem = search.objective(search.task.batch("weights", 1, 0), search.task.batch("arch", 1, 0))
found = {
    name: torch.cat([g.double().flatten() for g in rule(problem).grads])
    for name, rule in ORDERS.items()
}
exact = found["second order, exact"]
for name, vector in found.items():
    error = float((vector - exact).norm() / exact.norm())
    angle = float(torch.nn.functional.cosine_similarity(vector, exact, dim=0))
    print(f"{name:>24}: relative error {error:.2e}, cosine {angle:.6f}")

# %% [markdown]
# *Claim: here the published difference is about as far from the exact gradient as first order is.* That is no mistake
# in the code: on the way of length $\epsilon$ some ReLU or maximum of a pool switches, and a difference across a kink
# is no derivative. A smaller radius does not help at once, since the jump is then divided by a smaller step; only when
# no kink is left on the way does the difference fall to the exact term (and to the rounding of float32 alphas):

# %%
weights = {name: w.detach().requires_grad_() for name, w in problem.weights.items()}
grads = torch.autograd.grad(problem.train(weights, problem.alphas).value, list(weights.values()))
virtual = {
    name: w.detach().requires_grad_() for name, w in problem.ahead(problem.weights, grads).items()
}
leaves = problem.alphas.leaves()
both = torch.autograd.grad(
    problem.val(virtual, leaves).value, [*leaves.tensors(), *virtual.values()]
)
direct, v = both[: len(leaves.tensors())], both[len(leaves.tensors()) :]
length = torch.stack([part.norm() for part in v]).norm()


def alpha_gradient(distance: float) -> list[Tensor]:
    """The training loss's gradient for alpha at w + distance * v."""
    moved = {
        n: w + distance * part for (n, w), part in zip(problem.weights.items(), v, strict=True)
    }
    at = problem.alphas.leaves()
    return list(torch.autograd.grad(problem.train(moved, at).value, at.tensors()))


def equation_8(radius: float) -> Tensor:
    eps = float(radius / length)
    pairs = zip(direct, alpha_gradient(eps), alpha_gradient(-eps), strict=True)
    return torch.cat(
        [
            (d - problem.rate * (plus - minus) / (2 * eps)).double().flatten()
            for d, plus, minus in pairs
        ]
    )


errors = {
    r: float((equation_8(r) - exact).norm() / exact.norm()) for r in (1e-1, 1e-2, 1e-3, 1e-4, 1e-5)
}
Chart(
    [{"x": list(errors), "y": list(errors.values()), "mode": "lines+markers", "line": {"color": COLOURS["second order, published"]}}],
    {
        "title": "Relative error of equation 8 by its radius (the paper's: 0.01)", "height": 320, "width": 640,
        "xaxis": {"type": "log", "exponentformat": "power", "dtick": 1, "title": {"text": "radius"}}, "yaxis": {"type": "log", "exponentformat": "power", "dtick": 1, "title": {"text": "error"}},
    },
)  # fmt: skip

# %% [markdown]
# *Claim: a radius ten times smaller than the paper's is no better here; one a hundred times smaller is, since no kink is left on
# the way.*
#
# The project offers both: `order=2` as published, since that is what the paper ran, and `order=exact`. Several
# published reimplementations got the finite difference wrong by a missing pair of parentheses, and nobody noticed,
# because searches ran anyway. The remedy is the next cell: check against autograd through the whole step.
#
# ## The check that finds such mistakes
#
# Differentiate the *definition* $L_{val}(w'(\alpha), \alpha)$ with autograd, without any formula, and compare.

# %%
leaves = problem.alphas.leaves()
weights = {name: w.detach().requires_grad_() for name, w in problem.weights.items()}
grads = torch.autograd.grad(
    problem.train(weights, leaves).value, list(weights.values()), create_graph=True
)
whole = problem.val(problem.ahead(weights, grads), leaves).value
truth = torch.cat([g.double().flatten() for g in torch.autograd.grad(whole, leaves.tensors())])
print(
    "exact rule against autograd through the definition:",
    float((exact - truth).norm() / truth.norm()),
)

# %% [markdown]
# ## Common errors, settled
#
# - *"DARTS uses reinforcement learning."* It does not: every number above is a gradient, and notebook 04, which
#   is all of DARTS, has no reward and no sampled cell in it. (NASNet and ENAS have.)
# - *"The finite difference is exact."* It is not; you have the number above.
# - *"Second order finds the true optimum."* Only for the right $\xi$; you saw the bias.
#
# ## Exercises
#
# 1. Show that $\alpha = w = 2/(1 + 2\xi)$ is where the second-order rule stands still.
# 2. Halve the finite difference's radius on the toy. Why does nothing change?

# %% jupyter={"outputs_hidden": true, "source_hidden": true} tags=["solution"]
for x in (0.1, 0.25, 0.5):
    fixed = 2 / (1 + 2 * x)
    print(
        f"xi {x}: gradient at the fixed point {gradient('second order, exact', fixed, fixed, x):+.1e}"
    )
print(
    "The toy's losses are quadratic: a central difference of a linear gradient is exact for every radius."
)

# %% [markdown]
# ## This notebook's claims, checked

# %%
assert abs(gradient("first order", -2, 2, 0.25) + 4) < 1e-12
assert abs(gradient("second order, exact", -2, 2, 0.25) + 1) < 1e-12
assert abs(path("first order", -2, 2, 0.25)[-1, 0] - 2) < 0.01
for x in (0.1, 0.25, 0.5):
    assert abs(path("second order, exact", -2, 2, x)[-1, 0] - 2 / (1 + 2 * x)) < 0.01
    assert abs(gradient("second order, exact", 2 / (1 + 2 * x), 2 / (1 + 2 * x), x)) < 1e-12
assert float((exact - truth).norm() / truth.norm()) < 1e-6  # alphas are float32
assert np.isclose(
    errors[1e-2], float((found["second order, published"] - exact).norm() / exact.norm()), rtol=1e-3
)
assert errors[1e-4] < errors[1e-2] / 5 and errors[1e-3] > errors[1e-2] / 2, errors
assert float((found["first order"] - exact).norm() / exact.norm()) > 0.1
print(
    "First order ends at 2, second order at 2/(1 + 2 xi); the exact rule equals autograd, the published one nears it."
)
