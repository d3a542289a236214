"""The one error that people see: what is wrong, where, and how to mend it, in one sentence."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


def one_line(text: object, limit: int = 2000) -> str:
    """`text` on a single line: white space folded, what cannot be printed escaped, a long text cut."""
    words = " ".join(str(text).split())
    line = "".join(c if c.isprintable() else c.encode("unicode_escape", "backslashreplace").decode() for c in words)
    return line if len(line) <= limit else line[: limit - 3] + "..."


class BadInput(Exception):
    """Input that cannot be used. `where` is a file or a command, `field` a key in it; empty parts are left out.

    `str(error)` is "{where}: {field}: {what}; {fix}" on one line. Any other exception from a loader is a bug of ours.
    """

    def __init__(self, where: object = "", field: object = "", what: object = "", fix: object = ""):
        self.where, self.field, self.what, self.fix = (one_line(part) for part in (where, field, what, fix))
        super().__init__(self.where, self.field, self.what, self.fix)  # four, so that copies keep them

    def __str__(self) -> str:
        said = ": ".join(part for part in (self.where, self.field, self.what) if part)
        return f"{said}; {self.fix}" if self.fix else said


def nearest(name: object, known: Iterable[str]) -> str | None:
    """The known name that `name` was probably meant to be, or None when none is close."""
    by_lower = {str(k).lower(): str(k) for k in known}
    close = difflib.get_close_matches(str(name)[:80].lower(), list(by_lower), n=1, cutoff=0.6)
    return by_lower[close[0]] if close else None


def unknown(where: object, field: object, name: object, known: Iterable[str]) -> BadInput:
    """A name outside a closed list: "unknown strategy 'dart'; did you mean 'darts'? known: darts, random"."""
    known = [str(k) for k in known]
    close = nearest(name, known)
    meant = f"did you mean {close!r}? " if close else ""
    shown = repr(name) if len(repr(name)) <= 80 else repr(name)[:77] + "..."
    return BadInput(where, field, f"unknown {field or 'name'} {shown}", f"{meant}known: {', '.join(known)}")
