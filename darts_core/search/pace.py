"""No faster than people want to watch. Nothing but time depends on it."""

from __future__ import annotations

import time

LONGEST_WAIT = 1.0  # seconds: orders are heard at least this often, however slow the pace


class Pace:
    """Keeps the steps of one search or training apart."""

    def __init__(self) -> None:
        self.due = 0.0  # earliest time of the next step (time.monotonic)

    def keep(self, steps: float) -> None:
        """Wait where the next step would come sooner than `steps` a second allow; 0 means no wait."""
        if steps > 0:
            now = time.monotonic()
            time.sleep(min(max(0.0, self.due - now), LONGEST_WAIT))
            self.due = max(now, self.due) + 1 / steps
