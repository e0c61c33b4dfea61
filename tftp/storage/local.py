"""A directory served as it is: no name leads out of it, and an upload appears whole or not at all.

Reading is one open with O_NOFOLLOW and one fstat for a plain name, the kernel's confined lookup for
a path, and a walk by hand for what is left (see `openat2`). An upload is written to a file that
has no name yet, or a hidden one, and gets its own only when all of it is on the disk. The root is
looked up for each request, so that a tree replaced by a rename is served from then on; it costs
nothing for a plain name, and leaves no descriptor to close. Who reads the same file shares one
descriptor (see `opened`), and a small file is read at once and needs none. This module knows
neither packets nor option negotiation: of a request it takes the name and the size that the client
declares. It needs a POSIX system.
"""

import contextlib
import errno
import os
import re
import stat
from collections.abc import Callable, Hashable, Sequence
from pathlib import Path
from typing import TypeVar

from tftp.errors import ErrorCode, Refused
from tftp.events import Request
from tftp.storage.adapters import BytesSource
from tftp.storage.openat2 import open_beneath, walk
from tftp.storage.opened import OpenFiles
from tftp.storage.writeback import start_writing

__all__ = ["Directory", "LocalSink", "LocalSource"]

_Found = TypeVar("_Found")

# O_NONBLOCK: the open of a FIFO must not wait for its other end. O_NOCTTY: nor that of a terminal
# become ours.
_READ = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC
_CREATE = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
_LIST = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC
#: Linux: a file without a name, which a killed process cannot leave behind. 0 elsewhere.
_NAMELESS = getattr(os, "O_TMPFILE", 0)
_NEW_FILE = 0o666  # The process's umask takes its share.

#: How the names of unfinished uploads begin, where they have one; nobody may ask for such a name.
_TEMPORARY = b".tftpkit-upload-"

# Where the kernel's quick answer is not the last word, and a walk gives it: a link (ELOOP, EMLINK),
# an absolute one (EXDEV), a rename in between (EAGAIN), a signal, no such system call, a filter.
_WALK_ON = frozenset(
    {
        errno.ELOOP,
        errno.EMLINK,
        errno.EXDEV,
        errno.EAGAIN,
        errno.EINTR,
        errno.ENOSYS,
        errno.EPERM,
    }
)
# What an open with O_NOFOLLOW says of a link: FreeBSD has its own word for it.
_LINK = frozenset({errno.ELOOP, errno.EMLINK})
# The open of a socket, or of a device that has no driver.
_SPECIAL = frozenset({errno.ENXIO, errno.ENODEV, errno.EOPNOTSUPP})
# File systems that know no nameless files, and those that know no hard links.
_NO_NAMELESS = frozenset({errno.EOPNOTSUPP, errno.EISDIR, errno.EINVAL})
_NO_LINK = frozenset({errno.EPERM, errno.EOPNOTSUPP, errno.ENOTSUP, errno.ENOSYS})
# File systems whose directories cannot be synced.
_NO_SYNC = frozenset({errno.EINVAL, errno.EOPNOTSUPP, errno.ENOTSUP})

# Buffers that one system call takes: Linux and macOS have 1024 (IOV_MAX).
_MAX_BUFFERS = 1024
# A file of up to so many octets is read when it is opened: that is quicker than to keep it open and
# to ask at its end whether it has changed, and takes little memory.
_SMALL = 4096
# Of a durable upload so many octets at a time start on their way to the disk: enough for one large
# write, and little enough to leave the sync at the end little to do. A multiple of the page size,
# because a page that is being written may keep the next octets for it waiting.
_PIECE = 256 * 1024
# Directory entries that `ignore_case` looks at for one name.
_MAX_ENTRIES = 65536
# Nearly all names are of this kind, and nothing in one of them needs a second look: no component is
# empty, begins with a dot (so it is neither ".." nor reserved) or holds a NUL.
_SIMPLE = re.compile(rb"/*([^/.\0][^/\0]*(?:/[^/.\0][^/\0]*)*)")

