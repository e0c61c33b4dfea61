"""`tftp events`, run for real: its lines, its choice of them, and its end."""

import json
import os
import re
import signal
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.cli.running import PATIENCE, Running, one_line, run, running
from tests.monitor.happening import Happening
from tests.monitor.impostor import GREETING, Impostor
from tests.monitor.operating import Watched, watched
from tests.watching import eventually
from tests.wirepeer import WirePeer
from tftp.errors import Refused, TransferTimeout
from tftp.events import Event, Outcome, as_json
from tftp.monitor.reader import Reader

TOKEN = "correct horse"  # noqa: S105


@pytest.fixture
def server(root: Path) -> Iterator[Watched]:
    """A server that can be watched."""
    with watched("threads", root) as found:
        yield found


@contextmanager
def following(server: Watched, *options: str, cwd: Path) -> Iterator[Running]:
    """The command, when it has connected and said what it wants."""
    before = listening(server)
    with running("events", str(server.place), *options, cwd=cwd) as events:
        # One that has been there before may leave meanwhile.
        assert eventually(lambda: bool(listening(server) - before), PATIENCE)
        yield events
        if events.process.poll() is None:
            events.signal(signal.SIGTERM)
            events.wait()


def listening(server: Watched) -> set[Reader]:
    """The readers of a channel that have chosen what they want, and have the snapshot."""
    readers = [reader for reader in server.channel._readers if reader.after is not None]
    return {reader for reader in readers if reader.kinds and reader.kinds != _AT_FIRST}


_AT_FIRST = frozenset({"received", "refused", "started", "progress", "ended", "state"})


def test_lines_tell_what_happens(server: Watched, here: Path) -> None:
    with following(server, cwd=here) as events, WirePeer(server.address) as peer:
        peer.read("lines.txt", blksize=512, tsize=0)
        client = re.escape(f"127.0.0.1:{peer.address[1]} get lines.txt: ")
        stamp = r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d "
        for words in (
            "asked, octet, blksize 512, tsize 0",
            "started, 8 bytes, blksize 512",
            r"done, 8 bytes in 0\.\d{3} s, .*B/s, blksize 512, 0 retransmissions",
        ):
            assert re.fullmatch(stamp + client + words, events.stdout.next())
        peer.rrq("none")
        events.stdout.next()
        assert events.stdout.next().endswith("get none: refused: file not found (error 1)")


def test_json_lines_are_those_of_the_channel(server: Watched, here: Path) -> None:
    with following(server, "--json", "--kind", "ended", cwd=here) as events:
        server.board(Happening(7).ended(payload=9))
        record = json.loads(events.stdout.next())
    assert record["event"] == "ended"
    assert record["transfer"] == 7
    assert record["counters"]["payload"] == 9
    assert record["server"] == str(server.place)
    assert record["sequence"] == 1


def test_every_kind_has_a_line(server: Watched, here: Path) -> None:
    one = Happening(7)
    with following(server, "--kind", "all", cwd=here) as events:
        for event in (
            one.received(),
            one.started(size=None),
            one.progress(5, at=1.0),
            one.ended(Outcome.TIMED_OUT, TransferTimeout("no answer")),
            Happening(8).refused(Refused("no", 2)),
        ):
            server.board(event)
        server.server.pause()
        wanted = [
            "asked, octet",
            "started, size unknown, blksize 1428, windowsize 16",
            "5 of 4096 bytes so far",
            "timed-out: no answer (error 0), 0 bytes in 1.000 s",
            "refused: no (error 2)",
            "draining, max_transfers 5000",
            "0 running, 2 requests, 1 refused",
        ]
        while wanted:
            line = events.stdout.next()
            wanted = [words for words in wanted if words not in line]


