"""What the kernel can do for UDP beyond send and receive, as control messages and socket options.

PKTINFO tells which of the host's addresses a datagram was sent to, and sends from a chosen one. GSO
(`UDP_SEGMENT`) sends many datagrams of one size in one call, and GRO (`UDP_GRO`) receives them so.
The constants are those of Linux; elsewhere the functions here say "no", and everything else goes on
with plain calls. This module knows nothing of TFTP.
"""

import contextlib
import errno
import socket
import struct
import sys
from functools import cache

from tftp.events import Address

__all__ = [
    "ANCILLARY",
    "MAX_SEGMENTS",
    "MAX_SEGMENTS_OCTETS",
    "WANTED_BUFFER",
    "Control",
    "allow_fragments",
    "ask_for_destination",
    "ask_for_refusals",
    "bind_anyway",
    "can_pair",
    "can_segment",
    "cut_always",
    "destination",
    "enlarge_buffers",
    "forget_refusals",
    "join_segments",
    "joined_size",
    "path_mtu",
    "receive_budget",
    "segment_size",
    "sent_from",
    "share_port",
    "wait_in_calls",
]

_LINUX = sys.platform == "linux"

# From linux/in.h, linux/in6.h and linux/udp.h; CPython 3.11 names only some of them.
_IP_PKTINFO = 8
_IP_MTU_DISCOVER = 10
_IP_RECVERR = 11
_IP_MTU = 14
_IP_FREEBIND = 15
_IPV6_MTU_DISCOVER = 23
_IPV6_MTU = 24
_IPV6_RECVERR = 25
_IPV6_RECVPKTINFO = 49
_IPV6_PKTINFO = 50
_PMTUDISC_DONT = 0
_SOL_UDP = 17
_UDP_SEGMENT = 103
_UDP_GRO = 104
_MSG_ERRQUEUE = 0x2000
_ERROR_ROOM = 512
_SO_RCVBUFFORCE = 33
_SO_SNDBUFFORCE = 32
_TIMEVAL = struct.Struct("@ll")

_UNSPECIFIED = frozenset({"", "0.0.0.0", "::"})  # noqa: S104
_IN_PKTINFO = struct.Struct("=I4s4s")  # interface, local address, address in the IP header
_IN6_PKTINFO = struct.Struct("=16sI")  # address, interface
_SEGMENT_SIZE = struct.Struct("=H")
_JOINED_SIZE = struct.Struct("=i")

#: Room for the control messages that a received datagram may carry.
ANCILLARY = socket.CMSG_SPACE(_IN6_PKTINFO.size) + socket.CMSG_SPACE(_JOINED_SIZE.size)

#: Octets of receive buffer that a port of this project asks for.
WANTED_BUFFER = 4 << 20

#: How many datagrams one call sends, and how many octets (UDP_MAX_SEGMENTS in older kernels; an IP
#: packet's length less some headroom).
MAX_SEGMENTS = 64
MAX_SEGMENTS_OCTETS = 65000

Control = tuple[int, int, bytes]


def allow_fragments(sock: socket.socket) -> None:
    """Leave DF clear: some boot ROMs drop datagrams that carry it."""
    if not _LINUX:
        return
    if sock.family == socket.AF_INET:
        sock.setsockopt(socket.IPPROTO_IP, _IP_MTU_DISCOVER, _PMTUDISC_DONT)
    else:
        sock.setsockopt(socket.IPPROTO_IPV6, _IPV6_MTU_DISCOVER, _PMTUDISC_DONT)


def bind_anyway(sock: socket.socket) -> None:
    """Let the socket bind an address that the host does not have yet (at boot)."""
    if _LINUX:
        sock.setsockopt(socket.IPPROTO_IP, _IP_FREEBIND, 1)


def ask_for_refusals(sock: socket.socket) -> None:
    """Have a later call fail with `ECONNREFUSED` when the peer's host says that nobody listens."""
    if not _LINUX:
        return
    if sock.family == socket.AF_INET:
        sock.setsockopt(socket.IPPROTO_IP, _IP_RECVERR, 1)
    else:
        sock.setsockopt(socket.IPPROTO_IPV6, _IPV6_RECVERR, 1)


def forget_refusals(sock: socket.socket) -> None:
    """Empty the queue of what the network said, which would keep the socket readable."""
    if _LINUX:
        with contextlib.suppress(BlockingIOError):
            while True:
                sock.recvmsg(0, _ERROR_ROOM, _MSG_ERRQUEUE)


def enlarge_buffers(sock: socket.socket, receive: int, send: int = 0) -> int:
    """Ask for buffers of these sizes in octets, beyond the system's limit where privileged.

    Returns what the receive buffer became (Linux: twice the octets that it was asked for, since it
    counts its own overhead).
    """
    _enlarge(sock, socket.SO_RCVBUF, _SO_RCVBUFFORCE, receive)
    if send:
        _enlarge(sock, socket.SO_SNDBUF, _SO_SNDBUFFORCE, send)
    return sock.getsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF)


@cache
def receive_budget() -> int:
    """Octets of payload that a socket can hold unread, buffers enlarged as far as the system lets.

    A window that is larger is lost in part before anybody could have read it.
    """
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        # Half of it is the kernel's own overhead, about one page to a page of payload at worst.
        return enlarge_buffers(probe, WANTED_BUFFER) // 2


