"""Bytes in and out: nothing half-written, nothing unbounded, nothing but plain JSON, one sentence for every fault."""

from __future__ import annotations

import copy
import errno
import json
import math
import os
import stat
import struct
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from darts_core import io
from darts_core.errors import BadInput, nearest, unknown
from darts_core.seeds import seed

QUICK = settings(
    max_examples=150, deadline=None, suppress_health_check=(HealthCheck.too_slow, HealthCheck.data_too_large)
)


# Errors and seeds -------------------------------------------------------------------------------------------


def test_an_error_is_one_line_and_leaves_out_its_empty_parts() -> None:
    assert str(BadInput("a.json", "epochs", "must be positive", "give 1 or more")) == (
        "a.json: epochs: must be positive; give 1 or more"
    )
    assert str(BadInput("", "", "no\n such\tthing", "")) == "no such thing"
    assert str(BadInput("x", "", "\u202eevil\x00", "")) == "x: \\u202eevil\\x00"
    assert len(str(BadInput("x" * 9000, "", "what", ""))) < 2100


def test_an_error_can_be_copied_whole() -> None:
    error = BadInput("file", "field", "what", "fix")
    again = copy.copy(error)
    assert (again.where, again.field, again.what, again.fix) == ("file", "field", "what", "fix")


def test_the_nearest_known_name_is_offered_and_none_when_none_is_near() -> None:
    assert nearest("dart", ["darts", "random"]) == "darts"
    assert nearest("DARTS", ["darts", "random"]) == "darts"
    assert nearest("zzzzz", ["darts", "random"]) is None
    said = str(unknown("form", "strategy", "dart", ["darts", "random"]))
    assert said == "form: strategy: unknown strategy 'dart'; did you mean 'darts'? known: darts, random"


def test_seeds_are_equal_for_equal_purposes_and_unrelated_otherwise() -> None:
    assert seed(0, "order", 1, 2) == seed(0, "order", 1, 2) == seed(np.int64(0), "order", 1, np.int32(2))  # type: ignore[arg-type]
    many = {seed(base, purpose, n) for base in range(10) for purpose in ("a", "b") for n in range(500)}
    assert len(many) == 10_000 and all(0 <= s < 1 << 63 for s in many)
    assert len({seed(0, "a", 12), seed(0, "a1", 2), seed(0, "a", 1, 2), seed(1, "a", 2), seed(0, "a12")}) == 5
    assert abs(np.mean([s / 2**63 for s in many]) - 0.5) < 0.01


# Names ------------------------------------------------------------------------------------------------------

EVIL = [
    "", ".", "..", "../x", "a/b", "a\\b", "/etc", "C:x", "con", "nul", "com1", "lpt9", "%2e%2e", "a.b", "A", "ä", "a b",
    "-a", "_a", "a\n", "\na", "a\x00", "\u202ea", "a" * 65, "ａ", "a\u200b", "٣", ".trash", "~", None, 3, b"a",
]  # fmt: skip


@pytest.mark.parametrize("name", EVIL, ids=ascii)
def test_a_name_that_could_be_a_path_or_a_device_is_refused(name: Any) -> None:
    with pytest.raises(BadInput, match="is not a name"):
        io.safe_name(name)


def test_slugs_are_names() -> None:
    for name in ("a", "0", "cifar10-darts-001", "a_b", "a" * 64):
        assert io.safe_name(name) == name


def test_a_link_in_the_place_of_a_folder_is_refused(tmp_path: Path) -> None:
    (tmp_path / "there").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "there")
    with pytest.raises(BadInput, match="link"):
        io.inside(tmp_path, "link")
    assert io.inside(tmp_path, "there") == tmp_path / "there"


# Reading ----------------------------------------------------------------------------------------------------


def test_reading_is_bounded_and_takes_regular_files_only(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"0123456789")
    assert io.read_bytes(path, 10) == b"0123456789"
    with pytest.raises(BadInput, match="10 bytes are more than the 9 allowed"):
        io.read_bytes(path, 9)
    (tmp_path / "link").symlink_to(path)
    with pytest.raises(BadInput, match="link"):
        io.read_bytes(tmp_path / "link", 10)
    os.mkfifo(tmp_path / "pipe")
    for other in ("pipe", ".", "none", "file/inner", "nul\0"):
        with pytest.raises(BadInput):
            io.read_bytes(tmp_path / other, 10)


