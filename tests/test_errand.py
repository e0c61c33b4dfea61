"""What a client asks for, and when it asks again without: against servers played by hand."""

import io
import math
import os
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.networks import host
from tests.scripted import UNHURRIED, Calls, Door, result
from tests.wirepeer import WirePeer
from tftp.client import Client
from tftp.errand import Download, Upload, good_terms, shares
from tftp.errors import PeerError, ProtocolError, TransferTimeout
from tftp.net import kernel
from tftp.options import Terms, offer
from tftp.packets import Ack, Data, Error, OptionAck, Packet, ReadRequest, WriteRequest
from tftp.storage.ends import Origin
from tftp.timers import Patience

FILE = b"what there is" * 30

#: Seconds of silence that end a transfer, where a test waits for that.
SHORT = 0.6


@pytest.fixture
def door() -> Iterator[Door]:
    with Door() as opened:
        yield opened


@pytest.fixture
def calls() -> Iterator[Calls]:
    with Calls() as running:
        yield running


def serve_plainly(peer: WirePeer, content: bytes = FILE) -> None:
    """Send a file shorter than a block, without an OACK."""
    peer.send(Data(1, content))
    assert peer.receive() == Ack(1)


# -- what is asked --------------------------------------------------------------------------------


def test_a_download_asks_for_a_large_block_a_window_and_the_size(door: Door, calls: Calls) -> None:
    into = bytearray()
    future = calls.start(calls.client(door).get, "file", into)
    request = door.asked()
    assert isinstance(request, ReadRequest)
    assert request.options.keys() == {"blksize", "windowsize", "tsize"}
    assert request.options["tsize"] == "0"
    assert int(request.options["blksize"]) > 512
    assert 1 < int(request.options["windowsize"]) <= 64
    serve_plainly(door.port())
    result(future)


def test_an_upload_tells_its_size(door: Door, calls: Calls) -> None:
    future = calls.start(calls.client(door).put, FILE, "file")
    request = door.asked()
    assert isinstance(request, WriteRequest)
    assert request.options["tsize"] == str(len(FILE))
    peer = door.port()
    peer.send(Ack(0))
    assert peer.receive() == Data(1, FILE)
    peer.send(Ack(1))
    assert result(future).size == len(FILE)


def test_the_size_of_a_stream_is_not_told(door: Door, calls: Calls) -> None:
    reader, writer = os.pipe()
    os.write(writer, FILE)
    os.close(writer)
    with os.fdopen(reader, "rb") as stream:
        future = calls.start(calls.client(door).put, stream, "file")
        assert "tsize" not in door.asked().options
        peer = door.port()
        peer.send(Ack(0))
        assert peer.receive() == Data(1, FILE)
        peer.send(Ack(1))
        result(future)


def test_the_size_is_neither_asked_nor_told_in_netascii(door: Door, calls: Calls) -> None:
    down = calls.start(calls.client(door).get, "file", bytearray(), mode="netascii")
    assert "tsize" not in door.asked().options
    serve_plainly(door.port())
    result(down)
    up = calls.start(calls.client(door).put, b"a\n", "file", mode="netascii")
    assert "tsize" not in door.asked().options
    peer = door.port()
    peer.send(Ack(0))
    assert peer.receive() == Data(1, b"a\r\n")
    peer.send(Ack(1))
    result(up)


@pytest.mark.parametrize(
    "terms",
    [
        Terms(),
        Terms(blksize=1428),
        Terms(windowsize=4),
        Terms(timeout=3, rollover=1),
        Terms(timeout=0.25),
    ],
    ids=lambda terms: "+".join(offer(terms)) or "none",
)
def test_terms_are_asked_as_they_are_given(door: Door, calls: Calls, terms: Terms) -> None:
    future = calls.start(calls.client(door, terms=terms).get, "file", bytearray())
    assert dict(door.asked().options) == offer(terms)
    serve_plainly(door.port())
    result(future)


def test_a_size_among_the_terms_is_asked_and_told_as_it_is(door: Door, calls: Calls) -> None:
    client = calls.client(door, terms=Terms(tsize=12345))
    down = calls.start(client.get, "file", bytearray())
    assert dict(door.asked().options) == {"tsize": "0"}
    serve_plainly(door.port())
    result(down)
    calls.start(client.put, FILE, "file")
    assert dict(door.asked().options) == {"tsize": str(len(FILE))}


