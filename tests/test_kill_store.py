"""A writer may die at any moment, and the machine with it: what it acknowledged is there, and the run goes on exactly.

A kill proves what survives the death of a process: the system still holds what was written. A power cut is simulated:
each file keeps what it had at its last sync, and then perhaps some garbage.
"""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from darts_core import io
from darts_core.runs import RunReader, RunWriter
from tests import stored
from tests.stored import info, outcome, resume, start

TOTAL, PER_EPOCH = 6000, 300


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory: pytest.TempPathFactory) -> Any:
    root = tmp_path_factory.mktemp("uninterrupted")
    start(root, "a", TOTAL, per_epoch=PER_EPOCH)
    return outcome(root, "a")


def killed_after(root: Path, name: str, seconds: float) -> int:
    """Runs or resumes the toy search in a process of its own, kills it, and says which step it acknowledged last."""
    command = [sys.executable, "-m", "tests.stored", str(root), name, str(TOTAL), str(PER_EPOCH)]
    clone = Path(__file__).parent.parent
    with subprocess.Popen(command, cwd=clone, stdout=subprocess.PIPE, stderr=subprocess.PIPE, bufsize=0) as process:
        assert process.stdout is not None and process.stderr is not None
        said = bytearray()
        os.set_blocking(process.stdout.fileno(), False)
        until = None
        while process.poll() is None and (until is None or time.monotonic() < until):
            said += process.stdout.read(1 << 16) or b""
            if until is None and said:
                until = time.monotonic() + seconds  # from its first step on
            time.sleep(0.001)
        process.send_signal(signal.SIGKILL)
        process.wait()
        os.set_blocking(process.stdout.fileno(), True)
        said += process.stdout.read()
        assert process.stderr.read() == b""
    whole = said[: said.rfind(b"\n")].split(b"\n")
    return int(whole[-1]) if said else 0


def kill_many(root: Path, kills: int, uninterrupted: Any, luck: random.Random) -> None:
    """Every acknowledged step is there after each kill; every run that reaches its end equals one never killed."""
    runs, ended = 0, 0
    for _ in range(kills):
        name = f"run-{runs}"
        acknowledged = killed_after(root, name, luck.uniform(0, 0.3))
        reader = RunReader(root, name)
        assert reader.step_count() >= acknowledged
        assert len(reader.steps(max(0, acknowledged - 300))) >= min(acknowledged, 300)
        assert reader.status().state in ("interrupted", "finished")
        if reader.status().state == "finished":
            assert outcome(root, name) == uninterrupted
            runs, ended = runs + 1, ended + 1
    name = f"run-{runs}"
    if (root / name).exists():
        writer = resume(root, name, TOTAL, per_epoch=PER_EPOCH)
        assert writer.identical is not False
        assert outcome(root, name) == uninterrupted
        lines, _ = RunReader(root, name).events()
        assert all(line["identical"] is not False for line in lines if line["type"] == "resumed")
    else:
        assert ended


def test_ten_kills_lose_no_acknowledged_step_and_change_no_bit(tmp_path: Path, uninterrupted: Any) -> None:
    kill_many(tmp_path, 10, uninterrupted, random.Random(1))


@pytest.mark.slow
def test_twenty_more_kills_lose_nothing_either(tmp_path: Path, uninterrupted: Any) -> None:
    kill_many(tmp_path, 20, uninterrupted, random.Random(2))


# Named points -----------------------------------------------------------------------------------------------


class Killed(BaseException):
    """As if the process had died there."""


@pytest.fixture(scope="module")
def short(tmp_path_factory: pytest.TempPathFactory) -> Any:
    root = tmp_path_factory.mktemp("short")
    start(root, "a", 10)
    return outcome(root, "a")


def dying(real: Callable[..., Any], nth: int, after: bool) -> Callable[..., Any]:
    """`real`, but at its n-th call the process dies before or after it has done its work."""
    calls = [0]

    def call(*given: Any, **more: Any) -> Any:
        calls[0] += 1
        if calls[0] == nth and not after:
            raise Killed
        result = real(*given, **more)
        if calls[0] == nth:
            raise Killed
        return result

    return call


