"""Data on its way to the disk early; what an upload makes of it is in test_local.py."""

import os
import sys
from pathlib import Path

import pytest

from tftp.storage import writeback
from tftp.storage.writeback import start_writing


def test_what_was_written_to_a_file_can_be_started_on_linux_only(tmp_path: Path) -> None:
    with (tmp_path / "file").open("wb", buffering=0) as file:
        file.write(bytes(100_000))
        for offset, count in ((0, 65536), (65536, 100_000), (1 << 40, 65536)):
            assert start_writing(file.fileno(), offset, count) == sys.platform.startswith("linux")
    assert (tmp_path / "file").read_bytes() == bytes(100_000)


def test_a_pipe_has_nothing_to_start() -> None:
    reader, writer = os.pipe()
    try:
        assert not start_writing(writer, 0, 65536)
    finally:
        os.close(reader)
        os.close(writer)


def test_a_system_without_the_call_is_said_to_be_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(writeback, "_system_call", lambda: None)
    with (tmp_path / "file").open("wb") as file:
        assert not start_writing(file.fileno(), 0, 65536)


def test_a_failure_that_concerns_the_data_is_told() -> None:
    if writeback._system_call() is None:
        pytest.skip("this system has no sync_file_range")
    with pytest.raises(OSError, match="descriptor"):
        start_writing(-1, 0, 65536)
