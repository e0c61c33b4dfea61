"""The price of watching: what is compared with what, and that watchers do watch."""

import shutil
import socket
import sys
from pathlib import Path
from typing import Any

import pytest

from benchmarks import watching
from benchmarks.loads import LOADS
from benchmarks.measure import Setting
from benchmarks.peers import ServerPeer
from benchmarks.prepare import Workshop
from benchmarks.process import NotReady
from benchmarks.watching import Price, WatchedEntrant, main, measure, price_of

REPOSITORY = Path(__file__).parents[2]


@pytest.fixture
def tftp(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Our command as this Python runs it, installed or not."""
    script = tmp_path / "tftp"
    script.write_text(f'#!/bin/sh\nPYTHONPATH={REPOSITORY} exec {sys.executable} -m tftp "$@"\n')
    script.chmod(0o755)
    monkeypatch.setattr(watching, "tftp_command", lambda: str(script))
    return script


@pytest.fixture
def plain(tftp: Path) -> ServerPeer:
    """A server of ours."""

    def serve(shop: Workshop, where: tuple[str, int], root: Path) -> list[str | Path]:
        return [tftp, "serve", root, "--host", where[0], "--port", str(where[1]), "--quiet"]

    return ServerPeer(name="ours", made="Python", command=serve)


@pytest.fixture
def setting(tmp_path: Path) -> Setting:
    """A place to measure in, with a file."""
    root, local = tmp_path / "root", tmp_path / "local"
    for folder in (root, local):
        folder.mkdir()
    (root / "1m").write_bytes(bytes(1 << 20))
    shop = Workshop(tmp_path / "shop")
    return Setting(shop=shop, root=root, local=local, rounds=2, limit=30.0, quick=True)


def summary(*seconds: float, cpu: float = 1.0, **other: Any) -> dict[str, Any]:
    """What a server has reached, as far as it is looked at here."""
    usual = {"value": 100 / sum(seconds), "cpu_per_gb": cpu, "failures": 0, "reason": ""}
    return {**usual, "rounds": [{"seconds": one} for one in seconds], **other}


def test_the_price_is_a_share_of_what_it_is_without() -> None:
    price = price_of(summary(1.0, 1.0, 4.0, cpu=2.0), summary(1.25, 2.0, 4.75, cpu=3.0))
    assert price == Price(throughput=0.75, paired=0.8, cpu=1.5)


@pytest.mark.parametrize(
    "broken",
    [summary(1.0, failures=1, reason="no DATA came"), summary(1.0) | {"rounds": []}],
    ids=["failed", "not measured"],
)
def test_there_is_no_price_where_the_work_was_not_the_same(broken: dict[str, Any]) -> None:
    with pytest.raises(NotReady, match=r"no DATA came|no round"):
        price_of(summary(1.0), broken)


@pytest.mark.skipif(shutil.which("cc") is None, reason="there is no C compiler")
@pytest.mark.parametrize("reading", [True, False], ids=["events", "plain"])
def test_both_do_the_same_work_and_one_is_watched(
    plain: ServerPeer, setting: Setting, reading: bool
) -> None:
    [load] = [one for one in LOADS if one.key == "clients100w16"]
    small = load.shortened()
    figures = measure(plain, small, setting, reading=reading)
    assert list(figures["servers"]) == ["ours", "ours, watched"]
    assert figures["price"]["throughput"] > 0
    first, second, stuck = figures["audience"]["lines"]
    # Of each transfer of the warm-up and of two rounds, that it began and ended.
    assert min(first, second) > 3 * small.transfers * 2
    assert stuck < first


def test_the_audience_comes_and_goes_with_the_server(plain: ServerPeer, setting: Setting) -> None:
    entrant = WatchedEntrant(plain, setting, reading=True)
    try:
        first = entrant.server
        assert entrant.server is first
        monitor = setting.local / "monitor"
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as look:
            look.connect(str(monitor))
    finally:
        entrant.stop()
    assert all(entrant.told["lines"])
    assert not first.alive
    entrant.stop()


def test_only_servers_of_this_project_can_be_chosen(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["--peer", "tftp-hpa"])
    assert "invalid choice" in capsys.readouterr().err
