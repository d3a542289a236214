"""What `lecture.js` shows: recorded runs under one scrubber, thinned and packed as plain JSON."""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from darts_core.config import EVALUATE
from darts_core.derive import collapse, skip_of
from darts_core.genotype import RECURRENT
from darts_core.view.compare import Align, position
from darts_core.view.explain import Reason
from darts_core.view.figures import filled, measured_on, templates, text_templates
from darts_core.view.layout import cell_layout
from darts_core.view.palette import KIND_TITLES, colour, colours
from darts_core.view.recorded import Recorded
from darts_core.view.tables import columns, marks, thin

SCRIPTS = ("ribbon.js", "charts.js", "lecture.js", "reasons.js")  # in the order in which they need one another
CURVES = ("loss", "accuracy")
CHARTS = ("shares", "loss", "accuracy", "entropy", "eigenvalue")


def lecture_data(
    runs: Sequence[Recorded],
    align: Align = "step",
    at: float | None = None,
    styles: Sequence[Mapping[str, str]] = (),
    charts: bool = False,
) -> dict[str, Any]:
    """The data of `mountLecture`.

    Args:
        at: where the scrubber starts, on the axis of `align`; None: at the end.
        styles: per run its note, colour and dash, as `note`, `colour`, `dash`; all may be missing.
        charts: draw the charts of the first run too.
    """
    styled = [*styles, *({} for _ in runs)]
    return {
        "runs": [_run(run, style) for run, style in zip(runs, styled, strict=False)],
        "align": align,
        "at": at,
        "charts": chart_data(runs[0]) if charts and runs else [],
    }


def chart_data(run: Recorded, names: Sequence[str] = CHARTS) -> list[dict[str, Any]]:
    """The figures of a run, filled; those that have nothing to show are left out."""
    kind = next(iter(run.space.cells))
    table = columns(run.steps, run.metrics, run.events, run.space, kind)
    known = templates(run.space.cells[kind].ops, measured_on(run.info)) | text_templates()
    made = []
    for name in names:
        if kind == RECURRENT and name == "accuracy":  # its words are those of images
            name = "perplexity"
        figure = filled(known[name], table, marks(run.events, run.space))
        if any(value is not None for trace in figure["data"] for value in trace["y"]):
            title = figure["layout"]["title"]["text"]
            if name == "shares" and len(run.space.cells) > 1:
                title += f", {KIND_TITLES.get(kind, kind).lower()}"
            made.append({"title": title, "about": figure["layout"]["meta"]["about"], **chart_of(figure)})
    return made


def chart_of(figure: Mapping[str, Any]) -> dict[str, Any]:
    """What `drawChart` needs of a filled figure, numbers short."""
    keep = ("name", "x", "y", "line", "opacity", "stackgroup", "hoverinfo", "meta")
    data = [{key: trace[key] for key in keep if key in trace} for trace in figure["data"]]
    for trace in data:
        trace["y"] = [None if value is None else float(f"{value:.5g}") for value in trace["y"]]
    layout = figure["layout"]
    shapes = [{"x0": shape["x0"], "name": shape["name"]} for shape in layout.get("shapes", [])]
    axes = {"yaxis": layout["yaxis"], "xaxis": {"title": layout["xaxis"]["title"]}}
    return {"data": data, "layout": axes | {"shapes": shapes}}


def _run(run: Recorded, style: Mapping[str, str]) -> dict[str, Any]:
    return {
        "name": run.name,
        "title": run.title,
        "note": style.get("note", ""),
        "colour": style.get("colour", ""),
        "dash": style.get("dash", "solid"),
        "steps": run.steps["step"].tolist(),
        "epochs": [round(float(at), 3) for at in position(run, "epoch")],
        "cells": {kind: _cell(run, kind) for kind in run.space.cells},
        "meter": _meter(run),
    }


