"""What the tests of the command share: a tree that is served, a place to run in, and peers."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.cli.running import Peer
from tftp.server import Server
from tftp.storage import Directory

CONTENT = bytes(range(256)) * 40 + b"the end"
TEXT = b"one\ntwo\n"


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A tree to serve."""
    root = tmp_path / "root"
    (root / "boot").mkdir(parents=True)
    (root / "boot" / "kernel.bin").write_bytes(CONTENT)
    (root / "lines.txt").write_bytes(TEXT)
    return root


@pytest.fixture
def here(tmp_path: Path) -> Path:
    """The current directory of the command."""
    here = tmp_path / "here"
    here.mkdir()
    return here


@pytest.fixture
def url(root: Path) -> Iterator[str]:
    """The URL of a real server over `root`, which takes uploads."""
    with Server(Directory(root, writable=True)) as server:
        host, port = server.address
        yield f"tftp://{host}:{port}"


@pytest.fixture
def peer() -> Iterator[Peer]:
    """A peer with a script."""
    peer = Peer()
    yield peer
    peer.close()
