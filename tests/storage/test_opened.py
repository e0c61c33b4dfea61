"""Descriptors shared between readers; what a directory makes of them is in test_local.py."""

import contextlib
import copy
import os
import pickle
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from tftp.storage.opened import OpenFiles


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "file"
    path.write_bytes(b"content")
    os.utime(path, (1, 1))
    return path


@pytest.fixture
def opened() -> OpenFiles:
    return OpenFiles()


def share(opened: OpenFiles, path: Path) -> int:
    descriptor = os.open(path, os.O_RDONLY)
    return opened.share(descriptor, os.fstat(descriptor))


def is_open(descriptor: int) -> bool:
    with contextlib.suppress(OSError):
        os.fstat(descriptor)
        return True
    return False


def descriptors_of(path: Path) -> list[int]:
    """Those of this process by which a file is open."""
    status, found = path.stat(), []
    for entry in list(Path("/dev/fd").iterdir()):
        with contextlib.suppress(OSError):  # The one that listed them is gone.
            if os.path.samestat(os.fstat(int(entry.name)), status):
                found.append(int(entry.name))
    return found


def test_readers_of_one_file_share_one_descriptor(opened: OpenFiles, path: Path) -> None:
    first = share(opened, path)
    assert [share(opened, path) for _ in range(99)] == [first] * 99
    assert descriptors_of(path) == [first]


def test_the_last_reader_closes_the_file_and_no_other(opened: OpenFiles, path: Path) -> None:
    descriptor = share(opened, path)
    for _ in range(2):
        share(opened, path)
    for _ in range(2):
        opened.close(descriptor)
        assert is_open(descriptor)
    opened.close(descriptor)
    assert not is_open(descriptor)


def test_a_file_that_was_closed_is_opened_anew(opened: OpenFiles, path: Path) -> None:
    for _ in range(3):
        descriptor = share(opened, path)
        assert os.pread(descriptor, 100, 0) == b"content"
        opened.close(descriptor)
        assert descriptors_of(path) == []


def test_two_names_of_one_file_are_one_file(opened: OpenFiles, path: Path) -> None:
    other = path.with_name("other")
    other.hardlink_to(path)
    assert share(opened, path) == share(opened, other)


def test_files_that_look_alike_are_two(opened: OpenFiles, path: Path) -> None:
    other = path.with_name("other")
    other.write_bytes(path.read_bytes())
    os.utime(other, (1, 1))
    assert share(opened, path) != share(opened, other)


def write_more(path: Path) -> None:
    with path.open("ab") as file:
        file.write(b", and more")
    os.utime(path, (1, 1))


def write_again(path: Path) -> None:
    path.write_bytes(b"another")
    os.utime(path, (2, 2))


def give_to_others(path: Path) -> None:
    before = path.stat().st_ctime_ns
    while path.stat().st_ctime_ns == before:  # The clock of a file system may tick slowly.
        path.chmod(0o600)
        path.chmod(0o644)


@pytest.mark.parametrize("change", [write_more, write_again, give_to_others])
def test_a_file_that_changed_is_another_until_its_old_readers_are_gone(
    opened: OpenFiles, path: Path, change: Callable[[Path], None]
) -> None:
    old = share(opened, path)
    change(path)
    new = share(opened, path)
    assert new != old
    assert share(opened, path) == new
    opened.close(old)
    assert not is_open(old)
    assert share(opened, path) == new
    for _ in range(3):
        opened.close(new)
    assert not is_open(new)


def test_a_descriptor_belongs_to_the_process_that_opened_it(opened: OpenFiles, path: Path) -> None:
    descriptor = share(opened, path)
    for other in (pickle.loads(pickle.dumps(opened)), copy.deepcopy(opened)):  # noqa: S301
        mine = share(other, path)
        assert mine != descriptor
        other.close(mine)
    assert is_open(descriptor)
    opened.close(descriptor)


def test_threads_that_open_and_close_at_once_leave_nothing_open(
    opened: OpenFiles, path: Path
) -> None:
    together = threading.Barrier(8)
    failures: list[BaseException] = []

    def run() -> None:
        try:
            together.wait()
            for _ in range(500):
                descriptor = share(opened, path)
                assert os.pread(descriptor, 100, 0) == b"content"
                opened.close(descriptor)
        except BaseException as failure:
            failures.append(failure)

    threads = [threading.Thread(target=run) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failures
    assert descriptors_of(path) == []
    assert not opened._by_descriptor
    assert not opened._by_identity


def test_a_file_has_an_identity_for_others_while_others_read_it(
    opened: OpenFiles, path: Path
) -> None:
    descriptor = share(opened, path)
    assert opened.identity(descriptor) is None
    share(opened, path)
    identity = opened.identity(descriptor)
    assert identity is not None
    path.write_bytes(b"changed!")
    for _ in range(2):
        other = share(opened, path)
    assert other != descriptor
    assert opened.identity(other) not in (None, identity)
    assert opened.identity(descriptor) == identity
    opened.close(descriptor)
    assert opened.identity(descriptor) is None
    for left in (descriptor, other, other):
        opened.close(left)
