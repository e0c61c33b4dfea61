"""What a transfer is, whichever way the file goes: its states, its opening, its waits, its end.

`Transfer` is the half of the state machine that `sender` and `receiver` share; `tftp.transfer` has
the theory of operation. It knows no DATA and no window: what a legal packet means, and what is
repeated while the transfer flows, the two directions fill in. No I/O, and no clock: datagrams and
the time are passed in.
"""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from enum import IntEnum
from typing import ClassVar

from tftp.errors import (
    Aborted,
    DecodeError,
    PeerError,
    ProtocolError,
    TFTPError,
    TransferTimeout,
    Unreachable,
)
from tftp.events import Counters, Outcome
from tftp.options import Terms, accept
from tftp.packets import Error, Opcode, OptionAck, decode, header
from tftp.timers import Patience, RetransmitTimer

__all__ = ["LEAST_REPEATS", "Legal", "State", "Transfer"]


class State(IntEnum):
    """Where a transfer stands."""

    #: A client's RRQ or WRQ is out, and nothing has come back.
    REQUESTED = 1
    #: A server's OACK or ACK 0 is out, and nothing has come back.
    ANSWERED = 2
    #: DATA one way, ACK the other.
    FLOWING = 3
    #: A receiver has everything, and stays to repeat its last ACK (RFC 1350, section 6).
    DALLYING = 4
    #: It is over.
    CLOSED = 5


#: What is legal to receive, and where it leads if it is what was waited for; a missing key *is* the
#: protocol error. A repeat of what came before is legal, and leaves the state as it is.
Legal = Mapping[tuple[State, Opcode], State]

# A server sends three datagrams at the most to an address that has never answered: whoever forges
# a request must not make the server a weapon.
_UNANSWERED_REPEATS = 2
# Seconds of patience with such an address: its place is needed by others.
_UNANSWERED_TOTAL = 5.0
#: However long the wait, there must be time for this many repeats.
LEAST_REPEATS = 3
# A repeated request is answered again only if the last answer is this old (seconds): copies that
# the network made come together, a client that missed the answer waits longer (iPXE: 0.25).
_ANSWER_AGAIN_AFTER = 0.1


