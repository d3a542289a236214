"""Data sets in memory, and the plan: order, splits and augmentation against slow code and the original's numbers."""

from __future__ import annotations

import gzip
import hashlib
import json
import os
import struct
from collections import Counter
from dataclasses import replace
from itertools import product
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from darts_core.data import DATASETS, Images, Plan, load
from darts_core.data.images import mean_and_std, resized, shares
from darts_core.data.plan import GAMMA, below, default_pad, hole, permutation, scrambled, uniform
from darts_core.data.sources import Archive, Files, digits_table
from darts_core.data.text import TEXTS
from darts_core.seeds import seed as seed_of

ROOT = Path(__file__).resolve().parent.parent
CPU = torch.device("cpu")


def numbered(n: int = 60, side: int = 13, channels: int = 3, flip: bool = True) -> Images:
    """Images of random pixels, of which no two are alike; the label of image i is i % 3."""
    generator = torch.Generator().manual_seed(1)
    pixels = torch.randint(0, 256, (n, channels, side, side), generator=generator, dtype=torch.uint8)
    labels = torch.arange(n) % 3
    mean, std = mean_and_std(pixels)
    return Images("numbered", pixels, labels, pixels[:9], labels[:9], ("a", "b", "c"), mean, std, flip=flip)


def plan_of(images: Images, **settings: object) -> Plan:
    return Plan(images, **{"seed": 5, "batch": 8, "arch_batch": 7, "augment": True, **settings})  # type: ignore[arg-type]


def same(a: Tensor, b: Tensor) -> bool:
    return a.dtype == b.dtype and torch.equal(a, b)


def save_image(path: Path, pixels: np.ndarray, mode: str | None = None) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    image = Image.fromarray(pixels)
    (image.convert(mode) if mode else image).save(path)


def random_pixels(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)


# --- data sets --------------------------------------------------------------------------------------------------------


def test_digits_are_1200_for_the_search_and_597_for_the_test():
    digits = load("digits")
    assert digits.train.shape == (1200, 1, 8, 8) and digits.test.shape == (597, 1, 8, 8)
    assert digits.train.dtype == torch.uint8 and digits.train_labels.dtype == torch.int64
    assert digits.train.max() == 255 and digits.train.min() == 0
    assert digits.notes == () and digits.classes == tuple("0123456789")


def test_digits_read_from_the_file_are_those_that_scikit_learn_loads():
    from sklearn.datasets import load_digits

    theirs = load_digits()
    assert np.array_equal(digits_table(), np.column_stack([theirs.data, theirs.target]))


def test_mean_and_standard_deviation_are_those_of_the_training_pixels():
    digits = load("digits")
    values = digits.train.double() / 255
    assert digits.mean[0] == pytest.approx(float(values.mean()), rel=1e-12)
    assert digits.std[0] == pytest.approx(float(values.std(correction=0)), rel=1e-12)


def test_a_constant_channel_normalises_to_zero_and_not_to_nan():
    mean, std = mean_and_std(torch.full((2, 1, 3, 3), 51, dtype=torch.uint8))
    assert (mean, std) == ((0.2,), (1.0,))


def test_label_noise_touches_that_share_of_the_search_labels_and_no_test_label():
    clean, noisy = load("digits"), load("digits", label_noise=0.4, seed=3)
    wrong = int((clean.train_labels != noisy.train_labels).sum())
    assert 380 < wrong <= 480  # 480 are redrawn, a tenth of which hits the true class
    assert noisy.notes == (
        f"40 % of the search labels (480 of 1200) are replaced at random (seed 3), {wrong} of them really differ; "
        "test labels are clean",
    )
    assert same(clean.test_labels, noisy.test_labels) and same(clean.train, noisy.train)


def test_label_noise_is_the_same_for_the_same_seed_only():
    first, again, other = (load("digits", label_noise=0.4, seed=s).train_labels for s in (1, 1, 2))
    assert same(first, again) and not same(first, other)


def test_full_label_noise_leaves_every_class_about_equally_often():
    labels = load("digits", label_noise=1.0).train_labels
    assert all(abs(n - 120) < 5 * (120 * 0.9) ** 0.5 for n in labels.bincount())  # five standard deviations


def test_a_subset_holds_each_class_in_its_share():
    whole, part = load("digits"), load("digits", subset=300, seed=4)
    assert len(part.train) == len(part.train_labels) == 300
    for had, has in zip(whole.train_labels.bincount(), part.train_labels.bincount(), strict=True):
        assert abs(int(has) - int(had) / 4) <= 1
    assert same(part.train, load("digits", subset=300, seed=4).train)
    assert not same(part.train, load("digits", subset=300, seed=5).train)


