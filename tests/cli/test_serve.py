"""`tftp serve`, run for real: its banner, its lines, its options and its end."""

import ctypes
import json
import os
import re
import resource
import signal
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.cli.conftest import CONTENT, TEXT
from tests.cli.running import (
    Peer,
    Running,
    environment,
    names,
    on_terminal,
    one_line,
    run,
    running,
)
from tests.watching import processes
from tftp.packets import Ack, Data, Error, OptionAck, Packet, ReadRequest, WriteRequest

LOOPBACK = ["--host", "127.0.0.1", "--port", "0"]


@contextmanager
def serving(root: Path, *options: str) -> Iterator[tuple[Running, tuple[str, int]]]:
    """A server over `root` with these options, its JSON on stdout, and its address.

    It must have ended by itself, or end on SIGTERM, with exit code 0.
    """
    with running("serve", root, *LOOPBACK, "--json", *options, cwd=root.parent) as server:
        listening = json.loads(server.stdout.next())
        assert listening["event"] == "listening"
        host, _, port = listening["addresses"][0].rpartition(":")
        yield server, (host, int(port))
        if server.process.poll() is None:
            server.signal(signal.SIGTERM)
            assert server.wait() == 0


def ask(peer: Peer, server: tuple[str, int], request: Packet) -> Packet:
    """The server's first answer."""
    peer.send(request, server)
    return peer.receive()


def records(server: Running) -> list[dict[str, Any]]:
    return [json.loads(line) for line in server.stdout.rest()]


def test_it_has_as_many_descriptors_as_its_user_may(root: Path, here: Path) -> None:
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    few = min(64, most)

    def be_short() -> None:
        resource.setrlimit(resource.RLIMIT_NOFILE, (few, most))

    with running(
        "serve", root, *LOOPBACK, "--json", "--workers", "1", cwd=here, preexec_fn=be_short
    ) as server:
        server.stdout.next()
        pid = server.process.pid
        for each in (pid, *processes(pid)):
            assert resource.prlimit(each, resource.RLIMIT_NOFILE) == (most, most)


def test_in_a_pipe_each_line_is_there_at_once(root: Path, here: Path) -> None:
    with running("serve", root, *LOOPBACK, cwd=here) as server:
        first = server.stdout.next()
        found = re.fullmatch(
            rf"listening on (127\.0\.0\.1:\d+), serving {re.escape(str(root))}, read-only", first
        )
        assert found, first
        got = run("get", f"{found[1]}/boot/kernel.bin", "--blksize", "1000", cwd=here)
        assert got.returncode == 0
        assert re.fullmatch(
            r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d 127\.0\.0\.1:\d+ get boot/kernel\.bin: "
            rf"{len(CONTENT)} bytes in \d+\.\d{{3}} s, [\d.]+ [kM]B/s, blksize 1000, "
            r"windowsize \d+, 0 retransmissions",
            server.stdout.next(),
        )
        server.signal(signal.SIGTERM)
        assert server.wait() == 0
        assert server.stderr.rest() == []


def test_on_a_terminal_the_banner_names_a_url_that_works(root: Path, here: Path) -> None:
    with on_terminal("serve", root, *LOOPBACK, cwd=here) as terminal:
        command = terminal.wait_for(r"try: (tftp get (\S+))\n")
        assert f"serves {root}, read-only" in terminal.text
        assert re.search(r"tftpkit \d+\.\d+", terminal.text)
        assert run("get", command[2], cwd=here).returncode == 0
        assert (here / "lines.txt").read_bytes() == TEXT
        terminal.wait_for(r"\n\d\d:\d\d:\d\d 127\.0\.0\.1:\d+ get lines\.txt: 8 bytes in ")
        terminal.type(b"\x03")
        assert terminal.wait() == 0
        assert "Traceback" not in terminal.text


def test_json_is_one_object_per_line(root: Path, here: Path) -> None:
    with serving(root, "--allow-write") as (server, (host, port)):
        assert run("get", f"{host}:{port}/lines.txt", cwd=here).returncode == 0
        assert run("put", "lines.txt", f"{host}:{port}/new.txt", cwd=here).returncode == 0
        server.signal(signal.SIGTERM)
        assert server.wait() == 0
        read, write, stopping, stopped = records(server)
    assert (read["event"], read["operation"], read["file"]) == ("ended", "read", "lines.txt")
    assert (write["event"], write["operation"], write["file"]) == ("ended", "write", "new.txt")
    assert (root / "new.txt").read_bytes() == TEXT
    assert stopping == {"event": "stopping", "running": 0}
    assert stopped == {"event": "stopped"}


