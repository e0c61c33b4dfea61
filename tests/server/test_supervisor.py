"""The supervisor: several servers that look like one, and survive one another."""

import os
import signal
import socket
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.arrangements import CALM
from tests.server.test_processes import CONTENT
from tests.watching import Witness, descendants, eventually, open_files
from tests.wirepeer import WirePeer
from tftp.client import Client
from tftp.errors import ErrorCode
from tftp.events import (
    Outcome,
    RequestReceived,
    RequestRefused,
    TransferEnded,
    TransferStarted,
)
from tftp.options import Terms
from tftp.packets import Data, Error
from tftp.server.config import ServerConfig
from tftp.server.supervisor import Supervisor
from tftp.storage import Directory

Supervise = Callable[..., Supervisor]


@pytest.fixture
def root(tmp_path: Path) -> Path:
    (tmp_path / "file").write_bytes(CONTENT)
    return tmp_path


@pytest.fixture
def supervise(root: Path, witness: Witness) -> Iterator[Supervise]:
    before = descendants()
    started: list[Supervisor] = []

    def start(workers: int = 2, **config: Any) -> Supervisor:
        supervisor = Supervisor(
            Directory(root, writable=True),
            config=ServerConfig(**{"patience": CALM} | config),
            workers=workers,
            observers=[witness],
        )
        supervisor.start()
        started.append(supervisor)
        return supervisor

    yield start
    for supervisor in started:
        supervisor.stop()
    assert eventually(lambda: descendants() <= before)


def fetch(supervisor: Supervisor, terms: Terms | None = None) -> bytes:
    with Client(*supervisor.address[:2], terms=terms) as client:
        got = bytearray()
        client.get("file", got)
        return bytes(got)


def test_clients_are_served_by_whatever_worker_they_meet(
    supervise: Supervise, root: Path, witness: Witness
) -> None:
    supervisor = supervise()
    assert len(supervisor.processes) == 2
    for _ in range(8):
        assert fetch(supervisor) == CONTENT
    with Client(*supervisor.address[:2]) as client:
        client.put(CONTENT, "up")
    assert (root / "up").read_bytes() == CONTENT
    witness.wait(TransferEnded, 9)
    numbers = [ended.transfer for ended in witness.all(TransferEnded)]
    assert sorted(numbers) == list(range(1, 10))
    assert supervisor.running == 0


def test_clients_are_dealt_out_among_the_workers(supervise: Supervise) -> None:
    supervisor = supervise()
    peers = [WirePeer(supervisor.address) for _ in range(24)]
    for peer in peers:
        peer.rrq("file")
        assert isinstance(peer.receive(), Data)
    busy = {pid for pid in supervisor.processes if open_udp_ports(pid) > 1}
    assert busy == set(supervisor.processes)
    for peer in peers:
        peer.close()


def test_workers_interrupt_nobody(supervise: Supervise) -> None:
    # Two of them and their clients on two processors: each that woke up stopped one of the others.
    for pid in supervise().processes:
        threads = [int(task.name) for task in Path(f"/proc/{pid}/task").iterdir()]
        assert {os.sched_getscheduler(thread) for thread in threads} == {os.SCHED_BATCH}


def open_udp_ports(pid: int) -> int:
    lines = Path("/proc/net/udp").read_text().splitlines()[1:]
    ports = {f"socket:[{line.split()[9]}]": line.split()[1] for line in lines}
    mine = set(map(ports.get, open_files(pid)))
    return len(mine - {None})


def test_a_refusal_is_told_too(supervise: Supervise, witness: Witness) -> None:
    supervisor = supervise()
    with WirePeer(supervisor.address) as peer:
        peer.rrq("missing")
        assert isinstance(peer.receive(), Error)
    assert witness.wait(RequestRefused).error.code == 1
    assert eventually(lambda: supervisor.running == 0)


def test_each_refusal_is_told_with_its_request_however_many_come_together(
    supervise: Supervise, witness: Witness
) -> None:
    supervisor = supervise()
    peers = [WirePeer(supervisor.address) for _ in range(40)]
    for index, peer in enumerate(peers):
        peer.rrq(f"missing-{index}")
        peer.send(b"\0\1no end", supervisor.address)
    for peer in peers:
        assert isinstance(peer.receive(), Error)
        peer.close()
    witness.wait(RequestRefused, 80)
    received, refused = witness.all(RequestReceived), witness.all(RequestRefused)
    asked = {event.transfer: event for event in received}
    assert {event.request.filename for event in received} == {
        f"missing-{index}".encode() for index in range(40)
    }
    assert len({event.transfer for event in refused}) == 80
    for event in refused:
        if event.error.code == ErrorCode.FILE_NOT_FOUND:
            came = asked.pop(event.transfer)
            assert came.request == event.request
            assert came.time <= event.time
        else:
            assert event.request.filename == b"no end"
    assert asked == {}


