"""The reading side of the monitoring channel: messages of one server, or of many, as they come.

A feed connects, again and again if it must, and gives each line as a dict; the format is that of
`docs/reference/monitor.md`. What a server says is held against that format first (see `shape`), so
whoever reads from here can rely on it. It keeps nothing of what it has read: see `mirror` for that.

One server, in a loop of one's own::

    for message in Feed("127.0.0.1:6970", kinds=["ended"]):
        print(message["file"])

Several, from one queue, with orders sent meanwhile::

    with Feeds(["192.0.2.1:6970", "192.0.2.2:6970"], token=token) as feeds:
        for message in feeds:
            if message["event"] == "started" and message["peer"].startswith("203.0.113."):
                feeds.send(message["server"], "cancel", transfer=message["transfer"])
"""

import itertools
import json
import queue
import socket
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future
from contextlib import suppress
from types import TracebackType
from typing import Any

from tftp.errors import TFTPError
from tftp.monitor.place import Place
from tftp.monitor.shape import ShapeError, check

__all__ = ["PROTOCOL", "Feed", "Feeds", "Message", "OrderError"]

#: The version of the format that is understood here.
PROTOCOL = 1

#: A line of the channel. A feed adds `server`, the place that it came from.
Message = dict[str, Any]

# Seconds before a lost connection is made again: doubled each time, up to the second number, and
# forgotten when one was made.
_BACKOFF, _MAX_BACKOFF = 0.25, 10.0
# Seconds that a server may take to accept a connection, and to say something then.
_CONNECT, _GREET = 5.0, 10.0
_RECEIVE = 1 << 16
# The longest line that is taken, and what has no bound but this: all that runs, a hundred thousand
# transfers. Each value in it takes more memory than its text, so values are counted first.
_LONGEST, _UNBOUNDED = 1 << 27, ("snapshot", "reply")
_MOST_VALUES = 1 << 22
# Any other line.
_LONG = 1 << 20
# Versions of the format that there may ever be.
_PROTOCOLS = 1000
# Orders that wait for an answer. A server that takes none must not hold up whoever gives them.
_MOST_ASKED = 64
# Octets of lines that wait in a queue, beside their number.
_MOST_WAITING = 1 << 26


class OrderError(Exception):
    """The server did not obey an order; the text says why."""


class Feed:
    """One server's channel. Iterate over it once; other threads may `send` and `close` meanwhile.

    Beside the server's messages it gives one of its own when the connection is lost, or can not be
    made: `{"event": "disconnected", "server": ..., "time": ..., "reason": ..., "retry": seconds}`.
    Where `retry` is None it is the last: without `reconnect`, or when it makes no sense to try
    again (the server wants another token, or speaks another protocol). A server that breaks the
    protocol is left, and tried again after the longest pause: it may be replaced by a better one.

    Attributes:
        line: that of the last message, as it came.
    """

    def __init__(
        self,
        place: str | Place,
        *,
        token: str | None = None,
        kinds: Sequence[str] | None = None,
        rate: float | None = None,
        reconnect: bool = True,
        before_wait: Callable[[], object] | None = None,
    ) -> None:
        """Remember what to do; the iteration connects.

        Args:
            place: `HOST:PORT` or `unix:PATH` of the channel.
            token: proves to the server that this reader may look, or act.
            kinds: which events to subscribe to; None leaves it at the server's own choice, which is
                all but "totals". The greeting and the snapshot come in any case.
            rate: the most progress events in a second for each transfer, and how many totals.
            reconnect: go on after the connection was lost, or could not be made.
            before_wait: is called when all that has come was given, before more is waited for.

        Raises:
            ValueError: this is no place.
        """
        self.place = place if isinstance(place, Place) else Place.parse(place)
        self._token = token
        self._kinds = kinds
        self._rate = rate
        self._reconnect = reconnect
        self._numbers = itertools.count(1)
        self._lock = threading.Lock()
        self._socket: socket.socket | None = None
        self._asked: dict[int, Future[Message]] = {}
        self._closed = threading.Event()
        self._before_wait = before_wait
        self.line = b""

    @property
    def server(self) -> str:
        """The place, as it stands in the messages."""
        return str(self.place)

    def __iter__(self) -> Iterator[Message]:
        """The messages, until `close` is called, or there is no sense in going on."""
        backoff = _BACKOFF
        while not self._closed.is_set():
            final = False
            try:
                for message in self._connection():
                    if message["event"] == "greeting":
                        backoff = _BACKOFF
                    yield message
                reason = "the server has closed the connection"
            except ShapeError as fault:
                reason = f"the server breaks protocol {PROTOCOL} ({fault})"
                backoff = _MAX_BACKOFF
            except _Parted as parting:
                reason, final = str(parting), parting.final
            except TimeoutError:
                reason = "the server does not answer"
            except OSError as error:
                reason = error.strerror or str(error)
            finally:
                self._hang_up("the connection is lost")
            if self._closed.is_set():
                return
            final = final or not self._reconnect
            yield _disconnected(self.server, reason, None if final else backoff)
            if final or self._closed.wait(backoff):
                return
            backoff = min(2 * backoff, _MAX_BACKOFF)

    def send(self, command: str, **members: Any) -> "Future[Message]":
        """Send an order, for example `send("cancel", transfer=7)`. Any thread may.

        The future gets the answer (the `reply`, or the `snapshot`) when the iteration comes by it,
        so whoever waits for it must not be the one who iterates. It gets `OrderError` where the
        server did not obey, `ConnectionError` where there is no connection, or none any more.
        """
        number = next(self._numbers)
        answer: Future[Message] = Future()
        line = json.dumps({"command": command, "id": number, **members}).encode() + b"\n"
        with self._lock:
            if self._socket is None:
                answer.set_exception(ConnectionError(f"{self.server} is not connected"))
                return answer
            if len(self._asked) >= _MOST_ASKED:
                answer.set_exception(ConnectionError(f"{self.server} answers no orders"))
                return answer
            self._asked[number] = answer
            try:
                self._socket.sendall(line)
            except OSError as error:
                del self._asked[number]
                answer.set_exception(ConnectionError(f"{self.server}: {error.strerror}"))
        return answer

    def close(self) -> None:
        """End the iteration, in whichever thread it is."""
        self._closed.set()
        with self._lock:
            if self._socket is not None:
                with suppress(OSError):  # It may be gone already.
                    self._socket.shutdown(socket.SHUT_RDWR)

    def _connection(self) -> Iterator[Message]:
        """The messages of one connection."""
        sock = self.place.connect(_CONNECT)
        with self._lock:
            self._socket = sock
            if self._closed.is_set():
                return
        if self._token is not None:
            self.send("token", token=self._token)
        if self._kinds is not None or self._rate is not None:
            wishes = {"kinds": self._kinds, "rate": self._rate}
            self.send("subscribe", **{name: it for name, it in wishes.items() if it is not None})
        greeted = False
        sock.settimeout(_GREET)
        for line in self._lines(sock):
            message = _parsed(line)
            if not greeted and message["event"] != "bye":
                self._check_greeting(message)
                greeted = True
                sock.settimeout(None)
            if message["event"] == _LOST:
                continue  # The word is ours: from a server it means nothing that is known.
            check(message)
            self.line = line
            message["server"] = self.server
            self._settle(message)
            yield message
            if message["event"] == "bye":
                raise _Parted(message["message"], final=message.get("final", False))

    def _lines(self, sock: socket.socket) -> Iterator[bytes]:
        rest = bytearray()
        while True:
            if self._before_wait is not None:
                self._before_wait()
            data = sock.recv(_RECEIVE)
            if not data:
                return
            rest += data
            if b"\n" in data:
                *lines, tail = bytes(rest).split(b"\n")
                rest = bytearray(tail)
                yield from lines
            elif len(rest) > _LONGEST:
                raise _Parted("this is no tftp monitor: its line has no end", final=True)

    def _check_greeting(self, greeting: Message) -> None:
        if greeting["event"] != "greeting" or greeting.get("protocol") not in range(_PROTOCOLS):
            raise _Parted("this is no tftp monitor", final=True)
        if greeting["protocol"] != PROTOCOL:
            raise _Parted(
                f"the server speaks protocol {greeting['protocol']}, not {PROTOCOL}", final=True
            )
        if greeting.get("access") == "none" and self._token is None:
            raise _Parted("the server wants a token", final=True)

    def _settle(self, message: Message) -> None:
        """Give an answer to whoever has asked."""
        number = message.get("id")
        if not isinstance(number, int) or message["event"] not in _ANSWERS:
            return
        with self._lock:
            answer = self._asked.pop(number, None)
        if answer is None or not answer.set_running_or_notify_cancel():
            return
        if message["event"] == "error":
            answer.set_exception(OrderError(message["message"]))
        else:
            answer.set_result(message)

    def _hang_up(self, why: str) -> None:
        with self._lock:
            sock, self._socket = self._socket, None
            asked, self._asked = self._asked, {}
        if sock is not None:
            sock.close()
        for answer in asked.values():
            if answer.set_running_or_notify_cancel():
                answer.set_exception(ConnectionError(f"{self.server}: {why}"))


