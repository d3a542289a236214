"""Steps as a GPU computes them: replayed whole, their numbers read in one go and later. All of it on the CPU too."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest
import torch
from small import config, search, task
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from darts_core.errors import BadInput
from darts_core.events import Epoch, Order, Phase, Step
from darts_core.methods.darts import darts
from darts_core.mix import Alphas, Mix
from darts_core.search.bilevel import Host, Search, Snapshot
from darts_core.search.method import Method, Moment
from darts_core.search.replay import Replay, Unread, Watched
from darts_core.search.state import from_bytes


def near(found: dict[str, Tensor], expected: dict[str, Tensor], relative: float = 1e-12) -> None:
    assert found.keys() == expected.keys()
    for name, tensor in expected.items():
        scale = max(float(tensor.double().abs().max()), 1e-2)
        assert float((found[name].double() - tensor.double()).abs().max()) <= relative * scale, name


# -- the step function that a GPU captures


@pytest.mark.parametrize("order", ["1", "2", "exact"])
def test_replayed_steps_are_the_steps(order: str) -> None:
    """The same four steps, the last of them with a smaller batch: static inputs, rates as tensors, fused updates."""
    one, other = (search(order=order, backend=name, w_decay=0.01, batch=10) for name in ("fast", "graph"))
    steps = [[s.one_step() for _ in range(4)] for s in (one, other)]
    assert other.replay.reason == "" and len(other.replay.slots) == 4  # each piece, for each size of batch
    near(other.state().tensors(), one.state().tensors())
    assert other.adam.steps == one.adam.steps == 4 and float(other.adam.counts[0]) == 4
    for ours, theirs in zip(*steps, strict=True):
        assert theirs.metrics == pytest.approx(ours.metrics, rel=1e-11)
        assert all((theirs.mix[kind] == ours.mix[kind]).all() for kind in ours.mix)


def test_trying_a_step_leaves_no_trace() -> None:
    """The first call runs the step more than once; afterwards everything is as after one step, generators included."""
    one, other = search(backend="graph"), search(backend="graph")
    inputs: list[Any] = [*one.task.batch("weights", 0, 0), 0.05]
    torch.manual_seed(11)
    before = torch.get_rng_state()
    one.replay("weights", lambda *items: _without_seeding(one, *items), inputs, one.moving)
    assert torch.equal(before, torch.get_rng_state())
    other.sgd.begun()
    _without_seeding(other, *inputs[:2], torch.tensor(0.05, dtype=torch.float64))
    near(one.state().tensors(), other.state().tensors(), 0.0)


def _without_seeding(one: Search, images: Tensor, labels: Tensor, rate: Tensor) -> Any:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("darts_core.search.stepping.reseed", lambda number: None)
        return one.move_weights((images, labels), rate)


def test_a_changed_setting_is_captured_anew_and_a_rate_is_not() -> None:
    one, other = (search(backend=name, w_decay=0.01) for name in ("fast", "graph"))
    for s in (one, other):
        s.one_step()
        slots = dict(s.replay.slots)
        assert s.obey(Order("a", "set", "a_lr", 0.03)).accepted and s.obey(Order("b", "set", "w_lr", 0.2)).accepted
        assert s.replay.slots == slots
        s.one_step()
        assert s.obey(Order("c", "set", "w_decay", 0.5)).accepted and not s.replay.slots
        s.one_step()
        assert s.obey(Order("d", "ban", "normal-0-2", "skip_connect")).accepted and not s.replay.slots
        s.one_step()
    near(other.state().tensors(), one.state().tensors())


def test_a_state_from_another_route_goes_on() -> None:
    one, other = (Search(darts, task(c), c, Host()) for c in (config(backend="fast"), config(backend="graph")))
    for _ in range(3):
        one.one_step()
    saved = from_bytes(one.state().to_bytes(), "here")
    other.restore(replace(saved, settings={**saved.settings, "backend": "graph"}))
    near(other.state().tensors(), one.state().tensors(), 0.0)
    one.one_step()
    other.one_step()
    near(other.state().tensors(), one.state().tensors(), 1e-5)  # the alphas are float32
    assert other.adam.steps == 4 and float(other.adam.counts[0]) == 4


# -- what cannot be captured is found out


def grows(alphas: Alphas, mix: Mix, moment: Moment) -> Tensor:
    return 0.01 * (moment.epoch + 1) * sum(a.pow(2).sum() for a in alphas.tensors())


def noisy(alphas: Alphas, moment: Moment) -> Mix:
    rows = {k: torch.softmax(a + torch.rand(a.shape, generator=moment.generator), -1) for k, a in alphas.ops.items()}
    return Mix(rows)


CASES = {
    "plain DARTS": (Method(), ""),
    "a penalty that grows": (Method(penalty=grows), "looks at epoch"),
    "a schedule": (Method(penalty=lambda a, mix, moment: moment.share * a.tensors()[0].sum()), "looks at epoch"),
    "a sampler": (Method(relax=noisy), "looks at generator"),
    "dropped skips": (darts(skip_dropout=0.5), "draws random numbers"),
}


@pytest.mark.parametrize("name", CASES)
def test_what_looks_at_the_time_or_draws_numbers_is_not_replayed(name: str) -> None:
    method, reason = CASES[name]
    found = []
    for backend in ("fast", "graph"):
        settings = config(backend=backend)
        one = Search(lambda **options: method, task(settings), settings, Host())
        for _ in range(3):
            one.one_step()
        found.append(one)
    assert (reason in found[1].replay.reason) if reason else found[1].replay.reason == ""
    near(found[1].state().tensors(), found[0].state().tensors(), 1e-5)  # the alphas are float32


def test_a_search_says_once_why_it_is_not_replayed() -> None:
    settings = config(backend="graph", skip_dropout=0.5)
    events = list(Search(darts, task(settings), settings, Host()).run())
    said = [e.message for e in events if isinstance(e, Phase) and "launched anew" in e.message]
    assert len(said) == 1 and "random numbers" in said[0]


def test_a_watched_moment_notes_what_was_looked_at() -> None:
    replay = Replay(torch.device("cpu"))
    plain = Moment("arch", 3, 0.5)
    assert replay.watched(plain) is plain
    replay.trying = True
    seen = replay.watched(plain)
    assert isinstance(seen, Watched) and seen.phase == "arch" and not replay.noted
    assert seen.progress == 0.5 and replay.noted == {"progress"}


# -- one copy per step, read later


class Reads(TorchDispatchMode):
    """Counts the operations for which a CPU waits until a device has computed a number."""

    WAITING = ("_local_scalar_dense", "nonzero", "equal", "is_nonzero", "masked_select", "unique")

    def __init__(self) -> None:
        super().__init__()
        self.names: list[str] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = func.overloadpacket.__name__
        if name in self.WAITING or (name == "index" and any(t is not None and t.dtype == torch.bool for t in args[1])):
            self.names.append(name)
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("backend", ["reference", "fast", "graph"])
@pytest.mark.parametrize("order", ["1", "2", "exact"])
def test_a_step_is_launched_without_reading_a_number(order: str, backend: str) -> None:
    one = search(order=order, backend=backend)
    one.one_step()  # tried and captured, where it is
    with Reads() as reads:
        launched = one.launch()
    # the CPU's Adam keeps its count in host memory: reading that waits for nobody
    allowed = len(one.alphas.tensors()) if backend != "graph" else 0
    assert len(reads.names) <= allowed and set(reads.names) <= {"_local_scalar_dense"}, reads.names
    with Reads() as reads:
        one.recorded(launched)
    assert not reads.names  # the row lies in host memory: one copy brought it there


def test_a_row_comes_back_as_it_was_sent() -> None:
    tensors = {
        "a": torch.tensor(3.5),
        "b": torch.arange(6.0).view(2, 3),
        "c": torch.tensor([1e-9], dtype=torch.float64),
    }
    found = Unread(tensors).read()
    assert all((found[name] == t.numpy()).all() and found[name].shape == tuple(t.shape) for name, t in tensors.items())


def test_a_row_is_not_changed_by_the_next_step() -> None:
    one = search()
    first = one.launch()
    alphas = {kind: a.detach().clone() for kind, a in one.alphas.ops.items()}
    one.launch()
    for kind, array in one.recorded(first).alphas.items():
        assert torch.equal(torch.from_numpy(array), alphas[kind].float())


@pytest.mark.parametrize("behind", [1, 3])
def test_steps_told_later_are_the_same_steps_in_the_same_places(behind: int) -> None:
    """Events, snapshots included, stand in the same order, and hold the same numbers, as without waiting."""
    told = []
    for late in (0, behind):
        settings = config()
        one = Search(darts, task(settings), settings, Host())
        one.behind = late
        told.append(list(_plain(one.run())))
    assert told[0] == told[1]


def _plain(events: Iterator[Any]) -> Iterator[Any]:
    for event in events:
        if isinstance(event, Step):
            yield event.step, event.metrics, {kind: array.tolist() for kind, array in event.mix.items()}
        elif isinstance(event, Snapshot):
            yield event.reason, event.state.step, event.state.index, dict(event.state.sums)
        elif isinstance(event, Epoch):
            yield "epoch", event.step, event.metrics
        else:
            yield type(event).__name__


def test_whoever_waits_sees_all_finished_steps_first() -> None:
    """A pause is asked of a search that is three steps ahead of its record."""
    settings = config()
    seen: list[int] = []
    asked: dict[int, list[int]] = {}

    def orders(step: int) -> list[Order]:
        asked[step] = list(seen)
        return []

    one = Search(darts, task(settings), settings, Host(orders=orders, waiting=lambda: one.step in (4, 6)))
    one.behind = 3
    for event in one.run():
        if isinstance(event, Step):
            seen.append(event.step)
        if len(asked) > 6:
            break
    assert asked[3] == [] and asked[4] == [1, 2, 3, 4] and asked[6] == [1, 2, 3, 4, 5, 6]


def test_nan_is_said_at_the_step_where_it_came_up() -> None:
    one = search()
    one.behind = 2
    batch = one.task.batch
    broken = lambda *at: (batch(*at)[0] * (float("nan") if at[2] == 2 else 1.0), batch(*at)[1])  # noqa: E731
    one.task.batch = broken  # type: ignore[method-assign]
    seen = []
    with pytest.raises(BadInput, match="validation loss: became NaN at step 3"):
        for event in one.run():
            if isinstance(event, Step):
                seen.append(event.step)
    assert seen == [1, 2]


# -- bfloat16


def test_bfloat16_is_used_in_maps_only_and_stays_near() -> None:
    kinds: set[torch.dtype] = set()
    one, other = (search(torch.float32, backend="fast", precision=p) for p in ("float32", "bfloat16"))
    other.net.cells[1].register_forward_hook(lambda module, args, output: kinds.add(output.dtype))
    steps = [s.one_step() for s in (one, other)]
    assert kinds == {torch.bfloat16}
    tensors = [*other.params.values(), *other.alphas.tensors(), *other.read().ops.values()]
    assert {t.dtype for t in tensors} == {torch.float32}
    ours, theirs = (step.metrics["train_loss"] for step in steps)
    assert theirs == pytest.approx(ours, rel=0.1) and theirs != ours


@pytest.mark.parametrize("order", ["2", "exact"])
@pytest.mark.parametrize("backend", ["reference", "fast", "graph"])
def test_every_order_runs_in_bfloat16(backend: str, order: str) -> None:
    one = search(torch.float32, backend=backend, precision="bfloat16", order=order)
    plain = search(torch.float32, backend=backend, order=order)
    steps = [s.one_step() for s in (one, plain)]
    assert steps[0].metrics["val_loss"] == pytest.approx(steps[1].metrics["val_loss"], rel=0.1)


def test_probes_do_not_use_bfloat16() -> None:
    one, other = (search(torch.float32, precision=p) for p in ("float32", "bfloat16"))
    assert (one.hessian() == other.hessian()).all()
    mix = one.read()
    assert one.task.measure(one.net, mix, "arch", 20) == other.task.measure(other.net, mix, "arch", 20)
