"""When the process engine adds children: at once where they wait, reluctantly where they work."""

import itertools
import os

import pytest

from tftp.net.processor import Spent
from tftp.server.growth import Growth

PROCESSORS = os.cpu_count() or 1
WARM = 2 * PROCESSORS
#: What share of its time a child wants a processor.
WORKS, WAITS = 0.9, 0.1


class Storm:
    """Requests that come all at once, and children that each work on one for ever."""

    def __init__(self, share: float | None, waiting: int) -> None:
        self.share = share
        self.waiting = waiting
        self.growth = Growth(WARM, self._spent)
        self.began = self.now = 100.0
        self.busy = WARM
        self.wanted = self.turns = 0.0
        self.growth.begin(self.now)

    def _spent(self, process: int) -> Spent | None:
        if self.share is None:
            return None
        # Whether it runs or waits for a processor makes no difference.
        return Spent(self.wanted / 3, self.wanted * 2 / 3)

    def go_on(self, seconds: float, *, rate: float = 0.0) -> None:
        """So much time passes; so many requests a second get their turn at one that has ended."""
        until = self.now + seconds
        while self.now < until - 1e-9:
            self.now += 0.01
            self.wanted += 0.01 * (self.share or 0.0)
            self.turns += rate * 0.01 + 1e-9
            begun = min(self.growth.places - self.busy, self.waiting)
            self.busy += begun
            done = min(int(self.turns), self.waiting - begun)
            self.turns %= 1
            self.waiting -= begun + done
            self.growth.look(
                self.now,
                busy=range(self.busy),
                since=[self.began] * self.waiting,
                served=begun + done,
            )


def test_where_children_wait_for_their_clients_their_number_doubles_while_somebody_waits() -> None:
    # A hundredth is what a client takes that is far away: even many of them leave time.
    storm = Storm(0.01, 100)
    storm.go_on(0.005)
    assert storm.growth.places == 2 * WARM, "at once"
    storm.go_on(0.035)
    assert storm.growth.places == 2 * WARM
    storm.go_on(0.03)
    assert storm.growth.places == 4 * WARM
    storm.go_on(1.0)
    assert storm.growth.places == WARM + 100


def test_many_that_each_want_little_keep_the_processors_busy_as_well() -> None:
    storm = Storm(0.1, 1000)
    storm.go_on(2.0)
    assert storm.growth.places < 20 * PROCESSORS


def test_where_nobody_knows_what_they_do_requests_do_not_wait() -> None:
    storm = Storm(None, 3)
    storm.go_on(0.01)
    assert storm.growth.places == WARM + 3


def test_where_children_work_requests_wait_for_their_turn() -> None:
    storm = Storm(WORKS, 100)
    storm.go_on(7.0, rate=15)
    assert storm.waiting == 0
    assert storm.growth.places == 2 * WARM, "what it grew by before anything was known"


@pytest.mark.parametrize("rate", [0, 10, 60])
def test_who_would_wait_for_too_long_gets_a_child_one_after_the_other(rate: int) -> None:
    storm = Storm(WORKS, 600)
    storm.go_on(1.9, rate=rate)
    assert storm.growth.places == 2 * WARM
    seen = [storm.growth.places]
    while storm.waiting and storm.now < storm.began + 8.2:
        storm.go_on(0.1, rate=rate)
        seen.append(storm.growth.places)
    assert storm.waiting == 0
    steps = [after - before for before, after in itertools.pairwise(seen)]
    missing = 600 - 8 * rate
    assert seen[-1] == pytest.approx(missing, rel=0.15)
    assert max(steps[:-3]) <= missing / 50 * 1.5, "no crowd all at once"


def test_who_comes_later_has_his_own_time() -> None:
    storm = Storm(WORKS, 0)
    growth = storm.growth
    growth.look(100.0, busy=range(WARM), since=[100.0], served=0)
    before = growth.places
    for step in range(1, 80):
        now = 100.0 + step / 10
        storm.wanted = WORKS * step / 10
        since = [now - 0.5 - place / 1000 for place in range(40, 0, -1)]
        growth.look(now, busy=range(before), since=since, served=10)
    assert growth.places == before, "a queue that moves needs nobody more, however long it is"


def test_children_that_begin_to_wait_are_noticed() -> None:
    storm = Storm(WORKS, 100)
    storm.go_on(1.0, rate=30)
    assert storm.growth.places == 2 * WARM
    storm.share = 0.01
    storm.go_on(0.11, rate=30)
    assert storm.growth.places >= 4 * WARM


def test_places_are_given_up_when_their_work_is_done_and_nobody_waits() -> None:
    growth = Growth(4, lambda process: None)
    growth.begin(100.0)
    growth.look(100.1, busy=range(60), since=[100.0] * 40, served=0)
    assert growth.places == 100
    growth.end(busy=98)
    assert growth.places == 100
    growth.end(busy=50)
    assert growth.places == 54
    growth.end(busy=0)
    assert growth.places == 4


@pytest.mark.parametrize("share", [WAITS, WORKS])
def test_nobody_is_asked_while_nobody_waits(share: float) -> None:
    asked: list[int] = []

    def spent(process: int) -> Spent:
        asked.append(process)
        return Spent(share, 0.0)

    growth = Growth(4, spent)
    growth.look(1.0, busy=range(4), since=[], served=0)
    assert not asked
    assert growth.places == 4
