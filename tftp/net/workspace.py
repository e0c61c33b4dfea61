"""What the transfers of one thread share: room for what comes, and what leaves together.

Between two calls nothing of value is in the buffers, so a transfer costs none of its own. Nothing
here knows the protocol beyond the four octets in front of each block.
"""

from collections.abc import Callable
from mmap import mmap
from typing import TYPE_CHECKING, Any, Protocol

from tftp.net import kernel
from tftp.net.batch import MOST_IN_BATCH, Batch, Shelf
from tftp.net.endpoint import MOST_AT_ONCE, Emit
from tftp.packets import HEADER

if TYPE_CHECKING:
    from concurrent.futures import Future

__all__ = ["Aside", "Outbox", "Workspace"]

# Room for a window of 64 blocks of 1428, and then some.
_INBOUND = 3 * MOST_AT_ONCE
# How many datagrams an outbox gathers.
_IN_A_ROW = 32
# How many block sizes a workspace keeps room for.
_LAYOUTS = 8


class Postman(Protocol):
    """Who has put a datagram into an outbox."""

    def unsent(self, error: OSError) -> None:
        """The network says why it will never take the datagram."""


class Outbox:
    """Datagrams of many transfers that leave together.

    Half of what a datagram costs to send is to wake who receives it. While one of a row wakes him
    the others cost nothing of that, if they leave without anything in between.

    Attributes:
        corked: datagrams are to be put here, for as long as that is so.
    """

    __slots__ = ("_failed", "_waiting", "corked")

    def __init__(self) -> None:
        self.corked = False
        self._waiting: list[tuple[Emit, bytes | memoryview, Any, Postman]] = []
        self._failed: list[Postman] = []

    def put(self, emit: Emit, datagrams: bytes | memoryview, to: Any, owner: Postman) -> None:
        """Have `emit(datagrams, to)` called soon (see `Endpoint.route`); they do not change."""
        waiting = self._waiting
        waiting.append((emit, datagrams, to, owner))
        if len(waiting) >= _IN_A_ROW:
            self._send()

    def uncork(self) -> list[Postman]:
        """Send what has gathered, and let everything else leave at once. Who was told `unsent`."""
        self.corked = False
        if self._waiting:
            self._send()
        failed = self._failed
        if failed:
            self._failed = []
        return failed

    def _send(self) -> None:
        waiting, self._waiting = self._waiting, []
        for emit, datagrams, to, owner in waiting:
            try:
                emit(datagrams, to)
            except BlockingIOError:
                pass  # A full queue loses it, as the network may.
            except OSError as error:
                owner.unsent(error)
                self._failed.append(owner)


class Aside(Protocol):
    """Who does what would hold a thread up."""

    def do(self, work: Callable[[], None], owner: Any, then: Callable[[], None]) -> "Future[None]":
        """Have `work` done elsewhere, then `then`, a method of `owner`, called by the thread."""


class Workspace:
    """The buffers of one thread, and its outgoing datagrams.

    Attributes:
        inbound: room for what is received.
        outbox: what leaves together.
        shelf: what transfers have ready beforehand.
        aside: who does what takes long; None where nobody else is held up by it.
    """

    __slots__ = ("_batches", "aside", "inbound", "outbox", "shelf")

    def __init__(self) -> None:
        self.aside: Aside | None = None
        self.outbox = Outbox()
        # Unlike a bytearray's these zeroes are not written: a page that is not used costs nothing.
        self.inbound = memoryview(mmap(-1, _INBOUND))
        self._batches: dict[int, Batch] = {}
        self.shelf = Shelf()

    def batch(self, blksize: int, count: int) -> Batch:
        """Room for so many DATA packets of this block size, or for fewer where that is too much.

        The last one asked for is overwritten.
        """
        most = max(1, min(kernel.MAX_SEGMENTS, MOST_IN_BATCH // (HEADER.size + blksize)))
        count = min(count, most)
        batch = self._batches.get(blksize)
        if batch is None or len(batch.slots) < count:
            if len(self._batches) >= _LAYOUTS:
                self._batches.clear()
            batch = self._batches[blksize] = Batch(blksize, count)
        return batch
