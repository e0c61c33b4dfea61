"""The reactor, with handlers on socket pairs and handlers that have nothing but deadlines."""

import contextlib
import logging
import os
import select
import socket
import threading
import time
import weakref
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.watching import descriptors, eventually
from tests.wirepeer import PATIENCE
from tftp.net.reactor import Handler, Reactor


class Recorder:
    """A handler that notes what is done to it, and does what a test tells it to."""

    def __init__(self, sock: socket.socket | None = None) -> None:
        self.armed = 0.0
        self.deadline: float | None = None
        self.blocked = False
        self.finished = False
        self.sock = sock
        self.calls: list[str] = []
        self.errors: list[Exception] = []
        self.came: list[bytes] = []
        self.then: dict[str, Callable[[float], object]] = {}

    def fileno(self) -> int:
        return -1 if self.sock is None else self.sock.fileno()

    def readable(self, now: float) -> None:
        assert self.sock is not None
        try:
            self.came.append(self.sock.recv(4096))
        except BlockingIOError:
            return  # A handler may be called in vain.
        self.calls.append("readable")
        self._then("readable", now)

    def writable(self, now: float) -> None:
        self.calls.append("writable")
        self.blocked = False
        self._then("writable", now)

    def expire(self, now: float) -> None:
        self.calls.append("expire")
        self.deadline = None
        self._then("expire", now)

    def failed(self, error: Exception) -> None:
        self.calls.append("failed")
        self.errors.append(error)
        self.finished = True
        self._then("failed", 0.0)

    def close(self) -> None:
        self.calls.append("close")
        if self.sock is not None:
            self.sock.close()
        self._then("close", 0.0)

    def _then(self, call: str, now: float) -> None:
        if call in self.then:
            self.then[call](now)


def fault(_now: float) -> None:
    raise ValueError("a fault of the program")


@pytest.fixture
def dropped() -> list[Handler]:
    return []


@pytest.fixture(params=["epoll", "poll"])
def reactor(
    request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch, dropped: list[Handler]
) -> Iterator[Reactor]:
    if request.param == "poll":
        monkeypatch.delattr(select, "epoll")
    made = Reactor(dropped=dropped.append)
    yield made
    made.close()


@pytest.fixture
def pair() -> Iterator[tuple[Recorder, socket.socket]]:
    """A handler, and the other end of its socket."""
    near, far = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
    near.setblocking(False)
    far.setblocking(False)
    with near, far:
        yield Recorder(near), far


def turns(reactor: Reactor, until: Callable[[], bool]) -> int:
    """Turn until something is so; returns how often."""
    give_up = time.monotonic() + PATIENCE
    count = 0
    while not until():
        assert time.monotonic() < give_up
        reactor.turn()
        count += 1
    return count


def exhaust(call: Callable[[], object]) -> None:
    """Repeat a call until it would block."""
    with contextlib.suppress(BlockingIOError):
        while True:
            call()


# -- descriptors ----------------------------------------------------------------------------------


def test_a_handler_is_told_what_there_is_to_receive(
    reactor: Reactor, pair: tuple[Recorder, socket.socket]
) -> None:
    handler, far = pair
    reactor.add(handler)
    far.send(b"x")
    reactor.turn()
    assert handler.calls == ["readable"]


def test_a_second_descriptor_of_a_handler_is_read_by_itself_and_goes_with_it(
    reactor: Reactor, pair: tuple[Recorder, socket.socket], dropped: list[Handler]
) -> None:
    handler, far = pair
    beside, strange = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
    came: list[bytes] = []
    with beside, strange:
        reactor.add(handler, (beside.fileno(), lambda now: came.append(beside.recv(99))))
        strange.send(b"beside")
        turns(reactor, lambda: bool(came))
        assert handler.calls == []
        far.send(b"front")
        turns(reactor, lambda: bool(handler.came))
        assert (came, handler.came) == ([b"beside"], [b"front"])
        handler.finished = True
        reactor.settle(handler)
        assert dropped == [handler]
        strange.send(b"too late")
        reactor.call(lambda: None)
        reactor.turn()
        assert came == [b"beside"]


