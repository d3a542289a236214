"""Released checkpoints: files of exactly their layouts come in with every number; hostile files with one sentence."""

from __future__ import annotations

import argparse
import collections
import enum
import hashlib
import io
import json
import os
import pickle
import struct
import subprocess
import sys
import types
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from original import filled
from safetensors.torch import load as load_tensors
from torch import Tensor, nn
from typer.testing import CliRunner

from darts_core import import_pt as importing
from darts_core import torchfile
from darts_core.__main__ import main
from darts_core.errors import BadInput
from darts_core.import_pt import import_pt
from darts_core.model_file import read
from darts_core.nets.fixed import Network
from darts_core.nets.original import derived_to_original
from darts_core.nets.recurrent import RecurrentNetwork, from_original
from darts_core.zoo import published

GOLDEN = json.loads((Path(__file__).parent / "data" / "original_evaluation.json").read_text(encoding="utf-8"))
V2 = published("DARTS_V2").genotype


def shapes(layout: str) -> dict[str, tuple[int, ...]]:
    """Names and shapes of a released checkpoint; test_network.py holds the first two to the published ones."""
    if layout == "ptb":
        found = {"encoder.weight": (10_000, 850), "rnns.0._W0": (1700, 1700), "decoder.bias": (10_000,)}
        found |= {f"rnns.0._Ws.{i}": (850, 1700) for i in range(8)} | {"decoder.weight": (10_000, 850)}
        lines = sorted(f"{name} {','.join(map(str, shape))}" for name, shape in found.items())
        count, digest = GOLDEN["checkpoints"]["ptb"]["with"]
        assert (len(lines), hashlib.sha256("\n".join(lines).encode()).hexdigest()) == (count, digest)
        return found
    with torch.device("meta"):
        net = network(layout)
    return {derived_to_original(name, V2, net.places): tuple(t.shape) for name, t in net.state_dict().items()}


def network(layout: str) -> Network:
    if layout == "cifar":
        return Network(V2, 3, 10, auxiliary=True)
    return Network(V2, 3, 1000, 48, 14, (4, 9), stem="imagenet", auxiliary=True)


def state(layout: str, counters: bool = True) -> collections.OrderedDict[str, Tensor]:
    """A state dict as released; values differ by name. Without counters: as torch 0.3 saved it."""
    made = ((n, s) for n, s in shapes(layout).items() if counters or not n.endswith("num_batches_tracked"))
    return collections.OrderedDict(
        (n, torch.zeros(s, dtype=torch.long) if n.endswith("tracked") else torch.full(s, 0.01 + hash_of(n) % 997 / 997))
        for n, s in made
    )


def hash_of(name: str) -> int:
    return int.from_bytes(hashlib.sha256(name.encode()).digest()[:4], "little")


def saved(value: Any, path: Path, legacy: bool = False) -> Path:
    torch.save(value, path, _use_new_zipfile_serialization=not legacy)
    return path


@pytest.mark.parametrize("layout", ["cifar", "imagenet"])
@pytest.mark.parametrize("form", ["zip", "legacy without counters", "dict with state_dict", "from DataParallel"])
def test_a_file_of_a_released_layout_comes_in_number_by_number(layout: str, form: str, tmp_path: Path) -> None:
    made = state(layout, counters="without" not in form)
    value: Any = made
    if form == "dict with state_dict":
        value = {"epoch": 249, "state_dict": made, "best_acc_top1": 73.3, "optimizer": {"state": {}}}
    if form == "from DataParallel":
        value = collections.OrderedDict((f"module.{name}", t) for name, t in made.items())
    path = saved(value, tmp_path / "model.pt", legacy="legacy" in form)
    model = read(import_pt(path, V2, "DARTS_V2", layout), "model")
    net = model.net
    assert isinstance(net, Network)
    for name, t in net.state_dict().items():
        theirs = derived_to_original(name, V2, net.places)
        assert torch.equal(t, made.get(theirs, torch.zeros((), dtype=torch.long))), name
    assert "published" in model.card.note


def test_what_was_imported_computes_what_the_released_code_does(tmp_path: Path) -> None:
    """Random weights under the released names: our network filled directly, and through a file, say the same."""
    net = network("cifar").eval()
    theirs = {derived_to_original(name, V2, net.places): t for name, t in net.state_dict().items()}
    made = {n: filled(n, tuple(t.shape)).to(t.dtype) for n, t in theirs.items()}
    net.load_state_dict({ours: made[derived_to_original(ours, V2, net.places)] for ours in net.state_dict()})
    model = read(import_pt(saved(made, tmp_path / "m.pt"), V2, "V2", "cifar"), "model")
    x = torch.randn(2, 3, 32, 32)
    assert torch.equal(model(x), net(x)) and model.classes[3] == "cat"


