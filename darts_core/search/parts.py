"""Parts that any method may wear: relaxations, schedules, penalties and stop rules, each a function from one method to
another.

A paper's method is often one part around DARTS (`methods/`), and parts combine: `--strategy pc-darts --with beta --with
eigenvalue-stop`. Sources stand at each part. `PARTS` names them; their options are called `part.option`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Annotated, Any

import torch
from torch import Tensor

from darts_core.config import SearchConfig
from darts_core.genotype import Genotype
from darts_core.mix import EDGE, Alphas, Mix
from darts_core.search.method import Course, Method, Moment, Penalty, Stop, Verdict
from darts_core.search.option import Choice, Fixed, Partial, Range
from darts_core.space import SearchSpace

Part = Callable[[Method], Method]
Rows = Mapping[str, Tensor]  # kind -> (edges, ops)


# How parts meet ---------------------------------------------------------------------------------------------


def remixed(change: Callable[[Mix, Moment], Mix]) -> Part:
    """A part that changes the mix that the method's relaxation gives."""

    def wear(method: Method) -> Method:
        return replace(method, relax=lambda alphas, moment: change(method.relax(alphas, moment), moment))

    return wear


def penalised(penalty: Penalty) -> Part:
    """A part that adds to the validation loss."""

    def wear(method: Method) -> Method:
        both: Penalty = lambda alphas, mix, moment: method.penalty(alphas, mix, moment) + penalty(alphas, mix, moment)  # noqa: E731
        return replace(method, penalty=both)

    return wear


def stopping(stop: Stop, **more: Any) -> Part:
    """A part that adds a stop rule: the first verdict counts."""
    return lambda method: replace(method, stop=lambda course: method.stop(course) or stop(course), **more)


# Relaxations ------------------------------------------------------------------------------------------------


def max_w(
    attached: Annotated[
        bool, "Let the gradient through the maximum, as the released code does; detached it equals DARTS' gradient."
    ] = True,
) -> Part:
    """Max-W: the strongest operation of an edge weighs 1, the others 1 less what they lag behind it.

    w_k = 1 - max(p) + p_k (sharpDARTS, Hundt, Jain, Hager 2019).
    """

    def change(mix: Mix, moment: Moment) -> Mix:
        # an operation that its edge may not hold weighs 0, and so does all of an edge that holds none
        top = {kind: p.amax(-1, keepdim=True) for kind, p in mix.ops.items()}
        top = top if attached else {kind: t.detach() for kind, t in top.items()}
        return mix._replace(ops={kind: torch.where(p > 0, 1 - top[kind] + p, p) for kind, p in mix.ops.items()})

    return remixed(change)


def sigmoid() -> Part:
    """Sigmoids instead of the softmax: operations do not compete (FairDARTS, Chu et al. 2020)."""

    def relax(alphas: Alphas, moment: Moment) -> Mix:
        return Mix({kind: torch.sigmoid(a) * alphas.legal[kind] for kind, a in alphas.ops.items()})

    return lambda method: replace(method, relax=relax)


def partial_channels(
    share: Annotated[int, Range(1, 16), "One in this many channels goes through the operations.", Fixed, Partial] = 4,
) -> Part:
    """Operations see a share of the channels, the others pass by (PC-DARTS, Xu et al. 2020)."""
    return lambda method: replace(method, net={**method.net, "partial_channels": share})


def edge_norm() -> Part:
    """Edges get weights of their own, a softmax over the edges into a node (PC-DARTS, Xu et al. 2020)."""

    def wear(method: Method) -> Method:
        def init(space: SearchSpace, generator: torch.Generator) -> Alphas:
            alphas = method.init(space, generator)
            logits = {kind: 1e-3 * torch.randn(len(c.edges), generator=generator) for kind, c in space.cells.items()}
            return alphas._replace(edges=logits)

        def relax(alphas: Alphas, moment: Moment) -> Mix:
            assert moment.space is not None, "the loop says which edges enter a node"
            return method.relax(alphas, moment)._replace(edges=edge_softmax(alphas, moment.space))

        return replace(method, init=init, relax=relax)

    return wear


def edge_softmax(alphas: Alphas, space: SearchSpace) -> dict[str, Tensor]:
    """kind -> (edges,): softmax of the edge logits over the edges into each node (PC-DARTS, equation 2)."""
    found = {}
    for kind, logits in alphas.edges.items():
        cell = space.cells[kind]
        into = [cell.edges_into(node) for node in range(cell.nodes)]
        shares = torch.cat([torch.softmax(logits[edges], 0) for edges in into])
        order = torch.tensor([e for edges in into for e in edges], device=logits.device)
        found[kind] = torch.zeros_like(logits).index_put((order,), shares)
    return found


