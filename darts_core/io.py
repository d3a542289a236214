"""Every byte in or out: append, atomic write, bounded read, strict JSON, safe names, locks. Nothing else opens files.

Appending is one `os.write`, whole or not at all: a short write, or a full disk, is cut back and raised, so that a file
never holds half a record in its middle. Everything else is written beside its target, synced, read again and renamed.
Files are read as bytes with a limit, never mapped (a file that another process cuts would kill the reader), and only
where they are regular files and no links.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import math
import os
import re
import stat
import time
import uuid
from collections.abc import Callable, Iterator, Mapping
from io import FileIO
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from darts_core.errors import BadInput

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None

NAME = re.compile(r"[a-z0-9][a-z0-9_-]{0,63}")
RESERVED = {"con", "prn", "aux", "nul"} | {
    f"{device}{n}" for device in ("com", "lpt") for n in range(10)
}  # Windows devices
JSON_LIMIT = 4 << 20  # bytes
DEPTH_LIMIT = 32  # brackets within brackets
HEADER_LIMIT = 1 << 20  # bytes of a safetensors header
TENSOR_LIMIT = 10_000
SYNC_EVERY = 1.0  # seconds: what a power cut may take
TENSOR_BYTES = {
    "BOOL": 1, "U8": 1, "I8": 1, "I16": 2, "U16": 2, "F16": 2, "BF16": 2,
    "I32": 4, "U32": 4, "F32": 4, "I64": 8, "U64": 8, "F64": 8,
}  # fmt: skip

# Names and places -----------------------------------------------------------------------------------------


def safe_name(name: object, where: object = "", field: str = "name") -> str:
    """`name` itself if it is a slug that is safe as a folder name on every system, else BadInput."""
    if not isinstance(name, str) or not NAME.fullmatch(name) or name in RESERVED:
        shown = repr(name) if len(repr(name)) <= 80 else repr(name)[:77] + "..."
        fix = "use 1 to 64 of a-z, 0-9, - and _, with a letter or digit first, and no device name such as con"
        raise BadInput(where, field, f"{shown} is not a name", fix)
    return name


def inside(root: Path, name: str) -> Path:
    """root/name, refused when it is a link or leads elsewhere."""
    folder = root / safe_name(name, root)
    if folder.is_symlink() or os.path.realpath(folder) != os.path.join(os.path.realpath(root), name):
        raise BadInput(root, "name", f"{name} is a link to another place", "put the folder itself there")
    return folder


def own_folder(folder: Path) -> None:
    """Makes `folder`, for its owner alone, if it is not there; BadInput when a link or a file stands in its place."""
    with told(folder.parent):
        if folder.is_symlink() or (folder.exists() and not folder.is_dir()):
            raise BadInput(
                folder, "", "this is no folder of the run but a link or a file", "take another copy of the run"
            )
        folder.mkdir(mode=0o700, exist_ok=True)


def disk_error(error: OSError, folder: Path, needed: int = 0) -> BadInput:
    """What an OSError means to a person; `needed` in bytes."""
    if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
        megabytes = max(1, -(-needed // 1_000_000))
        return BadInput("", "", f"disk full: {megabytes} MB needed in {folder}", "make room and resume")
    if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
        return BadInput(
            folder, "", "this folder may not be written", "change its permissions or choose another with --runs"
        )
    return BadInput(folder, "", f"the disk refused: {error.strerror or error}", "check the disk and resume")


@contextlib.contextmanager
def told(folder: Path, needed: int = 0) -> Iterator[None]:
    """Turns an OSError inside into BadInput about `folder`."""
    try:
        yield
    except OSError as error:
        raise disk_error(error, folder, needed) from error


# Reading --------------------------------------------------------------------------------------------------


def opened(path: str | Path) -> FileIO:
    """The regular file at `path`, open for reading; BadInput for anything else (a link, a pipe, a folder, nothing)."""
    flags = os.O_RDONLY | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0)
    try:
        fd = os.open(path, flags)  # O_NONBLOCK: a pipe without a writer must not hang us
    except (OSError, ValueError) as error:  # ValueError: a NUL in the path
        raise BadInput(path, "", _why_unreadable(error), "check the path and its permissions") from error
    if not stat.S_ISREG(os.fstat(fd).st_mode):
        os.close(fd)
        raise BadInput(path, "", "this is not a regular file", "give a file")
    return FileIO(fd, "rb")


def _why_unreadable(error: Exception) -> str:
    known = {errno.ENOENT: "there is no such file", errno.ELOOP: "this is a link, and links are not followed"}
    known |= {
        errno.EACCES: "this file may not be read",
        errno.EISDIR: "this is a folder",
        errno.ENOTDIR: "there is no such file",
    }
    return known.get(
        getattr(error, "errno", None) or 0, getattr(error, "strerror", None) or "this path cannot be opened"
    )


def read_at(file: FileIO, offset: int, count: int) -> bytes:
    """Up to `count` bytes from `offset`; fewer only at the end of the file."""
    file.seek(offset)
    parts, wanted = [], count
    while wanted > 0 and (part := file.read(min(wanted, 1 << 24))):
        parts.append(part)
        wanted -= len(part)
    return parts[0] if len(parts) == 1 else b"".join(parts)


def read_bytes(path: str | Path, limit: int) -> bytes:
    """All of a regular file of at most `limit` bytes, its size looked at before its content."""
    with opened(path) as file:
        size = os.fstat(file.fileno()).st_size
        if size > limit:
            raise BadInput(
                path, "", f"{size:,} bytes are more than the {limit:,} allowed here", "is this the right file?"
            )
        return read_at(file, 0, limit)


def size(path: str | Path) -> int:
    """Bytes of the regular file at `path`; BadInput where there is none."""
    with opened(path) as file:
        return os.fstat(file.fileno()).st_size


class Stamp(NamedTuple):
    """What a file is known by without being read: while it stays the same, so does what the file holds."""

    inode: int
    size: int
    changed: int  # nanoseconds


def stamp(path: str | Path) -> Stamp | None:
    """The stamp of a file; None where there is none."""
    try:
        found = os.stat(path)
    except OSError:
        return None
    return Stamp(found.st_ino, found.st_size, found.st_mtime_ns)


def memory_available() -> int:
    """Bytes of memory that a new process could take; 0 where the system does not say (not Linux)."""
    free = 0
    try:
        for line in Path("/proc/meminfo").read_text("ascii").splitlines():
            if line.startswith("MemAvailable:"):
                free = int(line.split()[1]) * 1024
        group = Path("/sys/fs/cgroup")
        limit, used = ((group / name).read_text("ascii").strip() for name in ("memory.max", "memory.current"))
        if limit != "max":
            free = min(free, max(0, int(limit) - int(used)))
    except (OSError, ValueError, IndexError):
        return free
    return free


def sha256(data: bytes) -> str:
    """Hexadecimal SHA-256 of `data`."""
    return hashlib.sha256(data).hexdigest()


# JSON -----------------------------------------------------------------------------------------------------


def loads(data: bytes, where: object, limit: int = JSON_LIMIT) -> Any:
    """The JSON value in UTF-8 `data`; no NaN, infinity, repeated key, huge number, deep nesting or byte order mark."""

    def bad(what: str, fix: str = "write plain JSON in UTF-8") -> BadInput:
        return BadInput(where, "", what, fix)

    if len(data) > limit:
        raise bad(f"{len(data):,} bytes of JSON are more than the {limit:,} allowed here")
    if data.startswith((b"\xef\xbb\xbf", b"\xff\xfe", b"\xfe\xff")):
        raise bad("it starts with a byte order mark", "save it as UTF-8 without one")
    if data.count(b"[") + data.count(b"{") > DEPTH_LIMIT and _depth(data) > DEPTH_LIMIT:
        raise bad(f"brackets are nested deeper than {DEPTH_LIMIT}")

    def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        found = dict(pairs)
        if len(found) < len(pairs):
            names = [name for name, _ in pairs]
            twice = next(name for name in names if names.count(name) > 1)
            raise bad(f"the key {twice!r} stands there twice", "keep one of them")
        return found

    def integer(text: str) -> int:
        if len(text) > 20 or abs(int(text)) >= 1 << 63:
            raise bad(f"the number {text[:20]} is too large")
        return int(text)

    def real(text: str) -> float:
        if len(text) > 400 or not math.isfinite(float(text)):
            raise bad(f"the number {text[:20]} is too large")
        return float(text)

    def constant(text: str) -> None:
        raise bad(f"{text} is not a JSON number", "leave the value out or write null")

    try:
        text = data.decode("utf-8")
        value = json.loads(text, object_pairs_hook=unique, parse_int=integer, parse_float=real, parse_constant=constant)
        if b"\\u" in data:
            json.dumps(value, ensure_ascii=False).encode("utf-8")  # refuses lone surrogates
    except json.JSONDecodeError as error:
        raise bad(f"line {error.lineno}, column {error.colno}: {error.msg.lower()}") from error
    except UnicodeError as error:
        raise bad("the text is not UTF-8") from error
    except RecursionError as error:
        raise bad(f"brackets are nested deeper than {DEPTH_LIMIT}") from error
    return value


def _depth(data: bytes) -> int:
    """How deep brackets are nested in JSON `data`, those in strings left out."""
    depth = deepest = 0
    for bracket in re.findall(rb"[\[\]{}]", re.sub(rb'"(?:[^"\\]|\\.)*"', b"", data, flags=re.DOTALL)):
        depth += 1 if bracket in b"[{" else -1
        deepest = max(deepest, depth)
    return deepest


def dumps(value: Any, where: object = "") -> str:
    """`value` as JSON on one line that `loads` reads back; BadInput names the field of a NaN or a strange type."""
    return json.dumps(_plain(value, where, ""), ensure_ascii=False, separators=(",", ":"), allow_nan=False)


def _plain(value: Any, where: object, field: str) -> Any:
    if isinstance(value, np.generic):
        value = value.item()
    if isinstance(value, float) and not math.isfinite(value):
        raise BadInput(where, field, f"{value} is not a JSON number", "leave the value out")
    if isinstance(value, str) and not value.isascii():
        return value.encode("utf-8", "replace").decode("utf-8")  # a lone surrogate becomes "?"
    if isinstance(value, int) and not isinstance(value, bool) and abs(value) >= 1 << 63:
        raise BadInput(where, field, "the number is too large", "keep it below 2**63")
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    if field.count(".") > DEPTH_LIMIT - 3:
        raise BadInput(where, field[:80], "nested too deeply", f"keep it within {DEPTH_LIMIT} levels")
    dot = "." if field else ""
    if isinstance(value, Mapping):
        for key in value:
            if not isinstance(key, str):
                raise BadInput(where, field, f"the key {key!r} is not text", "use text keys")
        return {_plain(key, where, field): _plain(entry, where, f"{field}{dot}{key}") for key, entry in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(entry, where, f"{field}{dot}{index}") for index, entry in enumerate(value)]
    raise BadInput(
        where, field, f"{type(value).__name__} cannot be written as JSON", "give numbers, texts, lists, dicts"
    )


# Writing --------------------------------------------------------------------------------------------------


def write_flags(create: int) -> int:
    """Flags for os.open of a file we write: never through a link, never text mode, not handed to child processes."""
    return create | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_CLOEXEC", 0) | getattr(os, "O_BINARY", 0)


def sync_folder(folder: Path) -> None:
    """Makes a rename inside `folder` survive a power cut; does nothing where folders cannot be opened (Windows)."""
    if not hasattr(os, "O_DIRECTORY"):
        return
    fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def atomic_write(path: str | Path, data: bytes, check: Callable[[bytes], object] | None = None) -> None:
    """Puts `data` at `path` so that any reader, after any crash, sees the old file or the new one, whole.

    `check` is given what was read back from the disk and may raise BadInput, which leaves the old file in place. A full
    disk is BadInput too; neither leaves a temporary file behind.
    """
    path = Path(path)
    aside = path.with_name(f".{path.name}.{uuid.uuid4().hex[:12]}.tmp")
    try:
        with told(path.parent, len(data)):
            fd = os.open(aside, write_flags(os.O_RDWR | os.O_CREAT | os.O_EXCL), 0o600)
            try:
                view = memoryview(data)
                while view:
                    written = os.write(fd, view)
                    if written == 0:
                        raise OSError(errno.ENOSPC, "nothing was written")
                    view = view[written:]
                os.fsync(fd)
            finally:
                os.close(fd)
            back = read_bytes(aside, len(data))
            if back != data:
                raise BadInput(path, "", "the disk gave back other bytes than were written", "check the disk")
            if check is not None:
                check(back)
            os.replace(aside, path)
            sync_folder(path.parent)
    except BaseException:
        with contextlib.suppress(OSError):
            os.unlink(aside)
        raise


def sweep(folder: Path) -> None:
    """Removes temporary files that a killed `atomic_write` left in `folder`; only for the one who holds the lock."""
    for entry in os.scandir(folder):
        if re.fullmatch(r"\..+\.[0-9a-f]{12}\.tmp", entry.name) and entry.is_file(follow_symlinks=False):
            os.unlink(entry.path)


class Appender:
    """The single writer of a growing file; `size` counts the bytes of its whole appends."""

    def __init__(self, path: Path):
        self.path = path
        self._open()

    def _open(self) -> None:
        path = self.path
        with told(path.parent):
            self.fd = os.open(path, write_flags(os.O_RDWR | os.O_APPEND | os.O_CREAT), 0o600)
            found = os.fstat(self.fd)
        if not stat.S_ISREG(found.st_mode):
            os.close(self.fd)
            raise BadInput(path, "", "this is not a regular file", "choose another run")
        self.size = found.st_size
        self.synced = time.monotonic()
        self.dirty = False

    def append(self, data: bytes) -> None:
        """Adds `data`, whole or not at all, in one write. BadInput ("disk full: ...") leaves the file as it was."""
        self._check_length(len(data))
        try:
            written = os.write(self.fd, data)
            if written != len(data):
                raise OSError(errno.ENOSPC, "short write")
        except BaseException as error:
            with contextlib.suppress(OSError):
                os.ftruncate(self.fd, self.size)  # where this fails too, the next append cuts first
            if isinstance(error, OSError):
                raise disk_error(error, self.path.parent, len(data)) from error
            raise
        self.size += written
        self.dirty = True
        self.sync_if_due()

    def _check_length(self, needed: int) -> None:
        if self.fd < 0:
            raise BadInput(self.path, "", "the run is closed", "open it again")
        found = os.fstat(self.fd)
        if found.st_nlink == 0:
            raise BadInput(self.path, "", "the file was deleted while it was written", "start the search again")
        if found.st_size < self.size:
            what = f"another program cut it to {found.st_size:,} bytes"
            raise BadInput(self.path, "", what, "resume the run, which repairs it")
        if found.st_size > self.size:
            with told(self.path.parent, needed):
                os.ftruncate(self.fd, self.size)

    def cut(self, size: int) -> None:
        """Shortens the file to `size` bytes and syncs it."""
        with told(self.path.parent):
            os.ftruncate(self.fd, size)
            self.size, self.dirty = size, True
        self.sync()

    def rewrite(self, data: bytes) -> None:
        """Makes `data` the whole content, atomically: after a kill or a full disk it is the old file or the new one."""
        self.close()
        try:
            atomic_write(self.path, data)
        finally:
            self._open()

    def sync_if_due(self) -> None:
        """Syncs if a second has passed since the last time."""
        if self.dirty and time.monotonic() - self.synced >= SYNC_EVERY:
            self.sync()

    def sync(self) -> None:
        """After this, a power cut takes nothing that was appended."""
        if self.dirty:
            with told(self.path.parent):
                os.fsync(self.fd)
            self.dirty = False
        self.synced = time.monotonic()

    def close(self) -> None:
        """Syncs and lets the file go."""
        if self.fd < 0:
            return
        try:
            self.sync()
        finally:
            os.close(self.fd)
            self.fd = -1


def append_fd(path: Path) -> int:
    """A descriptor that appends to `path` (made with mode 0600), for a process to put its stdout and stderr into."""
    with told(path.parent):
        return os.open(path, write_flags(os.O_WRONLY | os.O_APPEND | os.O_CREAT), 0o600)


# Locks ----------------------------------------------------------------------------------------------------


def _try_lock(fd: int, shared: bool) -> bool:
    """Takes the kernel's lock on `fd` at once, or says False."""
    try:
        if fcntl is not None:
            fcntl.flock(fd, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | fcntl.LOCK_NB)
        else:
            import msvcrt

            # a byte far behind the text, so that the text stays readable
            os.lseek(fd, 1 << 30, os.SEEK_SET)
            msvcrt.locking(fd, msvcrt.LK_NBLCK, 1)  # pyright: ignore[reportAttributeAccessIssue]
    except OSError as error:
        if error.errno in (errno.EWOULDBLOCK, errno.EACCES, errno.EDEADLK):
            return False
        raise
    return True


