"""What the files of a run hold: the records of `steps.bin`, the lines of `events.jsonl`, the keys of `run.json`."""

from __future__ import annotations

import json
import math
import re
import struct
import zlib
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from darts_core import io
from darts_core.errors import BadInput, unknown
from darts_core.events import TYPES, Step, from_json
from darts_core.space import SearchSpace

RUN, STEPS, EVENTS, LOCK, LOG = "run.json", "steps.bin", "events.jsonl", "lock", "log.txt"
COMMANDS, CHECKPOINTS = "commands", "checkpoints"
SCHEMA = 1  # of run.json
MAGIC, VERSION, HEADER = b"DARTSRUN", 1, 4096
HEAD = struct.Struct("<8sIIII")  # magic, version, header bytes, record bytes, bytes of the layout's JSON
RECORD_LIMIT = 1 << 20  # bytes
LINE_LIMIT = 1 << 20  # bytes
EVENTS_LIMIT = 256 << 20  # bytes of events.jsonl
AGAIN = "take another copy of the run"

# steps.bin --------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Layout:
    """The fields of a record of `steps.bin`, little-endian:

    u32 step, u16 epoch, u16 stage, u32 flags, float32 metrics, float32 tensors row by row, u32 crc32 of all before it.
    There is no clock in it: a repeated run writes the same bytes.
    """

    metrics: tuple[str, ...]
    tensors: tuple[
        tuple[str, tuple[int, ...]], ...
    ]  # "alpha.<kind>", "mix.<kind>": (edges, ops), "edge.<kind>": (edges,)

    @staticmethod
    def of(metrics: Sequence[str], space: SearchSpace, edge_alphas: bool = False) -> Layout:
        """The layout of a search in `space` that records `metrics`, in this order."""
        shapes = {kind: cell.shape for kind, cell in space.cells.items()}
        tensors = [(f"{table}.{kind}", shape) for table in ("alpha", "mix") for kind, shape in shapes.items()]
        edges = [(f"edge.{kind}", shape[:1]) for kind, shape in shapes.items()] if edge_alphas else []
        return Layout(tuple(metrics), (*tensors, *edges))

    def to_json(self) -> dict[str, Any]:
        """As it stands in `run.json` and in the header of `steps.bin`."""
        return {"metrics": list(self.metrics), "tensors": [[name, list(shape)] for name, shape in self.tensors]}

    @staticmethod
    def from_json(data: Any, where: object) -> Layout:
        """The layout in `data`; BadInput for anything else, or for records of more than 1 MB."""

        def bad(what: str) -> BadInput:
            return BadInput(where, "layout", what, AGAIN)

        if not isinstance(data, dict) or set(data) != {"metrics", "tensors"}:
            raise bad("it is not a table of metrics and tensors")
        metrics, tensors = data["metrics"], data["tensors"]
        if not isinstance(metrics, list) or len(metrics) > 256 or len(set(map(str, metrics))) < len(metrics):
            raise bad("metrics is not a list of up to 256 different names")
        if not all(isinstance(name, str) and re.fullmatch(r"[a-z0-9_.]{1,64}", name) for name in metrics):
            raise bad("a metric has a strange name")
        if not isinstance(tensors, list) or len(tensors) > 64:
            raise bad("tensors is not a list of up to 64")
        found: dict[str, tuple[int, ...]] = {}
        for entry in tensors:
            if not isinstance(entry, list) or len(entry) != 2 or not isinstance(entry[1], list):
                raise bad("a tensor is not a name and a shape")
            name, shape = entry
            sound = isinstance(name, str) and re.fullmatch(r"(alpha|mix|edge)\.[a-z0-9_]{1,32}", name)
            if not sound or name in found:
                raise bad("a tensor has a strange name, or one that stands there twice")
            if not 1 <= len(shape) <= 2 or not all(type(n) is int and 0 < n <= 4096 for n in shape):
                raise bad(f"{name} has a strange shape")
            found[name] = tuple(shape)
        if 16 + 4 * (len(metrics) + sum(map(math.prod, found.values()))) > RECORD_LIMIT:
            raise bad("a record would be larger than 1 MB")
        return Layout(tuple(metrics), tuple(found.items()))

    @cached_property
    def dtype(self) -> np.dtype:
        """One record as a NumPy structure."""
        head = [("step", "<u4"), ("epoch", "<u2"), ("stage", "<u2"), ("flags", "<u4")]
        numbers = [("metrics", "<f4", (len(self.metrics),)), *((name, "<f4", shape) for name, shape in self.tensors)]
        return np.dtype([*head, *numbers, ("crc", "<u4")])

    def header(self) -> bytes:
        """The first 4,096 bytes of `steps.bin`."""
        text = io.dumps(self.to_json()).encode()
        if len(text) > HEADER - HEAD.size - 4:
            raise BadInput(STEPS, "layout", "the names are too long for the header", "use fewer or shorter ones")
        head = (HEAD.pack(MAGIC, VERSION, HEADER, self.dtype.itemsize, len(text)) + text).ljust(HEADER - 4, b"\0")
        return head + struct.pack("<I", zlib.crc32(head))

    @staticmethod
    def from_header(head: bytes, where: object) -> Layout:
        """The layout that the first 4,096 bytes of `steps.bin` state; BadInput when they are damaged."""

        def bad(what: str) -> BadInput:
            return BadInput(where, "header", what, AGAIN)

        if len(head) < HEADER:
            raise bad(f"it is cut off after {len(head):,} of {HEADER:,} bytes")
        magic, version, size, record, length = HEAD.unpack_from(head)
        if magic != MAGIC:
            raise bad("these are not the records of a run")
        if head[HEADER - 4 : HEADER] != struct.pack("<I", zlib.crc32(head[: HEADER - 4])):
            raise bad("its checksum is wrong")
        if version != VERSION or size != HEADER or length > HEADER - HEAD.size - 4:
            raise bad(f"version {version} is not known here")
        layout = Layout.from_json(io.loads(head[HEAD.size : HEAD.size + length], where), where)
        if layout.dtype.itemsize != record:
            raise bad(f"it says {record} bytes per record, its layout makes {layout.dtype.itemsize}")
        return layout

    def record(self, step: Step) -> bytes:
        """`step` as one record.

        Raises:
            BadInput: an alpha or a weight is not finite ("alpha.normal became NaN at step 812").
            AssertionError: the step has other metrics or tensors than this layout.
        """
        row = np.zeros(1, self.dtype)
        row["step"], row["epoch"], row["stage"], row["flags"] = step.step, step.epoch, step.stage, step.flags
        assert step.metrics.keys() == set(self.metrics), f"metrics {list(step.metrics)}, layout {self.metrics}"
        tables = {"alpha": step.alphas, "mix": step.mix, "edge": step.edge_alphas}
        given = {f"{table}.{kind}" for table, kinds in tables.items() for kind in kinds}
        assert given == {name for name, _ in self.tensors}, f"tensors {sorted(given)}, layout {self.tensors}"
        with np.errstate(over="ignore"):  # beyond float32 becomes infinite, which is looked for below
            row["metrics"][0] = [step.metrics[name] for name in self.metrics]
            for name, shape in self.tensors:
                table, kind = name.split(".", 1)
                value = np.asarray(tables[table][kind], np.float32)
                assert value.shape == shape, f"{name} {value.shape}, layout {shape}"
                if not np.isfinite(value).all():
                    what = f"{name} became {'NaN' if np.isnan(value).any() else 'infinite'} at step {step.step}"
                    raise BadInput("", "", what, "lower the learning rates, or branch from an earlier epoch")
                row[name][0] = value
        body = row.tobytes()[:-4]
        return body + struct.pack("<I", zlib.crc32(body))


