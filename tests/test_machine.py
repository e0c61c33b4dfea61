"""What both directions share: which packets are legal, the opening, the waits, and the end."""

from itertools import pairwise
from pathlib import Path as FilePath

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.byhand import PATIENCE, RRQ, WRQ, fetching, full, hear, roles, said, send, serving
from tests.wire import Nobody, Path, Server, Station, Wire, reading, writing
from tftp.errors import (
    Aborted,
    DecodeError,
    ErrorCode,
    PeerError,
    ProtocolError,
    Refused,
    TFTPError,
    TransferTimeout,
    Unreachable,
)
from tftp.events import Outcome
from tftp.options import Terms
from tftp.packets import Ack, Data, Error, Opcode, OptionAck, Packet, ReadRequest, WriteRequest
from tftp.timers import Patience
from tftp.transfer import Receiver, Sender, State, Transfer

DOCUMENT = FilePath(__file__).parents[1] / "docs" / "explanation" / "state-machine.md"


# Which packets are legal


def in_state(machine: type[Transfer], state: State) -> Transfer:
    """A machine that stands in this state."""
    terms = Terms()
    if machine is Sender:
        if state is State.REQUESTED:
            return Sender.request(WRQ, 0.0, PATIENCE)
        sender = Sender.answer(terms, {"tsize": "0"}, 0.0, PATIENCE)
        if state is State.ANSWERED:
            return sender
        sender.receive(Ack(0).encode(), 0.001)
        if state is State.CLOSED:
            sender.abort(Aborted())
        return sender
    if state is State.REQUESTED:
        return Receiver.request(RRQ, 0.0, PATIENCE)
    receiver = Receiver.answer(terms, {"tsize": "0"}, 0.0, PATIENCE)
    if state is State.ANSWERED:
        return receiver
    hear(receiver, Data(1, bytes(512 if state is State.FLOWING else 5)), 0.001)
    if state is State.CLOSED:
        receiver.expire(10.0)
    return receiver


STATES = [
    *((Sender, state) for state in State if state is not State.DALLYING),
    *((Receiver, state) for state in State),
]
PACKETS: dict[Opcode, Packet] = {
    Opcode.RRQ: RRQ,
    Opcode.WRQ: WRQ,
    Opcode.DATA: Data(1, b"hello"),
    Opcode.ACK: Ack(0),
    Opcode.ERROR: Error(2, "no"),
    Opcode.OACK: OptionAck({}),
}


@pytest.mark.parametrize(("machine", "state"), STATES)
@pytest.mark.parametrize("opcode", Opcode)
def test_a_packet_leads_where_the_table_says_or_ends_the_transfer(
    machine: type[Transfer], state: State, opcode: Opcode
) -> None:
    transfer = in_state(machine, state)
    assert transfer.state is state
    transfer.replies()
    before = transfer.outcome
    transfer.receive(PACKETS[opcode].encode(), 0.002)
    if (state, opcode) in machine.LEGAL:
        assert transfer.state in (state, machine.LEGAL[state, opcode])
        assert transfer.outcome is not Outcome.PROTOCOL_ERROR
        return
    assert transfer.state is State.CLOSED
    assert transfer.deadline is None
    if before is None:
        assert transfer.outcome is Outcome.PROTOCOL_ERROR
        (error,) = said(transfer)
        assert isinstance(error, Error)
        assert error.code == ErrorCode.ILLEGAL_OPERATION
        assert f"{opcode.name} is not legal here ({state.name.lower()})" in error.message
    else:
        assert transfer.outcome is before
        assert said(transfer) == []


