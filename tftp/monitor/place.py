"""Where a monitoring channel is: a TCP address or the path of a Unix socket, as people write it.

Both ends of the channel and the command line take it from here. What is said there is not known
here.
"""

import errno
import ipaddress
import os
import re
import socket
from dataclasses import dataclass

from tftp.events import format_address, printable

__all__ = ["DEFAULT_PLACE", "Place"]

_PORT = re.compile(r"\d{1,5}", re.ASCII)
# Seconds between the signs of life that tell a quiet server from one that has lost its power, and
# how many of them may go missing.
_KEEPALIVE_AFTER, _KEEPALIVE_EVERY, _KEEPALIVE_MISSING = 20, 5, 3
# What the system means when it refuses an address of a host's own.
_NOT_HERE = {
    errno.EADDRNOTAVAIL: "this host has no such address",
    errno.EINVAL: "a link-local address needs its interface, as in [fe80::1%eth0]",
}


@dataclass(frozen=True, slots=True)
class Place:
    """A TCP host and port, or the path of a Unix socket; `str` gives it as it is parsed."""

    host: str = ""
    port: int = 0
    path: str = ""

    @classmethod
    def parse(cls, text: str) -> "Place":
        """Read `PORT`, `HOST:PORT`, `[IPv6]:PORT` or `unix:PATH`. A port alone is on 127.0.0.1.

        Raises:
            ValueError: it is none of these.
        """
        if text.startswith("unix:"):
            path = text.removeprefix("unix:")
            if not path or "\0" in path:
                raise ValueError(f"'{printable(text)}' names no path: write unix:/run/tftp/monitor")
            return cls(path=path)
        host, colon, port = text.rpartition(":")
        bracketed = host.startswith("[") and host.endswith("]")
        if (
            not _PORT.fullmatch(port)
            or int(port) > 65535
            or (colon and not host)
            or (":" in host and not bracketed)
        ):
            raise ValueError(
                f"'{printable(text)}' is no place of a monitor: write PORT, HOST:PORT or unix:PATH"
            )
        return cls(host=host.removeprefix("[").removesuffix("]") or "127.0.0.1", port=int(port))

    def __str__(self) -> str:
        return f"unix:{self.path}" if self.path else format_address((self.host, self.port))

    @property
    def local(self) -> bool:
        """Whether only this host can reach it: a Unix socket, or a loopback address.

        A name is not: what it stands for is somebody else's decision.
        """
        if self.path or self.host == "localhost":
            return True
        try:
            return ipaddress.ip_address(self.host.partition("%")[0]).is_loopback
        except ValueError:
            return False

    def check_here(self) -> None:
        """See whether a socket of this host could have the address, whatever has its port.

        Raises:
            OSError: it is not an address of this host, or no name of one; `filename` is the place.
        """
        if self.path:
            return
        failure = OSError(errno.EADDRNOTAVAIL, os.strerror(errno.EADDRNOTAVAIL))
        try:
            answers = socket.getaddrinfo(self.host, 0, type=socket.SOCK_STREAM)
        except socket.gaierror as error:
            raise OSError(errno.EADDRNOTAVAIL, error.strerror, str(self)) from error
        for family, kind, protocol, _name, address in answers:
            try:
                with socket.socket(family, kind, protocol) as sock:
                    sock.bind(address)
            except OSError as error:
                failure = error
            else:
                return
        words = _NOT_HERE.get(failure.errno or 0, failure.strerror)
        raise OSError(failure.errno, words, str(self)) from failure

    def connect(self, timeout: float) -> socket.socket:
        """A blocking connection to it.

        Args:
            timeout: seconds to wait for it to be made.

        Raises:
            OSError: nobody listens there, or it can not be reached.
        """
        if self.path:
            sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
            try:
                sock.settimeout(timeout)
                sock.connect(self.path)
            except OSError:
                sock.close()
                raise
        else:
            sock = socket.create_connection((self.host, self.port), timeout)
            keep_alive(sock)
        sock.settimeout(None)
        return sock


def keep_alive(sock: socket.socket) -> None:
    """Have the system notice when the host at the other end of a TCP connection is gone."""
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for name, value in (
        ("TCP_KEEPIDLE", _KEEPALIVE_AFTER),
        ("TCP_KEEPINTVL", _KEEPALIVE_EVERY),
        ("TCP_KEEPCNT", _KEEPALIVE_MISSING),
    ):
        if hasattr(socket, name):  # The other systems have names, or defaults, of their own.
            sock.setsockopt(socket.IPPROTO_TCP, getattr(socket, name), value)


#: Where a reader looks if it is not told: 69 is TFTP, and 6969 its port for people without root.
DEFAULT_PLACE = Place("127.0.0.1", 6970)
