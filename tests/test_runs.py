"""The run folder: whole after any cut, one writer, derived state, exact replay, orders answered once, bounded zips."""

from __future__ import annotations

import dataclasses
import io as memory
import json
import os
import platform
import shutil
import stat
import struct
import subprocess
import sys
import threading
import time
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from darts_core import io, runs
from darts_core.errors import BadInput
from darts_core.events import (
    Applied,
    Checkpoint,
    Epoch,
    Failure,
    Finished,
    Interrupted,
    Phase,
    Step,
    Trained,
    from_json,
)
from darts_core.runs import RunReader, RunWriter, reading
from darts_core.runs.checkpoints import superfluous
from tests import stored
from tests.stored import LAYOUT, PER_EPOCH, RECORD, SPACE, info, outcome, resume, start, steps

HEADER = 4096
QUICK = settings(
    max_examples=120, deadline=None, suppress_health_check=(HealthCheck.too_slow, HealthCheck.data_too_large)
)


@pytest.fixture(scope="module")
def example(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with one whole run, "whole": 10 steps, two checkpoints. To be copied, not changed."""
    root = tmp_path_factory.mktemp("example")
    start(root, "whole", 10)
    return root


@pytest.fixture
def root(example: Path, tmp_path: Path) -> Path:
    """A copy of it that a test may spoil."""
    shutil.copytree(example / "whole", tmp_path / "whole")
    return tmp_path


def state(root: Path, name: str = "whole") -> str:
    return RunReader(root, name).status().state


def lines_of(root: Path, name: str = "whole") -> list[dict[str, Any]]:
    return RunReader(root, name).events()[0]


# Records ----------------------------------------------------------------------------------------------------


def test_a_record_holds_what_the_step_said_in_float32() -> None:
    step = steps(3)[2]
    row = np.frombuffer(LAYOUT.record(step), LAYOUT.dtype)[0]
    assert (row["step"], row["epoch"], row["stage"], row["flags"]) == (3, 0, 0, 1)
    assert list(row["metrics"]) == [np.float32(step.metrics[name]) for name in LAYOUT.metrics]
    assert np.array_equal(row["alpha.normal"], step.alphas["normal"])
    assert np.array_equal(row["mix.normal"], step.mix["normal"])
    assert LAYOUT.record(step) == LAYOUT.record(steps(3)[2])  # no clock in it


def test_a_header_states_its_layout_and_every_flipped_bit_is_noticed() -> None:
    head = LAYOUT.header()
    assert len(head) == HEADER and runs.Layout.from_header(head, "x") == LAYOUT
    for place in [*range(200), *range(200, HEADER, 97), HEADER - 1]:
        spoiled = bytearray(head)
        spoiled[place] ^= 1 << place % 8
        with pytest.raises(BadInput):
            runs.Layout.from_header(bytes(spoiled), "steps.bin")
    for length in range(0, HEADER, 61):
        with pytest.raises(BadInput, match="cut off"):
            runs.Layout.from_header(head[:length], "steps.bin")


def test_a_header_of_another_record_length_is_refused_even_with_a_good_checksum() -> None:
    import zlib

    head = bytearray(LAYOUT.header()[:-4])
    struct.pack_into("<I", head, 16, RECORD + 4)
    with pytest.raises(BadInput, match=f"says {RECORD + 4} bytes per record, its layout makes {RECORD}"):
        runs.Layout.from_header(bytes(head) + struct.pack("<I", zlib.crc32(head)), "steps.bin")


@pytest.mark.parametrize(
    "change",
    [
        {"metrics": ["a", "a"]}, {"metrics": "ab"}, {"metrics": [1]}, {"metrics": ["A b"]}, {"metrics": ["a"] * 300},
        {"tensors": [["alpha.x", [5000]]]}, {"tensors": [["alpha.x", [-1]]]}, {"tensors": [["alpha.x", []]]},
        {"tensors": [["step", [1]]]}, {"tensors": [["alpha.x", [2]], ["alpha.x", [2]]]}, {"tensors": [["alpha.x"]]},
        {"tensors": [["alpha.x", [4096, 4096]]]}, {"tensors": {}}, {"extra": 1}, {"tensors": [["alpha.x", [True]]]},
    ],
    ids=str,
)  # fmt: skip
def test_a_strange_layout_is_refused(change: dict[str, Any]) -> None:
    with pytest.raises(BadInput, match="layout"):
        runs.Layout.from_json({**LAYOUT.to_json(), **change}, "run.json")


def test_values_that_are_not_finite_end_with_a_sentence_and_metrics_may_be_unknown() -> None:
    step = steps(1)[0]
    for value, word in ((np.nan, "NaN"), (np.inf, "infinite"), (1e39, "infinite")):
        with pytest.raises(BadInput, match=f"mix.normal became {word} at step 1"):
            LAYOUT.record(dataclasses.replace(step, mix={"normal": np.full((2, 2), value)}))
    LAYOUT.record(dataclasses.replace(step, metrics={"train_loss": float("nan"), "w_lr": 1e300}))


def test_a_step_of_another_layout_is_a_fault_of_ours() -> None:
    step = steps(1)[0]
    for change in ({"metrics": {"loss": 1.0}}, {"alphas": {}}, {"alphas": {"normal": np.zeros((1, 2))}}):
        with pytest.raises(AssertionError):
            LAYOUT.record(dataclasses.replace(step, **change))


def test_edge_alphas_have_their_place() -> None:
    layout = runs.Layout.of(("a",), SPACE, edge_alphas=True)
    assert dict(layout.tensors)["edge.normal"] == (2,)
    step = dataclasses.replace(steps(1)[0], metrics={"a": 1.0}, edge_alphas={"normal": np.array([3.0, 4.0])})
    assert list(np.frombuffer(layout.record(step), layout.dtype)["edge.normal"][0]) == [3, 4]


# Reading ----------------------------------------------------------------------------------------------------


def test_a_stride_takes_every_nth_record_and_raw_bytes_are_those_of_the_file(root: Path) -> None:
    reader = RunReader(root, "whole")
    assert list(reader.steps()["step"]) == list(range(1, 11))
    assert list(reader.steps(1, None, 3)["step"]) == [2, 5, 8]
    assert list(reader.steps(2, 5, 2)["step"]) == [3, 5, 7]
    assert list(reader.steps(8, 100)["step"]) == [9, 10] and len(reader.steps(50)) == 0
    file = (root / "whole" / "steps.bin").read_bytes()
    assert reader.raw_steps(2, 3) == file[HEADER + 2 * RECORD : HEADER + 5 * RECORD]
    assert reader.steps().dtype.names == ("step", "epoch", "stage", "flags", "metrics", "alpha.normal", "mix.normal")
    assert np.array_equal(reader.steps()["alpha.normal"], [s.alphas["normal"] for s in steps(10)])


def test_a_flipped_bit_ends_what_is_read_before_it(root: Path) -> None:
    path = root / "whole" / "steps.bin"
    whole = path.read_bytes()
    for place in range(HEADER + 5 * RECORD, HEADER + 6 * RECORD):
        spoiled = bytearray(whole)
        spoiled[place] ^= 1 << place % 8
        path.write_bytes(spoiled)
        assert list(RunReader(root, "whole").steps()["step"]) == [1, 2, 3, 4, 5]


def test_steps_cut_at_every_byte_are_the_whole_records_before_it(root: Path) -> None:
    path = root / "whole" / "steps.bin"
    whole = path.read_bytes()
    for end in range(HEADER, len(whole) + 1):
        path.write_bytes(whole[:end])
        reader = RunReader(root, "whole")
        assert reader.step_count() == (end - HEADER) // RECORD
        assert reader.raw_steps() == whole[HEADER : HEADER + reader.step_count() * RECORD]


@pytest.mark.parametrize("tail", [b"\0" * 1000, os.urandom(1000), b"\0" * RECORD * 7, b"\xff" * 3])
def test_a_zeroed_or_scrambled_end_is_left_out(root: Path, tail: bytes) -> None:
    with open(root / "whole" / "steps.bin", "ab") as file:
        file.write(tail)
    with open(root / "whole" / "events.jsonl", "ab") as file:
        file.write(tail)
    before = outcome_of_whole(root)
    assert RunReader(root, "whole").step_count() == 10 and state(root) == "finished"
    RunWriter.open(root, "whole").close()
    assert outcome(root, "whole") == before


def outcome_of_whole(root: Path) -> Any:
    """What `outcome` says of the run that the fixture made."""
    start(root, "again", 10)
    return outcome(root, "again")


def test_records_of_other_steps_are_not_whole(root: Path) -> None:
    path = root / "whole" / "steps.bin"
    path.write_bytes(path.read_bytes() + LAYOUT.record(steps(20)[19]))  # step 20 where step 11 should be
    assert RunReader(root, "whole").step_count() == 10


def test_a_header_cut_anywhere_is_corrupt_in_one_sentence(root: Path) -> None:
    path = root / "whole" / "steps.bin"
    whole = path.read_bytes()
    for end in (*range(0, 40), *range(40, HEADER, 71)):
        path.write_bytes(whole[:end])
        status = RunReader(root, "whole").status()
        assert status.state == "corrupt" and "cut off" in status.message
        with pytest.raises(BadInput, match="cut off"):
            RunReader(root, "whole").steps()
        with pytest.raises(BadInput, match="cut off"):
            RunWriter.open(root, "whole")


def test_lines_cut_at_every_byte_are_the_whole_lines_before_it(root: Path) -> None:
    path = root / "whole" / "events.jsonl"
    whole = path.read_bytes()
    all_lines = lines_of(root)
    for end in range(len(whole) + 1):
        path.write_bytes(whole[:end])
        reader = RunReader(root, "whole")
        found, offset = reader.events()
        assert found == all_lines[: whole[:end].count(b"\n")] and offset == whole[:end].rfind(b"\n") + 1
        assert end % 9 or reader.status().state in ("finished", "interrupted")


def test_a_writer_cuts_a_torn_end_before_it_appends(root: Path) -> None:
    """Cut at every byte of the last record and the last two lines: the next append is read back in its place."""
    whole = {name: (root / "whole" / name).read_bytes() for name in ("steps.bin", "events.jsonl")}
    for name, first in (
        ("steps.bin", HEADER + 9 * RECORD),
        ("events.jsonl", whole["events.jsonl"].rfind(b"\n", 0, -200)),
    ):
        for end in range(first, len(whole[name]), 3):
            for other in whole:
                (root / "whole" / other).write_bytes(whole[other] if other != name else whole[name][:end])
            with RunWriter.open(root, "whole") as writer:
                writer.append(steps(12)[writer.step])
                writer.append(Phase("search", "again"))
            reader = RunReader(root, "whole")
            assert reader.step_count() == writer.step
            assert [line["n"] for line in reader.events()[0]] == list(range(len(reader.events()[0])))
            assert reader.events()[0][-1]["message"] == "again"


def test_damage_in_the_middle_of_the_lines_is_corrupt_and_names_the_line(root: Path) -> None:
    path = root / "whole" / "events.jsonl"
    lines = path.read_bytes().split(b"\n")
    for spoiled in (b"", b"{", lines[2][:-5], b"\0" * 40):
        path.write_bytes(b"\n".join([*lines[:2], spoiled, *lines[3:]]))
        status = RunReader(root, "whole").status()
        assert status.state == "corrupt" and "events.jsonl, line 3" in status.message
        with pytest.raises(BadInput, match="line 3"):
            RunWriter.open(root, "whole")
    path.write_bytes(b"\n".join([*lines[:2], *lines[3:]]))
    assert "line 3 stands where line 2 should" in RunReader(root, "whole").status().message


def test_lines_of_a_later_version_are_not_cut_off(root: Path) -> None:
    path = root / "whole" / "events.jsonl"
    line = json.dumps({"type": "dreamt", "n": len(lines_of(root)), "time": 1.0})
    path.write_bytes(path.read_bytes() + line.encode() + b"\n")
    before = path.read_bytes()
    with pytest.raises(BadInput, match="unknown type 'dreamt'"):
        RunWriter.open(root, "whole")
    assert path.read_bytes() == before


def test_lines_are_read_from_where_the_last_call_stopped(tmp_path: Path) -> None:
    with RunWriter.create(tmp_path, "a", info()) as writer:
        reader, seen, offset = RunReader(tmp_path, "a"), [], 0
        for number in range(5):
            writer.append(Phase("data", f"part {number}"))
            found, offset = reader.events(offset)
            seen += found
        assert [line["message"] for line in seen] == [f"part {number}" for number in range(5)]
        assert reader.events(offset) == ([], offset) and reader.events(offset + 100) == ([], offset + 100)


def test_four_readers_see_every_step_of_a_live_writer_once_and_in_order(tmp_path: Path) -> None:
    seen: list[list[int]] = [[] for _ in range(4)]
    done = threading.Event()

    def follow(mine: list[int]) -> None:
        reader = RunReader(tmp_path, "a")
        while True:
            last = done.is_set()
            mine.extend(int(n) for n in reader.steps(len(mine))["step"])
            if last:
                return

    with RunWriter.create(tmp_path, "a", info()) as writer:
        threads = [threading.Thread(target=follow, args=(mine,)) for mine in seen]
        for thread in threads:
            thread.start()
        for step in steps(1500):
            writer.append(step)
        done.set()
        for thread in threads:
            thread.join()
    assert all(mine == list(range(1, 1501)) for mine in seen)


def test_more_than_64_mb_are_not_read_at_once(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reading, "READ_LIMIT", 5 * RECORD)
    reader = RunReader(root, "whole")
    with pytest.raises(BadInput, match="take a stride"):
        reader.steps()
    assert len(reader.steps(stride=2)) == 5


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


@QUICK
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
    assert state(tmp_path, "a") == "finished"


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


# Replay -----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory: pytest.TempPathFactory) -> Any:
    root = tmp_path_factory.mktemp("uninterrupted")
    start(root, "a", 14)
    return outcome(root, "a")


@pytest.mark.parametrize("until", range(1, 15))
def test_resuming_equals_never_having_stopped(tmp_path: Path, uninterrupted: Any, until: int) -> None:
    start(tmp_path, "a", 14, until=until)
    writer = resume(tmp_path, "a", 14)
    assert outcome(tmp_path, "a") == uninterrupted
    compared = until % PER_EPOCH != 0
    assert writer.identical is (True if compared else None)
    resumed = [line for line in lines_of(tmp_path, "a") if line["type"] == "resumed"]
    first = until - until % PER_EPOCH
    assert len(resumed) == 1 and resumed[0]["step"] == first and resumed[0]["identical"] is writer.identical
    assert resumed[0]["checkpoint"] == (runs.epoch_file(first // PER_EPOCH) if first else "")
    if compared:
        assert writer.message == f"steps {first + 1} to {until} came out bit-identical"
    assert RunReader(tmp_path, "a").generation() == 0 and state(tmp_path, "a") == "finished"


def test_resuming_again_and_again_equals_never_having_stopped(tmp_path: Path, uninterrupted: Any) -> None:
    start(tmp_path, "a", 14, until=6)
    for until in (5, 6, 7, 7, 9, 13):  # some of them die inside the replay
        resume(tmp_path, "a", 14, until=until)
    resume(tmp_path, "a", 14)
    assert outcome(tmp_path, "a") == uninterrupted


@pytest.mark.parametrize("lost", [1, 3, 6])
def test_lines_that_outlived_their_records_are_not_written_twice(tmp_path: Path, uninterrupted: Any, lost: int) -> None:
    """After a power cut events.jsonl may be ahead of steps.bin."""
    start(tmp_path, "a", 14, until=13)
    os.truncate(tmp_path / "a" / "steps.bin", HEADER + (13 - lost) * RECORD)
    resume(tmp_path, "a", 14)
    assert outcome(tmp_path, "a") == uninterrupted


def steer(root: Path, order: tuple[str, str, float] = ("set", "w_lr", 0.3)) -> str:
    return runs.send_order(root, "a", order[0], name=order[1], value=order[2])


@pytest.mark.parametrize("until", range(7, 14))
def test_a_steered_run_is_replayed_with_its_orders_at_their_steps(tmp_path: Path, until: int) -> None:
    def steered(root: Path) -> None:
        start(root, "a", 14, until=3)
        steer(root)  # taken at step 0: the checkpoint of step 4 is not there yet
        resume(root, "a", 14, until=6)
        steer(root, ("set", "w_lr", 0.7))

    for name in ("straight", "broken"):
        (tmp_path / name).mkdir()
        steered(tmp_path / name)
    resume(tmp_path / "straight", "a", 14)
    resume(tmp_path / "broken", "a", 14, until=until)
    writer = resume(tmp_path / "broken", "a", 14)
    anonymous = []
    for name in ("straight", "broken"):
        records, files, lines = outcome(tmp_path / name, "a")
        anonymous.append((records, files, [{k: v for k, v in line.items() if k != "id"} for line in lines]))
    assert anonymous[0] == anonymous[1] and writer.identical is not False
    assert [line["value"] for line in anonymous[1][2] if line["type"] == "applied"] == [0.3, 0.7]
    assert RunReader(tmp_path / "broken", "a").status().edited


def test_an_order_that_comes_during_a_replay_waits_for_its_end(tmp_path: Path) -> None:
    start(tmp_path, "a", 14, until=7)
    set_id, pause_id = steer(tmp_path), runs.send_order(tmp_path, "a", "pause")
    writer = resume(tmp_path, "a", 14)
    applied = {line["id"]: line["step"] for line in lines_of(tmp_path, "a") if line["type"] == "applied"}
    assert writer.identical is True and applied == {pause_id: 4, set_id: 7}


def test_a_run_that_comes_out_different_keeps_both_stories(tmp_path: Path) -> None:
    start(tmp_path, "a", 14, until=11)
    before = (tmp_path / "a" / "steps.bin").read_bytes()
    old = RunReader(tmp_path, "a").read_checkpoint("e0002.safetensors")
    (tmp_path / "a" / "checkpoints" / "e0002.safetensors").write_bytes(b"spoiled")  # so that it starts from step 4
    writer = resume(tmp_path, "a", 14, kick=7)
    assert writer.identical is False
    assert writer.message == "not bit-identical from step 7: 1 thread then, 2 now"
    reader = RunReader(tmp_path, "a")
    assert reader.generation() == 1 and reader.step_count() == 14 and state(tmp_path, "a") == "finished"
    now = (tmp_path / "a" / "steps.bin").read_bytes()
    assert now[: HEADER + 6 * RECORD] == before[: HEADER + 6 * RECORD]
    assert now[HEADER + 6 * RECORD : len(before)] != before[HEADER + 6 * RECORD :]
    tail = tmp_path / "a" / "tail-1"
    assert (tail / "steps.bin").read_bytes() == LAYOUT.header() + before[HEADER + 6 * RECORD :]
    moved = [json.loads(line) for line in (tail / "events.jsonl").read_text().splitlines()]
    assert [(line["type"], line["step"]) for line in moved] == [("epoch", 8), ("checkpoint", 8)]
    assert (tail / "e0002.safetensors").read_bytes() == b"spoiled" and old != reader.read_checkpoint(
        "e0002.safetensors"
    )
    kept = lines_of(tmp_path, "a")
    assert [line["n"] for line in kept] == list(range(len(kept)))
    assert [line["step"] for line in kept if line["type"] == "epoch"] == [4, 8, 12]
    assert [line["identical"] for line in kept if line["type"] == "resumed"] == [False]


def test_readers_learn_that_a_tail_was_moved_aside(tmp_path: Path) -> None:
    start(tmp_path, "a", 14, until=7)
    reader = RunReader(tmp_path, "a")
    assert (reader.generation(), reader.step_count(), reader.status().edited) == (0, 7, False)
    resume(tmp_path, "a", 14, until=6, kick=6)
    assert (reader.generation(), reader.step_count()) == (1, 6)
    assert reader.status().step == 6 and list(reader.steps()["step"]) == [1, 2, 3, 4, 5, 6]


def test_an_epoch_that_says_something_else_is_a_difference_too(tmp_path: Path) -> None:
    """Steps may agree while what is measured at the epoch's end does not: running statistics, for one."""
    start(tmp_path, "a", 14, until=5)
    path = tmp_path / "a" / "events.jsonl"
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    for line in lines:
        if line["type"] == "epoch":
            line["metrics"]["val_loss"] += 1e-9
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    (tmp_path / "a" / "checkpoints" / "e0001.safetensors").unlink()
    writer = resume(tmp_path, "a", 14)
    assert writer.identical is False and "not bit-identical from step 5" in writer.message
    assert [line["step"] for line in lines_of(tmp_path, "a") if line["type"] == "epoch"] == [4, 8, 12]
    assert RunReader(tmp_path, "a").step_count() == 14


class Killed(BaseException):
    """As if the process had died there."""


class Nth:
    """A function whose n-th call does something else."""

    def __init__(self, real: Callable[..., Any], nth: int, instead: Callable[..., Any]):
        self.real, self.nth, self.instead, self.calls = real, nth, instead, 0

    def __call__(self, *given: Any, **more: Any) -> Any:
        self.calls += 1
        return (self.instead if self.calls == self.nth else self.real)(*given, **more)


def die(*_: Any, **__: Any) -> None:
    raise Killed


@pytest.mark.parametrize("point", ["mkdir", "replace", "rename", "ftruncate"])
@pytest.mark.parametrize("nth", range(1, 5))
def test_a_kill_while_a_tail_is_moved_aside_leaves_a_run_that_can_be_resumed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, point: str, nth: int
) -> None:
    start(tmp_path, "a", 14, until=7)
    with RunWriter.open(tmp_path, "a") as writer, monkeypatch.context() as patch:
        writer.begin_replay(writer.last_good_checkpoint().step)
        writer.append(steps(5)[4])
        patch.setattr(os, point, Nth(getattr(os, point), nth, die))
        try:
            writer.append(dataclasses.replace(steps(6)[5], flags=0))
        except Killed:
            pass
    resume(tmp_path, "a", 14)
    reader = RunReader(tmp_path, "a")
    assert reader.step_count() == 14 and reader.status().state == "finished"
    assert reader.generation() >= 1 or (point, nth) == ("mkdir", 1)  # before anything was moved
    assert not (reader.folder / "tail-new").exists()


