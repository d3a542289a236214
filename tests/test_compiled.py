"""The compiled supernet is the reference supernet, with one thread and with two; and where it cannot be built."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from small import search
from test_fast import SPACES, mix
from torch import Tensor
from torch.func import functional_call

from darts_core.drive import _backend, settings_in
from darts_core.nets.compiled import CompiledSupernet
from darts_core.nets.kernels import Kernels, build
from darts_core.nets.mixed import Supernet
from darts_core.runs import RunReader
from darts_core.space import SearchSpace, space_named

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture(scope="module", autouse=True)
def allowed() -> Iterator[None]:
    """Elsewhere in the tests nothing is compiled; here it is, where there is a compiler."""
    patch = pytest.MonkeyPatch()
    patch.delenv(build.OFF, raising=False)
    if build.compiler() is None:
        pytest.skip("no C++ compiler on this machine")
    yield
    patch.undo()


@pytest.fixture(scope="module")
def kernels(allowed: None) -> Kernels:
    return Kernels(build.build())


@pytest.fixture
def threads(request: pytest.FixtureRequest) -> Iterator[int]:
    before = torch.get_num_threads()
    torch.set_num_threads(request.param)
    yield request.param
    torch.set_num_threads(before)


def pair(space: SearchSpace, kernels: Kernels, channels: int = 4, cells: int = 3) -> tuple[Supernet, CompiledSupernet]:
    torch.manual_seed(4)
    places = (1,) if cells > 1 else ()
    reference = Supernet(space, 2, 3, channels=channels, cells=cells, reductions=places, stem_multiplier=1).double()
    return reference, CompiledSupernet(reference, kernels)


def everything(net: Supernet | CompiledSupernet, space: SearchSpace, x: Tensor) -> dict[str, Tensor]:
    """Output and every gradient by name; weights by the reference's names."""
    image, weighing, params = x.clone().requires_grad_(), mix(space), dict(net.named_parameters())
    logits, carry = net(image, weighing)
    assert carry is None
    loss = (logits * torch.arange(3.0 * len(x), dtype=torch.float64).view(-1, 3)).sum()
    wanted = [image, *weighing.ops.values(), *params.values()]
    image_grad, *grads = torch.autograd.grad(loss, wanted, materialize_grads=True)
    count = len(weighing.ops)
    return {
        "logits": logits.detach(),
        "image": image_grad,
        **{f"mix {kind}": g for kind, g in zip(weighing.ops, grads, strict=False)},
        **net.unpack(dict(zip(params, grads[count:], strict=True))),
    }


def assert_equal(found: dict[str, Tensor], expected: dict[str, Tensor], relative: float = 1e-10) -> None:
    """Within `relative` of the largest entry of each tensor, or of 1e-2 where a tensor is all but zero."""
    assert found.keys() == expected.keys()
    for name, tensor in expected.items():
        scale = max(float(tensor.abs().max()), 1e-2)
        assert float((found[name] - tensor).abs().max()) <= relative * scale, name
        assert bool(torch.isfinite(found[name]).all()), name


@pytest.mark.parametrize("threads", [1, 2], indirect=True)
@pytest.mark.parametrize("side", [8, 7])
@pytest.mark.parametrize("name", SPACES)
def test_it_equals_the_reference_in_output_and_every_gradient(
    kernels: Kernels, name: str, side: int, threads: int
) -> None:
    reference, net = pair(SPACES[name], kernels)
    x = torch.randn(5, 2, side, side, generator=torch.Generator().manual_seed(6), dtype=torch.float64)
    assert_equal(everything(net, SPACES[name], x), everything(reference, SPACES[name], x))


@pytest.mark.parametrize("channels", [3, 5, 8, 11, 12, 16, 17, 36])
def test_any_number_of_channels(kernels: Kernels, channels: int) -> None:
    space = space_named("darts", 2)
    reference, net = pair(space, kernels, channels)
    x = torch.randn(3, 2, 6, 9, generator=torch.Generator().manual_seed(6), dtype=torch.float64)
    assert_equal(everything(net, space, x), everything(reference, space, x))


