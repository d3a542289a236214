"""Each method's formula against numbers worked out by hand, closed forms, or those of the released codes."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from small import config, task

from darts_core.events import Step
from darts_core.genotype import Gene
from darts_core.methods.dartspt import accuracy_without, missed_most
from darts_core.methods.drnas import dirichlet, widened
from darts_core.methods.fairdarts import fairdarts
from darts_core.methods.gdas import gdas
from darts_core.methods.maxw import maxw
from darts_core.methods.pdarts import at_most, fewer, pdarts
from darts_core.methods.robustdarts import robustdarts
from darts_core.methods.snas import snas
from darts_core.mix import EDGE, Alphas, Mix
from darts_core.nets.fast import FastSupernet
from darts_core.nets.kernels import Kernels, build
from darts_core.nets.mixed import Supernet, shuffled
from darts_core.search import parts
from darts_core.search.bilevel import Host, Search, Snapshot
from darts_core.search.hypergrad import clipped_at
from darts_core.search.method import Course, Hyper, Loss, Method, Moment, Objective, Trained, softmax_rows
from darts_core.space import SearchSpace, conv_cell, space_named
from darts_core.strategies import STRATEGIES

SKIP = "skip_connect"
S2 = space_named("s2", 1, reduce=False)  # two edges, {skip, sep_conv_3x3}


def alphas(rows: list[list[float]], space: SearchSpace = S2) -> Alphas:
    cell = space.cells["normal"]
    return Alphas({"normal": torch.tensor(rows).double()}, {"normal": torch.from_numpy(cell.legal_array())})


def at(phase: str = "arch", epoch: int = 0, epochs: int = 1, seed: int = 0, **more: Any) -> Moment:
    return Moment(phase, epoch, epoch / epochs, torch.Generator().manual_seed(seed), epochs, **more)


# Max-W ------------------------------------------------------------------------------------------------------


def test_max_w_weighs_the_strongest_one_and_the_others_what_they_lag_behind_it() -> None:
    # softmax(ln 3, 0) = (3/4, 1/4): weights 1 and 1 - 3/4 + 1/4 = 1/2
    found = maxw().relax(alphas([[math.log(3), 0.0], [0.0, 0.0]]), at()).ops["normal"]
    torch.testing.assert_close(found, torch.tensor([[1.0, 0.5], [1.0, 1.0]]).double())


@pytest.mark.parametrize(("attached", "expected"), [(True, -5.0), (False, 2.0)])
def test_the_winner_of_max_w_is_pushed_by_what_the_others_do_not_by_its_own_activation(
    attached: bool, expected: float
) -> None:
    """dL/dp* = G* - sum G = -sum of the others' G; detached it is G*, as in DARTS."""
    p = torch.tensor([[0.6, 0.3, 0.1]], requires_grad=True)
    base = Method(relax=lambda a, m: Mix({"normal": p}))
    weights = parts.max_w(attached)(base).relax(alphas([[0.0, 0.0]] * 2), at()).ops["normal"]
    g = torch.tensor([[2.0, 1.0, 4.0]])  # G, the loss gradient along each operation's output
    (grad,) = torch.autograd.grad((weights * g).sum(), p)
    torch.testing.assert_close(grad, torch.tensor([[expected, 1.0, 4.0]]))


def test_max_w_leaves_what_an_edge_may_not_hold_at_zero() -> None:
    given = alphas([[0.0, 5.0], [0.0, 0.0]])
    given.legal["normal"][0, 1] = False
    assert maxw().relax(given, at()).ops["normal"].tolist() == [[1.0, 0.0], [1.0, 1.0]]


# FairDARTS --------------------------------------------------------------------------------------------------


def logit(s: float) -> float:
    return math.log(s / (1 - s))


def test_zero_one_loss_by_hand() -> None:
    given = alphas([[logit(0.9), logit(0.2)], [0.0, 0.0]])  # distances from one half: 0.4, 0.3, 0, 0
    assert float(parts.zero_one_loss(given)) == pytest.approx(-(0.16 + 0.09) / 4)
    assert float(parts.zero_one_loss(given, "l1")) == pytest.approx(-0.7 / 4)


