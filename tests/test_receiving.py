"""Sessions that receive, on real sockets: what is stored, and only then acknowledged."""

import errno
import socket
import time
from collections.abc import Callable, Iterator

import pytest

from tests.server.storages import Gate, failing
from tests.stage import FAULTS, LOOPBACK, Stage
from tests.wirepeer import WirePeer, error_code
from tftp.errors import Aborted, ErrorCode, ProtocolError
from tftp.events import Address, Outcome, TransferEnded, TransferProgress
from tftp.net import kernel
from tftp.net.endpoint import Endpoint, open_port
from tftp.net.reactor import Reactor
from tftp.options import Terms
from tftp.packets import Ack, Data, Error, OptionAck
from tftp.receiving import ReceivingSession
from tftp.server.aside import Aside


@pytest.fixture
def stage() -> Iterator[Stage]:
    made = Stage()
    yield made
    made.close()


def test_a_file_is_stored_before_it_is_acknowledged(stage: Stage) -> None:
    seen: list[tuple[str, int]] = []

    def note(step: str) -> Callable[[], None]:
        return lambda: seen.append((step, len(stage.peer.drain())))

    stage.storage.before = {"write": note("write"), "commit": note("commit")}
    session = stage.receiving()
    session.start(0.0)
    assert stage.peer.receive() == Ack(0)
    stage.peer.send(Data(1, b"x" * 512))
    stage.hand_over(session, 0.1)
    assert stage.peer.receive() == Ack(1)
    stage.peer.send(Data(2, b"end"))
    stage.hand_over(session, 0.2)
    assert seen == [("write", 0), ("write", 0), ("commit", 0)]
    assert stage.peer.receive() == Ack(2)
    assert stage.storage.written == {b"file": b"x" * 512 + b"end"}
    assert stage.ended().outcome is Outcome.DONE
    # It stays to repeat its last ACK, and then is through.
    assert not session.finished
    stage.peer.send(Data(2, b"end"))
    stage.hand_over(session, 0.3)
    assert stage.peer.receive() == Ack(2)
    while not session.finished:
        assert session.deadline is not None
        session.expire(session.deadline)
    assert len(stage.witness.all(TransferEnded)) == 1
    assert "discard" not in stage.storage.calls


def test_datagrams_that_came_joined_are_stored_and_acknowledged_together(stage: Stage) -> None:
    terms = Terms(blksize=8, windowsize=4)
    session = stage.receiving(terms, {"blksize": "8", "windowsize": "4"})
    session.start(0.0)
    packets = [Data(block, bytes([block]) * 8) for block in (1, 2, 3)] + [Data(4, b"end")]
    joined = memoryview(b"".join(packet.encode() for packet in packets))
    session.deliver(joined, 12, 0.1)
    assert stage.storage.written == {b"file": b"\1" * 8 + b"\2" * 8 + b"\3" * 8 + b"end"}
    assert stage.storage.count("write") == 1
    assert stage.peer.drain() == [OptionAck({"blksize": "8", "windowsize": "4"}), Ack(4)]
    assert stage.ended().counters.datagrams_received == 4


@pytest.mark.parametrize("joins", [False, True])
def test_windows_arrive_whole_with_and_without_joining(stage: Stage, joins: bool) -> None:
    session = stage.receiving(Terms(windowsize=16), {"windowsize": "16"}, joins=joins)
    session.start(0.0)
    stage.peer.receive()
    content = bytes(range(256)) * 2 * 31 + b"end"
    sender = Endpoint(open_port(socket.AF_INET, LOOPBACK))
    stage.peer.sock.close()  # Its port is the sender's from here on.
    sender.close()
    sender = Endpoint(open_port(socket.AF_INET, session.peer))
    packets = [Data(n + 1, content[n * 512 : n * 512 + 512]).encode() for n in range(32)]
    for half in (packets[:16], packets[16:]):
        sender.send_blocks(memoryview(b"".join(half)), 516, session.local)
        while session.machine.counters.datagrams_received < packets.index(half[-1]) + 1:
            stage.hand_over(session, 0.1)
    assert stage.storage.written == {b"file": content}
    assert stage.ended().counters.gaps == 0
    sender.close()


