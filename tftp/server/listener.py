"""The door of a server: the well-known port, and what comes to it.

A request becomes an `Arrival` and goes to an engine. Anything else belongs to a transfer that runs
(all of it in single-port mode, an ERROR that a Raspberry Pi sends to the wrong port in any), or is
answered as RFC 1350 wants. The listener opens no file and keeps no state but its socket, and who
has asked here lately.
"""

import contextlib
import errno
import itertools
import logging
import socket
import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Protocol

from tftp.errors import DecodeError, ErrorCode, TFTPError
from tftp.events import Address, Operation, Request, format_address
from tftp.net import kernel
from tftp.net.endpoint import SharedEndpoint, open_port
from tftp.net.workspace import Outbox
from tftp.packets import Ack, Error, Opcode, ReadRequest, WriteRequest, decode
from tftp.server.config import ServerConfig

__all__ = [
    "DRAINING",
    "NO_IPV6",
    "REPLACED",
    "Arrival",
    "Busy",
    "Gate",
    "Listener",
    "client_key",
    "places",
]

logger = logging.getLogger("tftp")

# Datagrams taken before the transfers in the same thread have their turn.
_RECEIVES_IN_A_ROW = 64

# The largest datagram that there is: one that was cut would look like a smaller one.
_LARGEST = 65536

# How many clients are remembered to have asked here.
_REMEMBERED = 1024

_UNKNOWN_TID = Error(ErrorCode.UNKNOWN_TID, ErrorCode.UNKNOWN_TID.text).encode()


#: What a paused server answers.
DRAINING = "server is draining, try later"
#: Why a transfer is over whose client has asked for something else.
REPLACED = "replaced by a new request of the same client"


class Busy(TFTPError):
    """The server has all the transfers, or all the waiting requests, that it may have."""

    def __init__(self, message: str = "server busy, try again later", code: int = 0) -> None:
        super().__init__(message, code)


@dataclass(frozen=True, slots=True)
class Arrival:
    """A request that has come in.

    Attributes:
        request: what is asked.
        number: of the transfer that it may become.
        socket: what it came by.
        came: when, on the clock of `time.monotonic`.
    """

    request: Request
    number: int
    socket: socket.socket
    came: float = field(default_factory=time.monotonic, compare=False)

    def door(self) -> SharedEndpoint:
        """An endpoint that answers from the address and port that were asked."""
        return SharedEndpoint(self.socket, self.request.local)

    def refuse(self, error: TFTPError, outbox: Outbox | None = None) -> None:
        """Answer with an ERROR from the port that was asked, which every client accepts.

        It waits in `outbox` for company, if that is corked.
        """
        datagram = Error.of(error).encode()
        door = _door(self.socket, self.request.local)
        if outbox is not None and outbox.corked:
            emit, to = door.route(self.request.peer)
            outbox.put(emit, datagram, to, self)
            return
        with contextlib.suppress(OSError):
            door.send(datagram, self.request.peer)

    def unsent(self, error: OSError) -> None:
        """An ERROR is a courtesy, and the client's timer does the rest."""


@lru_cache(maxsize=64)  # There are as many as addresses that clients ask.
def _door(sock: socket.socket, local: Address) -> SharedEndpoint:
    """What answers alone are sent from: it is no transfer's."""
    return SharedEndpoint(sock, local)


def places(config: ServerConfig) -> list[tuple[int, Address, bool]]:
    """Family and address of each socket to open (the port is 0), and whether it may be missing.

    Raises:
        OSError: a host's name is not known; `filename` is the name.
    """
    family = config.family
    if not config.hosts:
        either = family == 0
        wildcards = [
            (socket.AF_INET, ("0.0.0.0", 0), False),  # noqa: S104  (all addresses were asked)
            (socket.AF_INET6, ("::", 0, 0, 0), either),
        ]
        return [entry for entry in wildcards if family in (0, entry[0])]
    found: dict[tuple[int, Address], bool] = {}
    for host in config.hosts:
        try:
            answers = socket.getaddrinfo(host, 0, family, socket.SOCK_DGRAM)
        except socket.gaierror as error:
            raise OSError(errno.EADDRNOTAVAIL, error.strerror, host) from error
        # "localhost" is ::1 as well, even where there is no IPv6.
        either = any(answer[0] == socket.AF_INET for answer in answers)
        for kind, _type, _protocol, _name, address in answers:
            optional = either and kind == socket.AF_INET6
            found[kind, address] = found.get((kind, address), True) and optional
    return [(kind, address, optional) for (kind, address), optional in found.items()]


#: What binding an IPv6 socket raises where there is none: no such family, or no such address.
NO_IPV6 = frozenset({errno.EAFNOSUPPORT, errno.EADDRNOTAVAIL, errno.EPROTONOSUPPORT})


class Gate(Protocol):
    """Where a listener takes what it receives; an engine's side of the door."""

    def submit(self, arrival: Arrival) -> None:
        """Take a request. Raises `Busy`."""

    def deliver(self, octets: memoryview, peer: Address) -> bool:
        """Take a datagram for the transfer with this peer; False if there is none."""


def client_key(peer: Address) -> Address:
    """What tells one client from another; an IPv6 flow label (the third part) does not."""
    return peer[:2] + peer[3:]


