"""What a client does after its last ACK, and what it does not leave behind."""

import threading
import time
from collections.abc import Iterator

import pytest

from tests.scripted import Calls, Door, result
from tests.watching import descriptors, eventually, threads
from tests.wirepeer import PATIENCE, WirePeer
from tftp.client import Client
from tftp.events import Outcome
from tftp.options import Terms
from tftp.packets import Ack, Data, Error
from tftp.server import Server
from tftp.storage import Memory
from tftp.timers import Patience

#: It stays longer than any test lasts.
STAYING = Patience(initial=8.0, floor=8.0, ceiling=8.0, total=60.0, dally=60.0)


@pytest.fixture
def door() -> Iterator[Door]:
    with Door() as opened:
        yield opened


@pytest.fixture
def calls() -> Iterator[Calls]:
    with Calls() as running:
        yield running


def fetch(client: Client, door: Door, calls: Calls) -> WirePeer:
    """Get a file of one block; returns the server's port, whose last ACK has come."""
    future = calls.start(client.get, "file", bytearray())
    peer = door.asked_by()
    peer.send(Data(1, b"end"))
    assert peer.receive() == Ack(1)
    assert result(future).outcome is Outcome.DONE
    return peer


def acknowledged_again(peer: WirePeer) -> bool:
    """Repeat the last block, as a server without its ACK does, until it is acknowledged.

    A copy that comes together with the block itself is an echo, and gets nothing.
    """
    for _ in range(100):
        peer.send(Data(1, b"end"))
        if not peer.silent(0.05):
            return peer.receive() == Ack(1)
    return False


def test_a_repeated_last_block_is_acknowledged_again_in_the_background(
    door: Door, calls: Calls
) -> None:
    peer = fetch(calls.client(door, patience=STAYING), door, calls)
    for _ in range(3):
        assert acknowledged_again(peer)


def test_a_caller_does_not_wait_for_it(door: Door, calls: Calls) -> None:
    start = time.monotonic()
    fetch(calls.client(door, patience=STAYING), door, calls)
    assert time.monotonic() - start < PATIENCE  # And not the 60 s that it stays.
    assert threads() == {"tftp-dallying"}


def test_each_of_several_transfers_is_answered_at_its_own_port(door: Door, calls: Calls) -> None:
    client = calls.client(door, patience=STAYING)
    peers = [fetch(client, door, calls) for _ in range(4)]
    for peer in reversed(peers):
        assert acknowledged_again(peer)
    assert len({peer.tid for peer in peers}) == 4
    assert sum(thread.name == "tftp-dallying" for thread in threading.enumerate()) == 1


def test_closing_ends_it_at_once_and_leaves_nothing(door: Door, calls: Calls) -> None:
    before = descriptors()
    client = calls.client(door, patience=STAYING)
    peers = [fetch(client, door, calls) for _ in range(4)]
    start = time.monotonic()
    client.close()
    assert time.monotonic() - start < PATIENCE
    assert threads() == set()
    for peer in peers:
        peer.send(Data(1, b"end"))
        assert peer.silent(0.05)
        peer.close()
    assert descriptors() <= before
    client.close()  # A second time there is nothing to do.


def test_the_end_of_a_with_block_is_a_close(door: Door, calls: Calls) -> None:
    with Client(*door.address, patience=STAYING) as client:
        fetch(client, door, calls)
        assert threads() == {"tftp-dallying"}
    assert threads() == set()


def test_a_client_can_be_used_again_after_a_close(door: Door, calls: Calls) -> None:
    client = calls.client(door, patience=STAYING)
    for _ in range(3):
        peer = fetch(client, door, calls)
        client.close()
        assert threads() == set()
        peer.send(Data(1, b"end"))
        assert peer.silent(0.05)


def test_it_ends_by_itself_and_then_there_is_no_thread(door: Door, calls: Calls) -> None:
    client = calls.client(door, patience=Patience(initial=8.0, dally=0.2))
    peer = fetch(client, door, calls)
    client.linger(PATIENCE)
    assert threads() == set()
    peer.send(Data(1, b"end"))
    assert peer.silent(0.05)


def test_lingering_ends_when_its_own_time_is_over(door: Door, calls: Calls) -> None:
    client = calls.client(door, patience=STAYING)
    client.linger(PATIENCE)  # There is nothing to wait for yet.
    peer = fetch(client, door, calls)
    client.linger(0.05)
    assert acknowledged_again(peer)


def test_an_error_of_the_server_ends_it(door: Door, calls: Calls) -> None:
    client = calls.client(door, patience=STAYING)
    peer = fetch(client, door, calls)
    peer.send(Error(0, "I had it, thank you"))
    client.linger(PATIENCE)
    assert threads() == set()
    assert peer.drain() == []


def test_a_packet_from_elsewhere_gets_error_5(door: Door, calls: Calls) -> None:
    peer = fetch(calls.client(door, patience=STAYING), door, calls)
    with WirePeer(peer.tid) as other:
        other.send(Data(1, b"end"))
        refusal = other.receive()
    assert isinstance(refusal, Error)
    assert refusal.code == 5


def test_of_very_many_transfers_the_oldest_is_given_up(door: Door, calls: Calls) -> None:
    client = calls.client(door, patience=STAYING, terms=Terms())
    peers = [fetch(client, door, calls) for _ in range(66)]
    newest = peers[2:]
    for peer in newest:
        assert acknowledged_again(peer)
    for peer in peers[:2]:
        peer.send(Data(1, b"end"))
        assert peer.silent(0.05)


def test_an_upload_leaves_nobody_behind(door: Door, calls: Calls) -> None:
    # Whoever sends the file has its last ACK in hand.
    future = calls.start(calls.client(door, patience=STAYING).put, b"end", "file")
    peer = door.asked_by()
    peer.send(Ack(0))
    assert peer.receive() == Data(1, b"end")
    peer.send(Ack(1))
    result(future)
    assert threads() == set()


def test_many_transfers_at_once_leave_no_thread_and_no_descriptor(calls: Calls) -> None:
    before = descriptors()
    with Server(Memory({"file": b"end" * 1000})) as server:
        client = Client(*server.address, patience=Patience(dally=0.1))

        def work() -> None:
            for _ in range(20):
                client.get("file", bytearray())

        for future in [calls.start(work) for _ in range(8)]:
            result(future)
        client.linger(PATIENCE)
        assert "tftp-dallying" not in threads()
    assert eventually(lambda: descriptors() <= before)
