"""The board in a real browser, fed with made-up runs over the protocol of its routes (no Streamlit)."""

from __future__ import annotations

import base64
import json
import re
import time
import xml.etree.ElementTree as ET
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import pytest
from axe_playwright_python.sync_playwright import Axe
from board_stage import (
    DARK,
    METRICS,
    Stage,
    applied,
    made_up_ending,
    made_up_run,
    made_up_steps,
    sealed,
    served,
)
from playwright.sync_api import Browser, Page, expect

from darts_core import cost, derive, truth
from darts_core.config import SearchConfig
from darts_core.genotype import Genotype
from darts_core.space import space_named
from darts_core.view import figures, svg, tables
from darts_core.view.layout import cell_layout
from tests.test_browser_live import patience

pytestmark = pytest.mark.browser

BOARD = ".darts-board"


@pytest.fixture(scope="module")
def plotly_kept(browser: Browser) -> Iterator[Any]:
    """One browser context for all pages, so that plotly.js is compiled once."""
    context = browser.new_context(viewport={"width": 1280, "height": 900})
    context.set_default_timeout(30_000 * patience())
    yield context
    context.close()


@contextmanager
def opened(context: Any, stage: Stage, **media: str) -> Iterator[Page]:
    """The page of a stage. Any error in its console fails the test, but those of a server that was told to refuse."""
    page = context.new_page()
    problems: list[str] = []
    page.on("pageerror", lambda error: problems.append(str(error)))
    page.on("console", lambda said: problems.append(said.text) if said.type == "error" else None)
    if media:
        page.emulate_media(**media)
    with served(stage) as address:
        page.goto(address)
        page.wait_for_selector(f"{BOARD}[data-link]")
        yield page
        page.close()
    assert not [text for text in problems if "Failed to load resource" not in text]


def facts(page: Page) -> dict[str, str]:
    return page.evaluate("({...document.querySelector('.darts-board').dataset})")


def board(page: Page, expression: str) -> Any:
    """The value of a JavaScript expression in which `b` is the board."""
    return page.evaluate(f"(b => {expression})(document.querySelector('.darts-board').board)")


def records(steps: np.ndarray) -> str:
    """JavaScript for the raw bytes of `steps`."""
    return f"Uint8Array.from(atob('{base64.b64encode(steps.tobytes()).decode()}'), c => c.charCodeAt(0))"


def shown(page: Page, step: int) -> None:
    expect(page.locator(BOARD)).to_have_attribute("data-shown", str(step))


def drawn(page: Page) -> None:
    """Wait until every chart shows the newest data."""
    ready = "b => b.Plotly && [b.edgeChart, ...b.charts].every(chart => !chart.dirty)"
    page.wait_for_function(f"({ready})(document.querySelector('.darts-board').board)", timeout=30_000 * patience())


def go_to(page: Page, index: int) -> None:
    board(page, f"b.goToIndex({index})")


@pytest.fixture(scope="module")
def still(plotly_kept: Any) -> Iterator[tuple[Page, Stage]]:
    """A run of 600 steps with an edit, on which nothing moves; tests put back what they change."""
    stage = made_up_run()
    stage.add(events=[applied(378, "a_lr", 0.01, len(stage.events))])
    with opened(plotly_kept, stage) as page:
        shown(page, 600)
        drawn(page)
        yield page, stage


# One step everywhere


def table_rows(page: Page) -> list[list[str]]:
    return (
        page.locator(".db-tablebox table")
        .nth(1)
        .locator("tbody tr")
        .evaluate_all("rows => rows.map(r => [...r.cells].map(c => c.textContent))")
    )


@pytest.mark.parametrize("part", [0.0, 0.5, 1.0])
def test_scrubbing_puts_every_panel_on_one_step_and_python_agrees(still: tuple[Page, Stage], part: float) -> None:
    page, stage = still
    index = round(part * (len(stage.steps) - 1))
    page.get_by_role("slider").fill(str(index))
    step = int(stage.steps["step"][index])
    shown(page, step)
    mixes = tables.mixes_at(stage.steps, index, stage.space)
    cell, mix = stage.space.cells["normal"], mixes["normal"]
    expect(page.locator(".db-position")).to_have_text(f"step {step} of 900, epoch {index // 30 + 1} of 30")

    now = derive.collapse(stage.space, mixes)
    said = (
        f"{now.derived_skips} of {now.derived_edges} derived edges are skip, "
        f"mean skip weight {100 * now.mean_skip_weight:.0f} %, {now.level}"
    )
    assert said in page.locator(".db-meter").inner_text().replace("\n", "")

    page.keyboard.press("t")
    genes = derive.strongest(cell, mix)
    kept = derive.kept_edges(cell, genes)
    names = {(gene.source, 2 + node): gene.op for node, found in enumerate(genes.nodes) for gene in found}
    for row, edge, weights, keep in zip(table_rows(page), cell.edges, mix, kept, strict=True):
        assert row[1:-1] == [f"{100 * w:.1f} %" for w in weights]
        assert row[-1] == (names[edge] if keep else "dropped")
    page.keyboard.press("t")

    rings = page.locator(".db-tile").evaluate_all("tiles => tiles.map(t => t.classList.contains('db-kept'))")
    assert [any(rings[8 * e : 8 * e + 8]) for e in range(14)] == kept
    bars = page.locator(".db-value").all_inner_texts()
    assert bars == [f"{100 * w:.1f} %" for w in mix[0]]
    page.keyboard.press("l")