# 20 digits hold 2**63; a longer number is not the size of a file.
_MAX_DIGITS = 20

_NOT_REGULAR = "not a regular file"
_OUTSIDE = "file name leaves the served directory"
_EXISTS = "file exists, and overwriting is not allowed"


class Directory:
    """A directory and all that is in it, as a storage.

    Leading slashes of a name mean nothing, "." and ".." are resolved in the name itself, before
    anything is looked up. Links are followed as long as they stay inside, absolute ones included.
    Only regular files are served or replaced.

    Args:
        root: the directory. A relative one stays what it is now if the process moves elsewhere.
        writable: take uploads. The server has to be able to read the directory that one goes to,
            which is synced with it.
        overwrite: let an upload replace a file that the server could also write to. It gets the
            old one's permission bits, and the server as its owner.
        ignore_case: where there is no exact match, take a name in another case: the first in byte
            order. In a directory of more than 65 536 entries case is not ignored.
        max_size: octets that an upload may have; None means no limit but the disk.
        durable: an upload is on the disk, name and all, when it is committed. Without, it is still
            whole or not there, but may be lost in a power cut soon after.
    """

    #: It keeps nobody waiting but for the disk: the thread that serves it may listen as well.
    is_prompt = True

    def __init__(
        self,
        root: str | os.PathLike[str],
        *,
        writable: bool = False,
        overwrite: bool = False,
        ignore_case: bool = False,
        max_size: int | None = None,
        durable: bool = True,
    ) -> None:
        self.root = Path(root).absolute()
        self.writable = writable
        self.overwrite = overwrite
        self.ignore_case = ignore_case
        self.max_size = max_size
        self.durable = durable
        self._root = os.fsencode(self.root)
        self._beneath = self._root + b"/"
        self._opened = OpenFiles()

    def check(self) -> None:
        """Fail now if the root cannot be served.

        Raises:
            OSError: FileNotFoundError, NotADirectoryError or PermissionError, naming the root.
        """
        if not stat.S_ISDIR(self.root.stat().st_mode):
            raise _error(errno.ENOTDIR, self.root)
        if not os.access(self.root, os.X_OK, effective_ids=True):
            raise _error(errno.EACCES, self.root)

    def open_read(self, request: Request) -> "LocalSource | BytesSource":
        """Open a file for reading, as it is now.

        It keeps no descriptor if the file is small, nor if another source has the same file open.

        Raises:
            Refused: the name leaves the root, is reserved, or is not that of a regular file.
            OSError: of the system calls.
        """
        descriptor = self._open(_components(request.filename))
        try:
            status = os.fstat(descriptor)
            if not stat.S_ISREG(status.st_mode):
                raise Refused(_NOT_REGULAR)
            whole = _read_small(descriptor, status.st_size) if status.st_size <= _SMALL else None
        except BaseException:
            os.close(descriptor)
            raise
        if whole is None:
            return LocalSource(self._opened.share(descriptor, status), status, self._opened)
        os.close(descriptor)
        return BytesSource(whole)

    def open_write(self, request: Request) -> "LocalSink":
        """Open a new file, which takes its name when it is committed.

        Raises:
            Refused: the server is read-only, the file exists or is too large, and as `open_read`.
            OSError: of the system calls; FileNotFoundError where the directory is missing.
        """
        if not self.writable:
            raise Refused("server is read-only")
        names = _components(request.filename)
        declared = _declared_size(request)
        _require_allowed(declared, self.max_size)
        directory, name = self._walk(names, self._place)
        try:
            _require_space(directory, declared)
            file, temporary = _new_file(directory)
        except BaseException:
            os.close(directory)
            raise
        return LocalSink(
            directory,
            name,
            file,
            temporary,
            overwrite=self.overwrite,
            max_size=self.max_size,
            durable=self.durable,
        )

    def sweep(self, before: float) -> int:
        """Remove the unfinished uploads that a killed server left, and say how many there were.

        There are none where the file system knows nameless files, unless the server was killed
        in the moment between two system calls. It visits the whole tree.

        Args:
            before: only those last written before this time, in seconds since the epoch; those
                of a server that still runs are younger.
        """
        removed = 0
        for _, _, names, directory in os.fwalk(self._root):
            for name in names:
                if not name.startswith(_TEMPORARY):
                    continue
                status = _status(directory, name)
                if status is None or not stat.S_ISREG(status.st_mode) or status.st_mtime >= before:
                    continue
                with contextlib.suppress(FileNotFoundError):  # Another sweep may be under way.
                    os.unlink(name, dir_fd=directory)
                    removed += 1
        return removed

    def _open(self, names: Sequence[bytes]) -> int:
        try:
            return self._open_at_once(names)
        except OSError as error:
            if error.errno in _SPECIAL:
                raise Refused(_NOT_REGULAR) from error
            if error.errno not in _WALK_ON and not (
                self.ignore_case and isinstance(error, FileNotFoundError)
            ):
                raise
        return self._walk(names, _open_last)

    def _open_at_once(self, names: Sequence[bytes]) -> int:
        """By the kernel alone, if it can."""
        if len(names) == 1:
            try:
                return os.open(self._beneath + names[0], _READ)
            except OSError as error:
                if error.errno not in _LINK:
                    raise
        # A link as the last name is for the kernel to follow: it stays beneath the root.
        return open_beneath(self._root, names, _READ & ~os.O_NOFOLLOW)

    def _walk(self, names: Sequence[bytes], act: Callable[[int, bytes], _Found]) -> _Found:
        try:
            return walk(self._root, names, act, _spell if self.ignore_case else None)
        except OSError as error:
            if error.errno == errno.EXDEV:
                raise Refused(_OUTSIDE) from error
            if error.errno in _SPECIAL:
                raise Refused(_NOT_REGULAR) from error
            raise

    def _place(self, directory: int, name: bytes) -> tuple[int, bytes]:
        """The end of a walk to where an upload will go: a descriptor to keep, and the name."""
        status = _status(directory, name)
        if status is not None:
            if not self.overwrite and (
                stat.S_ISREG(status.st_mode) or stat.S_ISLNK(status.st_mode)
            ):
                raise Refused(_EXISTS, ErrorCode.FILE_EXISTS)
            if stat.S_ISLNK(status.st_mode):
                raise _error(errno.ELOOP)
            if not stat.S_ISREG(status.st_mode):
                raise Refused(_NOT_REGULAR)
            # A rename would replace what nobody may write to.
            if not os.access(name, os.W_OK, dir_fd=directory, effective_ids=True):
                raise _error(errno.EACCES)
        return os.open(b".", _LIST, dir_fd=directory), name


