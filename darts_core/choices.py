"""Choices in a module of your own: mark them, search with any method that needs no cell structure, keep the winner.

    model = nn.Sequential(nn.Conv2d(1, 8, 3), Choice(nn.ReLU(), nn.Tanh()), nn.Flatten(), nn.LazyLinear(10))
    genotype = search_choices(model, (x, y), (x_val, y_val), epochs=10)
    small = chosen(model, genotype)                  # the module with every choice replaced by its winner

A choice is one edge; its candidates are its operations, numbered `choice_0`, `choice_1` and so on.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.func import functional_call

from darts_core.config import SearchConfig
from darts_core.errors import BadInput
from darts_core.events import Result
from darts_core.genotype import Genotype, ops_of
from darts_core.mix import Mix
from darts_core.search.host import Host
from darts_core.search.method import Loss, Weights
from darts_core.seeds import seed
from darts_core.space import CHOICE_OPS, CellSpec, SearchSpace
from darts_core.strategies import strategy_named

KIND = "choices"
Data = tuple[Tensor, Tensor]  # inputs (N, ...) and integer labels (N,)


class Choice(nn.Module):
    """Several candidates for one place; all take the same input and give outputs of one shape."""

    def __init__(self, *candidates: nn.Module) -> None:
        super().__init__()
        if not 2 <= len(candidates) <= len(CHOICE_OPS):
            what = f"has {len(candidates)} candidates"
            raise BadInput("Choice", "candidates", what, f"give 2 to {len(CHOICE_OPS)}")
        self.candidates = nn.ModuleList(candidates)
        self.row: Tensor | None = None  # the weights of this call; there between entering and leaving `ChoiceNet` only

    def forward(self, x: Tensor) -> Tensor:
        """The candidates' outputs, added up by the weights of this moment; those of weight 0 are not left out."""
        if self.row is None:
            raise BadInput("Choice", "", "is called outside a search", "make a plain module of it first: chosen(...)")
        return torch.stack([self.row[n] * op(x) for n, op in enumerate(self.candidates)]).sum(0)


def choices_in(model: nn.Module) -> dict[str, Choice]:
    """Name -> choice, in the order of the module.

    Raises:
        BadInput: there is none, or one is inside another.
    """
    found = {name: module for name, module in model.named_modules() if isinstance(module, Choice)}
    if not found:
        raise BadInput("model", "", "holds no Choice", "put darts_core.Choice(...) where there is something to choose")
    for name in found:
        if any(name.startswith(f"{other}.") for other in found if other):
            raise BadInput("model", name, "is a Choice inside a Choice", "mark one of them")
    return found


def choice_space(model: nn.Module) -> SearchSpace:
    """One edge per choice, from one state to a state of its own; every edge is kept."""
    counts = [len(choice.candidates) for choice in choices_in(model).values()]
    ops = CHOICE_OPS[: max(counts)]
    edges = tuple((0, 1 + i) for i in range(len(counts)))
    legal = tuple(tuple(o < count for o in range(len(ops))) for count in counts)
    return SearchSpace(KIND, {KIND: CellSpec(1, len(counts), ops, edges, legal, None, (len(counts),))})


