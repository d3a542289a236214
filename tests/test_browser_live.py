"""The live page in headless Chromium: what people see while a search runs, and that nothing of it breaks under them.

Most tests watch tests/fake_writer.py, which writes a run at a known rate; those with `search` in their name watch the
real thing. Numbers in the names are those a reader would notice: seconds to a picture, milliseconds to scrub.
"""

from __future__ import annotations

import base64
import io
import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
from axe_playwright_python.sync_playwright import Axe
from PIL import Image
from playwright.sync_api import Browser, ConsoleMessage, Page, Response, expect

from darts_core import derive, runs
from darts_core.space import SearchSpace
from darts_core.view import svg
from tests import fake_writer
from tests.served import ROOT, Server, serve

pytestmark = pytest.mark.browser

BOARD = ".darts-board"


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """One dashboard for the tests that leave it as it is, with a finished run of 400 steps."""
    folder = tmp_path_factory.mktemp("browser") / "runs"
    fake_writer.write(folder, "done", steps=400, rate=0)
    with serve(folder) as running:
        yield running


@contextmanager
def visit(browser: Browser, server: Server, path: str = "/", killed: bool = False, **options: Any) -> Iterator[Page]:
    """A page of a visitor who has entered. Checks on leaving: nothing asked of another host, no dialog, no error.

    killed: the test kills the server, and the console says so.
    """
    options = {"viewport": {"width": 1440, "height": 1000}} | options
    context = browser.new_context(**options)
    context.set_default_timeout(30_000 * patience())
    page = context.new_page()
    troubles: list[str] = []
    page.on("console", lambda message: said(message, killed, troubles))
    page.on("pageerror", lambda error: troubles.append(str(error)))
    page.on("dialog", lambda dialog: troubles.append(f"dialog: {dialog.message}"))
    page.on("request", lambda request: asked(request.url, server, troubles))
    page.on("response", lambda response: answered(response, troubles))
    page.goto(server.link)
    if path != "/":
        page.goto(server.address + path)
    try:
        yield page
    except Exception:
        print(f"\nthe page at the failure: {page.url}\n{page.locator('body').inner_text()[:4000]}", flush=True)
        raise
    finally:
        context.close()
    assert not troubles


def asked(url: str, server: Server, troubles: list[str]) -> None:
    if not url.startswith((server.address, "data:", "blob:", server.address.replace("http", "ws"))):
        troubles.append(f"asked {url}")


def answered(response: Response, troubles: list[str]) -> None:
    # On an address like /runs Streamlit first looks for its server under /runs/_stcore, then under /_stcore.
    if response.status >= 400 and not re.search(r":\d+/[a-z]+/_stcore/", response.url):
        troubles.append(f"{response.status} for {response.url}")


def said(message: ConsoleMessage, killed: bool, troubles: list[str]) -> None:
    if message.type == "error" and not killed and "Failed to load resource" not in message.text:  # see `answered`
        troubles.append(message.text)


@contextmanager
def writing(server: Server, name: str, steps: int, rate: float, *more: str) -> Iterator[subprocess.Popen[bytes]]:
    """A run that is written while the test goes on."""
    command = [sys.executable, "-m", "tests.fake_writer", str(server.runs), name]
    command += ["--steps", str(steps), "--rate", str(rate), *more]
    writer = subprocess.Popen(command, cwd=ROOT)
    try:
        until(lambda: (server.runs / name / "run.json").exists() or writer.poll() is not None, 30 * patience())
        yield writer
    finally:
        writer.kill()
        writer.wait()


def until(true: Callable[[], Any], seconds: float, what: str = "") -> float:
    """Waits; returns how long it took."""
    began = time.monotonic()
    while not true():
        assert time.monotonic() - began < seconds, f"not within {seconds} s: {what}"
        time.sleep(0.05)
    return time.monotonic() - began


def facts(page: Page) -> dict[str, str]:
    """What the board says of itself."""
    return page.locator(BOARD).evaluate("element => ({...element.dataset})")


def shown(page: Page) -> int:
    return int(facts(page).get("shown") or 0)


def newest(page: Page) -> int:
    return int(facts(page).get("step") or 0)


def wait_for_step(page: Page, step: int, seconds: float = 0) -> float:
    """`seconds` at most; 0: half a minute, times the patience."""
    began = time.monotonic()
    page.wait_for_function(
        f"() => Number(document.querySelector('{BOARD}')?.dataset.step) >= {step}",
        timeout=1000 * (seconds or 30 * patience()),
    )
    return time.monotonic() - began


def wait_for_charts(page: Page) -> None:
    """All of them, one after another: until nothing was added to the page for a second and a half."""
    page.locator(f"{BOARD} .js-plotly-plot .main-svg").first.wait_for()
    page.wait_for_function(
        """() => {
            const count = document.querySelectorAll('*').length;
            if (Math.abs(count - (window.nodesThen ?? 0)) > 0.01 * count)
                Object.assign(window, {nodesThen: count, grewAt: performance.now()});
            return performance.now() - window.grewAt > 1500;
        }"""
    )


# 1 The first picture ----------------------------------------------------------------------------------------


