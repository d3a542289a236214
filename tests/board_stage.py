"""A stage for the board without Streamlit: a generated run, and a small server that speaks the board's protocol.

The run is made up from softmaxed random walks with a growing advantage for skip; it tests drawing and proves nothing
about searches.
"""

from __future__ import annotations

import base64
import json
import struct
import threading
import time
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import numpy as np
import plotly

from app.board import board_css, board_js, build_board_data
from darts_core import derive
from darts_core.runs import Layout
from darts_core.space import SearchSpace, space_named

METRICS = (
    "train_loss", "train_accuracy", "val_loss", "val_accuracy", "w_lr", "a_lr", "w_grad_norm", "a_grad_norm",
)  # fmt: skip
PER_EPOCH = 30
LIGHT = {
    "--st-text-color": "#1C1D26", "--st-background-color": "#FFFFFF", "--st-secondary-background-color": "#F3F3F8",
    "--st-border-color": "#C9CAD6", "--st-primary-color": "#5B45C9", "--st-base-radius": "0.5rem",
    "--st-font": '"Liberation Sans", Arial, sans-serif',
}  # fmt: skip
DARK = LIGHT | {
    "--st-text-color": "#F1F2F7", "--st-background-color": "#0E1117", "--st-secondary-background-color": "#1B1F2A",
    "--st-border-color": "#3A4152", "--st-primary-color": "#9D8CFF",
}  # fmt: skip


def softmax(alphas: np.ndarray) -> np.ndarray:
    powers = np.exp(alphas - alphas.max(-1, keepdims=True))
    return powers / powers.sum(-1, keepdims=True)


def made_up_steps(space: SearchSpace, count: int, skip: float = 3.0, seed: int = 3) -> np.ndarray:
    """Records of `count` steps; `skip` is what the logits of skip gain over the others in the end."""
    random = np.random.default_rng(seed)
    steps = np.zeros(count, Layout.of(METRICS, space).dtype)
    t = np.arange(count) / max(1, count - 1)
    steps["step"], steps["epoch"], steps["flags"] = np.arange(1, count + 1), np.arange(count) // PER_EPOCH, 1
    for kind, cell in space.cells.items():
        taste = random.normal(0, 1.2, cell.shape)
        advantage = np.array([op == "skip_connect" for op in cell.ops]) * (skip if kind == "normal" else 0.4)
        walk = random.normal(0, 0.01, (count, *cell.shape)).cumsum(0)
        alphas = t[:, None, None] * taste + (t**2)[:, None, None] * advantage + walk
        steps[f"alpha.{kind}"], steps[f"mix.{kind}"] = alphas, softmax(alphas.astype(np.float32))
    loss = 2.2 * np.exp(-3 * t) + 0.15
    noise = random.normal(0, 0.06, (4, count))
    losses = [loss + noise[0], loss + 0.25 * t + noise[2]]
    accuracies = [1 - loss / 2.6 + noise[1] / 2, 0.95 - loss / 2.6 + noise[3] / 2]
    steps["metrics"][:, [0, 2]] = np.clip(np.stack(losses, 1), 0.01, None)
    steps["metrics"][:, [1, 3]] = np.clip(np.stack(accuracies, 1), 0, 1)
    steps["metrics"][:, 4:] = [0.025, 3e-4, 1.0, 0.1]
    return sealed(steps)


def sealed(steps: np.ndarray) -> np.ndarray:
    """With the checksum of each record in place, as the writer puts it."""
    for i in range(len(steps)):
        raw = steps[i : i + 1].tobytes()
        steps["crc"][i] = zlib.crc32(raw[:-4])
    return steps


def made_up_events(space: SearchSpace, steps: np.ndarray, began: float) -> list[dict[str, Any]]:
    """Phases, one epoch event per `PER_EPOCH` steps with probes, and an alarm where the level gets worse."""
    told: list[dict[str, Any]] = []

    def tell(type: str, after: float, **fields: Any) -> None:
        told.append({"n": len(told), "time": began + after, "type": type, **fields})

    tell("phase", 0, name="process", message="darts search", total_steps=None)
    tell("phase", 0.4, name="torch", message="loading torch", total_steps=None)
    tell("phase", 3.1, name="data", message="digits: 1,797 images of 8 x 8", total_steps=None)
    tell("phase", 3.6, name="search", message="first-order DARTS", total_steps=int(steps["step"][-1]))
    levels = ["healthy", "drifting", "collapsed"]
    before = 0
    for last in range(PER_EPOCH - 1, len(steps), PER_EPOCH):
        mixes = {kind: steps[f"mix.{kind}"][last].astype(float) for kind in space.cells}
        now = derive.collapse(space, mixes)
        epoch, step = int(steps["epoch"][last]), int(steps["step"][last])
        probes = {"entropy": derive.entropy(space, mixes), "valid_rise": 0.01 * epoch}
        if epoch % 2:
            probes["eigenvalue"] = 0.1 + 0.03 * epoch
        said = {"derived_skips": now.derived_skips, "derived_edges": now.derived_edges,
                "mean_skip_weight": now.mean_skip_weight, "level": now.level}  # fmt: skip
        tell("epoch", 4 + epoch, epoch=epoch, step=step, metrics={"train_loss": 1.0}, probes=probes,
             genotype=derive.derive(space, mixes).to_json(), collapse=said, seconds=1.5)  # fmt: skip
        if levels.index(now.level) > before:
            before = levels.index(now.level)
            tell("alarm", 4 + epoch, step=step, epoch=epoch, level=now.level, reason="skips")
    return told


