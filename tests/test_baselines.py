"""Random search, evolution and REINFORCE: what they propose, and that they keep what every strategy promises."""

from __future__ import annotations

import math
import random
from collections import Counter
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch
from small import config, task

from darts_core import truth
from darts_core.baselines.propose import Trial, evolved, log_probability, mutated, sampled
from darts_core.baselines.trials import Trials
from darts_core.config import SearchConfig, steerable
from darts_core.data import load
from darts_core.events import Applied, Epoch, Order, Result, Step, from_json, to_json
from darts_core.genotype import Genotype, every_genotype, ops_of, random_genotype
from darts_core.mix import Alphas
from darts_core.search.bilevel import Host, Snapshot
from darts_core.search.state import State, from_bytes
from darts_core.space import space_named
from darts_core.strategies import STRATEGIES, strategy_named
from darts_core.tasks import ImageTask

NAMES = [name for name, entry in STRATEGIES.items() if entry.baseline]
EACH = pytest.mark.parametrize("name", NAMES)
WAYS = pytest.mark.parametrize("score", ["short", "shared", "table"])
QUICK = {"trial_steps": 3, "score_images": 16, "shared_part": 0.5, "epochs": 2}


@pytest.fixture(autouse=True)
def a_table(monkeypatch: pytest.MonkeyPatch) -> None:
    """Cell n has the accuracy n / 1000 and a bit more for each seed, whatever lies in data/tiny."""
    rows = np.arange(729)[:, None] / 1000 + np.array([0.0, 0.0001, 0.0002])
    table = truth.Table("nb3", rows, rows, {})
    monkeypatch.setattr(truth, "table_of", lambda space, *rest: table if space == "nb3" else None)


def settings(name: str, score: str, **changes: Any) -> SearchConfig:
    space = {"space": "nb3", "reductions": "none"} if score == "table" else {}
    few = {"population": 2, "tournament": 2} if name == "evolution" else {}
    return config(**{**QUICK, **space, **few, "strategy": name, "score": score, **changes})


def events(
    chosen: SearchConfig, start: State | None = None, orders: dict[int, list[Order]] | None = None
) -> Iterator[Any]:
    given = dict(orders or {})
    host = Host(start, lambda step: given.pop(step, []))
    return strategy_named(chosen.strategy)(task(chosen, torch.float32), chosen, host)


def frozen(found: Iterator[Any]) -> list[Any]:
    return [("snapshot", e.reason, e.state.to_bytes()) if isinstance(e, Snapshot) else e for e in found]


@EACH
@WAYS
def test_it_ends_with_the_best_cell_it_tried_and_events_survive_json(name: str, score: str) -> None:
    chosen = settings(name, score)
    found = list(events(chosen))
    steps = [e for e in found if isinstance(e, Step)]
    assert len(steps) == chosen.epochs * 4, "the budget is that of any search with these settings"
    scores = [e.metrics["val_accuracy"] for e in steps if e.flags]
    assert scores and isinstance(found[-1], Result) and not found[-1].stopped
    best = Genotype.from_json(found[-1].genotype)
    last = [e for e in found if isinstance(e, Epoch)][-1]
    assert last.metrics["valid_accuracy"] == max(scores) and last.metrics["trials"] == len(scores)
    if score == "table":
        assert truth.table_of("nb3").rating(best).valid == pytest.approx(max(scores), abs=3e-4)  # type: ignore[union-attr]
        assert last.metrics["training_steps"] == 200 * len(scores)
        assert last.probes["truth_accuracy"] == pytest.approx(max(scores), abs=3e-4)
    else:
        assert last.metrics["training_steps"] == len(steps)
    for event in found:
        if not isinstance(event, Step | Snapshot):
            assert from_json(to_json(event)) == event


@EACH
@WAYS
def test_resuming_equals_never_having_stopped_at_every_step(name: str, score: str) -> None:
    chosen = settings(name, score)
    whole = frozen(events(chosen))
    steps = [e for e in whole if isinstance(e, Step)]
    end = [e[2] for e in whole if isinstance(e, tuple)][-1]
    for at in range(1, len(steps)):
        part = frozen(events(chosen, orders={at: [Order("x", "interrupt")]}))
        state = from_bytes(part[-1][2], "memory")
        assert part[-1][1] == "interrupt" and state.step == at
        rest = frozen(events(chosen, start=state))
        assert [e for e in rest if isinstance(e, Step)] == steps[at:], at
        assert [e[2] for e in rest if isinstance(e, tuple)][-1] == end


