"""Places: how people write them, and which of them are this host's alone."""

import errno
import socket

import pytest

from tftp.monitor.place import DEFAULT_PLACE, Place


@pytest.mark.parametrize(
    ("text", "place", "written"),
    [
        ("6970", Place("127.0.0.1", 6970), "127.0.0.1:6970"),
        ("192.0.2.1:6970", Place("192.0.2.1", 6970), "192.0.2.1:6970"),
        ("example.com:1", Place("example.com", 1), "example.com:1"),
        ("[2001:db8::1]:6970", Place("2001:db8::1", 6970), "[2001:db8::1]:6970"),
        ("unix:/run/tftp/monitor", Place(path="/run/tftp/monitor"), "unix:/run/tftp/monitor"),
        ("unix:monitor", Place(path="monitor"), "unix:monitor"),
    ],
)
def test_a_place_is_written_as_it_is_read(text: str, place: Place, written: str) -> None:
    assert Place.parse(text) == place
    assert str(place) == written
    assert Place.parse(written) == place


@pytest.mark.parametrize(
    "text",
    [
        *("", "host", "host:", ":6970", "host:port", "1:65536", "2001:db8::1:6970", "[::1]"),
        *("unix:", "unix:\0abstract", "u:\0", "1:-1", "1:\u0663"),
    ],
)
def test_what_is_no_place_is_told(text: str) -> None:
    with pytest.raises(ValueError, match="write"):
        Place.parse(text)


@pytest.mark.parametrize(
    ("place", "words"),
    [
        (Place("192.0.2.1", 1), "this host has no such address"),
        (Place("nosuch.invalid", 1), "[A-Za-z]{4}"),  # The resolver's words.
    ],
)
def test_where_nothing_could_listen_is_known_before(place: Place, words: str) -> None:
    with pytest.raises(OSError, match=words) as failed:
        place.check_here()
    assert failed.value.errno == errno.EADDRNOTAVAIL
    assert failed.value.filename == str(place)


def test_a_link_local_address_without_its_interface_is_told_as_such() -> None:
    with pytest.raises(OSError, match="needs its interface") as failed:
        Place("fe80::1", 1).check_here()
    assert failed.value.errno == errno.EINVAL


@pytest.mark.parametrize("host", ["127.0.0.1", "0.0.0.0", "localhost"])
def test_a_place_is_here_also_where_somebody_listens(host: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        Place(host, listener.getsockname()[1]).check_here()


@pytest.mark.parametrize(
    "text", ["1", "127.0.0.1:1", "127.9.9.9:1", "[::1]:1", "localhost:1", "unix:/x"]
)
def test_loopback_and_unix_sockets_are_this_host_s_alone(text: str) -> None:
    assert Place.parse(text).local


@pytest.mark.parametrize(
    "text", ["0.0.0.0:1", "[::]:1", "192.0.2.1:1", "example.com:1", "[fe80::1%eth0]:1"]
)
def test_everything_else_is_not(text: str) -> None:
    assert not Place.parse(text).local


def test_a_connection_is_made_and_waits_for_ever() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        place = Place("127.0.0.1", listener.getsockname()[1])
        with place.connect(5.0) as sock:
            assert sock.gettimeout() is None
            assert sock.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE)


def test_where_nobody_listens_there_is_no_connection() -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        place = Place("127.0.0.1", free.getsockname()[1])
        with pytest.raises(ConnectionRefusedError):
            place.connect(5.0)


def test_a_path_without_socket_is_told(tmp_path: object) -> None:
    with pytest.raises(FileNotFoundError):
        Place(path=f"{tmp_path}/none").connect(5.0)


def test_readers_look_on_this_host_if_not_told_otherwise() -> None:
    assert DEFAULT_PLACE.local
