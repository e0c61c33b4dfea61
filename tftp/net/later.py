"""A deadline for a reactor that nothing else belongs to."""

from collections.abc import Callable

from tftp.log import logger

__all__ = ["Later"]


class Later:
    """Something to do at a certain time; a `Handler` for a reactor."""

    blocked = False

    def __init__(self, when: float, action: Callable[[], None]) -> None:
        self.armed = 0.0
        self.deadline: float | None = when
        self.finished = False
        self._action = action

    def fileno(self) -> int:
        """It has no descriptor."""
        return -1

    def readable(self, now: float) -> None:
        """Never waited for."""

    def writable(self, now: float) -> None:
        """Never waited for."""

    def expire(self, now: float) -> None:
        """Now is the time."""
        self.finished = True
        self._action()

    def failed(self, error: Exception) -> None:
        """It did not work."""
        logger().error("what was to be done later failed", exc_info=error)

    def close(self) -> None:
        """There is nothing to close."""
