"""Every page in every state of a run, in Chromium, in both themes: nothing overflows, nothing serious for axe-core, and
on a telephone everything that is pressed is large enough for a finger."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Browser, Page

from tests import test_pages_states as states
from tests.served import serve
from tests.test_browser_live import patience, visit

pytestmark = [pytest.mark.browser, pytest.mark.slow]

FINGER = 24  # CSS pixels, WCAG 2.2 success criterion 2.5.8
STATES = (
    states.nothing,
    states.starting,
    states.running,
    states.finished,
    states.failed,
    states.interrupted,
    states.corrupt_record,
    states.corrupt_card,
)
PAGES = ("", "replay", "compare", "cells", "runs", "learn")
# What can be pressed and is too small, as [width, height, text]. A slider's thumb, a link within a sentence and the
# input behind a drawn box or circle are not what a finger aims at; the tiles of the heat map repeat the edges above.
# The insides of Streamlit's own tables and choices are as they come, and the sidebar is folded away at this width.
SMALL = """finger => [...document.querySelectorAll(
        'button, a[href], select, summary, input:not([type=range]), [role=button], [role=tab]')]
    .filter(node => node.checkVisibility({opacityProperty: true, visibilityProperty: true})
        && !node.disabled && !node.closest('p, svg, label, .stTooltipIcon, [data-testid=stSidebar]')
        && !node.closest('[data-testid=stDataFrame], [data-testid=stMultiSelect], [data-testid=stSelectbox]')
        && !node.closest(['checkbox', 'radio', 'input', 'select'].map(kind => `[data-baseweb=${kind}]`).join()))
    .map(node => [node.getBoundingClientRect(), node])
    .filter(([box]) => box.width > 1 && box.height > 1 && Math.min(box.width, box.height) < finger - 0.5)
    .map(([box, node]) => [box.width, box.height, (node.ariaLabel || node.textContent).slice(0, 40)])"""


def settled(page: Page) -> None:
    """The script of the page has ended, and the board, where there is one, has its edges."""
    limit = 30_000 * patience()
    page.locator("[data-testid=stApp][data-test-script-state=notRunning]").wait_for(timeout=limit)
    page.wait_for_function(
        "() => [...document.querySelectorAll('.darts-board')].every(board => board.querySelector('.rb-edge'))",
        timeout=limit,
    )
    page.wait_for_timeout(1500)


def serious(page: Page) -> list[Any]:
    found = Axe().run(page, options={"resultTypes": ["violations"]}).response["violations"]
    kept = [rule for rule in found if rule["impact"] in ("serious", "critical")]
    return [(rule["id"], [node["html"][:160] for node in rule["nodes"]][:3]) for rule in kept]


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("state", STATES, ids=lambda state: state.__name__)
def test_every_page_in_every_state_is_for_everyone(
    browser: Browser, tmp_path: Path, state: Callable[[Path], Iterator[None]], scheme: str
) -> None:
    folder = tmp_path / "runs"
    held = state(folder)
    next(held)
    troubles: list[Any] = []
    try:
        with serve(folder) as server:
            for name in PAGES:
                query = "?run=one" if (folder / "one").exists() and name != "learn" else ""
                with visit(browser, server, f"/{name}{query}", color_scheme=scheme) as page:
                    settled(page)
                    troubles += [(name, *found) for found in serious(page)]
                    page.set_viewport_size({"width": 420, "height": 900})
                    page.wait_for_timeout(1000)
                    if page.evaluate("document.documentElement.scrollWidth > innerWidth"):
                        troubles.append((name, "is wider than 420 pixels"))
                    troubles += [(name, "too small for a finger", *small) for small in page.evaluate(SMALL, FINGER)]
    finally:
        next(held, None)
    assert not troubles, "\n".join(map(str, troubles))