def test_replaying_begins_at_a_checkpoint_only(tmp_path: Path) -> None:
    start(tmp_path, "a", 14, until=7)
    with RunWriter.open(tmp_path, "a") as writer:
        for step in (3, 8, 12):
            with pytest.raises(BadInput, match=f"no checkpoint of step {step}"):
                writer.begin_replay(step)
        with pytest.raises(AssertionError):
            writer.append(steps(5)[4])  # recorded, and no replay
        with pytest.raises(AssertionError):
            writer.append(steps(9)[8])  # step 8 is missing
        with pytest.raises(AssertionError):
            writer.orders_to_replay(4)
        assert writer.recorded(7) == LAYOUT.record(steps(7)[6]) and writer.recorded(8) is writer.recorded(0) is None


def test_a_stopped_run_that_goes_on_ends_with_its_last_line(tmp_path: Path) -> None:
    start(tmp_path, "a", 6)
    resume(tmp_path, "a", 14)
    assert state(tmp_path, "a") == "finished" and RunReader(tmp_path, "a").step_count() == 14
    assert [line["step"] for line in lines_of(tmp_path, "a") if line["type"] == "result"] == [6, 14]


def test_trainings_after_the_search_are_matched_by_what_was_trained(tmp_path: Path) -> None:
    start(tmp_path, "a", 6, until=6)
    trained = Trained("random", 1, 3, None, 0.5, seconds=1.0)
    with RunWriter.open(tmp_path, "a") as writer:
        writer.append(trained)
    with RunWriter.open(tmp_path, "a") as writer:
        writer.begin_replay(4)
        for step in steps(6)[4:]:
            writer.append(step)
        writer.append(dataclasses.replace(trained, seconds=9.0))
        writer.append(dataclasses.replace(trained, index=2))
    assert [line["index"] for line in lines_of(tmp_path, "a") if line["type"] == "trained"] == [1, 2]


