"""The retransmission timer against RFC 6298, worked out by hand."""

from itertools import accumulate
from math import inf, nan
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tftp.timers import Patience, RetransmitTimer

# Bounds so wide that they never matter.
WIDE = Patience(initial=1, floor=1e-9, ceiling=1e9)


def waits(timer: RetransmitTimer, count: int) -> list[float]:
    """The waits of a silence: each repeat doubles the next."""
    found = []
    for _ in range(count):
        found.append(timer.interval)
        timer.back_off()
    return found


def test_before_anything_is_measured_the_wait_is_the_initial_one() -> None:
    timer = RetransmitTimer(Patience(initial=0.7))
    assert timer.interval == timer.base == 0.7
    assert timer.round_trip is None


def test_the_first_round_trip_counts_for_itself_and_its_half_for_the_variance() -> None:
    # RFC 6298, section 2.2: SRTT = R, RTTVAR = R / 2, RTO = SRTT + 4 * RTTVAR.
    timer = RetransmitTimer(WIDE)
    timer.sample(0.1)
    assert timer.round_trip == pytest.approx(0.1)
    assert timer.interval == pytest.approx(0.3)


def test_later_round_trips_are_smoothed_with_an_eighth_and_a_quarter() -> None:
    # RFC 6298, section 2.3, the variance with the old SRTT:
    #   R = 0.2:   RTTVAR = 3/4 * 0.05 + 1/4 * 0.1 = 0.0625       SRTT = 0.0875 + 0.025
    #   R = 0.05:  RTTVAR = 3/4 * 0.0625 + 1/4 * 0.0625 = 0.0625  SRTT = 0.0984375 + 0.00625
    timer = RetransmitTimer(WIDE)
    timer.sample(0.1)
    timer.sample(0.2)
    assert timer.round_trip == pytest.approx(0.1125)
    assert timer.interval == pytest.approx(0.1125 + 4 * 0.0625)
    timer.sample(0.05)
    assert timer.round_trip == pytest.approx(0.1046875)
    assert timer.interval == pytest.approx(0.1046875 + 4 * 0.0625)


def test_a_steady_round_trip_brings_the_wait_down_to_it() -> None:
    timer = RetransmitTimer(WIDE)
    for _ in range(60):
        timer.sample(0.25)
    assert timer.interval == pytest.approx(0.25, rel=1e-3)


def test_silence_doubles_the_wait_and_only_a_clean_sample_ends_that() -> None:
    timer = RetransmitTimer(WIDE)
    timer.sample(0.1)
    assert waits(timer, 4) == pytest.approx([0.3, 0.6, 1.2, 2.4])
    # Karn: answers to repeats give no sample, and the doubled wait stays.
    assert timer.interval == timer.interval == pytest.approx(4.8)
    assert timer.base == pytest.approx(0.3)
    timer.sample(0.1)
    assert timer.interval == timer.base == pytest.approx(0.1 + 4 * 0.0375)


def test_a_lost_packet_on_a_fast_network_costs_some_tens_of_milliseconds() -> None:
    timer = RetransmitTimer(Patience())
    timer.sample(0.000_05)
    assert 0.01 <= timer.interval <= 0.1


def test_the_wait_never_falls_below_the_floor() -> None:
    timer = RetransmitTimer(Patience(floor=0.02))
    timer.sample(0.000_05)
    assert timer.interval == timer.base == 0.02
    timer.sample(0)
    assert timer.interval == 0.02


def test_the_wait_never_grows_beyond_the_ceiling() -> None:
    timer = RetransmitTimer(Patience(ceiling=5))
    timer.sample(100)
    assert timer.interval == timer.base == 5
    timer.back_off()
    assert timer.interval == 5


def test_an_initial_wait_above_the_ceiling_is_kept_but_never_doubled() -> None:
    timer = RetransmitTimer(Patience(initial=8, ceiling=5))
    assert waits(timer, 3) == [8, 8, 8]


