"""What a recurrent search was worth: perplexities of the supernet, of its pruned form, of cells trained from scratch.

Perplexity is exp(mean nats per target). The original divides by the number of rows although one row fewer is scored, so
its loss is low by (N - 1) / N: `perplexity_as_original` stands beside ours.
"""

from __future__ import annotations

import math
import random
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from darts_core.config import SearchConfig
from darts_core.data.text_plan import TextPlan
from darts_core.derive import one_hot
from darts_core.errors import BadInput
from darts_core.events import Result, Trained
from darts_core.genotype import Genotype, random_genotype
from darts_core.language import LanguageTask, perplexity, regularised, scored
from darts_core.mix import Mix
from darts_core.nets.fixed import parameters
from darts_core.nets.recurrent import RecurrentNetwork, zero_carry
from darts_core.optimise import Momentum, clipped
from darts_core.search.bilevel import VALIDATE_AT_MOST
from darts_core.search.state import State
from darts_core.seeds import seed
from darts_core.tasks import as_mix

COLUMNS = {"arch": 10, "test": 1}  # as the original evaluates: validation in ten columns, test in one


@dataclass
class Averaged:
    """Averaged SGD (Polyak and Juditsky 1992) as `torch.optim.ASGD` with t0 = 0 and lambd = 0: plain SGD steps, and the
    mean of the weights since it began. ASGD of PyTorch steps with the rate of the batch before; here it is its own.
    """

    count: int = 0
    mean: dict[str, Tensor] = field(default_factory=dict)

    @torch.no_grad()
    def add(self, params: Mapping[str, Tensor]) -> None:
        """Take the weights after a step into the mean."""
        self.count += 1
        for name, p in params.items():
            if name in self.mean:
                self.mean[name].add_(p - self.mean[name], alpha=1 / self.count)
            else:
                self.mean[name] = p.detach().clone()


def triggered(losses: Sequence[float], loss: float, patience: int) -> bool:
    """Should averaging begin? Non-monotonic trigger (Merity et al. 2018): the validation loss is above the least of all
    but the last `patience` ones. `losses` are those before this one; it is added afterwards, as the original does.
    """
    return len(losses) > patience and loss > min(losses[:-patience])


def score(
    net: RecurrentNetwork, plan: TextPlan, split: str, columns: int, weights: Mapping[str, Tensor] | None = None
) -> dict[str, float]:
    """{"loss", "accuracy", "perplexity", "perplexity_as_original"} over a whole split, the hidden state carried from
    its first word to its last, documents and all, without dropout; `weights` in place of the net's own.
    """
    net.eval()
    carry = zero_carry(columns, net.units, net.words)
    total, rows, nats, right = 0, 1, 0.0, 0.0
    with torch.no_grad():
        for batch in plan.eval_batches(split, columns, plan.length):
            if weights is None:
                said, carry = net(batch.tokens, carry)
            else:
                said, carry = torch.func.functional_call(net, dict(weights), (batch.tokens, carry))
            loss, accuracy = scored(said, batch)
            count = batch.targets.numel()
            total, nats, right = total + count, nats + float(loss) * count, right + float(accuracy) * count
            rows += len(batch.targets)
    net.train()
    loss = nats / total
    return {
        "loss": loss, "accuracy": right / total, "perplexity": perplexity(loss),
        "perplexity_as_original": perplexity(loss * (rows - 1) / rows),
    }  # fmt: skip


class Trainer:
    """One language model in training: SGD, then averaged SGD once the validation loss stops falling.

    The rate of a step is multiplied by its length over the usual one. `schedule` "constant" is the paper's; "cosine"
    falls to `w_lr_min`, for short trainings.
    """

    def __init__(self, task: LanguageTask, config: SearchConfig, net: RecurrentNetwork, index: int, **how: Any) -> None:
        self.config, self.net, self.index = config, net, index
        self.jitter: bool = how.get("jitter", False)
        self.patience: int = how.get("patience", 5)
        self.cosine: bool = how.get("cosine", False)
        self.plan = TextPlan(
            task.text, seed=seed(config.seed, "retrain data", index), batch=config.batch, arch_batch=config.batch,
            length=config.bptt, jitter=self.jitter, device=task.device,
        )  # fmt: skip
        self.params = dict(net.named_parameters())
        self.sgd = Momentum(self.params)
        self.averaged: Averaged | None = None
        self.losses: list[float] = []

    def rate(self, epoch: int, epochs: int) -> float:
        if not self.cosine:
            return self.config.w_lr
        return self.config.w_lr_min + (self.config.w_lr - self.config.w_lr_min) * (
            (1 + math.cos(math.pi * epoch / epochs)) / 2
        )

    def epoch(self, epoch: int, epochs: int) -> float:
        """Read the text once; the mean training loss in nats per token."""
        self.net.train()
        carry = zero_carry(self.config.batch, self.net.units, self.net.words)
        total = count = 0.0
        for step in range(self.plan.steps("all", epoch)):
            nats, carry = self.step(epoch, step, epochs, carry)
            total, count = total + nats, count + 1
        return total / count

    def step(self, epoch: int, index: int, epochs: int, carry: Tensor) -> tuple[float, Tensor]:
        """One stretch; its loss in nats and the hidden state behind it."""
        c, batch = self.config, self.plan.batch("all", epoch, index)
        torch.manual_seed(seed(c.seed, "retrain dropout", self.index, epoch, index))
        said, after = self.net(batch.tokens, carry)
        nats, _ = scored(said, batch)
        loss = regularised(nats, said, c.activation, c.slowness)
        grads = torch.autograd.grad(loss, list(self.params.values()), materialize_grads=True)
        number = float(nats.detach())
        if not math.isfinite(number):
            fix = "give a smaller w_lr, or state_clip above 0"
            raise BadInput("training", "loss", f"became {number} in epoch {epoch + 1}", fix)
        clipped(grads, c.clip)
        self.sgd.step(grads, self.rate(epoch, epochs) * batch.rate, c.momentum, c.w_decay)
        if self.averaged is not None:
            self.averaged.add(self.params)
        return number, after.detach()

    def weights(self) -> Mapping[str, Tensor] | None:
        """The weights to judge the model by: the averaged ones once there are some."""
        return self.averaged.mean if self.averaged is not None and self.averaged.mean else None

    def heard(self, loss: float) -> bool:
        """Take note of a validation loss; True when averaging begins with the next step."""
        begins = self.averaged is None and triggered(self.losses, loss, self.patience)
        if begins:
            self.averaged = Averaged()
        self.losses.append(loss)
        return begins


