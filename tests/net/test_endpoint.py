"""Endpoints on real sockets: loopback, and wires with the MTU and the queue that a test needs."""

import errno
import os
import select
import socket
from collections.abc import Iterator

import pytest

from tests.networks import host, two_hosts
from tests.watching import descriptors
from tests.wirepeer import PATIENCE
from tftp.events import Address
from tftp.net import kernel
from tftp.net.endpoint import (
    Endpoint,
    PairedEndpoint,
    SharedEndpoint,
    open_first_free,
    open_port,
    pair,
)

LOOPBACK = ("127.0.0.1", 0)
_IP_MTU_DISCOVER, _IPV6_MTU_DISCOVER, _PMTUDISC_DONT = 10, 23, 0


@pytest.fixture(params=["segments", "plain"])
def either_way(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """With the kernel's help for many datagrams, and without."""
    way: str = request.param
    if way == "plain":
        monkeypatch.setattr(kernel, "can_segment", lambda: False)
        monkeypatch.setattr(kernel, "join_segments", lambda sock: False)
    return way


def wait_for(sock: socket.socket | Endpoint) -> None:
    readable, _, _ = select.select([sock], [], [], PATIENCE)
    assert readable


# -- a port for one peer --------------------------------------------------------------------------


@pytest.fixture(params=[socket.AF_INET, socket.AF_INET6], ids=["IPv4", "IPv6"])
def paired(request: pytest.FixtureRequest) -> Iterator[tuple[PairedEndpoint, socket.socket]]:
    """An endpoint of two sockets, and its peer's."""
    family: int = request.param
    loopback = LOOPBACK if family == socket.AF_INET else ("::1", 0)
    with socket.socket(family, socket.SOCK_DGRAM) as peer:
        peer.bind(loopback)
        peer.settimeout(PATIENCE)
        side = open_port(family, loopback)
        sock = pair(side, peer.getsockname())
        assert sock is not None
        made = PairedEndpoint(sock, side, peer.getsockname())
        yield made, peer
        made.close()


def test_the_peer_is_heard_by_one_socket_and_everybody_else_by_the_other(
    paired: tuple[PairedEndpoint, socket.socket],
) -> None:
    endpoint, peer = paired
    buffer = memoryview(bytearray(100))
    with socket.socket(peer.family, socket.SOCK_DGRAM) as stranger:
        stranger.bind((peer.getsockname()[0], 0))
        stranger.settimeout(PATIENCE)
        stranger.sendto(b"stranger", endpoint.address)
        peer.sendto(b"peer", endpoint.address)
        wait_for(endpoint)
        received = endpoint.receive(buffer)
        assert received is not None
        assert (bytes(received[0]), received[1:]) == (b"peer", (4, peer.getsockname()))
        assert endpoint.receive(buffer) is None
        assert endpoint.side is not None
        wait_for(endpoint.side)
        beside = endpoint.receive_beside(buffer)
        assert beside is not None
        assert (bytes(beside[0]), beside[1]) == (b"stranger", stranger.getsockname())
        assert endpoint.receive_beside(buffer) is None
        # Both are answered from the port that they know.
        endpoint.send(b"for the peer", peer.getsockname())
        endpoint.send(b"for the stranger", stranger.getsockname())
        assert peer.recvfrom(99) == (b"for the peer", endpoint.address)
        assert stranger.recvfrom(99) == (b"for the stranger", endpoint.address)


def test_nobody_else_shares_the_port_of_a_pair(
    paired: tuple[PairedEndpoint, socket.socket],
) -> None:
    endpoint, peer = paired
    with socket.socket(peer.family, socket.SOCK_DGRAM) as thief:
        thief.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        with pytest.raises(OSError, match="in use"):
            thief.bind(endpoint.address)


def test_windows_leave_a_pair_cut_by_the_kernel_or_one_by_one(
    paired: tuple[PairedEndpoint, socket.socket], either_way: str
) -> None:
    given, peer = paired
    assert given.side is not None
    endpoint = PairedEndpoint(given.socket, given.side, peer.getsockname())
    octets = os.urandom(2 * 516 + 9)
    expected = [octets[:516], octets[516:1032], octets[1032:]]
    for _ in range(2):  # The second time the socket knows the size.
        emit, to = endpoint.route(peer.getsockname(), 516, 3)
        assert emit(octets, to) in (3, len(octets))
        assert [peer.recv(999) for _ in expected] == expected
    endpoint.send(b"alone", peer.getsockname())
    assert peer.recv(999) == b"alone"
    assert endpoint.cut_no_more() == (either_way == "segments")
    emit, to = endpoint.route(peer.getsockname(), 516, 3)
    assert emit(octets, to) == 3
    assert [peer.recv(999) for _ in expected] == expected


def test_a_port_that_can_not_be_paired_stays_as_it_is() -> None:
    side = open_port(socket.AF_INET, LOOPBACK)
    before = descriptors()
    assert pair(side, ("192.0.2.1", 0)) is None, "there is no port 0 to send to"
    assert descriptors() == before
    assert not side.getsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR)
    side.close()


