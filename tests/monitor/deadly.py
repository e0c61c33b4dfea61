"""Storages whose files end the process that reads them, for servers that survive that."""

import os
import signal
from collections.abc import Sequence

from tftp.events import Request
from tftp.storage.base import Sink, Source

__all__ = ["Deadly"]


class Deadly:
    """Files that end the process at their second block: "exit" by itself, "kill" by a signal.

    Any other name is a file of so many octets without end to the process.
    """

    def __init__(self, size: int = 1 << 16) -> None:
        self._size = size

    def open_read(self, request: Request) -> Source:
        return _Source(request.filename, self._size)

    def open_write(self, request: Request) -> Sink:
        raise PermissionError


class _Source:
    def __init__(self, name: bytes, size: int) -> None:
        self.size: int | None = size
        self._name = name

    def read_into(self, slots: Sequence[memoryview], offset: int) -> int:
        if offset and self._name == b"exit":
            os._exit(7)
        if offset and self._name == b"kill":
            os.kill(os.getpid(), signal.SIGKILL)
        assert self.size is not None
        return min(sum(map(len, slots)), self.size - offset)

    def close(self) -> None:
        pass
