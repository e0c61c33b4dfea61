"""A bad network between a client and a server on loopback: datagrams lost, doubled, overtaken.

What befalls the n-th datagram of a direction depends on the seed alone, not on time: none is held
back for so many seconds, only until the next one has gone by.
"""

import select
import socket
import threading
from random import Random
from types import TracebackType
from typing import Self

from tftp.events import Address
from tftp.packets import Opcode, header

_LARGEST = 65536
# A datagram that waits to be overtaken goes on after so many seconds, if none comes.
_AT_LAST = 0.01


class Relay:
    """A network that one client at a time reaches a server through.

    Args:
        server: where it leads.
        seed: decides what goes wrong.
        rate: share of datagrams that are lost, and as many doubled, and as many overtaken.

    Attributes:
        address: where a client is to send its requests.
        lost, doubled, overtaken: how many datagrams that befell.
    """

    def __init__(self, server: Address, *, seed: int, rate: float) -> None:
        self.lost = self.doubled = self.overtaken = 0
        self._server = server
        self._rate = rate
        self._client: Address | None = None
        self._tid = server
        self._fates = {"there": Random(2 * seed), "back": Random(2 * seed + 1)}
        self._held: list[tuple[socket.socket, bytes, Address]] = []
        self._near, self._far = _port(), _port()
        self._end, self._ended = socket.socketpair()
        self._thread = threading.Thread(target=self._run, name="relay")
        self.address: Address = self._near.getsockname()

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._ended.close()
        self._thread.join()
        for sock in (self._near, self._far, self._end):
            sock.close()

    def _run(self) -> None:
        while True:
            waiting = _AT_LAST if self._held else None
            ready, _, _ = select.select([self._near, self._far, self._end], [], [], waiting)
            if self._end in ready:
                return
            if not ready:
                self._release()
            if self._near in ready:
                self._from_client()
            if self._far in ready:
                self._from_server()

    def _from_client(self) -> None:
        datagram, sender = self._near.recvfrom(_LARGEST)
        opening = header(datagram)[0] in (Opcode.RRQ, Opcode.WRQ)
        if opening:
            self._client = sender
        elif sender != self._client:
            return  # The last words of an earlier transfer are not for the server's port of today.
        self._pass("there", self._far, datagram, self._server if opening else self._tid)

    def _from_server(self) -> None:
        datagram, self._tid = self._far.recvfrom(_LARGEST)
        assert self._client is not None
        self._pass("back", self._near, datagram, self._client)

    def _pass(self, way: str, by: socket.socket, datagram: bytes, to: Address) -> None:
        fate = self._fates[way].random() / self._rate
        if fate < 1:
            self.lost += 1
        elif fate < 2:
            self.doubled += 1
            by.sendto(datagram, to)
            by.sendto(datagram, to)
        elif fate < 3:
            self.overtaken += 1
            self._held.append((by, datagram, to))
            return
        else:
            by.sendto(datagram, to)
        self._release()

    def _release(self) -> None:
        for by, datagram, to in self._held:
            by.sendto(datagram, to)
        self._held.clear()


def _port() -> socket.socket:
    sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 20)
    sock.bind(("127.0.0.1", 0))
    return sock
