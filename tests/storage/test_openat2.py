"""Looking names up beneath a directory; what a server makes of it is in test_local.py."""

import errno
import os
import re
import sys
from pathlib import Path

import pytest

from tftp.storage import openat2
from tftp.storage.openat2 import is_available, open_beneath, walk

READ = os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC


def open_last(directory: int, name: bytes) -> int:
    return os.open(name, READ, dir_fd=directory)


def content(descriptor: int) -> bytes:
    with os.fdopen(descriptor, "rb") as file:
        return file.read()


@pytest.fixture
def root(tmp_path: Path) -> bytes:
    (tmp_path / "beside").write_bytes(b"beside")
    (tmp_path / "root" / "dir").mkdir(parents=True)
    (tmp_path / "root" / "dir" / "file").write_bytes(b"content")
    return os.fsencode(tmp_path / "root")


def test_the_kernel_stays_beneath_the_root(root: bytes) -> None:
    if not is_available():
        pytest.skip("this kernel has no openat2")
    assert content(open_beneath(root, [b"dir", b"file"], READ)) == b"content"
    with pytest.raises(OSError, match="cross-device") as caught:
        open_beneath(root, [b"dir", b"..", b"..", b"beside"], READ)
    assert caught.value.errno == errno.EXDEV


def test_a_kernel_that_has_openat2_is_found_to_have_it() -> None:
    status = Path("/proc/self/status")
    if not sys.platform.startswith("linux") or "Seccomp:\t0" not in status.read_text():
        pytest.skip("not Linux, or a filter may stand against it")
    major, minor = re.findall(r"\d+", os.uname().release)[:2]
    assert is_available() == ((int(major), int(minor)) >= (5, 6))


def test_a_kernel_without_openat2_is_said_to_be_one(
    root: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(openat2, "_kernel", lambda: None)
    assert not is_available()
    with pytest.raises(OSError, match="not implemented"):
        open_beneath(root, [b"dir", b"file"], READ)


def test_a_walk_stays_beneath_the_root(root: bytes) -> None:
    assert content(walk(root, [b"dir", b"..", b"dir", b"", b".", b"file"], open_last)) == b"content"
    with pytest.raises(OSError, match="cross-device") as caught:
        walk(root, [b"dir", b"..", b"..", b"beside"], open_last)
    assert caught.value.errno == errno.EXDEV


@pytest.mark.parametrize("names", [[], [b"."], [b"dir", b".."], [b"dir", b""]])
def test_a_walk_that_ends_in_a_directory_on_its_way_finds_no_file(
    root: bytes, names: list[bytes]
) -> None:
    with pytest.raises(IsADirectoryError):
        walk(root, names, open_last)


def test_a_walk_gives_up_after_forty_links(root: bytes) -> None:
    directory = Path(os.fsdecode(root))
    (directory / "link0").symlink_to("dir/file")
    for number in range(1, 41):
        (directory / f"link{number}").symlink_to(f"link{number - 1}")
    assert content(walk(root, [b"link39"], open_last)) == b"content"
    with pytest.raises(OSError, match="symbolic links") as caught:
        walk(root, [b"link40"], open_last)
    assert caught.value.errno == errno.ELOOP


def test_a_walk_goes_only_so_deep(root: bytes) -> None:
    # It holds a descriptor for each directory: a name must not use up all that a server has.
    deep = Path(os.fsdecode(root))
    for _ in range(130):
        deep /= "d"
    deep.mkdir(parents=True)
    before = len(list(Path("/dev/fd").iterdir()))
    with pytest.raises(OSError, match="too long") as caught:
        walk(root, [b"d"] * 130 + [b"file"], open_last)
    assert caught.value.errno == errno.ENAMETOOLONG
    assert len(list(Path("/dev/fd").iterdir())) == before


def test_names_may_be_spelled_otherwise_on_the_way(root: bytes) -> None:
    asked: list[bytes] = []

    def lower(directory: int, name: bytes) -> bytes:
        asked.append(name)
        return name.lower()

    assert content(walk(root, [b"DIR", b"File"], open_last, lower)) == b"content"
    assert asked == [b"DIR", b"File"]
