"""What a server tells on its terminal, in a pipe or as JSON: one line an event, from a queue.

The journal is an observer, so it is called by the threads that move the packets. All it does there
is to put the event into a queue; a thread of its own makes the line and writes it. The queue is
bounded: where the reader cannot keep up, lines are lost, and their number is told.
"""

import os
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from queue import SimpleQueue

from tftp.cli.display import count, granted_options, numbers, write_line
from tftp.errors import ErrorCode, TFTPError
from tftp.events import (
    Event,
    Operation,
    Outcome,
    RequestReceived,
    RequestRefused,
    TransferEnded,
    TransferProgress,
    TransferStarted,
    format_address,
    printable,
)

__all__ = ["Journal", "as_text", "is_failure", "is_result"]

#: Events that wait to be written. A boot storm brings some thousand a second.
_QUEUE_SIZE = 10_000
#: Seconds in which lines gather before they are written together.
_GATHER = 0.05
#: Seconds that the last lines have to leave, once the server has stopped.
_GRACE = 1.0


class Journal:
    """An observer that writes a line for each event that is wanted."""

    def __init__(
        self,
        descriptor: int,
        line: Callable[[Event], str],
        *,
        wanted: Callable[[Event], bool],
        lost: Callable[[int], str],
    ) -> None:
        """Write to `descriptor` what `line` makes of an event; `lost` tells of events dropped."""
        self._descriptor = descriptor
        self._line = line
        self._wanted = wanted
        self._lost = lost
        self._queue: SimpleQueue[Event | str | None] = SimpleQueue()
        self._has_reader = True
        self._lock = threading.Lock()
        self._dropped = 0
        self._closing = threading.Event()
        self._thread = threading.Thread(target=self._run, name="journal", daemon=True)

    def __call__(self, event: Event) -> None:
        """Take an event in; never waits."""
        if not (self._has_reader and self._wanted(event)):
            return
        if self._queue.qsize() < _QUEUE_SIZE:
            self._queue.put(event)
        else:
            with self._lock:
                self._dropped += 1

    def start(self) -> None:
        """Begin to write."""
        self._thread.start()

    def write(self, line: str) -> None:
        """Write a line of its own among those of the events."""
        self._queue.put(line)

    def close(self) -> None:
        """Write what waits, but not for ever: the reader may have stopped reading."""
        self._closing.set()
        self._queue.put(None)
        self._thread.join(_GRACE)

    def _run(self) -> None:
        try:
            self._write_all()
        except OSError as error:
            # The terminal, or whoever read the pipe, is gone. That is no reason not to serve.
            self._has_reader = False
            with suppress(OSError):
                write_line(f"tftp: the log can no longer be written ({error.strerror}), serving on")

    def _write_all(self) -> None:
        last = False
        while not last:
            entries = [self._queue.get()]
            # To be woken for each line would hold up the threads that move the packets.
            last = self._closing.wait(_GATHER)
            entries += [self._queue.get() for _ in range(self._queue.qsize())]
            lines = [
                entry if isinstance(entry, str) else self._line(entry)
                for entry in entries
                if entry is not None
            ]
            if self._dropped:
                with self._lock:
                    lost, self._dropped = self._dropped, 0
                lines.append(self._lost(lost))
            self._put(lines)

    def _put(self, lines: list[str]) -> None:
        # Straight to the descriptor: a write that never returns holds no lock of the interpreter.
        text = "".join(line + "\n" for line in lines)
        octets = memoryview(text.encode("utf-8", "backslashreplace"))
        while octets:
            octets = octets[os.write(self._descriptor, octets) :]


def is_failure(event: Event) -> bool:
    """Whether something went wrong that the one who runs the server may want to look into."""
    match event:
        case RequestRefused():
            return True
        case TransferEnded():
            return not event.outcome.succeeded
    return False


def is_result(event: Event) -> bool:
    """Whether this is the last that is heard of a request."""
    return isinstance(event, RequestRefused | TransferEnded)


def as_text(event: Event, stamp: str) -> str:
    """The line for a person; `stamp` is the format of the time, as `time.strftime` takes it."""
    request = event.request
    who = " ".join(
        (
            time.strftime(stamp, time.localtime(event.time)),
            format_address(request.peer),
            _VERBS[request.operation],
            printable(request.filename),
        )
    )
    return f"{who}: {_what(event)}"


_VERBS = {Operation.READ: "get", Operation.WRITE: "put"}
_ENDINGS = {
    Outcome.PROBED: "asked for the size only",
    Outcome.PEER_ERROR: "ended by the client",
    Outcome.PROTOCOL_ERROR: "the client broke the protocol",
    Outcome.TIMED_OUT: "the client fell silent",
    Outcome.UNREACHABLE: "the client could not be reached",
    Outcome.CRASHED: "failed",
    Outcome.STORAGE_ERROR: "failed",
    Outcome.ABORTED: "aborted",
}


def _what(event: Event) -> str:
    match event:
        case RequestReceived():
            asked = [
                f"{printable(name)} {printable(value)}"
                for name, value in event.request.options.items()
            ]
            return ", ".join(["asked", event.request.mode, *asked])
        case RequestRefused():
            return f"refused: {_why(event.error)}"
        case TransferStarted():
            size = "size unknown" if event.size is None else count(event.size, "byte")
            return ", ".join(["started", size, *granted_options(event.granted)])
        case TransferProgress():
            total = "" if event.size is None else f" of {event.size}"
            return f"{event.counters.payload}{total} bytes so far"
        case TransferEnded():
            ending = _ENDINGS.get(event.outcome, "")
            if event.error is not None:
                ending += f": {_why(event.error)}"
            return f"{ending}, {numbers(event)}" if ending else numbers(event)
    raise TypeError(f"no line for {type(event).__name__}")


def _why(error: TFTPError) -> str:
    words = f"{printable(error.message)} (error {int(error.code)})"
    cause = error.__cause__
    # The peer is not told what only the operator can mend.
    if error.code == ErrorCode.UNDEFINED and isinstance(cause, OSError):
        words += f": {printable(cause.strerror or str(cause))}"
    return words
