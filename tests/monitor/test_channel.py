"""The channel: what it tells, what it obeys, whom it lets in, and what slow readers lose."""

import contextlib
import errno
import json
import logging
import os
import resource
import socket
import stat
import struct
import threading
import time
from collections import Counter
from collections.abc import Iterator
from itertools import count
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.monitor.conftest import FILES
from tests.monitor.happening import Happening
from tests.monitor.junk import ANYTHING
from tests.monitor.operating import Operator, Watched, channel_of, watched
from tests.watching import descriptors, eventually
from tests.wirepeer import WirePeer, error_code
from tftp.events import Outcome
from tftp.monitor import channel as channel_module
from tftp.monitor import door as door_module
from tftp.monitor import reader as reader_module
from tftp.monitor.board import Board
from tftp.monitor.channel import Channel
from tftp.monitor.orders import KINDS, ORDERS
from tftp.monitor.place import Place
from tftp.net.reactor import Reactor
from tftp.packets import Ack, Data, Error, OptionAck
from tftp.server import Server

TOKEN = "correct horse battery staple"  # noqa: S105  (of these tests alone)

# -- what it tells --------------------------------------------------------------------------------


def test_the_greeting_says_who_is_there(one: Watched) -> None:
    with Operator(one.place) as operator:
        greeting = operator.next()
    assert greeting["event"] == "greeting"
    assert greeting["protocol"] == channel_module.PROTOCOL == 1
    assert greeting["access"] == "act"
    assert greeting["version"] == "1.2.3"
    assert greeting["engine"] == "threads"
    assert greeting["addresses"] == [f"127.0.0.1:{one.address[1]}"]
    assert greeting["pid"] == os.getpid()
    assert greeting["started"] <= greeting["time"]


def test_the_snapshot_follows_the_greeting(one: Watched) -> None:
    with Operator(one.place) as operator:
        assert [operator.next()["event"], operator.next()["event"]] == ["greeting", "snapshot"]


def test_events_come_in_order_after_the_snapshot(one: Watched, operator: Operator) -> None:
    with WirePeer(one.address) as peer:
        assert peer.read("small", blksize=512) == b"s" * 700
    events = [operator.next() for _ in range(3)]
    assert [event["event"] for event in events] == ["received", "started", "ended"]
    assert [event["sequence"] for event in events] == [1, 2, 3]
    assert {event["transfer"] for event in events} == {1}
    assert events[2]["counters"]["payload"] == 700


def test_a_refusal_is_told_with_its_reason(one: Watched, operator: Operator) -> None:
    with WirePeer(one.address) as peer:
        peer.rrq("no such file")
        assert error_code(peer.receive()) == 1
    assert operator.wait("refused")["error"] == {"code": 1, "message": "file not found"}


def test_names_from_the_network_cannot_write_on_a_terminal(
    one: Watched, operator: Operator
) -> None:
    with WirePeer(one.address) as peer:
        peer.rrq(b'\x1b]0;owned\x07\n{"event": "bye"}\xff')
        peer.receive()
    line = operator.line()
    assert line.isascii()
    assert all(octet >= 32 for octet in line)
    assert json.loads(line)["file"] == '\\x1b]0;owned\\x07\\n{"event": "bye"}\\xff'


def test_whoever_comes_later_finds_what_runs_in_the_snapshot(one: Watched) -> None:
    with WirePeer(one.address) as peer:
        peer.rrq("large", blksize=1024, windowsize=4)
        assert isinstance(peer.receive(), OptionAck)
        peer.send(Ack(0))
        assert isinstance(peer.receive(), Data)
        with Operator(one.place) as operator:
            snapshot = operator.wait("snapshot")
            [row] = snapshot["transfers"]
            assert row["state"] == "running"
            assert row["asked"] == row["granted"] == {"blksize": "1024", "windowsize": "4"}
            assert row["size"] == 1 << 20
            assert snapshot["running"] == 1
            peer.send(Error(0, "that will do"))
            ended = operator.wait("ended")
        assert ended["outcome"] == "peer-error"
        assert ended["sequence"] > snapshot["sequence"]


def test_a_snapshot_and_the_events_behind_it_miss_nothing_and_repeat_nothing(
    one: Watched,
) -> None:
    """Readers come at any time; for each, the snapshot and what follows it make the whole."""
    total = 600
    started, over = threading.Event(), threading.Event()

    def tell() -> None:
        for number in range(total):
            one.board(Happening(number).ended(payload=1))
            started.set()
        over.set()

    teller = threading.Thread(target=tell)
    teller.start()
    assert started.wait(10)
    counts = []
    while True:
        finished = over.is_set()
        with Operator(one.place, closely=0) as operator:
            before = operator.wait("snapshot")["totals"]["read"]["outcomes"]["done"]
            operator.order("snapshot", id=1)
            seen = []
            while (message := operator.next())["event"] != "snapshot":
                seen.append(message["transfer"])
            after = message["totals"]["read"]["outcomes"]["done"]
            counts.append((before, after))
        assert seen == list(range(before, after))
        if finished:
            break
    teller.join()
    assert counts[-1][1] == total


