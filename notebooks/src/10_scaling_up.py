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
# # 10 · Scaling up
#
# **Afterwards you can** run searches from the command line, trust them to survive a killed process, run many seeds and
# many settings on one machine or on several, read the results from the run folders, and say beforehand what a larger
# search will cost. You need: notebooks 00 and 05. Time: twenty-five minutes.
#
# One search proves little. The sentence "this setting is better" needs seeds, a budget that is equal for all, and
# something to compare with; and once a search takes a day, it must not be lost. All of it rests on one thing: **a run is a
# folder**, which the process writes and everybody else only reads.

# %%
import os
import statistics
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from html import escape
from pathlib import Path

import ipywidgets
import numpy as np
import torch

from darts_core import tally
from darts_core.calibrate import calibrate
from darts_core.config import preset_named
from darts_core.cost import costs_of, image_of
from darts_core.estimate import estimate
from darts_core.runs import RunReader, list_runs, samples_root
from darts_core.view.widgets import Chart, Panel

FAST = bool(os.environ.get("DARTS_NB_FAST"))
RUNS = (
    Path(tempfile.mkdtemp(prefix="darts-sweep-")) / "runs"
)  # a folder of its own for all runs of this notebook
PLAIN = os.environ | {"COLUMNS": "110", "NO_COLOR": "1", "OMP_NUM_THREADS": "1"}

# %% [markdown]
# ## The command line
#
# Everything that the dashboard and the notebooks do is a word of one program, `darts-workbench`, in any terminal.
# (`python -m darts_core` is the same; `--help` after each word.) This function types for us:


# %%
def started(*words: str) -> subprocess.Popen:
    """Start the program with these words on the runs of this notebook, as in a terminal that nobody looks at."""
    command = [sys.executable, "-m", "darts_core", *words, "--runs", str(RUNS)]
    return subprocess.Popen(
        command, env=PLAIN, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )


def program(*words: str) -> subprocess.CompletedProcess:
    """The same, and wait for its end."""
    command = [sys.executable, "-m", "darts_core", *words, "--runs", str(RUNS)]
    return subprocess.run(command, capture_output=True, text=True, env=PLAIN)


def say(*words: str) -> subprocess.CompletedProcess:
    """The same, shown with the end of what it printed."""
    done = program(*words)
    print("$ darts-workbench", *words)
    print(*(done.stdout + done.stderr).rstrip().splitlines()[-8:], sep="\n")
    return done


# the longest job of this notebook needs nobody to watch it: it goes first, and is read far below
COMPARE = ["--preset", "known", "--methods", "darts,random:score=table:trials=20", "--seeds", "0" if FAST else "0-1",
           "--set", "label_noise=0.4", "--set", "backend=fast", "--set", "arch_batch=60",
           "--budget", "1epochs" if FAST else "4epochs", "--name", "small"]  # fmt: skip
comparing = started("compare", *COMPARE)

SHORT = ["--preset", "tiny", "--backend", "fast", "--set", f"epochs={2 if FAST else 6}", "--set", "retrain_epochs=0",
         "--set", "random_cells=0", "--set", "threads=1"]  # fmt: skip
if FAST:
    SHORT += ["--set", "subset=600", "--set", "batch=30"]  # half of the images, as many steps
began = time.monotonic()
say("search", *SHORT, "--name", "whole")
alone = time.monotonic() - began
print(f"\n{alone:.1f} s, most of it to start Python and torch")

# %% [markdown]
# ## Kill it
#
# The same search once more, under another name and at a walking pace. After a dozen steps its process is killed: not
# Ctrl-C, which would let it save, but the signal that no program can catch. So it is with a power cut, a full memory or
# the end of a time slot in a cluster.

# %%
victim = started("search", *SHORT, "--set", "pace=15", "--name", "killed")
limit = time.monotonic() + 120
while time.monotonic() < limit and victim.poll() is None:
    if (RUNS / "killed" / "run.json").is_file() and RunReader(RUNS, "killed").status().step >= 12:
        break
    time.sleep(0.02)
