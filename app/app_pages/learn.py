"""Learn: a tour of the board in six steps, lessons that open a page in a prepared state, and the notebooks.

Cards stand in rows, each with columns of its own, so that a narrow page, which puts columns below one another, keeps
their order.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import streamlit as st

from app import choose, stream
from app.board import board, build_board_data
from app.forms import in_rows
from app.notebooks import Notebook, notebooks
from darts_core.errors import BadInput

SAMPLE = "collapsing"  # the tour looks at this recorded search
PARTS = ("Tour", "Lessons", "Notebooks")


@dataclass(frozen=True)
class Stop:
    """One step of the tour: what to look at, and the view of the board that shows it."""

    title: str
    text: str
    view: Mapping[str, Any]


TOUR = (
    Stop(
        "The cell, before anything is decided",
        "A network is built by repeating one small cell. Boxes are states, each ribbon is an edge, and all candidate "
        "operations run on every edge at once. The stripes of a ribbon are their weights: at step 1 they are nearly "
        "equal.",
        {"step": 1, "show": "all"},
    ),
    Stop(
        "Time, under your finger",
        "The slider above the cell goes through every recorded step; the marks on it are steps where another cell "
        "would be derived, or where an alarm was raised. Here it is step 40: weights have begun to move. Try the "
        "left and right arrow keys, or Play.",
        {"step": 40, "show": "all"},
    ),
    Stop(
        "One edge in numbers",
        "Choose an edge by pointing or with Tab and Enter. The card beside the cell shows its weights, their "
        "history, and the formula of the mixture with these very numbers. This edge goes from the second input, the "
        "output of the cell before, to node 1.",
        {"step": 120, "show": "all", "edge": "normal-1-3"},
    ),
    Stop(
        "What derivation keeps",
        "In the end only some edges stay, each with its strongest operation: the others fade. The cell derived now "
        "is what a search is for. The Cells page shows it under several rules, and says why each edge stayed.",
        {"step": 120, "show": "derived"},
    ),
    Stop(
        "The collapse meter",
        "Orange is the skip connection, which only passes its input on. Each square of the meter is a derived edge; at "
        "step 88 nearly all have become skips, and the search is called collapsed. In this search 40 % of the labels "
        "were replaced at random, on purpose; on clean labels the same search stays healthy (see Both, side by side).",
        {"step": 88, "show": "all"},
    ),
    Stop(
        "What it was worth",
        "At the end the derived cell is trained from scratch, beside random cells of the same space. Look at the "
        "card The cell it found: here random cells are better, and the page says so. Now start a search of your own.",
        {"show": "derived"},
    ),
)


@dataclass(frozen=True)
class Lesson:
    """A page in a prepared state, and what to find out there."""

    title: str
    text: str
    page: str
    query: Mapping[str, str] = field(default_factory=dict)


LESSONS = (
    Lesson(
        "Make it collapse",
        "Start a search whose labels are partly wrong. How many steps until the meter says drifting?",
        "live",
        {"preset": "collapse"},
    ),
    Lesson(
        "The control",
        "The same search on clean labels. What do the ribbons do now?",
        "live",
        {"preset": "clean"},
    ),
    Lesson(
        "Both, side by side",
        "The two recorded searches under one scrubber. Where do they part?",
        "compare",
        {"runs": "collapsing,healthy", "by": "percent", "at": "20"},
    ),
    Lesson(
        "Stop in time",
        "A search that was stopped at its lowest validation loss. Which edges did that save?",
        "compare",
        {"runs": "collapsing,stopped-early", "by": "step", "at": "30"},
    ),
    Lesson(
        "Faster alphas",
        "The same noisy search with an alpha learning rate three times as large. Does it collapse sooner?",
        "live",
        {"preset": "collapse", "a_lr": "0.09"},
    ),
    Lesson(
        "Drop the skips",
        "Skip dropout switches skips off at random while the weights learn. Does the meter stay lower?",
        "live",
        {"preset": "collapse", "skip_dropout": "0.5"},
    ),
    Lesson(
        "Second order",
        "The gradient of the alphas through a virtual step of the weights (equation 7), on the tiny space.",
        "live",
        {"preset": "tiny", "order": "2"},
    ),
    Lesson(
        "One mixture, several cells",
        "The same alphas under four rules. Which edges do they agree on? Open the tab Derivation lab.",
        "cells",
        {"run": "healthy"},
    ),
    Lesson(
        "The turning point",
        "The recorded collapse, held at the step where the alarm was raised.",
        "replay",
        {"run": "collapsing", "step": "88", "show": "derived"},
    ),
)

# Per notebook, by its number, a page prepared for what it is about: for a class that has the dashboard open beside it.
BESIDE: Mapping[str, Lesson] = {
    "00": Lesson("Tiny search", "The same search here.", "live", {"preset": "tiny"}),
    "01": Lesson("A real cell", "A derived cell and what each part costs.", "cells", {"run": "healthy"}),
    "02": Lesson("The first step", "All operations nearly equal.", "replay", {"run": "healthy", "step": "1"}),
    "03": Lesson("Second order", "The same search by equation 7.", "live", {"preset": "tiny", "order": "2"}),
    "04": Lesson("All eight operations", "The search of this notebook.", "live", {"preset": "laptop"}),
    "05": Lesson("Other rules", "Tab Derivation lab.", "cells", {"run": "healthy"}),
    "06": Lesson(
        "Noise and control", "One scrubber for both.", "compare", {"runs": "collapsing,healthy", "by": "percent"}
    ),
    "07": Lesson("A repair", "Skip dropout against the noise.", "live", {"preset": "collapse", "skip_dropout": "0.5"}),
    "08": Lesson("A recurrent search", "Perplexity above its floor.", "live", {"preset": "recurrent"}),
    "09": Lesson("What it was worth", "Derived and random cells of a run.", "replay", {"run": "healthy"}),
    "10": Lesson("The list of runs", "What a sweep left in its folder.", "runs"),
}


def move(by: int) -> None:
    """The next or the previous stop; the open board takes its view once more."""
    now = stop_number()
    st.query_params["tour"] = str(min(len(TOUR), max(1, now + by)))
    st.session_state["tour-version"] = st.session_state.get("tour-version", 0) + 1


def stop_number() -> int:
    text = st.query_params.get("tour", "1")
    return min(len(TOUR), max(1, int(text))) if text.isdecimal() and len(text) < 4 else 1


@st.fragment
def tour() -> None:
    """Six prepared views of one recorded search, each with a paragraph."""
    number = stop_number()
    stop = TOUR[number - 1]
    with st.container(border=True):
        st.markdown(f"##### {number} of {len(TOUR)}: {stop.title}")
        st.write(stop.text)
        with st.container(horizontal=True, gap="small"):
            back = partial(move, -1)
            st.button("Back", icon=":material/arrow_back:", disabled=number == 1, key="back", on_click=back)
            st.button(
                "Next",
                icon=":material/arrow_forward:",
                type="primary",
                disabled=number == len(TOUR),
                key="next",
                on_click=partial(move, 1),
            )
            if number == len(TOUR):
                st.page_link("app_pages/live.py", label="Start a search", icon=":material/monitoring:")
    try:
        info = stream.feed(SAMPLE).reader.info
        data = build_board_data(info, view={**stop.view, "version": st.session_state.get("tour-version", 0)})
    except BadInput as problem:
        choose.trouble(problem)
        return
    board(data, key="tour-board")


def lessons() -> None:
    for lesson, column in in_rows(LESSONS, 3):
        with column.container(border=True, height="stretch"):
            st.markdown(f"##### {lesson.title}")
            st.write(lesson.text)
            link(lesson, f"Open on {lesson.page.capitalize()}")


def link(lesson: Lesson, words: str, help: str | None = None) -> None:
    """A way to the lesson's page in its prepared state."""
    page, query = f"app_pages/{lesson.page}.py", dict(lesson.query)
    st.page_link(page, label=words, icon=":material/arrow_forward:", query_params=query, help=help)


