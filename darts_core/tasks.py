"""What is learned: data, networks and the loss, behind one small interface. Image and language searches differ here
only.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.func import functional_call

from darts_core import latency
from darts_core.config import SearchConfig
from darts_core.data import Images, Plan, Stream
from darts_core.data.plan import Split
from darts_core.errors import BadInput
from darts_core.genotype import Genotype
from darts_core.mix import Mix
from darts_core.nets import weighted
from darts_core.nets.bench201 import BenchSupernet
from darts_core.nets.chain import ChainSupernet
from darts_core.nets.compiled import CANNOT, CompiledSupernet
from darts_core.nets.derived import DerivedNetwork, network_of
from darts_core.nets.fast import FastSupernet, covers
from darts_core.nets.kernels import Kernels, build
from darts_core.nets.mixed import Supernet
from darts_core.search.method import Loss, Weights
from darts_core.space import SearchSpace

VALIDATE_AT_MOST = 2000  # images of the architecture split measured at the end of an epoch
EVAL_BATCH = 250  # images over which a measured supernet takes its batch statistics

Batch = tuple[Tensor, Tensor]  # images (N, C, H, W) normalised, labels (N,)


class Task(Protocol):
    """What a search needs to know of its subject."""

    space: SearchSpace
    device: torch.device
    dtype: torch.dtype

    def supernet(self, space: SearchSpace, **net: Any) -> nn.Module:
        """`net(x, mix, carry) -> (output, carry)`, weights drawn from torch's global generator.

        `net.pack` and `net.unpack` map tensors between the names that files hold and the net's own.
        """
        ...

    def network(self, genotype: Genotype) -> nn.Module: ...

    def steps(self, split: Split) -> int:
        """Batches per epoch of "weights" or "arch"."""
        ...

    def batch(self, split: Split, epoch: int, index: int) -> Any:
        """A pure function of the seed and its arguments."""
        ...

    def costs(self, measure: str) -> Mapping[str, Tensor]:
        """kind -> (edges, ops): what each operation costs in the whole network, "macs" or "latency" in seconds.

        Raises:
            BadInput: they are not known.
        """
        ...

    def carry(self, split: str) -> Any:
        """The hidden state before the first batch; None for images."""
        ...

    def loss(self, net: nn.Module, weights: Weights | None, mix: Mix, batch: Any, carry: Any, phase: str) -> Loss:
        """Mean loss of a batch; `weights` None means the module's own."""
        ...

    def measure(self, net: nn.Module, mix: Mix, split: Split, at_most: int) -> dict[str, float]:
        """Loss and accuracy over a split without augmentation, on at most so many examples."""
        ...

    def part(self, batch: Any, size: int) -> Any:
        """At most `size` examples of a batch, for a probe."""
        ...

    def rate_scale(self, epoch: int, index: int) -> float:
        """The learning rate of the weights is multiplied by it in this step."""
        ...

    def step_metrics(self, found: Mapping[str, Any]) -> dict[str, float]:
        """More numbers about a step, named as in `SearchConfig.step_metrics`, from its losses ("train_nats")."""
        ...

    def sampled(self, net: nn.Module, mix: Mix, seed: int) -> str | None:
        """Text that the supernet writes; None for images."""
        ...

    def described(self) -> str:
        """The data in a sentence."""
        ...


