"""The board: what it says is true, it is exact, and it does not grow."""

import json
import threading
import tracemalloc
from dataclasses import fields, replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.monitor.happening import NOON, Happening
from tests.monitor.messages import check
from tftp.errors import PeerError, Refused, TransferTimeout
from tftp.events import Counters, Event, Operation, Outcome, Request, RequestRefused
from tftp.monitor.board import Board


@pytest.fixture
def board() -> Board:
    return Board()


def told(board: Board, *events: Event) -> dict[str, Any]:
    """The snapshot after these events; it must look as the schema says."""
    for event in events:
        board(event)
    return snapshot(board)


def snapshot(board: Board) -> dict[str, Any]:
    limits = {"max_transfers": 1, "max_blksize": 512, "max_windowsize": 1}
    found = board.snapshot()
    check({"event": "snapshot", "state": "serving", "limits": limits, **found})
    return found


def test_a_request_is_a_transfer_that_is_opening(board: Board) -> None:
    one = Happening(7, options={"blksize": "1428"})
    [row] = told(board, one.received())["transfers"]
    assert row["transfer"] == 7
    assert row["state"] == "opening"
    assert row["operation"] == "read"
    assert row["file"] == "boot/vmlinuz"
    assert row["asked"] == {"blksize": "1428"}
    assert row["peer"] == "192.0.2.7:49152"
    assert row["local"] == "192.0.2.1:69"
    assert row["terms"] is row["size"] is row["round_trip"] is None
    assert row["began"] == NOON


def test_a_transfer_that_has_started_has_terms(board: Board) -> None:
    one = Happening(7)
    [row] = told(board, one.received(), one.started(size=4096))["transfers"]
    assert row["state"] == "running"
    assert row["terms"]["blksize"] == 1428
    assert row["terms"]["windowsize"] == 16
    assert row["granted"] == {"blksize": "1428", "windowsize": "16"}
    assert row["size"] == 4096
    assert row["counters"]["payload"] == 0
    assert row["rate"] == 0


def test_progress_moves_a_transfer(board: Board) -> None:
    one = Happening(7)
    events = (one.received(), one.started(), one.progress(1000, at=0.25, retransmissions=3))
    [row] = told(board, *events)["transfers"]
    assert row["counters"]["payload"] == 1000
    assert row["counters"]["retransmissions"] == 3
    assert row["round_trip"] == 0.002
    assert row["rate"] == pytest.approx(4000)


def test_the_rate_is_that_of_the_last_interval(board: Board) -> None:
    one = Happening(7)
    events = (one.progress(1000, at=0.25), one.progress(1500, at=0.5), one.progress(3500, at=0.75))
    [row] = told(board, one.received(), one.started(), *events)["transfers"]
    assert row["rate"] == pytest.approx(8000)


def test_what_has_ended_does_not_run(board: Board) -> None:
    one = Happening(7)
    found = told(board, one.received(), one.started(), one.ended(payload=4096))
    assert found["transfers"] == []
    assert found["running"] == board.running == 0
    [ending] = found["endings"]
    assert ending["outcome"] == "done"
    assert found["failures"] == []


def test_a_refusal_is_a_failure_with_its_reason(board: Board) -> None:
    one = Happening(7)
    found = told(board, one.received(), one.refused(Refused("not for you", 2)))
    assert found["transfers"] == found["endings"] == []
    [failure] = found["failures"]
    assert failure["error"] == {"code": 2, "message": "not for you"}
    [row] = found["errors"]["rows"]
    assert (row["outcome"], row["code"], row["message"]) == ("refused", 2, "not for you")


def test_a_failed_transfer_is_an_ending_and_a_failure(board: Board) -> None:
    one = Happening(7)
    ended = one.ended(Outcome.TIMED_OUT, TransferTimeout("no answer"))
    found = told(board, one.received(), one.started(), ended)
    assert found["endings"] == found["failures"] != []
    assert found["errors"]["rows"][0]["outcome"] == "timed-out"


@pytest.mark.parametrize("outcome", Outcome)
def test_each_outcome_is_counted(board: Board, outcome: Outcome) -> None:
    one = Happening(7)
    side = told(board, one.received(), one.started(), one.ended(outcome))["totals"]["read"]
    assert side["outcomes"] == {other.value: int(other is outcome) for other in Outcome}
    assert side["requests"] == 1
    assert side["running"] == side["refused"] == 0


def test_reads_and_writes_are_counted_apart(board: Board) -> None:
    one, other = Happening(1), Happening(2, operation=Operation.WRITE)
    totals = told(board, one.received(), other.received(), other.ended(payload=5))["totals"]
    assert totals["read"]["requests"] == totals["read"]["running"] == 1
    assert totals["write"]["outcomes"]["done"] == 1
    assert totals["write"]["counters"]["payload"] == 5
    assert totals["read"]["counters"]["payload"] == 0


