"""What tests watch: the events of a server, conditions that come true, and what is left behind."""

import contextlib
import os
import threading
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from tests.wirepeer import PATIENCE
from tftp.events import Event, Outcome, TransferEnded

_E = TypeVar("_E", bound=Event)


class Witness:
    """An observer that keeps every event, and lets a test wait for one."""

    def __init__(self) -> None:
        self._events: list[Event] = []
        self._news = threading.Condition()

    def __call__(self, event: Event) -> None:
        with self._news:
            self._events.append(event)
            self._news.notify_all()

    def all(self, kind: type[_E]) -> list[_E]:
        """The events of a kind so far, in order."""
        with self._news:
            return [event for event in self._events if isinstance(event, kind)]

    @property
    def kinds(self) -> list[str]:
        """The names of the kinds of all events so far, in order."""
        with self._news:
            return [type(event).__name__ for event in self._events]

    def wait(self, kind: type[_E], count: int = 1) -> _E:
        """The event number `count` of a kind, as soon as it has happened."""
        with self._news:
            seen = self._news.wait_for(lambda: self._at_least(kind, count), PATIENCE)
        assert seen, f"{kind.__name__} number {count} did not happen, but {self.kinds}"
        return self.all(kind)[count - 1]

    def outcome(self, count: int = 1) -> Outcome:
        """How the transfer that ended as number `count` did."""
        return self.wait(TransferEnded, count).outcome

    def _at_least(self, kind: type[Event], count: int) -> bool:
        return sum(isinstance(event, kind) for event in self._events) >= count


def eventually(condition: Callable[[], bool], seconds: float = PATIENCE) -> bool:
    """Whether the condition comes true within so many seconds; for what gives no sign of itself."""
    until = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > until:
            return False
        time.sleep(0.002)
    return True


def open_files(pid: int | None = None) -> list[str]:
    """What each descriptor of a process (by default this one) leads to."""
    found = []
    for entry in Path(f"/proc/{pid or os.getpid()}/fd").iterdir():
        with contextlib.suppress(FileNotFoundError):  # Closed since it was listed.
            found.append(str(entry.readlink()))
    return found


def descriptors() -> Counter[str]:
    """What this process has open, and how often.

    Compare with `<=`: what an earlier test has left to its own end may close meanwhile.
    """
    return Counter(
        target.partition(":")[0] if ":[" in target else target for target in open_files()
    )


def threads() -> set[str]:
    """The names of the threads of this project that run."""
    return {thread.name for thread in threading.enumerate() if thread.name.startswith("tftp")}


def processes(pid: int | None = None) -> set[int]:
    """The processes that one (by default this one) has started and that are not buried yet."""
    parents = _parents()
    return {child for child, parent in parents.items() if parent == (pid or os.getpid())}


def descendants(pid: int | None = None) -> set[int]:
    """All processes below one, by default this one."""
    parents = _parents()
    found: set[int] = set()
    below = {pid or os.getpid()}
    while below:
        below = {child for child, parent in parents.items() if parent in below}
        found |= below
    return found


def _parents() -> dict[int, int]:
    """Who has started each process.

    The kernel's lists of children are each thread's own, and move when it ends: who reads them one
    after the other may miss some.
    """
    found = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            with contextlib.suppress(FileNotFoundError, ProcessLookupError):
                fields = (entry / "stat").read_text().rpartition(")")[2].split()
                found[int(entry.name)] = int(fields[1])
    return found
