"""Images from a place that the user names: a folder with one folder per class, or an .npz of arrays.

Both may come from anywhere, so both are bounded before anything large is read, nothing in them is run, and links that
lead out of the folder are not followed.
"""

from __future__ import annotations

import math
import stat
import warnings
import zipfile
from io import BytesIO
from pathlib import Path
from typing import IO

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from darts_core import io
from darts_core.data.images import MAX_BYTES, Progress, Raw, check_size, resized
from darts_core.errors import BadInput, one_line

# --- a folder of images per class -------------------------------------------------------------------------------------

ENDINGS = (".png", ".jpg", ".jpeg", ".bmp", ".gif", ".webp", ".tif", ".tiff", ".ppm", ".pgm")
FORMATS = ("PNG", "JPEG", "BMP", "GIF", "WEBP", "TIFF", "PPM")  # nothing that Pillow hands to another program
MAX_FILE = 64 * 2**20  # bytes of one image file
MAX_PIXELS = 64 * 10**6  # of one image: 8000 x 8000
LAYOUT = "the layout is FOLDER/train/<class>/*.png and FOLDER/test/<class>/*.png, or FOLDER/<class>/*.png"


def read_folder(place: Path, resize: int, progress: Progress) -> Raw:
    """Images of `place`/train/<class> and `place`/test/<class>, or of `place`/<class>. Sizes may differ when `resize`
    is given.

    Files come by class, then by name: the caller mixes them.
    """
    skipped = Skipped(place.resolve())
    train = skipped.class_folders(place / "train") if (place / "train").is_dir() else {}
    test = skipped.class_folders(place / "test") if train and (place / "test").is_dir() else {}
    train = train or skipped.class_folders(place)
    if not train:
        raise BadInput(place, "path", "holds no class folders", LAYOUT)
    classes = tuple(sorted(train))
    foreign = sorted(set(test) - set(classes))
    if foreign:
        raise BadInput(
            place / "test",
            "classes",
            f"class {foreign[0]!r} has no training images",
            "test folders have the names of training folders",
        )
    train_files = [(path, classes.index(c)) for c in classes for path in skipped.images(train[c])]
    test_files = [(path, classes.index(c)) for c in sorted(test) for path in skipped.images(test[c])]
    images, notes = read_images([path for path, _ in train_files + test_files], resize, progress)
    labels = torch.tensor([label for _, label in train_files + test_files])
    N, notes, names = len(train_files), (*notes, *skipped.notes()), tuple(one_line(c, 100) for c in classes)
    if not test_files:
        return Raw(images, labels, None, None, names, notes)
    return Raw(images[:N], labels[:N], images[N:], labels[N:], names, notes)


class Skipped:
    """Lists folders in name order and counts what it leaves out, so that it can be said."""

    def __init__(self, root: Path) -> None:
        self.root, self.links, self.others = root, 0, 0  # root: resolved, so that it may itself be a link

    def class_folders(self, place: Path) -> dict[str, Path]:
        """Class name -> folder. Hidden folders and loose files are no classes."""
        return {path.name: path for path in self._inside(place) if path.is_dir()}

    def images(self, place: Path) -> list[Path]:
        """The image files of one class, at least one."""
        found = []
        for path in self._inside(place):
            if path.suffix.lower() in ENDINGS and stat.S_ISREG(path.stat().st_mode):
                found.append(path)
            else:
                self.others += 1
        if not found:
            raise BadInput(
                place,
                "images",
                "this class folder holds no images",
                f"add some ({', '.join(e[1:] for e in ENDINGS)}) or remove the folder",
            )
        return found

    def _inside(self, place: Path) -> list[Path]:
        try:
            paths = sorted(path for path in place.iterdir() if not path.name.startswith("."))
        except OSError as error:
            raise BadInput(
                place, "path", f"cannot be listed ({error.strerror})", "check that it is there and readable"
            ) from error
        kept = [path for path in paths if self._stays(path)]
        self.links += len(paths) - len(kept)
        return kept

    def _stays(self, path: Path) -> bool:
        try:
            return path.resolve(strict=True).is_relative_to(self.root)
        except (OSError, RuntimeError):  # leads nowhere, or round in a circle
            return False

    def notes(self) -> list[str]:
        links = f"symbolic links are ignored where they lead out of the folder or nowhere ({self.links})"
        others = f"what is not an image is ignored in class folders ({self.others})"
        return [links] * (self.links > 0) + [others] * (self.others > 0)


