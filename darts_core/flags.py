"""Flags that several commands share, and what their words mean."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated

import typer

from darts_core.errors import BadInput

Runs = Annotated[
    str | None, typer.Option("--runs", metavar="DIR", help="Folder of the runs (default: data/runs, or $DARTS_RUNS).")
]
Name = Annotated[
    str | None,
    typer.Option("--name", help="Name of the new run: small letters, digits, - and _ (default: a free one)."),
]
Json = Annotated[bool, typer.Option("--json", help="Print the result as JSON on the last line.")]
Settings = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="NAME=VALUE", help="Change a setting; may be repeated. See: settings"),
]


def assignments(pairs: Sequence[str] | None) -> dict[str, str]:
    """Names and values of several NAME=VALUE."""
    found = {}
    for pair in pairs or ():
        name, equals, value = pair.partition("=")
        if not equals or not name.strip():
            raise BadInput("command line", "--set", f"{pair[:60]!r} is not NAME=VALUE", "for example --set a_lr=0.01")
        found[name.strip()] = value.strip()
    return found


def seed_numbers(text: str) -> list[int]:
    """The seeds of "0-4" or "0,3,7"."""
    try:
        if "-" in text:
            first, last = (int(x) for x in text.split("-"))
            numbers = list(range(first, last + 1))
        else:
            numbers = [int(x) for x in text.split(",")]
    except ValueError:
        numbers = []
    if not numbers or len(numbers) > 1000 or min(numbers) < 0:
        raise BadInput("command line", "--seeds", f"{text[:40]!r} names no seeds", "write 0-4, or 0,3,7")
    return numbers
