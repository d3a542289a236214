"""What a comparison found: one row per method over its seeds, read from run folders, and its written forms. No torch.

A comparison is a folder with `plan.json` (which settings each method runs with, written once) and, once there are
results, `table.json`, `table.csv`, `table.md` and `plot.svg`. Its runs are ordinary run folders with a common group.
"""

from __future__ import annotations

import csv
import io as memory
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from darts_core import io, truth
from darts_core.errors import BadInput
from darts_core.genotype import Genotype
from darts_core.runs import RunReader

PLAN, TABLE = "plan.json", "table.json"
ENDED = ("finished", "stopped")


@dataclass(frozen=True)
class Outcome:
    """One search of a comparison. Accuracies from 0 to 1 on test images with true labels; None: not measured."""

    seed: int
    accuracy: float | None  # of the derived cell: looked up, or trained from scratch
    skips: int  # derived edges of the normal cell that are skip connections
    edges: int
    gap: float | None  # accuracy of the supernet less that of its pruned form
    seconds: float  # of searching, evaluation not counted
    steps: int  # training steps of the search (of REINFORCE and its like: all trainings behind the scores)
    regret: float | None = None  # below the best cell of the space, where all are known
    parameters: int | None = None


@dataclass(frozen=True)
class Row:
    """A method and its searches, in order of seeds."""

    method: str
    outcomes: tuple[Outcome, ...]

    def values(self, name: str) -> list[float]:
        """A number of every search that has it."""
        return [float(v) for o in self.outcomes if (v := getattr(o, name)) is not None]

    def mean(self, name: str) -> float | None:
        found = self.values(name)
        return statistics.fmean(found) if found else None

    def spread(self, name: str) -> float | None:
        """Standard deviation over the seeds; None of fewer than two."""
        found = self.values(name)
        return statistics.stdev(found) if len(found) > 1 else None


@dataclass(frozen=True)
class Tally:
    """A whole comparison. `band`: of random cells' accuracies, a tenth from the lowest, their mean, a tenth from the
    highest; of fewer than ten cells the lowest, the mean and the highest. `band_of` says which, in words.
    """

    name: str
    about: Mapping[str, Any]
    rows: tuple[Row, ...]
    band: tuple[float, float, float] | None
    source: str  # where accuracies come from, in words
    missing: tuple[str, ...] = field(default=())  # searches that have not ended, in words
    band_of: str = "cells drawn at random, eight of ten"  # as tables say that do not count them

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    @staticmethod
    def from_json(data: Any, where: object) -> Tally:
        """Read what `to_json` wrote.

        Raises:
            BadInput: it is something else.
        """
        try:
            rows = tuple(Row(str(r["method"]), tuple(map(_outcome, r["outcomes"]))) for r in data["rows"])
            band = tuple(float(x) for x in data["band"]) if data["band"] else None
            if band is not None and len(band) != 3:
                raise ValueError("band")
            missing = tuple(str(m) for m in data["missing"])
            band_of = str(data.get("band_of", Tally.band_of))
            return Tally(str(data["name"]), dict(data["about"]), rows, band, str(data["source"]), missing, band_of)
        except (KeyError, TypeError, ValueError) as error:
            raise BadInput(
                where, "", f"is not the table of a comparison ({error})", "make it again: compare"
            ) from error


def _outcome(data: Any) -> Outcome:
    """An outcome from its JSON; TypeError or ValueError: it is something else."""
    made = Outcome(**data)
    may_miss = ("accuracy", "gap", "regret", "parameters")
    for name, value in asdict(made).items():
        if type(value) not in (int, float) and not (value is None and name in may_miss):
            raise ValueError(f"{name} is no number")
    return made


def place(runs: Path) -> Path:
    """The folder of comparisons beside a folder of runs."""
    return runs.parent / "comparisons"


def found(folder: Path) -> dict[str, Path]:
    """Name -> folder of each comparison in `folder` that has a table; strange names are left out."""
    tables = sorted(folder.glob(f"*/{TABLE}")) if folder.is_dir() else []
    return {table.parent.name: table.parent for table in tables if io.NAME.fullmatch(table.parent.name)}


