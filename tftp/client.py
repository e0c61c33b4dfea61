"""The client: `Client.get` and `Client.put`, which block until the file is whole on the other side.

It runs the same sessions as the servers, on a reactor of its own in the calling thread. By itself
it asks for what makes a transfer fast (the largest block that is not fragmented, a window, the
file's size), takes whatever comes back, and asks again for nothing when a server can not bear that.
"""

import contextlib
import functools
import itertools
import socket
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from types import TracebackType
from typing import Any

from tftp.dallying import Dallying
from tftp.errors import Aborted, ErrorCode, PeerError, ProtocolError, TransferTimeout, Unreachable
from tftp.events import (
    Address,
    Event,
    Observer,
    Operation,
    Outcome,
    Request,
    TransferEnded,
    TransferProgress,
    TransferStarted,
    format_address,
)
from tftp.net import kernel
from tftp.net.endpoint import Endpoint, Workspace, open_port
from tftp.net.reactor import Reactor
from tftp.options import DEFAULT_BLKSIZE, MAX_BLKSIZE, Terms, offer
from tftp.packets import ReadRequest, WriteRequest
from tftp.session import Link, ReceivingSession, SendingSession, Session
from tftp.storage.adapters import NetasciiSink, NetasciiSource
from tftp.storage.ends import Origin, Target, open_origin, open_target
from tftp.timers import Patience
from tftp.transfer import Receiver, Sender
from tftp.url import parse

__all__ = ["Client", "Progress", "get", "put"]

#: Is called with the octets of the file that are over, and how many there are (None: unknown).
Progress = Callable[[int, int | None], None]

# Blocks between two ACKs that are asked for: as many as one system call sends.
_WINDOWSIZE = 64
# Octets of a window that a server's receive buffer can be trusted to hold.
_SERVER_BUFFER = 128 << 10
_ETHERNET = 1500
# Answers that may mean "I do not like these options", and are not about the file.
_CHOKED = frozenset(
    {
        ErrorCode.UNDEFINED,
        ErrorCode.ILLEGAL_OPERATION,
        ErrorCode.UNKNOWN_TID,
        ErrorCode.OPTION_REFUSED,
    }
)


