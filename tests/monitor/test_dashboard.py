"""The page over HTTP: what it sends, what it takes, and from whom."""

import logging
import re
import socket
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any

import pytest

from tests.monitor.browsing import TOKEN, Served, Stream, bearer, page_of
from tests.monitor.crowd import WINDOWSIZE, crowd
from tests.monitor.happening import Happening
from tests.monitor.operating import Watched, watched
from tests.watching import eventually
from tests.wirepeer import WirePeer
from tftp.monitor.dashboard.listening import check_listen, open_listen
from tftp.monitor.place import Place
from tftp.packets import Error

STATIC = files("tftp.monitor.dashboard") / "static"
PATHS = ("/", "/style.css", "/page.js", "/icon.svg")


@pytest.fixture
def page(one: Watched) -> Iterator[Served]:
    """A page that nobody may act on."""
    with page_of([one.place]) as served:
        yield served


@pytest.fixture
def acting(one: Watched) -> Iterator[Served]:
    """A page that takes orders from whoever has the token."""
    with page_of([one.place], token=TOKEN) as served:
        yield served


@dataclass(frozen=True)
class Standing:
    """A watched server with a page that takes orders."""

    one: Watched
    page: Served


@pytest.fixture(scope="module")
def standing(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Standing]:
    """For tests that change nothing: one for all of them."""
    with (
        watched("threads", tmp_path_factory.mktemp("standing")) as one,
        page_of([one.place], token=TOKEN) as page,
    ):
        with page.stream() as stream:
            stream.until(lambda step: step.get("state", {}).get("connected"))
        yield Standing(one, page)


def running(stream: Stream) -> dict[str, Any]:
    """The next transfer that the browser is told of."""
    step = stream.until(lambda step: step.get("transfers", {}).get("new"))
    transfer: dict[str, Any] = step["transfers"]["new"][0]
    return transfer


def ended(stream: Stream, name: str = "endings") -> dict[str, Any]:
    """The next ending, or failure, that the browser is told of."""
    ending: dict[str, Any] = stream.until(lambda step: step.get(name))[name][-1]
    return ending


# -- files -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", [*PATHS, "/events", "/orders", "/nothing", "/../app.py"])
def test_every_answer_carries_the_policy(standing: Standing, path: str) -> None:
    if path == "/events":
        with standing.page.stream() as stream:
            headers = stream.headers
    else:
        headers = standing.page.ask(path).headers
    policy = dict(
        part.split(" ", 1) for part in headers["content-security-policy"].split("; ") if part
    )
    assert policy["default-src"] == "'none'"
    assert policy["script-src"] == policy["style-src"] == policy["connect-src"] == "'self'"
    assert policy["frame-ancestors"] == policy["base-uri"] == "'none'"
    assert headers["x-content-type-options"] == "nosniff"
    assert headers["referrer-policy"] == "no-referrer"
    assert "access-control-allow-origin" not in headers


@pytest.mark.parametrize("path", PATHS)
def test_the_files_are_served_as_what_they_are(standing: Standing, path: str) -> None:
    answer = standing.page.ask(path)
    kinds = {
        "/": "html",
        "/style.css": "css",
        "/page.js": "javascript",
        "/icon.svg": "svg",
    }
    assert answer.status == 200
    assert kinds[path] in answer.headers["content-type"]
    assert answer.body == (STATIC / (path[1:] or "index.html")).read_bytes()


def test_a_file_that_the_browser_has_is_not_sent_again(standing: Standing) -> None:
    tag = standing.page.ask("/page.js").headers["etag"]
    answer = standing.page.ask("/page.js", headers={"If-None-Match": tag})
    assert (answer.status, answer.body) == (304, b"")


def test_the_document_has_nothing_inline_and_nothing_from_elsewhere() -> None:
    document = (STATIC / "index.html").read_text()
    assert not re.search(r"<style|\sstyle=|\son\w+=|javascript:", document)
    assert re.findall(r"<script[^>]*>(.*?)</script>", document) == [""]
    for name in ("index.html", "style.css", "page.js"):
        elsewhere = re.findall(r"(?:https?:)?//[\w.]+\.\w+[^\s\"']*", (STATIC / name).read_text())
        assert set(elsewhere) <= {"http://www.w3.org/2000/svg"}, name


