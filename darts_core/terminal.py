"""A run at a terminal: driven with a bar or side by side with others, and how it ended, in words, a table or JSON."""

from __future__ import annotations

import json
import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NoReturn

import typer
from rich.table import Table

from darts_core.cell_commands import genotype_of
from darts_core.config import EVALUATE, SearchConfig
from darts_core.drive import drive
from darts_core.errors import BadInput
from darts_core.evaluation import ACCURACY, PERPLEXITY
from darts_core.events import Order
from darts_core.reporting import PROGRAM, Reporter, console, draw, into_log, print_runs, progress_bars
from darts_core.runs import RunReader, RunWriter
from darts_core.together import drive_together


def run(
    writer: RunWriter,
    config: SearchConfig,
    as_json: bool,
    quiet: bool,
    orders: Mapping[int, list[Order]] | None = None,
    place: int | None = None,
) -> int:
    """Drive an open run with a progress bar (or, quiet, into its log), and say how it ended.

    `place`: which of several runs it is, from 0; what it found is then said by whoever drives them all.
    """
    name, root = writer.name, writer.root
    if quiet:
        into_log(writer.folder / "log.txt")
    with progress_bars() as progress:
        cell = str(config.options.get("label") or "the cell") if config.strategy == EVALUATE else ""
        code = drive(writer, config, Reporter(name, progress, first=not place, cell=cell), orders)
    reader = RunReader(root, name)
    status = reader.status()
    genotype = genotype_of(reader, None) if status.step and status.state in ("finished", "stopped") else None
    alone = place is None
    if genotype is not None and alone and config.strategy != EVALUATE:
        draw(genotype)
    if genotype is not None and alone and config.strategy == EVALUATE:
        console.print(trained_table(spread([reader])))
    if status.state == "interrupted" and alone:
        console.print(
            f"stopped at step {status.step}, nothing is lost; go on with:  {PROGRAM} resume {name}",
            markup=False,
            soft_wrap=True,
        )
    if as_json:
        told = {
            "run": name,
            "state": status.state,
            "step": status.step,
            "message": status.message,
            "folder": str(reader.folder),
        }
        print(json.dumps({**told, "genotype": genotype.to_json() if genotype else None, "summary": _summary(reader)}))
    return code


def run_together(
    group: str, writers: Sequence[RunWriter], configs: Sequence[SearchConfig], as_json: bool, quiet: bool = False
) -> int:
    """Drive open runs side by side, a progress bar each, and say how they ended."""
    root = writers[0].root
    if quiet:
        into_log(writers[0].folder / "log.txt")
    with progress_bars() as progress:
        says = [Reporter(w.name, progress, c.seed, w is writers[0]) for w, c in zip(writers, configs, strict=True)]
        codes = drive_together(writers, configs, says)
    rows = [RunReader(root, writer.name).summary() for writer in writers]
    print_runs(rows)
    if any(row.state == "interrupted" for row in rows):
        words = f"stopped, nothing is lost; go on with all of them:  {PROGRAM} resume {group}   or with one by its name"
        console.print(words, markup=False, soft_wrap=True)
    if as_json:
        told = [{"run": row.name, "state": row.state, "step": row.step, "message": row.message} for row in rows]
        print(json.dumps({"group": group, "runs": told}))
    return max(codes)


def resume_group(root: Path, name: str, group: Sequence[RunReader], as_json: bool) -> NoReturn:
    """Go on with the runs of a group that have not ended."""
    open_ones = [run for run in group if run.status().state not in ("finished", "stopped")]
    if not open_ones:
        fix = f"branch from an epoch of one of them: {PROGRAM} branch {group[0].name} --epoch N"
        raise BadInput(f"group {name}", "", f"all {len(group)} runs have ended", fix)
    configs = [SearchConfig.from_dict(run.info["config"], f"run {run.name}") for run in open_ones]
    writers: list[RunWriter] = []
    try:
        for run in open_ones:
            writers.append(RunWriter.open(root, run.name))
    except BaseException:
        for writer in writers:
            writer.close()
        raise
    raise typer.Exit(run_together(name, writers, configs, as_json))


def _summary(reader: RunReader) -> Any:
    ends = [line for line in reader.events()[0] if line["type"] == "finished"]
    return ends[-1]["summary"] if ends else None


def spread(readers: Sequence[RunReader]) -> dict[str, Any]:
    """What several trainings of one cell reach on test data: each, mean and sample deviation; and what the net costs.

    Accuracy from 0 to 1, or of a language model perplexity ("measure" says which).
    """
    rows: list[dict[str, Any]] = []
    for reader in readers:
        ends = [line for line in reader.events()[0] if line["type"] == "finished"]
        if ends:
            rows.append({"run": reader.name, "seed": reader.info["seed"], **ends[-1]["summary"]})
    measure = PERPLEXITY if any("valid_perplexity" in row for row in rows) else ACCURACY
    found = [row[f"test_{measure.name}"] for row in rows if f"test_{measure.name}" in row]
    told: dict[str, Any] = {"runs": rows, "measure": measure.name, "count": len(found)}
    if found:
        told |= {"mean": statistics.fmean(found), "std": statistics.stdev(found) if len(found) > 1 else 0.0}
    return told


def trained_table(told: Mapping[str, Any]) -> Table:
    """The same for people. Multiply-adds are those of convolutions and linear layers; time is the median of one image
    alone, on this machine.
    """
    measure = PERPLEXITY if told["measure"] == PERPLEXITY.name else ACCURACY
    costs = measure is ACCURACY  # what a language model costs per word is not measured
    held = all(f"test_{measure.name}" not in row for row in told["runs"])  # judged by validation
    on = "valid" if held else "test"
    said = f"{'validation' if held else 'test'} {measure.name}"
    more = ("multiply-adds (convolutions, linear)", "one image here") if costs else ()
    table = Table("run", "seed", said, "parameters", *more, box=None)
    for row in told["runs"]:
        reached = row.get(f"{on}_{measure.name}")
        table.add_row(
            row["run"], str(row["seed"]), "" if reached is None else measure.words(reached), f"{row['parameters']:,}",
            *((f"{row['multiply_adds']:,}", f"{row['latency_ms']:.1f} ms") if costs else ()),
        )  # fmt: skip
    if told["count"] > 1:
        table.add_row("mean", "", f"{measure.words(told['mean'])} ± {measure.factor * told['std']:.2f}")
    return table
