"""What the RFCs ask for, as it shows on the wire of our server: the tests that docs/rfc.md names.

Each is one clause. A clause about a single value or module is tested beside that module; the same
clauses, for our client, are in test_client.py and test_errand.py.
"""

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from random import Random

import pytest

from tests.scripted import UNHURRIED
from tests.watching import Witness, eventually
from tests.wirepeer import WirePeer, error_code
from tftp.errors import ErrorCode
from tftp.events import Outcome
from tftp.options import Terms
from tftp.packets import Ack, Data, Error, OptionAck, Packet
from tftp.server import Server, ServerConfig
from tftp.storage import Directory, Memory
from tftp.timers import Patience

FILE = Random(1).randbytes(5000)
#: Repeats come soon, so that a test need not wait.
HASTY = Patience(initial=0.05, floor=0.05, ceiling=0.1, total=30.0)
#: How long nothing must come, where nothing may.
MOMENT = 0.15

Connect = Callable[..., tuple[WirePeer, Server, Witness]]


@pytest.fixture
def connect() -> Iterator[Connect]:
    """A server of the given patience, and somebody on the wire in front of it."""
    with ExitStack() as cleanup:

        def start(
            patience: Patience = UNHURRIED, **files: bytes
        ) -> tuple[WirePeer, Server, Witness]:
            witness = Witness()
            store = Memory({"file": FILE} | files, writable=True, overwrite=True)
            server = cleanup.enter_context(
                Server(store, config=ServerConfig(patience=patience), observers=[witness])
            )
            return cleanup.enter_context(WirePeer(server.address)), server, witness

        yield start


def block(number: int, size: int = 512) -> Data:
    """A block of the served file."""
    return Data(number, FILE[(number - 1) * size : number * size])


def expect(peer: WirePeer, *packets: Packet) -> None:
    for packet in packets:
        assert peer.receive() == packet


# -- RFC 1350 -------------------------------------------------------------------------------------


def test_each_block_waits_for_the_ack_of_the_one_before(connect: Connect) -> None:
    peer, _, _ = connect()
    peer.rrq("file")
    for number in (1, 2, 3):
        assert peer.receive() == block(number)
        assert peer.silent(0.05)
        peer.send(Ack(number))


def test_a_file_ends_with_a_short_block_or_an_empty_one(connect: Connect) -> None:
    peer, _, _ = connect(short=bytes(600), exact=bytes(1024), empty=b"")
    for name, sizes in [("short", [512, 88]), ("exact", [512, 512, 0]), ("empty", [0])]:
        peer.rrq(name)
        for number, size in enumerate(sizes, 1):
            expect(peer, Data(number, bytes(size)))
            peer.send(Ack(number))
        assert peer.silent(0.05)


def test_an_upload_is_acknowledged_from_block_0_to_the_short_one(connect: Connect) -> None:
    peer, server, witness = connect()
    peer.wrq("up")
    expect(peer, Ack(0))
    for number in (1, 2):
        peer.send(block(number))
        expect(peer, Ack(number))
    peer.send(Data(3, b"end"))
    expect(peer, Ack(3))
    assert witness.outcome() is Outcome.DONE
    with WirePeer(server.address) as reader:
        assert reader.read("up") == FILE[:1024] + b"end"


def test_a_block_whose_ack_stays_away_is_sent_again(connect: Connect) -> None:
    peer, _, _ = connect(HASTY)
    peer.rrq("file")
    expect(peer, block(1), block(1))
    peer.send(Ack(1))
    while (packet := peer.receive()) == block(1):
        pass
    assert packet == block(2)


def test_an_ack_whose_block_stays_away_is_sent_again(connect: Connect) -> None:
    peer, _, _ = connect(HASTY)
    peer.wrq("up")
    expect(peer, Ack(0))
    peer.send(block(1))
    while (packet := peer.receive()) == Ack(0):
        pass
    assert packet == Ack(1)
    expect(peer, Ack(1))


def test_the_answer_comes_from_a_port_of_its_own_and_stays_there(connect: Connect) -> None:
    peer, server, witness = connect()
    ports = set()
    for count in (1, 2, 3):
        peer.rrq("file")
        expect(peer, block(1))
        ports.add(peer.tid)
        peer.send(Ack(1))
        expect(peer, block(2))
        assert peer.tid in ports
        peer.send(Error(0, "enough"))
        witness.outcome(count)
    assert len(ports) == 3
    assert server.address not in ports


def test_a_packet_from_another_port_gets_error_5_and_disturbs_nothing(connect: Connect) -> None:
    peer, server, _ = connect()
    peer.rrq("file")
    expect(peer, block(1))
    with WirePeer(peer.tid) as stranger:
        stranger.send(Ack(1))
        assert error_code(stranger.receive()) == ErrorCode.UNKNOWN_TID
        stranger.send(Error(0, "go away"))
        assert stranger.silent(0.05)
    assert server.running == 1
    assert peer.silent(0.05)
    peer.send(Ack(1))
    expect(peer, block(2))


