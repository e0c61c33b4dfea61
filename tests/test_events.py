"""What observers get, and the form in which it leaves the process."""

import json
import pickle
import re
from dataclasses import FrozenInstanceError, fields, replace
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

import tftp.events
from tftp.errors import ErrorCode, PeerError, Refused, TFTPError
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
    as_json,
    format_address,
    printable,
)
from tftp.options import Terms

REQUEST = Request(
    operation=Operation.READ,
    filename=b"boot/pxelinux.0",
    options={"tsize": "0", "blksize": "1408"},
    peer=("192.0.2.7", 49153),
    local=("192.0.2.1", 69),
)
COUNTERS = Counters(payload=1408, blocks=1, datagrams_sent=2)
TERMS = Terms(blksize=1408, tsize=20000)

EVENTS: list[Event] = [
    RequestReceived(time=1.5, transfer=7, request=REQUEST),
    RequestRefused(time=1.5, transfer=7, request=REQUEST, error=Refused("read-only server")),
    TransferStarted(
        time=1.5,
        transfer=7,
        request=REQUEST,
        terms=TERMS,
        granted={"tsize": "20000", "blksize": "1408"},
        size=20000,
    ),
    TransferProgress(
        time=1.5, transfer=7, request=REQUEST, counters=COUNTERS, size=20000, round_trip=0.001
    ),
    TransferEnded(
        time=1.5,
        transfer=7,
        request=REQUEST,
        outcome=Outcome.PEER_ERROR,
        error=PeerError("out of memory", 4242),
        terms=TERMS,
        granted={},
        size=None,
        counters=COUNTERS,
        round_trip=None,
        duration=0.25,
    ),
]

REQUEST_JSON = {
    "time": 1.5,
    "transfer": 7,
    "operation": "read",
    "file": "boot/pxelinux.0",
    "mode": "octet",
    "asked": {"tsize": "0", "blksize": "1408"},
    "peer": "192.0.2.7:49153",
    "local": "192.0.2.1:69",
}
TERMS_JSON = {
    "blksize": 1408,
    "windowsize": 1,
    "timeout": None,
    "tsize": 20000,
    "rollover": None,
}
COUNTERS_JSON = {
    "payload": 1408,
    "blocks": 1,
    "datagrams_sent": 2,
    "datagrams_received": 0,
    "octets_sent": 0,
    "octets_received": 0,
    "retransmissions": 0,
    "duplicates": 0,
    "timeouts": 0,
    "gaps": 0,
}
RECORDS: list[dict[str, Any]] = [
    {"event": "received"},
    {"event": "refused", "error": {"code": 2, "message": "read-only server"}},
    {
        "event": "started",
        "terms": TERMS_JSON,
        "granted": {"tsize": "20000", "blksize": "1408"},
        "size": 20000,
    },
    {"event": "progress", "counters": COUNTERS_JSON, "size": 20000, "round_trip": 0.001},
    {
        "event": "ended",
        "outcome": "peer-error",
        "error": {"code": 4242, "message": "out of memory"},
        "terms": TERMS_JSON,
        "granted": {},
        "size": None,
        "counters": COUNTERS_JSON,
        "round_trip": None,
        "duration": 0.25,
    },
]

each_event = pytest.mark.parametrize("event", EVENTS, ids=lambda event: type(event).__name__)


# -- the JSON form --------------------------------------------------------------------------------


@pytest.mark.parametrize(("event", "record"), [*zip(EVENTS, RECORDS, strict=True)])
def test_an_event_leaves_the_process_as_one_flat_record(
    event: Event, record: dict[str, Any]
) -> None:
    assert as_json(event) == REQUEST_JSON | record
    assert json.loads(json.dumps(as_json(event))) == REQUEST_JSON | record


def test_every_kind_of_event_has_a_name_of_its_own() -> None:
    exported = {getattr(tftp.events, name) for name in tftp.events.__all__}
    kinds = {kind for kind in exported if isinstance(kind, type) and issubclass(kind, Event)}
    assert {type(event) for event in EVENTS} == kinds - {Event}
    assert len({as_json(event)["event"] for event in EVENTS}) == len(EVENTS)


def test_a_transfer_that_went_well_has_no_error() -> None:
    ended = EVENTS[-1]
    assert isinstance(ended, TransferEnded)
    record = as_json(replace(ended, outcome=Outcome.DONE, error=None))
    assert (record["outcome"], record["error"]) == ("done", None)


HOSTILE = "\x1b[2J\r\n\0\u202e\ud800\udcff\U000e0001\"'"


@each_event
def test_hostile_words_leave_the_process_as_plain_valid_json(event: Event) -> None:
    request = Request(
        operation=Operation.WRITE,
        filename=HOSTILE.encode("utf-8", "surrogatepass"),
        mode=HOSTILE,
        options={HOSTILE: HOSTILE},
    )
    parts: dict[str, Any] = {"request": request}
    names = {part.name for part in fields(event)}
    if "error" in names:
        parts["error"] = TFTPError(HOSTILE, 65535)
    if "granted" in names:
        parts["granted"] = {HOSTILE: HOSTILE}
    line = json.dumps(as_json(replace(event, **parts)), ensure_ascii=False, allow_nan=False)
    assert line.encode("utf-8").decode("utf-8").isprintable()
    assert json.loads(line) == as_json(replace(event, **parts))


@each_event
def test_events_cross_a_process_border(event: Event) -> None:
    other = pickle.loads(pickle.dumps(event))  # noqa: S301
    assert as_json(other) == as_json(event)
    assert other.request == event.request


@each_event
def test_an_observer_cannot_change_what_the_next_one_sees(event: Event) -> None:
    with pytest.raises(FrozenInstanceError):
        event.transfer = 8  # type: ignore[misc]


