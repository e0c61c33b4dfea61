"""From a request to a session, with real sockets and storages that can fail."""

import contextlib
import errno
import itertools
import logging
import os
import resource
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

import pytest

from tests.arrangements import everywhere
from tests.networks import host
from tests.server.conftest import Serve
from tests.server.storages import Faulty, Scripted, failing
from tests.watching import Witness, descriptors, eventually
from tests.wirepeer import WirePeer
from tftp.errors import ErrorCode, Refused
from tftp.events import Address, Operation, Request, RequestReceived, RequestRefused
from tftp.net import kernel
from tftp.net.endpoint import open_port
from tftp.net.workspace import Workspace
from tftp.options import Limits
from tftp.packets import Error
from tftp.receiving import ReceivingSession
from tftp.sending import SendingSession
from tftp.server import ServerConfig
from tftp.server.listener import Arrival
from tftp.server.opening import Opening
from tftp.server.policy import Policy, backslashes, strip_junk
from tftp.session import Session
from tftp.storage.base import Storage
from tftp.timers import Patience

READ, WRITE = Operation.READ, Operation.WRITE


class Desk:
    """An opening, a door, a client in front of it, and the sessions that come of it."""

    def __init__(self) -> None:
        self.witness = Witness()
        self.sessions: list[Session] = []
        self.door = open_port(2, ("127.0.0.1", 0))
        self.client = WirePeer(self.door.getsockname())
        self._numbers = itertools.count(1)
        self._opening: Opening | None = None

    def rules(self, storage: Storage, policy: Sequence[Policy] = (), **config: Any) -> None:
        """What the next requests meet."""
        self._opening = Opening(storage, ServerConfig(**config), policy, self.witness)

    def ask(
        self,
        operation: Operation = READ,
        filename: bytes = b"file",
        mode: str = "octet",
        peer: Address | None = None,
        local: Address | None = None,
        **options: object,
    ) -> Session | None:
        """Bring a request in."""
        request = Request(
            operation=operation,
            filename=filename,
            mode=mode,
            options={name: str(value) for name, value in options.items()},
            peer=peer or self.client.address,
            local=local or self.door.getsockname(),
        )
        assert self._opening is not None
        session = self._opening.open(
            Arrival(request, next(self._numbers), self.door), Workspace(), time.monotonic()
        )
        if session is not None:
            self.sessions.append(session)
        return session

    def granted(self, **options: object) -> Mapping[str, str]:
        """The options that a read request gets."""
        session = self.ask(READ, **options)  # type: ignore[arg-type]
        assert session is not None
        return session.machine.granted

    def refusal(self) -> Error:
        """The ERROR that the client got."""
        packet = self.client.receive()
        assert isinstance(packet, Error)
        return packet

    def close(self) -> None:
        for session in self.sessions:
            session.close()
        self.client.close()
        self.door.close()


@pytest.fixture
def desk() -> Iterator[Desk]:
    made = Desk()
    yield made
    made.close()


# -- the rules ------------------------------------------------------------------------------------


def test_rules_apply_in_order_and_the_storage_sees_what_they_made(desk: Desk) -> None:
    storage = Scripted(b"content")

    def shout(request: Request) -> Request:
        return replace(request, filename=request.filename.upper())

    desk.rules(storage, [backslashes, shout, strip_junk])
    session = desk.ask(filename=b"a\\b\xffc")
    assert storage.requests[0].filename == b"A/B"
    # Observers, and the repeats of the request, see what the client sent.
    assert session is not None
    assert session.request.filename == b"a\\b\xffc"
    assert desk.witness.all(RequestReceived)[0].request.filename == b"a\\b\xffc"