def read(folder: Path) -> Tally:
    """A comparison's table.

    Raises:
        BadInput: there is none, or it is damaged.
    """
    path = folder / TABLE
    return Tally.from_json(io.loads(io.read_bytes(path, io.JSON_LIMIT), path), path)


def tallied(name: str, plan: Mapping[str, Any], runs: Path) -> Tally:
    """The table of a comparison as far as its searches have come."""
    rows, missing = [], []
    drawn: dict[str, set[float]] = {}  # random cell -> its accuracies; searches of one seed draw and train the same
    looked_up = truth.table_of(*(str(plan["settings"].get(name, "")) for name in ("space", "dataset", "own_space")))
    for method, entry in plan["methods"].items():
        outcomes = []
        for seed in plan["seeds"]:
            run = entry["runs"][str(seed)]
            reader = RunReader(runs, run) if (runs / run).is_dir() else None
            if reader is None or reader.status().state not in ENDED:
                missing.append(f"{method}, seed {seed}")
                continue
            events = reader.events()[0]
            outcomes.append(outcome(seed, events, looked_up))
            for e in events:
                if e["type"] == "trained" and e["role"] == "random" and e["test_accuracy"] is not None:
                    drawn.setdefault(io.dumps(e["genotype"]), set()).add(float(e["test_accuracy"]))
        rows.append(Row(method, tuple(outcomes)))
    cells = sorted(map(float, looked_up.means) if looked_up else map(statistics.fmean, drawn.values()))
    if looked_up:
        source = (
            f"looked up: mean of {looked_up.seeds} trainings of the derived cell, the whole space trained beforehand"
        )
    else:
        epochs = plan["settings"].get("retrain_epochs", 0)
        source = f"derived cells trained from scratch, {epochs} epoch{'' if epochs == 1 else 's'}"
    about = {k: v for k, v in plan.items() if k != "methods"}
    drawing = "the {:,} cells of the space" if looked_up else "{:,} cells drawn at random"
    band_of = f"{drawing.format(len(cells))}, {'eight of ten' if len(cells) >= 10 else 'all of them'}"
    return Tally(name, about, tuple(rows), _band(cells), source, tuple(missing), band_of)


def outcome(seed: int, events: Sequence[Mapping[str, Any]], table: truth.Table | None) -> Outcome:
    """What one ended search says, from its events."""
    epochs = [e for e in events if e["type"] == "epoch"]
    result = next(e for e in reversed(events) if e["type"] == "result")
    genotype = Genotype.from_json(result["genotype"])
    trained: dict[str, list[Mapping[str, Any]]] = {}
    for e in events:
        if e["type"] == "trained":
            trained.setdefault(e["role"], []).append(e)
    tested = {role: statistics.fmean(e["test_accuracy"] for e in found) for role, found in trained.items()}
    rating = table.rating(genotype) if table else None
    kind = "normal" if "normal" in genotype.cells else next(iter(genotype.cells))
    metrics = epochs[-1]["metrics"] if epochs else {}
    return Outcome(
        seed=seed,
        accuracy=rating.accuracy if rating else tested.get("derived"),
        skips=genotype.count("skip_connect", kind),
        edges=sum(len(node) for node in genotype.cells[kind].nodes),
        gap=tested["supernet"] - tested["pruned"] if {"supernet", "pruned"} <= set(tested) else None,
        seconds=sum(e["seconds"] for e in epochs),
        steps=int(metrics.get("training_steps", result["step"])),
        regret=rating.regret if rating else None,
        parameters=trained["derived"][0]["parameters"] if "derived" in trained else None,
    )


def _band(cells: Sequence[float]) -> tuple[float, float, float] | None:
    """(low, mean, high) of sorted accuracies, a tenth of them below and as many above; fewer than ten: all within."""
    if not cells:
        return None
    tenth = len(cells) // 10
    return cells[tenth], statistics.fmean(cells), cells[-1 - tenth]


HEADS: tuple[str, ...] = (
    "method",
    "seeds",
    "accuracy",
    "spread",
    "lowest",
    "highest",
    "skips",
    "of",
    "gap",
    "regret",
    "seconds",
    "steps",
)