# Orders -----------------------------------------------------------------------------------------------------


def test_orders_come_once_in_the_order_in_which_they_were_sent(tmp_path: Path) -> None:
    with RunWriter.create(tmp_path, "a", info()) as writer:
        sent = [runs.send_order(tmp_path, "a", kind) for kind in ("pause", "step", "resume", "stop")]
        sent.append(steer(tmp_path))
        taken = writer.orders()
        assert [order.id for order in taken] == sent and writer.orders() == []
        assert (taken[-1].name, taken[-1].value) == ("w_lr", 0.3)
        for order in taken:
            writer.append(Applied(order.id, 0, order.kind, order.name, order.value, True, ""))
            writer.done(order)
        assert os.listdir(tmp_path / "a" / "commands") == []


def test_an_order_answered_by_a_process_that_died_is_not_obeyed_again(tmp_path: Path) -> None:
    with RunWriter.create(tmp_path, "a", info()) as writer:
        first, second = steer(tmp_path), steer(tmp_path)
        assert [order.id for order in writer.orders()] == [first, second]
        writer.append(Applied(first, 0, "set", "w_lr", 0.3, True, ""))
    with RunWriter.open(tmp_path, "a") as writer:
        assert [order.id for order in writer.orders()] == [second]
        assert len(os.listdir(tmp_path / "a" / "commands")) == 1