def test_moving_all_panels_to_another_step_takes_a_fraction_of_a_tenth_of_a_second(still: tuple[Page, Stage]) -> None:
    page, _ = still
    times = page.evaluate("""() => [10, 300, 599, 5, 450].map(i => {
        const { board } = document.querySelector('.darts-board');
        const began = performance.now();
        board.goToIndex(i);
        board.advance(began);
        board.draw(began);
        return performance.now() - began;
    })""")
    assert sorted(times)[2] < 60  # the middle one: other processes share the cores
    shown(page, 451)
    page.keyboard.press("l")
    shown(page, 600)


def bands_on_screen(page: Page, edge: int) -> dict[int, np.ndarray]:
    paths = page.locator(".rb-edge").nth(edge).locator(".rb-band").evaluate_all("b => b.map(p => p.getAttribute('d'))")
    return {op: outline(d) for op, d in enumerate(paths) if d}


def outline(path: str) -> np.ndarray:
    return np.array([[float(v) for v in pair.split(",")] for pair in path.strip("MZ").split("L")])


def test_the_page_and_the_file_draw_the_same_bands(still: tuple[Page, Stage]) -> None:
    page, stage = still
    go_to(page, 450)
    shown(page, 451)
    cell, mix = stage.space.cells["normal"], stage.steps["mix.normal"][450].astype(float)
    for edge in (0, 5, 13):
        there = bands_on_screen(page, edge)
        here = {op: outline(d) for op, d in svg.bands(cell_layout(cell).lines[edge], mix[edge])}
        assert there.keys() == here.keys()
        for op in here:
            assert np.abs(there[op] - here[op]).max() < 0.11
    page.keyboard.press("l")


def test_charts_hold_the_numbers_that_python_fills_in(still: tuple[Page, Stage]) -> None:
    page, stage = still
    board(page, "b.pickEdge('normal', 4)")
    drawn(page)
    columns = tables.columns(stage.steps, METRICS, stage.events, stage.space, "normal", edge=4)
    marks = tables.marks(stage.events)
    for name, template in figures.templates(stage.space.cells["normal"].ops).items():
        filled = figures.filled(template, columns, marks)
        there = page.evaluate(
            """name => {
            const plot = document.querySelector(`[data-chart=${name}] .db-plot`);
            return [plot.data.map(t => ({x: [...t.x], y: [...t.y]})), plot.layout.shapes.map(s => [s.x0, s.line.dash]),
                    plot.layout.annotations.map(a => a.text), plot.layout.uirevision];
        }""",
            name,
        )
        traces, lines, texts, revision = there
        for trace, expected in zip(traces, filled["data"], strict=True):
            assert trace["x"] == expected["x"]
            assert np.allclose(np.array(trace["y"], float), np.array(expected["y"], float), rtol=1e-6, equal_nan=True)
            assert len(trace["x"]) <= tables.POINTS
        assert lines == [[mark.step, "dash"] for mark in marks]
        assert "a_lr = 0.01 at step 378" in texts
        assert revision == stage.name


def test_the_cost_of_mixture_and_derived_cell_is_what_python_counts(still: tuple[Page, Stage]) -> None:
    page, stage = still
    settings = SearchConfig.from_dict(stage.info["config"])
    image = cost.image_of(stage.info["config"])
    assert image is not None
    forms = [cost.costs_of(stage.space, settings, image, search) for search in (True, False)]
    assert forms[0] is not None and forms[1] is not None
    expected = tables.costs(stage.steps, stage.space, [forms[0]], forms[1])
    drawn(page)
    for name in ("parameters", "macs"):
        page.locator(f"[data-chart={name}] .js-plotly-plot").wait_for(timeout=30_000 * patience())
        traces = page.evaluate(
            "name => document.querySelector(`[data-chart=${name}] .db-plot`).data"
            ".map(t => [t.meta.column, [...t.x], [...t.y]])", name)  # fmt: skip
        assert [trace[0] for trace in traces] == [t["meta"]["column"] for t in figures.cost_templates()[name]["data"]]
        for column, steps, values in traces:
            assert steps == expected["step"].tolist()
            assert np.allclose(values, expected[column], rtol=1e-6)


