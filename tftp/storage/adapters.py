"""Sources and sinks around other things: bytes, file objects, streams that cannot seek, netascii.

A transfer asks a source for any offset up to a window back. What can only be read once is
remembered for as long as it may be asked again, and no longer: memory stays within `keep` octets
and one read. Nothing here knows of names, requests or blocks. There are no threads either: a
stream that makes its reader wait makes the transfer wait.
"""

import errno
import os
from collections.abc import Callable, Sequence
from typing import BinaryIO, Protocol

from tftp.errors import ErrorCode, Refused
from tftp.netascii import NetasciiDecoder, NetasciiEncoder
from tftp.options import Limits
from tftp.storage.base import Sink, Source

__all__ = [
    "KEEP",
    "BytesSource",
    "NetasciiSink",
    "NetasciiSource",
    "Readable",
    "Seekable",
    "Sequential",
    "from_file",
]

#: Octets to remember where the window is not known: the largest that a server grants by itself.
KEEP = Limits().max_blksize * Limits().max_windowsize


class Readable(Protocol):
    """A binary stream: a pipe, a socket's file, standard input."""

    def read(self, size: int, /) -> bytes | None:
        """At most `size` octets, b"" at the end, None if a non-blocking stream has none now."""

    def close(self) -> None:
        """Let it go."""


class BytesSource:
    """Octets in memory."""

    __slots__ = ("_data",)

    def __init__(self, data: bytes | bytearray | memoryview) -> None:
        self._data = memoryview(data).cast("B")

    @property
    def size(self) -> int:
        """How many there are."""
        return len(self._data)

    def read_into(self, slots: Sequence[memoryview], offset: int) -> int:
        """Fill the slots from any offset on."""
        return _scatter(self._data[offset:], slots)

    def close(self) -> None:
        """Nothing is held open."""


class Seekable:
    """A part of a file object that can seek. It is this source's until that is closed.

    Args:
        file: what to read, and to close at the end.
        start: where in it offset 0 is.
        size: octets from there on.
    """

    __slots__ = ("_file", "_start", "size")

    def __init__(self, file: BinaryIO, start: int, size: int) -> None:
        self._file = file
        self._start = start
        #: Octets in all.
        self.size = size

    def read_into(self, slots: Sequence[memoryview], offset: int) -> int:
        """Fill the slots from any offset on.

        Raises:
            Refused: the file has become shorter.
            OSError: it cannot be read.
        """
        wanted = max(min(sum(map(len, slots)), self.size - offset), 0)
        self._file.seek(self._start + offset)
        data = bytearray()
        while len(data) < wanted:
            data += _read(self._file, wanted - len(data)) or _cut_short()
        return _scatter(memoryview(data), slots)

    def close(self) -> None:
        """Close the file."""
        self._file.close()


class Sequential:
    """A stream that is read once, from where it stands to its end; its size is not known.

    Args:
        stream: what to read, and to close at the end.
        keep: how far, in octets, an offset may lie behind the furthest octet that was read: a
            window, and whatever the reader reads ahead of it.
    """

    __slots__ = ("_recent", "_stream")

    def __init__(self, stream: Readable, *, keep: int = KEEP) -> None:
        self._stream = stream
        self._recent = _Recent(lambda size: _read(stream, size), keep)

    @property
    def size(self) -> None:
        """Nobody knows before the end."""

    def read_into(self, slots: Sequence[memoryview], offset: int) -> int:
        """Fill the slots from an offset on that is no further back than `keep`.

        Raises:
            OSError: the stream cannot be read; BlockingIOError if it is one that does not block.
            ValueError: the offset is too far back, or beyond what was read.
        """
        return self._recent.read_into(slots, offset)

    def close(self) -> None:
        """Close the stream."""
        self._stream.close()