@pytest.mark.parametrize("code", [0, 1, 2, 6, 7])
def test_a_rule_that_refuses_has_its_own_word_and_code(desk: Desk, code: int) -> None:
    storage = Scripted()

    def no(request: Request) -> Request:
        raise Refused("not on a Sunday", code)

    desk.rules(storage, [no])
    assert desk.ask(blksize=1024) is None
    assert desk.refusal() == Error(code, "not on a Sunday")
    assert storage.calls == []
    assert desk.witness.kinds == ["RequestReceived", "RequestRefused"]
    [refused] = desk.witness.all(RequestRefused)
    assert refused.error.code == code
    assert refused.error.__traceback__ is None


@pytest.mark.parametrize("corked", [False, True])
def test_a_refusal_at_a_door_that_has_closed_is_told_all_the_same(desk: Desk, corked: bool) -> None:
    desk.rules(Scripted())
    desk.door.close()
    request = Request(operation=READ, filename=b"file", peer=desk.client.address, local=("::1", 69))
    outbox = Workspace().outbox
    outbox.corked = corked
    assert desk._opening is not None
    desk._opening.refuse(Arrival(request, 1, desk.door), Refused("server stops"), outbox)
    outbox.uncork()
    assert [event.error.message for event in desk.witness.all(RequestRefused)] == ["server stops"]


def test_who_keeps_the_event_of_a_refusal_keeps_no_frames(desk: Desk) -> None:
    storage = Scripted()
    storage.before = {"open_read": failing(FileNotFoundError(errno.ENOENT, "No such file"))}
    desk.rules(storage)
    assert desk.ask() is None
    [refused] = desk.witness.all(RequestRefused)
    assert refused.error.__traceback__ is None
    assert isinstance(refused.error.__cause__, FileNotFoundError)
    assert refused.error.__cause__.__traceback__ is None


def test_a_rule_with_a_fault_refuses_and_tells_no_details(
    desk: Desk, caplog: pytest.LogCaptureFixture
) -> None:
    def broken(request: Request) -> Request:
        raise KeyError("/srv/secret")

    desk.rules(Scripted(), [broken])
    assert desk.ask() is None
    assert desk.refusal() == Error(0, "internal error")
    assert "KeyError" in caplog.text


@pytest.mark.parametrize("mode", ["mail", "", "octet2", "\udcff\udcfe", "x" * 3000])
@pytest.mark.parametrize("operation", [READ, WRITE])
def test_a_mode_that_is_not_served_is_an_illegal_operation(
    desk: Desk, mode: str, operation: Operation
) -> None:
    storage = Scripted()
    desk.rules(storage)
    assert desk.ask(operation, mode=mode) is None
    error = desk.refusal()
    assert error.code == ErrorCode.ILLEGAL_OPERATION
    assert len(error.message) < 100
    assert storage.calls == []


# -- the file -------------------------------------------------------------------------------------

FAULTS: list[tuple[BaseException, int]] = [
    (FileNotFoundError(errno.ENOENT, "No such file or directory", "/srv/secret/file"), 1),
    (NotADirectoryError(errno.ENOTDIR, "Not a directory", "/srv/secret/file"), 1),
    (PermissionError(errno.EACCES, "Permission denied", "/srv/secret/file"), 2),
    (IsADirectoryError(errno.EISDIR, "Is a directory", "/srv/secret/file"), 2),
    (OSError(errno.ENOSPC, "No space left on device", "/srv/secret/file"), 3),
    (FileExistsError(errno.EEXIST, "File exists", "/srv/secret/file"), 6),
    (OSError(errno.EIO, "Input/output error", "/srv/secret/file"), 0),
    # Raised by hand, without a number.
    (FileNotFoundError("/srv/secret/file"), 1),
    (PermissionError("/srv/secret/file"), 2),
    (FileExistsError(), 6),
    (OSError(errno.ENOSPC), 3),
    (OSError("/srv/secret/file"), 0),
    (Refused("too large", ErrorCode.DISK_FULL), 3),
    (Refused("try elsewhere", 0), 0),
    # Faults of the program.
    (ValueError("/srv/secret/file"), 0),
    (AssertionError("/srv/secret/file"), 0),
]