def test_the_truth_about_a_known_space_is_said_and_drawn_as_python_does(plotly_kept: Any) -> None:
    """The numbers are those of the table of this clone for cells of made-up steps."""
    stage = made_up_run("nb3", 240)
    table = truth.read("nb3", truth.folder())
    for event in stage.events:
        if event["type"] == "epoch":
            event["probes"] |= truth.probes(table, Genotype.from_json(event["genotype"]))
    epochs = [event for event in stage.events if event["type"] == "epoch"]
    columns = tables.probes(stage.events)
    with opened(plotly_kept, stage) as page:
        shown(page, 240)
        drawn(page)
        for event in (epochs[2], epochs[-1]):
            board(page, f"b.goTo({event['step']})")
            shown(page, event["step"])
            said = f"The truth: {truth.in_words(event['probes'], 729)} (the cell of epoch {event['epoch'] + 1})."
            expect(page.locator(".db-truth")).to_have_text(said)
        for name, template in figures.truth_templates().items():
            filled = figures.filled(template, columns)
            there = page.locator(f"[data-chart={name}] .db-plot").evaluate("plot => plot.data.map(t => [...t.y])")
            assert np.allclose(np.array(there, float), np.array([trace["y"] for trace in filled["data"]], float))
        low, high = page.locator("[data-chart=rank] .db-plot").evaluate("plot => plot._fullLayout.yaxis.range")
        assert low > high, "the first rank is at the top"
    with opened(plotly_kept, made_up_run("nb3", 60)) as page:
        shown(page, 60)
        expect(page.locator(".db-truth")).to_be_hidden()


def test_both_kinds_of_cell_have_their_shares(still: tuple[Page, Stage]) -> None:
    page, stage = still
    for name, kind in (("shares", "normal"), ("shares-other", "reduce")):
        columns = tables.columns(stage.steps, METRICS, stage.events, stage.space, kind)
        card = page.locator(f"[data-chart={name}]")
        expect(card).to_contain_text(f"{kind} cell")
        values = card.locator(".db-plot").evaluate("plot => [...plot.data[3].y]")
        assert np.allclose(values, columns["share:skip_connect"], rtol=1e-5)


def test_vermilion_is_skips_alone_on_the_whole_page(still: tuple[Page, Stage]) -> None:
    page, _ = still
    found = page.evaluate("""() => {
        const skip = 'rgb(213, 94, 0)', found = [], areas = ['shares', 'shares-other'].map(
            name => document.querySelectorAll(`[data-chart=${name}] .js-fill`)[3]);
        for (const node of document.querySelectorAll('.darts-board *')) {
            const style = getComputedStyle(node);
            for (const part of ['color', 'backgroundColor', 'fill', 'stroke', 'borderBottomColor'])
                if (style[part] === skip) found.push([node.getAttribute('data-op') ?? '', node.closest(
                    '[data-op=skip_connect], .db-squares, .traceedge-skip_connect, .traceshare-skip_connect, .db-term, '
                    + '.db-tile, .db-heathead[title=skip_connect]') !== null || areas.includes(node), node.outerHTML]);
        }
        return found;
    }""")
    assert found and all(allowed for _, allowed, _ in found), [text for _, allowed, text in found if not allowed]
    dashes = page.evaluate("document.querySelector('[data-chart=loss] .db-plot').data.map(t => [t.name, t.line.dash])")
    assert {tuple(pair) for pair in dashes} == {("train", "solid"), ("validation", "dash")}


# Hands on


def test_pointing_at_an_operation_lights_it_everywhere(still: tuple[Page, Stage]) -> None:
    page, _ = still
    page.locator(".db-legend [data-op=sep_conv_3x3]").hover()
    expect(page.locator(".rb.rb-pointing").first).to_be_visible()
    lit = page.locator(".rb-band.rb-lit").evaluate_all("bands => [...new Set(bands.map(b => b.dataset.op))]")
    assert lit == ["sep_conv_3x3"]
    assert page.locator("[data-chart=edge] .lines.db-dim").count() == 7
    bright = page.locator("[data-chart=shares] .js-fill:not(.db-dim)").evaluate_all("a => a.map(n => n.style.fill)")
    assert bright == ["rgb(0, 158, 115)"]
    assert page.locator(".db-barrow[data-op].db-dim").count() == 7
    assert page.locator(".db-tile.db-dim").count() == 14 * 7
    page.mouse.move(0, 0)
    expect(page.locator(".rb.rb-pointing")).to_have_count(0)