def test_a_doubled_request_starts_one_transfer(connect: Connect) -> None:
    peer, server, _ = connect()
    peer.rrq("file")
    peer.send(peer.sent[0], server.address)
    expect(peer, block(1))
    first = peer.tid
    while not peer.silent(MOMENT):  # A copy that was held up on its way may ask for block 1 again.
        expect(peer, block(1))
        assert peer.tid == first
    assert server.running == 1


@pytest.mark.parametrize("mode", ["octet", "OCTET", "oCtEt"])
def test_a_mode_may_be_spelled_in_any_case(connect: Connect, mode: str) -> None:
    peer, _, _ = connect()
    assert peer.read("file", mode) == FILE


@pytest.mark.parametrize("mode", ["netascii", "NetASCII"])
def test_netascii_translates_line_ends_and_octet_does_not(connect: Connect, mode: str) -> None:
    peer, _, _ = connect(text=b"a\nb\rc")
    assert peer.read("text", mode) == b"a\r\nb\r\0c"
    assert peer.read("text") == b"a\nb\rc"


@pytest.mark.parametrize("mode", ["mail", "binary", ""])
def test_mail_and_other_modes_are_refused(connect: Connect, mode: str) -> None:
    peer, _, _ = connect()
    peer.wrq("user", mode)
    assert error_code(peer.receive()) == ErrorCode.ILLEGAL_OPERATION


def test_an_octet_file_comes_back_identical(connect: Connect) -> None:
    peer, _, _ = connect()
    content = bytes(range(256)) * 9
    peer.write(content, "up")
    assert peer.read("up") == content


def test_a_request_that_is_denied_gets_an_error_and_no_transfer(connect: Connect) -> None:
    peer, server, _ = connect()
    peer.rrq("nowhere")
    error = peer.receive()
    assert isinstance(error, Error)
    assert error.code == ErrorCode.FILE_NOT_FOUND
    assert peer.received[-1].endswith(b"\0")  # The text for a person is ended by a NUL.
    assert server.running == 0


def test_an_error_ends_the_transfer_and_is_neither_answered_nor_repeated(connect: Connect) -> None:
    peer, server, witness = connect(HASTY)
    peer.rrq("file")
    expect(peer, block(1))
    peer.send(Error(0, "enough"))
    assert witness.outcome() is Outcome.PEER_ERROR
    assert server.running == 0
    peer.drain()
    assert peer.silent(MOMENT)


def test_an_error_of_ours_is_sent_once(connect: Connect) -> None:
    peer, _, witness = connect(HASTY)
    peer.rrq("file")
    expect(peer, block(1))
    peer.send(block(1))  # DATA is no answer to DATA.
    while (packet := peer.receive()) == block(1):
        pass
    assert error_code(packet) == ErrorCode.ILLEGAL_OPERATION
    assert witness.outcome() is Outcome.PROTOCOL_ERROR
    assert peer.silent(MOMENT)


def test_the_last_ack_is_repeated_for_who_missed_it(connect: Connect) -> None:
    peer, _, witness = connect()
    peer.wrq("up")
    expect(peer, Ack(0))
    peer.send(Data(1, b"all"))
    expect(peer, Ack(1))
    assert witness.outcome() is Outcome.DONE
    for _ in range(2):
        assert peer.silent(0.05)
        peer.send(Data(1, b"all"))
        expect(peer, Ack(1))


def test_the_last_block_is_repeated_until_its_ack_comes(connect: Connect) -> None:
    peer, _, witness = connect(HASTY, small=b"all")
    peer.rrq("small", tsize=0)
    expect(peer, OptionAck({"tsize": "3"}))
    peer.send(Ack(0))
    while (packet := peer.receive()) == OptionAck({"tsize": "3"}):
        pass
    assert packet == Data(1, b"all")
    expect(peer, Data(1, b"all"), Data(1, b"all"))
    peer.send(Ack(1))
    assert witness.outcome() is Outcome.DONE


def test_silence_ends_a_transfer(connect: Connect) -> None:
    peer, server, witness = connect(Patience(initial=0.05, ceiling=0.1, total=0.4))
    peer.rrq("file")
    expect(peer, block(1))
    peer.send(Ack(1))
    assert witness.outcome() is Outcome.TIMED_OUT
    assert server.running == 0


# -- RFC 1123, section 4.2.3 ----------------------------------------------------------------------


