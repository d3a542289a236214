"""The run folder: what is none, how one is made, its one writer, and the state that is derived from it."""

from __future__ import annotations

import json
import os
import platform
import shutil
import stat
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from darts_core import runs
from darts_core.errors import BadInput
from darts_core.events import (
    Applied,
    Epoch,
    Failure,
    Finished,
    Interrupted,
    Phase,
    from_json,
)
from darts_core.runs import RunReader, RunWriter, reading
from tests.stored import (
    info,
    lines_of,
    start,
    state_of,
    steps,
)

# Folders that are no runs -----------------------------------------------------------------------------------


def spoil_missing(folder: Path) -> None:
    (folder / "run.json").unlink()


def spoil_json(folder: Path) -> None:
    (folder / "run.json").write_bytes((folder / "run.json").read_bytes()[:-20])


def spoil_schema(folder: Path) -> None:
    (folder / "run.json").write_text(json.dumps({**json.loads((folder / "run.json").read_text()), "schema": 2}))


def spoil_layout(folder: Path) -> None:
    facts = json.loads((folder / "run.json").read_text())
    facts["layout"]["metrics"].append("more")
    (folder / "run.json").write_text(json.dumps(facts))


def spoil_link(folder: Path) -> None:
    shutil.move(folder / "run.json", folder / "other.json")
    (folder / "run.json").symlink_to(folder / "other.json")


def spoil_steps(folder: Path) -> None:
    (folder / "steps.bin").unlink()


def spoil_lines(folder: Path) -> None:
    (folder / "events.jsonl").unlink()


def spoil_pipe(folder: Path) -> None:
    (folder / "events.jsonl").unlink()
    os.mkfifo(folder / "events.jsonl")


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (spoil_missing, "no such file"),
        (spoil_json, "line 1, column"),
        (spoil_schema, "schema: 2 is not known here"),
        (spoil_layout, "its layout is not that of run.json"),
        (spoil_link, "link"),
        (spoil_steps, "no such file"),
        (spoil_lines, "no such file"),
        (spoil_pipe, "not a regular file"),
    ],
)
def test_a_spoiled_folder_is_one_sentence_in_the_list_and_for_the_writer(
    root: Path, spoil: Callable[[Path], None], said: str
) -> None:
    spoil(root / "whole")
    summary = runs.list_runs(root)[0]
    assert (summary.state, summary.name) == ("corrupt", "whole") and said in summary.message
    with pytest.raises(BadInput, match=said):
        RunWriter.open(root, "whole").close()


@pytest.mark.parametrize(
    ("change", "key"),
    [
        ({"name": 3}, "name"), ({"title": None}, "title"), ({"config": []}, "config"), ({"seed": 1.5}, "seed"),
        ({"epochs": True}, "epochs"), ({"created": -1}, "created"), ({"created": 1e300}, "created"),
        ({"parent": {}}, "run"), ({"parent": {"run": "a", "epoch": 1, "step": -1, "sha256": ""}}, "parent"),
        ({"parent": {"run": "a", "epoch": 1, "step": 1 << 40, "sha256": ""}}, "parent"), ({"extra": 1}, "extra"),
        ({"parent": {"run": "a", "epoch": 1, "step": 1, "sha256": "", "x": 1}}, "'x'"), ({"layout": 1}, "layout"),
        ({"deterministic": 1}, "deterministic"), ({"command": "rm"}, "command"), ({"schema": "1"}, "schema"),
        ({"group": ""}, "group"), ({"group": 3}, "group"), ({"group": "../up"}, "group"), ({"group": None}, "group"),
    ],
    ids=str,
)  # fmt: skip
def test_a_wrong_key_of_run_json_is_named(root: Path, change: dict[str, Any], key: str) -> None:
    path = root / "whole" / "run.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **change}))
    with pytest.raises(BadInput, match=key):
        RunReader(root, "whole")


