"""The codecs: against vectors, against each other, and against whatever a network can bring."""

import copy
import pickle
import tomllib
from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from tftp.errors import DecodeError, ErrorCode, PeerError, ProtocolError, Refused
from tftp.packets import (
    MAX_DATAGRAM,
    MAX_REQUEST,
    Ack,
    Data,
    Error,
    Opcode,
    OptionAck,
    Packet,
    ReadRequest,
    WriteRequest,
    decode,
    header,
)

VECTORS = tomllib.loads(
    (Path(__file__).parent.parent / "fixtures/vectors/packets.toml").read_text("utf-8")
)["vector"]


def vectors(key: str) -> list[Any]:
    return [pytest.param(each, id=each["about"]) for each in VECTORS if key in each]


def word(text: str) -> str:
    """An ASCII word as the codec gives it, for a vector's, where a letter is an octet."""
    return text.encode("latin-1").decode("ascii", "surrogateescape")


def words(options: dict[str, str]) -> dict[str, str]:
    return {word(name): word(value) for name, value in options.items()}


def value(packet: list[Any]) -> Packet:
    """The packet that a vector tells of."""
    match packet:
        case ["RRQ", filename, mode, options]:
            return ReadRequest(filename.encode("latin-1"), word(mode), words(options))
        case ["WRQ", filename, mode, options]:
            return WriteRequest(filename.encode("latin-1"), word(mode), words(options))
        case ["DATA", block, payload]:
            return Data(block, payload.encode("latin-1"))
        case ["ACK", block]:
            return Ack(block)
        case ["ERROR", code, message]:
            return Error(code, message.encode("latin-1").decode("utf-8", "surrogateescape"))
        case ["OACK", options]:
            return OptionAck(words(options))
    raise ValueError(packet)


def in_order(packet: Packet) -> list[tuple[str, str]]:
    """The options of a packet; dictionaries are equal whatever their order, packets are not."""
    return list(getattr(packet, "options", {}).items())


# -- vectors --------------------------------------------------------------------------------------


@pytest.mark.parametrize("vector", vectors("packet"))
def test_a_vector_decodes_to_its_packet(vector: dict[str, Any]) -> None:
    packet = value(vector["packet"])
    decoded = decode(bytes.fromhex(vector["hex"]))
    assert decoded == packet
    assert in_order(decoded) == in_order(packet)


@pytest.mark.parametrize("vector", vectors("packet"))
def test_a_packet_encodes_to_its_vector_and_no_octet_more(vector: dict[str, Any]) -> None:
    packet = value(vector["packet"])
    assert packet.encode().hex() == bytes.fromhex(vector.get("again", vector["hex"])).hex()


@pytest.mark.parametrize("vector", vectors("error"))
def test_octets_that_are_no_packet_are_refused_with_a_reason(vector: dict[str, Any]) -> None:
    with pytest.raises(DecodeError, match=vector["error"]) as caught:
        decode(bytes.fromhex(vector["hex"]))
    assert caught.value.code is ErrorCode.ILLEGAL_OPERATION


def test_the_vectors_cover_every_packet() -> None:
    kinds = {vector["packet"][0] for vector in VECTORS if "packet" in vector}
    assert kinds == {opcode.name for opcode in Opcode}
    assert len({vector["about"] for vector in VECTORS}) == len(VECTORS)


# -- round trips ----------------------------------------------------------------------------------

octets = st.lists(st.integers(1, 255), max_size=40).map(bytes)  # all that a word can hold
ascii_words = octets.map(lambda word: word.decode("ascii", "surrogateescape"))
messages = octets.map(lambda text: text.decode("utf-8", "surrogateescape"))
numbers = st.integers(0, 65535)
options = st.dictionaries(ascii_words.filter(bool), ascii_words, max_size=8)
packets: st.SearchStrategy[Packet] = st.one_of(
    st.builds(ReadRequest, octets, ascii_words, options),
    st.builds(WriteRequest, octets, ascii_words, options),
    st.builds(Data, numbers, st.binary(max_size=2000)),
    st.builds(Ack, numbers),
    st.builds(Error, numbers, messages),
    st.builds(OptionAck, options),
)
#: Octets that look like a packet for as long as possible.
almost_packets = st.builds(
    lambda opcode, parts: bytes([0, opcode]) + b"".join(parts),
    st.integers(0, 7),
    st.lists(
        st.sampled_from([b"\0", b"\0\0", b"file\0octet\0", b"blksize\0", b"512\0", b"BLKSIZE\0"])
        | st.binary(max_size=6)
    ),
)


