"""The button that trains the cell that a search found: there where there is a cell, and it starts exactly that."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from streamlit.testing.v1 import AppTest

from app import process
from darts_core.config import SearchConfig
from darts_core.runs import RunReader
from tests import fake_writer

PAGE = Path(__file__).resolve().parent.parent / "app" / "app_pages" / "live.py"


@pytest.fixture
def page(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[AppTest]:
    fake_writer.write(tmp_path, "done", steps=60, rate=0)
    monkeypatch.setenv("DARTS_RUNS", str(tmp_path))
    at = AppTest.from_file(str(PAGE), default_timeout=60)
    at.query_params["run"] = "done"
    yield at


def test_train_this_cell_starts_a_training_of_the_found_cell_on_the_data_of_its_search(
    page: AppTest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    started: list[dict[str, Any]] = []
    launch = SimpleNamespace(name="done-training", seconds=0.0, refusal=lambda: None, printed=lambda size=0: "")
    monkeypatch.setattr(process, "start", lambda config, root, name=None: started.append(dict(config)) or launch)
    page.run()
    assert not page.exception
    button = next(b for b in page.button if b.label == "Train this cell")
    button.click().run()
    config = SearchConfig.from_dict(started[0])
    reader = RunReader(tmp_path, "done")
    found = [line for line in reader.events()[0] if line["type"] == "result"][-1]["genotype"]
    assert config.strategy == "evaluate" and config.genotype().to_json() == found
    assert config.dataset == reader.info["config"]["dataset"] and config.options["label"] == "cell of done"
    assert page.query_params["run"] in ("done-training", ["done-training"])
