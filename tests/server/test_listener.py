"""The door of a server, with a gate behind it that only writes down what it is given."""

import errno
import itertools
import select
import socket
import time
from collections.abc import Iterator

import pytest

from tests.networks import two_hosts
from tests.watching import descriptors
from tests.wirepeer import PATIENCE, WirePeer, error_code
from tftp.errors import ErrorCode, TFTPError
from tftp.events import Address, Operation
from tftp.packets import Ack, Data, Error, OptionAck, ReadRequest
from tftp.server.listener import Arrival, Busy, Gate, Listener, client_key


class Book:
    """A gate that keeps what comes."""

    def __init__(self) -> None:
        self.arrivals: list[Arrival] = []
        self.delivered: list[tuple[bytes, Address]] = []
        self.peers: set[Address] = set()
        self.busy = False

    def submit(self, arrival: Arrival) -> None:
        if self.busy:
            raise Busy
        self.arrivals.append(arrival)

    def deliver(self, octets: memoryview, peer: Address) -> bool:
        if peer not in self.peers:
            return False
        self.delivered.append((bytes(octets), peer))
        return True


@pytest.fixture
def book() -> Book:
    return Book()


@pytest.fixture
def refused() -> list[tuple[Arrival, TFTPError]]:
    return []


def listen(
    gate: Gate,
    address: Address = ("127.0.0.1", 0),
    refused: list[tuple[Arrival, TFTPError]] | None = None,
    freebind: bool = False,
    reuse_port: bool = False,
) -> Listener:
    return Listener(
        socket.AF_INET6 if ":" in address[0] else socket.AF_INET,
        address,
        gate,
        refused=lambda arrival, error: (refused if refused is not None else []).append(
            (arrival, error)
        ),
        numbers=itertools.count(1),
        freebind=freebind,
        reuse_port=reuse_port,
    )


@pytest.fixture
def listener(book: Book, refused: list[tuple[Arrival, TFTPError]]) -> Iterator[Listener]:
    made = listen(book, refused=refused)
    yield made
    made.close()


@pytest.fixture
def peer(listener: Listener) -> Iterator[WirePeer]:
    with WirePeer(listener.address) as made:
        yield made


def serve(listener: Listener) -> None:
    """Have the listener take in what has come."""
    readable, _, _ = select.select([listener], [], [], PATIENCE)
    assert readable
    listener.readable(time.monotonic())


# -- requests -------------------------------------------------------------------------------------


def test_a_request_arrives_as_it_stands_on_the_wire(
    listener: Listener, book: Book, peer: WirePeer
) -> None:
    peer.send(ReadRequest(b"\xffname\\x", "OctEt", {"BLKSIZE": "1400", "x": "y"}))
    peer.wrq("up", "netascii")
    serve(listener)
    read, write = book.arrivals
    assert read.request.operation is Operation.READ
    assert read.request.filename == b"\xffname\\x"
    assert read.request.mode == "octet"
    assert read.request.options == {"BLKSIZE": "1400", "x": "y"}
    assert read.request.peer == peer.address
    assert read.request.local == listener.address
    assert write.request.operation is Operation.WRITE
    assert write.number > read.number
    assert peer.drain() == []


def test_a_request_tells_which_of_the_hosts_addresses_was_asked(book: Book) -> None:
    listener = listen(book, ("0.0.0.0", 0))
    port = listener.address[1]
    for host in ("127.0.0.1", "127.4.5.6"):
        with WirePeer((host, port)) as peer:
            peer.rrq("x")
            serve(listener)
            assert book.arrivals[-1].request.local == (host, port)
            # And the door answers from there.
            book.arrivals[-1].refuse(TFTPError("no"))
            assert error_code(peer.receive()) == 0
            assert peer.tid == (host, port)
    listener.close()


def test_a_link_local_client_is_known_with_its_interface(book: Book) -> None:
    with two_hosts() as (left, right):
        for host, number in ((left, 1), (right, 2)):
            # Not only fe80: the whole of fe80::/10 means something on one interface only.
            host.add_address(f"febf::{number}/64")
        listener = left.call(listen, book, ("::", 0))
        port, scope = listener.address[1], right.scope("wire")
        client = right.socket(("febf::2", 0, 0, scope))
        with WirePeer(("febf::1", port, 0, scope), sock=client) as peer:
            peer.rrq("x")
            serve(listener)
            request = book.arrivals[0].request
            assert request.peer == ("febf::2", client.getsockname()[1], 0, left.scope("wire"))
            assert request.local == ("febf::1", port, 0, left.scope("wire"))
            book.arrivals[0].refuse(TFTPError("no"))
            assert error_code(peer.receive()) == 0
        listener.close()


