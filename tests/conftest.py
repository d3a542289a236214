"""What every test stands on: runs in a folder of their own, one thread, and a Chromium for the browser tests."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import settings

for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ.setdefault(name, "1")                             # before torch is imported: tests share the cores

# Examples are not timed, for the cores are shared. The CI tries the same ones each time; by hand they are new ones.
settings.register_profile("workbench", deadline=None, derandomize=bool(os.environ.get("CI")), print_blob=True)
settings.load_profile("workbench")


@pytest.hookimpl(tryfirst=True)                                  # before xdist reads the groups
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """With several workers: the tests of a file stay together, and so does all that starts dashboards or browsers."""
    for item in items:
        names = vars(item.module) if isinstance(item, pytest.Function) else {}
        serves = any(getattr(value, "__module__", None) == "tests.served" for value in names.values())
        group = "dashboard" if serves or item.get_closest_marker("browser") else item.path.name
        item.add_marker(pytest.mark.xdist_group(group))


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
