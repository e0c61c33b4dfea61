"""A child of the process engine: it serves one transfer at a time, and tells its parent of it.

It runs the sessions of the threaded server on a reactor of its own. What it can break is its own
transfer: it shares with the rest of the server only its channel, and the listening sockets to
answer a refused client from.
"""

import logging
import socket
import time
from collections.abc import Sequence

from tftp.errors import Aborted
from tftp.events import Event, RequestReceived, TransferStarted
from tftp.net import kernel
from tftp.net.processor import Crowding
from tftp.net.reactor import Handler, Reactor
from tftp.net.workspace import Workspace
from tftp.sending import SendingSession
from tftp.server.channel import Channel, Message
from tftp.server.config import ServerConfig
from tftp.server.listener import REPLACED, Arrival
from tftp.server.opening import Opening
from tftp.server.policy import Policy
from tftp.server.relay import pack_event, unpack_request
from tftp.session import Session
from tftp.storage.base import Storage

__all__ = ["Child"]

logger = logging.getLogger("tftp")

# While a child has a transfer, it says so once in so many seconds.
_HEARTBEAT = 2.0
# Seconds for which a child waits for a quick client in calls that receive, at most, before it looks
# what else there is; for which it waits in one such call; and for which it does not after that.
_STREAM, _QUICK, _PAUSE = 0.05, 0.01, 0.5


class Child:
    """The child's end of its channel; a `Handler` for its reactor."""

    blocked = False

    def __init__(
        self,
        channel: Channel,
        parts: tuple[Storage, ServerConfig, Sequence[Policy]],
        doors: Sequence[socket.socket],
    ) -> None:
        """Be ready to serve.

        Args:
            channel: to the parent.
            parts: the storage, the configuration and the rules.
            doors: the listening sockets, in the parent's order.
        """
        storage, config, policy = parts
        self.armed = 0.0
        self.finished = False
        self.deadline: float | None = None
        self._channel = channel
        self._config = config
        self._opening = Opening(storage, config, policy, self._report)
        self._doors = doors
        self._workspace = Workspace()
        self._reactor = Reactor(dropped=self._forget)
        self._session: Session | None = None
        self._crowding = Crowding()
        self._streams_from = 0.0
        self._untold: list[Message] = []
        self._is_known = False  # the request, to those whom the parent tells
        self._leaving = False

    def run(self) -> None:
        """Serve until the parent has no more to do, or is gone."""
        self._reactor.add(self)
        self._reactor.run(until=self._is_through)
        self._reactor.close()

    def _is_through(self) -> bool:
        """Asked after each turn of the reactor: whether it was the last."""
        session = self._session
        if session is None:
            return self._leaving
        if isinstance(session, SendingSession) and self._crowding.felt():
            now = time.monotonic()
            if session.ended is None and session.fileno() >= 0 and now >= self._streams_from:
                self._reactor.drive(session, self._stream, session, now)
        return False

    def _stream(self, session: SendingSession, now: float) -> None:
        """While the client answers at once, wait for it in the call that receives: half the calls.

        It is done where processors are scarce; else it is quicker to look again and again. The time
        that the session is told is that of its last packet, not of the answer to it, and so early
        by a round trip of less than `_QUICK`.
        """
        clock, readable, sock = time.monotonic, session.readable, session.socket
        until = min(now + _STREAM, session.deadline or now)
        kernel.wait_in_calls(sock, _QUICK)
        try:
            while now < until and session.ended is None and not session.blocked:
                readable(now)
                before, now = now, clock()
                if now - before >= _QUICK:
                    self._streams_from = now + _PAUSE
                    break
        finally:
            kernel.wait_in_calls(sock, None)

    # -- what the reactor calls -------------------------------------------------------------------

    def fileno(self) -> int:
        """The channel's descriptor."""
        return self._channel.fileno()

    def readable(self, now: float) -> None:
        """The parent has something to say."""
        try:
            messages = self._channel.receive()
        except EOFError:
            self._leave()
            return
        for message in messages:
            self._obey(message, now)

    def writable(self, now: float) -> None:
        """Never waited for: the channel blocks."""

    def expire(self, now: float) -> None:
        """Tell the parent that this process is not stuck."""
        self._channel.send("alive")
        self.deadline = now + _HEARTBEAT

    def failed(self, error: Exception) -> None:
        """Die of it, and be replaced: the parent is told by the system."""
        logger.critical("a child can not go on", exc_info=error)
        raise SystemExit(1) from error

    def close(self) -> None:
        """The reactor is through."""
        self._channel.close()

    # -- the parent's orders ----------------------------------------------------------------------

    def _obey(self, message: Message, now: float) -> None:
        match message:
            case "open", number, door, came, packed, told:
                self._is_known = told
                request = unpack_request(packed)
                self._open(Arrival(request, number, self._doors[door], came), now)
            case "deliver", octets:
                session = self._session
                if session is not None:
                    octets = memoryview(octets)
                    self._reactor.drive(session, session.deliver, octets, len(octets), now)
            case "cancel", number, reason:
                session = self._session
                if session is not None and session.number == number and session.ended is None:
                    self._reactor.drive(session, session.abort, Aborted(reason))
            case "level", level:
                logger.setLevel(level)
            case "limits", max_blksize, max_windowsize:
                self._config = self._config.adjusted(
                    max_blksize=max_blksize, max_windowsize=max_windowsize
                )
                self._opening.adjust(self._config)
            case "abort", reason:
                if self._session is not None:
                    self._reactor.drive(self._session, self._session.abort, Aborted(reason))

    def _open(self, arrival: Arrival, now: float) -> None:
        known = self._session
        if known is not None:
            same = known.request.peer == arrival.request.peer
            drive, came = self._reactor.drive, arrival.came
            if same and drive(known, known.joins, arrival.request, now, came):
                self._channel.send("joined", arrival.number)
                return
            # It only stays to repeat its last ACK, or its client has moved on.
            drive(known, known.abort, Aborted(REPLACED), tell=False)
        session = self._opening.open(arrival, self._workspace, now)
        if session is None:
            return
        self._session = session
        self._streams_from = 0.0
        self.deadline = now + _HEARTBEAT
        self._reactor.add(session, session.beside)
        self._reactor.drive(session, session.start, time.monotonic())

    def _leave(self) -> None:
        """The parent has closed the channel. What only stays to repeat its last ACK may finish."""
        self._leaving = True
        self.finished = True
        self.deadline = None
        if self._session is not None and self._session.ended is None:
            self._reactor.drive(self._session, self._session.abort, Aborted("server stops"))

    def _report(self, event: Event) -> None:
        received = isinstance(event, RequestReceived)
        if not (received and self._is_known):
            self._untold.append(pack_event(event))
        if received:
            return  # What becomes of it follows at once, and a message less is a wake-up less.
        untold, self._untold = self._untold, []
        local = None
        if isinstance(event, TransferStarted) and self._session is not None:
            local = self._session.local
        try:
            self._channel.send("events", untold, local)
        except OSError as error:
            logger.debug("nobody hears of %s: %s", event, error)

    def _forget(self, handler: Handler) -> None:
        if handler is self._session:
            self._session = None
            self.deadline = None