def made_up_ending(space: SearchSpace, steps: np.ndarray, began: float, first: int) -> list[dict[str, Any]]:
    """Result, trainings and the last line of a finished run."""
    mixes = {kind: steps[f"mix.{kind}"][-1].astype(float) for kind in space.cells}
    genotype = derive.derive(space, mixes).to_json()
    step = int(steps["step"][-1])
    lines: list[dict[str, Any]] = [
        {"type": "result", "step": step, "epoch": 9, "genotype": genotype, "metrics": {}, "stopped": False}
    ]
    accuracies = [("supernet", 0.861), ("pruned", 0.312), ("derived", 0.921), ("derived", 0.914), ("derived", 0.929),
                  ("random", 0.902), ("random", 0.917), ("random", 0.881), ("random", 0.925)]  # fmt: skip
    lines += [
        {"type": "trained", "role": role, "index": i, "seed": i, "genotype": None, "accuracy": accuracy,
         "test_accuracy": None, "parameters": 10_000, "seconds": 2.0, "epochs": 5, "metrics": {}}
        for i, (role, accuracy) in enumerate(accuracies)
    ]  # fmt: skip
    lines.append({"type": "finished", "state": "finished", "step": step, "summary": {}})
    return [{"n": first + i, "time": began + 60 + i, **line} for i, line in enumerate(lines)]


def applied(step: int, name: str, value: float, n: int) -> dict[str, Any]:
    return {"n": n, "time": time.time(), "type": "applied", "id": f"order{n}", "step": step, "kind": "set",
            "name": name, "value": value, "accepted": True, "reason": "", "epoch": 0}  # fmt: skip


