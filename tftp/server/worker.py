"""One of a supervisor's servers, in its own process.

It is a whole threaded server that happens to share its port. What happens in it is told to the
supervisor, event by event, and it stops at the supervisor's word or when the supervisor is gone.
"""

import logging
import signal
import socket
import threading
from collections.abc import Sequence
from typing import Any

from tftp.events import Event, RequestReceived, RequestRefused, TransferProgress
from tftp.net.processor import interrupt_nobody
from tftp.server import Server
from tftp.server.channel import Channel, Message
from tftp.server.config import ServerConfig
from tftp.server.launch import parts_of_launch
from tftp.server.logs import redirect_log
from tftp.server.policy import Policy
from tftp.server.relay import pack_event, pack_request
from tftp.storage.base import Storage

__all__ = ["main"]

# What is to be told is gathered for so many seconds, or until there is so much of it.
_GATHER, _MOST_UNTOLD = 0.01, 4096

logger = logging.getLogger("tftp")


def main(descriptor: int) -> None:
    """Run the worker; `descriptor` is the channel to the supervisor."""
    parts = parts_of_launch()
    # A terminal's Ctrl-C goes to every process of the group: what to do about it, the supervisor
    # says.
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    Worker(socket.socket(fileno=descriptor), parts).run()


class Worker:
    """A server, and the channel to its supervisor."""

    def __init__(
        self, sock: socket.socket, parts: tuple[Storage, ServerConfig, Sequence[Policy], bool, int]
    ) -> None:
        storage, config, policy, paused, level = parts
        self._socket = sock
        self._channel = Channel(sock, blocking=True)
        self._lock = threading.Lock()
        self._gathering = threading.Lock()
        self._untold: list[Message] = []
        self._announced = 0  # the transfer whose request the supervisor was told last
        self._telling = threading.Lock()
        self._there_is_news = threading.Event()
        self._over = threading.Event()
        self._teller = threading.Thread(target=self._run_teller, name="tftp-teller", daemon=True)
        redirect_log(self._offer, level)
        self._server = Server(storage, config=config, policy=policy, observers=[self._tell])
        if paused:
            self._server.pause()

    def run(self) -> None:
        """Serve until the supervisor says stop, or is gone."""
        interrupt_nobody()
        try:
            self._server.start()
        except OSError as error:
            self._send("failed", error.errno, error.strerror, error.filename)
            return
        self._send("ready", self._server.addresses)
        self._teller.start()
        try:
            while True:
                messages = self._channel.receive()
                for message in messages:
                    self._obey(message)
        except EOFError:
            self._server.stop()
        self._over.set()
        self._there_is_news.set()
        self._teller.join()
        self._tell_all()

    def _obey(self, message: Message) -> None:
        match message:
            case "stop", grace:
                # Not here: the supervisor may lose patience meanwhile.
                threading.Thread(target=self._stop, args=(grace,)).start()
            case "cancel", number:
                self._server.cancel(number)
            case ("pause",):
                self._server.pause()
            case ("resume",):
                self._server.resume()
            case "level", level:
                logger.setLevel(level)
            case "limits", limits:
                self._server.change_limits(**limits)
            case ("confirm",):
                # What was said before this is obeyed.
                self._send("obeyed")

    def _stop(self, grace: float | None) -> None:
        self._server.stop(grace)
        self._socket.shutdown(socket.SHUT_RD)

    def _tell(self, event: Event) -> None:
        if isinstance(event, TransferProgress) and self._channel.blocked:
            return  # The supervisor is slow: that must not cost a transfer's time.
        # A message for each, and a supervisor that wakes up, would cost more than a small file.
        packed = pack_event(event)
        with self._gathering:
            self._add(event, packed)
        if len(self._untold) >= _MOST_UNTOLD:
            self._tell_all()
        elif not self._there_is_news.is_set():
            self._there_is_news.set()

    def _add(self, event: Event, packed: Message) -> None:
        """Have the supervisor told: with the request where that is not known there yet, and with
        the time when it came, where that has not been told apart from its refusal.
        """
        untold = self._untold
        request = came = None
        if isinstance(event, RequestReceived):
            self._announced = event.transfer
            request = pack_request(event.request)
        elif isinstance(event, RequestRefused):
            if event.transfer != self._announced:
                request = pack_request(event.request)
            elif untold and untold[-1][0][2] == event.transfer:
                (_, came, _, _), request, _ = untold.pop()
        untold.append((packed, request, came))

    def _run_teller(self) -> None:
        while not self._over.is_set():
            self._there_is_news.wait()
            self._over.wait(_GATHER)
            self._there_is_news.clear()
            self._tell_all()

    def _tell_all(self) -> None:
        with self._telling:  # So that nobody overtakes.
            with self._gathering:
                told, self._untold = self._untold, []
            if told:
                self._send("events", told)

    def _offer(self, *message: Any) -> bool:
        with self._lock:
            return self._channel.offer(*message)

    def _send(self, *message: Any) -> None:
        try:
            with self._lock:
                self._channel.send(*message)
        except OSError:
            self._socket.shutdown(socket.SHUT_RDWR)  # It is gone: `run` will see that.
