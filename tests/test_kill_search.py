"""kill -9 at random moments of a real search: no recorded step is lost, and the end is that of an uninterrupted run."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from darts_core.runs import RunReader


@pytest.mark.parametrize("kills", [6, pytest.param(50, marks=pytest.mark.slow)])
def test_killed_searches_end_byte_identical(tmp_path: Path, kills: int) -> None:
    script = Path(__file__).with_name("kill_runner.py")
    found = subprocess.run(
        [sys.executable, str(script), str(tmp_path), str(kills), "11"], capture_output=True, text=True
    )
    assert found.returncode == 0, found.stderr[-2000:]
    report = json.loads(found.stdout.splitlines()[-1])
    assert report["bad"] == [] and report["lost"] == 0 and report["kills"] >= kills
    whole = RunReader(tmp_path, "whole")
    for k in range(report["runs"]):
        run = RunReader(tmp_path, f"killed-{k}")
        assert (run.folder / "steps.bin").read_bytes() == (whole.folder / "steps.bin").read_bytes()
        last = whole.checkpoints()[-1].file
        assert run.read_checkpoint(last) == whole.read_checkpoint(last)
        assert _said(run) == _said(whole)
        resumed = [line for line in run.events()[0] if line["type"] == "resumed"]
        assert all(line["identical"] is not False for line in resumed)
    assert any(
        line["type"] == "resumed"
        for k in range(report["runs"])
        for line in RunReader(tmp_path, f"killed-{k}").events()[0]
    )


def _said(run: RunReader) -> list[tuple]:
    """Results and trained cells, in order, wall-clock left aside."""
    lines = run.events()[0]
    trained = [(e["role"], e["index"], e["test_accuracy"]) for e in lines if e["type"] == "trained"]
    return [*trained, *[(e["step"], str(e["genotype"])) for e in lines if e["type"] == "result"][-1:]]
