"""Block numbers on the wire and absolute ones, above all where 65535 is followed by 0 or by 1."""

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from tftp.blocks import MAX_WIRE, absolute, octets_on_wire, on_wire

rollovers = st.sampled_from([0, 1])
numbers = st.integers(0, MAX_WIRE)


@pytest.mark.parametrize(
    ("block", "to_zero", "to_one"),
    [
        (0, 0, 0),
        (1, 1, 1),
        (65534, 65534, 65534),
        (65535, 65535, 65535),
        (65536, 0, 1),
        (65537, 1, 2),
        (131070, 65534, 65535),
        (131071, 65535, 1),
        (131072, 0, 2),
        (65535 * 65536, 0, 65535),
    ],
)
def test_block_65535_is_followed_by_0_or_by_1(block: int, to_zero: int, to_one: int) -> None:
    assert on_wire(block) == on_wire(block, 0) == to_zero
    assert on_wire(block, 1) == to_one


@pytest.mark.parametrize(
    ("number", "near", "rollover", "block"),
    [
        (0, 65535, 0, 65536),
        (1, 65535, 1, 65536),
        # A duplicate of the block before the wrap, and of the one after it.
        (65535, 65536, 0, 65535),
        (65535, 65536, 1, 65535),
        (0, 65537, 0, 65536),
        (1, 65537, 1, 65536),
        # The second wrap of a long file.
        (0, 131071, 0, 131072),
        (1, 131070, 1, 131071),
        (65535, 131072, 0, 131071),
    ],
)
def test_a_number_means_the_block_that_is_near(
    number: int, near: int, rollover: int, block: int
) -> None:
    assert absolute(number, near, rollover) == block


def test_a_wrap_to_0_is_what_is_meant_where_nothing_is_said() -> None:
    assert absolute(1, 65535) == absolute(1, 65535, 0) == 65537


@given(block=st.integers(1, 2**40), offset=st.integers(-31_999, 31_999), rollover=rollovers)
@example(block=1, offset=31_999, rollover=1)
@example(block=65_535, offset=-31_999, rollover=1)
@example(block=65_536, offset=-31_999, rollover=0)
def test_a_block_within_half_a_wrap_is_found_again(block: int, offset: int, rollover: int) -> None:
    near = block + offset
    assert absolute(on_wire(block, rollover), near, rollover) == block


@given(block=st.integers(0, 32_000), rollover=rollovers)
def test_block_0_is_found_again_from_the_first_blocks(block: int, rollover: int) -> None:
    assert absolute(0, block, rollover) == 0


@given(near=st.integers(1, 2**40))
def test_with_rollover_1_number_0_is_only_ever_the_very_first(near: int) -> None:
    assert absolute(0, near, 1) == 0
    assert on_wire(near, 1) != 0


@given(number=numbers, near=st.integers(0, 2**40), rollover=rollovers)
@example(number=65_535, near=3, rollover=1)
@example(number=65_535, near=32_767, rollover=1)
@example(number=65_535, near=0, rollover=0)
def test_no_number_is_taken_for_a_block_that_has_another(
    number: int, near: int, rollover: int
) -> None:
    block = absolute(number, near, rollover)
    assert block < 0 or on_wire(block, rollover) == number


@given(number=numbers, near=st.integers(40_000, 2**40))
def test_of_all_blocks_with_a_number_the_closest_is_meant(number: int, near: int) -> None:
    assert abs(absolute(number, near, 0) - near) <= 0x8000
    if number:
        assert abs(absolute(number, near, 1) - near) <= 0x8000


@given(first=st.integers(0, 2**40), count=st.integers(1, 300), rollover=rollovers)
@example(first=65_535, count=1, rollover=0)
@example(first=65_535, count=1, rollover=1)
@example(first=65_535, count=2, rollover=0)
@example(first=65_535, count=2, rollover=1)
@example(first=131_070, count=2, rollover=1)
@example(first=1, count=65_535, rollover=0)
@example(first=1, count=65_535, rollover=1)
@example(first=65_535, count=65_535, rollover=0)
@example(first=65_535, count=65_535, rollover=1)
def test_many_numbers_in_two_strokes_are_those_of_each_block(
    first: int, count: int, rollover: int
) -> None:
    each = [on_wire(first + index, rollover).to_bytes(2, "big") for index in range(count)]
    high, low = octets_on_wire(first, count, rollover)
    assert list(zip(high, low, strict=True)) == [tuple(octets) for octets in each]
