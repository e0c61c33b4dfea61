"""Orders: lines of words and of JSON, and what is none."""

import json

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from tests.monitor.junk import ANYTHING
from tftp.monitor.orders import KINDS, ORDERS, NonsenseError, Order, parse


@pytest.mark.parametrize(
    ("words", "members"),
    [
        ("snapshot", {"command": "snapshot"}),
        ("cancel 7 id=a1", {"command": "cancel", "transfer": 7, "id": "a1"}),
        ("cancel transfer=7", {"command": "cancel", "transfer": 7}),
        ("  drain  ", {"command": "drain"}),
        ("subscribe ended refused", {"command": "subscribe", "kinds": ["ended", "refused"]}),
        ("subscribe all rate=0.5", {"command": "subscribe", "kinds": ["all"], "rate": 0.5}),
        ("subscribe rate=2", {"command": "subscribe", "rate": 2}),
        ("limits max_blksize=512", {"command": "limits", "max_blksize": 512}),
        ("limits", {"command": "limits"}),
        ("log-level DEBUG", {"command": "log-level", "level": "debug"}),
        ("token a=b", {"command": "token", "token": "a=b"}),
        ("token  two  words=3 ", {"command": "token", "token": "two  words=3"}),
        ("drain token=secret", {"command": "drain", "token": "secret"}),
    ],
)
def test_words_and_json_mean_the_same(words: str, members: dict[str, object]) -> None:
    assert parse(words.encode()) == parse(json.dumps(members).encode())


def test_subscribe_all_and_none_mean_what_they_say() -> None:
    assert parse(b"subscribe all").members == {"kinds": frozenset(KINDS)}
    assert parse(b"subscribe none").members == {"kinds": frozenset()}


@pytest.mark.parametrize("command", ORDERS)
def test_the_usage_of_an_order_begins_with_its_name(command: str) -> None:
    assert ORDERS[command].usage.split()[0] == command


@pytest.mark.parametrize("line", [b"frobnicate id=4", b'{"command": "frobnicate", "id": "4"}'])
def test_nonsense_keeps_the_id_that_it_has(line: bytes) -> None:
    with pytest.raises(NonsenseError) as refused:
        parse(line)
    assert refused.value.id == "4"
    assert refused.value.command is None


@pytest.mark.parametrize("line", [b"help command=drain", b"frobnicate command=drain"])
def test_a_line_of_words_has_no_order_but_its_first_word(line: bytes) -> None:
    with pytest.raises(NonsenseError, match="first word"):
        parse(line)


@pytest.mark.parametrize("line", [b"{}", b'{"id": 4}'])
def test_json_without_a_command_is_told_what_it_lacks(line: bytes) -> None:
    with pytest.raises(NonsenseError, match='no "command"'):
        parse(line)


@pytest.mark.parametrize(
    ("line", "words"),
    [
        (b"subscribe all none", "kinds takes all, or none, alone"),
        (b"\xff", "this is not UTF-8: write words, or a JSON object: try help"),
        (b'{"command": ' + b"[" * 2000 + b"]" * 2000 + b"}", "an order is one flat object"),
        (b"subscribe rate=nan", "rate is a number of events a second, more than 0 and at most 4"),
        (b"subscribe rate=9", "rate is more than 0, and at most 4"),
        (b'{"command": null}', "command is the name of an order, a text: try help"),
        (b"[]", "an order is words, or a JSON object: try help"),
        (b'"drain"', "an order is words, or a JSON object: try help"),
        (b"snap\0shot", r"there is no order 'snap\x00shot': try help"),
    ],
    ids=lambda value: repr(value)[:30],
)
def test_nonsense_is_told_with_what_would_make_sense(line: bytes, words: str) -> None:
    with pytest.raises(NonsenseError) as told:
        parse(line)
    assert words in str(told.value)


def test_a_limit_of_no_transfers_is_told_in_the_order_s_own_words() -> None:
    with pytest.raises(NonsenseError, match=r"^max_transfers is at least 1$"):
        parse(b"limits max_transfers=0")


def test_a_wrong_member_keeps_the_order_s_name() -> None:
    with pytest.raises(NonsenseError) as refused:
        parse(b"cancel x id=4")
    assert (refused.value.command, refused.value.id) == ("cancel", "4")


@settings(deadline=None)
@given(ANYTHING)
@example(b"\xff")
@example(b"{}")
@example(b"null")
@example(b"cancel 99999999999999999999999")
@example("cancel \u0663".encode())
def test_anything_is_an_order_or_nonsense_that_can_be_answered(line: bytes) -> None:
    try:
        order = parse(line)
    except NonsenseError as nonsense:
        answer = (str(nonsense), nonsense.command, nonsense.id)
        assert len(json.dumps(answer)) < 1000
        assert answer[0].isprintable()
    else:
        assert order.command in ORDERS
        assert order.members.keys() <= ORDERS[order.command].members.keys()
        json.dumps([order.id])


@settings(deadline=None)
@given(st.sampled_from(list(ORDERS)), st.integers() | st.text(max_size=64))
def test_any_id_comes_back(command: str, number: int | str) -> None:
    members = {"transfer": 1, "token": "x", "level": "info"}
    form = ORDERS[command]
    line = {"command": command, "id": number}
    if form.needs:
        line[form.needs] = members[form.needs]  # type: ignore[assignment]
    try:
        assert parse(json.dumps(line).encode()) == Order(
            command, number, parse(json.dumps(line | {"id": 1}).encode()).members
        )
    except NonsenseError:
        assert isinstance(number, int)
        assert abs(number) >= 2**63
