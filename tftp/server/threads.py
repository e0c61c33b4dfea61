"""The threaded engine: a queue, and reactor threads that each serve many transfers.

A thread per transfer hands the interpreter's lock around at every packet; a reactor that has a
thousand transfers does not. So there is one thread where there is such a lock, and one for each
core where there is none. Requests come by a bounded queue from a thread that does nothing but
listen, and answers "busy" where the queue is full. Only where a single thread serves a storage that
keeps nobody waiting does it listen as well: to hand each request over costs more than to open it.
A client's requests always go to the same thread, and there each meets the client's transfer that
may still be running.
"""

import logging
import os
import queue
import sys
import threading
import time
from collections.abc import Callable, Sequence
from functools import partial

from tftp.errors import Aborted
from tftp.events import Address
from tftp.net.reactor import Handler, Reactor
from tftp.net.workspace import Workspace
from tftp.server.aside import Aside
from tftp.server.config import ServerConfig
from tftp.server.listener import DRAINING, REPLACED, Arrival, Busy, Listener, client_key
from tftp.server.opening import Opening
from tftp.session import Session

__all__ = ["ThreadEngine"]

logger = logging.getLogger("tftp")


class ThreadEngine:
    """Serves transfers in `threads` reactor threads; by default as many as can run at once."""

    name = "threads"

    def __init__(self, threads: int | None = None) -> None:
        """Remember the number; `start` starts them.

        Raises:
            ValueError: fewer than one.
        """
        if threads is not None and threads < 1:
            raise ValueError("an engine has at least one thread")
        self._count = threads or _default_threads()
        self._workers: list[_Worker] = []
        self._paused = False

    def start(
        self, opening: Opening, config: ServerConfig, listeners: Sequence[Listener]
    ) -> Sequence[Listener]:
        """Start the threads."""
        # Transfers that share the listeners' sockets share their thread.
        count = 1 if config.single_port else self._count
        places = threading.Lock()
        self._workers = [
            _Worker(opening, config, number, self._held, places) for number in range(count)
        ]
        for worker in self._workers:
            worker.paused = self._paused
            worker.start()
        if not config.single_port and (count > 1 or not opening.is_prompt):
            return listeners
        for listener in listeners:
            self._workers[0].listen(listener)
        return ()

    def submit(self, arrival: Arrival) -> None:
        """Queue a request. Raises `Busy` when the queue is full."""
        self._worker(arrival.request.peer).submit(arrival)

    def deliver(self, octets: memoryview, peer: Address) -> bool:
        """Pass a datagram on to the transfer with `peer`, if there is one."""
        return bool(self._workers) and self._worker(peer).deliver(octets, peer)

    def stop(self, grace: float | None) -> None:
        """Wait for running transfers for up to `grace` seconds, then abort them and the threads."""
        workers = self._workers
        until = None if grace is None else time.monotonic() + grace
        for worker in workers:
            worker.drain()
        for worker in workers:
            worker.join(None if until is None else max(0.0, until - time.monotonic()))
        for worker in workers:
            worker.abort()
        for worker in workers:
            worker.join(None)

    def cancel(self, number: int, reason: str) -> bool:
        """Abort the transfer of this number; False if none such runs."""
        return any(worker.cancel(number, reason) for worker in self._workers)

    def pause(self, paused: bool) -> None:
        """Refuse new requests, or take them again."""
        self._paused = paused
        for worker in self._workers:
            worker.paused = paused

    def adjust(self, config: ServerConfig) -> None:
        """Run as many transfers as `config` says."""
        for worker in self._workers:
            worker.max_transfers = config.max_transfers

    @property
    def running(self) -> int:
        """How many transfers run now."""
        return sum(worker.running for worker in self._workers)

    def _held(self) -> int:
        """How many transfers run, or stay to repeat their last ACK, in all threads."""
        return sum(worker.held for worker in self._workers)

    def _worker(self, peer: Address) -> "_Worker":
        return self._workers[hash(client_key(peer)) % len(self._workers)]


