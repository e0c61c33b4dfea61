"""The process engine: each transfer has a process to itself while it runs.

A transfer that crashes, hangs or is killed takes nobody with it. Children are forked by a nursery
(see there), stay warm, and are replaced after a number of transfers. This module is the engine's
side, in the server's own process: one thread whose reactor holds the listeners, the nursery and the
channels to the children. It touches no transfer's socket, but for a last word in a dead child's
stead.
"""

import os
from collections.abc import Sequence

from tftp.events import Address
from tftp.server.config import ServerConfig
from tftp.server.crew import Crew
from tftp.server.listener import Arrival, Busy, Listener
from tftp.server.opening import Opening

__all__ = ["ProcessEngine"]

# A child that has a transfer and says nothing for so long (seconds) is stuck. It may be stuck for a
# good reason: a large upload takes its time to be safe on a slow disk.
_HANG_AFTER = 60.0


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
        self._crew: Crew | None = None
        self._paused = False

    def start(
        self, opening: Opening, config: ServerConfig, listeners: Sequence[Listener]
    ) -> Sequence[Listener]:
        """Start the nursery, the first children and the thread; the listeners are served in it.

        Raises:
            TypeError: the storage or a rule can not travel to another process.
            RuntimeError: the nursery can not start; what it said is in the log.
        """
        self._crew = Crew(
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