def extra_skip(
    start: Annotated[float, Range(0, 10), "Weight of the auxiliary skip at the start."] = 1.0,
    fall: Annotated[
        str, Choice("linear", "cosine", "slow"), "How it falls to zero: straight, half a cosine, or a quarter of one."
    ] = "linear",
) -> Part:
    """An auxiliary skip on every edge whose weight falls to zero, so that skips need not win (DARTS-, Chu et al. 2021).

    The schedules are those of its code; the weight moves once per epoch.
    """
    falls: Mapping[str, Callable[[float], float]] = {
        "linear": lambda s: 1 - s,
        "cosine": lambda s: (1 + math.cos(math.pi * s)) / 2,
        "slow": lambda s: math.cos(math.pi * s / 2),
    }

    def change(mix: Mix, moment: Moment) -> Mix:
        return mix._replace(extra_skip=torch.tensor(start * falls[fall](min(1.0, moment.share))))

    wear = remixed(change)
    return lambda method: replace(wear(method), net={**method.net, "extra_skip": True})


def perturbed(
    kind: Annotated[
        str, Choice("random", "adversarial"), "Uniform noise, or the worst mix nearby by 7 steps."
    ] = "random",
    largest: Annotated[
        float, Range(0, 1), "Half the side of the box around the mix, at the end (it grows from 0.03)."
    ] = 0.3,
) -> Part:
    """Weights learn at a perturbed mix, alphas at the clean one (SmoothDARTS, Chen and Hsieh 2020)."""

    def change(mix: Mix, moment: Moment) -> Mix:
        if moment.phase != "weights":
            return mix
        size = min(0.03, largest) + (largest - min(0.03, largest)) * moment.share
        noise = {k: torch.rand(p.shape, generator=moment.generator).to(p.device) for k, p in mix.ops.items()}
        moved = _in_simplex({k: p + size * (2 * noise[k] - 1) for k, p in mix.ops.items()}, mix.ops)
        if kind == "random":
            return mix._replace(ops=moved)
        return _worst(mix, moved, size, moment)

    return remixed(change)


ATTACK_STEPS = 7  # of projected gradient ascent, as SmoothDARTS' code


def _worst(mix: Mix, start: Rows, size: float, moment: Moment) -> Mix:
    """Ascend the training loss inside the box; back to the clean mix if that does not make it worse."""
    assert moment.loss_at is not None, "the loop gives a loss in phase weights"
    now = dict(start)
    for _ in range(ATTACK_STEPS):
        with torch.enable_grad():
            leaves = {k: p.detach().requires_grad_() for k, p in now.items()}
            loss = moment.loss_at(mix._replace(ops=leaves))
            grads = torch.autograd.grad(loss, list(leaves.values()), materialize_grads=True)
        step = 2 * size / ATTACK_STEPS
        up = {k: p + step * g.sign() for (k, p), g in zip(now.items(), grads, strict=True)}
        boxed = {k: torch.clamp(p, mix.ops[k] - size, mix.ops[k] + size) for k, p in up.items()}
        now = _in_simplex(boxed, mix.ops)
    found = mix._replace(ops=now)
    return found if float(moment.loss_at(found)) >= float(moment.loss_at(mix)) else mix


def _in_simplex(rows: Rows, clean: Rows) -> dict[str, Tensor]:
    """Clamped to 0..1 and each row divided by its sum, as the original; what weighs exactly 0 in `clean` stays out."""
    clamped = {k: p.clamp(0, 1) * (clean[k] > 0) for k, p in rows.items()}
    return {k: p / p.sum(-1, keepdim=True).clamp(min=1e-12) for k, p in clamped.items()}


# Schedules --------------------------------------------------------------------------------------------------


def warm_up(share: Annotated[float, Range(0, 1), "Share of each stage in which the alphas stand still."] = 0.3) -> Part:
    """Alphas stand still at first, while the weights learn (PC-DARTS: 15 of 50 epochs; P-DARTS, DrNAS: 10 of 25)."""
    return lambda method: replace(method, when=lambda at: at.stage_share >= share and method.when(at))


