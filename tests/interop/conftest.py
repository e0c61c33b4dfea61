"""The two folders of every interop test."""

import socket
from pathlib import Path

import pytest


@pytest.fixture
def served(tmp_path: Path) -> Path:
    """What the server serves."""
    folder = tmp_path / "served"
    folder.mkdir()
    return folder


@pytest.fixture
def local(tmp_path: Path) -> Path:
    """Where the client works."""
    folder = tmp_path / "local"
    folder.mkdir()
    return folder


@pytest.fixture
def ipv6() -> str:
    """The IPv6 loopback address; a host without it skips the test."""
    try:
        with socket.socket(socket.AF_INET6, socket.SOCK_DGRAM) as probe:
            probe.bind(("::1", 0))
    except OSError:
        pytest.skip("this host has no IPv6")
    return "::1"
