"""What tests watch: the events of a server, conditions that come true, and what is left behind."""

import contextlib
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


def descriptors() -> Counter[str]:
    """What this process has open, and how often.

    Compare with `<=`: what an earlier test has left to its own end may close meanwhile.
    """
    found: Counter[str] = Counter()
    for entry in Path("/proc/self/fd").iterdir():
        try:
            target = str(entry.readlink())
        except FileNotFoundError:  # The listing's own.
            continue
        found[target.partition(":")[0] if ":[" in target else target] += 1
    return found


def threads() -> set[str]:
    """The names of the threads of this project that run."""
    return {thread.name for thread in threading.enumerate() if thread.name.startswith("tftp")}


def processes() -> set[int]:
    """The processes that this one has started and not buried yet."""
    found: set[int] = set()
    for task in Path("/proc/self/task").iterdir():
        # A thread may end meanwhile; its children are another's then.
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):
            found.update(map(int, (task / "children").read_text().split()))
    return found
