"""`tftp serve --monitor`, run for real: where it is, who may look, and what an operator can do."""

import json
import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.cli.conftest import CONTENT
from tests.cli.running import Running, one_line, run, running
from tests.monitor.operating import Operator
from tests.wirepeer import WirePeer
from tftp.monitor.place import Place
from tftp.packets import Data, Error

LOOPBACK = ("--host", "127.0.0.1", "--port", "0")
TOKEN = "correct horse"  # noqa: S105


@contextmanager
def serving(root: Path, *options: str) -> Iterator[tuple[Running, tuple[str, int], Place]]:
    """A server with these options, its address, and where it can be watched."""
    with running("serve", root, *LOOPBACK, "--json", *options, cwd=root) as server:
        listening = json.loads(server.stdout.next())
        host, _, port = listening["addresses"][0].rpartition(":")
        yield server, (host, int(port)), Place.parse(listening["monitor"][0])
        if server.process.poll() is None:
            server.signal(signal.SIGTERM)
        assert server.wait() == 0


@pytest.mark.parametrize(
    ("options", "engine"),
    [
        ([], "threads"),
        (["--engine", "processes"], "processes"),
        (["--workers", "2"], "workers"),
    ],
)
def test_each_arrangement_can_be_watched(root: Path, options: list[str], engine: str) -> None:
    with (
        serving(root, "--monitor", "0", *options) as (server, address, place),
        Operator(place) as operator,
        WirePeer(address) as peer,
    ):
        greeting = operator.next()
        assert greeting["engine"] == engine
        assert greeting["pid"] == server.process.pid
        assert greeting["addresses"] == [f"127.0.0.1:{address[1]}"]
        operator.wait("snapshot")
        assert peer.read("boot/kernel.bin") == CONTENT
        assert operator.wait("ended")["counters"]["payload"] == len(CONTENT)
        peer.rrq("boot/kernel.bin")
        assert isinstance(peer.receive(), Data)
        operator.order("cancel", transfer=operator.wait("started")["transfer"])
        while (packet := peer.receive()) != Error(0, "cancelled by the operator"):
            assert isinstance(packet, Data)  # It is repeated.


def test_readers_see_a_server_stop(root: Path) -> None:
    with (
        serving(root, "--monitor", "0") as (server, address, place),
        Operator(place) as operator,
        WirePeer(address) as peer,
    ):
        operator.wait("snapshot")
        peer.rrq("boot/kernel.bin")
        assert isinstance(peer.receive(), Data)
        server.signal(signal.SIGTERM)
        operator.wait("state", state="stopping")
        peer.send(Error(0, "enough"))
        operator.wait("ended")
        assert operator.rest()[-1]["event"] == "bye"
        assert server.wait() == 0


def test_the_place_is_told_to_people_too(root: Path) -> None:
    place = f"unix:{root}/monitor"
    with running("serve", root, *LOOPBACK, "--monitor", place, cwd=root) as server:
        server.stdout.next()
        assert server.stdout.next() == f"the monitor is at {place}"
        with Operator(Place(path=f"{root}/monitor")) as operator:
            assert operator.next()["access"] == "act"
        server.signal(signal.SIGTERM)
        assert server.wait() == 0
    assert not (root / "monitor").exists()


def test_without_a_token_it_does_not_open_to_other_hosts(root: Path) -> None:
    done = run("serve", root, "--port", "0", "--monitor", "0.0.0.0:0", cwd=root)
    assert done.returncode == 2
    assert "set a token, or listen on 127.0.0.1" in done.stderr.decode()
    assert "--monitor-token-file" in done.stderr.decode()


def test_with_a_token_it_does_and_says_so(root: Path) -> None:
    (root / "secret").write_text(f"{TOKEN}\n")
    options = ["--monitor", "0.0.0.0:0", "--monitor-token-file", str(root / "secret")]
    with serving(root, *options) as (server, _address, place):
        assert "they need the token" in server.stderr.next()
        with Operator(Place("127.0.0.1", place.port)) as operator:
            assert operator.next()["access"] == "none"
            operator.order("token", token=TOKEN)
            operator.wait("snapshot")


