"""The end that gets the file, by hand: what it keeps, reports and acknowledges."""

from collections.abc import Mapping
from copy import deepcopy
from dataclasses import asdict, dataclass
from itertools import product

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.byhand import PATIENCE, RRQ, asking, fetching, full, hear, said
from tftp.blocks import on_wire
from tftp.events import Outcome
from tftp.options import Terms
from tftp.packets import Ack, Data, Error, OptionAck, Packet, ReadRequest
from tftp.timers import Patience
from tftp.transfer import Receiver, State, Transfer

# The opening


@pytest.mark.parametrize(
    ("granted", "opening"), [({}, Ack(0)), ({"blksize": "8"}, OptionAck({"blksize": "8"}))]
)
def test_a_server_answers_a_write_request_with_ack_0_or_an_oack(
    granted: Mapping[str, str], opening: Packet
) -> None:
    receiver = Receiver.answer(Terms(blksize=8), granted, 0.0, PATIENCE)
    assert said(receiver) == [opening]
    assert hear(receiver, Data(1, b"12345678"), 0.01) == [Ack(1)]
    assert hear(receiver, Data(2), 0.02) == [Ack(2)]
    assert receiver.outcome is Outcome.DONE


def test_a_client_that_reads_acknowledges_an_oack_with_ack_0() -> None:
    request = ReadRequest(b"file", options={"tsize": "0", "windowsize": "2"})
    receiver = Receiver.request(request, 0.0, PATIENCE)
    assert said(receiver) == [request]
    assert hear(receiver, OptionAck({"tsize": "700", "windowsize": "2"}), 0.01) == [Ack(0)]
    assert receiver.terms == Terms(tsize=700, windowsize=2)
    assert hear(receiver, full(1), 0.02) == []
    assert hear(receiver, Data(2, b"end"), 0.02) == [Ack(2)]


def test_a_client_that_reads_takes_data_1_for_the_answer_where_no_option_is_known() -> None:
    receiver = Receiver.request(ReadRequest(b"file", options={"blksize": "8"}), 0.0, PATIENCE)
    said(receiver)
    assert hear(receiver, full(1), 0.01) == [Ack(1)]
    assert receiver.terms == Terms()
    assert receiver.timer.round_trip == pytest.approx(0.01)


def test_data_2_does_not_answer_a_request() -> None:
    receiver = Receiver.request(RRQ, 0.0, PATIENCE)
    said(receiver)
    assert hear(receiver, full(2), 0.01) == []
    assert receiver.state is State.REQUESTED


def test_a_repeated_oack_is_acknowledged_again() -> None:
    receiver = Receiver.request(ReadRequest(b"file", options={"tsize": "0"}), 0.0, PATIENCE)
    said(receiver)
    oack = OptionAck({"tsize": "700"})
    assert hear(receiver, oack, 0.01) == [Ack(0)]
    assert hear(receiver, oack, 0.5) == [Ack(0)]
    assert hear(receiver, full(1), 0.6) == [Ack(1)]
    assert hear(receiver, oack, 0.7) == [], "the server is past that"


# Lock-step: RFC 1350, RFC 1123


def test_a_repeated_block_is_acknowledged_again() -> None:
    receiver = fetching()
    assert hear(receiver, full(1), 0.1) == [Ack(1)]
    assert hear(receiver, full(1), 0.2) == [Ack(1)]
    assert hear(receiver, full(2), 0.3) == [Ack(2)]
    assert receiver.counters.duplicates == 1
    assert receiver.counters.blocks == 2


def test_the_second_of_two_copies_is_not_acknowledged() -> None:
    # Else a sender that sends for every ACK would send everything twice from here on.
    receiver = fetching()
    assert hear(receiver, full(1), 0.1) == [Ack(1)]
    assert hear(receiver, full(1), 0.1001) == []


def test_a_block_from_nowhere_is_passed_over() -> None:
    receiver = fetching()
    assert hear(receiver, full(1), 0.1) == [Ack(1)]
    assert hear(receiver, full(3), 0.2) == []
    assert hear(receiver, full(40_000), 0.3) == [Ack(1)], "it looks like an old one"
    assert receiver.payloads() == []


