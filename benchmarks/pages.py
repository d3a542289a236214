"""How long a folder of many long runs takes: to list it, and to draw the Runs page and a comparison of six of them.

    python benchmarks/pages.py [--runs 100] [--steps 10000] [--json]

One generated run (the DARTS space, 944 bytes a step, an event line per 40 steps) is written through the run store and
stands there under many names. "cold": the first look of a process. Pages are run as scripts, as a visitor's visit does.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))


def fill(folder: Path, count: int, steps: int) -> None:
    """`count` runs of `steps` steps; records and events are links to one file each, which readers cannot tell."""
    from tests import fake_writer

    fake_writer.write(folder, "run-000", steps=steps, rate=0, space="darts", nodes=4)
    first = folder / "run-000"
    info = json.loads((first / "run.json").read_text())
    for number in range(1, count):
        there = folder / f"run-{number:03d}"
        there.mkdir(mode=0o700)
        for file in ("steps.bin", "events.jsonl"):
            os.link(first / file, there / file)
        told = info | {"name": there.name, "created": info["created"] + number, "seed": number}
        told["config"] = info["config"] | {"seed": number}
        (there / "run.json").write_text(json.dumps(told))


def seconds(work) -> float:  # type: ignore[no-untyped-def]
    began = time.perf_counter()
    work()
    return time.perf_counter() - began


def measure(count: int, steps: int) -> dict[str, float]:
    """Seconds of each look."""
    with tempfile.TemporaryDirectory() as root:
        folder = Path(root) / "runs"
        fill(folder, count, steps)
        os.environ["DARTS_RUNS"] = str(folder)
        from streamlit.testing.v1 import AppTest

        from darts_core import runs

        found = {"list, cold": seconds(lambda: runs.list_runs(folder))}
        found["list, warm"] = seconds(lambda: runs.list_runs(folder))

        def visit(page: str, **query: str) -> float:
            test = AppTest.from_file(str(ROOT / "app" / "dashboard.py"), default_timeout=120)
            test.switch_page(f"app_pages/{page}.py")
            for key, value in query.items():
                test.query_params[key] = value
            taken = seconds(test.run)
            assert not test.exception, test.exception
            return taken

        visit("learn")  # imports and Streamlit's own first run are not what is asked here
        found["Runs page, cold"] = visit("runs")
        found["Runs page, warm"] = visit("runs")
        six = ",".join(f"run-{number:03d}" for number in range(min(6, count)))
        found["Compare six, cold"] = visit("compare", runs=six)
        found["Compare six, warm"] = visit("compare", runs=six)
    return found


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--runs", type=int, default=100)
    parser.add_argument("--steps", type=int, default=10_000)
    parser.add_argument("--json", action="store_true")
    asked = parser.parse_args()
    found = measure(asked.runs, asked.steps)
    if asked.json:
        print(json.dumps({"runs": asked.runs, "steps": asked.steps, **found}))
        return
    print(f"{asked.runs} runs of {asked.steps:,} steps")
    for name, taken in found.items():
        print(f"  {name:20s} {taken:6.2f} s")


if __name__ == "__main__":
    main()
