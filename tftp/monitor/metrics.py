"""Metrics for Prometheus: what the board has added up, in its format, over a small HTTP server.

Nothing is counted twice: a scrape reads the board's totals, which are the sums of the state
machines' own counters. Only what the board does not keep apart (modes, error codes) is counted
here, from the same events. No label has a value that the network chooses: there are no names and no
addresses, and what is not in a table is "other". So there is nothing secret in it either, and the
number of time series is fixed.

`Metrics` knows no HTTP, `Exposition` knows no TFTP.
"""

import logging
import platform
import socket
import sys
import threading
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from socketserver import TCPServer, ThreadingMixIn
from typing import Any, Protocol
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer

from prometheus_client import CollectorRegistry, Metric, ProcessCollector, make_wsgi_app
from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    InfoMetricFamily,
)
from prometheus_client.registry import Collector

from tftp.errors import ErrorCode, TFTPError
from tftp.events import Event, Operation, Outcome, RequestRefused, TransferEnded
from tftp.monitor.board import Board
from tftp.monitor.place import Place

__all__ = ["Exposition", "Metrics", "Observed"]

logger = logging.getLogger("tftp")

_OPERATIONS = tuple(operation.value for operation in Operation)
_OUTCOMES = tuple(outcome.value for outcome in Outcome)
_MODES = ("octet", "netascii")
_CODES = {int(code): str(int(code)) for code in ErrorCode}
_STATES = ("serving", "draining", "stopping")
_REFUSED = "refused"
# What a mode or a code is called that is in no table.
_OTHER = "other"

# The counters of a transfer: their names here, and what they count.
_COUNTERS = {
    "payload": ("payload_bytes", "Octets of files that have gone over, each once."),
    "blocks": ("blocks", "DATA packets that were new."),
    "datagrams_sent": ("sent_datagrams", "Packets sent in transfers, repeats included."),
    "datagrams_received": ("received_datagrams", "Packets received in transfers."),
    "octets_sent": ("sent_bytes", "UDP payload sent in transfers."),
    "octets_received": ("received_bytes", "UDP payload received in transfers."),
    "retransmissions": ("retransmissions", "Packets that were sent again."),
    "duplicates": ("duplicates", "DATA and ACK packets that came again, or late."),
    "timeouts": ("timeouts", "How often silence made the server send."),
    "gaps": ("gaps", "How often a hole in the sequence of blocks was noticed."),
}
_HISTOGRAMS = {
    "duration": ("transfer_duration_seconds", "How long successful transfers took."),
    "rate": (
        "transfer_rate_bytes_per_second",
        "How fast successful transfers were, from request to end.",
    ),
    "round_trip": ("round_trip_seconds", "The smoothed round trip at the end of a transfer."),
}

# Scrapes at once, and seconds that one may take to say what it wants, or to take its answer.
_MOST_SCRAPES, _PATIENCE = 8, 10.0


class Observed(Protocol):
    """What is asked of a server."""

    @property
    def engine_name(self) -> str:
        """How it runs transfers, in a word."""

    @property
    def state(self) -> str:
        """ "serving", "draining" or "stopping"."""

    @property
    def limits(self) -> Mapping[str, int]:
        """Its limits by name."""


