"""What a method says about itself, as data: for `methods NAME`, the app's form and anyone who compares."""

from __future__ import annotations

from typing import NamedTuple


class Card(NamedTuple):
    """One screen about a method. Equations in plain text; sentences for people who know DARTS."""

    title: str
    equation: str
    differs: str  # from DARTS, in a sentence or two
    source: str  # paper, year, section; the code that was followed
    deviations: tuple[str, ...] = ()  # where this implementation differs from paper or code, and why
