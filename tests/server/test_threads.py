"""The threaded engine: its queue, its limits, its threads, and one port for all transfers."""

import os
import resource
import select
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.networks import two_hosts
from tests.server.conftest import Serve
from tests.server.storages import Gate, Scripted, failing
from tests.watching import Witness, descriptors, eventually, threads
from tests.wirepeer import PATIENCE, WirePeer, error_code
from tftp.blocks import on_wire
from tftp.errors import ErrorCode
from tftp.events import (
    Address,
    Outcome,
    Request,
    RequestReceived,
    RequestRefused,
    TransferEnded,
    TransferStarted,
)
from tftp.net import kernel
from tftp.net.endpoint import SharedEndpoint
from tftp.packets import Ack, Data, Error, OptionAck
from tftp.server import Server, ServerConfig, ThreadEngine
from tftp.storage import Directory, Memory
from tftp.storage.base import Source
from tftp.timers import Patience

CONTENT = bytes(range(256)) * 40 + b"end"


@pytest.fixture
def root(tmp_path: Path) -> Path:
    folder = tmp_path / "root"
    folder.mkdir()
    (folder / "file").write_bytes(CONTENT)
    return folder


# -- the threads ----------------------------------------------------------------------------------


@pytest.mark.parametrize("count", [1, 2, 5])
def test_transfers_run_in_as_many_threads_as_were_asked_for(
    serve: Serve, witness: Witness, count: int
) -> None:
    used: set[str] = set()
    storage = Scripted(CONTENT, open_read=lambda: used.add(threading.current_thread().name))
    server = serve(storage, engine=ThreadEngine(count))
    assert len(threads() - {"tftp-listener"}) == count
    peers = [WirePeer(server.address) for _ in range(40)]
    for peer in peers:
        peer.rrq("file", tsize=0)
    for peer in peers:
        assert isinstance(peer.receive(), OptionAck)
        peer.send(Ack(0))
        assert peer.collect() == CONTENT
        peer.close()
    witness.wait(TransferEnded, 40)
    # 40 clients never all go to one of several threads.
    assert (len(used) > 1) == (count > 1)
    assert len(used) <= count


def test_an_engine_has_a_thread_at_least() -> None:
    with pytest.raises(ValueError, match="at least one"):
        ThreadEngine(0)


def test_a_client_stays_with_one_thread(serve: Serve, witness: Witness) -> None:
    used: list[str] = []
    storage = Scripted(CONTENT, open_read=lambda: used.append(threading.current_thread().name))
    with WirePeer(serve(storage, engine=ThreadEngine(4)).address) as peer:
        for _ in range(10):
            peer.read("file")
    assert len(used) == 10
    assert len(set(used)) == 1


def test_an_engine_that_was_stopped_starts_again(root: Path) -> None:
    engine = ThreadEngine(2)
    for _ in range(3):
        with Server(Directory(root), engine=engine) as server:
            assert server.running == 0
            with WirePeer(server.address) as peer:
                assert peer.read("file") == CONTENT
    assert engine.running == 0


# -- the queue and the limit ----------------------------------------------------------------------


def test_a_full_queue_says_busy_once_and_the_others_are_served(
    serve: Serve, witness: Witness
) -> None:
    gate = Gate()
    storage = Scripted(CONTENT, open_read=gate)
    server = serve(storage, queue_size=3, engine=ThreadEngine(2))
    peers = [WirePeer(server.address) for _ in range(60)]
    for peer in peers[:24]:
        peer.rrq("file")
    assert eventually(lambda: storage.count("open_read") == 2)
    for peer in peers[24:]:
        peer.rrq("file")  # Each thread has taken one and waits, and three more wait for each.
    refused = [witness.wait(RequestRefused, count) for count in range(1, 53)]
    gate.open()
    witness.wait(TransferStarted, 8)
    turned_away = {event.request.peer for event in refused}
    assert len(turned_away) == 52
    assert len({event.transfer for event in refused}) == 52
    for peer in peers:
        if peer.address not in turned_away:
            assert peer.collect() == CONTENT
            continue
        answer = peer.receive()
        assert isinstance(answer, Error)
        assert answer.code == 0
        assert "busy" in answer.message
        assert peer.tid == server.address
        assert peer.drain() == []
    for peer in peers:
        peer.close()
    assert len(witness.all(TransferStarted)) == 8


