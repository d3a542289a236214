"""Everything a search can be told, with ranges and one sentence each; and the presets.

`SETTINGS` is the one table behind command-line flags, the app's form, the check of a steering order and this
validation. Options of a strategy come from `catalogue.json` (written by `make catalogue` from the signatures of the
methods), so that nothing here imports torch.
"""

from __future__ import annotations

import dataclasses
import json
import math
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

from darts_core import io
from darts_core.errors import BadInput, unknown
from darts_core.events import STEP_METRICS, TEXT_METRICS
from darts_core.genotype import Genotype, space_of
from darts_core.own_space import MAX_TEXT, OWN, parsed
from darts_core.space import MAX_NODES, SPACES, SearchSpace, SpaceEntry, space_from
from darts_core.zoo import published

Scalar = str | int | float | bool
HERE = "settings"
SEARCH_ONLY = (
    "space",
    "own_space",
    "nodes",
    "backend",
    "label_noise",
)  # settings without a meaning where nothing is searched
EVALUATE = "evaluate"  # the strategy that searches nothing: it trains one cell from scratch (`training.py`)


@dataclass(frozen=True)
class Setting:
    """One thing that can be set: its type, default, inclusive range or choices, unit, and a sentence for people."""

    name: str
    type: str  # "int", "float", "str", "bool", "choice"
    default: Scalar
    doc: str
    group: str
    low: float | None = None
    high: float | None = None
    choices: tuple[str, ...] = ()
    unit: str = ""
    steer: bool = False

    def check(self, value: Any, where: str = HERE) -> Scalar:
        """`value` as this setting's type.

        Raises:
            BadInput: wrong type, out of range, or not among the choices.
        """
        if self.type == "choice":
            if str(value) not in self.choices:
                raise unknown(where, self.name, str(value), self.choices)
            return str(value)
        if self.type == "bool":
            return self._boolean(value, where)
        if self.type == "str":
            if not isinstance(value, str) or len(value) > MAX_TEXT or "\0" in value:
                raise BadInput(where, self.name, f"must be text of at most {MAX_TEXT} characters", "correct it")
            return value
        return self._number(value, where)

    def _boolean(self, value: Any, where: str) -> bool:
        words = {"true": True, "false": False, "yes": True, "no": False, "1": True, "0": False}
        if isinstance(value, bool):
            return value
        if str(value).lower() in words:
            return words[str(value).lower()]
        raise BadInput(where, self.name, f"{str(value)[:40]!r} is neither true nor false", "write true or false")

    def _number(self, value: Any, where: str) -> int | float:
        kind = "a whole number" if self.type == "int" else "a number"
        try:
            number = float(value)
        except (TypeError, ValueError, OverflowError):
            number = math.nan
        if isinstance(value, bool) or not math.isfinite(number) or (self.type == "int" and number != int(number)):
            raise BadInput(where, self.name, f"{str(value)[:40]!r} is not {kind}", f"give {kind} {self.span}".rstrip())
        if (self.low is not None and number < self.low) or (self.high is not None and number > self.high):
            raise BadInput(where, self.name, f"{value} is out of range", f"give {kind} {self.span}")
        return int(number) if self.type == "int" else number

    @property
    def span(self) -> str:
        """The range in words."""
        if self.low is not None and self.high is not None:
            return f"from {self.low:g} to {self.high:g}"
        return f"of at least {self.low:g}" if self.low is not None else ""


def _setting(
    default: Scalar,
    group: str,
    doc: str,
    low: float | None = None,
    high: float | None = None,
    choices: tuple[str, ...] = (),
    unit: str = "",
    steer: bool = False,
) -> Any:
    return field(
        default=default,
        metadata={
            "group": group,
            "doc": doc,
            "low": low,
            "high": high,
            "choices": choices,
            "unit": unit,
            "steer": steer,
        },
    )


