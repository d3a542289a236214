"""The optimisers of a search, as plain state around PyTorch's own update functions.

`torch.optim.SGD`, `ASGD` and `Adam` compute the same numbers (tested), but constructing one imports the compiler stack,
which costs three seconds at every start; and a checkpoint wants the state by name.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor
from torch.optim.adam import adam
from torch.optim.sgd import sgd


class Momentum:
    """SGD with momentum and weight decay, no dampening, no Nesterov; `buffers` holds name -> momentum, absent before
    a step.
    """

    def __init__(self, params: Mapping[str, Tensor]) -> None:
        self.params = dict(params)
        self.buffers: dict[str, Tensor] = {}

    def buffer(self, name: str) -> Tensor:
        """The momentum of a weight; zeros before the first step."""
        found = self.buffers.get(name)
        return torch.zeros_like(self.params[name]) if found is None else found

    def begun(self) -> None:
        """Give every weight its momentum, zero where there was none: their places stay the same from now on."""
        self.buffers = {name: self.buffer(name) for name in self.params}

    @torch.no_grad()
    def step(self, grads: Sequence[Tensor], rate: float | Tensor, momentum: float, decay: float) -> None:
        """w <- w - rate * buffer, with buffer <- momentum * buffer + grad + decay * w.

        A rate that is a tensor (0-d, on the device) is read by one fused kernel for all weights.
        """
        buffers = [self.buffers.get(name) for name in self.params]
        params = list(self.params.values())
        settings = {"weight_decay": decay, "momentum": momentum, "lr": rate, "dampening": 0, "nesterov": False}
        fused = isinstance(rate, Tensor)
        grads = _laid_out(grads, params) if fused else list(grads)
        sgd(params, grads, buffers, **settings, maximize=False, foreach=not fused, fused=fused)
        self.buffers = {name: b for name, b in zip(self.params, buffers, strict=True) if b is not None}


MEAN = "mean."  # before the names of averaged weights in a checkpoint
COUNT = "averaged"  # there: the steps that the mean is over, once averaging has begun
AVERAGING = "averaged SGD from epoch {epoch} on: the validation loss has stopped falling"


class Averaged:
    """Averaged SGD (Polyak and Juditsky 1992) as `torch.optim.ASGD` with t0 = 0 and lambd = 0: plain SGD steps, and the
    mean of the weights behind them. ASGD of PyTorch steps with the rate of the batch before; here it is the step's own.
    """

    def __init__(self) -> None:
        self.count = 0
        self.mean: dict[str, Tensor] = {}

    @torch.no_grad()
    def add(self, params: Mapping[str, Tensor]) -> None:
        """Take the weights after a step into the mean, with the share 1 / max(1, step - 1): the second step replaces
        the first, as in PyTorch.
        """
        self.count += 1
        share = 1 / max(1, self.count - 1)
        for name, p in params.items():
            if name in self.mean:
                self.mean[name].add_(p - self.mean[name], alpha=share)
            else:
                self.mean[name] = p.detach().clone()

    @contextmanager
    def standing_in(self, params: Mapping[str, Tensor]) -> Iterator[None]:
        """The mean in place of the weights, which come back bit for bit; before the first step they stay."""
        own = {name: p.detach().clone() for name, p in params.items()} if self.mean else {}
        _copied(self.mean, params)
        try:
            yield
        finally:
            _copied(own, params)

    def saved(self, unpack: Callable[[dict[str, Tensor]], Mapping[str, Tensor]]) -> dict[str, Tensor]:
        """What a checkpoint holds of it; `unpack` gives weights the names that files have."""
        means = unpack(dict(self.mean)) if self.mean else {}
        return {COUNT: torch.tensor(self.count), **{f"{MEAN}{name}": t for name, t in means.items()}}

    @staticmethod
    def of(
        tensors: Mapping[str, Tensor], pack: Callable[[dict[str, Tensor]], Mapping[str, Tensor]], device: torch.device
    ) -> Averaged | None:
        """What `saved` wrote; None where averaging had not begun."""
        if COUNT not in tensors:
            return None
        found = Averaged()
        found.count = int(tensors[COUNT])
        means = {n.removeprefix(MEAN): t.to(device) for n, t in tensors.items() if n.startswith(MEAN)}
        found.mean = {name: t.clone() for name, t in pack(means).items()} if means else {}
        return found


def triggered(losses: Sequence[float], loss: float, patience: int) -> bool:
    """Should averaging begin? Non-monotonic trigger (Merity et al. 2018): more than `patience` losses are known, and
    this one is above the least of all but the last `patience`. It is added to them afterwards, as the original does.
    A patience of 0: never.
    """
    return 0 < patience < len(losses) and loss > min(losses[:-patience])


class Adam:
    """Adam with L2 decay added to the gradient, as the alphas use it; `first` and `second` are its moments by name."""

    def __init__(self, params: Mapping[str, Tensor]) -> None:
        self.params = dict(params)
        self.first = {name: torch.zeros_like(p) for name, p in self.params.items()}
        self.second = {name: torch.zeros_like(p) for name, p in self.params.items()}
        self.steps = 0
        self.counts: list[Tensor] = []  # the same number on the device, one for each parameter, for fused steps

    @torch.no_grad()
    def step(
        self,
        grads: Sequence[Tensor],
        rate: float | Tensor,
        betas: tuple[float, float],
        decay: float,
        still: Mapping[str, Tensor] | None = None,
    ) -> None:
        """One step of Adam (Kingma and Ba 2015) with eps 1e-8. A rate that is a tensor is read by a fused kernel, which
        counts on the device (`counted` beforehand) and leaves `steps` to the caller.

        `still`: name -> entries (bool, of the parameter's shape) that stay as they are, moments included. Without it
        the decay would move an entry that has no gradient, by a whole learning rate at a time.
        """
        held = [(t, t.clone(), mask) for name, mask in (still or {}).items() for t in self._of(name)]
        fused, params = isinstance(rate, Tensor), list(self.params.values())
        counts = self.counts if fused else [torch.tensor(float(self.steps)) for _ in params]
        grads = _laid_out(grads, params) if fused else list(grads)
        first, second = list(self.first.values()), list(self.second.values())
        settings = {
            "amsgrad": False,
            "beta1": betas[0],
            "beta2": betas[1],
            "lr": rate,
            "weight_decay": decay,
            "eps": 1e-8,
        }
        adam(
            params,
            grads,
            first,
            second,
            [],
            counts,
            **settings,
            maximize=False,
            foreach=False,
            fused=fused,
        )
        for tensor, before, mask in held:
            tensor.copy_(torch.where(mask, before, tensor))
        if not fused:
            self.steps += 1

    def counted(self) -> list[Tensor]:
        """The number of steps made, on the device: the place where fused steps count."""
        self.counts = [torch.tensor(float(self.steps), device=p.device) for p in self.params.values()]
        return self.counts

    def _of(self, name: str) -> tuple[Tensor, Tensor, Tensor]:
        return self.params[name], self.first[name], self.second[name]

    @torch.no_grad()
    def revive(self, name: str, entries: Tensor) -> None:
        """Entries that stood still from the start move like the others from now on.

        With second moments of zero their first step would be many times as long as the others'; they take the mean of
        those that moved.
        """
        second = self.second[name]
        new, moved = entries & (second == 0), second > 0
        if bool(new.any()) and bool(moved.any()):
            second[new] = second[moved].mean()


def clipped(grads: Sequence[Tensor], largest: float) -> Tensor:
    """Scale `grads` in place so that their joint L2 norm is at most `largest`; the norm before, 0-d."""
    norm = joint_norm(grads)
    torch._foreach_mul_(list(grads), torch.clamp(largest / (norm + 1e-6), max=1.0))  # type: ignore
    return norm


def joint_norm(tensors: Sequence[Tensor]) -> Tensor:
    """2-norm over all entries of all tensors, 0-d."""
    return torch.linalg.vector_norm(torch.stack(torch._foreach_norm(list(tensors))))  # type: ignore


@torch.no_grad()
def _copied(values: Mapping[str, Tensor], params: Mapping[str, Tensor]) -> None:
    for name, value in values.items():
        params[name].copy_(value)


def _laid_out(grads: Sequence[Tensor], params: Sequence[Tensor]) -> list[Tensor]:
    """Gradients in the memory layout of their weights, as fused kernels want them (a convolution on channels-last
    images may hand out a channels-last gradient).
    """
    pairs = zip(grads, params, strict=True)
    return [g if g.stride() == p.stride() else torch.empty_like(p).copy_(g) for g, p in pairs]
