"""Logging daemons, played by a socket: what they are sent, and what happens without them."""

import logging
import os
import re
import socket
import struct
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path

import pytest

from tests.monitor.happening import Happening
from tests.monitor.test_logs import HOSTILE, Kept, fault, logger_with, pairs
from tests.wirepeer import PATIENCE
from tftp.events import Outcome, printable
from tftp.monitor import daemons
from tftp.monitor.daemons import Journald, Syslog, is_journal
from tftp.monitor.logs import TransferLog, fields_of
from tftp.monitor.place import Place

DAEMON_INFO, DAEMON_WARNING, DAEMON_ERROR = 3 << 3 | 6, 3 << 3 | 4, 3 << 3 | 3


def bound(path: Path) -> socket.socket:
    """A daemon's socket."""
    daemon = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    daemon.bind(str(path))
    daemon.settimeout(PATIENCE)
    return daemon


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "log"


@pytest.fixture
def daemon(path: Path) -> Iterator[socket.socket]:
    with bound(path) as daemon:
        yield daemon


@pytest.fixture
def remote() -> Iterator[socket.socket]:
    """A syslog daemon on another host, in principle."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as daemon:
        daemon.bind(("127.0.0.1", 0))
        daemon.settimeout(PATIENCE)
        yield daemon


@pytest.fixture
def syslog(path: Path) -> Iterator[Syslog]:
    handler = Syslog(Place(path=str(path)))
    yield handler
    handler.close()


@pytest.fixture
def instead() -> Kept:
    return Kept()


@pytest.fixture
def journald(path: Path, instead: Kept) -> Iterator[Journald]:
    handler = Journald(str(path), instead=instead)
    yield handler
    handler.close()


def journal_fields(datagram: bytes) -> dict[str, bytes]:
    """A record of the journal's native protocol, read as its documentation says."""
    fields = {}
    while datagram:
        line, _, rest = datagram.partition(b"\n")
        name, equals, value = line.partition(b"=")
        if equals:
            datagram = rest
        else:
            (length,) = struct.unpack_from("<Q", rest)
            value, end, datagram = rest[8 : 8 + length], rest[8 + length], rest[9 + length :]
            assert end == ord("\n")
        assert re.fullmatch(rb"[A-Z][A-Z0-9_]*", name), name
        fields[name.decode()] = value
    return fields


@pytest.mark.parametrize("name", [b"boot/vmlinuz", *HOSTILE])
def test_a_local_syslog_gets_the_message_and_all_fields(
    daemon: socket.socket, syslog: Syslog, name: bytes
) -> None:
    event = Happening(7, name).ended(Outcome.TIMED_OUT, payload=512)
    TransferLog(logger_with(syslog))(event)
    line = daemon.recv(65536).decode()
    assert line.isprintable()
    header, message = line.split(f" tftp[{os.getpid()}]: ", 1)
    assert re.fullmatch(rf"<{DAEMON_WARNING}>[A-Z][a-z]{{2}} [ \d]\d \d\d:\d\d:\d\d", header)
    _, fields = message.split(", transfer 7 ", 1)
    told = pairs(fields)
    assert told == {name: str(value) for name, value in fields_of(event).items()}
    assert told["file"] == printable(name)


def test_a_remote_syslog_gets_the_header_of_rfc_5424(remote: socket.socket) -> None:
    handler = Syslog(Place("127.0.0.1", remote.getsockname()[1]))
    TransferLog(logger_with(handler))(Happening(7).ended())
    first = remote.recv(65536).decode()
    logger_with(handler).error("the library")
    second = remote.recv(65536).decode()
    handler.close()
    priority, when, host, name, pid, kind, data, message = first.split(" ", 7)
    assert priority == f"<{DAEMON_INFO}>1"
    assert datetime.fromisoformat(when).tzinfo is not None
    assert (host, name, pid) == (socket.gethostname(), "tftp", str(os.getpid()))
    assert (kind, data) == ("transfer", "-")
    assert message.startswith("192.0.2.7:49152 read boot/vmlinuz: done, ")
    assert second.startswith(f"<{DAEMON_ERROR}>1 ")
    assert second.endswith(" tftp " + pid + " - - the library")


def test_a_traceback_stays_on_its_line_in_syslog(daemon: socket.socket, syslog: Syslog) -> None:
    fault(syslog)
    line = daemon.recv(65536).decode()
    assert line.isprintable()
    assert r"\nTraceback (most recent call last):\n" in line


def test_a_line_too_long_for_syslog_is_cut_between_letters(
    daemon: socket.socket, syslog: Syslog
) -> None:
    TransferLog(logger_with(syslog))(Happening(7, "x\u00e9".encode() * 3000).refused())
    datagram = daemon.recv(65536)
    assert 8180 < len(datagram) <= 8192
    assert datagram.decode().endswith("...")


@pytest.mark.parametrize("name", [b"boot/vmlinuz", *HOSTILE])
def test_the_journal_gets_each_field_by_itself(
    daemon: socket.socket, journald: Journald, name: bytes
) -> None:
    event = Happening(7, name).ended(Outcome.TIMED_OUT, payload=512)
    TransferLog(logger_with(journald))(event)
    fields = journal_fields(daemon.recv(65536))
    assert fields.pop("MESSAGE").decode().isprintable()
    assert fields.pop("PRIORITY") == b"4"
    assert fields.pop("SYSLOG_IDENTIFIER") == b"tftp"
    assert fields == {
        f"TFTP_{name.upper()}": str(value).encode() for name, value in fields_of(event).items()
    }
    assert fields["TFTP_FILE"] == printable(name).encode()


