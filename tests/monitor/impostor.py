"""A server of the monitoring channel that says what a test wants."""

import socket
import threading
from contextlib import suppress

from tests.wirepeer import PATIENCE
from tftp.monitor.place import Place

__all__ = ["GREETING", "Impostor"]

GREETING = b'{"event": "greeting", "protocol": 1, "access": "act"}\n'


class Impostor:
    """A listener that says what a test wants, to one connection after the other."""

    def __init__(self, *speeches: bytes) -> None:
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._listener.settimeout(PATIENCE)
        self.place = Place("127.0.0.1", self._listener.getsockname()[1])
        self._thread = threading.Thread(target=self._run, args=(speeches,))
        self._thread.start()

    def close(self) -> None:
        self._thread.join()
        self._listener.close()

    def _run(self, speeches: tuple[bytes, ...]) -> None:
        for speech in speeches:
            sock, _ = self._listener.accept()
            # A reader may have had enough before the end.
            with sock, suppress(OSError):
                sock.sendall(speech)
                sock.shutdown(socket.SHUT_WR)
                while sock.recv(4096):
                    pass