class Client:
    """A TFTP client for one server. It keeps no connection; any number of transfers may follow.

    Threads may share it. `close`, or the end of a `with` block, ends what it still does in the
    background: repeating the last ACK to a server that has not heard it.
    """

    def __init__(
        self,
        host: str,
        port: int = 69,
        *,
        terms: Terms | None = None,
        overrides: Mapping[str, int | float] | None = None,
        patience: Patience | None = None,
        family: int = 0,
        observer: Observer | None = None,
    ) -> None:
        """Remember what to do; nothing is looked up or sent yet.

        Args:
            host: name or address of the server.
            port: its UDP port.
            terms: the options to ask for; None asks for good ones, `Terms()` for none at all.
            overrides: fields of `Terms` to change in what is asked.
            patience: how long to wait for the server; by default 20 s of silence.
            family: `socket.AF_INET` or `AF_INET6` to use only that.
            observer: is given every event, in the thread of the transfer.
        """
        self._host = host
        self._port = port
        self._terms = terms
        self._overrides = dict(overrides or {})
        self._patience = patience or Patience(total=20.0)
        self._family = family
        self._observer = observer
        self._numbers = itertools.count(1)
        self._lock = threading.Lock()
        self._attempts: set[_Attempt] = set()
        self._dallying = Dallying()

    def __enter__(self) -> "Client":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def get(
        self,
        name: str | bytes,
        into: Target,
        *,
        mode: str = "octet",
        progress: Progress | None = None,
    ) -> TransferEnded:
        """Read the file `name` from the server.

        Args:
            name: as the server knows it; a `str` is sent as UTF-8.
            into: a path, which gets the file under its name when it is whole; or a binary file
                object or a `bytearray`, which get the octets as they come.
            mode: "octet", or "netascii" to have line ends translated.
            progress: is called now and then, and at the end.

        Returns:
            All that there is to know of the transfer.

        Raises:
            PeerError: the server said no; `code` and `message` are its own.
            TransferTimeout: it fell silent.
            Unreachable: the network says that nobody listens there.
            ProtocolError: it broke the protocol, or sent another size than it announced.
            Aborted: `cancel` was called.
            OSError: the local file can not be written, or the host not be found.
        """
        return self._run(_Errand(_Download, into, _octets(name), mode, progress))

    def put(
        self,
        source: Origin,
        name: str | bytes,
        *,
        mode: str = "octet",
        progress: Progress | None = None,
    ) -> TransferEnded:
        """Write `source` (a path, a binary file object, or octets) to the server as `name`.

        The rest is as for `get`. When this returns, the server has confirmed the last block.
        """
        return self._run(_Errand(_Upload, source, _octets(name), mode, progress))

    def cancel(self) -> None:
        """End the running transfers; they raise `Aborted`. Any thread may call this."""
        with self._lock:
            for attempt in self._attempts:
                attempt.abort(Aborted("cancelled"))

    def linger(self, timeout: float | None = None) -> None:
        """Wait until nothing is done in the background any more, `timeout` seconds at most."""
        self._dallying.wait(timeout)

    def close(self) -> None:
        """End what is done in the background, now."""
        self._dallying.stop()

    # -- one transfer -----------------------------------------------------------------------------

    def _run(self, errand: "_Errand") -> TransferEnded:
        *others, last = self._addresses()
        for address in others:
            with contextlib.suppress(Unreachable):  # The next address may be the right one.
                return self._ask(errand, address)
        return self._ask(errand, last)

    def _addresses(self) -> list[Address]:
        found = socket.getaddrinfo(self._host, self._port, self._family, socket.SOCK_DGRAM)
        return list(dict.fromkeys(address for *_, address in found))

    def _ask(self, errand: "_Errand", address: Address) -> TransferEnded:
        """Ask with options, and once more without if that is what the server can not bear."""
        move = errand.begin()
        wish = self._wish(move, address)
        if offer(wish):
            # Some servers fall silent at an option that they do not know.
            opening = self._patience.total / 2 if self._patience.retries is None else None
            attempt = self._try(move, address, wish, wish.timeout, opening)
            if not attempt.choked:
                return attempt.result()
            move = errand.begin()
        return self._try(move, address, Terms(), wish.timeout, None).result()

    def _wish(self, move: "_Download | _Upload", address: Address) -> Terms:
        """What to ask for."""
        if self._terms is not None:
            return _changed(self._terms, self._overrides)
        mtu = kernel.path_mtu(address, _family(address)) or _ETHERNET
        blksize = min(max(mtu - _headers(address), DEFAULT_BLKSIZE), MAX_BLKSIZE)
        blksize = int(self._overrides.get("blksize", blksize))
        windowsize = max(1, min(_WINDOWSIZE, move.room() // blksize))
        # RFC 2349 wants the size exactly, which nobody knows in netascii.
        tsize = move.tsize if move.errand.mode == "octet" else None
        wish = Terms(blksize=blksize, windowsize=windowsize, tsize=tsize)
        return _changed(wish, self._overrides)

    def _try(
        self,
        move: "_Download | _Upload",
        address: Address,
        wish: Terms,
        timeout: float | None,
        opening: float | None,
    ) -> "_Attempt":
        """One transfer, to its end; `opening` is how long in seconds a first answer may take."""
        try:
            link = _open_link(address, joins=move.joins)
        except BaseException:
            move.let_go()
            raise
        attempt = _Attempt(move.errand.progress, self._observer)
        parts = _Parts(
            link=link,
            options=offer(wish),
            timeout=timeout,
            patience=self._patience,
            report=attempt.report,
            number=next(self._numbers),
            now=time.monotonic(),
        )
        session = move.session(parts)
        with self._lock:
            self._attempts.add(attempt)
        try:
            attempt.run(session, opening)
        finally:
            with self._lock:
                self._attempts.discard(attempt)
        if not session.finished:
            self._dallying.take(session)
        return attempt


@dataclass(frozen=True, slots=True)
class _Errand:
    """What a caller wants, however many attempts it takes."""

    kind: "type[_Download] | type[_Upload]"
    local: Any  # a target or an origin, as the kind wants it
    filename: bytes
    mode: str
    progress: Progress | None

    def __post_init__(self) -> None:
        if self.mode not in ("octet", "netascii"):
            raise ValueError(f"mode is octet or netascii, not {self.mode!r}")

    def begin(self) -> "_Download | _Upload":
        """Open the local file. Raises `OSError`."""
        return self.kind(self)

    def request(self, operation: Operation, parts: "_Parts") -> Request:
        """The request, as observers see it."""
        return Request(
            operation=operation,
            filename=self.filename,
            mode=self.mode,
            options=parts.options,
            peer=parts.link.peer,
            local=parts.link.endpoint.address,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class _Parts:
    """What a session needs beside the file."""

    link: Link
    options: Mapping[str, str]
    timeout: float | None
    patience: Patience
    report: Observer
    number: int
    now: float


class _Download:
    """One attempt at reading a file."""

    tsize = 0  # RFC 2349: asks for the size.
    joins = True

    def __init__(self, errand: _Errand) -> None:
        self.errand = errand
        self._sink = open_target(errand.local)

    def room(self) -> int:
        """Octets that a window may have."""
        return kernel.receive_budget()

    def session(self, parts: _Parts) -> Session:
        """The transfer, not started yet."""
        errand = self.errand
        packet = ReadRequest(errand.filename, errand.mode, parts.options)
        text = errand.mode == "netascii"
        return ReceivingSession(
            Receiver.request(packet, parts.now, parts.patience, parts.timeout),
            NetasciiSink(self._sink) if text else self._sink,
            errand.request(Operation.READ, parts),
            parts.link,
            report=parts.report,
            number=parts.number,
            now=parts.now,
            exact=not text,
        )

    def let_go(self) -> None:
        """Nothing came of it."""
        self._sink.discard()


class _Upload:
    """One attempt at writing a file."""

    joins = False

    def __init__(self, errand: _Errand) -> None:
        self.errand = errand
        self._source = open_origin(errand.local)
        self.tsize = self._source.size

    def room(self) -> int:
        """Octets that a window may have."""
        return _SERVER_BUFFER

    def session(self, parts: _Parts) -> Session:
        """The transfer, not started yet."""
        errand = self.errand
        packet = WriteRequest(errand.filename, errand.mode, parts.options)
        text = errand.mode == "netascii"
        return SendingSession(
            Sender.request(packet, parts.now, parts.patience, parts.timeout),
            NetasciiSource(self._source) if text else self._source,
            errand.request(Operation.WRITE, parts),
            parts.link,
            report=parts.report,
            number=parts.number,
            now=parts.now,
        )

    def let_go(self) -> None:
        """Nothing came of it."""
        self._source.close()


class _Attempt:
    """One transfer of a client, as its caller waits for it."""

    def __init__(self, progress: Progress | None, observer: Observer | None) -> None:
        self._progress = progress
        self._observer = observer
        self._reactor = Reactor()
        self._session: Session | None = None
        self._fault: Exception | None = None

    def run(self, session: Session, opening: float | None) -> None:
        """Run the session in this thread to its end, which is also that nobody has answered for
        `opening` seconds. It may still dally then; it is in no reactor any more.
        """
        reactor = self._reactor
        self._session = session
        until = None if opening is None else time.monotonic() + opening
        try:
            reactor.add(session)
            session.start(time.monotonic())
            reactor.settle(session)
            while session.ended is None:
                reactor.turn()
                if until is not None and not session.machine.heard and time.monotonic() >= until:
                    session.abort(TransferTimeout("no answer"), tell=False)
        except BaseException:
            session.abort(Aborted("interrupted"))
            raise
        finally:
            reactor.settle(session)
            reactor.release(session)
            reactor.close()

    def abort(self, error: Aborted) -> None:
        """End it for this reason; from any thread."""
        self._reactor.call(functools.partial(self._abort, error))

    def _abort(self, error: Aborted) -> None:
        if self._session is not None and self._session.ended is None:
            self._session.abort(error)
            self._reactor.settle(self._session)

    def report(self, event: Event) -> None:
        """Pass an event on. A fault of the caller's own functions ends the transfer."""
        try:
            self._tell(event)
        except Exception as error:
            self._fault = error
            self.abort(Aborted("the caller's own function failed"))

    def _tell(self, event: Event) -> None:
        if self._observer is not None:
            self._observer(event)
        if self._progress is None:
            return
        match event:
            case TransferStarted():
                self._progress(0, event.size)
            case TransferProgress():
                self._progress(event.counters.payload, event.size)
            case TransferEnded(outcome=Outcome.DONE):
                self._progress(event.counters.payload, event.counters.payload)

    @property
    def choked(self) -> bool:
        """Whether the server could not bear the options, as far as one can tell from outside."""
        session = self._session
        if session is None or session.machine.counters.blocks:
            return False
        match session.machine.error:
            case TransferTimeout():
                return not session.machine.heard
            case PeerError(code=code) | ProtocolError(code=code):
                return code in _CHOKED
            case _:
                return False

    def result(self) -> TransferEnded:
        """How it ended, if well; raises what is to be raised if not."""
        if self._fault is not None:
            raise self._fault
        assert self._session is not None  # noqa: S101
        ended = self._session.ended
        assert ended is not None  # noqa: S101
        match ended.error:
            case None:
                return ended
            case TransferTimeout():
                raise TransferTimeout(self._silence(ended, self._session)) from ended.error
            case error if isinstance(error.__cause__, OSError) and not isinstance(
                error, Unreachable
            ):
                raise error.__cause__  # The local file: its owner wants the system's own words.
            case error:
                raise error

    def _silence(self, ended: TransferEnded, session: Session) -> str:
        text = f"no answer from {format_address(session.peer)} for {ended.duration:.0f} s"
        if session.strangers:
            others = ", ".join(format_address(address) for address in session.strangers)
            text += f", but datagrams came from {others}"
        return text


def _open_link(address: Address, *, joins: bool) -> Link:
    try:
        sock = open_port(_family(address))
    except OSError as error:  # For example on a host without IPv6.
        raise Unreachable(error.strerror or str(error)) from error
    kernel.enlarge_buffers(sock, kernel.WANTED_BUFFER)
    return Link(
        Endpoint(sock, joins=joins, tells_refusals=True), address, Workspace(), pinned=False
    )


def _changed(terms: Terms, overrides: Mapping[str, Any]) -> Terms:
    return replace(terms, **overrides)


def _octets(name: str | bytes) -> bytes:
    return name.encode() if isinstance(name, str) else name


def _family(address: Address) -> int:
    return socket.AF_INET6 if ":" in address[0] else socket.AF_INET


def _headers(address: Address) -> int:
    """Octets of IP, UDP and TFTP in front of each block."""
    return (40 if ":" in address[0] else 20) + 8 + 4


def get(
    url: str,
    into: Target,
    *,
    terms: Terms | None = None,
    progress: Progress | None = None,
) -> TransferEnded:
    """Read the file that a `tftp://` URL names (RFC 3617); see `Client.get`."""
    place = parse(url)
    client = Client(place.host, place.port, terms=terms)
    return client.get(place.filename, into, mode=place.mode, progress=progress)


def put(
    source: Origin,
    url: str,
    *,
    terms: Terms | None = None,
    progress: Progress | None = None,
) -> TransferEnded:
    """Write to the file that a `tftp://` URL names (RFC 3617); see `Client.put`."""
    place = parse(url)
    client = Client(place.host, place.port, terms=terms)
    return client.put(source, place.filename, mode=place.mode, progress=progress)