def test_from_the_command_to_a_picture_in_five_seconds(browser: Browser, tmp_path: Path) -> None:
    """An empty folder of runs: a recorded search plays."""
    began = time.monotonic()
    with serve(tmp_path / "runs") as fresh, visit(browser, fresh) as page:
        page.locator(f"{BOARD} .rb-edge").first.wait_for()
        seconds = time.monotonic() - began
    assert seconds < 5 * patience(), f"{seconds:.1f} s"


def patience() -> float:
    """How much slower than an idle laptop with two cores this machine is allowed to be."""
    return float(os.environ.get("DARTS_TEST_PATIENCE", "2"))


# 3, 4 While it runs ------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_a_running_board_moves_smoothly_and_keeps_its_charts(browser: Browser, server: Server) -> None:
    """Ten seconds: two distinct steps a second at least, data younger than a second, no blank frame, same charts."""
    with writing(server, "smooth", 2000, 20), visit(browser, server, "/?run=smooth") as page:
        wait_for_step(page, 40)
        wait_for_charts(page)
        page.evaluate(
            """() => {
                window.charts = [...document.querySelectorAll('.darts-board .js-plotly-plot')];
                window.edges = [...document.querySelectorAll('.darts-board .rb-edge')];
                window.seen = []; window.ages = [];
                const board = document.querySelector('.darts-board');
                window.look = setInterval(() => {
                    window.seen.push(Number(board.dataset.shown)); window.ages.push(Number(board.dataset.age));
                }, 50);
            }"""
        )
        nodes = page.evaluate("document.querySelectorAll('*').length")
        frames = film(page, seconds=10)
        seen, ages = page.evaluate("[window.seen, window.ages]")
        assert len(set(seen)) >= 20 / patience(), f"{len(set(seen))} distinct steps in 10 s"
        assert sorted(seen) == seen, "steps only grow"
        assert np.percentile(ages, 95) < 1.0 * patience(), f"data age p95 {np.percentile(ages, 95):.2f} s"
        assert page.evaluate("[...window.charts, ...window.edges].every(node => node.isConnected)")
        assert page.evaluate("document.querySelectorAll('*').length") < 1.05 * nodes
        assert not blank(frames), f"{len(blank(frames))} of {len(frames)} frames are blank"


def film(page: Page, seconds: float) -> list[np.ndarray]:
    """Frames of the panel of the cell as the browser painted them, grey, from the DevTools protocol."""
    box = page.locator(f"{BOARD} .db-main").bounding_box()
    assert box is not None
    session = page.context.new_cdp_session(page)
    frames: list[np.ndarray] = []

    def take(frame: dict[str, Any]) -> None:
        session.send("Page.screencastFrameAck", {"sessionId": frame["sessionId"]})
        picture = Image.open(io.BytesIO(base64.b64decode(frame["data"]))).convert("L")
        scale = picture.width / 1440
        area = [int(edge * scale) for edge in (box["x"], box["y"], box["x"] + box["width"], box["y"] + box["height"])]
        frames.append(np.asarray(picture.crop((area[0], area[1], area[2], min(area[3], picture.height))), float))

    session.on("Page.screencastFrame", take)
    session.send("Page.startScreencast", {"format": "jpeg", "quality": 60, "maxWidth": 1440})
    page.wait_for_timeout(1000 * seconds)
    session.send("Page.stopScreencast")
    session.detach()
    assert len(frames) > 5, "the screen was not painted"
    return frames


def blank(frames: list[np.ndarray]) -> list[int]:
    """Frames whose panel deviates from grey by less than 40 % of the median: content is missing there."""
    deviations = np.array([frame.std() for frame in frames])
    return np.flatnonzero(deviations < 0.4 * np.median(deviations)).tolist()


@pytest.mark.slow
def test_zoom_typed_text_and_selected_edge_survive_updates(browser: Browser, server: Server) -> None:
    with writing(server, "zoomed", 2000, 20), visit(browser, server, "/?run=zoomed") as page:
        wait_for_step(page, 60)
        wait_for_charts(page)
        page.locator(f"{BOARD} .rb-edge").nth(3).focus()
        page.keyboard.press("Enter")
        page.wait_for_function("() => new URL(location).searchParams.get('edge') === 'normal-1-3'")
        page.get_by_text("All settings").click()
        typed = page.get_by_role("textbox", name="Folder or file of the data set")
        typed.fill("a note that I am typing")
        drag_across(page, "loss")
        before = zoom(page, "loss")
        step = newest(page)
        page.wait_for_timeout(5000)
        assert newest(page) > step + 20
        assert zoom(page, "loss") == before
        assert typed.input_value() == "a note that I am typing"
        assert page.locator(f"{BOARD} .rb-edge[aria-pressed=true]").count() == 1
        assert "edge=normal-1-3" in page.url