def test_a_receiver_repeats_its_ack_when_nothing_comes() -> None:
    receiver = fetching()
    hear(receiver, full(1), 0.1)
    assert receiver.deadline == pytest.approx(0.1 + 0.6), "twice what a sender would wait"
    receiver.expire(0.69)
    assert said(receiver) == []
    receiver.expire(0.71)
    assert said(receiver) == [Ack(1)]


def test_a_receiver_waits_longer_than_a_sender_would() -> None:
    receiver = fetching()
    for block in range(1, 100):
        hear(receiver, full(block), block / 1000)
    assert receiver.deadline == pytest.approx(0.099 + 0.2)


def test_data_longer_than_the_block_size_is_answered_with_error_4() -> None:
    receiver = fetching()
    (error,) = hear(receiver, Data(1, bytes(513)), 0.1)
    assert error == Error(4, "DATA of 513 octets where blksize is 512")
    assert receiver.outcome is Outcome.PROTOCOL_ERROR
    assert receiver.payloads() == []


def test_data_behind_the_last_block_is_passed_over() -> None:
    receiver = fetching(4)
    receiver.receive(Data(1, b"end").encode(), 0.1)
    receiver.receive(full(2).encode(), 0.1)
    receiver.receive(full(3).encode(), 0.1)
    assert [bytes(payload) for payload in receiver.payloads()] == [b"end"]
    assert receiver.counters.payload == 3


def test_the_ack_waits_until_the_block_is_stored() -> None:
    receiver = fetching()
    receiver.receive(full(1).encode(), 0.1)
    assert said(receiver) == []
    assert len(receiver.payloads()) == 1
    receiver.stored(0.3)
    assert said(receiver) == [Ack(1)]


def test_the_last_ack_waits_until_the_file_is_whole() -> None:
    receiver = fetching()
    receiver.receive(Data(1, b"end").encode(), 0.1)
    assert receiver.complete
    assert receiver.outcome is None
    receiver.payloads()
    receiver.stored(2.0)
    assert receiver.outcome is Outcome.DONE
    assert said(receiver) == [Ack(1)]


# Windows: RFC 7440


@pytest.mark.parametrize("windowsize", [2, 4, 16, 64])
def test_a_window_is_acknowledged_as_a_whole(windowsize: int) -> None:
    receiver = fetching(windowsize)
    for block in range(1, 3 * windowsize + 1):
        acks = hear(receiver, full(block), block / 1000)
        assert acks == ([] if block % windowsize else [Ack(block)])


def test_blocks_behind_a_hole_are_kept_and_three_of_them_report_it_once() -> None:
    receiver = asking(16)
    hear(receiver, full(1), 0.1)
    assert hear(receiver, full(3), 0.1) == []
    assert hear(receiver, full(4), 0.1) == []
    assert hear(receiver, full(5), 0.1) == [Ack(1)]
    for block in range(6, 17):
        assert hear(receiver, full(block), 0.1) == []
    receiver.receive(full(2).encode(), 0.11)
    assert len(receiver.payloads()) == 15
    receiver.stored(0.11)
    assert said(receiver) == [], "the window now ends at 17"
    assert hear(receiver, full(17), 0.11) == [Ack(17)]
    assert receiver.counters.gaps == 1
    assert receiver.counters.duplicates == 0


def test_a_block_that_was_only_overtaken_is_not_reported() -> None:
    receiver = asking(4)
    assert [hear(receiver, full(block), 0.1) for block in (2, 3, 1)] == [[], [], []]
    assert hear(receiver, full(4), 0.1) == [Ack(4)]
    assert receiver.counters.gaps == 0


@pytest.mark.parametrize(("lost", "report"), [(1, 0), (2, 1), (3, 2)])
def test_a_hole_is_reported_at_the_end_of_the_window_at_the_latest(lost: int, report: int) -> None:
    receiver = asking(4)
    *before, last = (block for block in (1, 2, 3, 4) if block != lost)
    for block in before:
        assert hear(receiver, full(block), 0.1) == []
    assert hear(receiver, full(last), 0.1) == [Ack(report)]


def test_a_hole_before_the_end_of_the_file_is_reported_at_once() -> None:
    receiver = asking(16)
    assert hear(receiver, full(1), 0.1) == []
    assert hear(receiver, Data(3, b"end"), 0.1) == [Ack(1)]
    receiver.receive(full(2).encode(), 0.11)
    assert [len(payload) for payload in receiver.payloads()] == [512, 3]
    assert receiver.complete


