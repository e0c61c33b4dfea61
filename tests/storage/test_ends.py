"""The local ends of a client's transfer: every kind of target and of origin."""

import errno
import io
import os
import socket
import stat
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO

import pytest

from tftp.errors import Refused
from tftp.storage.base import Sink, Source
from tftp.storage.ends import Origin, Target, open_origin, open_target

DATA = bytes(range(256)) * 5


def fill(target: Target, data: bytes = DATA, blksize: int = 512) -> None:
    """Write all of it, block by block, as a transfer does."""
    sink = open_target(target)
    write(sink, data, blksize)
    sink.commit()


def write(sink: Sink, data: bytes, blksize: int = 512) -> None:
    view = memoryview(data)
    sink.write([view[start : start + blksize] for start in range(0, len(data), blksize)])


def drain(origin: Origin, blksize: int = 512) -> bytes:
    """Read all of it, block by block, as a transfer does."""
    source = open_origin(origin)
    try:
        return read(source, blksize)
    finally:
        source.close()


def read(source: Source, blksize: int = 512) -> bytes:
    data, block = bytearray(), bytearray(blksize)
    while True:
        got = source.read_into([memoryview(block)], len(data))
        data += block[:got]
        if got < blksize:
            return bytes(data)


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


# -- paths to write -------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", [str, Path])
def test_a_path_gets_the_file_when_all_of_it_is_there(
    tmp_path: Path, kind: Callable[[Path], str | Path]
) -> None:
    target = tmp_path / "file"
    sink = open_target(kind(target))
    write(sink, DATA)
    assert not target.exists()
    sink.commit()
    assert target.read_bytes() == DATA
    assert names(tmp_path) == ["file"]


def test_a_relative_path_stays_what_it_is_while_the_process_moves(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path)
    sink = open_target("file")
    monkeypatch.chdir("elsewhere")
    write(sink, DATA)
    sink.commit()
    assert (tmp_path / "file").read_bytes() == DATA
    assert names(tmp_path / "elsewhere") == []


@pytest.mark.parametrize("old", [None, b"old"])
def test_what_is_given_up_leaves_nothing_and_keeps_the_old_file(
    tmp_path: Path, old: bytes | None
) -> None:
    target = tmp_path / "file"
    if old is not None:
        target.write_bytes(old)
    sink = open_target(target)
    write(sink, DATA)
    sink.discard()
    assert [path.read_bytes() for path in tmp_path.iterdir()] == ([] if old is None else [old])


def test_a_file_that_is_replaced_keeps_its_permission_bits(tmp_path: Path) -> None:
    target = tmp_path / "file"
    target.write_bytes(b"old")
    target.chmod(0o604)
    fill(target)
    assert target.read_bytes() == DATA
    assert stat.S_IMODE(target.stat().st_mode) == 0o604


def test_the_file_behind_a_symbolic_link_is_replaced_and_not_the_link(tmp_path: Path) -> None:
    (tmp_path / "there").mkdir()
    (tmp_path / "there" / "file").write_bytes(b"old")
    (tmp_path / "link").symlink_to("there/file")
    (tmp_path / "dangling").symlink_to("there/new")
    fill(tmp_path / "link")
    fill(tmp_path / "dangling")
    assert (tmp_path / "link").is_symlink()
    assert (tmp_path / "dangling").is_symlink()
    assert (tmp_path / "there" / "file").read_bytes() == DATA
    assert (tmp_path / "there" / "new").read_bytes() == DATA


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("", IsADirectoryError),
        ("folder/", IsADirectoryError),
        ("nowhere/file", FileNotFoundError),
        ("file/below", NotADirectoryError),
        ("loop", OSError),
        ("x" * 300, OSError),
    ],
)
def test_a_path_that_cannot_be_written_is_an_error_with_its_name(
    tmp_path: Path, name: str, kind: type[OSError]
) -> None:
    (tmp_path / "folder").mkdir()
    (tmp_path / "file").write_bytes(b"old")
    (tmp_path / "loop").symlink_to("loop")
    before = names(tmp_path)
    with pytest.raises(kind) as caught:
        open_target(tmp_path / name)
    assert caught.value.filename == str(tmp_path / name)
    assert caught.value.errno
    assert names(tmp_path) == before


def test_a_name_that_unfinished_files_have_is_refused(tmp_path: Path) -> None:
    with pytest.raises(Refused, match="reserved"):
        open_target(tmp_path / ".tftpkit-upload-0")