def test_totals_come_to_whoever_has_asked_for_them(one: Watched, operator: Operator) -> None:
    operator.say("subscribe totals rate=4")
    first = operator.wait("totals")
    one.board(Happening(1).ended(payload=5))
    second = operator.wait("totals")
    while second["sequence"] == first["sequence"]:
        second = operator.wait("totals")
    assert second["totals"]["read"]["counters"]["payload"] == 5
    assert second["state"] == "serving"


def test_totals_come_no_more_often_than_asked(one: Watched, operator: Operator) -> None:
    operator.say("subscribe totals rate=4")
    times = [operator.wait("totals")["time"] for _ in range(4)]
    assert times[-1] - times[0] >= 3 * 0.25 * 0.9


def test_nothing_but_what_was_subscribed_to_comes(one: Watched, operator: Operator) -> None:
    operator.say("subscribe ended refused")
    assert operator.answer("subscribe") == {"kinds": ["refused", "ended"], "rate": 4.0}
    with WirePeer(one.address) as peer:
        peer.read("small")
        peer.rrq("no such file")
        peer.receive()
    assert [operator.next()["event"], operator.next()["event"]] == ["ended", "refused"]


def test_whoever_subscribes_to_none_gets_answers_only(one: Watched, operator: Operator) -> None:
    operator.say("subscribe none")
    assert operator.answer("subscribe")["kinds"] == []
    one.board(Happening(1).ended())
    operator.say("help")
    assert operator.next()["event"] == "reply"


def test_progress_comes_no_more_often_than_asked(one: Watched, operator: Operator) -> None:
    operator.say("subscribe progress ended rate=2")
    operator.answer("subscribe")
    for number in (1, 2):
        transfer = Happening(number)
        for quarter in range(9):
            one.board(transfer.progress(quarter, at=quarter / 4))
    one.board(Happening(1).ended())
    operator.wait("ended")
    told = [message for message in operator.seen if message["event"] == "progress"]
    assert [(message["transfer"], message["counters"]["payload"]) for message in told] == [
        *((1, quarter) for quarter in (0, 2, 4, 6, 8)),
        *((2, quarter) for quarter in (0, 2, 4, 6, 8)),
    ]


def test_a_change_of_state_is_told_to_all(one: Watched, operator: Operator) -> None:
    with one.operator() as other:
        other.say("drain")
        for reader in (operator, other):
            assert reader.wait("state")["state"] == "draining"
        one.server.resume()
        assert operator.wait("state")["state"] == "serving"


def test_each_change_is_told_before_what_follows_from_it(one: Watched, operator: Operator) -> None:
    """In their order among the events, with the times of the changes, however quick they are."""
    with WirePeer(one.address) as peer:
        before = time.time()
        for order in ("drain", "resume"):
            operator.say(order)
            operator.answer(order)
            assert _is_served(peer) is (order == "resume")
        operator.say("limits max_windowsize=3")
        operator.answer("limits")
        told = [operator.next() for _ in range(7)]
    # When the refusal and the end come is left open: they are told after their clients have heard.
    kinds = [message["state" if "state" in message else "event"] for message in told]
    assert kinds[0] == "draining"
    assert kinds.index("serving") < kinds.index("received") < kinds.index("started")
    assert sorted(kinds) == sorted(
        ["draining", "refused", "serving", "received", "started", "ended", "serving"]
    )
    changes = [message for message in told if message["event"] == "state"]
    assert changes[2]["limits"]["max_windowsize"] == 3
    received = told[kinds.index("received")]
    assert before <= changes[0]["time"] <= changes[1]["time"] <= received["time"]


def test_a_change_that_a_snapshot_shows_is_told_to_the_others(
    one: Watched, operator: Operator
) -> None:
    one.server.pause()
    with one.operator() as other:
        other.order("snapshot")
        assert operator.wait("state")["state"] == "draining"


def test_a_change_of_limits_is_told_too(one: Watched, operator: Operator) -> None:
    one.server.change_limits(max_windowsize=3)
    assert operator.wait("state")["limits"]["max_windowsize"] == 3


def test_an_error_message_of_sixty_kilobytes_is_cut(one: Watched, operator: Operator) -> None:
    with WirePeer(one.address) as peer:
        peer.rrq("large")
        assert isinstance(peer.receive(), Data)
        peer.send(b"\0\5\0\0" + b"\1" * 60_000 + b"\0")
        message = operator.wait("ended")["error"]["message"]
    assert len(message) == 1000


# -- what it obeys --------------------------------------------------------------------------------


def test_words_and_json_are_the_same(operator: Operator) -> None:
    operator.say("limits max_windowsize=8 id=a1")
    first = operator.wait("reply")
    operator.order("limits", max_windowsize=8, id="a1")
    assert operator.wait("reply") == first
    assert first["id"] == "a1"


def test_an_order_without_id_is_answered_without(operator: Operator) -> None:
    operator.say("help")
    assert operator.wait("reply")["id"] is None


