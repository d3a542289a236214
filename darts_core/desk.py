"""What comes from outside into a search that runs: orders, pauses, Ctrl-C. No torch."""

from __future__ import annotations

import signal
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from types import FrameType
from typing import Any

from darts_core.events import Applied, Line, Order, Step
from darts_core.runs import RunWriter

Say = Callable[[Step | Line], None]
POLL = 0.05  # seconds between looks for orders while paused
GLANCE = 0.25  # seconds between looks for orders while cells are trained


class Signals:
    """Ctrl-C and termination as a wish that the loop grants at the next step boundary."""

    def __init__(self) -> None:
        self.wish = ""
        self.searching: set[str] = set()  # runs with something to save at their next boundary; none: leave at once

    def handler(self, number: int, frame: FrameType | None) -> None:
        if self.wish or not self.searching:
            raise KeyboardInterrupt
        self.wish = {signal.SIGINT: "Ctrl-C"}.get(number, signal.Signals(number).name)  # type: ignore[call-overload]

    @contextmanager
    def watched(self) -> Iterator[Signals]:
        """Handlers in place inside the block (only the main thread may set them)."""
        names = [n for n in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, n)]
        before: dict[str, Any] = {}
        try:
            for name in names:
                before[name] = signal.signal(getattr(signal, name), self.handler)
        except ValueError:  # not the main thread: whoever runs it there stops it by an order
            pass
        try:
            yield self
        finally:
            for name, old in before.items():
                signal.signal(getattr(signal, name), old)


class Skipped(Exception):
    """Nobody waits any more for what the found cell is worth."""


class Desk:
    """Where orders come in: recorded ones of a replay first, then new files. Pause and single step are handled here.

    `alone`: a pause may wait here; beside other searches it is the strategy that waits, and lets them go on.
    """

    def __init__(
        self, writer: RunWriter, signals: Signals, recorded: Mapping[int, list[Order]], say: Say, alone: bool = True
    ) -> None:
        self.writer, self.signals, self.say, self.alone = writer, signals, say, alone
        self.recorded = dict(recorded)
        self.paused = False
        self.open: list[Order] = []  # given to the strategy, to be acknowledged by its Applied event
        self.found: list[Order] | None = None  # read by `waiting`, not handed out yet
        self.glanced = 0.0  # when `glance` last looked

    def waiting(self) -> bool:
        """Will `orders` wait, or hand something out? Asked right before it, so that finished steps are shown first."""
        self.found = list(self.writer.orders())
        return bool(self.found or self.paused or self.signals.wish)

    def orders(self, step: int) -> Iterator[Order]:
        """What the strategy is to obey before its next step. Waits while the run is paused."""
        yield from self.recorded.pop(step, [])
        while True:
            single = False
            found, self.found = self.writer.orders() if self.found is None else self.found, None
            for order in found:
                if order.kind in ("pause", "resume", "step"):
                    self.paused = order.kind != "resume"
                    single |= order.kind == "step"
                    self.acknowledge(order, step)
                else:
                    self.open.append(order)
                    yield order
            if self.signals.wish:
                yield Order("signal", "interrupt")
                return
            if not self.paused or single or self.writer.replaying:
                return
            if self.alone:
                time.sleep(POLL)
            else:
                yield Order("pause", "wait")

    def glance(self) -> None:
        """Look for orders after the search, while cells are trained: only a stop can be obeyed then.

        Raises:
            Skipped: it was asked for.
        """
        if (now := time.monotonic()) - self.glanced < GLANCE:
            return
        self.glanced = now
        for order in self.writer.orders():
            stops = order.kind == "stop"
            self.acknowledge(order, self.writer.step, "" if stops else "the search is over; its cell is being trained")
            if stops:
                raise Skipped

    def acknowledge(self, order: Order, step: int, refusal: str = "") -> None:
        """Answer an order, and let its file go. `refusal`: why it is not carried out; empty: it is."""
        applied = Applied(order.id, step, order.kind, order.name, order.value, not refusal, refusal)
        self.writer.append(applied)
        self.say(applied)
        self.writer.done(order)

    def settled(self, applied: Applied) -> None:
        """The strategy answered: the order's file may go."""
        for order in [o for o in self.open if o.id == applied.id]:
            self.open.remove(order)
            self.writer.done(order)
