"""The server as a client and an operator meet it: options, files, addresses, start and stop."""

import contextlib
import errno
import logging
import os
import select
import signal
import socket
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, Protocol

import pytest

from tests.arrangements import (
    CALM,
    Arrangement,
    Served,
    arranged,
    everywhere,
    everywhere_but,
    in_one_process,
    spread,
)
from tests.networks import Host, host, two_hosts
from tests.server.conftest import Serve, nothing_left_running
from tests.server.storages import Gate, Scripted
from tests.server.test_processes import has_port
from tests.watching import (
    Witness,
    descendants,
    descriptors,
    eventually,
    processes,
    threads,
)
from tests.wirepeer import PATIENCE, WirePeer, error_code
from tftp.errors import ErrorCode
from tftp.events import (
    Event,
    Outcome,
    Request,
    RequestReceived,
    RequestRefused,
    TransferEnded,
    TransferStarted,
)
from tftp.net import kernel
from tftp.options import Limits
from tftp.packets import Ack, Data, Error, OptionAck, ReadRequest, decode
from tftp.server import Server, ServerConfig, ThreadEngine
from tftp.server.processes import ProcessEngine
from tftp.storage import Directory, Memory
from tftp.timers import Patience

CONTENT = bytes(range(256)) * 40 + b"end"
#: Quick to repeat, and not to give up.
EAGER = Patience(initial=0.05, floor=0.02, ceiling=0.1)
#: Quick to give up; but a machine that is busy with other things may take a while for a packet.
QUICK = replace(EAGER, total=2.0)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    folder = tmp_path / "root"
    folder.mkdir()
    (folder / "file").write_bytes(CONTENT)
    return folder


def open_peer(server: Served, **how: Any) -> WirePeer:
    return WirePeer(server.address, **how)


# -- options --------------------------------------------------------------------------------------


# Options in a request, and in its answer.
ASKED: list[tuple[dict[str, str], dict[str, str]]] = [
    ({"tsize": "0"}, {"tsize": "10243"}),
    ({"blksize": "1428"}, {"blksize": "1428"}),
    ({"blksize": "8"}, {"blksize": "8"}),
    ({"blksize": "65464"}, {"blksize": "65464"}),
    ({"windowsize": "4"}, {"windowsize": "4"}),
    ({"windowsize": "65535"}, {"windowsize": "64"}),
    ({"timeout": "3"}, {"timeout": "3"}),
    ({"timeout": "007"}, {"timeout": "007"}),
    ({"utimeout": "250000"}, {"utimeout": "250000"}),
    ({"rollover": "1"}, {"rollover": "1"}),
    ({"blksize2": "1500"}, {"blksize2": "1024"}),
    # Out of range: as if it had not been asked (RFC 2348, 2349, 7440).
    ({"blksize": "7", "tsize": "0"}, {"tsize": "10243"}),
    ({"blksize": "65465", "tsize": "0"}, {"tsize": "10243"}),
    ({"blksize": "-8", "windowsize": "0", "timeout": "256", "tsize": "0"}, {"tsize": "10243"}),
]
ASKED_IN_ORDER: list[tuple[dict[str, str], dict[str, str]]] = [
    # The order asked, the spelling asked; what is not known is left out.
    (
        {"TSize": "0", "x-unknown": "1", "BLKSIZE": "1432", "windowsize": "2"},
        {"TSize": "10243", "BLKSIZE": "1432", "windowsize": "2"},
    ),
    (
        {"windowsize": "2", "timeout": "1", "blksize": "600", "tsize": "0"},
        {"windowsize": "2", "timeout": "1", "blksize": "600", "tsize": "10243"},
    ),
]


@spread(("asked", "granted"), [*ASKED, *ASKED_IN_ORDER], core=ASKED_IN_ORDER)
def test_what_was_asked_is_answered_in_its_order_and_nothing_else(
    serve: Serve, root: Path, asked: dict[str, str], granted: dict[str, str]
) -> None:
    server = serve(Directory(root))
    with open_peer(server) as peer:
        peer.rrq("file", **asked)
        answer = peer.receive()
        assert isinstance(answer, OptionAck)
        assert list(answer.options.items()) == list(granted.items())
        # It ends with the last NUL.
        words = [word for pair in granted.items() for word in pair]
        assert peer.received[0] == b"\0\6" + b"".join(word.encode() + b"\0" for word in words)
        assert peer.tid[1] != server.address[1]
    with open_peer(server) as peer:
        if "rollover" not in asked:
            assert peer.read("file", **asked) == CONTENT


@spread(
    ("asked",),
    [({},), ({"x-unknown": "1"},), ({"blksize": "7"},), ({"blksize": "65536", "timeout": "0"},)],
    core=[({"x-unknown": "1"},)],
)
def test_where_nothing_is_granted_the_file_comes_at_once(
    serve: Serve, root: Path, asked: dict[str, str]
) -> None:
    with open_peer(serve(Directory(root))) as peer:
        peer.rrq("file", **asked)
        assert peer.receive() == Data(1, CONTENT[:512])
    with open_peer(serve(Directory(root, writable=True))) as peer:
        peer.wrq("new", **asked)
        assert peer.receive() == Ack(0)


@everywhere
def test_a_request_with_padding_or_garbage_behind_its_options_is_understood(
    serve: Serve, root: Path
) -> None:
    server = serve(Directory(root))
    request = ReadRequest(b"file", "octet", {"tsize": "0"}).encode()
    for garbage in (b"\0\0\0", b"\0junk", b"odd\0", b"\xff\xfe"):
        with open_peer(server) as peer:
            peer.send(request + garbage)
            assert peer.receive() == OptionAck({"tsize": "10243"})


@everywhere
def test_tsize_is_told_in_full_above_four_gib(serve: Serve, root: Path) -> None:
    with (root / "large").open("wb") as file:
        file.truncate(5 << 30)
    with open_peer(serve(Directory(root))) as peer:
        peer.rrq("large", tsize=0)
        assert peer.receive() == OptionAck({"tsize": str(5 << 30)})


@pytest.mark.parametrize("operation", ["rrq", "wrq"])
@everywhere
def test_a_file_that_is_refused_is_an_error_and_no_oack_before(
    serve: Serve, root: Path, operation: str
) -> None:
    server = serve(Directory(root))
    with open_peer(server) as peer:
        getattr(peer, operation)("missing", tsize=0, blksize=1428)
        answer = peer.receive()
        assert error_code(answer) == (
            ErrorCode.FILE_NOT_FOUND if operation == "rrq" else ErrorCode.ACCESS_VIOLATION
        )
        assert peer.tid == server.address  # From the port that was asked.
        peer.rrq("file")
        assert isinstance(peer.receive(), Data)  # Nothing came in between.


# -- files ----------------------------------------------------------------------------------------

OPTION_SETS: list[dict[str, Any]] = [
    {},
    {"blksize": 8, "windowsize": 64},
    {"blksize": 1024},
    {"blksize": 1428, "windowsize": 16},
    {"blksize": 65464, "windowsize": 2},
    {"blksize": 10243},
    {"windowsize": 1},
]


