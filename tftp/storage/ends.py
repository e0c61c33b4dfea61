"""The local end of a client's transfer: what a user named, as a sink or a source.

A path is written like an upload: under a temporary name, and renamed when all of it is there. It is
not forced to the disk, since nobody is promised that it survives a power cut. File objects and
buffers stay their owner's: they are read or written from where they stand, and not closed. This
module knows neither servers nor options.
"""

import contextlib
import errno
import io
import os
import stat
from collections.abc import Sequence
from pathlib import Path
from typing import BinaryIO

from tftp.events import Operation, Request
from tftp.storage.adapters import KEEP, BytesSource, Sequential, from_file
from tftp.storage.base import Sink, Source
from tftp.storage.local import Directory, LocalSource

__all__ = ["Origin", "Target", "open_origin", "open_target"]

#: What a client can write into, and what it can read from.
Target = str | os.PathLike[str] | BinaryIO | bytearray
Origin = str | os.PathLike[str] | BinaryIO | bytes | bytearray | memoryview


def open_target(target: Target) -> Sink:
    """A sink that ends in `target`: a path, a binary file object, or a `bytearray`.

    Raises:
        OSError: the path cannot be written; `filename` is that path.
        Refused: its name is one that unfinished files have.
    """
    match target:
        case bytearray():
            return _ArraySink(target)
        case str() | os.PathLike():
            path = Path(target)
            try:
                return _open_path(path)
            except OSError as error:
                raise OSError(error.errno, error.strerror, str(path)) from error
        case _:
            return _FileSink(target)


def open_origin(origin: Origin, *, keep: int = KEEP) -> Source:
    """A source that begins in `origin`: a path, a binary file object, or octets.

    Args:
        origin: what to read.
        keep: octets that a reader may go back in it, where it can be read only once.

    Raises:
        OSError: it cannot be read.
    """
    match origin:
        case bytes() | bytearray() | memoryview():
            return _Octets(origin)
        case str() | os.PathLike():
            return _read_path(Path(origin), keep)
        case _:
            return _Borrowed(origin, keep)


def _open_path(path: Path) -> Sink:
    with contextlib.suppress(FileNotFoundError):
        if not stat.S_ISREG(path.stat().st_mode):
            # A device or a pipe is written as it is, unbuffered: an error belongs to its write. A
            # directory says that it is one.
            return _FileSink(path.open("wb", buffering=0), owned=True)
    # The file behind a symbolic link is replaced, not the link.
    whole = path.resolve()
    folder = Directory(whole.parent, writable=True, overwrite=True, durable=False)
    return folder.open_write(Request(operation=Operation.WRITE, filename=os.fsencode(whole.name)))


def _read_path(path: Path, keep: int) -> Source:
    with contextlib.ExitStack() as undo:
        file = undo.enter_context(path.open("rb"))
        status = os.fstat(file.fileno())
        if stat.S_ISREG(status.st_mode):
            if status.st_size:
                return LocalSource(os.dup(file.fileno()), status)
            # Empty, or one of those in /proc, which say so and are not.
            return _Octets(file.read())
        # Of devices that can seek, only one with blocks has an end to seek to.
        has_end = stat.S_ISBLK(status.st_mode)
        source = from_file(file, keep=keep) if has_end else Sequential(file, keep=keep)
        undo.pop_all()
        return source


class _FileSink:
    """A binary file object that gets the octets as they come; `owned`, it is closed at the end."""

    def __init__(self, file: BinaryIO, *, owned: bool = False) -> None:
        self._file = file
        self._owned = owned

    def write(self, chunks: Sequence[memoryview]) -> None:
        for chunk in chunks:
            if isinstance(self._file, io.RawIOBase):
                self._write_all(self._file, chunk)
            else:
                self._file.write(chunk)

    def _write_all(self, file: io.RawIOBase, chunk: memoryview) -> None:
        """A raw file may take less than it is given, or nothing at all."""
        while chunk:
            done = file.write(chunk)
            if not done:
                raise BlockingIOError(errno.EAGAIN, "the file does not block, and is full now")
            chunk = chunk[done:]

    def commit(self) -> None:
        """Have the file object hand on what it still holds back."""
        self._file.flush()
        self._close()

    def discard(self) -> None:
        """What has been written cannot be taken back."""
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


class _Octets(BytesSource):
    """Octets that are let go at the end: a `bytearray` cannot grow while somebody reads it."""

    __slots__ = ()

    def close(self) -> None:
        self._data.release()


class _Borrowed:
    """A file object that is not closed with its source, and not moved by what is never read."""

    def __init__(self, file: BinaryIO, keep: int) -> None:
        start = file.tell() if file.seekable() else None
        source = from_file(file, keep=keep)
        if start is not None:
            file.seek(start)  # The size was found by going to the end.
        self.size = source.size
        self.read_into = source.read_into

    def close(self) -> None:
        """The file's owner does that."""
