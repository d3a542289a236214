"""A search space of somebody's own, from a small file: JSON, or Python that holds nothing but assignments of data.

    name = "wide"
    nodes = 3
    operations = ["skip_connect", "sep_conv_3x3", {"op": "sep_conv", "kernel": 5}]
    edges = {"normal-0-2": ["skip_connect"], "0-3": ["skip_connect", "sep_conv_3x3"]}

The file is read as data and never run. Its content, in one line of JSON, becomes the setting `own_space`, so whatever
holds the settings of a search (run folder, checkpoint, comparison) holds its space, and needs the file no more.
`docs/your-own-space.md` explains every key.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

from darts_core import io
from darts_core.errors import BadInput, unknown
from darts_core.space import (
    CONV_OPS,
    MAX_NODES,
    MBCONV_OPS,
    RNN_OPS,
    SPACES,
    SearchSpace,
    SpaceEntry,
    space_from,
    space_named,
)

OWN = "own"  # what the setting `space` says where `own_space` holds the space
MAX_FILE = 1 << 16  # bytes of a file
MAX_TEXT = 4096  # characters of a space, written as the setting
KEYS = ("name", "form", "nodes", "operations", "keep", "edges")
GUIDE = "see docs/your-own-space.md"


class Form(NamedTuple):
    """A form that cells may have: which operations they may hold, how many edges a node keeps (None: all), inputs."""

    ops: tuple[str, ...]
    keep: int | None
    inputs: int


FORMS: Mapping[str, Form] = {
    "darts": Form(CONV_OPS, 2, 2),
    "bench": Form(CONV_OPS, None, 1),
    "chain": Form(MBCONV_OPS, None, 1),
    "recurrent": Form(RNN_OPS, 1, 1),
}


class OwnSpace(NamedTuple):
    """A name, what a named space has too, and the form in one line: equal spaces have equal text."""

    name: str
    entry: SpaceEntry
    text: str


def read(path: str | Path) -> OwnSpace:
    """The space in a file; `.py` is read as Python data, anything else as JSON.

    Raises:
        BadInput: the file is missing, too large, holds something else than data, or describes no space.
    """
    return from_bytes(io.read_bytes(Path(path), MAX_FILE), str(path))


def from_bytes(raw: bytes, name: str) -> OwnSpace:
    """The space in the bytes of a file called `name`, as `read`.

    Raises:
        BadInput: too many bytes, something else than data, or no space.
    """
    if len(raw) > MAX_FILE:
        raise BadInput(name, "", f"has more than {MAX_FILE:,} bytes", "describe a smaller space")
    data = python_data(raw, name) if Path(name).suffix == ".py" else io.loads(raw, name, MAX_FILE)
    return described(data, name)


@lru_cache(maxsize=64)
def parsed(text: str, where: str = "settings") -> OwnSpace:
    """The space that the setting `own_space` holds.

    Raises:
        BadInput: it is empty, too long, no JSON, or describes no space.
    """
    if not text.strip():
        raise BadInput(where, "own_space", "is empty, and space is own", "give a file: --space FILE, " + GUIDE)
    if len(text) > MAX_TEXT:
        raise BadInput(where, "own_space", f"is longer than {MAX_TEXT} characters", "describe a smaller space")
    return described(io.loads(text.encode("utf-8", "replace"), f"{where}: own_space"), f"{where}: own_space")


def pasted(text: str, where: str = "settings: own_space") -> OwnSpace:
    """The space in the text of a file, as people paste it into a form: JSON, or the assignments of Python.

    Raises:
        BadInput: it is empty, too large, neither of the two, or describes no space.
    """
    raw = text.strip().encode("utf-8", "replace")
    if len(raw) > MAX_FILE:
        raise BadInput(where, "", f"is longer than {MAX_FILE} bytes", "describe a smaller space")
    if not raw:
        raise BadInput(where, "", "is empty, and the space is own", f"paste the text of its file, {GUIDE}")
    data = io.loads(raw, where, MAX_FILE) if raw.startswith(b"{") else python_data(raw, where)
    return described(data, where)


def chosen(text: str) -> dict[str, str | int]:
    """The settings that `--space` stands for: a name of the list, or a file that ends with .json or .py.

    Raises:
        BadInput: the file holds no space.
    """
    if text not in SPACES and (Path(text).suffix in (".json", ".py") or Path(text).is_file()):
        return settings(read(text))
    return {"space": text}


def settings(own: OwnSpace) -> dict[str, str | int]:
    """What chooses a space of one's own; it says how many nodes its cells have, so the number of a preset gives way."""
    return {"space": OWN, "own_space": own.text, "nodes": 0}


