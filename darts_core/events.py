"""What a search says while it runs: frozen data, and its JSON. Steps go to `steps.bin`, all else to `events.jsonl`.

`step` counts finished steps from 1 and only grows; `epoch` counts from 0 and goes back after a `Rewound`. Seconds are
wall-clock seconds. Orders are what a person asks of a running search; each is answered by one `Applied`.
"""

from __future__ import annotations

import re
import time
import types
import uuid
from collections.abc import Callable, Mapping
from dataclasses import MISSING, dataclass, field, fields
from functools import cache
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

import numpy as np

from darts_core.errors import BadInput, unknown

Json = Any  # None, bool, int, float, str, list or dict
Scalar = bool | int | float | str | None

# What every search measures at every step: losses in nats, accuracies from 0 to 1, rates, L2 norms before clipping.
ARCHITECTURE_STEP = 1  # flag of a step: the alphas moved
STEP_METRICS = (
    "train_loss", "train_accuracy", "val_loss", "val_accuracy", "w_lr", "a_lr", "w_grad_norm", "a_grad_norm",
)  # fmt: skip
# And every search on text: exp(nats per token), and the lowest that any model could reach (NaN: not known).
TEXT_METRICS = ("train_perplexity", "val_perplexity", "floor_perplexity")


@dataclass(frozen=True, eq=False)
class Step:
    """One finished step. Not a JSON line: `runs` packs it into a record of `steps.bin`, in float32."""

    step: int  # from 1
    epoch: int  # from 0
    stage: int  # from 0
    flags: int  # ARCHITECTURE_STEP or nothing
    metrics: Mapping[str, float]  # may be NaN where nothing was measured
    alphas: Mapping[str, np.ndarray]  # kind -> (edges, ops) float32 logits
    mix: Mapping[str, np.ndarray]  # kind -> (edges, ops) float32 weights, 0: not legal
    edge_alphas: Mapping[str, np.ndarray] = field(default_factory=dict)  # kind -> (edges,) float32 logits

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Step):
            return NotImplemented
        numbers = all(getattr(self, name) == getattr(other, name) for name in ("step", "epoch", "stage", "flags"))
        return numbers and all(
            mine.keys() == theirs.keys() and all(np.array_equal(mine[k], theirs[k], equal_nan=True) for k in mine)
            for mine, theirs in zip(self._tables(), other._tables(), strict=True)
        )

    def _tables(self) -> tuple[Mapping[str, Any], ...]:
        return self.metrics, self.alphas, self.mix, self.edge_alphas


@dataclass(frozen=True)
class Epoch:
    """The end of an epoch, with what was measured at it and the cell that would be derived now."""

    epoch: int
    step: int
    metrics: dict[str, float]  # losses in nats, accuracies from 0 to 1
    probes: dict[str, float]
    genotype: dict[str, Json]
    collapse: dict[str, Json]  # derived_skips, derived_edges, mean_skip_weight, level
    seconds: float  # spent in this epoch


@dataclass(frozen=True)
class Sample:
    """Text that the model of this moment writes, for people to read."""

    step: int
    epoch: int
    text: str


@dataclass(frozen=True)
class StageStarted:
    """A new stage of the search, with new weights and alphas (P-DARTS)."""

    stage: int
    step: int
    reason: str


@dataclass(frozen=True)
class Phase:
    """What the process is busy with ("process", "torch", "data", "search" or "train", "evaluate"), for a page that
    waits.
    """

    name: str
    message: str
    total_steps: int | None = None  # of the whole search or training, once it is known


@dataclass(frozen=True)
class Checkpoint:
    """A checkpoint that is safely on the disk."""

    epoch: int  # finished epochs, from 0
    step: int
    file: str  # name in checkpoints/
    sha256: str
    bytes: int


@dataclass(frozen=True)
class Applied:
    """The answer to an order: done after `step` steps, or refused with a reason."""

    id: str
    step: int
    kind: str
    name: str | None
    value: Scalar
    accepted: bool
    reason: str
    epoch: int = 0


@dataclass(frozen=True)
class Rewound:
    """The method itself went back to an earlier epoch and changed a setting (RobustDARTS)."""

    step: int
    epoch: int
    to_epoch: int
    change: dict[str, Json]


@dataclass(frozen=True)
class Alarm:
    """The collapse level changed for the worse."""

    step: int
    epoch: int
    level: str
    reason: str


@dataclass(frozen=True)
class Resumed:
    """The process started again from a checkpoint.

    `identical`: the steps computed again equal the recorded ones; None: there were none to compare.
    """

    step: int
    epoch: int
    checkpoint: str  # file name, or "" for the very beginning
    identical: bool | None
    message: str


