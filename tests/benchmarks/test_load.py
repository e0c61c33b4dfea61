"""The load generator against real servers: what it counts as done was done, and nothing else."""

import json
import shutil
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path
from random import Random
from typing import Any

import pytest

from benchmarks.link import Conditions, Link
from benchmarks.prepare import Workshop
from tests.watching import eventually
from tests.wirepeer import PATIENCE
from tftp.server import Server
from tftp.storage import Directory

pytestmark = pytest.mark.skipif(shutil.which("cc") is None, reason="there is no C compiler")

FILE = Random(3).randbytes(100_000)


@pytest.fixture(scope="module")
def generator(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The program, freshly compiled."""
    return Workshop(tmp_path_factory.mktemp("shop")).compiled("load.c")


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """What the server serves."""
    (tmp_path / "file").write_bytes(FILE)
    return tmp_path


@pytest.fixture
def server(root: Path) -> Iterator[Server]:
    """A server that takes uploads."""
    with Server(Directory(root, writable=True)) as server:
        yield server


def load(generator: Path, where: tuple[Any, ...], *arguments: str) -> dict[str, Any]:
    """Run the generator; gives what it prints."""
    command = [str(generator), "--server", f"{where[0]}:{where[1]}", "--limit", "30", *arguments]
    done = subprocess.run(command, capture_output=True, text=True, timeout=50, check=False)
    assert done.stdout, done.stderr
    result: dict[str, Any] = json.loads(done.stdout)
    assert done.returncode == (1 if result["failures"] else 0)
    return result


def options(blksize: int, windowsize: int) -> list[str]:
    return ["--blksize", str(blksize), "--windowsize", str(windowsize), "--tsize"]


@pytest.mark.parametrize("offload", [[], ["--offload"]], ids=["plain", "offload"])
@pytest.mark.parametrize("windowsize", [1, 16])
@pytest.mark.parametrize("clients", [1, 20])
def test_every_octet_of_every_file_is_read(
    generator: Path, server: Server, root: Path, clients: int, windowsize: int, offload: list[str]
) -> None:
    result = load(
        generator,
        server.address,
        *("--name", "file", "--content", str(root / "file"), "--check", "1"),
        *("--clients", str(clients), "--transfers", "40", "--size", str(len(FILE))),
        *options(1428, windowsize),
        *offload,
    )
    assert result["failures"] == 0, result["reason"]
    assert (result["transfers"], result["bytes"]) == (40, 40 * len(FILE))
    assert (result["blksize"], result["windowsize"]) == (1428, windowsize)
    assert 0 < result["p50"] <= result["p99"] <= result["max"] <= result["seconds"]


@pytest.mark.parametrize("offload", [[], ["--offload"]], ids=["plain", "offload"])
@pytest.mark.parametrize("windowsize", [1, 16])
def test_every_file_is_written(
    generator: Path, server: Server, root: Path, windowsize: int, offload: list[str]
) -> None:
    result = load(
        generator,
        server.address,
        *("--put", "--name", "put-%d", "--names", "9", "--content", str(root / "file")),
        *("--clients", "3", "--transfers", "9"),
        *options(1428, windowsize),
        *offload,
    )
    assert result["failures"] == 0, result["reason"]
    assert [(root / f"put-{number}").read_bytes() == FILE for number in range(9)] == [True] * 9


def test_without_options_a_request_has_none(generator: Path, server: Server) -> None:
    result = load(generator, server.address, "--name", "file", "--size", str(len(FILE)))
    assert (result["failures"], result["blksize"], result["windowsize"]) == (0, 512, 1)


def test_a_missing_file_is_what_a_probe_wants(generator: Path, server: Server) -> None:
    probes = ("--name", "nothing-%d", "--names", "100", "--clients", "5", "--transfers", "100")
    result = load(generator, server.address, *probes, "--missing")
    assert (result["failures"], result["transfers"]) == (0, 100)
    result = load(generator, server.address, *probes)
    assert (result["failures"], result["transfers"]) == (100, 0)
    assert result["reason"].startswith("ERROR 1 ")


def test_wrong_content_is_a_failure(generator: Path, server: Server, root: Path) -> None:
    other = bytearray(FILE)
    other[5000] ^= 1
    (root / "other").write_bytes(other)
    content = ("--content", str(root / "other"))
    asked = ("--name", "file", "--transfers", "4", "--blksize", "1000")
    result = load(generator, server.address, *asked, *content, "--check", "2")
    assert (result["failures"], result["transfers"]) == (2, 2)
    assert result["reason"] == "wrong content in block 6"


def test_a_wrong_length_is_a_failure(generator: Path, server: Server) -> None:
    result = load(generator, server.address, "--name", "file", "--size", "100001")
    assert (result["failures"], result["reason"]) == (1, "100000 octets, not 100001")


def test_a_server_that_is_silent_is_a_failure(generator: Path, server: Server) -> None:
    deaf = Conditions(loss=1.0)
    with Link(("127.0.0.1", 0), server.address[:2], both=deaf) as link:
        asked = ("--name", "file", "--clients", "3", "--transfers", "3")
        patience = ("--timeout", "0.05", "--tries", "2")
        result = load(generator, link.address, *asked, *patience)
        assert eventually(lambda: link.there.arrived == 9)
    assert (result["failures"], result["retransmissions"]) == (3, 6)
    assert result["reason"] == "silence after block 0"


@pytest.mark.parametrize("windowsize", [1, 16])
def test_what_is_lost_is_asked_for_again(
    generator: Path, server: Server, root: Path, windowsize: int
) -> None:
    bad = Conditions(loss=0.03, duplicate=0.03)
    with Link(("127.0.0.1", 0), server.address[:2], both=bad, seed=4) as link:
        result = load(
            generator,
            link.address,
            *("--name", "file", "--content", str(root / "file"), "--check", "1"),
            *("--clients", "10", "--transfers", "20", "--timeout", "0.1"),
            *options(1428, windowsize),
        )
        assert link.back.lost > 0
    assert (result["failures"], result["transfers"]) == (0, 20), result["reason"]
    assert result["duplicates"] > 0


def test_a_late_ack_to_the_port_s_last_owner_is_no_answer(generator: Path) -> None:
    door, stranger, tid = (socket.socket(socket.AF_INET, socket.SOCK_DGRAM) for _ in range(3))
    with door, stranger, tid:
        door.bind(("127.0.0.1", 0))
        door.settimeout(PATIENCE)
        tid.settimeout(PATIENCE)
        where = "{}:{}".format(*door.getsockname())
        command = [str(generator), "--server", where, "--name", "file", "--limit", "30"]
        with subprocess.Popen(command, stdout=subprocess.PIPE) as client:
            _, peer = door.recvfrom(100)
            stranger.sendto(b"\0\4\0\7", peer)
            tid.sendto(b"\0\3\0\1whole", peer)
            assert tid.recv(100) == b"\0\4\0\1"
            output, _ = client.communicate(timeout=PATIENCE)
    result = json.loads(output)
    assert (result["failures"], result["transfers"], result["strays"]) == (0, 1, 1)


def test_the_time_limit_ends_what_still_runs(generator: Path, server: Server) -> None:
    slow = Conditions(delay=0.05)
    with Link(("127.0.0.1", 0), server.address[:2], both=slow) as link:
        asked = ("--name", "file", "--clients", "2", "--transfers", "50", "--limit", "0.5")
        result = load(generator, link.address, *asked)
    assert (result["failures"], result["transfers"]) == (2, 0)
    assert result["reason"] == "the time is up"
    assert result["seconds"] < 5
