"""A run as a zip: it comes back whole, and a hostile one is refused in one sentence and leaves nothing."""

from __future__ import annotations

import io as memory
import os
import shutil
import stat
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from darts_core import runs
from darts_core.errors import BadInput
from darts_core.runs import RunReader, RunWriter
from tests import stored
from tests.stored import (
    SPACE,
    info,
    outcome,
)

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
