"""The paper's protocol for choosing a cell, step by step, each step a run of its own: search with several seeds, train
each cell briefly, choose by validation, train the chosen one fully several times.

Beside it, by the same protocol, the best of as many random cells. Test images are looked at once, at the end of each
full training, and decide nothing. Whatever was finished is not done again: the same command goes on.

Source: DARTS (Liu et al. 2019, section 3.2): four searches, 100 epochs each, the best cell trained for 600 epochs.
"""

from __future__ import annotations

import html
import random
import statistics
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from darts_core import io
from darts_core.config import SearchConfig
from darts_core.drive import new_run
from darts_core.errors import BadInput
from darts_core.evaluation import INHERITED, evaluation_config
from darts_core.genotype import Genotype, random_genotype
from darts_core.runs import RunReader, RunWriter
from darts_core.seeds import seed
from darts_core.view.palette import INK, LINE, MUTED

KINDS = ("searched", "random")
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


class Stopped(Exception):
    """A run was interrupted or failed; the same command goes on from there."""


def select(root: Path, plan: Plan, run: Run, say: Callable[[str], None]) -> dict[str, Any]:
    """Carry the plan out and return what it found, ready for JSON.

    Raises:
        BadInput: a run of such a name has other settings.
        Stopped: a run did not come to its end.
    """
    inherited = {key: value for key in INHERITED if (value := plan.search.to_dict().get(key))}
    cells: dict[str, list[tuple[str, Genotype]]] = {kind: [] for kind in KINDS}
    for number in plan.seeds:
        name, config = f"{plan.name}-search-{number}", plan.search.with_(seed=number)
        reader = done(root, name, config, plan.name, run, say)
        cells["searched"].append((name, _result(reader)))
    for index in range(len(plan.seeds)):
        rng = random.Random(seed(plan.seeds[0], "selection", index))
        cells["random"].append((f"random cell {index}", random_genotype(plan.search.search_space(), rng)))

    def training(kind: str, label: str, cell: Genotype, name: str, number: int, more: Mapping[str, Any]) -> RunReader:
        config = evaluation_config(plan.preset, cell, label, {**inherited, **plan.train, **more, "seed": number})
        return done(root, name, config, plan.name, run, say)

    found: dict[str, Any] = {"name": plan.name, "kinds": {}}
    for kind in KINDS:
        rows = []
        for index, (label, cell) in enumerate(cells[kind]):
            more = {"epochs": plan.brief, "train_on": "split", "test_every": plan.brief}
            reader = training(kind, label, cell, f"{plan.name}-brief-{kind}-{index}", plan.seeds[0], more)
            rows.append({"cell": label, "run": reader.name, "validation": _summary(reader)["valid_accuracy"]})
        best = max(range(len(rows)), key=lambda i: rows[i]["validation"])  # the first of equals
        found["kinds"][kind] = {"brief": rows, "chosen": best, "genotype": cells[kind][best][1].to_json()}
        say(f"{kind}: {rows[best]['cell']} is chosen, validation accuracy {rows[best]['validation']:.4f}")
    for kind in KINDS:
        told = found["kinds"][kind]
        label, cell = cells[kind][told["chosen"]]
        more = {"epochs": plan.full, "train_on": "all", "test_every": plan.full}  # measured once: after the last epoch
        full = [
            training(kind, label, cell, f"{plan.name}-full-{kind}-{number}", number, more)
            for number in range(plan.repeats)
        ]
        ends = [_summary(reader) for reader in full]
        told["test"] = [end["test_accuracy"] for end in ends]
        told["mean"] = statistics.fmean(told["test"])
        told["std"] = statistics.stdev(told["test"]) if len(ends) > 1 else 0.0
        told["parameters"] = ends[0]["parameters"]
    return found


def done(root: Path, name: str, config: SearchConfig, group: str, run: Run, say: Callable[[str], None]) -> RunReader:
    """The finished run `name` of these settings: as it is, gone on with, or made.

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
            say(f"{name}: done before")
            return reader
        run(RunWriter.open(root, name), config)
    else:
        run(new_run(root, name, config, [], group=group), config)
    reader = RunReader(root, name)
    if reader.status().state not in ("finished", "stopped"):
        raise Stopped(f"{name} did not finish; the same command goes on from there")
    return reader


def _result(reader: RunReader) -> Genotype:
    return Genotype.from_json([e for e in reader.events()[0] if e["type"] == "result"][-1]["genotype"], reader.name)


def _summary(reader: RunReader) -> dict[str, Any]:
    return [e for e in reader.events()[0] if e["type"] == "finished"][-1]["summary"]


def plot(found: Mapping[str, Any]) -> str:
    """The test accuracies of the two chosen cells as dots, their means as lines: an SVG that stands alone."""
    every = [x for kind in KINDS for x in found["kinds"][kind]["test"]]
    low, high = min(every), max(every)
    room = max((high - low) * 0.25, 0.005)
    low, high = max(0.0, low - room), min(1.0, high + room)
    wide, tall, left = 460, 300, 70

    def y(value: float) -> float:
        return 40 + (tall - 90) * (1 - (value - low) / (high - low))

    parts = [f'<text x="{left}" y="24" font-size="15" fill="{INK}">Test accuracy, each training a dot</text>']
    for step in range(5):
        value = low + (high - low) * step / 4
        parts.append(f'<line x1="{left}" x2="{wide - 20}" y1="{y(value):.1f}" y2="{y(value):.1f}" stroke="{LINE}"/>')
        parts.append(
            f'<text x="{left - 8}" y="{y(value) + 4:.1f}" text-anchor="end" fill="{MUTED}">{100 * value:.1f} %</text>'
        )
    for place, kind in enumerate(KINDS):
        told, x = found["kinds"][kind], left + 100 + 180 * place
        mean = y(told["mean"])
        parts.append(
            f'<line x1="{x - 34}" x2="{x + 34}" y1="{mean:.1f}" y2="{mean:.1f}" stroke="{INK}" stroke-width="2"/>'
        )
        parts += [f'<circle cx="{x}" cy="{y(v):.1f}" r="5" fill="{INK}" fill-opacity="0.55"/>' for v in told["test"]]
        words = f"{kind}: {100 * told['mean']:.2f} % ± {100 * told['std']:.2f}"
        parts.append(f'<text x="{x}" y="{tall - 22}" text-anchor="middle" fill="{INK}">{html.escape(words)}</text>')
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {wide} {tall}" width="{wide}" height="{tall}" '
        f'font-family="sans-serif" font-size="12"><rect width="100%" height="100%" fill="#fff"/>'
        f"{''.join(parts)}</svg>\n"
    )


def keep(found: Mapping[str, Any], folder: Path) -> list[Path]:
    """Write NAME.json and NAME.svg into `folder`."""
    paths = [folder / f"{found['name']}.json", folder / f"{found['name']}.svg"]
    for path, text in zip(paths, (io.dumps(found) + "\n", plot(found)), strict=True):
        io.atomic_write(path.absolute(), text.encode())
    return paths
