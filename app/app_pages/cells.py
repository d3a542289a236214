"""Cells: the cell that a run derives, at its end or after any step, by the paper's rule or another; why; as files."""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import streamlit as st

from app import choose, stream
from app.cell_picture import cell_picture
from app.forms import in_rows
from app.lecture import reasons as reason_component
from app.live import ending
from app.trying import perturbation
from app.words import escaped, in_sentences, percent
from darts_core import runs
from darts_core.config import EVALUATE, SearchConfig, catalogue
from darts_core.cost import RULE, costs_of, image_of
from darts_core.derive import PERTURBATION, RULES, SKIPS, THRESHOLD, derive_by, one_hot, readings
from darts_core.errors import BadInput
from darts_core.export import EXPORTS, Format, export
from darts_core.genotype import Genotype
from darts_core.view import explain, tables
from darts_core.view.compare import cell_changes
from darts_core.view.lecture import reason_cards
from darts_core.view.palette import KIND_TITLES
from darts_core.view.recorded import Recorded

ROOT = runs.runs_root()
CLOSELY = 5000  # records that explanations look at
SEEDS = 12  # other seeds that explanations ask, at most
OWN = "search"  # not a rule of the table: the cell as the search derived it
TABS = ("Picture", "Why", "Derivation lab", "Numbers", "Code and data")
OF_SEARCHES = ("Why", "Derivation lab")  # nothing was chosen where a given cell is trained
QUICK = ("json", "text", "svg", "dot", "tikz")  # made at once; the others when they are asked for


def keep(key: str, part: str) -> None:
    st.query_params[part] = str(st.session_state[key])


def asked_step(run: Recorded) -> int:
    """The recorded step that the address names, else the last one."""
    text = st.query_params.get("step", "")
    wanted = int(text) if text.isdecimal() and len(text) < 10 else None
    return int(run.steps["step"][run.index(wanted)])


def cell_at(run: Recorded, step: int, rule: str, threshold: float) -> Genotype:
    """The cell by a rule after a step; `OWN`: as the search derived it where that is the step of its result."""
    if rule == OWN and step == run.last_step:
        found = run.result()
        if found is not None:
            return found
    return derive_by(
        run.space, readings(run.space, run.steps[run.index(step)]), "top2" if rule == OWN else rule, threshold
    )


def controls(run: Recorded) -> tuple[int, str, float]:
    """Step, rule and threshold, each in the address."""
    left, right = st.columns(2)
    first, step, key = int(run.steps["step"][0]), asked_step(run), f"step-{run.name}"
    st.session_state[key] = step
    left.number_input(
        f"Derive after step ({first:,} to {run.last_step:,})",
        first,
        run.last_step,
        step=run.stride,
        key=key,
        on_change=partial(keep, key, "step"),
    )
    rules = {OWN: "As the search derives it"} | {name: rule.title for name, rule in RULES.items()}
    asked = st.query_params.get("rule", OWN)
    rule = right.selectbox(
        "Rule",
        list(rules),
        list(rules).index(asked) if asked in rules else 0,
        format_func=lambda name: rules[name],
        key="rule",
        on_change=partial(keep, "rule", "rule"),
    )
    threshold = THRESHOLD
    if rule == "threshold":
        threshold = right.number_input("Least weight that stays", 0.0, 1.0, THRESHOLD, 0.05, key="main-threshold")
    return int(step), str(rule), threshold


def show_picture(genotype: Genotype) -> None:
    cell_picture(genotype, "shown")
    with st.expander("The same in words"):
        for sentence in in_sentences(genotype):
            st.text(sentence)
    empty = [
        f"node {n} of the {kind} cell"
        for kind, cell in genotype.cells.items()
        for n, genes in enumerate(cell.nodes)
        if not genes
    ]
    if empty:
        st.caption(f"Nothing reaches {', '.join(empty)}: such a cell cannot be trained as it is.")


def downloads(run: Recorded, genotype: Genotype, step: int, formats: Mapping[str, Format]) -> None:
    """A button per format that can be made here; a command for those that need torch."""
    reader = stream.feed(run.name).reader
    with st.container(horizontal=True, gap="small"):
        for name, format in formats.items():
            file = f"{run.name}-step{step}.{format.suffix}"
            try:
                made = partial(export, genotype, name, run.title, reader)
                data = made() if name in QUICK else made
            except BadInput as problem:
                st.button(format.title, disabled=True, key=f"download-{name}", help=escaped(str(problem)))
                continue
            st.download_button(
                format.title,
                data,
                file,
                format.media,
                on_click="ignore",
                icon=":material/download:",
                key=f"download-{name}",
                help=format.doc,
            )


