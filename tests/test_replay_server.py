"""Recorded clients, played to our server: boot firmware and command-line tools, faults included.

Each client packet is sent once our server has sent what the recorded server had sent before it, so
nothing depends on the clock. Then the two servers are compared: the same options granted, the same
bytes in each block, the same blocks acknowledged, no packet more. Where the recorded server was
wrong, or merely another server, a table below says so.
"""

import contextlib
import socket
from pathlib import Path
from queue import SimpleQueue

import pytest

from tests.arrangements import Arrangement, everywhere_but
from tests.conversations import CAPTURES, Conversation, Sent, capture_id, captures, conversations
from tftp.errors import ErrorCode
from tftp.events import Address, Event, Outcome, Request, RequestRefused, TransferEnded
from tftp.options import Limits
from tftp.packets import Ack, Data, Error, OptionAck, Packet, ReadRequest, WriteRequest, decode
from tftp.server import Server, ServerConfig
from tftp.storage import Directory, Memory
from tftp.storage.memory import Content
from tftp.timers import Patience

# Seconds to wait for a packet that has to come; nothing waits for so long unless it fails.
SOON = 20.0

# Long enough that no timer fires while the recorded client is being played, except the `timeout` of
# one second that U-Boot negotiates; short enough to see how a client that fell silent ends.
PATIENCE = Patience(initial=2.5, floor=2.5, total=3.0)

# The recorded server's ERROR code is not ours:
CODES = {
    # tftpd-hpa has no code for "permission denied"; RFC 1350 has: access violation.
    "command-line/hpa-get-unreadable": ErrorCode.ACCESS_VIOLATION,
    # tftpd-hpa without --create looks for a file to overwrite; dnsmasq knows no WRQ at all.
    "command-line/hpa-put-refused": ErrorCode.ACCESS_VIOLATION,
    "command-line/curl-put-dnsmasq-refused": ErrorCode.ACCESS_VIOLATION,
}

# A packet that the capture lacks, though the recorded server evidently got it: the client's ACK of
# the first window, after the last DATA of that window.
UNRECORDED = {"command-line/atftp-get-windowsize-16-lossy": (18, Ack(16))}

# RFC 2090 is not spoken here, so this client would not get what it asks for (see the test below).
MULTICAST = CAPTURES / "command-line" / "atftp-get-multicast.pcap"


replayed = pytest.mark.parametrize(
    "capture", [capture for capture in captures() if capture != MULTICAST], ids=capture_id
)


@replayed
def test_our_server_answers_a_recorded_client_as_the_recorded_server_did(
    capture: Path, tmp_path: Path
) -> None:
    name = capture_id(capture)
    found = conversations(capture)
    if name in UNRECORDED:
        index, packet = UNRECORDED[name]
        before = found[0].sent[index]
        ack = Sent(before.time, True, before.tid, packet.encode(), packet)
        found[0].sent.insert(index + 1, ack)
    storage = storage_for(name, found, tmp_path)
    events: SimpleQueue[Event] = SimpleQueue()
    server = Server(storage, config=config_for(found), observers=[events.put])
    with server, Clients(server.address) as clients:
        for conversation in found:
            answers = clients.play(conversation, CODES.get(name))
            if fell_silent(conversation) and "timeout" in conversation.granted:
                # It negotiated a timeout of 6 s, so our server would wait for 18 s; not here.
                server.stop()
            end = the_end(events)
            if isinstance(conversation.request, ReadRequest):
                assert_same_download(conversation, answers)
            else:
                assert_same_upload(conversation, answers)
            assert_same_end(conversation, end, CODES.get(name))
            if isinstance(conversation.request, WriteRequest) and conversation.complete:
                assert written(storage, conversation.request) == conversation.content


# A client of each kind, and what it is known for.
TYPICAL = [
    "command-line/atftp-get-netascii",
    "command-line/atftp-get-windowsize-4",
    "command-line/atftp-put-windowsize-4",
    "command-line/busybox-get-not-found",
    "command-line/curl-get-hpa-ipv6",
    "command-line/hpa-put-netascii",
    "firmware/edk2-pxe_lockstep_hpa",
    "firmware/fault_uboot_dup-ack_hpa",
    "firmware/grub_get-20k_hpa",
    "firmware/ipxe_get-20k_hpa",
    "firmware/s390_probe-same-port_hpa",
    "firmware/slof_two-files-same-port_hpa",
    "firmware/uboot-put_1468_hpa",
    "firmware/uboot_window16_atftpd",
]


@everywhere_but(Arrangement.THREADS)  # Whose answers are the measure.
@pytest.mark.parametrize("name", TYPICAL)
def test_a_recorded_client_gets_the_same_octets_however_the_server_runs(
    name: str, arrangement: Arrangement, tmp_path: Path
) -> None:
    found = conversations(CAPTURES / f"{name}.pcap")
    expected = octets_for(found, Arrangement.THREADS, tmp_path / "expected")
    assert sum(map(len, expected)) >= len(found)
    assert octets_for(found, arrangement, tmp_path / "here") == expected


