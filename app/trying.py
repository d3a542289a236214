"""The rule that needs a supernet, in the derivation lab: started as a process, watched, and its cell shown when it is
there. What it found is kept beside the runs, so it is made once."""

from __future__ import annotations

import re
from collections.abc import Callable

import streamlit as st

from app import process
from app.cell_picture import cell_picture
from app.choose import trouble
from app.words import escaped
from darts_core import runs
from darts_core.errors import BadInput
from darts_core.genotype import Genotype
from darts_core.runs import derived

TITLE = "Perturbation (DARTS-PT)"
DOC = (
    "Each operation is taken out of the supernet in turn; the one that is missed most stays. It asks what operations "
    "are worth instead of what they weigh, so it is computed from a checkpoint. Source: DARTS-PT, section 4; the "
    "weights are tuned for 5 steps after each choice, where the paper tunes for whole epochs."
)
PROGRESS = re.compile(r"(\d{1,5}) of (\d{1,5}) choices")

Against = Callable[[Genotype], str]


def epochs_of(reader: runs.RunReader) -> list[int]:
    """Finished epochs of the checkpoints that there are, after at least one."""
    return sorted({event.epoch for event in reader.checkpoints() if event.file.startswith("e") and event.epoch})


def perturbation(reader: runs.RunReader, epoch: int | None, searched: bool, against: Against) -> None:
    """The card of the rule: a button, its progress, or the cell that it found.

    Args:
        epoch: finished epochs at the step that the lab shows; the newest checkpoint until then is read.
        searched: has the run a supernet?
        against: what the found cell changes of the one of the paper's rule, in words.
    """
    st.markdown(f"#### {TITLE}")
    st.caption(DOC)
    if not searched:
        st.caption("This run has no supernet to try things on.")
        return
    there = [known for known in epochs_of(reader) if epoch is None or known <= epoch]
    if not there:
        st.caption("There is no checkpoint at or before this step, so there is no supernet to try things on.")
        return
    at = there[-1]
    try:
        found = derived.read(reader, at)
    except BadInput as problem:
        trouble(problem)
        return
    if found is None:
        ask(reader, at)
        return
    genes = [gene for cell in found.genotype.cells.values() for node in cell.nodes for gene in node]
    skips = sum(gene.op == "skip_connect" for gene in genes)
    st.text(f"{len(genes)} edges, {skips} of them skip. {against(found.genotype)}")
    cell_picture(found.genotype, "lab-perturbation")
    st.caption(
        f"From the checkpoint after {found.epoch} epochs (step {found.step:,}). The supernet's accuracy on the images "
        f"of the alphas: {100 * found.accuracy:.1f} % whole, {100 * found.after:.1f} % with this cell alone."
    )
    with st.expander("What was missed how much"):
        st.dataframe(
            [
                {
                    "edge": decision.edge,
                    "kept": decision.kept or "(the edge goes)",
                    "accuracy without it": decision.without,
                }
                for decision in found.decisions
            ],
            hide_index=True,
            key="decisions",
            alt="Choices of the perturbation rule in their order",
            column_config={"accuracy without it": st.column_config.NumberColumn(format="percent")},
        )


@st.fragment(run_every=1.0)
def ask(reader: runs.RunReader, epoch: int) -> None:
    """The button, and the progress of what it started."""
    name = reader.name
    launch = process.trying_out(name, epoch)
    if launch is not None and launch.process.poll() == 0 and derived.read(reader, epoch) is not None:
        st.rerun()
    if launch is not None and launch.process.poll() is None:
        made = PROGRESS.findall(launch.printed(2000))
        done, total = map(int, made[-1]) if made else (0, 0)
        words = f"{done} of {total} choices" if made else "Loading the supernet"
        st.progress(done / total if total else 0.0, f"{words}, {launch.seconds:.0f} s")
        st.caption("It goes on without this page; come back for its cell.")
        return
    refusal = launch.refusal() if launch is not None else None
    if refusal:
        st.error(escaped(refusal), icon=":material/error:")
    if st.button("Try it out", icon=":material/science:", key="try-out"):
        try:
            process.try_out(name, runs.runs_root(), epoch)
        except BadInput as problem:
            trouble(problem)
        else:
            st.rerun(scope="fragment")
    st.caption(
        f"Reads the checkpoint after {epoch} epochs and changes nothing of the run. Small searches take a minute."
    )
