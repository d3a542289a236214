"""The loop of the baselines: propose a cell, score it, remember, again; the same events as any other search.

A step is one training step (or one look-up), so that a search of so many epochs has the budget of a gradient-based one
with equal settings, counted in training steps. What is shown and derived is the best cell so far.
"""

from __future__ import annotations

import math
import random
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from darts_core import derive as derivation
from darts_core import truth
from darts_core.baselines.controller import Controller
from darts_core.baselines.propose import Propose, Trial, log_probability
from darts_core.baselines.score import LookedUp, Reading, Scorer, Shared, Short
from darts_core.config import SearchConfig, steerable
from darts_core.errors import BadInput, unknown
from darts_core.events import ARCHITECTURE_STEP, STEP_METRICS, Alarm, Applied, Epoch, Event, Order, Phase, Result, Step
from darts_core.genotype import CellGenes, Gene, Genotype
from darts_core.legal import ON_EDGES, edge_named, row_after
from darts_core.mix import Alphas, as_arrays
from darts_core.optimise import Adam
from darts_core.search.host import Host, Snapshot, Strategy, Waits, heard
from darts_core.search.method import restricted, softmax_rows
from darts_core.search.pace import Pace
from darts_core.search.state import State
from darts_core.seeds import seed
from darts_core.space import SearchSpace
from darts_core.tasks import Task

CONTROLLER = "controller."  # before the names of an LSTM's weights in a checkpoint


@dataclass(frozen=True)
class Baseline:
    """How cells are proposed and scored."""

    propose: Propose
    score: str  # "short", "shared" or "table"
    trial_steps: int = 20  # training steps of one short training
    trials: int = 0  # end after so many trials; 0: when the steps are spent
    score_images: int = 600  # validation images that a score is measured on
    shared_part: float = 0.7  # share of the steps that train shared weights
    rate: float = 0.0  # REINFORCE's learning rate; 0: the policy does not learn
    baseline: float = 0.9  # REINFORCE: how slowly the mean reward moves
    samples: int = 1  # REINFORCE: cells per step of the policy
    bound: float = 0.0  # REINFORCE: largest logit of an LSTM controller; 0: the policy is a table
    entropy: float = 0.0  # REINFORCE: weight of the LSTM's entropy in the reward
    population: int = 0  # what is shown as alphas: shares of operations in the last so many trials; 0: the last one


def trials(factory: Callable[..., Baseline]) -> Strategy:
    """Turn a factory of baselines into a strategy."""

    def strategy(task: Task, config: SearchConfig, host: Host) -> Iterator[Event | Snapshot | Waits]:
        return Trials(factory, task, config, host).run()

    return strategy


