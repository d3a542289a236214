"""Commands about the cell of a run: `derive` and `export`. `__main__` adds them to the program."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from darts_core import commands, io
from darts_core.derive import PERTURBATION, RULES, THRESHOLD, derive_by, readings
from darts_core.errors import BadInput
from darts_core.export import EXPORTS, format_named
from darts_core.export import export as export_bytes
from darts_core.flags import Json, Runs
from darts_core.genotype import Genotype
from darts_core.reporting import PROGRAM, console, draw
from darts_core.runs import RunReader, runs_root
from darts_core.space import SearchSpace
from darts_core.zoo import genotype_named


def derive(
    run: str,
    step: Annotated[
        int | None, typer.Option("--step", help="Derive from the mix after this step (default: the last).")
    ] = None,
    rule: Annotated[
        str | None, typer.Option("--rule", help=f"How to cut: {', '.join(RULES)}, {PERTURBATION} (default: top2).")
    ] = None,
    threshold: Annotated[
        float, typer.Option("--threshold", help="For the rule threshold: the least weight that stays.")
    ] = THRESHOLD,
    epoch: Annotated[
        int | None,
        typer.Option("--epoch", min=0, help=f"For {PERTURBATION}: at the end of so many epochs (default: last)."),
    ] = None,
    tune: Annotated[
        int, typer.Option("--tune", min=0, max=10_000, help=f"For {PERTURBATION}: weight steps after each choice.")
    ] = 5,
    runs: Runs = None,
    as_json: Json = False,
) -> None:
    """The cell that a run gives, at its end or at any step, by the paper's rule or by another.

    The rule perturbation tries every operation out on the supernet of a checkpoint (DARTS-PT), which takes a while;
    what it finds is kept beside the runs, and the Cells page shows it.
    """
    reader = RunReader(runs_root(runs), run)
    if rule == PERTURBATION:
        genotype = commands.tried_out(reader, epoch, tune, quiet=as_json)
    else:
        genotype = genotype_of(reader, step) if rule is None else _cut(reader, step, rule, threshold)
    if as_json:
        print(json.dumps(genotype.to_json()))
    else:
        draw(genotype)


def export(
    name: Annotated[str | None, typer.Argument(metavar="[RUN]", help="Run whose cell to export.")] = None,
    run: Annotated[str | None, typer.Option("--run", help="The same, by its flag.")] = None,
    genotype: Annotated[
        str | None,
        typer.Option("--genotype", metavar="NAME|FILE", help="Or a released cell (see: zoo), or a genotype file."),
    ] = None,
    format: Annotated[str, typer.Option("--format", help=f"One of {', '.join(EXPORTS)}.")] = "json",
    out: Annotated[Path | None, typer.Option("--out", help="File to write (default: RUN.FORMAT here).")] = None,
    step: Annotated[int | None, typer.Option("--step", help="Derive after this step.")] = None,
    runs: Runs = None,
) -> None:
    """Write a cell or a run as a file: data, pictures, a film over the search, a zip."""
    run = run or name
    if (run is None) == (genotype is None):
        fix = f"for example {PROGRAM} export NAME --format svg"
        raise BadInput("export", "", "needs a run, or --genotype NAME or FILE, and not both", fix)
    suffix = format_named(format).suffix
    reader = RunReader(runs_root(runs), run) if run else None
    cell, title = (genotype_of(reader, step), reader.name) if reader else genotype_named(str(genotype))
    target = out or Path(f"{title}.{suffix}")
    if not target.parent.is_dir():
        raise BadInput(target, "out", "its folder does not exist", f"make {target.parent} first")
    if format_named(format).made_of == "network":
        from darts_core.network_files import write

        data = write(format, cell, title, reader)
    else:
        data = export_bytes(cell, format, title, reader)
    io.atomic_write(target.absolute(), data)
    console.print(f"wrote {target} ({len(data):,} bytes)", markup=False, soft_wrap=True)


def genotype_of(reader: RunReader, step: int | None) -> Genotype:
    """The run's result, or what its mix after `step` derives to."""
    if step is None:
        results = [line for line in reader.events()[0] if line["type"] == "result"]
        if results:
            return Genotype.from_json(results[-1]["genotype"], f"run {reader.name}")
    return _cut(reader, step, "top2", THRESHOLD)


def _cut(reader: RunReader, step: int | None, rule: str, threshold: float) -> Genotype:
    """What a rule derives from the mix after `step`, or after the last one."""
    count = reader.step_count()
    index = count - 1 if step is None else step - reader.first_step
    if not 0 <= index < count:
        last = reader.first_step + count - 1
        raise BadInput(
            f"run {reader.name}",
            "step",
            f"{'no step' if step is None else f'step {step}'} is recorded",
            f"steps {reader.first_step} to {last} are" if count else "let it run first",
        )
    record = reader.steps(index, 1)[0]
    space = SearchSpace.from_json(reader.info["space"], f"run {reader.name}")
    return derive_by(space, readings(space, record), rule, threshold)
