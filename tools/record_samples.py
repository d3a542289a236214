"""Record the three searches in data/samples/ anew, with the tool itself: `.venv/bin/python tools/record_samples.py`.

healthy: the clean control of the collapse preset. collapsing: the preset. stopped-early: the same search, stopped at
the epoch where its validation loss was lowest. Checkpoints are left out: the samples are for looking at.
"""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path

from darts_core.config import preset_named
from darts_core.drive import drive, new_run
from darts_core.events import Order
from darts_core.runs import RunReader

SAMPLES = Path(__file__).resolve().parent.parent / "data" / "samples"
TITLES = {
    "healthy": "Healthy: the search on clean labels",
    "collapsing": "Collapsing: 40 % of the labels are random",
    "stopped-early": "Stopped early: the same search, stopped at its lowest validation loss",
}
KEPT = ("run.json", "steps.bin", "events.jsonl")


def record(root: Path, name: str, preset: str, stop_after: int | None = None) -> RunReader:
    """Run a preset to its end, or until it is told to stop after a step."""
    config = preset_named(preset).config(threads=1, random_cells=3)
    command = ["darts-workbench", "search", "--preset", preset, "--set", "random_cells=3"]
    writer = new_run(root, name, config, command, title=TITLES[name])
    orders = {stop_after: [Order("stop", "stop")]} if stop_after else {}
    code = drive(writer, config, orders=orders)
    reader = RunReader(root, name)
    print(f"{name}: {reader.status().state} after step {reader.status().step}, exit code {code}")
    return reader


def lowest_validation_step(run: RunReader) -> int:
    """The step at the end of the epoch with the lowest validation loss."""
    epochs = [line for line in run.events()[0] if line["type"] == "epoch"]
    return min(epochs, key=lambda line: line["metrics"]["valid_loss"])["step"]


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        record(root, "healthy", "clean")
        best = lowest_validation_step(record(root, "collapsing", "collapse"))
        record(root, "stopped-early", "collapse", stop_after=best)
        for name in TITLES:
            target = SAMPLES / name
            shutil.rmtree(target, ignore_errors=True)
            target.mkdir(parents=True)
            for file in KEPT:
                shutil.copyfile(root / name / file, target / file)


if __name__ == "__main__":
    main()
