"""What a method says about itself, as data: for `methods NAME`, the app's form and anyone who compares."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple


class Card(NamedTuple):
    """One screen about a method. Equations in plain text; sentences for people who know DARTS."""

    title: str
    equation: str
    differs: str  # from DARTS, in a sentence or two
    source: str  # paper, year, section; the code that was followed
    deviations: tuple[str, ...] = ()  # where this implementation differs from paper or code, and why


def card_lines(card: Mapping[str, Any]) -> list[tuple[str, str]]:
    """(heading, text) of a card in the order of reading."""
    lines = [("equation", card["equation"]), ("beside DARTS", card["differs"]), ("source", card["source"])]
    lines += [("here", text) for text in card.get("deviations", ())]
    return lines + [("in our collapse setting", text) for text in card.get("measured", ())]
