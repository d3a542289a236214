"""How cells are stacked into a network: widths and kinds of each place, known without building anything.

Source: DARTS (Liu et al. 2019, section 3.1.1): reduction cells double the channels and halve the image.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass


@dataclass(frozen=True)
class Place:
    """Where a cell stands: its kind, channels inside, and channels of its two inputs."""

    kind: str  # "normal" or "reduce"
    channels: int
    before_previous: int  # channels of s0, the output of cell k-2
    previous: int  # channels of s1, the output of cell k-1
    shrunk: bool  # cell k-1 was a reduction, so s0 is twice as large as s1

    @property
    def reduces(self) -> bool:
        return self.kind == "reduce"


def places(
    channels: int, cells: int, reductions: Collection[int], stem: int, outputs: dict[str, int], shrunk: bool = False
) -> list[Place]:
    """The stack: `cells` places behind a stem of `stem` channels.

    Args:
        outputs: kind -> how many states its cell concatenates.
        shrunk: the older input of the first cell is twice as large as the newer one (the ImageNet stem).
    """
    stack, before, previous = [], stem, stem
    for index in range(cells):
        kind = "reduce" if index in reductions else "normal"
        channels = channels * 2 if kind == "reduce" else channels
        stack.append(Place(kind, channels, before, previous, shrunk))
        before, previous, shrunk = previous, channels * outputs[kind], kind == "reduce"
    return stack


def chain_places(channels: int, blocks: int, reductions: Collection[int]) -> list[tuple[int, int, int]]:
    """Per block of a chain its channels in, channels out and stride; a reduction halves the image and doubles them."""
    found = []
    for index in range(blocks):
        out, stride = (2 * channels, 2) if index in reductions else (channels, 1)
        found.append((channels, out, stride))
        channels = out
    return found
