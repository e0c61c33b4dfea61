"""The errors of a transfer: who is at fault picks the class, and each carries the code to answer.

`DecodeError` and `ProtocolError` are the peer's fault on the wire, `PeerError` is the peer's own
ERROR packet, `Refused` is this side saying no, `TransferTimeout` is silence and `Aborted` is
somebody's decision. This module knows nothing of packets or sockets.
"""

import errno
from enum import IntEnum

__all__ = [
    "Aborted",
    "DecodeError",
    "ErrorCode",
    "PeerError",
    "ProtocolError",
    "Refused",
    "TFTPError",
    "TransferTimeout",
    "Unreachable",
    "code_for_errno",
]


class ErrorCode(IntEnum):
    """The error codes of RFC 1350 (0 to 7) and RFC 2347 (8)."""

    UNDEFINED = 0
    FILE_NOT_FOUND = 1
    ACCESS_VIOLATION = 2
    DISK_FULL = 3
    ILLEGAL_OPERATION = 4
    UNKNOWN_TID = 5
    FILE_EXISTS = 6
    NO_SUCH_USER = 7
    OPTION_REFUSED = 8

    @property
    def text(self) -> str:
        """A short English text, for an ERROR packet that has nothing better to say."""
        return _TEXTS[self]


_TEXTS: dict[int, str] = {
    ErrorCode.UNDEFINED: "transfer failed",
    ErrorCode.FILE_NOT_FOUND: "file not found",
    ErrorCode.ACCESS_VIOLATION: "access denied",
    ErrorCode.DISK_FULL: "disk full or allocation exceeded",
    ErrorCode.ILLEGAL_OPERATION: "illegal TFTP operation",
    ErrorCode.UNKNOWN_TID: "unknown transfer ID",
    ErrorCode.FILE_EXISTS: "file already exists",
    ErrorCode.NO_SUCH_USER: "no such user",
    ErrorCode.OPTION_REFUSED: "option negotiation failed",
}
# A dict is several times as quick as an enumeration that is called.
_CODES: dict[int, ErrorCode] = {int(code): code for code in ErrorCode}


class TFTPError(Exception):
    """Why a transfer failed.

    Attributes:
        message: what happened, in words that may go to the peer (never a local path).
        code: the error code of the ERROR packet, sent or received. A peer may send any 16-bit
            number, so this is an `ErrorCode` where it is one of the nine, else a plain `int`.
    """

    default_code = ErrorCode.UNDEFINED

    def __init__(self, message: str = "", code: int | None = None) -> None:
        self.code: int = known_code(self.default_code if code is None else code)
        self.message = message or known_text(self.code)
        # One argument only: OSError, a base of TransferTimeout, takes two for errno and strerror.
        # `pickle` brings `code` back with the other attributes.
        super().__init__(self.message)

    def __str__(self) -> str:
        return self.message


class DecodeError(TFTPError, ValueError):
    """The bytes are no TFTP packet."""

    default_code = ErrorCode.ILLEGAL_OPERATION


class ProtocolError(TFTPError):
    """The peer sent a packet that is no answer to what came before it."""

    default_code = ErrorCode.ILLEGAL_OPERATION


class PeerError(TFTPError):
    """The peer ended the transfer with an ERROR packet; `code` and `message` are the peer's."""


class Refused(TFTPError):
    """This side says no: a rule, the storage or a limit stands against the request."""

    default_code = ErrorCode.ACCESS_VIOLATION

    @classmethod
    def because(cls, error: OSError) -> "Refused":
        """The refusal that stands for a failed system call, without the path that it names.

        People raise such errors by hand, too: `FileNotFoundError(name)`, `OSError(errno.ENOSPC)`.
        """
        number = _meant(error) if error.errno is None else error.errno
        refused = cls(_ERRNO_TEXTS.get(number or 0, ""), code_for_errno(number))
        refused.__cause__ = error
        return refused


class TransferTimeout(TFTPError, TimeoutError):
    """The peer has been silent for too long."""


class Unreachable(TFTPError, ConnectionError):
    """The network says that nobody can be reached at the peer's address and port."""


class Aborted(TFTPError):
    """The transfer was cancelled from this side."""


def known_code(code: int) -> int:
    """`code` as an `ErrorCode` where it is one."""
    return _CODES.get(code, code)


def known_text(code: int) -> str:
    """The standard text of an error code, or the number in words for one that no RFC defines."""
    return _TEXTS.get(code) or f"error code {code}"


# RFC 1350, appendix: the codes; everything that is not listed is "not defined".
_ERRNO_CODES = {
    errno.ENOENT: ErrorCode.FILE_NOT_FOUND,
    errno.ENOTDIR: ErrorCode.FILE_NOT_FOUND,
    errno.ENAMETOOLONG: ErrorCode.FILE_NOT_FOUND,
    errno.EACCES: ErrorCode.ACCESS_VIOLATION,
    errno.EPERM: ErrorCode.ACCESS_VIOLATION,
    errno.EROFS: ErrorCode.ACCESS_VIOLATION,
    errno.EISDIR: ErrorCode.ACCESS_VIOLATION,
    errno.ELOOP: ErrorCode.ACCESS_VIOLATION,
    errno.EXDEV: ErrorCode.ACCESS_VIOLATION,
    errno.ENOSPC: ErrorCode.DISK_FULL,
    errno.EDQUOT: ErrorCode.DISK_FULL,
    errno.EFBIG: ErrorCode.DISK_FULL,
    errno.EEXIST: ErrorCode.FILE_EXISTS,
}

_ERRNO_TEXTS = {
    errno.EISDIR: "not a regular file",
    errno.EROFS: "read-only file system",
    errno.ENAMETOOLONG: "file name too long",
    errno.EMFILE: "server out of file descriptors",
    errno.ENFILE: "server out of file descriptors",
    errno.EIO: "input/output error",
}

# What an `OSError` without a number means by its type alone.
_MEANT = {
    FileNotFoundError: errno.ENOENT,
    PermissionError: errno.EACCES,
    FileExistsError: errno.EEXIST,
    IsADirectoryError: errno.EISDIR,
    NotADirectoryError: errno.ENOTDIR,
}


def _meant(error: OSError) -> int | None:
    """The errno that an `OSError` without one stands for."""
    for kind, number in _MEANT.items():
        if isinstance(error, kind):
            return number
    match error.args:
        case (int(number),):
            return number
    return None


def code_for_errno(number: int | None) -> ErrorCode:
    """The error code to answer for a failed system call."""
    return _ERRNO_CODES.get(number or 0, ErrorCode.UNDEFINED)
