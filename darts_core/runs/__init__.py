"""A run folder: one writer, many readers, whole after any crash.

    run.json          what was asked for; written once
    steps.bin         a header of 4,096 bytes, then one record of fixed size per step, each with its own checksum
    events.jsonl      everything rarer than a step, one numbered line each
    commands/         orders, one file each, deleted when they are answered
    checkpoints/      safetensors: e0012 after 12 finished epochs, s00000345 after step 345, inside an epoch
    lock              held by the writer as long as it lives; the text in it is for people
    log.txt           stdout and stderr of the process
    tail-1/ ...       records and lines that a resumed run did not reproduce

Runs that one launch started side by side (`search --seeds 0-4`) say so in `run.json`: all of them have the same name
under "group", a key that other runs do not have (`reader.info.get("group")`). Apart from that each is a run like any.

**State** is derived, never stored. While the lock is held the run is starting, running or paused. Otherwise its last
line says finished, stopped, failed or interrupted; a last line that says nothing of the kind is interrupted too.

**Resuming.** A driver opens the run, takes the last good checkpoint, and computes on as if nothing were recorded:

    writer = RunWriter.open(root, name)                    # takes the lock, cuts torn ends
    found = writer.last_good_checkpoint()                  # its bytes are checked; found.skipped names damaged ones
    writer.begin_replay(found.step)
    orders = writer.orders_to_replay(found.step)           # step -> orders that took effect there, to be given again
    for event in strategy(task, config, host):             # host.orders: those first, then writer.orders()
        writer.append(event)

Between the checkpoint and the last recorded step, `append` compares instead of writing. A step must equal its record
byte for byte; a line that comes again (same type, step, epoch ...) must say the same, seconds left aside. When the last
record is reached, a `Resumed` line says that the run is identical. At the first difference the old records from that
step on, the lines that belong to them and the checkpoints these name move to `tail-<n>/`, a `Resumed` line says from
which step the run differs, and it goes on from there. Killed at any point of this, it can be resumed in the same way.

An order answered before a checkpoint was saved is part of that checkpoint; those answered later are in
`orders_to_replay`. While records are compared, new orders wait in their folder, except pause, resume and step.

Readers that keep a position (bytes of `events.jsonl`, records of `steps.bin`) start again from zero when
`RunReader.generation()` grows, which means that a tail was moved aside. Otherwise both files only grow.
"""

from darts_core.runs.archive import export_run, import_run
from darts_core.runs.checkpoints import epoch_file, step_file
from darts_core.runs.housekeeping import Trashed, disk_bytes, restore, trashed
from darts_core.runs.orders import send_order
from darts_core.runs.reading import (
    RunReader,
    Status,
    Summary,
    cards,
    check_name,
    free_group,
    free_name,
    list_runs,
    runs_root,
    samples_root,
)
from darts_core.runs.records import Layout
from darts_core.runs.writing import GoodCheckpoint, NameTaken, RunWriter, trash

__all__ = [
    "GoodCheckpoint",
    "Layout",
    "NameTaken",
    "RunReader",
    "RunWriter",
    "Status",
    "Summary",
    "Trashed",
    "cards",
    "check_name",
    "disk_bytes",
    "epoch_file",
    "export_run",
    "free_group",
    "free_name",
    "import_run",
    "list_runs",
    "restore",
    "runs_root",
    "samples_root",
    "send_order",
    "step_file",
    "trash",
    "trashed",
]
