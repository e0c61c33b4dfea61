"""The client as its user knows it: against our own server, and against servers played by hand."""

import errno
import functools
import gc
import io
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from random import Random

import pytest

import tftp
from tests.networks import host, two_hosts
from tests.relay import Relay
from tests.scripted import UNHURRIED, Calls, Door, result
from tests.watching import Witness, descriptors, eventually, threads
from tests.wirepeer import PATIENCE, WirePeer
from tftp import errand
from tftp.client import Client
from tftp.errors import (
    Aborted,
    ErrorCode,
    PeerError,
    ProtocolError,
    TFTPError,
    TransferTimeout,
    Unreachable,
)
from tftp.events import (
    Event,
    Operation,
    Outcome,
    Request,
    TransferEnded,
    TransferProgress,
    TransferStarted,
    format_address,
)
from tftp.net.endpoint import open_port
from tftp.options import Terms
from tftp.packets import Ack, Data, Error, OptionAck
from tftp.server import Server, ServerConfig
from tftp.storage import Directory, Memory
from tftp.timers import Patience

FILE = Random(1).randbytes(100_001)

#: Every end of line that there is, and pairs cut by the edge of a block of 512 octets.
TEXT = b"LF\nCR\rCR LF\r\nCR CR LF\r\r\nNUL\0LF CR\n\r" * 60 + b"x" * 511 + b"\n\r"


@pytest.fixture
def store() -> Memory:
    return Memory({"file": FILE, "empty": b"", "text": TEXT}, writable=True, overwrite=True)


@pytest.fixture
def server(store: Memory) -> Iterator[Server]:
    with Server(store) as running:
        yield running


@pytest.fixture
def client(server: Server) -> Iterator[Client]:
    with Client(*server.address) as made:
        yield made


@pytest.fixture
def door() -> Iterator[Door]:
    with Door() as opened:
        yield opened


@pytest.fixture
def calls() -> Iterator[Calls]:
    with Calls() as running:
        yield running


def stored(store: Memory, name: str) -> bytes:
    content = store.files[name]
    assert isinstance(content, bytes)
    return content


# -- files, whole ---------------------------------------------------------------------------------

TERMS = [
    pytest.param(None, id="our own choice"),
    pytest.param(Terms(), id="no options"),
    pytest.param(Terms(blksize=8, windowsize=3), id="blksize 8 windowsize 3"),
    pytest.param(Terms(blksize=1428), id="blksize 1428"),
    pytest.param(Terms(blksize=1428, windowsize=16, tsize=0), id="blksize 1428 windowsize 16"),
    pytest.param(Terms(windowsize=64, rollover=1), id="windowsize 64 rollover 1"),
    pytest.param(Terms(blksize=65464, timeout=2), id="blksize 65464 timeout 2"),
    pytest.param(Terms(timeout=0.5), id="utimeout 500000"),
]


@pytest.mark.parametrize("terms", TERMS)
def test_a_file_of_any_size_goes_and_comes_back_the_same(
    server: Server, store: Memory, terms: Terms | None
) -> None:
    blksize = (terms or Terms()).blksize
    window = blksize * (terms or Terms()).windowsize
    with Client(*server.address, terms=terms) as client:
        for size in {0, 1, blksize - 1, blksize, blksize + 1, window, 3 * window, 3 * window - 1}:
            content = Random(size).randbytes(size)
            put = client.put(content, "up")
            assert stored(store, "up") == content
            into = bytearray()
            got = client.get("up", into)
            assert into == content
            assert put.counters.payload == got.counters.payload == size
            assert put.outcome is got.outcome is Outcome.DONE
            if terms is not None:
                assert (got.terms.blksize, got.terms.windowsize) == (blksize, terms.windowsize)


@pytest.mark.parametrize("extra", [-1, 0, 1])
@pytest.mark.parametrize("rollover", [None, 0, 1])
def test_block_numbers_start_over_and_the_file_goes_on(
    server: Server, store: Memory, rollover: int | None, extra: int
) -> None:
    # Two and a half turns of 65 536 blocks, and an end on either side of the second one's.
    content = Random(2).randbytes(8 * (2 * 65536 + extra))
    terms = Terms(blksize=8, windowsize=64, rollover=rollover)
    with Client(*server.address, terms=terms) as client:
        client.put(content, "long")
        assert stored(store, "long") == content
        into = bytearray()
        client.get("long", into)
        assert into == content


def test_more_than_32_mib_go_in_blocks_of_512(server: Server, store: Memory) -> None:
    content = Random(3).randbytes(1 << 20) * 33 + b"end"
    with Client(*server.address, terms=Terms(windowsize=64)) as client:
        client.put(content, "large")
        assert stored(store, "large") == content
        into = bytearray()
        ended = client.get("large", into)
    assert into == content
    assert ended.terms.blksize == 512
    assert ended.counters.blocks == 65536 + 2048 + 1


@pytest.mark.parametrize("terms", [None, Terms(), Terms(blksize=8, windowsize=5)])
@pytest.mark.parametrize("cut", range(4))
def test_line_ends_survive_netascii_both_ways(
    server: Server, store: Memory, terms: Terms | None, cut: int
) -> None:
    text = b"x" * cut + TEXT
    with Client(*server.address, terms=terms) as client:
        client.put(text, "up", mode="netascii")
        assert stored(store, "up") == text
        into = bytearray()
        client.get("up", into, mode="netascii")
    assert into == text


