"""Cross-entropy behind a linear decoder, without a table of all logits: the text is taken some rows at a time.

At the paper's setting the logits of one step are 90 million numbers, which a softmax, its way back and the search for
the likeliest word read and write a dozen times. A few hundred rows stay in the cache, and their gradients are taken on
the spot: loss = mean over rows of logsumexp(l) - l[target] has the gradient (softmax(l) - onehot) / rows for l.
Second derivatives go through plain PyTorch by themselves. `tests/test_recurrent.py` compares both.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

AT_A_TIME = 1 << 21  # logits; on a GPU, which has no such cache, 64 times as many


def cross_entropy(states: Tensor, words: Tensor, bias: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
    """Of logits = states @ words.T + bias: the mean cross-entropy (nats), 0-d, and the share of rows whose target is
    the likeliest word (0 to 1), 0-d without a gradient.

    Args:
        states: (..., n); targets: (...) numbers of words, of the same leading shape.
        words: (V, n); bias: (V,).
    """
    flat, aims = states.flatten(0, -2), targets.reshape(-1)
    keep = torch.is_grad_enabled()
    return InPieces.apply(flat, words, bias, aims, keep)  # type: ignore[no-any-return]


class InPieces(torch.autograd.Function):
    """Loss and gradients, piece by piece."""

    @staticmethod
    def forward(  # type: ignore[override]
        ctx: Any, states: Tensor, words: Tensor, bias: Tensor, targets: Tensor, keep: bool
    ) -> tuple[Tensor, Tensor]:
        rows, vocabulary = len(states), len(words)
        want_states, want_words, want_bias, *_ = (keep and need for need in ctx.needs_input_grad)
        g_states = torch.empty_like(states) if want_states else None
        g_words = torch.zeros_like(words) if want_words else None
        g_bias = torch.zeros_like(bias) if want_bias else None
        size = max(16, AT_A_TIME * (1 if states.device.type == "cpu" else 64) // vocabulary)
        room = states.new_empty(min(size, rows), vocabulary)
        said, hits = states.new_zeros(()), states.new_zeros(())
        for first in range(0, rows, size):
            piece, aims = states[first : first + size], targets[first : first + size, None]
            logits = torch.addmm(bias, piece, words.t(), out=room[: len(piece)])
            hits += (logits.max(-1, keepdim=True).indices == aims).sum()  # twice as fast as argmax
            logp = torch.log_softmax(logits, -1, out=logits)
            said -= logp.gather(-1, aims).sum()
            if not (want_states or want_words or want_bias):
                continue
            moved = logp.exp_().scatter_add_(-1, aims, logp.new_full(aims.shape, -1.0))
            if g_states is not None:
                torch.mm(moved, words, out=g_states[first : first + size])
            if g_words is not None:
                g_words.addmm_(moved.t(), piece)
            if g_bias is not None:
                g_bias += moved.sum(0)
        ctx.save_for_backward(states, words, bias, targets)
        ctx.found = (g_states, g_words, g_bias)
        hits = hits / rows
        ctx.mark_non_differentiable(hits)
        return said / rows, hits

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        states, words, bias, targets = ctx.saved_tensors
        inputs, wanted = (states, words, bias), ctx.needs_input_grad[:3]
        if not torch.is_grad_enabled():
            return (*(None if g is None else g * (grads[0] / len(states)) for g in ctx.found), None, None)
        views = [t.view_as(t) if want else t.detach() for t, want in zip(inputs, wanted, strict=True)]
        loss = F.cross_entropy(F.linear(views[0], views[1], views[2]), targets)
        asked = [view for view, want in zip(views, wanted, strict=True) if want]
        found = iter(torch.autograd.grad(loss, asked, grads[0], create_graph=True))
        return (*(next(found) if want else None for want in wanted), None, None)
