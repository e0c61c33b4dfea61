"""Transfers in the log: one record for each that ended or was refused, under the logger `tftp`.

A record carries its event as the attribute `tftp`, and its words are made only when a formatter
asks for them: the threads that move packets pay for a record and its place in a queue. `Text` is
for people and `Json` for programs; names from the network can break neither. Where lines go is
not decided here: any handler of `logging` will do, and `daemons` has those for syslog and journald.
"""

import json
import logging
import os
import threading
from collections.abc import Collection, Mapping, Sequence
from copy import copy
from datetime import datetime
from logging.handlers import QueueHandler
from queue import SimpleQueue
from typing import TypeGuard

from tftp.errors import ErrorCode, TFTPError
from tftp.events import Event, RequestRefused, TransferEnded, as_json, printable

__all__ = [
    "Backlog",
    "Json",
    "Lines",
    "Result",
    "Text",
    "TransferLog",
    "event_of",
    "exception_of",
    "fields_of",
    "key_values",
    "one_line",
    "stamp",
]

logger = logging.getLogger("tftp")

#: The last that is heard of a request.
Result = RequestRefused | TransferEnded

# Records that wait to be written. A boot storm brings some thousand a second.
_QUEUE_SIZE = 10_000
# Seconds that the last records have to leave, once the log is closed.
_GRACE = 1.0
# What a message says of these fields already.
_SAID = frozenset(
    {"peer", "operation", "file", "outcome", "code", "reason", "octets", "duration", "transfer"}
)


class TransferLog:
    """An observer that logs how each request ended: at info if it went well, else at warning.

    A server that is only asked for a file's size has done well, too.
    """

    def __init__(self, to: logging.Logger = logger) -> None:
        """Log to the logger `to`."""
        self._logger = to

    def __call__(self, event: Event) -> None:
        """Log the event if it is the last of its request."""
        if not _is_result(event):
            return
        well = isinstance(event, TransferEnded) and event.outcome.succeeded
        level = logging.INFO if well else logging.WARNING
        if self._logger.isEnabledFor(level):
            # `Logger.log` would first look for its caller, at twice the price; it is this line.
            record = self._logger.makeRecord(
                self._logger.name,
                level,
                __file__,
                0,
                _Sentence(event),
                (),
                None,
                extra={"tftp": event},
            )
            self._logger.handle(record)


def _is_result(event: Event) -> TypeGuard[Result]:
    return isinstance(event, Result)


def event_of(record: logging.LogRecord) -> Result | None:
    """The event that a record tells of; None for the records of the library itself."""
    event = getattr(record, "tftp", None)
    return event if isinstance(event, Result) else None


def fields_of(event: Result) -> dict[str, str | int | float]:
    """The event as names and plain values; what came from the network is printable.

    Times are seconds, rates octets per second; options are written `name=value`.
    """
    told = as_json(event)
    found: dict[str, str | int | float] = {
        "transfer": event.transfer,
        "peer": told["peer"],
        "operation": told["operation"],
        "file": told["file"],
        "outcome": told.get("outcome", "refused"),
    }
    if event.error is not None:
        found |= {"code": told["error"]["code"], "reason": _why(event.error)}
    if isinstance(event, TransferEnded):
        counters = event.counters
        found |= {"octets": counters.payload, "duration": round(event.duration, 6)}
        if counters.payload and event.duration > 0:
            found["rate"] = round(counters.payload / event.duration)
        if event.size is not None:
            found["size"] = event.size
        found |= {"blksize": event.terms.blksize, "windowsize": event.terms.windowsize}
        if event.round_trip is not None:
            found["round_trip"] = round(event.round_trip, 6)
        for name in ("retransmissions", "duplicates", "timeouts", "gaps"):
            found[name] = getattr(counters, name)
    found |= {"mode": told["mode"], "local": told["local"]}
    for name in ("asked", "granted"):
        if told.get(name):
            found[name] = " ".join(f"{option}={value}" for option, value in told[name].items())
    return found


def _why(error: TFTPError) -> str:
    cause = error.__cause__
    words = printable(error.message)
    # The peer is not told what only the operator can mend.
    if error.code == ErrorCode.UNDEFINED and isinstance(cause, OSError):
        words += f": {printable(cause.strerror or str(cause))}"
    return words


class _Sentence:
    """The words for an event, made when they are asked for; they are printable."""

    __slots__ = ("_event",)

    def __init__(self, event: Result) -> None:
        self._event = event

    def __str__(self) -> str:
        told = fields_of(self._event)
        words = f"{told['peer']} {told['operation']} {_quoted(told['file'])}: {told['outcome']}"
        if "reason" in told:
            # Always in quotes: a peer that sends "done, 7 octets" shall not be taken for us.
            words += f", {_in_quotes(str(told['reason']))} (error {told['code']})"
        if "octets" in told:
            words += f", {told['octets']} octets in {told['duration']:.3f} s"
        return f"{words}, transfer {told['transfer']}"


def key_values(told: Mapping[str, str | int | float], without: Collection[str] = ()) -> str:
    """Fields as `name=value name="a value with blanks"`, but for those in `without`."""
    return " ".join(
        f"{name}={_quoted(value)}" for name, value in told.items() if name not in without
    )


def _quoted(value: str | int | float) -> str:
    text = str(value)
    bare = text and not any(letter.isspace() or letter in '"=' for letter in text)
    return text if bare else _in_quotes(text)


def _in_quotes(text: str) -> str:
    # Printable text has no lone backslash, so this one cannot be taken for a part of it.
    return '"' + text.replace('"', '\\"') + '"'