def test_netascii_is_what_stands_on_the_wire(client: Client, store: Memory) -> None:
    store.files["unix"] = b"one\ntwo\r"
    raw, text = bytearray(), bytearray()
    ended = client.get("unix", text, mode="netascii")
    assert text == b"one\ntwo\r"
    assert ended.counters.payload == len(b"one\r\ntwo\r\0")
    client.get("unix", raw)
    assert raw == text


def test_paths_go_both_ways(client: Client, store: Memory, tmp_path: Path) -> None:
    client.get("file", tmp_path / "local")
    assert (tmp_path / "local").read_bytes() == FILE
    client.get("file", str(tmp_path / "named"))
    assert (tmp_path / "named").read_bytes() == FILE
    client.put(tmp_path / "local", "path")
    client.put(str(tmp_path / "local"), "name")
    assert stored(store, "path") == stored(store, "name") == FILE


def test_file_objects_go_both_ways_from_where_they_stand(
    client: Client, store: Memory, tmp_path: Path
) -> None:
    path = tmp_path / "file"
    for opened in (io.BytesIO(), path.open("w+b"), path.open("w+b", buffering=0)):
        with opened as file:
            file.write(b"before")
            client.get("file", file)
            file.seek(6)
            assert file.read() == FILE
            file.seek(6)
            client.put(file, "up")
            assert stored(store, "up") == FILE
            assert not file.closed


def test_octets_go_both_ways_and_stay_their_owner_s(client: Client, store: Memory) -> None:
    into = bytearray(b"before")
    client.get("file", into)
    assert into == b"before" + FILE
    for octets in (FILE, bytearray(FILE), memoryview(bytearray(FILE))):
        client.put(octets, "up")
        assert stored(store, "up") == FILE
    grows = bytearray(b"x")
    client.put(grows, "up")
    grows += b"y"  # Nobody has a hand on it any more.


def test_streams_that_cannot_seek_go_both_ways(client: Client, store: Memory, calls: Calls) -> None:
    reader, writer = os.pipe()
    with os.fdopen(reader, "rb") as source, os.fdopen(writer, "wb") as sink:
        written = calls.start(functools.partial(client.get, "file"), sink)
        assert source.read(len(FILE)) == FILE
        assert result(written).counters.payload == len(FILE)

        def feed() -> None:
            with sink:
                sink.write(FILE)

        fed = calls.start(feed)
        client.put(source, "up")
        result(fed)
    assert stored(store, "up") == FILE


# -- what the user is told ------------------------------------------------------------------------


def test_the_end_says_all_that_there_is_to_know(server: Server) -> None:
    terms = Terms(blksize=1024, windowsize=4, tsize=0)
    with Client(*server.address, terms=terms) as client:
        ended = client.get(b"file", bytearray())
    assert ended.outcome is Outcome.DONE
    assert ended.error is None
    assert ended.terms == Terms(blksize=1024, windowsize=4, tsize=len(FILE))
    assert ended.granted == {"tsize": str(len(FILE)), "blksize": "1024", "windowsize": "4"}
    assert ended.size == ended.counters.payload == len(FILE)
    assert ended.counters.blocks == len(FILE) // 1024 + 1
    assert ended.round_trip is not None
    assert 0 < ended.round_trip < ended.duration
    request = ended.request
    assert (request.operation, request.filename, request.mode) == (Operation.READ, b"file", "octet")
    assert request.options == {"tsize": "0", "blksize": "1024", "windowsize": "4"}
    assert request.peer == server.address


def test_transfers_are_numbered_and_observed(server: Server) -> None:
    witness = Witness()
    with Client(*server.address, observer=witness) as client:
        client.get("file", bytearray())
        client.put(b"", "up")
        with pytest.raises(PeerError):
            client.get("nowhere", bytearray())
    assert [event.transfer for event in witness.all(TransferStarted)] == [1, 2]
    ends = witness.all(TransferEnded)
    assert [end.transfer for end in ends] == [1, 2, 3]
    assert [end.outcome for end in ends] == [Outcome.DONE, Outcome.DONE, Outcome.PEER_ERROR]


@pytest.mark.parametrize("size", [0, 1, len(FILE)])
def test_progress_begins_with_nothing_and_ends_with_all(
    client: Client, store: Memory, size: int
) -> None:
    seen: list[tuple[int, int | None]] = []

    def progress(done: int, total: int | None) -> None:
        seen.append((done, total))

    store.files["some"] = FILE[:size]
    client.get("some", bytearray(), progress=progress)
    assert (seen[0], seen[-1]) == ((0, size), (size, size))
    assert seen == sorted(seen)
    seen.clear()
    client.put(FILE[:size], "up", progress=progress)
    assert (seen[0], seen[-1]) == ((0, size), (size, size))


def test_progress_knows_no_total_that_nobody_told(server: Server) -> None:
    seen: list[tuple[int, int | None]] = []
    with Client(*server.address, terms=Terms(blksize=1024)) as client:
        client.get("file", bytearray(), progress=lambda *numbers: seen.append(numbers))
    assert seen[0] == (0, None)
    assert seen[-1] == (len(FILE), len(FILE))


