"""Released checkpoints (`cifar10_model.pt`, `imagenet_model.pt`, `ptb_model.pt`) into files of this program.

The torch file is read in a child process that cannot run what is in it (`torchfile.py`); what comes out is checked name
by name and number by number against the network that it should be.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors.torch import load as load_tensors
from torch import Tensor

from darts_core import io, language_file, torchfile
from darts_core.data.sources import CIFAR10_MEAN, CIFAR10_STD
from darts_core.data.stream import MEAN, STD
from darts_core.errors import BadInput, one_line, unknown
from darts_core.genotype import Genotype
from darts_core.language_file import LanguageCard
from darts_core.model_file import Card, to_bytes
from darts_core.nets.fixed import Network
from darts_core.nets.original import derived_to_original
from darts_core.nets.recurrent import RecurrentNetwork, from_original
from darts_core.weights_file import agree

CIFAR_CLASSES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
LAYOUTS = ("cifar", "imagenet", "ptb")
SECONDS = 300.0  # of the child, by the clock
PUBLISHED = {  # what the authors say of the file, in the units of what is measured here
    "cifar": "2.63 % test error on CIFAR-10",
    "imagenet": "26.7 % top-1 and 8.7 % top-5 error on ImageNet",
    "ptb": "55.68 test perplexity on Penn Treebank",
}


def import_pt(path: str | Path, genotype: Genotype, label: str, layout: str) -> bytes:
    """A released checkpoint as safetensors.

    Args:
        layout: "cifar" (C=36, 20 cells), "imagenet" (C=48, 14 cells), with or without an auxiliary head; "ptb".

    Raises:
        BadInput: the file is hostile, damaged, or belongs to another network.
    """
    if layout not in LAYOUTS:
        raise unknown("import-pt", "layout", layout, LAYOUTS)
    where = Path(path).name
    state = load_tensors(read_in_child(io.read_bytes(Path(path), torchfile.LIMIT), where))
    if (found := layout_of(state)) != layout:
        what = f"has the names of the {found} layout" if found else "has no name that a released checkpoint has"
        raise BadInput(where, "", what, f"add --layout {found}" if found else "is it the right file?")
    if layout == "ptb":
        return _recurrent(state, genotype, label, where)
    return _images(state, genotype, label, layout, where)


def layout_of(state: Mapping[str, Tensor]) -> str:
    """The layout whose names these are, by names that no other has; empty: none."""
    marks = {"ptb": "encoder.weight", "imagenet": "stem0.0.weight", "cifar": "stem.0.weight"}
    return next((layout for layout, name in marks.items() if name in state), "")


def read_in_child(data: bytes, where: str) -> bytes:
    """The state dict in a torch file as safetensors bytes, made by a process with limits.

    Raises:
        BadInput: with the child's sentence.
    """
    command = [sys.executable, "-m", "darts_core.torchfile"]
    package = str(Path(__file__).resolve().parent.parent)
    kept = {key: value for key in ("PATH", "SYSTEMROOT", "LANG") if (value := os.environ.get(key))}
    environment = {**kept, "PYTHONPATH": package, "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
    given = len(data).to_bytes(8, "little") + data
    try:
        done = subprocess.run(command, input=given, capture_output=True, timeout=SECONDS, env=environment, check=False)
    except subprocess.TimeoutExpired as error:
        raise BadInput(where, "", f"took longer than {SECONDS:g} s to read", torchfile.OTHER) from error
    if done.returncode == 2:
        said = done.stderr.decode("utf-8", "replace").strip().splitlines()[-1]
        raise BadInput(where, "", one_line(said.removeprefix(f"{torchfile.HERE}: "), 400))
    if done.returncode:
        what = f"the process that reads it ended with code {done.returncode}: too much memory or time was asked for"
        raise BadInput(where, "", what, "is this the right file?")
    io.check_tensors(done.stdout, where)
    return done.stdout


def _images(state: Mapping[str, Tensor], genotype: Genotype, label: str, layout: str, where: str) -> bytes:
    cifar = layout == "cifar"
    stack = {"channels": 36, "cells": 20, "reductions": (6, 13)} if cifar else {"channels": 48, "cells": 14,
                                                                               "reductions": (4, 9)}  # fmt: skip
    classes = CIFAR_CLASSES if cifar else tuple(f"class {number}" for number in range(1000))
    auxiliary = any(name.startswith("auxiliary_head.") for name in state)
    options = {
        "image_channels": 3, "classes": len(classes), "stem_multiplier": 3, "stem_stride": 1, **stack,
        "stem": layout, "auxiliary": auxiliary, "search": False,
    }  # fmt: skip
    with torch.device("meta"):
        net = Network(genotype, **options)
    expected = net.state_dict()
    theirs = {derived_to_original(name, genotype, net.places): name for name in expected}
    for name in sorted(set(state) - set(theirs)):
        raise BadInput(where, name, f"is not part of the {layout} network of {label}", "is it another cell's?")
    weights = {theirs[name]: t.float() if t.is_floating_point() else t for name, t in state.items()}
    for name, t in expected.items():
        if name.endswith("num_batches_tracked"):  # torch counts these since 0.4.1; nothing depends on them here
            weights.setdefault(name, torch.zeros(t.shape, dtype=t.dtype))
    agree(weights, expected, where)
    net.load_state_dict(weights, assign=True)
    mean, std, side = (CIFAR10_MEAN, CIFAR10_STD, 32) if cifar else (MEAN, STD, 224)
    note = f"imported from a released checkpoint; published: {PUBLISHED[layout]}"
    facts = {"cell": label, "layout": layout, "dataset": "cifar10" if cifar else "folder"}
    return to_bytes(net, Card(genotype, options, (side, side), mean, std, classes, note, facts))


def _recurrent(state: Mapping[str, Tensor], genotype: Genotype, label: str, where: str) -> bytes:
    """Weights of the language model under the names of `nets/recurrent.py`, with what builds it in the metadata."""
    try:
        weights = from_original(state)
    except BadInput as error:
        raise BadInput(where, error.field, error.what, error.fix) from error
    vocabulary, units = weights["words"].shape
    with torch.device("meta"):
        net = RecurrentNetwork(genotype, vocabulary, units)
    agree(weights, net.state_dict(), where)
    net.load_state_dict({name: t.float() for name, t in weights.items()}, assign=True)
    note = f"imported from a released checkpoint; published: {PUBLISHED['ptb']}"
    return language_file.to_bytes(
        net, LanguageCard(genotype, vocabulary, units, cell=label, note=note, facts={"layout": "ptb", "dataset": "ptb"})
    )
