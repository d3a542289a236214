"""Alphas and the mix: what is searched, and what a supernet may know of it.

A module of its own because the nets need the type and must know nothing else of a search.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

NOTHING: Mapping[str, Tensor] = MappingProxyType({})
EDGE = "edge"  # in `Mix.drop`: the whole mixed operation of an edge, not one of its operations
Paths = tuple[frozenset[int], ...]  # per edge: columns of the operations to run


class Alphas(NamedTuple):
    """The architecture logits, per kind of cell."""

    ops: Mapping[str, Tensor]  # kind -> (edges, ops)
    legal: Mapping[str, Tensor]  # kind -> (edges, ops) bool
    edges: Mapping[str, Tensor] = NOTHING  # kind -> (edges,): PC-DARTS

    def tensors(self) -> list[Tensor]:
        """Everything that is optimised, in a fixed order: operation logits, then edge logits."""
        return [*self.ops.values(), *self.edges.values()]

    def names(self) -> list[str]:
        """A name for each of `tensors()`, as files call them."""
        return [*(f"alpha.{kind}" for kind in self.ops), *(f"edge.{kind}" for kind in self.edges)]

    def replaced(self, tensors: list[Tensor]) -> Alphas:
        """The same layout around other tensors, in the order of `tensors()`."""
        it = iter(tensors)
        return self._replace(ops={k: next(it) for k in self.ops}, edges={k: next(it) for k in self.edges})

    def leaves(self) -> Alphas:
        """Fresh leaves that require a gradient, sharing the values."""
        return self.replaced([t.detach().requires_grad_() for t in self.tensors()])

    def copied(self) -> Alphas:
        return self.replaced([t.detach().clone() for t in self.tensors()])


class Mix(NamedTuple):
    """All that a supernet may know about the architecture and the moment."""

    ops: Mapping[str, Tensor]  # kind -> (edges, ops), 0 where not legal
    edges: Mapping[str, Tensor] = NOTHING  # kind -> (edges,), 1 where absent: PC-DARTS
    drop: Mapping[str, Tensor] = NOTHING  # operation or EDGE -> 0-d drop-path rate in this step: whole samples
    dropout: Mapping[str, float] = NOTHING  # type: ignore[assignment]  # operation -> rate, single numbers, stride 1
    active: Mapping[str, Paths] | None = None  # operations to run, where the others weigh exactly 0; None: all legal
    extra_skip: Tensor | None = None  # 0-d weight of the auxiliary skip, in nets that have one: DARTS-

    def weights(self) -> dict[str, Tensor]:
        """kind -> (edges, ops): what an operation counts for on its way into the node, edge weight included."""
        return {k: w * self.edges[k].unsqueeze(-1) if k in self.edges else w for k, w in self.ops.items()}

    def rows(self, kind: str, extra: bool = False) -> Tensor:
        """(edges, columns): the weights within each edge; `extra` adds the column of the auxiliary skip."""
        rows = self.ops[kind]
        if not extra:
            return rows
        aside = rows.new_zeros(()) if self.extra_skip is None else self.extra_skip.to(rows)
        return torch.cat([rows, aside.expand(len(rows), 1)], dim=1)

    def folded(self, kind: str, extra: bool = False) -> Tensor:
        """`rows` with the edge weights multiplied in, which is the same where all of an edge goes through its rows."""
        rows = self.rows(kind, extra)
        return rows * self.edges[kind].unsqueeze(-1) if kind in self.edges else rows

    def to(self, dtype: torch.dtype) -> Mix:
        """Weights and rates in the type of the net (alphas stay float32; tests run everything in float64)."""
        cast = lambda tensors: {k: t.to(dtype) for k, t in tensors.items()}  # noqa: E731
        aside = None if self.extra_skip is None else self.extra_skip.to(dtype)
        return self._replace(ops=cast(self.ops), edges=cast(self.edges), drop=cast(self.drop), extra_skip=aside)


def as_arrays(tensors: Mapping[str, Tensor]) -> dict[str, np.ndarray]:
    """float32 copies on the CPU, as records and derivation take them."""
    return {kind: t.detach().float().cpu().numpy().copy() for kind, t in tensors.items()}