class Stage:
    """What the server tells at the moment. Change it, and every open stream hears of it."""

    def __init__(self, space: SearchSpace, name: str = "laptop-001", total: int = 900, epochs: int = 30) -> None:
        self.space, self.name, self.total, self.epochs = space, name, total, epochs
        self.layout = Layout.of(METRICS, space)
        self.steps = np.zeros(0, self.layout.dtype)
        self.events: list[dict[str, Any]] = []
        self.state, self.message, self.rate, self.paused = "starting", "", 0.0, False
        self.refusal: tuple[int, str] | None = None  # what the routes answer instead, if anything
        self.cut = 0  # streams are broken off when this grows
        self.view: dict[str, Any] = {}
        self.rows = False
        self.theme = LIGHT
        self.shift = threading.Condition()

    @property
    def info(self) -> dict[str, Any]:
        return {"name": self.name, "title": self.name, "space": self.space.to_json(),
                "config": {"temperature": 1.0, "dataset": "digits", "space": self.space.name},
                "epochs": self.epochs, "layout": self.layout.to_json()}  # fmt: skip

    def change(self, **fields: Any) -> None:
        with self.shift:
            for name, value in fields.items():
                setattr(self, name, value)
            self.shift.notify_all()

    def add(self, steps: np.ndarray | None = None, events: list[dict[str, Any]] | None = None) -> None:
        with self.shift:
            if steps is not None:
                self.steps = np.concatenate([self.steps, steps])
            self.events += events or []
            self.shift.notify_all()

    def status(self) -> dict[str, Any]:
        step = int(self.steps["step"][-1]) if len(self.steps) else 0
        edited = any(event["type"] == "applied" for event in self.events)
        return {"state": self.state, "step": step, "total_steps": self.total, "message": self.message,
                "paused": self.paused, "edited": edited, "silent_s": 0.0, "rate": self.rate}  # fmt: skip

    def block(self, most: int = 5000) -> bytes:
        stride = max(1, -(-len(self.steps) // most))
        kept = self.steps[(len(self.steps) - 1) % stride :: stride] if len(self.steps) else self.steps
        head = {"layout": self.layout.to_json(), "record_bytes": self.layout.dtype.itemsize, "count": len(kept),
                "stride": stride, "total": len(self.steps), "events": self.events, "info": self.info,
                "position": f"{len(self.steps)},{len(self.events)}", "status": self.status()}  # fmt: skip
        text = json.dumps(head, allow_nan=False).encode()
        text += b" " * (-(4 + len(text)) % 4)
        return struct.pack("<I", len(text)) + text + kept.tobytes()

    def data(self) -> dict[str, Any]:
        rows = self.block() if self.rows else None
        return build_board_data(self.info, status=self.status(), view=self.view, rows=rows)

    def messages(self, after: str) -> Iterator[bytes]:
        records, offset = map(int, after.split(","))
        told, cut = None, self.cut
        while self.cut == cut:
            sent = []
            with self.shift:
                if records < len(self.steps):
                    sent.append(("steps", base64.b64encode(self.steps[records:].tobytes())))
                    records = len(self.steps)
                if offset < len(self.events):
                    sent.append(("events", json.dumps(self.events[offset:]).encode()))
                    offset = len(self.events)
                status = self.status()
                if status != told:
                    sent.append(("status", json.dumps(status).encode()))
                    told = status
                if self.state in ("finished", "stopped", "failed") and not sent:
                    sent.append(("end", b"{}"))
                if not sent:
                    self.shift.wait(0.5)
            for kind, data in sent:
                yield f"id: {records},{offset}\nevent: {kind}\ndata: ".encode() + data + b"\n\n"
                if kind == "end":
                    return
            yield b": here\n\n"

    def page(self) -> str:
        theme = ";".join(f"{name}:{value}" for name, value in self.theme.items())
        return f"""<!doctype html><html lang="en"><head><meta charset="utf-8"><title>board</title><style>
            body {{ margin: 0; {theme.replace('"', "'")}; background: var(--st-background-color); }}
            main {{ padding: 16px; }} {board_css()}</style></head>
            <body><main id="here"><h1 hidden>board</h1><div class="darts-board"></div></main><script type="module">
            import board from "/board.js";
            window.told = [];
            window.mount = async () => board({{ data: [await (await fetch("/data.json")).json()],
              parentElement: document.getElementById("here"), setStateValue: (k, v) => window.told.push([k, v]) }});
            window.unmount = await window.mount();
            </script></body></html>"""


def handler(stage: Stage) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:  # noqa: N802
            url = urlsplit(self.path)
            query = parse_qs(url.query)
            parts = url.path.strip("/").split("/")
            if parts[:2] == ["darts", "runs"] and stage.refusal:
                status, text = stage.refusal
                self.answer(text.encode(), "text/plain", status)
            elif parts[-1] == "history":
                self.answer(stage.block(int(query["max"][0])), "application/octet-stream")
            elif parts[-1] == "stream":
                self.stream(query["after"][0])
            elif url.path == "/darts/plotly.js":
                path = Path(plotly.__file__).parent / "package_data" / "plotly.min.js"
                self.answer(path.read_bytes(), "text/javascript", kept=True)
            elif url.path == "/board.js":
                self.answer(board_js().encode(), "text/javascript")
            elif url.path == "/data.json":
                self.answer(json.dumps(stage.data()).encode(), "application/json")
            elif url.path == "/":
                self.answer(stage.page().encode(), "text/html; charset=utf-8")
            else:
                self.answer(b"", "text/plain", 204)

        def answer(self, body: bytes, kind: str, status: int = 200, kept: bool = False) -> None:
            self.send_response(status)
            self.send_header("Content-Type", kind)
            self.send_header("Content-Length", str(len(body)))
            self.send_header("Cache-Control", "max-age=3600" if kept else "no-store")
            self.end_headers()
            self.wfile.write(body)

        def stream(self, after: str) -> None:
            self.send_response(200)
            self.send_header("Content-Type", "text/event-stream")
            self.end_headers()
            try:
                for message in stage.messages(after):
                    self.wfile.write(message)
            except (BrokenPipeError, ConnectionResetError):
                pass  # the page was closed

        def log_message(self, format: str, *args: Any) -> None:
            pass

    return Handler


@contextmanager
def served(stage: Stage) -> Iterator[str]:
    """The address of a server that plays `stage`."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler(stage))
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}/"
    finally:
        stage.change(cut=stage.cut + 1)
        server.shutdown()
        server.server_close()


def made_up_run(
    space: str = "darts", count: int = 600, finished: bool = False, skip: float = 3.0, **fields: Any
) -> Stage:
    """A stage with a run on it: one that is under way, or one that is finished."""
    stage = Stage(space_named(space), **fields)
    began = time.time() - 30
    steps = made_up_steps(stage.space, count, skip)
    events = made_up_events(stage.space, steps, began)
    if finished:
        events += made_up_ending(stage.space, steps, began, len(events))
    stage.total = count if finished else count + 300
    stage.add(steps, events)
    stage.change(state="finished" if finished else "running", rate=0.0 if finished else 18.2)
    return stage
