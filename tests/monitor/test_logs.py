"""Transfers in the log: what a record says, in which form, and that no transfer waits for it."""

import json
import logging
import os
import re
import threading
from collections.abc import Iterator
from datetime import datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.monitor.happening import NOON, Happening
from tests.wirepeer import PATIENCE
from tftp.errors import ErrorCode, PeerError, Refused, TFTPError, TransferTimeout
from tftp.events import Event, Outcome, as_json, printable
from tftp.monitor.logs import (
    Backlog,
    Json,
    Lines,
    Result,
    Text,
    TransferLog,
    event_of,
    fields_of,
    key_values,
)

#: Names that would forge a line, a field or a colour, or break a formatter.
HOSTILE = [
    b"x\n2026-11-26T12:00:00 info 192.0.2.1:1 read kernel: done",
    b"x\r\x1b[2J\x1b]0;title\x07",
    b"\xff\xfe\x00%s %(peer)s {}",
    b'x": done outcome=done peer="192.0.2.9:1" y="\\',
    "\u2028\u202ekernel\U000e0041".encode(),
]
_PAIR = re.compile(r'(\w+)=("(?:[^"\\]|\\.)*"|\S*)(?: |$)')


class Kept(logging.Handler):
    """Keeps what it is given."""

    def __init__(self) -> None:
        super().__init__()
        self.records: list[logging.LogRecord] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.records.append(record)


class Stuck(Kept):
    """Does not return from the first record until it is let go."""

    def __init__(self) -> None:
        super().__init__()
        self.entered, self.free = threading.Event(), threading.Event()

    def emit(self, record: logging.LogRecord) -> None:
        self.entered.set()
        assert self.free.wait(PATIENCE)
        super().emit(record)


def logger_with(handler: logging.Handler) -> logging.Logger:
    """A logger of nobody else."""
    logger = logging.Logger("tftp", logging.DEBUG)  # noqa: LOG001
    logger.addHandler(handler)
    return logger


def logged(event: Event) -> list[logging.LogRecord]:
    kept = Kept()
    TransferLog(logger_with(kept))(event)
    return kept.records


def record_of(event: Event) -> logging.LogRecord:
    (record,) = logged(event)
    return record


def pairs(line: str) -> dict[str, str]:
    """What a reader makes of `name=value`; all of the line must be that."""
    found = {}
    while line:
        pair = _PAIR.match(line)
        assert pair, line
        name, value = pair.groups()
        found[name] = value[1:-1].replace('\\"', '"') if value.startswith('"') else value
        line = line[pair.end() :]
    return found


@pytest.mark.parametrize(
    ("event", "level"),
    [
        (Happening(1).ended(), logging.INFO),
        (Happening(1).ended(Outcome.UNCONFIRMED), logging.INFO),
        (Happening(1).ended(Outcome.PROBED, PeerError("done", 0)), logging.INFO),
        (Happening(1).ended(Outcome.TIMED_OUT, TransferTimeout("silence")), logging.WARNING),
        (Happening(1).ended(Outcome.CRASHED, TFTPError("killed")), logging.WARNING),
        (Happening(1).ended(Outcome.STORAGE_ERROR, TFTPError("no")), logging.WARNING),
        (Happening(1).refused(), logging.WARNING),
    ],
)
def test_each_result_is_one_record_whose_level_says_how_it_went(event: Result, level: int) -> None:
    record = record_of(event)
    assert record.levelno == level
    assert record.name == "tftp"
    assert event_of(record) is event


def test_requests_starts_and_progress_are_not_logged() -> None:
    transfer = Happening(1)
    for event in (transfer.received(), transfer.started(), transfer.progress(10, at=0.5)):
        assert logged(event) == []


def test_a_level_keeps_transfers_that_went_well_out() -> None:
    kept = Kept()
    logger = logger_with(kept)
    logger.setLevel(logging.WARNING)
    observer = TransferLog(logger)
    observer(Happening(1).ended())
    observer(Happening(2).refused())
    assert [record.tftp.transfer for record in kept.records] == [2]  # type: ignore[attr-defined]


