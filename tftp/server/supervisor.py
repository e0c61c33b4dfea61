"""Several servers on one port, each in its own process: all cores are used, and none is alone.

The system deals the clients out among the workers (`SO_REUSEPORT`). The supervisor never touches a
client's datagram. It starts the workers, starts them again when they die, hands the word to stop
down to them, and passes on what they tell, so that observers see one server.
"""

import itertools
import logging
import os
import subprocess
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from types import TracebackType

from tftp.events import (
    Address,
    Event,
    Observer,
    RequestReceived,
    RequestRefused,
    TransferEnded,
    format_address,
)
from tftp.net import kernel
from tftp.net.endpoint import open_port
from tftp.net.later import Later
from tftp.net.reactor import Reactor
from tftp.server.channel import Channel, Message
from tftp.server.config import ServerConfig
from tftp.server.launch import BOOT, launch, longer
from tftp.server.ledger import Job, obituary
from tftp.server.listener import NO_IPV6, places
from tftp.server.logs import LevelWatch, log_record
from tftp.server.policy import Policy
from tftp.server.relay import unpack_event, unpack_request
from tftp.storage import Directory
from tftp.storage.base import Storage

__all__ = ["Supervisor"]

logger = logging.getLogger("tftp")

# Seconds that a worker has to live for the next one to follow without a pause.
_SETTLED = 10.0
# Seconds that one may take to end beyond its grace.
_LAST_WORDS = 3.0
# Seconds that whoever gives an order waits for the workers to obey; one of them may be stuck.
_OBEY = 1.0


