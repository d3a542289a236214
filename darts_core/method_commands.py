"""The command `methods`: every strategy with its options, the card of one, and the parts that any method may wear.

All of it is read from the catalogue, so nothing here needs torch.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Annotated, Any

import typer
from rich.table import Table

from darts_core.card import card_lines
from darts_core.config import catalogue
from darts_core.errors import unknown
from darts_core.reporting import console


def methods(
    name: Annotated[str | None, typer.Argument(help="Show the card of this method, or of this part.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Every strategy and part with its options, as JSON.")] = False,
) -> None:
    """List the search methods and the parts they may wear; with a name, its card: equation, source, what it did here.

    [dim]Examples: methods | methods max-w | methods --json | search --preset collapse --with beta[/dim]
    """
    strategies, parts = catalogue()["strategies"], catalogue()["parts"]
    if as_json:
        chosen = {"strategies": strategies, "parts": parts}
        print(json.dumps(chosen if name is None else _named(name, strategies, parts)))
    elif name is None:
        _list("method", strategies)
        console.print()
        _list("part", parts)
        console.print("Any method may wear parts: --strategy pc-darts --with beta --with eigenvalue-stop", markup=False)
    else:
        _show(name, _named(name, strategies, parts), f"{name}." if name not in strategies else "")


def _named(name: str, strategies: Mapping[str, Any], parts: Mapping[str, Any]) -> dict[str, Any]:
    if name in strategies or name in parts:
        return strategies.get(name) or parts[name]
    raise unknown("methods", "method or part", name, [*strategies, *parts])


def _list(kind: str, entries: Mapping[str, Any]) -> None:
    table = Table(kind, "what it does", box=None)
    for name, entry in entries.items():
        table.add_row(name, entry["doc"])
    console.print(table)


def _show(name: str, entry: Mapping[str, Any], prefix: str) -> None:
    """The card, line by line; what has none (a part, a baseline) shows its sentence and options."""
    card = entry.get("card")
    console.print((card or {}).get("title", name), style="bold")
    for line in card_lines(card) if card else [("", entry["doc"])]:
        console.print(*(word for word in line if word), markup=False, soft_wrap=True, sep=": ")
    if entry["options"]:
        table = Table("option", "default", "range", "what it does", box=None)
        for row in entry["options"]:
            span = ", ".join(row["choices"]) or (f"{row['low']:g} to {row['high']:g}" if row["low"] is not None else "")
            star = " *" if row["steer"] else ""
            table.add_row(prefix + row["name"] + star, str(row["default"]), span, row["doc"])
        console.print(table)
        console.print("* may be changed while a search runs", markup=False)
