"""Published cells by name, with what their papers report: `zoo.json`, checked like any genotype from outside.

Cells are those that the authors released, operations and order of inputs included. Errors are in percent, as published;
nothing of them was measured by this program. Parameters are counted in our networks (`tests/test_network.py`), and are
those of the authors' code wherever these are known.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from darts_core import io
from darts_core.errors import BadInput, unknown
from darts_core.genotype import Genotype

GIVEN = "a given cell"  # what a cell is called that was written out
NETWORKS = {  # the paper's networks, by the names under which a released cell has its parameters
    "cifar": "20 cells of 36 channels, ten classes",
    "imagenet": "14 cells of 48 channels, a thousand classes",
    "ptb": "a language model of 850 units and 10,000 words",
}


@dataclass(frozen=True)
class Published:
    """One released cell."""

    name: str
    title: str
    source: str  # authors, year, paper
    genotype: Genotype
    parameters: Mapping[str, int]  # of its networks, see `NETWORKS`; an auxiliary head left out
    errors: Mapping[str, float]  # "cifar10_error", "imagenet_top1_error" ... in percent; "ptb_perplexity"
    note: str = ""


@cache
def zoo() -> Mapping[str, Published]:
    """Every released cell by name."""
    path = Path(__file__).with_name("zoo.json")
    entries = io.loads(io.read_bytes(path, io.JSON_LIMIT), path)
    return {
        name: Published(
            name,
            entry["title"],
            entry["source"],
            Genotype.from_json(entry["genotype"], f"zoo.json: {name}"),
            entry["parameters"],
            entry["published"],
            entry.get("note", ""),
        )
        for name, entry in entries.items()
    }


def recurrent_namesake(name: str) -> str:
    """What the recurrent cell is called here that was released as `name`, which may be a convolutional cell's too
    (DARTS_V2: DARTS_V2_RNN); `name` where there is none.
    """
    plain = {_plain(known): known for known in zoo()}
    return plain.get(_plain(f"{'DARTS_V2' if _plain(name) == 'darts' else name}_RNN"), name)


def published(name: str) -> Published:
    """The released cell called `name`; capitals, - and _ do not matter.

    Raises:
        BadInput: there is none.
    """
    plain = {_plain(known): known for known in zoo()}
    plain["darts"] = "DARTS_V2"  # the authors' own alias
    if _plain(name) not in plain:
        raise unknown("", "released cell", name, zoo())
    return zoo()[plain[_plain(name)]]


def genotype_named(name_or_file: str) -> tuple[Genotype, str]:
    """A released cell, the genotype in a file (JSON or DARTS text) or written out, and what to call it.

    Raises:
        BadInput: none of these; the sentence says which of them it was taken for.
    """
    if name_or_file.lstrip().startswith(("{", "Genotype(")):
        return Genotype.from_text(name_or_file), GIVEN
    if Path(name_or_file).suffix or "/" in name_or_file or Path(name_or_file).is_file():
        return Genotype.read(name_or_file), Path(name_or_file).name.split(".")[0]
    try:
        found = published(name_or_file)
    except BadInput as error:
        raise BadInput("genotype", "", error.what, f"{error.fix}; or give a file") from error
    return found.genotype, found.name


def _plain(name: str) -> str:
    return re.sub(r"[^a-z0-9]", "", name.lower())
