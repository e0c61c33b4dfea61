"""How long threads and processes have run on a processor and had to wait for one, and for whom.

Linux keeps account of that, and lets a thread wait its turn; elsewhere nobody knows. This module
knows nothing of the network.
"""

import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from tftp.log import logger

__all__ = ["Crowding", "Spent", "interrupt_nobody", "spent_by"]

# Seconds between two looks at the account, and for which share of them a thread has to wait before
# it takes the processors for crowded.
_EVERY, _SHARE = 0.05, 0.1


class Spent(NamedTuple):
    """Seconds that something ran, and that it could have run, had a processor been free."""

    running: float
    waiting: float


def spent_by(process: int | None = None) -> Spent | None:
    """The account of a process's first thread, or of the calling thread; None if nobody knows."""
    whose = "thread-self" if process is None else process
    try:
        running, waiting, *_ = Path(f"/proc/{whose}/schedstat").read_bytes().split()
    except (OSError, ValueError):
        return None  # It is gone, or this is not Linux, or one that keeps no account.
    return Spent(int(running) / 1e9, int(waiting) / 1e9)


def interrupt_nobody() -> None:
    """Have this thread, and those that it starts, wait for their turn when they wake up (Linux).

    For processes of which several serve: else each that wakes up gets in before whoever gives out
    the work, and before its clients where they run here. It costs nothing where a processor is
    free.
    """
    if hasattr(os, "SCHED_BATCH"):
        try:
            os.sched_setscheduler(0, os.SCHED_BATCH, os.sched_param(0))
        except OSError as error:  # It may be forbidden to whoever is confined.
            logger().debug("process %d is scheduled like any: %s", os.getpid(), error)


class Crowding:
    """Whether the thread that asks has had to wait for a processor lately: others want it too."""

    def __init__(
        self,
        clock: Callable[[], float] = time.monotonic,
        spent: Callable[[], Spent | None] = spent_by,
    ) -> None:
        """Nothing is known yet. Both are to be replaced in tests."""
        self._clock = clock
        self._spent = spent
        self._next = self._looked_at = 0.0
        self._waited: float | None = None
        self._felt = False

    def felt(self) -> bool:
        """Whether it was so when that was last looked at, some hundredths of a second ago."""
        now = self._clock()
        if now >= self._next:
            spent, before = self._spent(), self._waited
            self._waited = spent and spent.waiting
            if self._waited is not None and before is not None:
                self._felt = self._waited - before > _SHARE * (now - self._looked_at)
            self._looked_at, self._next = now, now + _EVERY
        return self._felt
