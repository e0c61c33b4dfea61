"""Starting another process of a server: a fresh interpreter, never a fork of this one.

A process that has threads must not fork (their locks would stay locked in the child for ever), and
a server inside somebody's program can not know. So a new interpreter is started, and given its
parts: pickled, since they are Python objects, with the listening sockets by descriptor.
"""

import io
import os
import pickle
import socket
import subprocess
import sys
from dataclasses import dataclass
from types import FunctionType
from typing import Any

from tftp.server.channel import Channel

__all__ = ["BOOT", "Launched", "launch", "longer", "parts_of_launch"]

#: Seconds that a process may take to come up.
BOOT = 30.0
# Seconds before one that did not help is tried again: at first, and at most.
_SHORTEST_PAUSE, _LONGEST_PAUSE = 0.1, 5.0

_COMMAND = """
import sys
sys.path[:] = {path!r}
from {module} import main
main({descriptor})
"""


@dataclass(frozen=True, slots=True)
class Launched:
    """A process that was started, and the channel to it."""

    process: "subprocess.Popen[bytes]"
    channel: Channel


def launch(module: str, parts: Any, sockets: list[socket.socket]) -> Launched:
    """Start an interpreter that runs `main(descriptor)` of `module`.

    Args:
        module: full name of the module.
        parts: what it needs; it gets them from `parts_of_launch`.
        sockets: are inherited, under the same descriptors.

    Raises:
        TypeError: something in `parts` can not be pickled, or not be found there by its name.
        OSError: no process can be started.
    """
    try:
        pickled = _pickled(parts)
    except (pickle.PicklingError, AttributeError, TypeError) as error:
        raise TypeError(
            f"a storage and rules for other processes must be picklable: {error}"
        ) from error
    channel, theirs = Channel.pair()
    with theirs:
        command = _COMMAND.format(path=sys.path, module=module, descriptor=theirs.fileno())
        process = subprocess.Popen(  # noqa: S603  (this interpreter, running this package)
            [sys.executable, "-c", command],
            stdin=subprocess.PIPE,
            pass_fds=[theirs.fileno(), *(sock.fileno() for sock in sockets)],
        )
    assert process.stdin is not None  # noqa: S101
    with process.stdin as pipe:
        pipe.write(pickled)
    return Launched(process, channel)


def longer(pause: float) -> float:
    """The pause (seconds) before the next start, where the last one, after `pause`, has failed."""
    return min(max(_SHORTEST_PAUSE, 2 * pause), _LONGEST_PAUSE)


def _pickled(parts: Any) -> bytes:
    octets = io.BytesIO()
    _Pickler(octets).dump(parts)
    return octets.getvalue()


class _Pickler(pickle.Pickler):
    """Refuses what the other process would look for in vain: its main module is another one."""

    def persistent_id(self, thing: Any) -> None:
        """Called for all that is pickled; classes and functions travel as names."""
        if isinstance(thing, type | FunctionType) and thing.__module__ == "__main__":
            raise pickle.PicklingError(
                f"{thing.__qualname__} is part of the main script: put it into a module of its own"
            )


def parts_of_launch() -> Any:
    """In the new process: what it was given."""
    parts = pickle.load(sys.stdin.buffer)  # noqa: S301  (written by the process that started this)
    with open(os.devnull, "rb") as nothing:  # noqa: PTH123
        os.dup2(nothing.fileno(), sys.stdin.fileno())
    return parts