def test_fairdarts_adds_the_loss_with_its_weight_and_starts_at_one_half_without_none() -> None:
    method = fairdarts(weight=10)
    given = alphas([[logit(0.9), logit(0.2)], [0.0, 0.0]])
    mix = method.relax(given, at())
    torch.testing.assert_close(mix.ops["normal"][0], torch.tensor([0.9, 0.2]).double())
    assert float(method.penalty(given, mix, at())) == pytest.approx(-0.625)
    start = method.init(space_named("darts"), torch.Generator())
    assert float(start.ops["normal"].abs().sum()) == 0
    assert not start.legal["normal"][:, 0].any() and start.legal["normal"][:, 1:].all()


THREE = SearchSpace("tiny", {"normal": conv_cell(2, ("max_pool_3x3", SKIP, "sep_conv_3x3"))})
# edges 0-2, 1-2, 0-3, 1-3, 2-3
SIGMOIDS = [[0.9, 0.95, 0.1], [0.2, 0.3, 0.8], [0.86, 0.97, 0.99], [0.5, 0.6, 0.7], [0.1, 0.1, 0.9]]


@pytest.mark.parametrize(
    ("parser", "nodes"),
    [
        ("darts", [[(SKIP, 0), ("sep_conv_3x3", 1)], [("sep_conv_3x3", 0), ("sep_conv_3x3", 2)]]),
        ("threshold_sparse", [[(SKIP, 0)], [("sep_conv_3x3", 0), ("sep_conv_3x3", 2)]]),
        # at most the two largest of an edge, in ascending order; max pooling of edge 0-3 passed, and is the third
        ("threshold_edge", [[("max_pool_3x3", 0), (SKIP, 0)], [(SKIP, 0), ("sep_conv_3x3", 0), ("sep_conv_3x3", 2)]]),
    ],
)
def test_the_three_parsers_of_fairdarts(parser: str, nodes: list[list[tuple[str, int]]]) -> None:
    mix = Mix({"normal": torch.tensor(SIGMOIDS)})
    found = fairdarts(parser=parser).derive(Trained(THREE, alphas(SIGMOIDS, THREE), mix))
    assert found.cells["normal"].nodes == tuple(tuple(Gene(*g) for g in node) for node in nodes)
    assert found.cells["normal"].output == (2, 3)


def test_a_node_below_the_threshold_is_left_out_of_the_output() -> None:
    mix = Mix({"normal": torch.tensor(SIGMOIDS[:2] + [[0.1, 0.1, 0.1]] * 3)})
    found = fairdarts(parser="threshold_edge").derive(Trained(THREE, alphas(SIGMOIDS, THREE), mix))
    assert found.cells["normal"].nodes[1] == () and found.cells["normal"].output == (2,)


# PC-DARTS ---------------------------------------------------------------------------------------------------


def test_the_channel_shuffle_interleaves_the_groups() -> None:
    x = torch.arange(8.0).view(1, 8, 1, 1)
    assert shuffled(x, 4).flatten().tolist() == [0, 2, 4, 6, 1, 3, 5, 7]


def test_edge_weights_are_a_softmax_over_the_edges_into_each_node_and_multiply_in_derivation() -> None:
    logits = torch.tensor([math.log(3), 0.0, 0.0, math.log(2), 0.0])
    given = alphas([[0.0] * 3] * 5, THREE)._replace(edges={"normal": logits})
    found = parts.edge_softmax(given, THREE)["normal"]
    torch.testing.assert_close(found, torch.tensor([0.75, 0.25, 0.25, 0.5, 0.25]))
    mix = parts.edge_norm()(Method()).relax(given, at(space=THREE))
    torch.testing.assert_close(mix.weights()["normal"][0].float(), torch.full((3,), 0.25))


def nets(space: SearchSpace, channels: int = 4, **net: Any) -> tuple[Supernet, FastSupernet]:
    made = []
    for _ in range(2):
        torch.manual_seed(4)
        made.append(Supernet(space, 2, 3, channels, 3, (1,) if "reduce" in space.cells else (), 1, **net).double())
    return made[0], FastSupernet(made[1])


def some_mix(space: SearchSpace, **more: Any) -> Mix:
    g = torch.Generator().manual_seed(5)
    draw = lambda *shape: torch.rand(shape, generator=g, dtype=torch.float64).requires_grad_()  # noqa: E731
    ops = {k: draw(*c.shape) for k, c in space.cells.items()}
    return Mix(ops, {k: draw(len(c.edges)) for k, c in space.cells.items()}, **more)