def test_reading_at_a_place_gives_what_is_there(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(bytes(range(100)))
    with io.opened(path) as file:
        assert io.read_at(file, 10, 5) == bytes(range(10, 15))
        assert io.read_at(file, 98, 5) == bytes([98, 99])
        assert io.read_at(file, 200, 5) == b""


# JSON -------------------------------------------------------------------------------------------------------

BAD_JSON = [
    b"NaN", b"[Infinity]", b"-Infinity", b'{"a":1,"a":2}', b"1e400", b"1" * 30, b"9223372036854775808", b"[" * 5000,
    b"[" * 100 + b"]" * 100, b'{"a":' * 5000, b"\xef\xbb\xbf{}", b"\xff\xfe{\x00}\x00", b"{}x", b"", b"{", b'"\x80"',
    b'"\\ud800"', b'{"\\udfff":1}', b"'a'", b"[1,]", b"\x00", b"1" * 5000, b"0." + b"1" * 5000, b'"a\nb"', b"nul",
]  # fmt: skip


@pytest.mark.parametrize("data", BAD_JSON, ids=lambda data: ascii(data[:12]))
def test_json_that_is_not_plain_is_refused_in_one_sentence(data: bytes) -> None:
    with pytest.raises(BadInput) as caught:
        io.loads(data, "x.json")
    assert caught.value.where == "x.json" and "\n" not in str(caught.value) and len(str(caught.value)) < 300


def test_json_larger_than_allowed_is_refused_before_it_is_parsed() -> None:
    with pytest.raises(BadInput, match="allowed here"):
        io.loads(b"[" * 11, "x", limit=10)


def test_brackets_in_strings_do_not_nest() -> None:
    value = {"a": "[" * 500 + '\\"{' * 50, "b": [[1], [2]] * 40}
    assert io.loads(json.dumps(value).encode(), "x") == value


SCALAR = st.none() | st.booleans() | st.integers(-(2**62), 2**62) | st.floats(allow_nan=False, allow_infinity=False)
JSON = st.recursive(
    SCALAR | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=5), inner, max_size=4),
    max_leaves=20,
)  # fmt: skip


@QUICK
@given(JSON)
def test_what_is_written_as_json_is_read_back(value: Any) -> None:
    assert io.loads(io.dumps(value).encode(), "x") == value


@QUICK
@given(st.binary(max_size=60))
def test_any_bytes_are_json_or_bad_input(data: bytes) -> None:
    try:
        io.dumps(io.loads(data, "x"))
    except BadInput:
        pass


def test_writing_json_names_the_field_that_is_wrong() -> None:
    for value, field in (
        ({"a": {"b": [1, math.nan]}}, "a.b.1"),
        ({"a": np.float32("inf")}, "a"),
        ({"a": {1: 2}}, "a"),
        ({"a": np.zeros(2)}, "a"),
        ({"a": {3, 4}}, "a"),
        ({"n": 1 << 70}, "n"),
    ):
        with pytest.raises(BadInput) as caught:
            io.dumps(value, "events.jsonl")
        assert (caught.value.where, caught.value.field) == ("events.jsonl", field)
    loop: list[Any] = []
    loop.append(loop)
    with pytest.raises(BadInput, match="nested"):
        io.dumps(loop)


def test_numpy_numbers_become_plain_ones() -> None:
    assert io.dumps({"a": np.float32(0.5), "b": np.int64(3), "c": np.bool_(True), "d": (1, 2)}) == (
        '{"a":0.5,"b":3,"c":true,"d":[1,2]}'
    )


# Writing ----------------------------------------------------------------------------------------------------


def test_an_atomic_write_replaces_the_file_and_leaves_nothing_beside_it(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    io.atomic_write(path, b"old")
    io.atomic_write(path, b"new")
    assert path.read_bytes() == b"new" and os.listdir(tmp_path) == ["a.json"]
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_a_check_that_fails_keeps_the_old_file(tmp_path: Path) -> None:
    def refuse(data: bytes) -> None:
        raise BadInput("check", "", f"no {data!r}", "")

    path = tmp_path / "a"
    io.atomic_write(path, b"old")
    with pytest.raises(BadInput, match="no b'new'"):
        io.atomic_write(path, b"new", refuse)
    assert path.read_bytes() == b"old" and os.listdir(tmp_path) == ["a"]


@pytest.mark.parametrize("call", ["write", "fsync", "replace"])
@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EIO, errno.EDQUOT])
def test_a_failed_atomic_write_keeps_the_old_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: str, code: int
) -> None:
    def fail(*_: Any) -> None:
        raise OSError(code, os.strerror(code))

    path = tmp_path / "a"
    io.atomic_write(path, b"old")
    with monkeypatch.context() as patch:
        patch.setattr(os, call, fail)
        with pytest.raises(BadInput) as caught:
            io.atomic_write(path, b"x" * 3_000_001)
    expected = (
        "the disk refused" if code == errno.EIO else f"disk full: 4 MB needed in {tmp_path}; make room and resume"
    )
    assert expected in str(caught.value)
    assert path.read_bytes() == b"old" and os.listdir(tmp_path) == ["a"]


