"""Running a server under observation: when it is ready, what it costs, and that all of it ends.

A server may be many processes, and some fork one for each transfer. Where Linux lets us (as root,
cgroup 2), each server runs in a control group of its own: the kernel counts its processor time
exactly, the dead children's too, and no process escapes. Elsewhere the tree under the server's
process is walked; a server that ignores SIGCHLD (tftp-hpa) then hides its children's time, and
`Server.exact` says so.
"""

import contextlib
import os
import select
import signal
import socket
import subprocess
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from types import TracebackType

__all__ = ["Memory", "NotReady", "Sampler", "Server", "Where", "free_port"]

Where = tuple[str, int]

# Seconds for a server to come up, and to go.
_READY = 15.0
_GONE = 3.0
# Seconds between two looks at a server's memory.
_LOOK = 0.02
_TICKS = os.sysconf("SC_CLK_TCK")
_numbers = count(1)


class NotReady(Exception):
    """A server does not come up; the text says what it said."""


class Server:
    """A TFTP server as one or more processes, from the `with` to its end."""

    def __init__(self, command: Sequence[str | Path], where: Where, folder: Path) -> None:
        """Nothing is started yet.

        Args:
            command: runs it in the foreground.
            where: it will listen there.
            folder: its current directory.
        """
        self._command = [str(part) for part in command]
        self._where = where
        self._folder = folder
        self._group: Path | None = None
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> "Server":
        command = self._command
        self._group = _make_group()
        if self._group is not None:
            # The shell moves itself, and what it then becomes has been there from the start.
            move = 'echo $$ >"$0" && exec "$@"'
            command = ["/bin/sh", "-c", move, str(self._group / "cgroup.procs"), *command]
        self._process = subprocess.Popen(
            command,
            cwd=self._folder,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        try:
            self._wait_until_it_answers()
        except BaseException:
            self._stop()
            raise
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._stop()

    @property
    def alive(self) -> bool:
        """Whether the server's first process still runs."""
        return self._running.poll() is None

    @property
    def death(self) -> str:
        """How it ended, in words."""
        status = self._running.poll()
        if status is None:
            return "runs"
        if status < 0:
            return f"died of {signal.Signals(-status).name}"
        return f"ended with status {status}"

    @property
    def exact(self) -> bool:
        """Whether the time of all its processes is counted."""
        return self._group is not None

    def seconds(self) -> float:
        """Processor time used so far, by all of its processes, in seconds."""
        if self._group is not None:
            return _group_seconds(self._group)
        return sum(_tree_seconds(number) for number in self.processes())

    @property
    def first(self) -> int:
        """The process id of what was started."""
        return self._running.pid

    def processes(self) -> list[int]:
        """The process ids of all that is running."""
        if self._group is None:
            return list(_tree(self._running.pid))
        try:
            text = (self._group / "cgroup.procs").read_text()
        except FileNotFoundError:  # Another thread has just stopped the server.
            return []
        return [int(line) for line in text.split()]

    @property
    def _running(self) -> "subprocess.Popen[bytes]":
        if self._process is None:
            raise RuntimeError("the server has not been started")
        return self._process

    def _wait_until_it_answers(self) -> None:
        """Ask for a file that does not exist, until there is an answer: an ERROR."""
        until = time.monotonic() + _READY
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as asking:
            while self.alive and time.monotonic() < until:
                asking.sendto(b"\0\1there-is-no-such-file\0octet\0", self._where)
                if select.select([asking], [], [], 0.05)[0]:
                    return
        raise NotReady(f"{Path(self._command[0]).name} does not answer: {self.death}")

    def _stop(self) -> None:
        process = self._running
        process.terminate()
        try:
            process.wait(_GONE)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        if self._group is not None:
            _end_group(self._group)
            self._group = None
        else:
            # Children that the server has left behind are still in the session that it led.
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)


