"""The work of several searches side by side ("lanes"): steps, and the measurements at the end of an epoch. Every lane
keeps weights, alphas, batches, random numbers, optimisers and clipping of its own, and losses and gradients of all come
out of one pass.

Lanes never meet: the losses add up, and the gradient of a sum is each lane's own. So a lane makes the step that it
would make alone, to rounding; `tests/test_lanes.py` holds it to that, with all three orders of the gradient.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from darts_core.events import ARCHITECTURE_STEP
from darts_core.mix import Alphas, Mix
from darts_core.nets.lanes import Logits, cores, plain_mix, side_by_side, twice_differentiable
from darts_core.search.bilevel import Search
from darts_core.search.host import Launched, Waits, Work
from darts_core.search.hypergrad import HYPERGRADS
from darts_core.search.method import Hyper, Loss, Objective, Weights
from darts_core.search.probes import alpha_hessians
from darts_core.tasks import EVAL_BATCH, VALIDATE_AT_MOST, Batch, ImageTask, image_losses, image_measures


class Lanes:
    """Searches that have their work done together. Each has `done` as its `Host.done`; when all stand still, `move`
    does what those that are ready wait for.
    """

    def __init__(self) -> None:
        self.made: dict[int, Any] = {}  # what `move` found for a search, an exception included
        self.known: dict[int, tuple[Any, Any, str]] = {}  # what `why_apart` said of a search with this method and net
        self.formed: dict[Any, tuple[list[Any], Logits | None]] = {}  # nets, and what computes all of them

    def done(self, search: Search, work: Work) -> Generator[Waits, None, Any]:
        """`work` of `search`, done by `move` while it waits."""
        yield Waits(search, work)
        made = self.made.pop(id(search))
        if isinstance(made, Exception):
            raise made
        return made

    def move(self, ready: Sequence[Waits]) -> None:
        """Do the work of each: in one pass where lanes are alike, one after another where they are not."""
        for work, lanes in self._alike(ready):
            joint, form = TOGETHER[work]
            net = self._formed(form, [lane.net for lane in lanes]) if len(lanes) > 1 else None
            if net is not None:
                try:
                    self.made |= zip(map(id, lanes), joint(lanes, net), strict=True)
                except Exception as error:  # a fault of ours: each lane's folder shall say so
                    self.made |= {id(lane): error for lane in lanes}
                continue
            for lane in lanes:
                try:
                    self.made[id(lane)] = work(lane)
                except Exception as error:
                    self.made[id(lane)] = error

    def _formed(self, form: Callable[[Sequence[Any]], Logits | None], nets: list[Any]) -> Logits | None:
        """`form(nets)`, asked again only for other nets."""
        key = (form, *map(id, nets))
        if key not in self.formed:
            last = [entry for entry in self.formed.items() if entry[0][0] is not form]
            self.formed = {**dict(last), key: (nets, form(nets))}
        return self.formed[key][1]

    def _alike(self, ready: Sequence[Waits]) -> list[tuple[Work, list[Search]]]:
        """The searches that can share a pass, and each of the others alone."""
        groups: dict[Any, tuple[Work, list[Search]]] = {}
        for search, work in ((w.search, w.work) for w in ready):
            assert search is not None and work is not None, "a search that is paused has no work"
            apart = self._why_apart(search) or search.averaged is not None
            key: Any = id(search) if apart else (work, search.stage, *_sizes(search, work))
            groups.setdefault(key, (work, []))[1].append(search)
        return list(groups.values())

    def _why_apart(self, search: Search) -> str:
        """`why_apart`, asked again only when a stage began or an order was obeyed."""
        method, net, said = self.known.get(id(search), (None, None, ""))
        if method is not search.method or net is not search.net:
            said = why_apart(search)
            self.known[id(search)] = search.method, search.net, said
        return said


def _sizes(search: Search, work: Work) -> tuple[Any, ...]:
    """What must be equal for searches to share a pass of this work."""
    plan = search.task.plan  # type: ignore[attr-defined]
    if work is Search.launch:
        sizes = (plan.count(split, search.index) for split in ("weights", "arch"))
        return (*sizes, search.wants_alphas(), search.method.hypergrad, search.rate())
    if work is Search.validated:
        return (plan.size("arch"),)
    return plan.count("arch", search.task.steps("weights") - 1), search.config.hessian_batch


def why_apart(search: Search) -> str:
    """Why lanes like this one cannot share a pass, in a few words; empty where they can."""
    if not isinstance(search.task, ImageTask) or type(search.task).loss is not ImageTask.loss:
        return "no images"
    if search.method.hypergrad not in HYPERGRADS.values():  # these are sums over tensors, lane by lane
        return "the method has a gradient of its own"
    if search.alphas.edges:
        return "the method weighs edges too"
    if search.config.precision != "float32":
        return "half precision"
    if search.config.backend not in ("auto", "fast", "compiled") or side_by_side([search.net]) is None:
        return f"lanes of the {search.config.backend} supernet have nothing to share"
    with torch.no_grad():
        mix = search.method.relax(search.alphas, search.moment("weights", _any_loss))
    return "" if plain_mix(mix) else "the method draws masks at random"


def _any_loss(mix: Mix) -> Tensor:
    """Stands for the training loss where only the form of a mix is asked for."""
    return torch.stack([m.sum() for m in mix.ops.values()]).sum()


def joint_step(lanes: Sequence[Search], net: Logits) -> list[Launched]:
    """One step of each lane, in their order."""
    batches = [lane.task.batch("weights", lane.epoch, lane.index) for lane in lanes]
    rates = [(lane.rate(), lane.config.a_lr) for lane in lanes]
    numbers: list[dict[str, Tensor]] = [{} for _ in lanes]
    wanted = lanes[0].wants_alphas()
    if wanted:
        hypers = _hypers(lanes, batches, net)
        numbers = [lane.follow(hyper, a) for lane, hyper, (_, a) in zip(lanes, hypers, rates, strict=True)]

    mixes = [lane.weights_mix(batch) for lane, batch in zip(lanes, batches, strict=True)]
    params = [lane.params for lane in lanes]
    losses = _losses(lanes, net, params, mixes, batches)
    grads = torch.autograd.grad(_sum(losses).value, [p for own in params for p in own.values()], materialize_grads=True)
    count = len(params[0])
    made = []
    for i, (lane, (w_lr, a_lr)) in enumerate(zip(lanes, rates, strict=True)):
        numbers[i] |= lane.descend(losses[i], grads[i * count : (i + 1) * count], w_lr)
        made.append(lane.launched(ARCHITECTURE_STEP if wanted else 0, w_lr, a_lr, numbers[i]))
    return made


@torch.no_grad()
def joint_validation(lanes: Sequence[Search], net: Logits) -> list[dict[str, float]]:
    """`Search.validated` of each lane."""
    params, mixes = [lane.params for lane in lanes], [lane.read().to(lane.task.dtype) for lane in lanes]
    batches = zip(*(lane.task.eval_batches("arch", EVAL_BATCH) for lane in lanes), strict=True)  # type: ignore[attr-defined]
    return image_measures(lambda images: net(params, images, mixes), batches, VALIDATE_AT_MOST)


def joint_hessians(lanes: Sequence[Search], net: Logits) -> list[np.ndarray]:
    """`Search.hessian` of each lane."""
    batches = [lane.hessian_batch() for lane in lanes]
    own: list[Weights] = [{name: p.detach() for name, p in lane.params.items()} for lane in lanes]
    loss = lambda mixes: _sum(_losses(lanes, net, own, mixes, batches)).value  # noqa: E731
    return alpha_hessians(loss, [lane.probed() for lane in lanes], cores())


def _losses(
    lanes: Sequence[Search],
    net: Logits,
    weights: Sequence[Weights],
    mixes: Sequence[Mix],
    batches: Sequence[Batch],
) -> list[Loss]:
    """The loss of each lane, from one pass."""
    given = [mix.to(lane.task.dtype) for lane, mix in zip(lanes, mixes, strict=True)]
    logits = net(weights, [images for images, _ in batches], given)
    return image_losses(logits, torch.stack([labels for _, labels in batches]))


def _hypers(lanes: Sequence[Search], batches: Sequence[Batch], net: Logits) -> list[Hyper]:
    """The gradient of each lane's alphas: the lanes' losses added up, their tensors listed lane by lane."""
    arch = [lane.task.batch("arch", lane.epoch, lane.index) for lane in lanes]
    seen: list[Loss] = []
    own: Weights = {f"{i}.{name}": p.detach() for i, lane in enumerate(lanes) for name, p in lane.params.items()}
    alphas = Alphas(
        {f"{i}.{kind}": a for i, lane in enumerate(lanes) for kind, a in lane.alphas.ops.items()},
        {f"{i}.{kind}": legal for i, lane in enumerate(lanes) for kind, legal in lane.alphas.legal.items()},
    )

    def of_lanes(tensors: Any) -> list[dict[str, Tensor]]:
        apart: list[dict[str, Tensor]] = [{} for _ in lanes]
        for name, t in tensors.items():
            i, _, rest = name.partition(".")
            apart[int(i)][rest] = t
        return apart

    def losses_at(weights: Weights, alphas: Alphas, batches: Sequence[Batch], penalised: bool) -> list[Loss]:
        mine = [lane.alphas._replace(ops=ops) for lane, ops in zip(lanes, of_lanes(alphas.ops), strict=True)]
        mixes = [lane.relax(a, "arch") for lane, a in zip(lanes, mine, strict=True)]
        found = _losses(lanes, net, of_lanes(weights), mixes, batches)
        if not penalised:
            return found
        return [lane.penalised(loss, a, m) for lane, loss, a, m in zip(lanes, found, mine, mixes, strict=True)]

    def train(weights: Weights, alphas: Alphas) -> Loss:
        return _sum(losses_at(weights, alphas, batches, False))

    def val(weights: Weights, alphas: Alphas) -> Loss:
        seen[:] = losses_at(weights, alphas, arch, True)
        return _sum(seen)

    def ahead(weights: Weights, grads: Sequence[Tensor]) -> Weights:
        found: dict[str, Tensor] = {}
        slopes = of_lanes(dict(zip(weights, grads, strict=True)))
        for i, (lane, w, g) in enumerate(zip(lanes, of_lanes(weights), slopes, strict=True)):
            found |= {f"{i}.{name}": t for name, t in lane.ahead(lane.rate(), w, list(g.values())).items()}
        return found

    objective = Objective(train, val, ahead, own, alphas, lanes[0].rate(), len(lanes))
    hyper = lanes[0].method.hypergrad(objective)
    count = len(hyper.grads) // len(lanes)
    return [Hyper(hyper.grads[i * count : (i + 1) * count], loss) for i, loss in enumerate(seen)]


def _sum(losses: Sequence[Loss]) -> Loss:
    return Loss(torch.stack([loss.value for loss in losses]).sum(), None, {})


# What several searches do at once: their work -> the function of all of them, and the form of their nets that it wants.
TOGETHER: Mapping[Work, tuple[Callable[[Sequence[Search], Logits], list[Any]], Callable[..., Logits | None]]] = {
    Search.launch: (joint_step, side_by_side),
    Search.validated: (joint_validation, side_by_side),
    Search.hessian: (joint_hessians, twice_differentiable),
}
