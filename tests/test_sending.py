"""Sessions that send, on real sockets: reading ahead, and what ends or holds up the sending."""

import select
import socket
import threading
import time
import tracemalloc
from collections.abc import Iterator
from typing import Any

import pytest

from tests.networks import two_hosts
from tests.server.storages import failing
from tests.stage import FAULTS, LOOPBACK, Stage, acknowledged, acknowledged_one, pair_with
from tests.wirepeer import PATIENCE, WirePeer, error_code
from tftp.errors import Aborted, ErrorCode
from tftp.events import Outcome
from tftp.net import kernel
from tftp.net.endpoint import Endpoint, open_port
from tftp.net.reactor import Reactor
from tftp.options import Terms
from tftp.packets import Ack, Data, Error, Packet
from tftp.session import Session
from tftp.timers import Patience


@pytest.fixture
def stage() -> Iterator[Stage]:
    made = Stage()
    yield made
    made.close()


@pytest.mark.parametrize("rollover", [0, 1])
def test_block_numbers_go_on_across_the_wrap(stage: Stage, rollover: int) -> None:
    blksize = 8
    content = bytes(range(251)) * (65600 * blksize // 251)
    terms = Terms(blksize=blksize, windowsize=64, rollover=rollover)
    session = stage.sending(content, terms)
    session.start(0.0)
    came = bytearray()
    last = len(content) // blksize + 1
    wrap = [block % 65536 if not rollover else (block - 1) % 65535 + 1 for block in range(last + 1)]
    for block in range(1, last + 1):
        packet = stage.peer.receive()
        assert isinstance(packet, Data)
        assert packet.block == wrap[block]
        came += packet.payload
        if block % 64 == 0 or block == last:
            stage.peer.send(Ack(wrap[block]))
            stage.hand_over(session, 0.0)
    assert came == content
    assert stage.ended().outcome is Outcome.DONE
    assert stage.ended().counters.payload == len(content)


@pytest.mark.parametrize(("error", "code"), FAULTS, ids=lambda value: repr(value)[:20])
@pytest.mark.parametrize("block", [1, 2, 9])
def test_a_file_that_can_not_be_read_any_more_is_an_error_to_the_client(
    stage: Stage, error: BaseException, code: int, block: int
) -> None:
    terms = Terms(windowsize=2)
    now = time.monotonic()
    session = stage.sending(bytes(512 * 20), terms, now=now)
    reactor = Reactor()
    reactor.add(session)
    if block == 1:
        stage.storage.before = {"read_into": failing(error)}
    reactor.drive(session, session.start, now)
    came = 0
    while True:
        packet = stage.peer.receive()
        if isinstance(packet, Error):
            break
        assert isinstance(packet, Data)
        came = packet.block
        if came >= block - 1:
            stage.storage.before = {"read_into": failing(error)}
        if came % 2 == 0:
            stage.peer.send(Ack(came))
            reactor.turn()
    assert packet.code == code
    assert "secret" not in packet.message
    ended = stage.ended()
    assert ended.outcome is Outcome.STORAGE_ERROR
    assert ended.error is not None
    assert stage.storage.calls[-1] == "close"
    assert stage.storage.count("close") == 1
    assert len(reactor) == 0
    assert stage.peer.drain() == []
    reactor.close()


@pytest.mark.parametrize("windowsize", [1, 4])
def test_a_network_that_refuses_for_good_ends_it_in_the_middle(
    stage: Stage, windowsize: int
) -> None:
    session = stage.sending(bytes(512 * 100), Terms(windowsize=windowsize))
    session.start(0.0)
    for block in range(1, 41):  # Until the next window is always ready beforehand.
        stage.peer.receive()
        if block % windowsize == 0:
            stage.peer.send(Ack(block))
            stage.hand_over(session, 0.001 * block)
    assert [type(packet) for packet in stage.peer.drain()] == [Data] * windowsize
    session.peer = (session.peer[0], 0)
    session.deliver(memoryview(Ack(40 + windowsize).encode()), 4, 1.0)
    assert session.finished
    assert stage.ended().outcome is Outcome.UNREACHABLE
    assert stage.storage.count("close") == 1


@pytest.mark.parametrize("paired", [False, True])
@pytest.mark.parametrize("windowsize", [1, 4])
def test_a_route_that_is_prohibited_ends_it_where_the_next_window_was_ready(
    stage: Stage, windowsize: int, paired: bool
) -> None:
    with two_hosts() as (left, right):
        sock = left.call(open_port, socket.AF_INET, ("192.0.2.1", 0))
        with WirePeer(sock.getsockname(), sock=right.socket(("192.0.2.2", 0))) as peer:
            endpoint = left.call(pair_with, sock, peer.address) if paired else Endpoint(sock)
            session = stage.sending(
                bytes(512 * 100), Terms(windowsize=windowsize), peer=peer.address, endpoint=endpoint
            )
            session.start(0.0)
            for block in range(1, 41):
                assert isinstance(peer.receive(), Data)
                if block == 40:
                    left.ip("route add prohibit 192.0.2.2/32")
                if block % windowsize == 0:
                    peer.send(Ack(block))
                    stage.hand_over(session, 0.001 * block)
            assert session.finished
            assert peer.drain() == []
    ended = stage.ended()
    assert ended.outcome is Outcome.UNREACHABLE
    assert ended.error is not None
    assert isinstance(ended.error.__cause__, PermissionError)
    assert stage.storage.count("close") == 1


def test_the_next_windows_are_read_while_the_peer_has_the_present_one(stage: Stage) -> None:
    session = stage.sending(bytes(512 * 500))
    session.start(0.0)
    acknowledged(stage, session, 20)
    stage.peer.receive()
    before = stage.storage.count("read_into")
    sent_first: list[bool] = []
    stage.storage.before = {"read_into": lambda: sent_first.append(not stage.peer.silent(0.0))}
    for block in range(21, 421):
        stage.peer.send(Ack(block))
        stage.hand_over(session, 0.1)
        assert stage.peer.receive() == Data(block + 1, bytes(512))
    # Some reads, each for many blocks, and the block before them had left already.
    assert 1 <= stage.storage.count("read_into") - before <= 10
    assert all(sent_first)


def windows_acknowledged(stage: Stage, session: Session, windowsize: int) -> bytes:
    """All that comes to the end of the file, each window acknowledged by its last block."""
    content, block = b"", 0
    while True:
        packet = stage.peer.receive()
        assert isinstance(packet, Data)
        block += 1
        assert packet.block == block
        content += packet.payload
        last = len(packet.payload) < 512
        if last or not block % windowsize:
            stage.peer.send(Ack(block))
            stage.hand_over(session, 0.1)
        if last:
            return content


@pytest.mark.parametrize("windowsize", [1, 4])
@pytest.mark.parametrize("size", [512 * 600, 512 * 600 + 1, 512 * 603 + 511])
def test_who_reads_the_same_file_needs_to_read_it_only_once(
    stage: Stage, windowsize: int, size: int
) -> None:
    stage.storage.identity = "file"
    content = bytes(number % 251 for number in range(size))
    reads = []
    for _ in range(3):
        before = stage.storage.count("read_into")
        session = stage.sending(content, Terms(windowsize=windowsize))
        session.start(0.0)
        assert windows_acknowledged(stage, session, windowsize) == content
        session.close()
        reads.append(stage.storage.count("read_into") - before)
    first, *others = reads
    assert first >= 15, "parts of 32 KiB"
    # The beginning and the end are every transfer's own.
    assert max(others) <= 8


def test_a_file_that_has_changed_is_read_anew(stage: Stage) -> None:
    for number in range(3):
        stage.storage.identity = f"state {number}"
        content = bytes([number]) * (512 * 300)
        session = stage.sending(content)
        session.start(0.0)
        assert windows_acknowledged(stage, session, 1) == content


def test_one_whose_windows_have_shifted_gets_the_same_file(stage: Stage) -> None:
    stage.storage.identity = "file"
    content = bytes(number % 251 for number in range(512 * 400 + 7))
    session = stage.sending(content, Terms(windowsize=4))
    session.start(0.0)
    assert windows_acknowledged(stage, session, 4) == content
    session = stage.sending(content, Terms(windowsize=4))
    session.start(0.0)
    came, acked, lost = b"", 0, False
    while len(came) % 512 == 0:
        packet = stage.peer.receive()
        assert isinstance(packet, Data)
        block = len(came) // 512 + 1
        if packet.block != block:
            assert lost, "only what was lost comes again, and what was behind it"
            continue
        came += packet.payload
        if block == 40 and not lost:
            # As if the last two of this window had not come.
            came, acked, lost = came[: 38 * 512], 34, True
            block = 38
        if len(packet.payload) < 512 or block - acked == 4:
            acked = block
            stage.peer.send(Ack(block))
            stage.hand_over(session, 0.1)
    assert lost
    assert came == content


def test_a_reader_that_is_joined_by_another_shares_from_then_on(stage: Stage) -> None:
    content = bytes(number % 251 for number in range(512 * 1000))
    session = stage.sending(content)
    session.start(0.0)
    begun = acknowledged(stage, session, 200)
    source: Any = session._source
    source.identity = "file"
    ended = b""
    for block in range(201, 1002):
        packet = stage.peer.receive()
        assert isinstance(packet, Data)
        ended += packet.payload
        stage.peer.send(Ack(block))
        stage.hand_over(session, 0.1)
        if block == 600:
            source.identity = None
    assert begun + ended == content


def test_one_that_has_ended_keeps_nothing_ready_though_somebody_remembers_it(stage: Stage) -> None:
    # A reactor does, until a deadline of it comes up that holds no more.
    def end_one_in_the_middle() -> None:
        session = stage.sending(content)
        session.start(0.0)
        acknowledged(stage, session, 20)
        session.abort(Aborted("enough"))
        session.close()
        stage.peer.drain()

    content = bytes(512 * 200)
    end_one_in_the_middle()
    tracemalloc.start()
    for _ in range(4):
        end_one_in_the_middle()
    kept, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert kept < 4 * (32 << 10), "64 KiB were ready for each"


def test_what_was_sent_ahead_is_accounted_for_before_anything_else_happens(stage: Stage) -> None:
    for happens in (
        lambda session: session.expire(0.0),
        lambda session: session.abort(Aborted("enough")),
        lambda session: session.joins(session.request, 0.0),
    ):
        session = stage.sending(bytes(512 * 100))
        session.start(0.0)
        acknowledged(stage, session, 30)
        happens(session)
        assert session.machine.counters.payload == 30 * 512
        session.close()
        stage.peer.drain()


def test_an_error_is_heard_where_an_ack_was_awaited(stage: Stage) -> None:
    session = stage.sending(bytes(512 * 100))
    session.start(0.0)
    acknowledged(stage, session, 30)
    stage.peer.send(Error(3, "my disk is full"))
    stage.hand_over(session, 0.1)
    assert stage.ended().outcome is Outcome.PEER_ERROR


def test_half_a_window_acknowledged_is_half_a_window_sent(stage: Stage) -> None:
    terms = Terms(windowsize=4)
    session = stage.sending(bytes(512 * 100), terms)
    session.start(0.0)
    for block in range(1, 41):
        stage.peer.receive()
        if block % 4 == 0:
            stage.peer.send(Ack(block))
            stage.hand_over(session, block / 1000)
    for _ in range(4):
        stage.peer.receive()
    # 41 to 44 are out, and 45 to 48 are ready: the ACK that comes is not the one for them.
    stage.peer.send(Ack(42))
    stage.hand_over(session, 0.1)
    packets = stage.peer.drain()
    assert packets
    blocks = [packet.block for packet in packets if isinstance(packet, Data)]
    assert max(blocks) <= 46


@pytest.mark.parametrize(
    ("windowsize", "plain"), [(16, True), (64, False)], ids=["one by one", "in segments"]
)
def test_a_full_queue_costs_time_alone(
    stage: Stage, windowsize: int, plain: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    if plain:
        monkeypatch.setattr(kernel, "can_segment", lambda: False)
    refusals: list[bool] = []
    with two_hosts() as (left, right):
        left.tc("qdisc add dev wire root tbf rate 30mbit burst 3000 latency 10s")
        sock = left.call(open_port, socket.AF_INET, ("192.0.2.1", 0))
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1)
        with WirePeer(sock.getsockname(), sock=right.socket(("192.0.2.2", 0))) as peer:
            content = bytes(range(251)) * 2000
            now = time.monotonic()
            session = stage.sending(
                content,
                Terms(windowsize=windowsize, blksize=1428),
                patience=Patience(initial=2.0, floor=2.0),
                now=now,
                peer=peer.address,
                endpoint=Endpoint(sock),
            )

            def over() -> bool:
                refusals.append(session.blocked)
                return session.ended is not None

            reactor = Reactor()
            reactor.add(session)
            reactor.drive(session, session.start, now)
            thread = threading.Thread(target=reactor.run, args=(over,))
            thread.start()
            came = bytearray()
            packet: Packet | None = None
            while len(came) < len(content):
                packet = peer.receive()
                assert isinstance(packet, Data)
                came += packet.payload
                if packet.block % windowsize == 0:
                    peer.send(Ack(packet.block))
            assert isinstance(packet, Data)
            peer.send(Ack(packet.block))
            thread.join(PATIENCE)
            reactor.close()
            assert came == content
            assert stage.ended().outcome is Outcome.DONE
            assert stage.ended().counters.retransmissions == 0
            assert any(refusals)


def test_a_stranger_is_turned_away_also_where_the_next_window_is_ready(stage: Stage) -> None:
    content = bytes(512 * 50)
    session = stage.sending(content)
    session.start(0.0)
    with WirePeer(session.local) as stranger:
        for block in range(1, 51):
            acknowledged_one(stage, session, block, block / 1000)
            # This very ACK would be right, had the peer sent it.
            stranger.send(Ack(block + 1))
            stage.hand_over(session, block / 1000)
            assert error_code(stranger.receive()) == ErrorCode.UNKNOWN_TID
    assert session.machine.counters.blocks == 51
    acknowledged_one(stage, session, 51, 1.0)
    assert stage.ended().outcome is Outcome.DONE
    assert stage.ended().counters.duplicates == 0


def test_a_stranger_is_turned_away_also_where_the_kernel_tells_the_peer_from_it(
    stage: Stage,
) -> None:
    endpoint = pair_with(open_port(socket.AF_INET, LOOPBACK), stage.peer.address)
    session = stage.sending(bytes(512 * 50), endpoint=endpoint)
    session.start(0.0)
    assert session.beside is not None
    descriptor, beset = session.beside
    with WirePeer(session.local) as stranger:
        for block in range(1, 51):
            stranger.send(Ack(block))
            readable, _, _ = select.select([descriptor], [], [], PATIENCE)
            assert readable
            beset(block / 1000)
            assert error_code(stranger.receive()) == ErrorCode.UNKNOWN_TID
            acknowledged_one(stage, session, block, block / 1000)
        assert session.strangers == {stranger.address}
    acknowledged_one(stage, session, 51, 1.0)
    assert stage.ended().outcome is Outcome.DONE
    assert stage.ended().counters.duplicates == 0


@pytest.mark.parametrize("corked", [False, True])
@pytest.mark.parametrize("paired", [False, True])
def test_a_path_that_becomes_narrow_costs_a_window_at_the_most(
    stage: Stage, paired: bool, corked: bool
) -> None:
    with two_hosts() as (left, right):
        sock = left.call(open_port, socket.AF_INET, ("192.0.2.1", 0))
        with WirePeer(sock.getsockname(), sock=right.socket(("192.0.2.2", 0))) as peer:
            session = stage.sending(
                bytes(1400 * 40 - 1),
                Terms(windowsize=4, blksize=1400),
                peer=peer.address,
                endpoint=left.call(pair_with, sock, peer.address) if paired else Endpoint(sock),
            )
            outbox = stage.workspace.outbox
            session.start(0.0)
            now = 0.0
            for window in range(1, 11):
                if window == 6:
                    left.ip("link set wire mtu 1000")  # Too little for the kernel to cut into.
                if peer.silent(0.0):
                    now += 1.0
                    session.expire(now)
                for _ in range(4):
                    assert isinstance(peer.receive(), Data)
                peer.send(Ack(4 * window))
                outbox.corked = corked
                stage.hand_over(session, now)
                outbox.uncork()
            assert stage.ended().outcome is Outcome.DONE
            assert stage.ended().counters.timeouts <= (paired and corked)
