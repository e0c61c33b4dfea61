"""The full-screen view as lines of text: a function of the state, a size, and the local time.

Every line is as wide as the screen and there are exactly as many as it has, so nothing wraps and
nothing scrolls. Nothing depends on colour alone: the cursor has a mark, a state has a word. Where
the terminal's encoding has no more than ASCII, nothing else is drawn.

What servers tell has been made printable by them. A server may be anybody's, so what is shown is
made printable here once more.
"""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from rich.cells import cell_len, set_cell_size
from rich.text import Text

from tftp.events import Outcome, printable
from tftp.monitor.feed import Message
from tftp.monitor.top import Row, Top, Watched, fraction, idle, rate, seconds_left

__all__ = ["Look", "amount", "duration", "lines", "reason", "report", "short"]

# Of the lines that are there, failures get at least this part where there are any.
_FAILURES_SHARE = 1 / 3
# And servers at most this one.
_SERVERS_SHARE = 1 / 3
# What the bars get of the room that they share with the names of the files.
_BAR_SHARE = 0.4
# Cells that names and bars have at the least; other columns go before they get less.
_LEAST_SERVER, _LEAST_FILE, _LEAST_BAR = 18, 16, 8
# From so many cells on, clients are shown with their ports.
_WIDE = 100
# Seconds after which a transfer of which nothing is heard is said to be idle.
_STALLED = 2.0
# After so many more there is no room to say for how long.
_LONG_STALLED = 590.0

_BAD, _WARNING, _GOOD, _DIM = "red", "yellow", "green", "dim"
_STATES = {"serving": _GOOD, "draining": _WARNING, "stopping": _WARNING}


@dataclass(frozen=True, slots=True)
class Look:
    """What a terminal can show.

    Attributes:
        width, height: in cells; a height of None is as much as there is to show.
        ascii_only: it has no other letters.
        clock: the local time, seconds since the epoch.
        now: of the clock that `Top` was given.
    """

    width: int
    height: int | None
    clock: float
    now: float
    ascii_only: bool = False


