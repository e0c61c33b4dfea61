"""What happens, as values: the request, the counters, and the records that observers receive.

Anything callable can watch a server or a client: it is given these frozen records, one at a time.
`as_json` is the one form in which they leave the process. Names from the network are bytes here;
`printable` makes them fit for a log or a terminal.
"""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields
from enum import Enum
from operator import attrgetter
from typing import Any

from tftp.errors import TFTPError
from tftp.options import Terms

__all__ = [
    "Address",
    "Counters",
    "Event",
    "Observer",
    "Operation",
    "Outcome",
    "Request",
    "RequestReceived",
    "RequestRefused",
    "TransferEnded",
    "TransferProgress",
    "TransferStarted",
    "as_json",
    "format_address",
    "kind_of",
    "printable",
    "request_as_json",
]

#: A socket address as the `socket` module gives it: (host, port) or (host, port, flow, scope).
Address = tuple[Any, ...]


class Operation(Enum):
    """What a client asks for, in the words of RFC 1350."""

    READ = "read"
    WRITE = "write"


class Outcome(Enum):
    """How a transfer ended."""

    #: All of the file arrived, and its sender knows.
    DONE = "done"
    #: All of it was sent, but the last ACK never came: clients seldom stay to repeat it.
    UNCONFIRMED = "unconfirmed"
    #: The client only wanted the OACK (a size probe), and said so with an ERROR.
    PROBED = "probed"
    #: The peer sent an ERROR.
    PEER_ERROR = "peer-error"
    #: The peer broke the protocol.
    PROTOCOL_ERROR = "protocol-error"
    #: The peer fell silent.
    TIMED_OUT = "timed-out"
    #: The network says that there is nobody at the peer's address.
    UNREACHABLE = "unreachable"
    #: The process that served it died.
    CRASHED = "crashed"
    #: The file could not be read or written.
    STORAGE_ERROR = "storage-error"
    #: Cancelled from this side, or replaced by a new request of the same client.
    ABORTED = "aborted"

    @property
    def succeeded(self) -> bool:
        """Whether the transfer did what the client wanted, as far as this side can know."""
        return self in (Outcome.DONE, Outcome.UNCONFIRMED, Outcome.PROBED)


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """A client's request, as policies and storages see it.

    Attributes:
        operation: read or write.
        filename: the name asked, as it stands on the wire.
        mode: "octet" or "netascii", in lower case.
        options: names and values as they came (RFC 2347).
        peer: the client's address.
        local: the address that the request was sent to.
    """

    operation: Operation
    filename: bytes
    mode: str = "octet"
    options: Mapping[str, str] = field(default_factory=dict, hash=False)
    peer: Address = ("", 0)
    local: Address = ("", 0)

    def option(self, name: str) -> str | None:
        """The value asked for an option, whatever the case of its name; None if not asked."""
        return next((text for known, text in self.options.items() if known.lower() == name), None)


@dataclass(slots=True)
class Counters:
    """What went over the wire in one transfer, counted by its state machine.

    Attributes:
        payload: octets of the file, in blocks that were new; what a progress bar shows.
        blocks: DATA packets that were new.
        datagrams_sent, datagrams_received: packets, of all kinds, repeats included.
        octets_sent, octets_received: their UDP payload.
        retransmissions: DATA blocks, requests, OACKs and ACKs sent again.
        duplicates: DATA and ACK packets that came again, or late.
        timeouts: how often silence, not a packet, made this side send.
        gaps: how often a hole in the sequence made this side go back (sender) or ask (receiver).
    """

    payload: int = 0
    blocks: int = 0
    datagrams_sent: int = 0
    datagrams_received: int = 0
    octets_sent: int = 0
    octets_received: int = 0
    retransmissions: int = 0
    duplicates: int = 0
    timeouts: int = 0
    gaps: int = 0

    def copy(self) -> "Counters":
        """The counters as they stand now."""
        return Counters(*_COUNTED(self))


_COUNTED = attrgetter(*(counter.name for counter in fields(Counters)))


@dataclass(frozen=True, slots=True, kw_only=True)
class Event:
    """Something happened.

    Attributes:
        time: seconds since the epoch.
        transfer: the number of the transfer, unique within its server or client.
        request: what the client asked.
    """

    time: float
    transfer: int
    request: Request


