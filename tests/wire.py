"""A link without wires or waiting: two ends, a virtual clock, and all that befalls a datagram.

Nothing here opens a socket or sleeps: time jumps to the next thing that happens. An `End` is
whatever sends and receives datagrams: a `Station` (one of our state machines with its file, as
`session` is in a real transfer) or a scripted peer (`tests.firmware`). A `Path` is one direction
between them; its `Fate` decides what becomes of each datagram, by its index or by a seeded die.
"""

import heapq
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import count
from math import inf
from random import Random
from typing import NamedTuple, Protocol

from tftp.blocks import on_wire
from tftp.events import Outcome
from tftp.options import Limits, Terms, answer, offer
from tftp.packets import Data, Opcode, ReadRequest, WriteRequest, decode, header
from tftp.timers import Patience
from tftp.transfer import Receiver, Sender

#: What becomes of datagram number `index` (from 0): for each copy that arrives, the seconds that it
#: is late. Nothing in it: it is lost.
Fate = Callable[[int], Sequence[float]]


def untouched(index: int) -> Sequence[float]:
    """It arrives, in its turn."""
    return (0.0,)


def dropped(*indices: int) -> Fate:
    """These are lost."""
    return lambda index: () if index in indices else (0.0,)


def doubled(*indices: int, after: float = 0.0) -> Fate:
    """These arrive twice, the second copy `after` seconds behind the first."""
    return lambda index: (0.0, after) if index in indices else (0.0,)


def delayed(*indices: int, by: float) -> Fate:
    """These are late."""
    return lambda index: (by,) if index in indices else (0.0,)


def noise(
    seed: int, *, loss: float = 0.0, twice: float = 0.0, overtaken: float = 0.0, by: float = 0.0
) -> Fate:
    """Each may be lost, arrive twice, or be up to `by` seconds late, with these chances."""
    random = Random(seed)

    def fate(index: int) -> Sequence[float]:
        if random.random() < loss:
            return ()
        lag = random.random() * by if random.random() < overtaken else 0.0
        return (lag, lag) if random.random() < twice else (lag,)

    return fate


@dataclass(frozen=True, slots=True, kw_only=True)
class Path:
    """One direction.

    Attributes:
        delay: seconds on the way.
        spacing: seconds from one datagram to the next; 0.01 ms is a gigabit at 1428 octets.
        fate: what becomes of each.
        queue: how many datagrams the far end's socket holds; more are lost.
        service: seconds that the far end takes to look at each.
    """

    delay: float = 0.0001
    spacing: float = 0.00001
    fate: Fate = untouched
    queue: float = inf
    service: float = 0.0


class End(Protocol):
    """Whatever sends and receives."""

    @property
    def deadline(self) -> float | None:
        """When `expire` is to be called."""

    def start(self, now: float) -> Sequence[bytes]:
        """What it sends unasked."""

    def receive(self, datagram: bytes, now: float) -> Sequence[bytes]:
        """What it sends in return."""

    def expire(self, now: float) -> Sequence[bytes]:
        """What it sends once its deadline has passed."""


class Seen(NamedTuple):
    """A datagram as it was put on the wire, before anything befell it."""

    time: float
    opcode: int
    number: int
    size: int


@dataclass(slots=True)
class _Direction:
    path: Path
    sent: list[Seen] = field(default_factory=list)
    free_at: float = 0.0
    # When the far end will have looked at each of the datagrams that its socket holds.
    looked_at: deque[float] = field(default_factory=deque)


class Wire:
    """Two ends and what lies between; `run` lets time pass until nothing more happens.

    Attributes:
        now: the time, in seconds from the start.
    """

    def __init__(
        self, first: End, second: End, *, there: Path | None = None, back: Path | None = None
    ) -> None:
        self.now = 0.0
        self._ends = (first, second)
        self._directions = (_Direction(there or Path()), _Direction(back or Path()))
        # When, in which order, to which end, what, and whether its socket has to take it in first.
        self._events: list[tuple[float, int, int, bytes, bool]] = []
        self._order = count()
        self._started = False

    def sent(self, by: End, opcode: Opcode | None = None) -> list[Seen]:
        """What one end has sent, of one kind or of all."""
        sent = self._directions[self._ends.index(by)].sent
        return sent if opcode is None else [seen for seen in sent if seen.opcode == opcode]

    def inject(self, to: End, datagram: bytes, at: float) -> None:
        """Let something arrive that the other end has not sent."""
        self._schedule(at, self._ends.index(to), datagram)

    def run(self, until: float = inf, *, most: int = 1_000_000) -> "Wire":
        """Let time pass until all is quiet, or until the clock shows `until`.

        Raises:
            AssertionError: more than `most` things happened: the ends will never be done.
        """
        if not self._started:
            self._started = True
            for side, end in enumerate(self._ends):
                self._put(side, end.start(self.now))
        for _ in range(most):
            if not self._step(until):
                return self
        raise AssertionError(f"no end in sight after {most} events, at {self.now:.1f} s")

    def _step(self, until: float) -> bool:
        arrival = self._events[0][0] if self._events else inf
        deadlines = [inf if end.deadline is None else end.deadline for end in self._ends]
        alarm = min(deadlines)
        following = min(arrival, alarm)
        if following == inf:
            return False
        self.now = max(self.now, min(following, until))
        if following > until:
            return False
        if alarm < arrival:
            side = deadlines.index(alarm)
            self._put(side, self._ends[side].expire(self.now))
        else:
            self._arrive()
        return True

    def _put(self, side: int, datagrams: Sequence[bytes]) -> None:
        direction = self._directions[side]
        path = direction.path
        for datagram in datagrams:
            opcode, number = header(datagram)
            index = len(direction.sent)
            direction.sent.append(Seen(self.now, opcode, number, len(datagram)))
            direction.free_at = max(self.now, direction.free_at) + path.spacing
            for late in path.fate(index):
                when = direction.free_at + path.delay + late
                self._schedule(when, 1 - side, datagram, queued=bool(path.service))

    def _schedule(self, when: float, side: int, datagram: bytes, *, queued: bool = False) -> None:
        heapq.heappush(self._events, (when, next(self._order), side, datagram, queued))

    def _arrive(self) -> None:
        _, _, side, datagram, queued = heapq.heappop(self._events)
        if queued:
            self._take_in(self._directions[1 - side], side, datagram)
        else:
            self._put(side, self._ends[side].receive(datagram, self.now))

    def _take_in(self, direction: _Direction, side: int, datagram: bytes) -> None:
        """An end's socket holds so many datagrams, and the end takes its time with each."""
        looked_at = direction.looked_at
        while looked_at and looked_at[0] <= self.now:
            looked_at.popleft()
        if len(looked_at) < direction.path.queue:
            looked_at.append((looked_at[-1] if looked_at else self.now) + direction.path.service)
            self._schedule(looked_at[-1], side, datagram)