def lines(top: Top, look: Look) -> list[Text]:
    """The screen, from its first line to its last."""
    height = look.height or 0
    if top.help:
        return _filled(_help(look), look, _footer(top, look))
    servers = _servers(top, look, max(1, int(height * _SERVERS_SHARE)))
    head = [_title(top, look), *servers]
    rest = height - len(head) - 1
    failures = top.failures()
    rows = top.rows()
    if top.failures_first:
        # What the failures do not need is the transfers'.
        above = _transfers(top, rows, look, max(3, rest // 3, rest - len(failures) - 1))
        body = [*above, *_failures(top, failures, look, rest - len(above))]
    else:
        share = min(len(failures), max(2, int(rest * _FAILURES_SHARE)))
        # What the transfers do not need is the failures'.
        share = max(share, min(len(failures), rest - len(rows) - 3))
        below = _failures(top, failures, look, share + 1) if rest > 6 else []
        body = _transfers(top, rows, look, rest - len(below))
        body = [*body, *_blank(rest - len(body) - len(below), look), *below]
    return _filled([*head, *body], look, _footer(top, look))


def report(top: Top, look: Look) -> list[Text]:
    """The same without the keys, for a pipe: all transfers, and the last few failures."""
    rows, failures = top.rows(), top.failures()[:10]
    return [
        *_servers(top, look, len(top.servers)),
        *_transfers(top, rows, look, len(rows) + 3),
        *_failures(top, failures, look, max(1, len(failures)) + 1),
    ]


# -- numbers and words


def amount(octets: float) -> str:
    """Octets for people: "3.5 MB", in decimal units, as networks and disks count."""
    value, unit = octets, "B"
    for larger in ("kB", "MB", "GB", "TB"):
        if value < 999.5:  # It would be shown as 1000.
            break
        value, unit = value / 1000, larger
    return f"{value:.1f} {unit}" if unit != "B" and value < 99.95 else f"{value:.0f} {unit}"


def short(number: int) -> str:
    """A count in at most 6 letters: "12345", "1.23 M"."""
    if number < 100_000:
        return str(number)
    value, unit = number / 1000, "k"
    for larger in ("M", "G"):
        if value < 999.5:
            break
        value, unit = value / 1000, larger
    return f"{value:.1f} {unit}" if value < 99.95 else f"{value:.0f} {unit}"


def duration(seconds: float | None) -> str:
    """Seconds in at most 6 letters: "0.4 s", "12:07", "3:12 h", "12 d"."""
    if seconds is None:
        return "-"
    if seconds < 9.95:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60}:{whole % 60:02}"
    if whole < 100 * 3600:
        return f"{whole // 3600}:{whole % 3600 // 60:02} h"
    return f"{whole // 86400} d"


def reason(failure: Message) -> str:
    """Why a request was refused, or a transfer failed, in words."""
    error = failure["error"]
    words = "" if error is None else f"{error['message']} ({error['code']})"
    if failure["event"] == "refused":
        return f"refused: {words}"
    ending = _ENDINGS.get(failure["outcome"], str(failure["outcome"]))
    return f"{ending}: {words}" if words else ending


_ENDINGS = {
    Outcome.PEER_ERROR.value: "ended by the client",
    Outcome.PROTOCOL_ERROR.value: "protocol broken",
    Outcome.TIMED_OUT.value: "client silent",
    Outcome.UNREACHABLE.value: "unreachable",
    Outcome.CRASHED.value: "crashed",
    Outcome.STORAGE_ERROR.value: "storage",
    Outcome.ABORTED.value: "aborted",
}


def _round_trip(seconds: float | None) -> str:
    if seconds is None:
        return "-"
    milliseconds = seconds * 1000
    if milliseconds < 9.995:
        return f"{milliseconds:.2f} ms"
    return f"{milliseconds:.0f} ms" if milliseconds < 9999.5 else f"{seconds:.0f} s"


def _speed(octets: float | None) -> str:
    return "-" if octets is None else f"{amount(octets)}/s"


# -- columns


@dataclass(frozen=True, slots=True)
class _Column:
    """A column of a table.

    Attributes:
        title: its head.
        width: in cells; 0 means what the others leave.
        value: its text in a row, or a text with style.
        right: its text stands on the right.
        tail: where it is too long, its end is what matters.
        sort: the key that sorts by it, if there is one.
        spare: where there is no room for all columns, the one with the highest number goes first;
            0 stays.
    """

    title: str
    width: int
    value: Callable[[Any], "str | Text"]
    right: bool = False
    tail: bool = False
    sort: str = ""
    spare: int = 0


def _chosen(columns: list[_Column], width: int, least: int) -> list[_Column]:
    """The columns that there is room for, beside one of `least` cells."""
    chosen = list(columns)
    for column in sorted(columns, key=lambda column: -column.spare):
        if not column.spare or sum(one.width + 1 for one in chosen) + least <= width:
            break
        chosen.remove(column)
    return chosen


def _widths(columns: Sequence[_Column], width: int) -> list[int]:
    gaps = len(columns) - 1
    rest = max(1, width - gaps - sum(column.width for column in columns))
    return [column.width or rest for column in columns]


def _table_line(
    columns: Sequence[_Column], values: Sequence[str | Text], look: Look, style: str = ""
) -> Text:
    """A line of a table, as wide as the screen."""
    line = Text(style=style)
    for place, (column, width, value) in enumerate(
        zip(columns, _widths(columns, look.width), values, strict=True)
    ):
        if place:
            line.append(" ")
        if isinstance(value, Text):
            line.append_text(value)
        else:
            line.append(_fit(_safe(value, look), width, look, right=column.right, tail=column.tail))
    return _cut(line, look)


def _fit(text: str, width: int, look: Look, *, right: bool = False, tail: bool = False) -> str:
    """The text in exactly so many cells."""
    cells = cell_len(text)
    if cells > width:
        mark = "~" if look.ascii_only else "…"
        if tail:
            return mark + set_cell_size(text[::-1], width - 1)[::-1]
        return set_cell_size(text, width - 1) + mark
    space = " " * (width - cells)
    return space + text if right else text + space


def _safe(text: str, look: Look) -> str:
    """Without anything that a terminal would obey.

    The backslashes of a text that is printable stay what they are: they are the server's escapes.
    """
    if not text.isprintable():
        text = printable(text).replace("\\\\", "\\")
    return text.encode("ascii", "backslashreplace").decode() if look.ascii_only else text


def _cut(line: Text, look: Look) -> Text:
    """The line in the width of the screen."""
    line.truncate(look.width, overflow="crop", pad=True)
    line.no_wrap = True
    return line


def _plain(text: str, look: Look, style: str = "") -> Text:
    return Text(_fit(_safe(text, look), look.width, look), style=style)


def _blank(count: int, look: Look) -> list[Text]:
    return [Text(" " * look.width) for _ in range(count)]


def _section(title: str, look: Look, aside: str = "") -> Text:
    """A line between two parts of the screen."""
    stroke = "-" if look.ascii_only else "─"
    line = Text()
    line.append(f"{stroke} ", _DIM).append(_safe(title, look), "bold").append(" ")
    if aside:
        aside = f" {_safe(aside, look)} "
    rest = look.width - line.cell_len - cell_len(aside) - 1
    if rest < 1:
        aside, rest = "", max(0, look.width - line.cell_len - 1)
    line.append(stroke * rest, _DIM).append(aside, _DIM).append(stroke, _DIM)
    return _cut(line, look)


# -- parts

_SPARKS = "▁▂▃▄▅▆▇█"


def _title(top: Top, look: Look) -> Text:
    """What it is, all servers together, and the time."""
    dot = "-" if look.ascii_only else "·"
    shown = top.shown()
    running = sum(len(watched.mirror.transfers) for watched in shown)
    parts = [f"{running} running", f"out {_speed(_sum(shown, 'out'))}"]
    into = _sum(shown, "into")
    if into:
        parts.append(f"in {_speed(into)}")
    clock = time.strftime("%H:%M:%S", time.localtime(look.clock))
    line = Text().append("tftp top", "bold").append("  ").append(f" {dot} ".join(parts))
    room = look.width - line.cell_len - len(clock) - 4
    if room >= 0:
        line.append("  ").append(_fit(_sparkline(shown, room, look), room, look), "cyan")
        line.append("  ").append(clock, _DIM)
    return _cut(line, look)


def _sum(servers: Sequence[Watched], direction: str) -> float | None:
    known = [value for watched in servers if (value := getattr(watched, direction)) is not None]
    return sum(known) if known else None


def _sparkline(servers: Sequence[Watched], width: int, look: Look) -> str:
    """The throughput of the last minutes; the highest column is the most that is in it."""
    if look.ascii_only or width < 8:
        return ""
    samples = [0.0] * width
    for watched in servers:
        recent = list(watched.history)[-width:]
        for place, sample in enumerate(reversed(recent), 1):
            samples[-place] += sample or 0.0
    most = max(samples)
    if most <= 0:
        return ""
    highest = len(_SPARKS) - 1
    # What is there at all is seen: only nothing is blank.
    return "".join(_SPARKS[round(sample / most * highest)] if sample else " " for sample in samples)


def _servers(top: Top, look: Look, most: int) -> list[Text]:
    """A line for each server, and one for all of them if there are several."""
    columns = _server_columns(look)
    head = _table_line(columns, [column.title for column in columns], look, "bold")
    everyone = list(top.servers.values())
    fits = everyone if len(everyone) <= most else everyone[: max(1, most - 1)]
    found = [head, *(_server_line(watched, columns, top, look) for watched in fits)]
    if len(fits) < len(everyone):
        rest = everyone[len(fits) :]
        gone = sum(not watched.mirror.connected for watched in rest)
        found.append(_plain(f"  and {len(rest)} more, {gone} not connected", look, _DIM))
    return found


def _server_columns(look: Look) -> list[_Column]:
    """What is told of a server."""

    def both(part: str) -> Callable[[Watched], str]:
        return lambda one: short(_both(one, part))

    columns = [
        _Column("  SERVER", 0, lambda one: one.server),
        _Column("STATE", 8, lambda one: one.mirror.state),
        _Column("ENGINE", 9, lambda one: str(one.mirror.greeting.get("engine")), spare=6),
        _Column("RUN", 5, lambda one: short(len(one.mirror.transfers)), right=True),
        _Column("REQUESTS", 8, both("requests"), right=True, spare=7),
        _Column("DONE", 6, lambda one: short(_succeeded(one)), right=True, spare=4),
        _Column("FAILED", 6, lambda one: short(_failed(one)), right=True, spare=1),
        _Column("REFUSED", 7, both("refused"), right=True, spare=2),
        _Column("OUT", 9, lambda one: _speed(one.out), right=True),
        _Column("IN", 9, lambda one: _speed(one.into), right=True, spare=3),
        _Column("SENT", 8, lambda one: amount(_payload(one, "read")), right=True, spare=8),
        _Column("TAKEN", 8, lambda one: amount(_payload(one, "write")), right=True, spare=9),
        _Column("REPEATS", 8, lambda one: short(_repeated(one)), right=True, spare=10),
        _Column("UP", 7, _up, right=True, spare=5),
    ]
    return _chosen(columns, look.width, _LEAST_SERVER)


def _server_line(watched: Watched, columns: Sequence[_Column], top: Top, look: Look) -> Text:
    mark = ">" if top.focus == watched.server else " "
    mirror = watched.mirror
    if not mirror.connected or not mirror.totals:
        why = f"not connected: {mirror.reason}" if not mirror.connected else "connected"
        if watched.retry_at is not None:
            wait = watched.retry_at - look.now
            why += f", again in {wait:.0f} s" if wait >= 0.5 else ", connecting again"
        return _plain(f"{mark} {watched.server}  {why}", look, _BAD)
    values = [column.value(watched) for column in columns]
    values[0] = f"{mark} {watched.server}"
    state = Text(_fit(_safe(mirror.state, look), columns[1].width, look))
    state.stylize(_STATES.get(mirror.state, ""))
    values[1] = state
    return _table_line(columns, values, look)


def _both(watched: Watched, part: str) -> int:
    totals = watched.mirror.totals
    return int(totals["read"][part]) + int(totals["write"][part])


def _succeeded(watched: Watched) -> int:
    return sum(
        count
        for side in watched.mirror.totals.values()
        for outcome, count in side["outcomes"].items()
        if outcome in _SUCCESSES
    )


def _failed(watched: Watched) -> int:
    ended = sum(sum(side["outcomes"].values()) for side in watched.mirror.totals.values())
    return ended - _succeeded(watched)


_SUCCESSES = frozenset(outcome.value for outcome in Outcome if outcome.succeeded)


def _payload(watched: Watched, side: str) -> int:
    return int(watched.mirror.totals[side]["counters"]["payload"])


def _repeated(watched: Watched) -> int:
    sides = watched.mirror.totals.values()
    return sum(int(side["counters"]["retransmissions"]) for side in sides)


def _up(watched: Watched) -> str:
    started = watched.mirror.greeting.get("started")
    return "-" if started is None else duration(max(0.0, watched.mirror.time - started))


def _transfers(top: Top, rows: Sequence[tuple[Watched, Row]], look: Look, room: int) -> list[Text]:
    """The running transfers, as many as there is room for, those around the cursor."""
    order = f"sorted by {top.sort}{', reversed' if top.reverse else ''}"
    title = f"running {len(rows)}"
    if top.focus is not None:
        title += f" at {top.focus}"
    if room < 3:
        return [_section(title, look, order)][:room]
    if not rows:
        known = any(watched.mirror.connected for watched in top.shown())
        words = "no transfer is running" if known else "nobody knows: there is no connection"
        return [_section(title if known else "running", look), _plain(f"  {words}", look, _DIM)]
    columns = _transfer_columns(top, look)
    arrow = "*" if look.ascii_only else ("▲" if top.reverse else "▼")
    titles = [
        _fit(
            f"{column.title}{arrow if column.sort == top.sort else ''}",
            width,
            look,
            right=column.right,
        )
        for column, width in zip(columns, _widths(columns, look.width), strict=True)
    ]
    here = top.cursor(rows) if look.height is not None else None
    space = room - 2
    first = 0 if here is None else max(0, min(here - space // 2, len(rows) - space))
    found = [_section(title, look, order), _table_line(columns, titles, look, "bold")]
    for place, pair in enumerate(rows[first : first + space], first):
        values = [column.value(pair) for column in columns]
        line = _table_line(columns, values, look, "reverse" if place == here else "")
        if place == here:
            line = _cut(Text(">", style="reverse bold").append_text(line[1:]), look)
        found.append(line)
    return found


_Pair = tuple[Watched, Row]


def _transfer_columns(top: Top, look: Look) -> list[_Column]:
    """What is told of a transfer."""
    several = len(top.servers) > 1 and top.focus is None
    columns = [
        _Column("", 1, lambda pair: ""),
        *([_Column("SERVER", 22, lambda pair: pair[0].server, spare=6)] if several else ()),
        _Column("NUMBER", 7, lambda pair: str(pair[1]["transfer"]), right=True, spare=4),
        _client_column("CLIENT", look),
        _Column("", 3, lambda pair: _verb(pair[1])),
        _Column("DONE", 6, lambda pair: _done(pair[1]), right=True, sort="done"),
        _Column("RATE", 9, _pace, right=True, sort="rate", spare=1),
        _Column("TRIP", 7, lambda pair: _trip(pair[1]), right=True, sort="round trip", spare=2),
        _Column("LEFT", 6, _left, right=True, sort="left", spare=3),
        _Column("REPEATS", 8, _repeats, right=True, sort="repeats", spare=5),
        _Column("SIZE", 8, lambda pair: _size(pair[1]), right=True, spare=7),
        _Column("BLOCKS", 9, lambda pair: _blocks(pair[1]), right=True, spare=8),
        _Column("AGE", 6, _age, right=True, sort="age", spare=9),
    ]
    columns = _chosen(columns, look.width, _LEAST_FILE + _LEAST_BAR + 1)
    rest = look.width - sum(column.width + 1 for column in columns)
    bar = min(40, max(_LEAST_BAR, int(rest * _BAR_SHARE)))
    place = [column.title for column in columns].index("DONE")
    columns[place:place] = [
        _Column("FILE", 0, lambda pair: str(pair[1]["file"]), tail=True, sort="file"),
        _Column("PROGRESS", bar, lambda pair: _bar(fraction(pair[1]), bar, look)),
    ]
    return columns


def _bar(done: float | None, width: int, look: Look) -> Text:
    """How far a transfer is; nothing where nobody can know."""
    if done is None:
        return Text(" " * width)
    full, rest = ("#", ".") if look.ascii_only else ("━", "─")
    filled = int(done * width)
    return Text().append(full * filled, "cyan").append(rest * (width - filled), _DIM)


def _client_column(title: str, look: Look) -> _Column:
    """Who it is for. The ends of addresses tell hosts of one network apart."""
    if look.width >= _WIDE:
        return _Column(title, 21, lambda pair: str(pair[1]["peer"]), tail=True, sort="client")
    return _Column(title, 15, lambda pair: _host(pair[1]), tail=True, sort="client")


def _host(row: Row) -> str:
    return str(row["peer"]).rpartition(":")[0].removeprefix("[").removesuffix("]")


def _verb(row: Row) -> str:
    return "get" if row["operation"] == "read" else "put"


def _done(row: Row) -> str:
    if row["state"] == "opening":
        return "opens"
    done = fraction(row)
    return amount(row["counters"]["payload"]) if done is None else f"{int(done * 100)} %"


def _pace(pair: _Pair) -> str:
    watched, row = pair
    still = idle(row, watched.mirror.time)
    if still < _STALLED:
        return _speed(rate(row, watched.mirror.time))
    if still < _LONG_STALLED:
        return f"idle {int(still)} s" if still < 60 else f"idle {duration(still)}"
    return "idle"


def _trip(row: Row) -> str:
    return _round_trip(row["round_trip"])


def _left(pair: _Pair) -> str:
    return duration(seconds_left(pair[1], pair[0].mirror.time))


def _age(pair: _Pair) -> str:
    return duration(max(0.0, pair[0].mirror.time - pair[1]["began"]))


def _repeats(pair: _Pair) -> str:
    return short(pair[1]["counters"]["retransmissions"])


def _size(row: Row) -> str:
    return "-" if row["size"] is None else amount(row["size"])


def _blocks(row: Row) -> str:
    terms = row["terms"]
    if terms is None:
        return "-"
    return f"{terms['blksize']}x{terms['windowsize']}"


def _failures(
    top: Top, failures: Sequence[tuple[Watched, Message]], look: Look, room: int
) -> list[Text]:
    """What went wrong last."""
    if room < 1:
        return []
    head = _section("failures", look, "latest first" if failures else "")
    if not failures:
        known = any(watched.mirror.connected for watched in top.shown())
        return [head, _plain("  none" if known else "  nobody knows", look, _DIM)][:room]
    with_server = len(top.servers) > 1 and top.focus is None and look.width >= _WIDE
    columns = [
        _Column("", 8, _when),
        _client_column("", look),
        _Column("", 3, lambda pair: _verb(pair[1])),
        _Column("", max(16, look.width // 4), lambda pair: str(pair[1]["file"]), tail=True),
        _Column("", 0, lambda pair: Text()),
    ]
    if with_server:
        columns[1:1] = [_Column("", 20, lambda pair: pair[0].server)]
    width = _widths(columns, look.width)[-1]
    found = [head]
    for pair in failures[: room - 1]:
        values = [column.value(pair) for column in columns]
        values[-1] = Text(_fit(_safe(reason(pair[1]), look), width, look), style=_BAD)
        found.append(_table_line(columns, values, look))
    return found


def _when(pair: tuple[Watched, Message]) -> str:
    return time.strftime("%H:%M:%S", time.localtime(pair[1]["time"]))


_HELP = (
    ("up down, k j", "choose a transfer; also page up, page down, home, end"),
    ("s S", "sort by the next column, the previous one"),
    ("R", "the other way round"),
    ("tab", "look at one server after the other, then at all again"),
    ("f", "more room for failures, or for transfers"),
    ("c", "cancel the chosen transfer: its client gets an ERROR"),
    ("d", "drain: refuse new requests, let running transfers go on"),
    ("r", "resume: take requests again"),
    ("? h", "this page; any key leaves it"),
    ("q", "leave"),
)


def _help(look: Look) -> list[Text]:
    found = [_section("keys", look)]
    for keys, meaning in _HELP:
        line = Text().append(f"  {keys:14}", "bold").append(meaning)
        found.append(_cut(line, look))
    found += _blank(1, look)
    words = (
        "DONE, FAILED and REFUSED count requests since the server began.",
        "OUT and IN are octets of files in a second, TRIP is the round trip.",
        "A transfer that is idle has told nothing new for so long.",
        "Cancel and drain ask first. Drain and resume act on what is shown.",
    )
    return [*found, *(_plain(f"  {line}", look, _DIM) for line in words)]


_KEYS = (
    ("q", "quit"),
    ("?", "help"),
    ("s", "sort"),
    ("c", "cancel"),
    ("d", "drain"),
    ("r", "resume"),
    ("f", "failures"),
    ("tab", "server"),
)


def _footer(top: Top, look: Look) -> Text:
    """The last line: a question, a notice, or the keys."""
    if top.question is not None:
        # The end of it says what to press, whatever the length of the name in it.
        keys = " y/n "
        text = _fit(_safe(top.question.text, look), max(1, look.width - len(keys)), look)
        return _cut(Text(text.rstrip() + keys, style="bold reverse yellow"), look)
    if top.notice is not None:
        return _plain(top.notice.text, look, f"bold {_BAD if top.notice.bad else _GOOD}")
    line = Text()
    for key, meaning in _KEYS:
        if key == "tab" and len(top.servers) < 2:
            continue
        line.append(key, "reverse").append(f" {meaning}  ")
    return _cut(line, look)


def _filled(body: list[Text], look: Look, footer: Text) -> list[Text]:
    """As many lines as the screen has, the last one being the footer."""
    if look.height is None:
        return [*body, footer]
    space = max(0, look.height - 1)
    body = body[:space]
    return [*body, *_blank(space - len(body), look), footer]