def test_a_snapshot_that_was_ordered_has_the_id(operator: Operator) -> None:
    operator.say("snapshot id=7")
    assert operator.wait("snapshot")["id"] == "7"
    operator.order("snapshot", id=7)
    assert operator.wait("snapshot")["id"] == 7


def test_transfers_lists_what_runs(one: Watched, operator: Operator) -> None:
    with WirePeer(one.address) as peer:
        peer.rrq("large")
        assert isinstance(peer.receive(), Data)
        operator.say("transfers")
        [row] = operator.answer("transfers")["transfers"]
        assert row["file"] == "large"
        assert row["peer"] == f"127.0.0.1:{peer.address[1]}"
        peer.send(Error(0, ""))


def test_help_has_every_order(operator: Operator) -> None:
    operator.say("help")
    commands = operator.answer("help")["commands"]
    assert {usage.split()[0] for usage in commands} == set(ORDERS)


def test_quit_ends_the_connection_with_a_goodbye(operator: Operator) -> None:
    operator.say("quit")
    farewell = operator.wait("bye")
    assert farewell["final"] is False
    assert operator.line() == b""


def test_orders_come_one_behind_the_other(operator: Operator) -> None:
    operator.say(*(f"cancel {number} id={number}" for number in range(500)))
    answers = [operator.wait("error") for _ in range(31)]
    assert [answer["id"] for answer in answers] == [str(number) for number in range(31)]


def test_a_hundred_orders_at_once_are_all_obeyed(operator: Operator) -> None:
    operator.say(*(f"limits id={number}" for number in range(100)))
    assert [operator.wait("reply")["id"] for _ in range(100)] == [str(one) for one in range(100)]


def test_whoever_closes_their_side_still_gets_the_answers(one: Watched) -> None:
    with Operator(one.place) as operator:
        operator.say("help", "snapshot id=1", "limits")
        operator.sock.shutdown(socket.SHUT_WR)
        messages = operator.rest()
    assert [message["event"] for message in messages][-1] == "bye"
    assert {message.get("command") for message in messages} >= {"help", "limits"}
    assert [message.get("id") for message in messages if message["event"] == "snapshot"] == [
        None,
        "1",
    ]


@pytest.mark.parametrize("last", ["transfers", "transfers\nquit\ndrain"])
def test_whoever_leaves_gets_what_they_have_asked_for_first(one: Watched, last: str) -> None:
    with Operator(one.place) as operator:
        operator.say(last)
        operator.sock.shutdown(socket.SHUT_WR)
        told = [(message["event"], message.get("command")) for message in operator.rest()]
    assert told == [
        ("greeting", None),
        ("snapshot", None),
        ("reply", "transfers"),
        ("bye", None),
    ]
    assert one.server.state == "serving"


def test_an_order_in_pieces_is_one_order(operator: Operator) -> None:
    for piece in (b"li", b"mi", b"ts id=", b"5\r", b"\n"):
        operator.sock.sendall(piece)
    assert operator.wait("reply")["id"] == "5"


def test_the_log_level_is_set(one: Watched, root: Path) -> None:
    levels: list[str] = []
    with (
        channel_of(one.server, one.board, log_level=levels.append) as channel,
        Operator(channel.places[0]) as operator,
    ):
        operator.say("log-level debug", "log-level loud")
        assert operator.answer("log-level") == {"level": "debug"}
        assert "debug, info" in operator.refusal()
    assert levels == ["DEBUG"]


def test_the_log_level_is_by_default_that_of_the_project_s_logger(one: Watched) -> None:
    logger = logging.getLogger("tftp")
    before = logger.level
    try:
        with one.operator() as operator:
            operator.say("log-level error")
            operator.answer("log-level")
            assert logger.level == logging.ERROR
    finally:
        logger.setLevel(before)


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ("cancel 9", "no transfer 9 is running"),
        ("cancel", "cancel N"),
        ("cancel nine", "transfer is a number"),
        ("limits max_blksize=7", "blksize"),
        ("limits max_transfers=0", "at least 1"),
        ("limits max_fun=1", "knows no 'max_fun'"),
        ('{"command": "limits", "max_blksize": true}', "is a number"),
        ("subscribe everything", "has no 'everything'"),
        ("subscribe all rate=5", "at most 4"),
        ("frobnicate", "there is no order 'frobnicate'"),
        ("snapshot now", "write: snapshot"),
        ("{", "not JSON"),
        ('{"command": "cancel"}', "cancel N"),
        ('{"command": 7}', "command is the name of an order"),
        ('{"command": "help", "id": [1]}', "an id is"),
        ("\x1b[2J", r"there is no order '\x1b[2J'"),
    ],
)
def test_what_makes_no_sense_is_answered_with_a_reason(
    one: Watched, operator: Operator, line: str, reason: str
) -> None:
    before = one.server.limits
    operator.say(line)
    assert reason in operator.refusal()
    assert one.server.limits == before
    operator.say("help")
    operator.answer("help")


# -- junk -----------------------------------------------------------------------------------------


