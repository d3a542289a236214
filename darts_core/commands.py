"""Commands beside searching itself: tables of whole spaces. `__main__` adds them to the program."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import numpy as np
import typer
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from darts_core import own_space, tally, truth
from darts_core.config import PRESETS, preset_named
from darts_core.errors import BadInput
from darts_core.flags import assignments, seed_numbers
from darts_core.genotype import Genotype
from darts_core.reporting import console
from darts_core.runs import RunReader, check_name, derived, runs_root

tiny = typer.Typer(help="Small spaces of which every cell is trained beforehand: the truth to hold a search against.")


@tiny.callback()
def about_tiny() -> None:
    """Small spaces of which every cell is trained beforehand: the truth to hold a search against."""


def tried_out(reader: RunReader, epoch: int | None, tune: int, quiet: bool) -> Genotype:
    """The rule perturbation on a run's checkpoint, with a line after each choice; kept beside the runs.

    Raises:
        BadInput: the run has no such checkpoint or no supernet, or the folder cannot be written.
    """
    from darts_core import trying

    def say(made: int, total: int) -> None:
        if not quiet:
            console.print(f"{made} of {total} choices", markup=False)

    found = trying.perturbed(reader, epoch, tune, say)
    path = derived.write(reader, found)
    if not quiet:
        kept = sum(bool(decision.kept) for decision in found.decisions)
        console.print(
            f"after {found.epoch} epochs: {kept} operations were tried out in {found.seconds:.0f} s; the supernet's "
            f"accuracy went from {100 * found.accuracy:.1f} to {100 * found.after:.1f} %; kept in {path.name}",
            markup=False,
        )
    return found.genotype


@tiny.command("build")
def tiny_build(
    ops: Annotated[int, typer.Option("--ops", help="Operations per edge: 3 (729 cells) or 4 (4,096 cells).")] = 3,
    space: Annotated[
        str | None, typer.Option("--space", metavar="FILE", help="Or a space of your own, of form bench.")
    ] = None,
    seeds: Annotated[int, typer.Option("--seeds", help="Trainings of each distinct cell, 1 to 50.")] = 10,
    out: Annotated[Path | None, typer.Option("--out", help="Folder for the table (default: data/tiny).")] = None,
) -> None:
    """Train every cell of a small space on digits and keep the table; goes on where it was interrupted.

    [dim]Equal cells are trained once: 78 of 729, or 871 of 4,096. With 10 seeds: 6 and 70 minutes of one core;
    4,096 cells with 3 seeds: 34 minutes, estimated from 13 of the 871.[/dim]
    """
    from darts_core import exhaustive

    if not 1 <= seeds <= 50:
        raise BadInput("tiny build", "--seeds", f"{seeds} is out of range", "give 1 to 50")
    if space is None and ops not in exhaustive.SPACE_OF:
        raise BadInput("tiny build", "--ops", f"{ops} is neither 3 nor 4", "choose one of them")
    own = own_space.read(space) if space is not None else None
    name, definition = (own.name, own.text) if own else (exhaustive.SPACE_OF[ops], "")
    place = out or truth.folder()
    columns = TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn()
    with Progress(*columns, console=console, disable=not console.is_terminal) as progress:
        bar = progress.add_task(f"{name}, {seeds} seeds each", total=None)
        say = lambda n, of: progress.update(bar, completed=n, total=of)  # noqa: E731
        table = exhaustive.build(name, seeds, place, say=say, own_space=definition)
    low, middle, high = np.quantile(table.means, [0, 0.5, 1])
    console.print(
        f"wrote {truth.files(name, place)[0]}: {len(table.means):,} cells, {seeds} seeds; test accuracy {low:.3f} "
        f"to {high:.3f}, half of them above {middle:.3f}; standard error of a good one {table.noise(high):.4f}",
        markup=False,
        soft_wrap=True,
    )


def compare(
    methods: Annotated[
        str,
        typer.Option("--methods", help="Strategies, parts after +, options after colons: darts,pc-darts+beta:order=2."),
    ] = "darts,random,evolution,reinforce",
    seeds: Annotated[str, typer.Option("--seeds", help="0-4, or 0,3,7.")] = "0-4",
    preset: Annotated[str, typer.Option("--preset", help=f"Settings to start from: {', '.join(PRESETS)}.")] = "tiny",
    dataset: Annotated[str | None, typer.Option("--dataset", help="Which images.")] = None,
    space: Annotated[str | None, typer.Option("--space", help="The search space: a name, or a file.")] = None,
    budget: Annotated[
        str | None, typer.Option("--budget", help="For each search: 60s, 5m, 400steps, 40epochs (default: preset's).")
    ] = None,
    set_: Annotated[list[str] | None, typer.Option("--set", metavar="NAME=VALUE", help="Change a setting.")] = None,
    name: Annotated[str, typer.Option("--name", help="Name of the comparison; the same name goes on with it.")] = "",
    runs: Annotated[str | None, typer.Option("--runs", metavar="DIR", help="Folder of the runs.")] = None,
) -> None:
    """Run every method with every seed at one budget, and write a table and a picture; goes on after an interruption.

    [dim]Examples: compare --methods darts,random --seeds 0-4 --dataset digits --budget 60s |
    compare --methods darts,darts+beta,pc-darts+eigenvalue-stop --preset collapse[/dim]
    """
    from darts_core import contest

    root = runs_root(runs)
    chosen = contest.methods_in(methods)
    changes = {"dataset": dataset} if dataset is not None else {}
    changes |= (own_space.chosen(space) if space is not None else {}) | assignments(set_)
    label = check_name(
        name or f"{dataset or preset_named(preset).config().dataset}-{_short(space) or preset}".replace("_", "-")
    )
    plan, numbers = contest.kept_plan(label, root), seed_numbers(seeds)
    say = lambda words: console.print(words, markup=False, soft_wrap=True)  # noqa: E731
    if plan is None:
        plan = contest.plan(label, chosen, numbers, preset, changes, contest.Budget.read(budget), say)
        contest.keep_plan(plan, root)
    elif set(plan["methods"]) != set(chosen) or plan["seeds"] != numbers:
        what = f"{label} was begun with {', '.join(plan['methods'])} and seeds {plan['seeds']}"
        raise BadInput("compare", "--name", what, "give the same again, or another --name")
    try:
        found = contest.run(plan, root, say)
    except KeyboardInterrupt:
        say(f"interrupted, nothing is lost; the same command, with --name {label}, goes on")
        raise typer.Exit(0) from None
    table = tally.lines(found)
    wide = [max(len(line[k]) for line in table) for k in range(len(table[0]))]
    for line in table:
        say(
            "  ".join(
                word.ljust(n) if k == 0 else word.rjust(n) for k, (word, n) in enumerate(zip(line, wide, strict=True))
            )
        )
    for sentence in tally.sentences(found):
        say(sentence)
    say(f"written to {tally.place(root) / label}: table.md, table.csv, table.json, plot.svg")
    raise typer.Exit(1 if found.missing else 0)


def latency(
    preset: Annotated[str, typer.Option("--preset", help="Settings to start from.")] = "tiny",
    space: Annotated[
        str | None, typer.Option("--space", help="The search space: a name, say mbconv, or a file.")
    ] = None,
    set_: Annotated[list[str] | None, typer.Option("--set", metavar="NAME=VALUE", help="Change a setting.")] = None,
) -> None:
    """Measure how long each operation of a network takes on this machine, for searches with cost=latency.

    [dim]Example: latency --space mbconv; then search --space mbconv --strategy proxyless --set cost=latency
    --set price=0.1[/dim]
    """
    from darts_core import latency as measuring

    config = preset_named(preset).config(**(own_space.chosen(space) if space else {}), **assignments(set_))
    columns = TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn()
    with Progress(*columns, console=console, disable=not console.is_terminal, transient=True) as progress:
        bar = progress.add_task("measuring", total=None)
        found = measuring.measure_all(config, lambda n, of: progress.update(bar, completed=n, total=of))
    for item in {item.key: item for item in measuring.items(config.search_space(), config)}.values():
        console.print(f"{item.key:44s} {1e6 * found['seconds'][item.key]:8.0f} us", markup=False)
    console.print(f"kept in {measuring.table_path()}", markup=False, soft_wrap=True)


def _short(space: str | None) -> str | None:
    """The space in the name of a comparison: of a file, its stem."""
    return Path(space).stem if space else None