class Lock:
    """An exclusive lock that the kernel frees when its holder dies. The text in the file is for people."""

    def __init__(self, path: Path, text: str, patience: float = 0.3):
        """Takes the lock within `patience` seconds (a reader holds it for an instant to look), or BlockingIOError."""
        self.fd = os.open(path, write_flags(os.O_RDWR | os.O_CREAT), 0o600)
        try:
            until = time.monotonic() + patience
            while not _try_lock(self.fd, shared=False):
                if time.monotonic() > until:
                    raise BlockingIOError(errno.EWOULDBLOCK, "locked", str(path))
                time.sleep(0.01)
            if not os.path.samestat(os.fstat(self.fd), os.stat(path)):
                raise BlockingIOError(errno.EWOULDBLOCK, "moved away", str(path))
            os.ftruncate(self.fd, 0)
            os.lseek(self.fd, 0, os.SEEK_SET)
            os.write(self.fd, text.encode())
        except BaseException:
            os.close(self.fd)
            raise

    def release(self) -> None:
        """Lets go; the text stays."""
        if self.fd >= 0:
            os.close(self.fd)
            self.fd = -1


def locked(path: Path) -> bool:
    """Is the lock at `path` held by a live process that this machine can see? Never waits, never writes."""
    try:
        fd = os.open(path, os.O_RDONLY | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0))
    except OSError:
        return False
    try:
        return not _try_lock(fd, shared=True)
    except OSError:  # a file system without locks, or no regular file
        return False
    finally:
        os.close(fd)


