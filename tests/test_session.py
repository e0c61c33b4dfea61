"""Sessions on real sockets, with a time that the tests set, and files that fail.

The peer is a bare socket. Where the kernel's own doing is the point (a full queue, a network that
goes away) a reactor drives the session, on hosts and wires made for the test.
"""

import errno
import logging
import select
import socket
import threading
import time
from collections.abc import Callable, Iterator

import pytest

from tests.networks import two_hosts
from tests.server.storages import Scripted, failing
from tests.watching import Witness, descriptors
from tests.wirepeer import PATIENCE, WirePeer, error_code
from tftp.errors import (
    Aborted,
    ErrorCode,
    PeerError,
    ProtocolError,
    Refused,
    TransferTimeout,
    Unreachable,
)
from tftp.events import (
    Address,
    Operation,
    Outcome,
    Request,
    TransferEnded,
    TransferProgress,
    TransferStarted,
)
from tftp.net import kernel
from tftp.net.endpoint import Endpoint, Workspace, open_port
from tftp.net.reactor import Reactor
from tftp.options import Terms
from tftp.packets import Ack, Data, Error, OptionAck, Packet, ReadRequest, WriteRequest
from tftp.receiving import ReceivingSession
from tftp.sending import SendingSession
from tftp.session import Link, Session
from tftp.timers import Patience
from tftp.transfer import Receiver, Sender

LOOPBACK = ("127.0.0.1", 0)
NOBODY: Address = ("127.0.0.1", 0)  # Nothing can be sent to port 0.


class Stage:
    """Sessions, and the peer that they talk to.

    Attributes:
        storage: where their files are.
        peer: the other side.
        witness: what they told.
    """

    def __init__(self) -> None:
        self.storage = Scripted()
        self.peer = WirePeer(("127.0.0.1", 1))
        self.witness = Witness()
        self.sessions: list[Session] = []

    def sending(
        self,
        content: bytes,
        terms: Terms | None = None,
        granted: dict[str, str] | None = None,
        *,
        patience: Patience | None = None,
        now: float = 0.0,
        peer: Address | None = None,
        endpoint: Endpoint | None = None,
    ) -> SendingSession:
        """A server that is read from, not started."""
        self.storage.content = content
        request = self._request(Operation.READ, granted)
        machine = Sender.answer(terms or Terms(), granted or {}, now, patience or Patience())
        source = self.storage.open_read(request)
        session = SendingSession(
            machine,
            source,
            request,
            self._link(peer, endpoint),
            report=self.witness,
            number=7,
            now=now,
        )
        self.sessions.append(session)
        return session

    def receiving(
        self,
        terms: Terms | None = None,
        granted: dict[str, str] | None = None,
        *,
        patience: Patience | None = None,
        exact: bool = False,
        joins: bool = False,
        now: float = 0.0,
        endpoint: Endpoint | None = None,
    ) -> ReceivingSession:
        """A server that is written to, not started."""
        request = self._request(Operation.WRITE, granted)
        machine = Receiver.answer(terms or Terms(), granted or {}, now, patience or Patience())
        session = ReceivingSession(
            machine,
            self.storage.open_write(request),
            request,
            self._link(
                None, endpoint or Endpoint(open_port(socket.AF_INET, LOOPBACK), joins=joins)
            ),
            report=self.witness,
            number=7,
            now=now,
            exact=exact,
        )
        self.sessions.append(session)
        return session

    def reading(
        self, *, patience: Patience | None = None, server: Address | None = None
    ) -> Session:
        """A client that reads, not started; its server's port is not known yet."""
        packet = ReadRequest(b"file")
        request = self._request(Operation.READ, {})
        endpoint = Endpoint(open_port(socket.AF_INET, LOOPBACK), tells_refusals=True)
        session = ReceivingSession(
            Receiver.request(packet, 0.0, patience or Patience()),
            self.storage.open_write(request),
            request,
            Link(endpoint, server or self.peer.address, Workspace(), pinned=False),
            report=self.witness,
            number=7,
            now=0.0,
        )
        self.sessions.append(session)
        return session

    def writing(self, content: bytes) -> Session:
        """A client that writes, not started."""
        self.storage.content = content
        packet = WriteRequest(b"file")
        request = self._request(Operation.WRITE, {})
        endpoint = Endpoint(open_port(socket.AF_INET, LOOPBACK), tells_refusals=True)
        session = SendingSession(
            Sender.request(packet, 0.0, Patience()),
            self.storage.open_read(request),
            request,
            Link(endpoint, self.peer.address, Workspace(), pinned=False),
            report=self.witness,
            number=7,
            now=0.0,
        )
        self.sessions.append(session)
        return session

    def _request(self, operation: Operation, granted: dict[str, str] | None) -> Request:
        return Request(
            operation=operation, filename=b"file", options=granted or {}, peer=("127.0.0.1", 2)
        )

    def _link(self, peer: Address | None, endpoint: Endpoint | None) -> Link:
        endpoint = endpoint or Endpoint(open_port(socket.AF_INET, LOOPBACK))
        return Link(endpoint, peer or self.peer.address, Workspace())

    def hand_over(self, session: Session, now: float) -> None:
        """Have the session take in what has come."""
        readable, _, _ = select.select([session], [], [], PATIENCE)
        assert readable
        session.readable(now)

    def ended(self) -> TransferEnded:
        """The one end that there was."""
        [event] = self.witness.all(TransferEnded)
        return event

    def close(self) -> None:
        for session in self.sessions:
            session.close()
        self.peer.close()


