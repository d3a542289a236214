"""Train every cell of a small space: `python -m darts_core tiny build`. The result is read by `truth.py`.

Of cells that compute the same function one is trained, that with the fewest weights. All seeds of a cell are trained
side by side: one network whose convolutions have a group per seed computes what the seeds would compute alone, in a
fraction of the calls (`tests/test_truth.py` compares the two). The recipe is a small copy of NAS-Bench-201's.
"""

from __future__ import annotations

import math
import platform
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from darts_core import data, io, truth
from darts_core.data import Images, Plan
from darts_core.errors import BadInput
from darts_core.genotype import Genotype, genotype_of
from darts_core.nets.bench201 import BenchNetwork
from darts_core.optimise import Momentum
from darts_core.own_space import layout_of
from darts_core.seeds import seed as seed_of
from darts_core.space import SearchSpace, count_genotypes

SPACE_OF = {3: "nb3", 4: "nb4"}  # number of operations -> space
MAX_CELLS = 20_000  # of a space that is trained whole: as many as NAS-Bench-201 has, and some


@dataclass(frozen=True)
class Recipe:
    """How each cell is trained. Half of the training images train, the other half is for validation, in file order."""

    cells: int = 3
    channels: int = 8
    stem_stride: int = 2  # digits have 8x8 pixels: cells work on 4x4
    epochs: int = 20
    warm_epochs: int = 1  # the rate rises in these, then falls to zero along a cosine
    batch: int = 60
    rate: float = 0.1
    momentum: float = 0.9
    decay: float = 5e-4

    @property
    def steps(self) -> int:
        """Training steps of one cell on the 600 images of the table."""
        return self.epochs * (600 // self.batch)

    def network(self, genotype: Genotype, images: Images) -> BenchNetwork:
        return BenchNetwork(
            genotype, images.train.shape[1], len(images.classes), self.channels, self.cells, (), 1, self.stem_stride
        )

    def rate_at(self, step: int, total: int) -> float:
        """The learning rate of step `step` (0-based) of `total`."""
        warm = self.warm_epochs * total // self.epochs
        if step < warm:
            return self.rate * (step + 1) / warm
        return self.rate * (1 + math.cos(math.pi * (step - warm) / (total - warm))) / 2


class GroupedLinear(nn.Module):
    """One linear layer per lane: (N, L * C) -> (N, L, classes)."""

    def __init__(self, lanes: int, linear: nn.Linear) -> None:
        super().__init__()
        self.lanes, shape = lanes, linear.weight.shape
        self.weight = nn.Parameter(torch.zeros(lanes * shape[0], shape[1]))
        self.bias = nn.Parameter(torch.zeros(lanes * shape[0]))

    def forward(self, x: Tensor) -> Tensor:
        N, L = len(x), self.lanes
        y = torch.einsum("nlc,lkc->nlk", x.view(N, L, -1), self.weight.view(L, -1, self.weight.shape[1]))
        return y + self.bias.view(L, -1)


def side_by_side(networks: Sequence[BenchNetwork]) -> BenchNetwork:
    """One network that computes what `networks`, all of one cell, compute: (N, L * C, H, W) -> (N, L, classes).

    Channels of all lanes lie side by side. Every convolution has a group per lane, every norm works per channel anyway.
    """
    lanes, wide = len(networks), networks[0]
    state = {
        name: torch.cat([net.state_dict()[name] for net in networks]) if first.dim() else first
        for name, first in wide.state_dict().items()
    }
    for path, module in list(wide.named_modules()):
        parent = wide.get_submodule(path.rpartition(".")[0])
        name, new = path.rpartition(".")[2], None
        if isinstance(module, nn.Conv2d):
            ends, kernel = (lanes * module.in_channels, lanes * module.out_channels), module.kernel_size
            rest = module.stride, module.padding, module.dilation, lanes * module.groups
            new = nn.Conv2d(*ends, kernel, *rest, bias=False)  # type: ignore[arg-type]
        elif isinstance(module, nn.BatchNorm2d):
            new = nn.BatchNorm2d(lanes * module.num_features)
        elif isinstance(module, nn.Linear):
            new = GroupedLinear(lanes, module)
        if new is not None:
            setattr(parent, name, new)
    wide.to(state["stem.0.weight"].dtype).load_state_dict(state)
    return wide


def fresh(recipe: Recipe, genotype: Genotype, images: Images, seed: int, dtype: torch.dtype) -> BenchNetwork:
    """The untrained network of one seed."""
    torch.manual_seed(seed_of(seed, "table weights"))
    return recipe.network(genotype, images).to(dtype)


def plans(recipe: Recipe, images: Images, seeds: Sequence[int], dtype: torch.dtype) -> list[Plan]:
    """Per seed its order of data; the split is the same for all."""
    return [
        Plan(images, seed=s, batch=recipe.batch, arch_batch=recipe.batch, augment=False, dtype=dtype) for s in seeds
    ]


def train(
    recipe: Recipe, genotype: Genotype, images: Images, seeds: Sequence[int], dtype: torch.dtype = torch.float32
) -> tuple[np.ndarray, np.ndarray]:
    """Train a cell once per seed.

    Returns:
        Accuracies on validation and on test images, (seeds,) each, from 0 to 1.
    """
    lanes = len(seeds)
    net = side_by_side([fresh(recipe, genotype, images, s, dtype) for s in seeds])
    orders = plans(recipe, images, seeds, dtype)
    optimiser = Momentum(dict(net.named_parameters()))
    params = list(optimiser.params.values())
    per_epoch = orders[0].steps("weights")
    total = recipe.epochs * per_epoch
    net.train()
    for step in range(total):
        epoch, index = divmod(step, per_epoch)
        batches = [plan.batch("weights", epoch, index) for plan in orders]
        logits = net(torch.cat([x for x, _ in batches], 1))  # (N, L, classes)
        labels = torch.stack([y for _, y in batches], 1)  # (N, L)
        loss = F.cross_entropy(logits.flatten(0, 1), labels.flatten()) * lanes  # a sum over lanes of means
        grads = torch.autograd.grad(loss, params, materialize_grads=True)
        optimiser.step(grads, recipe.rate_at(step, total), recipe.momentum, recipe.decay)
    net.eval()
    return accuracy(net, orders[0], "arch", lanes), accuracy(net, orders[0], "test", lanes)


@torch.no_grad()
def accuracy(net: BenchNetwork, plan: Plan, split: Any, lanes: int) -> np.ndarray:
    """(lanes,) share of a split's images that each lane classifies rightly."""
    right, total = torch.zeros(lanes), 0
    for x, labels in plan.eval_batches(split, 300):
        right += (net(x.repeat(1, lanes, 1, 1)).argmax(-1) == labels[:, None]).sum(0)
        total += len(labels)
    return (right / total).numpy()


def representative(space: SearchSpace, numbers: Sequence[int], every: Sequence[Sequence[str]]) -> Genotype:
    """Of some cells of equal meaning, the one with the fewest weights, then edges, then the lowest number."""

    def cost(number: int) -> tuple[int, int, int]:
        ops = every[number]
        return sum("conv" in op for op in ops), sum(op != "none" for op in ops), number

    return genotype_of(space.name, "normal", space.cells["normal"], every[min(numbers, key=cost)])


def buildable(space: SearchSpace) -> SearchSpace:
    """The space itself, where every cell of it can be trained and told apart.

    Raises:
        BadInput: it cannot.
    """
    name = space.name
    if list(space.cells) != ["normal"] or space.cells["normal"].keep is not None:
        raise BadInput("tiny build", name, "is not a space of one cell that keeps every edge", 'use form "bench"')
    if "noise" in space.cells["normal"].ops:
        raise BadInput("tiny build", name, "holds noise, with which a cell computes no function", "leave it out")
    if (cells := count_genotypes(space.cells["normal"])) > MAX_CELLS:
        fix = "take fewer nodes or operations, or restrict edges"
        raise BadInput("tiny build", name, f"has {cells:,} cells, and {MAX_CELLS:,} is the limit", fix)
    return space


def build(
    space: str,
    seeds: int,
    place: Path,
    recipe: Recipe | None = None,
    say: Callable[[int, int], None] = lambda a, b: None,
    own_space: str = "",
) -> truth.Table:
    """Make the table of `space` in the folder `place`, or go on with one that was interrupted.

    Args:
        own_space: of a space of one's own, what the setting of that name holds.
        say: told after each distinct cell how many are done, and of how many.

    Raises:
        BadInput: the folder cannot be written, another process is making the same table, or there can be none.
    """
    recipe = recipe or Recipe()
    images = data.load(truth.DATASET)
    layout = buildable(layout_of(space, own_space))
    cell = layout.cells["normal"]
    every = list(product(*(cell.choices(e) for e in range(len(cell.edges)))))
    groups = truth.distinct(cell, every)
    what = f"--space {space}.json" if own_space else f"--ops {len(cell.ops)}"
    about: dict[str, Any] = {
        "space": space, "dataset": truth.DATASET, "seeds": seeds, "cells": len(every), "distinct": len(groups),
        "recipe": asdict(recipe), "images": {"train": 600, "valid": 600, "test": len(images.test)},
        "torch": torch.__version__, "processor": platform.machine(),
        "made_by": f"python -m darts_core tiny build {what} --seeds {seeds}",
        **({"own_space": own_space} if own_space else {}),
    }  # fmt: skip
    place.mkdir(parents=True, exist_ok=True)
    partial = place / f".{space}-{truth.DATASET}.partial"
    try:
        lock = io.Lock(place / f".{space}-{truth.DATASET}.lock", "a table is being made")
    except BlockingIOError as error:
        raise BadInput(place, space, "another process is making this table", "wait for it") from error
    try:
        done = _done(partial, about)
        log = io.Appender(partial)
        if not done:
            log.rewrite((io.dumps({"about": about}) + "\n").encode())
        for count, (name, numbers) in enumerate(groups.items()):
            if name not in done:
                began = time.process_time()
                valid, test = train(recipe, representative(layout, numbers, every), images, range(seeds))
                row = {"cell": name, "valid": valid.tolist(), "test": test.tolist(), "cpu": time.process_time() - began}
                done[name] = row
                log.append((io.dumps(row) + "\n").encode())
            say(count + 1, len(groups))
        log.close()
        table = _written(space, place, groups, done, about, seeds)
        partial.unlink()
    finally:
        lock.release()
    return table


def _done(partial: Path, about: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """What an interrupted process left, if it was making the same table on the same torch."""
    if not partial.is_file():
        return {}
    lines = io.read_bytes(partial, truth.LIMIT).split(b"\n")[:-1]  # the last, torn line is empty or left out
    found = [io.loads(line, partial) for line in lines]
    if not found or found[0] != {"about": io.loads(io.dumps(about).encode(), partial)}:
        return {}
    return {row["cell"]: row for row in found[1:]}


def _written(
    space: str, place: Path, groups: dict[str, list[int]], done: dict[str, Any], about: dict[str, Any], seeds: int
) -> truth.Table:
    valid, test = (np.zeros((about["cells"], seeds)) for _ in range(2))
    for name, numbers in groups.items():
        valid[numbers], test[numbers] = done[name]["valid"], done[name]["test"]
    cpu = round(sum(row["cpu"] for row in done.values()), 1)
    table = truth.Table(space, valid, test, {**about, "cpu_seconds": cpu})
    content = table.to_csv()
    csv, words = truth.files(space, place)
    io.atomic_write(csv, content)
    io.atomic_write(words, (io.dumps({**table.about, "sha256": io.sha256(content)}) + "\n").encode())
    return truth.Table.from_csv(space, content, table.about, csv)


def genotypes(space: str) -> Iterator[Genotype]:
    """One genotype per distinct cell, as they are trained."""
    layout = layout_of(space)
    cell = layout.cells["normal"]
    every = list(product(*(cell.choices(e) for e in range(len(cell.edges)))))
    for numbers in truth.distinct(cell, every).values():
        yield representative(layout, numbers, every)
