"""What is true of a server now, and what has happened to it so far: events, added up.

The board is an observer, so it is called in the threads that move the packets: an event costs a few
additions, and everything that can be left to whoever asks is left to them. What it keeps is
bounded, whatever comes from the network: running transfers, two rings of recent events, tallies
(see `tally`), and sums. The sums are exact; they are those of the state machines, in `Counters`.

It knows nothing of sockets or readers. Who wants every event in the order of the board follows it.
"""

import operator
import struct
import threading
import time
from bisect import bisect_left
from collections import OrderedDict, deque
from collections.abc import Callable, Hashable, Iterable, Sequence
from dataclasses import fields, replace
from itertools import islice
from typing import Any, TypeVar

from tftp.errors import PeerError, TFTPError
from tftp.events import (
    Counters,
    Event,
    Operation,
    Outcome,
    Request,
    RequestReceived,
    RequestRefused,
    TransferEnded,
    TransferProgress,
    TransferStarted,
    as_json,
    printable,
)
from tftp.monitor.tally import Tally

__all__ = ["Board", "Follower"]

#: Is given each event with its number, in the board's order, and while the board is locked: it must
#: do next to nothing.
Follower = Callable[[int, Event], None]

# How many endings, and how many failures, are remembered.
_RECENT = 200
# How many rows the tallies have.
_CLIENTS, _FILES, _ERRORS = 256, 256, 64
# Running transfers beyond so many are not told of, oldest first, but counted still. A server has
# its own limit, and it is lower unless somebody has raised it. Beyond so many times as many they
# are no longer counted as running, either: they have ended, and nobody has said so.
_TRANSFERS, _COUNTED = 50_000, 10
# What is kept of names, option words and messages: a client may send kilobytes of each.
_NAME, _FILE, _WORD, _MESSAGE = 512, 255, 64, 200
_OPTIONS = 16

# The upper bounds of what histograms count: seconds, octets a second, seconds.
_DURATIONS = (0.001, 0.005, 0.01, 0.05, 0.1, 0.5, 1, 5, 10, 30, 60, 120, 300, 600)
_RATES = (1e3, 1e4, 1e5, 3e5, 1e6, 3e6, 1e7, 3e7, 1e8, 3e8, 1e9)
_ROUND_TRIPS = (0.0001, 0.0003, 0.001, 0.003, 0.01, 0.03, 0.1, 0.3, 1, 3)

# Counters are summed up for the totals, for a client and for a file at every end of a transfer. So
# they are packed into one integer, with 128 bits of room for each: one addition adds them all.
_COUNTERS = tuple(counter.name for counter in fields(Counters))
_values = operator.attrgetter(*_COUNTERS)
_LAYOUT = struct.Struct("<" + "Q8x" * len(_COUNTERS))
_WIDE = struct.Struct("<" + "QQ" * len(_COUNTERS))

_SUCCEEDED = frozenset(outcome.value for outcome in Outcome if outcome.succeeded)


