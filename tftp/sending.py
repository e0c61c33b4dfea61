"""A transfer whose file is here, as it runs: windows are read, and leave on the ACKs that come.

What looks ahead here is for speed alone, and steps aside at the first loss: then the machine
(`tftp.sender`) says what to send, as it does at the beginning and at the end.
"""

from collections.abc import Hashable, Iterator
from typing import Any

from tftp.errors import TFTPError
from tftp.events import Observer, Request
from tftp.net.batch import Run
from tftp.net.endpoint import Emit
from tftp.net.kernel import MAX_SEGMENTS_OCTETS
from tftp.session import LOSSES, Link, Session
from tftp.storage.base import Source
from tftp.transfer import Sender

__all__ = ["SendingSession"]

# Octets that an ACK or an ERROR may have; for more Python would go to `malloc` each time.
_SMALL = 512 - 48
# A transfer of fewer windows is over before looking ahead has paid.
_LOOK_AHEAD_FROM = 4


class SendingSession(Session):
    """A transfer whose file is here: a server that is read from, a client that writes.

    As long as nothing gets lost, the same happens over and over: the ACK that was awaited comes,
    and the next window leaves. So some windows are read and numbered beforehand (`_look_ahead`),
    each leaves on its ACK (`_step`), and the machine is told of all of them together (`_account`),
    at the latest before it is asked anything.
    """

    __slots__ = (
        "_awaited",
        "_lasts",
        "_leave",
        "_recv",
        "_recvfrom",
        "_run",
        "_size",
        "_source",
        "_steps",
    )

    machine: Sender

    def __init__(
        self,
        machine: Sender,
        source: Source,
        request: Request,
        link: Link,
        *,
        report: Observer,
        number: int,
        now: float,
    ) -> None:
        super().__init__(
            machine, request, link, report=report, number=number, now=now, size=source.size
        )
        self._source = source
        sock = link.endpoint.socket
        self._recvfrom = sock.recvfrom
        # Where only the peer is heard its address need not be looked at.
        self._recv = None if link.endpoint.side is None else sock.recv
        self._run: Run | None = None
        self._awaited: bytes | None = None  # the ACK on which the next of the steps is taken
        self._size = 0  # octets of a full packet
        self._leave = (self._emit, self._to)  # how a window leaves
        self._lasts = False  # the windows that are ready stay as they are
        self._steps: Iterator[tuple[bytes | None, memoryview]] = iter(())

    def readable(self, now: float) -> bool:
        """Take in an ACK; where nothing gets lost, answer it with the window that is ready."""
        awaited = self._awaited
        if awaited is None:
            return super().readable(now)
        recv = self._recv
        try:
            if recv is not None:
                datagram, sender = recv(_SMALL), self.peer
            else:
                datagram, sender = self._recvfrom(_SMALL)
        except OSError:
            return super().readable(now)  # Nothing, or an error, which will come again.
        if recv is None and sender != self.peer and not self._is_peer(sender):
            self._turn_away(memoryview(datagram), sender)
        elif datagram == awaited:
            return self._step(datagram, now)
        else:
            self.deliver(memoryview(datagram), len(datagram), now)
        return False

    def unsent(self, error: OSError) -> None:
        """A window that waited to be sent with others could not be: it is lost, as a network may
        lose it, and the timer sends it again, if that is not the end.
        """
        if not self._cut_no_more(error):
            super().unsent(error)

    # -- looking ahead ----------------------------------------------------------------------------

    def _look_ahead(self) -> None:
        """Read the next full windows while the peer still has the present one."""
        self._awaited = None
        machine = self.machine
        if self._run is None and machine.counters.blocks < _LOOK_AHEAD_FROM:
            return
        block = machine.awaited()
        if block is None:
            return
        run = self._run_from(block)
        if run is not None:
            self._size = run.size
            self._leave = self._route(run.size, machine.terms.windowsize)
            self._lasts = run.key is not None
            self._awaited = run.acks[0]
            self._steps = iter(run.steps)

    def _run_from(self, acked: int) -> Run | None:
        """The windows behind block `acked`, read here or by others who want the same; None where
        looking ahead does not pay, or there is no room for it.
        """
        key = self._shared_as(acked)
        if key is not None or (self._run is not None and self._run.key is not None):
            self._put_run_back()
        if key is not None:
            self._run = found = self._workspace.shelf.take(key)
            if found is not None:
                return found
        if self._run is None:
            self._run = self._new_run(acked, shared=key is not None)
        if self._run is None or not self._fill(self._run, acked):
            return None
        if key is not None:
            self._workspace.shelf.put(key, self._run)
        return self._run

    def _shared_as(self, acked: int) -> Hashable | None:
        """What others who read the same will look for; None where there is nobody."""
        file = getattr(self._source, "identity", None)
        if file is None:
            return None
        terms = self.machine.terms
        return (file, terms.blksize, terms.windowsize, terms.rollover or 0, acked)

    def _new_run(self, acked: int, *, shared: bool) -> Run | None:
        """Room to look ahead in, where the transfer is long enough for that to pay."""
        if self._source.size is None:
            return None  # It is read once: a window back from there is all that it remembers.
        terms = self.machine.terms
        if acked < _LOOK_AHEAD_FROM * terms.windowsize or self.fileno() < 0:
            return None
        first = acked // terms.windowsize
        return self._workspace.shelf.make(
            terms.blksize, terms.windowsize, shared=shared, first=first
        )

    def _fill(self, run: Run, acked: int) -> bool:
        """Whether there is a full window behind block `acked`, which now is in `run`."""
        terms = self.machine.terms
        try:
            octets = self._source.read_into(run.slots, acked * terms.blksize)
        except (OSError, TFTPError):
            return False  # It will be met again where it belongs, when these blocks are due.
        windows = octets // (terms.windowsize * terms.blksize)
        if windows:
            run.ready(acked, windows, terms.rollover or 0)
        return bool(windows)

    def _put_run_back(self) -> None:
        if self._run is not None:
            self._workspace.shelf.give_back(self._run)
            self._run = None
            # A reactor may remember this session for a while, and what was ready need not stay.
            self._steps = iter(())

    def _step(self, ack: bytes, now: float) -> bool:
        """Send the window that is ready; if it was the last of them, prepare some more.

        True if that was all, and nothing of what a reactor has to know has changed.
        """
        self._awaited, window = next(self._steps)
        outbox = self._workspace.outbox
        if outbox.corked:
            emit, to = self._leave
            outbox.put(emit, window if self._lasts else bytes(window), to, self)
        elif not self._send_step(window, ack, now):
            return False
        self._taken += 1
        self._stepped_at = now
        if self._awaited is None:
            self._account()
            self._look_ahead()
        if now >= self._next_progress:
            self._account()
            self._report_progress(now)
        return True

    def _send_step(self, window: memoryview, ack: bytes, now: float) -> bool:
        """Send a window now. False if the network has not taken all of it."""
        machine = self.machine
        windowsize = machine.terms.windowsize
        emit, to = self._leave
        try:
            sent = emit(window, to)
        except BlockingIOError:
            sent = 0
        except OSError as error:
            if self._cut_no_more(error):
                sent = self._send_blocks(window, self._size, windowsize)
            else:
                self._network_failed(error)
                sent = windowsize  # It is lost, if that is not the end.
            if machine.outcome is not None:
                self._advance(now)  # The network refused it for good.
                return False
        if sent < windowsize:
            self._account()
            self._awaited = None
            machine.receive(ack, now)
            machine.sent(sent, now)
            self.blocked = True
            return False
        return True

    # -- sending ----------------------------------------------------------------------------------

    def _work(self, now: float) -> None:
        """Send what the window allows: one read and, where the kernel can, one call to send."""
        machine = self.machine
        self._send_windows(now)
        if not self.blocked and machine.outcome is None:
            self._look_ahead()

    def _send_windows(self, now: float) -> None:
        machine = self.machine
        while not self.blocked and (blocks := machine.window()):
            blksize = machine.terms.blksize
            batch = self._workspace.batch(blksize, len(blocks))
            count = min(len(blocks), len(batch.slots))
            try:
                octets = self._source.read_into(batch.slots[:count], (blocks.start - 1) * blksize)
            except (OSError, TFTPError) as error:
                self._storage_failed(error)
                return
            last = None
            if octets < count * blksize:
                count, last = octets // blksize + 1, octets % blksize
            batch.number(blocks.start, count, machine.terms.rollover or 0)
            total = count * batch.size - (0 if last is None else blksize - last)
            sent = self._send_blocks(batch.octets[:total], batch.size, count)
            if machine.outcome is not None:
                return  # The network refused them for good.
            machine.sent(sent, now, last if sent == count else None)
            self.blocked = sent < count
            if sent == len(blocks):
                return

    def _send_blocks(self, packets: memoryview, size: int, count: int) -> int:
        """How many of `count` packets are on their way, or soon will be."""
        outbox = self._workspace.outbox
        if outbox.corked and len(packets) <= MAX_SEGMENTS_OCTETS:
            emit, to = self._route(size, count)
            outbox.put(emit, bytes(packets), to, self)
            return count
        try:
            return self._endpoint.send_blocks(packets, size, self.peer)
        except OSError as error:
            self._network_failed(error)
            return count

    def _route(self, size: int, count: int) -> tuple[Emit, Any]:
        """How packets of `size` octets leave for the peer, so many at once."""
        return self._endpoint.route(self.peer, size, count)

    def _cut_no_more(self, error: OSError) -> bool:
        """Whether a window may have been refused as a whole; packets go one by one from now on."""
        windowsize = self.machine.terms.windowsize
        if error.errno in LOSSES or windowsize == 1 or not self._endpoint.cut_no_more():
            return False
        self._leave = self._route(self._size, windowsize)
        return True

    def _settle(self) -> None:
        self._awaited = None
        self._put_run_back()
        self._source.close()
