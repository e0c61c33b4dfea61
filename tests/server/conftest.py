"""Servers that tests start, and what they tell."""

import contextlib
import threading
from collections.abc import Iterator, Sequence
from typing import Any, Protocol, overload

import pytest

from tests.arrangements import CALM, Arrangement, Served
from tests.watching import Witness, eventually, processes
from tftp.server import Engine, Server, ServerConfig
from tftp.server.policy import Policy
from tftp.storage.base import Storage


class Serve(Protocol):
    """Starts a server; see `serve`."""

    @overload
    def __call__(
        self,
        storage: Storage,
        *,
        policy: Sequence[Policy] = ...,
        engine: None = ...,
        **config: Any,
    ) -> Served: ...

    @overload
    def __call__(
        self, storage: Storage, *, policy: Sequence[Policy] = ..., engine: Engine, **config: Any
    ) -> Server: ...


@pytest.fixture
def witness() -> Witness:
    """What the servers of `serve` tell."""
    return Witness()


@pytest.fixture
def arrangement() -> Arrangement:
    """How the servers of `serve` run, for tests that have no parameter of this name."""
    return Arrangement.THREADS


@pytest.fixture
def serve(witness: Witness, arrangement: Arrangement) -> Iterator[Serve]:
    """Starts servers, with the fields of their configuration; they stop with the test.

    A server runs as `arrangement` says, or in the engine that it is given. It is slow to repeat
    anything, if not told otherwise: what comes twice in a test that waits for one answer is a
    fault, and not a sign of a busy machine.
    """
    started: list[Served] = []

    def start(
        storage: Storage,
        *,
        policy: Sequence[Policy] = (),
        engine: Engine | None = None,
        **config: Any,
    ) -> Any:
        chosen = ServerConfig(**{"patience": CALM} | config)
        server: Served
        if engine is None:
            server = arrangement.make(storage, config=chosen, policy=policy, observers=[witness])
        else:
            server = Server(
                storage, config=chosen, engine=engine, policy=policy, observers=[witness]
            )
        server.start()
        started.append(server)
        return server

    with contextlib.ExitStack() as stack:
        stack.enter_context(nothing_left_running())
        stack.enter_context(arrangement.conditions())
        yield start
        for server in started:
            server.stop()


@contextlib.contextmanager
def nothing_left_running() -> Iterator[None]:
    """What has been started inside has ended soon after, threads and processes alike."""
    before = set(threading.enumerate())
    born_before = processes()
    yield
    assert eventually(lambda: set(threading.enumerate()) <= before), threading.enumerate()
    assert eventually(lambda: processes() <= born_before), processes() - born_before
