"""When the process engine adds children: at once where they wait, reluctantly where they work."""

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
        self._wanted = 0.0
        self.growth.begin(self.now)

    def _spent(self, process: int) -> Spent | None:
        if self.share is None:
            return None
        # Whether it runs or waits for a processor makes no difference.
        return Spent(self._wanted / 3, self._wanted * 2 / 3)

    def go_on(self, seconds: float, *, rate: float = 0.0) -> None:
        """So much time passes; so many requests a second get their turn at one that has ended."""
        until, served = self.now + seconds, 0.0
        while self.now < until:
            self.now += 0.01
            self._wanted += 0.01 * (self.share or 0.0)
            served += rate * 0.01
            begun = min(self.growth.places - self.busy, self.waiting)
            self.busy += begun
            done, served = int(served), served % 1
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
    assert storm.growth.places == storm.growth.children == 2 * WARM, "at once"
    storm.go_on(0.035)
    assert storm.growth.places == 2 * WARM
    storm.go_on(0.03)
    assert storm.growth.places == 4 * WARM
    storm.go_on(1.0)
    assert storm.growth.places == storm.growth.children == WARM + 100


def test_many_that_each_want_little_keep_the_processors_busy_as_well() -> None:
    storm = Storm(0.1, 1000)
    storm.go_on(2.0)
    assert storm.growth.places < 20 * PROCESSORS


def test_where_nobody_knows_what_they_do_requests_do_not_wait() -> None:
    storm = Storm(None, 3)
    storm.go_on(0.01)
    assert storm.growth.places == storm.growth.children == WARM + 3


def test_where_children_work_requests_wait_for_their_turn() -> None:
    storm = Storm(WORKS, 100)
    storm.go_on(4.9, rate=15)
    assert storm.growth.places == 2 * WARM, "what it grew by before anything was known"


def test_who_has_waited_for_too_long_waits_no_longer() -> None:
    storm = Storm(WORKS, 300)
    storm.go_on(0.4, rate=20)
    assert storm.growth.children == 2 * WARM
    storm.go_on(0.6, rate=20)
    assert storm.growth.places == 2 * WARM
    late = 300 - 2 * WARM - 20 * 5
    assert late * 0.8 <= storm.growth.children <= late * 1.4, "they are forked beforehand"
    storm.go_on(4.07, rate=20)
    assert storm.waiting == 0
    assert storm.growth.children >= storm.growth.places


def test_where_all_will_have_their_turn_in_time_no_child_is_added() -> None:
    storm = Storm(WORKS, 100)
    storm.go_on(0.95, rate=100)
    assert storm.growth.places == storm.growth.children == 2 * WARM


def test_who_came_later_goes_on_waiting_for_his_turn() -> None:
    storm = Storm(WORKS, 0)
    growth = storm.growth
    growth.look(100.0, busy=range(WARM), since=[100.0], served=0)
    before = growth.places
    storm._wanted += WORKS * 6.0
    since = [100.0, 100.5, 105.0, 105.5]
    growth.look(106.0, busy=range(before), since=since, served=0)
    assert growth.places == before + 2


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
    assert (growth.places, growth.children) == (4, 4)


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