def lines(tally: Tally) -> list[list[str]]:
    """The table as text, head first; accuracies in per cent, a dash where nothing was measured."""

    def percent(value: float | None) -> str:
        return "-" if value is None else f"{100 * value:.1f}"

    found: list[list[str]] = [list(HEADS)]
    for row in tally.rows:
        values = row.values("accuracy")
        edges, skips = row.mean("edges"), row.mean("skips")
        found.append([
            row.method, str(len(row.outcomes)), percent(row.mean("accuracy")), percent(row.spread("accuracy")),
            percent(min(values) if values else None), percent(max(values) if values else None),
            "-" if skips is None else f"{skips:.1f}", "-" if edges is None else f"{edges:.1f}",
            percent(row.mean("gap")), percent(row.mean("regret")),
            f"{row.mean('seconds') or 0:.0f}", f"{row.mean('steps') or 0:,.0f}",
        ])  # fmt: skip
    return found


def sentences(tally: Tally) -> list[str]:
    """What the table shows, in words that do not go beyond it."""
    said = [f"Accuracy on test images: {tally.source}."]
    if tally.band:
        low, mean, high = tally.band
        words = f"{tally.band_of}: {100 * low:.1f} to {100 * high:.1f} %; mean {100 * mean:.1f} %."
        said.append(words[0].upper() + words[1:])
    if said_spent := spent(tally):
        said.append(said_spent)
    rows = [row for row in tally.rows if row.values("accuracy")]
    chance = next((row for row in rows if row.method.startswith("random")), None)
    if chance is not None and len(rows) > 1:
        better = [row.method for row in rows if row is not chance and _clearly(row, chance) > 0]
        worse = [row.method for row in rows if row is not chance and _clearly(row, chance) < 0]
        others = [row.method for row in rows if row is not chance and not _clearly(row, chance)]
        said += [f"Better than random search by more than two standard errors: {', '.join(better) or 'none'}."]
        said += [f"Worse by as much: {', '.join(worse)}."] if worse else []
        said += [f"Not told apart from it: {', '.join(others)}."] if others else []
    if tally.missing:
        said.append(f"Not finished: {'; '.join(tally.missing[:6])}{' ...' if len(tally.missing) > 6 else ''}.")
    return said


def spent(tally: Tally) -> str:
    """What each search was given, and what it took of both measures: equal seconds are not equal steps."""
    rows = [row for row in tally.rows if row.outcomes]
    if not rows:
        return ""
    unit, amount = tally.about.get("budget") or ("", 0)
    given = (
        f"Given {amount:g} {unit.rstrip('s') if amount == 1 else unit} each" if unit else "Each with its own settings"
    )
    span = {name: sorted(row.mean(name) or 0 for row in rows) for name in ("seconds", "steps")}
    seconds, steps = (f"{found[0]:,.0f} to {found[-1]:,.0f}" for found in span.values())
    both = f"one search took {seconds} s and {steps} training steps"
    return f"{given}, {both} (the table has both for every method; a look-up counts as the training behind it)."


def _clearly(row: Row, other: Row) -> int:
    """1 or -1 where the means differ by more than two standard errors of their difference; 0: not told apart."""
    one, two = row.values("accuracy"), other.values("accuracy")
    if min(len(one), len(two)) < 3:  # the deviation of two seeds says next to nothing
        return 0
    error = (statistics.variance(one) / len(one) + statistics.variance(two) / len(two)) ** 0.5
    difference = statistics.fmean(one) - statistics.fmean(two)
    return 0 if abs(difference) <= 2 * error else 1 if difference > 0 else -1


def to_csv(tally: Tally) -> bytes:
    """One line per search: method, seed and every number of it."""
    out = memory.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(["method", *Outcome.__dataclass_fields__])
    for row in tally.rows:
        for o in row.outcomes:
            writer.writerow([row.method, *("" if v is None else v for v in asdict(o).values())])
    return out.getvalue().encode()


def to_markdown(tally: Tally) -> bytes:
    """The table and the sentences."""
    head, *rest = lines(tally)
    parts = [f"# {tally.name}", "", *(f"{s}  " for s in sentences(tally)), ""]
    parts += [f"| {' | '.join(line)} |" for line in (head, ["---"] * len(head), *rest)]
    words = (
        "Accuracies, spread (standard deviation over seeds), gap and regret in per cent; seconds and training steps "
    )
    return "\n".join([*parts, "", words + "of one search.", ""]).encode()
