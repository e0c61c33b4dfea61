"""One thread, many transfers: a loop over a selector and a heap of deadlines.

The reactor knows nothing of TFTP. A handler has a descriptor (or none), a `deadline` that moves,
and says when it is `finished`; everything that touches a handler happens in the thread that runs
the loop. Other threads reach that thread through `call`.

The heap is lazy. A deadline that moves later (each packet moves one) costs nothing: the old entry
stays, and is pushed again only when it surfaces. One that moves earlier gets a new entry, and the
old one is passed over: of a handler's entries only the one that is `armed` counts. Where many are
there for handlers that are gone they are thrown out, and with them what they keep in memory.
"""

import contextlib
import heapq
import itertools
import os
import select
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any, ParamSpec, Protocol, TypeVar

from tftp.log import logger
from tftp.net.waiting import Sleeping, Waiting

__all__ = ["Handler", "Reactor"]

_P = ParamSpec("_P")
_T = TypeVar("_T")

# So many entries of the heap may be there in vain, and so many times as many as those that are not.
_LITTER, _LITTER_RATIO = 16, 3
# Seconds after which a handler that is blocked, and has no descriptor to wait on, tries again.
_TRY_AGAIN = 0.002


class Handler(Protocol):
    """What a reactor drives.

    Attributes:
        deadline: when to call `expire` (on the clock of `time.monotonic`), None for never.
        armed: the deadline that the reactor's heap holds for it; the reactor's alone.
        blocked: it waits for room to send; `writable` is called when there is some (without a
            descriptor: when there may be some).
        finished: it wants to be dropped, and closed; its deadline is None then.
    """

    armed: float

    @property
    def deadline(self) -> float | None: ...
    @property
    def blocked(self) -> bool: ...
    @property
    def finished(self) -> bool: ...
    def fileno(self) -> int:
        """Its descriptor; -1 for a handler that has only deadlines."""

    def readable(self, now: float) -> bool | None:
        """There is something to receive.

        True says that nothing has changed of what the attributes tell, and spares a look at them.
        """

    def writable(self, now: float) -> None:
        """There is room to send."""

    def expire(self, now: float) -> None:
        """The deadline has passed."""

    def failed(self, error: Exception) -> None:
        """One of the calls above raised `error`: a fault of the program, not of the network."""

    def close(self) -> None:
        """It has been dropped."""


#: What `Handler.readable` is.
Readable = Callable[[float], object]


class Corked(Protocol):
    """What holds back outgoing datagrams for as long as it is `corked`."""

    corked: bool

    def uncork(self) -> Sequence[Any]:
        """Let them go. Returns the handlers for which that has changed something."""


_NEVER = float("inf")


