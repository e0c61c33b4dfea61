"""The feed: it connects, connects again, gives up where that is right, and carries orders."""

import json
import queue
import socket
import threading
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.monitor.happening import Happening
from tests.monitor.impostor import GREETING, Impostor
from tests.monitor.operating import Watched, watched
from tests.watching import descriptors, eventually
from tests.wirepeer import PATIENCE, WirePeer
from tftp.monitor import feed as feed_module
from tftp.monitor.board import Board
from tftp.monitor.channel import Channel
from tftp.monitor.feed import Feed, Feeds, Message, OrderError
from tftp.monitor.place import Place
from tftp.packets import Data

TOKEN = "correct horse battery staple"  # noqa: S105  (of these tests alone)


@pytest.fixture(autouse=True)
def hurry(monkeypatch: pytest.MonkeyPatch) -> None:
    """Connections are made again soon."""
    monkeypatch.setattr(feed_module, "_BACKOFF", 0.01)
    monkeypatch.setattr(feed_module, "_MAX_BACKOFF", 0.08)


def until(messages: Iterator[Message], event: str) -> Message:
    """The next message of a kind."""
    return next(message for message in messages if message["event"] == event)


def test_a_feed_gives_every_line_with_the_server_s_name(one: Watched) -> None:
    feed = Feed(one.place)
    messages = iter(feed)
    assert [next(messages)["event"] for _ in range(2)] == ["greeting", "snapshot"]
    one.board(Happening(1).ended())
    ended = next(messages)
    assert (ended["event"], ended["transfer"]) == ("ended", 1)
    assert ended["server"] == feed.server == str(one.place)
    feed.close()
    assert list(messages) == []


def test_a_feed_subscribes_to_what_was_asked(one: Watched) -> None:
    feed = Feed(one.place, kinds=["ended", "totals"], rate=4)
    messages = iter(feed)
    assert until(messages, "reply")["result"] == {"kinds": ["ended", "totals"], "rate": 4.0}
    until(messages, "totals")
    feed.close()


def test_a_feed_can_read_from_a_unix_socket(root: Path, tmp_path: Path) -> None:
    with watched("threads", root, place=f"unix:{tmp_path}/monitor"):
        feed = Feed(f"unix:{tmp_path}/monitor")
        assert next(iter(feed))["server"] == f"unix:{tmp_path}/monitor"
        feed.close()


def test_a_lost_connection_is_told_and_made_again(one: Watched) -> None:
    place = one.place
    with ExitStack() as stack:
        channel = Channel(one.board, one.server, Place.parse("0"))
        channel.start()
        feed = Feed(channel.places[0])
        messages = iter(feed)
        until(messages, "snapshot")
        channel.stop()
        assert until(messages, "bye")["final"] is False
        lost = next(messages)
        assert lost["event"] == "disconnected"
        assert lost["reason"] == "the server stops"
        assert lost["retry"] == 0.01
        refused = [next(messages) for _ in range(5)]
        assert {message["event"] for message in refused} == {"disconnected"}
        assert [message["retry"] for message in refused] == [0.02, 0.04, 0.08, 0.08, 0.08]
        again = Channel(one.board, one.server, channel.places[0] if channel.places else place)
        again.start()
        stack.callback(again.stop)
        assert until(messages, "greeting")["protocol"] == 1
        feed.close()


def test_without_reconnect_a_lost_connection_is_the_end() -> None:
    impostor = Impostor(GREETING)
    messages = list(Feed(impostor.place, reconnect=False))
    impostor.close()
    assert [message["event"] for message in messages] == ["greeting", "disconnected"]
    assert messages[-1]["retry"] is None
    assert messages[-1]["reason"] == "the server has closed the connection"


def test_a_server_that_is_not_there_is_told_with_the_reason() -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        place = Place("127.0.0.1", free.getsockname()[1])
        [message] = Feed(place, reconnect=False)
    assert message["reason"] == "Connection refused"
    assert message["server"] == str(place)


