"""The plan for text: columns of a long stream, cut into stretches for truncated back-propagation.

A stream of N tokens becomes rows (N // B, B): the tail is dropped, each column is a piece of the text read downwards,
and the hidden state is carried from one stretch to the next. Where stretches begin and end is a pure function of
(seed, epoch), so nothing has to be saved to resume. As the original code (rnn/utils.py, rnn/train_search.py).
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import lru_cache
from typing import Literal, NamedTuple

import numpy as np
import torch
from torch import Tensor

from darts_core.data.text import Text
from darts_core.errors import BadInput
from darts_core.seeds import seed as seed_of

TextSplit = Literal["weights", "arch", "test", "all"]
SHORT = 0.05  # share of stretches of half the usual length


class TextBatch(NamedTuple):
    """A stretch of every column."""

    tokens: Tensor  # int64 (T, B)
    targets: Tensor  # int64 (T, B): the tokens one row later
    rate: float = 1.0  # the learning rate is multiplied by it: length as drawn / usual length


class TextPlan:
    """Stretches of a text on `device`.

    "weights" and "all" read the training text, "arch" the validation text, "test" the test text.

    Args:
        batch, arch_batch: columns for the weights and for the alphas.
        length: rows of a usual stretch (bptt).
        jitter: lengths from a normal distribution around it with deviation 5, as in the original's evaluation.
    """

    def __init__(
        self, text: Text, *, seed: int, batch: int, arch_batch: int, length: int, jitter: bool = False,
        device: torch.device | str = "cpu",
    ) -> None:  # fmt: skip
        self.seed, self.length, self.jitter = seed, length, jitter
        self.device = torch.device(device)
        self.text = text
        self.rows: dict[str, Tensor] = {
            "weights": self.columns("weights", batch, "batch"), "arch": self.columns("arch", arch_batch, "arch_batch"),
        }  # fmt: skip
        self.rows["all"] = self.rows["weights"]

    def columns(self, split: str, count: int, field: str = "batch") -> Tensor:
        """(N // count, count) of a split's text: column b is its b-th piece, read downwards.

        Raises:
            BadInput: so many columns leave fewer than three rows.
        """
        stream = {"arch": self.text.valid, "test": self.text.test}.get(split, self.text.train)
        rows = len(stream) // count
        if rows < 3:
            what = f"{count} columns of {len(stream):,} tokens are too short"
            raise BadInput("data", field, what, f"give at most {len(stream) // 3}, or more text")
        return stream[: rows * count].view(count, rows).t().contiguous().to(self.device)

    def steps(self, split: str, epoch: int = 0) -> int:
        """Stretches of an epoch: as many in each, but with `jitter`. The architecture split is read on and on, so it
        has as many as the weights.
        """
        return len(self.stretches("weights" if split == "arch" else split, epoch))

    def stretches(self, split: str, epoch: int) -> list[tuple[int, int]]:
        """(first row, length as drawn) of every stretch of an epoch."""
        return _stretches(len(self.rows[split]), self.length, self.jitter, seed_of(self.seed, "stretches", epoch))

    def batch(self, split: str, epoch: int, index: int) -> TextBatch:
        """For "arch": the validation text from the row at which the weights stand in theirs, wrapped around, always of
        the usual length where it does not end (the original).
        """
        first, length = self.stretches("weights" if split == "arch" else split, epoch)[index]
        rows = self.rows[split]
        if split == "arch":
            return stretch(rows, first % (len(rows) - 1), self.length)
        return stretch(rows, first, length)._replace(rate=length / self.length)

    def eval_batches(self, split: str, columns: int, length: int) -> Iterator[TextBatch]:
        """The whole text of a split once, in order: every row but the first is a target exactly once."""
        rows = self.columns(split, columns)
        for first in range(0, len(rows) - 1, length):
            yield stretch(rows, first, length)


def stretch(rows: Tensor, first: int, length: int) -> TextBatch:
    """`length` rows from `first` on (fewer at the end), and their successors."""
    length = min(length, len(rows) - 1 - first)
    return TextBatch(rows[first : first + length], rows[first + 1 : first + 1 + length])


@lru_cache(maxsize=64)  # of a pure function: asked at every step
def _stretches(rows: int, length: int, jitter: bool, key: int) -> list[tuple[int, int]]:
    """Starts and lengths as drawn: a twentieth of the stretches is half as long, wherever the seed puts them.

    The original draws each length by itself (short with probability 0.05), so its epochs differ in their number of
    steps; here the number is the same in each. With `jitter` lengths are drawn as there: max(5, N(length, 5)), at most
    20 above the usual one.
    """
    rng = np.random.Generator(np.random.PCG64(key))
    half, found, first = max(1, length // 2), [], 0
    if jitter:
        while first < rows - 2:
            mean = length if rng.random() >= SHORT else length / 2
            drawn = min(max(5, int(rng.normal(mean, 5))), length + 20)
            found.append((first, drawn))
            first += drawn
        return found
    count = short = 0
    while count * length - short * (length - half) < rows - 2:
        count += 1
        short = round(SHORT * count)
    shortened = set(rng.permutation(max(1, count - 1))[:short].tolist())  # never the last: it begins inside the text
    for index in range(count):
        drawn = half if index in shortened else length
        found.append((first, drawn))
        first += drawn
    return found
