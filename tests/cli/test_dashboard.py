"""`tftp dashboard`, and `tftp serve --dashboard`: a page that comes, and goes with its server."""

import http.client
import json
import re
import signal
import subprocess
import sys
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path

import pytest

from tests.cli.running import PATIENCE, Running, environment, one_line, run, running
from tests.watching import eventually
from tftp.monitor.place import Place

LOCAL = ("--host", "127.0.0.1", "--port", "0")


def page_at(line: str) -> int:
    """The port of the page that a line tells of."""
    found = re.fullmatch(r"the page is at http://127\.0\.0\.1:(\d+)/", line)
    assert found, line
    return int(found[1])


def first_step(port: int, headers: dict[str, str] | None = None) -> str:
    """What a browser is shown first, once there is a server to show."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=PATIENCE)
    with closing(connection):
        connection.request("GET", "/events", headers=headers or {})
        response = connection.getresponse()
        while True:
            line = response.readline().decode()
            assert line, response.status
            if '"connected":true' in line:
                return line


def reachable(port: int) -> bool:
    try:
        Place("127.0.0.1", port).connect(1).close()
    except ConnectionRefusedError:
        return False
    return True


def served(process: Running) -> int:
    """The port of the page of a server that has just been started."""
    assert process.stdout.next().startswith("listening on 127.0.0.1:")
    return page_at(process.stdout.next())


def test_a_server_s_page_shows_the_server_and_ends_with_it(tmp_path: Path) -> None:
    with running("serve", tmp_path, *LOCAL, "--dashboard", "0", cwd=tmp_path) as server:
        port = served(server)
        assert '"engine":"threads"' in first_step(port)
        server.signal(signal.SIGTERM)
        assert server.wait() == 0
        assert server.stderr.rest() == []
        assert not reachable(port)


@pytest.mark.parametrize(
    ("option", "value", "engine"),
    [("--engine", "processes", "processes"), ("--workers", "2", "workers")],
)
def test_every_arrangement_can_have_a_page(
    tmp_path: Path, option: str, value: str, engine: str
) -> None:
    arguments = ("--dashboard", "0", option, value)
    with running("serve", tmp_path, *LOCAL, *arguments, cwd=tmp_path) as server:
        assert f'"engine":"{engine}"' in first_step(served(server))
        server.signal(signal.SIGINT)
        assert server.wait() == 0


def test_a_page_does_not_outlive_a_server_that_was_killed(tmp_path: Path) -> None:
    with running("serve", tmp_path, *LOCAL, "--dashboard", "0", cwd=tmp_path) as server:
        port = served(server)
        first_step(port)
        server.signal(signal.SIGKILL)
        server.wait()
        assert eventually(lambda: not reachable(port))


def test_the_page_imports_nothing_that_was_uploaded(tmp_path: Path) -> None:
    for name in ("json.py", "starlette.py", "uvicorn.py", "tftp.py"):
        (tmp_path / name).write_text("raise SystemExit('this is what a stranger sent')")
    command = "import sys; from tftp.cli import main; sys.exit(main(sys.argv[1:]))"
    arguments = ["serve", tmp_path, *LOCAL, "--dashboard", "0"]
    with subprocess.Popen(
        [sys.executable, "-P", "-c", command, *map(str, arguments)],
        cwd=tmp_path,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=environment(),
    ) as process:
        server = Running(process)
        try:
            first_step(served(server))
        finally:
            server.signal(signal.SIGTERM)
            server.wait()


def test_the_start_is_told_as_json_too(tmp_path: Path) -> None:
    with running("serve", tmp_path, *LOCAL, "--json", "--dashboard", "0", cwd=tmp_path) as server:
        record = json.loads(server.stdout.next())
        assert record["event"] == "listening"
        assert page_at(f"the page is at {record['dashboard']}")
        server.signal(signal.SIGTERM)
        server.wait()


def test_a_page_for_other_hosts_wants_a_token_and_says_what_that_means(tmp_path: Path) -> None:
    refused = run("serve", tmp_path, *LOCAL, "--dashboard", "0.0.0.0:0", cwd=tmp_path)
    assert refused.returncode == 2
    assert b"set a token" in refused.stderr
    assert b"--monitor-token-file FILE, or TFTP_MONITOR_TOKEN" in refused.stderr
    (tmp_path / "token").write_text("secret\n")
    arguments = ("--dashboard", "0.0.0.0:0", "--monitor-token-file", tmp_path / "token")
    with running("serve", tmp_path, *LOCAL, *arguments, cwd=tmp_path) as server:
        port = served(server)
        assert "they need the token to look and to act" in server.stderr.next()
        assert first_step(port, {"Authorization": "Bearer secret"})
        assert b"secret" not in Path(f"/proc/{server.process.pid}/cmdline").read_bytes()
        server.signal(signal.SIGTERM)
        server.wait()


def test_a_page_for_servers_elsewhere_waits_for_them_and_ends_at_a_signal(tmp_path: Path) -> None:
    place = f"unix:{tmp_path}/monitor"
    with running("dashboard", place, "--listen", "0", cwd=tmp_path) as page:
        port = page_at(page.stdout.next())
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=PATIENCE)
        with closing(connection):
            connection.request("GET", "/events")
            response = connection.getresponse()
            while '"reason":"No such file or directory"' not in response.readline().decode():
                pass
            page.signal(signal.SIGINT)
            assert page.wait() == 0
        assert page.stderr.rest() == []


def test_a_page_where_somebody_listens_already_says_so(tmp_path: Path) -> None:
    with running("dashboard", "--listen", "0", cwd=tmp_path) as page:
        port = page_at(page.stdout.next())
        for arguments in (("dashboard", "--listen"), ("serve", ".", *LOCAL, "--dashboard")):
            second = run(*arguments, str(port), cwd=tmp_path)
            assert second.returncode == 1
            assert f"127.0.0.1:{port}: Address already in use" in one_line(second.stderr)
        page.signal(signal.SIGTERM)
        assert page.wait() == 0


@pytest.mark.parametrize(
    "arguments",
    [("dashboard",), ("serve", ".", *LOCAL, "--dashboard", "0")],
    ids=lambda one: one[0],
)
def test_without_the_extra_one_line_says_what_to_install(
    tmp_path: Path, arguments: Sequence[str]
) -> None:
    # None in sys.modules is a package that is not there.
    command = (
        "import sys; sys.modules['starlette'] = None; from tftp.cli import main; "
        "sys.exit(main(sys.argv[1:]))"
    )
    ended = subprocess.run(
        [sys.executable, "-c", command, *arguments],
        cwd=tmp_path,
        capture_output=True,
        env=environment(),
        timeout=PATIENCE,
        check=False,
    )
    assert ended.returncode == 1
    assert "needs starlette: pip install 'tftpkit[monitor]'" in one_line(ended.stderr)


@pytest.mark.parametrize("place", ["nowhere", "127.0.0.1:99999", "unix:", ":6970"])
def test_a_place_that_is_none_is_a_usage_error(tmp_path: Path, place: str) -> None:
    for arguments in (("dashboard", place), ("dashboard", "--listen", place)):
        ended = run(*arguments, cwd=tmp_path)
        assert ended.returncode == 2
        assert b"Error: Invalid value for " in ended.stderr
    assert b"is no place for a page: write PORT or HOST:PORT" in ended.stderr


def test_no_token_is_asked_for_where_no_page_can_be(tmp_path: Path) -> None:
    for arguments, option in (
        (["serve", ".", *LOCAL, "--dashboard", "192.0.2.1:0"], "--dashboard"),
        (["dashboard", "--listen", "192.0.2.1:0"], "--listen"),
    ):
        done = run(*arguments, cwd=tmp_path)
        assert done.returncode == 1
        assert one_line(done.stderr) == (
            "tftp: cannot serve the page on 192.0.2.1:0: this host has no such address: "
            f"choose another {option}"
        )


def test_a_page_alone_wants_its_own_token(tmp_path: Path) -> None:
    ended = run("dashboard", "--listen", "0.0.0.0:0", cwd=tmp_path)
    assert ended.returncode == 2
    assert b"(--token-file FILE, or TFTP_MONITOR_TOKEN in the environment)" in ended.stderr


def test_a_token_file_that_is_empty_is_no_token(tmp_path: Path) -> None:
    (tmp_path / "token").write_text("\n")
    ended = run("dashboard", "--token-file", tmp_path / "token", cwd=tmp_path)
    assert ended.returncode == 1
    assert "there is no token in" in one_line(ended.stderr)
