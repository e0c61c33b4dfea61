"""Storages with one file each, that fail, wait and count as a test wants it."""

import threading
from collections.abc import Callable, Sequence

from tests.wirepeer import PATIENCE
from tftp.events import Request
from tftp.storage.adapters import BytesSource
from tftp.storage.base import Sink, Source


class Scripted:
    """A storage whose every step can be replaced.

    Attributes:
        content: what is read, whatever the name.
        written: what was written and committed, by name.
        calls: the steps so far: "open_read", "read_into", "close", "open_write", "write",
            "commit", "discard".
        before: what to do first in a step, by its name.
        commits_slowly: what its uploads say of themselves (see `Sink`).
        identity: what its downloads say of themselves (see `Source`).
    """

    def __init__(
        self, content: bytes = b"", *, commits_slowly: bool = False, **before: Callable[[], object]
    ) -> None:
        self.content = content
        self.commits_slowly = commits_slowly
        self.identity: str | None = None
        self.written: dict[bytes, bytes] = {}
        self.calls: list[str] = []
        self.requests: list[Request] = []
        self.before = before

    def open_read(self, request: Request) -> Source:
        self.requests.append(request)
        self.step("open_read")
        return _Source(self)

    def open_write(self, request: Request) -> Sink:
        self.requests.append(request)
        self.step("open_write")
        return _Sink(self, request.filename)

    def step(self, name: str) -> None:
        self.calls.append(name)
        if name in self.before:
            self.before[name]()

    def count(self, name: str) -> int:
        """How often a step was made."""
        return self.calls.count(name)


class _Source(BytesSource):
    def __init__(self, storage: Scripted) -> None:
        super().__init__(storage.content)
        self.identity = storage.identity
        self._storage = storage

    def read_into(self, slots: Sequence[memoryview], offset: int) -> int:
        self._storage.step("read_into")
        return super().read_into(slots, offset)

    def close(self) -> None:
        self._storage.step("close")


class _Sink:
    def __init__(self, storage: Scripted, name: bytes) -> None:
        self._storage = storage
        self._name = name
        self._content = bytearray()
        self.commits_slowly = storage.commits_slowly

    def write(self, chunks: Sequence[memoryview]) -> None:
        self._storage.step("write")
        for chunk in chunks:
            self._content += chunk

    def commit(self) -> None:
        self._storage.step("commit")
        self._storage.written[self._name] = bytes(self._content)

    def discard(self) -> None:
        self._storage.step("discard")


class Faulty:
    """A storage that raises one of `faults`, by the number that a file is called by.

    It goes to other processes too.
    """

    def __init__(self, faults: Sequence[BaseException]) -> None:
        self._faults = tuple(faults)

    def open_read(self, request: Request) -> Source:
        raise self._faults[int(request.filename)]

    def open_write(self, request: Request) -> Sink:
        raise self._faults[int(request.filename)]


class Gate:
    """Makes a step wait: it is `reached`, and goes on when the test calls `open`."""

    def __init__(self) -> None:
        self._reached = threading.Event()
        self._opened = threading.Event()

    def __call__(self) -> None:
        self._reached.set()
        assert self._opened.wait(PATIENCE)

    def wait(self) -> None:
        """Until somebody waits."""
        assert self._reached.wait(PATIENCE)

    def open(self) -> None:
        """Let everybody through, from now on."""
        self._opened.set()


def failing(error: BaseException, *, after: int = 0) -> Callable[[], None]:
    """A step that raises, from its call number `after` (from 0) on."""
    calls = iter(range(1 << 30))

    def step() -> None:
        if next(calls) >= after:
            raise error

    return step
