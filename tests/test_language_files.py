"""A recurrent model as files: each is opened by something else and must say the same; and checkpoints are tested."""

from __future__ import annotations

import io
import json
import math
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load as load_tensors
from safetensors.torch import save as save_tensors
from test_network_files import cell_of, in_a_clean_process

import darts_core
from darts_core import io as files
from darts_core.__main__ import main
from darts_core.config import SearchConfig
from darts_core.data.text import load_text
from darts_core.drive import drive, new_run
from darts_core.errors import BadInput
from darts_core.evaluation import evaluation_config
from darts_core.export import EXPORTS, export
from darts_core.language_export import model_py, taken, weights
from darts_core.language_file import LanguageFile, read
from darts_core.nets.recurrent import zero_carry
from darts_core.network_files import write
from darts_core.runs import RunReader
from darts_core.zoo import published

V2 = published("DARTS_V2_RNN").genotype
SMALL = {"units": 8, "batch": 16, "bptt": 8, "subset": 600, "threads": 1}


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A trained cell, its weights averaged at the end ("trained"), and a search ("searched"), both tiny."""
    root = tmp_path_factory.mktemp("runs")
    config = evaluation_config("text", V2, "V2", {**SMALL, "epochs": 10, "patience": 1, "w_lr": 60.0, "w_lr_min": 60.0})
    assert drive(new_run(root, "trained", config, []), config) == 0
    search = SearchConfig.from_dict(
        {**SMALL, "dataset": "markov", "space": "darts-rnn", "nodes": 2, "epochs": 1, "w_lr": 1.0, "momentum": 0.0}
    )
    assert drive(new_run(root, "searched", search, []), search) == 0
    yield root


def tokens(T: int = 6, B: int = 3) -> torch.Tensor:
    return torch.randint(8, (T, B), generator=torch.Generator().manual_seed(3))


@pytest.mark.parametrize("name", ["trained", "searched"])
def test_model_py_says_in_a_clean_process_what_our_network_says(name: str, runs: Path, tmp_path: Path) -> None:
    run = RunReader(runs, name)
    what = taken(cell_of(run), name, run)
    (tmp_path / "model.py").write_bytes(model_py(what))
    (tmp_path / "w.safetensors").write_bytes(weights(what))
    code = (
        f"sys.path.insert(0, {str(tmp_path)!r}); import torch, model; net = model.load('w.safetensors');"
        "t = torch.randint(8, (6, 3), generator=torch.Generator().manual_seed(3));"
        "said, carry = net(t, model.zero_carry(3, model.UNITS));"
        "assert len(model.write(net, 5, model.WORDS[0]).split()) == 6;"
        "nats, right = said.scored(t); nats.backward(); assert net.words.grad is not None;"
        "print(torch.cat([said.logits.flatten(), carry.flatten()]).double().tolist())"
    )
    theirs = np.array([float(n) for n in in_a_clean_process(tmp_path, code).strip("[]").split(",")])
    logits, carry = what(tokens())
    np.testing.assert_allclose(theirs, torch.cat([logits.flatten(), carry.flatten()]).double().numpy(), atol=1e-6)


@pytest.mark.parametrize("name", ["DARTS_V1_RNN", "ENAS_RNN"])
def test_model_py_of_any_released_cell_builds_the_same_network(name: str, tmp_path: Path) -> None:
    what = taken(published(name).genotype, name, None)
    source = model_py(what).decode()
    (tmp_path / "model.py").write_text(source, encoding="utf-8")
    shapes = {n: tuple(t.shape) for n, t in what.net.state_dict().items()}
    code = f"sys.path.insert(0, {str(tmp_path)!r}); import model; print({{n: tuple(t.shape) for n, t in " \
           f"model.network().state_dict().items()}} == {shapes!r})"  # fmt: skip
    assert in_a_clean_process(tmp_path, code) == "True"
    assert "darts_core" not in source


def stepwise(step: object, what: LanguageFile) -> np.ndarray:
    """The logits of a program of one step, walked over a text."""
    carry, found = np.zeros((3, what.card.units), np.float32), []
    for row in tokens():
        logits, carry = step(row.numpy(), carry)  # type: ignore[operator]
        found.append(logits)
    return np.stack(found)


def test_onnx_and_torch_export_walk_over_a_text_as_the_network_does(runs: Path) -> None:
    onnxruntime = pytest.importorskip("onnxruntime")
    run = RunReader(runs, "trained")
    what = taken(cell_of(run), "", run)
    ours = what(tokens())[0].numpy()
    session = onnxruntime.InferenceSession(write("onnx", cell_of(run), "", run), providers=["CPUExecutionProvider"])
    step = lambda row, carry: session.run(["logits", "carry_after"], {"tokens": row, "carry": carry})  # noqa: E731
    np.testing.assert_allclose(stepwise(step, what), ours, atol=1e-5)
    program = torch.export.load(io.BytesIO(write("pt2", cell_of(run), "", run))).module()

    def walk(row: np.ndarray, carry: np.ndarray) -> list[np.ndarray]:
        return [t.detach().numpy() for t in program(torch.from_numpy(row), torch.from_numpy(carry))]

    np.testing.assert_allclose(stepwise(walk, what), ours, atol=1e-5)


def test_a_model_file_comes_back_whole_and_is_that_of_the_averaged_weights(runs: Path, tmp_path: Path) -> None:
    run = RunReader(runs, "trained")
    file = tmp_path / "m.safetensors"
    file.write_bytes(write("weights", cell_of(run), "", run))
    model, from_folder = darts_core.load(file), darts_core.load(runs / "trained")
    assert isinstance(model, LanguageFile) and isinstance(from_folder, LanguageFile)
    assert torch.equal(model(tokens())[0], from_folder(tokens())[0])
    assert model.words == load_text("markov").vocabulary and len(model.write(7).split()) == 8
    told = [line for line in run.events()[0] if line["type"] == "trained"][-1]["metrics"]
    assert "averaged SGD" in " ".join(line.get("words", line.get("message", "")) for line in run.events()[0])
    assert model.card.facts["test_perplexity"] == pytest.approx(told["test_perplexity"])


def test_evaluate_tests_a_language_model_with_both_divisors(
    runs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = RunReader(runs, "trained")
    file = tmp_path / "m.safetensors"
    file.write_bytes(write("weights", cell_of(run), "", run))
    with pytest.raises(SystemExit) as done:
        main(["evaluate", "--weights", str(file), "--set", "test_columns=10", "--json"])
    assert done.value.code == 0
    found = json.loads(capsys.readouterr().out.splitlines()[-1])
    told = [line for line in run.events()[0] if line["type"] == "trained"][-1]["metrics"]
    assert found["perplexity"] == pytest.approx(told["test_perplexity"], rel=1e-6)
    rows = len(load_text("markov").test) // 10
    assert found["count"] == 10 * (rows - 1)
    assert math.log(found["perplexity_as_original"]) == pytest.approx(found["loss"] * (rows - 1) / rows)
    for words, message in (
        (["--dataset", "agreement"], "different tokens"), (["--set", "units=4"], "only test_columns"),
        (["--set", "test_columns=100000"], "from 1 to 1000"), (["--dataset", "digits"], "unknown text"),
    ):  # fmt: skip
        with pytest.raises(SystemExit) as refused:
            main(["evaluate", "--weights", str(file), *words])
        assert refused.value.code == 2 and message in " ".join(capsys.readouterr().err.split())


def test_a_released_checkpoint_is_tested_beside_its_published_figure(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A file in the layout of ptb_model.pt, made here: a model that finds every word equally likely."""
    words = [f"w{k}" for k in range(11)]
    for part in ("train", "valid", "test"):
        (tmp_path / f"ptb.{part}.txt").write_text("\n".join(" ".join(words) for _ in range(20)))
    units, vocabulary = 6, 12  # the eleven words and the end of a line
    made = {
        "encoder.weight": torch.zeros(vocabulary, units), "decoder.weight": torch.zeros(vocabulary, units),
        "decoder.bias": torch.zeros(vocabulary), "rnns.0._W0": torch.zeros(2 * units, 2 * units),
        **{f"rnns.0._Ws.{i}": torch.zeros(units, 2 * units) for i in range(8)},
    }  # fmt: skip
    torch.save(made, tmp_path / "ptb_model.pt")
    with pytest.raises(SystemExit) as done:
        main(["import-pt", str(tmp_path / "ptb_model.pt"), "--genotype", "DARTS_V2", "--layout", "ptb"])
    assert done.value.code == 0
    file = str(tmp_path / "ptb_model.safetensors")
    capsys.readouterr()
    with pytest.raises(SystemExit) as done:
        main(["evaluate", "--weights", file, "--path", str(tmp_path)])
    said = " ".join(capsys.readouterr().out.split())
    count = 20 * 12 - 1
    original = math.exp(math.log(12) * count / (count + 1))
    assert done.value.code == 0 and f"test perplexity 12.00 ({count} tokens of ptb, read in 1 column)" in said
    assert f"as the original does: {original:.2f}" in said and "55.68" in said and f"{original:.2f}" != "12.00"
    with pytest.raises(SystemExit) as refused:
        main(["evaluate", "--weights", file])
    assert refused.value.code == 2 and "Penn Treebank" in " ".join(capsys.readouterr().err.split())