class ImageTask:
    """Classify images: cross-entropy, accuracy, no carry."""

    def __init__(
        self,
        config: SearchConfig,
        images: Images,
        device: torch.device | str = "cpu",
        dtype: torch.dtype = torch.float32,
    ) -> None:
        self.config, self.images = config, images
        self.space = config.search_space()
        self._costs: dict[str, Mapping[str, Tensor]] = {}
        self.device, self.dtype = torch.device(device), dtype
        self.plan = Plan(
            images,
            seed=config.seed,
            train_portion=config.train_portion,
            batch=config.batch,
            arch_batch=config.architecture_batch,
            augment=config.augment,
            cutout=config.cutout,
            shuffle_split=config.shuffle_split,
            device=self.device,
            dtype=dtype,
        )

    @property
    def shape(self) -> tuple[int, int, int]:
        """(channels, height, width) of an image."""
        _, channels, height, width = self.images.train.shape
        return channels, height, width

    @property
    def classes(self) -> tuple[str, ...]:
        return self.images.classes

    @property
    def statistics(self) -> tuple[tuple[float, ...], tuple[float, ...]]:
        """Mean and standard deviation per channel that batches are normalised by, of values from 0 to 1."""
        return self.images.mean, self.images.std

    def described(self) -> str:
        """What is learned from, in words, with what was done to it."""
        count, channels, height, width = self.images.train.shape
        said = f"{count} training and {len(self.images.test)} test images of {channels}x{height}x{width}"
        return ". ".join([f"{self.images.name}: {said}, {len(self.classes)} classes", *self.images.notes])

    def layout(self, more_cells: int = 0) -> dict[str, Any]:
        """How cells are stacked, as keyword arguments of supernets and networks."""
        c = self.config.with_(cells=self.config.cells + more_cells) if more_cells else self.config
        return {
            "image_channels": self.shape[0],
            "classes": len(self.classes),
            "channels": c.channels,
            "cells": c.cells,
            "reductions": c.reduction_cells(),
            "stem_multiplier": c.stem_multiplier,
            "stem_stride": c.stem_stride,
        }

    def supernet(
        self, space: SearchSpace, *, more_cells: int = 0, **net: Any
    ) -> Supernet | BenchSupernet | ChainSupernet | FastSupernet | CompiledSupernet:
        """In the form that the backend says; `auto`, which a driver settles beforehand, is `fast`, and so is `compiled`
        where the kernel has no form of a structural option (`nets.compiled.CANNOT`). Spaces that have no fast form run
        on the reference.

        Args:
            more_cells: beyond those of the settings (stages of P-DARTS).
            net: structural options of `Supernet`.

        Raises:
            BadInput: the compiled form is wanted, and it cannot be built here.
        """
        one_input = any(cell.inputs == 1 for cell in space.cells.values())
        kind: Any = ChainSupernet if "chain" in space.cells else BenchSupernet if one_input else Supernet
        reference = kind(space, **self.layout(more_cells), **net).to(self.device, self.dtype)
        if self.config.backend == "reference" or not covers(space):
            return reference
        if self.config.backend == "compiled" and not CANNOT & set(net):
            return CompiledSupernet(reference, Kernels(build.build()))
        second = self.config.options.get("order") == "exact"
        return FastSupernet(reference, second, self.sums() if self.config.backend == "triton" else None)

    def sums(self) -> Any:
        """Weighted sums of normalised maps: Triton's kernels on an NVIDIA GPU, elsewhere the formulas.

        Raises:
            BadInput: PyTorch is here without Triton.
        """
        if self.device.type != "cuda":
            return weighted
        try:
            from darts_core.nets import weighted_triton
        except ImportError as error:
            raise BadInput("settings", "backend", "Triton is not installed", "choose graph, or install it") from error
        return weighted_triton

    def network(self, genotype: Genotype, **net: Any) -> DerivedNetwork:
        """The network of a derived cell; `net` are further arguments of `network_of`."""
        return network_of(genotype, **self.layout(), **net).to(self.device, self.dtype)

    def steps(self, split: Split) -> int:
        return self.plan.steps(split)

    def batch(self, split: Split, epoch: int, index: int) -> Batch:
        return self.plan.batch(split, epoch, index)

    def costs(self, measure: str) -> Mapping[str, Tensor]:
        if measure not in self._costs:
            found = latency.costs(self.space, self.config, measure)
            self._costs[measure] = {kind: torch.from_numpy(table) for kind, table in found.items()}
        return self._costs[measure]

    def carry(self, split: str) -> None:
        return None

    def loss(self, net: nn.Module, weights: Weights | None, mix: Mix, batch: Batch, carry: Any, phase: str) -> Loss:
        """Cross-entropy (nats, mean over the batch); metrics: accuracy (0 to 1)."""
        images, labels = batch
        with self.autocast(phase):
            output = (
                net(images, mix, carry)
                if weights is None
                else functional_call(net, dict(weights), (images, mix, carry))
            )
        logits, carry = output[0].to(self.dtype), output[1]
        accuracy = (logits.detach().argmax(-1) == labels).float().mean()
        return Loss(F.cross_entropy(logits, labels), carry, {"accuracy": accuracy})

    @torch.no_grad()
    def measure(self, net: nn.Module, mix: Mix, split: Split, at_most: int) -> dict[str, float]:
        """{"loss", "accuracy"} of the supernet under `mix`, batch statistics over `EVAL_BATCH` images."""
        alone = lambda images: net(images[0], mix, None)[0].unsqueeze(0)  # noqa: E731
        (found,) = image_measures(alone, ([batch] for batch in self.eval_batches(split, EVAL_BATCH)), at_most)
        return found

    def part(self, batch: Batch, size: int) -> Batch:
        images, labels = batch
        return images[:size], labels[:size]

    def rate_scale(self, epoch: int, index: int) -> float:
        return 1.0

    def step_metrics(self, found: Mapping[str, Any]) -> dict[str, float]:
        return {}

    def sampled(self, net: nn.Module, mix: Mix, seed: int) -> None:
        return None

    def autocast(self, phase: str) -> torch.autocast:
        """The network's maps and convolutions in bfloat16, where the settings say so; in phase "read", which is that of
        probes, never. Weights, alphas, mixes and losses stay as they are. No cache of cast weights: a captured graph
        could not hold it.
        """
        wanted = self.config.precision == "bfloat16" and phase != "read"
        return torch.autocast(self.device.type, torch.bfloat16, enabled=wanted, cache_enabled=False)

    def eval_batches(self, split: Split, size: int) -> Iterator[Batch]:
        """Batches of a split in order, without augmentation."""
        return iter(self.plan.eval_batches(split, size))


