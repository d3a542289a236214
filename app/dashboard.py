"""What the server runs for each visitor: the frame of the pages and the navigation between them."""

from __future__ import annotations

import streamlit as st

st.set_page_config(page_title="DARTS Workbench", page_icon=":material/hub:", layout="wide")

page = st.navigation(
    [
        st.Page("app_pages/live.py", title="Live", icon=":material/monitoring:", default=True),
        st.Page("app_pages/runs.py", title="Runs", icon=":material/list:"),
    ],
    position="top",
)
page.run()
