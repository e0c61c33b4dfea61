"""Files that are being read now, each with one descriptor, however many transfers read it.

A boot storm asks for the same file a thousand times. Every reader opens it as carefully as the
first: that open is the proof that it may, and the check of what stands under the name now. Only
then is it found to be a file that is open already, and the descriptor it came with is closed. So
sharing changes nothing but how many descriptors there are, and this module knows no names.
"""

import os
from collections.abc import Hashable
from threading import Lock
from typing import TypeAlias

__all__ = ["OpenFiles"]

# Which file it is, and in which state: one that was written to, or given to others, is a new one.
# Device and inode alone would do for file systems that keep an inode's number while it is open.
_Identity: TypeAlias = tuple[int, int, int, int, int]


class OpenFiles:
    """Descriptors that are shared; of no more files than there are readers. Threads may use it.

    Whoever reads must not depend on the descriptor's position, nor change it. A pickled or copied
    one is empty: descriptors are a process's own.
    """

    __slots__ = ("_by_descriptor", "_by_identity", "_lock")

    def __init__(self) -> None:
        self._lock = Lock()
        self._by_identity: dict[_Identity, _Shared] = {}
        self._by_descriptor: dict[int, _Shared] = {}

    def __reduce__(self) -> "tuple[type[OpenFiles], tuple[()]]":
        return OpenFiles, ()

    def share(self, descriptor: int, status: os.stat_result) -> int:
        """The descriptor to read a file by that was just opened: this one, or an older one.

        Where it is an older one, this one is closed. `close` has to follow once for each call.

        Args:
            descriptor: of the file, open for reading.
            status: what fstat says of it.
        """
        identity = (
            status.st_dev,
            status.st_ino,
            status.st_size,
            status.st_mtime_ns,
            status.st_ctime_ns,
        )
        with self._lock:
            shared = self._by_identity.get(identity)
            if shared is None:
                new = _Shared(descriptor, identity)
                self._by_identity[identity] = self._by_descriptor[descriptor] = new
                return descriptor
            shared.readers += 1
        os.close(descriptor)
        return shared.descriptor

    def identity(self, descriptor: int) -> Hashable | None:
        """What tells a file, in its state when it was opened, from all others; None while it has
        only one reader.
        """
        shared = self._by_descriptor[descriptor]
        return shared.identity if shared.readers > 1 else None

    def close(self, descriptor: int) -> None:
        """One reader is done; the file is closed with its last one."""
        with self._lock:
            shared = self._by_descriptor[descriptor]
            shared.readers -= 1
            if shared.readers:
                return
            # Nobody can come upon it any more, and the number stays ours until it is closed.
            del self._by_descriptor[descriptor], self._by_identity[shared.identity]
        os.close(descriptor)


class _Shared:
    __slots__ = ("descriptor", "identity", "readers")

    def __init__(self, descriptor: int, identity: _Identity) -> None:
        self.descriptor = descriptor
        self.identity = identity
        self.readers = 1