def test_progress_is_told_of_while_a_slow_transfer_runs(door: Door, calls: Calls) -> None:
    seen: list[tuple[int, int | None]] = []
    client = calls.client(door, terms=Terms(tsize=0))
    call = functools.partial(client.get, progress=lambda *numbers: seen.append(numbers))
    future = calls.start(call, "file", bytearray())
    peer = door.asked_by()
    peer.send(OptionAck({"tsize": "1200"}))
    assert peer.receive() == Ack(0)
    peer.send(Data(1, bytes(512)))
    assert peer.receive() == Ack(1)
    assert peer.silent(0.3)  # Four times a second is the most.
    peer.send(Data(2, bytes(512)))
    assert peer.receive() == Ack(2)
    peer.send(Data(3, bytes(176)))
    result(future)
    assert seen == [(0, 1200), (1024, 1200), (1200, 1200)]


def test_there_is_no_progress_before_the_server_has_answered(door: Door, calls: Calls) -> None:
    seen: list[tuple[int, int | None]] = []
    client = calls.client(door, patience=Patience(initial=0.3, ceiling=0.3, total=1.4))
    call = functools.partial(client.get, progress=lambda *numbers: seen.append(numbers))
    with pytest.raises(TransferTimeout):
        result(calls.start(call, "file", bytearray()))
    assert seen == []


# -- what goes wrong, and how it is told ----------------------------------------------------------


def test_what_the_server_refuses_is_an_error_of_the_peer_with_its_own_words(
    tmp_path: Path, store: Memory
) -> None:
    (tmp_path / "present").touch()
    with Server(tmp_path) as read_only, Client(*read_only.address) as client:
        with pytest.raises(PeerError) as missing:
            client.get("nowhere", bytearray())
        with pytest.raises(PeerError) as forbidden:
            client.put(b"", "up")
        with pytest.raises(PeerError, match="leaves"):
            client.get("../etc/passwd", bytearray())
    with (
        Server(Directory(tmp_path, writable=True, max_size=9)) as small,
        Client(*small.address) as client,
    ):
        with pytest.raises(PeerError) as exists:
            client.put(b"", "present")
        with pytest.raises(PeerError) as full:
            client.put(bytes(10), "up")
    codes = [caught.value.code for caught in (missing, forbidden, full, exists)]
    assert codes == [
        ErrorCode.FILE_NOT_FOUND,
        ErrorCode.ACCESS_VIOLATION,
        ErrorCode.DISK_FULL,
        ErrorCode.FILE_EXISTS,
    ]
    assert missing.value.message == "file not found"


@pytest.mark.parametrize("family", ["127.0.0.1", "::1"])
def test_a_dead_port_is_told_at_once_with_host_and_port(family: str) -> None:
    with Door(family) as door:
        address = door.address
    start = time.monotonic()
    with pytest.raises(Unreachable, match=r"refused") as caught:
        Client(*address[:2], patience=UNHURRIED).get("file", bytearray())
    assert time.monotonic() - start < PATIENCE / 2
    assert format_address(address) in str(caught.value)
    assert isinstance(caught.value.__cause__, ConnectionRefusedError)


def test_a_name_is_told_beside_the_address_that_it_stands_for() -> None:
    with Door() as door:
        port = door.address[1]
    with pytest.raises(Unreachable) as caught:
        Client("localhost", port, family=socket.AF_INET).get("file", bytearray())
    assert f"localhost (127.0.0.1:{port})" in str(caught.value)


def test_where_there_is_no_route_nobody_waits() -> None:
    with host() as alone, pytest.raises(Unreachable, match=r"192\.0\.2\.1:69") as caught:
        alone.call(Client("192.0.2.1", patience=UNHURRIED).get, "file", bytearray())
    assert isinstance(caught.value.__cause__, OSError)


def test_a_broadcast_address_is_no_server() -> None:
    with pytest.raises(Unreachable, match=r"127\.255\.255\.255:69"):
        Client("127.255.255.255", patience=UNHURRIED).get("file", bytearray())


@pytest.mark.parametrize("name", ["nosuch.invalid", "a..b", "x" * 70])
def test_a_name_that_is_no_host_s_is_the_resolver_s_error(name: str, tmp_path: Path) -> None:
    with pytest.raises(socket.gaierror):
        Client(name).get("file", tmp_path / "file")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("port", [-1, 0, 65536])
def test_a_port_that_does_not_exist_is_refused_when_the_client_is_made(port: int) -> None:
    with pytest.raises(ValueError, match="port"):
        Client("127.0.0.1", port)


@pytest.mark.parametrize(
    "packet", [Ack(0), Data(1, bytes(513)), b"\0\1file\0octet\0"], ids=["ACK", "long DATA", "RRQ"]
)
def test_a_packet_that_is_no_answer_is_a_protocol_error_and_told_to_the_server(
    door: Door, calls: Calls, packet: Ack | Data | bytes
) -> None:
    future = calls.start(calls.client(door, terms=Terms()).get, "file", bytearray())
    peer = door.asked_by()
    peer.send(packet)
    answer = peer.receive()
    assert isinstance(answer, Error)
    assert answer.code == ErrorCode.ILLEGAL_OPERATION
    with pytest.raises(ProtocolError):
        result(future)


