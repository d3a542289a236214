"""Searches as processes of their own: started detached, so that they outlive the page, the server and the terminal.

Nothing here imports torch. A start is known by its run name from the first moment; what becomes of it is read from
the run folder, and only before that folder exists from the process itself.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import IO, Any

from darts_core import runs
from darts_core.config import spare_cores
from darts_core.derive import PERTURBATION
from darts_core.errors import BadInput

NICE = 5  # so that the page stays smooth while a search takes the cores


class Launch:
    """A command that was started for a run, and what it printed so far."""

    def __init__(self, name: str, command: Sequence[str], process: subprocess.Popen[Any], output: IO[bytes]) -> None:
        self.name, self.command, self.process = name, tuple(command), process
        self.began = time.monotonic()
        self._output = output
        self._guard = threading.Lock()
        self._last_words = ""
        threading.Thread(target=self._reap, daemon=True).start()

    @property
    def seconds(self) -> float:
        """Seconds since the start."""
        return time.monotonic() - self.began

    def printed(self, size: int = 20_000) -> str:
        """The end of its output, at most `size` bytes of it."""
        with self._guard:
            if self._output.closed:
                return self._last_words[-size:]
            length = os.fstat(self._output.fileno()).st_size
            return _read_at(self._output, max(0, length - size), size).decode("utf-8", "replace")

    def refusal(self) -> str | None:
        """Why it ended without doing its work, as its last line says; None while it runs or when it went well."""
        if not self.process.poll():
            return None
        lines = [line.strip() for line in self.printed().splitlines() if line.strip()]
        return lines[-1][:500] if lines else f"the process ended with code {self.process.returncode} and no word"

    def _reap(self) -> None:
        """Waits for the end, so that no zombie looks alive, and lets the output go."""
        self.process.wait()
        words = self.printed()
        with self._guard:
            self._last_words = words
            self._output.close()


_launches: dict[str, Launch] = {}
_trials: dict[tuple[str, int], Launch] = {}  # (run, epoch) -> its derivation by perturbation
_guard = threading.Lock()


def start(config: Mapping[str, Any], root: Path, name: str | None = None) -> Launch:
    """Starts a search with this configuration as a detached process; returns at once.

    The number of threads is one less than the cores unless the configuration says it. Raises BadInput when the name
    is no run name or taken, or the process cannot be started.
    """
    chosen = dict(config)
    threads = int(chosen.get("threads") or spare_cores())
    chosen["threads"] = threads
    stem = f"{chosen.get('dataset', 'search')}-{chosen.get('strategy', 'darts')}"
    with _guard:
        run = name or free_name(root, stem)
        command = ("search", "--config-json", "-", "--name", run, "--runs", str(root))
        return _launch(run, command, threads, json.dumps(chosen, allow_nan=False))


def resume(name: str, root: Path) -> Launch:
    """Continues an interrupted or failed run from its last good checkpoint."""
    reader = runs.RunReader(root, name)
    threads = int(reader.info.get("threads") or spare_cores())  # bit-identical only with the same number
    with _guard:
        return _launch(name, ("resume", name, "--runs", str(root)), threads)


def branch(
    name: str,
    root: Path,
    epoch: int,
    changes: Mapping[str, Any],
    orders: Sequence[tuple[str, str, str]] = (),
    fresh: bool = False,
) -> Launch:
    """Starts a new run from the checkpoint of an epoch of `name` (`fresh`: from its settings alone), some of them
    changed.

    orders: (pin or ban, edge, operation) each, given at its first step.
    """
    with _guard:
        run = free_name(root, f"{name}-e{epoch}"[:58])
        texts = {key: value if isinstance(value, str) else json.dumps(value) for key, value in changes.items()}
        settings = [part for key, text in texts.items() for part in ("--set", f"{key}={text}")]
        edges = [part for kind, edge, op in orders for part in (f"--{kind}", f"{edge}={op}")]
        command = ("branch", name, "--epoch", str(epoch), "--name", run, "--runs", str(root), *settings, *edges)
        command += ("--weights", "fresh") if fresh else ()
        return _launch(run, command, spare_cores())


def launched(name: str) -> Launch | None:
    """The start of this run, if it happened in this server process."""
    return _launches.get(name)


def calibrate(config: Mapping[str, Any]) -> Launch:
    """Times a few steps of a search with this configuration in a process of its own, which prints what it found."""
    threads = int(config.get("threads") or spare_cores())
    return _spawn("calibration", ("cost", "--config-json", "-", "--json"), threads, json.dumps(dict(config)))


def try_out(name: str, root: Path, epoch: int) -> Launch:
    """Starts the derivation by perturbation at a checkpoint of `name`; one at a time for each."""
    with _guard:
        now = _trials.get((name, epoch))
        if now is None or now.process.poll() is not None:
            command = ("derive", name, "--rule", PERTURBATION, "--epoch", str(epoch), "--runs", str(root))
            now = _trials[name, epoch] = _spawn(name, command, spare_cores())
        return now


def trying_out(name: str, epoch: int) -> Launch | None:
    """That derivation, if it was started in this server process."""
    return _trials.get((name, epoch))


def pending(root: Path) -> str | None:
    """The name of the last run that this process started, while its folder is not there (yet)."""
    name = next(reversed(_launches), None)
    return name if name and not (root / name / "run.json").is_file() else None


def free_name(root: Path, stem: str) -> str:
    """The next free run name for this stem, counting starts whose folder is not there yet."""
    name = runs.free_name(root, stem)
    stem, _, number = name.rpartition("-")
    count = int(number)
    while f"{stem}-{count:03d}" in _launches and not (root / f"{stem}-{count:03d}").exists():
        count += 1
    return f"{stem}-{count:03d}"


def _launch(name: str, arguments: Sequence[str], threads: int, stdin: str = "") -> Launch:
    _launches[name] = _spawn(name, arguments, threads, stdin)
    return _launches[name]


def _spawn(name: str, arguments: Sequence[str], threads: int, stdin: str = "") -> Launch:
    command = (sys.executable, "-m", "darts_core", *arguments)
    environment = {key: value for key, value in os.environ.items() if not key.startswith(("DARTS_TOKEN", "STREAMLIT_"))}
    environment |= {"OMP_NUM_THREADS": str(threads), "MKL_NUM_THREADS": str(threads), "PYTHONUNBUFFERED": "1"}
    output = tempfile.TemporaryFile()  # noqa: SIM115  nameless; lives as long as the process, even without this server
    options: dict[str, Any] = {"start_new_session": True}
    if os.name == "nt":
        flags = ("DETACHED_PROCESS", "CREATE_NEW_PROCESS_GROUP", "BELOW_NORMAL_PRIORITY_CLASS")
        options = {"creationflags": sum(getattr(subprocess, flag) for flag in flags)}
    try:
        process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=output, stderr=subprocess.STDOUT, env=environment, **options
        )
    except OSError as problem:
        output.close()
        raise BadInput(
            "start", name, f"the search process did not start ({problem.strerror})", "try again"
        ) from problem
    if os.name != "nt":
        be_nice(process.pid)
    _hand_over(process, stdin)
    return Launch(name, command, process, output)


def be_nice(pid: int) -> None:
    """Lets other work of this machine go first.

    Where Linux groups processes by session (autogroup), the nice value of a process counts within its session alone,
    and a search has one of its own; the value of the session counts then.
    """
    with suppress(OSError):  # gone already, or not allowed: it only runs less politely
        os.setpriority(os.PRIO_PROCESS, pid, NICE)
    with suppress(OSError):  # no such thing on this system
        Path(f"/proc/{pid}/autogroup").write_text(str(NICE))


def _hand_over(process: subprocess.Popen[Any], text: str) -> None:
    assert process.stdin is not None
    try:
        process.stdin.write(text.encode())
        process.stdin.close()
    except OSError:
        return  # it ended before reading; its output says why


def _read_at(file: IO[bytes], position: int, size: int) -> bytes:
    if hasattr(os, "pread"):
        return os.pread(file.fileno(), size, position)  # the child shares the file's position: never move it
    return Path(file.name).read_bytes()[position : position + size]
