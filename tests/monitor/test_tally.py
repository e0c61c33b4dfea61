"""The tally: bounded rows, exact sums, and what Space-Saving promises."""

from collections import Counter
from collections.abc import Hashable

from hypothesis import given, settings
from hypothesis import strategies as st

from tftp.monitor.tally import Tally


class Row:
    def __init__(self, key: Hashable, missed: int) -> None:
        self.key = key
        self.missed = missed
        self.requests = 0
        self.octets = 0

    def absorb(self, other: "Row") -> None:
        self.requests += other.requests
        self.octets += other.octets


def counted(capacity: int, keys: list[int]) -> Tally[Row]:
    tally: Tally[Row] = Tally(capacity, Row)
    for key in keys:
        tally.count(key).octets += key
    return tally


KEYS = st.lists(st.integers(0, 12), max_size=200)
CAPACITIES = st.integers(1, 8)


@settings(deadline=None)
@given(CAPACITIES, KEYS)
def test_rows_and_others_together_are_exact(capacity: int, keys: list[int]) -> None:
    tally = counted(capacity, keys)
    rows = [*tally.rows(), tally.others]
    assert sum(row.requests for row in rows) == len(keys)
    assert sum(row.octets for row in rows) == sum(keys)


@settings(deadline=None)
@given(CAPACITIES, KEYS)
def test_there_are_never_more_rows_than_the_capacity(capacity: int, keys: list[int]) -> None:
    tally = counted(capacity, keys)
    assert len(tally) == len(tally.rows()) == min(capacity, len(set(keys)))


@settings(deadline=None)
@given(CAPACITIES, KEYS)
def test_a_row_missed_no_more_than_it_says(capacity: int, keys: list[int]) -> None:
    true = Counter(keys)
    for row in counted(capacity, keys).rows():
        assert row.requests <= true[row.key] <= row.requests + row.missed  # type: ignore[index]
        assert row.missed <= len(keys) / capacity


@settings(deadline=None)
@given(CAPACITIES, KEYS)
def test_whoever_has_more_than_its_share_has_a_row(capacity: int, keys: list[int]) -> None:
    known = {row.key for row in counted(capacity, keys).rows()}
    for key, count in Counter(keys).items():
        assert key in known or count <= len(keys) / capacity


@settings(deadline=None)
@given(KEYS)
def test_a_table_that_was_never_full_is_exact(keys: list[int]) -> None:
    tally = counted(13, keys)
    assert {row.key: row.requests for row in tally.rows()} == Counter(keys)
    assert tally.others.requests == 0
    assert all(row.missed == 0 for row in tally.rows())


def test_the_rows_with_the_most_requests_come_first() -> None:
    assert [row.key for row in counted(3, [1, 2, 2, 3, 3, 3]).rows()] == [3, 2, 1]


def test_a_flood_of_new_names_does_not_displace_a_busy_one() -> None:
    keys = [number if number % 3 else -1 for number in range(30_000)]
    busy = counted(16, keys).rows()[0]
    assert (busy.key, busy.requests) == (-1, 10_000)
