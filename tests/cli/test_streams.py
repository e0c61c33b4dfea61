"""The command as cron jobs and init scripts may run it: some of its standard streams are closed."""

import signal
import subprocess
from pathlib import Path

import pytest

from tests.cli.conftest import CONTENT
from tests.cli.running import COMMAND, PATIENCE, environment, names
from tests.watching import eventually

CLOSED = ["<&-", ">&-", "2>&-", "<&- >&- 2>&-"]


def shell(closed: str) -> list[str]:
    """What runs the command behind it without these streams."""
    return ["sh", "-c", f'exec "$@" {closed}', "sh"]


def run_without(
    closed: str, *arguments: str | Path, cwd: Path
) -> subprocess.CompletedProcess[bytes]:
    """Run `tftp`, these streams closed, and the others in pipes."""
    return subprocess.run(
        [*shell(closed), *COMMAND, *map(str, arguments)],
        cwd=cwd,
        input=b"",
        capture_output=True,
        timeout=PATIENCE,
        env=environment(),
        check=False,
    )


@pytest.mark.parametrize("closed", CLOSED)
def test_a_file_comes_and_goes(url: str, root: Path, here: Path, closed: str) -> None:
    assert run_without(closed, "get", f"{url}/boot/kernel.bin", cwd=here).returncode == 0
    assert (here / "kernel.bin").read_bytes() == CONTENT
    assert run_without(closed, "put", "kernel.bin", f"{url}/up", cwd=here).returncode == 0
    assert (root / "up").read_bytes() == CONTENT
    assert names(here) == ["kernel.bin"]


def test_what_goes_to_stdout_is_the_file_alone(url: str, here: Path) -> None:
    done = run_without("2>&-", "get", f"{url}/boot/kernel.bin", "-o", "-", cwd=here)
    assert (done.returncode, done.stdout) == (0, CONTENT)


@pytest.mark.parametrize("closed", CLOSED)
def test_a_failure_is_no_traceback(url: str, here: Path, closed: str) -> None:
    done = run_without(closed, "get", f"{url}/missing", "-o", "-", cwd=here)
    assert done.returncode == 1
    assert done.stdout == b""
    assert b"Traceback" not in done.stderr


def test_standard_input_that_is_closed_is_empty(url: str, root: Path, here: Path) -> None:
    assert run_without("<&-", "put", "-", f"{url}/up", cwd=here).returncode == 0
    assert (root / "up").read_bytes() == b""


@pytest.mark.parametrize("closed", CLOSED)
def test_a_server_serves(root: Path, tmp_path: Path, closed: str) -> None:
    place = tmp_path / "monitor"  # The banner may have nowhere to go: who is asked is the channel.
    arguments = ("serve", root, "--host", "127.0.0.1", "--port", "0", "--monitor", f"unix:{place}")
    with subprocess.Popen(
        [*shell(closed), *COMMAND, *map(str, arguments)],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        env=environment(),
    ) as server:
        try:
            assert eventually(lambda: place.exists() or server.poll() is not None, PATIENCE)
            assert server.poll() is None
            server.send_signal(signal.SIGTERM)
            assert server.wait(PATIENCE) == 0
        finally:
            server.kill()
