"""A client and a server of ours, and a network that does with every single packet what it likes.

Hypothesis plays the network: it delivers, loses, repeats and overtakes packets one by one, throws
in what is none, and lets time pass. Whatever it does, what has arrived is the beginning of the
file, nobody answers an ERROR, and nobody sends or keeps more than he may. And when it has had its
way, both ends come to an end.
"""

from random import Random

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
)

from tests.wire import Server, Station, reading, writing
from tftp.events import Outcome
from tftp.options import Terms
from tftp.packets import Opcode, header
from tftp.transfer import Receiver, Sender

BLKSIZE = 8

# What is no packet of this transfer, whoever gets it: too short, no opcode, a block from far away.
JUNK = (b"", b"\0", b"\0\4\0", b"\0\0\0\1", b"\0\7\0\1", b"\xff" * 40)


class TwoEndpoints(RuleBasedStateMachine):
    """`self.ends` are the client and the server, `self.ways[side]` is what is on its way there."""

    @initialize(
        windowsize=st.sampled_from([1, 2, 4, 16, 64]),
        blocks=st.integers(0, 40),
        more=st.integers(0, BLKSIZE - 1),
        writes=st.booleans(),
        options=st.booleans(),
    )
    def begin(self, windowsize: int, blocks: int, more: int, writes: bool, options: bool) -> None:
        self.now = 0.0
        self.windowsize = windowsize if options else 1
        self.blksize = BLKSIZE if options else 512
        self.file = Random(blocks).randbytes(blocks * self.blksize + more)
        self.data = 0
        wanted = Terms(blksize=BLKSIZE, windowsize=windowsize) if options else Terms()
        client = writing(wanted, self.file) if writes else reading(wanted)
        self.server = Server(b"" if writes else self.file)
        self.ends: tuple[Station, Station] = (client, self.server)
        self.sender: Station = client if writes else self.server
        self.receiver: Station = self.server if writes else client
        self.ways: tuple[list[bytes], list[bytes]] = ([], [])
        self.put(0, client.start(self.now))

    def put(self, side: int, datagrams: list[bytes]) -> None:
        self.ways[1 - side].extend(datagrams)
        self.data += sum(header(datagram)[0] == Opcode.DATA for datagram in datagrams)

    def hand_over(self, side: int, datagram: bytes) -> None:
        replies = self.ends[side].receive(datagram, self.now)
        if datagram[:2] == b"\0\5":
            assert replies == [], "an ERROR is never answered"
        self.put(side, replies)

    # -- the network --------------------------------------------------------------------------

    @precondition(lambda self: any(self.ways))
    @rule(data=st.data())
    def deliver(self, data: st.DataObject) -> None:
        side = data.draw(st.sampled_from([side for side in (0, 1) if self.ways[side]]))
        # Mostly in turn.
        index = data.draw(st.sampled_from([0, 0, 0, len(self.ways[side]) // 2]))
        self.hand_over(side, self.ways[side].pop(index))

    @precondition(lambda self: any(self.ways))
    @rule()
    def deliver_all(self) -> None:
        for side in (0, 1):
            arriving = self.ways[side][:]
            self.ways[side].clear()
            for datagram in arriving:
                self.hand_over(side, datagram)

    @precondition(lambda self: any(self.ways))
    @rule(data=st.data())
    def lose(self, data: st.DataObject) -> None:
        side = data.draw(st.sampled_from([side for side in (0, 1) if self.ways[side]]))
        self.ways[side].pop(data.draw(st.integers(0, len(self.ways[side]) - 1)))

    @precondition(lambda self: any(self.ways))
    @rule(data=st.data())
    def copy(self, data: st.DataObject) -> None:
        side = data.draw(st.sampled_from([side for side in (0, 1) if self.ways[side]]))
        index = data.draw(st.integers(0, len(self.ways[side]) - 1))
        self.ways[side].append(self.ways[side][index])

    @rule(side=st.sampled_from([0, 1]), junk=st.sampled_from(JUNK))
    def throw_in(self, side: int, junk: bytes) -> None:
        self.hand_over(side, junk)

    @rule(seconds=st.sampled_from([0.0001, 0.005, 0.05]))
    def let_time_pass(self, seconds: float) -> None:
        self.now += seconds
        self.expire()

    @rule()
    def wait_for_a_timer(self) -> None:
        deadlines = [end.deadline for end in self.ends if end.deadline is not None]
        if deadlines:
            self.now = max(self.now, min(deadlines))
            self.expire()

    def expire(self) -> None:
        for side, end in enumerate(self.ends):
            if end.deadline is not None and end.deadline <= self.now:
                self.put(side, end.expire(self.now))

    # -- what holds ---------------------------------------------------------------------------

    @invariant()
    def what_has_arrived_is_the_beginning_of_the_file(self) -> None:
        assert self.file.startswith(self.receiver.file)
        if Outcome.DONE in (self.receiver.outcome, self.sender.outcome):
            assert self.receiver.file == self.file

    @invariant()
    def nobody_keeps_more_than_a_window(self) -> None:
        receiver = self.receiver._machine
        if receiver is not None:
            assert isinstance(receiver, Receiver)
            assert receiver.payloads() == []
            assert len(receiver._early) < self.windowsize

    @invariant()
    def every_repeat_has_its_reason(self) -> None:
        sender = self.sender._machine
        if sender is not None:
            assert isinstance(sender, Sender)
            counters = sender.counters
            reasons = counters.timeouts + counters.gaps + self.server.requests
            assert counters.blocks <= self.data <= counters.blocks + reasons * self.windowsize
            assert counters.blocks <= len(self.file) // self.blksize + 1
            assert counters.gaps <= counters.datagrams_received

    @invariant()
    def a_deadline_is_there_until_the_end(self) -> None:
        for end in self.ends:
            if end.deadline is None and end._machine is not None:
                assert end.outcome is not None

    def teardown(self) -> None:
        """The network has had its way; now both come to an end."""
        if not hasattr(self, "ends"):
            return
        for _ in range(2000):
            if any(self.ways):
                self.now += 0.0001
                self.deliver_all()
            elif any(end.deadline is not None for end in self.ends):
                self.wait_for_a_timer()
            else:
                break
            self.what_has_arrived_is_the_beginning_of_the_file()
        else:
            raise AssertionError("there is no end to it")
        outcomes = {end.outcome for end in self.ends}
        if not outcomes & {Outcome.TIMED_OUT, Outcome.UNCONFIRMED}:
            assert outcomes == {Outcome.DONE}
            assert self.receiver.file == self.file


TestTwoEndpoints = TwoEndpoints.TestCase
TestTwoEndpoints.settings = settings(max_examples=80, stateful_step_count=60, deadline=None)