def windowed(stage: Stage, windowsize: int) -> ReceivingSession:
    """A server that is written to in such windows, and whose OACK has come."""
    session = stage.receiving(Terms(windowsize=windowsize), {"windowsize": str(windowsize)})
    session.start(0.0)
    stage.peer.receive()
    return session


def test_what_waits_is_stored_in_one_go(stage: Stage) -> None:
    session = windowed(stage, 16)
    for block in range(1, 11):
        stage.peer.send(Data(block, bytes([block]) * 512))
    stage.hand_over(session, 0.1)
    assert stage.storage.count("write") == 1
    assert stage.peer.drain() == []
    stage.peer.send(Data(11, b"end"))
    stage.hand_over(session, 0.2)
    assert stage.peer.receive() == Ack(11)
    content = b"".join(bytes([block]) * 512 for block in range(1, 11)) + b"end"
    assert stage.storage.written == {b"file": content}


@pytest.mark.parametrize("windowsize", [1, 4])
def test_an_ack_does_not_wait_for_what_has_come_behind_its_window(
    stage: Stage, windowsize: int
) -> None:
    session = windowed(stage, windowsize)
    for block in range(1, 3 * windowsize + 1):
        stage.peer.send(Data(block, bytes(512)))
    for acked in (windowsize, 2 * windowsize, 3 * windowsize):
        stage.hand_over(session, 0.1)
        assert stage.peer.drain() == [Ack(acked)]
    assert stage.storage.count("write") == 3


def test_a_hole_is_reported_before_what_has_come_long_behind_it_is_looked_at(
    stage: Stage,
) -> None:
    session = windowed(stage, 64)
    for block in (1, 2, *range(4, 65)):
        stage.peer.send(Data(block, bytes(512)))
    stage.hand_over(session, 0.1)
    assert stage.peer.drain() == [Ack(2)]
    assert session.machine.counters.datagrams_received == 2 + 8


def test_an_error_ends_the_transfer_whatever_has_come_behind_it(stage: Stage) -> None:
    session = windowed(stage, 16)
    stage.peer.send(Data(1, bytes(512)))
    stage.peer.send(Data(2, bytes(513)))
    stage.peer.send(Data(3, bytes(512)))
    stage.hand_over(session, 0.1)
    assert [error_code(packet) for packet in stage.peer.drain()] == [ErrorCode.ILLEGAL_OPERATION]
    assert session.finished
    assert stage.ended().outcome is Outcome.PROTOCOL_ERROR
    assert stage.ended().counters.datagrams_received == 2
    assert stage.storage.calls[-1] == "discard"


def test_what_there_is_no_room_for_waits_until_the_rest_is_stored(stage: Stage) -> None:
    sock = open_port(socket.AF_INET, LOOPBACK)
    kernel.enlarge_buffers(sock, kernel.WANTED_BUFFER)
    terms = Terms(windowsize=4, blksize=65464)
    session = stage.receiving(terms, {"windowsize": "4"}, endpoint=Endpoint(sock))
    session.start(0.0)
    stage.peer.receive()
    content = [bytes([block]) * 65464 for block in range(1, 5)]
    for block, payload in enumerate(content, 1):
        stage.peer.send(Data(block, payload))
    stage.hand_over(session, 0.1)
    assert session.machine.counters.blocks == 3
    assert stage.storage.count("write") == 1
    stage.hand_over(session, 0.1)
    assert stage.peer.drain() == [Ack(4)]
    stage.peer.send(Data(5, b"end"))
    stage.hand_over(session, 0.2)
    assert stage.storage.written == {b"file": b"".join(content) + b"end"}


class Failing(Endpoint):
    """A port that the network fails once, when so many datagrams have been received."""

    def __init__(self, error: OSError, after: int) -> None:
        super().__init__(open_port(socket.AF_INET, LOOPBACK))
        self._error, self._after = error, after

    def receive(self, buffer: memoryview) -> tuple[memoryview, int, Address] | None:
        self._after -= 1
        if self._after == -1:
            raise self._error
        return super().receive(buffer)


