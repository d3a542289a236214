"""What may be tried against the collapse toward skip connections: branches with a setting, a method or edges changed.

The list is made from a run's own settings and from the registry of methods, so that it grows with them. `known` says
what was measured, and where nothing was measured, that; what was measured comes first.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from darts_core.config import Scalar, catalogue, options_of
from darts_core.derive import skip_of
from darts_core.legal import derivable, edge_name
from darts_core.space import SearchSpace

MOST_SKIPS = 2  # of a normal cell: the M of P-DARTS (Chen et al. 2019)
SKIP_DROPOUT = 0.5

FROM_THE_START = "From the first epoch on: "  # the recorded comparison; nobody measured a change half-way
ELSEWHERE: Mapping[str, str] = {  # data/comparisons/nb3-noise, 5 seeds; accuracy of the cells
    "max-w": "its cells were worse than those of DARTS: 53.6 % against 84.9",
    "fair-darts": "its cells had 95.5 %, those of DARTS 84.9, which five seeds do not tell apart",
    "pc-darts": "its cells had 95.3 %, those of DARTS 84.9, which five seeds do not tell apart",
}
NOT_MEASURED = "Not measured against this collapse: see for yourself."


@dataclass(frozen=True)
class Cure:
    """One thing to change in a branch: `settings` by name, and `orders` (kind, edge, operation) at its first step."""

    name: str
    title: str
    about: str
    known: str  # what was measured, in words
    settings: Mapping[str, Scalar]
    orders: tuple[tuple[str, str, str], ...] = ()
    fresh: bool = False  # it cannot take over weights and alphas: a search of its own, with these settings


def cures(config: Mapping[str, Any], space: SearchSpace, mixes: Mapping[str, np.ndarray]) -> list[Cure]:
    """All that fit a run with these settings; `mixes` (kind -> (edges, ops)) where the branch would begin."""
    found = []
    if config.get("label_noise"):
        found.append(
            Cure(
                "clean",
                "Clean labels",
                "No label is replaced any more.",
                "From the first epoch on, 69 of 70 searches with clean labels did not collapse.",
                {"label_noise": 0.0},
            )
        )
    if bans := fewer_skips(space, mixes):
        found.append(
            Cure(
                "fewer-skips",
                f"At most {MOST_SKIPS} skips",
                f"Skip is banned on every edge but the {MOST_SKIPS} where it is strongest, as P-DARTS limits it.",
                "It holds by construction: a derived cell cannot have more. What the cell is then worth is not known.",
                {},
                bans,
            )
        )
    if "skip_dropout" in options_of(str(config.get("strategy", "darts"))) and not config.get("skip_dropout"):
        found.append(
            Cure(
                "skip-dropout",
                "Skip dropout",
                f"In weight steps, skip connections are dropped for {SKIP_DROPOUT:.0%} of the images (P-DARTS).",
                NOT_MEASURED,
                {"skip_dropout": SKIP_DROPOUT},
            )
        )
    strategies = catalogue()["strategies"]
    now = strategies.get(str(config.get("strategy")), {"plain": False})
    for name, entry in strategies.items():
        if not entry["baseline"] and name not in (config.get("strategy"), "darts"):
            fresh = not (entry["plain"] and now["plain"])
            title = (entry.get("card") or {}).get("title", name)
            about = f"{entry['doc']} {'It starts from the beginning, for its network is another one.' if fresh else ''}"
            found.append(
                Cure(name, f"Another method: {title}", about.strip(), known(name), {"strategy": name}, (), fresh)
            )
    return sorted(found, key=lambda cure: cure.known == NOT_MEASURED)


def known(method: str) -> str:
    """What the recorded comparison says of a method (its card), in a sentence or two."""
    told = (catalogue()["strategies"][method].get("card") or {}).get("measured") or []
    if not told:
        return NOT_MEASURED
    more = f" In a second small space (nb3) {ELSEWHERE[method]}." if method in ELSEWHERE else ""
    return f"{FROM_THE_START}{'; '.join(told)}.{more}"


def fewer_skips(space: SearchSpace, mixes: Mapping[str, np.ndarray]) -> tuple[tuple[str, str, str], ...]:
    """Bans of skip on the edges of the normal cell but for the `MOST_SKIPS` where it weighs most."""
    kind = "normal" if "normal" in space.cells else next(iter(space.cells))
    cell = space.cells[kind]
    skip = skip_of(cell)
    if skip is None:
        return ()
    column = cell.ops.index(skip)
    may = cell.legal_array() & derivable(cell)
    edges = [e for e in range(len(cell.edges)) if may[e, column] and may[e].sum() > 1]
    weakest = sorted(edges, key=lambda e: -float(mixes[kind][e, column]))[MOST_SKIPS:]
    return tuple(("ban", edge_name(kind, cell.edges[e]), skip) for e in sorted(weakest))
