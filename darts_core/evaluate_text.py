"""What a recurrent search was worth: perplexities of the supernet, of its pruned form, of cells trained from scratch.

Perplexity is exp(mean nats per target).
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch

from darts_core.chance import reseed
from darts_core.config import SearchConfig
from darts_core.data.text_plan import TextPlan
from darts_core.derive import one_hot
from darts_core.errors import BadInput
from darts_core.evaluate import to_train
from darts_core.events import Result, Trained
from darts_core.genotype import Genotype
from darts_core.language import LanguageTask, perplexity, regularised, scored
from darts_core.language_training import VALID_COLUMNS, score
from darts_core.mix import Mix
from darts_core.nets.fixed import parameters
from darts_core.nets.recurrent import RecurrentNetwork, zero_carry
from darts_core.optimise import Momentum, clipped
from darts_core.search.state import State
from darts_core.seeds import seed
from darts_core.tasks import VALIDATE_AT_MOST, as_mix


def compare(
    task: LanguageTask,
    config: SearchConfig,
    state: State,
    mix: Mix | None,
    genotype: Genotype,
    done: Sequence[Trained],
    supernet: Callable[[], Any],
    look: Callable[[], None] = lambda: None,
) -> Iterator[Trained]:
    """The supernet, its pruned form, the derived cell and random cells, as `evaluate.compare` for images."""
    known = {(t.role, t.index) for t in done}
    if mix is not None:
        yield from _supernets(task, config, state, mix, genotype, known, supernet())
    for other, role, index in to_train(config, task.space, genotype, known):
        yield train(task, config, other, role, index, look)


def _supernets(
    task: LanguageTask, config: SearchConfig, state: State, mix: Mix, genotype: Genotype, known: set[tuple[str, int]],
    net: Any,
) -> Iterator[Trained]:  # fmt: skip
    """The supernet under its own mix, and under the derived cell's one-hot mix, with the weights of the search."""
    net.load_state_dict(net.pack({name: t.to(task.device) for name, t in state.judged.items()}))
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


def train(
    task: LanguageTask,
    config: SearchConfig,
    genotype: Genotype,
    role: str,
    index: int,
    look: Callable[[], None] = lambda: None,
) -> Trained:
    """Train a derived cell from scratch for `retrain_epochs`, with the search's own rates, and test it.

    A pure function of its arguments: initial weights, stretches and masks come from (config.seed, index).
    """
    began = time.perf_counter()
    torch.manual_seed(seed(config.seed, "retrain weights", index))
    net = task.network(genotype)
    params = dict(net.named_parameters())
    sgd, own = Momentum(params), seed(config.seed, "retrain data", index)
    plan = TextPlan(
        task.text, seed=own, batch=config.batch, arch_batch=VALID_COLUMNS, length=config.bptt, device=task.device
    )
    nats = math.nan
    for epoch in range(config.retrain_epochs):
        turn = (1 + math.cos(math.pi * epoch / config.retrain_epochs)) / 2
        rate = config.w_lr_min + (config.w_lr - config.w_lr_min) * turn
        nats = _read(net, plan, sgd, config, rate, (index, epoch), look)
    test = score(net, plan, "test", min(VALID_COLUMNS, task.longest("test")))
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


def _read(
    net: RecurrentNetwork,
    plan: TextPlan,
    sgd: Momentum,
    config: SearchConfig,
    rate: float,
    words: tuple[int, int],
    look: Callable[[], None],
) -> float:
    """Read the text once at this rate; the mean loss in nats per token."""
    carry, losses = zero_carry(config.batch, config.units, net.words), []
    for step in range(plan.steps("all", words[1])):
        look()
        batch = plan.batch("all", words[1], step)
        reseed(seed(config.seed, "retrain dropout", *words, step))
        said, carry = net(batch.tokens, carry.detach())
        nats, _ = scored(said, batch)
        loss = regularised(nats, said, config.activation, config.slowness)
        grads = torch.autograd.grad(loss, list(sgd.params.values()), materialize_grads=True)
        losses.append(float(nats.detach()))
        if not math.isfinite(losses[-1]):
            fix = "give a smaller w_lr, or state_clip above 0"
            raise BadInput("training", "loss", f"became {losses[-1]} in epoch {words[1] + 1}", fix)
        clipped(grads, config.clip)
        sgd.step(grads, rate * batch.rate, config.momentum, config.w_decay)
    return sum(losses) / len(losses)


def worth(task: LanguageTask, config: SearchConfig, state: State, result: Result) -> dict[str, Any]:
    """What an evaluation says at its end: perplexities and size of the model that it trained."""
    found = {name: value for name, value in result.metrics.items() if "perplexity" in name}
    return {**found, "parameters": sum(t.numel() for t in state.weights.values())}