def test_the_script_makes_no_html_of_strings() -> None:
    script = (STATIC / "page.js").read_text()
    assert not re.search(r"(inner|outer)HTML|insertAdjacentHTML|document\.write|\beval\b", script)


# -- the stream ------------------------------------------------------------------------------------


def test_a_browser_is_told_of_a_transfer_from_its_beginning_to_its_end(
    one: Watched, page: Served
) -> None:
    with page.stream() as stream, crowd(one.address, {"127.0.0.7": "large"}) as [reader]:
        assert stream.hello["servers"] == [str(one.place)]
        assert stream.hello["acting"] is False
        transfer = running(stream)
        host, port = reader.address
        assert transfer["peer"] == f"{host}:{port}"
        assert transfer["file"] == "large"
        assert transfer["operation"] == "read"
        assert transfer["granted"]["windowsize"] == str(WINDOWSIZE)
        reader.advance(10_000)
        assert reader.done
        ending = ended(stream)
    assert ending["transfer"] == transfer["transfer"]
    assert ending["outcome"] == "done"
    assert ending["payload"] == reader.octets == 1 << 20


def test_a_browser_sees_a_transfer_move(one: Watched, page: Served) -> None:
    with page.stream() as stream, crowd(one.address, {"127.0.0.7": "large"}) as [reader]:
        number = running(stream)["transfer"]
        reader.advance(3)
        payload = 0
        while payload == 0:
            step = stream.until(lambda step: step.get("transfers", {}).get("moved"))
            [[moved, _state, size, payload, *_rest]] = step["transfers"]["moved"]
            assert (moved, size) == (number, 1 << 20)
        assert payload <= reader.octets


def test_a_browser_that_comes_late_is_told_what_runs_already(one: Watched, page: Served) -> None:
    with crowd(one.address, {"127.0.0.7": "large"}), page.stream() as stream:
        assert running(stream)["file"] == "large"


def test_a_failure_comes_with_its_reason(one: Watched, page: Served) -> None:
    with page.stream() as stream, WirePeer(one.address) as peer:
        peer.rrq("missing")
        assert isinstance(peer.receive(), Error)
        failure = ended(stream, "failures")
    assert failure["outcome"] == "refused"
    assert failure["message"] == "file not found"
    assert failure["file"] == "missing"


def test_totals_and_tallies_add_up_to_what_was_fetched(one: Watched, page: Served) -> None:
    for _ in range(2):
        with WirePeer(one.address, host="127.0.0.8") as peer:
            peer.read("small")
    with page.stream() as stream:
        done: dict[str, list[Any]] = {"clients": [], "files": []}
        while not all(done.values()):
            step = stream.step()
            done |= {name: step[name] for name in done if step.get(name)}
        stream.until(lambda step: step.get("totals", {}).get("read", {}).get("payload") == 1400)
    [client], [file] = done["clients"], done["files"]
    assert (client["client"], client["requests"], client["payload"]) == ("127.0.0.8", 2, 1400)
    assert (file["file"], file["succeeded"], file["failed"]) == ("small", 2, 0)


def test_a_name_can_end_no_line_of_the_stream(one: Watched, page: Served) -> None:
    with page.stream() as stream, WirePeer(one.address) as peer:
        peer.rrq(b"a\n\nevent: hello\ndata: {}\n\n<script>\x1b[2J\xff")
        peer.receive()
        failure = ended(stream, "failures")
    assert failure["file"] == r"a\n\nevent: hello\ndata: {}\n\n<script>\x1b[2J\xff"


def test_a_server_that_goes_and_comes_back_is_shown_as_such(root: Path, tmp_path: Path) -> None:
    place = f"unix:{tmp_path}/monitor"
    with page_of([place]) as page, page.stream() as stream:
        with watched("threads", root, place=place) as one:
            stream.until(lambda step: step.get("state", {}).get("connected"))
            with WirePeer(one.address) as peer:
                peer.read("small")
            ended(stream)
        lost = stream.until(lambda step: "state" in step and not step["state"]["connected"])
        assert lost["state"]["reason"]
        with watched("threads", root, place=place):
            again = stream.until(lambda step: step.get("state", {}).get("connected"))
        # It counts from the beginning, and so must the page.
        assert again["reset"]


def test_the_stream_ends_with_the_page(one: Watched) -> None:
    with ExitStack() as stack:
        with page_of([one.place]) as page:
            stream = stack.enter_context(page.stream())
            stream.step()
        while (event := stream.event()) is not None:
            assert event[0] == "step"