def test_the_message_alone_says_who_got_what_and_how_it_ended() -> None:
    done = Happening(7).ended(payload=4096, duration=0.25)
    assert record_of(done).getMessage() == (
        "192.0.2.7:49152 read boot/vmlinuz: done, 4096 octets in 0.250 s, transfer 7"
    )
    failed = Happening(8).ended(Outcome.PEER_ERROR, PeerError("disk full\x1b", 3), payload=512)
    assert record_of(failed).getMessage() == (
        "192.0.2.7:49152 read boot/vmlinuz: peer-error, "
        '"disk full\\x1b" (error 3), 512 octets in 1.000 s, transfer 8'
    )
    refused = Happening(9, b"no such").refused(Refused("file not found", ErrorCode.FILE_NOT_FOUND))
    assert record_of(refused).getMessage() == (
        '192.0.2.7:49152 read "no such": refused, "file not found" (error 1), transfer 9'
    )


def test_what_only_the_operator_can_mend_is_told_too() -> None:
    error = Refused("cannot be read", ErrorCode.UNDEFINED)
    error.__cause__ = OSError(5, "Input/output error")
    assert fields_of(Happening(1).refused(error))["reason"] == "cannot be read: Input/output error"


def test_the_fields_are_those_of_the_event() -> None:
    transfer = Happening(7, options={"blksize": "1428", "tsize": "0"})
    event = transfer.ended(payload=4096, retransmissions=2, duplicates=3, timeouts=1, gaps=4)
    assert fields_of(event) == {
        "transfer": 7,
        "peer": "192.0.2.7:49152",
        "operation": "read",
        "file": "boot/vmlinuz",
        "outcome": "done",
        "octets": 4096,
        "duration": 1.0,
        "rate": 4096,
        "size": 4096,
        "blksize": 1428,
        "windowsize": 16,
        "round_trip": 0.002,
        "retransmissions": 2,
        "duplicates": 3,
        "timeouts": 1,
        "gaps": 4,
        "mode": "octet",
        "local": "192.0.2.1:69",
        "asked": "blksize=1428 tsize=0",
        "granted": "blksize=1428 windowsize=16",
    }


def test_the_text_has_the_time_the_level_and_each_field_once() -> None:
    line = Text().format(record_of(Happening(7).ended(payload=4096)))
    time, level, words = line.split(" ", 2)
    assert datetime.fromisoformat(time).tzinfo is not None
    assert level == "info"
    message, _, rest = words.partition("transfer 7 ")
    assert message.startswith("192.0.2.7:49152 read boot/vmlinuz: done, ")
    assert set(pairs(rest)) == {
        *("rate", "size", "blksize", "windowsize", "round_trip", "mode", "local", "granted"),
        *("retransmissions", "duplicates", "timeouts", "gaps"),
    }


def test_json_is_one_object_with_the_event_in_a_name_of_its_own() -> None:
    event = Happening(7).ended(payload=4096)
    told = json.loads(Json().format(record_of(event)))
    assert told.pop("tftp") == json.loads(json.dumps(as_json(event)))
    assert datetime.fromisoformat(told.pop("time")).tzinfo is not None
    assert told == {"level": "info", "message": record_of(event).getMessage()}


@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_name_cannot_break_out_of_its_line(name: bytes) -> None:
    event = Happening(1, name, options={name.decode("latin-1"): "\n\x1b%d"}).refused(
        Refused(name.decode("latin-1"))
    )
    text = Text().format(record_of(event))
    assert text.isprintable()
    line = Json().format(record_of(event))
    assert line.isprintable()
    assert json.loads(line)["tftp"]["file"] == printable(name)


@given(name=st.binary(), reason=st.text(), option=st.text(), value=st.text())
def test_whatever_the_network_sends_no_field_can_be_forged(
    name: bytes, reason: str, option: str, value: str
) -> None:
    event = Happening(1, name, options={option: value}).ended(
        Outcome.PEER_ERROR, PeerError(reason, 0)
    )
    told = fields_of(event)
    line = key_values(told)
    assert line.isprintable()
    assert pairs(line) == {name: str(value) for name, value in told.items()}


def fault(handler: logging.Handler) -> None:
    """Log a fault whose words would forge a line."""
    try:
        raise OSError("one\n2026-11-26 two\x1b")
    except OSError:
        logger_with(handler).exception("a fault\nof %s", "the program\x1b")


