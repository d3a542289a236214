"""What the program says to a person at a terminal: events as lines and bars, a cell in words, the table of runs."""

from __future__ import annotations

import io as memory
import math
import os
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

from darts_core import io
from darts_core.events import (
    Alarm,
    Applied,
    Epoch,
    Failure,
    Interrupted,
    Line,
    Phase,
    Result,
    Resumed,
    Sample,
    Step,
    Trained,
    order_words,
)
from darts_core.genotype import Genotype

PROGRAM = "python -m darts_core"


class Patient(Console):
    """A console whose listener may go away (say, `| head`): it falls silent, and the search goes on."""

    def on_broken_pipe(self) -> None:
        self.quiet = True
        sys.stdout = memory.StringIO()  # or the interpreter would complain when it closes the real one


console = Patient(highlight=False)


class Reporter:
    """Says events to a person: a bar for steps, a line per epoch, a sentence for what is rare.

    `seed`: of a search that has others beside it; the `first` of several runs alone says what all have in common.
    `cell`: of a training, what its cell is called.
    """

    def __init__(
        self, run: str, progress: Progress, seed: int | None = None, first: bool = True, cell: str = ""
    ) -> None:
        self.progress, self.first, self.cell = progress, first, cell
        self.prefix = "" if seed is None else f"seed {seed}: "
        self.bar = progress.add_task(run, total=None)

    def __call__(self, event: Step | Line) -> None:
        if isinstance(event, Step):
            self.progress.update(self.bar, completed=event.step)
        if isinstance(event, Phase):
            self.progress.update(self.bar, total=event.total_steps)
        if isinstance(event, Failure):
            if not self.prefix:  # others go on
                self.progress.stop()
            print(self.prefix + event.message, file=sys.stderr)
            print(event.traceback, file=sys.stderr, end="")
        elif (text := said(event, self.cell)) and (self.first or not isinstance(event, Phase)):
            self.progress.console.print(self.prefix + text, markup=False, soft_wrap=True)


def said(event: Step | Line, cell: str = "") -> str:
    """An event as a line for people; empty for what happens all the time. `cell`: of a training, its cell's name."""
    match event:
        case Phase():
            return f"{event.name}: {event.message}"
        case Epoch():
            m, c = event.metrics, event.collapse
            if "entropy" not in event.probes and "valid_perplexity" not in m:  # nothing is searched
                held = f", validation {m['valid_accuracy']:.3f}" if "valid_accuracy" in m else ""
                learned = f"training loss {m.get('train_loss', 0):.3f}, accuracy {m.get('train_accuracy', 0):.3f}"
                return f"epoch {event.epoch + 1:3d}: {learned}{held}, {event.seconds:.1f} s"
            if "valid_perplexity" in m:
                return (
                    f"epoch {event.epoch + 1:3d}: training perplexity {m.get('train_perplexity', math.nan):.2f}, "
                    f"validation {m['valid_perplexity']:.2f}{_floor(m)}, "
                    f"{_searched(event)}{event.seconds:.1f} s"
                )
            eigen = f", eigenvalue {event.probes['eigenvalue']:.2f}" if "eigenvalue" in event.probes else ""
            eigen += f", by the table {event.probes['truth_accuracy']:.3f}" if "truth_accuracy" in event.probes else ""
            return (
                f"epoch {event.epoch + 1:3d}: training accuracy {m.get('train_accuracy', 0):.3f}, "
                f"validation {m.get('valid_accuracy', 0):.3f}, "
                f"{c['derived_skips']} of {c['derived_edges']} derived edges are skip ({c['level']}), "
                f"entropy {event.probes['entropy']:.2f}{eigen}, {event.seconds:.1f} s"
            )
        case Sample():
            return f"  it writes: {' / '.join(event.text.splitlines())[:150]}"
        case Alarm():
            return f"{event.level}: {event.reason} (step {event.step})"
        case Applied():
            what = order_words(event.kind, event.name, event.value)
            return f"{what}: applied at step {event.step}" if event.accepted else f"{what}: refused, {event.reason}"
        case Resumed():
            return f"resumed: {event.message}"
        case Trained():
            what = {"supernet": "supernet as searched", "pruned": "pruned at once, not retrained"}.get(event.role)
            epochs = f"{event.epochs} epoch{'' if event.epochs == 1 else 's'}"
            what = what or f"{cell or f'{event.role} cell {event.index + 1}'}, trained {epochs} from scratch"
            held = event.test_accuracy is None  # chosen by validation: the test images are for the end
            key, on = ("valid", "validation") if held else ("test", "test")
            accuracy = f"{on} accuracy {event.accuracy if held else event.test_accuracy:.3f}"
            if f"{key}_perplexity" in event.metrics:
                accuracy = f"{on} perplexity {event.metrics[f'{key}_perplexity']:.2f}"
            return f"{what}: {accuracy} ({event.parameters:,} parameters, {event.seconds:.1f} s)"
        case Result():
            what = "trained" if cell else "result"
            return f"{what} after step {event.step}" + (" (stopped)" if event.stopped else "")
        case Interrupted():
            return f"interrupted by {event.reason} after step {event.step}"
    return ""


