"""Torch's global random numbers, seeded without the price of `torch.manual_seed`."""

from __future__ import annotations

import torch


def reseed(number: int) -> None:
    """As `torch.manual_seed(number)`: the same random numbers on the CPU, on CUDA and on MPS devices in use.

    A CUDA build of torch without a GPU in use notes down every seed for later, with the stack of its caller as text:
    0.1 ms and more, several times in a step.
    """
    torch.default_generator.manual_seed(number)
    if torch.cuda.is_initialized():
        torch.cuda.manual_seed_all(number)
    if torch.backends.mps.is_available():
        torch.mps.manual_seed(number)
