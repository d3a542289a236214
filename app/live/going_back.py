"""Going back in a search: a branch from any epoch, a cure for a collapse, and the family of runs that comes of it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

import streamlit as st

from app import process, stream
from app.choose import trouble
from app.forms import ask
from app.live.starting import show
from app.method_form import title_of
from app.words import escaped
from darts_core import runs
from darts_core.config import SETTINGS, SearchConfig, catalogue, options_of, settings_of
from darts_core.cures import Cure, cures
from darts_core.errors import BadInput
from darts_core.legal import ON_EDGES
from darts_core.space import SearchSpace
from darts_core.view.tables import before_worse, family, mixes_at, ranges

APP_PAGES = Path(__file__).parent.parent / "app_pages"
ALIKE = (  # settings that must be equal for the eigenvalue of a run to be comparable with that of the recorded control
    "dataset", "subset", "resize", "space", "nodes", "cells", "reductions", "channels", "stem_stride", "hessian_batch",
    "arch_batch", "strategy",
)  # fmt: skip
CONTROL = "healthy"  # the recorded search on clean labels


def saved_epochs(name: str) -> list[int]:
    """Epochs of which a checkpoint is there, the newest first. BadInput: the run cannot be read."""
    return sorted({event.epoch for event in stream.feed(name).reader.checkpoints()}, reverse=True)


def launch(
    name: str,
    epoch: int,
    changes: Mapping[str, Any],
    orders: Sequence[tuple[str, str, str]] = (),
    fresh: bool = False,
) -> None:
    """Starts the branch and shows it."""
    try:
        started = process.branch(name, runs.runs_root(), epoch, changes, orders, fresh)
    except BadInput as problem:
        trouble(problem)
        return
    show(started.name)
    st.rerun()


def branch(name: str, config: Mapping[str, Any]) -> None:
    """A new run from a checkpoint of this one, with other settings or another method."""
    try:
        epochs = saved_epochs(name)
    except BadInput as problem:
        trouble(problem)
        return
    if not epochs:
        st.caption("There is no checkpoint yet; one is saved after every epoch.")
        return
    st.caption("The new search starts with the weights and alphas of that epoch; this one stays as it is.")
    key = f"branch-epoch-{name}"
    if (asked := st.session_state.get(key)) not in (None, *epochs):
        st.session_state[key] = max((epoch for epoch in epochs if epoch <= asked), default=epochs[-1])
    st.session_state.setdefault(key, min(epochs, key=lambda epoch: abs(2 * epoch - epochs[0])))  # half-way
    epoch = st.selectbox("After how many epochs", epochs, key=key, help="Of the search above; each epoch was saved.")
    epoch = epoch or 0
    strategy = str(config["strategy"])
    known = catalogue()["strategies"]
    fits = known.get(strategy, {}).get("plain")
    strategies = [name for name, entry in known.items() if name == strategy or (fits and entry["plain"])]
    if len(strategies) > 1:
        now = strategies.index(strategy) if strategy in strategies else 0
        picked = st.selectbox("Method", strategies, now, format_func=title_of, key=f"branch-method-{name}")
        strategy = picked or strategy
    base: dict[str, Any] = {key: value for key, value in config.items() if key in SETTINGS} | {"strategy": strategy}
    base |= {key: config.get(key, setting.default) for key, setting in options_of(strategy).items()}
    settings = {key: setting for key, setting in settings_of(strategy).items() if key in base and key != "strategy"}
    keys = st.multiselect(
        "Settings to change",
        list(settings),
        default=[key for key in ("a_lr",) if key in settings],
        format_func=lambda key: settings[key].doc.rstrip("."),
        key=f"branch-keys-{name}",
        placeholder="none",
    )
    changes: dict[str, Any] = {key: ask(settings[key], base[key], f"branch-{name}-{key}") for key in keys}
    if st.button("Start branch", type="primary", icon=":material/call_split:", key=f"branch-start-{name}"):
        try:
            SearchConfig.from_dict({**base, **changes})
        except BadInput as problem:
            trouble(problem)
            return
        changed = {key: value for key, value in changes.items() if value != config.get(key)}
        launch(name, int(epoch), {"strategy": strategy, **changed} if strategy != config["strategy"] else changed)


# Collapse ---------------------------------------------------------------------------------------------------


def cure(name: str, config: Mapping[str, Any]) -> None:
    """Back to the epoch before it got worse, and from there with a chosen change."""
    try:
        source = stream.feed(name)
        worse, epochs = before_worse(source.told()), saved_epochs(name)
        if worse is None or not epochs:
            st.caption("Nothing got worse in this search so far.")
            return
        before = max((saved for saved in epochs if saved <= worse), default=epochs[-1])
        st.write(f"This search was healthy until the end of epoch {worse}. A branch goes back and changes one thing:")
        epoch = st.selectbox("Go back to the end of epoch", epochs, epochs.index(before), key=f"cure-at-{name}") or 0
        found = cures(config, SearchSpace.from_json(source.reader.info["space"]), mix_after(source, epoch))
    except BadInput as problem:
        trouble(problem)
        return
    if not found:
        st.caption("No cure is known for a search like this one.")
        return
    titles = {known.name: known.title for known in found}
    picked = st.radio(
        "What to change", list(titles), format_func=lambda key: escaped(titles[key]),
        captions=[f"{each.about} {each.known}" for each in found], key=f"cure-{name}",
    )  # fmt: skip
    chosen: Cure = next((each for each in found if each.name == picked), found[0])
    if st.button("Rewind and start", type="primary", icon=":material/healing:", key=f"cure-start-{name}"):
        launch(name, epoch, chosen.settings, chosen.orders, chosen.fresh)


def mix_after(source: stream.Feed, epoch: int) -> dict[str, Any]:
    """kind -> (edges, ops): the mix where a branch from `epoch` begins. BadInput: no step is recorded."""
    reader = source.reader
    space = SearchSpace.from_json(reader.info["space"])
    ends = [event["step"] for event in source.told() if event["type"] == "epoch" and event["epoch"] < epoch]
    index = max(ends, default=reader.first_step) - reader.first_step
    steps = reader.steps(max(0, min(index, reader.step_count() - 1)), 1)
    if not len(steps):
        raise BadInput(reader.name, "steps", "no step is recorded", "let it run first")
    return mixes_at(steps, 0, space)


@lru_cache(maxsize=1)
def control_ranges(folder: Path) -> tuple[Mapping[str, Any], dict[str, tuple[float, float]]] | None:
    """The settings of the recorded control and the range of each of its probes; None where it is not there."""
    try:
        reader = runs.RunReader(folder, CONTROL)
        return reader.info["config"], ranges(reader.events()[0])
    except BadInput:
        return None


def control_of(config: Mapping[str, Any]) -> dict[str, list[float]]:
    """Probe -> [lowest, highest] of the recorded search on clean labels; empty where it is another kind of search."""
    known = control_ranges(stream.SAMPLES)
    if known is None or any(config.get(key) != known[0].get(key) for key in ALIKE):
        return {}
    return {name: list(span) for name, span in known[1].items()}


# Family -----------------------------------------------------------------------------------------------------


def tree(name: str) -> None:
    """Parent and children of a run, each a button that shows it, and a way to compare them."""
    there = {run: card["parent"] for run, card in runs.cards(runs.runs_root()).items()}
    found = family(there, name)
    if len(found) < 2:
        return
    with st.expander(f"A family of {len(found)} runs", icon=":material/account_tree:", key="family"):
        for relative in found:
            with st.container(horizontal=True, vertical_alignment="center", gap="small"):
                lead = "\u2003\u2003" * (relative.depth - 1) + "\u2514\u2500 " if relative.depth else ""
                began = f"after {relative.epoch} epochs" if relative.epoch is not None else "the first"
                if lead:
                    st.text(lead, width="content")
                if relative.name == name:
                    st.badge(escaped(relative.name), color="blue")
                elif relative.name in there:
                    st.button(relative.name, key=f"family-{relative.name}", type="tertiary", on_click=show,
                              args=(relative.name,))  # fmt: skip
                else:
                    st.text(f"{relative.name} (deleted)", width="content")
                st.text(began, width="content")
        known = [relative.name for relative in found if relative.name in there]
        if (APP_PAGES / "compare.py").is_file() and len(known) > 1:
            st.page_link(
                "app_pages/compare.py", label="Compare them", icon=":material/compare:",
                query_params={"runs": ",".join(known[:6])},
            )  # fmt: skip


def inherited(info: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Orders about edges that were in force where a branch began: those of its parents until then, oldest first."""
    found: list[dict[str, Any]] = []
    parent, seen = info["parent"], set()
    while parent is not None and parent["run"] not in seen:
        seen.add(parent["run"])
        try:
            source = stream.feed(str(parent["run"]))
        except BadInput:  # the parent is gone: what it was told is not known any more
            break
        given = [event for event in source.told() if event["type"] == "applied" and event["kind"] in ON_EDGES]
        found = [event for event in given if event["accepted"] and event["step"] < parent["step"]] + found
        parent = source.reader.info["parent"]
    return found
