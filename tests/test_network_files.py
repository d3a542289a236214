"""A network with its weights as files: each is opened by something else and must say the same."""

from __future__ import annotations

import io
import json
import random
import subprocess
import sys
import zipfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load as load_tensors

import darts_core
from darts_core.__main__ import main
from darts_core.config import SearchConfig
from darts_core.derive import one_hot
from darts_core.drive import drive, new_run
from darts_core.errors import BadInput
from darts_core.evaluation import evaluation_config, settings_from
from darts_core.export import EXPORTS, export
from darts_core.genotype import CellGenes, Gene, Genotype, random_genotype
from darts_core.model_file import Card, Model, read
from darts_core.model_file import tested_on as measured_on
from darts_core.nets.derived import network_of
from darts_core.network_files import fresh, inherited, model_py, onnx, pt2, taken, weights, write
from darts_core.ops import OPS
from darts_core.runs import RunReader, import_run
from darts_core.search.state import from_bytes
from darts_core.space import SPACES, space_named
from darts_core.tasks import as_mix, image_task
from darts_core.zoo import published

V2 = published("DARTS_V2").genotype
SMALL = {"subset": 80, "channels": 4, "batch": 20, "epochs": 3, "threads": 1}


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A trained cell ("trained") and a search ("searched"), both tiny."""
    root = tmp_path_factory.mktemp("runs")
    small = {"dataset": "digits", "subset": 200, "cells": 3, "channels": 4, "batch": 20, "epochs": 3, "threads": 1}
    config = evaluation_config("quick", V2, "V2", {**small, "auxiliary": 0.4})
    assert drive(new_run(root, "trained", config, []), config) == 0
    more = {"strategy": "darts", "nodes": 2, "epochs": 1, "a_lr": 0.1, "stem_multiplier": 1}
    search = SearchConfig.from_dict({**small, **more, "subset": 120})
    assert drive(new_run(root, "searched", search, []), search) == 0
    yield root


def images(count: int = 3) -> torch.Tensor:
    return torch.randn(count, 1, 8, 8, generator=torch.Generator().manual_seed(3))


def cell_of(run: RunReader) -> Genotype:
    return Genotype.from_json([line for line in run.events()[0] if line["type"] == "result"][-1]["genotype"])


def in_a_clean_process(tmp_path: Path, code: str) -> str:
    """A Python that sees torch, and neither this package nor anything else of the clone."""
    hide = "import sys; sys.modules['darts_core'] = None; sys.modules['safetensors'] = None\n"
    done = subprocess.run([sys.executable, "-I", "-c", hide + code], capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout.strip()


def test_model_py_with_weights_says_in_a_clean_process_what_our_network_says(runs: Path, tmp_path: Path) -> None:
    for name in ("trained", "searched"):
        run = RunReader(runs, name)
        what = taken(cell_of(run), name, run)
        (tmp_path / "model.py").write_bytes(model_py(what))
        (tmp_path / "w.safetensors").write_bytes(weights(what))
        code = (
            f"sys.path.insert(0, {str(tmp_path)!r}); import torch, model; net = model.load('w.safetensors');"
            "x = torch.randn(3, 1, 8, 8, generator=torch.Generator().manual_seed(3));"
            "print(net(x).double().flatten().tolist())"
        )
        theirs = np.array([float(n) for n in in_a_clean_process(tmp_path, code).strip("[]").split(",")])
        ours = what.net.eval()(images()).detach().double().numpy().ravel()
        np.testing.assert_allclose(theirs, ours, atol=1e-6)


def test_model_py_can_hold_every_operation(tmp_path: Path) -> None:
    """One cell with all of them: whatever `ops.py` needs to build one must be in the file."""
    nodes = tuple(tuple(Gene(op, 0) for op in [*OPS][k::6]) for k in range(6))
    cell = CellGenes(nodes, tuple(range(2, 2 + len(nodes))))
    what = fresh(Genotype("darts", {"normal": cell, "reduce": cell}), "all")
    (tmp_path / "model.py").write_bytes(model_py(what))
    code = f"sys.path.insert(0, {str(tmp_path)!r}); import torch, model; net = model.network().eval();" \
           "print(sum(p.numel() for p in net.parameters()), tuple(net(torch.zeros(1, 3, 32, 32)).shape))"  # fmt: skip
    assert in_a_clean_process(tmp_path, code) == f"{sum(p.numel() for p in what.net.parameters())} (1, 10)"


IMAGE_SPACES = [name for name, entry in SPACES.items() if not entry.recurrent]


def a_search(root: Path, space: str) -> RunReader:
    """One short epoch in this space, driven to its end."""
    small = {"dataset": "digits", "subset": 80, "cells": 3, "channels": 4, "batch": 20, "epochs": 1, "threads": 1}
    more = {"strategy": "darts", "a_lr": 0.1, "stem_multiplier": 1, "stem_stride": 2, "reductions": "middle"}
    if space in ("darts", "s2", "s3", "s4", "sharp", "sharper"):
        more["nodes"] = 2
    settings = SearchConfig.from_dict({**small, **more, "space": space, "arch_batch": 20})
    assert drive(new_run(root, space, settings, []), settings) == 0
    return RunReader(root, space)


@pytest.mark.slow
def test_a_cell_of_every_space_becomes_a_file_that_torch_alone_runs_with_the_weights_of_its_search(
    tmp_path: Path,
) -> None:
    """The supernet under the one-hot mix, our derived network and model.py in a clean process say the same."""
    ours = {}
    for space in IMAGE_SPACES:
        run = a_search(tmp_path, space)
        cell, settings = cell_of(run), SearchConfig.from_dict(run.info["config"])
        what = taken(cell, space, run)
        (tmp_path / f"{space}.py").write_bytes(model_py(what))
        (tmp_path / f"{space}.safetensors").write_bytes(weights(what))
        torch.manual_seed(5)  # S4's noise is drawn anew at each call
        ours[space] = what.net.eval()(images()).detach()
        torch.manual_seed(5)
        assert torch.equal(read((tmp_path / f"{space}.safetensors").read_bytes(), "w")(images()), ours[space])
        if space == "s4":
            continue  # the supernet draws noise for edges that the cell does not have
        task = image_task(settings, torch.device("cpu"))
        net = task.supernet(task.space)
        net.load_state_dict(net.pack(from_bytes(run.read_checkpoint(run.checkpoints()[-1].file), "e").weights))
        hot = {kind: one_hot(spec, cell.cells[kind]) for kind, spec in task.space.cells.items()}
        assert torch.allclose(net(images(), as_mix(hot, torch.device("cpu")), None)[0], ours[space], atol=1e-5), space
    code = (
        f"sys.path.insert(0, {str(tmp_path)!r}); import importlib, json, torch\n"
        f"for space in {IMAGE_SPACES!r}:\n"
        "    net = importlib.import_module(space).load(f'{space}.safetensors')\n"
        "    x = torch.randn(3, 1, 8, 8, generator=torch.Generator().manual_seed(3)); torch.manual_seed(5)\n"
        "    print(json.dumps(net(x).double().flatten().tolist()))"
    )
    for space, line in zip(IMAGE_SPACES, in_a_clean_process(tmp_path, code).splitlines(), strict=True):
        np.testing.assert_allclose(json.loads(line), ours[space].double().numpy().ravel(), atol=1e-6, err_msg=space)


@pytest.mark.slow
@pytest.mark.parametrize("space", ["nasbench201", "mbconv"])
def test_a_trained_network_of_another_form_than_darts_is_exported_loaded_and_asked(space: str, tmp_path: Path) -> None:
    run = a_search(tmp_path, space)
    search = run.info["config"]
    config = evaluation_config("quick", cell_of(run), space, {**settings_from(search, cell_of(run)), **SMALL})
    assert drive(new_run(tmp_path, "trained", config, []), config) == 0
    trained = RunReader(tmp_path, "trained")
    what = taken(cell_of(trained), "", trained)
    files = {name: write(name, cell_of(trained), "", trained) for name in ("weights", "onnx", "pt2", "py")}
    model = read(files["weights"], "w")
    assert torch.equal(model(images()), what.net(images()))
    found = measured_on(model, "digits", None)["accuracy"]
    assert found == pytest.approx(trained.events()[0][-1]["summary"]["test_accuracy"])
    program = torch.export.load(io.BytesIO(files["pt2"]))
    assert torch.allclose(program.module()(images(4)), what.net(images(4)), atol=1e-5)
    onnxruntime = pytest.importorskip("onnxruntime")
    session = onnxruntime.InferenceSession(files["onnx"], providers=["CPUExecutionProvider"])
    (theirs,) = session.run(["logits"], {"images": images(4).numpy()})
    np.testing.assert_allclose(theirs, what.net(images(4)).detach().numpy(), atol=1e-4)


def test_what_makes_no_network_for_images_is_one_sentence() -> None:
    chain = random_genotype(space_named("mbconv", 3), random.Random(0))
    bench = random_genotype(space_named("nasbench201"), random.Random(0))
    out = Genotype("mbconv", {"chain": CellGenes(tuple((Gene("skip_connect", i),) for i in range(3)), (3,), 1)})
    odd = Genotype("x", {"chain": CellGenes(((Gene("sep_conv_3x3", 0),),), (1,), 1)})
    layout = {"image_channels": 1, "classes": 3, "channels": 4}
    for genotype, more, words in (
        (chain, {"cells": 5, "reductions": ()}, "set cells=3"),
        (out, {"cells": 3, "reductions": (1,)}, "halves the image"),
        (odd, {"cells": 1, "reductions": ()}, "unknown operation"),
        (bench, {"cells": 3, "reductions": (), "auxiliary": True}, "no auxiliary head"),
        (published("DARTS_V2_RNN").genotype, {"cells": 3, "reductions": ()}, "no network for images"),
        (Genotype("x", {"normal": V2.cells["normal"]}), {"cells": 3, "reductions": (1,)}, "no reduction cell"),
    ):
        with pytest.raises(BadInput, match=words):
            network_of(genotype, **layout, **more)  # type: ignore[arg-type]


@pytest.mark.parametrize("name", ["NASNet", "AmoebaNet", "FairDARTS_g", "PDARTS"])
def test_model_py_of_any_released_cell_builds_the_same_network(name: str, tmp_path: Path) -> None:
    what = fresh(published(name).genotype, name)
    source = model_py(what).decode()
    (tmp_path / "model.py").write_text(source, encoding="utf-8")
    code = f"sys.path.insert(0, {str(tmp_path)!r}); import model; print({{n: tuple(t.shape) for n, t in " \
           "model.network().state_dict().items()} == " \
           f"{ {n: tuple(t.shape) for n, t in what.net.state_dict().items()}!r})"  # fmt: skip
    assert in_a_clean_process(tmp_path, code) == "True"
    assert "darts_core" not in source


def test_the_weights_of_a_search_are_the_supernet_cut_to_its_cell(runs: Path) -> None:
    run = RunReader(runs, "searched")
    cell, config = cell_of(run), SearchConfig.from_dict(run.info["config"])
    task = image_task(config, torch.device("cpu"))
    net = task.supernet(task.space)
    state = from_bytes(run.read_checkpoint(run.checkpoints()[-1].file), "e")
    net.load_state_dict(net.pack(state.weights))
    hot = {kind: one_hot(spec, cell.cells[kind]) for kind, spec in task.space.cells.items()}
    expected, _ = net(images(), as_mix(hot, torch.device("cpu")), None)
    assert torch.allclose(inherited(cell, run).net(images()), expected, atol=1e-5)
    with pytest.raises(BadInput, match="batch statistics"):
        onnx(inherited(cell, run))


def test_onnx_runs_in_onnxruntime_and_agrees_at_any_batch_size(runs: Path) -> None:
    onnxruntime = pytest.importorskip("onnxruntime")
    run = RunReader(runs, "trained")
    session = onnxruntime.InferenceSession(write("onnx", cell_of(run), "", run), providers=["CPUExecutionProvider"])
    net = taken(cell_of(run), "", run).net
    for count in (1, 4):
        (theirs,) = session.run(["logits"], {"images": images(count).numpy()})
        np.testing.assert_allclose(theirs, net(images(count)).detach().numpy(), atol=1e-4)


def test_torch_export_loads_and_agrees_at_any_batch_size(runs: Path) -> None:
    run = RunReader(runs, "trained")
    what = taken(cell_of(run), "", run)
    program = torch.export.load(io.BytesIO(pt2(what)))
    for count in (1, 4):
        assert torch.allclose(program.module()(images(count)), what.net(images(count)), atol=1e-5)


def test_a_model_file_comes_back_whole_and_predicts(runs: Path, tmp_path: Path) -> None:
    run = RunReader(runs, "trained")
    file = tmp_path / "m.safetensors"
    file.write_bytes(write("weights", cell_of(run), "", run))
    model, from_folder = darts_core.load(file), darts_core.load(runs / "trained")
    assert torch.equal(model(images()), from_folder(images())) and model.classes == tuple("0123456789")
    task = image_task(SearchConfig.from_dict(run.info["config"]), torch.device("cpu"))
    x, _ = next(task.eval_batches("test", 1))
    picture = Image.fromarray(task.images.test[0, 0].numpy())
    assert torch.allclose(model.transform(picture), x[0], atol=1e-6)
    for other in (picture.resize((40, 25)), picture.convert("RGB"), picture.convert("RGBA")):
        assert model.transform(other).shape == (1, 8, 8)
    test = measured_on(model, "digits", None)
    assert test["accuracy"] == pytest.approx(run.events()[0][-1]["summary"]["test_accuracy"])


def test_predict_names_a_class_and_refuses_what_is_no_image(
    runs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    Image.new("L", (20, 20), 128).save(tmp_path / "grey.png")
    (tmp_path / "no.png").write_bytes(b"no image")
    words = ["predict", "--run", "trained", "--runs", str(runs)]
    for file, code in (("grey.png", 0), ("no.png", 2)):
        with pytest.raises(SystemExit) as done:
            main([*words, str(tmp_path / file)])
        assert done.value.code == code
    said = capsys.readouterr()
    assert "%" in said.out and "cannot be read as an image" in said.err
    with pytest.raises(SystemExit) as done:
        main(["predict", "--run", "searched", "--runs", str(runs), str(tmp_path / "grey.png")])
    assert done.value.code == 2 and "evaluate --run searched" in capsys.readouterr().err


def test_a_model_file_that_lies_is_one_sentence(runs: Path) -> None:
    what = fresh(V2, "V2")
    data = weights(what)
    tensors = load_tensors(data)
    assert isinstance(read(data, "m"), Model) and len(tensors) == len(what.net.state_dict())
    for change, words in (
        ({"channels": 1 << 30}, "must be from"), ({"cells": 0}, "must be from"), ({"stem": "x"}, "exactly"),
        ({"classes": 11}, "must be 11 names"), ({"channels": 10}, "needed"), ({"reductions": [9]}, "cells of"),
    ):  # fmt: skip
        layout = {**what.card.layout, "reductions": list(what.card.layout["reductions"]), **change}
        lied = {**what.card.to_json(), "layout": layout}
        with pytest.raises(BadInput, match=words):
            from safetensors.torch import save

            from darts_core import io as files

            read(save(tensors, metadata={"network": files.dumps(lied)}), "m")
    with pytest.raises(BadInput):
        Card.from_json([], "m")


@pytest.mark.parametrize("name", sorted(EXPORTS))
def test_every_format_writes_a_file_of_its_kind(name: str, runs: Path, tmp_path: Path) -> None:
    format, run = EXPORTS[name], RunReader(runs, "searched" if EXPORTS[name].made_of == "run" else "trained")
    try:
        data = write(name, cell_of(run), "t", run) if format.write is None else export(cell_of(run), name, "t", run)
    except BadInput as error:
        assert name == "mp4" and "ffmpeg" in str(error)  # this machine may have none
        return
    starts = {
        "pdf": b"%PDF", "png": b"\x89PNG", "svg": b"<svg", "gif": b"GIF89a", "zip": b"PK", "pt2": b"PK", "tikz": b"% ",
        "dot": b"digraph", "text": b"Genotype(", "json": b"{", "py": b'"""',
    }  # fmt: skip
    assert data.startswith(starts.get(name, b"")), data[:40]
    if name == "gif":
        with Image.open(io.BytesIO(data)) as film:
            assert film.n_frames == run.step_count() and film.size[0] > 300  # type: ignore[attr-defined]
    if name == "zip":
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            assert archive.testzip() is None
        assert import_run(tmp_path, data, "again").step_count() == run.step_count()
    if name == "json":
        (tmp_path / "g.json").write_bytes(data)
        assert Genotype.read(tmp_path / "g.json") == cell_of(run)
    if name == "text":
        assert Genotype.parse(data.decode()) == cell_of(run)