def test_a_handler_that_says_that_nothing_has_changed_is_not_looked_at(
    reactor: Reactor, pair: tuple[Recorder, socket.socket], dropped: list[Handler]
) -> None:
    handler, far = pair

    class Steady(Recorder):
        answer = True

        def readable(self, now: float) -> bool:  # type: ignore[override]
            super().readable(now)
            return self.answer

    steady = Steady(handler.sock)
    reactor.add(steady)
    steady.finished = True
    far.send(b"first")
    turns(reactor, lambda: len(steady.came) == 1)
    assert dropped == []
    steady.answer = False
    far.send(b"second")
    turns(reactor, lambda: len(steady.came) == 2)
    assert dropped == [steady]


def test_a_handler_that_has_finished_is_dropped_and_closed(
    reactor: Reactor, dropped: list[Handler], pair: tuple[Recorder, socket.socket]
) -> None:
    handler, far = pair
    reactor.add(handler)
    handler.then["readable"] = lambda now: setattr(handler, "finished", True)
    far.send(b"x")
    reactor.turn()
    assert handler.calls == ["readable", "close"]
    assert dropped == [handler]
    assert len(reactor) == 0


def test_a_handler_that_is_finished_from_the_start_is_dropped_at_once(
    reactor: Reactor, dropped: list[Handler]
) -> None:
    handler = Recorder()
    handler.finished = True
    reactor.add(handler)
    assert dropped == [handler]
    assert handler.calls == ["close"]


def test_a_blocked_handler_is_told_when_there_is_room(
    reactor: Reactor, pair: tuple[Recorder, socket.socket]
) -> None:
    handler, far = pair
    assert handler.sock is not None
    near = handler.sock
    exhaust(lambda: near.send(bytes(4096)))
    handler.blocked = True
    handler.deadline = time.monotonic() + 0.05
    reactor.add(handler)
    turns(reactor, lambda: "expire" in handler.calls)
    assert handler.calls == ["expire"]  # There was no room all the time.
    exhaust(lambda: far.recv(4096))
    turns(reactor, lambda: len(handler.calls) > 1)
    assert handler.calls == ["expire", "writable"]
    handler.deadline = time.monotonic() + 0.02
    reactor.settle(handler)
    turns(reactor, lambda: len(handler.calls) > 2)
    assert handler.calls[2:] == ["expire"]  # It is not told of room that it does not wait for.


def test_a_blocked_handler_without_a_descriptor_tries_again_soon(reactor: Reactor) -> None:
    handler = Recorder()
    handler.blocked = True
    handler.deadline = time.monotonic() + 60
    tries = iter([True, True, False])
    handler.then["writable"] = lambda now: setattr(handler, "blocked", next(tries))
    reactor.add(handler)
    began = time.monotonic()
    turns(reactor, lambda: not handler.blocked)
    assert handler.calls == ["writable"] * 3
    assert 0.005 < time.monotonic() - began < 5
    assert handler.deadline is not None


def test_a_blocked_handler_without_a_descriptor_still_has_its_deadline(reactor: Reactor) -> None:
    handler = Recorder()
    handler.blocked = True
    handler.deadline = time.monotonic() + 0.03
    handler.then["writable"] = lambda now: setattr(handler, "blocked", True)
    reactor.add(handler)
    turns(reactor, lambda: "expire" in handler.calls)
    assert handler.calls.count("writable") >= 2


