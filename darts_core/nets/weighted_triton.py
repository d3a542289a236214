"""The weighted sum of normalised maps (`weighted.py`) as Triton kernels: each map is read once forward, twice back.

Imported only where Triton is: with a CUDA build of PyTorch, or in its interpreter (TRITON_INTERPRET=1) for the tests.
Columns are edges times channels, so that neighbouring threads read neighbouring numbers; a map that the edges share is
read at its column modulo C. Sums are in float32 (float64 for float64 maps) whatever the maps are; means and squared
deviations of blocks of rows are merged as Chan, Golub and LeVeque (1983) do, which loses no digits to large means.
"""

# pyright: reportArgumentType=false, reportMissingImports=false, reportGeneralTypeIssues=false
# Triton wants its compile-time arguments called constexpr, and takes plain numbers; it is not installed everywhere.

from __future__ import annotations

from collections.abc import Sequence

import torch
import triton
import triton.language as tl
from torch import Tensor

from darts_core.nets.weighted import EPS, Layout, Sums

CHUNKS = 256  # of rows, at most: enough programs for every processor of a large GPU
TILE = 4096  # numbers that a program holds at once


@triton.jit
def _statistics(y, mean, squares, rows, width, chunk, BLOCK_M: tl.constexpr, BLOCK_C: tl.constexpr, ACC: tl.constexpr):
    """Mean and sum of squared deviations per column, of each chunk of rows: both (chunks, width)."""
    col = tl.program_id(0) * BLOCK_C + tl.arange(0, BLOCK_C)
    first = tl.program_id(1) * chunk
    last = tl.minimum(first + chunk, rows)
    inside = col < width
    m = tl.zeros((BLOCK_C,), ACC)
    s = tl.zeros((BLOCK_C,), ACC)
    for start in range(first, last, BLOCK_M):
        row = start + tl.arange(0, BLOCK_M)
        mask = (row < last)[:, None] & inside[None, :]
        t = tl.load(y + row[:, None].to(tl.int64) * width + col[None, :], mask, 0.0).to(ACC)
        n = (start - first).to(ACC)
        k = tl.minimum(last - start, BLOCK_M).to(ACC)
        own = tl.sum(t, 0) / k
        d = tl.where(mask, t - own[None, :], 0.0)
        apart = own - m
        m += apart * (k / (n + k))
        s += tl.sum(d * d, 0) + apart * apart * (n * k / (n + k))
    place = tl.program_id(1) * width + col
    tl.store(mean + place, m, inside)
    tl.store(squares + place, s, inside)


@triton.jit
def _weighted(
    ys, mean, inverse, weights, out, rows, width, C,
    K: tl.constexpr, SHARED: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_C: tl.constexpr, ACC: tl.constexpr,
):  # fmt: skip
    """out = sum over maps of weight * (y - mean) * inverse. Bit k of SHARED: map k has C columns."""
    row = tl.program_id(0) * BLOCK_M + tl.arange(0, BLOCK_M)
    col = tl.program_id(1) * BLOCK_C + tl.arange(0, BLOCK_C)
    inside = col < width
    mask = (row < rows)[:, None] & inside[None, :]
    edge = col // C
    far = row[:, None].to(tl.int64)
    total = tl.zeros((BLOCK_M, BLOCK_C), ACC)
    for k in tl.static_range(K):
        if (SHARED >> k) & 1:
            t = tl.load(ys[k] + far * C + (col % C)[None, :], mask, 0.0).to(ACC)
        else:
            t = tl.load(ys[k] + far * width + col[None, :], mask, 0.0).to(ACC)
        m = tl.load(mean + k * width + col, inside, 0.0)
        factor = tl.load(inverse + k * width + col, inside, 0.0) * tl.load(weights + edge * K + k, inside, 0.0)
        total += (t - m[None, :]) * factor[None, :]
    tl.store(out + far * width + col[None, :], total, mask)


