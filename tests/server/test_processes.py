"""The process engine: one transfer, one process; what dies takes nothing with it."""

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tests.arrangements import CALM
from tests.server.conftest import Serve
from tests.watching import Witness, descendants, eventually, open_files, processes
from tests.wirepeer import WirePeer
from tftp.client import Client
from tftp.errors import PeerError
from tftp.events import (
    Outcome,
    Request,
    RequestReceived,
    RequestRefused,
    TransferEnded,
    TransferStarted,
)
from tftp.options import Terms
from tftp.packets import Ack, Data, Error, OptionAck
from tftp.server import Server
from tftp.server.processes import ProcessEngine
from tftp.storage import Directory
from tftp.storage.base import Sink, Source

CONTENT = bytes(range(256)) * 1200


def is_alive(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except (FileNotFoundError, ProcessLookupError):
        return False
    return state != "Z"


@pytest.fixture(autouse=True)
def no_process_is_left() -> Iterator[None]:
    before = descendants()
    yield
    assert eventually(lambda: descendants() <= before), descendants() - before


@pytest.fixture
def root(tmp_path: Path) -> Path:
    (tmp_path / "file").write_bytes(CONTENT)
    (tmp_path / "empty").write_bytes(b"")
    return tmp_path


def serve_processes(
    serve: Serve, root: Path, *, engine: ProcessEngine | None = None, **config: Any
) -> Server:
    storage = Directory(root, writable=True, overwrite=True)
    return serve(storage, engine=engine or ProcessEngine(warm=2), **config)


def fetch(server: Server, name: str = "file", terms: Terms | None = None) -> bytes:
    with Client(*server.address[:2], terms=terms) as client:
        got = bytearray()
        client.get(name, got)
        return bytes(got)


@pytest.mark.parametrize(
    "terms", [None, Terms(), Terms(blksize=1428, windowsize=16), Terms(blksize=65464)]
)
def test_files_come_and_go_whole(serve: Serve, root: Path, terms: Terms | None) -> None:
    server = serve_processes(serve, root)
    assert fetch(server, terms=terms) == CONTENT
    with Client(*server.address[:2], terms=terms) as client:
        client.put(CONTENT[::-1], "up")
    assert (root / "up").read_bytes() == CONTENT[::-1]


def test_a_refusal_comes_from_the_port_that_was_asked(serve: Serve, root: Path) -> None:
    server = serve_processes(serve, root)
    with WirePeer(server.address) as peer:
        peer.rrq("missing")
        error = peer.receive()
        assert isinstance(error, Error)
        assert error.code == 1
        assert peer.tid == server.address


def test_the_events_are_those_of_any_server(serve: Serve, root: Path, witness: Witness) -> None:
    server = serve_processes(serve, root)
    fetch(server, terms=Terms(blksize=1024, tsize=0))
    ended = witness.wait(TransferEnded)
    assert witness.kinds[0] == "RequestReceived"
    assert witness.kinds[1] == "TransferStarted"
    assert ended.outcome is Outcome.DONE
    assert ended.granted == {"tsize": str(len(CONTENT)), "blksize": "1024"}
    assert ended.counters.payload == len(CONTENT)
    assert ended.counters.blocks == len(CONTENT) // 1024 + 1
    with pytest.raises(PeerError):
        fetch(server, "missing")
    assert witness.wait(RequestRefused).error.code == 1


def test_each_of_many_clients_has_a_process_to_itself(
    serve: Serve, root: Path, witness: Witness
) -> None:
    server = serve_processes(serve, root)
    before = descendants()
    peers = [WirePeer(server.address) for _ in range(10)]
    for peer in peers:
        peer.rrq("file")
    for peer in peers:
        assert isinstance(peer.receive(), Data)
    assert server.running == 10
    assert eventually(lambda: len(descendants() | before) >= 11)
    for peer in peers:
        peer.send(Error(0, "enough"))
        peer.close()
    witness.wait(TransferEnded, 10)


@pytest.mark.parametrize("children", [1, 2, 4])
def test_who_waits_for_a_place_has_it_from_one_that_only_stays_for_its_last_ack(
    serve: Serve, root: Path, witness: Witness, children: int
) -> None:
    # Each child is replaced after its upload, and would stay for longer than any test waits.
    server = serve(
        Directory(root, writable=True),
        engine=ProcessEngine(children=children, warm=1, recycle=1),
        patience=replace(CALM, dally=600.0),
    )
    for number in range(8):
        with WirePeer(server.address) as peer:
            peer.write(b"all", f"new{number}")
    assert [witness.outcome(count) for count in range(1, 9)] == [Outcome.DONE] * 8
    with ExitStack() as stack:
        readers = [stack.enter_context(WirePeer(server.address)) for _ in range(8)]
        for reader in readers:
            reader.rrq("new0")
        for reader in readers:
            assert reader.collect() == b"all"


def test_children_interrupt_nobody_and_the_engine_waits_for_none_of_them(
    serve: Serve, root: Path
) -> None:
    assert fetch(serve_processes(serve, root)) == CONTENT
    (nursery,) = processes()
    children = processes(nursery)
    assert children
    assert {os.sched_getscheduler(pid) for pid in children} == {os.SCHED_BATCH}
    assert os.sched_getscheduler(0) == os.SCHED_OTHER


def test_more_clients_than_children_wait_for_their_turn(serve: Serve, root: Path) -> None:
    server = serve_processes(serve, root, engine=ProcessEngine(children=1))
    with WirePeer(server.address) as first, WirePeer(server.address) as second:
        first.rrq("empty")
        assert first.receive() == Data(1)
        second.rrq("file")
        assert second.silent(0.1)
        first.send(Ack(1))
        assert isinstance(second.receive(), Data)
        second.send(Error(0, "enough"))


def test_a_request_that_waits_for_a_child_is_told_of_when_it_comes_and_once(
    serve: Serve, root: Path, witness: Witness
) -> None:
    server = serve_processes(serve, root, engine=ProcessEngine(children=1))
    with WirePeer(server.address) as first, WirePeer(server.address) as second:
        first.rrq("empty")
        assert first.receive() == Data(1)
        second.rrq("empty")
        second.rrq("empty")
        received = witness.wait(RequestReceived, 2)
        assert (received.transfer, received.request.peer) == (2, second.address)
        first.send(Ack(1))
        assert second.receive() == Data(1)
        second.send(Ack(1))
        assert witness.wait(TransferEnded, 2).transfer == 2
    numbers = [event.transfer for event in witness.all(RequestReceived)]
    assert sorted(set(numbers)) == sorted(numbers)
    assert numbers[:2] == [1, 2]


def test_who_asks_for_something_else_while_it_waits_gets_that(
    serve: Serve, root: Path, witness: Witness
) -> None:
    server = serve_processes(serve, root, engine=ProcessEngine(children=1))
    with WirePeer(server.address) as first, WirePeer(server.address) as second:
        first.rrq("empty")
        assert first.receive() == Data(1)
        second.rrq("file")
        second.rrq("empty", tsize=0)
        displaced = witness.wait(RequestRefused)
        assert (displaced.transfer, displaced.request.filename) == (2, b"file")
        assert displaced.error.message == "replaced by a new request of the same client"
        first.send(Ack(1))
        assert second.receive() == OptionAck({"tsize": "0"})
        second.send(Ack(0))
        assert second.receive() == Data(1)
        second.send(Ack(1))
        assert witness.wait(TransferEnded, 2).transfer == 3
    assert [event.transfer for event in witness.all(RequestReceived)] == [1, 2, 3]


def test_too_many_that_wait_are_told_that_the_server_is_busy(serve: Serve, root: Path) -> None:
    server = serve_processes(serve, root, engine=ProcessEngine(children=1), queue_size=1)
    peers = [WirePeer(server.address) for _ in range(3)]
    peers[0].rrq("file")
    assert isinstance(peers[0].receive(), Data)
    peers[1].rrq("file")
    assert peers[1].silent(0.1)
    peers[2].rrq("file")
    error = peers[2].receive()
    assert isinstance(error, Error)
    assert "busy" in error.message
    for peer in peers:
        peer.close()


def test_a_child_is_replaced_after_the_transfers_it_may_serve(
    serve: Serve, root: Path, witness: Witness
) -> None:
    server = serve_processes(serve, root, engine=ProcessEngine(children=1, recycle=1))
    pids = []
    for number in range(1, 4):
        assert eventually(lambda: len(descendants()) >= 2)
        with WirePeer(server.address) as peer:
            peer.rrq("empty")
            assert peer.receive() == Data(1)
            (pid,) = descendants() - processes()
            pids.append(pid)
            peer.send(Ack(1))
        witness.wait(TransferEnded, number)
        assert eventually(lambda: not is_alive(pids[-1]))
    assert len(set(pids)) == 3


def test_a_killed_child_costs_its_own_transfer_alone(
    serve: Serve, root: Path, witness: Witness
) -> None:
    server = serve_processes(serve, root, engine=ProcessEngine(children=2, warm=1))
    with WirePeer(server.address) as victim, WirePeer(server.address) as other:
        victim.rrq("file", tsize=0)
        assert isinstance(victim.receive(), OptionAck)
        idle = descendants()
        other.rrq("file", tsize=0)
        assert isinstance(other.receive(), OptionAck)
        port = victim.tid
        (pid,) = [pid for pid in idle - processes() if has_port(pid, port[1])]
        os.kill(pid, signal.SIGKILL)
        # The client is told, from the port that it listens to.
        error = victim.receive()
        while isinstance(error, OptionAck):  # Half a second may have passed.
            error = victim.receive()
        assert isinstance(error, Error)
        assert victim.tid == port
        ended = witness.wait(TransferEnded)
        assert ended.outcome is Outcome.CRASHED
        assert ended.error is not None
        assert f"{pid} was killed by SIGKILL" in ended.error.message
        # The other one does not notice.
        other.send(Ack(0))
        assert isinstance(other.receive(), Data)
        other.send(Error(0, "enough"))
    # And the place is filled again.
    assert fetch(server) == CONTENT


def has_port(pid: int, port: int) -> bool:
    """Whether a process has the UDP port open."""
    lines = Path("/proc/net/udp").read_text().splitlines()[1:]
    inodes = {
        line.split()[9] for line in lines if int(line.split()[1].rpartition(":")[2], 16) == port
    }
    links = open_files(pid)
    return any(f"socket:[{inode}]" in links for inode in inodes)


class Treacherous:
    """A storage that ends the process that opens the name "exit", and hangs it at "hang"."""

    def __init__(self, root: Path) -> None:
        self._directory = Directory(root)

    def open_read(self, request: Request) -> Source:
        if request.filename == b"exit":
            os._exit(3)
        if request.filename == b"hang":
            signal.pause()
        return self._directory.open_read(request)

    def open_write(self, request: Request) -> Sink:
        return self._directory.open_write(request)


def test_a_child_that_dies_of_a_request_is_reported_with_its_status(
    serve: Serve, root: Path, witness: Witness
) -> None:
    server = serve(Treacherous(root), engine=ProcessEngine(warm=1))
    with WirePeer(server.address) as peer:
        peer.rrq("exit")
        assert isinstance(peer.receive(), Error)
    ended = witness.wait(TransferEnded)
    assert ended.outcome is Outcome.CRASHED
    assert ended.error is not None
    assert "exited with status 3" in ended.error.message
    assert [received.transfer for received in witness.all(RequestReceived)] == [ended.transfer]
    assert fetch(server) == CONTENT


def test_a_child_that_hangs_is_killed_and_replaced(
    serve: Serve, root: Path, witness: Witness
) -> None:
    server = serve(Treacherous(root), engine=ProcessEngine(children=1, hang_after=0.3))
    with WirePeer(server.address) as peer:
        peer.rrq("hang")
        assert isinstance(peer.receive(), Error)
    assert witness.wait(TransferEnded).outcome is Outcome.CRASHED
    assert fetch(server) == CONTENT


def test_children_are_born_again_when_their_parent_was_killed(serve: Serve, root: Path) -> None:
    server = serve_processes(serve, root)
    assert fetch(server) == CONTENT
    (nursery,) = processes()
    os.kill(nursery, signal.SIGKILL)
    assert eventually(lambda: bool(processes() - {nursery}))
    assert fetch(server) == CONTENT


class AtHome:
    """A storage that comes into no other process as long as a file is there, and notes each try."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.home = os.getpid()

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        if (self.root / "endless").exists():
            signal.pause()
        if (self.root / "closed").exists():
            with (self.root / "tries").open("a") as tries:
                tries.write("x")
            raise ImportError("it stays at home")

    def open_read(self, request: Request) -> Source:
        return Directory(self.root).open_read(request)

    def open_write(self, request: Request) -> Sink:
        return Directory(self.root).open_write(request)


def test_processes_that_can_not_start_are_an_error_of_the_start(
    root: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    (root / "closed").touch()
    before, born_before = set(threading.enumerate()), processes()
    server = Server(AtHome(root), engine=ProcessEngine())
    for _ in range(2):
        with pytest.raises(RuntimeError, match=r"could not start: .* ended with status 1"):
            server.start()
    assert set(threading.enumerate()) <= before
    assert processes() <= born_before
    assert "it stays at home" in capfd.readouterr().err
    (root / "closed").unlink()
    with server:
        assert fetch(server) == CONTENT


def test_processes_that_hang_when_they_start_are_an_error_of_the_start(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tftp.server.crew.BOOT", 0.5)
    (root / "endless").touch()
    born_before = processes()
    with pytest.raises(RuntimeError, match="could not start"):
        Server(AtHome(root), engine=ProcessEngine()).start()
    assert processes() <= born_before


def test_a_request_is_told_of_though_the_child_that_has_it_does_not_move(
    serve: Serve, root: Path, witness: Witness
) -> None:
    server = serve_processes(serve, root, engine=ProcessEngine(children=1, hang_after=0.5))
    assert fetch(server) == CONTENT
    witness.wait(TransferEnded)
    (nursery,) = processes()
    for child in processes(nursery):
        os.kill(child, signal.SIGSTOP)
    with WirePeer(server.address) as peer:
        peer.rrq("file")
        assert witness.wait(RequestReceived, 2).request.peer == peer.address
        assert server.running == 1
        # It is killed when it has been still for too long, and another one serves.
        assert peer.collect() == CONTENT


def test_a_nursery_that_can_not_start_again_is_tried_now_and_then(serve: Serve, root: Path) -> None:
    server = serve(AtHome(root), engine=ProcessEngine(warm=1))
    assert fetch(server) == CONTENT
    (root / "closed").touch()
    (nursery,) = processes()
    os.kill(nursery, signal.SIGKILL)
    assert eventually((root / "tries").exists)
    with WirePeer(server.address) as peer:
        peer.rrq("file")
        assert eventually(lambda: len((root / "tries").read_text()) >= 3)
        (root / "closed").unlink()
        assert peer.collect() == CONTENT, "who asked meanwhile has waited"


_MAIN = """
import sys
from tftp.server import Server
from tftp.server.processes import ProcessEngine
from tftp.server.supervisor import Supervisor

def rule(request):
    return request

if sys.argv[2] == "workers":
    server = Supervisor(sys.argv[1], policy=[rule])
else:
    server = Server(sys.argv[1], policy=[rule], engine=ProcessEngine())
server.start()
"""


@pytest.mark.parametrize("kind", ["processes", "workers"])
def test_a_rule_of_the_main_script_is_refused_with_the_remedy(root: Path, kind: str) -> None:
    done = subprocess.run(
        [sys.executable, "-c", _MAIN, str(root), kind], capture_output=True, text=True, check=False
    )
    assert done.returncode == 1
    assert "TypeError: a storage and rules for other processes must be picklable: rule" in (
        done.stderr
    )
    assert "put it into a module of its own" in done.stderr


_PROGRAM = """
import sys
from tftp.server import Server
from tftp.server.processes import ProcessEngine
with Server(sys.argv[1], engine=ProcessEngine(warm=3)) as server:
    print(*server.address[:2], flush=True)
    sys.stdin.read()
"""


def test_no_orphan_survives_a_server_that_was_killed(root: Path) -> None:
    with subprocess.Popen(
        [sys.executable, "-c", _PROGRAM, str(root)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout is not None
        host, port = process.stdout.readline().split()
        with WirePeer((host, int(port))) as peer:
            peer.rrq("file")
            assert isinstance(peer.receive(), Data)
        below = descendants(process.pid)
        assert len(below) >= 2
        process.kill()
        process.wait()
        assert eventually(lambda: not any(map(is_alive, below)))


def test_a_repeated_request_starts_nothing_new(serve: Serve, root: Path, witness: Witness) -> None:
    server = serve_processes(serve, root)
    with WirePeer(server.address) as peer:
        for _ in range(9):
            peer.rrq("empty", tsize=0)
        assert isinstance(peer.receive(), OptionAck)
        tid = peer.tid
        peer.send(Ack(0), tid)
        while (packet := peer.receive()) != Data(1):
            assert packet == OptionAck({"tsize": "0"})
        assert peer.tid == tid
        peer.send(Ack(1))
        witness.wait(TransferEnded)
        assert len(witness.all(TransferStarted)) == 1
    assert eventually(lambda: server.running == 0)


def test_another_request_from_the_same_port_takes_the_place_of_the_first(
    serve: Serve, root: Path, witness: Witness
) -> None:
    server = serve_processes(serve, root)
    with WirePeer(server.address) as peer:
        peer.rrq("file")
        assert isinstance(peer.receive(), Data)
        peer.rrq("empty")
        assert peer.receive() == Data(1)
        peer.send(Ack(1))
        assert witness.wait(TransferEnded, 1).outcome is Outcome.ABORTED
        assert witness.wait(TransferEnded, 2).outcome is Outcome.DONE
        assert peer.drain() == []
    assert eventually(lambda: server.running == 0)


def test_an_upload_leaves_its_child_free_for_the_next_one(serve: Serve, root: Path) -> None:
    server = serve_processes(serve, root, engine=ProcessEngine(children=1))
    with Client(*server.address[:2]) as client:
        for number in range(5):
            client.put(CONTENT, f"up{number}")
    assert (root / "up4").read_bytes() == CONTENT


def test_single_port_mode_serves_all_through_the_port_that_was_asked(
    serve: Serve, root: Path
) -> None:
    server = serve_processes(serve, root, single_port=True)
    with WirePeer(server.address) as peer:
        peer.rrq("empty")
        assert peer.receive() == Data(1)
        assert peer.tid == server.address
        peer.send(Ack(1))
    assert fetch(server, terms=Terms(blksize=1024, windowsize=4)) == CONTENT


def test_stop_lets_a_running_transfer_end_and_then_leaves_no_process(
    serve: Serve, root: Path, witness: Witness
) -> None:
    server = serve_processes(serve, root)
    with WirePeer(server.address) as peer:
        peer.rrq("file")
        assert isinstance(peer.receive(), Data)
        server.stop()
        error = peer.receive()
        assert isinstance(error, Error)
    assert witness.wait(TransferEnded).outcome is Outcome.ABORTED
    assert eventually(lambda: not descendants())


def test_what_can_not_go_to_another_process_says_so_at_the_start(root: Path) -> None:
    server = Server(root, engine=ProcessEngine(), policy=[lambda request: request])
    with pytest.raises(TypeError, match="picklable"):
        server.start()


@pytest.mark.parametrize("numbers", [{"children": 0}, {"warm": 0}, {"recycle": 0}])
def test_numbers_below_one_are_refused(numbers: dict[str, int]) -> None:
    with pytest.raises(ValueError, match="at least 1"):
        ProcessEngine(**numbers)


def test_in_single_port_mode_the_last_ack_is_repeated_for_who_missed_it(
    serve: Serve, root: Path, witness: Witness
) -> None:
    server = serve_processes(serve, root, single_port=True)
    with WirePeer(server.address) as peer:
        peer.write(b"all", "new")
        witness.wait(TransferEnded)

        def is_answered() -> bool:
            peer.send(Data(1, b"all"))
            return not peer.silent(0.02)

        # A repeat that comes at once is taken for a copy, so it has to be said until it is late.
        assert eventually(is_answered)
        assert peer.receive() == Ack(1)