@given(packets)
@example(OptionAck({}))
@example(ReadRequest(b"", "", {"a": ""}))
def test_any_packet_comes_back_as_it_was(packet: Packet) -> None:
    decoded = decode(packet.encode())
    assert decoded == packet
    assert in_order(decoded) == in_order(packet)


@given(st.binary(max_size=600) | almost_packets)
def test_any_octets_are_a_packet_or_a_decode_error(datagram: bytes) -> None:
    try:
        packet = decode(datagram)
    except DecodeError:
        return
    again = packet.encode()
    assert decode(again) == packet
    assert in_order(decode(again)) == in_order(packet)
    assert decode(again).encode() == again
    assert len(again) <= len(datagram) + 1  # At the most, the NUL that a message lacked.


@given(st.binary(max_size=600) | almost_packets)
def test_the_header_agrees_with_the_packet(datagram: bytes) -> None:
    try:
        opcode, number = header(datagram)
    except DecodeError:
        with pytest.raises(DecodeError):
            decode(datagram)
        return
    assert opcode == datagram[0] << 8 | datagram[1]
    if opcode in (Opcode.DATA, Opcode.ACK):
        packet = decode(datagram)
        assert isinstance(packet, Data | Ack)
        assert packet.block == number
    elif opcode == Opcode.ERROR:
        packet = decode(datagram)
        assert isinstance(packet, Error)
        assert packet.code == number


@given(packets)
def test_a_receive_buffer_is_decoded_like_bytes_and_not_kept(packet: Packet) -> None:
    buffer = bytearray(packet.encode())
    decoded, viewed = decode(buffer), decode(memoryview(buffer))
    assert header(memoryview(buffer)) == header(bytes(buffer))
    buffer[:] = bytes(len(buffer))
    assert decoded == viewed == packet


# -- the edges ------------------------------------------------------------------------------------


def test_an_oack_that_grants_nothing_has_a_header_like_any_other() -> None:
    assert header(b"\0\6") == (Opcode.OACK, 0)
    assert header(memoryview(b"\0\6")) == (Opcode.OACK, 0)


def test_a_block_of_the_largest_size_fits_the_largest_datagram() -> None:
    packet = Data(1, bytes(65464))
    assert len(packet.encode()) == MAX_DATAGRAM
    assert decode(packet.encode()) == packet


def test_a_request_up_to_the_longest_path_is_understood() -> None:
    longest = ReadRequest(b"n" * (MAX_REQUEST - 2 - 1 - len("octet\0")))
    assert len(longest.encode()) == MAX_REQUEST
    assert decode(longest.encode()) == longest


@pytest.mark.parametrize("kind", [ReadRequest, WriteRequest])
def test_a_longer_request_is_refused_unread_and_never_sent(
    kind: type[ReadRequest | WriteRequest],
) -> None:
    head = kind(b"f").encode()
    with pytest.raises(DecodeError, match="4097 octets"):
        decode(head + bytes(MAX_REQUEST + 1 - len(head)))
    assert decode(head + bytes(MAX_REQUEST - len(head))) == kind(b"f")
    with pytest.raises(ValueError, match="octets"):
        kind(b"f" * MAX_REQUEST).encode()


def test_thousands_of_options_are_refused_before_they_are_looked_at() -> None:
    hostile = b"\0\1f\0octet\0" + b"".join(b"%x\0\0" % each for each in range(11_000))
    assert len(hostile) > 60_000
    with pytest.raises(DecodeError):
        decode(hostile)


