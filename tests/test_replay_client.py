"""Recorded servers, played to our client: C servers at their best and at their worst.

A server's packet is sent once our client has sent what the recorded client had sent before it, so
nothing depends on the clock; losses, repeats and overtaking are in what is sent. Our client must
ask the same, get or send the same bytes, and where nothing was lost say exactly what the recorded
client said. Where a client of flesh and blood gave up of its own accord, ours stays until told.
"""

import selectors
import socket
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path

import pytest

from tests.conversations import CAPTURES, Conversation, Sent, capture_id, captures, conversations
from tftp.client import Client
from tftp.errors import Aborted, PeerError
from tftp.events import Address, Outcome, TransferEnded
from tftp.options import Terms
from tftp.packets import Ack, Data, Error, Packet, ReadRequest, WriteRequest, decode
from tftp.timers import Patience

# Seconds to wait for a packet that has to come; nothing waits for so long unless it fails.
SOON = 20.0

# Long enough that no timer fires while the recorded server is being played, except the `timeout` of
# one second that U-Boot negotiates.
PATIENCE = Patience(initial=5.0, floor=5.0, ceiling=5.0, total=30.0)

# These two are not conversations of two: RFC 2090 is not spoken here.
MULTICAST = CAPTURES / "command-line" / "atftp-get-multicast.pcap"

# Recorded with packets lost, repeated or swapped: what our client says to that is its own affair,
# as long as the file is right and it says no more than the recorded client did.
FAULTY = ("fault", "lossy", "repeated-request")

# What a relay did behind the point where these were recorded (their README says so): the first copy
# of one DATA of a window never reached the client, or came after the next one.
RELAYED = {
    "firmware/fault_uboot_w8-drop-mid_atftpd": ("lost", 5),
    "firmware/fault_uboot_w8-drop-last_atftpd": ("lost", 16),
    "firmware/fault_edk2_w16-drop-mid_atftpd": ("lost", 5),
    "firmware/fault_uboot_w8-swap_atftpd": ("swapped", 20),
}

replayed = pytest.mark.parametrize(
    "capture", [capture for capture in captures() if capture != MULTICAST], ids=capture_id
)


@replayed
def test_our_client_gets_from_a_recorded_server_what_the_recorded_client_got(
    capture: Path,
) -> None:
    for recorded in conversations(capture):
        conversation = as_it_arrived(capture_id(capture), recorded)
        with ScriptedServer(conversation) as server, transfer(server, conversation) as running:
            server.play(running.future)
            if conversation.server_error is not None:
                assert_error(conversation.server_error, running.future)
            elif conversation.complete:
                assert_whole(conversation, running, server)
            else:
                # The recorded server fell silent, or nothing but noise came: there is still hope.
                assert not running.future.done()
                assert not any(isinstance(one, Error) for one in server.heard)
                running.client.cancel()
                with pytest.raises(Aborted):
                    running.future.result(SOON)
        said = [one.block for one in server.heard if isinstance(one, Ack | Data)]
        if any(word in capture.name for word in FAULTY):
            # Ours keeps what came behind a hole, so that its windows end elsewhere: a
            # few more ACKs, or a few less.
            assert len(said) <= 1.5 * len(recorded.from_client)
        elif recorded.confirmed:
            packets = [one.packet for one in recorded.from_client]
            assert said == [one.block for one in packets if isinstance(one, Ack | Data)]


def as_it_arrived(name: str, conversation: Conversation) -> Conversation:
    """The conversation with what a relay did to one DATA on its way to the client."""
    if name not in RELAYED or int(conversation.granted.get("windowsize", "1")) == 1:
        return conversation
    fate, block = RELAYED[name]
    packets = [one.packet for one in conversation.sent]
    index = packets.index(Data(block, conversation.data[block]))
    sent = list(conversation.sent)
    one = sent.pop(index)
    if fate == "swapped":
        sent.insert(index + 1, one)
    return replace(conversation, sent=sent)


def assert_error(error: Error, future: "Future[TransferEnded]") -> None:
    with pytest.raises(PeerError) as caught:
        future.result(SOON)
    assert (caught.value.code, caught.value.message) == (error.code, error.text)


def assert_whole(conversation: Conversation, running: "Running", server: "ScriptedServer") -> None:
    ended = running.future.result(SOON)
    assert ended.outcome is Outcome.DONE
    assert ended.counters.payload == sum(map(len, conversation.data.values()))
    if isinstance(conversation.request, ReadRequest):
        assert bytes(running.fetched) == conversation.content
    else:
        sent = {one.block: one.payload for one in server.heard if isinstance(one, Data)}
        assert sent == conversation.data


# Our client


class Running:
    """A transfer of our client in a thread of its own."""

    def __init__(self, client: Client, pool: ThreadPoolExecutor, conversation: Conversation):
        self.client = client
        self.fetched = bytearray()
        request = conversation.request
        self.future: Future[TransferEnded]
        if isinstance(request, ReadRequest):
            self.future = pool.submit(client.get, request.filename, self.fetched, mode=request.mode)
        else:
            content = conversation.content
            if not conversation.complete:
                # Zeros for what was never sent; without a tsize nobody knows how much that is.
                size = request.options.get("tsize", len(content) + 10 * conversation.blksize)
                content = content.ljust(int(size), b"\0")
            self.future = pool.submit(client.put, content, request.filename, mode=request.mode)


