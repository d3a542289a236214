"""Recurrent cells and the language model around them: the cell that is searched, and the cell of a genotype.

    [c0, h0] = [x * mx, h * mh] W0        s0 = h + sigmoid(c0) * (tanh(h0) - h)
    [c, h] = (s_p * mh) W_i               s_i = s_p + sigmoid(c) * (f(h) - s_p)     node i, predecessor p, function f

DARTS (Liu et al. 2019, section 3.2 and appendix A.1.2) and the authors' code: a highway around every node, one matrix
per node (shared by its predecessors and its functions), no biases, masks drawn once per sequence. In the supernet a
node is the weighted sum over all earlier states and all functions, then batch norm (always of the batch at hand; the
code also keeps running statistics). `none` adds nothing and keeps its weight. The cell of a genotype has no batch norm.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from darts_core.errors import BadInput
from darts_core.genotype import CellGenes, Genotype
from darts_core.mix import Mix
from darts_core.nets.decoder import cross_entropy
from darts_core.nets.kernels import Kernels
from darts_core.space import CellSpec, SearchSpace

ACTIVATIONS: Mapping[str, Callable[[Tensor], Tensor]] = {
    "tanh": torch.tanh, "relu": torch.relu, "sigmoid": torch.sigmoid, "identity": lambda h: h,
}  # fmt: skip
SPREAD = 0.04  # all matrices start uniform within this distance of zero (the authors' code)
KIND = "recurrent"


class Rates(NamedTuple):
    """Dropout rates, each acting in training mode only. Defaults: the search of the paper."""

    output: float = 0.75  # units between cell and decoder, one mask per sequence ("dropout")
    hidden: float = 0.25  # units of every state before its matrix, one mask per sequence ("dropouth")
    cell_input: float = 0.75  # units of the cell's input, one mask per sequence ("dropoutx")
    embedding: float = 0.2  # units of the embedding, one mask per sequence ("dropouti")
    words: float = 0.0  # whole words of the vocabulary ("dropoute")


class Decoded(NamedTuple):
    """What the language model says of a sequence; the table of all logits is made when somebody asks for it."""

    raw: Tensor  # (T, B, n), the cell's states
    dropped: Tensor  # (T, B, n), the same behind the output dropout
    words: Tensor  # (V, n) and
    bias: Tensor  # (V,), the decoder

    @property
    def logits(self) -> Tensor:
        """(T, B, V)"""
        return F.linear(self.dropped, self.words, self.bias)

    def scored(self, targets: Tensor) -> tuple[Tensor, Tensor]:
        """Targets (T, B) -> mean cross-entropy in nats per token, and the share of targets found likeliest."""
        return cross_entropy(self.dropped, self.words, self.bias, targets)


class Masks(NamedTuple):
    """Variational masks (Gal and Ghahramani 2016): drawn once per sequence, (B, n) each; None: nothing is dropped."""

    x: Tensor | None
    h: Tensor | None


def masked(values: Tensor, mask: Tensor | None) -> Tensor:
    return values if mask is None else values * mask


def drawn(rate: float, like: Tensor, *shape: int) -> Tensor:
    """0 with probability `rate`, else 1 / (1 - rate): floor(uniform + keep) / keep, as the authors' code."""
    keep = 1 - rate
    return (torch.rand(*shape, dtype=like.dtype, device=like.device) + keep).floor_().div_(keep)


def normalised(x: Tensor) -> Tensor:
    """(B, n) to mean 0 and variance 1 per unit over the batch, eps 1e-5; a batch of one becomes 0 (it is its mean)."""
    return x * 0 if len(x) == 1 else F.batch_norm(x, None, None, None, None, training=True, eps=1e-5)


def bounded(h: Tensor, limit: float) -> Tensor:
    """(B, n) with each row scaled to an L2 norm of at most `limit`; 0: no limit.

    Nodes with relu or identity are unbounded, and a state fed back at every step can run away.
    """
    if not limit:
        return h
    return h * (limit / (torch.linalg.vector_norm(h, dim=-1, keepdim=True) + 1e-6)).clamp(max=1.0)


def highway(state: Tensor, gates: Tensor, function: Callable[[Tensor], Tensor]) -> Tensor:
    """state (..., n), gates (..., 2n) = [c, h] -> state + sigmoid(c) * (function(h) - state)."""
    c, h = gates.chunk(2, dim=-1)
    return state + torch.sigmoid(c) * (function(h) - state)


class RecurrentCell(nn.Module):
    """The matrices that both cells have: `first` (2n, 2n) for [x, h], `matrices` (nodes, n, 2n)."""

    def __init__(self, nodes: int, units: int, limit: float) -> None:
        super().__init__()
        self.units, self.limit = units, limit
        self.first = nn.Parameter(torch.empty(2 * units, 2 * units).uniform_(-SPREAD, SPREAD))
        self.matrices = nn.Parameter(torch.empty(nodes, units, 2 * units).uniform_(-SPREAD, SPREAD))

    def entered(self, x: Tensor, h: Tensor, masks: Masks) -> Tensor:
        """s0 of one step from x (B, n) and h (B, n)."""
        gates = torch.cat([masked(x, masks.x), masked(h, masks.h)], dim=-1) @ self.first
        return highway(h, gates, torch.tanh)


