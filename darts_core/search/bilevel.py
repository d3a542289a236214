"""The loop: one architecture step, one weight step, over and over, as a generator of events (paper, algorithm 1).

Order of operations, optimisers, schedule and clipping follow the authors' code: alphas move first, at the present
weights; the weight step that follows sees the new alphas; the rate falls along a cosine once per epoch. Here each
epoch walks a permutation of the architecture split, where the original draws a fresh random batch each step.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from darts_core import derive as derivation
from darts_core.config import SearchConfig, steerable
from darts_core.errors import BadInput, unknown
from darts_core.events import STEP_METRICS, Alarm, Applied, Epoch, Event, Order, Phase, Result, Step
from darts_core.genotype import Genotype
from darts_core.legal import ON_EDGES, edge_named, row_after
from darts_core.mix import Alphas, Mix, as_arrays
from darts_core.optimise import Adam, Momentum, clipped, joint_norm
from darts_core.search import probes
from darts_core.search.method import Loss, Method, Moment, Objective, Trained, Weights
from darts_core.search.state import State
from darts_core.seeds import seed
from darts_core.tasks import Batch, Task

VALIDATE_AT_MOST = 2000  # images of the architecture split measured at the end of an epoch
LEVELS = ("healthy", "drifting", "collapsed")
LONGEST_WAIT = 1.0  # seconds: orders are heard at least this often, however slow the pace
ARCHITECTURE_STEP = 1  # flag of a step record


@dataclass(frozen=True)
class Snapshot:
    """Not for the record: the loop hands its state to whoever drives it. Read it before asking for the next event."""

    state: State
    reason: str  # "start", "epoch", "order", "stop" or "interrupt"


@dataclass(frozen=True)
class Host:
    """What a search may ask of the place it runs in; `Host()` is a notebook cell."""

    start: State | None = None  # resume or branch from here
    orders: Callable[[int], Iterable[Order]] = lambda step: ()  # steering, asked for before each step; may wait (pause)


Strategy = Callable[[Task, SearchConfig, Host], Iterator[Event | Snapshot]]


def bilevel(factory: Callable[..., Method]) -> Strategy:
    """Turn a factory of methods into a strategy. Steering an option calls the factory again."""

    def strategy(task: Task, config: SearchConfig, host: Host) -> Iterator[Event | Snapshot]:
        return Search(factory, task, config, host).run()

    return strategy


def cosine(config: SearchConfig, epoch: int) -> float:
    """The weights' rate in `epoch` (0-based): closed form, as the original's schedule under the torch of its day."""
    return config.w_lr_min + (config.w_lr - config.w_lr_min) * (1 + math.cos(math.pi * epoch / config.epochs)) / 2


class Search:
    """One search in motion. Holds the net, the alphas and both optimisers; yields everything else."""

    def __init__(self, factory: Callable[..., Method], task: Task, config: SearchConfig, host: Host) -> None:
        self.factory, self.task, self.config, self.host = factory, task, config, host
        self.method = factory(**config.options)
        torch.manual_seed(seed(config.seed, "weights", 0))
        self.net: Any = task.supernet(task.space, **self.method.net)
        self.params = dict(self.net.named_parameters())
        generator = torch.Generator().manual_seed(seed(config.seed, "alphas", 0))
        start = self.method.init(task.space, generator)
        legal = {kind: mask.to(task.device) for kind, mask in start.legal.items()}
        self.alphas = start.replaced([t.to(task.device).requires_grad_() for t in start.tensors()])._replace(
            legal=legal
        )
        self.sgd = Momentum(self.params)
        self.adam = Adam(dict(zip(self.alphas.names(), self.alphas.tensors(), strict=True)))
        self.step = self.epoch = self.index = 0
        self.due = 0.0  # earliest time of the next step (time.monotonic), where a pace is asked for
        self.history: list[dict[str, Any]] = []
        self.sums: dict[str, float] = {}
        self.total = config.epochs * task.steps("weights")

    # -- the course of a search

    def run(self) -> Iterator[Event | Snapshot]:
        """Phase, then steps with their orders, an epoch event after each epoch, and the result."""
        if self.host.start is not None:
            self.restore(self.host.start)
        yield Phase("search", f"{self.total} steps in {self.config.epochs} epochs", total_steps=self.total)
        if self.host.start is None:
            yield Snapshot(self.state(), "start")
        steps = self.task.steps("weights")
        while self.epoch < self.config.epochs:
            began = time.perf_counter()
            while self.index < steps:
                for order in self.host.orders(self.step):
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
                self.keep_pace()
                yield self.one_step()
            yield from self.end_epoch(time.perf_counter() - began)
            yield Snapshot(self.state(), "epoch")
            verdict = self.method.stop(self.history)
            if verdict is not None:
                yield Alarm(self.step, self.epoch - 1, "stopped", verdict.reason)
                yield self.result(stopped=True, genotype=self.history[verdict.epoch]["genotype"])
                return
        yield self.result(stopped=False)

    def keep_pace(self) -> None:
        """Wait where the next step would come sooner than asked for. Nothing but time depends on it."""
        if self.config.pace > 0:
            now = time.monotonic()
            time.sleep(min(max(0.0, self.due - now), LONGEST_WAIT))
            self.due = max(now, self.due) + 1 / self.config.pace

    def one_step(self) -> Step:
        """One architecture step (where the method wants one), then one weight step."""
        weights_batch = self.task.batch("weights", self.epoch, self.index)
        numbers: dict[str, float] = dict.fromkeys(STEP_METRICS, math.nan)
        numbers["w_lr"], numbers["a_lr"] = cosine(self.config, self.epoch), self.config.a_lr
        flags = 0
        if self.method.when(self.moment("arch")):
            flags |= ARCHITECTURE_STEP
            self.architecture_step(weights_batch, numbers)
        self.weight_step(weights_batch, numbers)
        self.step += 1
        self.index += 1
        for name in ("train_loss", "train_accuracy", "val_loss", "val_accuracy"):
            if math.isfinite(numbers[name]):
                self.sums[name] = self.sums.get(name, 0.0) + numbers[name]
                self.sums[f"{name}.n"] = self.sums.get(f"{name}.n", 0) + 1
        alphas, edges, read = as_arrays(self.alphas.ops), as_arrays(self.alphas.edges), as_arrays(self.read().ops)
        return Step(self.step, self.epoch, 0, flags, numbers, alphas, read, edges)

    def architecture_step(self, weights_batch: Batch, numbers: dict[str, float]) -> None:
        """Move the alphas by Adam along the method's gradient of the validation loss."""
        hyper = self.method.hypergrad(self.objective(weights_batch, self.task.batch("arch", self.epoch, self.index)))
        numbers["val_loss"] = self.finite(hyper.loss.value, "validation loss")
        numbers["val_accuracy"] = float(hyper.loss.metrics.get("accuracy", math.nan))
        numbers["a_grad_norm"] = self.finite(joint_norm(hyper.grads), "gradient of the alphas")
        before, mix = self.alphas.copied(), self.relax(self.alphas, "read")
        betas = (self.config.a_beta1, self.config.a_beta2)
        self.adam.step([g.detach() for g in hyper.grads], self.config.a_lr, betas, self.config.a_decay, self.still())
        after = self.method.settle(before, self.alphas, mix)
        if after is not self.alphas:
            with torch.no_grad():
                for alpha, settled in zip(self.alphas.tensors(), after.tensors(), strict=True):
                    alpha.copy_(settled)

    def weight_step(self, batch: Batch, numbers: dict[str, float]) -> None:
        """Clip the gradient of the training loss at the new alphas, then SGD."""
        with torch.no_grad():
            mix = self.relax(self.alphas, "weights")
        loss = self.evaluate(None, mix, batch, "weights")
        params = list(self.params.values())
        grads = torch.autograd.grad(loss.value, params, materialize_grads=True)
        numbers["train_loss"] = self.finite(loss.value, "training loss")
        numbers["train_accuracy"] = float(loss.metrics.get("accuracy", math.nan))
        numbers["w_grad_norm"] = self.finite(clipped(grads, self.config.clip), "gradient of the weights")
        self.sgd.step(grads, cosine(self.config, self.epoch), self.config.momentum, self.config.w_decay)

    def end_epoch(self, seconds: float) -> Iterator[Event]:
        """Measure, remember, and say how things stand; an alarm when the collapse level got worse."""
        mix = self.read()
        arrays = as_arrays(mix.ops)
        genotype = self.derive()
        metrics = {n: self.sums[n] / self.sums[f"{n}.n"] for n in STEP_METRICS[:4] if f"{n}.n" in self.sums}
        valid = self.task.measure(self.net, mix, "arch", VALIDATE_AT_MOST)
        metrics |= {f"valid_{name}": value for name, value in valid.items()}
        found = {
            "entropy": derivation.entropy(self.task.space, arrays),
            "valid_rise": probes.rise_above_minimum(self.history, metrics["valid_loss"]),
        }
        every = self.config.hessian_every
        if every and ((self.epoch + 1) % every == 0 or self.epoch + 1 == self.config.epochs):
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
            reason = f"{collapse.derived_skips} of {collapse.derived_edges} derived edges are skip connections"
            yield Alarm(self.step, self.epoch, collapse.level, reason)
        self.epoch, self.index, self.sums = self.epoch + 1, 0, {}

    def result(self, stopped: bool, genotype: dict[str, Any] | None = None) -> Result:
        """What the search found: derived from the present alphas unless a stop rule names another epoch."""
        last = self.history[-1] if self.history else None
        metrics = dict(last["metrics"]) if last else {}
        return Result(self.step, max(0, self.epoch - 1), genotype or self.derive().to_json(), metrics, stopped)

    # -- its parts

    def still(self) -> dict[str, Tensor]:
        """Logits of operations that their edge may not hold: no gradient reaches them, and nothing else shall."""
        return {f"alpha.{kind}": ~legal for kind, legal in self.alphas.legal.items() if not bool(legal.all())}

    def moment(self, phase: str) -> Moment:
        words = (self.epoch, self.index)
        generator = torch.Generator().manual_seed(seed(self.config.seed, f"relax {phase}", 0, *words))
        return Moment(phase, self.epoch, self.step / max(1, self.total), generator)

    def relax(self, alphas: Alphas, phase: str) -> Mix:
        return self.method.relax(alphas, self.moment(phase))

    def read(self) -> Mix:
        """The mix that is shown and derived from: deterministic, also for samplers."""
        with torch.no_grad():
            return self.relax(self.alphas, "read")

    def derive(self) -> Genotype:
        return self.method.derive(Trained(self.task.space, self.alphas, self.read()))

    def evaluate(self, weights: Weights | None, mix: Mix, batch: Batch, phase: str) -> Loss:
        """The loss with this step's random numbers: the same masks however often it is asked."""
        torch.manual_seed(seed(self.config.seed, "dropout", 0, self.epoch, self.index))
        return self.task.loss(self.net, weights, _as(mix, self.task.dtype), batch, None, phase)

    def objective(self, weights_batch: Batch, arch_batch: Batch) -> Objective:
        """Both losses of this step. The module's own weights are used directly; others through a functional call."""
        own: Weights = {name: p.detach() for name, p in self.params.items()}

        def loss_at(weights: Weights, mix: Mix, batch: Batch) -> Loss:
            if weights is not own:
                return self.evaluate(weights, mix, batch, "arch")
            with self.weights_held():
                return self.evaluate(None, mix, batch, "arch")

        def train(weights: Weights, alphas: Alphas) -> Loss:
            return loss_at(weights, self.relax(alphas, "arch"), weights_batch)

        def val(weights: Weights, alphas: Alphas) -> Loss:
            mix = self.relax(alphas, "arch")
            loss = loss_at(weights, mix, arch_batch)
            return loss._replace(value=loss.value + self.method.penalty(alphas, mix, self.moment("arch")))

        return Objective(train, val, self.ahead, own, self.alphas, cosine(self.config, self.epoch))

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

    def ahead(self, weights: Weights, grads: Sequence[Tensor]) -> Weights:
        """The virtual step w - xi * (momentum * buffer + grad + decay * w): SGD's next step, without clipping."""
        rate, momentum, decay = cosine(self.config, self.epoch), self.config.momentum, self.config.w_decay
        return {
            name: w - rate * (momentum * self.sgd.buffer(name) + grad + decay * w)
            for (name, w), grad in zip(weights.items(), grads, strict=True)
        }

    def hessian(self) -> Any:
        """Of the validation loss over the alphas, on the last architecture batch of this epoch."""
        images, labels = self.task.batch("arch", self.epoch, self.task.steps("weights") - 1)
        size = self.config.hessian_batch or len(labels)
        batch = (images[:size], labels[:size])
        own: Weights = {name: p.detach() for name, p in self.params.items()}
        loss = lambda alphas: self.evaluate(own, self.relax(alphas, "read"), batch, "read").value  # noqa: E731
        return probes.alpha_hessian(loss, self.alphas, self.config.a_decay)

    def finite(self, value: Tensor | float, what: str) -> float:
        number = float(value.detach() if isinstance(value, Tensor) else value)
        if not math.isfinite(number):
            fix = "branch from an earlier epoch with smaller learning rates, or smaller clip"
            raise BadInput(
                "search", what, f"became {'NaN' if math.isnan(number) else 'infinite'} at step {self.step + 1}", fix
            )
        return number

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
        if order.name not in steerable(self.config.strategy):
            raise unknown("", "setting to steer", order.name, steerable(self.config.strategy))
        self.config = self.config.with_(**{order.name: order.value})
        self.method = self.factory(**self.config.options)

    def steer_edge(self, order: Order) -> None:
        """Pin, ban or reset: from now on another mask says what the edge may hold. Logits stay where they are."""
        kind, edge = edge_named(self.task.space, order.name)
        before = self.alphas.legal[kind]
        row = row_after(self.task.space.cells[kind], edge, before[edge].cpu().numpy(), order.kind, order.value)
        after = before.clone()
        after[edge] = torch.from_numpy(row).to(before.device)
        self.alphas = self.alphas._replace(legal={**self.alphas.legal, kind: after})
        self.adam.revive(f"alpha.{kind}", after & ~before)

    def state(self) -> State:
        """Everything needed to go on from here. Tensors are shared, not copied."""
        return State(
            step=self.step,
            epoch=self.epoch,
            index=self.index,
            stage=0,
            settings=self.config.to_dict(),
            weights=self.net.unpack({n: p.detach() for n, p in self.params.items()}),
            alphas=self.alphas.replaced([a.detach() for a in self.alphas.tensors()]),
            w_optimiser=_named("momentum", self.net.unpack({n: self.sgd.buffer(n) for n in self.params})),
            a_optimiser={**_named("first", self.adam.first), **_named("second", self.adam.second)},
            a_steps=self.adam.steps,
            history=self.history,
            sums=self.sums,
        )

    def restore(self, state: State) -> None:
        """Go on from `state`: settings that steering had changed are in force again.

        Raises:
            BadInput: the state belongs to another net or another alpha layout.
        """
        state.check(self.state().tensors())
        with torch.no_grad():
            for name, value in self.net.pack(state.weights).items():
                self.params[name].copy_(value)
            for alpha, value in zip(self.alphas.tensors(), state.alphas.tensors(), strict=True):
                alpha.copy_(value)
        legal = {kind: mask.to(self.task.device) for kind, mask in state.alphas.legal.items()}
        self.alphas = self.alphas._replace(legal=legal)
        if state.step:
            momentum = {name.removeprefix("momentum."): t.to(self.task.device) for name, t in state.w_optimiser.items()}
            self.sgd.buffers = {name: t.clone() for name, t in self.net.pack(momentum).items()}
        for name in self.adam.params:
            self.adam.first[name].copy_(state.a_optimiser[f"first.{name}"])
            self.adam.second[name].copy_(state.a_optimiser[f"second.{name}"])
        self.adam.steps = state.a_steps
        self.step, self.epoch, self.index = state.step, state.epoch, state.index
        self.history, self.sums = list(state.history), dict(state.sums)
        self.config = SearchConfig.from_dict(state.settings, "checkpoint")
        self.method = self.factory(**self.config.options)


def _named(prefix: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {f"{prefix}.{name}": t for name, t in tensors.items()}


def _as(mix: Mix, dtype: torch.dtype) -> Mix:
    """The mix in the type of the weights (alphas stay float32; tests run everything in float64)."""
    if all(t.dtype == dtype for t in mix.ops.values()):
        return mix
    return mix._replace(
        ops={k: t.to(dtype) for k, t in mix.ops.items()}, edges={k: t.to(dtype) for k, t in mix.edges.items()}
    )
