"""A method's options, read off its factory's signature: `name: Annotated[type, Range or Choice, "one sentence"] =
default`.
"""

from __future__ import annotations

import inspect
import typing
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Range:
    """Inclusive bounds of a number."""

    low: float
    high: float


class Fixed:
    """Marks an option that decides the form of the net or of the alphas: it cannot change while a search runs."""


class Partial:
    """Marks an option that says of how many channels one goes through the operations of the supernet: in every stage,
    or, where several options are marked, in one stage each.
    """


class Choice(tuple[str, ...]):
    """The words that an option may take."""

    def __new__(cls, *words: str) -> Choice:
        return super().__new__(cls, words)


def partial_options(factory: Callable[..., Any]) -> list[str]:
    """The options of `factory` that are marked `Partial`, in their order."""
    hints = typing.get_type_hints(factory, include_extras=True)
    return [name for name in inspect.signature(factory).parameters if Partial in typing.get_args(hints.get(name))]


def options(factory: Callable[..., Any]) -> list[dict[str, Any]]:
    """Rows for the catalogue, one per keyword argument of `factory`. All may be steered but those marked `Fixed`."""
    hints = typing.get_type_hints(factory, include_extras=True)
    rows = []
    for name, parameter in inspect.signature(factory).parameters.items():
        base, *notes = typing.get_args(hints[name])
        span = next((n for n in notes if isinstance(n, Range)), None)
        choices = next((n for n in notes if isinstance(n, Choice)), ())
        doc = next(n for n in notes if isinstance(n, str))
        rows.append(
            {
                "name": name,
                "type": "choice" if choices else base.__name__,
                "default": parameter.default,
                "doc": doc,
                "group": "method",
                "low": span.low if span else None,
                "high": span.high if span else None,
                "choices": list(choices),
                "unit": "",
                "steer": Fixed not in notes,
            }
        )
    return rows
