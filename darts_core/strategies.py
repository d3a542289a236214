"""The registry: one literal table, one line per strategy, and the catalogue that the app reads instead of importing torch."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from darts_core.data import DATASETS
from darts_core.errors import unknown
from darts_core.methods.darts import darts
from darts_core.search.bilevel import Strategy, bilevel
from darts_core.search.option import options


@dataclass(frozen=True)
class Entry:
    """A strategy and where its options and first sentence are written."""

    strategy: Strategy
    factory: Callable[..., Any]


STRATEGIES: Mapping[str, Entry] = {
    "darts": Entry(bilevel(darts), darts),
}


def strategy_named(name: str) -> Strategy:
    """The strategy called `name`.

    Raises:
        BadInput: there is none.
    """
    if name not in STRATEGIES:
        raise unknown("settings", "strategy", name, STRATEGIES)
    return STRATEGIES[name].strategy


def catalogue() -> dict[str, Any]:
    """Strategies with their options, and data sets, as `catalogue.json` holds them."""
    methods = {
        name: {
            "doc": inspect.getdoc(inspect.getmodule(entry.factory)).splitlines()[0],
            "options": options(entry.factory),
        }  # type: ignore[union-attr]
        for name, entry in STRATEGIES.items()
    }
    return {"strategies": methods, "datasets": {name: {"doc": source.doc} for name, source in DATASETS.items()}}
