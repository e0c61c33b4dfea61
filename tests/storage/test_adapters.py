"""Sources and sinks around other things."""

import io
import os
import random
import tracemalloc
from collections.abc import Sequence
from typing import BinaryIO

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tftp.errors import ErrorCode, Refused
from tftp.netascii import from_netascii, to_netascii
from tftp.storage.adapters import (
    KEEP,
    BytesSource,
    NetasciiSink,
    NetasciiSource,
    Seekable,
    Sequential,
    from_file,
)
from tftp.storage.base import Sink, Source


def pull(source: Source, offset: int, *sizes: int) -> bytes:
    """What a source gives for slots of these sizes."""
    window = bytearray(sum(sizes))
    slots, start = [], 0
    for size in sizes:
        slots.append(memoryview(window)[start : start + size])
        start += size
    return bytes(window[: source.read_into(slots, offset)])


def drain(source: Source, blksize: int = 512) -> bytes:
    """All of a source, block by block."""
    data = bytearray()
    while True:
        block = pull(source, len(data), blksize)
        data += block
        if len(block) < blksize:
            return bytes(data)


class Dribble(io.RawIOBase):
    """A stream that cannot seek and gives a few octets at a time, as pipes do."""

    def __init__(self, data: bytes, *, most: int = 7) -> None:
        self._stream = io.BytesIO(data)
        self._most = most

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: memoryview) -> int:  # type: ignore[override]
        return self._stream.readinto(memoryview(buffer)[: self._most])


class Listed:
    """A sink that keeps everything in a list, and fails when told to."""

    def __init__(self, *, fails: bool = False) -> None:
        self.data = bytearray()
        self.calls: list[str] = []
        self._fails = fails

    def write(self, chunks: Sequence[memoryview]) -> None:
        self.calls.append("write")
        if self._fails:
            raise OSError(28, "No space left on device")
        for chunk in chunks:
            self.data += chunk

    def commit(self) -> None:
        self.calls.append("commit")

    def discard(self) -> None:
        self.calls.append("discard")


# --- Octets and files that seek ----------------------------------------------------------------


@pytest.mark.parametrize("kind", [bytes, bytearray, memoryview])
def test_octets_are_read_from_any_offset(kind: type) -> None:
    source = BytesSource(kind(b"0123456789"))
    assert source.size == 10
    assert pull(source, 0, 3, 3) == b"012345"
    assert pull(source, 8, 3, 3) == b"89"
    assert pull(source, 2, 1) == b"2"
    assert pull(source, 10, 4) == b""
    assert pull(source, 99, 4) == b""
    source.close()


def test_a_seekable_file_is_read_from_where_it_stands() -> None:
    file = io.BytesIO(b"header:0123456789")
    file.seek(7)
    source = from_file(file)
    assert isinstance(source, Seekable)
    assert source.size == 10
    assert drain(source, 4) == b"0123456789"
    assert pull(source, 1, 2, 2) == b"1234"
    assert pull(source, 10, 2) == b""
    source.close()
    assert file.closed


def test_a_file_that_stands_behind_its_end_is_empty() -> None:
    file = io.BytesIO(b"short")
    file.seek(100)
    source = from_file(file)
    assert source.size == 0
    assert drain(source) == b""


def test_a_seekable_file_that_shrinks_is_an_error() -> None:
    file = io.BytesIO(bytes(100))
    source = from_file(file)
    file.truncate(50)
    assert pull(source, 0, 50) == bytes(50)
    with pytest.raises(Refused, match="changed") as caught:
        pull(source, 0, 100)
    assert caught.value.code == ErrorCode.UNDEFINED


# --- Streams that cannot seek ------------------------------------------------------------------


def test_a_pipe_is_a_source_whose_size_nobody_knows() -> None:
    content = random.Random(1).randbytes(20_000)
    reader, writer = os.pipe()
    os.write(writer, content)
    os.close(writer)
    file: BinaryIO = os.fdopen(reader, "rb")
    source = from_file(file)
    assert isinstance(source, Sequential)
    assert source.size is None
    assert drain(source) == content
    source.close()
    assert file.closed


def test_short_reads_of_a_stream_are_not_its_end() -> None:
    content = bytes(range(256)) * 4
    source = Sequential(Dribble(content))
    assert pull(source, 0, 500, 500) == content[:1000]
    assert pull(source, 1000, 500) == content[1000:]
    assert pull(source, 1024, 500) == b""


def test_a_stream_goes_back_by_what_it_keeps_and_no_further() -> None:
    content = random.Random(2).randbytes(10_000)
    source = Sequential(io.BytesIO(content), keep=1024)
    for offset in range(0, 8192, 1024):
        assert pull(source, offset, 512, 512) == content[offset : offset + 1024]
        assert pull(source, offset, 512, 512) == content[offset : offset + 1024]
        assert pull(source, offset + 512, 512) == content[offset + 512 : offset + 1024]
    with pytest.raises(ValueError, match="7167"):
        pull(source, 7167, 512)
    with pytest.raises(ValueError, match="8193"):
        pull(source, 8193, 512)
    assert pull(source, 7168, 512) == content[7168:7680]
    assert drain_from(source, 8192) == content[8192:]


def drain_from(source: Source, offset: int) -> bytes:
    data = bytearray()
    while block := pull(source, offset + len(data), 512):
        data += block
    return bytes(data)


