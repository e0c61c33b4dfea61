"""netascii: line ends on the wire, whatever the cuts between blocks."""

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tftp.netascii import NetasciiDecoder, NetasciiEncoder, from_netascii, to_netascii

#: Text that is mostly line ends and their parts, as random octets would seldom be.
text = st.lists(st.sampled_from([b"\r", b"\n", b"\0", b"a", b"\r\n", b"\r\0", b"\xff"])).map(
    b"".join
)
anything = text | st.binary()


def cut(data: bytes, places: list[int]) -> list[bytes]:
    """`data` in pieces; empty ones among them."""
    edges = [0, *sorted(place % (len(data) + 1) for place in places), len(data)]
    return [data[start:end] for start, end in pairwise(edges)]


def decoded(pieces: list[bytes]) -> bytes:
    decoder = NetasciiDecoder()
    return b"".join([*map(decoder.decode, pieces), decoder.decode(b"", final=True)])


@pytest.mark.parametrize(
    ("local", "wire"),
    [
        (b"", b""),
        (b"one\ntwo\n", b"one\r\ntwo\r\n"),
        (b"bell\rring", b"bell\r\0ring"),
        (b"\r\n", b"\r\0\r\n"),
        (b"\n\r", b"\r\n\r\0"),
        (b"\r\r", b"\r\0\r\0"),
        (b"nul\0stays", b"nul\0stays"),
        (b"gr\xc3\xbc\xdf", b"gr\xc3\xbc\xdf"),
    ],
)
def test_a_line_end_is_cr_lf_and_a_return_is_cr_nul(local: bytes, wire: bytes) -> None:
    assert to_netascii(local) == wire
    assert from_netascii(wire) == local


@pytest.mark.parametrize(
    ("wire", "local"),
    [
        (b"a\rb", b"a\rb"),
        (b"end\r", b"end\r"),
        (b"\r\r\n", b"\r\n"),
        (b"\r\r\0", b"\r\r"),
        (b"a\nb", b"a\nb"),
        (b"\r\xff", b"\r\xff"),
    ],
)
def test_what_breaks_the_rules_is_kept_as_it_stands(wire: bytes, local: bytes) -> None:
    assert from_netascii(wire) == local


@given(anything)
def test_any_octets_come_back_as_they_were(data: bytes) -> None:
    assert from_netascii(to_netascii(data)) == data


@given(anything)
def test_what_is_sent_has_no_bare_line_end_and_is_at_most_twice_as_long(data: bytes) -> None:
    wire = to_netascii(data)
    assert len(wire) <= 2 * len(data)
    assert b"\n" not in wire.replace(b"\r\n", b"")
    assert b"\r" not in wire.replace(b"\r\n", b"").replace(b"\r\0", b"")


@given(anything, st.lists(st.integers(0, 100)))
def test_encoding_does_not_depend_on_the_cuts(data: bytes, places: list[int]) -> None:
    encoder = NetasciiEncoder()
    pieces = [encoder.encode(piece) for piece in cut(data, places)]
    assert b"".join([*pieces, encoder.encode(b"", final=True)]) == to_netascii(data)


@given(anything, st.lists(st.integers(0, 100)))
def test_decoding_does_not_depend_on_the_cuts(data: bytes, places: list[int]) -> None:
    assert decoded(cut(data, places)) == from_netascii(data)


def test_a_pair_may_be_cut_at_every_block_edge() -> None:
    wire = b"\r\nab\r\0\r\r\n\r\0\r\n\r"
    for edge in range(len(wire) + 1):
        assert decoded([wire[:edge], wire[edge:]]) == from_netascii(wire)
    assert decoded([bytes([octet]) for octet in wire]) == from_netascii(wire)


@given(anything)
def test_only_a_return_is_ever_held_back(data: bytes) -> None:
    decoder = NetasciiDecoder()
    early = decoder.decode(data)
    assert decoder.decode(b"", final=True) == (b"\r" if data.endswith(b"\r") else b"")
    assert decoder.decode(b"", final=True) == b""
    assert len(early) <= len(data)


def test_a_decoder_that_is_reset_has_forgotten_the_return() -> None:
    decoder = NetasciiDecoder()
    assert decoder.decode(b"a\r") == b"a"
    decoder.reset()
    assert decoder.decode(b"\nb", final=True) == b"\nb"


def test_an_encoder_that_is_reset_goes_on_as_before() -> None:
    encoder = NetasciiEncoder()
    assert encoder.encode(b"a\r") == b"a\r\0"
    encoder.reset()
    assert encoder.encode(b"\nb", final=True) == b"\r\nb"
