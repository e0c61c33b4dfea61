"""TFTP: client, server and library (RFC 1350 with the options in use today).

::

    tftp.get("tftp://192.0.2.1/pxelinux.0", "pxelinux.0")

    with tftp.Server("boot") as server:
        print(server.address)
"""

from tftp.client import Client, get, put
from tftp.errors import (
    Aborted,
    DecodeError,
    ErrorCode,
    PeerError,
    ProtocolError,
    Refused,
    TFTPError,
    TransferTimeout,
    Unreachable,
)
from tftp.events import Outcome, Request
from tftp.options import Limits, Terms
from tftp.server import Server, ServerConfig, ThreadEngine
from tftp.storage import Directory, Memory
from tftp.timers import Patience

__all__ = [
    "Aborted",
    "Client",
    "DecodeError",
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
    "TransferTimeout",
    "Unreachable",
    "get",
    "put",
]

__version__ = "0.1.0"
