"""The pages as scripts, without a browser: every state of a run, and no exception on any of them."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from streamlit.testing.v1 import AppTest

from app import process, stream
from darts_core import events, runs
from darts_core.config import PRESETS
from darts_core.errors import BadInput
from tests import fake_writer

ROOT = Path(__file__).resolve().parent.parent
TRICKY = "<script>alert(1)</script> **bold** ![x](http://evil.example/x.png) [l](javascript:x) $x$ :red[r] `c`"


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder of runs of its own, and no recorded samples."""
    launches: dict[str, process.Launch] = {}
    monkeypatch.setenv("DARTS_RUNS", str(tmp_path))
    monkeypatch.setattr(stream, "SAMPLES", tmp_path / "none")
    monkeypatch.setattr(process, "_launches", launches)
    yield tmp_path
    for launch in launches.values():
        launch.process.kill()
        while launch.process.poll() is None or not launch._output.closed:
            time.sleep(0.01)


def page(path: str = "", **query: str) -> AppTest:
    """The dashboard after one run of its script; `path` is another page than Live."""
    test = AppTest.from_file(str(ROOT / "app" / "dashboard.py"), default_timeout=30)
    for name, text in query.items():
        test.query_params[name] = text
    test.run()
    if path:
        test.switch_page(path).run()
    assert not test.exception, [found.value for found in test.exception]
    return test


def said(test: AppTest) -> str:
    """Every text on the page."""
    kinds = ("markdown", "text", "caption", "error", "info", "warning", "success", "subheader", "code", "badge")
    return "\n".join(str(found.value) for kind in kinds for found in test.get(kind) if hasattr(found, "value"))


def labels(test: AppTest) -> set[str]:
    return {button.label for button in test.button}


@pytest.fixture
def running(folder: Path) -> Iterator[runs.RunWriter]:
    """A run that a living process holds: this one."""
    fake_writer.write(folder, "older", steps=80, rate=0)
    with runs.RunWriter.create(folder, "live-one", fake_writer.info("live-one", 200)) as writer:
        writer.append(events.Phase("search", "searching", 200))
        space = PRESETS["collapse"].config().search_space()
        for number in range(1, 6):
            writer.append(fake_writer.step_of(number, 200, space, {"w_lr": 0.05, "a_lr": 0.1}))
        yield writer


def test_the_first_visit_offers_a_search(folder: Path) -> None:
    test = page()
    assert "Start" in labels(test) and "Start your first search (60 s)" in labels(test)
    assert set(test.radio(key="preset").options) and len(test.radio(key="preset").options) == len(PRESETS)


def boards(test: AppTest) -> list[str]:
    """Components on the page, without the frame that every page has."""
    return [found.key for found in test.get("bidi_component") if found.key != "frame"]


def test_a_running_search_shows_its_progress_and_its_controls(running: runs.RunWriter) -> None:
    test = page()
    assert "step 5 of 200" in said(test) and test.query_params["run"] == "live-one", "the address names what is shown"
    assert {"Pause", "Checkpoint", "Stop it"} <= labels(test) and not {"Apply", "Resume"} & labels(test)
    assert len(boards(test)) == 1


def test_label_noise_is_always_announced_with_its_control(running: runs.RunWriter) -> None:
    test = page()
    assert "40 % of the search labels are replaced at random, on purpose. Of such searches 30 of 30" in said(test)
    assert "Run the clean control" in labels(test)


def test_pause_leaves_an_order_and_shows_it_as_pending_then_as_applied(running: runs.RunWriter) -> None:
    test = page()
    next(button for button in test.button if button.label == "Pause").click().run()
    (order,) = running.orders()
    assert order.kind == "pause" and "pause: pending" in said(test).replace("\\", "")
    running.append(events.Applied(order.id, 5, "pause", None, None, True, ""))
    running.done(order)
    time.sleep(0.6)
    test.run()
    text = said(test).replace("\\", "")
    assert "pause: applied at step 5" in text and "pending" not in text
    assert {"Resume", "One step"} <= labels(test) and "Pause" not in labels(test)


def test_steering_sends_what_differs_and_only_that(running: runs.RunWriter) -> None:
    test = page()
    test.session_state["panel-Steer"] = True
    test.run()
    field = next(number for number in test.number_input if number.key == "steer-live-one-a_lr")
    assert field.value == pytest.approx(PRESETS["collapse"].config().a_lr)
    field.set_value(0.02)
    next(button for button in test.button if button.label == "Apply").click().run()
    (order,) = running.orders()
    assert (order.kind, order.name, order.value) == ("set", "a_lr", 0.02)
    assert not test.exception and not test.error