@pytest.mark.parametrize(
    ("machine", "state", "packet"),
    [
        (Sender, State.REQUESTED, Ack(0)),
        (Sender, State.REQUESTED, OptionAck({})),
        (Sender, State.ANSWERED, Ack(0)),
        (Receiver, State.REQUESTED, Data(1, b"hello")),
        (Receiver, State.REQUESTED, OptionAck({})),
        (Receiver, State.ANSWERED, Data(1, b"hello")),
        (Receiver, State.DALLYING, Error(0, "late")),
    ],
)
def test_what_was_waited_for_leads_to_the_next_state(
    machine: type[Transfer], state: State, packet: Packet
) -> None:
    transfer = in_state(machine, state)
    transfer.receive(packet.encode(), 0.002)
    opcode = next(code for code, one in PACKETS.items() if type(one) is type(packet))
    assert transfer.state is machine.LEGAL[state, opcode] is not state


# What moves a machine on besides packets.
STEPS = {
    Sender: ["FLOWING --> CLOSED: the last ACK"],
    Receiver: ["FLOWING --> DALLYING: all is stored", "DALLYING --> CLOSED: time"],
}


def diagram(machine: type[Transfer]) -> str:
    """The table of a machine as a Mermaid diagram."""
    lines = ["stateDiagram-v2", "    [*] --> REQUESTED: a client", "    [*] --> ANSWERED: a server"]
    edges: dict[tuple[State, State], list[str]] = {}
    for (state, opcode), target in machine.LEGAL.items():
        edges.setdefault((state, target), []).append(opcode.name)
    for (state, target), opcodes in edges.items():
        lines.append(f"    {state.name} --> {target.name}: {', '.join(opcodes)}")
    lines += (f"    {step}" for step in STEPS[machine])
    lines.append("    CLOSED --> [*]")
    return "\n".join(["```mermaid", *lines, "```"])


@pytest.mark.parametrize("machine", [Sender, Receiver])
def test_the_documentation_shows_the_table(machine: type[Transfer]) -> None:
    text = DOCUMENT.read_text(encoding="utf-8")
    assert diagram(machine) in text, f"{DOCUMENT} should hold:\n{diagram(machine)}"


# The opening


@pytest.mark.parametrize("options", [{"blksize": "1025"}, {"windowsize": "2"}, {"blksize": "x"}])
@pytest.mark.parametrize("machine", [Sender, Receiver])
def test_an_oack_that_grants_more_than_was_asked_is_answered_with_error_8(
    machine: type[Sender] | type[Receiver], options: dict[str, str]
) -> None:
    asked = {"blksize": "1024"}
    transfer: Transfer
    if machine is Sender:
        transfer = Sender.request(WriteRequest(b"file", options=asked), 0.0, PATIENCE)
    else:
        transfer = Receiver.request(ReadRequest(b"file", options=asked), 0.0, PATIENCE)
    said(transfer)
    (error,) = hear(transfer, OptionAck(options), 0.01)
    assert isinstance(error, Error)
    assert error.code == ErrorCode.OPTION_REFUSED
    assert transfer.outcome is Outcome.PROTOCOL_ERROR
    assert transfer.deadline is None
    assert transfer.granted == {}


def test_an_answered_opening_that_was_repeated_measures_no_round_trip() -> None:
    for late in (Sender.request(WRQ, 0.0, PATIENCE), Receiver.request(RRQ, 0.0, PATIENCE)):
        assert late.deadline is not None
        late.expire(late.deadline)
        hear(late, Ack(0) if isinstance(late, Sender) else full(1), 0.6)
        assert late.state is State.FLOWING
        assert late.timer.round_trip is None


# Time


def test_an_unanswered_request_is_repeated_ever_more_slowly_and_given_up_in_the_end() -> None:
    for client in (reading(Terms()), writing(Terms(), b"")):
        wire = Wire(client, Nobody()).run()
        times = [seen.time for seen in wire.sent(client)]
        assert times == pytest.approx([0, 0.5, 1.5, 3.5, 7.5, 12.5, 17.5, 22.5, 27.5])
        assert wire.now == pytest.approx(30)
        assert client.outcome is Outcome.TIMED_OUT
        assert str(client.machine.error) == "no answer for 30.0 s"


