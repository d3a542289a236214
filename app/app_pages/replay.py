"""Replay: the board on a search that is over, recorded ones included; bookmarks of steps, a link to this one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import streamlit as st

from app import choose, notes, stream
from app.board import board, build_board_data
from app.words import STATES, described, escaped, heading
from darts_core import runs
from darts_core.errors import BadInput
from darts_core.space import SearchSpace
from darts_core.view.tables import marks

ROOT = runs.runs_root()
VIEW = ("cell", "edge", "step", "show", "speed")
MOMENTS = 8  # buttons of what happened in the run, at most


def keep_in_url(part: str) -> None:
    """What was picked on the board goes into the address."""
    picked = st.session_state["board"].get(part)
    if picked is None:
        st.query_params.pop(part, None)  # of step: the last one again
    else:
        st.query_params[part] = str(picked)


def go_to(step: int) -> None:
    """The open board takes its view from the address once more."""
    st.query_params["step"] = str(step)
    st.session_state["replay-version"] = st.session_state.get("replay-version", 0) + 1


def moments(events: Sequence[Mapping[str, Any]], space: SearchSpace) -> list[tuple[int, str]]:
    """(step, words) of what one may want to see: orders, alarms, rewinds, and the lowest validation loss."""
    found = [(mark.step, mark.text) for mark in marks(events, space)]
    lows = [
        (event["metrics"]["valid_loss"], event["step"])
        for event in events
        if event["type"] == "epoch" and "valid_loss" in event["metrics"]
    ]
    if lows:
        step = min(lows)[1]
        found.append((step, f"lowest validation loss at step {step}"))
    return sorted(found)[:MOMENTS]


def shown_step() -> int | None:
    """The step in the address; None while the last one is shown, or while it plays."""
    text = st.query_params.get("step", "")
    return int(text) if text.isdecimal() and len(text) < 10 else None


def bookmarks(name: str, info: Mapping[str, Any], last: int, events: Sequence[Mapping[str, Any]]) -> None:
    """Steps worth going back to: what happened in the run, and what people marked."""
    created = float(info["created"])
    try:
        space = SearchSpace.from_json(info["space"], name)
        kept = notes.read(ROOT, name, created)
    except BadInput as problem:
        choose.trouble(problem)
        return
    with st.container(horizontal=True, gap="small", vertical_alignment="center"):
        for step, words in moments(events, space):
            st.button(
                f"step {step:,}: {escaped(words.replace(f' at step {step}', ''))}",
                icon=":material/flag:",
                key=f"moment-{step}-{words}",
                help=f"Go to step {step:,}",
                on_click=partial(go_to, step),
            )
        for number, mark in enumerate(kept.bookmarks):
            st.button(
                f"step {mark.step:,}: {escaped(mark.text)}",
                icon=":material/bookmark:",
                key=f"bookmark-{number}",
                help=f"Go to step {mark.step:,}",
                on_click=partial(go_to, mark.step),
            )
        with st.popover("Bookmark", icon=":material/bookmark_add:", key="panel-bookmark"):
            new_bookmark(name, created, kept, last)
        with st.popover("Link", icon=":material/link:", key="panel-link"):
            link(name)


def new_bookmark(name: str, created: float, kept: notes.Notes, last: int) -> None:
    step = shown_step() or last
    with st.form("bookmark", border=False, clear_on_submit=True):
        text = st.text_input(f"What is there at step {step:,}?", max_chars=notes.TEXT, placeholder="the ribbons turn")
        made = st.form_submit_button("Bookmark this step", type="primary")
    changed = kept
    if made:
        mark = notes.Bookmark(step, text.strip() or f"step {step}")
        changed = notes.Notes(kept.tags, kept.note, tuple(sorted({*kept.bookmarks, mark}, key=lambda m: m.step)))
    gone = [mark for i, mark in enumerate(kept.bookmarks) if st.button(f"Remove {escaped(mark.text)}", key=f"drop-{i}")]
    if gone:
        changed = notes.Notes(kept.tags, kept.note, tuple(mark for mark in kept.bookmarks if mark not in gone))
    if changed != kept:
        try:
            notes.write(ROOT, name, created, changed)
        except BadInput as problem:
            choose.trouble(problem)
        else:
            st.rerun()


def link(name: str) -> None:
    """The address of what is shown now. It opens for whoever has entered this dashboard."""
    view = {part: st.query_params[part] for part in VIEW if part in st.query_params}
    st.caption(
        "Run, step, edge and cell as they are now; pause the view first for its step. It works on this machine, for "
        "those who may open the dashboard."
    )
    st.code(choose.address("replay", run=name, **view), language=None, wrap_lines=True)


@st.fragment
def the_board(info: Mapping[str, Any]) -> None:
    """An open board keeps what was picked on it, and takes the address again when a bookmark was pressed."""
    view: dict[str, Any] = {part: st.query_params[part] for part in VIEW if part in st.query_params}
    plays = shown_step() is None and not st.session_state.get("replay-version")
    view |= {"play": plays, "version": st.session_state.get("replay-version", 0)}
    picks: dict[str, Any] = {f"on_{part}_change": partial(keep_in_url, part) for part in VIEW if part != "speed"}
    try:
        data = build_board_data(info, view={"speed": 10} | view, headed=True)
    except BadInput as problem:
        choose.trouble(problem)
        return
    board(data, **picks)


st.subheader("Replay", anchor=False)
found = choose.known()
current = choose.one(found)
if current is None:
    choose.nothing_yet()
    st.stop()
try:
    source = stream.feed(current)
    status, events, info = source.status(), source.told(), source.reader.info
except BadInput as problem:
    choose.trouble(problem)
    st.stop()
title = heading(info)
with st.container(horizontal=True, vertical_alignment="center", gap="small"):
    word, color = STATES.get(status["state"], (status["state"], "gray"))
    st.badge(word, color=color)  # type: ignore[arg-type]
    if status["edited"]:
        st.badge("edited", color="gray", icon=":material/edit:", help="Settings were changed while it ran.")
    said = described(info)
    st.text(said if said.startswith(title) else f"{title}: {said}", width="content")
if status["state"] == "corrupt":
    choose.trouble(status["message"])
    st.stop()
if status["state"] in ("starting", "running", "paused"):
    words = "It is still running: watch it live"
    st.page_link("app_pages/live.py", label=words, icon=":material/monitoring:", query_params={"run": current})
if status["state"] == "failed":
    st.caption(f"It failed: {escaped(status['message'])}")
if not status["step"]:
    st.info("No step was recorded, so there is nothing to replay.", icon=":material/info:")
    st.stop()
bookmarks(current, info, status["step"], events)
the_board(info)
