"""The weighted sum of normalised maps: formulas against autograd, Triton kernels (interpreted) against the formulas."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import Tensor

from darts_core.nets import weighted
from darts_core.nets.weighted import Layout, Sums, WeightedNorms, composed

ROOT = Path(__file__).resolve().parent.parent
TRITON = pytest.mark.skipif(importlib.util.find_spec("triton") is None, reason="Triton is not installed here")
CASES = {  # rows, channels, edges, (normed, shared) of each map
    "a fan": (70, 4, 3, ((True, True), (True, True), (False, True), (True, False), (True, False))),
    "one edge": (33, 5, 1, ((True, False), (False, False))),
    "shared only": (12, 3, 2, ((True, True), (False, True))),
    "own only": (90, 20, 7, ((True, False), (True, False))),
    "a single row": (1, 2, 2, ((True, False), (False, True))),
}


def case(name: str, dtype: torch.dtype = torch.float64) -> tuple[Tensor, Layout, list[Tensor]]:
    rows, channels, edges, kinds = CASES[name]
    g = torch.Generator().manual_seed(3)
    shapes = [(rows, channels if shared and edges > 1 else edges * channels) for _, shared in kinds]
    maps = [(3 * torch.randn(s, generator=g, dtype=torch.float64) + 5).to(dtype) for s in shapes]
    if name == "shared only":  # at least one map tells the width
        maps.append(torch.randn(rows, edges * channels, generator=g, dtype=torch.float64).to(dtype))
        kinds = (*kinds, (True, False))
    weights = torch.rand(edges, len(maps), generator=g, dtype=torch.float64)
    return weights, Layout(tuple(normed for normed, _ in kinds), edges), maps


@pytest.mark.parametrize("name", CASES)
def test_the_formulas_are_what_autograd_finds(name: str) -> None:
    weights, layout, maps = case(name)
    leaves = [t.requires_grad_() for t in (weights, *maps)]
    out = composed(weights, layout, maps)
    grad = torch.randn(out.shape, generator=torch.Generator().manual_seed(4), dtype=torch.float64)
    expected = torch.autograd.grad(out, leaves, grad)
    found = WeightedNorms.apply(weighted, layout, *leaves)
    torch.testing.assert_close(found, out, rtol=1e-11, atol=1e-12)
    for a, b in zip(torch.autograd.grad(found, leaves, grad), expected, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-10, atol=1e-11)


@pytest.mark.parametrize(("of_maps", "of_weights"), [(torch.float64, torch.float32), (torch.bfloat16, torch.float32)])
def test_sums_are_in_the_finer_of_two_types(of_maps: torch.dtype, of_weights: torch.dtype) -> None:
    weights, layout, maps = case("a fan", of_maps)
    weights = weights.to(of_weights)
    exact, known = weighted.forward(weights.double(), layout, [y.double() for y in maps])
    found, sums = weighted.forward(weights, layout, maps)
    close = 1e-12 if of_maps == torch.float64 else 1e-2
    assert found.dtype == of_maps
    torch.testing.assert_close(found.double(), exact, rtol=close, atol=close)
    wanted = (True,) * (1 + len(maps))
    slopes = weighted.backward(exact.to(of_maps), weights, layout, maps, sums, wanted)
    exactly = weighted.backward(exact, weights.double(), layout, [y.double() for y in maps], known, wanted)
    assert slopes[0] is not None and slopes[0].dtype == of_weights and {t.dtype for t in slopes[1]} == {of_maps}  # type: ignore[union-attr]
    torch.testing.assert_close(slopes[1][0].double(), exactly[1][0], rtol=close, atol=5 * close)  # type: ignore[union-attr]


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("held", ["weights", "maps", "every second"])
def test_what_nobody_asks_for_is_left_out_and_the_rest_stays_the_same(name: str, held: str) -> None:
    weights, layout, maps = case(name)
    inputs = [weights, *maps]
    asked = {
        "weights": [k > 0 for k in range(len(inputs))],
        "maps": [k == 0 for k in range(len(inputs))],
        "every second": [k % 2 == 0 for k in range(len(inputs))],
    }[held]
    total, sums = weighted.forward(weights, layout, maps)
    every = weighted.backward(total.cos(), weights, layout, maps, sums, [True] * len(inputs))
    some = weighted.backward(total.cos(), weights, layout, maps, sums, asked)
    for want, a, b in zip(asked, (every[0], *every[1]), (some[0], *some[1]), strict=True):
        assert (b is not None) == want
        if b is not None:
            torch.testing.assert_close(a, b, rtol=1e-12, atol=1e-12)


def test_second_derivatives_go_through_the_composed_form() -> None:
    weights, layout, maps = case("a fan")
    leaves = [t.requires_grad_() for t in (weights, *maps)]
    found = []
    for out in (composed(weights, layout, maps), WeightedNorms.apply(weighted, layout, *leaves)):
        grads = torch.autograd.grad(out.pow(2).sum(), leaves, create_graph=True)
        found.append(torch.autograd.grad(sum((g * g).sum() for g in grads), leaves))
    for a, b in zip(*found, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-9)


INTERPRETED = """
import sys
sys.path.insert(0, "tests")
import torch
from test_weighted import CASES, case
from darts_core.nets import weighted, weighted_triton

