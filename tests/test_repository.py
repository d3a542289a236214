"""What holds for the repository as a whole: one list of packages in three files, and nothing in it that must not be."""

from __future__ import annotations

import ast
import functools
import importlib.metadata
import importlib.util
import os
import re
import shutil
import subprocess
import sys
import tomllib
import zipfile
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.utils import canonicalize_name

from tools import catalogue, setup

ROOT = Path(__file__).resolve().parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
LOCK = (ROOT / "requirements.lock").read_text("utf-8")
PINS = {setup.name_of(block): setup.version_of(block) for block in setup.lock_blocks(LOCK)}
ENVIRONMENT = yaml.safe_load((ROOT / "environment.yml").read_text("utf-8"))
CONDA_NAMES = {"pytorch": "torch", "python-graphviz": "graphviz"}              # conda-forge's name: pip's


def asked_for() -> list[Requirement]:
    extras = PROJECT["optional-dependencies"].values()
    return [Requirement(line) for line in [*PROJECT["dependencies"], *(line for extra in extras for line in extra)]]


def tracked(*suffixes: str) -> list[Path]:
    """The files that git knows, new ones included, of these kinds (all kinds without an argument)."""
    if not (ROOT / ".git").exists() or not shutil.which("git"):
        pytest.skip("these tests read a git checkout", allow_module_level=True)
    done = subprocess.run(["git", "ls-files", "--cached", "--others", "--exclude-standard"],
                          capture_output=True, text=True, cwd=ROOT, check=True)
    paths = [ROOT / line for line in done.stdout.splitlines()]
    return sorted(path for path in paths if path.is_file() and (not suffixes or path.suffix in suffixes))


def texts() -> Iterator[tuple[Path, str]]:
    for path in tracked():
        if path.stat().st_size < 2_000_000:
            raw = path.read_bytes()
            if b"\0" not in raw:
                yield path, raw.decode("utf-8", errors="strict")


# ---- pyproject.toml, requirements.lock, environment.yml ----

@pytest.mark.parametrize("requirement", asked_for(), ids=str)
def test_the_lock_pins_what_the_project_asks_for(requirement: Requirement) -> None:
    pin = PINS.get(canonicalize_name(requirement.name))
    assert pin is not None, f"{requirement.name} is not in requirements.lock: make lock"
    assert requirement.specifier.contains(pin), f"{requirement} against {pin}: make lock"


def test_the_lock_is_complete() -> None:
    """Whatever a locked and installed package needs on this machine is locked too, at a version that it accepts."""
    for name in PINS:
        try:
            needs = importlib.metadata.requires(name) or []
        except importlib.metadata.PackageNotFoundError:
            continue                                             # for another system
        for need in map(Requirement, needs):
            if need.marker is None or need.marker.evaluate({"extra": ""}):
                pin = PINS.get(canonicalize_name(need.name))
                assert pin is not None and need.specifier.contains(pin), f"{name} needs {need}; the lock has {pin}"


@functools.cache
def homes_of_imports() -> Mapping[str, list[str]]:
    """Import name -> names of the packages that bring it. Slow, so asked once."""
    return importlib.metadata.packages_distributions()


