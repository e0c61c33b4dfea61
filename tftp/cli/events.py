"""`tftp events`: what servers tell on their monitoring channels, line by line, for people and jq.

This module chooses lines and writes them. What a message holds is `docs/reference/monitor.md`, and
connections are `tftp.monitor.feed`'s.
"""

import fnmatch
import io
import itertools
import json
import select
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import click

from tftp.cli.display import count, discard_output, granted_options, rate, write_line
from tftp.cli.secret import VARIABLE, read_token
from tftp.events import printable
from tftp.monitor.feed import Feed, Feeds, Message
from tftp.monitor.orders import KINDS
from tftp.monitor.place import DEFAULT_PLACE, Place
from tftp.monitor.shape import FIELDS

__all__ = ["command", "with_remedy"]

# What a person wants to see, if not told otherwise: not how each transfer gets on.
_DEFAULT_KINDS = ("received", "refused", "started", "ended", "state")
_VERBS = {"read": "get", "write": "put"}
_LIMITS = ("max_transfers", "max_blksize", "max_windowsize")


@click.command(
    "events",
    short_help="Follow what servers tell, line by line.",
    epilog="""\b
Examples:
  tftp events
  tftp events 192.0.2.1:6970 192.0.2.2:6970 --kind ended --kind refused
  tftp events --kind ended --where outcome=timed-out --where 'peer=192.0.2.*'
  tftp events --json --kind ended | jq -r '[.file, .duration] | @tsv'
""",
)
@click.argument("places", nargs=-1, metavar="[HOST:PORT|unix:PATH]...")
@click.option(
    "--kind",
    "kinds",
    type=click.Choice([*KINDS, "all"]),
    metavar="KIND",
    multiple=True,
    help=f"Only this kind; may be repeated: {', '.join(KINDS)}, or all. "
    f"Without it: {', '.join(_DEFAULT_KINDS)}.",
)
@click.option(
    "--where",
    "conditions",
    metavar="FIELD=VALUE",
    multiple=True,
    help="Only lines where this holds; may be repeated. A field inside another is written with a "
    "dot (error.code=1), and a value may have wildcards (*, ?).",
)
@click.option("--count", "most", type=click.IntRange(1), metavar="N", help="End after N lines.")
@click.option("--no-reconnect", is_flag=True, help="End when a connection is lost.")
@click.option(
    "--token-file",
    type=click.Path(path_type=Path, dir_okay=False),
    help=f"Show the servers the token in this file. Or put it into {VARIABLE}.",
)
@click.option(
    "--json", "as_json", is_flag=True, help="One JSON object per line, as the servers tell it."
)
def command(
    places: tuple[str, ...],
    kinds: tuple[str, ...],
    conditions: tuple[str, ...],
    most: int | None,
    no_reconnect: bool,
    token_file: Path | None,
    as_json: bool,
) -> int:
    """Follow what servers tell, line by line.

    A place is where a server that was started with --monitor lets itself be watched; without one
    it is 127.0.0.1:6970. Connections that are lost are made again, and what was lost is told on
    stderr. The exit status is 1 where no line can come any more, and 0 after --count lines or
    when nobody reads them any more.
    """
    wanted = frozenset(KINDS if "all" in kinds else kinds or _DEFAULT_KINDS)
    tests = [_condition(text, wanted) for text in conditions]
    token = read_token(token_file)
    servers = _servers(places)
    wishes: dict[str, Any] = {
        "token": token,
        "kinds": sorted(wanted),
        "reconnect": not no_reconnect,
    }
    unread = threading.Event()
    with ExitStack() as stack:
        messages: Iterator[Message]
        if len(servers) == 1:
            # A busy server tells thousands of lines in a second: they are not handed from thread to
            # thread, and not made anew.
            feed = Feed(servers[0], before_wait=sys.stdout.flush, **wishes)
            messages, as_it_came = iter(feed), _as_it_came(feed)
            close = feed.close
        else:
            feeds = stack.enter_context(Feeds(servers, **wishes))
            messages, as_it_came = _flushed(feeds), json.dumps
            close = feeds.close
        _when_nobody_reads(unread, close)
        line = as_it_came if as_json else _line_for_people(len(servers) > 1)
        try:
            messages = itertools.takewhile(lambda _: not unread.is_set(), messages)
            for number, message in enumerate(_chosen(messages, wanted, tests), 1):
                sys.stdout.write(f"{line(message)}\n")
                if number == most:
                    sys.stdout.flush()
                    return 0
        except BrokenPipeError:
            unread.set()
    if unread.is_set():
        discard_output()
        return 0  # Whoever has read from here has what it wanted, like head -1.
    return 1


def _when_nobody_reads(unread: threading.Event, close: Callable[[], None]) -> None:
    """Set and call this when the other end of stdout is closed, if it is one that can be."""
    try:
        descriptor = sys.stdout.fileno()
    except io.UnsupportedOperation:
        return  # It is this program's own.
    if not hasattr(select, "poll"):
        return
    poll = select.poll()
    poll.register(descriptor, 0)  # Errors are always told of.

    def wait() -> None:
        poll.poll()
        unread.set()
        close()

    threading.Thread(target=wait, name="stdout", daemon=True).start()


def _servers(places: tuple[str, ...]) -> list[Place]:
    """The places, each once."""
    try:
        return list(dict.fromkeys(map(Place.parse, places))) or [DEFAULT_PLACE]
    except ValueError as error:
        raise click.BadParameter(str(error), param_hint="HOST:PORT") from None


