"""Commands about networks: `evaluate`, `import-pt`, `predict`, `select`, `zoo`.

Torch is imported inside commands only, so that help and refusals come at once.
"""

from __future__ import annotations

import itertools
import json
import shlex
import sys
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.table import Column, Table

from darts_core import io, selection, terminal
from darts_core.cell_commands import genotype_of
from darts_core.config import EVALUATE, catalogue, preset_named, settings_of
from darts_core.drive import new_run
from darts_core.errors import BadInput, unknown
from darts_core.evaluation import (
    EVALUATIONS,
    Measure,
    cell_named,
    evaluation_config,
    measure_of,
    settings_from,
)
from darts_core.flags import Json, Runs, assignments, seed_numbers
from darts_core.genotype import Genotype
from darts_core.reporting import console
from darts_core.runs import RunReader, free_group, runs_root
from darts_core.zoo import NETWORKS, recurrent_namesake, zoo


def evaluate(
    genotype: Annotated[
        str | None,
        typer.Option(
            "--genotype",
            metavar="NAME|FILE",
            help="A released cell (see: zoo), a genotype file, random:SEED, or skips (nothing but skips).",
        ),
    ] = None,
    run: Annotated[str | None, typer.Option("--run", help="Or the cell that this search found.")] = None,
    preset: Annotated[str, typer.Option("--preset", help=f"One of {', '.join(EVALUATIONS)}.")] = "quick",
    dataset: Annotated[str | None, typer.Option("--dataset", help="As for a search; default: the run's.")] = None,
    path: Annotated[str | None, typer.Option("--path", help="Folder or file of the data set.")] = None,
    epochs: Annotated[str | None, typer.Option("--epochs", help="Passes over the training images.")] = None,
    seed: Annotated[str | None, typer.Option("--seed", help="Decides every random number.")] = None,
    seeds: Annotated[str | None, typer.Option("--seeds", help="Several trainings in turn: 0-2, or 0,3,7.")] = None,
    size: Annotated[
        int | None,
        typer.Option("--parameters", help="Choose the width so that it has about this many parameters."),
    ] = None,
    set_: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="NAME=VALUE", help="Change a setting. See: settings --strategy evaluate"),
    ] = None,
    weights: Annotated[
        Path | None,
        typer.Option("--weights", help="Train nothing: test these weights (import-pt, export --format weights)."),
    ] = None,
    name: Annotated[str | None, typer.Option("--name", help="Name of the new run.")] = None,
    runs: Runs = None,
    as_json: Json = False,
) -> None:
    """Train a cell from scratch, as a run of its own, and say what it is worth.

    [dim]Examples: evaluate --genotype DARTS_V2 | evaluate --run laptop-001 --seeds 0-2 |
    evaluate --genotype DARTS_V2 --preset cifar --path data/downloads[/dim]
    """
    if weights is not None:
        told = tested(weights, dataset, path, assignments(set_))
        for line in told.pop("said"):
            console.print(line, markup=False, soft_wrap=True)
        if as_json:
            print(json.dumps(told))
        raise typer.Exit(0)
    root = runs_root(runs)
    cell, label, given = chosen(root, genotype, run, about_text(preset, dataset))
    flags = {"dataset": dataset, "path": path, "epochs": epochs, "seed": seed}
    changes = {**given, **{k: v for k, v in flags.items() if v is not None}, **assignments(set_)}
    if dataset is not None and path is None and dataset != given.get("dataset"):
        changes.pop("path", None)
    config = evaluation_config(preset, cell, label, changes).there()
    if size is not None:
        from darts_core.evaluate import matched

        config = config.with_(channels=matched(config, size))
    if seeds is None:
        raise typer.Exit(terminal.run(new_run(root, name, config, sys.argv), config, as_json, quiet=False))
    numbers = seed_numbers(seeds)
    group = name or free_group(root, f"{config.dataset}-{EVALUATE}".replace(".", "-"), numbers)
    drive_it, code, ended = in_turn(), 0, []
    for place, number in enumerate(numbers, 1):
        run_name, each = f"{group}-s{number}", config.with_(seed=number)
        head = f"[{place}/{len(numbers)}] {run_name}: {label}, seed {number}"
        say = lambda how, head=head: console.print(head + how, markup=False, soft_wrap=True)  # noqa: E731
        try:
            ended.append(selection.done(root, run_name, each, group, drive_it, say))
        except selection.Stopped:
            again = f"nothing is lost; the same command with --name {group} goes on from there"
            console.print(f"{run_name} did not finish, {again}", markup=False, soft_wrap=True)
            code = 1
            break
    told = terminal.spread(ended)
    if ended:
        console.print(terminal.trained_table(told))
    if as_json:
        print(json.dumps(told))
    raise typer.Exit(code)


