"""Blocks as packets in memory, and the shelf of those that transfers have ready beforehand."""

import itertools

import pytest

from tftp.net.batch import Run, Shelf
from tftp.packets import Ack, Data, decode

ROOM, IDLE = 16 << 20, 4 << 20


def filled(shelf: Shelf, key: object, *, blksize: int = 1428, windowsize: int = 1) -> Run:
    """A run that others may take."""
    run = shelf.make(blksize, windowsize, shared=True)
    assert run is not None
    run.ready(0, len(run.slots) // windowsize, 0)
    shelf.put(key, run)
    return run


@pytest.mark.parametrize("rollover", [0, 1])
@pytest.mark.parametrize("acked", [0, 65_530, 131_065])
def test_the_windows_of_a_run_leave_on_the_acks_that_they_wait_for(
    acked: int, rollover: int
) -> None:
    run = Run(8, 2, 6)
    for number, slot in enumerate(run.slots):
        slot[:] = bytes([number]) * 8
    run.ready(acked, 6, rollover)
    wire = [
        block % 65536 if not rollover or block < 65536 else (block - 1) % 65535 + 1
        for block in range(acked, acked + 13)
    ]
    assert [decode(ack) for ack in run.acks] == [Ack(block) for block in wire[:12:2]]
    left = run.steps
    assert [following for following, _ in left] == [*run.acks[1:], None]
    packets = [window[at : at + 12] for _, window in left for at in (0, 12)]
    blocks = [Data(wire[number + 1], bytes([number]) * 8) for number in range(12)]
    assert [decode(packet) for packet in packets] == blocks


def test_a_run_that_the_file_does_not_fill_ends_with_its_last_full_window() -> None:
    run = Run(512, 4, 8)
    run.ready(100, 3, 0)
    assert len(run.acks) == len(run.steps) == 3


def test_what_transfers_have_ready_beforehand_is_bounded_and_given_back() -> None:
    shelf = Shelf()
    runs = []
    while (run := shelf.make(1428, 64)) is not None:
        assert len(run.slots) == 64
        runs.append(run)
        assert len(runs) < 1000
    assert ROOM * 0.9 <= sum(len(run.octets) for run in runs) <= ROOM
    shelf.give_back(runs.pop())
    assert shelf.make(1428, 64) is not None
    assert shelf.make(1428, 64) is None
    assert Shelf().make(65464, 64) is None, "nor is there so much for one"


def test_a_run_is_found_by_all_who_want_it_while_one_uses_it() -> None:
    shelf = Shelf()
    run = filled(shelf, "a")
    assert shelf.take("b") is None
    assert shelf.take("a") is run
    assert shelf.take("a") is run
    for _ in range(3):
        shelf.give_back(run)
    assert shelf.take("a") is run, "and for a while after that"


def test_of_the_runs_that_nobody_uses_the_oldest_go_and_no_other() -> None:
    shelf = Shelf()
    used = filled(shelf, "used")
    for number in range(1000):
        shelf.give_back(filled(shelf, number))
        if number >= 100:
            assert shelf.take(100) is not None, "who is wanted becomes young again"
            shelf.give_back(shelf.take(100) or used)
            shelf.give_back(used)
            assert shelf.take("used") is used
    kept = [number for number in range(1000) if shelf.take(number) is not None]
    assert 100 in kept
    assert kept[-1] == 999
    assert kept[1:] == list(range(kept[1], 1000))
    assert len(kept) * len(used.octets) <= IDLE


def test_runs_that_nobody_uses_make_room_for_those_that_somebody_wants() -> None:
    shelf = Shelf()
    for number in range(1000):
        shelf.give_back(filled(shelf, number))
    runs = []
    while (run := shelf.make(1428, 16)) is not None:
        runs.append(run)
    assert ROOM * 0.9 <= sum(len(run.octets) for run in runs) <= ROOM
    assert shelf.take(999) is None


@pytest.mark.parametrize("windowsize", [1, 2, 16, 64])
def test_shared_runs_end_where_the_others_do_wherever_they_begin(windowsize: int) -> None:
    ends = set()
    for first in range(200):
        run = Shelf().make(1428, windowsize, shared=True, first=first)
        assert run is not None
        ends.add(first + len(run.slots) // windowsize)
    distances = {after - before for before, after in itertools.pairwise(sorted(ends))}
    assert len(distances) == 1