def one_line(text: str) -> str:
    """The text with an escape for whatever would end its line or steer a terminal.

    Backslashes stay: text that `printable` has been through stays as it is.
    """
    if text.isprintable():
        return text
    return "".join(letter if letter.isprintable() else printable(letter) for letter in text)


def stamp(record: logging.LogRecord) -> str:
    """When it was logged, by RFC 3339, in local time."""
    return datetime.fromtimestamp(record.created).astimezone().isoformat(timespec="milliseconds")


def exception_of(record: logging.LogRecord) -> str:
    """The traceback that a record carries, or nothing."""
    if record.exc_text:
        return record.exc_text
    return _TRACEBACKS.formatException(record.exc_info) if record.exc_info else ""


_TRACEBACKS = logging.Formatter()


class Text(logging.Formatter):
    """A line for people: time, level, message, and the fields that the message leaves out.

    Only a traceback has further lines. They are indented, so none can be taken for a record.
    """

    def format(self, record: logging.LogRecord) -> str:
        """The text of a record, without an end of line."""
        words = [stamp(record), record.levelname.lower(), one_line(record.getMessage())]
        if event := event_of(record):
            words.append(key_values(fields_of(event), without=_SAID))
        lines = [" ".join(words)]
        lines += [f"    {one_line(line)}" for line in exception_of(record).splitlines()]
        return "\n".join(lines)


class Json(logging.Formatter):
    """An object on one line: time, level, message; `tftp` is the event in its JSON form."""

    def format(self, record: logging.LogRecord) -> str:
        """The object of a record, without an end of line."""
        told: dict[str, object] = {
            "time": stamp(record),
            "level": record.levelname.lower(),
            "message": record.getMessage(),
        }
        if event := event_of(record):
            told["tftp"] = as_json(event)
        if traceback := exception_of(record):
            told["exception"] = traceback
        return json.dumps(told)


class Lines(logging.Handler):
    """A handler that writes to a descriptor, a line for each record."""

    def __init__(self, descriptor: int, formatter: logging.Formatter) -> None:
        """Write to `descriptor`, which stays open."""
        super().__init__()
        self.setFormatter(formatter)
        self._descriptor = descriptor

    def emit(self, record: logging.LogRecord) -> None:
        """Write the record; it may have to wait for the reader."""
        octets = memoryview(self.format(record).encode("utf-8", "backslashreplace") + b"\n")
        try:
            # Straight to the descriptor: a write that never returns then holds no lock that the
            # interpreter needs to end.
            while octets:
                octets = octets[os.write(self._descriptor, octets) :]
        except OSError:
            # The reader is gone, and with it the one place where that could be told.
            return


class Backlog(QueueHandler):
    """Hands records to handlers in a thread of its own, so that no transfer waits for a log.

    Its queue is bounded: where the handlers cannot keep up, records are dropped, and the next that
    gets through is preceded by one that says how many. The handlers need not lock: nobody else
    calls them. It works from `start` to `close`.

    Unlike `QueueListener`, it does not wait for ever for a handler that is stuck when it is closed.
    """

    def __init__(self, handlers: Sequence[logging.Handler], *, size: int = _QUEUE_SIZE) -> None:
        """Feed `handlers`; at most `size` records wait."""
        # A queue without a lock: whoever logs has nothing to wait for.
        self._records: SimpleQueue[logging.LogRecord | None] = SimpleQueue()
        super().__init__(self._records)
        self._handlers = tuple(handlers)
        self._size = size
        self._closed = False
        self._dropped = self._told = 0
        self._thread = threading.Thread(target=self._run, name="tftp-log", daemon=True)

    @property
    def dropped(self) -> int:
        """How many records there was no room for."""
        return self._dropped

    def start(self) -> None:
        """Begin to write."""
        self._thread.start()

    def prepare(self, record: logging.LogRecord) -> logging.LogRecord:
        """Make a record independent of what it was made from, which may change until it is read.

        Events do not change.
        """
        if event_of(record) is None:
            record = copy(record)
            record.msg, record.args = record.getMessage(), None
            if record.exc_info:
                record.exc_text, record.exc_info = exception_of(record), None
        return record

    def enqueue(self, record: logging.LogRecord) -> None:
        """Put a record into the queue, or drop it; never waits."""
        if self._closed or self._records.qsize() >= self._size:
            self._dropped += 1  # `logging` has locked this handler.
        else:
            self._records.put(record)

    def close(self) -> None:
        """Write what waits, but not for ever: the reader may have stopped reading."""
        if not self._closed:
            self._closed = True
            if self._thread.is_alive():
                self._records.put(None)
                self._thread.join(_GRACE)
            for handler in self._handlers:
                handler.close()
        super().close()

    def _run(self) -> None:
        while (record := self._records.get()) is not None:
            self._tell_dropped()
            self._pass_on(record)
        self._tell_dropped()

    def _tell_dropped(self) -> None:
        if number := self._dropped - self._told:
            self._told += number
            words = "%d records lost: the log is written too slowly"
            args = (number,)
            self._pass_on(
                logger.makeRecord(logger.name, logging.WARNING, __file__, 0, words, args, None)
            )

    def _pass_on(self, record: logging.LogRecord) -> None:
        for handler in self._handlers:
            try:
                if record.levelno >= handler.level and handler.filter(record):
                    # Not `handle`: it would hold the handler's lock meanwhile, and `logging` waits
                    # for that lock when the interpreter ends.
                    handler.emit(record)
            except Exception:
                handler.handleError(record)
