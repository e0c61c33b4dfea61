"""What a server says of itself: the URL to try, and the advice in a container."""

import os
from pathlib import Path

import pytest

from tftp.cli.banner import banner, is_container, needs_advice, url_to_try


def test_the_url_to_try_names_the_first_file_that_can_be_asked_for(tmp_path: Path) -> None:
    (tmp_path / "boot").mkdir()
    for name in (".hidden", "z.bin", "a file.bin"):
        (tmp_path / name).write_bytes(b"")
    (tmp_path / "a-link").symlink_to("z.bin")
    location = url_to_try([("127.0.0.1", 6969)], tmp_path)
    assert str(location) == "tftp://127.0.0.1:6969/a%20file.bin"


def test_a_root_without_files_gets_a_placeholder(tmp_path: Path) -> None:
    assert url_to_try([("192.0.2.5", 69)], tmp_path).filename == b"NAME"


def test_a_root_that_cannot_be_listed_gets_one_too(tmp_path: Path) -> None:
    assert url_to_try([("192.0.2.5", 69)], tmp_path / "gone").filename == b"NAME"


def test_a_name_that_is_no_utf8_can_be_tried_too(tmp_path: Path) -> None:
    (Path(os.fsdecode(os.fsencode(tmp_path) + b"/\xff"))).write_bytes(b"")
    assert str(url_to_try([("192.0.2.5", 69)], tmp_path)) == "tftp://192.0.2.5/%FF"


def test_other_machines_can_use_the_url_where_the_server_listens_for_them(tmp_path: Path) -> None:
    for wildcard in (("0.0.0.0", 69), ("::", 69, 0, 0)):
        assert url_to_try([wildcard], tmp_path).host not in ("0.0.0.0", "::")
    addresses = [("127.0.0.1", 69), ("::1", 69, 0, 0), ("2001:db8::5", 69, 0, 0)]
    assert url_to_try(addresses, tmp_path).host == "2001:db8::5"
    assert url_to_try([*addresses, ("192.0.2.5", 69)], tmp_path).host == "192.0.2.5"


def test_the_banner_escapes_the_root(tmp_path: Path) -> None:
    text = "\n".join(banner([("192.0.2.5", 69)], tmp_path / "a\x1b[2J", uploads="read-only"))
    assert "a\\x1b[2J" in text
    assert "\x1b" not in text


@pytest.mark.parametrize(
    ("mark", "content"),
    [
        (".dockerenv", ""),
        ("run/.containerenv", ""),
        ("proc/self/cgroup", "0::/kubepods.slice/pod1/cri-containerd-2.scope\n"),
        ("proc/self/cgroup", "9:pids:/docker/0123\n"),
    ],
)
def test_the_usual_engines_leave_a_mark(tmp_path: Path, mark: str, content: str) -> None:
    (tmp_path / mark).parent.mkdir(parents=True, exist_ok=True)
    (tmp_path / mark).write_text(content)
    assert is_container(tmp_path, {})


def test_an_ordinary_machine_is_no_container(tmp_path: Path) -> None:
    (tmp_path / "proc/self").mkdir(parents=True)
    (tmp_path / "proc/self/cgroup").write_text("0::/user.slice/session-1.scope\n")
    assert not is_container(tmp_path, {"HOME": "/root"})
    assert not is_container(tmp_path / "without-proc", {})


def test_a_variable_of_the_engine_is_a_mark_too(tmp_path: Path) -> None:
    assert is_container(tmp_path, {"KUBERNETES_SERVICE_HOST": "192.0.2.1"})


def test_a_server_on_loopback_needs_no_advice(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("container", "podman")
    assert needs_advice([("0.0.0.0", 69)])
    assert not needs_advice([("127.0.0.1", 69), ("::1", 69, 0, 0)])