def drop_path(
    rate: Annotated[float, Range(0, 0.95), "Share of samples for which an edge is dropped, in the last epoch."] = 0.2,
) -> Part:
    """Drop path on the edges, growing from 0 with the epochs (RobustDARTS, Zela et al. 2020)."""

    def change(mix: Mix, moment: Moment) -> Mix:
        now = rate * moment.epoch / max(1, moment.epochs - 1)  # epoch / (epochs - 1), as the code
        if moment.phase == "read" or not now:
            return mix
        return mix._replace(drop={**mix.drop, EDGE: torch.tensor(min(now, rate))})

    return remixed(change)


def skip_dropout(
    rate: Annotated[float, Range(0, 0.95), "Dropout behind skip connections at the start of each stage."] = 0.4,
    more: Annotated[float, Range(0, 0.5), "Added to it with each later stage."] = 0.0,
) -> Part:
    """Dropout behind skip connections that dies away (P-DARTS, Chen et al. 2019).

    Over a stage of n epochs, with w = 2n/5: rate * (n - e - 1) / n before w, rate * exp(-5 (e - w) / n) from there; at
    the original's n = 25 these are its numbers.
    """

    def change(mix: Mix, moment: Moment) -> Mix:
        top = min(0.95, rate + more * moment.stage)
        now = top * skip_dropout_share(moment.stage_epoch, moment.stage_epochs)
        return mix if moment.phase == "read" or not now else mix._replace(dropout={**mix.dropout, "skip_connect": now})

    return remixed(change)


def skip_dropout_share(epoch: int, epochs: int) -> float:
    """What is left of the rate in an epoch of a stage (0-based)."""
    warm = 2 * epochs / 5
    return (epochs - epoch - 1) / epochs if epoch < warm else math.exp(-5 * (epoch - warm) / epochs)


# Penalties --------------------------------------------------------------------------------------------------


def beta(
    weight: Annotated[
        float, Range(0, 1000), "Weight of the penalty at the end; it grows from 0 with the epochs."
    ] = 50.0,
) -> Part:
    """Keeps the alphas from growing apart: the mean over edges of logsumexp(alpha) (beta-DARTS, Ye et al. 2022)."""

    def penalty(alphas: Alphas, mix: Mix, moment: Moment) -> Tensor:
        return weight * moment.share * mean_logsumexp(alphas)

    return penalised(penalty)


def mean_logsumexp(alphas: Alphas) -> Tensor:
    """Mean over the edges of all cells of logsumexp over an edge's legal operations, 0-d."""
    rows = [a.masked_fill(~alphas.legal[k], -torch.inf)[alphas.legal[k].any(-1)] for k, a in alphas.ops.items()]
    return torch.cat([row.logsumexp(-1) for row in rows]).mean()


def zero_one(
    weight: Annotated[float, Range(0, 1000), "Weight of the loss."] = 10.0,
    distance: Annotated[str, Choice("l2", "l1"), "Square or absolute distance from one half."] = "l2",
) -> Part:
    """Pushes the sigmoid of every alpha to 0 or 1: -mean((s - 1/2)^2) (FairDARTS, Chu et al. 2020)."""

    def penalty(alphas: Alphas, mix: Mix, moment: Moment) -> Tensor:
        return weight * zero_one_loss(alphas, distance)

    return penalised(penalty)


def zero_one_loss(alphas: Alphas, distance: str = "l2") -> Tensor:
    """-mean over all legal entries of all cells of (s - 1/2)^2, or of |s - 1/2|, with s = sigmoid(alpha); 0-d."""
    far = torch.cat([torch.sigmoid(a[alphas.legal[k]]) - 0.5 for k, a in alphas.ops.items()])
    return -(far.square() if distance == "l2" else far.abs()).mean()


# Stop rules -------------------------------------------------------------------------------------------------


def eigenvalue_stop(
    factor: Annotated[float, Range(1, 100), "Stop when the smoothed eigenvalue grew by more than this."] = 1.3,
    every: Annotated[int, Range(1, 100), "Epochs between eigenvalues."] = 2,
    first: Annotated[int, Range(0, 1000), "The earliest epoch whose cell may be returned."] = 10,
    decay_factor: Annotated[
        float, Range(1, 1000), "Instead of stopping, go back and multiply the weight decay by this; 1: stop."
    ] = 1.0,
    largest_decay: Annotated[float, Range(0, 1), "Weight decay beyond which it stops after all."] = 0.03,
) -> Part:
    """Stops before the eigenvalue of the validation Hessian explodes (RobustDARTS, Zela et al. 2020)."""

    def stop(course: Course) -> Verdict | None:
        found = eigenvalue_verdict(course, factor, every, first)
        if found is None or decay_factor == 1:
            return found
        after = float(course.settings["w_decay"]) * decay_factor
        if not 0 < after <= largest_decay * (1 + 1e-9):
            return found  # the largest is in force: the last verdict stops
        return found._replace(change={"w_decay": after})

    return stopping(stop, eigenvalue_every=every)