def octets_for(
    found: list[Conversation], arrangement: Arrangement, folder: Path
) -> list[list[bytes]]:
    """All datagrams with which our server answers each of the conversations."""
    storage = on_disk(found, folder)
    events: SimpleQueue[Event] = SimpleQueue()
    config = config_for(found)
    octets = []
    with (
        arrangement.serving(storage, config=config, observers=[events.put]) as server,
        Clients(server.address) as clients,
    ):
        for conversation in found:
            clients.play(conversation, None)
            the_end(events)
            octets.append(clients.hear_out(conversation))
    return octets


def on_disk(found: list[Conversation], folder: Path) -> Directory:
    """The files that the recorded server had, where every process finds them."""
    files = storage_for("", found, folder)
    assert isinstance(files, Memory)
    for conversation in found:
        path = folder / conversation.request.filename.decode().lstrip("/")
        path.parent.mkdir(parents=True, exist_ok=True)
        content = files.files.get(conversation.request.filename)
        if isinstance(content, bytes):
            path.write_bytes(content)
    return Directory(folder, writable=files.writable, overwrite=True)


def test_multicast_is_left_out_of_the_answer_and_the_rest_is_granted(tmp_path: Path) -> None:
    conversation, _ = conversations(MULTICAST)
    storage = storage_for("", [conversation], tmp_path)
    with (
        Server(storage) as server,
        socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as client,
    ):
        client.settimeout(SOON)
        client.sendto(conversation.request.encode(), server.address)
        assert decode(client.recv(1024)) == OptionAck({"blksize": "512"})


# What our server is given


def storage_for(name: str, found: list[Conversation], folder: Path) -> Memory | Directory:
    """A storage with the files that the recorded server had."""
    if name == "command-line/atftp-put-disk-full":
        (conversation,) = found
        room = len(conversation.content) - conversation.blksize
        return Directory(folder, writable=True, max_size=room)
    files: dict[bytes, Content] = {}
    uploaded: set[bytes] = set()
    for conversation in found:
        filename = conversation.request.filename
        error = conversation.server_error
        if isinstance(conversation.request, WriteRequest):
            uploaded.add(filename)
        elif error is None and filename not in uploaded:
            # A client that first asks for the size alone has a conversation with no content.
            if filename not in files or conversation.complete:
                files[filename] = file_of(conversation)
        elif error is not None and error.code != ErrorCode.FILE_NOT_FOUND:
            files[filename] = unreadable
    refused = any(
        isinstance(one.request, WriteRequest) and one.server_error is not None for one in found
    )
    return Memory(files, writable=not refused, overwrite=True)


def file_of(conversation: Conversation) -> bytes:
    """The file as far as it is known; zeros stand for what was never sent."""
    content = conversation.content
    if conversation.complete:
        return content
    size = conversation.granted.get("tsize")
    return content.ljust(len(content) + 100_000 if size is None else int(size), b"\0")


def unreadable(request: Request) -> bytes:
    raise PermissionError


def config_for(found: list[Conversation]) -> ServerConfig:
    """A server that knows the options that the recorded one knew, and listens as it did."""
    refused = {
        option
        for conversation in found
        if conversation.oack is not None
        for option in conversation.request.options.keys() - conversation.granted.keys()
    }
    first = found[0]
    return ServerConfig(
        hosts=("::1" if ":" in first.client[0] else "127.0.0.1",),
        limits=Limits(refused=frozenset(refused)),
        single_port=first.tids == [first.server[1]],
        patience=PATIENCE,
    )


def fell_silent(conversation: Conversation) -> bool:
    """Whether the recorded client went away without a word, the file not yet being whole."""
    errors = (conversation.client_error, conversation.server_error)
    return errors == (None, None) and not conversation.complete


def written(storage: Memory | Directory, request: WriteRequest) -> Content:
    assert isinstance(storage, Memory)
    return storage.files[request.filename]


def the_end(events: "SimpleQueue[Event]") -> TransferEnded | RequestRefused:
    """The event that ends the transfer: it comes, however its client has behaved."""
    while True:
        event = events.get(timeout=SOON)
        if isinstance(event, TransferEnded | RequestRefused):
            return event


# The recorded clients


