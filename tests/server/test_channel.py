"""The channel between processes: whole messages, in order, whatever the socket makes of them."""

import os
import socket
from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tftp.server.channel import Channel

values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.binary()
    | st.text()
    | st.floats(allow_nan=False),
    lambda inner: st.tuples(inner, inner) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)


@pytest.fixture
def ends() -> Iterator[tuple[Channel, Channel]]:
    here, there = Channel.pair()
    other = Channel(there, blocking=False)
    yield here, other
    here.close()
    other.close()


@given(st.lists(st.tuples(st.text(max_size=8), values), max_size=20))
def test_messages_arrive_whole_and_in_order(messages: list[tuple[str, object]]) -> None:
    here, there = Channel.pair()
    other = Channel(there, blocking=False)
    for message in messages:
        here.send(*message)
    got: list[tuple[object, ...]] = []
    while len(got) < len(messages):
        got += other.receive()
    assert got == messages
    here.close()
    other.close()


def test_a_message_that_comes_in_pieces_is_given_when_it_is_whole() -> None:
    raw, there = socket.socketpair()
    other = Channel(there, blocking=False)
    here = Channel(raw, blocking=False)
    copy, witness = socket.socketpair()
    Channel(copy, blocking=True).send("number", 7)
    octets = witness.recv(4096)
    for index in range(len(octets)):
        raw.send(octets[index : index + 1])
        messages = other.receive()
        assert messages == ([("number", 7)] if index == len(octets) - 1 else [])
    for sock in (copy, witness):
        sock.close()
    here.close()
    other.close()


def test_what_there_is_no_room_for_is_kept_and_sent_later(ends: tuple[Channel, Channel]) -> None:
    here, other = ends
    sent = 0
    while not here.blocked:
        here.send("fill", sent, bytes(10_000))
        sent += 1
    got = 0
    while got < sent:
        messages = other.receive()
        for message in messages:
            assert message[1] == got
            got += 1
        here.flush()
    assert not here.blocked


def test_a_descriptor_travels_with_its_message() -> None:
    here, there = socket.socketpair()
    sender, receiver = Channel(here, blocking=True), Channel(there, blocking=False)
    reading, writing = os.pipe()
    sender.send("before", 1)
    sender.send_descriptor(writing, "born", 42)
    messages: list[tuple[object, ...]] = []
    descriptors: list[int] = []
    while len(messages) < 2:
        more, also = receiver.receive_descriptors()
        messages += more
        descriptors += also
    assert messages == [("before", 1), ("born", 42)]
    assert len(descriptors) == 1
    os.write(descriptors[0], b"x")
    assert os.read(reading, 1) == b"x"
    assert receiver.receive_descriptors() == ([], [])
    sender.close()
    with pytest.raises(EOFError):
        receiver.receive_descriptors()
    for descriptor in (reading, writing, *descriptors):
        os.close(descriptor)
    receiver.close()


def test_nothing_is_no_end_but_a_closed_channel_is(ends: tuple[Channel, Channel]) -> None:
    here, other = ends
    assert other.receive() == []
    here.send("last")
    here.close()
    assert other.receive() == [("last",)]
    with pytest.raises(EOFError):
        other.receive()
