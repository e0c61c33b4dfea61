"""Hosts and wires that exist for one test: network namespaces of Linux, each entered by a thread.

Nothing is named or left behind: a namespace ends with its thread and its sockets. It takes root.
"""

import ctypes
import itertools
import os
import socket
import subprocess
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import ParamSpec, TypeVar

import pytest

from tests.watching import eventually
from tftp.events import Address

_P = ParamSpec("_P")
_T = TypeVar("_T")

_CLONE_NEWNET = 0x40000000
_PATIENCE = 20.0
_INTERFACES = itertools.count(100)


class Host:
    """A network namespace, and the thread that lives in it.

    Sockets, processes and threads that are made in a `call` belong to it for good.
    """

    def __init__(self) -> None:
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="host")
        try:
            self._number = self.call(_leave)
            self.ip("link set lo up")
        except BaseException:
            self.close()
            raise

    def call(self, function: Callable[_P, _T], /, *arguments: _P.args, **options: _P.kwargs) -> _T:
        """What the function returns, called on this host."""
        return self._thread.submit(function, *arguments, **options).result(_PATIENCE)

    def ip(self, command: str) -> None:
        """Run `ip` on this host."""
        self.call(_run, "ip", *command.split())

    def add_address(self, address: str, interface: str = "wire") -> None:
        """Have an IPv6 address, such as "fe80::1/64", that can be reached when this returns."""
        bare = address.partition("/")[0]
        before = self.call(_ways_in, bare)
        self.ip(f"addr add {address} dev {interface} nodad")
        # Linux answers for it at once, and drops what comes until a thread of its own has made the
        # way in.
        assert eventually(lambda: self.call(_ways_in, bare) > before)

    def tc(self, command: str) -> None:
        """Run `tc` on this host."""
        self.call(_run, "tc", *command.split())

    def sysctl(self, name: str, value: object) -> None:
        """Set a parameter of this host's network, such as "ipv6/conf/all/disable_ipv6"."""
        self.call(Path("/proc/sys/net", name).write_text, str(value))

    def socket(
        self, address: Address, family: int = 0, kind: int = socket.SOCK_DGRAM
    ) -> socket.socket:
        """A socket of this host, bound."""

        def make() -> socket.socket:
            sock = socket.socket(family or _family(address), kind)
            sock.bind(address)
            return sock

        return self.call(make)

    def scope(self, interface: str) -> int:
        """The number of an interface."""
        return self.call(socket.if_nametoindex, interface)

    def plug(self, other: "Host", *, mtu: int = 1500, name: str = "wire") -> None:
        """A wire from here to there; both ends have the name."""
        # With equal numbers at both ends Linux takes up to a second to see that the wire lives.
        here, there = next(_INTERFACES), next(_INTERFACES)
        self.ip(
            f"link add name {name} index {here} mtu {mtu} type veth "
            f"peer name {name} index {there} mtu {mtu} netns {other._number}"
        )
        for host in (self, other):
            # Addresses are there at once, not after a look around for somebody who has them.
            host.sysctl(f"ipv6/conf/{name}/accept_dad", 0)
            host.ip(f"link set {name} up")
        for host in (self, other):
            somebody = ("fe80::1", 9, 0, host.scope(name))
            assert eventually(lambda: host.call(_leads, somebody)), "the wire stays dead"  # noqa: B023

    def close(self) -> None:
        """End the thread; the namespace ends with its last socket."""
        self._thread.shutdown()


@contextmanager
def host() -> Iterator[Host]:
    """A host that knows nobody but itself; skips the test where this process may not make one."""
    try:
        made = Host()
    except PermissionError as error:
        if os.environ.get("REQUIRE_PEERS"):
            raise
        pytest.skip(f"a network namespace takes root: {error}")
    try:
        yield made
    finally:
        made.close()


@contextmanager
def two_hosts(*, mtu: int = 1500) -> Iterator[tuple[Host, Host]]:
    """Two hosts and a wire: 192.0.2.1 and 192.0.2.2, 2001:db8::1 and 2001:db8::2."""
    with host() as left, host() as right:
        left.plug(right, mtu=mtu)
        for number, end in enumerate((left, right), 1):
            end.ip(f"addr add 192.0.2.{number}/24 broadcast 192.0.2.255 dev wire")
            end.add_address(f"2001:db8::{number}/64")
        yield left, right


def _leave() -> int:
    """Put the calling thread on a host of its own; returns the thread's number."""
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.unshare(_CLONE_NEWNET):
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
    return threading.get_native_id()


def _leads(address: Address) -> bool:
    """Whether there is a way to the address, and an address of this host's to go it from."""
    with socket.socket(_family(address), socket.SOCK_DGRAM) as sock:
        return sock.connect_ex(address) == 0


def _ways_in(address: str) -> int:
    """On how many of this host's interfaces the IPv6 address is its own."""
    own = f"{socket.inet_pton(socket.AF_INET6, address).hex()} 80 "
    routes = Path("/proc/thread-self/net/ipv6_route").read_text().splitlines()
    return sum(route.startswith(own) for route in routes)


def _run(*command: str) -> None:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert not done.returncode, f"{' '.join(command)}: {done.stderr}"


def _family(address: Address) -> int:
    return socket.AF_INET6 if ":" in address[0] else socket.AF_INET
