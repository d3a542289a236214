"""Choosing runs: what the pickers of Replay, Compare, Cells and Runs share. The choice stands in the address."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from urllib.parse import urlencode, urlsplit

import streamlit as st

from app import stream
from app.words import STATES, escaped
from darts_core import runs
from darts_core.errors import BadInput
from darts_core.view.compare import group_key
from darts_core.view.recorded import Recorded
from darts_core.view.recorded import recorded as recorded_run
from darts_core.view.tables import POINTS


def mine() -> list[runs.Summary]:
    """The runs of the folder of runs, the newest first."""
    return runs.list_runs(runs.runs_root())


def recorded() -> list[runs.Summary]:
    """The recorded searches that come with the project."""
    return runs.list_runs(stream.SAMPLES) if stream.SAMPLES.is_dir() else []


def known() -> list[runs.Summary]:
    """All that a page can show, one per name: a run of your own hides a recorded one of its name."""
    own = mine()
    names = {run.name for run in own}
    return [*own, *(run for run in recorded() if run.name not in names)]


def read(name: str, found: Mapping[str, runs.Summary], most: int = POINTS) -> Recorded:
    """At most `most` records of a run, read again only when it has moved on.

    Args:
        found: what `known` listed, by name.

    Raises:
        BadInput: there is no such run, or it cannot be read.
    """
    run = found.get(name)
    if run is None:
        stream.folder_of(name)
        raise BadInput(name, "run", "is not in the list", "reload the page")
    if run.state == "corrupt":
        raise BadInput(f"run {name}", "", run.message, "take another copy of the run")
    return (_read if most <= POINTS else _read_closely)(name, run.created, run.step, run.state, most)


def _reader(name: str, created: float, step: int, state: str, most: int) -> Recorded:
    """The key of the cache: `created` tells runs of one name apart, `step` and `state` that it has moved on."""
    source = stream.feed(name)
    return recorded_run(source.reader, source.told(), most)


_read = st.cache_resource(max_entries=64, show_spinner=False)(_reader)
_read_closely = st.cache_resource(max_entries=6, show_spinner=False)(_reader)  # some megabytes each


def siblings(name: str) -> list[str]:
    """Runs that differ from this one by their seed alone."""
    infos = {**runs.cards(stream.SAMPLES), **runs.cards(runs.runs_root())}
    key = group_key(infos[name]) if name in infos else None
    return [other for other, info in infos.items() if other != name and group_key(info) == key]


def label(run: runs.Summary, samples: Iterable[str]) -> str:
    if run.name in samples:
        return f"recorded: {run.title}"
    title = "" if run.title == run.name else f" · {run.title}"
    return f"{run.name}{title} · {STATES.get(run.state, (run.state, ''))[0]}"


def one(found: Sequence[runs.Summary], label_text: str = "Run") -> str | None:
    """A picker of one run; the name stands in `?run=` and is kept from page to page. None: there is no run at all.

    A name in the address that no run has is returned as it is, so that the page can say so.
    """
    names = [run.name for run in found]
    samples = {run.name for run in recorded()} - {run.name for run in mine()}
    titles = {run.name: label(run, samples) for run in found}
    readable = [run.name for run in found if run.state != "corrupt"] or names
    now = st.query_params.get("run") or st.session_state.get("chosen-run")
    if now is None or (now not in names and "run" not in st.query_params):
        now = next(iter(readable), None)
    if now is None:
        return None
    if now not in names:
        names, titles = [now, *names], {now: "no such run", **titles}
    picked = st.selectbox(
        label_text,
        names,
        names.index(now),
        format_func=lambda name: titles[name],
        key=f"pick-run-{now}",  # a new address makes a new picker, which shows what the address says
        on_change=partial(_chosen, f"pick-run-{now}"),
    )
    st.query_params["run"] = st.session_state["chosen-run"] = picked or now
    return picked or now


def _chosen(key: str) -> None:
    """Another run: what the address says of the view of the old one goes."""
    for part in ("step", "edge"):
        st.query_params.pop(part, None)
    st.query_params["run"] = st.session_state["chosen-run"] = st.session_state[key]


def one_of(title: str, names: Sequence[str], key: str, titled: Callable[[str], str]) -> str:
    """One of some names, shown as `titled` says; which one stands in the address under `key`; else the first."""
    asked = st.query_params.get(key)
    first = names.index(asked) if asked in names else 0
    keep = partial(_in_address, key)
    return st.selectbox(title, names, first, format_func=titled, key=key, on_change=keep) or names[0]


def _in_address(key: str) -> None:
    st.query_params[key] = str(st.session_state[key])


def trouble(problem: object) -> None:
    """One sentence of an error, shown exactly as it is."""
    st.error(escaped(str(problem)), icon=":material/error:")


def nothing_yet() -> None:
    """What a page without any run says."""
    st.info("There are no runs yet. The first search takes a minute.", icon=":material/info:")
    st.page_link("app_pages/live.py", label="Start one on the Live page", icon=":material/monitoring:")


def address(page: str, **query: str) -> str:
    """A link to a page of this dashboard as people share it; it holds no token."""
    here = urlsplit(st.context.url or "http://127.0.0.1:8501/")
    return f"{here.scheme}://{here.netloc}/{page}" + (f"?{urlencode(query)}" if query else "")
