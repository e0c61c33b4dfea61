"""`tftp serve`: a directory on the network, until a signal lets it drain.

This module turns options into a server's configuration, and signals into its end. What is served,
and how, is decided below it; what is said about it stands in `journal` and `banner`.
"""

import contextlib
import gc
import json
import os
import re
import socket
import sys
import threading
from collections.abc import Callable
from dataclasses import dataclass
from ipaddress import ip_network
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from tftp.cli.banner import CONTAINER_ADVICE, banner, needs_advice
from tftp.cli.display import count, write_line
from tftp.cli.failures import explain_root, explain_start
from tftp.cli.interruption import SignalPipe
from tftp.cli.journal import Journal, as_text, is_failure, is_result
from tftp.cli.logs import FORMATS, Log, syslog_place
from tftp.cli.metering import (
    explain_exposition,
    exposition_of,
    metrics_place,
    url_of,
    warning_of,
)
from tftp.cli.monitoring import channel_of, explain_channel
from tftp.cli.monitoring import warning_of as warning_of_monitor
from tftp.cli.secret import VARIABLE, read_token, warning_of_token
from tftp.cli.streams import fill_in
from tftp.events import Event, Observer, as_json, format_address, printable
from tftp.monitor.board import Board
from tftp.monitor.daemons import SYSLOG
from tftp.monitor.place import Place
from tftp.options import MAX_BLKSIZE, MAX_WINDOWSIZE, MIN_BLKSIZE, Limits
from tftp.server import Server, ServerConfig
from tftp.server.policy import Policy, allow, backslashes, deny, limit_blksize, strip_junk
from tftp.storage import Directory
from tftp.url import DEFAULT_PORT

if TYPE_CHECKING:
    from tftp.cli.dashboard import PageBeside
    from tftp.monitor.channel import Channel
    from tftp.monitor.metrics import Exposition
    from tftp.server.supervisor import Supervisor

__all__ = ["command"]

_OPTIONS = ("blksize", "blksize2", "windowsize", "timeout", "utimeout", "tsize", "rollover")
_MAX_PORT = 65535
# How many new objects make the interpreter look for cycles among them. A transfer leaves none, and
# to look each 700 is a tenth of the price of a small file.
_GARBAGE = 50_000
_SIZE = re.compile(r"(\d{1,19})([KMG]?)", re.IGNORECASE)
_MAX_WORKERS = 256
_UNITS = {"": 1, "K": 1 << 10, "M": 1 << 20, "G": 1 << 30}
_RANGE = re.compile(r"(\d{1,5}):(\d{1,5})")
# The time in front of a line: a person at a terminal knows what day it is, a log file does not.
_STAMPS = {True: "%H:%M:%S", False: "%Y-%m-%d %H:%M:%S"}


class _Parsed(click.ParamType[Any]):
    """A value that a function makes of the text; a `ValueError` says why it cannot."""

    def __init__(self, name: str, parse: Callable[[str], Any]) -> None:
        self.name = name
        self._parse = parse

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        try:
            return self._parse(value)
        except ValueError as error:
            self.fail(str(error), param, ctx)


def _size(text: str) -> int:
    found = _SIZE.fullmatch(text)
    if not found:
        raise ValueError(f"{text!r} is no size: write octets, or a number with K, M or G behind it")
    return int(found[1]) * _UNITS[found[2].upper()]


def _port_range(text: str) -> tuple[int, int]:
    found = _RANGE.fullmatch(text)
    if found:
        low, high = int(found[1]), int(found[2])
        if 1 <= low <= high <= _MAX_PORT:
            return low, high
    raise ValueError(f"{text!r} is no range of ports: write LOW:HIGH, as in 50000:50099")


def _network_size(text: str) -> tuple[str, int]:
    network, _, size = text.rpartition("=")
    if not size.isdecimal() or not MIN_BLKSIZE <= int(size[:6]) <= MAX_BLKSIZE:
        raise ValueError(f"{text!r} is no limit for a network: write it as in 192.0.2.0/24=1024")
    return _network(network), int(size)


