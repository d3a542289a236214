"""The cell of `recurrent_fast.py` with compiled passes between its matrix products (`kernels/recurrent.cpp`).

The walk over a sequence is the same, forward and back; what lies between two products is one call that goes over the
memory once. Products stay with PyTorch, and so do second derivatives, half precision and other devices, which take the
fast form's way by themselves.

`tests/test_recurrent.py` compares output and every gradient with the reference in float64.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from darts_core.nets.compiled import Buffers
from darts_core.nets.kernels import Kernels
from darts_core.nets.recurrent import Masks, bounded, masked
from darts_core.nets.recurrent_fast import FastRecurrentCell, bounded_back, differentiable, gradients, masks_from
from darts_core.space import CellSpec

COLUMNS = {"tanh": 0, "relu": 1, "sigmoid": 2, "identity": 3}  # of the weights in kernels/recurrent.cpp
MASS = 4  # their sum


class CompiledRecurrentCell(FastRecurrentCell):
    """The same weights and the same function; float32 and float64 on the CPU."""

    def __init__(self, cell: CellSpec, units: int, limit: float, kernels: Kernels) -> None:
        super().__init__(cell, units, limit)
        self.kernels, self.memory = kernels, Buffers()

    def forward(self, x: Tensor, h: Tensor, rows: Tensor, masks: Masks) -> Tensor:
        if x.device.type != "cpu" or x.dtype not in (torch.float32, torch.float64):
            return super().forward(x, h, rows, masks)
        mx, mh = (x.new_empty(0) if m is None else m.to(x.dtype).contiguous() for m in masks)
        keep = torch.is_grad_enabled()
        return CompiledWalk.apply(self, x, h, rows, self.first, self.matrices, mx, mh, keep)  # type: ignore[no-any-return]

    def columns_from(self, rows: Tensor) -> list[Tensor]:
        """Per state the weights of the nodes that it feeds as the kernel reads them, (nodes fed, 5)."""
        wide = rows.new_zeros(len(rows), MASS + 1)
        for op, o in self.columns.items():
            wide[:, COLUMNS[op]] = rows[:, o]
        wide[:, MASS] = wide[:, :MASS].sum(-1)
        return [wide[index].contiguous() for index in self.rows_from]


class Room:
    """The memory of one walk: tensors for the products, addresses of their steps for the kernel.

    Args:
        steps: how many steps are kept: all of them where a way back follows, else one.
    """

    def __init__(self, cell: CompiledRecurrentCell, like: Tensor, steps: int, B: int, drops: bool) -> None:
        n, N = cell.units, cell.cell.nodes
        shapes = [(steps, B, 2 * (N - j) * n) for j in range(N)]  # both: gates and functions of the nodes fed
        shapes += [(N + 1, steps, B, n), (N + 1, steps, n), (steps, B, n), (B, N, n), (B, n)]
        shapes += [(N, steps, B, n)] if drops else []
        sizes = [torch.Size(shape).numel() for shape in shapes]
        self.lease = cell.memory.lease(sum(sizes), like.dtype)
        pieces = self.lease.buffer.split(sizes)
        views = [piece.view(shape) for piece, shape in zip(pieces, shapes, strict=True)]
        self.both, (self.s, self.scale, self.raw, self.total, self.spare, *dropped) = views[:N], views[N:]
        self.dropped = dropped[0] if dropped else self.s  # states behind the mask: what the products read
        self.bytes = like.element_size()

    def at(self, tensor: Tensor, *index: int) -> int:
        """The address of tensor[index]."""
        place = sum(i * stride for i, stride in zip(index, tensor.stride(), strict=False))
        return tensor.data_ptr() + place * self.bytes


class CompiledWalk(torch.autograd.Function):
    """As `recurrent_fast.Walk`."""

    @staticmethod
    def forward(  # type: ignore[override]
        ctx: Any, cell: CompiledRecurrentCell, x: Tensor, h0: Tensor, rows: Tensor, first: Tensor, matrices: Tensor,
        mx: Tensor, mh: Tensor, keep: bool,
    ) -> Tensor:  # fmt: skip
        masks = masks_from(mx, mh)
        T, B, n = x.shape
        N, keep = cell.cell.nodes, keep and any(ctx.needs_input_grad)
        weights, wide, k = cell.columns_from(rows), cell.side_by_side(matrices), cell.kernels.recurrent
        room = Room(cell, x, T if keep else 1, B, masks.h is not None)
        both, s, scale, raw, total, dropped = room.both, room.s, room.scale, room.raw, room.total, room.dropped
        double, drop = x.dtype == torch.float64, None if masks.h is None else masks.h.data_ptr()
        gates = (masked(x, masks.x).reshape(T * B, n) @ first[:n]).view(T, B, 2 * n)
        out, entered, place, hidden = x.new_empty(T, B, n), room.spare.data_ptr(), room.at, first[n:]
        h = h0.contiguous()
        for t in range(T):
            i = t if keep else 0
            gate = gates[t].addmm_(masked(h, masks.h), hidden)
            k.enter(double, B, n, gate.data_ptr(), h.data_ptr(), entered)
            k.normalise(
                double, B, n, entered, n, drop, place(s, 0, i), place(dropped, 0, i), place(scale, 0, i), None, 0, 0.0
            )
            for j in range(N):
                torch.mm(dropped[j, i], wide[j], out=both[j][i])
                state, filled, node = place(s, j, i), place(total, 0, j), j + 1
                k.feed(double, B, n, N - j, place(both[j], i), state, weights[j].data_ptr(), filled, N * n, int(j > 0))
                last = node == N  # the last state feeds nothing: nobody reads it behind the mask
                k.normalise(
                    double, B, n, filled, N * n, None if last else drop, place(s, node, i),
                    None if last else place(dropped, node, i), place(scale, node, i), place(raw, i), int(j > 0), 1 / N,
                )  # fmt: skip
            h = out[t].copy_(bounded(raw[i], cell.limit))
        ctx.cell, ctx.room = cell, (room, gates) if keep else None
        ctx.save_for_backward(x, h0, rows, first, matrices, mx, mh, out)
        return out

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        cell: CompiledRecurrentCell = ctx.cell
        x, h0, rows, first, matrices, mx, mh, out = ctx.saved_tensors
        masks, want_rows = masks_from(mx, mh), ctx.needs_input_grad[3]
        if torch.is_grad_enabled() or ctx.room is None:  # a graph is wanted, or this is the second time
            return (None, *differentiable(ctx, masks, grads[0]), None, None, None)
        room, gates = ctx.room
        ctx.room = None  # its memory is written over on the way
        T, B, n = x.shape
        N = cell.cell.nodes
        weights, k = cell.columns_from(rows), cell.kernels.recurrent
        wide = [w.t() for w in cell.side_by_side(matrices)]
        both, s, scale, raw, dropped, place = room.both, room.s, room.scale, room.raw, room.dropped, room.at
        sums = [torch.zeros(N - j, MASS + 1, dtype=torch.float64) if want_rows else None for j in range(N)]
        summed = [None if each is None else each.data_ptr() for each in sums]
        double, drop = x.dtype == torch.float64, None if masks.h is None else masks.h.data_ptr()
        d_total, behind = room.total, room.spare.data_ptr()
        own, product, carried = torch.empty_like(room.spare), torch.empty_like(room.spare), torch.zeros_like(room.spare)
        start, hidden, ready = h0.contiguous(), first[n:].t(), (own.data_ptr(), product.data_ptr())
        for t in reversed(range(T)):
            even = bounded_back(grads[0][t] + carried, raw[t], out[t], cell.limit)
            through: tuple[int | None, int | None] = (None, None)  # the last state has the mean alone behind it
            for j in reversed(range(N)):
                found = place(d_total, 0, j)
                k.normalise_back(
                    double, B, n, *through, drop, even.data_ptr(), 1 / N, place(s, j + 1, t), place(scale, j + 1, t),
                    found, N * n,
                )  # fmt: skip
                k.feed_back(
                    double, B, n, N - j, place(both[j], t), place(s, j, t), weights[j].data_ptr(), found, N * n,
                    ready[0], summed[j],
                )  # fmt: skip
                torch.mm(both[j][t], wide[j], out=product)
                through = ready
            k.normalise_back(double, B, n, *through, drop, None, 0.0, place(s, 0, t), place(scale, 0, t), behind, n)
            h, gate = out[t - 1] if t else start, gates[t]
            k.enter_back(double, B, n, gate.data_ptr(), h.data_ptr(), behind, carried.data_ptr())
            carried += masked(gate @ hidden, masks.h)
        states = (dropped[j].view(T * B, n) for j in range(N))
        found = gradients(ctx, masks, gates, both, states, carried, _of_rows(cell, rows, sums))
        return (None, *found, None, None, None)


def _of_rows(cell: CompiledRecurrentCell, rows: Tensor, sums: list[Tensor | None]) -> Tensor:
    """The kernel's sums as the gradient of the mix: an operation has its own and that of the mass."""
    found = torch.zeros_like(rows)
    for index, each in zip(cell.rows_from, sums, strict=True):
        if each is not None:
            for op, o in cell.columns.items():
                found[index, o] = (each[:, COLUMNS[op]] + each[:, MASS]).to(rows.dtype)
    return found
