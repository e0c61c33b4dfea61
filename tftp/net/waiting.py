"""How to wait for the network: asleep, or looking again and again.

Who sleeps must be woken, and where the processor has gone to sleep as well that takes longer than
the round trip on loopback or between two guests of one host: 20 to 50 microseconds, and as much of
the processor's time as looking for that long. Whether looking pays depends on the machine, on its
other work and on the network, so it is measured all the time: each way of waiting is tried now and
then, and the quicker one is kept. Nobody looks while others want the processor: it would be taken
from them, the peer that is waited for perhaps. This module knows nothing of what is waited for.
"""

import time
from collections.abc import Callable

from tftp.net.processor import Crowding

__all__ = ["Sleeping", "Waiting"]

Ready = list[tuple[int, int]]
Poll = Callable[[float | None], Ready]

# Seconds to look before going to sleep all the same.
_GLANCE = 60e-6
# What a longer wait counts as (seconds): that nobody asked for anything is no merit of either way.
_CAP = 200e-6
# Looking must make waits shorter than this share of what they are asleep.
_WORTH = 0.8
# For how many waits the better way is kept before the other is tried again, and for how many that
# is done.
_TERM, _TRIAL = 512, 32


class Waiting:
    """Waits by `poll`, in the way that has turned out quicker.

    Attributes:
        looking: whether it looks again and again at present.
    """

    __slots__ = (
        "_clock",
        "_crowding",
        "_left",
        "_means",
        "_poll",
        "_spent",
        "_term",
        "_trying",
        "looking",
    )

    def __init__(
        self,
        poll: Poll,
        clock: Callable[[], float] = time.monotonic,
        crowding: Crowding | None = None,
    ) -> None:
        """`poll` waits for so many seconds (None: for ever), and says what is ready."""
        self._poll = poll
        self._clock = clock
        self._crowding = crowding or Crowding(clock)
        self.looking = False
        self._term = self._left = _TRIAL
        self._trying = False
        self._spent = 0.0
        self._means = {False: 0.0, True: 0.0}  # what a wait took lately, asleep and looking

    def wait(self, seconds: float | None) -> tuple[Ready, float]:
        """What is ready, at most so many seconds from now, and what time it is then."""
        poll, clock = self._poll, self._clock
        began = clock()
        ready = poll(0) if self.looking else poll(seconds)
        if not ready and self.looking and seconds != 0:
            until = began + _GLANCE
            while not ready and clock() < until:
                ready = poll(0)
            if not ready:
                ready = poll(seconds)
        now = clock()
        self._spent += min(now - began, _CAP)
        self._left -= 1
        if not self._left:
            self._judge()
        return ready, now

    def _judge(self) -> None:
        """After a term, try the other way for a while; after that, keep the better one."""
        means = self._means
        means[self.looking] = self._spent / self._term
        if self._crowding.felt():
            self.looking = self._trying = False
        elif self._trying:
            self.looking = means[True] < _WORTH * means[False]
            self._trying = False
        else:
            self.looking = not self.looking
            self._trying = True
        self._term = self._left = _TRIAL if self._trying else _TERM
        self._spent = 0.0


class Sleeping:
    """Waits asleep, always: for a loop that no round trip depends on.

    Each look takes the interpreter's lock again, so one that looks beside threads that have work
    keeps them from it.
    """

    __slots__ = ("_poll",)

    def __init__(self, poll: Poll) -> None:
        self._poll = poll

    def wait(self, seconds: float | None) -> tuple[Ready, float]:
        """What is ready, at most so many seconds from now, and what time it is then."""
        return self._poll(seconds), time.monotonic()
