"""The live board: one Streamlit component that keeps its own state in the page and draws a run as it happens.

It fetches history and stream from the read-only routes of `stream.py` by itself, so nothing reruns while a search
moves. Python says which run, where the nodes of its cells lie and how the charts look; what a person picks comes back
as the state values `edge`, `step`, `cell` and `show`, which belong into the address of the page.
"""

from __future__ import annotations

import base64
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import darts_core.view
from darts_core import truth
from darts_core.config import EVALUATE, SearchConfig, catalogue
from darts_core.cost import costs_of, image_of
from darts_core.derive import collapse, skip_of
from darts_core.errors import BadInput
from darts_core.genotype import CellGenes, Gene, Genotype
from darts_core.legal import edge_name
from darts_core.space import CellSpec, SearchSpace
from darts_core.view.figures import cost_templates, measured_on, templates, text_templates, truth_templates
from darts_core.view.layout import cell_layout
from darts_core.view.palette import KIND_TITLES, OP_MEANING, colours

PARTS = ("edge", "step", "cell", "show")
TRIGGERS = ("order", "branch")  # what a person asks of the page, once each
SHOWS = ("all", "derived")
HTML = '<div class="darts-board"></div>'
HERE = Path(__file__).parent
VIEW = Path(darts_core.view.__file__).parent


def board(data: Mapping[str, Any], key: str = "board", **on_change: Callable[[], None]) -> Any:
    """Put the board on the page.

    Args:
        data: what `build_board_data` made.
        key: keep it fixed, so that the board stays as it is while the script reruns.
        on_change: `on_edge_change`, `on_step_change`, `on_cell_change`, `on_show_change`, each called before the rerun
            that follows a pick; the values stand in `st.session_state[key]` then. `on_order_change` and
            `on_branch_change` likewise, where the data offers them: `order` is {kind, name, value} as an order has
            them, `branch` {epoch}, the finished epochs at the shown step.

    Returns: an object with `edge`, `step`, `cell` and `show`, each None until a person picks something:
        edge: "<kind>-<source>-<target>", states as in `CellSpec.edges` ("normal-0-2").
        step: the step a person looks at, None while following the newest one.
        cell: a kind of cell, or "both".     show: "all" or "derived" edges.
    """
    callbacks = {f"on_{part}_change": _nothing for part in (*PARTS, *TRIGGERS)} | on_change
    # In a list, for Streamlit looks for tables among the values of a dictionary, and imports pandas for that: a second
    # before the first picture.
    return _component()(key=key, data=[dict(data)], height="content", **callbacks)


def build_board_data(
    info: Mapping[str, Any],
    *,
    status: Mapping[str, Any] | None = None,
    view: Mapping[str, Any] | None = None,
    rows: bytes | None = None,
    base: str = "darts",
    headed: bool = False,
    steer: bool = False,
    branch: bool = False,
    inherited: Sequence[Mapping[str, Any]] = (),
    control: Mapping[str, Sequence[float]] | None = None,
    events: Sequence[Mapping[str, Any]] = (),
) -> dict[str, Any]:
    """All that the board needs to know of a run before its first record arrives, as plain JSON.

    Args:
        info: the run's `run.json`; name, title, config and space are read.
        status: the run's status as the stream sends it, so that the first picture can say "starting".
        view: where to start: edge, step, cell, show (as `board` returns them, or their text in an address), play (True:
            replay from the start, again and again), speed (1 to 60), version (a new number makes an open board, which
            otherwise keeps what a person picked, take these values).
        rows: the block that the history route would send, where routes cannot be reached; give it at every rerun.
        base: the path of the routes, relative to the page.
        headed: the page says state and progress above the board, so the board does not repeat them.
        steer: the edge's panel offers Pin, Ban and Reset while the run takes orders.
        branch: the transport offers "Branch from here".
        control: probe -> [lowest, highest] in a comparable search that did not collapse.
        events: of the run so far, for what it said of images of your own.
        inherited: orders about edges that were in force where a branch began: {kind, name, value} each.

    Raises:
        BadInput: the run's space cannot be read.
    """
    space = SearchSpace.from_json(info["space"], f"{info['name']}/run.json")
    ops = list(dict.fromkeys(op for cell in space.cells.values() for op in cell.ops))
    strategy = info.get("config", {}).get("strategy")
    fixed = strategy == EVALUATE  # one cell is trained: no alphas, nothing collapses
    baseline = bool(catalogue()["strategies"].get(strategy, {}).get("baseline"))  # whole cells are tried: no mixture
    return {
        "run": info["name"],
        "headed": headed,
        "steer": steer,
        "branch": branch,
        "control": dict(control or {}),
        "inherited": [{key: order[key] for key in ("kind", "name", "value")} for order in inherited],
        "title": info.get("title") or info["name"],
        "base": base,
        "plotly": f"{base}/plotly.js",
        "rows": base64.b64encode(rows).decode("ascii") if rows is not None else None,
        "status": dict(status) if status else None,
        "view": checked_view(space, view or {}),
        "cells": {kind: _cell(kind, cell) for kind, cell in space.cells.items()},
        "meanings": {op: OP_MEANING.get(op, "") for op in ops},
        "figures": templates(ops, measured_on(info)) | cost_templates() | text_templates() | truth_templates(),
        "known": truth.known_cells(info, events),
        "text": "recurrent" in space.cells,
        "costs": None if fixed else cost_tables(space, info, events),
        "fixed": fixed,
        "baseline": baseline,
        "collapse": None if fixed or baseline else collapse_levels(space),
        "temperature": info.get("config", {}).get("temperature", 1.0),
        "epochs": info.get("epochs"),
    }


