"""ProxylessNAS (Cai, Zhu, Han 2019): binary gates; a weight step runs one path, an architecture step compares two.

y = sum_k g_k o_k(x) with one gate 1 and the others 0;  dL/dalpha_i = sum_j dL/dg_j q_j (delta_ij - q_i).
"""

from __future__ import annotations

from typing import Annotated

import torch
from torch import Tensor

from darts_core.card import Card
from darts_core.errors import BadInput
from darts_core.mix import Alphas, Mix
from darts_core.search.method import Method, Moment, softmax_rows
from darts_core.search.option import Choice, Range

CARD = Card(
    "ProxylessNAS",
    "y = sum_k g_k o_k(x), g one-hot;  dL/dalpha_i = sum_j dL/dg_j q_j (delta_ij - q_i), q the softmax of two alphas;  "
    "loss + price * (E[cost] - ref) / ref",
    "Only sampled paths run: one in a weight step, two in an architecture step, where the pair shares its probability.",
    "Cai, Zhu, Han: ProxylessNAS, ICLR 2019; mit-han-lab/proxylessnas",
    (
        "The search space of the paper is `mbconv`; the method runs on every space.",
        "The published search uses Adam with betas (0, 0.999) and no decay for the alphas, and smooths labels in "
        "weight steps: set a_beta1=0 and a_decay=0; labels are not smoothed here.",
        "The cost term is the paper's linear one; the code's other form multiplies the loss.",
        "Shown is softmax(alpha): the supernet was trained one path at a time, so its own accuracy under that mix says "
        "little.",
    ),
)


def proxyless(
    every: Annotated[int, Range(1, 1000), "Weight steps per architecture step."] = 5,
    warm_up: Annotated[float, Range(0, 0.95), "Share of the search in which only weights move."] = 0.25,
    paths: Annotated[
        str, Choice("two", "full"), "What an architecture step runs: two sampled paths, or all of them."
    ] = "two",
    cost: Annotated[
        str, Choice("macs", "latency"), "What the price is on: multiply-adds, or seconds measured here (see latency)."
    ] = "macs",
    price: Annotated[float, Range(0, 100), "Weight of the expected cost in the loss (the paper: 0.1)."] = 0.0,
    target: Annotated[
        float, Range(0.001, 10), "Reference cost, as a share of that of a network drawn uniformly."
    ] = 1.0,
) -> Method:
    """Binary gates with the two-path gradient."""

    def relax(alphas: Alphas, moment: Moment) -> Mix:
        if moment.phase == "read":
            return Mix(softmax_rows(alphas))
        count = 1 if moment.phase == "weights" else 2 if paths == "two" else None
        drawn = {kind: _gates(alphas, kind, moment, count) for kind in alphas.ops}
        active = {
            kind: tuple(frozenset(row.nonzero().flatten().tolist()) for row in chosen)
            for kind, (_, chosen) in drawn.items()
        }
        return Mix({kind: gate for kind, (gate, _) in drawn.items()}, active=active)

    def when(moment: Moment) -> bool:
        return moment.progress >= warm_up and moment.step % every == 0

    def penalty(alphas: Alphas, mix: Mix, moment: Moment) -> Tensor:
        """Zero where it costs nothing; else price * (E - ref) / ref with the gradient of the sampled pair."""
        zero = next(iter(alphas.ops.values())).new_zeros(())
        if not price:
            return zero
        if moment.costs is None:
            raise BadInput("settings", "price", "costs of this search are not known", "set price=0")
        table = {kind: t.to(zero) for kind, t in moment.costs(cost).items()}
        even = {kind: t.float() / t.sum(-1, keepdim=True).clamp(min=1) for kind, t in alphas.legal.items()}
        reference = target * torch.stack([(even[kind] * table[kind]).sum() for kind in table]).sum()
        expected = torch.stack([(mix.ops[kind] * table[kind]).sum() for kind in table]).sum()
        return price * (expected - reference) / reference

    return Method(relax=relax, settle=keeps_mass, when=when, penalty=penalty)


def _gates(alphas: Alphas, kind: str, moment: Moment, count: int | None) -> tuple[Tensor, Tensor]:
    """Gates (edges, ops) of one kind, one 1 per row, with the gradient of softmax over the drawn paths; and which were
    drawn, bool. Drawing without replacement by p is taking the largest of log p + Gumbel noise.
    """
    assert moment.generator is not None, "sampling needs a generator"
    logits, legal = alphas.ops[kind], alphas.legal[kind]
    masked = logits.masked_fill(~legal, -torch.inf)
    uniform = torch.rand(logits.shape, generator=moment.generator).clamp(1e-20, 1 - 1e-7).to(logits.device)
    noisy = masked.detach() - torch.log(-torch.log(uniform))
    drawn = legal
    if count is not None:
        top = noisy.topk(min(count, logits.shape[1]), dim=-1).indices
        drawn = torch.zeros_like(legal).scatter(-1, top, True) & legal
    q = torch.softmax(masked.masked_fill(~drawn, -torch.inf), dim=-1)
    again = torch.rand(len(logits), generator=moment.generator).clamp(1e-6).to(logits.device)
    chosen = (q.detach().cumsum(-1) < again[:, None] * q.detach().sum(-1, keepdim=True)).sum(-1)
    chosen = chosen.clamp(max=logits.shape[1] - 1)
    hard = torch.zeros_like(q).scatter(-1, chosen[:, None], 1.0)
    gate = torch.where(drawn, hard + q - q.detach(), 0.0)
    if moment.space is not None and "none" in moment.space.cells[kind].ops:
        # an active zero operation: the original leaves such an edge alone
        nothing = hard[:, moment.space.cells[kind].ops.index("none")] > 0
        gate = torch.where(nothing[:, None], hard, gate)
    return gate, drawn


def keeps_mass(before: Alphas, after: Alphas, mix: Mix) -> Alphas:
    """The alphas that moved are shifted together so that their part of the probability is what it was.

    With Adam's first beta at 0 and no decay only the two drawn paths move, and this is the original's rule: subtract
    log(sum exp new / sum exp old) over the pair. Paths that were not drawn keep their probability.
    """
    settled = {}
    for kind, new in after.ops.items():
        old = before.ops[kind]
        moved = (new != old) & after.legal[kind]
        part = lambda t, moved=moved: t.masked_fill(~moved, -torch.inf).logsumexp(-1, keepdim=True)  # noqa: E731
        shift = torch.where(moved.any(-1, keepdim=True), part(new) - part(old), torch.zeros_like(new[:, :1]))
        settled[kind] = torch.where(moved, new - shift, new)
    return after._replace(ops=settled)
