"""A TFTP server to run as a daemon or inside another program.

::

    with Server(Directory("boot")) as server:
        print(server.address)

`Server` brings the parts together: a storage, the rules, listeners on the addresses asked, and an
engine that runs the transfers. It knows of transfers only what the events tell.
"""

import errno
import itertools
import logging
import os
import threading
from collections.abc import Sequence
from types import TracebackType

from tftp.events import Address, Event, Observer
from tftp.net.reactor import Reactor
from tftp.server.config import ServerConfig
from tftp.server.engine import Engine
from tftp.server.listener import NO_IPV6, Listener, places
from tftp.server.opening import Opening
from tftp.server.policy import Policy
from tftp.server.threads import ThreadEngine
from tftp.storage import Directory
from tftp.storage.base import Storage

__all__ = ["Engine", "Server", "ServerConfig", "ThreadEngine"]

logger = logging.getLogger("tftp")


class Server:
    """A TFTP server. It serves from `start` to `stop`, or for as long as its `with` block runs."""

    def __init__(
        self,
        storage: Storage | str | os.PathLike[str],
        *,
        config: ServerConfig | None = None,
        engine: Engine | None = None,
        policy: Sequence[Policy] = (),
        observers: Sequence[Observer] = (),
    ) -> None:
        """Bring the parts together; nothing is opened before `start`.

        Args:
            storage: where the files are; a path means that directory, read-only.
            config: what to listen on and what to grant; by default a free port on loopback.
            engine: what runs the transfers; by default threads.
            policy: rules for requests, applied in order.
            observers: are given every event, in the threads where they happen: they must be quick.
        """
        self._storage = Directory(storage) if isinstance(storage, str | os.PathLike) else storage
        self._config = config or ServerConfig()
        self._engine: Engine = engine or ThreadEngine()
        self._policy = tuple(policy)
        self._observers = tuple(observers)
        self._listeners: list[Listener] = []
        self._reactor: Reactor | None = None
        self._thread: threading.Thread | None = None
        self._opening: Opening | None = None
        self._paused = False
        self._ending = False
        self._closing = False
        self._stopping = threading.Lock()
        self._stopped = threading.Event()
        self._telling = threading.local()

    def __enter__(self) -> "Server":
        self.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.stop()

    @property
    def address(self) -> Address:
        """The first address that the server listens on, the port being the real one."""
        return self.addresses[0]

    @property
    def addresses(self) -> list[Address]:
        """All addresses that the server listens on. Raises `RuntimeError` if it does not run."""
        if not self._listeners:
            raise RuntimeError("the server is not running")
        return [listener.address for listener in self._listeners]

    @property
    def running(self) -> int:
        """How many transfers run now."""
        return self._engine.running

    @property
    def engine_name(self) -> str:
        """What the transfers run in: "threads" or "processes"."""
        return self._engine.name

    @property
    def state(self) -> str:
        """ "serving", "draining" after `pause`, or "stopping" from `stop` on."""
        if self._ending:
            return "stopping"
        return "draining" if self._paused else "serving"

    @property
    def limits(self) -> dict[str, int]:
        """The limits that `change_limits` can change, by name."""
        return self._config.adjustable

    def start(self) -> None:
        """Listen, and serve in threads of its own.

        Raises:
            OSError: an address can not be listened on; `filename` says which.
            RuntimeError: the server runs already.
        """
        if self._listeners:
            raise RuntimeError("the server is running already")
        self._stopped.clear()
        self._ending = False
        opening = self._opening = Opening(self._storage, self._config, self._policy, self._report)
        self._listeners = self._bind(opening)
        try:
            own = self._engine.start(opening, self._config, self._listeners)
        except BaseException:
            self._close_listeners()
            raise
        if own:
            self._closing = False
            self._reactor = Reactor()
            for listener in own:
                self._reactor.add(listener)
            self._thread = threading.Thread(
                target=self._reactor.run,
                args=(lambda: self._closing,),
                name="tftp-listener",
                daemon=True,
            )
            self._thread.start()

    def serve_forever(self) -> None:
        """Wait until another thread, or a signal handler, stops the server."""
        self._stopped.wait()

    def cancel(self, number: int) -> bool:
        """End the transfer of this number, as events tell it; False if none such runs.

        Its client gets ERROR 0, and the event of its end, which comes a moment later, says
        `Outcome.ABORTED`. Any thread may call this, and the three below.
        """
        return self._engine.cancel(number, "cancelled by the operator")

    def pause(self) -> None:
        """Refuse new requests with ERROR 0 until `resume`, and let running transfers go on."""
        self._paused = True
        self._engine.pause(True)

    def resume(self) -> None:
        """Take requests again."""
        self._paused = False
        self._engine.pause(False)

    def change_limits(
        self,
        *,
        max_transfers: int | None = None,
        max_blksize: int | None = None,
        max_windowsize: int | None = None,
    ) -> None:
        """Have other limits for requests to come; None leaves one as it is.

        Raises:
            ValueError: a limit is out of range.
        """
        self._config = self._config.adjusted(
            max_transfers=max_transfers, max_blksize=max_blksize, max_windowsize=max_windowsize
        )
        if self._opening is not None:
            self._opening.adjust(self._config)
        self._engine.adjust(self._config)

    def drain(self) -> None:
        """Take no more requests, and return when the last running transfer has ended.

        Another thread may call `stop` meanwhile to end it sooner.
        """
        self.stop(grace=None)

    def stop(self, grace: float | None = 0.0) -> None:
        """Take no more requests, let transfers run on for up to `grace` seconds, abort the rest.

        Nothing is left behind: no thread, no descriptor, no half-written file. May be called from
        any thread, and again.

        Raises:
            RuntimeError: an observer called this, in a thread that would have to wait for itself.
        """
        if getattr(self._telling, "observers", False):
            raise RuntimeError("an observer can not stop its server: have another thread do it")
        self._ending = True
        with self._stopping:
            if self._reactor is not None and self._thread is not None:
                self._reactor.call(self._close_door)
                self._thread.join()
                self._reactor.close()
                self._reactor = self._thread = None
        self._engine.stop(grace)
        self._close_listeners()
        self._stopped.set()

    def _close_listeners(self) -> None:
        for listener in self._listeners:
            listener.close()
        self._listeners = []

    def _close_door(self) -> None:
        self._closing = True

    def _bind(self, opening: Opening) -> list[Listener]:
        for _ in range(_PORT_CHOICES):
            try:
                return self._bind_all(opening)
            except OSError as error:
                # The port that the system chose for one address may be taken at the next.
                if self._config.port or error.errno != errno.EADDRINUSE:
                    raise
        return self._bind_all(opening)

    def _bind_all(self, opening: Opening) -> list[Listener]:
        numbers = itertools.count(1)
        listeners: list[Listener] = []
        port = self._config.port
        try:
            for family, address, optional in places(self._config):
                try:
                    listener = Listener(
                        family,
                        (address[0], port, *address[2:]),
                        self._engine,
                        refused=opening.refuse,
                        numbers=numbers,
                        freebind=self._config.freebind,
                        reuse_port=self._config.reuse_port,
                    )
                except OSError as error:
                    if optional and error.errno in NO_IPV6:
                        logger.info("this host has no IPv6: listening on IPv4 alone")
                        continue
                    raise
                listeners.append(listener)
                port = listener.address[1]
        except OSError:
            for listener in listeners:
                listener.close()
            raise
        return listeners

    def _report(self, event: Event) -> None:
        self._telling.observers = True
        for observer in self._observers:
            try:
                observer(event)
            except Exception:
                logger.exception("an observer failed")
        self._telling.observers = False


# How many ports of the system's choice are tried, beside the last.
_PORT_CHOICES = 15
