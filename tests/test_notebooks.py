"""The notebooks are what their texts say, hide their solutions, and run from top to bottom."""

from __future__ import annotations

import base64
import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import nbformat
import numpy as np
import pytest

from darts_core.space import space_named
from darts_core.view.widgets import Chart, Panel, Ribbon
from tests.executed import house, ran

assert ran  # a fixture

NUMBERS = [path.name[:2] for path in house.sources()]


def test_every_notebook_is_what_its_text_says_and_holds_no_output() -> None:
    assert house.unpaired() == []
    for source in house.sources():
        book = nbformat.read(house.paired(source), as_version=4)
        assert book.metadata.kernelspec.name == "python3", "without it JupyterLab asks in a dialog"
        assert all(not cell.get("outputs") and not cell.get("execution_count") for cell in book.cells)


def test_the_stripper_finds_nothing_to_strip() -> None:
    for source in house.sources():
        done = subprocess.run([sys.executable, "-m", "nbstripout", "--verify", str(house.paired(source))])
        assert done.returncode == 0, house.paired(source).name


def test_a_changed_text_is_noticed(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    folder = tmp_path / "notebooks" / "src"
    folder.mkdir(parents=True)
    first = house.sources()[0]
    (folder / first.name).write_text(first.read_text("utf-8") + "\n# %%\nprint('more')\n", encoding="utf-8")
    (folder.parent / house.paired(first).name).write_text(house.paired(first).read_text("utf-8"), encoding="utf-8")
    monkeypatch.setattr(house, "SOURCES", folder)
    assert len(house.unpaired()) == 1 and "make sync" in house.unpaired()[0]


@pytest.mark.parametrize("number", NUMBERS)
def test_a_notebook_ends_by_asserting_its_claims_and_hides_its_solutions(number: str) -> None:
    book = house.notebook(house.sources([number])[0])
    assert re.search(r"^assert ", book.cells[-1].source, re.MULTILINE), "the last cell checks what the text claims"
    solutions = [cell for cell in book.cells if "solution" in cell.metadata.get("tags", [])]
    assert solutions and all(c.metadata.jupyter.source_hidden and c.metadata.jupyter.outputs_hidden for c in solutions)
    text = "\n".join(cell.source for cell in book.cells if cell.cell_type == "markdown")
    assert "**Afterwards you can**" in text and "## Exercises" in text


def test_a_handout_keeps_everything_but_solutions_and_the_closing_check(tmp_path: Path) -> None:
    house.handout(tmp_path)
    for source in house.sources():
        whole, given = house.notebook(source), nbformat.read(tmp_path / house.paired(source).name, as_version=4)
        kept, left = [cell.source for cell in given.cells], {cell.source for cell in given.cells}
        gone = [cell for cell in whole.cells if cell.source not in left]
        assert kept == [cell.source for cell in whole.cells if cell.source in left]
        assert all("solution" in cell.metadata.get("tags", []) for cell in gone[:-2]), source.name
        assert "claim" in gone[-2].source and "assert " in gone[-1].source and "## Exercises" in kept[-1]


@pytest.mark.slow
@pytest.mark.parametrize("number", NUMBERS)
def test_a_notebook_runs_from_top_to_bottom(number: str, ran: Callable[[Path], Any]) -> None:
    book = ran(house.sources([number])[0])
    assert all(cell.get("execution_count") for cell in book.cells if cell.cell_type == "code" and cell.source.strip())
    assert not [said.text for cell in book.cells for said in cell.get("outputs", []) if said.get("name") == "stderr"]
    seconds = book.metadata["processor_seconds"]
    assert seconds < 20 * float(os.environ.get("DARTS_TEST_PATIENCE", "2")), f"{seconds:.0f} s of processor time"


def test_what_is_changed_before_it_is_shown_reaches_the_page_with_the_widget_itself() -> None:
    """Not as messages behind it: a busy page lost those."""
    cell = space_named("tiny").cells["normal"]
    ribbon, chart = Ribbon(cell, np.full(cell.shape, 1 / 3)), Chart([{"type": "bar"}], {"title": "before"})
    assert ribbon.comm is None and chart.comm is None
    decided = np.eye(3)[[2] * len(cell.edges)]
    ribbon.show(decided)
    chart.put(([1.0, 2.0], [3.0, 4.0]))
    chart.update_layout(title="after")
    box = Panel([ribbon, chart])
    assert all(child.comm is not None for child in box.children)
    assert ribbon.get_state()["weights"] == decided.reshape(-1).tolist()
    sent = chart.get_state(["_widget_data", "_widget_layout"])
    assert sent["_widget_data"][0]["y"]["bdata"] == base64.b64encode(np.array([3.0, 4.0]).tobytes()).decode()
    assert sent["_widget_layout"]["title"]["text"] == "after"
