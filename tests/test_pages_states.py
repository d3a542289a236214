"""Every page with every state of a run, as scripts without a browser: a sentence where something is wrong."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from streamlit.testing.v1 import AppTest

from app import notes, process, stream
from app.notebooks import notebooks
from darts_core import events, runs
from darts_core.config import PRESETS
from darts_core.errors import BadInput
from tests import fake_writer

ROOT = Path(__file__).resolve().parent.parent
SAMPLES = ROOT / "data" / "samples"
PAGES = sorted(path.stem for path in (ROOT / "app" / "app_pages").glob("*.py") if path.stem != "__init__")
TRICKY = "<script>alert(1)</script> **bold** ![x](http://evil.example/x.png) [l](javascript:x) $x$ :red[r] `c`"


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("DARTS_RUNS", str(tmp_path / "runs"))
    monkeypatch.setattr(stream, "SAMPLES", tmp_path / "none")
    monkeypatch.setattr(process, "_launches", {})
    return tmp_path / "runs"


def page(name: str, **query: str) -> AppTest:
    """A page after one run of its script."""
    test = AppTest.from_file(str(ROOT / "app" / "dashboard.py"), default_timeout=60)
    test.switch_page(f"app_pages/{name}.py")
    for key, text in query.items():
        test.query_params[key] = text
    test.run()
    assert not test.exception, [found.value for found in test.exception]
    return test


def said(test: AppTest) -> str:
    kinds = ("markdown", "text", "caption", "error", "info", "warning", "success", "subheader", "code", "badge")
    return "\n".join(str(found.value) for kind in kinds for found in test.get(kind) if hasattr(found, "value"))


def nothing(folder: Path) -> Iterator[None]:
    yield


def running(folder: Path) -> Iterator[None]:
    with runs.RunWriter.create(folder, "one", fake_writer.info("one", 200)) as writer:
        writer.append(events.Phase("search", "searching", 200))
        space = PRESETS["collapse"].config().search_space()
        for number in range(1, 50):
            writer.append(fake_writer.step_of(number, 200, space, {"w_lr": 0.05, "a_lr": 0.1}))
        yield


def starting(folder: Path) -> Iterator[None]:
    with runs.RunWriter.create(folder, "one", fake_writer.info("one", 200)) as writer:
        writer.append(events.Phase("torch", "loading", None))
        yield


def finished(folder: Path) -> Iterator[None]:
    fake_writer.write(folder, "one", steps=120, rate=0)
    yield


def failed(folder: Path) -> Iterator[None]:
    fake_writer.write(folder, "one", steps=120, rate=0, fail_at=60)
    yield


def interrupted(folder: Path) -> Iterator[None]:
    fake_writer.write(folder, "one", steps=120, rate=0, fail_at=60)
    lines = (folder / "one" / "events.jsonl").read_bytes().splitlines(keepends=True)
    (folder / "one" / "events.jsonl").write_bytes(b"".join(lines[:-1]))
    yield


def corrupt_record(folder: Path) -> Iterator[None]:
    fake_writer.write(folder, "one", steps=40, rate=0)
    (folder / "one" / "steps.bin").write_bytes(b"DARTSRUN")
    yield


def corrupt_lines(folder: Path) -> Iterator[None]:
    fake_writer.write(folder, "one", steps=40, rate=0)
    (folder / "one" / "events.jsonl").write_bytes(b'{"type":"phase"}\n{"type":"x"}\n')
    yield


def corrupt_card(folder: Path) -> Iterator[None]:
    fake_writer.write(folder, "one", steps=40, rate=0)
    (folder / "one" / "run.json").write_bytes(json.dumps({"schema": 99}).encode())
    yield


def foreign_space(folder: Path) -> Iterator[None]:
    """A run whose space no page can draw: an operation is not in the closed list."""
    fake_writer.write(folder, "one", steps=40, rate=0)
    path = folder / "one" / "run.json"
    path.write_text(path.read_text().replace("sep_conv_3x3", "sep_conv_9x9"))
    yield


STATES = (
    nothing, running, starting, finished, failed, interrupted,
    corrupt_record, corrupt_lines, corrupt_card, foreign_space,
)  # fmt: skip


CASES = [(name, state) for name in PAGES for state in STATES if (name, state) != ("live", foreign_space)]


@pytest.mark.parametrize(("name", "state"), CASES, ids=lambda part: part if isinstance(part, str) else part.__name__)
@pytest.mark.parametrize("samples", [False, pytest.param(True, marks=pytest.mark.slow)], ids=["alone", "samples"])
def test_every_page_shows_every_state_without_an_exception(
    folder: Path, monkeypatch: pytest.MonkeyPatch, name: str, state: Callable[[Path], Iterator[None]], samples: bool
) -> None:
    """With a link to the run, and, with recorded samples beside it, without one. (What the live page lets through of a
    foreign space becomes a sentence in the server: `in_a_sentence`.)"""
    if samples:
        monkeypatch.setattr(stream, "SAMPLES", SAMPLES)
    scene = state(folder)
    next(scene)
    try:
        query = {} if samples or state is nothing else {"run": "one", "runs": "one,collapsing"}
        text = said(page(name, **query))
        assert "Traceback" not in text and "secret/path" not in text
    finally:
        next(scene, None)


@pytest.mark.parametrize("name", [page for page in PAGES if page != "live"])
@pytest.mark.parametrize("run", ["nowhere", "../x", "a" * 65, TRICKY, "con"])
def test_a_link_to_no_run_is_shown_as_text(folder: Path, name: str, run: str) -> None:
    fake_writer.write(folder, "one", steps=80, rate=0)
    test = page(name, run=run, runs=f"{run},one", step="x", edge="<b>", at="-1", rule="none")
    assert "Traceback" not in said(test)


@pytest.mark.parametrize("name", [page for page in PAGES if page != "live"])
def test_what_a_run_says_of_itself_is_never_markup(folder: Path, name: str) -> None:
    with runs.RunWriter.create(folder, "tricky", fake_writer.info("tricky", 10) | {"title": TRICKY}) as writer:
        writer.append(events.Phase("data", TRICKY))
        writer.append(events.Failure(0, TRICKY, ""))
    time.sleep(0.6)
    test = page(name, run="tricky", runs="tricky")
    for kind in ("markdown", "caption", "error", "info", "warning", "success", "subheader", "badge"):
        for found in test.get(kind):
            assert "**bold**" not in str(found.value) and "![x]" not in str(found.value), (kind, found.value)


# Notes --------------------------------------------------------------------------------------------------------


def test_notes_come_back_and_another_run_of_the_name_has_none(folder: Path) -> None:
    written = notes.Notes(("good", "mine"), "a note\nof two lines", (notes.Bookmark(7, "here"), notes.Bookmark(9, "")))
    notes.write(folder, "one", 12.5, written)
    assert notes.read(folder, "one", 12.5) == written
    assert notes.read(folder, "one", 13.5) == notes.Notes()
    assert notes.read(folder, "two", 12.5) == notes.Notes()
    assert (folder / notes.FOLDER / "one.json").stat().st_mode & 0o077 == 0


@pytest.mark.parametrize(
    "data",
    [
        b"[]",
        b"{",
        b'{"created":1,"tags":"x"}',
        b'{"created":1,"bookmarks":[[1]]}',
        b'{"created":1,"bookmarks":[[-1,"x"]]}',
    ],
)
def test_damaged_notes_are_a_sentence_and_stay_as_they_are(folder: Path, data: bytes) -> None:
    notes.write(folder, "one", 1, notes.Notes())
    path = folder / notes.FOLDER / "one.json"
    path.write_bytes(data)
    with pytest.raises(BadInput):
        notes.read(folder, "one", 1)
    assert path.read_bytes() == data


def test_notes_too_long_are_refused_before_anything_is_written(folder: Path) -> None:
    with pytest.raises(BadInput, match="characters"):
        notes.write(folder, "one", 1, notes.Notes(note="x" * 4001))
    with pytest.raises(BadInput, match="not a name"):
        notes.write(folder, "../one", 1, notes.Notes())
    assert not (folder / notes.FOLDER).exists()


# Replay -------------------------------------------------------------------------------------------------------


def press(test: AppTest, label: str) -> AppTest:
    found = [button for button in test.button if button.label == label]
    assert found, (label, [button.label for button in test.button])
    found[0].click().run()
    assert not test.exception, [problem.value for problem in test.exception]
    return test


def test_a_bookmark_is_kept_beside_the_run_and_leads_back_to_its_step(folder: Path) -> None:
    fake_writer.write(folder, "one", steps=120, rate=0)
    before = {path: path.read_bytes() for path in (folder / "one").rglob("*") if path.is_file()}
    test = page("replay", run="one", step="37")
    test.text_input[0].set_value("they turn *here*")
    press(test, "Bookmark this step")
    created = runs.RunReader(folder, "one").info["created"]
    assert notes.read(folder, "one", created).bookmarks == (notes.Bookmark(37, "they turn *here*"),)
    test = page("replay", run="one")
    press(test, r"step 37: they turn \*here\*")
    assert test.query_params["step"] in ("37", ["37"])
    assert before == {path: path.read_bytes() for path in (folder / "one").rglob("*") if path.is_file()}


def test_the_link_names_run_and_step_and_no_token(folder: Path) -> None:
    fake_writer.write(folder, "one", steps=120, rate=0)
    test = page("replay", run="one", step="37", cell="normal")
    shared = [code.value for code in test.code]
    assert any(text.endswith("/replay?run=one&cell=normal&step=37") and "token" not in text for text in shared), shared


# Learn --------------------------------------------------------------------------------------------------------


def test_a_lesson_prepares_the_live_page_and_starts_nothing(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    started: list[object] = []
    monkeypatch.setattr(process, "start", lambda config, root: started.append(config) or process.pending(root))
    test = page("live", preset="collapse", a_lr="0.09", seed="x", path="/etc", epochs="-3")
    assert test.radio(key="preset").value == "collapse" and not started
    assert "This lesson changes: a\\_lr \\= 0\\.09." in said(test)
    values = {number.key: number.value for number in test.number_input}
    assert values["collapse-a_lr"] == 0.09 and values["collapse-epochs"] == PRESETS["collapse"].config().epochs


def test_every_lesson_leads_to_settings_and_pages_that_exist(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stream, "SAMPLES", SAMPLES)
    lessons, beside = (
        [link.proto for link in page("learn", part=part).get("page_link")] for part in ("lessons", "notebooks")
    )
    assert len(lessons) >= 9 and len(beside) == len(notebooks()[0]), "each notebook has its page"
    links = [*lessons, *beside]
    known = {run.name for run in runs.list_runs(SAMPLES)}
    for link in links:
        query = dict(part.split("=", 1) for part in link.query_string.split("&") if part)
        for name in query.get("runs", query.get("run", "")).replace("%2C", ",").split(","):
            assert not name or name in known, link
        preset = query.pop("preset", None)
        if preset is not None:
            config = PRESETS[preset].config(**{k: v for k, v in query.items() if k != "by"})
            assert all(str(config.to_dict()[k]) == v for k, v in query.items())


def test_the_tour_has_six_stops_and_shows_each(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stream, "SAMPLES", SAMPLES)
    test = page("learn")
    for number in range(1, 7):
        assert f"{number} of 6:" in said(test) and [found.key for found in test.get("bidi_component")] == [
            "frame",
            "tour-board",
        ]
        if number < 6:
            press(test, "Next")


def test_notebooks_are_read_from_files_and_a_broken_one_is_a_sentence(tmp_path: Path) -> None:
    assert notebooks(tmp_path / "none") == ([], [])
    cells = [{"cell_type": "markdown", "source": ["# 00 · A title\n", "\n", "Afterwards you\n", "can.\n\nMore."]}]
    (tmp_path / "00_a.ipynb").write_text(json.dumps({"cells": [*cells, {"cell_type": "code", "source": "1 + 1"}]}))
    (tmp_path / "01_b.ipynb").write_text("{")
    (tmp_path / "02_c.ipynb").write_text("[]")
    (tmp_path / "notes.ipynb").write_text("{}")
    found, troubles = notebooks(tmp_path)
    (book,) = found
    assert (book.name, book.title, book.promise) == ("00_a", "00 · A title", "Afterwards you can.")
    assert book.cells[1] == ("code", "1 + 1") and len(troubles) == 2