def test_a_handler_dropped_by_another_in_the_same_turn_is_not_served(reactor: Reactor) -> None:
    ends = [socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM) for _ in range(2)]
    handlers = [Recorder(near) for near, _ in ends]

    def finish_both(now: float) -> None:
        for handler in handlers:
            handler.finished = True
            reactor.settle(handler)

    for handler, (_, far) in zip(handlers, ends, strict=True):
        handler.then["readable"] = finish_both
        reactor.add(handler)
        far.send(b"x")
    reactor.turn()
    assert sorted(call for handler in handlers for call in handler.calls) == [
        "close",
        "close",
        "readable",
    ]
    for _, far in ends:
        far.close()


def test_a_new_handler_on_the_descriptor_of_a_dropped_one_is_not_taken_for_it(
    reactor: Reactor,
) -> None:
    ends = [socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM) for _ in range(2)]
    fresh_near, fresh_far = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
    fresh_near.setblocking(False)
    handlers = [Recorder(near) for near, _ in ends]
    fresh: list[Recorder] = []

    def replace_the_other(now: float) -> None:
        if fresh:
            return
        other = next(handler for handler in handlers if "readable" not in handler.calls)
        number = other.fileno()
        other.finished = True
        reactor.settle(other)
        os.dup2(fresh_near.fileno(), number)
        fresh.append(Recorder(socket.socket(fileno=number)))
        reactor.add(fresh[0])

    for handler, (_, far) in zip(handlers, ends, strict=True):
        handler.then["readable"] = replace_the_other
        reactor.add(handler)
        far.send(b"old")
    reactor.turn()
    assert fresh[0].calls == []
    fresh_far.send(b"new")
    reactor.turn()
    assert fresh[0].calls == ["readable"]
    assert fresh[0].came == [b"new"]
    for sock in (fresh_near, fresh_far, *(far for _, far in ends)):
        sock.close()


def test_a_released_handler_stays_open_and_is_not_served(
    reactor: Reactor, dropped: list[Handler], pair: tuple[Recorder, socket.socket]
) -> None:
    handler, far = pair
    handler.deadline = time.monotonic()
    reactor.add(handler)
    reactor.release(handler)
    far.send(b"x")
    reactor.call(lambda: None)
    reactor.turn()
    assert handler.calls == []
    assert dropped == []
    assert handler.sock is not None
    assert handler.sock.recv(10) == b"x"
    reactor.release(handler)  # A second time there is nothing to do.


def test_a_handler_that_is_not_here_is_not_settled(reactor: Reactor) -> None:
    handler = Recorder()
    handler.finished = True
    reactor.settle(handler)
    assert handler.calls == []


# -- deadlines ------------------------------------------------------------------------------------


def test_deadlines_are_met_in_their_order_and_not_before(reactor: Reactor) -> None:
    began = time.monotonic()
    order: list[str] = []
    for name, wait in (("late", 0.04), ("early", 0.02)):
        handler = Recorder()
        handler.deadline = began + wait
        handler.then["expire"] = lambda now, name=name, wait=wait: order.append(  # type: ignore[misc]
            name if now >= began + wait else "too early"
        )
        reactor.add(handler)
    turns(reactor, lambda: len(order) == 2)
    assert order == ["early", "late"]


def test_a_deadline_that_moves_later_is_met_then_and_once(reactor: Reactor) -> None:
    handler = Recorder()
    began = time.monotonic()
    handler.deadline = began + 0.01
    reactor.add(handler)
    for step in range(10):
        handler.deadline = began + 0.02 + step / 1000
        reactor.settle(handler)
    turns(reactor, lambda: bool(handler.calls))
    assert time.monotonic() >= began + 0.029
    assert handler.calls == ["expire"]


def test_a_deadline_that_moves_earlier_is_met_then(reactor: Reactor) -> None:
    handler = Recorder()
    began = time.monotonic()
    handler.deadline = began + 60
    reactor.add(handler)
    handler.deadline = began + 0.01
    reactor.settle(handler)
    turns(reactor, lambda: bool(handler.calls))
    assert time.monotonic() < began + 30