@pytest.mark.parametrize(
    "score, piece",
    [("short", "weights"), ("short", "momentum"), ("short", "at"), ("short", "trials"), ("shared", "weights"),
     ("table", "alphas"), ("table", "a_optimiser"), ("table", "trials")],
)  # fmt: skip
def test_nothing_may_be_left_out_of_a_checkpoint(score: str, piece: str) -> None:
    """The exactness test must notice each missing piece, else it proves nothing."""
    chosen = settings("reinforce", score, shared_part=0.9, rate=1.0)
    steps = [e for e in events(chosen) if isinstance(e, Step)]
    at = 5 if score != "short" else 4  # the second step of the second short trial
    state = from_bytes(frozen(events(chosen, orders={at: [Order("x", "interrupt")]}))[-1][2], "memory")
    if piece == "weights":
        state.weights = {k: torch.zeros_like(t) for k, t in state.weights.items()}
    if piece == "momentum":
        state.w_optimiser = {k: t for k, t in state.w_optimiser.items() if not k.startswith("momentum")}
    if piece == "at":
        state.sums = {**state.sums, "at": 0.0}
    if piece == "trials":
        state.w_optimiser = {
            **state.w_optimiser,
            "trials.scores": state.w_optimiser["trials.scores"][:0],
            "trials.cells": state.w_optimiser["trials.cells"][:0],
        }
    if piece == "alphas":
        state.alphas = state.alphas.replaced([torch.zeros_like(a) for a in state.alphas.tensors()])
    if piece == "a_optimiser":
        state.a_optimiser = {k: torch.zeros_like(t) for k, t in state.a_optimiser.items()}
    assert [e for e in events(chosen, start=state) if isinstance(e, Step)] != steps[at:]


@EACH
@WAYS
def test_equal_seeds_give_equal_events_and_other_seeds_others(name: str, score: str) -> None:
    one, two, other = ([e for e in events(settings(name, score, seed=s)) if isinstance(e, Step)] for s in (1, 1, 2))
    assert one == two and one != other


@EACH
@WAYS
def test_orders_are_acknowledged_once_where_they_take_effect(name: str, score: str) -> None:
    chosen = settings(name, score)
    kind = "normal-0-1" if score == "table" else "normal-0-2"
    orders = {
        2: [
            Order("a", "set", "w_lr", 0.06), Order("b", "set", "score", "short"), Order("c", "checkpoint"),
            Order("d", "ban", kind, "skip_connect"),
        ],
        6: [Order("e", "stop")],
    }  # fmt: skip
    found = list(events(chosen, orders=orders))
    answers = [(e.id, e.step, e.accepted) for e in found if isinstance(e, Applied)]
    assert answers == [("a", 2, True), ("b", 2, False), ("c", 2, True), ("d", 2, True), ("e", 6, True)]
    assert isinstance(found[-1], Result) and found[-1].stopped and found[-1].step == 6
    steerings = [Order(f"o{k}", "set", s.name, s.default) for k, s in enumerate(steerable(name).values())]
    refused = [e.reason for e in events(chosen, orders={1: steerings}) if isinstance(e, Applied) and not e.accepted]
    assert not refused


@EACH
@WAYS
def test_one_epoch_and_a_batch_of_one_work(name: str, score: str) -> None:
    few = {"batch": 1, "arch_batch": 1, "train_portion": 0.1} if score != "table" else {}
    assert isinstance(list(events(settings(name, score, epochs=1, **few)))[-1], Result)


def test_a_banned_operation_is_proposed_no_more() -> None:
    chosen = settings("random", "table", epochs=30)
    edge = space_named("nb3").cells["normal"].edges.index((0, 3))
    for name in NAMES:
        chosen = chosen.with_(strategy=name, score="table")
        found = list(events(chosen, orders={5: [Order("d", "ban", "normal-0-3", "nor_conv_3x3")]}))
        best = Genotype.from_json(found[-1].genotype)
        assert ops_of(space_named("nb3").cells["normal"], best.cells["normal"])[edge] != "nor_conv_3x3"


def test_the_number_of_trials_ends_a_search() -> None:
    found = list(events(settings("random", "table", trials=3, epochs=50)))
    assert sum(isinstance(e, Step) for e in found) == 3 and isinstance(found[-1], Result) and not found[-1].stopped


def test_a_look_up_without_a_table_is_refused_in_a_sentence() -> None:
    with pytest.raises(Exception, match="no table of tiny on digits"):
        list(events(config(strategy="random", score="table")))


@pytest.mark.parametrize("space", ["nb3", "darts", "s1"])
def test_a_mutation_changes_one_thing_and_stays_in_the_space(space: str) -> None:
    found, rng = space_named(space), random.Random(5)
    genotype = random_genotype(found, rng)
    for _ in range(200):
        child = mutated(found, genotype, rng)
        changed = 0
        for kind, cell in found.cells.items():
            before, after = (ops_of(cell, g.cells[kind]) for g in (genotype, child))
            for node in range(cell.nodes):
                into = cell.edges_into(node)
                differ = [e for e in into if before[e] != after[e]]
                assert all(after[e] in cell.choices(e) for e in into if after[e] != "none")
                if cell.keep is not None:
                    assert sum(after[e] != "none" for e in into) == min(cell.keep, len(into))
                    assert len(differ) in (0, 1, 2)  # another operation, or one edge for another
                    if len(differ) == 2:
                        assert {before[e] for e in differ} == {after[e] for e in differ}
                changed += bool(differ)
        assert changed == 1
        genotype = child


