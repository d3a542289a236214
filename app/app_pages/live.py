"""Live: start a search, watch its cell, steer it, take the result away.

The board fetches its own data (app/stream.py) and is called with equal data as long as the run is the same, so nothing
here remounts it. What changes with the run's state sits in fragments that look once a second.
"""

from __future__ import annotations

import shlex
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import streamlit as st

from app import process, stream
from app.board import board, build_board_data
from app.forms import ask, ask_all
from app.words import (
    STATES,
    about,
    amount,
    described,
    escaped,
    heading,
    in_words,
    noise,
    preset_of,
    progress,
    result,
)
from darts_core import runs
from darts_core.config import PRESETS, SearchConfig, catalogue, settings_of, steerable
from darts_core.errors import BadInput
from darts_core.genotype import Genotype
from darts_core.view import dot, svg

ROOT = runs.runs_root()
VIEW = ("cell", "edge", "step", "show")  # what of the board the URL holds, besides the run
ALIVE = ("starting", "running", "paused")
LOG_AFTER = 15.0  # seconds of starting, after which the page shows what the process printed

Events = Sequence[Mapping[str, Any]]


# Which run ------------------------------------------------------------------------------------------------


def summaries() -> list[runs.Summary]:
    """All runs, the newest first."""
    return sorted(runs.list_runs(ROOT), key=lambda run: run.created, reverse=True)


def samples() -> list[runs.Summary]:
    return runs.list_runs(stream.SAMPLES) if stream.SAMPLES.is_dir() else []


def show(name: str) -> None:
    """Makes `name` the run of this page; the view of another run's steps is dropped."""
    for part in ("edge", "step"):
        st.query_params.pop(part, None)
    st.query_params["run"] = name


@st.fragment(run_every=2.0)
def picker() -> None:
    """All runs, looked up every two seconds, so that one started elsewhere appears by itself."""
    found = [*summaries(), *samples()]
    titles = {run.name: f"{run.name} · {STATES.get(run.state, (run.state, ''))[0]}" for run in found}
    titles |= {run.name: f"recorded: {run.title}" for run in samples()}
    now = current
    if now and now not in titles:
        titles = {now: now, **titles}
    if not titles:
        st.caption("No runs yet.")
        return
    names = list(titles)
    picked = st.selectbox(
        "Run", names, names.index(now) if now in names else None, format_func=lambda name: titles[name]
    )
    if picked and picked != now:
        show(picked)
        st.rerun()


# Starting -------------------------------------------------------------------------------------------------


def start(config: SearchConfig) -> None:
    try:
        launch = process.start(config.to_dict(), ROOT)
    except BadInput as problem:
        trouble(problem)
        return
    show(launch.name)
    st.rerun()


def trouble(problem: object) -> None:
    """One sentence of an error, shown exactly as it is."""
    st.error(escaped(str(problem)), icon=":material/error:")


@st.cache_data(max_entries=64, show_spinner=False)
def took(name: str, created: float) -> tuple[dict[str, Any], float] | None:
    """The configuration of a finished run and the seconds it took; `created` tells runs of one name apart."""
    try:
        reader = runs.RunReader(ROOT, name)
        events, _ = reader.events(0)
    except BadInput:
        return None
    return (reader.info["config"], events[-1]["time"] - created) if events else None


def seconds_here(preset: str) -> tuple[float | None, str]:
    """How long a preset takes: measured on this machine when it ran here before, else the table's estimate."""
    for run in [run for run in summaries() if run.state == "finished"][:10]:
        measured = took(run.name, run.created)
        if measured and preset_of(measured[0]) == preset:
            return measured[1], "as the last time on this machine"
    return PRESETS[preset].seconds, "estimated for 2 cores"