def test_a_finished_search_shows_its_cell_numbers_and_downloads(folder: Path) -> None:
    fake_writer.write(folder, "done", steps=200, rate=0)
    test = page()
    text = said(test)
    assert "finished" in text and "93.1 % on test images" in text and "2 random cells" in text
    assert len(test.get("image")) == 2, "the cell lying, and upright for a narrow page"
    test.session_state["panel-Download"] = True
    test.run()
    titles = {button.proto.label for button in test.get("download_button")}
    assert titles == {"Genotype (JSON)", "DARTS text", "SVG", "PDF", "PNG", "DOT"}


def test_a_failed_search_says_why_where_and_how_to_go_on(folder: Path) -> None:
    fake_writer.write(folder, "broke", steps=100, rate=0, fail_at=30)
    (folder / "broke" / "log.txt").write_text("the last line of its log\n")
    test = page()
    text = said(test)
    assert "failed after step 30" in text and "Loss became NaN at step 30" in text
    assert "Resume" in labels(test) and "darts_core resume broke --runs" in text and "last line of its log" in text
    assert "secret/path.py" not in text, "tracebacks stay in the folder"


def test_an_interrupted_search_can_be_resumed(folder: Path) -> None:
    fake_writer.write(folder, "cut", steps=100, rate=0, fail_at=30)
    lines = (folder / "cut" / "events.jsonl").read_bytes().splitlines(keepends=True)
    (folder / "cut" / "events.jsonl").write_bytes(b"".join(lines[:-1]))
    test = page()
    assert "interrupted after step 30" in said(test) and "Resume" in labels(test)


@pytest.mark.parametrize(
    ("file", "data"),
    [
        ("run.json", b"{"),
        ("run.json", json.dumps({"schema": 99}).encode()),
        ("steps.bin", b"DARTSRUN"),
        ("steps.bin", b""),
        ("events.jsonl", b'{"type":"phase"}\n{"type":"x"}\n'),
        ("events.jsonl", b'{"type":"finis'),
    ],
)
def test_a_damaged_run_is_a_sentence(folder: Path, file: str, data: bytes) -> None:
    fake_writer.write(folder, "hurt", steps=10, rate=0)
    (folder / "hurt" / file).write_bytes(data)
    test = page(run="hurt")
    assert "Traceback" not in said(test)
    page("app_pages/runs.py")


@pytest.mark.parametrize("name", ["nowhere", "../x", "a" * 65, TRICKY, "con"])
def test_a_link_to_no_run_is_a_sentence(folder: Path, name: str) -> None:
    test = page(run=name)
    assert len(test.error) == 1


def test_a_view_from_another_run_is_not_an_error(running: runs.RunWriter) -> None:
    page(run="live-one", cell="recurrent", edge="normal-9-9", step="x", show="none")


def test_what_a_run_says_is_shown_as_text(folder: Path) -> None:
    with runs.RunWriter.create(folder, "tricky", fake_writer.info("tricky", 10) | {"title": TRICKY}) as writer:
        writer.append(events.Phase("data", TRICKY))
        page(run="tricky")
        writer.append(events.Failure(0, TRICKY, ""))
    time.sleep(0.6)  # the shared feed looks twice a second
    test = page(run="tricky")
    shown = next(found.value for found in test.error)
    for start in ("\\<script\\>", "\\*\\*bold", "\\!\\[x\\]", "\\$x\\$", "\\:red\\["):
        assert start in shown


def test_a_start_that_fails_shows_the_sentence_of_the_process(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        process.sys,
        "executable",
        _program(folder, "print('settings: a_lr: too large; give less'); raise SystemExit(2)"),
    )
    test = page()
    next(button for button in test.button if button.key == "start").click().run()
    launch = next(iter(process._launches.values()))
    launch.process.wait()
    test.run()
    assert "did not start" in said(test) and "settings: a_lr: too large; give less" in said(test)


def test_starting_is_said_until_the_folder_is_there(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "executable", _program(folder, "import time; time.sleep(3)"))
    test = page()
    next(button for button in test.button if button.key == "start").click().run()
    assert "starting" in said(test) and not test.error
    assert test.query_params["run"] == "digits-darts-001"