def test_an_order_file_that_is_doubled_is_obeyed_once(tmp_path: Path) -> None:
    with RunWriter.create(tmp_path, "a", info()) as writer:
        steer(tmp_path)
        folder = tmp_path / "a" / "commands"
        (file,) = os.listdir(folder)
        shutil.copy(folder / file, folder / ("9" + file[1:]))
        assert len(writer.orders()) == 1 and writer.orders() == [] and os.listdir(folder) == [file]


BAD_ORDERS = [
    b"", b"{", b"null", b'{"id":"x"}', b'{"id":"x","kind":"rm","time":1}', b"[" * 3000, b" " * 5000,
    b'{"id":"x","kind":"set","name":"a","value":NaN,"time":1}', b'{"id":"x","kind":"pause","path":"/etc"}',
]  # fmt: skip


@pytest.mark.parametrize("data", BAD_ORDERS, ids=lambda data: ascii(data[:20]))
def test_a_file_that_is_no_order_is_refused_in_an_event_and_deleted(tmp_path: Path, data: bytes) -> None:
    with RunWriter.create(tmp_path, "a", info()) as writer:
        folder = tmp_path / "a" / "commands"
        (folder / "1-0123456789abcdef.json").write_bytes(data)
        good = runs.send_order(tmp_path, "a", "pause")
        assert [order.id for order in writer.orders()] == [good]
        assert len(os.listdir(folder)) == 1
    (line,) = lines_of(tmp_path, "a")
    assert (line["type"], line["accepted"], line["id"]) == ("applied", False, "1-0123456789abcdef") and line["reason"]


