"""Comparisons of methods on the Compare page: what `compare` on the command line measured and wrote down."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import streamlit as st

from app.choose import one_of, trouble
from app.words import percent
from darts_core import runs, tally
from darts_core.config import PRESETS
from darts_core.errors import BadInput
from darts_core.view.contest import contest_svg

BUNDLED = runs.samples_root().parent / "comparisons"  # recorded with the project
COLUMNS = {
    "accuracy": "Of the derived cells on test images, mean over the seeds",
    "spread": "Standard deviation of the accuracy over the seeds",
    "lowest": "The worst seed",
    "highest": "The best seed",
    "skips": "Skip connections among the edges of the derived normal cell, mean",
    "of": "Edges of the derived normal cell",
    "gap": "Accuracy lost by cutting the supernet down to the derived cell, before any training",
    "regret": "Below the best cell of the space, where all its cells are known",
    "seconds": "Of one search, mean",
    "steps": "Training steps of one search, mean",
}
IN_PERCENT = ("accuracy", "spread", "lowest", "highest", "gap", "regret")


def contests() -> None:
    """A comparison as picture and table, chosen from those of your own and those of the project."""
    own = tally.found(tally.place(runs.runs_root()))
    found: dict[str, Path] = tally.found(BUNDLED) | own
    if not found:
        st.caption("There is no comparison yet. To make one (it goes on where it was interrupted):")
        st.code("python -m darts_core compare --methods darts,random --seeds 0-4 --budget 60s", language=None)
        return
    titles = {
        name: f"{name} · {described(path)}" if name in own else f"recorded: {described(path)}"
        for name, path in found.items()
    }
    picked = one_of("Comparison", list(found), "contest", titles.__getitem__)
    try:
        show(tally.read(found[picked]))
    except BadInput as problem:
        trouble(problem)


def described(folder: Path) -> str:
    """What a comparison compared, in words: "Every cell known; random, evolution, reinforce over 10 seeds"; of one
    that cannot be read, its name.
    """
    try:
        found = tally.read(folder)
        preset, settings, seeds = (found.about[part] for part in ("preset", "settings", "seeds"))
        title = PRESETS[preset].title if preset in PRESETS else f"Searches on {settings['dataset']}"
        noise = float(settings.get("label_noise", 0))
        methods = list(dict.fromkeys(row.method.partition(":")[0] for row in found.rows))
        said = ", ".join(methods) if len(methods) <= 3 else f"{len(methods)} methods"
        shared = f", {percent(noise)} of the labels random" if noise else ""
        return f"{title}{shared}; {said} over {len(seeds)} seed{'s' if len(seeds) > 1 else ''}"
    except (BadInput, KeyError, TypeError, ValueError):
        return folder.name


def show(found: tally.Tally) -> None:
    """Picture, sentences, table, and the command that makes it again."""
    means = [f"{row.method} {100 * mean:.1f} %" for row in found.rows if (mean := row.mean("accuracy")) is not None]
    st.image(
        contest_svg(found),
        width="stretch",
        alt=f"Test accuracy by method: {', '.join(means)}" if means else "No search has ended yet",
    )
    for sentence in tally.sentences(found):
        st.text(sentence)
    st.dataframe(
        rows_of(found),
        hide_index=True,
        key="contest-table",
        alt="Accuracy, skips, gap and cost of each method",
        column_config={
            name: st.column_config.NumberColumn(help=about, format="percent" if name in IN_PERCENT else "%.3g")
            for name, about in COLUMNS.items()
        },
    )
    st.caption("A dot is a seed, the bar their mean. None: not measured in this comparison.")
    command = found.about.get("command")
    if isinstance(command, str) and command:
        st.caption("Made by:")
        st.code(command[:2000], language=None, wrap_lines=True)


def rows_of(found: tally.Tally) -> list[dict[str, Any]]:
    """One row per method, as numbers, so that columns can be sorted."""
    rows = []
    for row in found.rows:
        values = row.values("accuracy")
        rows.append({
            "method": row.method, "seeds": len(row.outcomes), "accuracy": row.mean("accuracy"),
            "spread": row.spread("accuracy"), "lowest": min(values, default=None),
            "highest": max(values, default=None), "skips": row.mean("skips"), "of": row.mean("edges"),
            "gap": row.mean("gap"), "regret": row.mean("regret"), "seconds": row.mean("seconds"),
            "steps": row.mean("steps"),
        })  # fmt: skip
    return rows