def outcome(net: Any, mix: Mix, side: int) -> list[torch.Tensor]:
    x = torch.randn(3, 2, side, side, generator=torch.Generator().manual_seed(6), dtype=torch.float64)
    logits = net(x, mix)[0]
    wanted = [*mix.ops.values(), *mix.edges.values(), *([mix.extra_skip] if mix.extra_skip is not None else [])]
    loss = (logits * torch.arange(9.0, dtype=torch.float64).view(3, 3)).sum()
    return [logits, *torch.autograd.grad(loss, wanted, materialize_grads=True)]


@pytest.mark.parametrize("side", [8, 7])
@pytest.mark.parametrize(
    "net", [{}, {"partial_channels": 2}, {"extra_skip": True}, {"partial_channels": 2, "extra_skip": True}]
)
def test_every_supernet_agrees_on_partial_channels_edge_weights_and_the_auxiliary_skip(
    net: dict[str, Any], side: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    space = space_named("tiny")
    reference, fast = nets(space, **net)
    beta = torch.tensor(0.3, dtype=torch.float64, requires_grad=True) if "extra_skip" in net else None
    mix = some_mix(space, extra_skip=beta)
    expected = outcome(reference, mix, side)
    forms: list[Any] = [fast]
    monkeypatch.delenv(build.OFF, raising=False)
    if "partial_channels" not in net and build.ready() is not None:
        from darts_core.nets.compiled import CompiledSupernet

        forms.append(CompiledSupernet(nets(space, **net)[0], Kernels(build.build())))
    for form in forms:
        for ours, theirs in zip(expected, outcome(form, mix, side), strict=True):
            torch.testing.assert_close(theirs, ours, rtol=1e-8, atol=1e-9)


def test_with_k_channels_the_operations_see_the_first_share_and_the_rest_passes_by() -> None:
    reference, _ = nets(space_named("s2", 1, reduce=False), partial_channels=4)
    edge: Any = reference.cells[0].edges[0]  # type: ignore[index]
    x = torch.arange(4.0, dtype=torch.float64).view(1, 4, 1, 1).expand(1, 4, 2, 2)
    y = edge(x, torch.tensor([0.5, 0.0], dtype=torch.float64))  # half a skip on the first channel
    assert y[0, :, 0, 0].tolist() == [0, 1, 2, 3]  # channel 0 halved is 0; four groups of one stay in place


def test_the_search_network_of_the_paper_has_the_published_number_of_parameters() -> None:
    made = Supernet(space_named("darts"), 3, 10, partial_channels=4)
    assert sum(p.numel() for p in made.parameters()) == 299_578


def test_drop_path_of_an_edge_drops_whole_samples() -> None:
    reference, fast = nets(S2)
    mix = Mix({"normal": torch.tensor([[1.0, 0.0], [0.0, 0.0]]).double()}, drop={EDGE: torch.tensor(0.5).double()})
    x = torch.ones(200, 4, 3, 3, dtype=torch.float64)
    torch.manual_seed(0)
    edge: Any = reference.cells[0].edges[0]  # type: ignore[index]
    y = edge(x, mix.ops["normal"][0], mix)
    assert set(y.flatten().tolist()) == {0.0, 2.0} and 60 < int((y[:, 0, 0, 0] == 0).sum()) < 140
    fan: Any = fast.cells[0].fans["0"]  # type: ignore[index]
    z = fan(x, mix.ops["normal"], mix)
    assert set(z.flatten().tolist()) == {0.0, 2.0} and 60 < int((z[:, 0, 0, 0, 0] == 0).sum()) < 140


# Stop rules -------------------------------------------------------------------------------------------------

SEQUENCES: list[tuple[Callable[[int], float], tuple[int, int] | None]] = [
    (lambda e: 0.1 if e < 30 else 0.2, (32, 20)),
    (lambda e: 0.1 * 1.034**e, (22, 10)),
    (lambda e: 0.1 * 1.033**e, None),
    (lambda e: 0.1 * 1.05 ** max(0, e - 16), (26, 14)),
]


def course(value: Callable[[int], float], until: int, epochs: int = 50) -> Course:
    found = [
        {"epoch": e, "probes": {"eigenvalue": value(e)} if e % 2 == 0 or e == epochs - 1 else {}}
        for e in range(until + 1)
    ]
    return Course(found, epochs, {"w_decay": 3e-4})


@pytest.mark.parametrize(("value", "expected"), SEQUENCES)
def test_the_eigenvalue_stop_is_that_of_the_released_code(
    value: Callable[[int], float], expected: tuple[int, int] | None
) -> None:
    stop = robustdarts().stop
    verdicts = ((e, stop(course(value, e))) for e in range(50))
    first = next(((e, v.epoch) for e, v in verdicts if v is not None), None)
    assert first == expected


def test_the_adaptive_form_goes_back_with_ten_times_the_weight_decay_until_the_largest() -> None:
    stop = robustdarts(adapt="l2").stop
    seen = course(SEQUENCES[0][0], 32)
    found = stop(seen)
    assert found is not None and found.epoch == 20 and found.change == {"w_decay": pytest.approx(3e-3)}
    last = stop(seen._replace(settings={"w_decay": 0.03}))
    assert last is not None and not last.change


# beta-DARTS, DARTS-, P-DARTS --------------------------------------------------------------------------------


def test_the_beta_penalty_is_the_mean_logsumexp_growing_with_the_epochs() -> None:
    given = alphas([[0.0, 0.0], [math.log(3), 0.0]])  # logsumexp: ln 2 and ln 4
    penalty = parts.beta(50)(Method()).penalty
    expected = (math.log(2) + math.log(4)) / 2
    for epoch in (0, 25, 100):
        found = float(penalty(given, Mix({}), at(epoch=epoch, epochs=100)))
        assert found == pytest.approx(0.5 * epoch * expected)


@pytest.mark.parametrize(
    ("fall", "values"), [("linear", [1, 0.5, 0.02]), ("cosine", [1, 0.5, 0.000987]), ("slow", [1, 0.707107, 0.031411])]
)
def test_the_auxiliary_skip_fades_as_in_the_code(fall: str, values: list[float]) -> None:
    method = parts.extra_skip(1.0, fall)(Method())
    for epoch, value in zip((0, 25, 49), values, strict=True):
        beta = method.relax(alphas([[0.0, 0.0]] * 2), at(epoch=epoch, epochs=50)).extra_skip
        assert beta is not None and float(beta) == pytest.approx(value, abs=1e-6)


def test_skip_dropout_of_pdarts_over_a_stage_of_25_epochs() -> None:
    rates = [0.4 * parts.skip_dropout_share(e, 25) for e in (0, 9, 10, 15)]
    assert rates == pytest.approx([0.4 * 24 / 25, 0.4 * 15 / 25, 0.4, 0.4 * math.exp(-1)])


def test_skip_dropout_of_pdarts_begins_higher_in_each_stage_as_the_authors_command() -> None:
    """0.1, 0.4, 0.7 at the start of the three stages, times (25 - 0 - 1) / 25 in the first epoch of each."""
    method = pdarts(skip_dropout=0.1, more_dropout=0.3)
    drawn, rates = method.init(space_named("tiny"), torch.Generator()), []
    for stage in range(3):
        now = at(epoch=25 * stage, epochs=75, stage=stage, stage_epochs=25)
        rates.append(method.relax(drawn, now).dropout[SKIP])
    assert rates == pytest.approx([0.1 * 0.96, 0.4 * 0.96, 0.7 * 0.96])


def test_the_alphas_gradient_of_pdarts_is_clipped_search_by_search() -> None:
    """Two searches of two tensors each: norms 10 and 5 under a limit of 5; the first is halved, the second stays."""
    grads = [torch.tensor([6.0]), torch.tensor([8.0]), torch.tensor([3.0]), torch.tensor([4.0])]
    loss = Loss(torch.zeros(()), None, {})
    objective = Objective(lambda w, a: loss, lambda w, a: loss, lambda w, g: w, {}, Alphas({}, {}), 0.1, searches=2)
    found = clipped_at(5.0, lambda given: Hyper(grads, loss))(objective)
    assert [float(g) for g in found.grads] == pytest.approx([3.0, 4.0, 3.0, 4.0], rel=1e-5) and found.loss is loss


def test_stages_of_pdarts_keep_8_then_5_then_3_operations_and_none_goes_first_in_the_last() -> None:
    space = space_named("darts", 1, reduce=False)
    weights = torch.tensor([[0.30, 0.05, 0.06, 0.20, 0.15, 0.10, 0.08, 0.06]] * 2)
    legal = torch.ones(2, 8, dtype=torch.bool)
    for stage, expected in ((1, [0, 3, 4, 5, 6]), (2, [3, 4, 5])):
        given = Alphas({"normal": weights}, {"normal": legal})
        trained = Trained(space, given, Mix({"normal": weights * legal}), whole=space)
        legal = fewer(stage, trained, torch.Generator()).alphas.legal["normal"]
        assert legal[0].nonzero().flatten().tolist() == expected


def test_pdarts_takes_the_weakest_skips_away_and_ties_go_to_the_later_edge() -> None:
    rows = [[0.1, 0.6, 0.3], [0.1, 0.5, 0.4], [0.1, 0.8, 0.1], [0.2, 0.7, 0.1], [0.2, 0.7, 0.1]]
    trained = Trained(THREE, alphas(rows, THREE), Mix({"normal": torch.tensor(rows)}))
    loose, tight = at_most(9), at_most(2)
    # node 3: edges 0-3 (0.8) and, of the equal 1-3 and 2-3, the later
    assert loose(trained).cells["normal"].nodes[1] == (Gene(SKIP, 0), Gene(SKIP, 2))
    assert tight(trained).count(SKIP) == 2
    assert tight(trained).cells["normal"].nodes[0] == (Gene("sep_conv_3x3", 0), Gene("sep_conv_3x3", 1))


# Samplers ---------------------------------------------------------------------------------------------------


def test_gdas_runs_one_operation_per_edge_with_the_gradient_of_the_soft_sample() -> None:
    given = alphas([[0.4, 0.1], [0.0, 0.3]])
    leaf = given.ops["normal"].requires_grad_()
    mix = gdas().relax(given, at("weights", seed=3))
    row = mix.ops["normal"]
    assert row.sum(-1).tolist() == [1.0, 1.0] and mix.active is not None
    assert [set(r.nonzero().flatten().tolist()) for r in row] == list(mix.active["normal"])
    again = gdas().relax(given, at("weights", seed=3)).ops["normal"]
    assert torch.equal(row, again)
    (grad,) = torch.autograd.grad(row[0].max(), leaf)
    assert grad[0].abs().min() > 0 and float(grad[0].sum()) == pytest.approx(0, abs=1e-9) and not grad[1].any()


def test_the_reference_net_runs_active_operations_only_and_the_fast_one_agrees() -> None:
    space = space_named("tiny")
    reference, fast = nets(space)
    hot = {k: torch.eye(3).double()[torch.arange(len(c.edges)) % 3] for k, c in space.cells.items()}
    active = {k: tuple(frozenset(row.nonzero().flatten().tolist()) for row in h) for k, h in hot.items()}
    mix = Mix({k: h.requires_grad_() for k, h in hot.items()}, active=active)
    one, two = outcome(reference, mix, 8)[0], outcome(fast, mix, 8)[0]
    torch.testing.assert_close(one, two)
    torch.testing.assert_close(one, outcome(reference, mix._replace(active=None), 8)[0])


def test_samples_at_low_temperature_are_drawn_with_the_probabilities_of_the_softmax() -> None:
    """The Gumbel-max trick: how often each operation wins is softmax(alpha)."""
    given = alphas([[math.log(3), 0.0], [0.0, 0.0]])
    wins = sum(gdas().relax(given, at("weights", seed=s)).ops["normal"][:, 0] for s in range(600)) / 600
    assert float(wins[0]) == pytest.approx(0.75, abs=0.06) and float(wins[1]) == pytest.approx(0.5, abs=0.07)
    soft = snas().relax(given, at("arch", epoch=1, epochs=2)).ops["normal"]
    torch.testing.assert_close(soft.sum(-1), torch.ones(2).double())


def test_the_mean_of_dirichlet_samples_is_elu_plus_one_over_its_sum() -> None:
    given = alphas([[1.0, -1.0], [0.0, 0.0]])  # elu + 1: 2 and 1/e
    mean = sum(dirichlet(given, at("arch", seed=s)).ops["normal"] for s in range(600)) / 600
    assert float(mean[0, 0]) == pytest.approx(2 / (2 + math.exp(-1)), abs=0.04)
    assert float(mean[1, 0]) == pytest.approx(0.5, abs=0.04)


def test_dirichlet_samples_pass_gradients_and_leave_what_is_not_legal_at_zero() -> None:
    given = alphas([[0.5, 0.0], [0.0, 0.0]])
    given.legal["normal"][1, 1] = False
    leaf = given.ops["normal"].requires_grad_()
    row = dirichlet(given, at("arch")).ops["normal"]
    assert row[1].tolist() == [1.0, 0.0]
    (grad,) = torch.autograd.grad(row[0, 0], leaf)
    assert float(grad[0, 0]) > 0 > float(grad[0, 1])


def test_widening_copies_channels_alike_in_all_layers_of_an_operation() -> None:
    name = "cells.0.edges.0.candidates.sep_conv_3x3"
    old = {
        f"{name}.1.weight": torch.arange(2.0).view(2, 1, 1, 1),
        f"{name}.2.weight": torch.arange(4.0).view(2, 2, 1, 1),
    }
    shapes = {f"{name}.1.weight": torch.Size([4, 1, 1, 1]), f"{name}.2.weight": torch.Size([4, 4, 1, 1])}
    new = widened(old, shapes, torch.Generator().manual_seed(1))
    copies = new[f"{name}.1.weight"].flatten().long()
    assert copies[:2].tolist() == [0, 1]
    assert torch.equal(new[f"{name}.2.weight"][:, :, 0, 0], old[f"{name}.2.weight"][:, :, 0, 0][copies][:, copies])


# SmoothDARTS, DARTS-PT --------------------------------------------------------------------------------------


def test_random_perturbation_stays_in_its_box_before_rows_are_rescaled_and_only_in_weight_steps() -> None:
    given = alphas([[0.0, 0.0], [2.0, -2.0]])
    method = parts.perturbed("random", 0.3)(Method())
    clean = softmax_rows(given)["normal"]
    assert torch.equal(method.relax(given, at("arch")).ops["normal"], clean)
    moved = method.relax(given, at("weights", epoch=50, epochs=100)).ops["normal"]
    torch.testing.assert_close(moved.sum(-1), torch.ones(2).double())
    size = 0.03 + (0.3 - 0.03) / 2
    assert not torch.equal(moved, clean) and float((moved - clean)[0].abs().max()) <= size / (1 - size)


def test_the_adversarial_mix_raises_the_loss_and_the_clean_one_stays_where_nothing_is_worse() -> None:
    given = alphas([[0.0, 0.0], [0.0, 0.0]])
    method = parts.perturbed("adversarial", 0.3)(Method())
    slope = lambda mix: mix.ops["normal"][0, 0] - mix.ops["normal"][0, 1]  # noqa: E731
    found = method.relax(given, at("weights", epoch=1, epochs=1, loss_at=slope)).ops["normal"]
    assert float(found[0, 0]) == pytest.approx(0.8, abs=0.03)
    bowl = lambda mix: -(mix.ops["normal"] - 0.5).square().sum()  # noqa: E731  # the clean mix is the worst
    still = method.relax(given, at("weights", epoch=1, epochs=1, loss_at=bowl)).ops["normal"]
    assert torch.equal(still, torch.full((2, 2), 0.5).double())


def test_darts_pt_keeps_the_operation_that_the_supernet_misses_most() -> None:
    given = alphas([[3.0, 0.0], [0.0, 0.0]])
    seen: list[Mix] = []

    def accuracy(mix: Mix) -> float:
        seen.append(mix)
        return 0.4 if mix.ops["normal"][0, 1] == 0 else 0.9  # it misses the weaker-looking one

    relaxed = lambda a: Mix(softmax_rows(a))  # noqa: E731
    trained = Trained(S2, given, relaxed(given), accuracy, relaxed)
    assert missed_most("normal", S2.cells["normal"], 0, given, trained).tolist() == [False, True]
    accuracy_without("normal", (0, 0), given, trained)
    torch.testing.assert_close(seen[-1].ops["normal"][0], torch.tensor([0.0, 1 / (1 + math.exp(3))]).double())


# Stages and going back, in the loop ---------------------------------------------------------------------------


def test_the_projection_of_darts_pt_has_a_cosine_of_its_own_from_a_tenth_of_the_rate() -> None:
    settings = config(strategy="darts-pt", epochs=6, w_lr=0.2, w_lr_min=0.01, projected=1 / 3)
    steps = [e for e in STRATEGIES["darts-pt"].strategy(task(settings), settings, Host()) if isinstance(e, Step)]
    per_epoch = {step.epoch: step.metrics["w_lr"] for step in steps}
    half = math.sqrt(0.5) / 2  # four epochs from 0.2 toward 0.01, then two from 0.02: cos of 0, 45, 90, 135; 0, 90
    first = [0.2, 0.01 + 0.19 * (0.5 + half), 0.105, 0.01 + 0.19 * (0.5 - half)]
    assert list(per_epoch.values()) == pytest.approx([*first, 0.02, 0.015])


def test_stages_begin_where_they_should_with_new_weights_and_the_rate_starts_anew() -> None:
    settings = config(strategy="p-darts", epochs=3, more_cells=2, nodes=1, rest=0.0, batch=16)
    search = Search(STRATEGIES["p-darts"].factory, task(settings, torch.float32), settings, Host())
    found = list(search.run())
    from darts_core.events import StageStarted

    assert [(e.stage, e.step) for e in found if isinstance(e, StageStarted)] == [(1, 2), (2, 4)]
    steps = [e for e in found if isinstance(e, Step)]
    assert [s.stage for s in steps] == [0, 0, 1, 1, 2, 2]
    assert len({s.metrics["w_lr"] for s in steps}) == 1  # each stage is one epoch long here
    assert len(search.net.cells) == 3 + 2 * 2


def test_an_adaptive_search_goes_back_and_is_resumed_exactly_from_every_epoch() -> None:
    """A rule that fires once: the epoch goes back, the count of steps grows, and the settings change for good."""
    from darts_core.events import Rewound
    from darts_core.search.method import Verdict
    from darts_core.search.state import from_bytes

    def once(course: Course) -> Verdict | None:
        now = course.history[-1]["epoch"]
        return Verdict(0, "again", {"w_decay": 0.02}) if now == 2 and course.settings["w_decay"] < 0.02 else None

    factory = lambda **options: Method(stop=once)  # noqa: E731
    settings = config(epochs=4, nodes=1, batch=16)

    def run(start: Any, kept: dict[int, bytes]) -> list[Any]:
        host = Host(start, recall=lambda epoch: from_bytes(kept[epoch], "memory"))
        found = []
        for event in Search(factory, task(settings, torch.float32), settings, host).run():
            if isinstance(event, Snapshot):
                kept[event.state.epoch] = event.state.to_bytes()
                event = ("state", event.state.epoch, event.state.step, kept[event.state.epoch])
            found.append(event)
        return found

    whole = run(None, {})
    (back,) = [e for e in whole if isinstance(e, Rewound)]
    assert (back.step, back.epoch, back.to_epoch, back.change) == (6, 3, 1, {"w_decay": 0.02})
    steps = [e for e in whole if isinstance(e, Step)]
    assert [s.step for s in steps] == list(range(1, 13))
    assert [s.epoch for s in steps] == [0, 0, 1, 1, 2, 2, 1, 1, 2, 2, 3, 3]
    states = [e for e in whole if isinstance(e, tuple)]
    for n, (_, _, step, data) in enumerate(states[1:-1], 1):
        kept = {e: d for _, e, _, d in states[: n + 1]}
        rest = run(from_bytes(data, "memory"), kept)
        assert [e for e in rest if isinstance(e, Step)] == steps[step:], f"from step {step}"


def test_a_card_says_what_a_recorded_comparison_found() -> None:
    from tools.catalogue import measured, verdict

    outcome = {"skips": 6, "edges": 6, "accuracy": 0.8}
    row = {"method": "darts", "outcomes": [outcome, {**outcome, "skips": 5, "accuracy": 0.9}]}
    assert measured(row).startswith("2 seeds") and "6 5 skips of 6; 2 of 2 cells collapsed" in measured(row)
    assert measured(row).endswith("0.850 (0.800 to 0.900)")
    counts = lambda *skips: {"outcomes": [{"skips": s, "edges": 6, "accuracy": None} for s in skips]}  # noqa: E731
    darts = counts(6, 6, 5)
    assert verdict(counts(4, 3, 0), darts) == "Cures it. " and verdict(counts(6, 5, 6), darts) == "Does not help. "
    assert verdict(counts(6, 4, 4), darts) == "Helps on 2 of 3 seeds. " and verdict(darts, darts) == ""
