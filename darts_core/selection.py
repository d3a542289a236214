"""The paper's protocol for choosing a cell, step by step, each step a run of its own: search with several seeds, train
each cell briefly, choose by validation, train the chosen one fully several times.

Beside it, by the same protocol, the best of as many random cells. Test data are looked at once, at the end of each
full training, and decide nothing. Whatever was finished is not done again: the same command goes on.

Source: DARTS (Liu et al. 2019, section 3.2): four searches, 100 epochs each, the best cell trained for 600 epochs.
"""

from __future__ import annotations

import html
import math
import random
import statistics
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from darts_core import io
from darts_core.config import SearchConfig
from darts_core.drive import new_run
from darts_core.errors import BadInput
from darts_core.evaluation import Measure, evaluation_config, measure_of, settings_from
from darts_core.genotype import Genotype, random_genotype
from darts_core.runs import RunReader, RunWriter
from darts_core.seeds import seed
from darts_core.view.palette import INK, LINE, MUTED

KINDS = ("searched", "random")
LEAST = 6  # epochs of a short training: sooner, running statistics lag behind (on digits: 0.09 to 0.9 after three)
Run = Callable[[RunWriter, SearchConfig], int]  # drives an open run to its end


class Plan(NamedTuple):
    """What is to be done."""

    name: str  # of the whole; runs are called NAME-search-0, NAME-brief-random-2, NAME-full-searched-1
    search: SearchConfig
    seeds: Sequence[int]  # of the searches
    preset: str  # of the trainings
    brief: int  # epochs of the short trainings
    full: int  # epochs of the long ones
    repeats: int  # how often the chosen cells are trained fully
    train: Mapping[str, Any]  # further settings of all trainings

    @property
    def runs(self) -> int:
        """How many runs it takes."""
        return 3 * len(self.seeds) + 2 * self.repeats


class Stopped(Exception):
    """A run was interrupted or failed; the same command goes on from there."""


