"""Training a cell from scratch: the published schedule, exact resume, orders, what is measured, images on the disk."""

from __future__ import annotations

import json
import math
import shlex
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from small import images
from typer.testing import CliRunner

from darts_core.__main__ import app
from darts_core.config import SearchConfig, settings_of, steerable
from darts_core.data import Stream
from darts_core.drive import drive, new_run
from darts_core.errors import BadInput
from darts_core.evaluate import cost, matched
from darts_core.evaluation import EVALUATIONS, all_skips, cell_named, evaluation_config
from darts_core.events import Epoch, Order, Step, Trained
from darts_core.export import export
from darts_core.genotype import Genotype, space_of
from darts_core.nets.fixed import Network, parameters
from darts_core.runs import RunReader, RunWriter
from darts_core.search.bilevel import Host, Snapshot
from darts_core.search.state import from_bytes
from darts_core.space import space_named
from darts_core.tasks import ImageTask, image_task
from darts_core.training import Training, measure
from darts_core.view.recipe import reproduction
from darts_core.view.report import report
from darts_core.zoo import published

V2 = published("DARTS_V2").genotype
SMALL: dict[str, Any] = {
    "dataset": "digits", "subset": 120, "cells": 3, "channels": 2, "batch": 40, "epochs": 3, "threads": 1,
    "auxiliary": 0.4, "drop_path": 0.3, "augment": False, "test_every": 1,
}  # fmt: skip


def config(**changes: Any) -> SearchConfig:
    return evaluation_config("quick", V2, "V2", {**SMALL, **changes})


def made(settings: SearchConfig) -> ImageTask:
    """Generated images of 12x12 pixels."""
    return ImageTask(settings, images(count=120, side=12))


def steps(settings: SearchConfig, host: Host | None = None) -> list[Any]:
    return list(Training(made(settings), settings, host or Host()).run())


def test_presets_are_the_published_settings() -> None:
    cifar, imagenet = (EVALUATIONS[name].config() for name in ("cifar", "imagenet"))
    assert (cifar.cells, cifar.channels, cifar.epochs, cifar.batch, cifar.cutout) == (20, 36, 600, 96, 16)
    assert (cifar.w_lr, cifar.w_lr_min, cifar.momentum, cifar.w_decay, cifar.clip) == (0.025, 0.0, 0.9, 3e-4, 5.0)
    assert (cifar.options["auxiliary"], cifar.options["drop_path"], cifar.reduction_cells()) == (0.4, 0.2, (6, 13))
    assert (imagenet.cells, imagenet.channels, imagenet.epochs, imagenet.reduction_cells()) == (14, 48, 250, (4, 9))
    assert (imagenet.w_lr, imagenet.w_decay, imagenet.options["label_smoothing"]) == (0.1, 3e-5, 0.1)


def test_the_rates_of_both_schedules_are_the_released_code_s() -> None:
    cifar = EVALUATIONS["cifar"].config()
    training = Training(made(config()), config(), Host())
    training.config = cifar
    for epoch, rate in ((0, 0.025), (1, 0.0249998287), (100, 0.0233253175), (300, 0.0125), (599, 1.713e-7)):
        training.epoch = epoch
        assert training.rate() == pytest.approx(rate, rel=1e-3 if epoch == 599 else 1e-7)
    training.config = cifar.with_(w_lr=0.1)
    training.options = replace(training.options, schedule="step")
    training.epoch = 10
    assert training.rate() == pytest.approx(0.1 * 0.97**10)


def test_the_first_step_is_a_clipped_and_decayed_step_along_both_losses() -> None:
    settings = config(w_decay=0.01, clip=0.5, label_smoothing=0.1)
    training = Training(made(settings), settings, Host())
    twin = Network(V2, 1, 3, 2, 3, (1, 2), auxiliary=True)
    twin.load_state_dict(training.net.state_dict())
    x, y = training.task.batch("all", 0, 0)
    logits, extra = twin.both(x, 0.0)
    smooth = lambda z: -((0.9 * F.one_hot(y, 3) + 0.1 / 3) * F.log_softmax(z, -1)).sum(-1).mean()  # noqa: E731
    assert extra is not None
    (smooth(logits) + 0.4 * smooth(extra)).backward()
    norm = torch.nn.utils.clip_grad_norm_(twin.parameters(), 0.5)
    assert norm > 0.5
    step = training.one_step()
    assert step.metrics["w_grad_norm"] == pytest.approx(float(norm), rel=1e-5)
    ours = dict(training.net.named_parameters())
    for name, w in twin.named_parameters():
        assert w.grad is not None
        assert torch.allclose(ours[name], w - 0.05 * (w.grad + 0.01 * w), atol=1e-6), name