def test_overrides_change_only_what_they_name(door: Door, calls: Calls) -> None:
    client = calls.client(door, overrides={"blksize": 1024, "timeout": 2.0})
    future = calls.start(client.get, "file", bytearray())
    options = door.asked().options
    assert options["blksize"] == "1024"
    assert options["timeout"] == "2"
    assert int(options["windowsize"]) > 1
    serve_plainly(door.port())
    result(future)


@pytest.mark.parametrize(
    ("mtu", "address", "blksize"),
    [
        (1500, ("127.0.0.1", 69), 1468),
        (1500, ("::1", 69, 0, 0), 1448),
        (1400, ("127.0.0.1", 69), 1368),
        (9000, ("127.0.0.1", 69), 8968),
        (65536, ("127.0.0.1", 69), 65464),
        (400, ("127.0.0.1", 69), 512),
    ],
)
def test_the_block_fits_the_mtu_with_its_headers(
    mtu: int, address: tuple[str, int], blksize: int
) -> None:
    with host() as alone:
        alone.ip(f"link set lo mtu {mtu}")
        errand = Download(b"file", "octet", bytearray())
        assert alone.call(good_terms, errand, address).blksize == blksize


def test_a_block_fits_ethernet_where_there_is_no_route_to_tell() -> None:
    with host() as alone:
        errand = Download(b"file", "octet", bytearray())
        assert alone.call(good_terms, errand, ("192.0.2.1", 69)).blksize == 1468


