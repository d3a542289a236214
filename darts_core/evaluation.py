"""Training a cell from scratch, as a configuration: the presets, which cell, and how wide the network is. No torch.

An evaluation is a run like a search, with `strategy="evaluate"`: the same folder, events, orders and board. Its space
is the one cell, so that pictures and tables need not know the difference.
Source of the presets: DARTS (Liu et al. 2019, section 3.2, appendix A.2 and A.3); where the released code differs, the
code (drop path ramps to 0.2, not 0.3).
"""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from darts_core import io
from darts_core.config import EVALUATE, Preset, Scalar, SearchConfig
from darts_core.errors import BadInput, unknown
from darts_core.genotype import RECURRENT, CellGenes, Gene, Genotype, random_genotype
from darts_core.space import SearchSpace, space_named
from darts_core.zoo import genotype_named

INHERITED = ("dataset", "path", "resize", "level")  # what an evaluation takes from the search whose cell it trains
CHAIN = "chain"  # the kind of cell that is a chain of blocks, in place of cells that are repeated
_COMMON: Mapping[str, Scalar] = {"strategy": EVALUATE, "train_portion": 0.5, "shuffle_split": True, "seed": 0}

_TEXT: Mapping[str, Scalar] = {
    "strategy": EVALUATE, "seed": 0, "w_lr": 20.0, "w_lr_min": 20.0, "momentum": 0.0, "w_decay": 5e-7, "clip": 0.25,
    "patience": 5, "auxiliary": 0.0, "drop_path": 0.0,
}  # fmt: skip
_PAPER_TEXT: Mapping[str, Scalar] = {
    "batch": 64, "bptt": 35, "jitter": True, "epochs": 8000, "dropout": 0.75, "dropout_input": 0.75,
    "dropout_embedding": 0.2, "dropout_words": 0.1, "slowness": 1e-3, "activation": 0.0, "test_columns": 1,
    "seed": 1267,
}  # fmt: skip

EVALUATIONS: Mapping[str, Preset] = {
    preset.name: preset
    for preset in (
        Preset(
            "quick", "Train a cell, quickly", 60,
            "A small network on a part of the images: tells good cells from bad in about a minute on a CPU.",
            {
                **_COMMON, "cells": 3, "channels": 8, "stem_stride": 2, "epochs": 6, "batch": 64, "subset": 4000,
                "w_lr": 0.05, "w_lr_min": 0.0, "auxiliary": 0.0, "drop_path": 0.0, "test_every": 3,
            },
        ),
        Preset(
            "cifar", "Train a cell as the paper does on CIFAR-10", None,
            "20 cells, 36 channels, 600 epochs, auxiliary head, drop path, cutout: 1.5 days on a GPU of 2018.",
            {
                **_COMMON, "cells": 20, "channels": 36, "epochs": 600, "batch": 96, "cutout": 16, "w_lr": 0.025,
                "w_lr_min": 0.0, "auxiliary": 0.4, "drop_path": 0.2, "dataset": "cifar10",
            },
        ),
        Preset(
            "imagenet", "Train a cell as the paper does on ImageNet", None,
            "14 cells, 48 channels, 250 epochs at 224 pixels, read from a folder per class: days on several GPUs.",
            {
                **_COMMON, "cells": 14, "channels": 48, "epochs": 250, "batch": 128, "w_lr": 0.1, "w_lr_min": 0.0,
                "w_decay": 3e-5, "auxiliary": 0.4, "drop_path": 0.0, "label_smoothing": 0.1, "schedule": "step",
                "stem": "imagenet", "dataset": "folder", "resize": 224, "stream": True, "workers": 4,
            },
        ),
        Preset(
            "text", "Train a recurrent cell, quickly", 60,
            "A small language model: tells what a cell is worth on a small text in about a minute on a CPU.",
            {**_TEXT, "units": 32, "bptt": 10, "batch": 32, "epochs": 10, "w_lr_min": 0.5, "dropout": 0.0,
             "dropout_hidden": 0.0, "dropout_input": 0.0, "dropout_embedding": 0.0, "dataset": "markov"},
        ),
        Preset(
            "ptb", "Train a recurrent cell as the paper does on Penn Treebank", None,
            "850 units, up to 8000 epochs, averaged SGD: days on a GPU of 2018; set path.",
            {**_TEXT, **_PAPER_TEXT, "dataset": "ptb", "units": 850, "w_decay": 8e-7, "dropout_hidden": 0.25},
        ),
        Preset(
            "wt2", "Train a recurrent cell as the paper does on WikiText-2", None,
            "700 units, averaged SGD: days on a GPU; set path.",
            {**_TEXT, **_PAPER_TEXT, "dataset": "wikitext2", "units": 700, "w_decay": 5e-7, "dropout_hidden": 0.15},
        ),
    )
}  # fmt: skip