@pytest.mark.parametrize(("error", "code"), FAULTS, ids=lambda value: repr(value)[:40])
@pytest.mark.parametrize("operation", [READ, WRITE])
def test_a_file_that_can_not_be_opened_has_its_code_and_no_path_is_told(
    desk: Desk, error: BaseException, code: int, operation: Operation
) -> None:
    desk.rules(Scripted(open_read=failing(error), open_write=failing(error)))
    assert desk.ask(operation, blksize=1024, tsize=0) is None
    answer = desk.refusal()
    assert answer.code == code
    assert answer.message
    assert "secret" not in answer.message
    assert desk.client.drain() == []
    refused = desk.witness.all(RequestRefused)
    assert [event.error.code for event in refused] == [code]
    assert error in (refused[0].error, refused[0].error.__cause__)


@everywhere
@pytest.mark.parametrize("ask", [WirePeer.rrq, WirePeer.wrq], ids=["rrq", "wrq"])
def test_each_fault_has_its_code_however_the_server_runs(
    serve: Serve, witness: Witness, ask: Callable[..., None]
) -> None:
    server = serve(Faulty([error for error, _ in FAULTS]))
    with WirePeer(server.address) as peer:
        for number, (_, code) in enumerate(FAULTS):
            ask(peer, str(number), tsize=0)
            answer = peer.receive()
            assert isinstance(answer, Error)
            assert answer.code == code
            assert answer.message
            assert "secret" not in answer.message
            assert peer.tid == server.address
            told = witness.wait(RequestRefused, number + 1).error
            assert (told.code, told.message) == (answer.code, answer.message)


@everywhere
def test_a_rule_has_its_word_however_the_server_runs(serve: Serve, witness: Witness) -> None:
    server = serve(Faulty([]), policy=[backslashes, not_on_a_sunday])
    with WirePeer(server.address) as peer:
        peer.rrq("a\\b")
        assert peer.receive() == Error(7, "a/b: not on a Sunday")
    refused = witness.wait(RequestRefused)
    assert refused.error.message == "a/b: not on a Sunday"
    assert refused.request.filename == b"a\\b"


def not_on_a_sunday(request: Request) -> Request:
    raise Refused(f"{request.filename.decode()}: not on a Sunday", 7)


@pytest.mark.parametrize(("operation", "step"), [(READ, "open_read"), (WRITE, "open_write")])
def test_the_file_is_open_before_a_word_is_said(
    desk: Desk, operation: Operation, step: str
) -> None:
    storage = Scripted(b"content")
    desk.rules(storage)
    session = desk.ask(operation, blksize=1024)
    assert isinstance(session, SendingSession if operation is READ else ReceivingSession)
    assert storage.calls == [step]
    assert desk.client.drain() == []


@pytest.mark.parametrize("operation", [READ, WRITE])
def test_a_slow_storage_takes_nothing_from_the_clients_time_to_answer(
    desk: Desk, operation: Operation
) -> None:
    opened: list[float] = []

    def take_time() -> None:
        began = time.monotonic()
        assert eventually(lambda: time.monotonic() > began + 0.02)
        opened.append(time.monotonic())

    desk.rules(Scripted(open_read=take_time, open_write=take_time))
    session = desk.ask(operation, blksize=1024)
    assert session is not None
    assert session.deadline is not None
    assert session.deadline >= opened[0] + Patience().initial


@pytest.mark.parametrize(("operation", "end"), [(READ, "close"), (WRITE, "discard")])
@pytest.mark.parametrize("mode", ["octet", "netascii"])
def test_what_fails_after_the_file_was_opened_lets_go_of_it(
    desk: Desk, operation: Operation, end: str, mode: str
) -> None:
    storage = Scripted(b"content")
    port = desk.door.getsockname()[1]
    desk.rules(storage, port_range=(port, port))  # There is none that is free.
    before = descriptors()
    assert desk.ask(operation, mode=mode) is None
    assert storage.calls[-1] == end
    assert storage.count(end) == 1
    assert descriptors() <= before