@pytest.mark.parametrize("number", [errno.ENETUNREACH, errno.EIO])
def test_what_came_before_the_network_failed_is_stored_once(stage: Stage, number: int) -> None:
    endpoint = Failing(OSError(number, "no"), after=3)
    session = stage.receiving(Terms(windowsize=8), {"windowsize": "8"}, endpoint=endpoint)
    session.start(0.0)
    stage.peer.receive()
    content = [bytes([block]) * 512 for block in range(1, 9)]
    for block, payload in enumerate(content, 1):
        stage.peer.send(Data(block, payload))
    stage.hand_over(session, 0.1)
    assert session.machine.counters.datagrams_received == 3
    assert stage.storage.count("write") == 1
    if number == errno.EIO:
        assert stage.ended().outcome is Outcome.UNREACHABLE
        assert stage.storage.count("discard") == 1
        assert stage.peer.drain() == []
    else:  # A loss, if that.
        stage.hand_over(session, 0.2)
        assert stage.peer.drain() == [Ack(8)]
        stage.peer.send(Data(9, b"end"))
        stage.hand_over(session, 0.3)
        assert stage.storage.written == {b"file": b"".join(content) + b"end"}


@pytest.mark.parametrize(("error", "code"), FAULTS, ids=lambda value: repr(value)[:20])
@pytest.mark.parametrize("step", ["write", "commit"])
def test_a_file_that_can_not_be_stored_is_not_acknowledged(
    stage: Stage, error: BaseException, code: int, step: str
) -> None:
    stage.storage.before = {step: failing(error)}
    now = time.monotonic()
    session = stage.receiving(now=now)
    reactor = Reactor()
    reactor.add(session)
    reactor.drive(session, session.start, now)
    assert stage.peer.receive() == Ack(0)
    stage.peer.send(Data(1, b"all of it"))
    reactor.turn()
    assert error_code(stage.peer.receive()) == code
    assert stage.peer.drain() == []
    assert stage.ended().outcome is Outcome.STORAGE_ERROR
    assert stage.storage.written == {}
    # Exactly one of commit and discard ends a sink.
    assert stage.storage.count("commit") + stage.storage.count("discard") == 1
    assert len(reactor) == 0
    reactor.close()


@pytest.mark.parametrize(("announced", "fits"), [(700, True), (699, False), (0, True)])
def test_where_the_size_must_be_as_announced_another_is_an_error(
    stage: Stage, announced: int, fits: bool
) -> None:
    terms = Terms(tsize=announced)
    session = stage.receiving(terms, {"tsize": str(announced)}, exact=True)
    session.start(0.0)
    stage.peer.receive()
    for block, payload in ((1, b"x" * 512), (2, b"x" * 188)):
        stage.peer.send(Data(block, payload))
        stage.hand_over(session, 0.1)
    *_, answer = stage.peer.drain()
    if fits:
        assert answer == Ack(2)
        assert stage.ended().outcome is Outcome.DONE
    else:
        assert isinstance(answer, Error)
        assert str(announced) in answer.message
        assert isinstance(stage.ended().error, ProtocolError)
        assert stage.storage.calls[-1] == "discard"


@pytest.mark.parametrize("strange", [False, True])
def test_a_receiver_that_is_done_leaves_when_its_peers_port_is_closed(
    stage: Stage, strange: bool
) -> None:
    session = stage.reading()
    session.start(0.0)
    stage.peer.receive()
    stage.peer.send(Data(1, b"end"), session.local)
    stage.hand_over(session, 0.1)
    assert stage.peer.receive() == Ack(1)
    if strange:  # Who is gone may be the stranger.
        with WirePeer(session.local) as stranger:
            stranger.send(b"junk")
            stage.hand_over(session, 0.2)
    stage.peer.send(Data(1, b"end"))  # It asks, and does not wait for the answer.
    stage.peer.close()
    stage.hand_over(session, 0.3)
    stage.hand_over(session, 0.3)
    assert session.finished is not strange
    assert stage.ended().outcome is Outcome.DONE


