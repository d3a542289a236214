"""Which network a derived architecture makes: stacked cells of two inputs (DARTS), of one input (NAS-Bench-201), or a
chain of blocks, each its own (ProxylessNAS).
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

from darts_core.errors import BadInput
from darts_core.genotype import Genotype
from darts_core.nets import bench201, chain
from darts_core.nets.bench201 import BenchNetwork
from darts_core.nets.chain import ChainNetwork
from darts_core.nets.fixed import Network

DerivedNetwork = Network | BenchNetwork | ChainNetwork


def form_of(genotype: Genotype) -> type[Network] | type[BenchNetwork] | type[ChainNetwork]:
    """The class of its network.

    Raises:
        BadInput: its cells are those of none of them.
    """
    if set(genotype.cells) == {chain.KIND}:
        return ChainNetwork
    inputs = {cell.inputs for cell in genotype.cells.values()}
    if inputs == {1} and set(genotype.cells) == {bench201.KIND}:
        return BenchNetwork
    if inputs == {2} and "normal" in genotype.cells:
        return Network
    kinds = ", ".join(genotype.cells)
    raise BadInput("genotype", "cells", f"({kinds}) are of no network for images", "give a cell for images")


def network_of(
    genotype: Genotype, *, stem: str = "cifar", auxiliary: bool = False, reductions: Collection[int], **layout: Any
) -> DerivedNetwork:
    """The network: images (N, C, H, W) -> logits (N, classes), weights drawn from torch's global generator.

    Args:
        layout: further keyword arguments of `Network`, which all forms share: image_channels, classes, channels, cells,
            stem_multiplier, stem_stride, search.

    Raises:
        BadInput: this architecture has no such network.
    """
    form, places = form_of(genotype), tuple(reductions)
    if form is Network:
        if places and "reduce" not in genotype.cells:
            raise BadInput("genotype", "cells", "hold no reduction cell", "set reductions=none")
        return Network(genotype, stem=stem, auxiliary=auxiliary, reductions=places, **layout)
    if stem != "cifar" or auxiliary:
        what = "cells of one input have no auxiliary head and no ImageNet stem"
        raise BadInput("network", "genotype", what, "set auxiliary=0 and stem=cifar")
    return form(genotype, reductions=places, **layout)