def test_keys_pause_step_follow_and_show_the_numbers(still: tuple[Page, Stage]) -> None:
    page, _ = still
    page.evaluate("document.activeElement.blur()")
    page.keyboard.press("ArrowLeft")
    shown(page, 599)
    page.keyboard.press("ArrowLeft")
    page.keyboard.press("ArrowRight")
    shown(page, 599)
    page.keyboard.press("l")
    shown(page, 600)
    page.keyboard.press(" ")
    expect(page.locator(".db-play")).to_contain_text("Play")
    page.keyboard.press("l")
    expect(page.locator(".db-play")).to_contain_text("Pause view")
    page.keyboard.press("t")
    expect(page.get_by_role("region", name="Weights of all edges in numbers")).to_be_focused()
    page.keyboard.press("t")


def test_keys_typed_into_a_field_of_the_page_are_left_alone(still: tuple[Page, Stage]) -> None:
    page, _ = still
    page.evaluate("document.querySelector('main').append(Object.assign(document.createElement('input'), {id: 'note'}))")
    page.locator("#note").fill("")
    page.locator("#note").press_sequentially("t l x")
    assert page.locator("#note").input_value() == "t l x"
    expect(page.locator(".db-table")).to_be_hidden()
    page.evaluate("document.querySelector('#note').remove()")


def test_every_edge_is_reached_by_tab_says_its_ends_and_is_chosen_by_enter_or_space(still: tuple[Page, Stage]) -> None:
    page, stage = still
    cell, mix = stage.space.cells["normal"], stage.steps["mix.normal"][-1].astype(float)
    page.locator(".db-legend button").last.focus()
    page.evaluate("window.told.length = 0")
    for edge in range(len(cell.edges)):
        page.keyboard.press("Tab")
        label = page.evaluate("document.activeElement.getAttribute('aria-label')")
        assert label == svg.edge_sentence(cell, edge, mix[edge])
    page.keyboard.press("Enter")
    expect(page.locator(".db-edge h3").first).to_have_text("Edge node 2 to node 3, normal cell")
    page.keyboard.press("Shift+Tab")
    page.keyboard.press(" ")
    expect(page.locator(".db-edge h3").first).to_contain_text("Edge node 1 to node 3")
    page.wait_for_function("window.told.some(([what, value]) => what === 'edge' && value === 'normal-3-5')")
    told = [value for what, value in page.evaluate("window.told") if what == "edge"]
    assert told in (["normal-3-5"], ["normal-4-5", "normal-3-5"]), "the last one last; a slow press may tell both"
    shown(page, 600)


def test_what_a_person_picks_is_told_to_python_and_comes_back_from_the_address(plotly_kept: Any) -> None:
    stage = made_up_run(count=90)
    with opened(plotly_kept, stage) as page:
        shown(page, 90)
        page.get_by_role("button", name="both", exact=True).click()
        page.get_by_role("button", name="derived", exact=True).click()
        page.get_by_role("slider").fill("40")
        page.wait_for_function("window.told.length >= 3")
        told = dict(page.evaluate("window.told"))
        assert told == {"cell": "both", "show": "derived", "step": 41}
    stage.view = told | {"edge": "reduce-1-3"}
    with opened(plotly_kept, stage) as page:
        shown(page, 41)
        expect(page.locator(".db-edge h3").first).to_contain_text("to node 1, reduce cell")
        assert page.locator(".rb").count() == 2
        assert page.locator(".rb-dropped").count() == 2 * (14 - 8)
        page.keyboard.press("l")
        page.wait_for_function("window.told.some(([k, v]) => k === 'step' && v === null)")


# Live


def test_a_live_run_moves_and_a_held_view_does_not(plotly_kept: Any) -> None:
    stage = made_up_run(count=60)
    more = made_up_steps(stage.space, 120)[60:]
    with opened(plotly_kept, stage) as page:
        shown(page, 60)
        drawn(page)
        page.evaluate("window.plots = [...document.querySelectorAll('.js-plotly-plot')]")
        loss = "document.querySelector('[data-chart=loss] .db-plot')"
        page.evaluate(f"Plotly.relayout({loss}, {{'xaxis.range': [10, 40]}})")
        page.locator(".rb-edge").nth(7).click()
        before = page.evaluate("document.querySelectorAll('*').length")
        for i in range(0, 40, 5):
            stage.add(more[i : i + 5])
            page.wait_for_timeout(60)
        shown(page, 100)
        assert float(facts(page)["age"]) < 1
        page.keyboard.press(" ")
        expect(page.locator(".db-play")).to_contain_text("Play")
        page.evaluate("window.mount()")  # a rerun of the page's script, with the same data
        stage.add(more[40:])
        expect(page.locator(BOARD)).to_have_attribute("data-step", "120")
        shown(page, 100)
        expect(page.locator(".db-status")).to_contain_text("Your view is held; the search goes on.")
        drawn(page)
        assert page.evaluate("plots.length > 4 && plots.every(plot => plot.isConnected)")
        assert page.evaluate(f"{loss}._fullLayout.xaxis.range") == [10, 40]
        expect(page.locator(".rb-edge").nth(7)).to_have_attribute("aria-pressed", "true")
        assert page.evaluate("document.querySelectorAll('*').length") < 1.05 * before
        page.keyboard.press("l")
        shown(page, 120)


