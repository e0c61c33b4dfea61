"""A UDP port as transfers use it: datagrams in and out, one at a time or many in one call.

It has no buffer of its own (`tftp.net.workspace` has one for each thread), and knows nothing of the
protocol.
"""

import contextlib
import errno
import socket
from collections.abc import Callable, Iterable
from typing import Any

from tftp.events import Address
from tftp.net import kernel

__all__ = [
    "MOST_AT_ONCE",
    "Emit",
    "Endpoint",
    "PairedEndpoint",
    "SharedEndpoint",
    "open_first_free",
    "open_port",
    "pair",
]

#: The largest IP packet in octets, which is also the most that GRO joins: what there has to be room
#: for when something is received.
MOST_AT_ONCE = 65536
#: Sends one datagram, or several of one size, and returns how many, or how many octets. The second
#: argument is where to; a socket that has one peer wants flags there, of which there are none.
Emit = Callable[[bytes | memoryview, Any], int]
_NO_FLAGS = 0


class Endpoint:
    """A non-blocking UDP socket, with the calls that transfers need.

    Attributes:
        socket: the socket; it is closed with the endpoint.
        side: another, to which comes what others than the peer send; None where there is no such.
    """

    __slots__ = (
        "_cut",
        "_joins",
        "_segments",
        "_source",
        "_tells_refusals",
        "emit",
        "side",
        "socket",
    )

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
        self.side: socket.socket | None = None
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

    def receive_beside(self, buffer: memoryview) -> tuple[memoryview, Address] | None:
        """A datagram from the `side`, and who sent it; None when there is nothing."""
        if self.side is None:
            return None
        try:
            count, sender = self.side.recvfrom_into(buffer)
        except BlockingIOError:
            return None
        return buffer[:count], sender

    def route(self, peer: Address, size: int = 0, count: int = 1) -> tuple[Emit, Any]:
        """How one datagram, or `count` of `size` octets, leave for `peer` in one call.

        Returns what to call, and its second argument; it raises what `send` does, and
        `BlockingIOError`.
        """
        if count == 1:
            return self.emit, peer
        return lambda octets, to: self.send_blocks(octets, size, to), peer

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

    def cut_no_more(self) -> bool:
        """Send one at a time from now on. False where that was so before."""
        had, self._segments = self._segments, False
        return had

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
                self._send_part(part, controls if len(part) > size else self._source, peer)
            except BlockingIOError:
                break
            except OSError:
                # Larger than the device takes in one piece, or a device that can not cut: from now
                # on one at a time, which raises again if that was not the reason.
                self.cut_no_more()
                return count + self._send_one_by_one(octets[start:], size, peer)
            count += -(-len(part) // size)
        return count

    def _send_part(
        self, part: bytes | memoryview, controls: list[kernel.Control], peer: Address
    ) -> None:
        self.socket.sendmsg([part], controls, 0, peer)

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
        """Close the socket, or both."""
        self.socket.close()
        if self.side is not None:
            self.side.close()


class PairedEndpoint(Endpoint):
    """A port with two sockets: one for a peer, which the kernel looks up once and not for every
    datagram, and the `side` for everybody else.
    """

    __slots__ = ("_peer", "_set", "_sideways")

    def __init__(
        self, sock: socket.socket, side: socket.socket, peer: Address, *, joins: bool = False
    ) -> None:
        """Wrap what `pair` has made, and what it was made for: the side."""
        super().__init__(sock, joins=joins)
        self.side = side
        self._sideways = side.sendto
        self._peer = peer
        self._set = 0  # what the kernel cuts all that is sent into
        self.emit = self._send_either

    def receive(self, buffer: memoryview) -> tuple[memoryview, int, Address] | None:
        """As of any endpoint; it is always the peer who has sent it."""
        if self._joins:
            return super().receive(buffer)
        try:
            count = self.socket.recv_into(buffer)
        except BlockingIOError:
            return None
        return buffer[:count], count, self._peer

    def route(self, peer: Address, size: int = 0, count: int = 1) -> tuple[Emit, Any]:
        """As of any endpoint. The kernel has to have cut datagrams of this size before."""
        if count == 1 or (self._segments and size == self._set and count * size <= self._cut[1]):
            return self.socket.send, _NO_FLAGS
        return super().route(peer, size, count)

    def cut_no_more(self) -> bool:
        """As of any endpoint. Else the kernel would refuse a single large datagram, too."""
        if self._set:
            kernel.cut_always(self.socket, 0)
            self._set = 0
        return super().cut_no_more()

    def _send_either(self, datagram: bytes | memoryview, peer: Address) -> int:
        if peer == self._peer:
            return self.socket.send(datagram)
        return self._sideways(datagram, peer)

    def _send_part(
        self, part: bytes | memoryview, controls: list[kernel.Control], peer: Address
    ) -> None:
        size = self._cut[0]
        if size != self._set:
            self._set = size
            kernel.cut_always(self.socket, size)
        self.socket.send(part)


class SharedEndpoint(Endpoint):
    """One transfer's part of a port that many share: it sends; what comes is brought by others."""

    __slots__ = ()

    def __init__(self, sock: socket.socket, local: Address) -> None:
        """`local` is the address to send from: the one that the client asked."""
        super().__init__(sock)
        # Where it is bound to that very address nothing needs to be said.
        self._source = [] if _is_bound_to(sock, local[0]) else kernel.sent_from(local)
        if self._source:
            self.emit = self._send_from

    def _send_from(self, datagram: bytes | memoryview, peer: Address) -> int:
        return self.socket.sendmsg([datagram], self._source, 0, peer)

    def fileno(self) -> int:
        """No descriptor to wait on."""
        return -1

    def receive(self, buffer: memoryview) -> None:
        """Nothing comes this way."""

    def close(self) -> None:
        """The port is not this transfer's to close."""


def _is_bound_to(sock: socket.socket, host: str) -> bool:
    try:
        return bool(sock.getsockname()[0] == host)
    except OSError:
        return False  # It has been closed, which whoever sends finds out.


# Linux takes these with the kind of a socket, which saves a call each.
_NONBLOCK = getattr(socket, "SOCK_NONBLOCK", 0)
_DATAGRAMS = socket.SOCK_DGRAM | _NONBLOCK | getattr(socket, "SOCK_CLOEXEC", 0)


def open_port(family: int, local: Address | None = None) -> socket.socket:
    """A non-blocking UDP socket as TFTP wants it, bound to `local` if given.

    Raises:
        OSError: the address can not be bound.
    """
    sock = socket.socket(family, _DATAGRAMS)
    try:
        if not _NONBLOCK:
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


def pair(sock: socket.socket, peer: Address) -> socket.socket | None:
    """A second socket on the port of `sock`, to and from `peer` alone; `sock` has the others.

    The kernel looks up a route, and a datagram's socket, with less ado. `sock` is bound, and nobody
    knows its port yet. None where there can be no such socket: all goes on without.
    """
    if not kernel.can_pair(sock):
        return None
    try:
        paired = open_port(sock.family)
    except OSError:
        return None
    try:
        # Both must agree, and only until they do.
        kernel.share_port(sock, True)
        kernel.share_port(paired, True)
        paired.bind(sock.getsockname())
        paired.connect(peer)
        kernel.share_port(paired, False)
        # Between the two it may have come from anybody.
        with contextlib.suppress(BlockingIOError):
            while True:
                paired.recv(1)
    except OSError:
        paired.close()
        return None
    finally:
        kernel.share_port(sock, False)
    return paired


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