def test_drop_path_ramps_from_zero_and_only_then_changes_a_step(monkeypatch: pytest.MonkeyPatch) -> None:
    seen = []
    both = Network.both
    monkeypatch.setattr(Network, "both", lambda net, x, rate: seen.append(rate) or both(net, x, rate))
    steps(config(epochs=3))
    assert sorted(set(seen)) == pytest.approx([0.0, 0.1, 0.2])


def test_an_epoch_says_means_and_measures_what_is_held_out() -> None:
    events = steps(config())
    rows, ends = [e for e in events if isinstance(e, Step)], [e for e in events if isinstance(e, Epoch)]
    assert len(rows) == 9 and len(ends) == 3
    for number, end in enumerate(ends):
        own = rows[3 * number : 3 * number + 3]
        assert end.metrics["train_loss"] == pytest.approx(sum(r.metrics["train_loss"] for r in own) / 3)
        assert end.metrics["valid_accuracy"] == own[-1].metrics["val_accuracy"]
        assert all(math.isnan(r.metrics["val_loss"]) for r in own[:-1])
    trained = next(e for e in events if isinstance(e, Trained))
    assert trained.test_accuracy == ends[-1].metrics["valid_accuracy"]


def test_a_training_that_is_judged_by_validation_never_touches_the_test_images() -> None:
    settings = config(train_on="split", train_portion=0.75, batch=30)
    task = made(settings)
    asked: list[str] = []
    batch, evals = task.batch, task.eval_batches
    task.batch = lambda split, e, i: asked.append(split) or batch(split, e, i)  # type: ignore[method-assign]
    task.eval_batches = lambda split, n: asked.append(split) or evals(split, n)  # type: ignore[method-assign]
    events = list(Training(task, settings, Host()).run())
    assert set(asked) == {"weights", "arch"}
    assert next(e for e in events if isinstance(e, Trained)).test_accuracy is None


@pytest.mark.parametrize("at", [1, 3, 5, 8])
def test_a_training_resumed_at_any_step_is_the_one_never_stopped(at: int) -> None:
    whole = steps(config())
    training = Training(made(config()), config(), Host())
    taken: list[Any] = []
    for event in training.run():
        if isinstance(event, Step):
            taken.append(event)
            if event.step == at:
                break
    saved = from_bytes(training.state().to_bytes(), "saved")
    rest = steps(config(), Host(saved))
    ours = [e for e in [*taken, *rest] if isinstance(e, Step)]
    assert ours == [e for e in whole if isinstance(e, Step)]
    end = lambda events: [e.state for e in events if isinstance(e, Snapshot)][-1].to_bytes()  # noqa: E731
    assert end(rest) == end(whole)


def test_a_setting_may_be_steered_and_an_edge_may_not() -> None:
    given = {2: [Order("a", "set", "w_lr", 0.5), Order("b", "ban", "normal-0-2", "sep_conv_3x3")]}
    events = steps(config(), Host(None, lambda step: given.pop(step, [])))
    answers = [e for e in events if type(e).__name__ == "Applied"]
    assert [a.accepted for a in answers] == [True, False] and "fixed" in answers[1].reason
    rows = [e for e in events if isinstance(e, Step)]
    assert rows[1].metrics["w_lr"] == 0.05 and rows[2].metrics["w_lr"] == 0.5


def test_what_nothing_is_searched_for_cannot_be_set() -> None:
    assert not {"a_lr", "hessian_every", "space", "backend"} & set(settings_of("evaluate"))
    assert {"w_lr", "clip"} <= set(steerable("evaluate")) and "a_lr" not in steerable("evaluate")


def test_bfloat16_trains_like_float32_but_for_rounding() -> None:
    one, other = (
        [e.metrics["train_loss"] for e in steps(config(epochs=1, precision=p)) if isinstance(e, Step)]
        for p in ("float32", "bfloat16")
    )
    assert one != other and one == pytest.approx(other, rel=0.1)


def test_the_space_of_a_cell_holds_exactly_its_edges_and_operations() -> None:
    space = space_of(V2)
    normal = space.cells["normal"]
    assert normal.edges == ((0, 2), (1, 2), (0, 3), (1, 3), (0, 4), (1, 4), (0, 5), (2, 5))
    assert sum(sum(row) for row in normal.legal) == 8 and normal.ops == ("skip_connect", "sep_conv_3x3", "dil_conv_3x3")
    assert space_of(published("AmoebaNet").genotype).cells["reduce"].nodes == 5


def test_multiply_adds_and_parameters_of_the_released_cell_are_the_published_ones() -> None:
    found = cost(Network(V2, 3, 10, auxiliary=True), (3, 32, 32), torch.device("cpu"), seconds=0.0)
    assert (found["multiply_adds"], found["parameters"]) == (528_359_040, 3_349_342)
    assert found["latency_ms"] > 0


