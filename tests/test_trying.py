"""Derivation by perturbation at a checkpoint: what it decides, that it leaves the run alone, and the lab that asks."""

from __future__ import annotations

import io as memory
import json
import sys
from contextlib import redirect_stdout
from pathlib import Path

import pytest
import small
import torch
from streamlit.testing.v1 import AppTest

from app import process, stream
from darts_core import trying
from darts_core.config import preset_named
from darts_core.derive import strongest
from darts_core.drive import drive, new_run
from darts_core.errors import BadInput
from darts_core.legal import edge_named
from darts_core.runs import RunReader, derived
from darts_core.tasks import VALIDATE_AT_MOST

ROOT = Path(__file__).resolve().parent.parent
TINY = {
    "epochs": 1, "retrain_epochs": 0, "random_cells": 0, "subset": 240, "channels": 4, "batch": 30,
    "arch_batch": 30, "backend": "fast",
}  # fmt: skip


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Runs of one epoch each: a search, and a baseline without a supernet."""
    root = tmp_path_factory.mktemp("trying") / "runs"
    drawn = preset_named("known").config(strategy="random", score="table", trials=2)
    for name, config in (("one", preset_named("tiny").config(**TINY)), ("drawn", drawn)):
        with redirect_stdout(memory.StringIO()):
            assert drive(new_run(root, name, config, ["test"]), config) == 0
    return root


@pytest.fixture(scope="module")
def tried(folder: Path) -> derived.Tried:
    return trying.perturbed(RunReader(folder, "one"), tune=0)


def files(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def test_every_choice_is_the_one_that_is_missed_most() -> None:
    """Followed by hand: with the weight of each operation at zero in turn, and nothing else changed."""
    search = small.search(torch.float32)
    mirror = small.search(torch.float32)
    decided = 0
    for choices in trying.decisions(search, tune=0):
        for choice in choices:
            kind, edge = edge_named(search.space, choice.edge)
            cell = search.space.cells[kind]
            row = mirror.alphas.legal[kind][edge]
            if choice.kept:
                without = {}
                for column in row.nonzero().flatten().tolist():
                    mix = mirror.read()
                    rows = mix.ops[kind].clone()
                    rows[edge, column] = 0
                    changed = mix._replace(ops={**mix.ops, kind: rows})
                    without[cell.ops[column]] = mirror.task.measure(mirror.net, changed, "arch", VALIDATE_AT_MOST)
                accuracies = {op: found["accuracy"] for op, found in without.items() if op != "none"}
                assert choice.kept == min(accuracies, key=lambda op: accuracies[op])
                assert choice.without == accuracies[choice.kept]
                kept = torch.zeros_like(row)
                kept[cell.ops.index(choice.kept)] = True
                mirror.alphas.legal[kind][edge] = kept
                decided += 1
            else:
                mirror.alphas.legal[kind][edge] = False
    assert decided == sum(len(cell.edges) for cell in search.space.cells.values())
    for kind, legal in search.alphas.legal.items():
        assert torch.equal(legal, mirror.alphas.legal[kind])
        cell = search.space.cells[kind]
        for node in range(cell.nodes):
            left = [e for e in cell.edges_into(node) if bool(legal[e].any())]
            assert len(left) == min(cell.keep or 99, len(cell.edges_into(node)))


def test_tuning_moves_weights_between_choices_and_never_alphas() -> None:
    search = small.search()
    weights = {name: p.detach().clone() for name, p in search.params.items()}
    alphas = search.alphas.copied()
    choices = trying.decisions(search, tune=0)
    next(choices)
    next(choices)
    assert all(torch.equal(p, weights[name]) for name, p in search.params.items())
    search = small.search()
    choices = trying.decisions(search, tune=2)
    next(choices)
    next(choices)
    assert not all(torch.equal(p, weights[name]) for name, p in search.params.items())
    assert all(torch.equal(a, b) for a, b in zip(search.alphas.tensors(), alphas.tensors(), strict=True))
    assert (search.epoch, search.index) == (0, 0)


def test_a_checkpoint_gives_a_whole_cell_always_the_same_and_the_run_stays_as_it_is(
    folder: Path, tried: derived.Tried
) -> None:
    before = files(folder / "one")
    said: list[tuple[int, int]] = []
    again = trying.perturbed(RunReader(folder, "one"), 1, 0, lambda made, total: said.append((made, total)))
    assert files(folder / "one") == before
    assert (again.genotype, again.decisions, again.accuracy) == (tried.genotype, tried.decisions, tried.accuracy)
    assert [made for made, _ in said] == list(range(said[-1][1] + 1)), "progress from none to all, one by one"
    search = trying.search_at(RunReader(folder, "one"), "e0001.safetensors")
    for kind, cell in search.space.cells.items():
        usual = strongest(cell, search.read().ops[kind].numpy())
        assert [len(genes) for genes in tried.genotype.cells[kind].nodes] == [len(genes) for genes in usual.nodes]
        assert all(gene.op != "none" for genes in tried.genotype.cells[kind].nodes for gene in genes)


def test_what_was_found_is_kept_for_this_run_and_this_checkpoint_alone(
    folder: Path, tried: derived.Tried, monkeypatch: pytest.MonkeyPatch
) -> None:
    reader = RunReader(folder, "one")
    assert derived.read(reader, 1) is None
    path = derived.write(reader, tried)
    assert derived.read(reader, 1) == tried and derived.read(reader, 0) is None
    whole = json.loads(path.read_text())
    for change in ({"created": 1.0}, {"sha256": "0" * 64}):
        path.write_text(json.dumps(whole | change))
        assert derived.read(reader, 1) is None, "of another run, or of another checkpoint"
    for damage in ({"genotype": 3}, {"decisions": [{"edge": 1}]}, {"accuracy": "high"}, {"epoch": True}):
        path.write_text(json.dumps(whole | damage))
        with pytest.raises(BadInput):
            derived.read(reader, 1)
    path.unlink()


def test_without_a_supernet_or_a_checkpoint_one_sentence_says_so(folder: Path) -> None:
    with pytest.raises(BadInput, match="has no supernet"):
        trying.perturbed(RunReader(folder, "drawn"), 0)
    with pytest.raises(BadInput, match="no checkpoint of epoch 7"):
        trying.perturbed(RunReader(folder, "one"), 7)


# The lab


@pytest.fixture
def lab(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("DARTS_RUNS", str(folder))
    monkeypatch.setattr(stream, "SAMPLES", folder / "none")
    monkeypatch.setattr(process, "_trials", {})
    return folder


def open_lab() -> AppTest:
    test = AppTest.from_file(str(ROOT / "app" / "dashboard.py"), default_timeout=60)
    test.switch_page("app_pages/cells.py")
    test.query_params["run"] = "one"
    test.session_state["tabs"] = "Derivation lab"
    test.run()
    assert not test.exception, [found.value for found in test.exception]
    return test


def test_the_lab_starts_a_process_of_its_own_and_shows_its_progress_then_its_refusal(
    lab: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    script = "import sys, time; print('3 of 12 choices', flush=True); sys.stdin.read(); time.sleep({seconds})"
    started: list[tuple[str, ...]] = []

    def spawned(name: str, arguments: tuple[str, ...], threads: int, stdin: str = "") -> process.Launch:
        started.append(tuple(arguments))
        import subprocess
        import tempfile

        output = tempfile.TemporaryFile()  # noqa: SIM115
        made = subprocess.Popen(
            [sys.executable, "-c", script.format(seconds=60)], stdin=subprocess.DEVNULL, stdout=output
        )
        return process.Launch(name, arguments, made, output)

    monkeypatch.setattr(process, "_spawn", spawned)
    test = open_lab()
    test.button(key="try-out").click().run()
    (command,) = started
    assert command[:6] == ("derive", "one", "--rule", "perturbation", "--epoch", "1")
    launch = process.trying_out("one", 1)
    assert launch is not None
    try:
        import time

        until = time.monotonic() + 20
        while "choices" not in launch.printed() and time.monotonic() < until:
            time.sleep(0.05)
        test.run()
        (bar,) = test.get("progress")
        assert bar.value == 25 and "3 of 12 choices" in str(bar.proto)
        assert process.try_out("one", lab, 1) is launch, "one at a time"
    finally:
        launch.process.kill()
        launch.process.wait()
    test.run()
    assert test.error and test.button(key="try-out"), "it ended without a result: a sentence, and another try"


def test_the_lab_shows_the_cell_that_was_found_beside_the_other_rules(lab: Path, tried: derived.Tried) -> None:
    path = derived.write(RunReader(lab, "one"), tried)
    try:
        test = open_lab()
        assert not [button for button in test.button if button.key == "try-out"]
        captions = [caption.value for caption in test.caption]
        assert any(f"{100 * tried.accuracy:.1f} % whole" in caption for caption in captions)
        table = next(frame.value for frame in test.dataframe if "accuracy without it" in frame.value)
        assert table["edge"].tolist() == [decision.edge for decision in tried.decisions]
        path.write_text("{}")
        assert open_lab().error or not derived.read(RunReader(lab, "one"), 1)
    finally:
        path.unlink()
