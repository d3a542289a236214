"""Several runs beside one another: which belong together, where settings and cells differ, mean and band of curves.

Pure tables and sentences; pages and reports draw them.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any, Literal, NamedTuple

import numpy as np

from darts_core.config import SETTINGS, settings_of
from darts_core.derive import skip_of
from darts_core.errors import BadInput
from darts_core.events import short
from darts_core.genotype import Genotype
from darts_core.view.recorded import Recorded
from darts_core.view.tables import WINDOWS, probes, running_mean, shares

Info = Mapping[str, Any]
Align = Literal["step", "epoch", "percent"]
ALIGNS: tuple[Align, ...] = ("step", "epoch", "percent")
COMPUTED = {"threads": "threads", "device": "device", "backend": "form of the supernet", "pace": "pace of watching"}
NOT_THE_SEARCH = ("seed", *COMPUTED)  # settings that do not make another experiment
GRID = 101  # places at which mean and band of several curves are taken


# Which runs belong together ---------------------------------------------------------------------------------


def group_key(info: Info) -> str:
    """The same for runs that differ by their seed alone: the name of their launch, else their settings and origin."""
    if info.get("group"):
        return f"launch {info['group']}"
    settings = {key: value for key, value in info["config"].items() if key not in NOT_THE_SEARCH}
    origin = info["parent"] and [info["parent"]["run"], info["parent"]["epoch"]]
    return json.dumps([settings, info["space"], origin], sort_keys=True)


def groups(infos: Mapping[str, Info]) -> dict[str, list[str]]:
    """key -> names, by seed, of the runs that share it."""
    found: dict[str, list[str]] = {}
    for name, info in infos.items():
        found.setdefault(group_key(info), []).append(name)
    return {key: sorted(names, key=lambda name: (infos[name]["seed"], name)) for key, names in found.items()}


def seed_groups(infos: Mapping[str, Info]) -> dict[str, list[str]]:
    """Groups of at least two seeds, one run for each seed: the newest, since a repeated seed is no further evidence."""
    found = {}
    for key, names in groups(infos).items():
        newest: dict[int, str] = {}
        for name in sorted(names, key=lambda name: infos[name]["created"]):
            newest[int(infos[name]["seed"])] = name
        if len(newest) > 1:
            found[key] = [newest[seed] for seed in sorted(newest)]
    return found


def group_title(names: Sequence[str], infos: Mapping[str, Info]) -> str:
    """ "collapse-001: darts on digits, seeds 0 to 4" """
    info = infos[names[0]]
    seeds = sorted({int(infos[name]["seed"]) for name in names})
    run = seeds[-1] - seeds[0] == len(seeds) - 1 and len(seeds) > 2
    said = f"{seeds[0]} to {seeds[-1]}" if run else ", ".join(map(str, seeds))
    what = f"{info['config'].get('strategy', 'search')} on {info['config'].get('dataset', 'unknown images')}"
    return f"{info.get('group') or names[0]}: {what}, seed{'s' if len(seeds) > 1 else ''} {said}"


def kinship(infos: Mapping[str, Info]) -> list[str]:
    """Which of these runs start from the same weights, in sentences."""
    said = []
    origins: dict[tuple[str, int], list[str]] = {}
    for name, info in infos.items():
        parent = info["parent"]
        if parent:
            origins.setdefault((parent["run"], parent["epoch"]), []).append(name)
    for (parent, epoch), children in origins.items():
        names = " and ".join(children)
        goes = "goes" if len(children) == 1 else "go"
        if parent in infos:
            said.append(
                f"{names} {goes} on from {parent} after {epoch} epochs: up to there it is one search, and there all "
                "have the same weights, alphas and random numbers, so they differ by their settings alone."
            )
        elif len(children) > 1:
            said.append(
                f"{names} start from the same weights, those of {parent} after {epoch} epochs, so they differ by their "
                "settings alone."
            )
    return said


# Where settings and cells differ ----------------------------------------------------------------------------


def differences(infos: Mapping[str, Info]) -> list[dict[str, str]]:
    """One row per setting that is not the same in all runs: {"setting": name, "what it is": ..., run: value, ...}.

    How a search was computed is none of them: see `computed_apart`.
    """
    rows = []
    for key, values in _apart(infos).items():
        if key in COMPUTED:
            continue
        shown = {name: "" if v is None else short(v) for name, v in values.items()}
        rows.append({"setting": key, "what it is": _meaning(key, infos), **shown})
    return rows


def _meaning(key: str, infos: Mapping[str, Info]) -> str:
    """What a setting is, in words; empty where none of the methods knows it any more."""
    for info in infos.values():
        try:
            known = settings_of(info["config"].get("strategy", ""), info["config"].get("parts", ""))
        except BadInput:  # a method of another version
            continue
        if key in known:
            return known[key].doc.rstrip(".")
    return ""


def computed_apart(infos: Mapping[str, Info]) -> str:
    """A sentence where runs were computed in different ways, which is no other search; empty: they were not."""
    found = [words for key, words in COMPUTED.items() if key in _apart(infos)]
    how = f"{', '.join(found[:-1])} and {found[-1]}" if len(found) > 1 else "".join(found)
    return f"How they were computed differs as well ({how}); that changes rounding alone." if how else ""


def _apart(infos: Mapping[str, Info]) -> dict[str, dict[str, Any]]:
    """Setting -> run -> value, of the settings that are not equal in all runs. One that an earlier version did not know
    has its default there."""
    keys = dict.fromkeys(key for info in infos.values() for key in info["config"])
    usual = {key: SETTINGS[key].default if key in SETTINGS and key not in COMPUTED else None for key in keys}
    found = {key: {name: info["config"].get(key, usual[key]) for name, info in infos.items()} for key in keys}
    return {key: runs for key, runs in found.items() if len({json.dumps(value) for value in runs.values()}) > 1}


class Change(NamedTuple):
    """One place where a derived cell differs from another, or does not: "kept", "other", "added" or "removed"."""

    how: str
    kind: str
    edge: tuple[int, int]
    before: str  # operations; "" where there is no edge
    after: str


def cell_changes(before: Genotype, after: Genotype) -> list[Change]:
    """How the derived cells of one run become those of another, edge by edge.

    "kept": the same edge with the same operation. "other": the same edge with another one.
    """
    found = []
    for kind in dict.fromkeys([*before.cells, *after.cells]):
        old, new = _edges(before, kind), _edges(after, kind)
        for edge in sorted({*old, *new}, key=lambda edge: (edge[1], edge[0])):
            was, now = old.get(edge, ""), new.get(edge, "")
            how = "added" if not was else "removed" if not now else "kept" if was == now else "other"
            found.append(Change(how, kind, edge, was, now))
    return found


def _edges(genotype: Genotype, kind: str) -> dict[tuple[int, int], str]:
    """(source, target) -> its operations as text; several only where a rule allows them."""
    found: dict[tuple[int, int], str] = {}
    cell = genotype.cells.get(kind)
    for node, genes in enumerate(cell.nodes if cell else ()):
        for gene in sorted(genes):
            edge = (gene.source, cell.inputs + node)  # type: ignore[union-attr]
            found[edge] = f"{found[edge]} + {gene.op}" if edge in found else gene.op
    return found


# Curves -----------------------------------------------------------------------------------------------------


class Curve(NamedTuple):
    """One line of a chart. `low` and `high` bound the band around a mean; None for a single run."""

    name: str
    x: np.ndarray
    y: np.ndarray
    low: np.ndarray | None = None
    high: np.ndarray | None = None


MEASURES: Mapping[str, str] = {
    "val_loss": "Validation loss (nats)",
    "val_accuracy": "Validation accuracy",
    "train_loss": "Train loss (nats)",
    "skip": "Skip share of all edges",
    "entropy": "Entropy of the weights (nats)",
    "eigenvalue": "Dominant eigenvalue",
    "truth_accuracy": "Exact test accuracy of the derived cell",
}


def position(run: Recorded, align: Align, steps: np.ndarray | None = None) -> np.ndarray:
    """Where records (or `steps`) lie on the common axis: steps, finished epochs, or per cent of the run."""
    at = np.asarray(run.steps["step"] if steps is None else steps, dtype=float)
    if align == "step" or not len(run.steps):
        return at
    if align == "percent":
        return 100 * at / max(1.0, float(run.last_step))
    return np.interp(at, run.steps["step"], _epochs(run))


def _epochs(run: Recorded) -> np.ndarray:
    """(records,) epochs gone by, with the part of the present one, so that curves do not stand still within it."""
    step, epoch = np.asarray(run.steps["step"], float), np.asarray(run.steps["epoch"], float)
    starts = {int(e): float(step[epoch == e].min()) for e in np.unique(epoch)}
    lengths = np.diff(sorted(starts.values()))
    length = float(np.median(lengths)) if len(lengths) else max(1.0, float(step[-1] - step[0] + 1))
    return epoch + np.clip((step - np.array([starts[int(e)] for e in epoch])) / max(1.0, length), 0, 1)


def curve(run: Recorded, measure: str, align: Align) -> Curve | None:
    """One measure of one run over the common axis; None where it was not recorded."""
    if measure in run.metrics:
        values = np.asarray(run.steps["metrics"][:, list(run.metrics).index(measure)], dtype=float)
        y = running_mean(values, max(1, -(-len(values) // WINDOWS)))
        x = position(run, align)
    elif measure == "skip":
        kind = "normal" if "normal" in run.space.cells else next(iter(run.space.cells))
        cell, skip = run.space.cells[kind], skip_of(run.space.cells[kind])
        if skip is None:
            return None
        x, y = position(run, align), shares(run.steps[f"mix.{kind}"])[:, cell.ops.index(skip)]
    else:
        found = probes(run.events)
        if f"probe:{measure}" not in found:
            return None
        x, y = position(run, align, found["probe_step"]), found[f"probe:{measure}"]
    there = np.isfinite(y)
    return Curve(run.name, x[there], y[there]) if there.any() else None


def band(name: str, curves: Sequence[Curve]) -> Curve | None:
    """Mean, lowest and highest of several curves, over the part of the axis that all of them reach."""
    if not curves:
        return None
    low, high = max(c.x[0] for c in curves), min(c.x[-1] for c in curves)
    if low >= high and len(curves) > 1:
        return None
    grid = np.linspace(low, high, GRID)
    values = np.stack([np.interp(grid, c.x, c.y) for c in curves])
    return Curve(name, grid, values.mean(0), values.min(0), values.max(0))


def share_bands(runs: Sequence[Recorded], kind: str, align: Align) -> dict[str, Curve]:
    """Operation -> mean and band of its share of all edges, over runs of several seeds in one space."""
    found = {}
    for column, op in enumerate(runs[0].space.cells[kind].ops):
        lines = [Curve(r.name, position(r, align), shares(r.steps[f"mix.{kind}"])[:, column]) for r in runs]
        made = band(op, lines)
        if made is not None:
            found[op] = made
    return found


def rank_band(name: str, runs: Sequence[Recorded], align: Align) -> Curve | None:
    """The ranks between which the cells of these runs lie, as the seeds' noise of the table has it: from the best bound
    of any of them to the worst. None where the truth about their space is not known.
    """
    bounds: list[tuple[np.ndarray, ...]] = []
    for run in runs:
        found = probes(run.events)
        if {"probe:truth_low", "probe:truth_high"} <= set(found) and len(found["probe_step"]):
            x = position(run, align, found["probe_step"])
            there = np.isfinite(found["probe:truth_low"])
            bounds.append((x[there], found["probe:truth_low"][there], found["probe:truth_high"][there]))
    if not bounds:
        return None
    # Ranks jump at the ends of epochs, so each place takes the last end before it instead of something between.
    x = np.unique(np.concatenate([at for at, _, _ in bounds]))
    x = x[x >= max(at[0] for at, _, _ in bounds)]
    last = [np.searchsorted(at, x, side="right") - 1 for at, _, _ in bounds]
    low = np.min([b[1][i] for b, i in zip(bounds, last, strict=True)], axis=0)
    high = np.max([b[2][i] for b, i in zip(bounds, last, strict=True)], axis=0)
    return Curve(name, x, (low + high) / 2, low, high)


def truths(runs: Sequence[Recorded]) -> list[dict[str, Any]]:
    """One row per run whose space is known: what the cell of its last epoch is worth. Ranks are a band, in words."""
    rows = []
    for run in runs:
        told = [e for e in run.events if e["type"] == "epoch" and "truth_rank" in e["probes"]]
        if told:
            probed = told[-1]["probes"]
            low, high = int(probed["truth_low"]), int(probed["truth_high"])
            rows.append({
                "run": run.name, "method": run.method, "epochs": int(told[-1]["epoch"]) + 1,
                "exact accuracy": float(probed["truth_accuracy"]), "below the best": float(probed["truth_regret"]),
                "rank within the seeds' noise": str(low) if low == high else f"{low} to {high}",
            })  # fmt: skip
    return rows


class Agreement(NamedTuple):
    """How many of `runs` runs derive an edge, and with which operations (the commonest first)."""

    kind: str
    edge: int  # its index in the cell
    kept: int
    ops: tuple[tuple[str, int], ...]
    runs: int


def agreement(runs: Sequence[Recorded]) -> list[Agreement]:
    """For each edge that any of the runs would keep at its last record: in how many, and as what."""
    found = []
    for kind, cell in runs[0].space.cells.items():
        for edge in range(len(cell.edges)):
            ops: dict[str, int] = {}
            for run in runs:
                best, kept = run.choices[kind]
                if kept[-1, edge]:
                    op = cell.ops[best[-1, edge]]
                    ops[op] = ops.get(op, 0) + 1
            if ops:
                order = sorted(ops.items(), key=lambda item: (-item[1], item[0]))
                found.append(Agreement(kind, edge, sum(ops.values()), tuple(order), len(runs)))
    return found
