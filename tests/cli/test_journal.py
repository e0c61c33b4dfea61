"""The server's lines: what they say, and that nobody has to wait for their reader."""

import os
from collections.abc import Iterator
from typing import BinaryIO

import pytest

from tftp.cli.journal import Journal, as_text, is_failure, is_result
from tftp.errors import ErrorCode, PeerError, Refused, TFTPError, TransferTimeout
from tftp.events import (
    Counters,
    Event,
    Operation,
    Outcome,
    Request,
    RequestReceived,
    RequestRefused,
    TransferEnded,
    TransferProgress,
    TransferStarted,
)
from tftp.options import Terms

REQUEST = Request(
    operation=Operation.READ,
    filename=b"boot\x1b/\xff",
    options={"tsize": "0", "\x07": "1"},
    peer=("192.0.2.7", 2070),
)
COMMON = {"time": 0.0, "transfer": 1, "request": REQUEST}


def ended(
    outcome: Outcome, error: TFTPError | None = None, granted: dict[str, str] | None = None
) -> TransferEnded:
    return TransferEnded(
        **COMMON,  # type: ignore[arg-type]
        outcome=outcome,
        error=error,
        terms=Terms(),
        granted={"tsize": "3500", "blksize": "1428"} if granted is None else granted,
        size=3500,
        counters=Counters(payload=3500, retransmissions=1),
        round_trip=None,
        duration=0.5,
    )


def line(event: Event) -> str:
    return as_text(event, "at")


NUMBERS = "3500 bytes in 0.500 s, 7.0 kB/s, blksize 1428, 1 retransmission"


@pytest.mark.parametrize(
    ("event", "what"),
    [
        (ended(Outcome.DONE), NUMBERS),
        (ended(Outcome.UNCONFIRMED), f"{NUMBERS}, the last block was never confirmed"),
        (ended(Outcome.PROBED), f"asked for the size only, {NUMBERS}"),
        (
            ended(Outcome.PEER_ERROR, PeerError("\x1b no", 99)),
            f"ended by the client: \\x1b no (error 99), {NUMBERS}",
        ),
        (
            ended(Outcome.TIMED_OUT, TransferTimeout("no answer for 30.0 s")),
            f"the client fell silent: no answer for 30.0 s (error 0), {NUMBERS}",
        ),
        (
            ended(Outcome.DONE, granted={}),
            "3500 bytes in 0.500 s, 7.0 kB/s, no options, 1 retransmission",
        ),
        (
            ended(Outcome.DONE, granted={"TSIZE": "4000"}),
            "3500 bytes in 0.500 s, 7.0 kB/s, TSIZE 4000, 1 retransmission",
        ),
        (
            RequestRefused(**COMMON, error=Refused("no")),  # type: ignore[arg-type]
            "refused: no (error 2)",
        ),
        (
            RequestReceived(**COMMON),  # type: ignore[arg-type]
            "asked, octet, tsize 0, \\x07 1",
        ),
        (
            TransferStarted(**COMMON, terms=Terms(), granted={}, size=None),  # type: ignore[arg-type]
            "started, size unknown, no options",
        ),
        (
            TransferProgress(
                **COMMON,  # type: ignore[arg-type]
                counters=Counters(payload=9),
                size=10,
                round_trip=None,
            ),
            "9 of 10 bytes so far",
        ),
    ],
)
def test_a_line_says_who_asked_for_what_and_how_it_went(event: Event, what: str) -> None:
    assert line(event) == f"at 192.0.2.7:2070 get boot\\x1b/\\xff: {what}"


def test_what_only_the_operator_can_mend_is_told_the_operator() -> None:
    error = Refused("", ErrorCode.UNDEFINED)
    error.__cause__ = OSError(5, "Input/output error", "/srv/tftp/x")
    text = line(ended(Outcome.STORAGE_ERROR, error))
    assert "failed: transfer failed (error 0): Input/output error, 3500 bytes" in text


@pytest.mark.parametrize("outcome", Outcome)
def test_every_end_with_an_error_says_what_it_was(outcome: Outcome) -> None:
    before, colon, _ = line(ended(outcome, TFTPError("this is why"))).partition(": this is why")
    assert colon
    if not outcome.succeeded:
        assert before.rpartition(": ")[2]


def test_failures_are_refusals_and_ends_without_success() -> None:
    refused = RequestRefused(**COMMON, error=Refused("no"))  # type: ignore[arg-type]
    received = RequestReceived(**COMMON)  # type: ignore[arg-type]
    assert is_failure(refused)
    assert is_failure(ended(Outcome.ABORTED))
    assert not is_failure(ended(Outcome.PROBED))
    assert not is_failure(received)
    assert is_result(refused)
    assert is_result(ended(Outcome.DONE))
    assert not is_result(received)


@pytest.fixture
def pipe() -> Iterator[tuple[BinaryIO, int]]:
    """A pipe: the file to read from, the descriptor to write to."""
    reader, writer = os.pipe()
    with os.fdopen(reader, "rb") as stream:
        yield stream, writer
    os.close(writer)


def test_a_reader_that_stands_still_costs_lines_and_no_time(pipe: tuple[BinaryIO, int]) -> None:
    reader, writer = pipe
    total = 25_000  # The queue holds 10 000, and the writer as many.
    journal = Journal(
        writer,
        lambda event: f"{event.transfer} " + "x" * 100,
        wanted=lambda event: True,
        lost=lambda number: f"lost {number}",
    )
    journal.start()
    for number in range(total):  # The pipe holds 64 KiB: the writer stands still from there on.
        journal(RequestReceived(time=0.0, transfer=number, request=REQUEST))
    lines: list[str] = []
    while not lines or not lines[-1].startswith("lost"):
        lines.append(reader.readline().decode())
    journal.write("the end")
    journal.close()
    while lines[-1] != "the end\n":
        lines.append(reader.readline().decode())
    *events, _ = lines
    lost = [int(text.split()[1]) for text in events if text.startswith("lost")]
    written = [int(text.split()[0]) for text in events if not text.startswith("lost")]
    assert sum(lost) + len(written) == total
    assert written == sorted(set(written))
    assert len(written) >= 10_000


def test_closing_does_not_wait_for_a_reader_that_stands_still(pipe: tuple[BinaryIO, int]) -> None:
    reader, writer = pipe
    journal = Journal(
        writer, lambda event: "x" * 70_000, wanted=lambda event: True, lost=lambda number: ""
    )
    journal.start()
    journal(RequestReceived(time=0.0, transfer=1, request=REQUEST))
    journal.close()
    assert reader.read(70_001) == b"x" * 70_000 + b"\n"


def test_only_wanted_events_are_written(pipe: tuple[BinaryIO, int]) -> None:
    reader, writer = pipe
    journal = Journal(
        writer,
        lambda event: str(event.transfer),
        wanted=lambda event: event.transfer == 2,
        lost=lambda number: "",
    )
    journal.start()
    for number in (1, 2, 3):
        journal(RequestReceived(time=0.0, transfer=number, request=REQUEST))
    journal.close()
    assert reader.readline() == b"2\n"
