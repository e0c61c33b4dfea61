"""Our client and other people's servers: tftp-hpa, atftpd, dnsmasq and tftpy.

Not here: BusyBox's server (udpsvd and tftpd), which Debian's BusyBox is built without. Its recorded
conversations are in fixtures/captures/command-line, and are replayed.
"""

from collections.abc import Callable
from pathlib import Path

import pytest

from tests.interop import peers
from tests.interop.content import LARGE_SIZE, TEXT, content
from tests.interop.peers import Serving, tftpd_hpa, wait_until_written
from tftp.client import Client
from tftp.errors import ErrorCode, PeerError
from tftp.options import Terms

Start = Callable[[Path], Serving]

SERVERS: list[Start] = [peers.tftpd_hpa, peers.atftpd, peers.dnsmasq, peers.tftpy_server]
# dnsmasq has no uploads at all.
WRITABLE: list[Start] = [peers.tftpd_hpa, peers.atftpd, peers.tftpy_server]
# tftpy knows the mode octet alone.
WITH_NETASCII: list[Start] = [peers.tftpd_hpa, peers.atftpd, peers.dnsmasq]

TERMS = [
    pytest.param(None, id="our own choice"),
    pytest.param(Terms(), id="no options"),
    pytest.param(Terms(blksize=1428), id="blksize 1428"),
    pytest.param(Terms(blksize=8192, timeout=2), id="blksize 8192 timeout 2"),
    pytest.param(Terms(blksize=1428, windowsize=16), id="blksize 1428 windowsize 16"),
    pytest.param(Terms(windowsize=4), id="windowsize 4"),
]


def sizes(terms: Terms | None) -> dict[str, int]:
    """An ordinary file, one that ends with an empty block (and an empty window), an empty one."""
    wanted = terms or Terms()
    exact = wanted.blksize * wanted.windowsize * 3
    return {"ordinary.bin": 100_001, "exact.bin": exact, "empty.bin": 0}


@pytest.mark.parametrize("terms", TERMS)
@pytest.mark.parametrize("start", SERVERS)
def test_files_of_any_size_arrive_whole(
    start: Start, terms: Terms | None, served: Path, local: Path
) -> None:
    for name, size in sizes(terms).items():
        (served / name).write_bytes(content(size))
    with start(served) as (host, port), Client(host, port, terms=terms) as client:
        for name, size in sizes(terms).items():
            ended = client.get(name, local / name)
            assert (local / name).read_bytes() == content(size)
            assert ended.counters.payload == size


@pytest.mark.parametrize("terms", TERMS)
@pytest.mark.parametrize("start", WRITABLE)
def test_files_of_any_size_are_sent_whole(
    start: Start, terms: Terms | None, served: Path, local: Path
) -> None:
    with start(served) as (host, port), Client(host, port, terms=terms) as client:
        for name, size in sizes(terms).items():
            (local / name).write_bytes(content(size))
            ended = client.put(local / name, name)
            assert ended.counters.payload == size
            wait_until_written(served / name, size)
            assert (served / name).read_bytes() == content(size)


@pytest.mark.parametrize("terms", TERMS[:2])
@pytest.mark.parametrize("start", WITH_NETASCII)
def test_line_ends_survive_a_download_in_netascii(
    start: Start, terms: Terms | None, served: Path
) -> None:
    (served / "lines.txt").write_bytes(TEXT)
    text = bytearray()
    with start(served) as (host, port), Client(host, port, terms=terms) as client:
        client.get("lines.txt", text, mode="netascii")
    assert bytes(text) == TEXT


@pytest.mark.parametrize("terms", TERMS[:2])
@pytest.mark.parametrize("start", [peers.tftpd_hpa, peers.atftpd])
def test_line_ends_survive_an_upload_in_netascii(
    start: Start, terms: Terms | None, served: Path
) -> None:
    with start(served) as (host, port), Client(host, port, terms=terms) as client:
        client.put(TEXT, "lines.txt", mode="netascii")
        wait_until_written(served / "lines.txt", len(TEXT))
    assert (served / "lines.txt").read_bytes() == TEXT


@pytest.mark.parametrize("start", SERVERS)
def test_a_missing_file_is_an_error_1_from_the_peer(
    start: Start, served: Path, local: Path
) -> None:
    with (
        start(served) as (host, port),
        Client(host, port) as client,
        pytest.raises(PeerError) as caught,
    ):
        client.get("nowhere.bin", local / "nowhere.bin")
    assert caught.value.code == ErrorCode.FILE_NOT_FOUND
    assert list(local.iterdir()) == []


def test_an_upload_that_a_server_refuses_is_an_error_from_the_peer(served: Path) -> None:
    with (
        tftpd_hpa(served, writable=False) as (host, port),
        Client(host, port) as client,
        pytest.raises(PeerError),
    ):
        client.put(b"content", "new.bin")
    assert list(served.iterdir()) == []


@pytest.mark.parametrize(
    ("start", "terms"),
    [
        pytest.param(peers.tftpd_hpa, Terms(), id="tftpd_hpa in lock-step"),
        pytest.param(peers.atftpd, Terms(windowsize=16), id="atftpd windowsize 16"),
        pytest.param(peers.dnsmasq, Terms(), id="dnsmasq in lock-step"),
    ],
)
def test_block_numbers_wrap_in_a_download_of_more_than_32_mib(
    start: Start, terms: Terms, served: Path, local: Path
) -> None:
    (served / "large.bin").write_bytes(content(LARGE_SIZE))
    with start(served) as (host, port), Client(host, port, terms=terms) as client:
        ended = client.get("large.bin", local / "large.bin")
    assert ended.counters.blocks == 65541
    assert (local / "large.bin").read_bytes() == content(LARGE_SIZE)


@pytest.mark.parametrize(
    ("start", "terms"),
    [
        pytest.param(peers.tftpd_hpa, Terms(), id="tftpd_hpa in lock-step"),
        pytest.param(peers.atftpd, Terms(windowsize=16), id="atftpd windowsize 16"),
    ],
)
def test_block_numbers_wrap_in_an_upload_of_more_than_32_mib(
    start: Start, terms: Terms, served: Path, local: Path
) -> None:
    (local / "large.bin").write_bytes(content(LARGE_SIZE))
    with start(served) as (host, port), Client(host, port, terms=terms) as client:
        ended = client.put(local / "large.bin", "large.bin")
        wait_until_written(served / "large.bin", LARGE_SIZE)
    assert ended.counters.blocks == 65541
    assert (served / "large.bin").read_bytes() == content(LARGE_SIZE)


def test_files_come_and_go_over_ipv6(ipv6: str, served: Path) -> None:
    (served / "file.bin").write_bytes(content(20_000))
    fetched = bytearray()
    with tftpd_hpa(served, host=ipv6) as (host, port), Client(host, port) as client:
        client.get("file.bin", fetched)
        client.put(bytes(fetched), "back.bin")
        wait_until_written(served / "back.bin", 20_000)
    assert (served / "back.bin").read_bytes() == content(20_000)
