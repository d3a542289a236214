"""What notebooks show and touch: the ribbon, charts with a picture for those who only read, and a search that runs.

Every piece is a Jupyter widget while a kernel lives, and a static picture in a notebook that is only read: its output
holds both. A live search is a process of its own that a thread reads, so that sliders and buttons answer at any time;
a cell that computes would block them.
"""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import anywidget
import ipywidgets
import numpy as np
import traitlets

from darts_core.derive import collapse, derive, kept_edges, skip_of
from darts_core.genotype import Genotype
from darts_core.runs import RunReader, send_order
from darts_core.space import CellSpec, SearchSpace
from darts_core.view import dot, figures, tables
from darts_core.view.figure_widget import FigureWidget
from darts_core.view.layout import cell_layout
from darts_core.view.palette import FONT, KIND_TITLES, colours
from darts_core.view.svg import mix_svg

PLOTLY = "application/vnd.plotly.v1+json"
STATIC = "application/vnd.darts.static+json"  # what a page without a kernel shows of a panel; read by the rendered site
ENDED = ("finished", "stopped", "failed", "interrupted", "corrupt")  # states that a run does not leave by itself
ADAPTER = """
function legend(cell, point) { // which colour is which operation
  const row = document.createElement("div");
  row.style.cssText = "display: flex; flex-wrap: wrap; gap: 2px 14px; margin: 2px 0 8px; font-size: 12px";
  cell.ops.forEach((op, i) => {
    const entry = document.createElement("span"), patch = document.createElement("span");
    patch.style.cssText = "display: inline-block; width: 11px; height: 11px; border-radius: 3px; margin-right: 5px";
    patch.style.background = cell.colours[i];
    entry.append(patch, op);
    entry.onmouseenter = () => point(op);
    entry.onmouseleave = () => point(null);
    row.append(entry);
  });
  return row;
}
export default {
  render({ model, el }) {
    const host = document.createElement("div"); // the widget's own element takes its width from Jupyter's layout
    host.style.maxWidth = `${1.15 * model.get("cell").layout.width}px`;
    el.append(host, legend(model.get("cell"), (op) => ribbon.highlight(op)));
    const ribbon = mountRibbon(host, {
      onEdge: (edge) => { model.set("edge", edge); model.save_changes(); },
      onOp: (op) => ribbon.highlight(op),
    });
    const show = () => ribbon.update({
      ...model.get("cell"), weights: model.get("weights"), kept: model.get("kept"), tween: model.get("tween"),
    });
    const pick = () => ribbon.select(model.get("edge"));
    show();
    pick();
    model.on("change:weights", show);
    model.on("change:kept", show);
    model.on("change:edge", pick);
    return () => ribbon.destroy();
  },
};
"""


class Late:
    """A widget that reaches the page when it is first shown, as it stands by then.

    A widget usually reaches the page while it is made, and every change after that is a message of its own. On a busy
    machine a page that was still loading lost such messages, and showed empty charts and ribbons of long ago.
    """

    _asked = False

    def open(self) -> None:
        if self._asked:
            super().open()  # type: ignore[misc]

    @property
    def model_id(self) -> str:
        """The name under which the page knows it; whoever asks is about to show it."""
        self.reach_page()
        return super().model_id  # type: ignore[misc]

    def reach_page(self) -> None:
        """Tell the page of it, the first time; later calls do nothing."""
        if not self._asked:
            self._asked = True
            self.settle()
            self.open()

    def settle(self) -> None:
        """Called before the page is told: bring what is sent up to date."""


class Ribbon(Late, anywidget.AnyWidget):
    """A mix drawn as ribbons. Click an edge (or Tab and Enter) and `edge` holds its number.

    Args:
        cell: the cell; its layout never changes afterwards.
        mix: (edges, ops), weights from 0 upwards.
        title: what the drawing is, for screen readers and the static picture.
        kept: per edge whether derivation keeps it; None draws all edges in full.

    Raises:
        BadInput: the mix does not fit the cell.
    """

    _esm = Path(__file__).with_name("ribbon.js").read_text("utf-8") + ADAPTER
    _css = Path(__file__).with_name("ribbon.css").read_text("utf-8")
    cell = traitlets.Dict().tag(sync=True)
    weights = traitlets.List(traitlets.Float()).tag(sync=True)
    kept = traitlets.List(traitlets.Bool(), default_value=None, allow_none=True).tag(sync=True)
    edge = traitlets.Int(-1).tag(sync=True)
    tween = traitlets.Int(250).tag(sync=True)

    def __init__(self, cell: CellSpec, mix: np.ndarray, title: str = "Cell", kept: Sequence[bool] | None = None):
        self.spec, self.title = cell, title
        self._picture = mix_svg(cell, np.asarray(mix), title, kept)  # refuses what cannot be drawn, in one sentence
        drawn = {
            "layout": cell_layout(cell).to_json(),
            "edges": [list(edge) for edge in cell.edges],
            "spoken": [cell.state_words(state) for state in range(cell.states)],
            "ops": list(cell.ops),
            "colours": colours(cell.ops),
            "alt": title,
        }
        super().__init__(cell=drawn, weights=_flat(mix), kept=None if kept is None else list(kept))

    def show(self, mix: np.ndarray, kept: Sequence[bool] | None = None) -> None:
        """Move to another mix of the same cell; the stripes glide there."""
        with self.hold_sync():
            self.weights, self.kept = _flat(mix), None if kept is None else [bool(k) for k in kept]

    def mix(self) -> np.ndarray:
        """(edges, ops), as shown now."""
        return np.asarray(self.weights).reshape(self.spec.shape)

    def _repr_mimebundle_(self, **words: Any) -> tuple[dict[str, Any], dict[str, Any]]:
        self.reach_page()
        picture = mix_svg(self.spec, self.mix(), self.title, self.kept)
        return _with_picture(super()._repr_mimebundle_(**words), "image/svg+xml", picture)


