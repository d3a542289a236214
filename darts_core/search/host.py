"""What a search and the place it runs in say to one another: its host, its state handed out, and orders heard."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

from darts_core.config import SearchConfig
from darts_core.errors import BadInput
from darts_core.events import Applied, Event, Order, Step
from darts_core.search.replay import Unread
from darts_core.search.state import State
from darts_core.tasks import Task

if TYPE_CHECKING:
    from darts_core.search.bilevel import Search


@dataclass(frozen=True)
class Snapshot:
    """Not for the record: the loop hands its state to whoever drives it. Read it before asking for the next event."""

    state: State
    reason: str  # "start", "epoch", "order", "stop" or "interrupt"


Work = Callable[["Search"], Any]  # what a search may have done with others: its `launch`, `validated` or `hessian`


@dataclass(frozen=True)
class Waits:
    """Not for the record: the search stands still until it is asked again, so that several can take turns."""

    search: Search | None  # for work that another shall do; None: it is paused
    work: Work | None = None


def no_checkpoints(epoch: int) -> State:
    """What a host says that keeps no states: the method cannot go back there."""
    fix = "run it from the command line, or give the host a recall"
    raise BadInput("search", "stop", f"the method goes back to epoch {epoch}, and no states are kept here", fix)


@dataclass(frozen=True)
class Host:
    """What a search may ask of the place it runs in; `Host()` is a notebook cell."""

    start: State | None = None  # resume or branch from here
    orders: Callable[[int], Iterable[Order]] = lambda step: ()  # steering, asked for before each step; may wait (pause)
    waiting: Callable[[], bool] = lambda: False  # will `orders` wait, or hand something out? Asked right before it
    recall: Callable[[int], State] = no_checkpoints  # the state after so many finished epochs, for methods that go back
    done: Callable[[Search, Work], Generator[Waits, None, Any]] = lambda search, work: at_once(search, work)


class Launched(NamedTuple):
    """A step that a GPU may still be computing."""

    step: int
    epoch: int
    stage: int
    flags: int
    rates: dict[str, float]
    numbers: Unread


def at_once(search: Search, work: Work) -> Generator[Waits, None, Any]:
    """The work of a search that waits for nobody."""
    yield from ()
    return work(search)


Strategy = Callable[[Task, SearchConfig, Host], Iterator[Event | Snapshot | Waits]]


class Steered(Protocol):
    """What hears orders between two steps."""

    host: Host
    step: int

    def obey(self, order: Order) -> Applied: ...

    def state(self) -> State: ...


def heard(
    steered: Steered, finished: Callable[[], Iterator[Step]] = lambda: iter(())
) -> Generator[Event | Snapshot | Waits, None, str]:
    """Carry out the orders that came since the last step.

    Args:
        finished: the records of steps that are launched and not told of yet: they are told first, for an order takes
            effect behind them.

    Returns:
        "interrupt": leave at once, the state is handed out; "stop": end with a result; empty: go on.
    """
    if steered.host.waiting():
        yield from finished()
    for order in steered.host.orders(steered.step):
        yield from finished()
        if order.kind == "wait":
            yield Waits(None)
            continue
        if order.kind == "interrupt":
            yield Snapshot(steered.state(), "interrupt")
            return "interrupt"
        yield steered.obey(order)
        if order.kind == "checkpoint":
            yield Snapshot(steered.state(), "order")
        if order.kind == "stop":
            yield Snapshot(steered.state(), "stop")
            return "stop"
    return ""
