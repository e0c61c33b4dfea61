"""A transfer as it runs: a state machine, the file's end and the network's end, brought together.

The whole of the shell around a machine is `_advance`: pass on what it hands out, store what it has
collected, send its replies. `sending` and `receiving` are its two kinds. The blocking client and
both servers run these; they differ in who calls them. A failing file becomes an ERROR to the peer
here, and nowhere else.
"""

import contextlib
import errno
import socket
import time
from collections.abc import Callable
from dataclasses import dataclass

from tftp.errors import Aborted, ErrorCode, Refused, TFTPError, Unreachable
from tftp.events import (
    Address,
    Observer,
    Request,
    TransferEnded,
    TransferProgress,
    TransferStarted,
)
from tftp.log import logger
from tftp.net.endpoint import Endpoint
from tftp.net.workspace import Workspace
from tftp.packets import Error, Opcode
from tftp.transfer import State, Transfer

__all__ = ["Link", "Session"]

# Seconds between two progress events.
_PROGRESS_EVERY = 0.25
# A request that comes again while its transfer flows is a late copy if the peer was heard from this
# recently (seconds); otherwise the client has started over.
_LATE_COPY = 1.0

#: What a network says when it can not deliver just now: as good as a lost datagram.
LOSSES = frozenset(
    {
        errno.ENOBUFS,
        errno.EPERM,
        errno.ENETDOWN,
        errno.ENETUNREACH,
        errno.EHOSTDOWN,
        errno.EHOSTUNREACH,
        errno.ECONNREFUSED,
    }
)

_UNKNOWN_TID = Error(ErrorCode.UNKNOWN_TID, ErrorCode.UNKNOWN_TID.text).encode()
_ERROR_OPCODE = Opcode.ERROR.to_bytes(2, "big")
# How many foreign addresses a session remembers, for its error message.
_STRANGERS = 4
# How many datagrams are taken in before the judgement on a new request of the same client.
_CATCH_UP = 64
# How many datagrams from others it looks at before the other transfers have their turn.
_STRAYS_IN_A_ROW = 8


@dataclass(frozen=True, slots=True)
class Link:
    """The network's end of a transfer.

    Attributes:
        endpoint: the port to use; it is closed with the session.
        peer: where to send to.
        workspace: the buffers of the thread that runs the session.
        pinned: the peer's port is known for good. A client's is not: the server answers from a port
            of its own choice (RFC 1350, section 4), and the first answer pins it.
    """

    endpoint: Endpoint
    peer: Address
    workspace: Workspace
    pinned: bool = True