def _workers(text: str) -> int:
    if text == "auto":
        return os.cpu_count() or 1
    if text.isdecimal() and 1 <= int(text) <= _MAX_WORKERS:
        return int(text)
    raise ValueError(f"{text!r} is no number of workers: write 1 to {_MAX_WORKERS}, or auto")


def _network(text: str) -> str:
    try:
        return str(ip_network(text, strict=False))
    except ValueError:
        raise ValueError(f"{text!r} is no network: write it as in 192.0.2.0/24") from None


@dataclass(frozen=True, slots=True, kw_only=True)
class ServeOptions:
    """What was said on the command line."""

    root: Path
    host: tuple[str, ...]
    port: int
    family: int
    engine: str
    children: int
    recycle: int
    workers: int | None
    allow_write: bool
    overwrite: bool
    max_size: int | None
    max_blksize: int
    max_windowsize: int
    max_transfers: int
    refuse: tuple[str, ...]
    mtu_clamp: bool
    single_port: bool
    port_range: tuple[int, int] | None
    ignore_case: bool
    strip_junk: bool
    allow: tuple[str, ...]
    deny: tuple[str, ...]
    blksize_for: tuple[tuple[str, int], ...]
    freebind: bool
    monitor: Place | None
    metrics: Place | None
    dashboard: str | None
    monitor_token_file: Path | None
    log_format: str | None
    syslog: Place | None
    json: bool
    verbose: bool
    quiet: bool

    def storage(self) -> Directory:
        """The directory to serve."""
        return Directory(
            self.root,
            writable=self.allow_write,
            overwrite=self.overwrite,
            ignore_case=self.ignore_case,
            max_size=self.max_size,
        )

    def config(self) -> ServerConfig:
        """How to serve it."""
        return ServerConfig(
            hosts=tuple(host.removeprefix("[").removesuffix("]") for host in self.host),
            port=self.port,
            family=self.family,
            freebind=self.freebind,
            limits=Limits(
                max_blksize=self.max_blksize,
                max_windowsize=self.max_windowsize,
                refused=frozenset(self.refuse),
            ),
            clamp_to_mtu=self.mtu_clamp,
            max_transfers=self.max_transfers,
            single_port=self.single_port,
            port_range=self.port_range,
        )

    def policy(self) -> list[Policy]:
        """Who may ask for what; the first rules are about who."""
        rules: list[Policy] = []
        if self.deny:
            rules.append(deny(self.deny))
        if self.allow:
            rules.append(allow(self.allow))
        rules += [limit_blksize([network], most) for network, most in self.blksize_for]
        if self.strip_junk:
            rules.append(strip_junk)
        # Windows loaders ask for \Boot\BCD, and no boot file has a backslash in its name.
        rules.append(backslashes)
        return rules

    @property
    def uploads(self) -> str:
        """Whether files may be written, in words."""
        if not self.allow_write:
            return "read-only"
        return "uploads allowed" + (", also over existing files" if self.overwrite else "")


