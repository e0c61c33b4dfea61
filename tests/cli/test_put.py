"""`tftp put`, run for real: against our server, and against peers that follow a script."""

import json
import signal
import subprocess
from pathlib import Path

import pytest

from tests.cli.conftest import CONTENT, TEXT
from tests.cli.running import Peer, names, on_terminal, one_line, run, running
from tftp.packets import Ack, Data, Error, OptionAck, WriteRequest


@pytest.fixture
def local(here: Path) -> Path:
    """A file to send."""
    local = here / "my.cfg"
    local.write_bytes(CONTENT)
    return local


def test_a_file_is_stored_under_the_url_s_name(url: str, root: Path, local: Path) -> None:
    done = run("put", "my.cfg", f"{url}/boot/your.cfg", cwd=local.parent)
    assert done.returncode == 0
    assert (root / "boot" / "your.cfg").read_bytes() == CONTENT
    assert one_line(done.stderr).startswith(f"sent my.cfg: {len(CONTENT)} bytes in ")
    assert done.stdout == b""


@pytest.mark.parametrize(
    ("path", "place"), [("", "my.cfg"), ("/", "my.cfg"), ("/boot/", "boot/my.cfg")]
)
def test_a_url_without_a_name_takes_the_file_s_own(
    url: str, root: Path, local: Path, path: str, place: str
) -> None:
    assert run("put", local, f"{url}{path}", cwd=local.parent).returncode == 0
    assert (root / place).read_bytes() == CONTENT


def test_a_dash_sends_what_comes_on_stdin(url: str, root: Path, here: Path) -> None:
    done = run("put", "-", f"{url}/log.txt", cwd=here, stdin=CONTENT)
    assert done.returncode == 0
    assert (root / "log.txt").read_bytes() == CONTENT
    assert one_line(done.stderr).startswith("sent log.txt: ")


def test_an_empty_stdin_makes_an_empty_file(url: str, root: Path, here: Path) -> None:
    assert run("put", "-", f"{url}/empty", cwd=here, stdin=b"").returncode == 0
    assert (root / "empty").read_bytes() == b""


def test_netascii_translates_line_ends_on_the_way(peer: Peer, here: Path) -> None:
    (here / "lines.txt").write_bytes(TEXT)
    with running("put", "lines.txt", f"{peer.url}/;mode=netascii", cwd=here) as command:
        request = peer.receive_a(WriteRequest)
        assert (request.filename, request.mode) == (b"lines.txt", "netascii")
        peer.send(Ack(0))
        assert peer.receive_a(Data) == Data(1, b"one\r\ntwo\r\n")
        peer.send(Ack(1))
        assert command.wait() == 0


def test_the_options_given_are_what_is_asked(peer: Peer, local: Path) -> None:
    wish = ["--blksize", "9000", "--windowsize", "2", "--timeout", "1.5"]
    with running("put", local, f"{peer.url}/x", *wish, cwd=local.parent) as command:
        request = peer.receive_a(WriteRequest)
        asked = {"blksize": "9000", "windowsize": "2", "utimeout": "1500000"}
        assert request.options == {**asked, "tsize": str(len(CONTENT))}
        peer.send(OptionAck(request.options))
        assert [peer.receive_a(Data).block for _ in range(2)] == [1, 2]
        peer.send(Ack(2))
        assert command.wait() == 0


def test_json_is_one_object_on_stdout(url: str, local: Path) -> None:
    done = run("put", "my.cfg", f"{url}/x", "--json", cwd=local.parent)
    record = json.loads(one_line(done.stdout))
    assert (record["event"], record["operation"]) == ("ended", "write")
    assert (record["url"], record["local"]) == (f"{url}/x", "my.cfg")
    assert done.stderr == b""


def test_json_of_stdin_goes_to_stdout_all_the_same(url: str, here: Path) -> None:
    done = run("put", "-", f"{url}/x", "--json", cwd=here, stdin=TEXT)
    assert json.loads(one_line(done.stdout))["local"] == "-"


def test_a_name_that_exists_on_the_server_fails_with_one_line(url: str, local: Path) -> None:
    done = run("put", "my.cfg", f"{url}/lines.txt", cwd=local.parent)
    assert done.returncode == 1
    line = one_line(done.stderr)
    assert "(the server's error 6)" in line
    assert "choose another name" in line


def test_a_local_file_that_is_missing_is_named(peer: Peer, here: Path) -> None:
    done = run("put", "missing.cfg", f"{peer.url}/", cwd=here)
    assert done.returncode == 1
    assert one_line(done.stderr) == (
        "tftp: cannot read missing.cfg: no such file or directory: check the name"
    )


def test_a_directory_is_no_file(peer: Peer, here: Path) -> None:
    (here / "folder").mkdir()
    done = run("put", "folder", f"{peer.url}/", cwd=here)
    assert done.returncode == 1
    assert "cannot read folder: is a directory" in one_line(done.stderr)


@pytest.mark.parametrize("path", ["", "/", "/logs/"])
def test_stdin_has_no_name_to_lend(here: Path, path: str) -> None:
    done = run("put", "-", f"tftp://127.0.0.1:1{path}", cwd=here)
    assert done.returncode == 2
    assert "name" in done.stderr.decode().splitlines()[-1]


def test_sigint_ends_an_upload_and_tells_the_server(peer: Peer, here: Path) -> None:
    (here / "big").write_bytes(bytes(100_000))
    with running("put", "big", f"{peer.url}/", cwd=here) as command:
        peer.receive_a(WriteRequest)
        peer.send(Ack(0))
        peer.receive_a(Data)  # It runs.
        command.signal(signal.SIGINT)
        peer.receive_a(Error)
        assert command.wait() == 130
        assert "interrupted by SIGINT" in command.stderr.next()
    assert names(here) == ["big"]


def test_sigint_ends_a_put_that_waits_for_stdin(peer: Peer, here: Path) -> None:
    url = f"{peer.url}/log"
    with running("put", "-", url, cwd=here, stdin=subprocess.PIPE) as command:
        peer.receive_a(WriteRequest)
        peer.send(Ack(0))
        command.signal(signal.SIGINT)
        assert command.wait() == 130
        assert "interrupted by SIGINT" in command.stderr.next()


def test_on_a_terminal_a_long_upload_shows_a_bar(peer: Peer, here: Path) -> None:
    (here / "big.img").write_bytes(bytes(2500))
    with on_terminal("put", "big.img", f"{peer.url}/", cwd=here) as terminal:
        request = peer.receive_a(WriteRequest)
        peer.send(OptionAck({"blksize": "1000", "tsize": request.options["tsize"]}))
        assert peer.receive_a(Data).block == 1
        terminal.wait_for(r"big\.img .*/2\.5 kB")
        for block in (1, 2, 3):
            peer.send(Ack(block))
        assert terminal.wait() == 0
        assert "sent big.img: 2500 bytes in " in terminal.text