def test_a_refused_request_has_a_line_with_the_reason(root: Path, here: Path, peer: Peer) -> None:
    with running("serve", root, *LOOPBACK, cwd=here) as server:
        found = re.search(r":(\d+),", server.stdout.next())
        assert found
        address = ("127.0.0.1", int(found[1]))
        assert isinstance(ask(peer, address, ReadRequest(b"\x1b[2J\xff")), Error)
        assert server.stdout.next().endswith(
            f"127.0.0.1:{peer.port} get \\x1b[2J\\xff: refused: file not found (error 1)"
        )
        assert isinstance(ask(peer, address, WriteRequest(b"new")), Error)
        assert " put new: refused: " in server.stdout.next()
        server.signal(signal.SIGINT)
        assert server.wait() == 0


def test_quiet_writes_failures_only(root: Path, here: Path) -> None:
    with running("serve", root, *LOOPBACK, "-q", "--json", cwd=here) as server:
        listening = json.loads(server.stdout.next())
        url = listening["addresses"][0]
        assert run("get", f"{url}/lines.txt", cwd=here).returncode == 0
        assert run("get", f"{url}/missing", cwd=here).returncode == 1
        refused = json.loads(server.stdout.next())
        assert (refused["event"], refused["file"]) == ("refused", "missing")
        server.signal(signal.SIGTERM)
        assert server.wait() == 0


def test_verbose_tells_of_requests_and_starts_too(root: Path, here: Path) -> None:
    with serving(root, "-v") as (server, (host, port)):
        assert run("get", f"{host}:{port}/lines.txt", cwd=here).returncode == 0
        events = [json.loads(server.stdout.next())["event"] for _ in range(3)]
        assert events == ["received", "started", "ended"]


# -- what the options do --------------------------------------------------------------------------


def test_the_current_directory_is_served_where_none_is_named(root: Path, peer: Peer) -> None:
    with running("serve", *LOOPBACK, "--json", cwd=root) as server:
        listening = json.loads(server.stdout.next())
        assert listening["root"] == str(root)
        server.signal(signal.SIGTERM)
        assert server.wait() == 0


def test_uploads_are_refused_unless_allowed(root: Path, peer: Peer) -> None:
    with serving(root) as (_, address):
        refusal = ask(peer, address, WriteRequest(b"new"))
        assert isinstance(refusal, Error)
        assert refusal.code == 2
    assert names(root) == ["boot", "lines.txt"]


def test_an_upload_replaces_a_file_only_where_that_is_allowed(root: Path, here: Path) -> None:
    (here / "lines.txt").write_bytes(b"new")
    with serving(root, "--allow-write") as (_, (host, port)):
        assert run("put", "lines.txt", f"{host}:{port}/", cwd=here).returncode == 1
        assert (root / "lines.txt").read_bytes() == TEXT
    with serving(root, "--allow-write", "--overwrite") as (_, (host, port)):
        assert run("put", "lines.txt", f"{host}:{port}/", cwd=here).returncode == 0
        assert (root / "lines.txt").read_bytes() == b"new"


def test_limits_cap_what_is_granted_and_refused_options_stay_unanswered(
    root: Path, peer: Peer
) -> None:
    limits = ["--max-blksize", "600", "--max-windowsize", "2", "--refuse", "tsize"]
    with serving(root, *limits) as (_, address):
        asked = {"tsize": "0", "blksize": "1000", "windowsize": "9"}
        answer = ask(peer, address, ReadRequest(b"lines.txt", "octet", asked))
        assert answer == OptionAck({"blksize": "600", "windowsize": "2"})
        peer.send(Error(0, "that was all"))


def test_an_upload_larger_than_max_size_is_refused(root: Path, peer: Peer) -> None:
    with serving(root, "--allow-write", "--max-size", "1K") as (_, address):
        refusal = ask(peer, address, WriteRequest(b"new", "octet", {"tsize": "1025"}))
        assert isinstance(refusal, Error)
        assert refusal.code == 3
        accepted = ask(peer, address, WriteRequest(b"new", "octet", {"tsize": "1024"}))
        assert accepted == OptionAck({"tsize": "1024"})
        peer.send(Error(0, "that was all"))


def test_names_are_mended_as_the_options_say(root: Path, peer: Peer) -> None:
    with serving(root, "--ignore-case", "--strip-junk") as (_, address):
        for name in (b"\\lines.txt", b"LINES.TXT", b"lines.txt\xff\xd1"):
            assert ask(peer, address, ReadRequest(name)) == Data(1, TEXT), name
            peer.send(Ack(1))