class Board:
    """An observer that knows what goes on. Any thread may ask it, and any may tell it."""

    def __init__(self, *, transfers: int = _TRANSFERS) -> None:
        """Begin with nothing; at most so many running transfers are told of."""
        self._most = transfers
        self._lock = threading.Lock()
        self._followers: tuple[Follower, ...] = ()
        self._sequence = 0
        self._transfers: OrderedDict[int, _Transfer] = OrderedDict()
        # Those that are only counted: their side, and their packed counters when last told of.
        self._counted: OrderedDict[int, tuple[_Side, int]] = OrderedDict()
        self._read, self._write = _Side(), _Side()
        self._endings: deque[TransferEnded] = deque(maxlen=_RECENT)
        self._failures: deque[Event] = deque(maxlen=_RECENT)
        self._clients: Tally[_Account] = Tally(_CLIENTS, _Account)
        self._files: Tally[_Account] = Tally(_FILES, _Account)
        self._errors: Tally[_Fault] = Tally(_ERRORS, _Fault)
        self._fold: dict[type[Event], Callable[[Any], None]] = {
            RequestReceived: self._received,
            RequestRefused: self._refused,
            TransferStarted: self._started,
            TransferProgress: self._progress,
            TransferEnded: self._ended,
        }

    def __call__(self, event: Event) -> None:
        """Take an event in."""
        with self._lock:
            self._fold[type(event)](event)
            self._sequence += 1
            for follower in self._followers:
                follower(self._sequence, event)

    def follow(self, follower: Follower) -> None:
        """Have `follower` given every event from now on."""
        with self._lock:
            self._followers = (*self._followers, follower)

    @property
    def running(self) -> int:
        """How many transfers run."""
        return len(self._transfers) + len(self._counted)

    def snapshot(self) -> dict[str, Any]:
        """All of it, as values that `json.dumps` takes (`docs/reference/monitor.md`, snapshot).

        The rest of a snapshot (state, limits) is not the board's to know.
        """
        with self._lock:
            sequence = self._sequence
            sides = (self._read.copy(), self._write.copy())
            transfers, running = list(self._transfers.values()), self.running
            endings, failures = list(self._endings), list(self._failures)
            clients = _Copy(self._clients, _ACCOUNT)
            files = _Copy(self._files, _ACCOUNT)
            errors = _Copy(self._errors, _FAULT)
        now = time.time()
        return {
            "sequence": sequence,
            "time": now,
            "running": running,
            "totals": _totals(sides, transfers),
            "transfers": [transfer.as_json(now) for transfer in transfers],
            "endings": [as_json(_cut(event)) for event in endings],
            "failures": [as_json(_cut(event)) for event in failures],
            "clients": clients.as_json(lambda host: {"client": printable(host)}),
            "files": files.as_json(lambda name: {"file": printable(name)}),
            "errors": errors.as_json(_fault_names),
        }

    def transfers(self) -> list[dict[str, Any]]:
        """The running transfers, oldest first, as in the snapshot."""
        with self._lock:
            transfers = list(self._transfers.values())
        now = time.time()
        return [transfer.as_json(now) for transfer in transfers]

    def totals(self) -> dict[str, Any]:
        """Sequence, time, running and totals, as in the snapshot."""
        with self._lock:
            sequence = self._sequence
            sides = (self._read.copy(), self._write.copy())
            transfers, running = list(self._transfers.values()), self.running
        return {
            "sequence": sequence,
            "time": time.time(),
            "running": running,
            "totals": _totals(sides, transfers),
        }

    # -- with the lock ----------------------------------------------------------------------------

    def _received(self, event: RequestReceived) -> None:
        number = event.transfer
        if number in self._transfers or number in self._counted:
            return  # A second process took over before the first had begun.
        self._side(event.request).requests += 1
        if len(self._transfers) >= self._most:
            self._tell_no_more()
        self._transfers[number] = _Transfer(event)

    def _refused(self, event: RequestRefused) -> None:
        request = event.request
        side = self._side(request)
        if not self._leave(event.transfer):
            side.requests += 1  # It got no further than the door.
        side.refused += 1
        self._fault("refused", event.error, event.time)
        self._failures.append(_bounded(event))
        for account in self._accounts(request, event.time):
            account.refused += 1

    def _started(self, event: TransferStarted) -> None:
        transfer = self._transfers.get(event.transfer)
        if transfer is not None:
            transfer.started = event

    def _progress(self, event: TransferProgress) -> None:
        transfer = self._transfers.get(event.transfer)
        if transfer is not None:
            transfer.heard = (event, transfer.heard[0])

    def _ended(self, event: TransferEnded) -> None:
        self._leave(event.transfer)
        request, outcome = event.request, event.outcome.value
        counters = _packed(event.counters)
        succeeded = outcome in _SUCCEEDED
        self._side(request).ended(event, outcome, counters)
        event = _bounded(event)
        self._endings.append(event)
        if not succeeded:
            self._failures.append(event)
            self._fault(outcome, event.error, event.time)
        for account in self._accounts(request, event.time):
            account.ended(succeeded, counters)

    def _tell_no_more(self) -> None:
        """Only count the oldest transfer from now on."""
        number, transfer = self._transfers.popitem(last=False)
        progress, _ = transfer.heard
        counters = 0 if progress is None else _packed(progress.counters)
        side = self._side(transfer.received.request)
        side.add(1, counters)
        self._counted[number] = (side, counters)
        if len(self._counted) > _COUNTED * self._most:
            _, (side, _) = self._counted.popitem(last=False)
            side.add(-1, 0)

    def _leave(self, number: int) -> bool:
        """A transfer does not run any more; gives whether it did."""
        if self._transfers.pop(number, None) is not None:
            return True
        counted = self._counted.pop(number, None)
        if counted is None:
            return False
        side, counters = counted
        side.add(-1, -counters)
        return True

    def _side(self, request: Request) -> "_Side":
        return self._read if request.operation is Operation.READ else self._write

    def _accounts(self, request: Request, now: float) -> "Iterable[_Account]":
        accounts = (
            self._clients.count(request.peer[0]),
            self._files.count(request.filename[:_FILE]),
        )
        for account in accounts:
            account.last = now
            if request.operation is Operation.READ:
                account.reads += 1
            else:
                account.writes += 1
        return accounts

    def _fault(self, outcome: str, error: TFTPError | None, now: float) -> None:
        code, message = (0, "") if error is None else (int(error.code), error.message[:_MESSAGE])
        self._errors.count((outcome, code, message)).last = now