# -- sending and receiving ------------------------------------------------------------------------


def test_what_is_sent_arrives_and_tells_where_from(endpoint: Endpoint, far: socket.socket) -> None:
    endpoint.send(b"there", far.getsockname())
    datagram, sender = far.recvfrom(100)
    assert (datagram, sender) == (b"there", endpoint.address)
    far.sendto(b"and back", sender)
    wait_for(endpoint)
    received = endpoint.receive(memoryview(bytearray(100)))
    assert received is not None
    octets, size, peer = received
    assert (bytes(octets), size, peer) == (b"and back", 8, far.getsockname())


@pytest.mark.parametrize("joins", [False, True])
def test_where_nothing_has_come_nothing_is_received(joins: bool) -> None:
    endpoint = Endpoint(open_port(socket.AF_INET, LOOPBACK), joins=joins)
    assert endpoint.receive(memoryview(bytearray(100))) is None
    endpoint.close()


@pytest.mark.parametrize("joins", [False, True])
def test_an_empty_datagram_is_not_nothing(joins: bool, far: socket.socket) -> None:
    endpoint = Endpoint(open_port(socket.AF_INET, LOOPBACK), joins=joins)
    far.sendto(b"", endpoint.address)
    wait_for(endpoint)
    received = endpoint.receive(memoryview(bytearray(100)))
    assert received is not None
    assert bytes(received[0]) == b""
    endpoint.close()


@pytest.mark.parametrize(
    ("size", "length"),
    [(516, 516), (516, 4), (516, 64 * 516), (516, 63 * 516 + 4), (12, 12 * 9 + 7)],
)
def test_blocks_arrive_one_by_one_and_as_they_are(
    endpoint: Endpoint, far: socket.socket, size: int, length: int, either_way: str
) -> None:
    octets = os.urandom(length)
    sender = Endpoint(open_port(socket.AF_INET, LOOPBACK))
    expected = [octets[start : start + size] for start in range(0, length, size)]
    count = sender.send_blocks(memoryview(octets), size, far.getsockname())
    assert count == len(expected)
    assert [far.recv(65536) for _ in expected] == expected
    far.setblocking(False)
    with pytest.raises(BlockingIOError):
        far.recv(1)
    sender.close()


def test_datagrams_of_one_size_may_come_joined_and_are_the_same_octets(either_way: str) -> None:
    sender = Endpoint(open_port(socket.AF_INET, LOOPBACK))
    receiver = Endpoint(open_port(socket.AF_INET, LOOPBACK), joins=True)
    octets = os.urandom(20 * 516 + 100)
    sender.send_blocks(memoryview(octets), 516, receiver.address)
    buffer = memoryview(bytearray(65536))
    came: list[bytes] = []
    calls = 0
    while len(came) < 21:
        wait_for(receiver)
        received = receiver.receive(buffer)
        assert received is not None
        joined, size, _ = received
        came += [bytes(joined[start : start + size]) for start in range(0, len(joined), size)]
        calls += 1
    assert b"".join(came) == octets
    assert {len(datagram) for datagram in came[:-1]} == {516}
    # The kernel did join them, or this is no test of it.
    assert calls < 21 if either_way == "segments" else calls == 21
    sender.close()
    receiver.close()


