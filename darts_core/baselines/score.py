"""How good is a cell? Three ways, dear to cheap: train it for a short while, let shared weights judge it, look it up.

Each way answers to one interface: `step` spends one training step on the cell at hand (or none), and says the score
once it is known. All of its state is tensors by name, so that a search goes on in the middle of a trial.
"""

from __future__ import annotations

import math
import random
from collections.abc import Mapping
from typing import Any, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from darts_core import truth
from darts_core.config import SearchConfig
from darts_core.derive import one_hot
from darts_core.errors import BadInput
from darts_core.exhaustive import Recipe
from darts_core.genotype import Genotype, random_genotype
from darts_core.language import regularised, scored
from darts_core.mix import Mix
from darts_core.optimise import Momentum, clipped
from darts_core.seeds import seed

Numbers = dict[str, float]  # of a step: train_loss, train_accuracy, w_lr, w_grad_norm; on text perplexities
CARRY = "carry"  # among the momentum of a trial on text: its hidden state
COLUMNS = 10  # in which the validation text is read


class Scorer(Protocol):
    """A way to score cells, with its own networks and optimiser."""

    per_trial: int  # training steps that a score stands for; 0: none of its own

    def begin(self, number: int, genotype: Genotype) -> None:
        """Trial `number` (from 0) starts."""
        ...

    def step(self, genotype: Genotype, at: int, epoch: int, index: int) -> tuple[Numbers, float | None]:
        """Step `at` (from 0) of this trial, number (epoch, index) of the search: what was measured, and the score once
        it is known, which ends the trial.
        """
        ...

    def tensors(self) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """Weights (and statistics), and momentum, by name."""
        ...

    def restore(self, genotype: Genotype | None, weights: Mapping[str, Tensor], momentum: Mapping[str, Tensor]) -> None:
        """The inverse; `genotype` is the cell of an unfinished trial."""
        ...

    def steer(self, config: SearchConfig) -> None:
        """Settings changed."""
        ...


class Trainer:
    """One network and SGD, as `bilevel` trains weights: clipping, momentum, decay."""

    def __init__(self, net: nn.Module, config: SearchConfig) -> None:
        self.net, self.config = net, config
        self.sgd = Momentum(dict(net.named_parameters()))

    def step(self, loss: Tensor, accuracy: Tensor, rate: float) -> Numbers:
        """Lower the loss by one step at `rate`."""
        params = list(self.sgd.params.values())
        grads = torch.autograd.grad(loss, params, materialize_grads=True)
        norm = float(clipped(grads, self.config.clip))
        value = float(loss.detach())
        if not math.isfinite(value):
            raise BadInput("search", "training loss", "became NaN or infinite", "start again with a smaller w_lr")
        self.sgd.step(grads, rate, self.config.momentum, self.config.w_decay)
        return {"train_loss": value, "train_accuracy": float(accuracy), "w_lr": rate, "w_grad_norm": norm}

    def tensors(self) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        return {k: t.detach() for k, t in self.net.state_dict().items()}, dict(self.sgd.buffers)

    def restore(self, weights: Mapping[str, Tensor], momentum: Mapping[str, Tensor]) -> None:
        self.net.load_state_dict(dict(weights))
        self.sgd.buffers = {name: t.clone() for name, t in momentum.items()}


