"""Sessions of each kind on real sockets, and the bare socket that they talk to.

The time is what the tests say it is.
"""

import errno
import select
import socket
import time

from tests.server.storages import Scripted
from tests.watching import Witness
from tests.wirepeer import PATIENCE, WirePeer
from tftp.errors import Refused
from tftp.events import Address, Operation, Request, TransferEnded
from tftp.net.endpoint import Endpoint, PairedEndpoint, open_port, pair
from tftp.net.reactor import Reactor
from tftp.net.workspace import Workspace
from tftp.options import Terms
from tftp.packets import Ack, Data, ReadRequest, WriteRequest
from tftp.receiving import ReceivingSession
from tftp.sending import SendingSession
from tftp.session import Link, Session
from tftp.timers import Patience
from tftp.transfer import Receiver, Sender

LOOPBACK = ("127.0.0.1", 0)
NOBODY: Address = ("127.0.0.1", 0)  # Nothing can be sent to port 0.


class Stage:
    """Sessions, and the peer that they talk to.

    Attributes:
        storage: where their files are.
        peer: the other side.
        workspace: of the sessions that are a server's.
        witness: what they told.
    """

    def __init__(self) -> None:
        self.storage = Scripted()
        self.peer = WirePeer(("127.0.0.1", 1))
        self.workspace = Workspace()
        self.witness = Witness()
        self.sessions: list[Session] = []

    def sending(
        self,
        content: bytes,
        terms: Terms | None = None,
        granted: dict[str, str] | None = None,
        *,
        patience: Patience | None = None,
        now: float = 0.0,
        peer: Address | None = None,
        endpoint: Endpoint | None = None,
    ) -> SendingSession:
        """A server that is read from, not started."""
        self.storage.content = content
        request = self._request(Operation.READ, granted)
        machine = Sender.answer(terms or Terms(), granted or {}, now, patience or Patience())
        source = self.storage.open_read(request)
        session = SendingSession(
            machine,
            source,
            request,
            self._link(peer, endpoint),
            report=self.witness,
            number=7,
            now=now,
        )
        self.sessions.append(session)
        return session

    def receiving(
        self,
        terms: Terms | None = None,
        granted: dict[str, str] | None = None,
        *,
        patience: Patience | None = None,
        exact: bool = False,
        joins: bool = False,
        now: float = 0.0,
        endpoint: Endpoint | None = None,
    ) -> ReceivingSession:
        """A server that is written to, not started."""
        request = self._request(Operation.WRITE, granted)
        machine = Receiver.answer(terms or Terms(), granted or {}, now, patience or Patience())
        session = ReceivingSession(
            machine,
            self.storage.open_write(request),
            request,
            self._link(
                None, endpoint or Endpoint(open_port(socket.AF_INET, LOOPBACK), joins=joins)
            ),
            report=self.witness,
            number=7,
            now=now,
            exact=exact,
        )
        self.sessions.append(session)
        return session

    def reading(
        self, *, patience: Patience | None = None, server: Address | None = None
    ) -> Session:
        """A client that reads, not started; its server's port is not known yet."""
        packet = ReadRequest(b"file")
        request = self._request(Operation.READ, {})
        endpoint = Endpoint(open_port(socket.AF_INET, LOOPBACK), tells_refusals=True)
        session = ReceivingSession(
            Receiver.request(packet, 0.0, patience or Patience()),
            self.storage.open_write(request),
            request,
            Link(endpoint, server or self.peer.address, Workspace(), pinned=False),
            report=self.witness,
            number=7,
            now=0.0,
        )
        self.sessions.append(session)
        return session

    def writing(self, content: bytes) -> Session:
        """A client that writes, not started."""
        self.storage.content = content
        packet = WriteRequest(b"file")
        request = self._request(Operation.WRITE, {})
        endpoint = Endpoint(open_port(socket.AF_INET, LOOPBACK), tells_refusals=True)
        session = SendingSession(
            Sender.request(packet, 0.0, Patience()),
            self.storage.open_read(request),
            request,
            Link(endpoint, self.peer.address, Workspace(), pinned=False),
            report=self.witness,
            number=7,
            now=0.0,
        )
        self.sessions.append(session)
        return session

    def _request(self, operation: Operation, granted: dict[str, str] | None) -> Request:
        return Request(
            operation=operation, filename=b"file", options=granted or {}, peer=("127.0.0.1", 2)
        )

    def _link(self, peer: Address | None, endpoint: Endpoint | None) -> Link:
        endpoint = endpoint or Endpoint(open_port(socket.AF_INET, LOOPBACK))
        return Link(endpoint, peer or self.peer.address, self.workspace)

    def hand_over(self, session: Session, now: float) -> None:
        """Have the session take in what has come."""
        readable, _, _ = select.select([session], [], [], PATIENCE)
        assert readable
        session.readable(now)

    def ended(self) -> TransferEnded:
        """The one end that there was."""
        [event] = self.witness.all(TransferEnded)
        return event

    def close(self) -> None:
        for session in self.sessions:
            session.close()
        self.peer.close()


def pair_with(sock: socket.socket, peer: Address) -> PairedEndpoint:
    """An endpoint on the port of `sock`, with a second socket for the peer."""
    paired = pair(sock, peer)
    assert paired is not None
    return PairedEndpoint(paired, sock, peer)


def acknowledged(stage: Stage, session: Session, last: int, now: float = 0.0) -> bytes:
    """What comes up to block `last`, each block acknowledged by itself."""
    content = b""
    for block in range(1, last + 1):
        packet = stage.peer.receive()
        assert isinstance(packet, Data)
        assert packet.block == block
        content += packet.payload
        stage.peer.send(Ack(block))
        stage.hand_over(session, now)
    return content


def acknowledged_one(stage: Stage, session: Session, block: int, now: float) -> None:
    packet = stage.peer.receive()
    assert isinstance(packet, Data)
    stage.peer.send(Ack(block))
    stage.hand_over(session, now)


FAULTS = [
    (OSError(errno.EIO, "Input/output error", "/srv/secret"), 0),
    (OSError(errno.ENOSPC, "No space left on device"), 3),
    (PermissionError("/srv/secret"), 2),
    (Refused("file changed while it was read", 0), 0),
    (ValueError("/srv/secret"), 0),
]


def next_data(reactor: Reactor, peer: WirePeer, block: int) -> Data:
    """Turn until this block comes; earlier ones come again meanwhile."""
    until = time.monotonic() + PATIENCE
    while time.monotonic() < until:
        for packet in peer.drain():
            if isinstance(packet, Data) and packet.block == block:
                return packet
        reactor.turn()
    raise AssertionError(f"DATA {block} did not come")
