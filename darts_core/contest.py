"""Run a comparison: every method with every seed at one budget, each an ordinary run; goes on where it was interrupted.

The plan is made once and written down: with a budget in seconds each method is timed for a few steps, and the number
of its epochs follows. So every search is fixed by its settings, may be resumed and repeated, and both seconds and steps
are reported as they were.
"""

from __future__ import annotations

import re
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from darts_core import io, tally
from darts_core.config import SearchConfig, options_of, preset_named
from darts_core.drive import drive, new_run
from darts_core.errors import BadInput
from darts_core.reporting import PROGRAM
from darts_core.runs import RunReader, RunWriter, check_name
from darts_core.view.contest import contest_svg

WARM, TIMED = 3, 12  # steps before the clock runs, and under it
LOOK_UP_SECONDS = 0.45  # of one core for one training of a row of the small benchmark (346 s for 780), in place of none


class Budget(NamedTuple):
    """What each search may spend: `amount` of "seconds", "steps" (training steps) or "epochs"; None: its settings."""

    unit: str
    amount: float

    @staticmethod
    def read(text: str | None) -> Budget | None:
        """From "60s", "2m", "400steps" or "40epochs".

        Raises:
            BadInput: it is none of these.
        """
        if text is None:
            return None
        found = re.fullmatch(r"([0-9]{1,7}(?:\.[0-9]{1,3})?)\s*(s|m|h|steps|epochs)", text.strip())
        if not found or float(found[1]) <= 0:
            raise BadInput("compare", "--budget", f"{text[:40]!r} is no budget", "write 60s, 5m, 400steps or 40epochs")
        scale = {"s": 1, "m": 60, "h": 3600}
        if found[2] in scale:
            return Budget("seconds", float(found[1]) * scale[found[2]])
        return Budget(found[2], float(found[1]))


def methods_in(text: str) -> dict[str, dict[str, str]]:
    """Label -> strategy, parts and options, from "darts,pc-darts+beta+eigenvalue-stop:order=2,random:score=table".

    What follows a plus is a part that the method wears, as `search --with`; "pc-darts+beta:beta.weight=10" sets its
    options too.

    Raises:
        BadInput: nothing is named, something twice, or a method or part that there is not.
    """
    found: dict[str, dict[str, str]] = {}
    for word in filter(None, (part.strip() for part in text.split(","))):
        worn, *pairs = word.split(":")
        strategy, *parts = worn.split("+")
        options_of(strategy, ",".join(parts), "compare")  # raises for a name that there is not
        options = {pair.partition("=")[0]: pair.partition("=")[2] for pair in pairs}
        if any("=" not in pair for pair in pairs) or word in found:
            raise BadInput(
                "compare", "--methods", f"{word[:60]!r} is wrong or named twice", "write darts,pc-darts+beta:order=2"
            )
        found[word] = {"strategy": strategy, **({"parts": ",".join(parts)} if parts else {}), **options}
    if not found:
        raise BadInput("compare", "--methods", "names no method", "write for example darts,random")
    return found


def plan(
    name: str,
    methods: Mapping[str, Mapping[str, str]],
    seeds: Sequence[int],
    preset: str,
    changes: Mapping[str, Any],
    budget: Budget | None,
    say: Callable[[str], None],
) -> dict[str, Any]:
    """Every search of the comparison, settings and all. Times each method where the budget is in seconds."""
    base = preset_named(preset).config(**{**changes, "seed": seeds[0]}).there()
    entries = {}
    for label, wanted in methods.items():
        own = options_of(base.strategy, base.parts if "parts" in wanted else "")
        values = {k: v for k, v in base.to_dict().items() if k not in own}
        config = SearchConfig.from_dict({**values, **wanted})
        if budget is not None:
            config = spent(config, budget)
            say(
                f"{label}: {config.epochs} epochs"
                + (f", {config.options['trials']} look-ups" if _looks(config) else "")
            )
        slug = re.sub(r"[^a-z0-9]+", "-", label.lower()).strip("-")
        runs = {str(seed): check_name(f"{name}-{slug}-s{seed}"[:64]) for seed in seeds}
        entries[label] = {"config": config.to_dict(), "runs": runs}
    names = [run for entry in entries.values() for run in entry["runs"].values()]
    if len(set(names)) < len(names):
        raise BadInput("compare", "--methods", "two methods would have runs of one name", "shorten --name")
    return {
        "name": name, "preset": preset, "seeds": list(seeds), "budget": list(budget) if budget else None,
        "settings": base.to_dict(), "methods": entries,
        "command": " ".join([PROGRAM, *sys.argv[1:]])[:500],
    }  # fmt: skip