@pytest.fixture
def stage() -> Iterator[Stage]:
    made = Stage()
    yield made
    made.close()


def acknowledged(stage: Stage, session: Session, last: int, now: float = 0.0) -> bytes:
    """What comes up to block `last`, each block acknowledged by itself."""
    content = b""
    for block in range(1, last + 1):
        packet = stage.peer.receive()
        assert isinstance(packet, Data)
        assert packet.block == block
        content += packet.payload
        stage.peer.send(Ack(block))
        stage.hand_over(session, now)
    return content


# -- a whole transfer, and what it tells ----------------------------------------------------------


def test_a_file_is_sent_and_told_of_from_its_start_to_its_end(stage: Stage) -> None:
    content = bytes(range(256)) * 5
    session = stage.sending(content, now=100.0)
    session.start(100.0)
    assert acknowledged(stage, session, 3, 100.125) == content
    started, ended = stage.witness.wait(TransferStarted), stage.ended()
    assert stage.witness.kinds == ["TransferStarted", "TransferEnded"]
    assert started.size == ended.size == 1280
    assert started.transfer == ended.transfer == 7
    assert ended.outcome is Outcome.DONE
    assert ended.error is None
    assert ended.duration == pytest.approx(0.125)
    counters = ended.counters
    assert counters.payload == 1280
    assert counters.blocks == 3
    assert counters.octets_sent == sum(map(len, stage.peer.received)) == 1280 + 12
    assert counters.octets_received == sum(map(len, stage.peer.sent)) == 12
    assert (counters.datagrams_sent, counters.datagrams_received) == (3, 3)
    assert (counters.retransmissions, counters.timeouts, counters.duplicates) == (0, 0, 0)
    assert session.finished
    assert session.ended is ended
    assert stage.storage.calls[-1] == "close"
    assert stage.storage.count("close") == 1


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


def test_progress_is_told_four_times_a_second_at_most(stage: Stage) -> None:
    session = stage.sending(bytes(512 * 100))
    session.start(0.0)
    for step in range(1, 101):
        acknowledged_one(stage, session, step, step / 50)
    told = stage.witness.all(TransferProgress)
    assert 6 <= len(told) <= 8
    assert [event.counters.payload for event in told] == sorted(
        event.counters.payload for event in told
    )
    assert told[0].size == 51200
    assert told[0].counters is not told[1].counters


