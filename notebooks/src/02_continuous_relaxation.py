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
# # 02 · The continuous relaxation
#
# **Afterwards you can** write a mixed operation, explain what alpha, the softmax and the temperature do, and say what
# is *not* the same after the relaxation. You need: notebook 01. Time: fifteen minutes.
#
# An edge must choose one of eight operations. A choice has no gradient. DARTS replaces it by a weighted sum of **all**
# operations, and lets the weights be a softmax of free numbers, the **alphas**:
#
# $$\bar o^{(i,j)}(x) = \sum_{o \in \mathcal O} \frac{\exp(\alpha_o^{(i,j)})}{\sum_{o'} \exp(\alpha_{o'}^{(i,j)})}\; o(x)
# \qquad\text{(equation 2)}$$
#
# In this project the alphas are called `alphas`, their softmax is the **mix**, and a network is a function of both
# the images and the mix: `net(x, mix)`.

# %%
import ipywidgets
import numpy as np
import torch

from darts_core.mix import Alphas
from darts_core.nets.mixed import MixedOperation
from darts_core.search.method import softmax_rows
from darts_core.space import space_named
from darts_core.view.palette import colours
from darts_core.view.widgets import Chart, Panel, Ribbon

torch.manual_seed(0)
space = space_named("tiny")
cell = space.cells["normal"]
print(cell.ops)

# %% [markdown]
# ## A mixed operation, written out
#
# The supernet's own module computes exactly equation 2. To see that, do it by hand on one small image.

# %%
edge = MixedOperation(cell, edge=0, channels=4, stride=1)
x = torch.randn(2, 4, 8, 8)
alpha = torch.tensor([0.5, -1.0, 2.0], requires_grad=True)
weights = torch.softmax(alpha, dim=-1)

by_module = edge(x, weights, {})
by_hand = sum(w * op(x) for w, op in zip(weights, edge.candidates.values(), strict=True))
print("largest difference:", float((by_module - by_hand).detach().abs().max()))

# %% [markdown]
# And now the point of it all: the output has a gradient for alpha. "A little more of this operation" is a direction
# in which the loss can go down.

# %%
(slope,) = torch.autograd.grad(by_module.square().mean(), alpha)
print({op: round(float(s), 4) for op, s in zip(cell.ops, slope, strict=True)})
print(
    "they sum to",
    round(float(slope.sum()), 7),
    "because adding a constant to all alphas changes nothing",
)

# %% [markdown]
# ## Play with it
#
# Three alphas and a temperature $T$ (the alphas are divided by $T$ before the softmax). Bars, ribbon and the mixed
# feature map follow. Find: (a) alphas that differ by 2 at $T = 1$; (b) the same alphas at $T = 0.1$ and $T = 10$.

# %%
sliders = {
    op: ipywidgets.FloatSlider(
        value=value, min=-4, max=4, step=0.1, description=op, style={"description_width": "110px"}
    )
    for op, value in zip(cell.ops, (0.0, 1.0, 0.0), strict=True)
}
temperature = ipywidgets.FloatLogSlider(
    value=1,
    min=-1,
    max=1,
    step=0.05,
    description="temperature",
    style={"description_width": "110px"},
)
ribbon = Ribbon(cell, np.full(cell.shape, 1 / 3), "All edges under these alphas")
bars = Chart(
    [
        {
            "type": "bar",
            "x": list(cell.ops),
            "y": [1 / 3] * 3,
            "marker": {"color": colours(cell.ops)},
        }
    ],
    {
        "title": "the mix: softmax(alpha / T)",
        "yaxis": {"range": [0, 1]},
        "height": 260,
        "width": 380,
    },
)
maps = Chart(
    [{"type": "heatmap", "z": np.zeros((8, 8)), "colorscale": "Greys", "showscale": False}],
    {
        "title": "first channel of the mixed output",
        "height": 260,
        "width": 300,
        "yaxis": {"scaleanchor": "x"},
    },
)


