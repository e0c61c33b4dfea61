"""Captures split into conversations: one request, and all that its two ends then sent each other.

The replays are built on this: what a recorded client sent drives our server, what a recorded
server sent drives our client. A conversation knows who sent what, in which order, and which port
the server used (its TID); it passes no judgement on whether any of it was right.
"""

import ipaddress
from dataclasses import dataclass, field
from pathlib import Path

from tests.pcap import Address, Datagram, datagrams
from tftp.errors import DecodeError
from tftp.netascii import from_netascii
from tftp.packets import Ack, Data, Error, OptionAck, Packet, ReadRequest, WriteRequest, decode

__all__ = ["CAPTURES", "Conversation", "Sent", "capture_id", "captures", "conversations"]

CAPTURES = Path(__file__).parents[1] / "fixtures" / "captures"


@dataclass(frozen=True, slots=True)
class Sent:
    """One datagram of a conversation.

    Attributes:
        time: seconds since the request.
        by_client: who sent it.
        tid: the server's port that it was sent to or from.
        payload: the bytes.
        packet: what they decode to; None where they are no TFTP packet.
    """

    time: float
    by_client: bool
    tid: int
    payload: bytes
    packet: Packet | None


@dataclass(slots=True)
class Conversation:
    """One request and what came of it.

    Attributes:
        time: of the request, in seconds since the epoch.
        client: the client's address; several conversations may share it.
        server: the address that the request was sent to.
        request: the first packet.
        sent: every datagram in the order recorded, the request first.
    """

    time: float
    client: Address
    server: Address
    request: ReadRequest | WriteRequest
    sent: list[Sent] = field(default_factory=list)

    @property
    def from_client(self) -> list[Sent]:
        """What the client sent, the request included."""
        return [one for one in self.sent if one.by_client]

    @property
    def from_server(self) -> list[Sent]:
        """What the server sent."""
        return [one for one in self.sent if not one.by_client]

    @property
    def tids(self) -> list[int]:
        """The server's ports in the order of their first use, without the one of the request.

        There are two where a server took a repeated request for a new one, and none where it never
        answered. A server that answers from the request's own port has that one.
        """
        return list(dict.fromkeys(one.tid for one in self.from_server))

    @property
    def oack(self) -> OptionAck | None:
        """The server's option acknowledgement, if it sent one."""
        packets = (one.packet for one in self.from_server)
        return next((packet for packet in packets if isinstance(packet, OptionAck)), None)

    @property
    def server_error(self) -> Error | None:
        """The ERROR with which the server ended it."""
        return _error(self.from_server)

    @property
    def client_error(self) -> Error | None:
        """The ERROR with which the client ended it."""
        return _error(self.from_client)

    @property
    def granted(self) -> dict[str, str]:
        """The options that were granted."""
        return dict(self.oack.options) if self.oack else {}

    @property
    def blksize(self) -> int:
        """Octets in a block, as negotiated."""
        return int(self.granted.get("blksize", "512"))

    @property
    def data(self) -> dict[int, bytes]:
        """The payload of each block, by its number; no capture is long enough for a wrap."""
        packets = [one.packet for one in self.sent]
        return {one.block: one.payload for one in packets if isinstance(one, Data)}

    @property
    def complete(self) -> bool:
        """Whether the last block was sent, and all the ones before it."""
        data = self.data
        last = max(data, default=0)
        return last > 0 and len(data) == last and len(data[last]) < self.blksize

    @property
    def confirmed(self) -> bool:
        """Whether the last block was acknowledged too."""
        packets = [one.packet for one in self.sent]
        acked = {one.block for one in packets if isinstance(one, Ack)}
        return self.complete and max(self.data) in acked

    def lost(self, one: Sent) -> bool:
        """Whether the server can not have got this DATA of its client.

        Some captures were taken in front of a lossy link, and show what was lost behind it: the
        server then acknowledged the block before, and the client sent this one again.
        """
        if not one.by_client or not isinstance(one.packet, Data):
            return False
        later = [sent.packet for sent in self.sent[self.sent.index(one) + 1 :]]
        return Ack(one.packet.block - 1) in later and one.packet in later

    @property
    def content(self) -> bytes:
        """The file as far as it was sent, in its local form where the mode is netascii."""
        data = self.data
        wire = b"".join(data[block] for block in sorted(data))
        return from_netascii(wire) if self.request.mode.lower() == "netascii" else wire


def _error(sent: list[Sent]) -> Error | None:
    return next((one.packet for one in sent if isinstance(one.packet, Error)), None)


def captures() -> list[Path]:
    """All captures, in a fixed order."""
    return sorted(CAPTURES.rglob("*.pcap"))


def capture_id(path: Path) -> str:
    """A capture's name as tests are called by it: "firmware/grub_empty_hpa"."""
    return path.relative_to(CAPTURES).with_suffix("").as_posix()


def conversations(path: Path) -> list[Conversation]:
    """The conversations of a capture, in the order of their requests.

    A request that repeats the last one of the same client, octet for octet, belongs to the same
    conversation. What a server sends to a multicast group (RFC 2090) belongs to the conversation
    that its port is known from.
    """
    found: list[Conversation] = []
    for datagram in datagrams(path):
        packet = _decoded(datagram.payload)
        by_client = True
        if isinstance(packet, ReadRequest | WriteRequest):
            conversation = _latest(found, datagram.source)
            if conversation is None or conversation.request != packet:
                conversation = Conversation(
                    datagram.time, datagram.source, datagram.destination, packet
                )
                found.append(conversation)
        else:
            conversation, by_client = _owner(found, datagram)
        tid = (datagram.destination if by_client else datagram.source)[1]
        time = datagram.time - conversation.time
        conversation.sent.append(Sent(time, by_client, tid, datagram.payload, packet))
    return found


def _decoded(payload: bytes) -> Packet | None:
    try:
        return decode(payload)
    except DecodeError:
        return None


def _owner(found: list[Conversation], datagram: Datagram) -> tuple[Conversation, bool]:
    """The conversation of a datagram that is no request, and whether its client sent it."""
    if ipaddress.ip_address(datagram.destination[0]).is_multicast:
        return [one for one in found if datagram.source[1] in one.tids][-1], False
    for client, server in (
        (datagram.source, datagram.destination),
        (datagram.destination, datagram.source),
    ):
        theirs = [one for one in found if (one.client, one.server[0]) == (client, server[0])]
        # A client that asks for one file after the other from one port still gets late packets of
        # the last transfer: only the server's port tells them apart.
        known = [one for one in theirs if server[1] in one.tids]
        if theirs:
            return (known or theirs)[-1], client == datagram.source
    raise ValueError(f"{datagram.source} to {datagram.destination} belongs to no request")


def _latest(found: list[Conversation], client: Address) -> Conversation | None:
    return next((one for one in reversed(found) if one.client == client), None)
