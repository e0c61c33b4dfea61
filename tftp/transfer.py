"""The one state machine of TFTP: `Sender` and `Receiver`, without I/O and without a clock.

Theory of operation
-------------------

A transfer is one direction of DATA and one of ACK; who asked for it makes no difference once it
flows. So there are two machines, not four: a server that is read from and a client that writes are
both a `Sender`. They differ only in the opening datagram (RRQ, WRQ, OACK or ACK 0), which is simply
the first reply, repeated by `expire` until something answers it.

The machine deals in numbers and bytes. Whoever drives it (`session`) passes in each datagram with
the time at which it came (`receive`), calls `expire` when `deadline` has passed, and afterwards
drains `replies` onto the wire. Work is handed out and reported back::

    Sender.window()      -> which blocks to send now     Sender.sent(...)     they are on the wire
    Receiver.payloads()  -> what to store now            Receiver.stored(...) it is stored

The sender hands out block *numbers*: block n lies at offset (n - 1) * blksize, so a repeat is just
another read, and a transfer costs the same memory whatever its size. The receiver acknowledges in
`stored`: an ACK leaves after the write, the last one after the file has its final name.

Loss is met in four ways; docs/explanation/recovery.md says what each of them is worth.

*   The receiver keeps what comes behind a hole. It reports the hole once, by repeating its ACK (RFC
    7440, section 4), when more has come than may merely have overtaken the missing block.
*   The sender goes back to the hole, once. An ACK that does not reach beyond what had been sent by
    then (`_recover`), and comes within a round trip, may be an echo of what was in flight: it moves
    the window on, and nothing is sent again. Without that bound receivers that repeat their ACK for
    each later block (EDK2), or whose windows are not the sender's (U-Boot), would get the file many
    times over.
*   Where nobody says anything the timer fires.
*   Where holes keep coming the sender pauses inside its window, and between two pauses sends about
    as much (`_burst`) as got through lately: the receiver's queue is shorter than the window.
"""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import replace
from enum import IntEnum
from math import inf
from typing import ClassVar

from tftp.blocks import absolute, octets_on_wire, on_wire
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
from tftp.packets import (
    HEADER,
    Ack,
    Error,
    Opcode,
    OptionAck,
    ReadRequest,
    WriteRequest,
    decode,
    header,
)
from tftp.timers import Patience, RetransmitTimer

__all__ = ["Receiver", "Sender", "State", "Transfer"]


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


# What is legal to receive, and where it leads if it is what was waited for; a missing key *is* the
# protocol error. A repeat of what came before is legal, and leaves the state as it is.
_Legal = Mapping[tuple[State, Opcode], State]

# A server sends three datagrams at the most to an address that has never answered: whoever forges
# a request must not make the server a weapon.
_UNANSWERED_REPEATS = 2
# Seconds of patience with such an address: its place is needed by others.
_UNANSWERED_TOTAL = 5.0
# Seconds to wait for a client's very last ACK: clients seldom stay to repeat it.
_UNCONFIRMED_TOTAL = 5.0
# However long the wait, there must be time for this many repeats.
_LEAST_REPEATS = 3
# A repeated request is answered again only if the last answer is this old (seconds): copies that
# the network made come together, a client that missed the answer waits longer (iPXE: 0.25).
_ANSWER_AGAIN_AFTER = 0.1
# A repeated block is acknowledged again only if the last ACK is this old (seconds): the copies of a
# sender that doubles everything (Sorcerer's Apprentice) come sooner, one that missed an ACK later.
_ACK_AGAIN_AFTER = 0.01
# So many blocks behind it prove a hole; fewer may have overtaken the missing block. Three as in TCP
# (RFC 5681, section 3.2), and more where a long window can bear it: one in eight.
_LEAST_PROOF, _WINDOW_PER_PROOF = 3, 8
# How often a receiver repeats its last ACK unasked, where packets have been lost.
_FAREWELLS = 3
# Octets that a receiver keeps of what came behind a hole.
_MOST_EARLY = 1 << 18
# A pause inside a window takes a round trip, but no less and no more than this (seconds).
_SHORTEST_PAUSE, _LONGEST_PAUSE = 0.001, 0.02


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

    LEGAL: ClassVar[_Legal] = {}

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
        return self._progress_at + max(total, _LEAST_REPEATS * (self.terms.timeout or 0))

    def _give_up(self, now: float) -> None:
        error = TransferTimeout(f"no answer for {self.silence(now):.1f} s")
        self.abort(error, tell=self.heard)