@pytest.mark.parametrize(
    "condition",
    [
        "outcome=timed-out",
        "error.code=3",
        "file=boot/*",
        "transfer=2",
        "counters.payload=7?",
        "granted.blksize=1428",
    ],
)
def test_a_condition_chooses_lines(server: Watched, here: Path, condition: str) -> None:
    others = Happening(1, b"other")
    others.granted = {}
    error = TransferTimeout("no answer", 3)
    with following(
        server, "--kind", "ended", "--where", condition, "--count", "1", "--json", cwd=here
    ) as events:
        server.board(others.ended(payload=7))
        server.board(Happening(2).ended(Outcome.TIMED_OUT, error, payload=70))
        assert json.loads(events.stdout.next())["transfer"] == 2
        assert events.wait() == 0


def test_all_conditions_must_hold(server: Watched, here: Path) -> None:
    options = ["--where", "file=a", "--where", "peer=192.0.2.8:*", "--kind", "ended", "--json"]
    with following(server, *options, cwd=here) as events:
        server.board(Happening(1, b"a", "192.0.2.7").ended())
        server.board(Happening(2, b"b", "192.0.2.8").ended())
        server.board(Happening(3, b"a", "192.0.2.8").ended())
        assert json.loads(events.stdout.next())["transfer"] == 3


def test_a_condition_on_null_can_be_written(server: Watched, here: Path) -> None:
    options = ["--where", "error=null", "--kind", "ended", "--json"]
    with following(server, *options, cwd=here) as events:
        server.board(Happening(1).ended(Outcome.TIMED_OUT, TransferTimeout("no")))
        server.board(Happening(2).ended())
        assert json.loads(events.stdout.next())["transfer"] == 2


def test_so_many_lines_and_no_more(server: Watched, here: Path) -> None:
    with following(server, "--count", "2", "--kind", "ended", cwd=here) as events:
        for number in range(5):
            server.board(Happening(number).ended())
        assert len(events.stdout.rest()) == 2
        assert events.wait() == 0


def test_without_reconnect_a_server_that_stops_is_the_end(server: Watched, here: Path) -> None:
    with following(server, "--no-reconnect", cwd=here) as events:
        server.channel.stop()
        assert events.wait() == 1
        assert events.stderr.next() == f"tftp: {server.place}: the server stops"


def test_a_server_that_is_not_there_is_told(here: Path) -> None:
    done = run("events", "--no-reconnect", "127.0.0.1:1", cwd=here)
    assert done.returncode == 1
    assert one_line(done.stderr) == (
        "tftp: 127.0.0.1:1: Connection refused: is it the place of --monitor?"
    )


def test_where_no_server_has_been_yet_the_place_may_be_wrong(root: Path, here: Path) -> None:
    place = f"unix:{here}/monitor"
    with running("events", place, "--kind", "ended", cwd=here) as events:
        told = events.stderr.next()
        assert told == (
            f"tftp: {place}: No such file or directory; trying again in 0.25 s: "
            "is it the place of --monitor?"
        )
        with watched("threads", root, place=place) as server:
            assert eventually(lambda: bool(listening(server)))
        while "the server stops" not in (told := events.stderr.next()):
            pass
        assert "is it the place" not in told
        events.signal(signal.SIGTERM)
        events.wait()


@pytest.mark.parametrize("servers", [1, 2])
def test_it_ends_when_nobody_reads_its_lines(
    server: Watched, root: Path, here: Path, servers: int
) -> None:
    """As before `head -1`: at once, not with the next event, and as if all were well."""
    with ExitStack() as stack:
        more = [stack.enter_context(watched("threads", root)) for _ in range(servers - 1)]
        places = [str(one.place) for one in (server, *more)]
        ours, its = os.pipe()
        events = stack.enter_context(
            running("events", *places, "--kind", "ended", cwd=here, stdout=its)
        )
        os.close(its)
        assert eventually(lambda: bool(listening(server)))
        server.board(Happening(1).ended())
        assert os.read(ours, 4096)
        os.close(ours)
        assert events.wait() == 0
        assert events.stderr.rest() == []


