"""Runs as folders that take room: how much, what is in the trash, and bringing a run back from it."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import NamedTuple

from darts_core import io
from darts_core.errors import BadInput
from darts_core.runs.reading import existing, folders
from darts_core.runs.records import RUN
from darts_core.runs.writing import TRASH, NameTaken

TRASHED = re.compile(r"([a-z0-9][a-z0-9_-]{0,63})-([0-9]{12,20})")


class Trashed(NamedTuple):
    """A run in the trash: the name of its folder there, its own name, and when it was put there (unix seconds)."""

    folder: str
    name: str
    when: float


def disk_bytes(root: str | Path, name: str) -> int:
    """Bytes of all files of a run, checkpoints and tails included; links are not followed. BadInput: no such run."""
    total, waiting = 0, [existing(Path(root), name)]
    while waiting:
        try:
            entries = list(os.scandir(waiting.pop()))
        except OSError:  # moved away meanwhile, or not ours to read
            continue
        for entry in entries:
            if entry.is_dir(follow_symlinks=False):
                waiting.append(Path(entry.path))
            elif entry.is_file(follow_symlinks=False):
                total += entry.stat(follow_symlinks=False).st_size
    return total


def trashed(root: str | Path) -> list[Trashed]:
    """What `trash` has put away, the newest first."""
    found = []
    for folder in folders(Path(root) / TRASH):
        match = TRASHED.fullmatch(folder)
        if match and (Path(root) / TRASH / folder / RUN).is_file():
            found.append(Trashed(folder, match[1], int(match[2]) / 1e9))
    return sorted(found, key=lambda entry: -entry.when)


def restore(root: str | Path, folder: str) -> str:
    """Brings a run back from the trash under its own name, which is returned.

    Raises:
        BadInput: it is not in the trash, or another run has its name by now (then nothing is moved).
    """
    entry = next((entry for entry in trashed(root) if entry.folder == folder), None)
    if entry is None:
        raise BadInput("trash", "folder", "there is no such run in the trash", "reload the page")
    target = Path(root) / io.safe_name(entry.name)
    if os.path.lexists(target):
        what = f"{entry.name} is the name of a run already"
        raise NameTaken(Path(root), "name", what, "delete or rename that run first")
    with io.told(Path(root)):
        os.rename(Path(root) / TRASH / entry.folder, target)
    return entry.name
