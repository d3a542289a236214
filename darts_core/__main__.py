"""The command line: `python -m darts_core search` and its companions (installed as `darts-workbench` too).

Input that cannot be used ends with one sentence on stderr and exit code 2.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, NoReturn

import typer
from rich.table import Table

from darts_core import commands, io, method_commands, net_commands, own_space, text_commands
from darts_core.commands import assignments as _assignments
from darts_core.commands import seed_numbers as _seed_numbers
from darts_core.config import EVALUATE, PRESETS, SearchConfig, catalogue, preset_named, settings_of
from darts_core.derive import PERTURBATION, RULES, THRESHOLD, derive_by, readings
from darts_core.drive import branch as make_branch
from darts_core.drive import drive, new_run, settings_in
from darts_core.errors import BadInput
from darts_core.events import (
    CHANGES,
    KINDS,
    Order,
)
from darts_core.export import EXPORTS, format_named
from darts_core.export import export as export_bytes
from darts_core.genotype import Genotype
from darts_core.legal import ON_EDGES, edge_named, row_after
from darts_core.reporting import PROGRAM, Reporter, console, draw, into_log, print_runs, progress_bars
from darts_core.runs import RunReader, RunWriter, free_group, list_runs, runs_root, send_order, trash
from darts_core.space import SearchSpace
from darts_core.together import drive_together, lane_config, members
from darts_core.zoo import genotype_named

app = typer.Typer(
    help="Differentiable architecture search: search, watch, steer, derive. Start with:  search --preset tiny",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode="rich",
    pretty_exceptions_enable=False,
)


app.add_typer(commands.tiny, name="tiny")
app.command()(commands.compare)
app.command()(method_commands.methods)
app.command()(commands.latency)


Runs = Annotated[
    str | None, typer.Option("--runs", metavar="DIR", help="Folder of the runs (default: data/runs, or $DARTS_RUNS).")
]
Name = Annotated[
    str | None,
    typer.Option("--name", help="Name of the new run: small letters, digits, - and _ (default: a free one)."),
]
Json = Annotated[bool, typer.Option("--json", help="Print the result as JSON on the last line.")]
Settings = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="NAME=VALUE", help="Change a setting; may be repeated. See: settings"),
]


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
    changes |= (own_space.chosen(space) if space is not None else {}) | _assignments(set_)
    if config_json is not None:
        config = SearchConfig.from_dict({**_object(config_json), **changes})
    else:
        config = _preset_config(preset or _usual_preset(changes), changes)
    _check_path(config)
    root = runs_root(runs)
    if seeds is None:
        code = _run(new_run(root, name, config, sys.argv), config, as_json, quiet=config_json == "-")
        raise typer.Exit(code)
    numbers = _seed_numbers(seeds)
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
    raise typer.Exit(_run_together(group, writers, configs, as_json, quiet=config_json == "-"))


@app.command()
def resume(run: str, runs: Runs = None, as_json: Json = False) -> None:
    """Go on with an interrupted or failed run from its last good checkpoint, and prove that nothing changed.

    The name of a group (search --seeds) resumes all of its runs that have not ended, side by side.
    """
    root = runs_root(runs)
    if not (root / run).exists() and (group := members(root, run)):
        _resume_group(root, run, group, as_json)
    reader = RunReader(root, run)
    state = reader.status().state
    if state in ("finished", "stopped"):
        raise BadInput(
            f"run {run}", "", f"is {state} already", f"branch from one of its epochs: {PROGRAM} branch {run} --epoch N"
        )
    config = SearchConfig.from_dict(reader.info["config"], f"run {run}")
    raise typer.Exit(_run(RunWriter.open(root, run), config, as_json, quiet=not sys.stdout.isatty() and not as_json))


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
    writer = make_branch(
        root, RunReader(root, run), epoch, _assignments(set_), name, sys.argv, fresh=weights == "fresh"
    )
    config = SearchConfig.from_dict(writer.info["config"])
    for kind, edge, op in given:  # as files, so that they are not lost if the process dies before its first step
        send_order(root, writer.name, kind, name=edge, value=op)
    raise typer.Exit(_run(writer, config, as_json, quiet=not sys.stdout.isatty() and not as_json))


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
    code = _run(writer, config, False, quiet=False, orders=orders)
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
    name, value = next(iter(_assignments([setting] if setting else None).items()), (None, None))
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


@app.command()
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
        genotype = _genotype_of(reader, step) if rule is None else _cut(reader, step, rule, threshold)
    if as_json:
        print(json.dumps(genotype.to_json()))
    else:
        draw(genotype)


@app.command()
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
    cell, title = (_genotype_of(reader, step), reader.name) if reader else genotype_named(str(genotype))
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

    changes = _assignments(set_)
    if config_json:
        config = SearchConfig.from_dict({**_object(config_json), **changes})
    else:
        config = _preset_config(preset, changes)
    measured = calibrate(config)
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


text_commands.add_to(app, console)
net_commands.add_to(
    app,
    net_commands.Parts(
        console,
        lambda writer, config, as_json, place: _run(writer, config, as_json, quiet=False, place=place),
        lambda reader, step: _genotype_of(reader, step),
        lambda pairs: _assignments(pairs),
        lambda text: _seed_numbers(text),
    ),
)

# -- parts


def _run(
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
    genotype = _genotype_of(reader, None) if status.step and status.state in ("finished", "stopped") else None
    alone = place is None
    if genotype is not None and alone and config.strategy != EVALUATE:
        draw(genotype)
    if genotype is not None and alone and config.strategy == EVALUATE:
        console.print(net_commands.trained_table(net_commands.spread([reader])))
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


def _run_together(
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


def _resume_group(root: Path, name: str, group: Sequence[RunReader], as_json: bool) -> NoReturn:
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
    raise typer.Exit(_run_together(name, writers, configs, as_json))


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


def _check_path(config: SearchConfig) -> None:
    """Refuse a path that is not there before a run folder is made."""
    if config.path and not Path(config.path).expanduser().exists():
        raise BadInput(config.path, "path", "is not there", "give an existing folder or file")


def _genotype_of(reader: RunReader, step: int | None) -> Genotype:
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


def _summary(reader: RunReader) -> Any:
    ends = [line for line in reader.events()[0] if line["type"] == "finished"]
    return ends[-1]["summary"] if ends else None


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
