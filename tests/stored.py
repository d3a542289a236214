"""A toy search for the tests of the run store: its state is one float array, a step is a hash of state and settings.

`python -m tests.stored ROOT NAME TOTAL PER_EPOCH` runs or resumes it and prints each step once it is recorded.
"""

from __future__ import annotations

import json
import os
import struct
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from darts_core import runs
from darts_core.events import Applied, Checkpoint, Epoch, Finished, Phase, Result, Step
from darts_core.runs import RunWriter
from darts_core.space import CellSpec, SearchSpace

CELL = CellSpec(2, 1, ("skip_connect", "sep_conv_3x3"), ((0, 2), (1, 2)), ((True, True), (True, True)), 2, (2,))
SPACE = SearchSpace("toy", {"normal": CELL})
LAYOUT = runs.Layout.of(("train_loss", "w_lr"), SPACE)
RECORD = LAYOUT.dtype.itemsize  # bytes
PER_EPOCH = 4  # steps
HEADER = 4096  # bytes
COLLAPSE = {"derived_skips": 0, "derived_edges": 2, "mean_skip_weight": 0.5, "level": "healthy"}


def info(**more: Any) -> dict[str, Any]:
    return {"layout": LAYOUT.to_json(), "config": {"strategy": "toy", "dataset": "dust"}, "epochs": 3, **more}


def following(state: np.ndarray, rate: float, step: int) -> np.ndarray:
    """(2, 2) float64, the state after one more step: exact in bits, and different for another rate."""
    return np.sin(state * 1.7 + step) + rate


def step_of(state: np.ndarray, rate: float, step: int, per_epoch: int = PER_EPOCH) -> Step:
    alphas = state.astype(np.float32)
    mix = np.abs(alphas) / np.abs(alphas).sum(-1, keepdims=True)
    metrics = {"train_loss": float(state[0, 0]), "w_lr": rate}
    return Step(step, (step - 1) // per_epoch, 0, 1, metrics, {"normal": alphas}, {"normal": mix})


def steps(count: int, first: int = 1) -> list[Step]:
    """Any `count` steps."""
    state, found = np.ones((2, 2)), []
    for number in range(1, first + count):
        state = following(state, 0.1, number)
        found.append(step_of(state, 0.1, number))
    return found[first - 1 :]


def to_bytes(state: np.ndarray, rate: float) -> bytes:
    """A safetensors file."""
    entry = {"dtype": "F64", "shape": list(state.shape), "data_offsets": [0, state.nbytes]}
    header = json.dumps({"__metadata__": {"rate": repr(rate)}, "state": entry}).encode()
    return struct.pack("<Q", len(header)) + header + state.tobytes()


def from_bytes(data: bytes) -> tuple[np.ndarray, float]:
    length = struct.unpack("<Q", data[:8])[0]
    rate = float(json.loads(data[8 : 8 + length])["__metadata__"]["rate"])
    return np.frombuffer(data[8 + length :]).reshape(2, 2).copy(), rate


def drive(
    writer: RunWriter,
    total: int,
    until: int | None = None,
    kick: int = 0,
    per_epoch: int = PER_EPOCH,
    tell: Callable[[int], object] = lambda step: None,
) -> None:
    """Runs or goes on with the toy search; `until`: leave like a killed process after that step.

    `kick`: the state is disturbed before that step, as another machine might. `tell`: called once a step is recorded.
    """
    found = writer.last_good_checkpoint()
    state, rate = from_bytes(found.data) if found.event else (np.ones((2, 2)), 0.1)
    recorded = {}
    if found.event is not None or writer.step:
        writer.begin_replay(found.step, "1 thread then, 2 now")
        recorded = writer.orders_to_replay(found.step)
    writer.append(Phase("search", "the toy search", total))
    for step in range(found.step + 1, total + 1):
        for order in [*recorded.pop(step - 1, []), *writer.orders()]:
            if order.kind == "set":
                assert isinstance(order.value, float)
                rate = order.value
            epoch = (step - 1) // per_epoch
            writer.append(Applied(order.id, step - 1, order.kind, order.name, order.value, True, "", epoch))
            writer.done(order)
        state = following(state + (1e-3 if step == kick else 0), rate, step)
        writer.append(step_of(state, rate, step, per_epoch))
        tell(step)
        if step % per_epoch == 0:
            mean = {"val_loss": float(state.mean())}
            epoch = step // per_epoch
            writer.append(Epoch(epoch - 1, step, mean, {}, {}, COLLAPSE, time.perf_counter()))
            saved = writer.save_checkpoint(runs.epoch_file(epoch), to_bytes(state, rate), epoch, step)
            assert isinstance(saved, Checkpoint)
        if step == until:
            return
    writer.append(Result(total, total // per_epoch, {}, {"val_loss": float(state.mean())}, False))
    writer.append(Finished("finished", total, {}))


def start(root: Path, name: str, total: int, **more: Any) -> None:
    """A new run of the toy search, driven with `more`."""
    with RunWriter.create(root, name, info()) as writer:
        drive(writer, total, **more)


def resume(root: Path, name: str, total: int, **more: Any) -> RunWriter:
    """Goes on with a run; the closed writer is returned for its `identical` and `message`."""
    with RunWriter.open(root, name) as writer:
        drive(writer, total, **more)
    return writer


def outcome(root: Path, name: str) -> tuple[bytes, dict[str, bytes], list[dict[str, Any]]]:
    """What must not depend on interruptions: records, checkpoints, and what the lines say of the search itself."""
    reader = runs.RunReader(root, name)
    lines = [
        {key: value for key, value in line.items() if key not in ("n", "time", "seconds")}
        for line in reader.events()[0]
        if line["type"] not in ("phase", "resumed", "interrupted", "failure")
    ]
    files = {event.file: reader.read_checkpoint(event.file) for event in reader.checkpoints()}
    return (reader.folder / "steps.bin").read_bytes(), files, lines


def state_of(root: Path, name: str = "whole") -> str:
    return runs.RunReader(root, name).status().state


def lines_of(root: Path, name: str = "whole") -> list[dict[str, Any]]:
    return runs.RunReader(root, name).events()[0]


def steer(root: Path, order: tuple[str, str, float] = ("set", "w_lr", 0.3)) -> str:
    """An order to the run "a"; its name."""
    return runs.send_order(root, "a", order[0], name=order[1], value=order[2])


def main() -> None:
    root, name, total, per_epoch = Path(sys.argv[1]), sys.argv[2], int(sys.argv[3]), int(sys.argv[4])
    writer = RunWriter.open(root, name) if (root / name).exists() else RunWriter.create(root, name, info())
    with writer:
        drive(writer, total, per_epoch=per_epoch, tell=lambda step: os.write(1, f"{step}\n".encode()))


if __name__ == "__main__":
    main()