def compare(
    task: LanguageTask,
    config: SearchConfig,
    state: State,
    mix: Mix | None,
    genotype: Genotype,
    done: Sequence[Trained],
    supernet: Callable[[], Any],
) -> Iterator[Trained]:
    """The supernet, its pruned form, the derived cell and random cells, as `evaluate.compare` for images."""
    known = {(t.role, t.index) for t in done}
    if mix is not None:
        yield from _supernets(task, config, state, mix, genotype, known, supernet())
    if not config.retrain_epochs:
        return
    rng = random.Random(seed(config.seed, "random cells"))
    for index in range(max(1, config.random_cells)):
        other = random_genotype(task.space, rng)  # drawn in any case, so that the next one is the same after a resume
        if ("derived", index) not in known:
            yield train(task, config, genotype, "derived", index)
        if index < config.random_cells and ("random", index) not in known:
            yield train(task, config, other, "random", index)


def _supernets(
    task: LanguageTask, config: SearchConfig, state: State, mix: Mix, genotype: Genotype, known: set[tuple[str, int]],
    net: Any,
) -> Iterator[Trained]:  # fmt: skip
    """The supernet under its own mix, and under the derived cell's one-hot mix, with the weights of the search."""
    net.load_state_dict(net.pack({name: t.to(task.device) for name, t in state.weights.items()}))
    cells = task.space.cells
    hot = as_mix({kind: one_hot(cell, genotype.cells[kind]) for kind, cell in cells.items()}, task.device, task.dtype)
    for role, weighing in (("supernet", mix.to(task.dtype)), ("pruned", hot)):
        if (role, 0) in known:
            continue
        began = time.perf_counter()
        valid = task.measure(net, weighing, "arch", VALIDATE_AT_MOST)
        test = task.measure(net, weighing, "test", VALIDATE_AT_MOST)
        yield Trained(
            role=role,  # type: ignore[arg-type]
            index=0,
            seed=config.seed,
            genotype=genotype.to_json() if role == "pruned" else None,
            accuracy=valid["accuracy"],
            test_accuracy=test["accuracy"],
            parameters=parameters(net),
            seconds=time.perf_counter() - began,
            metrics={"valid_perplexity": valid["perplexity"], "test_perplexity": test["perplexity"]},
        )


def train(task: LanguageTask, config: SearchConfig, genotype: Genotype, role: str, index: int) -> Trained:
    """Train a derived cell from scratch for `retrain_epochs`, with the search's own rates, and test it.

    A pure function of its arguments: initial weights, stretches and masks come from (config.seed, index).
    """
    began = time.perf_counter()
    torch.manual_seed(seed(config.seed, "retrain weights", index))
    net = task.network(genotype)
    trainer = Trainer(task, config, net, index, cosine=config.w_lr_min < config.w_lr)
    nats = math.nan
    for epoch in range(config.retrain_epochs):
        nats = trainer.epoch(epoch, config.retrain_epochs)
    test = score(net, trainer.plan, "test", columns_for(task, "test"))
    return Trained(
        role=role,  # type: ignore[arg-type]
        index=index,
        seed=index,
        genotype=genotype.to_json(),
        accuracy=test["accuracy"],
        test_accuracy=test["accuracy"],
        parameters=parameters(net),
        seconds=time.perf_counter() - began,
        epochs=config.retrain_epochs,
        metrics={
            "train_perplexity": perplexity(nats), "test_perplexity": test["perplexity"],
            "test_perplexity_as_original": test["perplexity_as_original"],
        },
    )  # fmt: skip


def columns_for(task: LanguageTask, split: str) -> int:
    """Columns to evaluate with: ten, which changes the result little (each begins with an empty memory)."""
    return min(COLUMNS["arch"], task.longest(split))


def worth(task: LanguageTask, config: SearchConfig, state: State, result: Result) -> dict[str, Any]:
    """What an evaluation says at its end: perplexities and size of the model that it trained."""
    found = {name: value for name, value in result.metrics.items() if "perplexity" in name}
    return {**found, "parameters": sum(t.numel() for t in state.weights.values())}