class Chart(Late, FigureWidget):
    """A Plotly figure that code can change while it is on the page; whoever only reads sees its last state."""

    def __init__(self, *words: Any, **more: Any) -> None:
        super().__init__(*words, **more)
        self._config = {"displayModeBar": False}  # its buttons would lie over the title
        if not self.to_plotly_json()["layout"].get("meta"):  # the figures of `view.figures` bring their own look
            self.update_layout(template="plotly_white", margin={"l": 56, "r": 16, "t": 48, "b": 44})
            self.update_layout(font_family=FONT, title_font_size=15)

    def settle(self) -> None:
        figure = self.to_dict()
        self._widget_data, self._widget_layout = figure["data"], figure["layout"]

    def _repr_mimebundle_(self, *args: Any, **words: Any) -> tuple[dict[str, Any], dict[str, Any]]:
        self.reach_page()
        return _with_picture(super()._repr_mimebundle_(*args, **words), PLOTLY, json.loads(str(self.to_json())))

    def put(self, *series: tuple[Sequence[float], Sequence[float]]) -> None:
        """New (x, y) for the first traces, in one message to the page."""
        traces: Any = self.data
        with self.batch_update():
            for trace, (x, y) in zip(traces, series, strict=False):
                trace.x, trace.y = np.asarray(x), np.asarray(y)


class Cell:
    """A derived cell as Graphviz draws it: a picture, with its DARTS text for those who cannot see it."""

    def __init__(self, genotype: Genotype, kinds: Sequence[str] | None = None) -> None:
        self.genotype = genotype
        self.svg = dot.render(dot.genotype_dot(genotype, kinds), "svg").decode("utf-8")

    def _repr_mimebundle_(self, **words: Any) -> dict[str, str]:
        return {"image/svg+xml": self.svg, "text/plain": self.genotype.text()}


class Panel(ipywidgets.VBox):
    """Controls and pictures below each other; a page that is only read shows them as they stood when displayed."""

    def _repr_mimebundle_(self, **words: Any) -> tuple[dict[str, Any], dict[str, Any]]:
        return _with_picture(super()._repr_mimebundle_(**words), STATIC, static(self))


def static(widget: Any) -> dict[str, Any]:
    """What a widget shows now, as data: {"svg"}, {"plotly"}, {"html"}, {"control"} or {"row"|"column": [...]}."""
    if isinstance(widget, Ribbon):
        return {"svg": mix_svg(widget.spec, widget.mix(), widget.title, widget.kept)}
    if isinstance(widget, Chart):
        return {"plotly": json.loads(str(widget.to_json()))}
    if isinstance(widget, ipywidgets.Box):
        side = "row" if isinstance(widget, ipywidgets.HBox) else "column"
        return {side: [static(child) for child in widget.children]}
    if isinstance(widget, ipywidgets.HTML):
        return {"html": widget.value}
    value = getattr(widget, "label", None) or getattr(widget, "value", None)
    shown = f"{value:.4g}" if isinstance(value, float) else value
    return {"control": widget.description if value is None else f"{widget.description}: {shown}"}


class Picture:
    """A panel's last state as a picture of its own: the same for a reader with and without a kernel."""

    def __init__(self, widget: Any) -> None:
        self.content = static(widget)

    def _repr_mimebundle_(self, **words: Any) -> dict[str, Any]:
        return {STATIC: self.content, "text/html": "".join(_pictures(self.content)), "text/plain": "a picture"}