@pytest.mark.parametrize(("folder", "extras"), [
    ("darts_core", ("notebooks", "film")), ("app", ("app",)), ("tests", ("app", "notebooks", "dev")),
])
def test_what_is_imported_is_asked_for(folder: str, extras: tuple[str, ...]) -> None:
    """A package that only happens to be there, because another one needs it, is not to be relied on."""
    lines = [*PROJECT["dependencies"], *(line for extra in extras for line in PROJECT["optional-dependencies"][extra])]
    declared = {canonicalize_name(Requirement(line).name) for line in lines}
    declared |= {"triton"} if folder == "darts_core" else set()  # comes with CUDA builds of torch; loaded only there
    homes = homes_of_imports()
    for path in sorted((ROOT / folder).rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            if isinstance(node, ast.ImportFrom) and not node.level:
                names = [node.module or ""]
            for top in {name.partition(".")[0] for name in names} - set(sys.stdlib_module_names):
                ours = (ROOT / top).is_dir() or (ROOT / folder / f"{top}.py").is_file()
                known = {canonicalize_name(name) for name in homes.get(top, [top])}
                assert ours or known & declared, f"{path.name}:{node.lineno} imports {top}, which pyproject.toml lacks"


def test_every_locked_package_has_hashes() -> None:
    for block in setup.lock_blocks(LOCK):
        assert re.search(r"--hash=sha256:[0-9a-f]{64}", block), f"{setup.name_of(block)} has no hash"


def test_the_lock_names_no_address() -> None:
    line = re.compile(r"#.*|[a-z0-9][a-z0-9.-]*==\S+( ; .*)? \\|    --hash=sha256:[0-9a-f]{64}( \\)?")
    assert [other for other in LOCK.splitlines() if not line.fullmatch(other) or "://" in other] == []


def test_without_the_pair_no_cuda_package_is_left() -> None:
    """A CPU build of torch does without CUDA: nothing but torch and CUDA itself asks for those packages."""
    blocks = setup.lock_blocks(LOCK)
    left = {setup.name_of(block) for block in setup.without_pair(blocks)}
    dropped = {setup.name_of(block) for block in blocks} - left
    assert {"torch", "torchvision", "triton", "nvidia-cublas"} <= dropped
    assert {"sympy", "networkx", "numpy"} <= left
    for name in left:
        try:
            needs = importlib.metadata.requires(name) or []
        except importlib.metadata.PackageNotFoundError:
            continue
        for need in map(Requirement, needs):
            if need.marker is None or need.marker.evaluate({"extra": ""}):
                assert canonicalize_name(need.name) not in dropped, f"{name} needs {need.name}"


def test_torch_and_torchvision_are_one_release_pair() -> None:
    asks = [Requirement(line) for line in importlib.metadata.requires("torchvision") or []]
    torch = next(need for need in asks if need.name == "torch")
    assert torch.specifier.contains(PINS["torch"])
    assert importlib.metadata.version("torchvision").partition("+")[0] == PINS["torchvision"]
    assert importlib.metadata.version("torch").partition("+")[0] == PINS["torch"]


def test_environment_yml_asks_for_the_same_versions() -> None:
    *conda, pip = ENVIRONMENT["dependencies"]
    project = {canonicalize_name(need.name): need.specifier for need in asked_for()}
    for line in conda:
        need = Requirement(line)
        if need.name == "python":
            assert need.specifier == SpecifierSet(PROJECT["requires-python"])
        elif need.name not in {"pip", "graphviz"}:               # graphviz is the drawing program there
            assert need.specifier == project[CONDA_NAMES.get(need.name, need.name)], f"{line} in environment.yml"
    extras = ",".join(PROJECT["optional-dependencies"])
    assert pip == {"pip": [f"-e .[{extras}]"]}


def test_set_up_takes_the_pythons_that_the_project_asks_for() -> None:
    supported = SpecifierSet(PROJECT["requires-python"])
    minors = [minor for minor in range(8, 20) if f"3.{minor}.0" in supported]
    classified = [line.rpartition(".")[2] for line in PROJECT["classifiers"] if "Python :: 3." in line]
    assert [str(minor) for minor in minors] == classified
    bounds = f"(3, {minors[0]}) <= sys.version_info[:2] <= (3, {minors[-1]})"
    for name in ("tools/setup.py", "Makefile"):
        assert bounds in (ROOT / name).read_text("utf-8"), name


# ---- the package ----

def test_the_wheel_holds_every_file_of_the_packages_and_nothing_else(tmp_path: Path) -> None:
    subprocess.run([sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(tmp_path)],
                   check=True, capture_output=True, cwd=ROOT)
    with zipfile.ZipFile(next(tmp_path.glob("*.whl"))) as wheel:
        held = {name for name in wheel.namelist() if ".dist-info/" not in name}
    ours = {path.relative_to(ROOT).as_posix() for path in tracked()}
    assert held == {name for name in ours if name.startswith(("darts_core/", "app/", ".streamlit/"))}


@pytest.mark.parametrize("name", PROJECT["scripts"])
def test_every_command_leads_to_a_function(name: str) -> None:
    module, _, function = PROJECT["scripts"][name].partition(":")
    spec = importlib.util.find_spec(module)
    assert spec is not None and spec.origin is not None
    tree = ast.parse(Path(spec.origin).read_text("utf-8"))
    assert function in {node.name for node in tree.body if isinstance(node, ast.FunctionDef)}


def test_the_citation_names_this_version() -> None:
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text("utf-8"))
    assert citation["version"] == PROJECT["version"]
    assert citation["license"] == PROJECT["license"]


def test_every_make_target_that_is_written_about_exists() -> None:
    targets = set(re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text("utf-8"), re.MULTILINE))
    for path in [*tracked(".md"), ROOT / ".ci" / "run"]:
        named = set(re.findall(r"(?:^|`)(?:[A-Z_]+=\S+ )?make ([a-z]+)", path.read_text("utf-8"), re.MULTILINE))
        assert named <= targets, f"{path.relative_to(ROOT)} names make {', '.join(named - targets)}"


def test_the_ci_runs_the_test_command_of_the_readme() -> None:
    script = ROOT / ".ci" / "run"
    assert os.access(script, os.X_OK)
    assert "make test SLOW=1" in script.read_text("utf-8")
    assert re.search(r"^\s*make test\s*$", (ROOT / "README.md").read_text("utf-8"), re.MULTILINE)


def test_the_catalogue_is_the_one_that_the_registries_make() -> None:
    written = (ROOT / "darts_core" / "catalogue.json").read_text("utf-8")
    assert written == catalogue.text(), "darts_core/catalogue.json is out of date: make catalogue"