def test_a_subset_of_everything_is_everything_in_file_order():
    whole, part = load("digits"), load("digits", subset=1200, seed=4)
    assert same(whole.train, part.train) and same(whole.train_labels, part.train_labels)


@pytest.mark.parametrize("counts, size", [([98, 1, 1], 3), ([98, 1, 1], 50), ([5, 0, 7], 4), ([3, 3], 6), ([9, 20], 7)])
def test_shares_add_up_and_leave_no_class_out(counts: list[int], size: int):
    given = shares(counts, size)
    assert sum(given) == size
    assert all(min(had, 1) <= has <= had for had, has in zip(counts, given, strict=True))


@pytest.mark.parametrize("side", [2, 5, 8, 11, 32])
def test_resizing_gives_any_side_and_keeps_the_brightness(side: int):
    digits = load("digits", resize=side)
    assert digits.train.shape[2:] == digits.test.shape[2:] == (side, side)
    assert digits.mean[0] == pytest.approx(load("digits").mean[0], abs=0.05)
    assert digits.notes == (() if side == 8 else (f"images are resized from 8x8 to {side}x{side} pixels",))


def test_resizing_is_antialiased():
    board = (torch.arange(16)[:, None] + torch.arange(16)).remainder(2).mul(255).to(torch.uint8)
    small = resized(board.expand(1, 1, 16, 16), 4)
    assert small.float().sub(127.5).abs().max() < 4  # grey; without antialiasing it would be black or white


def test_every_data_set_is_in_the_catalogue_and_in_the_readme():
    catalogue = json.loads((ROOT / "darts_core" / "catalogue.json").read_text(encoding="utf-8"))
    assert list(catalogue["datasets"]) == [*DATASETS, *TEXTS]
    table = (ROOT / "data" / "README.md").read_text(encoding="utf-8")
    for name, source in {**DATASETS, **TEXTS}.items():
        assert f"| `{name}` |" in table and source.doc.endswith(".")


# --- an .npz ----------------------------------------------------------------------------------------------------------


def test_all_layouts_of_an_npz_give_the_same_images(tmp_path: Path):
    pixels, labels = random_pixels(20, 6, 5, 3), np.arange(20) % 2
    layouts = [pixels, pixels.transpose(0, 3, 1, 2), pixels / 255, (pixels / 255).astype("f4")]
    layouts.append(np.asfortranarray(pixels))
    loaded = []
    for number, array in enumerate(layouts):
        column = labels[:, None] if number == 4 else labels
        np.savez_compressed(tmp_path / f"{number}.npz", images=array, labels=column)
        loaded.append(load("npz", path=tmp_path / f"{number}.npz"))
    first = loaded[0]
    assert first.train.shape == (16, 3, 6, 5) and first.classes == ("0", "1")
    assert all(same(first.train, other.train) and same(first.test, other.test) for other in loaded)


def test_grey_images_of_an_npz_get_one_channel_and_names_are_kept(tmp_path: Path):
    labels, names = np.arange(10) % 2, np.array(["cat", "dog"])
    np.savez(tmp_path / "a.npz", images=random_pixels(10, 4, 4), labels=labels, classes=names)
    images = load("npz", path=str(tmp_path / "a.npz"))
    assert images.train.shape == (8, 1, 4, 4) and images.classes == ("cat", "dog")


def test_test_arrays_of_an_npz_are_used_as_they_are(tmp_path: Path):
    pixels, labels = random_pixels(12, 4, 4), np.arange(12) % 3
    np.savez(tmp_path / "a.npz", images=pixels, labels=labels, test_images=pixels[:6], test_labels=labels[:6])
    images = load("npz", path=tmp_path / "a.npz")
    assert len(images.train) == 12 and not images.notes
    assert sorted(images.test.flatten(1).tolist()) == sorted(pixels[:6].reshape(6, -1).tolist())


