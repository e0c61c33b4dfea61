"""From a request to a session: the rules, the file, the terms and the port, in this order.

The file is open before an OACK can leave: firmware that has seen an OACK takes an ERROR after it
for the end of its boot. This is the same for every engine; where and when it runs is theirs to say.
"""

import errno
import itertools
import logging
import random
import socket
import time
from collections.abc import Callable, Sequence
from dataclasses import replace

from tftp.errors import ErrorCode, ProtocolError, Refused, TFTPError
from tftp.events import (
    Address,
    Observer,
    Operation,
    Request,
    RequestReceived,
    RequestRefused,
)
from tftp.net import kernel
from tftp.net.endpoint import Endpoint, PairedEndpoint, open_first_free, open_port, pair
from tftp.net.workspace import Outbox, Workspace
from tftp.options import DEFAULT_BLKSIZE, Limits, Terms, answer
from tftp.receiving import ReceivingSession
from tftp.sending import SendingSession
from tftp.server.config import ServerConfig
from tftp.server.listener import Arrival
from tftp.server.policy import Policy
from tftp.session import Link, Session
from tftp.storage.adapters import NetasciiSink, NetasciiSource
from tftp.storage.base import Storage
from tftp.transfer import Receiver, Sender

__all__ = ["Opening"]

logger = logging.getLogger("tftp")

# The headers of IP, UDP and TFTP in front of each block: what a blksize must leave room for.
_HEADERS = {socket.AF_INET: 20 + 8 + 4, socket.AF_INET6: 40 + 8 + 4}
# Every path takes a block of this size whole (IPv6: 1280 octets; nobody runs IPv4 with less today).
_SAFE_BLKSIZE = 1280 - 52
# What a process, or the whole system, says that has as many files and sockets open as it may.
_NO_DESCRIPTORS = (errno.EMFILE, errno.ENFILE)
# A transfer of so many windows is worth a second socket.
_LONG = 32
# The route to a client is looked up anew after so many seconds, and so many are remembered.
_ROUTE_AGE, _ROUTES = 30.0, 1024


