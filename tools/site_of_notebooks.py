"""The notebooks as pages that open from a folder: no network, no kernel, pictures and equations included.

Used by `tools/notebooks.py site FOLDER`. Every notebook is executed, so the pages show what the code really gave.
Equations become MathML, which browsers draw by themselves; charts are drawn by the Plotly script laid beside the pages.
"""

from __future__ import annotations

import html
import json
import re
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import plotly
from latex2mathml.converter import convert
from markdown_it import MarkdownIt
from mdit_py_plugins.dollarmath import dollarmath_plugin
from pygments import highlight
from pygments.formatters import HtmlFormatter
from pygments.lexers import PythonLexer

from darts_core.view.widgets import PLOTLY, STATIC
from notebooks import execute, sources

STYLE = """
:root { color-scheme: light dark; --ink: #262730; --paper: #fff; --soft: #f4f5f7; --line: #d5d8de; --link: #1a5fb4; }
@media (prefers-color-scheme: dark) {
  :root { --ink: #e7e9ee; --paper: #14161b; --soft: #1e2128; --line: #3a3f4a; --link: #8ab4f8; }
  .chart, .drawing { background: #fff; border-radius: 6px; }
}
* { box-sizing: border-box; }
body { margin: 0; background: var(--paper); color: var(--ink); font: 17px/1.6 system-ui, sans-serif; }
main { max-width: 900px; margin: 0 auto; padding: 24px 16px 80px; }
nav { font-size: 15px; }
a { color: var(--link); }
h1 { line-height: 1.2; }
pre, .highlight { background: var(--soft); border: 1px solid var(--line); border-radius: 6px; font-size: 14px; }
pre { padding: 10px 12px; overflow-x: auto; }
.highlight pre { border: 0; margin: 0; background: none; }
.said { white-space: pre-wrap; overflow-wrap: anywhere; }
.said { border-left: 3px solid var(--line); background: none; border-radius: 0; }
:not(pre) > code { overflow-wrap: anywhere; }
table { border-collapse: collapse; display: block; overflow-x: auto; }
td, th { border: 1px solid var(--line); padding: 4px 10px; text-align: left; }
.drawing svg { max-width: 100%; height: auto; }
.chart { overflow: hidden; }
.row { display: flex; flex-wrap: wrap; gap: 12px; align-items: flex-start; }
.row > * { flex: 1 1 260px; min-width: 0; }
.row > .control { flex: 0 0 auto; }
.control { display: inline-block; border: 1px solid var(--line); border-radius: 6px; padding: 0 8px; margin: 2px; }
.control { font-size: 14px; }
.panel { border: 1px solid var(--line); border-radius: 8px; padding: 10px; margin: 12px 0; }
.panel::before { content: "interactive in the notebook; here as it stood when it was run"; opacity: 0.75; }
.panel::before { font-size: 13px; }
math[display="block"] { overflow-x: auto; overflow-y: hidden; padding: 6px 0; }
"""


DRAW = """
function draw(id, data, layout) {
  if (innerWidth < 600 && layout.title) layout.title.font = { ...layout.title.font, size: 11 }; // a title is one line
  Plotly.newPlot(id, data, layout, { responsive: true, displayModeBar: false });
}
"""


def write_site(folder: Path, run: Callable[[Path], Any] = execute) -> None:
    """Write a page for every notebook, and an index. `run` gives a source's notebook with its outputs."""
    folder.mkdir(parents=True, exist_ok=True)
    script = Path(plotly.__file__).parent / "package_data" / "plotly.min.js"
    (folder / "plotly.min.js").write_bytes(script.read_bytes())
    books = sources()
    titles = {}
    for source in books:
        began = time.monotonic()
        book = run(source)
        titles[source.stem] = title_of(book)
        print(f"{source.stem}: executed in {time.monotonic() - began:.0f} s", file=sys.stderr, flush=True)
        (folder / f"{source.stem}.html").write_text(page(book, source.stem, books), encoding="utf-8")
    entries = "".join(f'<li><a href="{stem}.html">{html.escape(title)}</a></li>' for stem, title in titles.items())
    words = (
        "<p>Rendered from the notebooks, which are run from top to bottom for it. To change things, open them in "
        "JupyterLab: <code>make lab</code>.</p>"
    )
    (folder / "index.html").write_text(
        document("DARTS Workbench: the notebooks", f"<h1>The notebooks</h1>{words}<ul>{entries}</ul>"), encoding="utf-8"
    )


def title_of(book: Any) -> str:
    return next(line[2:] for cell in book.cells for line in cell.source.splitlines() if line.startswith("# "))


