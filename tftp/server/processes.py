"""The process engine: each transfer has a process to itself while it runs.

A transfer that crashes, hangs or is killed takes nobody with it. Children are forked by a nursery
(see there), stay warm, and are replaced after a number of transfers. This module is the engine's
side, in the server's own process: one thread whose reactor holds the listeners, the nursery and the
channels to the children. It touches no transfer's socket, but for a last word in a dead child's
stead.
"""

import contextlib
import logging
import os
import signal
import socket
import threading
import time
from collections import deque
from collections.abc import Sequence
from functools import partial

from tftp.errors import Aborted, ErrorCode, Refused
from tftp.events import Address, Operation, RequestRefused, TransferEnded, format_address
from tftp.net.endpoint import Endpoint, open_port
from tftp.net.reactor import Reactor
from tftp.packets import Error
from tftp.server.channel import Channel, Message
from tftp.server.config import ServerConfig
from tftp.server.launch import Launched, launch
from tftp.server.ledger import Job, obituary
from tftp.server.listener import DRAINING, Arrival, Busy, Listener, client_key
from tftp.server.logs import LevelWatch, log_record
from tftp.server.opening import Opening
from tftp.server.relay import pack_request, unpack_event

__all__ = ["ProcessEngine"]

logger = logging.getLogger("tftp")

# A child that has a transfer and says nothing for so long (seconds) is stuck. It may be stuck for a
# good reason: a large upload takes its time to be safe on a slow disk.
_HANG_AFTER = 60.0
# Children that have been idle for so long (seconds) and are more than `warm` are let go.
_IDLE_AFTER = 30.0
# Seconds between the aborts at the end and the end of patience with the children.
_LAST_WORDS = 0.5


class ProcessEngine:
    """Serves each transfer in a process of its own.

    The storage and the rules are pickled into other processes: what they keep in memory (a `Memory`
    storage that is written to) does not come back.
    """

    name = "processes"

    def __init__(
        self,
        *,
        children: int = 256,
        warm: int | None = None,
        recycle: int = 1000,
        hang_after: float = _HANG_AFTER,
    ) -> None:
        """Remember the numbers; `start` starts the processes.

        Args:
            children: at most so many, and so many transfers at once; further requests wait.
            warm: so many stay when there is nothing to do; by default two for each core.
            recycle: a child is replaced after so many transfers; 1 is a fresh process for each.
            hang_after: seconds of silence after which a child that has a transfer is killed.

        Raises:
            ValueError: a number below 1.
        """
        if children < 1 or recycle < 1 or (warm is not None and warm < 1):
            raise ValueError("children, warm and recycle are at least 1")
        self._most = children
        self._warm = min(warm or 2 * (os.cpu_count() or 1), children)
        self._recycle = recycle
        self._hang_after = hang_after
        self._crew: _Crew | None = None
        self._paused = False

    def start(
        self, opening: Opening, config: ServerConfig, listeners: Sequence[Listener]
    ) -> Sequence[Listener]:
        """Start the nursery, the first children and the thread; the listeners are served in it."""
        self._crew = _Crew(
            opening,
            config,
            listeners,
            most=self._most,
            warm=self._warm,
            recycle=self._recycle,
            hang_after=self._hang_after,
        )
        self._crew.paused = self._paused
        self._crew.start()
        return ()

    def submit(self, arrival: Arrival) -> None:
        """Give a request to a child, or have it wait. Raises `Busy` when too many wait already."""
        if self._crew is None:
            raise Busy
        self._crew.submit(arrival)

    def deliver(self, octets: memoryview, peer: Address) -> bool:
        """Pass a datagram on to the child that serves `peer`, if there is one."""
        return self._crew is not None and self._crew.deliver(octets, peer)

    def stop(self, grace: float | None) -> None:
        """Let transfers end for `grace` seconds, abort the others, and end all processes."""
        if self._crew is not None:
            self._crew.stop(grace)

    def cancel(self, number: int, reason: str) -> bool:
        """Abort the transfer of this number; False if none such runs, or waits for a child."""
        return self._crew is not None and self._crew.cancel(number, reason)

    def pause(self, paused: bool) -> None:
        """Refuse new requests, or take them again."""
        self._paused = paused
        if self._crew is not None:
            self._crew.paused = paused

    def adjust(self, config: ServerConfig) -> None:
        """Run as many transfers as `config` says, and grant no more than it does."""
        if self._crew is not None:
            self._crew.adjust(config)

    @property
    def running(self) -> int:
        """How many transfers run, or wait for a child."""
        return 0 if self._crew is None else self._crew.running