class Opening:
    """Opens sessions, by one server's rules.

    Threads may share it: what it keeps for itself is a cache, and any answer from it is right.
    """

    def __init__(
        self,
        storage: Storage,
        config: ServerConfig,
        policy: Sequence[Policy],
        report: Observer,
    ) -> None:
        #: What another process needs to open sessions by the same rules (see `launch`).
        self.parts = (storage, config, tuple(policy))
        self._storage = storage
        self._config = config
        self._policy = tuple(policy)
        self.report = report
        self._routes: dict[Address, tuple[float, Limits]] = {}
        self._turn = itertools.count(random.randrange(1 << 16))  # noqa: S311  (spreads, hides nothing)

    @property
    def is_prompt(self) -> bool:
        """Whether the storage says of itself that it keeps nobody waiting; a function might."""
        return bool(getattr(self._storage, "is_prompt", False))

    def adjust(self, config: ServerConfig) -> None:
        """Go by this configuration from the next request on. Any thread may call this."""
        storage, _, policy = self.parts
        self.parts = (storage, config, policy)
        self._config = config
        self._routes = {}

    def open(
        self,
        arrival: Arrival,
        workspace: Workspace,
        now: float,
        make_room: Callable[[], bool] = lambda: False,
    ) -> Session | None:
        """The session that serves this request, not started yet; None if it was refused.

        The client has then got its ERROR, and the observers know. `make_room` is asked, where the
        process has no descriptor left, to give some up; it says whether there were any.
        """
        request = arrival.request
        self.report(RequestReceived(time=time.time(), transfer=arrival.number, request=request))
        try:
            return self._open(arrival, workspace, now, make_room)
        except TFTPError as error:
            self.refuse(arrival, error.with_traceback(None), workspace.outbox)
        except OSError as error:
            # Who keeps the event would keep all frames that the traceback leads to.
            self.refuse(arrival, Refused.because(error.with_traceback(None)), workspace.outbox)
        except Exception as error:
            # A storage or a rule is a user's program: its fault is not the end of the server.
            logger.exception("request %d failed by a fault of the program", arrival.number)
            fault = Refused("internal error", ErrorCode.UNDEFINED)
            fault.__cause__ = error
            self.refuse(arrival, fault)
        return None

    def refuse(self, arrival: Arrival, error: TFTPError, outbox: Outbox | None = None) -> None:
        """Answer with an ERROR, and say so. It waits in `outbox` for company, if there is one."""
        arrival.refuse(error, outbox)
        self.report(
            RequestRefused(
                time=time.time(), transfer=arrival.number, request=arrival.request, error=error
            )
        )

    def _open(
        self, arrival: Arrival, workspace: Workspace, now: float, make_room: Callable[[], bool]
    ) -> Session:
        request = _in_known_mode(arrival.request)
        for rule in self._policy:
            request = rule(request)
        reads = request.operation is Operation.READ
        attempt = self._open_read if reads else self._open_write
        while True:
            try:
                return attempt(arrival, request, workspace, now)
            except OSError as error:
                if error.errno not in _NO_DESCRIPTORS or not make_room():
                    raise

    def _open_read(
        self, arrival: Arrival, request: Request, workspace: Workspace, now: float
    ) -> Session:
        source = self._storage.open_read(request)
        try:
            # RFC 2349: tsize is the size as sent, which netascii changes in ways not known yet.
            size = source.size if request.mode == "octet" else None
            _, terms, granted = self._answer(request, size)
            if request.mode == "netascii":
                source = NetasciiSource(source, keep=terms.windowsize * terms.blksize)
            machine = Sender.answer(terms, granted, time.monotonic(), self._config.patience)
            lasts = (size or 0) >= _LONG * terms.windowsize * terms.blksize
            link = Link(self._endpoint(arrival, terms, lasts=lasts), request.peer, workspace)
        except BaseException:
            source.close()
            raise
        return SendingSession(
            machine,
            source,
            arrival.request,
            link,
            report=self.report,
            number=arrival.number,
            now=now,
        )

    def _open_write(
        self, arrival: Arrival, request: Request, workspace: Workspace, now: float
    ) -> Session:
        sink = self._storage.open_write(request)
        try:
            limits, terms, granted = self._answer(request, _announced(request))
            room = max(1, kernel.receive_budget() // terms.blksize)
            if terms.windowsize > room:
                limits = replace(limits, max_windowsize=room)
                terms, granted = answer(request.options, limits, size=_announced(request))
            if request.mode == "netascii":
                sink = NetasciiSink(sink)
            machine = Receiver.answer(terms, granted, time.monotonic(), self._config.patience)
            link = Link(self._endpoint(arrival, terms, lasts=True), request.peer, workspace)
        except BaseException:
            sink.discard()
            raise
        return ReceivingSession(
            machine,
            sink,
            arrival.request,
            link,
            report=self.report,
            number=arrival.number,
            now=now,
        )

    def _endpoint(self, arrival: Arrival, terms: Terms, *, lasts: bool) -> Endpoint:
        """The port to answer from: a new one (RFC 1350, section 4), unless configured otherwise."""
        if self._config.single_port:
            return arrival.door()
        local, peer = arrival.request.local, arrival.request.peer
        family = socket.AF_INET6 if ":" in local[0] else socket.AF_INET
        sock = self._open_port(family, (local[0], 0, *local[2:]))
        paired = pair(sock, peer) if lasts else None
        receives = arrival.request.operation is Operation.WRITE and terms.windowsize > 1
        if receives:
            room = min(kernel.WANTED_BUFFER, _window_octets(terms))
            kernel.enlarge_buffers(paired or sock, room)
        if paired is None:
            return Endpoint(sock, joins=receives)
        return PairedEndpoint(paired, sock, peer, joins=receives)

    def _open_port(self, family: int, local: Address) -> socket.socket:
        if self._config.port_range is None:
            return open_port(family, local)
        low, high = self._config.port_range
        count = high - low + 1
        first = next(self._turn)
        try:
            return open_first_free(
                family, local, (low + (first + step) % count for step in range(count))
            )
        except OSError as error:
            if error.errno != errno.EADDRINUSE:
                raise
            logger.warning("no port between %d and %d is free", low, high)
            raise Refused(
                "server busy: all its ports are in use, try again later", ErrorCode.UNDEFINED
            ) from error

    def _answer(self, request: Request, size: int | None) -> tuple[Limits, Terms, dict[str, str]]:
        """What is granted, with blksize small enough not to be fragmented on the way; and under
        which limits.
        """
        # In this order: what is noted by limits that are changed now goes with the old routes.
        routes = self._routes
        limits = self._config.limits
        terms, granted = answer(request.options, limits, size=size)
        if self._config.clamp_to_mtu and terms.blksize > _SAFE_BLKSIZE:
            limits = _limits_on_route(routes, limits, request.peer)
            terms, granted = answer(request.options, limits, size=size)
        return limits, terms, granted


def _limits_on_route(
    routes: dict[Address, tuple[float, Limits]], limits: Limits, peer: Address
) -> Limits:
    """The limits with no larger blocks than packets to this client have room for; `routes` holds
    what is known of that.
    """
    now = time.monotonic()
    # A link-local address means nothing without its scope.
    host = (peer[0], *peer[3:])
    expires, unbroken = routes.get(host, (0.0, limits))
    if expires < now:
        if len(routes) >= _ROUTES:
            routes.clear()
        unbroken = _without_fragments(limits, peer)
        routes[host] = (now + _ROUTE_AGE, unbroken)
    return unbroken


_ETHERNET = 1500


def _without_fragments(limits: Limits, peer: Address) -> Limits:
    """The limits with no larger blocks than packets on the way to this client have room for."""
    family = socket.AF_INET6 if ":" in peer[0] else socket.AF_INET
    room = (kernel.path_mtu(peer, family) or _ETHERNET) - _HEADERS[family]
    return replace(limits, max_blksize=min(limits.max_blksize, max(DEFAULT_BLKSIZE, room)))


def _in_known_mode(request: Request) -> Request:
    if request.mode in ("octet", "netascii"):
        return request
    mode = request.mode[:16]
    raise ProtocolError(f"mode {mode!r} is not served: ask for octet or netascii")


def _announced(request: Request) -> int | None:
    """RFC 2349: the size in a write request goes back as it came."""
    text = request.option("tsize") or ""
    return int(text) if text.isascii() and text.isdigit() and len(text) <= 20 else None


def _window_octets(terms: Terms) -> int:
    return 2 * terms.windowsize * (terms.blksize + _PACKET_OVERHEAD)


# What the kernel adds to each packet that waits in a buffer, roughly.
_PACKET_OVERHEAD = 1024
