"""What a server asks of an engine: the protocol that threads and processes both fulfil."""

from collections.abc import Sequence
from typing import Protocol

from tftp.server.config import ServerConfig
from tftp.server.listener import Gate, Listener
from tftp.server.opening import Opening

__all__ = ["Engine"]


class Engine(Gate, Protocol):
    """Runs transfers. It is also the gate of the listeners."""

    def start(
        self, opening: Opening, config: ServerConfig, listeners: Sequence[Listener]
    ) -> Sequence[Listener]:
        """Be ready to take requests, and open each with `opening`.

        Returns those of the listeners that the engine does not serve in a thread of its own, for
        the server to do it.
        """

    def stop(self, grace: float | None) -> None:
        """Let running transfers end for `grace` seconds (None: as long as it takes), abort the
        others, and leave nothing. Another thread may call it with less grace meanwhile.
        """

    @property
    def running(self) -> int:
        """How many transfers run now."""
