"""What a server notes of transfers in other processes, to tell of them if such a process dies."""

import signal
import time

from tftp.errors import ErrorCode, Refused
from tftp.events import (
    Counters,
    Event,
    Outcome,
    Request,
    TransferEnded,
    TransferProgress,
    TransferStarted,
)
from tftp.options import Terms

__all__ = ["Job", "obituary"]


class Job:
    """A transfer elsewhere, as far as it is known here.

    Attributes:
        number: of the transfer.
        request: what was asked.
        started: the event that told of its start, once there was one.
    """

    __slots__ = ("_counters", "number", "request", "started")

    def __init__(self, number: int, request: Request) -> None:
        self.number = number
        self.request = request
        self.started: TransferStarted | None = None
        self._counters = Counters()

    def note(self, event: Event) -> None:
        """Take in an event about it."""
        match event:
            case TransferStarted():
                self.started = event
            case TransferProgress():
                self._counters = event.counters

    def crashed(self, why: str) -> TransferEnded:
        """The event that tells of its end with its process, whose obituary is `why`."""
        now = time.time()
        started = self.started
        return TransferEnded(
            time=now,
            transfer=self.number,
            request=self.request,
            outcome=Outcome.CRASHED,
            error=Refused(why, ErrorCode.UNDEFINED),
            terms=started.terms if started else Terms(),
            granted=started.granted if started else {},
            size=started.size if started else None,
            counters=self._counters,
            round_trip=None,
            duration=now - started.time if started else 0.0,
        )


def obituary(pid: int, code: int) -> str:
    """How a process ended, in words; `code` is its exit code, negative for a signal."""
    if code < 0:
        return f"process {pid} was killed by {signal.Signals(-code).name}"
    return f"process {pid} exited with status {code}"
