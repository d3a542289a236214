"""Recurrent cells: numbers of the released implementation, and the fast form against the one that reads as it."""

from __future__ import annotations

import json
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from original import filled
from torch import Tensor

from darts_core.genotype import CellGenes, Gene, Genotype
from darts_core.mix import Mix
from darts_core.nets import decoder
from darts_core.nets.fixed import parameters
from darts_core.nets.recurrent import (
    ACTIVATIONS,
    FixedRecurrentCell,
    Masks,
    MixedRecurrentCell,
    Rates,
    RecurrentNetwork,
    RecurrentSupernet,
    bounded,
    from_original,
    zero_carry,
)
from darts_core.nets.recurrent_fast import FastRecurrentCell
from darts_core.space import recurrent_cell, space_named

GOLDEN = json.loads((Path(__file__).parent / "data" / "original_rnn.json").read_text(encoding="utf-8"))
NODES = tuple(range(1, 9))


def genotype(text: str, output: tuple[int, ...] = NODES) -> Genotype:
    """ "relu 0, tanh 1" and the states in the output."""
    genes = (pair.split() for pair in text.split(","))
    return Genotype("darts-rnn", {"recurrent": CellGenes(tuple((Gene(op, int(s)),) for op, s in genes), output, 1)})


V1 = genotype("relu 0, relu 1, tanh 2, relu 3, relu 4, identity 1, relu 5, relu 1")
V2 = genotype("sigmoid 0, relu 1, relu 1, identity 1, tanh 2, sigmoid 5, tanh 3, relu 5")
ENAS = genotype(
    "tanh 0, tanh 1, relu 1, tanh 3, tanh 3, relu 3, relu 4, relu 7, relu 8, relu 8, relu 8", (2, 5, 6, 9, 10, 11)
)


def golden_network() -> RecurrentNetwork:
    net = RecurrentNetwork(V2, GOLDEN["ntoken"], GOLDEN["nhid"]).double()
    names = ["encoder.weight", "decoder.bias", "rnns.0._W0", *(f"rnns.0._Ws.{i}" for i in range(8))]
    n, V = GOLDEN["nhid"], GOLDEN["ntoken"]
    shapes = {"encoder.weight": (V, n), "decoder.bias": (V,), "rnns.0._W0": (2 * n, 2 * n)}
    theirs = {name: filled(name, shapes.get(name, (n, 2 * n))) for name in names}
    net.load_state_dict(from_original(theirs))
    return net


def golden_tokens() -> Tensor:
    t, b = np.arange(GOLDEN["T"])[:, None], np.arange(GOLDEN["B"])[None]
    return torch.from_numpy((7 * t + 3 * b * b + 1 + zlib.crc32(b"x") % 5) % GOLDEN["ntoken"])


def test_the_language_model_of_darts_v2_gives_the_original_numbers() -> None:
    net = golden_network().eval()
    said, carry = net(golden_tokens(), zero_carry(GOLDEN["B"], GOLDEN["nhid"], net.words))
    logp = torch.log_softmax(said.logits, -1).detach().numpy().ravel()
    np.testing.assert_allclose(logp, GOLDEN["logp_eval"], rtol=1e-9, atol=1e-11)
    np.testing.assert_allclose(carry.detach().numpy().ravel(), GOLDEN["hidden"], rtol=1e-9, atol=1e-11)


def test_parameter_counts_are_the_published_ones() -> None:
    with torch.device("meta"):
        assert parameters(RecurrentSupernet(space_named("darts-rnn"), 10_000, 300, Rates())) == 4_810_000
        counts = (
            (V2, 10_000, 850, GOLDEN["params_ptb_850"]), (V1, 10_000, 850, 22_960_000), (V2, 33_278, 700, 33_127_878),
            (ENAS, 10_000, 850, 27_295_000), (ENAS, 33_278, 700, 36_067_878),
        )  # fmt: skip
        for cell, vocabulary, units, expected in counts:
            assert parameters(RecurrentNetwork(cell, vocabulary, units)) == expected


