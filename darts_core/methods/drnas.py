"""DrNAS (Chen et al. 2021): the mix of an edge is drawn from a Dirichlet distribution; two stages, the second wider.

p ~ Dirichlet(elu(alpha) + 1), with gradients through the sample; then fewer operations, more channels.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Annotated

import torch
import torch.nn.functional as F
from torch import Tensor

from darts_core.card import Card
from darts_core.chance import reseed
from darts_core.mix import Alphas, Mix
from darts_core.search.method import Method, Moment, Stage, Trained, near_zero, softmax_rows, strongest_columns, without
from darts_core.search.option import Fixed, Partial, Range
from darts_core.search.parts import warm_up, worn
from darts_core.space import SearchSpace

CARD = Card(
    "DrNAS",
    "o(x) = sum_k p_k o_k(x),  p ~ Dirichlet(elu(alpha) + 1);  stage 2: the best 4/7 of the operations, more channels",
    "The mix is a draw from a distribution whose parameters are learned, so the search explores. Halfway the weakest "
    "operations go and the others see more channels.",
    "Chen, Wang, Cheng, Tang, Hsieh: DrNAS, ICLR 2021; xiangning-chen/DrNAS",
    (
        "One channel in 4, then in 2; the paper's 6 and 4 need channels that 6 divides (it searches with 36).",
        "Widening copies channels at random, as in the code, so the net changes at the turn; one choice of copies for "
        "all layers of an operation.",
        "The distance to a flat Dirichlet is the alphas' weight decay, as in the code's default.",
        "`none` is left out. Shown and derived is softmax(alpha). First order.",
    ),
)


def drnas(
    first: Annotated[int, Range(1, 16), "One in this many channels sees operations at first.", Fixed, Partial] = 4,
    second: Annotated[int, Range(1, 16), "The same in the second stage.", Fixed, Partial] = 2,
    rest: Annotated[float, Range(0, 1), "Share of each stage before the alphas move."] = 0.4,
) -> Method:
    """Dirichlet relaxation in two stages of partial channels."""
    stages = ({"partial_channels": first}, {"partial_channels": second})
    return worn(Method(init=no_none, relax=dirichlet, stages=stages, next_stage=pruned_and_wider), warm_up(rest))


def no_none(space: SearchSpace, generator: torch.Generator) -> Alphas:
    return near_zero(space, generator)._replace(legal=without("none", space))


def dirichlet(alphas: Alphas, moment: Moment) -> Mix:
    """A sample per edge, the same in all cells of a kind; softmax(alpha) where it is read."""
    if moment.phase == "read":
        return Mix(softmax_rows(alphas))
    assert moment.generator is not None, "sampling needs a generator"
    with torch.random.fork_rng(devices=[]):  # the sampler of the distribution takes no generator
        reseed(moment.generator.initial_seed())
        drawn = {
            k: torch.distributions.Dirichlet((F.elu(a) + 1).cpu(), validate_args=False).rsample().to(a.device)
            for k, a in alphas.ops.items()
        }
    kept = {k: p * alphas.legal[k] for k, p in drawn.items()}  # then renormalised, as the code
    return Mix({k: p / p.sum(-1, keepdim=True).clamp(min=1e-12) for k, p in kept.items()})


def pruned_and_wider(stage: int, trained: Trained, generator: torch.Generator) -> Stage:
    """The stronger 4 of 7 operations of each edge; their alphas and weights go on, widened."""
    kept = lambda count: math.ceil(count * 4 / 7)  # noqa: E731
    legal = {k: strongest_columns(trained.mix.ops[k], mask, kept) for k, mask in trained.alphas.legal.items()}
    ops = {kind: a.detach() * legal[kind] for kind, a in trained.alphas.ops.items()}  # pruned ones are set to 0
    alphas = trained.alphas._replace(ops=ops, legal=legal)
    return Stage(alphas, "fewer operations, more channels; alphas and weights go on", widened)


def widened(
    tensors: Mapping[str, Tensor], shapes: Mapping[str, torch.Size], generator: torch.Generator
) -> dict[str, Tensor]:
    """Tensors of the wider net: channels of before, then copies of some of them, without dividing by how often."""
    found: dict[str, Tensor] = {}
    copies: dict[tuple[str, int, int], Tensor] = {}
    for name, shape in shapes.items():
        value, (edge, _, rest) = tensors[name], name.rpartition(".candidates.")
        operation = f"{edge} {rest.partition('.')[0]}"
        for axis, (before, after) in enumerate(zip(value.shape, shape, strict=True)):
            if before != after:
                key = (operation, before, after)
                if key not in copies:
                    more = torch.randint(before, (after - before,), generator=generator)
                    copies[key] = torch.cat([torch.arange(before), more]).to(value.device)
                value = value.index_select(axis, copies[key])
        found[name] = value
    return found
