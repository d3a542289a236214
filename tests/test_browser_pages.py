"""Replay, Compare, Cells, Runs and Learn in headless Chromium: what people see, narrow and wide, light and dark."""

from __future__ import annotations

import io
import json
import re
import signal
import time
import zipfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from axe_playwright_python.sync_playwright import Axe
from PIL import Image
from playwright.sync_api import Browser, Page, expect
from streamlit.proto.BackMsg_pb2 import BackMsg

from darts_core import runs
from darts_core.genotype import Genotype
from darts_core.view.recorded import recorded
from tests import fake_writer
from tests.served import Server, serve
from tests.test_browser_live import facts, patience, visit

pytestmark = pytest.mark.browser

SAMPLES = Path(__file__).parent.parent / "data" / "samples"
PAGES = {  # address, and what is there once the page is drawn
    "replay": ("/replay?run=collapsing&step=88", ".darts-board .rb-edge"),
    "compare": ("/compare", ".lecture .rb-edge"),
    "cells": ("/cells?run=collapsing", "[data-testid=stImage] img"),
    "runs": ("/runs", "[data-testid=stDataFrame] canvas"),
    "learn": ("/learn", ".darts-board .rb-edge"),
}
WIDTHS = (1440, 768, 420)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    folder = tmp_path_factory.mktemp("pages") / "runs"
    for seed in (0, 1):
        fake_writer.write(folder, f"run-s{seed}", steps=160, rate=0, seed=seed)
    with serve(folder) as running:
        yield running


def settled(page: Page, there: str) -> None:
    page.locator(there).first.wait_for(timeout=60_000 * patience())
    page.wait_for_timeout(1500)


@pytest.mark.parametrize("scheme", ["light", pytest.param("dark", marks=pytest.mark.slow)])
@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=[] if name == "compare" else pytest.mark.slow) for name in PAGES]
)
def test_a_page_fits_every_width_and_says_everything_to_everyone(
    browser: Browser, server: Server, name: str, scheme: str
) -> None:
    """No overflow, nothing serious for axe, no request to another host, no error in the console (`visit` checks)."""
    address, there = PAGES[name]
    with visit(browser, server, address, color_scheme=scheme) as page:
        settled(page, there)
        for width in WIDTHS:
            page.set_viewport_size({"width": width, "height": 1000})
            page.wait_for_timeout(700)
            assert not page.evaluate("document.documentElement.scrollWidth > innerWidth"), f"{width} overflows"
        page.set_viewport_size({"width": 1440, "height": 1000})
        page.wait_for_timeout(700)
        picture = np.asarray(Image.open(io.BytesIO(page.screenshot())).convert("L"), float)
        assert (np.median(picture) < 60) == (scheme == "dark"), "the ground follows the theme"
        found = Axe().run(page, options={"resultTypes": ["violations"]}).response["violations"]
        serious = [(v["id"], v["nodes"][0]["html"][:160]) for v in found if v["impact"] in ("serious", "critical")]
        assert not serious


# Compare --------------------------------------------------------------------------------------------------


def shown(page: Page) -> list[int]:
    text = page.locator(".lecture").first.get_attribute("data-shown") or ""
    return [int(step) for step in text.split(",") if step]


@pytest.mark.parametrize("by", ["step", pytest.param("percent", marks=pytest.mark.slow)])
def test_one_scrubber_moves_all_runs_and_the_stripes_are_those_of_the_record(
    browser: Browser, server: Server, by: str
) -> None:
    names = ["collapsing", "stopped-early"]
    found = [recorded(runs.RunReader(SAMPLES, name)) for name in names]
    with visit(browser, server, f"/compare?runs={','.join(names)}&by={by}") as page:
        settled(page, ".lecture .rb-edge")
        slider = page.get_by_role("slider", name="Place in the search")
        for key in ("Home", "End"):
            slider.press(key)
            steps = [run.steps["step"][0 if key == "Home" else -1] for run in found]
            assert shown(page) == steps
            for at, run in enumerate(found):
                mix = run.mixes(0 if key == "Home" else -1)["normal"][0]
                label = page.locator(".lc-card").nth(at).locator(".rb-edge").first.get_attribute("aria-label") or ""
                said = sorted(int(part) for part in re.findall(r"(\d+) %", label))
                np.testing.assert_allclose(said, sorted(100 * mix), atol=0.51)
        began = time.monotonic()
        slider.press("ArrowLeft")
        assert shown(page) != steps and time.monotonic() - began < 2 * patience()
        page.wait_for_function("() => new URL(location).searchParams.has('at')")