class _Transfer:
    """A transfer that runs, by the last events about it.

    It is read without the lock: what is read may be a little newer than the rest of a snapshot, and
    then comes again as an event.

    Attributes:
        heard: the last progress, and the one before it.
    """

    __slots__ = ("heard", "received", "started")

    def __init__(self, received: RequestReceived) -> None:
        self.received = received
        self.started: TransferStarted | None = None
        self.heard: tuple[TransferProgress | None, TransferProgress | None] = (None, None)

    def as_json(self, now: float) -> dict[str, Any]:
        started, (progress, before) = self.started, self.heard
        began = self.received.time
        # An event's JSON form has the request's, and that of the terms.
        row = as_json(_cut(started or self.received))
        for part in ("event", "time"):
            del row[part]
        counters = progress.counters if progress else Counters()
        return {
            "terms": None,
            "granted": {},
            "size": None,
            **row,
            **({"size": progress.size} if progress else {}),
            "state": "running" if started else "opening",
            "began": began,
            "duration": max(0.0, now - began),
            "round_trip": progress.round_trip if progress else None,
            "rate": _rate(progress, before or self.received),
            "counters": dict(zip(_COUNTERS, _values(counters), strict=True)),
        }


class _Histogram:
    """How many values fell between which bounds, and what they add up to."""

    __slots__ = ("bounds", "counts", "sum")

    def __init__(self, bounds: tuple[float, ...]) -> None:
        self.bounds = bounds
        self.counts = [0] * (len(bounds) + 1)
        self.sum = 0.0

    def add(self, value: float) -> None:
        self.counts[bisect_left(self.bounds, value)] += 1
        self.sum += value

    def as_json(self) -> dict[str, Any]:
        return {"bounds": list(self.bounds), "counts": list(self.counts), "sum": self.sum}


class _Side:
    """The totals of reads, or of writes.

    Attributes:
        running: how many transfers run that are counted, but not told of.
        settled: the packed counters of these, and of what has ended.
    """

    __slots__ = (
        "duration",
        "outcomes",
        "rate",
        "refused",
        "requests",
        "round_trip",
        "running",
        "settled",
    )

    def __init__(self) -> None:
        self.requests = 0
        self.running = 0
        self.refused = 0
        self.outcomes = {outcome.value: 0 for outcome in Outcome}
        self.settled = 0
        self.duration = _Histogram(_DURATIONS)
        self.rate = _Histogram(_RATES)
        self.round_trip = _Histogram(_ROUND_TRIPS)

    def add(self, running: int, counters: int) -> None:
        """So many more run that are not told of, with these packed counters."""
        self.running += running
        self.settled += counters

    def ended(self, event: TransferEnded, outcome: str, counters: int) -> None:
        self.outcomes[outcome] += 1
        self.settled += counters
        if outcome not in _SUCCEEDED:
            return
        duration = event.duration
        self.duration.add(duration)
        if duration > 0:
            self.rate.add(event.counters.payload / duration)
        if event.round_trip is not None:
            self.round_trip.add(event.round_trip)

    def copy(self) -> dict[str, Any]:
        return {
            "requests": self.requests,
            "running": self.running,
            "refused": self.refused,
            "outcomes": dict(self.outcomes),
            "counters": self.settled,
            "histograms": {
                "duration": self.duration.as_json(),
                "rate": self.rate.as_json(),
                "round_trip": self.round_trip.as_json(),
            },
        }


class _Account:
    """What one client did, or what was done with one file; a row of a tally."""

    __slots__ = (
        "counters",
        "failed",
        "key",
        "last",
        "missed",
        "reads",
        "refused",
        "requests",
        "succeeded",
        "writes",
    )

    def __init__(self, key: Hashable, missed: int) -> None:
        self.key = key
        self.missed = missed
        self.requests = 0
        self.reads = 0
        self.writes = 0
        self.succeeded = 0
        self.failed = 0
        self.refused = 0
        self.counters = 0  # packed
        self.last = 0.0

    def ended(self, succeeded: bool, counters: int) -> None:
        if succeeded:
            self.succeeded += 1
        else:
            self.failed += 1
        self.counters += counters

    def absorb(self, other: "_Account") -> None:
        self.requests += other.requests
        self.reads += other.reads
        self.writes += other.writes
        self.succeeded += other.succeeded
        self.failed += other.failed
        self.refused += other.refused
        self.counters += other.counters