def acknowledged_one(stage: Stage, session: Session, block: int, now: float) -> None:
    packet = stage.peer.receive()
    assert isinstance(packet, Data)
    stage.peer.send(Ack(block))
    stage.hand_over(session, now)


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


# -- the file fails -------------------------------------------------------------------------------

FAULTS = [
    (OSError(errno.EIO, "Input/output error", "/srv/secret"), 0),
    (OSError(errno.ENOSPC, "No space left on device"), 3),
    (PermissionError("/srv/secret"), 2),
    (Refused("file changed while it was read", 0), 0),
    (ValueError("/srv/secret"), 0),
]


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


@pytest.mark.parametrize("error", [OSError(errno.EIO, "x"), ValueError("x")])
@pytest.mark.parametrize("step", ["close", "discard"])
def test_a_file_that_can_not_be_let_go_changes_nothing_of_the_end(
    stage: Stage, error: Exception, step: str, caplog: pytest.LogCaptureFixture
) -> None:
    before = descriptors()
    stage.storage.before = {step: failing(error)}
    session = stage.sending(b"x") if step == "close" else stage.receiving()
    session.start(0.0)
    first = stage.peer.receive()
    session.abort(Aborted("no more of this"))
    assert stage.peer.receive() == Error(0, "no more of this")
    assert isinstance(first, Ack | Data)
    assert stage.ended().outcome is Outcome.ABORTED
    assert "could not be let go" in caplog.text
    session.close()
    assert stage.storage.count(step) == 1
    assert descriptors() <= before


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


# -- the end --------------------------------------------------------------------------------------


def test_what_is_closed_while_it_runs_says_so(stage: Stage) -> None:
    session = stage.sending(b"x")
    session.start(0.0)
    stage.peer.receive()
    session.close()
    assert isinstance(stage.peer.receive(), Error)
    assert stage.ended().outcome is Outcome.ABORTED
    assert session.fileno() == -1


def test_what_is_aborted_in_silence_says_nothing(stage: Stage) -> None:
    session = stage.receiving()
    session.start(0.0)
    assert stage.peer.receive() == Ack(0)
    session.abort(Aborted("replaced"), tell=False)
    session.close()
    assert stage.peer.drain() == []
    assert stage.ended().outcome is Outcome.ABORTED
    assert stage.storage.calls == ["open_write", "discard"]


def test_a_fault_of_the_program_is_logged_and_told_without_details(
    stage: Stage, caplog: pytest.LogCaptureFixture
) -> None:
    session = stage.sending(b"x")
    session.start(0.0)
    stage.peer.receive()
    with caplog.at_level(logging.ERROR):
        session.failed(KeyError("/srv/secret"))
    assert stage.peer.receive() == Error(0, "internal error")
    assert "KeyError" in caplog.text
    assert stage.ended().outcome is Outcome.STORAGE_ERROR


def test_silence_ends_a_transfer_and_its_client_is_told(stage: Stage) -> None:
    session = stage.sending(bytes(2000), patience=Patience(total=5.0))
    session.start(0.0)
    acknowledged_one(stage, session, 1, 0.1)
    now = 0.1
    while not session.finished:
        assert session.deadline is not None
        assert session.deadline > now
        now = session.deadline
        session.expire(now)
    assert now == pytest.approx(5.1)
    ended = stage.ended()
    assert ended.outcome is Outcome.TIMED_OUT
    assert isinstance(ended.error, TransferTimeout)
    *repeats, last = stage.peer.drain()
    assert isinstance(last, Error)
    assert ended.counters.retransmissions == len(repeats) - 1 > 2
    assert ended.counters.octets_sent == sum(map(len, stage.peer.received))