def read_images(paths: list[Path], resize: int, progress: Progress) -> tuple[Tensor, list[str]]:
    """uint8 (N, C, H, W) of all files: one channel if all are grey, else three; and what was done to make them
    alike.
    """
    sizes = [path.stat().st_size for path in paths]
    images: list[Tensor] = []
    stretched = done = 0
    for path, size in zip(paths, sizes, strict=True):
        pixels = read_image(path)[None]  # (1, C, H, W)
        if resize:
            stretched += pixels.shape[2] != pixels.shape[3]
            pixels = resized(pixels, resize)
        elif images and pixels.shape[2:] != images[0].shape[2:]:
            (h, w), (h0, w0) = pixels.shape[2:], images[0].shape[2:]
            raise BadInput(
                path,
                "images",
                f"it is {w}x{h} pixels, {paths[0]} is {w0}x{h0}",
                "set resize to bring all to one size, for example 32",
            )
        if not images or pixels.shape[1] > images[0].shape[1]:
            check_size(path.parent, len(paths), *pixels.shape[1:])
        images.append(pixels)
        done += size
        progress(done, sum(sizes))
    grey = sum(pixels.shape[1] == 1 for pixels in images)
    notes = [f"{stretched} images that are not square were stretched to {resize}x{resize} pixels"] if stretched else []
    if 0 < grey < len(images):
        notes.append(f"{grey} grey images among {len(images)} were converted to colour")
        images = [pixels.expand(-1, 3, -1, -1) for pixels in images]
    return torch.cat(images), notes


def read_image(path: Path) -> Tensor:
    """uint8 (C, H, W) of one file, C = 1 for grey and 3 for everything else. Transparency is dropped, of several frames
    the first counts.
    """
    data = BytesIO(io.read_bytes(path.resolve(), MAX_FILE))
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # Pillow warns of odd metadata; here only the pixels count
            with Image.open(data, formats=FORMATS) as image:
                pixels = pixels_of_image(path, image)
    except BadInput:
        raise
    except Image.DecompressionBombError as error:  # Pillow's own limit, 2.8 times ours, is looked at first
        raise too_many_pixels(path) from error
    except Exception as error:  # on damaged bytes Pillow's decoders raise almost anything
        raise BadInput(path, "image", "cannot be read as an image", "replace or remove the file") from error
    return torch.from_numpy(pixels).permute(2, 0, 1).contiguous()


def too_many_pixels(path: Path) -> BadInput:
    return BadInput(path, "image", f"it has more than {MAX_PIXELS // 10**6} million pixels", "save a smaller image")


def pixels_of_image(path: Path, image: Image.Image) -> np.ndarray:
    """uint8 (H, W, C)."""
    if image.width * image.height > MAX_PIXELS:
        raise too_many_pixels(path)
    if image.mode in ("I", "F"):
        raise BadInput(path, "image", "it has 32 bits per pixel", "save it with 8 bits per channel")
    if image.mode.startswith("I;16"):
        return (np.asarray(image) >> 8).astype(np.uint8)[:, :, None]
    if image.mode in ("1", "L", "LA", "La"):
        return np.array(image.convert("L"))[:, :, None]
    return np.array(image.convert("RGB"))


# --- an .npz of arrays ------------------------------------------------------------------------------------------------

NAMES = ("images", "labels", "test_images", "test_labels", "classes")
MAX_CHANNELS = 16
MAX_CLASSES = 10_000
ARRAYS = (
    "it holds images (N, H, W), (N, H, W, C) or (N, C, H, W), uint8 or float from 0 to 1, and labels (N,), integers; "
    "test_images with test_labels and classes (names) may be there"
)


def read_npz(place: Path, resize: int, progress: Progress) -> Raw:
    """The arrays of `place`. Each header is read and judged before its data is. Images come in the order of the file:
    the caller mixes them.
    """
    with io.opened(place.resolve()) as file, archive_of(place, file) as archive:
        there = [name for name in NAMES if f"{name}.npy" in archive.namelist()]
        needed = NAMES[:4] if {"test_images", "test_labels"} & set(there) else NAMES[:2]
        for name in needed:
            if name not in there:
                raise BadInput(place, name, "is missing from the file", ARRAYS)
        arrays = {name: read_array(place, archive, name) for name in there}
    train, notes = pixels_of(place, "images", arrays["images"])
    train_labels = labels_of(place, "labels", arrays["labels"])
    names = class_names(place, train_labels, arrays.get("classes"))
    if "test_images" not in arrays:
        return Raw(train, train_labels, None, None, names, notes)
    test, _ = pixels_of(place, "test_images", arrays["test_images"])
    return Raw(train, train_labels, test, labels_of(place, "test_labels", arrays["test_labels"]), names, notes)


def archive_of(place: Path, file: IO[bytes]) -> zipfile.ZipFile:
    try:
        return zipfile.ZipFile(file)
    except Exception as error:  # on damaged bytes zipfile raises more than BadZipFile
        raise BadInput(place, "path", "is not an .npz file, or is damaged", "write it with numpy.savez") from error