def test_an_edit_marks_every_chart_while_the_run_goes_on(plotly_kept: Any) -> None:
    stage = made_up_run(count=60)
    with opened(plotly_kept, stage) as page:
        shown(page, 60)
        stage.add(events=[applied(60, "a_lr", 0.01, len(stage.events))])
        expect(page.locator(".db-edited")).to_be_visible()
        drawn(page)
        marked = page.evaluate("""[...document.querySelectorAll('.js-plotly-plot')].map(
            p => p.layout.annotations.some(a => a.text === 'a_lr = 0.01 at step 60'))""")
        assert len(marked) >= 5 and all(marked)


def test_after_the_server_was_away_the_run_goes_on_without_a_gap_or_a_double(plotly_kept: Any) -> None:
    stage = made_up_run(count=60)
    more = made_up_steps(stage.space, 120)[60:]
    with opened(plotly_kept, stage) as page:
        shown(page, 60)
        stage.change(refusal=(503, ""), cut=stage.cut + 1)
        expect(page.locator(".db-link")).to_have_text("disconnected, trying again")
        assert page.locator(".db-dot").evaluate("d => getComputedStyle(d).backgroundColor") == "rgb(209, 31, 58)"
        shown(page, 60)
        stage.add(more[:30])
        stage.change(refusal=None)
        shown(page, 90)
        expect(page.locator(".db-link")).to_have_text("live")
        stage.add(more[30:])
        shown(page, 120)
        steps = board(page, "Array.from({length: b.records.count}, (_, i) => b.records.step(i))")
        assert steps == list(range(1, 121))


def test_a_tail_that_could_not_be_repeated_is_replaced(plotly_kept: Any) -> None:
    stage = made_up_run(count=60)
    other = made_up_steps(stage.space, 60, seed=9)[40:50]
    with opened(plotly_kept, stage) as page:
        shown(page, 60)
        board(page, f"b.takeSteps({records(other)})")
        assert board(page, "[b.records.count, b.records.lastStep, b.marked.length]") == [50, 50, 50]
        mix = board(page, "Array.from(b.records.tensor('mix.normal', 45))")
        assert np.allclose(mix, other["mix.normal"][5].ravel())


def test_a_failed_run_that_is_resumed_comes_back_to_life_by_itself(plotly_kept: Any) -> None:
    stage = made_up_run(count=60)
    with opened(plotly_kept, stage) as page:
        shown(page, 60)
        stage.change(state="failed", message="loss became NaN at step 60")
        expect(page.locator(".db-link")).to_have_text("complete")
        expect(page.locator(".db-status")).to_contain_text("Loss became NaN at step 60.")
        stage.add(made_up_steps(stage.space, 120)[60:])
        stage.change(state="running", message="")
        expect(page.locator(BOARD)).to_have_attribute("data-step", "120")
        expect(page.locator(".db-link")).to_have_text("connected")


def test_letting_go_of_every_second_record_keeps_the_newest_and_the_order(plotly_kept: Any) -> None:
    stage = made_up_run(count=61)
    with opened(plotly_kept, stage) as page:
        shown(page, 61)
        board(page, "b.records.halve()")
        steps = board(page, "Array.from({length: b.records.count}, (_, i) => b.records.step(i))")
        assert steps == list(range(1, 62, 2))


def test_a_long_history_is_whole_soon(plotly_kept: Any) -> None:
    stage = made_up_run("s2", count=5000)
    with opened(plotly_kept, stage) as page:
        shown(page, 5000)
        drawn(page)
        assert board(page, "b.records.count") == 5000


@pytest.mark.slow
def test_a_run_of_50_000_steps_scrubs_within_50_ms(plotly_kept: Any) -> None:
    """The middle of 15 moves, all panels of each: other processes share the cores."""
    stage = made_up_run("s2", count=50_000, finished=True)
    with opened(plotly_kept, stage) as page:
        expect(page.locator(BOARD)).to_have_attribute("data-shown", "50000")
        times = page.evaluate("""() => Array.from({length: 15}, (_, i) => {
            const { board } = document.querySelector('.darts-board');
            const began = performance.now();
            board.goToIndex(Math.floor((board.records.count - 2) * ((i * 7) % 15) / 15));
            board.advance(began);
            board.draw(began);
            return performance.now() - began;
        })""")
        assert sorted(times)[7] < 50, times