@click.command(
    "serve",
    short_help="Serve a directory.",
    epilog="""\b
Examples:
  tftp serve /srv/tftp
  tftp serve --port 6969
  tftp serve /srv/tftp --host 192.0.2.1 --allow-write --max-size 64M
  tftp serve /srv/tftp --single-port --json
""",
)
@click.argument("root", type=click.Path(path_type=Path), default=".")
@click.option(
    "--host",
    metavar="ADDR",
    multiple=True,
    help="Listen on this address; may be repeated. Without it, on all, IPv4 and IPv6.",
)
@click.option(
    "--port",
    type=click.IntRange(0, _MAX_PORT),
    metavar="N",
    default=DEFAULT_PORT,
    show_default=True,
    help="Listen on this UDP port; 0 lets the system choose. Below 1024 it needs root.",
)
@click.option("--freebind", is_flag=True, help="Listen on an address that is still to come.")
@click.option(
    "-4", "family", flag_value=int(socket.AF_INET), type=int, default=0, help="IPv4 only."
)
@click.option("-6", "family", flag_value=int(socket.AF_INET6), type=int, help="IPv6 only.")
@click.option(
    "--engine",
    type=click.Choice(["threads", "processes"]),
    default="threads",
    show_default=True,
    help="How transfers run side by side: many in one process, or each in its own.",
)
@click.option(
    "--children",
    type=click.IntRange(1),
    metavar="N",
    default=256,
    show_default=True,
    help="With processes: at most so many at once; further clients wait.",
)
@click.option(
    "--recycle",
    type=click.IntRange(1),
    metavar="N",
    default=1000,
    show_default=True,
    help="With processes: replace one after N transfers; 1 is a fresh one for each.",
)
@click.option(
    "--workers",
    type=_Parsed("workers", _workers),
    metavar="N|auto",
    help="Run N servers on the one port, to use all cores; auto is one for each core.",
)
@click.option("--allow-write", is_flag=True, help="Take uploads of new files.")
@click.option("--overwrite", is_flag=True, help="Let uploads replace files, with --allow-write.")
@click.option(
    "--max-size",
    type=_Parsed("size", _size),
    metavar="N[K|M|G]",
    help="Refuse uploads of more octets than this; K is 1024.",
)
@click.option(
    "--max-blksize",
    type=click.IntRange(MIN_BLKSIZE, MAX_BLKSIZE),
    metavar="N",
    default=MAX_BLKSIZE,
    show_default=True,
    help="Grant no larger block size.",
)
@click.option(
    "--blksize-for",
    type=_Parsed("network and size", _network_size),
    metavar="NETWORK=N",
    multiple=True,
    help="Grant this network no larger block size; may be repeated.",
)
@click.option(
    "--max-windowsize",
    type=click.IntRange(1, MAX_WINDOWSIZE),
    metavar="N",
    default=Limits().max_windowsize,
    show_default=True,
    help="Grant no larger window.",
)
@click.option(
    "--max-transfers",
    type=click.IntRange(1),
    metavar="N",
    default=ServerConfig().max_transfers,
    show_default=True,
    help="Tell further clients that the server is busy; with --engine processes they wait.",
)
@click.option(
    "--refuse",
    metavar="OPTION",
    type=click.Choice(_OPTIONS, case_sensitive=False),
    multiple=True,
    help=f"Leave this option unanswered; may be repeated: {', '.join(_OPTIONS)}.",
)
@click.option(
    "--mtu-clamp/--no-mtu-clamp",
    default=True,
    help="Grant no block that would be fragmented on the way; on by default.",
)
@click.option(
    "--single-port", is_flag=True, help="Reply from the listening port (NAT, containers)."
)
@click.option(
    "--port-range",
    type=_Parsed("range", _port_range),
    metavar="LOW:HIGH",
    help="Reply from ports of this range only (firewalls).",
)
@click.option("--ignore-case", is_flag=True, help="Take a name in another case if none fits.")
@click.option("--strip-junk", is_flag=True, help="Cut 0xff and what follows off names (old ROMs).")
@click.option(
    "--allow",
    type=_Parsed("network", _network),
    metavar="NETWORK",
    multiple=True,
    help="Serve only this network; may be repeated.",
)
@click.option(
    "--deny",
    type=_Parsed("network", _network),
    metavar="NETWORK",
    multiple=True,
    help="Refuse this network; may be repeated.",
)
@click.option(
    "--monitor",
    type=_Parsed("place", Place.parse),
    metavar="[HOST:]PORT|unix:PATH",
    help="Let tftp top, tftp events and nc see what goes on, and act; a port alone is on "
    "127.0.0.1. Beyond this host it needs a token.",
)
@click.option(
    "--metrics",
    type=_Parsed("place", metrics_place),
    metavar="[HOST:]PORT",
    help="Give metrics to Prometheus over HTTP; a port alone is on 127.0.0.1.",
)
@click.option(
    "--dashboard",
    metavar="[HOST:]PORT",
    help="Show in browsers what goes on; a port alone is on 127.0.0.1.",
)
@click.option(
    "--monitor-token-file",
    type=click.Path(path_type=Path, dir_okay=False),
    help="Let only who knows the token in this file cancel and drain, and look from elsewhere. "
    f"Or put it into {VARIABLE}.",
)
@click.option(
    "--log-format",
    type=click.Choice(FORMATS),
    help="Also log each result on stderr, or with journald in systemd's journal. Without it, "
    "journald where stderr is the journal.",
)
@click.option(
    "--syslog",
    type=_Parsed("address", syslog_place),
    is_flag=False,
    flag_value=SYSLOG,
    metavar="[ADDRESS]",
    help=f"Also log to a syslog daemon: {SYSLOG}, or --syslog=/PATH or --syslog=HOST:PORT (UDP).",
)
@click.option("--json", is_flag=True, help="One JSON object per line.")
@click.option("-v", "--verbose", is_flag=True, help="Also say what is asked, started, under way.")
@click.option("-q", "--quiet", is_flag=True, help="Say nothing but errors.")
def command(**given: Any) -> int:
    """Serve a directory.

    ROOT is the directory, the current one if left out. It is read-only unless --allow-write is
    given. One line tells of each transfer that has ended. Ctrl-C or SIGTERM lets running
    transfers finish; a second one ends them.
    """
    fill_in()
    options = ServeOptions(**given)
    _refuse_contradictions(options)
    storage = options.storage()
    try:
        storage.check()
    except OSError as error:
        write_line(str(explain_root(error, options.root)))
        return 1
    log = Log(options.log_format, options.syslog, quiet=options.quiet)
    click.get_current_context().with_resource(log)
    journal = _journal(options, log)
    config = options.config()
    board = Board()
    guarded = options.monitor is not None or options.dashboard is not None
    token = read_token(options.monitor_token_file) if guarded else None
    page = _page(options, token)
    watched = bool(options.monitor or options.metrics or page)
    observers: list[Observer] = [journal, board] if watched else [journal]
    if log.observer is not None:
        observers.insert(0, log.observer)
    server = _arrange(options, storage, config, observers)
    metrics = None
    if options.metrics is not None:
        metrics = exposition_of(board, server, options.metrics)
    channel = None
    if options.monitor is not None:
        channel = channel_of(board, server, options.monitor, token)
    gc.set_threshold(_GARBAGE)
    _raise_descriptor_limit()
    # Signals first: whoever sees the server listen may stop it.
    with SignalPipe() as signals:
        try:
            server.start()
        except OSError as error:
            write_line(str(explain_start(error, config.port)))
            return 1
        except RuntimeError as error:
            write_line(f"tftp: {error}: why, it has said before")
            return 1
        try:
            if metrics is not None:
                metrics.start()
        except OSError as error:
            server.stop()
            write_line(explain_exposition(error))
            return 1
        try:
            if channel is not None:
                channel.start()
        except OSError as error:
            server.stop()
            if metrics is not None:
                metrics.stop()
            write_line(explain_channel(error))
            return 1
        journal.start()
        try:
            if page is not None and (problem := page.start(board, server)):
                server.stop()
                write_line(problem)
                return 1
            _tell_start(server, options, journal, log, metrics, page, channel, token)
            return _serve(server, options, journal, log, signals)
        finally:
            if page is not None:
                page.stop()
            if channel is not None:
                channel.stop()
            if metrics is not None:
                metrics.stop()
            journal.close()