def read_array(place: Path, archive: zipfile.ZipFile, name: str) -> np.ndarray:
    """One array as numpy.load(allow_pickle=False) reads it, after its header was found to be harmless."""
    header = np.lib.format
    try:
        with warnings.catch_warnings(), archive.open(f"{name}.npy") as file:
            warnings.simplefilter("ignore")  # numpy warns of headers that Python 2 wrote
            version = header.read_magic(file)
            read_header = {(1, 0): header.read_array_header_1_0, (2, 0): header.read_array_header_2_0}[version]
            shape, _, dtype = read_header(file, max_header_size=10_000)
    except Exception as error:  # numpy evaluates the header as a Python literal, which fails in many ways
        raise BadInput(place, name, "cannot be read", "write the file again with numpy.savez") from error
    if dtype.hasobject:
        raise BadInput(
            place,
            name,
            "is an array of Python objects (images of two sizes make one), never opened",
            "save one plain array: images of one size, numbers as labels",
        )
    if any(n < 0 for n in shape) or math.prod(shape) * dtype.itemsize > MAX_BYTES:
        raise BadInput(
            place,
            name,
            f"its header claims {' x '.join(map(str, shape))} values of type {dtype}",
            f"give at most {MAX_BYTES // 2**30} GiB",
        )
    try:
        with archive.open(f"{name}.npy") as file:
            return header.read_array(file, allow_pickle=False)
    except Exception as error:  # cut off, wrong checksum, unknown compression, no memory ...
        raise BadInput(place, name, "is damaged or cut off", "write the file again with numpy.savez") from error


def pixels_of(place: Path, name: str, array: np.ndarray) -> tuple[Tensor, tuple[str, ...]]:
    """uint8 (N, C, H, W) of any of the layouts in ARRAYS. The channel axis is the shorter of the last and the
    second.
    """
    notes = ()
    if array.ndim == 3:
        array = array[:, None]
    elif array.ndim == 4:
        second, last = array.shape[1], array.shape[3]
        if min(second, last) > MAX_CHANNELS:
            raise BadInput(place, name, f"no axis of {'x'.join(map(str, array.shape))} can be the channels", ARRAYS)
        if second == last:
            notes = (f"{name}: the last axis was taken for the channels; the second is as long",)
        if last <= second:
            array = array.transpose(0, 3, 1, 2)
    else:
        raise BadInput(place, name, f"has {array.ndim} dimensions", ARRAYS)
    check_size(place, *array.shape)
    if array.dtype == np.uint8:
        return torch.from_numpy(np.array(array, order="C")), notes
    if array.dtype.kind != "f":
        raise BadInput(place, name, f"has type {array.dtype}", "save pixels as uint8 (0 to 255) or as float (0 to 1)")
    out = torch.empty(array.shape, dtype=torch.uint8)
    for at in range(0, len(array), 1024):
        chunk = array[at : at + 1024]
        if np.isnan(chunk).any():
            raise BadInput(
                place,
                name,
                f"image {at + int(np.isnan(chunk).any((1, 2, 3)).argmax())} holds NaN",
                "replace or remove it",
            )
        low, high = chunk.min(), chunk.max()
        if low < 0 or high > 1:
            raise BadInput(
                place,
                name,
                f"values from {low:g} to {high:g} were found, float pixels go from 0 to 1",
                "scale them, or save uint8",
            )
        out[at : at + len(chunk)] = torch.from_numpy(np.rint(chunk.astype(np.float64) * 255).astype(np.uint8))
    return out, notes


def labels_of(place: Path, name: str, array: np.ndarray) -> Tensor:
    """int64 (N,) of an integer array (N,) or (N, 1)."""
    if array.ndim == 2 and array.shape[1] == 1:
        array = array[:, 0]
    if array.ndim != 1:
        raise BadInput(place, name, f"has {array.ndim} dimensions", "give one label per image: shape (N,)")
    if array.dtype.kind not in "iu":
        raise BadInput(
            place, name, f"has type {array.dtype}, labels are integers", "save them as int64, numbered from 0"
        )
    if array.size and int(array.max()) >= MAX_CLASSES:
        raise BadInput(
            place, name, f"label {array.max()} is out of range", f"number the classes from 0; at most {MAX_CLASSES}"
        )
    return torch.from_numpy(array.astype(np.int64))


def class_names(place: Path, labels: Tensor, names: np.ndarray | None) -> tuple[str, ...]:
    """The names in the file, else "0", "1", ...: then each number up to the largest label must occur."""
    if names is not None:
        if names.ndim != 1 or names.dtype.kind != "U" or not 0 < len(names) <= MAX_CLASSES:
            raise BadInput(
                place, "classes", f"is not a list of names (type {names.dtype})", "save numpy.array(['cat', 'dog'])"
            )
        return tuple(one_line(name, 100) for name in names.tolist())
    found = labels.unique().tolist()
    if found and found[0] >= 0 and found[-1] >= len(found):
        raise BadInput(
            place,
            "labels",
            f"label {found[-1]} is out of range: {len(found)} different labels are numbered 0 to {len(found) - 1}",
            "renumber them, or add an array 'classes' with all names",
        )
    return tuple(str(c) for c in range(len(found)))