def test_blocks_larger_than_the_device_takes_go_as_fragments(far: socket.socket) -> None:
    with host() as lonely:
        lonely.ip("link set lo mtu 1500")
        receiver = lonely.socket(LOOPBACK)
        receiver.settimeout(PATIENCE)
        sender = Endpoint(lonely.call(open_port, socket.AF_INET, LOOPBACK))
        octets = os.urandom(7 * 4004)
        for _ in range(2):  # The first time the kernel refuses to segment, then nobody asks it.
            count = sender.send_blocks(memoryview(octets), 4004, receiver.getsockname())
            assert count == 7
            assert b"".join(receiver.recv(65536) for _ in range(7)) == octets
        sender.close()
        receiver.close()


@pytest.mark.parametrize("way", ["segments", "plain"])
def test_a_full_queue_takes_what_it_can_and_the_rest_later(
    way: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    if way == "plain":
        monkeypatch.setattr(kernel, "can_segment", lambda: False)
    with two_hosts() as (left, right):
        left.tc("qdisc add dev wire root tbf rate 20mbit burst 3000 latency 10s")
        sock = left.call(open_port, socket.AF_INET, ("192.0.2.1", 0))
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1)
        sender = Endpoint(sock)
        receiver = right.socket(("192.0.2.2", 0))
        receiver.settimeout(PATIENCE)
        octets = memoryview(os.urandom(40 * 1004))
        sent = blocked = 0
        while sent < 40:
            took = sender.send_blocks(octets[sent * 1004 :], 1004, receiver.getsockname())
            assert 0 <= took <= 40 - sent
            if took < 40 - sent:
                blocked += 1
                _, writable, _ = select.select([], [sender], [], PATIENCE)
                assert writable
            sent += took
        assert blocked or way == "segments"
        assert b"".join(receiver.recv(2000) for _ in range(40)) == octets
        sender.close()
        receiver.close()


def test_a_reply_that_finds_the_queue_full_is_lost_like_any_other() -> None:
    with two_hosts() as (left, right):
        left.tc("qdisc add dev wire root tbf rate 100kbit burst 2000 latency 10s")
        sock = left.call(open_port, socket.AF_INET, ("192.0.2.1", 0))
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1)
        sender = Endpoint(sock)
        receiver = right.socket(("192.0.2.2", 0))
        receiver.settimeout(PATIENCE)
        block = memoryview(bytes(1004))
        count = 0
        while sender.send_blocks(block, 1004, receiver.getsockname()):
            count += 1
        sender.send(b"lost", receiver.getsockname())
        _, writable, _ = select.select([], [sender], [], PATIENCE)
        assert writable
        sender.send(b"sent", receiver.getsockname())
        assert [len(receiver.recv(2000)) for _ in range(count)] == [1004] * count
        assert receiver.recv(2000) == b"sent"
        sender.close()
        receiver.close()


@pytest.mark.parametrize("host", ["127.0.0.1", "::1"])
def test_a_peer_that_nobody_listens_at_is_told_of_where_that_was_asked(host: str) -> None:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with open_port(family, (host, 0)) as closed:
        nobody = closed.getsockname()
    endpoint = Endpoint(open_port(family, (host, 0)), tells_refusals=True)
    endpoint.send(b"hello", nobody)
    wait_for(endpoint)
    buffer = memoryview(bytearray(100))
    with pytest.raises(ConnectionRefusedError):
        endpoint.receive(buffer)
    # Said once; the socket is not readable for ever after.
    assert endpoint.receive(buffer) is None
    assert select.select([endpoint], [], [], 0)[0] == []
    endpoint.close()


def test_a_peer_that_nobody_listens_at_disturbs_no_server(
    endpoint: Endpoint, far: socket.socket
) -> None:
    nobody = far.getsockname()
    far.close()
    for _ in range(3):
        endpoint.send(b"hello", nobody)
    assert endpoint.receive(memoryview(bytearray(100))) is None


