"""Signals that end a transfer: SIGINT, SIGTERM and SIGHUP become a call of its `cancel`.

Python runs a signal's handler between two bytecodes of the main thread, which may be far away: in a
name lookup, or reading a terminal. The byte that `set_wakeup_fd` writes comes at once, so a
thread waits for it, cancels from outside as the client's interface means it, and where even that
does not end the transfer in time, ends the process.
"""

import os
import signal
import threading
from collections.abc import Callable
from types import FrameType, TracebackType

__all__ = ["Interruption"]

#: Seconds that a cancelled transfer has to end by itself.
_GRACE = 1.0
_ATTEMPTS = 20
_OVER = 0  # No signal has this number: it ends the watching thread.


class Interruption:
    """While the context lasts, a signal cancels instead of killing.

    Attributes:
        signal: the signal that came, None so far.
    """

    def __init__(
        self, cancel: Callable[[], None], give_up: Callable[[signal.Signals], None]
    ) -> None:
        """`cancel` is called at a signal; `give_up`, with it, if that did not help."""
        self.signal: signal.Signals | None = None
        self._cancel = cancel
        self._give_up = give_up
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="signals", daemon=True)

    def __enter__(self) -> "Interruption":
        self._reader, self._writer = os.pipe()
        os.set_blocking(self._writer, False)
        self._old_wakeup = signal.set_wakeup_fd(self._writer, warn_on_full_buffer=False)
        self._old_handlers = {number: signal.signal(number, _wake) for number in _signals()}
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._over.set()
        signal.set_wakeup_fd(self._old_wakeup)
        for number, handler in self._old_handlers.items():
            signal.signal(number, handler)
        os.write(self._writer, bytes([_OVER]))
        self._thread.join()
        os.close(self._reader)
        os.close(self._writer)

    def _watch(self) -> None:
        while (number := os.read(self._reader, 1)[0]) != _OVER:
            if number not in self._old_handlers:
                continue
            self.signal = signal.Signals(number)
            for _ in range(_ATTEMPTS):
                # Time and again: a signal may come before there is anything to cancel.
                self._cancel()
                if self._over.wait(_GRACE / _ATTEMPTS):
                    break
            else:
                self._give_up(self.signal)


def _signals() -> list[signal.Signals]:
    """Those to watch. A SIGHUP that is ignored (nohup) stays ignored."""
    hangup = [] if signal.getsignal(signal.SIGHUP) is signal.SIG_IGN else [signal.SIGHUP]
    return [signal.SIGINT, signal.SIGTERM, *hangup]


def _wake(number: int, frame: FrameType | None) -> None:
    """Nothing to do: that there is a handler makes the system write to the wakeup descriptor."""
