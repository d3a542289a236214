"""Predict the next token: the task of a recurrent search. What is carried from step to step is the hidden state.

Differs from images in the loss (DARTS, section 3.2 and appendix A.1.2: slowness and activation terms in the weight
step) and in what an epoch is: a text read once, in stretches, from the first word to the last.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call

from darts_core.config import SearchConfig
from darts_core.data.text import Text, load_text
from darts_core.data.text_plan import TextBatch, TextPlan
from darts_core.errors import BadInput
from darts_core.genotype import Genotype
from darts_core.mix import Mix
from darts_core.nets.kernels import Kernels, build
from darts_core.nets.recurrent import Decoded, Rates, RecurrentNetwork, RecurrentSupernet, zero_carry
from darts_core.search.method import Loss, Weights
from darts_core.space import SearchSpace
from darts_core.tasks import ImageTask, image_task

EVALUATED_ROWS = 2_000  # of the validation text at the end of an epoch: rows times columns tokens
LARGEST = 30 * math.log(10)  # nats per token whose exponential is still told apart
SAMPLED = {"word": 40, "char": 200}  # tokens of the text that a page shows


class LanguageTask:
    """A language model on a text: cross-entropy of the next token in nats, accuracy of the likeliest one."""

    def __init__(
        self,
        config: SearchConfig,
        text: Text,
        device: torch.device | str = "cpu",
        dtype: torch.dtype = torch.float32,
    ) -> None:
        self.config, self.text = config, text
        self.space = config.search_space()
        self.device, self.dtype = torch.device(device), dtype
        self.plan = TextPlan(
            text, seed=config.seed, batch=config.batch, arch_batch=config.architecture_batch, length=config.bptt,
            device=self.device,
        )  # fmt: skip
        self.rates = Rates(
            config.dropout, config.dropout_hidden, config.dropout_input, config.dropout_embedding, config.dropout_words
        )

    def supernet(self, space: SearchSpace, **net: Any) -> RecurrentSupernet:
        """The language model around the mixed cell in the form that the backend says; `auto`, which a driver settles
        beforehand, is `fast`.

        Raises:
            BadInput: the method wants a structural option that a recurrent cell does not have, or the compiled form
                is wanted, and it cannot be built here.
        """
        for name, value in net.items():
            if (name, value) == ("partial_channels", 1):  # one channel in one: all of them
                continue
            missing = {"more_cells": "cells to add to", "extra_skip": "skip connection to add"}
            what = f"a recurrent network has no {missing.get(name, name.replace('_', ' '))}, as this method wants"
            fix = "choose another method, for example darts"
            if name == "partial_channels":
                own, worn = self.config.partial_options()
                fix = f"let all channels through: set {' and '.join(f'{option}=1' for option in (*own, *worn))}"
            raise BadInput("settings", "strategy", what, fix)
        fast = self.config.backend != "reference"
        kernels = Kernels(build.build()) if self.config.backend == "compiled" else None
        sizes = (self.vocabulary, self.config.units)
        made = RecurrentSupernet(space, *sizes, self.rates, self.config.state_clip, fast, kernels)
        return made.to(self.device, self.dtype)

    def network(self, genotype: Genotype) -> RecurrentNetwork:
        made = RecurrentNetwork(genotype, self.vocabulary, self.config.units, self.rates, self.config.state_clip)
        return made.to(self.device, self.dtype)

    @property
    def vocabulary(self) -> int:
        return len(self.text.vocabulary)

    def steps(self, split: str) -> int:
        return self.plan.steps(split)

    def batch(self, split: str, epoch: int, index: int) -> TextBatch:
        return self.plan.batch(split, epoch, index)

    def rate_scale(self, epoch: int, index: int) -> float:
        """Length of this stretch over the usual one: the learning rate is multiplied by it (the original)."""
        return self.plan.stretches("weights", epoch)[index][1] / self.plan.length

    def part(self, batch: TextBatch, size: int) -> TextBatch:
        """The whole batch: its columns belong to the hidden state that is carried."""
        return batch

    def costs(self, measure: str) -> Mapping[str, Tensor]:
        what = "operations of a recurrent cell are all functions of numbers"
        raise BadInput("settings", "price", f"{what}, and cost nearly the same", "set price=0")

    def carry(self, split: str) -> Tensor:
        """The hidden state before a text: zeros (columns, units)."""
        columns = self.plan.rows[split].shape[1]
        return zero_carry(columns, self.config.units, torch.empty(0, dtype=self.dtype, device=self.device))

    def loss(
        self, net: nn.Module, weights: Weights | None, mix: Mix, batch: TextBatch, carry: Tensor, phase: str
    ) -> Loss:
        """Cross-entropy (nats per token); in the weight step with the slowness and activation terms.

        The metric `nats` is the cross-entropy alone: its exponential is the perplexity.
        """
        given = (batch.tokens, mix, carry)
        said, after = net(*given) if weights is None else functional_call(net, dict(weights), given)
        nats, accuracy = scored(said, batch)
        value = nats
        if phase == "weights":
            value = regularised(nats, said, self.config.activation, self.config.slowness)
        return Loss(value, after, {"accuracy": accuracy, "nats": nats.detach()})

    @torch.no_grad()
    def measure(self, net: nn.Module, mix: Mix, split: str, at_most: int) -> dict[str, float]:
        """{"loss", "accuracy", "perplexity"} of the supernet under `mix`, without dropout, with as many columns as a
        batch (batch norm is of the batch), over at most `EVALUATED_ROWS` rows.
        """
        net.eval()
        columns = min(self.config.batch, self.longest(split))
        carry = self.carry("weights")[:columns]
        total = nats = right = 0.0
        for batch in self.plan.eval_batches(split, columns, self.config.bptt):
            said, carry = net(batch.tokens, mix, carry)
            loss, accuracy = scored(said, batch)
            count = batch.targets.numel()
            total, nats, right = total + count, nats + float(loss) * count, right + float(accuracy) * count
            if total >= EVALUATED_ROWS * columns:
                break
        net.train()
        return {"loss": nats / total, "accuracy": right / total, "perplexity": perplexity(nats / total)}

    def longest(self, split: str) -> int:
        """The most columns that a split's text can be cut into."""
        return len({"arch": self.text.valid, "test": self.text.test}.get(split, self.text.train)) // 3

    def step_metrics(self, found: Mapping[str, Any]) -> dict[str, float]:
        """Perplexities of a step's batches, and the floor under them (NaN where it is not known)."""
        floor = math.nan if self.text.floor is None else math.exp(self.text.floor)
        known = [split for split in ("train", "val") if f"{split}_nats" in found]
        return {"floor_perplexity": floor} | {f"{s}_perplexity": perplexity(float(found[f"{s}_nats"])) for s in known}

    def sampled(self, net: nn.Module, mix: Mix, seed: int) -> str:
        """Some tokens that the supernet writes, with as many columns as a batch."""
        length = SAMPLED[self.text.level]
        return sample(net, self.text, mix.to(self.dtype), length, seed, columns=min(self.config.batch, 16))

    def described(self) -> str:
        """The data in a sentence."""
        text = self.text
        counts = " / ".join(f"{len(part):,}" for part in (text.train, text.valid, text.test))
        notes = "".join(f"; {note}" for note in text.notes)
        unit = {"word": "words", "char": "characters"}[text.level]
        return f"{text.name}: {counts} {unit} for training / validation / test, {self.vocabulary:,} different{notes}"

    def eval_batches(self, split: str, columns: int) -> Iterator[TextBatch]:
        return self.plan.eval_batches(split, columns, self.config.bptt)


