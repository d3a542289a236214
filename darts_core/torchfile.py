"""What is in a checkpoint that torch.save wrote, as safetensors, without running anything that the file asks for.

A torch file is a pickle: a small program that may name any function of Python. This is the one place of the project
that reads such programs, and it reads them with their teeth drawn: `Inert` answers every name. The few names that make
up a tensor become records of where its numbers lie; a class becomes an empty stand-in that only keeps its fields; a
name that could do something is refused. It happens in a process of its own with limits of memory and time
(`python -m darts_core.torchfile`, a file on standard input, safetensors on standard output), which imports no torch.

Read: the zip form of torch 1.6 and later, and the plain form before it (the checkpoints that the DARTS authors released
in 2018); a bare state dict, a dict that holds one as "state_dict", or a whole pickled module.
"""

from __future__ import annotations

import io as memory
import json
import math
import pickle
import struct
import sys
import zipfile
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import numpy as np

from darts_core.errors import BadInput, one_line

HERE = "checkpoint"
LIMIT = 2 << 30  # bytes of a file
PICKLE_LIMIT = 64 << 20  # bytes of the pickle inside it; that of 1,650 tensors has 300,000
MEMBERS = 20_000
TENSORS = 10_000
SHARED = 4  # how often the bytes of a file may be shared by its tensors; tied weights are stored once and named twice
MODULES = 50_000  # parts of a pickled module
MAGIC = 0x1950A86A20F9469CFC6C  # the first pickle of a file older than torch 1.6
PROTOCOL = 1001
SECONDS = 120  # of processor time
ROOM = 1 << 30  # bytes of memory beside four times the file's size
OTHER = "export the state dict again with torch.save(model.state_dict(), path)"

STORAGES: Mapping[str, tuple[str, int]] = {  # storage class -> its dtype in safetensors, bytes per element
    "FloatStorage": ("F32", 4), "DoubleStorage": ("F64", 8), "HalfStorage": ("F16", 2), "BFloat16Storage": ("BF16", 2),
    "LongStorage": ("I64", 8), "IntStorage": ("I32", 4), "ShortStorage": ("I16", 2), "CharStorage": ("I8", 1),
    "ByteStorage": ("U8", 1), "BoolStorage": ("BOOL", 1),
}  # fmt: skip
OLD = {"commands", "popen2", "cPickle", "thread", "exceptions", "urllib2", "os2", "nt", "posix"}  # of older Pythons
HARMLESS = {  # classes of Python's own that people keep beside weights; they become stand-ins like any class
    ("argparse", "Namespace"), ("collections", "deque"), ("collections", "Counter"), ("datetime", "datetime"),
    ("datetime", "timedelta"), ("decimal", "Decimal"), ("fractions", "Fraction"), ("pathlib", "PosixPath"),
    ("pathlib", "PurePosixPath"), ("pathlib", "PureWindowsPath"), ("pathlib", "WindowsPath"),
    ("pathlib._local", "PosixPath"), ("pathlib._local", "WindowsPath"), ("uuid", "UUID"),
}  # fmt: skip
PLAIN = {"list", "dict", "tuple", "int", "float", "bool", "str", "range", "xrange", "slice",
         "complex", "bytearray", "object", "long", "unicode"}  # fmt: skip


class Storage(NamedTuple):
    """Numbers of one kind, somewhere in the file."""

    dtype: str
    width: int  # bytes per element
    key: str
    count: int  # elements of the whole
    start: int = 0  # first element of the part that is meant (old files name parts of storages)


class Tensor(NamedTuple):
    """A view of a storage: first element, shape and strides in elements."""

    storage: Storage
    offset: int
    shape: tuple[int, ...]
    stride: tuple[int, ...]


class Kind(NamedTuple):
    """Stands for a storage class."""

    dtype: str
    width: int


class Table(dict):
    """Stands for OrderedDict: a dict whose further state is ignored."""

    def __setstate__(self, state: object) -> None:
        return None


class Defaults(Table):
    """Stands for defaultdict: a dict whose default is forgotten."""

    def __init__(self, *factory: object) -> None:
        super().__init__()


class Inert:
    """Stands for an object of a class that is not ours to run: it takes anything and keeps its fields, as data."""

    def __new__(cls, *args: object, **kwargs: object) -> Inert:
        return super().__new__(cls)

    def __init__(self, *args: object, **kwargs: object) -> None:
        self.fields: dict[str, Any] = {}

    def __setstate__(self, state: object) -> None:
        if isinstance(state, tuple) and len(state) == 2 and isinstance(state[0], dict):
            state = state[0]  # the second part is for __slots__
        self.fields = dict(state) if isinstance(state, dict) else {}

    def append(self, item: object) -> None:
        return None

    def __setitem__(self, key: object, value: object) -> None:
        return None