@pytest.mark.parametrize(
    "packet",
    [
        ReadRequest(b"a\0b"),
        WriteRequest(b"a", "oc\0tet"),
        ReadRequest(b"a", "octet", {"blk\0size": "512"}),
        ReadRequest(b"a", "octet", {"blksize": "5\x0012"}),
        OptionAck({"tsize\0": "0"}),
        Error(0, "a\0b"),
    ],
)
def test_a_nul_inside_a_word_is_never_sent(packet: Packet) -> None:
    with pytest.raises(ValueError, match="holds a NUL"):
        packet.encode()


@pytest.mark.parametrize("packet", [ReadRequest(b"a", "octet", {"": "1"}), OptionAck({"": "1"})])
def test_an_option_without_a_name_is_never_sent(packet: Packet) -> None:
    with pytest.raises(ValueError, match="needs a name"):
        packet.encode()


@pytest.mark.parametrize("packet", [ReadRequest(b"a", "öctet"), OptionAck({"größe": "1"})])
def test_a_word_that_is_not_ascii_is_never_sent(packet: Packet) -> None:
    with pytest.raises(ValueError, match="ascii"):
        packet.encode()


@given(packets)
def test_a_packet_never_changes(packet: Packet) -> None:
    before = repr(packet)
    for name in packet.__match_args__:
        with pytest.raises(AttributeError, match=f"'{name}' stays"):
            setattr(packet, name, None)
        with pytest.raises(AttributeError, match=f"'{name}' stays"):
            delattr(packet, name)
    with pytest.raises(AttributeError, match="frozen"):
        packet.more = 1
    assert repr(packet) == before


@given(packets)
def test_a_packet_survives_a_copy_and_a_pickle(packet: Packet) -> None:
    pickled = pickle.loads(pickle.dumps(packet))  # noqa: S301
    for again in (copy.copy(packet), copy.deepcopy(packet), pickled):
        assert again == packet
        assert hash(again) == hash(packet)
        assert type(again) is type(packet)


def test_a_packet_shows_its_fields() -> None:
    assert repr(Data(7, b"x")) == "Data(block=7, payload=b'x')"
    assert repr(OptionAck()) == "OptionAck(options={})"
    assert eval(repr(ReadRequest(b"f"))) == ReadRequest(b"f", "octet", {})  # noqa: S307


def test_packets_of_two_kinds_are_never_equal() -> None:
    alike: set[Packet] = {ReadRequest(b"f"), WriteRequest(b"f"), Ack(1), Data(1), Error(1)}
    assert len(alike) == 5


def test_requests_that_differ_in_their_options_only_are_told_apart_in_a_set() -> None:
    plain, asking = ReadRequest(b"f"), ReadRequest(b"f", "octet", {"tsize": "0"})
    assert {plain, asking, ReadRequest(b"f", "octet", {"tsize": "0"})} == {plain, asking}


# -- the ERROR packet -----------------------------------------------------------------------------


def test_an_error_is_told_with_its_code_and_its_words() -> None:
    assert Error.of(Refused("read-only server")) == Error(2, "read-only server")
    assert Error.of(PeerError("", 4242)) == Error(4242, "error code 4242")


def test_the_words_of_an_error_without_any_are_those_of_its_code() -> None:
    assert Error(1).text == "file not found"
    assert Error(1, "no such boot image").text == "no such boot image"
    assert Error(77).text == "error code 77"


@pytest.mark.parametrize(
    "message",
    ["a\0b", "\ud800", "caf\udce9", "x" * 100_000, "\N{PILE OF POO}" * 100_000],
)
def test_whatever_went_wrong_can_be_told_in_one_small_packet(message: str) -> None:
    packet = Error.of(ProtocolError(message))
    assert len(packet.encode()) <= 4 + 4 * 400 + 1 <= MAX_REQUEST
    assert decode(packet.encode()) == packet


def test_a_word_in_another_script_reaches_the_peer_unharmed() -> None:
    assert Error.of(Refused("größer als die Platte", 3)).encode() == (
        b"\0\5\0\3" + "größer als die Platte".encode() + b"\0"
    )
