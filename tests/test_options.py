"""Option negotiation: what is asked, what is granted, and what a client must not put up with."""

import time
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tftp.errors import ErrorCode, ProtocolError
from tftp.options import Limits, Terms, accept, answer, offer

PLAIN = Terms()
NO_LIMITS = Limits(max_windowsize=65535)

KNOWN = ("blksize", "blksize2", "windowsize", "timeout", "utimeout", "tsize", "rollover")


def granted(requested: dict[str, str], limits: Limits = NO_LIMITS, size: int | None = 1000) -> Any:
    """The OACK alone."""
    return answer(requested, limits, size=size)[1]


# -- the terms ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "wrong",
    [
        {"blksize": 7},
        {"blksize": 0},
        {"blksize": -512},
        {"blksize": 65465},
        {"windowsize": 0},
        {"windowsize": 65536},
        {"timeout": 0},
        {"timeout": 0.009},
        {"timeout": 255.1},
        {"timeout": float("nan")},
        {"timeout": float("inf")},
        {"tsize": -1},
        {"tsize": 2**63},
        {"tsize": 10**400},
        {"rollover": 2},
        {"rollover": -1},
    ],
)
def test_terms_that_no_rfc_allows_cannot_be_made(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=f"{next(iter(wrong))} is .* to "):
        Terms(**wrong)


@pytest.mark.parametrize(
    "edge",
    [
        {"blksize": 8},
        {"blksize": 65464},
        {"windowsize": 65535},
        {"timeout": 0.01},
        {"timeout": 255},
        {"tsize": 0},
        {"tsize": 2**63 - 1},
        {"rollover": 0},
        {"rollover": 1},
    ],
)
def test_terms_at_the_edge_are_allowed(edge: dict[str, Any]) -> None:
    assert Terms(**edge) == replace(PLAIN, **edge)


def test_a_refused_term_is_named_with_its_bounds_in_full() -> None:
    with pytest.raises(ValueError, match=r"^tsize is 0 to 9223372036854775807, not -1$"):
        Terms(tsize=-1)


@pytest.mark.parametrize(
    "wrong",
    [{"max_blksize": 7}, {"max_blksize": 65465}, {"max_windowsize": 0}, {"max_windowsize": 65536}],
)
def test_limits_lie_inside_what_the_rfcs_allow(wrong: dict[str, int]) -> None:
    with pytest.raises(ValueError, match=r"is .* to "):
        Limits(**wrong)  # type: ignore[arg-type]


# -- offer ----------------------------------------------------------------------------------------


def test_a_client_that_wants_no_more_than_rfc_1350_asks_for_nothing() -> None:
    assert offer(PLAIN) == {}


def test_a_client_asks_for_each_term_by_its_option() -> None:
    wanted = Terms(blksize=1428, windowsize=16, timeout=3, tsize=0, rollover=1)
    assert offer(wanted) == {
        "tsize": "0",
        "blksize": "1428",
        "windowsize": "16",
        "timeout": "3",
        "rollover": "1",
    }


def test_rollover_0_is_worth_asking_although_it_is_what_everybody_does() -> None:
    assert offer(Terms(rollover=0)) == {"rollover": "0"}


@pytest.mark.parametrize(
    ("seconds", "options"),
    [
        (1, {"timeout": "1"}),
        (255.0, {"timeout": "255"}),
        (0.25, {"utimeout": "250000"}),
        (1.5, {"utimeout": "1500000"}),
        (0.01, {"utimeout": "10000"}),
    ],
)
def test_a_fraction_of_a_second_is_asked_in_microseconds(
    seconds: float, options: dict[str, str]
) -> None:
    assert offer(Terms(timeout=seconds)) == options


# -- answer ---------------------------------------------------------------------------------------


def test_nothing_asked_is_nothing_granted() -> None:
    assert answer({}, NO_LIMITS, size=5) == (PLAIN, {})