def page(book: Any, stem: str, books: list[Path]) -> str:
    """One notebook as a whole HTML document."""
    names = [path.stem for path in books]
    here = names.index(stem)
    links = ['<a href="index.html">all notebooks</a>']
    links += [f'<a href="{name}.html">{word}</a>' for name, word in _neighbours(names, here)]
    body = [f"<nav>{' · '.join(links)}</nav>"]
    for number, cell in enumerate(book.cells):
        if cell.cell_type == "markdown":
            body.append(markdown(cell.source))
        elif cell.cell_type == "code" and cell.source.strip():
            said = (output(o, f"{number}-{i}") for i, o in enumerate(joined(cell.outputs)))
            shown = "".join([code(cell), *said])
            solution = "solution" in cell.metadata.get("tags", [])
            body.append(f"<details><summary>Solution</summary>{shown}</details>" if solution else shown)
    return document(title_of(book), "\n".join(body))


def _neighbours(names: list[str], here: int) -> Iterator[tuple[str, str]]:
    if here:
        yield names[here - 1], "previous"
    if here + 1 < len(names):
        yield names[here + 1], "next"


def markdown(text: str) -> str:
    """CommonMark with tables and equations between dollars; raw HTML in it is shown as text."""
    reader = MarkdownIt("commonmark", {"html": False}).enable("table")
    reader.use(dollarmath_plugin, renderer=equation, allow_labels=False, double_inline=True)
    return reader.render(text)


def equation(text: str, words: dict[str, Any]) -> str:
    return convert(text, display="block" if words.get("display_mode") else "inline")


def code(cell: Any) -> str:
    return highlight(cell.source, PythonLexer(), HtmlFormatter(nobackground=True))


def joined(outputs: list[Any]) -> Iterator[Any]:
    """Outputs with the printed lines that follow one another as one; warnings of the machinery are left out."""
    said = ""
    for one in outputs:
        if one.output_type == "stream":
            said += one.text if one.name == "stdout" else ""
            continue
        if said:
            yield {"said": said}
            said = ""
        yield one
    if said:
        yield {"said": said}


def output(one: Any, name: str) -> str:
    """An output as HTML: the richest form that needs no kernel."""
    if "said" in one:
        return f'<pre class="said">{html.escape(re.sub(chr(27) + r"[^m]*m", "", one["said"]).rstrip())}</pre>'
    data = one.get("data", {})
    if STATIC in data:
        return f'<div class="panel">{static(data[STATIC], name)}</div>'
    if PLOTLY in data:
        return static({"plotly": data[PLOTLY]}, name)
    if "image/svg+xml" in data:
        return static({"svg": data["image/svg+xml"]}, name)
    if "text/html" in data and "application/vnd.jupyter.widget-view+json" not in data:
        return data["text/html"]
    text = data.get("text/plain", "")
    return f'<pre class="said">{html.escape(text)}</pre>' if text and "(" not in text[:40] else ""


def static(content: dict[str, Any], name: str) -> str:
    """What `darts_core.view.widgets.static` says, drawn."""
    if "row" in content or "column" in content:
        side = "row" if "row" in content else "column"
        return (
            f'<div class="{side}">' + "".join(static(c, f"{name}-{i}") for i, c in enumerate(content[side])) + "</div>"
        )
    if "svg" in content:
        drawing = content["svg"]
        return f'<div class="drawing">{drawing[drawing.index("<svg") :]}</div>'
    if "plotly" in content:
        layout = {key: value for key, value in content["plotly"].get("layout", {}).items() if key != "width"}
        figure = json.dumps([content["plotly"]["data"], layout]).replace("</", "<\\/")
        draw = f'draw("chart-{name}", ...{figure})'
        draw = f'addEventListener("DOMContentLoaded", () => {draw});'  # a row has its widths once all of it is there
        box = f'<div class="chart" id="chart-{name}" style="height: {layout.get("height", 400)}px"></div>'
        return f"{box}<script>{draw}</script>"
    if "html" in content:
        return f"<p>{content['html']}</p>" if content["html"] else ""
    return f'<span class="control">{html.escape(str(content["control"]))}</span>'


def document(title: str, body: str) -> str:
    colours = HtmlFormatter(nobackground=True).get_style_defs(".highlight")
    dark = HtmlFormatter(style="github-dark", nobackground=True).get_style_defs(".highlight")
    return (
        f'<!doctype html><html lang="en"><head><meta charset="utf-8"><title>{html.escape(title)}</title>'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<style>{STYLE}\n{colours}\n@media (prefers-color-scheme: dark) {{ {dark} }}</style>"
        f'<script src="plotly.min.js"></script><script>{DRAW}</script></head><body><main>{body}</main></body></html>'
    )
