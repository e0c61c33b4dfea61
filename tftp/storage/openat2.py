"""Names looked up beneath a directory and nowhere else: Linux's openat2(2), and the same by hand.

`open_beneath` leaves the lookup to the kernel. `walk` does it component by component and never
lets the kernel follow a link, so a link or a directory that is swapped meanwhile cannot lead out
either; it is for systems without openat2, for links that the kernel refuses although they stay
inside (absolute ones), and for lookups that end in something else than an open. Names are bytes.
This module knows system calls and their errors; requests and error codes are not its business.
"""

import errno
import os
import struct
from collections.abc import Callable, Sequence
from functools import cache
from typing import TypeVar

__all__ = ["DIRECTORY", "is_available", "open_beneath", "walk"]

_Found = TypeVar("_Found")

#: How a directory is opened only to look things up in it. Where there is no O_PATH it has to be
#: readable, too.
DIRECTORY = os.O_DIRECTORY | os.O_CLOEXEC | getattr(os, "O_PATH", os.O_RDONLY)

# The number is the same on all of Linux's architectures that CPython is built for.
_SYS_OPENAT2 = 437
_RESOLVE_NO_MAGICLINKS = 0x02
_RESOLVE_BENEATH = 0x08
_RESOLVE = _RESOLVE_BENEATH | _RESOLVE_NO_MAGICLINKS
_HOW = struct.Struct("=QQQ")  # struct open_how: flags, mode, resolve
_AT_FDCWD = -100

# What a link answers to O_NOFOLLOW: ELOOP, with O_DIRECTORY also ENOTDIR, and EMLINK on FreeBSD.
_LINK_ERRORS = frozenset({errno.ELOOP, errno.ENOTDIR, errno.EMLINK})
_MAX_LINKS = 40  # As the kernel: path_resolution(7).
# A walk holds every directory on its way down open, to find back from a link's "..".
_MAX_DEPTH = 128

_OpenAt2 = Callable[[int, bytes, int], int]


def is_available() -> bool:
    """Whether the kernel has openat2, and lets this process call it."""
    return _kernel() is not None


def open_beneath(root: bytes, names: Sequence[bytes], flags: int) -> int:
    """Open what the names lead to, one directory after the other, and return the descriptor.

    Raises:
        OSError: as open(2), and EXDEV where a link leaves the root or is absolute, EAGAIN where a
            rename came between, EINTR, ENOSYS (or what a filter says) where the kernel does not
            offer this. `walk` knows the answer to all of these.
    """
    openat2 = _kernel()
    if openat2 is None:
        raise _error(errno.ENOSYS)
    directory = os.open(root, DIRECTORY)
    try:
        return openat2(directory, b"/".join(names), flags)
    finally:
        os.close(directory)


def walk(
    root: bytes,
    names: Sequence[bytes],
    act: Callable[[int, bytes], _Found],
    spell: Callable[[int, bytes], bytes] | None = None,
) -> _Found:
    """Do something with what the names lead to: `act(directory, name)`, and return what it returns.

    Args:
        root: the directory that no link leads out of.
        names: a path, component by component; "." and ".." are understood.
        act: is given a descriptor, open for this call only, and the last name. Where that is a
            link to be followed, it fails with ELOOP, as an open with O_NOFOLLOW does by itself.
        spell: may replace a name before it is looked up; it is given the directory's descriptor.

    Raises:
        OSError: of a system call or of `act`; EXDEV where a link leaves the root, EISDIR where the
            names end in a directory that they passed through, ELOOP after 40 links.
    """
    ahead = list(reversed(names))
    links = 0
    with _Descent(root) as descent:
        while ahead:
            name = ahead.pop()
            if name in (b"", b"."):
                continue
            if name == b"..":
                descent.up()
                continue
            if spell is not None:
                name = spell(descent.directory, name)
            try:
                if not ahead:
                    return act(descent.directory, name)
                descent.down(name)
            except OSError as error:
                if error.errno not in _LINK_ERRORS:
                    raise
                target = _target(descent.directory, name, error)
                links += 1
                if links > _MAX_LINKS:
                    raise _error(errno.ELOOP) from error
                if target.startswith(b"/"):
                    target = _relative(root, target)
                    descent.restart()
                ahead.extend(reversed(target.split(b"/")))
    raise _error(errno.EISDIR)


class _Descent:
    """The directories from the root down to where a walk stands, all open, none of them a link."""

    def __init__(self, root: bytes) -> None:
        self._opened = [os.open(root, DIRECTORY)]

    def __enter__(self) -> "_Descent":
        return self

    def __exit__(self, *_: object) -> None:
        while self._opened:
            os.close(self._opened.pop())

    @property
    def directory(self) -> int:
        return self._opened[-1]

    def down(self, name: bytes) -> None:
        if len(self._opened) > _MAX_DEPTH:
            raise _error(errno.ENAMETOOLONG)
        self._opened.append(os.open(name, DIRECTORY | os.O_NOFOLLOW, dir_fd=self.directory))

    def up(self) -> None:
        # Not an open of "..": a directory that was moved elsewhere meanwhile has another parent.
        if len(self._opened) == 1:
            raise _error(errno.EXDEV)
        os.close(self._opened.pop())

    def restart(self) -> None:
        while len(self._opened) > 1:
            os.close(self._opened.pop())


def _target(directory: int, name: bytes, refusal: OSError) -> bytes:
    """Where a link leads, for a name that was refused because it seemed to be one."""
    try:
        return os.readlink(name, dir_fd=directory)
    except OSError as error:
        if error.errno != errno.EINVAL:
            raise
        if refusal.errno == errno.ENOTDIR:
            raise refusal from None  # It is a file.
        return name  # It was a link a moment ago: look again.


def _relative(root: bytes, target: bytes) -> bytes:
    """An absolute link as a path from the root.

    This only rewrites a name, which is then looked up as carefully as any other: whatever changes
    between here and there, nothing outside is opened.
    """
    root = os.path.realpath(root)
    target = os.path.realpath(target)
    if os.path.commonpath([root, target]) != root:
        raise _error(errno.EXDEV)
    return os.path.relpath(target, root)


@cache
def _kernel() -> _OpenAt2 | None:
    """The system call as a function, or None where it cannot be had."""
    if not hasattr(os, "O_PATH"):  # Not Linux.
        return None
    import ctypes  # Here, because clients never need it, and it takes a while to load.

    syscall = ctypes.CDLL(None, use_errno=True).syscall
    syscall.restype = ctypes.c_long
    # Typed once, here, rather than by `argtypes` at each call: that is a quarter of its time.
    number = ctypes.c_long(_SYS_OPENAT2)
    size = ctypes.c_size_t(_HOW.size)

    @cache
    def how(flags: int) -> ctypes.c_char_p:
        return ctypes.c_char_p(_HOW.pack(flags, 0, _RESOLVE))

    def openat2(directory: int, path: bytes, flags: int) -> int:
        descriptor: int = syscall(number, directory, path, how(flags), size)
        if descriptor < 0:
            raise _error(ctypes.get_errno())
        return descriptor

    # A kernel that knows the call refuses this path; an older one, or a filter, says otherwise.
    try:
        os.close(openat2(_AT_FDCWD, b"/", os.O_PATH | os.O_CLOEXEC))
    except OSError as error:
        return openat2 if error.errno == errno.EXDEV else None
    return None


def _error(number: int) -> OSError:
    return OSError(number, os.strerror(number))