class Nobody:
    """An end that never says a word."""

    deadline: float | None = None

    def start(self, now: float) -> Sequence[bytes]:
        return ()

    def receive(self, datagram: bytes, now: float) -> Sequence[bytes]:
        return ()

    def expire(self, now: float) -> Sequence[bytes]:
        return ()


class Station:
    """A state machine with its file. A server's has no machine until a request comes.

    Attributes:
        file: what is sent, or what has come so far.
        requests: how many requests a server has seen.
    """

    def __init__(self, machine: Sender | Receiver | None = None, file: bytes = b"") -> None:
        self.file = bytearray(file)
        self.requests = 0
        self._machine = machine

    @property
    def machine(self) -> Sender | Receiver:
        """The state machine."""
        assert self._machine is not None, "no request has come"
        return self._machine

    @property
    def deadline(self) -> float | None:
        return self._machine.deadline if self._machine else None

    @property
    def outcome(self) -> Outcome | None:
        """How it ended."""
        return self._machine.outcome if self._machine else None

    def start(self, now: float) -> list[bytes]:
        return self.advance(now)

    def receive(self, datagram: bytes, now: float) -> list[bytes]:
        self.machine.receive(datagram, now)
        return self.advance(now)

    def expire(self, now: float) -> list[bytes]:
        self.machine.expire(now)
        return self.advance(now)

    def advance(self, now: float) -> list[bytes]:
        """Do what the machine hands out, and give what is to be sent."""
        match self._machine:
            case None:
                return []
            case Sender() as sender:
                blocks = list(self._send(sender, now))
                return blocks + sender.replies()
            case receiver:
                for payload in receiver.payloads():
                    self.file += payload
                receiver.stored(now)
                return receiver.replies()

    def _send(self, sender: Sender, now: float) -> Iterator[bytes]:
        blksize, rollover = sender.terms.blksize, sender.terms.rollover or 0
        while blocks := sender.window():
            sent, last = 0, None
            for block in blocks:
                payload = bytes(self.file[(block - 1) * blksize : block * blksize])
                yield Data(on_wire(block, rollover), payload).encode()
                sent += 1
                if len(payload) < blksize:
                    last = len(payload)
                    break
            sender.sent(sent, now, last)


class Server(Station):
    """The answering end: a request brings it to life."""

    def __init__(
        self, file: bytes = b"", *, limits: Limits | None = None, patience: Patience | None = None
    ) -> None:
        super().__init__(None, file)
        self._limits = limits or Limits()
        self._patience = patience or Patience()

    def receive(self, datagram: bytes, now: float) -> list[bytes]:
        if datagram[:2] in (b"\0\1", b"\0\2"):
            self.requests += 1
            if self._machine is None:
                self._machine = self._answer(datagram, now)
            else:
                self._machine.request_repeated(now)
            return self.advance(now)
        return super().receive(datagram, now) if self._machine else []

    def _answer(self, datagram: bytes, now: float) -> Sender | Receiver:
        match decode(datagram):
            case ReadRequest(options=asked):
                terms, granted = answer(asked, self._limits, size=len(self.file))
                return Sender.answer(terms, granted, now, self._patience)
            case WriteRequest(options=asked):
                size = int(asked["tsize"]) if "tsize" in asked else None
                terms, granted = answer(asked, self._limits, size=size)
                return Receiver.answer(terms, granted, now, self._patience)
            case packet:
                raise AssertionError(f"{packet} is no request")


def reading(wanted: Terms, patience: Patience | None = None) -> Station:
    """A client that asks for a file."""
    request = ReadRequest(b"file", options=offer(wanted))
    return Station(Receiver.request(request, 0.0, patience or Patience()))


def writing(wanted: Terms, file: bytes, patience: Patience | None = None) -> Station:
    """A client that sends a file."""
    request = WriteRequest(b"file", options=offer(wanted))
    return Station(Sender.request(request, 0.0, patience or Patience()), file)
