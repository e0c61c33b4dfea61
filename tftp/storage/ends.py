"""The local end of a client's transfer: what a user named, as a sink or a source.

A path is written like an upload: under a temporary name, and renamed when all of it is there. File
objects stay their owner's: they are read or written from where they stand, and not closed.
"""

import contextlib
import os
import stat
from collections.abc import Sequence
from pathlib import Path
from typing import BinaryIO

from tftp.events import Operation, Request
from tftp.storage.adapters import BytesSource, from_file
from tftp.storage.base import Sink, Source
from tftp.storage.local import Directory

__all__ = ["Origin", "Target", "open_origin", "open_target"]

#: What a client can write into, and what it can read from.
Target = str | os.PathLike[str] | BinaryIO | bytearray
Origin = str | os.PathLike[str] | BinaryIO | bytes | bytearray | memoryview


def open_target(target: Target) -> Sink:
    """A sink that ends in `target`: a path, a binary file object, or a `bytearray`.

    Raises:
        OSError: the path can not be written.
    """
    match target:
        case bytearray():
            return _ArraySink(target)
        case str() | os.PathLike():
            return _open_path(Path(target))
        case _:
            return FileSink(target)


def open_origin(origin: Origin) -> Source:
    """A source that begins in `origin`: a path, a binary file object, or octets.

    Raises:
        OSError: the path can not be read.
    """
    match origin:
        case bytes() | bytearray() | memoryview():
            return BytesSource(origin)
        case str() | os.PathLike():
            return from_file(Path(origin).open("rb"))
        case _:
            return _Borrowed(from_file(origin))


def _open_path(path: Path) -> Sink:
    with contextlib.suppress(FileNotFoundError):
        if not stat.S_ISREG(path.stat().st_mode):
            # A device or a pipe is written as it is; a directory says that it is one.
            return FileSink(path.open("wb"), owned=True)
    # The file behind a symbolic link is replaced, not the link.
    whole = path.resolve()
    request = Request(operation=Operation.WRITE, filename=os.fsencode(whole.name))
    return Directory(whole.parent, writable=True, overwrite=True).open_write(request)


class FileSink:
    """A binary file object that gets the octets as they come; `owned`, it is closed at the end."""

    def __init__(self, file: BinaryIO, *, owned: bool = False) -> None:
        self._file = file
        self._owned = owned

    def write(self, chunks: Sequence[memoryview]) -> None:
        """Append the chunks; a raw file may take less at once than it is given."""
        for chunk in chunks:
            rest = chunk
            while rest:
                rest = rest[self._file.write(rest) or 0 :]

    def commit(self) -> None:
        """Hand on what the file object still holds back."""
        self._file.flush()
        self._close()

    def discard(self) -> None:
        """What has been written can not be taken back."""
        self._close()

    def _close(self) -> None:
        if self._owned:
            self._file.close()


class _ArraySink:
    def __init__(self, array: bytearray) -> None:
        self._array = array

    def write(self, chunks: Sequence[memoryview]) -> None:
        for chunk in chunks:
            self._array += chunk

    def commit(self) -> None:
        """All of it is there."""

    def discard(self) -> None:
        """What has come stays, as in a file object."""


class _Borrowed:
    """A source whose file is not closed with it."""

    def __init__(self, source: Source) -> None:
        self._source = source
        self.size = source.size
        self.read_into = source.read_into

    def close(self) -> None:
        """The file's owner does that."""
