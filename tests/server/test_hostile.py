"""What nobody sends who means well: junk, forged requests, foreign transfers, floods.

The measure is always the same: the server goes on to serve, and it has sent no more than it should.
"""

import errno
import itertools
import os
import resource
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from random import Random
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.arrangements import (
    CALM,
    Arrangement,
    Served,
    arranged,
    everywhere,
    in_one_process,
    spread,
)
from tests.server.conftest import Serve
from tests.server.storages import Scripted
from tests.watching import Witness, descriptors, eventually
from tests.wirepeer import WirePeer, error_code
from tftp.errors import ErrorCode
from tftp.events import Operation, Outcome, RequestReceived, RequestRefused, TransferEnded
from tftp.packets import Ack, Data, Error, OptionAck, Packet, ReadRequest, WriteRequest
from tftp.server import Server, ServerConfig
from tftp.storage import Directory, Memory
from tftp.timers import Patience

CONTENT = bytes(range(256)) * 40 + b"end"
# Forged transfers go soon; honest ones have seconds.
BRIEF = Patience(initial=0.05, floor=0.05, ceiling=0.1, total=2.0, dally=0.1)

words = st.one_of(
    st.binary(max_size=20),
    st.sampled_from(
        [
            b"octet",
            b"netascii",
            b"mail",
            b"blksize",
            b"tsize",
            b"windowsize",
            b"timeout",
            b"rollover",
        ]
    ),
    st.integers(-1, 1 << 40).map(lambda number: str(number).encode()),
    st.sampled_from([b"file", b"../../etc/passwd", b"/", b"", b"..", b"\\..\\x", b"%2e%2e/x"]),
)
junk = st.one_of(
    st.binary(max_size=64),
    st.binary(min_size=500, max_size=2000),
    # Something like a packet, with any opcode.
    st.tuples(st.integers(0, 8), st.binary(max_size=40)).map(
        lambda parts: parts[0].to_bytes(2, "big") + parts[1]
    ),
    # Something like a request.
    st.tuples(st.sampled_from([1, 2]), st.lists(words, max_size=12)).map(
        lambda parts: parts[0].to_bytes(2, "big") + b"\0".join(parts[1]) + b"\0"
    ),
    st.tuples(st.sampled_from([1, 2]), words, words).map(
        lambda parts: parts[0].to_bytes(2, "big") + parts[1] + b"\0octet\0" + parts[2]
    ),
)


def is_error(datagram: bytes) -> bool:
    return datagram[:2] == b"\0\5"


@pytest.fixture
def root(tmp_path: Path) -> Path:
    folder = tmp_path / "root"
    folder.mkdir()
    (folder / "file").write_bytes(CONTENT)
    return folder


@pytest.fixture(params=[False, True], ids=["ports", "single port"])
def server(request: pytest.FixtureRequest) -> Iterator[Server]:
    """One server for all the junk of a test."""
    config = ServerConfig(patience=BRIEF, single_port=request.param, max_transfers=300)
    with Server(Memory({"file": CONTENT}, writable=True, overwrite=True), config=config) as made:
        yield made


@pytest.fixture(
    params=itertools.product(
        [Arrangement.TWO_THREADS, Arrangement.PROCESSES, Arrangement.SUPERVISOR], [False, True]
    ),
    ids=lambda pair: f"{pair[0]}, {'single port' if pair[1] else 'ports'}",
)
def several(request: pytest.FixtureRequest, root: Path) -> Iterator[Served]:
    """One server in several threads or processes, likewise."""
    arrangement, single_port = request.param
    config = ServerConfig(patience=BRIEF, single_port=single_port, max_transfers=100)
    storage = Directory(root, writable=True, overwrite=True)
    with arrangement.serving(storage, config=config) as made:
        yield made


MUCH = settings(
    max_examples=400,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture],
)
SOME = settings(MUCH, max_examples=30)


@MUCH
@given(datagrams=st.lists(junk, min_size=1, max_size=8))
def test_junk_at_the_door_leaves_the_server_serving(server: Server, datagrams: list[bytes]) -> None:
    bring_to_the_door(server, datagrams)


@SOME
@given(datagrams=st.lists(junk, min_size=1, max_size=8))
def test_junk_at_the_door_leaves_many_serving(several: Served, datagrams: list[bytes]) -> None:
    bring_to_the_door(several, datagrams)