@pytest.mark.parametrize("total", [0.3, 2.0, 100.0])
def test_all_patience_together_is_kept_to_the_moment(total: float) -> None:
    client = reading(Terms(), Patience(total=total))
    assert Wire(client, Nobody()).run().now == pytest.approx(total)


@pytest.mark.parametrize("retries", [0, 1, 4])
def test_retries_are_counted(retries: int) -> None:
    client = reading(Terms(), Patience(retries=retries))
    wire = Wire(client, Nobody()).run()
    assert len(wire.sent(client)) == 1 + retries
    assert client.outcome is Outcome.TIMED_OUT


@pytest.mark.parametrize("option", [{"timeout": "1"}, {"timeout": "255"}, {"utimeout": "50000"}])
def test_a_negotiated_timeout_is_obeyed_to_the_moment(option: dict[str, str]) -> None:
    (seconds,) = (int(value) / (1e6 if name == "utimeout" else 1) for name, value in option.items())
    sender = serving(terms=Terms(timeout=seconds))
    send(sender, 0.001)
    hear(sender, Ack(1), 0.002)
    receiver = Receiver.request(ReadRequest(b"file", options=option), 0.0, PATIENCE)
    hear(receiver, OptionAck(option), 0.001)
    hear(receiver, full(1), 0.002)
    for machine in (sender, receiver):
        station = Station(machine, bytes(5000))
        wire = Wire(station, Nobody()).run()
        times = [seen.time for seen in wire.sent(station, Opcode.DATA) or wire.sent(station)]
        assert len(times) >= 3
        assert {round(later - earlier, 6) for earlier, later in pairwise(times)} == {seconds}
        assert station.outcome is Outcome.TIMED_OUT
        assert wire.now == pytest.approx(max(PATIENCE.total, 3 * seconds) + 0.002, abs=0.001)


def test_a_timeout_that_only_the_user_wants_holds_from_the_first_packet() -> None:
    for machine in (
        Receiver.request(RRQ, 0.0, PATIENCE, 2.0),
        Sender.request(WRQ, 0.0, PATIENCE, 2.0),
    ):
        station = Station(machine)
        wire = Wire(station, Nobody()).run(until=7)
        assert [seen.time for seen in wire.sent(station)] == [0, 2, 4, 6]


@pytest.mark.parametrize("granted", [{}, {"blksize": "512"}])
@pytest.mark.parametrize("machine", [Sender, Receiver])
@pytest.mark.parametrize("size", [5000, 5])
def test_a_silent_address_gets_three_packets_at_the_most(
    machine: type[Sender] | type[Receiver], granted: dict[str, str], size: int
) -> None:
    server = Station(machine.answer(Terms(), granted, 0.0, PATIENCE), bytes(size))
    wire = Wire(server, Nobody()).run()
    assert [seen.time for seen in wire.sent(server)] == pytest.approx([0, 0.5, 1.5])
    assert server.outcome is Outcome.TIMED_OUT
    assert wire.now == pytest.approx(5.0)


@pytest.mark.parametrize("options", [Terms(), Terms(tsize=0)])
def test_a_flood_of_one_request_gets_three_packets_at_the_most(options: Terms) -> None:
    server = Server(bytes(5000))
    (request,) = reading(options).start(0.0)
    wire = Wire(Nobody(), server)
    for copy in range(100):
        wire.inject(server, request, copy / 25)
    wire.run()
    assert server.requests == 100
    assert len(wire.sent(server)) == 3


@roles
def test_copies_of_a_request_get_one_answer(role: str) -> None:
    file = bytes(5000)
    server = Server(file if role == "get" else b"")
    client = reading(Terms(tsize=0)) if role == "get" else writing(Terms(tsize=5000), file)
    wire = Wire(client, server, there=Path(fate=lambda index: (0.0,) * 9 if index == 0 else (0.0,)))
    wire.run()
    assert server.requests == 9
    assert len(wire.sent(server, Opcode.OACK)) == 1
    assert bytes(client.file) == bytes(server.file) == file
    assert server.machine.counters.retransmissions == 0