def test_a_request_to_a_broadcast_or_multicast_address_stays_unanswered(book: Book) -> None:
    with two_hosts() as (left, right):
        listener = left.call(listen, book, ("0.0.0.0", 0))
        port = listener.address[1]
        # The last datagram is for the server alone; what came before it came to nothing.
        client = right.socket(("192.0.2.2", 0))
        client.setsockopt(socket.SOL_SOCKET, socket.SO_BROADCAST, 1)
        client.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_IF, socket.inet_aton("192.0.2.2"))
        listener.socket.setsockopt(
            socket.IPPROTO_IP,
            socket.IP_ADD_MEMBERSHIP,
            socket.inet_aton("239.1.2.3") + socket.inet_aton("192.0.2.1"),
        )
        with WirePeer(("192.0.2.1", port), sock=client) as peer:
            for address in ("192.0.2.255", "255.255.255.255", "239.1.2.3"):
                for packet in (ReadRequest(b"x"), Data(1, b"stray"), b"\0\1junk"):
                    peer.send(packet, (address, port))
            peer.rrq("mine")
            while not book.arrivals:
                serve(listener)
            assert [arrival.request.filename for arrival in book.arrivals] == [b"mine"]
            assert peer.drain() == []
        listener.close()


# -- everything else ------------------------------------------------------------------------------


@pytest.mark.parametrize("packet", [Ack(1), Data(1, b"x"), OptionAck({"blksize": "8"})])
def test_a_packet_of_no_transfer_is_answered_unknown_tid(
    listener: Listener, book: Book, peer: WirePeer, packet: Ack | Data | OptionAck
) -> None:
    peer.send(packet)
    serve(listener)
    assert error_code(peer.receive()) == ErrorCode.UNKNOWN_TID
    assert book.arrivals == []


def test_an_ack_of_a_client_that_has_asked_here_is_passed_over(
    listener: Listener, peer: WirePeer
) -> None:
    # The last ACK, doubled on the way, of a client that asks for its next file from the same port.
    peer.rrq("one")
    serve(listener)
    peer.send(Ack(1))
    peer.send(Data(2, b"x"))
    serve(listener)
    assert error_code(peer.receive()) == ErrorCode.UNKNOWN_TID  # To the DATA,
    assert peer.drain() == []  # and that is all.