def test_evolution_forgets_the_oldest_however_good_it_was() -> None:
    space = space_named("nb3")
    cells = list(every_genotype(space))
    past = [Trial(cells[728], 1.0), *(Trial(cells[n], 0.1 + n / 1000) for n in range(4))]
    policy = Alphas({}, {})
    children = Counter()
    for seed in range(300):
        child = evolved(4, 8)(space, past, policy, random.Random(seed))
        ops = ops_of(space.cells["normal"], child.cells["normal"])
        children[sum(op == "nor_conv_3x3" for op in ops) >= 4] += 1
    assert children[True] == 0, "no child of the cell of six convolutions, which is the fifth youngest"


def hand(logits: torch.Tensor) -> Alphas:
    return Alphas({"normal": logits.requires_grad_()}, {})


def test_the_policys_probability_is_that_of_its_drawings_where_every_edge_is_kept() -> None:
    space = space_named("nb3")
    policy = hand(torch.randn(6, 3, generator=torch.Generator().manual_seed(1)))
    every = list(every_genotype(space))
    p = torch.stack([log_probability(space, g, policy).exp() for g in every]).detach()
    assert p.sum() == pytest.approx(1, abs=1e-5)
    draws = Counter(every.index(sampled(space, [], policy, random.Random(s))) for s in range(3000))
    likely = int(p.argmax())
    assert draws[likely] / 3000 == pytest.approx(float(p[likely]), abs=0.03)


def test_the_gradient_of_the_policy_is_reward_times_one_hot_less_softmax() -> None:
    """Worked by hand: d/d logits of -A log softmax(logits)[k] is A (softmax - one_hot(k)), edge by edge."""
    chosen = settings("reinforce", "table", rate=0.1, baseline=0.5)
    search = Trials(STRATEGIES["reinforce"].factory, task(chosen, torch.float32), chosen, Host())
    cells = list(every_genotype(space_named("nb3")))
    search.past = [Trial(cells[10], 0.2), Trial(cells[300], 0.8)]
    mean = (0.5 * (0.5 * 0.2) + 0.5 * 0.8) / (1 - 0.5**2)
    third, advantage = 1 / 3, 0.8 - mean
    expected = math.sqrt(6 * advantage**2 * ((1 - third) ** 2 + 2 * third**2))
    assert search.learn() == pytest.approx(expected, rel=1e-5)
    ops = ops_of(space_named("nb3").cells["normal"], cells[300].cells["normal"])
    moved = search.policy.ops["normal"].detach()
    for e, op in enumerate(ops):
        assert moved[e].argmax() == space_named("nb3").cells["normal"].ops.index(op), "a good reward: more likely"


def test_reinforce_and_evolution_beat_chance_where_the_table_has_an_order() -> None:
    """In the made table a cell is the better the later it is listed: a search that learns must get near the end."""
    mean = {}
    for name, extra in (("random", {}), ("evolution", {"population": 10}), ("reinforce", {"rate": 0.1})):
        ends = []
        for seed in range(2):
            chosen = settings(name, "table", epochs=60, trials=150, seed=seed, **extra)
            steps = [e for e in events(chosen) if isinstance(e, Step)]
            ends.append(np.mean([e.metrics["val_accuracy"] for e in steps[-30:]]))
        mean[name] = np.mean(ends)
    assert mean["random"] == pytest.approx(0.364, abs=0.09)
    assert mean["evolution"] > 0.5 and mean["reinforce"] > 0.5


def test_shared_weights_rank_a_cell_without_a_path_last() -> None:
    """On digits, after training on random paths, a cell that passes nothing on is judged worse than one that does."""
    chosen = SearchConfig.from_dict({
        "dataset": "digits", "space": "nb3", "cells": 2, "reductions": "none", "channels": 8, "stem_stride": 2,
        "batch": 60, "arch_batch": 60, "epochs": 6, "augment": False, "w_lr": 0.1, "strategy": "random",
        "score": "shared", "shared_part": 0.9, "backend": "reference",
    })  # fmt: skip
    subject = ImageTask(chosen, load("digits"))
    search = Trials(STRATEGIES["random"].factory, subject, chosen, Host())
    for event in search.run():
        if isinstance(event, Epoch) and event.epoch == 4:
            break
    scorer: Any = search.scorer
    cells = list(every_genotype(space_named("nb3")))
    scores = [subject.measure(scorer.trainer.net, scorer.mix(cells[n]), "arch", 600)["accuracy"] for n in (0, 728)]
    assert scores[0] < 0.2 and scores[1] > scores[0] + 0.1, scores  # chance is 0.1
