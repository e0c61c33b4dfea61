"""A transfer whose file is there, as it runs: what waits at the port is stored, then acknowledged.

It knows nothing of holes and repeats (`tftp.receiver` does), and nothing of names and disks: a file
has its final name once the sink says so. Where that takes long, the thread that serves many others
has it done aside.
"""

import errno
import time
from typing import TYPE_CHECKING

from tftp.errors import ProtocolError, TFTPError
from tftp.events import Observer, Request
from tftp.net.endpoint import MOST_AT_ONCE
from tftp.session import Link, Session
from tftp.storage.base import Sink
from tftp.transfer import Receiver

if TYPE_CHECKING:
    from concurrent.futures import Future  # A client that reads has no use for it.

__all__ = ["ReceivingSession"]

# Calls to receive before the other transfers have their turn.
_RECEIVES_IN_A_ROW = 64


class ReceivingSession(Session):
    """A transfer whose file is there: a client that reads, a server that is written to.

    With `exact` the file must have as many octets as `tsize` announced. Without, `tsize` is a hint:
    netascii changes the size, and a client that writes may not know it.
    """

    __slots__ = ("_commit", "_committed", "_exact", "_sink")

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

    def readable(self, now: float) -> None:
        """Take in all that waits, up to what has to be answered, and store it in one go."""
        room = self._workspace.inbound
        for _ in range(_RECEIVES_IN_A_ROW):
            received = self._receive(room)
            if received is None:
                break
            octets, size = received
            self._hear(octets, size, now)
            room = room[len(octets) :]
            # What has come fills the buffer until it is stored.
            if self.machine.owes_answer or len(room) < MOST_AT_ONCE:
                break
        self._advance(now)

    def deliver(self, octets: memoryview, size: int, now: float) -> None:
        """Act on datagrams of `size` octets from the peer, one behind the other."""
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
        try:
            if chunks := machine.payloads():
                self._sink.write(chunks)
            if machine.complete and machine.outcome is None and not self._is_safe():
                return
        except (OSError, TFTPError) as error:
            self._storage_failed(error)
            return
        machine.stored(now)

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