def test_measuring_leaves_no_trace_and_counts_like_a_plain_loop() -> None:
    settings = config()
    task = made(settings)
    net = Training(task, settings, Host()).net
    before = {name: t.clone() for name, t in net.state_dict().items()}
    found = measure(task, net, "test")
    assert net.training and all(torch.equal(before[n], t) for n, t in net.state_dict().items())
    net.eval()
    x, y = next(task.eval_batches("test", 1000))
    assert found["accuracy"] == pytest.approx((net(x).argmax(-1) == y).float().mean().item())


def test_the_width_is_chosen_to_match_a_size() -> None:
    skips = evaluation_config("quick", all_skips(space_named("darts")), "skips", {"dataset": "digits", "cells": 3})
    assert skips.subset == 0
    channels = matched(skips, 36_586)
    near = [c for c in (channels - 2, channels, channels + 2) if c >= 2]
    sizes = {c: parameters(image_task(skips.with_(channels=c), torch.device("cpu")).network(skips.genotype()))
             for c in near}  # fmt: skip
    assert min(sizes, key=lambda c: abs(sizes[c] - 36_586)) == channels
    with pytest.raises(BadInput, match="no width gives"):
        matched(skips, 10)


def test_cells_are_named_by_words_too() -> None:
    assert cell_named("random:3") == cell_named("random:3") != cell_named("random:4")
    skips, label = cell_named("skips")
    assert label == "all-skip cell" and skips.count("skip_connect") == 8
    with pytest.raises(BadInput, match="not a seed"):
        cell_named("random:x")


# ---- whole runs


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunReader]:
    root = tmp_path_factory.mktemp("evaluations")
    settings = config(epochs=2)
    assert drive(new_run(root, "v2", settings, []), settings) == 0
    yield RunReader(root, "v2")


def test_a_run_says_at_its_end_what_the_network_is_worth_and_costs(finished: RunReader) -> None:
    lines = finished.events()[0]
    summary = lines[-1]["summary"]
    trained = next(line for line in lines if line["type"] == "trained")
    assert summary["test_accuracy"] == trained["test_accuracy"] and summary["parameters"] == trained["parameters"]
    assert summary["multiply_adds"] > 0 and summary["latency_ms"] > 0
    assert finished.info["title"] == "V2 trained from scratch on digits"
    assert {name for name, _ in finished.layout.tensors} == {"mix.normal", "mix.reduce"}


def test_a_killed_run_resumes_bit_identically(finished: RunReader, tmp_path: Path) -> None:
    settings = config(epochs=2)
    writer = new_run(tmp_path, "cut", settings, [])

    class Killed(Exception):
        pass

    def die(event: object) -> None:
        if isinstance(event, Step) and event.step == 5:
            raise Killed

    drive(writer, settings, die)  # ends as a failure after step 5
    reader = RunReader(tmp_path, "cut")
    assert reader.status().state == "failed" and reader.step_count() == 5
    assert drive(RunWriter.open(tmp_path, "cut"), settings) == 0
    resumed = [line for line in reader.events()[0] if line["type"] == "resumed"]
    assert resumed[-1]["identical"] is True
    assert reader.raw_steps() == finished.raw_steps()
    last = lambda run: run.read_checkpoint("e0002.safetensors")  # noqa: E731
    assert last(reader) == last(finished)


def test_the_report_of_a_training_shows_its_curves_and_nothing_that_only_a_search_has(finished: RunReader) -> None:
    page = report(finished).decode()
    data = json.loads(page.split('id="data">')[1].split("</script>")[0])
    assert "lecture" not in data and [card["title"] for card in data["reasons"]] == ["Loss", "Accuracy"]
    assert all(any(y is not None for y in t["y"]) for card in data["reasons"] for t in card["chart"]["data"])
    assert "The training" in page and "Why each edge is kept" not in page and "multiply-adds per image" in page
    with pytest.raises(BadInput, match="does not change"):
        export(published("DARTS_V2").genotype, "gif", "", finished)


@pytest.mark.parametrize("preset", ["quick", "cifar", "imagenet"])
@pytest.mark.parametrize("cell", ["DARTS_V2", "random:3", "skips"])
def test_the_command_of_a_training_leads_to_the_same_settings(preset: str, cell: str) -> None:
    """Also for a cell that is no released one: it stands in the command."""
    made = evaluation_config(preset, *cell_named(cell), {"dataset": "digits", "epochs": 3, "w_lr": 0.07})
    words = shlex.split(reproduction({"config": made.to_dict(), "parent": None, "command": []}))
    assert words[:4] == ["python", "-m", "darts_core", "evaluate"]
    told = dict(zip(words[4::2], words[5::2], strict=False))
    changes = dict(word.split("=", 1) for word in words[words.index("--preset") + 3 :: 2])
    again = evaluation_config(told["--preset"], *cell_named(told["--genotype"]),
                              {"dataset": told["--dataset"], **changes})  # fmt: skip
    free = {"threads": 0, "device": "auto", "backend": "auto"}
    assert again.with_(**free) == made.with_(**free)


