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

    def cancel(self, number: int, reason: str) -> bool:
        """Abort the transfer of this number, and tell its client why; False if none such runs.

        Any thread may call this, and the three below.
        """

    def pause(self, paused: bool) -> None:
        """Refuse new requests, or take them again. What runs goes on."""

    def adjust(self, config: ServerConfig) -> None:
        """Take the limits of `config` for requests to come."""

    @property
    def name(self) -> str:
        """What it runs transfers in, in a word."""

    @property
    def running(self) -> int:
        """How many transfers run now."""
