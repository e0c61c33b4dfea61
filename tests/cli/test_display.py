"""Numbers in words, and the bar's manners."""

import pytest

from tftp.cli.display import Bar, Tally, count, granted_options, rate


@pytest.mark.parametrize(
    ("octets", "words"),
    [
        (0.4, "0.4 B/s"),
        (85, "85.0 B/s"),
        (99.96, "100 B/s"),
        (999, "999 B/s"),
        (999.6, "1.0 kB/s"),
        (3_400_000, "3.4 MB/s"),
        (191_000_000, "191 MB/s"),
        (2_500_000_000, "2.5 GB/s"),
        (2.5e12, "2500 GB/s"),
    ],
)
def test_a_rate_has_two_or_three_digits_and_a_unit(octets: float, words: str) -> None:
    assert rate(octets) == words


def test_one_is_not_many() -> None:
    assert [count(number, "byte") for number in (0, 1, 2)] == ["0 bytes", "1 byte", "2 bytes"]


def test_a_size_that_says_nothing_new_is_left_out() -> None:
    granted = {"tsize": "5", "blksize": "8"}
    assert granted_options(granted, 5) == ["blksize 8"]
    assert granted_options(granted, 4) == ["tsize 5", "blksize 8"]
    assert granted_options({"tsize": "5"}, 5) == []
    assert granted_options({}) == ["no options"]


def test_options_are_escaped() -> None:
    assert granted_options({"\x1b": "\x07"}) == ["\\x1b \\x07"]


def test_a_tally_keeps_the_last_numbers() -> None:
    tally = Tally()
    assert (tally.started, tally.done, tally.total) == (False, 0, None)
    tally(0, None)
    assert tally.started
    tally(5, 10)
    assert (tally.done, tally.total) == (5, 10)


def test_a_bar_that_is_closed_at_once_draws_nothing(capfd: pytest.CaptureFixture[str]) -> None:
    with Bar("x", Tally()):
        pass
    assert capfd.readouterr() == ("", "")
