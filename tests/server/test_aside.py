"""What takes long beside a reactor's thread: an upload that has to be safe on a slow disk."""

import os
import threading
from pathlib import Path

import pytest

from tests.server.conftest import Serve
from tests.server.storages import Gate, Scripted
from tests.watching import Witness, threads
from tests.wirepeer import WirePeer, error_code
from tftp.errors import ErrorCode
from tftp.events import Outcome
from tftp.packets import Ack, Data
from tftp.storage import Directory

CONTENT = bytes(range(256)) * 40 + b"end"


@pytest.fixture
def root(tmp_path: Path) -> Path:
    folder = tmp_path / "root"
    folder.mkdir()
    (folder / "file").write_bytes(CONTENT)
    return folder


def upload(peer: WirePeer, content: bytes = b"all", mode: str = "octet") -> None:
    """Send a file of one block; its ACK is still to come."""
    peer.wrq("new", mode)
    assert peer.receive() == Ack(0)
    peer.send(Data(1, content))


@pytest.mark.parametrize("mode", ["octet", "netascii"])
def test_a_slow_disk_holds_up_nobody_but_whose_file_it_is(
    serve: Serve,
    witness: Witness,
    root: Path,
    mode: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    disk, sync = Gate(), os.fsync

    def slow_sync(descriptor: int) -> None:
        disk()
        sync(descriptor)

    monkeypatch.setattr(os, "fsync", slow_sync)
    server = serve(Directory(root, writable=True))
    with WirePeer(server.address) as writer, WirePeer(server.address) as reader:
        upload(writer, mode=mode)
        disk.wait()
        for _ in range(3):
            writer.send(Data(1, b"all"))
            assert reader.read("file") == CONTENT
        assert writer.drain() == []
        assert not (root / "new").exists()
        disk.open()
        assert writer.receive() == Ack(1)
        assert (root / "new").read_bytes() == b"all"
    assert [witness.outcome(count) for count in range(1, 5)] == [Outcome.DONE] * 4


def test_a_file_that_can_not_be_made_safe_after_all_is_an_error_to_its_client(
    serve: Serve, witness: Witness
) -> None:
    disk = Gate()

    def full() -> None:
        disk()
        raise OSError(28, "no space left on device")

    server = serve(Scripted(CONTENT, commits_slowly=True, commit=full))
    with WirePeer(server.address) as writer:
        upload(writer)
        disk.wait()
        writer.send(Data(1, b"all"))
        disk.open()
        assert error_code(writer.receive()) == ErrorCode.DISK_FULL
    assert witness.outcome() is Outcome.STORAGE_ERROR


@pytest.mark.parametrize("engine_stops", [False, True])
def test_who_ends_a_transfer_whose_file_is_being_made_safe_waits_for_that(
    serve: Serve, witness: Witness, engine_stops: bool
) -> None:
    disk = Gate()
    storage = Scripted(CONTENT, commits_slowly=True, commit=disk)
    server = serve(storage)
    with WirePeer(server.address) as writer:
        upload(writer)
        disk.wait()
        if engine_stops:
            stopping = threading.Thread(target=server.stop, args=(0.0,))
            stopping.start()
            stopping.join(0.1)
            assert stopping.is_alive()
            disk.open()
            stopping.join()
            assert writer.receive() == Ack(1)
        else:
            writer.rrq("file")  # The client has begun something else.
            disk.open()
            tid = writer.tid
            assert writer.receive() == Ack(1)
            assert writer.tid != tid
            assert writer.collect() == CONTENT
        assert storage.written == {b"new": b"all"}
    assert witness.outcome() is Outcome.DONE


def test_files_of_many_clients_are_made_safe_side_by_side(serve: Serve) -> None:
    together = threading.Barrier(4)
    storage = Scripted(CONTENT, commits_slowly=True, commit=together.wait)
    server = serve(storage)
    writers = [WirePeer(server.address) for _ in range(4)]
    for writer in writers:
        upload(writer)
    for writer in writers:
        assert writer.receive() == Ack(1)
        writer.close()


def test_no_thread_is_there_before_it_is_needed_nor_after_the_server(
    serve: Serve, root: Path
) -> None:
    server = serve(Directory(root, writable=True))
    with WirePeer(server.address) as peer:
        assert peer.read("file") == CONTENT
        before = threads()
        peer.write(b"all", "new")
        assert {name.partition("_")[0] for name in threads() - before} == {"tftp-aside"}
    server.stop()
    assert threads() == set()


def test_what_need_not_be_safe_needs_no_other_thread(serve: Serve, root: Path) -> None:
    server = serve(Directory(root, writable=True, durable=False))
    with WirePeer(server.address) as peer:
        peer.write(b"all", "new")
        assert not [name for name in threads() if "aside" in name]
