"""Behind the Runs page: size, trash and back, zips, the filter, the command that makes a run again."""

from __future__ import annotations

import shlex
from pathlib import Path

import pytest

from app import notes, process, stream
from darts_core import __main__ as program
from darts_core import runs
from darts_core.config import PRESETS, SearchConfig
from darts_core.errors import BadInput
from darts_core.flags import assignments
from darts_core.view.recipe import reproduction
from tests import fake_writer
from tests.test_pages_states import page, said


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("DARTS_RUNS", str(tmp_path / "runs"))
    monkeypatch.setattr(stream, "SAMPLES", tmp_path / "none")
    monkeypatch.setattr(process, "_launches", {})
    fake_writer.write(tmp_path / "runs", "one", steps=80, rate=0)
    return tmp_path / "runs"


def content(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


# Folders --------------------------------------------------------------------------------------------------


def test_the_size_is_that_of_all_files_and_links_do_not_count(folder: Path, tmp_path: Path) -> None:
    there = sum(len(data) for data in content(folder / "one").values())
    assert runs.disk_bytes(folder, "one") == there
    (tmp_path / "large").write_bytes(b"x" * 10_000)
    (folder / "one" / "link").symlink_to(tmp_path / "large")
    (folder / "one" / "away").symlink_to(tmp_path)
    assert runs.disk_bytes(folder, "one") == there


def test_what_is_trashed_comes_back_byte_for_byte(folder: Path) -> None:
    before = content(folder / "one")
    runs.trash(folder, "one")
    assert not runs.list_runs(folder)
    (entry,) = runs.trashed(folder)
    assert entry.name == "one" and runs.restore(folder, entry.folder) == "one"
    assert content(folder / "one") == before and not runs.trashed(folder)


def test_nothing_comes_back_over_another_run(folder: Path) -> None:
    runs.trash(folder, "one")
    fake_writer.write(folder, "one", steps=40, rate=0)
    now = content(folder / "one")
    (entry,) = runs.trashed(folder)
    with pytest.raises(BadInput, match="name of a run already"):
        runs.restore(folder, entry.folder)
    assert content(folder / "one") == now and runs.trashed(folder) == [entry]


@pytest.mark.parametrize("name", ["../one", "one", ".", "one-1", "/etc", "one-123456789012345678/.."])
def test_only_what_is_in_the_trash_can_be_brought_back(folder: Path, name: str) -> None:
    with pytest.raises(BadInput, match="no such run in the trash"):
        runs.restore(folder, name)


def test_a_link_in_the_trash_is_not_a_run(folder: Path, tmp_path: Path) -> None:
    runs.trash(folder, "one")
    fake_writer.write(tmp_path / "elsewhere", "two", steps=40, rate=0)
    (folder / ".trash" / "two-123456789012345").symlink_to(tmp_path / "elsewhere" / "two")
    assert [entry.name for entry in runs.trashed(folder)] == ["one"]


# The page -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("wanted", "names"),
    [
        ("", {"one", "two", "three"}),
        ("tw", {"two"}),
        ("tag:good", {"two"}),
        ("-tag:good", {"one", "three"}),
        ("state:failed", {"three"}),
        ("seed:4", {"two"}),
        ("digits -three", {"one", "two"}),
        ("KEEP", {"one"}),
        ("nowhere", set()),
    ],
)
def test_the_filter_looks_where_it_is_told(folder: Path, wanted: str, names: set[str]) -> None:
    fake_writer.write(folder, "two", steps=40, rate=0, seed=4)
    fake_writer.write(folder, "three", steps=80, rate=0, fail_at=20)
    created = {run.name: run.created for run in runs.list_runs(folder)}
    notes.write(folder, "two", created["two"], notes.Notes(tags=("good",)))
    notes.write(folder, "one", created["one"], notes.Notes(note="keep this"))
    test = page("runs", filter=wanted)
    assert set(test.dataframe[0].value.to_dict().get("run", {}).values()) == names


