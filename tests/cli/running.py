"""The command as people run it: a process, in a pipe or on a terminal, and peers with a script.

Nothing here sleeps: a test waits for a line, a datagram, or the end of a process.
"""

import fcntl
import io
import os
import pty
import queue
import re
import signal
import socket
import struct
import subprocess
import sys
import termios
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

from tftp.packets import Packet, decode

REPOSITORY = Path(__file__).parents[2]
COMMAND = [sys.executable, "-m", "tftp"]
#: Seconds after which something that should come is taken for lost. Never waited for in full.
PATIENCE = 20.0
_REPEAT = 0.2


def environment() -> dict[str, str]:
    """As it is, but for what would make the output depend on the machine."""
    kept = {name: text for name, text in os.environ.items() if not name.startswith("PYTEST")}
    return kept | {"PYTHONPATH": str(REPOSITORY), "TERM": "xterm", "COLUMNS": "100"}


def run(
    *arguments: str | Path, cwd: Path, stdin: bytes | None = b""
) -> subprocess.CompletedProcess[bytes]:
    """Run `tftp` with these arguments to its end, its output in pipes."""
    return subprocess.run(
        [*COMMAND, *map(str, arguments)],
        cwd=cwd,
        input=stdin,
        capture_output=True,
        timeout=PATIENCE,
        env=environment(),
        check=False,
    )


class Lines:
    """The lines of a stream, as they come."""

    def __init__(self, stream: IO[bytes]) -> None:
        self._lines: queue.Queue[bytes] = queue.Queue()
        self._stream = stream
        self._thread = threading.Thread(target=self._read, daemon=True)
        self._thread.start()

    def next(self) -> str:
        """The next line without its end; fails where none comes."""
        line = self._lines.get(timeout=PATIENCE)
        assert line, "the stream has ended"
        return line.decode().rstrip("\n")

    def rest(self) -> list[str]:
        """All lines to the end of the stream."""
        self._thread.join(PATIENCE)
        return [line.decode().rstrip("\n") for line in iter(self._lines.get_nowait, b"")]

    def _read(self) -> None:
        for line in self._stream:
            self._lines.put(line)
        self._lines.put(b"")


class Running:
    """A `tftp` that runs, its output in pipes."""

    def __init__(self, process: "subprocess.Popen[bytes]") -> None:
        assert process.stderr is not None
        self.process = process
        self.stdout = Lines(process.stdout or io.BytesIO())
        self.stderr = Lines(process.stderr)

    def signal(self, number: signal.Signals) -> None:
        """Send a signal."""
        self.process.send_signal(number)

    def wait(self) -> int:
        """The exit code, when it has ended by itself."""
        return self.process.wait(PATIENCE)


@contextmanager
def running(*arguments: str | Path, cwd: Path, **popen: Any) -> Iterator[Running]:
    """Run `tftp` for as long as the block takes; the block should see to its end."""
    with subprocess.Popen(
        [*COMMAND, *map(str, arguments)],
        cwd=cwd,
        stdin=popen.pop("stdin", subprocess.DEVNULL),
        stdout=popen.pop("stdout", subprocess.PIPE),
        stderr=subprocess.PIPE,
        env=popen.pop("env", None) or environment(),
        **popen,
    ) as process:
        try:
            yield Running(process)
        finally:
            if process.poll() is None:
                process.kill()


class Terminal:
    """A `tftp` on a terminal of its own, which is its stdin, stdout and stderr."""

    def __init__(self, process: "subprocess.Popen[bytes]", master: int) -> None:
        self.process = process
        self.seen = b""
        self._master = master

    def wait_for(self, pattern: str) -> "re.Match[str]":
        """Read until the screen has shown this regular expression."""
        while not (found := re.search(pattern, self.text)):
            assert self._read(), f"{pattern!r} never came; the terminal shows {self.text!r}"
        return found

    def wait(self) -> int:
        """Read to the end, and give the exit code."""
        while self._read():
            pass
        return self.process.wait(PATIENCE)

    def type(self, keys: bytes) -> None:
        """Press keys; b"\\x03" is Ctrl-C."""
        os.write(self._master, keys)

    @property
    def text(self) -> str:
        """All that has been written so far."""
        return self.seen.decode(errors="replace").replace("\r\n", "\n")

    def _read(self) -> bytes:
        try:
            octets = os.read(self._master, 4096)
        except OSError:  # Linux: EIO once the other side has been closed.
            return b""
        self.seen += octets
        return octets


@contextmanager
def on_terminal(*arguments: str | Path, cwd: Path) -> Iterator[Terminal]:
    """Run `tftp` on a terminal of 100 columns for as long as the block takes."""
    master, slave = pty.openpty()
    fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", 40, 100, 0, 0))

    def take_terminal() -> None:
        fcntl.ioctl(0, termios.TIOCSCTTY, 0)

    with subprocess.Popen(
        [*COMMAND, *map(str, arguments)],
        cwd=cwd,
        stdin=slave,
        stdout=slave,
        stderr=slave,
        start_new_session=True,
        # Ctrl-C reaches the processes of the terminal's session only.
        preexec_fn=take_terminal,
        env=environment(),
    ) as process:
        os.close(slave)
        try:
            yield Terminal(process, master)
        finally:
            if process.poll() is None:
                process.kill()
            os.close(master)


class Peer:
    """A UDP socket with a script: one side of a conversation, played by a test."""

    def __init__(self) -> None:
        self._socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self._socket.bind(("127.0.0.1", 0))
        self._socket.settimeout(PATIENCE)
        self.other: Any = None

    @property
    def port(self) -> int:
        """The port that it listens on."""
        return int(self._socket.getsockname()[1])

    @property
    def url(self) -> str:
        """The URL of its root."""
        return f"tftp://127.0.0.1:{self.port}"

    def receive(self) -> Packet:
        """The next packet; whoever sent it is the other from now on."""
        octets, self.other = self._socket.recvfrom(65536)
        return decode(octets)

    def receive_a(self, *kinds: type) -> Any:
        """The next packet of one of these kinds; repeats of others are passed over."""
        while not isinstance(packet := self.receive(), kinds):
            pass
        return packet

    def send(self, packet: Packet, to: Any = None) -> None:
        """Send a packet, to the other unless told otherwise."""
        self._socket.sendto(packet.encode(), to or self.other)

    def insist(self, packet: Packet) -> Packet:
        """Send a packet, and again as a timer would, until it is answered; gives the answer."""
        self._socket.settimeout(_REPEAT)
        for _ in range(round(PATIENCE / _REPEAT)):
            self.send(packet)
            try:
                return self.receive()
            except TimeoutError:
                continue
        raise AssertionError(f"nobody answers {packet}")

    def close(self) -> None:
        """Let the port go."""
        self._socket.close()


def one_line(octets: bytes) -> str:
    """The only line of an output."""
    lines = octets.decode().splitlines()
    assert len(lines) == 1, lines
    return lines[0]


def names(folder: Path) -> Sequence[str]:
    """What is in a folder, hidden files too."""
    return sorted(entry.name for entry in folder.iterdir())