@pytest.mark.parametrize("blksize", [8, 512, 1468, 8192, 65464])
def test_a_window_fits_into_the_receive_buffer(blksize: int) -> None:
    address = ("127.0.0.1", 69)
    down = good_terms(Download(b"file", "octet", bytearray()), address, blksize)
    assert down.blksize == blksize
    assert down.windowsize == max(1, min(64, kernel.receive_budget() // blksize))
    up = good_terms(Upload(b"file", "octet", b""), address, blksize)
    assert up.windowsize * blksize <= max(128 << 10, blksize)


def test_an_unknown_mode_is_refused_before_anything_is_sent(door: Door) -> None:
    with pytest.raises(ValueError, match="netascii"):
        Client(*door.address).get("file", bytearray(), mode="mail")
    assert door.unheard() == []


@pytest.mark.parametrize("name", ["a\0b", "x" * 5000])
def test_a_name_that_fits_into_no_request_leaves_nothing(
    door: Door, tmp_path: Path, name: str
) -> None:
    (tmp_path / "file").write_bytes(b"old")
    client = Client(*door.address)
    with pytest.raises(ValueError, match=r"NUL|octets"):
        client.get(name, tmp_path / "file")
    with pytest.raises(ValueError, match=r"NUL|octets"):
        client.put(tmp_path / "file", name)
    assert door.unheard() == []
    assert [path.read_bytes() for path in tmp_path.iterdir()] == [b"old"]


@pytest.mark.parametrize("overrides", [{"blksize": 3}, {"windowsize": 0}])
def test_terms_out_of_range_are_refused_when_the_client_is_made(overrides: dict[str, int]) -> None:
    with pytest.raises(ValueError, match=next(iter(overrides))):
        Client("127.0.0.1", overrides=overrides)


def test_names_go_out_as_utf_8_or_as_the_bytes_that_they_came_from(
    door: Door, calls: Calls
) -> None:
    names: list[tuple[str | bytes, bytes]] = [
        ("größe", "größe".encode()),
        (b"gr\xf6\xdfe", b"gr\xf6\xdfe"),
        (os.fsdecode(b"\xff\xd1"), b"\xff\xd1"),
    ]
    for name, octets in names:
        future = calls.start(calls.client(door).get, name, bytearray())
        assert door.asked().filename == octets
        serve_plainly(door.port())
        result(future)


# -- asking again without options -----------------------------------------------------------------


@pytest.mark.parametrize("code", [0, 4, 5, 8])
def test_an_error_that_may_be_about_the_options_is_asked_once_more_without(
    door: Door, calls: Calls, code: int
) -> None:
    into = bytearray()
    future = calls.start(calls.client(door).get, "file", into)
    first = door.asked()
    asked_from = door.tid
    door.port().send(Error(code, "no"))
    second = door.asked()
    assert first.options
    assert (second.filename, second.mode, dict(second.options)) == (first.filename, "octet", {})
    assert door.tid != asked_from  # A new transfer has a new TID.
    serve_plainly(door.port())
    result(future)
    assert bytes(into) == FILE
    assert door.unheard() == []


@pytest.mark.parametrize("code", [1, 2, 3, 6, 7, 99])
def test_an_error_about_the_file_is_final(door: Door, calls: Calls, code: int) -> None:
    future = calls.start(calls.client(door).get, "file", bytearray())
    door.asked_by().send(Error(code, "said the server"))
    with pytest.raises(PeerError) as caught:
        result(future)
    assert (caught.value.code, caught.value.message) == (code, "said the server")
    assert door.unheard() == []


def test_a_second_error_is_final(door: Door, calls: Calls) -> None:
    future = calls.start(calls.client(door).get, "file", bytearray())
    door.asked_by().send(Error(8, "first"))
    door.asked_by().send(Error(8, "second"))
    with pytest.raises(PeerError, match="second"):
        result(future)
    assert door.unheard() == []


def test_a_request_without_options_is_not_repeated_for_an_error(door: Door, calls: Calls) -> None:
    future = calls.start(calls.client(door, terms=Terms()).get, "file", bytearray())
    door.asked_by().send(Error(8, "no"))
    with pytest.raises(PeerError):
        result(future)
    assert door.unheard() == []


@pytest.mark.parametrize(
    "granted",
    [
        {"blksize": "1025"},
        {"windowsize": "5"},
        {"rollover": "1"},
        {"blksize": "many"},
        {"never-heard-of": "1"},
    ],
    ids=lambda granted: next(iter(granted)) + next(iter(granted.values())),
)
def test_an_oack_that_grants_what_it_must_not_is_refused_and_asked_again(
    door: Door, calls: Calls, granted: dict[str, str]
) -> None:
    into = bytearray()
    client = calls.client(door, terms=Terms(blksize=1024, windowsize=4))
    future = calls.start(client.get, "file", into)
    peer = door.asked_by()
    peer.send(OptionAck(granted))
    refusal = peer.receive()
    assert isinstance(refusal, Error)
    assert refusal.code == 8
    assert dict(door.asked().options) == {}
    serve_plainly(door.port())
    result(future)
    assert bytes(into) == FILE


def test_an_oack_in_answer_to_no_options_is_the_server_s_fault(door: Door, calls: Calls) -> None:
    future = calls.start(calls.client(door, terms=Terms()).get, "file", bytearray())
    peer = door.asked_by()
    peer.send(OptionAck({"blksize": "1024"}))
    assert isinstance(peer.receive(), Error)
    with pytest.raises(ProtocolError):
        result(future)
    assert door.unheard() == []


@pytest.mark.parametrize("code", [0, 8])
def test_nothing_is_asked_again_once_data_has_come(door: Door, calls: Calls, code: int) -> None:
    future = calls.start(calls.client(door).get, "file", bytearray())
    peer = door.asked_by()
    peer.send(Data(1, bytes(512)))
    assert peer.receive() == Ack(1)
    peer.send(Error(code, "broken"))
    with pytest.raises(PeerError):
        result(future)
    assert door.unheard() == []


def test_nothing_is_asked_again_once_data_was_sent(door: Door, calls: Calls) -> None:
    future = calls.start(calls.client(door).put, FILE, "file")
    peer = door.asked_by()
    peer.send(Ack(0))
    assert peer.receive() == Data(1, FILE)
    peer.send(Error(0, "broken"))
    with pytest.raises(PeerError):
        result(future)
    assert door.unheard() == []


def test_silence_to_options_is_answered_by_asking_without(door: Door, calls: Calls) -> None:
    into = bytearray()
    patience = Patience(initial=8.0, total=2.0)
    future = calls.start(calls.client(door, patience=patience).get, "file", into)
    first, second = door.asked(), door.asked()
    assert first.options
    assert not second.options
    serve_plainly(door.port())
    result(future)
    assert bytes(into) == FILE


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        (Error(8, "no options here"), "no options here"),
        (OptionAck({"blksize": "65465"}), "server answered 'blksize' with '65465'"),
        (Data(1, bytes(513)), "DATA of 513 octets"),
        (Ack(0), "ACK is not legal here"),
    ],
)
def test_silence_after_an_answer_that_was_no_good_tells_of_that_answer(
    door: Door, calls: Calls, answer: Packet, words: str
) -> None:
    # Else the last words are of a silence, about a server that did answer.
    patience = Patience(total=SHORT)
    future = calls.start(calls.client(door, patience=patience).get, "file", bytearray())
    door.asked_by().send(answer)
    with pytest.raises(
        TransferTimeout, match=r"for \d\.\d+ s .* without options; with them: "
    ) as caught:
        result(future)
    assert words in caught.value.message