def test_a_fifth_of_each_class_is_held_out_the_same_for_every_seed(tmp_path: Path):
    pixels = random_pixels(50, 4, 4)
    np.savez(tmp_path / "a.npz", images=pixels, labels=np.repeat([0, 1, 2], [30, 15, 5]))
    images, other = (load("npz", path=tmp_path / "a.npz", seed=s) for s in (0, 1))
    assert Counter(images.test_labels.tolist()) == {0: 6, 1: 3, 2: 1}
    assert "a fifth of each class (10 images)" in images.notes[0]
    both = torch.cat([images.train, images.test]).flatten(1).tolist()
    assert sorted(both) == sorted(pixels.reshape(50, -1).tolist())  # nothing lost, nothing twice
    assert same(images.test, other.test)


def test_a_file_sorted_by_class_still_gives_both_splits_every_class(tmp_path: Path):
    np.savez(tmp_path / "a.npz", images=random_pixels(80, 4, 4), labels=np.repeat(np.arange(4), 20))
    plan = plan_of(load("npz", path=tmp_path / "a.npz"))
    for split in ("weights", "arch"):
        assert set(torch.cat([y for _, y in plan.eval_batches(split, 10)]).tolist()) == {0, 1, 2, 3}


# --- a folder ---------------------------------------------------------------------------------------------------------


def test_a_folder_with_train_and_test_is_read_by_class(tmp_path: Path):
    for part, count in (("train", 6), ("test", 2)):
        for number, name in enumerate(("bird", "ant")):
            for i in range(count):
                save_image(tmp_path / part / name / f"{i}.png", np.full((5, 7, 3), 10 * i + 100 * number, np.uint8))
    images = load("folder", path=tmp_path)
    assert images.classes == ("ant", "bird")  # in name order
    assert images.train.shape == (12, 3, 5, 7) and images.test.shape == (4, 3, 5, 7) and not images.notes
    assert torch.equal(images.train[:, 0, 0, 0] >= 100, images.train_labels == 0)  # ants are the bright ones


def test_a_folder_of_class_folders_holds_out_its_own_test_set(tmp_path: Path):
    for name in ("x", "y"):
        for i in range(10):
            save_image(tmp_path / name / f"{i}.png", random_pixels(6, 6, seed=i))
    images = load("folder", path=tmp_path)
    assert images.train.shape == (16, 1, 6, 6) and images.test.shape == (4, 1, 6, 6)


def test_grey_and_colour_mixed_become_colour_and_it_is_said(tmp_path: Path):
    modes = ["L", "RGB", "P", "RGBA", "1", "LA"]
    for name in ("x", "y"):
        for i, mode in enumerate(modes):
            save_image(tmp_path / name / f"{i}.png", random_pixels(6, 6, 3, seed=i), mode)
    images = load("folder", path=tmp_path)
    assert images.train.shape[1] == 3
    assert "6 grey images among 12 were converted to colour" in images.notes


def test_sixteen_bit_images_keep_their_upper_eight_bits(tmp_path: Path):
    for name in ("x", "y"):
        for i in range(3):
            save_image(tmp_path / name / f"{i}.png", np.full((4, 4), 200 * 256 + 77, np.uint16))
    assert load("folder", path=tmp_path).train.unique().tolist() == [200]


def test_images_of_two_sizes_are_fine_when_they_are_resized(tmp_path: Path):
    for name in ("x", "y"):
        for i in range(5):
            save_image(tmp_path / name / f"{i}.jpg", random_pixels(20 + i, 30, 3))
    images = load("folder", path=tmp_path, resize=9)
    assert images.train.shape == (8, 3, 9, 9)
    assert "10 images that are not square were stretched to 9x9 pixels" in images.notes


def test_links_out_of_the_folder_and_other_files_are_ignored_and_counted(tmp_path: Path):
    outside, root = tmp_path / "outside", tmp_path / "root"
    save_image(outside / "secret.png", random_pixels(6, 6))
    for name in ("x", "y"):
        for i in range(5):
            save_image(root / name / f"{i}.png", random_pixels(6, 6, seed=i))
    (root / "x" / "notes.txt").write_text("hello", encoding="utf-8")
    (root / "x" / ".hidden.png").write_text("no image", encoding="utf-8")
    os.symlink(outside / "secret.png", root / "x" / "secret.png")
    os.symlink(tmp_path / "nowhere.png", root / "x" / "nowhere.png")
    os.symlink("loop.png", root / "x" / "loop.png")
    os.symlink(outside, root / "z")
    os.symlink("0.png", root / "x" / "again.png")  # stays inside: one more image
    (tmp_path / "link").symlink_to(root)
    images = load("folder", path=tmp_path / "link")
    assert len(images.train) + len(images.test) == 11 and images.classes == ("x", "y")
    assert "symbolic links are ignored where they lead out of the folder or nowhere (4)" in images.notes
    assert "what is not an image is ignored in class folders (1)" in images.notes