class NetasciiSource:
    """A source of local text (LF ends a line), read as netascii.

    Its size is not known without reading all of it, and so is not told (RFC 2349 wants it exact).

    Args:
        source: the text; closed with this one.
        keep: as for `Sequential`, in octets of netascii.
    """

    __slots__ = ("_encoder", "_offset", "_recent", "_source")

    def __init__(self, source: Source, *, keep: int = KEEP) -> None:
        self._source = source
        self._offset = 0
        self._encoder = NetasciiEncoder()
        self._recent = _Recent(self._encode_next, keep)

    @property
    def size(self) -> None:
        """Nobody knows before the end."""

    def read_into(self, slots: Sequence[memoryview], offset: int) -> int:
        """Fill the slots from an offset on, in octets of netascii, no further back than `keep`.

        Raises:
            OSError, TFTPError: the text cannot be read.
            ValueError: the offset is too far back, or beyond what was read.
        """
        return self._recent.read_into(slots, offset)

    def close(self) -> None:
        """Close the source of the text."""
        self._source.close()

    def _encode_next(self, size: int) -> bytes:
        text = bytearray(size)
        with memoryview(text) as slot:
            got = self._source.read_into([slot], self._offset)
        self._offset += got
        return self._encoder.encode(bytes(text[:got]), final=got < size)


class NetasciiSink:
    """A sink of local text that is written as netascii.

    Args:
        sink: where the text goes; ended with this one.
    """

    __slots__ = ("_decoder", "_sink")

    def __init__(self, sink: Sink) -> None:
        self._sink = sink
        self._decoder = NetasciiDecoder()

    @property
    def commits_slowly(self) -> bool:
        """As the sink of the text."""
        return bool(getattr(self._sink, "commits_slowly", False))

    def write(self, chunks: Sequence[memoryview]) -> None:
        """Append the chunks in order; they may be cut anywhere.

        Raises:
            OSError, TFTPError: the text could not be written.
        """
        decoded = (self._decoder.decode(bytes(chunk)) for chunk in chunks)
        texts = [memoryview(text) for text in decoded if text]
        if texts:
            self._sink.write(texts)

    def commit(self) -> None:
        """Write what a last CR held back, and commit the text.

        Raises:
            OSError, TFTPError: it could not be; nothing is left behind.
        """
        last = self._decoder.decode(b"", final=True)
        if last:
            try:
                self._sink.write([memoryview(last)])
            except BaseException:
                self._sink.discard()
                raise
        self._sink.commit()

    def discard(self) -> None:
        """Leave nothing behind."""
        self._sink.discard()


class _Recent:
    """The last octets of something that can only be read on, and what was read too much of it.

    Args:
        read: gives the next octets, about as many as asked, and b"" at the end.
        keep: how many octets behind the furthest one handed out are still there.
    """

    __slots__ = ("_buffer", "_furthest", "_keep", "_read", "_start")

    def __init__(self, read: Callable[[int], bytes], keep: int) -> None:
        self._read = read
        self._keep = keep
        self._buffer = bytearray()
        self._start = 0  # The offset of the buffer's first octet.
        self._furthest = 0  # The offset behind the last octet handed out.

    def read_into(self, slots: Sequence[memoryview], offset: int) -> int:
        if not self._start <= offset <= self._furthest:
            raise ValueError(f"offset {offset} is not within {self._start} and {self._furthest}")
        end = offset + sum(map(len, slots))
        while (missing := end - self._start - len(self._buffer)) > 0:
            data = self._read(missing)
            if not data:
                break
            self._buffer += data
        with memoryview(self._buffer) as octets, octets[offset - self._start :] as rest:
            filled = _scatter(rest, slots)
        self._furthest = max(self._furthest, offset + filled)
        self._forget()
        return filled

    def _forget(self) -> None:
        spare = self._furthest - self._keep - self._start
        if spare > 0:
            del self._buffer[:spare]
            self._start += spare


def from_file(file: BinaryIO, *, keep: int = KEEP) -> Source:
    """A file object as a source, from where it stands to its end; closed with the source.

    Raises:
        OSError: it cannot be used.
    """
    if not file.seekable():
        return Sequential(file, keep=keep)
    start = file.tell()
    return Seekable(file, start, max(file.seek(0, os.SEEK_END) - start, 0))


def _read(stream: Readable, size: int) -> bytes:
    data = stream.read(size)
    if data is None:
        raise BlockingIOError(errno.EAGAIN, "the stream does not block, and has nothing now")
    return data


def _cut_short() -> bytes:
    raise Refused("file changed while it was read", ErrorCode.UNDEFINED)


def _scatter(data: memoryview, slots: Sequence[memoryview]) -> int:
    """Fill the slots one after the other, and say how much there was."""
    done = 0
    for slot in slots:
        part = data[done : done + len(slot)]
        slot[: len(part)] = part
        done += len(part)
    return done