def test_names_are_taken_as_they_are_without_these_options(root: Path, peer: Peer) -> None:
    with serving(root) as (_, address):
        for name in (b"LINES.TXT", b"lines.txt\xff\xd1"):
            assert isinstance(ask(peer, address, ReadRequest(name)), Error), name


@pytest.mark.parametrize(
    ("rules", "served"),
    [
        (["--allow", "127.0.0.0/8"], True),
        (["--allow", "192.0.2.0/24", "--allow", "127.0.0.1"], True),
        (["--allow", "192.0.2.0/24"], False),
        (["--deny", "127.0.0.0/8"], False),
        (["--deny", "127.0.0.1", "--allow", "127.0.0.0/8"], False),
    ],
)
def test_networks_are_allowed_and_denied(
    root: Path, peer: Peer, rules: list[str], served: bool
) -> None:
    with serving(root, *rules) as (_, address):
        answer = ask(peer, address, ReadRequest(b"lines.txt"))
        assert isinstance(answer, Data if served else Error)
        peer.send(Ack(1))


def test_single_port_answers_from_the_port_that_was_asked(root: Path, peer: Peer) -> None:
    with serving(root, "--single-port") as (_, address):
        assert ask(peer, address, ReadRequest(b"lines.txt")) == Data(1, TEXT)
        assert peer.other == address
        peer.send(Ack(1))


def test_port_range_answers_from_a_port_of_the_range(root: Path, peer: Peer) -> None:
    with free_port() as free:
        low = free
    with serving(root, "--port-range", f"{low}:{low}") as (_, address):
        assert ask(peer, address, ReadRequest(b"lines.txt")) == Data(1, TEXT)
        assert peer.other == ("127.0.0.1", low)
        peer.send(Ack(1))


def test_max_transfers_makes_further_clients_wait(root: Path, peer: Peer) -> None:
    with serving(root, "--max-transfers", "1") as (_, address):
        assert isinstance(ask(peer, address, ReadRequest(b"boot/kernel.bin")), Data)
        second = Peer()
        try:
            busy = ask(second, address, ReadRequest(b"lines.txt"))
            assert isinstance(busy, Error)
            assert "busy" in busy.message
        finally:
            second.close()
        peer.send(Error(0, "that was all"))


def test_4_and_6_choose_the_family(root: Path, here: Path) -> None:
    with running("serve", root, "--port", "0", "-4", "--json", cwd=here) as server:
        addresses = json.loads(server.stdout.next())["addresses"]
        assert [address.rpartition(":")[0] for address in addresses] == ["0.0.0.0"]
        server.signal(signal.SIGTERM)
        assert server.wait() == 0