def test_a_peers_error_ends_it_and_is_not_answered(stage: Stage) -> None:
    session = stage.receiving()
    session.start(0.0)
    assert stage.peer.receive() == Ack(0)
    stage.peer.send(Error(3, "my disk is broken"))
    stage.hand_over(session, 0.1)
    assert stage.peer.drain() == []
    ended = stage.ended()
    assert ended.outcome is Outcome.PEER_ERROR
    assert isinstance(ended.error, PeerError)
    assert (ended.error.code, ended.error.message) == (3, "my disk is broken")
    assert stage.storage.calls == ["open_write", "discard"]


# -- the network fails ----------------------------------------------------------------------------


@pytest.mark.parametrize("granted", [{}, {"blksize": "512"}], ids=["data", "oack"])
def test_a_peer_that_nothing_can_be_sent_to_ends_it_at_once(
    stage: Stage, granted: dict[str, str]
) -> None:
    session = stage.sending(bytes(2000), granted=granted, peer=NOBODY)
    session.start(0.0)
    assert session.finished
    assert session.deadline is None
    ended = stage.ended()
    assert ended.outcome is Outcome.UNREACHABLE
    assert isinstance(ended.error, Unreachable)
    assert isinstance(ended.error.__cause__, OSError)
    assert stage.storage.count("close") == 1


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


@pytest.mark.parametrize("windowsize", [1, 4])
def test_a_route_that_is_prohibited_ends_it_where_the_next_window_was_ready(
    stage: Stage, windowsize: int
) -> None:
    with two_hosts() as (left, right):
        endpoint = Endpoint(left.call(open_port, socket.AF_INET, ("192.0.2.1", 0)))
        with WirePeer(endpoint.address, sock=right.socket(("192.0.2.2", 0))) as peer:
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


def test_a_call_in_vain_is_no_harm(stage: Stage) -> None:
    session = stage.sending(bytes(512 * 29))
    session.start(0.0)
    for block in range(1, 31):
        session.readable(0.0)
        acknowledged_one(stage, session, block, 0.0)
    assert stage.ended().outcome is Outcome.DONE
    assert stage.ended().counters.datagrams_received == 30


def test_a_client_learns_at_once_that_nobody_listens(stage: Stage) -> None:
    nobody = stage.peer.address
    stage.peer.close()
    session = stage.reading(server=nobody)
    session.start(0.0)
    stage.hand_over(session, 0.1)
    assert session.finished
    ended = stage.ended()
    assert ended.outcome is Outcome.UNREACHABLE
    assert "refused" in str(ended.error)
    # It never started.
    assert stage.witness.all(TransferStarted) == []


def test_a_peer_that_answered_once_and_is_gone_for_a_moment_costs_time_alone(stage: Stage) -> None:
    session = stage.reading()
    session.start(0.0)
    assert stage.peer.receive() == ReadRequest(b"file")
    stage.peer.send(Data(1, bytes(512)))
    stage.hand_over(session, 0.1)
    assert stage.peer.receive() == Ack(1)
    address = stage.peer.address
    stage.peer.close()
    assert session.deadline is not None
    session.expire(session.deadline)  # The ACK goes to nobody, which the next call hears of.
    stage.hand_over(session, 1.0)
    assert not session.finished
    with WirePeer(session.local, port=address[1]) as again:
        again.send(Data(2, b"end"))
        stage.hand_over(session, 1.1)
        assert again.receive() == Ack(2)
    assert stage.ended().outcome is Outcome.DONE


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


def test_a_network_that_goes_away_for_a_moment_costs_time_alone(stage: Stage) -> None:
    with two_hosts() as (left, right):
        endpoint = Endpoint(left.call(open_port, socket.AF_INET, ("192.0.2.1", 0)))
        client = right.socket(("192.0.2.2", 0))
        with WirePeer(endpoint.address, sock=client) as peer:
            content = bytes(range(256)) * 40
            session = stage.sending(
                content,
                patience=Patience(initial=0.02, ceiling=0.05),
                now=time.monotonic(),
                peer=peer.address,
                endpoint=endpoint,
            )
            reactor = Reactor()
            reactor.add(session)
            reactor.drive(session, session.start, time.monotonic())
            came = b""
            for block in range(1, 22):
                packet = next_data(reactor, peer, block)
                came += packet.payload
                if block == 10:
                    left.ip("route flush table main")  # ENETUNREACH from here on,
                    timeouts = session.machine.counters.timeouts
                    peer.send(Ack(block))
                    while session.machine.counters.timeouts < timeouts + 3:
                        reactor.turn()
                    left.ip("route add 192.0.2.0/24 dev wire")  # and all is well again.
                else:
                    peer.send(Ack(block))
            while session.ended is None:
                reactor.turn()
            assert came == content
            assert session.ended.outcome is Outcome.DONE
            reactor.close()


