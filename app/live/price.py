"""What a search would cost here, before it starts: timed in a process of its own, scaled while settings change."""

from __future__ import annotations

import json
import threading
from typing import Any

import streamlit as st

from app import process
from app.words import about, clock, escaped
from darts_core.config import SearchConfig
from darts_core.errors import BadInput
from darts_core.estimate import Estimate, Measured, estimate, key_of

_guard = threading.Lock()
_known: dict[tuple[Any, ...], list[Measured]] = {}  # by what can be scaled into one another, newest last
_running: dict[tuple[Any, ...], process.Launch] = {}
_refused: dict[tuple[Any, ...], str] = {}
KEPT = 8  # calibrations of one kind


def calibrate(config: SearchConfig) -> None:
    """Begins to time these settings, unless that is going on."""
    with _guard:
        if key_of(config) not in _running:
            _running[key_of(config)] = process.calibrate(config.to_dict())


def collect() -> None:
    """Takes what finished calibrations have printed."""
    with _guard:
        for key, launch in list(_running.items()):
            if launch.process.poll() is None:
                continue
            del _running[key]
            try:
                found = Measured.from_json(json.loads(launch.printed().strip().splitlines()[-1]))
            except (BadInput, ValueError, IndexError):
                _refused[key] = launch.refusal() or "the calibration ended without a word"
                continue
            _known[key] = [*_known.get(key, []), found][-KEPT:]


def best(config: SearchConfig) -> Estimate | None:
    """From a calibration of just these settings where there is one, else scaled from the newest."""
    found = [estimate(config, measured) for measured in reversed(_known.get(key_of(config), []))]
    known = [each for each in found if each is not None]
    return next((each for each in known if not each.scaled), known[0] if known else None)


def price(config: SearchConfig) -> None:
    """Seconds, and memory, of a search with these settings; a warning before what will not fit."""
    collect()
    key = key_of(config)
    if key not in _known and key not in _refused and key not in _running:
        try:
            calibrate(config)
        except BadInput as problem:
            st.caption(escaped(str(problem)))
            return
    st.fragment(_line, run_every=1.0 if key in _running else None)(config)


def _line(config: SearchConfig) -> None:
    was = key_of(config) in _running
    collect()
    key = key_of(config)
    if was and key not in _running:
        st.rerun(scope="app")
    found = best(config)
    if found is None and key in _running:
        st.caption(
            f"Timing a few steps with these settings, {_running[key].seconds:.0f} s", help="Of the real network."
        )
        return
    if found is None:
        st.caption(f"No estimate: {escaped(_refused.get(key, 'these settings cannot be scaled'))}")
        return
    st.caption(words(found))
    if not found.fits:
        need, free = found.memory / 1e9, found.available / 1e9
        st.warning(
            f"This needs about {need:.1f} GB of memory and {free:.1f} GB are free: it will probably not fit. Fewer "
            "channels, cells or images per step need less.", icon=":material/memory:",
        )  # fmt: skip
    if (
        found.scaled
        and key not in _running
        and st.button("Time these settings", type="tertiary", key=f"time-{hash(key)}")
    ):
        calibrate(config)
        st.rerun(scope="app")


def words(found: Estimate) -> str:
    """ "About 62 s here: 3.1 s an epoch, 12 ms a step, 640 MB of memory; scaled from other settings"."""
    step = f"{found.step * 1000:.0f} ms" if found.step < 1 else f"{found.step:.1f} s"
    epoch = f"{found.epoch:.1f} s" if found.epoch < 100 else clock(found.epoch)
    parts = [f"{about(found.total).capitalize()} here: {epoch} an epoch, {step} a step"]
    if found.memory:
        large = found.memory >= 1e10
        parts.append(f"{found.memory / (1e9 if large else 1e6):,.0f} {'GB' if large else 'MB'} of memory")
    how = "scaled from other settings that were timed" if found.scaled else "timed with these settings"
    return f"{', '.join(parts)}; {how}."
