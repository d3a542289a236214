"""The truth about a small space: every cell trained beforehand, so that any cell can be looked up. No torch.

`python -m darts_core tiny build` makes a table (`exhaustive.py`); `data/tiny/` keeps it as CSV with a JSON beside it
that says how it was made. Cells that compute the same function share one training (`space.meaning`): of the 729 cells
of nb3 only 78 are distinct, so each can have many seeds.

Accuracies of a few seeds are uncertain, and so are ranks: `Rating` gives the ranks between which a cell lies once
the seeds' noise is allowed for.
"""

from __future__ import annotations

import csv
import io as memory
import math
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from darts_core import io
from darts_core.config import EVALUATE, SearchConfig
from darts_core.errors import BadInput
from darts_core.genotype import Genotype, ops_of
from darts_core.own_space import OWN, layout_of, parsed
from darts_core.space import SPACES, CellSpec, SearchSpace, meaning

DATASET = "digits"
LIMIT = 8 << 20  # bytes of a table: 15,625 rows of 20 seeds need 5 MB
ALIKE = 0.05  # accuracies within which cells are taken to have the same noise
WIDTH = 2.0  # standard errors within which two cells are not told apart
REMAKE = "make it again: python -m darts_core tiny build"


class Rating(NamedTuple):
    """What the table says of one cell. Accuracies from 0 to 1; ranks from 1, the best, among all cells of the space."""

    accuracy: float  # on test images, mean over the seeds
    valid: float  # on validation images, mean over the seeds
    spread: float  # standard deviation of the test accuracy over the seeds
    rank: int
    low: int  # the cell's rank lies between `low` and `high`: cells between are within the seeds' noise of it
    high: int
    regret: float  # accuracy of the best cell less this one's


@dataclass(frozen=True)
class Table:
    """Accuracies of all cells of a space, (cells, seeds), in the order of `genotype.every_genotype`."""

    space: str
    valid: np.ndarray
    test: np.ndarray
    about: Mapping[str, Any]

    @property
    def cell(self) -> CellSpec:
        return layout_of(self.space, str(self.about.get("own_space", ""))).cells["normal"]

    @property
    def seeds(self) -> int:
        return self.test.shape[1]

    @cached_property
    def means(self) -> np.ndarray:
        """(cells,) mean test accuracy."""
        return self.test.mean(1)

    def noise(self, mean: float) -> float:
        """Standard error of a mean accuracy near `mean`: the seeds' deviation, pooled over the cells within 0.05 of it
        (cells that learn nothing all score alike, those that learn a little vary most), by the root of their number.
        """
        if self.seeds < 2:
            return 0.0
        near = np.abs(self.means - mean) <= ALIKE
        return float(np.sqrt(self.test[near].var(1, ddof=1).mean() / self.seeds))

    def number(self, genotype: Genotype) -> int:
        """The row of a cell.

        Raises:
            BadInput: the cell is of another space.
        """
        if list(genotype.cells) != ["normal"]:
            raise BadInput("table", "genotype", f"is not a cell of {self.space}", "give one with a normal cell alone")
        found = 0
        for edge, op in enumerate(ops_of(self.cell, genotype.cells["normal"])):
            choices = self.cell.choices(edge)
            if op not in choices:
                raise BadInput("table", "genotype", f"holds {op}, which {self.space} does not have", "see its space")
            found = found * len(choices) + choices.index(op)
        return found

    def rating(self, genotype: Genotype) -> Rating:
        """What the table says of a cell."""
        n = self.number(genotype)
        mine = float(self.means[n])
        apart = WIDTH * np.sqrt(2) * self.noise(mine) + 1e-12  # equal cells have equal sums but for rounding
        return Rating(
            accuracy=mine,
            valid=float(self.valid[n].mean()),
            spread=float(self.test[n].std(ddof=1)) if self.seeds > 1 else 0.0,
            rank=1 + int((self.means > mine + 1e-12).sum()),
            low=1 + int((self.means > mine + apart).sum()),
            high=int((self.means >= mine - apart).sum()),
            regret=float(self.means.max()) - mine,
        )

    def to_csv(self) -> bytes:
        """One row per cell: its operations edge by edge, then validation and test accuracy of each seed."""
        out = memory.StringIO()
        writer = csv.writer(out, lineterminator="\n")
        writer.writerow(["cell", *(f"{split}_{s}" for split in ("valid", "test") for s in range(self.seeds))])
        choices = [self.cell.choices(e) for e in range(len(self.cell.edges))]
        for n, rows in enumerate(zip(self.valid, self.test, strict=True)):
            ops, rest = [], n
            for names in reversed(choices):
                rest, digit = divmod(rest, len(names))
                ops.append(names[digit])
            writer.writerow([" ".join(reversed(ops)), *(f"{x:.5f}" for row in rows for x in row)])
        return out.getvalue().encode()

    @staticmethod
    def from_csv(space: str, data: bytes, about: Mapping[str, Any], where: object) -> Table:
        """The table in `data`.

        Raises:
            BadInput: it is not a table of this space.
        """
        rows = list(csv.reader(memory.StringIO(data.decode("utf-8", "replace"))))
        cell = layout_of(space, str(about.get("own_space", ""))).cells["normal"]
        choices = [cell.choices(e) for e in range(len(cell.edges))]
        count = int(np.prod([len(names) for names in choices]))
        if (
            len(rows) != count + 1
            or not rows[0]
            or len(rows[0]) % 2 == 0
            or {len(row) for row in rows} != {len(rows[0])}
        ):
            raise BadInput(where, "rows", f"is not a table of the {count:,} cells of {space}", REMAKE)
        try:
            numbers = np.array([[float(x) for x in row[1:]] for row in rows[1:]])
        except ValueError as error:
            raise BadInput(where, "rows", "holds something that is not a number", REMAKE) from error
        if not (np.isfinite(numbers).all() and (numbers >= 0).all() and (numbers <= 1).all()):
            raise BadInput(where, "rows", "holds an accuracy outside 0 to 1", REMAKE)
        seeds = numbers.shape[1] // 2
        return Table(space, numbers[:, :seeds], numbers[:, seeds:], about)