def cells(limit: float = 0.0, nodes: int = 4, units: int = 5) -> tuple[MixedRecurrentCell, FastRecurrentCell]:
    torch.manual_seed(3)
    spec = recurrent_cell(nodes)
    reference, fast = (form(spec, units, limit).double() for form in (MixedRecurrentCell, FastRecurrentCell))
    with torch.no_grad():
        for p in reference.parameters():
            p.mul_(20)
    fast.load_state_dict(reference.state_dict())
    return reference, fast


def inputs(reference: MixedRecurrentCell, drops: bool, T: int = 3, B: int = 4) -> tuple[Tensor, Tensor, Tensor, Masks]:
    torch.manual_seed(5)
    n, wide = reference.units, torch.float64
    x, h = torch.randn(T, B, n, dtype=wide, requires_grad=True), torch.randn(B, n, dtype=wide, requires_grad=True)
    rows = torch.softmax(torch.randn(reference.cell.shape, dtype=wide), -1).requires_grad_()
    masks = Masks((torch.rand(B, n, dtype=wide) > 0.3) / 0.7, (torch.rand(B, n, dtype=wide) > 0.3) / 0.7)
    return x, h, rows, masks if drops else Masks(None, None)


@pytest.mark.parametrize("drops", [False, True])
@pytest.mark.parametrize("limit", [0.0, 1.6])
def test_fast_equals_the_reference_in_output_and_every_gradient(drops: bool, limit: float) -> None:
    reference, fast = cells(limit)
    x, h, rows, masks = inputs(reference, drops)
    wave = torch.linspace(-1, 1, 3 * 4 * 5, dtype=torch.float64).view(3, 4, 5)
    found = []
    for cell in (reference, fast):
        out = cell(x, h, rows, masks)
        wanted = [x, h, rows, *cell.parameters()]
        found.append([out, *torch.autograd.grad((out * wave).sin().sum(), wanted)])
    if limit:
        norms = torch.linalg.vector_norm(found[0][0], dim=-1)
        assert bool((norms > 1.599).any()) and bool((norms < 1.59).any()), "some states are bounded and some are not"
    for mine, theirs in zip(*found, strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-9, atol=1e-11)
    assert all(float(g.detach().abs().max()) > 0 for g in found[0])


def test_gradients_for_some_inputs_only_are_the_same_ones() -> None:
    """In an architecture step the weights are constants."""
    reference, fast = cells()
    x, h, rows, masks = inputs(reference, True)
    (whole,) = torch.autograd.grad(fast(x, h, rows, masks).sin().sum(), [rows])
    fast.requires_grad_(False)
    (alone,) = torch.autograd.grad(fast(x.detach(), h.detach(), rows, masks).sin().sum(), [rows])
    torch.testing.assert_close(alone, whole, rtol=1e-12, atol=1e-14)


def test_second_derivatives_of_the_fast_form_equal_the_reference() -> None:
    reference, fast = cells(nodes=3)
    x, h, rows, masks = inputs(reference, True)
    found = []
    for cell in (reference, fast):
        weights = list(cell.parameters())
        grads = torch.autograd.grad(cell(x, h, rows, masks).sin().sum(), weights, create_graph=True)
        found.append(torch.autograd.grad(sum(g.pow(2).sum() for g in grads), [rows, *weights]))
    for mine, theirs in zip(*found, strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-8, atol=1e-10)


def test_a_batch_of_one_and_no_gradient_work_in_both_forms() -> None:
    reference, fast = cells()
    x, h, rows, masks = inputs(reference, False, B=1)
    with torch.no_grad():
        torch.testing.assert_close(fast(x, h, rows, masks), reference(x, h, rows, masks))
    reference, fast = cells()
    x, h, rows, masks = inputs(reference, True, T=7)
    with torch.no_grad():
        torch.testing.assert_close(fast(x, h, rows, masks), reference(x, h, rows, masks))


def test_none_takes_weight_from_the_others_and_adds_nothing() -> None:
    """Halving a row by giving the rest to `none` halves what its functions add: seen before batch norm hides scale."""
    reference, _ = cells(nodes=2)
    x, h, rows, masks = inputs(reference, False)
    by_hand = rows.detach().clone()
    by_hand[:, 0] = 0
    torch.testing.assert_close(reference(x, h, rows, masks), reference(x, h, by_hand, masks))