@pytest.mark.parametrize(
    "count",
    [1, 2],
)
def test_the_most_transfers_at_once_are_those_of_all_threads_together(
    serve: Serve, root: Path, count: int
) -> None:
    server = serve(Directory(root), engine=ThreadEngine(count), max_transfers=3)
    peers = [WirePeer(server.address) for _ in range(30)]
    for peer in peers:
        peer.rrq("file")
    answers = [peer.receive() for peer in peers]
    for peer in peers:
        peer.close()
    assert sum(isinstance(answer, Data) for answer in answers) == 3


def test_a_storage_that_makes_the_only_thread_wait_makes_nobody_wait_for_an_answer(
    serve: Serve, witness: Witness
) -> None:
    gate = Gate()
    server = serve(Scripted(CONTENT, open_read=gate), queue_size=3)
    peers = [WirePeer(server.address) for _ in range(8)]
    peers[0].rrq("file")
    gate.wait()  # The thread has taken the first from the queue, and waits.
    for peer in peers[1:]:
        peer.rrq("file")
    for peer in peers[4:]:
        assert error_code(peer.receive()) == 0
    gate.open()
    for peer in peers[:4]:
        assert peer.collect() == CONTENT
    for peer in peers:
        peer.close()
    assert len(witness.all(RequestRefused)) == 4


def test_a_directory_is_served_by_the_thread_that_listens(serve: Serve, root: Path) -> None:
    serve(Directory(root))
    assert threads() == {"tftp-reactor-0"}


def test_beyond_the_most_transfers_at_once_the_server_is_busy(
    serve: Serve, witness: Witness, root: Path
) -> None:
    server = serve(Directory(root), max_transfers=3)
    peers = [WirePeer(server.address) for _ in range(4)]
    for peer in peers[:3]:
        peer.rrq("file")
        assert peer.receive() == Data(1, CONTENT[:512])
    assert server.running == 3
    peers[3].rrq("file")
    answer = peers[3].receive()
    assert error_code(answer) == 0
    assert "busy" in str(answer)
    assert "busy" in witness.wait(RequestRefused).error.message
    # Who runs may ask for something else all the same.
    peers[0].rrq("file", tsize=0)
    assert isinstance(peers[0].receive(), OptionAck)
    # And when one has ended there is room.
    peers[1].send(Error(0, "enough"))
    witness.wait(TransferEnded, 2)
    assert peers[3].read("file") == CONTENT
    for peer in peers:
        peer.close()


def test_an_upload_that_is_done_and_stays_for_its_last_ack_makes_room(
    serve: Serve, witness: Witness, root: Path
) -> None:
    server = serve(Directory(root, writable=True), max_transfers=1, patience=Patience(dally=60.0))
    with WirePeer(server.address) as writer, WirePeer(server.address) as reader:
        writer.write(b"all", "new")
        tid = writer.tid
        assert eventually(lambda: answers(writer, tid))  # It does stay.
        assert server.running == 0
        assert reader.read("file") == CONTENT
        # Now it is gone, and its port with it.
        writer.sock.connect(tid)
        writer.sock.send(Data(1, b"all").encode())
        with pytest.raises(ConnectionRefusedError):
            writer.sock.recv(100)
    assert [witness.outcome(count) for count in (1, 2)] == [Outcome.DONE] * 2


def answers(writer: WirePeer, tid: Address) -> bool:
    """Whether the last block, sent again, is acknowledged again."""
    writer.send(Data(1, b"all"), tid)
    return not writer.silent(0.05) and writer.receive() == Ack(1)


# -- storages that wait or fail -------------------------------------------------------------------


@pytest.mark.parametrize("operation", ["rrq", "wrq"])
@pytest.mark.parametrize("error", [FileNotFoundError(), PermissionError(), RuntimeError("x")])
@pytest.mark.parametrize("slowly", [False, True])
def test_a_storage_that_fails_at_any_step_costs_one_transfer(
    serve: Serve, witness: Witness, operation: str, error: Exception, slowly: bool
) -> None:
    steps = {
        "rrq": ("open_read", "read_into", "close"),
        "wrq": ("open_write", "write", "commit", "discard"),
    }[operation]
    storage = Scripted(CONTENT, commits_slowly=slowly)
    before = descriptors()
    server = serve(storage)
    for step in steps:
        storage.before = {step: failing(error)}
        with WirePeer(server.address) as peer:
            if operation == "rrq":
                peer.rrq("file")
                answer = peer.receive()
                if step == "close":
                    assert answer == Data(1, CONTENT[:512])
                    peer.send(Error(0, "enough"))
                else:
                    assert isinstance(answer, Error)
            else:
                peer.wrq("file")
                answer = peer.receive()
                if step == "discard":
                    peer.send(Error(0, "enough"))
                elif step != "open_write":
                    assert answer == Ack(0)
                    peer.send(Data(1, b"all"))
                    assert isinstance(peer.receive(), Error)
                else:
                    assert isinstance(answer, Error)
    storage.before = {}
    with WirePeer(server.address) as peer:
        assert peer.read("file") == CONTENT
        peer.write(b"all", "file")
    assert eventually(lambda: server.running == 0)
    server.stop()
    assert descriptors() <= before
    assert len(witness.all(RequestRefused)) == 1
    assert len(witness.all(TransferEnded)) == len(steps) - 1 + 2