def test_an_empty_or_foreign_folder_is_no_run(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "notes").mkdir()
    (tmp_path / "notes" / "a.txt").write_text("hello")
    assert runs.list_runs(tmp_path) == [] and runs.list_runs(tmp_path / "nowhere") == []
    with pytest.raises(BadInput, match="no such file"):
        RunReader(tmp_path, "empty")
    with pytest.raises(BadInput, match="did you mean 'empty'"):
        RunReader(tmp_path, "emty")
    with pytest.raises(BadInput, match="there is no run 'a'"):
        RunReader(tmp_path / "nowhere", "a")


def test_links_and_strange_names_are_left_out_of_the_list(root: Path) -> None:
    (root / "linked").symlink_to(root / "whole")
    for name in ("Big", "a.b", ".hidden", "con"):
        shutil.copytree(root / "whole", root / name)
    assert [run.name for run in runs.list_runs(root)] == ["whole"]
    with pytest.raises(BadInput, match="link"):
        RunReader(root, "linked")


@given(st.sampled_from(["run.json", "events.jsonl", "steps.bin"]), st.data())
def test_a_mutated_run_is_read_or_bad_input(
    example: Path, tmp_path_factory: pytest.TempPathFactory, name: str, data: Any
) -> None:
    root = tmp_path_factory.getbasetemp() / "mutated"
    shutil.rmtree(root, ignore_errors=True)
    shutil.copytree(example / "whole", root / "whole")
    path = root / "whole" / name
    content = bytearray(path.read_bytes())
    for _ in range(data.draw(st.integers(1, 3))):
        place = data.draw(st.integers(0, len(content) - 1))
        content[place : place + data.draw(st.integers(0, 4))] = data.draw(st.binary(max_size=4))
    path.write_bytes(content)
    runs.list_runs(root)
    for use in (
        lambda: RunReader(root, "whole").steps(),
        lambda: RunReader(root, "whole").events(),
        lambda: reopened(root),
    ):
        try:
            use()
        except BadInput as error:
            assert "\n" not in str(error)


def reopened(root: Path) -> None:
    with RunWriter.open(root, "whole") as writer:
        found = writer.last_good_checkpoint()
        writer.begin_replay(found.step)
        writer.orders_to_replay(found.step)
    assert writer.step == RunReader(root, "whole").first_step - 1 + RunReader(root, "whole").step_count()


# Making runs ------------------------------------------------------------------------------------------------


def test_a_new_run_is_private_and_its_facts_are_filled_in(tmp_path: Path) -> None:
    with RunWriter.create(tmp_path / "runs", "a", info(title="Größe <b>")) as writer:
        folder = tmp_path / "runs" / "a"
        assert sorted(os.listdir(folder)) == [
            "checkpoints",
            "commands",
            "events.jsonl",
            "lock",
            "run.json",
            "steps.bin",
        ]
        for path in [folder, *folder.iterdir()]:
            assert stat.S_IMODE(path.stat().st_mode) == (0o700 if path.is_dir() else 0o600), path
        assert writer.info["schema"] == 1 and writer.info["parent"] is None and writer.info["title"] == "Größe <b>"
        assert abs(writer.info["created"] - time.time()) < 60
        assert RunReader(tmp_path / "runs", "a").info == writer.info
    assert os.listdir(tmp_path / "runs") == ["a"]


def test_runs_of_one_launch_share_the_name_of_a_group_and_others_have_none(tmp_path: Path) -> None:
    for name, more in (("a-s0", {"group": "a"}), ("a-s1", {"group": "a"}), ("b", {})):
        RunWriter.create(tmp_path, name, info(**more)).close()
    assert [RunReader(tmp_path, name).info.get("group") for name in ("a-s0", "a-s1", "b")] == ["a", "a", None]
    there = runs.import_run(tmp_path, runs.export_run(tmp_path, "a-s0"), "copied")
    assert there.info["group"] == "a"


