"""The registry: one literal table, one line per strategy, and the catalogue that the app reads instead of importing
torch.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch

from darts_core.baselines.evolution import evolution
from darts_core.baselines.random_search import random_search
from darts_core.baselines.reinforce import reinforce
from darts_core.baselines.trials import trials
from darts_core.config import EVALUATE, SearchConfig
from darts_core.data import DATASETS
from darts_core.data.text import TEXTS
from darts_core.errors import unknown
from darts_core.events import Event
from darts_core.language_training import language_training
from darts_core.methods.betadarts import betadarts
from darts_core.methods.darts import darts
from darts_core.methods.dartsminus import dartsminus
from darts_core.methods.dartsplus import dartsplus
from darts_core.methods.dartspt import dartspt
from darts_core.methods.drnas import drnas
from darts_core.methods.fairdarts import fairdarts
from darts_core.methods.gdas import gdas
from darts_core.methods.maxw import maxw
from darts_core.methods.pcdarts import pcdarts
from darts_core.methods.pdarts import pdarts
from darts_core.methods.proxyless import proxyless
from darts_core.methods.robustdarts import robustdarts
from darts_core.methods.smoothdarts import smoothdarts
from darts_core.methods.snas import snas
from darts_core.search.bilevel import bilevel
from darts_core.search.host import Host, Snapshot, Strategy, Waits
from darts_core.search.method import Method
from darts_core.search.option import options, partial_options
from darts_core.search.parts import PARTS, method_from
from darts_core.space import space_named
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
    "max-w": Entry(bilevel(maxw), maxw),
    "fair-darts": Entry(bilevel(fairdarts), fairdarts),
    "pc-darts": Entry(bilevel(pcdarts), pcdarts),
    "robust-darts": Entry(bilevel(robustdarts), robustdarts),
    "p-darts": Entry(bilevel(pdarts), pdarts),
    "gdas": Entry(bilevel(gdas), gdas),
    "snas": Entry(bilevel(snas), snas),
    "smooth-darts": Entry(bilevel(smoothdarts), smoothdarts),
    "darts-minus": Entry(bilevel(dartsminus), dartsminus),
    "darts-plus": Entry(bilevel(dartsplus), dartsplus),
    "darts-pt": Entry(bilevel(dartspt), dartspt),
    "dr-nas": Entry(bilevel(drnas), drnas),
    "beta-darts": Entry(bilevel(betadarts), betadarts),
    "proxyless": Entry(bilevel(proxyless), proxyless),
    "random": Entry(trials(random_search), random_search, baseline=True),
    "evolution": Entry(trials(evolution), evolution, baseline=True),
    "reinforce": Entry(trials(reinforce), reinforce, baseline=True),
}


def evaluation_strategy(task: Any, config: SearchConfig, host: Host) -> Iterator[Event | Snapshot | Waits]:
    """Train one cell from scratch, on images or on text."""
    return (language_training if config.of_text else training_strategy)(task, config, host)


def strategy_named(name: str) -> Strategy:
    """The strategy called `name`.

    Raises:
        BadInput: there is none.
    """
    if name == EVALUATE:
        return evaluation_strategy
    if name not in STRATEGIES:
        raise unknown("settings", "strategy", name, STRATEGIES)
    return STRATEGIES[name].strategy


def method_of(config: SearchConfig) -> Method:
    """The method that a configuration describes, its options included."""
    return method_from(STRATEGIES[config.strategy].factory, config)


def catalogue() -> dict[str, Any]:
    """Strategies with their options, and data sets, as `catalogue.json` holds them."""
    methods = {
        name: {
            "doc": _first_line(entry.factory),
            "baseline": entry.baseline,
            "plain": not entry.baseline and _plain(entry.factory()),
            "edge_alphas": _has_edge_alphas(entry.factory),
            "partial": partial_options(entry.factory),
            "stages": 1 if entry.baseline else len(entry.factory().stages),
            "card": _card(entry.factory),
            "options": _options(entry),
        }
        for name, entry in STRATEGIES.items()
    }
    parts = {
        name: {
            "doc": _sentence(part),
            "edge_alphas": _has_edge_alphas(part, Method()),
            "partial": partial_options(part),
            "options": options(part),
        }
        for name, part in PARTS.items()
    }
    datasets = {
        name: {"kind": kind, "doc": source.doc, **({"needs": source.needs} if source.needs else {})}
        for kind, sources in (("images", DATASETS), ("text", TEXTS))
        for name, source in sources.items()
    }
    return {
        "strategies": methods,
        "parts": parts,
        "training": {"doc": _first_line(training), "options": _unsteered(options(training))},
        "datasets": datasets,
    }


def _plain(method: Method) -> bool:
    """Are weights and alphas laid out as in DARTS, so that a branch may go from one such method to another?"""
    alphas = method.init(space_named("tiny"), torch.Generator())
    return not method.net and not alphas.edges and len(method.stages) == 1


def _options(entry: Entry) -> list[dict[str, Any]]:
    """The options of a strategy; those of a baseline hold for its whole run."""
    return _unsteered(options(entry.factory)) if entry.baseline else options(entry.factory)


def _unsteered(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [{**row, "steer": False} for row in rows]


def _has_edge_alphas(make: Callable[..., Any], around: Method | None = None) -> bool:
    """Does what a factory makes learn logits of the edges? Then a run has a place for them in its records."""
    made = make()
    method = made if isinstance(made, Method) else made(around) if around else None
    return method is not None and bool(method.init(space_named("tiny"), torch.Generator()).edges)


def _card(factory: Callable[..., Any]) -> dict[str, Any] | None:
    """What the file of a method says about it, as data."""
    card = getattr(inspect.getmodule(factory), "CARD", None)
    return card._asdict() if card else None


def _sentence(part: Callable[..., Any]) -> str:
    """The first paragraph of a docstring, in one line."""
    return " ".join((inspect.getdoc(part) or "").partition("\n\n")[0].split())


def _first_line(factory: Callable[..., Any]) -> str:
    """The first sentence of the file that a method is written in."""
    return (inspect.getdoc(inspect.getmodule(factory)) or "").partition("\n")[0]
