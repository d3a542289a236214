"""What a search step costs: the original's way of computing it beside the supernets of this package.

    python benchmarks/search_step.py                       # the table, every size that fits in a few minutes
    python benchmarks/search_step.py --size t8 --size t16 --json
    python benchmarks/search_step.py --size paper64 --repeats 1 --no-second
    python benchmarks/search_step.py --size all --repeats 1     # every size, some fifteen minutes of a quiet core
    python benchmarks/search_step.py --device cuda         # the table of a GPU: paper64 and paper16

Steps: `w` is a weight step (forward, backward, clip, SGD); `first` a first-order step of the alphas and then w;
`second` the published second-order step (central difference) and then w.

Backends: `original` computes as the released code does: one module per operation, `none` included, NCHW, batch norm
with running statistics, a full backward pass in the alpha step, a copy of the model in the second-order step.
`reference`, `fast` and `compiled` are the searches of this package, through the very functions that a search calls. On
a GPU `graph` replays whole steps, `triton` does so with kernels of our own, `bf16` is `graph` with maps in bfloat16.

All sides take turns in one process; a cell of the table is the median over the turns of (time of the original / time of
the backend), with the smallest and the largest turn behind it. Times are CPU time of the process; on a GPU they are
taken between two events around the step, waiting for launches included. Memory is the peak of processes of their own,
above what they held before the step (on a GPU, of what PyTorch allocated there). Machines differ: quote ratios.
`LOG.md` keeps what was found.
"""

from __future__ import annotations

import argparse
import copy
import json
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from darts_core import ops
from darts_core.config import SearchConfig
from darts_core.data import Images
from darts_core.mix import Mix
from darts_core.nets.mixed import MixedOperation, Supernet
from darts_core.search.bilevel import Host, Search
from darts_core.search.method import softmax_rows
from darts_core.strategies import STRATEGIES
from darts_core.tasks import ImageTask

STEPS = ("w", "first", "second")


class Size(NamedTuple):
    """A setting: channels of the first cells, cells, image (channels, side), batch, turns by default."""

    channels: int
    cells: int
    image: tuple[int, int]
    batch: int
    repeats: int


SIZES = {
    "t8": Size(8, 5, (1, 8), 64, 7),
    "t16": Size(8, 5, (3, 16), 64, 5),
    "t28": Size(8, 5, (1, 28), 64, 3),
    "paper16": Size(16, 8, (3, 32), 16, 3),
    "paper64": Size(16, 8, (3, 32), 64, 1),
}
CPU_BACKENDS = ("original", "reference", "fast", "compiled")
GPU_BACKENDS = ("original", "reference", "fast", "graph", "triton", "bf16")
BACKENDS = tuple(dict.fromkeys((*CPU_BACKENDS, *GPU_BACKENDS)))
WARM_UPS = {"cpu": 1, "cuda": 3}  # turns that do not count


def images(size: Size) -> Images:
    """Random pixels and labels, two batches of them."""
    channels, side = size.image
    g = torch.Generator().manual_seed(1)
    pixels = torch.randint(0, 256, (2 * size.batch, channels, side, side), generator=g, dtype=torch.uint8)
    labels = torch.randint(0, 10, (2 * size.batch,), generator=g)
    names = tuple(f"class {k}" for k in range(10))
    return Images("noise", pixels, labels, pixels[:10], labels[:10], names, (0.5,) * channels, (0.25,) * channels, ())


def search(size: Size, backend: str, order: str, device: str = "cpu") -> Search:
    """A search of this package before its first step, its batches drawn beforehand."""
    config = SearchConfig.from_dict(
        {
            "channels": size.channels, "cells": size.cells, "batch": size.batch, "augment": False, "order": order,
            "backend": "graph" if backend == "bf16" else backend,
            "precision": "bfloat16" if backend == "bf16" else "float32",
        }
    )  # fmt: skip
    task = ImageTask(config, images(size), device)
    drawn = {split: task.batch(split, 0, 0) for split in ("weights", "arch")}
    task.batch = lambda split, epoch, index: drawn[split]  # type: ignore[method-assign]
    return Search(STRATEGIES["darts"].factory, task, config, Host())


# -- as the original does it


class OriginalOperation(nn.Module):
    """An edge with every operation evaluated, `none` included."""

    def __init__(self, edge: MixedOperation, names: tuple[str, ...], channels: int) -> None:
        super().__init__()
        self.candidates = nn.ModuleList(ops.build(op, channels, edge.stride, search=True) for op in names)

    def forward(self, x: Tensor, weights: Tensor, moment: Any = None, active: Any = None) -> Tensor:
        return sum(w * op(x) for w, op in zip(weights, self.candidates, strict=True))  # type: ignore[return-value]


def with_running_statistics(module: nn.Module) -> None:
    """Batch norms that also keep running statistics, as the original's do."""
    for name, child in module.named_children():
        if isinstance(child, ops.BatchStatistics):
            setattr(module, name, nn.BatchNorm2d(child.num_features, affine=child.affine))
        else:
            with_running_statistics(child)