def _looks(config: SearchConfig) -> bool:
    return config.options.get("score") == "table"


def spent(config: SearchConfig, budget: Budget) -> SearchConfig:
    """The configuration with as many epochs, or look-ups, as the budget allows; at least one."""
    if budget.unit == "epochs":
        return config.with_(epochs=max(1, round(budget.amount)))
    import torch

    from darts_core.exhaustive import Recipe
    from darts_core.tasks import image_task

    task = image_task(config, torch.device("cpu" if config.device == "auto" else config.device))
    per_epoch = task.steps("weights")
    if _looks(config):  # a step is a look-up, and stands for a training
        each = LOOK_UP_SECONDS if budget.unit == "seconds" else Recipe().steps
        count = max(1, int(budget.amount / each))
        return config.with_(trials=count, epochs=max(1, -(-count // per_epoch)))
    steps = budget.amount if budget.unit == "steps" else budget.amount / seconds_per_step(config, task)
    return config.with_(epochs=max(1, round(steps / per_epoch)))


def seconds_per_step(config: SearchConfig, task: Any) -> float:
    """Wall-clock seconds of one training step of this method here, from a few steps that leave no trace."""
    from darts_core.events import Step
    from darts_core.search.host import Host
    from darts_core.strategies import strategy_named

    count, began = 0, 0.0
    for event in strategy_named(config.strategy)(task, config.with_(pace=0.0), Host()):
        count += isinstance(event, Step)
        if count == WARM and not began:
            began = time.perf_counter()
        if count == WARM + TIMED:
            break
    return (time.perf_counter() - began) / max(1, count - WARM) if began else 0.01


def run(plan: Mapping[str, Any], runs: Path, say: Callable[[str], None]) -> tally.Tally:
    """Make or go on with every search of the plan, and write the table after each.

    Raises:
        KeyboardInterrupt: a search was interrupted; calling this again goes on with it.
    """
    todo = [
        (label, seed, entry["runs"][str(seed)], entry["config"])
        for seed in plan["seeds"]
        for label, entry in plan["methods"].items()
    ]
    for number, (label, seed, name, values) in enumerate(todo):
        state = RunReader(runs, name).status().state if (runs / name).is_dir() else ""
        if state in tally.ENDED:
            continue
        config = SearchConfig.from_dict({**values, "seed": seed})
        say(f"{number + 1} of {len(todo)}: {label}, seed {seed}" + (", going on" if state else ""))
        writer = RunWriter.open(runs, name) if state else new_run(runs, name, config, sys.argv, group=plan["name"])
        drive(writer, config)
        status = RunReader(runs, name).status()
        if status.state == "interrupted":
            raise KeyboardInterrupt
        if status.state not in tally.ENDED:
            say(f"{label}, seed {seed} failed: {status.message}")
        write(plan, runs)
    return write(plan, runs)


def write(plan: Mapping[str, Any], runs: Path) -> tally.Tally:
    """The table and the picture, as far as the searches have come."""
    found = tally.tallied(plan["name"], plan, runs)
    folder = tally.place(runs) / plan["name"]
    folder.mkdir(parents=True, exist_ok=True)
    io.atomic_write(folder / tally.TABLE, (io.dumps(found.to_json()) + "\n").encode())
    io.atomic_write(folder / "table.csv", tally.to_csv(found))
    io.atomic_write(folder / "table.md", tally.to_markdown(found))
    io.atomic_write(folder / "plot.svg", contest_svg(found).encode())
    return found


def kept_plan(name: str, runs: Path) -> dict[str, Any] | None:
    """The plan of a comparison that was begun; None where there is none.

    Raises:
        BadInput: it is damaged.
    """
    path = tally.place(runs) / check_name(name) / tally.PLAN
    if not path.is_file():
        return None
    found = io.loads(io.read_bytes(path, io.JSON_LIMIT), path)
    if not isinstance(found, dict) or not {"name", "seeds", "settings", "methods"} <= set(found):
        raise BadInput(path, "", "is not the plan of a comparison", "use another --name")
    return found


def keep_plan(plan: Mapping[str, Any], runs: Path) -> None:
    folder = tally.place(runs) / plan["name"]
    folder.mkdir(parents=True, exist_ok=True)
    io.atomic_write(folder / tally.PLAN, (io.dumps(plan) + "\n").encode())