def bring_to_the_door(server: Served, datagrams: list[bytes]) -> None:
    with WirePeer(server.address) as vandal, WirePeer(server.address) as peer:
        for datagram in datagrams:
            vandal.send(datagram)
        assert eventually(lambda: served(peer))
        answers = vandal.drain()
        # Nothing but packets comes back, and nothing for an ERROR.
        assert len(answers) <= 3 * len(datagrams)
        if all(map(is_error, datagrams)):
            assert answers == []


@MUCH
@given(datagrams=st.lists(junk, min_size=1, max_size=8))
def test_junk_at_a_transfer_from_others_does_not_touch_it(
    server: Server, datagrams: list[bytes]
) -> None:
    bring_to_anothers_transfer(server, datagrams)


@SOME
@given(datagrams=st.lists(junk, min_size=1, max_size=8))
def test_junk_at_a_transfer_of_many_from_others_does_not_touch_it(
    several: Served, datagrams: list[bytes]
) -> None:
    bring_to_anothers_transfer(several, datagrams)


def bring_to_anothers_transfer(server: Served, datagrams: list[bytes]) -> None:
    with WirePeer(server.address) as peer, WirePeer(server.address) as vandal:
        assert eventually(lambda: granted(peer))
        tid = peer.tid
        for datagram in datagrams:
            vandal.send(datagram, tid)
        peer.send(Ack(0))
        assert peer.collect(blksize=2048) == CONTENT
        if tid != server.address:
            answers = vandal.drain()
            assert {error_code(answer) for answer in answers} <= {ErrorCode.UNKNOWN_TID}
            if all(map(is_error, datagrams)):
                assert answers == []


@MUCH
@given(datagrams=st.lists(junk, min_size=1, max_size=8), writes=st.booleans())
def test_junk_from_the_peer_itself_ends_its_own_transfer_at_worst(
    server: Server, datagrams: list[bytes], writes: bool
) -> None:
    bring_to_an_own_transfer(server, datagrams, writes)


@SOME
@given(datagrams=st.lists(junk, min_size=1, max_size=8), writes=st.booleans())
def test_junk_from_the_peer_itself_ends_its_own_transfer_at_worst_among_many(
    several: Served, datagrams: list[bytes], writes: bool
) -> None:
    bring_to_an_own_transfer(several, datagrams, writes)


def bring_to_an_own_transfer(server: Served, datagrams: list[bytes], writes: bool) -> None:
    with WirePeer(server.address) as vandal, WirePeer(server.address) as peer:
        assert eventually(lambda: answered(vandal, writes))
        tid = vandal.tid
        for datagram in datagrams:
            vandal.send(datagram, tid)
        assert eventually(lambda: served(peer))
        # One ERROR at the most for one transfer; every packet of it can be read.
        errors = [packet for packet in vandal.drain() if isinstance(packet, Error)]
        if tid != server.address:
            assert len(errors) <= 1


@everywhere
def test_ten_thousand_datagrams_of_noise_leave_nothing(
    root: Path, arrangement: Arrangement
) -> None:
    random = Random(7)
    before = descriptors()
    storage = Directory(root, writable=True)
    with arrangement.serving(storage, config=ServerConfig(patience=BRIEF)) as server:
        vandals = [WirePeer(server.address) for _ in range(20)]
        for _ in range(10_000):
            noise = random.randbytes(random.choice((0, 1, 2, 3, 4, 5, 20, 516, 1500)))
            if random.random() < 0.5:
                noise = bytes([0, random.randrange(9)]) + noise
            random.choice(vandals).send(noise, server.address)
        with WirePeer(server.address) as peer:
            # What still waits at the door is taken first; this request may have found it full.
            assert eventually(lambda: served(peer))
        assert eventually(lambda: server.running == 0)
        for vandal in vandals:
            vandal.close()
    assert descriptors() <= before
    assert [entry.name for entry in root.iterdir()] == ["file"]


def served(peer: WirePeer) -> bool:
    """Whether a request is answered soon, and then with the file."""
    if not granted(peer):
        return False
    peer.send(Ack(0))
    return peer.collect(blksize=2048) == CONTENT