# Tensor files ---------------------------------------------------------------------------------------------


def check_tensors(data: bytes, where: object) -> tuple[dict[str, str], dict[str, tuple[str, tuple[int, ...]]]]:
    """The metadata, and name -> (dtype, shape), of a safetensors file in `data`, checked without making a tensor.

    Bounded header and tensor count; known dtypes; offsets that fill the data in order without hole or overlap.
    Source: the format's description at https://github.com/huggingface/safetensors#format.
    """

    def bad(field: str, what: str) -> BadInput:
        return BadInput(where, field, what, "use another checkpoint: this file is damaged")

    length = int.from_bytes(data[:8], "little")
    if len(data) < 8 or length > len(data) - 8:
        raise bad("", f"the file is cut off at {len(data):,} bytes")
    if length > HEADER_LIMIT:
        raise bad("header", f"{length:,} bytes are more than {HEADER_LIMIT:,}")
    header = loads(data[8 : 8 + length], where, HEADER_LIMIT)
    if not isinstance(header, dict):
        raise bad("header", "it is not a table of tensors")
    metadata = header.pop("__metadata__", {})
    if not isinstance(metadata, dict) or not all(isinstance(text, str) for text in metadata.values()):
        raise bad("__metadata__", "it is not a table of texts")
    if len(header) > TENSOR_LIMIT:
        raise bad("header", f"{len(header):,} tensors are more than {TENSOR_LIMIT:,}")
    tensors, spans = {}, []
    for name, entry in header.items():
        if not isinstance(entry, dict) or set(entry) != {"dtype", "shape", "data_offsets"}:
            raise bad(name[:80], "it needs exactly dtype, shape and data_offsets")
        dtype, shape, span = entry["dtype"], entry["shape"], entry["data_offsets"]
        if not isinstance(dtype, str) or dtype not in TENSOR_BYTES:
            raise bad(name[:80], f"unknown dtype {str(dtype)[:20]!r}")
        if not isinstance(shape, list) or len(shape) > 16 or not all(type(n) is int and n >= 0 for n in shape):
            raise bad(name[:80], "the shape is not a list of sizes")
        if not isinstance(span, list) or len(span) != 2 or not all(type(n) is int and n >= 0 for n in span):
            raise bad(name[:80], "data_offsets are not two positions")
        if span[1] - span[0] != math.prod(shape) * TENSOR_BYTES[dtype]:
            raise bad(name[:80], "the shape does not fit its bytes")
        spans.append((span[0], span[1], name))
        tensors[name] = (dtype, tuple(shape))
    end = 0
    for start, stop, name in sorted(spans):
        if start != end:
            raise bad(name[:80], "there is a hole or an overlap before this tensor")
        end = stop
    if end != len(data) - 8 - length:
        raise bad("", f"{len(data) - 8 - length:,} bytes of tensors where the header says {end:,}")
    return metadata, tensors