def test_a_second_hole_is_reported_too() -> None:
    receiver = asking(16)
    for block in (2, 3):
        assert hear(receiver, full(block), 0.1) == []
    assert hear(receiver, full(5), 0.1) == [Ack(0)]
    assert hear(receiver, full(1), 0.11) == []
    assert hear(receiver, full(6), 0.11) == []
    assert hear(receiver, full(7), 0.11) == [Ack(3)]
    assert receiver.counters.gaps == 2


def test_a_report_is_repeated_when_what_is_behind_the_hole_comes_again() -> None:
    receiver = asking(16)
    for block in (2, 3, 4):
        hear(receiver, full(block), 0.1)
    assert hear(receiver, full(2), 0.105) == [], "a copy"
    assert hear(receiver, full(2), 0.12) == [Ack(0)], "block 1 was lost again"
    assert hear(receiver, full(3), 0.12) == []


def test_a_repeat_of_the_window_shows_that_its_ack_was_lost() -> None:
    receiver = asking(4)
    for block in (1, 2, 3, 4):
        hear(receiver, full(block), 0.1)
    assert hear(receiver, full(1), 0.15) == [Ack(4)]
    for block in (2, 3, 4):
        assert hear(receiver, full(block), 0.15) == []


def test_blocks_of_the_present_window_that_come_again_are_passed_over() -> None:
    receiver = asking(4)
    for block in (1, 2, 3):
        hear(receiver, full(block), 0.1)
    for block in (1, 2, 3):
        assert hear(receiver, full(block), 0.2) == []
    assert hear(receiver, full(4), 0.2) == [Ack(4)]


def test_blocks_beyond_the_window_are_not_kept() -> None:
    receiver = asking(4)
    for block in (5, 6, 7, 8, 60):
        assert hear(receiver, full(block), 0.1) == []
    for block in (1, 2, 3, 4):
        receiver.receive(full(block).encode(), 0.1)
    assert len(receiver.payloads()) == 4


def test_a_block_of_the_wrong_size_behind_a_hole_is_not_kept() -> None:
    receiver = asking(4)
    hear(receiver, Data(2, bytes(513)), 0.1)
    receiver.receive(full(1).encode(), 0.1)
    assert len(receiver.payloads()) == 1
    assert receiver.outcome is None


def test_no_more_than_a_quarter_of_a_mebibyte_is_kept_behind_a_hole() -> None:
    blksize = 1 << 15
    receiver = asking(64, blksize=blksize)
    for block in range(2, 60):
        receiver.receive(Data(block, bytes(blksize)).encode(), 0.1)
    receiver.receive(Data(1, bytes(blksize)).encode(), 0.1)
    assert sum(map(len, receiver.payloads())) == blksize + (1 << 18)


@pytest.mark.parametrize("early", [2, 5])
def test_a_server_keeps_nothing_before_it_has_block_1(early: int) -> None:
    # It may belong to an older upload from the same port.
    receiver = fetching(4)
    assert hear(receiver, full(early), 0.1) == []
    receiver.receive(full(1).encode(), 0.1)
    assert len(receiver.payloads()) == 1


@pytest.mark.parametrize(
    ("windowsize", "came"),
    [
        (4, [full(2), full(3), full(4)]),
        (2, [full(2)]),
        (16, [full(2), full(3), full(4), full(5)]),
        (16, [full(2), Data(3, b"end")]),
    ],
)
def test_a_server_that_lacks_block_1_repeats_its_oack_once(
    windowsize: int, came: list[Data]
) -> None:
    # RFC 7440, section 4: a hole is told at once, not when a timer fires half a second later.
    receiver = fetching(windowsize)
    oack = OptionAck({"windowsize": str(windowsize)})
    answers = [hear(receiver, packet, 0.01) for packet in came]
    assert [answer for answer in answers if answer] == [[oack]]
    assert hear(receiver, came[-1], 0.01) == []
    assert hear(receiver, full(1), 0.02) == []
    assert receiver.counters.gaps == 1


def test_a_block_that_overtook_block_1_brings_no_oack() -> None:
    receiver = fetching(16)
    assert [hear(receiver, full(block), 0.01) for block in (2, 3, 1)] == [[], [], []]
    assert receiver.counters.retransmissions == 0


