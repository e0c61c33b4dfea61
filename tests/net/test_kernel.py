"""What the kernel is asked for, asked of the real one."""

import ctypes
import select
import socket
import threading
from collections.abc import Iterator

import pytest

from tests.networks import host, two_hosts
from tests.wirepeer import PATIENCE
from tftp.net import kernel

_CAP_NET_ADMIN = 12


@pytest.fixture
def sock() -> Iterator[socket.socket]:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as made:
        made.bind(("127.0.0.1", 0))
        yield made


def take(sock: socket.socket) -> list[kernel.Control]:
    """The control messages of the next datagram."""
    readable, _, _ = select.select([sock], [], [], PATIENCE)
    assert readable
    return list(sock.recvmsg(100, kernel.ANCILLARY)[1])


# -- which address was asked ----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("listening", "asked"),
    [("0.0.0.0", "127.0.0.1"), ("0.0.0.0", "127.9.8.7"), ("127.0.0.1", "127.0.0.1")],
)
def test_a_datagram_tells_which_address_it_was_sent_to(listening: str, asked: str) -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as listener:
        kernel.ask_for_destination(listener)
        listener.bind((listening, 0))
        listener.sendto(b"x", (asked, listener.getsockname()[1]))
        found = kernel.destination(take(listener))
    assert found == (asked, socket.if_nametoindex("lo"), True)


def test_a_datagram_to_a_broadcast_address_is_not_for_this_host_alone() -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as listener:
        kernel.ask_for_destination(listener)
        listener.bind(("0.0.0.0", 0))
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_BROADCAST, 1)
        listener.sendto(b"x", ("127.255.255.255", listener.getsockname()[1]))
        found = kernel.destination(take(listener))
    assert found is not None
    assert not found[2]


def test_ipv6_tells_the_interface_and_multicast_is_not_for_this_host_alone() -> None:
    with two_hosts() as (left, right):
        listener = left.socket(("::", 0))
        kernel.ask_for_destination(listener)
        port = listener.getsockname()[1]
        sender = right.socket(("::", 0))
        sender.sendto(b"x", ("2001:db8::1", port))
        assert kernel.destination(take(listener)) == ("2001:db8::1", left.scope("wire"), True)
        sender.sendto(b"x", ("ff02::1", port, 0, right.scope("wire")))
        assert kernel.destination(take(listener)) == ("ff02::1", left.scope("wire"), False)
        listener.close()
        sender.close()


def test_where_the_kernel_says_nothing_nothing_is_known(sock: socket.socket) -> None:
    sock.sendto(b"x", sock.getsockname())
    assert kernel.destination(take(sock)) is None
    assert kernel.destination([(socket.SOL_SOCKET, 99, b"\0")]) is None


@pytest.mark.parametrize("local", [("0.0.0.0", 69), ("::", 69, 0, 0), ("", 69)])
def test_an_address_that_means_any_is_no_address_to_send_from(local: tuple[str, int]) -> None:
    assert kernel.sent_from(local) == []


def test_a_zone_in_an_address_is_not_in_the_way() -> None:
    with_zone = kernel.sent_from(("fe80::1%lo", 69, 0, 1))
    assert with_zone == kernel.sent_from(("fe80::1", 69, 0, 1))
    assert with_zone != kernel.sent_from(("fe80::1", 69, 0, 2))


# -- buffers --------------------------------------------------------------------------------------


def test_buffers_become_larger(sock: socket.socket) -> None:
    before = sock.getsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF)
    asked = 1 << 20
    got = kernel.enlarge_buffers(sock, asked, asked)
    assert got == sock.getsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF)
    assert got > 1000
    assert sock.getsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF) >= before


def test_without_privilege_buffers_become_as_large_as_the_system_lets(sock: socket.socket) -> None:
    with open("/proc/sys/net/core/rmem_max") as file:  # noqa: PTH123
        most = int(file.read())
    got: list[int] = []

    def enlarge() -> None:
        give_up_net_admin()
        got.append(kernel.enlarge_buffers(sock, 2 * most))

    thread = threading.Thread(target=enlarge)  # A capability is a thread's own.
    thread.start()
    thread.join()
    assert got == [2 * most]


class _Header(ctypes.Structure):
    _fields_ = (("version", ctypes.c_uint32), ("pid", ctypes.c_int))