class Original:
    """A search as the released code runs it: its loop, its optimisers, its copies."""

    def __init__(self, size: Size, device: str = "cpu") -> None:
        likeness = search(size, "reference", "1", device)
        self.net: Any = likeness.net
        assert isinstance(self.net, Supernet)
        for cell in self.net.cells:
            channels = cell.preprocess1[1].out_channels  # type: ignore[index, union-attr]
            for k, edge in enumerate(cell.edges):  # type: ignore[arg-type, union-attr]
                cell.edges[k] = OriginalOperation(edge, cell.cell.ops, channels)  # type: ignore[index, union-attr]
        with_running_statistics(self.net)
        self.net.to(device)
        self.alphas = likeness.alphas
        self.train, self.valid = (likeness.task.batch(split, 0, 0) for split in ("weights", "arch"))
        self.config = likeness.config
        self.sgd = torch.optim.SGD(self.net.parameters(), 0.025, momentum=0.9, weight_decay=3e-4)
        self.adam = torch.optim.Adam(self.alphas.tensors(), 3e-4, betas=(0.5, 0.999), weight_decay=1e-3)

    def loss(self, net: nn.Module, batch: tuple[Tensor, Tensor]) -> Tensor:
        return F.cross_entropy(net(batch[0], Mix(softmax_rows(self.alphas)))[0], batch[1])

    def w(self) -> None:
        self.sgd.zero_grad()
        self.loss(self.net, self.train).backward()
        nn.utils.clip_grad_norm_(self.net.parameters(), 5.0)
        self.sgd.step()

    def first(self) -> None:
        self.adam.zero_grad()
        self.loss(self.net, self.valid).backward()
        self.adam.step()
        self.w()

    def second(self) -> None:
        params = list(self.net.parameters())
        grads = torch.autograd.grad(self.loss(self.net, self.train), params)
        ahead = copy.deepcopy(self.net)
        with torch.no_grad():
            for p, q, g in zip(params, ahead.parameters(), grads, strict=True):
                buffer = self.sgd.state[p].get("momentum_buffer", torch.zeros_like(p))
                q.sub_(0.025 * (0.9 * buffer + g + 3e-4 * p))
        self.adam.zero_grad()
        self.loss(ahead, self.valid).backward()
        vector = [q.grad for q in ahead.parameters()]
        radius = 0.01 / torch.cat([v.reshape(-1) for v in vector]).norm()  # type: ignore[union-attr]
        implicit = []
        for distance in (radius, -2 * radius, radius):
            with torch.no_grad():
                for p, v in zip(params, vector, strict=True):
                    p.add_(distance * v)  # type: ignore[operator]
            if len(implicit) < 2:
                implicit.append(torch.autograd.grad(self.loss(self.net, self.train), self.alphas.tensors()))
        for alpha, plus, minus in zip(self.alphas.tensors(), *implicit, strict=True):
            assert alpha.grad is not None
            alpha.grad.sub_(0.025 * (plus - minus) / (2 * radius))
        self.adam.step()
        self.w()


# -- measuring


def steps_of(size: Size, backend: str, device: str = "cpu") -> dict[str, Callable[[], None]]:
    """Step -> a function that makes one, for `backend` at `size`."""
    if backend == "original":
        original = Original(size, device)
        return {step: getattr(original, step) for step in STEPS}

    first, second = search(size, backend, "1", device), search(size, backend, "2", device)
    batch, arch_batch = (first.task.batch(split, 0, 0) for split in ("weights", "arch"))

    def weights(one: Search) -> None:
        one.piece("weights", one.move_weights, batch, one.rate())

    def both(one: Search) -> None:
        one.piece("arch", one.move_alphas, batch, arch_batch, one.rate(), one.config.a_lr)
        weights(one)

    return {"w": lambda: weights(first), "first": lambda: both(first), "second": lambda: both(second)}


def seconds_of(step: Callable[[], None], device: str) -> float:
    """CPU seconds of the process, or on a GPU the seconds between two events around the step."""
    if device == "cpu":
        began = time.process_time()
        step()
        return time.process_time() - began
    before, after = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    torch.cuda.synchronize()
    before.record()
    step()
    after.record()
    torch.cuda.synchronize()
    return before.elapsed_time(after) / 1e3


def measure(
    size: Size, backends: list[str], steps: list[str], repeats: int, device: str = "cpu"
) -> dict[str, dict[str, list[float]]]:
    """backend -> step -> seconds of each turn; the backends take turns, after some that do not count.

    On the CPU a weight step is warm-up enough: it chooses the library's kernels for all shapes. On a GPU each step
    is captured first.
    """
    made = {backend: steps_of(size, backend, device) for backend in backends}
    seconds: dict[str, dict[str, list[float]]] = {b: {s: [] for s in steps} for b in backends}
    for turn in range(repeats + WARM_UPS[device]):
        warming = turn < WARM_UPS[device]
        for step in steps[:1] if warming and device == "cpu" else steps:
            for backend in backends:
                took = seconds_of(made[backend][step], device)
                if not warming:
                    seconds[backend][step].append(took)
    return seconds