victim.kill()
victim.wait()
left = RunReader(RUNS, "killed").status()
print(f"{left.state} after step {left.step} of {left.total_steps}: {left.message}")

# %% [markdown]
# Nothing said goodbye, and yet every step that was shown is there, each in a record with a checksum. Now go on:

# %%
program("resume", "killed")
killed, whole = RunReader(RUNS, "killed"), RunReader(RUNS, "whole")
resumed = next(e for e in killed.events()[0] if e["type"] == "resumed")
print(f"$ darts-workbench resume killed\nfrom {resumed['checkpoint']}: {resumed['message']}")

a, b = whole.steps(), killed.steps()
same = {field: a[field].tobytes() == b[field].tobytes() for field in a.dtype.names}
print(f"{len(a)} and {len(b)} steps; equal to the last bit, field by field: {same}")

# %% [markdown]
# *Claim: the search that was killed and the one that was not are the same, bit for bit.* On resume the steps since the last
# checkpoint are computed again and compared with what the dead process had recorded: equality is proof that nothing was
# lost, and if they were not equal, the program would say so. (Promised on the same kind of machine and with the same
# number of threads; sums in another order round otherwise.)
#
# ## Many seeds in one process
#
# Starting Python and torch costs seconds for each process, and small steps leave a processor half idle. `--seeds 0-2`
# runs three searches side by side: a run folder each, and where the supernets allow it **one pass** computes a step of
# all (their channels side by side, as groups of one convolution).

# %%
SEEDS, RATES = ("0-1", ("0.1",)) if FAST else ("0-2", ("0.01", "0.03", "0.1"))


def group(rate: str) -> subprocess.CompletedProcess:
    return program(
        "search", *SHORT, "--seeds", SEEDS, "--set", f"a_lr={rate}", "--name", f"rate{rate[2:]}"
    )


began = time.monotonic()
done = group(RATES[-1])
together = time.monotonic() - began
names = sorted(row.name for row in list_runs(RUNS) if row.name.startswith("rate"))
how = next(
    e["message"]
    for e in RunReader(RUNS, names[0]).events()[0]
    if "side by side" in e.get("message", "")
)
print(f"{', '.join(names)}: {how}")
print(f"{together:.1f} s for {len(names)} searches; one alone took {alone:.1f} s")

# %% [markdown]
# Each lane is an ordinary run: it can be watched, steered, stopped and resumed by itself. How much is gained depends on
# the network; what was measured stands in `benchmarks/LOG.md` (5 seeds of the preset `collapse` in the pure PyTorch form:
# 2.8 times the processor time of one, not 5; in the compiled form they take turns, and nothing is gained but the start).
#
# ## Many processes, many machines
#
# A sweep needs no framework, since searches share nothing but the folder they are written into. On one machine, a pool of
# processes:

# %%
with ThreadPoolExecutor(max_workers=2) as pool:  # at most as many as there are cores
    ended = list(pool.map(group, RATES[:-1]))
swept = [row.name for row in list_runs(RUNS) if row.name.startswith("rate")]
print([one.returncode for one in (done, *ended)], "are the exit codes;", len(swept), "searches")

# %% [markdown]
# On a cluster the same line stands in the job script, with the folder on a shared disk (or copied together
# afterwards: a run folder may be moved, and `export NAME --format zip` packs it):
#
# ```
# #SBATCH --array=0-19
# darts-workbench search --preset cifar --seed $SLURM_ARRAY_TASK_ID --name sweep-s$SLURM_ARRAY_TASK_ID --runs /shared/runs
# darts-workbench resume sweep-s$SLURM_ARRAY_TASK_ID --runs /shared/runs     # in a job that was cut off
# ```
#
# Two processes cannot take the same name: making the folder decides who was first, and the second is told.

# %%
twice = say("search", *SHORT, "--name", "whole")
print("exit code", twice.returncode)

# %% [markdown]
# ## The table is read from the folders
#
# No database, no server, and nothing was collected while they ran. Whatever question comes up later, the answer is read
# from the same folders.

