"""The registry: one literal table, one line per strategy, and the catalogue that the app reads instead of importing
torch.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from darts_core.baselines.evolution import evolution
from darts_core.baselines.random_search import random_search
from darts_core.baselines.reinforce import reinforce
from darts_core.baselines.trials import trials
from darts_core.config import EVALUATE, SearchConfig
from darts_core.data import DATASETS
from darts_core.data.text import TEXTS
from darts_core.errors import unknown
from darts_core.methods.darts import darts
from darts_core.search.bilevel import Strategy, bilevel
from darts_core.search.method import Method
from darts_core.search.option import options
from darts_core.training import training, training_strategy


@dataclass(frozen=True)
class Entry:
    """A strategy and where its options and first sentence are written.

    `baseline`: it proposes and scores whole cells (`baselines/`); its options cannot change on the way.
    """

    strategy: Strategy
    factory: Callable[..., Any]
    baseline: bool = False


STRATEGIES: Mapping[str, Entry] = {
    "darts": Entry(bilevel(darts), darts),
    "random": Entry(trials(random_search), random_search, baseline=True),
    "evolution": Entry(trials(evolution), evolution, baseline=True),
    "reinforce": Entry(trials(reinforce), reinforce, baseline=True),
}


def strategy_named(name: str) -> Strategy:
    """The strategy called `name`.

    Raises:
        BadInput: there is none.
    """
    if name == EVALUATE:
        return training_strategy
    if name not in STRATEGIES:
        raise unknown("settings", "strategy", name, STRATEGIES)
    return STRATEGIES[name].strategy


def method_of(config: SearchConfig) -> Method:
    """The method that a configuration describes, its options included."""
    return STRATEGIES[config.strategy].factory(**config.options)


def catalogue() -> dict[str, Any]:
    """Strategies with their options, and data sets, as `catalogue.json` holds them."""
    methods = {
        name: {"doc": _first_line(entry.factory), "options": _options(entry)} for name, entry in STRATEGIES.items()
    }
    fixed = tuple(row["name"] for row in options(training))
    datasets = {name: {"kind": "images", "doc": source.doc} for name, source in DATASETS.items()}
    texts = {name: {"kind": "text", "doc": source.doc} for name, source in TEXTS.items()}
    return {
        "strategies": methods,
        "training": {"doc": _first_line(training), "options": options(training, fixed)},
        "datasets": {**datasets, **texts},
    }


def _options(entry: Entry) -> list[dict[str, Any]]:
    names = tuple(inspect.signature(entry.factory).parameters)
    return options(entry.factory, fixed=names if entry.baseline else ())


def _first_line(factory: Callable[..., Any]) -> str:
    """The first sentence of the file that a method is written in."""
    return (inspect.getdoc(inspect.getmodule(factory)) or "").partition("\n")[0]
