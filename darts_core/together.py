"""Several searches side by side in one process, a run folder each: `search --seeds 0-4`.

They take their steps in turn, so that every page sees all of them move. Where their supernets have a form for it
(`nets/lanes.py`), one pass computes a step of all. Each run keeps what a run alone has: orders, pauses, checkpoints,
resume and repeat. They share the name of a group in `run.json`, and that is all they know of each other.

What a lane computes is what its search alone computes: to rounding in the fast and the compiled form, where one pass
serves all lanes, to the last bit in the reference form.
"""

from __future__ import annotations

import time
from collections.abc import Generator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from darts_core.config import SearchConfig
from darts_core.desk import POLL, Say, Signals
from darts_core.drive import Drive
from darts_core.events import Phase
from darts_core.runs import RunReader, RunWriter, list_runs

if TYPE_CHECKING:
    from darts_core.search.joint import Lanes


def drive_together(writers: Sequence[RunWriter], configs: Sequence[SearchConfig], says: Sequence[Say]) -> list[int]:
    """Run or go on with the searches in open run folders, each to its own end. Closes the folders.

    Ctrl-C stops all of them at their next step, with a checkpoint each. One that fails leaves the others alone.

    Returns:
        The exit code of each, as `drive` gives it.
    """
    signals, lanes = Signals(), _Late()
    drives = [
        Drive(writer, config, signals, say, {}, lanes.done)
        for writer, config, say in zip(writers, configs, says, strict=True)
    ]
    with signals.watched():
        under_way = {drive.writer.name: iter(drive) for drive in drives}
        said = len(drives) < 2
        while under_way:
            try:
                waits = {name: next(course, _END) for name, course in under_way.items()}
                under_way = {name: course for name, course in under_way.items() if waits[name] is not _END}
                standing = [w for w in waits.values() if w is not None and w is not _END]
                ready = [w for w in standing if w.search is not None]
                if ready and not said:
                    said = True
                    _tell_how(drives, lanes.how([w.search for w in ready]))
                lanes.move(ready)
                if standing and not ready and len(standing) == len(under_way):
                    time.sleep(POLL)  # all of them are paused
            except KeyboardInterrupt:  # a second Ctrl-C that came between two runs
                signals.wish = signals.wish or "Ctrl-C"
    return [drive.code for drive in drives]


def _tell_how(drives: Sequence[Drive], how: str) -> None:
    """Recorded in every run, and said once."""
    for drive in drives:
        if drive.writer.name in drive.signals.searching:
            drive.writer.append(Phase("search", how))
    drives[0].say(Phase("search", how))


_END: Any = object()


class _Late:
    """`search.joint.Lanes`, made when the first search asks: torch is not imported before there is a run folder."""

    def __init__(self) -> None:
        self.lanes: Lanes | None = None

    def done(self, search: Any, work: Any) -> Generator[Any, None, Any]:
        if self.lanes is None:
            from darts_core.search.joint import Lanes

            self.lanes = Lanes()
        return self.lanes.done(search, work)

    def move(self, ready: Sequence[Any]) -> None:
        if self.lanes is not None:
            self.lanes.move(ready)

    def how(self, ready: Sequence[Any]) -> str:
        """A sentence on how the searches are computed."""
        from darts_core.search.joint import why_apart

        reason = next((found for found in map(why_apart, ready) if found), "")
        if reason:
            return f"{len(ready)} searches side by side, in each step one after another: {reason}"
        return f"{len(ready)} searches side by side, one pass computes a step of all"


# Groups --------------------------------------------------------------------------------------------------------------


def members(root: Path, group: str) -> list[RunReader]:
    """The runs of a group, by seed."""
    found = [RunReader(root, row.name) for row in list_runs(root) if row.state != "corrupt"]
    return sorted(
        (run for run in found if run.info.get("group") == group), key=lambda run: (run.info["seed"], run.name)
    )


def lane_config(config: SearchConfig, seed: int) -> SearchConfig:
    """The settings of one lane: a single thread, so that its search alone computes the same numbers."""
    return config.with_(seed=seed, threads=1)
