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
# # 05 · Derivation and its gap
#
# **Afterwards you can** derive a cell from a mix, name other rules than the paper's, and say where accuracy is lost
# between the search and the network that comes out of it. You need: notebooks 01 and 02. Time: twenty minutes.
#
# A search ends with a mix, but a network needs a choice. The paper's rule (section 2.4): per node keep the **two** edges
# whose best operation (never `none`) weighs most, each with that operation. Everything else is thrown away at once.
#
# The numbers below come from runs that this tool recorded (`data/samples`): the same search on clean labels and on
# labels of which 40 % are random. Nothing is drawn by hand.

# %%
import ipywidgets
import numpy as np

from darts_core.derive import RULES, derive, derive_by, kept_edges, one_hot, readings, strongest
from darts_core.genotype import Genotype
from darts_core.runs import RunReader, samples_root
from darts_core.space import SearchSpace
from darts_core.view import tables
from darts_core.view.palette import FONT
from darts_core.view.widgets import Chart, Panel, Ribbon

SAMPLES = samples_root()
run = RunReader(SAMPLES, "healthy")
space = SearchSpace.from_json(run.info["space"])
cell = space.cells["normal"]
steps = run.steps()
events, _ = run.events()
print(
    f"{len(steps)} recorded steps of a search in the space {space.name!r} with the operations {cell.ops}"
)

# %% [markdown]
# ## The rule, by hand
#
# One node with three incoming edges, two operations. The best operation of each edge scores the edge; the two best
# edges stay.

# %%
last = tables.mixes_at(steps, len(steps) - 1, space)["normal"]
node = 1
for edge in cell.edges_into(node):
    source, _ = cell.edges[edge]
    words = ", ".join(f"{op} {weight:.2f}" for op, weight in zip(cell.ops, last[edge], strict=True))
    print(f"{cell.state_label(source):>8} -> node {node}: {words}")
print("kept:", [tuple(gene) for gene in strongest(cell, last).nodes[node]])

# %% [markdown]
# ## Scrub through the search
#
# Drag the slider: the ribbon is the mix at that step, and the edges that the rule would drop **now** are faded. While
# the stripes move slowly, the derived cell jumps: the rule turns a hair's breadth into a decision.

# %%
slider = ipywidgets.IntSlider(
    value=len(steps) - 1, min=0, max=len(steps) - 1, description="record", layout={"width": "600px"}
)
ribbon = Ribbon(
    cell, last, "The mix, with what derivation drops faded", kept_edges(cell, strongest(cell, last))
)
says = ipywidgets.HTML()


def show(_=None) -> None:
    mix = tables.mixes_at(steps, slider.value, space)["normal"]
    genes = strongest(cell, mix)
    ribbon.show(mix, kept_edges(cell, genes))
    says.value = f"step {steps['step'][slider.value]}: " + ", ".join(
        gene.op for at in genes.nodes for gene in at
    )


slider.observe(show, "value")
show()
Panel([slider, says, ribbon])

# %%
changes = tables.derived_changes(steps, space)
half = steps["step"][-1] / 2
print(
    f"the derived cell changed {len(changes)} times, {sum(c > half for c in changes)} of them in the second half"
)

# %% [markdown]
# ## How sure is it? The margin
#
# An edge with 51 % against 49 % counts as much as one with 99 % against 1 %. The margin between the best operation and
# the runner-up tells them apart; the rule does not look at it.

# %%
ordered = np.sort(last, axis=-1)
margins = ordered[:, -1] - ordered[:, -2]
names = [f"{cell.state_label(i)} → {cell.state_label(j)}" for i, j in cell.edges]
names = [name.replace("{", "").replace("}", "") for name in names]  # c_k-2: a chart knows no TeX
Chart(
    [{"type": "bar", "x": names, "y": margins, "marker": {"color": ["#333" if k else "#bbb" for k in kept_edges(cell, strongest(cell, last))]}}],
    {"title": "Margin of the best operation over the next (kept edges dark)", "yaxis": {"range": [0, 1]}, "height": 320, "font": {"family": FONT}},
)  # fmt: skip

# %% [markdown]
# *Claim: the margins differ several times over; where they are small, a small push turns the choice.*
#
# ## The gap
#
# Three numbers that must never be confused, all on the same clean test images:
#
# 1. the **supernet**, with all operations in their weights;
# 2. the supernet **pruned** to the derived cell, weights as they are;
# 3. the **derived** cell, trained from scratch (and random cells, trained likewise).