weighted_triton.TILE = 512                 # several blocks and chunks, even for small maps
weighted_triton.CHUNKS = 3
for name in CASES:
    for dtype, close in ((torch.float64, 1e-11), (torch.float32, 1e-4)):
        weights, layout, maps = case(name, dtype)
        exact = [y.double() for y in maps]
        out, sums = weighted_triton.forward(weights, layout, maps)
        expected, known = weighted.forward(weights, layout, exact)
        near = lambda a, b: torch.testing.assert_close(a.double(), b.double(), rtol=close, atol=close)
        near(out, expected)
        near(sums.mean, known.mean)
        near(sums.inverse, known.inverse)
        grad = torch.randn(out.shape, generator=torch.Generator().manual_seed(4), dtype=torch.float64)
        wanted = (True,) * (1 + len(maps))
        found = weighted_triton.backward(grad.to(dtype), weights, layout, maps, sums, wanted)
        exactly = weighted.backward(grad, weights, layout, exact, known, wanted)
        scale = max(1.0, float(exactly[0].abs().max()))
        near(found[0] / scale, exactly[0] / scale)
        for a, b in zip(found[1], exactly[1], strict=True):
            near(a, b)
print("every case agrees")
"""

BUILT = """
import triton, triton.language as tl
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource
from darts_core.nets import weighted_triton as kernels

target = GPUTarget("cuda", 90, 32)
for name in ("_statistics", "_weighted", "_products", "_back_own", "_back_shared"):
    kernel = getattr(kernels, name)
    for kind in ("fp32", "bf16", "fp64"):
        acc = tl.float64 if kind == "fp64" else tl.float32
        wide = "*fp64" if kind == "fp64" else "*fp32"
        given = {"BLOCK_M": 32, "BLOCK_C": 128, "ACC": acc, "K": 3, "SHARED": 1, "NORMED": 3, "INDEX": 0}
        maps = {"y", "dy", "grad", "out"}
        signature, constants = {}, {}
        for n, word in enumerate(kernel.arg_names):
            if word in given:
                signature[word], constants[(n,)] = "constexpr", given[word]
            elif word in ("ys", "dys"):
                signature[word] = (f"*{kind}",) * 3
            elif word in maps:
                signature[word] = f"*{kind}"
            elif word in ("rows", "width", "C", "E", "chunk"):
                signature[word] = "i32"
            else:
                signature[word] = wide
        made = triton.compile(ASTSource(kernel, signature, constants), target=target)
        assert ".target sm_90" in made.asm["ptx"] and len(made.asm["cubin"]) > 500
print("every kernel is built")
"""


def _said(code: str, folder: Path, **around: str) -> str:
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "TRITON_CACHE_DIR": str(folder), **around}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, env=environment)
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout


@TRITON
@pytest.mark.slow
def test_triton_s_kernels_interpreted_give_what_the_formulas_give(tmp_path: Path) -> None:
    assert "every case agrees" in _said(INTERPRETED, tmp_path, TRITON_INTERPRET="1")


@TRITON
@pytest.mark.slow
def test_triton_s_kernels_build_for_a_gpu_that_is_not_here(tmp_path: Path) -> None:
    """Down to machine code for Hopper, in each type of maps: what the interpreter accepts need not compile."""
    assert "every kernel is built" in _said(BUILT, tmp_path)


def test_sums_hold_one_row_per_map() -> None:
    weights, layout, maps = case("a fan")
    _, sums = weighted.forward(weights, layout, maps)
    assert isinstance(sums, Sums) and sums.mean.shape == sums.inverse.shape == (5, 12)
    assert bool((sums.mean[2] == 0).all()) and bool((sums.inverse[2] == 1).all())  # the identity is not normalised