@dataclass(frozen=True)
class SearchConfig:
    """A search, whole: equal configurations give equal events on equal machines.

    The defaults are the paper's CIFAR-10 setting (DARTS, section 3.1 and appendix A.1, where the released code differs:
    the code), on the embedded digits.
    """

    dataset: str = _setting("digits", "data", "Which images, or which text, to search on.")
    path: str = _setting("", "data", "Folder or file of the data set; empty: the usual place.")
    subset: int = _setting(
        0, "data", "Use only this many training images (or tokens of text); 0: all.", 0, 10_000_000, unit="images"
    )
    resize: int = _setting(0, "data", "Resize images to this side; 0: as they are.", 0, 512, unit="pixels")
    label_noise: float = _setting(
        0.0, "data", "Share of search labels replaced at random (test labels stay clean).", 0, 1
    )
    augment: bool = _setting(True, "data", "Shift, and flip where flipping keeps the meaning, each training image.")
    cutout: int = _setting(
        0, "data", "Side of a square hole cut into each training image; 0: none.", 0, 256, unit="pixels"
    )
    train_portion: float = _setting(
        0.5, "data", "Share of training images for the weights; the others are for the alphas.", 0.01, 0.99
    )
    shuffle_split: bool = _setting(
        False, "data", "Shuffle by the seed before splitting; false: file order, as the original."
    )

    space: str = _setting("darts", "space", "The search space; own: the one in own_space.", choices=(*SPACES, OWN))
    own_space: str = _setting(
        "", "space", "A space of your own as JSON, for space=own; on the command line: --space FILE."
    )
    nodes: int = _setting(0, "space", "Nodes per cell; 0: the space's usual number.", 0, MAX_NODES)
    cells: int = _setting(8, "space", "Cells stacked in the supernet.", 1, 40)
    reductions: str = _setting(
        "thirds",
        "space",
        "Where cells halve the image: after each third, in the middle, nowhere.",
        choices=("thirds", "middle", "none"),
    )
    channels: int = _setting(16, "space", "Channels of the first cells (doubled by each reduction).", 2, 256)
    stem_multiplier: int = _setting(3, "space", "Channels of the stem, as a multiple of channels.", 1, 8)
    stem_stride: int = _setting(1, "space", "Stride of the stem: 2 halves the image at once.", 1, 2)

    strategy: str = _setting("darts", "method", "The search method.")
    parts: str = _setting("", "method", "Parts that the method wears on top, separated by commas; see: methods.")
    seed: int = _setting(2, "run", "Decides every random number of the search.", 0, 2**31 - 1)
    epochs: int = _setting(50, "run", "Passes over the weight split.", 1, 10_000, unit="epochs")

    batch: int = _setting(64, "weights", "Images (or columns of text) per weight step.", 1, 8192, unit="images")
    w_lr: float = _setting(
        0.025, "weights", "Learning rate of the weights at the start (cosine to the end).", 0, 100, steer=True
    )
    w_lr_min: float = _setting(
        0.001, "weights", "Learning rate of the weights that the cosine would reach.", 0, 100, steer=True
    )
    w_power: float = _setting(
        0.0, "weights", "Order of cosine power annealing, from 1 up (sharpDARTS: 2); 0: the cosine of DARTS.",
        0, 1000, steer=True,
    )  # fmt: skip
    w_rise: int = _setting(
        0, "weights", "Epochs in which the rate rises before it falls; with w_power.", 0, 10_000, unit="epochs"
    )
    momentum: float = _setting(0.9, "weights", "Momentum of the weights' SGD.", 0, 0.999, steer=True)
    w_decay: float = _setting(3e-4, "weights", "Weight decay of the weights.", 0, 1, steer=True)
    clip: float = _setting(5.0, "weights", "Largest L2 norm of the weights' gradient.", 1e-6, 1e6, steer=True)

    arch_batch: int = _setting(
        0, "alphas", "Images (or columns of text) per architecture step; 0: as per weight step.", 0, 8192, unit="images"
    )
    a_lr: float = _setting(3e-4, "alphas", "Learning rate of the alphas (Adam).", 0, 10, steer=True)
    a_beta1: float = _setting(0.5, "alphas", "Adam's first beta for the alphas.", 0, 0.9999)
    a_beta2: float = _setting(
        0.999, "alphas", "Adam's second beta for the alphas; short searches need less (0.95).", 0, 0.99999
    )
    a_decay: float = _setting(1e-3, "alphas", "Weight decay of the alphas (added to their gradient).", 0, 1, steer=True)

    level: str = _setting("word", "text", "What a token is: a word or a character.", choices=("word", "char"))
    units: int = _setting(300, "text", "Units of the embedding and of the hidden state.", 2, 4096)
    bptt: int = _setting(
        35, "text", "Tokens through which gradients go back; the hidden state goes on.", 1, 1000, unit="tokens"
    )
    dropout: float = _setting(0.75, "text", "Dropout between the cell and the decoder.", 0, 0.99)
    dropout_hidden: float = _setting(0.25, "text", "Dropout of states before their matrices (variational).", 0, 0.99)
    dropout_input: float = _setting(0.75, "text", "Dropout of the cell's input (variational).", 0, 0.99)
    dropout_embedding: float = _setting(0.2, "text", "Dropout of the embedding (locked over time).", 0, 0.99)
    dropout_words: float = _setting(0.0, "text", "Dropout of whole words of the vocabulary.", 0, 0.99)
    slowness: float = _setting(1e-3, "text", "Weight of the squared change of the hidden state.", 0, 100)
    activation: float = _setting(0.0, "text", "Weight of the squared hidden state.", 0, 100)
    state_clip: float = _setting(
        25.0, "text", "Largest L2 norm of a hidden state, against runaway states; 0: no limit.", 0, 1e6
    )

    patience: int = _setting(
        0, "text",
        "Averaged SGD once the validation loss is above its least but these epochs: measured and written with are "
        "then the mean weights (the original trains with 5); 0: plain SGD.", 0, 1000, unit="epochs",
    )  # fmt: skip

    hessian_every: int = _setting(
        0,
        "probes",
        "Epochs between dominant eigenvalues of the validation Hessian (each a double backward per alpha); 0: never.",
        0,
        1000,
        unit="epochs",
    )
    hessian_batch: int = _setting(
        0, "probes", "Images of that Hessian's batch; 0: the architecture batch.", 0, 8192, unit="images"
    )
    retrain_epochs: int = _setting(
        0, "probes", "Epochs to train the derived cell from scratch afterwards; 0: skip it.", 0, 1000, unit="epochs"
    )
    random_cells: int = _setting(
        0, "probes", "Random cells trained the same way, as the measure to compare with.", 0, 100, unit="cells"
    )

    device: str = _setting(
        "auto", "run", "Where to compute; auto: a GPU if there is one.", choices=("auto", "cpu", "cuda", "mps")
    )
    backend: str = _setting(
        "auto", "run",
        "How the supernet is computed; auto: compiled once it is built, until then fast; on an NVIDIA GPU graph, which "
        "replays whole steps (triton: with kernels of our own).",
        choices=("auto", "reference", "fast", "compiled", "graph", "triton"),
    )  # fmt: skip
    precision: str = _setting(
        "float32", "run", "Numbers of the network's maps; bfloat16 is faster on new GPUs, and coarser.",
        choices=("float32", "bfloat16"),
    )  # fmt: skip
    threads: int = _setting(0, "run", "CPU threads; 0: one less than there are cores.", 0, 1024)
    pace: float = _setting(
        0.0, "run", "At most this many steps per second, to watch them; 0: as fast as it goes.", 0, 1000, steer=True
    )
    options: Mapping[str, Scalar] = field(default_factory=dict)  # the strategy's own, all of them

    def __post_init__(self) -> None:
        for name, setting in SETTINGS.items():
            object.__setattr__(self, name, setting.check(getattr(self, name)))
        object.__setattr__(self, "own_space", parsed(self.own_space, HERE).text if self.space == OWN else "")
        options_of(self.strategy)  # raises for a strategy that there is not
        if self.dataset not in catalogue()["datasets"]:
            raise unknown(HERE, "data set", self.dataset, catalogue()["datasets"])
        object.__setattr__(self, "parts", ",".join(part_names(self.parts)))
        known = options_of(self.strategy, self.parts)
        for name in self.options:
            if name not in known:
                raise unknown(HERE, f"option of {self.strategy}", name, known)
        options = {name: s.check(self.options.get(name, s.default)) for name, s in known.items()}
        object.__setattr__(self, "options", options)
        if self.w_lr_min > self.w_lr:
            raise BadInput(
                HERE,
                "w_lr_min",
                f"{self.w_lr_min:g} is above w_lr {self.w_lr:g}",
                "the rate falls along a cosine: give a smaller one",
            )
        if 0 < self.w_power < 1:
            fix = "give 1 or more, or 0 for the cosine of DARTS"
            raise BadInput(HERE, "w_power", f"{self.w_power:g} is below 1", fix)
        if self.w_rise and (not self.w_power or self.w_rise >= self.epochs):
            what = f"{self.w_rise} epochs leave none to fall in" if self.w_power else "needs cosine power annealing"
            raise BadInput(HERE, "w_rise", what, "set fewer than epochs" if self.w_power else "set w_power, say 2")
        if self.channels % 2:
            raise BadInput(
                HERE,
                "channels",
                f"{self.channels} is odd",
                "a factorised reduction halves the channels: give an even number",
            )
        if self.reductions == "thirds" and self.cells < 3 and not self.of_text:
            raise BadInput(
                HERE, "cells", f"{self.cells} cells have no thirds", "give at least 3 cells, or reductions=none"
            )
        if self.of_text != (catalogue()["datasets"][self.dataset].get("kind") == "text"):
            kinds = ("a text", "images") if self.of_text else ("images", "a text")
            fix = "choose markov, or another text" if self.of_text else "choose space darts-rnn"
            if self.strategy == EVALUATE:
                fix = fix if self.of_text else "choose a recurrent cell, for example DARTS_V2_RNN"
                raise BadInput(HERE, "genotype", f"the cell needs {kinds[0]}, and {self.dataset} is {kinds[1]}", fix)
            raise BadInput(HERE, "space", f"{self.space} needs {kinds[0]}, and {self.dataset} is {kinds[1]}", fix)
        if self.of_text and self.label_noise:
            raise BadInput(HERE, "label_noise", "is for images", "set it to 0")
        if self.patience and self.strategy != EVALUATE:
            if not self.of_text:
                raise BadInput(HERE, "patience", "averaged SGD is for a text", "set it to 0")
            if catalogue()["strategies"][self.strategy]["baseline"]:
                what = f"{self.strategy} trains each cell too briefly to average its weights"
                raise BadInput(HERE, "patience", what, "set it to 0")
        if self.random_cells and not self.retrain_epochs:
            raise BadInput(
                HERE, "random_cells", "needs retrain_epochs above 0", "set retrain_epochs, or random_cells=0"
            )

    @staticmethod
    def from_dict(data: Mapping[str, Any], where: str = HERE) -> SearchConfig:
        """A configuration from flat names; the strategy's options stand beside the settings.

        Raises:
            BadInput: a name is unknown or a value does not fit.
        """
        if not isinstance(data, Mapping):
            raise BadInput(
                where, "configuration", "is not an object of names and values", 'for example {"dataset": "digits"}'
            )
        strategy = str(SETTINGS["strategy"].check(data.get("strategy", "darts"), where))
        options = options_of(strategy, str(SETTINGS["parts"].check(data.get("parts", ""), where)), where)
        settings, chosen = {}, {}
        for name, value in data.items():
            if name in SETTINGS:
                settings[name] = SETTINGS[name].check(value, where)
            elif name in options:
                chosen[name] = options[name].check(value, where)
            else:
                raise unknown(where, "setting", str(name), [*SETTINGS, *options])
        return SearchConfig(**settings, options=chosen)

    def to_dict(self) -> dict[str, Scalar]:
        """Flat names and values, options included; `from_dict` reads it back."""
        return {**{name: getattr(self, name) for name in SETTINGS}, **self.options}

    def with_(self, **changes: Any) -> SearchConfig:
        """A copy with some flat names changed, checked like a new one."""
        data = self.to_dict()
        if "strategy" in changes and changes["strategy"] != self.strategy:
            data = {name: value for name, value in data.items() if name in SETTINGS or "." in name}
        if "parts" in changes:
            gone = set(part_names(self.parts)) - set(part_names(str(changes["parts"])))
            data = {name: value for name, value in data.items() if name.partition(".")[0] not in gone}
        return SearchConfig.from_dict({**data, **changes})

    def part_names(self) -> tuple[str, ...]:
        """The parts worn, in order."""
        return part_names(self.parts)

    def edge_alphas(self) -> bool:
        """Does the method learn logits of the edges (PC-DARTS)?"""
        known = catalogue()
        worn = (known["parts"][name] for name in self.part_names())
        own = known["strategies"].get(self.strategy, {})  # the training of a cell is no strategy
        return any(entry.get("edge_alphas", False) for entry in (own, *worn))

    def partial_options(self) -> tuple[list[str], list[str]]:
        """The options that say which share of the channels goes through operations: the method's own, its parts'."""
        known = catalogue()
        own = known["strategies"].get(self.strategy, {}).get("partial", [])
        return own, [f"{part}.{name}" for part in self.part_names() for name in known["parts"][part]["partial"]]

    def partial_channels(self, stage: int = 0) -> int:
        """One channel in so many goes through the operations of the supernet in a stage (PC-DARTS, DrNAS); 1: all."""
        own, worn = self.partial_options()
        if len(own) > 1:  # what a stage says goes before what is said of the whole search
            return int(self.options[own[min(stage, len(own) - 1)]])
        return int(self.options[[*own, *worn][-1]]) if own or worn else 1

    def supernet_cells(self, stage: int = 0) -> int:
        """Cells of the supernet in a stage: P-DARTS adds some with each."""
        return self.cells + stage * int(self.options.get("more_cells", 0))

    def stages(self) -> int:
        """In how many stages the method searches, each with a supernet of its own."""
        return catalogue()["strategies"].get(self.strategy, {}).get("stages", 1)

    def search_space(self) -> SearchSpace:
        if self.strategy == EVALUATE:
            return space_of(self.genotype())
        name, entry = self.space_entry
        if entry.chain:
            return space_from(name, entry, self.cells, reductions=self.reduction_cells())
        return space_from(name, entry, self.nodes or None, reduce=self.reductions != "none")

    @property
    def space_entry(self) -> tuple[str, SpaceEntry]:
        """The name of the space searched, and what it is made of."""
        if self.space == OWN:
            own = parsed(self.own_space, HERE)
            return own.name, own.entry
        return self.space, SPACES[self.space]

    def genotype(self) -> Genotype:
        """The cell that an evaluation trains: its option `genotype`, JSON or the name of a released cell.

        Raises:
            BadInput: it is neither, or this is a search.
        """
        text = str(self.options.get("genotype", ""))
        if text.startswith("{"):
            return Genotype.from_json(io.loads(text.encode(), "genotype"), "genotype")
        return published(text).genotype

    def there(self) -> SearchConfig:
        """Itself, if its data can be there: what is refused here leaves no run folder behind.

        Raises:
            BadInput: a path is missing that the data set needs, or leads nowhere.
        """
        needs = catalogue()["datasets"][self.dataset].get("needs", "")
        if needs and not self.path:
            raise BadInput(HERE, "path", f"data set {self.dataset} needs one", needs)
        if self.path and not Path(self.path).expanduser().exists():
            raise BadInput(self.path, "path", "is not there", "give an existing folder or file")
        return self

    @property
    def of_text(self) -> bool:
        """Is this about a recurrent cell, on text?"""
        if self.strategy == EVALUATE:
            return "recurrent" in self.genotype().cells
        return self.space_entry[1].recurrent

    @property
    def step_metrics(self) -> tuple[str, ...]:
        """The names of what is measured at every step."""
        return (*STEP_METRICS, *TEXT_METRICS) if self.of_text else STEP_METRICS

    def reduction_cells(self) -> tuple[int, ...]:
        """0-based indices of the reduction cells; thirds are L//3 and 2L//3 as in the paper."""
        places = {"thirds": (self.cells // 3, 2 * self.cells // 3), "middle": (self.cells // 2,), "none": ()}
        return places[self.reductions]

    @property
    def architecture_batch(self) -> int:
        return self.arch_batch or self.batch


def _settings_table() -> dict[str, Setting]:
    types = {"int": "int", "float": "float", "str": "str", "bool": "bool"}
    table = {}
    for f in dataclasses.fields(SearchConfig):
        if f.metadata:
            kind = "choice" if f.metadata["choices"] else types[str(f.type)]
            table[f.name] = Setting(f.name, kind, f.default, **f.metadata)  # type: ignore[arg-type]
    return table


SETTINGS: Mapping[str, Setting] = _settings_table()


def spare_cores() -> int:
    """CPU threads where none are asked for: the cores this process may use, less one for the page; at least 1."""
    usable = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 2
    return max(1, usable - 1)


@cache
def catalogue() -> dict[str, Any]:
    """Strategies with their options, and data sets: generated, so that no torch is needed to know them."""
    return json.loads((Path(__file__).parent / "catalogue.json").read_text(encoding="utf-8"))


def part_names(text: str) -> tuple[str, ...]:
    """The parts that a setting names ("beta, eigenvalue-stop"), in order, each once.

    Raises:
        BadInput: there is no part of a name.
    """
    names = tuple(dict.fromkeys(name.strip() for name in text.split(",") if name.strip()))
    for name in names:
        if name not in catalogue()["parts"]:
            raise unknown(HERE, "part", name, catalogue()["parts"])
    return names


@cache
def options_of(strategy: str, parts: str = "", where: str = HERE) -> Mapping[str, Setting]:
    """The options that a strategy and the parts it wears add to the settings, by name; a part's is "part.option".

    Raises:
        BadInput: the strategy or a part is unknown.
    """
    strategies = catalogue()["strategies"]
    entry = catalogue()["training"] if strategy == EVALUATE else strategies.get(strategy)
    if entry is None:
        raise unknown(where, "strategy", strategy, strategies)
    rows = list(entry["options"])
    for part in part_names(parts):
        rows += [{**row, "name": f"{part}.{row['name']}"} for row in catalogue()["parts"][part]["options"]]
    return {row["name"]: Setting(**{**row, "choices": tuple(row["choices"])}) for row in rows}


def settings_of(strategy: str, parts: str = "") -> Mapping[str, Setting]:
    """All flat names of a search with this strategy: the settings, then its options and those of the parts it wears."""
    known = SETTINGS
    if strategy == EVALUATE:  # nothing is searched
        known = {n: s for n, s in SETTINGS.items() if s.group not in ("alphas", "probes") and n not in SEARCH_ONLY}
    return {**known, **options_of(strategy, parts)}


def steerable(strategy: str, parts: str = "") -> Mapping[str, Setting]:
    """What may change while the search runs; anything else needs a branch."""
    return {name: s for name, s in settings_of(strategy, parts).items() if s.steer}


@dataclass(frozen=True)
class Preset:
    """A search ready to run: `seconds` is the whole time on two laptop cores (None: needs a GPU)."""

    name: str
    title: str
    seconds: int | None
    doc: str
    values: Mapping[str, Scalar]
    pace: float = 0.0  # steps per second at which it is pleasant to watch on a machine that could go faster; 0: any

    def watched(self, **changes: Any) -> SearchConfig:
        """The configuration for a page: no faster than eyes can follow."""
        return self.config(**{"pace": self.pace, **changes})

    def config(self, **changes: Any) -> SearchConfig:
        return SearchConfig.from_dict({**self.values, **changes})


# Short searches need a larger alpha rate and a shorter memory in Adam than the paper's 50 epochs (with beta2 = 0.999
# the first large gradients stay in the denominator for about a thousand steps and the alphas freeze).
_SHORT = {
    "a_lr": 0.1, "a_beta2": 0.95, "w_lr": 0.05, "augment": False, "shuffle_split": True, "train_portion": 1 / 3,
}  # fmt: skip
# The alphas of the collapse lesson learn slowly and with the paper's long Adam memory (beta2 0.999). Without label
# noise the alpha gradient is soon noise around zero: fast alphas (0.1, beta2 0.95) then wander, and one control in
# twenty ended at 5 or 6 skips of 6 by chance; these did in 1 of 70, and with noise 30 of 30 searches still collapse.
_S2 = {
    **_SHORT, "a_lr": 0.03, "a_beta2": 0.999, "dataset": "digits", "space": "s2", "nodes": 3, "cells": 4,
    "reductions": "none", "channels": 8,
    "stem_multiplier": 1, "stem_stride": 2, "batch": 50, "arch_batch": 150, "epochs": 40, "seed": 0,
    "hessian_every": 5, "hessian_batch": 100, "retrain_epochs": 6, "random_cells": 2,
}  # fmt: skip

# Recurrent searches. The paper's setting on PTB (appendix A.1.2, where the code differs: the code): no momentum, no
# decay of the rate, Adam with its usual betas. `recurrent` is small, without dropout, and falls along a cosine.
_RNN = {
    "space": "darts-rnn", "batch": 256, "w_lr": 20.0, "w_lr_min": 20.0, "momentum": 0.0, "w_decay": 5e-7, "clip": 0.25,
    "a_lr": 3e-3, "a_beta1": 0.9, "a_beta2": 0.999, "epochs": 50, "seed": 3,
}  # fmt: skip
_RNN_SMALL = {
    **_RNN, "dataset": "markov", "nodes": 4, "units": 32, "bptt": 10, "batch": 32, "w_lr_min": 0.5, "a_lr": 0.1,
    "a_beta1": 0.5, "a_beta2": 0.95, "epochs": 10, "seed": 0, "dropout": 0.0, "dropout_hidden": 0.0,
    "dropout_input": 0.0, "dropout_embedding": 0.0, "state_clip": 10.0, "retrain_epochs": 8, "random_cells": 2,
}  # fmt: skip

PRESETS: Mapping[str, Preset] = {
    preset.name: preset
    for preset in (
        Preset(
            "tiny", "Tiny", 20, "Three operations and two nodes on handwritten digits: the whole story at a glance.",
            {
                **_SHORT, "dataset": "digits", "space": "tiny", "cells": 3, "reductions": "middle", "channels": 8,
                "stem_multiplier": 1, "stem_stride": 2, "batch": 50, "arch_batch": 100, "epochs": 15, "seed": 0,
                "retrain_epochs": 4, "random_cells": 1,
            },
            pace=10.0,
        ),
        Preset(
            "laptop", "Laptop", 60,
            "All eight DARTS operations on handwritten digits, then the derived cell against random ones.",
            {
                **_SHORT, "dataset": "digits", "space": "darts", "nodes": 3, "cells": 3, "reductions": "middle",
                "channels": 8, "stem_multiplier": 1, "stem_stride": 2, "batch": 50, "arch_batch": 100, "epochs": 16,
                "seed": 0, "hessian_every": 0, "retrain_epochs": 6, "random_cells": 3,
            },
            pace=12.0,
        ),
        Preset(
            "collapse", "See it collapse", 60,
            "Labels with 40 % noise: the supernet memorises them and the alphas run to skip connections.",
            {**_S2, "label_noise": 0.4},
            pace=20.0,
        ),
        Preset(
            "clean", "The clean control", 60,
            "The same search without the noise: 69 of 70 such searches stayed healthy.",
            {**_S2, "label_noise": 0.0},
            pace=20.0,
        ),
        Preset(
            "known", "Every cell known", 30,
            "A space of 729 cells, each trained beforehand: at every epoch the true accuracy of the cell found.",
            {
                **_SHORT, "dataset": "digits", "space": "nb3", "cells": 3, "reductions": "none", "channels": 8,
                "stem_multiplier": 1, "stem_stride": 2, "train_portion": 0.5, "batch": 60, "arch_batch": 150,
                "epochs": 40, "seed": 0,
            },
            pace=20.0,
        ),
        Preset(
            "cifar", "CIFAR-10, small", 1800, "The DARTS space on 16x16 CIFAR-10: hours on a laptop, minutes on a GPU.",
            {
                "dataset": "cifar10", "resize": 16, "subset": 10_000, "cells": 5, "channels": 8, "epochs": 15,
                "batch": 64,
                "a_lr": 3e-3, "a_beta2": 0.99,
            },
        ),
        Preset(
            "paper", "The paper's CIFAR-10 search", None, "50 epochs, 8 cells, 16 channels: about a GPU day in 2018.",
            {"dataset": "cifar10"},
        ),
        Preset(
            "recurrent", "A recurrent cell", 60,
            "Which cell reads a small generated language best? Its lowest possible perplexity is known and drawn.",
            _RNN_SMALL, pace=15.0,
        ),
        Preset(
            "ptb", "The paper's recurrent search", None, "Penn Treebank (set path), 300 units: half a GPU day in 2018.",
            {**_RNN, "dataset": "ptb"},
        ),
        Preset(
            "wt2", "Recurrent search on WikiText-2", None, "The paper's setting on WikiText-2 (set path).",
            {**_RNN, "dataset": "wikitext2"},
        ),
    )
}  # fmt: skip


def preset_named(name: str) -> Preset:
    """The preset called `name`.

    Raises:
        BadInput: there is none.
    """
    if name not in PRESETS:
        raise unknown(HERE, "preset", name, PRESETS)
    return PRESETS[name]