@pytest.mark.parametrize(
    ("speech", "reason"),
    [
        (b"SSH-2.0-OpenSSH_9.6\r\n", "this is no tftp monitor"),
        (b"[1, 2]\n", "this is no tftp monitor"),
        (b'{"event": "hello"}\n', "this is no tftp monitor"),
        (b'{"greeting": 1}\n', "this is no tftp monitor"),
        (b'{"event": "greeting", "protocol": 2}\n', "the server speaks protocol 2, not 1"),
        (GREETING.replace(b"act", b"none"), "the server wants a token"),
        (GREETING + b"junk\n", "this is no tftp monitor"),
        (GREETING + b"[" * 5000 + b"\n", "this is no tftp monitor"),
    ],
)
def test_where_it_makes_no_sense_a_feed_does_not_try_again(speech: bytes, reason: str) -> None:
    impostor = Impostor(speech)
    *_, last = Feed(impostor.place)
    impostor.close()
    assert (last["event"], last["reason"], last["retry"]) == ("disconnected", reason, None)


@pytest.mark.parametrize(
    ("line", "fault"),
    [
        ({"event": "lost", "time": 1, "progress": 1}, '"lost": others is missing'),
        ({"event": "lost", "time": 1, "progress": -1, "others": 0}, '"lost": progress is no count'),
        ({"event": "bye", "message": None}, '"bye": message is no text'),
        ({"event": "some-day", "number": 10**30}, "an event: a number in it is too large"),
        ({"event": "some-day", "x": "y" * (1 << 20)}, "a line that is too long"),
    ],
)
def test_a_server_that_breaks_the_protocol_is_left_and_tried_again_late(
    line: Message, fault: str
) -> None:
    impostor = Impostor(GREETING + json.dumps(line).encode() + b"\n", GREETING)
    feed = Feed(impostor.place)
    messages = iter(feed)
    assert until(messages, "greeting")
    lost = next(messages)
    assert lost["event"] == "disconnected"
    assert lost["reason"] == f"the server breaks protocol 1 ({fault})"
    assert lost["retry"] == 0.08
    assert next(messages)["event"] == "greeting"
    feed.close()
    assert list(messages) == []
    impostor.close()


def test_what_a_feed_says_by_itself_nobody_else_can_say() -> None:
    impostor = Impostor(GREETING + b'{"event": "disconnected"}\n')
    messages = list(Feed(impostor.place, reconnect=False))
    impostor.close()
    assert [message["event"] for message in messages] == ["greeting", "disconnected"]
    assert messages[-1]["reason"] == "the server has closed the connection"