class LocalSource:
    """A file of the disk, as large as it was when it was opened.

    It may grow meanwhile, and what is appended is not served. A file that is cut or rewritten in
    place is an error, not a mix of old and new (which a file rewritten with a longer one can
    still be: growing does not tell the two apart). One replaced by a rename stays the old one.

    Args:
        descriptor: of the file; the source lets it go at its end.
        status: what fstat says of it.
        opened: where the descriptor is shared; None if this source has it for itself.
    """

    __slots__ = ("_changed", "_descriptor", "_opened", "size")

    def __init__(
        self,
        descriptor: int,
        status: os.stat_result,
        opened: OpenFiles | None = None,
    ) -> None:
        self._descriptor = descriptor
        self._opened = opened
        self._changed = status.st_mtime_ns
        #: Octets in the file.
        self.size = status.st_size

    @property
    def identity(self) -> Hashable | None:
        """What tells this file from all others; None while nobody else reads it."""
        return None if self._opened is None else self._opened.identity(self._descriptor)

    def read_into(self, slots: Sequence[memoryview], offset: int) -> int:
        """Fill the slots from `offset` on, any offset, and say how much it was.

        Raises:
            Refused: the file was cut or rewritten.
            OSError: it cannot be read.
        """
        wanted = len(slots[0]) if len(slots) == 1 else sum(map(len, slots))
        left = self.size - offset
        if wanted < left and _preadv(self._descriptor, _few(slots), offset) == wanted:
            return wanted  # In the midst of the file, and all at once: nothing else to see to.
        if wanted > left:
            wanted = max(left, 0)
            slots = [slots[0][:wanted]] if len(slots) == 1 else _first(slots, wanted)
        missing = wanted
        while missing:
            got = _preadv(self._descriptor, _few(slots), offset)
            if not got:
                raise _changed_while_read()
            missing -= got
            offset += got
            if missing:
                slots = _rest(slots, got)
        if offset >= self.size:
            self._require_unchanged()
        return wanted

    def close(self) -> None:
        """Let the file go. A second call does nothing."""
        if self._descriptor >= 0:
            descriptor, self._descriptor = self._descriptor, -1
            if self._opened is None:
                os.close(descriptor)
            else:
                self._opened.close(descriptor)

    def _require_unchanged(self) -> None:
        # Asked once, at the end: what has been sent is whole only if nothing changed until then.
        status = os.fstat(self._descriptor)
        if status.st_mtime_ns != self._changed and status.st_size <= self.size:
            raise _changed_while_read()


