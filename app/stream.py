"""The read-only routes the board is fed by: history in one binary block, then server-sent events.

One `Feed` per run is shared by all viewers and by the pages; it reads records and events where the last reader
stopped, and never writes. A position is "<records>,<event offset>": how many records of steps.bin and how many bytes
of events.jsonl a viewer has. It is the id of every message, so a reconnect continues without gaps or doubles.
"""

from __future__ import annotations

import asyncio
import base64
import json
import re
import struct
import threading
import time
from collections import deque
from collections.abc import AsyncIterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import plotly
from starlette.requests import Request
from starlette.responses import FileResponse, PlainTextResponse, Response, StreamingResponse
from starlette.routing import Route

from darts_core import io, runs
from darts_core.errors import BadInput
from darts_core.runs.records import EVENTS

POLL = 0.12  # seconds between looks at the files
PER_VIEWER = 0.02  # seconds between messages to a viewer, for each who watches: all together get at most 50 a second
SLOWEST = 0.5  # seconds between messages, however many watch
STATUS_EVERY = 1.0  # seconds
BATCH = 256  # records per message, so that a long gap arrives in pieces
HISTORY = 5_000  # records in a history block
RATE_WINDOW = 8.0  # seconds
KEPT = 64  # feeds of runs, the oldest go first
SAMPLES = runs.samples_root()
COMPLETE = ("finished", "stopped", "failed")

# Streamlit's gzip at level 9 costs more than these bytes do on a loopback; a set encoding makes it stand back.
PLAIN = {"Content-Encoding": "identity"}


@dataclass(frozen=True)
class Position:
    """How much of a run a viewer has: whole records of steps.bin, bytes of events.jsonl, and of which generation."""

    records: int
    offset: int
    generation: int = 0  # tails moved aside by resumes that came out different; the text leaves out a 0

    def __str__(self) -> str:
        return f"{self.records},{self.offset}" + (f",{self.generation}" if self.generation else "")

    @staticmethod
    def parse(text: str) -> Position:
        """Raises BadInput for anything but two or three whole numbers with commas between."""
        found = re.fullmatch(r"(\d{1,12}),(\d{1,15})(?:,(\d{1,6}))?", text)
        if found is None:
            raise BadInput("stream", "after", "is no position", "give <records>,<event offset> as the history does")
        return Position(int(found[1]), int(found[2]), int(found[3] or 0))