def drag_across(page: Page, chart: str) -> None:
    box = page.locator(f"{BOARD} [data-chart={chart}] .js-plotly-plot .nsewdrag").first
    box.scroll_into_view_if_needed()
    area = box.bounding_box()
    assert area is not None
    y = area["y"] + area["height"] / 2
    page.mouse.move(area["x"] + 0.2 * area["width"], y)
    page.mouse.down()
    page.mouse.move(area["x"] + 0.6 * area["width"], y + 3, steps=6)
    page.mouse.up()
    page.wait_for_function(
        f"""() => document.querySelector('{BOARD} [data-chart={chart}] .js-plotly-plot')
            ._fullLayout.xaxis.autorange !== true"""
    )


def zoom(page: Page, chart: str) -> list[float]:
    plot = page.locator(f"{BOARD} [data-chart={chart}] .js-plotly-plot")
    axis = plot.evaluate("plot => [plot._fullLayout.xaxis.autorange, ...plot._fullLayout.xaxis.range]")
    assert axis[0] in (False, None), "the zoom took hold"
    return axis[1:]


# 5, 6, 9 Control ------------------------------------------------------------------------------------------------


def test_pause_step_resume_and_stop_act_and_are_acknowledged(browser: Browser, server: Server) -> None:
    with writing(server, "steered", 4000, 20) as writer, visit(browser, server, "/?run=steered") as page:
        wait_for_step(page, 20)
        page.get_by_role("button", name="Pause", exact=True).click()
        page.wait_for_timeout(1000 * patience())
        held = runs.RunReader(server.runs, "steered")
        waits = held.step_count(), shown(page)
        page.wait_for_timeout(2000)
        assert (held.step_count(), shown(page)) == waits, "the search waits, and so does its picture"
        frozen = waits[0]
        assert shown(page) == frozen, "the board shows the last step"
        page.get_by_role("button", name="One step", exact=True).click()
        until(lambda: newest(page) == frozen + 1, 10 * patience(), "one step more")
        page.get_by_role("button", name="Stop").first.click()
        confirm = page.get_by_role("button", name="Stop it")
        expect(confirm).to_be_visible()
        runs.send_order(server.runs, "steered", "resume")
        expect(page.get_by_role("button", name="Pause", exact=True)).to_be_visible()
        wait_for_step(page, frozen + 20)
        expect(confirm).to_be_visible()  # another state has other buttons; the open question stays
        confirm.click()
        expect(page.get_by_test_id("stMain").get_by_text("stopped", exact=True).first).to_be_visible()
        assert writer.wait(30 * patience()) == 0


@contextmanager
def command_line(folder: Path, name: str) -> Iterator[subprocess.Popen[bytes]]:
    """A long real search, started as people start it in a terminal."""
    command = [sys.executable, "-m", "darts_core", "search", "--preset", "tiny", "--set", "epochs=900", "--name", name]
    process = subprocess.Popen([*command, "--runs", str(folder)], cwd=ROOT, stdout=subprocess.DEVNULL)
    try:
        yield process
    finally:
        process.kill()
        process.wait()


def start_of_notebook(number: str) -> str:
    """The cell of a notebook that starts its search, without the lines that show it."""
    (path,) = (ROOT / "notebooks" / "src").glob(f"{number}_*.py")
    kept = [cell for cell in path.read_text("utf-8").split("# %%") if "start(settings" in cell]
    return "\n".join(line for line in kept[0].splitlines()[1:] if not line.startswith(("live", "display")))


@pytest.mark.slow
def test_a_search_of_the_command_line_appears_in_three_seconds_and_is_paused_and_stopped_by_the_page(
    browser: Browser, tmp_path: Path
) -> None:
    """Stopped with exit code 0 and nothing trained first, paused within a second. So is a notebook's search offered."""
    folder = tmp_path / "runs"
    fake_writer.write(folder, "done", steps=40, rate=0)
    with serve(folder) as own, visit(browser, own, "/?run=done") as page, ExitStack() as ends:
        page.set_default_timeout(30_000 * patience())
        wait_for_step(page, 40)
        process = ends.enter_context(command_line(folder, "typed"))
        main = page.get_by_test_id("stMain")
        until(lambda: (folder / "typed" / "run.json").exists(), 20 * patience(), "the command made its run")
        picked_within(page, "typed", 3 * patience())
        wait_for_step(page, 3, 40 * patience())
        page.get_by_role("button", name="Pause", exact=True).click()
        page.wait_for_timeout(1000 * patience())
        reader = runs.RunReader(folder, "typed")
        frozen = reader.step_count()
        page.wait_for_timeout(2000)
        assert reader.step_count() == frozen == newest(page)
        page.get_by_role("button", name="Resume", exact=True).click()
        wait_for_step(page, frozen + 3, 20 * patience())
        page.get_by_role("button", name="Stop").first.click()
        page.get_by_role("button", name="Stop it").click()
        asked = time.monotonic()
        assert process.wait(30 * patience()) == 0
        print(f"the process was gone {time.monotonic() - asked:.1f} s after the click")
        expect(main.get_by_text("stopped", exact=True).first).to_be_visible(timeout=30_000 * patience())
        told = [event["type"] for event in reader.events()[0]]
        assert told[-1] == "finished" and "trained" not in told, "nobody waited for what its cell is worth"
        code = "from app.process import start\nfrom darts_core.config import preset_named\n"
        code += "from darts_core.runs import runs_root\nFAST = False\n" + start_of_notebook("00")
        known = {path.name for path in folder.iterdir()}
        lesson = subprocess.Popen([sys.executable, "-c", code], cwd=ROOT, env=os.environ | {"DARTS_RUNS": str(folder)})
        made = lambda: [p.parent.name for p in folder.glob("*/run.json") if p.parent.name not in known]  # noqa: E731
        until(made, 20 * patience(), "the notebook made its run")
        picked_within(page, made()[0], 3 * patience())
        assert lesson.wait(20 * patience()) == 0
        runs.send_order(folder, made()[0], "stop")
        until(lambda: not searches(folder), 40 * patience(), "both searches are gone")