# --- published sets ---------------------------------------------------------------------------------------------------


def idx(array: np.ndarray) -> bytes:
    return struct.pack(f">HBB{array.ndim}I", 0, 8, array.ndim, *array.shape) + array.tobytes()


def test_fashion_mnist_is_read_from_torchvision_s_layout(tmp_path: Path):
    raw = tmp_path / "FashionMNIST" / "raw"
    raw.mkdir(parents=True)
    labels = (np.arange(20) % 10).astype(np.uint8)
    for part, images in (("train", random_pixels(20, 28, 28)), ("t10k", random_pixels(20, 28, 28, seed=1))):
        (raw / f"{part}-images-idx3-ubyte").write_bytes(idx(images))
        (raw / f"{part}-labels-idx1-ubyte").write_bytes(idx(labels))
    for path in (tmp_path, tmp_path / "FashionMNIST"):
        loaded = load("fashion_mnist", path=path)
        assert np.array_equal(loaded.train[:, 0].numpy(), random_pixels(20, 28, 28))  # in file order
        assert loaded.classes[0] == "T-shirt/top" and loaded.flip


def test_a_missing_archive_is_fetched_with_progress_and_a_wrong_one_is_not_kept(tmp_path: Path):
    archive = gzip.compress(random_pixels(700_000).tobytes())
    (tmp_path / "right.gz").write_bytes(archive)
    (tmp_path / "wrong.gz").write_bytes(archive[:-5])
    addresses = tuple((tmp_path / name).as_uri() for name in ("missing.gz", "wrong.gz", "right.gz"))
    wanted = Archive("set.gz", hashlib.md5(archive).hexdigest(), addresses)
    files = Files("Set", tmp_path / "root", tmp_path / "root", tmp_path / "root" / "set", (wanted,))
    seen: list[tuple[int, int]] = []
    files.fetch(lambda done, total: seen.append((done, total)))
    assert (tmp_path / "root" / "set.gz").read_bytes() == archive
    assert seen[-1] == (len(archive), len(archive)) and len(seen) > 2
    assert [path.name for path in (tmp_path / "root").iterdir()] == ["set.gz"]  # nothing half-written beside it


# --- random numbers without state -------------------------------------------------------------------------------------


def test_the_hash_is_splitmix64():
    state = 1234567  # published outputs for this seed
    outputs = [int(scrambled(torch.tensor(state) + GAMMA * torch.tensor(i))) % 2**64 for i in (1, 2, 3)]
    assert outputs == [6457827717110365317, 3203168211198807973, 9817491932198370423]


@pytest.mark.parametrize("n", [1, 2, 9, 1000])
def test_a_permutation_holds_each_number_once_and_depends_on_its_key(n: int):
    assert permutation(7, n, CPU).sort().values.tolist() == list(range(n))
    if n == 1000:
        assert not torch.equal(permutation(7, n, CPU), permutation(8, n, CPU))


def test_draws_are_uniform_and_columns_unrelated():
    draws = below(uniform(seed_of(0, "test"), torch.arange(20_000)), 9)  # (20000, 5)
    for column in draws.T:
        assert (column.bincount(minlength=9) - 20_000 / 9).abs().max() < 5 * (20_000 * 8 / 81) ** 0.5
    assert torch.corrcoef(draws.T.double()).sub(torch.eye(5)).abs().max() < 5 / 20_000**0.5


# --- splits and order -------------------------------------------------------------------------------------------------


def test_cifar_gives_391_batches_of_64_the_last_of_40():
    tiny = torch.zeros(50_000, 1, 1, 1, dtype=torch.uint8)
    labels = torch.arange(50_000) % 10
    images = Images("cifar10", tiny, labels, tiny[:1], labels[:1], tuple("0123456789"), (0.0,), (1.0,))
    plan = Plan(images, seed=0, batch=64, arch_batch=64, augment=False)
    assert plan.steps("weights") == 391 and len(plan.batch("weights", 0, 390)[1]) == 40
    assert plan.members["weights"].tolist() == list(range(25_000))  # in file order, as the original
    assert plan.members["arch"].tolist() == list(range(25_000, 50_000))


