"""What the channel says of real servers, held against what their clients saw on the wire."""

import re
import select
import struct
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from types import MappingProxyType
from typing import Any

import pytest

from tests.monitor.conftest import FILES
from tests.monitor.deadly import Deadly
from tests.monitor.operating import ARRANGEMENTS, Operator, channel_of, watched
from tests.watching import eventually
from tests.wirepeer import PATIENCE, WirePeer, error_code
from tftp.monitor.board import Board
from tftp.packets import Ack, Data, Error, OptionAck, Packet
from tftp.server import Server, ServerConfig
from tftp.server.processes import ProcessEngine
from tftp.server.supervisor import Supervisor
from tftp.timers import Patience

#: No timer of a server fires as long as a test lasts: what is sent twice, a client has provoked.
UNHURRIED = Patience(initial=30.0, floor=30.0, ceiling=30.0, total=120.0)

CLIENTS = 200
UPLOAD = b"u" * 1300


class Client:
    """One of many clients; what it does depends on its number.

    Attributes:
        peer: its socket, which keeps all that it sent and received.
        requests: datagrams of those that it sent which were requests.
        errors: datagrams of those that came which refused it.
    """

    operation = "read"
    name = "medium"
    options: Mapping[str, int] = MappingProxyType({})

    def __init__(self, peer: WirePeer, number: int) -> None:
        self.peer = peer
        self.number = number
        self.requests = 1
        self.errors = 0

    @property
    def outcome(self) -> str | None:
        """How its transfer ends; None where there is none."""
        return "done"

    @property
    def payload(self) -> int:
        """Octets of the file that go over."""
        return len(FILES[self.name])

    def ask(self) -> None:
        """Send the request."""
        self.peer.rrq(self.name, "octet", **self.options)

    def begin(self) -> None:
        """Take the first answer, and show that somebody is there."""
        self.hear(Data(1, FILES[self.name][:512]))
        # What comes from elsewhere, to a port that somebody else has used before, is none of it.
        self.peer.sock.connect(self.peer.tid)
        self.peer.send(Ack(1))

    def finish(self) -> None:
        """All the rest."""
        self.hear(Data(2, FILES[self.name][512:1024]))
        self.peer.send(Ack(2))
        self.hear(Data(3, FILES[self.name][1024:]))
        self.peer.send(Ack(3))

    def hear(self, expected: Packet) -> None:
        assert self.peer.receive() == expected