def _cell(run: Recorded, kind: str) -> dict[str, Any]:
    cell = run.space.cells[kind]
    mix = np.nan_to_num(np.asarray(run.steps[f"mix.{kind}"], dtype=float))
    whole = np.maximum(1.0, mix.sum(-1, keepdims=True))  # as ribbons are drawn: rows above one are divided by their sum
    return {
        "title": KIND_TITLES.get(kind, kind),
        "ops": list(cell.ops),
        "colours": colours(cell.ops),
        "edges": [list(edge) for edge in cell.edges],
        "states": [cell.state_name(state) for state in range(cell.states)],
        "spoken": [cell.state_words(state) for state in range(cell.states)],
        "layout": cell_layout(cell).to_json(),
        "mix": _text(np.round(65535 * np.clip(mix / whole, 0, 1)).astype("<u2")),
        "kept": _text(run.choices[kind][1].astype(np.uint8)),
    }


def _meter(run: Recorded) -> dict[str, Any] | None:
    """Skips among the derived edges at each record; None where no edge can be a skip, or nothing is searched."""
    kind = "normal" if "normal" in run.space.cells else next(iter(run.space.cells))
    cell = run.space.cells[kind]
    skip = skip_of(cell)
    if skip is None or not len(run.steps) or run.method == EVALUATE:
        return None
    best, kept = run.choices[kind]
    skips = (kept & (best == cell.ops.index(skip))).sum(-1)
    level: dict[int, str] = {}
    for index, count in enumerate(skips.tolist()):
        if count not in level:  # the one definition says it, once per number of skips
            level[count] = collapse(run.space, run.mixes(index)).level
    levels = [level[count] for count in skips.tolist()]
    word = "identity" if kind == RECURRENT else "skip"
    return {"edges": int(kept[0].sum()), "skips": skips.tolist(), "levels": levels, "word": word}


def _text(numbers: np.ndarray) -> str:
    return base64.b64encode(np.ascontiguousarray(numbers).tobytes()).decode("ascii")


def lecture_js() -> str:
    """The drawings, the scrubber and the cards, as one script."""
    return "\n".join(Path(__file__).with_name(name).read_text("utf-8") for name in SCRIPTS)


def lecture_css() -> str:
    return "\n".join(Path(__file__).with_name(name).read_text("utf-8") for name in ("ribbon.css", "lecture.css"))


def training_cards(run: Recorded) -> list[dict[str, Any]]:
    """Cards of `mountReasons` for a cell in training: its curves. Its mix never changes, so nothing else is drawn."""
    now = run.last_step
    return [
        {"title": made["title"], "sentences": [made["about"]], "now": now,
         "chart": {"data": made["data"], "layout": made["layout"]}}
        for made in chart_data(run, CURVES)
    ]  # fmt: skip


def reason_cards(run: Recorded, found: Sequence[Reason]) -> list[dict[str, Any]]:
    """The cards of `mountReasons`: the history of each kept edge, with a mark where it became the choice."""
    cards = []
    at, axis = thin(len(run.steps)), {"tickformat": ".0%", "rangemode": "tozero"}
    for reason in found:
        cell = run.space.cells[reason.kind]
        weights = np.asarray(run.steps[f"mix.{reason.kind}"][at, reason.edge], dtype=float)
        data = [
            {
                "name": op,
                "x": run.steps["step"][at].tolist(),
                "y": [float(f"{value:.4g}") for value in weights[:, column]],
                "line": {"color": colour(op), "width": 3.2 if op == reason.op else 1.4},
            }
            for column, op in enumerate(cell.ops)
            if cell.legal[reason.edge][column]
        ]
        many = f", {KIND_TITLES.get(reason.kind, reason.kind).lower()}" if len(run.space.cells) > 1 else ""
        shapes = [{"x0": reason.since, "name": f"the choice since step {reason.since}"}]
        cards.append(
            {
                "title": f"{reason.source} to {reason.target}: {reason.op}{many}",
                "sentences": reason.sentences(),
                "chart": {"data": data, "layout": {"yaxis": axis, "shapes": shapes}},
                "now": reason.now,
            }
        )
    return cards
