"""The plan: which images make which batch, and how each is shifted, mirrored and cut, as pure functions of (seed,
epoch, index).

No generator lives between two batches, so nothing has to be saved to resume. Order and augmentation come from a
counter-based hash (`scrambled`), computed for a whole batch at once on the device of the images: the numbers of a
sample depend on (seed, epoch, sample) alone, whatever the batch size.

The data set-up is that of the original code (github.com/quark0/darts, cnn/train_search.py and cnn/utils.py): one half
of the training images for the weights, the other for the alphas, both shifted and mirrored; cutout, if asked for, after
normalisation.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import lru_cache
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional as F

from darts_core.data.images import Images
from darts_core.errors import BadInput
from darts_core.seeds import seed as seed_of

Split = Literal["weights", "arch", "test", "all"]

DRAWS = 5  # per sample: shift down, shift right, mirror, cut y, cut x


class Plan:
    """Batches of a data set, made on `device`.

    `train_portion` of the training images (rounded down) go to the split "weights", `arch_portion` (None: the rest) to
    "arch", in file order or, with `shuffle_split`, in an order drawn from the seed. "all" is every training image,
    "test" the test images.

    `pad` is how far augmentation may shift an image, in pixels: None is an eighth of the side (4 at 32 pixels, as the
    original), and 0 below 12 pixels, where a shift would cut off what counts. `cutout` is the side of the hole, 0 for
    none; as in the original it does not depend on `augment`. Test batches are never altered.
    """

    def __init__(
        self,
        images: Images,
        *,
        seed: int,
        train_portion: float = 0.5,
        arch_portion: float | None = None,
        batch: int,
        arch_batch: int,
        augment: bool,
        cutout: int = 0,
        shuffle_split: bool = False,
        pad: int | None = None,
        device: torch.device | str = "cpu",
        dtype: torch.dtype = torch.float32,
    ) -> None:
        N, C, H, W = images.train.shape
        self.seed, self.dtype, self.device, self.cutout = seed, dtype, torch.device(device), cutout
        self.pad = (default_pad(min(H, W)) if pad is None else pad) if augment else 0
        self.flip = augment and images.flip
        self.sizes = {"weights": batch, "arch": arch_batch, "all": batch, "test": batch}
        self._train, self._train_labels = images.train.to(self.device), images.train_labels.to(self.device)
        self._test, self._test_labels = images.test.to(self.device), images.test_labels.to(self.device)
        self._mean = torch.tensor(images.mean, dtype=dtype, device=self.device).view(1, C, 1, 1)
        self._std = torch.tensor(images.std, dtype=dtype, device=self.device).view(1, C, 1, 1)

        everything = torch.arange(N, device=self.device)
        order = permutation(seed_of(seed, "split"), N, self.device) if shuffle_split else everything
        first, second = portions(N, train_portion, arch_portion)
        self.members = {
            "weights": order[:first],
            "arch": order[first : first + second],
            "all": everything,
            "test": torch.arange(len(images.test), device=self.device),
        }
        self._check(batch, arch_batch, H, W)
        self._orders: dict[tuple[str, int, int], Tensor] = {}  # the last few: an order serves all batches of an epoch

    def _check(self, batch: int, arch_batch: int, H: int, W: int) -> None:
        uses = (("batch", batch, "weights", "weights"), ("arch_batch", arch_batch, "arch", "alphas"))
        for field, size, split, what in uses:
            there = len(self.members[split])
            if not there:
                raise BadInput(
                    "data",
                    "train_portion",
                    f"no training images are left for the {what}",
                    "change train_portion, or use more images",
                )
            if size < 1:
                raise BadInput("data", field, f"a batch of {size} images cannot be made", "give at least 1")
            if size > there:
                raise BadInput(
                    "data",
                    field,
                    f"a batch of {size} is larger than the {there} images for the {what}",
                    f"give at most {there}, or use more images",
                )
        if not 0 <= self.cutout <= max(H, W):
            raise BadInput(
                "data",
                "cutout",
                f"a hole of {self.cutout} pixels does not fit images of {W}x{H}",
                f"give 0 to {max(H, W)}",
            )
        if not 0 <= self.pad < min(H, W):
            raise BadInput(
                "data",
                "pad",
                f"a shift of {self.pad} pixels is too far for images of {W}x{H}",
                f"give 0 to {min(H, W) - 1}",
            )

    def size(self, split: Split) -> int:
        """How many images the split has."""
        return len(self.members[split])

    def steps(self, split: Split) -> int:
        """How many batches show every image of the split once. The last may be smaller, as in the original (CIFAR-10:
        391 of 64); for "arch" it is not smaller, it already holds the first images of the next round.
        """
        return -(-self.size(split) // self.sizes[split])

    def count(self, split: Split, index: int) -> int:
        """How many images batch `index` of an epoch holds."""
        B = self.sizes[split]
        return B if split == "arch" else min(B, self.size(split) - index * B)

    def samples(self, split: Split, epoch: int, index: int) -> Tensor:
        """int64 (B,): which images (numbered in the training set, or in the test set) make batch `index` of the
        epoch.
        """
        B, n = self.sizes[split], self.size(split)
        start = index * B
        assert index >= 0, f"batch {index}"
        if split == "arch":
            # The original makes a fresh random iterator for each step and takes its first batch, so that architecture
            # batches are drawn with replacement across steps. Here they follow one permutation after another: every
            # image of the split is seen equally often, and batch `index` needs none of the batches before it.
            turns = range(start // n, (start + B - 1) // n + 1)
            parts = [slice(max(start - turn * n, 0), start + B - turn * n) for turn in turns]
            return torch.cat([self._ordered(split, epoch, turn, part) for turn, part in zip(turns, parts, strict=True)])
        assert start < n, f"batch {index} of {self.steps(split)} in split {split!r}"
        part = slice(start, start + B)
        return self.members[split][part] if split == "test" else self._ordered(split, epoch, 0, part)

    def batch(self, split: Split, epoch: int, index: int) -> tuple[Tensor, Tensor]:
        """(B, C, H, W) normalised images and int64 (B,) labels. For "arch" any index from 0 is valid, else below
        `steps(split)`.
        """
        at = self.samples(split, epoch, index)
        if split == "test":
            return self._normalised(self._test[at]), self._test_labels[at]
        return self._augmented(at, epoch), self._train_labels[at]

    def eval_batches(self, split: Split, batch: int) -> Iterator[tuple[Tensor, Tensor]]:
        """All images of the split once, unaltered, in a fixed order."""
        images, labels = (self._test, self._test_labels) if split == "test" else (self._train, self._train_labels)
        for at in self.members[split].split(batch):
            yield self._normalised(images[at]), labels[at]

    def _ordered(self, split: str, epoch: int, turn: int, part: slice) -> Tensor:
        """A part of the split in the order of this turn of this epoch."""
        members, key = self.members[split], (split, epoch, turn)
        if key not in self._orders:
            for oldest in list(self._orders)[:-3]:
                del self._orders[oldest]
            self._orders[key] = permutation(
                seed_of(self.seed, f"order of {split}", epoch, turn), len(members), self.device
            )
        return members[self._orders[key][part]]

    def _augmented(self, at: Tensor, epoch: int) -> Tensor:
        """Training images number `at` (B,) -> (B, C, H, W), shifted, mirrored, normalised and cut as this epoch wants
        them.
        """
        pixels = self._train[at]  # (B, C, H, W) uint8
        if not (self.pad or self.flip or self.cutout):
            return self._normalised(pixels)
        draws = uniform(seed_of(self.seed, "augmentation", epoch), at)  # (B, DRAWS)
        if self.pad:
            side = 2 * self.pad + 1
            pixels = shifted(pixels, self.pad, below(draws[:, 0], side), below(draws[:, 1], side))
        if self.flip:
            pixels = torch.where(below(draws[:, 2], 2).bool().view(-1, 1, 1, 1), pixels.flip(-1), pixels)
        x = self._normalised(pixels)
        if self.cutout:
            x = x.masked_fill_(hole(self.cutout, draws[:, 3], draws[:, 4], *x.shape[2:]), 0)  # 0: the data set's mean
        return x

    def _normalised(self, pixels: Tensor) -> Tensor:
        """uint8 -> (x / 255 - mean) / std, in the order in which torchvision's ToTensor and Normalize calculate it."""
        return pixels.to(self.dtype).div_(255).sub_(self._mean).div_(self._std)


