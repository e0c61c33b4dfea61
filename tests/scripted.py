"""A server that a test plays by hand, packet by packet, and a client that waits for it meanwhile.

`Door` is where a server takes requests, `Door.port` the port that it answers one from. `Calls` runs
the client's blocking calls in threads of their own, and ends them when the test does.
"""

import threading
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack
from types import TracebackType
from typing import ParamSpec, Self, TypeVar

from tests.wirepeer import PATIENCE, WirePeer
from tftp.client import Client
from tftp.packets import ReadRequest, WriteRequest
from tftp.timers import Patience

_P = ParamSpec("_P")
_T = TypeVar("_T")

#: No timer of a client fires as long as a test lasts: what it sends is an answer to something.
UNHURRIED = Patience(initial=8.0, floor=8.0, ceiling=8.0, total=30.0)


class Door(WirePeer):
    """The port where a server takes requests.

    Attributes:
        requests: all that have come, in order.
    """

    def __init__(self, host: str = "127.0.0.1", port: int = 0) -> None:
        super().__init__((host, 0), host=host, port=port)
        self.requests: list[ReadRequest | WriteRequest] = []
        self._ports = ExitStack()

    def asked(self) -> ReadRequest | WriteRequest:
        """The next request; it must come."""
        request = self.receive()
        assert isinstance(request, ReadRequest | WriteRequest), request
        self.requests.append(request)
        return request

    def port(self, host: str | None = None) -> WirePeer:
        """A port to answer from to the client that has asked last."""
        return self._ports.enter_context(WirePeer(self.tid, host=host))

    def asked_by(self) -> WirePeer:
        """A new port to answer from, once the next request has come."""
        self.asked()
        return self.port()

    def unheard(self) -> list[ReadRequest | WriteRequest]:
        """The requests that have come, and were not asked for by `asked`."""
        requests = [one for one in self.drain() if isinstance(one, ReadRequest | WriteRequest)]
        self.requests += requests
        return requests

    def close(self) -> None:
        """Fall silent, on all ports."""
        self._ports.close()
        super().close()


class Calls:
    """Calls that block, in threads of their own."""

    def __init__(self) -> None:
        self._pool = ThreadPoolExecutor(32)
        self._clients: list[Client] = []
        self._lock = threading.Lock()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        # Where the test has failed, nobody is to wait until a client's patience ends.
        for client in self._clients:
            client.cancel()
        self._pool.shutdown()
        for client in self._clients:
            client.close()

    def client(self, door: WirePeer, **options: object) -> Client:
        """A client for this door, by default one whose timers do not fire."""
        host, port, *_ = door.address
        options.setdefault("patience", UNHURRIED)
        client = Client(host, port, **options)  # type: ignore[arg-type]  # as the test says
        self._clients.append(client)
        return client

    def start(
        self, function: Callable[_P, _T], /, *arguments: _P.args, **options: _P.kwargs
    ) -> "Future[_T]":
        """Call the function in a thread."""
        return self._pool.submit(function, *arguments, **options)


def result(future: "Future[_T]") -> _T:
    """What a call returned, or raised; it must have ended soon."""
    return future.result(PATIENCE)
