"""While a search runs: orders and their answers, settings and operations to steer."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import streamlit as st

from app import stream
from app.choose import trouble
from app.forms import ask, in_rows
from app.words import escaped
from darts_core import runs
from darts_core.config import steerable
from darts_core.errors import BadInput
from darts_core.legal import said_of_edge
from darts_core.space import SearchSpace

SHOWN = 3  # orders that wait, and the latest answers
FIRST = ("a_lr", "w_lr", "temperature", "skip_dropout", "a_decay", "w_decay", "order")  # what one steers most, on top


def send(run: str, kind: str, /, *, name: str | None = None, value: Any = None) -> None:
    """Sends an order; the page shows it as pending until the run answers. A refusal is shown with the answers."""
    try:
        sent = runs.send_order(runs.runs_root(), run, kind, name=name, value=value)
    except BadInput as problem:
        st.session_state.setdefault("unsent", []).append(str(problem))
        return
    st.session_state.setdefault("orders", {})[sent] = said_of_edge(space_of(run), kind, name, value)


def space_of(run: str) -> SearchSpace | None:
    """The space in whose words an order is told; None where it cannot be read."""
    try:
        return SearchSpace.from_json(stream.feed(run).reader.info["space"], run)
    except BadInput:
        return None


@st.fragment(run_every=1.0)
def answers(name: str) -> None:
    """Orders of this page that wait, and the latest that any page gave, with the step where they took effect."""
    applied = [event for event in stream.feed(name).told() if event["type"] == "applied"]
    waiting = st.session_state.setdefault("orders", {})
    for event in applied:
        waiting.pop(event["id"], None)
    for sentence in st.session_state.pop("unsent", []):
        trouble(sentence)
    if not (waiting or applied):
        return
    with st.container(horizontal=True, gap="small"):
        for words in waiting.values():
            st.badge(f"{escaped(words)}: pending", color="gray", icon=":material/hourglass_empty:")
        space = space_of(name)
        for event in applied[: -1 - max(0, SHOWN - len(waiting)) : -1]:
            words = said_of_edge(space, event["kind"], event["name"], event["value"])
            said = f"applied at step {event['step']}" if event["accepted"] else f"refused: {event['reason']}"
            st.badge(f"{escaped(words)}: {escaped(said)}", color="green" if event["accepted"] else "gray")


ORDERS = (  # label, icon, order, states in which it makes sense, what it does; a starting search answers later
    ("Resume", "play_arrow", "resume", ("paused",), "Goes on."),
    ("One step", "skip_next", "step", ("paused",), "Makes one step, then waits again."),
    ("Pause", "pause", "pause", ("running",), "The search waits, not only its picture."),
    ("Checkpoint", "save", "checkpoint", ("running", "paused"), "Saves a state to branch from, now."),
)


def order(label: str, key: str, run: str, kind: str, **look: Any) -> None:
    """A button that sends an order, before the page is drawn anew: a click while the page changes is not lost so."""
    st.button(label, key=key, on_click=send, args=(run, kind), **look)


@st.fragment
def controls(name: str, state: str, trains: bool) -> None:
    """Buttons for the orders that a search in this state takes. `trains`: it is over, and its cell is being trained."""
    with st.container(horizontal=True, gap="small"):
        if trains:
            does = "The search is over; its cell is being trained to see what it is worth. Ends now with what is known."
            order("Skip the training", "skip", name, "stop", icon=":material/skip_next:", help=does)
            return
        for label, icon, kind, states, does in ORDERS:
            with st.container(width="content"):  # there in every state: an open "Stop" behind them stays open
                if state in states:
                    order(label, f"order-{kind}", name, kind, icon=f":material/{icon}:", help=does)
        with st.popover("Stop", icon=":material/stop:"):
            st.write(
                "Stop this search? It derives its cell from where it is now and cannot go on afterwards. What that "
                "cell is worth is not measured then; Train this cell does that."
            )
            order("Stop it", "stop", name, "stop", type="primary")


@st.fragment
def folded(title: str, icon: str, help: str, inside: Callable[..., None], *given: Any) -> None:
    """A button that opens a panel; what is in the panel is made when it opens, so that it is of now."""
    with st.popover(title, icon=f":material/{icon}:", help=help, key=f"panel-{title}", on_change="rerun") as panel:
        if panel.open:
            inside(*given)


def place(wanted: bool, *panel: Any) -> None:
    """A place in the row for a `folded` panel, there even when it is empty, so that a new state moves nothing."""
    with st.container(width="content"):
        if wanted:
            folded(*panel)


def steer(name: str, strategy: str, config: Mapping[str, Any]) -> None:
    """Settings that may change while the search runs. Only what differs is sent."""
    try:
        events = stream.feed(name).told()
    except BadInput as problem:
        trouble(problem)
        return
    applied = {e["name"]: e["value"] for e in events if e["type"] == "applied" and e["kind"] == "set" and e["accepted"]}
    # What the form shows: only what differs from it was changed here. Another page may have changed the rest meanwhile.
    shown = st.session_state.setdefault(f"steered-{name}", {**config, **applied})
    known = steerable(strategy)
    settings = {
        key: known[key] for key in sorted(known, key=lambda key: FIRST.index(key) if key in FIRST else len(FIRST))
    }
    st.caption(
        "Takes effect at the next step. Every chart gets a mark there; from then on the run is called edited. "
        "To pin, ban or reset an operation, choose an edge in the picture."
    )
    with st.form(f"steer-{name}", border=False):
        said: dict[str, Any] = {}
        for key, place in in_rows(list(settings), 2):
            with place:
                said[key] = ask(settings[key], shown.get(key, settings[key].default), f"steer-{name}-{key}")
        if st.form_submit_button("Apply", type="primary"):
            changed = {key: new for key, new in said.items() if new != shown.get(key)}
            for key, new in changed.items():
                try:
                    send(name, "set", name=key, value=settings[key].check(new))
                except BadInput as problem:
                    trouble(problem)
            shown.update(changed)
            if not changed:
                st.caption("Nothing was changed.")