class _Worker:
    """One thread, its reactor, its queue, and the sessions in it by their peer."""

    def __init__(
        self,
        opening: Opening,
        config: ServerConfig,
        number: int,
        all_held: Callable[[], int],
        places: threading.Lock,
    ) -> None:
        """`all_held` counts the transfers of all threads; who takes a place holds `places`."""
        self._opening = opening
        self._all_held = all_held
        self._places = places
        self._admitting = 0
        self._inbox: queue.Queue[Arrival] = queue.Queue(config.queue_size)
        self.max_transfers = config.max_transfers
        self.paused = False
        self._workspace = Workspace()
        self._reactor = Reactor(self._forget, self._workspace.outbox)
        self._workspace.aside = self._aside = Aside(self._reactor)
        self._sessions: dict[Address, Session] = {}
        self._draining = False
        self._thread = threading.Thread(
            target=self._run, name=f"tftp-reactor-{number}", daemon=True
        )

    # -- from other threads -----------------------------------------------------------------------

    def start(self) -> None:
        self._thread.start()

    def listen(self, listener: Listener) -> None:
        self._reactor.call(lambda: self._reactor.add(listener))

    def submit(self, arrival: Arrival) -> None:
        if self._reactor.inside:
            # It was this thread that listened. What it answers may leave with other answers.
            self._workspace.outbox.corked = True
            self._admit(arrival, time.monotonic())
            return
        try:
            self._inbox.put_nowait(arrival)
        except queue.Full:
            raise Busy from None
        self._reactor.call(self._take)

    def deliver(self, octets: memoryview, peer: Address) -> bool:
        session = self._sessions.get(client_key(peer))
        if session is None:
            return False
        if self._reactor.inside:
            self._deliver(session, octets)
        else:
            copy = memoryview(bytes(octets))
            self._reactor.call(lambda: self._deliver(session, copy))
        return True

    def cancel(self, number: int, reason: str) -> bool:
        for session in list(self._sessions.values()):
            if session.number == number and session.ended is None:
                self._reactor.call(partial(self._cancel, session, reason))
                return True
        return False

    def drain(self) -> None:
        self._reactor.call(self._drain)

    def abort(self) -> None:
        self._reactor.call(self._abort)

    def join(self, timeout: float | None) -> None:
        self._thread.join(timeout)

    @property
    def running(self) -> int:
        return sum(session.ended is None for session in list(self._sessions.values()))

    @property
    def held(self) -> int:
        return len(self._sessions) + self._admitting

    # -- in the thread ----------------------------------------------------------------------------

    def _run(self) -> None:
        try:
            self._reactor.run(until=lambda: self._draining and not self._sessions)
        finally:
            self._reactor.close()
            self._aside.close()

    def _take(self) -> None:
        """Look at the requests that wait."""
        while True:
            try:
                arrival = self._inbox.get_nowait()
            except queue.Empty:
                return
            self._admit(arrival, time.monotonic())

    def _admit(self, arrival: Arrival, now: float) -> None:
        peer = client_key(arrival.request.peer)
        known = self._sessions.get(peer)
        if known is not None:
            if self._reactor.drive(known, known.joins, arrival.request, now, arrival.came):
                return
            # The client has moved on; an ERROR would hit what it does now.
            self._abort_one(known, REPLACED, tell=False)
        if self._draining:
            self._opening.refuse(arrival, Busy("server is shutting down"))
            return
        if self.paused:
            self._opening.refuse(arrival, Busy(DRAINING))
            return
        if not self._take_place() and not (self._make_room() and self._take_place()):
            self._opening.refuse(arrival, Busy())
            return
        try:
            session = self._opening.open(arrival, self._workspace, now, self._make_room)
            if session is None:
                return
            self._reactor.add(session, session.beside)
            self._sessions[peer] = session
        finally:
            self._admitting = 0
        self._reactor.drive(session, session.start, time.monotonic())

    def _take_place(self) -> bool:
        """Keep a place for a transfer that is still to be opened, if one is free."""
        with self._places:
            if self._all_held() >= self.max_transfers:
                return False
            self._admitting = 1
            return True

    def _make_room(self) -> bool:
        """Give up the oldest session that only stays to repeat its last ACK; False if all run."""
        for session in self._sessions.values():
            if session.ended is not None:
                self._abort_one(session, "made room", tell=False)
                return True
        return False

    def _deliver(self, session: Session, octets: memoryview) -> None:
        self._reactor.drive(session, session.deliver, octets, len(octets), time.monotonic())

    def _drain(self) -> None:
        self._draining = True
        for session in list(self._sessions.values()):
            if session.ended is not None:
                self._abort_one(session, "server stops", tell=False)

    def _abort(self) -> None:
        self._draining = True
        for session in list(self._sessions.values()):
            self._abort_one(session, "server stops", tell=True)

    def _cancel(self, session: Session, reason: str) -> None:
        if session.ended is None:
            self._abort_one(session, reason, tell=True)

    def _abort_one(self, session: Session, why: str, *, tell: bool) -> None:
        self._reactor.drive(session, session.abort, Aborted(why), tell=tell)

    def _forget(self, handler: Handler) -> None:
        if isinstance(handler, Session):
            peer = client_key(handler.request.peer)
            if self._sessions.get(peer) is handler:
                del self._sessions[peer]


def _default_threads() -> int:
    has_lock = getattr(sys, "_is_gil_enabled", lambda: True)()
    return 1 if has_lock else os.cpu_count() or 1