def test_only_what_was_asked_is_granted() -> None:
    # EDK2's shell and U-Boot's lwIP client refuse an OACK with one option more.
    assert answer({"tsize": "0"}, NO_LIMITS, size=20000) == (
        Terms(tsize=20000),
        {"tsize": "20000"},
    )


def test_the_answer_keeps_the_order_of_the_request() -> None:
    names = ["windowsize", "tsize", "timeout", "blksize", "rollover"]
    values = dict(zip(names, ["4", "0", "5", "1468", "1"], strict=True))
    for order in (names, names[::-1], sorted(names)):
        assert list(granted({name: values[name] for name in order})) == order


def test_unknown_options_alone_bring_no_oack() -> None:
    assert answer({"multicast": "", "x": "1", "": "2"}, NO_LIMITS, size=5) == (PLAIN, {})


@pytest.mark.parametrize(
    ("asked", "limit", "given"),
    [
        ("8", 65464, "8"),
        ("1468", 65464, "1468"),
        ("65464", 65464, "65464"),
        ("65464", 1468, "1468"),
        ("1468", 1468, "1468"),
        ("512", 1468, "512"),
    ],
)
def test_a_block_size_is_granted_up_to_the_limit(asked: str, limit: int, given: str) -> None:
    terms, oack = answer({"blksize": asked}, Limits(max_blksize=limit), size=5)
    assert oack == {"blksize": given}
    assert terms == Terms(blksize=int(given))


@pytest.mark.parametrize(
    ("asked", "limit", "given"),
    [("8", 65464, 8), ("1468", 65464, 1024), ("65464", 65464, 32768), ("4096", 1468, 1024)],
)
def test_blksize2_is_granted_as_a_power_of_two(asked: str, limit: int, given: int) -> None:
    terms, oack = answer({"blksize2": asked}, Limits(max_blksize=limit), size=5)
    assert oack == {"blksize2": str(given)}
    assert terms == Terms(blksize=given)


def test_of_two_options_for_one_term_the_first_is_granted() -> None:
    assert answer({"blksize": "1400", "blksize2": "1024"}, NO_LIMITS, size=5) == (
        Terms(blksize=1400),
        {"blksize": "1400"},
    )
    assert answer({"blksize2": "1400", "blksize": "1400"}, NO_LIMITS, size=5) == (
        Terms(blksize=1024),
        {"blksize2": "1024"},
    )
    assert answer({"utimeout": "250000", "timeout": "1"}, NO_LIMITS, size=5) == (
        Terms(timeout=0.25),
        {"utimeout": "250000"},
    )


def test_the_second_option_for_a_term_is_granted_where_the_first_cannot_be() -> None:
    assert granted({"blksize": "7", "blksize2": "1024"}) == {"blksize2": "1024"}
    assert granted({"utimeout": "1", "timeout": "2"}) == {"timeout": "2"}
    no_blksize = Limits(refused=frozenset({"blksize"}))
    assert granted({"blksize": "1400", "blksize2": "1400"}, no_blksize) == {"blksize2": "1024"}


@pytest.mark.parametrize(
    ("asked", "limit", "given"), [("1", 64, "1"), ("64", 64, "64"), ("65535", 64, "64")]
)
def test_a_window_is_granted_up_to_the_limit(asked: str, limit: int, given: str) -> None:
    terms, oack = answer({"windowsize": asked}, Limits(max_windowsize=limit), size=5)
    assert oack == {"windowsize": given}
    assert terms == Terms(windowsize=int(given))


def test_a_server_that_was_told_nothing_grants_64_blocks_and_any_block_size() -> None:
    assert granted({"windowsize": "65535", "blksize": "65464"}, Limits()) == {
        "windowsize": "64",
        "blksize": "65464",
    }


@pytest.mark.parametrize("text", ["1", "5", "255", "05", "000000000000000005"])
def test_a_timeout_comes_back_byte_for_byte(text: str) -> None:
    # U-Boot ends the transfer if it does not; py3tftp is known for answering "1.0".
    terms, oack = answer({"timeout": text}, NO_LIMITS, size=5)
    assert oack == {"timeout": text}
    assert terms == Terms(timeout=int(text))