class ChoiceNet(nn.Module):
    """`net(x, mix) -> (output, None)` around a module with choices; nothing of the mix is kept after the call."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, x: Tensor, mix: Mix, carry: Any = None) -> tuple[Tensor, Any]:
        found = list(choices_in(self.model).values())
        try:
            for choice, row in zip(found, mix.ops[KIND], strict=True):
                choice.row = row
            return self.model(x), carry
        finally:
            for choice in found:
                choice.row = None

    def pack(self, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        return dict(tensors)

    def unpack(self, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        return dict(tensors)


class ChoiceTask:
    """Classification with a module of the user's own: cross-entropy on batches drawn from (seed, epoch, index)."""

    def __init__(self, model: nn.Module, config: SearchConfig, weights: Data, arch: Data) -> None:
        self.model, self.config, self.data = model, config, {"weights": weights, "arch": arch}
        self.space, self.device = choice_space(model), weights[0].device
        self.dtype = next(iter(model.parameters())).dtype

    def supernet(self, space: SearchSpace, **net: Any) -> ChoiceNet:
        if net:
            what = f"a module of choices has no form of {', '.join(net)}"
            raise BadInput("settings", "strategy", what, "choose a method that needs no cell structure")
        return ChoiceNet(copy.deepcopy(self.model))

    def network(self, genotype: Genotype) -> nn.Module:
        return chosen(self.model, genotype)

    def steps(self, split: str) -> int:
        return max(1, len(self.data[split][0]) // self.config.batch)

    def batch(self, split: str, epoch: int, index: int) -> Data:
        x, y = self.data[split]
        order = torch.Generator().manual_seed(seed(self.config.seed, f"order of {split}", epoch))
        size = min(self.config.batch, len(x))
        start = index * size % len(x)
        at = torch.randperm(len(x), generator=order).roll(-start)[:size].to(self.device)
        return x[at], y[at]

    def costs(self, measure: str) -> Mapping[str, Tensor]:
        raise BadInput("settings", "price", "costs of your own modules are not known", "set price=0")

    def rate_scale(self, epoch: int, index: int) -> float:
        return 1.0

    def part(self, batch: Data, size: int) -> Data:
        return batch[0][:size], batch[1][:size]

    def step_metrics(self, found: Mapping[str, Any]) -> dict[str, float]:
        return {}

    def sampled(self, net: nn.Module, mix: Mix, seed: int) -> None:
        return None

    def described(self) -> str:
        return f"{len(self.data['weights'][0])} examples for the weights, {len(self.data['arch'][0])} for the choices"

    def carry(self, split: str) -> None:
        return None

    def loss(self, net: nn.Module, weights: Weights | None, mix: Mix, batch: Data, carry: Any, phase: str) -> Loss:
        x, labels = batch
        given = (x, mix, carry)
        output, carry = net(*given) if weights is None else functional_call(net, dict(weights), given)
        right = (output.detach().argmax(-1) == labels).float().mean()
        return Loss(F.cross_entropy(output, labels), carry, {"accuracy": right})

    @torch.no_grad()
    def measure(self, net: nn.Module, mix: Mix, split: str, at_most: int) -> dict[str, float]:
        x, y = (t[:at_most] for t in self.data[split])
        output, _ = net(x, mix.to(self.dtype), None)
        right = (output.argmax(-1) == y).float().mean()
        return {"loss": float(F.cross_entropy(output, y)), "accuracy": float(right)}


def search_choices(model: nn.Module, weights: Data, arch: Data, strategy: str = "darts", **settings: Any) -> Genotype:
    """Search the choices in `model` and return the winners; `model` itself stays as it is.

    Args:
        weights, arch: data for the weights and for the choices.
        settings: those of any search (epochs, batch, w_lr, a_lr, seed ...) and options of the strategy.
    """
    config = SearchConfig.from_dict({"strategy": strategy, "epochs": 10, "a_lr": 0.1, "a_beta2": 0.95, **settings})
    task: Any = ChoiceTask(model, config, weights, arch)
    result = next(e for e in strategy_named(strategy)(task, config, Host()) if isinstance(e, Result))
    return Genotype.from_json(result.genotype)


def chosen(model: nn.Module, genotype: Genotype) -> nn.Module:
    """A copy of the module in which every choice is replaced by the candidate that the genotype names.

    Raises:
        BadInput: the genotype is of another module.
    """
    cell = choice_space(model).cells[KIND]
    if KIND not in genotype.cells or len(genotype.cells[KIND].nodes) != cell.nodes:
        raise BadInput("genotype", "", "is not of this module", "search its own choices first")
    small = copy.deepcopy(model)
    for name, op in zip(choices_in(model), ops_of(cell, genotype.cells[KIND]), strict=True):
        place: Any = small.get_submodule(name)
        winner: nn.Module = place.candidates[CHOICE_OPS.index(op)]
        if not name:
            return winner
        setattr(small.get_submodule(name.rpartition(".")[0]), name.rpartition(".")[2], winner)
    return small
