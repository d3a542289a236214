"""The notebooks are what their texts say, run from top to bottom, and move in JupyterLab while the kernel is idle."""

from __future__ import annotations

import base64
import importlib
import json
import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import nbformat
import numpy as np
import pytest
from playwright.sync_api import Browser, Page

from darts_core.space import space_named
from darts_core.view.widgets import Chart, Panel, Ribbon

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "tools"))
import notebooks as house  # noqa: E402  tools/ is no package

NUMBERS = [path.name[:2] for path in house.sources()]


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """Notebooks in their short form, with runs in a folder of their own."""
    monkeypatch.setenv("DARTS_NB_FAST", "1")
    monkeypatch.setenv("DARTS_RUNS", str(tmp_path / "runs"))
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    return tmp_path


def test_every_notebook_is_what_its_text_says_and_holds_no_output() -> None:
    assert house.unpaired() == []
    for source in house.sources():
        book = nbformat.read(house.paired(source), as_version=4)
        assert book.metadata.kernelspec.name == "python3", "without it JupyterLab asks in a dialog"
        assert all(not cell.get("outputs") and not cell.get("execution_count") for cell in book.cells)


def test_the_stripper_finds_nothing_to_strip() -> None:
    for source in house.sources():
        done = subprocess.run([sys.executable, "-m", "nbstripout", "--verify", str(house.paired(source))])
        assert done.returncode == 0, house.paired(source).name


