"""What the full-screen view knows, and what its keys mean: state, without a terminal or a socket.

Messages of the servers' channels go in (`apply`), keys go in (`press`), and what comes out are
orders for the servers and the numbers that `screen` draws. The time is an argument. Whoever has the
terminal and the connections (`tftp top`) brings them together.
"""

from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from tftp.monitor.feed import Message
from tftp.monitor.mirror import Mirror

__all__ = [
    "KINDS",
    "RATE",
    "SORTS",
    "Notice",
    "Order",
    "Question",
    "Row",
    "Top",
    "Watched",
    "fraction",
    "idle",
    "rate",
    "seconds_left",
]

#: What to subscribe to: all that changes the picture, and how often in a second.
KINDS = ("received", "refused", "started", "progress", "ended", "state", "totals")
RATE = 2.0

Row = dict[str, Any]

# Samples of the throughput that are kept: two minutes of them.
_HISTORY = 240
# Seconds between two samples, at the least: a rate over less is a matter of luck.
_SAMPLE = 0.2
# A transfer of which nothing was heard for so many seconds stands still: it sends progress four
# times a second, and half of that is subscribed to.
_QUIET = 1.5
# Seconds that a notice stays.
_NOTICE = 6.0
# Seconds between two snapshots that are asked for because events were lost.
_REPAIR = 1.0
# Rows that page up and page down move by.
_PAGE = 10


@dataclass(frozen=True, slots=True)
class Order:
    """What a server is to be told, as `Feeds.send` takes it."""

    server: str
    command: str
    members: dict[str, Any] = field(default_factory=dict)

    @property
    def silent(self) -> bool:
        """Whether nobody asked for it, so that nobody wants to know how it went."""
        return self.command == "snapshot"


@dataclass(frozen=True, slots=True)
class Question:
    """Asked before something is done that can not be undone; `orders` are given if it is to be."""

    text: str
    orders: tuple[Order, ...]


@dataclass(frozen=True, slots=True)
class Notice:
    """What came of the last thing that was done; shown until the time `until`."""

    text: str
    until: float
    bad: bool = False


class Watched:
    """One server: what its channel tells, how fast it is, and how its connection does.

    Attributes:
        mirror: what is true of it.
        out: octets of files a second that it sends; None while it is not known.
        into: octets a second that it takes.
        history: `out` and `into` together, the latest last; None where it was not connected.
        retry_at: when the connection is made again; None while it stands, or if it never will be.
        final: the connection will not be made again.
    """

    def __init__(self, server: str) -> None:
        self.mirror = Mirror(server)
        self.out: float | None = None
        self.into: float | None = None
        self.history: deque[float | None] = deque(maxlen=_HISTORY)
        self.retry_at: float | None = None
        self.final = False
        self._base: tuple[float, int, int] | None = None
        self._repaired = float("-inf")

    @property
    def server(self) -> str:
        """The place of its channel."""
        return self.mirror.server

    def apply(self, message: Message, now: float) -> list[Order]:
        """Take a message in; gives what has to be asked because of it."""
        self.mirror.apply(message)
        match message["event"]:
            case "greeting":
                self.retry_at, self.final = None, False
            case "snapshot" | "totals":
                self._measure(message["time"])
            case "disconnected":
                self.out = self.into = self._base = None
                self.history.append(None)
                self.final = message["retry"] is None
                self.retry_at = None if self.final else now + message["retry"]
        if self.mirror.lost and self.mirror.connected and now - self._repaired >= _REPAIR:
            self._repaired = now
            return [Order(self.server, "snapshot")]
        return []

    def _measure(self, time: float) -> None:
        """How fast it has been since the last totals. They are exact, whatever else was lost."""
        totals = self.mirror.totals
        out = totals["read"]["counters"]["payload"]
        into = totals["write"]["counters"]["payload"]
        if self._base is not None:
            since, had_sent, had_taken = self._base
            seconds = time - since
            if seconds < _SAMPLE:
                return
            self.out = max(0, out - had_sent) / seconds
            self.into = max(0, into - had_taken) / seconds
            self.history.append(self.out + self.into)
        self._base = (time, out, into)


def idle(row: Row, time: float) -> float:
    """Seconds since something was heard of a running transfer, at a time of its server's clock."""
    return max(0.0, time - float(row["began"] + row["duration"]))


def rate(row: Row, time: float) -> float:
    """Octets a second of a running transfer; 0 where it stands still."""
    return 0.0 if idle(row, time) > _QUIET else float(row["rate"])


