"""Pictures of every page in every state: `python tools/pictures.py FOLDER`, to be looked at by a person.

    python tools/pictures.py shots                                  # everything; an hour on two cores
    python tools/pictures.py shots --states finished --widths 420 --themes dark
    python tools/pictures.py shots --views live cells-why --states chain stages

For each state it fills a folder of runs, starts a dashboard on it, and takes each view as one tall picture. Some states
are written by the tests' stand-in for a search, those with a space or method of their own are short real searches. A
sheet per view and state (sheet-*.png) puts widths and themes side by side.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlencode

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))  # the tests' helpers, and the clone's own package

from PIL import Image  # noqa: E402
from playwright.sync_api import Browser, Error, Page, sync_playwright  # noqa: E402

from darts_core import runs  # noqa: E402
from tests import fake_writer  # noqa: E402
from tests import test_pages_states as written  # noqa: E402
from tests.conftest import FLAGS  # noqa: E402
from tests.served import Server, serve  # noqa: E402
from tools.browser import find  # noqa: E402

WIDTHS = (420, 768, 1440)
THEMES = ("light", "dark")
TALL = 9000  # pixels of a picture, at most

Scene = Callable[[Path], Iterator[None]]


# States -----------------------------------------------------------------------------------------------------


def paused(folder: Path) -> Iterator[None]:
    """A search that waits, with an order that nobody has taken yet."""
    command = [sys.executable, "-m", "tests.fake_writer", str(folder), "one", "--steps", "4000", "--rate", "40"]
    process = subprocess.Popen(command, cwd=ROOT)
    try:
        while not (folder / "one" / "run.json").is_file() or runs.RunReader(folder, "one").step_count() < 90:
            if process.poll() is not None:
                raise RuntimeError("the stand-in for a search ended")
        runs.send_order(folder, "one", "pause")
        while runs.RunReader(folder, "one").status().state != "paused":
            pass
        yield
    finally:
        process.kill()
        process.wait()


def stopped(folder: Path) -> Iterator[None]:
    """A search that was told to stop."""
    process = paused(folder)
    next(process)
    runs.send_order(folder, "one", "stop")
    while runs.RunReader(folder, "one").status().state != "stopped":
        pass
    yield
    next(process, None)


def collapsed(folder: Path) -> Iterator[None]:
    """With the alarm, and the way back."""
    fake_writer.write(folder, "one", steps=400, rate=0)
    yield


def real(*words: str) -> Scene:
    """Short real searches, made by the commands that people type."""

    def scene(folder: Path) -> Iterator[None]:
        for line in words:
            command = [sys.executable, "-m", "darts_core", *line.split(), "--runs", str(folder)]
            subprocess.run(command, cwd=ROOT, check=True, stdout=subprocess.DEVNULL)
        yield

    return scene


SHORT = "--set pace=0 --set retrain_epochs=1 --set random_cells=1"
STATES: dict[str, Scene] = {
    "none": written.nothing,
    "starting": written.starting,
    "running": written.running,
    "paused": paused,
    "collapsed": collapsed,
    "finished": real(f"search --preset tiny --name one {SHORT}"),
    "stopped": stopped,
    "failed": written.failed,
    "interrupted": written.interrupted,
    "corrupt": written.corrupt_record,
    "corrupt-card": written.corrupt_card,
    "training": real("evaluate --genotype DARTS_V2 --dataset digits --name one --set epochs=3 --set cells=3 "
                     "--set channels=4 --set subset=400"),
    "recurrent": real(f"search --preset recurrent --name one --set epochs=3 {SHORT}"),
    "chain": real(f"search --preset tiny --space mbconv --strategy proxyless --epochs 3 --name one {SHORT}"),
    "stages": real("search --preset tiny --set space=s2 --set strategy=p-darts --set nodes=2 --set epochs=3 "
                   f"--set more_cells=1 --name one {SHORT}"),
    "seeds": real(f"search --preset tiny --seeds 0-2 --set epochs=5 --name one {SHORT}"),
}  # fmt: skip


# Views --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class View:
    """A page, perhaps with a tab chosen or a panel open: what is clicked once it is drawn, by role and name."""

    page: str
    clicks: tuple[tuple[str, str], ...] = ()


VIEWS: dict[str, View] = {
    "live": View(""),
    "live-settings": View("", (("text", "All settings"),)),
    "live-edge": View("", (("edge", "1"),)),
    "live-pending": View("", (("edge", "1"), ("button", "Ban skip_connect on this edge"))),
    "live-steer": View("", (("button", "Steer"),)),
    "live-branch": View("", (("button", "Branch"),)),
    "live-cure": View("", (("button", "Rewind and cure"),)),
    "live-stop": View("", (("button", "Stop"),)),
    "live-download": View("", (("button", "Download"),)),
    "replay": View("replay"),
    "compare": View("compare"),
    "cells": View("cells"),
    "cells-why": View("cells", (("tab", "Why"),)),
    "cells-lab": View("cells", (("tab", "Derivation lab"),)),
    "cells-numbers": View("cells", (("tab", "Numbers"),)),
    "cells-code": View("cells", (("tab", "Code and data"),)),
    "runs": View("runs", (("row", "1"),)),
    "learn": View("learn"),
    "learn-lessons": View("learn", (("tab", "Lessons"),)),
    "learn-notebooks": View("learn", (("tab", "Notebooks"),)),
}


def settled(page: Page) -> None:
    page.locator("[data-testid=stApp][data-test-script-state=notRunning]").wait_for(timeout=120_000)
    page.wait_for_timeout(1200)
    page.wait_for_function(
        "() => [...document.querySelectorAll('.js-plotly-plot')].every(plot => plot.querySelector('.main-svg'))",
        timeout=60_000,
    )


def opened(page: Page, role: str, name: str) -> bool:
    """Clicks there; False where this state has no such thing."""
    main = page.get_by_test_id("stMain")
    if role == "edge":
        found = page.locator(".darts-board .rb-edge").nth(int(name))
    elif role == "row":  # tables are painted: their first box is where it is
        found = main.locator("[data-testid=stDataFrame] canvas").first
    elif role == "text":
        found = page.get_by_test_id("stSidebar").get_by_text(name, exact=True)
    else:
        found = main.get_by_role(role, name=name, exact=True).first  # type: ignore[arg-type]
    if not found.count() or not found.is_visible():
        return False
    if role == "edge":
        found.focus()
        page.keyboard.press("Enter")
    elif role == "row":
        box = found.bounding_box() or {"x": 0, "y": 0}
        page.mouse.click(box["x"] + 16, box["y"] + 52)
    else:
        found.click()
    settled(page)
    return True


def tall(page: Page, width: int) -> None:
    """A window as high as the page: Streamlit scrolls within itself."""
    page.set_viewport_size({"width": width, "height": 1000})
    page.wait_for_timeout(700)  # charts take their final size
    height = page.evaluate(
        "() => Math.max(...['stMainBlockContainer', 'stSidebarUserContent'].map(name =>"
        " document.querySelector(`[data-testid=${name}]`)?.scrollHeight ?? 0)) + 80"
    )
    page.set_viewport_size({"width": width, "height": min(TALL, max(700, height))})
    page.wait_for_timeout(700)


@contextmanager
def visitor(browser: Browser, server: Server, theme: str) -> Iterator[Page]:
    context = browser.new_context(color_scheme=theme, viewport={"width": 1440, "height": 1000})  # type: ignore[arg-type]
    page = context.new_page()
    page.goto(server.link)
    try:
        yield page
    finally:
        context.close()


def take(page: Page, server: Server, state: str, view: View, width: int, path: Path) -> bool:
    named = sorted(run.name for run in runs.list_runs(server.runs))
    query = {}
    if named and view.page == "compare":
        query["runs"] = ",".join([*named, "healthy"][:4])
    elif named and view.page not in ("learn", "runs"):
        query["run"] = named[0]
    page.set_viewport_size({"width": width, "height": 1000})
    page.goto(f"{server.address}/{view.page}?{urlencode(query)}")
    settled(page)
    if not all(opened(page, role, name) for role, name in view.clicks):
        return False
    tall(page, width)
    page.screenshot(path=path)
    return True


def sheet(paths: Sequence[Path], path: Path) -> None:
    """Several pictures side by side, their tops in line."""
    pictures = [Image.open(each).convert("RGB") for each in paths]
    made = Image.new("RGB", (sum(p.width + 12 for p in pictures), max(p.height for p in pictures)), "#888888")
    left = 0
    for picture in pictures:
        made.paste(picture, (left, 0))
        left += picture.width + 12
    made.save(path)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0] if __doc__ else None)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--states", nargs="+", default=list(STATES), choices=list(STATES))
    parser.add_argument("--views", nargs="+", default=list(VIEWS), choices=list(VIEWS))
    parser.add_argument("--themes", nargs="+", default=list(THEMES), choices=THEMES)
    parser.add_argument("--widths", nargs="+", type=int, default=list(WIDTHS))
    parser.add_argument("--runs", type=Path, help="a folder of runs as it is, instead of the states")
    given = parser.parse_args()
    given.folder.mkdir(parents=True, exist_ok=True)
    with sync_playwright() as playwright, tempfile.TemporaryDirectory() as room:
        browser = playwright.chromium.launch(executable_path=find(), args=FLAGS)
        for state in ["given"] if given.runs else given.states:
            folder = given.runs or Path(room) / state
            scene = written.nothing(folder) if given.runs else STATES[state](folder)
            with ExitStack() as ends:
                next(scene)
                ends.callback(next, scene, None)
                server = ends.enter_context(serve(folder))
                for name in given.views:
                    made = []
                    for theme in given.themes:
                        with visitor(browser, server, theme) as page:
                            for width in given.widths:
                                path = given.folder / f"{name}-{state}-{theme}-{width}.png"
                                try:
                                    if take(page, server, state, VIEWS[name], width, path):
                                        made.append(path)
                                except Error as problem:
                                    print(f"{path.name}: {problem.message.splitlines()[0]}", flush=True)
                    if len(made) > 1:
                        sheet(made, given.folder / f"sheet-{name}-{state}.png")
                    print(f"{name}, {state}: {len(made)} pictures", flush=True)
        browser.close()


if __name__ == "__main__":
    main()