def test_a_line_with_more_in_it_than_memory_is_to_hold_is_not_taken_apart(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(feed_module, "_MOST_VALUES", 1000)
    impostor = Impostor(GREETING + b'{"event": "snapshot", "x": [' + b"{}," * 1000 + b"1]}\n")
    *_, last = Feed(impostor.place, reconnect=False)
    impostor.close()
    assert last["reason"] == "the server breaks protocol 1 (a line with too much in it)"


def test_a_line_without_end_is_read_only_so_far(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(feed_module, "_LONGEST", 100_000)
    impostor = Impostor(GREETING + b"x" * 200_000)
    *_, last = Feed(impostor.place)
    impostor.close()
    assert last["reason"] == "this is no tftp monitor: its line has no end"
    assert last["retry"] is None


def test_a_server_that_does_not_greet_is_not_waited_for_without_end(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(feed_module, "_GREET", 0.05)
    with socket.create_server(("127.0.0.1", 0)) as mute:
        feed = Feed(Place("127.0.0.1", mute.getsockname()[1]))
        messages = iter(feed)
        lost = next(messages)
        feed.close()
        assert list(messages) == []
    assert lost["reason"] == "the server does not answer"
    assert lost["retry"] == 0.01


def test_a_server_that_has_greeted_may_be_silent_for_longer(
    one: Watched, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(feed_module, "_GREET", 0.05)
    feed = Feed(one.place, kinds=["ended"])
    messages = iter(feed)
    missing = {"snapshot", "reply"}  # In whichever order.
    while missing:
        missing.discard(next(messages)["event"])
    later = threading.Timer(0.15, one.board, [Happening(1).ended()])
    later.start()
    kinds = (message["event"] for message in messages)
    assert next(kind for kind in kinds if kind in ("ended", "disconnected")) == "ended"
    later.join()
    feed.close()


def test_orders_that_nobody_answers_do_not_pile_up() -> None:
    impostor = Impostor(GREETING)
    feed = Feed(impostor.place)
    messages = iter(feed)
    next(messages)
    answers = [feed.send("snapshot") for _ in range(1000)]
    refused = [answer for answer in answers if answer.done()]
    assert len(refused) == 1000 - 64
    with pytest.raises(ConnectionError, match="answers no orders"):
        refused[0].result(0)
    feed.close()
    assert list(messages) == []
    impostor.close()


def test_lines_may_come_in_any_pieces() -> None:
    text = json.dumps({"event": "some-day", "file": "x" * 200_000}).encode() + b"\n"
    impostor = Impostor(GREETING + 3 * text + b'{"event": "half')
    messages = list(Feed(impostor.place, reconnect=False))
    impostor.close()
    assert [message["event"] for message in messages] == [
        "greeting",
        *3 * ["some-day"],
        "disconnected",
    ]


def test_a_wrong_token_is_the_end(root: Path) -> None:
    with watched("threads", root, place="0.0.0.0:0", token=TOKEN) as found:
        feed = Feed(Place("127.0.0.1", found.place.port), token="wrong")  # noqa: S106
        *_, last = feed
        assert (last["event"], last["retry"]) == ("disconnected", None)
        assert last["reason"] == "this is not the token"


def test_the_token_is_shown_before_anything_is_asked(root: Path) -> None:
    with watched("threads", root, place="0.0.0.0:0", token=TOKEN) as found:
        feed = Feed(Place("127.0.0.1", found.place.port), token=TOKEN, kinds=["ended"])
        messages = iter(feed)
        assert next(messages)["access"] == "none"
        assert until(messages, "greeting")["access"] == "act"
        until(messages, "snapshot")
        found.board(Happening(1).received())
        found.board(Happening(1).ended())
        events = iter(message for message in messages if message["event"] != "reply")
        assert next(events)["event"] == "ended"
        feed.close()


def test_orders_are_answered(one: Watched) -> None:
    with Feeds([one.place]) as feeds, WirePeer(one.address) as peer:
        [server] = feeds.servers
        messages = iter(feeds)
        until(messages, "snapshot")  # Or the start would be in there already.
        peer.rrq("large")
        assert isinstance(peer.receive(), Data)
        started = until(messages, "started")
        answer = feeds.send(server, "cancel", transfer=started["transfer"])
        assert until(messages, "ended")["outcome"] == "aborted"
        assert answer.result(PATIENCE)["result"] == {"transfer": started["transfer"]}
        snapshot = feeds.send(server, "snapshot")
        assert snapshot.result(PATIENCE)["event"] == "snapshot"


def test_an_order_that_is_not_obeyed_fails_with_the_reason(one: Watched) -> None:
    with Feeds([one.place]) as feeds:
        until(iter(feeds), "snapshot")
        answer = feeds.send(feeds.servers[0], "cancel", transfer=99)
        with pytest.raises(OrderError, match="no transfer 99 is running"):
            answer.result(PATIENCE)


def test_without_connection_an_order_fails_at_once() -> None:
    feed = Feed("127.0.0.1:9")
    with pytest.raises(ConnectionError, match="not connected"):
        feed.send("drain").result(0)


def test_an_order_fails_when_its_connection_is_lost() -> None:
    impostor = Impostor(GREETING, GREETING)
    feed = Feed(impostor.place)
    messages = iter(feed)
    next(messages)
    answer = feed.send("drain")
    until(messages, "disconnected")
    with pytest.raises(ConnectionError, match="lost"):
        answer.result(0)
    until(messages, "greeting")
    feed.close()
    assert list(messages) == []
    impostor.close()


def test_an_order_that_nobody_waits_for_any_more_harms_nobody(one: Watched) -> None:
    feed = Feed(one.place)
    messages = iter(feed)
    until(messages, "snapshot")
    assert feed.send("help").cancel()
    feed.send("limits")
    assert until(messages, "reply")["command"] == "help"
    assert until(messages, "reply")["command"] == "limits"
    feed.close()


def test_a_close_ends_an_iteration_in_another_thread(one: Watched) -> None:
    feed = Feed(one.place)
    seen: queue.Queue[str] = queue.Queue()

    def read() -> None:
        for message in feed:
            seen.put(message["event"])
        seen.put("over")

    thread = threading.Thread(target=read)
    thread.start()
    assert [seen.get(timeout=PATIENCE) for _ in range(2)] == ["greeting", "snapshot"]
    feed.close()
    assert seen.get(timeout=PATIENCE) == "over"
    thread.join()


def test_a_close_ends_the_wait_before_the_next_try(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(feed_module, "_BACKOFF", 1000.0)
    feeds = Feeds(["127.0.0.1:9"])
    feeds.start()
    assert feeds.queue.get(timeout=PATIENCE)["retry"] == 1000
    feeds.close()


def test_several_servers_come_in_one_queue(tmp_path: Path) -> None:
    with ExitStack() as stack:
        servers = []
        for name in ("a", "b", "c"):
            (tmp_path / name).mkdir()
            servers.append(stack.enter_context(watched("threads", tmp_path / name)))
        feeds = stack.enter_context(Feeds([server.place for server in servers], kinds=["ended"]))
        assert set(feeds.servers) == {str(server.place) for server in servers}
        # What has happened before a snapshot is in there, and is not told again.
        missing = {(name, event) for name in feeds.servers for event in ("snapshot", "reply")}
        while missing:
            message = feeds.queue.get(timeout=PATIENCE)
            missing.discard((message["server"], message["event"]))
        for number, server in enumerate(servers):
            server.board(Happening(number).ended())
        ended = {message["server"]: message["transfer"] for message in _take(feeds, "ended", 3)}
        assert ended == {str(server.place): number for number, server in enumerate(servers)}


def _take(feeds: Feeds, event: str, number: int) -> Iterator[Message]:
    while number:
        message = feeds.queue.get(timeout=PATIENCE)
        if message["event"] == event:
            number -= 1
            yield message


def test_the_iteration_ends_when_nothing_more_can_come() -> None:
    impostors = [Impostor(GREETING), Impostor(b"junk\n")]
    with Feeds([impostor.place for impostor in impostors], reconnect=False) as feeds:
        events = sorted(message["event"] for message in feeds)
    for impostor in impostors:
        impostor.close()
    assert events == ["disconnected", "disconnected", "greeting"]


def test_a_close_ends_an_iteration_over_many(one: Watched) -> None:
    feeds = Feeds([one.place])
    feeds.start()
    over = threading.Event()

    def read() -> None:
        for _ in feeds:
            pass
        over.set()

    thread = threading.Thread(target=read)
    thread.start()
    feeds.close()
    assert over.wait(PATIENCE)
    thread.join()


def test_a_full_queue_makes_the_server_wait_not_the_memory_grow(one: Watched) -> None:
    before = descriptors()
    with Feeds([one.place], size=2) as feeds:
        for number in range(100):
            one.board(Happening(number).ended())
        assert eventually(feeds.queue.full)
    assert eventually(lambda: descriptors() <= before)


def test_long_lines_fill_the_queue_before_many_do(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(feed_module, "_MOST_WAITING", 1_000_000)
    line = json.dumps({"event": "some-day", "x": "y" * 100_000}).encode() + b"\n"
    impostor = Impostor(GREETING + line * 50)
    with Feeds([impostor.place], reconnect=False) as feeds:
        assert eventually(feeds.queue.full)
        events = [message["event"] for message in feeds]
    impostor.close()
    assert events == ["greeting", *50 * ["some-day"], "disconnected"]


def test_no_server_is_no_feed() -> None:
    with pytest.raises(ValueError, match="no server"):
        Feeds([])


def test_the_same_server_twice_is_read_once(one: Watched) -> None:
    assert len(Feeds([one.place, str(one.place)]).servers) == 1


def test_two_feeds_of_a_board_see_the_same(one: Watched) -> None:
    assert isinstance(one.board, Board)
    with Feeds([one.place]) as first, Feeds([one.place]) as second:
        for feeds in (first, second):
            list(_take(feeds, "snapshot", 1))
        one.board(Happening(3).ended())
        assert [next(_take(feeds, "ended", 1))["transfer"] for feeds in (first, second)] == [3, 3]
