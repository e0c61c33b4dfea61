"""What can be set of a server, and what can not."""

import dataclasses
from typing import Any

import pytest

from tftp.server import ServerConfig


def test_a_server_that_is_told_nothing_stays_on_loopback() -> None:
    config = ServerConfig()
    assert config.hosts == ("127.0.0.1",)
    assert config.port == 0


@pytest.mark.parametrize("port", [0, 1, 69, 65535])
def test_a_port_is_a_16_bit_number(port: int) -> None:
    assert ServerConfig(port=port).port == port


@pytest.mark.parametrize("port", [-1, 65536])
def test_a_port_beyond_16_bits_is_refused(port: int) -> None:
    with pytest.raises(ValueError, match=f"not {port}"):
        ServerConfig(port=port)


@pytest.mark.parametrize("ports", [(1, 1), (1, 65535), (40000, 40010)])
def test_a_port_range_goes_up(ports: tuple[int, int]) -> None:
    assert ServerConfig(port_range=ports).port_range == ports


@pytest.mark.parametrize("ports", [(0, 10), (40001, 40000), (1, 65536), (-5, 5)])
def test_a_port_range_that_is_none_is_refused(ports: tuple[int, int]) -> None:
    with pytest.raises(ValueError, match="lowest first"):
        ServerConfig(port_range=ports)


def test_one_port_and_a_range_of_ports_exclude_one_another() -> None:
    with pytest.raises(ValueError, match="exclude"):
        ServerConfig(single_port=True, port_range=(40000, 40010))


@pytest.mark.parametrize("name", ["max_transfers", "queue_size"])
def test_a_server_takes_at_least_one_request(name: str) -> None:
    least: dict[str, Any] = {name: 1}
    assert ServerConfig(**least) != ServerConfig()
    none: dict[str, Any] = {name: 0}
    with pytest.raises(ValueError, match="at least 1"):
        ServerConfig(**none)


def test_a_config_stays_as_it_was_checked() -> None:
    config = ServerConfig()
    with pytest.raises(dataclasses.FrozenInstanceError):
        config.port = 70000  # type: ignore[misc]