def free_port(host: str = "127.0.0.1") -> int:
    """A UDP port that was free a moment ago."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        probe.bind((host, 0))
        port: int = probe.getsockname()[1]
        return port


# -- processor time -------------------------------------------------------------------------------


def _make_group() -> Path | None:
    """A control group of its own, where that can be had."""
    for line in Path("/proc/mounts").read_text().splitlines():
        _, place, kind, *_ = line.split()
        if kind == "cgroup2":
            group = Path(place, f"tftpkit-bench-{os.getpid()}-{next(_numbers)}")
            try:
                group.mkdir()
                _group_seconds(group)
            except (OSError, LookupError):
                with contextlib.suppress(OSError):
                    group.rmdir()
                return None
            return group
    return None


def _group_seconds(group: Path) -> float:
    lines = (group / "cpu.stat").read_text().splitlines()
    return int(dict(line.split() for line in lines)["usage_usec"]) / 1e6


def _end_group(group: Path) -> None:
    """End what is left in a group, and the group."""
    until = time.monotonic() + _GONE
    while True:
        for number in (group / "cgroup.procs").read_text().split():
            with contextlib.suppress(ProcessLookupError):
                os.kill(int(number), signal.SIGKILL)
        try:
            group.rmdir()
        except OSError:
            if time.monotonic() > until:
                raise
            time.sleep(0.002)  # Nothing tells when the kernel is done with the dead.
        else:
            return


def _tree(root: int) -> Iterator[int]:
    yield root
    try:
        tasks = list(Path(f"/proc/{root}/task").iterdir())
    except FileNotFoundError:
        return
    for task in tasks:
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):
            for child in (task / "children").read_text().split():
                yield from _tree(int(child))


def _tree_seconds(number: int) -> float:
    """The time of a process, and of its children that have been waited for."""
    try:
        text = Path(f"/proc/{number}/stat").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return 0.0
    fields = text.rpartition(")")[2].split()
    return sum(int(ticks) for ticks in fields[11:15]) / _TICKS


# -- memory ---------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Memory:
    """What a server holds, in MiB, over all of its processes.

    Attributes:
        private: pages that no other process shares; what one more such server would cost.
        child: the same for each process that a transfer may have for itself: the mean of those that
            are not the server's first and have none below them. 0 where there is none.
        resident: the sum of the processes' peak sizes (VmHWM), shared pages counted each time.
        processes: how many there are.
    """

    private: float = 0.0
    child: float = 0.0
    resident: float = 0.0
    processes: int = 0

    @classmethod
    def of(cls, server: Server) -> "Memory":
        """What it holds now."""
        numbers = server.processes()
        private = {number: _private(number) for number in numbers}
        resident = sum(_kib(number, "status", ("VmHWM:",)) for number in numbers)
        children = [
            private[number]
            for number in numbers
            if number != server.first and len(list(_tree(number))) == 1
        ]
        child = sum(children) / len(children) if children else 0.0
        return cls(sum(private.values()) / 1024, child / 1024, resident / 1024, len(numbers))

    def larger(self, other: "Memory") -> "Memory":
        """The larger of both, figure by figure."""
        return Memory(
            max(self.private, other.private),
            max(self.child, other.child),
            max(self.resident, other.resident),
            max(self.processes, other.processes),
        )


def _private(number: int) -> int:
    return _kib(number, "smaps_rollup", ("Private_Clean:", "Private_Dirty:"))


def _kib(number: int, name: str, wanted: tuple[str, ...]) -> int:
    try:
        text = Path(f"/proc/{number}/{name}").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return 0  # It has ended in the meantime.
    return sum(int(line.split()[1]) for line in text.splitlines() if line.startswith(wanted))


class Sampler:
    """Looks at a server's memory again and again, while the context lasts.

    It takes processor time from what it looks at, so nothing is timed meanwhile.
    """

    def __init__(self, server: Server) -> None:
        self._server = server
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._run, name="sampler", daemon=True)
        self.peak = Memory()

    def __enter__(self) -> "Sampler":
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._over.set()
        self._thread.join()

    def _run(self) -> None:
        while True:
            self.peak = self.peak.larger(Memory.of(self._server))
            if self._over.wait(_LOOK):
                return