def test_a_changed_text_is_noticed(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    folder = tmp_path / "notebooks" / "src"
    folder.mkdir(parents=True)
    first = house.sources()[0]
    (folder / first.name).write_text(first.read_text("utf-8") + "\n# %%\nprint('more')\n", encoding="utf-8")
    (folder.parent / house.paired(first).name).write_text(house.paired(first).read_text("utf-8"), encoding="utf-8")
    monkeypatch.setattr(house, "SOURCES", folder)
    assert len(house.unpaired()) == 1 and "make sync" in house.unpaired()[0]


@pytest.mark.parametrize("number", NUMBERS)
def test_a_notebook_ends_by_asserting_its_claims_and_hides_its_solutions(number: str) -> None:
    book = house.notebook(house.sources([number])[0])
    assert re.search(r"^assert ", book.cells[-1].source, re.MULTILINE), "the last cell checks what the text claims"
    solutions = [cell for cell in book.cells if "solution" in cell.metadata.get("tags", [])]
    assert solutions and all(cell.metadata.jupyter.source_hidden for cell in solutions)
    text = "\n".join(cell.source for cell in book.cells if cell.cell_type == "markdown")
    assert "**Afterwards you can**" in text and "## Exercises" in text


def test_a_handout_keeps_everything_but_solutions_and_the_closing_check(tmp_path: Path) -> None:
    house.handout(tmp_path)
    for source in house.sources():
        whole, given = house.notebook(source), nbformat.read(tmp_path / house.paired(source).name, as_version=4)
        kept, left = [cell.source for cell in given.cells], {cell.source for cell in given.cells}
        gone = [cell for cell in whole.cells if cell.source not in left]
        assert kept == [cell.source for cell in whole.cells if cell.source in left]
        assert all("solution" in cell.metadata.get("tags", []) for cell in gone[:-2]), source.name
        assert "claim" in gone[-2].source and "assert " in gone[-1].source and "## Exercises" in kept[-1]


@pytest.mark.slow
@pytest.mark.parametrize("number", NUMBERS)
def test_a_notebook_runs_from_top_to_bottom(number: str, quick: Path) -> None:
    began = time.monotonic()
    book = house.execute(house.sources([number])[0])
    assert all(cell.get("execution_count") for cell in book.cells if cell.cell_type == "code" and cell.source.strip())
    print(f"notebook {number}: {time.monotonic() - began:.0f} s")


@pytest.mark.slow
@pytest.mark.browser
def test_the_rendered_pages_open_from_a_folder_without_a_network(
    quick: Path, monkeypatch: pytest.MonkeyPatch, browser: Browser
) -> None:
    site_of_notebooks = importlib.import_module("site_of_notebooks")

    monkeypatch.setattr(site_of_notebooks, "sources", lambda: house.sources(["02", "05"]))
    site_of_notebooks.write_site(quick / "site")
    context = browser.new_context(offline=True, viewport={"width": 420, "height": 800})
    for name in ("index", "02_continuous_relaxation", "05_derivation_and_its_gap"):
        page, complaints, asked = context.new_page(), [], []
        page.on("pageerror", lambda error, into=complaints: into.append(str(error)))
        page.on("request", lambda request, into=asked: into.append(request.url))
        page.goto((quick / "site" / f"{name}.html").as_uri())
        assert not complaints and all(url.startswith("file:") for url in asked)
        assert page.evaluate("document.documentElement.scrollWidth <= innerWidth"), f"{name} is too wide for a phone"
        if name != "index":
            page.wait_for_selector(".chart .main-svg")
            assert page.locator(".drawing svg").count() and page.locator("math").count() + page.locator("h2").count()
    context.close()


def test_what_is_changed_before_it_is_shown_reaches_the_page_with_the_widget_itself() -> None:
    """Not as messages behind it: a busy page lost those."""
    cell = space_named("tiny").cells["normal"]
    ribbon, chart = Ribbon(cell, np.full(cell.shape, 1 / 3)), Chart([{"type": "bar"}], {"title": "before"})
    assert ribbon.comm is None and chart.comm is None
    decided = np.eye(3)[[2] * len(cell.edges)]
    ribbon.show(decided)
    chart.put(([1.0, 2.0], [3.0, 4.0]))
    chart.update_layout(title="after")
    box = Panel([ribbon, chart])
    assert all(child.comm is not None for child in box.children)
    assert ribbon.get_state()["weights"] == decided.reshape(-1).tolist()
    sent = chart.get_state(["_widget_data", "_widget_layout"])
    assert sent["_widget_data"][0]["y"]["bdata"] == base64.b64encode(np.array([3.0, 4.0]).tobytes()).decode()
    assert sent["_widget_layout"]["title"]["text"] == "after"


# ---------------------------------------------------------------------------------------------------- in JupyterLab


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
    command = [
        sys.executable, str(ROOT / "tools" / "notebooks.py"), "lab", "--no-browser", "--ServerApp.ip=127.0.0.1",
        "--ServerApp.port=0", "--allow-root", "--IdentityProvider.token=lesson", f"--ServerApp.root_dir={tmp_path}",
    ]  # fmt: skip
    log = (tmp_path / "lab.log").open("w")
    process = subprocess.Popen(command, env=environment, stdout=log, stderr=subprocess.STDOUT)
    try:
        limit = time.monotonic() + 60
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
    page.wait_for_selector(".jp-Notebook .jp-Cell", timeout=90_000)
    page.wait_for_function("() => /Python 3 \\(ipykernel\\) \\| Idle/.test(document.body.innerText)", timeout=90_000)
    assert page.locator(".jp-Dialog").count() == 0, "a dialog stands in the way"
    assert page.get_by_text("official Jupyter news").count() == 0
    page.locator(".jp-Notebook .jp-Cell").first.click()
    page.keyboard.press("Escape")
    for _ in range(count):
        page.keyboard.press("Shift+Enter")
    page.wait_for_selector(".rb-band", timeout=120_000, state="attached")
    return page


@pytest.mark.slow
@pytest.mark.browser
def test_in_jupyterlab_a_slider_moves_the_figure_and_the_ribbon(lab: str, browser: Browser) -> None:
    page = open_and_run(browser, lab.format("02_continuous_relaxation.ipynb"), 8)
    page.wait_for_selector(".barlayer path", timeout=120_000, state="attached")
    ribbon = page.locator(".rb-band").nth(2)
    bar = page.locator(".barlayer path").first
    before = ribbon.get_attribute("d"), bar.get_attribute("d")
    slider = page.get_by_role("slider").first
    slider.focus()
    for _ in range(15):
        slider.press("ArrowRight")
    page.wait_for_function(
        "([r, b]) => document.querySelectorAll('.rb-band')[2].getAttribute('d') !== r"
        " && document.querySelector('.barlayer path').getAttribute('d') !== b",
        arg=list(before),
        timeout=20_000,
    )
    page.close()


@pytest.mark.slow
@pytest.mark.browser
def test_in_jupyterlab_a_search_moves_the_ribbon_with_an_idle_kernel_and_obeys(
    lab: str, browser: Browser, tmp_path: Path
) -> None:
    page = open_and_run(browser, lab.format("00_sixty_second_search.ipynb"), 4)
    page.wait_for_function("() => /step [1-9]/.test(document.body.innerText)", timeout=60_000)
    page.evaluate(
        """() => { window.moves = new Set(); window.last = '';
        new MutationObserver(() => {
          const d = document.querySelector('.rb-band').getAttribute('d');
          if (d !== window.last) { window.last = d; window.moves.add(Math.floor(performance.now() / 100)); }
        }).observe(document.querySelector('.rb').parentElement, {subtree: true, attributes: true}); }"""
    )
    page.wait_for_timeout(4000)
    moves = page.evaluate("window.moves.size")
    # between two messages of the widgets; a cell that computed would keep it busy to its end
    page.wait_for_function("() => /\\(ipykernel\\) \\| Idle/.test(document.body.innerText)", timeout=10_000)
    page.get_by_role("button", name="Pause", exact=True).click()
    page.wait_for_function("() => /\\bpaused\\b/.test(document.body.innerText)", timeout=10_000)
    page.get_by_role("button", name="Resume", exact=True).click()
    page.wait_for_function("() => !/\\bpaused\\b/.test(document.body.innerText)", timeout=10_000)
    asked = time.monotonic()
    page.get_by_role("button", name="Stop", exact=True).click()
    page.wait_for_function("() => /\\bstopped\\b/.test(document.body.innerText)", timeout=30_000)
    took = time.monotonic() - asked
    assert moves >= 8, f"{moves} movements in 4 s"
    assert took < 2 * float(os.environ.get("DARTS_TEST_PATIENCE", "5")), f"stopping took {took:.1f} s"
    events = next((tmp_path / "runs").iterdir()) / "events.jsonl"
    said = [json.loads(line) for line in events.read_text("utf-8").splitlines()]
    assert [e["kind"] for e in said if e["type"] == "applied"][:3] == ["pause", "resume", "stop"]
    page.close()