@triton.jit
def _products(
    ys, grad, mean, inverse, s1, s2, rows, width, C, chunk,
    K: tl.constexpr, SHARED: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_C: tl.constexpr, ACC: tl.constexpr,
):  # fmt: skip
    """Sums of g (chunks, width) and of g * x (chunks, K, width) over each chunk of rows."""
    col = tl.program_id(0) * BLOCK_C + tl.arange(0, BLOCK_C)
    part = tl.program_id(1)
    first = part * chunk
    last = tl.minimum(first + chunk, rows)
    inside = col < width
    for k in tl.static_range(K):
        m = tl.load(mean + k * width + col, inside, 0.0)
        r = tl.load(inverse + k * width + col, inside, 0.0)
        of_g = tl.zeros((BLOCK_C,), ACC)
        of_gx = tl.zeros((BLOCK_C,), ACC)
        for start in range(first, last, BLOCK_M):
            row = start + tl.arange(0, BLOCK_M)
            mask = (row < last)[:, None] & inside[None, :]
            far = row[:, None].to(tl.int64)
            g = tl.load(grad + far * width + col[None, :], mask, 0.0).to(ACC)
            if (SHARED >> k) & 1:
                t = tl.load(ys[k] + far * C + (col % C)[None, :], mask, 0.0).to(ACC)
            else:
                t = tl.load(ys[k] + far * width + col[None, :], mask, 0.0).to(ACC)
            of_g += tl.sum(g, 0)
            of_gx += tl.sum(g * ((t - m[None, :]) * r[None, :]), 0)
        tl.store(s2 + (part * K + k) * width + col, of_gx, inside)
        if k == 0:
            tl.store(s1 + part * width + col, of_g, inside)


@triton.jit
def _back_own(
    ys, dys, grad, mean, inverse, weights, s1, s2, rows, width, C,
    K: tl.constexpr, SHARED: tl.constexpr, NORMED: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_C: tl.constexpr,
    ACC: tl.constexpr,
):  # fmt: skip
    """Gradients of the maps that have columns of their own for every edge."""
    row = tl.program_id(0) * BLOCK_M + tl.arange(0, BLOCK_M)
    col = tl.program_id(1) * BLOCK_C + tl.arange(0, BLOCK_C)
    inside = col < width
    mask = (row < rows)[:, None] & inside[None, :]
    place = row[:, None].to(tl.int64) * width + col[None, :]
    edge = col // C
    g = tl.load(grad + place, mask, 0.0).to(ACC)
    mean_g = tl.load(s1 + col, inside, 0.0) / rows
    for k in tl.static_range(K):
        if not ((SHARED >> k) & 1):
            r = tl.load(inverse + k * width + col, inside, 0.0)
            factor = r * tl.load(weights + edge * K + k, inside, 0.0)
            if (NORMED >> k) & 1:
                m = tl.load(mean + k * width + col, inside, 0.0)
                mean_gx = tl.load(s2 + k * width + col, inside, 0.0) / rows
                x = (tl.load(ys[k] + place, mask, 0.0).to(ACC) - m[None, :]) * r[None, :]
                d = factor[None, :] * (g - mean_g[None, :] - x * mean_gx[None, :])
            else:
                d = factor[None, :] * g
            tl.store(dys[k] + place, d, mask)


@triton.jit
def _back_shared(
    y, dy, grad, mean, inverse, weights, s1, s2, rows, width, C, E,
    K: tl.constexpr, INDEX: tl.constexpr, NORMED: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_C: tl.constexpr,
    ACC: tl.constexpr,
):  # fmt: skip
    """Gradient of map INDEX, which all edges share: the sum over the edges."""
    row = tl.program_id(0) * BLOCK_M + tl.arange(0, BLOCK_M)
    c = tl.program_id(1) * BLOCK_C + tl.arange(0, BLOCK_C)
    inside = c < C
    mask = (row < rows)[:, None] & inside[None, :]
    far = row[:, None].to(tl.int64)
    t = tl.load(y + far * C + c[None, :], mask, 0.0).to(ACC)
    total = tl.zeros((BLOCK_M, BLOCK_C), ACC)
    for e in range(E):
        col = e * C + c
        g = tl.load(grad + far * width + col[None, :], mask, 0.0).to(ACC)
        r = tl.load(inverse + INDEX * width + col, inside, 0.0)
        factor = r * tl.load(weights + e * K + INDEX)
        if NORMED:
            m = tl.load(mean + INDEX * width + col, inside, 0.0)
            mean_g = tl.load(s1 + col, inside, 0.0) / rows
            mean_gx = tl.load(s2 + INDEX * width + col, inside, 0.0) / rows
            x = (t - m[None, :]) * r[None, :]
            total += factor[None, :] * (g - mean_g[None, :] - x * mean_gx[None, :])
        else:
            total += factor[None, :] * g
    tl.store(dy + far * C + c[None, :], total, mask)


