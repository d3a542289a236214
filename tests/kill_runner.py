"""Runs a search in forked children that are killed at random moments and resumed, until it is complete. Prints JSON.

Forked from a process that has imported torch already, so that fifty starts take seconds. Used by test_kill_search.py.
"""

from __future__ import annotations

import json
import os
import random
import signal
import sys
import time
from pathlib import Path

import torch

from darts_core import drive, strategies  # noqa: F401  (imported before the forks)
from darts_core.config import SearchConfig
from darts_core.drive import new_run
from darts_core.runs import RunReader, RunWriter

CONFIG = {
    "dataset": "digits", "space": "tiny", "cells": 3, "reductions": "middle", "channels": 2, "stem_multiplier": 1,
    "stem_stride": 2, "batch": 50, "arch_batch": 50, "train_portion": 0.17, "epochs": 6, "a_lr": 0.1, "w_lr": 0.05,
    "w_decay": 0.01, "skip_dropout": 0.2, "hessian_every": 3, "retrain_epochs": 1, "random_cells": 1, "threads": 1,
}  # fmt: skip


def child(root: Path, name: str) -> int:
    """Start or resume the run in a forked process; the pid."""
    pid = os.fork()
    if pid:
        return pid
    code = 70
    try:
        config = SearchConfig.from_dict(CONFIG)
        there = (root / name / "run.json").is_file()
        writer = RunWriter.open(root, name) if there else new_run(root, name, config, ["test"])
        code = drive.drive(writer, config)
    finally:
        os._exit(code)


def main() -> None:
    root, kills, base = Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])
    torch.set_num_threads(1)
    began = time.monotonic()
    _, code = os.waitpid(child(root, "whole"), 0)
    seconds = time.monotonic() - began
    rng, made, lost, runs, bad = random.Random(base), 0, 0, 0, [] if code == 0 else ["the uninterrupted run failed"]
    while made < kills:
        name, recorded, done = f"killed-{runs}", 0, False
        runs += 1
        while not done:
            pid = child(root, name)
            end = time.monotonic() + (rng.uniform(0.02, 0.5 * seconds) if made < kills else 600)
            while time.monotonic() < end and not done:
                done = os.waitpid(pid, os.WNOHANG)[0] == pid
                time.sleep(0.002)
            if not done:
                os.kill(pid, signal.SIGKILL)
                os.waitpid(pid, 0)
                made += 1
            if (root / name / "run.json").is_file():
                count = RunReader(root, name).step_count()
                lost += max(0, recorded - count)
                recorded = count
        status = RunReader(root, name).status()
        if status.state != "finished":
            bad.append(f"{name}: {status.state} {status.message}")
    print(json.dumps({"kills": made, "runs": runs, "lost": lost, "bad": bad, "seconds": seconds}))


if __name__ == "__main__":
    main()
