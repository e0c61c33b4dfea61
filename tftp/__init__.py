"""TFTP: client, server and library (RFC 1350 with the options in use today).

::

    import tftp

    tftp.get("tftp://192.0.2.1/pxelinux.0", "pxelinux.0")

    with tftp.Server("boot") as server, tftp.Client(*server.address[:2]) as client:
        ended = client.get("pxelinux.0", into=bytearray())
        print(ended.counters.payload, "octets in", ended.duration, "seconds")

These are the names for every day. The modules have more: packets to look into (`tftp.packets`),
events to watch (`tftp.events`), files that live elsewhere (`tftp.storage`), rules for requests
(`tftp.server.policy`), URLs (`tftp.url`).
"""

from tftp.client import Client, get, put
from tftp.errors import (
    Aborted,
    ErrorCode,
    PeerError,
    ProtocolError,
    Refused,
    TFTPError,
    TransferTimeout,
    Unreachable,
)
from tftp.events import Outcome, Request, TransferEnded
from tftp.options import Limits, Terms
from tftp.server import Server, ServerConfig, ThreadEngine
from tftp.storage import Directory, Memory
from tftp.timers import Patience

__all__ = [
    "Aborted",
    "Client",
    "Directory",
    "ErrorCode",
    "Limits",
    "Memory",
    "Outcome",
    "Patience",
    "PeerError",
    "ProtocolError",
    "Refused",
    "Request",
    "Server",
    "ServerConfig",
    "TFTPError",
    "Terms",
    "ThreadEngine",
    "TransferEnded",
    "TransferTimeout",
    "Unreachable",
    "get",
    "put",
]

__version__ = "0.1.0"
