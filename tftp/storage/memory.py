"""Files that are bytes in memory, or functions that make them: for tests, and for generated files.

A name is looked up as it is, without its leading slashes; there are no directories. Nothing here
touches a disk.
"""

import errno
import os
from collections.abc import Callable, Iterator, Mapping, MutableMapping, Sequence
from threading import Lock
from typing import BinaryIO, TypeAlias

from tftp.errors import ErrorCode, Refused
from tftp.events import Request
from tftp.storage.adapters import BytesSource, from_file
from tftp.storage.base import Source

__all__ = ["Content", "Files", "Handler", "Memory", "MemorySink"]

#: A function that makes a file for one request: its octets, or a binary file object, which is read
#: from where it stands and closed at the end. It refuses by raising `Refused`, FileNotFoundError,
#: PermissionError or another OSError. It runs in the thread that serves, which waits for it.
Handler: TypeAlias = Callable[[Request], bytes | bytearray | memoryview | BinaryIO]

#: What stands under a name.
Content: TypeAlias = bytes | Handler

# Three, because a mapping's type of keys is invariant.
_Files: TypeAlias = Mapping[str, Content] | Mapping[bytes, Content] | Mapping[bytes | str, Content]


class Files(MutableMapping[bytes | str, Content]):
    """Names and what stands under them.

    The keys are bytes without leading slashes. Wherever one is given, a str will do as well: it
    stands for its UTF-8 form. It may be changed while it is served.
    """

    def __init__(self, files: _Files) -> None:
        self._files: dict[bytes, Content] = {}
        self._lock = Lock()
        for name, content in files.items():
            self[name] = content

    def __reduce__(self) -> tuple[type["Files"], tuple[_Files]]:
        """Another process gets the files as they are now; what it changes stays there."""
        with self._lock:
            return type(self), (dict(self._files),)

    def __getitem__(self, name: bytes | str) -> Content:
        return self._files[_key(name)]

    def __setitem__(self, name: bytes | str, content: Content) -> None:
        with self._lock:
            self._files[_key(name)] = content

    def __delitem__(self, name: bytes | str) -> None:
        with self._lock:
            del self._files[_key(name)]

    def __iter__(self) -> Iterator[bytes | str]:
        return iter(list(self._files))  # A list: an upload may come in between.

    def __len__(self) -> int:
        return len(self._files)

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self._files!r})"

    def add(self, name: bytes | str, data: bytes, *, overwrite: bool) -> None:
        """Put an upload under its name.

        Raises:
            Refused: something stands there that may not be replaced.
        """
        with self._lock:
            self.require_free(name, overwrite=overwrite)
            self._files[_key(name)] = data

    def require_free(self, name: bytes | str, *, overwrite: bool) -> None:
        """Fail if an upload may not take the name.

        Raises:
            Refused: something stands there that may not be replaced.
        """
        present = self._files.get(_key(name))
        if callable(present):
            raise Refused("not a regular file")
        if present is not None and not overwrite:
            raise Refused("file exists, and overwriting is not allowed", ErrorCode.FILE_EXISTS)


class Memory:
    """Files in memory, as a storage. Any number of threads may use it.

    Attributes:
        files: what is there, uploads included, once they are complete.

    Args:
        files: what is there at first; it is copied.
        writable: take uploads.
        overwrite: let an upload replace bytes; it never replaces a function.
    """

    def __init__(
        self,
        files: _Files | None = None,
        *,
        writable: bool = False,
        overwrite: bool = False,
    ) -> None:
        self.files = Files({} if files is None else files)
        self.writable = writable
        self.overwrite = overwrite

    def open_read(self, request: Request) -> Source:
        """Open a file for reading; later changes of `files` do not touch it.

        Raises:
            OSError: FileNotFoundError where there is none, or what a function raised.
            TFTPError: a function refused.
        """
        content = self.files.get(_wanted(request))
        if content is None:
            raise _error(errno.ENOENT)
        if not callable(content):
            return BytesSource(bytes(content))
        try:
            made = content(request)
        except OSError as error:
            number = _meant(error)
            if number is None:
                raise
            raise _error(number) from error
        if isinstance(made, bytes | bytearray | memoryview):
            return BytesSource(made)
        return from_file(made)

    def open_write(self, request: Request) -> "MemorySink":
        """Open a new file, which is put among `files` when it is committed.

        Raises:
            Refused: uploads are not taken, or something stands there that may not be replaced.
        """
        if not self.writable:
            raise Refused("server is read-only")
        name = _wanted(request)
        self.files.require_free(name, overwrite=self.overwrite)
        return MemorySink(self.files, name, overwrite=self.overwrite)


class MemorySink:
    """An upload on its way into memory.

    Args:
        files: where it goes.
        name: under which name.
        overwrite: let it replace other bytes.
    """

    __slots__ = ("_data", "_files", "_name", "_overwrite")

    def __init__(self, files: Files, name: bytes, *, overwrite: bool) -> None:
        self._files = files
        self._name = name
        self._overwrite = overwrite
        self._data: bytearray | None = bytearray()

    def write(self, chunks: Sequence[memoryview]) -> None:
        """Append the chunks in order.

        Raises:
            ValueError: the upload was committed or discarded before.
        """
        data = self._unfinished()
        for chunk in chunks:
            data += chunk

    def commit(self) -> None:
        """Put the file among the others.

        Raises:
            Refused: the name was taken meanwhile.
            ValueError: the upload was committed or discarded before.
        """
        data = bytes(self._unfinished())
        self._data = None
        self._files.add(self._name, data, overwrite=self._overwrite)

    def discard(self) -> None:
        """Forget it. After a commit, or a second time, there is nothing to do."""
        self._data = None

    def _unfinished(self) -> bytearray:
        if self._data is None:
            raise ValueError("the upload has ended")
        return self._data


_NUMBERS: dict[type[OSError], int] = {
    FileNotFoundError: errno.ENOENT,
    PermissionError: errno.EACCES,
    IsADirectoryError: errno.EISDIR,
    NotADirectoryError: errno.ENOTDIR,
}


def _meant(error: OSError) -> int | None:
    """The errno that an error raised by hand stands for, where it does not carry one.

    FileNotFoundError("text") and OSError(ENOSPC) do not, and would be answered as unknown failures.
    """
    if error.errno is not None:
        return None
    if len(error.args) == 1 and isinstance(error.args[0], int):
        return error.args[0]
    return next((number for kind, number in _NUMBERS.items() if isinstance(error, kind)), None)


def _key(name: bytes | str) -> bytes:
    if isinstance(name, str):
        name = name.encode("utf-8", "surrogateescape")
    return name.lstrip(b"/")


def _wanted(request: Request) -> bytes:
    name = _key(request.filename)
    if not name:
        raise Refused("empty file name", ErrorCode.FILE_NOT_FOUND)
    return name


def _error(number: int) -> OSError:
    return OSError(number, os.strerror(number))