def test_a_value_with_line_feeds_reaches_the_journal_whole(
    daemon: socket.socket, journald: Journald
) -> None:
    fault(journald)
    fields = journal_fields(daemon.recv(65536))
    first, second, *rest = fields["MESSAGE"].decode().split("\n")
    assert first == "a fault\\nof the program\\x1b"
    assert second == "Traceback (most recent call last):"
    assert rest[-1] == "2026-11-26 two\\x1b"
    assert fields["PRIORITY"] == b"3"
    assert set(fields) == {"MESSAGE", "PRIORITY", "SYSLOG_IDENTIFIER"}


def test_the_longest_request_fits_into_one_record_of_the_journal(
    daemon: socket.socket, journald: Journald, instead: Kept
) -> None:
    names = b"\xff" * 2000
    TransferLog(logger_with(journald))(Happening(1, names, options={"\x1b" * 2000: ""}).refused())
    fields = journal_fields(daemon.recv(1 << 18))
    assert fields["TFTP_FILE"] == rb"\xff" * 2000
    assert instead.records == []


def test_a_value_without_end_is_cut_for_the_journal(
    daemon: socket.socket, journald: Journald
) -> None:
    logger_with(journald).warning("%s", "x" * 1_000_000)
    assert journal_fields(daemon.recv(1 << 18))["MESSAGE"] == b"x" * (1 << 14) + b"..."


def test_a_journal_that_is_missing_is_told_once_and_stderr_gets_the_log(
    path: Path, journald: Journald, instead: Kept, caplog: pytest.LogCaptureFixture
) -> None:
    observer = TransferLog(logger_with(journald))
    for number in range(3):
        observer(Happening(number).ended())
    assert len(instead.records) == 3
    assert caplog.messages == [
        f"cannot reach the journal at {path} (No such file or directory): "
        "meanwhile the log goes to stderr"
    ]


def test_a_syslog_that_comes_back_is_found_and_what_it_missed_is_counted(
    path: Path,
    syslog: Syslog,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(daemons, "_RETRY", 0.0)
    observer = TransferLog(logger_with(syslog))
    with bound(path) as daemon:
        observer(Happening(1).ended())
        assert b"transfer 1 " in daemon.recv(65536)
    observer(Happening(2).ended())
    observer(Happening(3).ended())
    path.unlink()
    with bound(path) as daemon:
        observer(Happening(4).ended())
        assert b"transfer 4 " in daemon.recv(65536)
    assert caplog.messages == [
        f"cannot reach syslog at {path} (Connection refused): meanwhile the log is lost",
        "syslog is back; it has missed 2 records",
    ]


def test_a_daemon_that_is_gone_is_not_tried_for_each_record(
    path: Path, syslog: Syslog, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(daemons, "_RETRY", 1000.0)
    observer = TransferLog(logger_with(syslog))
    observer(Happening(1).ended())
    with bound(path) as daemon:
        observer(Happening(2).ended())
        daemon.setblocking(False)
        with pytest.raises(BlockingIOError):
            daemon.recv(65536)


def test_a_daemon_that_reads_nothing_is_given_up_in_time(
    daemon: socket.socket,
    syslog: Syslog,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(daemons, "_PATIENCE", 0.05)
    observer = TransferLog(logger_with(syslog))
    for number in range(100_000):
        observer(Happening(number).ended())
        if caplog.messages:
            break
    assert caplog.messages[0].endswith("(timed out): meanwhile the log is lost")


def test_a_name_that_stands_for_no_host_is_told(caplog: pytest.LogCaptureFixture) -> None:
    handler = Syslog(Place("no-such-host.invalid", 514))
    TransferLog(logger_with(handler))(Happening(1).ended())
    assert "cannot reach syslog at no-such-host.invalid:514 (" in caplog.text
    handler.close()


def test_the_journal_is_known_by_device_and_inode(tmp_path: Path) -> None:
    with (tmp_path / "stderr").open("wb") as stream:
        status = os.fstat(stream.fileno())
        assert is_journal(stream.fileno(), f"{status.st_dev}:{status.st_ino}")
        assert not is_journal(stream.fileno(), f"{status.st_dev}:{status.st_ino + 1}")
        assert not is_journal(stream.fileno(), "nonsense")
        assert not is_journal(stream.fileno(), "")
        descriptor = stream.fileno()
    assert not is_journal(descriptor, f"{status.st_dev}:{status.st_ino}")


def test_every_level_has_a_severity(daemon: socket.socket, syslog: Syslog) -> None:
    logger = logger_with(syslog)
    severities = []
    for level in (logging.DEBUG, logging.INFO, logging.WARNING, logging.ERROR, logging.CRITICAL):
        logger.log(level, "so")
        severities.append(int(daemon.recv(65536)[1:3]) & 7)
    assert severities == [7, 6, 4, 3, 2]