def test_the_weights_of_a_search_are_no_model_and_that_is_said(runs: Path) -> None:
    run = RunReader(runs, "searched")
    for format in ("weights", "onnx", "pt2"):
        with pytest.raises(BadInput, match="evaluate --run searched"):
            write(format, cell_of(run), "", run)
    with pytest.raises(BadInput, match="evaluate --run searched"):
        darts_core.load(runs / "searched")


@pytest.mark.parametrize("name", sorted(EXPORTS))
def test_every_format_writes_a_recurrent_cell(name: str, runs: Path) -> None:
    format, run = EXPORTS[name], RunReader(runs, "searched" if EXPORTS[name].made_of == "run" else "trained")
    try:
        data = write(name, cell_of(run), "t", run) if format.write is None else export(cell_of(run), name, "t", run)
    except BadInput as error:
        assert name == "mp4" and "ffmpeg" in str(error)  # this machine may have none
        return
    starts = {
        "pdf": b"%PDF", "png": b"\x89PNG", "svg": b"<svg", "gif": b"GIF89a", "zip": b"PK", "pt2": b"PK",
        "dot": b"digraph", "text": b"Genotype(", "json": b"{", "py": b'"""',
    }  # fmt: skip
    assert data.startswith(starts.get(name, b"")), data[:40]


def test_a_model_file_that_lies_is_one_sentence() -> None:
    what = taken(V2, "V2", None)
    data = weights(what)
    tensors = load_tensors(data)
    again = read(data, "m")
    carry = zero_carry(3, again.net.units)
    assert torch.equal(again(tokens(), carry)[0], what(tokens())[0])
    for change, words in (
        ({"vocabulary": 1 << 40}, "must be from"), ({"units": 0}, "must be from"), ({"units": 16}, "needed"),
        ({"limit": -1}, "must be a number"), ({"level": "line"}, "must be one of"), ({"words": ["a"]}, "different"),
        ({"words": ["a"] * 8}, "different"), ({"more": 1}, "of this version"), ({"facts": []}, "must be text"),
    ):  # fmt: skip
        lied = {**what.card.to_json(), **change}
        with pytest.raises(BadInput, match=words):
            read(save_tensors(tensors, metadata={"language": files.dumps(lied)}), "m")