@pytest.mark.parametrize("after", [False, True], ids=["before", "after"])
@pytest.mark.parametrize("call", ["write", "fsync", "replace", "rename", "open"])
def test_a_death_at_any_write_sync_or_rename_can_be_resumed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, short: Any, call: str, after: bool
) -> None:
    """In a new run, at every single call; the second life dies at the same call of its own."""
    monkeypatch.setattr(os, "fsync", lambda fd: None)
    monkeypatch.setattr(io.Appender, "close", lambda self: None)  # the dead tidy nothing up
    nth = 0
    died = True
    while died:
        nth += 1
        root, died = tmp_path / f"{nth}", False
        for _ in range(2):
            with monkeypatch.context() as patch:
                patch.setattr(os, call, dying(getattr(os, call), nth, after))
                try:
                    there = (root / "a").exists()
                    with RunWriter.open(root, "a") if there else RunWriter.create(root, "a", info()) as writer:
                        if writer.reader.status().state != "finished" and not writer.reader.story().ending:
                            stored.drive(writer, 10)
                except Killed:
                    died = True
        if not (root / "a").exists():
            start(root, "a", 10)
        elif RunReader(root, "a").status().state != "finished":
            resume(root, "a", 10)
        assert outcome(root, "a") == short, nth
        assert not [name for name in os.listdir(root / "a") if name.endswith(".tmp")]
    assert nth > 1


# Power cuts -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("until", [3, 5, 8, 9])
@pytest.mark.parametrize("garbage", [b"", b"\0" * 500, b"\xa5" * 37, b"\n{\n"], ids=["cut", "zeros", "junk", "braces"])
def test_a_power_cut_takes_nothing_that_a_checkpoint_stands_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, short: Any, until: int, garbage: bytes
) -> None:
    synced: dict[str, int] = {}

    def sync(fd: int) -> None:
        path = os.readlink(f"/proc/self/fd/{fd}")
        if os.path.isfile(path):
            synced[Path(path).name] = os.fstat(fd).st_size

    if not os.path.isdir("/proc/self/fd"):
        pytest.skip("this test reads /proc to know which file was synced")
    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", sync)
        with RunWriter.create(tmp_path, "a", info()) as writer:
            stored.drive(writer, 10, until=until)
            cut = dict(synced)  # closing syncs, a power cut does not
    for name in ("steps.bin", "events.jsonl"):
        path = tmp_path / "a" / name
        size = cut.get(name, len(stored.LAYOUT.header()) if name == "steps.bin" else 0)
        path.write_bytes(path.read_bytes()[:size] + garbage)
    assert RunReader(tmp_path, "a").status().state == "interrupted"
    writer = resume(tmp_path, "a", 10)
    assert writer.identical is not False
    assert outcome(tmp_path, "a") == short


def test_a_hole_in_the_last_second_is_computed_again_and_one_before_a_checkpoint_is_named(tmp_path: Path) -> None:
    """A power cut may lose a page in the middle of what was not synced yet."""
    start(tmp_path, "a", 10, until=7)
    path = tmp_path / "a" / "steps.bin"
    whole = path.read_bytes()
    size, header = stored.RECORD, len(stored.LAYOUT.header())

    def hole(step: int) -> bytes:
        place = header + (step - 1) * size
        return whole[:place] + b"\0" * size + whole[place + size :]

    path.write_bytes(hole(6))
    with RunWriter.open(tmp_path, "a") as writer:
        assert writer.step == 5
    path.write_bytes(hole(3))
    before = path.read_bytes()
    with pytest.raises(io.BadInput, match="the record of step 3 is damaged, and whole ones follow it; branch"):
        RunWriter.open(tmp_path, "a")
    assert path.read_bytes() == before
    assert list(RunReader(tmp_path, "a").steps()["step"]) == [1, 2]
