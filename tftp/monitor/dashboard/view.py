"""What one browser has not seen yet: the difference between what is true and what it was told.

There is no queue for a browser. It is given one step at a time, and the next one is made of what is
true when it has taken the last: one that is slow gets fewer and larger steps, where many progress
events have become one number, and one that is stuck costs what it was given last. All that stands
in a step is bounded, whatever a server says.
"""

from collections.abc import Iterable
from itertools import islice
from typing import Any

from tftp.events import printable
from tftp.monitor.dashboard.watch import Scene, Watch
from tftp.monitor.feed import Message

__all__ = ["View"]

Row = dict[str, Any]

# What a page shows at the most. Of more transfers than that, nobody could read the table.
_TRANSFERS, _FAILURES, _ENDINGS, _TALLY, _ERRORS, _OUTCOMES = 200, 100, 50, 50, 20, 32
# Of a greeting: what the page shows, and what no two processes have in common.
_ABOUT = ("version", "engine", "host", "pid", "addresses", "started")
_LIFE = ("host", "pid", "started")
# Letters of a name or a message, and of an option or another word; how many there are of them.
_NAME, _WORD, _OPTIONS = 512, 64, 16


class View:
    """What one browser knows. It is not for several threads at once."""

    def __init__(self, watch: Watch) -> None:
        self._watch = watch
        self._seen = {server: _Seen(None) for server in watch.servers}

    def step(self) -> dict[str, Row]:
        """What has changed since the last step, by server; empty if nothing has."""
        with self._watch.scenes() as scenes:
            steps = {server: self._step(server, scene) for server, scene in scenes.items()}
        return {server: step for server, step in steps.items() if step}

    def _step(self, server: str, scene: Scene) -> Row:
        seen, life = self._seen[server], _life(scene)
        if seen.life == life:
            return seen.step(scene)
        # Another process, that counts from the beginning.
        self._seen[server] = _Seen(life)
        return {**self._seen[server].step(scene), "reset": True}


def _life(scene: Scene) -> tuple[Any, ...] | None:
    """What tells one server process from the next; None before the first greeting."""
    greeting = scene.mirror.greeting
    return tuple(greeting.get(part) for part in _LIFE) if greeting else None


class _Seen:
    """What a browser knows of one server process."""

    def __init__(self, life: tuple[Any, ...] | None) -> None:
        self.life = life
        self._about: Row = {}
        self._state: Row = {}
        self._totals: Row | None = None
        self._sampled = 0
        self._transfers: dict[int, tuple[Any, ...]] = {}
        self._running = 0
        self._lists: dict[str, set[int]] = {"failures": set(), "endings": set()}
        self._tallies: dict[str, list[Row]] = {}

    def step(self, scene: Scene) -> Row:
        mirror, step = scene.mirror, Row()
        about = {part: _short(mirror.greeting.get(part)) for part in _ABOUT}
        if about != self._about:
            self._about = step["about"] = about
        state = {
            "connected": mirror.connected,
            "reason": _cut(mirror.reason),
            "state": _short(mirror.state),
        }
        if state != self._state:
            self._state = step["state"] = state
        if mirror.totals and mirror.totals is not self._totals:
            self._totals = mirror.totals
            step["totals"] = {side: _side(mirror.totals[side]) for side in ("read", "write")}
        self._add_samples(scene, step)
        if scene.current or not mirror.connected:
            self._add_transfers(mirror.transfers, step)
            self._add_new("failures", mirror.failures, _FAILURES, step)
            self._add_new("endings", mirror.endings, _ENDINGS, step)
            self._add_tallies(scene, step)
        if step:
            step["time"] = mirror.time
        return step

    def _add_samples(self, scene: Scene, step: Row) -> None:
        new = min(scene.sampled - self._sampled, len(scene.samples))
        if new > 0:
            step["samples"] = list(islice(scene.samples, len(scene.samples) - new, None))
            self._sampled = scene.sampled

    def _add_transfers(self, transfers: dict[int, Row], step: Row) -> None:
        before, self._transfers = self._transfers, {}
        new, moved = [], []
        for number, row in islice(transfers.items(), _TRANSFERS):
            values = _values(row)
            self._transfers[number] = values
            # When it begins to run it has got its options too.
            if number not in before or values[0] != before[number][0]:
                new.append(_transfer(row))
            elif values != before[number]:
                moved.append((number, *values))
        gone = [number for number in before if number not in self._transfers]
        if new or moved or gone or len(transfers) != self._running:
            self._running = len(transfers)
            step["transfers"] = {"new": new, "moved": moved, "gone": gone, "running": self._running}

    def _add_new(self, name: str, events: Iterable[Message], most: int, step: Row) -> None:
        last = list(events)[-most:]
        before = self._lists[name]
        new = [_ending(event) for event in last if event["transfer"] not in before]
        if new:
            self._lists[name] = {event["transfer"] for event in last}
            step[name] = new

    def _add_tallies(self, scene: Scene, step: Row) -> None:
        mirror = scene.mirror
        for name, tally, most in (
            ("clients", mirror.clients, _TALLY),
            ("files", mirror.files, _TALLY),
            ("errors", mirror.errors, _ERRORS),
        ):
            rows = [_tallied(row) for row in islice(tally.get("rows", ()), most)]
            if rows != self._tallies.get(name):
                self._tallies[name] = step[name] = rows


