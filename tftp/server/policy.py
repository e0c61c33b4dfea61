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

__all__ = ["Policy", "allow", "backslashes", "deny", "read_only", "strip_junk"]

Policy = Callable[[Request], Request]


def backslashes(request: Request) -> Request:
    """Take a backslash for a slash, as Windows loaders mean it (`\\Boot\\BCD`)."""
    return replace(request, filename=request.filename.replace(b"\\", b"/"))


def strip_junk(request: Request) -> Request:
    """Cut a name at its first 0xff octet.

    Old boot ROMs read DHCP option 67 past its end, and ask for the end marker (255) and what
    follows it in memory as a part of the name.
    """
    return replace(request, filename=request.filename.partition(b"\xff")[0])


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


_Network = IPv4Network | IPv6Network
_ZONE = re.compile("%.*")


@dataclass(frozen=True, slots=True)
class _ByNetwork:
    """A rule as a value, and no closure: it must be able to travel to another process."""

    networks: tuple[_Network, ...]
    allowed: bool

    def __call__(self, request: Request) -> Request:
        address = ip_address(_ZONE.sub("", request.peer[0]))
        if any(address in network for network in self.networks) is not self.allowed:
            which = (
                "not on the server's list of allowed"
                if self.allowed
                else "on the server's list of denied"
            )
            raise Refused(f"this client's address is {which} ones")
        return request


def _parsed(networks: Iterable[str]) -> tuple[_Network, ...]:
    return tuple(ip_network(text, strict=False) for text in networks)