def test_a_third_of_1200_is_400_and_the_seed_decides_which():
    digits = load("digits")
    one, again, two = (plan_of(digits, seed=s, train_portion=1 / 3, shuffle_split=True) for s in (1, 1, 2))
    assert (one.size("weights"), one.size("arch")) == (400, 800)
    assert same(one.members["weights"], again.members["weights"])
    assert not same(one.members["weights"], two.members["weights"])
    assert not set(one.members["weights"].tolist()) & set(one.members["arch"].tolist())


def test_an_architecture_portion_leaves_the_rest_unused():
    plan = plan_of(numbered(), train_portion=0.5, arch_portion=0.25)
    assert (plan.size("weights"), plan.size("arch"), plan.size("all")) == (30, 15, 60)


@pytest.mark.parametrize("split", ["weights", "all"])
def test_an_epoch_shows_every_image_of_the_split_once_in_an_order_of_its_own(split: str):
    plan = plan_of(numbered())
    epochs = [torch.cat([plan.samples(split, e, i) for i in range(plan.steps(split))]) for e in (0, 1)]
    for order in epochs:
        assert same(order.sort().values, plan.members[split].sort().values)
    assert not same(*epochs)


def test_architecture_batches_follow_one_permutation_after_another():
    plan = plan_of(numbered())  # 30 images in batches of 7
    stream = torch.cat([plan.samples("arch", 2, i) for i in range(30)])
    turns = stream.view(7, 30)
    assert all(same(turn.sort().values, plan.members["arch"]) for turn in turns)
    assert len({tuple(turn.tolist()) for turn in turns}) == 7
    assert plan.steps("arch") == 5  # 35 images: the first batches that show all 30


def test_a_batch_is_a_function_of_seed_epoch_and_index_alone():
    plan, keys = plan_of(numbered()), list(product(("weights", "arch", "all"), (0, 3), (0, 2)))
    forwards = {key: plan_of(numbered()).batch(*key) for key in keys}
    for key in reversed(forwards):
        x, y = plan.batch(*key)
        assert same(x, forwards[key][0]) and same(y, forwards[key][1])
    x, _ = plan_of(numbered(), seed=6).batch("weights", 0, 0)
    assert not torch.equal(x, forwards["weights", 0, 0][0])


def test_labels_belong_to_their_images():
    images = numbered()
    plan = plan_of(images, augment=False)
    for split, epoch, index in (("weights", 1, 3), ("arch", 4, 9), ("test", 0, 1)):
        _, y = plan.batch(split, epoch, index)
        assert same(y, plan.samples(split, epoch, index) % 3)


# --- augmentation -----------------------------------------------------------------------------------------------------


def slow_batch(images: Images, plan: Plan, samples: list[int], epoch: int) -> Tensor:
    """What the plan should make of these images, one by one: pad, crop, flip, normalise, cut."""
    out = []
    for i in samples:
        d = uniform(seed_of(plan.seed, "augmentation", epoch), torch.tensor([i]))[0]
        image, p = images.train[i].numpy(), plan.pad
        C, H, W = image.shape
        padded = np.zeros((C, H + 2 * p, W + 2 * p), np.uint8)
        padded[:, p : p + H, p : p + W] = image
        top, left = (int(below(d[j], 2 * p + 1)) for j in (0, 1))
        image = padded[:, top : top + H, left : left + W]
        if plan.flip and int(below(d[2], 2)):
            image = image[:, :, ::-1]
        x = (image / 255 - np.array(images.mean)[:, None, None]) / np.array(images.std)[:, None, None]
        if plan.cutout:
            y0, x0, half = int(below(d[3], H)), int(below(d[4], W)), plan.cutout // 2
            mask = np.ones((H, W))
            mask[max(y0 - half, 0) : min(y0 + half, H), max(x0 - half, 0) : min(x0 + half, W)] = 0.0
            x = x * mask
        out.append(torch.from_numpy(x))
    return torch.stack(out)


@pytest.mark.parametrize("side, channels", [(13, 3), (12, 1), (32, 3)])
@pytest.mark.parametrize("cutout", [0, 5, 8])
def test_augmentation_equals_the_original_s_steps_written_slowly(side: int, channels: int, cutout: int):
    images = numbered(40, side, channels)
    plan = plan_of(images, cutout=cutout, dtype=torch.float64)
    x, _ = plan.batch("weights", 3, 1)
    slow = slow_batch(images, plan, plan.samples("weights", 3, 1).tolist(), 3)
    torch.testing.assert_close(x, slow, rtol=1e-12, atol=1e-12)


