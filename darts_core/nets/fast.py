"""The supernet of `mixed.py` in few calls: the same function, the same weights under packed names.

What makes it fast, all of it exact:

- Operations of all edges that leave one state are computed together: one depthwise call and one grouped 1x1 call over
  all their channels, one batch norm over the concatenation.
- On the CPU a separable convolution is one function with a way back of its own (`separable.py`): weight gradients of
  5x5 and dilated convolutions by the library's fast 3x3 kernel, and nothing kept but the map before it.
- On the CPU the last batch norms of all edges and their weighted sums are one function (`weighted.py`), and what
  convolutions see is repeated once for all of them. Elsewhere the weight of an operation is the scale of its last batch
  norm: no pass over the maps of its own, forward or back.
- Pools, their batch norm, ReLU and identity depend on the state alone: once per state, not per edge.
- Second derivatives of batch norm in closed form (`twice`).
- `none` contributes nothing and is left out; images lie channels-last, which CPU and GPU kernels prefer.

`tests/test_fast.py` compares output and every gradient with `mixed.py` in float64.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from darts_core import ops
from darts_core.mix import EDGE, Mix
from darts_core.nets import weighted
from darts_core.nets.mixed import MixedCell, Supernet, passed_by
from darts_core.nets.separable import DENSE_AT_MOST, Form, Repeats, Separable, pointwise, repeated, turned
from darts_core.nets.weighted import Layout, WeightedNorms
from darts_core.space import CellSpec, SearchSpace

DILATION = {"sep_conv_3x3": 1, "sep_conv_5x5": 1, "dil_conv_3x3": 2, "dil_conv_5x5": 2}
EPS = 1e-5  # of batch norm, as in `ops.batch_statistics`
LAYERS = {"sep": ("1", "2", "5", "6"), "dil": ("1", "2")}  # weights of an operation's Sequential, by their index in it


def covers(space: SearchSpace) -> bool:
    """Is there a fast (and a compiled) form of this space's supernet? Others run on the reference."""
    known = {"none", "max_pool_3x3", "avg_pool_3x3", "skip_connect", *DILATION}
    return all(cell.inputs == 2 and known.issuperset(cell.ops) for cell in space.cells.values())


def _layers(op: str, stride: int) -> tuple[str, ...]:
    """Names of the weights that the reference module of `op` has."""
    if op in DILATION:
        return LAYERS[op[:3]]
    return ("conv_1", "conv_2") if ops.plain(op) == "skip_connect" and stride == 2 else ()


class Dilated(torch.autograd.Function):
    """Dilated depthwise convolution of stride 1, (N, K, H, W) -> the same shape; its input gradient is a forward one.

    The CPU's own way back is twelve times slower there (`benchmarks/LOG.md`). Both gradients are made of differentiable
    calls, so second derivatives need nothing else.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, padding: int, dilation: int) -> Tensor:  # type: ignore[override]
        ctx.save_for_backward(x, weight)
        ctx.padding, ctx.dilation = padding, dilation
        return F.conv2d(x, weight, None, 1, padding, dilation, groups=x.shape[1])

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        (grad,), (x, weight) = grads, ctx.saved_tensors
        around = [ctx.padding] * 2, [ctx.dilation] * 2
        image = kernel = None
        if ctx.needs_input_grad[0]:
            image = F.conv2d(grad, weight.flip(2, 3), None, 1, *around, groups=x.shape[1])
        if ctx.needs_input_grad[1]:
            kernel = torch.ops.aten.convolution_backward(
                grad, x, weight, None, [1, 1], *around, False, [0, 0], x.shape[1], [False, True, False]
            )[1]
        return image, kernel, None, None


class Pointwise(torch.autograd.Function):
    """Grouped 1x1 convolution, weight (G*O, C, 1, 1): (N, G*C, H, W) -> (N, G*O, H, W); its input gradient is one too.

    The library's second derivatives hold those of the weight, wanted or not, and compute them group by group.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, groups: int) -> Tensor:  # type: ignore[override]
        ctx.save_for_backward(x, weight)
        ctx.groups = groups
        return F.conv2d(x, weight, groups=groups)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        (grad,), (x, weight), groups = grads, ctx.saved_tensors, ctx.groups
        image = kernel = None
        if ctx.needs_input_grad[0]:
            image = F.conv2d(grad, turned(weight, groups), groups=groups)
        if ctx.needs_input_grad[1]:
            plain = [1, 1], [0, 0], [1, 1], False, [0, 0], groups
            kernel = torch.ops.aten.convolution_backward(grad, x, weight, None, *plain, [False, True, False])[1]
        return image, kernel, None


