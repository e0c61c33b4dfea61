"""What the full-screen view knows, and what its keys mean."""

import pytest

from tests.monitor.happening import NOON, Happening
from tests.monitor.staging import Stage
from tftp.events import Operation, Outcome
from tftp.monitor.top import SORTS, Order, fraction, idle, rate, seconds_left

HERE, THERE = "192.0.2.1:6970", "192.0.2.2:6970"


@pytest.fixture
def stage() -> Stage:
    """A view of one server that is connected."""
    stage = Stage(HERE)
    stage.connect()
    return stage


@pytest.fixture
def two() -> Stage:
    """A view of two servers that are connected."""
    stage = Stage(HERE, THERE)
    stage.connect(HERE)
    stage.connect(THERE)
    return stage


def run(stage: Stage, *numbers: int, server: str = HERE, **request: object) -> None:
    """Have transfers with these numbers begin, one second after another."""
    for number in numbers:
        happening = Happening(number, b"file %d" % number, **request)  # type: ignore[arg-type]
        stage.tell(happening.received(number), happening.started(number), server=server)


def shown(stage: Stage) -> list[int]:
    return [row["transfer"] for _, row in stage.top.rows()]


def chosen(stage: Stage) -> int | None:
    rows = stage.top.rows()
    place = stage.top.cursor(rows)
    return None if place is None else int(rows[place][1]["transfer"])


def test_transfers_are_shown_oldest_first(stage: Stage) -> None:
    run(stage, 3, 1, 2)
    assert shown(stage) == [1, 2, 3]


def test_a_transfer_that_has_ended_is_gone(stage: Stage) -> None:
    run(stage, 1, 2)
    stage.tell(Happening(1).ended())
    assert shown(stage) == [2]


@pytest.mark.parametrize(
    ("sort", "order"),
    [
        ("age", [1, 2, 3]),
        ("rate", [2, 3, 1]),
        ("done", [3, 2, 1]),
        ("left", [3, 2, 1]),
        ("round trip", [1, 2, 3]),
        ("repeats", [2, 1, 3]),
        ("client", [3, 1, 2]),
        ("file", [2, 3, 1]),
    ],
)
def test_each_key_sorts_what_matters_most_to_the_top(
    stage: Stage, sort: str, order: list[int]
) -> None:
    for number, name, host, payload, at, repeats in (
        (1, b"c", "192.0.2.6", 10, 11.0, 3),
        (2, b"a", "192.0.2.7", 3000, 12.0, 7),
        (3, b"b", "192.0.2.5", 4000, 13.0, 0),
    ):
        happening = Happening(number, name, host)
        stage.tell(happening.received(number), happening.started(number))
        # The second has had less time for what it did.
        stage.tell(happening.progress(0, at - (1 if number == 2 else 5)))
        stage.tell(happening.progress(payload, at, retransmissions=repeats))
    stage.totals(at=13.0)
    stage.top.sort = sort
    assert shown(stage) == order
    stage.press("R")
    if sort != "round trip":  # Equal ones keep their order.
        assert shown(stage) == order[::-1]


def test_the_sort_keys_go_round(stage: Stage) -> None:
    seen = []
    for _ in SORTS:
        seen.append(stage.top.sort)
        stage.press("s")
    assert seen == list(SORTS)
    assert stage.top.sort == "age"
    stage.press("S")
    assert stage.top.sort == "file"


def test_the_cursor_begins_at_the_top_and_stays_within(stage: Stage) -> None:
    assert chosen(stage) is None
    stage.press("down")
    run(stage, *range(1, 31))
    assert chosen(stage) == 1
    for key, number in (
        ("up", 1),
        ("down", 2),
        ("j", 3),
        ("k", 2),
        ("page down", 12),
        ("end", 30),
        ("down", 30),
        ("page up", 20),
        ("home", 1),
    ):
        stage.press(key)
        assert chosen(stage) == number, key


def test_the_cursor_stays_with_its_transfer_when_the_order_changes(stage: Stage) -> None:
    run(stage, 1, 2, 3)
    stage.press("down", "R")
    assert chosen(stage) == 2
    stage.tell(Happening(3).ended())
    assert shown(stage) == [2, 1]
    assert chosen(stage) == 2


def test_the_cursor_stays_in_its_place_when_its_transfer_ends(stage: Stage) -> None:
    run(stage, 1, 2, 3)
    stage.press("down")
    stage.tell(Happening(2).ended())
    assert chosen(stage) == 3
    stage.tell(Happening(3).ended())
    assert chosen(stage) == 1


def test_cancel_asks_first_and_names_what_it_would_cancel(stage: Stage) -> None:
    run(stage, 1, 2, operation=Operation.WRITE)
    stage.press("down")
    assert stage.press("c") == []
    assert stage.top.question is not None
    assert stage.top.question.text == "cancel put file 2 of 192.0.2.7:49152?"
    assert stage.press("y") == [Order(HERE, "cancel", {"transfer": 2})]
    assert stage.top.question is None


@pytest.mark.parametrize("key", ["n", "escape", "enter", "c", "q"])
def test_every_key_but_yes_lets_it_be(stage: Stage, key: str) -> None:
    run(stage, 1)
    assert stage.press("c", key) == []
    assert stage.top.question is None
    assert not stage.top.over
    assert stage.top.notice is not None
    assert stage.top.notice.text == "nothing was done"


def test_a_question_is_about_the_transfer_that_was_chosen_when_it_was_asked(stage: Stage) -> None:
    run(stage, 1, 2)
    stage.press("c")
    stage.tell(Happening(1).ended())
    assert stage.press("y") == [Order(HERE, "cancel", {"transfer": 1})]


def test_where_nothing_runs_there_is_nothing_to_cancel(stage: Stage) -> None:
    assert stage.press("c", "y") == []
    assert stage.top.notice is not None
    assert stage.top.notice.text == "no transfer is running"


def test_drain_asks_first_and_resume_does_not(stage: Stage) -> None:
    assert stage.press("d") == []
    assert stage.press("y") == [Order(HERE, "drain")]
    assert stage.press("r") == []  # It serves, as far as is known.
    stage.state("draining")
    assert stage.press("r") == [Order(HERE, "resume")]
    assert stage.press("d", "y") == []


def test_drain_is_for_all_servers_that_are_shown_and_serve(two: Stage) -> None:
    assert two.press("d", "y") == [Order(HERE, "drain"), Order(THERE, "drain")]
    two.state("draining", HERE)
    assert two.press("d", "y") == [Order(THERE, "drain")]
    assert two.press("r") == [Order(HERE, "resume")]
    two.part("gone", server=THERE)
    assert two.press("d", "y") == []


def test_tab_looks_at_one_server_after_the_other(two: Stage) -> None:
    run(two, 1, server=HERE)
    run(two, 2, server=THERE)
    two.tell(Happening(3).refused(at=3), server=HERE)
    two.tell(Happening(4).refused(at=4), server=THERE)
    seen = []
    for _ in range(4):
        failures = [failure["transfer"] for _, failure in two.top.failures()]
        seen.append((two.top.focus, shown(two), failures))
        two.press("tab")
    assert seen == [
        (None, [1, 2], [4, 3]),
        (HERE, [1], [3]),
        (THERE, [2], [4]),
        (None, [1, 2], [4, 3]),
    ]
    two.press("back tab")
    assert two.top.focus is None
    two.press("back tab")
    assert two.press("d", "y") == [Order(THERE, "drain")]


def test_with_one_server_tab_changes_nothing(stage: Stage) -> None:
    stage.press("tab")
    assert stage.top.focus is None


def test_without_the_token_that_it_wants_a_server_gets_no_orders() -> None:
    stage = Stage(HERE)
    stage.connect(access="look")
    run(stage, 1)
    for key in ("c", "d"):
        assert stage.press(key, "y") == []
        assert stage.top.notice is not None
        assert "--token-file" in stage.top.notice.text
        assert stage.top.notice.bad
    stage.state("draining")
    assert stage.press("r") == []


def test_with_a_token_orders_are_given() -> None:
    stage = Stage(HERE, token=True)
    stage.connect(access="look")  # It greets before it has seen the token.
    assert stage.press("d", "y") == [Order(HERE, "drain")]


def test_what_came_of_an_order_is_said_for_a_while(stage: Stage) -> None:
    top = stage.top
    top.settled(Order(HERE, "cancel", {"transfer": 7}), None, 10.0)
    assert top.notice is not None
    assert top.notice.text == f"transfer 7 at {HERE} was told to end"
    assert not top.notice.bad
    top.settled(Order(HERE, "drain"), "this needs the token", 11.0)
    assert (top.notice.text, top.notice.bad) == (f"{HERE}: this needs the token", True)
    top.tick(12.0)
    assert top.notice is not None
    top.tick(60.0)
    assert top.notice is None


def test_after_lost_events_a_snapshot_is_asked_for_once_in_a_while(stage: Stage) -> None:
    assert stage.lose_events(5) == [Order(HERE, "snapshot")]
    assert stage.lose_events(5) == []
    stage.now += 2.0
    assert stage.lose_events(5) == [Order(HERE, "snapshot")]
    stage.snapshot()
    stage.now += 2.0
    stage.totals(at=1.0)
    # Nobody wants to be told how that went.
    stage.top.settled(Order(HERE, "snapshot"), None, stage.now)
    assert stage.top.notice is None


def test_the_throughput_is_what_the_totals_have_grown_by(stage: Stage) -> None:
    watched = stage.top.servers[HERE]
    assert (watched.out, watched.into) == (None, None)
    read = Happening(1)
    write = Happening(2, operation=Operation.WRITE)
    stage.tell(read.received(), write.received())
    stage.tell(read.progress(6000, 1.0), write.ended(payload=1000))
    stage.totals(at=2.0)
    assert (watched.out, watched.into) == (3000.0, 500.0)
    # Too soon for another.
    stage.tell(read.progress(9000, 2.0))
    stage.totals(at=2.1)
    assert watched.out == 3000.0
    stage.totals(at=3.0)
    assert watched.out == 3000.0
    stage.totals(at=4.0)
    assert (watched.out, watched.into) == (0.0, 0.0)
    assert list(watched.history) == [3500.0, 3000.0, 0.0]


def test_a_server_that_was_started_anew_has_no_negative_throughput(stage: Stage) -> None:
    watched = stage.top.servers[HERE]
    stage.tell(Happening(1).ended(payload=5000))
    stage.totals(at=1.0)
    stage.part("gone")
    assert watched.out is None
    stage.boards[HERE] = type(stage.boards[HERE])()
    stage.connect(at=5.0)
    assert watched.out is None
    stage.totals(at=6.0)
    assert watched.out == 0.0
    assert list(watched.history) == [5000.0, None, 0.0]


def test_a_lost_connection_is_made_again_at_a_known_time(stage: Stage) -> None:
    watched = stage.top.servers[HERE]
    run(stage, 1)
    stage.part("Connection refused", retry=4.0)
    assert (watched.retry_at, watched.final) == (stage.now + 4.0, False)
    assert shown(stage) == []
    stage.connect()
    assert (watched.retry_at, watched.final) == (None, False)
    assert shown(stage) == [1]
    stage.part("this is not the token", retry=None)
    assert (watched.retry_at, watched.final) == (None, True)


def test_failures_are_refusals_and_bad_ends_the_latest_first(stage: Stage) -> None:
    stage.tell(
        Happening(1).refused(at=1.0),
        Happening(2).ended(Outcome.TIMED_OUT, at=3.0),
        Happening(3).ended(Outcome.DONE, at=4.0),
        Happening(4).ended(Outcome.CRASHED, at=2.0),
    )
    assert [failure["transfer"] for _, failure in stage.top.failures()] == [2, 4, 1]


def test_help_goes_with_any_key_and_quit_quits_from_it(stage: Stage) -> None:
    stage.press("?")
    assert stage.top.help
    assert stage.press("d") == []
    assert not stage.top.help
    assert stage.top.question is None
    stage.press("h", "q")
    assert stage.top.over


def test_q_quits_and_a_key_without_meaning_does_nothing(stage: Stage) -> None:
    before = stage.screen()
    assert stage.press("x", "\x1b[15~", "enter", "escape") == []
    assert stage.screen() == before
    stage.press("q")
    assert stage.top.over


def row(**members: object) -> dict[str, object]:
    known = {
        "began": NOON,
        "duration": 2.0,
        "rate": 500.0,
        "size": 4000,
        "counters": {"payload": 1000},
    }
    return known | members


def test_how_much_is_done_is_known_where_the_size_is() -> None:
    assert fraction(row()) == 0.25
    assert fraction(row(size=None)) is None
    assert fraction(row(size=0)) == 1.0
    # Netascii grows on the way.
    assert fraction(row(size=900)) == 1.0


def test_a_transfer_that_nothing_is_heard_of_has_no_rate() -> None:
    assert idle(row(), NOON + 2.5) == 0.5
    assert rate(row(), NOON + 2.5) == 500.0
    assert rate(row(), NOON + 9.0) == 0.0


def test_the_time_left_is_what_is_missing_at_this_rate() -> None:
    assert seconds_left(row(), NOON + 2.0) == 6.0
    assert seconds_left(row(size=None), NOON + 2.0) is None
    assert seconds_left(row(), NOON + 9.0) is None
    assert seconds_left(row(size=900), NOON + 2.0) == 0.0
