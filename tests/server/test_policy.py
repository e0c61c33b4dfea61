"""The rules for requests that come with the server."""

import pickle

import pytest

from tftp.errors import ErrorCode, Refused
from tftp.events import Operation, Request
from tftp.server.policy import (
    Policy,
    allow,
    backslashes,
    deny,
    limit_blksize,
    read_only,
    strip_junk,
)


def asked(filename: bytes = b"file", peer: tuple[object, ...] = ("192.0.2.7", 1234)) -> Request:
    return Request(operation=Operation.READ, filename=filename, peer=peer)


@pytest.mark.parametrize(
    ("filename", "meant"),
    [
        (b"\\Boot\\BCD", b"/Boot/BCD"),
        (b"boot/x\\y", b"boot/x/y"),
        (b"..\\..\\etc", b"../../etc"),
        (b"plain", b"plain"),
    ],
)
def test_a_backslash_is_meant_as_a_slash(filename: bytes, meant: bytes) -> None:
    assert backslashes(asked(filename)).filename == meant


@pytest.mark.parametrize(
    ("filename", "meant"),
    [
        (b"pxelinux.0\xff", b"pxelinux.0"),
        (b"pxelinux.0\xff\xd1\x33*G", b"pxelinux.0"),
        (b"na\xc3\xafve", b"na\xc3\xafve"),
        (b"\xff", b""),
    ],
)
def test_what_follows_the_end_marker_of_dhcp_is_no_part_of_the_name(
    filename: bytes, meant: bytes
) -> None:
    assert strip_junk(asked(filename)).filename == meant


def test_a_rule_changes_nothing_else_of_a_request() -> None:
    request = Request(
        operation=Operation.WRITE,
        filename=b"a\\b\xffc",
        mode="netascii",
        options={"tsize": "1"},
        peer=("192.0.2.7", 1234),
        local=("192.0.2.1", 69),
    )
    changed = strip_junk(backslashes(request))
    assert changed.filename == b"a/b"
    for name in ("operation", "mode", "options", "peer", "local"):
        assert getattr(changed, name) == getattr(request, name)


def test_a_read_only_server_takes_no_upload() -> None:
    request = asked()
    assert read_only(request) is request
    with pytest.raises(Refused) as caught:
        read_only(Request(operation=Operation.WRITE, filename=b"file"))
    assert caught.value.code == ErrorCode.ACCESS_VIOLATION


IN = [
    (["192.0.2.0/24"], ("192.0.2.7", 1)),
    (["198.51.100.0/24", "192.0.2.7"], ("192.0.2.7", 1)),
    (["192.0.2.99/24"], ("192.0.2.7", 1)),
    (["2001:db8::/32"], ("2001:db8::5", 1, 0, 0)),
    (["fe80::/10"], ("fe80::5", 1, 0, 3)),
    (["fe80::/10"], ("fe80::5%eth0", 1, 0, 3)),
    (["0.0.0.0/0", "::/0"], ("2001:db8::5", 1, 0, 0)),
]
OUT: list[tuple[list[str], tuple[object, ...]]] = [
    (["192.0.2.0/28"], ("192.0.2.17", 1)),
    (["0.0.0.0/0"], ("2001:db8::5", 1, 0, 0)),
    (["::/0"], ("192.0.2.7", 1)),
    ([], ("192.0.2.7", 1)),
]


@pytest.mark.parametrize(("networks", "peer"), IN)
def test_a_client_in_a_network_is_allowed_or_denied(
    networks: list[str], peer: tuple[object, ...]
) -> None:
    request = asked(peer=peer)
    assert allow(networks)(request) is request
    with pytest.raises(Refused, match="denied") as caught:
        deny(networks)(request)
    assert caught.value.code == ErrorCode.ACCESS_VIOLATION


@pytest.mark.parametrize(("networks", "peer"), OUT)
def test_a_client_outside_of_all_networks_is_neither(
    networks: list[str], peer: tuple[object, ...]
) -> None:
    request = asked(peer=peer)
    assert deny(networks)(request) is request
    with pytest.raises(Refused, match="allowed") as caught:
        allow(networks)(request)
    assert caught.value.code == ErrorCode.ACCESS_VIOLATION


def test_networks_are_read_once() -> None:
    rule = allow(iter(["192.0.2.0/24"]))
    for _ in range(2):
        assert rule(asked())


@pytest.mark.parametrize("make", [allow, deny])
@pytest.mark.parametrize("text", ["", "example.org", "192.0.2.0/33", "2001:db8::/129"])
def test_what_is_no_network_is_refused_when_the_rule_is_made(make: Policy, text: str) -> None:
    with pytest.raises(ValueError, match=r"network|address|Address"):
        make([text])  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("asked_for", "granted"),
    [
        *[("1468", "1024"), ("65464", "1024"), ("1024", "1024"), ("512", "512"), ("7", "7")],
        *[("65465", "65465"), ("14680000", "14680000"), ("x", "x"), ("", "")],
    ],
)
def test_some_clients_are_granted_smaller_blocks_than_others(asked_for: str, granted: str) -> None:
    rule = limit_blksize(["192.0.2.0/28", "2001:db8::/32"], 1024)
    options = {"tsize": "0", "BlkSize": asked_for, "windowsize": "2000"}
    for peer, answer in [
        ("192.0.2.7", granted),
        ("2001:db8::1%eth0", granted),
        ("192.0.2.77", asked_for),
    ]:
        request = Request(operation=Operation.READ, filename=b"x", options=options, peer=(peer, 1))
        assert list(rule(request).options.items()) == [
            ("tsize", "0"),
            ("BlkSize", answer),
            ("windowsize", "2000"),
        ]


def test_a_limit_that_is_no_block_size_is_refused_at_once() -> None:
    with pytest.raises(ValueError, match="8 to 65464"):
        limit_blksize(["192.0.2.0/28"], 7)


def test_rules_can_travel_to_other_processes() -> None:
    for rule in (allow(["::/0"]), deny(["10.0.0.0/8"]), limit_blksize(["10.0.0.0/8"], 512)):
        assert pickle.loads(pickle.dumps(rule)) == rule  # noqa: S301
