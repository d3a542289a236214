"""The command line: `python -m darts_core search` and its companions (installed as `darts-workbench` too).

Input that cannot be used ends with one sentence on stderr and exit code 2.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.table import Table

from darts_core import cell_commands, commands, io, method_commands, net_commands, own_space, terminal, text_commands
from darts_core.config import PRESETS, SearchConfig, catalogue, preset_named, settings_of
from darts_core.drive import branch as make_branch
from darts_core.drive import new_run, settings_in
from darts_core.errors import BadInput
from darts_core.events import CHANGES, KINDS, Order
from darts_core.flags import Json, Name, Runs, Settings, assignments, seed_numbers
from darts_core.legal import ON_EDGES, edge_named, row_after
from darts_core.reporting import PROGRAM, console, print_runs
from darts_core.runs import RunReader, RunWriter, free_group, list_runs, runs_root, send_order, trash
from darts_core.space import SearchSpace
from darts_core.together import lane_config, members

app = typer.Typer(
    help="Differentiable architecture search: search, watch, steer, derive. Start with:  search --preset tiny",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode="rich",
    pretty_exceptions_enable=False,
)


@app.command()
def search(
    preset: Annotated[
        str | None, typer.Option("--preset", help=f"Where to start from: {', '.join(PRESETS)} (default: laptop).")
    ] = None,
    dataset: Annotated[
        str | None,
        typer.Option(
            "--dataset",
            help="digits, fashion_mnist, cifar10, cifar100, folder, npz; markov, agreement, ptb, wikitext2, text.",
        ),
    ] = None,
    path: Annotated[str | None, typer.Option("--path", help="Folder or file of the data set.")] = None,
    space: Annotated[
        str | None,
        typer.Option("--space", help="darts, s1 to s4, nasbench201, tiny; for text: darts-rnn; or a file of your own."),
    ] = None,
    strategy: Annotated[str | None, typer.Option("--strategy", help="The search method; see: methods.")] = None,
    with_: Annotated[
        list[str] | None, typer.Option("--with", metavar="PART", help="A part to wear on top; may be repeated.")
    ] = None,
    order: Annotated[
        str | None, typer.Option("--order", help="1: first order; 2: second order as published; exact.")
    ] = None,
    epochs: Annotated[str | None, typer.Option("--epochs", help="Passes over the weight split.")] = None,
    seed: Annotated[str | None, typer.Option("--seed", help="Decides every random number.")] = None,
    backend: Annotated[
        str | None,
        typer.Option("--backend", help="How to compute: auto, reference, fast, compiled; on a GPU graph or triton."),
    ] = None,
    seeds: Annotated[
        str | None, typer.Option("--seeds", help="Several searches side by side, a run each: 0-4, or 0,3,7.")
    ] = None,
    set_: Settings = None,
    name: Name = None,
    runs: Runs = None,
    config_json: Annotated[
        str | None,
        typer.Option(
            "--config-json",
            metavar="FILE",
            help="Settings as a JSON object; - reads standard input and writes to the run's log.",
        ),
    ] = None,
    as_json: Json = False,
) -> None:
    """Run a search and watch it here; the dashboard shows it too.

    [dim]Examples: search --preset tiny | search --dataset cifar10 --path data/downloads --order 2 |
    search --preset collapse --seeds 0-4 | search --dataset folder --path photos --set resize=32[/dim]
    """
    flags = {
        "dataset": dataset,
        "path": path,
        "strategy": strategy,
        "parts": ",".join(with_) if with_ else None,
        "order": order,
        "epochs": epochs,
        "seed": seed,
        "backend": backend,
    }
    changes: dict[str, Any] = {k: v for k, v in flags.items() if v is not None}
    changes |= (own_space.chosen(space) if space is not None else {}) | assignments(set_)
    if config_json is not None:
        config = SearchConfig.from_dict({**_object(config_json), **changes})
    else:
        config = _preset_config(preset or _usual_preset(changes), changes)
    config.there()
    root = runs_root(runs)
    if seeds is None:
        code = terminal.run(new_run(root, name, config, sys.argv), config, as_json, quiet=config_json == "-")
        raise typer.Exit(code)
    numbers = seed_numbers(seeds)
    group = name or free_group(root, f"{config.dataset}-{config.strategy}".replace(".", "-"), numbers)
    configs = [lane_config(config, number) for number in numbers]
    writers: list[RunWriter] = []
    try:
        for each in configs:
            writers.append(new_run(root, f"{group}-s{each.seed}", each, sys.argv, group=group))
    except BaseException:
        for writer in writers:  # none of them has begun
            writer.close()
            trash(root, writer.name)
        raise
    raise typer.Exit(terminal.run_together(group, writers, configs, as_json, quiet=config_json == "-"))


@app.command()
def resume(run: str, runs: Runs = None, as_json: Json = False) -> None:
    """Go on with an interrupted or failed run from its last good checkpoint, and prove that nothing changed.

    The name of a group (search --seeds) resumes all of its runs that have not ended, side by side.
    """
    root = runs_root(runs)
    if not (root / run).exists() and (group := members(root, run)):
        terminal.resume_group(root, run, group, as_json)
    reader = RunReader(root, run)
    state = reader.status().state
    if state in ("finished", "stopped"):
        raise BadInput(
            f"run {run}", "", f"is {state} already", f"branch from one of its epochs: {PROGRAM} branch {run} --epoch N"
        )
    config = SearchConfig.from_dict(reader.info["config"], f"run {run}")
    raise typer.Exit(
        terminal.run(RunWriter.open(root, run), config, as_json, quiet=not sys.stdout.isatty() and not as_json)
    )


@app.command()
def branch(
    run: str,
    epoch: Annotated[int, typer.Option("--epoch", help="Finished epochs to go on from; 0 is the start.")],
    set_: Settings = None,
    weights: Annotated[
        str, typer.Option("--weights", help="parent: go on with its weights; fresh: start anew with its settings.")
    ] = "parent",
    pin: Annotated[
        list[str] | None, typer.Option("--pin", metavar="EDGE=OP", help="Pin an operation at its first step.")
    ] = None,
    ban: Annotated[
        list[str] | None, typer.Option("--ban", metavar="EDGE=OP", help="Ban one: --ban normal-0-2=skip_connect.")
    ] = None,
    name: Name = None,
    runs: Runs = None,
    as_json: Json = False,
) -> None:
    """Start a new run from an epoch of another, with other settings. Both see the same data and random numbers."""
    if weights not in ("parent", "fresh"):
        raise BadInput("branch", "weights", f"{weights!r} is neither parent nor fresh", "choose one of them")
    root = runs_root(runs)
    space = SearchSpace.from_json(RunReader(root, run).info["space"], f"run {run}")
    given = _on_edges(space, {"pin": pin, "ban": ban})
    writer = make_branch(root, RunReader(root, run), epoch, assignments(set_), name, sys.argv, fresh=weights == "fresh")
    config = SearchConfig.from_dict(writer.info["config"])
    for kind, edge, op in given:  # as files, so that they are not lost if the process dies before its first step
        send_order(root, writer.name, kind, name=edge, value=op)
    raise typer.Exit(terminal.run(writer, config, as_json, quiet=not sys.stdout.isatty() and not as_json))


def _on_edges(space: SearchSpace, asked: Mapping[str, Sequence[str] | None]) -> list[tuple[str, str, str]]:
    """Orders about edges, (kind, edge, operation) each, checked against the space."""
    found = []
    for kind, pairs in asked.items():
        for pair in pairs or ():
            edge, equals, op = pair.partition("=")
            if not equals:
                fix = f"for example --{kind} normal-0-2=skip_connect"
                raise BadInput("command line", f"--{kind}", f"{pair[:60]!r} is not EDGE=OP", fix)
            cells, index = edge_named(space, edge)
            cell = space.cells[cells]
            row_after(cell, index, cell.legal_array()[index], kind, op)
            found.append((kind, edge, op))
    return found


@app.command()
def repeat(run: str, name: Name = None, runs: Runs = None, as_json: Json = False) -> None:
    """Run a search again, orders included, and compare every recorded number."""
    root = runs_root(runs)
    reader = RunReader(root, run)
    config = SearchConfig.from_dict(reader.info["config"], f"run {run}")
    if reader.info["parent"]:
        raise BadInput(
            f"run {run}", "parent", "is a branch", f"repeat its parent {reader.info['parent']['run']} and branch again"
        )
    if saved := reader.checkpoints():
        config = config.with_(backend=settings_in(reader, saved[0].file).backend)  # `auto` was settled at the start
    orders: dict[int, list[Order]] = {}
    for line in reader.events()[0]:
        if line["type"] == "applied" and line["accepted"] and line["kind"] in (*CHANGES, "stop"):
            orders.setdefault(line["step"], []).append(Order(line["id"], line["kind"], line["name"], line["value"]))
    writer = new_run(root, name, config, sys.argv)
    writer.info["threads"] = reader.info["threads"]  # equal numbers need equal threads
    code = terminal.run(writer, config, False, quiet=False, orders=orders)
    told = _compared(reader, RunReader(root, writer.name))
    if not told["identical"] and reader.info.get("group") and config.backend == "fast":
        told["message"] += "; it shared its passes with other seeds, which changes the rounding of every step"
    console.print(told["message"], soft_wrap=True, markup=False)
    if as_json:
        print(json.dumps({"run": writer.name, **told}))
    raise typer.Exit(code if code else 0 if told["identical"] else 1)


@app.command()
def order(
    run: str,
    kind: Annotated[str, typer.Argument(help=f"One of {', '.join(KINDS)}.")],
    setting: Annotated[str | None, typer.Argument(metavar="[NAME=VALUE]", help="For set: what to change.")] = None,
    cell: Annotated[str, typer.Option("--cell", help="For pin, ban, reset: the kind of cell.")] = "normal",
    edge: Annotated[
        str | None, typer.Option("--edge", metavar="SOURCE-TARGET", help="For pin, ban, reset: the edge, 0-2.")
    ] = None,
    op: Annotated[str | None, typer.Option("--op", help="For pin and ban: the operation.")] = None,
    runs: Runs = None,
) -> None:
    """Steer a running search from here: pause, resume, one step, stop, a checkpoint, or set NAME=VALUE.

    pin leaves an edge one operation, ban takes one away from it, reset gives it all of the space again.
    [dim]Examples: order NAME set a_lr=0.01 | order NAME pin --cell normal --edge 0-2 --op skip_connect |
    order NAME reset --edge 0-2[/dim]
    """
    name, value = next(iter(assignments([setting] if setting else None).items()), (None, None))
    if (kind == "set") != (name is not None):
        raise BadInput("order", kind, "set needs NAME=VALUE, the others take none", "for example: set a_lr=0.01")
    if kind not in ON_EDGES and (edge or op):
        raise BadInput("order", kind, "takes no edge and no operation", f"only {', '.join(ON_EDGES)} do")
    root = runs_root(runs)
    if kind in ON_EDGES:
        name, value = f"{cell}-{edge}" if edge else None, op
        if edge:
            edge_named(SearchSpace.from_json(RunReader(root, run).info["space"], f"run {run}"), name)
    if not RunReader(root, run).status().alive:
        raise BadInput(f"run {run}", "", "no process is running it", f"go on with {PROGRAM} resume {run}")
    send_order(root, run, kind, name=name, value=value)
    console.print(f"{kind} is ordered; the run answers at its next step", markup=False)


@app.command("runs")
def list_(runs: Runs = None, as_json: Json = False) -> None:
    """List the runs, newest first."""
    rows = list_runs(runs_root(runs))
    if as_json:
        print(json.dumps([row._asdict() for row in rows]))
    else:
        print_runs(rows)


@app.command()
def cost(
    preset: Annotated[str, typer.Option("--preset", help=f"One of {', '.join(PRESETS)}.")] = "laptop",
    set_: Settings = None,
    config_json: Annotated[
        str | None, typer.Option("--config-json", metavar="FILE", help="Settings as a JSON object; - reads stdin.")
    ] = None,
    as_json: Json = False,
) -> None:
    """How long a search would take here and what memory it needs: real steps, timed for a second or two."""
    from darts_core.calibrate import calibrate
    from darts_core.estimate import estimate

    changes = assignments(set_)
    if config_json:
        config = SearchConfig.from_dict({**_object(config_json), **changes})
    else:
        config = _preset_config(preset, changes)
    measured = calibrate(config.there())
    if as_json:
        print(json.dumps(measured.to_json()))
        return
    found = estimate(config, measured)
    assert found is not None, "a calibration fits the settings that it was made with"
    console.print(
        f"{found.step * 1000:.1f} ms a step, {found.epoch:.1f} s an epoch, {found.total:.0f} s in all; "
        f"{found.memory / 1e6:,.0f} MB of memory, {found.available / 1e6:,.0f} MB are free "
        f"({measured.backend} supernet on {measured.device})",
        markup=False,
        soft_wrap=True,
    )
    if not found.fits:
        console.print("this will not fit: fewer channels, cells or images per step need less", markup=False)


@app.command()
def settings(
    strategy: Annotated[str, typer.Option("--strategy")] = "darts",
    with_: Annotated[
        list[str] | None, typer.Option("--with", metavar="PART", help="With the options of a part.")
    ] = None,
) -> None:
    """Every setting of a search: its default, range, and what it does."""
    table = Table("setting", "default", "range", "what it does", box=None)
    for setting in settings_of(strategy, ",".join(with_ or ())).values():
        span = ", ".join(setting.choices) or setting.span
        table.add_row(setting.name + (" *" if setting.steer else ""), str(setting.default), span, setting.doc)
    console.print(table)
    console.print(
        "* may be changed while a search runs. Presets: " + ", ".join(f"{p.name} ({p.doc})" for p in PRESETS.values()),
        markup=False,
    )


# Help lists them in this order.
app.add_typer(commands.tiny, name="tiny")
for command in (
    commands.compare, method_commands.methods, commands.latency, cell_commands.derive, cell_commands.export,
    text_commands.generate, net_commands.evaluate, net_commands.predict, net_commands.select,
):  # fmt: skip
    app.command()(command)
app.command("import-pt")(net_commands.import_pt_)
app.command("zoo")(net_commands.zoo_)

# -- parts


def _preset_config(name: str, changes: Mapping[str, Any]) -> SearchConfig:
    """The preset with changes. Another data set or space than the preset's keeps its other values."""
    return preset_named(name).config(**changes)


