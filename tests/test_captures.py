"""The recorded conversations: our codec gives every packet back octet for octet.

These tests also hold the ground that the replays stand on: that the reader of captures leaves
nothing out, and that conversations are split where a client really began a new one.
"""

import re
from pathlib import Path
from random import Random
from struct import pack

import pytest

from tests.conversations import CAPTURES, Conversation, capture_id, captures, conversations
from tests.pcap import CaptureError, datagrams
from tftp.errors import DecodeError
from tftp.packets import decode

every_capture = pytest.mark.parametrize("capture", captures(), ids=capture_id)

# Datagrams that are no TFTP packet, and why. atftpd 0.8.0 "retransmits" a DATA 1 that nobody
# acknowledged as its first three octets.
NO_PACKETS = {"command-line/atftp-server-truncated-retransmission": [b"\0\3\0"] * 5}

# The one packet in a capture that is not UDP: the client's host answers "port unreachable" to the
# DATA of a second transfer that a repeated request had started.
ICMP = {"command-line/hpa-get-repeated-request": 1}

# What the README of the firmware's captures says of the content: the seed's name, by size.
SEEDS = {
    20000: "p20k",
    16384: "p16k",
    100000: "p100k",
    4096: "x4096",
    46976: "x46976",
    512: "x512",
}


def find(name: str) -> list[Conversation]:
    return conversations(CAPTURES / f"{name}.pcap")


@every_capture
def test_every_recorded_packet_encodes_to_the_octets_it_was_decoded_from(capture: Path) -> None:
    refused = []
    for datagram in datagrams(capture):
        try:
            packet = decode(datagram.payload)
        except DecodeError:
            refused.append(datagram.payload)
        else:
            assert packet.encode() == datagram.payload
    assert refused == NO_PACKETS.get(capture_id(capture), [])


@every_capture
def test_no_packet_of_a_capture_is_left_out(capture: Path) -> None:
    found = sum(len(conversation.sent) for conversation in conversations(capture))
    assert found == len(list(datagrams(capture)))
    assert found + ICMP.get(capture_id(capture), 0) == packets_by_the_readme(capture)


def packets_by_the_readme(capture: Path) -> int:
    """The number in the column "packets" of the table that describes the capture."""
    rows = [
        [cell.strip(" `") for cell in re.split(r"(?<!\\)\|", line)]
        for line in (capture.parent / "README.md").read_text().splitlines()
        if line.startswith("|")
    ]
    column = rows[0].index("packets")
    return next(int(row[column]) for row in rows if capture.name in row)


def test_each_readme_describes_each_capture_once() -> None:
    for folder in {capture.parent for capture in captures()}:
        names = re.findall(r"^\| `?([^ `|]+\.pcap)", (folder / "README.md").read_text(), re.M)
        assert sorted(names) == sorted(path.name for path in folder.glob("*.pcap"))


@pytest.mark.parametrize(
    "capture",
    [capture for capture in captures() if capture.parent.name == "firmware"],
    ids=capture_id,
)
def test_the_blocks_of_a_conversation_join_to_the_file_that_was_served(capture: Path) -> None:
    for conversation in conversations(capture):
        content = conversation.content
        if conversation.complete and len(content) in SEEDS:
            seed = f"fwh-{SEEDS[len(content)]}-0"
            assert content == Random(seed).randbytes(len(content))
        tsize = conversation.granted.get("tsize")
        if conversation.complete and tsize is not None:
            assert len(content) == int(tsize)


def test_a_client_with_one_port_has_a_conversation_for_each_request() -> None:
    probes = find("firmware/lpxelinux_probe-same-port_hpa")
    assert len({probe.client for probe in probes}) == 1
    assert [len(probe.tids) for probe in probes] == [1] * 10
    assert [probe.server_error is not None for probe in probes] == [True] * 9 + [False]


def test_a_repeated_request_belongs_to_the_conversation_of_the_first() -> None:
    (conversation,) = find("firmware/fault_uboot_dup-rrq_hpa")
    assert [one.packet for one in conversation.from_client[:2]] == [conversation.request] * 2
    assert len(conversation.tids) == 2


def test_a_server_that_answers_from_its_own_port_has_that_port_as_its_tid() -> None:
    (conversation,) = find("command-line/busybox-get")
    assert conversation.tids == [conversation.server[1]]


def test_a_conversation_knows_how_it_ended() -> None:
    probe, transfer = find("firmware/edk2-pxe_window4_atftpd")
    assert probe.client_error is not None
    assert not probe.complete
    assert transfer.confirmed
    (unconfirmed,) = find("firmware/fault_ipxe_drop-last-ack_hpa")
    assert unconfirmed.complete
    assert not unconfirmed.confirmed


def capture_of(frame: bytes, *, link: int = 1, kept: int | None = None) -> bytes:
    """A capture that holds one frame."""
    header = pack("<IHHiIII", 0xA1B2C3D4, 2, 4, 0, 0, 65535, link)
    return header + pack("<IIII", 0, 0, len(frame) if kept is None else kept, len(frame)) + frame


ETHERNET_IPV4 = bytes(12) + b"\x08\x00"
UDP_PACKET = pack("!BxHxxHBBxx4s4s", 0x45, 32, 0, 64, 17, bytes(4), bytes(4)) + pack(
    "!HHHxx4s", 69, 2000, 12, b"\0\4\0\1"
)


def test_a_datagram_is_read_with_its_addresses_and_payload(tmp_path: Path) -> None:
    path = tmp_path / "one.pcap"
    path.write_bytes(capture_of(ETHERNET_IPV4 + UDP_PACKET))
    (datagram,) = datagrams(path)
    assert (datagram.source, datagram.destination) == (("0.0.0.0", 69), ("0.0.0.0", 2000))
    assert datagram.payload == b"\0\4\0\1"


@pytest.mark.parametrize(
    "capture",
    [
        pytest.param(capture_of(UDP_PACKET, link=101), id="no Ethernet"),
        pytest.param(capture_of(ETHERNET_IPV4 + UDP_PACKET, kept=30), id="cut"),
        pytest.param(capture_of(bytes(12) + b"\x08\x06" + UDP_PACKET), id="ARP"),
        pytest.param(
            capture_of(ETHERNET_IPV4 + UDP_PACKET[:6] + b"\x20\x00" + UDP_PACKET[8:]),
            id="fragment",
        ),
        pytest.param(
            capture_of(ETHERNET_IPV4 + UDP_PACKET[:9] + b"\x06" + UDP_PACKET[10:]), id="TCP"
        ),
        pytest.param(capture_of(ETHERNET_IPV4 + UDP_PACKET[:-1]), id="UDP that is too short"),
    ],
)
def test_a_capture_with_anything_else_in_it_is_refused(capture: bytes, tmp_path: Path) -> None:
    path = tmp_path / "odd.pcap"
    path.write_bytes(capture)
    with pytest.raises(CaptureError):
        list(datagrams(path))
