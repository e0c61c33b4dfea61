"""The mirror: what a reader knows is what the board knows."""

import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.monitor.happening import Happening
from tftp.errors import Refused
from tftp.events import Event, Outcome, as_json
from tftp.monitor import mirror as mirror_module
from tftp.monitor.board import Board
from tftp.monitor.mirror import Mirror

LIMITS = {"max_transfers": 5000, "max_blksize": 65464, "max_windowsize": 64}


def snapshot(board: Board) -> dict[str, Any]:
    message = {"event": "snapshot", "state": "serving", "limits": LIMITS, **board.snapshot()}
    copied: dict[str, Any] = json.loads(json.dumps(message))
    return copied


class Scene:
    """A board, and a mirror that is told what a channel would tell."""

    def __init__(self) -> None:
        self.board = Board()
        self.mirror = Mirror("here")
        self.board.follow(self._tell)

    def tell(self, *events: Event) -> None:
        for event in events:
            self.board(event)

    def _tell(self, sequence: int, event: Event) -> None:
        line = json.dumps({**as_json(event), "sequence": sequence, "server": "here"})
        self.mirror.apply(json.loads(line))

    def look(self) -> None:
        self.mirror.apply(snapshot(self.board))


_STEPS = st.lists(
    st.tuples(
        st.integers(0, 5),
        st.sampled_from(["received", "started", "progress", "ended", "failed", "refused", "look"]),
        st.integers(0, 5000),
    ),
    max_size=60,
)


@settings(max_examples=150, deadline=None)
@given(_STEPS)
def test_snapshot_and_events_come_to_the_same_as_a_later_snapshot(
    steps: list[tuple[int, str, int]],
) -> None:
    scene = Scene()
    scene.look()
    lives: dict[int, Happening] = {}
    count = 0
    for slot, step, octets in steps:
        one = lives.get(slot)
        match step:
            case "look":
                scene.look()
            case "received" if one is None:
                count += 1
                lives[slot] = Happening(count)
                scene.tell(lives[slot].received())
            case "started" if one is not None:
                scene.tell(one.started())
            case "progress" if one is not None:
                scene.tell(one.progress(octets, at=octets / 1000))
            case "ended" if one is not None:
                scene.tell(lives.pop(slot).ended(payload=octets))
            case "failed" if one is not None:
                scene.tell(lives.pop(slot).ended(Outcome.TIMED_OUT, Refused("too late")))
            case "refused" if one is not None:
                scene.tell(lives.pop(slot).refused())
    truth, mirror = snapshot(scene.board), scene.mirror
    assert list(mirror.transfers) == [row["transfer"] for row in truth["transfers"]]
    for row in truth["transfers"]:
        mine = mirror.transfers[row["transfer"]]
        for part in row.keys() - {"duration", "rate"}:
            assert mine[part] == row[part], part
    for part in ("endings", "failures"):
        theirs = [event["transfer"] for event in truth[part]]
        assert [event["transfer"] for event in getattr(mirror, part)] == theirs


def test_the_rate_is_that_of_the_last_interval() -> None:
    scene = Scene()
    one = Happening(1)
    scene.tell(one.received(), one.started(), one.progress(1000, at=0.25))
    assert scene.mirror.transfers[1]["rate"] == 4000
    scene.tell(one.progress(3000, at=0.5))
    assert scene.mirror.transfers[1]["rate"] == 8000
    assert scene.mirror.transfers[1]["duration"] == 0.5


def test_a_greeting_is_a_connection_and_a_loss_is_none() -> None:
    mirror = Mirror("here")
    assert not mirror.connected
    mirror.apply({"event": "greeting", "access": "act", "time": 5.0})
    assert mirror.connected
    assert mirror.reason is None
    assert mirror.time == 5.0
    mirror.apply({"event": "received", "time": 6.0, "sequence": 1, **_request(1)})
    mirror.apply({"event": "disconnected", "time": 7.0, "reason": "gone", "retry": 1.0})
    assert not mirror.connected
    assert (mirror.reason, mirror.state) == ("gone", "unknown")
    assert mirror.transfers == {}


def test_state_totals_and_losses_are_taken_over() -> None:
    mirror = Mirror("here")
    mirror.apply({"event": "state", "time": 1.0, "state": "draining", "limits": LIMITS})
    assert (mirror.state, mirror.limits) == ("draining", LIMITS)
    totals = {"read": 1, "write": 2, "new": "in the future"}
    mirror.apply({"event": "totals", "time": 2.0, "state": "serving", "totals": totals})
    assert (mirror.state, mirror.totals) == ("serving", {"read": 1, "write": 2})
    mirror.apply({"event": "lost", "time": 3.0, "progress": 3, "others": 4})
    assert mirror.lost == 7
    mirror.apply(snapshot(Board()))
    assert mirror.lost == 0


def test_progress_of_what_is_not_known_is_passed_over() -> None:
    mirror = Mirror("here")
    one = Happening(1)
    mirror.apply({**as_json(one.progress(1, at=1.0)), "sequence": 1})
    assert mirror.transfers == {}


def test_kinds_that_are_not_known_change_nothing() -> None:
    mirror = Mirror("here")
    mirror.apply({"event": "new-in-the-future", "time": "at noon"})
    assert mirror.time == 0.0
    assert mirror.transfers == {}


def test_the_loss_of_the_connection_does_not_set_the_server_s_clock() -> None:
    mirror = Mirror("here")
    mirror.apply({"event": "greeting", "access": "act", "time": 5.0})
    mirror.apply({"event": "disconnected", "time": 70.0, "reason": "gone", "retry": 1.0})
    assert mirror.time == 5.0


def test_what_is_remembered_is_bounded_whatever_a_server_tells(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(mirror_module, "_TRANSFERS", 100)
    mirror = Mirror("here")
    options = {f"option{number}": "v" * 10_000 for number in range(100)}
    for number in range(1000):
        life = Happening(number, name=b"n" * 10_000)
        for event in (life.received(), life.started(), life.progress(1, at=0.1)):
            mirror.apply(
                {**as_json(event), "asked": options, "granted": options, "more": "m" * 999}
            )
    assert list(mirror.transfers) == list(range(900, 1000))
    for number in range(1000):
        ended = as_json(Happening(number).ended(Outcome.TIMED_OUT, Refused("no " * 10_000)))
        mirror.apply({**ended, "granted": options, "more": "m" * 10_000})
    assert len(mirror.failures) == len(mirror.endings) == 200
    for row in (*mirror.failures, *mirror.endings, *mirror.transfers.values()):
        assert len(json.dumps(row)) < 100_000
        assert "more" not in row


def _request(number: int) -> dict[str, Any]:
    received = as_json(Happening(number).received())
    return {name: received[name] for name in received if name not in ("event", "time")}