class Supervisor:
    """A server made of several; it is used like a `Server`, but started once.

    The storage and the rules are pickled into the workers: what they keep in memory is each
    worker's own.
    """

    def __init__(
        self,
        storage: Storage | str | os.PathLike[str],
        *,
        config: ServerConfig | None = None,
        workers: int | None = None,
        policy: Sequence[Policy] = (),
        observers: Sequence[Observer] = (),
    ) -> None:
        """Bring the parts together; nothing is started before `start`.

        Args:
            workers: how many; by default one for each core. The rest is as for `Server`.

        Raises:
            ValueError: fewer than one worker.
        """
        if workers is not None and workers < 1:
            raise ValueError("a supervisor has at least one worker")
        self._storage = Directory(storage) if isinstance(storage, str | os.PathLike) else storage
        self._config = replace(config or ServerConfig(), reuse_port=True)
        self._count = workers or os.cpu_count() or 1
        self._policy = tuple(policy)
        self._observers = tuple(observers)
        self._numbers = itertools.count(1)
        self._reactor: Reactor  # from `start` on
        self._watch = LevelWatch(lambda level: self._order_all("level", level))
        self._workers: set[_Worker] = set()
        self._addresses: list[Address] = []
        self._failure: Exception | None = None
        self._stopping = False
        self._paused = False
        self._booted = threading.Event()
        self._stopped = threading.Event()
        self._thread: threading.Thread | None = None

    def __enter__(self) -> "Supervisor":
        self.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.stop()

    @property
    def address(self) -> Address:
        """The first address that the workers listen on, the port being the real one."""
        return self.addresses[0]

    @property
    def addresses(self) -> list[Address]:
        """All addresses that they listen on. Raises `RuntimeError` if they do not run."""
        if not self._addresses or self._stopped.is_set():
            raise RuntimeError("the server is not running")
        return list(self._addresses)

    @property
    def running(self) -> int:
        """How many transfers run now."""
        return sum(len(worker.jobs) for worker in list(self._workers))

    @property
    def engine_name(self) -> str:
        """What the transfers run in."""
        return "workers"

    @property
    def state(self) -> str:
        """As that of a `Server`."""
        if self._stopping:
            return "stopping"
        return "draining" if self._paused else "serving"

    @property
    def limits(self) -> dict[str, int]:
        """As those of a `Server`; each worker has them for itself."""
        return self._config.adjustable

    @property
    def processes(self) -> list[int]:
        """The process numbers of the workers."""
        return [worker.process.pid for worker in list(self._workers)]

    def start(self) -> None:
        """Start the workers, and return when all of them listen.

        Raises:
            OSError: a worker can not listen; `filename` is the address.
            RuntimeError: it runs already, or ran before, or a worker can not start at all.
        """
        if self._thread is not None:
            raise RuntimeError(
                "a supervisor is started once: make another to serve again"
                if self._stopping
                else "the server is running already"
            )
        self._require_free()
        self._reactor = Reactor()
        self._hire()  # The first finds the port, if it was left open.
        self._thread = threading.Thread(target=self._run, name="tftp-supervisor", daemon=True)
        self._thread.start()
        booted = self._booted.wait(BOOT)
        if self._failure is not None or not booted:
            self.stop()
            raise self._failure or RuntimeError(f"a worker was not ready after {BOOT:.0f} s")

    def serve_forever(self) -> None:
        """Wait until another thread, or a signal handler, stops the server.

        Raises:
            OSError, RuntimeError: it stopped by itself, since a worker could not start again.
        """
        self._stopped.wait()
        if self._failure is not None:
            raise self._failure

    def cancel(self, number: int) -> bool:
        """End a transfer as `Server.cancel` does."""
        for worker in list(self._workers):
            for own, job in list(worker.jobs.items()):
                if job.number == number:
                    self._reactor.call(partial(self._order, worker, "cancel", own))
                    return True
        return False

    def pause(self) -> None:
        """Refuse new requests as `Server.pause` does.

        This, `resume` and `change_limits` return when the workers have obeyed. A worker that is
        stuck is waited for no longer than a second, and an observer does not wait at all.
        """
        self._paused = True
        self._have_obeyed("pause")

    def resume(self) -> None:
        """Take requests again."""
        self._paused = False
        self._have_obeyed("resume")

    def change_limits(
        self,
        *,
        max_transfers: int | None = None,
        max_blksize: int | None = None,
        max_windowsize: int | None = None,
    ) -> None:
        """Have other limits as `Server.change_limits` does, in each worker."""
        self._config = self._config.adjusted(
            max_transfers=max_transfers, max_blksize=max_blksize, max_windowsize=max_windowsize
        )
        self._have_obeyed("limits", self._config.adjustable)

    def drain(self) -> None:
        """Take no more requests, and return when the last running transfer has ended."""
        self.stop(grace=None)

    def stop(self, grace: float | None = 0.0) -> None:
        """Stop all workers as `Server.stop` does; none of them is left.

        Raises:
            RuntimeError: an observer called this, in the thread that would have to wait for itself.
        """
        if self._thread is None:
            return
        if self._reactor.inside:
            raise RuntimeError("an observer can not stop its server: have another thread do it")
        self._call(lambda: self._hand_down(grace))
        self._thread.join(None if grace is None else grace + _LAST_WORDS)
        self._call(self._kill)
        self._thread.join()
        self._stopped.set()

    def _have_obeyed(self, *message: object) -> None:
        """Have all workers told, and wait for them to obey, but for the reactor's own thread."""
        if self._thread is None or self._stopped.is_set():
            return
        given = _Given()
        self._reactor.call(lambda: self._order_and_ask(given, *message))
        if not self._reactor.inside and not given.obeyed.wait(_OBEY):
            logger.warning("not all workers have obeyed %r yet", message[0])

    def _order_and_ask(self, given: "_Given", *message: object) -> None:
        self._order_all(*message)
        for worker in self._workers:
            if worker.ready:  # Else it obeys as soon as it is.
                worker.unconfirmed.append(given)
                given.missing += 1
                self._order(worker, "confirm")
        given.settle()

    def _call(self, function: Callable[[], None]) -> None:
        if self._thread is not None:
            self._reactor.call(function)

    def _require_free(self) -> None:
        """Fail if the port is taken: with `SO_REUSEPORT` two supervisors would share it, and each
        other's clients, and nobody would say so.
        """
        port = self._config.port
        for family, address, optional in places(self._config) if port else ():
            wanted = (address[0], port, *address[2:])
            try:
                with open_port(family) as probe:
                    if self._config.freebind:
                        kernel.bind_anyway(probe)
                    probe.bind(wanted)
            except OSError as error:
                if not (optional and error.errno in NO_IPV6):
                    raise OSError(error.errno, error.strerror, format_address(wanted)) from error

    # -- in the thread ----------------------------------------------------------------------------

    def _run(self) -> None:
        self._reactor.add(self._watch)
        try:
            self._reactor.run(until=lambda: self._stopping and not self._workers)
        finally:
            self._reactor.close()
            self._booted.set()
            self._stopped.set()

    def _hire(self, backoff: float = 0.0) -> None:
        """Start a worker."""
        parts = (self._storage, self._config, self._policy, self._paused, self._watch.level)
        launched = launch("tftp.server.worker", parts, [])
        worker = _Worker(self, launched.process, launched.channel, backoff)
        self._workers.add(worker)
        self._reactor.add(worker)

    def ready(self, addresses: list[Address]) -> None:
        """A worker listens. The first knows the port for all."""
        if not self._addresses:
            self._addresses = addresses
            self._config = replace(self._config, port=addresses[0][1])
            for _ in range(self._count - 1):
                self._hire()
        if all(worker.ready for worker in self._workers):
            self._booted.set()

    def died(self, worker: "_Worker", failure: Exception | None) -> None:
        """A worker has ended; `failure` is why it could not even start, if so."""
        self._workers.discard(worker)
        while worker.unconfirmed:
            worker.confirm()
        why = obituary(worker.process.pid, worker.process.wait())
        for job in worker.jobs.values():
            self.report(job.crashed(why))
        if self._stopping:
            return
        if not worker.ready:
            self._failure = failure or RuntimeError(f"a worker could not start: its {why}")
            self._hand_down(0.0)
            return
        lived = time.monotonic() - worker.since
        backoff = 0.0 if lived >= _SETTLED else longer(worker.backoff)
        logger.error("worker %s; starting another in %.1f s", why, backoff)
        self._reactor.add(Later(time.monotonic() + backoff, lambda: self._replace(backoff)))

    def _replace(self, backoff: float) -> None:
        if not self._stopping:
            self._hire(backoff)

    def _hand_down(self, grace: float | None) -> None:
        self._stopping = True
        self._order_all("stop", grace)

    def _kill(self) -> None:
        """End the workers that have not ended in time: they are stuck."""
        for worker in self._workers:
            logger.error("worker %d is stuck, and is killed", worker.process.pid)
            worker.process.kill()

    def _order_all(self, *message: object) -> None:
        for worker in self._workers:
            self._order(worker, *message)

    def _order(self, worker: "_Worker", *message: object) -> None:
        worker.order(*message)
        self._reactor.settle(worker)

    def number(self) -> int:
        """The next transfer's number."""
        return next(self._numbers)

    def report(self, event: Event) -> None:
        """Tell the observers."""
        for observer in self._observers:
            try:
                observer(event)
            except Exception:
                logger.exception("an observer failed")


