"""The started dashboard: who gets in, and what the run routes send. Real processes, real sockets, no browser."""

from __future__ import annotations

import base64
import json
import os
import re
import socket
import struct
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import closing
from itertools import islice
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import psutil
import pytest
from websockets.exceptions import InvalidStatus
from websockets.sync.client import connect

from darts_core.runs import Layout, RunReader
from tests import fake_writer
from tests.served import ROOT, Server, serve


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    runs = tmp_path_factory.mktemp("served") / "runs"
    fake_writer.write(runs, "secret-run", steps=200, rate=0)
    with serve(runs) as running:
        yield running


@pytest.fixture
def client(server: Server) -> Iterator[httpx.Client]:
    with server.client() as entered:
        yield entered


def block(answer: httpx.Response) -> tuple[dict[str, Any], np.ndarray]:
    """A history block, taken apart as the board does it."""
    assert answer.status_code == 200
    (length,) = struct.unpack_from("<I", answer.content)
    head = json.loads(answer.content[4 : 4 + length])
    assert (4 + length) % 4 == 0
    dtype = Layout.from_json(head["layout"], "history").dtype
    assert dtype.itemsize == head["record_bytes"]
    rows = np.frombuffer(answer.content[4 + length :], dtype)
    assert len(rows) == head["count"]
    return head, rows


def told(
    client: httpx.Client, path: str, last_event_id: str = "", until: str = "end"
) -> Iterator[tuple[str, str, bytes]]:
    """(position, kind, data) of each server-sent event, up to one of kind `until`."""
    headers = {"Last-Event-ID": last_event_id} if last_event_id else {}
    with client.stream("GET", path, headers=headers) as answer:
        assert answer.status_code == 200
        assert answer.headers["content-type"].startswith("text/event-stream")
        position, kind = "", ""
        for line in answer.iter_lines():
            name, _, value = line.partition(": ")
            if name == "id":
                position = value
            elif name == "event":
                kind = value
            elif name == "data":
                yield position, kind, value.encode()
                if kind == until:
                    return


def steps_in(data: bytes, dtype: np.dtype) -> list[int]:
    return np.frombuffer(base64.b64decode(data), dtype)["step"].tolist()


# Who gets in


def test_only_loopback_listens(server: Server) -> None:
    assert server.process is not None
    listening = [
        c.laddr for c in psutil.Process(server.process.pid).net_connections() if c.status == psutil.CONN_LISTEN
    ]
    assert [tuple(address) for address in listening] == [("127.0.0.1", server.port)]


def test_the_token_is_in_no_command_line_and_no_log_but_the_link(server: Server) -> None:
    assert server.process is not None
    assert server.token not in " ".join(psutil.Process(server.process.pid).cmdline())
    assert len(re.findall(re.escape(server.token), server.printed)) == 1


@pytest.mark.parametrize(
    "path",
    [
        "/",
        "/?run=secret-run",
        "/runs",
        "/index.html",
        "/static/js/index.js",
        "/_stcore/health",
        "/_stcore/host-config",
        "/_stcore/metrics",
        "/media/x",
        "/component/x/y",
        "/darts/plotly.js",
        "/darts/runs/secret-run/history",
        "/darts/runs/secret-run/stream",
    ],
)
def test_without_the_token_every_path_is_the_same_refusal(server: Server, path: str) -> None:
    for cookies in ({}, {f"darts-{server.port}": "0" * 64}):
        with httpx.Client(base_url=server.address, cookies=cookies) as stranger:
            answer = stranger.get(path)
        assert answer.status_code == 403
        assert "secret" not in answer.text and "printed" in answer.text


@pytest.mark.parametrize(
    "headers", [{"host": "evil.example"}, {"origin": "http://evil.example"}, {"origin": "http://localhost:1"}]
)
@pytest.mark.parametrize("path", ["/", "/darts/runs/secret-run/history", "/darts/runs/secret-run/stream"])
def test_a_foreign_host_or_origin_is_refused_with_the_cookie_too(
    client: httpx.Client, path: str, headers: dict[str, str]
) -> None:
    answer = client.get(path, headers=headers)
    assert 400 <= answer.status_code < 500 and "secret" not in answer.text


def opens(server: Server, cookie: str = "", **more: Any) -> int:
    """The status of the handshake with Streamlit's own WebSocket; 101 when it opens."""
    headers = {"Cookie": cookie} if cookie else {}
    try:
        with connect(f"ws://127.0.0.1:{server.port}/_stcore/stream", additional_headers=headers, **more):
            return 101
    except InvalidStatus as refusal:
        return refusal.response.status_code


