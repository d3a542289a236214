"""Runs: all of them in one table, with tags and notes; open, compare, export, delete those that are selected."""

from __future__ import annotations

import datetime
import shlex
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import streamlit as st

from app import choose, notes, stream
from app.cell_picture import cell_picture
from app.words import STATES, escaped
from darts_core import runs
from darts_core.derive import SKIPS
from darts_core.errors import BadInput
from darts_core.genotype import Genotype
from darts_core.view.recipe import reproduction
from darts_core.view.tables import family

ROOT = runs.runs_root()
UPLOAD = 64  # MB of a zip; what it may unpack to is bounded by `import_run`
SPARK = 24  # points of the small curve of a run
COMPARED = 6
# Keys of the filter, and the column that each looks at.
KEYS = {
    "state": "state",
    "tag": "tags",
    "data": "data set",
    "set": "data set",
    "method": "method",
    "strategy": "method",
    "run": "run",
}

SEARCHED = ("run", "title", "state", "data set", "method", "tags", "note")


@st.cache_data(max_entries=2000, show_spinner=False)
def skip_curve(name: str, created: float, step: int) -> list[float]:
    """Mean skip weight of a run's cell at a few records; [] where there is none. `created` and `step` key the cache."""
    try:
        reader = runs.RunReader(ROOT, name)
        column = skip_column(reader.info)
        count = reader.step_count()
        if column is None or not count:
            return []
        kind, skip = column
        stride = max(1, count // SPARK)
        steps = reader.steps((count - 1) % stride, count, stride)
    except BadInput:
        return []
    return [round(float(value), 3) for value in steps[f"mix.{kind}"][:, :, skip].mean(-1)]


def skip_column(info: Mapping[str, Any]) -> tuple[str, int] | None:
    """The kind of cell that collapse is about, and the column of its skip, read from run.json as it stands."""
    cells = info["space"].get("cells", {}) if isinstance(info["space"], Mapping) else {}
    kind = "normal" if "normal" in cells else next(iter(cells), None)
    ops = cells[kind].get("ops", []) if kind is not None and isinstance(cells[kind], Mapping) else []
    found = [ops.index(op) for op in SKIPS if op in ops] if isinstance(ops, list) else []
    return (str(kind), found[0]) if found else None


def said_notes(run: runs.Summary) -> notes.Notes:
    try:
        return notes.read(ROOT, run.name, run.created)
    except BadInput:
        return notes.Notes(tags=("damaged-notes",))  # the panel of the run says what is wrong


def row_of(run: runs.Summary, infos: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    written, info = said_notes(run), infos.get(run.name)
    try:
        megabytes = runs.disk_bytes(ROOT, run.name) / 1e6
    except BadInput:
        megabytes = 0.0
    parent = info["parent"] if info else None
    return {
        "run": run.name,
        "state": STATES.get(run.state, (run.state, ""))[0] + (", edited" if run.edited else ""),
        "step": run.step,
        "done": min(100, 100 * run.step // run.total_steps) if run.total_steps else 0,
        "skip weight": skip_curve(run.name, run.created, run.step) if info else [],
        "data set": run.dataset,
        "method": run.strategy,
        "title": "" if run.title == run.name else run.title,
        "seed": info["seed"] if info else None,
        "tags": list(written.tags),
        "note": written.note.split("\n", 1)[0][:120],
        "branch of": f"{parent['run']}, epoch {parent['epoch']}" if parent else "",
        "MB": round(megabytes, 2),
        "started": datetime.datetime.fromtimestamp(run.created),
        "message": run.message,
    }


def passes(row: Mapping[str, Any], wanted: str) -> bool:
    """Does a row hold every word of the filter? "tag:good" looks at one column, "-word" must be missing."""
    for word in wanted.lower().split():
        refused, word = word.startswith("-"), word.removeprefix("-")
        key, colon, value = word.partition(":")
        if colon and (key in KEYS or key == "seed"):
            cell = row[KEYS.get(key, key)]
            hit = str(cell) == value if key == "seed" else value in _text(cell)
        else:
            hit = any(word in _text(row[name]) for name in SEARCHED)
        if hit == refused:
            return False
    return True


def _text(cell: Any) -> str:
    return " ".join(cell).lower() if isinstance(cell, list) else str(cell).lower()


def table(rows: Sequence[Mapping[str, Any]]) -> list[int]:
    """The table; returns the numbers of the selected rows."""
    columns = {
        "skip weight": st.column_config.LineChartColumn(
            help="Mean weight of the skip connection over the search, 0 to 1", y_min=0, y_max=1
        ),
        "done": st.column_config.ProgressColumn(format="%d %%", min_value=0, max_value=100, width="small"),
        "tags": st.column_config.ListColumn(),
        "MB": st.column_config.NumberColumn(format="%.2f", help="Size on disk, checkpoints included"),
        "started": st.column_config.DatetimeColumn(format="YYYY-MM-DD HH:mm"),
    }
    event = st.dataframe(
        rows,
        hide_index=True,
        on_select="rerun",
        selection_mode="multi-row",
        key="table",
        column_config=columns,
        alt="All runs, one per row",
    )
    return [row for row in event["selection"]["rows"] if row < len(rows)]


def panel(run: runs.Summary, info: Mapping[str, Any] | None) -> None:
    """One selected run: where to look at it, its notes, how to make it again, its family."""
    with st.container(horizontal=True, gap="small"):
        for label, page, icon in PLACES:
            if st.button(label, icon=f":material/{icon}:", key=f"open-{label}"):
                st.switch_page(f"app_pages/{page}.py", query_params={"run": run.name})
    if run.state == "corrupt":
        choose.trouble(run.message)
        return
    left, right = st.columns(2)
    with left:
        edit_notes(run)
    with right:
        if info is not None:
            st.markdown("#### Make it again")
            st.caption(
                "A branch needs its parent, and makes no orders that were given later."
                if info["parent"]
                else "The same search with the same orders, compared number by number; below, the search alone."
            )
            again = f"python -m darts_core repeat {run.name} --runs {shlex.quote(str(ROOT))}\n"
            st.code(("" if info["parent"] else again) + reproduction(info), language=None, wrap_lines=True)
            last_cell(run.name)


PLACES = (
    ("Live", "live", "monitoring"),
    ("Replay", "replay", "replay"),
    ("Cells", "cells", "hub"),
)


def last_cell(name: str) -> None:
    """The newest cell that the run tells of, small."""
    try:
        told = stream.feed(name).told()
        found = next((event for event in reversed(told) if event["type"] in ("result", "epoch")), None)
        if found is not None and found["genotype"]:
            cell_picture(Genotype.from_json(found["genotype"], name), "last")
    except BadInput as problem:
        choose.trouble(problem)


def edit_notes(run: runs.Summary) -> None:
    try:
        kept = notes.read(ROOT, run.name, run.created)
    except BadInput as problem:
        choose.trouble(problem)
        return
    with st.form(f"notes-{run.name}"):
        tags = st.text_input("Tags", " ".join(kept.tags), help="Words with spaces between", max_chars=600)
        note = st.text_area("Note", kept.note, max_chars=notes.NOTE)
        if st.form_submit_button("Save notes"):
            try:
                notes.write(ROOT, run.name, run.created, notes.Notes(notes.tags_of(tags), note, kept.bookmarks))
            except BadInput as problem:
                choose.trouble(problem)
            else:
                st.rerun()


def zipped(name: str, root: Path) -> bytes:
    """Runs on a worker thread, so it touches no page."""
    return runs.export_run(root, name)


def actions(selected: Sequence[runs.Summary]) -> None:
    """What can be done with several runs at once."""
    names = [run.name for run in selected]
    with st.container(horizontal=True, gap="small", vertical_alignment="center"):
        st.text("1 run selected" if len(names) == 1 else f"{len(names)} runs selected", width="content")
        if 2 <= len(names) <= COMPARED and st.button("Compare", icon=":material/compare_arrows:", type="primary"):
            st.switch_page("app_pages/compare.py", query_params={"runs": ",".join(names)})
        for run in selected[:COMPARED]:
            if run.state != "corrupt":
                st.download_button(
                    f"Export {run.name}",
                    partial(zipped, run.name, ROOT),
                    f"{run.name}.zip",
                    "application/zip",
                    on_click="ignore",
                    icon=":material/download:",
                    key=f"zip-{run.name}",
                    help="The record as a zip, without checkpoints; Import reads it on another machine.",
                )
        alive = [run.name for run in selected if run.state in ("starting", "running", "paused")]
        with st.popover("Delete", icon=":material/delete:", key="panel-delete"):
            if alive:
                st.caption(escaped(f"Still running, so they stay: {', '.join(alive)}. Stop them first."))
            gone = [name for name in names if name not in alive]
            if gone:
                st.text(f"Move to the trash: {', '.join(gone)}? They can be brought back below.")
                if st.button("Move to the trash", type="primary", key="delete"):
                    delete(gone)


def delete(names: Sequence[str]) -> None:
    for name in names:
        try:
            runs.trash(ROOT, name)
        except BadInput as problem:
            choose.trouble(problem)
            return
    st.session_state.pop("table", None)
    st.rerun()


def bring_in() -> None:
    """A zip from another machine. Nothing in it is run; it becomes a new run of its own name."""
    with st.form("import", border=False, clear_on_submit=True):
        given = st.file_uploader("A zip that Export made", type=["zip"], max_upload_size=UPLOAD)
        name = st.text_input("Name of the new run", placeholder="small letters, digits, - and _", max_chars=64)
        if st.form_submit_button("Import") and given is not None:
            try:
                stem = name.strip() or Path(given.name).stem.lower()
                made = runs.import_run(ROOT, given.getvalue(), stem)
            except BadInput as problem:
                choose.trouble(problem)
            else:
                st.success(escaped(f"{made.name} is there: {made.step_count():,} steps."), icon=":material/check:")


def tree(parents: Mapping[str, Mapping[str, Any] | None]) -> None:
    """Every family of branches: each run below the one it left, with a way to compare them."""
    told: set[str] = set()
    for name in parents:
        relatives = [] if name in told else family(parents, name)
        told |= {relative.name for relative in relatives}
        if len(relatives) < 2:
            continue
        lines = []
        for relative in relatives:
            lead = "    " * (relative.depth - 1) + "\u2514\u2500\u2500 " if relative.depth else ""
            began = "" if relative.epoch is None else f"   after {relative.epoch} epochs"
            lines.append(f"{lead}{relative.name}{began}{'' if relative.name in parents else '   (deleted)'}")
        st.code("\n".join(lines), language=None)
        there = [relative.name for relative in relatives if relative.name in parents][:COMPARED]
        if len(there) > 1:
            words, query = f"Compare {len(there)} of this family", {"runs": ",".join(there)}
            st.page_link("app_pages/compare.py", label=words, icon=":material/compare_arrows:", query_params=query)


def trash_can() -> None:
    found = runs.trashed(ROOT)
    if not found:
        st.caption("The trash is empty.")
    for entry in found[:50]:
        with st.container(horizontal=True, vertical_alignment="center", gap="small"):
            when = datetime.datetime.fromtimestamp(entry.when)
            st.text(f"{entry.name}, put away {when:%Y-%m-%d %H:%M}", width="content")
            if st.button("Bring back", key=f"restore-{entry.folder}", icon=":material/restore_from_trash:"):
                try:
                    runs.restore(ROOT, entry.folder)
                except BadInput as problem:
                    choose.trouble(problem)
                else:
                    st.rerun()
    st.caption("The trash takes room until it is emptied by hand:")
    st.code(str(ROOT / ".trash"), language=None)


st.subheader("Runs", anchor=False)
known = runs.list_runs(ROOT)
infos = runs.cards(ROOT)
if known:
    wanted = st.text_input(
        "Filter",
        st.query_params.get("filter", ""),
        placeholder="words, or tag:good  state:finished  data:digits  seed:3  -word",
        key="filter",
        on_change=lambda: st.query_params.update({"filter": st.session_state["filter"]}),
    )
    rows = [(run, row_of(run, infos)) for run in known]
    shown = [(run, row) for run, row in rows if passes(row, wanted)]
    if len(shown) < len(rows):
        st.caption(f"{len(shown)} of {len(rows)} runs.")
    selected = [shown[number][0] for number in table([row for _, row in shown])]
    if selected:
        actions(selected)
    else:
        st.caption("Select runs in the first column: one to open it and write notes, several to compare them.")
    if len(selected) == 1:
        panel(selected[0], infos.get(selected[0].name))
else:
    choose.nothing_yet()
    st.caption("Or in a terminal: python -m darts_core search --preset laptop")
parents = {name: info["parent"] for name, info in infos.items()}
if any(parents.values()):
    with st.expander("Tree of branches", icon=":material/account_tree:"):
        tree(parents)
left, right = st.columns(2)
with left.expander("Import a run", icon=":material/upload:"):
    bring_in()
with right.expander("Trash", icon=":material/delete:"):
    trash_can()
st.text(f"Folder: {ROOT}")
