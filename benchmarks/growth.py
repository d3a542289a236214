"""How the cost of a weight step grows with the batch, the channels, the cells, the image and the operations.

    python benchmarks/growth.py [--backend compiled] [--repeats 3] [--json]

One setting is changed at a time, doubling, around a small search. Time is CPU time of the process (median), memory the
peak of a process of its own above what it held before. The last column is the exponent between the last two rows:
1.0 means that twice as much costs twice as much.
"""

from __future__ import annotations

import argparse
import json
import math
import statistics
import subprocess
import sys
import time
from typing import Any

import torch
from search_step import Size, images, resident

from darts_core.config import SETTINGS, SearchConfig
from darts_core.search.bilevel import Host, Search
from darts_core.strategies import STRATEGIES
from darts_core.tasks import ImageTask

BASE = {"batch": 32, "channels": 8, "cells": 5, "side": 16, "space": "darts"}
AXES: dict[str, tuple[Any, ...]] = {
    "batch": (16, 32, 64, 128),
    "channels": (8, 16, 32),
    "cells": (5, 10, 20),
    "side": (8, 16, 32),
    "space": ("s2", "tiny", "darts"),
}
AMOUNT = {  # what should be linear in time: numbers that the operations work on
    "batch": lambda v: v,
    "channels": lambda v: v * v,  # pointwise products; depthwise ones are linear, so the exponent lies below 1
    "cells": lambda v: v,
    "side": lambda v: v * v,
    "space": lambda v: {"s2": 2, "tiny": 3, "darts": 8}[v],
}


def prepared(setting: dict[str, Any], backend: str) -> tuple[Search, Any]:
    """A search with this setting before its first step, and its weight batch."""
    size = Size(setting["channels"], setting["cells"], (3, setting["side"]), setting["batch"], 1)
    config = SearchConfig.from_dict(
        {
            "channels": size.channels, "cells": size.cells, "batch": size.batch, "augment": False,
            "backend": backend, "space": setting["space"], "nodes": 4,
        }
    )  # fmt: skip
    task = ImageTask(config, images(size))
    return Search(STRATEGIES["darts"].factory, task, config, Host()), task.batch("weights", 0, 0)


def seconds_of(setting: dict[str, Any], backend: str, repeats: int) -> float:
    """Median CPU seconds of a weight step, after one that is not counted."""
    search, batch = prepared(setting, backend)
    found = []
    for turn in range(repeats + 1):
        began = time.process_time()
        search.weight_step(batch, {})
        if turn:
            found.append(time.process_time() - began)
    return statistics.median(found)


def megabytes_of(setting: dict[str, Any], backend: str) -> float:
    """Peak memory of two weight steps in a fresh process, above what it held before, MB."""
    command = [sys.executable, __file__, "--backend", backend, "--weigh", json.dumps(setting)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return float(done.stdout.strip().splitlines()[-1])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--backend", default="auto", choices=SETTINGS["backend"].choices)
    parser.add_argument("--axis", action="append", choices=list(AXES), help="default: all")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--json", action="store_true", help="last line: {axis: {value: [seconds, megabytes]}}")
    parser.add_argument("--weigh", help=argparse.SUPPRESS)
    asked = parser.parse_args()
    torch.set_num_threads(1)
    if asked.weigh:
        search, batch = prepared(json.loads(asked.weigh), asked.backend)
        before = resident()["VmRSS"]
        for _ in range(2):
            search.weight_step(batch, {})
        print(resident()["VmHWM"] - before)
        return
    found: dict[str, dict[str, list[float]]] = {}
    for axis in asked.axis or AXES:
        found[axis] = {}
        last: tuple[float, float] | None = None
        for value in AXES[axis]:
            setting = {**BASE, axis: value}
            seconds, memory = seconds_of(setting, asked.backend, asked.repeats), megabytes_of(setting, asked.backend)
            found[axis][str(value)] = [seconds, memory]
            amount = AMOUNT[axis](value)
            grown = ""
            if last is not None:
                grown = f"exponent {math.log(seconds / last[1]) / math.log(amount / last[0]):.2f}"
            last = amount, seconds
            print(f"{axis:9s} {value!s:>6s} {1e3 * seconds:9.1f} ms {memory:7.0f} MB   {grown}", flush=True)
    if asked.json:
        print(json.dumps(found))


if __name__ == "__main__":
    main()
