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
# # 01 · Cells, edges, operations
#
# **Afterwards you can** read a cell, say what its parts are called, count how many there are, and see what one costs.
# You need: notebook 00. Time: fifteen minutes.
#
# DARTS does not search whole networks. It searches one small directed graph, the **cell**, and stacks copies of it.
#
# | word | what it is |
# |---|---|
# | **state** | a stack of feature maps: the two cell inputs, then one per node |
# | **node** | the sum of what arrives over its edges (equation 1 of the paper) |
# | **edge** $(i, j)$ | a connection from an earlier state $i$ to node $j$ |
# | **operation** $o$ | what the edge does with what passes over it: a convolution, a pool, a skip connection |
# | **genotype** | for each node: which edges stay, and with which operation |
#
# $$x^{(j)} = \sum_{i<j} o^{(i,j)}\bigl(x^{(i)}\bigr) \qquad\text{(equation 1)}$$

# %%
import random
from math import comb, prod

import ipywidgets
import numpy as np
import torch

from darts_core.derive import kept_edges, one_hot
from darts_core.genotype import CellGenes, Gene, Genotype, random_genotype
from darts_core.nets.fixed import Network, parameters
from darts_core.ops import OPS, build
from darts_core.space import space_named
from darts_core.view.widgets import Cell, Panel, Ribbon

space = space_named("darts")
cell = space.cells["normal"]
print(
    f"{cell.inputs} inputs, {cell.nodes} nodes, {len(cell.edges)} edges, {len(cell.ops)} operations on each edge"
)

# %% [markdown]
# ## The whole graph, before anything is decided
#
# Every edge carries all eight operations, in equal parts. Point at a stripe; click an edge. Both inputs come from the
# two cells before this one ($c_{k-1}$ is the previous cell, $c_{k-2}$ the one before it); the output glues all nodes
# together.

# %%
even = np.full(cell.shape, 1 / len(cell.ops))
Ribbon(cell, even, "The DARTS cell, undecided")

# %% [markdown]
# *Claim: node 3 sees five earlier states, node 0 only two; that is why a cell with 4 nodes has 2 + 3 + 4 + 5 = 14
# edges.*
#
# ## One operation, alone
#
# All operations keep the size of the feature maps (or halve it, in a reduction cell), so that they can be exchanged
# freely. They differ widely in what they cost.

# %%
x = torch.randn(1, 16, 8, 8)
for op in OPS:
    if op in cell.ops:
        module = build(op, 16, 1, search=False)
        count = sum(p.numel() for p in module.parameters())
        print(f"{op:>14}: {tuple(x.shape)} -> {tuple(module(x).shape)}, {count:>5} parameters")

# %% [markdown]
# *Claim: four of the eight operations have no parameters at all. A search that is drawn to them makes small, weak
# networks; remember this in notebook 06.*
#
# ## A derived cell
#
# In the end each node keeps two edges, each with one operation. A **random** cell is as good a cell as any to look at.
# Choose what each edge does, and see the drawing and the parameters of a network of such cells change.

# %%
rng = random.Random(0)
genotype = random_genotype(space, rng)
Cell(genotype, ["normal"])

# %%
choices = [op for op in cell.ops if op != "none"]
genes = [gene for node in genotype.cells["normal"].nodes for gene in node]
plain = str.maketrans({"{": None, "}": None})  # c_{k-2} as a menu can write it
menus = [
    ipywidgets.Dropdown(
        options=choices,
        value=gene.op,
        description=f"{cell.state_label(gene.source)} → node {index // 2}".translate(plain),
        style={"description_width": "110px"},
    )
    for index, gene in enumerate(genes)
]
picture = Ribbon(
    cell,
    one_hot(cell, genotype.cells["normal"]),
    "The cell you chose",
    kept_edges(cell, genotype.cells["normal"]),
)
words = ipywidgets.HTML()


def chosen() -> Genotype:
    """The genotype that the menus describe."""
    new = [Gene(menu.value, gene.source) for menu, gene in zip(menus, genes, strict=True)]
    nodes = tuple(tuple(new[2 * node : 2 * node + 2]) for node in range(cell.nodes))
    return Genotype(space.name, {**genotype.cells, "normal": CellGenes(nodes, cell.output)})


def redraw(_=None) -> None:
    now = chosen()
    picture.show(one_hot(cell, now.cells["normal"]), kept_edges(cell, now.cells["normal"]))
    net = Network(
        now,
        image_channels=3,
        classes=10,
        channels=16,
        cells=8,
        reductions=(2, 5),
        stem_multiplier=3,
    )
    words.value = (
        f"A network of 8 such cells with 16 channels has <b>{parameters(net):,}</b> parameters."
    )


for menu in menus:
    menu.observe(redraw, "value")
redraw()
Panel([ipywidgets.HBox([ipywidgets.VBox(menus), ipywidgets.VBox([picture, words])])])

# %% [markdown]
# *Claim: the same wiring with other operations differs several times over in parameters.*
#
# ## How many cells are there?
#
# Node $j$ (counting from 0) chooses 2 of its $j + 2$ incoming edges, and one of 7 operations for each:
# $\prod_{j=0}^{3} \binom{j+2}{2} \, 7^2$. There are two kinds of cell, normal and reduction.

# %%
per_cell = prod(comb(node + 2, 2) * 7**2 for node in range(4))
print(f"one kind of cell: {per_cell:,}; both: {per_cell**2:.2e}")

# %% [markdown]
# About $10^{18}$. At one second of training for each, that is more than the age of the universe, so nobody tries them
# all; nobody has to, if each *edge* can be judged while it works. That is the idea of the next notebook.
#
# ## Exercises
#
# 1. Which cell of this space has the most parameters, which the fewest? Set the menus and read the number.
# 2. How does the count grow if a cell has 5 nodes?

# %% jupyter={"outputs_hidden": true, "source_hidden": true} tags=["solution"]
counts = {}
for op in ("sep_conv_5x5", "skip_connect"):
    for menu in menus:
        menu.value = op
    counts[op] = parameters(
        Network(chosen(), 3, 10, channels=16, cells=8, reductions=(2, 5), stem_multiplier=3)
    )
for menu, gene in zip(menus, genes, strict=True):
    menu.value = gene.op  # the picture above as it was
five = prod(comb(node + 2, 2) * 7**2 for node in range(5))
print(counts, f"five nodes: {five / per_cell:.0f} times as many cells of one kind")

# %% [markdown]
# ## This notebook's claims, checked

# %%
assert len(cell.edges) == 2 + 3 + 4 + 5
free = [op for op in cell.ops if not list(build(op, 16, 1, search=False).parameters())]
assert free == ["none", "max_pool_3x3", "avg_pool_3x3", "skip_connect"]
assert 1e18 < per_cell**2 < 2e18
assert counts["sep_conv_5x5"] > 2 * counts["skip_connect"]
assert five == per_cell * comb(6, 2) * 49
print("14 edges, four free operations, about 10^18 cells.")
