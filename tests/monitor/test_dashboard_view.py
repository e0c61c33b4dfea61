"""What a page asks of its servers, and what a browser is told: both bounded, whatever happens."""

import json
import queue
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from tests.monitor.happening import NOON, Happening
from tests.wirepeer import PATIENCE
from tftp.errors import Refused
from tftp.events import Outcome, as_json
from tftp.monitor.board import Board
from tftp.monitor.dashboard.view import View
from tftp.monitor.dashboard.watch import Watch
from tftp.monitor.feed import PROTOCOL

PLACE = "127.0.0.1:6970"
LIMITS = {"max_transfers": 1000, "max_blksize": 65464, "max_windowsize": 64}
Message = dict[str, Any]


def greeting(pid: int = 1) -> Message:
    return {
        "event": "greeting",
        "protocol": PROTOCOL,
        "access": "act",
        "version": "1.2.3",
        "engine": "threads",
        "addresses": ["192.0.2.1:69"],
        "host": "boot",
        "pid": pid,
        "started": NOON,
        "time": NOON,
    }


def snapshot(board: Board) -> Message:
    return {"event": "snapshot", "state": "serving", "limits": LIMITS, **board.snapshot()}


class Told:
    """A page's knowledge of one server, told by hand, and a browser that looks at it."""

    def __init__(self) -> None:
        self.board = Board()
        self.watch = Watch([PLACE])
        self.view = View(self.watch)
        self.tell(greeting())
        self.tell_all()

    def tell(self, *messages: Message) -> None:
        with self.watch.scenes() as scenes:
            for message in messages:
                scenes[PLACE].apply({**message, "server": PLACE})

    def tell_all(self) -> None:
        """Tell what the board knows."""
        self.tell(snapshot(self.board))
        with self.watch.scenes() as scenes:
            scenes[PLACE].answered()

    def step(self) -> Message:
        return self.view.step().get(PLACE, {})


def test_a_browser_that_knows_everything_is_told_nothing() -> None:
    told = Told()
    assert told.step()
    assert told.view.step() == {}


def test_what_moves_is_told_in_numbers_alone() -> None:
    told, life = Told(), Happening(7)
    told.board(life.received())
    told.tell_all()
    told.step()
    told.board(life.started(size=4096))
    told.tell_all()
    [row] = told.step()["transfers"]["new"]  # It has its options now.
    assert row["granted"] == life.granted
    told.board(life.progress(1024, at=0.5, retransmissions=3))
    told.tell_all()
    step = told.step()
    assert step["transfers"]["new"] == []
    [[number, state, size, payload, _rate, round_trip, resent]] = step["transfers"]["moved"]
    assert (number, state, size, payload) == (7, "running", 4096, 1024)
    assert (round_trip, resent) == (0.002, 3)


def test_of_many_steps_that_a_browser_missed_it_is_told_the_sum() -> None:
    told, life = Told(), Happening(7)
    told.board(life.received())
    told.board(life.started())
    told.tell_all()
    told.step()
    for payload in range(1, 1001):
        told.tell(as_json(life.progress(payload, at=payload / 1000)))
    assert [moved[3] for moved in told.step()["transfers"]["moved"]] == [1000]


def test_what_has_gone_is_told_as_gone() -> None:
    told, life = Told(), Happening(7)
    told.board(life.received())
    told.tell_all()
    told.step()
    told.tell(as_json(life.ended(payload=4096)))
    step = told.step()
    assert step["transfers"]["gone"] == [7]
    assert step["transfers"]["running"] == 0
    assert [ending["transfer"] for ending in step["endings"]] == [7]


def test_what_came_and_went_between_two_steps_is_told_as_ended_only() -> None:
    told, life = Told(), Happening(7)
    told.step()
    told.tell(as_json(life.received()), as_json(life.ended(payload=4096)))
    step = told.step()
    assert "transfers" not in step
    assert len(step["endings"]) == 1


def test_a_step_is_bounded_whatever_runs_and_fails() -> None:
    told = Told()
    for number in range(1000):
        told.board(Happening(number, name=b"n" * 4000, host=f"192.0.2.{number % 250}").received())
    for number in range(1000, 2000):
        life = Happening(number, name=b"f" * 4000)
        told.board(life.received())
        told.board(life.refused(Refused("no " * 1000)))
    told.tell_all()
    step = told.step()
    assert len(step["transfers"]["new"]) == 200
    assert step["transfers"]["running"] == 1000
    assert len(step["failures"]) == 100
    assert len(json.dumps(step)) < 400_000


