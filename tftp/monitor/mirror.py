"""What is true of a server, seen from a reader of its channel: messages go in, tables come out.

Readers that show or count (the full-screen view, the page) fold messages the same way, here. It
holds what the snapshot told and what the events have changed since, in the channel's own words: the
rows are the dicts of `docs/reference/monitor.md`, and the feed has held messages against it. What
is kept is bounded, whatever a server tells. It reads no socket and knows no clock but the server's.
It is not for several threads at once.
"""

from collections import deque
from collections.abc import Callable
from dataclasses import fields
from itertools import islice
from typing import Any

from tftp.events import Counters
from tftp.monitor.feed import Message
from tftp.options import Terms

__all__ = ["Mirror"]

Row = dict[str, Any]

# As many as a snapshot has, and as a server's board remembers.
_RECENT, _TRANSFERS = 200, 50_000
# What is kept of names, words and lists in an event: as much as a snapshot has of them. Each of its
# 512 octets may have been escaped.
_NAME, _OPTIONS = 2048, 16
# What is kept of the events of transfers; there may be more in them than is known here.
_REQUEST = ("transfer", "operation", "file", "mode", "asked", "peer", "local")
_FAILURE = ("event", "server", "time", *_REQUEST, "error")
_ENDING = (*_FAILURE, "outcome", "granted", "size", "counters", "round_trip", "duration")
_FIRST = {counter.name: 0 for counter in fields(Counters)}
_TERMS = tuple(part.name for part in fields(Terms))
# What tells the time of the server's clock. A feed's own message, that the connection is lost, has
# that of another one.
_TIMED = frozenset({"greeting", "snapshot", "totals", "state", "lost"}) | frozenset(
    {"received", "refused", "started", "progress", "ended"}
)
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
        transfers: the running transfers by number, each as in the snapshot, oldest first; of more
            than 50 000 the oldest are forgotten.
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
        """Take a message in. Those of kinds that are not known change nothing."""
        kind = message["event"]
        if kind in _TIMED:
            self.time = message.get("time", self.time)
        match kind:
            case "greeting":
                self.greeting, self.connected, self.reason = message, True, None
            case "snapshot":
                self._start_over(message)
            case "received":
                self._row(message)
            case "started":
                started = _kept(message, ("terms", "granted", "size"))
                self._row(message).update(state="running", **started)
            case "progress":
                self._move(message)
            case "refused":
                self.transfers.pop(message["transfer"], None)
                self.failures.append(_kept(message, _FAILURE))
            case "ended":
                self.transfers.pop(message["transfer"], None)
                ending = _kept(message, _ENDING)
                self.endings.append(ending)
                if message["outcome"] not in _SUCCESSES:
                    self.failures.append(ending)
            case "totals":
                self.totals, self.state = _sides(message), message["state"]
            case "state":
                self.state, self.limits = message["state"], message["limits"]
            case "lost":
                self.lost += message["progress"] + message["others"]
            case "disconnected":
                self.connected, self.reason, self.state = False, message["reason"], "unknown"
                self.transfers.clear()

    def _start_over(self, snapshot: Message) -> None:
        self.state, self.limits = snapshot["state"], snapshot["limits"]
        self.totals = _sides(snapshot)
        rows = snapshot["transfers"][-_TRANSFERS:]
        self.transfers = {row["transfer"]: row for row in rows}
        self.endings = deque(snapshot["endings"], _RECENT)
        self.failures = deque(snapshot["failures"], _RECENT)
        self.clients, self.files = snapshot["clients"], snapshot["files"]
        self.errors = snapshot["errors"]
        self.lost = 0

    def _row(self, message: Message) -> Row:
        """The row of a transfer, which begins here if it is not known yet."""
        number = message["transfer"]
        row = self.transfers.get(number)
        if row is None:
            if len(self.transfers) >= _TRANSFERS:
                del self.transfers[next(iter(self.transfers))]
            row = self.transfers[number] = _opening(message)
        return row

    def _move(self, progress: Message) -> None:
        row = self.transfers.get(progress["transfer"])
        if row is None:
            return  # Its beginning was lost; the next snapshot has it.
        seconds = progress["time"] - row["began"] - row["duration"]
        octets = progress["counters"]["payload"] - row["counters"]["payload"]
        if seconds > 0:
            row["rate"] = octets / seconds
        row["duration"] = progress["time"] - row["began"]
        row |= _kept(progress, ("counters", "size", "round_trip"))


def _sides(message: Message) -> dict[str, Any]:
    """The totals of reads and writes, without what else there may be one day."""
    return {side: message["totals"][side] for side in ("read", "write")}


def _kept(message: Message, parts: tuple[str, ...]) -> Row:
    """Parts of a message, cut to what may be kept of each."""
    return {part: _cut(part, message[part]) for part in parts if part in message}


def _options(options: dict[str, str]) -> dict[str, str]:
    few = islice(options.items(), _OPTIONS)
    return {name[:_NAME]: text[:_NAME] for name, text in few}


def _error(error: dict[str, Any] | None) -> dict[str, Any] | None:
    return error and {"code": error["code"], "message": error["message"][:_NAME]}


def _cut(part: str, value: Any) -> Any:
    if part in _PARTS:
        return _PARTS[part](value)
    return value[:_NAME] if isinstance(value, str) else value


_PARTS: dict[str, Callable[[Any], Any]] = {
    "asked": _options,
    "granted": _options,
    "error": _error,
    "terms": lambda terms: {part: terms.get(part) for part in _TERMS},
    "counters": lambda counters: {part: counters[part] for part in _FIRST},
}


def _opening(message: Message) -> Row:
    """The row of a transfer that begins with this event."""
    return {
        "state": "opening",
        **_kept(message, _REQUEST),
        "granted": {},
        "terms": None,
        "began": message["time"],
        "duration": 0.0,
        "size": None,
        "round_trip": None,
        "rate": 0.0,
        "counters": dict(_FIRST),
    }
