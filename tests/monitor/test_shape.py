"""Servers that are none, or others: whatever they say, no reader of a channel falls over it."""

import io
import json
import math
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import redirect_stderr, redirect_stdout
from typing import Any

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from tests.monitor.happening import NOON, Happening
from tests.monitor.messages import check as check_strictly
from tests.wirepeer import PATIENCE
from tftp.cli.events import command as events_command
from tftp.cli.top import command as top_command
from tftp.errors import Refused
from tftp.events import Event, Operation, Outcome, as_json
from tftp.monitor.board import Board
from tftp.monitor.dashboard.view import View
from tftp.monitor.dashboard.watch import Watch
from tftp.monitor.feed import Feed, Message
from tftp.monitor.screen import Look, lines, report
from tftp.monitor.shape import ShapeError, check
from tftp.monitor.top import Top

LIMITS = {"max_transfers": 5000, "max_blksize": 65464, "max_windowsize": 64}


def real_messages() -> list[Message]:
    """What a server says in a while, one of each kind."""
    board, said = Board(), []

    def tell(sequence: int, event: Event) -> None:
        said.append({**as_json(event), "sequence": sequence})

    one, two, three = Happening(1), Happening(2, operation=Operation.WRITE), Happening(3)
    before: list[Event] = [one.received(), one.started(), two.received(), three.refused()]
    for event in before:
        board(event)
    board(Happening(4).ended(Outcome.TIMED_OUT, Refused("silent"), payload=7))
    snapshot = {"event": "snapshot", "state": "serving", "limits": LIMITS, **board.snapshot()}
    board.follow(tell)
    five = Happening(5)
    now: list[Event] = [two.started(size=None), one.progress(512, at=0.5), five.received()]
    for event in (*now, one.ended(payload=4096), five.refused(), two.ended(Outcome.ABORTED)):
        board(event)
    return [
        {
            **{"event": "greeting", "protocol": 1, "access": "act", "version": "1.2.3"},
            **{"engine": "threads", "addresses": ["192.0.2.1:69"], "host": "boot", "pid": 1},
            **{"started": NOON, "time": NOON},
        },
        snapshot,
        *said,
        {"event": "state", "time": NOON, "state": "draining", "limits": LIMITS},
        {"event": "totals", "state": "draining", **board.totals()},
        {"event": "lost", "time": NOON, "progress": 3, "others": 1},
        {"event": "reply", "command": "limits", "id": 1, "result": LIMITS},
        {"event": "error", "command": None, "id": None, "message": "what?"},
        {"event": "bye", "time": NOON, "message": "the server stops", "final": False},
    ]


REAL: list[Message] = json.loads(json.dumps(real_messages()))


@pytest.mark.parametrize("message", REAL, ids=lambda message: message["event"])
def test_what_a_server_says_is_of_the_protocol(message: Message) -> None:
    check_strictly(message)
    check(message)


@pytest.mark.parametrize("message", REAL, ids=lambda message: message["event"])
def test_members_and_words_that_are_not_known_are_passed_over(message: Message) -> None:
    later = json.loads(json.dumps(message), object_hook=lambda part: part | {"later": [{}, None]})
    # Where an object has any names, a new name may not bring a new type.
    for part in ("asked", "granted", "outcomes"):
        for owner in owners(later, part):
            owner[part].pop("later")
    check(later)


def owners(value: Any, name: str) -> Iterator[dict[str, Any]]:
    """Every object in it that has a member of this name."""
    if isinstance(value, list):
        for inner in value:
            yield from owners(inner, name)
    elif isinstance(value, dict):
        if isinstance(value.get(name), dict):
            yield value
        for inner in value.values():
            yield from owners(inner, name)


def test_of_a_kind_that_is_not_known_only_the_size_counts() -> None:
    check({"event": "some-day", "time": "noon", "deep": [[[[]]]]})