def layout_of(space: str, own_space: str = "") -> SearchSpace:
    """The space of a name, or of what the setting `own_space` holds, with its usual nodes.

    Raises:
        BadInput: there is none.
    """
    if space == OWN or own_space:
        own = parsed(own_space)
        return space_from(own.name, own.entry)
    return space_named(space)


def python_data(raw: bytes, where: str) -> dict[str, Any]:
    """Name -> value of a Python file that holds assignments of plain data, and a docstring. Nothing is run.

    Raises:
        BadInput: it is no Python, or a line is anything else.
    """
    try:
        body = ast.parse(raw.decode("utf-8")).body
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        line = getattr(error, "lineno", None)
        place = f"line {line}" if line else "file"
        raise BadInput(where, place, "is not Python", f"write NAME = VALUE, {GUIDE}") from error
    found: dict[str, Any] = {}
    for number, node in enumerate(body):
        value = node.value if isinstance(node, ast.Expr) and number == 0 else None
        if isinstance(value, ast.Constant) and isinstance(value.value, str):  # the docstring
            continue
        line = f"line {node.lineno}"
        if not isinstance(node, ast.Assign) or len(node.targets) != 1 or not isinstance(node.targets[0], ast.Name):
            raise BadInput(where, line, "is not NAME = VALUE", "the file is read as data and never run: leave it out")
        name = node.targets[0].id
        if name in found:
            raise BadInput(where, line, f"gives {name} again", "give it once")
        try:
            found[name] = _lists(ast.literal_eval(node.value))
        except (ValueError, TypeError, SyntaxError, RecursionError, MemoryError) as error:
            fix = "use texts in quotes, numbers, lists and dicts; nothing is computed"
            raise BadInput(where, line, f"the value of {name} is not plain data", fix) from error
    return found


def _lists(value: Any) -> Any:
    """Tuples as lists, as JSON has them."""
    if isinstance(value, list | tuple):
        return [_lists(item) for item in value]
    return {key: _lists(item) for key, item in value.items()} if isinstance(value, dict) else value


def described(data: Any, where: str) -> OwnSpace:
    """The space that `data` describes.

    Raises:
        BadInput: names the key that is wrong, what is wrong with it, and what to write.
    """
    if not isinstance(data, Mapping):
        raise BadInput(where, "", "is not an object of names and values", GUIDE)
    for key in data:
        if key not in KEYS:
            raise unknown(where, "key", str(key), KEYS)
    for key in ("name", "operations"):
        if key not in data:
            raise BadInput(where, key, "is missing", f"give {key}, {GUIDE}")
    name = io.safe_name(data["name"], where)
    if name in SPACES or name == OWN:
        raise BadInput(where, "name", f"{name} is the name of a space that exists already", "choose another one")
    form_name = data.get("form", "darts")
    if form_name not in FORMS:
        raise unknown(where, "form", str(form_name), FORMS)
    form = FORMS[form_name]
    if form_name == "chain" and "nodes" in data:
        raise BadInput(
            where, "nodes", "is not for a chain, which has as many blocks as the setting cells", "leave it out"
        )
    nodes = _whole(data.get("nodes", 4), where, "nodes", MAX_NODES)
    ops = operations(data["operations"], form_name, where)
    keep = _keep(data, form_name, nodes, where)
    held = _edges(data.get("edges", {}), form_name, nodes, ops, keep, where)
    if ops == ("none",):
        raise BadInput(where, "operations", "holds none alone", "add an operation that computes something")
    entry = SpaceEntry(
        ops, nodes, "A space of your own.", form.inputs, {}, form_name == "recurrent", form_name == "chain", keep, held
    )
    canonical = {
        "name": name, "form": form_name, **({"nodes": nodes} if form_name != "chain" else {}),
        "operations": list(ops), "keep": keep or "all",
        **({"edges": {edge: list(some) for edge, some in sorted(held.items())}} if held else {}),
    }  # fmt: skip
    text = io.dumps(canonical, where)
    if len(text) > MAX_TEXT:
        fix = "restrict fewer edges, or take fewer nodes"
        raise BadInput(where, "", f"takes {len(text)} characters, and {MAX_TEXT} is the limit", fix)
    return OwnSpace(name, entry, text)


def operations(value: Any, form: str, where: str) -> tuple[str, ...]:
    """The operations of a space: names, or {"op": family, "kernel": k} (and "expansion" for mbconv).

    Raises:
        BadInput: one is unknown or not of this form of cell, or named twice.
    """
    if not isinstance(value, Sequence) or isinstance(value, str) or not value:
        fix = 'for example ["skip_connect", "sep_conv_3x3"]'
        raise BadInput(where, "operations", "must be a list with at least one operation", fix)
    found: list[str] = []
    for item in value:
        name = _spelled(item, form, where) if isinstance(item, Mapping) else str(item)
        if name not in FORMS[form].ops:
            raise unknown(where, "operation", name, FORMS[form].ops)
        if name in found:
            raise BadInput(where, "operations", f"{name} is there twice", "name each operation once")
        found.append(name)
    return tuple(found)


