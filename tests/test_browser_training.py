"""A cell in training, on the live page: curves of loss and accuracy, the fixed cell, nothing of a search."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Page, sync_playwright

from darts_core.drive import drive, new_run
from darts_core.evaluation import evaluation_config
from darts_core.zoo import published
from tests.served import Server, serve
from tests.test_browser_live import patience

pytestmark = pytest.mark.browser
SETTINGS = {"dataset": "digits", "subset": 120, "cells": 3, "channels": 2, "batch": 20, "epochs": 4, "threads": 1}


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory, chromium_path: str) -> Iterator[tuple[Page, Server, Path]]:
    root = tmp_path_factory.mktemp("trainings")
    config = evaluation_config("quick", published("DARTS_V2").genotype, "DARTS_V2", SETTINGS)
    assert drive(new_run(root, "trained", config, []), config) == 0
    with serve(root) as server, sync_playwright() as playwright:
        flags = ["--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run"]
        browser = playwright.chromium.launch(executable_path=chromium_path, args=flags)
        page = browser.new_page(viewport={"width": 1400, "height": 1000})
        yield page, server, root
        browser.close()


def test_a_training_shows_its_curves_and_its_cell_and_nothing_that_only_a_search_has(
    page: tuple[Page, Server, Path],
) -> None:
    tab, server, _ = page
    wrong: list[str] = []
    tab.on("pageerror", lambda problem: wrong.append(str(problem)))
    tab.goto(server.link)
    tab.goto(f"{server.address}/?run=trained")
    tab.wait_for_selector(".darts-board .db-ribbon svg", timeout=60_000 * patience())
    both = "document.querySelectorAll('.db-charts .js-plotly-plot').length >= 2"
    tab.wait_for_function(both, timeout=30_000 * patience())
    assert tab.locator(".db-charts .js-plotly-plot").count() == 2
    assert tab.locator(".db-edge").is_hidden() and tab.locator(".db-meter").is_hidden()
    curves = tab.evaluate(
        "[...document.querySelectorAll('.db-charts .js-plotly-plot')].map((p) =>"
        " p.data.map((t) => [t.name, t.y.filter((y) => y !== null).length]))"
    )
    assert all(points > 0 for chart in curves for _, points in chart), curves
    assert "DARTS_V2 trained from scratch on digits" in tab.inner_text("body")
    worth = tab.locator(".db-alone").inner_text()
    assert "of the test images" in worth and "multiply-adds per image" in worth and "parameters" in worth
    words = tab.inner_text(".darts-board")
    assert "test dashed" in words and "validation" not in words, "what is measured beside training are test images"
    edges = tab.locator(".darts-board .rb-edge")
    assert edges.count() and tab.locator(".darts-board :is(.rb-selected, .rb-edge[tabindex])").count() == 0
    edges.first.locator(".rb-pick").click(force=True)
    assert tab.locator(".darts-board .rb-selected").count() == 0, "nothing can be chosen where nothing is searched"
    assert "choose an edge" not in words
    assert "healthy" not in tab.inner_text("body"), "a given cell has not collapsed or kept from it"
    beside = "document.querySelector('.db-main').contains(document.querySelector('.db-charts'))"
    assert tab.evaluate(beside), "the curves stand beside the cell, not below it"
    assert "Train this cell" not in tab.inner_text("body")
    assert wrong == []