@spread(
    ("options",), [(options,) for options in OPTION_SETS], core=[(one,) for one in OPTION_SETS[:4]]
)
@pytest.mark.parametrize("single_port", [False, True])
def test_a_file_is_read_and_written_whole(
    serve: Serve,
    witness: Witness,
    root: Path,
    options: dict[str, Any],
    single_port: bool,
) -> None:
    server = serve(Directory(root, writable=True), single_port=single_port)
    with open_peer(server) as reader, open_peer(server) as writer:
        assert reader.read("file", **options) == CONTENT
        writer.write(CONTENT, "new", **options)
        assert (root / "new").read_bytes() == CONTENT
        ports = {reader.tid[1], writer.tid[1]}
        assert ports == {server.address[1]} if single_port else server.address[1] not in ports
    for count in (1, 2):
        assert witness.outcome(count) is Outcome.DONE


@everywhere
def test_a_window_leaves_in_one_piece_where_the_kernel_can_cut_it(
    serve: Serve, root: Path, arrangement: Arrangement
) -> None:
    if not kernel.can_segment() and arrangement is not Arrangement.PLAIN:
        pytest.skip("this kernel has no GSO")
    with open_peer(serve(Directory(root))) as peer:
        # On loopback nothing cuts it, if the receiver can do that for itself.
        peer.sock.setsockopt(UDP, UDP_GRO, 1)
        peer.rrq("file", windowsize=4)
        peer.receive()
        peer.send(Ack(0))
        assert not peer.silent(PATIENCE)
        pieces = 1 if arrangement is Arrangement.PLAIN else 4
        assert len(peer.take()) == pieces * 516
        peer.send(Error(0, "enough"))


# From linux/udp.h.
UDP, UDP_GRO = 17, 104