def is_record(data: bytes, step: int) -> bool:
    """Is this a whole record of `step`: does its checksum hold?"""
    return data[-4:] == struct.pack("<I", zlib.crc32(data[:-4])) and data[:4] == struct.pack("<I", step)


# events.jsonl -----------------------------------------------------------------------------------------------


def whole_lines(
    data: bytes, where: object, number: int | None, closely: Collection[str] | None = None
) -> tuple[list[dict[str, Any]], int]:
    """The events at the start of `data`, and the bytes they take; `number` is that of the first line, None if unknown.

    An end that is no JSON (torn, zeroed, scrambled) is left out. BadInput: damage with whole lines after it, or a line
    that is JSON but no event known here.

    Args:
        closely: types of lines to check in full; of the others only that they are JSON and stand in their place is
            looked at, which takes a tenth of the time. None: all.
    """
    found: list[dict[str, Any]] = []
    lines = data[: data.rfind(b"\n") + 1].split(b"\n")[:-1]
    used = 0
    for index, text in enumerate(lines):
        place = f"{where}, line {index + 1 + (number or 0)}"
        value = None if closely is None else _glanced(text, closely)
        if value is None:
            try:
                value = io.loads(text, place, LINE_LIMIT)
            except BadInput:
                if any(map(_is_json, lines[index + 1 :])):
                    raise
                break
            checked_line(value, place)
        expected = found[-1]["n"] + 1 if found else value["n"] if number is None else number
        if value["n"] != expected:
            raise BadInput(place, "n", f"line {value['n']} stands where line {expected} should", AGAIN)
        found.append(value)
        used += len(text) + 1
    return found, used