@pytest.mark.parametrize("legacy", [False, True])
def test_the_language_model_comes_in_under_our_names(legacy: bool, tmp_path: Path) -> None:
    made = state("ptb")
    made["decoder.weight"] = made["encoder.weight"]  # tied, one storage in the file
    tensors = load_tensors(
        import_pt(saved(made, tmp_path / "ptb.pt", legacy), published("DARTS_V2_RNN").genotype, "V2", "ptb")
    )
    expected = from_original(made)
    assert tensors.keys() == expected.keys() and all(torch.equal(tensors[n], t) for n, t in expected.items())
    with torch.device("meta"):
        net = RecurrentNetwork(published("DARTS_V2_RNN").genotype, 10_000, 850)
    assert {n: t.shape for n, t in net.state_dict().items()} == {n: t.shape for n, t in tensors.items()}


@pytest.fixture
def stranger() -> Iterator[types.ModuleType]:
    """A module of classes that only the file's maker has."""
    module = types.ModuleType("model_of_someone")
    code = nn.Sequential

    class NetworkCIFAR(code):
        def __init__(self) -> None:
            super().__init__(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2))
            self.genotype = {"normal": [("skip_connect", 0)], "concat": range(2, 6)}

    NetworkCIFAR.__module__, NetworkCIFAR.__qualname__ = "model_of_someone", "NetworkCIFAR"
    module.NetworkCIFAR = NetworkCIFAR  # type: ignore[attr-defined]
    sys.modules["model_of_someone"] = module
    yield module
    sys.modules.pop("model_of_someone", None)


@pytest.mark.filterwarnings("ignore:Couldn't retrieve source code")  # of a class that is in no file
@pytest.mark.parametrize("legacy", [False, True])
def test_a_whole_pickled_module_is_read_through_inert_stand_ins(
    legacy: bool, tmp_path: Path, stranger: types.ModuleType
) -> None:
    net = stranger.NetworkCIFAR()
    data = saved(net, tmp_path / "whole.pt", legacy).read_bytes()
    sys.modules.pop("model_of_someone")
    found = load_tensors(torchfile.converted(data))
    assert "model_of_someone" not in sys.modules
    assert found.keys() == net.state_dict().keys()
    assert all(torch.equal(found[name], t) for name, t in net.state_dict().items())


def test_views_and_types_come_in_as_they_are(tmp_path: Path) -> None:
    base = torch.arange(24.0).view(4, 6)
    made = {
        "view": base[1:3, ::2], "transposed": base.T, "half": base.half(), "brain": base.bfloat16(),
        "bytes": base.to(torch.uint8), "flags": base > 5, "empty": torch.zeros(0, 3), "scalar": torch.tensor(3),
    }  # fmt: skip
    for legacy in (False, True):
        found = load_tensors(torchfile.converted(saved(made, tmp_path / "v.pt", legacy).read_bytes()))
        assert found.keys() == made.keys()
        for name, t in made.items():
            assert torch.equal(found[name], t) and found[name].dtype == t.dtype, name


GENOTYPE = collections.namedtuple("GENOTYPE", "normal")


class Colour(enum.Enum):
    RED = 1


def test_what_people_keep_beside_the_weights_is_no_reason_to_refuse_them(tmp_path: Path) -> None:
    """torch's own restricted reader refuses each of these."""
    table: Any = collections.defaultdict(list, {"loss": [1.0]})
    beside = {
        "metric": np.float64(0.5), "array": np.arange(3), "cells": GENOTYPE(normal=[("skip_connect", 0)]),
        "range": range(2, 6), "table": table, "place": Path("/tmp/x"), "options": argparse.Namespace(seed=1),
        "colour": Colour.RED,
    }  # fmt: skip
    made = {"w": torch.arange(4.0)}
    for legacy in (False, True):
        path = saved({"state_dict": made, **beside}, tmp_path / "more.pt", legacy)
        assert torch.equal(load_tensors(torchfile.converted(path.read_bytes()))["w"], made["w"])
    weights = collections.defaultdict(int, made)
    assert load_tensors(torchfile.converted(saved(weights, tmp_path / "d.pt").read_bytes())).keys() == made.keys()


