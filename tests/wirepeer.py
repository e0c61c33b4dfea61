"""A peer made of one UDP socket: it sends what a test says, and keeps every datagram both ways.

It has no timer and repeats nothing by itself, so what a test sees on the wire is the other side's
doing. `read` and `write` are an honest client's way through a whole file, for tests whose point is
elsewhere.
"""

import select
import socket
from collections.abc import Iterator
from types import TracebackType
from typing import Self

from tftp.blocks import on_wire
from tftp.events import Address
from tftp.packets import (
    Ack,
    Data,
    Error,
    OptionAck,
    Packet,
    ReadRequest,
    WriteRequest,
    decode,
)

#: Seconds to wait for what must come; a busy machine is no reason to fail.
PATIENCE = 30.0

_LARGEST = 65536


class WirePeer:
    """One UDP socket in front of a server.

    Attributes:
        server: where requests go.
        tid: where the last datagram came from; answers go there.
        sent, received: all datagrams so far.
    """

    def __init__(
        self,
        server: Address,
        *,
        host: str | None = None,
        port: int = 0,
        sock: socket.socket | None = None,
    ) -> None:
        """Bind to `host` (by default loopback, in the server's family), or take `sock`."""
        six = ":" in server[0]
        self.server = server
        self.tid: Address = server
        self.sent: list[bytes] = []
        self.received: list[bytes] = []
        self.sock = sock or socket.socket(
            socket.AF_INET6 if six else socket.AF_INET, socket.SOCK_DGRAM
        )
        if sock is None:
            self.sock.bind((host or ("::1" if six else "127.0.0.1"), port))

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """Fall silent for good."""
        self.sock.close()

    @property
    def address(self) -> Address:
        """Its own."""
        address: Address = self.sock.getsockname()
        return address

    # -- one datagram -----------------------------------------------------------------------------

    def send(self, packet: Packet | bytes, to: Address | None = None) -> None:
        """Send a packet, or any octets, to `to`; by default where the last datagram came from."""
        datagram = packet if isinstance(packet, bytes) else packet.encode()
        self.sent.append(datagram)
        self.sock.sendto(datagram, to or self.tid)

    def rrq(self, name: str | bytes, mode: str = "octet", **options: object) -> None:
        """Ask to read."""
        self.tid = self.server
        self.send(ReadRequest(_octets(name), mode, _words(options)))

    def wrq(self, name: str | bytes, mode: str = "octet", **options: object) -> None:
        """Ask to write."""
        self.tid = self.server
        self.send(WriteRequest(_octets(name), mode, _words(options)))

    def receive(self, seconds: float = PATIENCE) -> Packet:
        """The next packet; it must come within `seconds`."""
        assert self._comes(seconds), f"nothing came within {seconds} s; {self._so_far()}"
        return decode(self.take())

    def take(self) -> bytes:
        """The next datagram as it is; it is there already."""
        datagram, self.tid = self.sock.recvfrom(_LARGEST)
        self.received.append(datagram)
        return datagram

    def silent(self, seconds: float) -> bool:
        """Whether nothing comes for so long."""
        return not self._comes(seconds)

    def drain(self) -> list[Packet]:
        """What has come and was not looked at."""
        return list(self._waiting())

    def _so_far(self) -> str:
        sent, received = (
            [datagram[:8].hex() for datagram in one[-4:]] for one in (self.sent, self.received)
        )
        return f"{self.address} to {self.tid}: sent {sent}, received {received} at the end"

    def _waiting(self) -> Iterator[Packet]:
        while self._comes(0):
            yield decode(self.take())

    def _comes(self, seconds: float) -> bool:
        readable, _, _ = select.select([self.sock], [], [], seconds)
        return bool(readable)

    # -- a whole file -----------------------------------------------------------------------------

    def read(self, name: str | bytes, mode: str = "octet", **options: object) -> bytes:
        """Read a file, as an honest client does."""
        self.rrq(name, mode, **options)
        return self.collect(int(str(options.get("rollover", 0))))

    def collect(
        self, rollover: int = 0, *, blksize: int = 512, windowsize: int = 1, block: int = 0
    ) -> bytes:
        """All of the file that comes now, behind the block that came last."""
        content = bytearray()
        while True:
            match self.receive():
                case OptionAck(options) if not block:
                    blksize = int(options.get("blksize", blksize))
                    windowsize = int(options.get("windowsize", windowsize))
                    self.send(Ack(0))
                case Data(number, payload) if number == on_wire(block + 1, rollover):
                    block += 1
                    content += payload
                    if len(payload) < blksize or block % windowsize == 0:
                        self.send(Ack(number))
                    if len(payload) < blksize:
                        return bytes(content)
                case Data() | OptionAck():
                    pass  # It came again.
                case other:
                    raise AssertionError(f"a whole file was expected, and {other} came")

    def write(
        self, content: bytes, name: str | bytes, mode: str = "octet", **options: object
    ) -> None:
        """Write a file, as an honest client does; returns when the last block is acknowledged."""
        self.wrq(name, mode, **options)
        blksize, windowsize = 512, 1
        match self.receive():
            case OptionAck(granted):
                blksize = int(granted.get("blksize", blksize))
                windowsize = int(granted.get("windowsize", windowsize))
            case answer:
                assert answer == Ack(0)
        rollover = int(str(options.get("rollover", 0)))
        last = len(content) // blksize + 1
        acked = 0
        while acked < last:
            end = min(acked + windowsize, last)
            for block in range(acked + 1, end + 1):
                payload = content[(block - 1) * blksize : block * blksize]
                self.send(Data(on_wire(block, rollover), payload))
            while (answer := self.receive()) != Ack(on_wire(end, rollover)):
                assert isinstance(answer, Ack | OptionAck), answer  # One that came again.
            acked = end


def error_code(packet: Packet) -> int:
    """The code of an ERROR, which the packet must be."""
    assert isinstance(packet, Error), packet
    return packet.code


def _octets(name: str | bytes) -> bytes:
    return name.encode() if isinstance(name, str) else name


def _words(options: dict[str, object]) -> dict[str, str]:
    return {name: str(value) for name, value in options.items()}