def test_a_short_write_goes_on_where_it_stopped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write = os.write
    monkeypatch.setattr(os, "write", lambda fd, data: write(fd, bytes(data)[:7]))
    io.atomic_write(tmp_path / "a", bytes(range(100)))
    assert (tmp_path / "a").read_bytes() == bytes(range(100))


def test_appends_are_whole_and_at_the_end(tmp_path: Path) -> None:
    path = tmp_path / "log"
    appender = io.Appender(path)
    for number in range(5):
        appender.append(b"%d\n" % number)
    appender.close()
    appender = io.Appender(path)
    appender.append(b"5\n")
    appender.close()
    assert path.read_bytes() == b"0\n1\n2\n3\n4\n5\n" and stat.S_IMODE(path.stat().st_mode) == 0o600


@pytest.mark.parametrize("fault", ["short", errno.ENOSPC, errno.EIO])
@pytest.mark.parametrize("stuck", [False, True])
def test_a_failed_append_leaves_no_half_record(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fault: Any, stuck: bool
) -> None:
    """Also when cutting back fails at that moment: then the next append cuts first."""
    path, write = tmp_path / "log", os.write
    appender = io.Appender(path)
    appender.append(b"whole")

    def half(fd: int, data: bytes) -> int:
        write(fd, data[: len(data) // 2])
        if fault == "short":
            return len(data) // 2
        raise OSError(fault, os.strerror(fault))

    def refuse(fd: int, size: int) -> None:
        raise OSError(errno.EIO, "no")

    with monkeypatch.context() as patch:
        patch.setattr(os, "write", half)
        if stuck:
            patch.setattr(os, "ftruncate", refuse)
        with pytest.raises(BadInput, match="the disk refused" if fault == errno.EIO else "disk full: 1 MB needed in"):
            appender.append(b"record")
    if not stuck:
        assert path.read_bytes() == b"whole"
    appender.append(b", again")
    appender.close()
    assert path.read_bytes() == b"whole, again"


def test_an_appender_notices_that_its_file_was_cut_or_deleted(tmp_path: Path) -> None:
    path = tmp_path / "log"
    appender = io.Appender(path)
    appender.append(b"0123456789")
    os.truncate(path, 5)
    with pytest.raises(BadInput, match="cut it to 5 bytes"):
        appender.append(b"x")
    os.unlink(path)
    with pytest.raises(BadInput, match="deleted"):
        appender.append(b"x")
    appender.close()
    with pytest.raises(BadInput, match="closed"):
        appender.append(b"x")


def test_appends_are_synced_at_most_once_a_second(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    synced: list[int] = []
    now = [100.0]
    monkeypatch.setattr(os, "fsync", synced.append)
    monkeypatch.setattr(io.time, "monotonic", lambda: now[0])
    appender = io.Appender(tmp_path / "log")
    for _ in range(50):
        appender.append(b"x")
        now[0] += 0.1
    assert len(synced) in (4, 5)


def test_a_link_is_not_written_through(tmp_path: Path) -> None:
    (tmp_path / "target").write_bytes(b"precious")
    (tmp_path / "log").symlink_to(tmp_path / "target")
    with pytest.raises(BadInput):
        io.Appender(tmp_path / "log")
    io.atomic_write(tmp_path / "log", b"x")  # replaces the link itself
    assert (tmp_path / "target").read_bytes() == b"precious"


def test_stray_temporary_files_are_swept_and_nothing_else(tmp_path: Path) -> None:
    for name in (".a.json.0123456789ab.tmp", "a.tmp", ".hidden", "a.json"):
        (tmp_path / name).write_bytes(b"")
    io.sweep(tmp_path)
    assert sorted(os.listdir(tmp_path)) == [".hidden", "a.json", "a.tmp"]


# Locks ------------------------------------------------------------------------------------------------------


def test_a_lock_is_seen_by_others_and_freed_by_death(tmp_path: Path) -> None:
    path = tmp_path / "lock"
    assert not io.locked(path)
    code = "import sys, darts_core.io as io; l = io.Lock(sys.argv[1], '{}'); print(1, flush=True); input()"
    with subprocess.Popen(
        [sys.executable, "-c", code, str(path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as child:
        assert child.stdout is not None and child.stdout.readline() == b"1\n"
        assert io.locked(path) and io.locked(path)
        with pytest.raises(BlockingIOError):
            io.Lock(path, "", patience=0.05)
        child.kill()
        child.wait()
    assert not io.locked(path)
    io.Lock(path, "mine").release()
    assert path.read_text("utf-8") == "mine"


def test_readers_that_look_do_not_keep_a_writer_out(tmp_path: Path) -> None:
    path = tmp_path / "lock"
    io.Lock(path, "").release()
    stop = threading.Event()

    def look() -> None:
        while not stop.is_set():
            io.locked(path)

    readers = [threading.Thread(target=look) for _ in range(3)]
    for reader in readers:
        reader.start()
    try:
        for _ in range(50):
            io.Lock(path, "x", patience=5).release()
    finally:
        stop.set()
        for reader in readers:
            reader.join()
    assert not io.locked(path)


# Tensor files -----------------------------------------------------------------------------------------------


def tensor_file(header: Any, data: bytes = b"", length: int | None = None) -> bytes:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text) if length is None else length) + text + data


A = {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}
HOSTILE = {
    "empty": b"",
    "seven bytes": b"1234567",
    "header of 2**63 bytes": tensor_file(b"{}", length=1 << 63),
    "header longer than the file": tensor_file(b"{}", length=100),
    "header over 1 MB": tensor_file(b" " * (2 << 20) + b"{}"),
    "no table": tensor_file([1]),
    "no JSON": tensor_file(b"{'a'}"),
    "repeated tensor": tensor_file(b'{"a":{"dtype":"U8","shape":[],"data_offsets":[0,1]},"a":{}}', b"1"),
    "metadata of numbers": tensor_file({"__metadata__": {"a": 1}}),
    "unknown dtype": tensor_file({"a": {**A, "dtype": "OBJ"}}, b"x" * 8),
    "dtype of another kind": tensor_file({"a": {**A, "dtype": ["F32"]}}, b"x" * 8),
    "negative size": tensor_file({"a": {**A, "shape": [-2]}}, b"x" * 8),
    "size true": tensor_file({"a": {**A, "shape": [True, 2]}}, b"x" * 8),
    "huge shape": tensor_file({"a": {**A, "shape": [1 << 40, 1 << 40]}}, b"x" * 8),
    "offsets the wrong way": tensor_file({"a": {**A, "data_offsets": [8, 0]}}, b"x" * 8),
    "one offset": tensor_file({"a": {**A, "data_offsets": [0]}}, b"x" * 8),
    "hole": tensor_file({"a": {**A, "data_offsets": [4, 12]}}, b"x" * 12),
    "overlap": tensor_file({"a": A, "b": {**A, "data_offsets": [4, 12]}}, b"x" * 12),
    "data cut off": tensor_file({"a": A}, b"x" * 7),
    "data too long": tensor_file({"a": A}, b"x" * 9),
    "extra key": tensor_file({"a": {**A, "stride": [0]}}, b"x" * 8),
    "10,001 tensors": tensor_file({f"{n}": {**A, "shape": [0], "data_offsets": [0, 0]} for n in range(10_001)}),
}  # fmt: skip


@pytest.mark.parametrize("case", HOSTILE)
def test_a_hostile_tensor_file_is_refused(case: str) -> None:
    with pytest.raises(BadInput) as caught:
        io.check_tensors(HOSTILE[case], "x.safetensors")
    assert caught.value.where == "x.safetensors" and len(str(caught.value)) < 300


def test_a_sound_tensor_file_is_described() -> None:
    scalar = {"dtype": "I64", "shape": [], "data_offsets": [16, 24]}
    header = {"__metadata__": {"step": "3"}, "b": {**A, "data_offsets": [8, 16]}, "a": A, "s": scalar}
    data = tensor_file(header, b"x" * 24)
    metadata, tensors = io.check_tensors(data, "x")
    assert metadata == {"step": "3"}
    assert tensors == {"b": ("F32", (2,)), "a": ("F32", (2,)), "s": ("I64", ())}


def test_what_safetensors_writes_is_sound() -> None:
    numpy = pytest.importorskip("safetensors.numpy")
    arrays = {"w": np.ones((3, 4), np.float32), "n": np.arange(5), "e": np.zeros((0, 2), np.float16)}
    metadata, tensors = io.check_tensors(numpy.save(arrays, {"state": "{}"}), "x")
    assert metadata == {"state": "{}"}
    assert {name: shape for name, (_, shape) in tensors.items()} == {k: v.shape for k, v in arrays.items()}


@QUICK
@given(st.integers(0, 200), st.integers(0, 255), st.integers(0, 200))
def test_a_mutated_tensor_file_is_sound_or_bad_input(place: int, byte: int, cut: int) -> None:
    data = bytearray(tensor_file({"__metadata__": {"a": "b"}, "a": A}, b"12345678"))
    data[place % len(data)] = byte
    try:
        io.check_tensors(bytes(data[: len(data) - cut % 5]), "x")
    except BadInput:
        pass