# What `quick` leaves alone where it would not fit: nothing is known of the size of somebody's own images, and the
# embedded digits are few and small.
QUICK: Mapping[str, Mapping[str, Scalar]] = {
    "digits": {"subset": 0, "stem_stride": 1},
    "folder": {"subset": 0},
    "npz": {"subset": 0},
}


def evaluation_config(preset: str, cell: Genotype, label: str, changes: Mapping[str, Any]) -> SearchConfig:
    """The configuration that trains `cell`.

    Args:
        label: what to call the cell: "DARTS_V2", "cell of run laptop-001".
        changes: flat names; they win over the preset.

    Raises:
        BadInput: the preset or a name is unknown, or a value does not fit.
    """
    if preset == "quick" and "recurrent" in cell.cells:
        preset = "text"
    if preset not in EVALUATIONS:
        raise unknown("evaluate", "preset", preset, EVALUATIONS)
    told = {"genotype": io.dumps(cell.to_json(), "genotype"), "label": label[:80]}
    values: dict[str, Any] = {**EVALUATIONS[preset].values, **told}
    if preset == "quick":
        values |= QUICK.get(str(changes.get("dataset", "digits")), {})
    values |= changes
    if CHAIN in cell.cells:
        values.setdefault("reductions", "none" if cell.count("skip_connect", CHAIN) else "thirds")
        values["cells"] = changes.get("cells", len(cell.cells[CHAIN].nodes))
    elif "reduce" not in cell.cells and any(genes.inputs == 2 for genes in cell.cells.values()):
        values.setdefault("reductions", "none")  # between cells of one input fixed blocks halve the image
    return SearchConfig.from_dict(values)


def settings_from(search: Mapping[str, Any], cell: Genotype) -> dict[str, Any]:
    """What the training of a cell takes from the settings of the search that found it: its data; and a chain, whose
    blocks are each made for their place, where the image is halved.
    """
    names = (*INHERITED, "reductions") if CHAIN in cell.cells else INHERITED
    return {name: value for name in names if (value := search.get(name))}


def cell_named(text: str, space: str = "darts", nodes: int = 0) -> tuple[Genotype, str]:
    """A cell by what people write for it, and what to call it.

    A released cell's name, a genotype file, `random` or `random:SEED` (a cell drawn from `space`), or `skips` (a cell
    of skip connections alone, each node on both inputs).

    Raises:
        BadInput: none of these.
    """
    word, _, number = text.partition(":")
    if word == "random" and not Path(text).is_file():
        if number and not number.isdecimal():
            raise BadInput("genotype", "random", f"{number!r} is not a seed", "write random:0")
        cell = random_genotype(space_named(space, nodes or None), random.Random(int(number or 0)))
        return cell, f"random cell {number or 0}"
    if text == "skips":
        if "recurrent" in space_named(space).cells:
            raise BadInput("genotype", "skips", "is a cell for images", "on text: random:0, or DARTS_V2")
        return all_skips(space_named(space, nodes or None)), "all-skip cell"
    return genotype_named(text)


def all_skips(space: SearchSpace) -> Genotype:
    """The cell that collapse leads to: every node adds the cell's two inputs."""
    nodes = {kind: cell.nodes for kind, cell in space.cells.items()}
    node = (Gene("skip_connect", 0), Gene("skip_connect", 1))
    cells = {kind: CellGenes((node,) * n, space.cells[kind].output) for kind, n in nodes.items()}
    return Genotype(space.name, cells)


class Measure(NamedTuple):
    """By what trained networks are compared: accuracy, or of language models perplexity."""

    name: str  # in summaries: test_accuracy, valid_accuracy ...
    sign: int  # 1: more is better
    factor: float  # for people: per cent
    unit: str

    def best(self, values: Sequence[float]) -> int:
        """The place of the best value, the first of equals."""
        return max(range(len(values)), key=lambda i: self.sign * values[i])

    def words(self, value: float) -> str:
        return f"{self.factor * value:.2f}{self.unit}"


ACCURACY, PERPLEXITY = Measure("accuracy", 1, 100.0, " %"), Measure("perplexity", -1, 1.0, "")


def measure_of(cell: Genotype) -> Measure:
    """The measure of the networks of this cell."""
    return PERPLEXITY if RECURRENT in cell.cells else ACCURACY


def title_of(config: SearchConfig) -> str:
    """What a run of this configuration is called on a page."""
    label = str(config.options["label"] or "a cell")
    return f"{label[:1].upper()}{label[1:]} trained from scratch on {config.dataset}"
