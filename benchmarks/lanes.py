"""What several seeds side by side cost: a step of N searches beside a step of one, and whole searches beside one.

    python benchmarks/lanes.py                             # the teaching presets, pure PyTorch and compiled
    python benchmarks/lanes.py --preset collapse --backend compiled --whole 3    # whole searches too
    python benchmarks/lanes.py --preset collapse --backend fast --seeds 5 --rounds 20 --json
    python benchmarks/lanes.py --hessian                   # also: the exact Hessian beside a double backward per logit

One search alone and N of them side by side take turns in one process, each through the very functions that a search
calls (`search/joint.py`). A ratio is the median over the rounds of (time of a step of all) / (time of a step of one),
with the smallest and the largest round behind it; `apart` is the same for the N searches one after another. CPU time
of the process, and time on the wall, which tells more where cores are free.

`--whole ROUNDS` runs `search --seeds 0-4` and `search --seeds 0` in turn, whole processes from import to result with
checkpoints and exact Hessians, without training the cells they find. That is what somebody waits for.

`--json` prints `{preset: {backend: {"cpu": ratio, "wall": ratio, "apart": ratio, "shared": bool}}}` as the last line,
with `"whole": ratio of wall times` where asked for.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence

import torch

from darts_core.config import PRESETS, preset_named
from darts_core.search.bilevel import Search
from darts_core.search.host import Host, Waits
from darts_core.search.joint import Lanes, why_apart
from darts_core.strategies import STRATEGIES
from darts_core.tasks import image_task


def search(preset: str, backend: str, seed: int, **changes: object) -> Search:
    """A search before its first step, of the teaching size, without the Hessian."""
    config = preset_named(preset).config(backend=backend, seed=seed, **{"hessian_every": 0, **changes})
    task = image_task(config, torch.device("cpu"))
    return Search(STRATEGIES[config.strategy].factory, task, config, Host())


def timed(work: Callable[[], None]) -> tuple[float, float]:
    """CPU and wall seconds of `work`."""
    cpu, wall = time.process_time(), time.perf_counter()
    work()
    return time.process_time() - cpu, time.perf_counter() - wall


def again(searches: Sequence[Search]) -> None:
    """Stay within the first epoch, whose batches are all of one size."""
    for one in searches:
        one.index %= one.task.steps("weights") - 1


def measure(preset: str, backend: str, seeds: int, rounds: int) -> dict[str, list[float] | bool]:
    """Ratios of each round: CPU time and wall time of all to one, and of all one after another to one."""
    one, many = search(preset, backend, seeds), [search(preset, backend, seed) for seed in range(seeds)]
    lanes = Lanes()

    def alone() -> None:
        one.one_step()
        again([one])

    def together() -> None:
        lanes.move([Waits(lane, Search.launch) for lane in many])
        for lane in many:
            made = lanes.made.pop(id(lane))
            if isinstance(made, Exception):
                raise made
            lane.recorded(made)
        again(many)

    def in_turn() -> None:
        for lane in many:
            lane.one_step()
        again(many)

    found: dict[str, list[float]] = {"cpu": [], "wall": [], "apart": []}
    for turn in range(rounds + 2):
        first, all_of_them, apart = timed(alone), timed(together), timed(in_turn)
        if turn > 1:
            found["cpu"].append(all_of_them[0] / first[0])
            found["wall"].append(all_of_them[1] / first[1])
            found["apart"].append(apart[0] / first[0])
    return {**found, "shared": not why_apart(many[0])}


def whole(preset: str, backend: str, seeds: int, rounds: int) -> dict[str, list[float]]:
    """Wall and CPU seconds of whole searches in processes of their own: of one seed, and of all side by side."""
    found: dict[str, list[float]] = {"one": [], "all": [], "cpu of one": [], "cpu of all": []}
    changes = ["retrain_epochs=0", "random_cells=0", f"backend={backend}"]
    for _ in range(rounds):
        for key, wanted in (("one", "0"), ("all", f"0-{seeds - 1}")):
            with tempfile.TemporaryDirectory() as folder:
                words = ["search", "--preset", preset, "--seeds", wanted, "--runs", folder]
                words += [word for change in changes for word in ("--set", change)]
                before, began = os.times(), time.perf_counter()
                subprocess.run([sys.executable, "-m", "darts_core", *words], check=True, stdout=subprocess.DEVNULL)
                found[key].append(time.perf_counter() - began)
                after = os.times()
                cpu = after.children_user - before.children_user + after.children_system - before.children_system
                found[f"cpu of {key}"].append(cpu)
    return found


def hessians(preset: str, backend: str, rounds: int) -> list[float]:
    """CPU time of a double backward per logit / of `Search.hessian`, which gives the same matrix."""
    one, ratios = search(preset, backend, 0, hessian_every=1), []
    one.one_step()
    images, labels = one.task.batch("arch", 0, one.task.steps("weights") - 1)
    size = one.config.hessian_batch or len(labels)

    def by_rows() -> None:
        leaves, own = one.alphas.leaves(), {name: p.detach() for name, p in one.params.items()}
        loss = one.evaluate(own, one.relax(leaves, "read"), (images[:size], labels[:size]), "read", "arch").value
        tensors = list(leaves.ops.values())
        slope = torch.autograd.grad(loss, tensors, create_graph=True)
        for entry in torch.cat([g.reshape(-1) for g in slope]):
            torch.autograd.grad(entry, tensors, retain_graph=True)

    def ours() -> None:
        one.hessian()

    for _ in range(rounds):
        ratios.append(timed(by_rows)[0] / timed(ours)[0])
    return ratios


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--preset", action="append", choices=list(PRESETS), help="default: collapse and laptop")
    parser.add_argument("--backend", action="append", choices=("fast", "compiled"), help="default: both")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--hessian", action="store_true", help="measure the exact Hessian too")
    parser.add_argument("--whole", type=int, default=0, metavar="ROUNDS", help="whole searches too, so often")
    parser.add_argument("--json", action="store_true")
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    told: dict[str, dict[str, dict[str, object]]] = {}
    words = lambda rows: f"{statistics.median(rows):.2f} ({min(rows):.2f} to {max(rows):.2f})"  # noqa: E731
    for preset in given.preset or ["collapse", "laptop"]:
        for backend in given.backend or ["fast", "compiled"]:
            found = measure(preset, backend, given.seeds, given.rounds)
            medians = {key: statistics.median(rows) for key, rows in found.items() if isinstance(rows, list)}
            told.setdefault(preset, {})[backend] = {**medians, "shared": found["shared"]}
            how = "one pass for all" if found["shared"] else "one after another"
            cpu, wall, apart = (words(found[key]) for key in ("cpu", "wall", "apart"))
            print(
                f"{preset:9} {backend:9} {given.seeds} seeds, {how}: CPU {cpu}, wall {wall}; apart {apart}", flush=True
            )
            if given.hessian:
                ratios = hessians(preset, backend, 3)
                told[preset][backend]["hessian"] = statistics.median(ratios)
                print(f"{preset:9} {backend:9} exact Hessian {words(ratios)} times faster than row by row", flush=True)
            if given.whole:
                took = whole(preset, backend, given.seeds, given.whole)
                ratios = [five / one for one, five in zip(took["one"], took["all"], strict=True)]
                told[preset][backend]["whole"] = statistics.median(ratios)
                one, five, *cpu = (statistics.median(seconds) for seconds in took.values())
                print(
                    f"{preset:9} {backend:9} whole searches: {given.seeds} seeds {five:.1f} s, one {one:.1f} s, ratio "
                    f"{words(ratios)}; CPU {cpu[1]:.1f} and {cpu[0]:.1f} s",
                    flush=True,
                )
    if given.json:
        print(json.dumps(told))


if __name__ == "__main__":
    main()
