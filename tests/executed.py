"""Notebooks in their short form, each executed once per session of tests, however many workers and tests ask for it."""

from __future__ import annotations

import os
import resource
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import nbformat
import pytest

from darts_core.io import Lock

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "tools"))
import notebooks as house  # noqa: E402  tools/ is no package


@pytest.fixture
def ran(monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory) -> Callable[[Path], Any]:
    """Gives a source's notebook after a run from top to bottom in a fresh kernel. Its metadata hold the processor
    seconds of the kernel and the processes that it waited for. Who asks while another worker runs it waits for that."""
    own = tmp_path_factory.getbasetemp()
    shared = own.parent if "PYTEST_XDIST_WORKER" in os.environ else own
    folder = shared / "executed"
    folder.mkdir(exist_ok=True)
    monkeypatch.setenv("DARTS_NB_FAST", "1")
    monkeypatch.setenv("PYTHONPATH", str(ROOT))

    def run(source: Path) -> Any:
        done = folder / f"{source.stem}.ipynb"
        lock = Lock(folder / f"{source.stem}.lock", "", patience=house.SECONDS * 3)
        try:
            if not done.is_file():
                monkeypatch.setenv("DARTS_RUNS", str(folder / source.stem))
                before = _processor_seconds()
                book = house.execute(source)
                book.metadata["processor_seconds"] = _processor_seconds() - before
                done.write_text(nbformat.writes(book), encoding="utf-8")
            return nbformat.read(done, as_version=4)
        finally:
            lock.release()

    return run


def _processor_seconds() -> float:
    """Of the children that ended and were waited for, theirs included."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime
