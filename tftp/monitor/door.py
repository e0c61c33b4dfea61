"""Where readers of the channel come in: the listening sockets, TCP or Unix.

A Unix socket is its owner's alone, and one that a server has left behind when it was killed is
replaced. What becomes of a connection is not known here.
"""

import contextlib
import errno
import logging
import os
import socket
import stat
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from tftp.monitor.place import Place, keep_alive
from tftp.net.reactor import Reactor

__all__ = ["Door", "listen"]

logger = logging.getLogger("tftp")

# More than there may be readers: a crowd that comes at once is told that it is one.
_BACKLOG = 1024
# Connections taken before others have their turn.
_AT_ONCE = 16
# Seconds of rest when the process has no descriptor left: the next try would fail the same way.
_REST = 1.0
# What `sun_path` has room for, less the NUL at its end.
_LONGEST_PATH = 107 if sys.platform == "linux" else 103
# What the kernel keeps for a reader that does not read.
_SEND_BUFFER = 1 << 18
# What binding raises for an address family that this host does not have.
_NO_FAMILY = frozenset({errno.EAFNOSUPPORT, errno.EADDRNOTAVAIL, errno.EPROTONOSUPPORT})


def listen(
    place: Place, reactor: Reactor, welcome: Callable[[socket.socket], None]
) -> "list[Door]":
    """Open every address that a place stands for ("localhost" has two).

    Raises:
        OSError: there is none, or one is taken.
    """
    if place.path:
        return [Door(_open_path(place.path), place, reactor, welcome)]
    doors: list[Door] = []
    port, failure = place.port, OSError(errno.EADDRNOTAVAIL, os.strerror(errno.EADDRNOTAVAIL))
    try:
        for family, host in _addresses(place):
            try:
                sock = _open_port(family, host, port)
            except OSError as error:
                if error.errno not in _NO_FAMILY:
                    raise
                failure = error
                continue
            port = sock.getsockname()[1]
            doors.append(Door(sock, replace(place, host=host, port=port), reactor, welcome))
    except OSError:
        for door in doors:
            door.close()
        raise
    if not doors:
        raise failure
    return doors


class Door:
    """A listening socket; a `Handler` for a reactor.

    Attributes:
        place: where it is.
    """

    blocked = False
    finished = False

    def __init__(
        self,
        sock: socket.socket,
        place: Place,
        reactor: Reactor,
        welcome: Callable[[socket.socket], None],
    ) -> None:
        """`welcome` is given each connection."""
        sock.setblocking(False)
        self.place = place
        self.armed = 0.0
        self.deadline: float | None = None
        self._socket = sock
        self._reactor = reactor
        self._welcome = welcome

    def fileno(self) -> int:
        """The socket's descriptor; -1 while it rests."""
        return -1 if self.deadline is not None else self._socket.fileno()

    def readable(self, now: float) -> None:
        """Let in who is there."""
        for _ in range(_AT_ONCE):
            try:
                sock, _address = self._socket.accept()
            except BlockingIOError:
                return
            except ConnectionError:
                continue  # It has gone again.
            except OSError as error:
                logger.error("the monitor can let nobody in: %s", error.strerror)
                # Whoever waits keeps the door ready, and the next try would fail the same way.
                self._reactor.call(self._rest)
                return
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _SEND_BUFFER)
            if sock.family != socket.AF_UNIX:
                sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                keep_alive(sock)
            self._welcome(sock)

    def writable(self, now: float) -> None:
        """Never waited for."""

    def expire(self, now: float) -> None:
        """It has rested."""
        self._reactor.release(self)
        self.deadline = None
        self._reactor.add(self)

    def failed(self, error: Exception) -> None:
        """A fault of the program is the end of one connection, not of the door."""
        logger.error("the monitor could not let a reader in", exc_info=error)

    def close(self) -> None:
        """Close the door, and take its name off the file system."""
        if self._socket.fileno() < 0:
            return
        self._socket.close()
        if self.place.path:
            with contextlib.suppress(FileNotFoundError):
                Path(self.place.path).unlink()

    def _rest(self) -> None:
        if self.deadline is None:
            self._reactor.release(self)
            self.deadline = time.monotonic() + _REST
            self._reactor.add(self)


def _addresses(place: Place) -> list[tuple[int, str]]:
    """Family and numeric host of each, IPv4 first."""
    try:
        answers = socket.getaddrinfo(
            place.host, place.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )
    except socket.gaierror as error:
        raise OSError(errno.EADDRNOTAVAIL, error.strerror) from error
    hosts = dict.fromkeys((int(answer[0]), str(answer[4][0])) for answer in answers)
    found = sorted(hosts, key=lambda entry: entry[0] != socket.AF_INET)
    if place.local and not all(Place(host).local for _family, host in found):
        raise OSError(errno.EADDRNOTAVAIL, f"{place.host} is not this host alone")
    return found


def _open_port(family: int, host: str, port: int) -> socket.socket:
    sock = socket.socket(family, socket.SOCK_STREAM)
    try:
        # A server that starts again must not wait for the connections of the one before.
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == socket.AF_INET6:
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        sock.bind(socket.getaddrinfo(host, port, family, socket.SOCK_STREAM)[0][4])
        sock.listen(_BACKLOG)
    except OSError:
        sock.close()
        raise
    return sock


def _open_path(path: str) -> socket.socket:
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        _remove_stale(path)
        sock.bind(path)
        # Nobody can connect before `listen`, so nobody gets in by the mode that it has until here.
        Path(path).chmod(0o600)
        sock.listen(_BACKLOG)
    except OSError as error:
        sock.close()
        if error.errno is None:  # Python has looked at its length before the system could.
            what = f"the path of a socket has at most {_LONGEST_PATH} octets"
            raise OSError(errno.ENAMETOOLONG, what) from None
        raise
    return sock


def _remove_stale(path: str) -> None:
    """Remove a socket that nobody listens on any more.

    Raises:
        OSError: what is there is no socket.
    """
    try:
        if not stat.S_ISSOCK(Path(path).lstat().st_mode):
            raise OSError(errno.EEXIST, "what is there already is no socket")
    except FileNotFoundError:
        return
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        try:
            probe.connect(path)
        except ConnectionRefusedError:
            Path(path).unlink()
