"""Sessions of either kind on real sockets: what they tell, the end, the network, strangers.

Where the kernel's own doing is the point (a network that goes away) a reactor drives the session,
on hosts and wires made for the test.
"""

import errno
import logging
import select
import socket
import time
from collections.abc import Iterator

import pytest

from tests.networks import two_hosts
from tests.server.storages import failing
from tests.stage import NOBODY, Stage, acknowledged, acknowledged_one, next_data
from tests.watching import descriptors
from tests.wirepeer import PATIENCE, WirePeer, error_code
from tftp.errors import Aborted, ErrorCode, PeerError, TransferTimeout, Unreachable
from tftp.events import Operation, Outcome, Request, TransferProgress, TransferStarted
from tftp.net.endpoint import Endpoint, open_port
from tftp.net.reactor import Reactor
from tftp.packets import Ack, Data, Error, OptionAck, ReadRequest, WriteRequest
from tftp.timers import Patience


@pytest.fixture
def stage() -> Iterator[Stage]:
    made = Stage()
    yield made
    made.close()


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


# -- the file fails -------------------------------------------------------------------------------


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
