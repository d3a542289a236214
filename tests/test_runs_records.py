"""Records, and reading them: whole after any cut, damage named, every step of a live writer seen once."""

from __future__ import annotations

import dataclasses
import json
import os
import struct
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from darts_core import runs
from darts_core.errors import BadInput
from darts_core.events import (
    Phase,
)
from darts_core.runs import RunReader, RunWriter, reading
from tests.stored import (
    HEADER,
    LAYOUT,
    RECORD,
    SPACE,
    info,
    lines_of,
    outcome,
    start,
    state_of,
    steps,
)

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
    assert RunReader(root, "whole").step_count() == 10 and state_of(root) == "finished"
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
