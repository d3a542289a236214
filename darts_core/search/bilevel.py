"""The loop: one architecture step, one weight step, over and over, as a generator of events (paper, algorithm 1).

Order of operations, optimisers, schedule and clipping follow the authors' code: alphas move first, at the present
weights; the weight step that follows sees the new alphas; the rate falls along a cosine once per epoch. Here each
epoch walks a permutation of the architecture split, where the original draws a fresh random batch each step.
"""

from __future__ import annotations

import math
import time
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from darts_core import derive as derivation
from darts_core import truth
from darts_core.config import SearchConfig, steerable
from darts_core.errors import BadInput, unknown
from darts_core.events import (
    STEP_METRICS,
    Alarm,
    Applied,
    Epoch,
    Event,
    Order,
    Phase,
    Result,
    Rewound,
    Sample,
    StageStarted,
    Step,
)
from darts_core.genotype import Genotype
from darts_core.legal import ON_EDGES, edge_named, row_after
from darts_core.mix import Alphas, Mix, as_arrays
from darts_core.nets.fast import for_second_derivatives
from darts_core.optimise import Adam, Momentum, clipped, joint_norm
from darts_core.search import probes
from darts_core.search.method import (
    Course,
    Hyper,
    Loss,
    Method,
    Moment,
    Objective,
    Stage,
    Trained,
    Verdict,
    Weights,
    restricted,
)
from darts_core.search.pace import Pace
from darts_core.search.parts import method_from
from darts_core.search.replay import Replay, Unread
from darts_core.search.state import State
from darts_core.seeds import seed
from darts_core.tasks import Batch, Task

VALIDATE_AT_MOST = 2000  # images of the architecture split measured at the end of an epoch
LEVELS = ("healthy", "drifting", "collapsed")
ARCHITECTURE_STEP = 1  # flag of a step record
REPLAYED = ("graph", "triton")  # backends that replay whole steps
OUTSIDE = ("w_lr", "w_lr_min", "a_lr", "pace")  # settings that reach a step as tensors, or not at all
MUST_BE_FINITE = {  # in the order in which a step computes them
    "val_loss": "validation loss", "a_grad_norm": "gradient of the alphas", "train_loss": "training loss",
    "w_grad_norm": "gradient of the weights",
}  # fmt: skip


@dataclass(frozen=True)
class Snapshot:
    """Not for the record: the loop hands its state to whoever drives it. Read it before asking for the next event."""

    state: State
    reason: str  # "start", "epoch", "order", "stop" or "interrupt"


@dataclass(frozen=True)
class Waits:
    """Not for the record: the search stands still until it is asked again, so that several can take turns."""

    search: Search | None  # ready for its next step, which another shall make; None: it is paused


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
    launch: Callable[[Search], Generator[Waits, None, Launched]] = lambda search: at_once(search)  # makes its next step


class Launched(NamedTuple):
    """A step that a GPU may still be computing."""

    step: int
    epoch: int
    stage: int
    flags: int
    rates: dict[str, float]
    numbers: Unread


def at_once(search: Search) -> Generator[Waits, None, Launched]:
    """The next step of a search that waits for nobody."""
    yield from ()
    return search.launch()


Strategy = Callable[[Task, SearchConfig, Host], Iterator[Event | Snapshot | Waits]]


def bilevel(factory: Callable[..., Method]) -> Strategy:
    """Turn a factory of methods into a strategy. Steering an option calls the factory again."""

    def strategy(task: Task, config: SearchConfig, host: Host) -> Iterator[Event | Snapshot | Waits]:
        return Search(factory, task, config, host).run()

    return strategy


def cosine(config: SearchConfig, epoch: int, epochs: int = 0) -> float:
    """The weights' rate in `epoch` (0-based) of `epochs` (0: of the settings): closed form, as the original's schedule
    under the torch of its day.
    """
    turn = (1 + math.cos(math.pi * epoch / (epochs or config.epochs))) / 2
    return config.w_lr_min + (config.w_lr - config.w_lr_min) * turn