def _searched(event: Epoch) -> str:
    """How the cell of a recurrent search stands; nothing where none is searched."""
    c = event.collapse
    if "entropy" not in event.probes:
        return ""
    skips = f"{c['derived_skips']} of {c['derived_edges']} derived edges are identity ({c['level']})"
    return f"{skips}, entropy {event.probes['entropy']:.2f}, "


def _floor(metrics: Mapping[str, float]) -> str:
    """The lowest possible perplexity, where it is known."""
    return f" (no model can be below {metrics['floor_perplexity']:.2f})" if "floor_perplexity" in metrics else ""


def progress_bars() -> Progress:
    columns = (
        TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(),
        TextColumn("{task.fields[rate]}"), TimeRemainingColumn(),
    )  # fmt: skip

    class WithRate(Progress):
        def get_renderables(self):  # type: ignore[no-untyped-def]
            for task in self.tasks:
                task.fields["rate"] = f"{task.speed:.1f} steps/s" if task.speed else ""
            yield from super().get_renderables()

    return WithRate(*columns, console=console, transient=True, disable=not console.is_terminal)


def into_log(path: Path) -> None:
    """From now on everything printed goes to the run's log."""
    sys.stdout.flush()
    sys.stderr.flush()
    fd = io.append_fd(path)
    os.dup2(fd, 1)
    os.dup2(fd, 2)
    os.close(fd)


def draw(genotype: Genotype) -> None:
    """The derived cell in text: per node its operations and sources."""
    for kind, cell in genotype.cells.items():
        outside = ("c_{k-2}", "c_{k-1}") if cell.inputs == 2 else ("input",)

        def named(state: int, outside: tuple[str, ...] = outside) -> str:
            return outside[state] if state < len(outside) else f"node {state - len(outside)}"

        console.print(f"{kind} cell", style="bold")
        for node, genes in enumerate(cell.nodes):
            parts = [f"{g.op}({named(g.source)})" for g in genes]
            console.print(f"  node {node} = {' + '.join(parts) or 'nothing'}", markup=False, soft_wrap=True)
        joined = "mean of " if kind == "recurrent" else ""
        console.print(f"  output = {joined}{', '.join(map(named, cell.output))}", markup=False)


def print_runs(rows: Sequence[Any]) -> None:
    if not rows:
        console.print(f"no runs yet; start one:  {PROGRAM} search --preset tiny", markup=False)
        return
    table = Table("run", "state", "step", "data set", "strategy", "message", box=None)
    for row in rows:
        steps = f"{row.step}/{row.total_steps}" if row.total_steps else str(row.step)
        table.add_row(
            row.name,
            row.state + (" (edited)" if row.edited else ""),
            steps,
            row.dataset,
            row.strategy,
            row.message[:80],
        )
    console.print(table)