@pytest.mark.parametrize(("text", "seconds"), [("10000", 0.01), ("255000000", 255)])
def test_utimeout_comes_back_too(text: str, seconds: float) -> None:
    assert answer({"utimeout": text}, NO_LIMITS, size=5) == (
        Terms(timeout=seconds),
        {"utimeout": text},
    )


@pytest.mark.parametrize("size", [0, 20000, 2**32 - 1, 2**32, 2**32 + 1, 2**63 - 1])
def test_a_size_is_told_exactly_and_in_full(size: int) -> None:
    assert answer({"tsize": "0"}, NO_LIMITS, size=size) == (Terms(tsize=size), {"tsize": str(size)})


@pytest.mark.parametrize("size", [None, 2**63, 10**19])
def test_a_size_that_is_unknown_or_absurd_is_left_out(size: int | None) -> None:
    # None: netascii, or a stream. Absurd: what a hostile client announces for its upload.
    assert answer({"tsize": "0", "blksize": "512"}, NO_LIMITS, size=size) == (
        PLAIN,
        {"blksize": "512"},
    )


@pytest.mark.parametrize("number", [0, 1])
def test_rollover_is_granted_as_asked(number: int) -> None:
    assert answer({"rollover": str(number)}, NO_LIMITS, size=5) == (
        Terms(rollover=number),
        {"rollover": str(number)},
    )


@pytest.mark.parametrize(
    ("name", "text"),
    [
        *(("blksize", text) for text in ("0", "7", "65465", "65536", "-1")),
        *(("blksize2", text) for text in ("0", "7", "65465")),
        *(("windowsize", text) for text in ("0", "65536")),
        *(("timeout", text) for text in ("0", "256")),
        *(("utimeout", text) for text in ("0", "9999", "255000001")),
        *(("rollover", text) for text in ("2", "65535")),
    ],
)
def test_a_value_out_of_range_is_left_out_and_the_rest_granted(name: str, text: str) -> None:
    assert answer({name: text, "tsize": "0"}, NO_LIMITS, size=5) == (Terms(tsize=5), {"tsize": "5"})


@pytest.mark.parametrize("name", KNOWN)
@pytest.mark.parametrize(
    "text",
    [
        *("", " ", "+9", "-9", " 9", "9 ", "9\n", "9.0", "1e3", "0x9", "9_9", "auto", "\udcff"),
        *(
            "\N{ARABIC-INDIC DIGIT NINE}",
            "\N{FULLWIDTH DIGIT NINE}",
            "\N{SUPERSCRIPT TWO}",
            "9" * 21,
            "9" * 5000,
            "0" * 5000,
        ),
    ],
    ids=lambda text: ascii(text[:12]),
)
def test_what_is_no_plain_decimal_number_is_left_out(name: str, text: str) -> None:
    assert answer({name: text}, NO_LIMITS, size=5) == (PLAIN, {})


def test_leading_zeros_are_a_number_and_come_back_as_they_were() -> None:
    assert granted({"blksize": "00000512"}) == {"blksize": "00000512"}
    assert granted({"blksize": "00065464"}, Limits(max_blksize=1468)) == {"blksize": "1468"}


def test_a_name_in_any_case_is_known_and_comes_back_as_spelled() -> None:
    assert answer({"BlkSize": "1024", "TSIZE": "0"}, NO_LIMITS, size=9) == (
        Terms(blksize=1024, tsize=9),
        {"BlkSize": "1024", "TSIZE": "9"},
    )


def test_an_option_that_is_repeated_counts_once_the_first_time() -> None:
    assert granted({"blksize": "1024", "BLKSIZE": "512", "Blksize": "8"}) == {"blksize": "1024"}
    assert granted({"blksize": "7", "BLKSIZE": "512"}) == {}


