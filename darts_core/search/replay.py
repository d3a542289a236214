"""A whole step as one call: captured once as a CUDA graph, then replayed with new inputs.

A step of the paper's size is thousands of small kernels, and Python cannot launch them as fast as a GPU runs them. A
graph can hold a step if all that changes from one step to the next lies in tensors: batches, learning rates, weights,
alphas. What looks at the time (a penalty that grows with the epoch) or draws random numbers cannot be held. `Replay`
finds out by trying the step once while it watches; then, and on other devices, the very same function is called as it
is, with the very same inputs.

Source: PyTorch's notes on CUDA graphs ("whole-network capture"): warm-up on a side stream, static inputs, one pool of
memory for graphs that never run at once.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from darts_core.errors import one_line
from darts_core.search.method import Moment

WARM_UPS = 2  # runs before the capture, after the one that is watched: libraries choose and load their kernels in them

Work = Callable[..., Mapping[str, Tensor]]  # inputs -> named numbers; changes weights, alphas and optimisers in place


class Slot(NamedTuple):
    """A step for inputs of certain shapes. Without a graph the work is called as it is."""

    inputs: list[Tensor]  # what it reads: new inputs are copied in here
    graph: Any  # torch.cuda.CUDAGraph | None
    output: Mapping[str, Tensor]  # of the graph: the next replay writes over it


class Watched(Moment):
    """A moment that notes which of its fields somebody looked at, but the phase and the space, which stay."""

    def __getattribute__(self, name: str) -> Any:
        if name in Moment._fields and name not in ("phase", "space"):
            object.__getattribute__(self, "noted").add(name)
        return super().__getattribute__(name)


class Replay:
    """Calls pieces of a step; on a CUDA device each is a graph from its second call on.

    `reason` says why steps cannot be replayed and are computed one operation at a time; empty: they can.
    """

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.reason = ""
        self.trying = False  # nobody may seed random numbers now: that they are drawn must be seen, or cannot be held
        self.slots: dict[Any, Slot] = {}
        self.noted: set[str] = set()
        self.pool: Any = None

    def forget(self) -> None:
        """Capture anew: something changed that is no tensor, or tensors lie elsewhere now."""
        self.slots.clear()
        self.pool = None
        self.reason = ""

    def watched(self, moment: Moment) -> Moment:
        """The moment as the step may see it: while it is tried, with somebody looking over its shoulder."""
        if not self.trying:
            return moment
        watched = Watched(*moment)
        watched.noted = self.noted  # type: ignore[attr-defined]
        return watched

    def __call__(
        self, name: str, work: Work, inputs: Sequence[Tensor | float], state: Callable[[], Sequence[Tensor]]
    ) -> Mapping[str, Tensor]:
        """What `work(*inputs)` returns; numbers among the inputs reach it as 0-d tensors.

        Args:
            name: of this piece of a step.
            state: all tensors that the work changes in place; they are as before after it was tried.
        """
        if self.reason:
            return work(*inputs)
        key = (name, *((*t.shape, t.dtype) if isinstance(t, Tensor) else float for t in inputs))
        if key not in self.slots:
            slot = self._tried(work, inputs, state)
            if self.reason:
                return work(*inputs)
            self.slots[key] = slot
        slot = self.slots[key]
        for held, new in zip(slot.inputs, inputs, strict=True):
            if isinstance(new, Tensor):
                held.copy_(new, non_blocking=True)
            else:
                held.fill_(new)  # a number travels as an argument of the kernel: nothing waits for it
        if slot.graph is None:
            return work(*slot.inputs)
        slot.graph.replay()
        return slot.output

    # -- the first call

    def _tried(self, work: Work, inputs: Sequence[Tensor | float], state: Callable[[], Sequence[Tensor]]) -> Slot:
        """Run the work once under watch, then capture it where that is possible. Leaves no trace but the slot."""
        cuda = self.device.type == "cuda"
        # the fused optimisers of CUDA read their rate as float32
        rate = torch.float32 if cuda else torch.float64
        held = [t.clone() if isinstance(t, Tensor) else torch.tensor(t, dtype=rate, device=self.device) for t in inputs]
        tensors = list(state())
        kept = [t.detach().clone() for t in tensors]
        graph, output = None, {}
        self.noted.clear()
        self.trying = True
        try:
            with torch.random.fork_rng([self.device] if cuda else []):
                before = self._random_state()
                with self._aside():
                    work(*held)
                after = self._random_state()
                self.reason = self._why_not(any(not torch.equal(a, b) for a, b in zip(before, after, strict=True)))
                if cuda and not self.reason:
                    graph, output = self._captured(work, held)
        finally:
            self.trying = False
            with torch.no_grad():
                for tensor, value in zip(tensors, kept, strict=True):
                    tensor.copy_(value)
        return Slot(held, graph, output)

    def _why_not(self, drawn: bool) -> str:
        if drawn:
            return "the method draws random numbers"
        return f"the method looks at {', '.join(sorted(self.noted))}" if self.noted else ""

    def _random_state(self) -> list[Tensor]:
        states = [torch.get_rng_state()]
        return [*states, torch.cuda.get_rng_state(self.device)] if self.device.type == "cuda" else states

    @contextmanager
    def _aside(self) -> Iterator[None]:
        """On a stream of its own, as warm-ups before a capture must be; nothing special where there are no streams."""
        if self.device.type != "cuda":
            yield
            return
        main, aside = torch.cuda.current_stream(self.device), torch.cuda.Stream(self.device)
        aside.wait_stream(main)
        with torch.cuda.stream(aside):
            yield
        main.wait_stream(aside)

    def _captured(self, work: Work, held: Sequence[Tensor]) -> tuple[Any, Mapping[str, Tensor]]:
        """The graph and what it writes; without a graph, and with a `reason`, where CUDA refuses."""
        with self._aside():
            for _ in range(WARM_UPS):
                work(*held)
        torch.cuda.synchronize(self.device)
        graph = torch.cuda.CUDAGraph()
        if self.pool is None:
            self.pool = torch.cuda.graph_pool_handle()
        try:
            # "thread_local": what other threads ask of CUDA meanwhile is no concern of this capture
            with torch.cuda.graph(graph, pool=self.pool, capture_error_mode="thread_local"):
                output = work(*held)
        except torch.OutOfMemoryError:
            raise
        except RuntimeError as error:
            torch.cuda.synchronize(self.device)
            self.reason = f"CUDA cannot capture it ({one_line(error, 120)})"
            return None, {}
        return graph, output


class Unread:
    """Named numbers of a step on their way to the CPU: one copy for all of them, and nobody waits before `read`."""

    def __init__(self, tensors: Mapping[str, Tensor]) -> None:
        self.shapes = {name: tuple(t.shape) for name, t in tensors.items()}
        wide = any(t.dtype == torch.float64 for t in tensors.values())
        dtype = torch.float64 if wide else torch.float32
        flat = torch.cat([t.detach().reshape(-1).to(dtype) for t in tensors.values()])
        self.event: Any = None
        if flat.is_cuda:
            self.flat = torch.empty(flat.shape, dtype=dtype, pin_memory=True)
            self.flat.copy_(flat, non_blocking=True)
            self.event = torch.cuda.Event()
            self.event.record()
        else:
            self.flat = flat

    def read(self) -> dict[str, np.ndarray]:
        """name -> array of the tensor's shape, float32 or float64. Waits until the step is done."""
        if self.event is not None:
            self.event.synchronize()
        numbers, found, place = self.flat.cpu().numpy(), {}, 0
        for name, shape in self.shapes.items():
            count = math.prod(shape)
            found[name] = numbers[place : place + count].reshape(shape)
            place += count
        return found
