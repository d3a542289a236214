"""What the server runs for each visitor: the frame of the pages and the navigation between them."""

from __future__ import annotations

from pathlib import Path

import streamlit as st

from app.frame import frame

# A picture of our own: Streamlit would fetch the file of an emoji or a Material icon from the network.
st.set_page_config(page_title="DARTS Workbench", page_icon=str(Path(__file__).with_name("icon.svg")), layout="wide")

page = st.navigation(
    [
        st.Page("app_pages/live.py", title="Live", icon=":material/monitoring:", default=True),
        st.Page("app_pages/replay.py", title="Replay", icon=":material/replay:"),
        st.Page("app_pages/compare.py", title="Compare", icon=":material/compare_arrows:"),
        st.Page("app_pages/cells.py", title="Cells", icon=":material/hub:"),
        st.Page("app_pages/runs.py", title="Runs", icon=":material/list:"),
        st.Page("app_pages/learn.py", title="Learn", icon=":material/school:"),
    ],
    position="top",
)
frame()
page.run()
