"""Signals that end the command: SIGINT, SIGTERM and SIGHUP, as bytes in a pipe.

Python runs a signal's handler between two bytecodes of the main thread, and that may be far away:
in a name lookup, reading a terminal, or waiting for a lock that it has just begun to wait for. The
byte that `set_wakeup_fd` writes is there at once, for whichever thread reads it.
"""

import os
import signal
import threading
from collections.abc import Callable
from types import FrameType, TracebackType

__all__ = ["Interruption", "SignalPipe"]

#: Seconds that a cancelled transfer has to end by itself, and how often it is told to meanwhile.
_GRACE = 1.0
_ATTEMPTS = 20
_END = 0  # No signal has this number.


class SignalPipe:
    """While the context lasts, the signals go here instead of killing. Main thread only."""

    def __enter__(self) -> "SignalPipe":
        self._reader, self._writer = os.pipe()
        os.set_blocking(self._writer, False)
        self._old_wakeup = signal.set_wakeup_fd(self._writer, warn_on_full_buffer=False)
        self._old_handlers = {number: signal.signal(number, _wake) for number in _signals()}
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        signal.set_wakeup_fd(self._old_wakeup)
        for number, handler in self._old_handlers.items():
            signal.signal(number, handler)
        os.close(self._reader)
        os.close(self._writer)

    def next(self) -> signal.Signals | None:
        """Wait for a signal; None where `end` was called instead."""
        while True:
            number = os.read(self._reader, 1)[0]
            if number == _END:
                return None
            if number in self._old_handlers:
                return signal.Signals(number)

    def end(self) -> None:
        """Have `next`, in another thread, return None."""
        os.write(self._writer, bytes([_END]))


class Interruption:
    """While the context lasts, a signal cancels a transfer.

    Attributes:
        signal: the signal that came, None so far.
    """

    def __init__(
        self, cancel: Callable[[], None], give_up: Callable[[signal.Signals], None]
    ) -> None:
        """`cancel` is called at a signal; `give_up`, with it, if that did not help in time."""
        self.signal: signal.Signals | None = None
        self._cancel = cancel
        self._give_up = give_up
        self._over = threading.Event()
        self._pipe = SignalPipe()
        self._thread = threading.Thread(target=self._watch, name="signals", daemon=True)

    def __enter__(self) -> "Interruption":
        self._pipe.__enter__()
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._over.set()
        self._pipe.end()
        self._thread.join()
        self._pipe.__exit__(kind, error, trace)

    def _watch(self) -> None:
        while (number := self._pipe.next()) is not None:
            self.signal = number
            for _ in range(_ATTEMPTS):
                # Time and again: a signal may come before there is anything to cancel.
                self._cancel()
                if self._over.wait(_GRACE / _ATTEMPTS):
                    break
            else:
                self._give_up(number)


def _signals() -> list[signal.Signals]:
    """Those to watch. A SIGHUP that is ignored (nohup) stays ignored."""
    hangup = [] if signal.getsignal(signal.SIGHUP) is signal.SIG_IGN else [signal.SIGHUP]
    return [signal.SIGINT, signal.SIGTERM, *hangup]


def _wake(number: int, frame: FrameType | None) -> None:
    """Nothing to do: that there is a handler makes the system write to the wakeup descriptor."""