def test_the_token_may_stand_in_the_environment(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(os.environ, "TFTP_MONITOR_TOKEN", TOKEN)
    with serving(root, "--monitor", "0") as (_server, _address, place), Operator(place) as operator:
        assert operator.next()["access"] == "look"


def test_blanks_are_no_token(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(os.environ, "TFTP_MONITOR_TOKEN", " \n")
    done = run("serve", root, "--port", "0", "--monitor", "0.0.0.0:0", cwd=root)
    assert done.returncode == 2
    assert "set a token" in done.stderr.decode()


def test_the_log_level_can_be_turned_up(root: Path) -> None:
    with (
        serving(root, "--monitor", "0") as (server, address, place),
        Operator(place) as operator,
        WirePeer(address) as peer,
    ):
        operator.say("log-level debug")
        operator.answer("log-level")
        peer.send(Error(0, "to nobody"))
        assert "sent an ERROR to nobody" in server.stderr.next()


def test_a_place_that_is_taken_is_told(root: Path) -> None:
    with serving(root, "--monitor", "0") as (_server, _address, place):
        done = run("serve", root, *LOOPBACK, "--monitor", str(place), cwd=root)
    assert done.returncode == 1
    assert one_line(done.stderr) == (
        f"tftp: cannot open the monitor on {place}: Address already in use: "
        "choose another --monitor"
    )


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("file", "what is there already is no socket: choose another --monitor"),
        (".", "what is there already is no socket: choose another --monitor"),
        ("missing/monitor", "No such file or directory: make its directory first, or choose"),
        ("x" * 200, "the path of a socket has at most 107 octets: choose another --monitor"),
    ],
)
def test_a_path_where_no_socket_can_be_is_told_with_the_reason(
    root: Path, name: str, words: str
) -> None:
    (root / "file").write_text("precious")
    done = run("serve", root, *LOOPBACK, "--monitor", f"unix:{root}/{name}", cwd=root)
    assert done.returncode == 1
    assert words in one_line(done.stderr)
    assert (root / "file").read_text() == "precious"


def test_a_token_without_anything_to_guard_is_wrong_usage(root: Path) -> None:
    (root / "secret").write_text(TOKEN)
    done = run("serve", root, *LOOPBACK, "--monitor-token-file", str(root / "secret"), cwd=root)
    assert done.returncode == 2
    assert "guards --monitor or --dashboard: give one" in done.stderr.decode()


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "there is no token in secret: put a line of letters"),
        (b" \n\n", "there is no token in secret: put a line of letters"),
        (b"one\ntwo\n", "secret holds more than one line: put a line"),
        (b"x" * 5000, "secret holds more than one line: put a line"),
        (b"\xff\xfe", "the token in secret is no text: put a line"),
    ],
)
def test_a_file_that_holds_no_token_is_told_with_what_to_do(
    root: Path, content: bytes, words: str
) -> None:
    (root / "secret").write_bytes(content)
    done = run("serve", ".", "--monitor", "0", "--monitor-token-file", "secret", cwd=root)
    assert done.returncode == 1
    assert one_line(done.stderr).startswith(f"tftp: {words}")


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("none", "cannot read the token in none: No such file or directory: name a file that"),
        ("/dev/zero", "/dev/zero holds more than one line"),
    ],
)
def test_a_token_that_cannot_be_read_is_told(root: Path, name: str, words: str) -> None:
    done = run("serve", ".", "--monitor", "0", "--monitor-token-file", name, cwd=root)
    assert done.returncode == 1
    assert one_line(done.stderr).startswith(f"tftp: {words}")


@pytest.mark.parametrize(
    ("token", "mode", "words"),
    [
        ("guess", 0o600, "a token of 5 letters is soon guessed: take at least 12"),
        (TOKEN, 0o644, "every user of this host can read the token in secret: chmod 600 it"),
    ],
)
def test_a_token_that_guards_little_is_told(root: Path, token: str, mode: int, words: str) -> None:
    (root / "secret").write_text(token)
    (root / "secret").chmod(mode)
    options = ("--monitor", "0", "--monitor-token-file", "secret")
    with serving(root, *options) as (server, _address, _place):
        assert server.stderr.next() == f"tftp: {words}"


def test_the_token_may_come_by_a_pipe(root: Path) -> None:
    """As from `<(pass tftp)` in a shell."""
    os.mkfifo(root / "secret")
    writer = threading.Thread(target=(root / "secret").write_text, args=[TOKEN])
    writer.start()
    with (
        serving(root, "--monitor", "0", "--monitor-token-file", "secret") as (_, _, place),
        Operator(place) as operator,
    ):
        assert operator.next()["access"] == "look"
        operator.order("token", token=TOKEN)
        assert operator.answer("token") == {"access": "act"}
    writer.join()


def test_no_token_is_asked_for_where_nobody_can_listen(root: Path) -> None:
    done = run("serve", root, *LOOPBACK, "--monitor", "192.0.2.1:0", cwd=root)
    assert done.returncode == 1
    assert one_line(done.stderr) == (
        "tftp: cannot open the monitor on 192.0.2.1:0: this host has no such address: "
        "choose another --monitor"
    )


def test_a_place_that_is_none_is_told(root: Path) -> None:
    done = run("serve", root, "--monitor", "here", cwd=root)
    assert done.returncode == 2
    assert "no place of a monitor" in done.stderr.decode()
