"""The errors of a transfer: their codes, their texts, and that they survive a process border."""

import copy
import errno
import os
import pickle
from pathlib import Path

import pytest

from tftp.errors import (
    Aborted,
    DecodeError,
    ErrorCode,
    PeerError,
    ProtocolError,
    Refused,
    TFTPError,
    TransferTimeout,
    Unreachable,
    code_for_errno,
)

FAMILY = (
    *(TFTPError, DecodeError, ProtocolError, PeerError),
    *(Refused, TransferTimeout, Unreachable, Aborted),
)


def test_the_codes_are_those_of_rfc_1350_and_rfc_2347() -> None:
    assert [(code.value, code.name) for code in ErrorCode] == [
        (0, "UNDEFINED"),
        (1, "FILE_NOT_FOUND"),
        (2, "ACCESS_VIOLATION"),
        (3, "DISK_FULL"),
        (4, "ILLEGAL_OPERATION"),
        (5, "UNKNOWN_TID"),
        (6, "FILE_EXISTS"),
        (7, "NO_SUCH_USER"),
        (8, "OPTION_REFUSED"),
    ]


def test_every_code_has_a_text_of_its_own_that_fits_an_error_packet() -> None:
    texts = [code.text for code in ErrorCode]
    assert len(set(texts)) == len(ErrorCode)
    assert all(text.isascii() and text.isprintable() and text for text in texts)


@pytest.mark.parametrize(
    ("kind", "code"),
    [
        (TFTPError, 0),
        (DecodeError, 4),
        (ProtocolError, 4),
        (PeerError, 0),
        (Refused, 2),
        (TransferTimeout, 0),
        (Unreachable, 0),
        (Aborted, 0),
    ],
)
def test_each_error_has_the_code_to_answer(kind: type[TFTPError], code: int) -> None:
    error = kind("because")
    assert error.code is ErrorCode(code)
    assert error.message == str(error) == "because"


@pytest.mark.parametrize("kind", FAMILY)
def test_an_error_can_carry_another_code(kind: type[TFTPError]) -> None:
    assert kind("full", 3).code is ErrorCode.DISK_FULL
    assert kind("fine", 0).code is ErrorCode.UNDEFINED


def test_an_error_without_a_message_says_what_its_code_means() -> None:
    assert str(Refused()) == "access denied"
    assert str(PeerError(code=1)) == "file not found"


@pytest.mark.parametrize("code", [9, 4242, 65535])
def test_a_peer_s_code_that_no_rfc_defines_is_kept_as_a_number(code: int) -> None:
    error = PeerError("", code)
    assert error.code == code
    assert not isinstance(error.code, ErrorCode)
    assert str(error) == f"error code {code}"


def test_who_knows_no_tftp_can_catch_by_the_builtin_kind() -> None:
    with pytest.raises(ValueError, match="no packet"):
        raise DecodeError("no packet")
    with pytest.raises(TimeoutError, match="silence"):
        raise TransferTimeout("silence")
    with pytest.raises(ConnectionError, match="nobody"):
        raise Unreachable("nobody there")


@pytest.mark.parametrize("kind", [TransferTimeout, Unreachable])
def test_silence_is_not_dressed_as_a_failed_system_call(
    kind: type[TransferTimeout | Unreachable],
) -> None:
    error = kind("no answer for 20 s", 0)
    assert (error.errno, error.strerror, error.filename) == (None, None, None)


@pytest.mark.parametrize("kind", FAMILY)
@pytest.mark.parametrize("arguments", [(), ("why",), ("why", 3), ("why", 4242), ("", 6)])
def test_errors_cross_a_process_border(kind: type[TFTPError], arguments: tuple[str, int]) -> None:
    error = kind(*arguments)
    for other in (pickle.loads(pickle.dumps(error)), copy.copy(error)):  # noqa: S301
        assert type(other) is kind
        assert (other.code, other.message, str(other)) == (error.code, error.message, str(error))
        assert type(other.code) is type(error.code)


@pytest.mark.parametrize(
    ("number", "code"),
    [
        (errno.ENOENT, 1),
        (errno.ENOTDIR, 1),
        (errno.ENAMETOOLONG, 1),
        (errno.EACCES, 2),
        (errno.EPERM, 2),
        (errno.EROFS, 2),
        (errno.EISDIR, 2),
        (errno.ELOOP, 2),
        (errno.EXDEV, 2),
        (errno.ENOSPC, 3),
        (errno.EDQUOT, 3),
        (errno.EFBIG, 3),
        (errno.EEXIST, 6),
        (errno.EIO, 0),
        (errno.EMFILE, 0),
        (errno.EINVAL, 0),
        (None, 0),
    ],
)
def test_a_failed_system_call_has_one_code(number: int | None, code: int) -> None:
    assert code_for_errno(number) is ErrorCode(code)


@pytest.mark.parametrize("number", sorted(errno.errorcode))
def test_a_refusal_never_names_a_local_path(number: int) -> None:
    failure = OSError(number, os.strerror(number), "/srv/tftp/secret", None, "/srv/other")
    refusal = Refused.because(failure)
    assert refusal.message
    assert "/" not in refusal.message.replace("input/output", "")
    assert refusal.code is code_for_errno(number)


def test_a_refusal_says_more_than_its_code_where_that_helps() -> None:
    assert str(Refused.because(OSError(errno.EROFS, "x"))) == "read-only file system"
    assert str(Refused.because(OSError(errno.EIO, "x"))) == "input/output error"
    assert str(Refused.because(OSError(errno.EACCES, "x"))) == "access denied"


def test_a_refusal_for_a_failure_without_a_number_is_not_defined() -> None:
    refusal = Refused.because(OSError("the library says only this"))
    assert (refusal.code, str(refusal)) == (ErrorCode.UNDEFINED, "transfer failed")


@pytest.mark.parametrize(
    ("raised", "code"),
    [
        (FileNotFoundError("boot/x"), 1),
        (NotADirectoryError(), 1),
        (PermissionError("no"), 2),
        (IsADirectoryError("boot"), 2),
        (FileExistsError("boot/x"), 6),
        (OSError(errno.ENOSPC), 3),
        (TimeoutError("the back end sleeps"), 0),
        (OSError(), 0),
    ],
    ids=repr,
)
def test_a_failure_that_a_person_raised_by_hand_is_understood(raised: OSError, code: int) -> None:
    refusal = Refused.because(raised)
    assert refusal.code is ErrorCode(code)
    assert "boot" not in str(refusal)
    assert refusal.__cause__ is raised


def test_real_failures_of_the_file_system_are_told_apart(tmp_path: Path) -> None:
    (tmp_path / "file").touch()

    def refusal(name: str, mode: str) -> Refused:
        with pytest.raises(OSError) as caught:  # noqa: PT011  (which one it is, is the test)
            (tmp_path / name).open(mode).close()
        return Refused.because(caught.value)

    assert refusal("missing", "rb").code is ErrorCode.FILE_NOT_FOUND
    assert refusal("file/below", "rb").code is ErrorCode.FILE_NOT_FOUND
    assert refusal("x" * 300, "rb").message == "file name too long"
    assert refusal("file", "xb").code is ErrorCode.FILE_EXISTS
    assert refusal(".", "wb").message == "not a regular file"
