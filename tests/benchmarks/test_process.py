"""Servers under observation: ready when they answer, counted whole, and gone at the end."""

import os
import sys
from pathlib import Path

import pytest

from benchmarks import process
from benchmarks.process import Memory, NotReady, Sampler, Server, free_port
from tests.watching import eventually

# Answers any datagram, after it has started a child that outlives whatever happens to it.
_ANSWERS = """
import os, socket, subprocess, sys
child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
sock.bind(("127.0.0.1", int(sys.argv[1])))
while True:
    datagram, peer = sock.recvfrom(100)
    sum(range(2_000_000))
    sock.sendto(b"here", peer)
"""


@pytest.fixture(params=["with a control group", "without"], autouse=True)
def _group(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Both as root on Linux with cgroup 2 and as anybody else."""
    if request.param == "without":
        monkeypatch.setattr(process, "_make_group", lambda: None)


def answering(folder: Path) -> Server:
    port = free_port()
    return Server([sys.executable, "-c", _ANSWERS, str(port)], ("127.0.0.1", port), folder)


def is_alive(number: int) -> bool:
    try:
        os.kill(number, 0)
    except ProcessLookupError:
        return False
    return True


def test_all_processes_of_a_server_end_with_it(tmp_path: Path) -> None:
    with answering(tmp_path) as server:
        numbers = server.processes()
        assert len(numbers) == 2
        assert server.alive
    assert eventually(lambda: not any(is_alive(number) for number in numbers))


def test_processor_time_is_counted(tmp_path: Path) -> None:
    with answering(tmp_path) as server:
        assert 0.01 < server.seconds() < 30


def test_memory_is_that_of_all_processes(tmp_path: Path) -> None:
    with answering(tmp_path) as server:
        with Sampler(server) as sampler:
            pass
        assert sampler.peak.processes == 2
        assert 1 < sampler.peak.private < sampler.peak.resident
        assert 0 < sampler.peak.child < sampler.peak.private
        assert Memory.of(server).larger(sampler.peak).private >= sampler.peak.private


def test_a_server_that_ends_at_once_is_told_as_such(tmp_path: Path) -> None:
    server = Server([sys.executable, "-c", "raise SystemExit(3)"], ("127.0.0.1", 9), tmp_path)
    with pytest.raises(NotReady, match="ended with status 3"):
        server.__enter__()
