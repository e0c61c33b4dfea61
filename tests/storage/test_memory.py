"""Files in memory."""

import errno
import io
import os
import threading
from typing import BinaryIO

import pytest

from tftp.errors import ErrorCode, Refused, TFTPError
from tftp.events import Operation, Request
from tftp.storage.adapters import Sequential
from tftp.storage.base import Sink, Source, Storage
from tftp.storage.memory import Content, Memory


def reading(name: bytes) -> Request:
    return Request(operation=Operation.READ, filename=name, peer=("192.0.2.7", 4000))


def writing(name: bytes) -> Request:
    return Request(operation=Operation.WRITE, filename=name)


def read(source: Source) -> bytes:
    data = bytearray()
    slot = memoryview(bytearray(512))
    while got := source.read_into([slot], len(data)):
        data += slot[:got]
    source.close()
    return bytes(data)


def fetch(storage: Storage, name: bytes) -> bytes:
    return read(storage.open_read(reading(name)))


def store(storage: Storage, name: bytes, data: bytes) -> None:
    sink: Sink = storage.open_write(writing(name))
    for start in range(0, len(data), 512):
        sink.write([memoryview(data)[start : start + 512]])
    sink.commit()
    sink.discard()


def code_of(error: OSError | TFTPError) -> int:
    return error.code if isinstance(error, TFTPError) else Refused.because(error).code


# --- Reading -----------------------------------------------------------------------------------


def test_octets_are_served_under_their_name() -> None:
    storage = Memory({"boot.cfg": b"boot", "/dir/file": b"x" * 2000})
    assert fetch(storage, b"boot.cfg") == b"boot"
    assert fetch(storage, b"dir/file") == b"x" * 2000
    assert storage.open_read(reading(b"boot.cfg")).size == 4


@pytest.mark.parametrize("name", [b"boot.cfg", b"/boot.cfg", b"//boot.cfg"])
def test_leading_slashes_mean_nothing(name: bytes) -> None:
    assert fetch(Memory({b"/boot.cfg": b"boot"}), name) == b"boot"


@pytest.mark.parametrize("name", [b"BOOT.CFG", b"./boot.cfg", b"missing", b"boot.cfg/"])
def test_a_name_that_is_not_there_is_error_1(name: bytes) -> None:
    with pytest.raises(FileNotFoundError) as caught:
        fetch(Memory({"boot.cfg": b"boot"}), name)
    assert code_of(caught.value) == ErrorCode.FILE_NOT_FOUND


@pytest.mark.parametrize("name", [b"", b"/", b"///"])
def test_an_empty_name_is_error_1(name: bytes) -> None:
    storage = Memory({"": b"nothing has this name"}, writable=True)
    for call in (lambda: fetch(storage, name), lambda: store(storage, name, b"")):
        with pytest.raises(Refused, match="empty") as caught:
            call()
        assert caught.value.code == ErrorCode.FILE_NOT_FOUND


def test_names_are_octets_and_text_stands_for_its_utf8_form() -> None:
    files: dict[bytes | str, Content] = {"Größe": b"text", b"\xff\xfe": b"octets"}
    storage = Memory(files)
    assert fetch(storage, "Größe".encode()) == b"text"
    assert fetch(storage, b"\xff\xfe") == b"octets"
    assert storage.files["Größe".encode()] == storage.files["/Größe"] == b"text"
    assert set(storage.files) == {"Größe".encode(), b"\xff\xfe"}
    assert "Größe" in storage.files
    assert len(storage.files) == 2


def test_a_transfer_keeps_what_it_opened() -> None:
    storage = Memory({"file": b"old"})
    source = storage.open_read(reading(b"file"))
    storage.files["file"] = b"new"
    assert read(source) == b"old"
    assert fetch(storage, b"file") == b"new"
    del storage.files[b"file"]
    with pytest.raises(FileNotFoundError):
        fetch(storage, b"file")


# --- Functions ---------------------------------------------------------------------------------


def test_a_function_makes_a_file_for_the_client_that_asks() -> None:
    def config(request: Request) -> bytes:
        host: str = request.peer[0]
        return b"address " + host.encode()

    assert fetch(Memory({"pxelinux.cfg/default": config}), b"/pxelinux.cfg/default") == (
        b"address 192.0.2.7"
    )


@pytest.mark.parametrize("kind", [bytes, bytearray, memoryview])
def test_a_function_may_give_octets_of_any_kind(kind: type) -> None:
    assert fetch(Memory({"file": lambda _: kind(b"made")}), b"file") == b"made"


