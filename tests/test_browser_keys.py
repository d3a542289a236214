"""The dashboard by keys alone, and downloads that rerun nothing, in headless Chromium."""

from __future__ import annotations

import io
import json
import re
import shlex
import subprocess
import sys
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Locator, Page, expect

from darts_core import runs
from darts_core.genotype import Genotype
from darts_core.view.recorded import recorded
from tests.served import ROOT, Server, serve
from tests.test_browser_live import BOARD, facts, newest, patience, shown, until, visit, wait_for_step

pytestmark = [pytest.mark.browser, pytest.mark.slow]

FORWARD = """
import sys, torch
sys.path.insert(0, sys.argv[1])
import model
assert not [name for name in sys.modules if name.startswith("darts_core")]
print(tuple(model.network().eval()(torch.zeros(2, 1, *model.SIZE)).shape), len(model.CLASSES))
"""


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with serve(tmp_path_factory.mktemp("keys") / "runs") as running:
        yield running


# By keys alone ----------------------------------------------------------------------------------------------


def focused(page: Page) -> str:
    """The accessible name of what has the focus, and what it is."""
    return page.evaluate(
        """() => {
            const it = document.activeElement;
            return [it.getAttribute('aria-label') || it.labels?.[0]?.innerText || it.innerText || '',
                    it.getAttribute('role') || it.type || it.tagName].join(' | ').replace(/\\s+/g, ' ').slice(0, 120);
        }"""
    )


def tab_to(page: Page, wanted: str, most: int = 120) -> None:
    """Presses Tab until something of this name has the focus; it has a visible mark then."""
    met = []
    for _ in range(most):
        page.keyboard.press("Tab")
        met.append(focused(page))
        if re.search(wanted, met[-1]):
            return
    raise AssertionError(f"no {wanted} among {met}")


def sees(there: Locator) -> None:
    expect(there.first).to_be_visible(timeout=30_000 * patience())


def test_a_search_is_started_scrubbed_steered_and_stopped_by_keys_alone(browser: Browser, server: Server) -> None:
    """Nothing is clicked: Tab goes there, Enter, Space, arrows and letters act."""
    slack = patience()
    with visit(browser, server) as page:
        page.set_default_timeout(30_000 * slack)
        page.locator(f"{BOARD} .rb-edge").first.wait_for()
        page.locator("[data-testid=stApp][data-test-script-state=notRunning]").wait_for()
        # start: the preset above the one that is chosen, the smallest, by an arrow key
        tab_to(page, r"\| radio")
        page.keyboard.press("ArrowUp")
        sees(page.get_by_text("Three operations and two nodes"))
        tab_to(page, r"^(play_arrow )?Start \|")
        page.keyboard.press("Enter")
        page.wait_for_function(
            f"() => document.querySelector('{BOARD}')?.dataset.run?.startsWith('digits-darts')", timeout=60_000 * slack
        )
        wait_for_step(page, 5, 60 * slack)
        name = facts(page)["run"]
        reader = runs.RunReader(server.runs, name)
        # pause: the button is reached by Tab, and the search waits
        tab_to(page, r"Pause \|")
        page.keyboard.press("Enter")
        until(lambda: reader.status().state == "paused", 30 * slack, "paused")
        page.get_by_role("button", name="One step", exact=True).wait_for()
        # steer: open the panel, type another rate, Enter applies
        tab_to(page, r"Steer .*\|")
        page.keyboard.press("Enter")
        page.get_by_role("spinbutton", name="Learning rate of the alphas (Adam)").wait_for()
        tab_to(page, r"^Learning rate of the alphas \(Adam\) \|", most=2)  # the panel has the focus
        page.keyboard.press("Control+a")
        page.keyboard.type("0.02")
        tab_to(page, r"Apply \|")
        page.keyboard.press("Enter")
        sees(page.get_by_test_id("stMain").get_by_text(re.compile(r"a_lr = 0\.02: applied at step")))
        page.keyboard.press("Escape")
        page.get_by_test_id("stPopoverBody").wait_for(state="hidden")
        until(lambda: re.search(r"Steer .*\|", focused(page)), 10 * slack, "the button that opened it")
        # scrub: the slider by arrows and Home, then the keys of the page
        tab_to(page, "Step shown")
        page.keyboard.press("Home")
        until(lambda: shown(page) == 1, 10 * slack, "the first step")
        page.keyboard.press("ArrowRight")
        until(lambda: shown(page) == 2, 10 * slack, "the second step")
        page.keyboard.press("l")
        until(lambda: shown(page) == newest(page), 10 * slack, "the newest step again")
        # an edge by Tab and Enter, and its operation banned
        tab_to(page, r"^Edge from .*\| button")
        page.keyboard.press("Enter")
        page.wait_for_function("() => new URL(location).searchParams.get('edge')")
        tab_to(page, r"^Ban .* on this edge")
        page.keyboard.press("Enter")
        sees(page.locator(f"{BOARD} .db-steering").get_by_text("applied at step"))
        page.keyboard.press("t")
        expect(page.get_by_role("region", name="Weights of all edges in numbers")).to_be_focused()
        page.keyboard.press("t")
        # stop: open the panel, confirm
        page.evaluate("document.activeElement.blur()")
        tab_to(page, r"Stop .*\|")
        page.keyboard.press("Enter")
        page.get_by_role("button", name="Stop it").wait_for()
        tab_to(page, r"^Stop it \|", most=2)
        page.keyboard.press("Enter")
        sees(page.get_by_test_id("stMain").get_by_text("stopped", exact=True))
    orders = [event["kind"] for event in reader.events()[0] if event["type"] == "applied" and event["accepted"]]
    assert orders == ["pause", "set", "ban", "stop"] and reader.status().edited