def _cut(text: str | None, most: int = _NAME) -> str | None:
    """The beginning of a text. Servers have made it printable, but a server may be anybody's."""
    if text is None:
        return None
    text = text[:most]
    # The backslashes of a text that is printable stay what they are: the server's escapes.
    return text if text.isprintable() else printable(text).replace("\\\\", "\\")[:most]


def _short(value: Any) -> Any:
    """A word, or a few of them, in a length that there is room for."""
    if isinstance(value, list):
        return [_short(one) for one in value[:_OPTIONS]]
    return _cut(value, _WORD) if isinstance(value, str) else value


def _transfer(row: Row) -> Row:
    """A transfer that the browser does not know; later it gets `_values` only."""
    options = islice((row.get("granted") or {}).items(), _OPTIONS)
    return {
        "transfer": row["transfer"],
        "operation": _short(row["operation"]),
        "file": _cut(row["file"]),
        "mode": _short(row["mode"]),
        "peer": _short(row["peer"]),
        "began": row["began"],
        "granted": {_short(name): _short(value) for name, value in options},
        "values": _values(row),
    }


def _values(row: Row) -> tuple[Any, ...]:
    """What changes while a transfer runs. The page knows the order."""
    counters = row["counters"]
    return (
        _short(row["state"]),
        row["size"],
        counters["payload"],
        round(row["rate"]),
        row["round_trip"],
        counters["retransmissions"],
    )


def _ending(event: Message) -> Row:
    error = event.get("error")
    return {
        "time": event["time"],
        "transfer": event["transfer"],
        "operation": _short(event["operation"]),
        "file": _cut(event["file"]),
        "peer": _short(event["peer"]),
        # A request that is refused has never been a transfer, so it has no outcome.
        "outcome": _short(event.get("outcome", "refused")),
        "code": error["code"] if error else None,
        "message": _cut(error["message"]) if error else None,
        "payload": event["counters"]["payload"] if "counters" in event else None,
        "duration": event.get("duration"),
    }


def _side(side: Row) -> Row:
    counters = side["counters"]
    parts = ("payload", "retransmissions", "datagrams_sent", "blocks")
    outcomes = islice(side["outcomes"].items(), _OUTCOMES)
    return {
        **{part: side[part] for part in ("requests", "running", "refused")},
        "outcomes": {_short(outcome): number for outcome, number in outcomes},
        **{part: counters[part] for part in parts},
    }


# What the page shows of a row of a tally, where the row has it.
_FATES = ("succeeded", "failed", "refused")
_TALLIED = ("client", "file", "outcome", "code", "message", "requests", "last", *_FATES)


def _tallied(row: Row) -> Row:
    told = {
        part: _cut(row[part]) if isinstance(row[part], str) else row[part]
        for part in _TALLIED
        if part in row
    }
    if "counters" in row:
        told |= {part: row["counters"][part] for part in ("payload", "retransmissions")}
    return told
