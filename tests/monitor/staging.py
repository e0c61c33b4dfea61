"""A full-screen view without a terminal: boards play the servers, and a test says when it is."""

import json
from typing import Any

from tests.monitor.happening import NOON
from tftp.events import Event, as_json
from tftp.monitor.board import Board
from tftp.monitor.screen import Look, lines, report
from tftp.monitor.top import Order, Top

__all__ = ["Stage"]

LIMITS = {"max_transfers": 1000, "max_blksize": 65464, "max_windowsize": 64}


class Stage:
    """Servers, and the state of the view that watches them.

    Attributes:
        now: the view's own clock; the servers' is `NOON` and more.
    """

    def __init__(self, *servers: str, token: bool = False) -> None:
        self.names = servers or ("192.0.2.1:6970",)
        self.top = Top(self.names, token=token)
        self.boards = {name: Board() for name in self.names}
        self.now = 1000.0
        self._sequence = 0

    def connect(self, server: str | None = None, *, access: str = "act", at: float = 0.0) -> None:
        """A server greets, and tells what is true."""
        self._apply(
            server,
            event="greeting",
            protocol=1,
            access=access,
            version="1.2.3",
            engine="threads",
            addresses=["192.0.2.1:69"],
            host="boot",
            pid=42,
            started=NOON - 3600,
            time=NOON + at,
        )
        self.snapshot(server, at=at)

    def snapshot(self, server: str | None = None, *, at: float = 0.0) -> None:
        """A server tells all that is true, at a time of its clock."""
        told = self.boards[server or self.names[0]].snapshot()
        told |= {"time": NOON + at, "state": "serving", "limits": LIMITS}
        self._apply(server, event="snapshot", **told)

    def totals(self, server: str | None = None, *, at: float) -> None:
        """A server tells its totals."""
        told = self.boards[server or self.names[0]].totals()
        self._apply(server, event="totals", **told | {"time": NOON + at, "state": "serving"})

    def tell(self, *events: Event, server: str | None = None) -> None:
        """Something happens at a server."""
        for event in events:
            self.boards[server or self.names[0]](event)
            self._apply(server, **as_json(event))

    def state(self, state: str, server: str | None = None) -> None:
        """A server changes its state."""
        self._apply(server, event="state", time=NOON, state=state, limits=LIMITS)

    def lose_events(self, count: int, server: str | None = None) -> list[Order]:
        """A server has told so many events to nobody."""
        return self._apply(server, event="lost", time=NOON, progress=count, others=0)

    def part(self, reason: str, retry: float | None = 2.0, server: str | None = None) -> None:
        """The connection is lost."""
        self._apply(server, event="disconnected", time=NOON, reason=reason, retry=retry)

    def press(self, *keys: str) -> list[Order]:
        """Keys are pressed; gives the orders that come of it."""
        return [order for key in keys for order in self.top.press(key, self.now)]

    def screen(self, width: int = 100, height: int = 24, **look: Any) -> list[str]:
        """The lines that are seen."""
        return [line.plain for line in lines(self.top, self.look(width, height, **look))]

    def report(self, width: int = 140) -> list[str]:
        """The lines of the report."""
        return [line.plain for line in report(self.top, self.look(width, None))]

    def look(self, width: int, height: int | None, **look: Any) -> Look:
        return Look(width, height, clock=NOON, now=self.now, **look)

    def _apply(self, server: str | None, **message: Any) -> list[Order]:
        self._sequence += 1
        # As it would have come over the wire.
        told = json.loads(json.dumps({"sequence": self._sequence, **message}))
        return self.top.apply(told | {"server": server or self.names[0]}, self.now)
