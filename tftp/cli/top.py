"""`tftp top`: what servers do, on a full screen, with keys to act on them; or once, for scripts.

This module has the terminal and the connections. What is drawn, and what the keys mean, is
`tftp.monitor.screen` and `tftp.monitor.top`.
"""

import errno
import os
import queue
import select
import signal
import socket
import sys
import termios
import time
from collections.abc import Iterator
from concurrent.futures import Future
from contextlib import ExitStack, contextmanager
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Any

import click

from tftp.cli.display import discard_output, write_json, write_line
from tftp.cli.events import with_remedy
from tftp.cli.keyboard import Keyboard
from tftp.cli.secret import VARIABLE, read_token
from tftp.events import printable
from tftp.monitor.feed import Feeds, Message, OrderError
from tftp.monitor.place import DEFAULT_PLACE, Place
from tftp.monitor.top import KINDS, RATE, SORTS, Order, Top, Watched

if TYPE_CHECKING:
    from rich.console import Console
    from rich.text import Text

__all__ = ["command"]

# Seconds between two drawings while nothing is pressed.
_REFRESH = 0.25
# Messages that are taken in before the keys are looked at again.
_AT_ONCE = 2000
# Seconds that servers have to answer with --once, and that are waited for a second look at their
# totals: one look tells no rate.
_ANSWER, _SECOND_LOOK = 5.0, 1.0
# A report is at least so wide: in a pipe nobody says how wide it may be.
_REPORT_WIDTH = 140
_ENDS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


@click.command(
    "top",
    short_help="Watch servers, and act on them.",
    epilog="""\b
Examples:
  tftp top
  tftp top 192.0.2.1:6970 192.0.2.2:6970 --token-file ~/.tftp-token
  tftp top unix:/run/tftp/monitor
  tftp top --once --json | jq .snapshot.totals.read.outcomes
""",
)
@click.argument("places", nargs=-1, metavar="[HOST:PORT|unix:PATH]...")
@click.option(
    "--token-file",
    type=click.Path(path_type=Path, dir_okay=False),
    help=f"Show the servers the token in this file, to look and act. Or put it into {VARIABLE}.",
)
@click.option(
    "--sort",
    type=click.Choice(list(SORTS)),
    default="age",
    show_default=True,
    help="Sort transfers by this; the keys s and S change it.",
)
@click.option("--once", is_flag=True, help="Print what is true now as text, and end.")
@click.option("--json", is_flag=True, help="The same as JSON, an object on a line for each server.")
def command(
    places: tuple[str, ...], token_file: Path | None, sort: str, once: bool, json: bool
) -> int:
    """Watch servers, and act on them.

    A place is where a server that was started with --monitor lets itself be watched; without one
    it is 127.0.0.1:6970. Connections that are lost are made again. Press ? for the keys.
    """
    token = read_token(token_file)
    servers = _servers(places)
    top = Top(servers, token=token is not None)
    top.sort = sort
    if once or json:
        return _look_once(top, token, json)
    console = _console()
    with Feeds(servers, token=token, kinds=KINDS, rate=RATE) as feeds:
        return _Session(top, feeds, console).run()


def _servers(places: tuple[str, ...]) -> list[str]:
    """The places in their full form, each once."""
    try:
        return list(dict.fromkeys(str(Place.parse(place)) for place in places)) or [
            str(DEFAULT_PLACE)
        ]
    except ValueError as error:
        raise click.BadParameter(str(error), param_hint="HOST:PORT") from None


def _console() -> "Console":
    """The terminal, if it is one that a full screen can be drawn on."""
    from rich.console import Console

    console = Console()
    if not console.is_terminal or console.is_dumb_terminal:
        raise click.UsageError("a full screen needs a terminal: add --once or --json")
    return console


def _is_ascii(console: "Console") -> bool:
    return not console.encoding.lower().startswith("utf")


# -- once ------------------------------------------------------------------------------------------


def _look_once(top: Top, token: str | None, json: bool) -> int:
    snapshots = {}
    with Feeds(list(top.servers), token=token, kinds=["totals"], rate=4, reconnect=False) as feeds:
        for message in _answers(top, feeds, 0.0 if json else _SECOND_LOOK):
            top.apply(message, time.monotonic())
            if message["event"] == "snapshot":
                snapshots[message["server"]] = message
    if json:
        for watched in top.servers.values():
            write_json(_record(watched, snapshots.get(watched.server)), sys.stdout)
    else:
        _print_report(top)
    for watched in top.servers.values():
        if watched.server not in snapshots:
            why = "it does not answer" if watched.mirror.connected else watched.mirror.reason or ""
            why = with_remedy(why, "is it the place of --monitor?")
            write_line(f"tftp: {watched.server}: {printable(why)}")
    return 0 if len(snapshots) == len(top.servers) else 1


def _answers(top: Top, feeds: Feeds, second_look: float) -> Iterator[Message]:
    """Messages until each server has told all that is asked for, or time is up."""
    waiting, measured = set(top.servers), set(top.servers)
    until = time.monotonic() + _ANSWER
    while waiting or (measured and second_look):
        try:
            message = feeds.queue.get(timeout=max(0.0, until - time.monotonic()))
        except queue.Empty:
            return
        yield message
        server = message["server"]
        if message["event"] == "disconnected":
            measured.discard(server)
        if message["event"] in ("snapshot", "disconnected") and server in waiting:
            waiting.discard(server)
            if not waiting:
                until = min(until, time.monotonic() + second_look)
        if top.servers[server].out is not None:
            measured.discard(server)


