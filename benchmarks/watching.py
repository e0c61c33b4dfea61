"""The price of watching: `python -m benchmarks.watching` measures one server watched and not.

The same load is put on two servers by turns. One has nothing attached. The other has the monitoring
channel, metrics that are scraped each second, and three readers of all events, one of which has
been stopped (SIGSTOP) and takes nothing any more. It says what that costs of throughput and of the
server's processor time. Readers share the machine with server and clients; with `--plain` they do
next to nothing with what they read, so that what is left is what the server itself pays.
"""

import argparse
import contextlib
import json
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from types import TracebackType

from benchmarks.loads import LOADS, Load
from benchmarks.measure import Figures, Setting, machine, median, served_folder, tell
from benchmarks.peers import SERVERS, ServerPeer, tftp_command
from benchmarks.prepare import Workshop
from benchmarks.process import NotReady, Server
from benchmarks.serving import Entrant, measure_load

__all__ = ["Audience", "Price", "WatchedEntrant", "main", "price_of", "watched_peer"]

_LOADS = ("clients100", "clients100w16")
_PEERS = tuple(peer.name for peer in SERVERS if peer.ours)
# So much longer than in the comparison with others: a few percent are looked for.
_TRANSFERS = 3
_SCRAPE_EVERY = 1.0
# Seconds for readers to be there, and for one scrape; how often it is looked whether they are.
_PATIENCE, _LOOK = 15.0, 0.02


def main(given: Sequence[str] | None = None) -> int:
    """Measure, and report."""
    options = _arguments(given)
    results: Figures = {"machine": machine(), "rounds": options.rounds, "peer": options.peer}
    [plain] = [peer for peer in SERVERS if peer.name == options.peer]
    with served_folder() as (root, local):
        setting = Setting(
            shop=Workshop(options.folder),
            root=root,
            local=local,
            rounds=options.rounds,
            limit=15.0 if options.quick else 60.0,
            quick=options.quick,
        )
        for load in LOADS:
            if load.key not in options.loads:
                continue
            tell(load.title)
            prolonged = replace(load, transfers=load.transfers * _TRANSFERS)
            actual = load.shortened() if options.quick else prolonged
            results[load.key] = measure(plain, actual, setting, reading=not options.plain)
            print(_line(load, results[load.key]))
    if options.json is not None:
        options.json.write_text(json.dumps(results, indent=1) + "\n")
    return 0


def _arguments(given: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.watching",
        description="Measure what it costs a server to be watched.",
    )
    add = parser.add_argument
    add("--loads", nargs="+", default=_LOADS, choices=_LOADS, help="how clients come")
    add("--peer", default=_PEERS[0], choices=_PEERS, help="the server")
    add("--rounds", type=int, default=9, help="how often each is measured (9)")
    add("--plain", action="store_true", help="readers that only count lines, not `tftp events`")
    add("--quick", action="store_true", help="small sizes: does everything work?")
    add("--json", type=Path, help="where to keep the results, single rounds included")
    add("--folder", type=Path, default=Path(".bench"), help="where the generator is compiled to")
    return parser.parse_args(given)


def measure(plain: ServerPeer, load: Load, setting: Setting, *, reading: bool = True) -> Figures:
    """Both servers under one load, round by round; `reading` as for `Audience`."""
    alone, watched = Entrant(plain, setting), WatchedEntrant(plain, setting, reading=reading)
    figures = measure_load(load, [alone, watched], setting)
    price = price_of(figures[alone.peer.name], figures[watched.peer.name])
    return {"servers": figures, "price": asdict(price), "audience": watched.told}


class WatchedEntrant(Entrant):
    """A server that has an audience for as long as it runs.

    Attributes:
        told: what the audience has been told, once the server has been stopped.
    """

    def __init__(self, plain: ServerPeer, setting: Setting, *, reading: bool) -> None:
        """Nothing is started yet. Raises `Missing`."""
        monitor = setting.local / "monitor"
        metrics = f"127.0.0.1:{_free_tcp_port()}"
        super().__init__(watched_peer(plain, f"unix:{monitor}", metrics), setting)
        self._audience = Audience(monitor, metrics, setting.local, reading=reading)
        self._attending = contextlib.ExitStack()
        self._attended = False
        self.told: Figures = {}

    @property
    def server(self) -> Server:
        """As of any entrant; when it is there, so is the audience."""
        server = super().server
        if not self._attended:
            self._attending.enter_context(self._audience)
            self._attended = True
        return server

    def stop(self) -> None:
        """Stop the server, and send the audience home when it has been told the last events."""
        if self._attended:
            self._audience.scrape_no_more()
        super().stop()
        if self._attended:
            self._attending.close()
            self._attended = False
            self.told = self._audience.figures()


def watched_peer(plain: ServerPeer, monitor: str, metrics: str) -> ServerPeer:
    """The same server, but it can be watched."""
    return replace(
        plain,
        name=f"{plain.name}, watched",
        command=lambda shop, where, root: [
            *plain.command(shop, where, root),
            *("--monitor", monitor, "--metrics", metrics),
        ],
    )


def _free_tcp_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port: int = probe.getsockname()[1]
        return port