def new_search() -> None:
    """The cards, and behind them all settings."""
    st.subheader("New search", anchor=False)
    names = list(PRESETS)
    chosen = st.radio(
        "Preset",
        names,
        index=names.index("laptop"),
        format_func=lambda name: f"**{PRESETS[name].title}** · {about(PRESETS[name].seconds)}",
        captions=[PRESETS[name].doc for name in names],
        label_visibility="collapsed",
        key="preset",
    )
    seconds, known = seconds_here(chosen)
    if st.button("Start", type="primary", icon=":material/play_arrow:", width="stretch", key="start"):
        start(PRESETS[chosen].watched())
    busy = sum(run.state == "running" for run in summaries())
    shared = f" {busy} other {'search shares' if busy == 1 else 'searches share'} the cores now." if busy else ""
    st.caption((f"{about(seconds).capitalize()}, {known}." if seconds else "Hours without a GPU.") + shared)
    with st.expander("All settings"), st.form(f"settings-{chosen}", border=False):
        values = PRESETS[chosen].watched().to_dict()
        choices = {"dataset": catalogue()["datasets"], "strategy": catalogue()["strategies"]}
        options = settings_of(str(values["strategy"]))
        said = ask_all(options, values, chosen, choices)
        if st.form_submit_button("Start with these settings", type="primary", width="stretch"):
            try:
                config = SearchConfig.from_dict(said)
            except BadInput as problem:
                trouble(problem)
            else:
                start(config)


# While it runs --------------------------------------------------------------------------------------------


def order(run: str, kind: str, /, *, name: str | None = None, value: Any = None) -> None:
    """Sends an order; the page shows it as pending until the run answers."""
    try:
        sent = runs.send_order(ROOT, run, kind, name=name, value=value)
    except BadInput as problem:
        trouble(problem)
        return
    words = f"{name} = {amount(value)}" if kind == "set" else kind
    st.session_state.setdefault("orders", {})[sent] = words


@st.fragment(run_every=1.0)
def answers(name: str) -> None:
    """Orders of this page that wait, and the latest that any page gave, with the step where they took effect."""
    applied = [event for event in stream.feed(name).told() if event["type"] == "applied"]
    waiting = st.session_state.setdefault("orders", {})
    for event in applied:
        waiting.pop(event["id"], None)
    if not (waiting or applied):
        return
    with st.container(horizontal=True, gap="small"):
        for words in waiting.values():
            st.badge(f"{escaped(words)}: pending", color="gray", icon=":material/hourglass_empty:")
        for event in reversed(applied[-4:]):
            words = f"{event['name']} = {amount(event['value'])}" if event["kind"] == "set" else event["kind"]
            said = f"applied at step {event['step']}" if event["accepted"] else f"refused: {event['reason']}"
            st.badge(f"{escaped(words)}: {escaped(said)}", color="green" if event["accepted"] else "gray")


ORDERS = (  # label, icon, order, states in which it makes sense, what it does; a starting search answers later
    ("Resume", "play_arrow", "resume", ("paused",), "Goes on."),
    ("One step", "skip_next", "step", ("paused",), "Makes one step, then waits again."),
    ("Pause", "pause", "pause", ("running",), "The search waits, not only its picture."),
    ("Checkpoint", "save", "checkpoint", ("running", "paused"), "Saves a state to branch from, now."),
)


@st.fragment
def controls(name: str, state: str) -> None:
    """Buttons for the orders that a search in this state takes."""
    with st.container(horizontal=True, gap="small"):
        for label, icon, kind, states, does in ORDERS:
            if state in states and st.button(label, icon=f":material/{icon}:", key=f"order-{kind}", help=does):
                order(name, kind)
        with st.popover("Stop", icon=":material/stop:"):
            st.write("Stop this search? It derives its cell from where it is now and cannot go on afterwards.")
            if st.button("Stop it", type="primary", key="stop"):
                order(name, "stop")


@st.fragment(run_every=1.0)
def head(name: str, drawn: str) -> None:
    """State and progress. `drawn` is the state that the page around it shows; another one redraws the page."""
    try:
        source = stream.feed(name)
        status = source.status()
    except BadInput as problem:
        trouble(problem)
        return
    if status["state"] != drawn:
        st.rerun()
    word, color = STATES.get(status["state"], (status["state"], "gray"))
    with st.container(horizontal=True, vertical_alignment="center", gap="small"):
        st.badge(word, color=color)  # type: ignore[arg-type]
        st.text(progress(status), width="content")
        if status["edited"]:
            st.badge("edited", color="gray", icon=":material/edit:", help="Settings were changed while it ran.")
    if status["state"] == "starting":
        long_start(name, time.time() - source.reader.info["created"])


