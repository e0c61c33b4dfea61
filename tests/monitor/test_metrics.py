"""Metrics: equal to the board's totals, bounded, and readable by what reads metrics."""

import os
import shutil
import socket
import subprocess
import threading
from collections.abc import Iterator
from http.client import HTTPConnection, HTTPResponse

import pytest
from prometheus_client.openmetrics.parser import (
    text_string_to_metric_families as openmetrics_families,
)

from tests.monitor.happening import Happening
from tests.monitor.operating import Watched
from tests.monitor.scraping import Scrape, scrape, text_of
from tests.watching import eventually
from tests.wirepeer import PATIENCE, WirePeer
from tftp.client import Client
from tftp.errors import PeerError, Refused
from tftp.events import Operation, Outcome
from tftp.monitor.board import Board
from tftp.monitor.metrics import Exposition, Metrics
from tftp.monitor.place import Place
from tftp.options import Terms
from tftp.packets import Ack, Data, OptionAck, ReadRequest, decode

#: Names of the board's counters here.
COUNTERS = {
    "payload": "tftp_payload_bytes_total",
    "blocks": "tftp_blocks_total",
    "datagrams_sent": "tftp_sent_datagrams_total",
    "datagrams_received": "tftp_received_datagrams_total",
    "octets_sent": "tftp_sent_bytes_total",
    "octets_received": "tftp_received_bytes_total",
    "retransmissions": "tftp_retransmissions_total",
    "duplicates": "tftp_duplicates_total",
    "timeouts": "tftp_timeouts_total",
    "gaps": "tftp_gaps_total",
}
HISTOGRAMS = {
    "duration": "tftp_transfer_duration_seconds",
    "rate": "tftp_transfer_rate_bytes_per_second",
    "round_trip": "tftp_round_trip_seconds",
}


class Idle:
    """A server that does nothing."""

    engine_name = "threads"
    state = "serving"

    def __init__(self) -> None:
        self.limits = {"max_transfers": 1000}


class Exposed:
    """Metrics of a board that a test tells events to."""

    def __init__(self) -> None:
        self.board = Board()
        self.server = Idle()
        self.exposition = Exposition(
            Metrics(self.board, self.server, version="1.2.3"), Place.parse("0")
        )
        self.exposition.start()
        self.url = f"http://{self.exposition.place}/metrics"

    def scrape(self) -> Scrape:
        return scrape(self.url)


@pytest.fixture
def exposed() -> Iterator[Exposed]:
    """Metrics that are open."""
    exposed = Exposed()
    yield exposed
    exposed.exposition.stop()


@pytest.fixture
def real(each: Watched) -> Iterator[tuple[Watched, str]]:
    """A real server of each arrangement, and the URL of its metrics."""
    exposition = Exposition(Metrics(each.board, each.server), Place.parse("0"))
    exposition.start()
    yield each, f"http://{exposition.place}/metrics"
    exposition.stop()


def settled(board: Board, requests: int) -> bool:
    """Whether so many requests have come, and nothing runs any more.

    What other processes do is told a moment after it has happened.
    """

    def all_over() -> bool:
        totals = board.totals()["totals"].values()
        return sum(side["requests"] for side in totals) == requests and board.running == 0

    return eventually(all_over)


def assert_equal(scraped: Scrape, board: Board) -> None:
    """What was scraped is what the board has added up."""
    for operation, side in board.totals()["totals"].items():
        assert scraped("tftp_requests_total", operation=operation) == side["requests"]
        assert scraped("tftp_transfers_running", operation=operation) == side["running"]
        for outcome, count in side["outcomes"].items():
            told = scraped("tftp_transfers_total", operation=operation, outcome=outcome)
            assert told == count, outcome
        refused = scraped("tftp_failures_total", operation=operation, outcome="refused")
        assert refused == side["refused"]
        failed = sum(
            count for outcome, count in side["outcomes"].items() if not Outcome(outcome).succeeded
        )
        assert scraped("tftp_failures_total", operation=operation) == failed + refused
        for counter, name in COUNTERS.items():
            assert scraped(name, operation=operation) == side["counters"][counter], counter
        for histogram, name in HISTOGRAMS.items():
            told = side["histograms"][histogram]
            assert scraped(f"{name}_sum", operation=operation) == pytest.approx(told["sum"])
            assert scraped(f"{name}_count", operation=operation) == sum(told["counts"])
            below = 0
            for bound, count in zip((*told["bounds"], "+Inf"), told["counts"], strict=True):
                below += count
                le = bound if bound == "+Inf" else str(float(bound))
                assert scraped(f"{name}_bucket", operation=operation, le=le) == below


