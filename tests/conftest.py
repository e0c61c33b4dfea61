"""What holds for all tests."""

import os
from collections.abc import Generator

import pytest
from hypothesis import settings

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
