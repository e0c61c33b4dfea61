"""The end that has the file, by hand: what it sends, and what it sends again."""

from dataclasses import asdict

import pytest

from tests.byhand import PATIENCE, WRQ, hear, said, send, send_all, serving
from tests.wire import Nobody, Station, Wire
from tftp.errors import Aborted
from tftp.events import Outcome
from tftp.options import Terms
from tftp.packets import Ack, Error, Opcode, OptionAck, WriteRequest
from tftp.timers import Patience
from tftp.transfer import Sender, State, Transfer

# The opening


def test_a_server_that_grants_options_says_so_and_sends_data_after_ack_0() -> None:
    sender = Sender.answer(Terms(windowsize=2), {"windowsize": "2"}, 0.0, PATIENCE)
    assert said(sender) == [OptionAck({"windowsize": "2"})]
    assert not sender.window()
    assert not sender.heard
    assert hear(sender, Ack(0), 0.01) == []
    assert sender.heard
    assert send(sender, 0.01) == [1, 2]
    assert sender.timer.round_trip == pytest.approx(0.01)


def test_a_server_that_grants_nothing_sends_data_at_once() -> None:
    sender = Sender.answer(Terms(), {}, 0.0, PATIENCE)
    assert said(sender) == []
    assert send(sender, 0.0) == [1]
    assert hear(sender, Ack(1), 0.01) == []
    assert sender.timer.round_trip == pytest.approx(0.01)
    assert send(sender, 0.01) == [2]


def test_an_ack_of_another_block_does_not_answer_an_oack() -> None:
    sender = Sender.answer(Terms(), {"tsize": "9"}, 0.0, PATIENCE)
    said(sender)
    assert hear(sender, Ack(1), 0.01) == []
    assert sender.state is State.ANSWERED
    assert not sender.window()


def test_a_client_that_writes_sends_data_after_ack_0_and_under_the_old_terms() -> None:
    request = WriteRequest(b"file", options={"blksize": "1024"})
    sender = Sender.request(request, 0.0, PATIENCE)
    assert said(sender) == [request]
    assert hear(sender, Ack(0), 0.01) == []
    assert sender.terms == Terms()
    assert sender.granted == {}
    assert send(sender, 0.01, last=3) == [1]
    hear(sender, Ack(1), 0.02)
    assert sender.outcome is Outcome.DONE
    assert sender.counters.payload == 3


def test_a_client_that_writes_takes_the_terms_of_the_oack() -> None:
    request = WriteRequest(b"file", options={"blksize": "1024", "windowsize": "4"})
    sender = Sender.request(request, 0.0, PATIENCE)
    said(sender)
    assert hear(sender, OptionAck({"blksize": "800", "windowsize": "3"}), 0.01) == []
    assert sender.terms == Terms(blksize=800, windowsize=3)
    assert sender.granted == {"blksize": "800", "windowsize": "3"}
    assert send(sender, 0.01) == [1, 2, 3]


def test_a_repeated_oack_is_to_a_client_that_writes_what_a_repeated_ack_0_is() -> None:
    options = {"windowsize": "4"}
    sender = Sender.request(WriteRequest(b"file", options=options), 0.0, PATIENCE)
    said(sender)
    hear(sender, OptionAck(options), 0.01)
    assert send(sender, 0.01) == [1, 2, 3, 4]
    hear(sender, OptionAck(options), 0.011)
    assert not sender.window(), "a copy"
    hear(sender, OptionAck(options), 0.02)
    assert send(sender, 0.02)[0] == 1, "block 1 has not come"
    send_all(sender, 0.02)
    hear(sender, Ack(4), 0.03)
    send_all(sender, 0.03)
    hear(sender, Ack(8), 0.04)
    now = send_all(sender, 0.04)
    hear(sender, OptionAck(options), now + 0.02)
    assert not sender.window(), "the server is past that"


# Lock-step: RFC 1350, RFC 1123


def test_a_repeated_ack_sends_nothing() -> None:
    sender = serving()
    send(sender, 0.001)
    hear(sender, Ack(1), 0.002)
    assert send(sender, 0.002) == [2]
    for copy in range(10):
        assert hear(sender, Ack(1), 0.003 + copy / 1000) == []
        assert not sender.window()
    assert sender.counters.duplicates == 10


