"""From an exception to what a person needs: the cause in one line, and what to do about it.

The tables here are the only place where remedies are written. Words of the peer are shown escaped
and cut to a length; nothing here knows how a transfer works.
"""

import errno
import os
import socket
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tftp.errors import (
    ErrorCode,
    PeerError,
    Refused,
    TFTPError,
    TransferTimeout,
    Unreachable,
    known_text,
)
from tftp.events import Operation, format_address, printable
from tftp.url import Location

__all__ = ["Attempt", "Failure", "explain", "explain_root", "explain_start"]


@dataclass(frozen=True, slots=True)
class Attempt:
    """What was tried, as far as a failure's words depend on it.

    Attributes:
        location: the file on the server.
        operation: read (get) or write (put).
        local: the local file, fit for a terminal.
        moved: octets that had gone over; None where the server had not even answered.
    """

    location: Location
    operation: Operation
    local: str
    moved: int | None


@dataclass(frozen=True, slots=True)
class Failure:
    """Why something failed.

    Attributes:
        subject: what it happened to: a URL, or a local file.
        cause: what happened.
        remedy: what to do.
        kind: the exception's class, for programs.
        code: the TFTP error code, where one was sent or received.
        errno: the system's error number, where it was the system.
    """

    subject: str
    cause: str
    remedy: str
    kind: str
    code: int | None = None
    errno: int | None = None

    def __str__(self) -> str:
        return f"tftp: {self.subject}: {self.cause}: {self.remedy}"

    def as_json(self) -> dict[str, Any]:
        """The failure as values that `json.dumps` takes."""
        return {
            "kind": self.kind,
            "code": self.code,
            "errno": None if self.errno is None else errno.errorcode.get(self.errno),
            "message": self.cause,
            "remedy": self.remedy,
        }


def explain(error: Exception, attempt: Attempt) -> Failure:
    """Why a transfer failed."""
    url, kind = str(attempt.location), type(error).__name__
    match error:
        case PeerError():
            return Failure(url, _peer_cause(error), _peer_remedy(error, attempt), kind, error.code)
        case TransferTimeout():
            return Failure(url, *_silence(error, attempt), kind)
        case Unreachable() if isinstance(error.__cause__, OSError):
            return _network(error.__cause__, attempt)
        case Refused():
            remedy = _LOCAL_REMEDIES[errno.EACCES]
            return Failure(_local_subject(attempt), error.message, remedy, kind, error.code)
        case TFTPError():
            return Failure(url, printable(error.message), _own_remedy(error), kind, error.code)
        case socket.gaierror() | UnicodeError():
            return Failure(url, *_unknown_host(attempt.location, error), kind)
        case OSError():
            return _local(error, attempt)
        case _:
            raise error


_WORDS_SHOWN = 200

# What to do about the server's ERROR: for a download, and for an upload.
_PEER_REMEDIES: dict[int, tuple[str, str]] = {
    ErrorCode.FILE_NOT_FOUND: (
        "check the name and its case",
        "check that the directory exists; many servers only accept files that exist already",
    ),
    ErrorCode.ACCESS_VIOLATION: (
        "check the file's permissions on the server",
        "the server must allow uploads there (ours: tftp serve --allow-write)",
    ),
    ErrorCode.DISK_FULL: (
        "look at the server's disk",
        "free some space on the server, or raise its limit",
    ),
    ErrorCode.ILLEGAL_OPERATION: (
        "try --no-options",
        "try --no-options, or ask whether the server accepts uploads at all",
    ),
    ErrorCode.UNKNOWN_TID: (
        "try again; if it stays, a NAT or firewall changes the ports",
        "try again; if it stays, a NAT or firewall changes the ports",
    ),
    ErrorCode.FILE_EXISTS: (
        "look at the server's log",
        "choose another name, or let the server overwrite (ours: tftp serve --overwrite)",
    ),
    ErrorCode.NO_SUCH_USER: (
        "look at the server's log",
        "look at the server's log",
    ),
    ErrorCode.OPTION_REFUSED: ("try --no-options", "try --no-options"),
}
_ANY_REMEDY = ("look at the server's log, or try again later",) * 2


def _peer_cause(error: PeerError) -> str:
    words = printable(error.message.strip() or known_text(error.code))
    if len(words) > _WORDS_SHOWN:
        words = words[:_WORDS_SHOWN] + "..."
    return f"{words} (the server's error {int(error.code)})"


def _peer_remedy(error: PeerError, attempt: Attempt) -> str:
    download, upload = _PEER_REMEDIES.get(error.code, _ANY_REMEDY)
    return download if attempt.operation is Operation.READ else upload


def _own_remedy(error: TFTPError) -> str:
    """What to do when it was this side that ended the transfer."""
    return "try --no-options" if error.code != ErrorCode.UNDEFINED else "try again"


def _silence(error: TransferTimeout, attempt: Attempt) -> tuple[str, str]:
    if attempt.moved is not None:
        return (
            f"{_address(attempt.location)} fell silent after {attempt.moved} bytes",
            "try again; if it stays, try --no-options or a smaller --blksize",
        )
    return (
        printable(error.message),
        "is a TFTP server running there, does a firewall let its replies from a new port through?",
    )


