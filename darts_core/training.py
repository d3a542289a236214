"""Train one cell from scratch: the evaluation of DARTS as a generator of the events that a search yields.

One pass over the training images after another: SGD with momentum along a falling rate, clipped gradients, drop path
that ramps up with the epochs, a second classifier in the middle of the network whose loss counts a part. Nothing is
picked by test accuracy: the number that counts is that of the last epoch.

Source: DARTS (Liu et al. 2019, section 3.2, appendix A.2 and A.3) and its code (cnn/train.py, cnn/train_imagenet.py).
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from typing import Annotated, Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from darts_core import derive as derivation
from darts_core.chance import reseed
from darts_core.config import SearchConfig, steerable
from darts_core.data.plan import Split
from darts_core.errors import BadInput, unknown
from darts_core.events import STEP_METRICS, Applied, Epoch, Event, Order, Phase, Result, Step, Trained
from darts_core.mix import Alphas
from darts_core.nets.fixed import Network, parameters
from darts_core.optimise import Momentum, clipped
from darts_core.search.host import Host, Snapshot, Waits, heard
from darts_core.search.option import Choice, Range
from darts_core.search.pace import Pace
from darts_core.search.rates import annealed
from darts_core.search.state import State
from darts_core.seeds import seed
from darts_core.tasks import ImageTask

FALL = 0.97  # per epoch, of the ImageNet schedule


@dataclass(frozen=True)
class Options:
    """What an evaluation can be told beyond the settings of every run."""

    genotype: str
    label: str
    stem: str
    auxiliary: float
    drop_path: float
    label_smoothing: float
    schedule: str
    train_on: str
    test_every: int
    stream: bool
    workers: int
    jitter: bool
    test_columns: int


def training(
    genotype: Annotated[str, "The cell: a genotype as JSON, or the name of a released one."] = "DARTS_V2",
    label: Annotated[str, "What to call the cell."] = "",
    stem: Annotated[str, Choice("cifar", "imagenet"), "cifar keeps the image's size; imagenet: an eighth."] = "cifar",
    auxiliary: Annotated[float, Range(0, 10), "Weight of the auxiliary head's loss; 0: there is no such head."] = 0.4,
    drop_path: Annotated[float, Range(0, 0.95), "Drop-path rate that the last epochs reach; it rises from 0."] = 0.2,
    label_smoothing: Annotated[float, Range(0, 0.5), "Share of each label spread over all classes."] = 0.0,
    schedule: Annotated[str, Choice("cosine", "step"), "cosine falls to w_lr_min; step by 3 % per epoch."] = "cosine",
    train_on: Annotated[
        str,
        Choice("all", "split"),
        "all: every training image, measured on test images; split: the weights' share, measured on the other. Text is "
        "always trained on whole; with split its test part is not read.",
    ] = "all",
    test_every: Annotated[int, Range(1, 1000), "Epochs between measurements; the last is always measured."] = 1,
    stream: Annotated[bool, "Read images from their folder while training, instead of holding them in memory."] = False,
    workers: Annotated[int, Range(0, 64), "Processes that read images ahead, where they are streamed."] = 0,
    jitter: Annotated[bool, "Text: stretches of varying length (normal, deviation 5), as the original trains."] = False,
    test_columns: Annotated[
        int, Range(1, 1000), "Text: columns in which the test text is read; 1 reads it in one, as the original."
    ] = 10,
) -> Options:
    """Train one cell from scratch, as the paper evaluates what a search found."""
    return Options(**locals())


def training_strategy(task: Any, config: SearchConfig, host: Host) -> Iterator[Event | Snapshot | Waits]:
    """The evaluation as a strategy: the same driver, folder and board as for a search."""
    return Training(task, config, host).run()


class Training:
    """One network in training. Holds the weights and the momentum; yields everything else."""

    def __init__(self, task: ImageTask, config: SearchConfig, host: Host) -> None:
        self.task, self.config, self.host = task, config, host
        self.options = training(**config.options)  # type: ignore[arg-type]
        self.cell = config.genotype()
        torch.manual_seed(seed(config.seed, "weights", 0))
        self.net: Any = network(task, config)
        if task.device.type == "cuda":
            self.net = self.net.to(memory_format=torch.channels_last)
        self.params = dict(self.net.named_parameters())
        self.sgd = Momentum(self.params)
        self.split: Split = "all" if self.options.train_on == "all" else "weights"
        self.held_out: Split = "test" if self.options.train_on == "all" else "arch"
        self.steps = task.steps(self.split)
        self.total = config.epochs * self.steps
        self.step = self.epoch = self.index = 0
        self.pace, self.began = Pace(), time.perf_counter()
        self.history: list[dict[str, Any]] = []
        self.sums: dict[str, float] = {}
        self.mix = {k: cell.legal_array().astype(np.float32) for k, cell in task.space.cells.items()}

    def run(self) -> Iterator[Event | Snapshot | Waits]:
        """Phase, steps with their orders, an epoch event after each epoch, what it is worth, and the result."""
        if self.host.start is not None:
            self.restore(self.host.start)
        yield self.begins()
        if self.host.start is None:
            yield Snapshot(self.state(), "start")
        while self.epoch < self.config.epochs:
            began = time.perf_counter()
            while self.index < self.steps:
                if ending := (yield from heard(self)):
                    if ending == "stop":
                        yield from self.end(stopped=True)
                    return
                self.pace.keep(self.config.pace)
                yield self.one_step()
            yield from self.ends_epoch(time.perf_counter() - began)
            yield Snapshot(self.state(), "epoch")
        yield from self.end(stopped=False)

    def begins(self) -> Phase:
        where = "test images, as the released code does" if self.held_out == "test" else "held-out training images"
        words = f"{self.total} steps in {self.config.epochs} epochs; validation means {where}"
        return Phase("train", words, total_steps=self.total)

    def ends_epoch(self, seconds: float) -> Iterator[Event]:
        """What is told at the end of an epoch."""
        yield self.end_epoch(seconds)

    def rate(self) -> float:
        """The learning rate of this epoch, a closed form."""
        if self.options.schedule == "step":
            return self.config.w_lr * FALL**self.epoch
        return annealed(self.config, self.epoch)

    def one_step(self) -> Step:
        """SGD on one batch; after the last batch of an epoch the held-out images are measured."""
        images, labels = self.task.batch(self.split, self.epoch, self.index)
        reseed(seed(self.config.seed, "dropout", 0, self.epoch, self.index))
        loss, accuracy = self.loss(images, labels)
        params = list(self.params.values())
        grads = torch.autograd.grad(loss, params, materialize_grads=True)
        numbers: dict[str, float] = dict.fromkeys(STEP_METRICS, math.nan)
        numbers["train_loss"], numbers["w_lr"] = self.finite(loss, "training loss"), self.rate()
        numbers["train_accuracy"] = float(accuracy)
        numbers["w_grad_norm"] = self.finite(clipped(grads, self.config.clip), "gradient of the weights")
        self.sgd.step(grads, self.rate(), self.config.momentum, self.config.w_decay)
        for name in ("train_loss", "train_accuracy"):
            self.sums[name] = self.sums.get(name, 0.0) + numbers[name]
        self.step, self.index = self.step + 1, self.index + 1
        last = self.epoch + 1 == self.config.epochs
        if self.index == self.steps and (last or (self.epoch + 1) % self.options.test_every == 0):
            measured = measure(self.task, self.net, self.held_out)
            numbers["val_loss"], numbers["val_accuracy"] = measured["loss"], measured["accuracy"]
            self.sums |= {"val_loss": measured["loss"], "val_accuracy": measured["accuracy"]}
        return Step(self.step, self.epoch, 0, 0, numbers, {}, self.mix)

    def loss(self, images: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        """Cross-entropy of both heads, and the share of images named rightly; 0-d each."""
        drop_rate = self.options.drop_path * self.epoch / self.config.epochs  # 0 at first, never quite the full rate
        kind, half = self.task.device.type, self.config.precision == "bfloat16"
        with torch.autocast(kind, torch.bfloat16, enabled=half):
            if isinstance(self.net, Network):
                logits, extra = self.net.both(images, drop_rate)
            else:
                logits, extra = self.net(images, drop_rate), None
        smooth = self.options.label_smoothing
        loss = F.cross_entropy(logits.float(), labels, label_smoothing=smooth)
        if extra is not None:
            loss = loss + self.options.auxiliary * F.cross_entropy(extra.float(), labels, label_smoothing=smooth)
        return loss, (logits.detach().argmax(-1) == labels).float().mean()

    def end_epoch(self, seconds: float) -> Epoch:
        """Means of the epoch; "valid" is what was held out."""
        metrics = {name: self.sums[name] / self.steps for name in ("train_loss", "train_accuracy")}
        metrics |= {f"valid_{n}": self.sums[f"val_{n}"] for n in ("loss", "accuracy") if f"val_{n}" in self.sums}
        self.history.append({"epoch": self.epoch, "metrics": metrics})
        arrays: Mapping[str, Any] = {kind: mix.astype(float) for kind, mix in self.mix.items()}
        found = derivation.collapse(self.task.space, arrays, self.cell)
        event = Epoch(self.epoch, self.step, metrics, {}, self.cell.to_json(), asdict(found), seconds)
        self.epoch, self.index, self.sums = self.epoch + 1, 0, {}
        return event

    def end(self, stopped: bool) -> Iterator[Event]:
        """The last measurement as a `Trained`, then the result."""
        last = self.history[-1]["metrics"] if self.history else {}
        if "valid_accuracy" not in last:  # stopped between two measurements
            last = {**last, **{f"valid_{k}": v for k, v in measure(self.task, self.net, self.held_out).items()}}
        accuracy = last["valid_accuracy"]
        yield Trained(
            role="derived",
            index=0,
            seed=self.config.seed,
            genotype=self.cell.to_json(),
            accuracy=accuracy,
            test_accuracy=accuracy if self.held_out == "test" else None,
            parameters=parameters(self.net),
            seconds=time.perf_counter() - self.began,
            epochs=len(self.history),
            metrics={name: value for name, value in last.items() if name.startswith("train_")},
        )
        yield Result(self.step, max(0, self.epoch - 1), self.cell.to_json(), last, stopped)

    def finite(self, value: Tensor, what: str) -> float:
        number = float(value.detach())
        if not math.isfinite(number):
            said = f"became {'NaN' if math.isnan(number) else 'infinite'} at step {self.step + 1}"
            raise BadInput("evaluate", what, said, "branch from an earlier epoch with a smaller w_lr, or smaller clip")
        return number

    # -- orders and state

    def obey(self, order: Order) -> Applied:
        """Carry out one order between two steps, or refuse it with a reason."""
        said = {"id": order.id, "step": self.step, "kind": order.kind, "name": order.name, "value": order.value}
        said["epoch"] = self.epoch
        try:
            if order.kind == "set":
                known = steerable(self.config.strategy)
                if order.name not in known:
                    raise unknown("", "setting to steer", order.name, known)
                self.config = self.config.with_(**{str(order.name): order.value})
            elif order.kind not in ("stop", "checkpoint"):
                raise BadInput("", "", "the cell of an evaluation is fixed", "search with its edge pinned instead")
        except BadInput as refusal:
            return Applied(**said, accepted=False, reason=str(refusal))
        return Applied(**said, accepted=True, reason="")

    def state(self) -> State:
        """Everything needed to go on from here: running statistics too. Tensors are shared, not copied."""
        return State(
            step=self.step,
            epoch=self.epoch,
            index=self.index,
            stage=0,
            settings=self.config.to_dict(),
            weights={name: t.detach() for name, t in self.net.state_dict().items()},
            alphas=Alphas({}, {}),
            w_optimiser={f"momentum.{name}": self.sgd.buffer(name) for name in self.params},
            a_optimiser={},
            a_steps=0,
            history=self.history,
            sums=self.sums,
        )

    def restore(self, state: State) -> None:
        """Go on from `state`.

        Raises:
            BadInput: it belongs to another network.
        """
        state.check(self.state().tensors())
        self.net.load_state_dict(state.weights)
        if state.step:
            momentum = {name.removeprefix("momentum."): t for name, t in state.w_optimiser.items()}
            self.sgd.buffers = {name: momentum[name].to(self.task.device).clone() for name in self.params}
        self.step, self.epoch, self.index = state.step, state.epoch, state.index
        self.history, self.sums = list(state.history), dict(state.sums)
        self.config = SearchConfig.from_dict(state.settings, "checkpoint")


def network(task: ImageTask, config: SearchConfig) -> nn.Module:
    """The network that an evaluation trains.

    Raises:
        BadInput: a cell of one input (NAS-Bench-201) with an auxiliary head or the ImageNet stem.
    """
    options = training(**config.options)  # type: ignore[arg-type]
    return task.network(config.genotype(), stem=options.stem, auxiliary=options.auxiliary > 0)


@torch.no_grad()
def measure(task: ImageTask, net: nn.Module, split: Split) -> dict[str, float]:
    """{"loss", "accuracy", "top5"} in evaluation mode, no augmentation; "top5" only where there are over five classes.

    Losses in nats, shares from 0 to 1.
    """
    before = net.training
    net.eval()
    total, loss, right, near = 0, 0.0, 0, 0
    for images, labels in task.eval_batches(split, 250):
        logits = net(images)
        loss += float(F.cross_entropy(logits, labels, reduction="sum"))
        right += int((logits.argmax(-1) == labels).sum())
        near += int((logits.topk(min(5, logits.shape[1])).indices == labels[:, None]).sum())
        total += len(labels)
    net.train(before)
    found = {"loss": loss / total, "accuracy": right / total}
    return found | ({"top5": near / total} if len(task.classes) > 5 else {})