def test_where_one_may_not_write_nothing_is_begun(tmp_path: Path) -> None:
    # Root without its capabilities is a user like any other.
    prefix: tuple[str, ...] = ()
    if os.geteuid() == 0:
        prefix = ("setpriv", "--bounding-set=-all", "--inh-caps=-all")
        probe = subprocess.run([*prefix, "true"], capture_output=True, text=True, check=False)
        if probe.returncode:
            pytest.skip(f"cannot drop capabilities: {probe.stderr.strip()}")
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder").chmod(0o555)
    (tmp_path / "file").write_bytes(b"old")
    (tmp_path / "file").chmod(0o444)
    script = (
        "import sys\n"
        "from tftp.storage.ends import open_target\n"
        "for path in sys.argv[1:]:\n"
        "    try:\n"
        "        open_target(path)\n"
        "    except PermissionError as error:\n"
        "        assert error.filename == path\n"
        "    else:\n"
        "        sys.exit(path + ' is open')\n"
    )
    paths = [str(tmp_path / "folder" / "new"), str(tmp_path / "file")]
    done = subprocess.run(
        [*prefix, sys.executable, "-c", script, *paths],
        capture_output=True,
        text=True,
        check=False,
        env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)},
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert (tmp_path / "file").read_bytes() == b"old"