def test_the_fixed_cell_is_the_recurrence_written_node_by_node() -> None:
    torch.manual_seed(1)
    cell = FixedRecurrentCell(V1.cells["recurrent"], 6, 0.0).double()
    x, h = torch.randn(2, 3, 6, dtype=torch.float64), torch.randn(3, 6, dtype=torch.float64)
    mx, mh = (torch.rand(2, 3, 6, dtype=torch.float64) > 0.5) * 2.0
    expected = []
    with torch.no_grad():
        for p in cell.parameters():
            p.mul_(20)
        state = h
        for t in range(2):
            c, u = (torch.cat([x[t] * mx, state * mh], -1) @ cell.first).chunk(2, -1)
            s = [state + torch.sigmoid(c) * (torch.tanh(u) - state)]
            for node, (gene,) in enumerate(V1.cells["recurrent"].nodes):
                c, u = ((s[gene.source] * mh) @ cell.matrices[node]).chunk(2, -1)
                s.append(s[gene.source] + torch.sigmoid(c) * (ACTIVATIONS[gene.op](u) - s[gene.source]))
            state = torch.stack(s[1:]).mean(0)
            expected.append(state)
        torch.testing.assert_close(cell(x, h, Masks(mx, mh)), torch.stack(expected))


def test_masks_are_drawn_once_per_sequence_and_only_in_training() -> None:
    torch.manual_seed(0)
    net = RecurrentSupernet(space_named("darts-rnn", 2), 7, 6, Rates(0, 0.5, 0.5, 0, 0)).double()
    mix = Mix({"recurrent": torch.full((3, 5), 0.2, dtype=torch.float64)})
    seen: list[Masks] = []
    run: Callable[..., Tensor] = net.cell.forward
    net.cell.forward = lambda x, h, rows, masks: seen.append(masks) or run(x, h, rows, masks)  # type: ignore[method-assign]
    tokens = torch.arange(8).view(4, 2) % 7
    for training in (True, False):
        net.train(training)
        net(tokens, mix, zero_carry(2, 6, net.words))
    assert set(seen[0].x.unique().tolist()) == {0.0, 2.0} and seen[0].h.shape == (2, 6)  # type: ignore[union-attr]
    assert seen[1] == Masks(None, None)


def test_states_are_bounded_in_norm_and_small_ones_left_alone() -> None:
    h = torch.tensor([[3.0, 4.0], [0.3, 0.4]])
    torch.testing.assert_close(bounded(h, 2.0), torch.tensor([[1.2, 1.6], [0.3, 0.4]]))
    assert bounded(h, 0.0) is h


@pytest.mark.parametrize("at_a_time", [40, 1 << 20])
def test_cross_entropy_in_pieces_equals_that_of_all_logits_to_the_second_derivative(
    at_a_time: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(decoder, "AT_A_TIME", at_a_time)
    torch.manual_seed(0)
    wide = torch.float64
    inputs = [torch.randn(*shape, dtype=wide, requires_grad=True) for shape in ((10, 3, 4), (7, 4), (7,))]
    targets = torch.randint(7, (10, 3))
    found = []
    for form in (decoder.cross_entropy, whole_table):
        loss, accuracy = form(*inputs, targets)
        first = torch.autograd.grad(loss.square(), inputs)
        again = torch.autograd.grad(form(*inputs, targets)[0], inputs, create_graph=True)
        second = torch.autograd.grad(sum(g.square().sum() for g in again), inputs)  # type: ignore[arg-type]
        found.append([loss, accuracy.to(wide), *first, *again, *second])
    for ours, theirs in zip(*found, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-10, atol=1e-12)


def whole_table(states: Tensor, words: Tensor, bias: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
    logits = torch.nn.functional.linear(states, words, bias)
    accuracy = (logits.argmax(-1) == targets).double().mean()
    return torch.nn.functional.cross_entropy(logits.flatten(0, 1), targets.flatten()), accuracy
