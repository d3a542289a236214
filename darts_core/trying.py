"""Derivation by perturbation, on any run that has a checkpoint (DARTS-PT, Wang et al. 2021, section 4).

The supernet of the checkpoint is taken as it is. Edge by edge, in random order, each operation is taken out in turn and
the accuracy on the architecture split measured: the one that is missed most stays (`methods/dartspt.py`, where the same
rule is the end of a search). After each choice the weights may be tuned for some steps, at the learning rate that the
run had there, alphas held; the original tunes for whole epochs, so this is its cheap form. Nothing is written to the
run.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator

import torch
from torch import Tensor

from darts_core.config import EVALUATE
from darts_core.derive import derive
from darts_core.drive import settings_in
from darts_core.errors import BadInput
from darts_core.language import task_of
from darts_core.legal import edge_name
from darts_core.methods.dartspt import accuracy_without, crowded, one_choice, undecided
from darts_core.mix import as_arrays
from darts_core.runs import RunReader
from darts_core.runs.derived import Decision, Tried
from darts_core.search.bilevel import Search
from darts_core.search.host import Host
from darts_core.search.state import from_bytes
from darts_core.strategies import STRATEGIES


def search_at(reader: RunReader, file: str) -> Search:
    """The search of a run as it stood at a checkpoint, on the CPU.

    Raises:
        BadInput: the run has no supernet, or the checkpoint is damaged.
    """
    config = settings_in(reader, file)
    if config.strategy == EVALUATE or STRATEGIES[config.strategy].baseline:
        what = f"a run of {config.strategy} has no supernet"
        raise BadInput(f"run {reader.name}", "rule", what, "choose a run that searches with alphas")
    if config.backend not in ("reference", "fast"):
        config = config.with_(backend="fast")  # the same function, and files hold the reference's form of its weights
    state = from_bytes(reader.read_checkpoint(file), file)
    state.settings = config.to_dict()
    found = Search(STRATEGIES[config.strategy].factory, task_of(config, torch.device("cpu")), config, Host())
    found.restore(state)
    return found


def choices_left(search: Search) -> int:
    """How many choices there are still to make."""
    legal = search.alphas.legal
    return sum(len(undecided(cell, legal[k])) + len(crowded(cell, legal[k])) for k, cell in search.space.cells.items())


def decisions(search: Search, tune: int) -> Iterator[list[Decision]]:
    """Decides everything, choice by choice; gives what each of them decided. Afterwards `search.alphas.legal` says it.

    Args:
        tune: weight steps after each choice.
    """
    number = 0
    for kind, cell in search.space.cells.items():
        while undecided(cell, search.alphas.legal[kind]) or crowded(cell, search.alphas.legal[kind]):
            before, trained = search.alphas, search.trained()
            moment = search.moment("read")._replace(generator=search.generator("perturbation", number))
            after = one_choice(kind, cell, before, trained, moment)
            search.alphas = before._replace(legal=after.legal)
            search.forget()
            found = []
            for edge in _changed(before.legal[kind], after.legal[kind]):
                kept = [cell.ops[o] for o in after.legal[kind][edge].nonzero().flatten().tolist()]
                without = accuracy_without(kind, (edge, slice(None)), before, trained)
                if kept:
                    without = accuracy_without(kind, (edge, cell.ops.index(kept[0])), before, trained)
                found.append(Decision(edge_name(kind, cell.edges[edge]), kept[0] if kept else "", without))
            yield found
            tuned(search, tune, number * tune)
            number += 1


def tuned(search: Search, steps: int, done: int) -> None:
    """So many weight steps on the run's own images, at the learning rate of its present epoch."""
    per_epoch, (epoch, index) = search.task.steps("weights"), (search.epoch, search.index)
    for number in range(done, done + steps):
        search.index = number % per_epoch
        search.weight_step(search.task.batch("weights", epoch + number // per_epoch, search.index), {})
    search.index = index


def perturbed(
    reader: RunReader,
    epoch: int | None = None,
    tune: int = 5,
    say: Callable[[int, int], None] = lambda made, total: None,
) -> Tried:
    """The cell that perturbation gives at a checkpoint.

    Args:
        epoch: finished epochs at the checkpoint; None: the newest one at the end of an epoch.
        tune: weight steps after each choice.
        say: told how many choices are made, and of how many, before the first and after each.

    Raises:
        BadInput: there is no such checkpoint, it is damaged, or the run has no supernet.
    """
    began = time.perf_counter()
    if epoch is None:
        there = [event.epoch for event in reader.checkpoints() if event.file.startswith("e")]
        epoch = max(there, default=0)
    event = reader.checkpoint_at(epoch)
    search = search_at(reader, event.file)
    total, before = choices_left(search), search.accuracy(search.read())
    say(0, total)
    found: list[Decision] = []
    for made, decided in enumerate(decisions(search, tune), 1):
        found += decided
        say(made, total)
    legal = as_arrays(search.alphas.legal)
    cell = derive(search.space, legal)  # one operation weighs 1 on each edge that is left
    after = search.accuracy(search.read())
    seconds = time.perf_counter() - began
    return Tried(event.epoch, event.step, event.sha256, tune, cell, before, after, tuple(found), seconds)


def _changed(before: Tensor, after: Tensor) -> list[int]:
    """Rows of two masks that differ."""
    return (before != after).any(-1).nonzero().flatten().tolist()