def commands(run: Recorded, formats: Mapping[str, Format]) -> None:
    """Files of a network with its weights: made by a command, for this page does without torch."""
    if not formats:
        return
    st.markdown("#### A network of its own")
    if not stream.feed(run.name).reader.checkpoints():
        st.caption(
            "Files of weights are made from a checkpoint, and this run holds none. Train this cell makes a network."
        )
        return
    st.caption("These need torch, so a command makes them:")
    for name, format in formats.items():
        st.text(f"{format.title}: {format.doc}")
        command = ("python", "-m", "darts_core", "export", run.name, "--format", name, "--runs", str(ROOT))
        st.code(shlex.join(command), language=None, wrap_lines=True)


def why(run: Recorded, step: int, rule: str, known: Mapping[str, runs.Summary]) -> None:
    """Each kept edge: its history, its margins, since when, and what other seeds say."""
    if rule not in (OWN, "top2"):
        st.caption("This explains the cell of the paper's rule; the lab compares the others.")
    others = []
    for name in choose.siblings(run.name)[:SEEDS]:
        try:
            others.append(choose.read(name, known))
        except BadInput:
            continue  # a seed that cannot be read says nothing
    found = explain.reasons(run, step, others)
    st.text(explain.summary(found))
    if others:
        st.caption(f"Compared with {len(others)} other {'seed' if len(others) == 1 else 'seeds'} of the same settings.")
    else:
        st.caption("There are no other seeds of these settings. To make some: search --seeds 0-4, or change the seed.")
    st.caption("The dashed line: since then it is the choice. The solid line: the step that is explained.")
    reason_component(reason_cards(run, found), key=f"reasons-{run.name}")


def lab(run: Recorded, step: int) -> None:
    """The same alphas under every rule."""
    st.text(f"The alphas after step {step:,}, cut down to a cell in different ways.")
    threshold = st.number_input(
        "Threshold: least weight that stays", 0.0, 1.0, THRESHOLD, 0.05, key="lab-threshold", width=260
    )
    at = readings(run.space, run.steps[run.index(step)])
    reference = derive_by(run.space, at)
    for name, column in in_rows([*RULES, PERTURBATION], 2):
        with column.container(border=True):
            if name == PERTURBATION:
                by_perturbation(run, step, reference)
                continue
            rule = RULES[name]
            st.markdown(f"#### {rule.title}")
            st.caption(f"{rule.doc} Source: {rule.source}.")
            try:
                genotype = derive_by(run.space, at, name, threshold)
            except BadInput as problem:
                choose.trouble(problem)
                continue
            genes = [gene for cell in genotype.cells.values() for node in cell.nodes for gene in node]
            skips = sum(gene.op in SKIPS for gene in genes)
            word = "identity" if "recurrent" in genotype.cells else "skip"
            st.text(f"{len(genes)} edges, {skips} of them {word}. {against(reference, genotype, name)}")
            if not genes:
                st.caption("No operation weighs that much, so nothing is left: lower the threshold.")
                continue
            cell_picture(genotype, f"lab-{name}")


def by_perturbation(run: Recorded, step: int, reference: Genotype) -> None:
    """The rule that needs a supernet, asked of the last checkpoint until `step`."""
    ended = [event["epoch"] + 1 for event in run.events if event["type"] == "epoch" and event["step"] <= step]
    searched = run.method != EVALUATE and not catalogue()["strategies"].get(run.method, {}).get("baseline", True)
    reader = stream.feed(run.name).reader
    perturbation(reader, max(ended, default=0), searched, lambda cell: against(reference, cell, PERTURBATION))


def against(reference: Genotype, genotype: Genotype, name: str) -> str:
    """What a rule changes of the paper's cell, in words."""
    if name == "top2":
        return "The others are compared with this one."
    changes = cell_changes(reference, genotype)
    counts = {how: sum(change.how == how for change in changes) for how in ("added", "removed", "other")}
    said = [f"{count} {words}" for how, words in WORDS.items() if (count := counts[how])]
    return "The same cell as the paper's rule." if not said else f"Against the paper's: {', '.join(said)}."


WORDS = {"added": "added", "removed": "removed", "other": "with another operation"}


def cost(run: Recorded, genotype: Genotype) -> None:
    """Parameters and multiply-adds of the network of this cell, beside those of the supernet."""
    st.markdown("#### Size of the network")
    try:
        config = SearchConfig.from_dict(run.info["config"], run.name)
    except BadInput:
        config = None  # settings of another version; sizes cannot be told from them
    image = image_of(run.info["config"], run.events)
    parts = costs_of(run.space, config, image, search=False) if config and image else None
    whole = costs_of(run.space, config, image, search=True) if config and image else None
    if parts is None or whole is None:
        made = [event for event in run.events if event["type"] == "trained" and event["role"] == "derived"]
        if made:
            st.text(
                f"Trained from scratch, this search's cell makes a network of {made[-1]['parameters']:,} parameters."
            )
        st.caption("What each operation costs is not counted in this space, or not for these data.")
        return
    cell = parts.of({kind: one_hot(spec, genotype.cells[kind]) for kind, spec in run.space.cells.items()})
    shown = [("With this cell", cell), ("The supernet, all operations", whole.whole())]
    for column, (title, count) in zip(st.columns(2), shown, strict=True):
        column.metric(title, f"{count.params:,.0f} parameters", help="Learned numbers of the whole network")
        column.caption(f"{count.macs:,.0f} multiply-adds for one image")
    st.caption(f"{RULE} The network has the {config.cells if config else 0} cells and the channels of the search.")