def test_so_many_browsers_and_no_more(page: Served) -> None:
    with ExitStack() as stack:
        for _ in range(32):
            assert stack.enter_context(page.stream()).status == 200
        answer = page.ask("/events")
        assert (answer.status, answer.error) == (503, "32 browsers look already")
    # Those that have gone make room.
    assert eventually(lambda: _status(page) == 200)


def _status(page: Served) -> int:
    with page.stream() as stream:
        return stream.status


def test_a_browser_that_takes_nothing_costs_nothing_and_misses_nothing(
    one: Watched, page: Served
) -> None:
    with page.stream(receive_buffer=4096) as stuck, page.stream() as quick:
        quick.until(lambda step: "state" in step)
        for number in range(1, 3001):
            life = Happening(number, name=b"n" * 250)
            one.board(life.received())
            one.board(life.started())
            one.board(life.progress(1024, at=0.5))
            one.board(life.ended(payload=4096))
        last = Happening(3001, name=b"the last one")
        one.board(last.received())
        quick.until(lambda step: _has(step, "the last one"))
        stuck.until(lambda step: _has(step, "the last one"))
        # Three thousand lives would be megabytes; what is true now is some hundred rows.
        assert stuck.octets < 1_000_000


def _has(step: dict[str, Any], name: str) -> bool:
    return any(row["file"] == name for row in step.get("transfers", {}).get("new", ()))


# -- orders ----------------------------------------------------------------------------------------


def test_whoever_has_the_token_cancels_a_transfer(one: Watched, acting: Served) -> None:
    with acting.stream() as stream, crowd(one.address, {"127.0.0.7": "large"}):
        assert stream.hello["acting"] is True
        number = running(stream)["transfer"]
        answer = acting.order(server=str(one.place), command="cancel", transfer=number)
        assert answer.status == 200
        assert ended(stream, "failures")["outcome"] == "aborted"


def test_whoever_has_the_token_drains_the_server_and_lets_it_serve_again(
    one: Watched, acting: Served
) -> None:
    with acting.stream() as stream:
        stream.until(lambda step: step.get("state", {}).get("connected"))
        for command, state in (("drain", "draining"), ("resume", "serving")):
            assert acting.order(server=str(one.place), command=command).status == 200
            assert one.server.state == state
            while stream.until(lambda step: "state" in step)["state"]["state"] != state:
                pass


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({}, 401),
        ({"Authorization": "Basic Og=="}, 401),
        ({"Authorization": "Bearer"}, 401),
        (bearer("another"), 403),
        (bearer("%ff%fe"), 403),
        ({"Cookie": "token=a%20secret"}, 401),
    ],
)
def test_without_the_token_nothing_is_obeyed(
    standing: Standing, headers: dict[str, str], status: int
) -> None:
    answer = standing.page.order(headers, server=str(standing.one.place), command="drain")
    assert answer.status == status
    assert standing.one.server.state == "serving"
    assert standing.page.ask("/token", "POST", headers=headers).status == status


def test_the_token_can_be_tried(standing: Standing) -> None:
    assert standing.page.ask("/token", "POST", headers=bearer()).status == 204


def test_a_wrong_token_is_logged_with_who_has_shown_it(
    standing: Standing, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING, "tftp"):
        standing.page.ask("/token", "POST", headers=bearer("guess"))
    assert caplog.messages == ["127.0.0.1 has shown a wrong token to the page"]


def test_a_page_without_a_token_obeys_nobody(one: Watched, page: Served) -> None:
    answer = page.order(server=str(one.place), command="drain")
    assert answer.status == 403
    assert "without a token" in answer.error
    assert one.server.state == "serving"


def test_another_site_can_have_a_browser_ask_for_nothing(standing: Standing) -> None:
    preflight = standing.page.ask(
        "/orders",
        "OPTIONS",
        headers={
            "Origin": "https://elsewhere.example",
            "Access-Control-Request-Method": "POST",
            "Access-Control-Request-Headers": "authorization",
        },
    )
    assert preflight.status == 405
    assert not [name for name in preflight.headers if name.lower().startswith("access-control")]