class Feed:
    """One run as its viewers see it. Looks at the files at most once per `POLL`, however many ask."""

    def __init__(self, root: Path, name: str) -> None:
        self.reader = runs.RunReader(root, name)
        self._guard = threading.Lock()
        self._looked = 0.0
        self._count = 0
        self.last_status: dict[str, Any] = {}
        self._status_at = 0.0
        self._seen: deque[tuple[float, int]] = deque()  # (seconds, records), for the rate
        self._batches: dict[tuple[int, int], tuple[int, bytes]] = {}
        self._events: list[dict[str, Any]] = []
        self._offset = 0
        self._lines: dict[int, tuple[bytes, int]] = {}  # offset -> the lines from there as JSON, and where they end
        self._lines_of: io.Stamp | None = None  # the stamp of events.jsonl that these were read at
        self.viewers = 0  # open streams
        self.generation = self.reader.generation()

    def count(self) -> int:
        """Whole records in steps.bin."""
        with self._guard:
            now = time.monotonic()
            if now - self._looked >= POLL:
                self._looked, self._count = now, self.reader.step_count()
                stamp = io.stamp(self.reader.folder / EVENTS)
                if stamp != self._lines_of:
                    self._lines, self._lines_of = {}, stamp
                if self._seen and self._count < self._seen[-1][1]:
                    self._seen.clear()
                if self._count:  # the seconds before the first step say nothing about the rate
                    self._seen.append((now, self._count))
                while len(self._seen) > 2 and self._seen[1][0] < now - RATE_WINDOW:
                    self._seen.popleft()
            return self._count

    def rate(self) -> float:
        """Steps per second over the last seconds; 0 when nothing moved."""
        with self._guard:
            if len(self._seen) < 2:
                return 0.0
            (began, first), (ended, last) = self._seen[0], self._seen[-1]
            return (last - first) / (ended - began) if ended - began > 1.5 else 0.0

    def status(self) -> dict[str, Any]:
        """State, step, total_steps, message, paused, edited, silent_s (seconds), rate (steps per second)."""
        self.count()
        rate = self.rate()
        with self._guard:
            now = time.monotonic()
            if not self.last_status or now - self._status_at >= STATUS_EVERY / 2:
                status = self.reader.status()
                self._status_at = now
                if self.reader.generation() != self.generation:  # lines and records were moved aside
                    self.generation = self.reader.generation()
                    self._batches.clear()
                    self._events, self._offset, self._lines = [], 0, {}
                self.last_status = {
                    "state": status.state,
                    "step": status.step,
                    "total_steps": status.total_steps,
                    "phase": status.phase,
                    "message": status.message,
                    "paused": status.paused,
                    "edited": status.edited,
                    "silent_s": round(max(0.0, time.time() - status.last_write), 1),
                    "rate": round(rate, 2) if status.state == "running" else 0.0,
                }
            step = self.reader.first_step - 1 + self._count
            return {**self.last_status, "step": step}

    def told(self) -> list[dict[str, Any]]:
        """All events so far; only new lines are read."""
        with self._guard:
            fresh, self._offset = self.reader.events(self._offset)
            self._events.extend(fresh)
            return list(self._events)

    def lines(self, offset: int) -> tuple[bytes, int]:
        """The whole lines of events.jsonl from byte `offset` on as JSON, and where they end; read once for all viewers
        who are there. What is new is seen when `count` looks again.
        """
        with self._guard:
            found = self._lines.get(offset)
            if found is None:
                events, end = self.reader.events(offset)
                found = _json(events), end
                if len(self._lines) < 64:
                    self._lines[offset] = found
            return found

    def batch(self, first: int, last: int) -> tuple[int, bytes]:
        """Records first to last (exclusive): how many, and their bytes in base64; encoded once for all viewers.

        Raises BadInput when the first of them is damaged.
        """
        found = self._batches.get((first, last))
        if found is None:
            raw = self.reader.raw_steps(first, last - first)
            if not raw:
                raise BadInput(
                    self.reader.name, "steps.bin", f"record {first} is damaged", "take another copy of the run"
                )
            found = len(raw) // self.reader.record_bytes, base64.b64encode(raw)
            if len(self._batches) > 8:
                self._batches.clear()
            self._batches[first, last] = found
        return found


_feeds: dict[Path, tuple[int, Feed]] = {}
_feeds_guard = threading.Lock()


def folder_of(name: str) -> Path:
    """The folder that holds the run `name`: the folder of runs, else the recorded samples of the project.

    Raises BadInput when neither has it, or the name is no run name.
    """
    runs.check_name(name)
    for root in (runs.runs_root(), SAMPLES):
        if (root / name / "run.json").is_file():
            return root
    raise BadInput(name, "run", "there is no such run", "choose one from the list")


def feed(name: str) -> Feed:
    """The shared feed of a run. Raises BadInput when there is no such run, or its folder cannot be read."""
    root = folder_of(name)
    made = (root / name).stat().st_ino  # another folder of the same name is another run
    with _feeds_guard:
        inode, found = _feeds.get(root / name, (None, None))
        if found is None or inode != made:
            found = Feed(root, name)
            _feeds[root / name] = (made, found)
            while len(_feeds) > KEPT:
                _feeds.pop(next(iter(_feeds)))  # whoever watches it keeps it; the next visitor makes another
        return found