def picked_within(page: Page, name: str, seconds: float) -> None:
    """Picks a run that has just begun, which the picker offers within so many seconds."""
    page.wait_for_timeout(1000 * seconds)
    page.get_by_label("Run", exact=True).click()
    option = page.get_by_role("option").filter(has_text=name)
    expect(option.first).to_be_visible(timeout=1000 * patience())
    option.first.click()
    there = f"() => document.querySelector('{BOARD}')?.dataset.run === '{name}'"
    page.wait_for_function(there, timeout=60_000 * patience())


def test_steering_is_acknowledged_with_a_step_and_marked_on_every_chart(browser: Browser, server: Server) -> None:
    with writing(server, "tuned", 4000, 20), visit(browser, server, "/?run=tuned") as page:
        wait_for_step(page, 20)
        wait_for_charts(page)
        page.get_by_role("button", name="Steer").click()
        rate = page.get_by_test_id("stPopoverBody").get_by_role("spinbutton", name="Learning rate of the alphas")
        rate.fill("0.02")
        rate.press("Tab")
        page.get_by_role("button", name="Apply").click()
        answer = page.get_by_text("a_lr = 0.02: applied at step")
        expect(answer).to_be_visible()
        step = int(answer.inner_text().rsplit(" ", 1)[1])
        order = [event for event in runs.RunReader(server.runs, "tuned").events()[0] if event["type"] == "applied"]
        assert [(event["name"], event["value"], event["step"]) for event in order] == [("a_lr", 0.02, step)]
        edited = page.get_by_text(re.compile(r"\bedited$")).filter(visible=True)
        expect(edited.first).to_be_visible()
        page.keyboard.press("Escape")
        charts = page.locator(f"{BOARD} [data-chart]:has(.js-plotly-plot)").evaluate_all(
            "all => all.filter(card => !card.hidden).map(card => card.dataset.chart)"
        )
        assert {"edge", "shares", "loss", "accuracy", "entropy", "eigenvalue", "parameters", "macs"} <= set(charts)
        for chart in charts:
            plot = page.locator(f"{BOARD} [data-chart={chart}] .js-plotly-plot")
            plot.scroll_into_view_if_needed()
            until(
                lambda plot=plot: any(mark.get("x0") == step for mark in shapes(plot)),
                5,
                f"a mark at {step} in {chart}",
            )


def test_an_operation_is_banned_by_a_click_on_the_edge_and_branch_from_here_opens_at_that_epoch(
    browser: Browser, server: Server
) -> None:
    with writing(server, "edges", 4000, 20), visit(browser, server, "/?run=edges") as page:
        wait_for_step(page, 50)
        wait_for_charts(page)
        page.locator(f"{BOARD} .rb-edge").nth(2).focus()
        page.keyboard.press("Enter")
        page.get_by_role("button", name="Ban skip_connect on this edge").click()
        answer = page.locator(f"{BOARD} .db-steering").get_by_text("ban skip_connect: applied at step")
        expect(answer).to_be_visible()
        step = int(answer.inner_text().rsplit(" ", 1)[1])
        told = [event for event in runs.RunReader(server.runs, "edges").events()[0] if event["type"] == "applied"]
        assert [(e["kind"], e["name"], e["value"], e["step"]) for e in told] == [
            ("ban", "normal-0-3", "skip_connect", step)
        ]
        plot = page.locator(f"{BOARD} [data-chart=loss] .js-plotly-plot")
        until(lambda: any(mark.get("x0") == step for mark in shapes(plot)), 5 * patience(), "a mark in the loss")
        expect(page.get_by_role("button", name="Reset edge")).to_be_visible()
        assert "pinned to sep_conv_3x3 by hand" in str(
            page.locator(f"{BOARD} .rb-edge").nth(2).get_attribute("aria-label")
        )
        page.get_by_role("button", name="Branch from here").click()
        expect(page.get_by_test_id("stPopoverBody")).to_be_visible()
        expect(page.get_by_test_id("stPopoverBody")).to_contain_text("There is no checkpoint yet")


def shapes(plot: Any) -> list[dict[str, Any]]:
    return plot.evaluate("plot => (plot.layout.shapes ?? []).map(shape => ({...shape}))")


# 7, 8 Reload, second tab, killed server -----------------------------------------------------------------------


