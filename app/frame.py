"""What is around every page: the name beside the symbol behind which a narrow window folds the pages and the form away
(Streamlit shows two angle brackets there and nothing else), which form of a cell's picture fits its place, and what
`frame.js` does.

The element itself takes no room.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

HTML = '<i class="darts-frame"></i>'
CSS = """
[data-testid="stElementContainer"]:has(.darts-frame) { display: none; }
[data-testid="stExpandSidebarButton"] { width: auto !important; gap: 0.4rem; padding: 0 0.6rem 0 0.2rem !important; }
[data-testid="stExpandSidebarButton"]::after { content: "Menu"; font-size: 0.95rem; }
[class*="st-key-cell-drawing-"] { container: drawing / inline-size; max-width: 920px; }
@media (min-width: 768px) { [data-testid="stMainBlockContainer"] { padding-inline: 2rem !important; } }
@container drawing (max-width: 520px) {
  [data-testid="stLayoutWrapper"]:has(> [class*="st-key-cell-lying-"]) { display: none; }
}
@container drawing (min-width: 520.1px) {
  [data-testid="stLayoutWrapper"]:has(> [class*="st-key-cell-upright-"]) { display: none; }
}
[data-testid="stLayoutWrapper"]:has(> .st-key-cost-and-start) {
  position: sticky; top: 0; z-index: 5; padding: 0.4rem 0; background: light-dark(#f3f3f8, #1b1f2a);
}
[data-testid="stPopoverBody"]:focus { outline: none; }
.darts-lost {
  position: fixed; inset: auto 0 0; z-index: 1000000; padding: 0.7rem 1.2rem; text-align: center;
  font: 15px/1.45 "Source Sans", "Segoe UI", sans-serif; color: #ffffff; background: #8c1c2f;
}
.darts-lost[hidden] { display: none; }
"""
LOST = (
    "The dashboard does not answer: it was stopped, or this computer slept. What you see stays as it was, and searches "
    "go on without it. Start it again with make run (or darts-dash), and this page goes on by itself."
)


def frame() -> None:
    """Put it on the page."""
    _component()(key="frame", data=[LOST])  # in a list, as in board.py


@cache
def _component() -> Callable[..., Any]:
    from streamlit.components.v2 import component  # here: pages can be tested without a server

    script = Path(__file__).with_name("frame.js").read_text("utf-8")
    return component("darts_frame", html=HTML, css=CSS, js=script, isolate_styles=False)