class _Task(Job):
    """A request, from its arrival to the last event about it."""

    __slots__ = ("arrival", "child", "local", "retried")

    def __init__(self, arrival: Arrival) -> None:
        super().__init__(arrival.number, arrival.request)
        self.arrival = arrival
        self.child: _Child | None = None
        self.retried = False
        #: The transfer's own address, to say a last word from.
        self.local: Address | None = None

    def replace(self, arrival: Arrival) -> None:
        """The client has asked again, or for something else, before this could begin."""
        self.arrival = arrival
        self.number = arrival.number
        self.request = arrival.request


class _Child:
    """The engine's end of a channel to a child; a `Handler` for its reactor."""

    __slots__ = (
        "_channel",
        "_crew",
        "armed",
        "deadline",
        "finished",
        "jobs",
        "leaving",
        "pid",
        "served",
        "stays_for",
    )

    def __init__(self, crew: "_Crew", pid: int, channel: Channel) -> None:
        self.pid = pid
        self.armed = 0.0
        self.deadline: float | None = None
        self.finished = False
        #: What it has to do, by number: one transfer, and for a moment also what replaces it.
        self.jobs: dict[int, _Task] = {}
        self.served = 0
        self.leaving = False
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
            messages, _ = self._channel.receive()
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


class _Crew:
    """The thread of the engine: who is there, who does what, and who waits."""

    def __init__(
        self,
        opening: Opening,
        config: ServerConfig,
        listeners: Sequence[Listener],
        *,
        most: int,
        warm: int,
        recycle: int,
        hang_after: float,
    ) -> None:
        self._opening = opening
        self._config = config
        self._listeners = listeners
        self._children_allowed = most
        self._most = min(most, config.max_transfers)
        self._limits: tuple[int, int] | None = None  # what children are to be told
        self._warm = warm
        self._recycle = recycle
        self._hang_after = hang_after
        self._reactor = Reactor()
        self._watch = LevelWatch(self._level_changed)
        self._nursery = _Nursery(self, self._launch())
        self._children: dict[int, _Child] = {}
        self._coming = 0  # children that the nursery has been asked for
        self._idle: deque[_Child] = deque()
        self._jobs: dict[Address, _Task] = {}  # by client: those that run, and those that wait
        self._waiting: deque[_Task] = deque()
        self._staying: dict[Address, _Child] = {}  # by client whose upload it has taken
        self.paused = False
        self._draining = False
        self._over = False
        self._thread = threading.Thread(target=self._run, name="tftp-processes", daemon=True)

    # -- from other threads -----------------------------------------------------------------------

    def start(self) -> None:
        self._thread.start()

    def stop(self, grace: float | None) -> None:
        self._reactor.call(self._drain)
        self._thread.join(grace)
        self._reactor.call(self._abort)
        self._thread.join(_LAST_WORDS)
        self._reactor.call(self._finish)
        self._thread.join()

    def cancel(self, number: int, reason: str) -> bool:
        for job in list(self._jobs.values()):
            if job.number == number:
                self._reactor.call(partial(self._cancel, job, reason))
                return True
        return False

    def adjust(self, config: ServerConfig) -> None:
        self._reactor.call(lambda: self._adjust(config))

    @property
    def running(self) -> int:
        return len(self._jobs)

    # -- the gate, in the thread ------------------------------------------------------------------

    def submit(self, arrival: Arrival) -> None:
        peer = client_key(arrival.request.peer)
        known = self._jobs.get(peer)
        if known is not None and known.child is not None:
            # The client's own, come again, or something new: the child can tell.
            self._assign(_Task(arrival), known.child)
            return
        if known is not None:
            known.replace(arrival)  # It waits; the newest is what the client wants.
            return
        if self._draining:
            raise Busy("server is shutting down")
        if self.paused:
            raise Busy(DRAINING)
        if len(self._waiting) >= self._config.queue_size:
            raise Busy
        job = self._jobs[peer] = _Task(arrival)
        self._waiting.append(job)
        self._employ()

    def deliver(self, octets: memoryview, peer: Address) -> bool:
        key = client_key(peer)
        job = self._jobs.get(key)
        child = self._staying.get(key) if job is None else job.child
        if child is None:
            return False
        child.order("deliver", bytes(octets))
        return True

    # -- children ---------------------------------------------------------------------------------

    def _employ(self) -> None:
        """Give what waits to who is idle, and send for more children where they are too few."""
        while self._waiting and self._idle and self._busy < self._most:
            job, child = self._waiting.popleft(), self._idle.pop()
            self._assign(job, child)
        wanted = len(self._waiting) + self._warm if self._waiting else self._warm - len(self._idle)
        room = self._most - len(self._children)
        for _ in range(min(wanted, room) - self._coming):
            self._coming += 1
            self._nursery.order("fork")

    @property
    def _busy(self) -> int:
        """How many transfers have a child."""
        return len(self._jobs) - len(self._waiting)

    def _assign(self, job: _Task, child: _Child) -> None:
        arrival = job.arrival
        self._stays_no_longer(child)
        job.child = child
        child.jobs[arrival.number] = job
        child.served += 1
        child.deadline = time.monotonic() + self._hang_after
        door = self._door(arrival)
        packed = pack_request(arrival.request)
        child.order("open", arrival.number, door, arrival.came, packed)
        self._reactor.settle(child)

    def _door(self, arrival: Arrival) -> int:
        return next(
            index
            for index, listener in enumerate(self._listeners)
            if listener.socket is arrival.socket
        )

    def born(self, pid: int, channel: Channel) -> None:
        """The nursery has a new child."""
        self._coming -= 1
        child = self._children[pid] = _Child(self, pid, channel)
        child.deadline = time.monotonic() + _IDLE_AFTER
        self._reactor.add(child)
        if self._limits is not None:
            child.order("limits", *self._limits)
        self._idle.append(child)
        self._employ()

    def gone(self, pid: int, status: int) -> None:
        """The nursery has buried a child."""
        child = self._children.pop(pid, None)
        if child is None:
            return
        self._stays_no_longer(child)
        # What it said before it died counts.
        if not child.finished:
            child.readable(time.monotonic())
        child.finished = True
        self._reactor.settle(child)
        with contextlib.suppress(ValueError):
            self._idle.remove(child)
        why = obituary(pid, os.waitstatus_to_exitcode(status))
        for job in list(child.jobs.values()):
            if job.started is None and not job.retried:
                self._try_again(job, child)
            else:
                logger.error("%s in the middle of transfer %d", why, job.arrival.number)
                self._crashed(job, why)
        self._employ()

    def kill(self, child: _Child) -> None:
        """Have a child killed that is stuck."""
        logger.error("child %d is stuck, and is killed", child.pid)
        self._nursery.order("kill", child.pid)

    def release(self, child: _Child) -> None:
        """A child has been idle for long."""
        if child in self._idle and len(self._idle) > self._warm:
            self._idle.remove(child)
            self._dismiss(child)

    def _dismiss(self, child: _Child) -> None:
        """Close the channel: the child finishes what it stays for, and leaves."""
        self._stays_no_longer(child)
        child.leaving = True
        child.finished = True
        self._reactor.settle(child)

    # -- what children tell -----------------------------------------------------------------------

    def hear(self, child: _Child, message: Message, now: float) -> None:
        """A child has something to tell."""
        child.deadline = now + self._hang_after
        match message:
            case "event", packed, local:
                job = child.jobs.get(packed[2])
                if job is None:
                    return
                event = unpack_event(packed, job.arrival.request)
                job.note(event)
                job.local = local or job.local
                self._opening.report(event)
                if isinstance(event, TransferEnded | RequestRefused):
                    self._done(job, child, now)
            case "joined", number:
                # Nothing of its own has come of it.
                del child.jobs[number]
            case "log", level, process, text, trace:
                log_record(level, process, text, trace)
            case ("alive",):
                pass

    def _done(self, job: _Task, child: _Child, now: float) -> None:
        self._forget(job, child)
        if child.jobs:
            return
        child.deadline = now + _IDLE_AFTER
        if child.served >= self._recycle or child.leaving:
            self._dismiss(child)
            self._employ()
        elif job.started is not None and job.arrival.request.operation is Operation.WRITE:
            # It still repeats its last ACK: let it, for a while.
            self._idle.appendleft(child)
            child.stays_for = client_key(job.arrival.request.peer)
            self._staying[child.stays_for] = child
        else:
            self._idle.append(child)
        self._employ()
        self._end_if_drained()

    def _stays_no_longer(self, child: _Child) -> None:
        if child.stays_for is not None and self._staying.get(child.stays_for) is child:
            del self._staying[child.stays_for]
        child.stays_for = None

    def _forget(self, job: _Task, child: _Child) -> None:
        child.jobs.pop(job.arrival.number, None)
        peer = client_key(job.arrival.request.peer)
        # A newer request of the same client may have taken the place.
        successor = next(iter(child.jobs.values()), None)
        if successor is not None:
            self._jobs[peer] = successor
        else:
            self._jobs.pop(peer, None)

    def _try_again(self, job: _Task, child: _Child) -> None:
        """The child had died, perhaps, before it was given this."""
        del child.jobs[job.arrival.number]
        job.child = None
        job.retried = True
        self._waiting.appendleft(job)

    def _crashed(self, job: _Task, why: str) -> None:
        """Say in the dead child's stead what it can not say any more."""
        assert job.child is not None  # noqa: S101
        self._forget(job, job.child)
        request = job.arrival.request
        if job.local is None or self._config.single_port:
            job.arrival.refuse(Refused("server failed", ErrorCode.UNDEFINED))
        else:
            _say_last_word(job.local, request.peer)
        self._opening.report(job.crashed(why))
        self._end_if_drained()

    # -- beginning and end ------------------------------------------------------------------------

    def _launch(self) -> Launched:
        doors = [listener.socket for listener in self._listeners]
        descriptors = [door.fileno() for door in doors]
        parts = (self._opening.parts, descriptors, self._watch.level)
        return launch("tftp.server.nursery", parts, doors)

    def _run(self) -> None:
        try:
            self._reactor.add(self._nursery)
            self._reactor.add(self._watch)
            for listener in self._listeners:
                self._reactor.add(listener)
            self._employ()
            self._reactor.run(until=lambda: self._over)
        finally:
            self._reactor.close()
            self._nursery.process.wait()

    def nursery_died(self, status: int) -> None:
        """All children have died with it: start anew."""
        logger.error("the parent of all children ended with status %d; starting a new one", status)
        self._coming = 0
        for child in list(self._children.values()):
            self.gone(child.pid, signal.SIGKILL)
        if self._over:
            return
        self._nursery = _Nursery(self, self._launch())
        self._reactor.add(self._nursery)
        self._employ()

    def _drain(self) -> None:
        self._draining = True
        for job in self._waiting:
            self._jobs.pop(client_key(job.arrival.request.peer), None)
            self._opening.refuse(job.arrival, Busy("server is shutting down"))
        self._waiting.clear()
        self._end_if_drained()

    def _end_if_drained(self) -> None:
        if self._draining and not self._jobs:
            self._over = True

    def _cancel(self, job: _Task, reason: str) -> None:
        if job.child is not None:
            job.child.order("cancel", job.number, reason)
            self._reactor.settle(job.child)
        elif job in self._waiting:
            self._waiting.remove(job)
            self._jobs.pop(client_key(job.arrival.request.peer), None)
            self._opening.refuse(job.arrival, Aborted(reason))
            self._end_if_drained()

    def _adjust(self, config: ServerConfig) -> None:
        self._config = config
        self._most = min(self._children_allowed, config.max_transfers)
        self._limits = (config.limits.max_blksize, config.limits.max_windowsize)
        for child in self._children.values():
            child.order("limits", *self._limits)
            self._reactor.settle(child)
        self._employ()

    def _level_changed(self, level: int) -> None:
        self._nursery.order("level", level)  # It has an effect on those that are born later.
        for child in self._children.values():
            child.order("level", level)
            self._reactor.settle(child)

    def _abort(self) -> None:
        for child in self._children.values():
            if child.jobs:
                child.order("abort", "server stops")

    def _finish(self) -> None:
        """Who has not ended by now is stuck, and dies with the nursery."""
        for child in list(self._children.values()):
            for job in list(child.jobs.values()):
                self._crashed(job, f"child {child.pid} was stuck when the server stopped")
        self._over = True


class _Nursery:
    """The engine's end of the channel to the nursery; a `Handler` for its reactor."""

    deadline = None

    def __init__(self, crew: _Crew, launched: Launched) -> None:
        self.process = launched.process
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
            messages, descriptors = self._channel.receive()
        except EOFError:
            self.finished = True
            self._crew.nursery_died(self.process.wait())
            return
        self._newborn.extend(_channel_of(descriptor) for descriptor in descriptors)
        for message in messages:
            match message:
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


def _say_last_word(local: Address, peer: Address) -> None:
    """Tell the client from the dead transfer's own port: it listens to no other (RFC 1350)."""
    family = socket.AF_INET6 if ":" in local[0] else socket.AF_INET
    try:
        endpoint = Endpoint(open_port(family, local))
    except OSError as error:
        logger.debug("no last word to %s: %s", format_address(peer), error)
        return
    with contextlib.suppress(OSError):
        endpoint.send(Error(ErrorCode.UNDEFINED, "server failed").encode(), peer)
    endpoint.close()