def test_other_things_among_the_orders_do_no_harm(tmp_path: Path) -> None:
    with RunWriter.create(tmp_path, "a", info()) as writer:
        folder = tmp_path / "a" / "commands"
        (folder / "1-0123456789abcdef.json").mkdir()
        os.mkfifo(folder / "2-0123456789abcdef.json")
        (folder / "3-0123456789abcdef.json").symlink_to("/etc/passwd")
        (folder / "notes.txt").write_text("hello")
        assert writer.orders() == [] and writer.orders() == []
        assert len(writer.reader.events()[0]) == 3
        shutil.rmtree(folder)
        assert writer.orders() == []


@pytest.mark.parametrize("inner", ["commands", "checkpoints"])
def test_nothing_is_written_through_a_folder_that_is_a_link(root: Path, inner: str) -> None:
    (root / "elsewhere").mkdir()
    (root / "elsewhere" / ".a.0123456789ab.tmp").write_bytes(b"not ours")
    shutil.rmtree(root / "whole" / inner)
    (root / "whole" / inner).symlink_to(root / "elsewhere")
    with pytest.raises(BadInput, match="link"):
        RunWriter.open(root, "whole")
    if inner == "commands":
        with pytest.raises(BadInput, match="link"):
            runs.send_order(root, "whole", "pause")
    assert os.listdir(root / "elsewhere") == [".a.0123456789ab.tmp"]


