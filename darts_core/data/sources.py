"""`DATASETS`, every data set by name, and `load`, which makes `Images` of one.

Published sets (Fashion-MNIST, CIFAR) are read by torchvision, which also checks them; they are fetched here, with
progress, into the place where torchvision looks for them, and only when they are not there yet.
"""

from __future__ import annotations

import hashlib
import http.client
import importlib.util
import urllib.request
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from gzip import decompress
from pathlib import Path
from typing import Any

import numpy as np
import torch

from darts_core import io
from darts_core.data.files import read_folder, read_npz
from darts_core.data.images import (
    Images,
    Progress,
    Raw,
    check_options,
    checked,
    held_out,
    mean_and_std,
    mixed,
    resized_to,
    subset_of,
    with_noise,
)
from darts_core.errors import BadInput, unknown

DOWNLOADS = Path(__file__).resolve().parents[2] / "data" / "downloads"
MAX_DOWNLOAD = 400 * 2**20  # bytes of one file: the largest published one has 170 MB
TIMEOUT = 30  # seconds without an answer

# Mean and standard deviation of the 50,000 training images, as written in the original code (cnn/utils.py).
CIFAR10_MEAN, CIFAR10_STD = (0.49139968, 0.48215827, 0.44653124), (0.24703233, 0.24348505, 0.26158768)


@dataclass(frozen=True)
class Source:
    """Where a data set comes from, and what a form or a help text says about it."""

    read: Callable[[Path, int, Progress], Raw]  # (place, resize, progress)
    doc: str  # one sentence
    licence: str
    shape: tuple[int, int, int] | None = None  # (C, H, W); None: whatever the files hold
    downloads: bool = False  # is it fetched when it is not there?
    megabytes: float = 0  # to download, or to read
    needs: str = ""  # how to come by the path that it cannot do without; empty: it can
    takes_path: bool = True
    flip: bool = False  # does an image keep its meaning when mirrored left to right?
    mixes: bool = False  # put in a fixed random order, as nothing is known of the file's
    mean: tuple[float, ...] | None = None  # None: calculated from the training images in use
    std: tuple[float, ...] | None = None


def load(
    name: str,
    *,
    path: str | Path | None = None,
    subset: int = 0,
    resize: int = 0,
    label_noise: float = 0.0,
    seed: int = 0,
    progress: Progress | None = None,
) -> Images:
    """A data set in memory, with `notes` that say what was done to it.

    `path` is the folder or file of the data (published sets: where they are or shall be put; None: data/downloads).
    `subset` training images are drawn with `seed`, 0 for all. `resize` is the side in pixels, 0 for as they are.
    `label_noise` is the fraction of training labels replaced by a random class, with `seed`. `progress(bytes done,
    bytes in all)` is called while something is fetched or read. Raises BadInput.
    """
    source = DATASETS.get(name)
    if source is None:
        raise unknown("data", "data set", name, DATASETS)
    check_options(subset, resize, label_noise)
    raw = source.read(place_of(name, source, path), resize, progress or (lambda done, total: None))
    where = str(path or name)
    raw = checked(where, raw)
    raw = held_out(mixed(raw) if source.mixes else raw)
    if subset:
        raw = subset_of(raw, subset, seed)
    if resize:
        raw = resized_to(raw, resize)
    labels, notes = raw.train_labels, raw.notes
    if label_noise:
        labels, note = with_noise(labels, len(raw.classes), label_noise, seed)
        notes = (*notes, note)
    mean, std = (source.mean, source.std) if source.mean and source.std else mean_and_std(raw.train)
    assert raw.test is not None and raw.test_labels is not None, "held_out makes them"
    return Images(name, raw.train, labels, raw.test, raw.test_labels, raw.classes, mean, std, notes, source.flip)


def place_of(name: str, source: Source, path: str | Path | None) -> Path:
    """The place of the data, which exists unless it is the usual one."""
    if not path:
        if source.needs:
            raise BadInput("data", "path", f"data set {name} needs one", source.needs)
        return DOWNLOADS
    if not source.takes_path:
        raise BadInput(
            "data",
            "path",
            f"data set {name} comes with the package and needs none",
            "leave path out, or choose folder or npz",
        )
    place = Path(path).expanduser()
    try:
        if place.exists():
            return place
    except (OSError, ValueError):  # a name that is too long, or with a zero byte
        pass
    raise BadInput("data", "path", f"there is nothing at {path}", "check the spelling, and that the disk is there")


# --- readers ----------------------------------------------------------------------------------------------------------


