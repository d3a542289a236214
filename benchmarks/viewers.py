"""What watching costs: many viewers on one live search; the age of what they see, and the pace of the search.

    python benchmarks/viewers.py [--viewers 20] [--rounds 5] [--seconds 12] [--preset laptop] [--json]

A real search, started as the dashboard starts it, runs on; a real dashboard serves it. Windows without and with viewers
take turns, so that other work on the machine meets both alike; every second round begins with the viewers, so that a
search that slows down as it goes costs both sides the same. A viewer is an HTTP client that enters with the token,
takes the history and then reads the event stream, as the board does (all of them in one process of its own).

Age: from the moment a record is in the file (looked at every 2 ms) until a viewer has it, over all records and viewers.
Loss: by how much fewer steps a second there are with viewers, median over the rounds, and the same without the pauses
between epochs, of which a window holds now more, now fewer. On a busy machine that is rough, so what it must come from
stands beside it: the processor time of server and viewers per second, with viewers.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any, NamedTuple

import httpx
import numpy as np
import psutil

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))


# Viewers, in a process of their own -------------------------------------------------------------------------


async def view(address: str, token: str, run: str, arrivals: list[tuple[float, int]], ready: list[int]) -> None:
    """One viewer: (seconds of the monotonic clock, records it has by then), message after message."""
    async with httpx.AsyncClient(base_url=address, timeout=30) as client:
        assert (await client.get("/darts/enter", params={"token": token})).status_code == 303
        block = (await client.get(f"/darts/runs/{run}/history")).content
        position = json.loads(block[4 : 4 + int.from_bytes(block[:4], "little")])["position"]
        async with client.stream("GET", f"/darts/runs/{run}/stream", params={"after": position}) as answer:
            assert answer.status_code == 200
            ready.append(1)
            place = ""
            async for line in answer.aiter_lines():
                if line.startswith("id: "):
                    place = line[4:]
                elif line == "event: steps":
                    arrivals.append((time.monotonic(), int(place.partition(",")[0])))


async def view_together(address: str, token: str, run: str, viewers: int) -> None:
    """All of them, until a line comes on stdin; what arrived goes to stdout as one line of JSON."""
    arrivals: list[list[tuple[float, int]]] = [[] for _ in range(viewers)]
    ready: list[int] = []
    tasks = [asyncio.create_task(view(address, token, run, found, ready)) for found in arrivals]
    while len(ready) < viewers:
        failed = next((task for task in tasks if task.done()), None)
        if failed is not None:
            failed.result()
        await asyncio.sleep(0.05)
    print("ready", flush=True)
    await asyncio.to_thread(sys.stdin.readline)
    broken = sum(task.done() for task in tasks)
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    print(json.dumps({"arrivals": arrivals, "broken": broken}), flush=True)


# The search, and what is measured of it ---------------------------------------------------------------------


class Watch:
    """When each record was written, to 2 ms."""

    def __init__(self, steps: Path, header: int, record: int) -> None:
        self.steps, self.header, self.record = steps, header, record
        self.seen: list[float] = []  # of record i + 1, seconds of the monotonic clock
        self._ended = threading.Event()
        threading.Thread(target=self._look, daemon=True).start()

    def _look(self) -> None:
        while not self._ended.wait(0.002):
            count = (os.stat(self.steps).st_size - self.header) // self.record
            now = time.monotonic()
            self.seen.extend([now] * (count - len(self.seen)))

    def count(self) -> int:
        return len(self.seen)

    def end(self) -> None:
        self._ended.set()


def busy(process: psutil.Process) -> float:
    """Processor seconds so far."""
    times = process.cpu_times()
    return times.user + times.system


class Pace(NamedTuple):
    """Of the search in one window."""

    steps: float  # per second
    steady: float  # steps per second while it steps: gaps of more than four times the usual one left out
    share: float  # of a core
    work: float  # steps per second of processor time


def window(watch: Watch, search: psutil.Process, seconds: float) -> Pace:
    began, first, before = time.monotonic(), watch.count(), busy(search)
    time.sleep(seconds)
    last, taken, used = watch.count(), time.monotonic() - began, busy(search) - before
    gaps = np.diff(watch.seen[first:last])
    usual = gaps[gaps <= 4 * np.median(gaps)]
    steps = last - first
    return Pace(steps / taken, 1 / float(usual.mean()), used / taken, steps / max(used, 1e-9))


def loss(without: list[Pace], with_them: list[Pace], field: str) -> float:
    """Median over the rounds of what is missing with viewers, 0 to 1."""
    return 1 - statistics.median(
        getattr(b, field) / max(getattr(a, field), 1e-9) for a, b in zip(without, with_them, strict=True)
    )


def ages(watch: Watch, arrivals: list[list[tuple[float, int]]], since: float) -> list[float]:
    """Seconds from writing to arrival of every record that came after `since`, viewer by viewer."""
    found = []
    for viewer in arrivals:
        had: int | None = None
        for when, records in viewer:
            if had is not None and when >= since:
                found += [when - watch.seen[i] for i in range(had, min(records, len(watch.seen)))]
            had = records
    return found


def measure(viewers: int, rounds: int, seconds: float, preset: str) -> dict[str, Any]:
    from app import process
    from darts_core import runs
    from darts_core.config import preset_named
    from darts_core.runs.records import HEADER
    from tests.served import serve

    folder = Path(tempfile.mkdtemp(prefix="viewers-")) / "runs"
    config = preset_named(preset).config(epochs=1000, retrain_epochs=0, random_cells=0, pace=0)
    without, with_them, aged, server_share, client_share, broken = [], [], [], [], [], 0
    with serve(folder) as server:
        assert server.process is not None
        search = process.start(config.to_dict(), folder, "watched")
        try:
            until = time.monotonic() + 180
            while (
                not (folder / "watched" / "steps.bin").exists() or runs.RunReader(folder, "watched").step_count() < 20
            ):
                assert time.monotonic() < until and not search.refusal(), search.printed()
                time.sleep(0.2)
            reader = runs.RunReader(folder, "watched")
            watch = Watch(folder / "watched" / "steps.bin", HEADER, reader.record_bytes)
            dashboard, searching = psutil.Process(server.process.pid), psutil.Process(search.process.pid)
            for turn in range(rounds):
                if turn % 2 == 0:
                    without.append(window(watch, searching, seconds))
                command = [sys.executable, __file__, "--view", server.address, "watched", "--viewers", str(viewers)]
                child = subprocess.Popen(
                    command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
                    env=os.environ | {"VIEWERS_TOKEN": server.token},
                )  # fmt: skip
                assert child.stdin is not None and child.stdout is not None
                assert child.stdout.readline() == "ready\n", "the viewers got in"
                clients = psutil.Process(child.pid)
                began, before, before_clients = time.monotonic(), busy(dashboard), busy(clients)
                with_them.append(window(watch, searching, seconds))
                taken = time.monotonic() - began
                server_share.append((busy(dashboard) - before) / taken)
                client_share.append((busy(clients) - before_clients) / taken)
                said = json.loads(child.communicate("enough\n")[0])
                aged += ages(watch, said["arrivals"], began)
                broken += said["broken"]
                if turn % 2:
                    without.append(window(watch, searching, seconds))
            watch.end()
        finally:
            search.process.kill()
    return {
        "viewers": viewers,
        "age_p50_s": float(np.percentile(aged, 50)),
        "age_p95_s": float(np.percentile(aged, 95)),
        "age_max_s": max(aged),
        "records_seen": len(aged),
        "broken_streams": broken,
        "steps_per_s_without": statistics.median(pace.steps for pace in without),
        "steps_per_s_with": statistics.median(pace.steps for pace in with_them),
        "loss": loss(without, with_them, "steps"),
        "loss_by_round": [round(1 - b.steps / a.steps, 3) for a, b in zip(without, with_them, strict=True)],
        "loss_steady": loss(without, with_them, "steady"),
        "loss_steady_by_round": [round(1 - b.steady / a.steady, 3) for a, b in zip(without, with_them, strict=True)],
        "loss_of_core": loss(without, with_them, "share"),
        "loss_of_work": loss(without, with_them, "work"),
        "search_cpu": statistics.median(pace.share for pace in without),
        "server_cpu": statistics.median(server_share),
        "viewers_cpu": statistics.median(client_share),
        "server_cpu_per_viewer": statistics.median(server_share) / viewers,
        "cores": os.cpu_count(),
        "load": os.getloadavg()[0] if hasattr(os, "getloadavg") else None,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--viewers", type=int, default=20)
    parser.add_argument("--rounds", type=int, default=5, help="of a window without and one with viewers")
    parser.add_argument("--seconds", type=float, default=12.0, help="of each window")
    parser.add_argument("--preset", default="laptop")
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--view", nargs=2, metavar=("ADDRESS", "RUN"), help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.view:
        asyncio.run(view_together(asked.view[0], os.environ["VIEWERS_TOKEN"], asked.view[1], asked.viewers))
        return
    found = measure(asked.viewers, asked.rounds, asked.seconds, asked.preset)
    if asked.json:
        print(json.dumps(found))
        return
    told = {key: f"{100 * found[key]:+.1f} %" for key in ("loss", "loss_steady", "loss_of_core", "loss_of_work")}
    rounds, steady = (
        ", ".join(f"{100 * lost:+.0f}" for lost in found[name]) for name in ("loss_by_round", "loss_steady_by_round")
    )
    print(f"{asked.viewers} viewers of a {asked.preset} search, {asked.rounds} rounds of {asked.seconds:g} s")
    print(
        f"  age of a record where it is seen: p50 {found['age_p50_s']:.3f}, p95 {found['age_p95_s']:.3f} s, at most "
        f"{found['age_max_s']:.2f} s ({found['records_seen']:,} records, {found['broken_streams']} streams broke)"
    )
    print(
        f"  steps a second: {found['steps_per_s_without']:.1f} without, {found['steps_per_s_with']:.1f} with viewers: "
        f"{told['loss']} lost (rounds: {rounds})"
    )
    print(f"  without the pauses between epochs: {told['loss_steady']} lost (rounds: {steady})")
    print(
        f"  the search had {100 * found['search_cpu']:.0f} % of a core without viewers; with them "
        f"{told['loss_of_core']} less of it, and {told['loss_of_work']} fewer steps for the same time in it"
    )
    print(
        f"  of a core: server {100 * found['server_cpu']:.1f} %, viewers {100 * found['viewers_cpu']:.1f} % "
        f"({found['cores']} cores, load {found['load']:.1f})"
    )


if __name__ == "__main__":
    main()