def test_a_server_that_does_not_know_us_any_more_ends_the_dallying(stage: Stage) -> None:
    session = stage.reading()
    session.start(0.0)
    stage.peer.receive()
    stage.peer.send(Data(1, b"end"), session.local)
    stage.hand_over(session, 0.1)
    assert stage.peer.receive() == Ack(1)
    stage.peer.send(Error(ErrorCode.UNKNOWN_TID, "who are you?"))
    stage.hand_over(session, 0.2)
    assert session.finished
    assert stage.peer.drain() == []
    assert stage.ended().outcome is Outcome.DONE


@pytest.fixture
def reactor(stage: Stage) -> Iterator[Reactor]:
    """Of the thread of this test, which has done aside what takes long."""
    made = Reactor()
    stage.workspace.aside = aside = Aside(made)
    yield made
    aside.close()
    made.close()


def test_while_a_file_is_being_made_safe_no_time_passes_and_nothing_is_said_or_heard(
    stage: Stage, reactor: Reactor
) -> None:
    disk = Gate()
    stage.storage.commits_slowly = True
    stage.storage.before = {"commit": disk}
    session = stage.receiving()
    session.start(0.0)
    assert stage.peer.receive() == Ack(0)
    stage.peer.send(Data(1, b"end"), session.local)
    stage.hand_over(session, 0.1)
    disk.wait()
    for packet in (Data(1, b"end"), Error(0, "it takes too long")):
        stage.peer.send(packet)
        stage.hand_over(session, 0.2)
    assert session.deadline is None
    assert not session.finished
    session.expire(1000.0)
    assert stage.peer.drain() == []
    disk.open()
    reactor.turn()
    assert stage.peer.receive() == Ack(1)
    assert stage.storage.written == {b"file": b"end"}
    assert stage.ended().outcome is Outcome.DONE
    assert stage.storage.count("commit") == 1
    stage.peer.send(Data(1, b"end"))
    stage.hand_over(session, session.deadline or 0.0)
    assert stage.peer.receive() == Ack(1)


def test_a_fault_of_the_program_in_making_a_file_safe_ends_the_transfer(
    stage: Stage, reactor: Reactor
) -> None:
    stage.storage.commits_slowly = True
    stage.storage.before = {"commit": failing(ZeroDivisionError())}
    session = stage.receiving()
    reactor.add(session)
    session.start(0.0)
    assert stage.peer.receive() == Ack(0)
    stage.peer.send(Data(1, b"end"), session.local)
    stage.hand_over(session, 0.1)
    while session.ended is None:
        reactor.turn()
    assert stage.peer.receive() == Error(0, "internal error")
    assert stage.ended().outcome is Outcome.STORAGE_ERROR


# In lock-step


def written(stage: Stage, session: ReceivingSession, last: int, now: float = 0.0) -> bytes:
    """What has been sent up to block `last`, each acknowledged by itself."""
    content = b""
    for block in range(1, last + 1):
        payload = bytes([block % 256]) * 512
        content += payload
        stage.peer.send(Data(block, payload))
        stage.hand_over(session, now)
        assert stage.peer.receive() == Ack(block)
    return content


@pytest.mark.parametrize("joins", [False, True])
def test_blocks_that_come_one_by_one_are_stored_one_by_one(stage: Stage, joins: bool) -> None:
    session = stage.receiving(joins=joins)
    session.start(0.0)
    assert stage.peer.receive() == Ack(0)
    content = written(stage, session, 300)
    assert stage.storage.count("write") == 300
    stage.peer.send(Data(301, b"end"))
    stage.hand_over(session, 0.1)
    assert stage.peer.receive() == Ack(301)
    assert stage.storage.written == {b"file": content + b"end"}
    counters = stage.ended().counters
    assert (counters.blocks, counters.payload) == (301, len(content) + 3)
    assert counters.datagrams_received == 301
    assert counters.octets_received == 300 * 516 + 4 + 3
    assert (counters.datagrams_sent, counters.octets_sent) == (302, 302 * 4)