class Negotiator(Client):
    """Asks for options, in windows."""

    name = "large"
    options = MappingProxyType({"blksize": 1024, "windowsize": 16, "tsize": 0})

    def begin(self) -> None:
        assert isinstance(self.peer.receive(), OptionAck)
        self.peer.sock.connect(self.peer.tid)
        self.peer.send(Ack(0))

    def finish(self) -> None:
        for block in range(1, len(FILES["large"]) // 1024 + 2):
            packet = self.peer.receive()
            assert isinstance(packet, Data)
            assert packet.block == block
            if block % 16 == 0 or len(packet.payload) < 1024:
                self.peer.send(Ack(block))


class Stutterer(Client):
    """Says everything twice."""

    def finish(self) -> None:
        self.hear(Data(2, FILES[self.name][512:1024]))
        for _ in range(3):
            self.peer.send(Ack(1))
        self.peer.send(Ack(2))
        self.hear(Data(3, FILES[self.name][1024:]))
        self.peer.send(Ack(2))
        self.peer.send(Ack(3))


class Uploader(Client):
    """Sends a file, each block twice."""

    operation = "write"

    @property
    def payload(self) -> int:
        return len(UPLOAD)

    def ask(self) -> None:
        self.name = f"upload-{self.number}"
        self.peer.wrq(self.name)

    def begin(self) -> None:
        self.hear(Ack(0))
        self.peer.sock.connect(self.peer.tid)
        self.peer.send(Data(1, UPLOAD[:512]))
        self.hear(Ack(1))

    def finish(self) -> None:
        self.peer.send(Data(1, UPLOAD[:512]))
        for block in (2, 3):
            data = Data(block, UPLOAD[512 * (block - 1) : 512 * block])
            self.peer.send(data)
            while (answer := self.peer.receive()) != Ack(block):
                assert answer == Ack(block - 1)  # One that came again, for a block that did.
            if block < 3:
                self.peer.send(data)


class Leaver(Client):
    """Ends it with an ERROR."""

    @property
    def outcome(self) -> str:
        return "peer-error"

    @property
    def payload(self) -> int:
        return 512

    def finish(self) -> None:
        self.hear(Data(2, FILES[self.name][512:1024]))
        self.peer.send(Error(3, "my disk is full"))


class Mistaken(Client):
    """Asks for what is not there."""

    name = "nothing"

    @property
    def outcome(self) -> None:
        return None

    @property
    def payload(self) -> int:
        return 0

    def begin(self) -> None:
        assert error_code(self.peer.receive()) == 1
        self.errors = 1

    def finish(self) -> None:
        pass


KINDS = (Client, Negotiator, Stutterer, Uploader, Leaver, Mistaken)


@contextmanager
def crowd(server: Any) -> Iterator[list[Client]]:
    with ExitStack() as stack:
        yield [
            KINDS[number % len(KINDS)](stack.enter_context(WirePeer(server)), number)
            for number in range(CLIENTS)
        ]


@pytest.mark.parametrize("arrangement", ARRANGEMENTS)
def test_snapshot_and_totals_are_what_two_hundred_clients_saw(arrangement: str, root: Path) -> None:
    with (
        watched(arrangement, root, patience=UNHURRIED) as found,
        Operator(found.place, closely=1) as operator,
        crowd(found.address) as clients,
    ):
        operator.wait("snapshot")
        operator.say("subscribe ended refused started")
        operator.answer("subscribe")
        for client in clients:
            client.ask()
        for client in clients:
            client.begin()
        running = [client for client in clients if client.outcome is not None]
        for _ in clients:
            while operator.next()["event"] not in ("started", "refused"):
                pass
        operator.order("snapshot")
        check_running(operator.wait("snapshot"), running)
        for client in clients:
            client.finish()
        for _ in running:
            operator.wait("ended")
        operator.order("snapshot")
        check_totals(operator.wait("snapshot"), clients)


def check_running(snapshot: dict[str, Any], clients: list[Client]) -> None:
    assert snapshot["running"] == len(snapshot["transfers"]) == len(clients)
    rows = {row["peer"]: row for row in snapshot["transfers"]}
    assert len({row["transfer"] for row in rows.values()}) == len(clients)
    for client in clients:
        row = rows[f"127.0.0.1:{client.peer.address[1]}"]
        assert row["state"] == "running"
        assert row["operation"] == client.operation
        assert row["file"] == client.name
        assert row["asked"] == {name: str(value) for name, value in client.options.items()}
        if isinstance(client, Negotiator):
            assert row["granted"] == row["asked"] | {"tsize": str(len(FILES["large"]))}
            assert row["terms"]["windowsize"] == 16
            assert row["size"] == len(FILES["large"])


def check_totals(snapshot: dict[str, Any], clients: list[Client]) -> None:
    assert snapshot["transfers"] == []
    for client in clients:
        assert client.peer.drain() == []
    for operation, side in snapshot["totals"].items():
        mine = [client for client in clients if client.operation == operation]
        outcomes = Counter(client.outcome for client in mine)
        assert side["requests"] == len(mine)
        assert side["refused"] == outcomes.pop(None, 0)
        assert {name: count for name, count in side["outcomes"].items() if count} == outcomes
        wire = on_the_wire(mine)
        assert {part: side["counters"][part] for part in wire} == wire
        assert side["counters"]["timeouts"] == 0
        assert sum(side["histograms"]["duration"]["counts"]) == outcomes["done"]
    assert snapshot["totals"]["read"]["counters"]["duplicates"] >= 3 * count_of(Stutterer, clients)
    assert snapshot["totals"]["write"]["counters"]["duplicates"] == 2 * count_of(Uploader, clients)
    [client] = snapshot["clients"]["rows"]
    assert (client["client"], client["requests"]) == ("127.0.0.1", CLIENTS)
    assert client["succeeded"] + client["failed"] + client["refused"] == CLIENTS
    files = {row["file"]: row["requests"] for row in snapshot["files"]["rows"]}
    assert files == Counter(client.name for client in clients)
    errors = {
        (row["outcome"], row["message"]): row["requests"] for row in snapshot["errors"]["rows"]
    }
    assert errors == {
        ("refused", "file not found"): count_of(Mistaken, clients),
        ("peer-error", "my disk is full"): count_of(Leaver, clients),
    }


def count_of(kind: type[Client], clients: list[Client]) -> int:
    return sum(type(client) is kind for client in clients)


def on_the_wire(clients: list[Client]) -> dict[str, int]:
    """The counters that a server must have come to, from the datagrams of its clients."""
    counted: Counter[str] = Counter()
    for client in clients:
        came = client.peer.received[client.errors :]
        went = client.peer.sent[client.requests :]
        counted["datagrams_sent"] += len(came)
        counted["octets_sent"] += sum(map(len, came))
        counted["datagrams_received"] += len(went)
        counted["octets_received"] += sum(map(len, went))
        counted["payload"] += client.payload
        blocks = came if client.operation == "read" else went
        counted["blocks"] += len({block for block in blocks if block[1] == 3})
    return dict(counted)


@pytest.mark.parametrize(
    ("name", "reason"), [("exit", "exited with status 7"), ("kill", "was killed by SIGKILL")]
)
@pytest.mark.parametrize("arrangement", ["processes", "workers"])
def test_a_process_that_dies_is_a_failure_with_its_exit_status(
    arrangement: str, name: str, reason: str
) -> None:
    board, config = Board(), ServerConfig(patience=UNHURRIED)
    server: Server | Supervisor
    if arrangement == "processes":
        engine = ProcessEngine(warm=1)
        server = Server(Deadly(), config=config, engine=engine, observers=[board])
    else:
        server = Supervisor(Deadly(), config=config, workers=1, observers=[board])
    with (
        server,
        channel_of(server, board) as channel,
        Operator(channel.places[0]) as operator,
        WirePeer(server.address) as peer,
    ):
        # What has happened before the snapshot is in it, and does not come as an event any more.
        operator.wait("snapshot")
        peer.rrq(name, blksize=512)
        assert isinstance(peer.receive(), OptionAck)
        number = operator.wait("started")["transfer"]
        peer.send(Ack(0))
        assert isinstance(peer.receive(), Data)
        peer.send(Ack(1))
        ended = operator.wait("ended")
        assert ended["transfer"] == number
        assert ended["outcome"] == "crashed"
        assert re.fullmatch(rf"process \d+ {reason}", ended["error"]["message"])
        operator.order("snapshot")
        snapshot = operator.wait("snapshot")
        assert snapshot["transfers"] == []
        assert snapshot["totals"]["read"]["outcomes"]["crashed"] == 1
        assert snapshot["failures"][-1]["error"] == ended["error"]
        assert snapshot["errors"]["rows"][0]["outcome"] == "crashed"
        assert eventually(lambda: is_served(server))


def is_served(server: Server | Supervisor) -> bool:
    """Whether a whole file can be had: another process has taken over."""
    with WirePeer(server.address) as peer:
        peer.rrq("other")
        readable, _, _ = select.select([peer.sock], [], [], 0.2)
        if not readable:
            return False
        peer.take()
        peer.send(Error(0, ""))
    return True


def test_a_flood_of_bogus_requests_leaves_the_board_as_small_as_before(root: Path) -> None:
    """Ten thousand names from two thousand addresses, as fast as the server answers them."""
    hosts, each = 2000, 5
    with watched("threads", root) as found, found.operator() as operator:
        operator.say("subscribe none")
        for number in range(hosts):
            host = f"127.{1 + number % 250}.{number // 250}.1"
            with WirePeer(found.address, host=host) as peer:
                for turn in range(each):
                    peer.rrq(f"bogus/{number}/{turn}")
                for _ in range(each):
                    assert error_code(peer.receive()) == 1
        total = hosts * each
        # The last ERROR leaves before it is told.
        assert eventually(lambda: found.board.totals()["totals"]["read"]["refused"] == total)
        operator.order("snapshot")
        snapshot = operator.wait("snapshot")
    assert snapshot["totals"]["read"]["requests"] == total
    assert snapshot["totals"]["read"]["refused"] == total
    for tally in ("clients", "files"):
        rows, others = snapshot[tally]["rows"], snapshot[tally]["others"]
        assert len(rows) == 256
        assert sum(row["requests"] for row in rows) + others["requests"] == total
    assert len(snapshot["failures"]) == 200
    [row] = snapshot["errors"]["rows"]
    assert (row["message"], row["requests"]) == ("file not found", total)


def test_requests_of_the_largest_size_make_no_large_snapshot(root: Path) -> None:
    options = b"".join(b"%03d\0v\0" % number for number in range(600))
    request = struct.pack("!H", 1) + b"\x1b" * 500 + b"\0octet\0" + options
    with watched("threads", root) as found, found.operator() as operator:
        with WirePeer(found.address) as peer:
            for _ in range(300):
                peer.tid = found.address
                peer.send(request[:4095] + b"\0")
                assert error_code(peer.receive(PATIENCE)) == 1
        operator.say("subscribe none", "snapshot id=1")
        while (line := operator.line()) and b'"id": "1"' not in line:
            pass
    assert len(line) < 1_000_000
