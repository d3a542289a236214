"""Lists of runs read little: what they cost grows with what is new, not with what is there.

Bytes and files are counted, never seconds: these tests say the same on any machine.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from io import FileIO
from pathlib import Path

import pytest
from streamlit.testing.v1 import AppTest

from darts_core import events, io, runs
from darts_core.config import PRESETS
from darts_core.runs import reading
from tests import fake_writer

ROOT = Path(__file__).resolve().parent.parent
MANY = 6


@pytest.fixture
def read(monkeypatch: pytest.MonkeyPatch) -> Counter[str]:
    """Bytes read from now on, by name of file; and under "opened" how many files were opened."""
    counted: Counter[str] = Counter()
    names: dict[int, str] = {}
    plain_read, plain_open = io.read_at, io.opened

    def read_at(file: FileIO, offset: int, count: int) -> bytes:
        data = plain_read(file, offset, count)
        counted[names[file.fileno()]] += len(data)
        return data

    def opened(path: str | Path) -> FileIO:
        file = plain_open(path)
        counted["opened"] += 1
        names[file.fileno()] = Path(path).name
        return file

    monkeypatch.setattr(io, "read_at", read_at)
    monkeypatch.setattr(io, "opened", opened)
    return counted


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    monkeypatch.setenv("DARTS_RUNS", str(tmp_path / "runs"))
    for number in range(MANY):
        fake_writer.write(tmp_path / "runs", f"run-{number}", steps=120, rate=0, seed=number)
    yield tmp_path / "runs"
    for key in [key for key in reading._READERS if key[0].startswith(str(tmp_path))]:
        del reading._READERS[key]


def test_a_second_list_reads_no_record_and_no_line(folder: Path, read: Counter[str]) -> None:
    first = runs.list_runs(folder)
    assert read["events.jsonl"] and read["steps.bin"], "the counter counts"
    read.clear()
    assert runs.list_runs(folder) == first
    assert not read["steps.bin"] and not read["events.jsonl"] and not read["run.json"]
    assert read["opened"] <= 2 * MANY, "a look at each lock, and the words in it"


def test_the_first_list_does_not_read_more_of_longer_searches(tmp_path: Path, read: Counter[str]) -> None:
    """Of `steps.bin` the header and one record, however many there are."""
    read_of = {}
    for steps in (30, 3000):
        fake_writer.write(tmp_path / f"{steps}", "run", steps=steps, rate=0)
        read.clear()
        assert runs.list_runs(tmp_path / f"{steps}")[0].step == steps
        read_of[steps] = read["steps.bin"]
    assert read_of[30] == read_of[3000] < 10_000


def test_only_the_run_that_went_on_is_read_and_only_what_is_new(folder: Path, read: Counter[str]) -> None:
    space = PRESETS["collapse"].config().search_space()
    with runs.RunWriter.create(folder, "moving", fake_writer.info("moving", 200)) as writer:
        for number in range(1, 41):
            writer.append(fake_writer.step_of(number, 200, space, {"w_lr": 0.05, "a_lr": 0.1}))
        writer.append(events.Phase("search", "searching " * 50, 200))
        runs.list_runs(folder)
        before = (folder / "moving" / "events.jsonl").stat().st_size
        writer.append(fake_writer.step_of(41, 200, space, {"w_lr": 0.05, "a_lr": 0.1}))
        writer.append(events.Phase("search", "on", 200))
        read.clear()
        found = {run.name: run for run in runs.list_runs(folder)}
        assert (found["moving"].step, found["moving"].message) == (41, "on")
        assert read["events.jsonl"] == (folder / "moving" / "events.jsonl").stat().st_size - before
        assert read["steps.bin"] == runs.RunReader(folder, "moving").record_bytes


def test_lines_that_are_only_glanced_at_tell_the_same_story(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("run-0", "run-1"):
        with runs.RunWriter.open(folder, name) as writer:
            writer.append(events.Alarm(120, 2, "collapsed", 'said {"type":"finished"} and "n":3,"time":1'))
    glanced = {name: runs.RunReader(folder, name).story() for name in ("run-0", "run-1", "run-2")}
    monkeypatch.setattr(reading, "TELLING", frozenset(events.TYPES))
    closely = {name: runs.RunReader(folder, name).story() for name in glanced}
    assert glanced == closely
    assert glanced["run-0"].ending == "" and glanced["run-2"].ending == "finished"


@pytest.mark.parametrize("wrong", [b"\x00" * 40, b'{"type":"epoch",', b'{"type":"epoch","n":99,"time":1.0}'])
def test_damage_in_a_line_that_is_only_glanced_at_is_found(folder: Path, wrong: bytes) -> None:
    path = folder / "run-3" / "events.jsonl"
    lines = path.read_bytes().splitlines(keepends=True)
    assert lines[1].startswith(b'{"type":"epoch"')
    lines[1] = wrong + b"\n"
    path.write_bytes(b"".join(lines))
    assert {run.name: run.state for run in runs.list_runs(folder)}["run-3"] == "corrupt"


def test_the_second_visit_of_the_table_reads_no_record(folder: Path, read: Counter[str]) -> None:
    def visit() -> None:
        test = AppTest.from_file(str(ROOT / "app" / "dashboard.py"), default_timeout=60)
        test.switch_page("app_pages/runs.py")
        test.run()
        assert not test.exception

    visit()
    read.clear()
    visit()
    assert not read["steps.bin"] and not read["events.jsonl"] and not read["run.json"]
