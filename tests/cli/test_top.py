"""`tftp top`, run for real: on a terminal with a real server behind it, and in pipes."""

import json
import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.cli.conftest import CONTENT
from tests.cli.fullscreen import Screen, on_screen
from tests.cli.running import Peer, run, running
from tests.watching import eventually
from tftp.client import Client
from tftp.errors import PeerError
from tftp.monitor.board import Board
from tftp.monitor.channel import Channel
from tftp.monitor.place import Place
from tftp.packets import Ack, Error, OptionAck, ReadRequest
from tftp.server import Server
from tftp.storage import Directory

TOKEN = "correct horse"  # noqa: S105


class Watched:
    """A server over `root`, and where it can be watched."""

    def __init__(self, root: Path, place: str, token: str | None) -> None:
        self.board = Board()
        self.server = Server(Directory(root), observers=[self.board])
        self.server.start()
        self._token = token
        self.place = str(self.open(place))

    def open(self, place: str) -> Place:
        """Let it be watched there."""
        channel = Channel(
            self.board, self.server, Place.parse(place), token=self._token, version="1.2.3"
        )
        channel.start()
        self.shut = channel.stop
        return channel.places[0]

    def get(self, name: str) -> None:
        with Client(*self.server.address[:2]) as client:
            client.get(name, bytearray())

    def begin(self, peer: Peer, name: bytes = b"boot/kernel.bin") -> None:
        """Have a peer fetch half of a file; it does nothing more then."""
        request = ReadRequest(name, "octet", {"blksize": "1024", "tsize": "0"})
        peer.send(request, self.server.address)
        assert peer.receive_a(OptionAck).options["tsize"] == str(len(CONTENT))
        for block in range(6):
            peer.send(Ack(block))
            peer.receive()


@contextmanager
def watching(root: Path, place: str = "0", *, token: str | None = None) -> Iterator[Watched]:
    watched = Watched(root, place, token)
    try:
        yield watched
    finally:
        watched.shut()
        watched.server.stop()


@pytest.fixture
def watched(root: Path) -> Iterator[Watched]:
    """A server that can be watched."""
    with watching(root) as watched:
        yield watched


@pytest.fixture
def screen(watched: Watched, here: Path) -> Iterator[Screen]:
    """The view of it, on a terminal of 80 columns, with the server on it."""
    with on_screen("top", watched.place, cwd=here) as screen:
        screen.see(rf"{watched.place} +serving ")
        yield screen
        if screen.process.poll() is None:
            screen.type("q")
            assert screen.wait() == 0
        assert "Traceback" not in screen.written


def test_transfers_failures_and_totals_are_on_the_screen_as_they_happen(
    watched: Watched, screen: Screen, peer: Peer
) -> None:
    screen.see("no transfer is running")
    watched.begin(peer)
    screen.see(r"> 127\.0\.0\.1 +get boot/kernel\.bin ━+─+ +\d\d % +")
    with pytest.raises(PeerError):
        watched.get("missing")
    screen.see(r"get missing +refused: file not found \(1\)")
    watched.get("lines.txt")
    screen.see(rf"{watched.place} +serving +1 +1 +0 +1 ")


def test_a_transfer_is_cancelled_from_the_keyboard(
    watched: Watched, screen: Screen, peer: Peer
) -> None:
    watched.begin(peer)
    screen.see("running 1 ")
    screen.type("c")
    screen.see(rf"cancel get boot/kernel\.bin of 127\.0\.0\.1:{peer.port}\? y/n")
    assert watched.server.running == 1
    screen.type("y")
    assert peer.receive_a(Error) == Error(0, "cancelled by the operator")
    screen.see(r"transfer 1 at \S+ was told to end")
    screen.see(r"get boot/kernel\.bin +aborted: cancelled by")
    screen.see("no transfer is running")


def test_a_server_is_drained_and_takes_requests_again(watched: Watched, screen: Screen) -> None:
    screen.type("d")
    screen.see(rf"refuse new requests at {watched.place}\? y/n")
    assert watched.server.state == "serving"
    screen.type("y")
    screen.see(rf"{watched.place} +draining ")
    with pytest.raises(PeerError, match="draining"):
        watched.get("lines.txt")
    screen.type("r")
    screen.see(rf"{watched.place} +serving ")
    watched.get("lines.txt")


def test_a_lost_connection_is_shown_and_made_again(watched: Watched, screen: Screen) -> None:
    watched.shut()
    screen.see(rf"{watched.place}  not connected: .+(again in \d|connecting again)")
    watched.open(watched.place)
    screen.see(rf"{watched.place} +serving ")