class LocalSink:
    """An upload on its way to a name in a directory.

    Args:
        directory: a descriptor of the directory; the sink closes it.
        name: the file's name in it.
        file: a descriptor of the new file; the sink closes it.
        temporary: the new file's name in the directory; None if it has none.
        overwrite: let it replace another file.
        max_size: octets that it may have.
        durable: force it to the disk when it is committed.
    """

    __slots__ = (
        "_directory",
        "_durable",
        "_file",
        "_max_size",
        "_name",
        "_overwrite",
        "_started",
        "_starts",
        "_temporary",
        "_written",
    )

    def __init__(
        self,
        directory: int,
        name: bytes,
        file: int,
        temporary: bytes | None,
        *,
        overwrite: bool,
        max_size: int | None,
        durable: bool,
    ) -> None:
        self._directory = directory
        self._name = name
        self._file = file
        self._temporary = temporary
        self._overwrite = overwrite
        self._max_size = max_size
        self._durable = durable
        self._written = 0
        self._started = 0  # So many octets are on their way to the disk.
        self._starts = durable

    @property
    def commits_slowly(self) -> bool:
        """Whether it is a disk that `commit` waits for."""
        return self._durable

    def write(self, chunks: Sequence[memoryview]) -> None:
        """Append the chunks in order.

        Raises:
            Refused: the file would be larger than is allowed.
            OSError: it cannot be written; the disk is full, for example.
        """
        missing = sum(map(len, chunks))
        self._written += missing
        _require_allowed(self._written, self._max_size)
        while missing:
            if len(chunks) == 1:
                done = os.write(self._file, chunks[0])
            else:
                done = os.writev(self._file, _few(chunks))
            missing -= done
            if missing:
                chunks = _rest(chunks, done)
        if self._starts and self._written - self._started >= _PIECE:
            self._start_writing()

    def commit(self) -> None:
        """Put the file on the disk, if that is promised, and then under its name.

        Raises:
            Refused: the name was taken meanwhile.
            OSError: the disk failed. As after `Refused`, nothing is left, and the old file stays.
            ValueError: the upload was committed or discarded before.
        """
        if self._file < 0:
            raise ValueError("the upload has ended")
        try:
            self._take_permissions()
            if self._durable:
                os.fsync(self._file)
            self._publish()
            if self._durable:
                # Now the name, too: the last ACK promises a file that survives a power cut.
                _sync_directory(self._directory)
        finally:
            self.discard()

    def discard(self) -> None:
        """Leave nothing behind. After a commit, or a second time, there is nothing to do."""
        if self._file < 0:
            return
        file, self._file = self._file, -1
        try:
            self._drop_temporary()
        finally:
            os.close(self._directory)
            os.close(file)

    def _start_writing(self) -> None:
        """Have whole pieces written while the rest comes in; ask no more where that is refused."""
        end = self._written - self._written % _PIECE
        self._starts = start_writing(self._file, self._started, end - self._started)
        self._started = end

    def _take_permissions(self) -> None:
        """Give the new file the permission bits of the one that it will replace."""
        status = _status(self._directory, self._name) if self._overwrite else None
        if status is None or stat.S_ISLNK(status.st_mode):
            return  # A link that came after the open is replaced, never followed.
        if not stat.S_ISREG(status.st_mode):
            raise Refused(_NOT_REGULAR)
        os.fchmod(self._file, status.st_mode & 0o777)

    def _publish(self) -> None:
        if self._overwrite and self._temporary is not None:
            self._replace()
            return
        try:
            # A link never replaces anything: between two uploads of one name it is the judge.
            self._link(self._name)
        except FileExistsError as error:
            if not self._overwrite:
                raise Refused(_EXISTS, ErrorCode.FILE_EXISTS) from error
            self._replace()
        except OSError as error:
            if self._temporary is None or error.errno not in _NO_LINK:
                raise
            self._claim()
        else:
            self._drop_temporary()

    def _replace(self) -> None:
        if self._temporary is None:
            # Only a rename replaces a file in one step, and it takes a name.
            temporary = _temporary_name()
            self._link(temporary)
            self._temporary = temporary
        os.rename(
            self._temporary, self._name, src_dir_fd=self._directory, dst_dir_fd=self._directory
        )
        self._temporary = None

    def _claim(self) -> None:
        """Publish without links: an unreadable placeholder keeps the name for the moment."""
        try:
            os.close(os.open(self._name, _CREATE, 0, dir_fd=self._directory))
        except FileExistsError as error:
            raise Refused(_EXISTS, ErrorCode.FILE_EXISTS) from error
        try:
            self._replace()
        except BaseException:
            os.unlink(self._name, dir_fd=self._directory)
            raise

    def _link(self, name: bytes) -> None:
        source = self._temporary or _path_of(self._file)
        os.link(
            source,
            name,
            src_dir_fd=self._directory,
            dst_dir_fd=self._directory,
            follow_symlinks=self._temporary is None,
        )

    def _drop_temporary(self) -> None:
        if self._temporary is not None:
            temporary, self._temporary = self._temporary, None
            with contextlib.suppress(FileNotFoundError):  # A sweep may have been here.
                os.unlink(temporary, dir_fd=self._directory)


