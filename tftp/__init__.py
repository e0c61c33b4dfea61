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

import importlib
import typing

if typing.TYPE_CHECKING:
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
    from tftp.server.processes import ProcessEngine
    from tftp.server.supervisor import Supervisor
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
    "ProcessEngine",
    "ProtocolError",
    "Refused",
    "Request",
    "Server",
    "ServerConfig",
    "Supervisor",
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

# A name's module is imported when the name is first used: who fetches a file at a shell prompt
# should not wait for a server to be loaded.
_HOMES = {
    "tftp.client": ("Client", "get", "put"),
    "tftp.errors": (
        "Aborted",
        "ErrorCode",
        "PeerError",
        "ProtocolError",
        "Refused",
        "TFTPError",
        "TransferTimeout",
        "Unreachable",
    ),
    "tftp.events": ("Outcome", "Request", "TransferEnded"),
    "tftp.options": ("Limits", "Terms"),
    "tftp.server": ("Server", "ServerConfig", "ThreadEngine"),
    "tftp.server.processes": ("ProcessEngine",),
    "tftp.server.supervisor": ("Supervisor",),
    "tftp.storage": ("Directory", "Memory"),
    "tftp.timers": ("Patience",),
}


def __getattr__(name: str) -> object:
    for home, names in _HOMES.items():
        if name in names:
            value: object = getattr(importlib.import_module(home), name)
            globals()[name] = value
            return value
    raise AttributeError(f"module 'tftp' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
