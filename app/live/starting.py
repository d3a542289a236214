"""Starting a search: the cards, all settings, and the first moments of the process."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import streamlit as st

from app import method_form, process, stream
from app.choose import mine, trouble
from app.forms import ask_all
from app.live.price import price
from app.words import about, amount, escaped, preset_of
from darts_core import runs
from darts_core.config import PRESETS, SearchConfig, catalogue, settings_of
from darts_core.errors import BadInput
from darts_core.own_space import OWN, pasted

LOG_AFTER = 15.0  # seconds of starting, after which the page shows what the process printed


def show(name: str) -> None:
    """Makes `name` the run of this page; the view of another run's steps is dropped."""
    for part in ("edge", "step"):
        st.query_params.pop(part, None)
    st.query_params["run"] = name


def start(config: SearchConfig) -> None:
    """Starts a search and shows it."""
    try:
        launch = process.start(config.there().to_dict(), runs.runs_root())
    except BadInput as problem:
        trouble(problem)
        return
    show(launch.name)
    st.rerun()


@st.cache_data(max_entries=64, show_spinner=False)
def took(root: str, name: str, created: float) -> tuple[dict[str, Any], float] | None:
    """The configuration of a finished run and the seconds it took; `created` tells runs of one name apart."""
    try:
        reader = runs.RunReader(root, name)
        events, _ = reader.events(0)
    except BadInput:
        return None
    whole = events and reader.info["parent"] is None  # of a branch that is not the time of a whole search
    return (reader.info["config"], events[-1]["time"] - created) if whole else None


def seconds_here(preset: str) -> tuple[float | None, str]:
    """How long a preset takes: measured on this machine when it ran here before, else the table's estimate."""
    for run in [run for run in mine() if run.state == "finished"][:10]:
        measured = took(str(runs.runs_root()), run.name, run.created)
        if measured and preset_of(measured[0]) == preset:
            return measured[1], "as the last time on this machine"
    return PRESETS[preset].seconds, "estimated for 2 cores"


def lesson() -> tuple[str, dict[str, Any]]:
    """The preset that a link asks for, and the settings that it changes: `?preset=collapse&a_lr=0.09`.

    What is unknown or out of range is left out: a link may be of another version.
    """
    preset = st.query_params.get("preset", "laptop")
    if preset not in PRESETS:
        return "laptop", {}
    changes: dict[str, Any] = {}
    for name, setting in settings_of(str(PRESETS[preset].config().strategy)).items():
        if name in st.query_params and name != "path":  # a link names no files of this machine
            try:
                PRESETS[preset].config(**changes, **{name: setting.check(st.query_params[name])})
            except BadInput:
                continue
            changes[name] = setting.check(st.query_params[name])
    return preset, changes


def new_search() -> None:
    """The cards, and behind them all settings."""
    st.subheader("New search", anchor=False)
    names = list(PRESETS)
    asked, given = lesson()
    chosen = st.radio(
        "Preset",
        names,
        index=names.index(asked),
        format_func=lambda name: f"**{PRESETS[name].title}** · {about(PRESETS[name].seconds)}",
        label_visibility="collapsed",
        key="preset",
    )
    st.caption(escaped(PRESETS[chosen].doc))
    seconds, known = seconds_here(chosen)
    given = given if chosen == asked else {}
    if given:
        words = ", ".join(f"{name} = {amount(value)}" for name, value in given.items())
        st.caption(f"This lesson changes: {escaped(words)}.")
    if st.button("Start", type="primary", icon=":material/play_arrow:", width="stretch", key="start"):
        start(PRESETS[chosen].watched(**given))
    busy = sum(run.state == "running" for run in mine())
    shared = f" {busy} other {'run shares' if busy == 1 else 'runs share'} the cores now." if busy else ""
    st.caption((f"{about(seconds).capitalize()}, {known}." if seconds else "Hours without a GPU.") + shared)
    panel = st.expander("All settings", key=f"all-settings-{chosen}", on_change="rerun")
    with panel:
        all_settings(chosen, bool(panel.open), given)


@st.fragment
def all_settings(chosen: str, seen: bool, given: Mapping[str, Any]) -> None:
    """Every setting of a preset (`given`: what a lesson changed); while they are seen, what the search would cost."""
    values = PRESETS[chosen].watched(**given).to_dict()
    strategy, parts = method_form.choose(values, chosen)
    own = method_form.space_of_file(chosen)
    options = {k: s for k, s in settings_of(strategy, parts).items() if k not in ("strategy", "parts")}
    above = st.container(key="cost-and-start")  # above the fields that they follow from, and in sight: see frame.py
    said = ask_all(options, values, chosen, {"dataset": catalogue()["datasets"]}, own)
    try:
        if said["space"] == OWN:
            said["own_space"] = pasted(said["own_space"]).text
        config = SearchConfig.from_dict({**said, "strategy": strategy, "parts": parts})
    except BadInput as problem:
        with above:
            trouble(problem)
            st.button("Start with these settings", disabled=True, width="stretch", key=f"start-{chosen}")
        return
    with above:
        if seen:
            price(config)
        if st.button("Start with these settings", type="primary", width="stretch", key=f"start-{chosen}"):
            start(config)


@st.fragment(run_every=0.5)
def waiting_for_folder(name: str, launch: process.Launch) -> None:
    """The first moments of a start, before its run folder is there."""
    if (runs.runs_root() / name / "run.json").is_file():
        st.rerun()
    refusal = launch.refusal()
    if refusal is not None:
        st.error("**The search did not start.**", icon=":material/error:")
        st.text(refusal)
        return
    with st.container(horizontal=True, vertical_alignment="center", gap="small"):
        st.badge("starting", color="blue")
        st.text(f"A process of its own is starting, {launch.seconds:.0f} s", width="content")
    if launch.seconds > LOG_AFTER:
        st.code(launch.printed(4000) or "(nothing was printed yet)", language=None, wrap_lines=True)


def long_start(name: str, seconds: float) -> None:
    """What a search that takes long to start has printed so far. The board shows its stages."""
    if seconds < LOG_AFTER:
        return
    reader = stream.feed(name).reader
    st.caption(f"It has been starting for {seconds:.0f} s. What it printed so far:")
    st.code(reader.log_tail(12) or "(nothing)", language=None, wrap_lines=True)