WINDOW = 5  # eigenvalues in the mean, and one more than how many means lie between those compared


def eigenvalue_verdict(course: Course, factor: float, every: int, first: int) -> Verdict | None:
    """The stop of RobustDARTS' code: means over up to 5 eigenvalues, the newest against the one 4 before it.

    A mean belongs to the epoch of the middle value; the cell returned is that of the older mean. The paper says ratio
    0.75 and a look-back of 5 epochs; the code 1.3 and 8 epochs (4 evaluations, 2 epochs apart). Nothing is decided in
    the last epoch.
    """
    now = course.history[-1]
    if "eigenvalue" not in now["probes"] or now["epoch"] >= course.epochs - 1:
        return None
    values = [h["probes"]["eigenvalue"] for h in course.history if "eigenvalue" in h["probes"]]
    means = [sum(values[max(0, n - WINDOW) : n]) / min(n, WINDOW) for n in range(3, len(values) + 1)]
    middle = now["epoch"] - every * (WINDOW // 2)
    back = WINDOW - 1
    if len(means) <= back or middle - every * back < first or means[-1 - back] <= 0:
        return None
    ratio = means[-1] / means[-1 - back]
    if ratio <= factor:
        return None
    epoch = max(0, middle - every * back)
    grew = f"the smoothed eigenvalue grew by {ratio:.2f} in {every * back} epochs"
    reason = f"{grew}; the cell is that after epoch {epoch + 1}"
    return Verdict(epoch, reason)


def skip_stop(
    skips: Annotated[int, Range(1, 100), "Skip connections in the derived normal cell at which the search stops."] = 2,
    first: Annotated[int, Range(0, 1000), "No stop before this many epochs."] = 0,
) -> Part:
    """Stops when the derived normal cell holds this many skip connections (DARTS+, Liang et al. 2019, criterion 1)."""

    def stop(course: Course) -> Verdict | None:
        now = course.history[-1]
        cell = Genotype.from_json(now["genotype"])
        kind = "normal" if "normal" in cell.cells else next(iter(cell.cells))
        found = cell.count("skip_connect", kind)
        if found < skips or len(course.history) < max(1, first):
            return None
        return Verdict(now["epoch"], f"the derived cell holds {found} skip connections")

    return stopping(stop)


def loss_stop(
    patience: Annotated[int, Range(1, 1000), "Epochs without a new lowest validation loss after which it stops."] = 10,
) -> Part:
    """Stops when the supernet's validation loss has risen for long, with the cell at its lowest: the plain rule."""

    def stop(course: Course) -> Verdict | None:
        losses = [h["metrics"]["valid_loss"] for h in course.history]
        best = losses.index(min(losses))
        over = len(losses) - 1 - best >= patience or (len(losses) >= course.epochs and best < len(losses) - 1)
        reason = f"the validation loss was lowest in epoch {best + 1} and has not been since"
        return Verdict(course.history[best]["epoch"], reason) if over else None

    return stopping(stop)


# The table --------------------------------------------------------------------------------------------------

PARTS: Mapping[str, Callable[..., Part]] = {
    "max-w": max_w,
    "sigmoid": sigmoid,
    "partial-channels": partial_channels,
    "edge-norm": edge_norm,
    "extra-skip": extra_skip,
    "perturbed": perturbed,
    "warm-up": warm_up,
    "drop-path": drop_path,
    "skip-dropout": skip_dropout,
    "beta": beta,
    "zero-one": zero_one,
    "eigenvalue-stop": eigenvalue_stop,
    "skip-stop": skip_stop,
    "loss-stop": loss_stop,
}


def worn(method: Method, *parts: Part) -> Method:
    """The method with the parts on, in this order."""
    for part in parts:
        method = part(method)
    return method


def method_from(factory: Callable[..., Method], config: SearchConfig) -> Method:
    """The method that a factory makes of a configuration, with the parts that this names on top."""
    own = {name: value for name, value in config.options.items() if "." not in name}
    parts = []
    for name in config.part_names():
        prefix = f"{name}."
        given = {k.removeprefix(prefix): v for k, v in config.options.items() if k.startswith(prefix)}
        parts.append(PARTS[name](**given))
    return worn(factory(**own), *parts)
