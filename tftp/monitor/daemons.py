"""Handlers for the logging daemons of a host: syslog, and systemd's journal with its own fields.

Both take one datagram a record. A daemon that is missing, stuck or restarted is told once when it
goes and once when it is back; it never raises, and it costs at most a second at a time. That is why
they are not built on `SysLogHandler`, which prints a traceback for each record that it loses, and
waits for as long as the daemon likes. Put them behind a `logs.Backlog`.
"""

import logging
import os
import socket
import struct
import time
from abc import abstractmethod
from logging.handlers import SysLogHandler

from tftp.events import Address, printable
from tftp.monitor.logs import event_of, exception_of, fields_of, key_values, one_line, stamp
from tftp.monitor.place import Place

__all__ = ["JOURNAL", "SYSLOG", "Journald", "Syslog", "is_journal"]

logger = logging.getLogger("tftp")

#: Where syslog daemons listen on this host.
SYSLOG = "/dev/log"
#: Where systemd's journal takes datagrams in its native protocol.
JOURNAL = "/run/systemd/journal/socket"

_IDENTIFIER = "tftp"
# Seconds that a daemon may take for a record, and before it is tried again after a failure.
_PATIENCE, _RETRY = 1.0, 2.0
# RFC 5424 6.1: receivers should take 2048 octets, and may cut what is longer; rsyslog's limit is
# this by default.
_LONGEST_LINE = 8192
# A field of the journal. All of a record has to go into one datagram, of some 200 kB.
_LONGEST_FIELD = 1 << 14
_LENGTH = struct.Struct("<Q")

# Lowest level first: the severities of RFC 5424 6.2.1.
_SEVERITIES = (
    (logging.CRITICAL, SysLogHandler.LOG_CRIT),
    (logging.ERROR, SysLogHandler.LOG_ERR),
    (logging.WARNING, SysLogHandler.LOG_WARNING),
    (logging.INFO, SysLogHandler.LOG_INFO),
)


def _severity(record: logging.LogRecord) -> int:
    known = (severity for level, severity in _SEVERITIES if record.levelno >= level)
    return next(known, SysLogHandler.LOG_DEBUG)


class _Daemon(logging.Handler):
    """A handler that sends each record as a datagram.

    What cannot be sent goes to the handler `instead`, or is lost where there is none.
    """

    def __init__(self, place: Place, name: str, instead: logging.Handler | None = None) -> None:
        super().__init__()
        self._place = place
        self._name = name
        self._instead = instead
        self._socket: socket.socket | None = None
        self._address: Address | str = place.path
        self._again: float | None = None  # When to try once more, after a failure.
        self._missed = 0

    def emit(self, record: logging.LogRecord) -> None:
        """Send the record."""
        if self._again is not None and time.monotonic() < self._again:
            self._miss(record)
            return
        try:
            self._send(self._encode(record))
        except OSError as error:
            first = self._again is None
            self._hang_up()
            self._again = time.monotonic() + _RETRY
            self._miss(record)
            if first:
                meanwhile = "the log is lost" if self._instead is None else "the log goes to stderr"
                logger.warning(
                    "cannot reach %s at %s (%s): meanwhile %s",
                    self._name,
                    printable(str(self._place).removeprefix("unix:")),
                    error.strerror or error,
                    meanwhile,
                )
            return
        if self._again is not None:
            self._again = None
            missed, self._missed = self._missed, 0
            logger.warning("%s is back; it has missed %d records", self._name, missed)

    def close(self) -> None:
        """Let the socket go."""
        self._hang_up()
        super().close()

    @abstractmethod
    def _encode(self, record: logging.LogRecord) -> bytes:
        """The datagram for a record."""

    def _send(self, datagram: bytes) -> None:
        if self._socket is None:
            self._socket = self._open()
        # Never connected: a daemon that is restarted is found again under the same name.
        self._socket.sendto(datagram, self._address)

    def _open(self) -> socket.socket:
        family: int = socket.AF_UNIX
        if not self._place.path:
            # A name is looked up again after a failure: it may stand for another host by then.
            family, _, _, _, self._address = socket.getaddrinfo(
                self._place.host, self._place.port, type=socket.SOCK_DGRAM
            )[0]
        opened = socket.socket(family, socket.SOCK_DGRAM)
        opened.settimeout(_PATIENCE)
        return opened

    def _hang_up(self) -> None:
        if self._socket is not None:
            self._socket.close()
            self._socket = None

    def _miss(self, record: logging.LogRecord) -> None:
        self._missed += 1
        if self._instead is not None:
            self._instead.emit(record)


