"""The loop: one architecture step, one weight step, over and over, as a generator of events (paper, algorithm 1).

A step is made in `stepping.py`; here is what happens between steps: orders, ends of epochs, stages, going back, states.
Each epoch walks a permutation of the architecture split, where the original draws a fresh random batch each step.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict
from typing import Any

import torch
from torch import Tensor

from darts_core import derive as derivation
from darts_core import truth
from darts_core.config import SearchConfig, steerable
from darts_core.errors import BadInput, unknown
from darts_core.events import Alarm, Applied, Epoch, Event, Order, Phase, Result, Rewound, Sample, StageStarted, Step
from darts_core.genotype import Genotype
from darts_core.legal import ON_EDGES, edge_named, row_after
from darts_core.mix import Mix, as_arrays
from darts_core.optimise import AVERAGING, Averaged, triggered
from darts_core.search import probes
from darts_core.search.host import Host, Launched, Snapshot, Strategy, Waits, heard
from darts_core.search.method import Course, Method, Stage, Trained, Verdict
from darts_core.search.pace import Pace
from darts_core.search.parts import method_from
from darts_core.search.state import State
from darts_core.search.stepping import Stepping
from darts_core.seeds import seed
from darts_core.tasks import VALIDATE_AT_MOST, Task

OUTSIDE = ("w_lr", "w_lr_min", "w_power", "a_lr", "pace")  # settings that reach a step as tensors, or not at all


def bilevel(factory: Callable[..., Method]) -> Strategy:
    """Turn a factory of methods into a strategy. Steering an option calls the factory again."""

    def strategy(task: Task, config: SearchConfig, host: Host) -> Iterator[Event | Snapshot | Waits]:
        return Search(factory, task, config, host).run()

    return strategy


class Search(Stepping):
    """One search in motion, from its first step to its result; yields everything that is told of it."""

    def __init__(self, factory: Callable[..., Method], task: Task, config: SearchConfig, host: Host) -> None:
        super().__init__(factory, task, config)
        self.host = host
        self.open: deque[Launched] = deque()  # steps that may not be finished yet, oldest first
        self.behind = 1 if task.device.type == "cuda" else 0  # steps that a GPU may be behind: it is never idle then
        self.pace = Pace()
        self.history: list[dict[str, Any]] = []

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
                if ending := (yield from heard(self, self.finished)):
                    if ending == "stop":
                        yield self.result(stopped=True)
                    return
                self.pace.keep(self.config.pace)
                before = self.replay.reason
                self.open.append((yield from self.host.done(self, Search.launch)))
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

    def finished(self, but: int = 0) -> Iterator[Step]:
        """The records of all steps that were launched and not told of yet, but for the last so many."""
        while len(self.open) > but:
            yield self.recorded(self.open.popleft())

    def end_epoch(self, seconds: float) -> Iterator[Event | Waits]:
        """Measure, remember, and say how things stand; an alarm when the collapse level got worse."""
        mix = self.read()
        arrays = as_arrays(mix.ops)
        genotype = self.derive()
        metrics = {name: self.sums[name] / n for name in self.config.step_metrics if (n := self.sums.get(f"{name}.n"))}
        valid = yield from self.host.done(self, Search.validated)
        with self.judged():
            text = self.task.sampled(self.net, mix, seed(self.config.seed, "sample", self.epoch))
        metrics |= {f"valid_{name}": value for name, value in valid.items()}
        found = {
            "entropy": derivation.entropy(self.task.space, arrays),
            "valid_rise": probes.rise_above_minimum(self.history, metrics["valid_loss"]),
            **truth.probed(self.config, genotype),
        }
        asked, needed = self.config.hessian_every, self.method.eigenvalue_every  # a rule's own counts from epoch 0
        due = (self.epoch + 1) % asked == 0 if asked else needed and self.epoch % needed == 0
        if due or ((asked or needed) and self.epoch + 1 == self.config.epochs):
            hessian = yield from self.host.done(self, Search.hessian)
            found["eigenvalue"] = probes.dominant_eigenvalue(hessian)
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
        yield Epoch(self.epoch, self.step, metrics, found, genotype.to_json(), asdict(collapse), seconds)
        if derivation.LEVELS.index(collapse.level) > derivation.LEVELS.index(level_before):
            what = "identities" if self.config.of_text else "skip connections"
            rise = f"the validation loss stands {found['valid_rise']:.2f} above its minimum"
            counted = f"{collapse.derived_skips} of {collapse.derived_edges} derived edges are {what}"
            reason = f"{counted}, mean weight {100 * collapse.mean_skip_weight:.0f} %; {rise}"
            yield Alarm(self.step, self.epoch, collapse.level, reason)
        if text is not None:
            yield Sample(self.step, self.epoch, text)
        yield from self.averaging(metrics["valid_loss"])
        projected = self.method.project(self.trained(), self.moment("read"))
        if projected is not None:
            self.alphas = self.alphas._replace(legal=projected.legal)
            self.forget()
        self.epoch, self.index, self.sums, self.carry = self.epoch + 1, 0, {}, self.no_carry()

    def averaging(self, loss: float) -> Iterator[Phase]:
        """Begin averaged SGD where the validation losses of this stage say so (`patience`). The authors' search names
        this trigger among its arguments and never asks it; their training does (rnn/train.py).
        """
        before = [
            entry["metrics"]["valid_loss"]
            for entry in self.history[:-1]
            if entry["epoch"] >= self.first_epoch(self.stage)
        ]
        if self.averaged is None and triggered(before, loss, self.config.patience):
            self.averaged = Averaged()
            yield Phase("search", AVERAGING.format(epoch=self.epoch + 2))

    def result(self, stopped: bool, genotype: dict[str, Any] | None = None) -> Result:
        """What the search found: derived from the present alphas unless a stop rule names another epoch."""
        last = self.history[-1] if self.history else None
        metrics = dict(last["metrics"]) if last else {}
        return Result(self.step, max(0, self.epoch - 1), genotype or self.derive().to_json(), metrics, stopped)

    def trained(self) -> Trained:
        with torch.no_grad():
            relaxed = lambda alphas: self.relax(alphas, "read")  # noqa: E731
            return Trained(self.space, self.alphas, self.read(), self.accuracy, relaxed, self.task.space)

    def accuracy(self, mix: Mix) -> float:
        """Of the supernet under a mix, on the architecture split (0 to 1)."""
        with self.judged():
            return self.task.measure(self.net, mix.to(self.task.dtype), "arch", VALIDATE_AT_MOST)["accuracy"]

    def derive(self) -> Genotype:
        return self.method.derive(self.trained())

    def unpacked(self, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Copies under the names that files hold, of a whole set of weights or momentum; nothing of nothing."""
        return {n: t.detach().clone() for n, t in self.net.unpack(dict(tensors)).items()} if tensors else {}

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
            w_optimiser=_named("momentum", self.net.unpack({n: self.sgd.buffer(n) for n in self.params}))
            | (self.averaged.saved(self.net.unpack) if self.averaged else {}),
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
        self.averaged = Averaged.of(state.w_optimiser, self.net.pack, self.task.device)
        state.check(self.state().tensors())
        with torch.no_grad():
            for name, value in self.net.pack(state.weights).items():
                self.params[name].copy_(value)
            for alpha, value in zip(self.alphas.tensors(), state.alphas.tensors(), strict=True):
                alpha.copy_(value)
        if state.step:
            saved = [(n.partition("."), t.to(self.task.device)) for n, t in state.w_optimiser.items()]
            momentum = {name: t for (kind, _, name), t in saved if kind == "momentum"}
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
