"""Messages between the processes of one server: tuples of plain values over a stream socket.

`marshal` writes them: it is the fastest that there is, and both ends run the same interpreter. A
descriptor can travel with a message. Neither end trusts a client's bytes to it except as values.
"""

import marshal
import select
import socket
import struct
from typing import Any

__all__ = ["Channel", "Message"]

#: A tuple whose first member names its kind.
Message = tuple[Any, ...]

_LENGTH = struct.Struct("=I")
_READ_AT_ONCE = 1 << 16


class Channel:
    """One end. Non-blocking, it keeps what could not be sent, and wants `flush` when there is room.

    Attributes:
        blocked: something waits to be sent.
    """

    __slots__ = ("_incoming", "_outgoing", "_socket")

    def __init__(self, sock: socket.socket, *, blocking: bool) -> None:
        sock.setblocking(blocking)
        self._socket = sock
        self._incoming = bytearray()
        self._outgoing = bytearray()

    @classmethod
    def pair(cls) -> tuple["Channel", socket.socket]:
        """This process's end of a new channel, non-blocking, and the socket of the other end."""
        here, there = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
        return cls(here, blocking=False), there

    def fileno(self) -> int:
        """The socket's descriptor; -1 once it is closed."""
        return self._socket.fileno()

    @property
    def blocked(self) -> bool:
        """Whether something waits to be sent."""
        return bool(self._outgoing)

    def send(self, *message: Any) -> None:
        """Send a message, or keep what there is no room for.

        Raises:
            OSError: the other end is gone.
        """
        data = marshal.dumps(message)
        self._outgoing += _LENGTH.pack(len(data)) + data
        self.flush()

    def offer(self, *message: Any) -> bool:
        """Send a small message if that takes no waiting; False if it does, and nothing was sent.

        Raises:
            OSError: the other end is gone.
        """
        poller = select.poll()
        poller.register(self._socket, select.POLLOUT)
        # A stream socket is writable when most of its buffer is free: a few KiB find room.
        if self._outgoing or not poller.poll(0):
            return False
        self.send(*message)
        return True

    def send_descriptor(self, descriptor: int, *message: Any) -> None:
        """Send a message and a descriptor, on a blocking channel."""
        data = marshal.dumps(message)
        socket.send_fds(self._socket, [_LENGTH.pack(len(data)) + data], [descriptor])

    def flush(self) -> None:
        """Send what was kept. Raises `OSError` when the other end is gone."""
        while self._outgoing:
            try:
                sent = self._socket.send(self._outgoing)
            except BlockingIOError:
                return
            del self._outgoing[:sent]

    def receive(self) -> list[Message]:
        """The messages that have come; of no descriptor.

        Raises:
            EOFError: the other end is gone, and everything that it sent has been received.
        """
        try:
            data = self._socket.recv(_READ_AT_ONCE)
        except BlockingIOError:
            return []
        except ConnectionError:
            data = b""
        return self._complete(data)

    def receive_descriptors(self) -> tuple[list[Message], list[int]]:
        """Like `receive`, and the descriptors that have come with the messages, in order."""
        try:
            data, descriptors, _flags, _ = socket.recv_fds(self._socket, _READ_AT_ONCE, 1)
        except BlockingIOError:
            return [], []
        except ConnectionError:
            data, descriptors = b"", []
        return self._complete(data), descriptors

    def close(self) -> None:
        """Close this end."""
        self._socket.close()

    def _complete(self, data: bytes) -> list[Message]:
        """The messages that are whole, now that this has come."""
        if not data:
            raise EOFError
        messages = []
        position = 0
        incoming = self._incoming
        incoming += data
        while len(incoming) - position >= _LENGTH.size:
            (length,) = _LENGTH.unpack_from(incoming, position)
            end = position + _LENGTH.size + length
            if end > len(incoming):
                break
            messages.append(marshal.loads(incoming[position + _LENGTH.size : end]))  # noqa: S302
            position = end
        del incoming[:position]
        return messages