@pytest.mark.slow
def test_a_reload_and_a_second_tab_show_the_same(browser: Browser, server: Server) -> None:
    with visit(browser, server, "/?run=done") as page:
        wait_for_step(page, 400)
        page.locator(f"{BOARD} .rb-edge").nth(4).focus()
        page.keyboard.press("Enter")
        page.get_by_role("slider", name="Step shown").focus()
        for _ in range(3):
            page.keyboard.press("ArrowLeft")
        page.wait_for_function(
            "() => new URL(location).searchParams.get('step') && new URL(location).searchParams.get('edge')"
        )
        url, step = page.url, shown(page)
        page.reload()
        wait_for_step(page, 400)
        until(lambda: shown(page) == step, 10 * patience(), "the same step")
        assert page.url == url
        second = page.context.new_page()
        second.goto(url)
        wait_for_step(second, 400)
        until(lambda: shown(second) == step, 10 * patience(), "the same step in a second tab")


@pytest.mark.slow
def test_two_tabs_of_a_running_search_are_within_a_second(browser: Browser, server: Server) -> None:
    with writing(server, "twins", 2000, 20), visit(browser, server, "/?run=twins") as page:
        wait_for_step(page, 30)
        second = page.context.new_page()
        second.goto(page.url)
        wait_for_step(second, 60)
        page.bring_to_front()
        page.wait_for_timeout(500)
        assert abs(newest(page) - newest(second)) <= 20 * patience()


@pytest.mark.slow
def test_five_thousand_steps_are_there_in_three_seconds(browser: Browser, server: Server) -> None:
    fake_writer.write(server.runs, "long", steps=6000, rate=0)
    with visit(browser, server, "/?run=long") as page:
        wait_for_step(page, 6000)
        began = time.monotonic()
        page.reload()
        wait_for_step(page, 6000)
        assert time.monotonic() - began < 3 * patience()


def test_a_killed_server_loses_nothing_and_the_page_comes_back_by_itself(browser: Browser, tmp_path: Path) -> None:
    runs_folder = tmp_path / "runs"
    with (
        serve(runs_folder) as own,
        writing(own, "steady", 1200, 20) as writer,
        visit(browser, own, "/?run=steady", killed=True) as page,
    ):
        wait_for_step(page, 40)
        page.get_by_text("All settings").click()
        typed = page.get_by_role("textbox", name="Folder or file of the data set")
        typed.fill("still here")
        own.kill()
        page.wait_for_timeout(1500)
        assert page.locator(f"{BOARD} .rb-edge").count() == 9, "the picture stays"
        before = newest(page)
        own.start()
        back = time.monotonic()
        wait_for_step(page, before + 60)
        assert time.monotonic() - back < 10 * patience()
        assert writer.poll() is None, "the search never noticed"
        steps = page.locator(BOARD).evaluate(
            "root => Array.from({length: root.board.records.count}, (_, i) => root.board.records.step(i))"
        )
        assert steps == list(range(1, len(steps) + 1)), "no gap, no double"
        assert typed.input_value() == "still here"


@pytest.mark.slow
def test_a_server_that_went_away_leaves_the_picture_and_one_sentence(browser: Browser, tmp_path: Path) -> None:
    """Streamlit's dialog, which covers and locks the page, is closed; one can go on looking and scrubbing."""
    fake_writer.write(tmp_path / "runs", "done", steps=100, rate=0)
    with serve(tmp_path / "runs") as own, visit(browser, own, "/?run=done", killed=True) as page:
        wait_for_step(page, 100)
        page.locator("[data-testid=stApp][data-test-script-state=notRunning]").wait_for()
        sentence = page.get_by_role("alert").filter(has_text="The dashboard does not answer")
        expect(sentence).to_have_count(0)
        page.evaluate(
            """() => new MutationObserver((all) => {
                const added = all.flatMap((change) => [...change.addedNodes]);
                if (added.some((node) => node.dataset?.testid === "stDialog")) window.dialog = "came";
            }).observe(document.body, {childList: true})"""
        )
        own.kill()
        expect(sentence).to_be_visible(timeout=30_000 * patience())
        page.wait_for_function("window.dialog === 'came'", timeout=60_000 * patience())
        expect(page.get_by_test_id("stDialog")).to_have_count(0, timeout=30_000 * patience())
        scrubber = page.get_by_role("slider", name="Step shown")
        scrubber.press("Home", timeout=30_000 * patience())
        until(lambda: shown(page) == 1, 10 * patience(), "the first step")
        assert page.locator(f"{BOARD} .rb-edge").count() == 9, "the picture stays"
        own.start()
        expect(sentence).to_be_hidden(timeout=60_000 * patience())
        assert shown(page) == 1, "and it stays where it was held"


