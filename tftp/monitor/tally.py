"""Who did how much, in a table of bounded size, whatever names the network makes up.

This is the Space-Saving algorithm (Metwally, Agrawal, El Abbadi: "Efficient computation of frequent
and top-k elements in data streams", 2005). When a new key meets a full table, the key with the
least weight gives up its place, and the new one begins with that weight: what it may have missed.
So of N requests no weight is more than N / capacity too high, and every key that was seen more than
N / capacity times is in the table.

What the paper throws away is kept here: a row that leaves is added to `others`, so rows and others
together are exact. Nothing here knows what is counted.
"""

import heapq
from collections.abc import Callable, Hashable
from operator import attrgetter
from typing import Any, Generic, Protocol, TypeVar

__all__ = ["Entry", "Tally"]


class Entry(Protocol):
    """A row: what is counted of one key.

    Attributes:
        key: whose row it is.
        requests: how many there were since it has the row.
        missed: how many there were before, at the most.
    """

    key: Hashable
    requests: int
    missed: int

    def absorb(self, other: Any) -> None:
        """Add what another row of the same kind has counted."""


_E = TypeVar("_E", bound=Entry)


class Tally(Generic[_E]):
    """A table of at most `capacity` rows, made by `kind`. It is for one thread at a time.

    Attributes:
        others: what was counted in rows that are gone.
    """

    __slots__ = ("_heap", "_kind", "_rows", "_turn", "capacity", "others")

    def __init__(self, capacity: int, kind: Callable[[Hashable, int], _E]) -> None:
        """Begin empty; `kind(key, missed)` makes a row."""
        self.capacity = capacity
        self.others = kind("", 0)
        self._kind = kind
        self._rows: dict[Hashable, _E] = {}
        # Each row once, with a weight that it has had: it may have grown since, never shrunk.
        self._heap: list[tuple[int, int, _E]] = []
        self._turn = 0

    def __len__(self) -> int:
        return len(self._rows)

    def count(self, key: Hashable) -> _E:
        """Count a request for `key`, and give its row, to count more in."""
        row = self._rows.get(key)
        if row is None:
            row = self._replace(key) if len(self._rows) >= self.capacity else self._add(key)
        row.requests += 1
        return row

    def rows(self) -> list[_E]:
        """The rows, those with the most requests first."""
        return sorted(self._rows.values(), key=_REQUESTS, reverse=True)

    def _add(self, key: Hashable) -> _E:
        row = self._rows[key] = self._kind(key, 0)
        heapq.heappush(self._heap, (0, self._next_turn(), row))
        return row

    def _replace(self, key: Hashable) -> _E:
        heap = self._heap
        while True:
            noted, _, least = heap[0]
            weight = least.requests + least.missed
            if weight == noted:
                break
            heapq.heapreplace(heap, (weight, self._next_turn(), least))
        del self._rows[least.key]
        self.others.absorb(least)
        row = self._rows[key] = self._kind(key, weight)
        heapq.heapreplace(heap, (weight, self._next_turn(), row))
        return row

    def _next_turn(self) -> int:
        """What decides between equal weights: who has been looked at longest ago goes first."""
        self._turn += 1
        return self._turn


_REQUESTS = attrgetter("requests")