def answered(peer: WirePeer, writes: bool) -> bool:
    """Whether a request is answered soon.

    It may be taken for the repeat of one that an earlier peer with this port was not heard after.
    """
    peer.wrq("new") if writes else peer.rrq("file")
    return not peer.silent(0.3) and bool(peer.receive())


def granted(peer: WirePeer) -> bool:
    """Whether a request is answered soon, and not by an ERROR: the server may be busy."""
    peer.drain()
    peer.rrq("file", blksize=2048)
    return not peer.silent(0.5) and isinstance(peer.receive(), OptionAck)


# -- forged requests ------------------------------------------------------------------------------


@spread(
    ("operation", "options"),
    [
        ("rrq", {}),
        ("rrq", {"tsize": 0}),
        ("rrq", {"blksize": 65464, "windowsize": 64}),
        ("rrq", {"x-unknown": 1}),
        ("wrq", {}),
        ("wrq", {"blksize": 1428}),
    ],
    core=[("rrq", {}), ("wrq", {"blksize": 1428})],
)
@pytest.mark.parametrize("single_port", [False, True])
def test_a_silent_address_gets_three_packets_and_no_more(
    serve: Serve,
    witness: Witness,
    root: Path,
    operation: str,
    options: dict[str, Any],
    single_port: bool,
) -> None:
    patience = Patience(initial=0.02, floor=0.02, ceiling=0.04, total=0.15)
    storage = Directory(root, writable=True)
    before = descriptors()
    server = serve(storage, patience=patience, single_port=single_port)
    with WirePeer(server.address) as victim:
        getattr(victim, operation)("file" if operation == "rrq" else "new", **options)
        assert witness.outcome() is Outcome.TIMED_OUT
        packets = victim.drain()
        assert 1 <= len(packets) <= 3
        assert len(set(victim.received)) == 1
        assert not any(isinstance(packet, Error) for packet in packets)
        assert sum(map(len, victim.received)) <= 3 * 516
    assert eventually(lambda: server.running == 0)
    server.stop()
    assert [entry.name for entry in root.iterdir()] == ["file"]
    assert descriptors() <= before


@pytest.mark.parametrize("option", ["timeout", "utimeout"])
def test_a_silent_address_gets_no_more_if_it_asked_for_a_timeout(
    serve: Serve, witness: Witness, root: Path, option: str
) -> None:
    asked: dict[str, Any] = {option: {"timeout": 1, "utimeout": 10_000}[option]}
    server = serve(Directory(root), patience=Patience(total=0.5))
    with WirePeer(server.address) as victim:
        victim.rrq("file", **asked)
        assert witness.outcome() is Outcome.TIMED_OUT
        assert 1 <= len(victim.drain()) <= 3


@everywhere
def test_a_request_that_is_forged_again_and_again_gets_no_more_for_it(
    serve: Serve, witness: Witness, root: Path
) -> None:
    patience = Patience(initial=0.02, floor=0.02, ceiling=0.04, total=0.3)
    server = serve(Directory(root), patience=patience)
    with WirePeer(server.address) as victim:
        request = ReadRequest(b"file", "octet", {"blksize": "65464", "windowsize": "64"})
        while not witness.all(TransferEnded):
            victim.send(request, server.address)
            victim.silent(0.005)
            victim.drain()
        # What is told of from another process may come after what is told.
        assert eventually(lambda: len(victim.received) <= 3 * len(witness.all(RequestReceived)))
        assert len(victim.sent) > 3
        assert not any(map(is_error, victim.received))


@everywhere
def test_errors_are_sent_once_each_and_never_for_errors(serve: Serve, root: Path) -> None:
    server = serve(Directory(root), patience=BRIEF)
    with WirePeer(server.address) as victim:
        victim.rrq("missing")
        assert error_code(victim.receive()) == ErrorCode.FILE_NOT_FOUND
        # Were the victim a server, it would answer nothing either: no two keep each other busy.
        victim.send(Error(ErrorCode.UNKNOWN_TID, "who are you?"), server.address)
        assert victim.silent(0.2)


# -- foreign transfers ----------------------------------------------------------------------------