class Short:
    """Train the cell's network from scratch for `steps` steps, the rate falling to zero; score it on validation."""

    def __init__(self, task: Any, config: SearchConfig, steps: int, images: int) -> None:
        self.task, self.config, self.per_trial, self.images = task, config, steps, images
        self.trainer: Trainer | None = None
        self.carry: Tensor | None = None  # on text: the hidden state behind the last stretch

    def begin(self, number: int, genotype: Genotype) -> None:
        torch.manual_seed(seed(self.config.seed, "trial weights", number))
        self.trainer = Trainer(self.task.network(genotype).train(), self.config)

    def step(self, genotype: Genotype, at: int, epoch: int, index: int) -> tuple[Numbers, float | None]:
        assert self.trainer is not None, "a trial begins before its first step"
        images, labels = self.task.batch("weights", epoch, index)
        logits = logits_of(self.trainer.net(images))
        rate = self.config.w_lr * (1 + math.cos(math.pi * at / self.per_trial)) / 2
        right = (logits.detach().argmax(-1) == labels).float().mean()
        numbers = self.trainer.step(F.cross_entropy(logits, labels), right, rate)
        return numbers, self._score() if at + 1 == self.per_trial else None

    @torch.no_grad()
    def _score(self) -> float:
        assert self.trainer is not None
        net, right, total = self.trainer.net.eval(), 0, 0
        for images, labels in self.task.eval_batches("arch", min(250, self.images)):
            right += int((logits_of(net(images)).argmax(-1) == labels).sum())
            total += len(labels)
            if total >= self.images:
                break
        net.train()
        return right / total

    def tensors(self) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        return self.trainer.tensors() if self.trainer else ({}, {})

    def steer(self, config: SearchConfig) -> None:
        self.config = config
        if self.trainer is not None:
            self.trainer.config = config

    def restore(self, genotype: Genotype | None, weights: Mapping[str, Tensor], momentum: Mapping[str, Tensor]) -> None:
        if genotype is not None and weights:
            self.begin(0, genotype)
            assert self.trainer is not None
            self.trainer.restore(weights, momentum)


class Reading(Short):
    """The same on text: stretches of the training text one after the other, the hidden state carried from each to the
    next; scored by the share of tokens of the validation text that are found likeliest.
    """

    def begin(self, number: int, genotype: Genotype) -> None:
        super().begin(number, genotype)
        self.carry = None

    def step(self, genotype: Genotype, at: int, epoch: int, index: int) -> tuple[Numbers, float | None]:
        assert self.trainer is not None, "a trial begins before its first step"
        c, batch = self.config, self.task.batch("weights", epoch, index)
        before = self.task.carry("weights") if self.carry is None or index == 0 else self.carry
        torch.manual_seed(seed(c.seed, "trial dropout", epoch, index))
        said, after = self.trainer.net(batch.tokens, before)
        nats, right = scored(said, batch)
        rate = c.w_lr * batch.rate * (1 + math.cos(math.pi * at / self.per_trial)) / 2
        numbers = self.trainer.step(regularised(nats, said, c.activation, c.slowness), right, rate)
        found, self.carry = {"train_nats": float(nats.detach())}, after.detach()
        score = None
        if at + 1 == self.per_trial:
            score, numbers["val_loss"] = self._read()
            found["val_nats"] = numbers["val_loss"]
        return numbers | self.task.step_metrics(found), score

    @torch.no_grad()
    def _read(self) -> tuple[float, float]:
        """Accuracy and mean nats over at least so many tokens from the beginning of the validation text."""
        assert self.trainer is not None
        net: Any = self.trainer.net.eval()
        columns = min(COLUMNS, self.task.longest("arch"))
        carry, right, nats, total = self.task.carry("weights")[:1].expand(columns, -1), 0.0, 0.0, 0
        for batch in self.task.eval_batches("arch", columns):
            said, carry = net(batch.tokens, carry)
            loss, accuracy = scored(said, batch)
            count = batch.targets.numel()
            right, nats, total = right + float(accuracy) * count, nats + float(loss) * count, total + count
            if total >= self.images:
                break
        net.train()
        return right / total, nats / total

    def tensors(self) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        weights, momentum = super().tensors()
        return weights, momentum | ({} if self.carry is None else {CARRY: self.carry})

    def restore(self, genotype: Genotype | None, weights: Mapping[str, Tensor], momentum: Mapping[str, Tensor]) -> None:
        super().restore(genotype, weights, {name: t for name, t in momentum.items() if name != CARRY})
        self.carry = momentum.get(CARRY)