@pytest.mark.parametrize("announced", [99, 101])
def test_another_size_than_was_announced_is_an_error_and_leaves_nothing(
    door: Door, calls: Calls, tmp_path: Path, announced: int
) -> None:
    future = calls.start(calls.client(door).get, "file", tmp_path / "file")
    peer = door.asked_by()
    peer.send(OptionAck({"tsize": str(announced)}))
    assert peer.receive() == Ack(0)
    peer.send(Data(1, bytes(100)))
    assert isinstance(peer.receive(), Error)
    with pytest.raises(ProtocolError, match=f"{announced}.*100"):
        result(future)
    assert list(tmp_path.iterdir()) == []


def test_a_server_that_falls_silent_in_the_midst_is_a_timeout_that_says_for_how_long(
    door: Door, calls: Calls, tmp_path: Path
) -> None:
    patience = Patience(initial=0.05, total=0.4)
    future = calls.start(calls.client(door, patience=patience).get, "file", tmp_path / "file")
    peer = door.asked_by()
    peer.send(Data(1, bytes(512)))
    assert peer.receive() == Ack(1)
    with pytest.raises(TransferTimeout, match=r"for \d\.\d+ s") as caught:
        result(future)
    assert format_address(door.address) in str(caught.value)
    assert isinstance(caught.value, TimeoutError)
    assert list(tmp_path.iterdir()) == []
    heard = peer.drain()
    assert set(map(repr, heard[:-1])) == {repr(Ack(1))}  # The ACK repeated,
    assert isinstance(heard[-1], Error)  # and a last word.


@pytest.mark.parametrize("retries", [0, 1, 3])
def test_so_many_repeats_are_sent_and_no_more(door: Door, calls: Calls, retries: int) -> None:
    patience = Patience(initial=0.05, ceiling=0.05, retries=retries)
    client = calls.client(door, terms=Terms(), patience=patience)
    future = calls.start(client.get, "file", bytearray())
    with pytest.raises(TransferTimeout):
        result(future)
    assert len(door.unheard()) == retries + 1


def test_a_local_file_that_cannot_be_written_is_the_system_s_own_error(
    client: Client, server: Server, tmp_path: Path
) -> None:
    with pytest.raises(IsADirectoryError) as directory:
        client.get("file", tmp_path)
    assert directory.value.filename == str(tmp_path)
    with pytest.raises(FileNotFoundError) as missing:
        client.get("file", tmp_path / "nowhere" / "file")
    assert missing.value.filename == str(tmp_path / "nowhere" / "file")
    with pytest.raises(FileNotFoundError):
        client.put(tmp_path / "nowhere", "up")
    with pytest.raises(IsADirectoryError):
        client.put(tmp_path, "up")
    assert server.running == 0
    assert list(tmp_path.iterdir()) == []


def test_a_full_disk_ends_the_transfer_and_the_server_is_told(door: Door, calls: Calls) -> None:
    future = calls.start(calls.client(door).get, "file", "/dev/full")
    peer = door.asked_by()
    peer.send(Data(1, bytes(512)))
    answer = peer.receive()
    assert isinstance(answer, Error)
    assert answer.code == ErrorCode.DISK_FULL
    with pytest.raises(OSError, match="No space left"):
        result(future)


def test_a_fault_of_the_caller_s_file_object_comes_out_of_the_call(
    client: Client, server: Server, tmp_path: Path
) -> None:
    with pytest.raises(TypeError), (tmp_path / "text").open("w") as text:
        client.get("file", text)  # type: ignore[arg-type]  # the fault
    closed = io.BytesIO()
    closed.close()
    with pytest.raises(ValueError, match="closed"):
        client.get("file", closed)
    with pytest.raises(ValueError, match="closed"):
        client.put(closed, "up")
    full = bytearray()
    with pytest.raises(BufferError), memoryview(full):
        client.get("file", full)
    assert eventually(lambda: server.running == 0)


class Doubt(Exception):
    """What a caller's own function raises."""


@pytest.mark.parametrize("when", ["start", "midst", "end"])
def test_what_a_progress_function_raises_comes_out_of_the_call(
    door: Door, calls: Calls, tmp_path: Path, when: str
) -> None:
    (tmp_path / "file").write_bytes(b"old")

    def progress(done: int, total: int | None) -> None:
        if done == {"start": 0, "midst": 512, "end": 612}[when]:
            raise Doubt

    client = calls.client(door, terms=Terms())
    future = calls.start(
        functools.partial(client.get, progress=progress), "file", tmp_path / "file"
    )
    peer = door.asked_by()
    if when == "midst":
        assert door.silent(0.3)  # The next packet will be told of.
    peer.send(Data(1, bytes(512)))
    answer = peer.receive()
    if when == "end":
        assert answer == Ack(1)
        peer.send(Data(2, bytes(100)))
        assert peer.receive() == Ack(2)
    else:
        while isinstance(answer, Ack):
            answer = peer.receive()
        assert isinstance(answer, Error)
    with pytest.raises(Doubt):
        result(future)
    assert len(list(tmp_path.iterdir())) == 1
    # At the end the file is whole, and so it stays.
    assert len((tmp_path / "file").read_bytes()) == (612 if when == "end" else 3)


def test_what_an_observer_raises_comes_out_of_the_call(server: Server) -> None:
    def doubt(event: Event) -> None:
        raise Doubt

    with Client(*server.address, observer=doubt) as client, pytest.raises(Doubt):
        client.get("file", bytearray())
    assert eventually(lambda: server.running == 0)


# -- a download is whole or not there -------------------------------------------------------------