@everywhere
def test_a_forged_end_does_not_end_anothers_transfer(
    serve: Serve, witness: Witness, root: Path
) -> None:
    server = serve(Directory(root))
    with WirePeer(server.address) as peer, WirePeer(server.address) as vandal:
        peer.rrq("file")
        assert peer.receive() == Data(1, CONTENT[:512])
        forged = (Error(0, "stop"), Ack(1), Ack(65535), Data(1, b"x"), WriteRequest(b"x"))
        for packet in forged:
            vandal.send(packet, peer.tid)
            vandal.send(packet, server.address)
        for _ in range(8):  # ERROR 5 to all but the two ERRORs, and the WRQ is refused.
            assert isinstance(vandal.receive(), Error)
        peer.send(Ack(1))
        assert CONTENT[:512] + peer.collect(block=1) == CONTENT
        assert vandal.drain() == []
    assert witness.wait(TransferEnded).outcome is Outcome.DONE


@everywhere
def test_a_transfers_own_peer_that_breaks_the_protocol_is_told_once(
    serve: Serve, witness: Witness, root: Path
) -> None:
    server = serve(Directory(root, writable=True))
    illegal: list[Packet] = [Data(1, b"x"), ReadRequest(b"x"), WriteRequest(b"x")]
    for count, packet in enumerate(illegal, 1):
        with WirePeer(server.address) as vandal:
            vandal.rrq("file")
            vandal.receive()
            vandal.send(packet)
            assert error_code(vandal.receive()) == ErrorCode.ILLEGAL_OPERATION
            assert witness.outcome(count) is Outcome.PROTOCOL_ERROR
            vandal.send(packet)
            assert vandal.drain() == []


@everywhere
@pytest.mark.parametrize(
    ("datagram", "operation", "name"),
    [
        (b"\0\1", Operation.READ, b""),
        (b"\0\1name", Operation.READ, b"name"),
        (b"\0\2name\0mode", Operation.WRITE, b"name"),
        (b"\0\2" + b"x" * 5000, Operation.WRITE, b"x" * 255),
    ],
    ids=lambda value: repr(value)[:20],
)
def test_a_request_that_makes_no_sense_is_told_of_like_any_that_is_refused(
    serve: Serve,
    witness: Witness,
    root: Path,
    datagram: bytes,
    operation: Operation,
    name: bytes,
) -> None:
    server = serve(Directory(root))
    with WirePeer(server.address) as vandal:
        vandal.send(datagram)
        assert error_code(vandal.receive()) == ErrorCode.ILLEGAL_OPERATION
        refused = witness.wait(RequestRefused)
        assert refused.error.code == ErrorCode.ILLEGAL_OPERATION
        request = refused.request
        assert (request.operation, request.filename, request.mode) == (operation, name, "")
        assert request.peer == vandal.address
        assert vandal.drain() == []


@in_one_process
def test_an_upload_of_a_block_that_is_too_large_is_refused(serve: Serve, witness: Witness) -> None:
    storage = Scripted()
    with WirePeer(serve(storage).address) as vandal:
        vandal.wrq("new")
        vandal.receive()
        vandal.send(Data(1, bytes(513)))
        assert error_code(vandal.receive()) == ErrorCode.ILLEGAL_OPERATION
        assert witness.outcome() is Outcome.PROTOCOL_ERROR
    assert storage.written == {}
    assert storage.calls == ["open_write", "discard"]


@spread(("acked",), [(3,), (100,), (32769,), (65535,)], core=[(3,)])
def test_an_ack_of_what_was_never_sent_is_no_reason_to_send(
    serve: Serve, root: Path, acked: int
) -> None:
    # Pi 4: where a block arrives twice, it acknowledges the next, which nobody has sent.
    with WirePeer(serve(Directory(root)).address) as peer:
        peer.rrq("file")
        assert peer.receive() == Data(1, CONTENT[:512])
        peer.send(Ack(1))
        assert peer.receive() == Data(2, CONTENT[512:1024])
        for _ in range(5):
            peer.send(Ack(acked))
        peer.send(Ack(2))
        assert peer.receive() == Data(3, CONTENT[1024:1536])
        assert peer.drain() == []


