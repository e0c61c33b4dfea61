"""Requests and events on their way between the processes of one server.

They travel as tuples of plain values: a transfer of one block has three events, and pickling them
would cost more than the transfer. The other process knows the request that an event is about, and
puts it back in.
"""

from collections.abc import Callable
from dataclasses import fields
from functools import lru_cache
from operator import attrgetter
from typing import Any

from tftp import errors
from tftp.errors import TFTPError
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
)
from tftp.options import Terms

__all__ = ["pack_event", "pack_request", "unpack_event", "unpack_request"]

Packed = tuple[Any, ...]

# A dict is several times as quick as an enumeration that is called.
_OPERATIONS = {operation.value: operation for operation in Operation}
_KNOWN_ERRORS = frozenset(errors.__all__)


def pack_request(request: Request) -> Packed:
    """A request as plain values."""
    return (
        request.operation.value,
        request.filename,
        request.mode,
        dict(request.options),
        request.peer,
        request.local,
    )


def unpack_request(packed: Packed) -> Request:
    """The request that `pack_request` packed."""
    operation, filename, mode, options, peer, local = packed
    return Request(
        operation=_OPERATIONS[operation],
        filename=filename,
        mode=mode,
        options=options,
        peer=peer,
        local=local,
    )


def pack_event(event: Event) -> Packed:
    """An event as plain values, without its request."""
    index, names, packers = _TO_PACK[type(event)]
    values = [getattr(event, name) for name in names]
    for place, pack in packers:
        values[place] = pack(values[place])
    return (index, event.time, event.transfer, tuple(values))


def unpack_event(packed: Packed, request: Request, *, number: int | None = None) -> Event:
    """The event that `pack_event` packed; `request` is what it is about.

    With `number` that is its transfer's number, which another process may have given twice.
    """
    index, when, transfer, parts = packed
    kind, names, unpackers = _TO_UNPACK[index]
    values = list(parts)
    for place, unpack in unpackers:
        values[place] = unpack(values[place])
    own = dict(zip(names, values, strict=True))
    if number is not None:
        transfer = number
    return kind(time=when, transfer=transfer, request=request, **own)


def _pack_error(error: TFTPError | None) -> Packed | None:
    if error is None:
        return None
    # A subclass of somebody's own travels as the nearest class that both ends know.
    known = next(kind.__name__ for kind in type(error).__mro__ if kind.__name__ in _KNOWN_ERRORS)
    return (known, error.message, int(error.code))


def _unpack_error(packed: Packed | None) -> TFTPError | None:
    if packed is None:
        return None
    name, message, code = packed
    error: TFTPError = getattr(errors, name)(message, code)
    return error


_TERMS = [field.name for field in fields(Terms)]
_pack_terms = attrgetter(*_TERMS)
_pack_counters = attrgetter(*(field.name for field in fields(Counters)))


@lru_cache(maxsize=64)  # Most transfers run under the same few.
def _unpack_terms(packed: Packed) -> Terms:
    return Terms(**dict(zip(_TERMS, packed, strict=True)))


_Convert = Callable[[Any], Any]
_PACK: dict[str, _Convert] = {
    "error": _pack_error,
    "outcome": attrgetter("value"),
    "terms": _pack_terms,
    "counters": _pack_counters,
    "granted": dict,
}
_UNPACK: dict[str, _Convert] = {
    "error": _unpack_error,
    "outcome": {outcome.value: outcome for outcome in Outcome}.__getitem__,
    "terms": _unpack_terms,
    "counters": lambda packed: Counters(*packed),
}

_KINDS: list[type[Event]] = [
    RequestReceived,
    RequestRefused,
    TransferStarted,
    TransferProgress,
    TransferEnded,
]
_COMMON = {field.name for field in fields(Event)}


def _own(kind: type[Event]) -> list[str]:
    """The names of what a kind has beside what all events have."""
    return [field.name for field in fields(kind) if field.name not in _COMMON]


def _places(names: list[str], convert: dict[str, _Convert]) -> list[tuple[int, _Convert]]:
    """Which of the values are not plain, and what makes them so."""
    return [(place, convert[name]) for place, name in enumerate(names) if name in convert]


# A busy server sends every event through here: what depends on the kind alone is looked up once.
_TO_PACK = {
    kind: (index, _own(kind), _places(_own(kind), _PACK)) for index, kind in enumerate(_KINDS)
}
_TO_UNPACK = [(kind, _own(kind), _places(_own(kind), _UNPACK)) for kind in _KINDS]
