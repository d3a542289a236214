"""Imports run one way: the order below is ARCHITECTURE.md's, and every import statement in the clone is held to it."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent

# A room imports from rooms in earlier lines and from its own. Rooms of one line may import one another.
PLAIN = [
    {
        "card",
        "errors",
        "seeds",
        "io",
        "space",
        "own_space",
        "genotype",
        "config",
        "events",
        "derive",
        "legal",
        "zoo",
        "truth",
        "evaluation",
        "torchfile",
    },
    {"cures", "stack"},
    {"cost"},
    {"estimate"},
    {"runs"},
    {"desk", "flags"},
    {"tally"},
    {"view"},
    {"export"},
    {"reporting"},
]
TORCH = [
    {"ops", "mix", "optimise", "chance"},
    {"nets"},
    {"latency"},
    {"data"},
    {"search.method"},  # the types of a search, before what uses them
    {"tasks", "language", "exhaustive"},
    {"search"},
    {"methods", "baselines"},
    {"training"},
    {"language_training"},
    {"strategies"},
    {"choices"},
    {"calibrate"},
    {"evaluate", "evaluate_text"},
    {"weights_file"},
    {"model_file", "import_pt", "network_files", "language_file", "language_export"},
    {"drive"},
    {"together", "trying"},
    {"contest"},
    {"commands", "method_commands"},
    {"cell_commands"},
    {"selection", "terminal"},
    {"net_commands"},
    {"text_commands"},
    {"__main__"},
]
LINE = {room: number for number, rooms in enumerate(PLAIN + TORCH) for room in rooms}
PLAIN_ROOMS = set.union(*PLAIN)
ONLY_IN = {  # who alone may import what
    "streamlit": ("app/",),
    "torchvision": ("darts_core/data/",),
    "ipywidgets": ("darts_core/view/widgets.py",),
    "anywidget": ("darts_core/view/widgets.py",),
}
FILES = {"open", "os.open", "read_bytes", "read_text", "write_bytes", "write_text", "fromfile", "memmap", "tofile"}


def sources(folder: str) -> list[Path]:
    return sorted((ROOT / folder).rglob("*.py"))


def imports(path: Path) -> Iterator[tuple[int, str]]:
    """Line and dotted name of everything that a file imports, inside functions too; relative names made absolute."""
    package = list(path.relative_to(ROOT).with_suffix("").parts[:-1])
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) + 1 - node.level] if node.level else []
            module = ".".join([*base, *([node.module] if node.module else [])])
            yield from ((node.lineno, f"{module}.{alias.name}") for alias in node.names)


def room(name: str) -> str | None:
    """The room of a dotted name: `darts_core.nets.mixed` is in `nets`. None: not in the package."""
    parts = name.split(".")
    if parts[0] != "darts_core" or len(parts) == 1:
        return None
    return next((room for room in (".".join(parts[1:3]), parts[1]) if room in LINE), parts[1])


def room_of(path: Path) -> str:
    return room(".".join(path.relative_to(ROOT).with_suffix("").parts)) or ""


@pytest.mark.parametrize("path", sources("darts_core"), ids=lambda path: str(path.relative_to(ROOT)))
def test_a_room_imports_only_from_the_rooms_before_it(path: Path) -> None:
    here = room_of(path)
    assert here == "__init__" or here in LINE, f"give {here!r} a place in the order at the top of this file"
    for line, name in imports(path):
        there = room(name)
        where = f"{path.relative_to(ROOT)}:{line} imports {name}"
        if there in LINE and here in LINE:
            assert there == here or LINE[there] <= LINE[here], f"{where}, which comes later in the order"
            strangers = here == there == "methods" and path.stem != "__init__"
            assert not strangers, f"{where}: methods share search/method.py, not one another"
        top = name.split(".")[0]
        assert top != "app", f"{where}: the package does not know the dashboard"
        if here in PLAIN_ROOMS or here == "__init__":
            assert top not in {"torch", "torchvision"}, f"{where}: {here} works without torch"


@pytest.mark.parametrize("path", sources("app"), ids=lambda path: str(path.relative_to(ROOT)))
def test_the_dashboard_imports_no_torch_and_nothing_that_needs_it(path: Path) -> None:
    for line, name in imports(path):
        where = f"{path.relative_to(ROOT)}:{line} imports {name}"
        assert name.split(".")[0] not in {"torch", "torchvision"}, where
        assert room(name) is None or room(name) in PLAIN_ROOMS, where


def test_some_libraries_are_known_in_one_place_only() -> None:
    for path in [*sources("darts_core"), *sources("app")]:
        place = path.relative_to(ROOT).as_posix()
        for line, name in imports(path):
            allowed = ONLY_IN.get(name.split(".")[0])
            assert allowed is None or place.startswith(allowed), f"{place}:{line} imports {name}"


@pytest.mark.parametrize("path", sources("darts_core"), ids=lambda path: str(path.relative_to(ROOT)))
def test_only_io_opens_files(path: Path) -> None:
    """Package data beside the module (`Path(__file__)...read_text`) is not from outside and may be read in place."""
    if room_of(path) == "io":
        return
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        if isinstance(node, ast.Call):
            call = ast.unparse(node.func)
            ours = call.startswith("io.") or "__file__" in call
            opens = call in FILES or ("." in call and call.rpartition(".")[2] in FILES - {"open"})
            assert ours or not opens, f"{path.relative_to(ROOT)}:{node.lineno} calls {call}; use darts_core.io"


def test_the_package_and_its_plain_rooms_load_neither_torch_nor_streamlit() -> None:
    rooms = ", ".join(
        f"darts_core.{path.stem}"
        for path in sources("darts_core")
        if path.parent.name == "darts_core" and path.stem in PLAIN_ROOMS
    )
    code = f"import sys, darts_core, {rooms}; print({{'torch', 'streamlit'}} & set(sys.modules) or 'none')"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, check=True)
    assert done.stdout.strip() == "none"