def usual_brief(full: int) -> int:
    """Epochs of the short trainings: a sixth of the full ones, as in the paper (100 of 600), but at least six."""
    return min(full, max(LEAST, full // 6))


def select(root: Path, plan: Plan, run: Run, say: Callable[[str], None]) -> dict[str, Any]:
    """Carry the plan out and return what it found, ready for JSON: shares from 0 to 1, or perplexities ("measure").

    Raises:
        BadInput: a run of such a name has other settings.
        Stopped: a run did not come to its end.
    """
    cells: dict[str, list[tuple[str, Genotype]]] = {kind: [] for kind in KINDS}
    place = 0

    def ended(name: str, config: SearchConfig, what: str) -> RunReader:
        nonlocal place
        place += 1
        return done(root, name, config, plan.name, run, lambda how: say(f"[{place}/{plan.runs}] {name}: {what}{how}"))

    def training(kind: str, label: str, cell: Genotype, name: str, number: int, more: Mapping[str, Any]) -> RunReader:
        told = {**settings_from(plan.search.to_dict(), cell), **plan.train, **more, "seed": number}
        config = evaluation_config(plan.preset, cell, label, told)
        return ended(name, config, f"{label}, {config.epochs} epoch{'' if config.epochs == 1 else 's'}, seed {number}")

    for number in plan.seeds:
        name = f"{plan.name}-search-{number}"
        reader = ended(name, plan.search.with_(seed=number), f"search, seed {number}")
        cells["searched"].append((f"cell of {name}", _result(reader)))
    for index in range(len(plan.seeds)):
        rng = random.Random(seed(plan.seeds[0], "selection", index))
        cells["random"].append((f"random cell {index}", random_genotype(plan.search.search_space(), rng)))
    measure = measure_of(cells["random"][0][1])
    found: dict[str, Any] = {"name": plan.name, "measure": measure.name, "kinds": {}}
    for kind in KINDS:
        rows = []
        for index, (label, cell) in enumerate(cells[kind]):
            more = {"epochs": plan.brief, "train_on": "split", "test_every": plan.brief}
            reader = training(kind, label, cell, f"{plan.name}-brief-{kind}-{index}", plan.seeds[0], more)
            end = _summary(reader)
            rows.append(
                {
                    "cell": label, "run": reader.name, "validation": end[f"valid_{measure.name}"],
                    "parameters": end["parameters"],
                }
            )  # fmt: skip
        best = measure.best([row["validation"] for row in rows])
        found["kinds"][kind] = {"brief": rows, "chosen": best, "genotype": cells[kind][best][1].to_json()}
        said = measure.words(rows[best]["validation"])
        say(f"of the {kind} cells, {rows[best]['cell']} is chosen: validation {measure.name} {said}")
    for kind in KINDS:
        told = found["kinds"][kind]
        label, cell = cells[kind][told["chosen"]]
        more = {"epochs": plan.full, "train_on": "all", "test_every": plan.full}  # measured once: after the last epoch
        full = [
            training(kind, label, cell, f"{plan.name}-full-{kind}-{number}", number, more)
            for number in range(plan.repeats)
        ]
        ends = [_summary(reader) for reader in full]
        told["test"] = [end[f"test_{measure.name}"] for end in ends]
        told["mean"] = statistics.fmean(told["test"])
        told["std"] = statistics.stdev(told["test"]) if len(ends) > 1 else 0.0
        told["parameters"] = ends[0]["parameters"]
    return found


def done(root: Path, name: str, config: SearchConfig, group: str, run: Run, say: Callable[[str], None]) -> RunReader:
    """The finished run `name` of these settings: as it is, gone on with, or made; `say` is told which, in words that
    follow its name.

    Raises:
        BadInput: there is a run of this name with other settings.
        Stopped: it did not come to its end.
    """
    if (root / name).exists():
        reader = RunReader(root, name)
        differs = [k for k, v in config.to_dict().items() if reader.info["config"].get(k) != v]
        if differs:
            what = f"is there already, with another {differs[0]}"
            raise BadInput(f"run {name}", differs[0], what, "give --name another one, or the same settings")
        if reader.status().state in ("finished", "stopped"):
            say(", done before")
            return reader
        say(", goes on")
        run(RunWriter.open(root, name), config)
    else:
        say("")
        run(new_run(root, name, config, [], group=group), config)
    reader = RunReader(root, name)
    if reader.status().state not in ("finished", "stopped"):
        raise Stopped(f"{name} did not finish, nothing is lost; the same command goes on from there")
    return reader


def _result(reader: RunReader) -> Genotype:
    return Genotype.from_json([e for e in reader.events()[0] if e["type"] == "result"][-1]["genotype"], reader.name)


def _summary(reader: RunReader) -> dict[str, Any]:
    return [e for e in reader.events()[0] if e["type"] == "finished"][-1]["summary"]


def told_apart(found: Mapping[str, Any], measure: Measure) -> str:
    """The difference between the two chosen cells in a sentence, beside what chance does."""
    ours, theirs = (found["kinds"][kind] for kind in KINDS)
    ahead = measure.sign * (ours["mean"] - theirs["mean"])
    points = " points" if measure.factor == 100.0 else ""
    said = (
        f"The searched cell is {measure.factor * abs(ahead):.2f}{points} {'better' if ahead > 0 else 'worse'} than the "
        "random one"
    )
    count = len(ours["test"])
    if count < 2:
        return f"{said}; with one training each nothing can be said of chance."
    error = math.sqrt((ours["std"] ** 2 + theirs["std"] ** 2) / count)
    clear = abs(ahead) > 2 * error
    how = "more than" if clear else "not more than"
    return (
        f"{said}, {how} two standard errors ({2 * measure.factor * error:.2f}) of trainings alone: "
        f"{'these two cells differ' if clear else 'these trainings do not tell the two cells apart'}."
    )


def plot(found: Mapping[str, Any], measure: Measure) -> str:
    """What the two chosen cells reach on test data as dots, their means as lines: an SVG that stands alone."""
    every = [x for kind in KINDS for x in found["kinds"][kind]["test"]]
    low, high = min(every), max(every)
    room = max((high - low) * 0.25, 0.005 * max(1.0, abs(high)))
    low, high = max(0.0, low - room), high + room
    if measure.factor == 100.0:
        high = min(1.0, high)
    wide, tall, left = 520, 320, 74

    def y(value: float) -> float:
        return 40 + (tall - 126) * (1 - (value - low) / (high - low))

    parts = [f'<text x="{left}" y="24" font-size="15" fill="{INK}">Test {measure.name}, each training a dot</text>']
    for step in range(5):
        value = low + (high - low) * step / 4
        parts.append(f'<line x1="{left}" x2="{wide - 20}" y1="{y(value):.1f}" y2="{y(value):.1f}" stroke="{LINE}"/>')
        said = html.escape(measure.words(value))
        parts.append(f'<text x="{left - 8}" y="{y(value) + 4:.1f}" text-anchor="end" fill="{MUTED}">{said}</text>')
    for column, kind in enumerate(KINDS):
        told, x = found["kinds"][kind], left + 110 + 210 * column
        mean = y(told["mean"])
        parts.append(
            f'<line x1="{x - 34}" x2="{x + 34}" y1="{mean:.1f}" y2="{mean:.1f}" stroke="{INK}" stroke-width="2"/>'
        )
        parts += [f'<circle cx="{x}" cy="{y(v):.1f}" r="5" fill="{INK}" fill-opacity="0.55"/>' for v in told["test"]]
        words = f"{kind}: {measure.words(told['mean'])} ± {measure.factor * told['std']:.2f}"
        about = (f"best of {len(told['brief'])} by validation", f"{told['parameters']:,} parameters")
        for line, (text, colour) in enumerate(((words, INK), *((each, MUTED) for each in about))):
            at = tall - 56 + 18 * line
            parts.append(f'<text x="{x}" y="{at}" text-anchor="middle" fill="{colour}">{html.escape(text)}</text>')
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {wide} {tall}" width="{wide}" height="{tall}" '
        f'font-family="sans-serif" font-size="12"><rect width="100%" height="100%" fill="#fff"/>'
        f"{''.join(parts)}</svg>\n"
    )


def keep(found: Mapping[str, Any], folder: Path) -> list[Path]:
    """Write NAME.json and NAME.svg into `folder`."""
    paths = [folder / f"{found['name']}.json", folder / f"{found['name']}.svg"]
    measure = measure_of(Genotype.from_json(found["kinds"]["searched"]["genotype"]))
    for path, text in zip(paths, (io.dumps(found) + "\n", plot(found, measure)), strict=True):
        io.atomic_write(path.absolute(), text.encode())
    return paths