# --- splits -----------------------------------------------------------------------------------------------------------


def portions(N: int, train: float, arch: float | None) -> tuple[int, int]:
    """How many of N images go to the weights and to the alphas. floor(portion * N), as the original;
    1e-9 forgives 1/3.
    """
    if not 0 < train < 1:
        raise BadInput(
            "data",
            "train_portion",
            f"{train} of the training images cannot go to the weights",
            "give a number between 0 and 1",
        )
    if arch is not None and not 0 < arch <= 1 - train + 1e-9:
        raise BadInput(
            "data",
            "arch_portion",
            f"{arch} of the training images are not left for the alphas",
            f"give a number above 0 and at most {1 - train:.4g}",
        )
    first = int(train * N + 1e-9)
    return first, N - first if arch is None else min(int(arch * N + 1e-9), N - first)


# --- random numbers without state -------------------------------------------------------------------------------------

# The constants of SplitMix64 as signed 64-bit numbers.
GAMMA, MIX_1, MIX_2 = (c - 2**64 for c in (0x9E3779B97F4A7C15, 0xBF58476D1CE4E5B9, 0x94D049BB133111EB))


def scrambled(x: Tensor) -> Tensor:
    """The output function of SplitMix64 (Steele, Lea and Flood 2014) on int64, whose products wrap around. `>>` copies
    the sign bit on signed numbers, so the masks clear what a logical shift would not have brought in.
    """
    x = (x ^ ((x >> 30) & (2**34 - 1))) * MIX_1
    x = (x ^ ((x >> 27) & (2**37 - 1))) * MIX_2
    return x ^ ((x >> 31) & (2**33 - 1))


