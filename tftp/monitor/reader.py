"""One reader of the channel: its socket, what waits to be sent to it, and what it says.

A handler for a reactor. Lines go in at one end and leave at the speed of the reader; where it is
slower than the server, events are dropped, progress first, and it is told how many. It passes each
line that comes in on to the channel, which alone knows what the line means.
"""

import json
import logging
import socket
import time
from collections import deque
from collections.abc import Callable
from enum import IntEnum
from typing import Any

from tftp.monitor.orders import LONGEST, RATE
from tftp.net.reactor import Reactor

__all__ = ["Access", "Priority", "Reader", "encode"]

logger = logging.getLogger("tftp")

# Octets of events that wait for a reader, and answers that it has not read yet.
_MOST_WAITING = 1 << 18
_MOST_ANSWERS = 64
# Transfers whose last progress is remembered, for readers that want it seldom.
_MOST_TRANSFERS = 50_000
# What one call sends at the most, and receives.
_SEND, _RECEIVE = 1 << 16, 1 << 12
# Seconds in which a reader that can look at nothing without a token has to show it; without having
# taken anything; and to take its last lines after the goodbye. One that leaves is given time for
# the answers that it still waits for.
_SHOW_TOKEN, _STUCK, _LAST_LINES, _LAST_ANSWERS = 10.0, 300.0, 5.0, 30.0
# Lines in a row that make no sense.
_MOST_NONSENSE = 32


class Access(IntEnum):
    """What a reader may do."""

    NONE = 0
    LOOK = 1
    ACT = 2


class Priority(IntEnum):
    """What is dropped first."""

    PROGRESS = 0
    EVENT = 1
    ANSWER = 2


