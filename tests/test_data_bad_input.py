"""Whatever is wrong with a data set is one sentence that says what, where and how to mend it, and never a traceback."""

from __future__ import annotations

import os
import random
import urllib.error
import zipfile
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from darts_core.data import Plan, files, load, sources
from darts_core.data.sources import Archive, Files
from darts_core.errors import BadInput

PIXELS = np.random.default_rng(0).integers(0, 256, (12, 5, 4, 3), dtype=np.uint8)
LABELS = np.arange(12) % 3


def refused(*parts: str, call: Callable[[], object]) -> None:
    """`call` raises BadInput; its text is one line, has a fix, and holds all `parts`."""
    with pytest.raises(BadInput) as caught:
        call()
    text = str(caught.value)
    assert "\n" not in text and caught.value.fix and caught.value.what
    for part in parts:
        assert part in text, f"{part!r} is not in {text!r}"


def npz(folder: Path, **arrays: object) -> Path:
    path = folder / "set.npz"
    np.savez(path, **arrays)  # type: ignore[arg-type]
    return path


def class_folders(root: Path, names: tuple[str, ...] = ("ant", "bird"), count: int = 5) -> Path:
    for name in names:
        (root / name).mkdir(parents=True)
        for i in range(count):
            Image.fromarray(PIXELS[i]).save(root / name / f"{i}.png")
    return root


# --- names, paths, options --------------------------------------------------------------------------------------------


def test_an_unknown_data_set_names_the_nearest_one():
    refused("unknown data set 'cifar_10'", "did you mean 'cifar10'?", "npz", call=lambda: load("cifar_10"))


@pytest.mark.parametrize("name", ["folder", "npz"])
def test_a_missing_path_is_asked_for(name: str):
    refused("path", f"data set {name} needs one", call=lambda: load(name))


@pytest.mark.parametrize("name", ["folder", "npz", "cifar10", "fashion_mnist"])
@pytest.mark.parametrize("path", ["/no/such/place", "x" * 5000, "zero\0byte"])
def test_a_path_that_is_not_there_is_named(name: str, path: str):
    refused("path: there is nothing at ", path[:4], call=lambda: load(name, path=path))


def test_digits_take_no_path(tmp_path: Path):
    refused("digits comes with the package", call=lambda: load("digits", path=tmp_path))


@pytest.mark.parametrize("name", ["folder", "cifar10"])
def test_a_file_where_a_folder_is_wanted_and_the_other_way_round(name: str, tmp_path: Path):
    file = tmp_path / "file"
    file.write_bytes(b"hello")
    refused(str(file), call=lambda: load(name, path=file))
    refused(str(tmp_path), call=lambda: load("npz", path=tmp_path))


@pytest.mark.parametrize("subset, part", [(-1, "-1"), (1201, "there are 1200"), (9, "all 10 classes")])
def test_a_subset_fits_the_data(subset: int, part: str):
    refused("subset", part, call=lambda: load("digits", subset=subset))


@pytest.mark.parametrize("resize", [-4, 1, 513, 10**9])
def test_a_side_is_in_its_range(resize: int):
    refused("resize", str(resize), "2 to 512", call=lambda: load("digits", resize=resize))


@pytest.mark.parametrize("noise", [-0.1, 1.1, 40, float("nan")])
def test_label_noise_is_a_fraction(noise: float):
    refused("label_noise", "from 0 to 1", call=lambda: load("digits", label_noise=noise))