def test_a_line_without_end_is_answered_once_and_passed_over(operator: Operator) -> None:
    operator.sock.sendall(b"x" * 50_000)
    assert "4096" in operator.refusal()
    operator.sock.sendall(b"x" * 50_000 + b"\nhelp\n")
    assert operator.next()["event"] == "reply"


def test_a_long_line_is_no_order(operator: Operator) -> None:
    operator.sock.sendall(b"help" + b" " * 5000 + b"\nlimits\n")
    assert "4096" in operator.refusal()
    assert operator.next()["command"] == "limits"


def test_half_a_line_is_no_order(one: Watched, operator: Operator) -> None:
    operator.sock.sendall(b"drain")
    operator.sock.shutdown(socket.SHUT_WR)
    [farewell] = operator.rest()
    assert "in the midst of a line" in farewell["message"]
    assert one.server.state == "serving"


def test_empty_lines_are_passed_over(operator: Operator) -> None:
    operator.say("", "\r", "   ", "help")
    assert operator.next()["event"] == "reply"


def test_too_much_nonsense_ends_the_connection(operator: Operator) -> None:
    operator.say(*["\u1e9e"] * 100)
    messages = operator.rest()
    assert [message["event"] for message in messages] == ["error"] * 32 + ["bye"]


def test_an_order_that_makes_sense_makes_up_for_nonsense(operator: Operator) -> None:
    for _ in range(5):
        operator.say(*["nonsense"] * 20, "help")
    for _ in range(5):
        operator.wait("reply")


def test_a_web_browser_can_order_nothing(one: Watched, operator: Operator) -> None:
    """Any web page can have a browser post lines to a port of this host."""
    operator.sock.sendall(
        b"POST / HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: text/plain\r\n\r\ndrain\r\n"
    )
    [farewell] = operator.rest()
    assert farewell["event"] == "bye"
    assert one.server.state == "serving"


@pytest.fixture(scope="module")
def fuzzed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Watched]:
    """A server for many examples. Its readers can not act: junk may happen to be an order."""
    with watched("threads", tmp_path_factory.mktemp("root"), token=TOKEN) as found:
        yield found


@settings(max_examples=50, suppress_health_check=[HealthCheck.too_slow], deadline=None)
@given(
    lines=st.lists(ANYTHING, max_size=12),
    cuts=st.lists(st.integers(0, 4000), max_size=4),
    half=st.booleans(),
)
def test_anything_at_all_gets_lines_as_documented_and_no_crash(
    fuzzed: Watched, lines: list[bytes], cuts: list[int], half: bool
) -> None:
    octets = b"\n".join(lines) + (b"" if half else b"\n")
    with Operator(fuzzed.place) as operator:
        start = 0
        try:
            for cut in sorted(cuts):
                operator.sock.sendall(octets[start:cut])
                start = max(start, cut)
            operator.sock.sendall(octets[start:])
            operator.sock.shutdown(socket.SHUT_WR)
        except OSError:
            pass  # It was sent away; what it was told has come all the same.
        try:
            messages = operator.rest()
        except ConnectionError:
            messages = []
    for message in messages:
        assert message["event"] in {"greeting", "snapshot", "reply", "error", "bye", *KINDS}
    with Operator(fuzzed.place) as operator:
        assert json.loads(operator.line())["event"] == "greeting"


# -- who is let in --------------------------------------------------------------------------------


@pytest.mark.parametrize("place", ["0.0.0.0:0", "[::]:0", "192.0.2.1:0", "example.com:0"])
def test_beyond_this_host_a_token_is_demanded(one: Watched, place: str) -> None:
    with pytest.raises(ValueError, match="set a token, or listen on") as refused:
        Channel(one.board, one.server, Place.parse(place))
    assert place in str(refused.value)


@pytest.fixture
def far(root: Path) -> Iterator[Watched]:
    """A server whose channel other hosts can reach."""
    with watched("threads", root, place="0.0.0.0:0", token=TOKEN) as found:
        yield found


@pytest.fixture
def stranger(far: Watched) -> Iterator[Operator]:
    """Somebody who has connected to it."""
    with Operator(Place("127.0.0.1", far.place.port)) as operator:
        yield operator


def test_beyond_this_host_nothing_is_told_without_the_token(
    far: Watched, stranger: Operator
) -> None:
    assert stranger.next() == {"event": "greeting", "protocol": 1, "access": "none"}
    stranger.say("snapshot", "subscribe all", "drain", "transfers", "limits")
    for _ in range(5):
        assert "token" in stranger.refusal()
    far.board(Happening(1).ended())
    stranger.say("help")
    assert stranger.next()["event"] == "reply"
    assert far.server.state == "serving"


def test_the_token_opens_all(stranger: Operator) -> None:
    stranger.order("token", token=TOKEN)
    assert stranger.answer("token") == {"access": "act"}
    assert stranger.wait("greeting")["access"] == "act"
    stranger.wait("snapshot")
    stranger.say("drain")
    stranger.wait("state", state="draining")


def test_a_token_may_have_an_equals_sign_in_it(root: Path) -> None:
    with watched("threads", root, token="a=1") as found, found.operator() as operator:  # noqa: S106
        operator.say("token a=1")
        assert operator.answer("token") == {"access": "act"}


