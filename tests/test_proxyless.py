"""ProxylessNAS: its gates, their gradient by hand, the pair's probability, and what the costs do."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch
from small import config, task

from darts_core import latency
from darts_core.config import SearchConfig
from darts_core.errors import BadInput
from darts_core.events import Result, Step
from darts_core.genotype import Genotype
from darts_core.latency import costs, items, module, multiply_adds
from darts_core.methods.pcdarts import pcdarts
from darts_core.methods.proxyless import keeps_mass, proxyless
from darts_core.mix import Alphas, Mix
from darts_core.nets.chain import ChainNetwork, ChainSupernet
from darts_core.search.bilevel import Host, Search
from darts_core.search.method import Moment
from darts_core.space import chain_cell, space_named
from darts_core.strategies import strategy_named

LEGAL = torch.tensor([[True, True, True, True], [True, False, True, True], [False, False, True, False]])


def alphas(seed: int = 0) -> Alphas:
    logits = torch.randn(3, 4, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return Alphas({"chain": logits.requires_grad_()}, {"chain": LEGAL})


def moment(phase: str, seed: int = 0) -> Moment:
    return Moment(phase, 3, 0.5, torch.Generator().manual_seed(seed), 6)


@pytest.mark.parametrize("phase, most", [("weights", 1), ("arch", 2)])
def test_gates_are_one_hot_and_only_drawn_paths_run(phase: str, most: int) -> None:
    for seed in range(50):
        mix = proxyless().relax(alphas(), moment(phase, seed))
        rows = mix.ops["chain"].detach()
        assert torch.allclose(rows, rows.round()) and (rows.round().sum(-1) == 1).all()
        assert mix.active is not None
        for row, paths, legal in zip(rows, mix.active["chain"], LEGAL, strict=True):
            assert len(paths) == min(most, int(legal.sum())) and all(legal[o] for o in paths)
            assert int(row.argmax()) in paths


def test_a_path_is_drawn_as_often_as_its_probability_says() -> None:
    a = alphas(1)
    p = torch.softmax(a.ops["chain"][0].detach(), 0)
    count = Counter(int(proxyless().relax(a, moment("weights", s)).ops["chain"][0].argmax()) for s in range(3000))
    assert np.allclose([count[k] / 3000 for k in range(4)], p, atol=0.03)


def test_the_gates_gradient_is_the_one_worked_by_hand() -> None:
    """dL/dalpha_i = sum_j dL/dg_j q_j (delta_ij - q_i) over the two drawn paths, q the softmax of their alphas."""
    a = alphas(2)
    toward = torch.tensor([[0.3, -1.0, 2.0, 0.7]] * 3, dtype=torch.float64)  # dL/dg
    mix = proxyless().relax(a, moment("arch", 4))
    (mix.ops["chain"] * toward).sum().backward()
    assert mix.active is not None
    for e, paths in enumerate(mix.active["chain"]):
        i, *rest = sorted(paths)
        expected = torch.zeros(4, dtype=torch.float64)
        if rest:
            j, logits = rest[0], a.ops["chain"][e].detach()
            q = torch.softmax(logits[[i, j]], 0)
            for mine, other, own in ((i, j, 0), (j, i, 1)):
                expected[mine] = toward[e, mine] * q[own] * (1 - q[own]) - toward[e, other] * q[1 - own] * q[own]
        assert torch.allclose(a.ops["chain"].grad[e], expected, atol=1e-12)


def test_all_paths_together_give_the_gradient_over_all() -> None:
    a = alphas(3)
    toward = torch.tensor([0.3, -1.0, 2.0, 0.7], dtype=torch.float64)
    (proxyless(paths="full").relax(a, moment("arch")).ops["chain"][0] * toward).sum().backward()
    p = torch.softmax(a.ops["chain"][0].detach(), 0)
    assert torch.allclose(a.ops["chain"].grad[0], p * (toward - (p * toward).sum()), atol=1e-12)


def test_the_pair_keeps_its_part_of_the_probability() -> None:
    before = alphas(5)
    moved = before.ops["chain"].detach().clone()
    moved[0, 1] += 0.7
    moved[0, 3] -= 0.1
    after = keeps_mass(before, before._replace(ops={"chain": moved}), Mix({})).ops["chain"].detach()
    p, q = (torch.softmax(t[0].detach(), 0) for t in (before.ops["chain"], after))
    assert torch.allclose(p[[0, 2]], q[[0, 2]]), "the others keep their probability"
    assert float(q[1] + q[3]) == pytest.approx(float(p[1] + p[3])) and q[1] > p[1]
    assert after[0, 1] - after[0, 3] == pytest.approx(float(moved[0, 1] - moved[0, 3]))
    assert torch.equal(after[1:], moved[1:])


def test_architecture_steps_are_every_fifth_after_the_warm_up() -> None:
    method = proxyless(every=5, warm_up=0.25)
    asked = [method.when(Moment("arch", 0, s / 40, None, 4, step=s)) for s in range(40)]
    assert [s for s, yes in enumerate(asked) if yes] == [10, 15, 20, 25, 30, 35]


def test_in_a_search_only_the_drawn_pair_moves() -> None:
    settings = config(space="mbconv", cells=3, strategy="proxyless", every=1, warm_up=0.0, a_beta1=0.0, a_decay=0.0)
    found = [
        e for e in strategy_named("proxyless")(task(settings, torch.float32), settings, Host()) if isinstance(e, Step)
    ]
    tables = [e.alphas["chain"] for e in found]
    for one, two in zip(tables, tables[1:], strict=False):
        assert ((one != two).sum(-1) <= 2).all() and (one != two).any()


def test_a_price_on_multiply_adds_moves_the_search_to_cheaper_blocks() -> None:
    spent = {}
    for price in (0.0, 20.0):
        settings = config(
            space="mbconv", cells=3, strategy="proxyless", every=1, warm_up=0.0, a_beta1=0.0, a_decay=0.0, epochs=8,
            price=price, a_lr=0.2, label_noise=0.0,
        )  # fmt: skip
        subject = task(settings, torch.float32)
        subject._costs["macs"] = {"chain": torch.tensor([[1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 0.0]] * 3)}
        last = [e for e in strategy_named("proxyless")(subject, settings, Host()) if isinstance(e, Step)][-1]
        spent[price] = float((last.mix["chain"] * subject._costs["macs"]["chain"].numpy()).sum())
    assert spent[20.0] < spent[0.0] - 0.5


def test_the_penalty_is_the_papers_line_through_its_reference() -> None:
    table = {"chain": torch.tensor([[1.0, 3.0], [2.0, 6.0]])}
    a = Alphas({"chain": torch.zeros(2, 2, requires_grad=True)}, {"chain": torch.ones(2, 2, dtype=torch.bool)})
    now = moment("arch")._replace(costs=lambda measure: table)
    gates = Mix({"chain": torch.tensor([[0.0, 1.0], [1.0, 0.0]])})
    found = proxyless(price=0.1, target=0.5).penalty(a, gates, now)
    assert float(found) == pytest.approx(0.1 * (5 - 3) / 3)  # uniform: 2 + 4, half of it is the reference
    assert float(proxyless(price=0.0).penalty(a, gates, now)) == 0
    with pytest.raises(BadInput, match="price=0"):
        proxyless(price=0.1).penalty(a, gates, moment("arch"))


def chain(**changes: object) -> SearchConfig:
    found = {"dataset": "digits", "space": "mbconv", "channels": 4, "cells": 4, "reductions": "middle", **changes}
    return SearchConfig.from_dict(found)


def test_multiply_adds_are_those_of_the_modules() -> None:
    settings = chain()
    for item in items(settings.search_space(), settings):
        counted = 0.0

        def hear(layer: torch.nn.Module, x: tuple[torch.Tensor, ...], y: torch.Tensor) -> None:
            nonlocal counted
            counted += y[0].numel() * layer.weight[0].numel()  # type: ignore[operator]

        net = module(item).eval()
        for layer in net.modules():
            if isinstance(layer, torch.nn.Conv2d):
                layer.register_forward_hook(hear)  # type: ignore[arg-type]
        net(torch.zeros(1, item.c_in, item.side, item.side))
        assert multiply_adds(item) == counted, item.key


def test_a_chain_is_as_wide_and_small_as_its_reductions_say_and_its_skips_are_left_out() -> None:
    space = space_named("mbconv", 4, reductions=(2,))
    assert space.cells["chain"] == chain_cell(4, space.cells["chain"].ops, (2,))
    net = ChainSupernet(space, 1, 3, channels=4, cells=4, reductions=(2,))
    assert [len(mixed.candidates) for mixed in net.cells] == [7, 7, 6, 7]  # type: ignore[union-attr, arg-type]
    genes = [[["mbconv_3x3_e3", 0]], [["skip_connect", 1]], [["mbconv_7x7_e6", 2]], [["skip_connect", 3]]]
    genotype = Genotype.from_json({"space": "mbconv", "cells": {"chain": {"nodes": genes, "output": [4], "inputs": 1}}})
    fixed = ChainNetwork(genotype, 1, 3, channels=4, cells=4, reductions=(2,))
    assert len(fixed.cells) == 2 and fixed(torch.zeros(2, 1, 8, 8)).shape == (2, 3)


def test_the_derived_chain_is_the_supernet_under_its_gates() -> None:
    space = space_named("mbconv", 2, reductions=(1,))
    net = ChainSupernet(space, 1, 3, channels=4, cells=2, reductions=(1,)).double()
    genes = [[["skip_connect", 0]], [["mbconv_5x5_e3", 1]]]
    genotype = Genotype.from_json({"space": "mbconv", "cells": {"chain": {"nodes": genes, "output": [2], "inputs": 1}}})
    fixed = ChainNetwork(genotype, 1, 3, channels=4, cells=2, reductions=(1,)).double().train()
    theirs = dict(net.named_parameters())
    with torch.no_grad():
        for name, p in fixed.named_parameters():
            name = name.replace("cells.0.", "cells.1.candidates.mbconv_5x5_e3.")
            if name in theirs:
                p.copy_(theirs[name])
    ops = space.cells["chain"].ops
    hot = torch.zeros(2, len(ops), dtype=torch.float64)
    hot[0, ops.index("skip_connect")] = hot[1, ops.index("mbconv_5x5_e3")] = 1
    x = torch.randn(5, 1, 8, 8, dtype=torch.float64)
    assert torch.allclose(fixed(x), net(x, Mix({"chain": hot}))[0], atol=1e-10)


def test_latency_is_measured_once_and_asked_for_where_it_is_missing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DARTS_LATENCY", str(tmp_path / "latency.json"))
    settings = chain(cells=2)
    with pytest.raises(BadInput, match="measure it"):
        costs(settings.search_space(), settings, "latency")
    monkeypatch.setattr(latency, "REPEATS", 3)
    found = latency.measure_all(settings)
    assert found["about"]["torch"] == torch.__version__ and all(s > 0 for s in found["seconds"].values())
    table = costs(settings.search_space(), settings, "latency")["chain"]
    legal = settings.search_space().cells["chain"].legal_array()
    assert ((table > 0) == legal).all()
    (tmp_path / "latency.json").write_text('{"about": {}, "seconds": {"x": -1}}')
    with pytest.raises(BadInput, match="seconds"):
        latency.table()


@pytest.mark.parametrize("space, reductions", [("darts", "thirds"), ("nb3", "middle"), ("tiny", "none")])
def test_costs_of_cells_are_sums_over_their_places(space: str, reductions: str) -> None:
    settings = SearchConfig.from_dict(
        {"dataset": "digits", "space": space, "cells": 3, "channels": 4, "reductions": reductions}
    )
    found = costs(settings.search_space(), settings, "macs")
    for kind, cell in settings.search_space().cells.items():
        convolution = next(o for o, op in enumerate(cell.ops) if "conv" in op)
        assert (found[kind][:, convolution] > 0).all()
        assert not found[kind][:, cell.ops.index("none")].any() if "none" in cell.ops else True


def test_a_method_that_needs_cells_is_refused_on_a_chain_in_a_sentence() -> None:
    settings = config(space="mbconv", cells=3, strategy="pc-darts", share=2)
    with pytest.raises(BadInput, match="chain"):
        Search(pcdarts, task(settings), settings, Host())


def test_a_proxyless_search_ends_with_a_chain() -> None:
    settings = config(space="mbconv", cells=3, strategy="proxyless", every=2, warm_up=0.0)
    subject = task(settings, torch.float32)
    last = list(strategy_named("proxyless")(subject, settings, Host()))[-1]
    assert isinstance(last, Result)
    x, _ = subject.batch("weights", 0, 0)
    assert subject.network(Genotype.from_json(last.genotype))(x).shape == (len(x), 3)
