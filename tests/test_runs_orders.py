"""Orders come once, in turn, answered once; what is none is refused and does no harm."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest

from darts_core import runs
from darts_core.errors import BadInput
from darts_core.events import (
    Applied,
)
from darts_core.runs import RunWriter
from tests.stored import (
    info,
    lines_of,
    steer,
)

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