def test_keys_sort_and_explain(watched: Watched, screen: Screen, peer: Peer) -> None:
    watched.begin(peer)
    screen.see("sorted by age")
    screen.type("s")
    screen.see("sorted by rate")
    screen.type("?")
    screen.see("─ keys ─")
    screen.type("x")
    screen.see("sorted by rate")
    screen.type("\x1b[Z\x1b[A\x1bOB")
    screen.see("running 1")


@pytest.mark.parametrize(
    ("keys", "status"), [("q", 0), ("\x03", 128 + signal.SIGINT)], ids=["q", "Ctrl-C"]
)
def test_the_terminal_is_given_back_as_it_was(screen: Screen, keys: str, status: int) -> None:
    assert not screen.cooked
    screen.type(keys)
    assert screen.wait() == status
    assert screen.cooked
    # The cursor is there again, and so is what was on the screen before.
    assert "\x1b[?1049h" in screen.written
    assert screen.written.rindex("\x1b[?1049l") > screen.written.rindex("\x1b[?1049h")
    assert screen.written.rindex("\x1b[?25h") > screen.written.rindex("\x1b[?25l")


def test_a_signal_gives_the_terminal_back_too(screen: Screen) -> None:
    screen.process.send_signal(signal.SIGTERM)
    assert screen.wait() == 128 + signal.SIGTERM
    assert screen.cooked
    assert screen.written.rindex("\x1b[?1049l") > screen.written.rindex("\x1b[?1049h")


def test_ctrl_z_gives_the_terminal_to_the_shell_until_it_is_continued(screen: Screen) -> None:
    screen.type("\x1a")
    os.waitid(os.P_PID, screen.process.pid, os.WSTOPPED)
    assert screen.cooked
    screen.process.send_signal(signal.SIGCONT)
    assert eventually(lambda: not screen.cooked)
    # It still obeys.
    screen.type("?")
    screen.see("─ keys ─")
    screen.type("x")


def test_it_ends_when_its_terminal_is_gone(screen: Screen) -> None:
    assert screen.hang_up() == 128 + signal.SIGHUP


def test_it_follows_the_size_of_the_window(screen: Screen) -> None:
    screen.see(r"\A(.{80}\n){23}q quit")
    screen.resize(120, 30)
    screen.see(r"\A(.{120}\n){29}q quit")
    screen.resize(40, 5)
    screen.see(r"\A(.{40}\n){4}q quit")


def test_in_a_terminal_of_ascii_letters_nothing_else_is_written(
    watched: Watched, here: Path, peer: Peer
) -> None:
    watched.begin(peer)
    variables = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0", "NO_COLOR": "1"}
    with on_screen("top", watched.place, cwd=here, variables=variables) as screen:
        screen.see(r"get boot/kernel\.bin #+\.+ ")
        screen.type("q")
        assert screen.wait() == 0
        assert screen.written.isascii()
        assert "\x1b[31m" not in screen.written


def test_many_servers_are_on_one_screen(root: Path, here: Path, tmp_path: Path, peer: Peer) -> None:
    path = f"unix:{tmp_path}/monitor"
    with (
        watching(root) as one,
        watching(root, path) as other,
        on_screen("top", one.place, path, cwd=here, size=(200, 50)) as screen,
    ):
        other.begin(peer)
        screen.see(rf"{one.place} +serving ")
        screen.see(rf"{path} +serving ")
        screen.see(r"get boot/kernel\.bin +━")
        screen.type("\t")
        screen.see(rf"running 0 at {one.place}")
        screen.type("\td")
        screen.see(rf"refuse new requests at {path}\? y/n")
        screen.type("yq")
        assert screen.wait() == 0
        assert eventually(lambda: other.server.state == "draining")
        assert one.server.state == "serving"


def test_a_token_lets_act(root: Path, here: Path) -> None:
    (here / "token").write_text(f"{TOKEN}\n")
    with watching(root, token=TOKEN) as watched:
        with on_screen("top", watched.place, cwd=here) as screen:
            screen.see("serving")
            screen.type("d")
            screen.see("wants a token: start with --token-file or TFTP_MONITOR_TOKEN")
            screen.type("q")
            assert screen.wait() == 0
        with on_screen("top", watched.place, "--token-file", "token", cwd=here) as screen:
            screen.see("serving")
            screen.type("dy")
            screen.see("draining")
            screen.type("q")
            assert screen.wait() == 0
        variables = {"TFTP_MONITOR_TOKEN": TOKEN}
        with on_screen("top", watched.place, cwd=here, variables=variables) as screen:
            screen.see("draining")
            screen.type("r")
            screen.see("serving")
            screen.type("q")
            assert screen.wait() == 0