def _record(watched: Watched, snapshot: Message | None) -> dict[str, Any]:
    record: dict[str, Any] = {"server": watched.server, "connected": snapshot is not None}
    if snapshot is None:
        return record | {"reason": watched.mirror.reason or "no answer"}
    for name, message in (("greeting", watched.mirror.greeting), ("snapshot", snapshot)):
        record[name] = {
            member: value for member, value in message.items() if member not in ("event", "server")
        }
    return record


def _print_report(top: Top) -> None:
    from rich.console import Console

    from tftp.monitor.screen import Look, report

    console = Console()
    width = console.width if console.is_terminal else max(console.width, _REPORT_WIDTH)
    look = Look(width, None, time.time(), time.monotonic(), _is_ascii(console))
    wide = Console(width=width)
    for line in report(top, look):
        if not console.is_terminal:
            line.rstrip()
        wide.print(line, crop=False, soft_wrap=True)


# -- the full screen -------------------------------------------------------------------------------


class _Session:
    """A terminal and servers, from the first drawing to the last."""

    def __init__(self, top: Top, feeds: Feeds, console: "Console") -> None:
        self._top = top
        self._feeds = feeds
        self._console = console
        self._ascii = _is_ascii(console)
        self._waiting: list[tuple[Order, Future[Message]]] = []

    def run(self) -> int:
        """Until the user leaves, or a signal comes; gives the exit code."""
        with _signals() as signals:
            while True:
                try:
                    ended = self._on_screen(signals)
                except (OSError, termios.error) as error:
                    if error.args[0] != errno.EIO:
                        raise
                    # The terminal is gone, and nothing can be said any more.
                    discard_output()
                    return 128 + signal.SIGHUP
                if ended != signal.SIGTSTP:
                    break
                # The terminal is the shell's until somebody brings us back.
                os.kill(os.getpid(), signal.SIGSTOP)
        if ended is not None:
            return 128 + ended
        if not self._hopeless():
            return 0
        for watched in self._top.servers.values():
            why = with_remedy(watched.mirror.reason or "")
            write_line(f"tftp: {watched.server}: {printable(why)}")
        return 1

    def _on_screen(self, signals: int) -> signal.Signals | None:
        """Draw and obey; gives the signal that ended it."""
        from rich.live import Live

        with ExitStack() as stack:
            keyboard = None
            if sys.stdin.isatty():
                keyboard = stack.enter_context(Keyboard(sys.stdin.fileno()))
            live = stack.enter_context(
                Live(
                    self._drawing(),
                    console=self._console,
                    screen=True,
                    auto_refresh=False,
                    redirect_stdout=False,
                    redirect_stderr=False,
                )
            )
            sources: list[int | Keyboard] = [signals]
            if keyboard is not None:
                sources.append(keyboard)
            while not self._top.over and not self._hopeless():
                live.update(self._drawing(), refresh=True)
                ready = select.select(sources, [], [], _REFRESH)[0]
                if signals in ready and (ended := _ending(signals)) is not None:
                    return ended
                if keyboard is not None and keyboard in ready:
                    try:
                        pressed = keyboard.read()
                    except EOFError:
                        return signal.SIGHUP
                    for key in pressed:
                        self._send(self._top.press(key, time.monotonic()))
                self._take_in()
        return None

    def _take_in(self) -> None:
        """What the servers have told since the last time."""
        now = time.monotonic()
        self._top.tick(now)
        for _ in range(_AT_ONCE):
            try:
                message = self._feeds.queue.get_nowait()
            except queue.Empty:
                break
            self._send(self._top.apply(message, now))
        open_ones = []
        for order, answer in self._waiting:
            if answer.done():
                self._top.settled(order, _failure(answer), now)
            else:
                open_ones.append((order, answer))
        self._waiting = open_ones

    def _send(self, orders: list[Order]) -> None:
        for order in orders:
            answer = self._feeds.send(order.server, order.command, **order.members)
            self._waiting.append((order, answer))

    def _hopeless(self) -> bool:
        """Whether no server will ever be connected again."""
        return all(watched.final for watched in self._top.servers.values())

    def _drawing(self) -> "Text":
        from rich.text import Text

        from tftp.monitor.screen import Look, lines

        width, height = self._console.size
        look = Look(width, height, time.time(), time.monotonic(), self._ascii)
        return Text("\n", no_wrap=True, end="").join(lines(self._top, look))


def _failure(answer: "Future[Message]") -> str | None:
    error = answer.exception()
    if error is None:
        return None
    if isinstance(error, OrderError | ConnectionError):
        return str(error)
    raise error


@contextmanager
def _signals() -> Iterator[int]:
    """A descriptor that signals are read from: while it is there, none ends the program.

    The bytes that come from it are their numbers. A window that changes its size is one, too.
    """
    reader, writer = socket.socketpair()
    for end in (reader, writer):
        end.setblocking(False)
    watched = (*_ENDS, signal.SIGTSTP, signal.SIGWINCH)
    old_wakeup = signal.set_wakeup_fd(writer.fileno(), warn_on_full_buffer=False)
    old = {number: signal.signal(number, _wake) for number in watched}
    try:
        yield reader.fileno()
    finally:
        for number, handler in old.items():
            signal.signal(number, handler)
        signal.set_wakeup_fd(old_wakeup)
        reader.close()
        writer.close()


def _wake(number: int, frame: FrameType | None) -> None:
    """Nothing to do: that there is a handler makes the system write to the wakeup descriptor."""


def _ending(signals: int) -> signal.Signals | None:
    """The first signal that takes the screen away; None if there was none."""
    for number in os.read(signals, 64):
        if number in _ENDS or number == signal.SIGTSTP:
            return signal.Signals(number)
    return None