def read_digits(place: Path, resize: int, progress: Progress) -> Raw:
    """The 1,797 handwritten digits that come with scikit-learn: 1,200 for the search and 597 for the test, in one fixed
    order.
    """
    table = digits_table()  # (1797, 65): 64 pixels from 0 to 16, then the label
    images = torch.from_numpy(np.rint(table[:, :-1] * (255 / 16)).astype(np.uint8)).view(-1, 1, 8, 8)
    labels = torch.from_numpy(table[:, -1].astype(np.int64))
    raw = mixed(Raw(images, labels, None, None, tuple("0123456789")))
    return raw._replace(
        train=raw.train[:1200],
        train_labels=raw.train_labels[:1200],
        test=raw.train[1200:],
        test_labels=raw.train_labels[1200:],
    )


def digits_table() -> np.ndarray:
    """What sklearn.datasets.load_digits reads, from the same file. Importing scikit-learn takes 2.4 s of CPU time
    (measured) of the 15 s in which a first search should be seen moving; reading the file takes 0.02 s.
    """
    spec = importlib.util.find_spec("sklearn")  # finds the package, runs nothing of it
    for home in (spec.submodule_search_locations or ()) if spec else ():
        file = Path(home) / "datasets" / "data" / "digits.csv.gz"
        if file.is_file():
            return np.loadtxt(decompress(io.read_bytes(file.resolve(), 2**20)).decode().splitlines(), delimiter=",")
    from sklearn.datasets import load_digits  # another layout of the package: ask the package itself

    digits: Any = load_digits()
    return np.column_stack([digits.data, digits.target])


def read_published(kind: str, place: Path, resize: int, progress: Progress) -> Raw:
    """FashionMNIST, CIFAR10 or CIFAR100 in torchvision's layout below `place`, fetched when it is not there."""
    if place.exists() and not place.is_dir():
        raise BadInput(place, "path", "is not a folder", "name the folder that holds the data set, or shall")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of torchvision and numpy about each other, while reading
        from torchvision import datasets

        known = {"FashionMNIST": datasets.FashionMNIST, "CIFAR10": datasets.CIFAR10, "CIFAR100": datasets.CIFAR100}
        files = Files.of(kind, known[kind], place)
        files.refuse_old()
        try:
            train, test = known[kind](files.root, train=True), known[kind](files.root, train=False)
        except Exception:  # torchvision: RuntimeError where files are missing, almost anything where they are cut off
            files.fetch(progress)
            train, test = files.unpack(known[kind])
    labels, test_labels = torch.as_tensor(train.targets), torch.as_tensor(test.targets)
    return Raw(pixels(train.data), labels, pixels(test.data), test_labels, tuple(train.classes))


def pixels(data: Any) -> torch.Tensor:
    """uint8 (N, C, H, W) from torchvision's (N, H, W) tensor or (N, H, W, C) array."""
    images = torch.as_tensor(data)
    return images[:, None] if images.ndim == 3 else images.permute(0, 3, 1, 2).contiguous()


@dataclass(frozen=True)
class Archive:
    """A file to fetch. All three as torchvision has them, so no address is written here."""

    name: str
    md5: str
    addresses: tuple[str, ...]


