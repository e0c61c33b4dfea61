"""Our server and other people's clients: tftp-hpa, atftp, curl, BusyBox and tftpy."""

import socket
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

import pytest

from tests.arrangements import Arrangement, everywhere, everywhere_but
from tests.interop import peers
from tests.interop.content import LARGE_SIZE, TEXT, content
from tests.interop.peers import Ask, Client, Where
from tests.relay import Relay
from tftp.events import Address
from tftp.netascii import to_netascii
from tftp.packets import Ack
from tftp.server import ServerConfig
from tftp.storage import Directory

Serve = Callable[..., AbstractContextManager[Where]]


@contextmanager
def serving(
    root: Path,
    arrangement: Arrangement = Arrangement.THREADS,
    *,
    writable: bool = False,
    host: str = "127.0.0.1",
    single_port: bool = False,
) -> Iterator[Where]:
    config = ServerConfig(hosts=(host,), single_port=single_port)
    storage = Directory(root, writable=writable)
    with arrangement.serving(storage, config=config) as server:
        yield server.address[:2]


def case(client: Client, **options: int) -> object:
    name = " ".join([client.__name__, *(f"{name} {value}" for name, value in options.items())])
    return pytest.param(client, options, id=name)


# Left out, as the clients cannot do it: options with tftp-hpa (it never sends any), and windowsize
# with curl, BusyBox and tftpy (it is not among the options that they know).
TRANSFERS = [
    case(peers.tftp_hpa),
    case(peers.atftp),
    case(peers.atftp, blksize=1428),
    case(peers.atftp, tsize=0, timeout=2, blksize=8192),
    case(peers.atftp, blksize=1428, windowsize=4),
    case(peers.atftp, blksize=512, windowsize=16),
    case(peers.curl),
    case(peers.curl, blksize=1428),
    pytest.param(peers.curl, None, id="curl with its own options"),
    case(peers.busybox_tftp),
    case(peers.busybox_tftp, blksize=1428),
    case(peers.busybox_tftp, blksize=65464),
    case(peers.tftpy_client),
    case(peers.tftpy_client, blksize=1428, tsize=0),
]


# Each client once, and with a window where it knows one, against every arrangement of the server.
CORE = [
    case(peers.tftp_hpa),
    case(peers.atftp, blksize=1428, windowsize=4),
    pytest.param(peers.curl, None, id="curl with its own options"),
    case(peers.busybox_tftp, blksize=65464),
    case(peers.tftpy_client, blksize=1428, tsize=0),
]


def sizes(options: dict[str, int] | None) -> dict[str, int]:
    """An ordinary file, one that ends with an empty block (and an empty window), an empty one."""
    wanted = options or {}
    exact = wanted.get("blksize", 512) * wanted.get("windowsize", 1) * 3
    return {"ordinary.bin": 100_001, "exact.bin": exact, "empty.bin": 0}


def takes_empty_files(client: Client, options: dict[str, int] | None) -> bool:
    # curl up to 7.88 refuses an OACK with tsize 0 (fixtures/captures/command-line,
    # curl-get-empty-tsize0.pcap), and it asks for tsize whenever it asks for anything.
    return client is not peers.curl or options == {}


@pytest.mark.parametrize(("client", "options"), TRANSFERS)
def test_a_client_gets_files_of_any_size_whole(
    client: Client, options: dict[str, int] | None, served: Path, local: Path
) -> None:
    with serving(served) as server:
        get_all(client, options, server, served, local)


@pytest.mark.parametrize(("client", "options"), TRANSFERS)
def test_a_client_puts_files_of_any_size_whole(
    client: Client, options: dict[str, int] | None, served: Path, local: Path
) -> None:
    with serving(served, writable=True) as server:
        put_all(client, options, server, served, local)