@dataclass(frozen=True, slots=True, kw_only=True)
class RequestReceived(Event):
    """A request came that is not the repeat of another."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RequestRefused(Event):
    """A request was answered with an ERROR; `error` says which and why."""

    error: TFTPError


@dataclass(frozen=True, slots=True, kw_only=True)
class TransferStarted(Event):
    """The terms are settled and the file is open.

    Attributes:
        terms: what was negotiated.
        granted: the OACK's options; empty where there is none.
        size: octets in the file, if known.
    """

    terms: Terms
    granted: Mapping[str, str]
    size: int | None


@dataclass(frozen=True, slots=True, kw_only=True)
class TransferProgress(Event):
    """A transfer goes on; sent at most four times a second.

    Attributes:
        counters: so far.
        size: octets in the file, if known.
        round_trip: smoothed, in seconds, if measured.
    """

    counters: Counters
    size: int | None
    round_trip: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class TransferEnded(Event):
    """A transfer ended, well or not: `outcome` says how, `error` why where it failed.

    Attributes:
        duration: seconds from the request to the end.
    """

    outcome: Outcome
    error: TFTPError | None
    terms: Terms
    granted: Mapping[str, str]
    size: int | None
    counters: Counters
    round_trip: float | None
    duration: float


Observer = Callable[[Event], None]


def kind_of(event: Event) -> str:
    """The kind of an event in a word: "received", "refused", "started", "progress" or "ended"."""
    return _KINDS[type(event)]


def as_json(event: Event) -> dict[str, Any]:
    """The event as values that `json.dumps` takes; `event` names its kind, for example "ended"."""
    record: dict[str, Any] = {
        "event": kind_of(event),
        "time": event.time,
        "transfer": event.transfer,
        **request_as_json(event.request),
    }
    for name, convert in _OWN[type(event)]:
        value = getattr(event, name)
        record[name] = value if convert is None or value is None else convert(value)
    return record


def request_as_json(request: Request) -> dict[str, Any]:
    """The part of an event's JSON form that is the request's."""
    return {
        "operation": request.operation.value,
        "file": printable(request.filename),
        "mode": printable(request.mode),
        "asked": _printable_options(request.options),
        "peer": format_address(request.peer),
        "local": format_address(request.local),
    }


_KINDS: dict[type[Event], str] = {
    RequestReceived: "received",
    RequestRefused: "refused",
    TransferStarted: "started",
    TransferProgress: "progress",
    TransferEnded: "ended",
}


def _printable_options(options: Mapping[str, str]) -> dict[str, str]:
    return {printable(name): printable(value) for name, value in options.items()}


def _error_json(error: TFTPError) -> dict[str, Any]:
    return {"code": int(error.code), "message": printable(error.message)}


def _record_json(names: tuple[str, ...]) -> Callable[[Any], dict[str, Any]]:
    """What makes a dict of the attributes of these names."""
    values = attrgetter(*names)
    return lambda record: dict(zip(names, values(record), strict=True))


# Every event of a busy server comes through here: what can be known before is looked up once.
_CONVERT: dict[str, Callable[[Any], Any]] = {
    "outcome": attrgetter("value"),
    "error": _error_json,
    "terms": _record_json(tuple(part.name for part in fields(Terms))),
    "counters": _record_json(tuple(part.name for part in fields(Counters))),
    "granted": _printable_options,
}
_COMMON = frozenset(part.name for part in fields(Event))
# The members that a kind has beside those of all events, and what makes each fit for JSON.
_OWN: dict[type[Event], list[tuple[str, Callable[[Any], Any] | None]]] = {
    kind: [
        (part.name, _CONVERT.get(part.name)) for part in fields(kind) if part.name not in _COMMON
    ]
    for kind in _KINDS
}


def printable(text: bytes | str) -> str:
    """Text from the network made fit for a log line or a terminal.

    What is not printable (control characters, escape sequences, bytes that are not UTF-8,
    direction marks) becomes a backslash escape, and so does the backslash itself: two names that
    differ are never shown as one.
    """
    if isinstance(text, bytes):
        text = text.decode("utf-8", "surrogateescape")
    elif not text.isascii():
        # Words of a request keep each byte beyond ASCII by itself, even where they are UTF-8.
        text = _KEPT_BYTES.sub(_as_utf8, text)
    text = text.replace("\\", "\\\\")
    if text.isprintable():
        return text
    return "".join(letter if letter.isprintable() else _escape(letter) for letter in text)


#: Bytes that "surrogateescape" has kept inside a text.
_KEPT_BYTES = re.compile("[\udc80-\udcff]+")


def _as_utf8(kept: re.Match[str]) -> str:
    return kept[0].encode("utf-8", "surrogateescape").decode("utf-8", "surrogateescape")


def _escape(letter: str) -> str:
    number = ord(letter)
    if 0xDC80 <= number <= 0xDCFF:
        return f"\\x{number - 0xDC00:02x}"  # A byte; a letter of that number gets four digits.
    if number < 0x80:
        return letter.encode("unicode_escape").decode("ascii")
    return f"\\u{number:04x}" if number < 0x10000 else f"\\U{number:08x}"


def format_address(address: Address) -> str:
    """An address as people write it: "192.0.2.1:69" or "[2001:db8::1]:69"."""
    host, port, *rest = address
    if ":" not in host:
        return f"{host}:{port}"
    scope = rest[1] if len(rest) > 1 else 0
    zone = f"%{scope}" if scope and "%" not in host else ""
    return f"[{host}{zone}]:{port}"