def test_rows_through_the_page_serve_where_routes_do_not(plotly_kept: Any) -> None:
    stage = made_up_run(count=60)
    stage.change(rows=True, refusal=(404, "no routes here"))
    with opened(plotly_kept, stage) as page:
        shown(page, 60)
        expect(page.locator(".db-link")).to_have_text("through the page")
        page.locator(".rb-edge").nth(3).click()
        stage.add(made_up_steps(stage.space, 120)[60:])
        page.evaluate("window.mount()")
        shown(page, 120)
        expect(page.locator(".rb-edge").nth(3)).to_have_attribute("aria-pressed", "true")


def test_a_board_that_left_the_page_stops_listening(plotly_kept: Any) -> None:
    with opened(plotly_kept, made_up_run(count=30)) as page:
        shown(page, 30)
        gone = page.evaluate("""async () => {
            const root = document.querySelector('.darts-board'), { board } = root;
            root.remove();
            (await window.unmount)?.();
            return [board.alive, board.feed.source === null, board.feed.stopped];
        }""")
        assert gone == [False, True, True]


def test_a_replay_runs_at_the_speed_of_the_search_times_the_factor(plotly_kept: Any) -> None:
    stage = made_up_run(count=600, finished=True)  # 30 steps in 1.5 s: 20 steps a second
    with opened(plotly_kept, stage) as page:
        shown(page, 600)
        page.get_by_label("Replay speed").select_option("10")
        moved = page.evaluate("""async () => {
            const { board } = document.querySelector('.darts-board');
            board.play();
            await new Promise(done => setTimeout(done, 300));
            const [from, began] = [board.playAt, performance.now()];
            await new Promise(done => setTimeout(done, 1000));
            return (board.playAt - from) / ((performance.now() - began) / 1000);
        }""")
        assert 140 < moved < 240
        page.keyboard.press(" ")
        expect(page.locator(".db-play")).to_contain_text("Play")


# States


def starting(ago: float) -> Stage:
    stage = made_up_run(count=60)
    stage.steps, stage.state = stage.steps[:0], "starting"
    stage.events = stage.events[:3]
    for event, seconds in zip(stage.events, (ago, ago - 0.4, ago - 3.0), strict=True):
        event["time"] = time.time() - seconds
    return stage


def test_before_the_first_step_the_page_says_what_the_process_does_and_for_how_long(plotly_kept: Any) -> None:
    stage = starting(6.0)
    with opened(plotly_kept, stage) as page:
        panel = page.locator(".db-start")
        expect(panel).to_contain_text("digits: 1,797 images of 8 x 8")
        expect(panel.locator("[data-stage=now]")).to_contain_text("Reading the data")
        expect(panel.locator("[data-stage=now] .db-time")).to_have_text(re.compile(r"^[4-9] s$"))
        expect(panel.get_by_text("look at the log")).to_be_hidden()
        assert facts(page)["state"] == "starting" and facts(page)["step"] == "0"
        stage.add(made_up_steps(stage.space, 5))
        stage.change(state="running")
        expect(panel).to_be_hidden()
    with opened(plotly_kept, starting(16.0)) as page:
        expect(page.get_by_text("look at the log")).to_be_visible()


def test_a_run_that_is_not_there_yet_is_waited_for_and_its_sentence_shown(plotly_kept: Any) -> None:
    stage = made_up_run(count=30)
    stage.change(refusal=(404, "laptop-001: run: there is no such run; choose one from the list\n"))
    with opened(plotly_kept, stage) as page:
        expect(page.locator(".db-status")).to_contain_text("there is no such run; choose one from the list")
        stage.change(refusal=None)
        shown(page, 30)


def test_silence_is_said_in_seconds(plotly_kept: Any) -> None:
    stage = made_up_run(count=30)
    with opened(plotly_kept, stage) as page:
        shown(page, 30)
        expect(page.locator(".db-status")).to_contain_text("18 steps/s, about 16 s left.")
        expect(page.locator(".db-status")).to_contain_text(re.compile(r"Last update \d+ s ago\."))
        assert facts(page)["slow"] == "true"
        phase = {"type": "phase", "name": "evaluate", "message": "training cell 2 of 3", "total_steps": None}
        stage.add(events=[phase | {"n": 99, "time": 0.0}])
        expect(page.locator(".db-status")).to_contain_text("Training cell 2 of 3.")


