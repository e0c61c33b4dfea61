"""What a client wants moved, how it asks for that, and whether a "no" was about the options alone.

An errand opens its local file and makes the session of one attempt. How many attempts there are,
and in which thread or loop they run, is the client's affair; so is what its user gets to see.
"""

import contextlib
import errno
import math
import socket
from collections.abc import Mapping
from dataclasses import replace
from typing import Any, NamedTuple

from tftp.errors import ErrorCode, PeerError, ProtocolError, TransferTimeout, Unreachable
from tftp.events import Address, Observer, Operation, Request, format_address
from tftp.net import kernel
from tftp.net.endpoint import Endpoint, open_port
from tftp.net.workspace import Workspace
from tftp.options import DEFAULT_BLKSIZE, MAX_BLKSIZE, Terms, offer
from tftp.packets import ReadRequest, WriteRequest
from tftp.receiving import ReceivingSession
from tftp.sending import SendingSession
from tftp.session import Link, Session
from tftp.storage.adapters import NetasciiSink, NetasciiSource
from tftp.storage.ends import Origin, Target, open_origin, open_target
from tftp.timers import Patience, RetransmitTimer
from tftp.transfer import Receiver, Sender

__all__ = ["Download", "Errand", "Start", "Upload", "declined", "good_terms", "ignored", "shares"]

# Blocks between two ACKs that are asked for: as many as one system call sends.
_WINDOWSIZE = 64
# Octets of a window that a server's receive buffer can be trusted to hold.
_SERVER_BUFFER = 128 << 10
_ETHERNET = 1500
# Answers that may mean "I do not like these options", and are not about the file.
_ABOUT_OPTIONS = frozenset(
    {
        ErrorCode.UNDEFINED,
        ErrorCode.ILLEGAL_OPERATION,
        ErrorCode.UNKNOWN_TID,
        ErrorCode.OPTION_REFUSED,
    }
)


class Start(NamedTuple):
    """How one attempt begins.

    Attributes:
        address: where the request goes.
        wish: what to ask for. Its `tsize`, unless None, is put right: 0 asks for the size, and who
            sends the file tells its own (RFC 2349).
        timeout: the wait in seconds that the user wants, None to measure.
        patience: how long to wait for the server.
        number: of the transfer.
        report: is given its events.
        now: the time.
    """

    address: Address
    wish: Terms
    timeout: float | None
    patience: Patience
    number: int
    report: Observer
    now: float


class Errand:
    """One file to move; see its two kinds below.

    Attributes:
        filename: as the server knows it.
        mode: "octet" or "netascii".
    """

    __slots__ = ("filename", "mode")

    def __init__(self, filename: bytes, mode: str) -> None:
        if mode not in ("octet", "netascii"):
            raise ValueError(f"mode is octet or netascii, not {mode!r}")
        self.filename = filename
        self.mode = mode

    @property
    def text(self) -> bool:
        """Whether line ends are translated."""
        return self.mode == "netascii"

    @property
    def room(self) -> int:
        """Octets that a window may have before a receive buffer would lose some of it."""
        raise NotImplementedError

    def begin(self, start: Start) -> Session:
        """The session of one attempt, the local file open, and nothing sent yet.

        Raises:
            OSError: the file cannot be opened.
            Unreachable: this host cannot send to such an address.
            ValueError: the name does not fit into a request.
        """
        raise NotImplementedError


class Download(Errand):
    """A file to read from the server, `into` something here."""

    __slots__ = ("into",)

    def __init__(self, filename: bytes, mode: str, into: Target) -> None:
        super().__init__(filename, mode)
        self.into = into

    @property
    def room(self) -> int:
        return kernel.receive_budget()

    def begin(self, start: Start) -> ReceivingSession:
        wish = start.wish if start.wish.tsize is None else replace(start.wish, tsize=0)
        packet = ReadRequest(self.filename, self.mode, offer(wish))
        machine = Receiver.request(packet, start.now, start.patience, start.timeout)
        with contextlib.ExitStack() as undo:
            sink = open_target(self.into)
            undo.callback(sink.discard)
            session = ReceivingSession(
                machine,
                NetasciiSink(sink) if self.text else sink,
                exact=not self.text,
                **_common(self, Operation.READ, packet.options, start),
            )
            undo.pop_all()
        return session