# -- the shared port ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("family", "listening", "asked", "client"),
    [
        (socket.AF_INET, "0.0.0.0", "127.0.0.77", "127.0.0.1"),
        (socket.AF_INET, "0.0.0.0", "127.0.0.1", "127.0.0.1"),
        (socket.AF_INET6, "::", "::1", "::1"),
    ],
)
def test_a_shared_port_answers_from_the_address_that_was_asked(
    family: socket.AddressFamily, listening: str, asked: str, client: str, either_way: str
) -> None:
    shared = open_port(family, (listening, 0))
    port = shared.getsockname()[1]
    endpoint = SharedEndpoint(shared, (asked, port, 0, 0)[: 2 if family == socket.AF_INET else 4])
    with socket.socket(family, socket.SOCK_DGRAM) as peer:
        peer.bind((client, 0))
        peer.settimeout(PATIENCE)
        endpoint.send(b"one", peer.getsockname())
        assert endpoint.send_blocks(memoryview(b"twothree"), 3, peer.getsockname()) == 3
        came = [peer.recvfrom(100) for _ in range(4)]
    assert [datagram for datagram, _ in came] == [b"one", b"two", b"thr", b"ee"]
    assert {sender[:2] for _, sender in came} == {(asked, port)}
    shared.close()


def test_a_shared_port_is_not_one_transfers_to_wait_on_or_to_close() -> None:
    shared = open_port(socket.AF_INET, LOOPBACK)
    endpoint: Endpoint = SharedEndpoint(shared, shared.getsockname())
    assert endpoint.fileno() == -1
    shared.sendto(b"for somebody", shared.getsockname())
    assert endpoint.receive(memoryview(bytearray(100))) is None
    endpoint.close()
    wait_for(shared)
    assert shared.recv(100) == b"for somebody"
    shared.close()


# -- ports ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("family", "address"),
    [(socket.AF_INET, LOOPBACK), (socket.AF_INET6, ("::1", 0)), (socket.AF_INET, None)],
)
def test_a_port_never_blocks_and_lets_fragments_pass(
    family: socket.AddressFamily, address: Address | None
) -> None:
    with open_port(family, address) as sock:
        assert not sock.getblocking()
        assert not os.get_inheritable(sock.fileno())
        level, option = (
            (socket.IPPROTO_IP, _IP_MTU_DISCOVER)
            if family == socket.AF_INET
            else (socket.IPPROTO_IPV6, _IPV6_MTU_DISCOVER)
        )
        assert sock.getsockopt(level, option) == _PMTUDISC_DONT
        if address is not None:
            assert sock.getsockname()[0] == address[0]


def test_the_two_families_may_have_a_port_each_of_one_number() -> None:
    with open_port(socket.AF_INET6, ("::", 0)) as six:
        port = six.getsockname()[1]
        with open_port(socket.AF_INET, ("0.0.0.0", port)) as four:
            assert four.getsockname()[1] == port


def test_a_port_that_can_not_be_bound_leaves_no_descriptor() -> None:
    with open_port(socket.AF_INET, LOOPBACK) as sock:
        before = descriptors()
        with pytest.raises(OSError, match="in use") as caught:
            open_port(socket.AF_INET, sock.getsockname())
        assert caught.value.errno == errno.EADDRINUSE
        assert descriptors() <= before


def test_the_first_free_port_of_a_range_is_taken() -> None:
    with (
        open_port(socket.AF_INET, LOOPBACK) as taken,
        open_port(socket.AF_INET, LOOPBACK) as freed,
    ):
        busy, free = taken.getsockname()[1], freed.getsockname()[1]
        before = descriptors()
        with pytest.raises(OSError, match="every port of the range is in use") as caught:
            open_first_free(socket.AF_INET, LOOPBACK, [busy, free, busy])
        assert caught.value.errno == errno.EADDRINUSE
        assert descriptors() <= before
        freed.close()
        with open_first_free(socket.AF_INET, LOOPBACK, [busy, free]) as found:
            assert found.getsockname() == ("127.0.0.1", free)


def test_an_address_that_is_not_here_is_not_a_full_range() -> None:
    before = descriptors()
    with pytest.raises(OSError, match="assign") as caught:
        open_first_free(socket.AF_INET, ("192.0.2.99", 0), range(40000, 40010))
    assert caught.value.errno == errno.EADDRNOTAVAIL
    assert descriptors() <= before
