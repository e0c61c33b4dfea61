"""`tftp get`, run for real: against our server, and against peers that follow a script."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.cli.conftest import CONTENT, TEXT
from tests.cli.running import Peer, Running, environment, names, on_terminal, one_line, run, running
from tftp.packets import Ack, Data, Error, OptionAck, ReadRequest


def test_a_file_lands_under_the_last_part_of_its_path(url: str, here: Path) -> None:
    done = run("get", f"{url}/boot/kernel.bin", cwd=here)
    assert done.returncode == 0
    assert (here / "kernel.bin").read_bytes() == CONTENT
    assert names(here) == ["kernel.bin"]


def test_the_scheme_may_be_left_out(url: str, here: Path) -> None:
    assert run("get", f"{url.removeprefix('tftp://')}/lines.txt", cwd=here).returncode == 0
    assert (here / "lines.txt").read_bytes() == TEXT


def test_the_result_is_one_line_on_stderr_with_the_numbers(url: str, here: Path) -> None:
    done = run("get", f"{url}/boot/kernel.bin", "--blksize", "1000", "--windowsize", "4", cwd=here)
    line = one_line(done.stderr)
    assert line.startswith(f"got kernel.bin: {len(CONTENT)} bytes in ")
    assert line.endswith("B/s, blksize 1000, windowsize 4, 0 retransmissions")
    assert done.stdout == b""


@pytest.mark.parametrize(
    ("output", "place"),
    [("as.bin", "as.bin"), ("into", "into/kernel.bin"), ("into/", "into/kernel.bin")],
)
def test_output_names_a_file_or_a_directory(url: str, here: Path, output: str, place: str) -> None:
    (here / "into").mkdir()
    assert run("get", f"{url}/boot/kernel.bin", "-o", output, cwd=here).returncode == 0
    assert (here / place).read_bytes() == CONTENT


def test_a_dash_writes_the_bytes_and_nothing_else_to_stdout(url: str, here: Path) -> None:
    done = run("get", f"{url}/boot/kernel.bin", "-o", "-", cwd=here)
    assert done.returncode == 0
    assert done.stdout == CONTENT
    assert one_line(done.stderr).startswith("got boot/kernel.bin: ")
    assert names(here) == []


def test_a_remote_file_called_dash_becomes_a_file(url: str, root: Path, here: Path) -> None:
    (root / "-").write_bytes(TEXT)
    done = run("get", f"{url}/-", cwd=here)
    assert done.returncode == 0
    assert done.stdout == b""
    assert (here / "-").read_bytes() == TEXT


@pytest.mark.parametrize("arguments", [[";mode=netascii"], ["", "--mode", "netascii"]])
def test_the_url_or_an_option_chooses_netascii(
    peer: Peer, here: Path, arguments: list[str]
) -> None:
    suffix, *options = arguments
    with running("get", f"{peer.url}/lines.txt{suffix}", *options, cwd=here) as command:
        request = peer.receive_a(ReadRequest)
        assert request.mode == "netascii"
        peer.send(Data(1, b"one\r\ntwo\r\n"))
        assert peer.receive_a(Ack) == Ack(1)
        assert command.wait() == 0
    assert (here / "lines.txt").read_bytes() == TEXT


def test_the_options_given_are_what_is_asked(peer: Peer, here: Path) -> None:
    wish = ["--blksize", "1000", "--windowsize", "3", "--timeout", "2"]
    with running("get", f"{peer.url}/x", *wish, cwd=here) as command:
        request = peer.receive_a(ReadRequest)
        assert request.filename == b"x"
        asked = {"blksize": "1000", "windowsize": "3", "timeout": "2", "tsize": "0"}
        assert request.options == asked
        peer.send(OptionAck({**asked, "tsize": "5"}))
        assert peer.receive_a(Ack) == Ack(0)
        peer.send(Data(1, b"hello"))
        assert peer.receive_a(Ack) == Ack(1)
        assert command.wait() == 0
        assert "blksize 1000, windowsize 3, timeout 2" in command.stderr.next()


def test_no_options_asks_for_none(peer: Peer, here: Path) -> None:
    with running("get", f"{peer.url}/x", "--no-options", cwd=here) as command:
        assert peer.receive_a(ReadRequest) == ReadRequest(b"x", "octet", {})
        peer.send(Data(1, b"hello"))
        assert command.wait() == 0
        assert ", no options, " in command.stderr.next()


def test_without_options_a_good_block_size_and_window_are_asked(peer: Peer, here: Path) -> None:
    with running("get", f"{peer.url}/x", cwd=here) as command:
        request = peer.receive_a(ReadRequest)
        assert int(request.options["blksize"]) > 512
        assert int(request.options["windowsize"]) > 1
        peer.send(Data(1, b"hello"))
        assert command.wait() == 0


def test_json_is_one_object_on_stdout(url: str, here: Path) -> None:
    done = run("get", f"{url}/boot/kernel.bin", "--json", cwd=here)
    assert done.stderr == b""
    record = json.loads(one_line(done.stdout))
    assert record["event"] == "ended"
    assert record["outcome"] == "done"
    assert record["url"] == f"{url}/boot/kernel.bin"
    assert record["local"] == "kernel.bin"
    assert record["counters"]["payload"] == len(CONTENT)


def test_json_goes_to_stderr_where_the_file_goes_to_stdout(url: str, here: Path) -> None:
    done = run("get", f"{url}/boot/kernel.bin", "--json", "-o", "-", cwd=here)
    assert done.stdout == CONTENT
    assert json.loads(one_line(done.stderr))["local"] == "-"


def test_a_failure_as_json_names_code_cause_and_remedy(url: str, here: Path) -> None:
    done = run("get", f"{url}/missing", "--json", cwd=here)
    assert done.returncode == 1
    record = json.loads(one_line(done.stdout))
    assert record["event"] == "failed"
    assert record["error"]["kind"] == "PeerError"
    assert record["error"]["code"] == 1
    assert "name" in record["error"]["remedy"]
    assert "file not found" in one_line(done.stderr)


def test_quiet_says_nothing_but_errors(url: str, here: Path) -> None:
    done = run("get", f"{url}/boot/kernel.bin", "-q", cwd=here)
    assert (done.returncode, done.stdout, done.stderr) == (0, b"", b"")
    failed = run("get", f"{url}/missing", "-q", cwd=here)
    assert failed.returncode == 1
    assert "file not found" in one_line(failed.stderr)


def test_a_missing_file_fails_with_one_line_and_leaves_nothing(url: str, here: Path) -> None:
    done = run("get", f"{url}/boot/Kernel.bin", cwd=here)
    assert done.returncode == 1
    assert one_line(done.stderr) == (
        f"tftp: {url}/boot/Kernel.bin: file not found (the server's error 1): "
        "check the name and its case"
    )
    assert names(here) == []


def test_a_failed_download_keeps_the_old_file(url: str, here: Path) -> None:
    (here / "missing").write_bytes(b"old")
    assert run("get", f"{url}/missing", cwd=here).returncode == 1
    assert (here / "missing").read_bytes() == b"old"


def test_a_closed_port_is_told_from_silence(peer: Peer, here: Path) -> None:
    url = peer.url
    peer.close()
    done = run("get", f"{url}/x", cwd=here)
    assert done.returncode == 1
    assert "nothing listens on 127.0.0.1:" in one_line(done.stderr)


def test_silence_is_reported_with_what_may_be_the_matter(peer: Peer, here: Path) -> None:
    # Long enough for a progress bar to be redrawn, which must not pass for progress.
    done = run("get", f"{peer.url}/x", "--timeout", "0.3", "--retries", "3", cwd=here)
    assert done.returncode == 1
    line = one_line(done.stderr)
    assert f"no answer from 127.0.0.1:{peer.port}" in line
    assert "firewall" in line


def test_silence_in_the_middle_says_how_far_it_came(peer: Peer, here: Path) -> None:
    patience = ["--timeout", "0.5", "--retries", "1"]
    with running("get", f"{peer.url}/x", *patience, cwd=here) as command:
        peer.receive_a(ReadRequest)
        peer.send(Data(1, bytes(512)))
        assert command.wait() == 1
        assert f"127.0.0.1:{peer.port} fell silent after " in command.stderr.next()
    assert names(here) == []


def test_an_unknown_host_is_named(here: Path) -> None:
    done = run("get", f"tftp://{'h' * 64}.invalid/x", cwd=here)
    assert done.returncode == 1
    assert f"no such host: {'h' * 64}.invalid" in one_line(done.stderr)


def test_a_local_directory_that_is_missing_is_named(url: str, here: Path) -> None:
    done = run("get", f"{url}/lines.txt", "-o", "nowhere/lines.txt", cwd=here)
    assert done.returncode == 1
    assert "cannot write nowhere/lines.txt: no such file or directory" in one_line(done.stderr)


def test_words_of_the_server_reach_the_terminal_escaped(peer: Peer, here: Path) -> None:
    with running("get", f"{peer.url}/x", cwd=here) as command:
        peer.receive_a(ReadRequest)
        peer.send(Error(2, "\x1b[2Jno\nway" + "!" * 999))
        assert command.wait() == 1
        line = command.stderr.next()
        assert "\\x1b[2Jno\\nway!!!" in line
        assert len(line) < 500
        assert command.stderr.rest() == []


@pytest.mark.parametrize(
    ("path", "sentence"),
    [
        ("boot/", "no name for a file"),
        ("..", "no name for a file"),
        ("a/.", "no name for a file"),
        ("a%5C..", "no name for a file"),
    ],
)
def test_a_path_without_a_file_name_needs_an_output(here: Path, path: str, sentence: str) -> None:
    done = run("get", f"tftp://127.0.0.1:1/{path}", cwd=here)
    assert done.returncode == 2
    assert sentence in done.stderr.decode()
    assert names(here) == []


def test_no_path_of_the_network_becomes_a_local_one(peer: Peer, here: Path) -> None:
    with running("get", f"{peer.url}/..%5C..%2Fetc%5Cpasswd", cwd=here) as command:
        assert peer.receive_a(ReadRequest).filename == b"..\\../etc\\passwd"
        peer.send(Data(1, b"x"))
        assert command.wait() == 0
    assert names(here) == ["passwd"]


@pytest.mark.parametrize(
    ("number", "code"),
    [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGHUP, 129)],
)
def test_a_signal_ends_a_download_and_leaves_nothing(
    peer: Peer, here: Path, number: signal.Signals, code: int
) -> None:
    (here / "big").write_bytes(b"old")
    with running("get", f"{peer.url}/big", cwd=here) as command:
        peer.receive_a(ReadRequest)
        peer.send(Data(1, bytes(512)))
        assert peer.receive_a(Ack) == Ack(1)  # It runs.
        command.signal(number)
        peer.receive_a(Error)  # The server is told.
        assert command.wait() == code
        assert command.stderr.next() == (
            f"tftp: {peer.url}/big: interrupted by {number.name}: nothing was left behind"
        )
        assert command.stderr.rest() == []
    assert names(here) == ["big"]
    assert (here / "big").read_bytes() == b"old"


def test_a_signal_before_any_answer_ends_it_too(peer: Peer, here: Path) -> None:
    with running("get", f"{peer.url}/x", cwd=here) as command:
        peer.receive_a(ReadRequest)
        command.signal(signal.SIGINT)
        assert command.wait() == 130
    assert names(here) == []


def test_a_reader_that_leaves_ends_the_download_with_one_line(peer: Peer, here: Path) -> None:
    reader, writer = os.pipe()
    os.close(reader)
    with subprocess.Popen(
        [sys.executable, "-m", "tftp", "get", f"{peer.url}/x", "-o", "-"],
        stdout=writer,
        stderr=subprocess.PIPE,
        env=environment(),
        cwd=here,
    ) as command:
        os.close(writer)
        peer.receive_a(ReadRequest)
        peer.send(Data(1, b"hello"))
        _, errors = command.communicate(timeout=20)
        assert command.returncode == 1
    assert "cannot write standard output: broken pipe" in one_line(errors)


def after_a_loss(peer: Peer, command: Running) -> None:
    """Serve a file of two blocks, the second of which gets lost at first."""
    peer.receive_a(ReadRequest)
    peer.send(Data(1, bytes(512)))
    for _ in range(2):
        assert peer.receive_a(Ack) == Ack(1)
    peer.send(Data(2, b"end"))
    while peer.receive_a(Ack) != Ack(2):
        pass
    assert command.stderr.next().startswith("got x: 515 bytes")


def test_after_a_loss_the_last_ack_is_said_four_times_and_that_is_it(
    peer: Peer, here: Path
) -> None:
    with running("get", f"{peer.url}/x", cwd=here) as command:
        after_a_loss(peer, command)
        assert [peer.receive() for _ in range(3)] == [Ack(2)] * 3
        assert command.wait() == 0


def test_after_a_loss_the_last_ack_is_repeated_for_the_server(peer: Peer, here: Path) -> None:
    with running("get", f"{peer.url}/x", "--timeout", "1", cwd=here) as command:
        after_a_loss(peer, command)
        # The server has not seen the last ACK, and repeats its last block until it does.
        assert peer.insist(Data(2, b"end")) == Ack(2)
        command.signal(signal.SIGINT)  # Whoever does not want to wait for that need not.
        assert command.wait() == 0


def test_on_a_terminal_a_long_download_shows_a_bar_and_then_the_result(
    peer: Peer, here: Path
) -> None:
    with on_terminal("get", f"{peer.url}/big.img", "--blksize", "1000", cwd=here) as terminal:
        request = peer.receive_a(ReadRequest)
        peer.send(OptionAck({"tsize": "2500", "blksize": request.options["blksize"]}))
        peer.receive_a(Ack)
        peer.send(Data(1, bytes(1000)))
        terminal.wait_for(r"big\.img .*/2\.5 kB")
        peer.send(Data(2, bytes(1000)))
        peer.send(Data(3, bytes(500)))
        assert terminal.wait() == 0
        assert "got big.img: 2500 bytes in " in terminal.text
        # The cursor is hidden while the bar is there, and shown again.
        assert terminal.seen.count(b"\x1b[?25l") == terminal.seen.count(b"\x1b[?25h") == 1


def test_on_a_terminal_a_short_download_shows_the_result_alone(url: str, here: Path) -> None:
    with on_terminal("get", f"{url}/lines.txt", cwd=here) as terminal:
        assert terminal.wait() == 0
        assert one_line(terminal.text.encode()).startswith("got lines.txt: 8 bytes in ")


def test_ctrl_c_on_a_terminal_takes_the_bar_away_and_says_so(peer: Peer, here: Path) -> None:
    with on_terminal("get", f"{peer.url}/big.img", cwd=here) as terminal:
        peer.receive_a(ReadRequest)
        peer.send(Data(1, bytes(512)))
        terminal.wait_for(r"big\.img")
        terminal.type(b"\x03")
        assert terminal.wait() == 130
        assert "interrupted by SIGINT" in terminal.text
        assert terminal.seen.endswith(b"left behind\r\n")
        assert terminal.seen.count(b"\x1b[?25l") == terminal.seen.count(b"\x1b[?25h") == 1
    assert names(here) == []


def test_no_escape_of_a_file_name_reaches_the_terminal(peer: Peer, here: Path) -> None:
    with on_terminal("get", f"{peer.url}/%1B%5D0;evil%07.img", cwd=here) as terminal:
        peer.receive_a(ReadRequest)
        peer.send(Data(1, bytes(512)))
        terminal.wait_for(r"\\x1b\]0;evil\\x07\.img")
        peer.send(Data(2, b""))
        assert terminal.wait() == 0
        assert b"\x07" not in terminal.seen
        assert b"\x1b]" not in terminal.seen


def test_a_download_in_a_pipe_imports_nothing_that_it_has_no_use_for(url: str, here: Path) -> None:
    program = (
        "import sys; from tftp.cli import main; status = main(sys.argv[1:]);"
        "unused = {'rich', 'json', 'encodings.idna', 'tftp.cli.serve', 'tftp.cli.failures'};"
        "print(unused & set(sys.modules), status)"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, "get", f"{url}/lines.txt"],
        cwd=here,
        env=environment(),
        capture_output=True,
        check=True,
        timeout=20,
    )
    assert done.stdout == b"set() 0\n"