class Feeds:
    """The channels of several servers, each read by a thread, in one bounded queue.

    It reads from `start` to `close`, or for as long as its `with` block runs. A reader that is too
    slow for the queue makes the servers wait, and they drop events and say so.
    """

    def __init__(
        self,
        places: Sequence[str | Place],
        *,
        token: str | None = None,
        kinds: Sequence[str] | None = None,
        rate: float | None = None,
        reconnect: bool = True,
        size: int = 10_000,
    ) -> None:
        """As for `Feed`; `size` is the most messages in the queue.

        Raises:
            ValueError: one of them is no place, or there is none.
        """
        if not places:
            raise ValueError("no server to read from")
        #: The messages of all servers; whoever does not iterate takes them from here.
        self.queue: queue.Queue[Message]
        self.queue = self._backlog = _Backlog(max(size, len(places)))
        self._feeds = {
            feed.server: feed
            for feed in (
                Feed(place, token=token, kinds=kinds, rate=rate, reconnect=reconnect)
                for place in places
            )
        }
        self._threads = [
            threading.Thread(target=self._read, args=(feed,), name=f"feed {server}", daemon=True)
            for server, feed in self._feeds.items()
        ]

    @property
    def servers(self) -> list[str]:
        """The servers, as they stand in the messages."""
        return list(self._feeds)

    def __enter__(self) -> "Feeds":
        self.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def start(self) -> None:
        """Begin to read."""
        for thread in self._threads:
            thread.start()

    def __iter__(self) -> Iterator[Message]:
        """The messages, until nothing more can come from any server."""
        going = len(self._feeds)
        while going:
            message = self.queue.get()
            yield message
            if message["event"] == "disconnected" and message["retry"] is None:
                going -= 1

    def send(self, server: str, command: str, **members: Any) -> "Future[Message]":
        """Send an order to one of `servers`, as `Feed.send` does."""
        return self._feeds[server].send(command, **members)

    def close(self) -> None:
        """Stop reading, wait for the threads, and end the iteration if somebody else is in it."""
        for feed in self._feeds.values():
            feed.close()
        for thread in self._threads:
            while thread.is_alive():
                self._make_room()
                thread.join(0.01)
        self._make_room()
        for server in self._feeds:
            self._backlog.add(_disconnected(server, "closed", None), 0)

    def _make_room(self) -> None:
        with suppress(queue.Empty):
            while True:
                self.queue.get_nowait()

    def _read(self, feed: Feed) -> None:
        for message in feed:
            self._backlog.add(message, len(feed.line))


class _Backlog(queue.Queue[Any]):
    """A queue of messages that is full when there are too many in it, or too many octets."""

    def add(self, message: Message, octets: int) -> None:
        """Put a message in that was so long; wait until it is not full."""
        self.put((message, octets))

    def _init(self, maxsize: int) -> None:
        self._messages: deque[tuple[Message, int]] = deque()
        self._octets = 0

    def _qsize(self) -> int:
        count = len(self._messages)
        return max(count, self.maxsize) if self._octets >= _MOST_WAITING else count

    def _put(self, item: tuple[Message, int]) -> None:
        self._messages.append(item)
        self._octets += item[1]

    def _get(self) -> Message:
        message, octets = self._messages.popleft()
        self._octets -= octets
        return message


# The event that a feed makes by itself, and those that an order can be answered with.
_LOST, _ANSWERS = "disconnected", frozenset({"reply", "error", "snapshot"})


def _disconnected(server: str, reason: str, retry: float | None) -> Message:
    return {
        "event": _LOST,
        "server": server,
        "time": time.time(),
        "reason": reason,
        "retry": retry,
    }


class _Parted(TFTPError):
    """A connection has come to its end; `final` means that another would fare no better."""

    def __init__(self, message: str, *, final: bool) -> None:
        super().__init__(message)
        self.final = final


def _parsed(line: bytes) -> Message:
    """The message in a line; it has an `event`, and a bounded size."""
    if len(line) > _MOST_VALUES and sum(map(line.count, (b",", b"[", b"{"))) > _MOST_VALUES:
        raise ShapeError("a line with too much in it")
    try:
        message = json.loads(line.decode())
    except (ValueError, RecursionError):
        message = None
    if not isinstance(message, dict) or not isinstance(message.get("event"), str):
        raise _Parted("this is no tftp monitor", final=True)
    if len(line) > _LONG and message["event"] not in _UNBOUNDED:
        raise ShapeError("a line that is too long")
    return message