@dataclass(frozen=True)
class Trained:
    """One network trained from scratch, or the supernet or its pruned form looked at, for comparison."""

    role: Literal["derived", "random", "pruned", "supernet"]
    index: int  # which random cell, 0 for the others
    seed: int
    genotype: dict[str, Json] | None
    accuracy: float  # 0 to 1, on the search's validation images and labels; of a trained cell on test images
    test_accuracy: float | None = None  # 0 to 1, on test images with their true labels: the one to show
    parameters: int = 0
    seconds: float = 0.0
    epochs: int = 0
    metrics: dict[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Result:
    """What the search found."""

    step: int
    epoch: int
    genotype: dict[str, Json]
    metrics: dict[str, float]
    stopped: bool  # by an order, before its last epoch


@dataclass(frozen=True)
class Finished:
    """The last line of a complete run."""

    state: Literal["finished", "stopped"]
    step: int
    summary: dict[str, Json]


@dataclass(frozen=True)
class Interrupted:
    """Ctrl-C or a signal ended the process after a last checkpoint; the run can be resumed."""

    step: int
    reason: str


@dataclass(frozen=True)
class Failure:
    """The run ended by a fault. `message` is one sentence for people."""

    step: int
    message: str
    traceback: str


Line = (
    Epoch | Sample | StageStarted | Phase | Checkpoint | Applied | Rewound | Alarm
    | Resumed | Trained | Result | Finished | Interrupted | Failure
)  # fmt: skip
Event = Step | Line
TYPES: dict[str, type] = {re.sub(r"(?<!^)([A-Z])", r"_\1", t.__name__).lower(): t for t in get_args(Line)}
NAMES: dict[type, str] = {t: name for name, t in TYPES.items()}
_HINTS = {t: {f.name: get_type_hints(t)[f.name] for f in fields(t)} for t in get_args(Line)}
_NEEDED = {t: [f.name for f in fields(t) if f.default is MISSING is f.default_factory] for t in get_args(Line)}
STAMPS = ("n", "time")  # added by the writer of a line: its number from 0, unix seconds


def to_json(event: Line) -> dict[str, Json]:
    """The event as a dict that `from_json` reads back; "type" is the class in snake case. Steps are no JSON lines."""
    return {"type": NAMES[type(event)], **{name: getattr(event, name) for name in _HINTS[type(event)]}}


def from_json(data: Json, where: object = "event") -> Line:
    """The event in `data`, with or without the writer's "n" and "time"; BadInput names what is unknown or wrong."""
    if not isinstance(data, dict):
        raise BadInput(where, "", "an event is a table", "see the type names in darts_core/events.py")
    if not isinstance(data.get("type"), str) or data["type"] not in TYPES:
        raise unknown(where, "type", data.get("type"), TYPES)
    kind = TYPES[data["type"]]
    known = _HINTS[kind]
    for key in data:
        if key not in known and key != "type" and key not in STAMPS:
            raise unknown(where, "key", key, known)
    for key in _NEEDED[kind]:
        if key not in data:
            raise BadInput(where, key, f"{data['type']} needs it", "the line is damaged, or from another version")
    values = {key: _checked(data[key], hint, where, key) for key, hint in known.items() if key in data}
    return kind(**values)


def _checked(value: Json, hint: Any, where: object, key: str) -> Any:
    """`value` if it is what the annotation says; an int is taken where a float is asked for."""
    if not _is_a(hint)(value):
        shown = repr(value) if len(repr(value)) <= 60 else repr(value)[:57] + "..."
        raise BadInput(where, key, f"{shown} is not {_said(hint)}", "the line is damaged, or from another version")
    return float(value) if hint is float else value


@cache
def _is_a(hint: Any) -> Callable[[Json], bool]:
    """The question whether a value is what an annotation says. Built once: a list of runs asks it a million times."""
    origin = get_origin(hint)
    if hint is Any:
        return lambda value: True
    if origin in (Union, types.UnionType):
        parts = [_is_a(part) for part in get_args(hint)]
        return lambda value: any(is_one(value) for is_one in parts)
    if origin is Literal:
        words = frozenset(get_args(hint))
        return lambda value: isinstance(value, str) and value in words
    if origin is dict:
        is_entry = _is_a(get_args(hint)[1])
        return lambda value: isinstance(value, dict) and all(map(is_entry, value.values()))
    if hint is float:
        return lambda value: isinstance(value, (int, float)) and not isinstance(value, bool)
    if hint is int:
        return lambda value: isinstance(value, int) and not isinstance(value, bool)
    return lambda value: isinstance(value, hint)


def _said(hint: Any) -> str:
    """An annotation in words."""
    if get_origin(hint) is Literal:
        return "one of " + ", ".join(get_args(hint))
    if get_origin(hint) in (Union, types.UnionType):
        return " or ".join(_said(part) for part in get_args(hint))
    words = {int: "a whole number", float: "a number", str: "text", bool: "true or false", type(None): "null"}
    return words.get(hint, "a table of numbers" if get_args(hint)[1:] == (float,) else "a table")


# Orders ----------------------------------------------------------------------------------------------------

CHANGES = ("set", "pin", "ban", "reset")  # orders that change the search: from then on the run is called edited
KINDS = ("pause", "resume", "step", "stop", "checkpoint", *CHANGES)


@dataclass(frozen=True)
class Order:
    """What a person asks of a running search.

    "set" has the `name` of a setting and the `value` it shall have. "pin" and "ban" have the name of an edge
    ("normal-0-2", see `legal.py`) and an operation as the value; "reset" has an edge alone.
    """

    id: str
    kind: str  # one of KINDS
    name: str | None = None
    value: Scalar = None
    time: float = 0.0  # unix seconds


def new_order(kind: str, name: str | None = None, value: Scalar = None) -> Order:
    """An order with a fresh id, of now; BadInput as from `parse_order`."""
    given = {"name": name, "value": value} if name is not None or value is not None else {}
    return parse_order({"id": uuid.uuid4().hex, "kind": kind, "time": time.time(), **given}, "order")


def parse_order(data: Json, where: object = "order") -> Order:
    """The order in `data`; BadInput names what is unknown, wrong or too long. Settings are judged by the run."""
    if not isinstance(data, dict):
        raise BadInput(where, "", "an order is a table", f"give id, kind ({', '.join(KINDS)}) and time")
    for key in data:
        if key not in ("id", "kind", "name", "value", "time"):
            raise unknown(where, "key", key, ("id", "kind", "name", "value", "time"))
    if not isinstance(data.get("id"), str) or not re.fullmatch(r"[A-Za-z0-9_-]{1,64}", data["id"]):
        raise BadInput(where, "id", "it is not an identifier", "use 1 to 64 letters, digits, - and _")
    if not isinstance(data.get("kind"), str) or data["kind"] not in KINDS:
        raise unknown(where, "order", data.get("kind"), KINDS)
    if not _is_a(float)(data.get("time", 0.0)):
        raise BadInput(where, "time", "it is not a number of seconds", "give unix seconds")
    name, value = data.get("name"), data.get("value")
    if data["kind"] in CHANGES:
        what = "setting" if data["kind"] == "set" else "edge"
        if not isinstance(name, str) or not re.fullmatch(r"[A-Za-z0-9_.-]{1,64}", name):
            raise BadInput(where, "name", f"no {what} is named", f"give the name of {_a(what)}")
        if data["kind"] in ("pin", "ban") and not isinstance(value, str):
            raise BadInput(where, "value", "no operation is named", f"say which operation to {data['kind']}")
        if data["kind"] == "reset" and value is not None:
            raise BadInput(where, "value", "reset takes an edge alone", "leave the operation out")
        if not _is_a(Scalar)(value) or (isinstance(value, str) and len(value) > 200):
            raise BadInput(where, "value", f"the value of {name} is no number or short text", "give one value")
    elif name is not None or value is not None:
        raise BadInput(where, "name", f"{data['kind']} takes no setting", 'use the kind "set" to change one')
    return Order(data["id"], data["kind"], name, value, float(data.get("time", 0.0)))


def _a(noun: str) -> str:
    return f"an {noun}" if noun[0] in "aeiou" else f"a {noun}"


def order_words(kind: str, name: str | None, value: Scalar) -> str:
    """An order, or its answer, in words: "a_lr = 0.02", "ban skip_connect on normal-0-2", "reset normal-0-2"."""
    if kind == "set":
        return f"{name} = {short(value)}"
    return " ".join(part for part in (kind, f"{value} on" if value else "", name or "") if part)


def short(value: object) -> str:
    """A setting's value in few characters: 0.01, 3e-5, true."""
    if isinstance(value, bool) or value is None:
        return {True: "true", False: "false", None: "none"}[value]
    return f"{value:.6g}".replace("e-0", "e-") if isinstance(value, int | float) else str(value)


def order_json(order: Order) -> dict[str, Json]:
    """The order as `parse_order` reads it."""
    given = {"name": order.name, "value": order.value} if order.kind in CHANGES else {}
    return {"id": order.id, "kind": order.kind, **given, "time": order.time}