def test_an_ack_of_a_block_that_was_never_sent_is_passed_over() -> None:
    sender = serving()
    send(sender, 0.001)
    for number in (2, 3, 0x7FFF, 0x8000):
        assert hear(sender, Ack(number), 0.002) == []
        assert not sender.window()
    assert sender.counters.duplicates == 0
    hear(sender, Ack(1), 0.003)
    assert send(sender, 0.003) == [2]


def test_a_late_ack_of_an_old_block_is_counted_and_sends_nothing() -> None:
    sender = serving()
    for block in range(1, 5):
        send(sender, block / 1000)
        hear(sender, Ack(block), block / 1000 + 0.0005)
    send(sender, 0.005)
    hear(sender, Ack(2), 0.006)
    assert not sender.window()
    assert sender.counters.duplicates == 1


def test_a_lost_block_is_sent_again_when_the_timer_fires() -> None:
    sender = serving()
    send(sender, 0.001)
    assert sender.deadline is not None
    sender.expire(sender.deadline - 0.0001)
    assert not sender.window()
    sender.expire(sender.deadline)
    assert send(sender, sender.deadline) == [1]
    assert sender.counters.retransmissions == 1
    assert sender.counters.timeouts == 1


# Windows: RFC 7440


@pytest.mark.parametrize("hole", [1, 2, 15, 16])
def test_the_sender_goes_back_to_a_hole_once(hole: int) -> None:
    sender = serving(16)
    assert send(sender, 0.001) == [*range(1, 17)]
    hear(sender, Ack(hole - 1), 0.002)
    now = send_all(sender, 0.002)
    for _ in range(11):  # EDK2
        hear(sender, Ack(hole - 1), now)
        assert not sender.window()
    assert sender.counters.blocks == hole + 15
    assert sender.counters.gaps == 1
    assert sender.counters.retransmissions == 17 - hole
    assert sender.counters.timeouts == 0


def test_an_ack_inside_the_window_may_be_an_echo_and_moves_it_on() -> None:
    sender = serving(16)
    send(sender, 0.001)
    hear(sender, Ack(14), 0.002)
    assert send(sender, 0.002) == [*range(15, 30)]
    hear(sender, Ack(15), 0.0021)
    assert sender.window().start == 30
    assert sender.counters.gaps == 1


def test_an_ack_that_lets_nothing_go_still_starts_the_wait_anew() -> None:
    sender = serving(16)
    send(sender, 0.001, last=5)
    hear(sender, Ack(14), 0.002)
    send(sender, 0.002, last=5)
    hear(sender, Ack(15), 0.0021)
    assert not sender.window()
    assert sender.deadline == pytest.approx(0.0021 + sender.timer.interval)


def test_a_repeated_ack_reports_no_hole_where_nothing_is_out() -> None:
    sender = serving(16)
    send(sender, 0.001)
    hear(sender, Ack(16), 0.002)
    hear(sender, Ack(16), 0.3)
    assert sender.counters.gaps == 0
    assert send(sender, 0.3) == [*range(17, 33)]


def test_an_ack_of_all_that_was_in_flight_is_an_echo_even_a_round_trip_later() -> None:
    # U-Boot, as it meets the first block of the second flight: all of the first has come.
    sender = serving(16)
    send(sender, 0.001)
    hear(sender, Ack(14), 0.002)
    send(sender, 0.002)
    hear(sender, Ack(16), 0.1)
    assert sender.window().start == 30
    assert sender.counters.gaps == 1


def test_a_second_hole_is_believed_a_round_trip_later() -> None:
    sender = serving(16)
    send(sender, 0.001)
    hear(sender, Ack(13), 0.002)
    send(sender, 0.002)
    hear(sender, Ack(15), 0.004)
    assert sender.window().start == 16
    assert sender.counters.gaps == 2


