"""The end that has the file: which blocks to send, when to send some again, when to pause.

A half of the state machine (`tftp.transfer` has the theory of operation). It hands out block
numbers only: what is in a block, and where that comes from, is the driver's affair.
"""

from collections.abc import Mapping
from math import inf
from typing import ClassVar

from tftp.blocks import absolute
from tftp.events import Outcome
from tftp.machine import LEAST_REPEATS, Legal, State, Transfer
from tftp.options import Terms
from tftp.packets import HEADER, Opcode, OptionAck, WriteRequest
from tftp.timers import Patience

__all__ = ["Sender"]

# Seconds to wait for a client's very last ACK: clients seldom stay to repeat it.
_UNCONFIRMED_TOTAL = 5.0
# A pause inside a window takes a round trip, but no less and no more than this (seconds).
_SHORTEST_PAUSE, _LONGEST_PAUSE = 0.001, 0.02


class Sender(Transfer):
    """The end that has the file: a server that is read from, or a client that writes."""

    LEGAL: ClassVar[Legal] = {
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

    def advanced(self, steps: int, now: float) -> None:
        """So many ACKs came as awaited; a whole new window went each time, at `now` the last."""
        windowsize = self.terms.windowsize
        blocks = steps * windowsize
        octets = blocks * self.terms.blksize
        counters = self.counters
        counters.datagrams_received += steps
        counters.octets_received += steps * HEADER.size
        counters.datagrams_sent += blocks
        counters.octets_sent += octets + blocks * HEADER.size
        counters.payload += octets
        counters.blocks += blocks
        self.timer.sample((now - self._sent_at) / steps)
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
        if self._silences >= LEAST_REPEATS and self._all_sent and self._heard_at is not None:
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