def logits_of(output: Any) -> Tensor:
    """Of networks with an auxiliary head, the main output."""
    return output[0] if isinstance(output, tuple) else output


class Shared:
    """One supernet whose every step trains a cell drawn at random; later it scores cells with these shared weights.

    Random search with weight sharing (Li and Talwalkar 2019); evolution and REINFORCE use the same
    weights. The first `share` of all steps train, each later step scores one cell. A score needs a forward pass only,
    but is counted as a step.
    """

    per_trial = 0

    def __init__(self, task: Any, config: SearchConfig, share: float, images: int) -> None:
        self.task, self.config, self.images = task, config, images
        self.training = max(1, int(share * config.epochs * task.steps("weights")))
        torch.manual_seed(seed(config.seed, "weights", 0))
        self.trainer = Trainer(task.supernet(task.space), config)

    def begin(self, number: int, genotype: Genotype) -> None:
        pass

    def mix(self, genotype: Genotype) -> Mix:
        """The cell as weights of the supernet: 1 where it has an operation, 0 elsewhere; only these are run."""
        hot = {k: torch.from_numpy(one_hot(c, genotype.cells[k])) for k, c in self.task.space.cells.items()}
        rows = {k: t.to(self.task.device, self.task.dtype) for k, t in hot.items()}
        active = {k: tuple(frozenset(row.nonzero().flatten().tolist()) for row in t) for k, t in hot.items()}
        return Mix(rows, active=active)

    def step(self, genotype: Genotype, at: int, epoch: int, index: int) -> tuple[Numbers, float | None]:
        done = epoch * self.task.steps("weights") + index
        if done >= self.training:
            return {}, self.task.measure(self.trainer.net, self.mix(genotype), "arch", self.images)["accuracy"]
        path = random_genotype(self.task.space, random.Random(seed(self.config.seed, "path", epoch, index)))
        batch = self.task.batch("weights", epoch, index)
        loss = self.task.loss(self.trainer.net, None, self.mix(path), batch, None, "weights")
        rate = self.config.w_lr * (1 + math.cos(math.pi * done / self.training)) / 2
        return self.trainer.step(loss.value, loss.metrics["accuracy"], rate), None

    def tensors(self) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        net: Any = self.trainer.net
        weights = net.unpack({n: p.detach() for n, p in net.named_parameters()})
        momentum = {n: self.trainer.sgd.buffer(n) for n in self.trainer.sgd.params}
        return weights, net.unpack(momentum) if self.trainer.sgd.buffers else {}

    def restore(self, genotype: Genotype | None, weights: Mapping[str, Tensor], momentum: Mapping[str, Tensor]) -> None:
        net: Any = self.trainer.net
        packed = net.pack(dict(momentum)) if momentum else {}
        self.trainer.restore(net.pack(dict(weights)), packed)

    def steer(self, config: SearchConfig) -> None:
        self.config = self.trainer.config = config


class LookedUp:
    """What the table of this space has for the cell: the validation accuracy of one seed, as one training gives it."""

    def __init__(self, task: Any, config: SearchConfig) -> None:
        table = truth.table_of(config.space, config.dataset, config.own_space)
        if table is None:
            what = f"there is no table of {config.space_entry[0]} on {config.dataset}"
            raise BadInput("settings", "score", what, "use space nb3 with digits, make one: tiny build, or score=short")
        self.table, self.seed, self.per_trial = table, config.seed % table.seeds, Recipe().steps

    def begin(self, number: int, genotype: Genotype) -> None:
        pass

    def step(self, genotype: Genotype, at: int, epoch: int, index: int) -> tuple[Numbers, float | None]:
        return {}, float(self.table.valid[self.table.number(genotype), self.seed])

    def tensors(self) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        return {}, {}

    def restore(self, genotype: Genotype | None, weights: Mapping[str, Tensor], momentum: Mapping[str, Tensor]) -> None:
        pass

    def steer(self, config: SearchConfig) -> None:
        pass
