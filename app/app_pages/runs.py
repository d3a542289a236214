"""Runs: what is in the folder of runs, the newest first, each a click away from its page."""

from __future__ import annotations

import datetime

import streamlit as st

from app.words import STATES
from darts_core import runs

ROOT = runs.runs_root()
known = runs.list_runs(ROOT)

st.subheader("Runs", anchor=False)
if not known:
    st.text("There are no runs yet. Start one on the Live page, or with: darts-workbench search --preset laptop")
    st.stop()

table = [
    {
        "run": run.name,
        "state": STATES.get(run.state, (run.state, ""))[0],
        "step": run.step,
        "of": run.total_steps,
        "data set": run.dataset,
        "strategy": run.strategy,
        "edited": run.edited,
        "started": datetime.datetime.fromtimestamp(run.created),
        "message": run.message,
    }
    for run in known
]
picked = st.dataframe(
    table,
    hide_index=True,
    on_select="rerun",
    selection_mode="single-row",
    key="table",
    column_config={"started": st.column_config.DatetimeColumn(format="YYYY-MM-DD HH:mm")},
)
rows = picked["selection"]["rows"]
if rows and st.button(f"Open {known[rows[0]].name} on the Live page", type="primary", icon=":material/monitoring:"):
    st.switch_page("app_pages/live.py", query_params={"run": known[rows[0]].name})
st.text(f"Folder: {ROOT}")
