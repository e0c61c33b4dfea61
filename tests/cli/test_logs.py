"""`tftp serve --log-format` and `--syslog`, run for real, with daemons played by the test."""

import json
import signal
import socket
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.cli.conftest import CONTENT
from tests.cli.running import PATIENCE, Running, run, running
from tests.monitor.operating import Operator
from tests.monitor.test_daemons import bound, journal_fields
from tests.wirepeer import WirePeer
from tftp.cli.logs import syslog_place
from tftp.monitor.place import Place
from tftp.packets import Error

LOOPBACK = ("--host", "127.0.0.1", "--port", "0")
HOSTILE = b"no\nsuch \x1b[2J\xff%s"
SHOWN = r"no\nsuch \x1b[2J\xff%s"
ENGINES = {"threads": [], "processes": ["--engine", "processes"], "workers": ["--workers", "2"]}


def listening(server: Running) -> tuple[str, int]:
    """The address that the first line of a server has."""
    host, _, port = server.stdout.next().split(",")[0].rpartition(" ")[2].rpartition(":")
    return host, int(port)


def two_requests(address: tuple[str, int]) -> None:
    """One that goes well, and then one that does not."""
    with WirePeer(address) as peer:
        assert peer.read("boot/kernel.bin") == CONTENT
        peer.rrq(HOSTILE)
        assert isinstance(peer.receive(), Error)


def two_results(server: Running) -> list[str]:
    """The same, and their lines on stdout, once the server has them."""
    two_requests(listening(server))
    return [server.stdout.next(), server.stdout.next()]


def stop(server: Running) -> None:
    server.signal(signal.SIGTERM)
    assert server.wait() == 0


def results(server: Running) -> list[str]:
    """The kinds of the next two events on stdout, in JSON."""
    return [json.loads(server.stdout.next())["event"] for _ in range(2)]


@pytest.fixture
def daemon(tmp_path: Path) -> Iterator[socket.socket]:
    with bound(tmp_path / "daemon") as daemon:
        yield daemon


