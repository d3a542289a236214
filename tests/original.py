"""Deterministic weights and batches that the numbers in `data/original_darts.json` were computed from.

Every tensor is a wave of its name in the released code's state dict, so any implementation that can map its names can
rebuild it.
"""

from __future__ import annotations

import zlib

import numpy as np
import torch
from torch import Tensor, nn

from darts_core.nets.fixed import Network
from darts_core.nets.original import derived_to_original, to_original


def wave(name: str, shape: tuple[int, ...]) -> np.ndarray:
    h = zlib.crc32(name.encode()) % 1000
    i = np.arange(int(np.prod(shape)), dtype=np.float64)
    return np.sin(0.7 * i + 0.013 * h + 0.3 * np.sin(0.11 * i * i % 7.0)).reshape(shape)


def filled(name: str, shape: tuple[int, ...]) -> Tensor:
    """The value of the weight that the released code calls `name`."""
    w = wave(name, shape)
    if name.endswith("num_batches_tracked"):
        return torch.zeros(shape, dtype=torch.long)
    if name.endswith("running_mean"):
        return torch.from_numpy(0.1 * w)
    if name.endswith("running_var"):
        return torch.from_numpy(1 + 0.5 * w**2)
    if len(shape) >= 2:
        value = 1.4 * w / np.sqrt(np.prod(shape[1:]))
    else:
        value = 1 + 0.1 * w if name.endswith("weight") else 0.1 * w
    return torch.from_numpy(value)


def fill(net: nn.Module, ops: tuple[str, ...]) -> None:
    with torch.no_grad():
        for name, p in net.named_parameters():
            p.copy_(filled(to_original(name, ops), tuple(p.shape)))


def fill_derived(net: Network) -> None:
    """Weights and buffers of a derived network."""
    with torch.no_grad():
        for name, t in net.state_dict().items():
            t.copy_(filled(derived_to_original(name, net.genotype, net.places), tuple(t.shape)))


def batch(name: str, shape: tuple[int, ...]) -> tuple[Tensor, Tensor]:
    images = wave(f"{name}.x", shape) + 0.5 * np.flip(wave(f"{name}.y", shape), -1)
    labels = (7 * np.arange(shape[0]) + len(name)) % 10
    return torch.from_numpy(images.copy()), torch.from_numpy(labels)
