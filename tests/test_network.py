"""The derived network: numbers of the released code, published parameter counts, its names, drop path, odd sizes."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from original import batch, fill_derived
from rich.console import Console
from typer.testing import CliRunner

from darts_core.__main__ import app
from darts_core.errors import BadInput
from darts_core.genotype import CellGenes, Gene, Genotype
from darts_core.net_commands import released
from darts_core.nets.fixed import Network, parameters
from darts_core.nets.original import derived_to_original
from darts_core.nets.recurrent import RecurrentNetwork
from darts_core.zoo import genotype_named, published, zoo

GOLDEN = json.loads((Path(__file__).parent / "data" / "original_evaluation.json").read_text(encoding="utf-8"))
V2 = published("DARTS_V2").genotype


def small(genotype: Genotype = V2, **changes: object) -> Network:
    settings = {"channels": 4, "cells": 3, "reductions": (1, 2), **changes}
    return Network(genotype, 3, 5, **settings)  # type: ignore[arg-type]


@pytest.fixture
def golden_network() -> Network:
    net = Network(V2, 3, 10, GOLDEN["C"], GOLDEN["layers"], (2, 5), auxiliary=True).double()
    fill_derived(net)
    return net


def test_logits_in_evaluation_mode_are_the_released_code_s(golden_network: Network) -> None:
    logits = golden_network.eval()(batch("eval", (3, 3, 32, 32))[0])
    np.testing.assert_allclose(logits.detach().numpy().ravel(), GOLDEN["logits_eval"], rtol=1e-9, atol=1e-11)


def test_logits_of_both_heads_in_training_mode_are_the_released_code_s(golden_network: Network) -> None:
    logits, auxiliary = golden_network.train().both(batch("eval", (3, 3, 32, 32))[0])
    assert auxiliary is not None
    np.testing.assert_allclose(logits.detach().numpy().ravel(), GOLDEN["logits_train"], rtol=1e-9, atol=1e-11)
    np.testing.assert_allclose(auxiliary.detach().numpy().ravel(), GOLDEN["aux_train"], rtol=1e-9, atol=1e-11)
    assert parameters(golden_network) == GOLDEN["params_noaux"]


@pytest.mark.parametrize("name", GOLDEN["parameters"])
def test_released_cells_have_their_published_parameter_counts(name: str) -> None:
    genotype = published(name).genotype
    cifar, imagenet = GOLDEN["parameters"][name]
    with torch.device("meta"):
        assert parameters(Network(genotype, 3, 10, auxiliary=True)) == cifar
        wide = Network(genotype, 3, 1000, 48, 14, (4, 9), stem="imagenet")
    assert imagenet is None or parameters(wide) == imagenet


def test_every_released_cell_is_counted_or_said_not_to_be() -> None:
    of_images = {name for name, found in zoo().items() if "recurrent" not in found.genotype.cells}
    assert set(GOLDEN["parameters"]) == of_images


def test_the_zoo_says_how_large_every_network_is_and_says_it_rightly() -> None:
    told = CliRunner().invoke(app, ["zoo"])
    assert told.exit_code == 0 and all(name in told.output for name in zoo())
    wide = Console(width=200, height=60)  # the command itself is as wide as its terminal
    with wide.capture() as tables:
        for table in released():
            wide.print(table)
    said = tables.get()
    for name, found in zoo().items():
        with torch.device("meta"):
            if "recurrent" in found.genotype.cells:
                assert found.parameters == {"ptb": parameters(RecurrentNetwork(found.genotype, 10_000, 850))}, name
                continue
            cifar = parameters(Network(found.genotype, 3, 10))
            imagenet = parameters(Network(found.genotype, 3, 1000, 48, 14, (4, 9), stem="imagenet"))
        assert found.parameters == {"cifar": cifar, "imagenet": imagenet}, name
        assert name in said and f"{cifar:,}" in said and f"{imagenet:,}" in said and found.source.split(",")[0] in said


def test_released_recurrent_cells_have_their_published_parameter_counts() -> None:
    counts = {"DARTS_V1_RNN": 22_960_000, "DARTS_V2_RNN": 22_960_000, "ENAS_RNN": 27_295_000}
    for name, count in counts.items():
        with torch.device("meta"):
            assert parameters(RecurrentNetwork(published(name).genotype, 10_000, 850)) == count


@pytest.mark.parametrize("layout", ["cifar", "imagenet"])
@pytest.mark.parametrize("counters", ["with", "without"])
def test_the_names_and_shapes_are_those_of_the_released_checkpoints(layout: str, counters: str) -> None:
    with torch.device("meta"):
        if layout == "cifar":
            net = Network(V2, 3, 10, auxiliary=True)
        else:
            net = Network(V2, 3, 1000, 48, 14, (4, 9), stem="imagenet", auxiliary=True)
    names = {derived_to_original(name, V2, net.places): t.shape for name, t in net.state_dict().items()}
    kept = {n: s for n, s in names.items() if counters == "with" or not n.endswith("num_batches_tracked")}
    lines = sorted(f"{name} {','.join(map(str, shape))}" for name, shape in kept.items())
    count, expected = GOLDEN["checkpoints"][layout][counters]
    assert (len(lines), hashlib.sha256("\n".join(lines).encode()).hexdigest()) == (count, expected)


@pytest.mark.parametrize("name", ["NASNet", "AmoebaNet", "FairDARTS_c", "PDARTS"])
@pytest.mark.parametrize("side", [9, 16])
def test_any_released_cell_runs_at_any_size_and_sends_gradients_to_both_heads(name: str, side: int) -> None:
    net = small(published(name).genotype, auxiliary=True)
    logits, extra = net.both(torch.randn(2, 3, side, side), 0.2)
    assert extra is not None and logits.shape == extra.shape == (2, 5)
    (logits.sum() + extra.sum()).backward()
    assert all(p.grad is not None for p in net.auxiliary_head.parameters())  # type: ignore[union-attr]
    assert net.eval().both(torch.randn(2, 3, side, side))[1] is None


def test_the_imagenet_network_runs_and_its_stem_reduces_eightfold() -> None:
    net = small(stem="imagenet", auxiliary=True)
    sizes = []
    net.cells[0].register_forward_hook(lambda module, given, out: sizes.append((given[0].shape[2], given[1].shape[2])))
    assert net(torch.randn(2, 3, 64, 64)).shape == (2, 5)
    assert sizes == [(16, 8)]


def test_drop_path_leaves_identities_alone_and_keeps_the_mean() -> None:
    """A cell of skips alone at stride 1 does not change at any rate; one with convolutions does, around its mean."""
    skips = CellGenes(tuple((Gene("skip_connect", 0), Gene("skip_connect", 1)) for _ in range(2)), (2, 3))
    convs = CellGenes(tuple((Gene("avg_pool_3x3", 0), Gene("avg_pool_3x3", 1)) for _ in range(2)), (2, 3))
    x = torch.randn(4000, 3, 4, 4)
    for genes, moves in ((skips, False), (convs, True)):
        net = Network(Genotype("darts", {"normal": genes}), 3, 5, 4, 1, ()).train()
        torch.manual_seed(1)
        calm, dropped = net.cells[0](net.stem(x), net.stem(x), 0.0), net.cells[0](net.stem(x), net.stem(x), 0.3)
        assert torch.equal(calm, dropped) is not moves
        assert torch.allclose(calm.mean(0), dropped.mean(0), atol=0.05)


def test_a_node_of_three_operations_is_dropped_as_a_whole() -> None:
    node = (Gene("avg_pool_3x3", 0), Gene("max_pool_3x3", 0), Gene("avg_pool_3x3", 1))
    net = Network(Genotype("fair", {"normal": CellGenes((node,), (2,))}), 3, 5, 4, 1, ()).train()
    s = net.stem(torch.randn(200, 3, 4, 4))
    calm, dropped = net.cells[0](s, s, 0.0), net.cells[0](s, s, 0.5)
    for before, after in zip(calm, dropped, strict=True):
        assert torch.equal(after, 0 * after) or torch.allclose(after, before / 0.5)


def test_released_cells_are_found_by_loosely_written_names_and_files(tmp_path: Path) -> None:
    assert genotype_named("darts-v2") == genotype_named("DARTS") == (V2, "DARTS_V2")
    (tmp_path / "mine.json").write_text(V2.dumps(), encoding="utf-8")
    assert genotype_named(str(tmp_path / "mine.json")) == (V2, "mine")
    with pytest.raises(BadInput, match="did you mean 'DARTS_V2'"):
        genotype_named("dartsv3")
    with pytest.raises(BadInput, match="no such file"):
        genotype_named(str(tmp_path / "other.json"))