class Normalised(torch.autograd.Function):
    """Batch norm without scale and shift, (N, C, H, W). PyTorch's own, but for its second derivatives: the
    library's take a dozen passes over the image and half the time of an exact Hessian.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:  # type: ignore[override]
        y, mean, inverse = torch.native_batch_norm(x, None, None, None, None, True, 0.0, EPS)
        ctx.save_for_backward(x, mean, inverse)
        return y

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Any:
        return NormalisedBack.apply(grads[0], *ctx.saved_tensors)


class NormalisedBack(torch.autograd.Function):
    """The way back, r (g - mean(g) - z mean(g z)) with z the normalised image and r the inverse deviation."""

    @staticmethod
    def forward(ctx: Any, g: Tensor, x: Tensor, mean: Tensor, inverse: Tensor) -> Tensor:  # type: ignore[override]
        ctx.save_for_backward(g, x, mean, inverse)
        masks = [True, False, False]
        return torch.ops.aten.native_batch_norm_backward(g, x, None, None, None, mean, inverse, True, EPS, masks)[0]

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, v: Tensor) -> tuple[Tensor | None, ...]:  # type: ignore[override]
        """For g the same map again, for it is symmetric; for x, with the means over a channel written <.>:

        -r^2 (z (<v g> - <v><g> - <v z><g z>) + <g z> (v - <v> - z <v z>) + <v z> (g - <g> - z <g z>))
        """
        g, x, mean, inverse = ctx.saved_tensors
        N, C, H, W = x.shape
        rows = [t.permute(0, 2, 3, 1).reshape(-1, C) for t in (v, g, x)]
        v, g, z = rows[0], rows[1], (rows[2] - mean) * inverse
        v1, g1 = v.mean(0), g.mean(0)
        vz, gz, vg = (v * z).mean(0), (g * z).mean(0), (v * g).mean(0)
        for_g = for_x = None
        image = lambda t: t.view(N, H, W, C).permute(0, 3, 1, 2)  # noqa: E731
        if ctx.needs_input_grad[0]:
            for_g = image(torch.addcmul(v - v1, z, vz, value=-1) * inverse)
        if ctx.needs_input_grad[1]:
            own = vg - v1 * g1 - 3 * vz * gz
            total = torch.addcmul(torch.addcmul(z * own, v, gz), g, vz) - (gz * v1 + vz * g1)
            for_x = image(total * -inverse.square())
        return for_g, for_x, None, None


def normalised(x: Tensor) -> Tensor:
    """Batch norm without scale and shift whose second derivatives are cheap, where there can be any."""
    ours = x.requires_grad and torch.is_grad_enabled() and x.numel() > x.shape[1]
    return Normalised.apply(x) if ours else ops.batch_statistics(x)  # type: ignore[no-any-return]


def depthwise(x: Tensor, weight: Tensor, stride: int, dilation: int, twice: bool = True) -> Tensor:
    """Depthwise convolution (N, K, H, W) -> (N, K, H', W'); `twice`: second derivatives will be asked for."""
    padding = dilation * (weight.shape[-1] - 1) // 2
    if stride == 1 and (dilation > 1 or twice) and x.device.type == "cpu":
        return Dilated.apply(x, weight.to(x.dtype), padding, dilation)  # type: ignore[no-any-return]  # or bfloat16
    return F.conv2d(x, weight, None, stride, padding, dilation, groups=x.shape[1])


def within(x: Tensor, weight: Tensor, groups: int, twice: bool = True) -> Tensor:
    """1x1 convolution within each group, as many channels as before; `twice` as in `depthwise`."""
    if twice and x.shape[1] > DENSE_AT_MOST:
        return Pointwise.apply(x, weight.to(x.dtype), groups)  # type: ignore[no-any-return]
    return pointwise(x, weight, groups)


class Fan(nn.Module):
    """All edges that leave one state: (N, C, H, W) and the mix -> one weighted sum of operations per edge."""

    def __init__(self, cell: CellSpec, source: int, stride: int, reference: MixedCell, twice: bool, sums: Any) -> None:
        super().__init__()
        self.stride, self.ops, self.twice, self.sums = stride, cell.ops, twice, sums
        self.partial: int = reference.edges[0].partial  # type: ignore[assignment]
        self.edges = [e for e, (s, _) in enumerate(cell.edges) if s == source]
        self.members = {  # operation -> which of this fan's edges may hold it
            op: [k for k, e in enumerate(self.edges) if cell.legal[e][o]]
            for o, op in enumerate(cell.ops)
            if op != "none"
        }
        packed: dict[str, nn.ParameterDict] = {}
        for op, members in self.members.items():
            layers = _layers(op, stride)
            if layers and members:
                stacks = {layer: _stack(self._modules_of(reference, op), layer) for layer in layers}
                packed[op] = nn.ParameterDict({layer: nn.Parameter(stack) for layer, stack in stacks.items()})
        self.weights = nn.ModuleDict(packed)
        held = [members for members in self.members.values() if members]
        self.alike = bool(packed) and all(
            len(members) == len(self.edges) for members in held
        )  # every edge has them all
        self._places: dict[tuple[tuple[int, ...], torch.device], Tensor] = {}

    def _at(self, numbers: Sequence[int], device: torch.device) -> Tensor:
        """Numbers as an index on the device: sent there once, since sending makes the CPU wait for a GPU."""
        key = (tuple(numbers), device)
        if key not in self._places:
            self._places[key] = torch.tensor(numbers, device=device)
        return self._places[key]

    def _modules_of(self, reference: MixedCell, op: str) -> list[nn.Module]:
        return [reference.edges[self.edges[k]].candidates[op] for k in self.members[op]]  # type: ignore[index, union-attr]

    def forward(self, x: Tensor, weights: Tensor, moment: Mix | None = None) -> Tensor:
        """x (N, C, H, W), weights (edges of the cell, columns) -> (N, H', W', edges of this fan, C)."""
        seen = x.shape[1] // self.partial
        y = self._mixed(x[:, :seen], weights, moment)
        if self.partial > 1:
            rest = passed_by(x[:, seen:], self.stride).permute(0, 2, 3, 1).unsqueeze(3)
            y = torch.cat([y, rest.expand(-1, -1, -1, len(self.edges), -1)], dim=-1)
            y = y.unflatten(-1, (self.partial, seen)).transpose(-1, -2).flatten(-2)  # the channel shuffle
        return _drop(y, len(self.edges), moment.drop[EDGE]) if moment and EDGE in moment.drop else y

    def _mixed(self, x: Tensor, weights: Tensor, moment: Mix | None) -> Tensor:
        """Equation 2 for every edge of the fan: (N, H', W', edges of this fan, channels of x)."""
        drop, dropout = (moment.drop, moment.dropout) if moment else ({}, {})
        if self.alike and not drop and not dropout and (sums := self._sums(x)) is not None:
            return self._fused(x, weights, sums)
        relus, repeats = {1: F.relu(x)}, Repeats()  # relus: times its channels are repeated -> what convolutions see
        total: Tensor | None = None
        for op, members in self.members.items():
            if not members:
                continue
            rows = self._at([self.edges[k] for k in members], weights.device)
            column = weights[:, self.ops.index(op)].index_select(0, rows)
            dropped = op in drop or op in dropout and self.stride == 1
            # the weight of an operation can be the scale of its batch norm, whose gradient the way back finds anyway
            scaled = bool(_layers(op, self.stride)) and not (dropped or self._apart(x))
            finish = partial(self._normalised, scale=column if scaled else None)
            y = self._computed(op, x, relus, repeats, finish)  # (N, H', W', members or 1, C)
            if op in drop:
                y = _drop(y, len(members), drop[op])
            if op in dropout and self.stride == 1:
                y = F.dropout(y.expand(-1, -1, -1, len(members), -1), dropout[op])
            total = self._add(total, y, None if scaled else column.view(1, 1, 1, -1, 1), members)
        repeats.made.clear()
        if total is None:
            zeros = ops.Zero(self.stride)(x).permute(0, 2, 3, 1).unsqueeze(3)
            return zeros.expand(-1, -1, -1, len(self.edges), -1)
        return total

    def _sums(self, x: Tensor) -> Any:
        """The module with the functions of `weighted.py` to use for such images; None: none."""
        return self.sums if self.sums is not None or x.is_cuda or self._apart(x) else weighted

    def _fused(self, x: Tensor, weights: Tensor, sums: Any) -> Tensor:
        """`_mixed` with all batch norms and weighted sums of the fan as one function of the maps before them."""
        relus, repeats, maps, normed = {1: F.relu(x)}, Repeats(), [], []
        names = [op for op, members in self.members.items() if members]
        shape = ()
        for op in names:
            y = self._computed(op, x, relus, repeats, lambda map: map)
            shape = y.shape[:3]
            maps.append(y.flatten(0, 2).flatten(1))
            normed.append(ops.plain(op) != "skip_connect" or self.stride == 2)
        repeats.made.clear()
        rows = weights.index_select(0, self._at(self.edges, weights.device))
        own = rows.index_select(1, self._at([self.ops.index(op) for op in names], weights.device))
        total = WeightedNorms.apply(sums, Layout(tuple(normed), len(self.edges)), own, *maps)
        return total.view(*shape, len(self.edges), -1)  # type: ignore[union-attr]

    def _apart(self, x: Tensor) -> bool:
        """Keep weights and batch norm apart: for second derivatives in closed form, and where maps are bfloat16."""
        return self.twice or torch.is_autocast_enabled(x.device.type)

    def _add(self, total: Tensor | None, y: Tensor, weight: Tensor | None, members: list[int]) -> Tensor:
        """Add weight * y to the members' places; None: y has its weight."""
        if len(members) == len(self.edges) and weight is not None:
            return y * weight if total is None else torch.addcmul(total, y, weight)
        term = y if weight is None else y * weight
        if len(members) == len(self.edges):
            return term if total is None else total + term
        if total is None:
            total = term.new_zeros(*term.shape[:3], len(self.edges), term.shape[4])
        return total.index_add(3, self._at(members, y.device), term)

    def _computed(
        self, op: str, x: Tensor, relus: dict[int, Tensor], repeats: Repeats, finish: Callable[[Tensor], Tensor]
    ) -> Tensor:
        """The operation for all its members; `finish` is the batch norm that it ends in, if it does."""
        name, op = op, ops.plain(op)
        if op == "max_pool_3x3":
            return _spread(finish(F.max_pool2d(x, 3, self.stride, 1)), 1)
        if op == "avg_pool_3x3":
            return _spread(finish(F.avg_pool2d(x, 3, self.stride, 1, count_include_pad=False)), 1)
        if op == "skip_connect" and self.stride == 1:
            return _spread(x, 1)
        stacks, count = self.weights[name], len(self.members[name])
        if op == "skip_connect":
            return self._reduced(relus[1], stacks["conv_1"], stacks["conv_2"], count, finish)  # type: ignore[index]
        twice, dilation = op.startswith("sep"), DILATION[op]
        if x.device.type == "cpu" and not self._apart(x):
            form = Form(count, 1, self.stride, dilation, False)
            y = Separable.apply(relus[1], stacks["1"], stacks["2"], form, repeats)  # type: ignore[index]
            if twice:
                y = Separable.apply(y, stacks["5"], stacks["6"], Form(count, 1, 1, 1, True))  # type: ignore[index]
            return _spread(finish(y), count)  # type: ignore[arg-type]
        if count not in relus:
            relus[count] = repeated(relus[1], count)
        y = depthwise(relus[count], stacks["1"], self.stride, dilation, self.twice)  # type: ignore[index]
        y = within(y, stacks["2"], count, self.twice)  # type: ignore[index]
        if twice:
            y = depthwise(F.relu(self._normalised(y)), stacks["5"], 1, 1, self.twice)  # type: ignore[index]
            y = within(y, stacks["6"], count, self.twice)  # type: ignore[index]
        return _spread(finish(y), count)

    def _normalised(self, x: Tensor, scale: Tensor | None = None) -> Tensor:
        """Batch norm; `scale` (members,) multiplies each member's channels."""
        if self.twice:
            return normalised(x)
        return ops.batch_statistics(
            x, None if scale is None else scale.to(x.dtype).repeat_interleave(x.shape[1] // len(scale))
        )

    def _reduced(
        self, relu: Tensor, first: Tensor, second: Tensor, count: int, finish: Callable[[Tensor], Tensor]
    ) -> Tensor:
        """`FactorizedReduce` for all members at once."""
        x, shifted = ops.reduction_halves(relu)
        halves = F.conv2d(x, first, stride=2), F.conv2d(shifted, second, stride=2)
        joined = torch.cat([_spread(half, count) for half in halves], dim=-1)  # (N, H', W', count, C)
        N, H, W, E, C = joined.shape
        return _spread(finish(joined.reshape(N, H, W, E * C).permute(0, 3, 1, 2)), count)


class FastCell(nn.Module):
    """A mixed cell that walks over states instead of edges."""

    def __init__(self, reference: MixedCell, twice: bool, sums: Any) -> None:
        super().__init__()
        cell = reference.cell
        self.cell, self.kind = cell, reference.kind
        self.preprocess0, self.preprocess1 = reference.preprocess0, reference.preprocess1
        reduces = reference.kind == "reduce"
        sources = sorted({source for source, _ in cell.edges})
        strides = {s: 2 if reduces and s < cell.inputs else 1 for s in sources}
        self.fans = nn.ModuleDict(
            {str(s): Fan(cell, s, stride, reference, twice, sums) for s, stride in strides.items()}
        )

    def forward(
        self, s0: Tensor, s1: Tensor, weights: Tensor, edges: Tensor | None = None, moment: Mix | None = None
    ) -> Tensor:
        states = [self.preprocess0(s0), self.preprocess1(s1)]
        terms: list[list[Tensor]] = [[] for _ in range(self.cell.nodes)]
        for source in range(self.cell.states):
            if source >= self.cell.inputs:
                own = terms[source - self.cell.inputs]
                states.append(sum(own[1:], own[0]).permute(0, 3, 1, 2).to(states[0].dtype))
            if str(source) in self.fans:
                fan: Any = self.fans[str(source)]
                found = fan(states[source], weights, moment)
                if edges is not None:
                    found = found * edges.index_select(0, fan._at(fan.edges, edges.device)).view(1, 1, 1, -1, 1)
                for edge, y in zip(fan.edges, found.unbind(3), strict=True):
                    terms[self.cell.edges[edge][1] - self.cell.inputs].append(y)
        return torch.cat([states[i] for i in self.cell.output], dim=1)


@contextmanager
def for_second_derivatives(net: nn.Module) -> Iterator[None]:
    """Inside, the fast supernet takes the forms whose second derivatives are cheap; any other net stays as it is.

    A probe's wish must not change the rounding of the search's own steps, so it is granted for the probe alone.
    """
    plain = [fan for fan in net.modules() if isinstance(fan, Fan) and not fan.twice]
    for fan in plain:
        fan.twice = True
    try:
        yield
    finally:
        for fan in plain:
            fan.twice = False


class FastSupernet(nn.Module):
    """`net(x, mix) -> (logits, None)` like `Supernet`, with its weights packed. Takes the reference apart.

    `mix.active` is left aside: what it does not name weighs exactly 0, so computing it changes nothing.

    `twice`: second derivatives will be asked for. Batch norm and depthwise convolutions then take forms of our own,
    whose second derivatives cost a fraction of the library's, and the first ones a little more (5 % of a step).

    `sums`: a module with the functions of `weighted.py`, for the batch norms and sums at the end of every edge.
    """

    def __init__(self, reference: Supernet, twice: bool = False, sums: Any = None) -> None:
        super().__init__()
        self.stem, self.classifier = reference.stem, reference.classifier
        self.partial, self.extra = reference.partial, reference.extra
        self.cells = nn.ModuleList(FastCell(cell, twice, sums) for cell in reference.cells)  # type: ignore[arg-type]
        self.layout = _layout(self.cells)

    def forward(self, x: Tensor, mix: Mix, carry: Any = None) -> tuple[Tensor, Any]:
        s0 = s1 = self.stem(x.contiguous(memory_format=torch.channels_last))
        for cell in self.cells:
            kind: str = cell.kind  # type: ignore[assignment]
            whole = self.partial == 1  # then an edge's weight is a factor of its rows
            rows = mix.folded(kind, self.extra) if whole else mix.rows(kind, self.extra)
            s0, s1 = s1, cell(s0, s1, rows, None if whole else mix.edges.get(kind), mix)
        return self.classifier(s1.mean((2, 3))), carry

    def pack(self, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Tensors under the reference's weight names -> under this net's. Works for momentum and gradients as well."""
        packed = {ours: torch.cat([tensors[theirs] for theirs in names]) for ours, names in self.layout.items()}
        stacked = {theirs for names in self.layout.values() for theirs in names}
        return {name: t for name, t in tensors.items() if name not in stacked} | packed

    def unpack(self, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The inverse of `pack`, in the order of the reference's names within each group."""
        found = {name: t for name, t in tensors.items() if name not in self.layout}
        for ours, names in self.layout.items():
            found.update(zip(names, (part.contiguous() for part in tensors[ours].chunk(len(names))), strict=True))
        return found


def _layout(cells: nn.ModuleList) -> dict[str, list[str]]:
    """Packed name -> the reference's names that are stacked in it, in order."""
    layout = {}
    for i, cell in enumerate(cells):
        for source, fan in cell.fans.items():  # type: ignore[union-attr]
            for op, stacks in fan.weights.items():
                for layer in stacks:
                    edges = [fan.edges[k] for k in fan.members[op]]
                    names = [f"cells.{i}.edges.{e}.candidates.{op}.{layer}.weight" for e in edges]
                    layout[f"cells.{i}.fans.{source}.weights.{op}.{layer}"] = names
    return layout


def _stack(modules: Sequence[nn.Module], layer: str) -> Tensor:
    """One layer's weights of several modules, concatenated along the output channels."""
    return torch.cat([module.get_submodule(layer).weight.detach() for module in modules])  # type: ignore[arg-type]


def _spread(y: Tensor, count: int) -> Tensor:
    """(N, count*C, H, W) -> (N, H, W, count, C), a view where images lie channels-last."""
    N, K, H, W = y.shape
    return y.permute(0, 2, 3, 1).reshape(N, H, W, count, K // count)


def _drop(y: Tensor, count: int, rate: Tensor) -> Tensor:
    """Drop path with a mask of its own for each sample and edge: (N, H, W, 1 or count, C) -> (N, H, W, count, C)."""
    keep = 1 - rate
    mask = (torch.rand(y.shape[0], 1, 1, count, 1, dtype=y.dtype, device=y.device) < keep).to(y.dtype)
    return y / keep * mask
