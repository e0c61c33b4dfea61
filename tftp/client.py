"""The client: `Client.get` and `Client.put`, which block until the file is whole on the other side.

It runs the same sessions as the servers, on a reactor of its own in the calling thread. By itself
it asks for what makes a transfer fast, takes whatever comes back, and asks once more for nothing
where a server cannot bear that. What is asked and sent is `errand`'s affair; this module knows
users: their threads, their callbacks, and the exceptions that they are to see.
"""

import contextlib
import itertools
import math
import socket
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from types import TracebackType
from typing import Any, NamedTuple

from tftp.dallying import Dallying
from tftp.errand import Download, Errand, Start, Upload, declined, good_terms, ignored, shares
from tftp.errors import Aborted, TFTPError, TransferTimeout, Unreachable
from tftp.events import (
    Address,
    Event,
    Observer,
    Outcome,
    TransferEnded,
    TransferProgress,
    TransferStarted,
    format_address,
)
from tftp.net.reactor import Reactor
from tftp.options import Terms
from tftp.session import Session
from tftp.storage.ends import Origin, Target
from tftp.timers import Patience
from tftp.url import parse

__all__ = ["Client", "Progress", "get", "put"]

#: Is called with the octets of the file that are over, and how many there are (None: unknown).
Progress = Callable[[int, int | None], None]


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
        overrides: Mapping[str, Any] | None = None,
        patience: Patience | None = None,
        family: int = 0,
        observer: Observer | None = None,
    ) -> None:
        """Remember what to do; nothing is looked up or sent yet.

        Args:
            host: name or address of the server.
            port: its UDP port.
            terms: the options to ask for; None asks for good ones, `Terms()` for none at all. With
                a `tsize` of any value, the size is asked for, or told.
            overrides: fields of `Terms` to change in what is asked.
            patience: how long to wait for the server; by default 20 s of silence.
            family: `socket.AF_INET` or `AF_INET6` to use only that.
            observer: is given every event, in the thread of the transfer.

        Raises:
            ValueError: the port, or a term, is out of range.
        """
        if not 1 <= port <= 65535:
            raise ValueError(f"a port is 1 to 65535, not {port}")
        overrides = dict(overrides or {})
        replace(terms or Terms(), **overrides)  # Fails here, not in the first transfer.
        self._plan = _Plan(
            host=host,
            port=port,
            terms=terms,
            overrides=overrides,
            patience=patience or Patience(total=20.0),
            family=family,
            observer=observer,
            numbers=itertools.count(1),
            dallying=Dallying(),
        )
        self._lock = threading.Lock()
        self._calls: set[_Call] = set()

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
            progress: is called at the start, at most four times a second, and at the end. What it
                raises ends the transfer, and is raised from here.

        Returns:
            All that there is to know of the transfer.

        Raises:
            PeerError: the server said no; `code` and `message` are its own.
            TransferTimeout: it fell silent.
            Unreachable: the network says that nobody can be reached there.
            ProtocolError: it broke the protocol, or sent another size than it announced.
            Refused: the local file changed while it was sent.
            Aborted: `cancel` was called.
            OSError: the local file cannot be written. `socket.gaierror`: there is no such host.
            ValueError: the mode is unknown, or the name does not fit into a request.
        """
        return self._run(Download(_octets(name), mode, into), progress)

    def put(
        self,
        source: Origin,
        name: str | bytes,
        *,
        mode: str = "octet",
        progress: Progress | None = None,
    ) -> TransferEnded:
        """Write `source` (a path, a binary file object, or octets) to the server as `name`.

        The rest is as for `get`. When this returns, the server has confirmed the last block. A
        stream that makes its reader wait (a pipe, a terminal) makes the transfer wait, too.
        """
        return self._run(Upload(_octets(name), mode, source), progress)

    def cancel(self) -> None:
        """End the running transfers; they raise `Aborted`. Any thread may call this."""
        with self._lock:
            for call in self._calls:
                call.cancel()

    def linger(self, timeout: float | None = None) -> None:
        """Wait until nothing is done in the background any more, `timeout` seconds at most."""
        self._plan.dallying.wait(timeout)

    def close(self) -> None:
        """End what is done in the background, now."""
        self._plan.dallying.stop()

    def _run(self, errand: Errand, progress: Progress | None) -> TransferEnded:
        call = _Call(self._plan, errand, progress)
        with self._lock:
            self._calls.add(call)
        try:
            return call.run()
        finally:
            with self._lock:
                self._calls.discard(call)
            call.close()


class _Plan(NamedTuple):
    """What was said when the client was made, and what all its transfers share."""

    host: str
    port: int
    terms: Terms | None
    overrides: Mapping[str, Any]
    patience: Patience
    family: int
    observer: Observer | None
    numbers: Iterator[int]
    dallying: Dallying

    def addresses(self) -> list[Address]:
        """Where the server may be. Raises `socket.gaierror`."""
        # A name as text goes through IDNA, whose tables take longer to load than a small file.
        host = self.host.encode() if self.host.isascii() else self.host
        try:
            found = socket.getaddrinfo(host, self.port, self.family, socket.SOCK_DGRAM)
        except UnicodeError as error:  # No host has such a name.
            raise socket.gaierror(socket.EAI_NONAME, str(error)) from error
        return list(dict.fromkeys(address for *_, address in found))

    def wish(self, errand: Errand, address: Address) -> Terms:
        """What to ask for."""
        terms = self.terms or good_terms(errand, address, self.overrides.get("blksize"))
        return replace(terms, **self.overrides)

    def place(self, address: Address) -> str:
        """The server, in words."""
        text = format_address(address)
        return text if self.host == address[0] else f"{self.host} ({text})"


class _Call:
    """One `get` or `put`, however many attempts it takes."""

    def __init__(self, plan: _Plan, errand: Errand, progress: Progress | None) -> None:
        self._plan = plan
        self._errand = errand
        self._progress = progress
        self._reactor = Reactor()
        self._attempt: _Attempt | None = None
        self._cancelled = False

    def run(self) -> TransferEnded:
        """Go through the server's addresses, until one can be reached."""
        *others, last = self._plan.addresses()
        for address in others:
            with contextlib.suppress(Unreachable):
                return self._ask(address)
        return self._ask(last)

    def cancel(self) -> None:
        """From any thread: end it, whatever it does now."""
        self._cancelled = True
        self._reactor.call(self._abort)

    def close(self) -> None:
        """Let go of everything."""
        self._attempt = None
        self._reactor.close()

    def _abort(self) -> None:
        attempt = self._attempt
        if attempt is not None and attempt.session.ended is None:
            self._reactor.drive(attempt, attempt.session.abort, Aborted("cancelled"))

    def _ask(self, address: Address) -> TransferEnded:
        """Ask with options, and once more without if it may be these that the server declines."""
        wish, patience = self._plan.wish(self._errand, address), self._plan.patience
        wait, rest = shares(patience, wish.timeout)
        tried = [self._try(address, wish, wish.timeout, patience, wait)]
        if declined(tried[0]):
            tried.append(self._try(address, Terms(), wish.timeout, patience))
        elif ignored(tried[0]) and rest is not None:
            tried.append(self._try(address, Terms(), wish.timeout, rest))
        return self._result(address, tried)

    def _try(
        self,
        address: Address,
        wish: Terms,
        timeout: float | None,
        patience: Patience,
        wait: float = math.inf,
    ) -> Session:
        """One attempt, to its end; with options, the first answer must come within `wait` s."""
        if self._cancelled:
            raise Aborted("cancelled")
        now = time.monotonic()
        start = Start(
            address=address,
            wish=wish,
            timeout=timeout,
            patience=patience,
            number=next(self._plan.numbers),
            report=self._report,
            now=now,
        )
        session = self._errand.begin(start)
        wait = min(wait, patience.total) if session.request.options else patience.total
        attempt = self._attempt = _Attempt(session, now + wait)
        try:
            self._reactor.add(attempt)
            self._reactor.drive(attempt, session.start, now)
            while session.ended is None:
                self._reactor.turn()
        except BaseException:
            session.abort(Aborted("interrupted"))
            raise
        finally:
            self._reactor.release(attempt)
            if session.finished:
                session.close()
            else:
                self._plan.dallying.take(session)
        if attempt.fault is not None:
            raise attempt.fault
        return session

    def _report(self, event: Event) -> None:
        if self._plan.observer is not None:
            self._plan.observer(event)
        if self._progress is None:
            return
        match event:
            case TransferStarted():
                self._progress(0, event.size)
            case TransferProgress():
                self._progress(event.counters.payload, event.size)
            case TransferEnded(outcome=Outcome.DONE):
                self._progress(event.counters.payload, event.counters.payload)

    def _result(self, address: Address, tried: Sequence[Session]) -> TransferEnded:
        """What the caller is to see of the last attempt."""
        ended = tried[-1].ended
        assert ended is not None  # noqa: S101
        match ended.error:
            case None:
                return ended
            case Unreachable() as error:
                text = f"cannot reach {self._plan.place(address)}: {error}"
                raise Unreachable(text) from error.__cause__
            case TransferTimeout() as error:
                raise TransferTimeout(self._silence(address, tried)) from error
            case TFTPError(__cause__=OSError() as error):
                raise error  # The local file: its owner wants the system's own words.
            case error:
                raise error

    def _silence(self, address: Address, tried: Sequence[Session]) -> str:
        seconds = tried[-1].machine.silence(time.monotonic())
        first = tried[0]
        refused = not ignored(first) and first is not tried[-1]
        if not (refused or tried[-1].machine.heard):
            seconds += sum(session.ended.duration for session in tried[:-1] if session.ended)
        text = f"no answer from {self._plan.place(address)} for {seconds:.3g} s"
        if refused:
            text += f" when asked without options; with them: {first.machine.error}"
        strangers = set().union(*(session.strangers for session in tried))
        if strangers:
            others = ", ".join(sorted(map(format_address, strangers)))
            text += f", but datagrams came from {others}"
        return text


