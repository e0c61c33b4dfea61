"""`tftp serve --metrics`, run for real."""

import re
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from tests.cli.conftest import CONTENT
from tests.cli.running import PATIENCE, Running, environment, run, running
from tests.monitor.scraping import scrape
from tests.watching import eventually

ENGINES = {"threads": [], "processes": ["--engine", "processes"], "workers": ["--workers", "2"]}
LOOPBACK = ["--host", "127.0.0.1", "--port", "0"]


def stop(server: Running) -> None:
    server.signal(signal.SIGTERM)
    assert server.wait() == 0


@pytest.mark.parametrize("engine", ENGINES)
def test_metrics_tell_what_the_server_has_done(root: Path, here: Path, engine: str) -> None:
    arguments = [str(root), *LOOPBACK, *ENGINES[engine], "--metrics", "0"]
    with running("serve", *arguments, cwd=here) as server:
        listening = re.fullmatch(r"listening on (\S+), .*", server.stdout.next())
        metrics = re.fullmatch(
            r"metrics at (http://127\.0\.0\.1:\d+/metrics)", server.stdout.next()
        )
        assert listening
        assert metrics
        assert run("get", f"{listening[1]}/boot/kernel.bin", cwd=here).returncode == 0
        assert run("get", f"{listening[1]}/missing", cwd=here).returncode == 1
        url = metrics[1]
        assert eventually(lambda: scrape(url)("tftp_requests_total") == 2)
        assert eventually(lambda: scrape(url)("tftp_transfers_total") == 1)
        scraped = scrape(url)
        assert scraped("tftp_payload_bytes_total", operation="read") == len(CONTENT)
        assert scraped("tftp_failures_total", outcome="refused", code="1") == 1
        (build,) = scraped.series("tftp_build_info")
        assert build["engine"] == engine
        assert build["version"] in run("--version", cwd=here).stdout.decode()
        stop(server)
        assert server.stderr.rest() == []


def test_in_json_the_first_line_has_the_url(root: Path, here: Path) -> None:
    with running("serve", root, *LOOPBACK, "--json", "--metrics", "0", cwd=here) as server:
        found = re.search(r'"metrics": "(http://127\.0\.0\.1:\d+/metrics)"', server.stdout.next())
        assert found
        assert scrape(found[1])("tftp_server_state", state="serving") == 1
        stop(server)


def test_whoever_lets_other_hosts_read_them_is_told_so(root: Path, here: Path) -> None:
    arguments = [*LOOPBACK, "--metrics", "0.0.0.0:0"]
    with running("serve", root, *arguments, cwd=here) as server:
        assert re.fullmatch(
            r"tftp: other hosts can read the metrics on 0\.0\.0\.0:[1-9]\d*, without a token: .*",
            server.stderr.next(),
        )
        stop(server)


def test_a_port_that_is_taken_is_told_and_nothing_is_served(root: Path, here: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        place = f"127.0.0.1:{taken.getsockname()[1]}"
        done = run("serve", root, *LOOPBACK, "--metrics", place, cwd=here)
    assert done.returncode == 1
    assert done.stdout == b""
    assert done.stderr.decode() == (
        f"tftp: cannot give metrics on {place}: Address already in use: choose another --metrics\n"
    )


@pytest.mark.parametrize("place", ["unix:/run/metrics", "nowhere", "127.0.0.1:99999", ""])
def test_a_place_that_is_none_is_wrong_usage(root: Path, here: Path, place: str) -> None:
    done = run("serve", root, *LOOPBACK, "--metrics", place, cwd=here)
    assert done.returncode == 2
    assert b"is no place for metrics: write PORT or HOST:PORT" in done.stderr


def test_without_the_package_one_line_says_what_to_install(root: Path, here: Path) -> None:
    program = (
        "import sys; sys.modules['prometheus_client'] = None; from tftp.cli import main;"
        f"sys.exit(main(['serve', {str(root)!r}, '--port', '0', '--metrics', '0']))"
    )
    done = subprocess.run(
        [sys.executable, "-c", program],
        cwd=here,
        capture_output=True,
        timeout=PATIENCE,
        env=environment(),
        check=False,
    )
    assert done.returncode == 1
    assert done.stdout == b""
    assert done.stderr.decode() == (
        "tftp: --metrics needs prometheus-client: pip install 'tftpkit[monitor]'\n"
    )