# %%
MEASURES = {
    "entropy of the mix, nats": lambda epoch: epoch["probes"]["entropy"],
    "validation accuracy": lambda epoch: epoch["metrics"]["valid_accuracy"],
    "mean weight of skip": lambda epoch: epoch["collapse"]["mean_skip_weight"],
    "validation loss, nats": lambda epoch: epoch["metrics"]["valid_loss"],
}


def sweep(root: Path) -> list[dict]:
    """A row per finished run of the sweep."""
    rows = []
    for summary in list_runs(root):
        run = RunReader(root, summary.name)
        if summary.state == "finished" and (run.info.get("group") or "").startswith("rate"):
            last = [e for e in run.events()[0] if e["type"] == "epoch"][-1]
            config = run.info["config"]
            found = {name: of(last) for name, of in MEASURES.items()}
            rows.append(
                {"run": summary.name, "alpha rate": config["a_lr"], "seed": config["seed"], **found}
            )
    return sorted(rows, key=lambda row: (row["alpha rate"], row["seed"]))


rows = sweep(RUNS)
menu = ipywidgets.Dropdown(options=list(MEASURES), description="measure")
dots = Chart(
    [{"name": "a seed", "mode": "markers", "marker": {"color": "#777", "size": 10}},
     {"name": "mean", "mode": "lines+markers", "marker": {"color": "#111", "symbol": "line-ew-open", "size": 26}, "line": {"color": "#111"}}],
    {"height": 340, "width": 700, "xaxis": {"title": {"text": "learning rate of the alphas"}, "type": "log",
     "tickvals": [float(r) for r in RATES]}},
)  # fmt: skip
table = ipywidgets.HTML()


def means(measure: str) -> dict[float, float]:
    return {
        float(rate): statistics.fmean(r[measure] for r in rows if r["alpha rate"] == float(rate))
        for rate in RATES
    }


def show(_=None) -> None:
    chosen = means(menu.value)
    dots.put(
        ([r["alpha rate"] for r in rows], [r[menu.value] for r in rows]),
        (list(chosen), list(chosen.values())),
    )
    dots.update_layout(
        title=f"After {rows and whole.info['config']['epochs']} epochs: {menu.value}"
    )
    cells = lambda tag, words: "".join(
        f"<{tag} style='padding: 0 8px'>{escape(str(w))}</{tag}>" for w in words
    )
    body = "".join(
        f"<tr>{cells('td', [f'{v:.3f}' if isinstance(v, float) and k != 'alpha rate' else v for k, v in row.items()])}</tr>"
        for row in rows
    )
    table.value = f"<table><tr>{cells('th', rows[0])}</tr>{body}</table>"


menu.observe(show, "value")
show()
Panel([menu, dots, table])

# %% [markdown]
# *Claim: the larger the rate of the alphas, the more decided the mix (its entropy falls).* Whether more decided is also
# **better**, choose another measure: the seeds of one rate lie as far apart as the rates. That is the usual result of an honest
# sweep, and the reason for seeds.
#
# ## `compare`: methods at an equal budget
#
# A sweep over methods is so common that it has a word of its own. It writes down its plan first, gives every method the same
# budget and the same seeds, adds the truth where it is known (here the space of 729 cells that are all trained), writes a
# table and a picture, and goes on where it was interrupted.

# %%
print("$ darts-workbench compare", *COMPARE)
comparing.wait(300)  # started at the top, ended long ago
small = RUNS.parent / "comparisons" / "small"
print((small / "table.md").read_text("utf-8"))
began = time.monotonic()
again = program("compare", *COMPARE)  # everything is there: nothing is computed twice
print(f"the second time: {time.monotonic() - began:.1f} s, exit code {again.returncode}")

# %% [markdown]
# Four epochs and two seeds say nothing about methods. Here is a recorded comparison that says something (20 epochs, 5
# seeds, 40 % random labels, made by this command; the line is in its plan). Choose what to look at.

# %%
recorded = tally.read(samples_root().parent / "comparisons" / "nb3-noise")
LOOK = {"test accuracy of the derived cell": "accuracy", "skips among its 6 edges": "skips",
        "gap of pruning": "gap", "training steps behind it": "steps", "seconds of searching": "seconds"}  # fmt: skip