@pytest.mark.parametrize(
    ("name", "text"), [*zip(KNOWN, ["16", "16", "4", "5", "50000", "0", "1"], strict=True)]
)
def test_an_operator_can_switch_off_any_option(name: str, text: str) -> None:
    requested = {name.title(): text}
    assert granted(requested) == {name.title(): "1000" if name == "tsize" else text}
    assert granted(requested, Limits(refused=frozenset({name}))) == {}


def test_many_options_cost_little() -> None:
    requested = {f"{each}": "1" for each in range(30_000)} | {"blksize": "1024"}
    started = time.process_time()
    assert granted(requested) == {"blksize": "1024"}
    assert time.process_time() - started < 1


# -- accept ---------------------------------------------------------------------------------------

OFFERED = {"tsize": "0", "blksize": "1428", "windowsize": "16", "timeout": "3", "rollover": "1"}


def refusal(acked: dict[str, str], offered: dict[str, str] = OFFERED) -> str:
    """What the client says of an OACK that it does not take."""
    with pytest.raises(ProtocolError) as caught:
        accept(offered, acked)
    assert caught.value.code is ErrorCode.OPTION_REFUSED
    return caught.value.message


def test_what_was_granted_holds_and_the_rest_is_as_in_rfc_1350() -> None:
    assert accept(OFFERED, {}) == PLAIN
    assert accept(OFFERED, {"tsize": "123456"}) == Terms(tsize=123456)
    assert accept(OFFERED, {"blksize": "1428", "tsize": "7"}) == Terms(blksize=1428, tsize=7)
    assert accept(OFFERED, OFFERED) == Terms(
        blksize=1428, windowsize=16, timeout=3, tsize=0, rollover=1
    )


def test_a_server_may_grant_less() -> None:
    assert accept(OFFERED, {"blksize": "8", "windowsize": "1"}) == Terms(blksize=8)
    assert accept({"blksize2": "2000"}, {"blksize2": "1024"}) == Terms(blksize=1024)


@pytest.mark.parametrize(
    ("name", "text", "why"),
    [
        ("blksize", "1429", "more than the 1428 asked"),
        ("windowsize", "17", "more than the 16 asked"),
        ("timeout", "4", "not the 3 asked"),
        ("timeout", "2", "not the 3 asked"),
        ("rollover", "0", "not the 1 asked"),
    ],
)
def test_a_server_may_not_grant_more_or_something_else(name: str, text: str, why: str) -> None:
    assert refusal({name: text}) == f"server answered '{name}' with '{text}': {why}"


def test_utimeout_is_taken_as_asked_or_not_at_all() -> None:
    assert accept({"utimeout": "250000"}, {"utimeout": "250000"}) == Terms(timeout=0.25)
    assert "not the 250000 asked" in refusal({"utimeout": "250001"}, {"utimeout": "250000"})


@pytest.mark.parametrize(
    ("name", "text"),
    [
        *(("blksize", text) for text in ("0", "7")),
        ("windowsize", "0"),
        ("tsize", "9223372036854775808"),
        *(("tsize", text) for text in ("", "-1", "1.0", "4096K", "9" * 30)),
        ("timeout", "3.0"),
    ],
)
def test_a_grant_that_makes_no_sense_ends_the_transfer(name: str, text: str) -> None:
    assert refusal({name: text}).startswith(f"server answered '{name}' with '{text}': ")


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("blksize", "1428"),
        ("blksize", "7"),
        ("blksize", "65465"),
        ("windowsize", "0"),
        ("windowsize", "4"),
        ("timeout", "1"),
        ("utimeout", "1"),
        ("rollover", "1"),
        ("tsize", "99999999999999999999"),
        ("multicast", "239.255.0.1,1758,1"),
        ("x", "1"),
        ("x", ""),
    ],
)
def test_what_nobody_asked_ends_the_transfer(name: str, text: str) -> None:
    assert refusal({name: text}, {}).startswith(f"server answered '{name}' with '{text}': ")


def test_a_refusal_tells_a_bad_value_from_a_bad_name() -> None:
    assert refusal({"timeout": "3.0"}).endswith(": not a number")
    assert refusal({"timeout": "3.0"}, {}).endswith(": it was not asked")
    assert refusal({"windowsize": "4"}, {}).endswith(": it was not asked")


