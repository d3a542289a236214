"""One step of a search: the alphas move once, then the weights, each along the gradient of its own loss.

Order of operations, optimisers, schedule and clipping follow the authors' code: alphas move first, at the present
weights; the weight step that follows sees the new alphas; the rate falls along a cosine once per epoch.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor

from darts_core.chance import reseed
from darts_core.config import SearchConfig
from darts_core.errors import BadInput
from darts_core.events import ARCHITECTURE_STEP, STEP_METRICS, Step
from darts_core.mix import Alphas, Mix
from darts_core.nets.fast import for_second_derivatives
from darts_core.optimise import Adam, Averaged, Momentum, clipped, joint_norm
from darts_core.search import probes
from darts_core.search.host import Launched
from darts_core.search.method import (
    Hyper,
    Loss,
    Method,
    Moment,
    Objective,
    Weights,
    always,
    no_penalty,
    restricted,
    unchanged,
)
from darts_core.search.parts import method_from
from darts_core.search.rates import annealed
from darts_core.search.replay import Replay, Unread
from darts_core.seeds import seed
from darts_core.tasks import VALIDATE_AT_MOST, Batch, Task

REPLAYED = ("graph", "triton")  # backends that replay whole steps
MUST_BE_FINITE = {  # in the order in which a step computes them
    "val_loss": "validation loss", "a_grad_norm": "gradient of the alphas", "train_loss": "training loss",
    "w_grad_norm": "gradient of the weights",
}  # fmt: skip


def supernet_of(task: Task, method: Method, stage: int, built: Mapping[str, Tensor]) -> Any:
    """A supernet as the method wants it in a stage; `built` says what a later stage still has, empty: everything."""
    return task.supernet(restricted(task.space, built) if built else task.space, **method.net_of(stage))


class Stepping:
    """Net, alphas and both optimisers at some moment of a search, and the step that moves them on."""

    def __init__(self, factory: Callable[..., Method], task: Task, config: SearchConfig) -> None:
        self.factory, self.task, self.config = factory, task, config
        self.method = method_from(factory, config)
        self.step = self.epoch = self.index = 0
        self.begin(0, self.method.init(task.space, self.generator("alphas", 0)), {})
        self.carry = self.no_carry()
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
        self.averaged: Averaged | None = None  # mean weights, from the epoch on in which averaging begins
        self.adam = Adam(dict(zip(self.alphas.names(), self.alphas.tensors(), strict=True)))
        self.still = self.held_entries()

    # -- a step

    def one_step(self) -> Step:
        """One architecture step (where the method wants one), then one weight step."""
        return self.recorded(self.launch())

    def launch(self) -> Launched:
        """Compute one step. On a GPU nothing here waits for it: its numbers are read by `recorded`, later."""
        batch = self.task.batch("weights", self.epoch, self.index)
        w_lr, a_lr, flags = self.rate(), self.config.a_lr, 0
        numbers: dict[str, Tensor] = {}
        if self.wants_alphas():
            flags, made = flags | ARCHITECTURE_STEP, self.adam.steps
            arch_batch = self.task.batch("arch", self.epoch, self.index)
            numbers |= self.piece("arch", self.move_alphas, batch, arch_batch, w_lr, a_lr)
            self.adam.steps = made + 1  # a replayed step counts on the device alone
        numbers |= self.piece("weights", self.move_weights, batch, w_lr)
        return self.launched(flags, w_lr, a_lr, numbers)

    def wants_alphas(self) -> bool:
        """Is this an architecture step?"""
        return self.method.when is always or self.method.when(self.moment("arch"))

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
        """The weights' learning rate in this step: the curve since it last started anew."""
        epochs, starts = self.config.epochs, {0: 1.0}
        if self.method.restarts:
            starts |= {self.first_epoch(stage): 1.0 for stage in range(len(self.method.stages))}
        starts |= self.method.anew(epochs)
        first = max(epoch for epoch in starts if epoch <= self.epoch)
        after = min((epoch for epoch in starts if epoch > self.epoch), default=epochs)
        scale = self.task.rate_scale(self.epoch, self.index)
        return scale * annealed(self.config, self.epoch - first, after - first, starts[first])

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
        settles = self.method.settle is not unchanged
        before = (self.alphas.copied(), self.relax(self.alphas, "read")) if settles else None
        betas = (self.config.a_beta1, self.config.a_beta2)
        self.adam.step([g.detach() for g in hyper.grads], a_rate, betas, self.config.a_decay, self.still)
        if before is not None:
            after = self.method.settle(before[0], self.alphas, before[1])
            with torch.no_grad():
                for alpha, settled in zip(self.alphas.tensors(), after.tensors(), strict=True):
                    if settled is not alpha:
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
        if self.averaged is not None:
            self.averaged.add(self.params)
        numbers |= {f"train_{name}": t for name, t in loss.metrics.items()}
        return numbers | {f"read.{kind}": t for kind, t in self.read().weights().items()}

    # -- its two losses

    def evaluate(self, weights: Weights | None, mix: Mix, batch: Batch, phase: str, split: str = "weights") -> Loss:
        """The loss with this step's random numbers: the same masks and hidden state however often it is asked."""
        if not self.replay.trying:
            reseed(seed(self.config.seed, "dropout", self.stage, self.epoch, self.index))
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
            return self.penalised(loss_at(weights, mix, arch_batch, "arch"), alphas, mix)

        rate = self.rate() if rate is None else rate
        clip = self.config.clip if self.config.of_text else 0.0
        return Objective(train, val, partial(self.ahead, rate), own, self.alphas, rate, clip=clip)

    def penalised(self, loss: Loss, alphas: Alphas, mix: Mix) -> Loss:
        """A validation loss with what the method adds to it."""
        if self.method.penalty is no_penalty:
            return loss
        return loss._replace(value=loss.value + self.method.penalty(alphas, mix, self.moment("arch")))

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

    def judged(self) -> AbstractContextManager[None]:
        """The net with the weights by which it is judged: the averaged ones, once there are some. Gradients, those of
        the alphas too, are always taken at the weights themselves.
        """
        return self.averaged.standing_in(self.params) if self.averaged else nullcontext()

    def ahead(self, rate: float | Tensor, weights: Weights, grads: Sequence[Tensor]) -> Weights:
        """The virtual step w - xi * (momentum * buffer + grad + decay * w): SGD's next step, without clipping."""
        momentum, decay = self.config.momentum, self.config.w_decay
        return {
            name: w - rate * (momentum * self.sgd.buffer(name) + grad + decay * w)
            for (name, w), grad in zip(weights.items(), grads, strict=True)
        }

    # -- what an epoch ends with

    def validated(self) -> dict[str, float]:
        """Loss and accuracy of the supernet on the architecture split."""
        with self.judged():
            return self.task.measure(self.net, self.read(), "arch", VALIDATE_AT_MOST)

    def hessian(self) -> np.ndarray:
        """Of the validation loss over the alphas, on the batch that it is taken on."""
        batch, own = self.hessian_batch(), {name: p.detach() for name, p in self.params.items()}
        loss = lambda mix: self.evaluate(own, mix, batch, "read", "arch").value  # noqa: E731
        with for_second_derivatives(self.net):
            return probes.alpha_hessian(loss, *self.probed())

    def hessian_batch(self) -> Any:
        """The last architecture batch of this epoch, or as much of it as the settings say."""
        batch = self.task.batch("arch", self.epoch, self.task.steps("weights") - 1)
        return self.task.part(batch, self.config.hessian_batch) if self.config.hessian_batch else batch

    def probed(self) -> probes.Probed:
        """What a Hessian is taken over."""
        return probes.Probed(lambda alphas: self.relax(alphas, "read"), self.alphas, self.config.a_decay)

    # -- its moment

    def stage_at(self, epoch: int) -> int:
        """The stage that an epoch belongs to: the epochs are divided evenly, the earlier stages take what is over."""
        return max(s for s in range(len(self.method.stages)) if self.first_epoch(s) <= epoch)

    def first_epoch(self, stage: int) -> int:
        """Where a stage begins; at the end of the search where there are fewer epochs than stages."""
        return -(-self.config.epochs * stage // len(self.method.stages))

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

    def no_carry(self) -> dict[str, Any]:
        """The hidden states at the start of an epoch; None for images."""
        return {split: self.task.carry(split) for split in ("weights", "arch")}

    def held_entries(self) -> dict[str, Tensor]:
        """Logits of operations that their edge may not hold: no gradient reaches them, and nothing else shall."""
        return {f"alpha.{kind}": ~legal for kind, legal in self.alphas.legal.items() if not bool(legal.all())}

    def forget(self) -> None:
        """What a captured step holds as numbers has changed: capture it anew."""
        self.replay.forget()
        self.adam.counts = []
        self.still = self.held_entries()


def _detached(carry: Any) -> Any:
    """The hidden state as a constant: no way back leads into the step before."""
    return carry.detach() if isinstance(carry, Tensor) else carry