def mix_now() -> torch.Tensor:
    """(edges, ops): every edge under the sliders' alphas."""
    row = torch.tensor([slider.value for slider in sliders.values()])
    ops = {"normal": row.expand(cell.shape).clone()}
    legal = {"normal": torch.from_numpy(cell.legal_array())}
    return softmax_rows(Alphas(ops, legal), temperature.value)["normal"]


def redraw(_=None) -> None:
    mix = mix_now()
    ribbon.show(mix.numpy())
    bars.data[0].y = mix[0].tolist()
    with torch.no_grad():
        maps.data[0].z = edge(x, mix[0], {})[0, 0].numpy()


for control in (*sliders.values(), temperature):
    control.observe(redraw, "value")
redraw()
Panel([ipywidgets.HBox([ipywidgets.VBox([*sliders.values(), temperature]), bars, maps]), ribbon])

# %% [markdown]
# *Claim: temperature changes how decided the mix is, never the order of the operations.*
#
# ## How decided is a mix? Entropy
#
# The entropy $-\sum_o p_o \ln p_o$ of an edge's mix is $\ln 3 = 1.10$ nats for three equal operations and 0 for a
# decided edge. The dashboard draws it during a search.

# %%
grid = np.linspace(0.1, 10, 100)
row = np.array([0.0, 1.0, 0.0])


def entropy_at(t: float) -> float:
    p = np.exp(row / t) / np.exp(row / t).sum()
    return float(-(p * np.log(p)).sum())


Chart(
    [{"x": grid, "y": [entropy_at(t) for t in grid], "mode": "lines", "line": {"color": "#333"}}],
    {
        "title": "Entropy of softmax((0, 1, 0) / T) in nats",
        "xaxis": {"title": {"text": "T"}},
        "height": 300,
    },
)

# %% [markdown]
# *Claim: at low temperature the mix is nearly a choice, at high temperature nearly a mean.*
#
# ## What the relaxation is not
#
# The relaxed cell computes a **sum** of operations; the derived cell computes **one**. Between the two lies a gap
# (notebook 05): even at a weight of 90 % for the strongest operation, the other 10 % were part of what the weights
# were trained with. And `none` is a subtle guest: it adds zero, so its weight only takes strength away from the others.
# That is why the derivation rule does not let it win.
#
# ## Exercises
#
# 1. **Max-W** (sharpDARTS) replaces the mix $w$ by $1 - \max(w) + w$. What is the largest entry then? And the sum?
# 2. Why do two alphas that are equal stay equal, if their operations give the same output?

# %% jupyter={"outputs_hidden": true, "source_hidden": true} tags=["solution"]
w = torch.softmax(alpha.detach(), -1)
max_w = 1 - w.max() + w
print(
    "largest:",
    round(float(max_w.max()), 6),
    "sum:",
    round(float(max_w.sum()), 4),
    "against",
    round(float(w.sum()), 4),
)
a = torch.zeros(2, requires_grad=True)
same = torch.softmax(a, -1) @ torch.tensor([3.0, 3.0])
(equal,) = torch.autograd.grad(same, a)
print(
    "gradient of two equal operations:",
    equal.tolist(),
    "- nothing tells them apart, so nothing moves",
)

# %% [markdown]
# ## This notebook's claims, checked

# %%
assert torch.allclose(by_module, by_hand, atol=1e-6)
assert abs(float(slope.sum())) < 1e-6
for t in (0.1, 1.0, 10.0):
    temperature.value = t
    assert (
        mix_now()[0].argsort().tolist()
        == torch.tensor([s.value for s in sliders.values()]).argsort().tolist()
    )
assert np.isclose(ribbon.mix().sum(-1), 1, atol=1e-4).all(), "the ribbon shows the mix"
assert entropy_at(0.1) < 0.01 and abs(entropy_at(10) - np.log(3)) < 0.01
assert abs(float(max_w.max()) - 1) < 1e-6 and float(equal.abs().max()) == 0
temperature.value = 1.0
print("A mixed operation is equation 2, it has a gradient, and temperature keeps the order.")