def _condition(text: str, kinds: frozenset[str]) -> Callable[[Message], bool]:
    field, equals, pattern = text.partition("=")
    if not equals or not field:
        raise click.BadParameter(
            f"'{printable(text)}' is no condition: write FIELD=VALUE", param_hint="--where"
        )
    path = field.split(".")
    known = {"event", "server"}.union(*(FIELDS[kind] for kind in kinds))
    if path[0] not in known:
        raise click.BadParameter(
            f"'{printable(path[0])}' is no field of these kinds: {', '.join(sorted(known))}",
            param_hint="--where",
        )

    def holds(message: Message) -> bool:
        value: Any = message
        for name in path:
            if not isinstance(value, dict) or name not in value:
                return False
            value = value[name]
        return fnmatch.fnmatchcase(_as_word(value), pattern)

    return holds


def _as_word(value: Any) -> str:
    """A value as one writes it behind the equals sign: as in JSON, but without quotes."""
    match value:
        case None:
            return "null"
        case bool():
            return str(value).lower()
        case _:
            return str(value)


def _flushed(feeds: Feeds) -> Iterator[Message]:
    """The messages; before it waits for one, all that has been written is seen."""
    for message in feeds:
        yield message
        if feeds.queue.empty():
            sys.stdout.flush()


def _chosen(
    messages: Iterator[Message], kinds: frozenset[str], tests: list[Callable[[Message], bool]]
) -> Iterator[Message]:
    """The messages to show; what goes wrong on the way to them is told on stderr."""
    reached = set()
    for message in messages:
        if message["event"] == "greeting":
            reached.add(message["server"])
        match message["event"]:
            case "disconnected":
                retry = message["retry"]
                again = "" if retry is None else f"; trying again in {retry:g} s"
                doubt = "" if message["server"] in reached else "is it the place of --monitor?"
                reason = with_remedy(message["reason"] + again, doubt)
                write_line(f"tftp: {message['server']}: {printable(reason)}")
            case "lost":
                lost = count(message["progress"] + message["others"], "event")
                write_line(f"tftp: {message['server']}: {lost} lost: this is read too slowly")
            case kind if kind in kinds and all(test(message) for test in tests):
                yield message


def with_remedy(reason: str, otherwise: str = "") -> str:
    """Why there will be no connection, and what to do about it; `otherwise` if it is no token."""
    if "token" in reason:
        return f"{reason}: give it with --token-file or {VARIABLE}"
    return f"{reason}: {otherwise}" if otherwise else reason


def _as_it_came(feed: Feed) -> Callable[[Message], str]:
    """What makes a line of the last message of `feed`: the server's own, and the server in it."""
    server = f', "server": {json.dumps(feed.server)}}}'

    def line(message: Message) -> str:
        own = feed.line.rstrip()
        # Letters beyond ASCII could be anything: escaped they do nothing to a terminal.
        return own[:-1].decode() + server if own.isascii() else json.dumps(message)

    return line


def _line_for_people(many: bool) -> Callable[[Message], str]:
    """What makes a line of a message; with several servers, each says whose it is."""
    stamp = "%H:%M:%S" if sys.stdout.isatty() else "%Y-%m-%d %H:%M:%S"

    def line(message: Message) -> str:
        when = time.strftime(stamp, time.localtime(message["time"]))
        where = f"{message['server']} " if many else ""
        text = f"{when} {where}{_as_text(message)}"
        # A server makes names printable; one that does not is no reason to trust it more.
        return text if text.isprintable() else printable(text)

    return line


def _as_text(message: Message) -> str:
    match message["event"]:
        case "state":
            limits = ", ".join(f"{name} {message['limits'][name]}" for name in _LIMITS)
            return f"{message['state']}, {limits}"
        case "totals":
            return _totals(message)
    verb = _VERBS.get(message["operation"], message["operation"])
    return f"{message['peer']} {verb} {message['file']}: {_what(message)}"


def _what(message: Message) -> str:
    match message["event"]:
        case "received":
            asked = [f"{name} {value}" for name, value in message["asked"].items()]
            return ", ".join(["asked", message["mode"], *asked])
        case "refused":
            return f"refused: {_why(message['error'])}"
        case "started":
            size = "size unknown" if message["size"] is None else count(message["size"], "byte")
            granted = granted_options(message["granted"], known_size=message["size"])
            return ", ".join(["started", size, *granted])
        case "progress":
            total = "" if message["size"] is None else f" of {message['size']}"
            return f"{message['counters']['payload']}{total} bytes so far"
        case "ended":
            why = f": {_why(message['error'])}" if message["error"] else ""
            return f"{message['outcome']}{why}, {_numbers(message)}"
        case other:
            raise ValueError(f"no line for {other!r}")


def _why(error: dict[str, Any]) -> str:
    return f"{error['message']} (error {error['code']})"


def _numbers(ended: Message) -> str:
    counters, seconds = ended["counters"], ended["duration"]
    payload = counters["payload"]
    parts = [f"{count(payload, 'byte')} in {seconds:.3f} s"]
    if payload and seconds > 0:
        parts.append(rate(payload / seconds))
    parts += granted_options(ended["granted"], known_size=payload)
    parts.append(count(counters["retransmissions"], "retransmission"))
    return ", ".join(parts)


def _totals(message: Message) -> str:
    sides = [message["totals"][side] for side in ("read", "write")]
    requests = sum(side["requests"] for side in sides)
    refused = sum(side["refused"] for side in sides)
    payload = sum(side["counters"]["payload"] for side in sides)
    return (
        f"{message['running']} running, {count(requests, 'request')}, {refused} refused, "
        f"{count(payload, 'byte')}"
    )