def history_block(source: Feed, most: int) -> bytes:
    """u32 JSON length, the JSON padded so that records start at a multiple of 4, records (the last one among them)."""
    status = source.status()
    total = source.count()
    size = source.reader.record_bytes
    stride = max(1, -(-total // most))
    first = (total - 1) % stride if total else 0
    raw = source.reader.raw_steps(first, total - first, stride)
    events, offset = source.reader.events(0)
    head = {
        "layout": source.reader.layout.to_json(),
        "record_bytes": size,
        "count": len(raw) // size,
        "stride": stride,
        "total": total,
        "events": events,
        "position": str(Position(total, offset, source.generation)),
        "info": source.reader.info,
        "status": status,
    }
    text = _json(head)
    text += b" " * (-(4 + len(text)) % 4)
    return struct.pack("<I", len(text)) + text + raw


async def messages(source: Feed, position: Position, stopping: asyncio.Event) -> AsyncIterator[bytes]:
    """The endless part: what is new in the run, as server-sent events, until it is complete or the server stops."""
    yield b"retry: 1000\n: connected\n\n"
    told, told_at = None, 0.0
    source.viewers += 1
    try:
        while not stopping.is_set():
            status = source.status()
            total = source.count()
            if total < position.records or source.generation != position.generation:
                yield _message("reset", Position(0, 0, source.generation), b"{}")  # a tail was moved aside: start again
                return
            fresh = False
            while position.records < total and not stopping.is_set():
                count, data = source.batch(position.records, min(total, position.records + BATCH))
                position = replace(position, records=position.records + count)
                yield _message("steps", position, data)
                fresh = True
            lines, offset = source.lines(position.offset)
            if offset != position.offset:
                position = replace(position, offset=offset)
                yield _message("events", position, lines)
                fresh = True
            now = time.monotonic()
            facts = [status[key] for key in ("state", "paused", "edited", "message")]
            if facts != told or now - told_at >= STATUS_EVERY:
                told, told_at = facts, now
                yield _message("status", position, _json(status))
            if status["state"] in COMPLETE and not fresh:
                yield _message("end", position, b"{}")
                return
            await asyncio.sleep(until_next(between(source.viewers), time.monotonic()))
    except BadInput as problem:  # the folder was damaged or moved to the trash meanwhile
        yield _message("status", position, _json({**source.last_status, "state": "corrupt", "message": str(problem)}))
        yield _message("end", position, b"{}")
    finally:
        source.viewers -= 1


def between(viewers: int) -> float:
    """Seconds between two messages to a viewer. Many viewers get fewer, larger ones, for their search needs the
    processor too; what they see stays younger than a second."""
    return min(SLOWEST, max(POLL, PER_VIEWER * viewers))


def until_next(beat: float, now: float) -> float:
    """Seconds until the next multiple of `beat` on the clock, at least a quarter of one: all viewers are served in one
    go, so that a search is interrupted once in a beat and not once for each of them."""
    left = beat - now % beat
    return left if left >= beat / 4 else left + beat


def routes(stopping: asyncio.Event) -> list[Route]:
    """The routes of the dashboard beside Streamlit's own; all of them only read."""

    async def history(request: Request) -> Response:
        try:
            most = _at_most(request.query_params.get("max", str(HISTORY)))
            source = await asyncio.to_thread(feed, request.path_params["name"])
            block = await asyncio.to_thread(history_block, source, most)
        except BadInput as problem:
            return PlainTextResponse(str(problem) + "\n", status_code=404)
        return Response(block, media_type="application/octet-stream", headers=PLAIN)

    async def stream(request: Request) -> Response:
        try:
            after = request.headers.get("last-event-id") or request.query_params.get("after", "0,0")
            position = Position.parse(after)
            source = await asyncio.to_thread(feed, request.path_params["name"])
        except BadInput as problem:
            return PlainTextResponse(str(problem) + "\n", status_code=404)
        return StreamingResponse(
            messages(source, position, stopping), media_type="text/event-stream", headers={"X-Accel-Buffering": "no"}
        )

    async def plotly_js(request: Request) -> Response:
        path = Path(plotly.__file__).parent / "package_data" / "plotly.min.js"
        kept = {"Cache-Control": "private, max-age=31536000, immutable"}
        return FileResponse(path, media_type="text/javascript", headers=PLAIN | kept)

    return [
        Route("/darts/runs/{name}/history", history, methods=["GET"]),
        Route("/darts/runs/{name}/stream", stream, methods=["GET"]),
        Route("/darts/plotly.js", plotly_js, methods=["GET"]),
    ]


def _message(kind: str, position: Position, data: bytes) -> bytes:
    return f"id: {position}\nevent: {kind}\ndata: ".encode() + data + b"\n\n"


def _json(value: Any) -> bytes:
    return json.dumps(value, allow_nan=False, separators=(",", ":")).encode()


def _at_most(text: str) -> int:
    if not re.fullmatch(r"\d{1,6}", text) or not 2 <= int(text) <= 100_000:
        raise BadInput("history", "max", "is no number of records", "give a whole number from 2 to 100000")
    return int(text)
