"""The cell of `MixedRecurrentCell` in few calls: the same function of the same weights, a whole sequence at a time.

- One product for the inputs of all steps; within a step, one product per state for all nodes that it feeds.
- The sum over functions is taken before the highway, for it is linear there:
  sum_k w_k (s + g (f_k - s)) = q s + g (m - q s) with q = sum_k w_k and m = sum_k w_k f_k.
- The way back is written by hand: weight gradients are one product over all steps, where step by step they would be T.
- Second derivatives go through plain PyTorch by themselves.

`tests/test_recurrent.py` compares output and every gradient with the reference in float64.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import Tensor

from darts_core.nets.recurrent import ACTIVATIONS, Masks, MixedRecurrentCell, bounded, masked, normalised
from darts_core.space import CellSpec, dag

EPS = 1e-5  # of batch norm


class FastRecurrentCell(MixedRecurrentCell):
    """Cells whose nodes see all earlier states and whose output is the mean of all nodes, as in the paper."""

    def __init__(self, cell: CellSpec, units: int, limit: float) -> None:
        super().__init__(cell, units, limit)
        assert cell.edges == dag(1, cell.nodes) and cell.output == tuple(range(1, cell.nodes + 1)), "a DARTS cell"
        index = {edge: e for e, edge in enumerate(cell.edges)}
        # rows of the mix by source: the edges state j -> nodes j, j + 1, ...
        self.rows_from = [torch.tensor([index[j, i + 1] for i in range(j, cell.nodes)]) for j in range(cell.nodes)]
        self.columns = {op: o for o, op in enumerate(cell.ops) if op != "none"}

    def forward(self, x: Tensor, h: Tensor, rows: Tensor, masks: Masks) -> Tensor:
        mx, mh = (torch.empty(0, dtype=x.dtype, device=x.device) if m is None else m for m in masks)
        return Walk.apply(self, x, h, rows, self.first, self.matrices, mx, mh)  # type: ignore[no-any-return]

    def plain(self, x: Tensor, h: Tensor, rows: Tensor, first: Tensor, matrices: Tensor, masks: Masks) -> Tensor:
        """The same in PyTorch's own differentiable calls."""
        n, states = self.units, []
        gates = masked(x, masks.x) @ first[:n]
        wide = self.side_by_side(matrices)
        q, weights = self.weights_from(rows)
        for gate in gates.unbind(0):
            c, u = (gate + masked(h, masks.h) @ first[n:]).split(n, dim=-1)
            s = normalised(torch.lerp(h, torch.tanh(u), torch.sigmoid(c)))
            total: list[Tensor] = []
            mean = torch.zeros_like(s)
            for j in range(self.cell.nodes):
                c, u = (masked(s, masks.h) @ wide[j]).view(len(s), 2, -1, n).unbind(1)  # (B, nodes fed, n)
                m = sum(w * ACTIVATIONS[op](u) for op, w in zip(self.columns, weights[j], strict=True))
                part = torch.lerp(q[j] * s[:, None], m, torch.sigmoid(c)).unbind(1)  # type: ignore[arg-type]
                total = list(part) if not total else [a + b for a, b in zip(total, part, strict=True)]
                s = normalised(total.pop(0))
                mean = mean + s
            h = bounded(mean / self.cell.nodes, self.limit)
            states.append(h)
        return torch.stack(states)

    def side_by_side(self, matrices: Tensor) -> list[Tensor]:
        """Per state the matrices of the nodes that it feeds: (n, [c of all of them, h of all of them])."""
        n = self.units
        return [matrices[j:].view(-1, n, 2, n).permute(1, 2, 0, 3).reshape(n, -1) for j in range(len(matrices))]

    def weights_from(self, rows: Tensor) -> tuple[list[Tensor], list[list[Tensor]]]:
        """Per state: the mass q (nodes fed, 1), and per function its weights (nodes fed, 1)."""
        chosen = [rows[index.to(rows.device)] for index in self.rows_from]
        weights = [[part[:, o : o + 1] for o in self.columns.values()] for part in chosen]
        return [sum(w[1:], w[0]) for w in weights], weights