def test_what_was_stored_is_accounted_for_before_anything_else_happens(stage: Stage) -> None:
    for happens in (
        lambda session: session.expire(0.0),
        lambda session: session.abort(Aborted("enough")),
        lambda session: session.joins(session.request, 0.0),
        lambda session: session.writable(0.0),
    ):
        session = stage.receiving()
        session.start(0.0)
        assert stage.peer.receive() == Ack(0)
        written(stage, session, 30)
        happens(session)
        assert session.machine.counters.payload == 30 * 512
        session.close()
        stage.peer.drain()


def test_a_lost_ack_is_repeated_in_the_middle_and_costs_nothing_else(stage: Stage) -> None:
    session = stage.receiving()
    session.start(0.0)
    stage.peer.receive()
    content = written(stage, session, 30)
    for now in (0.5, 1.0):
        stage.peer.send(Data(30, bytes([30]) * 512))  # Again: its ACK did not come.
        stage.hand_over(session, now)
        assert stage.peer.receive() == Ack(30)
    stage.peer.send(Data(31, b"\x1f" * 512))
    stage.hand_over(session, 1.1)
    stage.peer.send(Data(32, b"end"))
    stage.hand_over(session, 1.2)
    assert stage.peer.drain() == [Ack(31), Ack(32)]
    assert stage.storage.written == {b"file": content + b"\x1f" * 512 + b"end"}
    assert stage.ended().counters.duplicates == 2


def test_the_ack_is_repeated_when_the_next_block_stays_away(stage: Stage) -> None:
    session = stage.receiving()
    session.start(0.0)
    stage.peer.receive()
    written(stage, session, 29, 0.05)
    stage.peer.send(Data(30, bytes(512)))
    stage.hand_over(session, 0.2)
    assert stage.peer.receive() == Ack(30)
    # The deadline that is known does not count the last round trip, which was a long one.
    known = session.deadline
    assert known is not None
    assert known > 0.2
    session.expire(known)
    assert stage.peer.drain() == []
    due = session.deadline
    assert due is not None
    assert due > known
    session.expire(due)
    assert stage.peer.receive() == Ack(30)
    stage.peer.send(Data(31, b"end"))
    stage.hand_over(session, due)
    assert stage.peer.receive() == Ack(31)
    assert stage.ended().counters.timeouts == 1


@pytest.mark.parametrize("rollover", [0, 1])
def test_block_numbers_go_on_across_the_wrap(stage: Stage, rollover: int) -> None:
    terms = Terms(blksize=8, rollover=rollover)
    session = stage.receiving(terms, {"blksize": "8", "rollover": str(rollover)})
    session.start(0.0)
    stage.peer.receive()
    last = 65600
    for block in range(1, last):
        number = (block - 1) % 65535 + 1 if rollover else block % 65536
        stage.peer.send(Data(number, block.to_bytes(8, "big")))
        stage.hand_over(session, 0.0)
        assert stage.peer.take() == Ack(number).encode()
    stage.peer.send(Data((last - 1) % 65535 + 1 if rollover else last % 65536))
    stage.hand_over(session, 0.0)
    content = b"".join(block.to_bytes(8, "big") for block in range(1, last))
    assert stage.storage.written == {b"file": content}
    assert stage.ended().outcome is Outcome.DONE


