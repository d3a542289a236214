"""What a step of a recurrent search costs: the original's way of computing it beside this package's.

    python benchmarks/recurrent.py                    # the paper's setting: 300 units, 256 columns, 35 tokens
    python benchmarks/recurrent.py --size small --repeats 5 --json
    python benchmarks/recurrent.py --size quarter --backend fast --steps w first second

Steps: `w` is a weight step (forward, backward, clip, SGD), `first` a first-order step of the alphas and then w,
`second` the published second-order step (central difference) and then w.

`original` computes as the released code does: a list of hidden states, every function on every state in a Python
loop, one sum per function, autograd through all of it, gradients of all weights in the alpha step too, a copy of
the model for the virtual step. `reference`, `fast` and `compiled` are searches of this package through the
functions that a search calls.

All sides take turns in one process; a number is the median over the turns of (time of the original / time of the
other), with the smallest and the largest turn behind it. Times are CPU time of the process on a CPU, wall time on a
GPU. Machines differ: quote ratios. `LOG.md` keeps what was found.
"""

from __future__ import annotations

import argparse
import copy
import json
import statistics
import sys
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from darts_core.config import SearchConfig
from darts_core.data.text import Text
from darts_core.language import LanguageTask
from darts_core.nets.recurrent import ACTIVATIONS
from darts_core.search.bilevel import Host, Search
from darts_core.strategies import STRATEGIES

STEPS = ("w", "first", "second")
BACKENDS = ("original", "reference", "fast", "compiled")


class Size(NamedTuple):
    """A setting: units, columns, tokens per stretch, words of the vocabulary, turns by default."""

    units: int
    batch: int
    bptt: int
    vocabulary: int
    repeats: int


SIZES = {
    "small": Size(32, 32, 20, 8, 7),
    "quarter": Size(300, 64, 35, 10_000, 3),
    "paper": Size(300, 256, 35, 10_000, 1),
}


def search(size: Size, backend: str, order: str, device: torch.device) -> Search:
    """A search of this package before its first step."""
    config = SearchConfig.from_dict(
        {
            "dataset": "markov", "space": "darts-rnn", "units": size.units, "batch": size.batch, "bptt": size.bptt,
            "order": order, "backend": backend, "w_lr": 20.0, "w_lr_min": 20.0, "momentum": 0.0, "w_decay": 5e-7,
            "clip": 0.25, "a_lr": 3e-3, "a_beta1": 0.9,
        }
    )  # fmt: skip
    g = torch.Generator().manual_seed(1)
    stream = torch.randint(size.vocabulary, (size.batch * (3 * size.bptt + 2),), generator=g)
    words = tuple(f"w{k}" for k in range(size.vocabulary))
    task = LanguageTask(config, Text("noise", "word", words, stream, stream, stream), device)
    return Search(STRATEGIES["darts"].factory, task, config, Host())


# -- as the original does it


class OriginalCell(nn.Module):
    """The searched cell as released: states stacked anew for every node, functions one after the other."""

    def __init__(self, nodes: int, units: int, ops: tuple[str, ...]) -> None:
        super().__init__()
        self.nodes, self.units, self.ops = nodes, units, ops
        self.first = nn.Parameter(torch.empty(2 * units, 2 * units).uniform_(-0.04, 0.04))
        self.matrices = nn.ParameterList(
            nn.Parameter(torch.empty(units, 2 * units).uniform_(-0.04, 0.04)) for _ in range(nodes)
        )
        self.norm = nn.BatchNorm1d(units, affine=False)

    def forward(self, x: Tensor, h: Tensor, probs: Tensor, mx: Tensor, mh: Tensor) -> Tensor:
        hiddens = []
        for x_t in x:
            h = self.step(x_t, h, probs, mx, mh)
            hiddens.append(h)
        return torch.stack(hiddens)

    def step(self, x: Tensor, h: Tensor, probs: Tensor, mx: Tensor, mh: Tensor) -> Tensor:
        c, u = torch.cat([x * mx, h * mh], -1).mm(self.first).split(self.units, -1)
        s0 = self.norm(h + c.sigmoid() * (u.tanh() - h))
        states, offset = s0.unsqueeze(0), 0
        for i in range(self.nodes):
            masked = states * mh
            ch = masked.view(-1, self.units).mm(self.matrices[i]).view(i + 1, -1, 2 * self.units)
            c, u = ch.split(self.units, -1)
            c = c.sigmoid()
            s = torch.zeros_like(s0)
            for k, op in enumerate(self.ops):
                if op == "none":
                    continue
                unweighted = states + c * (ACTIVATIONS[op](u) - states)
                s = s + torch.sum(probs[offset : offset + i + 1, k].unsqueeze(-1).unsqueeze(-1) * unweighted, dim=0)
            states = torch.cat([states, self.norm(s).unsqueeze(0)], 0)
            offset += i + 1
        return torch.mean(states[-self.nodes :], dim=0)


