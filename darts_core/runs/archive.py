"""A run as a zip file, out and in. What comes in is bounded and checked; only a fixed list of members is read."""

from __future__ import annotations

import io as memory
import struct
import zipfile
import zlib
from pathlib import Path

from darts_core import io
from darts_core.errors import BadInput
from darts_core.events import Checkpoint, from_json
from darts_core.runs import checkpoints as saved
from darts_core.runs.reading import READ_LIMIT, RunReader, check_name
from darts_core.runs.records import CHECKPOINTS, EVENTS, EVENTS_LIMIT, RUN, STEPS, Layout, facts, whole_lines
from darts_core.runs.writing import install, make_room

LIMIT = 512 << 20  # bytes of all members together
RATIO = 100  # times that a member may be larger than in the zip; records of a real run stay below 20
SPARE = 1 << 16  # bytes that may be nothing but zeros, such as the end of a header
FILES = (RUN, STEPS, EVENTS)
AGAIN = "export the run again"


def export_run(root: str | Path, name: str, checkpoints: bool = False) -> bytes:
    """The run as a zip that `import_run` reads: run.json, steps.bin, events.jsonl and, if asked for, its checkpoints.

    A live run gives what is whole at the moment. The log and orders stay at home: they name paths and people.
    """
    run = RunReader(root, name)
    kept = run.checkpoints() if checkpoints else []
    lines = io.read_bytes(run.folder / EVENTS, EVENTS_LIMIT)
    lines = lines[: whole_lines(lines, run.folder / EVENTS, 0)[1]]
    count = run.step_count()  # after the lines, so that no line is ahead of its steps
    if len(lines) + count * run.record_bytes + sum(event.bytes for event in kept) > LIMIT:
        fix = "leave the checkpoints out" if checkpoints else "copy the folder instead"
        raise BadInput(f"run {name}", "", f"it holds more than {LIMIT >> 20} MB", fix)
    out = memory.BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as zipped:
        zipped.writestr(RUN, io.dumps(run.info) + "\n")
        zipped.writestr(EVENTS, lines)
        batch = READ_LIMIT // run.record_bytes
        records = [run.raw_steps(first, min(batch, count - first)) for first in range(0, count, batch)]
        zipped.writestr(STEPS, b"".join([run.layout.header(), *records]))
        for event in kept:
            zipped.writestr(zipfile.ZipInfo(f"{CHECKPOINTS}/{event.file}"), saved.sound(run.folder, event))  # as it is
    return out.getvalue()


def import_run(root: str | Path, data: bytes, name: str) -> RunReader:
    """Makes the new run `name` of a zip from `export_run`.

    BadInput, and no folder: anything is missing, damaged, unexpected or too large, or the name is taken.
    """
    check_name(name)
    root = Path(root)
    try:
        with zipfile.ZipFile(memory.BytesIO(data)) as zipped:
            files = _members(zipped)
    except (
        zipfile.BadZipFile, zlib.error, struct.error, EOFError, NotImplementedError, RuntimeError, ValueError,
        OSError, IndexError, OverflowError, AttributeError, KeyError,
    ) as error:  # fmt: skip
        raise BadInput("zip", "", "this is not a sound zip file", AGAIN) from error
    info = facts(io.loads(files[RUN], f"zip: {RUN}"), f"zip: {RUN}")
    if Layout.from_header(files[STEPS][:4096], f"zip: {STEPS}") != Layout.from_json(info["layout"], f"zip: {RUN}"):
        raise BadInput(f"zip: {STEPS}", "header", f"its layout is not that of {RUN}", AGAIN)
    lines, used = whole_lines(files[EVENTS], f"zip: {EVENTS}", 0)
    told = {event.file: event.sha256 for event in map(from_json, lines) if isinstance(event, Checkpoint)}
    for member in files:
        file = member.removeprefix(f"{CHECKPOINTS}/")
        if file != member and told.get(file) != io.sha256(files[member]):
            raise BadInput("zip", member, "it is not the checkpoint that the events tell of", AGAIN)
    files[RUN] = (io.dumps({**info, "name": name}) + "\n").encode()
    files[EVENTS] = files[EVENTS][:used]
    make_room(root, name)
    install(root, name, files)
    return RunReader(root, name)


def _members(zipped: zipfile.ZipFile) -> dict[str, bytes]:
    """Member -> content; none of them unexpected, all together below the limit."""
    entries = zipped.infolist()
    names = [entry.filename for entry in entries]
    if len(set(names)) < len(names):
        raise BadInput("zip", "", "it has a member twice", AGAIN)
    for missing in (file for file in FILES if file not in names):
        raise BadInput("zip", missing, "it is missing", AGAIN)
    for entry in entries:
        file = entry.filename.removeprefix(f"{CHECKPOINTS}/")
        if entry.filename not in FILES and (file == entry.filename or not saved.NAME.fullmatch(file)):
            raise BadInput("zip", entry.filename[:80], "this has no place in a run", AGAIN)
        if entry.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
            raise BadInput("zip", entry.filename, "it is packed in an unknown way", AGAIN)
        if entry.file_size > RATIO * entry.compress_size + SPARE:
            times = entry.file_size // max(entry.compress_size, 1)
            raise BadInput("zip", entry.filename, f"it unpacks to {times:,} times its size", AGAIN)
    if sum(entry.file_size for entry in entries) > LIMIT:
        raise BadInput("zip", "", f"it unpacks to more than {LIMIT >> 20} MB", "copy the run folder instead")
    files: dict[str, bytes] = {}
    for entry in entries:
        with zipped.open(entry) as member:
            content = member.read(entry.file_size + 1)  # never more than it says, which is below the limit
        if len(content) != entry.file_size:
            raise BadInput("zip", entry.filename, "it is not as long as it says", AGAIN)
        files[entry.filename] = content
    return files