def _tensor(storage: Any, offset: Any, shape: Any, stride: Any, *more: Any) -> Tensor:
    """`torch._utils._rebuild_tensor_v2` as a record."""
    numbers = (offset, *_numbers(shape), *_numbers(stride))
    if not isinstance(storage, Storage) or len(_numbers(shape)) != len(_numbers(stride)):
        raise BadInput(HERE, "tensor", "is not described as torch describes one", OTHER)
    if any(type(n) is not int or not 0 <= n < 1 << 48 for n in numbers):
        raise BadInput(HERE, "tensor", "has a shape that no tensor has", OTHER)
    return Tensor(storage, offset, _numbers(shape), _numbers(stride))


def _numbers(value: Any) -> tuple[Any, ...]:
    return tuple(value) if isinstance(value, (tuple, list)) and len(value) <= 16 else (-1,)


def _parameter(data: Any, *more: Any) -> Any:
    """`torch._utils._rebuild_parameter`: the tensor itself."""
    return data


def _bytes(text: Any, *how: Any) -> bytes:
    """`_codecs.encode`, by which pickles of the older form write bytes: those of a NumPy number beside the weights."""
    return text.encode("latin-1", "replace") if isinstance(text, str) else b""


def _size(*args: Any) -> tuple[Any, ...]:
    """`torch.Size`."""
    return tuple(args[0]) if args and isinstance(args[0], (tuple, list)) else ()


REBUILD: Mapping[tuple[str, str], Callable[..., Any]] = {
    ("torch._utils", "_rebuild_tensor"): _tensor,
    ("torch._utils", "_rebuild_tensor_v2"): _tensor,
    ("torch._utils", "_rebuild_parameter"): _parameter,
    ("torch.nn.parameter", "Parameter"): _parameter,
    ("torch", "Size"): _size,
    ("_codecs", "encode"): _bytes,
    ("collections", "OrderedDict"): Table,
    ("collections", "defaultdict"): Defaults,
}


class Reader(pickle.Unpickler):
    """Runs a pickle in which every name leads to a stand-in of ours. Nothing is imported, nothing of it called."""

    def find_class(self, module: str, name: str) -> Any:
        """The stand-in for a name.

        Raises:
            BadInput: the name belongs to Python itself and is no plain type: it could do something.
        """
        if (module, name) in REBUILD:
            return REBUILD[module, name]
        if module in ("torch", "torch.cuda", "torch.storage") and name in STORAGES:
            return Kind(*STORAGES[name])
        top = module.partition(".")[0]
        if top in ("builtins", "__builtin__"):
            if name in ("set", "frozenset"):
                return set if name == "set" else frozenset
            if name in PLAIN:
                return type(name, (Inert,), {})
        elif (module, name) in (("copyreg", "_reconstructor"), ("copy_reg", "_reconstructor")):
            return lambda kind, *more: kind() if isinstance(kind, type) and issubclass(kind, Inert) else Inert()
        elif (top not in {*sys.stdlib_module_names, *OLD} or (module, name) in HARMLESS) and "." not in name:
            return type(one_line(name, 40), (Inert,), {})
        what = f"names {one_line(f'{module}.{name}', 80)}, which could run code"
        raise BadInput(HERE, "pickle", what, "this is no checkpoint of a network: do not open it")

    def persistent_load(self, pid: Any) -> Any:
        """The storage that a tensor lies in; of old whole modules also a class, whose source text is left alone."""
        if isinstance(pid, tuple) and len(pid) >= 2 and pid[0] == "module" and isinstance(pid[1], type):
            return pid[1]
        if not isinstance(pid, tuple) or len(pid) < 5 or pid[0] != "storage" or not isinstance(pid[1], Kind):
            raise BadInput(HERE, "pickle", "refers to something that is no storage", OTHER)
        key, count = pid[2], pid[4]
        if not isinstance(key, str) or type(count) is not int or not 0 <= count < 1 << 48:
            raise BadInput(HERE, "pickle", "describes a storage wrongly", OTHER)
        part = pid[5] if len(pid) > 5 else None
        start = part[1] if isinstance(part, tuple) and len(part) == 3 else 0
        if type(start) is not int or not 0 <= start <= count:
            raise BadInput(HERE, "pickle", "describes a part of a storage wrongly", OTHER)
        return Storage(pid[1].dtype, pid[1].width, key, count, start)