# 10 Damage ------------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_damaged_runs_are_sentences_and_never_tracebacks(browser: Browser, server: Server) -> None:
    damages = {
        "no-json": ("run.json", b"{"),
        "other-schema": ("run.json", json.dumps({"schema": 99}).encode()),
        "short-steps": ("steps.bin", b"DARTSRUN"),
        "torn-events": ("events.jsonl", b'{"type":"phase","na'),
    }
    for name, (file, data) in damages.items():
        fake_writer.write(server.runs, name, steps=3, rate=0)
        (server.runs / name / file).write_bytes(data)
    (server.runs / "empty-folder").mkdir()
    with visit(browser, server, "/?run=done") as page:
        for name in (*damages, "empty-folder", "..%2fx"):
            page.goto(f"{server.address}/?run={name}")
            main = page.get_by_test_id("stMain")
            expect(main.get_by_role("alert").or_(main.locator(BOARD)).first).to_be_visible()
            page.wait_for_timeout(300)
            text = page.locator("body").inner_text()
            assert "Traceback" not in text and "Error:" not in text, f"{name}: {text[:400]}"
    for name in damages:
        runs.trash(server.runs, name)


@pytest.mark.slow
def test_what_a_run_says_cannot_act(browser: Browser, server: Server) -> None:
    """Titles, messages and reasons with markup: no dialog, no request to another host (checked by `visit`)."""
    evil = (
        "<img src=x onerror=alert(1)><script>alert(2)</script>![x](http://evil.example/x.png)"
        "[click](javascript:alert(3)) $x$ :red[r] <svg onload=alert(4)>"
    )
    with runs.RunWriter.create(server.runs, "evil", fake_writer.info("evil", 10) | {"title": evil}) as writer:
        writer.append(fake_writer.events.Phase("data", evil))
        writer.append(fake_writer.events.Alarm(0, 0, "drifting", evil))
        writer.append(fake_writer.events.Failure(0, evil, evil))
    (server.runs / "evil" / "log.txt").write_text(evil)
    with visit(browser, server, "/?run=evil") as page:
        expect(page.get_by_test_id("stMain").get_by_role("alert").first).to_be_visible()
        page.wait_for_timeout(1500)
        assert page.locator("a[href^='javascript'], img[src*='evil.example']").count() == 0
        page.goto(server.address + "/runs")
        page.wait_for_timeout(1500)


# 11 Scrubbing ---------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_one_scrubber_moves_all_panels_within_a_tenth_of_a_second(browser: Browser, server: Server) -> None:
    reader = runs.RunReader(server.runs, "done")
    space = SearchSpace.from_json(reader.info["space"])
    with visit(browser, server, "/?run=done&show=all") as page:
        wait_for_step(page, 400)
        wait_for_charts(page)
        for share in (0.0, 0.5, 1.0):
            step = max(1, round(400 * share))
            milliseconds = page.locator(BOARD).evaluate(
                """(root, step) => new Promise(done => {
                    const began = performance.now();
                    const range = root.querySelector('input[type=range]');
                    const all = [...Array(Number(range.max) + 1).keys()];
                    range.value = all.findIndex(i => root.board.records.step(i) === step);
                    range.dispatchEvent(new Event('input', {bubbles: true}));
                    const look = () => Number(root.dataset.shown) === step
                        ? done(performance.now() - began) : requestAnimationFrame(look);
                    look();
                })""",
                step,
            )
            assert milliseconds < 100 * patience(), f"{milliseconds:.0f} ms"
            page.wait_for_timeout(400)  # at the end the board follows again, and moves there
            row = reader.steps(step - 1, 1)["mix.normal"][0]
            for edge, weights in enumerate(stripes(page)):
                assert weights == pytest.approx(row[edge], abs=1e-3), f"edge {edge} at step {step}"
                assert sum(weights) == pytest.approx(1, abs=1e-3), "the stripes fill the ribbon"
            assert f"step {step} of" in page.locator(".db-position").inner_text()
            said = page.locator(".db-heat .db-tile").evaluate_all(
                "all => all.map(tile => tile.title.split(' ').at(-2))"
            )
            assert [float(one) for one in said] == pytest.approx((100 * row).ravel(), abs=0.051), "the map of edges"
            chosen = page.locator(".db-barrow .db-value").all_inner_texts()
            assert [float(one.split()[0]) for one in chosen] == pytest.approx(100 * row[0], abs=0.051), (
                "the edge's card"
            )
            skips = derive.collapse(space, {"normal": row}).derived_skips
            assert page.locator(".db-meter-text").inner_text().startswith(f"{skips} of 6 derived edges are")
            sentences = page.locator(f"{BOARD} .rb-edge").evaluate_all(
                "all => all.map(e => e.getAttribute('aria-label'))"
            )
            assert f"{100 * row[0].max():.0f}" in sentences[0]


def stripes(page: Page) -> list[list[float]]:
    """Per edge, each stripe as a share of the width of its ribbon, measured on the drawn paths at their middle.

    A stripe reaches a little under its neighbour; that is taken off.
    """
    return page.locator(f"{BOARD} .rb-edge").evaluate_all(
        """(edges, [wide, seam]) => edges.map(edge => {
            const widths = [...edge.querySelectorAll('.rb-band')].map(band => {
                const numbers = (band.getAttribute('d') ?? '').match(/-?[0-9.]+/g)?.map(Number) ?? [];
                const points = [];
                for (let i = 0; i + 1 < numbers.length; i += 2) points.push([numbers[i], numbers[i + 1]]);
                if (points.length < 4) return 0;
                const half = points.length / 2, middle = Math.floor(half / 2);
                const [a, b] = [points[middle], points[points.length - 1 - middle]];
                return Math.hypot(a[0] - b[0], a[1] - b[1]);
            });
            return widths.map(width => width ? (width - seam) / wide : 0);
        })""",
        [svg.WIDE, svg.SEAM],
    )