def test_a_hole_among_new_blocks_is_believed_at_once() -> None:
    sender = serving(16)
    send(sender, 0.001)
    hear(sender, Ack(14), 0.002)
    send(sender, 0.002)
    hear(sender, Ack(18), 0.0021)
    assert sender.window().start == 19
    assert sender.counters.gaps == 2


def test_the_copy_of_an_ack_is_no_report_of_a_hole() -> None:
    sender = serving(16)
    send(sender, 0.001)
    hear(sender, Ack(16), 0.002)
    send(sender, 0.002)
    hear(sender, Ack(16), 0.0021)
    assert not sender.window()
    hear(sender, Ack(16), 0.003)
    assert sender.window().start == 17


def test_an_ack_that_overtakes_a_resend_spares_it() -> None:
    sender = serving(16)
    send(sender, 0.001)
    hear(sender, Ack(14), 0.002)
    hear(sender, Ack(16), 0.0021)
    assert sender.window().start == 17
    send(sender, 0.0021)
    assert sender.counters.retransmissions == 0


def test_the_answer_to_a_repeat_measures_no_round_trip() -> None:
    sender = serving(4)
    send(sender, 0.001)
    assert sender.deadline is not None
    sender.expire(sender.deadline)
    send(sender, sender.deadline)
    hear(sender, Ack(1), 0.5)
    assert sender.timer.round_trip == pytest.approx(0.001)


def test_the_answer_to_the_repeat_of_a_block_reported_lost_measures_one() -> None:
    # It was sent twice, but came once.
    sender = serving(4)
    send(sender, 0.001)
    hear(sender, Ack(3), 0.002)
    send(sender, 0.002)
    hear(sender, Ack(4), 0.802)
    assert sender.timer.round_trip == pytest.approx(0.001 + (0.8 - 0.001) / 8)


def test_one_sending_measures_one_round_trip() -> None:
    sender = serving(16)
    send(sender, 0.001)
    hear(sender, Ack(14), 0.002)
    send(sender, 0.002)
    hear(sender, Ack(15), 0.003)
    hear(sender, Ack(16), 0.8)
    assert sender.timer.round_trip == pytest.approx(0.001)


def test_holes_shorten_the_bursts_and_whole_windows_lengthen_them() -> None:
    sender = serving(16)
    now = 0.001
    for acked in range(3, 19, 3):
        send(sender, now)
        now += 0.1
        hear(sender, Ack(acked), now)
    bursts: list[int] = []
    while len(bursts) < 60:
        bursts.append(len(send(sender, now)))
        assert sender.deadline is not None
        if sender.deadline > now + 0.02:
            now += 0.1
            hear(sender, Ack(sender.counters.blocks), now)
        else:
            now = sender.deadline
            sender.expire(now)
    assert 3 <= bursts[0] <= 4
    assert bursts[-1] == 16
    assert sender.counters.timeouts == 0


@pytest.mark.parametrize(("round_trip", "pause"), [(0.000_1, 0.001), (0.005, 0.005), (0.2, 0.02)])
def test_a_pause_takes_a_round_trip_within_reason(round_trip: float, pause: float) -> None:
    sender = Sender.answer(Terms(windowsize=16), {"windowsize": "16"}, 0.0, PATIENCE)
    hear(sender, Ack(0), round_trip)
    send(sender, round_trip)
    hear(sender, Ack(3), 2 * round_trip)
    assert len(send(sender, 1.0)) < 16
    assert sender.deadline == pytest.approx(1.0 + pause)


def test_what_the_network_does_not_take_is_tried_again_for_as_long_as_patience_lasts() -> None:
    sender = serving()
    while sender.deadline is not None:
        now = sender.deadline
        sender.expire(now)
        if sender.window():
            sender.sent(0, now)
    assert sender.outcome is Outcome.TIMED_OUT
    assert now == pytest.approx(0.001 + PATIENCE.total)
    assert sender.counters.blocks == 0


def test_a_window_may_be_sent_in_parts() -> None:
    sender = serving(16)
    sender.sent(5, 0.001)
    assert sender.window() == range(6, 17)
    sender.sent(11, 0.002)
    assert not sender.window()


