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

Loss is met in three ways. A receiver that sees a hole repeats its ACK once (RFC 7440, section 4);
the sender then goes back to the block behind it. It does so once per hole: until an ACK covers
something that was sent for the first time *after* it went back (`_recover`), every other ACK may be
an echo of what was in flight, and moves the window on without sending anything again. Without that
bound a few datagrams that overtake one another, or a receiver that repeats its ACK for each later
block of a window (EDK2), make a sender repeat the file ten times over. Where nobody says anything
the timer fires. And where holes keep coming the sender pauses inside its window (`_burst`), since
the receiver's queue is evidently shorter than the window.
"""

from collections.abc import Mapping
from enum import IntEnum

from tftp.blocks import absolute, on_wire
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

# A server's reply to an address that has never answered is sent three times at the most: whoever
# forges a request must not make the server a weapon.
_UNANSWERED_SENDS = 3
# Seconds of patience with such an address: its place is needed by others.
_UNANSWERED_TOTAL = 10.0
# Seconds to wait for a client's very last ACK: clients seldom stay to repeat it.
_UNCONFIRMED_TOTAL = 5.0
# A repeated request is answered again only if the last answer is this old (seconds): copies that
# the network made come together, a client that missed the answer waits longer (iPXE: 0.25).
_REPEAT_AFTER = 0.1
# A receiver's own repeat waits longer than a sender's, who usually knows first.
_RECEIVER_FACTOR, _RECEIVER_FLOOR = 2, 0.2
# The shortest pause inside a window, in seconds.
_MIN_PAUSE = 0.001


class Transfer:
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
        "_heard",
        "_offered",
        "_opening",
        "_patience",
        "_progress_at",
        "_replies",
        "_sent_at",
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

    LEGAL: _Legal = {}

    def __init__(self, terms: Terms, patience: Patience, now: float) -> None:
        self.state = State.CLOSED
        self.terms = terms
        self.granted: Mapping[str, str] = {}
        self.deadline: float | None = None
        self.outcome: Outcome | None = None
        self.error: TFTPError | None = None
        self.counters = Counters()
        self.timer = RetransmitTimer(patience, terms.timeout)
        self._patience = patience
        self._opening = b""
        self._offered: Mapping[str, str] = {}
        self._answering = False
        self._heard = False
        self._silences = 0
        self._progress_at = now
        self._sent_at = now
        self._replies: list[bytes] = []

    # -- what the driver calls --------------------------------------------------------------------

    def receive(self, datagram: bytes | memoryview, now: float) -> None:
        """Take in a datagram from the peer. What is no TFTP packet is passed over."""
        self.counters.datagrams_received += 1
        self.counters.octets_received += len(datagram)
        try:
            opcode, number = header(datagram)
        except DecodeError:
            return
        if (self.state, opcode) in self.LEGAL:
            self._take(opcode, number, datagram, now)
        elif self.state is not State.CLOSED and opcode in _OPCODES:
            name, state = Opcode(opcode).name, self.state.name.lower()
            self.abort(ProtocolError(f"{name} is not legal here ({state})"))

    def expire(self, now: float) -> None:
        """Act on silence, if `deadline` has passed: repeat what went unanswered, or give up."""
        if self.deadline is None or now < self.deadline:
            return
        if self._patience_is_over(now):
            self._give_up(now)
            return
        self.counters.timeouts += 1
        self._silences += 1
        if not self._answering or self._heard or self._silences < _UNANSWERED_SENDS:
            self.timer.back_off()
            self._repeat(now)
        self.deadline = min(now + self._wait(), self._progress_at + self._limit())

    def replies(self) -> list[bytes]:
        """Drain what is to be sent to the peer, in order."""
        replies, self._replies = self._replies, []
        for datagram in replies:
            self.counters.datagrams_sent += 1
            self.counters.octets_sent += len(datagram)
        return replies

    def abort(self, error: TFTPError, *, tell: bool = True) -> None:
        """End the transfer for the reason `error`, and tell the peer unless `tell` is false."""
        if self.outcome is None:
            self.outcome = _outcome(error)
            self.error = error
            if tell and not isinstance(error, PeerError):
                # RFC 1350, section 7: an ERROR is a courtesy; it is sent once.
                self._replies.append(Error.of(error).encode())
        self.state = State.CLOSED
        self.deadline = None

    def request_repeated(self, now: float) -> None:
        """The client sent its request again: it may not have got the answer."""
        self.counters.duplicates += 1
        if not self._heard and now - self._sent_at >= _REPEAT_AFTER:
            self._repeat(now)

    @property
    def heard(self) -> bool:
        """Whether the peer has ever answered."""
        return self._heard

    def silence(self, now: float) -> float:
        """Seconds since the peer last said something new."""
        return now - self._progress_at

    # -- what the two directions fill in ----------------------------------------------------------

    def _take(self, opcode: int, number: int, datagram: bytes | memoryview, now: float) -> None:
        """Act on a legal packet."""
        raise NotImplementedError

    def _repeat_block(self, now: float) -> None:
        """Repeat DATA or ACK while the transfer flows."""
        raise NotImplementedError

    def _wait(self) -> float:
        """Seconds before the next repeat."""
        return self.timer.interval

    # -- the opening ------------------------------------------------------------------------------

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
        return True

    def _say(self, datagram: bytes, now: float) -> None:
        """Send the opening or an ACK, and wait for what it brings."""
        self._replies.append(datagram)
        self._sent_at = now
        self.deadline = now + self._wait()

    # -- time -------------------------------------------------------------------------------------

    def _progress(self, now: float) -> None:
        self._heard = True
        self._silences = 0
        self._progress_at = now

    def _repeat(self, now: float) -> None:
        if self.state is State.FLOWING:
            self._repeat_block(now)
        else:
            self.counters.retransmissions += 1
            self._say(self._opening, now)

    def _patience_is_over(self, now: float) -> bool:
        retries = self._patience.retries
        if retries is not None and self._silences >= retries:
            return True
        return now >= self._progress_at + self._limit()

    def _limit(self) -> float:
        """Seconds of silence that end the transfer."""
        total = self._patience.total
        if self._answering and not self._heard:
            total = min(total, _UNANSWERED_TOTAL)
        # A long timeout that was negotiated must still allow for a few repeats.
        return max(total, _UNANSWERED_SENDS * (self.terms.timeout or 0))

    def _give_up(self, now: float) -> None:
        silence = now - self._progress_at
        error = TransferTimeout(f"no answer for {silence:.1f} s")
        self.abort(error, tell=self._heard)

    def _peer_error(self, datagram: bytes | memoryview) -> None:
        packet = decode(datagram)
        assert isinstance(packet, Error)  # noqa: S101  (the opcode has been looked at)
        probed = self.state is State.ANSWERED and isinstance(self, Sender)
        self.abort(PeerError(packet.text, packet.code))
        if probed:
            # Firmware asks for the size, reads the OACK and declines: EDK2 with code 8, PXELINUX,
            # GRUB and the Raspberry Pi with code 0.
            self.outcome = Outcome.PROBED


class Sender(Transfer):
    """The end that has the file: a server that is read from, or a client that writes."""

    LEGAL: _Legal = {
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
        "_clean",
        "_credit",
        "_highest",
        "_last",
        "_last_size",
        "_next",
        "_recover",
        "_resume_at",
        "_timed",
    )

    def __init__(self, terms: Terms, patience: Patience, now: float) -> None:
        super().__init__(terms, patience, now)
        self._acked = 0  # the highest block that the peer has
        self._next = 1  # the block to hand out next
        self._highest = 0  # the highest block that was ever sent
        self._last: int | None = None  # the block that ends the file, once it has been read
        self._last_size = 0
        self._recover = -1  # ACKs up to here never make it go back
        self._timed: int | None = None  # the block whose round trip is being measured
        self._burst = terms.windowsize  # blocks to send before a pause
        self._credit = self._burst
        self._clean = True  # the last window went without a hole
        self._resume_at: float | None = None

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
            sender.deadline = now + sender._wait()
        return sender

    @classmethod
    def request(
        cls, request: WriteRequest, now: float, patience: Patience, timeout: float | None = None
    ) -> "Sender":
        """A client's WRQ. `timeout` is the wait in seconds that its user wants, None to measure."""
        sender = cls(Terms(), patience, now)
        sender.timer = RetransmitTimer(patience, timeout)
        sender._offered = request.options
        sender._open(State.REQUESTED, request.encode(), now)
        return sender

    def window(self) -> range:
        """The blocks to send now, by absolute number; empty when an ACK has to come first."""
        if self.state is not State.FLOWING or self._resume_at is not None:
            return range(0)
        end = min(self._acked + self.terms.windowsize, self._next + self._credit - 1)
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
            self.deadline = now + self.timer.interval
            return
        first = self._next
        final = first + count - 1
        self._next = final + 1
        octets = count * (HEADER.size + self.terms.blksize)
        if last is not None:
            self._last, self._last_size = final, last
            octets -= self.terms.blksize - last
        counters = self.counters
        counters.datagrams_sent += count
        counters.octets_sent += octets
        if first > self._highest:
            self._timed = final
        else:
            # Karn's rule: what was sent twice measures nothing.
            counters.retransmissions += min(final, self._highest) - first + 1
            self._timed = None
        if final > self._highest:
            counters.blocks += final - self._highest
            self._highest = final
        self._sent_at = now
        self.deadline = now + self.timer.interval
        if self._silences:
            self.deadline = min(self.deadline, self._progress_at + self._limit())
        self._credit -= count
        if (
            self._credit <= 0
            and final < self._acked + self.terms.windowsize
            and final != self._last
        ):
            self._pause(now)

    def awaited(self) -> int | None:
        """The block whose ACK lets a whole new window leave; None where it is not as plain as that.

        It is plain as long as nothing gets lost: what is out was sent once, and fills the window.
        The driver may then have the next window ready, send it on that very ACK, and report it by
        `advanced`, instead of going through `receive`, `window` and `sent`.
        """
        highest = self._highest
        if (
            self._timed == highest
            and highest - self._acked == self.terms.windowsize
            and self._last is None
            and self._clean
            and self._burst == self.terms.windowsize
            and self._heard
        ):
            return highest
        return None

    def advanced(self, now: float) -> None:
        """The ACK of `awaited` came, and the whole window behind it is on its way."""
        windowsize = self.terms.windowsize
        octets = windowsize * self.terms.blksize
        counters = self.counters
        counters.datagrams_received += 1
        counters.octets_received += HEADER.size
        counters.datagrams_sent += windowsize
        counters.octets_sent += octets + windowsize * HEADER.size
        counters.payload += octets
        counters.blocks += windowsize
        acked = self._acked = self._highest
        # A round trip in lock-step is short, and one in eight tells enough.
        if windowsize > 1 or not acked & 7:
            self.timer.sample(now - self._sent_at)
        self._timed = self._highest = acked + windowsize
        self._next = self._highest + 1
        self._silences = 0
        self._progress_at = self._sent_at = now
        self.deadline = now + self.timer.interval

    def expire(self, now: float) -> None:
        """Act on silence, or end a pause inside a window."""
        if self._resume_at is not None and now >= self._resume_at:
            self._refill()
            self.deadline = now + self.timer.interval
            return
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
                self._repeated_ack(0, now)
            case Opcode.ERROR:
                self._peer_error(datagram)

    def _begin(self, now: float) -> None:
        """The opening has been answered: the first window may go."""
        if not self._silences:
            self.timer.sample(now - self._sent_at)
        self._progress(now)
        self.state = State.FLOWING
        self._burst = self.terms.windowsize
        self._refill()

    def _acknowledge(self, number: int, now: float) -> None:
        acked, highest = self._acked, self._highest
        block = absolute(number, acked + (highest - acked >> 1), self.terms.rollover or 0)
        if block == acked:
            self._repeated_ack(block, now)
            return
        if not acked < block <= highest:
            # Late, or for a block that was never sent (a Raspberry Pi 4 does that): no reason to
            # send anything.
            self.counters.duplicates += block < acked
            return
        if self._timed is not None and block >= self._timed:
            self.timer.sample(now - self._sent_at)
            self._timed = None
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
        self.deadline = now + self.timer.interval
        self._refill()
        if block == highest:
            self._grow()
        elif block > self._recover:
            self._go_back(now)

    def _repeated_ack(self, block: int, now: float) -> None:
        """An ACK that says nothing new.

        RFC 1123, section 4.2.3.1: it is never by itself a reason to send, or every later block is
        sent twice (the Sorcerer's Apprentice). In a window it reports a hole (RFC 7440, section 4).
        And some clients know no other way to ask for a block that was lost (U-Boot), so it counts
        when it comes so late that it can not be an echo.
        """
        self.counters.duplicates += 1
        if self._highest == block:
            return
        hole = self.terms.windowsize > 1 and block > self._recover
        if hole or now - self._sent_at >= self.timer.base:
            self._heard = True
            self._go_back(now)

    def _go_back(self, now: float) -> None:
        """Send again from behind the last acknowledged block."""
        self.counters.gaps += 1
        if not self._clean:
            self._shrink()
        self._clean = False
        self._rewind()
        self.deadline = now + self.timer.interval

    def _repeat_block(self, now: float) -> None:
        self._shrink()
        self._rewind()

    def _rewind(self) -> None:
        self._next = self._acked + 1
        self._recover = self._highest
        self._timed = None
        self._refill()

    def _refill(self) -> None:
        self._credit = self._burst
        self._resume_at = None

    def _shrink(self) -> None:
        self._burst = max(1, self._burst // 2)

    def _grow(self) -> None:
        """A window arrived whole: pause a little less."""
        self._clean = True
        windowsize = self.terms.windowsize
        if self._burst < windowsize:
            self._burst = min(windowsize, self._burst + max(1, windowsize // 16))

    def _pause(self, now: float) -> None:
        """Spread the rest of the window over a round trip."""
        share = self._burst / self.terms.windowsize
        self._resume_at = now + max(_MIN_PAUSE, (self.timer.round_trip or 0) * share)
        self.deadline = self._resume_at

    def _limit(self) -> float:
        limit = super()._limit()
        if self._all_sent:
            return max(min(limit, _UNCONFIRMED_TOTAL), 2 * (self.terms.timeout or 0))
        return limit

    @property
    def _all_sent(self) -> bool:
        """Whether all of the file is with a client that was there, and only its ACK is missing."""
        return self._answering and self._heard and self._highest == self._last

    def _give_up(self, now: float) -> None:
        if self._all_sent:
            self._finish(Outcome.UNCONFIRMED)
        else:
            super()._give_up(now)

    def _finish(self, outcome: Outcome) -> None:
        self.outcome = outcome
        self.state = State.CLOSED
        self.deadline = None


class Receiver(Transfer):
    """The end that gets the file: a client that reads, or a server that is written to.

    Attributes:
        complete: the last block has come; the file is to be committed before `stored` is called.
    """

    LEGAL: _Legal = {
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

    __slots__ = ("_due", "_payloads", "_received", "_stray", "_timing", "_window_start", "complete")

    def __init__(self, terms: Terms, patience: Patience, now: float) -> None:
        super().__init__(terms, patience, now)
        self.complete = False
        self._received = 0  # the highest block up to which all have come
        self._window_start = 0  # the block that the current window follows
        self._payloads: list[memoryview] = []
        self._due = False  # an ACK is to be sent once all is stored
        self._stray: int | None = (
            None  # the last block that came out of order since the last in order
        )
        self._timing = True  # the answer to what was sent last measures a round trip

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
        receiver.timer = RetransmitTimer(patience, timeout)
        receiver._offered = request.options
        receiver._open(State.REQUESTED, request.encode(), now)
        return receiver

    def payloads(self) -> list[memoryview]:
        """Drain what has come in order, for the caller to store; the views share its buffers."""
        payloads, self._payloads = self._payloads, []
        return payloads

    def stored(self, now: float) -> None:
        """All that `payloads` gave is stored and, if `complete`, committed: the ACK may leave."""
        if self.complete and self.outcome is None:
            self.outcome = Outcome.DONE
            self.state = State.DALLYING
            self.deadline = now + self._patience.dally
        if self._due and self.state is not State.CLOSED:
            self._acknowledge(now)

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
                self._due = True
            case Opcode.ERROR if self.state is State.DALLYING:
                self._close()
            case Opcode.ERROR:
                self._peer_error(datagram)

    def _data(self, number: int, payload: memoryview, now: float) -> None:
        block = self._received + 1
        if absolute(number, block, self.terms.rollover or 0) != block:
            if not self._wrapped_to_one(number):
                self._out_of_order(number)
                return
            self.terms = self._with_rollover_one()
        if self.complete:
            self.counters.duplicates += 1
            return
        blksize = self.terms.blksize
        if len(payload) > blksize:
            self.abort(ProtocolError(f"DATA of {len(payload)} octets where blksize is {blksize}"))
            return
        self.state = State.FLOWING
        if block == self._window_start + 1:
            self._measure(now)
        self._progress(now)
        self._received = block
        self._stray = None
        self.counters.blocks += 1
        self.counters.payload += len(payload)
        self._payloads.append(payload)
        self.deadline = now + self._wait()
        self.complete = len(payload) < blksize
        if self.complete or block - self._window_start >= self.terms.windowsize:
            self._due = True
            self._timing = True

    def _out_of_order(self, number: int) -> None:
        """A block that came again, or one behind a hole: say once where this side stands.

        Once for each run of such blocks: as long as their numbers go up, one ACK has said it all
        (RFC 7440, section 4); when they start again lower, the sender has repeated something, and
        our ACK, or the block behind it, was lost once more.
        """
        block = absolute(number, self._received + 1, self.terms.rollover or 0)
        if self.state is State.REQUESTED:
            return  # Not an answer to the request: DATA 1 or an OACK is.
        if block <= self._received:
            self.counters.duplicates += 1
        elif self._stray is None:
            self.counters.gaps += 1
        if self._stray is None or block <= self._stray:
            self._due = True
            self._timing = False
            self.counters.retransmissions += 1
        self._stray = block

    def _acknowledge(self, now: float) -> None:
        self._due = False
        self._window_start = self._received
        ack = Ack(on_wire(self._received, self.terms.rollover or 0)).encode()
        deadline = self.deadline
        self._say(ack, now)
        if self.state is State.DALLYING:
            self.deadline = deadline

    def expire(self, now: float) -> None:
        """Act on silence: repeat the request or the ACK, or stop dallying."""
        if self.state is not State.DALLYING:
            super().expire(now)
        elif self.deadline is not None and now >= self.deadline:
            self._close()

    def _repeat_block(self, now: float) -> None:
        self.counters.retransmissions += 1
        self._timing = False
        self._stray = None
        self._acknowledge(now)

    def _wait(self) -> float:
        if self.terms.timeout is not None or self.state is State.REQUESTED:
            return self.timer.interval
        return max(_RECEIVER_FACTOR * self.timer.interval, _RECEIVER_FLOOR)

    def _measure(self, now: float) -> None:
        if self._timing and not self._silences:
            self.timer.sample(now - self._sent_at)

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

    def _with_rollover_one(self) -> Terms:
        terms = self.terms
        return Terms(blksize=terms.blksize, timeout=terms.timeout, tsize=terms.tsize, rollover=1)

    def _close(self) -> None:
        self.state = State.CLOSED
        self.deadline = None


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
