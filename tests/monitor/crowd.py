"""Clients of a boot night, for tests of what shows a server: honest ones, each step as it is asked.

A `Reader` fetches a file window by window, and only when the test says so: what runs, and how far,
is the test's doing and not that of a clock.
"""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

from tests.wirepeer import WirePeer
from tftp.blocks import on_wire
from tftp.events import Address
from tftp.packets import Ack, Data, OptionAck

__all__ = ["Reader", "crowd"]

BLKSIZE, WINDOWSIZE = 1428, 8


class Reader:
    """A client in the middle of a file.

    Attributes:
        octets: how many have come.
        done: whether that is all.
    """

    def __init__(self, peer: WirePeer, name: str) -> None:
        """Ask, and wait until the server has agreed."""
        self.octets = 0
        self.done = False
        self._peer = peer
        self._block = 0
        peer.rrq(name, blksize=BLKSIZE, windowsize=WINDOWSIZE, tsize=0)
        assert isinstance(peer.receive(), OptionAck)

    @property
    def address(self) -> Address:
        """The client's."""
        return self._peer.address

    def advance(self, windows: int = 1) -> None:
        """Take so many windows, or what is left of the file."""
        for _ in range(windows):
            if self.done:
                return
            self._peer.send(Ack(on_wire(self._block)))
            self._take_window()

    def _take_window(self) -> None:
        end = self._block + WINDOWSIZE
        while self._block < end and not self.done:
            packet = self._peer.receive()
            # What the server repeats because the test was slow is no news.
            if isinstance(packet, Data) and packet.block == on_wire(self._block + 1):
                self._block += 1
                self.octets += len(packet.payload)
                self.done = len(packet.payload) < BLKSIZE
        if self.done:
            self._peer.send(Ack(on_wire(self._block)))


@contextmanager
def crowd(server: Address, names: dict[str, str]) -> Iterator[list[Reader]]:
    """A reader for each client's address, of the file that it wants."""
    with ExitStack() as stack:
        yield [
            Reader(stack.enter_context(WirePeer(server, host=host)), name)
            for host, name in names.items()
        ]
