"""What every search promises, kept on text as well: equal seeds, exact resume at every step, steering, probes."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch
from small_text import config, task

from darts_core.config import SearchConfig, steerable
from darts_core.errors import BadInput
from darts_core.events import TEXT_METRICS, Applied, Epoch, Order, Phase, Result, Sample, Step, from_json, to_json
from darts_core.genotype import Genotype
from darts_core.optimise import triggered
from darts_core.search.bilevel import Host, Search, Snapshot
from darts_core.search.state import State, from_bytes
from darts_core.strategies import STRATEGIES, strategy_named

TIMES = {"seconds": 0.0}


def events(
    settings: SearchConfig, start: State | None = None, orders: dict[int, list[Order]] | None = None
) -> Iterator[Any]:
    given = dict(orders or {})
    return strategy_named(settings.strategy)(
        task(settings, torch.float32), settings, Host(start, lambda step: given.pop(step, []))
    )


def frozen(found: Iterator[Any]) -> list[Any]:
    """Events as they pass, states as bytes at that moment, no wall-clock seconds."""
    return [
        ("snapshot", e.reason, e.state.to_bytes()) if isinstance(e, Snapshot)
        else {**to_json(e), **TIMES} if isinstance(e, Epoch) else e for e in found
    ]  # fmt: skip


def steps_of(found: list[Any]) -> list[Step]:
    return [e for e in found if isinstance(e, Step)]


@pytest.mark.parametrize(("order", "backend"), [("1", "fast"), ("2", "fast"), ("exact", "fast"), ("1", "reference")])
def test_resuming_equals_never_having_stopped_at_every_step(order: str, backend: str) -> None:
    settings = config(order=order, backend=backend, nodes=2, bptt=8)
    whole = frozen(events(settings))
    steps, end = steps_of(whole), [e[2] for e in whole if isinstance(e, tuple)][-1]
    assert len(steps) == 8
    for at in range(1, len(steps)):
        part = frozen(events(settings, orders={at: [Order("x", "interrupt")]}))
        state = from_bytes(part[-1][2], "memory")
        assert part[-1][1] == "interrupt" and state.step == at
        rest = frozen(events(settings, start=state))
        assert steps_of(rest) == steps[at:]
        assert [e[2] for e in rest if isinstance(e, tuple)][-1] == end


AVERAGING = {"patience": 1, "w_lr": 60.0, "w_lr_min": 60.0, "clip": 5.0, "nodes": 2, "bptt": 16, "epochs": 5}


def test_resuming_with_averaged_weights_equals_never_having_stopped() -> None:
    """The rate is so large that the validation loss rises, so averaging begins."""
    whole = frozen(events(config(**AVERAGING)))
    assert any(isinstance(e, Phase) and "averaged" in e.message for e in whole), "averaging is part of what is tested"
    steps, end = steps_of(whole), [e[2] for e in whole if isinstance(e, tuple)][-1]
    assert "averaged" in from_bytes(end, "memory").w_optimiser
    for at in range(1, len(steps)):
        part = frozen(events(config(**AVERAGING), orders={at: [Order("x", "interrupt")]}))
        rest = frozen(events(config(**AVERAGING), start=from_bytes(part[-1][2], "memory")))
        assert steps_of(rest) == steps[at:], at
        assert [e[2] for e in rest if isinstance(e, tuple)][-1] == end


def test_averaging_changes_what_is_measured_and_no_step() -> None:
    averaged, plain = (list(events(config(**{**AVERAGING, "patience": p}))) for p in (1, 0))
    assert steps_of(averaged) == steps_of(plain)
    losses = [[e.metrics["valid_loss"] for e in found if isinstance(e, Epoch)] for found in (averaged, plain)]
    began = next(k for k in range(5) if triggered(losses[1][:k], losses[1][k], 1)) + 1
    assert losses[0][:began] == losses[1][:began] and losses[0][began] != losses[1][began]

    last = [e.state for e in averaged if isinstance(e, Snapshot)][-1]
    settings = config(**AVERAGING)
    search = Search(STRATEGIES["darts"].factory, task(settings, torch.float32), settings, Host(last))
    search.restore(last)
    own = {name: p.detach().clone() for name, p in search.params.items()}
    with search.judged():
        assert all(torch.equal(p, last.judged[name]) for name, p in search.params.items())
        found = search.task.measure(search.net, search.read(), "arch", 0)
    assert found["loss"] == losses[0][-1]
    assert all(torch.equal(p, own[name]) for name, p in search.params.items()), "the weights come back bit for bit"
    assert all(torch.equal(own[name], last.weights[name]) for name in own)
    by_hand = search.task.measure(search.net, search.read(), "arch", 0)["loss"]
    assert by_hand != losses[0][-1], "the weights themselves measure otherwise"


def test_averaged_sgd_is_refused_where_nothing_would_come_of_it() -> None:
    with pytest.raises(BadInput, match="is for a text"):
        SearchConfig.from_dict({"patience": 5})
    with pytest.raises(BadInput, match="too briefly"):
        config(strategy="random", patience=5)


@pytest.mark.parametrize("split", ["weights", "arch"])
def test_the_hidden_state_of_either_split_may_not_be_left_out_of_a_checkpoint(split: str) -> None:
    steps = steps_of(list(events(config())))
    part = frozen(events(config(), orders={3: [Order("x", "interrupt")]}))
    state = from_bytes(part[-1][2], "memory")
    assert float(state.carry[split].abs().max()) > 0
    state.carry[split] = torch.zeros_like(state.carry[split])
    assert steps_of(list(events(config(), start=state))) != steps[3:]


def test_hidden_states_are_carried_within_an_epoch_and_begin_anew_with_each() -> None:
    found = list(events(config()))
    kept = {e.state.index: e.state for e in found if isinstance(e, Snapshot)}
    assert all(float(t.abs().max()) == 0 for t in kept[0].carry.values())


@pytest.mark.parametrize("name", STRATEGIES)
def test_every_method_searches_text_or_refuses_with_a_sentence(name: str) -> None:
    settings = config(strategy=name, nodes=3, bptt=10)
    try:
        found = list(events(settings))
    except BadInput as refusal:
        assert "recurrent" in str(refusal) or "text" in str(refusal), refusal
        return
    assert isinstance(found[-1], Result)
    cell = Genotype.from_json(found[-1].genotype).cells["recurrent"]
    assert len(cell.nodes) == 3 and cell.inputs == 1
    for event in found:
        if not isinstance(event, Step | Snapshot):
            assert from_json(to_json(event)) == event


def test_the_methods_that_need_only_the_alphas_do_search_text() -> None:
    assert "darts" in STRATEGIES
    for name in ("darts", "max-w", "fair-darts", "beta-darts", "gdas", "snas", "smooth-darts", "darts-plus"):
        assert isinstance(list(events(config(strategy=name, epochs=1)))[-1], Result), name


WHOLE = {"dr-nas": {"first": 1, "second": 1}, "pc-darts": {"share": 1}}  # all channels: a recurrent cell has no part


@pytest.mark.parametrize("name", WHOLE)
def test_methods_of_partial_channels_search_text_with_all_of_them(name: str) -> None:
    with pytest.raises(BadInput, match=" and ".join(f"{option}=1" for option in WHOLE[name])):
        list(events(config(strategy=name)))
    found = list(events(config(strategy=name, **WHOLE[name])))
    assert isinstance(found[-1], Result)
    if name == "dr-nas":  # its second stage has fewer operations
        last = [e.state for e in found if isinstance(e, Snapshot)][-1]
        assert last.stage == 1 and last.alphas.legal["recurrent"].sum(-1).tolist() == [3] * 6


@pytest.mark.parametrize("name", ["dr-nas", "random", "evolution", "reinforce"])
def test_other_searches_resume_at_every_step_too(name: str) -> None:
    """Trials of three steps, so that stops fall inside of them, and epochs end there."""
    more = WHOLE.get(name, {"trial_steps": 3, "score_images": 60})
    settings = config(strategy=name, nodes=2, bptt=8, **more)
    whole = frozen(events(settings))
    steps, end = steps_of(whole), [e[2] for e in whole if isinstance(e, tuple)][-1]
    for at in range(1, len(steps)):
        part = frozen(events(settings, orders={at: [Order("x", "interrupt")]}))
        rest = frozen(events(settings, start=from_bytes(part[-1][2], "memory")))
        assert steps_of(rest) == steps[at:]
        assert [e[2] for e in rest if isinstance(e, tuple)][-1] == end


@pytest.mark.parametrize("name", ["random", "evolution", "reinforce"])
def test_baselines_score_cells_by_reading_and_can_be_steered(name: str) -> None:
    orders = {
        1: [Order("a", "set", "w_lr", 0.5), Order("b", "ban", "recurrent-0-1", "tanh"), Order("c", "set", "units", 8)]
    }
    settings = config(strategy=name, trial_steps=2, score_images=60)
    found = list(events(settings, orders=orders))
    answers = [e.accepted for e in found if isinstance(e, Applied)]
    assert answers == [True, True, False]
    scored = [s for s in steps_of(found) if math.isfinite(s.metrics["val_accuracy"])]
    assert len(scored) == len(steps_of(found)) // 2
    for step in scored:
        assert step.metrics["val_perplexity"] == pytest.approx(math.exp(step.metrics["val_loss"]), rel=1e-5)
        assert 0 <= step.metrics["val_accuracy"] <= 1 and 1 < step.metrics["val_perplexity"] < 100
    proposed = Genotype.from_json(found[-1].genotype).cells["recurrent"]
    assert proposed.nodes[0][0].op != "tanh" or proposed.nodes[0][0].source != 0
    with pytest.raises(BadInput, match="score=short"):
        list(events(config(strategy=name, score="shared")))


def test_equal_seeds_give_equal_events_and_another_seed_others() -> None:
    one, two, other = (frozen(events(config(epochs=1, seed=s))) for s in (1, 1, 2))
    assert one == two
    assert steps_of(one)[0].metrics["train_loss"] != steps_of(other)[0].metrics["train_loss"]


def test_orders_are_acknowledged_and_a_steered_run_repeats() -> None:
    orders = {2: [Order("a", "set", "a_lr", 0.5), Order("b", "set", "units", 8)], 5: [Order("c", "stop")]}
    one, two = (frozen(events(config(), orders=dict(orders))) for _ in range(2))
    assert one == two
    answers = [e for e in one if isinstance(e, Applied)]
    assert [(a.id, a.accepted) for a in answers] == [("a", True), ("b", False), ("c", True)]
    assert [e.metrics["a_lr"] for e in steps_of(one)] == pytest.approx([0.1, 0.1, 0.5, 0.5, 0.5])
    assert one[-1].stopped


def test_every_steerable_setting_takes_its_default() -> None:
    orders = [Order(f"o{k}", "set", s.name, s.default) for k, s in enumerate(steerable("darts").values())]
    answers = [e for e in events(config(w_lr_min=0.0), orders={1: orders}) if isinstance(e, Applied)]
    assert len(answers) == len(orders)


def test_probes_leave_no_trace() -> None:
    """The eigenvalue, the measured perplexity and the sampled text do not change the course of the search."""
    one = steps_of(list(events(config())))
    two = list(events(config(hessian_every=1)))
    assert steps_of(two) == one
    assert all(np.isfinite(e.probes["eigenvalue"]) for e in two if isinstance(e, Epoch))


def test_a_batch_of_one_column_works() -> None:
    assert isinstance(list(events(config(batch=1, arch_batch=1, epochs=1)))[-1], Result)


def test_steps_say_perplexities_and_the_floor_and_epochs_a_text() -> None:
    found = list(events(config()))
    for step in steps_of(found):
        assert set(step.metrics) >= set(TEXT_METRICS)
        assert step.metrics["floor_perplexity"] == pytest.approx(math.exp(0.5004), rel=1e-3)
        assert 4 < step.metrics["train_perplexity"] < 16
        assert step.metrics["val_perplexity"] == pytest.approx(math.exp(step.metrics["val_loss"]), rel=1e-5)
        assert step.metrics["train_loss"] > math.log(step.metrics["train_perplexity"]), "with both penalties"
    samples = [e for e in found if isinstance(e, Sample)]
    assert len(samples) == 2 and len(samples[0].text.split()) == 41


def test_short_stretches_lower_the_learning_rate_in_proportion() -> None:
    settings = config(bptt=4, epochs=1, batch=1)
    search = Search(STRATEGIES["darts"].factory, task(settings), settings, Host())
    lengths = [length for _, length in search.task.plan.stretches("weights", 0)]  # type: ignore[attr-defined]
    rates = [e.metrics["w_lr"] for e in search.run() if isinstance(e, Step)]
    assert set(lengths) == {4, 2} and rates == pytest.approx([length / 4 for length in lengths])


def test_a_text_needs_a_recurrent_space_and_the_other_way_round() -> None:
    with pytest.raises(BadInput, match="needs a text"):
        config(dataset="digits")
    with pytest.raises(BadInput, match="needs images"):
        config(space="darts", cells=8)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(10))
def test_no_seed_ends_in_nan(seed: int) -> None:
    from darts_core.config import preset_named
    from darts_core.language import language_task

    settings = preset_named("recurrent").config(seed=seed, epochs=4)
    found = list(strategy_named("darts")(language_task(settings, torch.device("cpu")), settings, Host()))
    last = [e for e in found if isinstance(e, Epoch)][-1]
    assert last.metrics["valid_perplexity"] < 4.34, "better than any model without a memory"