def test_a_storage_that_fails_when_the_server_stops_does_not_hold_it_up(
    serve: Serve, witness: Witness
) -> None:
    storage = Scripted(
        CONTENT, close=failing(RuntimeError("x")), discard=failing(RuntimeError("x"))
    )
    server = serve(storage)
    with WirePeer(server.address) as reader, WirePeer(server.address) as writer:
        reader.rrq("file")
        reader.receive()
        writer.wrq("file")
        writer.receive()
        began = time.monotonic()
        server.stop()
        assert time.monotonic() - began < 5.0
        assert error_code(reader.receive()) == 0
        assert error_code(writer.receive()) == 0
    assert [event.outcome for event in witness.all(TransferEnded)] == [Outcome.ABORTED] * 2


class Hurt:
    """A source without an end, which fails when it is read for the first time."""

    size = None

    def read_into(self, slots: object, offset: int) -> int:
        raise ZeroDivisionError

    def close(self) -> None:
        """Nothing is open."""


class HurtOnce(Memory):
    """A storage whose first file can not even be begun."""

    first = True

    def open_read(self, request: Request) -> Source:
        if self.first:
            self.first = False
            return Hurt()
        return super().open_read(request)


@pytest.mark.parametrize("single_port", [False, True])
def test_a_source_that_fails_before_its_first_block_is_no_transfer_for_ever(
    serve: Serve, witness: Witness, caplog: pytest.LogCaptureFixture, single_port: bool
) -> None:
    server = serve(HurtOnce({"file": CONTENT}), max_transfers=1, single_port=single_port)
    with WirePeer(server.address) as peer:
        peer.rrq("file")
        assert peer.receive() == Error(0, "internal error")
        assert eventually(lambda: server.running == 0)
        assert peer.read("file") == CONTENT
    assert "ZeroDivisionError" in caplog.text
    assert witness.outcome() is Outcome.STORAGE_ERROR


# -- one port for all -----------------------------------------------------------------------------


def test_in_single_port_mode_many_transfers_run_side_by_side(
    serve: Serve, witness: Witness, tmp_path: Path
) -> None:
    storage = Directory(tmp_path, writable=True)
    contents = {f"file{number}": os.urandom(3000 + number) for number in range(12)}
    for name, content in contents.items():
        (tmp_path / name).write_bytes(content)
    before = descriptors()
    server = serve(storage, single_port=True)
    # As many readers as writers, in lock-step and with windows, all of them one block at a time.
    clients = [
        Client(server.address, name, content, number)
        for number, (name, content) in enumerate(contents.items())
    ]
    assert (descriptors() - before)["socket"] == len(clients) + 1
    running = list(clients)
    stray = WirePeer(server.address)
    until = time.monotonic() + PATIENCE
    while running:
        assert time.monotonic() < until
        stray.send(Ack(1))
        assert error_code(stray.receive()) == ErrorCode.UNKNOWN_TID
        for client in list(running):
            if client.step():
                running.remove(client)
    for client in clients:
        if client.reads:
            assert bytes(client.came) == client.content
        else:
            assert (tmp_path / f"up-{client.name}").read_bytes() == client.content
        assert client.senders == {server.address}
        client.peer.close()
    stray.close()
    for count in range(1, 13):
        assert witness.outcome(count) is Outcome.DONE
    assert len(witness.all(RequestReceived)) == 12