def test_a_search_that_the_launcher_has_started_is_what_the_first_visit_shows(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake_writer.write(folder, "older", steps=40, rate=0)
    monkeypatch.setattr(sys, "executable", _program(folder, "import time; time.sleep(3)"))
    process.start(PRESETS["collapse"].config().to_dict(), folder)
    test = page()
    assert "A process of its own is starting" in said(test) and not boards(test)
    monkeypatch.setattr(stream, "SAMPLES", ROOT / "data" / "samples")
    test = page()
    assert "recorded earlier" in said(test) and len(boards(test)) == 1, "a picture at once"


def test_recorded_samples_fill_the_first_page_and_take_no_orders(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stream, "SAMPLES", ROOT / "data" / "samples")
    test = page()
    assert "recorded earlier" in said(test) and len(boards(test)) == 1
    assert "Start your first search (60 s)" in labels(test)
    for name in (run.name for run in runs.list_runs(stream.SAMPLES)):
        test = page(run=name)
        assert "finished" in said(test) or "stopped" in said(test)
        assert not {"Pause", "Stop it", "Resume"} & labels(test)


def test_settings_that_do_not_fit_are_refused_in_a_sentence(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    started: list[Any] = []
    monkeypatch.setattr(process, "_launch", lambda *given: started.append(given))
    test = page()
    test.number_input(key="laptop-channels").set_value(7)
    next(button for button in test.button if button.label == "Start with these settings").click().run()
    assert [error.value for error in test.error] and "odd" in test.error[0].value and not started


def test_the_table_of_runs_lists_them(running: runs.RunWriter) -> None:
    test = page("app_pages/runs.py")
    assert list(test.dataframe[0].value["run"]) == ["live-one", "older"]


def test_processes_are_started_detached_nice_and_without_the_token(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    code = (
        "import json, os, sys; print(json.dumps([os.getsid(0) == os.getpid(), os.nice(0), 'DARTS_TOKEN' in os.environ, "
        "os.environ['OMP_NUM_THREADS'], json.load(sys.stdin)['threads'], sys.argv[1:]]))"
    )
    monkeypatch.setenv("DARTS_TOKEN", "x" * 43)
    monkeypatch.setattr(sys, "executable", _program(folder, code))
    launch = process.start({"dataset": "digits", "threads": 0}, folder)
    launch.process.wait()
    leads, nice, token, threads, asked, arguments = json.loads(launch.printed())
    assert leads and nice >= process.NICE and not token
    assert threads == str(asked) == str(process.spare_cores())
    assert arguments[2:] == ["search", "--config-json", "-", "--name", "digits-darts-001", "--runs", str(folder)]
    assert process.start({"dataset": "digits"}, folder).name == "digits-darts-002", "a name that is starting is taken"


def test_the_first_picture_waits_for_no_library_of_tables(folder: Path) -> None:
    """Streamlit imports pandas, a second of work, when it looks for tables in what a component is given."""
    code = (
        "import sys; from streamlit.testing.v1 import AppTest; "
        f"test = AppTest.from_file({str(ROOT / 'app' / 'dashboard.py')!r}, default_timeout=60).run(); "
        "print([found.key for found in test.get('bidi_component')], {'pandas', 'pyarrow', 'torch'} & {*sys.modules})"
    )
    told = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert told.stdout.strip() == "['frame', 'board'] set()", told.stdout + told.stderr


@pytest.mark.skipif(not Path("/proc/self/autogroup").exists(), reason="this system does not group by session")
def test_a_session_of_its_own_gives_way_as_well() -> None:
    """Linux counts a nice value within a session where it groups by sessions, and a search has its own."""
    with subprocess.Popen(["sleep", "60"], start_new_session=True) as sleeper:
        try:
            process.be_nice(sleeper.pid)
            group = Path(f"/proc/{sleeper.pid}/autogroup").read_text()
        finally:
            sleeper.kill()
    assert int(group.rpartition("nice")[2]) >= process.NICE


def test_a_process_that_cannot_start_is_a_sentence(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "executable", str(folder / "nothing"))
    with pytest.raises(BadInput, match="did not start"):
        process.start({"dataset": "digits"}, folder)


def _program(folder: Path, code: str) -> str:
    """A stand-in for the Python that would run the search."""
    path = folder / ".program"
    path.write_text(f"#!{sys.executable}\n{code}\n")
    path.chmod(0o700)
    return str(path)
