"""`tftp serve --monitor`, run for real: where it is, who may look, and what an operator can do."""

import json
import os
import signal
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


def test_a_place_that_is_none_is_told(root: Path) -> None:
    done = run("serve", root, "--monitor", "here", cwd=root)
    assert done.returncode == 2
    assert "no place of a monitor" in done.stderr.decode()