# ---- hostile files


class Runs:
    """Pickles to a call of anything."""

    def __init__(self, function: Any, *words: Any) -> None:
        self.function, self.words = function, words

    def __reduce__(self) -> Any:
        return self.function, self.words


def zipped(members: dict[str, bytes], compression: int = zipfile.ZIP_STORED) -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", compression) as archive:
        for name, data in members.items():
            archive.writestr(f"archive/{name}", data)
    return out.getvalue()


def tensor_pickle(shape: tuple[int, ...], stride: tuple[int, ...], offset: int = 0, count: int = 4) -> bytes:
    """The data.pkl of one tensor "w", written by hand as torch writes it."""

    class Writer(pickle.Pickler):
        def persistent_id(self, value: Any) -> Any:
            return ("storage", torch.FloatStorage, "0", "cpu", count) if value == "the storage" else None

    out = io.BytesIO()
    more = (False, collections.OrderedDict())
    rebuild = Runs(torch._utils._rebuild_tensor_v2, "the storage", offset, shape, stride, *more)
    Writer(out, 2).dump({"w": rebuild})
    return out.getvalue()


def views_pickle(count: int, numbers: int) -> bytes:
    """The data.pkl of `count` tensors that are all the same storage of so many numbers."""

    class Writer(pickle.Pickler):
        def persistent_id(self, value: Any) -> Any:
            return ("storage", torch.FloatStorage, "0", "cpu", numbers) if value == "the storage" else None

    out = io.BytesIO()
    words = ("the storage", 0, (numbers,), (1,), False, collections.OrderedDict())
    Writer(out, 2).dump({f"w{k}": Runs(torch._utils._rebuild_tensor_v2, *words) for k in range(count)})
    return out.getvalue()


