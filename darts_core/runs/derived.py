"""Cells that were derived from a run's checkpoint by trying, kept beside the runs: they cost minutes to make.

One small JSON file per run and epoch in `.derived/` of the folder of runs, so that a run itself is never written by its
readers. A file says when its run was made and which checkpoint was read: another run of the same name has none.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from darts_core import io
from darts_core.errors import BadInput
from darts_core.genotype import Genotype
from darts_core.runs.reading import RunReader, check_name

FOLDER = ".derived"
LIMIT = 1 << 20  # bytes of a file
AGAIN = "delete the file, and derive the cell again"


@dataclass(frozen=True)
class Decision:
    """One choice: what the edge keeps, or that it goes; `without` is the supernet's accuracy without what was kept."""

    edge: str  # "normal-0-2"
    kept: str  # an operation; "" where the edge was taken away
    without: float  # 0 to 1, on the architecture split


@dataclass(frozen=True)
class Tried:
    """A cell found by perturbation, with how it came about."""

    epoch: int  # finished epochs at the checkpoint
    step: int
    sha256: str  # of the checkpoint
    tune: int  # weight steps after each choice
    genotype: Genotype
    accuracy: float  # of the supernet before the first choice, 0 to 1, on the architecture split
    after: float  # of what is left of it, after the last
    decisions: tuple[Decision, ...]
    seconds: float


def write(reader: RunReader, tried: Tried) -> Path:
    """Keep it. Returns the file.

    Raises:
        BadInput: the folder cannot be written.
    """
    path = _file(reader, tried.epoch)
    path.parent.mkdir(mode=0o700, exist_ok=True)
    told = asdict(tried) | {"genotype": tried.genotype.to_json(), "created": reader.info["created"]}
    io.atomic_write(path, io.dumps(told, path).encode())
    return path


def read(reader: RunReader, epoch: int) -> Tried | None:
    """What was found at the checkpoint after `epoch` finished epochs; None where nothing was.

    Raises:
        BadInput: the file is there and damaged.
    """
    path = _file(reader, epoch)
    if not path.exists():
        return None
    data = io.loads(io.read_bytes(path, LIMIT), path)
    if not isinstance(data, dict):
        raise BadInput(path, "", "is not a table", AGAIN)
    if data.get("created") != reader.info["created"]:
        return None
    try:
        made = Tried(
            **{key: _typed(data, key, kind) for key, kind in PLAIN.items()},
            genotype=Genotype.from_json(data["genotype"], str(path)),
            decisions=tuple(
                Decision(**{k: _typed(d, k, kind) for k, kind in OF_ONE.items()}) for d in data["decisions"]
            ),
        )
    except (KeyError, TypeError, ValueError) as error:
        raise BadInput(path, "", f"is not a derived cell ({error})", AGAIN) from error
    events = [event for event in reader.checkpoints() if event.epoch == epoch]
    return made if any(event.sha256 == made.sha256 for event in events) else None


PLAIN = {"epoch": int, "step": int, "sha256": str, "tune": int, "accuracy": float, "after": float, "seconds": float}
OF_ONE = {"edge": str, "kept": str, "without": float}


def _typed(data: dict[str, Any], key: str, kind: type) -> Any:
    value = data[key]
    if type(value) is not kind and not (kind is float and type(value) is int):
        raise ValueError(f"{key} is of the wrong type")
    return value


def _file(reader: RunReader, epoch: int) -> Path:
    return reader.root / FOLDER / f"{check_name(reader.name)}-e{epoch:04d}.json"
