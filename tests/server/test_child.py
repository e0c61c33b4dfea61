"""A child by itself, in a thread of the test: how it waits for its client where others want the
processor. What it does in its process is in `test_processes`.
"""

import socket
import threading
import time
from collections.abc import Iterator

import pytest

from tests.watching import eventually
from tests.wirepeer import PATIENCE, WirePeer
from tftp.events import Operation, Request
from tftp.net import kernel
from tftp.packets import Ack, Data, Error
from tftp.server.channel import Channel, Message
from tftp.server.child import Child
from tftp.server.config import ServerConfig
from tftp.server.relay import pack_request
from tftp.storage.memory import Memory
from tftp.timers import Patience

CONTENT = bytes(range(256)) * 400 + b"end"
BLOCKS = len(CONTENT) // 512 + 1
LARGE = bytes(8 << 20)
#: What packed events begin with.
RECEIVED, STARTED, ENDED = 0, 2, 4


class Crowd:
    """Others want the processor, always."""

    def felt(self) -> bool:
        return True


class Parent:
    """The engine's end of a child's channel."""

    def __init__(self, channel: Channel, door: socket.socket) -> None:
        self.channel = channel
        self.door = door
        self.told: list[Message] = []

    def give(self, peer: WirePeer, name: bytes = b"file") -> None:
        """Have the child serve a request of this peer."""
        request = Request(
            operation=Operation.READ,
            filename=name,
            mode="octet",
            peer=peer.address,
            local=self.door.getsockname(),
        )
        self.channel.send("open", 1, 0, time.monotonic(), pack_request(request), False)

    def end(self) -> Message:
        """The packed event of the transfer's end, the last of those that it told."""

        def has_ended() -> bool:
            messages = self.channel.receive()
            for message in messages:
                if message[0] == "events":
                    self.told += message[1]
            return bool(self.told) and self.told[-1][0] == ENDED

        assert eventually(has_ended)
        return self.told[-1]


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list[float | None]:
    """How long calls that receive were to wait, each time that was said."""
    calls: list[float | None] = []
    real = kernel.wait_in_calls

    def wait_in_calls(sock: socket.socket, seconds: float | None) -> None:
        calls.append(seconds)
        real(sock, seconds)

    monkeypatch.setattr(kernel, "wait_in_calls", wait_in_calls)
    return calls


@pytest.fixture
def parent(monkeypatch: pytest.MonkeyPatch) -> Iterator[Parent]:
    """The parent of a child that serves `CONTENT` as "file"."""
    monkeypatch.setattr("tftp.server.child.Crowding", Crowd)
    here, there = Channel.pair()
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as door:
        door.bind(("127.0.0.1", 0))
        config = ServerConfig(hosts=("127.0.0.1",), patience=Patience(initial=0.2, floor=0.2))
        parts = (Memory({"file": CONTENT, "large": LARGE}), config, ())
        child = Child(Channel(there, blocking=True), parts, [door])
        thread = threading.Thread(target=child.run)
        thread.start()
        yield Parent(here, door)
        here.close()
        thread.join(PATIENCE)
        assert not thread.is_alive()


def converse(peer: WirePeer, first: int = 1, last: int = BLOCKS) -> bytes:
    """Take blocks as they come, and acknowledge each."""
    content = b""
    for block in range(first, last + 1):
        data = peer.receive()
        assert isinstance(data, Data)
        assert data.block == block
        content += data.payload
        peer.send(Ack(block))
    return content


def test_a_quick_client_is_waited_for_in_calls_that_receive(
    parent: Parent, calls: list[float | None]
) -> None:
    with WirePeer(parent.door.getsockname()) as peer:
        parent.give(peer)
        assert converse(peer) == CONTENT
    parent.end()
    assert [packed[0] for packed in parent.told] == [RECEIVED, STARTED, ENDED]
    assert calls
    assert calls[::2] == [calls[0]] * (len(calls) // 2), "waiting"
    assert calls[1::2] == [None] * (len(calls) // 2), "and not waiting any more"


def test_a_silent_client_is_asked_again_and_the_parent_is_heard(
    parent: Parent, calls: list[float | None]
) -> None:
    with WirePeer(parent.door.getsockname()) as peer:
        parent.give(peer)
        converse(peer, last=20)
        assert isinstance(peer.receive(), Data)
        assert peer.receive() == peer.receive(), "the same block, again and again"
        parent.channel.send("cancel", 1, "enough")
        assert eventually(lambda: isinstance(peer.receive(), Error))
    parent.end()
    # Who does not answer at once is not waited for like that again, but now and then.
    assert len(calls) <= 2 * 4


def test_the_parent_is_heard_while_a_client_keeps_the_child_busy(parent: Parent) -> None:
    with WirePeer(parent.door.getsockname()) as peer:
        parent.give(peer, b"large")
        converse(peer, last=20)
        parent.channel.send("cancel", 1, "enough")
        packet, block = peer.receive(), 21
        while isinstance(packet, Data) and packet.payload:
            peer.send(Ack(block))
            packet, block = peer.receive(), block + 1
    assert isinstance(packet, Error)
    assert packet.message == "enough"