class Upload(Errand):
    """A file to write to the server, from a `source` here."""

    __slots__ = ("source",)

    def __init__(self, filename: bytes, mode: str, source: Origin) -> None:
        super().__init__(filename, mode)
        self.source = source

    @property
    def room(self) -> int:
        return _SERVER_BUFFER

    def begin(self, start: Start) -> SendingSession:
        wish = start.wish
        with contextlib.ExitStack() as undo:
            keep = wish.windowsize * wish.blksize
            source = open_origin(self.source, keep=keep)
            undo.callback(source.close)
            if self.text:
                source = NetasciiSource(source, keep=keep)
            if wish.tsize is not None:
                wish = replace(wish, tsize=source.size)
            packet = WriteRequest(self.filename, self.mode, offer(wish))
            session = SendingSession(
                Sender.request(packet, start.now, start.patience, start.timeout),
                source,
                **_common(self, Operation.WRITE, packet.options, start),
            )
            undo.pop_all()
        return session


def _common(
    errand: Errand, operation: Operation, options: Mapping[str, str], start: Start
) -> dict[str, Any]:
    """What both kinds of session need beside a machine and a file."""
    link = _open_link(start.address, joins=operation is Operation.READ)
    request = Request(
        operation=operation,
        filename=errand.filename,
        mode=errand.mode,
        options=options,
        peer=start.address,
        local=link.endpoint.address,
    )
    return {
        "request": request,
        "link": link,
        "report": start.report,
        "number": start.number,
        "now": start.now,
    }


def _open_link(address: Address, *, joins: bool) -> Link:
    try:
        sock = open_port(_family(address))
    except OSError as error:
        if error.errno != errno.EAFNOSUPPORT:
            raise
        # A host without IPv6. The server may have an IPv4 address, too.
        text = f"cannot reach {format_address(address)}: {error.strerror}"
        raise Unreachable(text) from error
    kernel.enlarge_buffers(sock, kernel.WANTED_BUFFER)
    endpoint = Endpoint(sock, joins=joins, tells_refusals=True)
    return Link(endpoint, address, Workspace(), pinned=False)


# -- what to ask for ------------------------------------------------------------------------------


def good_terms(errand: Errand, address: Address, blksize: int | None = None) -> Terms:
    """The options that make a transfer fast; `blksize` is given where it is settled already.

    That is the largest block that is not fragmented on the way, and a window that no receive buffer
    loses. The size is left out for netascii: RFC 2349 wants it exactly, and nobody knows it.
    """
    if blksize is None:
        mtu = kernel.path_mtu(address, _family(address)) or _ETHERNET
        blksize = min(max(mtu - _headers(address), DEFAULT_BLKSIZE), MAX_BLKSIZE)
    windowsize = max(1, min(_WINDOWSIZE, errand.room // blksize))
    return Terms(blksize=blksize, windowsize=windowsize, tsize=None if errand.text else 0)


def _family(address: Address) -> int:
    return socket.AF_INET6 if ":" in address[0] else socket.AF_INET


def _headers(address: Address) -> int:
    """Octets of IP, UDP and TFTP in front of each block."""
    return (40 if ":" in address[0] else 20) + 8 + 4


# -- what a "no" means ----------------------------------------------------------------------------


def shares(patience: Patience, timeout: float | None) -> tuple[float, Patience | None]:
    """Patience with a server that may fall silent at options, in two halves.

    Returns:
        how many seconds to wait for the first answer to a request with options, and the patience
        left for one without: none where not even one more packet is allowed.
    """
    waits = patience.total / 2
    if patience.retries is None:
        return waits, replace(patience, total=waits)
    timer = RetransmitTimer(patience, timeout)
    with_options = patience.retries // 2 + 1  # Of `retries` + 1 requests in all.
    if patience.retries == 0:
        return math.inf, None
    spent = 0.0
    for _ in range(with_options):
        spent += timer.interval
        timer.back_off()
    waits = min(waits, spent)
    retries = patience.retries - with_options
    return waits, replace(patience, total=patience.total - waits, retries=retries)


def declined(session: Session) -> bool:
    """Whether the server said no, or what cannot be accepted, to nothing but the options maybe."""
    if not session.request.options or session.machine.counters.blocks:
        return False
    match session.machine.error:
        case PeerError(code=code) | ProtocolError(code=code):
            return code in _ABOUT_OPTIONS
        case _:
            return False


def ignored(session: Session) -> bool:
    """Whether a request with options was never answered."""
    silent = isinstance(session.machine.error, TransferTimeout) and not session.machine.heard
    return silent and bool(session.request.options)
