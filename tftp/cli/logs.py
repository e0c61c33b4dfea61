"""What `tftp serve` logs and where to: `--log-format`, `--syslog`, and the journal of systemd.

Standard output has a line for each result in any case (see `journal`), so transfers are logged only
where somebody asked for a log. What the library itself has to say goes to stderr always.
"""

import logging
import os
import sys
from pathlib import Path
from types import TracebackType

from tftp.cli.display import write_line
from tftp.events import Observer, printable
from tftp.monitor.daemons import JOURNAL, SYSLOG, Journald, Syslog, is_journal
from tftp.monitor.logs import Backlog, Json, Lines, Text, TransferLog, event_of
from tftp.monitor.place import Place

__all__ = ["FORMATS", "Log", "syslog_place"]

#: What `--log-format` can be.
FORMATS = ("text", "json", "journald")

logger = logging.getLogger("tftp")


def syslog_place(text: str) -> Place:
    """The place that `--syslog` names.

    Raises:
        ValueError: it is none; a directory is not one either, so none is taken by mistake.
    """
    path = text.removeprefix("unix:")
    if path.startswith("/") and "\0" not in path and not Path(path).is_dir():
        return Place(path=path)
    try:
        place = Place.parse(text)
    except ValueError:
        place = Place()
    if not place.port or ":" not in text:
        raise ValueError(
            f"'{printable(text)}' is no place of a syslog daemon: write --syslog alone for "
            f"{SYSLOG}, --syslog=/PATH or --syslog=HOST:514; in front of ROOT write "
            f"--syslog={SYSLOG}"
        )
    return place


class Log:
    """The log of a server, while the context lasts.

    Attributes:
        observer: what logs transfers; None where nobody asked for that.
        alone: whether stdout ends up where the log does, and should leave to it what both tell.
    """

    def __init__(self, form: str | None, syslog: Place | None, *, quiet: bool) -> None:
        """Decide what goes where; nothing is opened yet.

        Args:
            form: one of `FORMATS`; None is journald where stderr is the journal, else text without
                transfers.
            syslog: where to log besides.
            quiet: log what went wrong only.
        """
        # Without stderr its number may belong to another file by now: nothing is written there.
        descriptor = -1 if sys.stderr is None else sys.stderr.fileno()
        if form is None and is_journal(descriptor):
            form = "journald"
        handlers: list[logging.Handler] = []
        lines = Lines(descriptor, Json() if form == "json" else Text())
        if form is None:
            lines.addFilter(lambda record: event_of(record) is None)
        if form is None and syslog is not None:
            lines.setLevel(logging.WARNING)  # The rest has its place.
        handlers.append(Journald(JOURNAL, instead=lines) if form == "journald" else lines)
        if syslog is not None:
            handlers.append(Syslog(syslog))
        self._wanted = form is not None or syslog is not None
        self.observer: Observer | None = TransferLog(logger) if self._wanted else None
        shown = sys.stdout.fileno()
        self.alone = (
            is_journal(shown)
            if form == "journald"
            else form is not None and _same_file(descriptor, shown)
        )
        self._level = logging.INFO if self._wanted and not quiet else logging.WARNING
        self._backlog = Backlog(handlers)

    def __enter__(self) -> "Log":
        logger.setLevel(self._level)
        logger.addHandler(self._backlog)
        self._backlog.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        logger.removeHandler(self._backlog)
        self._backlog.close()

    def tell(self, line: str) -> None:
        """Log what stdout tells of the server itself."""
        if self._wanted:
            logger.info("%s", line)

    def warn(self, line: str) -> None:
        """Say on stderr, in its format, what whoever runs the server should know."""
        if self._wanted:
            logger.warning("%s", line.removeprefix("tftp: "))
        else:
            write_line(line)


def _same_file(one: int, other: int) -> bool:
    try:
        first, second = os.fstat(one), os.fstat(other)
    except OSError:  # One of them is closed.
        return False
    return (first.st_dev, first.st_ino) == (second.st_dev, second.st_ino)
