"""Alphas and the mix: what is searched, and what a supernet may know of it.

A module of its own because the nets need the type and must know nothing else of a search.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import NamedTuple

import numpy as np
from torch import Tensor

NOTHING: Mapping[str, Tensor] = MappingProxyType({})


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
    edges: Mapping[str, Tensor] = NOTHING  # kind -> (edges,), 1 where absent
    drop: Mapping[str, Tensor] = NOTHING  # operation -> 0-d drop-path rate in this step


def as_arrays(tensors: Mapping[str, Tensor]) -> dict[str, np.ndarray]:
    """float32 copies on the CPU, as records and derivation take them."""
    return {kind: t.detach().float().cpu().numpy().copy() for kind, t in tensors.items()}
