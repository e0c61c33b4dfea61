"""Requests and events across a process border: what goes in comes out."""

from typing import Any

import pytest

from tests.watching import Witness
from tftp.errors import Aborted, PeerError, ProtocolError, Refused, TFTPError, Unreachable
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
from tftp.server.listener import Busy
from tftp.server.relay import pack_event, pack_request, unpack_event, unpack_request

REQUEST = Request(
    operation=Operation.WRITE,
    filename=b"conf\xff/\n",
    mode="netascii",
    options={"blksize": "1428", "caf\udce9": "\udcff"},
    peer=("fe80::1", 2001, 0, 3),
    local=("::1", 69, 0, 0),
)
TERMS = Terms(blksize=1428, windowsize=16, timeout=0.25, tsize=5 << 30, rollover=1)
COMMON: dict[str, Any] = {"time": 1.5, "transfer": 7, "request": REQUEST}
COUNTERS = Counters(*range(10))

EVENTS: list[Event] = [
    RequestReceived(**COMMON),
    RequestRefused(**COMMON, error=Refused("no", 3)),
    TransferStarted(**COMMON, terms=TERMS, granted={"blksize": "1428"}, size=None),
    TransferProgress(**COMMON, counters=COUNTERS, size=10, round_trip=0.25),
    TransferEnded(
        **COMMON,
        outcome=Outcome.PEER_ERROR,
        error=PeerError("stop", 4711),
        terms=TERMS,
        granted={},
        size=3,
        counters=COUNTERS,
        round_trip=None,
        duration=2.5,
    ),
]


def same(one: TFTPError | None, other: TFTPError | None) -> bool:
    return repr(one) == repr(other) and getattr(one, "code", None) == getattr(other, "code", None)


def test_a_request_comes_out_as_it_went_in() -> None:
    assert unpack_request(pack_request(REQUEST)) == REQUEST


@pytest.mark.parametrize("event", EVENTS, ids=lambda event: type(event).__name__)
def test_an_event_comes_out_as_it_went_in(event: Event) -> None:
    back = unpack_event(pack_event(event), REQUEST)
    assert type(back) is type(event)
    for name in event.__dataclass_fields__:
        one, other = getattr(event, name), getattr(back, name)
        assert same(one, other) if name == "error" else one == other


def test_an_event_can_get_another_number_on_its_way() -> None:
    for event in EVENTS:
        assert unpack_event(pack_event(event), REQUEST, number=4711).transfer == 4711


@pytest.mark.parametrize(
    "error",
    [
        Refused("full", 3),
        ProtocolError("odd"),
        Aborted("x"),
        Unreachable("y"),
        PeerError("z", 9),
    ],
    ids=lambda error: type(error).__name__,
)
def test_every_kind_of_error_keeps_its_class_words_and_code(error: TFTPError) -> None:
    event = RequestRefused(**COMMON, error=error)
    back = unpack_event(pack_event(event), REQUEST)
    assert isinstance(back, RequestRefused)
    assert same(back.error, error)


def test_an_error_of_a_class_of_its_own_arrives_as_one_that_both_ends_know() -> None:
    back = unpack_event(pack_event(RequestRefused(**COMMON, error=Busy("later"))), REQUEST)
    assert isinstance(back, RequestRefused)
    assert type(back.error) is TFTPError
    assert (back.error.message, back.error.code) == ("later", 0)


def test_a_witness_sees_the_same_events_from_either_side() -> None:
    witness = Witness()
    for event in EVENTS:
        witness(unpack_event(pack_event(event), REQUEST))
    assert witness.kinds == [type(event).__name__ for event in EVENTS]