@pytest.mark.parametrize("windowsize", [1, 64, 65535])
def test_the_ack_of_a_full_window_is_understood(windowsize: int) -> None:
    sender = serving(windowsize)
    for turn in (1, 2, 3):
        send(sender, turn / 10)
        hear(sender, Ack(turn * windowsize & 0xFFFF), turn / 10 + 0.001)
        assert sender.window() == range(turn * windowsize + 1, (turn + 1) * windowsize + 1)


@pytest.mark.parametrize("at_once", [1, 5])
@pytest.mark.parametrize("windowsize", [1, 2, 4, 16, 64])
def test_the_short_cut_leads_where_the_long_way_leads(windowsize: int, at_once: int) -> None:
    long, short = serving(windowsize), serving(windowsize)
    now = 0.001
    for sender in (long, short):
        send(sender, now)
    for turn in range(1, 21):
        if turn % at_once == 1 % at_once:
            assert short.awaited() == turn * windowsize
        now += 0.001
        hear(long, Ack(turn * windowsize), now)
        send(long, now)
        if turn % at_once == 0:
            short.advanced(at_once, now)
            assert knowledge(short) == knowledge(long)


def test_windows_reported_together_measure_their_mean_round_trip() -> None:
    sender = serving()
    send(sender, 0.001)
    sender.advanced(5, 0.001 + 5 * 0.009)
    assert sender.timer.round_trip == pytest.approx(0.001 + (0.009 - 0.001) / 8)


def knowledge(sender: Sender) -> dict[str, object]:
    """All that a sender knows, but for what it has measured."""
    apart = ("timer", "deadline", "terms", "counters", "granted", "_patience", "_opening")
    slots = [slot for cls in (Transfer, Sender) for slot in cls.__slots__ if slot not in apart]
    counters = asdict(sender.counters)
    return {slot: getattr(sender, slot) for slot in slots} | counters


def test_there_is_no_short_cut_where_anything_is_out_of_the_ordinary() -> None:
    unanswered = Sender.answer(Terms(), {}, 0.0, PATIENCE)
    send(unanswered, 0.0)
    assert unanswered.awaited() is None

    sender = serving(16)
    sender.sent(15, 0.001)
    assert sender.awaited() is None, "the window is not full"
    sender.sent(1, 0.001)
    assert sender.awaited() == 16
    assert sender.deadline is not None
    sender.expire(sender.deadline)
    send(sender, 0.1)
    assert sender.awaited() is None, "half of it was sent twice"

    lock_step = serving()
    send(lock_step, 0.001)
    assert lock_step.awaited() == 1
    assert lock_step.deadline is not None
    lock_step.expire(lock_step.deadline)
    send(lock_step, 0.1)
    assert lock_step.awaited() is None, "it was sent twice"
    hear(lock_step, Ack(1), 0.2)
    send(lock_step, 0.2)
    assert lock_step.awaited() == 2

    bursting = serving(4)
    for acked in (1, 5):
        now = send_all(bursting, acked / 10)
        hear(bursting, Ack(acked), now)
    send_all(bursting, now)
    assert bursting.counters.blocks == 9
    assert bursting.awaited() is None, "it has to pause"

    ending = serving(4)
    send(ending, 0.001, last=100)
    assert ending.awaited() is None, "the file ends there"


# Time


def test_retries_are_counted_anew_after_each_progress() -> None:
    sender = serving(patience=Patience(retries=2))
    now = 0.001
    send(sender, now)
    for block in (1, 2, 3):
        for _ in range(2):
            assert sender.deadline is not None
            now = sender.deadline
            sender.expire(now)
            assert send(sender, now) == [block]
        hear(sender, Ack(block), now)
        send(sender, now)
    assert sender.outcome is None
    assert sender.counters.timeouts == 6


def test_a_client_that_repeats_its_request_gets_the_lost_answer_again() -> None:
    sender = Sender.answer(Terms(), {"tsize": "9"}, 0.0, PATIENCE)
    said(sender)
    sender.request_repeated(0.05)
    assert said(sender) == [], "a copy"
    sender.request_repeated(0.25)
    assert said(sender) == [OptionAck({"tsize": "9"})]
    hear(sender, Ack(0), 0.3)
    assert sender.timer.round_trip is None, "to which of the two was that the answer?"
    sender.request_repeated(0.8)
    assert said(sender) == [], "late"
    assert sender.window() == range(1, 2)


