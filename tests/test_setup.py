"""Set-up: which torch, which of pip's settings, and one sentence for each thing that can go wrong."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tools import browser, setup

ROOT = Path(__file__).resolve().parent.parent
TWO = """\
# a comment
numpy==2.4.6 \\
    --hash=sha256:aa \\
    --hash=sha256:bb
triton==3.9.0 ; python_full_version < '3.16' and sys_platform == 'linux' \\
    --hash=sha256:cc
"""
PIP = {"index-url": "https://mirror.example/simple", "proxy": "http://proxy.example:3128", "cert": "/etc/mirror.pem"}


def test_a_lock_is_read_package_by_package() -> None:
    blocks = setup.lock_blocks(TWO)
    assert [setup.name_of(block) for block in blocks] == ["numpy", "triton"]
    assert [setup.version_of(block) for block in blocks] == ["2.4.6", "3.9.0"]
    assert blocks[0].endswith("--hash=sha256:bb") and "sys_platform == 'linux'" in blocks[1]


def test_a_requirements_file_has_the_blocks_it_was_given_and_goes_away() -> None:
    with setup.requirements(setup.lock_blocks(TWO)) as file:
        assert file.read_text("utf-8") == TWO.partition("\n")[2]
    assert not file.exists()


@pytest.mark.parametrize(("platform", "nvidia", "backend"), [
    ("linux", False, "cpu"),                                     # the ordinary build would bring CUDA
    ("linux", True, None),
    ("darwin", False, None),                                     # the ordinary build is the right one
    ("win32", False, None),
    ("win32", True, "auto"),                                     # the ordinary build has no CUDA
])
def test_another_build_of_torch_is_asked_for_where_the_ordinary_one_does_not_fit(
    platform: str, nvidia: bool, backend: str | None
) -> None:
    assert setup.wanted_backend(platform, nvidia) == backend


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch) -> list[tuple[list[str], str]]:
    """A Linux machine without a GPU and with nothing installed; gives the commands of set-up and their requirements."""
    ran: list[tuple[list[str], str]] = []

    def command(words: list, variables: object, sentence: str) -> None:
        text = Path(words[-1]).read_text("utf-8") if "--requirement" in words else ""
        ran.append(([str(word) for word in words], text))

    monkeypatch.delenv("UV_TORCH_BACKEND", raising=False)
    monkeypatch.setattr(setup.sys, "platform", "linux")
    monkeypatch.setattr(setup, "command", command)
    monkeypatch.setattr(setup, "installed", lambda names: {})
    monkeypatch.setattr(setup, "has_nvidia", lambda: False)
    monkeypatch.setattr(setup, "reachable", lambda words, variables: True)
    return ran


def test_the_cpu_build_brings_no_cuda(machine: list, capsys: pytest.CaptureFixture[str]) -> None:
    setup.install_packages(Path("uv"), {})
    (pair, _), (rest, text) = machine
    assert "--torch-backend=cpu" in pair and [word.partition("==")[0] for word in pair[-2:]] == ["torch", "torchvision"]
    assert "--require-hashes" in rest and "numpy==" in text
    assert "\ntorch" not in text and "nvidia-" not in text and "triton" not in text
    assert capsys.readouterr().out.count("CPU build") == 1


def test_without_another_index_the_lock_is_installed_whole(
    machine: list, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(setup, "reachable", lambda words, variables: False)
    setup.install_packages(Path("uv"), {})
    (words, text), = machine
    assert "--require-hashes" in words and "torch==" in text and "nvidia-cublas==" in text
    assert capsys.readouterr().out.count("ordinary build") == 1


def test_a_machine_with_a_gpu_gets_cuda(
    machine: list, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(setup, "has_nvidia", lambda: True)
    setup.install_packages(Path("uv"), {})
    (words, text), = machine
    assert "nvidia-cublas==" in text and not any("torch-backend" in word for word in words)
    assert capsys.readouterr().out.count("CUDA build") == 1


def test_a_build_that_is_there_is_kept(machine: list, monkeypatch: pytest.MonkeyPatch) -> None:
    pins = {setup.name_of(block): setup.version_of(block) for block in setup.lock_blocks(setup.LOCK.read_text("utf-8"))}
    there = {name: f"{pins[name]}+cpu" for name in setup.PAIR}
    monkeypatch.setattr(setup, "installed", lambda names: there)
    setup.install_packages(Path("uv"), {})
    (_, text), = machine
    assert "numpy==" in text and "nvidia-" not in text


def test_an_index_that_does_not_answer_is_given_up_quickly(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(setup, "PROBE", 0.2)
    assert not setup.reachable([sys.executable, "-c", "import time; time.sleep(9)"], os.environ)
    monkeypatch.setattr(setup, "PROBE", 20)
    assert not setup.reachable([sys.executable, "-c", "raise SystemExit(1)"], os.environ)
    assert setup.reachable([sys.executable, "-c", "pass"], os.environ)


def test_uv_is_told_what_pip_was_told() -> None:
    told = setup.uv_variables({"PATH": "/bin"}, PIP)
    assert told == {"PATH": "/bin", "UV_DEFAULT_INDEX": "https://mirror.example/simple",
                    "ALL_PROXY": "http://proxy.example:3128", "SSL_CERT_FILE": "/etc/mirror.pem"}


def test_what_uv_was_told_itself_counts() -> None:
    own = {"UV_INDEX_URL": "https://own.example", "HTTPS_PROXY": "http://own:1", "SSL_CERT_FILE": "/etc/own.pem"}
    assert setup.uv_variables(own, PIP) == own


def test_pips_environment_counts_before_its_files(monkeypatch: pytest.MonkeyPatch) -> None:
    listing = "\n".join([":env:.index-url='https://first.example'", "global.index-url='https://third.example'",
                         "global.timeout='9'", "install.index-url='https://second.example'", "freeze.timeout='1'"])
    monkeypatch.setattr(setup, "output", lambda words: listing)
    assert setup.pip_settings() == {"index-url": "https://first.example", "timeout": "9"}


def test_a_python_without_venv_is_told_the_name_of_the_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(setup, "VENV", tmp_path / ".venv")
    monkeypatch.setattr(setup, "PYTHON", tmp_path / ".venv" / "bin" / "python")
    monkeypatch.setattr(setup.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(setup.SetupError, match="python3-venv"):
        setup.environment()


def test_an_environment_whose_python_went_away_is_made_anew(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "python").symlink_to(tmp_path / "gone")
    monkeypatch.setattr(setup, "PYTHON", tmp_path / "python")
    assert not setup.works()


def test_a_failing_command_ends_in_its_sentence() -> None:
    with pytest.raises(setup.SetupError, match="the disk is full"):
        setup.command([sys.executable, "-c", "raise SystemExit(3)"], os.environ, "the disk is full")
    with pytest.raises(setup.SetupError, match="the disk is full .No such file"):
        setup.command([ROOT / "no-such-program"], os.environ, "the disk is full")


@pytest.mark.parametrize("version", [(3, 8), (3, 10), (3, 14)])
def test_another_python_is_refused_in_one_sentence(version: tuple[int, int]) -> None:
    code = f"import sys, runpy; sys.version_info = {(*version, 0)}; runpy.run_path('tools/setup.py')"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 1
    assert done.stderr == (f"setup: this is Python {version[0]}.{version[1]}; "
                           "install Python 3.11, 3.12 or 3.13 and run this file with it\n")


# ---- the browser for the browser tests ----

@pytest.fixture
def installed(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """A machine without any Chromium; gives the installations that were tried."""
    tried: list[str] = []
    monkeypatch.delenv("CHROMIUM", raising=False)
    monkeypatch.setattr(browser, "PLACES", ())
    monkeypatch.setattr(browser.shutil, "which", lambda name: None)
    monkeypatch.setattr(browser, "playwrights_own", lambda: None)
    monkeypatch.setattr(browser, "apt_get", lambda *words: tried.append(f"apt-get {words[0]}") or len(tried) > 1)
    monkeypatch.setattr(browser.subprocess, "run", lambda words, **rest: tried.append(" ".join(words[2:])))
    monkeypatch.setattr(browser.os, "geteuid", lambda: 0, raising=False)
    return tried


def test_on_debian_the_package_lists_are_fetched_when_the_first_try_fails(
    installed: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(browser, "system", lambda: "debian")
    assert browser.install() is None
    assert installed[:3] == ["apt-get install", "apt-get update", "apt-get install"]
    assert installed[3:] == ["playwright install --with-deps chromium"]


def test_without_root_playwright_brings_its_own(installed: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(browser, "system", lambda: "debian")
    monkeypatch.setattr(browser.os, "geteuid", lambda: 1000, raising=False)
    assert browser.install() is None
    assert installed == ["playwright install chromium"]


def test_no_browser_at_all_is_said_in_one_sentence(
    installed: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(browser, "system", lambda: "")
    assert browser.main() == 1
    assert capsys.readouterr().err.startswith("Chromium: none could be installed")


def test_a_browser_named_by_hand_is_taken(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "chromium").touch()
    monkeypatch.setenv("CHROMIUM", str(tmp_path / "chromium"))
    assert browser.find() == str(tmp_path / "chromium")


def test_what_python_compiles_is_kept_even_where_the_environment_says_otherwise(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "slow_to_compile.py").write_text("x = 1\n")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    monkeypatch.setenv("PYTHONDONTWRITEBYTECODE", "1")
    monkeypatch.delenv("PYTHONPYCACHEPREFIX", raising=False)
    monkeypatch.setattr(setup, "PYTHON", sys.executable)
    monkeypatch.setattr(setup, "LIBRARIES", ("slow_to_compile",))
    setup.import_once()
    assert list((tmp_path / "__pycache__").glob("slow_to_compile.*.pyc"))


def test_set_up_imports_what_is_there() -> None:
    roots = {name.partition(".")[0] for name in setup.LIBRARIES}
    assert {"torch", "streamlit", "darts_core", "app"} <= roots
    assert not [root for root in roots if importlib.util.find_spec(root) is None]