def test_a_wrong_token_ends_it_with_the_reason(root: Path, here: Path) -> None:
    (here / "token").write_text("wrong")
    with (
        watching(root, token=TOKEN) as watched,
        on_screen("top", watched.place, "--token-file", "token", cwd=here) as screen,
    ):
        assert screen.wait() == 1
        assert screen.written.rstrip().endswith(
            f"tftp: {watched.place}: this is not the token: "
            "give it with --token-file or TFTP_MONITOR_TOKEN"
        )
        assert screen.cooked


def test_once_prints_what_is_true_now(watched: Watched, here: Path, peer: Peer) -> None:
    watched.begin(peer)
    with pytest.raises(PeerError):
        watched.get("\x1b[2J")
    done = run("top", watched.place, "--once", cwd=here)
    assert (done.returncode, done.stderr) == (0, b"")
    text = done.stdout.decode()
    assert "\x1b" not in text
    server, transfer = (line.split() for line in text.splitlines()[1:5:3])
    assert server[:4] == [watched.place, "serving", "threads", "1"]
    assert transfer[1:4] == [f"127.0.0.1:{peer.port}", "get", "boot/kernel.bin"]
    assert text.rstrip().endswith(
        r"get \x1b[2J                             refused: file not found (1)"
    )


def test_json_is_an_object_on_a_line_for_each_server(
    watched: Watched, here: Path, peer: Peer
) -> None:
    watched.get("lines.txt")
    away = f"127.0.0.1:{peer.port}"  # Of UDP: nothing listens on this TCP port.
    done = run("top", watched.place, away, "--json", cwd=here)
    there, gone = (json.loads(line) for line in done.stdout.splitlines())
    assert (there["server"], there["connected"]) == (watched.place, True)
    assert there["greeting"]["version"] == "1.2.3"
    assert there["snapshot"]["totals"]["read"]["outcomes"]["done"] == 1
    assert gone == {
        "server": away,
        "connected": False,
        "reason": "Connection refused",
    }
    assert done.returncode == 1
    assert b"Connection refused" in done.stderr


@pytest.mark.parametrize(
    ("engine", "options"),
    [("threads", []), ("processes", ["--engine", "processes"]), ("workers", ["--workers", "2"])],
)
def test_it_reads_what_tftp_serve_tells(
    root: Path, here: Path, engine: str, options: list[str]
) -> None:
    arguments = [str(root), "--host", "127.0.0.1", "--port", "0", "--json", "--monitor", "0"]
    with running("serve", *arguments, *options, cwd=here) as server:
        listening = json.loads(server.stdout.next())
        (place,) = listening["monitor"]
        host, _, port = listening["addresses"][0].rpartition(":")
        with Client(host, int(port)) as client:
            client.get("lines.txt", bytearray())
        assert json.loads(server.stdout.next())["event"] == "ended"
        told = json.loads(run("top", place, "--json", cwd=here).stdout)
        assert told["greeting"]["engine"] == engine
        assert told["snapshot"]["totals"]["read"]["outcomes"]["done"] == 1
        server.signal(signal.SIGTERM)
        assert server.wait() == 0


def test_where_nobody_answers_once_says_so_and_ends(here: Path, peer: Peer) -> None:
    done = run("top", f"127.0.0.1:{peer.port}", "--once", cwd=here)
    assert done.returncode == 1
    assert b"not connected: Connection refused" in done.stdout
    assert (
        done.stderr
        == (
            f"tftp: 127.0.0.1:{peer.port}: Connection refused: is it the place of --monitor?\n"
        ).encode()
    )


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ([], "a full screen needs a terminal: add --once or --json"),
        (["nowhere"], "is no place of a monitor"),
        (["--token-file", "missing"], "cannot read the token in missing"),
        (["--sort", "beauty"], "Invalid value for '--sort'"),
    ],
)
def test_wrong_usage_is_told_in_a_line(here: Path, arguments: list[str], words: str) -> None:
    done = run("top", *arguments, cwd=here)
    assert done.returncode in (1, 2)
    assert words in done.stderr.decode()
    assert b"Traceback" not in done.stderr
