"""The engine's ends of the channels to its other processes: to each child, and to the nursery.

They are handlers for the engine's reactor. What they hear they pass on to the crew, which decides.
"""

import contextlib
import logging
import socket
from collections import deque
from typing import Protocol

from tftp.events import Address
from tftp.server.channel import Channel, Message
from tftp.server.launch import Launched
from tftp.server.ledger import Job
from tftp.server.listener import Arrival
from tftp.server.logs import log_record

__all__ = ["ChildEnd", "Ears", "NurseryEnd", "Task"]

logger = logging.getLogger("tftp")


class Ears(Protocol):
    """Who is told what comes in by the channels."""

    def hear(self, child: "ChildEnd", message: Message, now: float) -> None:
        """A child has something to tell."""

    def kill(self, child: "ChildEnd") -> None:
        """A child that has something to do is stuck, or can not be understood."""

    def release(self, child: "ChildEnd") -> None:
        """A child has had nothing to do for long."""

    def born(self, pid: int, channel: Channel) -> None:
        """The nursery has a new child."""

    def gone(self, pid: int, status: int) -> None:
        """The nursery has buried a child; `status` is as from `waitpid`."""

    def nursery_ready(self) -> None:
        """The nursery can fork children."""

    def nursery_died(self, status: int) -> None:
        """The nursery is gone, and all children with it; `status` is its exit code."""


class Task(Job):
    """A request, from its arrival to the last event about it."""

    __slots__ = ("arrival", "child", "local", "retried", "since", "told")

    def __init__(self, arrival: Arrival) -> None:
        super().__init__(arrival.number, arrival.request)
        self.arrival = arrival
        #: When its client first asked, on the clock of `time.monotonic`.
        self.since = arrival.came
        self.child: ChildEnd | None = None
        self.retried = False
        #: Whether anybody has been told of it.
        self.told = False
        #: The transfer's own address, to say a last word from.
        self.local: Address | None = None

    def replace(self, arrival: Arrival) -> None:
        """The client has asked for something else before this could begin."""
        self.arrival = arrival
        self.number = arrival.number
        self.request = arrival.request


class ChildEnd:
    """The engine's end of a channel to a child; a `Handler` for its reactor."""

    __slots__ = (
        "_channel",
        "_crew",
        "armed",
        "deadline",
        "finished",
        "hurried",
        "jobs",
        "leaving",
        "pid",
        "served",
        "stays_for",
    )

    def __init__(self, crew: Ears, pid: int, channel: Channel) -> None:
        self.pid = pid
        self.armed = 0.0
        self.deadline: float | None = None
        self.finished = False
        #: What it has to do, by number: one transfer, and for a moment also what replaces it.
        self.jobs: dict[int, Task] = {}
        self.served = 0
        self.leaving = False
        self.hurried = False  # it has been told to leave at once
        #: The client that it still repeats its last ACK for, until it has something to do.
        self.stays_for: Address | None = None
        self._crew = crew
        self._channel = channel

    @property
    def blocked(self) -> bool:
        """Whether something waits to be sent."""
        return self._channel.blocked

    def fileno(self) -> int:
        """The channel's descriptor."""
        return self._channel.fileno()

    def order(self, *message: object) -> None:
        """Tell the child something. If it is dead, the nursery will say so."""
        with contextlib.suppress(OSError):
            self._channel.send(*message)

    def readable(self, now: float) -> None:
        """The child has something to tell."""
        try:
            messages = self._channel.receive()
        except EOFError:
            self.finished = True  # Why, the nursery knows.
            self.deadline = None
            return
        for message in messages:
            self._crew.hear(self, message, now)

    def writable(self, now: float) -> None:
        """There is room for what waits."""
        with contextlib.suppress(OSError):
            self._channel.flush()

    def expire(self, now: float) -> None:
        """It is stuck, or not needed any more."""
        self.deadline = None
        if self.jobs:
            self._crew.kill(self)
        else:
            self._crew.release(self)

    def failed(self, error: Exception) -> None:
        """What it said makes no sense: it is not to be trusted with anything."""
        logger.error("child %d is not understood", self.pid, exc_info=error)
        self._crew.kill(self)

    def close(self) -> None:
        """The channel is not needed any more; the child leaves when it sees that."""
        self._channel.close()


class NurseryEnd:
    """The engine's end of the channel to the nursery; a `Handler` for its reactor."""

    deadline = None

    def __init__(self, crew: Ears, launched: Launched) -> None:
        self.process = launched.process
        self.ready = False
        self.armed = 0.0
        self.finished = False
        self._crew = crew
        self._channel = launched.channel
        self._newborn: deque[Channel] = deque()

    @property
    def blocked(self) -> bool:
        """Whether something waits to be sent."""
        return self._channel.blocked

    def fileno(self) -> int:
        """The channel's descriptor."""
        return self._channel.fileno()

    def order(self, *message: object) -> None:
        """Tell the nursery something. If it is dead, `readable` will find out."""
        with contextlib.suppress(OSError):
            self._channel.send(*message)

    def readable(self, now: float) -> None:
        """The nursery tells of births and deaths."""
        try:
            messages, descriptors = self._channel.receive_descriptors()
        except EOFError:
            self.finished = True
            self._crew.nursery_died(self.process.wait())
            return
        self._newborn.extend(_channel_of(descriptor) for descriptor in descriptors)
        for message in messages:
            match message:
                case ("ready",):
                    self.ready = True
                    self._crew.nursery_ready()
                case "born", pid:
                    self._crew.born(pid, self._newborn.popleft())
                case "log", level, process, text, trace:
                    log_record(level, process, text, trace)
                case "gone", pid, status:
                    self._crew.gone(pid, status)

    def writable(self, now: float) -> None:
        """There is room for what waits."""
        with contextlib.suppress(OSError):
            self._channel.flush()

    def expire(self, now: float) -> None:
        """Never waited for."""

    def failed(self, error: Exception) -> None:
        """A fault of the program in dealing with the nursery."""
        logger.error("the nursery is not understood", exc_info=error)

    def close(self) -> None:
        """The engine is over: the nursery ends its children and itself when it sees that."""
        self._channel.close()


def _channel_of(descriptor: int) -> Channel:
    return Channel(socket.socket(fileno=descriptor), blocking=False)