class _Sets(ctypes.Structure):
    _fields_ = (
        ("effective", ctypes.c_uint32),
        ("permitted", ctypes.c_uint32),
        ("inheritable", ctypes.c_uint32),
    )


def give_up_net_admin() -> None:
    """Have this thread without the right to configure networks (capset(2), version 3)."""
    libc = ctypes.CDLL(None, use_errno=True)
    header, sets = _Header(0x20080522, 0), (_Sets * 2)()
    assert libc.capget(ctypes.byref(header), sets) == 0
    sets[0].effective &= ~(1 << _CAP_NET_ADMIN)
    assert libc.capset(ctypes.byref(header), sets) == 0


def test_the_receive_budget_is_what_a_socket_really_holds() -> None:
    budget = kernel.receive_budget()
    with (
        socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as receiver,
        socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender,
    ):
        kernel.enlarge_buffers(receiver, kernel.WANTED_BUFFER)
        receiver.bind(("127.0.0.1", 0))
        receiver.setblocking(False)
        count = budget // 1468
        for _ in range(count):
            sender.sendto(bytes(1472), receiver.getsockname())
        held = 0
        while held < count:
            readable, _, _ = select.select([receiver], [], [], 0.5)
            if not readable:
                break
            receiver.recv(2000)
            held += 1
    assert held == count > 0


# -- many datagrams in one call -------------------------------------------------------------------


def test_a_kernel_that_joins_segments_can_make_them(sock: socket.socket) -> None:
    assert kernel.join_segments(sock) == kernel.can_segment()


def test_a_socket_that_knows_no_segments_says_so() -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as stream:
        assert not kernel.join_segments(stream)


def test_a_socket_that_is_not_one_is_a_fault() -> None:
    closed = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    closed.close()
    with pytest.raises(OSError, match="descriptor"):
        kernel.join_segments(closed)


def test_a_datagram_that_came_alone_has_no_joined_size() -> None:
    assert kernel.joined_size([]) == 0
    assert kernel.joined_size([(socket.IPPROTO_IP, 8, bytes(12))]) == 0


# -- the path -------------------------------------------------------------------------------------


def test_the_path_has_the_mtu_of_its_first_wire() -> None:
    assert kernel.path_mtu(("127.0.0.1", 69), socket.AF_INET) == 65535  # No IPv4 packet is larger.
    assert kernel.path_mtu(("::1", 69, 0, 0), socket.AF_INET6) == 65536
    with two_hosts(mtu=1400) as (left, right):
        assert left.call(kernel.path_mtu, ("192.0.2.2", 69), socket.AF_INET) == 1400
        six = ("2001:db8::2", 69, 0, 0)
        assert left.call(kernel.path_mtu, six, socket.AF_INET6) == 1400
        local = ("fe80::1", 69, 0, left.scope("wire"))
        assert left.call(kernel.path_mtu, local, socket.AF_INET6) == 1400
        assert right.call(kernel.path_mtu, ("192.0.2.2", 69), socket.AF_INET) == 65535


def test_a_path_that_leads_nowhere_has_no_mtu() -> None:
    with host() as lonely:
        assert lonely.call(kernel.path_mtu, ("192.0.2.2", 69), socket.AF_INET) is None
        assert lonely.call(kernel.path_mtu, ("2001:db8::2", 69, 0, 0), socket.AF_INET6) is None


# -- elsewhere ------------------------------------------------------------------------------------


def test_another_system_says_no_and_plain_calls_go_on(
    sock: socket.socket, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(kernel, "_LINUX", False)
    kernel.can_segment.cache_clear()
    try:
        assert not kernel.can_segment()
    finally:
        kernel.can_segment.cache_clear()
    assert not kernel.join_segments(sock)
    assert kernel.sent_from(("127.0.0.1", 69)) == []
    assert kernel.path_mtu(("127.0.0.1", 69), socket.AF_INET) is None
    assert kernel.enlarge_buffers(sock, 8192) >= 8192
    before = sock.getsockopt(socket.IPPROTO_IP, 10)
    for ask in (
        kernel.allow_fragments,
        kernel.bind_anyway,
        kernel.ask_for_refusals,
        kernel.forget_refusals,
        kernel.ask_for_destination,
    ):
        ask(sock)
    assert sock.getsockopt(socket.IPPROTO_IP, 10) == before
    sock.sendto(b"x", sock.getsockname())
    assert kernel.destination(take(sock)) is None