class LiveRun(ipywidgets.VBox):
    """A search while it runs: its ribbons, its charts, and Pause, Step, Stop and a slider that steers it.

    A thread looks at the run folder ten times a second; nothing here computes, so the notebook stays free. Works as
    well on a finished run. `close()` ends the thread; it ends by itself with the run.

    Args:
        name: the run; it may be one that has just been started and has no folder yet.
        root: the folder of runs.
        charts: names of `view.figures.templates` and `text_templates`; None: shares, and accuracy or perplexity.
    """

    def __init__(self, name: str, root: str | Path, charts: Sequence[str] | None = None, patience: float = 60):
        self.name, self.root, self.patience = name, Path(root), patience
        self.state, self.step, self.error = "starting", 0, ""
        self.chip = ipywidgets.HTML("<b>starting</b>")
        self.answer, self.meter, self.written = ipywidgets.HTML(""), ipywidgets.HTML(""), ipywidgets.HTML("")
        self._asked: dict[str, str] = {}  # id of an order that was given here and is not answered yet -> its words
        self.buttons = {word: ipywidgets.Button(description=word) for word in ("Pause", "Resume", "Step", "Stop")}
        for word, button in self.buttons.items():
            button.on_click(partial(self._press, word.lower()))
        self.rate = ipywidgets.FloatLogSlider(
            value=0.01, min=-4, max=0, step=0.1, description="alpha rate", continuous_update=False, readout_format=".4f"
        )
        self.rate.observe(self._steer, "value")
        self.ribbons: dict[str, Ribbon] = {}
        self.charts: dict[str, Chart] = {}
        self._wanted, self._quiet = charts, False
        self._end = threading.Event()
        self._thread = threading.Thread(target=self._follow, daemon=True, name=f"live {name}")
        controls = ipywidgets.HBox([*self.buttons.values(), self.rate])
        self._body = ipywidgets.VBox([])
        super().__init__([self.chip, controls, self.answer, self.meter, self.written, self._body])
        self._thread.start()

    def _press(self, kind: str, button: Any) -> None:
        self._ask(kind, self.order(kind))

    def _ask(self, words: str, order: str) -> None:
        """Say what was asked for until the search answers: on a busy machine that takes a while."""
        self._asked[order] = words
        self.answer.value = f"asked for: {_plain(', '.join(list(self._asked.values())))}"

    def _answered(self, events: Sequence[Mapping[str, Any]], over: bool) -> None:
        """What the search said to orders from here. `over`: it will say nothing more."""
        for event in events:
            if event["type"] == "applied" and (words := self._asked.pop(event["id"], "")):
                took = f"done at step {event['step']}" if event["accepted"] else f"refused, {event['reason']}"
                self.answer.value = f"{_plain(words)}: {_plain(took)}"
        if over and self._asked:
            self.answer.value = f"too late for: {_plain(', '.join(list(self._asked.values())))}"
            self._asked.clear()

    def _listens(self, yes: bool) -> None:
        """Whether the search still takes orders: not while its cells are trained from scratch, nor when all is done."""
        for control in (*self.buttons.values(), self.rate):
            if control.disabled == yes:
                control.disabled = not yes

    def order(self, kind: str, name: str | None = None, value: float | str | None = None) -> str:
        """Give the search an order; it is carried out between two steps and then stands in its events."""
        return send_order(self.root, self.name, kind, name=name, value=value)

    def wait(self, seconds: float = 60, until: Callable[[LiveRun], bool] | None = None) -> bool:
        """Wait until the run has ended (or until `until(self)`), at most so many seconds; whether it came to that."""
        there = until or (lambda run: run.ended)
        limit = time.monotonic() + seconds
        while not there(self) and time.monotonic() < limit:
            time.sleep(0.05)
        return there(self)

    @property
    def ended(self) -> bool:
        return self.state in ENDED or bool(self.error)

    def picture(self) -> Picture:
        """How the board stands now, as a picture that stays."""
        return Picture(ipywidgets.VBox([self.chip, self.meter, self.written, self._body]))

    def close(self) -> None:
        """End the thread and take the widget away. The search itself goes on."""
        self._end.set()
        super().close()

    # -- the thread

    def _follow(self) -> None:
        began, seen = time.monotonic(), (-1, "", "")
        reader: RunReader | None = None
        parts: tuple[ipywidgets.Widget, ...] = ()
        while not self._end.wait(0.1):
            if reader is None:
                if not (self.root / self.name / "run.json").is_file():
                    if time.monotonic() - began > self.patience:
                        return self._say_end(f"no run {self.name!r} appeared within {self.patience:.0f} s")
                    continue
                reader = RunReader(self.root, self.name)
                parts = self._build(reader)
            status = reader.status()
            listens = status.state not in ENDED and status.phase != "evaluate"
            if self._asked:
                self._answered(reader.events()[0], over=not listens)
            if (status.step, status.state, status.phase) != seen:
                seen = (status.step, status.state, status.phase)
                self._show(reader, status)
                self._listens(listens)
                if not self._body.children:
                    self._body.children = parts  # with their first step in them
                if status.state in ENDED:
                    self._show_anew()
                self.state, self.step = status.state, status.step  # last: whoever waited finds everything drawn
            if self.ended:
                return None

    def _show_anew(self) -> None:
        """At the end: a page that was too busy to load a chart in two seconds never heard of what changed in it."""
        self.charts = {name: Chart(chart) for name, chart in self.charts.items()}
        if self._body.children:
            self._body.children = (*self.ribbons.values(), *self.charts.values())

    def _say_end(self, sentence: str) -> None:
        self.error = sentence
        self.chip.value = f"<b>{_plain(sentence)}</b>"

    def _build(self, reader: RunReader) -> tuple[ipywidgets.Widget, ...]:
        self.space = SearchSpace.from_json(reader.info["space"])
        self._quiet = True
        self.rate.value = float(reader.info["config"]["a_lr"])
        self._quiet = False
        for kind, cell in self.space.cells.items():
            even = cell.legal_array() / cell.legal_array().sum(-1, keepdims=True)
            self.ribbons[kind] = Ribbon(cell, even, KIND_TITLES.get(kind, kind))
        ops = next(iter(self.space.cells.values())).ops
        templates = figures.templates(ops) | figures.text_templates()
        learning = "perplexity" if "train_perplexity" in reader.layout.metrics else "accuracy"
        for name in self._wanted or ("shares", learning):
            chart = Chart(figures.fill(templates[name], {}))
            about = {"text": templates[name]["layout"]["meta"]["about"], "font": {"size": 11}}
            chart.update_layout(height=300, margin_t=64, title_subtitle=about)
            self.charts[name] = chart
        return (*self.ribbons.values(), *self.charts.values())

    def _show(self, reader: RunReader, status: Any) -> None:
        total = f"/{status.total_steps}" if status.total_steps else ""
        self.chip.value = f"<b>{_plain(status.state)}</b> step {status.step}{total} {_plain(status.message or '')}"
        count = reader.step_count()
        if not count:
            return
        last = reader.steps(count - 1, 1)
        mixes = tables.mixes_at(last, 0, self.space)
        genotype = derive(self.space, mixes)
        for kind, ribbon in self.ribbons.items():
            cell = self.space.cells[kind]
            ribbon.show(mixes[kind], kept_edges(cell, genotype.cells[kind]))
        found = collapse(self.space, mixes, genotype)
        kind = next(iter(self.space.cells))
        skip = skip_of(self.space.cells[kind]) or "skips"
        passes_on = {"skip_connect": "skip connections", "identity": "identities"}.get(skip, skip)
        self.meter.value = (
            f"{found.derived_skips} of {found.derived_edges} derived edges are {passes_on}, their mean weight is "
            f"{found.mean_skip_weight:.0%}: <b>{found.level}</b>"
        )
        self._chart(reader, count, kind)

    def _chart(self, reader: RunReader, count: int, kind: str) -> None:
        stride = max(1, count // tables.POINTS)
        steps = reader.steps(0, None, stride)
        events, _ = reader.events()
        said = [event for event in events if event["type"] == "sample"]
        if said:
            self.written.value = f"it writes: <i>{_plain(said[-1]['text'])}</i>"
        table = tables.columns(steps, reader.layout.metrics, events, self.space, kind)
        for chart in self.charts.values():
            traces: Any = chart.data
            with chart.batch_update():
                for trace in traces:
                    x, y = (table.get(trace.meta[axis], np.array([])) for axis in ("x", "column"))
                    trace.x, trace.y = x, y

    def _steer(self, change: Mapping[str, Any]) -> None:
        if not self._quiet and not self.ended:
            rate = float(f"{change['new']:.4g}")
            self._ask(f"alpha rate {rate:g}", self.order("set", "a_lr", rate))


def _pictures(content: Mapping[str, Any]) -> list[str]:
    """The parts of a static panel that plain HTML can show: drawings and sentences."""
    for key in ("row", "column"):
        if key in content:
            return [text for child in content[key] for text in _pictures(child)]
    return [f"<div>{content[key]}</div>" for key in ("svg", "html") if key in content]


def _with_picture(bundle: Any, mime: str, content: Any) -> tuple[dict[str, Any], dict[str, Any]]:
    """The widget's own output and a picture beside it: Jupyter takes the widget, a page without kernel the picture."""
    data, metadata = bundle if isinstance(bundle, tuple) else (bundle or {}, {})
    data = {key: value for key, value in data.items() if key != "text/html"}
    return {**data, mime: content}, metadata


def _flat(mix: np.ndarray) -> list[float]:
    return [round(float(weight), 5) for weight in np.asarray(mix).reshape(-1)]


def _plain(text: str) -> str:
    return text.replace("&", "&amp;").replace("<", "&lt;")