# ---- the static gate: what must not be in the sources ----

MODULES = {"pickle", "cPickle", "_pickle", "dill", "cloudpickle", "joblib", "shelve", "marshal"}
CALLS = {"eval", "exec", "execfile", "__import__", "torch.load", "torch.save", "os.system", "os.popen", "st.html"}
METHODS = {"extractall", "unsafe_load", "full_load"}
# The reader of released checkpoints: every name in a file leads to an inert stand-in, in a process with limits.
# Tests write such files for it.
ALLOWED = {
    "darts_core/torchfile.py": {"pickle"},
    "tests/test_import_pt.py": {"pickle", "torch.save", "eval", "__import__", "os.system"},
    "tests/test_language_files.py": {"torch.save"},
}
WORDS = {"unsafe_allow_html", "unsafe_allow_javascript", "allow_pickle"}


def forbidden(tree: ast.AST) -> Iterator[tuple[int, str]]:
    """Line and name of each use of something that runs, unpickles or renders what came from outside."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names if alias.name.split(".")[0] in MODULES)
        elif isinstance(node, ast.ImportFrom):
            names = {f"{node.module}.{alias.name}" for alias in node.names}
            yield from ((node.lineno, name) for name in names if name in CALLS or name.split(".")[0] in MODULES)
        elif isinstance(node, ast.Attribute | ast.Name):
            name = ast.unparse(node)
            if name in CALLS or (isinstance(node, ast.Attribute) and node.attr in METHODS):
                yield node.lineno, name
        elif isinstance(node, ast.keyword):
            on = not (isinstance(node.value, ast.Constant) and node.value.value is False)
            if on and (node.arg in WORDS or node.arg == "shell"):
                yield node.lineno, f"{node.arg}={ast.unparse(node.value)}"


@pytest.mark.parametrize("path", tracked(".py"), ids=lambda path: str(path.relative_to(ROOT)))
def test_no_source_runs_or_unpickles_what_came_from_outside(path: Path) -> None:
    allowed = ALLOWED.get(path.relative_to(ROOT).as_posix(), set())
    uses = [(line, name) for line, name in forbidden(ast.parse(path.read_text("utf-8"))) if name not in allowed]
    found = [f"{path.relative_to(ROOT)}:{line}: {name}" for line, name in uses]
    assert not found


@pytest.mark.parametrize("line", [
    "eval('1')", "exec(text)", "import pickle", "from pickle import loads", "import torch; torch.load(path)",
    "from torch import load", "archive.extractall(folder)", "subprocess.run(text, shell=True)",
    "st.markdown(text, unsafe_allow_html=True)", "st.html(text)", "numpy.load(path, allow_pickle=True)",
    "torch_load = torch.load", "run = eval",
])
def test_the_gate_notices(line: str) -> None:
    assert list(forbidden(ast.parse(line)))


@pytest.mark.parametrize("line", [
    "net.eval()", "ast.literal_eval(text)", "numpy.load(path, allow_pickle=False)", "re.compile(text)",
    "subprocess.run(words, shell=False)", "page.evaluate(text)", "st.markdown(text)",
])
def test_the_gate_lets_pass(line: str) -> None:
    assert not list(forbidden(ast.parse(line)))


@pytest.mark.parametrize("path", tracked(".js"), ids=lambda path: str(path.relative_to(ROOT)))
def test_no_script_runs_text_or_leaves_the_machine(path: Path) -> None:
    text = path.read_text("utf-8")
    assert not re.search(r"\beval\s*\(|new Function\b|document\.write\b|insertAdjacentHTML|outerHTML\s*=", text)
    assert set(re.findall(r"https?://[\w.-]+", text)) <= {"http://www.w3.org"}         # the name of SVG, not an address


# ---- what no file says ----

def test_no_file_names_a_path_of_somebodys_machine() -> None:
    place = re.compile(r"(?<![\w.~$}/-])/(?:" + "|".join(["root", "home", "Users", "work", "opt"]) + r")/\w")
    for path, text in texts():
        found = place.search(text)
        assert found is None, f"{path.relative_to(ROOT)} names {found.group()}..."


def test_every_text_file_is_utf8_with_unix_line_ends() -> None:
    for path, text in texts():
        assert "\r" not in text, f"{path.relative_to(ROOT)} has carriage returns"


def test_no_marker_of_unfinished_work_is_left() -> None:
    words = ["TO" + "DO", "FIX" + "ME", "X" + "XX", "raise NotImplemented" + "Error"]
    word = re.compile(rf"\b({'|'.join(words)})\b")
    for path in tracked(".py", ".js", ".css", ".md", ".toml", ".yml"):
        found = word.search(path.read_text("utf-8"))
        assert found is None, f"{path.relative_to(ROOT)} says {found.group()}"
