"""The account of who runs and who waits for a processor, and what follows from it."""

import errno
import os
import subprocess
import sys
import threading
import time

import pytest

from tests.watching import eventually
from tftp.net.processor import Crowding, Spent, interrupt_nobody, spent_by


def test_a_thread_that_works_has_run() -> None:
    before = spent_by()
    began = time.thread_time()
    while time.thread_time() - began < 0.05:
        pass
    after = spent_by()
    assert before is not None
    assert after is not None
    assert 0.04 < after.running - before.running < 0.2


def test_each_thread_has_its_own_account() -> None:
    seen: list[Spent | None] = []
    thread = threading.Thread(target=lambda: seen.append(spent_by()))
    thread.start()
    thread.join()
    mine = spent_by()
    assert seen[0] is not None
    assert mine is not None
    assert seen[0].running < mine.running


def test_a_thread_that_interrupts_nobody_waits_for_its_turn_and_so_do_those_it_starts() -> None:
    def both() -> None:
        interrupt_nobody()
        seen.append(os.sched_getscheduler(0))
        inner = threading.Thread(target=lambda: seen.append(os.sched_getscheduler(0)))
        inner.start()
        inner.join()

    seen: list[int] = []
    thread = threading.Thread(target=both)
    thread.start()
    thread.join()
    assert seen == [os.SCHED_BATCH] * 2
    assert os.sched_getscheduler(0) == os.SCHED_OTHER


def test_it_is_no_matter_that_a_system_forbids_to_wait_or_does_not_know_how(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def forbidden(*_: object) -> None:
        raise PermissionError(errno.EPERM, "Operation not permitted")

    monkeypatch.setattr(os, "sched_setscheduler", forbidden)
    interrupt_nobody()
    monkeypatch.delattr(os, "SCHED_BATCH")
    interrupt_nobody()


def test_nothing_is_known_of_a_process_that_is_gone() -> None:
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()
    assert spent_by(process.pid) is None


def test_processes_that_share_one_processor_feel_it() -> None:
    processor = min(os.sched_getaffinity(0))
    work = (
        "import os, sys\n"
        f"os.sched_setaffinity(0, {{{processor}}})\n"
        "print(flush=True)\n"
        "while True: pass\n"
    )
    workers = [
        subprocess.Popen([sys.executable, "-c", work], stdout=subprocess.PIPE) for _ in range(2)
    ]
    try:
        for worker in workers:
            assert worker.stdout is not None
            worker.stdout.readline()
        crowding = Crowding(spent=lambda: spent_by(workers[0].pid))
        assert eventually(crowding.felt)
    finally:
        for worker in workers:
            worker.kill()
            worker.communicate()


class World:
    """A thread that waits for a processor as the test says, on a clock of its own."""

    def __init__(self) -> None:
        self.now = 50.0
        self.waited: float | None = 7.0
        self.looks = 0
        self.crowding = Crowding(lambda: self.now, self._spent)

    def _spent(self) -> Spent | None:
        self.looks += 1
        return None if self.waited is None else Spent(1.0, self.waited)

    def go_on(self, seconds: float, share: float) -> bool:
        """So much time passes, and for this share of it a processor is waited for."""
        self.now += seconds
        if self.waited is not None:
            self.waited += seconds * share
        return self.crowding.felt()


def test_waiting_for_a_tenth_of_the_time_is_a_crowd_until_it_ends() -> None:
    world = World()
    assert not world.crowding.felt()
    assert not world.go_on(0.06, 0.05)
    assert world.go_on(0.06, 0.3)
    assert not world.go_on(0.06, 0.0)


def test_the_account_is_not_looked_at_all_the_time() -> None:
    world = World()
    for _ in range(1000):
        world.go_on(0.001, 0.5)
    assert world.looks <= 21
    assert world.crowding.felt()


def test_where_nobody_keeps_an_account_there_is_no_crowd() -> None:
    world = World()
    world.waited = None
    assert not world.go_on(1.0, 1.0)
    assert not world.go_on(1.0, 1.0)