def _arrange(
    options: ServeOptions, storage: Directory, config: ServerConfig, observers: list[Observer]
) -> "Server | Supervisor":
    """The server that was asked for; what it needs is imported only then."""
    policy = options.policy()
    if options.workers is not None:
        from tftp.server.supervisor import Supervisor

        return Supervisor(
            storage, config=config, workers=options.workers, policy=policy, observers=observers
        )
    engine = None
    if options.engine == "processes":
        from tftp.server.processes import ProcessEngine

        engine = ProcessEngine(children=options.children, recycle=options.recycle)
    return Server(storage, config=config, engine=engine, policy=policy, observers=observers)


def _page(options: ServeOptions, token: str | None) -> "PageBeside | None":
    """The page that was asked for."""
    if options.dashboard is None:
        return None
    from tftp.cli.dashboard import PageBeside

    return PageBeside(options.dashboard, token)


def _raise_descriptor_limit() -> None:
    """Have as many descriptors as this user may: shells give 1024, and a transfer has two or three.

    Processes that are started from here on have as many.
    """
    try:
        import resource
    except ImportError:
        return  # Not a Unix.
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    # What the system gives without a limit, it does not take as one everywhere (macOS).
    with contextlib.suppress(ValueError, OSError):
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))


def _refuse_contradictions(options: ServeOptions) -> None:
    if options.workers is not None and options.engine == "processes":
        raise click.UsageError("--workers runs servers with threads: leave out --engine processes")
    if options.workers is not None and options.single_port:
        raise click.UsageError("--single-port and --workers exclude each other: choose one")
    if options.overwrite and not options.allow_write:
        raise click.UsageError("--overwrite says how to take uploads: it needs --allow-write")
    if options.monitor_token_file and not (options.monitor or options.dashboard):
        raise click.UsageError("--monitor-token-file guards --monitor or --dashboard: give one")
    if options.single_port and options.port_range:
        raise click.UsageError("--single-port and --port-range exclude each other: choose one")
    if options.verbose and options.quiet:
        raise click.UsageError("-v and -q exclude each other: choose one")