@everywhere_but(Arrangement.THREADS)  # For which there are the two tests before.
@pytest.mark.parametrize(("client", "options"), CORE)
def test_a_client_gets_and_puts_files_however_the_server_runs(
    arrangement: Arrangement,
    client: Client,
    options: dict[str, int] | None,
    served: Path,
    local: Path,
) -> None:
    with serving(served, arrangement, writable=True) as server:
        put_all(client, options, server, served, local)
        get_all(client, options, server, served, local)


def get_all(
    client: Client, options: dict[str, int] | None, server: Where, served: Path, local: Path
) -> None:
    for name, size in sizes(options).items():
        if not size and not takes_empty_files(client, options):
            continue
        (served / name).write_bytes(content(size))
        got = local / f"got-{name}"
        ended = client(Ask(verb="get", server=server, remote=name, local=got, options=options))
        assert not ended.failed, ended.output
        assert got.read_bytes() == content(size)


def put_all(
    client: Client, options: dict[str, int] | None, server: Where, served: Path, local: Path
) -> None:
    for name, size in sizes(options).items():
        sent = local / name
        sent.write_bytes(content(size))
        ended = client(Ask(verb="put", server=server, remote=name, local=sent, options=options))
        assert not ended.failed, ended.output
        assert (served / name).read_bytes() == content(size)


# Left out: BusyBox and tftpy know the mode octet alone, and curl writes netascii to the disk as it
# came (curl/curl#12655), which the test after this one makes use of.
@pytest.mark.parametrize("client", [peers.tftp_hpa, peers.atftp])
def test_line_ends_survive_netascii_both_ways(client: Client, served: Path, local: Path) -> None:
    (local / "sent.txt").write_bytes(TEXT)
    with serving(served, writable=True) as server:
        put = Ask(
            verb="put",
            server=server,
            remote="there.txt",
            local=local / "sent.txt",
            mode="netascii",
        )
        assert not client(put).failed
        assert (served / "there.txt").read_bytes() == TEXT
        get = Ask(
            verb="get",
            server=server,
            remote="there.txt",
            local=local / "back.txt",
            mode="netascii",
        )
        assert not client(get).failed
    assert (local / "back.txt").read_bytes() == TEXT


@pytest.mark.parametrize("options", [None, {}, {"blksize": 1428}])
def test_curl_sees_cr_lf_and_cr_nul_in_netascii(
    options: dict[str, int] | None, served: Path, local: Path
) -> None:
    (served / "lines.txt").write_bytes(TEXT)
    with serving(served) as server:
        ended = peers.curl(
            Ask(
                verb="get",
                server=server,
                remote="lines.txt",
                local=local / "lines.txt",
                mode="netascii",
                options=options,
            )
        )
    assert not ended.failed, ended.output
    assert (local / "lines.txt").read_bytes() == to_netascii(TEXT)


CLIENTS = [peers.tftp_hpa, peers.atftp, peers.curl, peers.busybox_tftp, peers.tftpy_client]


@pytest.mark.parametrize("client", CLIENTS)
def test_a_client_understands_that_there_is_no_such_file(
    client: Client, served: Path, local: Path
) -> None:
    with serving(served) as server:
        ask = Ask(verb="get", server=server, remote="nowhere.bin", local=local / "nowhere.bin")
        ended = client(ask)
    assert ended.failed
    assert "not found" in ended.output.lower()


@pytest.mark.parametrize("client", CLIENTS)
def test_a_client_cannot_put_to_a_server_that_is_read_only(
    client: Client, served: Path, local: Path
) -> None:
    (local / "new.bin").write_bytes(content(3000))
    with serving(served) as server:
        ended = client(Ask(verb="put", server=server, remote="new.bin", local=local / "new.bin"))
    assert ended.failed
    assert list(served.iterdir()) == []


@pytest.mark.parametrize("client", CLIENTS)
def test_a_client_cannot_put_over_a_file_that_is_there(
    client: Client, served: Path, local: Path
) -> None:
    (served / "old.bin").write_bytes(b"old")
    (local / "new.bin").write_bytes(content(3000))
    with serving(served, writable=True) as server:
        ended = client(Ask(verb="put", server=server, remote="old.bin", local=local / "new.bin"))
    assert ended.failed
    assert (served / "old.bin").read_bytes() == b"old"


