"""A UDP port as transfers use it: datagrams in and out, one at a time or many in one call.

`Workspace` holds the buffers that all transfers of a thread share; between two calls nothing of
value is in them, so a transfer costs no buffer of its own. Neither class knows the protocol beyond
the four octets in front of each block.
"""

import contextlib
import errno
import socket
from collections.abc import Iterable

from tftp.blocks import MAX_WIRE, on_wire
from tftp.events import Address
from tftp.net import kernel
from tftp.packets import HEADER, MAX_DATAGRAM, Opcode

__all__ = ["Batch", "Endpoint", "SharedEndpoint", "Workspace", "open_first_free", "open_port"]

# The largest IP packet, which is also the most that GRO joins.
_INBOUND = 65536
# How many block sizes a workspace remembers the layout of.
_LAYOUTS = 16


class Batch:
    """Room for many DATA packets of one size, one behind the other.

    Attributes:
        size: octets of a whole packet, header included.
        capacity: how many there is room for.
        slots: where the payload of each belongs.
        octets: all of them, as they go onto the wire.
    """

    __slots__ = ("_buffer", "capacity", "octets", "size", "slots")

    def __init__(self, buffer: bytearray, blksize: int) -> None:
        self._buffer = buffer
        self.size = HEADER.size + blksize
        self.capacity = max(1, min(kernel.MAX_SEGMENTS, kernel.MAX_SEGMENTS_OCTETS // self.size))
        self.octets = memoryview(buffer)
        starts = range(HEADER.size, self.capacity * self.size, self.size)
        self.slots = [self.octets[start : start + blksize] for start in starts]

    def packets(self, first: int, count: int, last: int | None, rollover: int) -> memoryview:
        """The octets of `count` DATA packets, headers written, the first of them block `first`.

        The payloads are in the slots already; `last` is the size of the final one, None if full.
        """
        position = 0
        for block in range(first, first + count):
            wire = block if block <= MAX_WIRE else on_wire(block, rollover)
            HEADER.pack_into(self._buffer, position, Opcode.DATA, wire)
            position += self.size
        if last is not None:
            position -= self.size - HEADER.size - last
        return self.octets[:position]


class Workspace:
    """The buffers of one thread."""

    __slots__ = ("_batches", "_outbound", "inbound")

    def __init__(self) -> None:
        self.inbound = memoryview(bytearray(_INBOUND))
        self._outbound = bytearray(max(MAX_DATAGRAM, kernel.MAX_SEGMENTS_OCTETS))
        self._batches: dict[int, Batch] = {}

    def batch(self, blksize: int) -> Batch:
        """Room for DATA packets of this block size; the last one asked for is overwritten."""
        batch = self._batches.get(blksize)
        if batch is None:
            if len(self._batches) >= _LAYOUTS:
                self._batches.clear()
            batch = self._batches[blksize] = Batch(self._outbound, blksize)
        return batch


class Endpoint:
    """A non-blocking UDP socket, with the calls that transfers need.

    Attributes:
        socket: the socket; it is closed with the endpoint.
        address: what it is bound to.
    """

    __slots__ = ("_joins", "_segments", "_source", "_tells_refusals", "address", "socket")

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
        self.address: Address = sock.getsockname()
        self._joins = joins and kernel.join_segments(sock)
        self._segments = kernel.can_segment()
        self._source: list[kernel.Control] = []
        self._tells_refusals = tells_refusals
        if tells_refusals:
            kernel.ask_for_refusals(sock)

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
            self._send_one(datagram, peer)

    def send_blocks(self, octets: memoryview, size: int, peer: Address) -> int:
        """Send datagrams of `size` octets that stand one behind the other; the last may be shorter.

        Returns how many are on their way, fewer than all when the queue is full.
        """
        if len(octets) <= size:
            try:
                self._send_one(octets, peer)
            except BlockingIOError:
                return 0
            return 1
        if self._segments:
            try:
                self.socket.sendmsg([octets], [*self._source, kernel.segment_size(size)], 0, peer)
            except BlockingIOError:
                return 0
            except OSError:
                # Datagrams larger than the device takes in one piece, or a device that can not:
                # from now on one at a time, which raises again if that was not the reason.
                self._segments = False
            else:
                return -(-len(octets) // size)
        return self._send_one_by_one(octets, size, peer)

    def _send_one_by_one(self, octets: memoryview, size: int, peer: Address) -> int:
        count = 0
        for start in range(0, len(octets), size):
            try:
                self._send_one(octets[start : start + size], peer)
            except BlockingIOError:
                break
            count += 1
        return count

    def _send_one(self, datagram: bytes | memoryview, peer: Address) -> None:
        if self._source:
            self.socket.sendmsg([datagram], self._source, 0, peer)
        else:
            self.socket.sendto(datagram, peer)

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