def shelf(found: list[Notebook]) -> None:
    """A card per notebook, with how to run it and a way to read it here."""
    for notebook, column in in_rows(found, 2):
        with column.container(border=True, height="stretch"):
            st.markdown(f"##### {notebook.title}")
            st.markdown(notebook.promise)
            st.code(f"jupyter lab notebooks/{notebook.name}.ipynb", language=None, wrap_lines=True)
            with st.container(horizontal=True, gap="small", vertical_alignment="center"):
                if st.button("Read it here", icon=":material/menu_book:", key=f"read-{notebook.name}"):
                    st.query_params["notebook"] = notebook.name
                    st.rerun()
                if beside := BESIDE.get(notebook.name[:2]):
                    link(beside, f"{beside.title}, on {beside.page.capitalize()}", beside.text)


def read(notebook: Notebook) -> None:
    """A notebook as text; it runs in JupyterLab alone."""
    if st.button("All notebooks", icon=":material/arrow_back:", key="shelf"):
        st.query_params.pop("notebook", None)
        st.query_params["part"] = "notebooks"
        st.rerun()
    st.caption(f"To run it, and to move its pictures: jupyter lab notebooks/{notebook.name}.ipynb")
    for kind, text in notebook.cells:
        if kind == "markdown":
            st.markdown(text)
        elif text.strip():
            st.code(text, language="python", wrap_lines=True)


st.subheader("Learn", anchor=False)
books, troubles = notebooks()
wanted = next((book for book in books if book.name == st.query_params.get("notebook")), None)
if wanted is not None:
    read(wanted)
    st.stop()
asked = st.query_params.get("part", "").capitalize()
first, second, third = st.tabs(PARTS, default=asked if asked in PARTS else PARTS[0], key="part", on_change="rerun")
if first.open:
    with first:
        st.caption("Six stops on a recorded search: what the pictures of this dashboard mean.")
        tour()
if second.open:
    with second:
        st.caption("Each opens a page in a prepared state. Nothing starts before you press Start.")
        lessons()
if third.open:
    with third:
        st.caption("From a first search to all of DARTS in a hundred lines. They run in JupyterLab: make lab.")
        for sentence in troubles:
            choose.trouble(sentence)
        if books:
            shelf(books)
        else:
            st.caption("There are no notebooks in this copy of the project. The lessons and the tour need none.")
