"""The notebooks of the project as the Learn page shows them: title, promise and cells, read from the files."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from darts_core import io
from darts_core.errors import BadInput

FOLDER = Path(__file__).parent.parent / "notebooks"
NAME = re.compile(r"[0-9]{2}_[a-z0-9_]{1,60}")
LIMIT = 2 << 20  # bytes; a stripped notebook has some thousands


@dataclass(frozen=True)
class Notebook:
    """`cells`: (kind, text), where kind is "markdown" or "code"."""

    name: str
    title: str
    promise: str  # what one can do afterwards, one paragraph
    cells: tuple[tuple[str, str], ...]


def notebooks(folder: Path = FOLDER) -> tuple[list[Notebook], list[str]]:
    """All notebooks by number, and a sentence for each file that cannot be read. Both empty without a folder."""
    found, troubles = [], []
    for path in sorted(folder.glob("[0-9][0-9]_*.ipynb")) if folder.is_dir() else []:
        if not NAME.fullmatch(path.stem):
            continue
        try:
            found.append(_read(path))
        except BadInput as problem:
            troubles.append(str(problem))
    return found, troubles


def _read(path: Path) -> Notebook:
    data = io.loads(io.read_bytes(path, LIMIT), path)
    cells = data.get("cells") if isinstance(data, Mapping) else None
    if not isinstance(cells, list):
        raise BadInput(path, "cells", "is no list of cells", "take another copy of the notebook")
    told = tuple((str(cell.get("cell_type")), _text(cell.get("source"))) for cell in cells if isinstance(cell, Mapping))
    first = next((text for kind, text in told if kind == "markdown"), "")
    title = next((line.lstrip("# ").strip() for line in first.splitlines() if line.startswith("#")), path.stem)
    paragraphs = [" ".join(part.split()) for part in first.split("\n\n") if part.strip() and not part.startswith("#")]
    return Notebook(path.stem, title, paragraphs[0] if paragraphs else "", told)


def _text(source: Any) -> str:
    return "".join(str(line) for line in source) if isinstance(source, list) else str(source or "")
