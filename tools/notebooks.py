"""The notebooks' housekeeping: `python tools/notebooks.py sync | check | run [NUMBER ...] | site FOLDER |
handout FOLDER | lab`.

Edited are the texts in notebooks/src/*.py; the .ipynb files beside are written from them, without outputs, so that a
change of one line is a change of one line in git too. `run` executes from top to bottom in a fresh kernel and leaves
the files alone; `site` executes and writes pages that open from a folder, without network or kernel; `handout` writes
copies for a class, without the solutions and without the closing check.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import jupytext
import nbformat

ROOT = Path(__file__).resolve().parent.parent
SOURCES = ROOT / "notebooks" / "src"
KERNEL = {"display_name": "Python 3", "language": "python", "name": "python3"}
SECONDS = 300  # for one cell, on a busy machine; a whole notebook should take at most 60 on a quiet one


def sources(numbers: list[str] | None = None) -> list[Path]:
    """The texts in order, or those whose names begin with one of the numbers."""
    found = sorted(SOURCES.glob("[0-9][0-9]_*.py"))
    return [path for path in found if not numbers or path.name[:2] in numbers]


def paired(source: Path) -> Path:
    return source.parent.parent / f"{source.stem}.ipynb"


def notebook(source: Path) -> Any:
    """The text as a notebook without outputs; ids of cells are their numbers, as nbstripout gives them: equal texts
    give equal files."""
    book = jupytext.read(source)
    for index, cell in enumerate(book.cells):
        cell["id"] = str(index)
    # no `jupytext` entry: with one, JupyterLab compares the times of both files at opening, and refuses some clones
    book.metadata = nbformat.from_dict({"kernelspec": KERNEL, "language_info": {"name": "python"}})
    book.nbformat, book.nbformat_minor = 4, 5
    nbformat.validate(book)
    return book


def written(source: Path) -> str:
    return nbformat.writes(notebook(source)) + "\n"


def sync() -> None:
    """Write every .ipynb from its text."""
    for source in sources():
        paired(source).write_text(written(source), encoding="utf-8")


def unpaired() -> list[str]:
    """Sentences about notebooks that are not what their text says; an empty list when all is well."""
    wrong = []
    for source in sources():
        there = paired(source)
        if not there.is_file():
            wrong.append(f"{there.name} is missing; write it with: make sync")
        elif there.read_text("utf-8") != written(source):
            wrong.append(f"{there.name} is not what src/{source.name} says; write it with: make sync")
    wanted = {paired(source).name for source in sources()}
    extra = sorted({path.name for path in SOURCES.parent.glob("*.ipynb")} - wanted)
    return wrong + [f"{name} has no text in notebooks/src" for name in extra]


def execute(source: Path) -> Any:
    """The notebook after a run from top to bottom in a fresh kernel.

    Raises:
        CellExecutionError: a cell failed; its message holds the traceback.
    """
    from nbclient import NotebookClient

    book = notebook(source)
    client = NotebookClient(book, timeout=SECONDS, kernel_name="python3", resources={"metadata": {"path": str(ROOT)}})
    return client.execute()


def handout(folder: Path) -> None:
    """Write every notebook without its solutions, and without the last cell, which checks what they compute."""
    folder.mkdir(parents=True, exist_ok=True)
    for source in sources():
        book = notebook(source)
        last = next(i for i in range(len(book.cells) - 1, -1, -1) if book.cells[i].cell_type == "markdown")
        book.cells = [cell for cell in book.cells[:last] if "solution" not in cell.metadata.get("tags", [])]
        (folder / paired(source).name).write_text(nbformat.writes(book) + "\n", encoding="utf-8")


def lab(words: list[str]) -> None:
    """Become JupyterLab at the first notebook. Its questions about news and updates are answered beforehand, in this
    environment alone: they would stand in the way of a class, and ask the network."""
    settings = Path(sys.prefix) / "share" / "jupyter" / "lab" / "settings"
    settings.mkdir(parents=True, exist_ok=True)
    quiet = {"@jupyterlab/apputils-extension:notification": {"fetchNews": "false", "checkForUpdates": False}}
    (settings / "overrides.json").write_text(json.dumps(quiet), encoding="utf-8")
    first = paired(sources()[0]).relative_to(ROOT)
    os.chdir(ROOT)
    command = [sys.executable, "-m", "jupyterlab", f"--LabApp.default_url=/lab/tree/{first.as_posix()}", *words]
    if os.name == "nt":
        sys.exit(subprocess.call(command))
    os.execv(sys.executable, command)


def main(words: list[str]) -> int:
    what, rest = (words[0], words[1:]) if words else ("", [])
    if what == "sync":
        sync()
    elif what == "check":
        print("\n".join(unpaired()) or "every notebook is what its text says, without outputs")
        return bool(unpaired())
    elif what == "run":
        for source in sources(rest):
            began = time.monotonic()
            execute(source)
            print(f"{source.stem}: {time.monotonic() - began:.0f} s", flush=True)
    elif what == "lab":
        lab(rest)
    elif what == "site" and len(rest) == 1:
        from site_of_notebooks import write_site

        write_site(Path(rest[0]))
    elif what == "handout" and len(rest) == 1:
        handout(Path(rest[0]))
    else:
        print(__doc__, file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).parent))
    sys.exit(main(sys.argv[1:]))
