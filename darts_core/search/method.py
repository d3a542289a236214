"""A method is a value: a frozen record of small functions, each with DARTS as its default.

`Method()` is first-order DARTS (Liu et al. 2019). A variant replaces the functions in which it differs; the one loop in
`bilevel.py` runs them all and knows no method.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

import torch
from torch import Tensor

from darts_core import derive as derivation
from darts_core.genotype import Genotype
from darts_core.mix import Alphas, Mix, as_arrays
from darts_core.space import SearchSpace

Weights = Mapping[str, Tensor]


class Loss(NamedTuple):
    """A mean loss over a batch, what to carry to the next batch (None for images), and numbers about it."""

    value: Tensor  # 0-d
    carry: Any
    metrics: Mapping[str, Tensor]  # 0-d each


class Moment(NamedTuple):
    """When a function is asked: phase "arch", "weights" or "read".

    `epoch` counts from 0 over the whole search of `epochs`; both kinds of progress run from 0 to 1. `loss_at` is for
    adversarial relaxations: the training loss of this step's batch at a mix, the weights held; in phase "weights" only.
    """

    phase: str
    epoch: int
    progress: float
    generator: torch.Generator | None = None
    epochs: int = 1
    stage: int = 0
    stage_progress: float = 0.0
    loss_at: Callable[[Mix], Tensor] | None = None
    space: SearchSpace | None = None
    stage_epoch: int = 0  # epochs of the present stage before this one
    stage_epochs: int = 1
    step: int = 0  # steps before this one, counted from the start of the search
    costs: Callable[[str], Mapping[str, Tensor]] | None = None  # "macs" or "latency" -> kind -> (edges, ops)

    @property
    def share(self) -> float:
        """Epochs before this one as a share of all, 0 to 1: what a schedule takes that moves once per epoch."""
        return min(1.0, self.epoch / max(1, self.epochs))

    @property
    def stage_share(self) -> float:
        """The same within the present stage."""
        return min(1.0, self.stage_epoch / max(1, self.stage_epochs))


class Objective(NamedTuple):
    """Both losses of one step as pure functions: batches, carry and random numbers are fixed.

    `rate` is the learning rate of the weights in this step (the virtual step's length, xi in the paper). Of `searches`
    side by side the losses are sums, and weights and alphas are listed search by search, equally many of each.
    """

    train: Callable[[Weights, Alphas], Loss]
    val: Callable[[Weights, Alphas], Loss]  # with the method's penalty
    ahead: Callable[
        [Weights, Sequence[Tensor]], Weights
    ]  # the virtual SGD step: momentum and weight decay in, no clipping
    weights: Weights
    alphas: Alphas
    rate: float | Tensor  # a 0-d tensor where steps are replayed
    searches: int = 1
    clip: float = 0.0  # largest norm of the virtual step's gradient; 0: not clipped (images, as the authors' code)


class Hyper(NamedTuple):
    """One gradient per alpha tensor (order of `Alphas.tensors`), and the validation loss that they lower."""

    grads: list[Tensor]
    loss: Loss


class Trained(NamedTuple):
    """What derivation may look at, and what it may try."""

    space: SearchSpace  # with the operations that the present stage still has
    alphas: Alphas
    mix: Mix  # in phase "read"
    accuracy: Callable[[Mix], float] | None = None  # of the supernet on the architecture split, 0 to 1
    relaxed: Callable[[Alphas], Mix] | None = None  # the mix of other alphas, in phase "read"
    whole: SearchSpace | None = None  # the space with the operations of the first stage


class Verdict(NamedTuple):
    """A reason to stop with the cell of `epoch`; or, with a `change`, to go back to its end and go on with other
    settings.
    """

    epoch: int
    reason: str
    change: Mapping[str, Any] = {}


class Course(NamedTuple):
    """What a stop rule looks at: one entry per finished epoch (epoch, metrics, probes, genotype, level), how many
    epochs there shall be, and the settings in force.
    """

    history: Sequence[Mapping[str, Any]]
    epochs: int
    settings: Mapping[str, Any]


class Stage(NamedTuple):
    """How a new stage begins. Without `carry` weights are new and both optimisers forget; with it the alphas' optimiser
    goes on, and `carry` makes the weights, and their momentum, from those of the stage before.
    """

    alphas: Alphas  # the layout of before; `legal` may have shrunk, and with it the supernet
    reason: str
    carry: Carry | None = None


# (tensors by name, wanted shapes by name, generator) -> tensors by name; called alike for weights and for momentum
Carry = Callable[[Mapping[str, Tensor], Mapping[str, torch.Size], torch.Generator], Mapping[str, Tensor]]
Init = Callable[[SearchSpace, torch.Generator], Alphas]
Relax = Callable[[Alphas, Moment], Mix]
Hypergrad = Callable[[Objective], Hyper]
Penalty = Callable[[Alphas, Mix, Moment], Tensor]
Settle = Callable[[Alphas, Alphas, Mix], Alphas]
When = Callable[[Moment], bool]
Derive = Callable[[Trained], Genotype]
Project = Callable[[Trained, Moment], "Alphas | None"]
Stop = Callable[[Course], Verdict | None]
Anew = Callable[[int], Mapping[int, float]]  # epochs of the search -> epoch: share of w_lr
NextStage = Callable[[int, Trained, torch.Generator], Stage]  # (number of the stage that begins, ...)


def near_zero(space: SearchSpace, generator: torch.Generator) -> Alphas:
    """1e-3 times standard normal noise, as the authors' code (the paper: zero). float32."""
    ops = {k: 1e-3 * torch.randn(cell.shape, generator=generator) for k, cell in space.cells.items()}
    return Alphas(ops, {k: torch.from_numpy(cell.legal_array()) for k, cell in space.cells.items()})


def softmax_rows(alphas: Alphas, temperature: float = 1.0) -> dict[str, Tensor]:
    """kind -> (edges, ops): softmax over the legal operations of each edge; illegal ones are exactly 0."""
    scaled = alphas.ops if temperature == 1 else {k: a / temperature for k, a in alphas.ops.items()}
    return {k: _softmax(a, alphas.legal[k]) for k, a in scaled.items()}


def _softmax(rows: Tensor, legal: Tensor) -> Tensor:
    """Softmax over the legal entries of each row; a row without any, an edge that was taken out, is 0.

    No branch on whether there is such a row: that would make the CPU wait for the device.
    """
    empty = ~legal.any(-1, keepdim=True)
    masked = rows.masked_fill(~legal, -torch.inf).masked_fill(empty, 0.0)
    return masked.softmax(-1).masked_fill(empty, 0.0)


def gumbel_softmax(alphas: Alphas, temperature: float, moment: Moment) -> dict[str, Tensor]:
    """kind -> (edges, ops): softmax((log softmax(alpha) + Gumbel noise) / temperature), 0 where not legal.

    One draw per kind and step, shared by its cells. Jang et al. 2017, Maddison et al. 2017.
    """
    found = {}
    for kind, p in softmax_rows(alphas).items():
        noise = -torch.empty(p.shape).exponential_(generator=moment.generator).log().to(p.device)
        found[kind] = _softmax((p.clamp(min=1e-30).log() + noise) / temperature, alphas.legal[kind])
    return found


def cooled(hottest: float, coldest: float, moment: Moment) -> float:
    """A temperature that falls on a straight line, once per epoch (GDAS, SNAS)."""
    return hottest + (coldest - hottest) * moment.share


def strongest_columns(mix: Tensor, legal: Tensor, keep: Callable[[int], int]) -> Tensor:
    """(edges, ops) bool: of an edge's n legal operations the keep(n) strongest; of equals the later ones."""
    rows = []
    for row, mask in zip(mix.tolist(), legal.tolist(), strict=True):
        columns = [o for o, ok in enumerate(mask) if ok]
        kept = sorted(columns, key=lambda o, row=row: (row[o], o))[-max(1, keep(len(columns))) :] if columns else []
        rows.append([o in kept for o in range(len(mask))])
    return torch.tensor(rows, dtype=torch.bool, device=legal.device)


def without(op: str, space: SearchSpace) -> dict[str, Tensor]:
    """kind -> (edges, ops) bool: the space's own mask with an operation left out, where its edge has another."""
    found = {}
    for kind, cell in space.cells.items():
        legal = torch.from_numpy(cell.legal_array())
        if op in cell.ops:
            rest = legal.clone()
            rest[:, cell.ops.index(op)] = False
            legal = torch.where(rest.any(-1, keepdim=True), rest, legal)
        found[kind] = legal
    return found


def softmax(alphas: Alphas, moment: Moment) -> Mix:
    """The continuous relaxation: softmax over the operations of each edge (paper, equation 2)."""
    return Mix(softmax_rows(alphas))


def first_order(objective: Objective) -> Hyper:
    """The gradient of L_val(w, alpha) at the present weights: xi = 0 in equation 7."""
    alphas = objective.alphas.leaves()
    loss = objective.val(objective.weights, alphas)
    grads = torch.autograd.grad(loss.value, alphas.tensors(), materialize_grads=True)
    return Hyper(list(grads), loss)


def strongest(trained: Trained) -> Genotype:
    """The paper's rule (section 2.4) on the mix as read."""
    return derivation.derive(trained.space, as_arrays(trained.mix.weights()))


def restricted(space: SearchSpace, legal: Mapping[str, Tensor]) -> SearchSpace:
    """The space whose edges may hold what `legal` says: that of a later stage."""
    rows = {kind: tuple(tuple(map(bool, row)) for row in mask.tolist()) for kind, mask in legal.items()}
    cells = {kind: replace(cell, legal=rows[kind]) for kind, cell in space.cells.items()}
    return replace(space, cells=cells)


def once_stages_end(stage: int, trained: Trained, generator: torch.Generator) -> Stage:
    """The default where no stage but the first exists: never asked."""
    raise AssertionError(f"stage {stage} begins, and the method does not say how")


def no_penalty(alphas: Alphas, mix: Mix, moment: Moment) -> Tensor:
    return alphas.tensors()[0].new_zeros(())


def unchanged(before: Alphas, after: Alphas, mix: Mix) -> Alphas:
    return after


def always(moment: Moment) -> bool:
    return True


def _no_projection(trained: Trained, moment: Moment) -> Alphas | None:
    return None


def _not_anew(epochs: int) -> Mapping[int, float]:
    return {}


def _never(course: Course) -> Verdict | None:
    return None


@dataclass(frozen=True)
class Method:
    """`Method()` is first-order DARTS."""

    init: Init = near_zero
    relax: Relax = softmax
    hypergrad: Hypergrad = first_order
    penalty: Penalty = no_penalty  # added to the validation loss
    settle: Settle = unchanged  # right after the alpha optimiser moved
    when: When = always  # is this an architecture step?
    derive: Derive = strongest
    stop: Stop = _never  # asked after each epoch
    net: Mapping[str, Any] = field(default_factory=dict)  # structural options of the supernet
    stages: Sequence[Mapping[str, Any]] = ({},)  # more such options for each stage; epochs are divided evenly
    next_stage: NextStage = once_stages_end
    project: Project = _no_projection  # asked after each epoch: alphas with fewer legal operations, or None (DARTS-PT)
    restarts: bool = False  # does the weights' learning rate start anew with each stage?
    anew: Anew = _not_anew  # and at these epochs, from that share of it (DARTS-PT)
    eigenvalue_every: int = 0  # epochs between eigenvalues that the stop rule needs; 0: as the settings say

    def net_of(self, stage: int) -> dict[str, Any]:
        """Structural options of the supernet in a stage."""
        return {**self.net, **self.stages[stage]}