@pytest.mark.parametrize(("count", "side"), [(1, 1), (2, 1), (1, 2), (2, 3), (3, 20)])
def test_any_size_of_image_and_batch(kernels: Kernels, count: int, side: int) -> None:
    space = space_named("darts", 2)
    reference, net = pair(space, kernels)
    x = torch.randn(count, 2, side, side + side // 3, generator=torch.Generator().manual_seed(6), dtype=torch.float64)
    assert_equal(everything(net, space, x), everything(reference, space, x), relative=1e-8 if side < 3 else 1e-10)


def test_the_output_may_list_any_states(kernels: Kernels) -> None:
    cell = space_named("darts", 3).cells["normal"]
    space = SearchSpace("odd", {"normal": replace(cell, output=(4, 1, 2, 4))})
    reference, net = pair(space, kernels, cells=1)
    x = torch.randn(4, 2, 5, 5, generator=torch.Generator().manual_seed(6), dtype=torch.float64)
    assert_equal(everything(net, space, x), everything(reference, space, x))


def test_float32_is_as_near_as_float32_is(kernels: Kernels) -> None:
    space = space_named("darts", 2)
    reference, _ = pair(space, kernels, 8)
    x = torch.randn(8, 2, 8, 8, generator=torch.Generator().manual_seed(6))
    exact, _ = reference(x.double(), mix(space))
    rows = mix(space)
    single = rows._replace(ops={k: row.detach().float() for k, row in rows.ops.items()})
    logits, _ = CompiledSupernet(reference.float(), kernels)(x, single)
    torch.testing.assert_close(logits.double(), exact, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("threads", [1, 2, 3], indirect=True)
def test_equal_inputs_give_equal_bits(kernels: Kernels, threads: int) -> None:
    space = SPACES["darts"]
    _, net = pair(space, kernels)
    x = torch.randn(7, 2, 8, 8, generator=torch.Generator().manual_seed(6), dtype=torch.float64)
    first = everything(net, space, x)
    for _ in range(3):
        again = everything(net, space, x)
        assert all(torch.equal(again[name], first[name]) for name in first)


def test_gradients_of_the_mix_alone_are_the_same(kernels: Kernels) -> None:
    space = SPACES["darts"]
    x = torch.randn(4, 2, 8, 8, generator=torch.Generator().manual_seed(6), dtype=torch.float64)
    rows = []
    for net in pair(space, kernels):
        weighing = mix(space)
        fixed = {name: p.detach() for name, p in net.named_parameters()}
        logits, _ = functional_call(net, fixed, (x, weighing))
        rows.append(torch.autograd.grad(logits.pow(2).sum(), list(weighing.ops.values())))
    for a, b in zip(*rows, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-10)


@pytest.mark.parametrize("name", SPACES)
def test_second_derivatives_agree(kernels: Kernels, name: str) -> None:
    space, rows = SPACES[name], []
    for net in pair(space, kernels):
        weighing = mix(space)
        x = torch.randn(4, 2, 6, 6, generator=torch.Generator().manual_seed(8), dtype=torch.float64)
        tensors, params = list(weighing.ops.values()), list(net.parameters())
        grads = torch.autograd.grad(net(x, weighing)[0].pow(2).sum(), [*tensors, *params], create_graph=True)
        rows.append(torch.autograd.grad(sum((g * g).sum() for g in grads), tensors))
    for a, b in zip(*rows, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-8, atol=1e-9)


def test_drop_path_takes_the_pure_path(kernels: Kernels) -> None:
    space = SPACES["s2"]
    _, net = pair(space, kernels)
    x = torch.randn(16, 2, 6, 6, dtype=torch.float64)
    dropping = mix(space)._replace(drop={"skip_connect": torch.tensor(0.5, dtype=torch.float64)})
    torch.manual_seed(1)
    one = net(x, dropping)[0]
    torch.manual_seed(1)
    assert torch.equal(one, net.plain(net.flat)(x, dropping)[0])
    assert not torch.allclose(one, net(x, mix(space))[0])


@pytest.mark.parametrize("name", SPACES)
def test_packing_and_unpacking_is_the_identity(kernels: Kernels, name: str) -> None:
    reference, net = pair(SPACES[name], kernels)
    state = {n: p.detach() for n, p in reference.named_parameters()}
    assert torch.equal(net.pack(state)["flat"], net.flat)
    again = net.unpack(net.pack(state))
    assert again.keys() == state.keys() and all(torch.equal(again[n], t) for n, t in state.items())


@pytest.mark.parametrize("order", ["1", "2", "exact"])
def test_three_steps_of_a_search_agree_with_the_reference(kernels: Kernels, order: str) -> None:
    """Difference quotients lose digits: the published second order is compared within 1e-7."""
    found = [search(order=order, backend=backend, w_decay=0.01) for backend in ("reference", "compiled")]
    steps = [[one.one_step() for _ in range(3)] for one in found]
    close = 1e-7 if order == "2" else 1e-9
    for ours, theirs in zip(*(one.alphas.tensors() for one in found), strict=True):
        torch.testing.assert_close(theirs, ours, rtol=close, atol=close)
    states = [one.state() for one in found]
    assert states[0].weights.keys() == states[1].weights.keys()
    for name, weight in states[0].weights.items():
        torch.testing.assert_close(states[1].weights[name], weight, rtol=close, atol=close)
    assert [s.metrics["val_loss"] for s in steps[1]] == pytest.approx([s.metrics["val_loss"] for s in steps[0]])


# ---- where it is built, and where it is not


def test_without_a_compiler_the_pure_path_is_taken_and_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    monkeypatch.delenv("CXX", raising=False)
    for wanted in ("auto", "compiled"):
        backend, why = _backend(wanted, "", "cpu")
        assert backend == "fast" and "no C++ compiler" in why


@pytest.mark.parametrize("hidden", ["from the path", pytest.param("by a word", marks=pytest.mark.slow)])
def test_a_search_runs_from_the_command_line_without_a_compiler_and_says_so_once(tmp_path: Path, hidden: str) -> None:
    nothing = tmp_path / "nothing"
    nothing.mkdir()
    around = {name: value for name, value in os.environ.items() if name not in ("CXX", build.OFF)}
    around |= {"XDG_CACHE_HOME": str(tmp_path / "cache"), "PYTHONPATH": str(ROOT)}
    around |= {"PATH": str(nothing)} if hidden.endswith("path") else {build.OFF: "1"}
    words = ["search", "--preset", "tiny", "--name", "bare", "--runs", str(tmp_path / "runs"), "--json"]
    for setting in ("epochs=1", "channels=2", "retrain_epochs=0", "random_cells=0", "threads=1"):
        words += ["--set", setting]
    done = subprocess.run([sys.executable, "-m", "darts_core", *words], capture_output=True, text=True, env=around)
    assert done.returncode == 0, done.stderr
    said = (done.stdout + done.stderr).replace("\n", " ")  # a long line may be wrapped
    assert said.count("no C++ compiler") == 1 and "fast supernet" in said and "Traceback" not in said
    reader = RunReader(tmp_path / "runs", "bare")
    assert reader.status().state == "finished" and reader.step_count() == reader.status().total_steps > 0
    assert settings_in(reader, reader.checkpoints()[-1].file).backend == "fast"
    assert not (tmp_path / "cache").exists()  # nothing was built


def test_a_broken_compiler_is_one_too_few(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    broken = tmp_path / "c++"
    broken.write_text("#!/bin/sh\nexit 3\n")
    broken.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("CXX", raising=False)
    assert _backend("compiled", "", "cpu")[0] == "fast"


def test_a_run_keeps_the_backend_that_it_began_with(kernels: Kernels) -> None:
    assert _backend("auto", "", "cpu") == ("compiled", "")
    assert _backend("auto", "fast", "cpu") == ("fast", "")
    assert _backend("auto", "compiled", "cpu") == ("compiled", "")
    assert _backend("auto", "auto", "cpu") == ("fast", "")  # a run from before there was a choice
    assert _backend("reference", "", "cpu") == ("reference", "")
    assert _backend("auto", "", "cuda") == ("graph", "")


@pytest.mark.skipif(not hasattr(os, "getuid"), reason="owners of files as POSIX has them")
def test_a_library_that_others_may_write_is_not_loaded(
    kernels: Kernels, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    there = build.build()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    planted = tmp_path / "darts-workbench" / there.name
    planted.parent.mkdir(mode=0o700)
    planted.write_bytes(there.read_bytes())
    planted.chmod(0o777)
    assert build.ready() is None and _backend("compiled", "", "cpu")[0] == "fast"
    planted.chmod(0o700)
    assert build.ready() == planted


@pytest.mark.slow
def test_two_processes_may_build_at_once(tmp_path: Path) -> None:
    around = {**os.environ, "XDG_CACHE_HOME": str(tmp_path), "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-m", "darts_core.nets.kernels.build"]
    both = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=around) for _ in range(2)]
    said = [process.communicate(timeout=300)[0].strip() for process in both]
    assert said[0] == said[1] and Path(said[0]).is_file()
    assert [entry.name for entry in Path(said[0]).parent.iterdir()] == [Path(said[0]).name]


@pytest.mark.slow
def test_the_first_search_starts_a_build_and_does_not_wait_for_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import time

    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    began = time.monotonic()
    backend, why = _backend("auto", "", "cpu")
    assert backend == "fast" and "being built" in why and time.monotonic() - began < 5
    until = time.monotonic() + 240
    while build.ready() is None and time.monotonic() < until:
        time.sleep(0.2)
    assert _backend("auto", "", "cpu")[0] == "compiled"
    assert _backend("auto", "fast", "cpu")[0] == "fast"
