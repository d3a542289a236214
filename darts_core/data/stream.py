"""Batches of a folder of images that is too large for memory (ImageNet): read, cropped and coloured while one trains.

The same promise as `plan`: a batch is a pure function of (seed, epoch, index). Each image has a seed of its own for its
crop, mirroring and colours, so neither the number of loader processes nor the batch size changes a pixel.

Source of the augmentation: the released code (cnn/train_imagenet.py): RandomResizedCrop, horizontal flip, ColorJitter
(0.4, 0.4, 0.4, hue 0.2), ImageNet's mean and deviation; tests: the shorter side at 8/7 of the crop, then its centre.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from darts_core.data.files import LAYOUT, Skipped, read_image
from darts_core.data.images import order_of
from darts_core.data.plan import Split, permutation, portions
from darts_core.errors import BadInput, one_line
from darts_core.seeds import seed as seed_of

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
TESTS = ("val", "validation", "test")  # names of the folder with the images to test on
Sample = tuple[int, int]  # number of the image, epoch (-1: as it is, for testing)


class Stream:
    """`PATH/train/<class>` and `PATH/val/<class>` (or `test`); without the latter a fifth of each class is held out.

    Raises:
        BadInput: the folder is not laid out so, or a class is known to the test alone.
    """

    mean, std = MEAN, STD

    def __init__(
        self,
        path: str | Path,
        *,
        seed: int,
        side: int,
        batch: int,
        train_portion: float = 0.5,
        augment: bool = True,
        workers: int = 0,
        device: torch.device | str = "cpu",
    ) -> None:
        place = Path(path).expanduser()
        if not path or not place.is_dir():
            raise BadInput("data", "path", f"there is no folder at {str(path)[:200]!r}", LAYOUT)
        self.place, self.side, self.seed, self.workers = place, side, seed, workers
        self.device = torch.device(device)
        self.size = batch
        self._read(place)
        images = Files(self.paths, self.labels, side, seed, augment)
        self._images = images
        order = permutation(seed_of(seed, "split"), len(self._train), torch.device("cpu"))
        first, second = portions(len(self._train), train_portion, None)
        train = torch.tensor(self._train)
        self.members = {
            "all": train,
            "weights": train[order[:first]],
            "arch": train[order[first : first + second]],
            "test": torch.tensor(self._test),
        }
        if batch > len(train):
            what = f"a batch of {batch} is larger than the {len(train)} training images"
            raise BadInput("data", "batch", what, f"give at most {len(train)}")
        self._running: tuple[tuple[str, int, int], Iterator[Any]] | None = None  # what comes next, and from where

    def _read(self, place: Path) -> None:
        skipped = Skipped(place.resolve())
        train = skipped.class_folders(place / "train") if (place / "train").is_dir() else skipped.class_folders(place)
        tests = next((place / name for name in TESTS if (place / "train").is_dir() and (place / name).is_dir()), None)
        test = skipped.class_folders(tests) if tests else {}
        if len(train) < 2:
            raise BadInput(place, "path", "holds fewer than two class folders", LAYOUT)
        names = sorted(train)
        if foreign := sorted(set(test) - set(names)):
            fix = "test folders have the names of training folders"
            raise BadInput(place, "classes", f"class {foreign[0]!r} has no training images", fix)
        self.classes = tuple(one_line(name, 100) for name in names)
        self.paths, self.labels, self._train, self._test = [], [], [], []
        for number, name in enumerate(names):
            own = skipped.images(train[name])
            held = skipped.images(test[name]) if name in test else []
            self._add(own, number, self._train)
            self._add(held, number, self._test)
        if not test:
            self._hold_out()
        self.notes = skipped.notes()

    def _add(self, paths: list[Path], label: int, to: list[int]) -> None:
        to.extend(range(len(self.paths), len(self.paths) + len(paths)))
        self.paths += [str(path) for path in paths]
        self.labels += [label] * len(paths)

    def _hold_out(self) -> None:
        """A fifth of each class, the same for every seed."""
        mixed = [self._train[i] for i in order_of(len(self._train), "hold-out").tolist()]
        counts: dict[int, int] = {}
        self._train = []
        total = {label: self.labels.count(label) for label in set(self.labels)}
        for image in mixed:
            label = self.labels[image]
            held = counts.get(label, 0) < max(1, round(total[label] / 5))
            counts[label] = counts.get(label, 0) + 1
            (self._test if held else self._train).append(image)

    def described(self) -> str:
        """For people: how many images of how many classes."""
        said = f"{len(self._train)} training and {len(self._test)} test images in {len(self.classes)} classes"
        return ". ".join([f"{self.place.name}: {said}, read while training at {self.side} pixels", *self.notes])

    def steps(self, split: Split) -> int:
        """Batches that show every image of the split once; the last may be smaller."""
        return -(-len(self.members[split]) // self.size)

    def batch(self, split: Split, epoch: int, index: int) -> tuple[Tensor, Tensor]:
        """(B, 3, side, side) float32, normalised, and int64 (B,) labels. Asked for in order, they are read ahead."""
        wanted = (split, epoch, index)
        if self._running is None or self._running[0] != wanted:
            members = self.members[split]
            order = permutation(seed_of(self.seed, f"order of {split}", epoch), len(members), torch.device("cpu"))
            chosen = [(int(i), epoch) for i in members[order][index * self.size :]]
            self._running = (wanted, iter(self._loader(chosen, self.size)))
        images, labels = next(self._running[1])
        self._running = ((split, epoch, index + 1), self._running[1])
        return images.to(self.device, non_blocking=True), labels.to(self.device, non_blocking=True)

    def eval_batches(self, split: Split, batch: int) -> Iterator[tuple[Tensor, Tensor]]:
        """All images of the split once, unaltered, in a fixed order."""
        for images, labels in self._loader([(int(i), -1) for i in self.members[split]], batch):
            yield images.to(self.device), labels.to(self.device)

    def _loader(self, samples: list[Sample], batch: int) -> DataLoader[Any]:
        # a generator of its own: a loader draws a seed when it starts, and must not draw it from the training's
        own = torch.Generator().manual_seed(0)
        pinned = self.device.type == "cuda"
        return DataLoader(
            self._images, batch, sampler=samples, num_workers=self.workers, pin_memory=pinned, generator=own
        )


class Files(Dataset[Any]):
    """Image number i as epoch e wants it: `files[i, e]`."""

    def __init__(self, paths: list[str], labels: list[int], side: int, seed: int, augment: bool) -> None:
        self.paths, self.labels, self.side, self.seed, self.augment = paths, labels, side, seed, augment

    def __getitem__(self, sample: Sample) -> tuple[Tensor, int]:
        image, epoch = sample
        pixels = read_image(Path(self.paths[image]))
        colour = pixels.expand(3, -1, -1) if pixels.shape[0] == 1 else pixels
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed_of(self.seed, "augmentation of files", epoch + 1, image))
            made = (self._training if epoch >= 0 and self.augment else self._testing)(colour)
        return made, self.labels[image]

    @cached_property
    def _training(self) -> Any:
        from torchvision.transforms import v2

        return v2.Compose([
            v2.RandomResizedCrop(self.side, antialias=True), v2.RandomHorizontalFlip(),
            v2.ColorJitter(0.4, 0.4, 0.4, 0.2), *_normal(v2),
        ])  # fmt: skip

    @cached_property
    def _testing(self) -> Any:
        from torchvision.transforms import v2

        return v2.Compose([
            v2.Resize(round(self.side * 8 / 7), antialias=True), v2.CenterCrop(self.side), *_normal(v2),
        ])  # fmt: skip


def _normal(v2: Any) -> list[Any]:
    return [v2.ToDtype(torch.float32, scale=True), v2.Normalize(MEAN, STD)]
