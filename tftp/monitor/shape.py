"""What a line of the channel must look like before a reader looks into it.

A server may be anybody's, or of another version: what it says is input. A message that has been
checked here can be taken apart, added up, drawn and written as JSON again without another look: it
has the members of `docs/reference/monitor.md`, of the types that are said there; and all that is in
it, also what is not known, has a size that numbers, clocks and stacks have room for. Words that may
grow (states, outcomes, engines) are words, whichever. This module knows no connection, and nothing
of what becomes of the messages.
"""

from collections.abc import Callable, Iterable
from dataclasses import fields
from typing import Any

from tftp.events import Counters

__all__ = ["FIELDS", "ShapeError", "check"]

# Levels of lists and objects in each other; there are six in a snapshot.
_DEEPEST = 16
# Letters of a text: a datagram of names has 65507 octets, and each may be escaped.
_LONGEST = 1 << 18
# Beyond what can be counted.
_MOST = 1 << 64
# The end of the year 9999, where calendars end: seconds since the epoch.
_LATEST = 253_402_300_799


class ShapeError(Exception):
    """A message is not one of the protocol; the text says what is wrong with it."""


class _Odd(Exception):
    """Something in a message is not as it should be; `path` leads to it."""

    def __init__(self, words: str) -> None:
        super().__init__(words)
        self.path: list[str] = []


_Check = Callable[[Any], None]


def check(message: dict[str, Any]) -> None:
    """Raise `ShapeError` unless readers can rely on this message; its `event` is a text.

    Of a kind that is not known, no more is asked than that it has a reasonable size.
    """
    kind = message["event"]
    try:
        _check_size(message, _DEEPEST)
        if kind in _FORMS:
            _FORMS[kind](message)
    except _Odd as odd:
        # Only a kind that is known is repeated: another one may have any length.
        name = f'"{kind}"' if kind in _FORMS else "an event"
        raise ShapeError(f"{name}: {' '.join(['.'.join(odd.path), str(odd)]).strip()}") from None


def _check_size(outer: Any, room: int) -> None:
    """Nothing in it is larger than what can be dealt with. Every value of every line comes by."""
    if not room:
        raise _Odd("it is nested too deeply")
    values: Iterable[Any] = outer.values() if type(outer) is dict else outer
    for value in values:
        kind = type(value)
        if kind is str:
            if len(value) > _LONGEST:
                raise _Odd("something in it is too long")
        elif kind is int or kind is float:
            if not -_MOST <= value <= _MOST:  # Nor is what is "not a number".
                raise _Odd("a number in it is too large")
        elif kind is dict or kind is list:
            _check_size(value, room - 1)


# -- values ----------------------------------------------------------------------------------------


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _count(value: Any) -> None:
    if type(value) is not int or value < 0:
        raise _Odd("is no count")


def _amount(value: Any) -> None:
    if not _is_number(value) or value < 0:
        raise _Odd("is no amount")


def _number(value: Any) -> None:
    if not _is_number(value):
        raise _Odd("is no number")


def _time(value: Any) -> None:
    if not _is_number(value) or not 0 <= value <= _LATEST:
        raise _Odd("is no time")


def _text(value: Any) -> None:
    if not isinstance(value, str):
        raise _Odd("is no text")


def _truth(value: Any) -> None:
    if not isinstance(value, bool):
        raise _Odd("is neither true nor false")


def _id(value: Any) -> None:
    if type(value) is not int and not isinstance(value, str | None):
        raise _Odd("is no id")


def _or_null(form: _Check) -> _Check:
    def look(value: Any) -> None:
        if value is not None:
            form(value)

    return look


def _each(form: _Check) -> _Check:
    """A list of them."""

    def look(value: Any) -> None:
        if not isinstance(value, list):
            raise _Odd("is no list")
        for place, inner in enumerate(value):
            try:
                form(inner)
            except _Odd as odd:
                odd.path.insert(0, str(place))
                raise

    return look


def _by_name(form: _Check) -> _Check:
    """An object with any names."""

    def look(value: Any) -> None:
        if not isinstance(value, dict):
            raise _Odd("is no object")
        for inner in value.values():
            form(inner)

    return look