@st.fragment(run_every=0.5)
def waiting_for_folder(name: str, launch: process.Launch) -> None:
    """The first moments of a start, before its run folder is there."""
    if (ROOT / name / "run.json").is_file():
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
    settings = steerable(strategy)
    st.caption("Takes effect at the next step. Every chart gets a mark there; from then on the run is called edited.")
    with st.form(f"steer-{name}", border=False):
        columns = st.columns(2)
        said = {key: columns[i % 2].container() for i, key in enumerate(settings)}
        for key, place in said.items():
            with place:
                said[key] = ask(settings[key], shown.get(key, settings[key].default), f"steer-{name}-{key}")
        if st.form_submit_button("Apply", type="primary"):
            changed = {key: new for key, new in said.items() if new != shown.get(key)}
            for key, new in changed.items():
                try:
                    order(name, "set", name=key, value=settings[key].check(new))
                except BadInput as problem:
                    trouble(problem)
            shown.update(changed)
            if not changed:
                st.caption("Nothing was changed.")


def branch(name: str, config: Mapping[str, Any]) -> None:
    """A new run from a checkpoint of this one."""
    try:
        saved = [event for event in stream.feed(name).told() if event["type"] == "checkpoint"]
    except BadInput as problem:
        trouble(problem)
        return
    if not saved:
        st.caption("There is no checkpoint yet; one is saved after every epoch.")
        return
    epochs = sorted({event["epoch"] for event in saved}, reverse=True)
    st.caption("The new search starts with the weights and alphas of that epoch; this one stays as it is.")
    epoch = st.selectbox("After how many epochs", epochs, key=f"branch-epoch-{name}") or 0
    settings = {key: setting for key, setting in settings_of(str(config["strategy"])).items() if key in config}
    keys = st.multiselect("Settings to change", list(settings), default=["a_lr"], key=f"branch-keys-{name}")
    changes = {key: ask(settings[key], config[key], f"branch-{name}-{key}") for key in keys}
    if st.button("Start branch", type="primary", icon=":material/call_split:", key=f"branch-start-{name}"):
        try:
            SearchConfig.from_dict({**config, **changes})
            launch = process.branch(name, ROOT, int(epoch), {k: v for k, v in changes.items() if v != config[k]})
        except BadInput as problem:
            trouble(problem)
        else:
            show(launch.name)
            st.rerun()


# Afterwards -----------------------------------------------------------------------------------------------


@st.fragment(run_every=1.0)
def broken(name: str) -> None:
    """A search that ended before its time: why, where, and how to go on."""
    source = stream.feed(name)
    status = source.status()
    launch = process.launched(name)
    resumed = launch if launch and launch.command[3:4] == ("resume",) else None
    if resumed and resumed.process.poll() is None:
        st.info(f"Resuming from the last checkpoint, {resumed.seconds:.0f} s", icon=":material/restart_alt:")
        return
    with st.container(border=True):
        ended = "failed" if status["state"] == "failed" else "was interrupted"
        why = escaped(status["message"])
        st.error(f"**This search {ended} after step {status['step']:,}.** {why}", icon=":material/error:")
        if refusal := resumed.refusal() if resumed else None:
            st.caption("The last try to resume it ended with:")
            st.text(refusal)
        if name not in recorded:
            st.caption("Nothing up to that step is lost. Resume from the last checkpoint here, or in a terminal:")
            if st.button("Resume", type="primary", icon=":material/restart_alt:", key="resume"):
                try:
                    process.resume(name, ROOT)
                except BadInput as problem:
                    trouble(problem)
                st.rerun(scope="fragment")
            command = (Path(sys.executable).name, "-m", "darts_core", "resume", name, "--runs", str(ROOT))
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


