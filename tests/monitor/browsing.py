"""Browsers without a screen: what comes over HTTP from a page that is served by this process."""

import http.client
import json
import socket
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from typing import Any

from tests.wirepeer import PATIENCE
from tftp.monitor.dashboard.listening import open_listen, url_of
from tftp.monitor.dashboard.page import Page
from tftp.monitor.place import Place

__all__ = ["TOKEN", "Answer", "Served", "Stream", "bearer", "page_of"]

TOKEN = "a secret, and % of it"  # noqa: S105  (it keeps nothing)
Step = dict[str, Any]


def bearer(token: str = "a%20secret%2C%20and%20%25%20of%20it") -> dict[str, str]:  # noqa: S107
    """The header that shows a token, percent-encoded."""
    return {"Authorization": f"Bearer {token}"}


@dataclass(frozen=True)
class Answer:
    """What came back, whole."""

    status: int
    headers: http.client.HTTPMessage
    body: bytes

    @property
    def error(self) -> str:
        """What a refusal says."""
        return str(json.loads(self.body)["error"])


class Stream:
    """A browser that follows the page's events.

    Attributes:
        hello: the first event.
        steps: all changes so far.
        octets: how much has come.
    """

    def __init__(self, sock: socket.socket, headers: dict[str, str]) -> None:
        lines = ["GET /events HTTP/1.1", "Host: localhost"]
        lines += [f"{name}: {value}" for name, value in headers.items()]
        sock.sendall("\r\n".join([*lines, "", ""]).encode())
        self.octets = 0
        self.steps: list[Step] = []
        self._sock = sock
        self._response = http.client.HTTPResponse(sock)
        self._response.begin()
        self.status = self._response.status
        self.headers = self._response.headers
        self.hello = self.next("hello") if self.status == 200 else {}

    def next(self, name: str) -> dict[str, Any]:
        """The next event, which must be of this kind; fails at the end of the stream."""
        event = self.event()
        assert event is not None, "the stream has ended"
        assert event[0] == name, event
        return event[1]

    def event(self) -> tuple[str, dict[str, Any]] | None:
        """The next event; None at the end of the stream."""
        name, data = "", ""
        while line := self._response.readline().decode():
            self.octets += len(line)
            if line == "\n" and name:
                return name, json.loads(data)
            if line.startswith("event: "):
                name = line.removeprefix("event: ").rstrip("\n")
            if line.startswith("data: "):
                data = line.removeprefix("data: ")
        return None

    def step(self) -> Step:
        """What changed next, of the first server that changed."""
        changes = self.next("step")
        step: Step = next(iter(changes.values()))
        self.steps.append(step)
        return step

    def until(self, fits: Callable[[Step], object]) -> Step:
        """The next step that fits."""
        while not fits(step := self.step()):
            pass
        return step

    def close(self) -> None:
        """Leave."""
        self._response.close()
        self._sock.close()


class Served:
    """A page, and ways to it."""

    def __init__(self, url: str, port: int) -> None:
        self.url = url
        self.port = port

    def connect(self, *, receive_buffer: int | None = None) -> socket.socket:
        """A connection to it."""
        sock = socket.socket(socket.AF_INET)
        if receive_buffer is not None:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
        sock.settimeout(PATIENCE)
        sock.connect(("127.0.0.1", self.port))
        return sock

    def ask(
        self,
        path: str,
        method: str = "GET",
        *,
        body: bytes | None = None,
        headers: dict[str, str] | None = None,
    ) -> Answer:
        """Ask, and wait for the whole answer."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=PATIENCE)
        with closing(connection):
            connection.request(method, path, body, headers or {})
            response = connection.getresponse()
            return Answer(response.status, response.headers, response.read())

    def order(self, headers: dict[str, str] | None = None, **order: Any) -> Answer:
        """Give an order, with the token unless other headers are given."""
        return self.ask(
            "/orders",
            "POST",
            body=json.dumps(order).encode(),
            headers=bearer() if headers is None else headers,
        )

    @contextmanager
    def stream(
        self, headers: dict[str, str] | None = None, *, receive_buffer: int | None = None
    ) -> Iterator[Stream]:
        """Follow the events while the block runs."""
        with closing(Stream(self.connect(receive_buffer=receive_buffer), headers or {})) as stream:
            yield stream


@contextmanager
def page_of(
    places: Sequence[str | Place], *, token: str | None = None, local: bool = True, port: int = 0
) -> Iterator[Served]:
    """A page for these channels, while the block runs."""
    sock = open_listen(Place("127.0.0.1", port))
    url, port = url_of(sock), sock.getsockname()[1]
    page = Page(sock, places, local=local, token=token, version="1.2.3")
    thread = threading.Thread(target=page.run, name="page")
    thread.start()
    try:
        yield Served(url, port)
    finally:
        page.stop()
        thread.join()
