"""What people write beside a run: tags, a note, bookmarks of steps.

One small JSON file per run in `.notes/` of the folder of runs, so that a run itself is never written by its readers and
recorded samples can have notes too. A file says when its run was made: another run of the same name starts without.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from darts_core import io, runs
from darts_core.errors import BadInput

FOLDER = ".notes"
LIMIT = 64 << 10  # bytes of a file
TAGS, TAG, NOTE, BOOKMARKS, TEXT = 20, 32, 4000, 100, 120  # how many, and characters of each


@dataclass(frozen=True)
class Bookmark:
    step: int
    text: str


@dataclass(frozen=True)
class Notes:
    tags: tuple[str, ...] = ()
    note: str = ""
    bookmarks: tuple[Bookmark, ...] = ()


def read(root: Path, name: str, created: float) -> Notes:
    """The notes of a run, empty where none were written.

    Args:
        created: the run's own stamp, unix seconds.

    Raises:
        BadInput: the file is there and damaged; it is left as it is.
    """
    path = root / FOLDER / f"{runs.check_name(name)}.json"
    if not path.exists():
        return Notes()
    data = io.loads(io.read_bytes(path, LIMIT), path)
    if not isinstance(data, Mapping):
        raise _bad(path, "", "is not a table")
    if data.get("created") != created:
        return Notes()
    return Notes(_tags(data, path), _text(data.get("note", ""), NOTE, path, "note"), _bookmarks(data, path))


def write(root: Path, name: str, created: float, notes: Notes) -> None:
    """Puts the notes of a run in place of what was there.

    Raises:
        BadInput: something is too long, or the folder cannot be written.
    """
    told = {
        "created": created,
        "tags": list(notes.tags),
        "note": notes.note,
        "bookmarks": [[mark.step, mark.text] for mark in notes.bookmarks],
    }
    path = root / FOLDER / f"{runs.check_name(name)}.json"
    for check in (_tags, _bookmarks):
        check(told, path)
    _text(notes.note, NOTE, path, "note")
    with io.told(root):
        root.mkdir(mode=0o700, parents=True, exist_ok=True)
    io.own_folder(root / FOLDER)
    io.atomic_write(path, io.dumps(told, path).encode())


def tags_of(text: str) -> tuple[str, ...]:
    """Tags as people type them: words with commas or spaces between, each once."""
    return tuple(dict.fromkeys(text.replace(",", " ").split()))


def _tags(data: Mapping[str, Any], path: Path) -> tuple[str, ...]:
    tags = data.get("tags", [])
    if not isinstance(tags, list) or len(tags) > TAGS:
        raise _bad(path, "tags", f"is no list of at most {TAGS} tags")
    return tuple(_text(tag, TAG, path, "tags") for tag in tags)


def _bookmarks(data: Mapping[str, Any], path: Path) -> tuple[Bookmark, ...]:
    marks = data.get("bookmarks", [])
    if not isinstance(marks, list) or len(marks) > BOOKMARKS:
        raise _bad(path, "bookmarks", f"is no list of at most {BOOKMARKS} bookmarks")
    found = []
    for mark in marks:
        if not isinstance(mark, list) or len(mark) != 2 or type(mark[0]) is not int or not 0 <= mark[0] < 2**32:
            raise _bad(path, "bookmarks", "holds something that is no [step, text]")
        found.append(Bookmark(mark[0], _text(mark[1], TEXT, path, "bookmarks")))
    return tuple(found)


def _text(value: Any, most: int, path: Path, field: str) -> str:
    if not isinstance(value, str) or len(value) > most:
        raise _bad(path, field, f"is no text of at most {most} characters")
    return value


def _bad(path: Path, field: str, what: str) -> BadInput:
    return BadInput(path, field, what, "shorten it, or move the file away to start anew")