@pytest.mark.parametrize(
    ("change", "fault"),
    [
        ({"counters": None}, '"progress": counters is no object'),
        ({"counters": {}}, '"progress": counters.payload is missing'),
        ({"transfer": True}, '"progress": transfer is no count'),
        ({"transfer": 1.5}, '"progress": transfer is no count'),
        ({"peer": 7}, '"progress": peer is no text'),
        ({"size": "big"}, '"progress": size is no count'),
        ({"round_trip": -1}, '"progress": round_trip is no amount'),
        ({"time": 1e12}, '"progress": time is no time'),
        ({"asked": {"blksize": 1428}}, '"progress": asked is no text'),
        ({"size": 1 << 65}, '"progress": a number in it is too large'),
        ({"later": math.inf}, '"progress": a number in it is too large'),
        ({"later": math.nan}, '"progress": a number in it is too large'),
        ({"later": "x" * (1 << 19)}, '"progress": something in it is too long'),
        ({"later": json.loads("[" * 50 + "]" * 50)}, '"progress": it is nested too deeply'),
    ],
)
def test_a_fault_is_named(change: Message, fault: str) -> None:
    [progress] = [message for message in REAL if message["event"] == "progress"]
    with pytest.raises(ShapeError) as raised:
        check({**progress, **change})
    assert str(raised.value) == fault


def test_a_fault_in_a_list_is_named_with_its_place() -> None:
    snapshot = json.loads(json.dumps(REAL[1]))
    del snapshot["transfers"][1]["counters"]["gaps"]
    with pytest.raises(ShapeError, match=r'"snapshot": transfers.1.counters.gaps is missing'):
        check(snapshot)


# -- readers, and what servers could say to them ---------------------------------------------------


class Speaker:
    """A listener that says the same to everybody, and then closes its side."""

    def __init__(self) -> None:
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.place = f"127.0.0.1:{self._listener.getsockname()[1]}"
        self.speech = b""
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def close(self) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._thread.join()
        self._listener.close()

    def _run(self) -> None:
        while True:
            try:
                sock, _ = self._listener.accept()
            except OSError:
                return  # The test is over.
            with sock:
                sock.settimeout(PATIENCE)
                self._speak(sock)

    def _speak(self, sock: socket.socket) -> None:
        try:
            sock.sendall(self.speech)
            sock.shutdown(socket.SHUT_WR)
            while sock.recv(4096):
                pass
        except ConnectionError:
            return  # The other side has heard enough.


@pytest.fixture(scope="module")
def speaker() -> Iterator[Speaker]:
    found = Speaker()
    yield found
    found.close()


def look_at_everything(place: str) -> list[Message]:
    """Have every reader read what is said there, and do what people do with it."""
    messages = list(Feed(place, reconnect=False))
    last = messages[-1]
    assert (last["event"], last["retry"]) == ("disconnected", None)
    watch_full_screen(place, messages)
    watch_page(place, messages)
    for arguments in (["--json", "--kind", "all"], ["--kind", "all", "--where", "error.code=1"]):
        assert run(events_command, *arguments, "--no-reconnect", place) == 1
    for arguments in (["--json"], ["--once"]):
        assert run(top_command, *arguments, place) in (0, 1)
    return messages


def run(command: Any, *arguments: str) -> int:
    """Run a verb in this process; gives its exit code."""
    with redirect_stdout(io.StringIO()) as out, redirect_stderr(io.StringIO()):
        code: int = command.main(list(arguments), standalone_mode=False)
    for line in out.getvalue().splitlines():
        assert line.isprintable()
        if "--json" in arguments:
            json.loads(line, parse_constant=lambda name: pytest.fail(f"{name} is no JSON"))
    return code


def watch_full_screen(place: str, messages: list[Message]) -> None:
    top = Top([place])
    looks = [Look(80, 24, NOON, 5.0), Look(200, 60, NOON, 5.0, ascii_only=True)]
    for message, key in zip(messages, "sSRfcndyrtkj?qsSRfcndyr", strict=False):
        top.apply(message, 5.0)
        top.press(key, 5.0)
        for look in looks:
            drawn = [line.plain for line in lines(top, look)]
            assert len(drawn) == look.height
            assert all(line.isprintable() for line in drawn)
        report(top, Look(140, None, NOON, 5.0))


