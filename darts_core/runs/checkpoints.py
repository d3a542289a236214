"""Checkpoint files: their names, whether their bytes are those that were saved, and which may go when room is short."""

from __future__ import annotations

import re
from collections.abc import Collection, Sequence
from pathlib import Path

from darts_core import io
from darts_core.errors import BadInput
from darts_core.events import Checkpoint
from darts_core.runs.records import CHECKPOINTS

NAME = re.compile(r"e[0-9]{4,6}\.safetensors|s[0-9]{8,10}\.safetensors")
LIMIT = 2 << 30  # bytes of one file


def epoch_file(epochs: int) -> str:
    """Name of the checkpoint after so many finished epochs."""
    return f"e{epochs:04d}.safetensors"


def step_file(step: int) -> str:
    """Name of a checkpoint after `step` steps, in the middle of an epoch."""
    return f"s{step:08d}.safetensors"


def by_step(event: Checkpoint) -> tuple[int, str]:
    """For sorting."""
    return event.step, event.file


def sound(folder: Path, event: Checkpoint) -> bytes:
    """The bytes of the checkpoint that `event` tells of, of the length and SHA-256 it says; else BadInput."""
    path = folder / CHECKPOINTS / event.file
    if not NAME.fullmatch(event.file):
        raise BadInput(path, "", "this is not the name of a checkpoint", "take another copy of the run")
    data = io.read_bytes(path, min(LIMIT, max(event.bytes, 0)))
    if len(data) != event.bytes:
        raise BadInput(path, "", f"it is damaged: {len(data):,} of {event.bytes:,} bytes", "use an earlier checkpoint")
    if io.sha256(data) != event.sha256:
        raise BadInput(path, "", "it is damaged: its SHA-256 is not the one recorded", "use an earlier checkpoint")
    io.check_tensors(data, path)
    return data


def superfluous(there: Sequence[Checkpoint], budget: int, pinned: Collection[str]) -> list[Checkpoint]:
    """Which of the checkpoints, in order of steps, are to go so that the rest take at most `budget` bytes.

    Every second old one goes, then every second of the rest; the first, the last two and `pinned` files stay, so that
    the rest may still take more.
    """
    excess = sum(event.bytes for event in there) - budget
    stay = {*(event.file for event in (*there[:1], *there[-2:])), *pinned}
    old = [event for event in there if event.file not in stay]
    gone: list[Checkpoint] = []
    while excess > 0 and old:
        for event in old[::2]:
            if excess > 0:
                gone.append(event)
                excess -= event.bytes
        old = old[1::2]
    return gone