class Sender(Transfer):
    """The end that has the file: a server that is read from, or a client that writes."""

    LEGAL: ClassVar[_Legal] = {
        (State.REQUESTED, Opcode.ACK): State.FLOWING,
        (State.REQUESTED, Opcode.OACK): State.FLOWING,
        (State.REQUESTED, Opcode.ERROR): State.CLOSED,
        (State.ANSWERED, Opcode.ACK): State.FLOWING,
        (State.ANSWERED, Opcode.ERROR): State.CLOSED,
        (State.FLOWING, Opcode.ACK): State.FLOWING,
        (State.FLOWING, Opcode.OACK): State.FLOWING,
        (State.FLOWING, Opcode.ERROR): State.CLOSED,
    }

    __slots__ = (
        "_acked",
        "_burst",
        "_fresh",
        "_highest",
        "_intact_from",
        "_last",
        "_last_size",
        "_next",
        "_pause_after",
        "_paused",
        "_recover",
        "_rewound_at",
        "_timed",
    )

    def __init__(self, terms: Terms, patience: Patience, now: float) -> None:
        super().__init__(terms, patience, now)
        self._acked = 0  # the highest block that the peer has
        self._next = 1  # the block to hand out next
        self._highest = 0  # the highest block that was ever sent
        self._last: int | None = None  # the block that ends the file, once it has been read
        self._last_size = 0
        self._fresh = 1  # what is sent next from this block on will arrive once at the most
        self._timed = 1  # an ACK of this block or a later one measures a round trip
        self._recover = -1  # the highest block that was sent when it last went back ...
        self._rewound_at = now  # ... and when that was
        self._burst = terms.windowsize  # how many blocks to send before a pause
        self._pause_after = self._burst
        self._paused = False
        self._intact_from = 0  # nothing has been missed since this block

    @classmethod
    def answer(
        cls, terms: Terms, granted: Mapping[str, str], now: float, patience: Patience
    ) -> "Sender":
        """A server's answer to an RRQ: an OACK with what was granted, or DATA at once."""
        sender = cls(terms, patience, now)
        sender._answering = True
        sender.granted = granted
        if granted:
            sender._open(State.ANSWERED, OptionAck(granted).encode(), now)
        else:
            sender.state = State.FLOWING
            sender._wait(now)
        return sender

    @classmethod
    def request(
        cls, request: WriteRequest, now: float, patience: Patience, timeout: float | None = None
    ) -> "Sender":
        """A client's WRQ. `timeout` is the wait in seconds that its user wants, None to measure."""
        sender = cls(Terms(), patience, now)
        sender.timer = cls._new_timer(patience, timeout)
        sender._offered = request.options
        sender._open(State.REQUESTED, request.encode(), now)
        return sender

    def window(self) -> range:
        """The blocks to send now, by absolute number; empty when an ACK has to come first."""
        if self.state is not State.FLOWING or self._paused:
            return range(0)
        end = min(self._acked + self.terms.windowsize, self._pause_after)
        if self._last is not None:
            end = min(end, self._last)
        return range(self._next, end + 1)

    def sent(self, count: int, now: float, last: int | None = None) -> None:
        """The first `count` blocks of `window` are on their way.

        Args:
            count: how many; 0 if the network took none, and it is to be tried again.
            last: octets in the final one of them, where that is the file's last block.
        """
        if not count:
            self._wait(now)
            return
        first, highest = self._next, self._highest
        final = first + count - 1
        octets = count * (HEADER.size + self.terms.blksize)
        if last is not None:
            self._last, self._last_size = final, last
            octets -= self.terms.blksize - last
        counters = self.counters
        counters.datagrams_sent += count
        counters.octets_sent += octets
        if first <= highest:
            counters.retransmissions += min(final, highest) - first + 1
        # Karn's rule: what may arrive twice measures nothing.
        self._timed = max(first, self._fresh)
        if final > highest:
            counters.blocks += final - highest
            self._highest = final
        self._fresh = self._highest + 1
        self._next = final + 1
        self._sent_at = now
        if final == self._pause_after < self._acked + self.terms.windowsize:
            self._pause(now)
        else:
            self._wait(now)

    def awaited(self) -> int | None:
        """The block whose ACK lets a whole new window leave; None where it is not as plain as that.

        It is plain as long as nothing gets lost: what is out was sent once, and fills the window.
        The driver may then have the next windows ready, send each on that very ACK, and report it
        by `advanced`, instead of going through `receive`, `window` and `sent`.
        """
        highest, windowsize = self._highest, self.terms.windowsize
        plain = (
            highest - self._acked == windowsize == self._burst
            and self._acked >= self._recover
            and self._last is None
            and self._heard_at is not None
        )
        return highest if plain else None

    def advanced(self, windows: int, now: float) -> None:
        """So many ACKs came as awaited, and each time a whole new window went, at `now` the last.

        The driver may report several at once, but must do so before it calls anything else.
        """
        windowsize = self.terms.windowsize
        blocks = windows * windowsize
        octets = blocks * self.terms.blksize
        counters = self.counters
        counters.datagrams_received += windows
        counters.octets_received += windows * HEADER.size
        counters.datagrams_sent += blocks
        counters.octets_sent += octets + blocks * HEADER.size
        counters.payload += octets
        counters.blocks += blocks
        self.timer.sample((now - self._sent_at) / windows)
        self._highest += blocks
        self._acked = acked = self._highest - windowsize
        self._pause_after = self._highest
        self._timed = acked + 1
        self._next = self._fresh = self._highest + 1
        self._heard_at = self._progress_at = self._sent_at = now
        self.deadline = now + self.timer.interval

    def expire(self, now: float) -> None:
        """Act on silence, or end a pause inside a window."""
        if self._paused and self.deadline is not None and now >= self.deadline:
            self._refill()
            self._wait(now)
        else:
            super().expire(now)

    def _take(self, opcode: int, number: int, datagram: bytes | memoryview, now: float) -> None:
        match opcode:
            case Opcode.ACK if self.state is State.FLOWING:
                self._acknowledge(number, now)
            case Opcode.ACK if number == 0:
                self._begin(now)
            case Opcode.OACK if self.state is State.REQUESTED:
                if self._negotiated(datagram):
                    self._begin(now)
            case Opcode.OACK if self._acked == 0:
                self._repeated_ack(now)
            case Opcode.ERROR:
                probe = self.state is State.ANSWERED
                self._peer_error(datagram)
                if probe:
                    # Firmware asks for the size, reads the OACK and declines: EDK2 with code 8,
                    # PXELINUX, GRUB and the Raspberry Pi with code 0.
                    self.outcome = Outcome.PROBED

    def _begin(self, now: float) -> None:
        """The opening has been answered: the first window may go."""
        self._measure(now)
        self._progress(now)
        self.state = State.FLOWING
        self._burst = self.terms.windowsize
        self._refill()

    def _acknowledge(self, number: int, now: float) -> None:
        acked, highest = self._acked, self._highest
        block = absolute(number, acked + (highest - acked + 1 >> 1), self.terms.rollover or 0)
        if block == acked:
            self._repeated_ack(now)
            return
        if not acked < block <= highest:
            # Late, or for a block that was never sent (a Raspberry Pi 4 does that): no reason to
            # send anything.
            self.counters.duplicates += block < acked
            return
        if block >= self._timed:
            self.timer.sample(now - self._sent_at)
            self._timed = self._fresh
        self._progress(now)
        self._acked = block
        self.counters.payload += (block - acked) * self.terms.blksize
        if block == self._last:
            self.counters.payload -= self.terms.blksize - self._last_size
            self._finish(Outcome.DONE)
            return
        if self._next <= block:
            # The ACK overtook a resend that was still to come.
            self._next = block + 1
        self._refill()
        self._wait(now)
        if block == highest:
            # All of it got through: pause a little less.
            self._burst = min(self._burst + 1, self.terms.windowsize)
        elif not self._is_echo(block, now):
            self._go_back(now)

    def _repeated_ack(self, now: float) -> None:
        """An ACK that says nothing new.

        RFC 1123, section 4.2.3.1: it is never a reason to send, or every later block is sent twice
        (the Sorcerer's Apprentice). Who repeats it to ask for a lost block (U-Boot) gets that from
        the timer. In a window it reports a hole (RFC 7440, section 4), unless it comes so soon that
        the network must have made two of one.
        """
        self.counters.duplicates += 1
        copy = self.silence(now) < (self.timer.round_trip or 0) / 2
        if self._recover < self._acked < self._highest and self.terms.windowsize > 1 and not copy:
            self._go_back(now)

    def _is_echo(self, block: int, now: float) -> bool:
        """Whether an ACK inside the window may tell of what was sent before this side went back."""
        if block >= self._recover:
            return block == self._recover
        return now - self._rewound_at < (self.timer.round_trip or inf)

    def _go_back(self, now: float) -> None:
        """The peer lacks the block behind the last acknowledged: send again from there."""
        self.counters.gaps += 1
        self._rewind(now)
        self._fresh = self._next  # It was lost, so its answer is unambiguous.

    def _repeat_block(self, now: float) -> None:
        self._rewind(now)

    def _rewind(self, now: float) -> None:
        # Halfway to what got through since the last time, but never much up at once.
        intact = min(self._acked - self._intact_from, 2 * self._burst)
        self._burst = max(1, min((self._burst + intact) // 2, self.terms.windowsize))
        self._intact_from = self._acked
        self._next = self._acked + 1
        self._recover = self._highest
        self._rewound_at = now
        self._refill()

    def _refill(self) -> None:
        self._pause_after = self._next + self._burst - 1
        self._paused = False

    def _pause(self, now: float) -> None:
        self._paused = True
        round_trip = self.timer.round_trip or 0
        self.deadline = now + min(max(round_trip, _SHORTEST_PAUSE), _LONGEST_PAUSE)

    def _patience_ends(self) -> float:
        ends = super()._patience_ends()
        if self._silences >= _LEAST_REPEATS and self._all_sent and self._heard_at is not None:
            last_chance = self._sent_at + self.timer.base
            ends = min(ends, max(self._heard_at + _UNCONFIRMED_TOTAL, last_chance))
        return ends

    @property
    def _all_sent(self) -> bool:
        """Whether all of the file is with a client that was there, and only its ACK is missing."""
        return self._answering and self.heard and self._highest == self._last

    def _give_up(self, now: float) -> None:
        if self._all_sent:
            self._finish(Outcome.UNCONFIRMED)
        else:
            super()._give_up(now)

    def _finish(self, outcome: Outcome) -> None:
        self.outcome = outcome
        self._close()


class Receiver(Transfer):
    """The end that gets the file: a client that reads, or a server that is written to.

    Attributes:
        complete: the last block has come; the file is to be committed before `stored` is called.
    """

    LEGAL: ClassVar[_Legal] = {
        (State.REQUESTED, Opcode.DATA): State.FLOWING,
        (State.REQUESTED, Opcode.OACK): State.FLOWING,
        (State.REQUESTED, Opcode.ERROR): State.CLOSED,
        (State.ANSWERED, Opcode.DATA): State.FLOWING,
        (State.ANSWERED, Opcode.ERROR): State.CLOSED,
        (State.FLOWING, Opcode.DATA): State.FLOWING,
        (State.FLOWING, Opcode.OACK): State.FLOWING,
        (State.FLOWING, Opcode.ERROR): State.CLOSED,
        (State.DALLYING, Opcode.DATA): State.DALLYING,
        (State.DALLYING, Opcode.OACK): State.DALLYING,
        (State.DALLYING, Opcode.ERROR): State.CLOSED,
    }

    __slots__ = (
        "_due",
        "_early",
        "_farewells",
        "_payloads",
        "_received",
        "_reported",
        "_window_start",
        "complete",
    )

    def __init__(self, terms: Terms, patience: Patience, now: float) -> None:
        super().__init__(terms, patience, now)
        self.complete = False
        self._received = 0  # the highest block up to which all have come
        self._window_start = 0  # the block that was acknowledged last
        self._payloads: list[memoryview] = []
        self._early: dict[int, bytes] = {}  # what came behind a hole, by block
        self._reported = False  # the sender has been told of the hole
        self._due = False  # an ACK is to be sent once all is stored
        self._farewells = 0  # how often the last ACK was repeated unasked

    @classmethod
    def answer(
        cls, terms: Terms, granted: Mapping[str, str], now: float, patience: Patience
    ) -> "Receiver":
        """A server's answer to a WRQ: an OACK with what was granted, or ACK 0."""
        receiver = cls(terms, patience, now)
        receiver._answering = True
        receiver.granted = granted
        opening = OptionAck(granted).encode() if granted else Ack(0).encode()
        receiver._open(State.ANSWERED, opening, now)
        return receiver

    @classmethod
    def request(
        cls, request: ReadRequest, now: float, patience: Patience, timeout: float | None = None
    ) -> "Receiver":
        """A client's RRQ. `timeout` is the wait in seconds that its user wants, None to measure."""
        receiver = cls(Terms(), patience, now)
        receiver.timer = cls._new_timer(patience, timeout)
        receiver._offered = request.options
        receiver._open(State.REQUESTED, request.encode(), now)
        return receiver

    def receive_joined(self, octets: memoryview, size: int, now: float) -> None:
        """Take in datagrams of `size` octets, one behind the other; the last may be shorter.

        That is what `receive` would do for each, but what is usual is done in one stride.
        """
        taken = self._take_run(octets, size, now)
        for start in range(taken, len(octets), size):
            self.receive(octets[start : start + size], now)

    @property
    def owes_answer(self) -> bool:
        """Whether the peer is to be told something as soon as what has come is stored."""
        return self._due or self.complete or self.state is State.CLOSED

    def payloads(self) -> list[memoryview]:
        """Drain what has come in order, for the caller to store; the views share its buffers."""
        payloads, self._payloads = self._payloads, []
        return payloads

    def stored(self, now: float) -> None:
        """All that `payloads` gave is stored and, if `complete`, committed: the ACK may leave."""
        if self.complete and self.outcome is None:
            self.outcome = Outcome.DONE
            self.state = State.DALLYING
            self._progress_at = now
        if self._due and self.state is not State.CLOSED:
            self._acknowledge(now)

    def expire(self, now: float) -> None:
        """Act on silence: repeat the request or the ACK, or stop dallying."""
        if self.state is not State.DALLYING:
            super().expire(now)
        elif now >= self._dally_ends:
            self._close()
        elif self.deadline is not None and now >= self.deadline:
            self._say_farewell(now)

    def peer_is_gone(self) -> None:
        """The peer's port is closed: nobody will ask for the last ACK again."""
        if self.state is State.DALLYING:
            self._close()

    @staticmethod
    def _new_timer(patience: Patience, fixed: float | None) -> RetransmitTimer:
        return RetransmitTimer(patience, fixed, standby=True)

    def _take(self, opcode: int, number: int, datagram: bytes | memoryview, now: float) -> None:
        match opcode:
            case Opcode.DATA:
                self._data(number, memoryview(datagram)[HEADER.size :], now)
            case Opcode.OACK if self.state is State.REQUESTED:
                if self._negotiated(datagram):
                    self._measure(now)
                    self._progress(now)
                    self.state = State.FLOWING
                    self._due = True
            case Opcode.OACK if self._received == 0:
                self._came_again(0, now)
            case Opcode.ERROR if self.state is State.DALLYING:
                self._close()
            case Opcode.ERROR:
                self._peer_error(datagram)

    def _data(self, number: int, payload: memoryview, now: float) -> None:
        terms = self.terms
        block = self._received + 1
        if number != on_wire(block, terms.rollover or 0):
            self._out_of_order(number, payload, now)
            return
        if self.complete:
            self.counters.duplicates += 1
            return
        if len(payload) > terms.blksize:
            said = f"DATA of {len(payload)} octets where blksize is {terms.blksize}"
            self.abort(ProtocolError(said))
            return
        if block == self._window_start + 1:
            self._measure(now)
        self._progress(now)
        self.state = State.FLOWING
        self._keep(payload)
        if self._early:
            self._fill()
        self._wait(now)
        self._end_window()

    def _take_run(self, octets: memoryview, size: int, now: float) -> int:
        """Take in the full ones among datagrams that came joined, if they are just the blocks that
        are awaited; how many octets that was, or 0.
        """
        count = len(octets) // size
        first = self._received + 1
        if not self._is_run(octets, size, first, count):
            return 0
        blksize, counters = self.terms.blksize, self.counters
        counters.datagrams_received += count
        counters.octets_received += count * size
        counters.blocks += count
        counters.payload += count * blksize
        self._heard_at = now
        if first == self._window_start + 1:
            self._measure(now)
        self._progress(now)
        starts = range(HEADER.size, count * size, size)
        self._payloads += [octets[start : start + blksize] for start in starts]
        self._received += count
        self._wait(now)
        self._end_window()
        return count * size

    def _is_run(self, octets: memoryview, size: int, first: int, count: int) -> bool:
        """Whether these are `count` full blocks of this window, and nothing has been amiss."""
        terms = self.terms
        if (
            self.state is not State.FLOWING
            or self.complete
            or self._early
            or size != HEADER.size + terms.blksize
            or not 1 < count <= self._window_start + terms.windowsize - self._received
        ):
            return False
        # The n-th octet of every header, for each n: four comparisons, whatever the count.
        end = count * size
        high, low = octets_on_wire(first, count, terms.rollover or 0)
        return (
            octets[3:end:size] == low
            and octets[2:end:size] == high
            and octets[1:end:size] == _DATA * count
            and octets[0:end:size] == bytes(count)
        )

    def _end_window(self) -> None:
        """With the last block of a window, or of the file, an ACK is due."""
        if self.complete or self._received - self._window_start >= self.terms.windowsize:
            self._due = True
            self._sent_once = True

    def _keep(self, payload: memoryview) -> None:
        self._received += 1
        self._payloads.append(payload)
        size = len(payload)
        self.complete = size < self.terms.blksize
        self.counters.blocks += 1
        self.counters.payload += size

    def _fill(self) -> None:
        """The hole is gone: go on with what had come behind it."""
        self._reported = False
        while (payload := self._early.pop(self._received + 1, None)) is not None:
            self._keep(memoryview(payload))

    def _out_of_order(self, number: int, payload: memoryview, now: float) -> None:
        if self._wrapped_to_one(number):
            self.terms = replace(self.terms, rollover=1)
            self._data(number, payload, now)
            return
        if self.state < State.FLOWING:
            return  # What is not DATA 1 belongs to something older.
        block = absolute(number, self._received + 1, self.terms.rollover or 0)
        if block <= self._received or block in self._early:
            self._came_again(block, now)
        elif block - self._window_start <= self.terms.windowsize and not self.complete:
            self._came_early(block, payload)

    def _came_again(self, block: int, now: float) -> None:
        """A repeated block asks for an ACK if the sender is not where it should be.

        From before the window: the last ACK was lost. From behind a hole that has been reported:
        the report was lost, or the block once more. Anything else is just sent along.
        """
        self.counters.duplicates += 1
        lost = block <= self._window_start or (block > self._received and self._reported)
        if lost and now - self._sent_at >= _ACK_AGAIN_AFTER:
            self._acknowledge_again()

    def _came_early(self, block: int, payload: memoryview) -> None:
        """A block from behind a hole: keep it, and report the hole once that is certain."""
        terms = self.terms
        if len(self._early) * terms.blksize < _MOST_EARLY and len(payload) <= terms.blksize:
            # A copy, as the caller will use its buffer again.
            self._early[block] = bytes(payload)
        ends = block - self._window_start == terms.windowsize or len(payload) < terms.blksize
        proof = max(_LEAST_PROOF, terms.windowsize // _WINDOW_PER_PROOF)
        if not self._reported and (ends or len(self._early) >= proof):
            self._reported = True
            self.counters.gaps += 1
            self._acknowledge_again()

    def _acknowledge_again(self) -> None:
        self.counters.retransmissions += 1
        self._sent_once = False
        self._due = True

    def _acknowledge(self, now: float) -> None:
        self._due = False
        self._window_start = self._received
        self._say(Ack(on_wire(self._received, self.terms.rollover or 0)).encode(), now)
        if self.state is State.DALLYING:
            self.deadline = min(self._dally_ends, self._farewell_at(now))

    @property
    def _dally_ends(self) -> float:
        return self._progress_at + self._patience.dally

    def _farewell_at(self, now: float) -> float:
        """When to repeat the last ACK unasked: where packets are lost that one may be, too.

        A sender that lacks it may take seconds to ask; who has said it four times need not wait for
        that. This is no Sorcerer's Apprentice: no DATA can follow the last ACK, so whoever gets it
        twice has nothing to send twice. A sender that has ended is either silent, or its host says
        that the port is closed, or it answers ERROR 5; and each of these ends the dallying.
        """
        if not self.counters.retransmissions or self._farewells == _FAREWELLS:
            return inf
        pause: float = max(self.timer.round_trip or 0.0, self._patience.floor)
        return now + pause * (1 << self._farewells)

    def _say_farewell(self, now: float) -> None:
        self._farewells += 1
        self._repeat_block(now)
        if self._farewells == _FAREWELLS and not self._answering:
            # A client's user may be waiting. A server stays on, which costs nobody anything.
            self._close()

    def _repeat_block(self, now: float) -> None:
        self._acknowledge_again()
        self._acknowledge(now)

    def _wrapped_to_one(self, number: int) -> bool:
        """Whether a peer goes on with 1 after block 65535 without having said so.

        In lock-step block 65537 can not come before 65536 has been acknowledged, so a 1 is certain;
        in a window it might as well be that one 0 was lost, and the file would be wrong.
        """
        return (
            number == 1
            and self._received == 0xFFFF
            and self.terms.windowsize == 1
            and self.terms.rollover is None
        )


_OPCODES = frozenset(Opcode)
_DATA = bytes([Opcode.DATA])


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