@everywhere
@pytest.mark.parametrize("client", CLIENTS)
def test_a_client_is_served_from_a_single_port(
    arrangement: Arrangement, client: Client, served: Path, local: Path
) -> None:
    (served / "file.bin").write_bytes(content(20_000))
    with serving(served, arrangement, single_port=True) as server:
        ended = client(Ask(verb="get", server=server, remote="file.bin", local=local / "file.bin"))
    assert not ended.failed, ended.output
    assert (local / "file.bin").read_bytes() == content(20_000)


# tftpy is left out for its pace: it would take half a minute.
@pytest.mark.parametrize(
    ("client", "options"),
    [
        case(peers.tftp_hpa),
        case(peers.atftp, blksize=512, windowsize=16),
        case(peers.curl),
        case(peers.busybox_tftp),
    ],
)
def test_block_numbers_wrap_in_a_download_of_more_than_32_mib(
    client: Client, options: dict[str, int], served: Path, local: Path
) -> None:
    (served / "large.bin").write_bytes(content(LARGE_SIZE))
    with serving(served) as server:
        ended = client(
            Ask(
                verb="get",
                server=server,
                remote="large.bin",
                local=local / "large.bin",
                options=options,
            )
        )
    assert not ended.failed, ended.output
    assert (local / "large.bin").read_bytes() == content(LARGE_SIZE)


@pytest.mark.parametrize(
    ("client", "options"),
    [case(peers.tftp_hpa), case(peers.atftp, blksize=512, windowsize=16)],
)
def test_block_numbers_wrap_in_an_upload_of_more_than_32_mib(
    client: Client, options: dict[str, int], served: Path, local: Path
) -> None:
    (local / "large.bin").write_bytes(content(LARGE_SIZE))
    with serving(served, writable=True) as server:
        ended = client(
            Ask(
                verb="put",
                server=server,
                remote="large.bin",
                local=local / "large.bin",
                options=options,
            )
        )
    assert not ended.failed, ended.output
    assert (served / "large.bin").read_bytes() == content(LARGE_SIZE)


class OneLoss(Relay):
    """A network that loses one datagram from the server, the first of these octets."""

    def __init__(self, server: Where, datagram: bytes) -> None:
        super().__init__(server, seed=0, rate=0.0)
        self._datagram = datagram

    def _pass(self, way: str, by: socket.socket, datagram: bytes, to: Address) -> None:
        if datagram == self._datagram and not self.lost:
            self.lost += 1
        else:
            by.sendto(datagram, to)


@pytest.mark.parametrize("client", [peers.tftp_hpa, peers.atftp])
def test_a_client_that_misses_the_last_ack_gets_it_when_it_asks_five_seconds_later(
    client: Client, served: Path, local: Path
) -> None:
    (local / "file.bin").write_bytes(content(700))
    with serving(served, writable=True) as server, OneLoss(server, Ack(2).encode()) as network:
        put = Ask(
            verb="put", server=network.address[:2], remote="file.bin", local=local / "file.bin"
        )
        ended = client(put)
    assert network.lost == 1
    assert not ended.failed, ended.output
    assert "timed out" not in ended.output
    assert (served / "file.bin").read_bytes() == content(700)


@pytest.mark.parametrize("client", [peers.tftp_hpa, peers.curl])
def test_a_client_gets_and_puts_over_ipv6(
    client: Client, ipv6: str, served: Path, local: Path
) -> None:
    (served / "file.bin").write_bytes(content(20_000))
    with serving(served, writable=True, host=ipv6) as server:
        got = client(Ask(verb="get", server=server, remote="file.bin", local=local / "file.bin"))
        assert not got.failed, got.output
        put = client(Ask(verb="put", server=server, remote="back.bin", local=local / "file.bin"))
        assert not put.failed, put.output
    assert (served / "back.bin").read_bytes() == content(20_000)
