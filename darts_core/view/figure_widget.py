"""Plotly's FigureWidget, imported in half the time.

Its import reaches jsonschema (by way of nbformat), and that takes `rfc3987_syntax` where it is installed, as it is with
JupyterLab: a package that compiles a grammar of web addresses while it is imported. That was a second of processor time
in every notebook, for a check that is never made there. jsonschema does without it, so it is told that there is none.
"""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any, cast

GRAMMAR = "rfc3987_syntax"


def _without_grammar() -> type:
    modules = cast("dict[str, Any]", sys.modules)
    hide = GRAMMAR not in modules
    if hide:
        modules[GRAMMAR] = None  # importlib's way to say: not there
    try:
        import plotly.graph_objects as go

        return go.FigureWidget
    finally:
        if hide:
            del modules[GRAMMAR]


if TYPE_CHECKING:
    from plotly.graph_objects import FigureWidget
else:
    FigureWidget = _without_grammar()
