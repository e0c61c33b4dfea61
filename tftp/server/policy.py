"""Rules for requests. A rule is a function: it returns the request, changed or not, or it refuses.

A server applies its rules in order, before the storage sees the name::

    Server(storage, policy=[deny(["10.0.0.0/8"]), backslashes])
"""

import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from ipaddress import IPv4Network, IPv6Network, ip_address, ip_network

from tftp.errors import Refused
from tftp.events import Request
from tftp.options import MAX_BLKSIZE, MIN_BLKSIZE

__all__ = ["Policy", "allow", "backslashes", "deny", "limit_blksize", "read_only", "strip_junk"]

Policy = Callable[[Request], Request]


def backslashes(request: Request) -> Request:
    """Take a backslash for a slash, as Windows loaders mean it (`\\Boot\\BCD`)."""
    if b"\\" not in request.filename:
        return request  # As almost all are: a copy would be a twentieth of a small transfer.
    return replace(request, filename=request.filename.replace(b"\\", b"/"))


def strip_junk(request: Request) -> Request:
    """Cut a name at its first 0xff octet.

    Old boot ROMs read DHCP option 67 past its end, and ask for the end marker (255) and what
    follows it in memory as a part of the name.
    """
    name, junk, _ = request.filename.partition(b"\xff")
    return replace(request, filename=name) if junk else request


def read_only(request: Request) -> Request:
    """Refuse uploads, whatever the storage would allow."""
    if request.operation is request.operation.WRITE:
        raise Refused("uploads are not allowed on this server")
    return request


def allow(networks: Iterable[str]) -> Policy:
    """Serve clients in these networks (CIDR) only.

    Raises:
        ValueError: one of them is no network.
    """
    return _ByNetwork(_parsed(networks), allowed=True)


def deny(networks: Iterable[str]) -> Policy:
    """Serve no client in these networks (CIDR).

    Raises:
        ValueError: one of them is no network.
    """
    return _ByNetwork(_parsed(networks), allowed=False)


def limit_blksize(networks: Iterable[str], most: int) -> Policy:
    """Grant clients in these networks (CIDR) no block larger than `most` octets.

    For what only some clients need: a tunnel on the way, firmware that can not put fragments
    together. The limit for all is `Limits.max_blksize`.

    Raises:
        ValueError: one of them is no network, or `most` is no size that RFC 2348 knows.
    """
    if not MIN_BLKSIZE <= most <= MAX_BLKSIZE:
        raise ValueError(f"blksize is {MIN_BLKSIZE} to {MAX_BLKSIZE}, not {most}")
    return _SmallerBlocks(_parsed(networks), most)


_Network = IPv4Network | IPv6Network
_ZONE = re.compile("%.*")


@dataclass(frozen=True, slots=True)
class _ByNetwork:
    """A rule as a value, and no closure: it must be able to travel to another process."""

    networks: tuple[_Network, ...]
    allowed: bool

    def __call__(self, request: Request) -> Request:
        if _is_in(request, self.networks) is not self.allowed:
            which = (
                "not on the server's list of allowed"
                if self.allowed
                else "on the server's list of denied"
            )
            raise Refused(f"this client's address is {which} ones")
        return request


@dataclass(frozen=True, slots=True)
class _SmallerBlocks:
    networks: tuple[_Network, ...]
    most: int

    def __call__(self, request: Request) -> Request:
        """The request as if the client had asked for less (RFC 2348 lets a server answer so)."""
        if not _is_in(request, self.networks):
            return request
        options = {name: self._lowered(name, text) for name, text in request.options.items()}
        return replace(request, options=options)

    def _lowered(self, name: str, text: str) -> str:
        asks = name.lower() in ("blksize", "blksize2") and text.isascii() and text.isdigit()
        return str(self.most) if asks and self.most < int(text[:6]) <= MAX_BLKSIZE else text


def _is_in(request: Request, networks: Iterable[_Network]) -> bool:
    address = ip_address(_ZONE.sub("", request.peer[0]))
    return any(address in network for network in networks)


def _parsed(networks: Iterable[str]) -> tuple[_Network, ...]:
    return tuple(ip_network(text, strict=False) for text in networks)
