"""Choosing a method in the start form: its name, the parts it wears, and its card."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import streamlit as st

from app.words import escaped
from darts_core.card import card_lines
from darts_core.config import catalogue


def choose(now: Mapping[str, Any], key: str) -> tuple[str, str]:
    """Strategy and parts, as the settings of these names hold them. Stands outside the form, whose fields follow it."""
    strategies, parts = list(catalogue()["strategies"]), catalogue()["parts"]
    strategy: str = st.selectbox(  # type: ignore[assignment]  # never empty: there is an index
        "Search method", strategies, index=strategies.index(str(now["strategy"])), key=f"{key}-strategy"
    )
    worn = st.multiselect(
        "Parts worn on top",
        list(parts),
        [name for name in str(now.get("parts", "")).split(",") if name in parts],
        key=f"{key}-parts",
        help="A penalty, a stop rule or another mix, added to the method.",
    )
    with st.popover("What this method does", width="stretch"):
        show_card(strategy)
        for name in worn:
            st.markdown(f"**{escaped(name)}**: {escaped(parts[name]['doc'])}")
    return strategy, ",".join(worn)


def show_card(strategy: str) -> None:
    """Equation, what differs from DARTS, source, known deviations, and what it did in the collapse setting."""
    entry = catalogue()["strategies"][strategy]
    card = entry.get("card")
    st.markdown(f"**{escaped(card['title'] if card else strategy)}**")
    if card is None:
        st.markdown(escaped(entry["doc"]))
        return
    for heading, text in card_lines(card):
        if heading == "equation":
            st.code(text, language=None, wrap_lines=True)
        else:
            st.markdown(f"{heading.capitalize()}: {escaped(text)}")