def _enlarge(sock: socket.socket, option: int, forced: int, size: int) -> None:
    if _LINUX:
        try:
            sock.setsockopt(socket.SOL_SOCKET, forced, size)
        except PermissionError:
            pass
        else:
            return
    sock.setsockopt(socket.SOL_SOCKET, option, size)


# -- which address was asked ----------------------------------------------------------------------


def ask_for_destination(sock: socket.socket) -> None:
    """Have every datagram come with the address that it was sent to; see `destination`."""
    if not _LINUX:
        return
    if sock.family == socket.AF_INET:
        sock.setsockopt(socket.IPPROTO_IP, _IP_PKTINFO, 1)
    else:
        sock.setsockopt(socket.IPPROTO_IPV6, _IPV6_RECVPKTINFO, 1)


def destination(controls: list[Control]) -> tuple[str, int, bool] | None:
    """What PKTINFO says of a datagram: the host's address that it reached, the interface's index,
    and whether it was sent to that host alone (not to a broadcast or multicast address).

    None where the kernel did not say.
    """
    for level, kind, value in controls:
        if level == socket.IPPROTO_IP and kind == _IP_PKTINFO:
            interface, local, header = _IN_PKTINFO.unpack_from(value)
            unicast = header == local and header[0] >> 4 != 0xE  # 224.0.0.0/4 is multicast.
            return socket.inet_ntoa(local), interface, unicast
        if level == socket.IPPROTO_IPV6 and kind == _IPV6_PKTINFO:
            address, interface = _IN6_PKTINFO.unpack_from(value)
            unicast = address[0] != 0xFF  # ff00::/8 is multicast.
            return socket.inet_ntop(socket.AF_INET6, address), interface, unicast
    return None


def sent_from(local: Address) -> list[Control]:
    """The control message that makes a datagram leave from `local`, where the kernel has one."""
    host = local[0].partition("%")[0]
    if not _LINUX or host in _UNSPECIFIED:
        return []
    if ":" in host:
        scope = local[3] if len(local) > 3 else 0
        value = _IN6_PKTINFO.pack(socket.inet_pton(socket.AF_INET6, host), scope)
        return [(socket.IPPROTO_IPV6, _IPV6_PKTINFO, value)]
    return [(socket.IPPROTO_IP, _IP_PKTINFO, _IN_PKTINFO.pack(0, socket.inet_aton(host), bytes(4)))]


# -- many datagrams in one call -------------------------------------------------------------------


@cache
def can_segment() -> bool:
    """Whether this kernel knows GSO for UDP (Linux 4.18)."""
    if not _LINUX:
        return False
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.setsockopt(_SOL_UDP, _UDP_SEGMENT, 512)
        except OSError:
            return False
    return True


def segment_size(size: int) -> Control:
    """The control message that has the kernel cut a long message into datagrams of `size`."""
    return (_SOL_UDP, _UDP_SEGMENT, _SEGMENT_SIZE.pack(size))


def cut_always(sock: socket.socket, size: int) -> None:
    """Have the kernel cut whatever is longer into datagrams of `size`; 0: nothing any more.

    Raises:
        OSError: it can not.
    """
    sock.setsockopt(_SOL_UDP, _UDP_SEGMENT, size)


def join_segments(sock: socket.socket) -> bool:
    """Have the kernel hand over datagrams of one size together (GRO); False where it can not."""
    if not _LINUX:
        return False
    try:
        sock.setsockopt(_SOL_UDP, _UDP_GRO, 1)
    except OSError as error:
        if error.errno != errno.ENOPROTOOPT:
            raise
        return False
    return True


def joined_size(controls: list[Control]) -> int:
    """The size of the datagrams that came joined; 0 for one that came alone."""
    for level, kind, value in controls:
        if level == _SOL_UDP and kind == _UDP_GRO:
            return int(_JOINED_SIZE.unpack_from(value)[0])
    return 0


# -- one peer -------------------------------------------------------------------------------------


def can_pair(sock: socket.socket) -> bool:
    """Whether the kernel brings what a peer sends to a socket connected to it, though another has
    the same port, and descriptors are not so scarce that they are needed for something better.
    """
    if not _LINUX:
        return False
    import resource  # Linux has it.

    limit, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return limit == resource.RLIM_INFINITY or sock.fileno() < limit // 2


def share_port(sock: socket.socket, shared: bool) -> None:
    """Have the port of this socket shared with others that say the same, or not any more."""
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, shared)


# -- the path -------------------------------------------------------------------------------------


def path_mtu(peer: Address, family: int) -> int | None:
    """The MTU in octets of the path to `peer`, as far as this host knows; None where it does not.

    Nothing is sent: the kernel looks up the route.
    """
    if not _LINUX:
        return None
    with socket.socket(family, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect(peer)
            if family == socket.AF_INET:
                return probe.getsockopt(socket.IPPROTO_IP, _IP_MTU)
            return probe.getsockopt(socket.IPPROTO_IPV6, _IPV6_MTU)
        except OSError:
            return None


def wait_in_calls(sock: socket.socket, seconds: float | None) -> None:
    """Have calls that receive wait for at most so long; with None they do not wait (Linux).

    Rounded up to what the kernel counts in, up to 10 ms.
    """
    sock.setblocking(seconds is not None)
    if seconds is not None:
        whole, fraction = divmod(seconds, 1)
        limit = _TIMEVAL.pack(int(whole), int(fraction * 1e6))
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, limit)
