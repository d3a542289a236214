"""One step of several searches side by side ("lanes"): every lane keeps weights, alphas, batches, random numbers,
optimisers and clipping of its own, and losses and gradients of all come out of one pass.

Lanes never meet: the losses add up, and the gradient of a sum is each lane's own. So a lane makes the step that it
would make alone, to rounding; `tests/test_lanes.py` holds it to that, with all three orders of the gradient.
"""

from __future__ import annotations

from collections.abc import Generator, Sequence
from typing import Any

import torch
from torch import Tensor

from darts_core.events import ARCHITECTURE_STEP
from darts_core.mix import Alphas, Mix
from darts_core.nets.lanes import Logits, plain_mix, side_by_side
from darts_core.search.bilevel import Search
from darts_core.search.host import Launched, Waits
from darts_core.search.hypergrad import HYPERGRADS
from darts_core.search.method import Hyper, Loss, Objective, Weights
from darts_core.tasks import Batch, ImageTask, image_losses


class Lanes:
    """Searches that take their steps together. Each has `launch` as its `Host.launch`; when all stand still, `move`
    makes the next step of those that are ready.
    """

    def __init__(self) -> None:
        self.made: dict[int, Launched | Exception] = {}
        self.known: dict[int, tuple[Any, Any, str]] = {}  # what `why_apart` said of a search with this method and net
        self.formed: dict[tuple[int, ...], tuple[list[Any], Logits | None]] = {}  # nets, and what computes all of them

    def launch(self, search: Search) -> Generator[Waits, None, Launched]:
        """The next step of `search`, made by `move` while it waits."""
        yield Waits(search)
        made = self.made.pop(id(search))
        if isinstance(made, Exception):
            raise made
        return made

    def move(self, ready: Sequence[Search]) -> None:
        """Make a step of each: in one pass where lanes are alike, one after another where they are not."""
        for lanes in self._alike(ready):
            together = self._together([lane.net for lane in lanes]) if len(lanes) > 1 else None
            if together is not None:
                try:
                    self.made |= zip(map(id, lanes), joint_step(lanes, together), strict=True)
                except Exception as error:  # a fault of ours: each lane's folder shall say so
                    self.made |= {id(lane): error for lane in lanes}
                continue
            for lane in lanes:
                try:
                    self.made[id(lane)] = lane.launch()
                except Exception as error:
                    self.made[id(lane)] = error

    def _together(self, nets: list[Any]) -> Logits | None:
        """`side_by_side`, asked again only for other nets."""
        key = tuple(map(id, nets))
        if key not in self.formed:
            self.formed = {key: (nets, side_by_side(nets))}
        return self.formed[key][1]

    def _alike(self, ready: Sequence[Search]) -> list[list[Search]]:
        """The searches that can share a pass, and each of the others alone."""
        groups: dict[Any, list[Search]] = {}
        for search in ready:
            key: Any = id(search)
            if not self._why_apart(search):
                sizes = tuple(search.task.plan.count(s, search.index) for s in ("weights", "arch"))  # type: ignore[attr-defined]
                key = (sizes, search.stage, search.wants_alphas(), search.method.hypergrad, search.rate())
            groups.setdefault(key, []).append(search)
        return list(groups.values())

    def _why_apart(self, search: Search) -> str:
        """`why_apart`, asked again only when a stage began or an order was obeyed."""
        method, net, said = self.known.get(id(search), (None, None, ""))
        if method is not search.method or net is not search.net:
            said = why_apart(search)
            self.known[id(search)] = search.method, search.net, said
        return said


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