def import_pt_(
    file: Annotated[Path, typer.Argument(help="A checkpoint that torch.save wrote: cifar10_model.pt ...")],
    genotype: Annotated[str, typer.Option("--genotype", metavar="NAME|FILE", help="The cell it is of.")],
    layout: Annotated[str, typer.Option("--layout", help="cifar, imagenet or ptb.")] = "cifar",
    out: Annotated[Path | None, typer.Option("--out", help="File to write (default: FILE.safetensors).")] = None,
) -> None:
    """Turn a released checkpoint into safetensors. Nothing in the file is run, whatever it holds.

    [dim]Then: evaluate --weights FILE.safetensors, or predict --weights FILE.safetensors image.png[/dim]
    """
    cell, label = cell_named(recurrent_namesake(genotype) if layout == "ptb" else genotype)
    target = out or file.with_suffix(".safetensors")
    if not target.absolute().parent.is_dir():
        raise BadInput(target, "out", "its folder does not exist", f"make {target.parent} first")
    from darts_core.import_pt import import_pt

    data = import_pt(file, cell, label, layout)
    io.atomic_write(target.absolute(), data)
    console.print(f"wrote {target} ({len(data):,} bytes)", markup=False, soft_wrap=True)
    words = shlex.join(["evaluate", "--weights", str(target), "--path"])
    of = {"cifar": "the folder of CIFAR-10", "imagenet": "ImageNet's", "ptb": "that of Penn Treebank"}[layout]
    what = "perplexity" if layout == "ptb" else "error"
    said = f"its test {what}: python -m darts_core {words} FOLDER   ({of})"
    console.print(said, markup=False, soft_wrap=True)


def predict(
    image: Annotated[list[Path], typer.Argument(help="Image files.")],
    run: Annotated[str | None, typer.Option("--run", help="An evaluation whose network to ask.")] = None,
    weights: Annotated[Path | None, typer.Option("--weights", help="Or a file with a network's weights.")] = None,
    runs: Runs = None,
    as_json: Json = False,
) -> None:
    """Ask a trained network what is on an image."""
    if (run is None) == (weights is None):
        raise BadInput("predict", "", "needs --run or --weights, and not both", "for example --run NAME cat.png")
    from darts_core.model_file import Model, best_guess, load, of_run, usable

    root = runs_root(runs)
    model = Model(*of_run(RunReader(root, run))) if run else usable(load(str(weights)), str(weights))
    told = {str(path): model.predict(path) for path in image}
    for path, found in told.items():
        console.print(f"{path}: {best_guess(found)}", markup=False, soft_wrap=True)
    if as_json:
        print(json.dumps(told))


