"""The lossy link between real sockets: what it follows, what it loses, and that luck repeats."""

import hashlib
import socket
import time
from collections.abc import Callable, Iterator
from functools import partial
from random import Random

import pytest

from benchmarks.link import Conditions, Link
from tests.watching import descriptors, eventually
from tests.wirepeer import PATIENCE
from tftp.client import Client
from tftp.options import Terms
from tftp.server import Server
from tftp.storage import Memory

Where = tuple[str, int]
Opener = Callable[[], socket.socket]

LOOPBACK = ("127.0.0.1", 0)
# Small enough that the receive buffer of a plain socket holds them all.
MANY = 200


@pytest.fixture
def port() -> Iterator[Opener]:
    """Opens sockets, and closes them after the test."""
    opened = []

    def open_one() -> socket.socket:
        sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        opened.append(sock)
        sock.bind(LOOPBACK)
        sock.settimeout(PATIENCE)
        return sock

    yield open_one
    for sock in opened:
        sock.close()


def send_numbers(sender: socket.socket, where: Where, count: int = MANY) -> None:
    for number in range(count):
        sender.sendto(number.to_bytes(2, "big"), where)


def has_arrived(link: Link, count: int) -> bool:
    """Whether so many datagrams have come to the link on their way to the server."""
    return link.there.arrived == count


def numbers_that_came(receiver: socket.socket, link: Link, count: int = MANY) -> list[int]:
    """The numbers that a socket holds once the link has passed on all that it was sent."""
    assert eventually(partial(has_arrived, link, count))
    return [int.from_bytes(receiver.recv(2), "big") for _ in range(link.there.passed)]


def luck(port: Opener, seed: int, conditions: Conditions) -> list[int]:
    """What of `MANY` datagrams one client gets through."""
    client, server = port(), port()
    with Link(LOOPBACK, server.getsockname(), there=conditions, seed=seed) as link:
        send_numbers(client, link.address)
        return numbers_that_came(server, link)


def test_an_answer_from_another_port_comes_from_another_port(port: Opener) -> None:
    client, server, tid = port(), port(), port()
    with Link(LOOPBACK, server.getsockname()) as link:
        client.sendto(b"request", link.address)
        request, seen_client = server.recvfrom(100)
        tid.sendto(b"answer", seen_client)
        answer, seen_tid = client.recvfrom(100)
        client.sendto(b"reply", seen_tid)
        reply, sender = tid.recvfrom(100)
    assert (request, answer, reply) == (b"request", b"answer", b"reply")
    assert seen_tid != link.address
    assert sender == seen_client


def test_an_answer_from_the_port_that_was_asked_comes_from_the_door(port: Opener) -> None:
    client, server = port(), port()
    with Link(LOOPBACK, server.getsockname()) as link:
        client.sendto(b"request", link.address)
        _, seen_client = server.recvfrom(100)
        server.sendto(b"answer", seen_client)
        assert client.recvfrom(100) == (b"answer", link.address)


def test_two_ports_of_a_server_stay_two_for_the_client(port: Opener) -> None:
    client, server, first, second = port(), port(), port(), port()
    with Link(LOOPBACK, server.getsockname()) as link:
        client.sendto(b"request", link.address)
        _, seen_client = server.recvfrom(100)
        first.sendto(b"first", seen_client)
        _, seen_first = client.recvfrom(100)
        second.sendto(b"second", seen_client)
        _, seen_second = client.recvfrom(100)
        client.sendto(b"to the second", seen_second)
        assert second.recv(100) == b"to the second"
    assert seen_first != seen_second


def test_a_repeated_request_comes_from_the_same_port(port: Opener) -> None:
    client, server = port(), port()
    with Link(LOOPBACK, server.getsockname()) as link:
        client.sendto(b"request", link.address)
        client.sendto(b"request", link.address)
        assert server.recvfrom(100) == server.recvfrom(100)
        assert link.transfers == 1


def test_two_clients_have_two_ports(port: Opener) -> None:
    server = port()
    with Link(LOOPBACK, server.getsockname()) as link:
        senders = set()
        for client in (port(), port()):
            client.sendto(b"request", link.address)
            senders.add(server.recvfrom(100)[1])
    assert len(senders) == 2


def test_a_stranger_cannot_speak_for_a_client(port: Opener) -> None:
    client, server, tid, stranger = port(), port(), port(), port()
    with Link(LOOPBACK, server.getsockname()) as link:
        client.sendto(b"request", link.address)
        _, seen_client = server.recvfrom(100)
        tid.sendto(b"answer", seen_client)
        _, seen_tid = client.recvfrom(100)
        stranger.sendto(b"a lie", seen_tid)
        client.sendto(b"the truth", seen_tid)
        assert tid.recv(100) == b"the truth"


def test_the_same_seed_is_the_same_luck(port: Opener) -> None:
    conditions = Conditions(loss=0.2, duplicate=0.2)
    assert luck(port, 7, conditions) == luck(port, 7, conditions)
    assert luck(port, 7, conditions) != luck(port, 8, conditions)


