"""A run as the command that makes it again."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from typing import Any

from darts_core.config import EVALUATE, PRESETS, SearchConfig
from darts_core.evaluation import EVALUATIONS, evaluation_config
from darts_core.zoo import GIVEN, zoo


def reproduction(info: Mapping[str, Any]) -> str:
    """The command that makes a run again on another machine: the nearest preset and what differs from it.

    A branch is said as the branch of its parent that it is. Orders given while it ran are not in it; `repeat` has them.
    """
    config = info["config"]
    if config.get("strategy") == EVALUATE:
        command, usual = _evaluation(config)
    else:
        command, usual = ["search"], {name: choice.config().to_dict() for name, choice in PRESETS.items()}
    free = ("threads", "device", "backend", "pace")
    near = {
        name: {key: value for key, value in config.items() if key not in free and values.get(key) != value}
        for name, values in usual.items()
    }
    preset = min(near, key=lambda name: len(near[name]))
    changed = [part for key, value in near[preset].items() for part in ("--set", f"{key}={_typed(value)}")]
    if info["parent"]:
        parent = info["parent"]
        start = ["branch", str(parent["run"]), "--epoch", str(parent["epoch"])]
        return shlex.join(["python", "-m", "darts_core", *start, *_branch_changes(info, changed)])
    return shlex.join(["python", "-m", "darts_core", *command, "--preset", preset, *changed])


def _evaluation(config: Mapping[str, Any]) -> tuple[list[str], dict[str, dict[str, Any]]]:
    """The command that trains this cell, and what each preset would make of it."""
    cell = SearchConfig.from_dict(config, "run").genotype()
    known = next((name for name, entry in zoo().items() if entry.genotype == cell), str(config["genotype"]))
    label = known if known in zoo() else GIVEN
    told = {"dataset": config["dataset"]}  # as if asked for by a flag: `quick` depends on it
    usual = {name: evaluation_config(name, cell, label, told).to_dict() for name in EVALUATIONS}
    return ["evaluate", "--genotype", known, "--dataset", str(config["dataset"])], usual


def _branch_changes(info: Mapping[str, Any], otherwise: list[str]) -> list[str]:
    """The settings that a branch was started with, as its own command line has them."""
    command = [str(part) for part in info["command"]]
    given = [part for at, part in enumerate(command) if part == "--set" or (at and command[at - 1] == "--set")]
    return given if "branch" in command else otherwise


def _typed(value: Any) -> str:
    """A setting's value as the command line reads it."""
    return str(value).lower() if isinstance(value, bool) else str(value)
