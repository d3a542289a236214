"""A stand-in for a search, for tests of the pages alone: writes a run through RunWriter, quickly and without torch.

    python -m tests.fake_writer RUNS NAME [--steps 400] [--rate 20] [--fail-at N] [--die-at N]

Its numbers drift toward skip connections on purpose; they say nothing about DARTS. It takes orders like a search.
"""

from __future__ import annotations

import argparse
import os
import signal
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np

from darts_core import derive, events, runs
from darts_core.config import PRESETS
from darts_core.seeds import seed

METRICS = ["train_loss", "train_accuracy", "val_loss", "val_accuracy", "w_lr", "a_lr", "w_grad_norm", "a_grad_norm"]
PER_EPOCH = 40


def info(name: str, steps: int, changes: dict[str, Any] | None = None) -> dict[str, Any]:
    config = PRESETS["collapse"].config(**(changes or {}))
    space = config.search_space()
    shapes = {kind: [len(cell.edges), len(cell.ops)] for kind, cell in space.cells.items()}
    tensors = [[f"{what}.{kind}", shape] for what in ("alpha", "mix") for kind, shape in shapes.items()]
    return {
        "schema": 1,
        "name": name,
        "title": f"Test run {name}",
        "config": config.to_dict(),
        "space": space.to_json(),
        "seed": config.seed,
        "total_steps": steps,
        "epochs": steps // PER_EPOCH,
        "parent": None,
        "versions": {"python": sys.version.split()[0]},
        "commit": None,
        "device": "cpu",
        "threads": 1,
        "cpu": "test",
        "ranks": 1,
        "deterministic": True,
        "created": time.time(),
        "command": ["python", "-m", "tests.fake_writer"],
        "layout": {"metrics": METRICS, "tensors": tensors},
    }


def step_of(number: int, steps: int, space: Any, rates: dict[str, float]) -> events.Step:
    """Step `number` (from 1): random logits, and skip connections that win as time goes by."""
    alphas, mixes = {}, {}
    for kind, cell in space.cells.items():
        logits = np.random.default_rng(seed(7, kind)).normal(0, 1, cell.shape) * min(1.0, number / 80)
        logits[:, cell.ops.index("skip_connect")] += 4 * max(0.0, number / steps - 0.2)
        logits = np.where(cell.legal_array(), logits, -np.inf)
        mix = np.exp(logits - logits.max(-1, keepdims=True))
        mixes[kind] = (mix / mix.sum(-1, keepdims=True)).astype(np.float32)
        alphas[kind] = np.where(np.isfinite(logits), logits, 0).astype(np.float32)
    fall = 2.3 * np.exp(-number / 150)
    numbers = [fall, 1 - fall / 2.3, fall + 0.1, 0.9 - fall / 3, rates["w_lr"], rates["a_lr"], 1.0, 0.1]
    return events.Step(number, (number - 1) // PER_EPOCH, 0, 1, dict(zip(METRICS, numbers, strict=True)), alphas, mixes)


def write(root: Path, name: str, steps: int, rate: float, fail_at: int = 0, die_at: int = 0, **changes: Any) -> None:
    facts = info(name, steps, changes)
    space = PRESETS["collapse"].config(**changes).search_space()
    rates = {key: float(facts["config"][key]) for key in ("w_lr", "a_lr")}
    with runs.RunWriter.create(root, name, facts) as run:
        run.append(events.Phase("search", "searching", steps))
        number, paused, allowed = 0, False, 0
        mixes: dict[str, np.ndarray] = {}
        while number < steps:
            for order in run.orders():
                accepted, reason = True, ""
                if order.kind in ("pause", "resume"):
                    paused = order.kind == "pause"
                elif order.kind == "step":
                    allowed += 1
                elif order.kind == "set" and order.name in rates:
                    rates[order.name] = float(order.value)  # type: ignore[arg-type]
                elif order.kind == "set":
                    accepted, reason = False, f"{order.name} cannot change while it runs"
                epoch = number // PER_EPOCH
                run.append(
                    events.Applied(order.id, number, order.kind, order.name, order.value, accepted, reason, epoch)
                )
                run.done(order)
                if order.kind == "stop":
                    finish(run, space, mixes, number, "stopped")
                    return
            if paused and not allowed:
                time.sleep(0.02)
                continue
            allowed = max(0, allowed - 1)
            number += 1
            step = step_of(number, steps, space, rates)
            mixes = dict(step.mix)
            run.append(step)
            if number == fail_at:
                run.append(events.Failure(number, f"loss became NaN at step {number}", "Traceback: secret/path.py"))
                return
            if number == die_at:
                os.kill(os.getpid(), signal.SIGKILL)
            if number % PER_EPOCH == 0:
                end_epoch(run, space, mixes, number)
            if rate:
                time.sleep(1 / rate)
        finish(run, space, mixes, number, "finished")


def end_epoch(run: runs.RunWriter, space: Any, mixes: dict[str, np.ndarray], number: int) -> None:
    genotype = derive.derive(space, mixes)
    found = derive.collapse(space, mixes)
    level = {key: getattr(found, key) for key in ("derived_skips", "derived_edges", "mean_skip_weight", "level")}
    probes = {"entropy": derive.entropy(space, mixes), "eigenvalue": 0.1 + number / 1000}
    epoch = number // PER_EPOCH - 1
    run.append(events.Epoch(epoch, number, {"val_accuracy": 0.9}, probes, genotype.to_json(), level, 2.0))
    if found.level == "collapsed" and epoch == 6:
        run.append(events.Alarm(number, epoch, "collapsed", "nearly all derived edges are skip connections"))


def finish(run: runs.RunWriter, space: Any, mixes: dict[str, np.ndarray], number: int, state: Any) -> None:
    cell = derive.derive(space, mixes).to_json()
    run.append(events.Result(number, number // PER_EPOCH, cell, {"val_accuracy": 0.9}, state == "stopped"))
    for role, accuracy in (("derived", 0.931), ("random", 0.942), ("random", 0.958)):
        run.append(events.Trained(role, 0, 0, cell, accuracy))  # type: ignore[arg-type]
    run.append(events.Finished(state, number, {}))


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("runs", type=Path)
    parser.add_argument("name")
    parser.add_argument("--steps", type=int, default=400)
    parser.add_argument("--rate", type=float, default=20)
    parser.add_argument("--fail-at", type=int, default=0)
    parser.add_argument("--die-at", type=int, default=0)
    asked = parser.parse_args()
    write(asked.runs, asked.name, asked.steps, asked.rate, asked.fail_at, asked.die_at)


if __name__ == "__main__":
    main()
