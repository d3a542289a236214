"""How long a folder of many long runs takes: to list it, and to draw the Runs page and a comparison of six of them.

    python benchmarks/pages.py [--runs 100] [--steps 10000] [--browser] [--json]

One generated run (the DARTS space, 944 bytes a step, an event line per 40 steps) is written through the run store and
stands there under many names. "cold": the first look of a process. Pages are run as scripts, as a visitor's visit does.
`--browser` looks at the real dashboard in headless Chromium too: seconds from the click on a link to the page drawn.
Beside the seconds on the clock stand those of the processor, which say more on a machine that is busy with other work.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
import time
from collections.abc import Callable
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


def seconds(work: Callable[[], object]) -> tuple[float, float]:
    """On the clock, and of the processor in this process."""
    began, busy = time.perf_counter(), time.process_time()
    work()
    return time.perf_counter() - began, time.process_time() - busy


def measure(count: int, steps: int, browser: bool) -> dict[str, tuple[float, float | None]]:
    """Seconds of each look, on the clock and of the processor."""
    with tempfile.TemporaryDirectory() as root:
        folder = Path(root) / "runs"
        fill(folder, count, steps)
        os.environ["DARTS_RUNS"] = str(folder)
        from streamlit.testing.v1 import AppTest

        from darts_core import runs

        found: dict[str, tuple[float, float | None]] = {}
        found |= {"list, cold": seconds(lambda: runs.list_runs(folder))}
        found["list, warm"] = seconds(lambda: runs.list_runs(folder))

        def visit(page: str, **query: str) -> tuple[float, float]:
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
        if browser:
            found |= in_chromium(folder, six)
    return found


def in_chromium(folder: Path, six: str) -> dict[str, tuple[float, None]]:
    """Seconds on the clock until a page is drawn, the first time and the second, in one tab."""
    from playwright.sync_api import sync_playwright

    from tests.served import serve
    from tests.test_browser_live import FLAGS
    from tools.browser import find

    looks = {
        "Runs in Chromium": ("runs", "[data-testid=stDataFrame] canvas"),
        "Compare six in Chromium": (f"compare?runs={six}", ".lecture .rb-edge"),
        "Live in Chromium": ("?run=run-000", ".darts-board .rb-edge"),
    }
    found: dict[str, tuple[float, None]] = {}
    with serve(folder) as server, sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path=str(find()), args=FLAGS)
        page = chromium.new_page(viewport={"width": 1440, "height": 1000})
        page.goto(server.link)
        page.locator(".darts-board .rb-edge").first.wait_for(timeout=60_000)  # Streamlit's own parts are loaded now
        for how in ("cold", "warm"):
            for name, (path, there) in looks.items():
                began = time.perf_counter()
                page.goto(f"{server.address}/{path}")
                page.locator(there).first.wait_for(timeout=60_000)
                found[f"{name}, {how}"] = time.perf_counter() - began, None
        chromium.close()
    return found


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--runs", type=int, default=100)
    parser.add_argument("--steps", type=int, default=10_000)
    parser.add_argument("--browser", action="store_true", help="the dashboard in headless Chromium too")
    parser.add_argument("--json", action="store_true", help="name -> [seconds on the clock, seconds of the processor]")
    asked = parser.parse_args()
    found = measure(asked.runs, asked.steps, asked.browser)
    if asked.json:
        print(json.dumps({"runs": asked.runs, "steps": asked.steps, **found}))
        return
    print(f"{asked.runs} runs of {asked.steps:,} steps")
    for name, (clock, busy) in found.items():
        print(f"  {name:32s} {clock:6.2f} s" + ("" if busy is None else f", of the processor {busy:.2f} s"))


if __name__ == "__main__":
    main()
