"""A run as one HTML file that opens without a server and without a network: scrubber, ribbons, charts, cell, reasons.

All text of the run is escaped; its numbers are data beside the script, never code. A content policy in the file allows
its own script by hash and nothing else: no request can leave it, and a script in a title would not run.
"""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

import numpy as np

from darts_core.config import EVALUATE
from darts_core.derive import derive, kept_edges
from darts_core.errors import BadInput
from darts_core.events import short
from darts_core.genotype import RECURRENT, Genotype
from darts_core.runs import RunReader
from darts_core.space import SearchSpace
from darts_core.view import explain, tables
from darts_core.view.figures import measured_on
from darts_core.view.lecture import lecture_css, lecture_data, lecture_js, reason_cards, training_cards
from darts_core.view.palette import KIND_TITLES
from darts_core.view.recipe import reproduction
from darts_core.view.recorded import Recorded, recorded
from darts_core.view.svg import genotype_svg, mix_svg

CLOSELY = 5000  # records that the reasons look at
FRAMES = 300  # records of the scrubber: more cannot be told apart, and cost every reader room
START = """
(() => {
  const data = JSON.parse(document.getElementById("data").textContent);
  if (data.lecture) mountLecture(document.getElementById("lecture"), data.lecture);
  mountReasons(document.getElementById("reasons"), data.reasons);
})();
"""
STYLE = """
:root { color-scheme: light dark; --st-text-color: #0f1014; --st-background-color: #ffffff; --st-border-color: #c9cad6;
  --st-secondary-background-color: #f3f3f8; --st-primary-color: #5b45c9;
  --st-font: "Source Sans 3", "Segoe UI", "Helvetica Neue", Arial, sans-serif; }
@media (prefers-color-scheme: dark) { :root { --st-text-color: #f1f2f7; --st-background-color: #0e1117;
  --st-border-color: #3a4152; --st-secondary-background-color: #1b1f2a; --st-primary-color: #9d8cff; } }
body { margin: 0; background: var(--st-background-color); color: var(--st-text-color); font: 15px/1.5 var(--st-font); }
main { max-width: 1180px; margin: 0 auto; padding: 20px 16px 48px; }
h1 { font-size: 26px; line-height: 1.25; margin: 0 0 6px; overflow-wrap: anywhere; }
h2 { font-size: 19px; margin: 30px 0 8px; }
p { margin: 6px 0; max-width: 78ch; overflow-wrap: anywhere; }
.wide { overflow-x: auto; }
table { border-collapse: collapse; font-size: 14px; }
th, td { text-align: left; vertical-align: top; padding: 3px 14px 3px 0; }
tr { border-bottom: 1px solid var(--st-border-color); }
td { overflow-wrap: anywhere; }
pre { background: var(--st-secondary-background-color); padding: 10px 12px; border-radius: 8px; overflow-x: auto; }
.upright { display: none; }
@media (max-width: 640px) { .lying { display: none; } .upright { display: block; } }
.picture svg { max-width: 100%; height: auto; border-radius: 8px; }
summary { cursor: pointer; }
:focus-visible { outline: 2px solid var(--st-primary-color); outline-offset: 2px; }
"""


def report(reader: RunReader) -> bytes:
    """The file.

    Raises:
        BadInput: the run cannot be read, or has no step yet.
    """
    run = recorded(reader, most=FRAMES)
    if not len(run.steps):
        raise BadInput(f"run {run.name}", "", "no step was recorded yet", "let it run first")
    fixed = run.info["config"].get("strategy") == EVALUATE  # one cell is trained: nothing moves but its curves
    body, data = _training(run) if fixed else _search(run, recorded(reader, run.events, CLOSELY))
    script = lecture_js() + START
    policy = "; ".join(
        (
            "default-src 'none'",
            f"script-src 'sha256-{base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()}'",
            "style-src 'unsafe-inline'",
            "base-uri 'none'",
            "form-action 'none'",
        )
    )
    status = reader.status()
    parts = [
        f"<h1>{escape(run.title)}</h1>",
        _paragraph(_described(run, status.state, status.message)),
        *body,
        *_worth(run.events),
        *_happened(run.events, run.space),
        "<h2>Make it again</h2>",
        f"<pre>{escape(reproduction(run.info))}</pre>",
        _settings(run.info),
        _paragraph("Made with DARTS Workbench. This file needs no network and sends nothing anywhere."),
    ]
    text = (
        f'<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        f'<meta http-equiv="Content-Security-Policy" content="{escape(policy)}">'
        f'<meta name="viewport" content="width=device-width, initial-scale=1"><title>{escape(run.title)}</title>'
        f"<style>{STYLE}{lecture_css()}</style></head><body><main>{''.join(parts)}</main>"
        f'<script type="application/json" id="data">{_json(data)}</script><script>{script}</script></body></html>\n'
    )
    return text.encode("utf-8", "replace")


def _search(run: Recorded, close: Recorded) -> tuple[list[str], dict[str, Any]]:
    """What there is to see of a search, and the data of its drawings. `close`: the same run with more records."""
    genotype, found = run.result() or derive(run.space, run.mixes()), explain.reasons(close)
    orange = "identity, a node without a curve of its own" if RECURRENT in genotype.cells else "skip connection"
    parts = [
        "<h2>The search</h2>",
        _paragraph(
            "Each ribbon is an edge of the cell; its stripes are the operations mixed on it, as wide as their weights. "
            f"Orange is the {orange}. Move the slider, or press Play."
        ),
        f'<div class="lecture" id="lecture">{_still(run)}</div>',
        "<h2>The derived cell</h2>",
        _picture(genotype),
        "<h2>Why each edge is kept</h2>",
        _paragraph(explain.summary(found)),
        f'<div class="lecture" id="reasons">{_sentences(found)}</div>',
    ]
    return parts, {"lecture": lecture_data([run], charts=True), "reasons": reason_cards(close, found)}


