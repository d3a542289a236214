"""What a search was worth: the discretisation gap, and the derived cell trained from scratch beside random cells.

Three numbers belong together: the supernet as searched, the supernet pruned at once to the derived cell, and the
derived cell trained anew. All are read on the same clean test images, which no search step ever saw.
"""

from __future__ import annotations

import math
import random
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

from darts_core.config import SearchConfig
from darts_core.data.plan import Split
from darts_core.derive import kept_edges, one_hot
from darts_core.errors import BadInput
from darts_core.events import Result, Trained
from darts_core.genotype import Genotype, random_genotype
from darts_core.mix import Mix
from darts_core.nets.fixed import parameters
from darts_core.optimise import Momentum, clipped
from darts_core.search.state import State
from darts_core.seeds import seed
from darts_core.space import SearchSpace
from darts_core.tasks import VALIDATE_AT_MOST, ImageTask, as_mix, image_task
from darts_core.training import network


def compare(
    task: ImageTask,
    clean: ImageTask,
    config: SearchConfig,
    state: State,
    mix: Mix | None,
    genotype: Genotype,
    done: Sequence[Trained],
    supernet: Callable[[], Any],
    look: Callable[[], None] = lambda: None,
) -> Iterator[Trained]:
    """The supernet, its pruned form, the derived cell and random cells, one `Trained` each.

    The derived cell is trained as often as there are random cells (at least once), so that both spreads are seen.

    Args:
        task: of the search, for validation data with the labels that the search saw.
        clean: the same without label noise, to train on and for test images.
        done: what an earlier, interrupted process already trained; not trained again.
        supernet: builds the net that the weights in `state` belong to.
        look: called before each training step; what it raises ends the training.
    """
    known = {(t.role, t.index) for t in done}
    if mix is not None and {("supernet", 0), ("pruned", 0)} - known:
        yield from _supernets(task, clean, state, mix, genotype, known, supernet())
    for other, role, index in to_train(config, task.space, genotype, known):
        yield train(clean, config, other, role, index, look)


def to_train(
    config: SearchConfig, space: SearchSpace, genotype: Genotype, known: set[tuple[str, int]]
) -> Iterator[tuple[Genotype, str, int]]:
    """(cell, role, index) of what is still to be trained: the derived cell and random ones in turn."""
    if not config.retrain_epochs:
        return
    rng = random.Random(seed(config.seed, "random cells"))
    for index in range(max(1, config.random_cells)):
        other = random_genotype(space, rng)  # drawn in any case, so that the next one is the same after a resume
        if ("derived", index) not in known:
            yield genotype, "derived", index
        if index < config.random_cells and ("random", index) not in known:
            yield other, "random", index


def _supernets(
    task: ImageTask,
    clean: ImageTask,
    state: State,
    mix: Mix,
    genotype: Genotype,
    known: set[tuple[str, int]],
    net: Any,
) -> Iterator[Trained]:
    """The supernet under its own mix, and under the derived cell's one-hot mix, with the weights of the search."""
    net.load_state_dict(net.pack({name: t.to(task.device) for name, t in state.weights.items()}))
    cells = task.space.cells
    hot = as_mix({kind: one_hot(cell, genotype.cells[kind]) for kind, cell in cells.items()}, task.device, task.dtype)
    if mix.edges:  # what the derived cell does not use must not pass by its operations either
        kept = {kind: torch.tensor(kept_edges(cell, genotype.cells[kind])) for kind, cell in cells.items()}
        hot = hot._replace(edges={kind: t.to(task.device, task.dtype) for kind, t in kept.items()})
    for role, weighing in (("supernet", mix.to(task.dtype)), ("pruned", hot)):
        if (role, 0) in known:
            continue
        began = time.perf_counter()
        valid = task.measure(net, weighing, "arch", VALIDATE_AT_MOST)
        test = clean.measure(net, weighing, "test", VALIDATE_AT_MOST)
        yield Trained(
            role=role,  # type: ignore[arg-type]
            index=0,
            seed=task.config.seed,
            genotype=genotype.to_json() if role == "pruned" else None,
            accuracy=valid["accuracy"],
            test_accuracy=test["accuracy"],
            parameters=parameters(net),
            seconds=time.perf_counter() - began,
        )


def train(
    task: ImageTask,
    config: SearchConfig,
    genotype: Genotype,
    role: str,
    index: int,
    look: Callable[[], None] = lambda: None,
) -> Trained:
    """Train a derived cell from scratch on all training images and test it: SGD, cosine to zero, the search's own
    rates.

    A pure function of its arguments: initial weights and order of data come from (config.seed, index).
    """
    began = time.perf_counter()
    torch.manual_seed(seed(config.seed, "retrain weights", index))
    net = task.network(genotype)
    optimiser = Momentum(dict(net.named_parameters()))
    params = list(optimiser.params.values())
    net.train()
    for epoch in range(config.retrain_epochs):
        rate = config.w_lr * (1 + math.cos(math.pi * epoch / config.retrain_epochs)) / 2
        for step in range(task.steps("all")):
            look()
            # the epochs of each repetition are numbered apart, so that repetitions see different orders of data
            images, labels = task.batch("all", index * config.retrain_epochs + epoch, step)
            loss = F.cross_entropy(net(images), labels)
            grads = torch.autograd.grad(loss, params, materialize_grads=True)
            clipped(grads, config.clip)
            optimiser.step(grads, rate, config.momentum, config.w_decay)
    on_test, on_train = accuracy(task, net, "test"), accuracy(task, net, "all")
    return Trained(
        role=role,  # type: ignore[arg-type]
        index=index,
        seed=index,
        genotype=genotype.to_json(),
        accuracy=on_test,
        test_accuracy=on_test,
        parameters=parameters(net),
        seconds=time.perf_counter() - began,
        epochs=config.retrain_epochs,
        metrics={"train_accuracy": on_train},
    )