def test_a_lost_connection_is_told_and_made_again(root: Path, here: Path) -> None:
    with (
        watched("threads", root, place=f"unix:{here}/monitor") as server,
        following(server, "--kind", "ended", cwd=here) as events,
    ):
        server.channel.stop()
        told = events.stderr.next()
        assert told.startswith(f"tftp: unix:{here}/monitor: the server stops; trying again in")
        with watched("threads", root, place=f"unix:{here}/monitor") as again:
            assert eventually(lambda: bool(listening(again)))
            again.board(Happening(5, b"new").ended())
            assert " get new: done" in events.stdout.next()


def test_several_servers_are_told_apart(root: Path, here: Path) -> None:
    with (
        watched("threads", root) as one,
        watched("threads", root) as other,
        following(one, str(other.place), "--kind", "ended", cwd=here) as events,
    ):
        assert eventually(lambda: bool(listening(one) and listening(other)))
        other.board(Happening(1).ended())
        assert f" {other.place} 192.0.2.7:49152 get " in events.stdout.next()


def test_the_token_comes_from_a_file_or_the_environment(root: Path, here: Path) -> None:
    (here / "token").write_text(f"{TOKEN}\n")
    (here / "wrong").write_text("guess")
    with watched("threads", root, place="0.0.0.0:0", token=TOKEN) as server:
        place = f"127.0.0.1:{server.place.port}"
        done = run("events", place, "--token-file", "wrong", cwd=here)
        assert done.returncode == 1
        remedy = "give it with --token-file or TFTP_MONITOR_TOKEN"
        assert one_line(done.stderr) == f"tftp: {place}: this is not the token: {remedy}"
        done = run("events", place, cwd=here)
        assert one_line(done.stderr) == f"tftp: {place}: the server wants a token: {remedy}"
        with running("events", place, "--token-file", "token", "--count", "1", cwd=here) as events:
            assert eventually(lambda: bool(listening(server)))
            server.board(Happening(1).ended())
            assert events.wait() == 0


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["nowhere"], "no place of a monitor"),
        (["--where", "outcome"], "write FIELD=VALUE"),
        (["--where", "bogus=1"], "'bogus' is no field of these kinds: asked, counters, "),
        (["--where", "outcome=done", "--kind", "received"], "'outcome' is no field of these kinds"),
        (["--kind", "wild"], "'wild' is not one of"),
        (["--count", "0"], "0 is not in the range"),
        (["--token-file", "none"], "cannot read the token in none"),
    ],
)
def test_wrong_usage_is_told(here: Path, arguments: list[str], words: str) -> None:
    done = run("events", *arguments, cwd=here)
    assert done.returncode in (1, 2)
    assert words in done.stderr.decode()


def test_what_a_server_sends_cannot_write_on_a_terminal(
    server: Watched, here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Names come printable; a server that does not keep to that is not trusted more."""

    def as_told(event: Event) -> dict[str, Any]:
        return as_json(event) | {"file": "\x1b[2J"}

    monkeypatch.setattr("tftp.monitor.channel.as_json", as_told)
    with following(server, "--kind", "ended", cwd=here) as events:
        server.board(Happening(1).ended())
        assert r"get \x1b[2J: done" in events.stdout.next()


def test_a_line_of_json_is_written_as_it_came_if_a_terminal_can_take_it(here: Path) -> None:
    ended = as_json(Happening(1).ended()) | {"sequence": 1}
    plain = json.dumps(ended | {"news": [1, {"more": 0.5}]}, separators=(",", ":"))
    odd = json.dumps(ended | {"file": "\x9b2J"}, ensure_ascii=False)
    impostor = Impostor(GREETING + f"{plain} \r\n{odd}\n".encode())
    place = str(impostor.place)
    options = ("--kind", "ended", "--json", "--no-reconnect")
    done = run("events", place, *options, cwd=here)
    impostor.close()
    first, second = done.stdout.decode("ascii").splitlines()
    assert first == plain[:-1] + f', "server": "{place}"}}'
    assert json.loads(second) == json.loads(odd) | {"server": place}


def test_lines_are_seen_before_the_next_come(server: Watched, here: Path) -> None:
    for options in ((), ("--json",)):
        with following(server, *options, "--kind", "ended", cwd=here) as events:
            for number in range(3):
                server.board(Happening(number).ended())
                events.stdout.next()
