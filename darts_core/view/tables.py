"""Small tables out of a run's records and events: what charts, meters and sentences say, as pure functions.

`steps` is the structured array that `RunReader.steps` returns: fields step, epoch, stage, flags, metrics (M,), and one
field per tensor ("mix.normal", (edges, ops)). `events` are event dicts, in their order. The board computes the same
tables in the browser, and a test holds the two together.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from darts_core.cost import Costs
from darts_core.cost import derived as derived_cost
from darts_core.derive import Collapse, collapse, derive
from darts_core.legal import said_of_edge
from darts_core.space import SearchSpace

Events = Iterable[Mapping[str, Any]]
POINTS = 300  # at most this many points per trace: more cannot be seen, and cost every viewer time
WINDOWS = 40  # a running mean reaches over a fortieth of what is shown
QUIET = ("pause", "resume", "step", "checkpoint")  # orders that change nothing in the search


class Mark(NamedTuple):
    """Something that happened at a step and that every chart shows as a line.

    Kinds: "edit", "alarm", "rewind", and "stage" for the beginning of a new one.
    """

    step: int
    text: str
    kind: str


def thin(count: int, most: int = POINTS) -> np.ndarray:
    """At most `most` indices out of `count`, evenly spread, with the first and the last."""
    if count <= most:
        return np.arange(count)
    return np.floor(np.arange(most) * (count - 1) / (most - 1) + 0.5).astype(int)


def shares(mix: np.ndarray) -> np.ndarray:
    """(n, edges, ops) weights to (n, ops): what part of all edges each operation has. Rows above one count as one."""
    mix = np.asarray(mix, dtype=float)
    return (mix / np.maximum(1.0, mix.sum(-1, keepdims=True))).mean(1)


def running_mean(values: np.ndarray, window: int) -> np.ndarray:
    """Mean of the last `window` values at each place, leaving out what is not a number; NaN where nothing is left."""
    values = np.asarray(values, dtype=float)
    there = np.isfinite(values)
    total = np.concatenate([[0.0], np.cumsum(np.where(there, values, 0.0))])
    count = np.concatenate([[0], np.cumsum(there)])
    first = np.maximum(0, np.arange(1, len(values) + 1) - window)
    n = count[1:] - count[first]
    return np.where(n > 0, (total[1:] - total[first]) / np.maximum(1, n), np.nan)


def columns(
    steps: np.ndarray,
    metrics: Sequence[str],
    events: Events,
    space: SearchSpace,
    kind: str,
    edge: int = 0,
    most: int = POINTS,
) -> dict[str, np.ndarray]:
    """Every column that a figure of `figures.py` may name, thinned to `most` points.

    Returns: "step" is the x of "metric:*", "smooth:*", "share:*" and "edge:*"; "probe_step" that of "probe:*".
    """
    at = thin(len(steps), most)
    window = max(1, -(-len(steps) // WINDOWS))
    mix = np.asarray(steps[f"mix.{kind}"], dtype=float)
    by_op = shares(mix[at])
    table: dict[str, np.ndarray] = {"step": steps["step"][at]}
    for column, name in enumerate(metrics):
        values = np.asarray(steps["metrics"][:, column], dtype=float)
        table[f"metric:{name}"] = values[at]
        table[f"smooth:{name}"] = running_mean(values, window)[at]
    for column, op in enumerate(space.cells[kind].ops):
        table[f"share:{op}"] = by_op[:, column]
        table[f"edge:{op}"] = mix[at, edge, column]
    return table | probes(events)


def costs(
    steps: np.ndarray, space: SearchSpace, mixture: Sequence[Costs], network: Costs, most: int = POINTS
) -> dict[str, Any]:
    """Columns of `figures.cost_templates`: the mixture's expected cost and that of the cell derived from it.

    Args:
        mixture: counts of the supernet's form, one for each stage (the last one counts for all after it).
        network: counts of the derived network's form.
    """
    at = thin(len(steps), most)
    table: dict[str, Any] = {"step": steps["step"][at]}
    found = []
    for i in at:
        mixes = mixes_at(steps, i, space)
        form = mixture[min(int(steps["stage"][i]), len(mixture) - 1)]
        found.append((form.of(mixes), derived_cost(network, space, mixes)))
    for column, name in enumerate(("mixture", "derived")):
        for what in ("params", "macs"):
            table[f"cost:{name}_{what}"] = np.array([getattr(pair[column], what) for pair in found])
    return table


def probes(events: Events) -> dict[str, np.ndarray]:
    """ "probe_step" and one "probe:<name>" per probe, over the ends of epochs; NaN where a probe was not taken.

    Where the whole space is known, "probe:truth_best" is the accuracy of its best cell, for the line above all others.
    """
    epochs = [event for event in events if event["type"] == "epoch"]
    names = sorted({name for event in epochs for name in event["probes"]})
    table = {"probe_step": np.array([event["step"] for event in epochs], dtype=int)}
    table |= {f"probe:{n}": np.array([e["probes"].get(n, np.nan) for e in epochs], dtype=float) for n in names}
    if {"truth_accuracy", "truth_regret"} <= set(names):
        table["probe:truth_best"] = table["probe:truth_accuracy"] + table["probe:truth_regret"]
    return table


def marks(events: Events, space: SearchSpace | None = None) -> list[Mark]:
    """Applied orders that change the search, collapse alarms, returns to an earlier epoch, and new stages.

    space: of the run, so that edges are called as in its picture.
    """
    found = []
    for event in events:
        if event["type"] == "applied" and event["accepted"] and event["kind"] not in QUIET:
            what = said_of_edge(space, event["kind"], event["name"], event["value"])
            found.append(Mark(event["step"], f"{what} at step {event['step']}", "edit"))
        elif event["type"] == "alarm":
            found.append(Mark(event["step"], f"{event['level']} at step {event['step']}", "alarm"))
        elif event["type"] == "rewound":
            found.append(Mark(event["step"], f"back to epoch {event['to_epoch']} at step {event['step']}", "rewind"))
        elif event["type"] == "stage_started":
            found.append(Mark(event["step"], f"stage {event['stage'] + 1} begins at step {event['step']}", "stage"))
    return sorted(found, key=lambda mark: mark.step)


class Relative(NamedTuple):
    """A run in a family of branches: how far from the first of them, and where it left its parent."""

    name: str
    depth: int
    epoch: int | None  # finished epochs of its parent where it began; None for the first


def family(parents: Mapping[str, Mapping[str, Any] | None], run: str) -> list[Relative]:
    """The branches that `run` belongs to, each below its parent, earlier ones first.

    Args:
        parents: every known run -> "parent" of its run.json. A parent that is gone still heads its branches.
    """
    children: dict[str, list[tuple[int, str]]] = {}
    for name, parent in parents.items():
        if parent is not None:
            children.setdefault(str(parent["run"]), []).append((int(parent["epoch"]), name))
    first, seen = run, {run}
    while (parent := parents.get(first)) is not None and parent["run"] not in seen:
        first = str(parent["run"])
        seen.add(first)
    found: list[Relative] = []

    def tell(name: str, depth: int, epoch: int | None) -> None:
        if any(known.name == name for known in found):  # a folder may claim what it likes: no circles
            return
        found.append(Relative(name, depth, epoch))
        for began, child in sorted(children.get(name, ())):
            tell(child, depth + 1, began)

    tell(first, 0, None)
    return found


def before_worse(events: Events) -> int | None:
    """Finished epochs before a search last stopped being healthy; None where it never did."""
    worse, before = None, "healthy"
    for event in events:
        if event["type"] == "epoch":
            level = event["collapse"].get("level", "healthy")
            if level != "healthy" and before == "healthy":
                worse = int(event["epoch"])
            before = level
    return worse


def ranges(events: Events) -> dict[str, tuple[float, float]]:
    """Lowest and highest value of each probe over a run."""
    found = {name.removeprefix("probe:"): column for name, column in probes(events).items() if name != "probe_step"}
    return {n: (float(np.nanmin(c)), float(np.nanmax(c))) for n, c in found.items() if np.isfinite(c).any()}


def mixes_at(steps: np.ndarray, index: int, space: SearchSpace) -> dict[str, np.ndarray]:
    """kind -> (edges, ops), the mix of one record."""
    return {kind: np.asarray(steps[f"mix.{kind}"][index], dtype=float) for kind in space.cells}


def collapse_history(steps: np.ndarray, space: SearchSpace, most: int = POINTS) -> list[tuple[int, Collapse]]:
    """(step, collapse) over at most `most` records."""
    return [(int(steps["step"][i]), collapse(space, mixes_at(steps, i, space))) for i in thin(len(steps), most)]


def derived_changes(steps: np.ndarray, space: SearchSpace) -> list[int]:
    """Steps at which another cell would be derived than at the record before."""
    changes, before = [], None
    for i in range(len(steps)):
        now = {k: [sorted(n) for n in c.nodes] for k, c in derive(space, mixes_at(steps, i, space)).cells.items()}
        if before is not None and now != before:
            changes.append(int(steps["step"][i]))
        before = now
    return changes


@dataclass(frozen=True)
class Spread:
    """What several trainings reached: accuracies (0 to 1), or perplexities."""

    mean: float
    low: float
    high: float
    count: int


def trained(events: Events) -> dict[str, Spread]:
    """Role ("derived", "random", "pruned", "supernet") -> accuracies of its trainings, on test images if measured."""
    by_role: dict[str, list[float]] = {}
    for event in events:
        if event["type"] == "trained":
            test = event["test_accuracy"]
            by_role.setdefault(event["role"], []).append(float(event["accuracy"] if test is None else test))
    return _spreads(by_role)


def perplexities(events: Events) -> dict[str, Spread]:
    """The same of a run on text: perplexities, on the test text if measured. Empty for a run on images."""
    by_role: dict[str, list[float]] = {}
    for event in events:
        if event["type"] == "trained":
            found = event["metrics"].get("test_perplexity", event["metrics"].get("valid_perplexity"))
            if found is not None:
                by_role.setdefault(event["role"], []).append(float(found))
    return _spreads(by_role)


def _spreads(by_role: Mapping[str, Sequence[float]]) -> dict[str, Spread]:
    return {role: Spread(float(np.mean(a)), min(a), max(a), len(a)) for role, a in by_role.items()}
