"""An endpoint, and somebody to send to."""

import socket
from collections.abc import Iterator

import pytest

from tests.wirepeer import PATIENCE
from tftp.net.endpoint import Endpoint, open_port

LOOPBACK = ("127.0.0.1", 0)


@pytest.fixture
def far() -> Iterator[socket.socket]:
    """A plain socket to send to."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.bind(LOOPBACK)
        sock.settimeout(PATIENCE)
        yield sock


@pytest.fixture
def endpoint() -> Iterator[Endpoint]:
    made = Endpoint(open_port(socket.AF_INET, LOOPBACK))
    yield made
    made.close()
