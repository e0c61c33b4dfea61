"""A UDP port as transfers use it: datagrams in and out, one at a time or many in one call.

`Workspace` holds the buffers that all transfers of a thread share; between two calls nothing of
value is in them, so a transfer costs no buffer of its own. Neither class knows the protocol beyond
the four octets in front of each block.
"""

import contextlib
import errno
import socket
from collections.abc import Callable, Iterable
from io import BytesIO
from typing import TYPE_CHECKING, Any, Protocol

from tftp.events import Address
from tftp.net import kernel
from tftp.net.batch import MOST_IN_BATCH, Batch, Shelf
from tftp.packets import HEADER

if TYPE_CHECKING:
    from concurrent.futures import Future

__all__ = [
    "MOST_AT_ONCE",
    "Aside",
    "Endpoint",
    "SharedEndpoint",
    "Workspace",
    "open_first_free",
    "open_port",
]

#: The largest IP packet in octets, which is also the most that GRO joins: what there has to be room
#: for when something is received.
MOST_AT_ONCE = 65536
# Room for a window of 64 blocks of 1428, and then some.
_INBOUND = 3 * MOST_AT_ONCE
# How many datagrams an outbox gathers.
_IN_A_ROW = 32
# How many block sizes a workspace keeps room for.
_LAYOUTS = 8


#: Sends one datagram.
Emit = Callable[[bytes | memoryview, Address], object]


class Postman(Protocol):
    """Who has put a datagram into an outbox."""

    def unsent(self, error: OSError) -> None:
        """The network says why it will never take the datagram."""


class Outbox:
    """Datagrams of many transfers that leave together.

    Half of what a datagram costs to send is to wake who receives it. While one of a row wakes him
    the others cost nothing of that, if they leave without anything in between.

    Attributes:
        corked: datagrams are to be put here, for as long as that is so.
    """

    __slots__ = ("_failed", "_waiting", "corked")

    def __init__(self) -> None:
        self.corked = False
        self._waiting: list[tuple[Endpoint, bytes, int, Address, Postman]] = []
        self._failed: list[Postman] = []

    def put(
        self, endpoint: "Endpoint", datagrams: bytes, size: int, peer: Address, owner: Postman
    ) -> None:
        """Have datagrams of `size` octets sent soon, or one of up to so many."""
        waiting = self._waiting
        waiting.append((endpoint, datagrams, size, peer, owner))
        if len(waiting) >= _IN_A_ROW:
            self._send()

    def uncork(self) -> list[Postman]:
        """Send what has gathered, and let everything else leave at once. Who was told `unsent`."""
        self.corked = False
        if self._waiting:
            self._send()
        failed = self._failed
        if failed:
            self._failed = []
        return failed

    def _send(self) -> None:
        waiting, self._waiting = self._waiting, []
        for endpoint, datagrams, size, peer, owner in waiting:
            try:
                if len(datagrams) <= size:
                    endpoint.emit(datagrams, peer)
                else:
                    endpoint.send_blocks(datagrams, size, peer)
            except BlockingIOError:
                pass  # A full queue loses it, as the network may.
            except OSError as error:
                owner.unsent(error)
                self._failed.append(owner)


class Aside(Protocol):
    """Who does what would hold a thread up."""

    def do(self, work: Callable[[], None], owner: Any, then: Callable[[], None]) -> "Future[None]":
        """Have `work` done elsewhere, then `then`, a method of `owner`, called by the thread."""