def _glanced(text: bytes, closely: Collection[str]) -> dict[str, Any] | None:
    """A line of a known type that need not be looked at closely; None for any other, and for anything strange."""
    start = re.match(rb'\{"type":"([a-z_]{1,20})",', text)
    if start is None or len(text) > LINE_LIMIT or (kind := start[1].decode()) in closely or kind not in TYPES:
        return None
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        return None
    sound = value["type"] == kind and type(value.get("n")) is int and type(value.get("time")) in (int, float)
    return value if sound else None


def checked_line(value: Any, where: object) -> dict[str, Any]:
    """`value` if it is an event with number and time, as a line holds it; else BadInput."""
    from_json(value, where)
    if type(value.get("n")) is not int or type(value.get("time")) not in (int, float):
        raise BadInput(where, "n", "the line has no number or time", AGAIN)
    return value


def _is_json(text: bytes) -> bool:
    try:
        return isinstance(io.loads(text, "", LINE_LIMIT), dict)
    except BadInput:
        return False


def as_lines(events: Sequence[Mapping[str, Any]]) -> bytes:
    """The content of an `events.jsonl`."""
    return "".join(io.dumps(event, EVENTS) + "\n" for event in events).encode()


# run.json ---------------------------------------------------------------------------------------------------

FACTS: Mapping[str, tuple[Any, Any]] = {  # key -> (types, default; ... where it must be given)
    "schema": (int, SCHEMA),
    "name": (str, ...),
    "title": (str, ...),
    "config": (dict, {}),
    "space": (dict, {}),
    "seed": (int, 0),
    "total_steps": ((int, type(None)), None),
    "epochs": (int, 0),
    "parent": ((dict, type(None)), None),  # of a branch: run, epoch, step and sha256 of the checkpoint
    "versions": (dict, {}),
    "commit": ((str, type(None)), None),
    "device": (str, "cpu"),
    "threads": (int, 1),
    "cpu": (str, ""),
    "ranks": (int, 1),
    "deterministic": (bool, True),
    "created": ((int, float), ...),  # unix seconds
    "command": (list, []),
    "layout": (dict, ...),
}
MAY_BE_MISSING: Mapping[str, Any] = {
    "group": str,  # a name that runs of one launch share, those of `search --seeds 0-4` say
}
PARENT = {"run": str, "epoch": int, "step": int, "sha256": str}


def facts(data: Any, where: object) -> dict[str, Any]:
    """`data` if it is a whole run.json of a schema known here, else BadInput."""
    if not isinstance(data, dict):
        raise BadInput(where, "", "it is not a table", AGAIN)
    if data.get("schema") != SCHEMA:
        shown = str(data.get("schema"))[:40]
        raise BadInput(where, "schema", f"{shown} is not known here", "update this program, or take another copy")
    for key in data:
        if key not in FACTS and key not in MAY_BE_MISSING:
            raise unknown(where, "key", key, [*FACTS, *MAY_BE_MISSING])
    for key, (kind, _) in FACTS.items():
        _typed(data, key, kind, where)
    if "group" in data:
        io.safe_name(data["group"], where, "group")
    if not 0 <= data["created"] < 1e11:
        raise BadInput(where, "created", "it is no time", AGAIN)
    if (parent := data["parent"]) is not None:
        for key in {*parent, *PARENT}:
            if key not in PARENT:
                raise unknown(where, "parent", key, PARENT)
            _typed(parent, key, PARENT[key], where)
        if not 0 <= parent["step"] < 1 << 31:
            raise BadInput(where, "parent", f"step {parent['step']} is out of range", AGAIN)
    Layout.from_json(data["layout"], where)
    return data


def _typed(data: Mapping[str, Any], key: str, kind: Any, where: object) -> None:
    value = data.get(key, ...)
    if not isinstance(value, kind) or (isinstance(value, bool) and kind is not bool):
        what = "it is missing" if value is ... else f"{str(value)[:40]!r} is of the wrong type"
        raise BadInput(where, key, what, AGAIN)