def test_what_is_kept_counts_from_the_furthest_octet_however_far_one_went_back() -> None:
    content = random.Random(3).randbytes(4096)
    source = Sequential(io.BytesIO(content), keep=1024)
    assert pull(source, 0, 1024) == content[:1024]
    for _ in range(3):
        assert pull(source, 0, 100) == content[:100]
        assert pull(source, 0, 1024) == content[:1024]
    # From within what was read to beyond it.
    assert pull(source, 512, 1024) == content[512:1536]
    assert pull(source, 512, 1024) == content[512:1536]


def test_a_stream_that_does_not_block_is_an_error_and_not_the_end() -> None:
    reader, writer = os.pipe()
    os.set_blocking(reader, False)
    with os.fdopen(reader, "rb", buffering=0) as file, os.fdopen(writer, "wb", buffering=0):
        source = Sequential(file)
        with pytest.raises(BlockingIOError):
            pull(source, 0, 512)


class Endless:
    """Octets without end."""

    def read(self, size: int, /) -> bytes:
        return bytes(size)

    def close(self) -> None:
        """Nothing is open."""


def peak_memory(source: Source, total: int) -> int:
    window = memoryview(bytearray(16 * 1428))
    slots = [window[start : start + 1428] for start in range(0, len(window), 1428)]
    tracemalloc.start()
    try:
        offset = 0
        while offset < total:
            offset += source.read_into(slots, offset)
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


def test_memory_does_not_grow_with_the_stream() -> None:
    window = 16 * 1428
    assert peak_memory(Sequential(Endless(), keep=window), 20_000_000) < 8 * window
    assert peak_memory(NetasciiSource(Sequential(Endless(), keep=0), keep=window), 20_000_000) < (
        12 * window
    )


def test_what_is_kept_by_default_is_the_largest_window_granted_by_default() -> None:
    assert KEEP == 64 * 65464


# --- netascii ----------------------------------------------------------------------------------

TEXTS = st.lists(st.sampled_from([b"\r", b"\n", b"\r\n", b"\0", b"a", b"line"])).map(b"".join)


@given(TEXTS, st.integers(1, 9), st.integers(1, 4), st.randoms(use_true_random=False))
@settings(max_examples=200, deadline=None)
def test_netascii_is_the_same_however_often_a_window_is_read_again(
    text: bytes, blksize: int, windowsize: int, chance: random.Random
) -> None:
    expected = to_netascii(text)
    source = NetasciiSource(BytesSource(text), keep=blksize * windowsize)
    assert source.size is None
    offset = 0
    while True:
        # A window, then a part of it again, as after a loss.
        window = pull(source, offset, *[blksize] * windowsize)
        assert window == expected[offset : offset + blksize * windowsize]
        again = chance.randrange(windowsize) * blksize
        if again <= len(window):
            assert pull(source, offset + again, blksize) == window[again : again + blksize]
        offset += len(window)
        if len(window) < blksize * windowsize:
            break
    assert offset == len(expected)


def test_a_pair_is_cut_at_a_block_edge() -> None:
    source = NetasciiSource(BytesSource(b"abc\ndef\r"))
    blocks = [pull(source, offset, 4) for offset in (0, 4, 8, 0, 10)]
    assert blocks == [b"abc\r", b"\ndef", b"\r\0", b"abc\r", b""]


def test_a_netascii_source_may_stand_on_one_that_cannot_seek() -> None:
    text = b"one\ntwo\r\nthree\r" * 1000
    source = NetasciiSource(Sequential(Dribble(text), keep=0), keep=512)
    assert drain(source) == to_netascii(text)


def test_closing_a_netascii_source_closes_the_text() -> None:
    file = io.BytesIO(b"text")
    NetasciiSource(from_file(file)).close()
    assert file.closed


def test_the_failure_of_the_text_comes_through() -> None:
    file = io.BytesIO(bytes(100))
    source = NetasciiSource(from_file(file))
    file.truncate(10)
    with pytest.raises(Refused, match="changed"):
        pull(source, 0, 512)


@given(st.lists(st.lists(st.sampled_from([b"\r", b"\n", b"\0", b"", b"ab"]))))
def test_a_netascii_upload_is_decoded_across_every_cut(windows: list[list[bytes]]) -> None:
    sink = Listed()
    decoding: Sink = NetasciiSink(sink)
    for window in windows:
        decoding.write([memoryview(chunk) for chunk in window])
    decoding.commit()
    assert sink.data == from_netascii(b"".join(b"".join(window) for window in windows))
    assert sink.calls[-1] == "commit"
    assert sink.calls.count("commit") == 1


def test_a_netascii_upload_that_cannot_write_its_last_octet_is_discarded() -> None:
    sink = Listed(fails=True)
    decoding = NetasciiSink(sink)
    decoding.write([memoryview(b"\r")])  # Held back: it may be the first half of a pair.
    with pytest.raises(OSError, match="space"):
        decoding.commit()
    assert sink.calls == ["write", "discard"]


def test_discarding_a_netascii_upload_discards_the_text() -> None:
    sink = Listed()
    decoding = NetasciiSink(sink)
    decoding.write([memoryview(b"half\r")])
    decoding.discard()
    assert sink.calls == ["write", "discard"]