class MixedRecurrentCell(RecurrentCell):
    """The cell that is searched, as the equations say it: slow and clear."""

    def __init__(self, cell: CellSpec, units: int, limit: float) -> None:
        super().__init__(cell.nodes, units, limit)
        self.cell = cell

    def forward(self, x: Tensor, h: Tensor, rows: Tensor, masks: Masks) -> Tensor:
        """Inputs (T, B, n), the state before them (B, n), the mix (edges, ops) -> the states after each, (T, B, n)."""
        states = []
        for x_t in x:
            h = bounded(self.step(x_t, h, rows, masks), self.limit)
            states.append(h)
        return torch.stack(states)

    def step(self, x: Tensor, h: Tensor, rows: Tensor, masks: Masks) -> Tensor:
        s = [normalised(self.entered(x, h, masks))]
        for node, matrix in enumerate(self.matrices):
            total = torch.zeros_like(h)
            for edge in self.cell.edges_into(node):
                state = s[self.cell.edges[edge][0]]
                gates = masked(state, masks.h) @ matrix
                for o, op in enumerate(self.cell.ops):
                    if op != "none":
                        total = total + rows[edge, o] * highway(state, gates, ACTIVATIONS[op])
            s.append(normalised(total))
        return torch.stack([s[state] for state in self.cell.output]).mean(0)


class FixedRecurrentCell(RecurrentCell):
    """The cell of a genotype. All nodes that share a predecessor are computed together: one product per such state."""

    def __init__(self, genes: CellGenes, units: int, limit: float) -> None:
        super().__init__(len(genes.nodes), units, limit)
        if any(len(node) != 1 for node in genes.nodes):
            fix = "derive it in a recurrent space"
            raise BadInput("genotype", KIND, "a node of a recurrent cell has exactly one predecessor", fix)
        self.genes = [node[0] for node in genes.nodes]
        self.output = genes.output
        self.fed: list[list[int]] = [
            [node for node, gene in enumerate(self.genes) if gene.source == state] for state in range(len(self.genes))
        ]

    def forward(self, x: Tensor, h: Tensor, masks: Masks) -> Tensor:
        """Inputs (T, B, n), the state before them (B, n) -> the states after each, (T, B, n)."""
        n = self.units
        gates = masked(x, masks.x) @ self.first[:n]  # (T, B, 2n): all steps in one product
        # per state the matrices of its children side by side: (n, [c of all children, h of all children])
        side_by_side = [
            self.matrices[nodes].view(len(nodes), n, 2, n).permute(1, 2, 0, 3).reshape(n, -1) if nodes else None
            for nodes in self.fed
        ]
        states = []
        for gate in gates.unbind(0):
            h = bounded(self._step(gate, h, side_by_side, masks.h), self.limit)
            states.append(h)
        return torch.stack(states)

    def _step(self, gate: Tensor, h: Tensor, side_by_side: list[Tensor | None], mask: Tensor | None) -> Tensor:
        n = self.units
        c, u = torch.addmm(gate, masked(h, mask), self.first[n:]).split(n, dim=-1)
        s: list[Tensor] = [torch.lerp(h, torch.tanh(u), torch.sigmoid(c))] + [h] * len(self.genes)
        for state, (nodes, weights) in enumerate(zip(self.fed, side_by_side, strict=True)):
            if weights is None:
                continue
            both = masked(s[state], mask) @ weights
            carried = torch.sigmoid(both[:, : len(nodes) * n])
            for k, node in enumerate(nodes):
                new = ACTIVATIONS[self.genes[node].op](both[:, (len(nodes) + k) * n : (len(nodes) + k + 1) * n])
                s[node + 1] = torch.lerp(s[state], new, carried[:, k * n : (k + 1) * n])
        return torch.stack([s[state] for state in self.output]).mean(0)