class Walk(torch.autograd.Function):
    """T steps of a `FastRecurrentCell` with a way back of its own."""

    @staticmethod
    def forward(  # type: ignore[override]
        ctx: Any, cell: FastRecurrentCell, x: Tensor, h0: Tensor, rows: Tensor, first: Tensor, matrices: Tensor,
        mx: Tensor, mh: Tensor,
    ) -> Tensor:  # fmt: skip
        masks = masks_from(mx, mh)
        T, B, n = x.shape
        N = cell.cell.nodes
        q, weights = cell.weights_from(rows)
        wide = cell.side_by_side(matrices)
        keep = any(ctx.needs_input_grad)
        gates = (masked(x, masks.x).reshape(T * B, n) @ first[:n]).view(T, B, 2 * n)
        out = x.new_empty(T, B, n)
        steps = T if keep else 1  # without a way back one step's room serves all
        both = [x.new_empty(steps, B, wide[j].shape[1]) for j in range(N)]
        s = x.new_empty(steps, N + 1, B, n)  # normalised states
        scale = x.new_empty(steps, N + 1, n)  # 1 / standard deviation
        raw = x.new_empty(steps, B, n)  # the mean of all nodes, before it is bounded
        h = h0
        for t in range(T):
            k = t if keep else 0
            gate = gates[t].addmm_(masked(h, masks.h), first[n:])
            entered = torch.lerp(h, gate[:, n:].tanh_(), gate[:, :n].sigmoid_())
            _normalise(entered, s[k, 0], scale[k, 0])
            total = x.new_zeros(B, N, n)
            for j in range(N):
                state = s[k, j]
                torch.mm(masked(state, masks.h), wide[j], out=both[j][k])
                c, u = both[j][k].view(B, 2, N - j, n).unbind(1)
                c.sigmoid_()
                m = _mixture(cell, u, weights[j])
                total[:, j:] += torch.lerp(q[j] * state[:, None], m, c)
                _normalise(total[:, j], s[k, j + 1], scale[k, j + 1])
            torch.mean(s[k, 1:], dim=0, out=raw[k])
            h = out[t] = bounded(raw[k], cell.limit)
        ctx.cell, ctx.room = cell, (gates, both, s, scale, raw) if keep else None
        ctx.save_for_backward(x, h0, rows, first, matrices, mx, mh, out)
        return out

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        cell: FastRecurrentCell = ctx.cell
        x, h0, rows, first, matrices, mx, mh, out = ctx.saved_tensors
        masks, want_rows = masks_from(mx, mh), ctx.needs_input_grad[3]
        if torch.is_grad_enabled() or ctx.room is None:  # a graph is wanted, or this is the second time
            return (None, *differentiable(ctx, masks, grads[0]), None, None)
        gates, both, s, scale, raw = ctx.room
        ctx.room = None  # its memory is written over on the way
        T, B, n = x.shape
        N = cell.cell.nodes
        q, weights = cell.weights_from(rows)
        wide = [w.t() for w in cell.side_by_side(matrices)]
        g_rows = torch.zeros_like(rows)
        columns = list(cell.columns.values())
        carried = torch.zeros_like(h0)
        for t in reversed(range(T)):
            d = bounded_back(grads[0][t] + carried, raw[t], out[t], cell.limit) / N
            d_total = x.new_empty(B, N, n)
            d_next = d  # of state j + 1
            for j in reversed(range(N)):
                d_total[:, j] = _normalise_back(d_next, s[t, j + 1], scale[t, j + 1])
                D, state = d_total[:, j:], s[t, j][:, None]
                g, u = both[j][t].view(B, 2, N - j, n).unbind(1)
                slope, values = _slopes(cell, u, weights[j])
                dm = D * g
                past = D - dm  # what goes the other way of the highway
                m = _combined(values, weights[j])
                if want_rows:
                    mass = (past * state).sum((0, 2))
                    for o, value in zip(columns, values, strict=True):
                        g_rows[cell.rows_from[j], o] += (dm * value).sum((0, 2)) + mass
                torch.mul((m - q[j] * state) * dm, 1 - g, out=g)  # both now hold the gradients of the products
                torch.mul(dm, slope, out=u)
                d_next = masked(both[j][t] @ wide[j], masks.h).add_((past * q[j]).sum(1))
                if j:
                    d_next += d
            d = _normalise_back(d_next, s[t, 0], scale[t, 0])
            h = out[t - 1] if t else h0
            gate = gates[t]
            g, u = gate[:, :n], gate[:, n:]
            dm = d * g
            carried = d - dm
            difference = (u - h).mul_(dm)
            torch.mul(dm, 1 - u * u, out=u)
            torch.mul(difference, 1 - g, out=g)
            carried = carried.add_(masked(gate @ first[n:].t(), masks.h))
        states = (masked(s[:, j], masks.h).reshape(T * B, n) for j in range(N))
        return (None, *gradients(ctx, masks, gates, both, states, carried, g_rows), None, None)


def _mixture(cell: FastRecurrentCell, u: Tensor, weights: list[Tensor]) -> Tensor:
    """sum_k w_k f_k(u): u (B, nodes fed, n), weights (nodes fed, 1) per function."""
    return _combined([ACTIVATIONS[op](u) for op in cell.columns], weights)


def _combined(values: list[Tensor], weights: list[Tensor]) -> Tensor:
    total = values[0] * weights[0]
    for value, weight in zip(values[1:], weights[1:], strict=True):
        total.addcmul_(value, weight)
    return total