class OriginalModel(nn.Module):
    """Embedding, cell, tied decoder and log-softmax, dropouts as released."""

    def __init__(self, size: Size, ops: tuple[str, ...]) -> None:
        super().__init__()
        self.encoder = nn.Embedding(size.vocabulary, size.units)
        self.decoder = nn.Linear(size.units, size.vocabulary)
        self.decoder.weight = self.encoder.weight
        self.cell = OriginalCell(8, size.units, ops)
        self.alphas = nn.Parameter(1e-3 * torch.randn(36, len(ops)))
        nn.init.uniform_(self.encoder.weight, -0.04, 0.04)

    def forward(self, tokens: Tensor, h: Tensor) -> tuple[Tensor, Tensor]:
        x = self.encoder(tokens)
        B, n = h.shape
        draw = lambda keep, *shape: (torch.rand(*shape, device=x.device) + keep).floor() / keep  # noqa: E731
        x = x * draw(0.8, 1, B, n)
        raw = self.cell(x, h, F.softmax(self.alphas, -1), draw(0.25, B, n), draw(0.75, B, n))
        logits = self.decoder((raw * draw(0.25, 1, B, n)).view(-1, n))
        return F.log_softmax(logits, -1), raw

    def weights(self) -> list[Tensor]:
        return [p for p in self.parameters() if p is not self.alphas]


class Original:
    """A search as the released code runs it: its model, its copies, PyTorch's optimisers."""

    def __init__(self, size: Size, device: torch.device) -> None:
        likeness = search(size, "reference", "1", device)
        self.net = OriginalModel(size, likeness.task.space.cells["recurrent"].ops).to(device)
        self.train, self.valid = (likeness.task.batch(split, 0, 0) for split in ("weights", "arch"))
        self.h = torch.zeros(size.batch, size.units, device=device)
        self.sgd = torch.optim.SGD(self.net.weights(), 20.0, weight_decay=5e-7)
        self.adam = torch.optim.Adam([self.net.alphas], 3e-3, weight_decay=1e-3)

    def loss(self, net: OriginalModel, batch: Any) -> tuple[Tensor, Tensor]:
        said, raw = net(batch.tokens, self.h)
        return F.nll_loss(said, batch.targets.reshape(-1)), raw

    def w(self) -> None:
        self.sgd.zero_grad()
        loss, raw = self.loss(self.net, self.train)
        (loss + 1e-3 * (raw[1:] - raw[:-1]).pow(2).mean()).backward()
        nn.utils.clip_grad_norm_(self.net.weights(), 0.25)
        self.sgd.step()

    def first(self) -> None:
        self.adam.zero_grad()
        self.loss(self.net, self.valid)[0].backward()
        self.adam.step()
        self.w()

    def second(self) -> None:
        """Virtual step on a copy, then the central difference: four forward and backward passes."""
        loss = self.loss(self.net, self.train)[0]
        weights = self.net.weights()
        grads = torch.autograd.grad(loss, weights)
        ahead = copy.deepcopy(self.net)
        with torch.no_grad():
            for p, g in zip(ahead.weights(), grads, strict=True):
                p.sub_(20.0 * (g + 5e-7 * p))
        ahead.zero_grad()
        self.loss(ahead, self.valid)[0].backward()
        v = [p.grad for p in ahead.weights()]
        radius = 0.01 / torch.cat([g.view(-1) for g in v]).norm()  # type: ignore[union-attr]
        sides = []
        for move in (radius, -2 * radius):
            with torch.no_grad():
                for p, d in zip(weights, v, strict=True):
                    p.add_(move * d)  # type: ignore[operator]
            sides.append(torch.autograd.grad(self.loss(self.net, self.train)[0], self.net.alphas)[0])
        with torch.no_grad():
            for p, d in zip(weights, v, strict=True):
                p.add_(radius * d)  # type: ignore[operator]
        self.adam.zero_grad()
        self.net.alphas.grad = ahead.alphas.grad - 20.0 * (sides[0] - sides[1]) / (2 * radius)  # type: ignore[operator]
        self.adam.step()
        self.w()


