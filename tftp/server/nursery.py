"""The process that the children of the process engine are forked from.

It has one thread and nothing to do but this, so forking it is safe and cheap: everything that a
child needs is imported already. It also buries the children, and tells the engine how each ended.
When the engine is gone, however it went, the nursery ends all of them and itself.
"""

import contextlib
import ctypes
import gc
import logging
import os
import select
import signal
import socket
import sys

from tftp.net.processor import interrupt_nobody
from tftp.server.channel import Channel
from tftp.server.child import Child
from tftp.server.launch import parts_of_launch
from tftp.server.logs import redirect_log

__all__ = ["main"]

logger = logging.getLogger("tftp")

_PR_SET_PDEATHSIG = 1
# Looked up before there are children: each of them would have its own copy of what that touches.
_prctl = ctypes.CDLL(None).prctl if sys.platform == "linux" else None


def main(descriptor: int) -> None:
    """Run the nursery; `descriptor` is the channel to the engine."""
    parts, doors, level = parts_of_launch()
    # A terminal's Ctrl-C goes to every process of the group: what to do about it, the server says.
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    channel = Channel(socket.socket(fileno=descriptor), blocking=True)
    redirect_log(channel.offer, level)
    Nursery(channel, parts, [socket.socket(fileno=door) for door in doors]).run()


class Nursery:
    """Forks children at the engine's word."""

    def __init__(
        self, channel: Channel, parts: "tuple[object, ...]", doors: list[socket.socket]
    ) -> None:
        self._channel = channel
        self._parts = parts
        self._doors = doors
        self._children: set[int] = set()
        self._bell, self._ringer = os.pipe()
        for end in (self._bell, self._ringer):
            os.set_blocking(end, False)

    def run(self) -> None:
        """Serve until the engine has closed the channel."""
        signal.signal(signal.SIGCHLD, lambda *_: None)
        signal.set_wakeup_fd(self._ringer, warn_on_full_buffer=False)
        # What is here now is never garbage; without this the collector would touch, and so copy,
        # every page of it in each child.
        gc.collect()
        gc.freeze()
        with contextlib.suppress(EOFError, ConnectionError):
            self._channel.send("ready")
            while True:
                ready, _, _ = select.select([self._channel.fileno(), self._bell], [], [])
                if self._channel.fileno() in ready:
                    self._obey()
                if self._bell in ready:
                    os.read(self._bell, 512)
                    self._bury()
        self._end_all()

    def _obey(self) -> None:
        messages = self._channel.receive()
        for message in messages:
            match message:
                case ("fork",):
                    self._fork()
                case "level", level:
                    logger.setLevel(level)
                case "kill", pid if pid in self._children:
                    os.kill(pid, signal.SIGKILL)

    def _fork(self) -> None:
        here, there = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
        nursery = os.getpid()
        pid = os.fork()
        if not pid:
            here.close()
            self._become_child(there, nursery)
        there.close()
        self._children.add(pid)
        with here:
            self._channel.send_descriptor(here.fileno(), "born", pid)

    def _become_child(self, channel: socket.socket, nursery: int) -> None:
        """Never returns."""
        status = 1
        try:
            signal.set_wakeup_fd(-1)
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            os.close(self._bell)
            os.close(self._ringer)
            self._channel.close()
            _die_with(nursery)
            interrupt_nobody()
            upward = Channel(channel, blocking=True)
            redirect_log(upward.offer)
            Child(upward, self._parts, self._doors).run()  # type: ignore[arg-type]
            status = 0
        except SystemExit as error:
            status = error.code if isinstance(error.code, int) else 1
        except BaseException:
            logger.critical("process %d ends by a fault of the program", os.getpid(), exc_info=True)
        finally:
            # Not the interpreter's own way out: that would run the nursery's clean-up twice.
            sys.stderr.flush()
            os._exit(status)

    def _bury(self) -> None:
        dead = _dead_children()
        # All of them first: a number may be somebody else's soon, and the engine may be gone.
        self._children.difference_update(pid for pid, _ in dead)
        for pid, status in dead:
            self._channel.send("gone", pid, status)

    def _end_all(self) -> None:
        for pid in self._children:
            os.kill(pid, signal.SIGKILL)
        while self._children:
            pid, _ = os.wait()
            self._children.discard(pid)


def _dead_children() -> list[tuple[int, int]]:
    dead = []
    with contextlib.suppress(ChildProcessError):
        while True:
            pid, status = os.waitpid(-1, os.WNOHANG)
            if not pid:
                break
            dead.append((pid, status))
    return dead


def _die_with(nursery: int) -> None:
    """Have the system end this process when the nursery dies, even by SIGKILL (Linux)."""
    if _prctl is not None:
        _prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != nursery:  # It died before that could be said.
            os._exit(1)
