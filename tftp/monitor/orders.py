"""What a reader of the channel may say: a line of words or of JSON, made into an order.

The table of orders is here, and so is every check that needs nothing but the line itself. What
comes in is anything at all; what comes out is an `Order` whose members are of the right types, or a
`NonsenseError` that says what is wrong. Who may give an order, and what it does, is not known here.
"""

import json
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from tftp.events import printable

__all__ = ["KINDS", "LONGEST", "ORDERS", "RATE", "NonsenseError", "Order", "parse"]

#: The longest line that is taken, in octets.
LONGEST = 4096
#: The kinds of events that can be subscribed to.
KINDS = ("received", "refused", "started", "progress", "ended", "state", "totals")
#: As many progress events a second as there are at the most.
RATE = 4.0

_LONGEST_ID = 64
_MOST_NUMBER = 2**63 - 1


class NonsenseError(ValueError):
    """A line is no order; `command` and `id` are what could be made out."""

    def __init__(
        self, message: str, command: str | None = None, id: int | str | None = None
    ) -> None:
        super().__init__(message)
        self.command = command
        self.id = id


@dataclass(frozen=True, slots=True)
class Order:
    """What a reader wants.

    Attributes:
        command: its name, one of `ORDERS`.
        id: comes back with the answer; None where there was none.
        members: of the types that the table says.
        token: proof that came with this order alone.
    """

    command: str
    id: int | str | None = None
    members: Mapping[str, Any] = field(default_factory=dict)
    token: str | None = None


@dataclass(frozen=True, slots=True)
class Form:
    """How an order looks.

    Attributes:
        usage: in plain words.
        meaning: for `help`.
        acts: it changes what the server does.
        members: what it may have, and what checks and converts each.
        needs: the member that must be there.
        words: the member that words without "=" belong to; a list if it takes several.
    """

    usage: str
    meaning: str
    acts: bool = False
    members: Mapping[str, Callable[[Any], Any]] = field(default_factory=dict)
    needs: str | None = None
    words: str | None = None


def parse(line: bytes) -> Order:
    """The order in a line without its end.

    Raises:
        NonsenseError: there is none in it.
    """
    try:
        text = line.decode("utf-8").strip()
    except UnicodeDecodeError:
        raise NonsenseError("this is not UTF-8: write words, or a JSON object: try help") from None
    if text.startswith("[") or text.startswith('"'):
        raise NonsenseError("an order is words, or a JSON object: try help")
    if text.startswith("{"):
        return _check(_from_json(text))
    return _check(_from_words(text))


def _from_json(text: str) -> dict[str, Any]:
    try:
        members = json.loads(text)
    except RecursionError:
        raise NonsenseError(
            "this JSON goes too deep: an order is one flat object: try help"
        ) from None
    except ValueError as error:
        raise NonsenseError(f"this is not JSON: {error}") from None
    assert isinstance(members, dict)  # noqa: S101  (it begins with a brace)
    return members


def _from_words(text: str) -> dict[str, Any]:
    if not text:
        raise NonsenseError("an empty line: try help")
    command, *rest = text.split(maxsplit=1)
    form = ORDERS.get(command)
    members: dict[str, Any] = {"command": command}
    if form is not None and form.words == "token":
        # It may have any character in it, blanks and equals signs too.
        return members | dict(zip(["token"], rest, strict=False))
    single = []
    for word in " ".join(rest).split():
        name, equals, value = word.partition("=")
        if name == "command" and equals:
            raise NonsenseError("an order is the first word of its line: try help")
        if equals:
            members[name] = value
        else:
            single.append(word)
    if form is not None and single:
        if form.words is None:
            raise NonsenseError(f"write: {form.usage}", command)
        if form.words != "kinds" and len(single) > 1:
            raise NonsenseError(f"write: {form.usage}", command)
        members[form.words] = single if form.words == "kinds" else single[0]
    return members


