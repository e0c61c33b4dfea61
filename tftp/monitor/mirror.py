"""What is true of a server, seen from a reader of its channel: messages go in, tables come out.

Readers that show or count (the full-screen view, the page) fold messages the same way, here. It
holds what the snapshot told and what the events have changed since, in the channel's own words: the
rows are the dicts of `docs/reference/monitor.md`. It reads no socket and knows no clock but the
server's. It is not for several threads at once.
"""

from collections import deque
from dataclasses import fields
from typing import Any

from tftp.events import Counters
from tftp.monitor.feed import Message

__all__ = ["Mirror"]

Row = dict[str, Any]

# As many as a snapshot has.
_RECENT = 200
_FIRST = {counter.name: 0 for counter in fields(Counters)}
_SUCCESSES = frozenset({"done", "unconfirmed", "probed"})


class Mirror:
    """One server, as its channel tells of it.

    Attributes:
        server: the place of the channel.
        connected: whether the connection stands.
        reason: why it does not, in words; None while it does.
        greeting: the last greeting; empty before the first.
        time: the server's clock at the last message that told it.
        state: "serving", "draining" or "stopping"; "unknown" while it is not connected.
        limits: as in the snapshot.
        totals: as in the snapshot. They move with snapshots and "totals" events: subscribe to
            those, or ask for a snapshot now and then.
        transfers: the running transfers by number, each as in the snapshot, oldest first.
        endings, failures: the last ones, oldest first.
        clients, files, errors: the tallies of the last snapshot.
        lost: how many events are missing since the last snapshot. If there are any, `transfers` may
            miss some, or hold some that have ended: ask for a snapshot (`Feed.send("snapshot")`).
    """

    def __init__(self, server: str) -> None:
        self.server = server
        self.connected = False
        self.reason: str | None = "not connected yet"
        self.greeting: Message = {}
        self.time = 0.0
        self.state = "unknown"
        self.limits: dict[str, int] = {}
        self.totals: dict[str, Any] = {}
        self.transfers: dict[int, Row] = {}
        self.endings: deque[Message] = deque(maxlen=_RECENT)
        self.failures: deque[Message] = deque(maxlen=_RECENT)
        self.clients: dict[str, Any] = {}
        self.files: dict[str, Any] = {}
        self.errors: dict[str, Any] = {}
        self.lost = 0

    def apply(self, message: Message) -> None:
        """Take a message in. Those of kinds that are not known change nothing but the clock."""
        self.time = message.get("time", self.time)
        match message["event"]:
            case "greeting":
                self.greeting, self.connected, self.reason = message, True, None
            case "snapshot":
                self._start_over(message)
            case "received":
                self.transfers[message["transfer"]] = _opening(message)
            case "started":
                row = self.transfers.setdefault(message["transfer"], _opening(message))
                row |= {
                    "state": "running",
                    **{part: message[part] for part in ("terms", "granted", "size")},
                }
            case "progress":
                self._move(message)
            case "refused":
                self.transfers.pop(message["transfer"], None)
                self.failures.append(message)
            case "ended":
                self.transfers.pop(message["transfer"], None)
                self.endings.append(message)
                if message["outcome"] not in _SUCCESSES:
                    self.failures.append(message)
            case "totals":
                self.totals, self.state = message["totals"], message["state"]
            case "state":
                self.state, self.limits = message["state"], message["limits"]
            case "lost":
                self.lost += message["progress"] + message["others"]
            case "disconnected":
                self.connected, self.reason, self.state = False, message["reason"], "unknown"
                self.transfers.clear()

    def _start_over(self, snapshot: Message) -> None:
        self.state, self.limits = snapshot["state"], snapshot["limits"]
        self.totals = snapshot["totals"]
        self.transfers = {row["transfer"]: row for row in snapshot["transfers"]}
        self.endings = deque(snapshot["endings"], _RECENT)
        self.failures = deque(snapshot["failures"], _RECENT)
        self.clients, self.files = snapshot["clients"], snapshot["files"]
        self.errors = snapshot["errors"]
        self.lost = 0

    def _move(self, progress: Message) -> None:
        row = self.transfers.get(progress["transfer"])
        if row is None:
            return  # Its beginning was lost; the next snapshot has it.
        seconds = progress["time"] - row["began"] - row["duration"]
        octets = progress["counters"]["payload"] - row["counters"]["payload"]
        if seconds > 0:
            row["rate"] = octets / seconds
        row["duration"] = progress["time"] - row["began"]
        row |= {part: progress[part] for part in ("counters", "size", "round_trip")}


def _opening(message: Message) -> Row:
    """The row of a transfer that begins with this event."""
    parts = ("transfer", "operation", "file", "mode", "asked", "peer", "local")
    return {
        "state": "opening",
        **{part: message[part] for part in parts},
        "granted": {},
        "terms": None,
        "began": message["time"],
        "duration": 0.0,
        "size": None,
        "round_trip": None,
        "rate": 0.0,
        "counters": dict(_FIRST),
    }
