"""Sessions that receive, on real sockets: what is stored, and only then acknowledged."""

import errno
import socket
import time
from collections.abc import Callable, Iterator

import pytest

from tests.server.storages import Gate, failing
from tests.stage import FAULTS, LOOPBACK, Stage
from tests.wirepeer import WirePeer, error_code
from tftp.errors import ErrorCode, ProtocolError
from tftp.events import Address, Outcome, TransferEnded
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
