"""What every test stands on: runs in a folder of their own, one thread, and a Chromium for the browser tests."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, settings

for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ.setdefault(name, "1")  # before torch is imported: tests share the cores

FLAGS = [                                                        # of Chromium, which shall do nothing but show pages
    "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
    "--disable-component-update", "--disable-sync",
]  # fmt: skip

os.environ.setdefault("DARTS_NO_COMPILER", "1")  # the tests of compiled forms take it away

# Examples are not timed, for the cores are shared. The CI tries the same ones each time; by hand they are new ones.
settings.register_profile(
    "workbench",
    deadline=None,
    suppress_health_check=(HealthCheck.too_slow, HealthCheck.data_too_large),
    derandomize=bool(os.environ.get("CI")),
    print_blob=True,
)
settings.load_profile("workbench")


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """With several workers: a file's tests stay in one, and so do all files that start dashboards or browsers.

    (`--dist loadgroup` would say it with marks, but does nothing with pytest 9.2: pytest-xdist issue 1386.)
    """
    from xdist.scheduler import LoadFileScheduling

    class ByFile(LoadFileScheduling):
        def _split_scope(self, nodeid: str) -> str:
            file = nodeid.partition("::")[0]
            text = (config.rootpath / file).read_text("utf-8")
            return "dashboards" if "served import" in text or "mark.browser" in text else file

    return ByFile(config, log)


def pytest_runtest_setup(item: pytest.Item) -> None:
    if item.get_closest_marker("gpu"):
        import torch

        if not torch.cuda.is_available():
            pytest.skip("this test needs an NVIDIA GPU, and torch finds none")


@pytest.fixture(scope="session", autouse=True)
def runs_folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """No test writes into data/runs of the clone: without another word, runs go to a temporary folder."""
    folder = tmp_path_factory.mktemp("runs")
    patch = pytest.MonkeyPatch()
    patch.setenv("DARTS_RUNS", str(folder))
    yield folder
    patch.undo()


@pytest.fixture(scope="session")
def chromium_path() -> str:
    """The Chromium that browser tests start. Skips where there is none; under CI that is an error instead."""
    from tools.browser import find

    path = find()
    if path is None:
        sentence = "no Chromium on this machine: `make browser` (or `python tools/browser.py`) installs one"
        if os.environ.get("CI"):
            pytest.fail(sentence)
        pytest.skip(sentence)
    return path


@pytest.fixture(scope="module")
def browser(chromium_path: str) -> Iterator[Any]:
    """A Chromium for the tests of one file."""
    from playwright.sync_api import expect, sync_playwright

    expect.set_options(timeout=30_000 * float(os.environ.get("DARTS_TEST_PATIENCE", "2")))
    with sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path=chromium_path, args=FLAGS)
        yield chromium
        chromium.close()


@pytest.fixture(scope="session")
def example(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with one whole run of the toy search, "whole": 10 steps, two checkpoints. To be copied, not changed."""
    from tests import stored

    root = tmp_path_factory.mktemp("example")
    stored.start(root, "whole", 10)
    return root


@pytest.fixture
def root(example: Path, tmp_path: Path) -> Path:
    """A copy of it that a test may spoil."""
    shutil.copytree(example / "whole", tmp_path / "whole")
    return tmp_path


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """What 14 steps of the toy search leave behind when nothing stops them."""
    from tests import stored

    root = tmp_path_factory.mktemp("uninterrupted")
    stored.start(root, "a", 14)
    return stored.outcome(root, "a")