def next_data(reactor: Reactor, peer: WirePeer, block: int) -> Data:
    """Turn until this block comes; earlier ones come again meanwhile."""
    until = time.monotonic() + PATIENCE
    while time.monotonic() < until:
        for packet in peer.drain():
            if isinstance(packet, Data) and packet.block == block:
                return packet
        reactor.turn()
    raise AssertionError(f"DATA {block} did not come")


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


# -- strangers ------------------------------------------------------------------------------------


def test_a_stranger_is_turned_away_and_the_transfer_goes_on(stage: Stage) -> None:
    content = bytes(range(256)) * 10
    session = stage.sending(content)
    session.start(0.0)
    with WirePeer(session.local) as stranger:
        for packet in (Ack(1), Data(1, b"x"), ReadRequest(b"x"), OptionAck(), b"junk", b""):
            stranger.send(packet)
            readable, _, _ = select.select([session], [], [], PATIENCE)
            assert readable
            session.readable(0.1)
            assert error_code(stranger.receive()) == ErrorCode.UNKNOWN_TID
        for error in (Error(0, "stop").encode(), b"\0\5", b"\0\5\0\0"):
            stranger.send(error)
            stage.hand_over(session, 0.1)
        assert stranger.drain() == []
        assert session.strangers == {stranger.address}
    assert acknowledged(stage, session, 6, 0.2) == content
    ended = stage.ended()
    assert ended.outcome is Outcome.DONE
    assert ended.counters.datagrams_received == 6  # The stranger's are not the transfer's.


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


def test_a_flood_of_strangers_leaves_the_other_transfers_their_turn(stage: Stage) -> None:
    session = stage.receiving()
    session.start(0.0)
    strangers = [WirePeer(session.local) for _ in range(10)]
    for _ in range(20):
        for stranger in strangers:
            stranger.send(Data(1, b"x"))
    session.readable(0.1)
    answered = sum(len(stranger.drain()) for stranger in strangers)
    assert 0 < answered < 100
    assert len(session.strangers) <= 4
    for stranger in strangers:
        stranger.close()


def test_the_server_that_answers_first_is_the_one(stage: Stage) -> None:
    session = stage.reading()
    session.start(0.0)
    assert stage.peer.receive() == ReadRequest(b"file")
    with WirePeer(session.local) as one, WirePeer(session.local) as two:
        for server in (one, two):
            server.send(Data(1, bytes(512)))
            stage.hand_over(session, 0.1)
        assert one.receive() == Ack(1)
        assert error_code(two.receive()) == ErrorCode.UNKNOWN_TID
        # Nor is the port that was asked any better.
        stage.peer.send(Data(2, b"no"), session.local)
        stage.hand_over(session, 0.2)
        assert error_code(stage.peer.receive()) == ErrorCode.UNKNOWN_TID
        one.send(Data(2, b"end"))
        stage.hand_over(session, 0.3)
        assert one.receive() == Ack(2)
        assert session.peer == one.address
    assert stage.storage.written == {b"file": bytes(512) + b"end"}