def test_an_unknown_or_missing_fact_is_refused_before_anything_is_made(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="unknown key 'sed'; did you mean 'seed'"):
        RunWriter.create(tmp_path, "a", info(sed=1))
    with pytest.raises(BadInput, match="layout"):
        RunWriter.create(tmp_path, "a", {})
    with pytest.raises(BadInput, match="config.lr"):
        RunWriter.create(tmp_path, "a", info(config={"lr": float("nan")}))
    assert os.listdir(tmp_path) == []


def test_a_name_that_is_taken_says_by_what(root: Path) -> None:
    with pytest.raises(runs.NameTaken, match="whole is the name of a run .finished, step 10. already; choose another"):
        RunWriter.create(root, "whole", info())
    (root / "empty").mkdir()
    (root / "file").write_text("x")
    (root / "link").symlink_to(root / "nowhere")
    for name in ("empty", "file", "link"):
        with pytest.raises(runs.NameTaken, match=f"{name} is the name of something else"):
            RunWriter.create(root, name, info())
    assert sorted(os.listdir(root)) == ["empty", "file", "link", "whole"]


def test_a_run_that_failed_before_its_first_step_makes_room(tmp_path: Path) -> None:
    with RunWriter.create(tmp_path, "a", info(title="first")) as writer:
        writer.append(Failure(0, "no such data set", ""))
    with RunWriter.create(tmp_path, "a", info(title="second")) as writer:
        writer.append(steps(1)[0])
        writer.append(Failure(1, "loss became NaN", ""))
    assert [run.title for run in runs.list_runs(tmp_path)] == ["second"]
    assert len(os.listdir(tmp_path / ".trash")) == 1
    with pytest.raises(runs.NameTaken, match="failed, step 1"):
        RunWriter.create(tmp_path, "a", info())