def test_evaluate_trains_several_seeds_and_says_mean_and_spread(tmp_path: Path) -> None:
    words = [f"--set={name}={value}" for name, value in {**SMALL, "epochs": 1}.items() if name != "dataset"]
    told = CliRunner().invoke(
        app, ["evaluate", "--genotype", "darts-v1", "--dataset", "digits", "--seeds", "0-1", "--runs", str(tmp_path),
              "--json", *words],
    )  # fmt: skip
    assert told.exit_code == 0, told.output
    found = json.loads(told.output.strip().splitlines()[-1])
    rates = [row["test_accuracy"] for row in found["runs"]]
    assert found["count"] == 2 and found["mean"] == pytest.approx(sum(rates) / 2)
    assert found["std"] == pytest.approx(abs(rates[0] - rates[1]) / math.sqrt(2))


# ---- images on the disk


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("photos")
    g = torch.Generator().manual_seed(0)
    for split, count in (("train", 6), ("val", 2)):
        for label, name in enumerate(("bee", "cat", "dog")):
            folder = root / split / name
            folder.mkdir(parents=True)
            for i in range(count):
                pixels = torch.randint(0, 90, (20 + i, 24, 3), generator=g) + 50 * label
                Image.fromarray(pixels.to(torch.uint8).numpy()).save(folder / f"{i}.png")
    return root


def stream(photos: Path, **changes: Any) -> Stream:
    return Stream(photos, **{"seed": 1, "side": 16, "batch": 5, **changes})


def test_streamed_batches_do_not_depend_on_workers_order_or_batch_size(photos: Path) -> None:
    one, two, small = stream(photos), stream(photos, workers=1), stream(photos, batch=1)
    torch.manual_seed(0)
    before = torch.random.get_rng_state()
    whole = [one.batch("all", 2, i) for i in range(one.steps("all"))]
    assert torch.equal(before, torch.random.get_rng_state())
    again = two.batch("all", 2, 1)
    assert torch.equal(whole[1][0], again[0]) and torch.equal(whole[1][1], again[1])
    assert torch.equal(small.batch("all", 2, 5)[0], whole[1][0][:1])
    assert not torch.equal(one.batch("all", 3, 1)[0], whole[1][0])
    assert sorted(torch.cat([labels for _, labels in whole]).tolist()) == [0] * 6 + [1] * 6 + [2] * 6


def test_streamed_test_images_are_unaltered_and_come_in_order(photos: Path) -> None:
    batches = list(stream(photos).eval_batches("test", 4))
    assert [len(labels) for _, labels in batches] == [4, 2] and batches[0][0].shape == (4, 3, 16, 16)
    assert torch.equal(batches[0][0], next(iter(stream(photos, seed=9).eval_batches("test", 4)))[0])


def test_without_a_test_folder_a_fifth_of_each_class_is_held_out(photos: Path) -> None:
    found = stream(photos / "train")
    held = torch.cat([labels for _, labels in found.eval_batches("test", 9)])
    assert held.bincount().tolist() == [1, 1, 1] and len(found.members["all"]) == 15
    assert not set(found.members["all"].tolist()) & set(found.members["test"].tolist())


def test_a_folder_is_trained_on_as_imagenet_would_be(photos: Path, tmp_path: Path) -> None:
    changes = {"path": str(photos), "resize": 64, "cells": 3, "channels": 2, "batch": 9, "epochs": 1, "workers": 0}
    settings = evaluation_config("imagenet", V2, "V2", changes)
    assert drive(new_run(tmp_path, "photos", settings, []), settings) == 0
    assert RunReader(tmp_path, "photos").events()[0][-1]["summary"]["test_accuracy"] >= 0


def test_a_folder_that_is_none_is_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="fewer than two class folders"):
        stream(tmp_path)
    with pytest.raises(BadInput, match="no folder"):
        stream(tmp_path / "nowhere")
    with pytest.raises(BadInput, match="is not read while training"):
        image_task(config(stream=True), torch.device("cpu"))


def test_a_cell_without_an_operation_is_refused() -> None:
    empty = Genotype.from_json({"space": "x", "cells": {"normal": {"nodes": [[]], "output": [2]}}})
    with pytest.raises(BadInput, match="no operation at all"):
        space_of(empty)