def _usual_preset(changes: Mapping[str, Any]) -> str:
    """Where a search starts from that names no preset: by its space, or by what its data set is of."""
    known = catalogue()["datasets"].get(str(changes.get("dataset")), {})
    of_text = changes.get("space") == "darts-rnn" or known.get("kind") == "text"
    if changes.get("space") == own_space.OWN:
        of_text = own_space.parsed(str(changes.get("own_space", ""))).entry.recurrent
    return "recurrent" if of_text else "laptop"


def _object(source: str) -> Mapping[str, Any]:
    """A JSON object from a file, or from standard input for `-`."""
    data = sys.stdin.buffer.read(io.JSON_LIMIT + 1) if source == "-" else io.read_bytes(Path(source), io.JSON_LIMIT)
    found = io.loads(data, "standard input" if source == "-" else source)
    if not isinstance(found, Mapping):
        raise BadInput(source, "", "is not a JSON object", 'for example {"dataset": "digits"}')
    return found


def _compared(one: RunReader, other: RunReader) -> dict[str, Any]:
    """Are the recorded steps of two runs equal, byte for byte?"""
    count = min(one.step_count(), other.step_count())
    for first in range(0, count, 1000):
        size = min(1000, count - first)
        a, b = one.raw_steps(first, size), other.raw_steps(first, size)
        if a != b:
            at = next(
                i
                for i in range(size)
                if a[i * one.record_bytes :][: one.record_bytes] != b[i * one.record_bytes :][: one.record_bytes]
            )
            return {
                "identical": False,
                "steps": count,
                "message": f"not identical: the first difference is at step {first + at + 1}",
            }
    if one.step_count() != other.step_count():
        return {"identical": False, "steps": count, "message": f"{count} steps are identical, then one run has more"}
    return {
        "identical": True,
        "steps": count,
        "message": f"identical: all {count} recorded steps are equal byte for byte",
    }


def main(arguments: Sequence[str] | None = None) -> None:
    """Entry point; `BadInput` becomes one sentence and exit code 2."""
    run: Callable[..., Any] = app
    try:
        run(args=list(arguments) if arguments is not None else None, prog_name="darts-workbench")
    except BadInput as error:
        print(error, file=sys.stderr)
        raise SystemExit(2) from None


if __name__ == "__main__":
    main()
