"""A dashboard started as people start it, for tests: `with serve(runs) as server: server.get("/")`."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import httpx

ROOT = Path(__file__).resolve().parent.parent
LINK = re.compile(r"http://127\.0\.0\.1:(\d+)/darts/enter\?token=(\S+)")


@dataclass
class Server:
    """One running dashboard on one folder of runs."""

    runs: Path
    arguments: tuple[str, ...] = ("--no-search",)
    port: int = 0
    token: str = ""
    printed: str = ""
    process: subprocess.Popen[str] | None = None
    environment: dict[str, str] = field(default_factory=dict)

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def link(self) -> str:
        return f"{self.address}/darts/enter?token={self.token}"

    def start(self, seconds: float = 60) -> Server:
        """Starts it (again on the same port, after the first time) and waits until the link is printed."""
        command = [sys.executable, "-m", "app.launch", "--no-browser", "--runs", str(self.runs)]
        return self._launch([*command, "--port", str(self.port or 18501), *self.arguments], seconds)

    @contextmanager
    def streamlit(self) -> Iterator[Server]:
        """The same, started with `streamlit run`."""
        self.environment["DARTS_RUNS"] = str(self.runs)
        command = [sys.executable, "-m", "streamlit", "run", str(ROOT / "app" / "main.py"), "--server.port", "18601"]
        try:
            yield self._launch(command, 60)
        finally:
            self.close()

    def _launch(self, command: list[str], seconds: float) -> Server:
        variables = {key: value for key, value in os.environ.items() if not key.startswith(("DARTS_", "STREAMLIT_"))}
        self.process = subprocess.Popen(
            command,
            cwd=ROOT,
            text=True,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            env=variables | self.environment,
        )
        assert self.process.stdout is not None
        deadline = time.monotonic() + seconds
        for line in self.process.stdout:
            self.printed += line
            found = LINK.search(line)
            if found:
                self.port, self.token = int(found[1]), found[2]
                self._wait(deadline)
                return self
        raise AssertionError(f"the dashboard ended with {self.process.wait()}:\n{self.printed}")

    def _wait(self, deadline: float) -> None:
        while time.monotonic() < deadline:
            try:
                httpx.get(self.address, timeout=2)
                return
            except httpx.TransportError:
                time.sleep(0.05)
        raise AssertionError("the dashboard printed its link and does not answer")

    @contextmanager
    def client(self) -> Iterator[httpx.Client]:
        """An HTTP client that has entered."""
        with httpx.Client(base_url=self.address, timeout=10) as client:
            assert client.get(f"/darts/enter?token={self.token}").status_code == 303
            yield client

    def kill(self) -> None:
        """kill -9."""
        assert self.process is not None
        self.process.kill()
        self.process.wait()
        self.close()

    def stop(self, seconds: float = 10) -> int:
        """Ctrl-C; returns the exit code."""
        assert self.process is not None
        self.process.send_signal(signal.SIGINT)
        try:
            return self.process.wait(seconds)
        finally:
            self.close()

    def close(self) -> None:
        assert self.process is not None
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait()
        if self.process.stdout and not self.process.stdout.closed:
            self.printed += self.process.stdout.read()
            self.process.stdout.close()


@contextmanager
def serve(runs: Path, *arguments: str, **environment: str) -> Iterator[Server]:
    server = Server(runs, arguments or ("--no-search",), environment=environment)
    try:
        yield server.start()
    finally:
        if server.process is not None:
            server.close()
