"""The two ways to wait, on a clock of the test's own."""

import pytest

from tftp.net.processor import Crowding, Spent
from tftp.net.waiting import Sleeping, Waiting

READY = [(3, 1)]


class World:
    """What is waited for comes `answer` seconds after the wait began; to wake up costs `waking`."""

    def __init__(self, answer: float, waking: float) -> None:
        self.answer = answer
        self.waking = waking
        self.now = 0.0
        self.asleep = 0
        self.looks = 0
        self._comes = 0.0
        self.crowded = False
        self._waited = 0.0
        crowding = Crowding(lambda: self.now, self._spent)
        self.waiting = Waiting(self._poll, lambda: self.now, crowding)

    def wait(self, times: int = 1, seconds: float | None = None) -> None:
        """Wait so often, each time for something new."""
        for _ in range(times):
            self._comes = self.now + self.answer
            ready, now = self.waiting.wait(seconds)
            assert now == self.now
            assert ready == (READY if self.now >= self._comes else [])

    def _spent(self) -> Spent:
        if self.crowded:
            self._waited = self.now
        return Spent(0.0, self._waited)

    def _poll(self, seconds: float | None) -> list[tuple[int, int]]:
        if seconds == 0:
            self.looks += 1
            self.now += 1e-6
        elif self.now < self._comes:
            self.asleep += 1
            until = self._comes if seconds is None else min(self._comes, self.now + seconds)
            self.now = until + self.waking
        return READY if self.now >= self._comes else []


def test_looking_is_kept_where_waking_up_takes_longer_than_the_answer() -> None:
    world = World(answer=10e-6, waking=30e-6)
    world.wait(2000)
    assert world.waiting.looking
    world.asleep = 0
    world.wait(5440)
    assert world.asleep == 320, "asleep for 32 waits in 544"


@pytest.mark.parametrize("answer", [150e-6, 5e-3, 10.0])
def test_nobody_looks_out_for_an_answer_that_takes_long(answer: float) -> None:
    world = World(answer=answer, waking=30e-6)
    world.wait(64)
    for _ in range(10):
        assert not world.waiting.looking
        looks, began = world.looks, world.now
        world.wait(544)
        # One wait in seventeen looks, for sixty microseconds at the most.
        assert (world.looks - looks) * 1e-6 <= 32 * 62e-6
        assert world.now - began <= 544 * (answer + 31e-6) + 32 * 62e-6


def test_nobody_looks_out_where_waking_up_is_cheap() -> None:
    world = World(answer=10e-6, waking=1e-6)
    world.wait(64)
    assert not world.waiting.looking


def test_another_world_is_noticed() -> None:
    world = World(answer=10e-6, waking=30e-6)
    world.wait(1000)
    world.answer = 1e-3
    world.wait(1100)
    assert not world.waiting.looking
    world.answer = 10e-6
    world.wait(1100)
    assert world.waiting.looking


def test_who_looks_in_vain_sleeps_for_the_time_that_was_asked() -> None:
    world = World(answer=10e-6, waking=30e-6)
    world.wait(64)
    assert world.waiting.looking
    world.answer = 1.0
    began = world.now
    world.wait(seconds=0.5)
    assert 0.5 <= world.now - began <= 0.5 + 100e-6


def test_no_time_to_wait_is_one_look() -> None:
    world = World(answer=1.0, waking=30e-6)
    for times in (10, 60, 500):
        world.wait(times)
        looks = world.looks
        world.wait(seconds=0)
        assert world.looks == looks + 1


def test_whoever_sleeps_never_looks() -> None:
    asked: list[float | None] = []

    def poll(seconds: float | None) -> list[tuple[int, int]]:
        asked.append(seconds)
        return READY

    waiting = Sleeping(poll)
    for _ in range(2000):
        ready, _now = waiting.wait(0.5)
        assert ready == READY
    assert asked == [0.5] * 2000, "once for each wait"


def test_nobody_looks_while_others_want_the_processor() -> None:
    world = World(answer=10e-6, waking=30e-6)
    world.wait(2000)
    assert world.waiting.looking
    world.crowded = True
    world.wait(12_000)
    assert not world.waiting.looking
    looks = world.looks
    world.wait(5000)
    assert world.looks == looks, "nor is it tried"
    world.crowded = False
    world.wait(1200)
    assert world.waiting.looking