def test_the_batch_size_does_not_change_what_happens_to_an_image():
    images = numbered()
    views = []
    for batch in (1, 8, 30):
        plan = plan_of(images, batch=batch, arch_batch=batch, cutout=4)
        views.append({
            int(i): image
            for split in ("weights", "arch")
            for index in range(plan.steps(split))
            for i, image in zip(plan.samples(split, 2, index), plan.batch(split, 2, index)[0], strict=True)
        })  # fmt: skip
    assert sorted(views[0]) == list(range(60))
    assert all(same(views[0][i], view[i]) for view in views[1:] for i in range(60))


def test_every_shift_and_both_mirrorings_occur_and_epochs_differ():
    draws = uniform(seed_of(5, "augmentation", 0), torch.arange(500))
    assert set(below(draws[:, 0], 9).tolist()) == set(below(draws[:, 1], 9).tolist()) == set(range(9))
    assert set(below(draws[:, 2], 2).tolist()) == {0, 1}
    assert not same(draws, uniform(seed_of(5, "augmentation", 1), torch.arange(500)))


def test_the_shift_is_4_pixels_at_side_32_and_nothing_below_12():
    assert [default_pad(side) for side in (2, 8, 11, 12, 15, 16, 28, 32, 96)] == [0, 0, 0, 1, 1, 2, 3, 4, 12]


def test_digits_are_neither_shifted_nor_mirrored():
    digits = load("digits")
    assert same(plan_of(digits).batch("weights", 0, 0)[0], plan_of(digits, augment=False).batch("weights", 0, 0)[0])


def test_small_images_are_shifted_when_asked():
    digits = load("digits")
    assert plan_of(digits, pad=1).pad == 1
    assert not torch.equal(plan_of(digits, pad=1).batch("weights", 0, 0)[0], plan_of(digits).batch("weights", 0, 0)[0])


def test_a_hole_is_clipped_at_the_border_and_an_odd_length_cuts_one_less():
    top_left, centre = torch.tensor([0]), torch.tensor([2**30])  # draws for row 0 and for the middle row
    assert hole(4, top_left, top_left, 8, 8)[0, 0].nonzero().tolist() == [[0, 0], [0, 1], [1, 0], [1, 1]]
    assert int(hole(4, centre, centre, 8, 8).sum()) == 16
    assert int(hole(5, centre, centre, 8, 8).sum()) == 16


def test_normalisation_has_torchvision_s_order_of_operations():
    images = replace(numbered(), mean=(0.49139968, 0.48215827, 0.44653124), std=(0.24703233, 0.24348505, 0.26158768))
    plan = plan_of(images, augment=False)
    x, _ = next(plan.eval_batches("all", 60))
    mean, std = (torch.tensor(v).view(3, 1, 1) for v in (images.mean, images.std))
    assert same(x, images.train.to(torch.float32).div(255).sub(mean).div(std))


@pytest.mark.parametrize("split", ["weights", "arch", "all", "test"])
def test_evaluation_shows_each_image_once_unaltered(split: str):
    images = numbered()
    altered, plain = plan_of(images, cutout=6), plan_of(images, augment=False)
    batches = list(altered.eval_batches(split, 7))
    assert same(torch.cat([y for _, y in batches]), (plain.members[split] % 3))
    pool = images.test if split == "test" else images.train
    expected = plain._normalised(pool[plain.members[split]])
    assert same(torch.cat([x for x, _ in batches]), expected)


def test_test_batches_are_never_altered():
    plan = plan_of(numbered(), cutout=6)
    assert same(plan.batch("test", 0, 1)[0], plan.batch("test", 7, 1)[0])
    assert same(plan.batch("test", 0, 0)[0], next(plan.eval_batches("test", 8))[0])


def test_a_plan_does_not_touch_torch_s_global_generator():
    before = torch.get_rng_state()
    plan = plan_of(numbered(), cutout=4)
    plan.batch("weights", 0, 0)
    plan.batch("arch", 0, 0)
    assert same(before, torch.get_rng_state())


@pytest.mark.gpu
def test_batches_made_on_the_gpu_are_those_of_the_cpu():
    here, there = (plan_of(numbered(), cutout=4, device=device) for device in ("cpu", "cuda"))
    for split in ("weights", "arch"):
        torch.testing.assert_close(here.batch(split, 1, 2)[0], there.batch(split, 1, 2)[0].cpu())
        assert same(here.samples(split, 1, 2), there.samples(split, 1, 2).cpu())
