"""Choosing a method in the start form: its name, the parts it wears, and its card; and a space of one's own."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import streamlit as st

from app.choose import trouble
from app.words import escaped
from darts_core import own_space
from darts_core.card import card_lines
from darts_core.config import Scalar, catalogue
from darts_core.errors import BadInput


def choose(now: Mapping[str, Any], key: str) -> tuple[str, str]:
    """Strategy and parts, as the settings of these names hold them. Stands outside the form, whose fields follow it."""
    strategies, parts = list(catalogue()["strategies"]), catalogue()["parts"]
    strategy: str = st.selectbox(  # type: ignore[assignment]  # never empty: there is an index
        "Search method",
        strategies,
        index=strategies.index(str(now["strategy"])),
        format_func=title_of,
        key=f"{key}-strategy",
    )
    worn = st.multiselect(
        "Added to the method",
        list(parts),
        [name for name in str(now.get("parts", "")).split(",") if name in parts],
        key=f"{key}-parts",
        placeholder="nothing",
        help="A piece of another method on top: a penalty, a rule to stop, another mix.",
    )
    with st.popover("What this method does", width="stretch"):
        show_card(strategy)
        for name in worn:
            st.markdown(f"**{escaped(name)}**: {escaped(parts[name]['doc'])}")
    return strategy, ",".join(worn)


def space_of_file(key: str) -> Mapping[str, Scalar]:
    """The settings that a file with a search space stands for; nothing without one, or where it holds none."""
    with st.popover("A search space of your own", width="stretch"):
        given = st.file_uploader(
            "A small file, JSON or Python, as docs/your-own-space.md says. It is read as data and never run",
            type=["json", "py"],
            max_upload_size=1,
            key=f"{key}-space-file",
        )
        if given is None:
            return {}
        try:
            own = own_space.from_bytes(given.getvalue(), given.name)
        except BadInput as problem:
            trouble(problem)
            return {}
        st.success(escaped(f"{own.name} is chosen: see Search space and network."), icon=":material/check:")
        return own_space.settings(own)


def title_of(strategy: str) -> str:
    """The name of a method as its paper writes it."""
    entry = catalogue()["strategies"].get(strategy, {})
    card = entry.get("card")
    return str(card["title"]) if card else strategy.replace("-", " ").capitalize()


HEADINGS = {  # of `card_lines`, as the form says them
    "beside DARTS": "Compared with DARTS",
    "source": "From",
    "here": "Done otherwise in this program",
    "in our collapse setting": "Measured here, on noisy labels",
}


def show_card(strategy: str) -> None:
    """What it is; equation, what differs from DARTS, source, known deviations, and what it did when DARTS collapsed."""
    entry = catalogue()["strategies"][strategy]
    card = entry.get("card")
    st.markdown(f"**{escaped(title_of(strategy))}**")
    st.markdown(escaped(entry["doc"]))
    if card is None:
        return
    before = ""
    for heading, text in card_lines(card):
        if heading == "equation":
            st.code(text, language=None, wrap_lines=True)
            continue
        if heading != before:
            st.markdown(f"**{HEADINGS.get(heading, heading.capitalize())}**")
        st.markdown(f"- {escaped(text)}" if heading in ("here", "in our collapse setting") else escaped(text))
        before = heading