def drawing(name: str, found: Mapping[str, Any]) -> None:
    """The cell of an event as a picture."""
    try:
        genotype = Genotype.from_json(found["genotype"], name)
        picture = svg.genotype_svg(genotype)
    except BadInput as problem:
        trouble(problem)
        return
    title = "The derived cell" if found["type"] == "result" else f"The cell after {found['epoch'] + 1} epochs"
    st.subheader(title, anchor=False)
    st.image(picture, width="stretch", alt=in_words(genotype))


def cell_so_far(name: str) -> None:
    """The newest cell to take away: that of the result, else the one that the last epoch would derive."""
    found = newest_cell(stream.feed(name).told())
    if found is None:
        st.caption("There is a first cell after the first epoch.")
        return
    if found["type"] == "epoch":
        drawing(name, found)
    downloads(name, found["genotype"])


def announce(config: Mapping[str, Any], found: Mapping[str, Any]) -> None:
    """A search on noisy labels always says so; its control is one click away. `found`: its newest collapse level."""
    ours = preset_of(config) == "collapse"
    collapsed = config.get("space") == "s2" and found.get("level") == "collapsed"
    said = noise(config, collapses=ours or collapsed)
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


@st.fragment
def the_board(info: Mapping[str, Any], replays: bool) -> None:
    """An open board keeps what was picked on it and takes the address only for another run."""
    view: dict[str, Any] = {part: st.query_params[part] for part in VIEW if part in st.query_params}
    picks: dict[str, Any] = {f"on_{part}_change": partial(keep_in_url, part) for part in VIEW}
    board(build_board_data(info, view=view | {"play": replays}, headed=True), **picks)


def until_then(sample: str) -> None:
    """A recorded search, while the one that the page is about has nothing to show."""
    st.caption("Your search appears here with its first step. Until then: one that was recorded earlier.")
    the_board(stream.feed(sample).reader.info, replays=True)


# The page -------------------------------------------------------------------------------------------------

recorded = {run.name for run in samples()}
known = summaries()
readable = (run.name for run in known if run.state != "corrupt")
current = st.query_params.get("run") or process.pending(ROOT) or next(readable, None)
empty = current is None
if current is None and recorded:
    current = sorted(recorded)[0]
elif current and "run" not in st.query_params:
    st.query_params["run"] = st.session_state["by_itself"] = current
# A search that the launcher has started shows nothing for some seconds: a recorded one plays meanwhile.
meanwhile = sorted(recorded)[0] if recorded and current == st.session_state.get("by_itself") else None

with st.sidebar:
    st.header("DARTS Workbench", anchor=False)
    st.caption("Search for a network cell, and watch it happen.")
    picker()
    new_search()

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
    waiting_for_folder(current, launch)
    if meanwhile:
        until_then(meanwhile)
    st.stop()

try:
    source = stream.feed(current)
    status, events, info = source.status(), source.told(), source.reader.info
except BadInput as problem:
    trouble(problem)
    st.stop()

config, state, ours = info["config"], status["state"], current not in recorded
title, lives = heading(info), ours and status["state"] in ALIVE
st.subheader(escaped(title), anchor=False)
st.caption(escaped(described(info) if title == current else f"{current}: {described(info)}"))
head(current, state)
begun = state != "starting"
with st.container(horizontal=True, gap="small"):
    with st.container(width="content"):
        if lives:
            controls(current, state)
    steering = (steer, current, config["strategy"], config)
    place(lives and begun, "Steer", "tune", "Change settings while it runs.", *steering)
    place(ours and begun, "Branch", "call_split", "Go back to an epoch and change something.", branch, current, config)
    place(begun, "Download", "download", "The cell in six formats.", cell_so_far, current)
if lives:
    answers(current)
last = next((event for event in reversed(events) if event["type"] == "epoch"), {})
announce(config, last.get("collapse", {}))
if state in ("failed", "interrupted"):
    broken(current)
if state == "corrupt":
    trouble(status["message"])
elif state == "starting" and meanwhile:
    until_then(meanwhile)
else:
    the_board(info, replays=empty)
cell = newest_cell(events)
if state in stream.COMPLETE and cell is not None:
    drawing(current, cell)
    for sentence in result(events):
        st.write(sentence)
