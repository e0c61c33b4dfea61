"""A strict reader of classic pcap files: Ethernet, IPv4 or IPv6, UDP; each datagram as a value.

It reads what fixtures/captures holds and refuses the rest (other link types, cut packets,
fragments, IPv6 extension headers), so that nothing in a capture is passed over in silence. ICMP is
the one thing left out. Checksums are not looked at, as loopback leaves them to the network card.
"""

import ipaddress
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from struct import Struct

__all__ = ["Address", "CaptureError", "Datagram", "datagrams"]

Address = tuple[str, int]

_FILE_HEADER = Struct("<IHHiIII")
_RECORD_HEADER = Struct("<IIII")
_MAGIC_MICROSECONDS = 0xA1B2C3D4
_LINK_ETHERNET = 1

_ETHERNET = Struct("!6s6sH")
_IPV4 = Struct("!BxHxxHxBxx4s4s")
_IPV6 = Struct("!IHBx16s16s")
_UDP = Struct("!HHHxx")
_TYPE_IPV4, _TYPE_IPV6 = 0x0800, 0x86DD
_ICMP, _UDP_PROTOCOL, _ICMPV6 = 1, 17, 58
# All of the fragment field but "don't fragment": "more fragments", and the offset.
_FRAGMENT = 0x3FFF


class CaptureError(ValueError):
    """The file is no capture of the kind that is read here."""


@dataclass(frozen=True, slots=True)
class Datagram:
    """One UDP datagram; `time` is in seconds since the epoch."""

    time: float
    source: Address
    destination: Address
    payload: bytes


def datagrams(path: Path) -> Iterator[Datagram]:
    """All UDP datagrams of the file, in the order in which they were recorded.

    Raises:
        CaptureError: the file holds something that is not read here.
    """
    for time, frame in _records(path.read_bytes()):
        try:
            datagram = _datagram(time, frame)
        except CaptureError as error:
            raise CaptureError(f"{path.name}, at {time:.6f}: {error}") from None
        if datagram is not None:
            yield datagram


def _records(capture: bytes) -> Iterator[tuple[float, bytes]]:
    magic, _, _, _, _, _, link = _FILE_HEADER.unpack_from(capture)
    if magic != _MAGIC_MICROSECONDS or link != _LINK_ETHERNET:
        raise CaptureError(f"no little-endian pcap of Ethernet (magic {magic:#x}, link {link})")
    offset = _FILE_HEADER.size
    while offset < len(capture):
        seconds, microseconds, kept, whole = _RECORD_HEADER.unpack_from(capture, offset)
        offset += _RECORD_HEADER.size
        if kept != whole or offset + kept > len(capture):
            raise CaptureError(f"a packet of {whole} octets is cut to {kept}")
        yield seconds + microseconds / 1e6, capture[offset : offset + kept]
        offset += kept


def _datagram(time: float, frame: bytes) -> Datagram | None:
    _, _, kind = _ETHERNET.unpack_from(frame)
    packet = frame[_ETHERNET.size :]
    if kind == _TYPE_IPV4:
        protocol, source, destination, body = _ipv4(packet)
    elif kind == _TYPE_IPV6:
        protocol, source, destination, body = _ipv6(packet)
    else:
        raise CaptureError(f"Ethernet type {kind:#06x}")
    if protocol in (_ICMP, _ICMPV6):
        return None
    if protocol != _UDP_PROTOCOL:
        raise CaptureError(f"IP protocol {protocol}")
    source_port, destination_port, length = _UDP.unpack_from(body)
    if length != len(body):
        raise CaptureError(f"UDP says {length} octets, IP says {len(body)}")
    payload = body[_UDP.size :]
    return Datagram(time, (source, source_port), (destination, destination_port), payload)


def _ipv4(packet: bytes) -> tuple[int, str, str, bytes]:
    version, total, fragment, protocol, source, destination = _IPV4.unpack_from(packet)
    if fragment & _FRAGMENT:
        raise CaptureError("a fragment")
    header = (version & 0xF) * 4
    return protocol, _text(source), _text(destination), packet[header:total]


def _ipv6(packet: bytes) -> tuple[int, str, str, bytes]:
    _, length, protocol, source, destination = _IPV6.unpack_from(packet)
    return protocol, _text(source), _text(destination), packet[_IPV6.size :][:length]


def _text(address: bytes) -> str:
    return str(ipaddress.ip_address(address))
