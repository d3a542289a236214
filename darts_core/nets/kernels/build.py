"""Build the kernels once with the machine's own compiler and keep the library in the user's cache folder.

    python -m darts_core.nets.kernels.build         # build now, if it is not there; says where it lies

The name of the library holds a hash of the source, the options and the compiler's own description of what it compiles
for, which names its version and every instruction set of this machine: a home folder shared by several machines has a
library for each kind. A library is complete and was tried before it gets its name, so several processes may build at
once. No torch in here, so that a build in the background takes little.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import stat
import subprocess
import sys
import tempfile
import threading
from functools import cache
from pathlib import Path

from darts_core import io
from darts_core.errors import BadInput, one_line
from darts_core.nets.kernels import Kernels

SOURCES = ("cell.cpp", "recurrent.cpp")
INCLUDED = ("vectors.h",)
PATIENCE = 300  # seconds that a compiler may take
OPTIONS = (
    "-x", "c++", "-std=c++17", "-O3", "-shared", "-fPIC", "-pthread", "-fvisibility=hidden", "-fno-math-errno",
    "-fno-trapping-math", "-ffp-contract=fast", "-Wno-psabi",
)  # fmt: skip
NATIVE = ("-march=native", "-mcpu=native")  # the second where the first is not known
OFF = "DARTS_NO_COMPILER"  # environment variable: set, and nothing is built or loaded
FIX = "install a C++ compiler (g++ or clang), or use backend=fast"


def compiler() -> str | None:
    """The C++ compiler to build with: $CXX, or the usual names on the PATH."""
    if os.environ.get(OFF):
        return None
    names = (os.environ.get("CXX"), "c++", "g++", "clang++")
    return next((path for name in names if name and (path := shutil.which(name))), None)


def folder() -> Path:
    """Where libraries are kept."""
    base = os.environ.get("XDG_CACHE_HOME") or os.environ.get("LOCALAPPDATA") or Path.home() / ".cache"
    return Path(base) / "darts-workbench"


@cache
def described(command: str) -> tuple[tuple[str, ...], str]:
    """The options that make `command` compile for this machine, and its description of it; a few milliseconds."""
    for native in (*((option,) for option in NATIVE), ()):
        asked = [command, *native, "-dM", "-E", "-x", "c++", os.devnull]
        try:
            done = subprocess.run(asked, capture_output=True, text=True, timeout=30)
        except (OSError, subprocess.TimeoutExpired):
            return (), ""
        if done.returncode == 0:
            return native, done.stdout
    return (), ""


def library() -> Path | None:
    """Where the library for this machine lies or would lie; None without a working compiler."""
    found = compiler()
    native, description = described(found) if found else ((), "")
    if not description:
        return None
    words = "\0".join([*OPTIONS, *native, description]).encode()
    sources = b"\0".join(Path(__file__).with_name(source).read_bytes() for source in (*SOURCES, *INCLUDED))
    name = hashlib.sha256(sources + words).hexdigest()[:20]
    return folder() / f"cell-{name}.so"


def _sources() -> list[Path]:
    return [Path(__file__).with_name(name) for name in SOURCES]


def ready() -> Path | None:
    """The library, if it has been built."""
    path = library()
    return path if path and path.is_file() and _ours(path) else None


def _ours(path: Path) -> bool:
    """Loading a library runs it: both it and its folder must be this user's, and nobody else's to write."""
    if not hasattr(os, "getuid"):
        return not path.is_symlink()
    found = [entry.lstat() for entry in (path, path.parent)]
    return all(s.st_uid == os.getuid() and not s.st_mode & 0o022 and not stat.S_ISLNK(s.st_mode) for s in found)


def build() -> Path:
    """Build the library unless it is there, and wait for it.

    Raises:
        BadInput: there is no compiler, or it could not build it.
    """
    path = library()
    if path is None:
        raise BadInput("kernels", "compiler", "none was found", FIX)
    if path.is_file():
        if _ours(path):
            return path
        raise BadInput(path, "", "belongs to, or may be written by, someone else", "remove it, or use backend=fast")
    with io.told(path.parent):
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        with tempfile.TemporaryDirectory(prefix="building-", dir=path.parent) as aside:
            made = Path(aside) / path.name
            command = compiler() or ""
            asked = [command, *OPTIONS, *described(command)[0], "-o", str(made), *map(str, _sources())]
            try:
                done = subprocess.run(asked, capture_output=True, text=True, timeout=PATIENCE)
            except subprocess.TimeoutExpired as error:
                raise BadInput("kernels", "compiler", f"took more than {PATIENCE} s", FIX) from error
            if done.returncode != 0:
                raise BadInput("kernels", "compiler", f"refused the source: {one_line(done.stderr, 300)}", FIX)
            tried = [sys.executable, "-m", "darts_core.nets.kernels.build", "--try", str(made)]
            if subprocess.run(tried, capture_output=True, timeout=60).returncode != 0:
                raise BadInput("kernels", "library", "does not load on this machine", FIX)
            made.chmod(0o700)
            os.replace(made, path)
    return path


def begin() -> bool:
    """Start building in the background, at the lowest priority, unless the library is there or is being built, or an
    attempt has failed; whether something was started.
    """
    path = library()
    if path is None or path.is_file() or _failed(path).exists() or io.locked(_lock(path)):
        return False
    try:
        process = subprocess.Popen(
            [sys.executable, "-m", "darts_core.nets.kernels.build", "--background"], stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True,
        )  # fmt: skip
    except OSError:
        return False
    threading.Thread(target=process.wait, daemon=True).start()  # or a zombie would stay until the search ends
    return True


def _lock(path: Path) -> Path:
    return path.with_suffix(".lock")


def _failed(path: Path) -> Path:
    return path.with_suffix(".failed")


def _in_background() -> None:
    """Build alone; leave a note where it cannot be done, so that it is not tried at every start."""
    path = library()
    if path is None:
        return
    if hasattr(os, "nice"):
        os.nice(19)
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    try:
        lock = io.Lock(_lock(path), f"process {os.getpid()} builds {path.name}\n")
    except BlockingIOError:
        return
    try:
        build()
    except BadInput as error:
        io.atomic_write(_failed(path), f"{error}\n".encode())
    finally:
        lock.release()


def main(words: list[str]) -> None:
    if words[:1] == ["--try"]:
        Kernels(Path(words[1]))
    elif words[:1] == ["--background"]:
        _in_background()
    else:
        print(build())


if __name__ == "__main__":
    main(sys.argv[1:])