def _object(required: dict[str, _Check], optional: dict[str, _Check] | None = None) -> _Check:
    """An object with these members, and any others."""
    forms = [(name, form, True) for name, form in required.items()]
    forms += [(name, form, False) for name, form in (optional or {}).items()]

    def look(value: Any) -> None:
        if not isinstance(value, dict):
            raise _Odd("is no object")
        for name, form, needed in forms:
            try:
                if name in value:
                    form(value[name])
                elif needed:
                    raise _Odd("is missing")
            except _Odd as odd:
                odd.path.insert(0, name)
                raise

    return look


def _all(names: Iterable[str], form: _Check) -> dict[str, _Check]:
    return dict.fromkeys(names, form)


# -- the parts of messages -------------------------------------------------------------------------

_counters = _object(_all((counter.name for counter in fields(Counters)), _count))
_limits = _object(_all(("max_transfers", "max_blksize", "max_windowsize"), _count))
_error = _object({"code": _count, "message": _text})
_options = _by_name(_text)
_terms = _object(_all(("blksize", "windowsize"), _count))
_request = {
    **_all(("operation", "file", "mode", "peer", "local"), _text),
    "transfer": _count,
    "asked": _options,
}
_progress = {
    "counters": _counters,
    "size": _or_null(_count),
    "round_trip": _or_null(_amount),
}
_row = _object(
    {
        **_request,
        **_progress,
        "state": _text,
        "granted": _options,
        "terms": _or_null(_terms),
        "began": _time,
        "duration": _amount,
        "rate": _number,
    }
)
_side = _object(
    {
        **_all(("requests", "running", "refused"), _count),
        "outcomes": _by_name(_count),
        "counters": _counters,
    }
)
_totals = _object({"read": _side, "write": _side})


def _tally(row: dict[str, _Check]) -> _Check:
    return _object({"rows": _each(_object({**row, "requests": _count, "last": _time}))})


_account = {**_all(("succeeded", "failed", "refused"), _count), "counters": _counters}

# -- messages --------------------------------------------------------------------------------------

_event = {**_request, "time": _time}
_EVENTS: dict[str, dict[str, _Check]] = {
    "received": _event,
    "refused": {**_event, "error": _error},
    "started": {**_event, "terms": _terms, "granted": _options, "size": _or_null(_count)},
    "progress": {**_event, **_progress},
    "ended": {
        **_event,
        **_progress,
        "outcome": _text,
        "error": _or_null(_error),
        "terms": _terms,
        "granted": _options,
        "duration": _amount,
    },
    "state": {"time": _time, "state": _text, "limits": _limits},
    "totals": {"time": _time, "state": _text, "running": _count, "totals": _totals},
}
_refused, _ended = _object(_EVENTS["refused"]), _object(_EVENTS["ended"])

#: The members that each kind of event has, beside its own name and its server's.
FIELDS = {kind: frozenset(members) | {"sequence"} for kind, members in _EVENTS.items()}
FIELDS["state"] -= {"sequence"}


def _failure(value: Any) -> None:
    """A `refused` or an `ended`, and it says which."""
    _object({"event": _text})(value)
    (_refused if value["event"] == "refused" else _ended)(value)


# A server that demands a token says next to nothing of itself before it has been shown.
_GREETING: dict[str, _Check] = {
    **_all(("version", "engine", "host"), _text),
    "addresses": _each(_text),
    "pid": _count,
    **_all(("started", "time"), _time),
}
_FORMS: dict[str, _Check] = {
    "greeting": _object({"protocol": _count, "access": _text}, _GREETING),
    "snapshot": _object(
        {
            "sequence": _count,
            "time": _time,
            "state": _text,
            "limits": _limits,
            "totals": _totals,
            "transfers": _each(_row),
            "endings": _each(_ended),
            "failures": _each(_failure),
            "clients": _tally({"client": _text, **_account}),
            "files": _tally({"file": _text, **_account}),
            "errors": _tally({"outcome": _text, "code": _count, "message": _text}),
        },
        {"id": _id},
    ),
    **{kind: _object(members) for kind, members in _EVENTS.items()},
    "lost": _object({"time": _time, "progress": _count, "others": _count}),
    "reply": _object({"command": _or_null(_text), "result": _object({})}, {"id": _id}),
    "error": _object({"message": _text}, {"id": _id}),
    "bye": _object({"message": _text}, {"final": _truth}),
}
