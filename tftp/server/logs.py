"""The log of a server that is several processes: one, and the first process writes it.

What the logger `tftp` gets in another process travels as text to the process that started it, and
is logged there as if it had happened there: the same handlers, the same level. No transfer waits
for that; what finds no room on the way is counted, and the count told.
"""

import logging
import os
from collections.abc import Callable

__all__ = ["LevelWatch", "RecordSender", "log_record", "redirect_log"]

logger = logging.getLogger("tftp")

# Characters of a message and of a traceback that travel, at most; of the latter, the last ones.
_LONGEST, _LONGEST_TRACE = 2048, 6144
# Seconds between two looks at the level.
_LOOK = 1.0

_TRACES = logging.Formatter()


class RecordSender(logging.Handler):
    """Passes records on as plain values: level, process, message and traceback."""

    def __init__(self, offer: Callable[..., bool]) -> None:
        """`offer` sends a message, or says that there is no room for it. It must not log."""
        super().__init__()
        self._offer = offer
        self._lost = 0

    def emit(self, record: logging.LogRecord) -> None:
        """Pass a record on, or count it as lost."""
        try:
            trace = _TRACES.formatException(record.exc_info) if record.exc_info else ""
            message = record.getMessage()[:_LONGEST]
        except Exception:
            self.handleError(record)
            return
        if self._lost and self._send(logging.WARNING, f"{self._lost} records were lost", ""):
            self._lost = 0
        if not self._send(record.levelno, message, trace[-_LONGEST_TRACE:]):
            self._lost += 1

    def _send(self, level: int, message: str, trace: str) -> bool:
        try:
            return self._offer("log", level, os.getpid(), message, trace)
        except OSError:  # Nobody hears this process any more, and it is about to end.
            return False


def redirect_log(offer: Callable[..., bool], level: int | None = None) -> None:
    """Have all that the logger `tftp` gets in this process go to `offer`, and nowhere else.

    Below `level`, if it is given, nothing is even made.
    """
    for handler in list(logger.handlers):
        logger.removeHandler(handler)
    logger.addHandler(RecordSender(offer))
    logger.propagate = False
    if level is not None:
        logger.setLevel(level)


def log_record(level: int, process: int, message: str, trace: str) -> None:
    """Log here what a `RecordSender` has sent."""
    if not logger.isEnabledFor(level):
        return
    logger.handle(
        logging.makeLogRecord(
            {
                "name": logger.name,
                "levelno": level,
                "levelname": logging.getLevelName(level),
                "msg": message,
                "exc_text": trace or None,
                "process": process,
            }
        )
    )


class LevelWatch:
    """Tells when the level of the logger has changed; a `Handler` for a reactor.

    Anybody may change it at any time, and a logger tells nobody.
    """

    blocked = False
    finished = False

    def __init__(self, tell: Callable[[int], None]) -> None:
        """`tell` is called with each new level."""
        self.armed = 0.0
        self.deadline: float | None = 0.0
        self.level = logger.getEffectiveLevel()
        self._tell = tell

    def fileno(self) -> int:
        """It has no descriptor."""
        return -1

    def readable(self, now: float) -> None:
        """Never waited for."""

    def writable(self, now: float) -> None:
        """Never waited for."""

    def expire(self, now: float) -> None:
        """Look again."""
        self.deadline = now + _LOOK
        level = logger.getEffectiveLevel()
        if level != self.level:
            self.level = level
            self._tell(level)

    def failed(self, error: Exception) -> None:
        """Some process could not be told; it will end by itself."""
        logger.error("a change of the log's level was not passed on", exc_info=error)

    def close(self) -> None:
        """There is nothing to close."""