def _picture(genotype: Genotype) -> str:
    """The derived cell in two forms, of which the style sheet shows the one that fits."""
    lying, upright = genotype_svg(genotype), genotype_svg(genotype, upright=True)
    return f'<div class="picture wide lying">{lying}</div><div class="picture upright">{upright}</div>'


def _training(run: Recorded) -> tuple[list[str], dict[str, Any]]:
    """The same of one cell that is trained from scratch."""
    cards = training_cards(run)
    said = "".join(_paragraph(f"{card['title']}: {' '.join(card['sentences'])}") for card in cards)
    on = "on test images" if measured_on(run.info) == "test" else "by validation, on what was held out of the training"
    parts = [
        "<h2>The cell</h2>",
        _picture(run.result() or derive(run.space, run.mixes())),
        "<h2>The training</h2>",
        _paragraph(f"From random weights; the cell does not change. Measured {on}; that decides nothing."),
        f'<div class="lecture" id="reasons">{said}</div>',
    ]
    return parts, {"reasons": cards}


def _json(data: Mapping[str, Any]) -> str:
    """JSON that cannot end its script element, whatever a run's title says."""
    text = json.dumps(data, allow_nan=False, separators=(",", ":"))  # ASCII only
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")


def _paragraph(text: str) -> str:
    return f"<p>{escape(text)}</p>"


def _described(run: Recorded, state: str, message: str) -> str:
    config = run.info["config"]
    images = config.get("dataset", "unknown images")
    said = f"{run.method} on {images}, seed {run.seed}, {run.last_step:,} steps, {state}."
    noise = config.get("label_noise") or 0
    if noise:
        said += f" {100 * noise:.0f} % of the search labels were replaced at random, on purpose."
    if run.info["parent"]:
        said += f" Branched from {run.info['parent']['run']} after {run.info['parent']['epoch']} epochs."
    return said + (f" {message}" if state in ("failed", "interrupted") else "")


def _still(run: Recorded) -> str:
    """The last frame, for readers without scripts."""
    parts = []
    for kind, cell in run.space.cells.items():
        mix = np.clip(np.nan_to_num(run.mixes()[kind]), 0, None)
        kept = kept_edges(cell, derive(run.space, run.mixes()).cells[kind])
        parts.append(mix_svg(cell, mix, KIND_TITLES.get(kind, kind), kept))
    return f'<div class="picture wide">{"".join(parts)}</div>'


def _sentences(found: Sequence[explain.Reason]) -> str:
    """The reasons as text, for readers without scripts."""
    return "".join(
        _paragraph(f"{reason.source} to {reason.target}: {' '.join(reason.sentences())}") for reason in found
    )


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    columns = "".join(f'<th scope="col">{escape(name)}</th>' for name in head)
    body = "".join(f"<tr>{''.join(f'<td>{escape(cell)}</td>' for cell in row)}</tr>" for row in rows)
    return f'<div class="wide"><table><thead><tr>{columns}</tr></thead><tbody>{body}</tbody></table></div>'


ROLES = {
    "supernet": "supernet, all operations mixed",
    "pruned": "only the derived edges, same weights",
    "derived": "derived cell, trained from scratch",
    "random": "random cells, trained the same way",
}


def _worth(events: Sequence[Mapping[str, Any]]) -> list[str]:
    read = tables.perplexities(events)  # of a network for text; others name images
    trained = read or tables.trained(events)
    write = (lambda value: f"{value:.2f}") if read else (lambda value: f"{100 * value:.1f} %")
    rows = [
        [words, write(found.mean), f"{write(found.low)} to {write(found.high)}", str(found.count)]
        for role, words in ROLES.items()
        if (found := trained.get(role))
    ]
    if not rows:
        return []
    head = ("network", "perplexity, mean" if read else "accuracy, mean", "range", "trainings")
    on = "On the test text; lower is better." if read else "On test images where they were measured."
    said = ["<h2>What it is worth</h2>", _paragraph(on), _table(head, rows)]
    ends = [line["summary"] for line in events if line["type"] == "finished"]
    if ends and "multiply_adds" in ends[-1]:
        size, adds, wait = (ends[-1].get(name, 0) for name in ("parameters", "multiply_adds", "latency_ms"))
        words = f"{size:,.0f} parameters; {adds:,.0f} multiply-adds per image, those of convolutions and linear layers"
        said.append(_paragraph(f"{words}; {wait:.1f} ms for one image on the machine that trained it."))
    return said


def _happened(events: Sequence[Mapping[str, Any]], space: SearchSpace) -> list[str]:
    found = tables.marks(events, space)[:200]
    rows = [[f"{mark.step:,}", mark.text] for mark in found]
    return ["<h2>What happened</h2>", _table(("step", "what"), rows)] if rows else []


def _settings(info: Mapping[str, Any]) -> str:
    rows = [[key, short(value)] for key, value in info["config"].items()]
    rows += [[key, str(value)] for key, value in info["versions"].items()]
    return f"<details><summary>All settings and versions</summary>{_table(('setting', 'value'), rows)}</details>"