def _spelled(item: Mapping[str, Any], form: str, where: str) -> str:
    """ "sep_conv_5x5" of {"op": "sep_conv", "kernel": 5}."""
    for key in item:
        if key not in ("op", "kernel", "expansion"):
            raise unknown(where, "key of an operation", str(key), ("op", "kernel", "expansion"))
    known = families(FORMS[form].ops)
    family = str(item.get("op", ""))
    if family in FORMS[form].ops and len(item) == 1:
        return family
    if family not in known:
        raise unknown(where, "operation", family, [*known, *(op for op in FORMS[form].ops if "x" not in op)])
    wanted = (item.get("kernel"), item.get("expansion"))
    name = known[family].get(wanted)  # type: ignore[arg-type]
    if name is None or any(isinstance(x, bool) for x in wanted):
        some = "; ".join(
            f"kernel {kernel}" + (f", expansion {expansion}" if expansion else "")
            for kernel, expansion in known[family]
        )
        asked = ", ".join(f"{key} {item[key]!r}" for key in ("kernel", "expansion") if key in item) or "no kernel"
        raise BadInput(where, "operations", f"{family} with {asked} is not known", f"it has {some}")
    return name


def families(ops: Sequence[str]) -> dict[str, dict[tuple[int, int | None], str]]:
    """Family -> (kernel, expansion or None) -> name, of the operations that have parameters in their names."""
    found: dict[str, dict[tuple[int, int | None], str]] = {}
    for op in ops:
        if parts := re.fullmatch(r"(\w+?)_(\d)x\2(?:_e(\d))?", op):
            found.setdefault(parts[1], {})[int(parts[2]), int(parts[3]) if parts[3] else None] = op
    return found


def _keep(data: Mapping[str, Any], form: str, nodes: int, where: str) -> int | None:
    """How many edges a node keeps; None: all."""
    usual = FORMS[form].keep
    value = data.get("keep", usual or "all")
    if form != "darts":
        if value != (usual or "all"):
            raise BadInput(where, "keep", f"is {usual or 'all'} in a cell of form {form}", "leave it out")
        return usual
    return None if value == "all" else _whole(value, where, "keep", nodes + 1, ' or "all"')


def _edges(
    value: Any, form: str, nodes: int, ops: tuple[str, ...], keep: int | None, where: str
) -> dict[str, tuple[str, ...]]:
    """Edge -> the operations that it may hold."""
    if not isinstance(value, Mapping):
        raise BadInput(where, "edges", "must be an object", 'for example {"0-2": ["skip_connect"]}')
    if value and form in ("chain", "recurrent"):
        raise BadInput(where, "edges", f"cannot be restricted in a cell of form {form}", "leave edges out")
    inputs, kinds = FORMS[form].inputs, ("normal", "reduce") if form == "darts" else ("normal",)
    found: dict[str, tuple[str, ...]] = {}
    for edge, some in value.items():
        parts = re.fullmatch(r"(?:([a-z]+)-)?(\d{1,3})-(\d{1,3})", str(edge))
        if not parts:
            raise BadInput(
                where, "edges", f"{str(edge)[:40]!r} is no edge", "write source-target, say 0-2 or normal-0-2"
            )
        if parts[1] and parts[1] not in kinds:
            raise unknown(where, "kind of cell", parts[1], kinds)
        source, target = int(parts[2]), int(parts[3])
        if not (inputs <= target < inputs + nodes and source < target):
            fix = f"it leads from an earlier state to one of the nodes {inputs} to {inputs + nodes - 1}"
            raise BadInput(where, "edges", f"{edge} is out of range", fix)
        held = operations(some, form, where)
        for op in held:
            if op not in ops:
                raise BadInput(where, f"edges.{edge}", f"{op} is not among the operations", "add it there, or leave it")
        if keep is not None and held == ("none",):
            fix = "give an operation that a cell can hold"
            raise BadInput(where, f"edges.{edge}", "may hold none alone, which is never derived", fix)
        found[str(edge)] = held
    return found


def _whole(value: Any, where: str, field: str, high: int, more: str = "") -> int:
    if isinstance(value, bool) or not isinstance(value, int) or not 1 <= value <= high:
        raise BadInput(where, field, f"{str(value)[:40]!r} is not a whole number from 1 to {high}{more}", "correct it")
    return value
