"""Set up the clone: `python tools/setup.py` (what `make setup` runs) makes .venv, installs what requirements.lock pins
and then this package, editable. Only the standard library is needed, and Python 3.11, 3.12 or 3.13.

torch and torchvision come as one matching pair. On Linux without an NVIDIA GPU their CPU build is tried first, which
spares gigabytes of CUDA; where its index cannot be reached, the ordinary pair is taken. One line says which it was.
"""

import sys

if not (3, 11) <= sys.version_info[:2] <= (3, 13):               # before anything an old Python would stumble over
    sys.exit(f"setup: this is Python {sys.version_info[0]}.{sys.version_info[1]}; "
             "install Python 3.11, 3.12 or 3.13 and run this file with it")

import ast
import contextlib
import importlib.util
import os
import re
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator, Mapping
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
VENV = ROOT / ".venv"
BIN = VENV / ("Scripts" if os.name == "nt" else "bin")
PYTHON = BIN / ("python.exe" if os.name == "nt" else "python")
LOCK = ROOT / "requirements.lock"

PAIR = ("torch", "torchvision")
ONLY_CUDA = re.compile(r"(nvidia-|cuda-|triton$)")               # packages that only the CUDA build of torch asks for
LIBRARIES = ("torch", "torchvision", "sklearn.datasets", "safetensors.torch", "plotly.graph_objects", "plotly.io",
             "streamlit.web.bootstrap", "streamlit.testing.v1", "starlette.applications", "graphviz", "typer", "rich",
             "pandas", "pyarrow", "altair", "PIL.Image", "darts_core.drive", "app.launch", "app.stream", "app.board")
PROBE = 15                                                       # seconds that the index of another build has to answer
NETWORK = "check the network, or the index and proxy settings of pip"


class SetupError(Exception):
    """One sentence for the person at the terminal."""


