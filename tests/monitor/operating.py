"""Watched servers of all three arrangements, and an operator who reads their channel by hand."""

import json
import socket
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from tests.arrangements import CALM
from tests.monitor.messages import check
from tests.wirepeer import PATIENCE
from tftp.events import Address
from tftp.monitor.board import Board
from tftp.monitor.channel import Channel
from tftp.monitor.place import Place
from tftp.server import Server, ServerConfig, ThreadEngine
from tftp.server.processes import ProcessEngine
from tftp.server.supervisor import Supervisor
from tftp.storage import Directory

__all__ = ["ARRANGEMENTS", "Operator", "Watched", "channel_of", "watched"]

#: How transfers can be arranged.
ARRANGEMENTS = ("threads", "processes", "workers")

Message = dict[str, Any]


class Operator:
    """A connection to a channel. The lines that come must be as the schema says.

    Attributes:
        seen: all messages so far.
    """

    def __init__(
        self, place: Place, *, receive_buffer: int | None = None, closely: int = 30
    ) -> None:
        """Connect; so many lines of each kind are held against the schema, which takes its time."""
        self._closely = closely
        self.seen: list[Message] = []
        if place.path:
            self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        else:
            self.sock = socket.socket(socket.AF_INET6 if ":" in place.host else socket.AF_INET)
        if receive_buffer is not None:
            self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
        self.sock.settimeout(PATIENCE)
        self.sock.connect(place.path or (place.host, place.port))
        self._rest = b""
        self._kinds: Counter[str] = Counter()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.sock.close()

    def say(self, *lines: str) -> None:
        """Write lines."""
        self.sock.sendall("".join(f"{line}\n" for line in lines).encode())

    def order(self, command: str, **members: Any) -> None:
        """Write an order as JSON."""
        self.say(json.dumps({"command": command, **members}))

    def line(self) -> bytes:
        """The next line, without its end; empty at the end of the connection."""
        while b"\n" not in self._rest:
            data = self.sock.recv(1 << 16)
            if not data:
                assert not self._rest, f"half a line: {self._rest!r}"
                return b""
            self._rest += data
        line, _, self._rest = self._rest.partition(b"\n")
        return line

    def next(self) -> Message:
        """The next message."""
        line = self.line()
        assert line, f"the connection has ended after {self.seen[-3:]}"
        return self._look_at(line)

    def wait(self, event: str, **members: Any) -> Message:
        """The next message of this kind with these members."""
        while True:
            message = self.next()
            if message["event"] == event and members.items() <= message.items():
                return message

    def answer(self, command: str) -> Message:
        """The result of the order that was given."""
        while True:
            message = self.next()
            if message["event"] in ("reply", "error") and message["command"] == command:
                assert message["event"] == "reply", message
                result: Message = message["result"]
                return result

    def refusal(self) -> str:
        """What is wrong with the order that was given."""
        return str(self.wait("error")["message"])

    def rest(self) -> list[Message]:
        """All messages to the end of the connection."""
        messages = []
        while line := self.line():
            messages.append(self._look_at(line))
        return messages

    def _look_at(self, line: bytes) -> Message:
        message: Message = json.loads(line)
        kind = message["event"]
        self._kinds[kind] += 1
        if self._kinds[kind] <= self._closely:
            check(message)
        self.seen.append(message)
        return message


@dataclass(frozen=True)
class Watched:
    """A server with a board and a channel."""

    server: Server | Supervisor
    board: Board
    channel: Channel

    @property
    def address(self) -> Address:
        return self.server.address

    @property
    def place(self) -> Place:
        return self.channel.places[0]

    def operator(self) -> Operator:
        """Somebody who has the greeting and the snapshot behind him."""
        operator = Operator(self.place)
        operator.wait("snapshot")
        return operator


@contextmanager
def channel_of(
    server: Server | Supervisor, board: Board, place: str = "0", **options: Any
) -> Iterator[Channel]:
    """A channel that is open while the block runs."""
    channel = Channel(board, server, Place.parse(place), version="1.2.3", **options)
    channel.start()
    try:
        yield channel
    finally:
        channel.stop()


@contextmanager
def watched(
    arrangement: str,
    root: Path,
    *,
    place: str = "0",
    token: str | None = None,
    log_level: Callable[[str], None] | None = None,
    **config: Any,
) -> Iterator[Watched]:
    """A server over a directory that may be written to, with a channel."""
    board = Board()
    storage = Directory(root, writable=True)
    settings = ServerConfig(**{"patience": CALM} | config)
    server: Server | Supervisor
    match arrangement:
        case "threads":
            server = Server(storage, config=settings, engine=ThreadEngine(), observers=[board])
        case "processes":
            engine = ProcessEngine(warm=4)
            server = Server(storage, config=settings, engine=engine, observers=[board])
        case _:
            server = Supervisor(storage, config=settings, workers=2, observers=[board])
    options = {} if log_level is None else {"log_level": log_level}
    with ExitStack() as stack:
        stack.enter_context(server)
        channel = stack.enter_context(channel_of(server, board, place, token=token, **options))
        yield Watched(server, board, channel)