# -- the terms ------------------------------------------------------------------------------------


def test_tsize_is_told_in_octet_and_not_in_netascii_where_it_would_be_wrong(desk: Desk) -> None:
    desk.rules(Scripted(b"one\ntwo\n"))
    assert desk.granted(tsize=0) == {"tsize": "8"}
    assert desk.granted(tsize=0, mode="netascii") == {}
    assert desk.granted(tsize=0, blksize=600, mode="netascii") == {"blksize": "600"}


@pytest.mark.parametrize("size", ["0", "123", "4294967297", "00012"])
def test_an_upload_has_its_size_echoed(desk: Desk, size: str) -> None:
    desk.rules(Scripted())
    session = desk.ask(WRITE, tsize=size)
    assert session is not None
    assert session.machine.granted == {"tsize": size}


def test_an_uploads_window_is_no_larger_than_what_can_wait_for_it(desk: Desk) -> None:
    desk.rules(Scripted(), limits=Limits(max_windowsize=65535))
    session = desk.ask(WRITE, blksize=65464, windowsize=65535)
    assert session is not None
    windowsize = int(session.machine.granted["windowsize"])
    assert 1 <= windowsize <= kernel.receive_budget() // 65464
    assert session.machine.terms.windowsize == windowsize
    # And a download's is as large as the limit lets: the client asked for it.
    assert desk.granted(blksize=65464, windowsize=65535)["windowsize"] == "65535"


def test_limits_are_kept_and_refused_options_left_out(desk: Desk) -> None:
    limits = Limits(max_blksize=1024, max_windowsize=8, refused=frozenset({"rollover"}))
    desk.rules(Scripted(), limits=limits)
    granted = desk.granted(rollover=1, windowsize=64, blksize=1428)
    assert granted == {"windowsize": "8", "blksize": "1024"}


@pytest.mark.parametrize("asked", [1024, 1228, 1229, 1400, 1428, 1468, 1469, 65464])
def test_without_a_clamp_a_block_is_as_large_as_was_asked(desk: Desk, asked: int) -> None:
    desk.rules(Scripted(), clamp_to_mtu=False)
    assert desk.granted(blksize=asked, peer=("192.0.2.200", 9))["blksize"] == str(asked)


def test_each_interface_has_an_mtu_of_its_own_though_the_client_has_one_address(
    desk: Desk,
) -> None:
    with host() as left, host() as right:
        scopes = []
        for name, mtu in (("one", 1500), ("two", 1400)):
            left.plug(right, mtu=mtu, name=name)
            scopes.append(left.scope(name))
        desk.rules(Scripted())

        def blksize(scope: int) -> str:
            peer, local = ("fe80::99", 9, 0, scope), ("::", 69, 0, 0)
            return desk.granted(blksize=65464, peer=peer, local=local)["blksize"]

        assert [left.call(blksize, scope) for scope in scopes] == ["1448", "1348"]