# --- an .npz ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("arrays, parts", [
    ({"images": PIXELS}, ["labels", "is missing"]),
    ({"labels": LABELS}, ["images", "is missing"]),
    ({"images": PIXELS, "labels": LABELS, "test_images": PIXELS}, ["test_labels", "is missing"]),
    ({"images": PIXELS, "labels": LABELS[:-1]}, ["labels", "12 images and 11 labels"]),
    ({"images": PIXELS, "labels": LABELS, "test_images": PIXELS, "test_labels": LABELS[:4]}, ["test_labels: ", "4"]),
    ({"images": PIXELS, "labels": LABELS - 1}, ["label -1 is negative"]),
    ({"images": PIXELS, "labels": np.where(LABELS == 2, 7, LABELS)}, ["label 7 is out of range", "numbered 0 to 2"]),
    ({"images": PIXELS, "labels": LABELS, "classes": np.array(["a", "b"])}, ["label 2 is out of range", "2 classes"]),
    ({"images": PIXELS, "labels": np.full(12, 10**12)}, ["out of range"]),
    ({"images": PIXELS, "labels": LABELS, "test_images": PIXELS, "test_labels": LABELS + 1}, ["test_labels: label 3"]),
    ({"images": PIXELS, "labels": LABELS.astype(float)}, ["labels", "float64", "integers"]),
    ({"images": PIXELS, "labels": LABELS > 0}, ["labels", "bool"]),
    ({"images": PIXELS, "labels": LABELS.reshape(6, 2)}, ["labels", "2 dimensions"]),
    ({"images": PIXELS, "labels": np.zeros(12, int)}, ["one class"]),
    ({"images": PIXELS[:0], "labels": LABELS[:0]}, ["images", "there are none"]),
    ({"images": PIXELS[:, :0], "labels": LABELS}, ["images", "there are none"]),
    ({"images": PIXELS[:3], "labels": LABELS[:3]}, ["no class has two images"]),
    ({"images": PIXELS, "labels": LABELS, "test_images": PIXELS[:0], "test_labels": LABELS[:0]}, ["test_images: "]),
    ({"images": PIXELS, "labels": LABELS, "test_images": PIXELS[:, :4], "test_labels": LABELS}, ["3x4x4", "3x5x4"]),
    ({"images": PIXELS[0], "labels": LABELS}, ["labels"]),
    ({"images": PIXELS[:, 0, 0], "labels": LABELS}, ["images", "has 2 dimensions"]),
    ({"images": np.zeros((4, 20, 20, 20), np.uint8), "labels": LABELS[:4]}, ["can be the channels"]),
    ({"images": PIXELS.astype(np.int64), "labels": LABELS}, ["images", "int64", "uint8"]),
    ({"images": PIXELS.astype(float), "labels": LABELS}, ["images", "values from", "0 to 1"]),
    ({"images": PIXELS / 255 - 0.5, "labels": LABELS}, ["images", "values from -0.5"]),
    ({"images": np.where(np.arange(12) == 7, np.nan, 0.5).repeat(16).reshape(12, 4, 4), "labels": LABELS},
     ["image 7 holds NaN"]),
    ({"images": np.zeros((2, 600, 4), np.uint8), "labels": LABELS[:2]}, ["600 pixels", "resize"]),
    ({"images": PIXELS, "labels": LABELS, "classes": np.arange(3)}, ["classes", "names"]),
    ({"images": np.array("hello"), "labels": LABELS}, ["images", "0 dimensions"]),
])  # fmt: skip
def test_arrays_that_do_not_fit_are_named(arrays: dict[str, np.ndarray], parts: list[str], tmp_path: Path):
    refused(*parts, call=lambda: load("npz", path=npz(tmp_path, **arrays)))