def image_losses(logits: Tensor, labels: Tensor) -> list[Loss]:
    """`ImageTask.loss` of several searches at once: logits (searches, N, classes), labels (searches, N)."""
    each = F.cross_entropy(logits.flatten(0, 1), labels.flatten(), reduction="none").view(labels.shape)
    right = (logits.detach().argmax(-1) == labels).float().mean(1)
    return [Loss(v, None, {"accuracy": a}) for v, a in zip(each.mean(1).unbind(), right.unbind(), strict=True)]


@torch.no_grad()
def image_measures(
    logits: Callable[[Sequence[Tensor]], Tensor], batches: Iterable[Sequence[Batch]], at_most: int
) -> list[dict[str, float]]:
    """`ImageTask.measure` of several searches at once: a batch of each -> logits (searches, N, classes)."""
    total, losses, right = 0, [], []
    for each in batches:
        found = logits([images for images, _ in each])
        pairs = [(y, labels) for y, (_, labels) in zip(found, each, strict=True)]
        losses.append([float(F.cross_entropy(y, labels, reduction="sum")) for y, labels in pairs])
        right.append([int((y.argmax(-1) == labels).sum()) for y, labels in pairs])
        total += len(each[0][1])
        if total >= at_most:
            break
    sums = zip(*losses, strict=True), zip(*right, strict=True)
    return [{"loss": sum(loss) / total, "accuracy": sum(hits) / total} for loss, hits in zip(*sums, strict=True)]


class StreamTask(ImageTask):
    """Images read from a folder while they are trained on (ImageNet): cross-entropy as for images in memory."""

    def __init__(self, config: SearchConfig, device: torch.device | str = "cpu") -> None:
        self.config, self.device, self.dtype = config, torch.device(device), torch.float32
        self.space = config.search_space()
        if config.dataset != "folder":
            raise BadInput("settings", "stream", f"{config.dataset} is not read while training", "set stream=false")
        self.plan: Any = Stream(
            config.path,
            seed=config.seed,
            side=config.resize or 224,
            batch=config.batch,
            train_portion=config.train_portion,
            augment=config.augment,
            workers=int(config.options["workers"]),
            device=self.device,
        )

    @property
    def shape(self) -> tuple[int, int, int]:
        return 3, self.plan.side, self.plan.side

    @property
    def classes(self) -> tuple[str, ...]:
        return self.plan.classes

    @property
    def statistics(self) -> tuple[tuple[float, ...], tuple[float, ...]]:
        return self.plan.mean, self.plan.std

    def described(self) -> str:
        return self.plan.described()


def image_task(config: SearchConfig, device: torch.device, progress: Any = None, clean: bool = False) -> ImageTask:
    """Load the data of a configuration; `clean=True` leaves the label noise out (for training a derived cell)."""
    from darts_core import data

    if config.options.get("stream"):
        return StreamTask(config, device)
    images = data.load(
        config.dataset,
        path=config.path or None,
        subset=config.subset,
        resize=config.resize,
        label_noise=0.0 if clean else config.label_noise,
        seed=config.seed,
        progress=progress,
    )
    return ImageTask(config, images, device)


def as_mix(arrays: Mapping[str, Any], device: torch.device, dtype: torch.dtype = torch.float32) -> Mix:
    """A mix from arrays (edges, ops) per kind."""
    return Mix({kind: torch.as_tensor(a, dtype=dtype, device=device) for kind, a in arrays.items()})
