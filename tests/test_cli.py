"""The command line as a person uses it: results, files, and one sentence for input that cannot be used."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from darts_core.__main__ import main
from darts_core.genotype import Genotype
from darts_core.runs import RunReader, RunWriter

QUICK = [
    "--preset", "tiny", "--set", "epochs=2", "--set", "channels=2", "--set", "train_portion=0.1",
    "--set", "retrain_epochs=0", "--set", "random_cells=0", "--set", "threads=1",
]  # fmt: skip


def run(*words: object) -> int:
    """Exit code of the command."""
    try:
        main([str(word) for word in words])
    except SystemExit as end:
        return int(end.code or 0)
    return 0


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with one finished run, called one."""
    folder = tmp_path_factory.mktemp("runs")
    assert run("search", *QUICK, "--name", "one", "--runs", folder) == 0
    return folder


def test_search_ends_with_json_that_names_run_and_genotype(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = [
        w.replace("retrain_epochs=0", "retrain_epochs=1").replace("random_cells=0", "random_cells=1") for w in QUICK
    ]
    assert run("search", *words, "--name", "full", "--runs", tmp_path, "--json") == 0
    told = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert told["state"] == "finished" and told["step"] == RunReader(tmp_path, "full").step_count()
    Genotype.from_json(told["genotype"])
    assert set(told["summary"]) == {"supernet", "pruned", "derived", "random"}


def test_every_step_is_recorded_and_the_mix_sums_to_one(root: Path) -> None:
    steps = RunReader(root, "one").steps()
    assert steps["step"].tolist() == list(range(1, len(steps) + 1))
    np.testing.assert_allclose(steps["mix.normal"].sum(-1), 1, rtol=1e-5)


def test_derive_gives_the_run_s_result_and_any_step(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("derive", "one", "--runs", root, "--json") == 0
    result = [e for e in RunReader(root, "one").events()[0] if e["type"] == "result"][-1]["genotype"]
    assert json.loads(capsys.readouterr().out) == result
    assert run("derive", "one", "--step", 1, "--runs", root) == 0
    assert "node 0 =" in capsys.readouterr().out


SIGNATURES = {"json": b"{", "text": b"Genotype(", "svg": b"<svg", "pdf": b"%PDF", "png": b"\x89PNG", "dot": b"digraph"}


@pytest.mark.parametrize("format", SIGNATURES)
def test_export_writes_each_format(root: Path, tmp_path: Path, format: str) -> None:
    target = tmp_path / f"cell.{format}"
    assert run("export", "one", "--format", format, "--out", target, "--runs", root) == 0
    data = target.read_bytes()
    assert SIGNATURES[format] in data[:400]
    if format in ("json", "text"):
        again = tmp_path / "again.json"
        assert run("export", "--genotype", target, "--format", "json", "--out", again) == 0
        cells = Genotype.read(again).cells
        assert cells == Genotype.read(target).cells


def test_branch_goes_on_from_the_parent_s_epoch_with_other_settings(root: Path) -> None:
    assert run("branch", "one", "--epoch", 1, "--set", "a_lr=0.5", "--name", "child", "--runs", root) == 0
    parent, child = RunReader(root, "one"), RunReader(root, "child")
    assert child.info["parent"]["run"] == "one" and child.info["config"]["a_lr"] == 0.5
    half = parent.step_count() // 2
    assert child.first_step == half + 1 and child.step_count() == half
    first = child.steps()[0]
    assert first["metrics"][4] == parent.steps()[half]["metrics"][4]  # the same weights' rate, another alphas' rate
    assert first["metrics"][5] == np.float32(0.5)
    assert (
        first["metrics"][2] == parent.steps()[half]["metrics"][2]
    )  # same weights, same batch: the same validation loss


def test_repeat_is_identical_with_the_orders_given_again(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("repeat", "one", "--name", "again", "--runs", root, "--json") == 0
    told = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert told["identical"] and told["steps"] == RunReader(root, "one").step_count()


def test_seeds_run_in_turn(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("search", *QUICK, "--set", "epochs=1", "--seeds", "0-1", "--name", "many", "--runs", tmp_path) == 0
    assert [RunReader(tmp_path, f"many-s{k}").info["seed"] for k in (0, 1)] == [0, 1]
    assert "many-s1" in capsys.readouterr().out


def test_runs_lists_states(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("runs", "--runs", root, "--json") == 0
    rows = {row["name"]: row["state"] for row in json.loads(capsys.readouterr().out)}
    assert rows["one"] == "finished"


def _picture(path: Path, side: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.full((side, side), 90, np.uint8)).save(path)


def _folder(base: Path, sides: tuple[int, ...] = (8, 8), classes: int = 2) -> Path:
    for k in range(classes):
        for i, side in enumerate(sides):
            _picture(base / f"class{k}" / f"{i}.png", side)
    return base


BAD = {
    "unknown setting": (["--set", "chanels=4"], "channels"),
    "value out of range": (["--set", "epochs=0"], "epochs"),
    "not a number": (["--set", "a_lr=fast"], "a_lr"),
    "no equals sign": (["--set", "a_lr"], "NAME=VALUE"),
    "unknown strategy": (["--strategy", "dart"], "did you mean 'darts'"),
    "unknown data set": (["--dataset", "digit"], "did you mean 'digits'"),
    "unknown space": (["--space", "s9"], "known: darts"),
    "unknown order": (["--order", "3"], "exact"),
    "unknown preset": (["--preset", "tinny"], "did you mean 'tiny'"),
    "path not there": (["--dataset", "folder", "--path", "/not/there"], "/not/there"),
    "path missing": (["--dataset", "folder"], "path"),
    "batch larger than the split": (["--set", "batch=5000"], "larger than"),
    "empty split": (["--set", "subset=10", "--set", "train_portion=0.01"], "no training images"),
    "run name taken": (["--name", "one"], "one"),
    "run name that is a path": (["--name", "../x"], "name"),
    "seeds": (["--seeds", "many"], "--seeds"),
    "device": (["--set", "device=mps"], "mps"),
}


@pytest.mark.parametrize("words, expected", BAD.values(), ids=BAD.keys())
def test_bad_input_is_one_sentence_and_exit_code_two(
    root: Path, words: list[str], expected: str, capsys: pytest.CaptureFixture[str]
) -> None:
    before = (root / "one" / "steps.bin").read_bytes()
    assert run("search", *QUICK, "--runs", root, *words) == 2
    said = capsys.readouterr()
    lines = [line for line in said.err.splitlines() if line.strip()]
    assert len(lines) == 1 and expected in lines[0] and ";" in lines[0], said.err
    assert "Traceback" not in said.out + said.err
    assert (root / "one" / "steps.bin").read_bytes() == before


@pytest.mark.parametrize("case", ["two sizes", "one class", "label out of range"])
def test_bad_images_are_one_sentence(tmp_path: Path, case: str, capsys: pytest.CaptureFixture[str]) -> None:
    if case == "label out of range":
        path = tmp_path / "data.npz"
        np.savez(path, images=np.zeros((20, 8, 8), np.uint8), labels=np.array([0, 1] * 9 + [0, -1]))
        words = ["--dataset", "npz", "--path", path]
    else:
        folder = (
            _folder(tmp_path / "data", sides=(8, 9)) if case == "two sizes" else _folder(tmp_path / "data", classes=1)
        )
        words = ["--dataset", "folder", "--path", folder]
    assert run("search", *QUICK, *words, "--runs", tmp_path / "runs", "--name", "bad") == 2
    err = capsys.readouterr().err.strip()
    assert len(err.splitlines()) == 1 and str(tmp_path) in err, err
    status = RunReader(tmp_path / "runs", "bad").status()
    assert status.state == "failed" and status.message in err


@pytest.mark.parametrize(
    "words",
    [
        ("search", "--preset", "ptb"), ("search", "--preset", "wt2", "--path", "nowhere"), ("cost", "--preset", "wt2"),
        ("search", "--dataset", "folder"), ("evaluate", "--preset", "ptb", "--genotype", "DARTS_V2_RNN"),
        ("compare", "--preset", "ptb"), ("select", "--preset", "wt2", "--name", "best"),
    ],
    ids=" ".join,
)  # fmt: skip
def test_data_that_cannot_be_there_is_refused_before_anything_is_made(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, words: tuple[str, ...], capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("DARTS_RUNS", str(tmp_path / "runs"))
    assert run(*words) == 2
    said = capsys.readouterr().err
    assert ("needs one; " in said and "set path to" in said) or "nowhere: path: is not there" in said
    assert said.count("\n") == 1 and not (tmp_path / "runs").exists()


def test_nan_loss_is_one_sentence_and_the_run_can_be_branched(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = [
        "--set",
        "w_lr=10",
        "--set",
        "clip=1000000",
        "--set",
        "epochs=400",
        "--set",
        "momentum=0.99",
        "--set",
        "w_decay=1",
    ]
    assert run("search", *QUICK, *words, "--name", "nan", "--runs", root) == 2
    err = capsys.readouterr().err.strip()
    assert len(err.splitlines()) == 1 and ("became NaN" in err or "became infinite" in err) and "branch" in err
    status = RunReader(root, "nan").status()
    assert status.state == "failed" and "became" in status.message
    assert (
        run(
            "branch",
            "nan",
            "--epoch",
            0,
            "--set",
            "w_lr=0.05",
            "--set",
            "epochs=1",
            "--set",
            "w_decay=0",
            "--name",
            "mended",
            "--runs",
            root,
        )
        == 0
    )


def test_a_run_open_in_another_process_is_refused(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with RunWriter.open(root, "nan"):
        assert run("resume", "nan", "--runs", root) == 2
    assert str(os.getpid()) in capsys.readouterr().err


@pytest.mark.parametrize("command", ["resume", "derive", "branch", "repeat", "export"])
def test_a_run_that_is_not_there_is_one_sentence(root: Path, command: str, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["--epoch", "1"] if command == "branch" else []
    assert run(command, "onee", *words, "--runs", root) == 2
    assert "did you mean 'one'" in capsys.readouterr().err


@pytest.mark.parametrize(
    "file, size", [("steps.bin", 0), ("steps.bin", 100), ("steps.bin", 4097), ("events.jsonl", 7), ("run.json", 20)]
)
def test_a_run_folder_cut_off_anywhere_never_gives_a_traceback(
    root: Path, tmp_path: Path, file: str, size: int, capsys: pytest.CaptureFixture[str]
) -> None:
    import shutil

    shutil.copytree(root / "one", tmp_path / "one")
    data = (tmp_path / "one" / file).read_bytes()
    (tmp_path / "one" / file).write_bytes(data[:size])
    for command in (
        ["derive", "one"],
        ["runs"],
        ["export", "one", "--out", str(tmp_path / "x.json")],
        ["resume", "one"],
    ):
        code = run(*command, "--runs", tmp_path)
        said = capsys.readouterr()
        assert code in (0, 2) and "Traceback" not in said.out + said.err
        if code == 2:
            assert len(said.err.strip().splitlines()) == 1


def test_an_order_to_a_run_that_nobody_runs_is_one_sentence(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("order", "one", "pause", "--runs", root) == 2
    assert "no process is running it" in capsys.readouterr().err
    assert run("order", "one", "set", "--runs", root) == 2
    assert "NAME=VALUE" in capsys.readouterr().err


def test_ctrl_c_stops_cleanly_and_resume_goes_on(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "darts_core"]
    words = [*command, "search", *QUICK, "--set", "epochs=25", "--name", "long", "--runs", str(tmp_path)]
    process = subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    end = time.monotonic() + 120
    while time.monotonic() < end and not (
        (tmp_path / "long" / "run.json").is_file() and RunReader(tmp_path, "long").step_count() > 3
    ):
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=120)
    reader = RunReader(tmp_path, "long")
    assert process.returncode == 0, err
    assert "resume long" in out and "Traceback" not in out + err
    assert reader.status().state == "interrupted"
    stopped = reader.step_count()
    again = subprocess.run(
        [*command, "resume", "long", "--runs", str(tmp_path)], capture_output=True, text=True, timeout=120
    )
    assert again.returncode == 0, again.stderr
    status = RunReader(tmp_path, "long").status()
    assert status.state == "finished" and status.step == status.total_steps > stopped