# Replay ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("path, slider", [
    ("/compare?runs=collapsing,healthy", "Place in the search"), ("/replay?run=collapsing", "Step shown"),
])  # fmt: skip
def test_after_a_click_on_a_link_the_page_that_is_left_says_no_more(
    browser: Browser, server: Server, path: str, slider: str
) -> None:
    assert server.process is not None
    sent: list[BackMsg] = []
    with visit(browser, server) as page:
        page.on("websocket", lambda socket: socket.on("framesent", lambda data: sent.append(BackMsg.FromString(data))))
        page.goto(server.address + path)
        page.locator(".rb-edge").first.wait_for()
        page.wait_for_timeout(1000)
        server.process.send_signal(signal.SIGSTOP)  # a busy server: the old page stays until it goes on
        try:
            page.get_by_role("slider", name=slider).press("Home")
            page.get_by_role("link", name="Learn").first.click()
            before = len(sent)
            page.wait_for_timeout(1000)
        finally:
            server.process.send_signal(signal.SIGCONT)
        page.get_by_role("heading", name="Learn").first.wait_for(timeout=30_000 * patience())
    late = [one.rerun_script.fragment_id for one in sent[before:] if one.WhichOneof("type") == "rerun_script"]
    assert not any(late)


def test_a_link_opens_replay_at_its_step_and_a_flag_leads_to_another(browser: Browser, server: Server) -> None:
    with visit(browser, server, "/replay?run=collapsing&step=120") as page:
        settled(page, ".darts-board .rb-edge")
        assert facts(page)["shown"] == "120"
        page.get_by_role("button", name=re.compile("collapsed")).click()
        page.wait_for_function("() => document.querySelector('.darts-board').dataset.shown === '88'")
        assert "step=88" in page.url


@pytest.mark.slow
def test_without_a_step_replay_plays_and_space_holds_it(browser: Browser, server: Server) -> None:
    with visit(browser, server, "/replay?run=healthy") as page:
        settled(page, ".darts-board .rb-edge")
        seen = set()
        until = time.monotonic() + 20
        while len(seen) < 5 and time.monotonic() < until:
            seen.add(facts(page)["shown"])
            page.wait_for_timeout(150)
        assert len(seen) >= 5
        page.get_by_role("button", name="Pause view").click()
        page.wait_for_function("() => new URL(location).searchParams.has('step')")
        held = facts(page)["shown"]
        page.wait_for_timeout(1000)
        assert facts(page)["shown"] == held and f"step={held}" in page.url


# Cells and Runs -------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_downloads_hold_what_they_say_and_rerun_nothing(browser: Browser, server: Server) -> None:
    with visit(browser, server, "/cells?run=collapsing", accept_downloads=True) as page:
        settled(page, "[data-testid=stImage] img")
        got: dict[str, bytes] = {}
        for title in ("Genotype (JSON)", "SVG", "PDF", "PNG", "HTML report", "Run (zip)"):
            with page.expect_download(timeout=60_000 * patience()) as waiting:
                page.get_by_role("button", name=title, exact=True).click()
            got[title] = Path(waiting.value.path()).read_bytes()
        genotype = recorded(runs.RunReader(SAMPLES, "collapsing")).result()
        assert genotype is not None and Genotype.from_json(json.loads(got["Genotype (JSON)"])) == genotype
        assert got["SVG"].startswith(b"<svg") and got["PDF"].startswith(b"%PDF") and got["PNG"].startswith(b"\x89PNG")
        assert b"mountLecture" in got["HTML report"]
        assert "steps.bin" in zipfile.ZipFile(io.BytesIO(got["Run (zip)"])).namelist()


@pytest.mark.slow
def test_why_shows_a_card_for_each_kept_edge(browser: Browser, server: Server) -> None:
    with visit(browser, server, "/cells?run=collapsing") as page:
        settled(page, "[data-testid=stImage] img")
        page.get_by_role("tab", name="Why").click()
        cards = page.locator(".lecture .lc-card")
        cards.first.wait_for()
        expect(cards).to_have_count(6)
        assert "skip_connect carries" in cards.first.inner_text()
        assert cards.first.locator("svg.ch path").count() >= 2


@pytest.mark.slow
def test_a_zip_of_one_dashboard_becomes_a_run_of_another(browser: Browser, server: Server, tmp_path: Path) -> None:
    path = tmp_path / "brought.zip"
    path.write_bytes(runs.export_run(SAMPLES, "healthy"))
    with visit(browser, server, "/runs") as page:
        settled(page, "[data-testid=stDataFrame] canvas")
        page.get_by_text("Import a run").click()
        page.locator("input[type=file]").set_input_files(path)
        page.get_by_text("brought.zip").wait_for()
        page.get_by_role("button", name="Import", exact=True).click()
        page.get_by_text("brought is there: 320 steps.").wait_for()
    assert (server.runs / "brought" / "steps.bin").read_bytes() == (SAMPLES / "healthy" / "steps.bin").read_bytes()
    runs.trash(server.runs, "brought")


def test_without_the_cookie_no_page_and_no_route_says_a_name(server: Server) -> None:
    import httpx

    for path in (*(address for address, _ in PAGES.values()), "/darts/runs/run-s0/history"):
        answer = httpx.get(server.address + path)
        assert answer.status_code == 403 and "run-s0" not in answer.text and "collapsing" not in answer.text
        evil = httpx.get(server.address + path, headers={"Host": "evil.example"})
        assert 400 <= evil.status_code < 500
