"""The images of a data set in memory, and what may be done to them before a search: hold out, take a subset, resize,
add label noise.

All draws come from (seed, purpose) alone: the same seed gives the same subset and the same wrong labels.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from darts_core.errors import BadInput
from darts_core.seeds import seed as seed_of

Progress = Callable[[int, int], None]  # bytes done, bytes in all (0: not known)

MAX_BYTES = 2 * 2**30  # pixels of one data set: it lives in memory, on the device, for the whole run
MAX_SIDE = 512  # pixels, after resizing
CHUNK = 2048  # images at a time where a calculation needs a wider type than uint8


@dataclass(frozen=True)
class Images:
    """One data set in memory. All tensors are on the CPU; `Plan` moves them."""

    name: str
    train: Tensor  # uint8 (N, C, H, W)
    train_labels: Tensor  # int64 (N,), with the label noise
    test: Tensor  # uint8 (M, C, H, W)
    test_labels: Tensor  # int64 (M,), never noisy
    classes: tuple[str, ...]
    mean: tuple[float, ...]  # per channel, of values in 0..1
    std: tuple[float, ...]
    notes: tuple[str, ...] = ()  # sentences to announce beside every result
    flip: bool = False  # does an image keep its meaning when mirrored left to right?


class Raw(NamedTuple):
    """What a reader returns, before the options are applied. `test` may be None: then a fifth is held out."""

    train: Tensor  # uint8 (N, C, H, W)
    train_labels: Tensor  # int64 (N,)
    test: Tensor | None
    test_labels: Tensor | None
    classes: tuple[str, ...]
    notes: tuple[str, ...] = ()


# --- checks -----------------------------------------------------------------------------------------------------------


def checked(where: object, raw: Raw) -> Raw:
    """`raw` itself, or BadInput: lengths, sizes, labels in range, at least two classes, nothing empty."""
    for part, images, labels in (("", raw.train, raw.train_labels), ("test_", raw.test, raw.test_labels)):
        if images is None or labels is None:
            continue
        if len(images) != len(labels):
            raise BadInput(
                where,
                f"{part}labels",
                f"there are {len(images)} images and {len(labels)} labels",
                "give one label per image",
            )
        if not images.numel():
            raise BadInput(
                where, f"{part}images", "there are none", "give at least one image per class, each with pixels"
            )
        low, high, known = int(labels.min()), int(labels.max()), len(raw.classes)
        if low < 0 or high >= known:
            found, wrong = (low, "negative") if low < 0 else (high, "out of range")
            raise BadInput(
                where,
                f"{part}labels",
                f"label {found} is {wrong}",
                f"the {known} classes are numbered 0 to {known - 1}",
            )
    if raw.test is not None and raw.test.shape[1:] != raw.train.shape[1:]:
        raise BadInput(
            where,
            "test_images",
            f"they are {shape_text(raw.test)}, the training images {shape_text(raw.train)}",
            "bring them to the same size and number of channels",
        )
    if int(raw.train_labels.min()) == int(raw.train_labels.max()):
        raise BadInput(where, "labels", "all training images are of one class", "a search needs at least two classes")
    return raw


def check_size(where: object, count: int, channels: int, height: int, width: int) -> None:
    """Raises BadInput when so many images would not fit: more than MAX_BYTES, or a side over MAX_SIDE pixels."""
    if max(height, width) > MAX_SIDE:
        raise BadInput(
            where,
            "images",
            f"they are {width}x{height} pixels, more than {MAX_SIDE} on a side",
            "set resize to a smaller side, for example 32",
        )
    if count * channels * height * width > MAX_BYTES:
        raise BadInput(
            where,
            "images",
            f"{count} images of {channels}x{height}x{width} need more than {MAX_BYTES // 2**30} GiB",
            "set resize to a smaller side, or give fewer images",
        )


def check_options(subset: int, resize: int, label_noise: float) -> None:
    """Raises BadInput for an option out of its range. What depends on the images is checked where it is used."""
    if subset < 0:
        raise BadInput(
            "data", "subset", f"{subset} training images cannot be taken", "give a positive number, or 0 for all"
        )
    if resize and not 2 <= resize <= MAX_SIDE:
        raise BadInput(
            "data",
            "resize",
            f"a side of {resize} pixels is out of range",
            f"give 2 to {MAX_SIDE}, or 0 to leave them as they are",
        )
    if not 0 <= label_noise <= 1:  # also refuses NaN
        raise BadInput("data", "label_noise", f"{label_noise} is not a fraction", "give a number from 0 to 1")


def shape_text(images: Tensor) -> str:
    return "x".join(str(n) for n in images.shape[1:])


# --- which images -----------------------------------------------------------------------------------------------------


def held_out(raw: Raw) -> Raw:
    """A fifth of each class becomes the test set when there is none. The draw is the same for every seed of a search,
    so that cells found by different runs are tested on the same images, none of which any of them has seen.
    """
    if raw.test is not None:
        return raw
    counts = raw.train_labels.bincount(minlength=len(raw.classes)).tolist()
    test = drawn(raw.train_labels, [max(1, round(n / 5)) if n > 1 else 0 for n in counts], seed_of(0, "hold-out"))
    if not len(test):
        raise BadInput(
            "data",
            "images",
            "no class has two images, so none can be held out for the test",
            "give more images, or a test set",
        )
    train = torch.ones(len(raw.train), dtype=torch.bool).index_fill_(0, test, False)
    note = f"there is no test set: a fifth of each class ({len(test)} images) is held out as one, the same in every run"
    return raw._replace(
        train=raw.train[train],
        train_labels=raw.train_labels[train],
        test=raw.train[test],
        test_labels=raw.train_labels[test],
        notes=(*raw.notes, note),
    )


def subset_of(raw: Raw, size: int, seed: int) -> Raw:
    """`size` of the training images, in file order, each class in its share (and at least one of each)."""
    total, counts = len(raw.train), raw.train_labels.bincount(minlength=len(raw.classes)).tolist()
    present = sum(n > 0 for n in counts)
    if size > total:
        raise BadInput(
            "data",
            "subset",
            f"{size} training images were asked for, there are {total}",
            f"give at most {total}, or 0 for all",
        )
    if size < present:
        raise BadInput(
            "data", "subset", f"{size} training images cannot hold all {present} classes", f"give at least {present}"
        )
    chosen = drawn(raw.train_labels, shares(counts, size), seed_of(seed, "subset"))
    note = f"{size} of {total} training images are used, each class in its share (seed {seed})"
    return raw._replace(train=raw.train[chosen], train_labels=raw.train_labels[chosen], notes=(*raw.notes, note))


def shares(counts: list[int], size: int) -> list[int]:
    """How many of each class make `size` images: one of each that has any, the rest in proportion, by largest
    remainder.
    """
    given, left = [min(n, 1) for n in counts], [max(n - 1, 0) for n in counts]
    rest = size - sum(given)
    if rest == 0:
        return given
    whole = [rest * n // sum(left) for n in left]  # integers: no rounding to argue about
    by_remainder = sorted(range(len(left)), key=lambda c: (-(rest * left[c] % sum(left)), c))
    for c in by_remainder[: rest - sum(whole)]:
        whole[c] += 1
    return [a + b for a, b in zip(given, whole, strict=True)]


def drawn(labels: Tensor, quotas: list[int], seed: int) -> Tensor:
    """Indices, in rising order, of `quotas[c]` samples of each class c."""
    generator = torch.Generator().manual_seed(seed)
    chosen = []
    for c, quota in enumerate(quotas):
        members = (labels == c).nonzero().flatten()
        chosen.append(members[torch.randperm(len(members), generator=generator)[:quota]])
    return torch.cat(chosen).sort().values


def mixed(raw: Raw) -> Raw:
    """In one fixed random order. Files of unknown origin are often sorted by class, and then the first half of them,
    which is what the weights are trained on, would hold half of the classes.
    """
    train = order_of(len(raw.train), "order of the training images")
    raw = raw._replace(train=raw.train[train], train_labels=raw.train_labels[train])
    if raw.test is None or raw.test_labels is None:
        return raw
    test = order_of(len(raw.test), "order of the test images")
    return raw._replace(test=raw.test[test], test_labels=raw.test_labels[test])


def order_of(n: int, purpose: str) -> Tensor:
    return torch.randperm(n, generator=torch.Generator().manual_seed(seed_of(0, purpose)))


# --- what they look like, and what they are called --------------------------------------------------------------------


def resized(images: Tensor, side: int) -> Tensor:
    """uint8 (N, C, H, W) -> uint8 (N, C, side, side): bilinear, antialiased, in float32 and rounded."""
    if tuple(images.shape[2:]) == (side, side):
        return images
    parts = [
        F.interpolate(chunk.float(), (side, side), mode="bilinear", antialias=True, align_corners=False)
        for chunk in images.split(CHUNK)
    ]
    return torch.cat([part.round_().clamp_(0, 255).to(torch.uint8) for part in parts])


def resized_to(raw: Raw, side: int) -> Raw:
    """All images at side x side pixels, with a note where that changes them."""
    H, W = raw.train.shape[2:]
    if (side, side) == (H, W) or raw.test is None:
        return raw
    check_size("data", max(len(raw.train), len(raw.test)), raw.train.shape[1], side, side)
    note = f"images are resized from {W}x{H} to {side}x{side} pixels"
    return raw._replace(train=resized(raw.train, side), test=resized(raw.test, side), notes=(*raw.notes, note))


def with_noise(labels: Tensor, classes: int, fraction: float, seed: int) -> tuple[Tensor, str]:
    """Labels of which a fraction is replaced by a uniformly drawn class, and the sentence that says so.

    The draw may hit the true class: of 40 % replaced labels and 10 classes about 36 % are wrong. The sentence counts
    them.
    """
    generator = torch.Generator().manual_seed(seed_of(seed, "label noise"))
    chosen = torch.randperm(len(labels), generator=generator)[: round(fraction * len(labels))]
    noisy = labels.clone()
    noisy[chosen] = torch.randint(classes, (len(chosen),), generator=generator)
    wrong = int((noisy != labels).sum())
    return noisy, (
        f"{100 * fraction:.4g} % of the search labels ({len(chosen)} of {len(labels)}) are replaced at random "
        f"(seed {seed}), {wrong} of them really differ; test labels are clean"
    )


def mean_and_std(images: Tensor) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Per channel, of pixel values in 0..1. Sums are integers, so the order of the images does not matter. A constant
    channel gets a standard deviation of 1: it is then 0 everywhere after normalisation.
    """
    N, C, H, W = images.shape
    total, squares = torch.zeros(C, dtype=torch.int64), torch.zeros(C, dtype=torch.int64)
    for chunk in images.split(CHUNK):
        wide = chunk.to(torch.int32)  # 255 * 255 fits
        total += wide.sum((0, 2, 3))
        squares += wide.square_().sum((0, 2, 3))
    count = N * H * W
    mean = [int(s) / count / 255 for s in total]
    variance = [(count * int(q) - int(s) ** 2) / count**2 / 255**2 for s, q in zip(total, squares, strict=True)]
    return tuple(mean), tuple(v**0.5 if v > 0 else 1.0 for v in variance)