def test_the_websocket_is_behind_the_gate(server: Server, client: httpx.Client) -> None:
    cookie = "; ".join(f"{name}={value}" for name, value in client.cookies.items())
    assert opens(server) == 403
    assert opens(server, f"darts-{server.port}=wrong") == 403
    assert opens(server, cookie, origin="http://evil.example") == 403
    assert opens(server, cookie, origin=server.address) == 101


@pytest.mark.parametrize(
    "path",
    [
        "/darts/runs/..%2fsecret-run/history",
        "/darts/runs/..%2f..%2fetc/stream",
        "/..%2f..%2fetc/passwd",
        "/%2e%2e/x",
        "/a%5cb",
    ],
)
def test_a_path_that_leads_elsewhere_is_refused(client: httpx.Client, path: str) -> None:
    assert 400 <= client.get(path).status_code < 500


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "PATCH"])
def test_the_run_routes_only_read(client: httpx.Client, method: str) -> None:
    assert client.request(method, "/darts/runs/secret-run/history").status_code == 405


def test_every_answer_forbids_frames(client: httpx.Client) -> None:
    for path in ("/", "/darts/plotly.js", "/darts/runs/secret-run/history", "/darts/runs/none/history"):
        headers = client.get(path).headers
        assert headers["x-frame-options"] == "DENY" and "frame-ancestors 'none'" in headers["content-security-policy"]


def test_plotly_is_the_installed_one_and_may_be_kept(client: httpx.Client) -> None:
    answer = client.get("/darts/plotly.js")
    assert answer.status_code == 200 and "plotly.js v" in answer.text[:200]
    assert "immutable" in answer.headers["cache-control"]


def test_without_pages_for_agents_or_metrics_nothing_more_is_served(client: httpx.Client) -> None:
    assert client.get("/_stcore/agent").status_code in (
        200,
        404,
    )  # 200: the page itself, which answers unknown addresses
    assert "secret-run" not in client.get("/_stcore/agent").text


# What the routes send


def test_history_holds_every_record_of_a_short_run(server: Server, client: httpx.Client) -> None:
    head, rows = block(client.get("/darts/runs/secret-run/history"))
    reader = RunReader(server.runs, "secret-run")
    assert head["total"] == 200 and rows["step"].tolist() == list(range(1, 201))
    assert rows.tobytes() == reader.raw_steps()
    assert head["events"] == reader.events()[0]
    assert head["status"]["state"] == "finished" and head["info"]["name"] == "secret-run"


@pytest.mark.parametrize("most", [2, 3, 7, 50, 150, 199, 200])
def test_thinned_history_ends_with_the_last_record(client: httpx.Client, most: int) -> None:
    head, rows = block(client.get("/darts/runs/secret-run/history", params={"max": most}))
    assert head["count"] <= most and rows["step"][-1] == 200
    assert set(np.diff(rows["step"]).tolist()) <= {head["stride"]}


@pytest.mark.parametrize("most", ["", "0", "1", "-5", "x", "1e3", "999999999"])
def test_a_strange_number_of_records_is_refused(client: httpx.Client, most: str) -> None:
    assert client.get("/darts/runs/secret-run/history", params={"max": most}).status_code == 404


def test_a_complete_run_is_told_whole_and_ends(server: Server, client: httpx.Client) -> None:
    reader = RunReader(server.runs, "secret-run")
    steps, events, kinds = [], [], []
    for _, kind, data in told(client, "/darts/runs/secret-run/stream?after=0,0"):
        kinds.append(kind)
        if kind == "steps":
            steps += steps_in(data, reader.layout.dtype)
        if kind == "events":
            events += json.loads(data)
    assert steps == list(range(1, 201)) and events == reader.events()[0]
    assert kinds[-1] == "end" and "status" in kinds


def test_a_reconnect_goes_on_without_gaps_or_doubles(server: Server, client: httpx.Client) -> None:
    """A search at 50 steps/s, its stream dropped again and again."""
    name = "dropped"
    command = [sys.executable, "-m", "tests.fake_writer", str(server.runs), name, "--steps", "80", "--rate", "40"]
    with subprocess.Popen(command, cwd=ROOT) as writer:
        while not (server.runs / name / "run.json").exists():
            assert writer.poll() is None
            time.sleep(0.02)
        dtype = RunReader(server.runs, name).layout.dtype
        head, rows = block(client.get(f"/darts/runs/{name}/history"))
        steps, lines = rows["step"].tolist(), len(head["events"])
        position, kind, reconnects = head["position"], "", -1
        while kind != "end":
            reconnects += 1
            path = f"/darts/runs/{name}/stream?after={head['position']}"
            heard = list(islice(told(client, path, position), 5))
            for _, kind, data in heard:
                if kind == "steps":
                    steps += steps_in(data, dtype)
                if kind == "events":
                    lines += len(json.loads(data))
            position = heard[-1][0]
    assert steps == list(range(1, 81)) and reconnects > 2
    assert lines == len(RunReader(server.runs, name).events()[0])