class _Attempt:
    """A session in a client's reactor, which must be answered by `limit`.

    Attributes:
        session: the session.
        fault: what a function or file object of the caller raised.
        armed: for the reactor.
    """

    def __init__(self, session: Session, limit: float) -> None:
        self.session = session
        self.fault: Exception | None = None
        self.armed = 0.0
        self._limit = limit
        self.fileno = session.fileno
        self.readable = session.readable
        self.writable = session.writable

    @property
    def deadline(self) -> float | None:
        """That of the session, or the limit if it comes first."""
        deadline = self.session.deadline
        if deadline is None or self.session.machine.heard:
            return deadline
        return min(deadline, self._limit)

    @property
    def blocked(self) -> bool:
        """Whether the session waits for room to send."""
        return self.session.blocked

    @property
    def finished(self) -> bool:
        """Whether the caller need not wait any more, even if the session has to stay."""
        return self.session.ended is not None

    def expire(self, now: float) -> None:
        """The deadline has passed."""
        if now >= self._limit and not self.session.machine.heard:
            # The server never got so far as to have a transfer: there is nobody to tell.
            self.session.abort(TransferTimeout("no answer"), tell=False)
        else:
            self.session.expire(now)

    def failed(self, error: Exception) -> None:
        """A function or file object of the caller failed: that ends the transfer."""
        self.fault = error
        self.session.abort(Aborted("the client's program failed"))

    def close(self) -> None:
        """The call that made it takes care of the session."""


def get(
    url: str,
    into: Target,
    *,
    terms: Terms | None = None,
    progress: Progress | None = None,
) -> TransferEnded:
    """Read the file that a `tftp://` URL names (RFC 3617); see `Client.get`.

    Raises `ValueError` where it is no such URL.
    """
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
    """Write to the file that a `tftp://` URL names (RFC 3617); see `Client.put`.

    Raises `ValueError` where it is no such URL.
    """
    place = parse(url)
    client = Client(place.host, place.port, terms=terms)
    return client.put(source, place.filename, mode=place.mode, progress=progress)


def _octets(name: str | bytes) -> bytes:
    # Names that came as bytes from the command line or the disk go out as the same bytes.
    return name.encode("utf-8", "surrogateescape") if isinstance(name, str) else name
