"""What every test can rely on: a cache folder of its own, one thread per worker, and skips that cannot hide.

Some tests need a data set or a browser. Where it is missing they are skipped with the reason; with
`INTERPRETGAN_NO_SKIP=1`, as in CI, any skip is a failure instead.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Generator, Iterator
from pathlib import Path
from typing import TypeVar

import pytest
import torch
from hypothesis import settings

from interpretgan.data import ImageSet, load_data

DATA_SETS = ("mnist", "cifar10")
BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome")
Report = TypeVar("Report", pytest.TestReport, pytest.CollectReport)
NO_SKIP = os.environ.get("INTERPRETGAN_NO_SKIP") == "1"


# Neither a slow moment of the machine nor the luck of the draw decides whether a test passes.
settings.register_profile("interpretgan", deadline=None, derandomize=True, database=None)
settings.load_profile("interpretgan")


def missing_data(names: tuple[str, ...]) -> str | None:
    """Why the data sets cannot be used, or `None`."""
    folder = os.environ.get("INTERPRETGAN_DATA")
    if not folder:
        return f"needs {', '.join(names)}: set INTERPRETGAN_DATA to the folder that holds them"
    absent = [name for name in names if not any((Path(folder) / name).glob("*.parquet"))]
    return f"needs {', '.join(absent)}: no parquet files there in INTERPRETGAN_DATA={folder}" if absent else None


def find_browser() -> str | None:
    """Path of an installed Chromium or Chrome; INTERPRETGAN_BROWSER, where set, is the only one tried."""
    chosen = os.environ.get("INTERPRETGAN_BROWSER")
    found = (shutil.which(name) for name in ([chosen] if chosen else BROWSERS))
    return next((path for path in found if path), None)


def pytest_configure(config: pytest.Config) -> None:
    if hasattr(config, "workerinput"):  # the workers of pytest-xdist share the cores
        torch.set_num_threads(1)


def pytest_runtest_setup(item: pytest.Item) -> None:
    reason = None
    marker = item.get_closest_marker("needs_data")
    if marker is not None:
        reason = missing_data(marker.args or DATA_SETS)
    if reason is None and item.get_closest_marker("needs_browser") is not None and find_browser() is None:
        reason = f"needs a browser: install one of {', '.join(BROWSERS[:3])}, or set INTERPRETGAN_BROWSER"
    if reason is not None:
        pytest.skip(reason)


def _refuse_skip(report: Report) -> Report:
    if NO_SKIP and report.skipped and not hasattr(report, "wasxfail"):
        reason = report.longrepr[2] if isinstance(report.longrepr, tuple) else str(report.longrepr)
        report.outcome = "failed"
        report.longrepr = f"skipped, but INTERPRETGAN_NO_SKIP=1 allows no skips. {reason}"
    return report


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport() -> Generator[None, pytest.TestReport, pytest.TestReport]:
    return _refuse_skip((yield))


@pytest.hookimpl(wrapper=True)
def pytest_make_collect_report() -> Generator[None, pytest.CollectReport, pytest.CollectReport]:
    return _refuse_skip((yield))


@pytest.fixture(scope="session", autouse=True)
def cache_dir(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A cache folder for the session, so that no test reads or writes the user's."""
    folder = tmp_path_factory.mktemp("cache")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("INTERPRETGAN_CACHE", str(folder))
        yield folder


@pytest.fixture(scope="session")
def data_dir() -> Path:
    """The folder that holds the data sets; for tests marked `needs_data`."""
    return Path(os.environ["INTERPRETGAN_DATA"]).resolve()


@pytest.fixture(scope="session")
def browser() -> str:
    """Path of a Chromium or Chrome; for tests marked `needs_browser`."""
    path = find_browser()
    assert path is not None, "mark the test with needs_browser"
    return path


@pytest.fixture(scope="session")
def digits(cache_dir: Path) -> tuple[ImageSet, ImageSet]:
    """The embedded digits, for training and for testing."""
    return load_data("digits", "train"), load_data("digits", "test")