def test_a_client_that_repeats_its_request_without_options_gets_data_1_again() -> None:
    sender = Sender.answer(Terms(), {}, 0.0, PATIENCE)
    send(sender, 0.0)
    sender.request_repeated(0.25)
    assert send(sender, 0.25) == [1]


# The end


def test_the_last_ack_ends_a_sender() -> None:
    sender = serving(4)
    assert sender.window() == range(1, 5)
    sender.sent(3, 0.001, 100)
    assert not sender.window()
    hear(sender, Ack(3), 0.002)
    assert sender.outcome is Outcome.DONE
    assert sender.deadline is None
    assert sender.counters.payload == 1124
    assert sender.counters.octets_sent == len(OptionAck({"windowsize": "4"}).encode()) + 1124 + 12


def test_a_server_whose_last_ack_never_comes_ends_unconfirmed() -> None:
    server = Station(serving(), bytes(300))
    wire = Wire(server, Nobody()).run()
    assert server.outcome is Outcome.UNCONFIRMED
    assert server.machine.error is None
    assert wire.now == pytest.approx(5.0, abs=0.01)
    assert len(wire.sent(server)) < 10
    assert wire.sent(server, Opcode.ERROR) == []


def test_a_long_negotiated_timeout_leaves_time_to_repeat_the_last_block() -> None:
    server = Station(serving(terms=Terms(timeout=4.0)), bytes(300))
    wire = Wire(server, Nobody()).run()
    assert server.outcome is Outcome.UNCONFIRMED
    assert [seen.time for seen in wire.sent(server)] == [0, 4, 8, 12]
    assert wire.now == pytest.approx(16, abs=0.01)


def test_a_client_whose_last_ack_never_comes_can_not_be_sure() -> None:
    sender = Sender.request(WRQ, 0.0, PATIENCE)
    said(sender)
    hear(sender, Ack(0), 0.001)
    client = Station(sender, bytes(300))
    wire = Wire(client, Nobody()).run()
    assert client.outcome is Outcome.TIMED_OUT
    assert wire.now == pytest.approx(30.001, abs=0.001)


def test_a_server_does_not_take_a_client_for_gone_that_still_asks() -> None:
    sender = serving()
    send(sender, 0.001, last=9)
    for second in range(1, 25):
        while sender.deadline is not None and sender.deadline < second:
            now = sender.deadline
            sender.expire(now)
            send(sender, now, last=9)
        hear(sender, Ack(0), second)
        assert sender.outcome is None
        if sender.window():
            send(sender, second, last=9)
    hear(sender, Ack(1), 25)
    assert sender.outcome is Outcome.DONE


def test_an_abort_need_not_be_told() -> None:
    sender = serving()
    sender.abort(Aborted("the client has started over"), tell=False)
    assert said(sender) == []
    assert sender.outcome is Outcome.ABORTED


def test_an_abort_during_a_pause_ends_it() -> None:
    sender = serving(16)
    for acked in range(3, 13, 3):
        send(sender, acked / 10)
        hear(sender, Ack(acked), acked / 10 + 0.1)
    send(sender, 2.0)
    sender.abort(Aborted())
    sender.expire(3.0)
    assert not sender.window()
    assert sender.deadline is None


def test_giving_up_is_told_to_a_peer_that_was_there() -> None:
    sender = serving()
    send(sender, 0.001)
    while sender.deadline is not None:
        now = sender.deadline
        sender.expire(now)
        if sender.window():
            send(sender, now)
    assert said(sender) == [Error(0, "no answer for 30.0 s")]


def test_silence_is_counted_from_the_last_news() -> None:
    sender = serving()
    send(sender, 0.001)
    assert sender.silence(2.001) == pytest.approx(2.0)
    hear(sender, Ack(0), 3.0)
    assert sender.silence(3.0) == pytest.approx(2.999)
    hear(sender, Ack(1), 4.0)
    assert sender.silence(4.0) == 0