# -- how it ends ----------------------------------------------------------------------------------


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_lets_running_transfers_finish(
    root: Path, here: Path, peer: Peer, number: signal.Signals
) -> None:
    with running("serve", root, *LOOPBACK, cwd=here) as server:
        found = re.search(r":(\d+),", server.stdout.next())
        assert found
        assert ask(peer, ("127.0.0.1", int(found[1])), ReadRequest(b"boot/kernel.bin"))
        transfer = peer.other
        server.signal(number)
        assert server.stderr.next() == "stopping: 1 transfer still running; again to abort"
        received = b""
        for block in range(1, len(CONTENT) // 512 + 2):
            if block > 1:
                packet = peer.receive_a(Data)
                assert packet.block == block
                received += packet.payload
            peer.send(Ack(block), transfer)
        assert received == CONTENT[512:]
        assert server.wait() == 0
        assert " get boot/kernel.bin: " in server.stdout.next()
        assert server.stderr.rest() == []


def test_a_second_signal_aborts_and_tells_the_clients(root: Path, here: Path, peer: Peer) -> None:
    with running("serve", root, *LOOPBACK, cwd=here) as server:
        found = re.search(r":(\d+),", server.stdout.next())
        assert found
        ask(peer, ("127.0.0.1", int(found[1])), ReadRequest(b"boot/kernel.bin"))
        server.signal(signal.SIGINT)
        assert server.stderr.next().startswith("stopping: 1 transfer")
        server.signal(signal.SIGINT)
        peer.receive_a(Error)
        assert server.wait() == 130
        assert ": aborted: " in server.stdout.next()
        assert server.stderr.rest() == []


def test_an_upload_that_is_aborted_leaves_nothing(root: Path, here: Path, peer: Peer) -> None:
    with serving(root, "--allow-write") as (server, address):
        assert ask(peer, address, WriteRequest(b"new")) == Ack(0)
        peer.send(Data(1, bytes(512)))
        assert peer.receive_a(Ack) == Ack(1)
        server.signal(signal.SIGTERM)
        assert json.loads(server.stdout.next()) == {"event": "stopping", "running": 1}
        server.signal(signal.SIGTERM)
        assert server.wait() == 143
    assert names(root) == ["boot", "lines.txt"]


def test_a_reader_that_leaves_does_not_stop_the_server(root: Path, here: Path, peer: Peer) -> None:
    reader, writer = os.pipe()
    with running("serve", root, *LOOPBACK, cwd=here, stdout=writer) as server:
        os.close(writer)
        with os.fdopen(reader) as stream:
            found = re.search(r":(\d+),", stream.readline())
        assert found
        address = ("127.0.0.1", int(found[1]))
        assert isinstance(ask(peer, address, ReadRequest(b"missing")), Error)
        assert "can no longer be written" in server.stderr.next()
        assert isinstance(ask(peer, address, ReadRequest(b"lines.txt")), Data)
        peer.send(Ack(1))
        server.signal(signal.SIGTERM)
        assert server.wait() == 0


# -- how it does not start ------------------------------------------------------------------------


def test_a_busy_port_names_address_and_port(root: Path, here: Path) -> None:
    with free_port(keep=True) as port:
        done = run("serve", root, "--host", "127.0.0.1", "--port", str(port), cwd=here)
    assert done.returncode == 1
    assert f"cannot listen on 127.0.0.1:{port}: this port is in use" in one_line(done.stderr)


def test_an_address_of_another_machine_is_named(root: Path, here: Path) -> None:
    done = run("serve", root, "--host", "198.51.100.77", "--port", "0", cwd=here)
    assert done.returncode == 1
    assert "198.51.100.77" in one_line(done.stderr)
    assert "this machine has no such address" in one_line(done.stderr)


def test_a_host_that_is_no_host_is_named(root: Path, here: Path) -> None:
    done = run("serve", root, "--host", "no host", "--port", "0", cwd=here)
    assert done.returncode == 1
    assert "no host" in one_line(done.stderr)


@pytest.mark.parametrize(
    ("name", "reason"), [("nowhere", "no such file or directory"), ("file", "not a directory")]
)
def test_a_root_that_cannot_be_served_is_named(here: Path, name: str, reason: str) -> None:
    (here / "file").write_bytes(b"")
    done = run("serve", name, *LOOPBACK, cwd=here)
    assert done.returncode == 1
    assert f"cannot serve {name}: {reason}" in one_line(done.stderr)


def test_a_privileged_port_without_privilege_offers_another(root: Path, here: Path) -> None:
    first_free = Path("/proc/sys/net/ipv4/ip_unprivileged_port_start")
    if not first_free.exists() or int(first_free.read_text()) <= 69:
        pytest.skip("this system has no privileged ports")
    with running(
        "serve", root, "--host", "127.0.0.1", cwd=here, preexec_fn=without_bind_service
    ) as server:
        assert server.wait() == 1
        assert server.stderr.next() == (
            "tftp: cannot listen: port 69 needs root or CAP_NET_BIND_SERVICE: try --port 6969"
        )
        assert server.stderr.rest() == []


def without_bind_service() -> None:
    """Take CAP_NET_BIND_SERVICE (10) from what the next program may have: PR_CAPBSET_DROP (24)."""
    if os.geteuid() == 0:
        ctypes.CDLL(None, use_errno=True).prctl(24, 10, 0, 0, 0)


@contextmanager
def free_port(*, keep: bool = False) -> Iterator[int]:
    """A loopback port that nobody uses; with `keep` it is taken while the block runs."""
    sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    sock.bind(("127.0.0.1", 0))
    port: int = sock.getsockname()[1]
    if not keep:
        sock.close()
    try:
        yield port
    finally:
        sock.close()


@pytest.mark.parametrize(("options", "advised"), [([], 1), (["--single-port"], 0)])
def test_the_advice_for_containers_is_one_line_on_stderr(
    root: Path, here: Path, options: list[str], advised: int
) -> None:
    container = environment() | {"container": "podman"}
    with running("serve", root, "--port", "0", "-4", *options, cwd=here, env=container) as server:
        server.stdout.next()
        server.signal(signal.SIGTERM)
        assert server.wait() == 0
        advice = server.stderr.rest()
    assert len(advice) == advised
    assert all("--port-range LOW:HIGH" in line for line in advice)
