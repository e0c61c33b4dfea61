"""The end that gets the file: what comes in order, what is missing, and what to acknowledge.

A half of the state machine (`tftp.transfer` has the theory of operation). Where the blocks are
stored is the driver's affair; an ACK leaves once the driver says that they are.
"""

from collections.abc import Mapping
from dataclasses import replace
from math import inf
from typing import ClassVar

from tftp.blocks import absolute, octets_on_wire, on_wire
from tftp.errors import ProtocolError
from tftp.events import Outcome
from tftp.machine import Legal, State, Transfer
from tftp.options import Terms
from tftp.packets import HEADER, Ack, Opcode, OptionAck, ReadRequest
from tftp.timers import Patience, RetransmitTimer

__all__ = ["Receiver"]

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

_DATA = bytes([Opcode.DATA])


class Receiver(Transfer):
    """The end that gets the file: a client that reads, or a server that is written to.

    Attributes:
        complete: the last block has come; the file is to be committed before `stored` is called.
    """

    LEGAL: ClassVar[Legal] = {
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
    def awaited(self) -> tuple[int, int, int]:
        """How many blocks are to come before an ACK is due, what number the first has on the wire,
        and how many octets a full packet.
        """
        terms, received = self.terms, self._received
        blocks = self._window_start + terms.windowsize - received
        return blocks, on_wire(received + 1, terms.rollover or 0), HEADER.size + terms.blksize

    def expected(self) -> int | None:
        """The full block that is to be stored and acknowledged by itself; None where it is not as
        plain as that.

        It is plain in lock-step, as long as nothing gets lost. The driver may then store and
        acknowledge block after block, and report them by `advanced`, instead of going through
        `receive`, `payloads` and `stored`.
        """
        plain = (
            self.state is State.FLOWING
            and self.terms.windowsize == 1
            and self._sent_once
            and not (self._due or self._silences or self.complete)
        )
        return self._received + 1 if plain else None

    def advanced(self, steps: int, now: float) -> None:
        """So many blocks came as expected, and each was acknowledged, at `now` the last."""
        octets = steps * self.terms.blksize
        counters = self.counters
        counters.datagrams_received += steps
        counters.octets_received += octets + steps * HEADER.size
        counters.datagrams_sent += steps
        counters.octets_sent += steps * HEADER.size
        counters.payload += octets
        counters.blocks += steps
        self.timer.sample((now - self._sent_at) / steps)
        self._received += steps
        self._window_start = self._received
        self._heard_at = self._progress_at = self._sent_at = now
        self._wait(now)

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
        block = absolute(number, self._received + 1, self.terms.rollover or 0)
        if self.state < State.FLOWING:
            # What is not DATA 1 may belong to something older, and is not kept.
            if self.state is State.ANSWERED and block <= self.terms.windowsize:
                self._lacks_block_1(block, payload, now)
        elif block <= self._received or block in self._early:
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
        certain = self._ends(block, payload) or len(self._early) >= self._proof
        if not self._reported and certain:
            self._reported = True
            self.counters.gaps += 1
            self._acknowledge_again()

    def _lacks_block_1(self, block: int, payload: memoryview, now: float) -> None:
        """The first window has come without its first block: the OACK, come again, says so.

        An ACK 0 would, too. But who is still waiting for the OACK, while these are blocks of an
        older upload from its port, would take that for an answer without options.
        """
        certain = self._ends(block, payload) or block > self._proof
        if certain and self._sent_once:
            self.counters.gaps += 1
            self._repeat(now)

    def _ends(self, block: int, payload: memoryview) -> bool:
        """Whether nothing is sent behind this block before the next ACK."""
        whole = block - self._window_start == self.terms.windowsize
        return whole or len(payload) < self.terms.blksize

    @property
    def _proof(self) -> int:
        """How many blocks behind it make a hole certain."""
        return max(_LEAST_PROOF, self.terms.windowsize // _WINDOW_PER_PROOF)

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