def test_a_traceback_is_indented_text_and_a_member_in_json() -> None:
    kept = Kept()
    fault(kept)
    (record,) = kept.records
    first, *rest = Text().format(record).split("\n")
    assert first.endswith(" error a fault\\nof the program\\x1b")
    assert rest[0] == "    Traceback (most recent call last):"
    assert all(line.startswith("    ") and line.isprintable() for line in rest)
    told = json.loads(Json().format(record))
    assert told["message"] == "a fault\nof the program\x1b"
    assert told["exception"].endswith("OSError: one\n2026-11-26 two\x1b")
    assert "tftp" not in told


# -- the backlog ------------------------------------------------------------------------------


@pytest.fixture
def stuck() -> Iterator[Stuck]:
    handler = Stuck()
    yield handler
    handler.free.set()


def test_a_stuck_handler_costs_records_and_no_time(stuck: Stuck) -> None:
    backlog = Backlog([stuck], size=3)
    backlog.start()
    observer = TransferLog(logger_with(backlog))
    observer(Happening(0).ended())
    assert stuck.entered.wait(PATIENCE)
    for number in range(1, 101):
        observer(Happening(number).ended())  # It would never return if it waited.
    assert backlog.dropped == 97
    stuck.free.set()
    backlog.close()
    told = [
        record.getMessage() if (event := event_of(record)) is None else event.transfer
        for record in stuck.records
    ]
    assert told == [0, "97 records lost: the log is written too slowly", 1, 2, 3]


def test_closing_does_not_wait_for_a_reader_that_has_stopped_reading() -> None:
    reading, writing = os.pipe()
    os.set_blocking(writing, False)
    while True:  # Until the pipe is full.
        try:
            os.write(writing, bytes(4096))
        except BlockingIOError:
            break
    os.set_blocking(writing, True)
    backlog = Backlog([Lines(writing, Text())])
    backlog.start()
    TransferLog(logger_with(backlog))(Happening(1).ended())
    backlog.close()  # It would never return.
    backlog.close()
    (waiting,) = (one for one in threading.enumerate() if one.name == "tftp-log")
    os.close(reading)
    waiting.join(PATIENCE)
    assert not waiting.is_alive()
    os.close(writing)


def test_lines_arrive_in_order_and_whole() -> None:
    reading, writing = os.pipe()
    backlog = Backlog([Lines(writing, Json())])
    backlog.start()
    observer = TransferLog(logger_with(backlog))
    for number in range(20):
        observer(Happening(number, HOSTILE[number % len(HOSTILE)]).ended())
    backlog.close()
    os.close(writing)
    with os.fdopen(reading, encoding="utf-8") as stream:
        assert [json.loads(line)["tftp"]["transfer"] for line in stream] == list(range(20))


def test_a_record_keeps_what_it_said_when_it_was_made() -> None:
    kept = Kept()
    backlog = Backlog([kept])
    words = ["first"]
    logger_with(backlog).warning("%s", words)
    fault(backlog)
    words.append("second")
    backlog.start()
    backlog.close()
    first, second = kept.records
    assert first.getMessage() == "['first']"
    assert second.exc_info is None, "it would keep the frames of the fault alive"
    assert second.exc_text is not None
    assert "OSError" in Text().format(second)


def test_a_handler_s_level_and_filters_count() -> None:
    all_of_it, failures, library = Kept(), Kept(), Kept()
    failures.setLevel(logging.WARNING)
    library.addFilter(lambda record: event_of(record) is None)
    backlog = Backlog([all_of_it, failures, library])
    backlog.start()
    logger = logger_with(backlog)
    TransferLog(logger)(Happening(1).ended())
    logger.error("a fault")
    backlog.close()
    assert [len(kept.records) for kept in (all_of_it, failures, library)] == [2, 1, 1]


def test_a_fault_of_one_handler_does_not_keep_records_from_the_next(
    capsys: pytest.CaptureFixture[str],
) -> None:
    class Faulty(Kept):
        def emit(self, record: logging.LogRecord) -> None:
            raise ValueError("a fault of the handler")

    kept = Kept()
    backlog = Backlog([Faulty(), kept])
    backlog.start()
    TransferLog(logger_with(backlog))(Happening(1).ended())
    backlog.close()
    assert len(kept.records) == 1
    assert "a fault of the handler" in capsys.readouterr().err


def test_the_time_of_a_record_is_when_it_was_logged_and_that_of_the_event_stands_in_it() -> None:
    told = json.loads(Json().format(record_of(Happening(1).ended(at=0))))
    assert told["tftp"]["time"] == NOON
    assert abs(datetime.fromisoformat(told["time"]).timestamp() - NOON) > 1