@everywhere
def test_a_storm_of_repeated_acks_doubles_nothing(
    serve: Serve, witness: Witness, root: Path
) -> None:
    # RFC 1123, section 4.2.3.1: the Sorcerer's Apprentice.
    with WirePeer(serve(Directory(root)).address) as peer:
        peer.rrq("file")
        block = 0
        while True:
            packet = peer.receive()
            assert isinstance(packet, Data)
            block += 1
            assert packet.block == block
            for _ in range(10):
                peer.send(Ack(block))
            if len(packet.payload) < 512:
                break
        assert witness.outcome() is Outcome.DONE
        assert peer.drain() == []
        assert len(peer.received) == block == len(CONTENT) // 512 + 1


# -- floods ---------------------------------------------------------------------------------------


@arranged(Arrangement.THREADS, Arrangement.PROCESSES)
def test_a_flood_of_requests_keeps_nobody_out_for_long(
    serve: Serve, witness: Witness, root: Path
) -> None:
    server = serve(Directory(root), patience=BRIEF, max_transfers=50, queue_size=20)
    vandals = [WirePeer(server.address) for _ in range(200)]
    for _ in range(5):
        for vandal in vandals:
            vandal.rrq("file")
    for vandal in vandals:
        assert len(vandal.drain()) <= 5 * 4
    with WirePeer(server.address) as peer:
        assert eventually(lambda: served(peer))
    assert witness.all(RequestRefused)
    assert {event.error.code for event in witness.all(RequestRefused)} == {ErrorCode.UNDEFINED}
    assert eventually(lambda: server.running == 0)
    for vandal in vandals:
        vandal.close()


@everywhere
def test_a_flood_of_strangers_at_a_transfer_stops_neither_it_nor_the_others(
    serve: Serve, witness: Witness, root: Path
) -> None:
    server = serve(Directory(root))
    with WirePeer(server.address) as peer, WirePeer(server.address) as other:
        peer.rrq("file")
        assert peer.receive() == Data(1, CONTENT[:512])
        with WirePeer(peer.tid) as vandal:
            for _ in range(20):
                for _ in range(100):
                    vandal.send(Ack(1), vandal.server)
                assert other.read("file", blksize=4096) == CONTENT

        def goes_on() -> bool:
            # The strangers' datagrams may still fill the queue: then this one is lost.
            peer.send(Ack(1))
            return not peer.silent(0.05)

        assert eventually(goes_on)
        assert peer.receive() == Data(2, CONTENT[512:1024])
    assert witness.outcome(20) is Outcome.DONE


@in_one_process
def test_who_only_stays_for_a_last_ack_gives_its_descriptors_to_who_asks(
    serve: Serve, witness: Witness, root: Path
) -> None:
    # A finished upload keeps its sockets for six seconds; a burst of small ones takes them all.
    server = serve(Directory(root, writable=True), patience=replace(CALM, dally=600.0))
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    few = len(os.listdir("/proc/self/fd")) + 40  # noqa: PTH208
    resource.setrlimit(resource.RLIMIT_NOFILE, (few, hard))
    try:
        for number in range(60):
            with WirePeer(server.address) as peer:
                peer.write(b"all", f"new{number}")
        with WirePeer(server.address) as peer:
            assert peer.read("file") == CONTENT
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    assert [witness.outcome(count) for count in range(1, 62)] == [Outcome.DONE] * 61
    assert not witness.all(RequestRefused)


@in_one_process
def test_descriptors_that_have_run_out_come_back(
    serve: Serve, witness: Witness, root: Path
) -> None:
    server = serve(Directory(root, writable=True))
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    with WirePeer(server.address) as peer, WirePeer(server.address) as running:
        running.rrq("file")
        assert running.receive() == Data(1, CONTENT[:512])
        taken: list[int] = []
        resource.setrlimit(resource.RLIMIT_NOFILE, (len(os.listdir("/proc/self/fd")) + 40, hard))  # noqa: PTH208
        try:
            while True:
                try:
                    taken.append(os.dup(0))
                except OSError as error:
                    assert error.errno == errno.EMFILE  # noqa: PT017
                    break
            for ask in (peer.rrq, peer.wrq):
                ask("file" if ask == peer.rrq else "new")
                answer = peer.receive()
                assert isinstance(answer, Error)
                assert answer.code == 0
                assert "descriptors" in answer.message
            # What runs goes on.
            running.send(Ack(1))
            assert running.receive() == Data(2, CONTENT[512:1024])
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
            for descriptor in taken:
                os.close(descriptor)
        assert peer.read("file") == CONTENT
    assert len(witness.all(RequestRefused)) == 2
