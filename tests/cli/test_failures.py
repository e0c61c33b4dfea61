"""The words for what went wrong: one line each, with cause and remedy."""

import errno
import os
import socket
from pathlib import Path

import pytest

from tftp.cli.failures import Attempt, Failure, explain, explain_root, explain_start
from tftp.errors import (
    Aborted,
    ErrorCode,
    PeerError,
    ProtocolError,
    Refused,
    TransferTimeout,
    Unreachable,
)
from tftp.events import Operation
from tftp.url import Location

GET = Attempt(Location("h", 69, b"x"), Operation.READ, "./x", None)
PUT = Attempt(Location("h", 69, b"x"), Operation.WRITE, "./x", None)


def unreachable(number: int) -> Unreachable:
    error = Unreachable(os.strerror(number))
    error.__cause__ = OSError(number, os.strerror(number))
    return error


FAILURES = [
    *(PeerError("", code) for code in ErrorCode),
    PeerError("strange", 99),
    PeerError("\x1b]0;evil\x07\n" * 99, 0),
    ProtocolError("server answered blksize 9: not a number", ErrorCode.OPTION_REFUSED),
    ProtocolError("the file has 3 octets, not the 4 announced", ErrorCode.UNDEFINED),
    Refused("file changed while it was read", ErrorCode.UNDEFINED),
    Aborted("cancelled"),
    TransferTimeout("no answer from 192.0.2.1:69 for 20 s"),
    unreachable(errno.ENETUNREACH),
    unreachable(errno.ECONNREFUSED),
    unreachable(errno.EBADMSG),
    Unreachable("nobody"),
    socket.gaierror(socket.EAI_NONAME, "Name or service not known"),
    socket.gaierror(socket.EAI_AGAIN, "Temporary failure in name resolution"),
    UnicodeEncodeError("idna", "..", 0, 1, "label empty"),
    OSError(errno.ENOSPC, "No space left on device"),
    OSError(errno.EIO, "Input/output error"),
    OSError("no number"),
]


@pytest.mark.parametrize("attempt", [GET, PUT], ids=["get", "put"])
@pytest.mark.parametrize("error", FAILURES, ids=repr)
def test_every_failure_is_one_printable_line_with_a_remedy(
    error: Exception, attempt: Attempt
) -> None:
    failure = explain(error, attempt)
    line = str(failure)
    assert line.startswith("tftp: ")
    assert line.isprintable()
    assert len(line) < 500
    assert failure.cause
    assert failure.remedy
    assert failure.as_json()["kind"] == failure.kind


def test_a_fault_of_the_program_is_not_explained_away() -> None:
    with pytest.raises(KeyError):
        explain(KeyError("bug"), GET)


def test_what_to_do_about_access_depends_on_the_direction() -> None:
    error = PeerError("no", ErrorCode.ACCESS_VIOLATION)
    assert "permissions" in explain(error, GET).remedy
    assert "--allow-write" in explain(error, PUT).remedy


def test_refused_options_suggest_to_ask_for_none() -> None:
    assert "--no-options" in explain(PeerError("", ErrorCode.OPTION_REFUSED), GET).remedy
    assert "--no-options" in explain(ProtocolError("", ErrorCode.OPTION_REFUSED), GET).remedy


def test_a_local_failure_names_the_local_file_and_the_system_s_error() -> None:
    failure = explain(OSError(errno.ENOSPC, "No space left on device"), GET)
    assert str(failure) == (
        "tftp: cannot write ./x: no space left on device: free some space, or choose another place"
    )
    assert failure.as_json()["errno"] == "ENOSPC"
    assert str(explain(OSError(errno.EIO, ""), PUT)).startswith("tftp: cannot read ./x: ")


def test_a_failure_of_the_network_names_the_address_of_the_server() -> None:
    here = Attempt(Location("2001:db8::1", 6969, b"x"), Operation.READ, "x", None)
    assert explain(unreachable(errno.EHOSTUNREACH), here).cause == (
        "[2001:db8::1]:6969 cannot be reached"
    )


@pytest.mark.parametrize(
    ("number", "words"),
    [
        (errno.EACCES, "port 69 needs root or CAP_NET_BIND_SERVICE: try --port 6969"),
        (errno.EADDRINUSE, "cannot listen on 127.0.0.1:69: this port is in use"),
        (errno.EADDRNOTAVAIL, "127.0.0.1:69: this machine has no such address"),
        (errno.EINVAL, "a link-local address needs its interface: fe80::1%eth0"),
        (errno.EAFNOSUPPORT, "try -4"),
        (errno.ENOBUFS, "no buffer space available"),
    ],
)
def test_a_server_that_cannot_listen_says_where_and_why(number: int, words: str) -> None:
    line = str(explain_start(OSError(number, os.strerror(number), "127.0.0.1:69"), 69))
    assert words in line
    assert line.isprintable()


def test_a_root_that_may_not_be_entered_says_so() -> None:
    failure = explain_root(PermissionError(errno.EACCES, "Permission denied"), Path("a\x1bb"))
    assert str(failure) == (
        "tftp: cannot serve a\\x1bb: permission denied: "
        "run as a user who may enter it, or change its permissions"
    )


def test_a_failure_of_the_system_has_no_tftp_code() -> None:
    assert Failure("s", "c", "r", "k").as_json() == {
        "kind": "k",
        "code": None,
        "errno": None,
        "message": "c",
        "remedy": "r",
    }