def test_deadlines_that_moved_leave_nothing_behind_that_wakes_the_loop(reactor: Reactor) -> None:
    handler = Recorder()
    began = time.monotonic()
    handler.deadline = began + 0.2
    reactor.add(handler)
    # A sender that pauses inside its window does this: soon, and then late again.
    for _ in range(50):
        handler.deadline = time.monotonic() + 0.0005
        reactor.settle(handler)
        reached = len(handler.calls) + 1
        turns(reactor, lambda: len(handler.calls) >= reached)  # noqa: B023
        handler.deadline = began + 0.3
        reactor.settle(handler)
    assert handler.calls == ["expire"] * 50
    count = turns(reactor, lambda: len(handler.calls) > 50)
    assert count <= 4
    assert handler.calls == ["expire"] * 51


def test_handlers_that_are_gone_are_not_kept_for_their_deadlines(
    reactor: Reactor, dropped: list[Handler]
) -> None:
    late = Recorder()
    late.deadline = time.monotonic() + 0.05
    reactor.add(late)
    gone = []
    for _ in range(1000):
        handler = Recorder()
        handler.deadline = time.monotonic() + 3600
        reactor.add(handler)
        handler.finished = True
        reactor.settle(handler)
        gone.append(weakref.ref(handler))
    dropped.clear()
    del handler
    assert sum(remembered() is not None for remembered in gone) <= 70
    turns(reactor, lambda: late.calls == ["expire"])


def test_a_deadline_that_is_taken_back_is_not_met(reactor: Reactor) -> None:
    handler = Recorder()
    handler.deadline = time.monotonic() + 0.01
    reactor.add(handler)
    handler.deadline = None
    reactor.settle(handler)
    other = Recorder()
    other.deadline = time.monotonic() + 0.03
    reactor.add(other)
    turns(reactor, lambda: bool(other.calls))
    assert handler.calls == []


# -- faults ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("call", ["readable", "writable", "expire"])
def test_a_fault_of_one_handler_is_its_own_affair(
    reactor: Reactor, pair: tuple[Recorder, socket.socket], call: str
) -> None:
    handler, far = pair
    handler.then[call] = fault
    match call:
        case "readable":
            far.send(b"x")
        case "writable":
            handler.blocked = True
        case "expire":
            handler.deadline = time.monotonic()
    other = Recorder()
    other.deadline = time.monotonic()
    reactor.add(handler)
    reactor.add(other)
    turns(reactor, lambda: bool(handler.errors and other.calls))
    assert handler.calls == [call, "failed", "close"]
    assert str(handler.errors[0]) == "a fault of the program"
    assert other.calls == ["expire"]


def test_a_handler_that_can_not_even_fail_is_dropped(
    reactor: Reactor, dropped: list[Handler], caplog: pytest.LogCaptureFixture
) -> None:
    handler = Recorder()
    handler.deadline = time.monotonic()
    handler.then.update(expire=fault, failed=fault)
    reactor.add(handler)
    turns(reactor, lambda: bool(dropped))
    assert handler.calls == ["expire", "failed", "close"]
    assert "could not even fail" in caplog.text


def test_a_handler_that_can_not_be_closed_is_dropped_all_the_same(
    reactor: Reactor, dropped: list[Handler], caplog: pytest.LogCaptureFixture
) -> None:
    handler = Recorder()
    handler.finished = True
    handler.then["close"] = fault
    reactor.add(handler)
    assert dropped == [handler]
    assert "could not be closed" in caplog.text


def test_what_is_driven_from_outside_is_contained_and_noted_as_well(
    reactor: Reactor, dropped: list[Handler]
) -> None:
    handler = Recorder()
    reactor.add(handler)
    assert reactor.drive(handler, lambda: "result") == "result"
    assert not dropped
    assert reactor.drive(handler, fault, 0.0) is None
    assert handler.calls == ["failed", "close"]
    assert dropped == [handler]


# -- other threads --------------------------------------------------------------------------------


