"""What recording costs: the share of a search step that goes into its record, its events and its checkpoints.

    python benchmarks/recording.py [--preset laptop] [--steps 60] [--json]

Both sides are timed in one process, step by step: the step itself, then what the driver does with it (pack, checksum,
write, look for orders; at the end of an epoch the event line and the checkpoint too). Medians and means of the ratio
are printed.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
from pathlib import Path

import torch

from darts_core.config import preset_named
from darts_core.drive import new_run
from darts_core.events import Step
from darts_core.runs import epoch_file
from darts_core.search.bilevel import Host, Snapshot
from darts_core.strategies import strategy_named
from darts_core.tasks import image_task


def measure(preset: str, steps: int) -> dict[str, float]:
    """Seconds of `steps` steps and of their recording, in the preset's own setting, one thread."""
    torch.set_num_threads(1)
    config = preset_named(preset).config(retrain_epochs=0, random_cells=0)
    task = image_task(config, torch.device("cpu"))
    computing, recording, rest = [], [], 0.0
    with tempfile.TemporaryDirectory() as folder, new_run(Path(folder), "bench", config, ["bench"]) as writer:
        events = strategy_named(config.strategy)(task, config, Host(orders=lambda step: iter(writer.orders())))
        while len(computing) < steps + 1:
            began = time.perf_counter()
            event = next(events)
            made = time.perf_counter()
            if isinstance(event, Snapshot):
                state = event.state
                writer.save_checkpoint(epoch_file(state.epoch), state.to_bytes(), state.epoch, state.step)
            else:
                writer.append(event)
            written = time.perf_counter()
            if isinstance(event, Step):
                computing.append(made - began)
                recording.append(written - made)
            elif computing:
                rest += written - made
        events.close()  # type: ignore[attr-defined]
    computing, recording = computing[1:], recording[1:]  # the first step warms up
    return {
        "step_ms": statistics.median(computing) * 1e3,
        "record_ms": statistics.median(recording) * 1e3,
        "record_share": statistics.median(r / c for r, c in zip(recording, computing, strict=True)),
        "all_share": (sum(recording) + rest) / sum(computing),
        "steps": len(computing),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--preset", default="laptop")
    parser.add_argument("--steps", type=int, default=60)
    parser.add_argument("--json", action="store_true")
    asked = parser.parse_args()
    found = measure(asked.preset, asked.steps)
    print(
        f"{asked.preset}, {found['steps']} steps: a step takes {found['step_ms']:.1f} ms, "
        f"its record {found['record_ms']:.3f} ms: {100 * found['record_share']:.2f} % of a step; "
        f"with event lines and a checkpoint per epoch {100 * found['all_share']:.2f} %"
    )
    if asked.json:
        print(json.dumps(found))


if __name__ == "__main__":
    main()
