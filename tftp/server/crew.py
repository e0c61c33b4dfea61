"""The process engine's thread: which children there are, who does what, and who waits.

Its reactor holds the listeners, and the channels to the nursery and to the children. It touches no
transfer's socket, but for a last word in a dead child's stead.
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
from itertools import islice

from tftp.errors import Aborted, ErrorCode, Refused
from tftp.events import (
    Address,
    Operation,
    RequestReceived,
    RequestRefused,
    TransferEnded,
    format_address,
)
from tftp.net.endpoint import Endpoint, open_port
from tftp.net.later import Later
from tftp.net.reactor import Reactor
from tftp.packets import Error
from tftp.server.channel import Channel, Message
from tftp.server.config import ServerConfig
from tftp.server.ends import ChildEnd, NurseryEnd, Task
from tftp.server.growth import Growth
from tftp.server.launch import BOOT, Launched, launch, longer
from tftp.server.ledger import obituary
from tftp.server.listener import DRAINING, REPLACED, Arrival, Busy, Listener, client_key
from tftp.server.logs import LevelWatch, log_record
from tftp.server.opening import Opening
from tftp.server.relay import pack_request, unpack_event

__all__ = ["Crew"]

logger = logging.getLogger("tftp")

# Children that have been idle for so long (seconds) and are more than `warm` are let go.
_IDLE_AFTER = 30.0
# Seconds between two looks at those who wait.
_LOOK_EVERY = 0.02
# Seconds between two looks whether the thread is still there that new limits are for.
_ADJUSTED = 0.1
# Seconds between the aborts at the end and the end of patience with the children.
_LAST_WORDS = 0.5


class Crew:
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
        self._doors = {listener.socket: door for door, listener in enumerate(listeners)}
        self._children_allowed = most
        self._most = min(most, config.max_transfers)
        self._limits: tuple[int, int] | None = None  # what children are to be told
        self._warm = warm
        self._recycle = recycle
        self._hang_after = hang_after
        self._reactor = Reactor()
        self._watch = LevelWatch(self._level_changed)
        self._nursery = NurseryEnd(self, self._launch())
        self._children: dict[int, ChildEnd] = {}
        self._booted = threading.Event()  # the first nursery is ready, or has failed
        self._failure: str | None = None
        self._backoff = 0.0
        self._coming = 0  # children that the nursery has been asked for
        self._leaving: dict[int, ChildEnd] = {}  # they only stay to repeat a last ACK
        self._idle: deque[ChildEnd] = deque()
        self._jobs: dict[Address, Task] = {}  # by client: those that run, and those that wait
        self._waiting: deque[Task] = deque()  # who has waited for longest comes first
        self._growth = Growth(warm)
        self._next_look: Later | None = None
        self._served = 0  # of those that waited, since the last look
        self._staying: dict[Address, ChildEnd] = {}  # by client whose upload it has taken
        self.paused = False
        self._draining = False
        self._over = False
        self._thread = threading.Thread(target=self._run, name="tftp-processes", daemon=True)

    # -- from other threads -----------------------------------------------------------------------

    def start(self) -> None:
        """Begin. Raises `RuntimeError` when the other processes can not be started."""
        self._thread.start()
        if not self._booted.wait(BOOT):
            self._nursery.process.kill()  # It hangs; its end is a failure to start.
            self._booted.wait()
        if self._failure is not None:
            self._thread.join()
            raise RuntimeError(self._failure)

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
        if self._reactor.inside:
            self._adjust(config)
            return
        adjusted = threading.Event()

        def adjust() -> None:
            self._adjust(config)
            adjusted.set()

        self._reactor.call(adjust)
        # So that it holds for the next request; a thread that has stopped does not come to it.
        while self._thread.is_alive() and not adjusted.wait(_ADJUSTED):
            pass

    @property
    def running(self) -> int:
        return len(self._jobs)

    # -- the gate, in the thread ------------------------------------------------------------------

    def submit(self, arrival: Arrival) -> None:
        peer = client_key(arrival.request.peer)
        known = self._jobs.get(peer)
        if known is not None and known.child is not None:
            # The client's own, come again, or something new: the child can tell.
            self._assign(Task(arrival), known.child)
            return
        if known is not None:
            self._ask_again(known, arrival)
            return
        if self._draining:
            raise Busy("server is shutting down")
        if self.paused:
            raise Busy(DRAINING)
        if len(self._waiting) >= self._config.queue_size:
            raise Busy
        job = self._jobs[peer] = Task(arrival)
        job.told = True  # In a moment: who serves it has it first.
        self._waiting.append(job)
        self._employ()
        self._announce(job)

    def _ask_again(self, job: Task, arrival: Arrival) -> None:
        """Somebody who waits for a child has asked again; the newest is what the client wants."""
        if arrival.request == job.request:
            return
        # An ERROR would be taken for the answer to the new request.
        self._opening.report(
            RequestRefused(
                time=time.time(),
                transfer=job.number,
                request=job.request,
                error=Aborted(REPLACED),
            )
        )
        job.replace(arrival)
        self._announce(job)

    def _announce(self, job: Task) -> None:
        """Tell of a request, in place of the child that serves it, or will."""
        came = time.time() - (time.monotonic() - job.arrival.came)
        self._opening.report(RequestReceived(time=came, transfer=job.number, request=job.request))

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
        most = min(self._most, self._growth.places)
        while self._waiting and self._idle and self._busy < most:
            job, child = self._waiting.popleft(), self._idle.pop()
            self._assign(job, child)
            self._served += 1
        if self._waiting:
            wanted = self._growth.places - (len(self._children) - len(self._leaving))
        else:
            wanted = self._warm - len(self._idle)
        room = self._most - len(self._children)
        for _ in range(min(wanted, room) - self._coming):
            self._coming += 1
            self._nursery.order("fork")
        if self._waiting and wanted > room:
            self._hurry(wanted - room)
        if self._waiting and self._next_look is None:
            self._served = 0
            self._growth.begin(time.monotonic())
            self._look()

    def _hurry(self, count: int) -> None:
        """End so many children that only stay, the longest first: others wait for their places."""
        for child in islice(self._leaving.values(), count):
            if not child.hurried:
                child.hurried = True
                self._nursery.order("kill", child.pid)

    def _look(self) -> None:
        """See what is to be done about those who wait; now, and again as long as there are any."""
        self._next_look = None
        if not self._waiting:
            self._growth.end(self._busy)
            return
        now = time.monotonic()
        self._next_look = Later(now + _LOOK_EVERY, self._look)
        self._reactor.add(self._next_look)
        since = [task.since for task in self._waiting]
        busy = [child.pid for child in self._children.values() if child.jobs]
        served, self._served = self._served, 0
        self._growth.look(now, busy=busy, since=since, served=served)
        self._employ()

    @property
    def _busy(self) -> int:
        """How many transfers have a child."""
        return len(self._jobs) - len(self._waiting)

    def _assign(self, job: Task, child: ChildEnd) -> None:
        arrival = job.arrival
        self._stays_no_longer(child)
        job.child = child
        child.jobs[arrival.number] = job
        child.served += 1
        child.deadline = time.monotonic() + self._hang_after
        door = self._doors[arrival.socket]
        packed = pack_request(arrival.request)
        child.order("open", arrival.number, door, arrival.came, packed, job.told)
        self._reactor.settle(child)

    def born(self, pid: int, channel: Channel) -> None:
        """The nursery has a new child."""
        self._coming -= 1
        child = self._children[pid] = ChildEnd(self, pid, channel)
        child.deadline = time.monotonic() + _IDLE_AFTER
        self._reactor.add(child)
        if self._limits is not None:
            child.order("limits", *self._limits)
        self._idle.append(child)
        self._employ()

    def gone(self, pid: int, status: int) -> None:
        """The nursery has buried a child."""
        child = self._children.pop(pid, None)
        self._leaving.pop(pid, None)
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

    def kill(self, child: ChildEnd) -> None:
        """Have a child killed that is stuck."""
        logger.error("child %d is stuck, and is killed", child.pid)
        self._nursery.order("kill", child.pid)

    def release(self, child: ChildEnd) -> None:
        """A child has been idle for long."""
        if child in self._idle and len(self._idle) > self._warm:
            self._idle.remove(child)
            self._dismiss(child)

    def _dismiss(self, child: ChildEnd) -> None:
        """Close the channel: the child finishes what it stays for, and leaves."""
        self._stays_no_longer(child)
        child.leaving = True
        self._leaving[child.pid] = child
        child.finished = True
        self._reactor.settle(child)

    # -- what children tell -----------------------------------------------------------------------

    def hear(self, child: ChildEnd, message: Message, now: float) -> None:
        """A child has something to tell."""
        child.deadline = now + self._hang_after
        match message:
            case "events", told, local:
                for packed in told:
                    self._take_note(child, packed, local, now)
            case "joined", number:
                # Nothing of its own has come of it.
                del child.jobs[number]
            case "log", level, process, text, trace:
                log_record(level, process, text, trace)
            case ("alive",):
                pass

    def _take_note(
        self, child: ChildEnd, packed: Message, local: Address | None, now: float
    ) -> None:
        job = child.jobs.get(packed[2])
        if job is None:
            return
        event = unpack_event(packed, job.request)
        job.note(event)
        job.told = True
        job.local = local or job.local
        self._opening.report(event)
        if isinstance(event, TransferEnded | RequestRefused):
            self._done(job, child, now)

    def _done(self, job: Task, child: ChildEnd, now: float) -> None:
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

    def _stays_no_longer(self, child: ChildEnd) -> None:
        if child.stays_for is not None and self._staying.get(child.stays_for) is child:
            del self._staying[child.stays_for]
        child.stays_for = None

    def _forget(self, job: Task, child: ChildEnd) -> None:
        child.jobs.pop(job.arrival.number, None)
        peer = client_key(job.arrival.request.peer)
        # A newer request of the same client may have taken the place.
        successor = next(iter(child.jobs.values()), None)
        if successor is not None:
            self._jobs[peer] = successor
        else:
            self._jobs.pop(peer, None)

    def _try_again(self, job: Task, child: ChildEnd) -> None:
        """The child had died, perhaps, before it was given this."""
        del child.jobs[job.arrival.number]
        job.child = None
        job.retried = True
        self._waiting.appendleft(job)

    def _crashed(self, job: Task, why: str) -> None:
        """Say in the dead child's stead what it can not say any more."""
        assert job.child is not None  # noqa: S101
        self._forget(job, job.child)
        if not job.told:
            self._announce(job)
        if job.local is None or self._config.single_port:
            job.arrival.refuse(Refused("server failed", ErrorCode.UNDEFINED))
        else:
            _say_last_word(job.local, job.request.peer)
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

    def nursery_ready(self) -> None:
        """It has come up, and children may be asked for."""
        self._backoff = 0.0
        self._booted.set()

    def nursery_died(self, status: int) -> None:
        """All children have died with it: start anew, later and later where that does not help."""
        why = f"the parent of all children ended with status {status}"
        if not self._booted.is_set():
            self._failure = f"the server's processes could not start: {why}"
            self._over = True
            self._booted.set()
            return
        for child in list(self._children.values()):
            self.gone(child.pid, signal.SIGKILL)
        self._launch_later(why, grows=not self._nursery.ready)

    def _launch_later(self, why: str, *, grows: bool) -> None:
        if grows:
            self._backoff = longer(self._backoff)
        logger.error("%s; starting a new one in %.1f s", why, self._backoff)
        self._reactor.add(Later(time.monotonic() + self._backoff, self._launch_again))

    def _launch_again(self) -> None:
        if self._over:
            return
        try:
            self._nursery = NurseryEnd(self, self._launch())
        except OSError as error:
            self._launch_later(f"no process can be started: {error.strerror}", grows=True)
            return
        self._coming = 0
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

    def _cancel(self, job: Task, reason: str) -> None:
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
