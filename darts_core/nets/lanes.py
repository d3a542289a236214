"""Supernets of one form side by side ("lanes"), each with weights, mix and images of its own, in calls that serve all.

Lanes lie in the channels, lane by lane, so that a convolution of all of them is one call with more groups, and a batch
norm one call over more channels; no number of one lane ever meets a number of another. What is shared within a lane
(`fast.py`) is shared here too.

The compiled kernel takes all cells of all lanes in one call, in which a core takes the next cell of the next lane: on
small images that scales better than cores that share one lane.

`tests/test_lanes.py` compares output and every gradient with each net alone, in float64.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.func import functional_call

from darts_core import ops
from darts_core.mix import Mix
from darts_core.nets.compiled import LARGEST, CompiledSupernet, NetsCall
from darts_core.nets.fast import DILATION, Fan, FastCell, FastSupernet, Pointwise, depthwise, normalised, within
from darts_core.nets.separable import Form, Separable, composed, repeated

Weights = Mapping[str, Tensor]
# (weights, images, mix) of each lane -> the logits (lanes, N, classes)
Logits = Callable[[Sequence[Weights], Sequence[Tensor], Sequence[Mix]], Tensor]


def side_by_side(nets: Sequence[Any]) -> Logits | None:
    """The function that computes all `nets` at once; None where there is none.

    All must be of one form and built alike, with the same sizes. Drop path, dropout and partial channels have no form
    here (`plain_mix` says so of a mix).
    """
    first = nets[0]
    alike = all(type(net) is type(first) and _shapes(net) == _shapes(first) for net in nets)
    if alike and isinstance(first, FastSupernet) and first.partial == 1 and not first.extra:
        return Grouped(first, len(nets))
    if alike and isinstance(first, CompiledSupernet) and not first.extra and first.flat.device.type == "cpu":
        return OneCall(first, len(nets))
    return None


def twice_differentiable(nets: Sequence[Any]) -> Logits | None:
    """`side_by_side` in the forms of `fast.py` whose second derivatives are cheap."""
    together = side_by_side(nets)
    if isinstance(together, OneCall):
        return together.in_pytorch
    return Grouped(together.net, len(nets), twice=True) if isinstance(together, Grouped) else None


def plain_mix(mix: Mix) -> bool:
    """Is nothing asked for but weighted sums? Masks are drawn from a generator that lanes do not share."""
    return not mix.drop and not mix.dropout and mix.extra_skip is None


def _shapes(net: Any) -> dict[str, torch.Size]:
    return {name: p.shape for name, p in net.named_parameters()}


class Grouped:
    """Lanes of `FastSupernet` as grouped convolutions. Images are (N, lanes * C, H, W), channels last."""

    def __init__(self, net: FastSupernet, lanes: int, twice: bool = False) -> None:
        """`net` gives the layout alone; its weights are never looked at. `twice` as in `FastSupernet`."""
        self.net, self.lanes, self.twice = net, lanes, twice

    def __call__(self, weights: Sequence[Weights], images: Sequence[Tensor], mixes: Sequence[Mix]) -> Tensor:
        all_of = lambda name: torch.cat([w[name] for w in weights])  # noqa: E731  # lane by lane
        x = torch.cat(list(images), dim=1).contiguous(memory_format=torch.channels_last)
        stem: Any = self.net.stem[0]
        y = F.conv2d(x, all_of("stem.0.weight"), None, stem.stride, stem.padding, groups=self.lanes)
        s0 = s1 = ops.batch_statistics(y, all_of("stem.1.weight"), all_of("stem.1.bias"))
        rows = {kind: torch.stack([mix.folded(kind) for mix in mixes]) for kind in mixes[0].ops}
        for i, cell in enumerate(self.net.cells):
            own = lambda name, i=i: all_of(f"cells.{i}.{name}")  # noqa: E731
            s0, s1 = s1, self._cell(cell, own, s0, s1, rows[cell.kind])  # type: ignore[arg-type, index]
        features = s1.mean((2, 3)).unflatten(1, (self.lanes, -1)).transpose(0, 1)  # (lanes, N, channels)
        weight, bias = (torch.stack([w[f"classifier.{name}"] for w in weights]) for name in ("weight", "bias"))
        return torch.baddbmm(bias.unsqueeze(1), features, weight.transpose(1, 2))

    def _cell(self, cell: FastCell, own: Callable[[str], Tensor], s0: Tensor, s1: Tensor, rows: Tensor) -> Tensor:
        """As `FastCell.forward`; rows (lanes, edges, ops)."""
        states = [self._input(cell.preprocess0, own, "preprocess0", s0)]
        states.append(self._input(cell.preprocess1, own, "preprocess1", s1))
        spec = cell.cell
        terms: list[list[Tensor]] = [[] for _ in range(spec.nodes)]
        for source in range(spec.states):
            if source >= spec.inputs:
                into = terms[source - spec.inputs]
                states.append(_image(sum(into[1:], into[0])))
            if str(source) in cell.fans:
                fan: Any = cell.fans[str(source)]
                prefix = f"fans.{source}.weights"
                found = self._fan(fan, lambda name, at=prefix: own(f"{at}.{name}"), states[source], rows)
                for edge, y in zip(fan.edges, found.unbind(4), strict=True):
                    terms[spec.edges[edge][1] - spec.inputs].append(y)
        outputs = [self._apart(states[i], 1)[..., 0, :] for i in spec.output]  # (N, H, W, lanes, C) each
        return _image(torch.cat(outputs, dim=-1))

    def _input(self, module: Any, own: Callable[[str], Tensor], name: str, x: Tensor) -> Tensor:
        """ReLU, 1x1 convolution and batch norm, or a factorised reduction."""
        if isinstance(module, ops.FactorizedReduce):
            return _image(self._reduced(F.relu(x), own(f"{name}.conv_1.weight"), own(f"{name}.conv_2.weight"), 1))
        relu, weight = F.relu(x), own(f"{name}.1.weight")
        if self.twice:
            return normalised(Pointwise.apply(relu, weight, self.lanes))  # type: ignore[arg-type]
        return ops.batch_statistics(F.conv2d(relu, weight, groups=self.lanes))

    def _fan(self, fan: Fan, own: Callable[[str], Tensor], x: Tensor, rows: Tensor) -> Tensor:
        """As `Fan.forward`: (N, H', W', lanes, edges of the fan, C)."""
        relu = F.relu(x)
        total: Tensor | None = None
        for op, members in fan.members.items():
            if not members:
                continue
            y = self._computed(fan, own, op, x, relu)  # (N, H', W', lanes, members or 1, C)
            column = rows[:, [fan.edges[k] for k in members], fan.ops.index(op)]
            weight = column.view(1, 1, 1, self.lanes, len(members), 1)
            if len(members) == len(fan.edges):
                total = y * weight if total is None else torch.addcmul(total, y, weight)
                continue
            term = y * weight
            if total is None:
                total = term.new_zeros(*term.shape[:4], len(fan.edges), term.shape[5])
            total = total.index_add(4, torch.tensor(members, device=y.device), term)
        if total is None:
            zeros = self._apart(ops.Zero(fan.stride)(x), 1)
            return zeros.expand(-1, -1, -1, -1, len(fan.edges), -1)
        return total

    def _computed(self, fan: Fan, own: Callable[[str], Tensor], op: str, x: Tensor, relu: Tensor) -> Tensor:
        name, op = op, ops.plain(op)
        if op == "max_pool_3x3":
            return self._apart(self._normalised(F.max_pool2d(x, 3, fan.stride, 1)), 1)
        if op == "avg_pool_3x3":
            return self._apart(self._normalised(F.avg_pool2d(x, 3, fan.stride, 1, count_include_pad=False)), 1)
        if op == "skip_connect" and fan.stride == 1:
            return self._apart(x, 1)
        count = len(fan.members[name])
        if op == "skip_connect":
            return self._reduced(relu, own(f"{name}.conv_1"), own(f"{name}.conv_2"), count)
        library: Any = Separable.apply if x.device.type == "cpu" else composed
        separable = _separable if self.twice else library
        form = Form(self.lanes * count, self.lanes, fan.stride, DILATION[op], False)
        y = separable(relu, own(f"{name}.1"), own(f"{name}.2"), form)
        if op.startswith("sep"):
            y = separable(y, own(f"{name}.5"), own(f"{name}.6"), Form(self.lanes * count, self.lanes, 1, 1, True))
        return self._apart(self._normalised(y), count)

    def _normalised(self, y: Tensor) -> Tensor:
        return normalised(y) if self.twice else ops.batch_statistics(y)

    def _reduced(self, relu: Tensor, first: Tensor, second: Tensor, count: int) -> Tensor:
        """`FactorizedReduce` for all members of all lanes: (N, H', W', lanes, count, C)."""
        x, shifted = ops.reduction_halves(relu)
        halves = (F.conv2d(image, w, stride=2, groups=self.lanes) for image, w in ((x, first), (shifted, second)))
        joined = torch.cat([self._apart(half, count) for half in halves], dim=-1)
        return self._apart(self._normalised(_image(joined)), count)

    def _apart(self, y: Tensor, count: int) -> Tensor:
        """(N, lanes*count*C, H, W) -> (N, H, W, lanes, count, C), a view where images lie channels-last."""
        N, K, H, W = y.shape
        return y.permute(0, 2, 3, 1).reshape(N, H, W, self.lanes, count, K // (self.lanes * count))


def _separable(x: Tensor, depth: Tensor, point: Tensor, form: Form) -> Tensor:
    """What `Separable` computes, out of parts whose second derivatives are cheap."""
    seen = F.relu(normalised(x)) if form.normed else x
    seen = repeated(seen, depth.shape[0] // x.shape[1], form.lanes)
    return within(depthwise(seen, depth, form.stride, form.dilation), point, form.groups)


def _image(y: Tensor) -> Tensor:
    """(N, H, W, ...) -> (N, channels, H, W), channels last."""
    return y.reshape(*y.shape[:3], -1).permute(0, 3, 1, 2)


class OneCall:
    """Lanes of `CompiledSupernet`, all cells of all of them one call of the kernel. Images are (lanes, N, H, W, C)."""

    def __init__(self, net: CompiledSupernet, lanes: int) -> None:
        """`net` gives the layout alone; its weights are never looked at."""
        self.net, self.lanes = net, lanes
        self.cores = max(torch.get_num_threads(), cores())  # for the kernel, whose threads are its own

    def __call__(self, weights: Sequence[Weights], images: Sequence[Tensor], mixes: Sequence[Mix]) -> Tensor:
        net, lanes = self.net, self.lanes
        sizes = net.parts[0], sum(net.parts[1:-1]), net.parts[-1]
        first, middle, last = torch.stack([w["flat"] for w in weights]).split(sizes, dim=1)  # (lanes, numbers) each
        kernel, scale, shift = net.views(0, first)
        x = torch.cat(list(images), dim=1).contiguous(memory_format=torch.channels_last)
        y = F.conv2d(x, kernel.flatten(0, 1), None, net.stem_stride, 1, groups=lanes)
        y = ops.batch_statistics(y, scale.flatten(), shift.flatten())
        stem = y.unflatten(1, (lanes, -1)).permute(1, 0, 3, 4, 2).contiguous()
        if not torch.is_grad_enabled() and self._bytes(stem) > LARGEST:
            alone = zip(weights, images, mixes, strict=True)
            return torch.stack([functional_call(net, dict(own), (x, mix))[0] for own, x, mix in alone])
        kinds = [kind for kind in mixes[0].ops if kind in net.kinds]
        rows = [torch.stack([mix.folded(kind) for mix in mixes]).to(stem.dtype) for kind in kinds]
        s1: Any = NetsCall.apply(net, kinds, self.cores, stem, middle, *rows)
        weight, bias = net.views(len(net.parts) - 1, last)
        return torch.baddbmm(bias.unsqueeze(1), s1.mean((2, 3)), weight.transpose(1, 2))

    def _bytes(self, stem: Tensor) -> int:
        """What a pass of all keeps at once, where no way back follows too."""
        total, maps = 0, [stem, stem]
        for plan in self.net.plans:
            total += plan.bytes(*maps[-2:])
            maps.append(stem.new_empty(1).expand(plan.output_shape(maps[-1])))  # the sizes alone
        return self.lanes * total

    def in_pytorch(self, weights: Sequence[Weights], images: Sequence[Tensor], mixes: Sequence[Mix]) -> Tensor:
        """The same function by `Grouped`, in the forms whose second derivatives are cheap."""
        found = [self.net.in_pytorch(own["flat"]) for own in weights]
        fast = found[0][0]
        return Grouped(fast, self.lanes, twice=True)([named for _, named in found], images, mixes)


def cores() -> int:
    """The cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