class Workspace:
    """The buffers of one thread, and its outgoing datagrams.

    Attributes:
        inbound: room for what is received.
        outbox: what leaves together.
        shelf: what transfers have ready beforehand.
        aside: who does what takes long; None where nobody else is held up by it.
    """

    __slots__ = ("_batches", "aside", "inbound", "outbox", "shelf")

    def __init__(self) -> None:
        self.aside: Aside | None = None
        self.outbox = Outbox()
        # Unlike a bytearray these zeroes are not written: a page that is never used costs nothing.
        self.inbound = BytesIO(bytes(_INBOUND)).getbuffer()
        self._batches: dict[int, Batch] = {}
        self.shelf = Shelf()

    def batch(self, blksize: int) -> Batch:
        """Room for DATA packets of this block size; the last one asked for is overwritten."""
        batch = self._batches.get(blksize)
        if batch is None:
            if len(self._batches) >= _LAYOUTS:
                self._batches.clear()
            count = max(1, min(kernel.MAX_SEGMENTS, MOST_IN_BATCH // (HEADER.size + blksize)))
            batch = self._batches[blksize] = Batch(blksize, count)
        return batch


class Endpoint:
    """A non-blocking UDP socket, with the calls that transfers need.

    Attributes:
        socket: the socket; it is closed with the endpoint.
    """

    __slots__ = ("_cut", "_joins", "_segments", "_source", "_tells_refusals", "emit", "socket")

    def __init__(
        self, sock: socket.socket, *, joins: bool = False, tells_refusals: bool = False
    ) -> None:
        """Wrap a socket.

        Args:
            sock: it; closed with the endpoint.
            joins: many datagrams are expected at once (GRO).
            tells_refusals: a call is to fail with `ECONNREFUSED` when the peer's host says that
                nobody listens there.
        """
        self.socket = sock
        self._joins = joins and kernel.join_segments(sock)
        self._segments = kernel.can_segment()
        # For the size of datagrams that was sent last: how many octets to a call, and what tells
        # the kernel where to cut.
        self._cut: tuple[int, int, list[kernel.Control]] = (0, 0, [])
        self._source: list[kernel.Control] = []
        self.emit: Emit = sock.sendto
        self._tells_refusals = tells_refusals
        if tells_refusals:
            kernel.ask_for_refusals(sock)

    @property
    def address(self) -> Address:
        """What the socket is bound to."""
        address: Address = self.socket.getsockname()
        return address

    def fileno(self) -> int:
        """The socket's descriptor."""
        return self.socket.fileno()

    def receive(self, buffer: memoryview) -> tuple[memoryview, int, Address] | None:
        """One datagram, or several of one size joined: the octets, that size, and the sender.

        The octets stand in `buffer`, and are the next call's to overwrite. None when there is
        nothing. Raises `OSError`, for example `ECONNREFUSED`.
        """
        try:
            if not self._joins:
                count, sender = self.socket.recvfrom_into(buffer)
                return buffer[:count], count, sender
            count, controls, _flags, sender = self.socket.recvmsg_into([buffer], kernel.ANCILLARY)
        except BlockingIOError:
            if self._tells_refusals:
                kernel.forget_refusals(self.socket)
            return None
        return buffer[:count], kernel.joined_size(controls) or count, sender

    def send(self, datagram: bytes, peer: Address) -> None:
        """Send one datagram. A full queue loses it, as the network may; other faults raise."""
        with contextlib.suppress(BlockingIOError):
            self.emit(datagram, peer)

    def send_blocks(self, octets: bytes | memoryview, size: int, peer: Address) -> int:
        """Send datagrams of `size` octets that stand one behind the other; the last may be shorter.

        Returns how many are on their way, fewer than all when the queue is full.
        """
        if len(octets) > size:
            if self._segments:
                return self._send_segments(octets, size, peer)
            return self._send_one_by_one(octets, size, peer)
        try:
            self.emit(octets, peer)
        except BlockingIOError:
            return 0
        return 1

    def _send_segments(self, octets: bytes | memoryview, size: int, peer: Address) -> int:
        """As many in each call as the kernel cuts apart (GSO)."""
        if size != self._cut[0]:
            at_once = size * max(1, min(kernel.MAX_SEGMENTS, kernel.MAX_SEGMENTS_OCTETS // size))
            self._cut = (size, at_once, [*self._source, kernel.segment_size(size)])
        _, at_once, controls = self._cut
        count = 0
        for start in range(0, len(octets), at_once):
            part = octets[start : start + at_once]
            try:
                self.socket.sendmsg([part], controls if len(part) > size else self._source, 0, peer)
            except BlockingIOError:
                break
            except OSError:
                # Larger than the device takes in one piece, or a device that can not cut: from now
                # on one at a time, which raises again if that was not the reason.
                self._segments = False
                return count + self._send_one_by_one(octets[start:], size, peer)
            count += -(-len(part) // size)
        return count

    def _send_one_by_one(self, octets: bytes | memoryview, size: int, peer: Address) -> int:
        count = 0
        for start in range(0, len(octets), size):
            try:
                self.emit(octets[start : start + size], peer)
            except BlockingIOError:
                break
            count += 1
        return count

    def close(self) -> None:
        """Close the socket."""
        self.socket.close()


class SharedEndpoint(Endpoint):
    """One transfer's part of a port that many share: it sends; what comes is brought by others."""

    __slots__ = ()

    def __init__(self, sock: socket.socket, local: Address) -> None:
        """`local` is the address to send from: the one that the client asked."""
        super().__init__(sock)
        self._source = kernel.sent_from(local)
        if self._source:
            self.emit = self._send_from

    def _send_from(self, datagram: bytes | memoryview, peer: Address) -> None:
        self.socket.sendmsg([datagram], self._source, 0, peer)

    def fileno(self) -> int:
        """No descriptor to wait on."""
        return -1

    def receive(self, buffer: memoryview) -> None:
        """Nothing comes this way."""

    def close(self) -> None:
        """The port is not this transfer's to close."""


def open_port(family: int, local: Address | None = None) -> socket.socket:
    """A non-blocking UDP socket as TFTP wants it, bound to `local` if given.

    Raises:
        OSError: the address can not be bound.
    """
    sock = socket.socket(family, socket.SOCK_DGRAM | getattr(socket, "SOCK_CLOEXEC", 0))
    try:
        sock.setblocking(False)
        kernel.allow_fragments(sock)
        if family == socket.AF_INET6:
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        if local is not None:
            sock.bind(local)
    except BaseException:
        sock.close()
        raise
    return sock


def open_first_free(family: int, local: Address, ports: Iterable[int]) -> socket.socket:
    """Like `open_port`, on the first of `ports` that is free at the address `local`.

    Raises:
        OSError: `EADDRINUSE`, all of them are taken; or the address can not be bound at all.
    """
    sock = open_port(family)
    try:
        for port in ports:
            try:
                sock.bind((local[0], port, *local[2:]))
            except OSError as error:
                if error.errno != errno.EADDRINUSE:
                    raise
            else:
                return sock
        raise OSError(errno.EADDRINUSE, "every port of the range is in use")
    except BaseException:
        sock.close()
        raise
