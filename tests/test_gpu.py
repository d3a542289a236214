"""On an NVIDIA GPU: every route gives the steps of the CPU's reference, and a step is captured and replayed.

Where there is no GPU they are skipped; the same routes without capture are tested on the CPU, in `test_replay.py` and
`test_weighted.py`.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from small import config, images
from test_replay import near
from test_weighted import CASES, case
from torch import Tensor

from darts_core.config import SearchConfig
from darts_core.methods.darts import darts
from darts_core.nets import weighted
from darts_core.search.bilevel import Host, Search
from darts_core.search.replay import Unread
from darts_core.tasks import ImageTask

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore:TRITON_DEFAULT_FP_FUSION:UserWarning"),  # Triton 3.9 of its own next version
]
ROOT = Path(__file__).resolve().parent.parent


def search(settings: SearchConfig, device: str) -> Search:
    """In float64, from the same weights and alphas on either device."""
    made = ImageTask(settings, images(side=8), "cpu", torch.float64)
    one = Search(darts, made, settings, Host())
    if device == "cpu":
        return one
    state = one.state()
    other = Search(darts, ImageTask(settings, images(side=8), device, torch.float64), settings, Host())
    other.restore(state)
    return other


def steps_of(backend: str, device: str, count: int = 4, **changes: Any) -> tuple[dict[str, Tensor], list[Any], Search]:
    one = search(config(backend=backend, batch=10, w_decay=0.01, **changes), device)
    steps = [one.one_step() for _ in range(count)]
    tensors = {name: t.cpu() for name, t in one.state().tensors().items()}
    return tensors, [step.metrics for step in steps], one


@pytest.mark.parametrize("backend", ["reference", "fast", "graph", "triton"])
@pytest.mark.parametrize("order", ["1", "2", "exact"])
@pytest.mark.parametrize("space", ["tiny", "darts"])
def test_four_steps_are_those_of_the_reference_on_the_cpu(space: str, order: str, backend: str) -> None:
    """Rates reach fused updates as float32 and alphas are float32: to 1e-5, with the losses to 1e-6."""
    options = {"space": space, "nodes": 2, "channels": 4, "order": order}
    expected, numbers, _ = steps_of("reference", "cpu", **options)
    found, theirs, one = steps_of(backend, "cuda", **options)
    near(found, expected, 1e-5)
    for a, b in zip(theirs, numbers, strict=True):
        assert a["train_loss"] == pytest.approx(b["train_loss"], rel=1e-6)
        assert a["val_loss"] == pytest.approx(b["val_loss"], rel=1e-6)
    if backend in ("graph", "triton"):
        assert one.replay.reason == ""
        assert one.replay.slots and all(slot.graph is not None for slot in one.replay.slots.values())


def test_replays_equal_launches_one_by_one() -> None:
    """The same device, the same kernels: only the way of launching differs (sums by atomics aside)."""
    options = {"space": "darts", "nodes": 2, "channels": 4, "order": "2"}
    near(steps_of("graph", "cuda", 12, **options)[0], steps_of("fast", "cuda", 12, **options)[0], 1e-5)


def test_what_draws_random_numbers_is_launched_and_draws_them_again() -> None:
    found = [steps_of("graph", "cuda", skip_dropout=0.5, space="s2", nodes=2) for _ in range(2)]
    assert "random numbers" in found[0][2].replay.reason
    near(found[0][0], found[1][0], 1e-9)


def test_a_steered_setting_is_captured_anew() -> None:
    from darts_core.events import Order

    found = []
    for backend in ("fast", "graph"):
        one = search(config(backend=backend), "cuda")
        one.one_step()
        for order in (Order("a", "set", "w_decay", 0.3), Order("b", "ban", "normal-0-2", "skip_connect")):
            assert one.obey(order).accepted
            one.one_step()
        found.append({name: t.cpu() for name, t in one.state().tensors().items()})
    near(found[1], found[0], 1e-5)


def test_a_row_is_read_after_more_work_was_sent() -> None:
    sent = torch.arange(6.0, device="cuda").view(2, 3)
    unread = Unread({"a": sent.sum(), "b": sent})
    sent.add_(torch.ones(2, 3, device="cuda"))
    found = unread.read()
    assert found["a"] == 15 and (found["b"] == torch.arange(6.0).view(2, 3).numpy()).all()


def test_nothing_waits_while_a_step_is_launched() -> None:
    one = search(config(backend="graph"), "cuda")
    one.one_step()
    torch.cuda.set_sync_debug_mode("error")
    try:
        launched = one.launch()
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert one.recorded(launched).step == 2


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
@pytest.mark.parametrize("name", CASES)
def test_triton_s_kernels_give_what_the_formulas_give(name: str, dtype: torch.dtype) -> None:
    from darts_core.nets import weighted_triton

    close = {torch.float64: 1e-11, torch.float32: 1e-4, torch.bfloat16: 5e-2}[dtype]
    weights, layout, maps = case(name, dtype)
    exact = [y.double() for y in maps]
    out, sums = weighted_triton.forward(weights.cuda(), layout, [y.cuda() for y in maps])
    expected, known = weighted.forward(weights, layout, exact)
    torch.testing.assert_close(out.cpu().double(), expected, rtol=close, atol=close)
    grad = torch.randn(out.shape, generator=torch.Generator().manual_seed(4), dtype=torch.float64).to(dtype)
    wanted = (True,) * (1 + len(maps))
    found = weighted_triton.backward(grad.cuda(), weights.cuda(), layout, [y.cuda() for y in maps], sums, wanted)
    exactly = weighted.backward(grad.double(), weights, layout, exact, known, wanted)
    for a, b in zip((found[0], *found[1]), (exactly[0], *exactly[1]), strict=True):
        scale = max(1.0, float(b.abs().max()))
        torch.testing.assert_close(a.cpu().double() / scale, b / scale, rtol=close, atol=close)


def test_bfloat16_learns_like_float32() -> None:
    losses = []
    for precision in ("float32", "bfloat16"):
        settings = config(backend="graph", precision=precision, space="darts", nodes=2, channels=8)
        one = Search(darts, ImageTask(settings, images(side=8), "cuda"), settings, Host())
        steps = [one.one_step() for _ in range(4)]
        losses.append([step.metrics["train_loss"] for step in steps])
    assert losses[0][0] == pytest.approx(losses[1][0], rel=0.05)


def test_a_search_from_the_command_line_takes_the_graph_and_ends(tmp_path: Path) -> None:
    words = ["search", "--preset", "tiny", "--name", "one", "--runs", str(tmp_path), "--json"]
    for setting in ("epochs=2", "retrain_epochs=0", "random_cells=0", "device=cuda"):
        words += ["--set", setting]
    done = subprocess.run([sys.executable, "-m", "darts_core", *words], capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 0, done.stderr
    assert "graph supernet" in done.stdout.replace("\n", " ")
    assert json.loads(done.stdout.splitlines()[-1])["state"] == "finished"


def test_no_memory_left_is_one_sentence(tmp_path: Path) -> None:
    words = ["search", "--preset", "laptop", "--name", "large", "--runs", str(tmp_path)]
    for setting in ("channels=256", "batch=500", "arch_batch=500", "resize=256", "device=cuda", "stem_stride=1"):
        words += ["--set", setting]
    done = subprocess.run([sys.executable, "-m", "darts_core", *words], capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 2 and "GPU: memory: is used up by a batch of 500" in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1 and "Traceback" not in done.stdout + done.stderr