def _check(members: dict[str, Any]) -> Order:
    if "command" not in members:
        raise NonsenseError(
            'no "command" says what is wanted: try help', None, _id(members.get("id"))
        )
    command, number = members.pop("command"), _id(members.pop("id", None))
    if not isinstance(command, str):
        raise NonsenseError("command is the name of an order, a text: try help", None, number)
    if command not in ORDERS:
        shown = printable(command)[:40]
        raise NonsenseError(f"there is no order '{shown}': try help", None, number)
    form = ORDERS[command]
    # As a member of any other order a token counts for that order alone.
    token = members.pop("token", None) if command != "token" else None
    if token is not None and not isinstance(token, str):
        raise NonsenseError("a token is a text", command, number)
    unknown = members.keys() - form.members.keys()
    if unknown:
        shown = printable(min(unknown))[:40]
        raise NonsenseError(f"{command} knows no '{shown}': {form.usage}", command, number)
    if form.needs is not None and form.needs not in members:
        raise NonsenseError(f"write: {form.usage}", command, number)
    checked = {}
    for name, value in members.items():
        try:
            checked[name] = form.members[name](value)
        except ValueError as error:
            raise NonsenseError(f"{name} {error}", command, number) from None
    return Order(command, number, checked, token)


def _id(value: Any) -> int | str | None:
    match value:
        case bool():
            pass
        case int() if abs(value) <= _MOST_NUMBER:
            return value
        case str() if len(value) <= _LONGEST_ID:
            return value
        case None:
            return None
    raise NonsenseError(f"an id is a number, or a text of at most {_LONGEST_ID} letters")


def _number(value: Any) -> int:
    if isinstance(value, str) and value.isascii() and value.isdigit() and len(value) < 20:
        value = int(value)
    if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value <= _MOST_NUMBER:
        raise ValueError("is a number")
    return value


def _at_least_one(value: Any) -> int:
    number = _number(value)
    if number < 1:
        raise ValueError("is at least 1")
    return number


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise ValueError("is a text")
    return value


def _level(value: Any) -> str:
    level = _text(value).lower()
    if level not in ("debug", "info", "warning", "error"):
        raise ValueError("is debug, info, warning or error")
    return level


def _rate(value: Any) -> float:
    try:
        rate = float(_text(value)) if isinstance(value, str) else value
    except ValueError:
        rate = None
    if not isinstance(rate, int | float) or isinstance(rate, bool) or not math.isfinite(rate):
        raise ValueError(f"is a number of events a second, more than 0 and at most {RATE:g}")
    if not 0 < rate <= RATE:
        raise ValueError(f"is more than 0, and at most {RATE:g}")
    return float(rate)


def _kinds(value: Any) -> frozenset[str]:
    if not isinstance(value, list) or not all(isinstance(kind, str) for kind in value):
        raise ValueError("is a list of kinds")
    if value == ["all"]:
        return frozenset(KINDS)
    if value == ["none"]:
        return frozenset()
    if "all" in value or "none" in value:
        raise ValueError("takes all, or none, alone, or some of the others")
    unknown = sorted(set(value) - set(KINDS))
    if unknown:
        shown = printable(unknown[0])[:40]
        raise ValueError(f"has no '{shown}': all, none, or some of {', '.join(KINDS)}")
    return frozenset(value)


#: Every order that there is.
ORDERS = {
    "snapshot": Form("snapshot", "everything that is true now"),
    "transfers": Form("transfers", "the transfers that run now"),
    "subscribe": Form(
        f"subscribe KIND... [rate=N], KIND: all, none, {', '.join(KINDS)}",
        "choose which events come, and how many progress lines a second for each transfer",
        members={"kinds": _kinds, "rate": _rate},
        words="kinds",
    ),
    "token": Form(
        "token SECRET",
        "show that you may look and act",
        members={"token": _text},
        needs="token",
        words="token",
    ),
    "cancel": Form(
        "cancel N",
        "end the transfer with this number",
        acts=True,
        members={"transfer": _number},
        needs="transfer",
        words="transfer",
    ),
    "drain": Form("drain", "refuse new requests, and let those that run go on", acts=True),
    "resume": Form("resume", "take requests again", acts=True),
    "limits": Form(
        "limits [max_transfers=N] [max_blksize=N] [max_windowsize=N]",
        "tell the limits, or change them for requests to come",
        acts=True,
        members={
            "max_transfers": _at_least_one,
            "max_blksize": _number,
            "max_windowsize": _number,
        },
    ),
    "log-level": Form(
        "log-level debug|info|warning|error",
        "how much the server logs",
        acts=True,
        members={"level": _level},
        needs="level",
        words="level",
    ),
    "help": Form("help", "this list"),
    "quit": Form("quit", "close the connection"),
}