class Reactor:
    """The loop. Create it anywhere, `run` it in one thread."""

    def __init__(
        self,
        dropped: Callable[[Handler], None] | None = None,
        outbox: Corked | None = None,
        waiting: type[Waiting | Sleeping] = Waiting,
    ) -> None:
        """Open the loop's own descriptors.

        Args:
            dropped: is told of every handler that has been dropped, in the loop's thread.
            outbox: is corked while more than one handler has its turn.
            waiting: how it waits for the network.
        """
        self._dropped = dropped
        self._outbox = outbox
        self._poll = _Poll()
        self._waiting = waiting(self._poll.wait)
        self._handlers: set[Handler] = set()
        self._by_descriptor: dict[int, Handler] = {}
        self._beside: dict[int, tuple[Handler, Readable]] = {}
        self._has_beside: dict[Handler, int] = {}
        self._heap: list[tuple[float, int, Handler]] = []
        self._order = itertools.count()
        self._calls: deque[Callable[[], None]] = deque()
        self._waking = False
        self._wake_lock = threading.Lock()
        self._closed = False
        self._thread: int | None = None
        self._wake_receiver, self._wake_sender = _wake_pipe()
        self._poll.register(self._wake_receiver, _READ)

    def __len__(self) -> int:
        return len(self._handlers)

    @property
    def inside(self) -> bool:
        """Whether the caller is in the thread that runs the loop."""
        return self._thread == threading.get_ident()

    def call(self, function: Callable[[], None]) -> None:
        """Have `function` called in the loop's thread, soon; never, if the reactor is closed.

        Any thread may call this.
        """
        self._calls.append(function)
        if self._waking or self.inside:
            return
        # The lock keeps the descriptor from being closed, and its number used again, in between.
        with self._wake_lock:
            if not self._closed:
                self._waking = True
                os.write(self._wake_sender, _WAKE)

    def add(self, handler: Handler, beside: tuple[int, Readable] | None = None) -> None:
        """Take a handler in.

        Args:
            handler: it.
            beside: a second descriptor of its, only to be read, and what is to be called then.
        """
        descriptor = handler.fileno()
        if descriptor >= 0:
            self._poll.register(descriptor, _READ)
            self._by_descriptor[descriptor] = handler
        if beside is not None:
            self._add_beside(handler, *beside)
        self._handlers.add(handler)
        handler.armed = _NEVER
        self.settle(handler)

    def _add_beside(self, handler: Handler, descriptor: int, readable: Readable) -> None:
        try:
            self._poll.register(descriptor, _READ)
        except BaseException:
            self._poll.unregister(handler.fileno())
            del self._by_descriptor[handler.fileno()]
            raise
        self._beside[descriptor] = (handler, readable)
        self._has_beside[handler] = descriptor

    def drive(
        self,
        handler: Handler,
        step: Callable[_P, _T],
        *arguments: _P.args,
        **options: _P.kwargs,
    ) -> _T | None:
        """Call a method of a handler as the loop calls those that it knows.

        What it raises is the handler's failure, and None is returned; what it has changed is noted.
        """
        result = None
        try:
            result = step(*arguments, **options)
        except Exception as error:
            self._contain(handler, error)
        self.settle(handler)
        return result

    def settle(self, handler: Handler) -> None:
        """Take note of what has changed in a handler that somebody else has called."""
        if handler not in self._handlers:
            return
        if handler.finished:
            self._drop(handler)
            return
        deadline = handler.deadline
        if handler.blocked:
            if handler.fileno() >= 0:
                self._poll.modify(handler.fileno(), _READ | _WRITE)
            else:
                again = time.monotonic() + _TRY_AGAIN
                deadline = again if deadline is None else min(deadline, again)
        if deadline is not None and deadline < handler.armed:
            handler.armed = deadline
            heapq.heappush(self._heap, (deadline, next(self._order), handler))

    def release(self, handler: Handler) -> None:
        """Give a handler back, open, if it is still here."""
        if handler in self._handlers:
            self._handlers.remove(handler)
            descriptor = handler.fileno()
            if descriptor >= 0:
                self._poll.unregister(descriptor)
                del self._by_descriptor[descriptor]
            beside = self._has_beside.pop(handler, None)
            if beside is not None:
                self._poll.unregister(beside)
                del self._beside[beside]

    def run(self, until: Callable[[], bool]) -> None:
        """Serve until `until()` is true; it is asked after each turn."""
        self._thread = threading.get_ident()
        try:
            while not until():
                self.turn()
        finally:
            self._thread = None

    def turn(self) -> None:
        """Wait for the next thing to happen, and do it."""
        heap, by_descriptor = self._heap, self._by_descriptor
        if self._calls:
            wait: float | None = 0.0
        elif heap:
            wait = max(0.0, heap[0][0] - time.monotonic())
        else:
            wait = None
        ready, now = self._waiting.wait(wait)
        outbox = self._outbox
        if outbox is not None and len(ready) > 1:
            outbox.corked = True
        for descriptor, mask in ready:
            # One that an earlier handler of this turn has dropped is not there any more.
            handler = by_descriptor.get(descriptor)
            if handler is not None:
                self._serve(handler, mask, now)
            elif descriptor == self._wake_receiver:
                self._woken()
            elif descriptor in self._beside:
                handler, readable = self._beside[descriptor]
                self.drive(handler, readable, now)
        if self._calls:
            if outbox is not None:
                outbox.corked = True
            self._call()
        if heap and heap[0][0] <= now:
            self._expire(now)
        if outbox is not None and outbox.corked:
            for handler in outbox.uncork():
                self.settle(handler)

    def close(self) -> None:
        """Drop and close all handlers, and the loop's own descriptors."""
        for handler in list(self._handlers):
            self._drop(handler)
        self._heap.clear()
        self._poll.close()
        with self._wake_lock:
            self._closed = True
            for descriptor in {self._wake_receiver, self._wake_sender}:
                os.close(descriptor)

    def _serve(self, handler: Handler, mask: int, now: float) -> None:
        try:
            # An error, too, is found out by reading.
            if mask & ~_WRITE and handler.readable(now) and not mask & _WRITE:
                return
            if mask & _WRITE:
                self._poll.modify(handler.fileno(), _READ)
                handler.writable(now)
        except Exception as error:
            self._contain(handler, error)
        deadline = handler.deadline
        if deadline is None or deadline < handler.armed or handler.blocked:
            self.settle(handler)

    def _expire(self, now: float) -> None:
        heap, handlers = self._heap, self._handlers
        while heap and heap[0][0] <= now:
            armed, order, handler = heap[0]
            if armed != handler.armed or handler not in handlers:
                heapq.heappop(heap)
                continue
            deadline = handler.deadline
            if deadline is not None and deadline > now and not handler.blocked:
                handler.armed = deadline
                heapq.heapreplace(heap, (deadline, order, handler))
                continue
            heapq.heappop(heap)
            handler.armed = _NEVER
            try:
                if handler.blocked and handler.fileno() < 0:
                    handler.writable(now)
                if handler.deadline is not None and handler.deadline <= now:
                    handler.expire(now)
            except Exception as error:
                self._contain(handler, error)
            self.settle(handler)

    def _contain(self, handler: Handler, error: Exception) -> None:
        """A fault of one handler must not stop the others."""
        try:
            handler.failed(error)
        except Exception:
            logger().exception("a handler could not even fail")
            self._drop(handler)

    def _woken(self) -> None:
        with contextlib.suppress(BlockingIOError):
            os.read(self._wake_receiver, 4096)
        self._waking = False

    def _call(self) -> None:
        for _ in range(len(self._calls)):
            try:
                self._calls.popleft()()
            except Exception:
                logger().exception("a call into the reactor failed")

    def _drop(self, handler: Handler) -> None:
        if handler not in self._handlers:
            return
        self.release(handler)
        if len(self._heap) > _LITTER + _LITTER_RATIO * len(self._handlers):
            self._clear_litter()
        try:
            handler.close()
        except Exception:
            logger().exception("a handler could not be closed")
        if self._dropped is not None:
            self._dropped(handler)

    def _clear_litter(self) -> None:
        handlers = self._handlers
        self._heap[:] = [
            entry for entry in self._heap if entry[2] in handlers and entry[0] == entry[2].armed
        ]
        heapq.heapify(self._heap)


_READ, _WRITE = select.POLLIN, select.POLLOUT


class _Poll:
    """The system's own poll, and the best that it has.

    `selectors` would do the same, at twice the price of a round trip on loopback.
    """

    def __init__(self) -> None:
        has_epoll = hasattr(select, "epoll")
        poll: Any = select.epoll() if has_epoll else select.poll()
        self.register = poll.register
        self.modify = poll.modify
        self.unregister = poll.unregister
        self.close = poll.close if has_epoll else lambda: None
        #: Waits for so many seconds (None: for ever), and gives descriptors and what for.
        self.wait: Callable[[float | None], list[tuple[int, int]]]
        self.wait = poll.poll if has_epoll else lambda seconds: poll.poll(_milliseconds(seconds))


def _milliseconds(seconds: float | None) -> float | None:
    return None if seconds is None else seconds * 1000


_WAKE = (1).to_bytes(8, "little")


def _wake_pipe() -> tuple[int, int]:
    """A descriptor to wait on and one to wake it by; the same one where there is `eventfd`."""
    if hasattr(os, "eventfd"):
        descriptor = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        return descriptor, descriptor
    receiver, sender = os.pipe()
    os.set_blocking(receiver, False)
    os.set_blocking(sender, False)
    return receiver, sender
