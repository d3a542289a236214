"""The picture of a derived cell on a page: lying where there is room, upright in a narrow column.

Both forms are on the page; the style sheet of `app/frame.py` shows the one that fits the width of its place.
"""

from __future__ import annotations

import streamlit as st

from app.words import in_words
from darts_core.genotype import Genotype
from darts_core.view.svg import genotype_svg


def cell_picture(genotype: Genotype, key: str, title: str = "") -> None:
    """Draws the cell. `key`: one for each place on a page.

    Raises:
        BadInput: the genotype cannot be drawn; nothing is shown then.
    """
    forms = {form: genotype_svg(genotype, title, upright=form == "upright") for form in ("lying", "upright")}
    with st.container(key=f"cell-drawing-{key}"):
        for form, drawn in forms.items():
            with st.container(key=f"cell-{form}-{key}"):
                st.image(drawn, width="stretch", alt=in_words(genotype))
