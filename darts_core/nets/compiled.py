"""The supernet of `mixed.py` with a compiled kernel for each cell: one call forward, one call backward.

All weights are one flat vector, in the reference's order, so that optimisers and finite differences are single calls;
`pack` and `unpack` map to the names that files hold. What the kernel fuses stands at the top of `kernels/cell.cpp`.

`plain(weights)` is the same function of the same weights in pure PyTorch (`fast.py`). Second derivatives go there by
themselves, and so does whatever the kernel has no form of: drop path, half precision, devices other than the CPU.

`tests/test_compiled.py` compares output and every gradient with `mixed.py` in float64.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from copy import deepcopy
from functools import cached_property, partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.func import functional_call

from darts_core import ops
from darts_core.mix import Mix
from darts_core.nets.fast import DILATION, FastSupernet
from darts_core.nets.kernels import Kernels, Plans
from darts_core.nets.mixed import MixedCell, MixedOperation, Supernet

# The numbers of the operations in kernels/cell.cpp; a skip connection of stride 2 is a factorised reduction (3).
KINDS = {
    "max_pool_3x3": 0, "avg_pool_3x3": 1, "skip_connect": 2,
    "sep_conv_3x3": 4, "sep_conv_5x5": 5, "dil_conv_3x3": 6, "dil_conv_5x5": 7,
}  # fmt: skip
REDUCTION = 3
CANNOT = frozenset({"partial_channels"})  # structural options of a supernet that the kernel has no form of


LARGEST = 1 << 29  # bytes that a cell may keep where no way back follows: beyond, pure PyTorch frees as it goes


class Buffers:
    """Memory of finished passes, kept for the next one: asking the system for it anew costs page faults every step."""

    def __init__(self) -> None:
        self.free: dict[tuple[int, torch.dtype], list[Tensor]] = {}

    def lease(self, count: int, dtype: torch.dtype) -> Lease:
        free = self.free.get((count, dtype))
        return Lease(self, free.pop() if free else torch.empty(count, dtype=dtype))


class Lease:
    """A buffer that goes back when nobody holds the lease any more: when the graph of its pass is gone."""

    def __init__(self, home: Buffers, buffer: Tensor) -> None:
        self.home, self.buffer = home, buffer

    def __del__(self) -> None:
        self.home.free.setdefault((self.buffer.numel(), self.buffer.dtype), []).append(self.buffer)


class CellPlan:
    """What the kernel must know of one cell, and where its weights lie in the cell's slice of the flat vector."""

    def __init__(
        self, kernels: Kernels, buffers: Buffers, cell: MixedCell, begin: int, at: Mapping[str, int], size: int
    ) -> None:
        """`at`: name within the cell -> offset of the weight in the flat vector; the cell has `size` numbers there,
        from `begin`.
        """
        spec = cell.cell
        self.kernels, self.buffers = kernels, buffers
        self.nodes, self.outputs = spec.nodes, list(spec.output)
        self.channels = cell.preprocess1[1].out_channels  # type: ignore[index]
        self.shape, self.size, self.reduces = spec.shape, size, cell.kind == "reduce"
        place = lambda name: at[name] - begin  # noqa: E731
        self.inputs: list[tuple[int, ...]] = []  # halves, offsets of the 1x1 convolutions
        for j, module in enumerate((cell.preprocess0, cell.preprocess1)):
            if isinstance(module, ops.FactorizedReduce):
                halves = [place(f"preprocess{j}.{half}.weight") for half in ("conv_1", "conv_2")]
                self.inputs.append((1, *halves))
            else:
                self.inputs.append((0, place(f"preprocess{j}.1.weight"), -1))
        self.items: list[int] = []
        for e, (source, target) in enumerate(spec.edges):
            edge: MixedOperation = cell.edges[e]  # type: ignore[assignment]
            for column, op in zip(edge.columns, edge.names, strict=True):
                reduction = ops.plain(op) == "skip_connect" and edge.stride == 2
                layers = ("conv_1", "conv_2") if reduction else _layers(op)
                weights = [place(f"edges.{e}.candidates.{op}.{layer}.weight") for layer in layers]
                kind = REDUCTION if reduction else KINDS[ops.plain(op)]
                self.items += [source, target - spec.inputs, e, column, kind, *weights, *[-1] * (4 - len(weights))]
        self.plans: dict[tuple[int, ...], tuple[Any, tuple[int, int]]] = {}

    def plan(self, s0: Tensor, s1: Tensor) -> tuple[Any, tuple[int, int]]:
        """The kernel's numbers for inputs (..., N, H, W, C) of these shapes, and what a net keeps for the way back."""
        key = (*s0.shape[-4:], *s1.shape[-4:], s0.element_size())
        if key not in self.plans:
            head = [
                s0.shape[-4], self.channels, self.nodes, 2 if self.reduces else 1, *self.shape, self.size,
            ]  # fmt: skip
            for s, (halves, *weights) in zip((s0, s1), self.inputs, strict=True):
                head += [*s.shape[-3:], halves, *weights]
            numbers = [*head, len(self.outputs), *self.outputs, len(self.items) // 9, *self.items]
            self.plans[key] = self.kernels.plan(numbers, s0.dtype == torch.float64)
        return self.plans[key]

    def bytes(self, s0: Tensor, s1: Tensor) -> int:
        """What a forward pass keeps."""
        return self.plan(s0, s1)[1][0] * s0.element_size()

    def output_shape(self, s1: Tensor) -> tuple[int, int, int, int]:
        N, H, W, _ = s1.shape[-4:]
        step = 2 if self.reduces else 1
        return N, (H - 1) // step + 1, (W - 1) // step + 1, len(self.outputs) * self.channels


def _layers(op: str) -> tuple[str, ...]:
    if op not in DILATION:
        return ()
    return ("1", "2", "5", "6") if op.startswith("sep") else ("1", "2")


class CellCall(torch.autograd.Function):
    """s0, s1 (N, H, W, C), mix (edges, ops) and the cell's weights, all dense -> (N, H', W', outputs * C)."""

    @staticmethod
    def forward(  # type: ignore[override]
        ctx: Any, plan: CellPlan, plain: Callable[..., Tensor], threads: int,
        s0: Tensor, s1: Tensor, mix: Tensor, weights: Tensor,
    ) -> Tensor:  # fmt: skip
        numbers, (count, doubles) = plan.plan(s0, s1)
        saved, kept = plan.buffers.lease(count, s0.dtype), torch.empty(doubles, dtype=torch.float64)
        out = s1.new_empty(plan.output_shape(s1))
        plan.kernels.forward(numbers, threads, s0, s1, weights, mix, saved.buffer, kept, out)
        ctx.plan, ctx.plain, ctx.left = plan, plain, (numbers, threads, saved, kept)
        ctx.save_for_backward(s0, s1, mix, weights)
        return out

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        (grad,) = grads
        s0, s1, mix, weights = ctx.saved_tensors
        wanted = ctx.needs_input_grad[3:]
        if torch.is_grad_enabled():  # a graph of the gradients is asked for: second derivatives
            return (None, None, None, *_differentiable(ctx.plain, (s0, s1, mix, weights), wanted, grad))
        numbers, threads, saved, kept = ctx.left
        g0, g1, g_mix, g_weights = (
            torch.empty_like(t) if want else None for t, want in zip((s0, s1, mix, weights), wanted, strict=True)
        )
        if g_mix is not None:
            g_mix.zero_()  # `none` and what is not legal
        needs = sum(bit for bit, want in zip((4, 8, 2, 1), wanted, strict=True) if want)
        passed = (s0, s1, weights, mix, saved.buffer, kept)
        ctx.plan.kernels.backward(numbers, threads, passed, grad.contiguous(), needs, (g0, g1, g_weights, g_mix))
        return None, None, None, g0, g1, g_mix, g_weights


class NetsCall(torch.autograd.Function):
    """All cells of several nets of one form: stem (nets, N, H, W, C), weights (nets, numbers of all cells) and, for
    each kind of `kinds`, mix (nets, edges, ops) -> the last cell's output (nets, N, H', W', outputs * C).
    """

    @staticmethod
    def forward(  # type: ignore[override]
        ctx: Any,
        net: CompiledSupernet,
        kinds: Sequence[str],
        threads: int,
        stem: Tensor,
        weights: Tensor,
        *mixes: Tensor,
    ) -> Tensor:
        nets, of_kind = len(stem), dict(zip(kinds, mixes, strict=True))
        maps, saved, kept, numbers = [stem, stem], [], [], []
        for plan in net.plans:
            number, (count, doubles) = plan.plan(*maps[-2:])
            numbers.append(number)
            saved.append(plan.buffers.lease(nets * count, stem.dtype))
            kept.append(torch.empty(nets * doubles, dtype=torch.float64))
            maps.append(stem.new_empty((nets, *plan.output_shape(maps[-1]))))
        begins = [sum(net.parts[1 : 1 + i]) for i in range(len(net.plans))]
        plans, rows = Plans(numbers, begins), [of_kind[kind] for kind in net.kinds]
        passed = rows, [lease.buffer for lease in saved], kept, maps[2:]
        net.plans[0].kernels.forward_all(plans, threads, stem, weights, *passed)
        ctx.left, ctx.given = (net, kinds, threads, plans), (saved, kept, maps[2:-1])
        ctx.save_for_backward(stem, weights, *mixes)
        ctx.shape = maps[-1].shape
        return maps[-1]

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        (net, kinds, threads, plans), (saved, kept, between) = ctx.left, ctx.given
        stem, weights, *mixes = ctx.saved_tensors
        for_stem, for_weights, *for_mixes = wanted = ctx.needs_input_grad[3:]
        if torch.is_grad_enabled():  # a graph of the gradients is asked for: second derivatives
            plain = partial(net.plain_cells, kinds)
            return (None, None, None, *_differentiable(plain, (stem, weights, *mixes), wanted, grads[0]))
        nets, maps = len(stem), [stem, stem, *between]
        of_kind = dict(zip(kinds, mixes, strict=True))
        rows = [of_kind[kind] for kind in net.kinds]
        slopes = [torch.empty_like(maps[i + j]) for i in range(len(net.plans)) for j in (0, 1)]
        row = weights.new_empty(nets, weights.stride(0))  # rows as long as those of the weights
        of_weights = row[:, : weights.shape[1]] if for_weights else None
        found = [torch.zeros_like(row) if any(for_mixes) else None for row in rows]  # `none` and what is not legal: 0
        # the last map is not looked at on the way back
        passed = stem, weights, rows, [lease.buffer for lease in saved], kept, [*between, None]
        needs = sum(bit for bit, want in ((1, for_weights), (2, any(for_mixes)), (4, for_stem)) if want)
        places = (slopes, of_weights, found)
        net.plans[0].kernels.backward_all(plans, threads, passed, grads[0].contiguous(), needs, *places)
        of_mixes = [
            torch.stack([f for f, k in zip(found, net.kinds, strict=True) if k == kind]).sum(0) if want else None  # type: ignore[arg-type]
            for kind, want in zip(kinds, for_mixes, strict=True)
        ]
        return None, None, None, slopes[0] if for_stem else None, of_weights, *of_mixes


def _differentiable(
    plain: Callable[..., Tensor], inputs: tuple[Tensor, ...], wanted: tuple[bool, ...], grad: Tensor
) -> list[Tensor | None]:
    """The same gradients by pure PyTorch, with a graph of their own."""
    with torch.enable_grad():
        # views: both inputs of the first cell are one tensor, and each has a gradient of its own
        views = [t.view_as(t) if want else t.detach() for t, want in zip(inputs, wanted, strict=True)]
        asked = [view for view, want in zip(views, wanted, strict=True) if want]
        found = iter(torch.autograd.grad(plain(*views), asked, grad, create_graph=True, materialize_grads=True))
    return [next(found) if want else None for want in wanted]


class CompiledSupernet(nn.Module):
    """`net(x, mix) -> (logits, None)` like `Supernet`, its weights one flat vector. Takes the reference's values."""

    def __init__(self, reference: Supernet, kernels: Kernels) -> None:
        super().__init__()
        named = dict(reference.named_parameters())
        self.shapes = {name: tuple(p.shape) for name, p in named.items()}
        self.flat = nn.Parameter(torch.cat([p.detach().reshape(-1) for p in named.values()]))
        at, place = {}, 0
        for name, p in named.items():
            at[name], place = place, place + p.numel()
        self.parts: list[int] = []  # numbers of each part: before the cells, each cell, behind them
        self.plans: list[CellPlan] = []
        buffers = Buffers()
        self.kinds: list[str] = [cell.kind for cell in reference.cells]  # type: ignore
        begin = next(at[name] for name in named if name.startswith("cells."))
        self.parts.append(begin)
        for i, cell in enumerate(reference.cells):
            own = [name for name in named if name.startswith(f"cells.{i}.")]
            size = sum(named[name].numel() for name in own)
            assert at[own[0]] == begin and at[own[-1]] + named[own[-1]].numel() == begin + size, "cells lie one by one"
            within = {name.removeprefix(f"cells.{i}."): at[name] for name in own}
            self.plans.append(CellPlan(kernels, buffers, cell, begin, within, size))  # type: ignore[arg-type]
            self.parts.append(size)
            begin += size
        self.parts.append(place - begin)
        self.names = [
            [name for name in named if not name.startswith("cells.") and at[name] < self.parts[0]],
            *([name for name in named if name.startswith(f"cells.{i}.")] for i in range(len(self.plans))),
            [name for name in named if not name.startswith("cells.") and at[name] >= self.parts[0]],
        ]
        self.extra = reference.extra
        self.stem_stride: int = reference.stem[0].stride[0]  # type: ignore
        self._reference = (reference,)  # in a tuple: its weights are not this module's

    def forward(self, x: Tensor, mix: Mix, carry: Any = None) -> tuple[Tensor, Any]:
        covered = x.dtype in (torch.float32, torch.float64) and not torch.is_autocast_enabled("cpu")
        if mix.drop or mix.dropout or x.device.type != "cpu" or not covered:
            return self.plain(self.flat)(x, mix, carry)
        first, *cells, last = self.flat.split(self.parts)
        s0 = s1 = self._stem(first, x).permute(0, 2, 3, 1).contiguous()
        for i, (kind, weights) in enumerate(zip(self.kinds, cells, strict=True)):
            rows = mix.folded(kind, self.extra).to(s1.dtype).contiguous()
            plain = partial(self.plain_cell, i)
            if torch.is_grad_enabled() or self.plans[i].bytes(s0, s1) <= LARGEST:
                s0, s1 = s1, CellCall.apply(self.plans[i], plain, torch.get_num_threads(), s0, s1, rows, weights)
            else:
                s0, s1 = s1, plain(s0, s1, rows, weights)
        weight, bias = self.views(len(self.parts) - 1, last)
        return F.linear(s1.mean((1, 2)), weight, bias), carry

    @cached_property  # kept where a module does not look for modules of its own
    def _fast(self) -> FastSupernet:
        """What `plain` calls with other weights; made when it is first wanted, which few nets ever do."""
        fast = FastSupernet(deepcopy(self._reference[0]), twice=True)
        for p in fast.parameters():  # the shapes are enough; the meta device would import torch's compiler stack
            p.data = p.data.new_zeros(1).expand(p.shape)
        return fast

    def plain(self, weights: Tensor) -> Callable[..., tuple[Tensor, Any]]:
        """The net in pure PyTorch at the flat `weights`: (x, mix, carry) -> (logits, carry)."""
        fast, named = self.in_pytorch(weights)
        return lambda x, mix, carry=None: functional_call(fast, named, (x, mix, carry))

    def in_pytorch(self, weights: Tensor) -> tuple[FastSupernet, dict[str, Tensor]]:
        """The net in pure PyTorch, whose own weights mean nothing, and the flat `weights` under its names."""
        return self._fast, self._fast.pack(self._named(weights))

    def plain_cell(self, i: int, s0: Tensor, s1: Tensor, mix: Tensor, weights: Tensor) -> Tensor:
        """Cell i as `CellCall` computes it."""
        fast, prefix = self._fast, f"cells.{i}."
        named = self._views(1 + i, weights)
        layout = {ours: names for ours, names in fast.layout.items() if ours.startswith(prefix)}
        stacked = {name for names in layout.values() for name in names}
        packed = {name: t for name, t in named.items() if name not in stacked}
        packed |= {ours: torch.cat([named[name] for name in names]) for ours, names in layout.items()}
        own = {name.removeprefix(prefix): t for name, t in packed.items()}
        images = (s.permute(0, 3, 1, 2) for s in (s0, s1))
        return functional_call(fast.cells[i], own, (*images, mix)).permute(0, 2, 3, 1)

    def plain_cells(self, kinds: Sequence[str], stem: Tensor, weights: Tensor, *mixes: Tensor) -> Tensor:
        """What `NetsCall` computes, one net after another in pure PyTorch."""
        outputs = []
        for s, own, *rows in zip(stem, weights, *mixes, strict=True):
            s0, s1, of_kind = s, s, dict(zip(kinds, rows, strict=True))
            for i, part in enumerate(own.split(self.parts[1:-1])):
                s0, s1 = s1, self.plain_cell(i, s0, s1, of_kind[self.kinds[i]], part)
            outputs.append(s1)
        return torch.stack(outputs)

    def _stem(self, weights: Tensor, x: Tensor) -> Tensor:
        kernel, scale, shift = self.views(0, weights)
        y = F.conv2d(x.contiguous(memory_format=torch.channels_last), kernel, None, self.stem_stride, 1)
        return ops.batch_statistics(y, scale, shift)

    def views(self, part: int, weights: Tensor) -> list[Tensor]:
        """The weights of one part, in the order of `names`, as views: (..., numbers) -> (..., *shape) each."""
        shapes = [self.shapes[name] for name in self.names[part]]
        pieces = weights.split([torch.Size(shape).numel() for shape in shapes], dim=-1)
        return [w.view(*weights.shape[:-1], *s) for w, s in zip(pieces, shapes, strict=True)]

    def _views(self, part: int, weights: Tensor) -> dict[str, Tensor]:
        return dict(zip(self.names[part], self.views(part, weights), strict=True))

    def _named(self, flat: Tensor) -> dict[str, Tensor]:
        found: dict[str, Tensor] = {}
        for part, weights in enumerate(flat.split(self.parts)):
            found |= self._views(part, weights)
        return found

    def pack(self, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Tensors under the reference's weight names -> the flat vector. Works for momentum and gradients as well."""
        return {"flat": torch.cat([tensors[name].reshape(-1) for name in self.shapes])}

    def unpack(self, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The inverse of `pack`, as copies."""
        return {name: t.clone() for name, t in self._named(tensors["flat"]).items()}
