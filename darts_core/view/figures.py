"""Charts, defined once: Plotly figures whose traces name the column they show.

A template is plain JSON. Each trace says in `meta` which column of `tables.columns` is its y and which its x; `filled`
puts the numbers in here for notebooks and tests, and `board.js` does the same in the page while a search runs.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from darts_core.config import EVALUATE
from darts_core.view.palette import INK, LINE, MUTED, SKIP_COLOUR, colour, rgba
from darts_core.view.tables import Mark

if TYPE_CHECKING:
    from plotly.graph_objects import Figure

    from darts_core.view.compare import Curve

# {"data": [...], "layout": {...}}, where layout.meta is {"about": one sentence, "labels": where marks have theirs}
Template = dict[str, Any]
PERCENT = {"tickformat": ".0%", "range": [0, 1]}


def measured_on(info: Mapping[str, Any]) -> str:
    """What the curve beside that of the training images is of, by the `run.json` of a run: "validation", or "test"
    where one cell is trained on all other images, and nothing is chosen by what is measured.
    """
    config = info.get("config", {})
    alone = config.get("strategy") == EVALUATE and config.get("train_on", "all") == "all"
    return "test" if alone and "recurrent" not in info["space"].get("cells", {}) else "validation"


def templates(ops: Sequence[str], measured: str = "validation") -> dict[str, Template]:
    """Every figure by name, for a space with these operations; `measured` as `measured_on` says.

    "edge": the weights of one edge over time. "shares": the part of all edges that each operation has. "loss" and
    "accuracy": of the batches, train solid and validation dashed. "entropy" and "eigenvalue": probes at ends of epochs.
    """
    return {
        "edge": _figure(
            "Weights of the edge over time",
            "How much each operation counts on this edge, from step to step.",
            [_op_line(op, "edge") for op in ops],
            {"yaxis": {"tickformat": ".0%", "rangemode": "tozero"}},
        ),
        "shares": _figure(
            "Share of each operation",
            "Averaged over all edges of the cell, stacked to 100 %.",
            [_op_area(op) for op in ops],
            {"yaxis": PERCENT},
        ),
        "loss": _figure(
            "Loss",
            f"Cross-entropy of the batches in nats: train solid, {measured} dashed. Lower is better.",
            _pair("loss", ".3f", measured),
            {"yaxis": {"rangemode": "normal"}},
        ),
        "accuracy": _figure(
            "Accuracy",
            f"Part of the images in the batches named rightly: train solid, {measured} dashed.",
            _pair("accuracy", ".1%", measured),
            {"yaxis": PERCENT},
            labels="bottom",
        ),
        "entropy": _figure(
            "Entropy of the weights",
            "In nats, mean over edges. High: undecided. Near zero: each edge has chosen one operation.",
            [_probe("entropy", "entropy", ".3f")],
            {"yaxis": {"rangemode": "tozero"}},
            labels="bottom",
        ),
        "eigenvalue": _figure(
            "Dominant eigenvalue",
            "Of the validation loss's Hessian over alpha: how sharply the loss bends at the alphas found.",
            [_probe("eigenvalue", "eigenvalue", ".3g")],
            {"yaxis": {"rangemode": "tozero"}},
        ),
    }


def cost_templates() -> dict[str, Template]:
    """ "parameters" and "macs": what the mixture costs, and the cell derived now; columns of `tables.costs`."""
    rule = "Solid: the cell derived now. Dashed: one operation per edge, drawn by its weight; all edges count."
    return {
        "parameters": _figure(
            "Parameters", f"Learned numbers of the whole network. {rule}",
            _costs("params", "parameters"), {"yaxis": {"rangemode": "tozero"}}, labels="bottom",
        ),
        "macs": _figure(
            "Multiply-adds", f"For one image, in convolutions and linear layers alone. {rule}",
            _costs("macs", "multiply-adds"), {"yaxis": {"rangemode": "tozero"}}, labels="bottom",
        ),
    }  # fmt: skip


def truth_templates() -> dict[str, Template]:
    """ "truth" and "rank" of the cell derived at the end of each epoch, where every cell of the space is known.

    The rank is a band, from the best to the worst that the seeds' noise allows: a line would claim more than is known.
    """
    best = _probe("truth_best", "best cell", ".2%") | {"mode": "lines"}
    best["line"] = {"color": MUTED, "width": 2, "dash": "dot"}
    bounds = [_probe(f"truth_{side}", word, ",d") for side, word in (("low", "at best"), ("high", "at worst"))]
    for bound in bounds:
        bound |= {"mode": "lines", "line": {"color": INK, "width": 1, "shape": "hv"}}
    bounds[1] |= {"fill": "tonexty", "fillcolor": rgba(MUTED, 0.35)}
    return {
        "truth": _figure(
            "Exact accuracy of the cell derived now",
            "On test images, mean of many trainings made beforehand. Dotted: the best cell of the space; the gap to it "
            "is the regret.",
            [_probe("truth_accuracy", "derived now", ".2%"), best],
            {"yaxis": {"tickformat": ".1%", "rangemode": "normal"}},
            labels="bottom",
        ),
        "rank": _figure(
            "Its rank among all cells of the space",
            "1 is the best, at the top. A band, for cells within it cannot be told apart by these trainings.",
            bounds,
            {"yaxis": {"autorange": "reversed", "rangemode": "normal"}},
            labels="bottom",
        ),
    }


# Plotly's own marks on such an axis are single digits, a 3 above the 10 for 30
PERPLEXITIES = [*(1.2, 1.5), *(digit * 10**power for power in range(6) for digit in (1, 2, 3, 5))]


def text_templates() -> dict[str, Template]:
    """ "perplexity": of the batches of text, and the lowest that any model could reach."""
    floor = {
        "type": "scatter", "mode": "lines", "name": "lowest possible", "uid": "floor",
        "meta": {"column": "metric:floor_perplexity", "x": "step", "ink": True},
        "line": {"color": MUTED, "width": 2, "dash": "dot"},
        "hovertemplate": "no model can be below %{y:.3f}<extra></extra>",
    }  # fmt: skip
    about = "Among how many equally likely tokens the model seems to choose. Dotted: the language's floor, if known."
    return {
        "perplexity": _figure(
            "Perplexity",
            about,
            [*_pair("perplexity", ".2f"), floor],
            {"yaxis": {"type": "log", "rangemode": "normal", "tickvals": PERPLEXITIES}},
        )
    }


def filled(template: Template, columns: Mapping[str, np.ndarray], marks: Sequence[Mark] = ()) -> Template:
    """The template with its numbers and a labelled dashed line for each mark; columns that are missing stay empty."""
    figure = copy.deepcopy(template)
    for trace in figure["data"]:
        x, y = (np.asarray(columns.get(trace["meta"][axis], [])) for axis in ("x", "column"))
        trace |= {"x": x.tolist(), "y": [value if np.isfinite(value) else None for value in y.tolist()]}
    figure["layout"]["shapes"] = [mark_line(mark) for mark in marks]
    figure["layout"]["annotations"] = [mark_label(mark, figure["layout"]["meta"]["labels"]) for mark in marks]
    return figure


def fill(template: Template, columns: Mapping[str, np.ndarray], marks: Sequence[Mark] = ()) -> Figure:
    """`filled` as a Plotly figure, for notebooks."""
    from plotly.graph_objects import Figure  # half a second, and pages never need it

    return Figure(filled(template, columns, marks))


class Line(NamedTuple):
    """One curve of a comparison, with its look."""

    curve: Curve
    colour: str
    dash: str = "solid"
    faint: bool = False  # one of several seeds behind their mean


def ranks(title: str, bands: Sequence[Line], axis: str) -> Template:
    """Bands without a line in them, the first rank at the top: where the seeds' noise lets each run's cell lie."""
    figure = comparison(title, [], bands, axis)
    half = 2 * len(bands)
    for trace in figure["data"][:half]:
        trace["line"] = trace["line"] | {"width": 1.5, "shape": "hv"}
    figure["data"] = figure["data"][:half]
    for upper, line in zip(figure["data"][1::2], bands, strict=True):
        upper |= {"name": line.curve.name, "showlegend": True}
    figure["layout"]["yaxis"] = {"autorange": "reversed"}
    return figure


def comparison(title: str, lines: Sequence[Line], bands: Sequence[Line], axis: str, percent: bool = False) -> Template:
    """Curves of several runs, and behind the mean of each group its band from the lowest to the highest seed."""
    data: list[dict[str, Any]] = []
    for line in bands:
        x = line.curve.x.tolist()
        edge = {"type": "scatter", "mode": "lines", "line": {"width": 0, "color": line.colour}, "hoverinfo": "skip"}
        assert line.curve.low is not None and line.curve.high is not None, "a band has two bounds"
        data.append(edge | {"x": x, "y": line.curve.low.tolist(), "showlegend": False})
        data.append(
            edge | {"x": x, "y": line.curve.high.tolist(), "fill": "tonexty", "fillcolor": rgba(line.colour, 0.18),
                    "showlegend": False}
        )  # fmt: skip
    number = ".1%" if percent else ".3g"
    for line in [*lines, *bands]:
        mean = line.curve.low is not None
        data.append({
            "type": "scatter", "mode": "lines+markers" if len(line.curve.x) == 1 else "lines", "name": line.curve.name,
            "x": line.curve.x.tolist(), "y": line.curve.y.tolist(), "opacity": 0.45 if line.faint else 1,
            "line": {"color": line.colour, "dash": line.dash, "width": 3 if mean else 1.2 if line.faint else 2},
            "hovertemplate": f"%{{fullData.name}}<br>{axis} %{{x:.4g}}: %{{y:{number}}}<extra></extra>",
            "showlegend": not line.faint,
        })  # fmt: skip
    return {
        "data": data,
        "layout": {
            "title": {"text": title, "font": {"size": 15}},
            "xaxis": {"title": {"text": axis}},
            "yaxis": {"tickformat": ".2~%"} if percent else {},
            "legend": {"orientation": "h", "yanchor": "top", "y": -0.22, "x": 0},
            "margin": {"l": 52, "r": 12, "t": 40, "b": 40},
            "height": 330,
            "hovermode": "closest",
        },
    }


def mark_line(mark: Mark) -> dict[str, Any]:
    return {
        "type": "line", "x0": mark.step, "x1": mark.step, "yref": "paper", "y0": 0, "y1": 1,
        "line": {"color": MUTED, "width": 1.2, "dash": "dash"}, "name": mark.text,
    }  # fmt: skip


def mark_label(mark: Mark, side: str) -> dict[str, Any]:
    return {
        "x": mark.step, "yref": "paper", "y": 1 if side == "top" else 0, "text": mark.text, "textangle": -90,
        "showarrow": False, "xanchor": "right", "yanchor": side, "font": {"size": 10, "color": MUTED},
    }  # fmt: skip


def _figure(
    title: str, about: str, data: list[dict[str, Any]], layout: dict[str, Any], labels: str = "top"
) -> Template:
    """`labels`: the side, "top" or "bottom", where curves usually leave room for the labels of marks."""
    axis = {"gridcolor": LINE, "zerolinecolor": LINE, "linecolor": LINE}
    return {
        "data": data,
        "layout": {
            "title": {"text": title},
            "meta": {"about": about, "labels": labels},
            "xaxis": axis | {"title": {"text": "step"}},
            "yaxis": axis | layout["yaxis"],
            "hovermode": "closest",
            "showlegend": False,
            "font": {"color": INK},
            "margin": {"l": 48, "r": 12, "t": 40, "b": 38},
            "paper_bgcolor": "rgba(0, 0, 0, 0)",
            "plot_bgcolor": "rgba(0, 0, 0, 0)",
        },
    }


def _op_line(op: str, table: str) -> dict[str, Any]:
    wide = 3.2 if colour(op) == SKIP_COLOUR else 1.8  # the one that collapse is about
    return {
        "type": "scatter", "mode": "lines", "name": op, "uid": f"{table}-{op}",
        "meta": {"column": f"{table}:{op}", "x": "step", "op": op}, "line": {"color": colour(op), "width": wide},
        "hovertemplate": f"{op} %{{y:.1%}}<br>step %{{x}}<extra></extra>",
    }  # fmt: skip


def _op_area(op: str) -> dict[str, Any]:
    area = _op_line(op, "share")
    return area | {
        "stackgroup": "ops", "fillcolor": rgba(colour(op), 0.86), "line": {"color": colour(op), "width": 1},
        "hoveron": "points+fills",
    }  # fmt: skip


def _pair(what: str, number: str, measured: str = "validation") -> list[dict[str, Any]]:
    """Train solid, the other dashed, both neutral: colours belong to operations. Single batches lie faintly behind."""
    traces = []
    for split, word, dash in (("train", "train", "solid"), ("val", measured, "dash")):
        name = f"{split}_{what}"
        base = {"type": "scatter", "mode": "lines", "connectgaps": True, "name": word}
        traces.append(base | {
            "uid": f"metric-{name}", "meta": {"column": f"metric:{name}", "x": "step", "ink": True}, "opacity": 0.22,
            "line": {"color": INK, "width": 1, "dash": dash}, "hoverinfo": "skip",
        })  # fmt: skip
        traces.append(base | {
            "uid": f"smooth-{name}", "meta": {"column": f"smooth:{name}", "x": "step", "ink": True},
            "line": {"color": INK, "width": 2, "dash": dash},
            "hovertemplate": f"{word} %{{y:{number}}}<br>step %{{x}}<extra></extra>",
        })  # fmt: skip
    return [traces[0], traces[2], traces[1], traces[3]]


def _costs(what: str, word: str) -> list[dict[str, Any]]:
    """The derived cell solid, the mixture dashed."""
    return [
        {
            "type": "scatter", "mode": "lines", "name": name, "uid": f"cost-{name}-{what}",
            "meta": {"column": f"cost:{name}_{what}", "x": "step", "ink": True},
            "line": {"color": INK, "width": 2, "dash": dash},
            "hovertemplate": f"{name}: %{{y:,.0f}} {word}<br>step %{{x}}<extra></extra>",
        }
        for name, dash in (("derived", "solid"), ("mixture", "dash"))
    ]  # fmt: skip


def _probe(name: str, word: str, number: str) -> dict[str, Any]:
    return {
        "type": "scatter", "mode": "lines+markers", "name": word, "uid": f"probe-{name}", "connectgaps": True,
        "meta": {"column": f"probe:{name}", "x": "probe_step", "ink": True}, "line": {"color": INK, "width": 2},
        "marker": {"size": 5, "color": INK},
        "hovertemplate": f"{word} %{{y:{number}}}<br>step %{{x}}<extra></extra>",
    }  # fmt: skip
