"""Events as a server would tell them, made by hand, for tests of what becomes of them."""

from typing import Any

from tftp.errors import Refused, TFTPError
from tftp.events import (
    Counters,
    Operation,
    Outcome,
    Request,
    RequestReceived,
    RequestRefused,
    TransferEnded,
    TransferProgress,
    TransferStarted,
)
from tftp.options import Terms

__all__ = ["Happening"]

#: When everything begins, in seconds since the epoch.
NOON = 1_795_500_000.0


class Happening:
    """A transfer, and the events of its life; times are seconds after `NOON`."""

    def __init__(
        self,
        number: int,
        name: bytes = b"boot/vmlinuz",
        host: str = "192.0.2.7",
        *,
        operation: Operation = Operation.READ,
        **request: Any,
    ) -> None:
        self.number = number
        self.request = Request(
            operation=operation,
            filename=name,
            peer=(host, 49152),
            local=("192.0.2.1", 69),
            **request,
        )
        self.terms = Terms(blksize=1428, windowsize=16)
        self.granted = {"blksize": "1428", "windowsize": "16"}

    def received(self, at: float = 0.0) -> RequestReceived:
        return RequestReceived(**self._common(at))

    def refused(self, error: TFTPError | None = None, at: float = 0.0) -> RequestRefused:
        return RequestRefused(**self._common(at), error=error or Refused("file not found", 1))

    def started(self, at: float = 0.0, size: int | None = 4096) -> TransferStarted:
        return TransferStarted(
            **self._common(at), terms=self.terms, granted=self.granted, size=size
        )

    def progress(self, payload: int, at: float, **counters: int) -> TransferProgress:
        return TransferProgress(
            **self._common(at),
            counters=Counters(payload=payload, **counters),
            size=4096,
            round_trip=0.002,
        )

    def ended(
        self,
        outcome: Outcome = Outcome.DONE,
        error: TFTPError | None = None,
        *,
        at: float = 1.0,
        duration: float = 1.0,
        round_trip: float | None = 0.002,
        **counters: int,
    ) -> TransferEnded:
        return TransferEnded(
            **self._common(at),
            outcome=outcome,
            error=error,
            terms=self.terms,
            granted=self.granted,
            size=4096,
            counters=Counters(**counters),
            round_trip=round_trip,
            duration=duration,
        )

    def _common(self, at: float) -> dict[str, Any]:
        return {"time": NOON + at, "transfer": self.number, "request": self.request}