def test_a_request_that_two_processes_received_is_one(board: Board) -> None:
    one = Happening(7)
    found = told(board, one.received(), one.received(at=0.5), one.started(), one.ended())
    assert found["totals"]["read"]["requests"] == 1


def test_a_request_refused_at_the_door_is_one_too(board: Board) -> None:
    side = told(board, Happening(7).refused(Refused("server busy", 0)))["totals"]["read"]
    assert (side["requests"], side["refused"]) == (1, 1)


def test_what_runs_is_in_the_totals_already_and_counted_once(board: Board) -> None:
    one = Happening(7)
    running = told(board, one.received(), one.started(), one.progress(1000, at=0.3, blocks=2))
    assert running["totals"]["read"]["counters"]["payload"] == 1000
    ended = told(board, one.ended(payload=4096, blocks=8))
    assert ended["totals"]["read"]["counters"]["payload"] == 4096
    assert ended["totals"]["read"]["counters"]["blocks"] == 8


def test_a_histogram_counts_what_is_at_most_its_bound(board: Board) -> None:
    for number, duration in enumerate((0.05, 0.0500001, 700.0)):
        board(Happening(number).ended(duration=duration, payload=1000, round_trip=None))
    histograms = snapshot(board)["totals"]["read"]["histograms"]
    durations = histograms["duration"]
    assert len(durations["counts"]) == len(durations["bounds"]) + 1
    assert durations["counts"][durations["bounds"].index(0.05)] == 1
    assert durations["counts"][durations["bounds"].index(0.1)] == 1
    assert durations["counts"][-1] == 1
    assert durations["sum"] == pytest.approx(700.1000001)
    assert sum(histograms["rate"]["counts"]) == 3
    assert sum(histograms["round_trip"]["counts"]) == 0


def test_what_failed_is_in_no_histogram(board: Board) -> None:
    ended = Happening(7).ended(Outcome.TIMED_OUT, TransferTimeout("no answer"))
    histograms = told(board, ended)["totals"]["read"]["histograms"]
    assert all(sum(histogram["counts"]) == 0 for histogram in histograms.values())


def test_a_client_is_its_address_without_the_port(board: Board) -> None:
    events = [Happening(number).ended(payload=10) for number in range(3)]
    clients = told(board, *events, Happening(9, host="192.0.2.8").refused())["clients"]["rows"]
    assert [(row["client"], row["requests"]) for row in clients] == [
        ("192.0.2.7", 3),
        ("192.0.2.8", 1),
    ]
    assert (clients[0]["succeeded"], clients[0]["counters"]["payload"]) == (3, 30)
    assert (clients[1]["refused"], clients[1]["reads"]) == (1, 1)


def test_a_file_has_a_row_with_a_printable_name(board: Board) -> None:
    one = Happening(1, b"\x1b[31mred\\")
    rows = told(board, one.ended(), one.refused())["files"]["rows"]
    assert [(row["file"], row["requests"]) for row in rows] == [("\\x1b[31mred\\\\", 2)]


def test_a_snapshot_says_which_event_it_ends_with(board: Board) -> None:
    seen: list[tuple[int, Event]] = []
    board.follow(lambda sequence, event: seen.append((sequence, event)))
    one = Happening(7)
    events = [one.received(), one.started(), one.ended()]
    assert told(board, *events)["sequence"] == 3
    assert seen == list(enumerate(events, 1))


def test_no_more_than_so_many_endings_and_failures_are_remembered(board: Board) -> None:
    for number in range(300):
        board(Happening(number).ended())
        board(Happening(1000 + number).refused())
    found = snapshot(board)
    assert [event["transfer"] for event in found["endings"]] == list(range(100, 300))
    assert [event["transfer"] for event in found["failures"]] == list(range(1100, 1300))


def test_what_a_client_sends_to_be_large_is_cut(board: Board) -> None:
    options = {f"option{number}" + 200 * "x": 300 * "\0" for number in range(300)}
    one = Happening(7, 4000 * b"n", options=options)
    quiet = Happening(8)
    error = PeerError(60_000 * "e", 0)
    found = told(
        board,
        one.received(),
        quiet.received(),
        quiet.ended(Outcome.PEER_ERROR, error),
        Happening(9, 4000 * b"n", options=options).refused(),
    )
    assert len(json.dumps(found)) < 40_000


def test_of_too_many_transfers_the_oldest_are_counted_but_not_told_of() -> None:
    board = Board(transfers=10)
    transfers = [Happening(number) for number in range(25)]
    for one in transfers:
        board(one.received())
        board(one.started())
        board(one.progress(5, at=0.5))
    found = snapshot(board)
    assert [row["transfer"] for row in found["transfers"]] == list(range(15, 25))
    side = found["totals"]["read"]
    assert found["running"] == board.running == side["running"] == side["requests"] == 25
    assert side["counters"]["payload"] == 25 * 5
    board(transfers[0].progress(6, at=0.75))  # What is told of those counts when they end.
    board(transfers[1].received())
    board(transfers[1].refused())
    for one in (transfers[0], *transfers[2:]):
        board(one.ended(payload=7))
    found = snapshot(board)
    side = found["totals"]["read"]
    assert found["running"] == side["running"] == 0
    assert (side["requests"], side["refused"], side["outcomes"]["done"]) == (25, 1, 24)
    assert side["counters"]["payload"] == 24 * 7


