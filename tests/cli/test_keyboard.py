"""Keys, as terminals send them."""

import os
import pty
import termios
from collections.abc import Iterator

import pytest

from tests.watching import eventually
from tftp.cli.keyboard import Keyboard, keys


@pytest.fixture
def terminal() -> Iterator[tuple[int, int]]:
    """Both ends of a terminal: the person's and the program's."""
    master, slave = pty.openpty()
    yield master, slave
    os.close(master)
    os.close(slave)


@pytest.mark.parametrize(
    ("sent", "pressed"),
    [
        ("q", ["q"]),
        ("é?", ["é", "?"]),
        ("\x1b[A\x1b[B\x1bOA\x1bOB", ["up", "down", "up", "down"]),
        ("\x1b[5~\x1b[6~", ["page up", "page down"]),
        ("\x1b[H\x1b[1~\x1bOH", ["home", "home", "home"]),
        ("\x1b[F\x1b[4~\x1bOF", ["end", "end", "end"]),
        ("\t\x1b[Z\r\n\x1b", ["tab", "back tab", "enter", "enter", "escape"]),
        ("\x1b[15~", ["\x1b[15~"]),
        ("\x1b[1;5Cq", ["\x1b[1;5C", "q"]),
        ("\x1b\x1b[A", ["escape", "up"]),
    ],
)
def test_sequences_are_keys(sent: str, pressed: list[str]) -> None:
    assert keys(sent) == pressed


def test_a_key_comes_at_once_and_is_not_shown(terminal: tuple[int, int]) -> None:
    master, slave = terminal
    with Keyboard(slave) as keyboard:
        os.write(master, b"x\xc3")
        assert keyboard.read() == ["x"]
        os.write(master, b"\xa9")
        assert keyboard.read() == ["é"]
        flags = termios.tcgetattr(slave)[3]
        assert not flags & (termios.ECHO | termios.ICANON)
        # Ctrl-C is still a signal.
        assert flags & termios.ISIG


def test_the_terminal_is_as_it_was_even_after_a_failure(terminal: tuple[int, int]) -> None:
    _, slave = terminal
    before = termios.tcgetattr(slave)
    with pytest.raises(ZeroDivisionError), Keyboard(slave):
        _ = 1 / 0
    assert termios.tcgetattr(slave) == before


def test_a_terminal_that_is_gone_is_the_end() -> None:
    master, slave = pty.openpty()
    keyboard = Keyboard(slave)
    with keyboard:
        pass
    os.close(master)
    assert eventually(lambda: _ended(keyboard))
    os.close(slave)


def _ended(keyboard: Keyboard) -> bool:
    try:
        keyboard.read()
    except EOFError:
        return True
    return False