def test_a_wrong_token_ends_the_connection_for_good(stranger: Operator) -> None:
    stranger.order("token", token="correct horse")  # noqa: S106
    messages = stranger.rest()
    assert [message["event"] for message in messages] == ["greeting", "error", "bye"]
    assert messages[-1]["final"] is True


def test_whoever_shows_no_token_is_sent_away(far: Watched, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reader_module, "_SHOW_TOKEN", 0.1)
    with Operator(Place("127.0.0.1", far.place.port)) as stranger:
        assert [message["event"] for message in stranger.rest()] == ["greeting", "bye"]


def test_on_this_host_the_token_is_for_those_who_act(root: Path) -> None:
    with watched("threads", root, token=TOKEN) as found, Operator(found.place) as operator:
        assert operator.next()["access"] == "look"
        operator.wait("snapshot")
        operator.say("limits")
        operator.answer("limits")
        for line in ("drain", "resume", "cancel 1", "limits max_blksize=512", "log-level info"):
            operator.say(line)
            assert "token" in operator.refusal()
        assert found.server.state == "serving"
        operator.order("token", token=TOKEN)
        assert operator.answer("token") == {"access": "act"}
        operator.say("drain")
        assert operator.answer("drain") == {"state": "draining"}


def test_a_token_in_an_order_counts_for_that_order_alone(root: Path) -> None:
    with watched("threads", root, token=TOKEN) as found, found.operator() as operator:
        operator.order("drain", token=TOKEN)
        assert operator.answer("drain") == {"state": "draining"}
        operator.order("resume", token="no")  # noqa: S106
        assert "not the token" in operator.refusal()
        operator.order("resume")
        assert "needs the token" in operator.refusal()
        assert found.server.state == "draining"


def test_a_unix_socket_is_its_owner_s_alone(root: Path, tmp_path: Path) -> None:
    path = tmp_path / "monitor"
    with watched("threads", root, place=f"unix:{path}") as found:
        mode = path.stat().st_mode
        assert stat.S_ISSOCK(mode)
        assert stat.S_IMODE(mode) == 0o600
        with Operator(found.place) as operator:
            assert operator.next()["access"] == "act"
    assert not path.exists()


def test_a_socket_that_a_dead_server_left_is_replaced(root: Path, tmp_path: Path) -> None:
    path = tmp_path / "monitor"
    with socket.socket(socket.AF_UNIX) as left:
        left.bind(str(path))
    with watched("threads", root, place=f"unix:{path}") as found, Operator(found.place) as operator:
        assert operator.next()["event"] == "greeting"


@pytest.mark.parametrize("kind", ["socket", "file"])
def test_a_path_that_somebody_uses_is_left_alone(one: Watched, tmp_path: Path, kind: str) -> None:
    path = tmp_path / "monitor"
    with socket.socket(socket.AF_UNIX) as other:
        if kind == "socket":
            other.bind(str(path))
            other.listen()
        else:
            path.write_text("mine")
        channel = Channel(one.board, one.server, Place(path=str(path)))
        with pytest.raises(OSError, match=r"in use|no socket") as failed:
            channel.start()
    assert failed.value.errno == (errno.EADDRINUSE if kind == "socket" else errno.EEXIST)
    assert failed.value.filename == f"unix:{path}"
    assert path.exists()


def test_a_path_that_is_too_long_for_a_socket_is_told(one: Watched, tmp_path: Path) -> None:
    channel = Channel(one.board, one.server, Place(path=f"{tmp_path}/{'a' * 120}"))
    with pytest.raises(OSError, match=r"at most 10\d octets") as failed:
        channel.start()
    assert failed.value.errno == errno.ENAMETOOLONG


def test_a_port_that_is_taken_is_told_with_its_place(one: Watched) -> None:
    before = descriptors()
    channel = Channel(one.board, one.server, one.place)
    with pytest.raises(OSError, match="in use") as failed:
        channel.start()
    assert failed.value.filename == str(one.place)
    assert descriptors() <= before


def test_localhost_is_every_loopback_address(one: Watched) -> None:
    with channel_of(one.server, one.board, "localhost:0") as channel:
        hosts = {place.host for place in channel.places}
        assert "127.0.0.1" in hosts <= {"127.0.0.1", "::1"}
        assert len({place.port for place in channel.places}) == 1
        for place in channel.places:
            with Operator(place) as operator:
                assert operator.next()["access"] == "act"


# -- readers that are slow, many, or gone ---------------------------------------------------------


def flood(board: Board, transfers: int, steps: int) -> tuple[int, int]:
    """Many transfers with much progress; how many progress events, and how many others."""
    lives = [Happening(number) for number in range(transfers)]
    for one in lives:
        board(one.started())
    for step in range(steps):
        for one in lives:
            board(one.progress(step, at=step / 4))
    for one in lives:
        board(one.ended(payload=steps))
    return transfers * steps, 2 * transfers


class Account:
    """What a reader gets, one way or the other.

    Attributes:
        progress, others: events that came, or were told to be lost.
        lost_progress, lost_others: the second of it.
    """

    def __init__(self, reader: Operator) -> None:
        self.progress = self.others = self.lost_progress = self.lost_others = 0
        self._reader = reader

    def settle(self, progress: int, others: int) -> None:
        """Read until so many are accounted for."""
        while (self.progress, self.others) != (progress, others):
            message = self._reader.next()
            match message["event"]:
                case "progress":
                    self.progress += 1
                case "started" | "ended":
                    self.others += 1
                case "lost":
                    self.lost_progress += message["progress"]
                    self.lost_others += message["others"]
                    self.progress += message["progress"]
                    self.others += message["others"]
            assert self.progress <= progress
            assert self.others <= others


def test_a_reader_that_stops_reading_is_told_how_much_it_lost(one: Watched) -> None:
    """And what it lost is progress first."""
    with Operator(one.place, receive_buffer=4096) as stuck, one.operator() as awake:
        stuck.wait("snapshot")
        watching, missing = Account(awake), Account(stuck)
        told_progress = told_others = 0
        for _ in range(8):
            progress, others = flood(one.board, 30, 20)
            told_progress += progress
            told_others += others
            watching.settle(told_progress, told_others)
        missing.settle(told_progress, told_others)
    assert watching.lost_progress == watching.lost_others == 0
    assert missing.lost_progress > told_progress / 2
    assert missing.lost_others == 0


def test_when_there_is_no_progress_left_to_lose_other_events_are_lost(one: Watched) -> None:
    total = 2600
    with Operator(one.place, receive_buffer=4096) as stuck, one.operator() as awake:
        stuck.wait("snapshot")
        for first in range(0, total, 200):
            for number in range(first, first + 200):
                one.board(Happening(number).started())
            awake.wait("started", transfer=first + 199)
        one.board(Happening(1).ended())
        account = Account(stuck)
        account.settle(0, total + 1)
    assert account.lost_others > 0
    kept = [message["sequence"] for message in stuck.seen if message["event"] == "started"]
    assert kept == sorted(kept)


def test_more_than_the_channel_may_deal_with_is_lost_to_all_and_told(one: Watched) -> None:
    """The board is told faster than the channel may tell on; nobody waits for it."""
    with one.operator() as operator:
        account = Account(operator)
        account.settle(*flood(one.board, 500, 20))
    assert account.lost_progress > 0
    assert account.lost_others == 0
    # And not before they are missing.
    first = operator.seen[1]["sequence"]
    came = told = 0
    for message in operator.seen:
        if message["event"] == "lost":
            told += message["progress"] + message["others"]
        elif message["event"] in ("started", "progress", "ended"):
            came += 1
            assert message["sequence"] >= first + came + told


def test_a_stuck_reader_delays_no_transfer(one: Watched, operator: Operator) -> None:
    """Nobody reads what the operator's socket gets, and files are served all the same."""
    with Operator(one.place, receive_buffer=4096):
        flood(one.board, 300, 20)
        with WirePeer(one.address) as peer:
            for _ in range(10):
                assert len(peer.read("large", blksize=8192, windowsize=8)) == 1 << 20


def test_a_reader_that_takes_nothing_for_long_is_let_go(
    one: Watched, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reader_module, "_STUCK", 0.2)
    with Operator(one.place, receive_buffer=4096) as stuck:
        stuck.wait("snapshot")
        number = 0

        def gone() -> bool:
            nonlocal number
            number += 1
            one.board(Happening(number).started())
            try:
                stuck.sock.sendall(b"\n")
            except ConnectionError:
                return True
            return False

        assert eventually(gone)


def test_snapshots_without_end_do_not_pile_up(one: Watched) -> None:
    """A reader that orders and does not read costs the server a bounded number of answers."""
    for number in range(500):
        one.board(Happening(number).received())
    with Operator(one.place, receive_buffer=4096, closely=1) as greedy:
        greedy.say(*["snapshot"] * 30)
        messages: list[str] = []
        while len(messages) < 9:
            message = greedy.next()
            if message["event"] in ("snapshot", "error"):
                messages.append(message["event"])
        assert "error" in messages


def test_whoever_orders_and_never_reads_is_let_go(
    one: Watched, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reader_module, "_LAST_LINES", 0.1)
    with Operator(one.place, receive_buffer=4096) as deaf:

        def gone() -> bool:
            try:
                deaf.say(*["help"] * 50)
            except ConnectionError:
                return True
            return False

        assert eventually(gone)