class Listener:
    """One bound socket; a `Handler` for a reactor."""

    deadline = None
    blocked = False

    def __init__(
        self,
        family: int,
        address: Address,
        gate: Gate,
        *,
        refused: Callable[[Arrival, TFTPError], None],
        numbers: "itertools.count[int]",
        freebind: bool = False,
        reuse_port: bool = False,
    ) -> None:
        """Bind.

        Args:
            family: `AF_INET` or `AF_INET6`.
            address: what to bind.
            gate: where requests go.
            refused: is to answer requests that got no further than here.
            numbers: the numbers of transfers to come.
            freebind: the address may be one that the host does not have yet.
            reuse_port: others may bind the same, and share the clients.

        Raises:
            OSError: the address can not be bound; `filename` is the address.
        """
        sock = open_port(family)
        try:
            if freebind:
                kernel.bind_anyway(sock)
            if reuse_port:
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
            # For sending as well: it may be the one port of all transfers.
            kernel.enlarge_buffers(sock, kernel.WANTED_BUFFER, kernel.WANTED_BUFFER)
            kernel.ask_for_destination(sock)
            sock.bind(address)
        except OSError as error:
            sock.close()
            raise OSError(error.errno, error.strerror, format_address(address)) from error
        self.armed = 0.0
        self.finished = False
        self.address: Address = sock.getsockname()
        self._socket = sock
        self._gate = gate
        self._refused = refused
        self._numbers = numbers
        self._askers: OrderedDict[Address, None] = OrderedDict()  # the latest comes last
        self._buffer = memoryview(bytearray(_LARGEST))

    @property
    def socket(self) -> socket.socket:
        """The bound socket."""
        return self._socket

    def fileno(self) -> int:
        """The socket's descriptor."""
        return self._socket.fileno()

    def readable(self, now: float) -> None:
        """Take in what has come."""
        for _ in range(_RECEIVES_IN_A_ROW):
            try:
                count, controls, _flags, peer = self._socket.recvmsg_into(
                    [self._buffer], kernel.ANCILLARY
                )
            except BlockingIOError:
                return
            except OSError as error:
                # What an earlier answer met on its way; the requests that wait are not concerned.
                logger.debug("listening on %s: %s", format_address(self.address), error)
                continue
            local = self._asked_address(controls)
            # RFC 1123, section 4.2.3.5: a request sent to a broadcast address stays unanswered.
            if local is not None:
                self._take(self._buffer[:count], peer, local)

    def writable(self, now: float) -> None:
        """Never waited for."""

    def expire(self, now: float) -> None:
        """Never waited for."""

    def failed(self, error: Exception) -> None:
        """A fault of the program must not close the door."""
        logger.error("listening on %s", format_address(self.address), exc_info=error)

    def close(self) -> None:
        """Stop listening."""
        self._socket.close()

    def _asked_address(self, controls: list[kernel.Control]) -> Address | None:
        """The address that the datagram was sent to; None for a broadcast or multicast one."""
        asked = kernel.destination(controls)
        if asked is None:
            return self.address
        host, interface, unicast = asked
        if not unicast:
            return None
        if ":" not in host:
            return (host, self.address[1])
        return (host, self.address[1], 0, interface if host.startswith(_LINK_LOCAL) else 0)

    def _take(self, octets: memoryview, peer: Address, local: Address) -> None:
        if bytes(octets[:2]) not in _REQUESTS and self._gate.deliver(octets, peer):
            return
        try:
            packet = decode(octets)
        except DecodeError as error:
            operation = _REQUESTS.get(bytes(octets[:2]))
            if operation is not None:
                self._malformed(operation, octets, peer, local, error)
            else:
                # Silence: it may be an ERROR cut short, or a service that answers everything.
                logger.info("%s sent no TFTP packet: %s", format_address(peer), error)
            return
        match packet:
            case ReadRequest():
                self._request(Operation.READ, packet, peer, local)
            case WriteRequest():
                self._request(Operation.WRITE, packet, peer, local)
            case Error():
                logger.debug("%s sent an ERROR to nobody: %s", format_address(peer), packet)
            case Ack() if client_key(peer) in self._askers:
                # The last ACK of its transfer, come again. In single-port mode its port may be
                # waiting for the next file already, and would take an ERROR for the answer.
                logger.debug("%s sent an ACK to no transfer: %s", format_address(peer), packet)
            case _:
                self._answer(_UNKNOWN_TID, peer, local)

    def _request(
        self,
        operation: Operation,
        packet: ReadRequest | WriteRequest,
        peer: Address,
        local: Address,
    ) -> None:
        request = Request(
            operation=operation,
            filename=packet.filename,
            mode=packet.mode.lower(),
            options=packet.options,
            peer=peer,
            local=local,
        )
        self._remember(client_key(peer))
        arrival = Arrival(request, next(self._numbers), self._socket)
        try:
            self._gate.submit(arrival)
        except Busy as error:
            self._refused(arrival, error)

    def _malformed(
        self,
        operation: Operation,
        octets: memoryview,
        peer: Address,
        local: Address,
        error: DecodeError,
    ) -> None:
        """Refuse what was meant to be a request; its file is what stands where a name would."""
        name, _, _ = bytes(octets[2 : 2 + _MOST_OF_NAME]).partition(b"\0")
        request = Request(operation=operation, filename=name, mode="", peer=peer, local=local)
        self._refused(Arrival(request, next(self._numbers), self._socket), error)

    def _remember(self, client: Address) -> None:
        askers = self._askers
        askers[client] = None
        askers.move_to_end(client)
        if len(askers) > _REMEMBERED:
            askers.popitem(last=False)

    def _answer(self, datagram: bytes, peer: Address, local: Address) -> None:
        with contextlib.suppress(OSError):
            _door(self._socket, local).send(datagram, peer)


_REQUESTS = {
    Opcode.RRQ.to_bytes(2, "big"): Operation.READ,
    Opcode.WRQ.to_bytes(2, "big"): Operation.WRITE,
}
# Octets of a request that makes no sense which are told of.
_MOST_OF_NAME = 255
# fe80::/10, the addresses that mean something on one interface only.
_LINK_LOCAL = ("fe8", "fe9", "fea", "feb")