@torch.no_grad()
def accuracy(task: ImageTask, net: nn.Module, split: Split) -> float:
    """Share of a split's images classified rightly, in evaluation mode, no augmentation (0 to 1)."""
    net.eval()
    right = total = 0
    for images, labels in task.eval_batches(split, 500):
        right += int((net(images).argmax(-1) == labels).sum())
        total += len(labels)
    net.train()
    return right / total


def worth(task: ImageTask, config: SearchConfig, state: State, result: Result) -> dict[str, Any]:
    """What an evaluation says at its end: accuracy, size, multiply-adds and measured time of the network it trained."""
    net: Any = network(task, config)
    net.load_state_dict({name: t.to(task.device) for name, t in state.weights.items()})
    metrics = result.metrics
    on = "test" if config.options["train_on"] == "all" else "valid"
    found = {f"{on}_{name}": metrics[f"valid_{name}"] for name in ("loss", "accuracy") if f"valid_{name}" in metrics}
    return {**found, **cost(net, task.shape, task.device)}


def cost(net: nn.Module, shape: tuple[int, int, int], device: torch.device, seconds: float = 1.0) -> dict[str, float]:
    """{"parameters", "multiply_adds", "latency_ms"} of a network in evaluation mode.

    Multiply-adds are those of convolutions and linear layers for one image, an auxiliary head left out (DARTS_V2 at
    CIFAR size: 528,359,040). Latency is the median time of one image alone, after a warm-up, within `seconds`.
    """
    times: list[float] = []
    image = torch.zeros((1, *shape), device=device)
    before = net.training
    net.eval()
    with torch.no_grad():
        adds = multiply_adds(net, image)
        end = time.perf_counter() + seconds
        while len(times) < 5 or (time.perf_counter() < end and len(times) < 200):
            began = time.perf_counter()
            net(image)
            if device.type == "cuda":
                torch.cuda.synchronize(device)
            times.append(1000 * (time.perf_counter() - began))
    net.train(before)
    later = sorted(times[2:])
    return {"parameters": parameters(net), "multiply_adds": adds, "latency_ms": later[len(later) // 2]}


def matched(config: SearchConfig, size: int) -> int:
    """The number of channels with which the network of an evaluation comes closest to `size` parameters.

    Raises:
        BadInput: even the narrowest or the widest one is more than a quarter away from it.
    """
    task = image_task(config, torch.device("cpu"))
    found = {}
    for channels in range(2, 257, 2):
        other = ImageTask.__new__(type(task))  # the same data at another width, on no device: only counted
        other.__dict__.update(task.__dict__, config=config.with_(channels=channels), device=torch.device("meta"))
        with torch.device("meta"):
            found[channels] = parameters(network(other, other.config))
        if found[channels] > size:
            break
    best = min(found, key=lambda channels: abs(found[channels] - size))
    if abs(found[best] - size) > size / 4:
        what = f"no width gives about {size:,} parameters; {best} channels give {found[best]:,}"
        raise BadInput("evaluate", "parameters", what, "change cells, or ask for another size")
    return best


def multiply_adds(net: nn.Module, image: torch.Tensor) -> int:
    """Multiplications of all convolutions and linear layers that one forward pass of `image` (1, C, H, W) makes."""
    counted = 0

    def count(module: Any, given: Any, out: torch.Tensor) -> None:
        nonlocal counted
        each = module.weight[0].numel()  # per output value: channels in * kernel, or features in
        counted += out[0].numel() * each

    kinds = (nn.Conv2d, nn.Linear)
    hooks = [m.register_forward_hook(count) for m in net.modules() if isinstance(m, kinds)]
    try:
        net(image)
    finally:
        for hook in hooks:
            hook.remove()
    return counted


def summary(trained: Sequence[Trained]) -> dict[str, Any]:
    """Means and spreads over what was trained: the numbers that the page says in a sentence."""
    found: dict[str, Any] = {}
    for role in ("supernet", "pruned", "derived", "random"):
        numbers = [t.test_accuracy for t in trained if t.role == role and t.test_accuracy is not None]
        if numbers:
            mean = sum(numbers) / len(numbers)
            spread = math.sqrt(sum((x - mean) ** 2 for x in numbers) / (len(numbers) - 1)) if len(numbers) > 1 else 0.0
            found[role] = {
                "mean": mean,
                "std": spread,
                "count": len(numbers),
                "low": min(numbers),
                "high": max(numbers),
            }
    return found