def _journal(options: ServeOptions, log: Log) -> Journal:
    stamp = _STAMPS[sys.stdout.isatty()]

    def wanted(event: Event) -> bool:
        if log.alone and is_result(event):
            return False
        return options.verbose or (is_failure if options.quiet else is_result)(event)

    if options.json:
        return Journal(
            sys.stdout.fileno(),
            lambda event: json.dumps(as_json(event)),
            wanted=wanted,
            lost=lambda number: json.dumps({"event": "lost", "count": number}),
        )
    return Journal(
        sys.stdout.fileno(),
        lambda event: as_text(event, stamp),
        wanted=wanted,
        lost=lambda number: f"{count(number, 'line')} lost: this output is read too slowly",
    )


def _tell_start(
    server: "Server | Supervisor",
    options: ServeOptions,
    journal: Journal,
    log: Log,
    metrics: "Exposition | None",
    page: "PageBeside | None",
    channel: "Channel | None",
    token: str | None,
) -> None:
    addresses = server.addresses
    url = None if metrics is None else url_of(metrics.place)
    root = options.root.absolute()
    listening = [format_address(address) for address in addresses]
    places = [] if channel is None else channel.places
    told = f"listening on {', '.join(listening)}, serving {printable(str(root))}, {options.uploads}"
    log.tell(told)
    if options.json:
        record: dict[str, Any] = {
            "event": "listening",
            "addresses": listening,
            "root": printable(str(root)),
            "writable": options.allow_write,
        }
        if places:
            record["monitor"] = [str(place) for place in places]
        if page is not None:
            record["dashboard"] = page.url
        journal.write(json.dumps(record if url is None else {**record, "metrics": url}))
    elif options.quiet:
        return
    elif sys.stdout.isatty():
        for line in banner(addresses, root, uploads=options.uploads):
            journal.write(line)
    elif not log.alone:
        journal.write(told)
    if places and not options.json:
        journal.write(f"the monitor is at {', '.join(map(str, places))}")
    if url is not None and not options.json:
        journal.write(f"metrics at {url}")
    if page is not None and not options.json:
        journal.write(f"the page is at {page.url}")
    if places and (warning := warning_of_monitor(places[0])):
        log.warn(warning)
    if metrics is not None and (warning := warning_of(metrics.place)):
        log.warn(warning)
    if page is not None and page.warning:
        log.warn(page.warning)
    if warning := warning_of_token(options.monitor_token_file, token):
        log.warn(warning)
    if not (options.single_port or options.port_range) and needs_advice(addresses):
        log.warn(CONTAINER_ADVICE)


def _serve(
    server: "Server | Supervisor",
    options: ServeOptions,
    journal: Journal,
    log: Log,
    signals: SignalPipe,
) -> int:
    """Wait for a signal and let the server drain; at a second one, stop it at once."""

    def drain() -> None:
        try:
            server.drain()
        finally:
            signals.end()

    signals.next()
    running = server.running
    if options.json:
        journal.write(json.dumps({"event": "stopping", "running": running}))
    elif running:
        log.warn(f"stopping: {count(running, 'transfer')} still running; again to abort")
    draining = threading.Thread(target=drain, name="drain")
    draining.start()
    second = signals.next()
    server.stop()
    draining.join()
    if options.json:
        journal.write(json.dumps({"event": "stopped"}))
    log.tell("stopped")
    return 0 if second is None else 128 + second
