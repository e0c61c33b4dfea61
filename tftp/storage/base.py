"""What the rest of the project asks of a place where files live: three small protocols.

The two halves of a transfer meet the kernel's `preadv` and `pwritev`: a source fills many buffers
at an offset, a sink takes many in order. Anything with these methods will do; nothing needs to be
inherited.
"""

from collections.abc import Sequence
from typing import Protocol

from tftp.events import Request

__all__ = ["Sink", "Source", "Storage"]


class Source(Protocol):
    """A file that is being read.

    A source that knows of others that read the same file can have an attribute `identity`, which is
    equal for all of them: then what one has read will do for the others. It is None, or not there,
    where that is not so; of a file that has changed it is another.
    """

    @property
    def size(self) -> int | None:
        """Octets in all, exactly; None where that is not known beforehand."""

    def read_into(self, slots: Sequence[memoryview], offset: int) -> int:
        """Fill the slots one after the other with what stands at `offset`, and say how much it was.

        Less than the slots hold means that the file ends there. The offset may go back by up to a
        window, never further.

        Raises:
            OSError, TFTPError: the file cannot be read, or is not what it was when it was opened.
        """

    def close(self) -> None:
        """Let the file go. Called exactly once."""


class Sink(Protocol):
    """A file that is being written. Exactly one of `commit` and `discard` ends it.

    Where `commit` may take longer than some milliseconds, and another thread may call it, a sink
    can say so by an attribute `commits_slowly` that is true: then the other transfers of a server
    do not have to wait for it.
    """

    def write(self, chunks: Sequence[memoryview]) -> None:
        """Append the chunks in order; they are the caller's again when this returns.

        Raises:
            OSError, TFTPError: they could not be written.
        """

    def commit(self) -> None:
        """Make the whole file visible under its name, safe on disk, in one step.

        Raises:
            OSError, TFTPError: it could not be; nothing is left behind, the old file stays.
        """

    def discard(self) -> None:
        """Leave nothing behind; the old file, if any, stays."""


class Storage(Protocol):
    """Where names become files."""

    def open_read(self, request: Request) -> Source:
        """Open a file for reading.

        Raises:
            OSError, TFTPError: there is none, or it may not be read. An `OSError` is answered with
                the code that its `errno` stands for.
        """

    def open_write(self, request: Request) -> Sink:
        """Open a file for writing; `request.option("tsize")` is the size that the client declares.

        Raises:
            OSError, TFTPError: it may not be written.
        """