def numbers(run: Recorded, genotype: Genotype, events: Sequence[Mapping[str, Any]]) -> None:
    """What the cell is worth and what cutting cost."""
    cost(run, genotype)
    read = tables.perplexities(events)  # of a network for text; others name images
    trained = read or tables.trained(events)
    gap = [
        ("Supernet", "supernet", "all operations mixed"),
        ("Cut at once", "pruned", "only the derived edges, same weights"),
        ("Trained again", "derived", "the derived cell, from scratch"),
        ("Random cells", "random", "of the same space, trained the same way"),
    ]
    shown = [(title, trained[role], about) for title, role, about in gap if role in trained]
    st.markdown("#### Discretisation gap")
    if not shown:
        st.caption("This run did not train its cell again, so what cutting cost is not known.")
    for column, (title, spread, about) in zip(st.columns(max(1, len(shown))), shown, strict=False):
        column.metric(title, f"{spread.mean:.2f}" if read else percent(spread.mean, 1), help=about)
        column.caption(about)
    if shown:
        what = "Perplexity on the test text, lower is better." if read else "Accuracy on test images where measured."
        st.caption(
            f"{what} From the first number to the second: what cutting all but the derived operations costs before any "
            "training. It is of the cell that the search ended with."
        )
    rows = []
    for kind, cell in genotype.cells.items():
        ops: dict[str, int] = {}
        for node in cell.nodes:
            for gene in node:
                ops[gene.op] = ops.get(gene.op, 0) + 1
        rows += [
            {"cell": KIND_TITLES.get(kind, kind), "operation": op, "edges": count} for op, count in sorted(ops.items())
        ]
    st.markdown("#### Operations")
    st.dataframe(rows, hide_index=True, key="operations", alt="Operations of the derived cell")


def code_and_data(run: Recorded, genotype: Genotype) -> None:
    st.markdown("#### DARTS text")
    try:
        st.code(genotype.text(), language="python", wrap_lines=True)
    except BadInput as problem:
        st.caption(escaped(str(problem)))
    st.markdown("#### JSON")
    st.code(genotype.dumps(), language="json", wrap_lines=True)
    commands(run, {name: format for name, format in EXPORTS.items() if format.write is None})


st.subheader("Cells", anchor=False)
known = {run.name: run for run in choose.known()}
current = choose.one(list(known.values()))
if current is None:
    choose.nothing_yet()
    st.stop()
try:
    run = choose.read(current, known, CLOSELY)
    if not len(run.steps):
        st.info("No step was recorded, so there is no cell yet.", icon=":material/info:")
        st.stop()
    fixed = run.method == EVALUATE
    step, rule, threshold = (run.last_step, OWN, THRESHOLD) if fixed else controls(run)
    genotype = cell_at(run, step, rule, threshold)
except BadInput as problem:
    choose.trouble(problem)
    st.stop()
own = rule == OWN and step == run.last_step and run.result() is not None
st.caption(
    "The cell that this run trains. It does not change, so there is nothing to derive."
    if fixed
    else "The cell that the search ended with."
    if own
    else f"Derived after step {step:,} of {run.last_step:,} by: {RULES['top2' if rule == OWN else rule].title}."
)
if ending.trains(run.info) and ending.train(current, run.info, genotype.to_json()):
    st.switch_page("app_pages/live.py", query_params={"run": st.query_params["run"]})
made_here = {name: format for name, format in EXPORTS.items() if format.write is not None}
downloads(run, genotype, step, made_here)
titles = [title for title in TABS if not (fixed and title in OF_SEARCHES)]
tabs = dict(zip(titles, st.tabs(titles, key="tabs-fixed" if fixed else "tabs", on_change="rerun"), strict=True))
show: dict[str, Any] = {
    "Picture": partial(show_picture, genotype),
    "Why": partial(why, run, step, rule, known),
    "Derivation lab": partial(lab, run, step),
    "Numbers": partial(numbers, run, genotype, run.events),
    "Code and data": partial(code_and_data, run, genotype),
}
for title, tab in tabs.items():
    if tab.open:
        with tab:
            try:
                show[title]()
            except BadInput as problem:
                choose.trouble(problem)
