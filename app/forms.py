"""Form fields for settings, made from the one table in darts_core.config, so that a new setting needs no line here."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, TypeVar
from zlib import crc32

import streamlit as st

from app.words import amount
from darts_core.config import Scalar, Setting
from darts_core.own_space import MAX_FILE, OWN

GROUPS = {
    "data": "Images",
    "space": "Search space and network",
    "method": "Method",
    "weights": "Weights (training)",
    "alphas": "Alphas (architecture)",
    "text": "Text and recurrent network",
    "probes": "Measurements and evaluation",
    "run": "Run",
}
Item = TypeVar("Item")
EXAMPLE = '{"name": "mine", "operations": ["skip_connect", "sep_conv_3x3"], "nodes": 3}'


def in_rows(items: Sequence[Item], wide: int) -> Iterator[tuple[Item, Any]]:
    """Each item with the column it belongs in, `wide` of them in a row. A narrow page, which puts columns below one
    another, keeps their order.
    """
    for first in range(0, len(items), wide):
        yield from zip(items[first : first + wide], st.columns(wide), strict=False)


def ask(setting: Setting, now: Scalar, key: str, choices: Iterable[str] = ()) -> Any:
    """One field that holds `now`; returns what the form says."""
    label = setting.doc.rstrip(".")
    hint = f"`{setting.name}`" + (f", {setting.span}" if setting.span else "") + f"; usually {amount(setting.default)}"
    options = list(setting.choices or choices)
    if options:
        return st.selectbox(
            label, options, index=options.index(str(now)) if str(now) in options else 0, key=key, help=hint
        )
    if setting.type == "bool":
        return st.checkbox(label, value=bool(now), key=key, help=hint)
    if setting.name == "own_space":
        about = f"{hint}. docs/your-own-space.md says what it holds; JSON or Python, read as data and never run."
        shown = "What is in the file of your space"
        return st.text_area(shown, value=str(now), key=key, help=about, max_chars=MAX_FILE, placeholder=EXAMPLE)
    if setting.type == "str":
        return st.text_input(label, value=str(now), key=key, help=hint, max_chars=4096)
    label += f" ({setting.unit})" if setting.unit else ""
    if setting.type == "int":
        low, high = (None if limit is None else int(limit) for limit in (setting.low, setting.high))
        return st.number_input(label, low, high, int(now), step=1, key=key, help=hint)
    low, high = (None if limit is None else float(limit) for limit in (setting.low, setting.high))
    return st.number_input(label, low, high, float(now), step=_step(float(now)), format="%.6g", key=key, help=hint)


def ask_all(
    settings: Mapping[str, Setting],
    now: Mapping[str, Scalar],
    key: str,
    choices: Mapping[str, Iterable[str]],
    given: Mapping[str, Scalar] | None = None,
) -> dict[str, Any]:
    """Every setting, a fold per group, the first open; `now` are the values shown first, and `given` go before them and
    before what was typed. Returns name -> value.
    """
    said: dict[str, Any] = {}
    for group, title in GROUPS.items():
        members = {name: setting for name, setting in settings.items() if setting.group == group}
        if not members:
            continue
        with st.expander(title, expanded=not said):
            for name, setting in members.items():
                if not applies(name, said):
                    said[name] = setting.default
                    continue
                place, first = f"{key}-{name}", now.get(name, setting.default)
                if given and name in given:  # a field that begins anew: Streamlit keeps what is in one of the same key
                    place, first = f"{place}-{crc32(str(given[name]).encode()):x}", given[name]
                said[name] = ask(setting, first, place, choices.get(name, ()))
    return said


def applies(name: str, said: Mapping[str, Any]) -> bool:
    """Is there anything to ask? A space of one's own is described, and says itself how many nodes it has."""
    own = said.get("space") == OWN
    return {"own_space": own, "nodes": not own}.get(name, True)


def _step(number: float) -> float:
    """A tenth of the number's size: one press of + or - is a visible but small change."""
    return 10.0 ** math.floor(math.log10(number) - 0.3) if number > 0 else 0.01