@pytest.fixture
def with_journal(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """Have the command look for the journal's socket where the test has one."""
    program = (
        "import os, sys; from tftp.cli import logs, main;"
        f"logs.JOURNAL = {str(tmp_path / 'daemon')!r};"
    )
    monkeypatch.setattr(
        "tests.cli.running.COMMAND", [sys.executable, "-c", f"{program} sys.exit(main())"]
    )
    return program


@pytest.mark.parametrize("engine", ENGINES)
def test_each_result_is_an_object_on_stderr(root: Path, engine: str) -> None:
    arguments = [*LOOPBACK, "--log-format", "json", *ENGINES[engine]]
    with running("serve", root, *arguments, cwd=root) as server:
        got, failed = two_results(server)  # As ever.
        stop(server)
        told = [json.loads(line) for line in server.stderr.rest()]
        assert [line["level"] for line in told] == ["info", "info", "warning", "info"]
        first, done, refused, last = told
        assert first["message"].startswith("listening on 127.0.0.1:")
        assert done["tftp"]["file"] == "boot/kernel.bin"
        assert done["tftp"]["counters"]["payload"] == len(CONTENT)
        assert refused["tftp"]["file"] == SHOWN
        assert last["message"] == "stopped"
        assert "get boot/kernel.bin: " in got
        assert f"get {SHOWN}: refused: file not found (error 1)" in failed


def test_text_is_a_line_for_each_result(root: Path) -> None:
    with running("serve", root, *LOOPBACK, "--log-format", "text", cwd=root) as server:
        two_results(server)
        stop(server)
        _, done, refused, _ = server.stderr.rest()
        assert " info 127.0.0.1:" in done
        assert f" read boot/kernel.bin: done, {len(CONTENT)} octets in " in done
        assert f' read "{SHOWN}": refused, "file not found" (error 1), transfer 2 ' in refused
        assert refused.isprintable()


def test_quiet_logs_what_went_wrong_only(root: Path) -> None:
    arguments = [*LOOPBACK, "--quiet", "--json", "--log-format", "json"]
    with running("serve", root, *arguments, cwd=root) as server:
        address = json.loads(server.stdout.next())["addresses"][0].split(":")
        two_requests((address[0], int(address[1])))
        assert json.loads(server.stdout.next())["event"] == "refused"
        stop(server)
        (line,) = server.stderr.rest()
        assert json.loads(line)["tftp"]["file"] == SHOWN


def test_warnings_keep_to_the_format(root: Path) -> None:
    arguments = [*LOOPBACK, "--log-format", "json", "--metrics", "0.0.0.0:0"]
    with running("serve", root, *arguments, cwd=root) as server:
        listening(server)
        stop(server)
        told = [json.loads(line) for line in server.stderr.rest()]
        assert [line["level"] for line in told] == ["info", "warning", "info"]
        assert told[1]["message"].startswith("other hosts can read the metrics on 0.0.0.0:")


def test_where_both_streams_are_one_file_only_the_log_tells_of_results(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    program = "import os, sys; os.dup2(2, 1); from tftp.cli import main; sys.exit(main())"
    monkeypatch.setattr("tests.cli.running.COMMAND", [sys.executable, "-c", program])
    with running("serve", root, *LOOPBACK, "--log-format", "json", cwd=root) as server:
        words = json.loads(server.stderr.next())["message"]
        two_requests(("127.0.0.1", int(words.partition(",")[0].rpartition(":")[2])))
        told = [json.loads(server.stderr.next())["tftp"]["transfer"] for _ in range(2)]
        assert told == [1, 2]
        stop(server)
        (last,) = server.stderr.rest()
        assert json.loads(last)["message"] == "stopped"


def test_syslog_gets_the_results_and_stdout_its_lines(root: Path, daemon: socket.socket) -> None:
    arguments = [*LOOPBACK, f"--syslog={daemon.getsockname()}"]
    with running("serve", root, *arguments, cwd=root) as server:
        two_results(server)
        stop(server)
        lines = [daemon.recv(65536).decode() for _ in range(4)]
        assert "listening on 127.0.0.1:" in lines[0]
        assert lines[1].startswith("<30>")
        assert f" tftp[{server.process.pid}]: 127.0.0.1:" in lines[1]
        assert " file=boot/kernel.bin outcome=done " in lines[1]
        assert lines[2].startswith("<28>")
        assert f' file="{SHOWN}" outcome=refused code=1 reason="file not found" ' in lines[2]
        assert lines[3].endswith(": stopped")
        assert server.stderr.rest() == []


def test_a_syslog_on_the_network_gets_rfc_5424(root: Path) -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as daemon:
        daemon.bind(("127.0.0.1", 0))
        daemon.settimeout(PATIENCE)
        place = f"127.0.0.1:{daemon.getsockname()[1]}"
        with running("serve", root, *LOOPBACK, f"--syslog={place}", cwd=root) as server:
            two_results(server)
            stop(server)
        lines = [daemon.recv(65536).decode() for _ in range(4)]
    assert lines[1].startswith("<30>1 ")
    assert f" tftp {server.process.pid} transfer - 127.0.0.1:" in lines[1]


def test_a_syslog_that_is_missing_is_one_line_and_the_server_serves(root: Path) -> None:
    missing = root / "no such daemon"
    with running("serve", root, *LOOPBACK, f"--syslog={missing}", cwd=root) as server:
        two_results(server)
        stop(server)
        (line,) = server.stderr.rest()
        assert line.endswith(
            f" warning cannot reach syslog at {missing} (No such file or directory): "
            "meanwhile the log is lost"
        )


def test_the_journal_gets_fields(root: Path, daemon: socket.socket, with_journal: str) -> None:
    with running("serve", root, *LOOPBACK, "--log-format", "journald", cwd=root) as server:
        two_results(server)
        stop(server)
        records = [journal_fields(daemon.recv(65536)) for _ in range(4)]
        assert records[1]["TFTP_FILE"] == b"boot/kernel.bin"
        assert records[1]["TFTP_OUTCOME"] == b"done"
        assert records[1]["PRIORITY"] == b"6"
        assert records[2]["TFTP_FILE"] == SHOWN.encode()
        assert records[2]["TFTP_PEER"].startswith(b"127.0.0.1:")
        assert records[2]["PRIORITY"] == b"4"
        assert server.stderr.rest() == []


def test_a_service_whose_output_is_the_journal_logs_there_by_itself(
    root: Path, daemon: socket.socket, with_journal: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    program = (
        f"{with_journal} os.dup2(2, 1); status = os.fstat(2);"
        "os.environ['JOURNAL_STREAM'] = f'{status.st_dev}:{status.st_ino}'; sys.exit(main())"
    )
    monkeypatch.setattr("tests.cli.running.COMMAND", [sys.executable, "-c", program])
    with running("serve", root, *LOOPBACK, cwd=root) as server:
        words = journal_fields(daemon.recv(65536))["MESSAGE"].decode()
        two_requests(("127.0.0.1", int(words.partition(",")[0].rpartition(":")[2])))
        records = [journal_fields(daemon.recv(65536)) for _ in range(2)]
        assert [record["TFTP_OUTCOME"] for record in records] == [b"done", b"refused"]
        stop(server)
        assert journal_fields(daemon.recv(65536))["MESSAGE"] == b"stopped"
        assert server.stderr.rest() == [], "the journal would have all of it twice"


def test_with_the_log_in_the_journal_a_terminal_still_shows_results(
    root: Path, daemon: socket.socket, with_journal: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    program = f"{with_journal} os.dup2(2, 1); sys.exit(main())"
    monkeypatch.setattr("tests.cli.running.COMMAND", [sys.executable, "-c", program])
    with running("serve", root, *LOOPBACK, "--log-format", "journald", cwd=root) as server:
        words = server.stderr.next()
        two_requests(("127.0.0.1", int(words.partition(",")[0].rpartition(":")[2])))
        assert " get boot/kernel.bin: " in server.stderr.next()
        assert f" get {SHOWN}: refused" in server.stderr.next()
        stop(server)
        assert len([daemon.recv(65536) for _ in range(4)]) == 4


def test_a_journal_that_is_missing_leaves_the_log_on_stderr(root: Path, with_journal: str) -> None:
    with running("serve", root, *LOOPBACK, "--log-format", "journald", cwd=root) as server:
        two_results(server)
        stop(server)
        lines = server.stderr.rest()
    assert sum("cannot reach the journal at " in line for line in lines) == 1
    assert sum(" transfer " in line for line in lines) == 2


def test_the_monitor_s_log_level_decides_what_is_logged(root: Path) -> None:
    arguments = [*LOOPBACK, "--json", "--log-format", "json", "--monitor", "0"]
    with running("serve", root, *arguments, cwd=root) as server:
        told = json.loads(server.stdout.next())
        host, _, port = told["addresses"][0].rpartition(":")
        with Operator(Place.parse(told["monitor"][0])) as operator:
            operator.say("log-level error")
            operator.answer("log-level")
            two_requests((host, int(port)))
            assert results(server) == ["ended", "refused"]
            operator.say("log-level info")
            operator.answer("log-level")
            two_requests((host, int(port)))
            assert results(server) == ["ended", "refused"]
        stop(server)
        lines = [json.loads(line) for line in server.stderr.rest()]
        assert [line["tftp"]["transfer"] for line in lines if "tftp" in line] == [3, 4]


@pytest.mark.parametrize(
    ("text", "place"),
    [
        ("/dev/log", Place(path="/dev/log")),
        ("unix:/run/syslog", Place(path="/run/syslog")),
        ("192.0.2.1:514", Place("192.0.2.1", 514)),
        ("[2001:db8::1]:514", Place("2001:db8::1", 514)),
        ("log.example:1514", Place("log.example", 1514)),
    ],
)
def test_a_syslog_daemon_is_a_path_or_a_host_and_a_port(text: str, place: Place) -> None:
    assert syslog_place(text) == place


@pytest.mark.parametrize("text", ["boot", "514", "log.example", "log.example:0", "", "/\0", "."])
def test_what_is_no_syslog_daemon_is_wrong_usage(text: str) -> None:
    with pytest.raises(ValueError, match="is no place of a syslog daemon"):
        syslog_place(text)


def test_the_directory_behind_syslog_is_not_taken_for_its_address(root: Path) -> None:
    done = run("serve", "--syslog", root, cwd=root)
    assert done.returncode == 2
    assert b"in front of ROOT write --syslog=/dev/log" in b" ".join(done.stderr.split())


def test_a_closed_stderr_does_not_stop_the_server(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    command = [sys.executable, "-m", "tftp"]
    program = f"import os, sys; os.close(2); os.execv({command[0]!r}, {command!r} + sys.argv[1:])"
    monkeypatch.setattr("tests.cli.running.COMMAND", [sys.executable, "-c", program])
    with running("serve", root, *LOOPBACK, "--log-format", "text", cwd=root) as server:
        two_results(server)
        stop(server)