def fraction(row: Row) -> float | None:
    """How much of a transfer is done, from 0 to 1; None where its size is not known."""
    size = row["size"]
    if size is None:
        return None
    return float(min(1.0, row["counters"]["payload"] / size)) if size > 0 else 1.0


def seconds_left(row: Row, time: float) -> float | None:
    """Seconds until a transfer is done, if it goes on like this; None where nobody can know."""
    speed = rate(row, time)
    if row["size"] is None or speed <= 0:
        return None
    return float(max(0, row["size"] - row["counters"]["payload"])) / speed


_Sorting = Callable[[Row, float], Any]

#: What the transfers can be sorted by; each gives what is shown first the least value.
SORTS: dict[str, _Sorting] = {
    "age": lambda row, time: row["began"],
    "rate": lambda row, time: -rate(row, time),
    "done": lambda row, time: -(fraction(row) or 0.0),
    "left": lambda row, time: _last(seconds_left(row, time)),
    "round trip": lambda row, time: -(row["round_trip"] or 0.0),
    "repeats": lambda row, time: -row["counters"]["retransmissions"],
    "client": lambda row, time: row["peer"],
    "file": lambda row, time: row["file"],
}


def _last(value: float | None) -> float:
    return float("inf") if value is None else value


class Top:
    """The servers, and what is shown of them.

    Attributes:
        servers: by the place of their channel, in the order that they were named.
        focus: the one server that is shown and acted on; None for all.
        sort: the key of `SORTS` that the transfers are sorted by.
        reverse: the other way round.
        selected: server and number of the transfer that the cursor is on.
        failures_first: failures have the room, not transfers.
        help: the keys are explained.
        question: waits for an answer.
        notice: what came of the last thing that was done.
        over: the user has had enough.
    """

    def __init__(self, servers: Sequence[str], *, token: bool = False) -> None:
        """Begin without knowing anything; `token` says whether the servers have been shown one."""
        self.servers = {server: Watched(server) for server in servers}
        self.focus: str | None = None
        self.sort = "age"
        self.reverse = False
        self.selected: tuple[str, int] | None = None
        self.failures_first = False
        self.help = False
        self.question: Question | None = None
        self.notice: Notice | None = None
        self.over = False
        self._token = token
        self._place = 0  # of the cursor, for when the transfer under it has ended
        self._keys: dict[str, Callable[[float], list[Order]]] = {
            "up": lambda now: self._move(-1),
            "k": lambda now: self._move(-1),
            "down": lambda now: self._move(1),
            "j": lambda now: self._move(1),
            "page up": lambda now: self._move(-_PAGE),
            "page down": lambda now: self._move(_PAGE),
            "home": lambda now: self._move(-len(self.rows())),
            "end": lambda now: self._move(len(self.rows())),
            "s": lambda now: self._sort_by(1),
            ">": lambda now: self._sort_by(1),
            "S": lambda now: self._sort_by(-1),
            "<": lambda now: self._sort_by(-1),
            "R": self._turn_round,
            "tab": lambda now: self._look_at(1),
            "back tab": lambda now: self._look_at(-1),
            "f": self._swap,
            "c": self._cancel,
            "d": self._drain,
            "r": self._resume,
            "?": self._explain,
            "h": self._explain,
            "q": self._quit,
        }

    # -- what is shown ----------------------------------------------------------------------------

    def shown(self) -> list[Watched]:
        """The servers that are looked at."""
        return list(self.servers.values()) if self.focus is None else [self.servers[self.focus]]

    def rows(self) -> list[tuple[Watched, Row]]:
        """The running transfers of the servers that are looked at, sorted."""
        key = SORTS[self.sort]
        rows = [
            (watched, row) for watched in self.shown() for row in watched.mirror.transfers.values()
        ]
        rows.sort(key=lambda pair: key(pair[1], pair[0].mirror.time), reverse=self.reverse)
        return rows

    def failures(self) -> list[tuple[Watched, Message]]:
        """The last failures of the servers that are looked at, the latest first."""
        failures = [
            (watched, failure) for watched in self.shown() for failure in watched.mirror.failures
        ]
        failures.sort(key=lambda pair: float(pair[1]["time"]), reverse=True)
        return failures

    def cursor(self, rows: Sequence[tuple[Watched, Row]]) -> int | None:
        """Which of `rows` is selected. It stays with a transfer until that ends."""
        if self.selected is not None:
            for place, (watched, row) in enumerate(rows):
                if (watched.server, row["transfer"]) == self.selected:
                    self._place = place
                    return place
        if not rows:
            return None
        return min(self._place, len(rows) - 1)

    # -- what comes in ----------------------------------------------------------------------------

    def apply(self, message: Message, now: float) -> list[Order]:
        """Take in a message of one of the servers; gives the orders that it makes necessary."""
        return self.servers[message["server"]].apply(message, now)

    def settled(self, order: Order, failure: str | None, now: float) -> None:
        """A server has obeyed an order, or has not: `failure` says why."""
        if order.silent:
            return
        if failure is None:
            self._say(_DONE[order.command].format(order.server, **order.members), now)
        else:
            self._say(f"{order.server}: {failure}", now, bad=True)

    def tick(self, now: float) -> None:
        """Time goes by."""
        if self.notice is not None and now >= self.notice.until:
            self.notice = None

    def press(self, key: str, now: float) -> list[Order]:
        """A key was pressed: a letter, or the name of another key ("up", "tab", "escape")."""
        if self.question is not None:
            question, self.question = self.question, None
            if key in ("y", "Y"):
                return list(question.orders)
            self._say("nothing was done", now)
            return []
        if self.help:
            self.help = False
            return self._quit(now) if key == "q" else []
        act = self._keys.get(key)
        return [] if act is None else act(now)

    # -- keys -------------------------------------------------------------------------------------

    def _move(self, steps: int) -> list[Order]:
        rows = self.rows()
        here = self.cursor(rows)
        if here is not None:
            self._place = max(0, min(len(rows) - 1, here + steps))
            watched, row = rows[self._place]
            self.selected = (watched.server, row["transfer"])
        return []

    def _sort_by(self, steps: int) -> list[Order]:
        names = list(SORTS)
        self.sort = names[(names.index(self.sort) + steps) % len(names)]
        return []

    def _turn_round(self, now: float) -> list[Order]:
        self.reverse = not self.reverse
        return []

    def _look_at(self, steps: int) -> list[Order]:
        if len(self.servers) > 1:
            choices = [None, *self.servers]
            self.focus = choices[(choices.index(self.focus) + steps) % len(choices)]
        return []

    def _swap(self, now: float) -> list[Order]:
        self.failures_first = not self.failures_first
        return []

    def _explain(self, now: float) -> list[Order]:
        self.help = True
        return []

    def _quit(self, now: float) -> list[Order]:
        self.over = True
        return []

    def _cancel(self, now: float) -> list[Order]:
        rows = self.rows()
        here = self.cursor(rows)
        if here is None:
            self._say("no transfer is running", now)
            return []
        watched, row = rows[here]
        if self._may_act([watched], now):
            verb = "get" if row["operation"] == "read" else "put"
            self.selected = (watched.server, row["transfer"])
            self.question = Question(
                f"cancel {verb} {row['file']} of {row['peer']}?",
                (Order(watched.server, "cancel", {"transfer": row["transfer"]}),),
            )
        return []

    def _drain(self, now: float) -> list[Order]:
        willing = self._in_state("serving")
        if not willing:
            self._say("no server that is shown takes requests now", now)
        elif self._may_act(willing, now):
            names = ", ".join(watched.server for watched in willing)
            orders = tuple(Order(watched.server, "drain") for watched in willing)
            self.question = Question(f"refuse new requests at {names}?", orders)
        return []

    def _resume(self, now: float) -> list[Order]:
        drained = self._in_state("draining")
        if not drained:
            self._say("no server that is shown is draining", now)
        elif self._may_act(drained, now):
            return [Order(watched.server, "resume") for watched in drained]
        return []

    def _in_state(self, state: str) -> list[Watched]:
        return [watched for watched in self.shown() if watched.mirror.state == state]

    def _may_act(self, servers: Sequence[Watched], now: float) -> bool:
        """Whether orders make sense; says so where they do not."""
        shut = [one.server for one in servers if one.mirror.greeting.get("access") != "act"]
        if shut and not self._token:
            self._say(
                f"{shut[0]} wants a token: start with --token-file or TFTP_MONITOR_TOKEN",
                now,
                bad=True,
            )
            return False
        return True

    def _say(self, text: str, now: float, *, bad: bool = False) -> None:
        self.notice = Notice(text, now + _NOTICE, bad)


# What there is to say when an order has been obeyed; {} is the server.
_DONE = {
    "cancel": "transfer {transfer} at {} was told to end",
    "drain": "{} is draining: running transfers go on, new requests are refused",
    "resume": "{} takes requests again",
}