class LanguageModel(nn.Module):
    """Embedding, recurrent cell, and a decoder that shares the embedding's matrix (Press and Wolf 2017).

    Args:
        cell: (x, h, ..., masks) -> states.
        vocabulary: different tokens, V.
        units: of embedding and hidden state, n: tied weights ask for equal numbers.
    """

    def __init__(self, cell: nn.Module, vocabulary: int, units: int, rates: Rates) -> None:
        super().__init__()
        self.units, self.rates = units, rates
        self.words = nn.Parameter(torch.empty(vocabulary, units).uniform_(-SPREAD, SPREAD))
        self.bias = nn.Parameter(torch.zeros(vocabulary))
        self.cell = cell

    def spoken(self, tokens: Tensor, carry: Tensor, run: Callable[[Tensor, Tensor, Masks], Tensor]) -> Decoded:
        """Tokens (T, B) and the state before them (B, n) through the dropouts and the cell."""
        (B, n), rates = carry.shape, self.rates if self.training else Rates(0, 0, 0, 0, 0)
        words = self.words * drawn(rates.words, self.words, len(self.words), 1) if rates.words else self.words
        x = F.embedding(tokens, words)
        if rates.embedding:
            x = x * drawn(rates.embedding, x, 1, B, n)
        masks = Masks(*(drawn(rate, x, B, n) if rate else None for rate in (rates.cell_input, rates.hidden)))
        raw = run(x, carry, masks)
        dropped = raw * drawn(rates.output, raw, 1, B, n) if rates.output else raw
        return Decoded(raw, dropped, self.words, self.bias)

    def pack(self, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Tensors under the names that files hold -> under this net's names: here they are the same."""
        return dict(tensors)

    def unpack(self, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The inverse of `pack`."""
        return dict(tensors)


class RecurrentSupernet(LanguageModel):
    """`net(tokens, mix, carry) -> (Decoded, carry)`: the language model around the cell that is searched.

    `fast` computes the same function in few calls (`nets/recurrent_fast.py`), and with `kernels` what lies between the
    matrix products of a CPU is compiled (`nets/recurrent_compiled.py`).
    """

    def __init__(
        self, space: SearchSpace, vocabulary: int, units: int, rates: Rates, limit: float = 0.0, fast: bool = True,
        kernels: Kernels | None = None,
    ) -> None:  # fmt: skip
        super().__init__(_mixed(space.cells[KIND], units, limit, fast, kernels), vocabulary, units, rates)

    def forward(self, tokens: Tensor, mix: Mix, carry: Tensor) -> tuple[Decoded, Tensor]:
        rows = mix.folded(KIND)
        if mix.active is not None:  # what is not run has no gradient either
            run = [[column in paths for column in range(rows.shape[1])] for paths in mix.active[KIND]]
            rows = rows * torch.tensor(run, dtype=rows.dtype, device=rows.device)
        said = self.spoken(tokens, carry, lambda x, h, masks: self.cell(x, h, rows, masks))
        return said, said.raw[-1]


def _mixed(cell: CellSpec, units: int, limit: float, fast: bool, kernels: Kernels | None) -> MixedRecurrentCell:
    from darts_core.nets.recurrent_compiled import CompiledRecurrentCell
    from darts_core.nets.recurrent_fast import FastRecurrentCell

    if not fast:
        return MixedRecurrentCell(cell, units, limit)
    return CompiledRecurrentCell(cell, units, limit, kernels) if kernels else FastRecurrentCell(cell, units, limit)


class RecurrentNetwork(LanguageModel):
    """`net(tokens, carry) -> (Decoded, carry)`: the language model around the cell of a genotype."""

    def __init__(
        self, genotype: Genotype, vocabulary: int, units: int, rates: Rates | None = None, limit: float = 0.0
    ) -> None:
        if KIND not in genotype.cells:
            raise BadInput("genotype", "cells", "holds no recurrent cell", "give a genotype of a recurrent space")
        cell = FixedRecurrentCell(genotype.cells[KIND], units, limit)
        super().__init__(cell, vocabulary, units, rates or Rates())

    def forward(self, tokens: Tensor, carry: Tensor) -> tuple[Decoded, Tensor]:
        said = self.spoken(tokens, carry, self.cell)
        return said, said.raw[-1]


def zero_carry(columns: int, units: int, like: Any = None) -> Tensor:
    """The state before the first token: zeros (columns, units)."""
    return torch.zeros(columns, units, dtype=getattr(like, "dtype", None), device=getattr(like, "device", None))


def to_original(name: str) -> str:
    """The released code's name of our weight `name`; matrices of nodes are one tensor here, one per node there."""
    return {
        "words": "encoder.weight", "bias": "decoder.bias", "cell.first": "rnns.0._W0", "cell.matrices": "rnns.0._Ws",
    }[name]  # fmt: skip


def from_original(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The released recurrent model's state dict under our names. The decoder's matrix is the embedding's.

    Raises:
        BadInput: an entry is missing, or the two tied matrices differ.
    """
    count = sum(name.startswith("rnns.0._Ws.") for name in state)
    needed = ["encoder.weight", "decoder.bias", "rnns.0._W0", *(f"rnns.0._Ws.{i}" for i in range(count))]
    for name in needed:
        if name not in state or not count:
            raise BadInput("checkpoint", name, "is missing", "give the state of a recurrent DARTS model")
    if "decoder.weight" in state and not torch.equal(state["decoder.weight"], state["encoder.weight"]):
        raise BadInput("checkpoint", "decoder.weight", "differs from encoder.weight", "the two are tied: keep one")
    return {
        "words": state["encoder.weight"], "bias": state["decoder.bias"], "cell.first": state["rnns.0._W0"],
        "cell.matrices": torch.stack([state[f"rnns.0._Ws.{i}"] for i in range(count)]),
    }  # fmt: skip
