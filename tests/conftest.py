"""What holds for all tests."""

import os
import threading
from collections.abc import Generator, Iterator

import pytest
from hypothesis import settings

from tests.watching import eventually

# A busy machine is no reason to fail: no example has a deadline, each test has a time limit.
settings.register_profile("tests", deadline=None)
settings.load_profile("tests")


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport() -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Where all programs must be there (CI), a test that misses one has failed."""
    report = yield
    missed = report.skipped and "is not installed" in str(report.longrepr)
    if missed and os.environ.get("REQUIRE_PEERS") == "1":
        report.outcome = "failed"
    return report


@pytest.fixture(autouse=True)
def _no_thread_runs_on() -> Iterator[None]:
    """A test's threads end with it, and do not show up in the next one's."""
    before = set(threading.enumerate())

    def new() -> list[str]:
        found = set(threading.enumerate()) - before
        return [thread.name for thread in found if thread.name.startswith("tftp")]

    yield
    assert eventually(lambda: not new(), 30), new()
