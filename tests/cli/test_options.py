"""What the words of the command line mean for a client's patience and wishes."""

import math
from typing import Any

import click
import pytest

from tftp.cli.options import TransferOptions, location_of

NOTHING = TransferOptions(
    blksize=None,
    windowsize=None,
    mode=None,
    timeout=None,
    retries=None,
    no_options=False,
    quiet=False,
    json=False,
    family=0,
)


def patience(**given: Any) -> Any:
    return NOTHING._replace(**given).patience()


def test_without_options_twenty_seconds_of_silence_end_it() -> None:
    assert patience().total == 20
    assert patience().retries is None


def test_a_timeout_is_the_wait_whether_or_not_the_server_agrees() -> None:
    wait = patience(timeout=2.5)
    assert (wait.initial, wait.floor, wait.ceiling) == (2.5, 2.5, 2.5)
    assert wait.total == 20


def test_a_long_timeout_is_waited_for_more_than_once() -> None:
    assert patience(timeout=200).total == 800


def test_retries_alone_say_when_to_give_up() -> None:
    assert patience(retries=50).retries == 50
    assert patience(retries=50).total == math.inf


def test_the_mode_option_counts_more_than_the_url() -> None:
    assert location_of("h/x;mode=netascii", NOTHING).mode == "netascii"
    forced = NOTHING._replace(mode="octet")
    assert location_of("h/x;mode=netascii", forced).mode == "octet"


def test_a_bad_url_is_wrong_usage() -> None:
    with pytest.raises(click.BadParameter, match="names no file"):
        location_of("h", NOTHING)