# 12 Downloads ---------------------------------------------------------------------------------------------------


def test_downloads_parse_and_rerun_nothing(browser: Browser, server: Server) -> None:
    with visit(browser, server, "/?run=done", accept_downloads=True) as page:
        wait_for_step(page, 400)
        page.get_by_role("button", name="Download").click()
        starts = {"SVG": b"<svg", "PDF": b"%PDF", "PNG": b"\x89PNG", "DOT": b"digraph", "DARTS text": b"Genotype("}
        for title, start in starts.items():
            with page.expect_download() as download:
                page.get_by_test_id("stPopoverBody").get_by_role("button", name=title, exact=True).click()
            data = Path(download.value.path()).read_bytes()
            assert start in data[:200], f"{title}: {data[:60]!r}"
        with page.expect_download() as download:
            page.get_by_role("button", name="Genotype (JSON)").click()
        assert json.loads(Path(download.value.path()).read_bytes())["space"] == "s2"


# 13, 14 Looks ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_contrast_names_and_roles_hold_in_both_themes(browser: Browser, server: Server, scheme: str) -> None:
    with visit(browser, server, "/?run=done", color_scheme=scheme) as page:
        wait_for_step(page, 400)
        wait_for_charts(page)
        found = Axe().run(page, options={"resultTypes": ["violations"]}).response["violations"]
        serious = [
            (
                rule["id"],
                [node["html"][:160] for node in rule["nodes"]][:4],
                rule["nodes"][0].get("failureSummary", "")[:300],
            )
            for rule in found
            if rule["impact"] in ("serious", "critical")
        ]
        assert not serious, json.dumps(serious, indent=1)
        grid = page.locator(f"{BOARD} [data-chart=loss] .js-plotly-plot").evaluate("p => p._fullLayout.xaxis.gridcolor")
        assert (scheme == "dark") == (luminance(grid) < 0.5), f"grid {grid} on {scheme}"


def luminance(colour: str) -> float:
    """From 0 to 1, of #rrggbb or rgb(...)."""
    if colour.startswith("#"):
        parts = [int(colour[i : i + 2], 16) for i in (1, 3, 5)]
    else:
        parts = [float(part) for part in colour.split("(")[1].rstrip(")").split(",")[:3]]
    return sum(weight * part / 255 for weight, part in zip((0.2126, 0.7152, 0.0722), parts, strict=True))


@pytest.mark.slow
def test_every_edge_is_reached_by_tab_and_says_its_weights(browser: Browser, server: Server) -> None:
    with visit(browser, server, "/?run=done") as page:
        wait_for_step(page, 400)
        edges = page.locator(f"{BOARD} .db-main .rb-edge")
        edges.first.focus()
        labels = []
        for _ in range(9):
            labels.append(page.evaluate("document.activeElement.getAttribute('aria-label')"))
            page.keyboard.press("Tab")
        assert len(set(labels)) == 9 and all("skip_connect" in label and "%" in label for label in labels)


@pytest.mark.slow
def test_reduced_motion_means_no_tween(browser: Browser, server: Server) -> None:
    with writing(server, "still", 600, 20), visit(browser, server, "/?run=still", reduced_motion="reduce") as page:
        wait_for_step(page, 40)
        changes = page.locator(BOARD).evaluate(
            """root => new Promise(done => {
                let frames = 0, moved = 0, last = '', began = performance.now();
                const band = root.querySelector('.rb-band');
                const look = now => {
                    const d = band.getAttribute('d'); frames += 1; if (d !== last) { moved += 1; last = d; }
                    now - began < 2000 ? requestAnimationFrame(look) : done(moved);
                };
                requestAnimationFrame(look);
            })"""
        )
        assert changes <= 2 * 10 + 2, f"{changes} changes in 2 s: more than there were messages"


@pytest.mark.parametrize(
    "width", [420, pytest.param(768, marks=pytest.mark.slow), pytest.param(1440, marks=pytest.mark.slow)]
)
@pytest.mark.parametrize("path", ["/?run=done", "/runs"])
def test_no_page_is_wider_than_the_window(browser: Browser, server: Server, width: int, path: str) -> None:
    with visit(browser, server, path, viewport={"width": width, "height": 900}) as page:
        if "run=" in path:
            wait_for_step(page, 400)
        page.wait_for_timeout(1500)
        wide = page.evaluate(
            "Math.max(document.documentElement.scrollWidth, document.querySelector('[data-testid=stMain]').scrollWidth)"
        )
        assert wide <= width


# 15 Strangers ---------------------------------------------------------------------------------------------------


def test_a_stranger_sees_one_sentence(browser: Browser, server: Server) -> None:
    context = browser.new_context()
    page = context.new_page()
    for path in ("/", "/runs", "/?run=done", "/darts/enter?token=wrong"):
        answer = page.goto(server.address + path)
        assert answer is not None and answer.status == 403
        assert "printed" in page.locator("body").inner_text() and "done" not in page.content()
    context.close()


