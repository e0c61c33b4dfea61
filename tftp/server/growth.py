"""How many children of the process engine work at once, while requests wait.

A child that waits for a slow client costs nothing, so whoever else comes gets another. Where the
children keep the processors busy one more makes nobody faster, and all of them slower: each has to
find its memory in the caches again. There requests wait for their turn instead. Only so many
children are added that none of them waits for longer than clients bear, one after the other:
hundreds at once would bring everybody to a standstill. This module forks nothing; it only says how
many.
"""

import os
from collections.abc import Callable, Sequence
from itertools import islice

from tftp.net.processor import Spent, spent_by

__all__ = ["Growth"]

# Seconds between two looks, and until it shows how fast requests get their turn.
_WINDOW, _TREND = 0.05, 2.0
# Children keep the processors busy if all together they want this share of their time; so many of
# them are asked.
_BUSY, _SAMPLE = 0.75, 8
# Seconds after which every request has a child. Clients ask again and again for 10 at least.
_TURN = 8.0


class Growth:
    """What to do about requests that wait; to be asked again and again.

    Times are on the clock of `time.monotonic`.

    Attributes:
        places: so many children are to work at once.
    """

    def __init__(self, warm: int, spent: Callable[[int], Spent | None] = spent_by) -> None:
        """Nobody waits yet.

        Args:
            warm: so many places there are at least.
            spent: how long a process has run, and has waited for a processor.
        """
        self.places = warm
        self._warm = warm
        self._spent = spent
        self._processors = os.cpu_count() or 1
        self._sample: dict[int, float] = {}
        self._looked_at = self._began = 0.0
        self._served = 0
        self._added = 0.0  # places for those who would have waited for too long

    def begin(self, now: float) -> None:
        """Requests have begun to wait."""
        self._began, self._served, self._added = now, 0, 0.0

    def end(self, busy: int) -> None:
        """No request waits any more, and so many children work."""
        self.places = max(self._warm, min(self.places, busy + self._warm))

    def look(self, now: float, *, busy: Sequence[int], since: Sequence[float], served: int) -> None:
        """See what there is to do.

        Args:
            now: the time.
            busy: process numbers of the children that have a transfer.
            since: when each of the requests that wait came, the earliest first.
            served: how many of those that waited have got a child since the last look.
        """
        self._served += served
        if not since or now < self._looked_at + _WINDOW:
            return
        since_last = now - self._looked_at
        if self._has_room(busy, now):
            more = min(len(since), max(self._warm, len(busy)))
            self.places = max(self.places, len(busy) + more)
        elif now >= self._began + _TREND:
            before = int(self._added)
            self._added += since_last * self._missing(now, since)
            self.places += int(self._added) - before

    def _missing(self, now: float, since: Sequence[float]) -> float:
        """How many more requests than do so a second have to get a child, so that none waits for
        too long.
        """
        # What was added does not count: it says nothing of how fast transfers end.
        pace = (self._served - self._added) / (now - self._began)
        turns = (max(_WINDOW, came + _TURN - now) for came in since)
        needed = max(place / left for place, left in enumerate(turns, 1))
        return max(0.0, needed - pace)

    def _has_room(self, busy: Sequence[int], now: float) -> bool:
        """Whether the children that work have left the processors time since the last look."""
        before, passed = self._sample, now - self._looked_at
        self._looked_at = now
        self._sample = {}
        for process in islice(busy, _SAMPLE):
            spent = self._spent(process)
            if spent is not None:
                self._sample[process] = sum(spent)
        both = self._sample.keys() & before.keys()
        if not both:
            return True
        wanted = sum(self._sample[process] - before[process] for process in both)
        return wanted / len(both) * len(busy) < _BUSY * passed * self._processors