def test_a_download_is_not_forced_to_the_disk(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def never(descriptor: int) -> None:
        raise AssertionError("nobody was promised that it survives a power cut")

    monkeypatch.setattr(os, "fsync", never)
    fill(tmp_path / "file")
    assert (tmp_path / "file").read_bytes() == DATA


# -- devices and pipes ----------------------------------------------------------------------------


def test_dev_null_takes_everything_and_stays_a_device() -> None:
    fill("/dev/null")
    assert stat.S_ISCHR(Path("/dev/null").stat().st_mode)


def test_a_full_device_fails_at_the_write_and_is_closed() -> None:
    sink = open_target("/dev/full")
    with pytest.raises(OSError, match="No space left") as caught:
        write(sink, DATA)
    assert caught.value.errno == errno.ENOSPC
    sink.discard()
    with pytest.raises(ValueError, match="closed"):
        write(sink, DATA)


def test_a_fifo_is_written_and_read_in_place(tmp_path: Path) -> None:
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    got: list[bytes] = []
    reader = threading.Thread(target=lambda: got.append(drain(fifo)))
    reader.start()
    fill(fifo)
    reader.join()
    assert got == [DATA]
    assert names(tmp_path) == ["fifo"]


# -- file objects to write ------------------------------------------------------------------------


def test_a_file_object_is_written_from_where_it_stands_and_stays_open(tmp_path: Path) -> None:
    path = tmp_path / "file"
    opened: list[BinaryIO] = [io.BytesIO(), path.open("w+b"), path.open("w+b", buffering=0)]
    for file in opened:
        with file:
            file.write(b"before")
            fill(file)
            assert not file.closed
            file.seek(0)
            assert file.read() == b"before" + DATA


def test_what_a_file_object_holds_back_is_handed_on_before_all_is_said_to_be_there(
    tmp_path: Path,
) -> None:
    path = tmp_path / "file"
    with path.open("wb", buffering=1 << 20) as file:
        fill(file)
        assert path.read_bytes() == DATA


def test_what_a_file_object_cannot_hand_on_is_an_error_of_the_commit() -> None:
    file = open("/dev/full", "wb", buffering=1 << 20)  # noqa: PTH123, SIM115  (it cannot be closed)
    sink = open_target(file)
    write(sink, DATA)
    with pytest.raises(OSError, match="No space left"):
        sink.commit()
    sink.discard()
    assert not file.closed
    with pytest.raises(OSError, match="No space left"):
        file.close()


class Miser(io.RawIOBase):
    """A raw file that takes a few octets at a time, and then none."""

    def __init__(self, room: int) -> None:
        self.taken = bytearray()
        self.room = room

    def writable(self) -> bool:
        return True

    def write(self, octets: object) -> int | None:
        some = bytes(octets)[: min(100, self.room)]  # type: ignore[call-overload]  # a buffer
        self.room -= len(some)
        self.taken += some
        return len(some) or None


def test_a_raw_file_that_takes_little_at_once_gets_all_of_it() -> None:
    raw = Miser(room=len(DATA))
    fill(raw)  # type: ignore[arg-type]  # as good as BinaryIO
    assert raw.taken == DATA


def test_a_raw_file_that_takes_no_more_is_an_error_and_not_a_loop() -> None:
    raw = Miser(room=700)
    with pytest.raises(BlockingIOError):
        fill(raw)  # type: ignore[arg-type]  # as good as BinaryIO


def test_a_pipe_nobody_reads_any_more_is_a_broken_pipe() -> None:
    reader, writer = os.pipe()
    os.close(reader)
    with os.fdopen(writer, "wb", buffering=0) as pipe, pytest.raises(BrokenPipeError):
        fill(pipe)


def test_a_bytearray_grows_behind_what_it_holds() -> None:
    array = bytearray(b"before")
    fill(array)
    assert array == b"before" + DATA


# -- origins --------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", [str, Path])
@pytest.mark.parametrize("size", [0, 1, 512, 1280])
def test_a_path_is_read_and_its_size_known(
    tmp_path: Path, kind: Callable[[Path], str | Path], size: int
) -> None:
    (tmp_path / "file").write_bytes(DATA[:size])
    source = open_origin(kind(tmp_path / "file"))
    assert source.size == size
    assert read(source) == DATA[:size]
    source.close()


def test_a_file_that_was_cut_while_it_is_read_is_an_error_and_no_short_file(
    tmp_path: Path,
) -> None:
    (tmp_path / "file").write_bytes(DATA)
    source = open_origin(tmp_path / "file")
    os.truncate(tmp_path / "file", 100)
    with pytest.raises(Refused, match="changed"):
        read(source)
    source.close()


@pytest.mark.skipif(not Path("/proc/version").exists(), reason="no /proc")
def test_a_file_that_only_says_that_it_is_empty_is_read_all_the_same() -> None:
    content = Path("/proc/version").read_bytes()
    assert content
    source = open_origin("/proc/version")
    assert source.size == len(content)
    assert read(source) == content
    source.close()


def test_a_device_without_an_end_is_a_stream() -> None:
    source = open_origin("/dev/zero")
    assert source.size is None
    block = bytearray(b"x" * 512)
    assert source.read_into([memoryview(block)], 0) == 512
    assert block == bytes(512)
    source.close()
    assert drain("/dev/null") == b""


@pytest.mark.parametrize(
    ("name", "kind"), [("", IsADirectoryError), ("nowhere", FileNotFoundError)]
)
def test_a_path_that_cannot_be_read_is_an_error_with_its_name(
    tmp_path: Path, name: str, kind: type[OSError]
) -> None:
    with pytest.raises(kind) as caught:
        open_origin(tmp_path / name)
    assert Path(caught.value.filename) == tmp_path / name


def test_a_file_object_is_read_from_where_it_stands_and_stays_open(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"before" + DATA)
    opened: list[BinaryIO] = [
        io.BytesIO(b"before" + DATA),
        path.open("rb"),
        path.open("rb", buffering=0),
    ]
    for file in opened:
        with file:
            file.seek(6)
            source = open_origin(file)
            assert source.size == len(DATA)
            assert file.tell() == 6  # Until something is read, as if nobody had been there.
            assert read(source) == DATA
            source.close()
            assert not file.closed


@pytest.mark.parametrize("kind", ["pipe", "socket"])
def test_a_stream_that_cannot_seek_is_read_once_to_its_end(kind: str) -> None:
    if kind == "pipe":
        reader, writer = os.pipe()
    else:
        one, other = socket.socketpair()
        reader, writer = one.detach(), other.detach()
    with os.fdopen(reader, "rb") as stream:
        with os.fdopen(writer, "wb") as sink:
            sink.write(DATA)
        source = open_origin(stream)
        assert source.size is None
        assert read(source) == DATA
        source.close()
        assert not stream.closed


def test_a_stream_can_be_read_again_as_far_back_as_was_said() -> None:
    source = open_origin(Drip(DATA), keep=600)  # type: ignore[arg-type]  # as good as BinaryIO
    assert read(source, 300) == DATA
    block = bytearray(300)
    assert source.read_into([memoryview(block)], len(DATA) - 600) == 300
    assert block == DATA[-600:-300]
    with pytest.raises(ValueError, match="offset"):
        source.read_into([memoryview(block)], len(DATA) - 900)


class Drip(io.RawIOBase):
    """A stream that gives a few octets at a time."""

    def __init__(self, data: bytes) -> None:
        self._rest = io.BytesIO(data)

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: memoryview) -> int:  # type: ignore[override]
        return self._rest.readinto(memoryview(buffer)[:7])


@pytest.mark.parametrize(
    "kind", [bytes, bytearray, memoryview, lambda data: memoryview(data).cast("I")]
)
def test_octets_are_read_as_they_are(kind: Callable[[bytes], Origin]) -> None:
    source = open_origin(kind(DATA))
    assert source.size == len(DATA)
    assert read(source) == DATA
    source.close()


def test_a_bytearray_can_grow_again_when_it_has_been_read() -> None:
    array = bytearray(DATA)
    source = open_origin(array)
    with pytest.raises(BufferError):
        array += b"more"
    source.close()
    array += b"more"
    assert array == DATA + b"more"