# -- requests, outcomes, counters -----------------------------------------------------------------


def test_an_option_is_found_whatever_the_case_of_its_name() -> None:
    request = replace(REQUEST, options={"TSize": "0", "tsize": "9", "BLKSIZE": "512"})
    assert request.option("tsize") == "0"  # As in `options`: the first counts.
    assert request.option("blksize") == "512"
    assert request.option("windowsize") is None


def test_requests_can_be_kept_in_a_set() -> None:
    again = replace(REQUEST, options=dict(REQUEST.options))
    other = replace(REQUEST, options={})
    assert {REQUEST, again, other} == {REQUEST, other}


def test_a_transfer_counts_as_good_where_the_client_got_what_it_wanted() -> None:
    assert {outcome.value for outcome in Outcome if outcome.succeeded} == {
        "done",
        "unconfirmed",
        "probed",
    }


def test_every_counter_begins_at_zero() -> None:
    assert Counters() == Counters(*[0] * 10)


def test_a_copy_of_the_counters_stands_still() -> None:
    counters = Counters(*range(1, 11))
    copy = counters.copy()
    assert copy == counters
    counters.payload += 1000
    assert copy == Counters(*range(1, 11))


# -- printable ------------------------------------------------------------------------------------

_ESCAPE = re.compile(r"\\(?:x(..)|u(....)|U(........)|(.))")
_SHORT = {"\\": "\\", "n": "\n", "r": "\r", "t": "\t"}


def unprinted(text: str) -> bytes:
    """The name that `printable` has shown: written from its documentation, not from its code."""

    def octets(found: re.Match[str]) -> str:
        byte, *letters, short = found.groups()
        if byte:
            return bytes([int(byte, 16)]).decode("utf-8", "surrogateescape")
        if short:
            return _SHORT[short]
        return chr(int(next(filter(None, letters)), 16))

    return _ESCAPE.sub(octets, text).encode("utf-8", "surrogateescape")


names = st.binary(max_size=40) | st.text(max_size=20).map(lambda text: text.encode())


@pytest.mark.parametrize(
    ("name", "shown"),
    [
        (b"", ""),
        (b"boot/pxelinux.0", "boot/pxelinux.0"),
        (b"with space", "with space"),
        (rb"\Boot\BCD", r"\\Boot\\BCD"),
        (rb"\x41", r"\\x41"),
        (b"pxelinux.0\xff\xd1\x33*G", r"pxelinux.0\xff\xd13*G"),
        ("grüße.txt".encode(), "grüße.txt"),
        ("grüße.txt".encode("latin-1"), r"gr\xfc\xdfe.txt"),
        (b"\x1b[31mred\x1b[0m", r"\x1b[31mred\x1b[0m"),
        (b"a\nb\rc\td\0", r"a\nb\rc\td\x00"),
        (b"\x7f", r"\x7f"),
        ("\u0080\u0085\u009b2J".encode(), r"\u0080\u0085\u009b2J"),
        ("\u00a0\u00ad".encode(), r"\u00a0\u00ad"),
        ("gpj.\u202eexe".encode(), r"gpj.\u202eexe"),
        ("\u2066\u200f\u200b\ufeff\u2028".encode(), r"\u2066\u200f\u200b\ufeff\u2028"),
        ("\U000e0041".encode(), r"\U000e0041"),
        (b"\xed\xa0\x80", r"\xed\xa0\x80"),
    ],
)
def test_a_name_is_shown_as_it_is_where_a_terminal_can_bear_it(name: bytes, shown: str) -> None:
    assert printable(name) == shown


@given(names)
@example(b"\xa0")
@example(b"\xc2\xa0")
@example(rb"\xa0")
@example(b"\\\xa0")
def test_no_two_names_are_shown_alike(name: bytes) -> None:
    assert unprinted(printable(name)) == name


@given(names)
def test_a_name_is_shown_alike_whether_it_comes_as_bytes_or_as_a_word(name: bytes) -> None:
    assert printable(name.decode("ascii", "surrogateescape")) == printable(name)
    assert printable(name.decode("utf-8", "surrogateescape")) == printable(name)


def test_half_a_letter_is_told_from_a_byte() -> None:
    assert printable("\udc7f\udc80\udcff\udd00") == r"\udc7f\x80\xff\udd00"


@given(st.text(st.characters()) | st.text(st.characters(categories=["Cs", "Cc", "Cf", "Zl", "Zp"])))
@example("\ud800\udfff")
@example("\udc80a\udcff")
def test_any_text_at_all_is_shown_on_one_harmless_line(text: str) -> None:
    shown = printable(text)
    assert shown.isprintable()
    assert shown.encode("utf-8").decode() == shown


# -- addresses ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("address", "text"),
    [
        (("192.0.2.1", 69), "192.0.2.1:69"),
        (("2001:db8::1", 69, 0, 0), "[2001:db8::1]:69"),
        (("::", 6969), "[::]:6969"),
        (("fe80::1", 69, 0, 3), "[fe80::1%3]:69"),
        (("fe80::1%eth0", 69, 0, 3), "[fe80::1%eth0]:69"),
        (("", 0), ":0"),
    ],
)
def test_an_address_is_written_as_people_do(address: tuple[Any, ...], text: str) -> None:
    assert format_address(address) == text


def test_an_error_code_is_a_plain_number_in_the_record() -> None:
    record = as_json(replace(EVENTS[1], error=Refused("no")))  # type: ignore[call-arg]
    assert type(record["error"]["code"]) is int
    assert record["error"]["code"] == ErrorCode.ACCESS_VIOLATION
