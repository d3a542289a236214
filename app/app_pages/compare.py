"""Compare: two to six runs beside one another, under one scrubber; and several seeds of one search as one picture."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import streamlit as st

from app import choose, stream
from app.cell_picture import cell_picture
from app.contest import contests
from app.lecture import lecture
from app.words import described, escaped
from darts_core import runs
from darts_core.derive import derive
from darts_core.errors import BadInput
from darts_core.genotype import Genotype
from darts_core.view import compare
from darts_core.view.figures import Line, comparison, ranks
from darts_core.view.lecture import lecture_data
from darts_core.view.palette import DASHES, KIND_TITLES, RUN_COLOURS, colour
from darts_core.view.recorded import Recorded

ROOT = runs.runs_root()
MOST = 6
PAIR = ("collapsing", "healthy")  # recorded with the project: the same search on noisy and on clean labels
AXES = {"step": "step", "epoch": "epoch", "percent": "per cent of the run"}
PERCENT = ("val_accuracy", "skip", "truth_accuracy")


def chosen(names: Sequence[str]) -> list[str]:
    """The runs that the address names, once each, at most six; none where it names none."""
    asked = [name for name in st.query_params.get("runs", "").split(",") if name]
    return list(dict.fromkeys(asked))[:MOST]


def keep(key: str, part: str) -> None:
    """What was chosen goes into the address."""
    value = st.session_state[key]
    st.query_params[part] = ",".join(value) if isinstance(value, list) else str(value)
    if part == "runs":
        st.query_params.pop("at", None)


def keep_place() -> None:
    at = st.session_state["lecture"].get("at")
    if at is not None:
        st.query_params["at"] = f"{float(at):g}"


def place() -> float | None:
    text = st.query_params.get("at", "")
    return float(text) if text.replace(".", "", 1).isdecimal() and len(text) < 12 else None


def looks(found: Sequence[Recorded]) -> dict[str, tuple[str, str]]:
    """Name -> (colour, dash): a colour per method and settings, a dash per seed within them."""
    keys = list(dict.fromkeys(compare.group_key(run.info) for run in found))
    styles, seen = {}, dict.fromkeys(keys, 0)
    for run in found:
        key = compare.group_key(run.info)
        styles[run.name] = (RUN_COLOURS[keys.index(key) % len(RUN_COLOURS)], DASHES[seen[key] % len(DASHES)])
        seen[key] += 1
    return styles


@st.fragment
def ribbons(found: Sequence[Recorded], styles: Mapping[str, tuple[str, str]], align: compare.Align) -> None:
    looks_of = [
        {"note": described(run.info), "colour": styles[run.name][0], "dash": styles[run.name][1]} for run in found
    ]
    lecture(lecture_data(found, align, place(), looks_of), "lecture", keep_place)


def curves(found: Sequence[Recorded], styles: Mapping[str, tuple[str, str]], align: compare.Align) -> None:
    """One chart per measure. Where several runs differ by their seed alone, their mean and band lie over them."""
    groups = compare.groups({run.name: run.info for run in found})
    by_name = {run.name: run for run in found}
    columns = st.columns(2)
    drawn = 0
    for measure, title in compare.MEASURES.items():
        lines, bands = [], []
        for names in groups.values():
            made = [c for name in names if (c := compare.curve(by_name[name], measure, align))]
            several = len(made) > 1
            lines += [Line(c, *styles[c.name], faint=several) for c in made]
            title_of = f"mean of {len(made)} seeds, {infos[names[0]].get('group') or names[0]}"
            mean = compare.band(title_of, made) if several else None
            if mean is not None:
                bands.append(Line(mean, styles[names[0]][0]))
        if not lines:
            continue
        figure = comparison(title, lines, bands, AXES[align], measure in PERCENT)
        said = f"{title} of {', '.join(by_name)} over {AXES[align]}"
        columns[drawn % 2].plotly_chart(figure, key=f"curve-{measure}", config={"displayModeBar": False}, alt=said)
        drawn += 1
    bands = []
    for names in groups.values():
        title = names[0] if len(names) == 1 else f"{len(names)} seeds, {infos[names[0]].get('group') or names[0]}"
        band = compare.rank_band(title, [by_name[name] for name in names], align)
        if band is not None:
            bands.append(Line(band, styles[names[0]][0]))
    if bands:
        title = "Rank of the cell derived now, as a band"
        said = f"{title}, of {', '.join(by_name)} over {AXES[align]}"
        figure = ranks(title, bands, AXES[align])
        columns[drawn % 2].plotly_chart(figure, key="curve-rank", config={"displayModeBar": False}, alt=said)


def truth(found: Sequence[Recorded]) -> None:
    """Where every cell of a space is known: what those that the runs found are worth."""
    rows = compare.truths(found)
    if not rows:
        return
    st.markdown("#### The truth about their cells")
    st.caption(
        "Every cell of this space was trained beforehand, so the cell of a run's last epoch can be looked up. "
        "The rank is a band: cells within it cannot be told apart by these trainings."
    )
    percent = st.column_config.NumberColumn(format="percent")
    st.dataframe(
        rows,
        hide_index=True,
        key="truth",
        alt="Exact accuracy, regret and rank of each run's cell",
        column_config={"exact accuracy": percent, "below the best": percent},
    )


def cell_of(run: Recorded) -> Genotype | None:
    """The cell of its result; else what its last record would give."""
    if not len(run.steps):
        return None
    return run.result() or derive(run.space, run.mixes())


def cells(found: Sequence[Recorded]) -> None:
    """Derived cells edge by edge, against those of the first run."""
    first, derived = found[0], {run.name: cell for run in found if (cell := cell_of(run)) is not None}
    if first.name not in derived or len(derived) < 2:
        st.caption("There are no two derived cells to compare yet.")
        return
    reference = derived[first.name]
    rows: dict[tuple[str, tuple[int, int]], dict[str, str]] = {}
    for name, cell in derived.items():
        changes = compare.cell_changes(reference, cell)
        for change in changes:
            spec = next((run.space.cells[change.kind] for run in found if change.kind in run.space.cells), None)
            source, target = (spec.state_name(s) if spec and s < spec.states else str(s) for s in change.edge)
            title = KIND_TITLES.get(change.kind, change.kind)
            row = rows.setdefault((change.kind, change.edge), {"cell": title, "edge": f"{source} to {target}"})
            row.setdefault(first.name, change.before)
            row[name] = {"added": f"{change.after} (added)", "removed": "(removed)"}.get(change.how, change.after)
        if name != first.name:
            count = {how: sum(c.how == how for c in changes) for how in ("kept", "other", "added", "removed")}
            st.text(
                f"{name} against {first.name}: {count['kept']} edges kept, {count['other']} with another operation, "
                f"{count['added']} added, {count['removed']} removed."
            )
    table = [{**row, **{name: row.get(name, "") for name in derived}} for row in rows.values()]
    st.dataframe(table, hide_index=True, key="cells", alt="Edges of the derived cells, run by run")
    with st.expander("Pictures of the cells"):
        columns = st.columns(min(3, len(derived)))
        for i, (name, cell) in enumerate(derived.items()):
            with columns[i % len(columns)]:
                cell_picture(cell, str(i), name)


def several_seeds(infos: Mapping[str, Mapping[str, Any]], known: Mapping[str, runs.Summary]) -> None:
    """Runs that differ by their seed alone, as one picture."""
    groups = {names[0]: names for names in compare.seed_groups(infos).values()}
    if not groups:
        st.caption("There are no runs that differ by their seed alone. To make some:")
        st.code("python -m darts_core search --preset collapse --seeds 0-4", language=None, wrap_lines=True)
        return
    titled = lambda name: compare.group_title(groups[name], infos)  # noqa: E731
    picked = choose.one_of("Runs that differ by their seed alone", list(groups), "seeds", titled)
    found, _ = read_all(groups[picked][:32], known)
    found = [run for run in found if len(run.steps) and run.space == found[0].space]
    if len(found) < 2:
        st.caption("Fewer than two of them have recorded steps.")
        return
    align: compare.Align = "percent"
    columns = st.columns(min(2, len(found[0].space.cells)))
    for i, (kind, cell) in enumerate(found[0].space.cells.items()):
        bands = compare.share_bands(found, kind, align)
        lines = [Line(bands[op], colour(op)) for op in cell.ops if op in bands]
        title = f"{KIND_TITLES.get(kind, kind)}: share of each operation"
        figure = comparison(title, [], lines, AXES[align], percent=True)
        said = f"{title}, mean and range of {len(found)} seeds"
        columns[i % len(columns)].plotly_chart(figure, key=f"band-{kind}", config={"displayModeBar": False}, alt=said)
    st.caption(f"Line: mean of {len(found)} seeds. Band: from the lowest to the highest of them.")
    rows = []
    for row in sorted(compare.agreement(found), key=lambda row: -row.kept):
        cell = found[0].space.cells[row.kind]
        source, target = (cell.state_name(end) for end in cell.edges[row.edge])
        rows.append(
            {
                "cell": KIND_TITLES.get(row.kind, row.kind),
                "edge": f"{source} to {target}",
                "kept in": row.kept / row.runs,
                "of": f"{row.kept} of {row.runs} seeds",
                "as": ", ".join(f"{op} {count}" for op, count in row.ops),
            }
        )
    same = sum(row["kept in"] == 1.0 for row in rows)
    st.text(f"Edges that some seed keeps: {len(rows)}. Kept by every seed: {same}.")
    st.dataframe(
        rows,
        hide_index=True,
        key="agreement",
        alt="How many seeds keep each edge",
        column_config={"kept in": st.column_config.ProgressColumn(format="percent", min_value=0, max_value=1)},
    )


def read_all(names: Sequence[str], known: Mapping[str, runs.Summary]) -> tuple[list[Recorded], list[str]]:
    """The runs that can be read, and a sentence for each that cannot."""
    found, troubles = [], []
    for name in names:
        try:
            found.append(choose.read(name, known))
        except BadInput as problem:
            troubles.append(str(problem))
    return found, troubles


# The page -------------------------------------------------------------------------------------------------

st.subheader("Compare", anchor=False)
known = {run.name: run for run in choose.known()}
infos = {**runs.cards(stream.SAMPLES), **runs.cards(ROOT)}
infos = {name: infos[name] for name in known if name in infos}
names = chosen(list(known))
bundled = not names and all(name in known for name in PAIR)
names = names or [name for name in PAIR if name in known] or list(known)[:2]
options = [*known, *(name for name in names if name not in known)]
samples = {run.name for run in choose.recorded()} - {run.name for run in choose.mine()}
if not options:
    choose.nothing_yet()
    st.stop()
left, right = st.columns([3, 1], vertical_alignment="bottom")
left.multiselect(
    "Runs, two to six",
    options,
    names,
    format_func=lambda name: choose.label(known[name], samples) if name in known else name,
    max_selections=MOST,
    key=f"runs-{','.join(names)}",
    on_change=partial(keep, f"runs-{','.join(names)}", "runs"),
)
by = st.query_params.get("by", "step")
align: compare.Align = right.radio(
    "Aligned by",
    compare.ALIGNS,
    compare.ALIGNS.index(by) if by in compare.ALIGNS else 0,
    horizontal=True,
    key="by",
    on_change=partial(keep, "by", "by"),
)
if bundled:
    st.info(
        "Nothing was chosen, so here are two recorded searches: the same one on noisy and on clean labels.",
        icon=":material/info:",
    )
found, troubles = read_all(names, known)
for sentence in troubles:
    choose.trouble(sentence)
empty = [run.name for run in found if not len(run.steps)]
if empty:
    st.caption(escaped(f"Without a recorded step, so not shown: {', '.join(empty)}."))
found = [run for run in found if len(run.steps)]
if len(found) < 2:
    st.caption("Choose at least two runs that have recorded steps.")
if found:
    for sentence in compare.kinship({run.name: run.info for run in found}):
        st.info(escaped(sentence), icon=":material/call_split:")
    styles = looks(found)
    ribbons(found, styles, align)
    st.markdown("#### Curves")
    st.caption("One colour per method and settings, one dash per seed. Colours here mean runs, not operations.")
    curves(found, styles, align)
    truth(found)
if len(found) > 1:
    st.markdown("#### Settings that differ")
    shown = {run.name: run.info for run in found}
    rows = compare.differences(shown)
    if rows:
        st.dataframe(rows, hide_index=True, key="differences", alt="Settings that differ between the runs")
    else:
        st.caption("None: these runs have the same settings.")
    if computed := compare.computed_apart(shown):
        st.caption(computed)
    st.markdown("#### Derived cells")
    cells(found)
st.markdown("#### Several seeds as one picture")
several_seeds(infos, known)
st.markdown("#### Comparisons of methods")
contests()
