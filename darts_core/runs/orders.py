"""Orders travel as files: one each, written aside and renamed into `commands/`, taken in name order, then deleted."""

from __future__ import annotations

import os
import re
import time
from collections.abc import Iterable
from pathlib import Path

from darts_core import io
from darts_core.errors import BadInput
from darts_core.events import Order, Scalar, new_order, order_json, parse_order
from darts_core.runs.reading import existing
from darts_core.runs.records import COMMANDS

NAME = re.compile(r"[0-9]{1,20}-[0-9a-f]{8,32}\.json")  # time in nanoseconds, id
LIMIT = 4096  # bytes of an order
WAITING = 1000  # orders
THROUGH = ("pause", "resume", "step")  # orders that change nothing of what is computed


def send_order(root: str | Path, run: str, kind: str, /, *, name: str | None = None, value: Scalar = None) -> str:
    """Leaves an order for a run (`name` and `value` as in `events.Order`) and returns the order's id.

    The run answers with an `Applied` event of this id. BadInput: no such run, no such order, a folder that is not ours.
    """
    folder = existing(Path(root), run) / COMMANDS
    order = new_order(kind, name, value)
    io.own_folder(folder)
    with io.told(folder):
        waiting = len(os.listdir(folder))
    if waiting >= WAITING:
        raise BadInput(f"run {run}", "", f"{waiting} orders are waiting already", "resume the run, which answers them")
    io.atomic_write(folder / f"{time.time_ns():020d}-{order.id}.json", io.dumps(order_json(order)).encode())
    return order.id


class Inbox:
    """The orders of one run, as its writer sees them. Each comes out once."""

    def __init__(self, folder: Path, answered: Iterable[str]):
        """`answered`: ids that have an `Applied` event already; their files are only deleted."""
        self._folder = folder
        self._answered = set(answered)
        self._seen: dict[str, str] = {}  # file name -> order id, of orders that are out or cannot be deleted

    def take(self, replaying: bool) -> tuple[list[Order], list[tuple[str, str]]]:
        """New orders by file name, and (id, reason) of files that are none; in a replay only those in `THROUGH`."""
        orders: list[Order] = []
        refused: list[tuple[str, str]] = []
        for file in self._files():
            try:
                order = parse_order(io.loads(io.read_bytes(self._folder / file, LIMIT), file), file)
            except BadInput as error:
                name = file.removesuffix(".json")
                refused.append((name, "; ".join(part for part in (error.what, error.fix) if part)))
                self._drop(file, name)
                continue
            if order.id in self._answered or order.id in self._seen.values():
                self._drop(file, order.id)
            elif not replaying or order.kind in THROUGH:
                self._seen[file] = order.id
                orders.append(order)
        return orders, refused

    def _files(self) -> list[str]:
        try:
            names = os.listdir(self._folder)
        except OSError:  # the folder was moved away: no orders then
            return []
        return sorted(name for name in names if name not in self._seen and NAME.fullmatch(name))[:WAITING]

    def done(self, order: Order) -> None:
        """The order is answered: its file goes."""
        for file in [file for file, id in self._seen.items() if id == order.id]:
            self._drop(file, order.id)

    def _drop(self, file: str, id: str) -> None:
        self._answered.add(id)
        try:
            os.unlink(self._folder / file)
            self._seen.pop(file, None)
        except OSError:  # a folder of that name, or no permission: never look at it again
            self._seen[file] = id
