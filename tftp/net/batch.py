"""Blocks of files as the DATA packets that go onto the wire, one behind the other in memory.

A `Batch` is room for some. A `Run` is some windows ready to leave, each on the ACK that it waits
for; a `Shelf` has those of one thread, in bounded memory, so that transfers which read the same
file read and number each part of it once. Nothing here reads a file, or sends.
"""

from collections import OrderedDict
from collections.abc import Hashable
from struct import Struct

from tftp.blocks import octets_on_wire, on_wire
from tftp.packets import HEADER, MAX_DATAGRAM, Opcode

__all__ = ["MOST_IN_BATCH", "Batch", "Run", "Shelf"]

#: Octets that are read at once, at most.
MOST_IN_BATCH = 2 * MAX_DATAGRAM
# Octets of all runs of a shelf, and up to which there is room for more than a window in each.
_ROOM, _AMPLE = 16 << 20, 8 << 20
# Octets of a run that one transfer has for itself, and of one that several share. Those are many,
# and what all of them take should find a place in the processor's cache.
_OWN, _SHARED = 64 << 10, 32 << 10
# Octets of runs that nobody uses at present, kept for those who are not there yet.
_IDLE = 4 << 20

_NUMBER = Struct("!H")
_ACK = int(Opcode.ACK)


class Batch:
    """Room for DATA packets of one size, one behind the other.

    Attributes:
        size: octets of a whole packet, header included.
        slots: where the payload of each belongs.
        octets: all of them, as they go onto the wire.
    """

    __slots__ = ("octets", "size", "slots")

    def __init__(self, blksize: int, count: int) -> None:
        self.size = size = HEADER.size + blksize
        self.octets = memoryview(bytearray(count * size))
        self.octets[1::size] = bytes([Opcode.DATA]) * count
        starts = range(HEADER.size, count * size, size)
        self.slots = [self.octets[start : start + blksize] for start in starts]

    def number(self, first: int, count: int, rollover: int) -> None:
        """Write the numbers of `count` packets, the first of them that of block `first`."""
        octets, size = self.octets, self.size
        if count == 1:
            _NUMBER.pack_into(octets, 2, on_wire(first, rollover))
        else:
            end = count * size
            octets[2:end:size], octets[3:end:size] = octets_on_wire(first, count, rollover)


class Run(Batch):
    """Windows of a file, to leave one after the other.

    Attributes:
        acks: the ACK on which each window leaves.
        steps: each window, behind the ACK that the next one waits for; None at the end.
    """

    __slots__ = ("_windows", "_windowsize", "acks", "key", "steps", "users")

    def __init__(self, blksize: int, windowsize: int, windows: int) -> None:
        super().__init__(blksize, windows * windowsize)
        step = windowsize * self.size
        starts = range(0, len(self.octets), step)
        self._windows = [self.octets[start : start + step] for start in starts]
        self._windowsize = windowsize
        self.acks: list[bytes] = []
        self.steps: list[tuple[bytes | None, memoryview]] = []
        self.key: Hashable = None  # what the shelf knows it by, if others may take it
        self.users = 1

    def ready(self, acked: int, windows: int, rollover: int) -> None:
        """The slots hold so many windows; the first leaves when block `acked` is acknowledged."""
        windowsize = self._windowsize
        self.number(acked + 1, windows * windowsize, rollover)
        blocks = range(acked, acked + windows * windowsize, windowsize)
        self.acks = [HEADER.pack(_ACK, on_wire(block, rollover)) for block in blocks]
        # Those who share it share these, too: what a thousand clients need is found in the cache.
        self.steps = list(zip([*self.acks[1:], None], self._windows, strict=False))


class Shelf:
    """The runs of one thread. Whoever has one gives it back once."""

    __slots__ = ("_by_key", "_idle", "_idle_octets", "_left")

    def __init__(self) -> None:
        self._by_key: dict[Hashable, Run] = {}
        self._idle: OrderedDict[Hashable, Run] = OrderedDict()  # used by nobody, the oldest first
        self._idle_octets = 0
        self._left = _ROOM

    def take(self, key: Hashable) -> Run | None:
        """The run that was `put` under this key, if it is still there."""
        run = self._by_key.get(key)
        if run is not None:
            if not run.users:
                del self._idle[key]
                self._idle_octets -= len(run.octets)
            run.users += 1
        return run

    def make(
        self, blksize: int, windowsize: int, *, shared: bool = False, first: int = 0
    ) -> Run | None:
        """Room for some windows; None when there is too much of that already.

        Args:
            blksize, windowsize: of the transfer.
            shared: others will want it. Then it ends where theirs will, wherever they began.
            first: the number of the first window in it, from the beginning of the file.
        """
        size = windowsize * (HEADER.size + blksize)
        wanted = _SHARED if shared else _OWN
        windows = max(1, wanted // size) if self._left > _ROOM - _AMPLE else 1
        if shared:
            windows -= first % windows
        octets = windows * size
        while self._idle and octets > self._left:
            self._drop_oldest()
        if octets > min(self._left, MOST_IN_BATCH):
            return None
        self._left -= octets
        return Run(blksize, windowsize, windows)

    def put(self, key: Hashable, run: Run) -> None:
        """Others may take it from now on: it will not be written to any more."""
        if key not in self._by_key:
            run.key = key
            self._by_key[key] = run

    def give_back(self, run: Run) -> None:
        """A transfer is done with it."""
        run.users -= 1
        if run.users:
            return
        if run.key is None:
            self._left += len(run.octets)
            return
        self._idle[run.key] = run
        self._idle_octets += len(run.octets)
        while self._idle_octets > _IDLE:
            self._drop_oldest()

    def _drop_oldest(self) -> None:
        key, run = self._idle.popitem(last=False)
        del self._by_key[key]
        self._idle_octets -= len(run.octets)
        self._left += len(run.octets)
