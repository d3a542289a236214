"""A search small enough for tests: generated images, float64, a few steps."""

from __future__ import annotations

from typing import Any

import torch

from darts_core.config import SearchConfig
from darts_core.data import Images
from darts_core.methods.darts import darts
from darts_core.optimise import Adam
from darts_core.search.bilevel import Host, Search
from darts_core.tasks import ImageTask

SMALL = {
    "space": "tiny", "cells": 3, "reductions": "middle", "channels": 2, "stem_multiplier": 1, "batch": 8,
    "arch_batch": 8, "epochs": 2, "augment": False, "a_lr": 0.1, "w_lr": 0.05, "seed": 3,
}  # fmt: skip


def images(count: int = 64, channels: int = 1, side: int = 6, classes: int = 3) -> Images:
    """Random pixels with labels that the mean brightness decides, so that there is something to learn."""
    g = torch.Generator().manual_seed(1)
    labels = torch.arange(count) % classes
    pixels = torch.randint(0, 120, (count, channels, side, side), generator=g) + 40 * labels.view(-1, 1, 1, 1)
    names = tuple(f"class {k}" for k in range(classes))
    pixels = pixels.to(torch.uint8)
    return Images("made", pixels, labels, pixels[:12], labels[:12], names, (0.5,) * channels, (0.25,) * channels, ())


def config(**changes: Any) -> SearchConfig:
    return SearchConfig.from_dict({**SMALL, **changes})


def task(settings: SearchConfig, dtype: torch.dtype = torch.float64, **kind: Any) -> ImageTask:
    return ImageTask(settings, images(**kind), dtype=dtype)


def search(dtype: torch.dtype = torch.float64, **changes: Any) -> Search:
    """A search before its first step, alphas in `dtype` and away from zero, so that edges and operations differ."""
    settings = config(**changes)
    found = Search(darts, task(settings, dtype), settings, Host())
    g = torch.Generator().manual_seed(7)
    found.alphas = found.alphas.replaced(
        [
            torch.randn(a.shape, generator=g, dtype=torch.float64).to(dtype).requires_grad_()
            for a in found.alphas.tensors()
        ]
    )
    found.adam = Adam(dict(zip(found.alphas.names(), found.alphas.tensors(), strict=True)))
    return found
