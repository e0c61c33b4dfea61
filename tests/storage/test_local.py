"""A directory as a storage, on real file systems."""

import contextlib
import errno
import itertools
import os
import pickle
import signal
import socket
import stat
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TypeVar

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tftp.errors import ErrorCode, Refused, TFTPError
from tftp.events import Operation, Request
from tftp.storage import local, openat2
from tftp.storage.adapters import BytesSource
from tftp.storage.local import Directory, LocalSource
from tftp.storage.writeback import start_writing

SECRET = b"nobody may read this"
# So much is not read at once: its reader keeps it open.
LARGE = local._SMALL + 1
DAY = 86400.0

_Result = TypeVar("_Result")


def reading(name: bytes) -> Request:
    return Request(operation=Operation.READ, filename=name)


def writing(name: bytes, **options: str) -> Request:
    return Request(operation=Operation.WRITE, filename=name, options=options)


def read(source: LocalSource | BytesSource) -> bytes:
    try:
        data = bytearray(source.size + 1)
        got = source.read_into([memoryview(data)], 0)
        assert got == source.size
        return bytes(data[:got])
    finally:
        source.close()


def fetch(directory: Directory, name: bytes) -> bytes:
    return read(directory.open_read(reading(name)))


def store(directory: Directory, name: bytes, data: bytes, **options: str) -> None:
    sink = directory.open_write(writing(name, **options))
    try:
        sink.write([memoryview(data)])
        sink.commit()
    finally:
        sink.discard()


def code_of(error: OSError | TFTPError) -> int:
    """The code that a session answers."""
    return error.code if isinstance(error, TFTPError) else Refused.because(error).code


def answer(call: Callable[[], _Result]) -> tuple[_Result | None, int | None]:
    """What a call returns, or the code that a client gets where it fails."""
    try:
        return call(), None
    except (OSError, TFTPError) as error:
        return None, code_of(error)


def refusal(call: Callable[[], object]) -> tuple[int, str]:
    """The code and the text that a client gets for a call that fails."""
    with pytest.raises((OSError, TFTPError)) as caught:
        call()
    if isinstance(caught.value, OSError):
        return code_of(caught.value), Refused.because(caught.value).message
    assert isinstance(caught.value, Refused)
    return caught.value.code, caught.value.message


def open_descriptors() -> int:
    return len(names_in(Path("/dev/fd")))


def names_in(directory: Path) -> list[str]:
    return sorted(entry.name for entry in directory.iterdir())


@contextlib.contextmanager
def looking_up(way: str) -> Iterator[None]:
    """Let names be looked up by the kernel, or by hand."""
    with pytest.MonkeyPatch.context() as patch:
        if way == "by hand":
            patch.setattr(openat2, "_kernel", lambda: None)
        elif not openat2.is_available():
            pytest.skip("this kernel has no openat2")
        yield


@pytest.fixture(params=["by the kernel", "by hand"])
def lookup(request: pytest.FixtureRequest) -> Iterator[str]:
    with looking_up(request.param):
        yield request.param