look = ipywidgets.Dropdown(options=LOOK, description="look at")
field = Chart(
    [{"name": "a seed", "mode": "markers", "marker": {"color": "#777", "size": 9, "opacity": 0.6}},
     {"name": "mean", "mode": "markers", "marker": {"color": "#111", "symbol": "line-ns-open", "size": 18, "line": {"width": 3}}}],
    {"height": 420, "width": 760, "margin": {"l": 250}, "yaxis": {"autorange": "reversed"}},
)  # fmt: skip


def compare_by(_=None) -> None:
    told = [row for row in recorded.rows if row.values(look.value)]
    points = [(value, row.method) for row in told for value in row.values(look.value)]
    with field.batch_update():
        field.data[0].x, field.data[0].y = [v for v, _ in points], [m for _, m in points]
        field.data[1].x, field.data[1].y = (
            [row.mean(look.value) for row in told],
            [row.method for row in told],
        )
        field.layout.title = f"{look.label}, {len(recorded.about['seeds'])} seeds each"
        field.layout.xaxis.type = "log" if look.value == "steps" else "linear"
        field.layout.xaxis.tickformat = ".0%" if look.value in ("accuracy", "gap") else None


look.observe(compare_by, "value")
compare_by()
Panel([look, field])

# %%
print(*tally.sentences(recorded), sep="\n")

# %% [markdown]
# *Claim: seeds of one method differ more than most methods do.* Five seeds do not tell DARTS and random search apart; whoever reports
# one run of each may report anything.
#
# ## What will it cost?
#
# Before a long search, ask. `cost` times a few real steps here, then scales them: in proportion to images times
# multiply-adds, which are counted without building the network. From small steps to large ones that is too pessimistic,
# since small steps are mostly the start of operations; so for a large search let it time *that* one. Drag the sliders.

# %%
torch.set_num_threads(1)
base = preset_named("tiny").config(backend="fast", threads=1)
measured = calibrate(base)
epochs = ipywidgets.IntSlider(value=base.epochs, min=1, max=200, description="epochs")
channels = ipywidgets.IntSlider(value=base.channels, min=4, max=64, step=4, description="channels")
depth = ipywidgets.IntSlider(value=base.cells, min=3, max=20, description="cells")
batch = ipywidgets.SelectionSlider(options=[25, 50, 100, 200], value=50, description="batch")
bill = ipywidgets.HTML()


def work(config) -> float:
    """Multiply-adds of one image through the supernet."""
    return costs_of(config.search_space(), config, image_of(config.to_dict()), True).whole().macs


def price(_=None):
    config = base.with_(
        epochs=epochs.value, channels=channels.value, cells=depth.value, batch=batch.value
    )
    found = estimate(config, measured)
    bill.value = (
        f"<b>{found.total:,.0f} s</b> for {config.epochs} epochs, {1000 * found.step:.0f} ms a step, "
        f"{found.memory / 2**20:,.0f} MB of memory, {work(config) / 1e6:.2f} million multiply-adds per image"
    )
    return found


for control in (epochs, channels, depth, batch):
    control.observe(price, "value")
price()
Panel([ipywidgets.HBox([epochs, channels]), ipywidgets.HBox([depth, batch]), bill])

# %% [markdown]
# What grows how? Multiply-adds per image for twice the setting:

# %%
paper = preset_named("paper").config()
growth = {
    "twice the channels": work(paper.with_(channels=2 * paper.channels)) / work(paper),
    "twice the cells": work(paper.with_(cells=2 * paper.cells)) / work(paper),
    "images twice as wide and high": work(paper.with_(resize=64)) / work(paper),
}
for what, times in growth.items():
    print(f"{what:>30}: {times:.2f} times the work")
steps = paper.epochs * int(50_000 * paper.train_portion / paper.batch)
ratio = work(paper) * paper.batch / (work(base) * base.batch)
print(
    f"the paper's search: {steps:,} steps, each with {ratio:,.0f} times the multiply-adds of one of `tiny`"
)