def select(
    name: Annotated[str, typer.Option("--name", help="What to call it; all its runs begin with this.")],
    preset: Annotated[str, typer.Option("--preset", help="Of the searches.")] = "laptop",
    dataset: Annotated[str | None, typer.Option("--dataset", help="As for a search.")] = None,
    path: Annotated[str | None, typer.Option("--path", help="Folder or file of the data set.")] = None,
    seeds: Annotated[str, typer.Option("--seeds", help="Of the searches: 0-3, or 0,3,7.")] = "0-3",
    train: Annotated[str, typer.Option("--train", help=f"Of the trainings: {', '.join(EVALUATIONS)}.")] = "quick",
    brief: Annotated[
        int | None,
        typer.Option("--brief", help="Epochs of short trainings (default: a sixth of the full, 6 or more).", min=1),
    ] = None,
    full: Annotated[
        int | None, typer.Option("--full", help="Epochs of the full ones (default: as --train has it).", min=1)
    ] = None,
    repeats: Annotated[int, typer.Option("--repeats", help="Full trainings of the chosen cell.", min=1)] = 3,
    set_: Annotated[
        list[str] | None, typer.Option("--set", metavar="NAME=VALUE", help="Change a setting of the searches.")
    ] = None,
    set_train: Annotated[
        list[str] | None, typer.Option("--set-train", metavar="NAME=VALUE", help="And one of the trainings.")
    ] = None,
    out: Annotated[Path, typer.Option("--out", help="Folder for NAME.json and NAME.svg.")] = Path("."),
    runs: Runs = None,
    as_json: Json = False,
) -> None:
    """The paper's protocol: search with several seeds, train each cell briefly, choose on validation, train fully.

    [dim]The best of as many random cells goes through the same. Interrupted? The same command goes on.[/dim]
    """
    if not out.is_dir():
        raise BadInput(out, "out", "is not there", "make the folder first")
    if train not in EVALUATIONS:
        raise unknown("select", "train", train, EVALUATIONS)
    flags = {key: value for key, value in (("dataset", dataset), ("path", path)) if value is not None}
    alone = {"retrain_epochs": 0, "random_cells": 0}  # what is trained here is trained below
    config = preset_named(preset).config(**{**alone, **flags, **assignments(set_)}).there()
    of_text = config.of_text and train == "quick"  # as `evaluation_config` takes it
    whole = full or EVALUATIONS["text" if of_text else train].config().epochs
    plan = selection.Plan(
        name, config, seed_numbers(seeds), train, brief or selection.usual_brief(whole), whole, repeats,
        assignments(set_train),
    )  # fmt: skip
    say = lambda words: console.print(words, markup=False, soft_wrap=True)  # noqa: E731
    try:
        found = selection.select(runs_root(runs), plan, in_turn(), say)
    except selection.Stopped as stopped:
        say(str(stopped))
        raise typer.Exit(1) from None
    measure = measure_of(Genotype.from_json(found["kinds"]["searched"]["genotype"]))
    console.print(chosen_table(found, measure))
    say(selection.told_apart(found, measure))
    for file in selection.keep(found, out):
        say(f"wrote {file}")
    if as_json:
        print(json.dumps(found))


def zoo_(as_json: Json = False) -> None:
    """List the released cells that --genotype knows by name: sizes of their networks, source, published results."""
    if as_json:
        cells = {name: found.genotype.to_json() for name, found in zoo().items()}
        print(json.dumps({name: asdict(found) | {"genotype": cells[name]} for name, found in zoo().items()}))
        return
    for table in released():
        console.print(table)
    sizes = "; ".join(f"{name}: {what}" for name, what in NETWORKS.items())
    console.print(
        f"Parameters are counted here, an auxiliary head left out ({sizes}). Errors (%) and perplexities are "
        "those of the papers; nothing of them was measured here.",
        markup=False,
    )


def released() -> list[Table]:
    """The released cells for people, those for images and those for text apart."""
    tables = []
    for kinds in (("cifar", "imagenet"), ("ptb",)):
        heads = [Column(f"{kind} parameters", justify="right", min_width=10) for kind in kinds]
        results = "published error" if "cifar" in kinds else "published perplexity"
        table = Table(Column("name", no_wrap=True), *heads, results, "what it is, and source", box=None)
        for found in zoo().values():
            if kinds[0] in found.parameters:
                counts = [f"{found.parameters[kind]:,}" for kind in kinds]
                errors = ", ".join(f"{_plainly(name)} {value:g}" for name, value in found.errors.items())
                table.add_row(found.name, *counts, errors, f"{found.title} ({found.source})")
        tables.append(table)
    return tables


def _plainly(name: str) -> str:
    """The name of a published result for people: "imagenet_top1_error" is "imagenet top-1"."""
    words = name.removesuffix("_error").removesuffix("_perplexity").replace("_", " ")
    return words.replace("top1", "top-1").replace("top5", "top-5")


