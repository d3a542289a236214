"""The notebooks in a browser: their pages without a network, and JupyterLab, where they move with an idle kernel."""

from __future__ import annotations

import importlib
import json
import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Browser, Page

from tests.executed import ROOT, house, ran
from tests.test_browser_live import patience

assert ran  # a fixture

pytestmark = [pytest.mark.slow, pytest.mark.browser]
SLOW = 30_000 * patience()  # milliseconds that a page may take over anything


def test_the_rendered_pages_open_from_a_folder_without_a_network(
    ran: Callable[[Path], Any], tmp_path: Path, browser: Browser
) -> None:
    """All of them on a phone: nothing asked of a network, no script complains, charts and drawings are there."""
    site_of_notebooks = importlib.import_module("site_of_notebooks")
    site_of_notebooks.write_site(tmp_path / "site", run=ran)
    names = ["index", *(source.stem for source in house.sources())]
    assert sorted(path.stem for path in (tmp_path / "site").glob("*.html")) == sorted(names)
    context = browser.new_context(offline=True, viewport={"width": 420, "height": 800})
    for name in names:
        page, complaints, asked = context.new_page(), [], []
        page.on("pageerror", lambda error, into=complaints: into.append(str(error)))
        page.on("request", lambda request, into=asked: into.append(request.url))
        page.goto((tmp_path / "site" / f"{name}.html").as_uri())
        if name != "index":
            page.wait_for_selector(".drawing svg, .chart .main-svg", timeout=SLOW)
            drawn = "() => [...document.querySelectorAll('.chart')].every((chart) => chart.querySelector('.main-svg'))"
            page.wait_for_function(drawn, timeout=SLOW)
            assert page.locator("h2").count() and page.locator("details").count(), "sections, and solutions folded"
            prose = page.locator("main > p, main > ul, main > ol").all_inner_texts()
            assert not re.search(r"\$\$|\\(frac|alpha|nabla|sum)", "".join(prose)), f"{name} shows an equation as text"
        assert not complaints and all(url.startswith("file:") for url in asked), name
        assert page.evaluate("document.documentElement.scrollWidth <= innerWidth"), f"{name} is too wide for a phone"
        page.close()
    context.close()


@pytest.fixture
def lab(tmp_path: Path) -> Iterator[str]:
    """A JupyterLab of the clone on a free port of this machine, as `make lab` starts it; its address with the token."""
    environment = os.environ | {
        "DARTS_NB_FAST": "0", "DARTS_RUNS": str(tmp_path / "runs"), "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1",
        "JUPYTER_CONFIG_DIR": str(tmp_path / "config"), "JUPYTER_DATA_DIR": str(tmp_path / "data"),
        "JUPYTER_RUNTIME_DIR": str(tmp_path / "runtime"), "JUPYTERLAB_WORKSPACES_DIR": str(tmp_path / "spaces"),
    }  # fmt: skip
    environment.pop("DARTS_NB_FAST")
    shutil.copytree(ROOT / "notebooks", tmp_path / "notebooks")  # JupyterLab saves what it has opened, by itself
    first = tmp_path / "notebooks" / "00_sixty_second_search.ipynb"
    text = first.read_text("utf-8")
    longer = r"{\"epochs\": 30}", r"{\"epochs\": 1000, \"retrain_epochs\": 0, \"random_cells\": 0}"
    assert text.count(longer[0]) == 1
    first.write_text(text.replace(*longer), encoding="utf-8")  # no slow machine shall see the end before the test does
    command = [
        sys.executable, str(ROOT / "tools" / "notebooks.py"), "lab", "--no-browser", "--ServerApp.ip=127.0.0.1",
        "--ServerApp.port=0", "--allow-root", "--IdentityProvider.token=lesson", f"--ServerApp.root_dir={tmp_path}",
    ]  # fmt: skip
    log = (tmp_path / "lab.log").open("w")
    process = subprocess.Popen(command, env=environment, stdout=log, stderr=subprocess.STDOUT)
    try:
        limit = time.monotonic() + 60 * patience()
        while not (found := list((tmp_path / "runtime").glob("jpserver-*.json"))):
            assert process.poll() is None and time.monotonic() < limit, (tmp_path / "lab.log").read_text()
            time.sleep(0.2)
        port = json.loads(found[0].read_text("utf-8"))["port"]
        yield f"http://127.0.0.1:{port}/lab/tree/notebooks/{{}}?token=lesson&reset"
    finally:
        process.terminate()
        process.wait(20)
        log.close()


