"""A run as the command that makes it again."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from typing import Any

from darts_core.config import PRESETS


def reproduction(info: Mapping[str, Any]) -> str:
    """The command that makes a run again on another machine: the nearest preset and what differs from it.

    A branch is said as the branch of its parent that it is. Orders given while it ran are not in it; `repeat` has them.
    """
    config = info["config"]
    free = ("threads", "device", "backend", "pace")
    near: dict[str, dict[str, Any]] = {}
    for name, choice in PRESETS.items():
        usual = choice.config().to_dict()
        near[name] = {key: value for key, value in config.items() if key not in free and usual.get(key) != value}
    preset = min(near, key=lambda name: len(near[name]))
    changed = [part for key, value in near[preset].items() for part in ("--set", f"{key}={_typed(value)}")]
    if info["parent"]:
        parent = info["parent"]
        start = ["branch", str(parent["run"]), "--epoch", str(parent["epoch"])]
        return shlex.join(["python", "-m", "darts_core", *start, *_branch_changes(info, changed)])
    return shlex.join(["python", "-m", "darts_core", "search", "--preset", preset, *changed])


def _branch_changes(info: Mapping[str, Any], otherwise: list[str]) -> list[str]:
    """The settings that a branch was started with, as its own command line has them."""
    command = [str(part) for part in info["command"]]
    given = [part for at, part in enumerate(command) if part == "--set" or (at and command[at - 1] == "--set")]
    return given if "branch" in command else otherwise


def _typed(value: Any) -> str:
    """A setting's value as the command line reads it."""
    return str(value).lower() if isinstance(value, bool) else str(value)
