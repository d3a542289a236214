"""The fast supernet is the reference supernet: output and every gradient, in float64, for each space and odd sizes."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from darts_core.mix import Mix
from darts_core.nets.fast import FastSupernet, Normalised
from darts_core.nets.mixed import Supernet
from darts_core.space import SearchSpace, space_named


def uneven(space: SearchSpace) -> SearchSpace:
    """The same space with some operations forbidden, another one on each edge, and one edge without any but `none`."""
    cells = {}
    for kind, cell in space.cells.items():
        rows = [[(e + o) % 3 != 0 for o in range(len(cell.ops))] for e in range(len(cell.edges))]
        rows[-1] = [op == cell.ops[0] for op in cell.ops]
        cells[kind] = replace(cell, legal=tuple(tuple(row) for row in rows))
    return SearchSpace(space.name, cells)


SPACES = {
    "darts": space_named("darts", 3),
    "s2": space_named("s2", 3),
    "tiny": space_named("tiny"),
    "uneven": uneven(space_named("darts", 3)),
}


def pair(space: SearchSpace) -> tuple[Supernet, FastSupernet]:
    nets = []
    for _ in range(2):
        torch.manual_seed(4)
        nets.append(Supernet(space, 2, 3, channels=4, cells=3, reductions=(1,), stem_multiplier=1).double())
    return nets[0], FastSupernet(nets[1])


def mix(space: SearchSpace) -> Mix:
    g = torch.Generator().manual_seed(5)
    rows = {
        k: torch.rand(c.shape, generator=g, dtype=torch.float64) * torch.from_numpy(c.legal_array())
        for k, c in space.cells.items()
    }
    return Mix({k: row.requires_grad_() for k, row in rows.items()})


@pytest.mark.parametrize("side", [8, 7])
@pytest.mark.parametrize("name", SPACES)
def test_fast_equals_reference_in_output_and_every_gradient(name: str, side: int) -> None:
    space = SPACES[name]
    reference, fast = pair(space)
    x = torch.randn(5, 2, side, side, generator=torch.Generator().manual_seed(6), dtype=torch.float64)
    found = []
    for net in (reference, fast):
        image, weighing = x.clone().requires_grad_(), mix(space)
        logits, carry = net(image, weighing)
        assert carry is None
        params = dict(net.named_parameters())
        loss = (logits * torch.arange(15.0, dtype=torch.float64).view(5, 3)).sum()
        grads = torch.autograd.grad(loss, [image, *weighing.ops.values(), *params.values()], materialize_grads=True)
        count = 1 + len(weighing.ops)
        found.append((logits, grads[:count], net.unpack(dict(zip(params, grads[count:], strict=True)))))
    (ours, direct, weights), (theirs, direct_fast, weights_fast) = found
    torch.testing.assert_close(theirs, ours, rtol=1e-10, atol=1e-11)
    for a, b in zip(direct_fast, direct, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-10)
    assert weights.keys() == weights_fast.keys()
    for key, grad in weights.items():
        torch.testing.assert_close(weights_fast[key], grad, rtol=1e-9, atol=1e-10, msg=lambda m, key=key: f"{key}: {m}")


@pytest.mark.parametrize("name", SPACES)
def test_packing_and_unpacking_is_the_identity(name: str) -> None:
    reference, fast = pair(SPACES[name])
    state = {n: p.detach() for n, p in reference.named_parameters()}
    packed = fast.pack(state)
    assert {n: t.shape for n, t in packed.items()} == {n: p.shape for n, p in fast.named_parameters()}
    again = fast.unpack(packed)
    assert again.keys() == state.keys() and all(torch.equal(again[n], t) for n, t in state.items())


@pytest.mark.parametrize("name", SPACES)
def test_second_derivatives_agree(name: str) -> None:
    space = SPACES[name]
    reference, fast = pair(space)
    rows = []
    for net in (reference, fast, FastSupernet(pair(space)[0], twice=True)):
        weighing = mix(space)
        x = torch.randn(4, 2, 6, 6, generator=torch.Generator().manual_seed(8), dtype=torch.float64)
        tensors, params = list(weighing.ops.values()), dict(net.named_parameters())
        grads = torch.autograd.grad(net(x, weighing)[0].pow(2).sum(), [*tensors, *params.values()], create_graph=True)
        total = sum((g * g).sum() for g in grads)
        *found, classifier = torch.autograd.grad(total, [*tensors, params["classifier.weight"]])
        rows.append([*found, classifier])
    for other in rows[1:]:
        for a, b in zip(rows[0], other, strict=True):
            torch.testing.assert_close(b, a, rtol=1e-8, atol=1e-9)


def test_the_second_derivatives_of_our_batch_norm_are_those_of_its_formula() -> None:
    g = torch.Generator().manual_seed(2)
    x = torch.randn(3, 2, 2, 2, generator=g, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(Normalised.apply, (x,))
    assert torch.autograd.gradgradcheck(Normalised.apply, (x,))


def test_drop_path_drops_whole_samples_of_the_named_operation_only() -> None:
    space = SPACES["s2"]
    rows = {k: torch.zeros(c.shape, dtype=torch.float64) for k, c in space.cells.items()}
    for row in rows.values():
        row[:, 0] = 1.0  # skip alone
    rate = torch.tensor(0.5, dtype=torch.float64)
    for net in pair(space):
        cell: torch.nn.Module = net.cells[0]
        s = torch.randn(64, 4, 4, 4, dtype=torch.float64)
        torch.manual_seed(1)
        dropped = cell(s, s, rows["normal"], moment=Mix({}, drop={"skip_connect": rate}))
        kept = cell(s, s, rows["normal"], moment=Mix({}, drop={"sep_conv_3x3": rate}))
        plain = cell(s, s, rows["normal"])
        assert torch.equal(kept, plain)  # its weight is zero
        first = dropped[:, :4].flatten(1).norm(dim=1) / plain[:, :4].flatten(1).norm(dim=1).clamp(min=1e-12)
        assert 5 < int((first == 0).sum()) < 30  # both inputs dropped in about a quarter of 64 samples
