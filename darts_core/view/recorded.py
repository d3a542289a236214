"""A run as pictures need it: at most a few hundred of its records, evenly spread, the last one among them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from darts_core.derive import Mixes, strongest_over_time
from darts_core.genotype import Genotype
from darts_core.runs import RunReader
from darts_core.space import SearchSpace
from darts_core.view.tables import POINTS


@dataclass(frozen=True)
class Recorded:
    """What was read of a run. `steps` has the fields of `RunReader.steps`; `stride` records lie between two of them."""

    name: str
    info: Mapping[str, Any]
    space: SearchSpace
    metrics: Sequence[str]
    steps: np.ndarray
    events: Sequence[Mapping[str, Any]]
    stride: int = 1

    @property
    def title(self) -> str:
        return str(self.info.get("title") or self.name)

    @property
    def seed(self) -> int:
        return int(self.info["seed"])

    @property
    def method(self) -> str:
        return str(self.info["config"].get("strategy", "search"))

    @property
    def last_step(self) -> int:
        return int(self.steps["step"][-1]) if len(self.steps) else 0

    def index(self, step: int | None) -> int:
        """The newest record at or before `step` (None: the last one); 0 where all are later."""
        if step is None:
            return len(self.steps) - 1
        return max(0, int(np.searchsorted(self.steps["step"], step, side="right")) - 1)

    def mixes(self, index: int = -1) -> Mixes:
        """kind -> (edges, ops) of one record."""
        return {kind: np.asarray(self.steps[f"mix.{kind}"][index], dtype=float) for kind in self.space.cells}

    @cached_property
    def choices(self) -> dict[str, tuple[np.ndarray, np.ndarray]]:
        """kind -> (steps, edges) best operation, (steps, edges) kept: the paper's rule at every record."""
        return {kind: strongest_over_time(cell, self.steps[f"mix.{kind}"]) for kind, cell in self.space.cells.items()}

    def result(self) -> Genotype | None:
        """The cell that the run ended with, by its own method; None while it has none.

        Raises:
            BadInput: its line is damaged.
        """
        found = next((event for event in reversed(self.events) if event["type"] == "result"), None)
        return Genotype.from_json(found["genotype"], f"run {self.name}") if found else None


def recorded(reader: RunReader, events: Sequence[Mapping[str, Any]] | None = None, most: int = POINTS) -> Recorded:
    """Reads a run, live or not; `events` where they are known already.

    Raises:
        BadInput: the run cannot be read, or its space cannot be drawn.
    """
    space = SearchSpace.from_json(reader.info["space"], f"{reader.name}/run.json")
    count = reader.step_count()
    stride = max(1, -(-count // most))
    first = (count - 1) % stride if count else 0
    steps = reader.steps(first, max(0, count - first), stride)
    told = reader.events(0)[0] if events is None else events
    return Recorded(reader.name, reader.info, space, reader.layout.metrics, steps, told, stride)