def test_metrics_are_the_board_s_totals_after_real_transfers(real: tuple[Watched, str]) -> None:
    watched, url = real
    with Client(*watched.address[:2]) as client:
        for name in ("small", "large", "empty"):
            client.get(name, bytearray())
        client.get("small", bytearray(), mode="netascii")
        client.put(b"new" * 1000, "new")
        with pytest.raises(PeerError):
            client.get("missing", bytearray())
        with pytest.raises(PeerError):
            client.put(b"", "small")
    assert settled(watched.board, 7)
    scraped = scrape(url)
    assert_equal(scraped, watched.board)
    assert scraped("tftp_requests_total") == 7
    assert scraped("tftp_transfers_total", operation="read", mode="octet") == 3
    assert scraped("tftp_transfers_total", operation="read", mode="netascii", outcome="done") == 1
    assert scraped("tftp_transfers_total", operation="write", mode="octet", outcome="done") == 1
    assert scraped("tftp_failures_total", outcome="refused", operation="read", code="1") == 1
    assert scraped("tftp_failures_total", outcome="refused", operation="write", code="6") == 1
    assert scraped("tftp_payload_bytes_total", operation="write") == 3000
    assert scraped("tftp_build_info", engine=watched.server.engine_name) == 1


def test_a_running_transfer_is_counted_once_before_and_after_its_end(
    real: tuple[Watched, str],
) -> None:
    watched, url = real
    with WirePeer(watched.address) as peer:
        peer.rrq("large", blksize=65464)
        granted = peer.receive()
        assert isinstance(granted, OptionAck)
        assert eventually(lambda: watched.board.running == 1)
        before = scrape(url)
        assert before("tftp_transfers_running", operation="read") == 1
        assert before("tftp_transfers_total") == 0
        last = before.growing
        received, block, size = 0, 0, int(granted.options["blksize"])
        while received == block * size:
            peer.send(Ack(block))
            block += 1
            payload = payload_of(peer, block)
            received += len(payload)
            now = scrape(url).growing
            assert all(now[key] >= value for key, value in last.items())
            last = now
        peer.send(Ack(block))
    assert settled(watched.board, 1)
    after = scrape(url)
    assert all(after.growing[key] >= value for key, value in last.items())
    assert after("tftp_payload_bytes_total", operation="read") == received == 1 << 20
    assert after("tftp_transfers_total", outcome="done") == 1
    assert_equal(after, watched.board)


def payload_of(peer: WirePeer, block: int) -> bytes:
    """That of a block, when it comes; what is repeated meanwhile is passed over."""
    while True:
        match peer.receive():
            case Data(number, payload) if number == block:
                return payload


def test_counters_never_fall_while_many_transfers_come_and_go(one: Watched) -> None:
    exposition = Exposition(Metrics(one.board, one.server), Place.parse("0"))
    exposition.start()
    url = f"http://{exposition.place}/metrics"

    def fetch() -> None:
        with Client(*one.address[:2], terms=Terms(blksize=1024, windowsize=8)) as client:
            for _ in range(10):
                client.get("large", bytearray())

    threads = [threading.Thread(target=fetch) for _ in range(4)]
    for thread in threads:
        thread.start()
    last = scrape(url).growing
    while any(thread.is_alive() for thread in threads):
        now = scrape(url).growing
        assert now.keys() >= last.keys()
        assert all(now[key] >= value for key, value in last.items())
        last = now
    assert settled(one.board, 40)
    scraped = scrape(url)
    assert scraped("tftp_payload_bytes_total") == 40 << 20
    assert_equal(scraped, one.board)
    exposition.stop()


def test_what_failed_is_counted_by_outcome_and_code(exposed: Exposed) -> None:
    for number, (outcome, error) in enumerate(
        (
            (Outcome.PEER_ERROR, PeerError("disk full", 3)),
            (Outcome.PEER_ERROR, PeerError("disk full", 3)),
            (Outcome.PEER_ERROR, PeerError("who knows", 77)),
            (Outcome.CRASHED, Refused("process 7 exited with status 1", 0)),
            (Outcome.TIMED_OUT, None),
            (Outcome.DONE, None),
        )
    ):
        exposed.board(Happening(number).ended(outcome, error))
    scraped = exposed.scrape()
    told = {
        (labels["outcome"], labels["code"]): scraped("tftp_failures_total", **labels)
        for labels in scraped.series("tftp_failures_total")
        if scraped("tftp_failures_total", **labels)
    }
    assert told == {
        ("peer-error", "3"): 2,
        ("peer-error", "other"): 1,
        ("crashed", "0"): 1,
        ("timed-out", "0"): 1,
    }
    assert_equal(scraped, exposed.board)