def test_a_silence_of_thirty_seconds_costs_nine_packets() -> None:
    # The packet itself and eight repeats: who forges an address gets no more than that out of us.
    patience = Patience()
    sent_at = [0, *accumulate(waits(RetransmitTimer(patience), 20))]
    assert sent_at[:8] == [0, 0.5, 1.5, 3.5, 7.5, 12.5, 17.5, 22.5]
    assert sum(moment < patience.total for moment in sent_at) == 9


def test_a_negotiated_timeout_is_just_that_always() -> None:
    timer = RetransmitTimer(Patience(floor=0.02, ceiling=5), fixed=7.0)
    assert waits(timer, 3) == [7, 7, 7]
    timer.sample(0.001)
    assert timer.interval == timer.base == 7
    assert timer.round_trip == 0.001


@given(
    st.floats(0.001, 10),
    st.floats(0.001, 1),
    st.floats(1, 100),
    st.lists(st.floats(0, 1000), max_size=20),
    st.integers(0, 5000),
)
def test_whatever_happens_the_wait_stays_within_its_bounds(
    initial: float, floor: float, ceiling: float, samples: list[float], silences: int
) -> None:
    patience = Patience(initial=initial, floor=floor, ceiling=ceiling)
    timer = RetransmitTimer(patience)
    for round_trip in samples:
        timer.sample(round_trip)
        assert floor <= timer.interval <= ceiling
    before = timer.interval
    for _ in range(silences):
        timer.back_off()
        after = timer.interval
        assert before <= after <= 2 * before
        before = after
    assert before <= max(ceiling, initial)


@pytest.mark.parametrize(
    "wrong",
    [
        {"initial": 0},
        {"initial": -1},
        {"initial": nan},
        {"floor": 0},
        {"floor": 6},
        {"floor": nan},
        {"ceiling": 0.01},
        {"total": 0},
        {"dally": -1},
        {"dally": nan},
        {"retries": -1},
    ],
)
def test_a_patience_that_would_flood_or_never_wait_is_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="0"):
        Patience(**wrong)


def test_the_edges_of_patience_are_allowed() -> None:
    assert Patience(dally=0, retries=0, total=inf, floor=5, ceiling=5).retries == 0


def test_a_steady_round_trip_leaves_room_for_a_busy_peer() -> None:
    timer = RetransmitTimer(Patience(floor=0.02))
    for _ in range(60):
        timer.sample(0.25)
    assert timer.interval == pytest.approx(0.26)


def test_a_standby_waits_twice_as_long_and_never_less_than_a_fifth_of_a_second() -> None:
    standby, other = RetransmitTimer(WIDE, standby=True), RetransmitTimer(WIDE)
    assert standby.interval == other.interval, "nothing is known yet"
    for timer in (standby, other):
        timer.sample(0.5)
    assert standby.interval == 2 * other.interval
    for _ in range(60):
        standby.sample(0.001)
    assert standby.interval == 0.2
    assert RetransmitTimer(WIDE, 0.05, standby=True).interval == 0.05


def test_an_answer_soon_after_a_repeat_ends_the_doubling_but_not_twice_in_a_row() -> None:
    timer = RetransmitTimer(WIDE)
    timer.sample(0.1)
    for calm in (True, False, True, False):
        waits(timer, 3)
        timer.relax(0.2)
        assert (timer.interval == timer.base) is calm


def test_a_clean_sample_makes_an_answer_after_a_repeat_credible_again() -> None:
    timer = RetransmitTimer(WIDE)
    for _ in range(3):
        timer.sample(0.1)
        waits(timer, 3)
        timer.relax(0.2)
        assert timer.interval == timer.base


def test_an_answer_long_after_a_repeat_leaves_the_wait_as_it_is() -> None:
    timer = RetransmitTimer(WIDE)
    timer.sample(0.1)
    waits(timer, 3)
    timer.relax(0.31)
    assert timer.interval == pytest.approx(2.4)
