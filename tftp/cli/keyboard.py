"""Single keys from a terminal, as they are pressed, and the terminal as it was when it is over.

What the keys mean is not known here. Ctrl-C, Ctrl-Z and their like stay signals.
"""

import codecs
import os
import re
import termios
import tty
from types import TracebackType

__all__ = ["Keyboard"]

# What terminals send for keys that are no letters, in both of their modes.
_NAMES = {
    "\x1b[A": "up",
    "\x1bOA": "up",
    "\x1b[B": "down",
    "\x1bOB": "down",
    "\x1b[5~": "page up",
    "\x1b[6~": "page down",
    "\x1b[H": "home",
    "\x1bOH": "home",
    "\x1b[1~": "home",
    "\x1b[7~": "home",
    "\x1b[F": "end",
    "\x1bOF": "end",
    "\x1b[4~": "end",
    "\x1b[8~": "end",
    "\x1b[Z": "back tab",
    "\t": "tab",
    "\r": "enter",
    "\n": "enter",
    "\x1b": "escape",
}
# A sequence that begins with escape (ECMA-48 5.4), or a single character.
_KEY = re.compile(r"\x1b\[[0-?]*[ -/]*[@-~]|\x1bO.|\x1b|[^\x1b]", re.DOTALL)
_AT_ONCE = 1024


class Keyboard:
    """While the context lasts, the terminal gives each key at once and shows none of them."""

    def __init__(self, descriptor: int) -> None:
        """`descriptor` is that of a terminal."""
        self._descriptor = descriptor
        self._decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")

    def __enter__(self) -> "Keyboard":
        self._before = termios.tcgetattr(self._descriptor)
        tty.setcbreak(self._descriptor)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        # What was typed and not read is not for the shell.
        termios.tcsetattr(self._descriptor, termios.TCSAFLUSH, self._before)

    def fileno(self) -> int:
        """For `select`."""
        return self._descriptor

    def read(self) -> list[str]:
        """The keys that were pressed: letters, or names such as "up"; waits for the first.

        Raises:
            EOFError: the terminal is gone.
        """
        try:
            octets = os.read(self._descriptor, _AT_ONCE)
        except OSError as error:  # Linux: EIO when the other side has hung up.
            raise EOFError from error
        if not octets:
            raise EOFError
        return keys(self._decoder.decode(octets))


def keys(text: str) -> list[str]:
    """The keys in what a terminal has sent. Sequences that mean none of ours come as they are."""
    return [_NAMES.get(sequence, sequence) for sequence in _KEY.findall(text)]