def peak_megabytes(name: str, backend: str, threads: int, device: str = "cpu") -> float:
    """Largest memory of a fresh process that makes two weight steps."""
    command = [sys.executable, __file__, "--size", name, "--memory-of", backend, "--threads", str(threads)]
    command += ["--device", device]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return float(done.stdout.strip().splitlines()[-1])


def weigh(size: Size, backend: str, device: str = "cpu") -> float:
    """Two weight steps here; the peak of this process in MB, less what it holds before them (torch, mostly)."""
    step = Original(size, device).w if backend == "original" else steps_of(size, backend, device)["w"]
    if device == "cuda":
        held = torch.cuda.memory_allocated()
        torch.cuda.reset_peak_memory_stats()
        for _ in range(2):
            step()
        torch.cuda.synchronize()
        return (torch.cuda.max_memory_allocated() - held) / 1e6
    before = resident()["VmRSS"]
    for _ in range(2):
        step()
    return resident()["VmHWM"] - before


def resident() -> dict[str, float]:
    """Memory of this process now and at its peak, MB, by their names on Linux."""
    status = Path("/proc/self/status")
    if status.exists():  # getrusage counts what the parent held before it started us
        rows = [line.split() for line in status.read_text().splitlines() if line.startswith(("VmRSS", "VmHWM"))]
        return {row[0].rstrip(":"): int(row[1]) / 1e3 for row in rows}
    import resource

    unit = 1e6 if sys.platform == "darwin" else 1e3  # bytes there, kilobytes elsewhere
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / unit
    return {"VmRSS": peak, "VmHWM": peak}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--size",
        action="append",
        choices=[*SIZES, "all"],
        help="default: t8, t16 and paper16; on a GPU paper64 and paper16",
    )
    parser.add_argument("--device", default="cpu", choices=("cpu", "cuda"))
    parser.add_argument("--backend", action="append", choices=BACKENDS, help="default: all of them")
    parser.add_argument("--repeats", type=int, default=0, help="turns that count; 0: as many as suits the size")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--no-second", action="store_true", help="leave the second-order step out")
    parser.add_argument("--no-memory", action="store_true", help="leave the peak memory out")
    parser.add_argument("--json", action="store_true", help="last line: {size: {backend: {step: ratio}}}")
    parser.add_argument("--memory-of", choices=BACKENDS, help=argparse.SUPPRESS)
    asked = parser.parse_args()
    torch.set_num_threads(asked.threads)
    cuda = asked.device == "cuda"
    if cuda and not torch.cuda.is_available():
        raise SystemExit("benchmark: device: torch finds no NVIDIA GPU here; run it on a machine with one")
    torch.backends.cudnn.benchmark = True  # as the original does; shapes are the same in every step
    names = asked.size or (["paper64", "paper16"] if cuda else ["t8", "t16", "paper16"])
    names = list(SIZES) if "all" in names else names
    if asked.memory_of:
        print(weigh(SIZES[names[0]], asked.memory_of, asked.device))
        return
    steps = [s for s in STEPS if s != "second" or not asked.no_second]
    usual = GPU_BACKENDS if cuda else CPU_BACKENDS
    backends = ["original", *(b for b in asked.backend or usual if b != "original")]
    found: dict[str, dict[str, dict[str, float]]] = {}
    where = torch.cuda.get_device_name() if cuda else f"{asked.threads} thread(s), CPU time"
    print(f"torch {torch.__version__}, {where}; ratios to the original, smallest to largest")
    for name in names:
        size = SIZES[name]
        seconds = measure(size, backends, steps, asked.repeats or (10 if cuda else size.repeats), asked.device)
        memory = {} if asked.no_memory else {b: peak_megabytes(name, b, asked.threads, asked.device) for b in backends}
        found[name] = {}
        for backend in backends:
            cells, row = [], {}
            for step in steps:
                ratios = [o / t for o, t in zip(seconds["original"][step], seconds[backend][step], strict=True)]
                row[step] = round(statistics.median(ratios), 2)
                took = statistics.median(seconds[backend][step]) * 1e3
                cells.append(f"{step} {took:8.1f} ms {row[step]:6.2f}x ({min(ratios):.2f} to {max(ratios):.2f})")
            if memory:
                row["memory"] = round(memory["original"] / memory[backend], 2)
                cells.append(f"peak {memory[backend]:6.0f} MB {row['memory']:5.2f}x less")
            found[name][backend] = row
            print(f"{name:8s} {backend:10s} " + "   ".join(cells), flush=True)
    if asked.json:
        print(json.dumps(found))


if __name__ == "__main__":
    main()