def checked_view(space: SearchSpace, view: Mapping[str, Any]) -> dict[str, Any]:
    """What a link or a widget asks for, without what this run does not have: a link may be of another run."""
    kinds = [*space.cells, "both"] if len(space.cells) > 1 else list(space.cells)
    edges = [edge_name(kind, edge) for kind, cell in space.cells.items() for edge in cell.edges]
    return {
        "cell": view["cell"] if view.get("cell") in kinds else kinds[0],
        "show": view["show"] if view.get("show") in SHOWS else None,
        "edge": view["edge"] if view.get("edge") in edges else None,
        "step": _whole(view.get("step"), 0, 2**32),
        "play": bool(view.get("play", False)),
        "speed": _whole(view.get("speed"), 1, 60) or 5,
        "version": view.get("version", 0),
    }


def _whole(value: Any, low: int, high: int) -> int:
    """`value` as a whole number within bounds; 0 for what is none."""
    try:
        return min(high, max(low, int(value)))
    except (TypeError, ValueError):
        return 0


def collapse_levels(space: SearchSpace) -> dict[str, Any] | None:
    """The collapse level for each number of skips among the derived edges, asked of the one definition in `derive`.

    None where no edge can be a skip.
    """
    kind = "normal" if "normal" in space.cells else next(iter(space.cells))
    cell = space.cells[kind]
    skip = skip_of(cell)
    others = [op for op in cell.ops if op not in (skip, "none")]
    if skip is None:
        return None
    arriving = [len(cell.edges_into(node)) for node in range(cell.nodes)]
    edges = sum(n if cell.keep is None else min(cell.keep, n) for n in arriving)
    mixes = {k: c.legal_array() / c.legal_array().sum(-1, keepdims=True).clip(1) for k, c in space.cells.items()}

    def level(skips: int) -> str:
        genes = [Gene(skip if i < skips else (others or [skip])[0], 0) for i in range(edges)]
        genotype = Genotype(space.name, {kind: CellGenes((tuple(genes),), cell.output)})
        return collapse(space, mixes, genotype).level

    return {"kind": kind, "op": skip, "levels": [level(skips) for skips in range(edges + 1)]}


def cost_tables(
    space: SearchSpace, info: Mapping[str, Any], events: Sequence[Mapping[str, Any]]
) -> dict[str, Any] | None:
    """What operations cost in the supernet ("mixture", a table per stage) and in a derived network ("derived", one
    table); None where that is not counted.
    """
    try:
        config = SearchConfig.from_dict(info["config"])
    except BadInput:  # of another version: the picture does not need it
        return None
    image = image_of(info["config"], events)
    if image is None:
        return None
    mixture = [costs_of(space, config, image, True, stage) for stage in range(config.stages())]
    found = {"mixture": mixture, "derived": [costs_of(space, config, image, False)]}
    if not all(all(tables) for tables in found.values()):
        return None
    return {name: [costs.to_json() for costs in tables if costs] for name, tables in found.items()}


def board_js() -> str:
    """What the browser loads as one module: the ribbon drawing, then the parts of the board."""
    parts = [
        VIEW / "ribbon.js",
        *(HERE / f"board_{part}.js" for part in ("data", "charts", "panels", "edges", "outcome")),
        HERE / "board.js",
    ]
    return "\n".join(part.read_text("utf-8") for part in parts)


def board_css() -> str:
    return (VIEW / "ribbon.css").read_text("utf-8") + (HERE / "board.css").read_text("utf-8")


def _cell(kind: str, cell: CellSpec) -> dict[str, Any]:
    return {
        "title": KIND_TITLES.get(kind, kind),
        "inputs": cell.inputs,
        "nodes": cell.nodes,
        "ops": list(cell.ops),
        "edges": [list(edge) for edge in cell.edges],
        "legal": [list(row) for row in cell.legal],
        "keep": cell.keep,
        "output": list(cell.output),
        "states": [cell.state_label(state) for state in range(cell.states)],
        "spoken": [cell.state_words(state) for state in range(cell.states)],
        "colours": colours(cell.ops),
        "layout": cell_layout(cell).to_json(),
    }


@cache
def _component() -> Callable[..., Any]:
    from streamlit.components.v2 import component  # here: the data can be built and tested without a server

    return component("darts_board", html=HTML, css=board_css(), js=board_js(), isolate_styles=False)


def _nothing() -> None:
    """Streamlit offers a state value only for names that have a callback."""