class _Given:
    """An order that was given to all workers.

    Attributes:
        missing: how many have not confirmed it.
        obeyed: is set when it is none.
    """

    __slots__ = ("missing", "obeyed")

    def __init__(self) -> None:
        self.missing = 0
        self.obeyed = threading.Event()

    def settle(self) -> None:
        """See whether it is through."""
        if not self.missing:
            self.obeyed.set()


class _Worker:
    """The supervisor's end of the channel to a worker; a `Handler` for its reactor."""

    deadline = None

    def __init__(
        self,
        supervisor: Supervisor,
        process: "subprocess.Popen[bytes]",
        channel: Channel,
        backoff: float,
    ) -> None:
        self.process = process
        self.backoff = backoff
        self.since = time.monotonic()
        self.ready = False
        self.armed = 0.0
        self.finished = False
        self.jobs: dict[int, Job] = {}
        self.unconfirmed: deque[_Given] = deque()
        self._supervisor = supervisor
        self._channel = channel
        self._failure: Exception | None = None

    @property
    def blocked(self) -> bool:
        """Whether something waits to be sent."""
        return self._channel.blocked

    def fileno(self) -> int:
        """The channel's descriptor."""
        return self._channel.fileno()

    def order(self, *message: object) -> None:
        """Tell the worker something."""
        try:
            self._channel.send(*message)
        except OSError as error:
            logger.debug("worker %d hears nothing: %s", self.process.pid, error)

    def confirm(self) -> None:
        """It has obeyed the oldest of the orders that it was asked to confirm, or never will."""
        given = self.unconfirmed.popleft()
        given.missing -= 1
        given.settle()

    def readable(self, now: float) -> None:
        """The worker has something to tell."""
        try:
            messages = self._channel.receive()
        except EOFError:
            self.finished = True
            self._supervisor.died(self, self._failure)
            return
        for message in messages:
            self._hear(message)

    def writable(self, now: float) -> None:
        """There is room for what waits."""
        try:
            self._channel.flush()
        except OSError as error:
            logger.debug("worker %d hears nothing: %s", self.process.pid, error)

    def expire(self, now: float) -> None:
        """Never waited for."""

    def failed(self, error: Exception) -> None:
        """What it tells makes no sense: it is not to be trusted with anything."""
        logger.error("worker %d is not understood", self.process.pid, exc_info=error)
        self.process.kill()

    def close(self) -> None:
        """It has ended."""
        self._channel.close()

    def _hear(self, message: Message) -> None:
        match message:
            case "events", told:
                for packed, request, came in told:
                    if came is None:
                        self._pass_on(packed, request)
                    else:
                        self._pass_refusal_on(packed, request, came)
            case "log", level, process, text, trace:
                log_record(level, process, text, trace)
            case ("obeyed",):
                self.confirm()
            case "ready", addresses:
                self.ready = True
                self._supervisor.ready([tuple(address) for address in addresses])
            case "failed", number, text, address:
                self._failure = OSError(number, text, address)

    def _pass_on(self, packed: Message, request: Message | None) -> None:
        number = packed[2]
        job = self.jobs.get(number)
        if job is None:
            if request is None:
                return
            job = Job(self._supervisor.number(), unpack_request(request))
            self.jobs[number] = job
        event = unpack_event(packed, job.request, number=job.number)
        job.note(event)
        if isinstance(event, TransferEnded | RequestRefused):
            del self.jobs[number]
        self._supervisor.report(event)

    def _pass_refusal_on(self, packed: Message, request: Message, came: float) -> None:
        """Of a request that was refused at once, which nothing has been told of before."""
        number, asked = self._supervisor.number(), unpack_request(request)
        self._supervisor.report(RequestReceived(time=came, transfer=number, request=asked))
        self._supervisor.report(unpack_event(packed, asked, number=number))