class Transfer(ABC):
    """What both directions share: the opening, the end, the timer and the counters.

    Attributes:
        state: where it stands.
        terms: what was negotiated; the defaults of RFC 1350 until then.
        granted: the options of the OACK, sent or received; empty where there is none.
        deadline: when `expire` is to be called, None once there is nothing to wait for.
        outcome: how it ended, None while it runs. A receiver that is done may still dally.
        error: why it failed, if it did.
        counters: what went over the wire.
        timer: holds the measured round trip.
    """

    __slots__ = (
        "_answering",
        "_heard_at",
        "_offered",
        "_opening",
        "_patience",
        "_progress_at",
        "_repeats",
        "_replies",
        "_sent_at",
        "_sent_once",
        "_silences",
        "counters",
        "deadline",
        "error",
        "granted",
        "outcome",
        "state",
        "terms",
        "timer",
    )

    LEGAL: ClassVar[Legal] = {}

    def __init__(self, terms: Terms, patience: Patience, now: float) -> None:
        self.state = State.CLOSED
        self.terms = terms
        self.granted: Mapping[str, str] = {}
        self.deadline: float | None = None
        self.outcome: Outcome | None = None
        self.error: TFTPError | None = None
        self.counters = Counters()
        self.timer = self._new_timer(patience, terms.timeout)
        self._patience = patience
        self._opening = b""
        self._offered: Mapping[str, str] = {}  # the options of the request, where this is a client
        self._answering = False  # this is a server
        self._replies: list[bytes] = []
        self._heard_at: float | None = None  # when the peer last said anything
        self._progress_at = now  # when it last said something new
        self._silences = 0  # how often the timer has fired since then
        self._repeats = 0  # how often it was asked again before it said anything
        self._sent_at = now  # when this side last sent DATA, an ACK or the opening
        self._sent_once = True  # Karn's rule: what was sent twice measures no round trip

    # -- what the driver calls --------------------------------------------------------------------

    def receive(self, datagram: bytes | memoryview, now: float) -> None:
        """Take in a datagram from the peer. What is no TFTP packet is passed over."""
        counters = self.counters
        counters.datagrams_received += 1
        counters.octets_received += len(datagram)
        try:
            opcode, number = header(datagram)
        except DecodeError:
            return
        if (self.state, opcode) in self.LEGAL:
            self._heard_at = now
            self._take(opcode, number, datagram, now)
        elif self.state is not State.CLOSED and opcode in _OPCODES:
            name, state = Opcode(opcode).name, self.state.name.lower()
            self.abort(ProtocolError(f"{name} is not legal here ({state})"))

    def expire(self, now: float) -> None:
        """Act on silence, if `deadline` has passed: repeat what went unanswered, or give up."""
        if self.deadline is None or now < self.deadline:
            return
        if self._silences == self._patience.retries or now >= self._patience_ends():
            self._give_up(now)
            return
        self._silences += 1
        self.timer.back_off()
        if self._may_repeat:
            self.counters.timeouts += 1
            self._repeat(now)
        self._wait(now)

    def replies(self) -> list[bytes]:
        """Drain what is to be sent to the peer, in order."""
        replies = self._replies
        if replies:
            self._replies = []
            self.counters.datagrams_sent += len(replies)
            self.counters.octets_sent += sum(map(len, replies))
        return replies

    def abort(self, error: TFTPError, *, tell: bool = True) -> None:
        """End the transfer for the reason `error`, and tell the peer unless `tell` is false."""
        if self.outcome is None:
            self.outcome = _outcome(error)
            self.error = error
            if tell and not isinstance(error, PeerError):
                # RFC 1350, section 7: an ERROR is a courtesy; it is sent once.
                self._replies.append(Error.of(error).encode())
        self._close()

    def request_repeated(self, now: float) -> None:
        """The client sent its request again: it may not have got the answer."""
        self.counters.duplicates += 1
        old = now - self._sent_at >= _ANSWER_AGAIN_AFTER
        if old and not self.heard and self._may_repeat:
            self._repeat(now)

    @property
    def heard(self) -> bool:
        """Whether the peer has ever answered."""
        return self._heard_at is not None

    def silence(self, now: float) -> float:
        """Seconds since the peer last said something new."""
        return now - self._progress_at

    # -- what the two directions fill in ----------------------------------------------------------

    @abstractmethod
    def advanced(self, steps: int, now: float) -> None:
        """So many steps were taken without the machine, as it had said that they might be, at `now`
        the last. The driver may report several at once, but does so before it calls anything else.
        """

    @staticmethod
    def _new_timer(patience: Patience, fixed: float | None) -> RetransmitTimer:
        return RetransmitTimer(patience, fixed)

    @abstractmethod
    def _take(self, opcode: int, number: int, datagram: bytes | memoryview, now: float) -> None:
        """Act on a legal packet."""

    @abstractmethod
    def _repeat_block(self, now: float) -> None:
        """Repeat DATA or ACK while the transfer flows."""

    # -- the opening and the end ------------------------------------------------------------------

    def _open(self, state: State, opening: bytes, now: float) -> None:
        self.state = state
        self._opening = opening
        self._say(opening, now)

    def _negotiated(self, datagram: bytes | memoryview) -> bool:
        """Read a server's OACK. False: it grants what it must not, and the transfer has ended."""
        packet = decode(datagram)
        assert isinstance(packet, OptionAck)  # noqa: S101  (the opcode has been looked at)
        try:
            self.terms = accept(self._offered, packet.options)
        except ProtocolError as error:
            self.abort(error)
            return False
        self.granted = packet.options
        if self.terms.timeout is not None:
            self.timer = self._new_timer(self._patience, self.terms.timeout)
        return True

    def _peer_error(self, datagram: bytes | memoryview) -> None:
        packet = decode(datagram)
        assert isinstance(packet, Error)  # noqa: S101  (the opcode has been looked at)
        self.abort(PeerError(packet.text, packet.code))

    def _close(self) -> None:
        self.state = State.CLOSED
        self.deadline = None

    # -- sending, and the time that it takes ------------------------------------------------------

    def _say(self, datagram: bytes, now: float) -> None:
        """Send the opening or an ACK, and wait for what it brings."""
        self._replies.append(datagram)
        self._sent_at = now
        self._wait(now)

    def _wait(self, now: float) -> None:
        """Set the deadline: for the next repeat, or for the end of all patience."""
        interval = self.timer.interval
        self.deadline = now + interval
        if self._silences or interval > self._patience.total or self._heard_at is None:
            self.deadline = min(self.deadline, self._patience_ends())

    def _repeat(self, now: float) -> None:
        self._repeats += not self.heard
        if self.state is State.FLOWING:
            self._repeat_block(now)
        else:
            self.counters.retransmissions += 1
            self._sent_once = False
            self._say(self._opening, now)

    @property
    def _may_repeat(self) -> bool:
        return self.heard or not self._answering or self._repeats < _UNANSWERED_REPEATS

    def _measure(self, now: float) -> None:
        """This is the answer to the opening, or to the last ACK."""
        if self._sent_once:
            self.timer.sample(now - self._sent_at)

    def _progress(self, now: float) -> None:
        self._progress_at = now
        if self._silences:
            self._silences = 0
            self.timer.relax(now - self._sent_at)

    def _patience_ends(self) -> float:
        """When silence ends the transfer."""
        total = self._patience.total
        if self._answering and not self.heard:
            total = min(total, _UNANSWERED_TOTAL)
        return self._progress_at + max(total, LEAST_REPEATS * (self.terms.timeout or 0))

    def _give_up(self, now: float) -> None:
        error = TransferTimeout(f"no answer for {self.silence(now):.1f} s")
        self.abort(error, tell=self.heard)


_OPCODES = frozenset(Opcode)


def _outcome(error: TFTPError) -> Outcome:
    match error:
        case PeerError():
            return Outcome.PEER_ERROR
        case ProtocolError() | DecodeError():
            return Outcome.PROTOCOL_ERROR
        case TransferTimeout():
            return Outcome.TIMED_OUT
        case Aborted():
            return Outcome.ABORTED
        case Unreachable():
            return Outcome.UNREACHABLE
        case _:
            return Outcome.STORAGE_ERROR