@pytest.mark.parametrize("operation", Operation)
@pytest.mark.parametrize("outcome", Outcome)
def test_every_outcome_has_a_series_before_it_happens(
    exposed: Exposed, operation: Operation, outcome: Outcome
) -> None:
    labels = {"operation": operation.value, "outcome": outcome.value, "mode": "octet"}
    assert exposed.scrape()("tftp_transfers_total", **labels) == 0
    exposed.board(Happening(1, operation=operation).ended(outcome))
    assert exposed.scrape()("tftp_transfers_total", **labels) == 1


def test_whatever_a_network_sends_the_series_are_bounded_and_name_nobody(
    exposed: Exposed,
) -> None:
    numbers = iter(range(10_000))

    def flood(host: str) -> None:
        for code in range(200):
            happening = Happening(
                next(numbers), b"secret-%d" % code, f"{host}.{code}", mode=f"mode-{code}"
            )
            exposed.board(happening.received())
            exposed.board(happening.refused(Refused("no", code)))
            other = Happening(next(numbers), b"secret", host, mode=f"mode-{code}")
            exposed.board(other.received())
            exposed.board(other.ended(Outcome.PEER_ERROR, PeerError(f"text-{code}", code)))

    flood("198.51.100")
    once = exposed.scrape()
    flood("203.0.113")
    twice = exposed.scrape()
    assert twice.samples.keys() == once.samples.keys()
    assert len(twice.samples) < 400
    text = text_of(exposed.url)
    assert not any(word in text for word in ("secret", "198.51", "203.0", "mode-", "text-"))
    assert twice("tftp_failures_total", code="other") == 4 * (200 - 9)
    assert_equal(twice, exposed.board)


def test_the_state_and_the_limits_are_those_of_now(exposed: Exposed) -> None:
    def states() -> dict[str, float]:
        scraped = exposed.scrape()
        return {
            labels["state"]: scraped("tftp_server_state", **labels)
            for labels in scraped.series("tftp_server_state")
        }

    assert states() == {"serving": 1, "draining": 0, "stopping": 0}
    exposed.server.state = "draining"
    exposed.server.limits["max_transfers"] = 5
    assert states() == {"serving": 0, "draining": 1, "stopping": 0}
    assert exposed.scrape()("tftp_limit", limit="max_transfers") == 5


def test_it_says_what_runs(exposed: Exposed) -> None:
    (build,) = exposed.scrape().series("tftp_build_info")
    assert build.keys() == {"version", "python", "engine"}
    assert (build["version"], build["engine"]) == ("1.2.3", "threads")
    assert exposed.scrape()("process_open_fds") > 0


def test_openmetrics_is_spoken_too(exposed: Exposed) -> None:
    exposed.board(Happening(1).ended(payload=700))
    text = text_of(exposed.url, "application/openmetrics-text; version=1.0.0")
    assert text.endswith("# EOF\n")
    families = {family.name: family for family in openmetrics_families(text)}
    assert families["tftp_payload_bytes"].type == "counter"
    assert families["tftp_transfer_duration_seconds"].type == "histogram"
    assert families["tftp_build"].type == "info"


@pytest.mark.skipif(not shutil.which("promtool"), reason="promtool is not installed")
def test_promtool_finds_nothing_to_complain_about(exposed: Exposed) -> None:
    exposed.board(Happening(1).ended(payload=700))
    done = subprocess.run(
        ["promtool", "check", "metrics"],
        input=text_of(exposed.url).encode(),
        capture_output=True,
        timeout=PATIENCE,
        check=False,
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, b"", b"")


def test_it_listens_on_loopback_unless_it_is_told_otherwise(exposed: Exposed) -> None:
    assert exposed.exposition.place.host == "127.0.0.1"


def test_it_can_be_scraped_over_ipv6() -> None:
    exposition = Exposition(Metrics(Board(), Idle()), Place.parse("[::1]:0"))
    try:
        exposition.start()
    except OSError as error:
        pytest.skip(f"no IPv6 here: {error}")
    assert scrape(f"http://{exposition.place}/metrics")("tftp_requests_total") == 0
    exposition.stop()


def test_a_port_that_is_taken_is_named(exposed: Exposed) -> None:
    other = Exposition(Metrics(Board(), Idle()), exposed.exposition.place)
    with pytest.raises(OSError, match="in use") as raised:
        other.start()
    assert raised.value.filename == str(exposed.exposition.place)
    with pytest.raises(RuntimeError):
        _ = other.place
    other.stop()


