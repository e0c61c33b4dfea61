"""Servers under watch, for the tests of the monitor."""

import threading
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.monitor.operating import ARRANGEMENTS, Operator, Watched, watched
from tests.watching import eventually


def threads() -> Counter[str]:
    """The threads of this project, other servers' too, and how many of each name."""
    return Counter(one.name for one in threading.enumerate() if one.name.startswith("tftp"))


#: What the servers serve.
FILES = {
    "small": b"s" * 700,
    "medium": b"m" * 1300,
    "large": bytes(range(256)) * 4096,
    "empty": b"",
}


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A directory with the files."""
    folder = tmp_path / "root"
    folder.mkdir()
    for name, content in FILES.items():
        (folder / name).write_bytes(content)
    return folder


@pytest.fixture
def one(root: Path) -> Iterator[Watched]:
    """A threaded server under watch; nothing of it is left after the test."""
    before = threads()
    with watched("threads", root) as found:
        yield found
    assert eventually(lambda: threads() <= before), threads()


@pytest.fixture
def operator(one: Watched) -> Iterator[Operator]:
    """Who watches it, with the greeting and the snapshot behind him."""
    with one.operator() as found:
        yield found


@pytest.fixture(params=ARRANGEMENTS)
def each(request: pytest.FixtureRequest, root: Path) -> Iterator[Watched]:
    """A server of each arrangement, under watch."""
    with watched(request.param, root) as found:
        yield found
