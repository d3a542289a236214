"""Numbers of the released implementation (float64), which this one must reproduce."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from original import batch, fill, wave

from darts_core import ops
from darts_core.derive import derive
from darts_core.genotype import Genotype
from darts_core.mix import Alphas
from darts_core.nets.fixed import Network, parameters
from darts_core.nets.mixed import Supernet
from darts_core.nets.original import from_original, to_original
from darts_core.search.method import Moment, softmax
from darts_core.space import DARTS_OPS, SearchSpace, conv_cell, space_named
from darts_core.zoo import published

GOLDEN = json.loads((Path(__file__).parent / "data" / "original_darts.json").read_text(encoding="utf-8"))
SEARCH = GOLDEN["search_cnn"]


@pytest.fixture(scope="module")
def supernet() -> Supernet:
    net = Supernet(space_named("darts"), 3, 10, channels=8, cells=5, reductions=(1, 3)).double()
    fill(net, DARTS_OPS)
    return net


def golden_alphas() -> Alphas:
    space = space_named("darts")
    names = {"normal": "alphas_normal", "reduce": "alphas_reduce"}
    ops = {k: torch.from_numpy(0.3 * wave(names[k], (14, 8))).requires_grad_() for k in names}
    return Alphas(ops, {k: torch.from_numpy(c.legal_array()) for k, c in space.cells.items()})


def loss_of(net: Supernet, alphas: Alphas, name: str) -> tuple[torch.Tensor, torch.Tensor]:
    images, labels = batch(name, (6, 3, 16, 16))
    logits, _ = net(images, softmax(alphas, Moment("arch", 0, 0.0)))
    return logits, F.cross_entropy(logits, labels)


def test_supernet_gives_the_original_logits_and_loss(supernet: Supernet) -> None:
    logits, loss = loss_of(supernet, golden_alphas(), "valid")
    np.testing.assert_allclose(logits.detach().numpy().ravel(), SEARCH["logits_valid"], rtol=1e-9, atol=1e-11)
    assert loss.item() == pytest.approx(SEARCH["loss_valid"], rel=1e-9)


def test_first_order_gradient_is_the_original_one(supernet: Supernet) -> None:
    alphas = golden_alphas()
    _, loss = loss_of(supernet, alphas, "valid")
    ours = [g.numpy().ravel() for g in torch.autograd.grad(loss, alphas.tensors())]
    for mine, theirs in zip(ours, SEARCH["first_order"], strict=True):
        np.testing.assert_allclose(mine, np.asarray(theirs).ravel(), rtol=1e-9, atol=1e-12)


def test_training_loss_and_gradient_norm_are_the_original_ones(supernet: Supernet) -> None:
    _, loss = loss_of(supernet, golden_alphas(), "train")
    grads = torch.autograd.grad(loss, list(supernet.parameters()))
    assert loss.item() == pytest.approx(SEARCH["loss_train"], rel=1e-9)
    assert torch.cat([g.ravel() for g in grads]).norm().item() == pytest.approx(
        SEARCH["weight_grad_norm_train"], rel=1e-9
    )


def test_parameter_counts_are_the_published_ones(supernet: Supernet) -> None:
    paper = Supernet(space_named("darts"), 3, 10, channels=16, cells=8, reductions=(2, 5))
    assert parameters(supernet) == SEARCH["params"]
    assert parameters(paper) == SEARCH["params_C16_L8"] == 1_930_618


@pytest.mark.parametrize(
    ("name", "weights", "alphas"),  # RobustDARTS; its S5 is the space of DARTS
    [("s1", 405_146, 56), ("s2", 665_466, 56), ("s3", 665_466, 84), ("s4", 624_506, 56), ("darts", 1_930_618, 224)],
)
def test_s1_to_s5_have_their_published_parameter_counts_and_sizes_of_the_hessian(
    name: str, weights: int, alphas: int
) -> None:
    space = space_named(name)
    assert parameters(Supernet(space, 3, 10)) == weights
    assert sum(int(cell.legal_array().sum()) for cell in space.cells.values()) == alphas


def test_the_spaces_of_sharpdarts_have_the_parameter_counts_of_its_code() -> None:
    """16 channels, 8 cells; the third is the DARTS space with their blocks in place of its dilated convolutions."""
    sharp = {"dil_conv_3x3": "sharp_dil_conv_3x3", "dil_conv_5x5": "sharp_dil_conv_5x5"}
    cells = {kind: conv_cell(4, [sharp.get(op, op) for op in DARTS_OPS]) for kind in ("normal", "reduce")}
    own = SearchSpace("with the blocks of sharpDARTS", cells)
    for space, count in ((space_named("sharp"), 5_867_642), (space_named("sharper"), 9_707_002), (own, 2_527_354)):
        with torch.device("meta"):
            assert parameters(Supernet(space, 3, 10)) == count, space.name


def test_darts_cell_with_the_blocks_of_sharpdarts_has_its_published_parameter_count() -> None:
    text = published("DARTS_V2").genotype.dumps().replace("dil_conv_3x3", "sharp_dil_conv_3x3")
    with torch.device("meta"):
        assert parameters(Network(Genotype.from_json(json.loads(text)), 3, 10)) == 3_529_270


def test_a_dilated_block_of_sharpdarts_dilates_and_strides_once_and_its_average_counts_the_padding() -> None:
    first, second = [m for m in ops.build("dil_flood_conv_3x3", 4, 2, False) if getattr(m, "groups", 1) > 1]
    assert (first.dilation, first.stride, first.padding, first.out_channels) == ((2, 2), (2, 2), (2, 2), 4)
    assert (second.dilation, second.stride, second.padding, second.out_channels) == ((1, 1), (1, 1), (1, 1), 16)
    ones = torch.ones(1, 1, 4, 4)
    assert ops.build("sharp_avg_pool_3x3", 1, 1, False)(ones)[0, 0, 0, 0].item() == pytest.approx(4 / 9)
    assert ops.build("avg_pool_3x3", 1, 1, False)(ones)[0, 0, 0, 0].item() == 1


def test_names_map_both_ways(supernet: Supernet) -> None:
    names = [name for name, _ in supernet.named_parameters()]
    theirs = [to_original(name, DARTS_OPS) for name in names]
    assert len(set(theirs)) == len(names)
    assert [from_original(name, DARTS_OPS) for name in theirs] == names
    assert "cells.1._ops.0._ops.3.conv_1.weight" in theirs
    assert "cells.0.preprocess0.op.1.weight" in theirs
    assert "cells.0._ops.13._ops.5.op.6.weight" in theirs


@pytest.mark.parametrize("k", range(10))
def test_derivation_is_the_original_one(k: int) -> None:
    space = space_named("darts")
    rows = {"normal": f"dn{k}", "reduce": f"dr{k}"}
    mixes = {
        kind: torch.softmax(torch.from_numpy(1.5 * wave(name, (14, 8))), -1).float().numpy()
        for kind, name in rows.items()
    }
    genotype = derive(space, mixes)
    for kind, expected in zip(("normal", "reduce"), _cells(GOLDEN["derive_cnn_first10"][k]), strict=True):
        genes = [[gene.op, gene.source] for node in genotype.cells[kind].nodes for gene in node]
        assert genes == [list(pair) for pair in expected]


def _cells(entry: object) -> list:
    return [entry["normal"], entry["reduce"]] if isinstance(entry, dict) else list(entry)  # type: ignore[index, call-overload]