def test_a_unix_socket_is_no_place_for_metrics() -> None:
    with pytest.raises(ValueError, match="PORT"):
        Exposition(Metrics(Board(), Idle()), Place(path="/run/metrics"))


def test_connections_that_say_nothing_take_no_more_than_a_few_threads(exposed: Exposed) -> None:
    place = exposed.exposition.place
    before = set(threading.enumerate())
    silent = [socket.create_connection((place.host, place.port), PATIENCE) for _ in range(30)]
    # All but a few are sent away.
    turned_away = 0
    for sock in silent:
        sock.setblocking(False)

    def count() -> bool:
        nonlocal turned_away
        turned_away = sum(_is_closed(sock) for sock in silent)
        return turned_away == 22

    assert eventually(count), turned_away
    assert len(set(threading.enumerate()) - before) == 8
    for sock in silent:
        sock.close()
    assert eventually(lambda: set(threading.enumerate()) <= before)
    assert exposed.scrape()("tftp_requests_total") == 0


def _is_closed(sock: socket.socket) -> bool:
    try:
        return sock.recv(1) == b""
    except BlockingIOError:
        return False
    except ConnectionError:
        return True


def test_junk_is_answered_with_an_error_and_forgotten(exposed: Exposed) -> None:
    place = exposed.exposition.place
    with socket.create_connection((place.host, place.port), PATIENCE) as sock:
        sock.sendall(os.urandom(300).replace(b"\n", b"") + b"\r\n\r\n")
        answer = sock.recv(1 << 16)
        assert b"400" in answer
        assert b"<!DOCTYPE" not in answer  # A line, not a page.
    assert exposed.scrape()("tftp_requests_total") == 0


@pytest.mark.parametrize(
    ("method", "path", "status", "words"),
    [
        ("GET", "/", 200, "the metrics of tftpkit are at /metrics\n"),
        ("GET", "/nosuch", 404, "the metrics of tftpkit are at /metrics\n"),
        ("HEAD", "/nosuch", 404, ""),
        ("POST", "/metrics", 405, "there is only GET and HEAD\n"),
        ("OPTIONS", "/metrics", 405, "there is only GET and HEAD\n"),
    ],
)
def test_the_metrics_have_one_path_and_everything_else_says_so(
    exposed: Exposed, method: str, path: str, status: int, words: str
) -> None:
    answer, body = _ask(exposed, method, path)
    assert (answer.status, body.decode()) == (status, words)
    assert answer.headers["Content-Type"] == "text/plain; charset=utf-8"
    assert answer.headers["Allow"] == ("GET, HEAD" if status == 405 else None)


def test_head_tells_what_get_would(exposed: Exposed) -> None:
    got, body = _ask(exposed, "GET", "/metrics")
    told, nothing = _ask(exposed, "HEAD", "/metrics")
    assert (got.status, told.status, nothing) == (200, 200, b"")
    assert told.headers["Content-Type"] == got.headers["Content-Type"]
    # The process has used some more time since.
    assert abs(int(told.headers["Content-Length"]) - len(body)) < 100


def _ask(exposed: Exposed, method: str, path: str) -> tuple[HTTPResponse, bytes]:
    place = exposed.exposition.place
    connection = HTTPConnection(place.host, place.port, timeout=PATIENCE)
    try:
        connection.request(method, path)
        answer = connection.getresponse()
        return answer, answer.read()
    finally:
        connection.close()


def test_nothing_is_left_behind() -> None:
    before = set(threading.enumerate())
    exposed = Exposed()
    assert exposed.scrape()("tftp_requests_total") == 0
    place = exposed.exposition.place
    exposed.exposition.stop()
    exposed.exposition.stop()
    assert eventually(lambda: set(threading.enumerate()) <= before)
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection((place.host, place.port), PATIENCE)


def test_datagrams_on_the_wire_are_those_that_are_counted(one: Watched) -> None:
    exposition = Exposition(Metrics(one.board, one.server), Place.parse("0"))
    exposition.start()
    with WirePeer(one.address) as peer:
        peer.read("small")
        request, *sent = peer.sent
        received = peer.received
    assert isinstance(decode(request), ReadRequest)
    assert settled(one.board, 1)
    scraped = scrape(f"http://{exposition.place}/metrics")
    assert scraped("tftp_sent_datagrams_total") == len(received)
    assert scraped("tftp_sent_bytes_total") == sum(map(len, received))
    assert scraped("tftp_received_datagrams_total") == len(sent)
    assert scraped("tftp_received_bytes_total") == sum(map(len, sent))
    exposition.stop()