# -- measuring


def actions(size: Size, backends: list[str], steps: list[str], device: torch.device) -> dict[str, dict[str, Callable]]:
    """step -> backend -> one call that makes the step."""
    found: dict[str, dict[str, Callable]] = {step: {} for step in steps}
    for backend in backends:
        if backend == "original":
            original = Original(size, device)
            for step in steps:
                found[step][backend] = getattr(original, step)
            continue
        for step in steps:
            made = search(size, backend, {"second": "2"}.get(step, "1"), device)
            batch = made.task.batch("weights", 0, 0)
            numbers: dict[str, float] = {}

            def both(made: Search = made, batch: Any = batch, numbers: dict[str, float] = numbers) -> None:
                made.architecture_step(batch, numbers)
                made.weight_step(batch, numbers)

            def alone(made: Search = made, batch: Any = batch, numbers: dict[str, float] = numbers) -> None:
                made.weight_step(batch, numbers)

            found[step][backend] = alone if step == "w" else both
    return found


def seconds(call: Callable[[], None], device: torch.device) -> float:
    if device.type != "cuda":
        began = time.process_time()
        call()
        return time.process_time() - began
    torch.cuda.synchronize()
    began = time.perf_counter()
    call()
    torch.cuda.synchronize()
    return time.perf_counter() - began


def measured(size: Size, backends: list[str], steps: list[str], repeats: int, device: torch.device) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for step, calls in actions(size, ["original", *backends], steps, device).items():
        for call in calls.values():
            call()  # memory is taken, caches are warm
        turns = [{name: seconds(call, device) for name, call in calls.items()} for _ in range(repeats)]
        found[step] = {"original": {"seconds": statistics.median(t["original"] for t in turns)}}
        for name in backends:
            ratios = [t["original"] / t[name] for t in turns]
            found[step][name] = {
                "seconds": statistics.median(t[name] for t in turns),
                "times faster": statistics.median(ratios), "lowest": min(ratios), "highest": max(ratios),
            }  # fmt: skip
    return found


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--size", choices=SIZES, default="paper")
    parser.add_argument("--backend", choices=BACKENDS[1:], nargs="+", default=["fast"])
    parser.add_argument("--steps", choices=STEPS, nargs="+", default=list(STEPS))
    parser.add_argument("--repeats", type=int, default=0)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--json", action="store_true")
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    size, device = SIZES[given.size], torch.device(given.device)
    found = measured(size, given.backend, given.steps, given.repeats or size.repeats, device)
    if given.json:
        print(json.dumps({"size": given.size, **size._asdict(), "torch": torch.__version__, "steps": found}))
        return 0
    print(f"{given.size}: {size.units} units, {size.batch} columns, {size.bptt} tokens, {size.vocabulary} words")
    for step, of in found.items():
        print(f"{step:7s} original {of['original']['seconds']:7.3f} s")
        for name in given.backend:
            n = of[name]
            spread = f"({n['lowest']:.2f} to {n['highest']:.2f})"
            print(f"        {name:9s}{n['seconds']:7.3f} s   {n['times faster']:.2f} times faster {spread}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
