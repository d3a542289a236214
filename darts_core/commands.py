"""Commands beside searching itself: tables of whole spaces. `__main__` adds them to the program."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import numpy as np
import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from darts_core import truth
from darts_core.errors import BadInput

console = Console(highlight=False)
tiny = typer.Typer(help="Small spaces of which every cell is trained beforehand: the truth to hold a search against.")


@tiny.callback()
def about_tiny() -> None:
    """Small spaces of which every cell is trained beforehand: the truth to hold a search against."""


@tiny.command("build")
def tiny_build(
    ops: Annotated[int, typer.Option("--ops", help="Operations per edge: 3 (729 cells) or 4 (4,096 cells).")] = 3,
    seeds: Annotated[int, typer.Option("--seeds", help="Trainings of each distinct cell, 1 to 50.")] = 10,
    out: Annotated[Path | None, typer.Option("--out", help="Folder for the table (default: data/tiny).")] = None,
) -> None:
    """Train every cell of a small space on digits and keep the table; goes on where it was interrupted.

    [dim]Equal cells are trained once: 78 of 729, or 871 of 4,096. With 10 seeds: 6 and 70 minutes of one core.[/dim]
    """
    from darts_core import exhaustive

    if ops not in exhaustive.SPACE_OF:
        raise BadInput("tiny build", "--ops", f"{ops} is neither 3 nor 4", "choose one of them")
    if not 1 <= seeds <= 50:
        raise BadInput("tiny build", "--seeds", f"{seeds} is out of range", "give 1 to 50")
    space, place = exhaustive.SPACE_OF[ops], out or truth.folder()
    columns = TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn()
    with Progress(*columns, console=console, disable=not console.is_terminal) as progress:
        bar = progress.add_task(f"{space}, {seeds} seeds each", total=None)
        table = exhaustive.build(space, seeds, place, say=lambda n, of: progress.update(bar, completed=n, total=of))
    low, middle, high = np.quantile(table.means, [0, 0.5, 1])
    console.print(
        f"wrote {truth.files(space, place)[0]}: {len(table.means):,} cells, {seeds} seeds; test accuracy {low:.3f} "
        f"to {high:.3f}, half of them above {middle:.3f}; standard error of a good one {table.noise(high):.4f}",
        markup=False,
        soft_wrap=True,
    )
