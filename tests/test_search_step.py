"""The benchmark of a search step says a ratio for every backend and step in one line of JSON."""

from __future__ import annotations

import importlib.util
import json
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent


def test_the_last_line_holds_a_ratio_for_every_backend_and_step(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    spec = importlib.util.spec_from_file_location("search_step", ROOT / "benchmarks" / "search_step.py")
    assert spec is not None and spec.loader is not None
    bench = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, "search_step", bench)
    spec.loader.exec_module(bench)
    monkeypatch.setitem(bench.SIZES, "t8", bench.Size(4, 3, (1, 8), 4, 1))
    words = ["search_step.py", "--size", "t8", "--backend", "fast", "--no-memory", "--json"]
    monkeypatch.setattr("sys.argv", words)
    bench.main()
    found = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert found["t8"].keys() == {"original", "fast"}
    assert all(row.keys() == {"w", "first", "second"} for row in found["t8"].values())
    assert set(found["t8"]["original"].values()) == {1.0} and all(r > 0 for r in found["t8"]["fast"].values())