class Metrics(Collector):
    """The metrics of one server, to be registered with a `CollectorRegistry`."""

    def __init__(self, board: Board, server: Observed, *, version: str = "") -> None:
        """Follow the board from now on; it should not have seen anything yet.

        Args:
            board: what is counted.
            server: whose state and limits are told.
            version: of the program.
        """
        self._board = board
        self._server = server
        self._version = version
        # With all series that are likely to come: one that begins at 1 has no rate (Prometheus
        # does not know that it was 0 before).
        self._ended: Counter[tuple[str, str, str]] = Counter(
            {
                (operation, mode, outcome): 0
                for operation in _OPERATIONS
                for mode in _MODES
                for outcome in _OUTCOMES
            }
        )
        self._failures: Counter[tuple[str, str, str]] = Counter(
            {
                (operation, _REFUSED, code): 0
                for operation in _OPERATIONS
                for code in _CODES.values()
            }
        )
        board.follow(self._count)

    def _count(self, sequence: int, event: Event) -> None:
        """Count what the board does not; it calls this one event at a time."""
        match event:
            case TransferEnded():
                operation, outcome = event.request.operation.value, event.outcome
                mode = event.request.mode
                self._ended[operation, mode if mode in _MODES else _OTHER, outcome.value] += 1
                if not outcome.succeeded:
                    self._failures[operation, outcome.value, _code(event.error)] += 1
            case RequestRefused():
                self._failures[event.request.operation.value, _REFUSED, _code(event.error)] += 1

    def collect(self) -> Iterator[Metric]:
        """All metrics, as they stand."""
        totals = self._board.totals()["totals"]
        build = {"version": self._version, "python": platform.python_version()}
        yield InfoMetricFamily(
            "tftp_build",
            "What runs here.",
            value={**build, "engine": self._server.engine_name},
        )
        yield _state(self._server.state)
        yield _limits(self._server.limits)
        yield _requests(totals)
        yield _running(totals)
        yield _counts("tftp_transfers", "Transfers that ended.", ("mode", "outcome"), self._ended)
        yield _counts(
            "tftp_failures",
            "Requests refused and transfers failed, by the TFTP error code.",
            ("outcome", "code"),
            self._failures,
        )
        for counter, (name, words) in _COUNTERS.items():
            family = CounterMetricFamily(f"tftp_{name}", words, labels=["operation"])
            for operation, side in totals.items():
                family.add_metric([operation], side["counters"][counter])
            yield family
        for histogram, (name, words) in _HISTOGRAMS.items():
            distribution = HistogramMetricFamily(f"tftp_{name}", words, labels=["operation"])
            for operation, side in totals.items():
                told = side["histograms"][histogram]
                distribution.add_metric([operation], _buckets(told), told["sum"])
            yield distribution


def _code(error: TFTPError | None) -> str:
    return _CODES.get(0 if error is None else int(error.code), _OTHER)


def _state(now: str) -> Metric:
    family = GaugeMetricFamily(
        "tftp_server_state", "1 for the state that the server is in.", labels=["state"]
    )
    for state in _STATES:
        family.add_metric([state], state == now)
    return family


def _limits(limits: Mapping[str, int]) -> Metric:
    family = GaugeMetricFamily("tftp_limit", "What is granted at most.", labels=["limit"])
    for name, value in limits.items():
        family.add_metric([name], value)
    return family


def _requests(totals: Mapping[str, Any]) -> Metric:
    family = CounterMetricFamily(
        "tftp_requests", "Requests that were not the repeat of another.", labels=["operation"]
    )
    for operation, side in totals.items():
        family.add_metric([operation], side["requests"])
    return family


def _running(totals: Mapping[str, Any]) -> Metric:
    family = GaugeMetricFamily(
        "tftp_transfers_running", "Transfers that run now.", labels=["operation"]
    )
    for operation, side in totals.items():
        family.add_metric([operation], side["running"])
    return family


def _counts(
    name: str, words: str, labels: Iterable[str], counts: "Counter[tuple[str, str, str]]"
) -> Metric:
    family = CounterMetricFamily(name, words, labels=["operation", *labels])
    for values, number in counts.copy().items():
        family.add_metric(values, number)
    return family


def _buckets(told: Mapping[str, Any]) -> list[tuple[str, float]]:
    """The board counts what lies between two bounds, Prometheus all that is below one."""
    below = 0
    buckets = []
    for bound, number in zip((*told["bounds"], "+Inf"), told["counts"], strict=True):
        below += number
        buckets.append((bound if bound == "+Inf" else repr(float(bound)), float(below)))
    return buckets


class Exposition:
    """Metrics over HTTP. It is open from `start` to `stop`."""

    def __init__(self, metrics: Collector, place: Place) -> None:
        """Bring the parts together; nothing is opened before `start`.

        Raises:
            ValueError: the place is the path of a Unix socket: Prometheus can not read from one.
        """
        if place.path:
            raise ValueError(f"metrics are read over TCP: write PORT or HOST:PORT, not {place}")
        self._place = place
        registry = CollectorRegistry()
        registry.register(metrics)
        ProcessCollector(registry=registry)
        self._app = _at_its_path(make_wsgi_app(registry))
        self._server: _Server | None = None
        self._thread: threading.Thread | None = None

    @property
    def place(self) -> Place:
        """Where it listens, with the real port. Raises `RuntimeError` if it does not."""
        if self._server is None:
            raise RuntimeError("the metrics are not open")
        host, port = self._server.server_address[:2]
        return Place(host=str(host), port=int(port))

    def start(self) -> None:
        """Listen, and answer in threads of its own.

        Raises:
            OSError: it can not listen there; `filename` is the place.
        """
        try:
            family, address = _resolved(self._place)
            self._server = _Server(family, address)
        except OSError as error:
            raise OSError(error.errno, error.strerror, str(self._place)) from error
        self._server.set_app(self._app)
        self._thread = threading.Thread(
            target=self._server.serve_forever, name="tftp-metrics", daemon=True
        )
        self._thread.start()

    def stop(self) -> None:
        """Close."""
        if self._server is not None and self._thread is not None:
            self._server.shutdown()
            self._thread.join()
            self._server.server_close()
            self._server = self._thread = None


