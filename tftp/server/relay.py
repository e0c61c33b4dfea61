"""Requests and events on their way between the processes of one server.

They travel as tuples of plain values: a transfer of one block has three events, and pickling them
would cost more than the transfer. The other process knows the request that an event is about, and
puts it back in.
"""

from collections.abc import Callable
from dataclasses import astuple, fields
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
        operation=Operation(operation),
        filename=filename,
        mode=mode,
        options=options,
        peer=peer,
        local=local,
    )


def pack_event(event: Event) -> Packed:
    """An event as plain values, without its request."""
    kind = type(event)
    parts = tuple(_PACK.get(name, _same)(getattr(event, name)) for name in _FIELDS[kind])
    return (_KINDS.index(kind), event.time, event.transfer, parts)


def unpack_event(packed: Packed, request: Request) -> Event:
    """The event that `pack_event` packed; `request` is what it is about."""
    index, when, transfer, parts = packed
    kind = _KINDS[index]
    values = {
        name: _UNPACK.get(name, _same)(part)
        for name, part in zip(_FIELDS[kind], parts, strict=True)
    }
    return kind(time=when, transfer=transfer, request=request, **values)


_KINDS: list[type[Event]] = [
    RequestReceived,
    RequestRefused,
    TransferStarted,
    TransferProgress,
    TransferEnded,
]
_COMMON = {field.name for field in fields(Event)}
_FIELDS = {
    kind: [field.name for field in fields(kind) if field.name not in _COMMON] for kind in _KINDS
}


def _same(value: Any) -> Any:
    return value


def _pack_error(error: TFTPError | None) -> Packed | None:
    if error is None:
        return None
    # A subclass of somebody's own travels as the nearest class that both ends know.
    known = next(kind for kind in type(error).__mro__ if kind.__name__ in errors.__all__)
    return (known.__name__, error.message, int(error.code))


def _unpack_error(packed: Packed | None) -> TFTPError | None:
    if packed is None:
        return None
    name, message, code = packed
    error: TFTPError = getattr(errors, name)(message, code)
    return error


_PACK: dict[str, Callable[[Any], Any]] = {
    "error": _pack_error,
    "outcome": lambda outcome: outcome.value,
    "terms": lambda terms: (
        terms.blksize,
        terms.windowsize,
        terms.timeout,
        terms.tsize,
        terms.rollover,
    ),
    "counters": astuple,
    "granted": dict,
}

_UNPACK: dict[str, Callable[[Any], Any]] = {
    "error": _unpack_error,
    "outcome": Outcome,
    "terms": lambda packed: Terms(
        blksize=packed[0],
        windowsize=packed[1],
        timeout=packed[2],
        tsize=packed[3],
        rollover=packed[4],
    ),
    "counters": lambda packed: Counters(*packed),
}
