"""What will be synced starts on its way to the disk as it comes: Linux's sync_file_range(2).

A kernel keeps written data for seconds, so that all of a large upload would wait for the sync at
its end, and its client with it. Started early, it is written while the rest comes in, and the sync
finds little left to do. This promises nothing: what is on the disk, only the sync can say.
"""

import errno
import os
from collections.abc import Callable
from functools import cache

__all__ = ["start_writing"]

_SYNC_FILE_RANGE_WRITE = 2
# A file that is not on a disk, a kernel or a filter that does not let us: then it is not done.
_WITHOUT = frozenset({errno.ENOSYS, errno.EPERM, errno.EINVAL, errno.ESPIPE, errno.EOPNOTSUPP})


def start_writing(descriptor: int, offset: int, count: int) -> bool:
    """Have so many octets of a file, from `offset` on, written soon, without waiting for it.

    Returns:
        Whether that can be had here for this file.

    Raises:
        OSError: they cannot be written.
    """
    sync_file_range = _system_call()
    if sync_file_range is None:
        return False
    number = sync_file_range(descriptor, offset, count)
    if number and number not in _WITHOUT:
        raise OSError(number, os.strerror(number))
    return not number


@cache
def _system_call() -> Callable[[int, int, int], int] | None:
    """The call as a function that returns an errno or 0; None where there is no such call."""
    import ctypes  # Here, because clients never need it, and it takes a while to load.

    function = getattr(ctypes.CDLL(None, use_errno=True), "sync_file_range", None)
    if function is None:
        return None
    function.argtypes = (ctypes.c_int, ctypes.c_int64, ctypes.c_int64, ctypes.c_uint)

    def sync_file_range(descriptor: int, offset: int, count: int) -> int:
        failed = function(descriptor, offset, count, _SYNC_FILE_RANGE_WRITE)
        return ctypes.get_errno() if failed else 0

    return sync_file_range