class Session:
    """One transfer, as a `Handler` for a reactor; of one kind or the other.

    Attributes:
        machine: the state machine.
        request: what was asked.
        peer: where it sends to.
        number: of the transfer, unique within its server or client.
        size: octets in the file, if known.
        ended: the event that told of the end, None while it runs.
        strangers: addresses other than the peer's from which something came (the first few).
        armed, blocked: for the reactor.
    """

    __slots__ = (
        "_answered",
        "_began",
        "_emit",
        "_endpoint",
        "_next_progress",
        "_pinned",
        "_report",
        "_started",
        "_stepped_at",
        "_taken",
        "_to",
        "_workspace",
        "armed",
        "blocked",
        "ended",
        "machine",
        "number",
        "peer",
        "request",
        "size",
        "strangers",
    )

    def __init__(
        self,
        machine: Transfer,
        request: Request,
        link: Link,
        *,
        report: Observer,
        number: int,
        now: float,
        size: int | None = None,
    ) -> None:
        self.machine = machine
        self.request = request
        self.number = number
        self.size = size
        self.ended: TransferEnded | None = None
        self.strangers: set[Address] = set()
        self.armed = 0.0
        self.blocked = False
        self._endpoint = link.endpoint
        self.peer = link.peer
        self._emit, self._to = link.endpoint.route(link.peer)
        self._pinned = link.pinned
        self._workspace = link.workspace
        self._report = report
        self._started = False
        self._taken = 0  # steps that the machine does not know of, and when the last of them was
        self._stepped_at = now
        self._began = self._answered = now
        self._next_progress = now + _PROGRESS_EVERY

    # -- what a reactor calls ---------------------------------------------------------------------

    @property
    def deadline(self) -> float | None:
        """When `expire` is to be called."""
        if self._taken:
            return self._stepped_at + self.machine.timer.interval
        return self.machine.deadline

    @property
    def finished(self) -> bool:
        """Whether nothing is left to do, not even to repeat the last ACK."""
        machine = self.machine
        return machine.deadline is None and machine.outcome is not None

    @property
    def local(self) -> Address:
        """The address and port that it sends from."""
        return self._endpoint.address

    @property
    def socket(self) -> socket.socket:
        """What the peer is heard by, open as long as the session."""
        return self._endpoint.socket

    def fileno(self) -> int:
        """The endpoint's descriptor; -1 where the port is shared with other transfers."""
        return self._endpoint.fileno()

    @property
    def beside(self) -> tuple[int, Callable[[float], None]] | None:
        """A second descriptor, and what to call when something has come there; None without one."""
        side = self._endpoint.side
        return None if side is None else (side.fileno(), self.beset)

    def readable(self, now: float) -> bool:
        """Take in what has come, and act on it."""
        received = self._receive(self._workspace.inbound)
        if received is not None:
            self.deliver(*received, now)
        return False

    def beset(self, now: float) -> None:
        """Somebody else has sent something to the port."""
        for _ in range(_STRAYS_IN_A_ROW):
            try:
                received = self._endpoint.receive_beside(self._workspace.inbound)
            except OSError:
                return  # What the network says of strangers.
            if received is None:
                return
            self._turn_away(*received)

    def writable(self, now: float) -> None:
        """There is room to send again."""
        self._account()
        self.blocked = False
        self._advance(now)

    def expire(self, now: float) -> None:
        """The deadline has passed."""
        self._account()
        self.machine.expire(now)
        self._advance(now)

    def failed(self, error: Exception) -> None:
        """The program is at fault: end this transfer, and let the others go on."""
        logger().error("transfer %d failed by a fault of the program", self.number, exc_info=error)
        self.abort(Refused("internal error", ErrorCode.UNDEFINED))

    def close(self) -> None:
        """Let go of the file and the port, whatever state they are in."""
        if self.ended is None:
            self.abort(Aborted("closed"))
        self._endpoint.close()

    # -- what others call -------------------------------------------------------------------------

    def start(self, now: float) -> None:
        """Send the first datagram."""
        self._answered = now
        self._advance(now)

    def deliver(self, octets: memoryview, size: int, now: float) -> None:
        """Act on datagrams of `size` octets from the peer, one behind the other."""
        self._account()
        receive = self.machine.receive
        if len(octets) <= size:
            receive(octets, now)
        else:
            for start in range(0, len(octets), size):
                receive(octets[start : start + size], now)
        self._advance(now)

    def joins(self, request: Request, now: float, came: float | None = None) -> bool:
        """Whether `request`, from the same client port, is this transfer's own, come again.

        If not, the client has started something new, and this transfer is over (boot firmware that
        uses one port for everything: lpxelinux, SLOF, s390). `came` is when the request came in,
        where it had to wait.
        """
        self._account()
        machine = self.machine
        if came is None or came > self._answered:
            self._catch_up(now)
        if machine.outcome is not None or request != self.request:
            return False
        if machine.heard and machine.silence(now) >= _LATE_COPY:
            return False
        machine.request_repeated(now)
        self._advance(now)
        return True

    def _catch_up(self, now: float) -> None:
        """Take in what waits here: the last ACK may have come before a request to another port."""
        for _ in range(_CATCH_UP):
            if self.machine.outcome is not None:
                return
            received = self._receive(self._workspace.inbound)
            if received is None:
                return
            self.deliver(*received, now)

    def abort(self, error: TFTPError, *, tell: bool = True) -> None:
        """End the transfer for this reason; `tell` the peer, unless it has moved on."""
        self._account()
        self.machine.abort(error, tell=tell)
        self._advance(time.monotonic())

    def _account(self) -> None:
        """Tell the machine of what was done without it; it is asked nothing before that."""
        if self._taken:
            taken, self._taken = self._taken, 0
            self.machine.advanced(taken, self._stepped_at)

    # -- the shell --------------------------------------------------------------------------------

    def _advance(self, now: float) -> None:
        """Everything that follows from a change in the machine."""
        machine = self.machine
        self._work(now)
        for datagram in machine.replies():
            self._send(datagram)
        if not self._started and machine.state is not State.REQUESTED and machine.error is None:
            self._report_start()
        if machine.outcome is not None:
            if self.ended is None:
                self._let_go()
                self._report_end(now)
        elif self._started and now >= self._next_progress:
            self._report_progress(now)

    def _work(self, now: float) -> None:
        """Do what the machine hands out."""
        raise NotImplementedError

    def _let_go(self) -> None:
        """The transfer has ended, well or not, and a file that can not be closed changes nothing
        of that.
        """
        try:
            self._settle()
        except Exception:
            logger().exception("the file of transfer %d could not be let go", self.number)

    def _settle(self) -> None:
        """Let go of the file."""
        raise NotImplementedError

    def _storage_failed(self, error: OSError | TFTPError) -> None:
        self.machine.abort(error if isinstance(error, TFTPError) else Refused.because(error))

    # -- the network ------------------------------------------------------------------------------

    def _send(self, datagram: bytes) -> None:
        outbox = self._workspace.outbox
        # Last words do not wait: the port may be closed by then.
        if outbox.corked and self.machine.outcome is None:
            outbox.put(self._emit, datagram, self._to, self)
            return
        try:
            self._emit(datagram, self._to)
        except BlockingIOError:
            pass  # A full queue loses it, as the network may.
        except OSError as error:
            self._network_failed(error)

    def unsent(self, error: OSError) -> None:
        """A datagram that waited to be sent with others could not be."""
        self._network_failed(error)
        self._advance(time.monotonic())

    def _receive(self, room: memoryview) -> tuple[memoryview, int] | None:
        """What has come from the peer: octets, in `room`, and the size of the datagrams that they
        hold.
        """
        for _ in range(_STRAYS_IN_A_ROW):
            try:
                received = self._endpoint.receive(room)
            except OSError as error:
                self._network_failed(error)
                self._advance(time.monotonic())
                return None
            if received is None:
                return None
            octets, size, sender = received
            if sender == self.peer or self._is_peer(sender):
                self._pinned = True
                return octets, size
            self._turn_away(octets, sender)
        return None

    def _network_failed(self, error: OSError) -> None:
        """Once the peer has been heard from it is a loss, and the timer's affair; before that a
        client's user wants to know that the address is wrong. After words with a stranger it may
        be that one who is gone.
        """
        self._account()
        if (self._pinned or self.strangers) and error.errno in LOSSES:
            return
        unreachable = Unreachable(error.strerror or str(error))
        unreachable.__cause__ = error
        self.machine.abort(unreachable, tell=False)

    def _is_peer(self, sender: Address) -> bool:
        """Whether `sender` is the peer, though its address is not the same to the letter."""
        if self._pinned:
            return bool(sender[:2] == self.peer[:2])  # An IPv6 flow label may differ.
        if sender[0] != self.peer[0]:
            return False
        self.peer = sender
        self._emit, self._to = self._endpoint.route(sender)
        return True

    def _turn_away(self, octets: memoryview, sender: Address) -> None:
        """RFC 1350, section 4: a foreign TID gets ERROR 5, and the transfer goes on undisturbed."""
        if len(self.strangers) < _STRANGERS:
            self.strangers.add(sender)
        if octets[:2] == _ERROR_OPCODE:
            return
        with contextlib.suppress(OSError):  # Whoever that is, this transfer does not depend on it.
            self._endpoint.send(_UNKNOWN_TID, sender)

    # -- what it tells ----------------------------------------------------------------------------

    def _report_start(self) -> None:
        machine = self.machine
        self._started = True
        if self.size is None:
            self.size = machine.terms.tsize
        self._report(
            TransferStarted(
                time=time.time(),
                transfer=self.number,
                request=self.request,
                terms=machine.terms,
                granted=machine.granted,
                size=self.size,
            )
        )

    def _report_progress(self, now: float) -> None:
        self._next_progress = now + _PROGRESS_EVERY
        self._report(
            TransferProgress(
                time=time.time(),
                transfer=self.number,
                request=self.request,
                counters=self.machine.counters.copy(),
                size=self.size,
                round_trip=self.machine.timer.round_trip,
            )
        )

    def _report_end(self, now: float) -> None:
        machine = self.machine
        assert machine.outcome is not None  # noqa: S101
        self.ended = TransferEnded(
            time=time.time(),
            transfer=self.number,
            request=self.request,
            outcome=machine.outcome,
            error=machine.error,
            terms=machine.terms,
            granted=machine.granted,
            size=self.size,
            counters=machine.counters.copy(),
            round_trip=machine.timer.round_trip,
            duration=now - self._began,
        )
        self._report(self.ended)
