"""Live: start a search, watch its cell, steer it, go back in it, take the result away.

The board fetches its own data (app/stream.py) and is called with equal data as long as the run is the same, so nothing
here remounts it. What changes with the run's state sits in fragments that look once a second.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from functools import partial
from typing import Any

import streamlit as st

from app import process, stream
from app.board import board, build_board_data
from app.choose import mine, recorded, trouble
from app.live import ending, going_back, starting, steering
from app.live.starting import show, start
from app.words import STATES, described, escaped, heading, noise, preset_of, progress, result
from darts_core import runs
from darts_core.config import PRESETS
from darts_core.errors import BadInput
from darts_core.view.tables import before_worse

ROOT = runs.runs_root()
VIEW = ("cell", "edge", "step", "show")  # what of the board the URL holds, besides the run
ALIVE = ("starting", "running", "paused")
TRAINING = "evaluate"  # phase of a search that is over, while its cell is trained


@st.fragment(run_every=2.0)
def picker() -> None:
    """All runs, looked up every two seconds, so that one started elsewhere appears by itself."""
    found = [*mine(), *recorded()]
    titles = {run.name: f"{run.name} · {STATES.get(run.state, (run.state, ''))[0]}" for run in found}
    titles |= {run.name: f"recorded: {run.title}" for run in recorded()}
    now = current
    if now and now not in titles:
        titles = {now: now, **titles}
    if not titles:
        st.caption("No runs yet.")
        return
    names = list(titles)
    # With a key the picker stays the same one while states of runs change in its titles, so that no pick is lost; a new
    # run makes a new one, which shows it.
    at = names.index(now) if now in names else None
    picked = st.selectbox("Run", names, at, format_func=lambda name: titles[name], key=f"pick-run-{now}")
    if picked and picked != now:
        show(picked)
        st.rerun()


@st.fragment(run_every=1.0)
def head(name: str, drawn: tuple[str, bool, bool]) -> None:
    """State and progress. `drawn` is what the page around it was drawn for; something else redraws the page."""
    try:
        source = stream.feed(name)
        status = source.status()
        now = status["state"], before_worse(source.told()) is not None, status["phase"] == TRAINING
    except BadInput as problem:
        trouble(problem)
        return
    if now != drawn:
        st.rerun()
    word, color = STATES.get(status["state"], (status["state"], "gray"))
    with st.container(horizontal=True, vertical_alignment="center", gap="small"):
        st.badge(word, color=color)  # type: ignore[arg-type]
        st.text(progress(status), width="content")
        if status["edited"]:
            st.badge("edited", color="gray", icon=":material/edit:", help="Something was changed while it ran.")
    if status["state"] == "starting":
        starting.long_start(name, time.time() - source.reader.info["created"])


def announce(config: Mapping[str, Any], found: Mapping[str, Any], branched: bool) -> None:
    """A search on noisy labels always says so; its control is one click away.

    `found`: its newest collapse level. `branched`: it is not one of those that were counted.
    """
    ours = preset_of(config) == "collapse" and not branched
    collapsed = config.get("space") == "s2" and found.get("level") == "collapsed"
    said = noise(config, ours, collapsed)
    if said is None:
        return
    with st.container(horizontal=True, vertical_alignment="center", gap="small"):
        st.info(said, icon=":material/shuffle:")
        if (ours or collapsed) and st.button("Run the clean control", icon=":material/science:", key="control"):
            start(PRESETS["clean"].watched(seed=config["seed"]))


# The board ------------------------------------------------------------------------------------------------


def keep_in_url(part: str) -> None:
    """What was picked on the board goes into the address."""
    picked = st.session_state["board"].get(part)
    if picked is None:
        st.query_params.pop(part, None)  # of step: following the newest one again
    else:
        st.query_params[part] = str(picked)


def give(name: str) -> None:
    """An order that was clicked on the board."""
    asked = st.session_state["board"].get("order")
    if asked:
        steering.send(name, str(asked.get("kind")), name=asked.get("name"), value=asked.get("value"))


def branch_from(name: str) -> None:
    """ "Branch from here" on the board opens the panel at that epoch."""
    asked = st.session_state["board"].get("branch")
    if asked:
        st.session_state[f"branch-epoch-{name}"] = int(asked.get("epoch", 0))
        st.session_state["panel-Branch"] = st.session_state["open-panel"] = True


@st.fragment
def the_board(
    info: Mapping[str, Any], replays: bool, state: str = "finished", orders: bool = False, goes_back: bool = False
) -> None:
    """An open board keeps what was picked on it and takes the address only for another run."""
    view: dict[str, Any] = {part: st.query_params[part] for part in VIEW if part in st.query_params}
    picks: dict[str, Any] = {f"on_{part}_change": partial(keep_in_url, part) for part in VIEW}
    picks |= {"on_order_change": partial(give, info["name"]), "on_branch_change": partial(branch_from, info["name"])}
    known = {
        "control": going_back.control_of(info["config"]),
        "inherited": going_back.inherited(info),
        "steer": orders,
        "branch": goes_back,
        "events": stream.feed(info["name"]).told(),
    }
    ended = {"state": state, "step": 0} if state in ("finished", "stopped", "failed", "interrupted") else None
    board(build_board_data(info, status=ended, view=view | {"play": replays}, headed=True, **known), **picks)
    if st.session_state.pop("open-panel", False):
        st.rerun()


def until_then(sample: str) -> None:
    """A recorded search, while the one that the page is about has nothing to show."""
    st.caption("Your search appears here with its first step. Until then: one that was recorded earlier.")
    the_board(stream.feed(sample).reader.info, replays=True)


# The page -------------------------------------------------------------------------------------------------

samples = {run.name for run in recorded()}
known = mine()
readable = (run.name for run in known if run.state != "corrupt")
current = st.query_params.get("run") or process.pending(ROOT) or next(readable, None)
empty = current is None
if current is None and samples:
    current = sorted(samples)[0]
elif current and "run" not in st.query_params:
    st.query_params["run"] = st.session_state["by_itself"] = current
if current and not empty:
    st.session_state["chosen-run"] = current  # the other pages begin with the run that was looked at last
# A search that the launcher has started shows nothing for some seconds: a recorded one plays meanwhile.
meanwhile = sorted(samples)[0] if samples and current == st.session_state.get("by_itself") else None

with st.sidebar:
    st.header("DARTS Workbench", anchor=False)
    st.caption("Search for a network cell, and watch it happen.")
    picker()
    starting.new_search()

if empty:
    with st.container(horizontal=True, vertical_alignment="center"):
        if current:
            st.info("A search that was recorded earlier. Yours takes a minute, and you can change it while it runs.")
        else:
            st.info("Nothing has run here yet. A first search takes a minute, and you can change it while it runs.")
        if st.button("Start your first search (60 s)", type="primary", key="first"):
            start(PRESETS["laptop"].watched())
if current is None:
    st.stop()

launch = process.launched(current)
if launch is not None and not (ROOT / current / "run.json").is_file():
    starting.waiting_for_folder(current, launch)
    if meanwhile:
        until_then(meanwhile)
    st.stop()

try:
    source = stream.feed(current)
    status, events, info = source.status(), source.told(), source.reader.info
except BadInput as problem:
    trouble(problem)
    st.stop()

config, state, ours = info["config"], status["state"], current not in samples
worse = before_worse(events) is not None
title, lives = heading(info), ours and state in ALIVE
st.subheader(escaped(title), anchor=False)
st.caption(escaped(described(info) if title == current else f"{current}: {described(info)}"))
trains = status["phase"] == TRAINING
head(current, (state, worse, trains))
begun = state != "starting"
cell, ended = ending.newest_cell(events), state in stream.COMPLETE
with st.container(horizontal=True, gap="small"):
    with st.container(width="content"):
        if lives:
            steering.controls(current, state, trains)
    panel = (steering.steer, current, config["strategy"], config)
    steering.place(lives and begun and not trains, "Steer", "tune", "Change settings while it runs.", *panel)
    with st.container(width="content"):
        to_train = ended and ending.trains(info)
        invites = state != "failed" and not empty
        if to_train and cell is not None and ending.train(current, info, cell["genotype"], invites):
            st.rerun()
    panel = (going_back.branch, current, config)
    steering.place(ours and begun, "Branch", "call_split", "Go back to an epoch and change something.", *panel)
    panel = (going_back.cure, current, config)
    steering.place(ours and begun and worse, "Rewind and cure", "healing", "Back to before it got worse.", *panel)
    steering.place(begun, "Download", "download", "The cell as picture, text or data.", ending.cell_so_far, current)
if lives:
    steering.answers(current)
if ours:
    going_back.tree(current)
last = next((event for event in reversed(events) if event["type"] == "epoch"), {})
announce(config, last.get("collapse", {}), info["parent"] is not None)
if state in ("failed", "interrupted"):
    ending.broken(current, ours)
if state == "corrupt":
    trouble(status["message"])
elif state == "starting" and meanwhile:
    until_then(meanwhile)
else:
    the_board(info, empty, state, orders=lives and not trains, goes_back=ours and begun)
if ended and cell is not None:
    ending.drawing(current, cell)
    for sentence in result(events, fixed=not ending.trains(info)):
        st.write(sentence)
