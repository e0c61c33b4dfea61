"""What would hold up the thread of many transfers, done beside it: putting an upload on the disk.

A sync takes a disk that spins tens of milliseconds, and a memory card sometimes seconds. It knows
nothing of files: it has a function called, and the thread's reactor told when that is done.
"""

from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial

from tftp.net.reactor import Handler, Reactor

__all__ = ["Aside"]

# So many at once: a file system syncs several files in about the time that it takes for one.
_AT_ONCE = 4


class Aside:
    """Threads beside that of a reactor; there is none before there is something to do."""

    def __init__(self, reactor: Reactor) -> None:
        self._reactor = reactor
        self._threads = ThreadPoolExecutor(_AT_ONCE, "tftp-aside")

    def do(
        self, work: Callable[[], None], owner: Handler, then: Callable[[], None]
    ) -> "Future[None]":
        """Have `work` done elsewhere, and then `then`, a method of `owner`, called by the reactor.

        What `work` raises is in the future that is returned; `then` is called all the same.
        """
        future = self._threads.submit(work)
        future.add_done_callback(
            lambda _: self._reactor.call(partial(self._reactor.drive, owner, then))
        )
        return future

    def close(self) -> None:
        """Wait for what is under way, and end the threads."""
        self._threads.shutdown()
