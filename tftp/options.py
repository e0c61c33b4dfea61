"""Option negotiation (RFC 2347): three verbs, one for each of its moments.

`offer` is what a client asks for, `answer` is what a server grants, and `accept` is the client
reading the grant. Block sizes are RFC 2348, `timeout` and `tsize` RFC 2349, `windowsize` RFC 7440;
`utimeout` (microseconds), `rollover` (0 or 1) and `blksize2` (a power of two) are in use without
an RFC. An option that is not known, refused, or asked with a value out of range is left out of the
answer, as if it had not been asked; that is what the RFC of each prescribes or allows.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import lru_cache

from tftp.errors import ErrorCode, ProtocolError

__all__ = [
    "DEFAULT_BLKSIZE",
    "MAX_BLKSIZE",
    "MAX_WINDOWSIZE",
    "MIN_BLKSIZE",
    "Limits",
    "Terms",
    "accept",
    "answer",
    "offer",
]

DEFAULT_BLKSIZE = 512  # RFC 1350
MIN_BLKSIZE = 8  # RFC 2348
MAX_BLKSIZE = 65464  # RFC 2348
MAX_WINDOWSIZE = 65535  # RFC 7440


@dataclass(frozen=True, slots=True, kw_only=True)
class Terms:
    """What a transfer runs under; the defaults are RFC 1350 without any option.

    As the wish of a client the same fields say what to ask for, where a default means "do not ask".

    Attributes:
        blksize: octets in a block, 8 to 65464.
        windowsize: blocks sent before an ACK is due, 1 to 65535.
        timeout: seconds before a repeat, the same for both ends. A fraction is asked as `utimeout`.
        tsize: octets in the file; a client that reads asks with 0.
        rollover: the number that follows block 65535, 0 or 1. None leaves it unsaid, meaning 0.
    """

    blksize: int = DEFAULT_BLKSIZE
    windowsize: int = 1
    timeout: float | None = None
    tsize: int | None = None
    rollover: int | None = None

    def __post_init__(self) -> None:
        _require("blksize", self.blksize, MIN_BLKSIZE, MAX_BLKSIZE)
        _require("windowsize", self.windowsize, 1, MAX_WINDOWSIZE)
        _require("timeout", self.timeout, _MIN_TIMEOUT, _MAX_TIMEOUT)
        _require("tsize", self.tsize, 0, _MAX_TSIZE)
        _require("rollover", self.rollover, 0, 1)


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """The most that a server grants.

    Attributes:
        max_blksize: a larger request gets this size (RFC 2348: a server may choose less).
        max_windowsize: likewise (RFC 7440). 64 blocks is what one system call sends.
        refused: names of options to leave unanswered, in lower case.
    """

    max_blksize: int = MAX_BLKSIZE
    max_windowsize: int = 64
    refused: frozenset[str] = frozenset()

    def __post_init__(self) -> None:
        _require("max_blksize", self.max_blksize, MIN_BLKSIZE, MAX_BLKSIZE)
        _require("max_windowsize", self.max_windowsize, 1, MAX_WINDOWSIZE)


# RFC 2349 allows 1 to 255 s; utimeout, in the field, goes down to 10 ms.
_MIN_TIMEOUT, _MAX_TIMEOUT = 0.01, 255.0
_MICROSECONDS = 1_000_000
_MAX_TSIZE = 2**63 - 1


def offer(wanted: Terms) -> dict[str, str]:
    """The options of a request that asks for `wanted`; empty where plain RFC 1350 will do."""
    options: dict[str, str] = {}
    if wanted.tsize is not None:
        options["tsize"] = str(wanted.tsize)
    if wanted.blksize != DEFAULT_BLKSIZE:
        options["blksize"] = str(wanted.blksize)
    if wanted.windowsize != 1:
        options["windowsize"] = str(wanted.windowsize)
    if wanted.timeout is not None:
        if float(wanted.timeout).is_integer():
            options["timeout"] = str(int(wanted.timeout))
        else:
            options["utimeout"] = str(round(wanted.timeout * _MICROSECONDS))
    if wanted.rollover is not None:
        options["rollover"] = str(wanted.rollover)
    return options


def answer(
    requested: Mapping[str, str], limits: Limits, *, size: int | None
) -> tuple[Terms, dict[str, str]]:
    """What a server grants of the `requested` options: the terms, and the OACK that tells of them.

    The OACK holds only what was asked, in the order asked (firmware refuses anything else), and is
    empty where nothing is granted: then the transfer starts without one. Of two options that
    set the same term (`blksize` and `blksize2`) the first that can be granted is.

    Args:
        requested: names and values as they came; names in any case (RFC 2347).
        limits: the most that is granted.
        size: what `tsize` is answered with, in octets; None leaves `tsize` out.
    """
    if not requested:
        return _PLAIN, {}
    terms, granted = _answer(tuple(requested.items()), limits, size)
    return terms, dict(granted)


@lru_cache(maxsize=256)  # Of a thousand machines that boot all ask the same.
def _answer(
    requested: tuple[tuple[str, str], ...], limits: Limits, size: int | None
) -> tuple[Terms, dict[str, str]]:
    terms = _PLAIN
    granted: dict[str, str] = {}
    settled: set[str] = set()
    for known, name, text in _once(requested):
        term = _TERM_OF.get(known, known)
        grant = _GRANTS.get(known)
        number = _number(text)
        if grant is None or number is None or known in limits.refused or term in settled:
            continue
        changed = grant(terms, number, limits, size)
        if changed is None:
            continue
        settled.add(term)
        terms, value = changed
        # The name goes back as it was spelled, and a value that was not changed digit for digit.
        granted[name] = text if value == number else str(value)
    return terms, granted


def accept(offered: Mapping[str, str], acked: Mapping[str, str]) -> Terms:
    """The terms that a server's OACK sets for a client that asked for `offered`.

    Raises:
        ProtocolError: with code 8, the server granted what nobody asked, or more than was asked
            (RFC 2347: the client must then end the transfer). An option that nobody asked is let
            pass where it changes nothing, as a common server sends `blksize 512` unasked.
    """
    asked = {known: text for known, _, text in _once(offered.items())}
    terms = Terms()
    for known, name, text in _once(acked.items()):
        number = _number(text)
        read = _READINGS.get(known)
        if read is None or number is None:
            why = "not a number" if known in asked else "it was not asked"
            raise _bad_grant(name, text, why)
        try:
            changed = read(terms, number)
        except ValueError as error:
            raise _bad_grant(name, text, str(error)) from None
        if known not in asked:
            if changed != terms and known != "tsize":
                raise _bad_grant(name, text, "it was not asked")
            continue
        if known in _AT_MOST and number > int(asked[known]):
            raise _bad_grant(name, text, f"more than the {asked[known]} asked")
        if known in _EXACTLY and number != int(asked[known]):
            raise _bad_grant(name, text, f"not the {asked[known]} asked")
        terms = changed
    return terms


_AT_MOST = frozenset({"blksize", "blksize2", "windowsize"})
_EXACTLY = frozenset({"timeout", "utimeout", "rollover"})
# What two options set; every other option sets the term of its name.
_TERM_OF = {"blksize2": "blksize", "utimeout": "timeout"}


def _once(options: Iterable[tuple[str, str]]) -> Iterator[tuple[str, str, str]]:
    """Each option's name in lower case, its name as spelled, and its value.

    RFC 2347: the case of a name does not matter, and an option stands once; else its first counts.
    """
    seen: set[str] = set()
    for name, text in options:
        known = name.lower()
        if known not in seen:
            seen.add(known)
            yield known, name, text


def _bad_grant(name: str, text: str, why: str) -> ProtocolError:
    # Words from the network: quoted, and cut to what a sentence can hold.
    said = f"server answered {name!r:.40} with {text!r:.40}: {why}"
    return ProtocolError(said, ErrorCode.OPTION_REFUSED)


def _number(text: str) -> int | None:
    """A decimal number as the RFCs mean it: digits alone, and no more than a size ever needs."""
    if len(text) <= 20 and text.isascii() and text.isdigit():
        return int(text)
    return None


def _require(name: str, value: float | None, low: float, high: float) -> None:
    if value is not None and not low <= value <= high:
        raise ValueError(f"{name} is {low} to {high}, not {value}")


# Made once, as many requests ask for nothing.
_PLAIN = Terms()


# Each grant takes the terms so far, the number asked, the limits and the file's size, and gives the
# terms with it and the number granted, or None to leave the option out.
_Granted = tuple[Terms, int] | None


def _grant_blksize(terms: Terms, asked: int, limits: Limits, size: int | None) -> _Granted:
    if not MIN_BLKSIZE <= asked <= MAX_BLKSIZE:
        return None
    blksize = min(asked, limits.max_blksize)
    return replace(terms, blksize=blksize), blksize


def _grant_blksize2(terms: Terms, asked: int, limits: Limits, size: int | None) -> _Granted:
    if not MIN_BLKSIZE <= asked <= MAX_BLKSIZE:
        return None
    blksize = 1 << min(asked, limits.max_blksize).bit_length() - 1
    return replace(terms, blksize=blksize), blksize


def _grant_windowsize(terms: Terms, asked: int, limits: Limits, size: int | None) -> _Granted:
    if not 1 <= asked <= MAX_WINDOWSIZE:
        return None
    windowsize = min(asked, limits.max_windowsize)
    return replace(terms, windowsize=windowsize), windowsize


def _grant_timeout(terms: Terms, asked: int, limits: Limits, size: int | None) -> _Granted:
    if not 1 <= asked <= 255:
        return None
    return replace(terms, timeout=float(asked)), asked


def _grant_utimeout(terms: Terms, asked: int, limits: Limits, size: int | None) -> _Granted:
    seconds = asked / _MICROSECONDS
    if not _MIN_TIMEOUT <= seconds <= _MAX_TIMEOUT:
        return None
    return replace(terms, timeout=seconds), asked


def _grant_tsize(terms: Terms, asked: int, limits: Limits, size: int | None) -> _Granted:
    if size is None or size > _MAX_TSIZE:
        return None
    return replace(terms, tsize=size), size


def _grant_rollover(terms: Terms, asked: int, limits: Limits, size: int | None) -> _Granted:
    return (replace(terms, rollover=asked), asked) if asked in (0, 1) else None


_GRANTS: dict[str, Callable[[Terms, int, Limits, int | None], _Granted]] = {
    "blksize": _grant_blksize,
    "blksize2": _grant_blksize2,
    "windowsize": _grant_windowsize,
    "timeout": _grant_timeout,
    "utimeout": _grant_utimeout,
    "tsize": _grant_tsize,
    "rollover": _grant_rollover,
}

_READINGS: dict[str, Callable[[Terms, int], Terms]] = {
    "blksize": lambda terms, number: replace(terms, blksize=number),
    "blksize2": lambda terms, number: replace(terms, blksize=number),
    "windowsize": lambda terms, number: replace(terms, windowsize=number),
    "timeout": lambda terms, number: replace(terms, timeout=float(number)),
    "utimeout": lambda terms, number: replace(terms, timeout=number / _MICROSECONDS),
    "tsize": lambda terms, number: replace(terms, tsize=number),
    "rollover": lambda terms, number: replace(terms, rollover=number),
}