# Downloads --------------------------------------------------------------------------------------------------


def test_downloads_of_the_cells_page_hold_what_they_say_and_run_no_script(
    browser: Browser, server: Server, tmp_path: Path
) -> None:
    """The files, the number of script runs before and after them, and `model.py` by the command that the page shows."""
    search = [sys.executable, "-m", "darts_core", "search", "--preset", "tiny", "--name", "made", "--set", "epochs=1"]
    search += ["--set", "retrain_epochs=0", "--set", "random_cells=0", "--runs", str(server.runs)]
    subprocess.run(search, cwd=ROOT, check=True, stdout=subprocess.DEVNULL, timeout=120 * patience())
    with visit(browser, server, "/cells?run=made", accept_downloads=True) as page:
        page.get_by_test_id("stImage").first.wait_for(timeout=60_000 * patience())
        page.locator("[data-testid=stApp][data-test-script-state=notRunning]").wait_for()
        page.wait_for_timeout(1500)
        page.evaluate(
            """() => { window.scripts = 0;
                new MutationObserver(all => all.forEach(({target}) => {
                    const now = target.dataset.testScriptState;
                    if (now === 'running' && now !== window.before) window.scripts += 1;
                    window.before = now;
                })).observe(document.querySelector('[data-testid=stApp]'), {attributes: true});
            }"""
        )
        got: dict[str, bytes] = {}
        for title in ("Genotype (JSON)", "DARTS text", "SVG", "PDF", "PNG", "DOT", "HTML report", "Run (zip)"):
            with page.expect_download(timeout=60_000 * patience()) as waiting:
                page.get_by_role("button", name=title, exact=True).click()
            got[title] = Path(waiting.value.path()).read_bytes()
        assert page.evaluate("window.scripts") == 0, "a download ran the script of the page"
        page.get_by_role("tab", name="Code and data").click()
        line = page.locator("code", has_text="--format py").first
        line.wait_for(timeout=30_000 * patience())
        assert page.evaluate("window.scripts") > 0, "the count would have seen one"
        command = shlex.split(line.inner_text())
    genotype = recorded(runs.RunReader(server.runs, "made")).result()
    assert genotype is not None and Genotype.from_json(json.loads(got["Genotype (JSON)"])) == genotype
    starts = {"SVG": b"<svg", "PDF": b"%PDF", "PNG": b"\x89PNG", "DOT": b"digraph", "DARTS text": b"Genotype("}
    assert {title: got[title][: len(start)] for title, start in starts.items()} == starts
    assert b"mountLecture" in got["HTML report"]
    assert "steps.bin" in zipfile.ZipFile(io.BytesIO(got["Run (zip)"])).namelist()
    assert command[:4] == ["python", "-m", "darts_core", "export"]
    made = [sys.executable, *command[1:], "--out", str(tmp_path / "model.py")]
    subprocess.run(made, cwd=ROOT, check=True, timeout=120 * patience())
    forward = [sys.executable, "-I", "-c", FORWARD, str(tmp_path)]
    said = subprocess.run(forward, cwd=tmp_path, capture_output=True, text=True, timeout=120 * patience())
    assert said.stdout.split() == ["(2,", "10)", "10"], said.stderr