def test_the_way_to_a_client_is_not_looked_up_for_each_request(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[Address] = []
    real = kernel.path_mtu

    def path_mtu(peer: Address, family: int) -> int | None:
        asked.append(peer)
        return real(peer, family)

    monkeypatch.setattr(kernel, "path_mtu", path_mtu)
    desk.rules(Scripted())
    for port in (7, 8, 9):
        desk.granted(blksize=1428, peer=("127.0.0.1", port))
        desk.granted(blksize=512, peer=("127.0.0.9", port))
    assert asked == [("127.0.0.1", 7)]


@pytest.mark.parametrize("name", ["blksize", "blksize2"])
def test_a_client_that_can_not_be_reached_is_taken_for_one_on_ethernet(
    desk: Desk, name: str
) -> None:
    with host() as lonely:
        desk.rules(Scripted())
        granted = lonely.call(
            lambda: desk.granted(**{name: 4096}, peer=("192.0.2.200", 9), local=("0.0.0.0", 69))
        )
    assert granted[name] == {"blksize": "1468", "blksize2": "1024"}[name]


# -- the port -------------------------------------------------------------------------------------


def test_each_transfer_has_a_port_of_its_own_on_the_address_that_was_asked(desk: Desk) -> None:
    desk.rules(Scripted())
    sessions = [desk.ask(local=("127.0.0.5", 69)) for _ in range(3)]
    addresses = {session.local for session in sessions if session is not None}
    assert len(addresses) == 3
    assert {host for host, _ in addresses} == {"127.0.0.5"}
    assert desk.door.getsockname()[1] not in {port for _, port in addresses}


def test_in_single_port_mode_the_port_is_the_one_that_was_asked(desk: Desk) -> None:
    desk.rules(Scripted(), single_port=True)
    before = descriptors()
    session = desk.ask()
    assert session is not None
    assert session.fileno() == -1
    assert descriptors() <= before


@pytest.fixture
def five_ports() -> tuple[int, int]:
    """A range of five ports that were free a moment ago."""
    for low in range(20000 + os.getpid() % 1000 * 7, 30000, 7):
        try:
            held = [open_port(2, ("127.0.0.1", low + step)) for step in range(5)]
        except OSError:
            continue
        for sock in held:
            sock.close()
        return low, low + 4
    raise AssertionError("no five ports in a row are free")


def test_ports_of_a_range_are_all_used_and_no_other(
    desk: Desk, five_ports: tuple[int, int], caplog: pytest.LogCaptureFixture
) -> None:
    low, high = five_ports
    storage = Scripted()
    desk.rules(storage, port_range=five_ports)
    sessions = [desk.ask() for _ in range(5)]
    ports = [session.local[1] for session in sessions if session is not None]
    assert sorted(ports) == list(range(low, high + 1))
    with caplog.at_level(logging.WARNING):
        assert desk.ask(blksize=1024) is None
    error = desk.refusal()
    assert error.code == 0
    assert "ports are in use" in error.message
    assert f"no port between {low} and {high} is free" in caplog.text
    assert storage.count("close") == 1
    # One that is free again is found, wherever it is.
    freed = sessions[2]
    assert freed is not None
    freed.close()
    again = desk.ask()
    assert again is not None
    assert again.local == ("127.0.0.1", ports[2])


def test_a_range_does_not_hide_what_else_is_wrong(
    desk: Desk, five_ports: tuple[int, int], caplog: pytest.LogCaptureFixture
) -> None:
    desk.rules(Scripted(), port_range=five_ports)
    assert desk.ask(local=("192.0.2.99", 69)) is None  # This host has no such address.
    # Nor can it be told so from there.
    [refused] = desk.witness.all(RequestRefused)
    assert "in use" not in refused.error.message
    assert "is free" not in caplog.text


def test_descriptors_that_have_run_out_are_called_by_their_name(
    desk: Desk, exhausted: Callable[[], None]
) -> None:
    desk.rules(Scripted(b"content"))
    assert desk.ask() is not None
    exhausted()
    assert desk.ask() is None
    assert desk.refusal() == Error(0, "server out of file descriptors")


@pytest.fixture
def exhausted() -> Iterator[Callable[[], None]]:
    """Takes all descriptors that this process may have, until the test is over."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    taken: list[int] = []

    def exhaust() -> None:
        resource.setrlimit(resource.RLIMIT_NOFILE, (256, hard))
        with contextlib.suppress(OSError):
            while True:
                taken.append(os.dup(0))

    yield exhaust
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    for descriptor in taken:
        os.close(descriptor)


def test_an_error_is_a_courtesy_and_its_failure_nobodys(desk: Desk) -> None:
    desk.rules(Scripted(open_read=failing(FileNotFoundError())))
    assert desk.ask(peer=("127.0.0.1", 0)) is None  # No datagram can be sent there.
    assert len(desk.witness.all(RequestRefused)) == 1