def test_a_worker_that_is_killed_loses_its_own_transfers_and_is_replaced(
    supervise: Supervise, witness: Witness
) -> None:
    supervisor = supervise()
    peers = [WirePeer(supervisor.address) for _ in range(16)]
    for peer in peers:
        peer.rrq("file")
        assert isinstance(peer.receive(), Data)
    witness.wait(TransferStarted, 16)
    victim, survivor = supervisor.processes
    mine = open_udp_ports(victim) - 1
    assert 0 < mine < 16
    os.kill(victim, signal.SIGKILL)
    witness.wait(TransferEnded, mine)
    crashed = witness.all(TransferEnded)
    assert {ended.outcome for ended in crashed} == {Outcome.CRASHED}
    assert all(ended.error and "killed by SIGKILL" in ended.error.message for ended in crashed)
    assert len(crashed) == mine
    assert eventually(lambda: len(set(supervisor.processes) - {victim}) == 2)
    assert survivor in supervisor.processes
    for _ in range(8):
        assert fetch(supervisor) == CONTENT
    for peer in peers:
        peer.close()


def test_a_port_that_is_taken_stops_the_whole_before_it_began(root: Path) -> None:
    before = descendants()
    with WirePeer(("127.0.0.1", 9)) as holder:
        port = holder.address[1]
        supervisor = Supervisor(root, config=ServerConfig(port=port), workers=2)
        with pytest.raises(OSError, match="in use") as caught:
            supervisor.start()
    assert caught.value.filename == f"127.0.0.1:{port}"
    assert eventually(lambda: descendants() <= before)


def test_a_worker_that_can_not_come_back_stops_the_whole(
    supervise: Supervise, witness: Witness
) -> None:
    supervisor = supervise(workers=1)
    port = supervisor.address[1]
    (victim,) = supervisor.processes
    os.kill(victim, signal.SIGSTOP)
    os.kill(victim, signal.SIGKILL)
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as holder:
        assert eventually(lambda: can_bind(holder, port))
        with pytest.raises(OSError, match="in use"):
            supervisor.serve_forever()


def can_bind(sock: socket.socket, port: int) -> bool:
    """Bind, unless the port's last owner is still being closed."""
    try:
        sock.bind(("127.0.0.1", port))
    except OSError:
        return False
    return True


def test_stop_reaches_all_workers(supervise: Supervise, witness: Witness) -> None:
    supervisor = supervise()
    with WirePeer(supervisor.address) as peer:
        peer.rrq("file")
        assert isinstance(peer.receive(), Data)
        supervisor.stop()
        assert isinstance(peer.receive(), Error)
    assert witness.wait(TransferEnded).outcome is Outcome.ABORTED
    with pytest.raises(RuntimeError, match="not running"):
        _ = supervisor.addresses
    with pytest.raises(RuntimeError, match="make another"):
        supervisor.start()


def test_a_drained_supervisor_lets_transfers_finish(supervise: Supervise, witness: Witness) -> None:
    supervisor = supervise()
    assert fetch(supervisor) == CONTENT
    supervisor.drain()
    assert witness.outcome() is Outcome.DONE
    assert supervisor.processes == []


def test_there_is_at_least_one_worker(root: Path) -> None:
    with pytest.raises(ValueError, match="at least one"):
        Supervisor(root, workers=0)


def test_a_worker_that_is_stuck_does_not_keep_the_server_from_stopping(
    supervise: Supervise, witness: Witness
) -> None:
    supervisor = supervise(1)
    with WirePeer(supervisor.address) as peer:
        peer.rrq("file")
        assert isinstance(peer.receive(), Data)
        witness.wait(TransferStarted)
        [worker] = supervisor.processes
        os.kill(worker, signal.SIGSTOP)
        supervisor.stop()
    assert [ended.outcome for ended in witness.all(TransferEnded)] == [Outcome.CRASHED]