def _unknown_host(location: Location, error: Exception) -> tuple[str, str]:
    host = printable(location.host)
    if isinstance(error, socket.gaierror) and error.errno == socket.EAI_AGAIN:
        return f"no name server answers for {host}", "check the network, or write the address"
    return f"no such host: {host}", "check the spelling (and -4 or -6), or write its address"


# Failures of the network by errno: the cause, with the address, and the remedy.
_NETWORK: dict[int | None, tuple[str, str]] = {
    errno.ECONNREFUSED: (
        "nothing listens on {}",
        "start the server, or name its port as in tftp://host:6969/name",
    ),
    errno.ENETUNREACH: ("there is no route to {}", "check the network, or -4 and -6"),
    errno.EHOSTUNREACH: ("{} cannot be reached", "check the address, and that the host is up"),
    errno.EHOSTDOWN: ("{} cannot be reached", "check the address, and that the host is up"),
    errno.ENETDOWN: ("the network to {} is down", "bring its interface up"),
    errno.EADDRNOTAVAIL: (
        "this machine has no address that reaches {}",
        "check the network, or -4 and -6",
    ),
    errno.EPERM: ("sending to {} is forbidden", "let the firewall of this machine pass UDP"),
    errno.EACCES: (
        "sending to {} is forbidden",
        "no transfer goes to a broadcast address; else let the routes of this machine allow it",
    ),
    errno.EINVAL: (
        "{} is no address to send to",
        "a link-local address needs its interface: [fe80::1%eth0]",
    ),
    errno.EMSGSIZE: ("a packet for {} is too large for the network", "try a smaller --blksize"),
}
_ANY_NETWORK = ("the network to {} failed ({})", "try again, and look at this machine's log")


def _network(error: OSError, attempt: Attempt) -> Failure:
    cause, remedy = _NETWORK.get(error.errno, _ANY_NETWORK)
    cause = cause.format(_address(attempt.location), _reason(error))
    kind = type(error).__name__
    return Failure(str(attempt.location), cause, remedy, kind, errno=error.errno)


def _reason(error: OSError) -> str:
    reason = os.strerror(error.errno) if error.errno else str(error)
    return reason[:1].lower() + reason[1:]


_LOCAL_REMEDIES: dict[int | None, str] = {
    errno.ENOENT: "check the name",
    errno.ENOTDIR: "check the name",
    errno.EISDIR: "name a file",
    errno.EACCES: "check the permissions, or choose another place",
    errno.EPERM: "check the permissions, or choose another place",
    errno.EROFS: "choose another place",
    errno.ENOSPC: "free some space, or choose another place",
    errno.EDQUOT: "free some space, or choose another place",
    errno.EFBIG: "choose a file system that takes files of this size",
    errno.ENAMETOOLONG: "choose a shorter name",
    errno.EPIPE: "keep the program that reads it running to the end",
}


def _local(error: OSError, attempt: Attempt) -> Failure:
    remedy = _LOCAL_REMEDIES.get(error.errno, "look at this machine's disk and log")
    kind = type(error).__name__
    return Failure(_local_subject(attempt), _reason(error), remedy, kind, errno=error.errno)


def _local_subject(attempt: Attempt) -> str:
    doing = "cannot write" if attempt.operation is Operation.READ else "cannot read"
    return f"{doing} {attempt.local}"


def _address(location: Location) -> str:
    return format_address((printable(location.host), location.port))


def explain_root(error: OSError, root: Path) -> Failure:
    """Why a directory cannot be served."""
    remedy = {
        errno.ENOENT: "make it, or name another directory",
        errno.ENOTDIR: "name the directory that it is in",
    }.get(error.errno or 0, "run as a user who may enter it, or change its permissions")
    subject = f"cannot serve {printable(str(root))}"
    return Failure(subject, _reason(error), remedy, type(error).__name__, errno=error.errno)


def explain_start(error: OSError, port: int) -> Failure:
    """Why a server could not begin to listen on `port`; the error's file name is the address."""
    kind, code = type(error).__name__, error.errno
    address = printable(str(error.filename or f"port {port}"))
    match code:
        case errno.EACCES | errno.EPERM:
            cause = f"port {port} needs root or CAP_NET_BIND_SERVICE"
            return Failure("cannot listen", cause, "try --port 6969", kind, errno=code)
        case errno.EADDRINUSE:
            cause, remedy = (
                "this port is in use",
                "stop the TFTP server that runs there, or choose another --port",
            )
        case errno.EADDRNOTAVAIL:
            cause, remedy = (
                "this machine has no such address",
                "look at `ip address`, or leave out --host",
            )
        case errno.EINVAL:
            cause, remedy = (
                "this is no address to listen on",
                "a link-local address needs its interface: fe80::1%eth0",
            )
        case errno.EAFNOSUPPORT:
            cause, remedy = "this machine has no such network", "try -4, or another --host"
        case _:
            cause, remedy = _reason(error), "look at this machine's network"
    return Failure(f"cannot listen on {address}", cause, remedy, kind, errno=code)
