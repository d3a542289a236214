"""A newcomer's walk through the dashboard, by clicks and keys alone, from the command in the README to a trained cell.

`pytest -s tests/test_browser_walk.py` prints how long each step took, as the person at the page would have waited.
"""

from __future__ import annotations

import re
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Locator, Page, expect

from darts_core import runs
from tests.served import serve
from tests.test_browser_live import BOARD, facts, patience, shown, visit, wait_for_step

pytestmark = [pytest.mark.browser, pytest.mark.slow]


class Clock:
    """Seconds of each step of the walk."""

    def __init__(self) -> None:
        self.steps: list[tuple[str, float]] = []

    @contextmanager
    def step(self, what: str) -> Iterator[None]:
        began = time.monotonic()
        yield
        self.steps.append((what, time.monotonic() - began))
        print(f"{self.steps[-1][1]:6.1f} s  {what}", flush=True)


def run_shown(page: Page) -> str:
    return facts(page)["run"]


def other_run(page: Page, known: set[str], seconds: float) -> str:
    """Waits until the board shows a run that is not among `known`; its name."""
    page.wait_for_function(
        f"known => !known.includes(document.querySelector('{BOARD}')?.dataset.run ?? known[0])",
        arg=sorted(known),
        timeout=1000 * seconds,
    )
    return run_shown(page)


def finished(page: Page, seconds: float) -> None:
    expect(page.get_by_test_id("stMain").get_by_text("finished", exact=True).first).to_be_visible(
        timeout=1000 * seconds
    )


def sees(there: Locator) -> None:
    expect(there.first).to_be_visible(timeout=30_000 * patience())


def button(page: Page, name: str) -> None:
    page.get_by_test_id("stMain").get_by_role("button", name=name, exact=True).first.click()


def test_a_newcomer_goes_from_the_command_to_a_trained_cell_by_clicks_alone(browser: Browser, tmp_path: Path) -> None:
    clock, slack = Clock(), patience()
    folder = tmp_path / "runs"
    began = time.monotonic()
    with serve(folder, "--port", "18501") as server, visit(browser, server, accept_downloads=True) as page:
        page.set_default_timeout(30_000 * slack)
        page.locator(f"{BOARD} .rb-edge").first.wait_for()
        clock.steps.append(("start: from the command to a picture", time.monotonic() - began))
        print(f"{clock.steps[-1][1]:6.1f} s  {clock.steps[-1][0]}", flush=True)
        with clock.step("watch: the first search, which the command started, moves"):
            page.wait_for_function(f"() => document.querySelector('{BOARD}')?.dataset.run === 'digits-darts-001'")
            wait_for_step(page, 2, 30 * slack)
            first = run_shown(page)
        with clock.step("stop it, for its cell is not what we are after"):
            button(page, "Stop")
            page.get_by_role("button", name="Stop it").click()
            sees(page.get_by_test_id("stMain").get_by_text("stopped", exact=True))
        with clock.step("start a search of one's own: Laptop, Start, first step"):
            page.get_by_test_id("stSidebar").get_by_text("Laptop", exact=True).click()
            page.get_by_test_id("stSidebar").get_by_role("button", name="Start", exact=True).click()
            own = other_run(page, {first, "collapsing", "healthy", "stopped-early"}, 40 * slack)
            wait_for_step(page, 1, 40 * slack)
        with clock.step("steer: another learning rate of the alphas, applied"):
            button(page, "Steer")
            page.get_by_role("spinbutton", name="Learning rate of the alphas (Adam)").fill("0.05")
            page.get_by_role("button", name="Apply", exact=True).click()
            sees(page.get_by_test_id("stMain").get_by_text(re.compile(r"a_lr = 0\.05: applied at step")))
            page.keyboard.press("Escape")
        with clock.step("scrub: back to the first step, and to the newest again"):
            slider = page.get_by_role("slider", name="Step shown")
            slider.focus()
            slider.press("Home")
            page.wait_for_function(f"() => document.querySelector('{BOARD}').dataset.shown === '1'")
            page.get_by_role("button", name=re.compile("Follow live|Go to the end")).click()
            page.wait_for_function(f"() => Number(document.querySelector('{BOARD}').dataset.shown) > 1")
        with clock.step("watch it to its end"):
            finished(page, 180 * slack)
            sees(page.locator(".db-verdict", has_text="the derived cell reaches"))
        with clock.step("branch: from an earlier epoch, with other alphas' rate, first step"):
            slider = page.get_by_role("slider", name="Step shown")
            slider.focus()
            slider.press("Home")
            for _ in range(3):
                slider.press("PageUp")
            assert shown(page) < 0.8 * int(facts(page)["step"])
            page.get_by_role("button", name="Branch from here").click()
            page.get_by_role("spinbutton", name="Learning rate of the alphas (Adam)").fill("0.01")
            page.get_by_role("spinbutton", name="Learning rate of the alphas (Adam)").press("Enter")
            page.get_by_role("button", name="Start branch").click()
            branch = other_run(page, {first, own, "collapsing", "healthy", "stopped-early"}, 60 * slack)
            wait_for_step(page, 1, 40 * slack)
        with clock.step("watch the branch to its end"):
            finished(page, 180 * slack)
        with clock.step("compare: parent and branch under one scrubber"):
            page.get_by_text("A family of 2 runs").click()
            page.get_by_role("link", name="Compare them").click()
            page.locator(".lecture .rb-edge").first.wait_for()
            expect(page.locator(".lecture .lc-card[data-run]")).to_have_count(2, timeout=30_000 * slack)
            page.get_by_role("slider", name="Place in the search").press("Home")
            page.wait_for_url(re.compile("[?&]at="))
            sees(page.get_by_text(re.compile("up to there it is one search")))
            sees(page.get_by_text("Settings that differ"))
        with clock.step("export: the cell as a picture, and the search as a report in one file"):
            page.get_by_role("link", name="Cells").first.click()
            page.get_by_role("button", name="SVG", exact=True).wait_for()
            page.get_by_test_id("stImage").first.wait_for()
            with page.expect_download() as picture:
                page.get_by_role("button", name="SVG", exact=True).click()
            assert Path(picture.value.path()).read_bytes().startswith(b"<svg")
            with page.expect_download(timeout=60_000 * slack) as report:
                page.get_by_role("button", name="HTML report", exact=True).click()
            assert b"mountLecture" in Path(report.value.path()).read_bytes()
        with clock.step("train the cell: Train this cell, first step"):
            page.get_by_role("button", name="Train this cell").click()
            trained = other_run(page, {first, own, branch, "collapsing", "healthy", "stopped-early"}, 60 * slack)
            wait_for_step(page, 1, 60 * slack)
        with clock.step("watch the training to its end"):
            finished(page, 300 * slack)
            sees(page.get_by_text(re.compile("Trained from scratch, this cell's network names")))
        print(f"{time.monotonic() - began:6.1f} s  the whole walk", flush=True)
    parent = runs.RunReader(folder, branch).info["parent"]
    assert parent["run"] == own and 0 < parent["epoch"] < 16
    assert runs.RunReader(folder, trained).info["config"]["strategy"] == "evaluate"