def test_steps_arrive_while_they_are_made(server: Server, client: httpx.Client) -> None:
    """Data age: a step is on its way to the board within half a second, at 20 steps/s."""
    name = "fresh"
    command = [sys.executable, "-m", "tests.fake_writer", str(server.runs), name, "--steps", "40", "--rate", "20"]
    ages = []
    with subprocess.Popen(command, cwd=ROOT) as writer:
        while not (server.runs / name / "run.json").exists():
            assert writer.poll() is None
            time.sleep(0.02)
        for _, kind, _ in told(client, f"/darts/runs/{name}/stream?after=0,0"):
            if kind == "steps":
                ages.append(time.time() - os.stat(server.runs / name / "steps.bin").st_mtime)
    assert len(ages) > 10 and sorted(ages)[len(ages) * 9 // 10] < 0.5


@pytest.mark.parametrize("after", ["x", "1", "1,2,3,4", "-1,0", "1e3,0", "0,0\n", "9" * 40 + ",0"])
def test_a_strange_position_is_refused(client: httpx.Client, after: str) -> None:
    assert client.get("/darts/runs/secret-run/stream", params={"after": after}).status_code == 404


def test_a_position_beyond_the_end_starts_the_viewer_again(client: httpx.Client) -> None:
    messages = list(told(client, "/darts/runs/secret-run/stream?after=5000,0", until="reset"))
    assert messages[-1][:2] == ("0,0", "reset")


@pytest.mark.parametrize("name", ["none", "UPPER", "con", "a" * 65, "a.b", "%00"])
def test_a_run_that_is_none_is_one_sentence(client: httpx.Client, name: str) -> None:
    answer = client.get(f"/darts/runs/{name}/history")
    assert 400 <= answer.status_code < 500 and answer.text.count("\n") == 1


def test_damage_is_one_sentence_and_no_traceback(server: Server, client: httpx.Client) -> None:
    for name, file, data in (("bad-json", "run.json", b"{"), ("bad-header", "steps.bin", b"x" * 5000)):
        fake_writer.write(server.runs, name, steps=3, rate=0)
        (server.runs / name / file).write_bytes(data)
        for route in ("history", "stream"):
            answer = client.get(f"/darts/runs/{name}/{route}")
            assert "Traceback" not in answer.text and answer.status_code < 500
    assert "Traceback" not in client.get("/darts/runs/bad-json/history").text


# Coming and going


def test_a_busy_port_gives_the_next_one(tmp_path: Path) -> None:
    with closing(socket.socket()) as busy:
        busy.bind(("127.0.0.1", 0))
        busy.listen()
        taken = busy.getsockname()[1]
        with serve(tmp_path / "runs", "--no-search", "--port", str(taken)) as running:
            assert running.port > taken


def test_ctrl_c_ends_it_though_a_stream_is_open_and_a_restart_keeps_the_cookie(tmp_path: Path) -> None:
    runs = tmp_path / "runs"
    fake_writer.write(runs, "half", steps=50, rate=0, fail_at=10)
    (runs / "half" / "events.jsonl").write_bytes(b"")  # no ending: interrupted, so its stream stays open
    with serve(runs) as running, running.client() as client:
        with client.stream("GET", "/darts/runs/half/stream?after=0,0") as answer:
            lines = answer.iter_lines()
            next(lines)
            began = time.monotonic()
            assert running.stop(10) == 0
            assert time.monotonic() - began < 5
        assert "Traceback" not in running.printed
        running.start()
        assert client.get("/").status_code == 200, "the page that was open before is let in again"


def test_streamlit_run_works_and_prints_the_link(tmp_path: Path) -> None:
    with Server(tmp_path / "runs").streamlit() as running, running.client() as client:
        assert client.get("/").status_code == 200
        assert httpx.get(running.address).status_code == 403


def test_streamlit_run_refuses_a_public_address_in_one_sentence(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "streamlit", "run", str(ROOT / "app" / "main.py"), "--server.port", "18650"]
    variables = {key: value for key, value in os.environ.items() if not key.startswith("DARTS_TOKEN")}
    variables |= {"DARTS_RUNS": str(tmp_path)}
    public = subprocess.run(
        [*command, "--server.address", "0.0.0.0"], cwd=ROOT, env=variables, capture_output=True, text=True, timeout=60
    )
    assert public.returncode != 0
    assert "can be reached from other machines" in public.stderr and "Traceback" not in public.stderr