def converted(data: bytes) -> bytes:
    """The state dict in a torch file as safetensors.

    Raises:
        BadInput: the file is none, is damaged, would run code, or says more than it holds.
    """
    found, storages = _opened(data)
    state = _state(found)
    header: dict[str, Any] = {}
    parts, at = [], 0
    for name, tensor in state.items():
        numbers = _numbers_of(name, tensor, storages)
        if at + len(numbers) > SHARED * len(data):  # many views of the same numbers: a small file must not become large
            what = f"describes more than {SHARED} times the {len(data):,} bytes that the file has"
            raise BadInput(HERE, "state dict", what, OTHER)
        places = [at, at + len(numbers)]
        header[name] = {"dtype": tensor.storage.dtype, "shape": list(tensor.shape), "data_offsets": places}
        parts.append(numbers)
        at += len(numbers)
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    return b"".join([struct.pack("<Q", len(text)), text, *parts])


def _numbers_of(name: str, tensor: Tensor, storages: Mapping[str, bytes | memoryview]) -> bytes:
    """The numbers of one tensor, side by side."""
    storage, where = tensor.storage, f"tensor {one_line(name, 80)}"
    raw = storages.get(storage.key)
    if raw is None or len(raw) < storage.count * storage.width:
        raise BadInput(HERE, where, "its numbers are missing", "take another copy of the file")
    count = math.prod(tensor.shape)
    first = storage.start + tensor.offset
    last = first + sum((n - 1) * s for n, s in zip(tensor.shape, tensor.stride, strict=True))
    if count and (count > storage.count or last >= storage.count):
        raise BadInput(HERE, where, f"claims {count:,} numbers, its storage holds {storage.count:,}", OTHER)
    width = storage.width
    if count == 0:
        return b""
    items = np.frombuffer(raw, dtype=f"V{width}", count=storage.count)[first:]
    view = np.lib.stride_tricks.as_strided(items, tensor.shape, [s * width for s in tensor.stride], writeable=False)
    return np.ascontiguousarray(view).tobytes()


# ---- the file


def _opened(data: bytes) -> tuple[Any, dict[str, bytes | memoryview]]:
    """The object in the file, and key -> bytes of its storages."""
    if data[:4] == b"PK\x03\x04":
        return _zipped(data)
    return _legacy(data)


def _zipped(data: bytes) -> tuple[Any, dict[str, bytes | memoryview]]:
    try:
        with zipfile.ZipFile(memory.BytesIO(data)) as archive:
            entries = archive.infolist()
            _check_members(entries, len(data))
            root = next((e.filename[: -len("data.pkl")] for e in entries if e.filename.endswith("/data.pkl")), None)
            if root is None:
                raise BadInput(HERE, "", "this zip holds no data.pkl", OTHER)
            held = {e.filename[len(root) :]: e for e in entries if e.filename.startswith(root)}
            if "byteorder" in held and archive.read(held["byteorder"]) != b"little":
                raise BadInput(HERE, "byteorder", "the numbers are not little-endian", OTHER)
            if held["data.pkl"].file_size > PICKLE_LIMIT:
                raise BadInput(HERE, "data.pkl", "is larger than any checkpoint's", OTHER)
            found = _unpickled(memory.BytesIO(archive.read(held["data.pkl"])))
            keys = {name.removeprefix("data/"): entry for name, entry in held.items() if name.startswith("data/")}
            return found, {key: archive.read(entry) for key, entry in keys.items()}
    except (
        zipfile.BadZipFile,
        EOFError,
        struct.error,
        OSError,
        ValueError,
        RuntimeError,
        NotImplementedError,
    ) as error:
        raise BadInput(HERE, "", "the zip is damaged", "take another copy of the file") from error


def _check_members(entries: list[zipfile.ZipInfo], size: int) -> None:
    """Members as torch stores them: not compressed, so that all together are no larger than the file."""
    if len(entries) > MEMBERS:
        raise BadInput(HERE, "", f"the zip has {len(entries):,} members", OTHER)
    if any(e.compress_type != zipfile.ZIP_STORED for e in entries) or sum(e.file_size for e in entries) > size:
        raise BadInput(HERE, "", "the zip is compressed, which torch never does", OTHER)


def _legacy(data: bytes) -> tuple[Any, dict[str, bytes | memoryview]]:
    """Pickles one after another (magic number, version, system, object, keys), then each storage with its length."""
    stream = memory.BytesIO(data)
    if not data.startswith(b"\x80"):
        raise BadInput(HERE, "", "this is no file that torch.save wrote", "is this the right file?")
    magic, version = _unpickled(stream), _unpickled(stream)
    if magic != MAGIC or version != PROTOCOL:
        raise BadInput(HERE, "", "this is no file that torch.save wrote", "is this the right file?")
    system = _unpickled(stream)
    if not isinstance(system, dict) or system.get("little_endian") is not True:
        raise BadInput(HERE, "byteorder", "the numbers are not little-endian", OTHER)
    reader = Noting(stream, encoding="latin-1")
    found = _loaded(reader)
    keys = _unpickled(stream)
    if not isinstance(keys, list) or len(keys) > MEMBERS or not all(isinstance(key, str) for key in keys):
        raise BadInput(HERE, "storages", "are not listed", "take another copy of the file")
    whole, at, storages = memoryview(data), stream.tell(), {}
    for key in keys:
        known = reader.known.get(key)
        if known is None or at + 8 > len(data):
            raise BadInput(HERE, "storages", "end before all of them are read", "take another copy of the file")
        (count,) = struct.unpack_from("<q", data, at)
        end = at + 8 + count * known.width
        if count < 0 or end > len(data):
            raise BadInput(HERE, "storages", "are cut off", "take another copy of the file")
        storages[key], at = whole[at + 8 : end], end
    return found, storages