@pytest.fixture(params=["nameless", "named"])
def temporaries(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    if request.param == "named":
        monkeypatch.setattr(local, "_NAMELESS", 0)
    elif not local._NAMELESS:
        pytest.skip("this system has no files without a name")
    return str(request.param)


def build_tree(parent: Path) -> Path:
    root = parent / "tftp"
    (root / "dir" / "deep").mkdir(parents=True)
    (root / "boot.cfg").write_bytes(b"boot")
    (root / "dir" / "inner").write_bytes(b"inner")
    (root / "dir" / "deep" / "file").write_bytes(b"deep")
    (root / "foo..bar").write_bytes(b"dots")
    (root / "...").write_bytes(b"three dots")
    (root / r"back\slash").write_bytes(b"backslash")
    (parent / "secret").write_bytes(SECRET)
    (parent / "tftp-secret").mkdir()
    (parent / "tftp-secret" / "file").write_bytes(SECRET)
    links = {
        "inside": "dir/inner",
        "dirlink": "dir",
        "dir/back": "../boot.cfg",
        "dir/deep/back": "../../dirlink/deep/../inner",
        "chain": "dir/back",
        "absolute": str(root / "dir" / "inner"),
        "absolute-dir": str(root / "dir"),
        "out": "../secret",
        "out-dir": "../tftp-secret",
        "out-chain": "out",
        "out-absolute": str(parent / "secret"),
        "out-sibling": str(parent / "tftp-secret" / "file"),
        "out-hidden": str(root / ".." / "secret"),
        "dir/out": "../../secret",
        "parent": "..",
        "slash": "/",
        "root": str(root),
        "device-link": "/dev/zero",
        "loop": "loop",
        "dangling": "not there",
        "trailing": "boot.cfg/",
    }
    for name, target in links.items():
        (root / name).symlink_to(target)
    os.mkfifo(root / "fifo")
    return root


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return build_tree(tmp_path)


@pytest.fixture(scope="module")
def shared_root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_tree(tmp_path_factory.mktemp("shared"))


# --- Names -------------------------------------------------------------------------------------


@pytest.mark.usefixtures("lookup")
@pytest.mark.parametrize(
    ("name", "content"),
    [
        (b"boot.cfg", b"boot"),
        (b"/boot.cfg", b"boot"),
        (b"//boot.cfg", b"boot"),
        (b"./boot.cfg", b"boot"),
        (b"/.//./boot.cfg", b"boot"),
        (b"dir/inner", b"inner"),
        (b"/dir//./inner", b"inner"),
        (b"dir/deep/file", b"deep"),
        (b"dir/../boot.cfg", b"boot"),
        (b"missing/../boot.cfg", b"boot"),
        (b"foo..bar", b"dots"),
        (b"...", b"three dots"),
        (rb"back\slash", b"backslash"),
        (b"inside", b"inner"),
        (b"dirlink/inner", b"inner"),
        (b"dirlink/deep/file", b"deep"),
        (b"dir/back", b"boot"),
        (b"dir/deep/back", b"inner"),
        (b"chain", b"boot"),
        (b"absolute", b"inner"),
        (b"absolute-dir/inner", b"inner"),
        (b"absolute-dir/deep/back", b"inner"),
        (b"root/boot.cfg", b"boot"),
    ],
)
def test_a_name_that_stays_inside_is_served(shared_root: Path, name: bytes, content: bytes) -> None:
    assert fetch(Directory(shared_root), name) == content


@pytest.mark.usefixtures("lookup")
@pytest.mark.parametrize(
    ("name", "code", "words"),
    [
        (b"../secret", 2, "leaves"),
        (b"/../secret", 2, "leaves"),
        (b"dir/../../secret", 2, "leaves"),
        (b"dir/../../tftp/boot.cfg", 2, "leaves"),
        (b"..", 2, "leaves"),
        (b"../tftp-secret/file", 2, "leaves"),
        (b"..//secret", 2, "leaves"),
        (b"out", 2, "leaves"),
        (b"out-chain", 2, "leaves"),
        (b"out-absolute", 2, "leaves"),
        (b"out-sibling", 2, "leaves"),
        (b"out-hidden", 2, "leaves"),
        (b"out-dir/file", 2, "leaves"),
        (b"dir/out", 2, "leaves"),
        (b"dirlink/out", 2, "leaves"),
        (b"parent/secret", 2, "leaves"),
        (b"slash/etc/passwd", 2, "leaves"),
        (b"device-link", 2, "leaves"),
        (b"-secret/file", 1, "not found"),
        (b"....//secret", 1, "not found"),
        (rb"..\secret", 1, "not found"),
        (b"%2e%2e/secret", 1, "not found"),
        (b"missing", 1, "not found"),
        (b"missing/file", 1, "not found"),
        (b"dir/missing", 1, "not found"),
        (b"boot.cfg/file", 1, "not found"),
        (b"dangling", 1, "not found"),
        (b"trailing", 1, "not found"),
        (b"loop", 2, "denied"),
        (b"dir/../loop/file", 2, "denied"),
        (b"", 1, "empty"),
        (b".", 2, "regular"),
        (b"/", 2, "regular"),
        (b"dir", 2, "regular"),
        (b"dirlink", 2, "regular"),
        (b"root", 2, "regular"),
        (b"dir/deep", 2, "regular"),
        (b"dir/", 2, "regular"),
        (b"dir/..", 2, "regular"),
        (b"fifo", 2, "regular"),
        (b"dir/../fifo", 2, "regular"),
        (b"boot\0.cfg", 2, "NUL"),
        (b"\0", 2, "NUL"),
        (b"x" * 256, 1, "too long"),
        (b"dir/" + b"x" * 256, 1, "too long"),
        (b"x/" * 2500 + b"x", 1, ""),
    ],
)
def test_a_hostile_or_hopeless_name_is_refused(
    shared_root: Path, name: bytes, code: int, words: str
) -> None:
    before = open_descriptors()
    answered, text = refusal(lambda: fetch(Directory(shared_root), name))
    assert answered == code
    assert words in text
    assert str(shared_root.parent) not in text
    assert open_descriptors() <= before


@pytest.mark.usefixtures("lookup")
@pytest.mark.parametrize("name", [b"socket", b"dir/socket"])
def test_a_socket_is_refused(
    root: Path, name: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(root)  # The path of a socket has to be short.
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(os.fsdecode(name))
        assert refusal(lambda: fetch(Directory(root), name)) == (2, "not a regular file")


@pytest.mark.usefixtures("lookup")
@pytest.mark.parametrize("name", [b"zero", b"dir/zero"])
def test_a_device_is_refused(root: Path, name: bytes) -> None:
    try:
        os.mknod(os.fsencode(root) + b"/" + name, stat.S_IFCHR | 0o666, os.makedev(1, 5))
    except PermissionError:
        pytest.skip("only root can make a device")
    assert refusal(lambda: fetch(Directory(root), name))[0] == 2


def test_the_open_of_a_fifo_waits_for_nobody(root: Path) -> None:
    # The writer of this FIFO never comes: a blocking open would hang until the test's timeout.
    assert refusal(lambda: fetch(Directory(root), b"fifo")) == (2, "not a regular file")
    writer = Directory(root, writable=True, overwrite=True)
    assert refusal(lambda: store(writer, b"fifo", b"")) == (2, "not a regular file")


@pytest.mark.usefixtures("lookup")
@pytest.mark.parametrize("name", [b"pxelinux.0\xff\xd1\x333*G", b"caf\xe9", "Größe".encode()])
def test_names_are_octets_of_any_kind(tmp_path: Path, name: bytes) -> None:
    directory = Directory(tmp_path, writable=True)
    (tmp_path / "sub").mkdir()
    for path in (name, b"sub/" + name):
        store(directory, path, b"content of " + path)
        assert fetch(directory, path) == b"content of " + path
    assert os.fsdecode(name) in names_in(tmp_path)


COMPONENTS = st.sampled_from(
    b"..|.||...|boot.cfg|tftp|tftp-secret|secret|file|inner|dir|deep|back|dirlink|absolute-dir|out|"
    b"out-dir|parent|slash|root|chain|out-chain|loop|fifo|dangling|DIR|OUT".split(b"|")
)
NAMES = st.one_of(
    st.lists(COMPONENTS, min_size=1, max_size=7).map(b"/".join),
    st.lists(COMPONENTS | st.binary(max_size=5), min_size=1, max_size=7).map(b"/".join),
    st.binary(max_size=40),
)
INSIDE = {b"boot", b"inner", b"deep", b"dots", b"three dots", b"backslash"}


@pytest.mark.parametrize("way", ["by the kernel", "by hand"])
@pytest.mark.parametrize("ignore_case", [False, True])
def test_no_name_reads_what_is_outside(shared_root: Path, way: str, ignore_case: bool) -> None:
    directory = Directory(shared_root, ignore_case=ignore_case)
    before = open_descriptors()

    @settings(max_examples=300, deadline=None)
    @given(NAMES)
    def check(name: bytes) -> None:
        content, code = answer(lambda: fetch(directory, name))
        assert content in INSIDE or code in (ErrorCode.FILE_NOT_FOUND, ErrorCode.ACCESS_VIOLATION)
        assert open_descriptors() <= before

    with looking_up(way):
        check()


@given(NAMES)
@settings(max_examples=200, deadline=None)
def test_both_ways_of_looking_up_agree(shared_root: Path, name: bytes) -> None:
    answers = []
    for way in ("by the kernel", "by hand"):
        with looking_up(way):
            answers.append(answer(lambda: fetch(Directory(shared_root), name)))
    assert answers[0] == answers[1]


def outside(parent: Path) -> dict[str, bytes | None]:
    """All that lies beside the root, and what it holds."""
    return {
        str(path): path.read_bytes() if path.is_file() else None
        for path in parent.rglob("*")
        if parent / "tftp" not in (path, *path.parents)
    }


def test_no_name_writes_what_is_outside(tmp_path_factory: pytest.TempPathFactory) -> None:
    root = build_tree(tmp_path_factory.mktemp("uploads"))
    directory = Directory(root, writable=True, overwrite=True)
    before, descriptors = outside(root.parent), open_descriptors()

    @settings(max_examples=200, deadline=None)
    @given(NAMES)
    def check(name: bytes) -> None:
        _, code = answer(lambda: store(directory, name, b"uploaded"))
        if code is None:
            assert fetch(directory, name) == b"uploaded"
        else:
            assert code in (ErrorCode.FILE_NOT_FOUND, ErrorCode.ACCESS_VIOLATION)
        assert outside(root.parent) == before
        assert open_descriptors() == descriptors

    check()


@contextlib.contextmanager
def flipping(flip: Callable[[int], None]) -> Iterator[None]:
    """Run `flip` over and over in a thread; its error, if any, comes up at the end."""
    done = threading.Event()
    failures: list[BaseException] = []

    def run() -> None:
        turn = 0
        try:
            while not done.is_set():
                flip(turn)
                turn += 1
        except BaseException as failure:
            failures.append(failure)

    thread = threading.Thread(target=run)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()
    assert not failures


def link_flipper(path: Path, targets: tuple[str, str]) -> Callable[[int], None]:
    """Make a link point to one target and the other in turn, each time in one step."""
    spare = path.with_name("spare")

    def flip(turn: int) -> None:
        spare.symlink_to(targets[turn % 2])
        spare.replace(path)

    return flip


def file_flipper(path: Path, target: str) -> Callable[[int], None]:
    """Make a file a link and a file again, each time in one step."""
    spare = path.with_name("spare")

    def flip(turn: int) -> None:
        if turn % 2:
            spare.write_bytes(b"inside")
        else:
            spare.symlink_to(target)
        spare.replace(path)

    return flip


def directory_flipper(path: Path, link: Path) -> Callable[[int], None]:
    """Put a link in a directory's place and the directory back, with a gap in between."""
    spare = path.with_name("spare")

    def flip(turn: int) -> None:
        if turn % 2:
            path.rename(link)
            spare.rename(path)
        else:
            path.rename(spare)
            link.rename(path)

    return flip


RACES = ["file and link", "link and link", "directory and link"]
# What may be missing for a moment: only a directory cannot be swapped with a link in one step.
GAPS: dict[str, set[int | None]] = {
    "file and link": set(),
    "link and link": set(),
    "directory and link": {errno.ENOENT, errno.ENOTDIR},
}


def race(kind: str, parent: Path) -> tuple[bytes, Callable[[int], None]]:
    """A tree, a name in it, and what keeps changing where that leads: inside and outside."""
    root, beside = parent / "tftp", parent / "outside"
    for place, content in ((root / "real", b"inside"), (beside, SECRET)):
        place.mkdir(parents=True)
        (place / "file").write_bytes(content)
    match kind:
        case "file and link":
            (root / "file").write_bytes(b"inside")
            return b"file", file_flipper(root / "file", "../outside/file")
        case "link and link":
            (root / "place").symlink_to("real")
            return b"place/file", link_flipper(root / "place", ("../outside", "real"))
        case _:
            (root / "link").symlink_to("../outside")
            return b"real/file", directory_flipper(root / "real", root / "link")


def attempts(seconds: float = 30.0) -> Iterator[None]:
    """Go on until the test has seen both ways, however rarely a busy machine runs the flipper."""
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        yield


@pytest.mark.usefixtures("lookup")
@pytest.mark.parametrize("kind", RACES)
def test_a_link_swapped_during_the_open_leads_nowhere_outside(tmp_path: Path, kind: str) -> None:
    name, flip = race(kind, tmp_path)
    directory = Directory(tmp_path / "tftp")
    served = refused = 0
    missed = set()
    before = open_descriptors()
    with flipping(flip):
        for _ in attempts():
            try:
                assert fetch(directory, name) in (b"inside", b"")  # Empty: not yet written.
                served += 1
            except Refused:
                refused += 1
            except OSError as error:
                missed.add(error.errno)
            if min(served, refused) >= 300:
                break
    assert served
    assert refused
    assert missed <= GAPS[kind]
    assert open_descriptors() <= before


@pytest.mark.parametrize("kind", RACES)
def test_a_link_swapped_during_an_upload_leads_nowhere_outside(tmp_path: Path, kind: str) -> None:
    name, flip = race(kind, tmp_path)
    directory = Directory(tmp_path / "tftp", writable=True, overwrite=True)
    stored = refused = 0
    missed = set()
    before = open_descriptors()
    with flipping(flip):
        for _ in attempts():
            try:
                store(directory, name, b"inside")
                stored += 1
            except Refused:
                refused += 1
            except OSError as error:
                missed.add(error.errno)
            if min(stored, refused) >= 20:
                break
    assert stored
    assert refused
    assert missed <= GAPS[kind]
    assert names_in(tmp_path / "outside") == ["file"]
    assert (tmp_path / "outside" / "file").read_bytes() == SECRET
    assert open_descriptors() <= before


# --- The root ----------------------------------------------------------------------------------


def test_a_root_that_cannot_be_served_is_named_before_the_start(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    Directory(tmp_path).check()
    with pytest.raises(FileNotFoundError, match="missing"):
        Directory(tmp_path / "missing").check()
    with pytest.raises(NotADirectoryError, match="file"):
        Directory(tmp_path / "file").check()


def test_making_a_directory_touches_no_disk(tmp_path: Path) -> None:
    directory = Directory(tmp_path / "later", writable=True)
    assert refusal(lambda: fetch(directory, b"file"))[0] == ErrorCode.FILE_NOT_FOUND
    assert refusal(lambda: store(directory, b"file", b""))[0] == ErrorCode.FILE_NOT_FOUND
    (tmp_path / "later").mkdir()
    store(directory, b"file", b"now")
    assert fetch(directory, b"file") == b"now"


@pytest.mark.usefixtures("lookup")
def test_a_root_replaced_by_a_rename_is_served_from_then_on(tmp_path: Path) -> None:
    for version in ("old", "new"):
        (tmp_path / version / "sub").mkdir(parents=True)
        (tmp_path / version / "file").write_text(version)
        (tmp_path / version / "sub" / "file").write_text(version)
    directory = Directory(tmp_path / "root")
    (tmp_path / "old").rename(tmp_path / "root")
    assert fetch(directory, b"file") + fetch(directory, b"sub/file") == b"oldold"
    (tmp_path / "root").rename(tmp_path / "old")
    (tmp_path / "new").rename(tmp_path / "root")
    assert fetch(directory, b"file") + fetch(directory, b"sub/file") == b"newnew"


@pytest.mark.usefixtures("lookup")
def test_the_root_may_itself_be_a_link(root: Path, tmp_path: Path) -> None:
    (tmp_path / "alias").symlink_to(root)
    (root / "by-alias").symlink_to(tmp_path / "alias" / "boot.cfg")
    directory = Directory(tmp_path / "alias", writable=True)
    directory.check()
    assert fetch(directory, b"boot.cfg") == b"boot"
    assert fetch(directory, b"absolute") == b"inner"
    assert fetch(directory, b"by-alias") == b"boot"
    assert refusal(lambda: fetch(directory, b"out"))[0] == 2
    store(directory, b"dir/new", b"new")
    assert (root / "dir" / "new").read_bytes() == b"new"


def test_a_relative_root_stays_where_it_was(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(root.parent)
    directory = Directory("tftp")
    monkeypatch.chdir("/")
    assert fetch(directory, b"boot.cfg") == b"boot"


@pytest.mark.usefixtures("lookup")
def test_the_whole_file_system_can_be_the_root(root: Path) -> None:
    directory = Directory("/")
    assert fetch(directory, os.fsencode(root / "boot.cfg")) == b"boot"
    assert fetch(directory, os.fsencode(root / "absolute")) == b"inner"
    assert refusal(lambda: fetch(directory, b"dev/null")) == (2, "not a regular file")


# --- Letter case -------------------------------------------------------------------------------


@pytest.mark.usefixtures("lookup")
def test_case_matters_unless_told_otherwise(root: Path) -> None:
    for name in (b"BOOT.CFG", b"Dir/Inner", b"DIRLINK/inner"):
        assert refusal(lambda name=name: fetch(Directory(root), name))[0] == 1  # type: ignore[misc]


@pytest.mark.usefixtures("lookup")
@pytest.mark.parametrize(
    ("name", "content"),
    [
        (b"boot.cfg", b"boot"),
        (b"BOOT.CFG", b"boot"),
        (b"DIR/INNER", b"inner"),
        (b"dir/INNER", b"inner"),
        (b"DirLink/Deep/FILE", b"deep"),
        (b"ABSOLUTE-DIR/inner", b"inner"),
        (b"DIR/../INSIDE", b"inner"),
    ],
)
def test_case_is_ignored_in_every_component(shared_root: Path, name: bytes, content: bytes) -> None:
    assert fetch(Directory(shared_root, ignore_case=True), name) == content


@pytest.mark.usefixtures("lookup")
@pytest.mark.parametrize("name", [b"OUT", b"Out-Dir/File", b"PARENT/secret", b"DIR/OUT"])
def test_ignoring_case_leads_nowhere_outside(shared_root: Path, name: bytes) -> None:
    assert refusal(lambda: fetch(Directory(shared_root, ignore_case=True), name))[0] == 2


def test_of_several_names_the_exact_one_is_taken_or_the_first_in_byte_order(tmp_path: Path) -> None:
    for name in (b"b", b"a", b"B", b"A", b"aA", b"Aa", b"\xc3\xa9", b"x\xff"):
        (tmp_path / os.fsdecode(name)).write_bytes(name)
    directory = Directory(tmp_path, ignore_case=True)
    assert [fetch(directory, name) for name in (b"a", b"A", b"b", b"B")] == [b"a", b"A", b"b", b"B"]
    assert fetch(directory, b"AA") == fetch(directory, b"aa") == b"Aa"
    assert fetch(directory, "É".encode()) == "é".encode()
    assert fetch(directory, b"X\xff") == b"x\xff"
    assert refusal(lambda: fetch(directory, b"c"))[0] == 1
    assert refusal(lambda: fetch(directory, b"c/d"))[0] == 1


def test_case_counts_in_a_directory_too_large_to_list(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(local, "_MAX_ENTRIES", 10)
    directory = Directory(tmp_path, ignore_case=True)
    for number in range(10):
        (tmp_path / f"file{number}").touch()
    assert fetch(directory, b"FILE3") == b""
    (tmp_path / "one-more").touch()
    assert refusal(lambda: fetch(directory, b"FILE3"))[0] == 1
    assert fetch(directory, b"file3") == b""


def test_an_upload_in_another_case_is_of_the_same_file(tmp_path: Path) -> None:
    (tmp_path / "Configs").mkdir()
    (tmp_path / "Configs" / "Router").write_bytes(b"old")
    directory = Directory(tmp_path, writable=True, ignore_case=True)
    assert refusal(lambda: store(directory, b"configs/router", b"new"))[0] == ErrorCode.FILE_EXISTS
    directory = Directory(tmp_path, writable=True, overwrite=True, ignore_case=True)
    store(directory, b"CONFIGS/ROUTER", b"new")
    store(directory, b"CONFIGS/Switch", b"another")
    assert names_in(tmp_path / "Configs") == ["Router", "Switch"]
    assert (tmp_path / "Configs" / "Router").read_bytes() == b"new"


# --- Reading -----------------------------------------------------------------------------------


@pytest.fixture(params=["preadv", "pread"])
def vectors(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    if request.param == "pread":
        monkeypatch.setattr(local, "_preadv", local._pread_first)
    elif local._preadv is local._pread_first:
        pytest.skip("this system has no preadv")


@pytest.mark.usefixtures("vectors")
@pytest.mark.parametrize(
    "size", [0, 1, 511, 512, 513, 4095, 4096, 4097, LARGE, 20 * 512, 20 * 512 + 1]
)
def test_slots_are_filled_in_order_up_to_the_end(tmp_path: Path, size: int) -> None:
    content = os.urandom(size)
    (tmp_path / "file").write_bytes(content)
    source = Directory(tmp_path).open_read(reading(b"file"))
    assert source.size == size
    for offset in (0, 512, 300, size, size + 1, 0):
        window = bytearray(b"\xaa" * 4 * 512)
        slots = [memoryview(window)[start : start + 512] for start in range(0, len(window), 512)]
        expected = content[offset : offset + len(window)]
        assert source.read_into(slots, offset) == len(expected)
        assert window == expected + b"\xaa" * (len(window) - len(expected))
    source.close()


@pytest.mark.usefixtures("vectors")
def test_a_window_may_have_more_slots_than_a_system_call_takes(tmp_path: Path) -> None:
    content = os.urandom(3000 * 8)
    (tmp_path / "file").write_bytes(content)
    source = Directory(tmp_path).open_read(reading(b"file"))
    window = bytearray(4000 * 8)
    slots = [memoryview(window)[start : start + 8] for start in range(0, len(window), 8)]
    assert source.read_into(slots, 0) == len(content)
    assert window[: len(content)] == content
    source.close()


@pytest.mark.usefixtures("vectors")
def test_offsets_above_4_gib_are_exact(tmp_path: Path) -> None:
    size = (5 << 30) + 3
    with (tmp_path / "huge").open("wb") as file:
        for mark in (0, (1 << 32) - 2, size - 3):
            file.seek(mark)
            file.write(b"abc")
    source = Directory(tmp_path).open_read(reading(b"huge"))
    assert source.size == size
    slot = bytearray(8)
    assert source.read_into([memoryview(slot)], (1 << 32) - 4) == 8
    assert slot == b"\0\0abc\0\0\0"
    assert source.read_into([memoryview(slot)], size - 4) == 4
    assert slot[:4] == b"\0abc"
    source.close()


@pytest.mark.usefixtures("vectors")
def test_a_file_that_is_cut_while_it_is_served_is_an_error(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"x" * 8192)
    source = Directory(tmp_path).open_read(reading(b"file"))
    slots = [memoryview(bytearray(512)) for _ in range(16)]
    os.truncate(path, 1000)
    assert source.read_into(slots[:1], 0) == 512
    code, text = refusal(lambda: source.read_into(slots, 0))
    assert code == ErrorCode.UNDEFINED
    assert "changed" in text
    assert refusal(lambda: source.read_into(slots[:1], 8192 - 512))[0] == ErrorCode.UNDEFINED
    source.close()


def test_a_file_rewritten_in_place_while_it_is_served_is_an_error(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"old" * 2000)
    os.utime(path, (1, 1))
    source = Directory(tmp_path).open_read(reading(b"file"))
    slot = memoryview(bytearray(3000))
    assert source.read_into([slot], 0) == 3000
    path.write_bytes(b"new" * 2000)
    assert refusal(lambda: source.read_into([slot], 3000))[0] == ErrorCode.UNDEFINED
    source.close()


@pytest.mark.parametrize("change", ["cut", "rewritten", "grown", "removed"])
def test_a_small_file_is_served_as_it_was_when_it_was_opened(tmp_path: Path, change: str) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"old" * 1000)
    before = open_descriptors()
    source = Directory(tmp_path).open_read(reading(b"file"))
    assert open_descriptors() <= before
    match change:
        case "cut":
            os.truncate(path, 10)
        case "rewritten":
            path.write_bytes(b"new" * 1000)
        case "grown":
            path.write_bytes(b"old" * 2000)
        case "removed":
            path.unlink()
    assert read(source) == b"old" * 1000


def test_a_small_file_of_another_size_than_it_says_is_not_taken_for_whole() -> None:
    # A file of /sys says that it is a page long, and holds a line.
    path = Path("/sys/kernel/mm/transparent_hugepage/enabled")
    if not path.is_file() or path.stat().st_size != local._SMALL:
        pytest.skip("this system has no such file")
    source = Directory(path.parent).open_read(reading(os.fsencode(path.name)))
    assert source.size == local._SMALL
    assert refusal(lambda: read(source))[0] == ErrorCode.UNDEFINED


def test_a_file_that_grows_is_served_as_it_was(tmp_path: Path) -> None:
    path = tmp_path / "log"
    path.write_bytes(b"first" * 1000)
    os.utime(path, (1, 1))
    source = Directory(tmp_path).open_read(reading(b"log"))
    with path.open("ab") as file:
        file.write(b", second")
    assert source.size == 5000
    assert read(source) == b"first" * 1000


def test_a_file_replaced_while_it_is_served_stays_the_old_one(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"old" * LARGE)
    directory = Directory(tmp_path, writable=True, overwrite=True)
    source = directory.open_read(reading(b"file"))
    store(directory, b"file", b"new" * LARGE)
    assert read(source) == b"old" * LARGE
    source = directory.open_read(reading(b"file"))
    path.unlink()
    assert read(source) == b"new" * LARGE


def test_a_source_is_closed_once_however_often_it_is_told(root: Path) -> None:
    (root / "boot.cfg").write_bytes(bytes(LARGE))
    before = open_descriptors()
    source = Directory(root).open_read(reading(b"boot.cfg"))
    assert open_descriptors() <= before + 1
    source.close()
    source.close()
    assert open_descriptors() <= before


# --- Many readers of one file ------------------------------------------------------------------


def descriptors_of(path: Path) -> int:
    """How many descriptors of this process lead to a file."""
    status, count = path.stat(), 0
    for entry in names_in(Path("/dev/fd")):
        with contextlib.suppress(OSError):
            count += os.path.samestat(os.fstat(int(entry)), status)
    return count


@pytest.mark.usefixtures("lookup")
@pytest.mark.parametrize("ignore_case", [False, True])
@pytest.mark.parametrize(("size", "needed"), [(LARGE, 1), (local._SMALL, 0)])
def test_a_thousand_readers_of_one_file_need_one_descriptor(
    root: Path, ignore_case: bool, size: int, needed: int
) -> None:
    content = os.urandom(size)
    (root / "dir" / "inner").write_bytes(content)
    directory = Directory(root, ignore_case=ignore_case)
    names = [b"dir/inner", b"/dir//inner", b"inside", b"dirlink/inner", b"absolute"]
    names += [b"DIR/INNER", b"Inside"] if ignore_case else []
    before = open_descriptors()
    sources = [directory.open_read(reading(names[turn % len(names)])) for turn in range(1000)]
    assert open_descriptors() <= before + needed
    assert descriptors_of(root / "dir" / "inner") == needed
    for source in sources:
        assert read(source) == content  # Which closes it.
    assert descriptors_of(root / "dir" / "inner") == 0


def test_closing_a_source_twice_does_not_close_that_of_another_reader(root: Path) -> None:
    (root / "boot.cfg").write_bytes(b"boot" * LARGE)
    directory = Directory(root)
    mine, other = (directory.open_read(reading(b"boot.cfg")) for _ in range(2))
    mine.close()
    mine.close()
    with pytest.raises(OSError, match="descriptor"):
        mine.read_into([memoryview(bytearray(4))], 0)
    assert read(other) == b"boot" * LARGE


def test_readers_of_one_file_do_not_move_one_another(tmp_path: Path) -> None:
    content = os.urandom(100 * 512)
    (tmp_path / "file").write_bytes(content)
    directory = Directory(tmp_path)
    sources = [directory.open_read(reading(b"file")) for _ in range(3)]
    received = [bytearray(), bytearray(), bytearray()]
    for block in range(100):
        for number, source in enumerate(sources):
            slot = bytearray(512)
            offset = (block + 30 * number) % 100 * 512
            assert source.read_into([memoryview(slot)], offset) == 512
            received[number] += slot
    for number, source in enumerate(sources):
        start = 30 * number * 512
        assert received[number] == content[start:] + content[:start]
        source.close()


@pytest.mark.usefixtures("lookup")
@pytest.mark.parametrize("name", [b"file", b"sub/file"])
def test_new_readers_get_the_new_file_and_old_ones_the_old(tmp_path: Path, name: bytes) -> None:
    (tmp_path / "sub").mkdir()
    directory = Directory(tmp_path, writable=True, overwrite=True)
    before = open_descriptors()
    versions = [b"version %d" % number * LARGE for number in range(5)]
    readers = []
    for version in versions:
        # As long as the last, and written in the same moment: only its inode is another.
        store(directory, name, version)
        readers.append([directory.open_read(reading(name)) for _ in range(3)])
    assert open_descriptors() <= before + len(versions)
    for version, sources in zip(versions, readers, strict=True):
        assert [read(source) for source in sources] == [version] * 3
    assert open_descriptors() <= before


@pytest.mark.usefixtures("lookup")
def test_a_link_that_is_changed_leads_new_readers_to_its_new_file(root: Path) -> None:
    directory = Directory(root)
    with contextlib.ExitStack() as held:
        for target, content in (("boot.cfg", b"boot" * LARGE), ("dir/inner", b"inner" * LARGE)):
            (root / target).write_bytes(content)
            (root / "spare").symlink_to(target)
            (root / "spare").replace(root / "current")
            held.callback(directory.open_read(reading(b"current")).close)
            assert fetch(directory, b"current") == content
        (root / "spare").symlink_to("../secret")
        (root / "spare").replace(root / "current")
        assert refusal(lambda: fetch(directory, b"current"))[0] == ErrorCode.ACCESS_VIOLATION


@pytest.mark.usefixtures("lookup")
def test_a_file_that_is_open_is_not_thereby_found_by_a_name_that_leads_outside(root: Path) -> None:
    # The very file, by a way through the outside, or with a second name there.
    (root / "dir" / "inner").unlink()
    (root.parent / "secret").write_bytes(SECRET * LARGE)
    (root / "dir" / "inner").hardlink_to(root.parent / "secret")
    directory = Directory(root)
    held = directory.open_read(reading(b"dir/inner"))
    for name in (b"parent/tftp/dir/inner", b"out", b"out-absolute", b"dir/out", b"parent/secret"):
        assert refusal(lambda name=name: fetch(directory, name))[0] == 2  # type: ignore[misc]
    held.close()


@pytest.mark.usefixtures("lookup")
@pytest.mark.parametrize("name", [b"file", b"sub/file"])
def test_a_file_that_is_removed_frees_its_space_with_its_last_reader(
    tmp_path: Path, name: bytes
) -> None:
    (tmp_path / "sub").mkdir()
    path = tmp_path / os.fsdecode(name)
    path.write_bytes(b"content" * LARGE)
    directory = Directory(tmp_path)
    before = open_descriptors()
    sources = [directory.open_read(reading(name)) for _ in range(3)]
    path.unlink()
    assert refusal(lambda: fetch(directory, name))[0] == ErrorCode.FILE_NOT_FOUND
    assert [read(source) for source in sources] == [b"content" * LARGE] * 3
    assert open_descriptors() <= before


def test_a_file_that_grew_is_served_whole_to_new_readers_and_as_it_was_to_old_ones(
    tmp_path: Path,
) -> None:
    path = tmp_path / "log"
    path.write_bytes(b"first" * LARGE)
    directory = Directory(tmp_path)
    old = directory.open_read(reading(b"log"))
    with path.open("ab") as file:
        file.write(b", second")
    new = directory.open_read(reading(b"log"))
    assert read(old) == b"first" * LARGE
    assert read(new) == b"first" * LARGE + b", second"


def test_a_file_that_was_cut_fails_its_old_readers_and_none_of_the_new(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"x" * 8192)
    directory = Directory(tmp_path)
    old = [directory.open_read(reading(b"file")) for _ in range(2)]
    os.truncate(path, 1000)
    assert fetch(directory, b"file") == b"x" * 1000
    for source in old:
        assert refusal(lambda source=source: read(source))[0] == 0  # type: ignore[misc]


def test_a_directory_with_open_files_can_go_to_another_process(root: Path) -> None:
    (root / "boot.cfg").write_bytes(b"boot" * LARGE)
    directory = Directory(root, ignore_case=True)
    source = directory.open_read(reading(b"boot.cfg"))
    other = pickle.loads(pickle.dumps(directory))  # noqa: S301
    assert fetch(other, b"BOOT.cfg") == b"boot" * LARGE
    assert read(source) == b"boot" * LARGE


def test_readers_in_many_threads_share_a_file_that_keeps_being_replaced(tmp_path: Path) -> None:
    directory = Directory(tmp_path, writable=True, overwrite=True, durable=False)
    contents = [bytes([number]) * LARGE for number in range(4)]
    store(directory, b"file", contents[0])
    before = open_descriptors()
    together = threading.Barrier(5)
    failures: list[BaseException] = []

    def run(task: Callable[[int], None]) -> None:
        try:
            together.wait()
            for turn in range(300):
                task(turn)
        except BaseException as failure:
            failures.append(failure)

    def look(_: int) -> None:
        sources = [directory.open_read(reading(b"file")) for _ in range(3)]
        for source in sources:
            assert read(source) in contents

    def replace(turn: int) -> None:
        store(directory, b"file", contents[turn % 4])

    threads = [threading.Thread(target=run, args=(task,)) for task in (look,) * 4 + (replace,)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failures
    assert open_descriptors() <= before


# --- Uploads -----------------------------------------------------------------------------------


def everything(root: Path) -> dict[str, bytes]:
    """All the files of a tree, hidden ones included."""
    return {
        str(path.relative_to(root)): path.read_bytes() for path in root.rglob("*") if path.is_file()
    }


@pytest.mark.usefixtures("temporaries")
def test_an_upload_appears_whole_when_it_is_committed(tmp_path: Path) -> None:
    (tmp_path / "sub").mkdir()
    directory = Directory(tmp_path, writable=True)
    for name in (b"new", b"/sub/new"):
        before = everything(tmp_path)
        sink = directory.open_write(writing(name))
        sink.write([memoryview(b"one, "), memoryview(b""), memoryview(b"two, ")])
        sink.write([memoryview(b"three")])
        assert refusal(lambda name=name: fetch(directory, name))[0] == 1  # type: ignore[misc]
        sink.commit()
        sink.discard()
        after = everything(tmp_path)
        assert {key: after[key] for key in after.keys() - before.keys()} == {
            name.lstrip(b"/").decode(): b"one, two, three"
        }


@pytest.mark.usefixtures("temporaries")
def test_a_discarded_upload_leaves_nothing_and_keeps_the_old_file(tmp_path: Path) -> None:
    (tmp_path / "old").write_bytes(b"old")
    directory = Directory(tmp_path, writable=True, overwrite=True)
    before = open_descriptors()
    for name in (b"old", b"new"):
        sink = directory.open_write(writing(name))
        sink.write([memoryview(b"half of")])
        sink.discard()
        sink.discard()
        with pytest.raises(ValueError, match="ended"):
            sink.commit()
        with pytest.raises(OSError, match="descriptor"):
            sink.write([memoryview(b"more")])
    assert everything(tmp_path) == {"old": b"old"}
    assert open_descriptors() <= before


@pytest.mark.usefixtures("temporaries")
def test_an_upload_of_many_chunks_is_written_in_order(tmp_path: Path) -> None:
    content = os.urandom(3000 * 16)
    chunks = [memoryview(content)[start : start + 16] for start in range(0, len(content), 16)]
    sink = Directory(tmp_path, writable=True).open_write(writing(b"file"))
    sink.write(chunks)
    sink.write([])
    sink.commit()
    assert everything(tmp_path) == {"file": content}


@pytest.mark.usefixtures("temporaries")
def test_an_empty_upload_makes_an_empty_file(tmp_path: Path) -> None:
    Directory(tmp_path, writable=True).open_write(writing(b"file", tsize="0")).commit()
    assert everything(tmp_path) == {"file": b""}


def test_a_read_only_server_says_so(root: Path) -> None:
    before = everything(root)
    for name in (b"new", b"boot.cfg", b"missing/new", b"../out", b""):
        answer = refusal(lambda name=name: store(Directory(root), name, b""))  # type: ignore[misc]
        assert answer == (2, "server is read-only")
    assert everything(root) == before


@pytest.mark.usefixtures("temporaries")
def test_a_file_that_exists_is_kept_unless_overwriting_is_allowed(root: Path) -> None:
    directory = Directory(root, writable=True)
    before = everything(root)
    for name in (b"boot.cfg", b"dir/inner", b"inside", b"dirlink/inner", b"dangling", b"out"):
        code, text = refusal(lambda name=name: store(directory, name, b"new"))  # type: ignore[misc]
        assert code == ErrorCode.FILE_EXISTS
        assert "overwriting is not allowed" in text
    assert everything(root) == before


@pytest.mark.usefixtures("temporaries")
def test_a_name_taken_during_an_upload_is_kept_too(tmp_path: Path) -> None:
    directory = Directory(tmp_path, writable=True)
    sinks = [directory.open_write(writing(b"file")) for _ in range(2)]
    for number, sink in enumerate(sinks):
        sink.write([memoryview(b"upload %d" % number)])
    sinks[1].commit()
    assert refusal(sinks[0].commit)[0] == ErrorCode.FILE_EXISTS
    sinks[0].discard()
    assert everything(tmp_path) == {"file": b"upload 1"}


@pytest.mark.usefixtures("temporaries")
def test_of_two_uploads_that_may_overwrite_the_last_commit_stays(tmp_path: Path) -> None:
    directory = Directory(tmp_path, writable=True, overwrite=True)
    sinks = [directory.open_write(writing(b"file")) for _ in range(2)]
    for part in (b"first ", b"second"):
        for number, sink in enumerate(sinks):
            sink.write([memoryview(b"%s of %d, " % (part, number))])
    sinks[1].commit()
    assert fetch(directory, b"file") == b"first  of 1, second of 1, "
    sinks[0].commit()
    assert everything(tmp_path) == {"file": b"first  of 0, second of 0, "}


@pytest.mark.usefixtures("temporaries")
@pytest.mark.parametrize("overwrite", [False, True])
def test_uploads_of_one_name_from_many_threads_never_mix(tmp_path: Path, overwrite: bool) -> None:
    directory = Directory(tmp_path, writable=True, overwrite=overwrite)
    together = threading.Barrier(8)
    codes: list[int] = []

    def upload(number: int) -> None:
        sink = directory.open_write(writing(b"file"))
        sink.write([memoryview(bytes([number]) * 5000)])
        together.wait()
        try:
            sink.commit()
        except Refused as error:
            codes.append(error.code)

    threads = [threading.Thread(target=upload, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert codes == ([] if overwrite else [ErrorCode.FILE_EXISTS] * 7)
    [(name, content)] = everything(tmp_path).items()
    assert name == "file"
    assert content == content[:1] * 5000


@pytest.mark.usefixtures("temporaries")
def test_overwriting_follows_a_link_that_stays_inside(root: Path) -> None:
    directory = Directory(root, writable=True, overwrite=True)
    for link, target in (
        (b"inside", "dir/inner"),
        (b"chain", "boot.cfg"),
        (b"absolute", "dir/inner"),
        (b"dangling", "not there"),
    ):
        store(directory, link, b"by " + link)
        assert (root / os.fsdecode(link)).is_symlink()
        assert not (root / target).is_symlink()
        assert (root / target).read_bytes() == b"by " + link


@pytest.mark.usefixtures("temporaries")
@pytest.mark.parametrize(
    ("name", "code", "words"),
    [
        (b"../new", 2, "leaves"),
        (b"out", 2, "leaves"),
        (b"out-absolute", 2, "leaves"),
        (b"out-dir/file", 2, "leaves"),
        (b"out-dir/new", 2, "leaves"),
        (b"parent/new", 2, "leaves"),
        (b"device-link", 2, "leaves"),
        (b"dir", 2, "regular"),
        (b"dirlink", 2, "regular"),
        (b"dir/", 2, "regular"),
        (b"new/", 2, "regular"),
        (b".", 2, "regular"),
        (b"fifo", 2, "regular"),
        (b"loop", 2, "denied"),
        (b"", 1, "empty"),
        (b"new\0", 2, "NUL"),
        (b"missing/new", 1, "not found"),
        (b"boot.cfg/new", 1, "not found"),
        (b"x" * 256, 1, "too long"),
    ],
)
def test_an_upload_goes_nowhere_but_to_regular_files_inside(
    root: Path, name: bytes, code: int, words: str
) -> None:
    before = everything(root.parent), open_descriptors()
    for overwrite in (True, False):
        directory = Directory(root, writable=True, overwrite=overwrite)
        answered, text = refusal(lambda: store(directory, name, b"new"))  # noqa: B023
        if overwrite or answered != ErrorCode.FILE_EXISTS:
            assert answered == code
            assert words in text
    assert (everything(root.parent), open_descriptors()) == before


@pytest.mark.usefixtures("temporaries")
def test_what_took_the_name_during_an_upload_is_replaced_only_if_it_is_a_file_or_a_link(
    root: Path,
) -> None:
    directory = Directory(root, writable=True, overwrite=True)
    for name in ("link", "directory", "pipe"):
        sink = directory.open_write(writing(name.encode()))
        sink.write([memoryview(b"new")])
        match name:
            case "link":
                (root / name).symlink_to("../secret")
                sink.commit()
                assert (root / name).read_bytes() == b"new"
                continue
            case "directory":
                (root / name).mkdir()
            case "pipe":
                os.mkfifo(root / name)
        assert refusal(sink.commit) == (2, "not a regular file")
    assert (root.parent / "secret").read_bytes() == SECRET
    assert not [name for name in names_in(root) if name.startswith(".t")]


@pytest.mark.usefixtures("temporaries")
def test_permissions_are_those_of_the_old_file_or_of_the_umask(tmp_path: Path) -> None:
    directory = Directory(tmp_path, writable=True, overwrite=True)
    old = tmp_path / "old"
    old.touch()
    old.chmod(0o640)
    umask = os.umask(0o027)
    try:
        store(directory, b"old", b"new content")
        store(directory, b"new", b"")
    finally:
        os.umask(umask)
    assert stat.S_IMODE(old.stat().st_mode) == 0o640
    assert old.read_bytes() == b"new content"
    assert stat.S_IMODE((tmp_path / "new").stat().st_mode) == 0o640
    old.chmod(0o604)
    store(directory, b"old", b"newer content")
    assert stat.S_IMODE(old.stat().st_mode) == 0o604


@pytest.mark.usefixtures("temporaries")
@pytest.mark.parametrize("replaced", [False, True])
def test_the_file_is_on_the_disk_before_its_name_and_the_name_before_the_ack(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, replaced: bool
) -> None:
    path = tmp_path / "file"
    if replaced:
        path.write_bytes(b"old")
    seen: list[tuple[bool, bytes | None]] = []
    fsync = os.fsync

    def watched(descriptor: int) -> None:
        fsync(descriptor)
        is_directory = stat.S_ISDIR(os.fstat(descriptor).st_mode)
        seen.append((is_directory, path.read_bytes() if path.exists() else None))

    monkeypatch.setattr(os, "fsync", watched)
    store(Directory(tmp_path, writable=True, overwrite=replaced), b"file", b"new")
    assert seen == [(False, b"old" if replaced else None), (True, b"new")]


class Starts:
    """Watches, or refuses, the calls that have data written early."""

    def __init__(self, *, refuses: bool = False) -> None:
        self.refuses = refuses
        self.ranges: list[tuple[int, int]] = []

    def __call__(self, descriptor: int, offset: int, count: int) -> bool:
        assert os.fstat(descriptor).st_size >= offset + count
        self.ranges.append((offset, offset + count))
        return not self.refuses and start_writing(descriptor, offset, count)


def upload(directory: Directory, chunk: int, total: int) -> bytes:
    """Store random octets, a chunk at a time."""
    content = os.urandom(total)
    sink = directory.open_write(writing(b"file"))
    for start in range(0, total, chunk):
        sink.write([memoryview(content)[start : start + chunk]])
    sink.commit()
    return content


@pytest.mark.usefixtures("temporaries")
@pytest.mark.parametrize("chunk", [1428, 64 * 1428, local._PIECE, 700_000])
def test_a_large_upload_starts_on_its_way_to_the_disk_in_whole_pieces_while_it_comes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, chunk: int
) -> None:
    if not sys.platform.startswith("linux"):
        pytest.skip("only Linux has sync_file_range")
    starts = Starts()
    monkeypatch.setattr(local, "start_writing", starts)
    content = upload(Directory(tmp_path, writable=True), chunk, 2_000_000)
    assert everything(tmp_path) == {"file": content}
    edges = [0, *(end for _, end in starts.ranges)]
    assert starts.ranges == list(itertools.pairwise(edges))
    assert not any(edge % local._PIECE for edge in edges)
    assert edges[-1] == 2_000_000 // local._PIECE * local._PIECE


def test_an_upload_that_need_not_be_on_the_disk_is_not_hurried_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    starts = Starts()
    monkeypatch.setattr(local, "start_writing", starts)
    content = upload(Directory(tmp_path, writable=True, durable=False), 1428, 1_000_000)
    assert everything(tmp_path) == {"file": content}
    assert not starts.ranges


def test_where_data_cannot_be_written_early_that_is_asked_once_in_an_upload(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    starts = Starts(refuses=True)
    monkeypatch.setattr(local, "start_writing", starts)
    content = upload(Directory(tmp_path, writable=True), 1428, 1_000_000)
    assert everything(tmp_path) == {"file": content}
    assert starts.ranges == [(0, local._PIECE)]


@pytest.mark.usefixtures("temporaries")
def test_a_size_above_the_limit_is_refused_at_once_and_while_writing(tmp_path: Path) -> None:
    directory = Directory(tmp_path, writable=True, max_size=1000)
    code, text = refusal(lambda: store(directory, b"file", b"", tsize="1001"))
    assert code == ErrorCode.DISK_FULL
    assert "1000" in text
    sink = directory.open_write(writing(b"file", TSIZE="1000"))
    sink.write([memoryview(bytes(600))])
    code, text = refusal(lambda: sink.write([memoryview(bytes(400)), memoryview(b"x")]))
    assert code == ErrorCode.DISK_FULL
    assert "1000" in text
    sink.discard()
    assert everything(tmp_path) == {}
    store(directory, b"file", bytes(1000), tsize="1000")
    assert everything(tmp_path) == {"file": bytes(1000)}


def test_a_declared_size_is_checked_against_the_free_space(tmp_path: Path) -> None:
    directory = Directory(tmp_path, writable=True)
    before = open_descriptors()
    code, text = refusal(lambda: directory.open_write(writing(b"file", tsize=str(2**62))))
    assert code == ErrorCode.DISK_FULL
    assert "free space" in text
    assert everything(tmp_path) == {}
    assert open_descriptors() <= before


@pytest.mark.parametrize("text", ["", "-1", "many", "1e9", "²", "9" * 5000])
def test_a_declared_size_that_is_no_size_is_ignored(tmp_path: Path, text: str) -> None:
    store(Directory(tmp_path, writable=True, max_size=10), b"file", b"x", tsize=text)
    assert everything(tmp_path) == {"file": b"x"}


# --- Names of unfinished uploads ---------------------------------------------------------------


@pytest.mark.parametrize("ignore_case", [False, True])
def test_an_unfinished_upload_is_for_nobody_to_read_or_write(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, ignore_case: bool
) -> None:
    monkeypatch.setattr(local, "_NAMELESS", 0)
    (tmp_path / "sub").mkdir()
    directory = Directory(tmp_path, writable=True, overwrite=True, ignore_case=ignore_case)
    sink = directory.open_write(writing(b"sub/file"))
    sink.write([memoryview(b"half")])
    [temporary] = map(os.fsencode, names_in(tmp_path / "sub"))
    assert temporary != b"file"
    for name in (b"sub/" + temporary, b"sub/" + temporary.upper(), b"/sub//./" + temporary):
        for call in (fetch, lambda directory, name: store(directory, name, b"")):
            code, text = refusal(lambda: call(directory, name))  # noqa: B023
            assert code == ErrorCode.ACCESS_VIOLATION
            assert "reserved" in text
    # A Kelvin sign is not a "k", but folds to one.
    kelvin = b"sub/" + temporary.replace(b"k", "\N{KELVIN SIGN}".encode())
    assert refusal(lambda: fetch(directory, kelvin))[0] == ErrorCode.FILE_NOT_FOUND
    sink.commit()
    assert everything(tmp_path) == {"sub/file": b"half"}


def test_a_sweep_removes_old_unfinished_uploads_and_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(local, "_NAMELESS", 0)
    (tmp_path / "sub").mkdir()
    (tmp_path / "beside").mkdir()
    root = tmp_path / "root"
    (root / "sub").mkdir(parents=True)
    (root / "out").symlink_to("../beside")
    directory = Directory(root, writable=True)
    now = time.time()
    abandoned = [directory.open_write(writing(name)) for name in (b"one", b"sub/two")]
    for path in root.rglob(".*"):
        os.utime(path, (now - 2 * DAY, now - 2 * DAY))
        (tmp_path / "beside" / path.name).touch()
        os.utime(tmp_path / "beside" / path.name, (1, 1))
    (root / "old").touch()
    os.utime(root / "old", (1, 1))
    (root / ".tftpkit-upload-directory").mkdir()
    live = directory.open_write(writing(b"live"))
    assert directory.sweep(now - DAY) == 2
    assert directory.sweep(now - DAY) == 0
    live.commit()
    assert sorted(everything(root)) == ["live", "old"]
    assert len(names_in(tmp_path / "beside")) == 2
    for sink in abandoned:
        sink.discard()


# --- Other processes: limits, filters, full disks and kills ------------------------------------


def run_python(code: str, *arguments: object, prefix: tuple[str, ...] = ()) -> None:
    """Run a script of asserts in a process of its own."""
    command = [*prefix, sys.executable, "-c", code, *map(str, arguments)]
    done = subprocess.run(
        command, env=environment(), capture_output=True, text=True, timeout=30, check=False
    )
    assert done.returncode == 0, done.stderr


def environment() -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": str(Path(local.__file__).parents[2])}


PRELUDE = """
import errno, os, sys, time
from tftp.errors import Refused
from tftp.events import Operation, Request
from tftp.storage import Directory, local

def write(name, **options):
    return Request(operation=Operation.WRITE, filename=name, options=options)

def store(directory, name, data, **options):
    sink = directory.open_write(write(name, **options))
    sink.write([memoryview(data)])
    sink.commit()

def code(call):
    try:
        call()
    except Refused as error:
        return int(error.code)
    except OSError as error:
        return int(Refused.because(error).code)

root = sys.argv[1]
if sys.argv[2:] == ["named"]:
    local._NAMELESS = 0
"""


def test_a_killed_server_leaves_nothing_of_an_upload(tmp_path: Path, temporaries: str) -> None:
    (tmp_path / "old").write_bytes(b"old")
    script = PRELUDE + (
        "sinks = [Directory(root, writable=True, overwrite=True).open_write(write(name))\n"
        "         for name in (b'old', b'new')]\n"
        "for sink in sinks:\n"
        "    sink.write([memoryview(bytes(100_000))])\n"
        "print('half way', flush=True)\n"
        "sys.stdin.read()\n"
    )
    server = subprocess.Popen(
        [sys.executable, "-c", script, str(tmp_path), temporaries],
        env=environment(),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    with server:
        assert server.stdout is not None
        assert server.stdout.readline() == b"half way\n"
        server.kill()
        assert server.wait() == -signal.SIGKILL
    if temporaries == "named":
        # Where a file has to have a name, it is a reserved one, and a sweep removes it.
        assert len(everything(tmp_path)) == 3
        assert Directory(tmp_path).sweep(time.time() + 1) == 2
    assert everything(tmp_path) == {"old": b"old"}


def test_a_write_that_a_limit_cuts_short_is_error_3(tmp_path: Path, temporaries: str) -> None:
    script = PRELUDE + (
        "import resource\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, 10_000))\n"
        "directory = Directory(root, writable=True)\n"
        "sink = directory.open_write(write(b'file'))\n"
        "assert code(lambda: sink.write([memoryview(bytes(4000))] * 3)) == 3\n"
        "sink.discard()\n"
        "assert os.listdir(root) == []\n"
        "store(directory, b'file', bytes(10_000))\n"
    )
    run_python(script, tmp_path, temporaries)
    assert everything(tmp_path) == {"file": bytes(10_000)}


def test_a_full_disk_is_error_3_and_keeps_the_old_file(tmp_path: Path, temporaries: str) -> None:
    private = ("unshare", "--mount") + (() if os.geteuid() == 0 else ("--map-root-user",))
    mount = ("sh", "-c", 'mount -t tmpfs -o size=256k tmpfs "$0" && exec "$@"', str(tmp_path))
    probe = subprocess.run([*private, *mount, "true"], capture_output=True, text=True, check=False)
    if probe.returncode:
        pytest.skip(f"no mount namespace of our own: {probe.stderr.strip()}")
    script = PRELUDE + (
        "directory = Directory(root, writable=True, overwrite=True)\n"
        "store(directory, b'old', b'old')\n"
        "assert code(lambda: directory.open_write(write(b'old', tsize='1000000'))) == 3\n"
        "sink = directory.open_write(write(b'old'))\n"
        "def fill():\n"
        "    for _ in range(1000):\n"
        "        sink.write([memoryview(bytes(1000))] * 10)\n"
        "try:\n"
        "    fill()\n"
        "except OSError as error:\n"
        "    assert error.errno == errno.ENOSPC\n"
        "    assert Refused.because(error).code == 3\n"
        "else:\n"
        "    sys.exit('the disk did not fill')\n"
        "sink.discard()\n"
        "assert os.listdir(root) == ['old']\n"
        "assert open(root + '/old', 'rb').read() == b'old'\n"
        "store(directory, b'old', bytes(200_000), tsize='200000')\n"
        "assert os.stat(root + '/old').st_size == 200_000\n"
        "assert os.listdir(root) == ['old']\n"
    )
    run_python(script, tmp_path, temporaries, prefix=(*private, *mount))


def test_what_the_server_may_not_do_is_error_2(tmp_path: Path, temporaries: str) -> None:
    # Root without its capabilities is a user like any other.
    prefix: tuple[str, ...] = ()
    if os.geteuid() == 0:
        prefix = ("setpriv", "--bounding-set=-all", "--inh-caps=-all")
        probe = subprocess.run([*prefix, "true"], capture_output=True, text=True, check=False)
        if probe.returncode:
            pytest.skip(f"cannot drop capabilities: {probe.stderr.strip()}")
    (tmp_path / "closed").mkdir()
    (tmp_path / "closed" / "file").touch()
    (tmp_path / "fixed").mkdir()
    (tmp_path / "read-only").write_bytes(b"old" * LARGE)
    (tmp_path / "unreadable").write_bytes(b"old")
    script = PRELUDE + (
        "os.chmod(root + '/closed', 0)\n"
        "os.chmod(root + '/fixed', 0o555)\n"
        "os.chmod(root + '/read-only', 0o444)\n"
        "os.chmod(root + '/unreadable', 0)\n"
        "directory = Directory(root, writable=True, overwrite=True)\n"
        "for name in (b'closed/file', b'fixed/new', b'read-only', b'unreadable'):\n"
        "    assert code(lambda: store(directory, name, b'new')) == 2, name\n"
        "for name in (b'closed/file', b'unreadable'):\n"
        "    request = Request(operation=Operation.READ, filename=name)\n"
        "    assert code(lambda: directory.open_read(request)) == 2, name\n"
        "request = Request(operation=Operation.READ, filename=b'read-only')\n"
        "held = directory.open_read(request)\n"
        "assert held.size > local._SMALL\n"
        "os.chmod(root + '/read-only', 0)\n"
        "assert code(lambda: directory.open_read(request)) == 2\n"
        "os.chmod(root, 0)\n"
        "try:\n"
        "    directory.check()\n"
        "except PermissionError as error:\n"
        "    assert error.filename == root\n"
        "else:\n"
        "    sys.exit('a closed root was found good')\n"
    )
    try:
        run_python(script, tmp_path, temporaries, prefix=prefix)
    finally:
        tmp_path.chmod(0o700)
        (tmp_path / "closed").chmod(0o700)
        (tmp_path / "read-only").chmod(0o400)
    assert (tmp_path / "read-only").read_bytes() == b"old" * LARGE


# A seccomp filter: load the number of the system call, answer EPERM if it is the one, else allow.
FORBID = """
import ctypes, struct

def forbid(number):
    program = struct.pack(
        "=HBBIHBBIHBBIHBBI",
        0x20, 0, 0, 0, 0x15, 0, 1, number, 0x06, 0, 0, 0x50000 | errno.EPERM, 0x06, 0, 0, 0x7FFF0000
    )
    code = ctypes.create_string_buffer(program, len(program))
    prctl = ctypes.CDLL(None, use_errno=True).prctl
    assert prctl(38, 1, 0, 0, 0) == 0
    assert prctl(22, 2, struct.pack("@HP", 4, ctypes.addressof(code)), 0, 0) == 0
"""


def require_seccomp() -> None:
    if not sys.platform.startswith("linux"):
        pytest.skip("only Linux has seccomp")


@pytest.mark.parametrize("when", ["before the first lookup", "later"])
def test_a_filter_against_openat2_changes_nothing(root: Path, when: str) -> None:
    require_seccomp()
    script = PRELUDE + FORBID
    fetches = (
        "def fetch(name):\n"
        "    request = Request(operation=Operation.READ, filename=name)\n"
        "    source = Directory(root).open_read(request)\n"
        "    data = bytearray(source.size)\n"
        "    source.read_into([memoryview(data)], 0)\n"
        "    return data\n"
        "assert fetch(b'dir/inner') == fetch(b'dirlink/inner') == b'inner'\n"
    )
    parts = ["forbid(437)\n", fetches]
    if when == "later":
        parts.insert(0, fetches)
    script += "".join(parts) + "assert code(lambda: fetch(b'dir/out')) == 2\n"
    run_python(script, root)


def test_a_filter_against_writing_early_changes_nothing(tmp_path: Path) -> None:
    require_seccomp()
    number = {"x86_64": 277, "aarch64": 84}.get(os.uname().machine)
    if number is None:
        pytest.skip("the number of sync_file_range is not known here")
    script = PRELUDE + FORBID
    script += f"forbid({number})\n"
    script += "store(Directory(root, writable=True), b'file', bytes(1_000_000))\n"
    run_python(script, tmp_path)
    assert everything(tmp_path) == {"file": bytes(1_000_000)}


def test_without_hard_links_an_upload_is_still_whole_or_not_there(tmp_path: Path) -> None:
    # As on FAT, which answers EPERM to a link, and has no nameless files.
    require_seccomp()
    calls = {"x86_64": (265, 264, 316), "aarch64": (37, 38, 276)}.get(os.uname().machine)
    if calls is None:
        pytest.skip("the numbers of linkat, renameat and renameat2 are not known here")
    linkat, *renames = calls
    script = (
        PRELUDE
        + FORBID
        + (
            f"forbid({linkat})\n"
            "try:\n"
            "    os.link(root, root + '/link', follow_symlinks=False)\n"
            "except PermissionError:\n"
            "    pass\n"
            "else:\n"
            "    sys.exit('the filter does not work')\n"
            "directory = Directory(root, writable=True)\n"
            "late = directory.open_write(write(b'file'))\n"
            "store(directory, b'file', b'first')\n"
            "assert code(late.commit) == 6\n"
            "assert code(lambda: store(directory, b'file', b'second')) == 6\n"
            "assert open(root + '/file', 'rb').read() == b'first'\n"
            "assert os.stat(root + '/file').st_mode & 0o400\n"
            "store(Directory(root, writable=True, overwrite=True), b'file', b'third')\n"
            f"for number in {renames}:\n"
            "    forbid(number)\n"
            "assert code(lambda: store(directory, b'other', b'')) == 2\n"
        )
    )
    run_python(script, tmp_path, "named")
    assert everything(tmp_path) == {"file": b"third"}


def test_without_proc_an_upload_has_a_hidden_name(tmp_path: Path) -> None:
    # In a chroot there may be no /proc, by way of which a nameless file gets its name.
    if os.geteuid() != 0:
        pytest.skip("only root may chroot")
    script = PRELUDE + (
        "os.chroot(root)\n"
        "directory = Directory('/', writable=True)\n"
        "sink = directory.open_write(write(b'file'))\n"
        "[name] = os.listdir('/')\n"
        "assert name.startswith('.')\n"
        "sink.write([memoryview(b'content')])\n"
        "sink.commit()\n"
    )
    run_python(script, tmp_path)
    assert everything(tmp_path) == {"file": b"content"}


# --- Descriptors -------------------------------------------------------------------------------


@pytest.mark.usefixtures("lookup", "temporaries")
def test_no_descriptor_is_left_open(root: Path) -> None:
    directory = Directory(root, writable=True, overwrite=True, ignore_case=True, max_size=100)
    names = [b"boot.cfg", b"dir/deep/back", b"absolute", b"DIR/INNER", b"missing", b"out", b"loop"]
    names += [b"fifo", b"dir", b"../x", b"x" * 300, b"out-dir/file", b"missing/x", b"new"]
    before = open_descriptors()
    for _ in range(5):
        for name in names:
            with contextlib.suppress(OSError, TFTPError):
                fetch(directory, name)
            for data in (b"x", bytes(101)):
                with contextlib.suppress(OSError, TFTPError):
                    store(directory, name, data)
    assert open_descriptors() <= before