def test_another_host_is_no_answer(stage: Stage) -> None:
    session = stage.reading()
    session.start(0.0)
    stage.peer.receive()
    with WirePeer(session.local, host="127.0.0.2") as other:
        other.send(Data(1, b"forged"))
        # From 127.0.0.2 to 127.0.0.1: the loopback network is one.
        stage.hand_over(session, 0.1)
        assert error_code(other.receive()) == ErrorCode.UNKNOWN_TID
    stage.peer.send(Data(1, b"real"), session.local)
    stage.hand_over(session, 0.2)
    assert stage.storage.written == {b"file": b"real"}


# -- a request that comes again -------------------------------------------------------------------


def test_a_request_that_comes_again_before_an_answer_is_answered_again_once_in_a_while(
    stage: Stage,
) -> None:
    session = stage.sending(b"x", granted={"tsize": "1"})
    session.start(0.0)
    oack = OptionAck({"tsize": "1"})
    assert session.joins(session.request, 0.01)  # A copy that the network made.
    assert stage.peer.drain() == [oack]
    assert session.joins(session.request, 0.25)  # The client asks again.
    assert stage.peer.drain() == [oack]
    assert session.machine.counters.duplicates == 2


def test_a_late_copy_of_the_request_is_nothing_new(stage: Stage) -> None:
    session = stage.sending(bytes(2000))
    session.start(0.0)
    acknowledged_one(stage, session, 1, 0.1)
    stage.peer.receive()
    assert session.joins(session.request, 1.0)
    assert stage.peer.drain() == []


def test_the_same_request_after_a_silence_is_a_client_that_started_over(stage: Stage) -> None:
    session = stage.sending(bytes(2000))
    session.start(0.0)
    acknowledged_one(stage, session, 1, 0.1)
    assert not session.joins(session.request, 1.2)


def test_another_request_is_another_transfer(stage: Stage) -> None:
    session = stage.sending(b"x")
    session.start(0.0)
    peer = session.request.peer
    for other in (
        Request(operation=Operation.WRITE, filename=b"file", peer=peer),
        Request(operation=Operation.READ, filename=b"other", peer=peer),
        Request(
            operation=Operation.READ,
            filename=b"file",
            options={"tsize": "0"},
            peer=peer,
        ),
        Request(operation=Operation.READ, filename=b"file", mode="netascii", peer=peer),
    ):
        assert not session.joins(other, 0.05)


def test_a_request_after_the_end_is_another_transfer(stage: Stage) -> None:
    session = stage.receiving()
    session.start(0.0)
    stage.peer.receive()
    stage.peer.send(Data(1, b"all"))
    stage.hand_over(session, 0.1)
    assert not session.finished
    assert not session.joins(session.request, 0.11)


def test_a_new_request_does_not_overtake_the_last_ack(stage: Stage) -> None:
    session = stage.sending(b"all")
    session.start(0.0)
    assert stage.peer.receive() == Data(1, b"all")
    stage.peer.send(Ack(1))  # It waits at this transfer's port, when the request is at the door.
    assert not session.joins(session.request, 0.1, came=0.05)
    assert stage.ended().outcome is Outcome.DONE


def test_a_copy_from_before_the_answer_does_not_wait_for_what_the_client_says_to_it(
    stage: Stage,
) -> None:
    session = stage.sending(b"all")
    session.start(0.5)
    assert stage.peer.receive() == Data(1, b"all")
    stage.peer.send(Ack(1))
    assert session.joins(session.request, 0.6, came=0.4)
    assert session.ended is None
    stage.hand_over(session, 0.6)
    assert stage.ended().outcome is Outcome.DONE


def test_a_client_that_writes_meets_the_servers_first_port_and_stays_with_it(stage: Stage) -> None:
    session = stage.writing(b"abc")
    session.start(0.0)
    assert stage.peer.receive() == WriteRequest(b"file")
    with WirePeer(session.local) as server:
        server.send(Ack(0))
        stage.hand_over(session, 0.1)
        assert server.receive() == Data(1, b"abc")
        server.send(Ack(1))
        stage.hand_over(session, 0.2)
    assert stage.ended().outcome is Outcome.DONE
    assert stage.witness.kinds == ["TransferStarted", "TransferEnded"]
