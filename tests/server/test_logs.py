"""The log of a server that is several processes: what happens in any of them is logged in one."""

import logging
import os
import socket
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.watching import eventually
from tests.wirepeer import WirePeer
from tftp.events import Request
from tftp.packets import Error
from tftp.server import Server, ServerConfig
from tftp.server.channel import Channel
from tftp.server.logs import RecordSender
from tftp.server.processes import ProcessEngine
from tftp.server.supervisor import Supervisor
from tftp.storage import Directory
from tftp.storage.base import Sink, Source

logger = logging.getLogger("tftp")

Start = Callable[[], "Server | Supervisor"]


class Talkative:
    """A storage that logs what it is asked, and fails at the name "fault"."""

    def __init__(self, root: Path) -> None:
        self._directory = Directory(root)

    def open_read(self, request: Request) -> Source:
        logger.debug("asked in detail")
        logger.warning("asked for %s", request.filename.decode())
        if request.filename == b"fault":
            raise ZeroDivisionError("a storage's own fault")
        return self._directory.open_read(request)

    def open_write(self, request: Request) -> Sink:
        return self._directory.open_write(request)


@pytest.fixture(autouse=True)
def level() -> Iterator[None]:
    before = logger.level
    logger.setLevel(logging.INFO)
    yield
    logger.setLevel(before)


@pytest.fixture(params=["processes", "workers"])
def start(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Start]:
    """Starts a server of several processes."""
    started: list[Server | Supervisor] = []

    def begin() -> Server | Supervisor:
        storage, config = Talkative(tmp_path), ServerConfig(hosts=("127.0.0.1",))
        server: Server | Supervisor
        if request.param == "workers":
            server = Supervisor(storage, config=config, workers=1)
        else:
            server = Server(storage, config=config, engine=ProcessEngine(warm=1, children=1))
        server.start()
        started.append(server)
        return server

    yield begin
    for server in started:
        server.stop()


def ask(server: "Server | Supervisor", name: str) -> None:
    with WirePeer(server.address) as peer:
        peer.rrq(name)
        assert isinstance(peer.receive(), Error)


def told(log: pytest.LogCaptureFixture, message: str) -> logging.LogRecord:
    """The record with this message, as soon as it is there."""
    assert eventually(lambda: message in log.messages), log.messages
    return log.records[log.messages.index(message)]


def test_what_another_process_logs_is_logged_here(
    start: Start, caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
) -> None:
    ask(start(), "missing")
    entry = told(caplog, "asked for missing")
    assert (entry.levelname, entry.name) == ("WARNING", "tftp")
    assert entry.process != os.getpid()
    assert "asked in detail" not in caplog.messages
    assert capfd.readouterr().err == ""


def test_the_traceback_of_a_fault_comes_with_it(
    start: Start, caplog: pytest.LogCaptureFixture
) -> None:
    ask(start(), "fault")
    entry = told(caplog, "request 1 failed by a fault of the program")
    assert entry.exc_text is not None
    assert "in open_read" in entry.exc_text
    assert entry.exc_text.endswith("ZeroDivisionError: a storage's own fault")


def test_a_level_that_changes_here_changes_there(
    start: Start, caplog: pytest.LogCaptureFixture
) -> None:
    server = start()
    logger.setLevel(logging.DEBUG)

    def is_told() -> bool:
        ask(server, "missing")
        return "asked in detail" in caplog.messages

    assert eventually(is_told)
    logger.setLevel(logging.ERROR)
    assert eventually(lambda: is_silent(server, caplog))


def is_silent(server: "Server | Supervisor", log: pytest.LogCaptureFixture) -> bool:
    """Whether the next request is not logged; a fault is, and comes after it."""
    log.clear()
    ask(server, "fault")
    eventually(lambda: any("fault of the program" in message for message in log.messages))
    return not any(message.startswith("asked for") for message in log.messages)


def record(message: str, *arguments: object) -> logging.LogRecord:
    return logging.LogRecord("tftp", logging.WARNING, __file__, 1, message, arguments, None)


@pytest.fixture
def ends() -> Iterator[tuple[Channel, Channel, socket.socket]]:
    here, there = Channel.pair()
    other = Channel(there, blocking=True)
    yield here, other, there
    here.close()
    other.close()


def test_a_log_that_nobody_reads_holds_nobody_up_and_what_is_lost_is_told(
    ends: tuple[Channel, Channel, socket.socket],
) -> None:
    parent, child, _ = ends
    sender = RecordSender(child.offer)
    for number in range(5000):
        sender.handle(record("record %d: %s", number, "x" * 10_000))
    arrived: list[str] = []
    while messages := parent.receive():
        arrived += [message[3] for message in messages]
    assert max(map(len, arrived)) <= 2048
    assert 0 < len(arrived) < 5000
    sender.handle(record("the last one"))
    lost, last = [message[3] for message in parent.receive()]
    assert last == "the last one"
    assert lost == f"{5000 - len(arrived)} records were lost"


def test_a_record_for_a_process_that_is_gone_is_dropped(
    ends: tuple[Channel, Channel, socket.socket],
) -> None:
    parent, child, _ = ends
    parent.close()
    sender = RecordSender(child.offer)
    sender.handle(record("nobody there"))


def test_a_record_that_can_not_be_made_is_the_fault_of_who_logs_it(
    ends: tuple[Channel, Channel, socket.socket], capsys: pytest.CaptureFixture[str]
) -> None:
    _, child, _ = ends
    sender = RecordSender(child.offer)
    sender.handle(record("%d", "no number"))
    assert "--- Logging error ---" in capsys.readouterr().err