NUMBERS = struct.pack("<4f", 1, 2, 3, 4)
HOSTILE: dict[str, tuple[bytes, str]] = {
    "a command": (zipped({"data.pkl": pickle.dumps(Runs(os.system, "touch /tmp/owned"), 2)}), "which could run code"),
    "eval": (zipped({"data.pkl": pickle.dumps({"w": Runs(eval, "1+1")}, 2)}), "eval, which could run code"),
    "getattr": (zipped({"data.pkl": pickle.dumps(Runs(getattr, 1, "real"), 2)}), "getattr"),
    "a dotted name": (zipped({"data.pkl": b"\x80\x04\x8c\x05torch\x8c\x0dhub.os.system\x93."}), "could run code"),
    "an import": (zipped({"data.pkl": pickle.dumps(Runs(__import__, "os"), 2)}), "__import__"),
    "subprocess": (zipped({"data.pkl": pickle.dumps(Runs(subprocess.Popen, ["true"]), 2)}), "Popen, which could run"),
    "a zip bomb": (zipped({"data.pkl": b"\x80\x02}.", "data/0": bytes(9_000_000)}, zipfile.ZIP_DEFLATED), "compressed"),
    "a stride of zero": (zipped({"data.pkl": tensor_pickle((1 << 33,), (0,)), "data/0": NUMBERS}), "claims 8,589"),
    "a view beyond": (zipped({"data.pkl": tensor_pickle((2,), (9,)), "data/0": NUMBERS}), "its storage holds 4"),
    "a huge shape": (zipped({"data.pkl": tensor_pickle((1 << 40, 1 << 40), (1, 1)), "data/0": NUMBERS}), "claims"),
    "missing numbers": (zipped({"data.pkl": tensor_pickle((4,), (1,)), "data/0": b"\0"}), "numbers are missing"),
    "many views of the same numbers": (
        zipped({"data.pkl": views_pickle(50, 1 << 16), "data/0": bytes(1 << 18)}),
        "more than 4 times",
    ),
    "too many tensors": (zipped({"data.pkl": views_pickle(10_001, 0), "data/0": b""}), "10,001 tensors"),
    "no state": (zipped({"data.pkl": pickle.dumps([1, 2], 2)}), "holds no state dict"),
    "text": (b"hello", "no file that torch.save wrote"),
    "empty": (b"", "no file that torch.save wrote"),
    "a plain pickle": (pickle.dumps({"a": 1}, 2), "is damaged"),
    "a cut zip": (zipped({"data.pkl": b"\x80\x02}."})[:-30], "zip is damaged"),
    "a damaged pickle": (zipped({"data.pkl": b"\x80\x02}q\x00(X\xff\xff\xff\x7f"}), "is damaged"),
    "a list that holds itself": (zipped({"data.pkl": b"\x80\x02]q\x00h\x00a."}), "holds no state dict"),
    "a million marks": (zipped({"data.pkl": b"\x80\x02" + b"(" * 1_000_000 + b"."}), "is damaged"),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_file_is_refused_with_one_sentence(name: str) -> None:
    data, words = HOSTILE[name]
    with pytest.raises(BadInput) as refusal:
        torchfile.converted(data)
    assert words in str(refusal.value) and len(str(refusal.value).splitlines()) == 1
    assert not Path("/tmp/owned").exists()


def test_nothing_is_imported_while_a_file_is_read(tmp_path: Path) -> None:
    """The reader in a fresh process, asked for names of a package that is there: it stays unimported."""
    data = zipped({"data.pkl": b"\x80\x04\x8c\x0bantigravity\x8c\x04Here\x93)R."})
    for top in (b"\x0bantigravity", b"\x0bsklearn.svm"):
        path = tmp_path / "f.pt"
        path.write_bytes(data.replace(b"\x0bantigravity", top))
        code = f"import sys; from darts_core import torchfile; before = set(sys.modules)\n" \
               f"try: torchfile.converted(open({str(path)!r}, 'rb').read())\nexcept Exception: pass\n" \
               f"print({{'torch', 'sklearn', 'antigravity'}} & set(sys.modules) or 'none')"  # fmt: skip
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
        assert done.stdout.strip() == "none"


def test_the_child_has_limits_and_its_sentence_becomes_ours(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="model.pt: pickle: names .*system, which could run code"):
        importing.read_in_child(HOSTILE["a command"][0], "model.pt")
    greedy = b"\x80\x02" + b"].(" * 10 + b"X" + struct.pack("<I", 0xFFFFFFF0) + b"a."
    with pytest.raises(BadInput) as refusal:
        importing.read_in_child(zipped({"data.pkl": greedy}), "model.pt")
    assert len(str(refusal.value).splitlines()) == 1


@pytest.mark.parametrize("k", range(0, 400, 13))
def test_flipped_bytes_of_a_checkpoint_never_give_another_error(k: int, tmp_path: Path) -> None:
    whole = bytearray(saved({"w": torch.arange(4.0)}, tmp_path / "w.pt", legacy=k % 2 == 0).read_bytes())
    whole[k % len(whole)] ^= 0x5A
    try:
        torchfile.converted(bytes(whole))
    except BadInput as error:
        assert len(str(error).splitlines()) == 1


def test_weights_of_another_cell_are_refused_by_name(tmp_path: Path) -> None:
    path = saved(state("cifar"), tmp_path / "m.pt")
    with pytest.raises(BadInput, match="is it another cell's|is missing|needed"):
        import_pt(path, published("DARTS_V1").genotype, "DARTS_V1", "cifar")
    with pytest.raises(BadInput, match="names of the cifar layout; add --layout cifar"):
        import_pt(path, V2, "V2", "imagenet")
    with pytest.raises(BadInput, match="no name that a released checkpoint has"):
        import_pt(saved({"w": torch.zeros(2)}, tmp_path / "w.pt"), V2, "V2", "cifar")
    broken = state("cifar")
    broken["classifier.bias"][0] = float("nan")
    with pytest.raises(BadInput, match="not finite"):
        import_pt(saved(broken, tmp_path / "nan.pt"), V2, "V2", "cifar")


def test_the_command_writes_a_file_that_evaluate_can_test(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = saved(state("cifar", counters=False), tmp_path / "cifar10_model.pt", legacy=True)
    with pytest.raises(SystemExit) as done:
        main(["import-pt", str(path), "--genotype", "DARTS_V2", "--layout", "cifar"])
    assert done.value.code == 0 and (tmp_path / "cifar10_model.safetensors").is_file()
    assert "evaluate --weights" in capsys.readouterr().out, "it says what is next"
    with pytest.raises(SystemExit) as refused:
        main(["evaluate", "--weights", str(tmp_path / "cifar10_model.safetensors"), "--dataset", "digits"])
    assert refused.value.code == 2 and "channels" in capsys.readouterr().err


def test_help_of_the_commands_comes_without_torch() -> None:
    code = "import sys; from typer.testing import CliRunner; from darts_core.__main__ import app; " \
           "print(CliRunner().invoke(app, ['import-pt', '--help']).exit_code, 'torch' in sys.modules)"  # fmt: skip
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["0", "False"]
    assert CliRunner is not None
