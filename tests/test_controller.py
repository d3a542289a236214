"""The LSTM controller of ENAS: an exact distribution over cells, moved by REINFORCE, kept in checkpoints."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Iterator
from itertools import combinations, product
from typing import Any

import numpy as np
import pytest
import torch
from small import config, task
from torch import Tensor

from darts_core import truth
from darts_core.baselines.controller import REDUCED, UNITS, Controller
from darts_core.baselines.propose import Trial
from darts_core.baselines.trials import Trials
from darts_core.config import SearchConfig
from darts_core.errors import BadInput
from darts_core.events import Applied, Order, Step
from darts_core.genotype import CellGenes, Gene, Genotype, every_genotype, genotype_of
from darts_core.search.bilevel import Host, Snapshot
from darts_core.search.state import State, from_bytes
from darts_core.space import SearchSpace, conv_cell, dense_cell, space_named
from darts_core.strategies import STRATEGIES, strategy_named

OPS = ("none", "skip_connect", "nor_conv_3x3")
DENSE = SearchSpace("dense", {"normal": dense_cell(2, OPS)})
KEPT = SearchSpace("kept", {kind: conv_cell(2, OPS, 1) for kind in ("normal", "reduce")})


def wild(space: SearchSpace, bound: float = 3.0) -> Controller:
    """A controller far from uniform."""
    found = Controller(space, bound, torch.Generator().manual_seed(1))
    with torch.no_grad():
        for parameter in found.parameters():
            parameter.mul_(15)
    return found


def all_kept() -> list[Genotype]:
    """Every cell of KEPT: per kind and node one of its edges with one of two operations."""
    cell = KEPT.cells["normal"]
    nodes = [[(Gene(op, s),) for s in range(2 + node) for op in OPS[1:]] for node in range(2)]
    kinds = [CellGenes(both, cell.output) for both in product(*nodes)]
    return [Genotype("kept", {"normal": a, "reduce": b}) for a, b in product(kinds, kinds)]


@pytest.mark.parametrize(("space", "cells"), [(DENSE, list(every_genotype(DENSE))), (KEPT, all_kept())])
def test_the_probabilities_of_all_cells_add_up_to_one(space: SearchSpace, cells: list[Genotype]) -> None:
    policy = wild(space)
    with torch.no_grad():
        p = torch.stack([policy.of(space, genotype)[0].exp() for genotype in cells])
    assert len(cells) in (27, 24 * 24) and float(p.sum()) == pytest.approx(1, abs=1e-4)
    assert float(p.max()) > 5 / len(cells), "far from uniform, else this shows little"


def test_a_set_of_edges_is_drawn_in_one_order_only() -> None:
    """Two of three edges of the last node: three sets, whose probabilities add up to one."""
    space = SearchSpace("two", {"normal": conv_cell(2, ("skip_connect",), 2)})
    policy, found = wild(space), []
    for pair in combinations(range(3), 2):
        first = tuple(Gene("skip_connect", s) for s in (0, 1))
        nodes = (first, tuple(Gene("skip_connect", s) for s in pair))
        found.append(float(policy.of(space, Genotype("two", {"normal": CellGenes(nodes, (2, 3))}))[0].exp().detach()))
    assert sum(found) == pytest.approx(1, abs=1e-5) and max(found) - min(found) > 0.02


def test_cells_are_drawn_as_often_as_their_probability_says() -> None:
    policy, cells = wild(DENSE), list(every_genotype(DENSE))
    with torch.no_grad():
        p = [float(policy.of(DENSE, genotype)[0].exp()) for genotype in cells]
    rng = random.Random(0)
    draws = Counter(cells.index(policy.draw(DENSE, rng)) for _ in range(600))
    likely = int(np.argmax(p))
    assert draws[likely] / 600 == pytest.approx(p[likely], abs=0.08)


def test_a_fresh_controller_is_nearly_uniform_and_never_certain() -> None:
    """Logits of operations stay within 1.1 / 2.5, however sure the weights are."""
    policy = Controller(DENSE, 1.1, torch.Generator().manual_seed(1))
    cells = list(every_genotype(DENSE))
    with torch.no_grad():
        fresh = [float(policy.of(DENSE, genotype)[0].exp()) for genotype in cells]
        policy.ops.bias[:] = torch.tensor([-100.0, 100.0, -100.0])
        skips = genotype_of("dense", "normal", DENSE.cells["normal"], ["skip_connect"] * 3)
        certain = float(policy.of(DENSE, skips)[0].exp())
    assert min(fresh) > 0.9 / 27 and max(fresh) < 1.1 / 27
    a = np.exp(1.1 / REDUCED)
    assert certain == pytest.approx((a / (a + 2 / a)) ** 3, rel=1e-5)
    assert policy.layers[0].hidden_size == UNITS == 32 and len(policy.layers) == 2


def test_the_entropy_of_a_uniform_policy_is_that_of_its_choices() -> None:
    policy = Controller(DENSE, 1.1, torch.Generator())
    with torch.no_grad():
        policy.ops.weight.zero_()
        policy.ops.bias.zero_()
    genotype = next(every_genotype(DENSE))
    assert float(policy.of(DENSE, genotype)[1].detach()) == pytest.approx(3 * np.log(3), rel=1e-5)


@pytest.fixture(autouse=True)
def a_table(monkeypatch: pytest.MonkeyPatch) -> None:
    """In this table a cell is the better the later it is listed."""
    rows = np.arange(729)[:, None] / 1000 + np.array([0.0, 0.0001])
    table = truth.Table("nb3", rows, rows, {})
    monkeypatch.setattr(truth, "table_of", lambda space, *rest: table if space == "nb3" else None)


def settings(**changes: Any) -> SearchConfig:
    return config(**{
        "strategy": "reinforce", "controller": "lstm", "score": "table", "space": "nb3", "reductions": "none",
        "epochs": 2, "samples": 2, **changes,
    })  # fmt: skip


def steps(chosen: SearchConfig, start: State | None = None, orders: dict[int, list[Order]] | None = None) -> Iterator:
    given = dict(orders or {})
    host = Host(start, lambda step: given.pop(step, []))
    return strategy_named("reinforce")(task(chosen, torch.float32), chosen, host)


def test_a_good_reward_makes_its_cell_likelier_and_a_bad_one_less_likely() -> None:
    chosen = settings(samples=2, rate=0.01)
    search = Trials(STRATEGIES["reinforce"].factory, task(chosen, torch.float32), chosen, Host())
    assert search.controller is not None
    cells = list(every_genotype(space_named("nb3")))
    good, bad = cells[700], cells[100]

    def chance(genotype: Genotype) -> float:
        assert search.controller is not None
        return float(search.controller.of(search.space(), genotype)[0].detach())

    before = chance(good), chance(bad)
    search.past = [Trial(cells[300], 0.5), Trial(cells[301], 0.5), Trial(good, 0.9), Trial(bad, 0.1)]
    assert search.learn() > 0
    assert chance(good) > before[0] and chance(bad) < before[1]


def test_the_gradient_is_that_of_finite_differences() -> None:
    policy = wild(DENSE).double()
    genotype = list(every_genotype(DENSE))[17]
    policy.of(DENSE, genotype)[0].backward()
    weight: Tensor = policy.layers[0].weight_hh  # type: ignore[assignment]
    assert weight.grad is not None
    place = tuple(int(i) for i in np.unravel_index(int(weight.grad.abs().argmax()), tuple(weight.shape)))
    values = []
    for shift in (1e-5, -1e-5):
        with torch.no_grad():
            weight[place] += shift
            values.append(float(policy.of(DENSE, genotype)[0]))
            weight[place] -= shift
    assert (values[0] - values[1]) / 2e-5 == pytest.approx(float(weight.grad[place]), rel=1e-5)


def test_resuming_equals_never_having_stopped_at_every_step() -> None:
    chosen = settings(epochs=2)
    whole = list(steps(chosen))
    record = [e for e in whole if isinstance(e, Step)]
    assert any(np.isfinite(e.metrics["a_grad_norm"]) for e in record)
    end = [e.state.to_bytes() for e in whole if isinstance(e, Snapshot)][-1]
    for at in range(1, len(record)):
        part = [e for e in steps(chosen, orders={at: [Order("x", "interrupt")]}) if isinstance(e, Snapshot)][-1]
        rest = list(steps(chosen, from_bytes(part.state.to_bytes(), "memory")))
        assert [e for e in rest if isinstance(e, Step)] == record[at:], at
        assert [e.state.to_bytes() for e in rest if isinstance(e, Snapshot)][-1] == end


def test_the_controller_may_not_be_left_out_of_a_checkpoint() -> None:
    chosen = settings(rate=0.5, epochs=4)
    whole = [e for e in steps(chosen) if isinstance(e, Step)]
    part = [e for e in steps(chosen, orders={6: [Order("x", "interrupt")]}) if isinstance(e, Snapshot)][-1]
    state = from_bytes(part.state.to_bytes(), "memory")
    blank = {k: torch.zeros_like(t) if k.startswith("controller.") else t for k, t in state.w_optimiser.items()}
    state.w_optimiser = blank
    assert [e for e in steps(chosen, state) if isinstance(e, Step)] != whole[6:]
    state.w_optimiser = {k: t for k, t in blank.items() if not k.startswith("controller.")}
    with pytest.raises(BadInput, match="of another controller"):
        list(steps(chosen, state))


@pytest.mark.parametrize("controller", ["table", "lstm"])
def test_a_ban_while_cells_wait_to_be_learned_from_is_obeyed(controller: str) -> None:
    """Cells drawn before the ban, which hold what is banned, have no probability any more and teach nothing."""
    orders = {n: [Order(f"d{n}", "ban", f"normal-{a}-{b}", "nor_conv_3x3")] for n, (a, b) in
              enumerate([(0, 1), (0, 2), (1, 2), (0, 3), (1, 3), (2, 3)], 1)}  # fmt: skip
    found = list(steps(settings(controller=controller, samples=5, epochs=5), orders=orders))
    assert all(e.accepted for e in found if isinstance(e, Applied))
    assert all(float(e.alphas["normal"][:, 2].max()) <= 1 for e in found if isinstance(e, Step))


@pytest.mark.slow
def test_it_learns_where_the_table_has_an_order() -> None:
    chosen = settings(epochs=200, trials=600, samples=4, rate=0.02, bound=5.0)
    scores = [e.metrics["val_accuracy"] for e in steps(chosen) if isinstance(e, Step)]
    assert np.mean(scores[-100:]) > 0.6, "cells drawn at random have 0.364"