@spread(
    ("windowsize", "size"),
    [(window, size) for window in (1, 4) for size in (0, 1, 511, 512, 513, 1024, 8 * 512)],
    core=[(1, 0), (1, 512), (4, 8 * 512)],
)
def test_every_length_ends_with_a_short_block(
    serve: Serve, root: Path, size: int, windowsize: int
) -> None:
    content = os.urandom(size)
    (root / "sized").write_bytes(content)
    server = serve(Directory(root, writable=True))
    with open_peer(server) as peer:
        peer.read("sized", windowsize=windowsize)
        last = decode(peer.received[-1])
        assert isinstance(last, Data)
        assert (last.block, len(last.payload)) == (size // 512 + 1, size % 512)
        peer.write(content, "up", windowsize=windowsize)
    assert (root / "up").read_bytes() == content


@everywhere
def test_text_is_translated_both_ways_wherever_blocks_end(serve: Serve, root: Path) -> None:
    # A line end, and a lone CR, at every place around the ends of blocks.
    text = b"".join(b"%d" % step + b"x" * (step % 17) + b"\n\r" for step in range(400))
    wire = text.replace(b"\r", b"\r\0").replace(b"\n", b"\r\n")
    (root / "text").write_bytes(text)
    server = serve(Directory(root, writable=True))
    for options in ({}, {"blksize": 8, "windowsize": 16}, {"blksize": 9}):
        with open_peer(server) as peer:
            assert peer.read("text", "netascii", **options) == wire
            peer.write(wire, f"up{len(options)}", "NetASCII", **options)
            assert (root / f"up{len(options)}").read_bytes() == text
            os.unlink(root / f"up{len(options)}")  # noqa: PTH108


@pytest.mark.parametrize("windowsize", [1, 4])
@everywhere
def test_text_is_translated_under_retransmission_too(
    serve: Serve, witness: Witness, root: Path, windowsize: int
) -> None:
    text = b"".join(b"line %d\n" % step for step in range(2000))
    (root / "text").write_bytes(text)
    server = serve(Directory(root), patience=EAGER)
    with open_peer(server) as peer:
        peer.rrq("text", "netascii", windowsize=windowsize)
        assert isinstance(peer.receive(), OptionAck)
        peer.send(Ack(0))
        came, block = b"", 0
        losses = {3, 9, 16, 17, 30}
        while True:
            packet = peer.receive()
            if isinstance(packet, OptionAck):
                continue  # It is repeated soon.
            assert isinstance(packet, Data)
            if packet.block in losses:
                losses.remove(packet.block)
                continue
            if packet.block == block + 1:
                block += 1
                came += packet.payload
                if block % windowsize == 0 or len(packet.payload) < 512:
                    peer.send(Ack(block))
                if len(packet.payload) < 512:
                    break
    assert came == text.replace(b"\n", b"\r\n")
    assert not losses
    assert witness.outcome() is Outcome.DONE


@pytest.mark.parametrize("rollover", [None, 1])
@arranged(Arrangement.THREADS, Arrangement.PLAIN, Arrangement.PROCESSES)
def test_more_blocks_than_there_are_numbers_go_both_ways(
    serve: Serve, witness: Witness, root: Path, rollover: int | None
) -> None:
    content = os.urandom(1 << 16) * 8 + bytes(100 * 8)  # Exactly so many blocks, and an empty one.
    (root / "many").write_bytes(content)
    options: dict[str, Any] = {"blksize": 8, "windowsize": 64}
    if rollover is not None:
        options["rollover"] = rollover
    server = serve(Directory(root, writable=True))
    with open_peer(server) as peer:
        assert peer.read("many", **options) == content
        peer.write(content, "back", **options)
    assert (root / "back").read_bytes() == content
    for count in (1, 2):
        assert witness.outcome(count) is Outcome.DONE
        assert witness.wait(TransferEnded, count).counters.blocks == 65636 + 1


def test_a_function_makes_a_file_for_whoever_asks(serve: Serve) -> None:
    def greeting(request: Request) -> bytes:
        return f"hello {request.peer[1]}".encode()

    with open_peer(serve(Memory({"hello": greeting}))) as peer:
        assert peer.read("hello") == f"hello {peer.address[1]}".encode()


@everywhere
def test_files_in_memory_are_served(serve: Serve) -> None:
    with open_peer(serve(Memory({"file": CONTENT}))) as peer:
        assert peer.read("file", tsize=0) == CONTENT


@everywhere
def test_names_that_are_no_text_are_served_and_told(
    serve: Serve, witness: Witness, root: Path
) -> None:
    names = [b"pxelinux.0\xff", "naïve".encode(), "naïve".encode("latin-1"), b"\x1b[31m\n"]
    for name in names:
        Path(os.fsdecode(os.fsencode(root) + b"/" + name)).write_bytes(name)
    server = serve(Directory(root))
    for count, name in enumerate(names, 1):
        with open_peer(server) as peer:
            assert peer.read(name) == name
            assert witness.wait(TransferEnded, count).request.filename == name


# -- requests that come again ---------------------------------------------------------------------


@everywhere
def test_a_request_that_comes_nine_times_is_one_transfer(
    serve: Serve, witness: Witness, root: Path
) -> None:
    server = serve(Directory(root))
    with open_peer(server) as peer:
        for _ in range(9):
            peer.rrq("file", blksize=1024)
        for _ in range(6):  # Whoever has answered these has taken all the copies before.
            with open_peer(server) as other:
                other.rrq("missing")
                assert error_code(other.receive()) == ErrorCode.FILE_NOT_FOUND
        assert peer.collect() == CONTENT
        assert witness.outcome() is Outcome.DONE
        assert peer.drain() == []
    server.stop()  # Then everything has been told.
    assert len(witness.all(RequestReceived)) == 1 + 6
    assert len(witness.all(TransferStarted)) == 1


@pytest.mark.parametrize("operation", ["rrq", "wrq"])
def test_nine_copies_of_a_request_start_one_transfer(
    serve: Serve, witness: Witness, operation: str
) -> None:
    gate = Gate()
    storage = Scripted(b"content", open_read=gate, open_write=gate)
    server = serve(storage)
    with open_peer(server) as peer, open_peer(server) as other:
        ask = getattr(peer, operation)
        ask("file", blksize=1024)
        gate.wait()
        for _ in range(8):  # The storage is slow, and the client asks again and again.
            ask("file", blksize=1024)
        other.rrq("file")
        gate.open()
        assert isinstance(other.receive(), Data)  # All copies have been looked at.
        assert peer.receive() == OptionAck({"blksize": "1024"})
        if operation == "rrq":
            peer.send(Ack(0))
            assert peer.collect() == b"content"
        else:
            peer.send(Data(1, b"content"))
            assert peer.receive() == Ack(1)
        assert witness.outcome() is Outcome.DONE
        assert peer.drain() == []
    assert witness.kinds.count("RequestReceived") == 1 + 1
    assert witness.kinds.count("TransferStarted") == 1 + 1
    assert storage.count("open_read") + storage.count("open_write") == 1 + 1
    ended = witness.wait(TransferEnded)
    assert ended.counters.retransmissions == 0
    assert ended.counters.duplicates == 8


@everywhere
def test_another_request_from_the_same_port_starts_afresh_and_in_silence(
    serve: Serve, witness: Witness, root: Path
) -> None:
    (root / "second").write_bytes(b"second")
    with open_peer(serve(Directory(root))) as peer:
        peer.rrq("file")
        first = peer.receive()
        assert isinstance(first, Data)
        old = peer.tid
        peer.rrq("second")
        assert peer.receive() == Data(1, b"second")
        assert peer.tid != old
        peer.send(Ack(1))
        assert witness.outcome(1) is Outcome.ABORTED
        assert witness.outcome(2) is Outcome.DONE
        # And the old one is really over: nobody listens there.
        peer.sock.connect(old)
        peer.sock.send(Ack(1).encode())
        with pytest.raises(ConnectionRefusedError):
            peer.sock.recv(100)


@pytest.mark.parametrize("single_port", [False, True])
@everywhere
def test_one_port_serves_a_client_for_everything_in_turn(
    serve: Serve, witness: Witness, root: Path, single_port: bool
) -> None:
    server = serve(Directory(root, writable=True, overwrite=True), single_port=single_port)
    with open_peer(server) as peer:
        for count in range(5):
            for _ in range(2):  # The same request, as soon as the first has been served.
                assert peer.read("file", blksize=1428) == CONTENT
            peer.write(b"x" * count, "up")
            assert peer.read("up") == b"x" * count
    assert witness.outcome(20) is Outcome.DONE
    assert {event.outcome for event in witness.all(TransferEnded)} == {Outcome.DONE}
    assert len(witness.all(RequestReceived)) == 20


@everywhere
def test_a_last_ack_that_comes_twice_does_not_spoil_the_next_request(
    serve: Serve, root: Path
) -> None:
    with open_peer(serve(Directory(root), single_port=True)) as peer:
        for _ in range(3):
            peer.rrq("file", blksize=len(CONTENT) + 1)
            assert isinstance(peer.receive(), OptionAck)
            peer.send(Ack(0))
            assert peer.receive() == Data(1, CONTENT)
            peer.send(Ack(1))
            peer.send(Ack(1))
        assert peer.drain() == []


@arranged(Arrangement.THREADS, Arrangement.PROCESSES)
def test_a_client_that_started_over_gets_the_same_file_from_its_start(
    serve: Serve, witness: Witness, root: Path
) -> None:
    # A silence of a second tells a client that started over from a late copy of its request.
    with open_peer(serve(Directory(root))) as peer:
        peer.rrq("file")
        assert peer.receive() == Data(1, CONTENT[:512])
        peer.send(Ack(1))
        assert peer.receive() == Data(2, CONTENT[512:1024])
        old = peer.tid
        peer.rrq("file")  # So soon it is a copy.
        assert peer.silent(1.05)
        peer.rrq("file")
        assert peer.receive() == Data(1, CONTENT[:512])
        assert peer.tid != old
        peer.send(Ack(1))
        assert isinstance(peer.receive(), Data)
    assert witness.outcome() is Outcome.ABORTED


# -- probes and errors ----------------------------------------------------------------------------


@pytest.mark.parametrize(("code", "text"), [(8, "User aborted the transfer"), (0, "")])
@in_one_process
def test_a_size_probe_is_over_at_once_and_no_failure(
    serve: Serve, witness: Witness, code: int, text: str
) -> None:
    storage = Scripted(CONTENT)
    with open_peer(serve(storage)) as peer:
        peer.rrq("file", tsize=0)
        assert peer.receive() == OptionAck({"tsize": "10243"})
        peer.send(Error(code, text))
        assert witness.outcome() is Outcome.PROBED
        assert Outcome.PROBED.succeeded
        assert storage.count("close") == 1
        # The request that follows, from the same port, is served; nothing came in between.
        peer.rrq("file")
        assert peer.receive() == Data(1, CONTENT[:512])


@everywhere
def test_an_error_at_the_servers_port_ends_the_transfer_of_its_sender(
    serve: Serve, witness: Witness, root: Path
) -> None:
    # A Raspberry Pi 3 sends its "Early terminate" there.
    server = serve(Directory(root))
    with open_peer(server) as peer, open_peer(server) as other:
        for one in (peer, other):
            one.rrq("file", tsize=0)
            assert isinstance(one.receive(), OptionAck)
        peer.send(Error(0, "Early terminate"), server.address)
        assert witness.outcome() is Outcome.PROBED
        assert witness.wait(TransferEnded).request.peer == peer.address
        other.send(Ack(0))
        assert other.collect() == CONTENT
        assert peer.drain() == []


# -- uploads --------------------------------------------------------------------------------------


@pytest.mark.parametrize("end", ["error", "silence", "stop"])
@pytest.mark.parametrize("old", [None, b"old"])
@everywhere
def test_an_upload_that_is_not_finished_leaves_nothing_and_keeps_the_old_file(
    serve: Serve, witness: Witness, root: Path, end: str, old: bytes | None
) -> None:
    (root / "file").unlink()
    if old is not None:
        (root / "file").write_bytes(old)
    before = descriptors()
    patience = QUICK if end == "silence" else EAGER
    server = serve(Directory(root, writable=True, overwrite=True), patience=patience)
    with open_peer(server) as peer:
        peer.wrq("file")
        assert peer.receive() == Ack(0)
        peer.send(Data(1, b"n" * 512))
        while (answer := peer.receive()) == Ack(0):
            pass  # It is repeated soon.
        assert answer == Ack(1)
        match end:
            case "error":
                peer.send(Error(0, "stop"))
                assert witness.outcome() is Outcome.PEER_ERROR
            case "silence":
                assert witness.outcome() is Outcome.TIMED_OUT
            case "stop":
                server.stop()
                assert witness.outcome() is Outcome.ABORTED
    server.stop()
    assert {entry.name: entry.read_bytes() for entry in root.iterdir()} == (
        {} if old is None else {"file": old}
    )
    assert descriptors() <= before


@pytest.mark.parametrize("overwrite", [False, True])
@everywhere
def test_two_uploads_of_one_name_never_mix(
    serve: Serve, witness: Witness, root: Path, overwrite: bool
) -> None:
    server = serve(Directory(root, writable=True, overwrite=overwrite))
    contents = [b"a" * 1500, b"b" * 1500]
    with open_peer(server) as one, open_peer(server) as two:
        peers = (one, two)
        for peer in peers:
            peer.wrq("new")
            assert peer.receive() == Ack(0)
        answers = []
        for block in (1, 2, 3):
            for peer, content in zip(peers, contents, strict=True):
                peer.send(Data(block, content[(block - 1) * 512 : block * 512]))
                answers.append(peer.receive())
    assert answers[:5] == [Ack(1), Ack(1), Ack(2), Ack(2), Ack(3)]
    if overwrite:
        assert answers[5] == Ack(3)
        assert (root / "new").read_bytes() == contents[1]
    else:
        assert error_code(answers[5]) == ErrorCode.FILE_EXISTS
        assert (root / "new").read_bytes() == contents[0]
    assert {entry.name for entry in root.iterdir()} == {"file", "new"}


@everywhere
def test_a_file_that_is_cut_while_it_is_served_is_an_error_to_its_client(
    serve: Serve, witness: Witness, root: Path
) -> None:
    (root / "large").write_bytes(bytes(1 << 20))
    with open_peer(serve(Directory(root))) as peer:
        peer.rrq("large")
        while True:
            packet = peer.receive()
            if isinstance(packet, Error):
                break
            assert isinstance(packet, Data)
            if packet.block == 20:
                os.truncate(root / "large", 5000)
            peer.send(Ack(packet.block))
        assert "changed" in packet.message
        assert witness.outcome() is Outcome.STORAGE_ERROR


# -- what it tells --------------------------------------------------------------------------------


@pytest.mark.parametrize("options", [{}, {"blksize": 1024, "windowsize": 8, "tsize": 0}])
@pytest.mark.parametrize("single_port", [False, True])
@everywhere
def test_what_is_told_is_what_went_over_the_wire(
    serve: Serve, witness: Witness, root: Path, options: dict[str, Any], single_port: bool
) -> None:
    server = serve(Directory(root, writable=True), single_port=single_port)
    with open_peer(server) as reader, open_peer(server) as writer:
        reader.read("file", **options)
        witness.wait(TransferEnded)
        writer.write(CONTENT, "new", **options)
        for count, peer in enumerate((reader, writer), 1):
            ended = witness.wait(TransferEnded, count)
            counters = ended.counters
            # All but the request, which the transfer came of.
            assert counters.octets_received == sum(map(len, peer.sent[1:]))
            assert counters.datagrams_received == len(peer.sent) - 1
            assert counters.octets_sent == sum(map(len, peer.received))
            assert counters.datagrams_sent == len(peer.received)
            assert counters.payload == len(CONTENT)
            assert ended.request.peer == peer.address
            assert ended.request.local == server.address
            assert ended.terms.blksize == options.get("blksize", 512)
    assert witness.kinds == ["RequestReceived", "TransferStarted", "TransferEnded"] * 2
    for number in (1, 2):
        told = [event for event in witness.all(Event) if event.transfer == number]
        assert len(told) == 3
        assert [event.time for event in told] == sorted(event.time for event in told)
    received = witness.wait(RequestReceived)
    assert received.request.options == {name: str(value) for name, value in options.items()}
    assert witness.wait(TransferStarted).size == len(CONTENT)


@everywhere
def test_a_refused_request_is_told_of_and_never_starts(
    serve: Serve, witness: Witness, root: Path
) -> None:
    with open_peer(serve(Directory(root))) as peer:
        peer.rrq("missing")
        peer.receive()
    refused = witness.wait(RequestRefused)
    assert refused.error.code == ErrorCode.FILE_NOT_FOUND
    assert refused.request.filename == b"missing"
    assert witness.kinds == ["RequestReceived", "RequestRefused"]


@everywhere
def test_observers_that_raise_disturb_nobody(
    root: Path, arrangement: Arrangement, caplog: pytest.LogCaptureFixture, witness: Witness
) -> None:
    def broken(event: Event) -> None:
        raise RuntimeError("an observer's own fault")

    observers = [broken, witness, broken]
    with arrangement.serving(Directory(root), observers=observers) as server:
        with open_peer(server) as peer:
            assert peer.read("file") == CONTENT
            peer.rrq("missing")
            assert error_code(peer.receive()) == ErrorCode.FILE_NOT_FOUND
        witness.wait(RequestRefused)
    assert len(witness.kinds) == 5
    assert caplog.text.count("an observer failed") == 10


@pytest.mark.parametrize(
    "arrangement",
    [
        Arrangement.THREADS,
        Arrangement.PROCESSES,
        Arrangement.SUPERVISOR,
    ],
)
def test_an_observer_that_stops_its_server_is_told_to_let_another_do_it(
    root: Path, arrangement: Arrangement, caplog: pytest.LogCaptureFixture
) -> None:
    over = threading.Event()

    def stop_after_the_first(event: Event) -> None:
        if isinstance(event, TransferEnded):
            over.set()
            server.stop()

    with arrangement.serving(Directory(root), observers=[stop_after_the_first]) as server:
        for _ in range(2):  # All of it goes on.
            with open_peer(server) as peer:
                assert peer.read("file") == CONTENT
        assert over.wait(PATIENCE)
        assert server.state == "serving"
    assert "an observer can not stop its server" in caplog.text
    assert not threads()


# -- addresses ------------------------------------------------------------------------------------


def six() -> bool:
    try:
        with socket.socket(socket.AF_INET6, socket.SOCK_DGRAM) as sock:
            sock.bind(("::1", 0))
    except OSError:
        return False
    return True


needs_six = pytest.mark.skipif(not six(), reason="this host has no IPv6")


@needs_six
@everywhere
def test_both_families_are_listened_on_with_one_port(serve: Serve, root: Path) -> None:
    server = serve(Directory(root), hosts=())
    port = server.address[1]
    assert server.addresses == [("0.0.0.0", port), ("::", port, 0, 0)]
    for address in (("127.0.0.1", port), ("::1", port, 0, 0)):
        with WirePeer(address) as peer:
            assert peer.read("file", blksize=1428) == CONTENT
            assert peer.tid[0] == address[0]


@needs_six
@pytest.mark.parametrize(
    ("family", "hosts", "bound"),
    [
        (socket.AF_INET, (), ["0.0.0.0"]),
        (socket.AF_INET6, (), ["::"]),
        (socket.AF_INET, ("localhost",), ["127.0.0.1"]),
        (socket.AF_INET6, ("::1",), ["::1"]),
        (0, ("127.0.0.1", "::1"), ["127.0.0.1", "::1"]),
        (0, ("127.0.0.3", "127.0.0.2", "127.0.0.3"), ["127.0.0.3", "127.0.0.2"]),
    ],
)
@everywhere
def test_a_family_can_be_asked_for_and_an_address_is_listened_on_once(
    serve: Serve, root: Path, family: int, hosts: tuple[str, ...], bound: list[str]
) -> None:
    server = serve(Directory(root), family=family, hosts=hosts)
    assert [address[0] for address in server.addresses] == bound
    assert len({address[1] for address in server.addresses}) == 1


@pytest.mark.parametrize(
    ("config", "number"),
    [
        ({"hosts": ("no.such.host.invalid",)}, errno.EADDRNOTAVAIL),
        ({"hosts": ("192.0.2.99",)}, errno.EADDRNOTAVAIL),
        ({"hosts": ("127.0.0.1", "192.0.2.99")}, errno.EADDRNOTAVAIL),
        ({"hosts": ("::1",), "family": socket.AF_INET}, errno.EADDRNOTAVAIL),
    ],
)
@everywhere
def test_an_address_that_can_not_be_listened_on_is_named_and_nothing_stays_open(
    root: Path, arrangement: Arrangement, config: dict[str, Any], number: int
) -> None:
    before = descriptors()
    server = arrangement.make(Directory(root), config=ServerConfig(**config))
    with arrangement.conditions(), pytest.raises(OSError, match=r".") as caught:
        server.start()
    assert caught.value.errno == number
    assert config["hosts"][-1] in str(caught.value.filename)
    assert descriptors() <= before
    assert not threads()
    with pytest.raises(RuntimeError):
        _ = server.address


@pytest.mark.parametrize(
    "arrangement",
    [
        Arrangement.THREADS,
        Arrangement.PROCESSES,
        Arrangement.SUPERVISOR,
    ],
)
def test_a_port_that_is_taken_is_named(serve: Serve, root: Path) -> None:
    taken = serve(Directory(root)).address
    with pytest.raises(OSError, match="in use") as caught:
        serve(Directory(root), port=taken[1])
    assert caught.value.errno == errno.EADDRINUSE
    assert caught.value.filename == f"127.0.0.1:{taken[1]}"


@pytest.fixture
def hosts() -> Iterator[tuple[Host, Host]]:
    """A server's host and a client's, on Ethernet."""
    with two_hosts() as both:
        yield both


#: The plain path knows of one address for all requests: the one that is listened on.
told_where_a_request_went = everywhere_but(Arrangement.PLAIN)


class StartOn(Protocol):
    """Starts a server on a host of the test's own; see `start_on`."""

    def __call__(self, place: Host, **config: Any) -> Served: ...


@pytest.fixture
def start_on(root: Path, witness: Witness, arrangement: Arrangement) -> Iterator[StartOn]:
    """Starts servers on hosts, by default on all addresses; they stop with the test."""
    started: list[Served] = []

    def start(place: Host, **config: Any) -> Served:
        storage = Directory(root, writable=True, overwrite=True)
        chosen: dict[str, Any] = {"hosts": (), "patience": CALM} | config
        server = arrangement.make(storage, config=ServerConfig(**chosen), observers=[witness])
        place.call(server.start)
        started.append(server)
        return server

    with nothing_left_running(), arrangement.conditions():
        yield start
        for server in started:
            server.stop()


@pytest.mark.parametrize("single_port", [False, True])
@told_where_a_request_went
def test_the_answer_comes_from_the_address_that_was_asked(
    hosts: tuple[Host, Host], start_on: StartOn, root: Path, single_port: bool
) -> None:
    left, right = hosts
    left.ip("addr add 192.0.2.77/24 dev wire")
    left.add_address("2001:db8::77/64")
    server = start_on(left, single_port=single_port)
    port = server.address[1]
    for asked, own in (
        ("192.0.2.1", "192.0.2.2"),
        ("192.0.2.77", "192.0.2.2"),
        ("2001:db8::1", "2001:db8::2"),
        ("2001:db8::77", "2001:db8::2"),
    ):
        with WirePeer((asked, port), sock=right.socket((own, 0))) as peer:
            assert peer.read("file", windowsize=4) == CONTENT
            assert peer.tid[0] == asked
            peer.write(CONTENT, "up", windowsize=4)
            assert peer.tid[0] == asked
            peer.rrq("missing")
            assert error_code(peer.receive()) == ErrorCode.FILE_NOT_FOUND
            assert peer.tid[:2] == (asked, port)
    server.stop()


@pytest.mark.parametrize("single_port", [False, True])
@everywhere
def test_a_link_local_client_is_served_on_its_own_wire(
    hosts: tuple[Host, Host], start_on: StartOn, root: Path, single_port: bool
) -> None:
    left, right = hosts
    left.plug(right, name="other")
    for name in ("wire", "other"):
        left.add_address("fe80::1/64", name)
        right.add_address("fe80::2/64", name)
    server = start_on(left, single_port=single_port)
    port = server.address[1]
    for name in ("wire", "other"):  # The same two addresses on both.
        scope = right.scope(name)
        client = right.socket(("fe80::2", 0, 0, scope))
        with WirePeer(("fe80::1", port, 0, scope), sock=client) as peer:
            assert peer.read("file", blksize=1400, windowsize=4) == CONTENT
            assert peer.tid[0] == "fe80::1"
            assert peer.tid[3] == scope
            peer.write(CONTENT, "up")
            assert (root / "up").read_bytes() == CONTENT
    server.stop()


@everywhere
def test_a_server_can_listen_on_a_link_local_address(
    hosts: tuple[Host, Host], start_on: StartOn, witness: Witness
) -> None:
    left, right = hosts
    left.add_address("fe80::1/64")
    server = start_on(left, hosts=("fe80::1%wire",))
    assert server.address[3] == left.scope("wire")
    scope = right.scope("wire")
    # Not the address that the kernel makes: for a second it asks whether anybody else has that.
    right.add_address("fe80::2/64")
    client = right.socket(("fe80::2", 0, 0, scope))
    with WirePeer(("fe80::1", server.address[1], 0, scope), sock=client) as peer:
        assert peer.read("file") == CONTENT
    server.stop()


@pytest.mark.parametrize(
    ("mtu", "asked", "four", "six"),
    [
        (1500, 65464, 1468, 1448),
        (1500, 1472, 1468, 1448),
        (1500, 1468, 1468, 1448),
        (1500, 1448, 1448, 1448),
        (1500, 1228, 1228, 1228),
        (1400, 65464, 1368, 1348),
        (9000, 65464, 8968, 8948),
    ],
)
@arranged(Arrangement.THREADS, Arrangement.PROCESSES)
def test_no_block_is_larger_than_the_path_takes_whole(
    start_on: StartOn, mtu: int, asked: int, four: int, six: int
) -> None:
    with two_hosts(mtu=mtu) as (left, right):
        server = start_on(left)
        port = server.address[1]
        for asked_at, own, blksize in (
            ("192.0.2.1", "192.0.2.2", four),
            ("2001:db8::1", "2001:db8::2", six),
        ):
            for ask in (WirePeer.rrq, WirePeer.wrq):
                with WirePeer((asked_at, port), sock=right.socket((own, 0))) as peer:
                    ask(peer, "file", blksize=asked)
                    assert peer.receive() == OptionAck({"blksize": str(blksize)})
        server.stop()


SERVER = socket.inet_aton("192.0.2.1")


def frames(sniffer: socket.socket) -> Iterator[bytes]:
    """The Ethernet frames that have come."""
    with contextlib.suppress(BlockingIOError):
        while True:
            yield sniffer.recv(1 << 16)


@everywhere
def test_without_the_clamp_blocks_travel_as_fragments_and_none_carries_df(
    hosts: tuple[Host, Host], start_on: StartOn
) -> None:
    left, right = hosts
    server = start_on(left, clamp_to_mtu=False)
    with right.socket(("wire", 0x0800), socket.AF_PACKET, socket.SOCK_RAW) as sniffer:
        sniffer.setblocking(False)
        with WirePeer(
            ("192.0.2.1", server.address[1]), sock=right.socket(("192.0.2.2", 0))
        ) as peer:
            assert peer.read("file", blksize=4000, windowsize=2) == CONTENT
            assert peer.read("file", blksize=1024, windowsize=4) == CONTENT
        # What has been read has been on the wire, and what has been on the wire has been seen.
        flags = [frame[20] for frame in frames(sniffer) if frame[26:30] == SERVER]
    assert len(flags) > 5
    assert not any(flag & 0x40 for flag in flags), "DF is set"
    server.stop()


@told_where_a_request_went
def test_a_request_to_everybody_stays_unanswered(
    hosts: tuple[Host, Host], start_on: StartOn, witness: Witness
) -> None:
    left, right = hosts
    server = start_on(left)
    port = server.address[1]
    client = right.socket(("192.0.2.2", 0))
    client.setsockopt(socket.SOL_SOCKET, socket.SO_BROADCAST, 1)
    with WirePeer(("192.0.2.1", port), sock=client) as peer:
        for address in ("192.0.2.255", "255.255.255.255"):
            for request in (ReadRequest(b"file"), ReadRequest(b"missing"), Data(1, b"x")):
                peer.send(request, (address, port))
        assert peer.read("file") == CONTENT  # From a port that has no transfer but this.
        assert peer.received[0] == Data(1, CONTENT[:512]).encode()
    witness.wait(TransferEnded)
    assert witness.kinds == ["RequestReceived", "TransferStarted", "TransferEnded"]
    client6 = right.socket(("2001:db8::2", 0))
    with WirePeer(("2001:db8::1", port), sock=client6) as peer:
        peer.send(ReadRequest(b"file"), ("ff02::1", port, 0, right.scope("wire")))
        assert peer.read("file") == CONTENT
    witness.wait(TransferEnded, 2)
    assert len(witness.kinds) == 6
    server.stop()


@pytest.mark.parametrize("hosts_asked", [(), ("localhost",)], ids=["all", "localhost"])
@everywhere
def test_a_host_whose_ipv6_is_disabled_serves_on_ipv4(
    start_on: StartOn, hosts_asked: tuple[str, ...]
) -> None:
    with host() as lonely:
        lonely.sysctl("ipv6/conf/all/disable_ipv6", 1)
        server = start_on(lonely, hosts=hosts_asked)
        port = server.address[1]
        with WirePeer(("127.0.0.1", port), sock=lonely.socket(("127.0.0.1", 0))) as peer:
            assert peer.read("file", blksize=1428) == CONTENT
        server.stop()


def test_a_kernel_without_ipv6_serves_on_ipv4(
    serve: Serve, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Such a kernel can not be had in a test; this is what it says (booted with ipv6.disable=1).
    real = socket.socket

    class WithoutSix(real):  # type: ignore[misc, valid-type]
        def __init__(self, family: int = -1, *arguments: Any, **options: Any) -> None:
            if family == socket.AF_INET6:
                raise OSError(errno.EAFNOSUPPORT, os.strerror(errno.EAFNOSUPPORT))
            super().__init__(family, *arguments, **options)

    monkeypatch.setattr(socket, "socket", WithoutSix)
    server = serve(Directory(root), hosts=())
    assert [address[0] for address in server.addresses] == ["0.0.0.0"]
    with WirePeer(("127.0.0.1", server.address[1])) as peer:
        assert peer.read("file") == CONTENT
    # Where it was asked for by name, its absence is no small matter.
    for config in ({"hosts": (), "family": socket.AF_INET6}, {"hosts": ("::1",)}):
        with pytest.raises(OSError, match="family"):
            serve(Directory(root), **config)


@everywhere
def test_a_port_of_the_systems_choice_is_free_in_both_families(start_on: StartOn) -> None:
    with host() as lonely:
        lonely.sysctl("ipv4/ip_local_port_range", "40000 40003")
        taken = [lonely.socket(("::", port), socket.AF_INET6) for port in (40000, 40001, 40002)]
        before = descriptors()
        for _ in range(3):
            server = start_on(lonely)
            assert [address[1] for address in server.addresses] == [40003, 40003]
            server.stop()
        assert descriptors() <= before
        for sock in taken:
            sock.close()


@everywhere
def test_an_address_that_comes_later_is_served_from_then_on(
    hosts: tuple[Host, Host], start_on: StartOn
) -> None:
    left, right = hosts
    server = start_on(left, hosts=("192.0.2.50", "2001:db8::50"), freebind=True)
    port = server.address[1]
    left.ip("addr add 192.0.2.50/24 dev wire")
    left.add_address("2001:db8::50/64")
    for asked, own in (("192.0.2.50", "192.0.2.2"), ("2001:db8::50", "2001:db8::2")):
        with WirePeer((asked, port), sock=right.socket((own, 0))) as peer:
            assert peer.read("file") == CONTENT
    server.stop()


# -- start and stop -------------------------------------------------------------------------------


@everywhere
def test_a_stop_ends_everything_at_once_and_tells_the_clients(
    serve: Serve, witness: Witness, root: Path
) -> None:
    before = descriptors()
    server = serve(Directory(root, writable=True))
    peers = [open_peer(server) for _ in range(20)]
    for number, peer in enumerate(peers):
        if number % 2:
            peer.rrq("file", tsize=0)
        else:
            peer.wrq(f"new{number}")
        peer.receive()
    assert eventually(lambda: server.running == 20)
    stopper = threading.Thread(target=server.stop)
    began = time.monotonic()
    stopper.start()
    server.serve_forever()  # Which another thread's stop ends.
    stopper.join()
    # Where nothing else keeps the machine busy it takes some hundredths.
    assert time.monotonic() - began < 5.0
    assert not threads()
    assert server.running == 0
    for peer in peers:
        assert error_code(peer.receive()) == 0
        peer.close()
    assert descriptors() <= before
    assert [event.outcome for event in witness.all(TransferEnded)] == [Outcome.ABORTED] * 20
    assert [entry.name for entry in root.iterdir()] == ["file"]


@everywhere
def test_another_server_starts_on_a_port_as_soon_as_the_first_has_stopped(
    root: Path, arrangement: Arrangement
) -> None:
    with arrangement.serving(Directory(root)) as server:
        port = server.address[1]
    with pytest.raises(RuntimeError):
        _ = server.addresses
    for _ in range(3):
        with arrangement.serving(Directory(root), config=ServerConfig(port=port)) as again:
            assert again.address == ("127.0.0.1", port)
            with open_peer(again) as peer:
                assert peer.read("file") == CONTENT


@everywhere_but(Arrangement.SUPERVISOR)  # Which is started once.
def test_a_server_that_was_stopped_starts_again(root: Path, arrangement: Arrangement) -> None:
    server = arrangement.make(Directory(root))
    with arrangement.conditions():
        for _ in range(3):
            with server, open_peer(server) as peer:
                assert peer.read("file") == CONTENT


def test_a_stop_tells_the_end_also_of_a_transfer_whose_process_is_stuck(
    serve: Serve, witness: Witness, root: Path
) -> None:
    server = serve(Directory(root), engine=ProcessEngine(warm=1))
    with open_peer(server) as peer:
        peer.rrq("file")
        assert isinstance(peer.receive(), Data)
        witness.wait(TransferStarted)
        [child] = [pid for pid in descendants() if has_port(pid, peer.tid[1])]
        os.kill(child, signal.SIGSTOP)
        server.stop()
    assert [event.outcome for event in witness.all(TransferEnded)] == [Outcome.CRASHED]
    assert server.running == 0


@pytest.mark.parametrize(
    "arrangement",
    [
        Arrangement.THREADS,
        Arrangement.PROCESSES,
        Arrangement.SUPERVISOR,
    ],
)
def test_a_server_that_has_not_started_has_nothing_open(
    root: Path, arrangement: Arrangement
) -> None:
    before = descriptors()
    server = arrangement.make(Directory(root))
    assert descriptors() <= before
    server.stop()


@everywhere
def test_a_running_server_does_not_start_twice(serve: Serve, root: Path) -> None:
    server = serve(Directory(root))
    address = server.address
    with pytest.raises(RuntimeError, match="running already"):
        server.start()
    with open_peer(server) as peer:
        assert peer.read("file") == CONTENT
    assert server.address == address


@everywhere
def test_a_stop_may_come_again_from_anywhere_or_before_the_start(
    root: Path, arrangement: Arrangement
) -> None:
    server = arrangement.make(Directory(root))
    server.stop()
    server.start()
    stoppers = [threading.Thread(target=server.stop) for _ in range(8)]
    for stopper in stoppers:
        stopper.start()
    for stopper in stoppers:
        stopper.join(PATIENCE)
    server.stop()
    assert not threads()


@pytest.mark.parametrize(
    ("arrangement", "cycles"),
    [
        (Arrangement.THREADS, 20),
        (Arrangement.TWO_THREADS, 10),
        (Arrangement.PLAIN, 10),
        (Arrangement.PROCESSES, 4),
        (Arrangement.SUPERVISOR, 4),
    ],
)
def test_cycles_leave_no_descriptor_thread_process_or_file(
    root: Path, arrangement: Arrangement, cycles: int
) -> None:
    def cycle(number: int) -> None:
        single_port = bool(number % 2)
        config = ServerConfig(single_port=single_port, patience=EAGER)
        storage = Directory(root, writable=True, overwrite=True)
        with arrangement.serving(storage, config=config) as server:
            peers = [open_peer(server) for _ in range(6)]
            peers[0].read("file", blksize=1024)
            peers[1].write(CONTENT, "new", windowsize=4)
            peers[2].rrq("file", tsize=0)
            peers[3].wrq("unfinished")
            peers[4].rrq("missing")
            peers[5].send(b"junk")
            for peer in peers[2:5]:
                peer.receive()
        for peer in peers:
            peer.close()

    cycle(0)
    before, born_before = descriptors(), processes()
    for number in range(cycles):
        cycle(number)
    assert descriptors() <= before
    assert not threads()
    assert processes() <= born_before
    assert {entry.name for entry in root.iterdir()} == {"file", "new"}


@everywhere
def test_a_drain_lets_a_transfer_finish_and_takes_no_other(
    serve: Serve, witness: Witness, root: Path
) -> None:
    server = serve(Directory(root))
    door = server.address
    with open_peer(server) as peer, open_peer(server) as late:
        peer.rrq("file")
        assert peer.receive() == Data(1, CONTENT[:512])
        drained = threading.Thread(target=server.drain)
        drained.start()
        # The door is closed, or whoever comes there is told to go.
        late.sock.connect(door)
        assert eventually(lambda: turned_away(late))
        assert drained.is_alive()
        # A supervisor hears of it from its worker, and that may be later than the client.
        assert eventually(lambda: server.running == 1)
        peer.send(Ack(1))
        assert CONTENT[:512] + peer.collect(block=1) == CONTENT
        drained.join(PATIENCE)
        assert not drained.is_alive()
        server.serve_forever()
    assert witness.outcome() is Outcome.DONE
    assert len(witness.all(TransferStarted)) == 1


def turned_away(peer: WirePeer) -> bool:
    """Whether a request of the peer, whose socket is connected, meets nobody, or "busy"."""
    try:
        peer.sock.send(ReadRequest(b"missing").encode())
        readable, _, _ = select.select([peer.sock], [], [], 0.05)
        return bool(readable) and error_code(decode(peer.sock.recv(100))) == 0
    except ConnectionRefusedError:
        return True


@everywhere
def test_in_single_port_mode_a_drain_answers_new_requests_busy(
    serve: Serve, witness: Witness, root: Path
) -> None:
    server = serve(Directory(root), single_port=True)
    with open_peer(server) as peer, open_peer(server) as late:
        peer.rrq("file")
        assert peer.receive() == Data(1, CONTENT[:512])
        drained = threading.Thread(target=server.drain)
        drained.start()

        def busy() -> bool:
            late.rrq("missing")
            # Nobody answers while a worker that has nothing to finish goes.
            return not late.silent(0.1) and error_code(late.receive()) == 0

        assert eventually(busy)
        peer.send(Ack(1))
        assert CONTENT[:512] + peer.collect(block=1) == CONTENT
        drained.join(PATIENCE)
    assert witness.outcome() is Outcome.DONE
    assert any("shutting down" in event.error.message for event in witness.all(RequestRefused))


@everywhere
def test_a_stop_cuts_a_drain_short(serve: Serve, witness: Witness, root: Path) -> None:
    server = serve(Directory(root))
    with open_peer(server) as peer:
        peer.rrq("file")
        peer.receive()
        drained = threading.Thread(target=server.drain)
        drained.start()
        server.stop()
        drained.join(PATIENCE)
        assert not drained.is_alive()
    assert witness.outcome() is Outcome.ABORTED


@everywhere
def test_grace_is_as_long_as_it_says_and_no_longer_than_needed(
    serve: Serve, witness: Witness, root: Path
) -> None:
    server = serve(Directory(root))
    with open_peer(server) as peer:
        peer.rrq("file")
        peer.receive()
        began = time.monotonic()
        server.stop(grace=0.3)
        assert 0.3 <= time.monotonic() - began < PATIENCE
        assert error_code(peer.receive()) == 0
    assert witness.outcome() is Outcome.ABORTED
    server = serve(Directory(root))
    with open_peer(server) as peer:
        peer.rrq("file")
        peer.receive()
        stopper = threading.Thread(target=server.stop, args=(60.0,))
        stopper.start()
        peer.send(Ack(1))
        assert peer.collect(block=1) == CONTENT[512:]
        stopper.join(PATIENCE)
        assert not stopper.is_alive()
    assert witness.outcome(2) is Outcome.DONE


class Unwilling(ThreadEngine):
    """An engine that can not be started."""

    def start(self, *arguments: object, **options: object) -> Any:
        raise MemoryError("no room for another thread")


def test_an_engine_that_does_not_start_leaves_no_port_open(root: Path) -> None:
    before = descriptors()
    server = Server(Directory(root), engine=Unwilling())
    with pytest.raises(MemoryError):
        server.start()
    assert descriptors() <= before
    server.stop()


@pytest.mark.parametrize("single_port", [False, True])
def test_another_system_serves_with_plain_calls(
    serve: Serve, root: Path, single_port: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    # What BSD and macOS have of all this: sockets.
    monkeypatch.setattr(kernel, "_LINUX", False)
    monkeypatch.setattr(kernel, "can_segment", lambda: False)
    monkeypatch.delattr(select, "epoll")
    monkeypatch.delattr(os, "eventfd", raising=False)
    server = serve(Directory(root, writable=True), single_port=single_port, hosts=("127.0.0.1",))
    with open_peer(server) as peer:
        assert peer.read("file", blksize=1428, windowsize=16) == CONTENT
        peer.write(CONTENT, "new", blksize=1428, windowsize=16)
        peer.rrq("missing")
        assert error_code(peer.receive()) == ErrorCode.FILE_NOT_FOUND
    assert (root / "new").read_bytes() == CONTENT


@everywhere
def test_a_path_is_that_directory_read_only(root: Path, arrangement: Arrangement) -> None:
    with arrangement.serving(str(root)) as server, open_peer(server) as peer:
        assert peer.read("file") == CONTENT
        peer.wrq("new")
        assert error_code(peer.receive()) == ErrorCode.ACCESS_VIOLATION


@in_one_process
def test_nothing_is_logged_per_packet(
    serve: Serve, root: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.DEBUG, "tftp"), open_peer(serve(Directory(root))) as peer:
        peer.read("file", blksize=8)
    assert len(caplog.records) < 10


# -- limits ---------------------------------------------------------------------------------------


@everywhere
def test_limits_of_the_configuration_are_kept(serve: Serve, root: Path) -> None:
    limits = Limits(max_blksize=1024, max_windowsize=4, refused=frozenset({"tsize"}))
    with open_peer(serve(Directory(root), limits=limits)) as peer:
        peer.rrq("file", tsize=0, blksize=1428, windowsize=16)
        assert peer.receive() == OptionAck({"blksize": "1024", "windowsize": "4"})
        peer.send(Ack(0))
        peer.received.clear()
        for block in (1, 2, 3, 4):
            assert peer.receive() == Data(block, CONTENT[(block - 1) * 1024 : block * 1024])
        assert peer.drain() == []


@everywhere
def test_ports_of_the_range_are_used_and_a_full_range_is_said(serve: Serve, root: Path) -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        probe.bind(("127.0.0.1", 0))
        only = probe.getsockname()[1]
    server = serve(Directory(root), port_range=(only, only))
    with open_peer(server) as peer, open_peer(server) as late:
        peer.rrq("file")
        assert peer.receive() == Data(1, CONTENT[:512])
        assert peer.tid == ("127.0.0.1", only)
        late.rrq("file")
        answer = late.receive()
        assert isinstance(answer, Error)
        assert answer.code == 0
        assert "ports are in use" in answer.message
        peer.send(Error(0, "enough"))

        def served() -> bool:
            late.rrq("file")
            return late.receive() == Data(1, CONTENT[:512])

        assert eventually(served)
        assert late.tid == ("127.0.0.1", only)


# -- an operator's orders -------------------------------------------------------------------------


@everywhere
def test_one_transfer_is_cancelled_and_the_others_go_on(
    serve: Serve, witness: Witness, root: Path
) -> None:
    server = serve(Directory(root, writable=True))
    with open_peer(server) as one, open_peer(server) as other:
        one.wrq("new")
        assert one.receive() == Ack(0)
        number = witness.wait(TransferStarted).transfer
        other.rrq("file")
        assert other.receive() == Data(1, CONTENT[:512])
        assert server.cancel(number)
        assert error_code(one.receive()) == 0
        assert witness.outcome() is Outcome.ABORTED
        assert not server.cancel(number)
        assert not server.cancel(999)
        other.send(Ack(1))
        assert CONTENT[:512] + other.collect(block=1) == CONTENT
    assert [entry.name for entry in root.iterdir()] == ["file"]


@everywhere
def test_a_paused_server_finishes_what_runs_and_takes_nothing_new(
    serve: Serve, witness: Witness, root: Path
) -> None:
    server = serve(Directory(root))
    with open_peer(server) as running, open_peer(server) as late:
        running.rrq("file")
        assert running.receive() == Data(1, CONTENT[:512])
        server.pause()
        assert server.state == "draining"
        # To another process the word may still be on its way.
        assert eventually(lambda: not takes_requests(late))
        late.rrq("file")
        assert error_code(late.receive()) == 0
        running.send(Ack(1))
        assert CONTENT[:512] + running.collect(block=1) == CONTENT
        server.resume()
        assert server.state == "serving"
        assert eventually(lambda: takes_requests(late))
        assert late.read("file") == CONTENT
    witness.wait(TransferEnded, 2)
    assert len(witness.all(TransferStarted)) == 2


def takes_requests(peer: WirePeer) -> bool:
    """Whether a request is looked at, and not turned away before."""
    peer.rrq("missing")
    code = error_code(peer.receive())
    assert code in (0, ErrorCode.FILE_NOT_FOUND)
    return code != 0


@everywhere
def test_a_server_that_was_paused_before_its_start_is_paused(
    root: Path, arrangement: Arrangement
) -> None:
    server = arrangement.make(Directory(root))
    server.pause()
    with server, open_peer(server) as peer:
        peer.rrq("file")
        assert error_code(peer.receive()) == 0
        server.resume()
        assert eventually(lambda: takes_requests(peer))
        assert peer.read("file") == CONTENT


def test_limits_change_for_requests_to_come(serve: Serve, root: Path) -> None:
    server = serve(Directory(root))
    with open_peer(server) as one, open_peer(server) as two:
        one.rrq("file", blksize=1428, windowsize=16)
        assert one.receive() == OptionAck({"blksize": "1428", "windowsize": "16"})
        server.change_limits(max_blksize=1024, max_windowsize=2, max_transfers=1)
        assert server.limits == {"max_transfers": 1, "max_blksize": 1024, "max_windowsize": 2}
        two.rrq("file")
        assert error_code(two.receive()) == 0  # There is one already.
        one.send(Ack(0))
        assert one.collect(blksize=1428, windowsize=16) == CONTENT
        assert eventually(lambda: server.running == 0)
        two.rrq("file", blksize=1428, windowsize=16)
        assert two.receive() == OptionAck({"blksize": "1024", "windowsize": "2"})
        with pytest.raises(ValueError, match="blksize"):
            server.change_limits(max_blksize=7)
        with pytest.raises(ValueError, match="max_transfers"):
            server.change_limits(max_transfers=0)
        assert server.limits["max_blksize"] == 1024