def test_a_doubled_ack_does_not_double_what_follows(connect: Connect) -> None:
    # The Sorcerer's Apprentice: one doubled ACK used to double every later block.
    peer, _, _ = connect()
    peer.rrq("file")
    for number in range(1, 10):
        expect(peer, block(number))
        peer.send(Ack(number))
        peer.send(Ack(number))
    expect(peer, block(10))
    assert peer.silent(MOMENT)


def test_each_repeat_waits_longer_than_the_one_before(connect: Connect) -> None:
    patience = Patience(initial=0.1, floor=0.1, ceiling=10.0, total=0.8)
    peer, _, witness = connect(patience)
    peer.rrq("file")
    expect(peer, block(1))
    peer.send(Ack(1))
    # Without a measured wait below it there is 0.1, 0.2, 0.4 and 0.8: at most four in that time.
    witness.outcome()
    repeats = [packet for packet in peer.drain() if packet == block(2)]
    assert 1 <= len(repeats) <= 4


# -- RFC 2347 -------------------------------------------------------------------------------------


def test_an_oack_answers_a_read_request_and_its_ack_0_brings_the_data(connect: Connect) -> None:
    peer, _, _ = connect()
    peer.rrq("file", blksize=1024, tsize=0)
    expect(peer, OptionAck({"blksize": "1024", "tsize": "5000"}))
    assert peer.silent(0.05)
    peer.send(Ack(0))
    expect(peer, block(1, 1024))


def test_an_oack_answers_a_write_request_in_place_of_ack_0(connect: Connect) -> None:
    peer, _, _ = connect()
    peer.wrq("up", blksize=1024, tsize=1030)
    expect(peer, OptionAck({"blksize": "1024", "tsize": "1030"}))
    peer.send(block(1, 1024))
    expect(peer, Ack(1))
    peer.send(Data(2, b"ending"))
    expect(peer, Ack(2))


def test_options_that_nobody_knows_are_left_out_and_are_no_error(connect: Connect) -> None:
    peer, _, _ = connect()
    peer.rrq("file", nonsense=1, blksize=1024, multicast="")
    expect(peer, OptionAck({"blksize": "1024"}))
    peer.rrq("file", nonsense=1)
    expect(peer, block(1))


def test_only_what_was_asked_is_answered_in_the_order_asked(connect: Connect) -> None:
    peer, _, _ = connect()
    peer.rrq("file", tsize=0)
    expect(peer, OptionAck({"tsize": "5000"}))
    peer.rrq("file", windowsize=2, BLKSIZE=1024, tsize=0)
    expect(peer, OptionAck({"windowsize": "2", "BLKSIZE": "1024", "tsize": "5000"}))
    assert peer.received[-1][2:].split(b"\0")[:-1:2] == [b"windowsize", b"BLKSIZE", b"tsize"]


@pytest.mark.parametrize("code", [0, 8])
def test_a_client_that_declines_an_oack_ends_the_transfer_at_once(
    connect: Connect, code: int
) -> None:
    peer, server, witness = connect(HASTY)
    peer.rrq("file", tsize=0)
    peer.receive()
    peer.send(Error(code, "User aborted the transfer"))
    assert witness.outcome() is Outcome.PROBED
    assert server.running == 0
    peer.drain()
    assert peer.silent(MOMENT)
    assert peer.read("file", blksize=1024) == FILE


def test_what_was_not_granted_does_not_hold(connect: Connect) -> None:
    peer, _, _ = connect()
    peer.rrq("file", blksize=4, windowsize=0, timeout=0, tsize=0)
    expect(peer, OptionAck({"tsize": "5000"}))
    peer.send(Ack(0))
    expect(peer, block(1))
    assert peer.silent(0.05)


# -- RFC 2349 -------------------------------------------------------------------------------------


def test_a_granted_timeout_is_the_wait_before_each_repeat(connect: Connect) -> None:
    peer, _, _ = connect()  # Its own wait is eight seconds.
    peer.rrq("file", utimeout=100_000)
    expect(peer, OptionAck({"utimeout": "100000"}))
    peer.send(Ack(0))
    while (packet := peer.receive()) == OptionAck({"utimeout": "100000"}):
        pass
    assert packet == block(1)
    expect(peer, block(1), block(1))


def test_an_upload_larger_than_the_server_takes_is_refused_with_error_3(
    connect: Connect, tmp_path_factory: pytest.TempPathFactory
) -> None:
    storage = Directory(tmp_path_factory.mktemp("served"), writable=True, max_size=100)
    with Server(storage) as server, WirePeer(server.address) as peer:
        peer.wrq("up", tsize=101)
        assert error_code(peer.receive()) == ErrorCode.DISK_FULL
        peer.wrq("up", tsize=100)
        expect(peer, OptionAck({"tsize": "100"}))


# -- RFC 7440 -------------------------------------------------------------------------------------


