"""Train a recurrent cell from scratch on text, as a run of its own: the evaluation of DARTS on PTB and WikiText-2.

Stretches of varying length, the learning rate in proportion to it, SGD without momentum, slowness and activation terms,
and averaged SGD from the epoch on in which the validation loss has stopped falling. The hidden state is carried from
the first word of the text to the last. Source: DARTS (Liu et al. 2019, appendix A.3.2) and its code (rnn/train.py).
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterator
from contextlib import nullcontext
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from darts_core.chance import reseed
from darts_core.config import SearchConfig
from darts_core.data.text_plan import TextPlan
from darts_core.events import Epoch, Event, Phase, Result, Sample, Step, Trained
from darts_core.language import LanguageTask, perplexity, regularised, sample, scored
from darts_core.nets.fixed import parameters
from darts_core.nets.recurrent import RecurrentNetwork, zero_carry
from darts_core.optimise import AVERAGING, Averaged, Momentum, clipped, triggered
from darts_core.search.host import Host, Snapshot, Waits
from darts_core.search.pace import Pace
from darts_core.search.state import State
from darts_core.seeds import seed
from darts_core.training import Training, training

VALID_COLUMNS = 10  # as the original validates
SAMPLED = {"word": 60, "char": 240}  # tokens


@torch.no_grad()
def score(net: nn.Module, plan: TextPlan, split: str, columns: int) -> dict[str, float]:
    """{"loss", "accuracy", "perplexity", "perplexity_as_original"} over a whole split, without dropout, the hidden
    state carried from its first word to its last.

    The original divides by the number of rows although one row fewer is scored, so its loss is low by (N - 1) / N.
    """
    net.eval()
    like = next(net.parameters())
    carry = zero_carry(columns, net.units, like)  # type: ignore[arg-type]
    total, rows, nats, right = 0, 1, 0.0, 0.0
    for batch in plan.eval_batches(split, columns, plan.length):
        said, carry = net(batch.tokens, carry)
        loss, accuracy = scored(said, batch)
        count = batch.targets.numel()
        total, rows = total + count, rows + len(batch.targets)
        nats, right = nats + float(loss) * count, right + float(accuracy) * count
    net.train()
    loss = nats / total
    as_original = perplexity(loss * (rows - 1) / rows)
    return {
        "loss": loss, "accuracy": right / total, "perplexity": perplexity(loss), "perplexity_as_original": as_original,
    }  # fmt: skip


class LanguageTraining(Training):
    """One language model in training: the loop, the orders and the files of `Training`, the steps of a text."""

    def __init__(self, task: LanguageTask, config: SearchConfig, host: Host) -> None:
        self.text_task, self.config, self.host = task, config, host
        self.task: Any = task
        self.options = training(**config.options)  # type: ignore[arg-type]
        self.cell = config.genotype()
        torch.manual_seed(seed(config.seed, "weights", 0))
        self.net: RecurrentNetwork = task.network(self.cell)
        self.params = dict(self.net.named_parameters())
        self.sgd = Momentum(self.params)
        self.held_out = "test" if self.options.train_on == "all" else "arch"
        self.averaged: Averaged | None = None
        self.plan = TextPlan(
            task.text, seed=config.seed, batch=config.batch, arch_batch=VALID_COLUMNS, length=config.bptt,
            jitter=self.options.jitter, device=task.device,
        )  # fmt: skip
        self.total = sum(self.plan.steps("all", epoch) for epoch in range(config.epochs))
        self.step = self.epoch = self.index = 0
        self.pace, self.began = Pace(), time.perf_counter()
        self.history: list[dict[str, Any]] = []
        self.sums: dict[str, float] = {}
        self.carry = self.fresh()
        self.mix = {k: cell.legal_array().astype(np.float32) for k, cell in task.space.cells.items()}

    @property
    def steps(self) -> int:  # type: ignore[override]
        """Stretches of this epoch: their lengths vary, so their number does."""
        return self.plan.steps("all", self.epoch)

    def fresh(self) -> Tensor:
        return zero_carry(self.config.batch, self.config.units, self.net.words)

    def begins(self) -> Phase:
        words = f"{self.total} steps in {self.config.epochs} epochs; validation means the validation text"
        return Phase("train", words, total_steps=self.total)

    def one_step(self) -> Step:
        """SGD on one stretch; after the last one of an epoch the validation text is measured."""
        c, batch = self.config, self.plan.batch("all", self.epoch, self.index)
        reseed(seed(c.seed, "dropout", 0, self.epoch, self.index))
        said, after = self.net(batch.tokens, self.carry)
        nats, accuracy = scored(said, batch)
        grads = torch.autograd.grad(
            regularised(nats, said, c.activation, c.slowness), list(self.params.values()), materialize_grads=True
        )
        numbers: dict[str, float] = dict.fromkeys(c.step_metrics, math.nan)
        numbers["train_loss"], numbers["train_accuracy"] = self.finite(nats, "training loss"), float(accuracy)
        numbers["w_lr"] = self.rate() * batch.rate
        numbers["w_grad_norm"] = self.finite(clipped(grads, c.clip), "gradient of the weights")
        numbers |= self.text_task.step_metrics({"train_nats": numbers["train_loss"]})
        self.sgd.step(grads, self.rate() * batch.rate, c.momentum, c.w_decay)
        if self.averaged is not None:
            self.averaged.add(self.params)
        self.carry = after.detach()
        for name in ("train_loss", "train_accuracy"):
            self.sums[name] = self.sums.get(name, 0.0) + numbers[name]
        last_of_epoch = self.index + 1 == self.steps
        self.step, self.index = self.step + 1, self.index + 1
        if last_of_epoch:
            valid = self.measured("arch")
            numbers["val_loss"], numbers["val_accuracy"] = valid["loss"], valid["accuracy"]
            numbers["val_perplexity"] = valid["perplexity"]
            self.sums |= {f"val_{name}": value for name, value in valid.items()}
        return Step(self.step, self.epoch, 0, 0, numbers, {}, self.mix)

    def measured(self, split: str) -> dict[str, float]:
        """By the averaged weights once there are some: validation in ten columns, the test text in `test_columns`
        (the original: one).
        """
        columns = VALID_COLUMNS if split == "arch" else self.options.test_columns
        with self.averaged.standing_in(self.params) if self.averaged else nullcontext():
            return score(self.net, self.plan, split, min(columns, self.text_task.longest(split)))

    def ends_epoch(self, seconds: float) -> Iterator[Event]:
        """Means of the epoch, a text that the model writes, and the news when averaging begins."""
        steps = self.steps
        metrics = {name: self.sums[name] / steps for name in ("train_loss", "train_accuracy")}
        metrics["train_perplexity"] = perplexity(metrics["train_loss"])
        metrics |= {f"valid_{n.removeprefix('val_')}": v for n, v in self.sums.items() if n.startswith("val_")}
        metrics["averaged"] = float(self.averaged is not None)
        if self.text_task.text.floor is not None:
            metrics["floor_perplexity"] = math.exp(self.text_task.text.floor)
        losses = [entry["metrics"]["valid_loss"] for entry in self.history]
        self.history.append({"epoch": self.epoch, "metrics": metrics})
        said = {"derived_skips": self.cell.count("identity", "recurrent"), "derived_edges": len(self.mix["recurrent"])}
        said |= {"mean_skip_weight": 0.0, "level": "healthy"}
        yield Epoch(self.epoch, self.step, metrics, {}, self.cell.to_json(), said, seconds)
        yield Sample(self.step, self.epoch, self.written())
        if self.averaged is None and triggered(losses, metrics["valid_loss"], self.config.patience):
            self.averaged = Averaged()
            yield Phase("train", AVERAGING.format(epoch=self.epoch + 2))
        self.epoch, self.index, self.sums, self.carry = self.epoch + 1, 0, {}, self.fresh()

    def written(self) -> str:
        text = self.text_task.text
        number = seed(self.config.seed, "sample", self.epoch)
        return sample(self.net, text, None, SAMPLED[text.level], number)

    def end(self, stopped: bool) -> Iterator[Event]:
        """The test text, read once, as a `Trained`; then the result. A training judged by validation never reads it."""
        last = dict(self.history[-1]["metrics"]) if self.history else {}
        test = self.measured("test") if self.held_out == "test" else None
        if test is not None:
            last |= {f"test_{name}": value for name, value in test.items()}
        elif "valid_accuracy" not in last:  # stopped before the first epoch was over
            last |= {f"valid_{name}": value for name, value in self.measured("arch").items()}
        yield Trained(
            role="derived",
            index=0,
            seed=self.config.seed,
            genotype=self.cell.to_json(),
            accuracy=last["valid_accuracy"] if "valid_accuracy" in last else last["test_accuracy"],
            test_accuracy=None if test is None else test["accuracy"],
            parameters=parameters(self.net),
            seconds=time.perf_counter() - self.began,
            epochs=len(self.history),
            metrics={name: value for name, value in last.items() if "perplexity" in name},
        )
        yield Result(self.step, max(0, self.epoch - 1), self.cell.to_json(), last, stopped)

    def state(self) -> State:
        """As of any training, with the averaged weights and the hidden state."""
        state = super().state()
        state.carry = {"weights": self.carry}
        if self.averaged is not None:
            state.w_optimiser |= self.averaged.saved(self.net.unpack)
        return state

    def restore(self, state: State) -> None:
        """Go on from `state`; averaging goes on where it had begun."""
        self.averaged = Averaged.of(state.w_optimiser, self.net.pack, self.text_task.device)
        super().restore(state)
        self.carry = state.carry["weights"].to(self.text_task.device)


def language_training(task: LanguageTask, config: SearchConfig, host: Host) -> Iterator[Event | Snapshot | Waits]:
    """The evaluation of a recurrent cell as a strategy."""
    return LanguageTraining(task, config, host).run()