class Syslog(_Daemon):
    """A handler for a syslog daemon: on this host through its socket, elsewhere by RFC 5424 (UDP).

    The message is followed by all fields as `name=value`, the same in both forms. What is too long
    is cut, and ends in three dots. UDP tells nobody whether a datagram has arrived.
    """

    def __init__(self, place: Place, *, facility: int = SysLogHandler.LOG_DAEMON) -> None:
        """Send to `place`, which need not exist yet.

        Args:
            place: the path of the daemon's socket, or a host and a UDP port.
            facility: one of `SysLogHandler`'s.
        """
        super().__init__(place, "syslog")
        self._facility = facility

    def _encode(self, record: logging.LogRecord) -> bytes:
        words = record.getMessage()
        if event := event_of(record):
            words += f" {key_values(fields_of(event))}"
        if traceback := exception_of(record):
            words += f"\n{traceback}"
        line = f"{self._header(record)}{one_line(words)}".encode("utf-8", "backslashreplace")
        if len(line) <= _LONGEST_LINE:
            return line
        return line[: _LONGEST_LINE - 3].decode("utf-8", "ignore").encode() + b"..."

    def _header(self, record: logging.LogRecord) -> str:
        priority = self._facility << 3 | _severity(record)
        pid = os.getpid()
        if self._place.path:
            # What the C library's syslog(3) writes, and what every daemon reads on a local socket.
            when = time.asctime(time.localtime(record.created))[4:19]
            return f"<{priority}>{when} {_IDENTIFIER}[{pid}]: "
        kind = "-" if event_of(record) is None else "transfer"
        host = socket.gethostname() or "-"
        return f"<{priority}>1 {stamp(record)} {host} {_IDENTIFIER} {pid} {kind} - "


class Journald(_Daemon):
    """A handler for systemd's journal, in its native protocol: each field by itself.

    `journalctl -t tftp TFTP_PEER=...` then finds what it looks for, and `-o json` has all fields.
    """

    def __init__(self, path: str = JOURNAL, *, instead: logging.Handler | None = None) -> None:
        """Send to the socket `path`; what cannot be sent goes to `instead`."""
        super().__init__(Place(path=path), "the journal", instead)

    def _encode(self, record: logging.LogRecord) -> bytes:
        # One that is not printable is shown by journalctl as so many octets of "blob data".
        lines = [record.getMessage(), *exception_of(record).splitlines()]
        message = "\n".join(map(one_line, lines))
        fields: dict[str, str | int | float] = {
            "MESSAGE": message,
            "PRIORITY": _severity(record),
            "SYSLOG_IDENTIFIER": _IDENTIFIER,
        }
        if event := event_of(record):
            fields |= {f"TFTP_{name.upper()}": value for name, value in fields_of(event).items()}
        return b"".join(_field(name, str(value)) for name, value in fields.items())


def _field(name: str, value: str) -> bytes:
    """A field of the journal; a value with a line feed says its length first."""
    if len(value) > _LONGEST_FIELD:
        value = value[:_LONGEST_FIELD] + "..."
    octets = value.encode("utf-8", "backslashreplace")
    if b"\n" in octets:
        return name.encode() + b"\n" + _LENGTH.pack(len(octets)) + octets + b"\n"
    return name.encode() + b"=" + octets + b"\n"


def is_journal(descriptor: int, variable: str | None = None) -> bool:
    """Whether what is written to a descriptor ends up in systemd's journal.

    Args:
        descriptor: for example 2, standard error.
        variable: what $JOURNAL_STREAM says; by default that of this process.
    """
    if variable is None:
        variable = os.environ.get("JOURNAL_STREAM", "")
    try:
        status = os.fstat(descriptor)
    except OSError:  # It is closed.
        return False
    # systemd.exec(5): a program whose output has been turned elsewhere inherits the variable, so
    # what it names must be the very file.
    return variable == f"{status.st_dev}:{status.st_ino}"