class Client:
    """A reader or a writer that goes a step at a time."""

    def __init__(self, server: Address, name: str, content: bytes, number: int) -> None:
        self.peer = WirePeer(server)
        self.name = name
        self.content = content
        self.reads = number % 2 == 0
        self.windowsize = (1, 4)[number // 2 % 2]
        self.block = 0
        self.came = bytearray()
        self.senders: set[Address] = set()
        if self.reads:
            self.peer.rrq(name, windowsize=self.windowsize)
        else:
            self.peer.wrq(f"up-{name}", windowsize=self.windowsize)

    def step(self) -> bool:
        """Take what comes next, and answer it; True at the end."""
        packet = self.peer.receive()
        self.senders.add(self.peer.tid)
        return self._read(packet) if self.reads else self._write(packet)

    def _read(self, packet: object) -> bool:
        match packet:
            case OptionAck():
                self.peer.send(Ack(0))
                return False
            case Data(number, payload):
                assert number == self.block + 1
                self.block = number
                self.came += payload
                last = len(payload) < 512
                if last or number % self.windowsize == 0:
                    self.peer.send(Ack(number))
                return last
        raise AssertionError(packet)

    def _write(self, packet: object) -> bool:
        last = len(self.content) // 512 + 1
        assert packet in (OptionAck({"windowsize": str(self.windowsize)}), Ack(self.block))
        if self.block == last:
            return True
        for block in range(self.block + 1, min(self.block + self.windowsize, last) + 1):
            self.peer.send(Data(block, self.content[(block - 1) * 512 : block * 512]))
            self.block = block
        return False


def test_in_single_port_mode_each_transfer_has_its_own_timer(
    serve: Serve, witness: Witness, root: Path
) -> None:
    patience = Patience(initial=0.05, floor=0.05, ceiling=0.1, total=0.5)
    server = serve(Directory(root), single_port=True, patience=patience)
    with WirePeer(server.address) as silent, WirePeer(server.address) as alive:
        silent.rrq("file")
        assert silent.receive() == Data(1, CONTENT[:512])
        silent.send(Ack(1))
        ends: list[TransferEnded] = []
        while not ends:  # While one waits in vain, the other gets file after file.
            assert alive.read("file") == CONTENT
            ends = [e for e in witness.all(TransferEnded) if e.request.peer == silent.address]
        assert ends[0].outcome is Outcome.TIMED_OUT
        *repeats, last = silent.drain()
        assert len(repeats) >= 3
        assert set(repeats) == {Data(2, CONTENT[512:1024])}
        assert isinstance(last, Error)
    assert len(witness.all(TransferEnded)) >= 2


def test_in_single_port_mode_strangers_are_told_so_and_errors_are_not_answered(
    serve: Serve, witness: Witness, root: Path
) -> None:
    server = serve(Directory(root), single_port=True)
    with WirePeer(server.address) as peer, WirePeer(server.address) as stranger:
        peer.rrq("file")
        assert peer.receive() == Data(1, CONTENT[:512])
        for packet in (Ack(1), Data(1, b"x"), OptionAck({})):
            stranger.send(packet)
            assert error_code(stranger.receive()) == ErrorCode.UNKNOWN_TID
        stranger.send(Error(0, "stop"))
        # The same port of another address is another client.
        with WirePeer(server.address, host="127.0.0.2", port=peer.address[1]) as twin:
            twin.send(Ack(1))
            assert error_code(twin.receive()) == ErrorCode.UNKNOWN_TID
        assert stranger.drain() == []
        peer.send(Ack(1))
        assert peer.receive() == Data(2, CONTENT[512:1024])
        peer.send(Error(0, "enough"))
        assert witness.outcome() is Outcome.PEER_ERROR
        assert witness.wait(TransferEnded).counters.datagrams_received == 2


def test_in_single_port_mode_a_full_queue_costs_time_alone(
    root: Path, witness: Witness, monkeypatch: pytest.MonkeyPatch
) -> None:
    blocked: list[int] = []
    real = SharedEndpoint.send_blocks

    def send_blocks(self: SharedEndpoint, octets: memoryview, size: int, peer: Address) -> int:
        sent = real(self, octets, size, peer)
        if sent < -(-len(octets) // size):
            blocked.append(sent)
        return sent

    monkeypatch.setattr(SharedEndpoint, "send_blocks", send_blocks)
    monkeypatch.setattr(kernel, "WANTED_BUFFER", 1 << 17)
    content = os.urandom(300_000)
    (root / "large").write_bytes(content)
    with two_hosts() as (left, right):
        left.tc("qdisc add dev wire root tbf rate 40mbit burst 3000 latency 10s")
        config = ServerConfig(hosts=("192.0.2.1",), single_port=True)
        server = Server(Directory(root), config=config, observers=[witness])
        left.call(server.start)
        try:
            peers = [
                WirePeer(server.address, sock=right.socket(("192.0.2.2", 0))) for _ in range(6)
            ]
            readers = [
                threading.Thread(
                    target=lambda peer=peer: results.append(
                        peer.read("large", blksize=1024, windowsize=64)
                    )
                )
                for peer in peers
            ]
            results: list[bytes] = []
            for reader in readers:
                reader.start()
            for reader in readers:
                reader.join(2 * PATIENCE)
            for peer in peers:
                peer.close()
        finally:
            server.stop()
    assert results == [content] * 6
    assert blocked
    assert {event.outcome for event in witness.all(TransferEnded)} == {Outcome.DONE}


# -- many at once ---------------------------------------------------------------------------------


@pytest.fixture
def many_descriptors() -> Iterator[None]:
    """As many as 500 clients and their transfers need, in this one process."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = 4096
    if soft < wanted:
        if hard != resource.RLIM_INFINITY and hard < wanted:
            pytest.skip(f"this process may have {hard} descriptors only")
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
    yield
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


@pytest.mark.usefixtures("many_descriptors")
def test_five_hundred_transfers_at_once_all_finish_fairly_and_in_little_memory(
    serve: Serve, witness: Witness, tmp_path: Path
) -> None:
    clients, size, blksize, windowsize = 500, 1 << 20, 8192, 2
    content = os.urandom(size)
    (tmp_path / "file").write_bytes(content)
    blocks = size // blksize + 1
    server = serve(Directory(tmp_path), max_transfers=clients)
    poll = select.epoll()
    readers = {}
    for _ in range(clients):
        reader = Reader(server.address, blksize, windowsize)
        readers[reader.sock.fileno()] = reader
        poll.register(reader.sock.fileno(), select.EPOLLIN)
    before = resident()
    for reader in readers.values():
        reader.ask()
    first_done: int | None = None
    laggard = blocks
    done = 0
    until = time.monotonic() + 50
    while done < clients:
        assert time.monotonic() < until, f"{done} of {clients} are done"
        for descriptor, _ in poll.poll(0.5):
            reader = readers[descriptor]
            if reader.take():
                done += 1
                if first_done is None:
                    first_done = done
                    laggard = min(other.block for other in readers.values())
    grown = resident() - before
    for reader in readers.values():
        assert reader.total == size
        reader.sock.close()
    poll.close()
    # When the first has its file, the last has a third of it at least.
    assert laggard >= blocks // 3, f"{laggard} of {blocks} blocks"
    assert grown < 100 << 20
    witness.wait(TransferEnded, clients)
    assert {event.outcome for event in witness.all(TransferEnded)} == {Outcome.DONE}
    assert sum(event.counters.payload for event in witness.all(TransferEnded)) == clients * size


class Reader:
    """A client that counts what it reads; lost blocks are the server's affair."""

    def __init__(self, server: Address, blksize: int, windowsize: int) -> None:
        self.sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self.sock.bind(("127.0.0.1", 0))
        self.sock.setblocking(False)
        self.block = 0
        self.total = 0
        self._server = server
        self._blksize = blksize
        self._windowsize = windowsize

    def ask(self) -> None:
        words = ("file", "octet", "blksize", self._blksize, "windowsize", self._windowsize)
        self.sock.sendto(b"\0\1" + b"".join(f"{word}\0".encode() for word in words), self._server)

    def take(self) -> bool:
        """Take what has come; True at the end."""
        while True:
            try:
                datagram, sender = self.sock.recvfrom(self._blksize + 4)
            except BlockingIOError:
                return False
            if datagram[1] == 6:
                self.sock.sendto(Ack(0).encode(), sender)
            elif datagram[2:4] == on_wire(self.block + 1, 0).to_bytes(2, "big"):
                self.block += 1
                self.total += len(datagram) - 4
                last = len(datagram) - 4 < self._blksize
                if last or self.block % self._windowsize == 0:
                    self.sock.sendto(Ack(self.block).encode(), sender)
                if last:
                    return True


def resident() -> int:
    """Octets of memory that this process has in use."""
    with open("/proc/self/statm") as file:  # noqa: PTH123
        return int(file.read().split()[1]) * resource.getpagesize()
