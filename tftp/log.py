"""The logger of the library, for modules of which a small `tftp get` is made.

`logging` takes as long to import as such a transfer takes, and nothing is said in most of them. So
it is imported where there is something to say.
"""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from logging import Logger

__all__ = ["logger"]


def logger() -> "Logger":
    """The logger `tftp`."""
    import logging

    return logging.getLogger("tftp")