def scored(said: Decoded, batch: TextBatch) -> tuple[Tensor, Tensor]:
    """Cross-entropy in nats per token, and the share of targets that the model finds likeliest."""
    return said.scored(batch.targets)


def regularised(nats: Tensor, said: Decoded, activation: float, slowness: float) -> Tensor:
    """The loss of a weight step: + activation * mean(dropped^2) + slowness * mean((h_t+1 - h_t)^2) (Merity et al. 2018,
    AR and TAR).
    """
    total = nats
    if activation:
        total = total + activation * said.dropped.pow(2).mean()
    if slowness and len(said.raw) > 1:
        total = total + slowness * (said.raw[1:] - said.raw[:-1]).pow(2).mean()
    return total


def perplexity(nats: float) -> float:
    """exp(nats), at most 1e30: records and files hold finite numbers."""
    return math.exp(min(nats, LARGEST)) if nats == nats else math.nan


def language_task(config: SearchConfig, device: torch.device) -> LanguageTask:
    """Load the text of a configuration."""
    return LanguageTask(config, load_text(config.dataset, config.path, config.level, config.subset), device)


def task_of(config: SearchConfig, device: torch.device, clean: bool = False) -> ImageTask | LanguageTask:
    """Load the data of a configuration, images or text; `clean=True` leaves the label noise of images out."""
    return language_task(config, device) if config.of_text else image_task(config, device, clean=clean)


@torch.no_grad()
def sample(
    net: nn.Module,
    text: Text,
    mix: Mix | None,
    length: int,
    seed: int,
    temperature: float = 1.0,
    start: str = "",
    columns: int = 1,
) -> str:
    """Text that a model writes, `length` tokens drawn one by one from its predictions.

    A supernet (`mix` given) normalises over a batch, so it writes `columns` texts at once, of which one is returned.

    Raises:
        BadInput: `start` has a token that the vocabulary does not have.
    """
    generator = torch.Generator().manual_seed(seed)
    count = columns if mix is not None else 1
    device = next(net.parameters()).device
    number = {word: i for i, word in enumerate(text.vocabulary)}
    begin = list(start) if text.level == "char" else start.split()
    for token in begin:
        if token not in number:
            raise BadInput("generate", "start", f"{token[:40]!r} is not in the vocabulary", "begin with other words")
    draws = torch.randint(len(text.train) - 1, (count,), generator=generator)
    tokens = text.train[draws][None].to(device)  # without a beginning: a token of the text
    if begin:
        tokens = torch.tensor([number[token] for token in begin], device=device)[:, None].expand(-1, count)
    carry = zero_carry(count, net.units, net.words)  # type: ignore[arg-type]
    training = net.training
    net.eval()
    written = [int(token) for token in tokens[:, 0]]
    for _ in range(length):
        said, carry = net(tokens, mix, carry) if mix is not None else net(tokens, carry)
        share = torch.softmax(said.logits[-1].double().cpu() / max(temperature, 1e-6), -1)
        tokens = torch.multinomial(share, 1, generator=generator).t().to(device)
        written.append(int(tokens[0, 0]))
    net.train(training)
    return text.written(written)