def test_there_are_at_most_so_many_readers(one: Watched, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(channel_module, "_MOST_READERS", 3)
    first, *others = [Operator(one.place) for _ in range(3)]
    for operator in (first, *others):
        operator.wait("snapshot")
    with Operator(one.place) as late:
        assert [message["event"] for message in late.rest()] == ["bye"]
    first.sock.close()

    def let_in() -> bool:
        with Operator(one.place) as again:
            return bool(again.next()["event"] == "greeting")

    assert eventually(let_in)
    for operator in others:
        operator.sock.close()


def test_a_crowd_that_comes_at_once_finds_room_to_wait(tmp_path: Path) -> None:
    """A Unix socket turns away at once whom its backlog has no room for."""
    let_in: list[socket.socket] = []
    with contextlib.ExitStack() as stack:
        reactor = Reactor()
        stack.callback(reactor.close)
        [door] = door_module.listen(Place.parse(f"unix:{tmp_path}/door"), reactor, let_in.append)
        stack.callback(door.close)
        for _ in range(300):
            sock = stack.enter_context(socket.socket(socket.AF_UNIX, socket.SOCK_STREAM))
            sock.setblocking(False)
            sock.connect(door.place.path)


def test_fifty_readers_get_the_same(one: Watched) -> None:
    readers = [one.operator() for _ in range(50)]
    with WirePeer(one.address) as peer:
        peer.read("small")
    lines = {tuple(reader.line() for _ in range(3)) for reader in readers}
    assert len(lines) == 1
    for reader in readers:
        reader.sock.close()


def test_a_reader_that_is_gone_harms_nobody(one: Watched, operator: Operator) -> None:
    for _ in range(5):
        with one.operator() as gone:
            # The connection is reset, not closed.
            gone.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    one.board(Happening(1).ended())
    assert operator.wait("ended")["transfer"] == 1


def test_a_beat_that_took_long_keeps_nobody_waiting(
    one: Watched, operator: Operator, monkeypatch: pytest.MonkeyPatch
) -> None:
    # As where the garbage collector ran in the middle of it: two seconds between any two looks.
    looks = count(step=2.0)
    monkeypatch.setattr(time, "thread_time", lambda: next(looks))
    for number in (1, 2, 3):
        one.board(Happening(number).ended())
        assert operator.wait("ended")["transfer"] == number


def test_a_process_without_descriptors_lets_readers_in_later(
    one: Watched, operator: Operator, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(door_module, "_REST", 0.05)
    with socket.socket() as late:
        late.settimeout(10)
        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        free = os.dup(0)
        os.close(free)
        resource.setrlimit(resource.RLIMIT_NOFILE, (free, hard))
        try:
            late.connect((one.place.host, one.place.port))
            one.board(Happening(1).ended())
            assert operator.wait("ended")["transfer"] == 1
            late.setblocking(False)
            with pytest.raises(BlockingIOError):
                late.recv(1)
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        late.settimeout(10)
        assert late.recv(10) == b'{"event": '


# -- the end --------------------------------------------------------------------------------------


def test_readers_get_the_last_events_and_a_goodbye(root: Path) -> None:
    board = Board()
    with Server(root, observers=[board]) as server:
        channel = Channel(board, server, Place.parse("0"))
        channel.start()
        with Operator(channel.places[0]) as operator:
            operator.wait("snapshot")
            with WirePeer(server.address) as peer:
                peer.rrq("large")
                assert isinstance(peer.receive(), Data)
                server.stop()
            channel.stop()
            messages = operator.rest()
    assert [message["event"] for message in messages if message["event"] != "state"] == [
        "received",
        "started",
        "ended",
        "bye",
    ]
    assert messages[-1]["final"] is False
    [state] = [message["state"] for message in messages if message["event"] == "state"]
    assert state == "stopping"


def test_a_stuck_reader_does_not_hold_up_the_end(root: Path) -> None:
    board = Board()
    with Server(root, observers=[board]) as server:
        channel = Channel(board, server, Place.parse("0"))
        channel.start()
        with Operator(channel.places[0], receive_buffer=4096) as stuck:
            stuck.wait("snapshot")
            flood(board, 500, 20)
            before = time.monotonic()
            channel.stop()
            # Whoever waited for it would wait for as long as a stuck reader may be stuck.
            assert time.monotonic() - before < reader_module._STUCK / 10


def test_nothing_is_left_when_it_has_stopped(root: Path) -> None:
    before = descriptors()
    with watched("threads", root) as found, found.operator():
        pass
    assert descriptors() <= before


def test_a_server_without_readers_is_not_slowed_by_a_queue(one: Watched) -> None:
    flood(one.board, 100, 10)
    assert one.channel._events.empty()
    with one.operator():
        pass
    assert eventually(lambda: not one.channel._heard)


# -- what an operator does to a server ------------------------------------------------------------


def test_a_cancelled_transfer_ends_and_its_client_is_told(each: Watched) -> None:
    with each.operator() as operator, WirePeer(each.address) as peer:
        peer.rrq("large")
        assert isinstance(peer.receive(), Data)
        number = operator.wait("started")["transfer"]
        operator.say(f"cancel {number}")
        assert peer.receive() == Error(0, "cancelled by the operator")
        assert operator.answer("cancel") == {"transfer": number}
        ended = operator.seen[-2] if operator.seen[-2]["event"] == "ended" else None
        ended = ended or operator.wait("ended")
        assert ended["outcome"] == "aborted"
        assert ended["error"] == {"code": 0, "message": "cancelled by the operator"}
        operator.say(f"cancel {number}")
        assert "no transfer" in operator.refusal()


def test_one_transfer_of_many_is_cancelled(each: Watched) -> None:
    with each.operator() as operator:
        peers = [WirePeer(each.address) for _ in range(3)]
        numbers = {}
        for peer in peers:
            peer.rrq("large", blksize=1024)
            assert isinstance(peer.receive(), OptionAck)
            started = operator.wait("started")
            numbers[started["peer"]] = started["transfer"]
        victim, *others = peers
        operator.order("cancel", transfer=numbers[f"127.0.0.1:{victim.address[1]}"])
        while not isinstance(packet := victim.receive(), Error):
            assert isinstance(packet, OptionAck)  # It is repeated.
        for peer in others:
            peer.send(Ack(0))
            while not isinstance(packet := peer.receive(), Data):
                assert isinstance(packet, OptionAck)
            peer.send(Error(0, ""))
        outcomes = Counter(operator.wait("ended")["outcome"] for _ in range(3))
        assert outcomes == {"aborted": 1, "peer-error": 2}
        for peer in peers:
            peer.close()


def test_a_cancelled_upload_leaves_no_file(each: Watched, root: Path) -> None:
    with each.operator() as operator, WirePeer(each.address) as peer:
        peer.wrq("new")
        assert peer.receive() == Ack(0)
        peer.send(Data(1, b"x" * 512))
        assert peer.receive() == Ack(1)
        operator.order("cancel", transfer=operator.wait("started")["transfer"])
        assert error_code(peer.receive()) == 0
        assert operator.wait("ended")["outcome"] == "aborted"
    assert sorted(entry.name for entry in root.iterdir()) == sorted(FILES)


def test_a_draining_server_refuses_what_is_new_and_finishes_what_runs(each: Watched) -> None:
    with each.operator() as operator, WirePeer(each.address) as runs, WirePeer(each.address) as new:
        runs.rrq("small", blksize=512)
        assert isinstance(runs.receive(), OptionAck)
        operator.say("drain")
        assert operator.answer("drain") == {"state": "draining"}
        assert not _is_served(new)
        assert operator.wait("refused")["error"]["message"] == "server is draining, try later"
        runs.send(Ack(0))
        assert isinstance(runs.receive(), Data)
        runs.send(Ack(1))
        assert isinstance(runs.receive(), Data)
        runs.send(Ack(2))
        assert operator.wait("ended", file="small")["outcome"] == "done"
        operator.say("resume")
        assert operator.answer("resume") == {"state": "serving"}
        assert _is_served(new)


def _is_served(peer: WirePeer) -> bool:
    peer.rrq("empty")
    answer = peer.receive()
    if isinstance(answer, Data):
        peer.send(Ack(1))
        return True
    assert answer == Error(0, "server is draining, try later")
    return False


def test_a_request_that_comes_again_is_not_new_to_a_draining_server(each: Watched) -> None:
    with each.operator() as operator, WirePeer(each.address) as peer:
        peer.rrq("small", blksize=512)
        assert isinstance(peer.receive(), OptionAck)
        operator.wait("started")
        operator.say("drain")
        operator.answer("drain")
        peer.rrq("small", blksize=512)
        operator.say("transfers")
        assert len(operator.answer("transfers")["transfers"]) == 1
        assert not any(isinstance(packet, Error) for packet in peer.drain())
        peer.send(Error(0, ""), peer.tid)


def test_new_limits_count_for_new_requests(each: Watched) -> None:
    with each.operator() as operator, WirePeer(each.address) as peer:
        operator.say("limits max_blksize=600 max_windowsize=2 max_transfers=77")
        assert operator.answer("limits") == {
            "max_transfers": 77,
            "max_blksize": 600,
            "max_windowsize": 2,
        }

        def granted() -> dict[str, str]:
            peer.rrq("large", blksize=1400, windowsize=9)
            answer = peer.receive()
            assert isinstance(answer, OptionAck)
            peer.send(Error(0, ""))
            operator.wait("ended")
            return dict(answer.options)

        # To other processes the word may still be on its way.
        assert eventually(lambda: granted() == {"blksize": "600", "windowsize": "2"})


def test_fewer_transfers_may_be_allowed_while_it_runs(one: Watched, operator: Operator) -> None:
    peers = [WirePeer(one.address) for _ in range(3)]
    for peer in peers[:2]:
        peer.rrq("large")
        assert isinstance(peer.receive(), Data)
    operator.say("limits max_transfers=2")
    operator.answer("limits")
    peers[2].rrq("large")
    assert peers[2].receive() == Error(0, "server busy, try again later")
    for peer in peers:
        peer.send(Error(0, ""), peer.tid)
        peer.close()


def test_outcomes_of_a_server_are_all_documented() -> None:
    page = Path(__file__).parents[2] / "docs" / "reference" / "monitor.md"
    text = page.read_text()
    for outcome in Outcome:
        assert f"| `{outcome.value}` |" in text
    for kind in KINDS:
        assert f"### {kind}" in text or f"`{kind}`" in text
    for command in ORDERS:
        assert f"| `{command}" in text