def supernet_of(task: Task, method: Method, stage: int, built: Mapping[str, Tensor]) -> Any:
    """A supernet as the method wants it in a stage; `built` says what a later stage still has, empty: everything."""
    return task.supernet(restricted(task.space, built) if built else task.space, **method.net_of(stage))


class Search:
    """One search in motion. Holds the net, the alphas and both optimisers; yields everything else."""

    def __init__(self, factory: Callable[..., Method], task: Task, config: SearchConfig, host: Host) -> None:
        self.factory, self.task, self.config, self.host = factory, task, config, host
        self.method = method_from(factory, config)
        self.step = self.epoch = self.index = 0
        self.begin(0, self.method.init(task.space, self.generator("alphas", 0)), {})
        self.carry = self.no_carry()
        self.open: deque[Launched] = deque()  # steps that may not be finished yet, oldest first
        self.behind = 1 if task.device.type == "cuda" else 0  # steps that a GPU may be behind: it is never idle then
        self.pace = Pace()
        self.history: list[dict[str, Any]] = []
        self.sums: dict[str, float] = {}

    def begin(self, stage: int, start: Alphas, built: Mapping[str, Tensor]) -> None:
        """A new supernet and new optimisers around `start`; `built` as in `supernet_of`."""
        device = self.task.device
        self.replay = Replay(device)
        self.stage, self.built = stage, dict(built)
        self.space = restricted(self.task.space, built) if built else self.task.space
        torch.manual_seed(seed(self.config.seed, "weights", stage))
        self.net: Any = supernet_of(self.task, self.method, stage, built)
        self.params: dict[str, Tensor] = dict(self.net.named_parameters())
        legal = {kind: mask.to(device) for kind, mask in start.legal.items()}
        leaves = [t.detach().to(device).requires_grad_() for t in start.tensors()]
        self.alphas = start.replaced(leaves)._replace(legal=legal)
        self.sgd = Momentum(self.params)
        self.adam = Adam(dict(zip(self.alphas.names(), self.alphas.tensors(), strict=True)))
        self.still = self.held_entries()

    # -- the course of a search

    @property
    def total(self) -> int:
        """Steps of the whole search, those made again after the method went back included."""
        return self.step + (self.config.epochs - self.epoch) * self.task.steps("weights") - self.index

    def run(self) -> Iterator[Event | Snapshot | Waits]:
        """Phase, then steps with their orders, an epoch event after each epoch, and the result."""
        if self.host.start is not None:
            self.restore(self.host.start)
        yield Phase("search", f"{self.total} steps in {self.config.epochs} epochs", total_steps=self.total)
        if self.host.start is None:
            yield Snapshot(self.state(), "start")
        steps = self.task.steps("weights")
        while True:
            if self.index == 0 and self.history and (verdict := self.verdict()):
                if not verdict.change:
                    yield Alarm(self.step, self.epoch - 1, "stopped", verdict.reason)
                    yield self.result(stopped=True, genotype=self.history[verdict.epoch]["genotype"])
                    return
                yield from self.go_back(verdict)
            if self.epoch >= self.config.epochs:
                break
            if self.index == 0 and self.stage_at(self.epoch) > self.stage:
                yield self.next_stage()
            began = time.perf_counter()
            while self.index < steps:
                if self.host.waiting():
                    yield from self.finished()
                for order in self.host.orders(self.step):
                    yield from self.finished()
                    if order.kind == "wait":
                        yield Waits(None)
                        continue
                    if order.kind == "interrupt":
                        yield Snapshot(self.state(), "interrupt")
                        return
                    yield self.obey(order)
                    if order.kind == "checkpoint":
                        yield Snapshot(self.state(), "order")
                    if order.kind == "stop":
                        yield Snapshot(self.state(), "stop")
                        yield self.result(stopped=True)
                        return
                self.pace.keep(self.config.pace)
                before = self.replay.reason
                self.open.append((yield from self.host.launch(self)))
                if self.replay.reason != before:
                    yield Phase("search", f"each operation of a step is launched anew: {self.replay.reason}")
                yield from self.finished(0 if self.config.pace else self.behind)
            yield from self.finished()
            yield from self.end_epoch(time.perf_counter() - began)
            yield Snapshot(self.state(), "epoch")
        yield self.result(stopped=False)

    def verdict(self) -> Verdict | None:
        """What the stop rule says between two epochs, from what is recorded: a resumed search hears it too."""
        return self.method.stop(Course(self.history, self.config.epochs, self.config.to_dict()))

    def go_back(self, verdict: Verdict) -> Iterator[Event]:
        """Take up the state at the end of an earlier epoch, with other settings; the count of steps only grows."""
        before, step, settings = self.epoch, self.step, self.config
        self.restore(self.host.recall(verdict.epoch + 1))
        self.step, self.config = step, settings.with_(**verdict.change)
        self.method = method_from(self.factory, self.config)
        self.forget()
        yield Rewound(self.step, before, self.epoch, dict(verdict.change))
        yield Phase("search", verdict.reason, total_steps=self.total)

    def stage_at(self, epoch: int) -> int:
        """The stage that an epoch belongs to: the epochs are divided evenly, the earlier stages take what is over."""
        return max(s for s in range(len(self.method.stages)) if self.first_epoch(s) <= epoch)

    def first_epoch(self, stage: int) -> int:
        """Where a stage begins; at the end of the search where there are fewer epochs than stages."""
        return -(-self.config.epochs * stage // len(self.method.stages))

    def next_stage(self) -> StageStarted:
        """Ask the method how the next stage begins, and begin it."""
        stage = self.stage + 1
        began: Stage = self.method.next_stage(stage, self.trained(), self.generator("alphas", stage))
        weights, momentum, adam = self.unpacked(self.params), self.unpacked(self.sgd.buffers), self.adam
        self.begin(stage, began.alphas, {kind: mask.clone().cpu() for kind, mask in began.alphas.legal.items()})
        if began.carry is not None:
            shapes = {name: t.shape for name, t in self.unpacked(self.params).items()}
            draw = lambda: self.generator("carry", stage)  # noqa: E731  # the same for weights and momentum
            with torch.no_grad():
                for name, value in self.net.pack(dict(began.carry(weights, shapes, draw()))).items():
                    self.params[name].copy_(value)
            if momentum:
                self.sgd.buffers = self.net.pack(dict(began.carry(momentum, shapes, draw())))
            self.adam.first, self.adam.second, self.adam.steps = adam.first, adam.second, adam.steps
        return StageStarted(stage, self.step, began.reason)

    def one_step(self) -> Step:
        """One architecture step (where the method wants one), then one weight step."""
        return self.recorded(self.launch())

    def finished(self, but: int = 0) -> Iterator[Step]:
        """The records of all steps that were launched and not told of yet, but for the last so many."""
        while len(self.open) > but:
            yield self.recorded(self.open.popleft())

    def launch(self) -> Launched:
        """Compute one step. On a GPU nothing here waits for it: its numbers are read by `recorded`, later."""
        batch = self.task.batch("weights", self.epoch, self.index)
        w_lr, a_lr, flags = self.rate(), self.config.a_lr, 0
        numbers: dict[str, Tensor] = {}
        if self.method.when(self.moment("arch")):
            flags, made = flags | ARCHITECTURE_STEP, self.adam.steps
            arch_batch = self.task.batch("arch", self.epoch, self.index)
            numbers |= self.piece("arch", self.move_alphas, batch, arch_batch, w_lr, a_lr)
            self.adam.steps = made + 1  # a replayed step counts on the device alone
        numbers |= self.piece("weights", self.move_weights, batch, w_lr)
        return self.launched(flags, w_lr, a_lr, numbers)

    def launched(self, flags: int, w_lr: float, a_lr: float, numbers: dict[str, Tensor]) -> Launched:
        """Count a step; `numbers` are its metrics and what it read."""
        numbers |= {f"alpha.{kind}": t for kind, t in self.alphas.ops.items()}
        numbers |= {f"edge.{kind}": t for kind, t in self.alphas.edges.items()}
        self.step += 1
        self.index += 1
        return Launched(self.step, self.epoch, self.stage, flags, {"w_lr": w_lr, "a_lr": a_lr}, Unread(numbers))

    def piece(self, name: str, work: Callable[..., Mapping[str, Tensor]], *inputs: Any) -> Mapping[str, Tensor]:
        """`work(*inputs)`, where the backend says so as one replayed graph; inputs are batches and rates."""
        if self.config.backend not in REPLAYED or any(carry is not None for carry in self.carry.values()):
            return work(*inputs)
        parts = [tuple(part) if isinstance(part, tuple) else (part,) for part in inputs]
        flat = [item for part in parts for item in part]

        def joined(*items: Any) -> Mapping[str, Tensor]:
            rest = iter(items)
            again = [tuple(next(rest) for _ in part) for part in parts]
            return work(*(a if isinstance(b, tuple) else a[0] for a, b in zip(again, inputs, strict=True)))

        return self.replay(name, joined, flat, self.moving)

    def moving(self) -> list[Tensor]:
        """Every tensor that a step changes in place, optimisers included."""
        self.sgd.begun()
        counts = self.adam.counts or self.adam.counted()
        moments = (*self.sgd.buffers.values(), *self.adam.first.values(), *self.adam.second.values())
        return [*self.params.values(), *self.alphas.tensors(), *moments, *counts]

    def recorded(self, launched: Launched) -> Step:
        """What a step says of itself. The only place where a search waits for a GPU.

        Raises:
            BadInput: a loss or a gradient is no number any more.
        """
        found = launched.numbers.read()
        numbers = dict.fromkeys(self.config.step_metrics, math.nan) | launched.rates
        numbers |= {name: float(found[name]) for name in STEP_METRICS if name in found}
        numbers |= self.task.step_metrics(found)
        for name, what in MUST_BE_FINITE.items():
            if name in found and not math.isfinite(numbers[name]):
                became = f"became {'NaN' if math.isnan(numbers[name]) else 'infinite'} at step {launched.step}"
                fix = "branch from an earlier epoch with smaller learning rates, or smaller clip"
                raise BadInput("search", what, became, fix)
        for name in (*STEP_METRICS[:4], *self.config.step_metrics[len(STEP_METRICS) :]):
            if math.isfinite(numbers[name]):
                self.sums[name] = self.sums.get(name, 0.0) + numbers[name]
                self.sums[f"{name}.n"] = self.sums.get(f"{name}.n", 0) + 1
        part = lambda word: {k.removeprefix(word): a.astype(np.float32) for k, a in found.items() if k.startswith(word)}  # noqa: E731
        alphas, edges, read = part("alpha."), part("edge."), part("read.")
        return Step(launched.step, launched.epoch, launched.stage, launched.flags, numbers, alphas, read, edges)

    def rate(self) -> float:
        """The weights' learning rate in this step."""
        scale = self.task.rate_scale(self.epoch, self.index)
        if not self.method.restarts:
            return scale * cosine(self.config, self.epoch)
        first = self.first_epoch(self.stage)
        after = self.first_epoch(self.stage + 1) if self.stage + 1 < len(self.method.stages) else self.config.epochs
        return scale * cosine(self.config, self.epoch - first, after - first)

    def architecture_step(self, weights_batch: Batch, numbers: dict[str, Any]) -> None:
        """Move the alphas once; adds its numbers, 0-d tensors, to `numbers`."""
        arch_batch = self.task.batch("arch", self.epoch, self.index)
        numbers |= self.move_alphas(weights_batch, arch_batch, self.rate(), self.config.a_lr)

    def weight_step(self, batch: Batch, numbers: dict[str, Any]) -> None:
        """Move the weights once; adds its numbers, 0-d tensors, to `numbers`."""
        numbers |= self.move_weights(batch, self.rate())

    def move_alphas(
        self, weights_batch: Batch, arch_batch: Batch, w_rate: float | Tensor, a_rate: float | Tensor
    ) -> dict[str, Tensor]:
        """Move the alphas by Adam along the method's gradient of the validation loss."""
        return self.follow(self.method.hypergrad(self.objective(weights_batch, arch_batch, w_rate)), a_rate)

    def follow(self, hyper: Hyper, a_rate: float | Tensor) -> dict[str, Tensor]:
        """Adam along `hyper`, and what the method makes of that."""
        numbers = {"val_loss": hyper.loss.value.detach(), "a_grad_norm": joint_norm(hyper.grads)}
        self.carry["arch"] = _detached(hyper.loss.carry)
        before, mix = self.alphas.copied(), self.relax(self.alphas, "read")
        betas = (self.config.a_beta1, self.config.a_beta2)
        self.adam.step([g.detach() for g in hyper.grads], a_rate, betas, self.config.a_decay, self.still)
        after = self.method.settle(before, self.alphas, mix)
        if after is not self.alphas:
            with torch.no_grad():
                for alpha, settled in zip(self.alphas.tensors(), after.tensors(), strict=True):
                    alpha.copy_(settled)
        return numbers | {f"val_{name}": t for name, t in hyper.loss.metrics.items()}

    def move_weights(self, batch: Batch, rate: float | Tensor) -> dict[str, Tensor]:
        """Along the gradient of the training loss at the new alphas."""
        loss = self.evaluate(None, self.weights_mix(batch), batch, "weights")
        params = list(self.params.values())
        return self.descend(loss, torch.autograd.grad(loss.value, params, materialize_grads=True), rate)

    def weights_mix(self, batch: Batch) -> Mix:
        """The mix of a weight step, at the new alphas."""

        def loss_at(mix: Mix) -> Tensor:
            with self.weights_held():
                return self.evaluate(None, mix, batch, "weights").value

        with torch.no_grad():
            return self.method.relax(self.alphas, self.moment("weights", loss_at))

    def descend(self, loss: Loss, grads: Sequence[Tensor], rate: float | Tensor) -> dict[str, Tensor]:
        """Clip, then SGD; the read-mix is among the numbers."""
        numbers = {"train_loss": loss.value.detach(), "w_grad_norm": clipped(grads, self.config.clip)}
        self.carry["weights"] = _detached(loss.carry)
        self.sgd.step(grads, rate, self.config.momentum, self.config.w_decay)
        numbers |= {f"train_{name}": t for name, t in loss.metrics.items()}
        return numbers | {f"read.{kind}": t for kind, t in self.read().weights().items()}

    def end_epoch(self, seconds: float) -> Iterator[Event]:
        """Measure, remember, and say how things stand; an alarm when the collapse level got worse."""
        mix = self.read()
        arrays = as_arrays(mix.ops)
        genotype = self.derive()
        metrics = {name: self.sums[name] / n for name in self.config.step_metrics if (n := self.sums.get(f"{name}.n"))}
        valid = self.task.measure(self.net, mix, "arch", VALIDATE_AT_MOST)
        metrics |= {f"valid_{name}": value for name, value in valid.items()}
        found = {
            "entropy": derivation.entropy(self.task.space, arrays),
            "valid_rise": probes.rise_above_minimum(self.history, metrics["valid_loss"]),
            **truth.probed(self.config, genotype),
        }
        asked, needed = self.config.hessian_every, self.method.eigenvalue_every  # a rule's own counts from epoch 0
        due = (self.epoch + 1) % asked == 0 if asked else needed and self.epoch % needed == 0
        if due or ((asked or needed) and self.epoch + 1 == self.config.epochs):
            found["eigenvalue"] = probes.dominant_eigenvalue(self.hessian())
        collapse = derivation.collapse(self.task.space, arrays, genotype)
        level_before = self.history[-1]["level"] if self.history else "healthy"
        entry = {
            "epoch": self.epoch,
            "metrics": metrics,
            "probes": found,
            "genotype": genotype.to_json(),
            "level": collapse.level,
        }
        self.history.append(entry)
        said = {
            "derived_skips": collapse.derived_skips,
            "derived_edges": collapse.derived_edges,
            "mean_skip_weight": collapse.mean_skip_weight,
            "level": collapse.level,
        }
        yield Epoch(self.epoch, self.step, metrics, found, genotype.to_json(), said, seconds)
        if LEVELS.index(collapse.level) > LEVELS.index(level_before):
            what = "identities" if self.config.of_text else "skip connections"
            rise = f"the validation loss stands {found['valid_rise']:.2f} above its minimum"
            counted = f"{collapse.derived_skips} of {collapse.derived_edges} derived edges are {what}"
            reason = f"{counted}, mean weight {collapse.mean_skip_weight:.0%}; {rise}"
            yield Alarm(self.step, self.epoch, collapse.level, reason)
        text = self.task.sampled(self.net, mix, seed(self.config.seed, "sample", self.epoch))
        if text is not None:
            yield Sample(self.step, self.epoch, text)
        projected = self.method.project(self.trained(), self.moment("read"))
        if projected is not None:
            self.alphas = self.alphas._replace(legal=projected.legal)
            self.forget()
        self.epoch, self.index, self.sums, self.carry = self.epoch + 1, 0, {}, self.no_carry()

    def result(self, stopped: bool, genotype: dict[str, Any] | None = None) -> Result:
        """What the search found: derived from the present alphas unless a stop rule names another epoch."""
        last = self.history[-1] if self.history else None
        metrics = dict(last["metrics"]) if last else {}
        return Result(self.step, max(0, self.epoch - 1), genotype or self.derive().to_json(), metrics, stopped)

    # -- its parts

    def held_entries(self) -> dict[str, Tensor]:
        """Logits of operations that their edge may not hold: no gradient reaches them, and nothing else shall."""
        return {f"alpha.{kind}": ~legal for kind, legal in self.alphas.legal.items() if not bool(legal.all())}

    def generator(self, purpose: str, *numbers: int) -> torch.Generator:
        return torch.Generator().manual_seed(seed(self.config.seed, purpose, *numbers))

    def moment(self, phase: str, loss_at: Callable[[Mix], Tensor] | None = None) -> Moment:
        steps = self.task.steps("weights")
        done, first = self.epoch * steps + self.index, self.first_epoch(self.stage) * steps
        last = self.first_epoch(self.stage + 1) if self.stage + 1 < len(self.method.stages) else self.config.epochs
        moment = Moment(
            phase,
            self.epoch,
            done / max(1, self.config.epochs * steps),
            self.generator(f"relax {phase}", self.stage, self.epoch, self.index),
            self.config.epochs,
            self.stage,
            (done - first) / max(1, last * steps - first),
            loss_at,
            space=self.space,
            stage_epoch=self.epoch - self.first_epoch(self.stage),
            stage_epochs=last - self.first_epoch(self.stage),
            step=done,
            costs=self.task.costs,
        )
        return self.replay.watched(moment)

    def relax(self, alphas: Alphas, phase: str) -> Mix:
        return self.method.relax(alphas, self.moment(phase))

    def read(self) -> Mix:
        """The mix that is shown and derived from: deterministic, also for samplers."""
        with torch.no_grad():
            return self.relax(self.alphas, "read")

    def trained(self) -> Trained:
        with torch.no_grad():
            relaxed = lambda alphas: self.relax(alphas, "read")  # noqa: E731
            return Trained(self.space, self.alphas, self.read(), self.accuracy, relaxed, self.task.space)

    def accuracy(self, mix: Mix) -> float:
        """Of the supernet under a mix, on the architecture split (0 to 1)."""
        return self.task.measure(self.net, mix.to(self.task.dtype), "arch", VALIDATE_AT_MOST)["accuracy"]

    def derive(self) -> Genotype:
        return self.method.derive(self.trained())

    def no_carry(self) -> dict[str, Any]:
        """The hidden states at the start of an epoch; None for images."""
        return {split: self.task.carry(split) for split in ("weights", "arch")}

    def unpacked(self, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Copies under the names that files hold, of a whole set of weights or momentum; nothing of nothing."""
        return {n: t.detach().clone() for n, t in self.net.unpack(dict(tensors)).items()} if tensors else {}

    def evaluate(self, weights: Weights | None, mix: Mix, batch: Batch, phase: str, split: str = "weights") -> Loss:
        """The loss with this step's random numbers: the same masks and hidden state however often it is asked."""
        if not self.replay.trying:
            torch.manual_seed(seed(self.config.seed, "dropout", self.stage, self.epoch, self.index))
        return self.task.loss(self.net, weights, mix.to(self.task.dtype), batch, self.carry[split], phase)

    def objective(self, weights_batch: Batch, arch_batch: Batch, rate: float | Tensor | None = None) -> Objective:
        """Both losses of this step; `rate` None: the one in force. The module's own weights are used directly; others
        through a functional call.
        """
        own: Weights = {name: p.detach() for name, p in self.params.items()}

        def loss_at(weights: Weights, mix: Mix, batch: Batch, split: str) -> Loss:
            if weights is not own:
                return self.evaluate(weights, mix, batch, "arch", split)
            with self.weights_held():
                return self.evaluate(None, mix, batch, "arch", split)

        def train(weights: Weights, alphas: Alphas) -> Loss:
            return loss_at(weights, self.relax(alphas, "arch"), weights_batch, "weights")

        def val(weights: Weights, alphas: Alphas) -> Loss:
            mix = self.relax(alphas, "arch")
            loss = loss_at(weights, mix, arch_batch, "arch")
            return loss._replace(value=loss.value + self.method.penalty(alphas, mix, self.moment("arch")))

        rate = self.rate() if rate is None else rate
        clip = self.config.clip if self.config.of_text else 0.0
        return Objective(train, val, partial(self.ahead, rate), own, self.alphas, rate, clip=clip)

    @contextmanager
    def weights_held(self) -> Iterator[None]:
        """The weights are constants of what is computed inside: no way back leads to them, and none is paid for."""
        for p in self.params.values():
            p.requires_grad_(False)
        try:
            yield
        finally:
            for p in self.params.values():
                p.requires_grad_(True)

    def ahead(self, rate: float | Tensor, weights: Weights, grads: Sequence[Tensor]) -> Weights:
        """The virtual step w - xi * (momentum * buffer + grad + decay * w): SGD's next step, without clipping."""
        momentum, decay = self.config.momentum, self.config.w_decay
        return {
            name: w - rate * (momentum * self.sgd.buffer(name) + grad + decay * w)
            for (name, w), grad in zip(weights.items(), grads, strict=True)
        }

    def hessian(self) -> Any:
        """Of the validation loss over the alphas, on the last architecture batch of this epoch."""
        batch = self.task.batch("arch", self.epoch, self.task.steps("weights") - 1)
        if self.config.hessian_batch:
            batch = self.task.part(batch, self.config.hessian_batch)
        own: Weights = {name: p.detach() for name, p in self.params.items()}
        loss = lambda mix: self.evaluate(own, mix, batch, "read", "arch").value  # noqa: E731
        read = lambda alphas: self.relax(alphas, "read")  # noqa: E731
        with for_second_derivatives(self.net):
            return probes.alpha_hessian(loss, read, self.alphas, self.config.a_decay)

    # -- orders and state

    def obey(self, order: Order) -> Applied:
        """Carry out one order between two steps, or refuse it with a reason."""
        said = {
            "id": order.id,
            "step": self.step,
            "kind": order.kind,
            "name": order.name,
            "value": order.value,
            "epoch": self.epoch,
        }
        try:
            if order.kind == "set":
                self.set(order)
            elif order.kind in ON_EDGES:
                self.steer_edge(order)
        except BadInput as refusal:
            return Applied(**said, accepted=False, reason=str(refusal))
        return Applied(**said, accepted=True, reason="")

    def set(self, order: Order) -> None:
        """Change a setting or an option of the method."""
        known = steerable(self.config.strategy, self.config.parts)
        if order.name not in known:
            raise unknown("", "setting to steer", order.name, known)
        self.config = self.config.with_(**{str(order.name): order.value})
        self.method = method_from(self.factory, self.config)
        if order.name not in OUTSIDE:
            self.forget()

    def forget(self) -> None:
        """What a captured step holds as numbers has changed: capture it anew."""
        self.replay.forget()
        self.adam.counts = []
        self.still = self.held_entries()

    def steer_edge(self, order: Order) -> None:
        """Pin, ban or reset: from now on another mask says what the edge may hold. Logits stay where they are."""
        kind, edge = edge_named(self.space, order.name)
        before = self.alphas.legal[kind]
        row = row_after(self.space.cells[kind], edge, before[edge].cpu().numpy(), order.kind, order.value)
        after = before.clone()
        after[edge] = torch.from_numpy(row).to(before.device)
        self.alphas = self.alphas._replace(legal={**self.alphas.legal, kind: after})
        self.adam.revive(f"alpha.{kind}", after & ~before)
        self.forget()

    def state(self) -> State:
        """Everything needed to go on from here. Tensors are shared, not copied."""
        return State(
            step=self.step,
            epoch=self.epoch,
            index=self.index,
            stage=self.stage,
            settings=self.config.to_dict(),
            weights=self.net.unpack({n: p.detach() for n, p in self.params.items()}),
            alphas=self.alphas.replaced([a.detach() for a in self.alphas.tensors()]),
            w_optimiser=_named("momentum", self.net.unpack({n: self.sgd.buffer(n) for n in self.params})),
            a_optimiser={**_named("first", self.adam.first), **_named("second", self.adam.second)},
            a_steps=self.adam.steps,
            history=self.history,
            sums=self.sums,
            built=self.built,
            carry={split: t for split, t in self.carry.items() if t is not None},
        )

    def restore(self, state: State) -> None:
        """Go on from `state`: settings that steering had changed are in force again.

        Raises:
            BadInput: the state belongs to another net or another alpha layout.
        """
        self.config = SearchConfig.from_dict(state.settings, "checkpoint")
        self.method = method_from(self.factory, self.config)
        if state.stage >= len(self.method.stages):
            fix = "branch with --weights fresh, or go on with its own method"
            raise BadInput("checkpoint", "stage", f"is {state.stage}, and the method has no such stage", fix)
        state.check_alphas(self.method.init(self.task.space, self.generator("alphas", 0)))
        self.begin(state.stage, state.alphas, state.built)
        state.check(self.state().tensors())
        with torch.no_grad():
            for name, value in self.net.pack(state.weights).items():
                self.params[name].copy_(value)
            for alpha, value in zip(self.alphas.tensors(), state.alphas.tensors(), strict=True):
                alpha.copy_(value)
        if state.step:
            momentum = {name.removeprefix("momentum."): t.to(self.task.device) for name, t in state.w_optimiser.items()}
            self.sgd.buffers = {name: t.clone() for name, t in self.net.pack(momentum).items()}
        for name in self.adam.params:
            self.adam.first[name].copy_(state.a_optimiser[f"first.{name}"])
            self.adam.second[name].copy_(state.a_optimiser[f"second.{name}"])
        self.adam.steps = state.a_steps
        self.step, self.epoch, self.index = state.step, state.epoch, state.index
        self.history, self.sums = list(state.history), dict(state.sums)
        self.carry |= {split: t.to(self.task.device) for split, t in state.carry.items()}


def _named(prefix: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {f"{prefix}.{name}": t for name, t in tensors.items()}


def _detached(carry: Any) -> Any:
    """The hidden state as a constant: no way back leads into the step before."""
    return carry.detach() if isinstance(carry, Tensor) else carry
