"""What is around every page: the name beside the symbol behind which a narrow window folds the pages and the form away
(Streamlit shows two angle brackets there and nothing else), and which form of a cell's picture fits its place.

The element itself takes no room; only its style counts.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any

HTML = '<i class="darts-frame"></i>'
CSS = """
[data-testid="stElementContainer"]:has(.darts-frame) { display: none; }
[data-testid="stExpandSidebarButton"] { width: auto !important; gap: 0.4rem; padding: 0 0.6rem 0 0.2rem !important; }
[data-testid="stExpandSidebarButton"]::after { content: "Menu"; font-size: 0.95rem; }
[class*="st-key-cell-drawing-"] { container: drawing / inline-size; }
@container drawing (max-width: 520px) {
  [data-testid="stLayoutWrapper"]:has(> [class*="st-key-cell-lying-"]) { display: none; }
}
@container drawing (min-width: 520.1px) {
  [data-testid="stLayoutWrapper"]:has(> [class*="st-key-cell-upright-"]) { display: none; }
}
"""


def frame() -> None:
    """Put it on the page."""
    _component()(key="frame")


@cache
def _component() -> Callable[..., Any]:
    from streamlit.components.v2 import component  # here: pages can be tested without a server

    return component("darts_frame", html=HTML, css=CSS, isolate_styles=False)