def test_what_a_receiver_keeps_does_not_share_the_buffer_of_its_caller() -> None:
    receiver = asking(4)
    buffer = bytearray(Data(2, b"b" * 512).encode())
    receiver.receive(memoryview(buffer), 0.1)
    buffer[:] = bytes(len(buffer))
    receiver.receive(Data(1, b"a" * 512).encode(), 0.1)
    assert [bytes(payload[:1]) for payload in receiver.payloads()] == [b"a", b"b"]


# Time


def test_a_timeout_that_was_not_granted_is_not_obeyed() -> None:
    options = {"timeout": "9", "tsize": "0"}
    receiver = Receiver.request(ReadRequest(b"file", options=options), 0.0, PATIENCE)
    hear(receiver, OptionAck({"tsize": "700"}), 0.001)
    assert receiver.deadline == pytest.approx(0.201)


# The end


def test_a_receiver_that_has_everything_stays_to_repeat_its_last_ack() -> None:
    receiver = fetching()
    assert hear(receiver, Data(1, b"end"), 0.1) == [Ack(1)]
    assert receiver.state is State.DALLYING
    assert receiver.deadline == pytest.approx(0.1 + PATIENCE.dally)
    receiver.expire(6.0)
    assert said(receiver) == []
    assert receiver.deadline is not None, "too early"
    receiver.expire(receiver.deadline)
    assert receiver.deadline is None
    assert receiver.outcome is Outcome.DONE
    assert hear(receiver, Data(1, b"end"), 7.0) == []


def test_a_sender_that_waits_five_seconds_before_it_asks_for_the_last_ack_gets_it() -> None:
    receiver = fetching()
    assert hear(receiver, Data(1, b"end"), 0.1) == [Ack(1)]
    assert hear(receiver, Data(1, b"end"), 5.1) == [Ack(1)]


def test_who_asks_for_the_last_ack_gets_it_each_time() -> None:
    receiver = fetching()
    for now in (0.1, 1.0, 1.02, 6.05):
        assert hear(receiver, Data(1, b"end"), now) == [Ack(1)]
    assert receiver.deadline is not None
    receiver.expire(6.1)
    assert receiver.deadline is None, "it does not stay longer for that"


def farewells_after_loss(receiver: Receiver) -> list[float]:
    """Have it miss a block, and get all in the end, at 1.0; when it then speaks unasked."""
    assert hear(receiver, full(2), 0.9) == []
    assert hear(receiver, Data(3, b"end"), 0.9) == [Ack(0)]
    assert hear(receiver, full(1), 1.0) == [Ack(3)]
    spoken = []
    while receiver.deadline is not None:
        now = receiver.deadline
        receiver.expire(now)
        spoken += [now] * (said(receiver) == [Ack(3)])
    assert receiver.outcome is Outcome.DONE
    return spoken


def test_a_client_that_has_seen_loss_repeats_its_last_ack_three_times_and_leaves() -> None:
    assert farewells_after_loss(asking(4)) == pytest.approx([1.02, 1.06, 1.14])


def test_a_server_that_has_seen_loss_does_so_too_and_stays() -> None:
    receiver = fetching(4)
    hear(receiver, full(1), 0.05)  # Until it is heard it keeps nothing.
    assert hear(receiver, full(3), 0.06) == []
    assert hear(receiver, Data(4, b"end"), 0.06) == [Ack(1)]
    assert hear(receiver, full(2), 0.07) == [Ack(4)]
    spoken = []
    for _ in range(3):
        assert receiver.deadline is not None
        spoken.append(receiver.deadline)
        receiver.expire(receiver.deadline)
        assert said(receiver) == [Ack(4)]
    pause = 0.05  # The round trip.
    assert spoken == pytest.approx([0.07 + pause, 0.07 + 3 * pause, 0.07 + 7 * pause])
    assert receiver.deadline == pytest.approx(0.07 + PATIENCE.dally)
    assert hear(receiver, Data(4, b"end"), 2.0) == [Ack(4)]
    assert receiver.deadline == pytest.approx(0.07 + PATIENCE.dally)


def test_farewells_take_no_longer_than_dallying_may() -> None:
    receiver = asking(4, patience=Patience(dally=0.05))
    assert farewells_after_loss(receiver) == pytest.approx([1.02])


