"""The table of a small space: how it is trained, what it says of a cell, and what happens to a damaged one."""

from __future__ import annotations

import math
import random
from itertools import product
from pathlib import Path

import numpy as np
import pytest
import torch

from darts_core import data, exhaustive, truth
from darts_core.errors import BadInput
from darts_core.exhaustive import Recipe, fresh, side_by_side
from darts_core.genotype import every_genotype, ops_of, random_genotype
from darts_core.space import meaning, space_named
from darts_core.truth import Table

QUICK = Recipe(cells=1, channels=2, epochs=1, batch=300)
CELL = space_named("nb3").cells["normal"]


def made(seeds: int = 4) -> Table:
    """A table whose cell n has the mean accuracy n / 1000, with seeds around it."""
    around = np.linspace(-0.0002, 0.0002, seeds)
    rows = np.arange(729)[:, None] / 1000 + 0.001 + around
    return Table("nb3", rows - 0.0005, rows, {})


@pytest.mark.parametrize("seed", range(3))
def test_networks_side_by_side_compute_what_each_computes_alone(seed: int) -> None:
    images = data.load("digits")
    genotype = random_genotype(space_named("nb4"), random.Random(seed))
    recipe = Recipe(channels=4)
    alone = [fresh(recipe, genotype, images, s, torch.float64).train() for s in range(3)]
    wide = side_by_side([fresh(recipe, genotype, images, s, torch.float64) for s in range(3)]).train()
    x = [torch.randn(6, 1, 8, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(s)) for s in range(3)]
    for _ in range(2):  # the second time on running statistics of the first
        found = wide(torch.cat(x, 1))
        for lane, net in enumerate(alone):
            assert torch.allclose(found[:, lane], net(x[lane]), atol=1e-10)
            net.eval()
        wide.eval()


def test_training_side_by_side_is_training_alone() -> None:
    genotype = random_genotype(space_named("nb3"), random.Random(1))
    images, recipe = data.load("digits"), Recipe(channels=4, epochs=2)
    together = exhaustive.train(recipe, genotype, images, [0, 1, 5], torch.float64)
    alone = [exhaustive.train(recipe, genotype, images, [s], torch.float64) for s in (0, 1, 5)]
    for split in (0, 1):
        assert np.array_equal(together[split], np.concatenate([one[split] for one in alone]))
    assert len(set(together[1])) > 1, "the seeds differ"


def test_the_rate_warms_up_and_falls_to_zero() -> None:
    recipe = Recipe(epochs=20, warm_epochs=1)
    rates = [recipe.rate_at(step, 200) for step in range(200)]
    assert rates[0] == pytest.approx(0.01) and rates[9] == rates[10] == 0.1 and max(rates) == 0.1
    assert rates[105] == pytest.approx(0.05) and 0 < rates[-1] < 1e-4


def test_the_trained_one_of_equal_cells_has_the_fewest_weights() -> None:
    every = list(product(*(CELL.choices(e) for e in range(6))))
    groups = truth.distinct(CELL, every)
    assert sum(map(len, groups.values())) == 729
    for name, numbers in groups.items():
        found = exhaustive.representative(space_named("nb3"), numbers, every)
        ops = ops_of(CELL, found.cells["normal"])
        assert meaning(CELL, ops) == name
        assert ops.count("nor_conv_3x3") == min(every[n].count("nor_conv_3x3") for n in numbers)


def test_a_rating_gives_ranks_as_a_band_of_the_seeds_noise() -> None:
    table = made()
    cells = list(every_genotype(space_named("nb3")))
    assert [table.number(genotype) for genotype in cells] == list(range(729))
    best, worst, some = (table.rating(cells[n]) for n in (728, 0, 700))
    assert (best.rank, worst.rank, some.rank) == (1, 729, 29)
    assert best.regret == 0 and some.regret == pytest.approx(0.028) and some.accuracy == pytest.approx(0.701)
    error = np.linspace(-0.0002, 0.0002, 4).std(ddof=1) / 2  # of a mean of four
    assert table.noise(0.5) == pytest.approx(error)
    reach = math.floor(2 * math.sqrt(2) * error / 0.001)  # neighbours lie 0.001 apart
    assert (some.low, some.high) == (29 - reach, 29 + reach) == (29, 29)
    noisy = Table("nb3", table.valid, table.test + 0.02 * np.array([-1, 1, -1, 1]), {})
    wide = noisy.rating(cells[700])
    assert wide.rank == 29 and wide.low == 1 and wide.high > 50
    assert "rank 1 to" in truth.in_words(truth.probes(noisy, cells[700]), 729)
    assert "rank 29 of 729" in truth.in_words(truth.probes(table, cells[700]), 729)


def test_a_table_survives_its_file_and_refuses_another(tmp_path: Path) -> None:
    table = made(3)
    again = Table.from_csv("nb3", table.to_csv(), {}, "here")
    assert np.allclose(again.test, table.test, atol=1e-5) and np.allclose(again.valid, table.valid, atol=1e-5)
    for wrong in (b"", b"cell,valid_0,test_0\n", table.to_csv()[:-40], table.to_csv().replace(b"0.00", b"nan", 1)):
        with pytest.raises(BadInput, match="make it again"):
            Table.from_csv("nb3", wrong, {}, "here")
    with pytest.raises(BadInput):
        Table.from_csv("nb4", table.to_csv(), {}, "here")


def test_a_build_that_was_interrupted_goes_on_and_ends_with_the_same_table(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    counts: list[int] = []

    def stop(done: int, of: int) -> None:
        counts.append(done)
        if done == 5:
            raise KeyboardInterrupt

    one, two = tmp_path / "one", tmp_path / "two"
    with pytest.raises(KeyboardInterrupt):
        exhaustive.build("nb3", 2, one, QUICK, stop)
    trained: list[int] = []
    real = exhaustive.train
    monkeypatch.setattr(exhaustive, "train", lambda *args: trained.append(1) or real(*args))
    exhaustive.build("nb3", 2, one, QUICK)
    assert len(trained) == 78 - 5
    whole = exhaustive.build("nb3", 2, two, QUICK)
    assert truth.files("nb3", one)[0].read_bytes() == truth.files("nb3", two)[0].read_bytes()
    monkeypatch.setenv("DARTS_TINY", str(two))
    found = truth.table_of("nb3")
    assert found is not None and np.array_equal(found.test, whole.test) and found.about["distinct"] == 78
    assert truth.table_of("nb3", "cifar10") is None and truth.table_of("darts") is None
    csv = truth.files("nb3", two)[0]
    csv.write_bytes(csv.read_bytes().replace(b"0.1", b"0.2", 1))
    truth.read.cache_clear()
    with pytest.raises(BadInput, match="not the table"):
        truth.table_of("nb3")
    truth.read.cache_clear()


def test_equal_cells_have_equal_rows_in_the_table_of_this_clone() -> None:
    table = truth.table_of("nb3")
    if table is None:
        pytest.skip("no table: python -m darts_core tiny build")
    every = list(product(*(CELL.choices(e) for e in range(6))))
    for numbers in truth.distinct(CELL, every).values():
        assert (table.test[numbers] == table.test[numbers[0]]).all()
    means = table.means
    disconnected = [n for n, ops in enumerate(every) if not meaning(CELL, ops)]
    assert means[disconnected].max() < 0.15, "without a path the ten classes are guessed"
    with_convolution = [n for n, ops in enumerate(every) if "conv" in meaning(CELL, ops)]
    rest = sorted(set(range(729)) - set(with_convolution))
    assert means[with_convolution].min() > 0.9 > 0.5 > means[rest].max(), "a cliff, as without any spatial operation"
