"""When a search is over: why it broke and how to go on, its cell, and the files to take away."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import streamlit as st

from app import process, stream
from app.cell_picture import cell_picture
from app.choose import trouble
from app.live.starting import show
from app.words import escaped, sentence
from darts_core import runs
from darts_core.config import EVALUATE
from darts_core.errors import BadInput
from darts_core.evaluation import EVALUATIONS, evaluation_config, settings_from
from darts_core.genotype import Genotype
from darts_core.view import dot, svg

Events = Sequence[Mapping[str, Any]]


@st.fragment(run_every=1.0)
def broken(name: str, ours: bool) -> None:
    """A run that ended before its time: why, where, and how to go on."""
    source = stream.feed(name)
    status = source.status()
    launch = process.launched(name)
    resumed = launch if launch and launch.command[3:4] == ("resume",) else None
    if resumed and resumed.process.poll() is None:
        st.info(f"Resuming from the last checkpoint, {resumed.seconds:.0f} s", icon=":material/restart_alt:")
        return
    with st.container(border=True):
        what = "search" if trains(source.reader.info) else "training"
        ended = "failed" if status["state"] == "failed" else "was interrupted"
        why = escaped(sentence(status["message"]))
        st.error(f"**This {what} {ended} after step {status['step']:,}.** {why}", icon=":material/error:")
        if refusal := resumed.refusal() if resumed else None:
            st.caption("The last try to resume it ended with:")
            st.text(refusal)
        if ours:
            st.caption(
                "Nothing up to that step is lost. Resume goes on from the last checkpoint as it was, here or in a "
                "terminal; Branch, above, goes on from it with other settings."
            )
            if st.button("Resume", type="primary", icon=":material/restart_alt:", key="resume"):
                try:
                    process.resume(name, runs.runs_root())
                except BadInput as problem:
                    trouble(problem)
                st.rerun(scope="fragment")
            root = str(runs.runs_root())
            command = (Path(sys.executable).name, "-m", "darts_core", "resume", name, "--runs", root)
            st.code(shlex.join(command), language=None, wrap_lines=True)
        if tail := source.reader.log_tail(15):
            with st.expander("Last lines of its log"):
                st.code(tail, language=None, wrap_lines=True)


EXPORTS = {
    "genotype.json": ("Genotype (JSON)", "application/json", lambda cell: cell.dumps()),
    "genotype.txt": ("DARTS text", "text/plain", lambda cell: cell.text()),
    "cell.svg": ("SVG", "image/svg+xml", svg.genotype_svg),
    "cell.pdf": ("PDF", "application/pdf", lambda cell: dot.render(dot.genotype_dot(cell), "pdf")),
    "cell.png": ("PNG", "image/png", lambda cell: dot.render(dot.genotype_dot(cell), "png")),
    "cell.dot": ("DOT", "text/vnd.graphviz", lambda cell: dot.genotype_dot(cell)),
}


def export(data: Mapping[str, Any], file: str) -> bytes:
    """The bytes of a download; runs on a worker thread, so it touches no page."""
    made = EXPORTS[file][2](Genotype.from_json(data))
    return made.encode() if isinstance(made, str) else made


def downloads(name: str, data: Mapping[str, Any]) -> None:
    with st.container(horizontal=True, gap="small"):
        for file, (title, mime, _) in EXPORTS.items():
            st.download_button(
                title,
                partial(export, data, file),
                f"{name}-{file}",
                mime,
                on_click="ignore",
                icon=":material/download:",
                key=f"download-{file}",
            )


def newest_cell(events: Events) -> Mapping[str, Any] | None:
    """The last event that holds a genotype: the result, else that of the last epoch."""
    return next((event for event in reversed(events) if event["type"] in ("result", "epoch")), None)


def drawing(name: str, found: Mapping[str, Any], key: str = "ended") -> None:
    """The cell of an event as a picture."""
    epochs = found.get("epoch", 0) + 1
    title = "The cell" if found["type"] == "result" else f"The cell after {epochs} epoch{'s' if epochs > 1 else ''}"
    st.subheader(title, anchor=False)
    try:
        cell_picture(Genotype.from_json(found["genotype"], name), key)
    except BadInput as problem:
        trouble(problem)


def cell_so_far(name: str) -> None:
    """The newest cell to take away: that of the result, else the one that the last epoch would derive."""
    found = newest_cell(stream.feed(name).told())
    if found is None:
        st.caption("There is a first cell after the first epoch.")
        return
    if found["type"] == "epoch":
        drawing(name, found, "so-far")
    downloads(name, found["genotype"])
    more = "More formats, and a report in one file"
    st.page_link("app_pages/cells.py", label=more, icon=":material/hub:", query_params={"run": name})


def trains(info: Mapping[str, Any]) -> bool:
    """Can the cell of this run be trained here, or is this run such a training already?"""
    return info["config"].get("strategy") != EVALUATE


def train(name: str, info: Mapping[str, Any], genotype: Mapping[str, Any], invites: bool = True) -> bool:
    """A button that trains a cell from scratch, as a run of its own, as the `quick` preset does. True: it has begun.

    `invites`: it is what one does next, and looks like it.
    """
    preset = EVALUATIONS["text" if "recurrent" in info["space"].get("cells", {}) else "quick"]
    hint = f"From scratch, in a run of its own, watched on the Live page. {preset.doc}"
    look = "primary" if invites else "secondary"
    if st.button("Train this cell", icon=":material/model_training:", type=look, key="train", help=hint):
        try:
            start_training(name, info, genotype)
        except BadInput as problem:
            trouble(problem)
        else:
            return True
    return False


def start_training(name: str, info: Mapping[str, Any], genotype: Mapping[str, Any]) -> process.Launch:
    """Start the training of a cell on the data set of its search, detached, and show it.

    Raises:
        BadInput: the cell cannot be trained, or the process does not start.
    """
    cell = Genotype.from_json(genotype, name)
    config = evaluation_config("quick", cell, f"cell of {name}", settings_from(info["config"], cell))
    launch = process.start(config.there().to_dict(), runs.runs_root())
    show(launch.name)
    return launch
