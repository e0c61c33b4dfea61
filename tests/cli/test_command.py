"""The group and its entry point: help, version, and what is wrong usage."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.cli.running import environment, run
from tftp.cli import main


def test_help_lists_the_verbs_and_shows_examples(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--help"]) == 0
    text = capsys.readouterr().out
    for words in ("Fetch a file", "Send a file", "Serve a", "Watch servers", "Examples:"):
        assert words in text


@pytest.mark.parametrize("verb", ["get", "put", "serve"])
@pytest.mark.parametrize("flag", ["--help", "-h"])
def test_the_help_of_a_verb_ends_with_examples(
    capsys: pytest.CaptureFixture[str], verb: str, flag: str
) -> None:
    assert main([verb, flag]) == 0
    text = capsys.readouterr().out
    assert text.startswith(f"Usage: tftp {verb} ")
    assert f"  tftp {verb} " in text.partition("Examples:")[2]
    assert max(map(len, text.splitlines())) <= 80


def test_the_version_is_that_of_the_package(capsys: pytest.CaptureFixture[str]) -> None:
    import tftp

    assert main(["--version"]) == 0
    assert capsys.readouterr().out == f"tftp (tftpkit) {tftp.__version__}\n"


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["fetch"], "No such command 'fetch'"),
        (["get"], "Missing argument 'URL'"),
        (["get", ""], "names no host"),
        (["get", "http://h/x"], "http:// is not TFTP"),
        (["get", "h"], "names no file"),
        (["get", "h:99999/x"], "is no port"),
        (["get", "h/x;mode=mail"], "the mode 'mail' is unknown"),
        (["get", "h/x", "--blksize", "7"], "7 is not in the range 8<=x<=65464"),
        (["get", "h/x", "--blksize", "many"], "'many' is not a valid integer"),
        (["get", "h/x", "--windowsize", "0"], "0 is not in the range"),
        (["get", "h/x", "--timeout", "0"], "0.0 is not in the range"),
        (["get", "h/x", "--timeout", "nan"], "nan is no number of seconds"),
        (["get", "h/x", "--retries", "-1"], "-1 is not in the range"),
        (["get", "h/x", "--mode", "mail"], "'mail' is not one of"),
        (["get", "h/x", "--no-options", "--blksize", "512"], "leave out --blksize"),
        (["get", "h/x", "--frobnicate"], "No such option"),
        (["get", "h/x", "h/y"], "unexpected extra argument"),
        (["put", "file"], "Missing argument 'URL'"),
        (["put", "file", "ftp://h/x"], "ftp:// is not TFTP"),
        (["serve", "--port", "65536"], "65536 is not in the range"),
        (["serve", "--overwrite"], "needs --allow-write"),
        (["serve", "--single-port", "--port-range", "1:2"], "exclude each other"),
        (["serve", "-v", "-q"], "exclude each other"),
        (["serve", "--port-range", "9:8"], "is no range of ports"),
        (["serve", "--port-range", "1-9"], "is no range of ports"),
        (["serve", "--port-range", "1:65536"], "is no range of ports"),
        (["serve", "--max-size", "1T"], "is no size"),
        (["serve", "--allow", "192.0.2.0/33"], "is no network"),
        (["serve", "--deny", "everybody"], "is no network"),
        (["serve", "--refuse", "multicast"], "'multicast' is not one of"),
        (["serve", "--engine", "magic"], "'magic' is not"),
        (["serve", "a", "b"], "unexpected extra argument"),
    ],
)
def test_wrong_usage_is_2_and_one_sentence_behind_the_usage(
    capsys: pytest.CaptureFixture[str], arguments: list[str], sentence: str
) -> None:
    assert main(arguments) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    usage, *_, error = captured.err.splitlines()
    assert usage.startswith("Usage: tftp")
    assert sentence in captured.err
    assert "Traceback" not in captured.err
    assert error


@pytest.mark.parametrize("arguments", [["get", "h/x", "--mode", "\x1b[2J"], ["\udcff"]])
def test_junk_on_the_command_line_is_wrong_usage_too(arguments: list[str], here: Path) -> None:
    done = run(*arguments, cwd=here)
    assert done.returncode == 2
    assert b"Traceback" not in done.stderr


def test_help_into_a_pipe_that_nobody_reads_ends_quietly(here: Path) -> None:
    reader, writer = os.pipe()
    os.close(reader)
    done = subprocess.run(
        [sys.executable, "-m", "tftp", "--help"],
        stdout=writer,
        stderr=subprocess.PIPE,
        cwd=here,
        env=environment(),
        check=False,
        timeout=20,
    )
    os.close(writer)
    assert done.returncode == 1
    assert done.stderr == b""


def test_without_a_standard_output_a_transfer_still_works(url: str, here: Path) -> None:
    done = subprocess.run(
        ["/bin/sh", "-c", 'exec "$0" -m tftp get "$1" >&-', sys.executable, f"{url}/lines.txt"],
        cwd=here,
        env=environment(),
        capture_output=True,
        check=False,
        timeout=20,
    )
    assert done.returncode == 0, done.stderr
    assert (here / "lines.txt").exists()