def test_a_function_may_give_a_file_object_which_is_closed_at_the_end() -> None:
    given: list[BinaryIO] = []

    def stream(request: Request) -> BinaryIO:
        file: BinaryIO
        if request.filename == b"seekable":
            file = io.BytesIO(b"from a file")
        else:
            reader, writer = os.pipe()
            with os.fdopen(writer, "wb") as end:
                end.write(b"from a pipe")
            file = os.fdopen(reader, "rb")
        given.append(file)
        return file

    storage = Memory({"seekable": stream, "pipe": stream})
    assert storage.open_read(reading(b"seekable")).size == 11
    assert fetch(storage, b"seekable") == b"from a file"
    source = storage.open_read(reading(b"pipe"))
    assert isinstance(source, Sequential)
    assert read(source) == b"from a pipe"
    assert [file.closed for file in given] == [False, True, True]


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (FileNotFoundError("no such host"), ErrorCode.FILE_NOT_FOUND),
        (FileNotFoundError(errno.ENOENT, "No such file", "/srv/hosts"), ErrorCode.FILE_NOT_FOUND),
        (FileNotFoundError(), ErrorCode.FILE_NOT_FOUND),
        (NotADirectoryError("x"), ErrorCode.FILE_NOT_FOUND),
        (PermissionError("not you"), ErrorCode.ACCESS_VIOLATION),
        (IsADirectoryError("x"), ErrorCode.ACCESS_VIOLATION),
        (OSError(errno.ENOSPC, "full"), ErrorCode.DISK_FULL),
        (OSError(errno.ENOSPC), ErrorCode.DISK_FULL),
        (OSError("something else"), ErrorCode.UNDEFINED),
        (TimeoutError("the data base is away"), ErrorCode.UNDEFINED),
        (Refused("come back later", ErrorCode.NO_SUCH_USER), ErrorCode.NO_SUCH_USER),
    ],
)
def test_what_a_function_raises_is_answered_with_its_code(
    error: OSError | TFTPError, code: int
) -> None:
    def fail(request: Request) -> bytes:
        raise error

    with pytest.raises((OSError, TFTPError)) as caught:
        fetch(Memory({"file": fail}), b"file")
    assert isinstance(caught.value, OSError | TFTPError)
    assert code_of(caught.value) == code


# --- Uploads -----------------------------------------------------------------------------------


def test_an_upload_lands_among_the_files_when_it_is_committed() -> None:
    storage = Memory(writable=True)
    sink = storage.open_write(writing(b"/dir/file"))
    data = bytearray(b"first")
    sink.write([memoryview(data), memoryview(b", ")])
    data[:] = b"XXXXX"  # The buffer is the caller's again.
    assert list(storage.files) == []
    sink.write([memoryview(b"second")])
    sink.commit()
    assert storage.files["dir/file"] == storage.files[b"dir/file"] == b"first, second"
    assert fetch(storage, b"dir/file") == b"first, second"


def test_a_discarded_upload_leaves_nothing_and_keeps_the_old_file() -> None:
    storage = Memory({"old": b"old"}, writable=True, overwrite=True)
    for name in (b"old", b"new"):
        sink = storage.open_write(writing(name))
        sink.write([memoryview(b"half")])
        sink.discard()
        sink.discard()
        for call in (sink.commit, lambda sink=sink: sink.write([memoryview(b"more")])):
            with pytest.raises(ValueError, match="ended"):
                call()
    assert dict(storage.files) == {b"old": b"old"}


def test_a_read_only_storage_says_so() -> None:
    with pytest.raises(Refused, match="read-only") as caught:
        store(Memory({"file": b""}), b"new", b"")
    assert caught.value.code == ErrorCode.ACCESS_VIOLATION


def test_a_file_that_exists_is_kept_unless_overwriting_is_allowed() -> None:
    storage = Memory({"file": b"old"}, writable=True)
    with pytest.raises(Refused, match="overwriting is not allowed") as caught:
        storage.open_write(writing(b"/file"))
    assert caught.value.code == ErrorCode.FILE_EXISTS
    storage = Memory({"file": b"old"}, writable=True, overwrite=True)
    store(storage, b"file", b"new")
    assert storage.files["file"] == b"new"


def test_an_upload_never_replaces_a_function() -> None:
    storage = Memory({"made": lambda _: b"made"}, writable=True, overwrite=True)
    with pytest.raises(Refused) as caught:
        storage.open_write(writing(b"made"))
    assert caught.value.code == ErrorCode.ACCESS_VIOLATION
    assert fetch(storage, b"made") == b"made"


@pytest.mark.parametrize("overwrite", [False, True])
def test_uploads_of_one_name_from_many_threads_never_mix(overwrite: bool) -> None:
    storage = Memory(writable=True, overwrite=overwrite)
    together = threading.Barrier(8)
    codes: list[int] = []

    def upload(number: int) -> None:
        sink = storage.open_write(writing(b"file"))
        sink.write([memoryview(bytes([number]) * 500)] * 10)
        together.wait()
        try:
            sink.commit()
        except Refused as error:
            codes.append(error.code)

    threads = [threading.Thread(target=upload, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert codes == ([] if overwrite else [ErrorCode.FILE_EXISTS] * 7)
    content = storage.files["file"]
    assert isinstance(content, bytes)
    assert content == content[:1] * 5000
