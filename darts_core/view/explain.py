"""Why a derived cell is what it is: for each kept edge its margins, since when it is kept, and what other seeds say.

All of it is read from the record and from the paper's rule; nothing here claims a cause.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from darts_core.view.recorded import Recorded


@dataclass(frozen=True)
class Reason:
    """One kept edge of a derived cell. Weights and margins are from 0 to 1, steps are those of the record."""

    kind: str
    edge: int  # index in the cell
    source: str
    target: str
    op: str
    weight: float
    second: str  # the operation that comes next on this edge; "" where there is none
    op_margin: float  # weight minus that of `second`
    rival: str  # the state whose edge into the same node comes next; "" where the rule keeps all of them
    edge_margin: float  # weight minus the best weight on that edge
    since: int  # first step of the unbroken time until now in which the edge was kept with this operation
    exact: bool  # every step was looked at, not one in several
    changes: int  # how often, until now, the edge was dropped, taken up, or given another operation
    first: int  # first recorded step
    now: int  # the step that is explained
    same_op: int = 0  # of the other seeds: how many keep the edge with this operation
    same_edge: int = 0  # ... keep the edge at all
    seeds: int = 0  # how many other seeds there are

    @property
    def near(self) -> bool:
        """Is the next operation, or the next edge, less than three points behind?"""
        return bool((self.second and self.op_margin < NEAR) or (self.rival and self.edge_margin < NEAR))

    def sentences(self) -> list[str]:
        """For people who do not read code."""
        told = [f"{self.op} carries {_percent(self.weight)} of this edge"]
        if self.second:
            told[0] += f", {_points(self.op_margin)} ahead of {self.second}"
        told[0] += f"{'; a near tie' if self.second and self.op_margin < NEAR else ''}."
        if self.rival:
            near = " That is a near tie: a little more training could swap them." if self.edge_margin < NEAR else ""
            told.append(
                f"Not every edge into {self.target} is kept. The strongest of those dropped, from {self.rival}, "
                f"is {_points(self.edge_margin)} behind.{near}"
            )
        about = "" if self.exact else "about "
        if self.since <= self.first:
            told.append("It has been the choice since the first recorded step.")
        else:
            settled = (self.now - self.since) / max(1, self.now - self.first)
            late = " That is late: the choice is young." if settled < 0.1 else ""
            times = f" Before, the choice changed {_times(self.changes - 1)}." if self.changes > 1 else ""
            told.append(f"It has been the choice since {about}step {self.since:,} of {self.now:,}.{late}{times}")
        if self.seeds:
            other = "the one other seed" if self.seeds == 1 else f"{self.seeds} other seeds"
            many = self.same_edge or "none"
            keeps = f"Of {other}, {many} {'keep' if self.same_edge > 1 else 'keeps'} this edge"
            told.append(
                f"{keeps}, {self.same_op or 'none'} with the same operation." if self.same_edge else f"{keeps}."
            )
        return told


NEAR = 0.03  # margins below this are called a near tie


def reasons(run: Recorded, step: int | None = None, others: Sequence[Recorded] = ()) -> list[Reason]:
    """The kept edges of the cell that the paper's rule derives after `step` (None: the last one).

    Args:
        others: runs of the same settings with other seeds; those of another space are left out.
    """
    if not len(run.steps):
        return []
    at = run.index(step)
    others = [other for other in others if len(other.steps) and other.space == run.space]
    found = []
    for kind, cell in run.space.cells.items():
        mix = np.asarray(run.steps[f"mix.{kind}"][at], dtype=float)
        best, kept = run.choices[kind]
        for edge in np.flatnonzero(kept[at]):
            op = int(best[at, edge])
            ranked = [
                int(o) for o in np.argsort(-mix[edge]) if o != op and cell.ops[o] != "none" and cell.legal[edge][o]
            ]
            into = [e for e in cell.edges_into(cell.edges[edge][1] - cell.inputs) if not kept[at, e]]
            rival = max(into, key=lambda e: mix[e, best[at, e]], default=None)
            same = kept[: at + 1, edge] & (best[: at + 1, edge] == op)
            broken = np.flatnonzero(~same)
            since = int(broken[-1]) + 1 if len(broken) else 0
            choice = np.where(kept[: at + 1, edge], best[: at + 1, edge], -1)
            finals = [(o.choices[kind][0][-1, edge], o.choices[kind][1][-1, edge]) for o in others]
            found.append(
                Reason(
                    kind=kind,
                    edge=int(edge),
                    source=cell.state_name(cell.edges[edge][0]),
                    target=cell.state_name(cell.edges[edge][1]),
                    op=cell.ops[op],
                    weight=float(mix[edge, op]),
                    second=cell.ops[ranked[0]] if ranked else "",
                    op_margin=float(mix[edge, op] - mix[edge, ranked[0]]) if ranked else 0.0,
                    rival=cell.state_name(cell.edges[rival][0]) if rival is not None else "",
                    edge_margin=float(mix[edge, op] - mix[rival, best[at, rival]]) if rival is not None else 0.0,
                    since=int(run.steps["step"][since]),
                    exact=run.stride == 1,
                    changes=int((np.diff(choice) != 0).sum()),
                    first=int(run.steps["step"][0]),
                    now=int(run.steps["step"][at]),
                    same_op=sum(bool(keeps) and b == op for b, keeps in finals),
                    same_edge=sum(bool(keeps) for _, keeps in finals),
                    seeds=len(others),
                )
            )
    return found


def summary(found: Sequence[Reason]) -> str:
    """The whole cell in two sentences."""
    if not found:
        return "There is no derived cell yet."
    ties = [reason for reason in found if reason.near]
    latest = max(found, key=lambda reason: reason.since)
    said = f"The cell has {len(found)} edges; the last of them was settled at step {latest.since:,} of {latest.now:,}. "
    if not ties:
        return said + "None of the choices is a near tie."
    which = ", ".join(f"{reason.source} to {reason.target}" for reason in ties[:4])
    are = "is a near tie" if len(ties) == 1 else "are near ties"
    return said + f"{len(ties)} {are} ({which}): read those with care."


def _percent(share: float) -> str:
    return f"{100 * share:.0f} %"


def _points(share: float) -> str:
    return f"{100 * share:.1f} points" if share < 0.1 else f"{100 * share:.0f} points"


def _times(count: int) -> str:
    return {1: "once", 2: "twice"}.get(count, f"{count} times")