def in_turn() -> selection.Run:
    """How one of several runs is driven: what all have in common is said with the first."""
    places = itertools.count()
    return lambda writer, config: terminal.run(writer, config, False, quiet=False, place=next(places))


def chosen_table(found: Mapping[str, Any], measure: Measure) -> Table:
    """What a selection found, for people: every cell, and what the chosen ones reach."""
    name = measure.name
    table = Table("", f"validation {name}, briefly trained", f"test {name}, fully trained", "parameters", box=None)
    for told in found["kinds"].values():
        for place, row in enumerate(told["brief"]):
            picked = place == told["chosen"]
            mean = f"{measure.words(told['mean'])} ± {measure.factor * told['std']:.2f} ({len(told['test'])})"
            table.add_row(
                row["cell"] + (", chosen" if picked else ""), measure.words(row["validation"]), mean if picked else "",
                f"{row['parameters']:,}",
            )  # fmt: skip
    return table


def tested(weights: Path, dataset: str | None, path: str | None, changes: Mapping[str, str]) -> dict[str, Any]:
    """The error, or of a language model the perplexity, of a file's network on test data, with what its authors say of
    it ("said": lines for people).

    Raises:
        BadInput: the file is no network, or the data set has other classes or words.
    """
    from darts_core import language_file
    from darts_core.model_file import load, tested_on, usable

    model = load(weights)
    chosen = dataset or str(model.card.facts.get("dataset", ""))
    if not chosen:
        raise BadInput("evaluate", "--dataset", "is needed: the file does not say what it was trained on", "name it")
    columns = "test_columns" if isinstance(model, language_file.LanguageFile) else ""
    for name in changes:
        if name != columns:
            fix = "leave it out" if not columns else f"only {columns} can be set here"
            raise BadInput("evaluate", name, "changes nothing where nothing is trained", fix)
    if isinstance(model, language_file.LanguageFile):
        number = int(str(settings_of(EVALUATE)[columns].check(changes.get(columns, 1))))
        found = language_file.tested_on(model, chosen, path, number)
        read = f"{found['count']:,} tokens of {chosen}, read in {number} column{'s' if number > 1 else ''}"
        said = [
            f"test perplexity {found['perplexity']:.2f} ({read})",
            f"divided as the original does: {found['perplexity_as_original']:.2f}",
        ]
    else:
        found = tested_on(usable(model, str(weights)), chosen, path)
        said = [f"test error {100 * (1 - found['accuracy']):.2f} % on {chosen} ({found['count']:,} images)"]
        found = {"error": 1 - found["accuracy"], **found}
        if "top5" in found:
            said[0] += f", top-5 error {100 * (1 - found['top5']):.2f} %"
    if model.card.note:
        said.append(model.card.note)
    return {"dataset": chosen, **found, "note": model.card.note, "said": said}


def about_text(preset: str, dataset: str | None) -> bool:
    """Is an evaluation with this preset and data set (None: the preset's own) about a text?"""
    named = dataset or (EVALUATIONS[preset].values.get("dataset", "") if preset in EVALUATIONS else "")
    return catalogue()["datasets"].get(named, {}).get("kind") == "text"


def chosen(
    root: Path, genotype: str | None, run: str | None, text: bool = False
) -> tuple[Genotype, str, dict[str, Any]]:
    """The cell that was asked for, what to call it, and the settings of the search that found it.

    Args:
        text: names are those of recurrent cells.

    Raises:
        BadInput: neither or both were asked for, or there is no such cell.
    """
    if (genotype is None) == (run is None):
        raise BadInput("evaluate", "", "needs --genotype or --run, and not both", "for example --genotype DARTS_V2")
    if run is None:
        if text:
            return *cell_named(recurrent_namesake(str(genotype)), "darts-rnn"), {}
        return *cell_named(str(genotype)), {}
    reader = RunReader(root, run)
    cell = genotype_of(reader, None)
    return cell, f"cell of {run}", settings_from(reader.info["config"], cell)
