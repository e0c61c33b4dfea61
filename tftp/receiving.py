"""A transfer whose file is there, as it runs: what waits at the port is stored, then acknowledged.

It knows nothing of holes and repeats (`tftp.receiver` does), and nothing of names and disks: a file
has its final name once the sink says so. Where that takes long, the thread that serves many others
has it done aside.
"""

import errno
import time
from typing import TYPE_CHECKING

from tftp.blocks import MAX_WIRE, on_wire
from tftp.errors import ProtocolError, TFTPError
from tftp.events import Observer, Request
from tftp.net.endpoint import MOST_AT_ONCE
from tftp.packets import HEADER, Opcode
from tftp.session import Link, Session
from tftp.storage.base import Sink
from tftp.transfer import Receiver

if TYPE_CHECKING:
    from concurrent.futures import Future  # A client that reads has no use for it.

__all__ = ["ReceivingSession"]

# Calls to receive before the other transfers have their turn.
_RECEIVES_IN_A_ROW = 64

_NOTHING = memoryview(b"")
# Where the low octet of a block's number stands.
_LOW = 3
_DATA, _ACK = int(Opcode.DATA), int(Opcode.ACK)


class ReceivingSession(Session):
    """A transfer whose file is there: a client that reads, a server that is written to.

    With `exact` the file must have as many octets as `tsize` announced. Without, `tsize` is a hint:
    netascii changes the size, and a client that writes may not know it.
    """

    __slots__ = (
        "_commit",
        "_committed",
        "_exact",
        "_expected",
        "_full",
        "_sink",
        "_unheard",
    )

    machine: Receiver

    def __init__(
        self,
        machine: Receiver,
        sink: Sink,
        request: Request,
        link: Link,
        *,
        report: Observer,
        number: int,
        now: float,
        exact: bool = False,
    ) -> None:
        super().__init__(machine, request, link, report=report, number=number, now=now)
        self._sink = sink
        self._exact = exact
        self._committed = False
        self._commit: Future[None] | None = None  # it is under way, aside
        # Opcode and number of the packet with which the next step is taken, and its octets.
        self._expected: tuple[int, int] | None = None
        self._full = 0
        self._unheard = _NOTHING  # full blocks that it does not know of

    def readable(self, now: float) -> bool:
        """Take in what waits; in lock-step, and where nothing gets lost, that is the next block."""
        if self._expected is None:
            self._gather(now)
            return False
        return super().readable(now)

    def _gather(self, now: float) -> None:
        """Take in all that waits, up to what has to be answered, and store it in one go.

        Blocks that follow each other gather, until no more are awaited or none comes: together they
        cost the machine hardly more than one.
        """
        buffer = self._workspace.inbound
        machine = self.machine
        heard = end = 0  # so much of the buffer is known to the machine, and so much is filled
        awaited, number, full = machine.awaited
        self._full = full
        self._stepped_at = now
        for _ in range(_RECEIVES_IN_A_ROW):
            received = self._receive(buffer[end:])
            if received is None:
                break
            octets, size = received
            follows = size == full and octets[_LOW] == number & 0xFF
            if not follows:
                self._account()
                heard = end
            end += len(octets)
            has_room = len(buffer) - end >= MOST_AT_ONCE
            if follows and end - heard < awaited * full and has_room:
                self._unheard = buffer[heard:end]
                number += len(octets) // full
                continue
            self._unheard = _NOTHING
            self._hear(buffer[heard:end], size, now)
            heard = end
            # What has come fills the buffer until it is stored.
            if machine.owes_answer or not has_room:
                break
            awaited, number, _ = machine.awaited
        self._account()
        self._advance(now)

    def deliver(self, octets: memoryview, size: int, now: float) -> None:
        """Act on datagrams of `size` octets from the peer, one behind the other."""
        full = self._expected is not None and len(octets) == size == self._full
        if full and HEADER.unpack_from(octets) == self._expected:
            self._step(octets, now)
            return
        self._account()
        self._hear(octets, size, now)
        self._advance(now)

    def abort(self, error: TFTPError, *, tell: bool = True) -> None:
        """End the transfer for this reason; `tell` the peer, unless it has moved on.

        A file that is just being made safe is waited for: it can not be called back.
        """
        if self._commit is not None:
            self._commit.exception()
            self.resume()
        super().abort(error, tell=tell)

    def resume(self) -> None:
        """What was done aside is done."""
        self._advance(time.monotonic())

    def _hear(self, octets: memoryview, size: int, now: float) -> None:
        if self._commit is not None:
            return  # All has come. Whatever the peer says, it will get the last ACK when it is due.
        if len(octets) <= size:
            self.machine.receive(octets, now)
        else:
            self.machine.receive_joined(octets, size, now)

    def _network_failed(self, error: OSError) -> None:
        super()._network_failed(error)
        # It may be a stranger whose host says so.
        if error.errno == errno.ECONNREFUSED and not self.strangers:
            self.machine.peer_is_gone()

    def _work(self, now: float) -> None:
        """Store what has come; only then may the machine acknowledge it."""
        machine = self.machine
        self._expected = None
        try:
            if chunks := machine.payloads():
                self._sink.write(chunks)
            if machine.complete and machine.outcome is None and not self._is_safe():
                return
        except (OSError, TFTPError) as error:
            self._storage_failed(error)
            return
        machine.stored(now)
        self._look_forward()

    def _look_forward(self) -> None:
        """Know the next block beforehand, where it is the only one that can come next."""
        block, terms = self.machine.expected(), self.machine.terms
        self._expected = None if block is None else (_DATA, on_wire(block, terms.rollover or 0))
        self._full = HEADER.size + terms.blksize

    def _step(self, packet: memoryview, now: float) -> None:
        """Store the block that was expected, and acknowledge it."""
        try:
            self._sink.write((packet[HEADER.size :],))
        except (OSError, TFTPError) as error:
            self._account()
            self._storage_failed(error)
            self._advance(now)
            return
        self._taken += 1
        self._stepped_at = now
        _, number = HEADER.unpack_from(packet)
        self._send(HEADER.pack(_ACK, number))
        if self.machine.outcome is not None:
            self._advance(now)  # The network refused it for good.
            return
        self._expected = (_DATA, number + 1)
        if number == MAX_WIRE or now >= self._next_progress:
            self._account()
            self._look_forward()
            self._report_progress(now)

    def _account(self) -> None:
        super()._account()
        if self._unheard:
            unheard, self._unheard = self._unheard, _NOTHING
            self._hear(unheard, self._full, self._stepped_at)

    def _is_safe(self) -> bool:
        """Whether the whole file is committed; if that was not even begun, it is now."""
        commit, self._commit = self._commit, None
        if commit is None:
            self._check_size()
            self._committed = True  # `commit` ends the sink, even where it fails.
            aside = self._workspace.aside
            if aside is None or not getattr(self._sink, "commits_slowly", False):
                self._sink.commit()
                return True
            commit = aside.do(self._sink.commit, self, self.resume)
        elif commit.done():
            commit.result()
            return True
        self._commit = commit
        self.machine.deadline = None  # It is this side that is waited for.
        return False

    def _check_size(self) -> None:
        announced, came = self.machine.terms.tsize, self.machine.counters.payload
        # Some servers answer 0 where they do not know.
        if self._exact and announced and announced != came:
            raise ProtocolError(f"{announced} octets were announced, but {came} came")

    def _settle(self) -> None:
        if not self._committed:
            self._sink.discard()