class Trap:
    """Unpickling this writes a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[object, ...]:
        return os.mkdir, (str(self.path),)


def test_images_of_two_sizes_in_an_object_array_are_refused_and_nothing_is_unpickled(tmp_path: Path):
    two_sizes = np.empty(2, object)
    two_sizes[:] = [np.zeros((4, 4)), np.zeros((5, 5))]
    refused("images of two sizes", call=lambda: load("npz", path=npz(tmp_path, images=two_sizes, labels=LABELS[:2])))
    trap = np.empty(1, object)
    trap[0] = Trap(tmp_path / "sprung")
    refused("labels", "never opened", call=lambda: load("npz", path=npz(tmp_path, images=PIXELS, labels=trap)))
    assert not (tmp_path / "sprung").exists()


def member(shape: str, descr: str = "'|u1'", data: bytes = b"") -> bytes:
    """An .npy file with a header of our making."""
    header = f"{{'descr': {descr}, 'fortran_order': False, 'shape': {shape}, }}".encode()
    header += b" " * (-(len(header) + 11) % 64) + b"\n"
    return b"\x93NUMPY\x01\x00" + len(header).to_bytes(2, "little") + header + data


@pytest.mark.parametrize("shape, descr, parts", [
    ("(1000000, 3, 224, 224)", "'|u1'", ["claims 1000000 x 3 x 224 x 224", "2 GiB"]),
    ("(99999999999999999999999,)", "'|u1'", ["claims"]),
    ("(4, 4)", "'<U999999999'", ["claims"]),
    ("(-5, 4, 4)", "'|u1'", ["claims"]),
    ("(10, 4, 4)", "'|u1'", ["cut off"]),
    ("(10, 4, 4)", "'|O'", ["objects"]),
    ("(10, 4, 4", "'|u1'", ["cannot be read"]),
    ("(10, 4, 4)", "__import__('os').mkdir('/tmp/x')", ["cannot be read"]),
    ("(" * 5000, "'|u1'", ["cannot be read"]),
    ("(10, 4, 4)" + " " * 20_000, "'|u1'", ["cannot be read"]),
])  # fmt: skip
def test_a_header_that_claims_too_much_is_refused_unread(shape: str, descr: str, parts: list[str], tmp_path: Path):
    path = tmp_path / "bomb.npz"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("images.npy", member(shape, descr))
        archive.writestr("labels.npy", member("(10,)", "'<i8'", bytes(80)))
    refused("images", *parts, call=lambda: load("npz", path=path))


def test_files_that_are_no_npz_are_refused(tmp_path: Path):
    whole = npz(tmp_path, images=PIXELS, labels=LABELS).read_bytes()
    for name, data in (("empty", b""), ("text", b"hello"), ("half", whole[: len(whole) // 2])):
        (tmp_path / name).write_bytes(data)
        refused(name, "is not an .npz file", call=lambda name=name: load("npz", path=tmp_path / name))
    np.save(tmp_path / "one.npy", PIXELS)
    refused("one.npy", "is not an .npz file", call=lambda: load("npz", path=tmp_path / "one.npy"))


def test_a_damaged_npz_loads_or_is_refused_in_a_sentence(tmp_path: Path):
    path, rng = npz(tmp_path, images=PIXELS, labels=LABELS), random.Random(0)
    whole = path.read_bytes()
    for _ in range(300):
        data = bytearray(whole)
        for _ in range(rng.choice((1, 2, 8))):
            data[rng.randrange(len(data))] = rng.randrange(256)
        path.write_bytes(data)
        try:
            load("npz", path=path)
        except BadInput as error:
            assert error.fix


# --- a folder ---------------------------------------------------------------------------------------------------------


def test_a_folder_without_class_folders_is_told_the_layout(tmp_path: Path):
    (tmp_path / "photo.png").write_bytes(b"")
    refused("holds no class folders", "FOLDER/<class>/*.png", call=lambda: load("folder", path=tmp_path))


def test_a_class_folder_without_images_is_named(tmp_path: Path):
    class_folders(tmp_path)
    (tmp_path / "cat").mkdir()
    (tmp_path / "cat" / "readme.txt").write_text("none", encoding="utf-8")
    refused(str(tmp_path / "cat"), "holds no images", call=lambda: load("folder", path=tmp_path))


def test_one_class_is_not_enough(tmp_path: Path):
    refused("one class", call=lambda: load("folder", path=class_folders(tmp_path, ("ant",))))


def test_a_test_class_without_training_images_is_named(tmp_path: Path):
    class_folders(tmp_path / "train")
    class_folders(tmp_path / "test", ("ant", "cat"))
    refused("class 'cat' has no training images", call=lambda: load("folder", path=tmp_path))


def test_images_of_two_sizes_are_named_with_the_way_out(tmp_path: Path):
    class_folders(tmp_path)
    Image.fromarray(np.zeros((9, 8, 3), np.uint8)).save(tmp_path / "bird" / "odd.png")
    refused("odd.png", "8x9 pixels", "0.png is 4x5", "set resize", call=lambda: load("folder", path=tmp_path))


@pytest.mark.parametrize("data", [b"", b"not an image", b"\x89PNG\r\n\x1a\n" + bytes(40), b"%!PS-Adobe-3.0 EPSF-3.0\n"])
def test_an_unreadable_image_is_named(data: bytes, tmp_path: Path):
    class_folders(tmp_path)
    (tmp_path / "bird" / "broken.png").write_bytes(data)
    refused("broken.png", "cannot be read as an image", call=lambda: load("folder", path=tmp_path))


@pytest.mark.parametrize("kind", ["png", "jpg", "bmp", "webp"])
def test_an_image_cut_off_anywhere_is_refused_or_read_whole(kind: str, tmp_path: Path):
    path = tmp_path / f"image.{kind}"
    Image.fromarray(PIXELS[0]).save(path)
    whole, pixels, refusals = path.read_bytes(), files.read_image(path), 0
    for size in range(len(whole)):
        path.write_bytes(whole[:size])
        try:
            assert files.read_image(path).equal(pixels)  # what was cut off was no pixel
        except BadInput as error:
            assert "cannot be read as an image" in error.what
            refusals += 1
    assert refusals > len(whole) // 2


def test_an_image_with_a_huge_claim_is_refused_before_it_is_decoded(tmp_path: Path):
    for side in (8_100, 13_500):  # beyond our limit, and beyond the one at which Pillow itself gives up
        Image.new("1", (side, side)).save(tmp_path / "bomb.png")
        refused("bomb.png", "more than 64 million pixels", call=lambda: files.read_image(tmp_path / "bomb.png"))


def test_photographs_without_a_resize_are_too_large(tmp_path: Path):
    for name in ("x", "y"):
        (tmp_path / name).mkdir()
        Image.new("RGB", (800, 600)).save(tmp_path / name / "photo.jpg")
    refused("800x600 pixels", "set resize", call=lambda: load("folder", path=tmp_path))


# --- published sets ---------------------------------------------------------------------------------------------------


def test_without_a_network_the_sentence_says_which_file_goes_where(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    def no_network(address: str, progress: object) -> bytes:
        raise urllib.error.URLError(OSError(-2, "Name or service not known"))

    monkeypatch.setattr(sources, "fetched", no_network)
    folder = tmp_path / "root"
    wanted = Files("CIFAR10", folder, folder, folder / "unpacked", (Archive("cifar-10-python.tar.gz", "0", ("a://b",)),))
    refused("is there a network?", f"put cifar-10-python.tar.gz into {folder} by hand",
            call=lambda: wanted.fetch(lambda done, total: None))
    assert not folder.exists()


def test_damaged_files_of_a_published_set_are_named_and_left_alone(tmp_path: Path):
    archive = Archive("set.tar.gz", "0", ())
    (tmp_path / "unpacked").mkdir()
    wanted = Files("CIFAR10", tmp_path, tmp_path, tmp_path / "unpacked", (archive,))
    fetch = partial(wanted.fetch, lambda done, total: None)
    refused("unpacked", "differ from the published ones", "remove this folder", call=fetch)
    (tmp_path / "set.tar.gz").write_bytes(b"not the archive")
    refused("set.tar.gz", "checksum", call=fetch)
    assert (tmp_path / "set.tar.gz").read_bytes() == b"not the archive"


def test_pickled_tensors_of_an_old_torchvision_are_not_opened(tmp_path: Path):
    (tmp_path / "FashionMNIST" / "processed").mkdir(parents=True)
    refused("processed", "old torchvision", call=lambda: load("fashion_mnist", path=tmp_path))


# --- splits and batches -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("settings, parts", [
    ({"train_portion": 0.0}, ["train_portion", "0.0"]),
    ({"train_portion": 1.0}, ["train_portion", "1.0"]),
    ({"train_portion": float("nan")}, ["train_portion"]),
    ({"train_portion": 0.0001}, ["no training images are left for the weights"]),
    ({"train_portion": 0.5, "arch_portion": 0.0001}, ["no training images are left for the alphas"]),
    ({"train_portion": 0.5, "arch_portion": 0.6}, ["arch_portion", "at most 0.5"]),
    ({"batch": 0}, ["batch of 0"]),
    ({"batch": 601}, ["batch", "601 is larger than the 600 images for the weights", "at most 600"]),
    ({"arch_batch": 601}, ["arch_batch", "601 is larger than the 600 images for the alphas"]),
    ({"cutout": -1}, ["cutout", "-1"]),
    ({"cutout": 9}, ["cutout", "8x8"]),
    ({"augment": True, "pad": 8}, ["pad", "0 to 7"]),
])  # fmt: skip
def test_a_plan_that_cannot_be_made_says_which_setting_to_change(settings: dict[str, float], parts: list[str]):
    wanted = {"seed": 0, "batch": 50, "arch_batch": 50, "augment": False, **settings}
    refused(*parts, call=lambda: Plan(load("digits"), **wanted))  # type: ignore[arg-type]