def test_a_server_that_is_heard_gets_all_of_the_patience(door: Door, calls: Calls) -> None:
    # The share of the first answer is over while the transfer waits for block 2.
    into = bytearray()
    patience = Patience(initial=8.0, floor=8.0, ceiling=8.0, total=2.4)
    future = calls.start(calls.client(door, patience=patience).get, "file", into)
    peer = door.asked_by()
    peer.send(Data(1, bytes(512)))
    assert peer.receive() == Ack(1)
    assert peer.silent(1.3)
    peer.send(Data(2, b""))
    assert result(future).counters.payload == 512
    assert door.unheard() == []


def test_both_attempts_together_take_no_longer_than_the_patience(door: Door, calls: Calls) -> None:
    start = time.monotonic()
    patience = Patience(initial=8.0, total=SHORT)
    future = calls.start(calls.client(door, patience=patience).get, "file", bytearray())
    with pytest.raises(TransferTimeout, match=r"for 0\.6"):
        result(future)
    assert SHORT <= time.monotonic() - start < SHORT + 7.0  # And not the eight of the first wait.
    assert [bool(one.options) for one in door.unheard()] == [True, False]


@pytest.mark.parametrize(
    ("retries", "asked"),
    [
        (0, [True]),
        (1, [True, False]),
        (2, [True, True, False]),
        (3, [True, True, False, False]),
    ],
)
def test_the_repeats_are_shared_between_both_attempts(
    door: Door, calls: Calls, retries: int, asked: list[bool]
) -> None:
    patience = Patience(initial=0.4, ceiling=0.4, retries=retries)
    future = calls.start(calls.client(door, patience=patience).get, "file", bytearray())
    with pytest.raises(TransferTimeout):
        result(future)
    assert [bool(one.options) for one in door.unheard()] == asked


def test_a_share_of_repeats_lasts_as_long_as_their_waits() -> None:
    patience = Patience(initial=0.5, ceiling=5.0, total=math.inf, retries=5)
    wait, rest = shares(patience, None)
    assert wait == pytest.approx(0.5 + 1.0 + 2.0)
    assert rest is not None
    assert (rest.retries, rest.total) == (2, math.inf)
    assert shares(patience, 3.0)[0] == pytest.approx(9.0)


def test_of_repeats_and_total_the_shorter_counts() -> None:
    wait, rest = shares(Patience(initial=0.5, total=4.0, retries=9), None)
    assert wait == 2.0
    assert rest is not None
    assert rest.total == 2.0


# What was not read yet is there for the second request.


@pytest.mark.parametrize("kind", ["file", "memory", "pipe", "path"])
def test_a_second_request_sends_all_of_the_file(
    door: Door, calls: Calls, tmp_path: Path, kind: str
) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"before" + FILE)
    reader, writer = os.pipe()
    os.write(writer, FILE)
    os.close(writer)
    with path.open("rb") as file, os.fdopen(reader, "rb") as pipe:
        file.seek(len(b"before"))
        memory = io.BytesIO(b"before" + FILE)
        memory.seek(len(b"before"))
        sources: dict[str, Origin] = {"file": file, "memory": memory, "pipe": pipe, "path": path}
        future = calls.start(calls.client(door).put, sources[kind], "file")
        door.asked_by().send(Error(8, "no"))
        peer = door.asked_by()
        peer.send(Ack(0))
        expected = b"before" + FILE if kind == "path" else FILE
        assert peer.receive() == Data(1, expected)
        peer.send(Ack(1))
        assert result(future).counters.payload == len(expected)


def test_a_second_request_gets_a_file_as_whole_as_the_first_would(
    door: Door, calls: Calls, tmp_path: Path
) -> None:
    future = calls.start(calls.client(door).get, "file", tmp_path / "file")
    door.asked_by().send(Error(8, "no"))
    serve_plainly(door.asked_by())
    result(future)
    assert (tmp_path / "file").read_bytes() == FILE
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_a_negotiated_timeout_is_kept_in_the_second_attempt(door: Door, calls: Calls) -> None:
    client = calls.client(door, terms=Terms(timeout=0.1), patience=UNHURRIED)
    future = calls.start(client.get, "file", bytearray())
    door.asked_by().send(Error(8, "no"))
    assert door.asked() == door.asked() == door.asked()  # Not after 8 s, as it would else be.
    serve_plainly(door.port())
    result(future)