def _slopes(cell: FastRecurrentCell, u: Tensor, weights: list[Tensor]) -> tuple[Tensor, list[Tensor]]:
    """sum_k w_k f_k'(u), and every f_k(u)."""
    values = [ACTIVATIONS[op](u) for op in cell.columns]
    total: Tensor | None = None
    for op, y, w in zip(cell.columns, values, weights, strict=True):
        slope = {
            "tanh": lambda y=y: 1 - y * y,
            "relu": lambda: (u > 0).to(u.dtype),
            "sigmoid": lambda y=y: y - y * y,
            "identity": lambda: torch.ones_like(u),
        }[op]()
        total = slope.mul_(w) if total is None else total.addcmul_(slope, w)
    assert total is not None, "a cell has an operation besides none"
    return total, values


def _normalise(x: Tensor, out: Tensor, scale: Tensor) -> None:
    """Batch norm of x (B, n) into `out`, and the reciprocal standard deviations (n) into `scale`."""
    if len(x) == 1:
        out.zero_()
        scale.zero_()
        return
    var, mean = torch.var_mean(x, dim=0, correction=0)
    torch.rsqrt(var + EPS, out=scale)
    torch.mul(x - mean, scale, out=out)


def _normalise_back(grad: Tensor, y: Tensor, scale: Tensor) -> Tensor:
    """The gradient before batch norm, from the one behind it and its output y (B, n)."""
    inner = (grad * y).mean(0)
    return (grad - grad.mean(0)).addcmul_(y, inner, value=-1).mul_(scale)


def bounded_back(grad: Tensor, raw: Tensor, out: Tensor, limit: float) -> Tensor:
    """The gradient before `bounded`."""
    if not limit:
        return grad
    norm = torch.linalg.vector_norm(raw, dim=-1, keepdim=True)
    factor = limit / (norm + 1e-6)
    along = (grad * raw).sum(-1, keepdim=True) * factor / ((norm + 1e-6) * norm)
    return torch.where(factor < 1, grad * factor - raw * along, grad)


def masks_from(mx: Tensor, mh: Tensor) -> Masks:
    """The masks as a function of tensors is given them: empty where nothing is dropped."""
    return Masks(mx if mx.numel() else None, mh if mh.numel() else None)


def gradients(
    ctx: Any, masks: Masks, gates: Tensor, both: Sequence[Tensor], states: Iterable[Tensor], carried: Tensor,
    g_rows: Tensor,
) -> list[Tensor | None]:  # fmt: skip
    """Of x, h0, rows, first and matrices, where wanted: what is left to do once the way back is walked.

    Args:
        gates: the gradients in front of the first highway, (T, B, 2n).
        both: per state those in front of the highways that it feeds, (T, B, [c of all, h of all]).
        states: every state behind the mask, (T * B, n).
        carried: the gradient of h0. g_rows: that of rows.
    """
    x, h0, _, first, matrices, _, _, out = ctx.saved_tensors
    _, want_x, want_h, want_rows, want_first, want_matrices, *_ = ctx.needs_input_grad
    T, B, n = x.shape
    flat = gates.view(T * B, 2 * n)
    g_x = masked((flat @ first[:n].t()).view(T, B, n), masks.x) if want_x else None
    g_first = g_matrices = None
    if want_first:
        before = torch.cat([h0[None], out[:-1]])
        entered = torch.cat([masked(x, masks.x), masked(before, masks.h)], dim=-1)
        g_first = entered.view(T * B, 2 * n).t() @ flat
    if want_matrices:
        g_matrices = torch.zeros_like(matrices)
        for j, state in enumerate(states):
            part = (state.t() @ both[j].view(T * B, -1)).view(n, 2, -1, n)
            g_matrices[j:] += part.permute(2, 0, 1, 3).reshape(-1, n, 2 * n)
    return [g_x, carried if want_h else None, g_rows if want_rows else None, g_first, g_matrices]


def differentiable(ctx: Any, masks: Masks, grad: Tensor) -> list[Tensor | None]:
    """The same gradients by PyTorch's own calls, with a graph of their own."""
    inputs, wanted, graph = ctx.saved_tensors[:5], ctx.needs_input_grad[1:6], torch.is_grad_enabled()
    with torch.enable_grad():
        views = [
            t.view_as(t) if want and t.requires_grad else t.detach() for t, want in zip(inputs, wanted, strict=True)
        ]
        asked = [view for view, want in zip(views, wanted, strict=True) if want]
        x, h, rows, first, matrices = views
        output = ctx.cell.plain(x, h, rows, first, matrices, masks)
        found = iter(torch.autograd.grad(output, asked, grad, create_graph=graph, materialize_grads=True))
    return [next(found) if want else None for want in wanted]