# %%
roles = {
    "supernet": "the supernet",
    "pruned": "pruned at once",
    "derived": "derived, trained anew",
    "random": "random cells",
}
gap = {}
for name in ("healthy", "collapsing"):
    spread = tables.trained(RunReader(SAMPLES, name).events()[0])
    gap[name] = {role: spread[role] for role in roles}
bars = [
    {
        "type": "bar", "name": title, "x": list(roles.values()), "y": [gap[name][role].mean for role in roles],
        "marker": {"color": colour},
        "error_y": {
            "type": "data", "symmetric": False,
            "array": [gap[name][role].high - gap[name][role].mean for role in roles],
            "arrayminus": [gap[name][role].mean - gap[name][role].low for role in roles],
        },
    }
    for name, title, colour in (("healthy", "clean labels", "#333"), ("collapsing", "40 % random labels", "#999"))
]  # fmt: skip
Chart(
    bars,
    {
        "title": "Test accuracy (bars: lowest to highest of the trainings)",
        "yaxis": {"range": [0, 1], "tickformat": ".0%"},
        "height": 380,
    },
)

# %% [markdown]
# *Claim: on clean labels the supernet is right on most images, the pruned net loses much of that at once, and training anew
# brings more than was lost. So the weights of the search are worth little for the derived cell; what it hands over is
# the choice.* And: the random cells do as well here as the derived one. In the collapsed search, the derived cell (all
# skips) is clearly worse than random ones.
#
# ## Other rules, same alphas
#
# The paper's rule is one of several. Here are the project's, on the same mix; the dashboard puts them side by side.

# %%
for name, rule in RULES.items():
    print(f"{name:>16}: {rule.doc} ({rule.source})")

# %%
menu = ipywidgets.Dropdown(
    options={rule.title: name for name, rule in RULES.items()}, description="rule"
)
threshold = ipywidgets.FloatSlider(value=0.5, min=0.1, max=0.9, step=0.05, description="threshold")
cut = Ribbon(cell, last, "The cell that this rule gives")
counted = ipywidgets.HTML()


def derive_now(_=None) -> None:
    genes = derive_by(space, readings(space, steps[-1]), menu.value, threshold.value).cells[
        "normal"
    ]
    cut.show(one_hot(cell, genes), kept_edges(cell, genes))
    counted.value = f"{sum(len(at) for at in genes.nodes)} operations stay"


menu.observe(derive_now, "value")
threshold.observe(derive_now, "value")
derive_now()
Panel([ipywidgets.HBox([menu, threshold, counted]), cut])

# %% [markdown]
# ## Exercises
#
# 1. Derive the cell at the record where the collapsing run first had four skips. What would stopping there have given?
# 2. What does the rule do with two edges of exactly equal score?

# %% jupyter={"outputs_hidden": true, "source_hidden": true} tags=["solution"]
sick = RunReader(SAMPLES, "collapsing").steps()
skips = [
    derive(space, tables.mixes_at(sick, i, space)).count("skip_connect") for i in range(len(sick))
]
first = next(i for i, count in enumerate(skips) if count >= 4)
print(f"four skips first at step {sick['step'][first]}; at the end there are {skips[-1]}")
tie = np.full(cell.shape, 0.5)
print(
    "equal scores keep the lower source:",
    [[gene.source for gene in at] for at in strongest(cell, tie).nodes],
)

# %% [markdown]
# ## This notebook's claims, checked

# %%
healthy = gap["healthy"]
assert healthy["supernet"].mean - healthy["pruned"].mean > 0.2
assert healthy["derived"].mean > healthy["supernet"].mean
assert abs(healthy["derived"].mean - healthy["random"].mean) < 0.02
assert gap["collapsing"]["derived"].mean < gap["collapsing"]["random"].mean - 0.05
assert margins.min() < margins.max() / 2
assert len(changes) > 10
assert strongest(cell, tie).nodes[2][0].source == 0
recorded = next(e for e in events if e["type"] == "result")["genotype"]
assert (
    derive(space, {"normal": last}).to_json() == recorded == Genotype.from_json(recorded).to_json()
)
print(
    "The rule gives the recorded cell; the gap is there; training anew closes it; random cells do as well."
)
