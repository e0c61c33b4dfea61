"""The ways in which a server can run: what it answers in one of them, it answers in all.

A test that states what a server does, as its clients and its operator see it, is `everywhere`; it
goes through `serve`, or through `Arrangement.serving`. One that looks into the server's own process
(its descriptors and its log, a storage that the test holds too) is `in_one_process`.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from enum import Enum
from typing import Any

import pytest

from tftp.events import Observer
from tftp.net import kernel
from tftp.server import Server, ServerConfig, ThreadEngine
from tftp.server.policy import Policy
from tftp.server.processes import ProcessEngine
from tftp.server.supervisor import Supervisor
from tftp.storage.base import Storage
from tftp.timers import Patience

__all__ = [
    "CALM",
    "Arrangement",
    "Served",
    "arranged",
    "everywhere",
    "everywhere_but",
    "in_one_process",
    "spread",
]

#: Never in a hurry: what comes twice is an answer to something, and not a sign of a busy machine.
CALM = Patience(initial=5.0, floor=5.0)

#: A server, or several that look like one.
Served = Server | Supervisor


class Arrangement(Enum):
    """How a server runs; the value is what a test is called by."""

    THREADS = "threads"
    TWO_THREADS = "two threads"
    #: Threads, and a kernel that can send and receive datagrams and no more.
    PLAIN = "plain path"
    PROCESSES = "processes"
    #: Two workers on one port.
    SUPERVISOR = "supervisor"

    def __str__(self) -> str:
        return self.value

    def make(
        self,
        storage: Storage | str,
        *,
        config: ServerConfig | None = None,
        policy: Sequence[Policy] = (),
        observers: Sequence[Observer] = (),
    ) -> Served:
        """A server that is arranged so, not started."""
        parts: dict[str, Any] = {"config": config, "policy": policy, "observers": observers}
        match self:
            case Arrangement.TWO_THREADS:
                return Server(storage, engine=ThreadEngine(2), **parts)
            case Arrangement.PROCESSES:
                return Server(storage, engine=ProcessEngine(warm=2), **parts)
            case Arrangement.SUPERVISOR:
                return Supervisor(storage, workers=2, **parts)
            case _:
                return Server(storage, engine=ThreadEngine(1), **parts)

    @contextmanager
    def conditions(self) -> Iterator[None]:
        """What must be so while such a server runs."""
        with pytest.MonkeyPatch.context() as patch:
            if self is Arrangement.PLAIN:
                # No GSO, no GRO and no PKTINFO: what the kernel has nothing of.
                patch.setattr(kernel, "can_segment", lambda: False)
                patch.setattr(kernel, "join_segments", lambda sock: False)
                patch.setattr(kernel, "ask_for_destination", lambda sock: None)
                patch.setattr(kernel, "sent_from", lambda local: [])
            yield

    @contextmanager
    def serving(self, storage: Storage | str, **parts: Any) -> Iterator[Served]:
        """A server that is arranged so, and runs; the parts are those of `make`."""
        with self.conditions(), self.make(storage, **parts) as server:
            yield server


_ONE_PROCESS = (Arrangement.THREADS, Arrangement.TWO_THREADS, Arrangement.PLAIN)


def arranged(*arrangements: Arrangement) -> pytest.MarkDecorator:
    """Runs a test for each of these; it takes the parameter `arrangement`, or `serve` does."""
    return pytest.mark.parametrize("arrangement", arrangements)


def everywhere_but(*left_out: Arrangement) -> pytest.MarkDecorator:
    """Runs a test for each arrangement but these."""
    return arranged(*(one for one in Arrangement if one not in left_out))


def spread(
    names: tuple[str, ...], cases: Sequence[tuple[Any, ...]], core: Sequence[tuple[Any, ...]]
) -> pytest.MarkDecorator:
    """Runs a test for all cases in one process, and for the core of them in several.

    For tests whose cases are many: processes take a tenth of a second to start.
    """
    return pytest.mark.parametrize(
        ("arrangement", *names),
        [(one, *case) for one in Arrangement for case in (cases if one in _ONE_PROCESS else core)],
        ids=str,
    )


everywhere = arranged(*Arrangement)
in_one_process = arranged(*_ONE_PROCESS)