def main() -> int:
    start = time.monotonic()
    try:
        environment()
        uv = bootstrap_uv()
        variables = uv_variables(os.environ, pip_settings())
        install_packages(uv, variables)
        command([uv, "pip", "install", "--python", PYTHON, "--quiet", "--no-build-isolation", "--no-deps",
                 "--editable", ROOT], variables, "the package itself could not be installed; the lines above say why")
        say("importing everything once, so that the first start is quick")
        import_once()
    except SetupError as error:
        print(f"setup: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("setup: interrupted; run it again to go on", file=sys.stderr)
        return 130
    print(f"setup: done in {time.monotonic() - start:.0f} s; start the dashboard with "
          f"{(BIN / 'darts-dash').relative_to(ROOT)} (or `make run`)")
    return 0


def import_once() -> None:
    """Python keeps what it compiles of every file beside it, so that no later start does it again; here even where
    PYTHONDONTWRITEBYTECODE says otherwise, as in many containers.
    """
    variables = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    command([PYTHON, "-c", f"import {', '.join(LIBRARIES)}"], variables,
            "what was installed cannot be imported; the lines above say why")


# ---- the virtual environment ----

def environment() -> None:
    """Make .venv, or keep the one that is there and works with this Python."""
    if Path(sys.prefix).resolve() == VENV.resolve() or works():
        return
    if importlib.util.find_spec("ensurepip") is None or importlib.util.find_spec("venv") is None:
        raise SetupError("this Python cannot make virtual environments; install its venv module "
                         "(Debian and Ubuntu: apt-get install python3-venv) and run this again")
    say(f"making .venv with Python {sys.version_info.major}.{sys.version_info.minor}")
    command([sys.executable, "-m", "venv", "--clear", VENV], os.environ,
            f"{VENV} could not be made; see that its folder can be written and that the disk has room")


def works() -> bool:
    """Is there an environment with a Python of ours and pip? Not after its base Python went away, or half-made."""
    if not PYTHON.is_file():
        return False
    probe = "import sys, pip; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13))"
    return subprocess.run([PYTHON, "-c", probe], capture_output=True).returncode == 0


def bootstrap_uv() -> Path:
    """Install the uv that the lock pins, with pip, its hashes checked."""
    uv = BIN / ("uv.exe" if os.name == "nt" else "uv")
    pin = next(block for block in lock_blocks(LOCK.read_text("utf-8")) if name_of(block) == "uv")
    if version_of(pin) not in output([uv, "--version"]).split():
        say("fetching uv")
        with requirements([pin]) as file:
            command([PYTHON, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--retries", "2",
                     "--no-deps", "--require-hashes", "--requirement", file], os.environ,
                    f"uv could not be fetched from the package registry; {NETWORK}")
    return uv


# ---- packages ----

def install_packages(uv: Path, variables: Mapping[str, str]) -> None:
    """What the lock pins, its hashes checked; a torch pair from another index is not among those."""
    blocks = lock_blocks(LOCK.read_text("utf-8"))
    pins = {name_of(block): version_of(block) for block in blocks if name_of(block) in PAIR}
    pair = [f"{name}=={version}" for name, version in pins.items()]
    install: list = [uv, "pip", "install", "--python", PYTHON, "--no-deps"]
    sentence = f"the packages could not be installed; {NETWORK}, and see that the disk has room (8 GB with CUDA)"

    there = installed(PAIR)
    backend = os.environ.get("UV_TORCH_BACKEND") or wanted_backend(sys.platform, has_nvidia())
    if {name: version.partition("+")[0] for name, version in there.items()} == pins:
        say(f"torch: {there['torch']} is there already")
        if "+cpu" in there["torch"]:
            blocks = without_pair(blocks)
    elif backend and reachable([*install, f"--torch-backend={backend}", *pair], variables):
        say(f"torch: {'CPU' if backend == 'cpu' else backend} build ({', '.join(pair)})")
        command([*install, f"--torch-backend={backend}", *pair], variables, sentence)
        blocks = without_pair(blocks)
    elif backend:
        say(f"torch: ordinary build ({', '.join(pair)}); a smaller or faster one could not be reached")
    else:
        say(f"torch: {'CUDA' if sys.platform == 'linux' else 'ordinary'} build ({', '.join(pair)})")
    with requirements(blocks) as file:
        command([*install, "--require-hashes", "--requirement", file], variables, sentence)


def installed(names: tuple[str, ...]) -> dict[str, str]:
    """The versions in .venv of those of these packages that it has."""
    lines = output([PYTHON, "-c", f"""
import importlib.metadata as metadata
for name in {names!r}:
    try: print(name, metadata.version(name))
    except metadata.PackageNotFoundError: pass
"""]).splitlines()
    return dict(line.split() for line in lines)


def wanted_backend(platform: str, nvidia: bool) -> str | None:
    """The --torch-backend worth asking uv for; None where the ordinary registry already has the right build."""
    if platform == "linux" and not nvidia:
        return "cpu"                                             # the ordinary build brings CUDA along
    if platform == "win32" and nvidia:
        return "auto"                                            # the ordinary build has no CUDA
    return None


def has_nvidia() -> bool:
    return bool(shutil.which("nvidia-smi")) or Path("/proc/driver/nvidia/version").exists() \
        or Path("/usr/lib/wsl/lib/nvidia-smi").exists()


def reachable(words: list, variables: Mapping[str, str]) -> bool:
    """Would this installation find its packages? Asked without downloading them, and given up after a few seconds."""
    quick = {**variables, "UV_HTTP_TIMEOUT": "5", "UV_HTTP_RETRIES": "0"}
    try:
        answer = subprocess.run([*words, "--dry-run"], env=quick, capture_output=True, stdin=subprocess.DEVNULL,
                                timeout=PROBE)
    except subprocess.TimeoutExpired:
        return False
    return answer.returncode == 0


# ---- the lock: one block for each package, its name and version in the first line, its hashes below ----

def lock_blocks(text: str) -> list[str]:
    return re.findall(r"^[a-z0-9].*(?:\n[ \t].*)*", text, re.MULTILINE)


def name_of(block: str) -> str:
    return block.partition("==")[0].partition("[")[0]


def version_of(block: str) -> str:
    return block.partition("==")[2].split()[0]


def without_pair(blocks: list[str]) -> list[str]:
    """What is left to install beside a torch pair of another build, which brought what it needs itself."""
    return [block for block in blocks if name_of(block) not in PAIR and not ONLY_CUDA.match(name_of(block))]


@contextlib.contextmanager
def requirements(blocks: list[str]) -> Iterator[Path]:
    """The blocks as a requirements file, for as long as it is needed."""
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "requirements.txt"
        file.write_text("\n".join(blocks) + "\n", "utf-8")
        yield file


# ---- pip's settings, for uv ----

def pip_settings() -> dict[str, str]:
    """What pip is told by its configuration files and environment: {"index-url": ..., "proxy": ...}."""
    found: dict[str, str] = {}
    lines = output([PYTHON, "-m", "pip", "config", "list"]).splitlines()
    for section in ("global.", "install.", ":env:."):            # the later one counts
        for line in lines:
            key, _, value = line.partition("=")
            if key.startswith(section):
                with contextlib.suppress(ValueError, SyntaxError):
                    found[key.removeprefix(section)] = str(ast.literal_eval(value))
    return found


def uv_variables(variables: Mapping[str, str], pip: Mapping[str, str]) -> dict[str, str]:
    """The environment for uv: where uv was told nothing, what pip was told. None of it is shown or kept."""
    merged = {name: value for name, value in variables.items() if name != "UV_TORCH_BACKEND"}     # asked for by hand
    for key, name, others in (
        ("index-url", "UV_DEFAULT_INDEX", ("UV_INDEX_URL", "UV_CONFIG_FILE")),
        ("trusted-host", "UV_INSECURE_HOST", ()),
        ("cert", "SSL_CERT_FILE", ()),
        ("proxy", "ALL_PROXY", ("HTTPS_PROXY", "https_proxy", "all_proxy")),
    ):
        if pip.get(key) and not any(merged.get(known) for known in (name, *others)):
            merged[name] = pip[key]
    return merged


# ---- commands ----

def say(text: str) -> None:
    print(f"setup: {text}", flush=True)


def command(words: list, variables: Mapping[str, str], sentence: str) -> None:
    """Run it with its progress in view; when it fails, that sentence."""
    try:
        code = subprocess.run(words, env=dict(variables), stdin=subprocess.DEVNULL).returncode
    except OSError as error:
        raise SetupError(f"{sentence} ({error.strerror})") from error
    if code:
        raise SetupError(sentence)


def output(words: list) -> str:
    """What it prints, or nothing where it cannot be run."""
    try:
        return subprocess.run(words, capture_output=True, text=True, stdin=subprocess.DEVNULL).stdout
    except OSError:
        return ""


if __name__ == "__main__":
    sys.exit(main())
