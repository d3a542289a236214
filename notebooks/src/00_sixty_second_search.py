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
# # 00 · A search in sixty seconds
#
# **Afterwards you can** start a differentiable architecture search, watch it decide, stop it, and take the cell away.
# You need: a feeling for what a convolution is. Time: ten minutes, of which the computer works one.
#
# A convolutional network is a stack of *cells*, and somebody had to decide what happens inside a cell: which operation
# on which connection. DARTS (Liu, Simonyan and Yang 2019) lets gradient descent decide. It puts **all** candidate
# operations on **every** connection, gives each a weight, and trains those weights beside the ordinary ones. In the
# end only the strongest stay.
#
# Below, such a search really runs, on 8 x 8 pictures of handwritten digits, in a process of its own.

# %%
import json
import os

from app.process import start
from darts_core.config import preset_named
from darts_core.genotype import Genotype
from darts_core.runs import RunReader, runs_root
from darts_core.view.svg import genotype_svg
from darts_core.view.widgets import Cell, LiveRun

# a shorter search, for machines that only check this notebook
FAST = bool(os.environ.get("DARTS_NB_FAST"))

# %% [markdown]
# ## Start it
#
# `tiny` is the smallest preset: three operations, two nodes, here about half a minute. The board below is alive: each
# line is one connection of the cell, striped by how much each operation counts *now*. Press **Pause**, drag the slider
# of the alpha rate, press **Resume**: the notebook is not blocked, because the search is another process. What you ask
# for is done between two of its steps, and the line below the buttons says at which.

# %%
settings = preset_named("tiny").config(
    **({"epochs": 4, "retrain_epochs": 1} if FAST else {"epochs": 30})
)
launch = start(settings.to_dict(), runs_root())
live = LiveRun(launch.name, runs_root())
live

# %% [markdown]
# **What the picture says.** At the start all stripes are equally wide: nobody knows anything. Then the stripes of
# one operation grow on each line. The orange stripes are skip connections, which copy their input; when a cell turns
# all orange, the search has *collapsed* (notebook 06).
#
# The next cell waits for the end. While you wait, open the dashboard (`make run`): the same run is in its list, since
# notebook, dashboard and command line write and read the same folder.

# %%
live.wait(300)
print(live.state, "after", live.step, "steps", "|", launch.refusal() or "no complaint")
live.picture()  # how the board stood at the end, as a picture that stays in the notebook

# %% [markdown]
# ## What it found
#
# Per node the two strongest connections stay, each with its strongest operation (`none` is not allowed to win). That
# is the whole rule; notebook 05 looks at what it costs.

# %%
run = RunReader(runs_root(), launch.name)
events, _ = run.events()
result = next(event for event in events if event["type"] == "result")
genotype = Genotype.from_json(result["genotype"])
Cell(genotype)

# %% [markdown]
# ## Take it away
#
# The cell is data. Here it is as JSON, and as the text that the authors' own code reads; the command line writes
# files: `darts-workbench export NAME --format svg`.

# %%
print(json.dumps(genotype.to_json())[:300], "...\n")
print(genotype.text())
svg = genotype_svg(genotype)
print(f"\nan SVG drawing of {len(svg):,} bytes")

# %% [markdown]
# ## Was the search worth it?
#
# The only honest question. The tool trained the derived cell from scratch, and a random cell beside it, on the same
# data for the same time.

# %%
for event in events:
    if event["type"] == "trained":
        print(f"{event['role']:>9}: {event['test_accuracy']:.1%} of the test images right")

# %% [markdown]
# In spaces as small as this one, a search rarely beats a random cell by more than the spread between seeds. That is no
# fault of this notebook: the best published critiques say the same of large spaces (Li and Talwalkar 2020; Yang et al.
# 2020). What the search does show, and what the rest of these notebooks is about, is *how* such a decision comes
# about, and how it goes wrong.
#
# ## Exercises
#
# 1. Start the preset `collapse` in place of `tiny` and watch the colour of the lines. (It takes about half a minute.)
# 2. How many different cells could this search have found? Write it as a product before you look.

# %% jupyter={"outputs_hidden": true, "source_hidden": true} tags=["solution"]
space = settings.search_space()
for kind, cell in space.cells.items():
    per_node = [
        len(cell.edges_into(node)) * (len(cell.edges_into(node)) - 1) // 2
        for node in range(cell.nodes)
    ]
    choices = sum(op != "none" for op in cell.ops) ** 2
    product = 1
    for pairs in per_node:
        product *= pairs * choices
    print(
        f"{kind}: pairs of inputs per node {per_node}, {choices} pairs of operations: {product} cells"
    )

# %% [markdown]
# ## This notebook's claim, checked

# %%
assert live.state == "finished", live.state
assert run.step_count() == live.step == run.status().total_steps
assert set(genotype.cells) == set(space.cells)
assert Genotype.from_json(json.loads(json.dumps(genotype.to_json()))) == genotype
print("A real search ran, ended, and its cell survived the way to a file and back.")