@lru_cache(maxsize=8)  # of a pure function: the same order serves all batches of an epoch
def permutation(key: int, n: int, device: torch.device) -> Tensor:
    """int64 (n,): 0..n-1 in an order drawn from `key`, the same on every device and in every version of torch."""
    return scrambled(key + GAMMA * torch.arange(1, n + 1, device=device)).argsort(stable=True)


def uniform(key: int, samples: Tensor) -> Tensor:
    """int64 (B, DRAWS), uniform below 2**31: the numbers of each sample under `key`. Number j of sample i is output
    i * DRAWS + j of the SplitMix64 stream that starts at `key`."""
    counter = samples[:, None] * DRAWS + torch.arange(1, DRAWS + 1, device=samples.device)
    return (scrambled(key + GAMMA * counter) >> 33) & (2**31 - 1)


def below(draw: Tensor, n: int) -> Tensor:
    """Uniform in 0..n-1 (n small beside 2**31) from uniform below 2**31."""
    return (draw * n) >> 31


# --- augmentation -----------------------------------------------------------------------------------------------------


def default_pad(side: int) -> int:
    """Pixels by which an image of this side may be shifted: 4 at 32 as in the original, in proportion elsewhere, 0
    below 12.
    """
    return max(1, side // 8) if side >= 12 else 0


def shifted(pixels: Tensor, pad: int, down: Tensor, right: Tensor) -> Tensor:
    """Random crop: (B, C, H, W) with `pad` black pixels around it, read from row `down` (B,) and column `right` (B,),
    0..2*pad.
    """
    B, C, H, W = pixels.shape
    # a view of all crops of each image: (B, C, 2*pad+1, 2*pad+1, H, W)
    windows = F.pad(pixels, (pad, pad, pad, pad)).unfold(2, H, 1).unfold(3, W, 1)
    return windows[torch.arange(B, device=pixels.device), :, down, right]  # (B, C, H, W)


def hole(length: int, y: Tensor, x: Tensor, H: int, W: int) -> Tensor:
    """Cutout (DeVries and Taylor 2017): True in rows [cy - length//2, cy + length//2) and the same columns, clipped to
    the image; the centre is uniform over the image. (B, 1, H, W) from uniform draws y, x (B,). As in the original, an
    odd length cuts one pixel less.
    """
    half, out = length // 2, []
    for draw, n in ((y, H), (x, W)):
        centre, place = below(draw, n)[:, None], torch.arange(n, device=draw.device)
        out.append((place >= centre - half) & (place < centre + half))  # (B, n)
    return (out[0][:, :, None] & out[1][:, None, :])[:, None]
