"""A `tftp` that has a terminal's whole screen, and what is on it now.

A frame is what comes between two moves of the cursor to the upper left corner: the view is drawn
anew each time. Nothing here sleeps: a test waits for a frame, or for the end of the process.
"""

import fcntl
import os
import pty
import re
import select
import struct
import subprocess
import termios
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from tests.cli.running import COMMAND, PATIENCE, environment

__all__ = ["Screen", "on_screen"]

_HOME = "\x1b[H"
_STYLE = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")


class Screen:
    """The terminal of a `tftp` that runs."""

    def __init__(self, process: "subprocess.Popen[bytes]", master: int) -> None:
        self.process = process
        self.written = ""
        self._master = master

    @property
    def frame(self) -> str:
        """What is on the screen, without its styles."""
        return _STYLE.sub("", self.written.rpartition(_HOME)[2]).replace("\r\n", "\n")

    @property
    def cooked(self) -> bool:
        """Whether the terminal is as a shell wants it: it echoes, and gives whole lines."""
        flags = termios.tcgetattr(self._master)[3]
        return bool(flags & termios.ECHO) and bool(flags & termios.ICANON)

    def see(self, pattern: str) -> "re.Match[str]":
        """Read until this regular expression is on the screen."""
        until = time.monotonic() + PATIENCE
        while not (found := re.search(pattern, self.frame)):
            going = time.monotonic() < until and self._read()
            assert going, f"{pattern!r} never came; the screen shows\n{self.frame}"
        return found

    def type(self, keys: str) -> None:
        """Press keys; "\\x03" is Ctrl-C."""
        os.write(self._master, keys.encode())

    def resize(self, width: int, height: int) -> None:
        """Have another size."""
        _set_size(self._master, width, height)

    def wait(self) -> int:
        """Read to the end, and give the exit code."""
        while self._read():
            pass
        return self.process.wait(PATIENCE)

    def hang_up(self) -> int:
        """Take the terminal away, and give the exit code."""
        os.close(self._master)
        self._master = -1
        return self.process.wait(PATIENCE)

    def close(self) -> None:
        """Take the terminal away, if it is there still."""
        if self._master >= 0:
            os.close(self._master)

    def _read(self) -> bool:
        if not select.select([self._master], [], [], PATIENCE)[0]:
            return False
        try:
            octets = os.read(self._master, 1 << 16)
        except OSError:  # Linux: EIO once the other side has been closed.
            return False
        self.written += octets.decode(errors="replace")
        return bool(octets)


@contextmanager
def on_screen(
    *arguments: str,
    cwd: Path,
    size: tuple[int, int] = (80, 24),
    variables: Mapping[str, str] | None = None,
) -> Iterator[Screen]:
    """Run `tftp` on a terminal of this size for as long as the block takes."""
    master, slave = pty.openpty()
    _set_size(slave, *size)
    variables = {**environment(), "LC_ALL": "C.UTF-8", **(variables or {})}
    for name in ("COLUMNS", "LINES"):  # They would count more than the terminal.
        variables.pop(name, None)

    def take_terminal() -> None:
        fcntl.ioctl(0, termios.TIOCSCTTY, 0)

    with subprocess.Popen(
        [*COMMAND, *arguments],
        cwd=cwd,
        stdin=slave,
        stdout=slave,
        stderr=slave,
        start_new_session=True,
        preexec_fn=take_terminal,
        env=variables,
    ) as process:
        os.close(slave)
        screen = Screen(process, master)
        try:
            yield screen
        finally:
            if process.poll() is None:
                process.kill()
            screen.close()


def _set_size(descriptor: int, width: int, height: int) -> None:
    fcntl.ioctl(descriptor, termios.TIOCSWINSZ, struct.pack("HHHH", height, width, 0, 0))