def test_fifty_starts_at_once_are_fifty_folders(tmp_path: Path) -> None:
    made: list[str] = []

    def make() -> None:
        for _ in range(5):
            with RunWriter.create_free(tmp_path, "digits-darts", info()) as writer:
                writer.append(steps(1)[0])
            made.append(writer.name)

    threads = [threading.Thread(target=make) for _ in range(10)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(set(made)) == 50 == len(runs.list_runs(tmp_path))
    assert all(run.step == 1 for run in runs.list_runs(tmp_path))
    assert sorted(os.listdir(tmp_path)) == sorted(made)


def test_fifty_starts_under_one_name_are_one_run(tmp_path: Path) -> None:
    won: list[int] = []

    def make(number: int) -> None:
        try:
            with RunWriter.create(tmp_path, "a", info(seed=number)):
                won.append(number)
                time.sleep(0.05)
        except BadInput:
            pass

    threads = [threading.Thread(target=make, args=(number,)) for number in range(50)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(won) == 1 and RunReader(tmp_path, "a").info["seed"] == won[0]
    assert os.listdir(tmp_path) == ["a"]


def test_free_names_count_on(tmp_path: Path) -> None:
    assert runs.free_name(tmp_path / "nowhere", "a") == "a-001"
    for name in ("a-001", "a-007", "a-x", "b-009"):
        (tmp_path / name).mkdir()
    assert runs.free_name(tmp_path, "a") == "a-008"
    assert runs.check_name(runs.free_name(tmp_path, "x" * 64))
    with pytest.raises(BadInput):
        runs.free_name(tmp_path, "../a")


def test_the_folder_of_runs_is_given_or_named_by_the_environment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert runs.runs_root(tmp_path / "x") == tmp_path / "x"
    monkeypatch.setenv("DARTS_RUNS", str(tmp_path / "y"))
    assert runs.runs_root() == tmp_path / "y"
    monkeypatch.delenv("DARTS_RUNS")
    assert runs.runs_root() == Path(runs.__file__).parents[2] / "data" / "runs"


def test_the_trash_takes_a_run_but_not_from_its_writer(root: Path) -> None:
    with RunWriter.open(root, "whole"), pytest.raises(BadInput, match=f"process {os.getpid()} on"):
        runs.trash(root, "whole")
    there = runs.trash(root, "whole")
    assert there.parent == root / ".trash" and (there / "run.json").exists()
    assert runs.list_runs(root) == []


# One writer -------------------------------------------------------------------------------------------------


def test_the_second_writer_is_told_who_holds_the_run(root: Path) -> None:
    with RunWriter.open(root, "whole"):
        with pytest.raises(BadInput, match=f"run whole: process {os.getpid()} on {platform.node()} has it open since"):
            RunWriter.open(root, "whole")
        assert json.loads((root / "whole" / "lock").read_text())["pid"] == os.getpid()
    RunWriter.open(root, "whole").close()


def test_one_of_many_writers_wins(root: Path) -> None:
    won: list[RunWriter] = []
    lost: list[BadInput] = []

    def race() -> None:
        try:
            won.append(RunWriter.open(root, "whole"))
        except BadInput as error:
            lost.append(error)

    threads = [threading.Thread(target=race) for _ in range(20)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(won) == 1 and len(lost) == 19 and all("has it open" in str(error) for error in lost)
    won[0].close()


def test_a_folder_that_may_not_be_written_is_read_but_not_opened(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = os.open

    def read_only(path: Any, flags: int, *rest: Any) -> int:
        if flags & (os.O_WRONLY | os.O_RDWR | os.O_CREAT):
            raise PermissionError(13, "Permission denied")
        return real(path, flags, *rest)

    monkeypatch.setattr(os, "open", read_only)
    reader = RunReader(root, "whole")
    assert reader.status().state == "finished" and reader.step_count() == 10
    for use in (lambda: RunWriter.open(root, "whole"), lambda: runs.send_order(root, "whole", "pause")):
        with pytest.raises(BadInput, match="this folder may not be written"):
            use()


# State ------------------------------------------------------------------------------------------------------


def test_the_state_of_a_live_run_follows_its_records_and_orders(tmp_path: Path) -> None:
    writer = RunWriter.create(tmp_path, "a", info(total_steps=9))
    reader = RunReader(tmp_path, "a")

    def seen() -> tuple[str, int, int | None, str, bool]:
        status = reader.status()
        return status.state, status.step, status.total_steps, status.message, status.edited

    assert seen() == ("starting", 0, 9, "", False)
    writer.append(Phase("torch", "importing torch"))
    assert seen() == ("starting", 0, 9, "importing torch", False) and reader.status().phase == "torch"
    writer.append(Phase("search", "searching", 12))
    writer.append(steps(1)[0])
    assert seen() == ("running", 1, 12, "searching", False) and reader.status().alive
    writer.append(Applied("a", 1, "pause", None, None, True, ""))
    assert seen()[0] == "paused" and reader.status().paused
    writer.append(Applied("b", 1, "step", None, None, True, ""))
    writer.append(Applied("c", 1, "set", "seed", 3, False, "no"))
    assert seen() == ("paused", 1, 12, "searching", False)
    writer.append(Applied("d", 1, "set", "w_lr", 0.5, True, ""))
    writer.append(Applied("e", 1, "resume", None, None, True, ""))
    assert seen() == ("running", 1, 12, "searching", True)
    assert (reader.status().pid, reader.status().host) == (os.getpid(), platform.node())
    writer.append(Applied("f", 1, "pause", None, None, True, ""))
    writer.close()
    assert seen()[0] == "interrupted" and not reader.status().paused and "without a word at step 1" in seen()[3]
    time.sleep(0.01)
    with RunWriter.open(tmp_path, "a"):
        assert seen()[0] == "running"  # the pause was for the process that died


@pytest.mark.parametrize(
    ("last", "state", "message"),
    [
        (Finished("finished", 10, {}), "finished", ""),
        (Finished("stopped", 10, {}), "stopped", ""),
        (Failure(10, "loss became NaN at step 10", "Traceback"), "failed", "loss became NaN at step 10"),
        (Interrupted(10, "Ctrl-C"), "interrupted", "Ctrl-C"),
    ],
)
def test_the_last_line_says_how_a_run_ended(root: Path, last: Any, state: str, message: str) -> None:
    with RunWriter.open(root, "whole") as writer:
        writer.append(Phase("process", "again"))
        writer.append(last)
    status = RunReader(root, "whole").status()
    assert (status.state, status.message, status.alive) == (state, message, False)


def test_from_another_host_a_run_is_silent_and_never_crashed(tmp_path: Path) -> None:
    start(tmp_path, "a", 10, until=5)
    lock = tmp_path / "a" / "lock"
    lock.write_text(json.dumps({"pid": 1, "host": "elsewhere", "started": time.time()}))
    for name in ("steps.bin", "events.jsonl"):
        os.utime(tmp_path / "a" / name, (time.time() - 40, time.time() - 40))
    status = RunReader(tmp_path, "a").status()
    assert (status.state, status.message, status.host) == ("silent", "silent for 40 s", "elsewhere")
    with RunWriter.open(tmp_path, "a") as writer:
        writer.append(Finished("finished", 5, {}))
    lock.write_text(json.dumps({"pid": 1, "host": "elsewhere", "started": time.time()}))
    assert state_of(tmp_path, "a") == "finished"


@pytest.mark.parametrize(
    "text", ["", "{", "[]", '{"pid":"x","host":"h","started":1}', '{"pid":1,"host":"h","started":1e300}']
)
def test_a_strange_lock_text_is_no_matter(root: Path, text: str) -> None:
    (root / "whole" / "lock").write_text(text)
    assert RunReader(root, "whole").status()[7:9] == (None, "")
    with RunWriter.open(root, "whole"):
        (root / "whole" / "lock").write_text(text)
        with pytest.raises(BadInput, match="has it open"):
            RunWriter.open(root, "whole")


def test_durations_are_said_in_the_unit_that_fits() -> None:
    said = [reading.ago(s) for s in (-3, 0.4, 40, 119, 121, 3600, 7200, 100_000, 200_000)]
    assert said == ["0 s", "0 s", "40 s", "119 s", "2 min", "60 min", "2 h", "28 h", "2 days"]


def test_the_list_is_sorted_and_notices_what_changed(tmp_path: Path) -> None:
    for number, name in enumerate(("old", "new")):
        start(tmp_path, name, 4, until=4)
        assert runs.list_runs(tmp_path)[0].name == name, number
    first = runs.list_runs(tmp_path)[0]
    assert (first.state, first.step, first.strategy, first.dataset) == ("interrupted", 4, "toy", "dust")
    with RunWriter.open(tmp_path, "new") as writer:
        writer.append(steps(5)[4])
        assert runs.list_runs(tmp_path)[0][2:4] == ("running", 5)
    runs.trash(tmp_path, "new")
    start(tmp_path, "new", 10)  # another run under the same name
    assert [(run.name, run.state, run.step) for run in runs.list_runs(tmp_path)] == [
        ("new", "finished", 10), ("old", "interrupted", 4),
    ]  # fmt: skip


def test_a_hundred_runs_are_listed_within_a_second(root: Path) -> None:
    for number in range(100):
        shutil.copytree(root / "whole", root / f"run-{number:03d}")
    began = time.perf_counter()
    assert len(runs.list_runs(root)) == 101
    assert time.perf_counter() - began < 1


def test_the_log_is_read_from_its_end(root: Path) -> None:
    reader = RunReader(root, "whole")
    assert reader.log_tail() == ""
    (root / "whole" / "log.txt").write_bytes(b"x" * 100_000 + b"\nlast but one\n\xff last\n")
    assert reader.log_tail(2) == "last but one\n\ufffd last" and len(reader.log_tail(5)) < 70_000


def test_the_package_reads_runs_without_torch() -> None:
    code = "import sys, darts_core.runs; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_an_epoch_line_is_an_event_again(root: Path) -> None:
    assert [type(from_json(line)) for line in lines_of(root) if line["type"] == "epoch"] == [Epoch, Epoch]