def _blocks(width: int) -> dict[str, int]:
    columns = min(128, triton.next_power_of_2(width))
    return {"BLOCK_M": max(1, TILE // columns), "BLOCK_C": columns}


def _chunks(rows: int, block: int) -> tuple[int, int]:
    """Rows in a chunk, and how many chunks."""
    chunk = triton.cdiv(triton.cdiv(rows, CHUNKS), block) * block
    return chunk, triton.cdiv(rows, chunk)


def _accumulate(dtype: torch.dtype) -> tuple[torch.dtype, tl.dtype]:
    return (torch.float64, tl.float64) if dtype == torch.float64 else (torch.float32, tl.float32)


def _bits(flags: Sequence[bool]) -> int:
    return sum(1 << k for k, flag in enumerate(flags) if flag)


def _statistics_of(y: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and 1 / deviation of each column of (M, width)."""
    rows, width = y.shape
    kind, acc = _accumulate(y.dtype)
    blocks = _blocks(width)
    chunk, count = _chunks(rows, blocks["BLOCK_M"])
    mean, squares = (torch.empty(count, width, dtype=kind, device=y.device) for _ in range(2))
    grid = (triton.cdiv(width, blocks["BLOCK_C"]), count)
    _statistics[grid](y, mean, squares, rows, width, chunk, **blocks, ACC=acc)
    sizes = (rows - chunk * torch.arange(count, device=y.device)).clamp(max=chunk).to(kind)[:, None]
    whole = (mean * sizes).sum(0) / rows
    variance = (squares.sum(0) + (sizes * (mean - whole).square()).sum(0)) / rows
    return whole, (variance + EPS).rsqrt()


def forward(weights: Tensor, layout: Layout, maps: Sequence[Tensor]) -> tuple[Tensor, Sums]:
    """As `weighted.forward`."""
    maps = [y.contiguous() for y in maps]
    rows, width = maps[0].shape[0], max(y.shape[1] for y in maps)
    kind, acc = _accumulate(maps[0].dtype)
    means, inverses = [], []
    for y, normed in zip(maps, layout.normed, strict=True):
        zero = torch.zeros(y.shape[1], dtype=kind, device=y.device)
        mean, inverse = _statistics_of(y) if normed else (zero, zero + 1)
        times = width // y.shape[1]
        means.append(mean.repeat(times))
        inverses.append(inverse.repeat(times))
    sums = Sums(torch.stack(means), torch.stack(inverses))
    out = torch.empty(rows, width, dtype=maps[0].dtype, device=maps[0].device)
    blocks = _blocks(width)
    grid = (triton.cdiv(rows, blocks["BLOCK_M"]), triton.cdiv(width, blocks["BLOCK_C"]))
    _weighted[grid](
        tuple(maps), *sums, weights.to(kind).contiguous(), out, rows, width, width // layout.edges,
        K=len(maps), SHARED=_bits([y.shape[1] != width for y in maps]), **blocks, ACC=acc,
    )  # fmt: skip
    return out, sums


def backward(
    grad: Tensor, weights: Tensor, layout: Layout, maps: Sequence[Tensor], sums: Sums, wanted: Sequence[bool]
) -> tuple[Tensor | None, list[Tensor | None]]:
    """As `weighted.backward`."""
    maps = [y.contiguous() for y in maps]
    rows, width = grad.shape
    channels, count = width // layout.edges, len(maps)
    kind, acc = _accumulate(grad.dtype)
    shared = [y.shape[1] != width for y in maps]
    blocks, wide = _blocks(width), weights.to(kind).contiguous()
    chunk, chunks = _chunks(rows, blocks["BLOCK_M"])
    s1 = torch.empty(chunks, width, dtype=kind, device=grad.device)
    s2 = torch.empty(chunks, count, width, dtype=kind, device=grad.device)
    _products[(triton.cdiv(width, blocks["BLOCK_C"]), chunks)](
        tuple(maps), grad, *sums, s1, s2, rows, width, channels, chunk,
        K=count, SHARED=_bits(shared), **blocks, ACC=acc,
    )  # fmt: skip
    s1, s2 = s1.sum(0), s2.sum(0)
    of_weights = s2.view(count, layout.edges, channels).sum(2).t().to(weights.dtype) if wanted[0] else None
    if not any(wanted[1:]):
        return of_weights, [None] * count
    found = [torch.empty_like(y) for y in maps]
    grid = (triton.cdiv(rows, blocks["BLOCK_M"]), triton.cdiv(width, blocks["BLOCK_C"]))
    if not all(shared):
        _back_own[grid](
            tuple(maps), tuple(found), grad, *sums, wide, s1, s2, rows, width, channels,
            K=count, SHARED=_bits(shared), NORMED=_bits(layout.normed), **blocks, ACC=acc,
        )  # fmt: skip
    blocks = _blocks(channels)
    grid = (triton.cdiv(rows, blocks["BLOCK_M"]), triton.cdiv(channels, blocks["BLOCK_C"]))
    for k, y in enumerate(maps):
        if shared[k] and wanted[1 + k]:
            _back_shared[grid](
                y, found[k], grad, *sums, wide, s1, s2, rows, width, channels, layout.edges,
                K=count, INDEX=k, NORMED=layout.normed[k], **blocks, ACC=acc,
            )  # fmt: skip
    return of_weights, [y if want else None for y, want in zip(found, wanted[1:], strict=True)]