def _components(filename: bytes) -> list[bytes]:
    """A name from the network as the components of a path below the root.

    A name that leaves the root, or that no file can have, is refused here, before any system call.
    """
    simple = _SIMPLE.fullmatch(filename)
    if simple is not None:
        return simple[1].split(b"/")
    if not filename:
        raise Refused("empty file name", ErrorCode.FILE_NOT_FOUND)
    if b"\0" in filename:
        raise Refused("file name holds a NUL", ErrorCode.ACCESS_VIOLATION)
    components: list[bytes] = []
    last = b""
    for last in filename.split(b"/"):
        if last == b"..":
            if not components:
                raise Refused(_OUTSIDE)
            components.pop()
        elif last not in (b"", b"."):
            if last.lower().startswith(_TEMPORARY):
                raise Refused("file name is reserved for unfinished uploads")
            components.append(last)
    if last in (b"", b".", b".."):
        raise Refused(_NOT_REGULAR)  # "dir/" and "dir/." can only be a directory.
    return components


def _open_last(directory: int, name: bytes) -> int:
    return os.open(name, _READ, dir_fd=directory)


def _read_small(descriptor: int, size: int) -> bytes | None:
    """All of a file, as it is at this moment; None where a read gives more or less than `size`."""
    whole = os.pread(descriptor, size + 1, 0)
    return whole if len(whole) == size else None


