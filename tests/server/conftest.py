"""Servers that tests start, and what they tell."""

import threading
from collections.abc import Iterator, Sequence
from typing import Any, Protocol

import pytest

from tests.watching import Witness, eventually
from tftp.server import Engine, Server, ServerConfig
from tftp.server.policy import Policy
from tftp.storage.base import Storage
from tftp.timers import Patience

#: Never in a hurry.
CALM = Patience(initial=5.0, floor=5.0)


class Serve(Protocol):
    """Starts a server; see `serve`."""

    def __call__(
        self,
        storage: Storage,
        *,
        policy: Sequence[Policy] = (),
        engine: Engine | None = None,
        **config: Any,
    ) -> Server: ...


@pytest.fixture
def witness() -> Witness:
    """What the servers of `serve` tell."""
    return Witness()


@pytest.fixture
def serve(witness: Witness) -> Iterator[Serve]:
    """Starts servers, with the fields of their configuration; they stop with the test.

    They are slow to repeat anything, if not told otherwise: what comes twice in a test that waits
    for one answer is a fault, and not a sign of a busy machine.
    """
    started: list[Server] = []

    def start(
        storage: Storage,
        *,
        policy: Sequence[Policy] = (),
        engine: Engine | None = None,
        **config: Any,
    ) -> Server:
        server = Server(
            storage,
            config=ServerConfig(**{"patience": CALM} | config),
            engine=engine,
            policy=policy,
            observers=[witness],
        )
        server.start()
        started.append(server)
        return server

    before = set(threading.enumerate())
    yield start
    for server in started:
        server.stop()
    assert eventually(lambda: set(threading.enumerate()) <= before), threading.enumerate()