# The end


@pytest.mark.parametrize(("machine", "state"), STATES)
def test_an_error_is_never_answered(machine: type[Transfer], state: State) -> None:
    transfer = in_state(machine, state)
    transfer.replies()
    before = transfer.outcome
    for code in (0, 3, 99):
        assert hear(transfer, Error(code, "no more"), 0.002) == []
    assert transfer.state is State.CLOSED
    assert transfer.deadline is None
    if before is not None:
        assert transfer.outcome is before
    elif (machine, state) == (Sender, State.ANSWERED):
        assert transfer.outcome is Outcome.PROBED
    else:
        assert transfer.outcome is Outcome.PEER_ERROR
        assert isinstance(transfer.error, PeerError)
        assert transfer.error.code == ErrorCode.UNDEFINED
        assert transfer.error.message == "no more"


@pytest.mark.parametrize(
    ("error", "outcome", "code"),
    [
        (Aborted("cancelled"), Outcome.ABORTED, 0),
        (Refused("disk full", ErrorCode.DISK_FULL), Outcome.STORAGE_ERROR, 3),
        (ProtocolError("no sense"), Outcome.PROTOCOL_ERROR, 4),
        (DecodeError("no packet"), Outcome.PROTOCOL_ERROR, 4),
        (TransferTimeout("too slow"), Outcome.TIMED_OUT, 0),
        (Unreachable("no route"), Outcome.UNREACHABLE, 0),
        (TFTPError("unheard of"), Outcome.STORAGE_ERROR, 0),
    ],
)
def test_an_abort_is_told_once(error: TFTPError, outcome: Outcome, code: int) -> None:
    for transfer in (serving(), fetching()):
        transfer.abort(error)
        assert said(transfer) == [Error(code, error.message)]
        assert transfer.outcome is outcome
        assert transfer.error is error
        assert transfer.state is State.CLOSED
        assert transfer.deadline is None
        transfer.abort(Aborted("again"))
        transfer.expire(100.0)
        assert said(transfer) == []
        assert transfer.error is error
        assert not isinstance(transfer, Sender) or not transfer.window()


# Junk


@pytest.mark.parametrize(
    "junk", [b"", b"\0", b"\0\4", b"\0\4\0", b"\0\7\0\1", b"\1\4\0\1", bytes(4)]
)
@pytest.mark.parametrize(("machine", "state"), STATES)
def test_what_is_no_packet_is_passed_over(
    machine: type[Transfer], state: State, junk: bytes
) -> None:
    transfer = in_state(machine, state)
    before = transfer.deadline, transfer.outcome
    transfer.replies()
    transfer.receive(junk, 0.002)
    assert transfer.state is state
    assert (transfer.deadline, transfer.outcome) == before
    assert transfer.replies() == []


datagrams = st.one_of(
    st.binary(max_size=600),
    st.builds(
        lambda opcode, number, rest: opcode.to_bytes(2, "big") + number.to_bytes(2, "big") + rest,
        st.sampled_from(Opcode),
        st.one_of(st.integers(0, 20), st.integers(0, 0xFFFF)),
        st.binary(max_size=600),
    ),
)


@given(st.lists(datagrams, max_size=12), st.sampled_from(STATES), st.sampled_from(["rest", "busy"]))
def test_nothing_that_comes_makes_a_machine_raise(
    junk: list[bytes], standing: tuple[type[Transfer], State], mood: str
) -> None:
    transfer = in_state(*standing)
    transfer.replies()
    now = 0.002
    for datagram in junk:
        now += 0.01
        transfer.receive(datagram, now)
        if mood == "busy":
            Station(transfer, bytes(3000)).expire(now)  # type: ignore[arg-type]
        assert len(transfer.replies()) <= 1
        assert (transfer.deadline is None) == (transfer.state is State.CLOSED)
        assert transfer.outcome is not None or transfer.state is not State.CLOSED