class _Fault:
    """How often something went wrong in one way; a row of a tally."""

    __slots__ = ("key", "last", "missed", "requests")

    def __init__(self, key: Hashable, missed: int) -> None:
        self.key = key
        self.missed = missed
        self.requests = 0
        self.last = 0.0

    def absorb(self, other: "_Fault") -> None:
        self.requests += other.requests


class _Copy:
    """A tally as it stands, to be made into JSON when the board is free again."""

    def __init__(self, tally: "Tally[Any]", parts: Sequence[str]) -> None:
        self._capacity = tally.capacity
        self._parts = parts
        self._values = operator.attrgetter(*parts)
        self._rows = [(row.key, self._values(row)) for row in tally.rows()]
        self._others = self._values(tally.others)

    def as_json(self, names: Callable[[Any], dict[str, Any]]) -> dict[str, Any]:
        """`names` makes what a row begins with of its key."""
        others = self._row(self._others)
        for part in ("last", "missed"):
            del others[part]
        return {
            "capacity": self._capacity,
            "rows": [names(key) | self._row(values) for key, values in self._rows],
            "others": others,
        }

    def _row(self, values: tuple[Any, ...]) -> dict[str, Any]:
        row = dict(zip(self._parts, values, strict=True))
        if "counters" in row:
            row["counters"] = _unpacked(row["counters"])
        return row


_FAULT = ("requests", "last", "missed")
_ACCOUNT = ("reads", "writes", "succeeded", "failed", "refused", "counters", *_FAULT)


def _fault_names(key: tuple[str, int, str]) -> dict[str, Any]:
    outcome, code, message = key
    return {"outcome": outcome, "code": code, "message": printable(message)}


def _totals(
    sides: tuple[dict[str, Any], dict[str, Any]], transfers: Iterable[_Transfer]
) -> dict[str, Any]:
    """What has ended and what runs, together."""
    totals = dict(zip(("read", "write"), sides, strict=True))
    for transfer in transfers:
        side = totals[transfer.received.request.operation.value]
        side["running"] += 1
        progress, _ = transfer.heard
        if progress is not None:
            side["counters"] += _packed(progress.counters)
    for side in sides:
        side["counters"] = _unpacked(side["counters"])
    return totals


def _rate(progress: TransferProgress | None, before: Event) -> float:
    """Octets of the file per second, between two events about a transfer."""
    if progress is None:
        return 0.0
    had = before.counters.payload if isinstance(before, TransferProgress) else 0
    seconds = progress.time - before.time
    return (progress.counters.payload - had) / seconds if seconds > 0 else 0.0


def _packed(counters: Counters) -> int:
    return int.from_bytes(_LAYOUT.pack(*_values(counters)), "little")


def _unpacked(counters: int) -> dict[str, int]:
    words = _WIDE.unpack(counters.to_bytes(_WIDE.size, "little"))
    return {
        name: low + (high << 64)
        for name, low, high in zip(_COUNTERS, words[::2], words[1::2], strict=True)
    }


_E = TypeVar("_E", bound=Event)


def _bounded(event: _E) -> _E:
    """The event, fit to be kept: a request is four kilobytes at the most, but its options could be
    a thousand objects, and an error message has sixty kilobytes.
    """
    if len(event.request.options) > _OPTIONS:
        event = replace(event, request=_cut_request(event.request))
    if isinstance(event, TransferEnded):
        error = event.error
        if isinstance(error, PeerError) and len(error.message) > _MESSAGE:
            return replace(event, error=PeerError(error.message[:_MESSAGE], error.code))
    return event


def _cut(event: _E) -> _E:
    """The event without what a client has put into it to make it large."""
    if _is_large(event.request):
        event = replace(event, request=_cut_request(event.request))
    return event


def _is_large(request: Request) -> bool:
    options = request.options
    return (
        len(request.filename) > _NAME
        or len(options) > _OPTIONS
        or sum(map(len, options)) + sum(map(len, options.values())) > _OPTIONS * _WORD
    )


def _cut_request(request: Request) -> Request:
    options = islice(request.options.items(), _OPTIONS)
    return replace(
        request,
        filename=request.filename[:_NAME],
        options={name[:_WORD]: value[:_WORD] for name, value in options},
    )
