"""Where the page listens: one TCP socket, opened before anything else is started.

Beyond this host the page wants a token, as the channel does. What is served there is not known
here.
"""

import errno
import os
import socket

from tftp.events import format_address
from tftp.monitor.place import Place

__all__ = ["check_listen", "open_listen", "url_of"]

_BACKLOG = 64
# Milliseconds after which a browser that takes nothing is given up: the system ends the connection.
_PATIENCE = 60_000


def check_listen(place: Place, token: str | None) -> None:
    """Say whether a page may be there.

    Raises:
        ValueError: browsers can not reach it, or other hosts can, and there is no token.
    """
    if place.path:
        raise ValueError("browsers open no Unix sockets: write PORT or HOST:PORT")
    if not place.local and not token:
        raise ValueError(
            f"whoever reaches {place} could watch this server: set a token, or listen on "
            "127.0.0.1 or [::1]"
        )


def open_listen(place: Place) -> socket.socket:
    """Listen at a place; port 0 lets the system choose.

    Raises:
        OSError: it is taken, or not an address of this host; `filename` is the place.
    """
    try:
        answers = socket.getaddrinfo(
            place.host, place.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )
        # "localhost" may have two addresses: browsers try both, other programs IPv4.
        family, *_, address = min(answers, key=lambda answer: answer[0] != socket.AF_INET)
        if place.local and not Place(str(address[0])).local:
            raise OSError(errno.EADDRNOTAVAIL, f"{place.host} is not this host alone")
        sock = socket.create_server(address[:2], family=family, backlog=_BACKLOG)
    except socket.gaierror as error:
        raise OSError(errno.EADDRNOTAVAIL, error.strerror, str(place)) from error
    except OSError as error:
        words = os.strerror(error.errno) if error.errno else str(error)
        raise OSError(error.errno, words, str(place)) from error
    # Connections take it over from the socket that they come in by.
    if hasattr(socket, "TCP_USER_TIMEOUT"):
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, _PATIENCE)
    return sock


def url_of(sock: socket.socket) -> str:
    """What to open in a browser on this host."""
    host, port, *_ = sock.getsockname()
    host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)  # noqa: S104  (read, not bound)
    return f"http://{format_address((host, port))}/"