def folder() -> Path:
    """Where tables lie: $DARTS_TINY, else data/tiny of the clone or, without one, of this folder."""
    given = os.environ.get("DARTS_TINY")
    if given:
        return Path(given).expanduser().absolute()
    clone = Path(__file__).resolve().parent.parent
    return (clone if (clone / "pyproject.toml").is_file() else Path.cwd()) / "data" / "tiny"


def files(space: str, place: Path | None = None) -> tuple[Path, Path]:
    """The table of a space and the words about it."""
    stem = (place or folder()) / f"{space}-{DATASET}"
    return stem.with_suffix(".csv"), stem.with_suffix(".json")


@lru_cache(maxsize=4)
def read(space: str, place: Path) -> Table:
    """The table of `space` in `place`.

    Raises:
        BadInput: there is none, or it is damaged.
    """
    table, words = files(space, place)
    about = io.loads(io.read_bytes(words, 1 << 20), words)
    data = io.read_bytes(table, LIMIT)
    if not isinstance(about, dict) or about.get("sha256") != io.sha256(data):
        raise BadInput(table, "", "is not the table that the JSON beside it describes", REMAKE)
    return Table.from_csv(space, data, about, table)


def table_of(space: str, dataset: str = DATASET, own_space: str = "") -> Table | None:
    """The table of a space, or of one's own; None where there is none for this space and data set.

    Raises:
        BadInput: the table is damaged.
    """
    name = parsed(own_space).name if space == OWN else space
    known = space == OWN or space in SPACES
    if not known or dataset != DATASET or not all(path.is_file() for path in files(name)):
        return None
    found = read(name, folder())
    return found if found.about.get("own_space", "") == own_space else None  # another space of that name


def probes(table: Table, genotype: Genotype) -> dict[str, float]:
    """The rating as numbers of an epoch: truth_accuracy, truth_rank, truth_low, truth_high, truth_regret."""
    found = table.rating(genotype)
    names = ("accuracy", "rank", "low", "high", "regret")
    return {f"truth_{name}": float(getattr(found, name)) for name in names}


def of_search(config: SearchConfig) -> Table | None:
    """The table that a search can be held against: of its space, its images and its cell; None where there is none.

    Raises:
        BadInput: the table is damaged.
    """
    table = table_of(config.space, config.dataset, config.own_space) if not config.resize else None
    return table if table is not None and config.nodes in (0, table.cell.nodes) else None


def probed(config: SearchConfig, genotype: Genotype) -> dict[str, float]:
    """`probes` of a search's present cell where its space has a table for its images, else nothing."""
    table = of_search(config)
    return probes(table, genotype) if table is not None else {}


def known_cells(info: Mapping[str, Any], events: Iterable[Mapping[str, Any]] = ()) -> int | None:
    """How many cells the space of a run has, where all of them are known; None where the truth is not.

    It is known where the run says so at the end of an epoch, and before the first one where there is a table.

    Args:
        info: the run's `run.json`.
    """
    said = any("truth_rank" in event["probes"] for event in events if event["type"] == "epoch")
    try:
        config = SearchConfig.from_dict(info["config"])
        space = SearchSpace.from_json(info["space"], "run.json")
        if not said and (config.strategy == EVALUATE or of_search(config) is None):
            return None
    except BadInput:  # settings of another version, or a damaged table: the run itself can be shown
        return None
    cell = next(iter(space.cells.values()))
    return math.prod(len(cell.choices(edge)) for edge in range(len(cell.edges)))


def in_words(probed: Mapping[str, float], cells: int) -> str:
    """The rating that `probes` gave, as a sentence: a band where noise does not allow one rank."""
    low, high = int(probed["truth_low"]), int(probed["truth_high"])
    rank = f"rank {low}" if low == high else f"rank {low} to {high}"
    return (
        f"trained beforehand, this cell reaches {100 * probed['truth_accuracy']:.1f} % on test images, "
        f"{100 * probed['truth_regret']:.1f} points below the best; {rank} of {cells:,} within the seeds' noise"
    )


def distinct(cell: CellSpec, every: Sequence[Sequence[str]]) -> dict[str, list[int]]:
    """Meaning -> the numbers of the cells that have it; `every` lists the operations of all cells."""
    found: dict[str, list[int]] = {}
    for number, ops in enumerate(every):
        found.setdefault(meaning(cell, ops), []).append(number)
    return found