def test_a_download_replaces_the_old_file_in_one_step(
    door: Door, calls: Calls, tmp_path: Path
) -> None:
    target = tmp_path / "file"
    target.write_bytes(b"old")
    target.chmod(0o640)
    future = calls.start(calls.client(door).get, "file", target)
    peer = door.asked_by()
    peer.send(Data(1, bytes(512)))
    assert peer.receive() == Ack(1)
    assert target.read_bytes() == b"old"
    peer.send(Data(2, b"end"))
    result(future)
    assert target.read_bytes() == bytes(512) + b"end"
    assert target.stat().st_mode & 0o777 == 0o640
    assert list(tmp_path.iterdir()) == [target]


def test_a_failed_download_keeps_the_old_file(door: Door, calls: Calls, tmp_path: Path) -> None:
    target = tmp_path / "file"
    target.write_bytes(b"old")
    future = calls.start(calls.client(door).get, "file", target)
    peer = door.asked_by()
    peer.send(Data(1, bytes(512)))
    assert peer.receive() == Ack(1)
    peer.send(Error(0, "broken"))
    with pytest.raises(PeerError, match="broken"):
        result(future)
    assert target.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [target]


@pytest.mark.parametrize("kind", ["signal", "progress"])
def test_an_interrupted_download_leaves_nothing_and_tells_the_server(
    door: Door, tmp_path: Path, kind: str
) -> None:
    (tmp_path / "file").write_bytes(b"old")
    script = (
        "import sys, tftp\n"
        "def progress(done, total):\n"
        "    if sys.argv[3] == 'progress':\n"
        "        raise KeyboardInterrupt\n"
        "client = tftp.Client('127.0.0.1', int(sys.argv[1]), patience=tftp.Patience(initial=8.0))\n"
        "try:\n"
        "    client.get('file', sys.argv[2], progress=progress)\n"
        "except KeyboardInterrupt:\n"
        "    print('interrupted')\n"
    )
    arguments = [str(door.address[1]), str(tmp_path / "file"), kind]
    process = subprocess.Popen(
        [sys.executable, "-W", "error", "-c", script, *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        peer = door.asked_by()
        peer.send(Data(1, bytes(512)))
        answer = peer.receive()
        if kind == "signal":
            assert answer == Ack(1)
            process.send_signal(signal.SIGINT)
        while isinstance(answer, Ack):
            answer = peer.receive()
        assert isinstance(answer, Error)
        out, problems = process.communicate(timeout=PATIENCE)
    finally:
        process.kill()
    assert (out, problems) == ("interrupted\n", "")
    assert [path.read_bytes() for path in tmp_path.iterdir()] == [b"old"]


# -- cancelling -----------------------------------------------------------------------------------


def test_a_cancel_ends_the_transfer_at_once_and_tells_the_server(
    door: Door, calls: Calls, tmp_path: Path
) -> None:
    (tmp_path / "file").write_bytes(b"old")
    client = calls.client(door)
    future = calls.start(client.get, "file", tmp_path / "file")
    peer = door.asked_by()
    peer.send(Data(1, bytes(512)))
    assert peer.receive() == Ack(1)
    start = time.monotonic()
    client.cancel()
    with pytest.raises(Aborted):
        result(future)
    # A busy machine may be late; but the first timer would fire after eight seconds.
    assert time.monotonic() - start < 7.0
    assert isinstance(peer.receive(), Error)
    assert [path.read_bytes() for path in tmp_path.iterdir()] == [b"old"]


def test_a_cancel_ends_an_upload_too(door: Door, calls: Calls) -> None:
    client = calls.client(door)
    future = calls.start(client.put, FILE, "file")
    peer = door.asked_by()
    peer.send(Ack(0))
    assert isinstance(peer.receive(), Data)
    client.cancel()
    with pytest.raises(Aborted):
        result(future)
    assert isinstance(peer.receive(), Error)


def test_a_cancel_ends_a_request_that_nobody_answers(door: Door, calls: Calls) -> None:
    client = calls.client(door)
    future = calls.start(client.get, "file", bytearray())
    door.asked()
    client.cancel()
    with pytest.raises(Aborted):
        result(future)


def test_a_cancel_is_not_lost_while_a_name_is_looked_up(
    door: Door, calls: Calls, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked, go_on = threading.Event(), threading.Event()
    resolve = socket.getaddrinfo

    def slow(*arguments: object, **options: object) -> object:
        asked.set()
        assert go_on.wait(PATIENCE)
        return resolve(*arguments, **options)  # type: ignore[arg-type]  # passed on as they are

    monkeypatch.setattr(socket, "getaddrinfo", slow)
    client = calls.client(door)
    future = calls.start(client.get, "file", bytearray())
    assert asked.wait(PATIENCE)
    client.cancel()
    go_on.set()
    with pytest.raises(Aborted):
        result(future)
    assert door.unheard() == []


def test_a_cancel_ends_all_running_transfers_and_none_that_comes_later(
    door: Door, calls: Calls
) -> None:
    client = calls.client(door)
    futures = [calls.start(client.get, "file", bytearray()) for _ in range(3)]
    for _ in futures:
        door.asked()
    client.cancel()
    for future in futures:
        with pytest.raises(Aborted):
            result(future)
    door.drain()
    into = bytearray()
    later = calls.start(client.get, "file", into)
    peer = door.asked_by()
    peer.send(Data(1, b"later"))
    result(later)
    assert into == b"later"


# -- addresses and ports --------------------------------------------------------------------------


def test_the_first_answer_settles_the_port_and_another_gets_error_5(
    door: Door, calls: Calls
) -> None:
    into = bytearray()
    future = calls.start(calls.client(door).get, "file", into)
    peer = door.asked_by()
    second = door.port()
    peer.send(Data(1, bytes(512)))
    assert peer.receive() == Ack(1)
    second.send(Data(2, b"from the wrong port"))
    refusal = second.receive()
    assert isinstance(refusal, Error)
    assert refusal.code == ErrorCode.UNKNOWN_TID
    second.send(Error(0, "not yours"))  # RFC 1350: no ERROR is answered with an ERROR,
    peer.send(Data(2, b"end"))  # and this one is nobody's.
    assert peer.receive() == Ack(2)
    result(future)
    assert into == bytes(512) + b"end"
    assert second.drain() == []


def test_an_answer_from_the_door_itself_will_do(door: Door, calls: Calls) -> None:
    into = bytearray()
    future = calls.start(calls.client(door).get, "file", into)
    door.asked()
    door.send(Data(1, b"one port for everything"))
    assert door.receive() == Ack(1)
    result(future)
    assert into == b"one port for everything"


def test_an_answer_from_another_address_is_not_the_server_s(door: Door, calls: Calls) -> None:
    into = bytearray()
    future = calls.start(calls.client(door).get, "file", into)
    peer = door.asked_by()
    stranger = door.port("127.0.0.2")
    stranger.send(Data(1, b"forged"))
    refusal = stranger.receive()
    assert isinstance(refusal, Error)
    assert refusal.code == ErrorCode.UNKNOWN_TID
    peer.send(Data(1, b"true"))
    assert peer.receive() == Ack(1)
    result(future)
    assert into == b"true"


def test_a_stranger_that_is_gone_again_does_not_end_the_transfer(door: Door, calls: Calls) -> None:
    into = bytearray()
    future = calls.start(calls.client(door).get, "file", into)
    peer = door.asked_by()
    with WirePeer(door.tid, host="127.0.0.2") as stranger:
        stranger.send(Data(1, b"forged"))
    # The answer to that finds nobody, and the network says so.
    assert not eventually(future.done, 0.2)
    peer.send(Data(1, b"true"))
    assert peer.receive() == Ack(1)
    result(future)
    assert into == b"true"


def test_a_timeout_tells_of_answers_from_elsewhere(door: Door, calls: Calls) -> None:
    patience = Patience(initial=8.0, total=0.4)
    future = calls.start(calls.client(door, patience=patience).get, "file", bytearray())
    door.asked()
    stranger = door.port("127.0.0.2")
    stranger.send(Data(1, b"from the wrong address"))
    with pytest.raises(TransferTimeout) as caught:
        result(future)
    assert format_address(stranger.address) in str(caught.value)


def test_an_ipv6_server_is_reached_by_its_address(store: Memory) -> None:
    with Server(store, config=ServerConfig(hosts=("::1",))) as server:
        host_name, port, *_ = server.address
        into = bytearray()
        with Client(host_name, port) as client:
            ended = client.get("file", into)
    assert into == FILE
    assert ended.request.peer[0] == "::1"


def test_a_link_local_address_is_reached_through_the_interface_that_it_names() -> None:
    with two_hosts() as (near, far):
        local = far.call(_link_local, "wire")
        scope = far.scope("wire")
        door = WirePeer(("::1", 0), sock=far.socket((local, 0, 0, scope)))
        with door, Calls() as calls:
            client = calls.client(door)
            client = Client(f"{local}%wire", door.address[1], patience=UNHURRIED)
            into = bytearray()
            future = calls.start(near.call, client.get, "file", into)
            door.receive()
            door.send(Data(1, b"over the wire"))
            assert door.receive() == Ack(1)
            result(future)
            client.close()
    assert into == b"over the wire"


def _link_local(interface: str) -> str:
    for line in Path("/proc/thread-self/net/if_inet6").read_text().splitlines():
        octets, *_, name = line.split()
        if name == interface and octets.startswith("fe80"):
            return socket.inet_ntop(socket.AF_INET6, bytes.fromhex(octets))
    raise AssertionError(f"{interface} has no link-local address")


@pytest.mark.parametrize(
    ("address", "family"), [("127.0.0.1", socket.AF_INET6), ("::1", socket.AF_INET)]
)
def test_a_family_that_an_address_is_not_of_is_the_resolver_s_error(
    address: str, family: int
) -> None:
    with pytest.raises(socket.gaierror):
        Client(address, family=family).get("file", bytearray())


@pytest.fixture
def two_addresses(monkeypatch: pytest.MonkeyPatch) -> None:
    """A resolver that knows "both": ::1 first, 127.0.0.1 behind it."""
    resolve = socket.getaddrinfo

    def with_both(name: bytes, port: int, family: int, kind: int) -> list[object]:
        names: dict[int, list[bytes]] = {socket.AF_INET6: [b"::1"], socket.AF_INET: [b"127.0.0.1"]}
        wanted = names.get(family, [b"::1", b"127.0.0.1"]) if name == b"both" else [name]
        return [answer for one in wanted for answer in resolve(one, port, 0, kind)]

    monkeypatch.setattr(socket, "getaddrinfo", with_both)


@pytest.mark.usefixtures("two_addresses")
@pytest.mark.parametrize("served", ["::1", "127.0.0.1"])
def test_of_two_addresses_the_one_that_is_served_is_found(store: Memory, served: str) -> None:
    config = ServerConfig(hosts=(served,))
    into = bytearray()
    with Server(store, config=config) as server, Client("both", server.address[1]) as client:
        assert client.get("file", into).request.peer[0] == served
        assert client.put(FILE, "up").request.peer[0] == served
    assert into == stored(store, "up") == FILE


@pytest.mark.usefixtures("two_addresses")
def test_a_host_without_ipv6_takes_the_other_address(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    def without_ipv6(family: int) -> socket.socket:
        if family == socket.AF_INET6:
            raise OSError(errno.EAFNOSUPPORT, os.strerror(errno.EAFNOSUPPORT))
        return open_port(family)

    # Such a host cannot be made for a test: its kernel has to be without IPv6 from the start.
    monkeypatch.setattr(errand, "open_port", without_ipv6)
    port = server.address[1]
    into = bytearray()
    with Client("both", port) as client:
        client.get("file", into)
    assert into == FILE
    with pytest.raises(Unreachable, match="::1"):
        Client("::1", port).get("file", into)


@pytest.mark.usefixtures("two_addresses")
def test_a_family_is_the_only_one_that_is_tried(store: Memory) -> None:
    with Server(store, config=ServerConfig(hosts=("127.0.0.1",))) as server:
        with pytest.raises(Unreachable, match="::1"):
            Client("both", server.address[1], family=socket.AF_INET6).get("file", bytearray())
        with Client("both", server.address[1], family=socket.AF_INET) as client:
            client.get("file", bytearray())


@pytest.mark.usefixtures("two_addresses")
def test_a_server_that_answers_no_is_not_passed_over_for_another(tmp_path: Path) -> None:
    with Server(tmp_path, config=ServerConfig(hosts=("::1",))) as six:
        port = six.address[1]
        four = ServerConfig(hosts=("127.0.0.1",), port=port)
        with Server(Memory({"file": FILE}), config=four), pytest.raises(PeerError):
            Client("both", port).get("file", bytearray())


# -- servers as they are --------------------------------------------------------------------------


def test_a_server_that_ignores_options_is_followed(door: Door, calls: Calls) -> None:
    into = bytearray()
    future = calls.start(calls.client(door).get, "file", into)
    peer = door.asked_by()
    for block, payload in enumerate([bytes(512), bytes(512), b""], 1):
        peer.send(Data(block, payload))
        assert peer.receive() == Ack(block)
    ended = result(future)
    assert (len(into), ended.terms, ended.granted) == (1024, Terms(), {})


def test_a_server_that_answers_a_wrq_with_ack_0_is_sent_blocks_of_512(
    door: Door, calls: Calls
) -> None:
    future = calls.start(calls.client(door).put, FILE[:1000], "file")
    peer = door.asked_by()
    peer.send(Ack(0))
    assert peer.receive() == Data(1, FILE[:512])
    peer.send(Ack(1))
    assert peer.receive() == Data(2, FILE[512:1000])
    peer.send(Ack(2))
    assert result(future).terms == Terms()


def test_an_oack_that_comes_again_is_acknowledged_again_and_nothing_more(
    door: Door, calls: Calls
) -> None:
    into = bytearray()
    future = calls.start(calls.client(door, terms=Terms(blksize=1024)).get, "file", into)
    peer = door.asked_by()
    for _ in range(2):
        peer.send(OptionAck({"blksize": "1024"}))
        assert peer.receive() == Ack(0)
    peer.send(Data(1, bytes(1024)))
    assert peer.receive() == Ack(1)
    peer.send(OptionAck({"blksize": "1024"}))  # Very late.
    peer.send(Data(2, b"end"))
    assert peer.receive() == Ack(2)
    result(future)
    assert into == bytes(1024) + b"end"


def test_fewer_options_than_asked_and_smaller_ones_are_taken(door: Door, calls: Calls) -> None:
    into = bytearray()
    terms = Terms(blksize=1428, windowsize=8, tsize=0)
    future = calls.start(calls.client(door, terms=terms).get, "file", into)
    peer = door.asked_by()
    peer.send(OptionAck({"blksize": "1024"}))
    assert peer.receive() == Ack(0)
    peer.send(Data(1, bytes(1024)))
    assert peer.receive() == Ack(1)
    peer.send(Data(2, b"end"))
    ended = result(future)
    assert ended.terms == Terms(blksize=1024)
    assert into == bytes(1024) + b"end"


@pytest.mark.parametrize("payload", [b"", b"x", bytes(512)], ids=["empty", "short", "full"])
def test_a_server_may_take_its_time_to_confirm_the_last_block(
    door: Door, calls: Calls, payload: bytes
) -> None:
    patience = Patience(initial=0.05, floor=0.05, ceiling=0.1, total=20.0)
    client = calls.client(door, terms=Terms(), patience=patience)
    future = calls.start(client.put, payload, "file")
    peer = door.asked_by()
    peer.send(Ack(0))
    last = 2 if len(payload) == 512 else 1
    if last == 2:
        assert peer.receive() == Data(1, payload)
        peer.send(Ack(1))
    rest = Data(last, payload if last == 1 else b"")
    for _ in range(4):
        # It writes to a slow disk, and is asked whether it got the block.
        while (heard := peer.receive()) != rest:
            assert heard == Data(1, payload)
    assert not future.done()
    peer.send(Ack(last))
    ended = result(future)
    assert ended.outcome is Outcome.DONE
    assert ended.counters.payload == len(payload)


def test_a_timeout_that_was_asked_is_obeyed_and_not_doubled(door: Door, calls: Calls) -> None:
    patience = Patience(initial=8.0, floor=8.0, ceiling=8.0, retries=4)
    client = calls.client(door, terms=Terms(timeout=0.15), patience=patience)
    future = calls.start(client.get, "file", bytearray())
    peer = door.asked_by()
    start = time.monotonic()
    peer.send(OptionAck({"utimeout": "150000"}))
    for _ in range(5):
        assert peer.receive() == Ack(0)
    # Four waits, and none of eight seconds; a busy machine may be late.
    assert 4 * 0.15 <= time.monotonic() - start < 8.0
    with pytest.raises(TransferTimeout):
        result(future)


def test_a_window_is_acknowledged_once(door: Door, calls: Calls) -> None:
    into = bytearray()
    future = calls.start(calls.client(door, terms=Terms(windowsize=4)).get, "file", into)
    peer = door.asked_by()
    peer.send(OptionAck({"windowsize": "4"}))
    assert peer.receive() == Ack(0)
    for block in (1, 2, 3, 4):
        peer.send(Data(block, bytes(512)))
    assert peer.receive() == Ack(4)
    peer.send(Data(5, bytes(512)))
    peer.send(Data(6, b"end"))
    assert peer.receive() == Ack(6)
    result(future)
    assert peer.drain() == []
    assert len(into) == 5 * 512 + 3


# -- a bad network --------------------------------------------------------------------------------

HASTY = Patience(initial=0.05, floor=0.02, ceiling=0.1, total=30.0)


@pytest.mark.parametrize("terms", [Terms(), Terms(blksize=1428, windowsize=8)], ids=["1", "8"])
@pytest.mark.parametrize("seed", [1, 2, 3])
def test_a_file_survives_loss_repeats_and_overtaking(
    store: Memory, seed: int, terms: Terms
) -> None:
    config = ServerConfig(patience=HASTY)
    with (
        Server(store, config=config) as server,
        Relay(server.address, seed=seed, rate=0.05) as relay,
        Client(*relay.address, terms=terms, patience=HASTY) as client,
    ):
        into = bytearray()
        client.get("file", into)
        assert into == FILE
        client.put(FILE[::-1], "up")
        assert stored(store, "up") == FILE[::-1]
    assert relay.lost
    assert relay.doubled
    assert relay.overtaken


# -- many -----------------------------------------------------------------------------------------


def test_many_threads_share_one_client(client: Client, store: Memory) -> None:
    def work(number: int) -> None:
        content = Random(number).randbytes(number * 97)
        client.put(content, f"file {number}")
        into = bytearray()
        client.get(f"file {number}", into)
        assert into == content

    with ThreadPoolExecutor(16) as pool:
        list(pool.map(work, range(200)))


def test_many_transfers_leave_no_thread_and_no_descriptor(server: Server, tmp_path: Path) -> None:
    gc.collect()
    before = descriptors()
    with Client(*server.address) as client:
        for _ in range(100):
            client.get("file", tmp_path / "file")
            client.put(tmp_path / "file", "up")
            with pytest.raises(TFTPError):
                client.get("nowhere", tmp_path / "nowhere")
    assert "tftp-dallying" not in threads()
    assert eventually(lambda: server.running == 0)
    assert eventually(lambda: descriptors() <= before, 30)  # The server stays for its last ACKs.


# -- by URL ---------------------------------------------------------------------------------------


def test_a_url_names_the_server_the_file_and_the_mode(
    server: Server, store: Memory, tmp_path: Path
) -> None:
    place = "tftp://{}:{}".format(*server.address)
    tftp.get(f"{place}/file", tmp_path / "file")
    assert (tmp_path / "file").read_bytes() == FILE
    tftp.put(b"a\n", f"{place}/unix.txt;mode=netascii", terms=Terms())
    assert stored(store, "unix.txt") == b"a\n"
    into = bytearray()
    ended = tftp.get(f"{place}/unix.txt;mode=netascii", into)
    assert (bytes(into), ended.counters.payload) == (b"a\n", 3)
    with pytest.raises(ValueError, match="scheme"):
        tftp.get("http://127.0.0.1/file", into)


def test_a_request_is_what_the_server_sees(store: Memory) -> None:
    seen: list[Request] = []

    def note(request: Request) -> Request:
        seen.append(request)
        return request

    with Server(store, policy=[note]) as server, Client(*server.address, terms=Terms()) as client:
        client.get("file", bytearray(), mode="netascii")
    assert [(one.filename, one.mode, one.options) for one in seen] == [(b"file", "netascii", {})]


def test_progress_events_reach_an_observer_that_is_no_progress_function(
    door: Door, calls: Calls
) -> None:
    witness = Witness()
    future = calls.start(calls.client(door, observer=witness).get, "file", bytearray())
    peer = door.asked_by()
    assert peer.silent(0.3)
    peer.send(Data(1, bytes(512)))
    assert peer.receive() == Ack(1)
    peer.send(Data(2, b""))
    result(future)
    assert witness.kinds == ["TransferStarted", "TransferProgress", "TransferEnded"]
    assert witness.all(TransferProgress)[0].counters.payload == 512