class Reader:
    """The server's end of a connection.

    Attributes:
        access: what it may do.
        kinds: the events that it wants.
        rate: the most progress events in a second for each transfer.
        totals_every, next_totals: seconds between two totals, and when the next are due.
        after: the event that its first snapshot ended with; None before it has one.
        wants: the orders that wait for a look at the board: command and id.
        held: answers to them, each to go when the event of this number has gone.
    """

    def __init__(
        self,
        sock: socket.socket,
        access: Access,
        *,
        reactor: Reactor,
        hear: Callable[["Reader", bytes], None],
        now: float,
    ) -> None:
        sock.setblocking(False)
        self.access = access
        self.kinds: frozenset[str] = frozenset()
        self.rate = RATE
        self.after: int | None = None
        self.totals_every = 1.0
        self.next_totals = 0.0
        self.wants: deque[tuple[str, int | str | None]] = deque()
        self.held: deque[tuple[int, bytes]] = deque()
        self.armed = 0.0
        self.blocked = False
        self.finished = False
        self._socket = sock
        self._reactor = reactor
        self._hear = hear
        self._deaf = False
        self._parting = False
        self._farewell: str | None = None  # to be said when all has been answered
        self._until: float | None = now + _SHOW_TOKEN if access is Access.NONE else None
        self._stuck_at: float | None = None
        self._queue: deque[tuple[Priority, bytes]] = deque()
        self._waiting = 0  # octets of events in the queue
        self._answers = 0  # answers in it
        self._progress = 0  # progress events in it
        self._outgoing = memoryview(b"")
        self._lost = [0, 0]  # progress events, and others
        self._incoming = bytearray()
        self._skipping = False
        self._nonsense = 0
        self._last_progress: dict[int, float] = {}

    # -- what the channel calls -------------------------------------------------------------------

    def let_in(self, access: Access) -> None:
        """It has shown what it needs."""
        self.access = access
        self._until = None

    def put(self, line: bytes, priority: Priority) -> None:
        """Queue a line, or drop it where too much waits already; `flush` sends."""
        if self.finished or self._parting:
            return
        if priority is Priority.ANSWER:
            self._answers += 1
            self._queue.append((priority, line))
            if self._answers > _MOST_ANSWERS:
                self.flush(time.monotonic())
            if self._answers > _MOST_ANSWERS:
                self.part("read the answers before you send more orders")
            return
        if self._waiting + len(line) > _MOST_WAITING and priority is Priority.EVENT:
            self._drop_progress()
        if self._waiting + len(line) > _MOST_WAITING:
            self._lost[priority] += 1
            return
        if self._lost[0] or self._lost[1]:
            self._tell_lost()
        self._append(line, priority)

    def let_go(self, sequence: int | None) -> None:
        """The event of this number comes next, or none for now: queue the answers that were held
        for those before it.
        """
        while self.held and (sequence is None or self.held[0][0] < sequence):
            self.put(self.held.popleft()[1], Priority.ANSWER)

    def missed(self, progress: int, others: int) -> None:
        """Events were lost before they came to a reader."""
        self._lost[Priority.PROGRESS] += progress
        self._lost[Priority.EVENT] += others

    def wants_progress(self, transfer: int, when: float) -> bool:
        """Whether a progress event is due, by its rate; if so the next is due later."""
        if self.rate >= RATE:
            return True
        # A little early is good enough, or a rate of 2 would turn out as one of 1.3.
        if when - self._last_progress.get(transfer, 0.0) < 0.9 / self.rate:
            return False
        if len(self._last_progress) >= _MOST_TRANSFERS:
            self._last_progress.clear()  # Their ends were lost, or there would not be so many.
        self._last_progress[transfer] = when
        return True

    def forget(self, transfer: int) -> None:
        """A transfer has ended."""
        self._last_progress.pop(transfer, None)

    def flush(self, now: float) -> None:
        """Send what there is room for."""
        if self._farewell is not None and not self.wants and not self.held:
            self.part(self._farewell)
        while not self.finished:
            if not self._outgoing and not self._load():
                self.blocked = False
                self.finished = self._parting
                return
            try:
                sent = self._socket.send(self._outgoing)
            except BlockingIOError:
                self.blocked = True
                if self._stuck_at is None:
                    self._stuck_at = now + _STUCK
                return
            except OSError:
                self.finished = True  # It is gone.
                return
            self._stuck_at = None
            self._outgoing = self._outgoing[sent:]

    def leave(self, message: str) -> None:
        """It wants no more: nothing is taken in, and when it has been answered, say goodbye."""
        if self._farewell is None and not self._parting:
            self._farewell = message
            self._until = time.monotonic() + _LAST_ANSWERS

    def part(self, message: str, *, final: bool = False, patience: float | None = None) -> None:
        """Say goodbye: no more is taken in or queued; what waits has so many seconds to leave."""
        if self._parting:
            return
        farewell = {"event": "bye", "time": time.time(), "message": message, "final": final}
        self._tell_lost()
        self._queue.append((Priority.ANSWER, encode(farewell)))
        self._parting = True
        self._until = time.monotonic() + (_LAST_LINES if patience is None else patience)

    def nonsense(self) -> None:
        """It has said something that makes no sense."""
        self._nonsense += 1
        if self._nonsense >= _MOST_NONSENSE:
            self.part("too much of this made no sense")

    def sense(self) -> None:
        """It has said something that does."""
        self._nonsense = 0

    # -- what the reactor calls -------------------------------------------------------------------

    @property
    def deadline(self) -> float | None:
        """When it has had time enough."""
        times = [when for when in (self._until, self._stuck_at) if when is not None]
        return min(times, default=None)

    def fileno(self) -> int:
        """The socket's descriptor; -1 once there is nothing more to hear."""
        return -1 if self._deaf else self._socket.fileno()

    def readable(self, now: float) -> None:
        """It has said something, or closed its side."""
        try:
            octets = self._socket.recv(_RECEIVE)
        except BlockingIOError:
            return
        except OSError:
            self.finished = True
            return
        if octets:
            self._take(octets)
        else:
            half = " in the midst of a line: it was passed over" if self._incoming else ""
            self.leave(f"you have closed your side{half}")
            # A closed side is readable for ever.
            self._reactor.call(self._stop_listening)
        self.flush(now)

    def writable(self, now: float) -> None:
        """There is room for what waits."""
        self.flush(now)

    def expire(self, now: float) -> None:
        """It has had time enough."""
        if self.access is Access.NONE and not self._parting:
            self.part("no token came")
            self.flush(now)
        else:
            self.finished = True

    def failed(self, error: Exception) -> None:
        """A fault of the program ends this connection, and no other."""
        logger.error("a reader of the monitor is lost", exc_info=error)
        self.finished = True

    def close(self) -> None:
        """Close the connection."""
        self._socket.close()

    # -- lines ------------------------------------------------------------------------------------

    def _load(self) -> bool:
        """Take lines off the queue, to be sent; False if there are none."""
        if not self._queue:
            self._tell_lost()  # There may be no more to come that it could be told with.
        lines, size = [], 0
        while self._queue and size < _SEND:
            priority, line = self._queue.popleft()
            if priority is Priority.ANSWER:
                self._answers -= 1
            else:
                self._waiting -= len(line)
                self._progress -= priority is Priority.PROGRESS
            lines.append(line)
            size += len(line)
        self._outgoing = memoryview(b"".join(lines))
        return bool(lines)

    def _append(self, line: bytes, priority: Priority) -> None:
        self._queue.append((priority, line))
        self._waiting += len(line)
        self._progress += priority is Priority.PROGRESS

    def _drop_progress(self) -> None:
        # Where a reader is stuck each event comes by here: the queue is gone through only where
        # there is something to be found.
        if not self._progress:
            return
        kept = [entry for entry in self._queue if entry[0] is not Priority.PROGRESS]
        self._lost[Priority.PROGRESS] += self._progress
        self._progress = 0
        self._queue = deque(kept)
        self._waiting = sum(len(line) for priority, line in kept if priority is not Priority.ANSWER)

    def _tell_lost(self) -> None:
        progress, others = self._lost
        if progress or others:
            self._lost = [0, 0]
            lost = {"event": "lost", "time": time.time(), "progress": progress, "others": others}
            self._append(encode(lost), Priority.EVENT)

    def _take(self, octets: bytes) -> None:
        *lines, rest = (bytes(self._incoming) + octets).split(b"\n")
        for line in lines:
            if self._parting or self._farewell is not None:
                return
            if self._skipping:
                self._skipping = False
            elif len(line) > LONGEST:
                self._too_long()
            elif line.strip():
                self._hear(self, line)
        if self._skipping or len(rest) > LONGEST:
            if not self._skipping:
                self._too_long()
            self._skipping = True
            rest = b""
        self._incoming = bytearray(rest)

    def _too_long(self) -> None:
        self.put(
            encode(
                {
                    "event": "error",
                    "command": None,
                    "id": None,
                    "message": f"a line of more than {LONGEST} octets: try help",
                }
            ),
            Priority.ANSWER,
        )
        self.nonsense()

    def _stop_listening(self) -> None:
        """Go on without a descriptor: the reactor tries again now and then while it is blocked."""
        if not self.finished:
            self._reactor.release(self)
            self._deaf = True
            self._reactor.add(self)


def encode(message: dict[str, Any]) -> bytes:
    """A line of the channel."""
    return (_as_text(message) + "\n").encode("ascii")


# A message is made here, out of values: it is no part of itself, which would cost a look each time.
_as_text = json.JSONEncoder(check_circular=False).encode