def select(test, *rows: int):  # type: ignore[no-untyped-def]
    test.session_state["table"] = {"selection": {"rows": list(rows), "columns": [], "cells": []}}
    test.run()
    assert not test.exception, [found.value for found in test.exception]
    return test


def press(test, key: str):  # type: ignore[no-untyped-def]
    next(button for button in test.button if button.key == key or button.label == key).click().run()
    assert not test.exception, [found.value for found in test.exception]
    return test


def test_deleting_asks_first_moves_to_the_trash_and_can_be_undone(folder: Path) -> None:
    test = select(page("runs"), 0)
    assert "Move to the trash: one?" in said(test) and (folder / "one").exists()
    test = press(test, "delete")
    assert not (folder / "one").exists()
    (entry,) = runs.trashed(folder)
    test = press(test, f"restore-{entry.folder}")
    assert (folder / "one").exists() and test.dataframe[0].value.to_dict()["run"] == {0: "one"}


def test_a_running_search_cannot_be_deleted(folder: Path) -> None:
    with runs.RunWriter.open(folder, "one"):
        test = select(page("runs"), 0)
        assert "Still running" in said(test) and not [b for b in test.button if b.key == "delete"]


def test_tags_and_a_note_are_saved_beside_the_run(folder: Path) -> None:
    before = content(folder / "one")
    test = select(page("runs"), 0)
    test.text_input[1].set_value("good, mine good")
    test.text_area[0].set_value("the one for the talk\n**second line**")
    press(test, "Save notes")
    created = runs.list_runs(folder)[0].created
    assert notes.read(folder, "one", created) == notes.Notes(("good", "mine"), "the one for the talk\n**second line**")
    assert content(folder / "one") == before
    test = page("runs")
    assert test.dataframe[0].value.to_dict()["note"][0] == "the one for the talk"


def test_two_selected_runs_can_be_compared(folder: Path) -> None:
    fake_writer.write(folder, "two", steps=80, rate=0)
    test = select(page("runs"), 0, 1)
    assert "2 runs selected" in said(test) and any(button.label == "Compare" for button in test.button)


def test_branches_stand_below_their_parent(folder: Path) -> None:
    for name, parent in (("two", "one"), ("three", "two")):
        origin = {"run": parent, "epoch": 1, "step": 40, "sha256": "0" * 64}
        runs.RunWriter.create(folder, name, fake_writer.info(name, 80) | {"parent": origin}).close()
    tree = next(code.value for code in page("runs").code if "after 1 epochs" in code.value)
    assert [line.strip("\u2514\u2500 ").split()[0] for line in tree.splitlines()] == ["one", "two", "three"]
    assert tree.splitlines()[2].startswith("    \u2514")


# The command that makes it again --------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("preset", "changes"),
    [("collapse", {}), ("laptop", {"a_lr": 0.3, "seed": 7}), ("tiny", {"augment": True, "path": "my photos; rm"})],
)
def test_the_command_leads_to_the_same_settings(preset: str, changes: dict[str, object]) -> None:
    config = PRESETS[preset].config(**changes)
    info = {"config": config.to_dict(), "parent": None, "command": []}
    words = shlex.split(reproduction(info))
    assert words[:5] == ["python", "-m", "darts_core", "search", "--preset"]
    again = program._preset_config(words[5], assignments(words[7::2]))
    free = {"threads": 0, "device": "auto", "backend": "auto", "pace": 0.0}
    assert again.with_(**free) == SearchConfig.from_dict(config.to_dict()).with_(**free)


def test_the_command_of_a_branch_names_its_parent() -> None:
    config = PRESETS["collapse"].config(a_lr=0.01)
    command = ["darts-workbench", "branch", "old", "--epoch", "12", "--set", "a_lr=0.01"]
    info = {"config": config.to_dict(), "parent": {"run": "old", "epoch": 12}, "command": command}
    assert reproduction(info) == "python -m darts_core branch old --epoch 12 --set a_lr=0.01"