class Noting(Reader):
    """Remembers the storages it met: the plain form says their widths nowhere else."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.known: dict[str, Storage] = {}

    def persistent_load(self, pid: Any) -> Any:
        found = super().persistent_load(pid)
        if isinstance(found, Storage):
            self.known[found.key] = found
        return found


def _unpickled(stream: memory.BytesIO) -> Any:
    return _loaded(Reader(stream, encoding="latin-1"))


def _loaded(reader: Reader) -> Any:
    try:
        return reader.load()
    except BadInput:
        raise
    except Exception as error:  # a damaged or forged pickle can raise almost anything
        raise BadInput(
            HERE, "pickle", f"is damaged ({type(error).__name__})", "take another copy of the file"
        ) from error


# ---- what was in it


def _state(found: Any) -> dict[str, Tensor]:
    """name -> tensor of the object in a file."""
    for key in ("state_dict", "model", "net"):
        if isinstance(found, dict) and isinstance(found.get(key), (dict, Inert)):
            found = found[key]
            break
    named = _of_module(found) if isinstance(found, Inert) else found
    if not isinstance(named, dict) or not named:
        raise BadInput(HERE, "", "holds no state dict and no module", OTHER)
    state = {name: t for name, t in named.items() if isinstance(t, Tensor)}
    if any(not isinstance(name, str) for name in named) or len(state) != len(named):
        raise BadInput(HERE, "state dict", "holds something that is no tensor", OTHER)
    if len(state) > TENSORS:
        raise BadInput(HERE, "state dict", f"holds {len(state):,} tensors", OTHER)
    if all(name.startswith("module.") for name in state):  # saved from DataParallel
        state = {name.removeprefix("module."): t for name, t in state.items()}
    return state


def _of_module(module: Inert) -> dict[str, Tensor]:
    """The state dict of a pickled module: its parameters and buffers under dotted names."""
    state: dict[str, Tensor] = {}
    waiting, seen = [("", module)], 0
    while waiting:
        prefix, part = waiting.pop()
        seen += 1
        if seen > MODULES or prefix.count(".") > 64:
            raise BadInput(HERE, "module", "has more parts than any network", OTHER)
        for table in ("_parameters", "_buffers"):
            held = part.fields.get(table)
            for name, tensor in (held if isinstance(held, dict) else {}).items():
                if isinstance(tensor, Tensor) and name not in _set(part.fields.get("_non_persistent_buffers_set")):
                    state[f"{prefix}{name}"] = tensor
        children = part.fields.get("_modules")
        for name, child in (children if isinstance(children, dict) else {}).items():
            if isinstance(child, Inert):
                waiting.append((f"{prefix}{name}.", child))
    return state


def _set(value: Any) -> set[Any] | frozenset[Any]:
    return value if isinstance(value, (set, frozenset)) else set()


def main() -> int:
    """The child process: limits first, then the file."""
    given = sys.stdin.buffer.read(8)
    size = int.from_bytes(given, "little")
    _confine(size)
    try:
        data = sys.stdin.buffer.read(size)
        sys.stdout.buffer.write(converted(data))
    except BadInput as error:
        print(error, file=sys.stderr)
        return 2
    except (MemoryError, RecursionError):
        print(BadInput(HERE, "", "needs more memory than a file of its size may", OTHER), file=sys.stderr)
        return 2
    return 0


def _confine(size: int) -> None:
    """Memory, time and files of this process, where the system can limit them."""
    try:
        import resource
    except ImportError:  # Windows: the parent's time limit remains
        return
    room = 4 * size + ROOM
    for what, limit in ((resource.RLIMIT_AS, room), (resource.RLIMIT_CPU, SECONDS), (resource.RLIMIT_FSIZE, 0),
                        (resource.RLIMIT_NPROC, 0), (resource.RLIMIT_CORE, 0)):  # fmt: skip
        try:
            resource.setrlimit(what, (limit, limit))
        except (ValueError, OSError):
            continue  # a lower limit is in force already


if __name__ == "__main__":
    sys.exit(main())