def _resolved(place: Place) -> tuple[socket.AddressFamily, Any]:
    """The first address that a place stands for, IPv4 before IPv6."""
    answers = socket.getaddrinfo(
        place.host, place.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
    )
    answers.sort(key=lambda answer: answer[0] != socket.AF_INET)
    return answers[0][0], answers[0][4]


_PATH = "/metrics"


def _at_its_path(app: Any) -> Any:
    """A WSGI application at one path, for GET and HEAD; all else is told where to go."""

    def get(environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
        if environ["PATH_INFO"] == _PATH:
            answered: Iterable[bytes] = app({**environ, "REQUEST_METHOD": "GET"}, start_response)
            return answered
        status = "200 OK" if environ["PATH_INFO"] == "/" else "404 Not Found"
        return _say(status, f"the metrics of tftpkit are at {_PATH}", start_response)

    def head(environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
        told: list[Any] = []
        body = b"".join(get(environ, lambda *words: told.extend(words)))
        status, headers = told
        length = ("Content-Length", str(len(body)))
        start_response(status, [*(one for one in headers if one[0] != length[0]), length])
        return []

    def answer(environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
        match environ["REQUEST_METHOD"]:
            case "GET":
                return get(environ, start_response)
            case "HEAD":
                return head(environ, start_response)
        words, allow = "there is only GET and HEAD", ("Allow", "GET, HEAD")
        return _say("405 Method Not Allowed", words, start_response, allow)

    return answer


def _say(status: str, words: str, start_response: Any, *headers: tuple[str, str]) -> list[bytes]:
    start_response(status, [("Content-Type", "text/plain; charset=utf-8"), *headers])
    return [f"{words}\n".encode("ascii")]


class _Handler(WSGIRequestHandler):
    """One scrape, which must not take for ever, and leaves no line in the log."""

    timeout = _PATIENCE
    # What makes no sense as HTTP is told so in a line, not in a page.
    error_message_format = "%(code)d %(message)s\n"
    error_content_type = "text/plain; charset=utf-8"

    def log_message(self, format: str, *words: Any) -> None:
        logger.debug("metrics, %s: %s", self.client_address[0], format % words)


class _Server(ThreadingMixIn, WSGIServer):
    """`wsgiref`'s server with a bound: whoever opens connections gets no more threads than this."""

    daemon_threads = True
    request_queue_size = 64

    def __init__(self, family: socket.AddressFamily, address: Any) -> None:
        self.address_family = family
        self._free = threading.BoundedSemaphore(_MOST_SCRAPES)
        super().__init__(address, _Handler)

    def server_bind(self) -> None:
        # The one that is inherited asks the name server who we are, and waits for the answer.
        TCPServer.server_bind(self)
        self.server_name, self.server_port = self.server_address[:2]  # type: ignore[assignment]
        self.setup_environ()

    def process_request(self, request: Any, client_address: Any) -> None:
        if self._free.acquire(blocking=False):
            super().process_request(request, client_address)
        else:
            self.shutdown_request(request)

    def process_request_thread(self, request: Any, client_address: Any) -> None:
        try:
            super().process_request_thread(request, client_address)
        finally:
            self._free.release()

    def handle_error(self, request: Any, client_address: Any) -> None:
        error = sys.exception()
        if isinstance(error, OSError):  # It has gone, or says nothing.
            logger.info("metrics: a scrape from %s was broken off: %s", client_address[0], error)
        else:
            logger.error("metrics: a scrape failed", exc_info=error)