def open_and_run(browser: Browser, address: str, count: int) -> Page:
    """The notebook in a new page, its first `count` cells run by Shift-Enter once the kernel is there."""
    page = browser.new_page(viewport={"width": 1400, "height": 1000})
    page.goto(address)
    page.wait_for_selector(".jp-Notebook .jp-Cell", timeout=2 * SLOW)
    page.wait_for_function("() => /Python 3 \\(ipykernel\\) \\| Idle/.test(document.body.innerText)", timeout=2 * SLOW)
    assert page.locator(".jp-Dialog").count() == 0, "a dialog stands in the way"
    assert page.get_by_text("official Jupyter news").count() == 0
    page.locator(".jp-Notebook .jp-Cell").first.click()
    page.keyboard.press("Escape")
    for _ in range(count):
        page.keyboard.press("Shift+Enter")
    page.wait_for_selector(".rb-band", timeout=3 * SLOW, state="attached")
    return page


def test_in_jupyterlab_a_slider_moves_the_figure_and_the_ribbon(lab: str, browser: Browser) -> None:
    page = open_and_run(browser, lab.format("02_continuous_relaxation.ipynb"), 8)
    page.wait_for_selector(".barlayer path", timeout=3 * SLOW, state="attached")
    ribbon = page.locator(".rb-band").nth(2)
    bar = page.locator(".barlayer path").first
    before = ribbon.get_attribute("d"), bar.get_attribute("d")
    slider = page.get_by_role("slider").first
    slider.focus()
    # a page that is busy loading may miss the first of them, and a slider is moved by more than one
    moved = (
        "([r, b]) => document.querySelectorAll('.rb-band')[2].getAttribute('d') !== r"
        " && document.querySelector('.barlayer path').getAttribute('d') !== b"
    )
    limit = time.monotonic() + 60 * patience()
    while not page.evaluate(moved, list(before)):
        assert time.monotonic() < limit, f"at {slider.get_attribute('aria-valuenow')} neither or one of both has moved"
        slider.press("ArrowRight")
        page.wait_for_timeout(500)
    assert float(slider.get_attribute("aria-valuenow") or 0) > 0
    page.close()


def test_in_jupyterlab_a_search_moves_the_ribbon_with_an_idle_kernel_and_obeys(
    lab: str, browser: Browser, tmp_path: Path
) -> None:
    """Twice a second at least; then it is paused, steered, resumed and stopped, and says at which step."""
    page = open_and_run(browser, lab.format("00_sixty_second_search.ipynb"), 4)
    page.wait_for_function("() => /step [1-9]/.test(document.body.innerText)", timeout=2 * SLOW)
    page.evaluate(
        """() => { window.moves = 0; window.before = [0, ''];
        new MutationObserver(() => {
          const d = document.querySelector('.rb-band').getAttribute('d'), now = performance.now();
          if (d === window.before[1]) return;
          if (now - window.before[0] > 100) window.moves += 1; // frames of one glide are one movement
          window.before = [now, d];
        }).observe(document.querySelector('.rb').parentElement, {subtree: true, attributes: true}); }"""
    )
    page.wait_for_function("() => window.moves >= 8", timeout=4000 * patience())
    # between two messages of the widgets; a cell that computed would keep it busy to its end
    page.wait_for_function("() => /\\(ipykernel\\) \\| Idle/.test(document.body.innerText)", timeout=SLOW)

    def press(word: str) -> int:
        """The step at which the search did it."""
        page.get_by_role("button", name=word, exact=True).click()
        return done(word.lower())

    def done(words: str) -> int:
        page.wait_for_function(f"() => /{words}: done at step \\d/.test(document.body.innerText)", timeout=SLOW)
        return int(re.findall(rf"{words}: done at step (\d+)", page.inner_text("body"))[-1])

    def step() -> int:
        return int(re.findall(r"\bstep (\d+)/", page.inner_text("body"))[0])

    paused = press("Pause")
    page.wait_for_function("() => /\\bpaused\\b/.test(document.body.innerText)", timeout=SLOW)
    slider = page.get_by_role("slider").first
    slider.focus()
    slider.press("ArrowRight")
    assert done("alpha rate [\\d.]+") == paused, "steered while it stood still"
    assert press("Resume") == paused
    page.wait_for_function(
        f"() => Number(/\\bstep (\\d+)\\//.exec(document.body.innerText)[1]) > {paused}", timeout=SLOW
    )
    shown = step()
    stopped = press("Stop")
    page.wait_for_function("() => /\\bstopped\\b/.test(document.body.innerText)", timeout=SLOW)
    assert stopped - shown <= 20 * patience(), "two seconds, at ten steps a second"
    assert page.get_by_role("button", name="Pause", exact=True).is_disabled()
    events = next((tmp_path / "runs").iterdir()) / "events.jsonl"
    said = [json.loads(line) for line in events.read_text("utf-8").splitlines()]
    answers = [(event["kind"], event["step"]) for event in said if event["type"] == "applied"]
    assert answers == [("pause", paused), ("set", paused), ("resume", paused), ("stop", stopped)]
    page.close()
