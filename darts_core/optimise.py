"""The two optimisers of a search, as plain state around PyTorch's own update functions.

`torch.optim.SGD` and `Adam` compute the same numbers (tested), but constructing one imports the compiler stack, which
costs three seconds at every start; and a checkpoint wants the state by name.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

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

    @torch.no_grad()
    def step(self, grads: Sequence[Tensor], rate: float, momentum: float, decay: float) -> None:
        """w <- w - rate * buffer, with buffer <- momentum * buffer + grad + decay * w."""
        buffers = [self.buffers.get(name) for name in self.params]
        settings = {"weight_decay": decay, "momentum": momentum, "lr": rate, "dampening": 0, "nesterov": False}
        sgd(list(self.params.values()), list(grads), buffers, **settings, maximize=False, foreach=True)
        self.buffers = {name: b for name, b in zip(self.params, buffers, strict=True) if b is not None}


class Adam:
    """Adam with L2 decay added to the gradient, as the alphas use it; `first` and `second` are its moments by name."""

    def __init__(self, params: Mapping[str, Tensor]) -> None:
        self.params = dict(params)
        self.first = {name: torch.zeros_like(p) for name, p in self.params.items()}
        self.second = {name: torch.zeros_like(p) for name, p in self.params.items()}
        self.steps = 0

    @torch.no_grad()
    def step(
        self,
        grads: Sequence[Tensor],
        rate: float,
        betas: tuple[float, float],
        decay: float,
        still: Mapping[str, Tensor] | None = None,
    ) -> None:
        """One step of Adam (Kingma and Ba 2015) with eps 1e-8.

        `still`: name -> entries (bool, of the parameter's shape) that stay as they are, moments included. Without it
        the decay would move an entry that has no gradient, by a whole learning rate at a time.
        """
        held = [(t, t.clone(), mask) for name, mask in (still or {}).items() for t in self._of(name)]
        counts = [torch.tensor(float(self.steps)) for _ in self.params]
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
            list(self.params.values()),
            list(grads),
            first,
            second,
            [],
            counts,
            **settings,
            maximize=False,
            foreach=False,
        )
        for tensor, before, mask in held:
            tensor.copy_(torch.where(mask, before, tensor))
        self.steps += 1

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
    scale = torch.clamp(largest / (norm + 1e-6), max=1.0)
    for grad in grads:
        grad.mul_(scale)
    return norm


def joint_norm(tensors: Sequence[Tensor]) -> Tensor:
    """2-norm over all entries of all tensors, 0-d."""
    return torch.linalg.vector_norm(torch.stack([torch.linalg.vector_norm(t) for t in tensors]))