# 2, 5, 8 The real search ------------------------------------------------------------------------------------------


def test_a_tiny_search_is_started_watched_and_finished(browser: Browser, tmp_path: Path) -> None:
    with serve(tmp_path / "runs") as own, visit(browser, own) as page:
        page.get_by_text("Tiny", exact=True).first.click()
        page.get_by_role("button", name="Start", exact=True).click()
        began = time.monotonic()
        expect(page.get_by_test_id("stMain").get_by_text("starting").first).to_be_visible(timeout=1000 * patience())
        wait_for_step(page, 1, 15 * patience())
        first = time.monotonic() - began
        expect(page.get_by_test_id("stMain").get_by_text("finished", exact=True).first).to_be_visible(
            timeout=1000 * 60 * patience()
        )
        print(f"first step after {first:.1f} s, finished after {time.monotonic() - began:.1f} s")
        expect(page.get_by_role("button", name="Download").first).to_be_visible()
        until(lambda: not searches(own.runs), 20 * patience(), "the process is gone")


def searches(folder: Path) -> list[psutil.Process]:
    """Live processes that search in this folder."""
    found = []
    for process in psutil.process_iter(["cmdline", "status"]):
        line = process.info["cmdline"] or []
        if str(folder) in line and "darts_core" in line and process.info["status"] != psutil.STATUS_ZOMBIE:
            found.append(process)
    return found


@pytest.mark.slow
def test_a_real_search_is_paused_steered_stopped_and_its_kill_is_survived(browser: Browser, tmp_path: Path) -> None:
    began = time.monotonic()
    with serve(tmp_path / "runs", "--port", "18501") as own, visit(browser, own) as page:
        page.locator(f"{BOARD} .rb-edge").first.wait_for()
        picture = time.monotonic() - began
        page.wait_for_function("() => document.querySelector('.darts-board')?.dataset.run === 'digits-darts-001'")
        wait_for_step(page, 1, 30 * patience())
        live = time.monotonic() - began
        print(f"from the command: picture after {picture:.1f} s, live after {live:.1f} s")
        assert picture < 5 * patience() and live < 15 * patience()
        wait_for_step(page, 4, 30 * patience())
        expect(page.get_by_text("40 % of the search labels are replaced at random")).to_be_visible()
        (search,) = searches(own.runs)
        page.get_by_role("button", name="Pause", exact=True).click()
        page.get_by_role("button", name="One step", exact=True).wait_for(timeout=5000 * patience())
        held = newest(page)
        page.wait_for_timeout(2000)
        assert newest(page) <= held + 1
        search.send_signal(signal.SIGKILL)
        resume = page.get_by_test_id("stMain").get_by_role("button", name="Resume", exact=True)
        expect(page.get_by_text("This search was interrupted")).to_be_visible(timeout=20_000 * patience())
        expect(resume).to_have_count(1, timeout=20_000 * patience())  # that of the paused one goes away
        resume.click()
        step = newest(page)
        wait_for_step(page, step + 10, 40 * patience())
        recorded = runs.RunReader(own.runs, "digits-darts-001").steps()["step"].tolist()
        assert recorded == list(range(1, len(recorded) + 1)), "it went on at the next step: no gap, no double"
        page.get_by_role("button", name="Stop").first.click()
        page.get_by_role("button", name="Stop it").click()
        stopped = page.get_by_test_id("stMain").get_by_text("stopped", exact=True).first
        expect(stopped).to_be_visible(timeout=30_000 * patience())
        until(lambda: not searches(own.runs), 20 * patience(), "the process is gone")


# 18 Soak ------------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_watching_for_long_grows_neither_the_page_nor_the_server(browser: Browser, server: Server) -> None:
    """$DARTS_SOAK seconds of a running search (600 for the whole check): heap below 60 MB more, server below 30 MB."""
    seconds = float(os.environ.get("DARTS_SOAK", "60"))
    with writing(server, "soak", 1_000_000, 20), visit(browser, server, "/?run=soak") as page:
        wait_for_step(page, 100)
        wait_for_charts(page)
        session = page.context.new_cdp_session(page)
        assert server.process is not None
        process = psutil.Process(server.process.pid)

        def sizes() -> tuple[float, float]:
            session.send("HeapProfiler.collectGarbage")
            heap = session.send("Runtime.getHeapUsage")["usedSize"]
            family = [process, *process.children(recursive=True)]
            return heap / 1e6, sum(member.memory_info().rss for member in family) / 1e6

        heap, memory = sizes()
        step = newest(page)
        page.wait_for_timeout(1000 * seconds)
        later_heap, later_memory = sizes()
        print(f"{seconds:g} s: heap {heap:.1f} to {later_heap:.1f} MB, server {memory:.1f} to {later_memory:.1f} MB")
        assert newest(page) > step + seconds, "it was watched"
        assert later_heap - heap < 60, f"{heap:.0f} MB of heap, then {later_heap:.0f}"
        assert later_memory - memory < 30, f"{memory:.0f} MB of the server, then {later_memory:.0f}"