def test_words_are_short_and_printable_whatever_a_server_says() -> None:
    told = Told()
    told.tell(greeting() | {"host": "\x1b[2J" * 1000, "addresses": ["\u202e" * 100] * 100})
    failed = as_json(Happening(1).ended(Outcome.ABORTED, Refused("done by \u202e"), payload=1))
    said = {"file": "\ud800" + r"\x07\\" + "\u202e", "peer": "p" * 1000, "outcome": "o" * 1000}
    told.tell({**failed, **said, "operation": "?" * 1000})
    step = told.step()
    [failure] = step["failures"]
    assert failure["file"] == r"\ud800\x07\\\u202e".replace(r"\\\\", r"\\")
    assert failure["message"] == r"done by \u202e"
    assert [len(failure[part]) for part in ("peer", "outcome", "operation")] == [64, 64, 64]
    assert step["about"]["host"].startswith(r"\x1b[2J\x1b[2J")
    assert len(json.dumps(step)) < 4000


def test_those_that_wait_for_a_row_get_one_when_others_go() -> None:
    told = Told()
    lives = [Happening(number) for number in range(201)]
    for life in lives:
        told.board(life.received())
    told.tell_all()
    told.step()
    told.tell(as_json(lives[0].ended()))
    step = told.step()
    assert step["transfers"]["gone"] == [0]
    assert [row["transfer"] for row in step["transfers"]["new"]] == [200]


def test_another_server_process_is_a_new_beginning() -> None:
    told, life = Told(), Happening(7)
    told.board(life.received())
    told.tell_all()
    told.step()
    told.tell(greeting(pid=2))
    told.tell_all()
    step = told.step()
    assert step["reset"]
    assert step["about"]["pid"] == 2
    assert [row["transfer"] for row in step["transfers"]["new"]] == [7]


def test_the_same_server_process_goes_on_after_a_pause() -> None:
    told = Told()
    told.step()
    told.tell(
        {"event": "disconnected", "time": NOON + 1, "reason": "gone", "retry": 1.0},
        greeting() | {"time": NOON + 5},
    )
    assert "reset" not in told.step()


def test_the_chart_gets_each_point_once() -> None:
    told = Told()
    told.step()
    points = []
    for second in range(3):
        told.tell({"event": "totals", "state": "serving", **told.board.totals(), "time": second})
        points += told.step()["samples"]
    assert points == [(0, 0, 0), (1, 0, 0), (2, 0, 0)]


# -- what is asked of the server -------------------------------------------------------------------


class Played:
    """A server's channel, played by a test."""

    def __init__(self, sock: socket.socket) -> None:
        self._sock, self._file = sock, sock.makefile("rb")
        self.orders: queue.Queue[Message] = queue.Queue()
        self._thread = threading.Thread(target=self._read, daemon=True)
        self._thread.start()

    def say(self, message: Message) -> None:
        self._sock.sendall(json.dumps(message).encode() + b"\n")

    def order(self) -> Message:
        return self.orders.get(timeout=PATIENCE)

    def close(self) -> None:
        self._sock.shutdown(socket.SHUT_RDWR)
        self._thread.join()
        self._file.close()
        self._sock.close()

    def _read(self) -> None:
        for line in self._file:
            self.orders.put(json.loads(line))


@contextmanager
def watching() -> Iterator[tuple[Watch, Played]]:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.settimeout(PATIENCE)
        watch = Watch([f"127.0.0.1:{listener.getsockname()[1]}"])
        watch.start()
        played = Played(listener.accept()[0])
        try:
            played.say(greeting())
            played.say(snapshot(Board()))
            yield watch, played
        finally:
            watch.stop()
            played.close()


def test_while_nobody_looks_a_server_is_asked_for_sums_alone() -> None:
    with watching() as (watch, played):
        order = played.order()
        assert (order["command"], order["kinds"]) == ("subscribe", ["state", "totals"])
        with watch.looking():
            order = played.order()
            assert (order["command"], order["kinds"]) == ("subscribe", ["all"])
            assert played.order()["command"] == "snapshot"
        order = played.order()
        assert (order["command"], order["kinds"]) == ("subscribe", ["state", "totals"])


def test_a_snapshot_is_not_asked_for_again_before_the_last_one_has_come() -> None:
    with watching() as (watch, played):
        played.order()
        with watch.looking():
            played.order()
            first = played.order()
            # What is lost before the answer is in the answer.
            played.say({"event": "lost", "time": NOON, "progress": 1, "others": 1})
            played.say({**snapshot(Board()), "id": first["id"]})
            # What is lost after it is not.
            played.say({"event": "lost", "time": NOON, "progress": 0, "others": 1})
            assert played.order()["command"] == "snapshot"
            assert played.orders.empty()