def test_of_those_who_have_asked_only_the_latest_are_remembered(
    listener: Listener, peer: WirePeer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tftp.server.listener._REMEMBERED", 1)
    with WirePeer(listener.address) as other:
        for who in (other, peer, other):
            who.rrq("one")
            serve(listener)
        other.send(Ack(1))
        peer.send(Ack(1))
        serve(listener)
        assert error_code(peer.receive()) == ErrorCode.UNKNOWN_TID
        assert other.drain() == []


@pytest.mark.parametrize(
    "datagram", [Error(0, "stop").encode(), b"\0\5\0\0", b"\0\5\0", b"\0\5", b"\0\5\xff\xff\xff"]
)
def test_an_error_is_never_answered(listener: Listener, peer: WirePeer, datagram: bytes) -> None:
    peer.send(datagram)
    peer.send(Ack(9))
    serve(listener)
    assert error_code(peer.receive()) == ErrorCode.UNKNOWN_TID  # To the ACK behind it,
    assert peer.drain() == []  # and that is all.


@pytest.mark.parametrize(
    "datagram", [b"\0\1", b"\0\1name", b"\0\2name\0", b"\0\1name\0mode", b"\0\1" + bytes(5000)]
)
def test_a_request_that_makes_no_sense_is_refused_by_the_same_voice(
    listener: Listener,
    book: Book,
    peer: WirePeer,
    datagram: bytes,
    refused: list[tuple[Arrival, TFTPError]],
) -> None:
    peer.send(datagram)
    serve(listener)
    [(arrival, error)] = refused
    assert error.code == ErrorCode.ILLEGAL_OPERATION
    assert arrival.request.peer == peer.address
    assert book.arrivals == []


@pytest.mark.parametrize("datagram", [b"", b"\0", b"x", b"\0\7ab", b"\xff" * 600, b"GET / HTTP"])
def test_what_is_no_tftp_at_all_is_passed_over(
    listener: Listener, book: Book, peer: WirePeer, datagram: bytes
) -> None:
    peer.send(datagram)
    peer.rrq("mine")
    serve(listener)
    assert [arrival.request.filename for arrival in book.arrivals] == [b"mine"]
    assert peer.drain() == []


def test_what_belongs_to_a_running_transfer_goes_there(
    listener: Listener, book: Book, peer: WirePeer
) -> None:
    book.peers.add(peer.address)
    datagrams = [
        Error(0, "stop").encode(),
        Ack(7).encode(),
        Data(3, bytes(65464)).encode(),
        b"",
        b"\0\7",
        # One more than the largest block: were it cut, it would pass for the largest.
        Data(3, bytes(65465)).encode(),
    ]
    for datagram in datagrams:
        peer.send(datagram)
    peer.rrq("x")  # A request is for the engine to judge, whoever sends it.
    serve(listener)
    assert book.delivered == [(datagram, peer.address) for datagram in datagrams]
    assert len(book.arrivals) == 1
    assert peer.drain() == []


def test_a_request_that_finds_no_room_is_refused_by_one_voice(
    listener: Listener, book: Book, peer: WirePeer, refused: list[tuple[Arrival, TFTPError]]
) -> None:
    book.busy = True
    peer.rrq("x")
    serve(listener)
    [(arrival, error)] = refused
    assert arrival.request.filename == b"x"
    assert isinstance(error, Busy)
    assert error.code == 0
    assert "busy" in error.message
    assert peer.drain() == []  # Whoever is told of it answers.


# -- the socket -----------------------------------------------------------------------------------


def test_a_port_that_is_taken_is_named_and_leaves_no_descriptor(
    listener: Listener, book: Book
) -> None:
    before = descriptors()
    with pytest.raises(OSError, match="in use") as caught:
        listen(book, listener.address)
    assert caught.value.errno == errno.EADDRINUSE
    assert caught.value.filename == f"127.0.0.1:{listener.address[1]}"
    assert descriptors() <= before


def test_a_port_can_be_shared_by_those_who_agree_to_it(book: Book) -> None:
    one = listen(book, reuse_port=True)
    two = listen(book, one.address, reuse_port=True)
    assert two.address == one.address
    with pytest.raises(OSError, match="in use"):
        listen(book, one.address)
    one.close()
    two.close()


@pytest.mark.parametrize("address", [("192.0.2.99", 0), ("2001:db8::99", 0, 0, 0)])
def test_an_address_that_is_yet_to_come_can_be_listened_on(book: Book, address: Address) -> None:
    with pytest.raises(OSError, match="assign") as caught:
        listen(book, address)
    assert caught.value.errno == errno.EADDRNOTAVAIL
    listener = listen(book, address, freebind=True)
    assert listener.address[0] == address[0]
    listener.close()


def test_a_fault_of_the_program_does_not_close_the_door(
    listener: Listener, peer: WirePeer, book: Book, caplog: pytest.LogCaptureFixture
) -> None:
    listener.failed(ValueError("a fault"))
    assert "a fault" in caplog.text
    assert not listener.finished
    peer.rrq("x")
    serve(listener)
    assert len(book.arrivals) == 1


def test_many_requests_are_taken_in_turns_so_that_transfers_have_theirs(
    listener: Listener, book: Book, peer: WirePeer
) -> None:
    for number in range(200):
        peer.rrq(str(number))
    serve(listener)
    first = len(book.arrivals)
    assert 0 < first < 200
    while len(book.arrivals) < 200:
        serve(listener)
    names = [int(arrival.request.filename) for arrival in book.arrivals]
    assert names == list(range(200))
    assert len({arrival.number for arrival in book.arrivals}) == 200


def test_clients_are_told_apart_by_address_port_and_scope() -> None:
    assert client_key(("192.0.2.1", 5)) != client_key(("192.0.2.1", 6))
    assert client_key(("fe80::1", 5, 0, 1)) != client_key(("fe80::1", 5, 0, 2))
    assert client_key(("fe80::1", 5, 0, 1)) == client_key(("fe80::1", 5, 77, 1))
