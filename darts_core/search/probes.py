"""Measurements at the end of an epoch. A probe leaves no trace: it sees pure functions and returns floats."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np
import torch
from torch import Tensor

from darts_core.mix import Alphas

AlphaLoss = Callable[[Alphas], Tensor]  # the validation loss on a fixed batch, at fixed weights


def alpha_hessian(loss: AlphaLoss, alphas: Alphas, decay: float = 0.0) -> np.ndarray:
    """The Hessian of the validation loss over all legal operation logits, exact, (entries, entries), symmetric.

    Row by row through a second backward pass; the alphas' weight decay stands on the diagonal, as in the RobustDARTS
    code (Zela et al. 2020, section 4). Entries are ordered by kind, edge, operation.
    """
    leaves = alphas.leaves()
    tensors = list(leaves.ops.values())
    grads = torch.autograd.grad(loss(leaves), tensors, create_graph=True, materialize_grads=True)
    legal = torch.cat([leaves.legal[kind].reshape(-1) for kind in leaves.ops])
    flat = torch.cat([g.reshape(-1) for g in grads])
    rows = []
    for entry in legal.nonzero().flatten().tolist():
        row = torch.autograd.grad(flat[entry], tensors, retain_graph=True, materialize_grads=True)
        rows.append(torch.cat([r.reshape(-1) for r in row])[legal])
    hessian = torch.stack(rows).detach().double().cpu().numpy()
    return (hessian + hessian.T) / 2 + decay * np.eye(len(rows))


def dominant_eigenvalue(hessian: np.ndarray) -> float:
    """The largest eigenvalue (not the largest in magnitude), as RobustDARTS takes it."""
    return float(np.linalg.eigvalsh(hessian)[-1])


def rise_above_minimum(history: Sequence[Mapping], now: float) -> float:
    """How far the validation loss stands above the lowest of this search so far (same unit as the loss, at least 0)."""
    return now - min([now, *(epoch["metrics"]["valid_loss"] for epoch in history)])