class Clients:
    """The clients of one capture: a socket for each address that the recorded ones had."""

    def __init__(self, server: Address) -> None:
        self.server = server
        self.sockets: dict[Address, socket.socket] = {}
        self.past: set[Address] = set()
        self.octets: list[bytes] = []

    def __enter__(self) -> "Clients":
        return self

    def __exit__(self, *_: object) -> None:
        for opened in self.sockets.values():
            opened.close()

    def play(self, conversation: Conversation, code: int | None) -> list[Packet]:
        """Play one client to its end; the answers are all that our server sent it.

        Everything must come from one port: also where the recorded server took the repeat of a
        request for a second one, and answered from two.
        """
        client = self.socket_of(conversation.client)
        answers: list[Packet] = []
        tid: Address | None = None
        due: list[Sent] = []
        for one in [*conversation.sent, None]:
            if one is not None and not one.by_client:
                due.append(one)
                continue
            while missing := [packet for packet in due if not has_come(packet, answers, code)]:
                try:
                    datagram, source = client.recvfrom(65536)
                except TimeoutError:
                    pytest.fail(f"our server does not send {missing}")
                if source in self.past:
                    continue
                assert source == (tid or source)
                tid = source
                self.octets.append(datagram)
                answers.append(decode(datagram))
            due.clear()
            if one is not None and not conversation.lost(one):
                is_request = isinstance(one.packet, ReadRequest | WriteRequest)
                client.sendto(one.payload, self.server if is_request or tid is None else tid)
        # What the next client on this port hears from this transfer is late.
        if tid is not None and tid != self.server:
            self.past.add(tid)
        return answers

    def hear_out(self, conversation: Conversation) -> list[bytes]:
        """All datagrams that came since this was last asked, those after the play included."""
        client = self.socket_of(conversation.client)
        client.setblocking(False)
        with contextlib.suppress(BlockingIOError):
            while True:
                self.octets.append(client.recv(65536))
        client.settimeout(SOON)
        octets, self.octets = self.octets, []
        return octets

    def socket_of(self, client: Address) -> socket.socket:
        if client not in self.sockets:
            family = socket.AF_INET6 if ":" in client[0] else socket.AF_INET
            self.sockets[client] = socket.socket(family, socket.SOCK_DGRAM)
            self.sockets[client].settimeout(SOON)
        return self.sockets[client]


def has_come(recorded: Sent, answers: list[Packet], code: int | None) -> bool:
    """Whether our server has sent what stands for a packet of the recorded server."""
    match recorded.packet:
        case None:
            return True  # No packet at all: the truncated retransmission of atftpd.
        case Ack(block):
            # An ACK stands for all blocks before it.
            return any(isinstance(one, Ack) and one.block >= block for one in answers)
        case Error() as error:
            wanted = error.code if code is None else code
            return any(isinstance(one, Error) and one.code == wanted for one in answers)
        case packet:
            return packet in answers


# The comparison


def assert_same_download(conversation: Conversation, answers: list[Packet]) -> None:
    assert_same_options(conversation, answers)
    recorded = [one for one in conversation.from_server if isinstance(one.packet, Data)]
    ours = [one for one in answers if isinstance(one, Data)]
    blocks = {one.block: one.payload for one in ours}
    if conversation.complete:
        assert blocks == conversation.data
    else:
        # The recorded client gave up somewhere; ours may have got a little further.
        assert blocks.items() >= conversation.data.items()
    if int(conversation.granted.get("windowsize", "1")) > 1:
        # A hole, and what was in flight behind it: sent twice, not ten times. The recorded client
        # speaks of more holes than it has with us, as its own server repeated single blocks.
        assert len(ours) <= 3 * len(blocks)
    else:
        assert len(ours) <= max(len(recorded), len(blocks))


def assert_same_upload(conversation: Conversation, answers: list[Packet]) -> None:
    assert_same_options(conversation, answers)
    recorded = [one.packet.block for one in conversation.from_server if isinstance(one.packet, Ack)]
    ours = [one.block for one in answers if isinstance(one, Ack)]
    # Impatient servers repeat their ACKs while they wait.
    assert ours == list(dict.fromkeys(recorded))


def assert_same_options(conversation: Conversation, answers: list[Packet]) -> None:
    """The same options with the same values; ours in the order asked, which not all keep."""
    granted = [dict(one.options) for one in answers if isinstance(one, OptionAck)]
    if conversation.oack is None:
        assert granted == []
        return
    assert all(options == conversation.granted for options in granted)
    asked = [name for name in conversation.request.options if name in conversation.granted]
    assert list(granted[0]) == asked


def assert_same_end(
    conversation: Conversation, end: TransferEnded | RequestRefused, code: int | None
) -> None:
    if conversation.server_error is not None:
        assert end.error is not None
        assert end.error.code == (conversation.server_error.code if code is None else code)
        return
    assert isinstance(end, TransferEnded)
    if conversation.client_error is not None:
        # After an OACK the client had what it wanted; after DATA it gave up.
        expected = Outcome.PEER_ERROR if conversation.data else Outcome.PROBED
    elif conversation.confirmed:
        expected = Outcome.DONE
    elif conversation.complete:
        expected = Outcome.UNCONFIRMED
    else:
        expected = Outcome.ABORTED if "timeout" in conversation.granted else Outcome.TIMED_OUT
    assert end.outcome is expected