def _spell(directory: int, name: bytes) -> bytes:
    """The name of a directory's entry that is `name` but for case; `name` itself if there is none.

    Which one it is does not depend on the order in which the file system lists them.
    """
    if _status(directory, name) is not None:
        return name
    wanted = _fold(name)
    found: bytes | None = None
    listing = os.open(b".", _LIST, dir_fd=directory)
    try:
        with os.scandir(listing) as entries:
            for count, entry in enumerate(entries):
                if count == _MAX_ENTRIES:
                    return name
                candidate = os.fsencode(entry.name)
                # Folding makes more letters equal than `lower` does: the Kelvin sign is a k.
                if _fold(candidate) != wanted or candidate.startswith(_TEMPORARY):
                    continue
                if found is None or candidate < found:
                    found = candidate
    finally:
        os.close(listing)
    return name if found is None else found


def _fold(name: bytes) -> str:
    return name.decode("utf-8", "surrogateescape").casefold()


def _status(directory: int, name: bytes) -> os.stat_result | None:
    """What stands under a name, a link being itself; None if nothing does."""
    try:
        return os.stat(name, dir_fd=directory, follow_symlinks=False)
    except FileNotFoundError:
        return None


def _new_file(directory: int) -> tuple[int, bytes | None]:
    """A new file in a directory: its descriptor, and its name if it has one."""
    if _NAMELESS:
        try:
            file = os.open(
                b".", _NAMELESS | os.O_WRONLY | os.O_CLOEXEC, _NEW_FILE, dir_fd=directory
            )
        except OSError as error:
            if error.errno not in _NO_NAMELESS:
                raise
        else:
            # It gets its name by way of /proc, which a chroot may lack.
            if os.access(_path_of(file), os.F_OK):
                return file, None
            os.close(file)
    temporary = _temporary_name()
    return os.open(temporary, _CREATE, _NEW_FILE, dir_fd=directory), temporary


def _temporary_name() -> bytes:
    return _TEMPORARY + os.urandom(16).hex().encode()


def _path_of(descriptor: int) -> bytes:
    return b"/proc/self/fd/%d" % descriptor


def _sync_directory(directory: int) -> None:
    try:
        os.fsync(directory)
    except OSError as error:
        if error.errno not in _NO_SYNC:
            raise


def _declared_size(request: Request) -> int | None:
    text = request.option("tsize")
    if text is None or len(text) > _MAX_DIGITS or not (text.isascii() and text.isdigit()):
        return None
    return int(text)


def _require_allowed(size: int | None, limit: int | None) -> None:
    if size is not None and limit is not None and size > limit:
        raise Refused(f"file is larger than the {limit} octets allowed", ErrorCode.DISK_FULL)


def _require_space(directory: int, size: int | None) -> None:
    if size is None:
        return
    free = os.fstatvfs(directory)
    if size > free.f_bavail * free.f_frsize:
        raise Refused("not enough free space for the file", ErrorCode.DISK_FULL)


def _few(buffers: Sequence[memoryview]) -> Sequence[memoryview]:
    """As many buffers as one system call takes."""
    return buffers if len(buffers) <= _MAX_BUFFERS else buffers[:_MAX_BUFFERS]


def _first(buffers: Sequence[memoryview], count: int) -> list[memoryview]:
    """Buffers for the first `count` octets."""
    first = []
    for buffer in buffers:
        if not count:
            break
        first.append(buffer[:count])
        count -= len(first[-1])
    return first


def _rest(buffers: Sequence[memoryview], count: int) -> list[memoryview]:
    """Buffers for all but the first `count` octets."""
    for index, buffer in enumerate(buffers):
        if count < len(buffer):
            return [buffer[count:], *buffers[index + 1 :]]
        count -= len(buffer)
    return []


def _pread_first(descriptor: int, slots: Sequence[memoryview], offset: int) -> int:
    """What `preadv` does, where there is none: it may always fill less than it is given."""
    slot = next(slot for slot in slots if slot)
    data = os.pread(descriptor, len(slot), offset)
    slot[: len(data)] = data
    return len(data)


_preadv: Callable[[int, Sequence[memoryview], int], int] = getattr(os, "preadv", _pread_first)


def _changed_while_read() -> Refused:
    return Refused("file changed while it was read", ErrorCode.UNDEFINED)


def _error(number: int, path: Path | None = None) -> OSError:
    return OSError(number, os.strerror(number), None if path is None else str(path))