# %% [markdown]
# *Claim: depth and pixels cost in proportion; channels cost more than in proportion, since 1x1 convolutions grow with their
# square.* How long the paper's search would take here says `darts-workbench cost --preset paper`, in a quarter of a minute and
# with 4 GB of memory; expect days. The second order costs two to three times the first.
#
# ## On a GPU
#
# **Every number in these notebooks comes from a CPU.** What changes with an NVIDIA GPU:
#
# | | CPU | GPU |
# |---|---|---|
# | the line | `search --preset paper --path FOLDER` | the same; `device` is found (`--set device=cuda` insists) |
# | form of the supernet (`backend`) | `compiled`, else `fast` | `graph`: whole steps are replayed, since starting kernels takes longer than running them |
# | numbers | float32 | float32; `--set precision=bfloat16` halves the maps, alphas stay float32 |
# | equal to the last bit | on the same kind of machine and threads | only to rounding against a CPU |
# | many seeds | lanes in one pass | likewise; one process per GPU for a sweep (`CUDA_VISIBLE_DEVICES`) |
# | formulas, events, run folder, resume | | the same |
#
# `benchmarks/LOG.md` says what was measured on which kind of machine, and what was not.

# %%
print("torch", torch.__version__.split("+")[0], "sees a GPU" if torch.cuda.is_available() else "sees no GPU here",
      f"and {os.cpu_count()} processor cores")  # fmt: skip

# %% [markdown]
# ## Exercises
#
# 1. How many bytes does one step of this search record, and how many would the paper's search write?
# 2. You have 40 searches to run on 8 cores. Forty processes with one seed, or eight with five? What speaks for each?
# 3. How would you show somebody else that your result is no accident of your machine? (One word of the program.)

# %% jupyter={"outputs_hidden": true, "source_hidden": true} tags=["solution"]
rows_of_paper = sum(np.prod(cell.shape) for cell in paper.search_space().cells.values())
rows_here = sum(np.prod(cell.shape) for cell in base.search_space().cells.values())
per_weight = (whole.record_bytes - 60) / rows_here
size = steps * (60 + per_weight * rows_of_paper)
print(
    f"1. {whole.record_bytes} bytes a step here; the paper's search: about {size / 1e6:.0f} MB for {steps:,} steps"
)
start = max(0.0, alone - sum(e["seconds"] for e in whole.events()[0] if e["type"] == "epoch"))
print(
    f"2. forty starts cost about {40 * start / 8:.0f} s of the eight cores, eight cost {start:.0f} s; lanes may share their passes."
)
print("   Forty processes: a crash takes one search, and each may have its own settings.")
print(
    "3. `repeat NAME` computes the whole run again, orders included, and compares every recorded number."
)

# %% [markdown]
# ## This notebook's claims, checked

# %%
assert left.state == "interrupted" and 12 <= left.step < left.total_steps
assert resumed["identical"] is not False and killed.status().state == "finished"
assert len(a) == len(b) == left.total_steps and all(same.values())
assert not any(one.returncode for one in (done, *ended)) and len(rows) == (2 if FAST else 9)
entropies = list(means("entropy of the mix, nats").values())
assert entropies == sorted(entropies, reverse=True)
assert FAST or entropies[0] > entropies[-1] + 0.02, entropies
assert twice.returncode == 2 and "whole" in twice.stderr + twice.stdout
found = tally.read(small)
assert (
    again.returncode == 0
    and not found.missing
    and all(row.values("accuracy") for row in found.rows)
)
assert 2 < growth["twice the channels"] < 4 and 3.8 < growth["images twice as wide and high"] < 4.2
assert 1.8 < growth["twice the cells"] < 2.3
twofold = estimate(base.with_(epochs=2 * base.epochs), measured)
assert twofold.total > 1.5 * estimate(base, measured).total - measured.start
spread = [row.spread("accuracy") for row in recorded.rows if row.method in ("darts", "max-w")]
assert min(spread) > 0.1 and "none" in " ".join(tally.sentences(recorded))
print(
    "Killed and gone on, bit for bit; a sweep of searches, one folder; a table that anybody can read again."
)