@pytest.fixture
def running(reactor: Reactor) -> Iterator[Reactor]:
    """A reactor that runs in a thread."""
    over = threading.Event()
    thread = threading.Thread(target=reactor.run, args=(over.is_set,))
    thread.start()
    yield reactor
    over.set()
    reactor.call(lambda: None)
    thread.join(PATIENCE)
    assert not thread.is_alive()


def test_a_call_from_another_thread_is_made_inside(running: Reactor) -> None:
    inside: list[bool] = []
    running.call(lambda: inside.append(running.inside))
    assert eventually(lambda: inside == [True])
    assert not running.inside


def test_no_call_of_many_threads_is_lost_and_each_threads_stay_in_order(running: Reactor) -> None:
    made: dict[int, list[int]] = {number: [] for number in range(8)}

    def call(number: int) -> None:
        for step in range(500):
            running.call(lambda step=step: made[number].append(step))  # type: ignore[misc]

    callers = [threading.Thread(target=call, args=(number,)) for number in made]
    for caller in callers:
        caller.start()
    for caller in callers:
        caller.join()
    assert eventually(lambda: all(len(steps) == 500 for steps in made.values()))
    assert all(steps == sorted(steps) for steps in made.values())


def test_a_call_that_fails_is_logged_and_the_next_is_made(
    running: Reactor, caplog: pytest.LogCaptureFixture
) -> None:
    done = threading.Event()
    with caplog.at_level(logging.ERROR):
        running.call(lambda: fault(0))
        running.call(done.set)
        assert done.wait(PATIENCE)
    assert "a call into the reactor failed" in caplog.text


def test_a_reactor_that_does_not_run_has_no_inside(reactor: Reactor) -> None:
    inside: list[bool] = []
    reactor.call(lambda: inside.append(reactor.inside))
    reactor.run(lambda: bool(inside))
    assert inside == [True]
    assert not reactor.inside


def test_a_call_made_by_a_call_is_made_in_the_next_turn(reactor: Reactor) -> None:
    made: list[int] = []

    def first() -> None:
        made.append(1)
        reactor.call(lambda: made.append(2))

    reactor.call(first)
    reactor.turn()
    assert made == [1]  # A call that calls itself again must not keep the others from their turn.
    reactor.turn()
    assert made == [1, 2]


def test_a_closed_reactor_makes_no_call_and_takes_them_all() -> None:
    reactor = Reactor()
    reactor.close()
    made: list[int] = []
    for _ in range(3):
        reactor.call(lambda: made.append(1))
    assert made == []


@pytest.mark.parametrize("event", [True, False], ids=["eventfd", "pipe"])
def test_closing_leaves_no_descriptor(event: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    if not event:
        monkeypatch.delattr(os, "eventfd", raising=False)
    before = descriptors()
    dropped: list[Handler] = []
    reactor = Reactor(dropped=dropped.append)
    assert descriptors() != before
    near, far = socket.socketpair()
    handlers: list[Handler] = [Recorder(near), Recorder()]
    for handler in handlers:
        reactor.add(handler)
    woken: list[bool] = []
    for _ in range(3):
        reactor.call(lambda: woken.append(True))
    reactor.turn()
    assert woken == [True] * 3
    reactor.close()
    far.close()
    assert set(dropped) == set(handlers)
    assert descriptors() <= before


def test_a_handler_that_can_not_be_watched_is_not_taken_in(tmp_path: Path) -> None:
    # epoll refuses a regular file.
    reactor = Reactor()
    with (tmp_path / "file").open("wb") as file:

        class OnFile(Recorder):
            def fileno(self) -> int:
                return file.fileno()

        with pytest.raises(PermissionError):
            reactor.add(OnFile())
        near, far = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
        with near, far:
            handler = Recorder(near)
            with pytest.raises(PermissionError):
                reactor.add(handler, (file.fileno(), fault))
            far.send(b"nobody takes it")
            reactor.call(lambda: None)
            reactor.turn()
            assert handler.calls == []
    assert len(reactor) == 0
    reactor.close()