@contextmanager
def transfer(server: "ScriptedServer", conversation: Conversation) -> Iterator[Running]:
    host, port = server.address[:2]
    with (
        ThreadPoolExecutor(1) as pool,
        Client(host, port, terms=terms_of(conversation), patience=PATIENCE) as client,
    ):
        running = Running(client, pool, conversation)
        try:
            yield running
        finally:
            # Where the test has failed, the thread is not to go on until its patience ends.
            client.cancel()


def terms_of(conversation: Conversation) -> Terms:
    """What the recorded client asked for."""
    asked = {name: int(value) for name, value in conversation.request.options.items()}
    return Terms(
        blksize=asked.get("blksize", 512),
        windowsize=asked.get("windowsize", 1),
        timeout=asked.get("timeout"),
        tsize=asked.get("tsize"),
    )


# The recorded server


class ScriptedServer:
    """One recorded server: a socket for the request, and one for each TID that it used.

    Attributes:
        address: where it takes requests.
        heard: all that our client has sent, in order.
    """

    def __init__(self, conversation: Conversation) -> None:
        self.conversation = conversation
        self.heard: list[Packet] = []
        self.client: Address | None = None
        self.cleanup = ExitStack()
        self.selector = self.cleanup.enter_context(selectors.DefaultSelector())
        self.door = self.open()
        self.address: Address = self.door.getsockname()
        # A server that answers from the port of the request has one socket for both.
        self.ports = {conversation.server[1]: self.door}
        for tid in conversation.tids:
            if tid not in self.ports:
                self.ports[tid] = self.open()

    def __enter__(self) -> "ScriptedServer":
        return self

    def __exit__(self, *_: object) -> None:
        self.cleanup.close()

    def open(self) -> socket.socket:
        host = "::1" if ":" in self.conversation.client[0] else "127.0.0.1"
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        opened = self.cleanup.enter_context(socket.socket(family, socket.SOCK_DGRAM))
        opened.bind((host, 0))
        self.selector.register(opened, selectors.EVENT_READ)
        return opened

    def play(self, future: "Future[TransferEnded]") -> None:
        """Play the server to its end, which an ERROR of its own is in any case."""
        due: list[Sent] = []
        for one in self.conversation.sent:
            if one.by_client:
                due.append(one)
            elif self.reached(one):
                self.hear_until(due)
                due.clear()
                self.send(one)
                if isinstance(one.packet, Error):
                    self.refuse_again(one, future)
                    return
        self.hear_until(due)

    def hear_until(self, due: list[Sent]) -> None:
        while not all(self.has_come(one) for one in due):
            ready = self.selector.select(SOON)
            assert ready, f"our client does not send {[one.packet for one in due]}"
            self.hear(ready)

    def hear(self, ready: list[tuple[selectors.SelectorKey, int]]) -> None:
        for key, _ in ready:
            assert isinstance(key.fileobj, socket.socket)
            datagram, source = key.fileobj.recvfrom(65536)
            self.client = source
            self.heard.append(decode(datagram))

    def send(self, one: Sent) -> None:
        assert self.client is not None
        self.ports[one.tid].sendto(one.payload, self.client)

    def reached(self, one: Sent) -> bool:
        """Whether the recorded client got this packet.

        Where a server answers a request twice, from two ports, and the client speaks to the second
        alone, the answer from the first was lost.
        """
        door = self.conversation.server[1]
        spoken_to = {sent.tid for sent in self.conversation.from_client} - {door}
        return not spoken_to or one.tid in spoken_to or one.tid != self.conversation.tids[0]

    def refuse_again(self, error: Sent, future: "Future[TransferEnded]") -> None:
        """Our client may ask once more without options: it is told the same."""
        while not future.done():
            requests = len(self.requests)
            self.hear(self.selector.select(0.05))
            if len(self.requests) > requests:
                assert self.requests[-1].options == {}
                self.send(error)

    @property
    def requests(self) -> list[ReadRequest | WriteRequest]:
        return [one for one in self.heard if isinstance(one, ReadRequest | WriteRequest)]

    def has_come(self, recorded: Sent) -> bool:
        """Whether our client has sent what stands for a packet of the recorded client."""
        match recorded.packet:
            case ReadRequest() | WriteRequest() as request:
                return any(same_request(one, request) for one in self.requests)
            case Ack(block):
                # An ACK stands for all blocks before it.
                return any(isinstance(one, Ack) and one.block >= block for one in self.heard)
            case Error():
                return True  # It gave up, or had all that it wanted; ours has no such moods.
            case packet:
                return packet in self.heard


def same_request(one: ReadRequest | WriteRequest, recorded: ReadRequest | WriteRequest) -> bool:
    """The same file in the same mode, and the same options in whatever order.

    A blksize of 512 is what there is without the option, so ours does not ask for it.
    """
    wanted = {item for item in recorded.options.items() if item != ("blksize", "512")}
    return (
        type(one) is type(recorded)
        and (one.filename, one.mode) == (recorded.filename, recorded.mode)
        and set(one.options.items()) == wanted
    )