def test_what_nobody_asked_may_pass_where_it_changes_nothing() -> None:
    # Servers that answer with more than was asked: the size, or the defaults in words.
    assert accept({}, {"blksize": "512"}) == PLAIN
    assert accept({}, {"windowsize": "1", "tsize": "4096"}) == PLAIN
    assert accept({"tsize": "0"}, {"blksize": "512", "tsize": "9"}) == Terms(tsize=9)


def test_a_server_may_spell_a_name_in_another_case() -> None:
    assert accept({"blksize": "1428"}, {"BLKSIZE": "1428"}) == Terms(blksize=1428)
    assert accept({"BlkSize": "1428"}, {"blksize": "1024"}) == Terms(blksize=1024)


def test_of_a_grant_that_is_repeated_the_first_counts() -> None:
    assert accept(OFFERED, {"blksize": "1024", "BLKSIZE": "8"}) == Terms(blksize=1024)


def test_a_hostile_oack_is_told_of_in_one_printable_line() -> None:
    for acked in (
        {"\x1b[2J\n": "x" * 60_000},
        {"y" * 60_000: "\udcff\r\n"},
        {"blksize": "\x1b]0;title\x07"},
    ):
        message = refusal(acked)
        assert message.isprintable()
        assert len(message) < 200


# -- both ends ------------------------------------------------------------------------------------

terms = st.builds(
    Terms,
    blksize=st.integers(8, 65464),
    windowsize=st.integers(1, 65535),
    timeout=st.none() | st.integers(1, 255) | st.floats(0.01, 255),
    tsize=st.none() | st.integers(0, 2**63 - 1),
    rollover=st.sampled_from([None, 0, 1]),
)
limits = st.builds(
    Limits,
    max_blksize=st.integers(8, 65464),
    max_windowsize=st.integers(1, 65535),
    refused=st.frozensets(st.sampled_from(KNOWN)),
)
sizes = st.none() | st.integers(0, 10**20)
values = (
    st.integers(-2, 70_000).map(str)
    | st.integers(0, 10**21).map(str)
    | st.text(max_size=6)
    | st.sampled_from(["8", "0512", "250000", "1"])
)
spellings = st.sampled_from([*KNOWN, *map(str.upper, KNOWN), *map(str.title, KNOWN)])
requests = st.dictionaries(spellings | st.text(max_size=8), values, max_size=12)


@given(terms, limits, sizes)
def test_both_ends_arrive_at_the_same_terms(
    wanted: Terms, limits: Limits, size: int | None
) -> None:
    offered = offer(wanted)
    agreed, oack = answer(offered, limits, size=size)
    assert accept(offered, oack) == agreed
    assert agreed.blksize <= max(wanted.blksize, 512)
    assert agreed.windowsize <= min(wanted.windowsize, limits.max_windowsize)


@given(requests, limits, sizes)
def test_any_request_has_an_answer_that_its_client_can_accept(
    requested: dict[str, str], limits: Limits, size: int | None
) -> None:
    agreed, oack = answer(requested, limits, size=size)
    assert [name for name in requested if name in oack] == list(oack)
    assert accept(requested, oack) == agreed
    assert agreed.blksize <= max(limits.max_blksize, 512)


@given(terms, st.integers(0, 5), requests)
def test_any_oack_is_accepted_within_what_was_asked_or_refused(
    wanted: Terms, kept: int, acked: dict[str, str]
) -> None:
    offered = offer(wanted)
    everything = accept(offered, offered)
    try:
        agreed = accept(offered, dict([*offered.items()][:kept]) | acked)
    except ProtocolError:
        return
    assert agreed.blksize <= max(wanted.blksize, 512)
    assert agreed.windowsize <= wanted.windowsize
    assert agreed.timeout in (None, everything.timeout)
    assert agreed.rollover in (None, wanted.rollover)