@pytest.mark.parametrize(
    ("body", "status"),
    [
        (b"", 400),
        (b"\xff\xfe", 400),
        (b"[]", 400),
        (b"[" * 4000, 400),
        (b'{"command": "drain"}', 400),
        (b'{"server": 7, "command": "drain"}', 400),
        (b'{"server": "PLACE"}', 400),
        (b'{"server": "PLACE", "command": ["drain"]}', 400),
        (b'{"server": "PLACE", "command": "limits"}', 400),
        (b'{"server": "PLACE", "command": "cancel"}', 400),
        (b'{"server": "PLACE", "command": "cancel", "transfer": true}', 400),
        (b'{"server": "192.0.2.1:1", "command": "drain"}', 404),
        (b'{"server": "PLACE", "command": "cancel", "transfer": 99}', 409),
        (b'{"server": "PLACE", "command": "cancel", "transfer": -1}', 409),
        (b" " * 5000, 413),
    ],
)
def test_an_order_that_makes_no_sense_is_refused_with_a_reason(
    standing: Standing, body: bytes, status: int
) -> None:
    body = body.replace(b"PLACE", str(standing.one.place).encode())
    answer = standing.page.ask("/orders", "POST", body=body, headers=bearer())
    assert answer.status == status
    assert answer.error
    assert standing.one.server.state == "serving"


def test_an_order_for_a_server_that_is_out_of_reach_says_so(tmp_path: Path) -> None:
    place = f"unix:{tmp_path}/nobody"
    with page_of([place], token=TOKEN) as page:
        answer = page.order(server=place, command="drain")
    assert (answer.status, answer.error) == (502, f"{place} is not connected")


@pytest.mark.parametrize(
    "junk",
    [b"\x00\x01boot\x00octet\x00", b"GET", b"POST /orders HTTP/1.1\r\nContent-Length: x\r\n\r\n"],
)
def test_junk_ends_one_connection_and_no_page(standing: Standing, junk: bytes) -> None:
    with standing.page.connect() as sock:
        sock.sendall(junk)
        sock.shutdown(socket.SHUT_WR)
        while sock.recv(4096):
            pass
    assert standing.page.ask("/").status == 200


# -- who may look ----------------------------------------------------------------------------------


def test_a_page_for_other_hosts_shows_nothing_without_the_token(one: Watched) -> None:
    with page_of([one.place], token=TOKEN, local=False) as page:
        assert page.ask("/").status == 200
        assert page.ask("/events").status == 401
        assert page.ask("/events", headers=bearer("another")).status == 403
        with page.stream(bearer()) as stream:
            assert stream.step()


@pytest.mark.parametrize("host", ["elsewhere.example", "192.0.2.1", "127.0.0.1.example", "", "[::"])
def test_a_page_for_this_host_answers_to_no_other_name(standing: Standing, host: str) -> None:
    assert standing.page.ask("/events", headers={"Host": host}).status == 421


@pytest.mark.parametrize("host", ["localhost", "127.0.0.1:8080", "[::1]:6980", "127.7.7.7"])
def test_a_page_for_this_host_answers_to_its_names(standing: Standing, host: str) -> None:
    assert standing.page.ask("/", headers={"Host": host}).status == 200


@pytest.mark.parametrize("place", ["0.0.0.0:1", "192.0.2.1:80", "[2001:db8::1]:80", "host:80"])
def test_a_page_beyond_this_host_demands_a_token(place: str) -> None:
    with pytest.raises(ValueError, match="set a token"):
        check_listen(Place.parse(place), None)
    check_listen(Place.parse(place), TOKEN)


def test_a_page_is_not_at_a_unix_socket() -> None:
    with pytest.raises(ValueError, match="browsers open no Unix sockets"):
        check_listen(Place.parse("unix:/run/page"), TOKEN)


def test_a_place_that_is_taken_is_named() -> None:
    with open_listen(Place("127.0.0.1", 0)) as sock:
        place = Place("127.0.0.1", sock.getsockname()[1])
        with pytest.raises(OSError, match="Address already in use") as raised:
            open_listen(place)
    assert raised.value.filename == str(place)


@pytest.mark.skipif(not hasattr(socket, "TCP_USER_TIMEOUT"), reason="a Linux option")
def test_the_system_gives_up_a_browser_that_takes_nothing() -> None:
    with open_listen(Place("127.0.0.1", 0)) as sock, socket.socket() as browser:
        browser.connect(sock.getsockname())
        connection, _ = sock.accept()
        with connection:
            limit = connection.getsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT)
    assert limit == 60_000