def test_a_window_is_sent_and_then_its_ack_awaited(connect: Connect) -> None:
    peer, _, _ = connect()
    peer.rrq("file", windowsize=4)
    expect(peer, OptionAck({"windowsize": "4"}))
    peer.send(Ack(0))
    expect(peer, *map(block, (1, 2, 3, 4)))
    assert peer.silent(0.05)
    peer.send(Ack(4))
    expect(peer, *map(block, (5, 6, 7, 8)))
    assert peer.silent(0.05)
    peer.send(Ack(8))
    expect(peer, block(9), block(10))  # The last window holds what there is.
    peer.send(Ack(10))
    assert peer.silent(0.05)


def test_an_ack_inside_a_window_is_where_the_next_one_begins(connect: Connect) -> None:
    peer, _, _ = connect()
    peer.rrq("file", windowsize=4)
    peer.receive()
    peer.send(Ack(0))
    expect(peer, *map(block, (1, 2, 3, 4)))
    peer.send(Ack(2))  # Block 3 was lost.
    expect(peer, *map(block, (3, 4, 5, 6)))
    assert peer.silent(0.05)
    peer.send(Ack(6))
    expect(peer, *map(block, (7, 8, 9, 10)))


def test_a_window_whose_ack_stays_away_is_sent_again(connect: Connect) -> None:
    peer, _, _ = connect(HASTY)
    peer.rrq("file", windowsize=2)
    peer.receive()
    peer.send(Ack(0))
    while (packet := peer.receive()) != block(1):
        assert packet == OptionAck({"windowsize": "2"})
    expect(peer, block(2), block(1))


def test_a_window_that_comes_is_acknowledged_once_at_its_end(connect: Connect) -> None:
    peer, _, _ = connect()
    peer.wrq("up", windowsize=3)
    expect(peer, OptionAck({"windowsize": "3"}))
    for number in (1, 2):
        peer.send(block(number))
    assert peer.silent(0.05)
    peer.send(block(3))
    expect(peer, Ack(3))
    peer.send(Data(4, b"end"))  # A window may be cut short by the end of the file.
    expect(peer, Ack(4))
    assert peer.silent(0.05)


def test_a_hole_in_a_window_is_told_once_by_the_ack_of_the_block_before(connect: Connect) -> None:
    peer, server, _ = connect()
    peer.wrq("up", windowsize=4)
    peer.receive()
    for number in (1, 3, 4):
        peer.send(block(number))
    expect(peer, Ack(1))
    assert peer.silent(0.05)
    for number in (2, 3, 4, 5):  # The next window begins behind the hole.
        peer.send(block(number))
    while (packet := peer.receive()) == Ack(4):
        pass
    assert packet == Ack(5)
    peer.send(Data(6, b"end"))
    expect(peer, Ack(6))
    with WirePeer(server.address) as reader:
        assert reader.read("up") == FILE[: 5 * 512] + b"end"


def test_every_later_block_acknowledged_by_itself_does_not_flood_anybody(connect: Connect) -> None:
    # EDK2 repeats its ACK for each block behind a hole; RFC 7440 allows what follows, at most once.
    peer, _, _ = connect()
    peer.rrq("file", windowsize=8)
    peer.receive()
    peer.send(Ack(0))
    expect(peer, *map(block, range(1, 9)))
    for _ in range(6):  # Block 3 was lost, and 3 to 8 are answered one by one.
        peer.send(Ack(2))
    received = []
    while not peer.silent(MOMENT):
        received.append(peer.receive())
    assert received == [*map(block, range(3, 11))]


# -- de facto -------------------------------------------------------------------------------------


@pytest.mark.parametrize("rollover", [0, 1])
def test_the_number_behind_65535_is_what_was_agreed(connect: Connect, rollover: int) -> None:
    content = Random(2).randbytes(8 * 65540 + 3)
    peer, _, _ = connect(long=content)
    assert peer.read("long", blksize=8, windowsize=64, rollover=rollover) == content
    numbers = {datagram[2:4] for datagram in peer.received if datagram[:2] == b"\0\3"}
    assert (bytes(2) in numbers) == (rollover == 0)


def test_blksize2_is_granted_as_a_power_of_two(connect: Connect) -> None:
    peer, _, _ = connect()
    peer.rrq("file", blksize2=1500)
    expect(peer, OptionAck({"blksize2": "1024"}))
    peer.send(Ack(0))
    expect(peer, block(1, 1024))


def test_terms_as_rfc_1350_left_them_are_what_there_is_without_options(connect: Connect) -> None:
    peer, _, witness = connect()
    assert peer.read("file") == FILE
    assert eventually(lambda: witness.kinds[-1] == "TransferEnded")
    assert witness.outcome() is Outcome.DONE
    assert Terms() == Terms(blksize=512, windowsize=1, timeout=None, tsize=None, rollover=None)