@pytest.mark.parametrize(
    "state,message,sentence",
    [
        ("paused", "", "Paused at step 30: nothing is lost, resume it when you like."),
        ("failed", "loss became NaN at step 30", "Loss became NaN at step 30."),
        ("interrupted", "", "The process ended at step 30; resume it to go on from its last checkpoint."),
        ("stopped", "", "Stopped by request at step 30; this is the cell it had by then."),
        ("corrupt", "steps.bin: header: is cut short", "steps.bin: header: is cut short"),
    ],
)
def test_every_state_is_a_word_and_a_sentence(
    still: tuple[Page, Stage], state: str, message: str, sentence: str
) -> None:
    page, _ = still
    page.evaluate(
        """([state, message]) => {
        const { board } = document.querySelector('.darts-board');
        window.kept ??= [board.status, board.records.count];
        board.records.count = 30;
        board.takeStatus({...board.status, state, message, step: 30});
    }""",
        [state, message],
    )
    expect(page.locator(".db-status")).to_have_text(f"{state}{sentence}edited")
    expect(page.locator(BOARD)).to_have_attribute("data-state", state)
    page.evaluate("""() => {
        const { board } = document.querySelector('.darts-board');
        board.records.count = window.kept[1];
        board.takeStatus(window.kept[0]);
        board.setShow('all');
    }""")


