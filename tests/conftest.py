"""Markers by folder, the skip policy, and the paths that tests share.

With CI set (as .ci/run does), a test may be skipped only for a reason in ``ALLOWED_SKIPS``: a test that silently stops
running is worth less than none. Any other skip fails.
"""

from __future__ import annotations

import os
from collections.abc import Generator
from pathlib import Path

import pytest
from hypothesis import settings

# How long an example takes says more of the machine's other work than of the code.
settings.register_profile("project", deadline=None)
settings.load_profile("project")

REPOSITORY = Path(__file__).resolve().parents[1]

NO_BENCHMARK_DATA = "benchmark data folder ../shared/data is absent"
NO_ACCELERATOR = "needs an accelerator"
NO_CHROMIUM = "needs chromium"
ALLOWED_SKIPS = (NO_BENCHMARK_DATA, NO_ACCELERATOR, NO_CHROMIUM)

FOLDER_MARKERS = {"e2e": "e2e", "adapters": "verl", "cpu": "verl", "browser": "browser"}


def _has_accelerator() -> bool:
    import torch

    return torch.cuda.is_available()


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark tests by the folder they lie in; skip those marked gpu where there is none."""
    tests = REPOSITORY / "tests"
    for item in items:
        if item.path.is_relative_to(tests):
            folder = item.path.relative_to(tests).parts[0]
            if folder in FOLDER_MARKERS:
                item.add_marker(FOLDER_MARKERS[folder])
    on_gpu = [item for item in items if item.get_closest_marker("gpu")]
    if on_gpu and not _has_accelerator():
        for item in on_gpu:
            item.add_marker(pytest.mark.skip(reason=NO_ACCELERATOR))


def _refuse_skip(report: pytest.TestReport | pytest.CollectReport) -> None:
    """Turn a skip for a reason that is not allowed into a failure, if CI is set."""
    if not os.environ.get("CI") or not report.skipped or hasattr(report, "wasxfail"):
        return
    reason = report.longrepr[2] if isinstance(report.longrepr, tuple) else str(report.longrepr)
    reason = reason.removeprefix("Skipped: ")
    if reason not in ALLOWED_SKIPS:
        report.outcome = "failed"
        report.longrepr = f"a skip in CI must be for a reason in tests/conftest.py ALLOWED_SKIPS; got {reason!r}"


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_runtest_makereport() -> Generator[None, pytest.TestReport, pytest.TestReport]:
    report = yield
    _refuse_skip(report)
    return report


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_make_collect_report() -> Generator[None, pytest.CollectReport, pytest.CollectReport]:
    report = yield
    _refuse_skip(report)  # a module that skips itself, by importorskip for instance
    return report


@pytest.fixture(scope="session")
def repository() -> Path:
    """The root of the checkout."""
    return REPOSITORY


@pytest.fixture(scope="session")
def benchmark_data() -> Path:
    """The folder of benchmark questions: $MULTIATTEMPT_DATA, else ../shared/data beside the checkout."""
    named = os.environ.get("MULTIATTEMPT_DATA")
    if named:
        if not Path(named).is_dir():
            pytest.fail(f"MULTIATTEMPT_DATA must name a folder; got {named!r}")
        return Path(named)
    folder = REPOSITORY.parent / "shared" / "data"
    if not folder.is_dir():
        pytest.skip(NO_BENCHMARK_DATA)
    return folder