@pytest.mark.parametrize(("error", "code"), FAULTS, ids=lambda value: repr(value)[:20])
def test_a_disk_that_fails_in_the_middle_ends_it_without_an_ack(
    stage: Stage, error: BaseException, code: int
) -> None:
    session = stage.receiving()
    reactor = Reactor()
    reactor.add(session)
    reactor.drive(session, session.start, time.monotonic())
    assert stage.peer.receive() == Ack(0)
    for block in range(1, 30):
        stage.peer.send(Data(block, bytes(512)))
        reactor.turn()
        assert stage.peer.receive() == Ack(block)
    stage.storage.before = {"write": failing(error)}
    stage.peer.send(Data(30, bytes(512)))
    reactor.turn()
    assert error_code(stage.peer.receive()) == code
    session.deliver(memoryview(Data(30, bytes(512)).encode()), 516, time.monotonic())
    assert stage.storage.count("write") == 30
    assert stage.ended().outcome is Outcome.STORAGE_ERROR
    assert stage.ended().counters.payload == 29 * 512
    assert stage.storage.written == {}
    assert stage.storage.count("discard") == 1
    assert len(reactor) == 0
    reactor.close()


def test_an_error_is_heard_where_a_block_was_expected(stage: Stage) -> None:
    session = stage.receiving()
    session.start(0.0)
    stage.peer.receive()
    written(stage, session, 30)
    stage.peer.send(Error(0, "enough"))
    stage.hand_over(session, 0.1)
    assert stage.ended().outcome is Outcome.PEER_ERROR
    assert stage.ended().counters.payload == 30 * 512


@pytest.mark.parametrize("last", [0, 30])
def test_what_is_no_packet_is_passed_over(stage: Stage, last: int) -> None:
    session = stage.receiving()
    session.start(0.0)
    stage.peer.receive()
    content = written(stage, session, last)
    for nonsense in (b"", b"\0", b"\0\3", b"\0\x09" + bytes(514)):
        session.deliver(memoryview(nonsense), len(nonsense), 0.1)
        stage.peer.send(nonsense)
        stage.hand_over(session, 0.1)
    stage.peer.send(Data(last + 1, b"end"))
    stage.hand_over(session, 0.2)
    assert stage.peer.drain() == [Ack(last + 1)]
    assert stage.storage.written == {b"file": content + b"end"}


def test_a_block_that_is_too_long_is_illegal_in_the_middle_too(stage: Stage) -> None:
    session = stage.receiving()
    session.start(0.0)
    stage.peer.receive()
    written(stage, session, 30)
    stage.peer.send(Data(31, bytes(513)))
    stage.hand_over(session, 0.1)
    assert error_code(stage.peer.receive()) == ErrorCode.ILLEGAL_OPERATION
    assert stage.ended().outcome is Outcome.PROTOCOL_ERROR


def test_a_stranger_is_turned_away_where_a_block_is_expected(stage: Stage) -> None:
    session = stage.receiving()
    session.start(0.0)
    stage.peer.receive()
    written(stage, session, 30)
    with WirePeer(session.local) as stranger:
        stranger.send(Data(31, b"x" * 512))  # It would be right, had the peer sent it.
        stage.hand_over(session, 0.1)
        assert error_code(stranger.receive()) == ErrorCode.UNKNOWN_TID
    stage.peer.send(Data(31, b"end"))
    stage.hand_over(session, 0.2)
    assert stage.storage.written[b"file"].endswith(bytes([30]) * 512 + b"end")


def test_progress_is_told_while_blocks_come_as_expected(stage: Stage) -> None:
    session = stage.receiving()
    session.start(0.0)
    stage.peer.receive()
    written(stage, session, 30, 0.1)
    assert stage.witness.all(TransferProgress) == []
    stage.peer.send(Data(31, bytes(512)))
    stage.hand_over(session, 0.3)
    [progress] = stage.witness.all(TransferProgress)
    assert progress.counters.payload == 31 * 512


def test_a_network_that_refuses_an_ack_for_good_ends_it(stage: Stage) -> None:
    session = stage.receiving()
    session.start(0.0)
    stage.peer.receive()
    written(stage, session, 30)

    def refuse(datagram: bytes | memoryview, peer: Address) -> int:
        raise OSError(errno.EACCES, "Permission denied")

    session._emit = refuse
    stage.peer.send(Data(31, bytes(512)))
    stage.hand_over(session, 0.1)
    assert stage.ended().outcome is Outcome.UNREACHABLE
    assert stage.ended().counters.payload == 31 * 512