def test_transfers_of_which_nobody_says_that_they_end_do_not_fill_the_memory() -> None:
    board = Board(transfers=10)
    for number in range(1000):
        board(Happening(number).received())
    assert board.running == 10 + 100
    assert snapshot(board)["totals"]["read"]["running"] == 110


_SIDES = st.sampled_from(Operation)
_ENDS = st.one_of(st.none(), st.just("refused"), st.sampled_from(Outcome))


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(_SIDES, _ENDS, st.integers(0, 900), st.integers(0, 30)), max_size=80))
def test_totals_and_tallies_add_up(
    lives: list[tuple[Operation, str | Outcome | None, int, int]],
) -> None:
    board = Board()
    for number, (operation, end, octets, host) in enumerate(lives):
        one = Happening(number, b"%d" % host, f"h{host}", operation=operation)
        board(one.received())
        if end == "refused":
            board(one.refused())
            continue
        board(one.started())
        board(one.progress(octets, at=0.3))
        if isinstance(end, Outcome):
            board(one.ended(end, payload=octets, octets_sent=2 * octets))
    found = snapshot(board)
    for name, operation in (("read", Operation.READ), ("write", Operation.WRITE)):
        side, mine = found["totals"][name], [life for life in lives if life[0] is operation]
        assert side["requests"] == len(mine)
        assert side["refused"] == sum(end == "refused" for _, end, _, _ in mine)
        assert side["running"] == sum(end is None for _, end, _, _ in mine)
        assert side["requests"] == side["running"] + side["refused"] + sum(
            side["outcomes"].values()
        )
        assert side["counters"]["payload"] == sum(
            octets for _, end, octets, _ in mine if end != "refused"
        )
    over = [life for life in lives if life[1] is not None]
    for tally in ("clients", "files"):
        rows = [*found[tally]["rows"], found[tally]["others"]]
        assert sum(row["requests"] for row in rows) == len(over)
        assert sum(row["counters"]["octets_sent"] for row in rows) == sum(
            2 * octets for _, end, octets, _ in over if end != "refused"
        )


def test_threads_that_tell_at_once_lose_nothing(board: Board) -> None:
    each = 2000
    ready = threading.Barrier(4)

    def tell(first: int) -> None:
        ready.wait()
        for number in range(first, first + each):
            one = Happening(number, b"%d" % (number % 300))
            board(one.received())
            board(one.ended(payload=3))

    tellers = [threading.Thread(target=tell, args=(turn * each,)) for turn in range(4)]
    for teller in tellers:
        teller.start()
    for teller in tellers:
        teller.join()
    found = snapshot(board)
    assert found["sequence"] == 4 * each * 2
    assert found["totals"]["read"]["outcomes"]["done"] == 4 * each
    assert found["totals"]["read"]["counters"]["payload"] == 3 * 4 * each


def flood(board: Board, first: int, count: int) -> None:
    """Requests that each have a name, an address and an error message of their own."""
    read, local = Operation.READ, ("192.0.2.1", 69)
    for number in range(first, first + count):
        request = Request(
            operation=read,
            filename=b"bogus/%d" % number,
            peer=(f"2001:db8::{number:x}", 4),
            local=local,
        )
        error = Refused(f"no {number}", 1)
        board(RequestRefused(time=NOON, transfer=number, request=request, error=error))


@pytest.mark.timeout(300)
def test_a_million_names_and_addresses_do_not_make_it_grow(board: Board) -> None:
    flood(board, 0, 20_000)
    tracemalloc.start()
    try:
        flood(board, 20_000, 5_000)
        before, _ = tracemalloc.get_traced_memory()
        flood(board, 25_000, 25_000)
        after, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert after - before < 100_000, "the board grows with what it is told"
    flood(board, 50_000, 950_000)
    found = snapshot(board)
    assert found["totals"]["read"]["requests"] == found["totals"]["read"]["refused"] == 1_000_000
    for tally in ("clients", "files", "errors"):
        rows, others = found[tally]["rows"], found[tally]["others"]
        assert len(rows) == found[tally]["capacity"]
        assert sum(row["requests"] for row in rows) + others["requests"] == 1_000_000
        assert max(row["missed"] for row in rows) <= 1_000_000 / found[tally]["capacity"]
    assert len(json.dumps(found)) < 600_000


def test_the_counters_are_those_of_the_machines(board: Board) -> None:
    names = [counter.name for counter in fields(Counters)]
    values = {name: number for number, name in enumerate(names, 1)}
    ended = replace(Happening(1).ended(), counters=Counters(**values))
    assert told(board, ended)["totals"]["read"]["counters"] == values