def test_a_finished_run_shows_its_cell_and_honest_numbers(plotly_kept: Any) -> None:
    stage = made_up_run(count=300)
    with opened(plotly_kept, stage) as page:
        shown(page, 300)
        expect(page.locator(".db-outcome")).to_be_hidden()
        ending = made_up_ending(stage.space, stage.steps, time.time() - 60, len(stage.events))
        nodes = ending[0]["genotype"]["cells"]["normal"]["nodes"]
        nodes[3] = [["avg_pool_3x3", 0], ["max_pool_3x3", 4]]  # the method has a rule of its own
        stage.add(events=ending)
        stage.change(state="finished")
        outcome = page.locator(".db-outcome")
        own = "the derived cell reaches 92.1 % test accuracy (3 trainings, 91.4 % to 92.9 %)"
        expect(outcome).to_contain_text(own)
        expect(outcome).to_contain_text("4 random cells of the same space reach 90.6 % on average (88.1 % to 92.5 %)")
        expect(outcome).to_contain_text("within the spread of random cells")
        assert outcome.locator("dd:not(.db-about)").all_inner_texts() == ["86.1 %", "31.2 %", "92.1 %"]
        expect(page.locator(".db-link")).to_have_text("complete")
        assert page.locator(".db-drawings .rb-dropped").count() == 6, "the derived cell is what is drawn now"
        lines = outcome.locator(".db-sums").first.locator("li").all_inner_texts()
        for line, node in zip(lines, nodes, strict=True):
            assert [part.split("(")[0].split("= ")[-1] for part in line.split(" + ")] == [op for op, _ in node]
        cell = stage.space.cells["normal"]
        kept = [(op, (source, 2 + i)) for i, node in enumerate(nodes) for op, source in node]
        rings = page.locator(".db-tile").evaluate_all("tiles => tiles.map(t => t.classList.contains('db-kept'))")
        assert [(cell.ops[n % 8], cell.edges[n // 8]) for n, ring in enumerate(rings) if ring] == sorted(
            kept, key=lambda gene: cell.edges.index(gene[1])
        )


def test_the_meter_is_announced_only_when_its_level_changes(plotly_kept: Any) -> None:
    with opened(plotly_kept, made_up_run(count=600)) as page:
        shown(page, 600)
        page.evaluate("""() => {
            window.heard = [];
            const status = document.querySelector('.db-meter [role=status]');
            const hear = new MutationObserver(() => window.heard.push(status.textContent));
            hear.observe(status, {childList: true, subtree: true, characterData: true});
        }""")
        for index in (598, 590, 0, 1, 2, 599):
            go_to(page, index)
            page.wait_for_timeout(60)
        heard = page.evaluate("window.heard")
        assert len(heard) == 2
        assert heard[0].endswith("healthy") and heard[1].endswith("collapsed")


def test_weights_that_sum_to_more_than_one_still_fill_the_ribbon_and_the_sum_is_said(plotly_kept: Any) -> None:
    stage = made_up_run(count=30)
    stage.steps["mix.normal"] = 0.4
    sealed(stage.steps)
    with opened(plotly_kept, stage) as page:
        shown(page, 30)
        label = page.locator(".rb-edge").first.get_attribute("aria-label")
        assert label is not None and label.endswith("(weights sum to 3.20)")
        expect(page.locator(".db-formula")).to_contain_text("weights sum to 3.20")
        expect(page.locator(".db-formula")).to_contain_text("with the weights that this method gives")
        outlines = bands_on_screen(page, 2)
        assert len(outlines) == 8
        half = svg.SAMPLES
        ends = [np.linalg.norm(o[0] - o[2 * half - 1]) for o in outlines.values()]
        assert np.allclose(ends, svg.WIDE / 8 + svg.SEAM, atol=0.15)


# Looks


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_text_is_readable_and_axe_finds_nothing_serious(plotly_kept: Any, theme: str) -> None:
    stage = made_up_run(count=300, finished=True)
    if theme == "dark":
        stage.theme = DARK
    with opened(plotly_kept, stage, reduced_motion="reduce") as page:
        shown(page, 300)
        drawn(page)
        page.keyboard.press("t")
        found = Axe().run(page, BOARD, {"resultTypes": ["violations"]})
        serious = [v for v in found.response["violations"] if v["impact"] in ("serious", "critical")]
        assert not serious, json.dumps([(v["id"], [n["html"][:160] for n in v["nodes"]]) for v in serious], indent=1)
        pale = page.evaluate(CONTRAST)
        assert not pale
        grid = page.evaluate("document.querySelector('[data-chart=loss] .db-plot').layout.xaxis.gridcolor")
        assert grid == stage.theme["--st-border-color"]


# Every visible text of the board below 4.5 : 1 on the nearest ground that is not see-through, as [ratio, text].
CONTRAST = """() => {
    const pen = document.createElement('canvas').getContext('2d', {willReadFrequently: true});
    const rgba = colour => {
        pen.clearRect(0, 0, 1, 1);
        pen.fillStyle = colour;
        pen.fillRect(0, 0, 1, 1);
        return [...pen.getImageData(0, 0, 1, 1).data];
    };
    const linear = v => (v / 255 <= 0.04045 ? v / 255 / 12.92 : ((v / 255 + 0.055) / 1.055) ** 2.4);
    const light = ([r, g, b]) => 0.2126 * linear(r) + 0.7152 * linear(g) + 0.0722 * linear(b);
    const ground = node => {
        const colour = rgba(getComputedStyle(node).backgroundColor);
        return colour[3] === 255 ? colour : ground(node.parentElement);
    };
    const speaks = node => [...node.childNodes].some(c => c.nodeType === 3 && c.textContent.trim())
        && node.checkVisibility({opacityProperty: true}) && !node.closest('title, option');
    return [...document.querySelectorAll('.darts-board *')].filter(speaks).flatMap(node => {
        const style = getComputedStyle(node);
        const ink = light(rgba(node instanceof SVGElement ? style.fill : style.color)), paper = light(ground(node));
        const ratio = (Math.max(ink, paper) + 0.05) / (Math.min(ink, paper) + 0.05);
        return ratio < 4.5 ? [[ratio.toFixed(2), node.textContent.slice(0, 60)]] : [];
    });
}"""


@pytest.mark.parametrize("width", [420, 768, 1440])
def test_no_width_overflows(still: tuple[Page, Stage], width: int) -> None:
    page, _ = still
    page.set_viewport_size({"width": width, "height": 900})
    page.wait_for_timeout(250)
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    wide = page.evaluate("""[...document.querySelectorAll('.darts-board > *, .db-card')].filter(
        n => n.checkVisibility() && n.getBoundingClientRect().right > innerWidth + 0.5).map(n => n.className)""")
    assert not wide
    one, other = (page.locator(sel).bounding_box() for sel in (".db-cell", ".db-edge"))
    assert one and other
    assert (other["y"] >= one["y"] + one["height"]) == (width < 900), "stacked below 900 pixels"
    if width == 1440:
        assert 0.57 < one["width"] / (one["width"] + other["width"]) < 0.63
    page.set_viewport_size({"width": 1280, "height": 900})


def test_nothing_moves_by_itself_under_reduced_motion(plotly_kept: Any) -> None:
    stage = made_up_run(count=30)
    path: Callable[[Page], str] = lambda page: page.locator(".rb-band").first.get_attribute("d") or ""  # noqa: E731
    with opened(plotly_kept, stage, reduced_motion="reduce") as page:
        shown(page, 30)
        stage.add(made_up_steps(stage.space, 600)[590:])
        shown(page, 600)
        first = path(page)
        page.wait_for_timeout(150)
        assert path(page) == first
        assert page.evaluate("getComputedStyle(document.querySelector('.rb-edge')).transitionDuration") == "0s"


def test_the_picture_saved_from_the_page_stands_alone(still: tuple[Page, Stage]) -> None:
    page, stage = still
    with page.expect_download() as download:
        page.get_by_role("button", name="SVG").click()
    assert download.value.suggested_filename == f"{stage.name}-normal-step600.svg"
    text = download.value.path().read_text("utf-8")
    root = ET.fromstring(text)
    assert "var(" not in text and "color-mix" not in text
    boxes = [node for node in root.iter("{http://www.w3.org/2000/svg}rect") if node.get("rx") == "10"]
    assert len(boxes) == 6 and all(box.get("fill") == "rgb(243, 243, 248)" for box in boxes)


def test_a_teaching_space_of_two_nodes_is_drawn_too(plotly_kept: Any) -> None:
    stage = made_up_run("tiny", count=60)
    with opened(plotly_kept, stage) as page:
        shown(page, 60)
        assert page.locator(".rb-edge").count() == len(space_named("tiny").cells["normal"].edges)
        expect(page.locator(".db-meter-text")).to_contain_text("of 4 derived edges are skip")