class Trials:
    """One search in motion."""

    def __init__(self, factory: Callable[..., Baseline], task: Task, config: SearchConfig, host: Host) -> None:
        self.task, self.config, self.host = task, config, host
        self.how = factory(**config.options)
        zero = {k: torch.zeros(cell.shape) for k, cell in task.space.cells.items()}
        legal = {k: torch.from_numpy(cell.legal_array()) for k, cell in task.space.cells.items()}
        self.policy = Alphas({k: t.requires_grad_() for k, t in zero.items()}, legal)
        self.controller: Controller | None = None
        if self.how.bound:
            generator = torch.Generator().manual_seed(seed(config.seed, "controller"))
            self.controller = Controller(task.space, self.how.bound, generator)
        self.adam = Adam(self.learned())
        self.past: list[Trial] = []
        self.step = self.epoch = self.index = self.at = 0  # `at`: steps made in the present trial
        self.current: Genotype | None = None
        self.history: list[dict[str, Any]] = []
        self.sums: dict[str, float] = {}
        self.pace = Pace()
        self.scorer: Scorer = self._scorer()

    def _scorer(self) -> Scorer:
        how = self.how
        if how.score == "table":
            return LookedUp(self.task, self.config)
        if self.config.of_text:
            if how.score == "shared":
                raise BadInput(
                    "settings", "score", "of shared weights is for images, and this is text", "set score=short"
                )
            return Reading(self.task, self.config, how.trial_steps, how.score_images)
        if how.score == "shared":
            return Shared(self.task, self.config, how.shared_part, how.score_images)
        return Short(self.task, self.config, how.trial_steps, how.score_images)

    # -- the course of a search

    def run(self) -> Iterator[Event | Snapshot | Waits]:
        """Phase, then steps with their orders, an epoch event after each epoch, and the result."""
        if self.host.start is not None:
            self.restore(self.host.start)
        steps = self.task.steps("weights")
        total = self.config.epochs * steps
        yield Phase("search", f"{total} steps in {self.config.epochs} epochs", total_steps=total)
        if self.host.start is None:
            yield Snapshot(self.state(), "start")
        while self.epoch < self.config.epochs and not self.enough():
            began = time.perf_counter()
            while self.index < steps and not self.enough():
                if ending := (yield from heard(self)):
                    if ending == "stop":
                        yield self.result(stopped=True)
                    return
                self.pace.keep(self.config.pace)
                yield self.one_step()
            yield from self.end_epoch(time.perf_counter() - began)
            yield Snapshot(self.state(), "epoch")
        yield self.result(stopped=False)

    def enough(self) -> bool:
        """Have all trials been made that were asked for?"""
        return 0 < self.how.trials <= len(self.past)

    def one_step(self) -> Step:
        """One step of the present trial; a new trial begins where the last one ended."""
        if self.current is None:
            number = len(self.past)
            rng = random.Random(seed(self.config.seed, "proposal", number))
            self.current, self.at = self.next_cell(self.past, rng), 0
            self.scorer.begin(number, self.current)
        tried = self.current
        measured, score = self.scorer.step(tried, self.at, self.epoch, self.index)
        numbers = {**dict.fromkeys(self.config.step_metrics, math.nan), "a_lr": self.how.rate or math.nan, **measured}
        self.at += 1
        flags = 0
        if score is not None:
            flags, numbers["val_accuracy"] = ARCHITECTURE_STEP, score
            self.past.append(Trial(tried, score))
            if self.how.rate and len(self.past) % self.how.samples == 0:
                numbers["a_grad_norm"] = self.learn()
            self.current = None
        self.step += 1
        self.index += 1
        for name in self.averaged():
            if math.isfinite(numbers[name]):
                self.sums[name] = self.sums.get(name, 0.0) + numbers[name]
                self.sums[f"{name}.n"] = self.sums.get(f"{name}.n", 0) + 1
        return Step(self.step, self.epoch, 0, flags, numbers, self.shown(tried), self.hot(self.best() or tried))

    def learn(self) -> float:
        """REINFORCE (Williams 1992): the policy moves along (reward - mean reward) * grad log p(cell).

        The mean is an exponential one that has heard this reward already, as in the code of NAS-Bench-201. Adam's
        betas are its usual ones; the norm of the gradient comes back.
        """
        mean, advantages = 0.0, []
        for count, trial in enumerate(self.past, 1):
            mean = self.how.baseline * mean + (1 - self.how.baseline) * trial.score
            advantages.append(trial.score - mean / (1 - self.how.baseline**count))  # a mean of few is of these few
        terms = []
        for trial, advantage in zip(self.past[-self.how.samples :], advantages[-self.how.samples :], strict=True):
            if not self.allowed(trial.genotype):  # what was banned since it was drawn has no probability any more
                continue
            if self.controller is None:
                terms.append(-advantage * log_probability(self.space(), trial.genotype, self.policy))
            else:
                log_p, entropy = self.controller.of(self.space(), trial.genotype)
                terms.append(-(advantage + self.how.entropy * float(entropy.detach())) * log_p)
        if not terms:
            return 0.0
        params = list(self.learned().values())
        loss = torch.stack(terms).sum() / self.how.samples
        grads = list(torch.autograd.grad(loss, params, materialize_grads=True, allow_unused=True))
        self.adam.step(grads, self.how.rate, (0.9, 0.999), 0.0)
        return float(torch.cat([g.flatten() for g in grads]).norm())

    def learned(self) -> dict[str, Tensor]:
        """What a step of the policy moves, by name."""
        if self.controller is not None:
            return {f"{CONTROLLER}{name}": p for name, p in self.controller.named_parameters()}
        return dict(zip(self.policy.names(), self.policy.tensors(), strict=True))

    def next_cell(self, past: list[Trial], rng: random.Random) -> Genotype:
        if self.controller is not None:
            return self.controller.draw(self.space(), rng)
        return self.how.propose(self.space(), past, self.policy, rng)

    def end_epoch(self, seconds: float) -> Iterator[Event]:
        """Say how things stand; an alarm when the best cell's collapse level got worse."""
        best = self.best() or self.current
        assert best is not None, "an epoch has a step"
        metrics = {n: self.sums[n] / self.sums[f"{n}.n"] for n in self.averaged() if f"{n}.n" in self.sums}
        metrics |= {"trials": float(len(self.past)), "training_steps": float(self.training_steps())}
        if self.past:
            metrics["valid_accuracy"] = max(trial.score for trial in self.past)
        rows = as_arrays(softmax_rows(self.policy) if self.tabled() else self.shares(best))
        found = {"entropy": derivation.entropy(self.task.space, rows), **truth.probed(self.config, best)}
        collapse = derivation.collapse(self.task.space, self.hot(best), best)
        before = self.history[-1]["level"] if self.history else "healthy"
        self.history.append(
            {
                "epoch": self.epoch, "metrics": metrics, "probes": found, "genotype": best.to_json(),
                "level": collapse.level,
            }
        )  # fmt: skip
        yield Epoch(self.epoch, self.step, metrics, found, best.to_json(), asdict(collapse), seconds)
        if derivation.LEVELS.index(collapse.level) > derivation.LEVELS.index(before):
            what = "identities" if self.config.of_text else "skip connections"
            reason = f"{collapse.derived_skips} of {collapse.derived_edges} edges of the best cell are {what}"
            yield Alarm(self.step, self.epoch, collapse.level, reason)
        self.epoch, self.index, self.sums = self.epoch + 1, 0, {}

    def averaged(self) -> tuple[str, ...]:
        """Metrics of a step whose mean an epoch tells: losses and accuracies, perplexities on text."""
        return (*STEP_METRICS[:4], *self.config.step_metrics[len(STEP_METRICS) :])

    def training_steps(self) -> int:
        """Training steps behind what is known now; a look-up stands for the training that made its row."""
        return len(self.past) * self.scorer.per_trial if self.how.score == "table" else self.step

    def result(self, stopped: bool) -> Result:
        """The best cell of all trials (not of those alive): of the first one while none has been scored."""
        best = self.best() or self.current
        if best is None:  # stopped before its first step
            rng = random.Random(seed(self.config.seed, "proposal", 0))
            best = self.next_cell([], rng)
        metrics = dict(self.history[-1]["metrics"]) if self.history else {}
        return Result(self.step, max(0, self.epoch - 1), best.to_json(), metrics, stopped)

    # -- its parts

    def space(self) -> SearchSpace:
        """The space with what its edges may hold now."""
        return restricted(self.task.space, self.policy.legal)

    def best(self) -> Genotype | None:
        """The first of the cells with the highest score, among those that their edges may still hold."""
        legal = [trial for trial in self.past if self.allowed(trial.genotype)]
        return max(legal, key=lambda trial: trial.score).genotype if legal else None

    def allowed(self, genotype: Genotype) -> bool:
        return all(not (self.hot(genotype)[k] * ~mask.numpy()).any() for k, mask in self.policy.legal.items())

    def hot(self, genotype: Genotype) -> dict[str, np.ndarray]:
        """The cell as a mix: what is shown, and what derives to this cell."""
        cells = self.task.space.cells
        return {k: derivation.one_hot(c, genotype.cells[k]).astype(np.float32) for k, c in cells.items()}

    def shares(self, tried: Genotype) -> dict[str, Tensor]:
        """Per edge the share of each operation among the cells that are alive."""
        alive = [trial.genotype for trial in self.past[-self.how.population :]] if self.how.population else []
        tables = [self.hot(genotype) for genotype in alive or [tried]]
        return {k: torch.from_numpy(np.mean([t[k] for t in tables], 0, dtype=np.float32)) for k in tables[0]}

    def shown(self, tried: Genotype) -> dict[str, np.ndarray]:
        """What a record holds as alphas: the policy's logits, or shares of operations."""
        return as_arrays(self.policy.ops if self.tabled() else self.shares(tried))

    def tabled(self) -> bool:
        """Is the policy a table of logits that learns? Then it is what is shown."""
        return bool(self.how.rate) and self.controller is None

    # -- orders and state

    def obey(self, order: Order) -> Applied:
        """Carry out one order between two steps, or refuse it with a reason."""
        said = {
            "id": order.id, "step": self.step, "kind": order.kind, "name": order.name, "value": order.value,
            "epoch": self.epoch,
        }  # fmt: skip
        try:
            if order.kind == "set":
                if order.name not in steerable(self.config.strategy):
                    raise unknown("", "setting to steer", order.name, steerable(self.config.strategy))
                self.config = self.config.with_(**{str(order.name): order.value})
                self.scorer.steer(self.config)
            elif order.kind in ON_EDGES:
                kind, edge = edge_named(self.task.space, order.name)
                mask = self.policy.legal[kind].clone()
                row = row_after(self.space().cells[kind], edge, mask[edge].numpy(), order.kind, order.value)
                mask[edge] = torch.from_numpy(row)
                self.policy = self.policy._replace(legal={**self.policy.legal, kind: mask})
        except BadInput as refusal:
            return Applied(**said, accepted=False, reason=str(refusal))
        return Applied(**said, accepted=True, reason="")

    def state(self) -> State:
        """Everything needed to go on from here. Trials are tensors: a column per place of a gene, a row per trial."""
        weights, momentum = self.scorer.tensors()
        trials = {
            "trials.cells": torch.tensor([self.code(t.genotype) for t in self.past], dtype=torch.int32),
            "trials.scores": torch.tensor([t.score for t in self.past], dtype=torch.float64),
        }
        if self.current is not None:
            trials["trials.current"] = torch.tensor(self.code(self.current), dtype=torch.int32)
        return State(
            step=self.step, epoch=self.epoch, index=self.index, stage=0, settings=self.config.to_dict(),
            weights=weights,
            alphas=self.policy.replaced([t.detach() for t in self.policy.tensors()]),
            w_optimiser={**{f"momentum.{name}": t for name, t in momentum.items()}, **trials, **self.drawer()},
            a_optimiser={f"{m}.{n}": t for m in ("first", "second") for n, t in getattr(self.adam, m).items()},
            a_steps=self.adam.steps, history=self.history, sums={**self.sums, "at": float(self.at)},
        )  # fmt: skip

    def drawer(self) -> dict[str, Tensor]:
        """The weights of an LSTM controller, as they are kept."""
        return {name: t.detach() for name, t in self.learned().items()} if self.controller is not None else {}

    def restore(self, state: State) -> None:
        """Go on from `state`.

        Raises:
            BadInput: the state belongs to another search.
        """
        state.check_alphas(self.policy)
        kept = state.w_optimiser
        if "trials.cells" not in kept or "trials.scores" not in kept:
            raise BadInput("checkpoint", "trials", "are missing", "this checkpoint is of another strategy")
        self.policy = self.policy._replace(legal=dict(state.alphas.legal))
        with torch.no_grad():
            for mine, theirs in zip(self.policy.tensors(), state.alphas.tensors(), strict=True):
                mine.copy_(theirs)
            if set(self.drawer()) - set(kept):
                raise BadInput("checkpoint", "controller", "is missing", "this checkpoint is of another controller")
            for name, mine in self.drawer().items():
                mine.copy_(kept[name])
        for moment in ("first", "second"):
            for name, t in getattr(self.adam, moment).items():
                t.copy_(state.a_optimiser[f"{moment}.{name}"])
        self.adam.steps = state.a_steps
        scores = kept["trials.scores"].tolist()
        self.past = [Trial(self.decode(row), s) for row, s in zip(kept["trials.cells"].tolist(), scores, strict=True)]
        self.current = self.decode(kept["trials.current"].tolist()) if "trials.current" in kept else None
        self.step, self.epoch, self.index = state.step, state.epoch, state.index
        self.history, self.sums = list(state.history), dict(state.sums)
        self.at = int(self.sums.pop("at", 0))
        self.config = SearchConfig.from_dict(state.settings, "checkpoint")
        self.scorer.steer(self.config)
        momentum = {n.removeprefix("momentum."): t for n, t in kept.items() if n.startswith("momentum.")}
        try:
            self.scorer.restore(self.current, state.weights, momentum)
        except (RuntimeError, KeyError) as error:
            fix = "branch with --weights fresh, or use its own settings"
            raise BadInput("checkpoint", "weights", "are of another network", fix) from error

    def code(self, genotype: Genotype) -> list[int]:
        """Per kind, node and kept edge the number edge * operations + operation; -1 where no edge is."""
        found: list[int] = []
        for kind, cell in self.task.space.cells.items():
            for node, genes in enumerate(genotype.cells[kind].nodes):
                into = {cell.edges[e][0]: e for e in cell.edges_into(node)}
                codes = [into[gene.source] * len(cell.ops) + cell.ops.index(gene.op) for gene in genes]
                places = min(cell.keep or len(into), len(into))
                found += codes + [-1] * (places - len(codes))
        return found

    def decode(self, code: list[int]) -> Genotype:
        """The inverse of `code`.

        Raises:
            BadInput: it is no cell of this space.
        """
        cells, numbers = {}, iter(code)
        try:
            for kind, cell in self.task.space.cells.items():
                nodes = []
                for node in range(cell.nodes):
                    into = cell.edges_into(node)
                    codes = [next(numbers) for _ in range(min(cell.keep or len(into), len(into)))]
                    parts = [divmod(c, len(cell.ops)) for c in codes if c >= 0]
                    nodes.append(tuple(Gene(cell.ops[o], cell.edges[e][0]) for e, o in parts))
                cells[kind] = CellGenes(tuple(nodes), cell.output, cell.inputs)
        except (StopIteration, IndexError) as error:
            raise BadInput("checkpoint", "trials", "are of another space", "use its own settings") from error
        return Genotype(self.task.space.name, cells)