def test_orders_are_checked_before_they_are_sent(root: Path) -> None:
    for use in (
        lambda: runs.send_order(root, "whole", "explode"),
        lambda: runs.send_order(root, "whole", "set"),
        lambda: runs.send_order(root, "whole", "pause", name="w_lr", value=1),
        lambda: runs.send_order(root, "whole", "set", name="w_lr", value=float("inf")),
        lambda: runs.send_order(root, "nothing", "pause"),
        lambda: runs.send_order(root, "../whole", "pause"),
    ):
        with pytest.raises(BadInput):
            use()
    assert os.listdir(root / "whole" / "commands") == []


# Checkpoints ------------------------------------------------------------------------------------------------


def damage_flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[-3] ^= 4
    path.write_bytes(data)


def damage_cut(path: Path) -> None:
    os.truncate(path, path.stat().st_size // 2)


def damage_empty(path: Path) -> None:
    os.truncate(path, 0)


def damage_grow(path: Path) -> None:
    path.write_bytes(path.read_bytes() + b"more")


def damage_link(path: Path) -> None:
    shutil.move(path, path.parent.parent / "elsewhere")
    path.symlink_to(path.parent.parent / "elsewhere")


@pytest.mark.parametrize("damage", [damage_flip, damage_cut, damage_empty, damage_grow, damage_link, Path.unlink])
def test_a_damaged_newest_checkpoint_is_named_and_the_one_before_is_used(
    tmp_path: Path, uninterrupted: Any, damage: Callable[[Path], None]
) -> None:
    start(tmp_path, "a", 14, until=11)
    damage(tmp_path / "a" / "checkpoints" / "e0002.safetensors")
    with pytest.raises(BadInput):
        RunReader(tmp_path, "a").read_checkpoint("e0002.safetensors")
    with RunWriter.open(tmp_path, "a") as writer:
        found = writer.last_good_checkpoint()
        assert found.event is not None and (found.event.file, found.step) == ("e0001.safetensors", 4)
        assert len(found.skipped) == 1 and found.skipped[0].startswith("e0002.safetensors: ")
    resume(tmp_path, "a", 14)
    assert outcome(tmp_path, "a") == uninterrupted  # the damaged one was computed and written again


def test_without_any_sound_checkpoint_a_run_starts_again_and_compares(tmp_path: Path, uninterrupted: Any) -> None:
    start(tmp_path, "a", 14, until=9)
    for path in (tmp_path / "a" / "checkpoints").iterdir():
        damage_flip(path)
    writer = resume(tmp_path, "a", 14)
    assert writer.identical is True and outcome(tmp_path, "a") == uninterrupted


def test_a_checkpoint_ahead_of_its_records_is_not_used(tmp_path: Path) -> None:
    start(tmp_path, "a", 14, until=9)
    os.truncate(tmp_path / "a" / "steps.bin", HEADER + 7 * RECORD)
    with RunWriter.open(tmp_path, "a") as writer:
        found = writer.last_good_checkpoint()
    assert found.step == 4 and "end before its step 8" in found.skipped[0]


def test_a_checkpoint_is_checked_before_it_is_written(tmp_path: Path) -> None:
    with RunWriter.create(tmp_path, "a", info()) as writer:
        with pytest.raises(BadInput, match="cut off"):
            writer.save_checkpoint("e0000.safetensors", b"junk", 0, 0)
        for file, step in (("../x.safetensors", 0), ("e0000.pt", 0), ("e0000.safetensors", 3)):
            with pytest.raises(AssertionError):
                writer.save_checkpoint(file, stored.to_bytes(np.zeros((2, 2)), 0.1), 0, step)
        assert os.listdir(tmp_path / "a" / "checkpoints") == [] and writer.reader.events()[0] == []


def test_a_checkpoint_is_recorded_once_and_found_by_its_epoch(tmp_path: Path) -> None:
    with RunWriter.create(tmp_path, "a", info()) as writer:
        data = stored.to_bytes(np.zeros((2, 2)), 0.1)
        event = writer.save_checkpoint(runs.epoch_file(0), data, 0, 0)
        writer.append(event)  # a driver may pass on what it was given
        writer.append(steps(1)[0])
        middle = writer.save_checkpoint(runs.step_file(1), data, 0, 1)
        assert (event.file, middle.file) == ("e0000.safetensors", "s00000001.safetensors")
        reader = RunReader(tmp_path, "a")
        assert reader.checkpoints() == [event, middle] and len(reader.events()[0]) == 2
        assert reader.checkpoint_at(0) == event and reader.read_checkpoint(event.file) == data
        with pytest.raises(BadInput, match="no checkpoint of epoch 3; there are: 0"):
            reader.checkpoint_at(3)
        with pytest.raises(BadInput, match="did you mean 'e0000.safetensors'"):
            reader.read_checkpoint("e0001.safetensors")


def test_no_name_in_an_event_leads_outside(root: Path) -> None:
    (root / "secret").write_bytes(b"")
    with RunWriter.open(root, "whole") as writer:
        writer.append(Checkpoint(9, 9, "../../secret", io.sha256(b""), 0))
    reader = RunReader(root, "whole")
    with pytest.raises(BadInput, match="not the name of a checkpoint"):
        reader.read_checkpoint("../../secret")
    assert "../../secret" not in [event.file for event in reader.checkpoints()]


def checkpoints_of(sizes: list[int]) -> list[Checkpoint]:
    return [Checkpoint(n, 4 * n, runs.epoch_file(n), "", size) for n, size in enumerate(sizes)]


def test_over_the_budget_every_second_old_checkpoint_goes() -> None:
    def gone(count: int, budget: int, pinned: tuple[str, ...] = ()) -> list[int]:
        return [event.epoch for event in superfluous(checkpoints_of([10] * count), budget, pinned)]

    assert gone(8, 80) == [] and gone(8, 79) == [1] and gone(8, 60) == [1, 3] and gone(8, 50) == [1, 3, 5]
    assert gone(8, 40) == [1, 3, 5, 2] and gone(8, 0) == [1, 3, 5, 2, 4]  # the first and the last two stay
    assert gone(8, 50, ("e0001.safetensors",)) == [2, 4, 3] and gone(2, 0) == [] and gone(0, 0) == []


@QUICK
@given(st.lists(st.integers(0, 50), max_size=12), st.integers(0, 300))
def test_thinning_keeps_within_the_budget_or_keeps_only_what_must_stay(sizes: list[int], budget: int) -> None:
    there = checkpoints_of(sizes)
    gone = superfluous(there, budget, ())
    left = [event for event in there if event not in gone]
    assert len(set(gone)) == len(gone) and left[:1] == there[:1] and left[-2:] == there[-2:]
    assert sum(event.bytes for event in left) <= budget or len(left) <= 3


def test_a_writer_keeps_to_its_budget_and_spares_branch_points(tmp_path: Path) -> None:
    with RunWriter.create(tmp_path, "a", info()) as writer:
        size = len(stored.to_bytes(np.zeros((2, 2)), 0.1))
        stored.drive(writer, 8)
    branched = RunReader(tmp_path, "a").checkpoint_at(1)
    origin = {"run": "a", "epoch": 1, "step": 4, "sha256": branched.sha256}
    RunWriter.create(tmp_path, "b", info(parent=origin)).close()
    with RunWriter.open(tmp_path, "a") as writer:
        writer.budget = 5 * size
        stored.drive(writer, 40)
    kept = [event.epoch for event in RunReader(tmp_path, "a").checkpoints()]
    assert len(kept) <= 6 and kept[:1] == [1] and kept[-2:] == [9, 10]
    with RunWriter.open(tmp_path, "a") as writer:
        assert writer.last_good_checkpoint().skipped == []


# Branches ---------------------------------------------------------------------------------------------------


def branch(root: Path, epoch: int) -> RunWriter:
    parent = RunReader(root, "whole")
    event = parent.checkpoint_at(epoch)
    origin = {"run": "whole", "epoch": epoch, "step": event.step, "sha256": event.sha256}
    writer = RunWriter.create(root, "branch", info(parent=origin))
    writer.adopt_checkpoint(parent, event.file)
    return writer


def test_an_unchanged_branch_repeats_its_parent_and_holds_only_its_own_steps(root: Path) -> None:
    with branch(root, 1) as writer:
        assert (writer.step, writer.first_step, writer.last_good_checkpoint().step) == (4, 5, 4)
        stored.drive(writer, 10)
    reader = RunReader(root, "branch")
    assert list(reader.steps()["step"]) == [5, 6, 7, 8, 9, 10] and reader.status().step == 10
    assert reader.raw_steps() == RunReader(root, "whole").raw_steps(4)
    assert [event.epoch for event in reader.checkpoints()] == [1, 2]


@pytest.mark.parametrize("until", [5, 7, 8, 9])
def test_a_branch_is_resumed_like_any_run(root: Path, until: int) -> None:
    with branch(root, 1) as writer:
        stored.drive(writer, 10, until=until)
    writer = resume(root, "branch", 10)
    assert writer.identical is not False
    assert RunReader(root, "branch").raw_steps() == RunReader(root, "whole").raw_steps(4)


def test_a_branch_takes_no_other_checkpoint_than_the_one_it_names(root: Path) -> None:
    parent = RunReader(root, "whole")
    origin = {"run": "whole", "epoch": 1, "step": 4, "sha256": parent.checkpoint_at(1).sha256}
    with RunWriter.create(root, "b", info(parent=origin)) as writer:
        with pytest.raises(BadInput, match="no checkpoint of this branch can be used .there is none."):
            writer.last_good_checkpoint()
        with pytest.raises(BadInput, match="not the checkpoint that run.json tells of"):
            writer.adopt_checkpoint(parent, "e0002.safetensors")
        damage_flip(root / "whole" / "checkpoints" / "e0001.safetensors")
        with pytest.raises(BadInput, match="SHA-256"):
            writer.adopt_checkpoint(parent, "e0001.safetensors")


# Faults of the disk -----------------------------------------------------------------------------------------


def no_space(*_: Any) -> None:
    raise OSError(28, "No space left on device")


def half_written(fd: int, data: bytes) -> int:
    return WRITE(fd, bytes(data)[: len(data) // 2])


WRITE = os.write
FAULTS = {
    "write": (os.write, no_space),
    "short write": (os.write, half_written),
    "fsync": (lambda fd: None, no_space),
    "replace": (os.replace, no_space),
}


class Noted(RunWriter):
    """Remembers the last step whose `append` returned."""

    acknowledged = 0

    def append(self, event: Any) -> None:
        super().append(event)
        if isinstance(event, Step):
            type(self).acknowledged = event.step


@pytest.mark.parametrize("call", FAULTS)
def test_whichever_call_fails_nothing_acknowledged_is_lost_and_the_run_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, uninterrupted: Any, call: str
) -> None:
    """The n-th write, sync or rename fails for want of space, for every n; then there is room again."""
    monkeypatch.setattr(os, "fsync", lambda fd: None)
    for nth in range(1, 1000):
        root = tmp_path / f"{nth}"
        real, instead = FAULTS[call]
        faulty = Nth(real, nth, instead)
        Noted.acknowledged = 0
        with monkeypatch.context() as patch:
            patch.setattr(os, call.split()[-1], faulty)
            try:
                with Noted.create(root, "a", info()) as writer:
                    stored.drive(writer, 14)
            except BadInput as error:
                assert "disk full: 1 MB needed in" in str(error) and "make room and resume" in str(error)
        if faulty.calls < nth:
            break
        if not (root / "a").exists():
            assert Noted.acknowledged == 0 and os.listdir(root) == []
            start(root, "a", 14)
        else:
            assert RunReader(root, "a").step_count() >= Noted.acknowledged
            if state(root, "a") != "finished":
                resume(root, "a", 14)
        assert outcome(root, "a") == uninterrupted, (call, nth)
    assert nth > 5


# Zip --------------------------------------------------------------------------------------------------------


def test_a_run_comes_back_from_its_zip(root: Path) -> None:
    runs.import_run(root, runs.export_run(root, "whole", checkpoints=True), "copy")
    assert outcome(root, "copy") == outcome(root, "whole")
    assert RunReader(root, "copy").info == {**RunReader(root, "whole").info, "name": "copy"}
    small = runs.import_run(root, runs.export_run(root, "whole"), "small")
    assert small.step_count() == 10 and small.checkpoints() == [] and small.status().state == "finished"
    with RunWriter.open(root, "copy") as writer:
        assert writer.last_good_checkpoint().step == 8


def test_a_live_run_can_be_exported(tmp_path: Path) -> None:
    with RunWriter.create(tmp_path, "a", info()) as writer:
        stored.drive(writer, 14, until=6)
        data = runs.export_run(tmp_path, "a", checkpoints=True)
    assert runs.import_run(tmp_path, data, "b").step_count() == 6


def test_a_zip_does_not_replace_a_run(root: Path) -> None:
    with pytest.raises(runs.NameTaken):
        runs.import_run(root, runs.export_run(root, "whole"), "whole")
    with pytest.raises(BadInput, match="not a name"):
        runs.import_run(root, runs.export_run(root, "whole"), "../whole")


def members_of(data: bytes) -> dict[str, bytes]:
    with zipfile.ZipFile(memory.BytesIO(data)) as zipped:
        return {name: zipped.read(name) for name in zipped.namelist()}


def zip_of(members: dict[str, bytes], packing: int = zipfile.ZIP_DEFLATED) -> bytes:
    out = memory.BytesIO()
    with zipfile.ZipFile(out, "w", packing) as zipped:
        for name, data in members.items():
            zipped.writestr(name, data)
    return out.getvalue()


def hostile_zips(members: dict[str, bytes]) -> Iterator[tuple[str, bytes]]:
    yield "nothing", b""
    yield "no zip", b"PK" + b"x" * 100
    yield "cut off", zip_of(members)[:-30]
    for name in ("run.json", "steps.bin", "events.jsonl"):
        yield f"without {name}", zip_of({k: v for k, v in members.items() if k != name})
    for name in (
        "../evil",
        "/etc/evil",
        "a/../../evil",
        "checkpoints/../evil.safetensors",
        "commands/1-00.json",
        "x.pt",
    ):
        yield name, zip_of({**members, name: b"x"})
    yield "folder", zip_of({**members, "checkpoints/": b""})
    yield "bomb", zip_of({**members, "events.jsonl": b"\n" * (30 << 20)})
    yield "zeros for records", zip_of({**members, "steps.bin": b"\0" * (30 << 20)})
    yield "lzma", zip_of(members, zipfile.ZIP_LZMA)
    yield "other layout", zip_of({**members, "steps.bin": runs.Layout.of(("x",), SPACE).header()})
    yield "spoiled run.json", zip_of({**members, "run.json": b"{}"})
    yield "later schema", zip_of({**members, "run.json": members["run.json"].replace(b'"schema":1', b'"schema":9')})
    yield "spoiled line", zip_of({**members, "events.jsonl": members["events.jsonl"].replace(b'"phase"', b'"phaze"')})
    yield "stranger's checkpoint", zip_of({**members, "checkpoints/e0009.safetensors": b"x"})
    yield "spoiled checkpoint", zip_of({**members, "checkpoints/e0001.safetensors": b"x"})


def test_a_hostile_zip_is_refused_in_one_sentence_and_leaves_nothing(root: Path) -> None:
    members = members_of(runs.export_run(root, "whole", checkpoints=True))
    for case, data in hostile_zips(members):
        with pytest.raises(BadInput) as caught:
            runs.import_run(root, data, "new")
        assert "\n" not in str(caught.value) and len(str(caught.value)) < 300, case
        assert sorted(os.listdir(root)) == ["whole"], case


def test_a_link_in_a_zip_becomes_no_link(root: Path) -> None:
    members = members_of(runs.export_run(root, "whole"))
    out = memory.BytesIO()
    with zipfile.ZipFile(out, "w") as zipped:
        for name, data in members.items():
            entry = zipfile.ZipInfo(name)
            entry.external_attr = (stat.S_IFLNK | 0o777) << 16
            zipped.writestr(entry, data)
    runs.import_run(root, out.getvalue(), "new")
    assert not any(path.is_symlink() for path in (root / "new").rglob("*"))


@QUICK
@given(st.data())
def test_a_mutated_zip_is_a_run_or_bad_input(
    example: Path, tmp_path_factory: pytest.TempPathFactory, data: Any
) -> None:
    root = tmp_path_factory.getbasetemp() / "zips"
    shutil.rmtree(root, ignore_errors=True)
    content = bytearray(runs.export_run(example, "whole", checkpoints=True))
    for _ in range(data.draw(st.integers(1, 4))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    try:
        runs.import_run(root, bytes(content), "new")
    except BadInput as error:
        assert "\n" not in str(error) and not (root / "new").exists()
    else:
        assert RunReader(root, "new").status().state != "corrupt"


def test_the_package_reads_runs_without_torch() -> None:
    code = "import sys, darts_core.runs; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_an_epoch_line_is_an_event_again(root: Path) -> None:
    assert [type(from_json(line)) for line in lines_of(root) if line["type"] == "epoch"] == [Epoch, Epoch]