@dataclass(frozen=True)
class Files:
    """The files of a published data set below `root`, where torchvision looks for them."""

    kind: str
    root: Path
    folder: Path  # of the archives
    unpacked: Path  # what unpacking makes; Fashion-MNIST is unpacked beside its archives
    archives: tuple[Archive, ...]

    @classmethod
    def of(cls, kind: str, maker: Any, place: Path) -> Files:
        if kind == "FashionMNIST":
            root = place.parent if place.name == kind else place  # a person may name the inner folder as well
            raw = root / kind / "raw"
            archives = [Archive(name, md5, tuple(m + name for m in maker.mirrors)) for name, md5 in maker.resources]
            return cls(kind, root, raw, raw, tuple(archives))
        root = place.parent if place.name == maker.base_folder else place
        return cls(kind, root, root, root / maker.base_folder, (Archive(maker.filename, maker.tgz_md5, (maker.url,)),))

    def refuse_old(self) -> None:
        """Old versions of torchvision left pickled tensors, which new ones still prefer. They are not opened here."""
        old = self.root / self.kind / "processed"
        if old.exists():
            raise BadInput(old, "path", "this folder was made by an old torchvision", "move it away: 'raw' is enough")

    def fetch(self, progress: Progress) -> None:
        """Makes sure that every archive is in its place and whole."""
        for archive in self.archives:
            file = self.folder / archive.name
            if file.exists():
                if md5(io.read_bytes(file.resolve(), MAX_DOWNLOAD)) != archive.md5:
                    raise BadInput(file, "", "its checksum is not the published one", "remove the file and try again")
            elif self.unpacked != self.folder and self.unpacked.exists():
                raise self.damaged()
            else:
                data = self.download(archive, progress)
                with io.told(self.folder, len(data)):
                    self.folder.mkdir(parents=True, exist_ok=True)
                io.atomic_write(file, data)

    def download(self, archive: Archive, progress: Progress) -> bytes:
        """The bytes of an archive, checked."""
        reason = "no address is known"
        for address in archive.addresses:
            try:
                data = fetched(address, progress)
            except (OSError, ValueError, http.client.HTTPException) as error:  # URLError and time-outs are OSErrors
                reason = str(getattr(error, "reason", error)) or type(error).__name__
                continue
            if md5(data) == archive.md5:
                return data
            reason = "what arrived has the wrong checksum"
        raise BadInput(
            "data",
            self.kind,
            f"{archive.name} could not be downloaded, is there a network? ({reason})",
            f"{self.by_hand()}, or choose digits, which needs no download",
        )

    def unpack(self, maker: Any) -> tuple[Any, Any]:
        """The training and the test set, after torchvision has checked and unpacked the archives."""
        try:
            return maker(self.root, train=True, download=True), maker(self.root, train=False)
        except PermissionError as error:
            raise BadInput(
                self.root,
                "path",
                "nothing can be written here, and the data set must be unpacked",
                "copy the folder to a place of your own",
            ) from error
        except OSError as error:
            raise io.disk_error(error, self.root, 2 * MAX_DOWNLOAD) from error
        except Exception as error:  # see read_published
            raise self.damaged() from error

    def by_hand(self) -> str:
        *others, last = [archive.name for archive in self.archives]
        return f"put {', '.join(others) + ' and ' if others else ''}{last} into {self.folder} by hand"

    def damaged(self) -> BadInput:
        return BadInput(
            self.unpacked,
            self.kind,
            "some files are missing or differ from the published ones",
            f"remove this folder and try again, or {self.by_hand()}",
        )


def fetched(address: str, progress: Progress) -> bytes:
    """What is at the address; OSError when there is no answer within TIMEOUT seconds, or too long a one."""
    request = urllib.request.Request(address, headers={"User-Agent": "darts-workbench"})
    with urllib.request.urlopen(request, timeout=TIMEOUT) as answer:
        total, data = int(answer.headers.get("Content-Length") or 0), bytearray()
        while part := answer.read(1 << 18):
            data += part
            progress(len(data), total)
            if len(data) > MAX_DOWNLOAD:
                raise OSError(f"more than {MAX_DOWNLOAD >> 20} MB arrived")
    if len(data) < total:
        raise OSError(f"the connection broke after {len(data)} of {total} bytes")
    return bytes(data)


def md5(data: bytes) -> str:
    return hashlib.md5(data, usedforsecurity=False).hexdigest()


DATASETS: dict[str, Source] = {
    "digits": Source(
        read_digits, "Handwritten digits of 8x8 pixels that come with scikit-learn: nothing to download.", "CC BY 4.0",
        shape=(1, 8, 8), takes_path=False,
    ),
    "fashion_mnist": Source(
        partial(read_published, "FashionMNIST"), "Grey pictures of clothes in 10 classes, 28x28 pixels.", "MIT",
        shape=(1, 28, 28), downloads=True, megabytes=31, flip=True,
    ),
    "cifar10": Source(
        partial(read_published, "CIFAR10"), "Colour photographs in 10 classes, 32x32 pixels: the images of the paper.",
        "none published; research use, cite Krizhevsky 2009",
        shape=(3, 32, 32), downloads=True, megabytes=170, flip=True, mean=CIFAR10_MEAN, std=CIFAR10_STD,
    ),
    "cifar100": Source(
        partial(read_published, "CIFAR100"), "Colour photographs in 100 classes, 32x32 pixels.",
        "none published; research use, cite Krizhevsky 2009",
        shape=(3, 32, 32), downloads=True, megabytes=169, flip=True,
    ),
    "folder": Source(
        read_folder, "Your own images: a folder with one folder per class.", "yours",
        needs="set path to this folder", mixes=True,
    ),
    "npz": Source(
        read_npz, "Your own images and labels in one .npz file.", "yours", needs="set path to this file", mixes=True,
    ),
}  # fmt: skip