def watch_page(place: str, messages: list[Message]) -> None:
    watch = Watch([place])
    view = View(watch)
    for message in messages:
        with watch.scenes() as scenes:
            scenes[place].apply(message)
            scenes[place].answered()
        json.dumps(view.step(), allow_nan=False)


_TEXTS = st.sampled_from(
    ["", "read", "ended", "x" * 3000, "\x1b[31m\x07", "\ud800\u202e", "__proto__", "no\nline"]
)
_NUMBERS = st.sampled_from(
    [0, -1, 1, 7, 1 << 53, 1 << 64, 1 << 65, 10**400, 0.5, -0.5, 1e300, -1e18, math.inf, math.nan]
)
_RUBBISH: st.SearchStrategy[Any] = st.recursive(
    st.none() | st.booleans() | _NUMBERS | _TEXTS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(_TEXTS, inner, max_size=3),
    max_leaves=5,
) | st.builds(lambda: json.loads("[" * 60 + "]" * 60))


def places(value: Any) -> list[tuple[Any, Any]]:
    """Every owner of a value in it, with its name or number there."""
    names: Any = list(value) if isinstance(value, dict) else range(len(value))
    found = [(value, name) for name in names]
    for _, name in list(found):
        if isinstance(value[name], dict | list):
            found += places(value[name])
    return found


@st.composite
def almost_real(draw: st.DrawFn) -> bytes:
    """What a server says, with a few things in it that are not as they should be."""
    said = json.loads(json.dumps(REAL))
    for _ in range(draw(st.integers(1, 3))):
        message = said[draw(st.integers(0, len(said) - 1))]
        found = places(message)
        if not found:
            continue
        owner, name = found[draw(st.integers(0, len(found) - 1))]
        match draw(st.sampled_from(["other", "other", "less", "more"])):
            case "other":
                owner[name] = draw(_RUBBISH)
            case "less":
                del owner[name]
            case "more" if isinstance(owner, dict):
                owner[draw(_TEXTS)] = draw(_RUBBISH)
            case _:
                owner.append(owner[name])
    return b"".join(json.dumps(message).encode() + b"\n" for message in said)


@st.composite
def almost_lines(draw: st.DrawFn) -> bytes:
    """The same with octets that are not as they should be."""
    said = bytearray(b"".join(json.dumps(message).encode() + b"\n" for message in REAL))
    for _ in range(draw(st.integers(1, 4))):
        here = draw(st.integers(0, len(said)))
        said[here : here + draw(st.integers(0, 30))] = draw(st.binary(max_size=10))
    return bytes(said)


_READ_BY_ALL = settings(
    max_examples=120, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)


def lines_of(change: Callable[[list[Message]], None]) -> bytes:
    said = json.loads(json.dumps(REAL))
    change(said)
    return b"".join(json.dumps(message).encode() + b"\n" for message in said)


@_READ_BY_ALL
@given(almost_real())
@example(lines_of(lambda said: said[1]["totals"].update(later=5)))
@example(lines_of(lambda said: said[1]["transfers"][0].update(size=1 << 64, rate=-1e18)))
@example(lines_of(lambda said: said[0].update(started=0, time=253_402_300_799)))
@example(lines_of(lambda said: said.insert(2, {"event": "disconnected", "retry": None})))
@example(lines_of(lambda said: said[2].update(x="@")).replace(b'"@"', b"[" * 900 + b"]" * 900))
@example(lines_of(lambda said: said[2].update(x="@")).replace(b'"@"', b"9" * 5000))
def test_a_server_that_is_almost_one_ends_no_reader(speaker: Speaker, said: bytes) -> None:
    speaker.speech = said
    look_at_everything(speaker.place)


@_READ_BY_ALL
@given(almost_lines())
def test_lines_that_are_almost_some_end_no_reader(speaker: Speaker, said: bytes) -> None:
    speaker.speech = said
    look_at_everything(speaker.place)


def test_a_real_server_is_read_to_its_end(speaker: Speaker) -> None:
    speaker.speech = lines_of(lambda said: None)
    messages = look_at_everything(speaker.place)
    assert [message["event"] for message in messages[:-1]] == [message["event"] for message in REAL]
    assert messages[-1]["reason"] == "the server stops"