def test_a_receiver_whose_peer_is_gone_stays_no_longer() -> None:
    receiver = fetching()
    hear(receiver, full(1), 0.1)
    receiver.peer_is_gone()
    assert receiver.outcome is None, "there was more to come"
    hear(receiver, Data(2, b"end"), 0.2)
    receiver.peer_is_gone()
    assert receiver.deadline is None
    assert receiver.outcome is Outcome.DONE


def test_an_error_ends_dallying_without_a_word() -> None:
    receiver = fetching()
    hear(receiver, Data(1, b"end"), 0.1)
    assert hear(receiver, Error(0, "late"), 0.2) == []
    assert receiver.state is State.CLOSED
    assert receiver.outcome is Outcome.DONE


def test_no_ack_follows_an_error_that_came_with_the_last_block() -> None:
    receiver = fetching()
    receiver.receive(Data(1, b"end").encode(), 0.1)
    receiver.receive(Error(0, "no more").encode(), 0.1)
    receiver.payloads()
    receiver.stored(0.1)
    assert said(receiver) == []
    assert receiver.outcome is Outcome.PEER_ERROR


# What the kernel hands over joined


@dataclass
class Joined:
    """Datagrams of one size that came in one piece, the last of them perhaps shorter.

    Attributes:
        late: seconds since what came before.
        ahead: which block the first is, counted from the one that is awaited.
        steps: how far it is from each to the next.
        size: octets of payload.
        last: octets of payload in the last.
        damage: an octet of the headers that is another, and by which bits.
        stored: whether what has come is stored, and acknowledged, afterwards.
    """

    late: float
    ahead: int
    steps: list[int]
    size: int
    last: int
    damage: tuple[int, int]
    stored: bool

    def datagrams(self, awaited: int, rollover: int) -> list[bytes]:
        """All of them, for a receiver that awaits this block."""
        block, made = max(1, awaited + self.ahead), []
        for step in [0, *self.steps]:
            block = max(1, block + step)
            payload = block.to_bytes(4, "big") * 3
            made.append(Data(on_wire(block, rollover), payload[: self.size]).encode())
        made[-1] = made[-1][: 4 + self.last]
        octet, bits = self.damage
        damaged = bytearray(made[octet // 4 % len(made)])
        damaged[octet % 4] ^= bits
        made[octet // 4 % len(made)] = bytes(damaged)
        return made


def mostly(usual: int, *others: int) -> st.SearchStrategy[int]:
    """Nine times out of ten the usual; what makes a run odd has to be rare, or there is none."""
    return st.integers(0, 9).flatmap(lambda die: st.sampled_from(others if die == 9 else [usual]))


joined = st.builds(
    Joined,
    late=st.sampled_from([0.0, 0.001, 0.02, 1.0]),
    ahead=mostly(0, -20, -1, 1, 2),
    steps=st.lists(mostly(1, 0, 2, -1, 65_535), min_size=1, max_size=20),
    size=mostly(8, 4, 12),
    last=st.sampled_from([8, 8, 8, 4, 0]),
    damage=st.tuples(st.integers(0, 80), mostly(0, 1, 4, 128)),
    stored=st.booleans(),
)


def everything(receiver: Receiver) -> dict[str, object]:
    """All that a receiver knows, down to the octets that it holds."""
    timer, counters = receiver.timer, asdict(receiver.counters)
    slots = [slot for kind in (Transfer, Receiver) for slot in kind.__slots__ if slot != "timer"]
    known = {slot: getattr(receiver, slot) for slot in slots}
    error = receiver.error
    return known | {
        "timer": {slot: getattr(timer, slot) for slot in timer.__slots__},
        "counters": counters,
        "_payloads": [bytes(payload) for payload in known["_payloads"]],
        "error": (type(error), str(error)),
    }


@given(
    runs=st.lists(joined, max_size=12),
    windowsize=st.sampled_from([1, 4, 16, 64]),
    rollover=st.sampled_from([None, 0, 1]),
    behind=st.sampled_from([None, 0, 65_500, 65_535, 131_050]),
)
def test_what_comes_joined_does_all_that_it_would_do_one_by_one(
    runs: list[Joined], windowsize: int, rollover: int | None, behind: int | None
) -> None:
    terms = Terms(blksize=8, windowsize=windowsize, rollover=rollover)
    receiver = Receiver.answer(terms, {"blksize": "8"}, 0.0, PATIENCE)
    if behind is not None:
        receiver.state = State.FLOWING
        receiver._received = receiver._window_start = behind
    now, others = 0.0, deepcopy(receiver)
    for run in runs:
        now += run.late
        datagrams = run.datagrams(receiver._received + 1, rollover or 0)
        receiver.receive_joined(memoryview(b"".join(datagrams)), 4 + run.size, now)
        for datagram in datagrams:
            others.receive(datagram, now)
        assert everything(receiver) == everything(others)
        for machine in (receiver, others) if run.stored else ():
            machine.payloads()
            machine.stored(now)
            machine.replies()


def test_any_damage_to_a_header_counts_in_a_run_too() -> None:
    for octet, bit in product(range(4 * 16), range(8)):
        receiver = asking(16, blksize=8)
        run = Joined(0.0, 0, [1] * 15, 8, 8, (octet, 1 << bit), stored=False)
        datagrams, others = run.datagrams(1, 0), deepcopy(receiver)
        receiver.receive_joined(memoryview(b"".join(datagrams)), 12, 0.1)
        for datagram in datagrams:
            others.receive(datagram, 0.1)
        assert everything(receiver) == everything(others)


def test_a_run_of_the_blocks_awaited_is_not_looked_at_one_by_one(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    receiver = asking(64, blksize=8)
    looked_at: list[bytes] = []
    monkeypatch.setattr(
        Receiver, "_take", lambda machine, opcode, number, datagram, now: looked_at.append(datagram)
    )
    run = b"".join(Data(block, b"12345678").encode() for block in range(1, 64))
    receiver.receive_joined(memoryview(run + Data(64, b"end").encode()), 12, 0.1)
    assert looked_at == [Data(64, b"end").encode()]
    assert receiver.counters.datagrams_received == 2 + 63
    assert b"".join(receiver.payloads()) == b"12345678" * 63


# The short cut


@pytest.mark.parametrize("at_once", [1, 5])
def test_the_short_cut_leads_where_the_long_way_leads(at_once: int) -> None:
    long, short = fetching(), fetching()
    now = 0.001
    for receiver in (long, short):
        assert receiver.expected() is None, "nothing has come"
        assert hear(receiver, full(1), now) == [Ack(1)]
    for block in range(2, 22):
        if (block - 2) % at_once == 0:
            assert short.expected() == block
        now += 0.001
        assert hear(long, full(block), now) == [Ack(block)]
        if (block - 1) % at_once == 0:
            short.advanced(at_once, now)
            assert _knowledge(short) == _knowledge(long)
    assert hear(short, Data(22, b"end"), now) == [Ack(22)]
    assert short.outcome is Outcome.DONE


def test_blocks_reported_together_measure_their_mean_round_trip() -> None:
    receiver = fetching()
    hear(receiver, full(1), 0.001)
    receiver.advanced(5, 0.001 + 5 * 0.009)
    assert receiver.timer.round_trip == pytest.approx(0.001 + (0.009 - 0.001) / 8)


def test_there_is_no_short_cut_where_anything_is_out_of_the_ordinary() -> None:
    windowed = fetching(2)
    hear(windowed, full(1), 0.001)
    assert windowed.expected() is None, "a block is not acknowledged by itself"

    repeating = fetching()
    hear(repeating, full(1), 0.001)
    assert repeating.expected() == 2
    assert repeating.deadline is not None
    repeating.expire(repeating.deadline)
    assert repeating.expected() is None, "the ACK was sent twice"
    now = repeating.deadline
    hear(repeating, full(2), now)
    assert repeating.expected() == 3

    unsaid = fetching()
    unsaid.receive(full(1).encode(), 0.001)
    assert unsaid.expected() is None, "an ACK is due"

    over = fetching()
    hear(over, Data(1, b"end"), 0.001)
    assert over.expected() is None, "all has come"


def _knowledge(receiver: Receiver) -> dict[str, object]:
    """All that a receiver knows, but for what it has measured."""
    apart = ("timer", "deadline", "terms", "counters", "granted", "_patience", "_opening")
    slots = [slot for cls in (Transfer, Receiver) for slot in cls.__slots__ if slot not in apart]
    return {slot: getattr(receiver, slot) for slot in slots} | asdict(receiver.counters)