def test_one_chance_does_not_shift_the_luck_of_another(port: Opener) -> None:
    lossy = luck(port, 7, Conditions(loss=0.2))
    both = luck(port, 7, Conditions(loss=0.2, duplicate=0.2))
    assert len(both) > len(lossy)
    assert sorted(set(both)) == lossy


def test_as_many_are_lost_as_was_asked(port: Opener) -> None:
    client, server = port(), port()
    with Link(LOOPBACK, server.getsockname(), there=Conditions(loss=0.05), seed=3) as link:
        came = 0
        for sent in range(MANY, 20 * MANY + 1, MANY):
            send_numbers(client, link.address)
            assert eventually(partial(has_arrived, link, sent))
            while came < link.there.passed:
                server.recv(2)
                came += 1
        assert link.there.lost + link.there.passed == 20 * MANY
        # 200 of 4000, give or take four standard deviations of 14.
        assert abs(link.there.lost - 200) < 56


def test_each_direction_has_conditions_of_its_own(port: Opener) -> None:
    client, server = port(), port()
    deaf = Conditions(loss=1.0)
    with Link(LOOPBACK, server.getsockname(), back=deaf) as link:
        client.sendto(b"request", link.address)
        _, seen_client = server.recvfrom(100)
        server.sendto(b"answer", seen_client)
        assert eventually(lambda: link.back.arrived == 1)
        assert (link.there.passed, link.back.passed, link.back.lost) == (1, 0, 1)


def test_late_datagrams_keep_their_order(port: Opener) -> None:
    assert luck(port, 1, Conditions(delay=0.02)) == list(range(MANY))


def test_a_datagram_that_is_held_back_is_overtaken(port: Opener) -> None:
    came = luck(port, 1, Conditions(reorder=0.1, hold=0.1))
    assert came != sorted(came)
    assert sorted(came) == list(range(MANY))


def test_no_datagram_is_early(port: Opener) -> None:
    client, server = port(), port()
    with Link(LOOPBACK, server.getsockname(), both=Conditions(delay=0.01)) as link:
        for _ in range(10):
            sent = time.monotonic()
            client.sendto(b"there", link.address)
            _, seen_client = server.recvfrom(100)
            there = time.monotonic()
            server.sendto(b"back", seen_client)
            client.recvfrom(100)
            back = time.monotonic()
            assert there - sent >= 0.01
            assert back - there >= 0.01


def test_a_closed_port_does_not_stop_the_link(port: Opener) -> None:
    client, server = port(), port()
    with Link(LOOPBACK, server.getsockname()) as link:
        client.sendto(b"request", link.address)
        _, seen_client = server.recvfrom(100)
        gone = port()
        gone.sendto(b"answer", seen_client)
        _, seen_gone = client.recvfrom(100)
        gone.close()
        for _ in range(3):
            client.sendto(b"to nobody", seen_gone)
        client.sendto(b"again", link.address)
        assert server.recv(100) == b"again"


def test_a_link_leaves_nothing_open(port: Opener) -> None:
    client, server, tid = port(), port(), port()
    before = descriptors()
    with Link(LOOPBACK, server.getsockname(), both=Conditions(delay=5.0, loss=0.5)) as link:
        send_numbers(client, link.address)
        assert eventually(lambda: link.there.arrived == MANY)
        tid.sendto(b"answer", link.address)
        assert eventually(lambda: link.there.arrived == MANY + 1)
    assert descriptors() <= before


def test_the_ports_of_a_silent_transfer_are_closed(port: Opener) -> None:
    client, server = port(), port()
    at_once = Conditions(hold=0.0)
    with Link(LOOPBACK, server.getsockname(), both=at_once, idle=0.05) as link:
        before = descriptors()
        client.sendto(b"request", link.address)
        server.recvfrom(100)
        assert eventually(lambda: link.transfers == 0)
        assert eventually(lambda: descriptors() <= before)
        client.sendto(b"another", link.address)
        assert server.recv(100) == b"another"


def test_a_door_that_is_taken_leaves_nothing_open(port: Opener) -> None:
    taken = port()
    before = descriptors()
    with pytest.raises(OSError, match="in use"):
        Link(taken.getsockname(), taken.getsockname())
    assert descriptors() <= before


@pytest.mark.parametrize("wrong", [{"loss": 1.5}, {"reorder": -0.1}, {"delay": -1.0}])
def test_impossible_conditions_are_refused(wrong: dict[str, float]) -> None:
    with pytest.raises(ValueError, match="not"):
        Conditions(**wrong)


@pytest.mark.parametrize("windowsize", [1, 16])
def test_a_file_comes_whole_through_a_bad_link(windowsize: int) -> None:
    file = Random(5).randbytes(300_000)
    bad = Conditions(loss=0.02, duplicate=0.02, reorder=0.02, hold=0.001, delay=0.0005)
    got = bytearray()
    with (
        Server(Memory({b"file": file})) as server,
        Link(LOOPBACK, server.address[:2], both=bad, seed=2) as link,
        Client(*link.address, terms=Terms(blksize=1428, windowsize=windowsize)) as client,
    ):
        client.get("file", got)
        assert link.back.lost > 0
    assert hashlib.sha256(got).digest() == hashlib.sha256(file).digest()