class Audience:
    """Three readers, and what scrapes the metrics, from the `with` to the end of the server."""

    def __init__(self, monitor: Path, metrics: str, folder: Path, *, reading: bool) -> None:
        """Nobody watches yet.

        Args:
            monitor: the socket of the channel.
            metrics: where the metrics are.
            folder: what `tftp events` is told is written there.
            reading: two of the readers are `tftp events`, which makes sense of each line; without
                it they are sockets whose lines are only counted, and cost the machine nothing.
        """
        self._monitor = monitor
        self._url = f"http://{metrics}/metrics"
        self._stuck = _Process(monitor, folder / "told-stuck")
        self._readers: list[_Process | _Socket] = [
            _Process(monitor, folder / f"told-{number}") if reading else _Socket(monitor)
            for number in range(2)
        ]
        self._readers.append(self._stuck)
        self._running = contextlib.ExitStack()
        self._over = threading.Event()
        self._scrapes: list[float] = []

    def __enter__(self) -> "Audience":
        self._over.clear()
        with contextlib.ExitStack() as stack:
            for reader in self._readers:
                stack.enter_context(reader)
            self._wait_until_told()
            self._stuck.pause()
            self._scraping = threading.Thread(target=self._scrape, name="scrapes", daemon=True)
            self._scraping.start()
            stack.callback(self.scrape_no_more)
            self._running = stack.pop_all()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._running.__exit__(kind, error, traceback)

    def scrape_no_more(self) -> None:
        """Before the server stops: it could not answer."""
        self._over.set()
        self._scraping.join()

    def figures(self) -> Figures:
        """What they have been told: lines for each reader, and how long a scrape took at most."""
        return {
            "lines": [reader.lines for reader in self._readers],
            "scrapes": len(self._scrapes),
            "slowest scrape": max(self._scrapes, default=0.0),
        }

    def _wait_until_told(self) -> None:
        """Totals come every second, so whoever is connected is soon told something."""
        until = time.monotonic() + _PATIENCE
        while not all(reader.lines for reader in self._readers):
            if time.monotonic() > until:
                raise NotReady("a reader of the monitoring channel is told nothing")
            time.sleep(_LOOK)

    def _scrape(self) -> None:
        while not self._over.wait(_SCRAPE_EVERY):
            began = time.monotonic()
            with urllib.request.urlopen(self._url, timeout=_PATIENCE) as answer:  # noqa: S310
                answer.read()
            self._scrapes.append(time.monotonic() - began)


class _Process:
    """`tftp events`; the context ends when it has written all that it was told."""

    def __init__(self, monitor: Path, told: Path) -> None:
        options = ["--json", "--kind", "all", "--no-reconnect"]
        self._command = [tftp_command(), "events", *options, f"unix:{monitor}"]
        self._told = told
        self._process: subprocess.Popen[bytes] | None = None
        self._paused = False

    def __enter__(self) -> None:
        self._paused = False
        with self._told.open("wb") as file:
            self._process = subprocess.Popen(self._command, stdout=file)

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        assert self._process is not None  # noqa: S101  (the context has been entered)
        try:
            if kind is None and not self._paused:
                self._process.wait(_PATIENCE)
        finally:
            self._process.kill()  # Where it has been stopped, it obeys nothing else.
            self._process.wait()

    @property
    def lines(self) -> int:
        """How many it has been told."""
        return self._told.read_bytes().count(b"\n") if self._told.exists() else 0

    def pause(self) -> None:
        """From now on it takes nothing, but its connection stands."""
        assert self._process is not None  # noqa: S101  (the context has been entered)
        self._process.send_signal(signal.SIGSTOP)
        self._paused = True


class _Socket:
    """A connection whose lines are counted and thrown away, until the server closes it."""

    def __init__(self, monitor: Path) -> None:
        self._monitor = monitor
        self._reading = contextlib.ExitStack()
        self.lines = 0

    def __enter__(self) -> None:
        with contextlib.ExitStack() as stack:
            sock = stack.enter_context(socket.socket(socket.AF_UNIX, socket.SOCK_STREAM))
            sock.connect(str(self._monitor))
            sock.sendall(b"subscribe all\n")
            thread = threading.Thread(target=self._read, args=[sock], name="reader", daemon=True)
            thread.start()
            stack.callback(thread.join, _PATIENCE)
            self._reading = stack.pop_all()

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._reading.close()

    def _read(self, sock: socket.socket) -> None:
        while data := sock.recv(1 << 16):
            self.lines += data.count(b"\n")


@dataclass(frozen=True, slots=True, kw_only=True)
class Price:
    """What it costs to be watched. Each is a share of what it is without, so 1 is nothing.

    Attributes:
        throughput: the medians of the rounds.
        paired: the median of the shares of each round, in which both were measured.
        cpu: processor seconds of the server for the same work.
    """

    throughput: float
    paired: float
    cpu: float


def price_of(alone: Figures, watched: Figures) -> Price:
    """Compare two summaries of `measure_load`. Raises `NotReady` where transfers have failed."""
    for summary in (alone, watched):
        if summary["failures"] or not summary["rounds"]:
            raise NotReady(summary["reason"] or "no round has been measured")
    rounds = zip(alone["rounds"], watched["rounds"], strict=True)
    return Price(
        throughput=watched["value"] / alone["value"],
        paired=median(one["seconds"] / other["seconds"] for one, other in rounds),
        cpu=watched["cpu_per_gb"] / alone["cpu_per_gb"],
    )


def _line(load: Load, figures: Figures) -> str:
    alone, watched = figures["servers"].values()
    price, audience = Price(**figures["price"]), figures["audience"]
    return (
        f"{load.title}:\n"
        f"  alone   {alone['value']:7.1f} {load.unit}, {alone['cpu_per_gb']:.2f} CPU s/GB\n"
        f"  watched {watched['value']:7.1f} {load.unit}, {watched['cpu_per_gb']:.2f} CPU s/GB\n"
        f"  throughput {price.throughput:.3f}, by rounds {price.paired:.3f}, "
        f"CPU {price.cpu:.3f}\n"
        f"  lines told {audience['lines']}, scrapes {audience['scrapes']}, "
        f"the slowest {audience['slowest scrape'] * 1000:.0f} ms"
    )


if __name__ == "__main__":
    sys.exit(main())
