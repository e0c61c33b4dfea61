"""The page, served: uvicorn on a socket and a watch on the servers, from `run` until `stop`."""

import socket
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import uvicorn

from tftp.monitor.dashboard.app import Settings, make_app
from tftp.monitor.dashboard.watch import Watch
from tftp.monitor.place import Place

__all__ = ["Page"]

# Connections at once, streams among them. Beyond that, "503 Service Unavailable".
_CONNECTIONS = 128
# Seconds that a browser may be silent between two requests, and that the last answers have to
# leave when the page ends.
_KEEP_ALIVE, _LAST_ANSWERS = 10, 2


class Page:
    """A page on a listening socket."""

    def __init__(
        self,
        sock: socket.socket,
        places: Sequence[str | Place],
        *,
        local: bool,
        token: str | None = None,
        version: str = "",
    ) -> None:
        """Bring the parts together.

        Args:
            sock: where to serve; see `open_listen`. It is closed when `run` returns.
            places: the channels of the servers to watch.
            local: only this host can reach the socket.
            token: shown to the servers, and asked for from those who want to act; without one
                nobody can.
            version: of the program.

        Raises:
            ValueError: one of the places is none.
        """
        self._socket = sock
        self._watch = Watch(places, token=token)
        settings = Settings(token=token, local=local, version=version, ending=self._is_ending)
        self._server = _Server(
            uvicorn.Config(
                make_app(self._watch, settings),
                http="h11",
                ws="none",
                lifespan="off",
                log_config=None,
                log_level="warning",
                access_log=False,
                server_header=False,
                proxy_headers=False,
                limit_concurrency=_CONNECTIONS,
                timeout_keep_alive=_KEEP_ALIVE,
                timeout_graceful_shutdown=_LAST_ANSWERS,
            )
        )

    def run(self) -> None:
        """Serve until `stop` is called."""
        self._watch.start()
        try:
            self._server.run(sockets=[self._socket])
        finally:
            self._watch.stop()
            self._socket.close()

    def stop(self) -> None:
        """Have `run` return. Any thread may call it, and a signal handler."""
        self._server.should_exit = True

    def _is_ending(self) -> bool:
        return self._server.should_exit


class _Server(uvicorn.Server):
    """Leaves the signals to the program: what they mean is for the command to say."""

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield
