"""A reader of the channel by itself: what a stuck one costs."""

import socket
import time
from collections.abc import Iterator

import pytest

from tftp.monitor.reader import Access, Priority, Reader
from tftp.net.reactor import Reactor

LINE = b'{"event": "ended"}' + b" " * 400 + b"\n"


@pytest.fixture
def reactor() -> Iterator[Reactor]:
    """A reactor that nobody runs."""
    reactor = Reactor()
    yield reactor
    reactor.close()


@pytest.fixture
def stuck(reactor: Reactor) -> Iterator[Reader]:
    """A reader that takes nothing, and has as much waiting as it may have."""
    ours, theirs = socket.socketpair()
    with theirs:
        reader = Reader(ours, Access.LOOK, reactor=reactor, hear=lambda *_: None, now=0.0)
        while not reader.blocked:
            reader.put(LINE, Priority.EVENT)
            reader.flush(0.0)
        for _ in range(1000):
            reader.put(LINE, Priority.EVENT)
        yield reader
        reader.close()


def seconds(reader: Reader, count: int) -> float:
    """The least processor time that so many events take, of a few attempts."""
    times = []
    for _ in range(5):
        began = time.thread_time()
        for _ in range(count):
            reader.put(LINE, Priority.EVENT)
        times.append(time.thread_time() - began)
    return min(times)


def test_what_a_stuck_reader_loses_is_not_paid_for_with_a_look_at_all_that_waits(
    reactor: Reactor, stuck: Reader
) -> None:
    with socket.socket() as sock:
        lively = Reader(sock, Access.LOOK, reactor=reactor, hear=lambda *_: None, now=0.0)
        # All that is put there has room; a look through what waits would take 300 times as long.
        assert seconds(stuck, 60) < 8 * seconds(lively, 60)
