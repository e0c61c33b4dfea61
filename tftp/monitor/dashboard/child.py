"""The page beside a server: a process of its own, which ends with the server whatever happens.

A page in the server's own process would share an interpreter with the threads that move the
packets: each look at two hundred rows for each browser would be time that no transfer has. Here it
is one more reader of the channel, and what it costs the server is bounded by the channel.

The child gets the listening socket and, over its standard input, what to do; the token thus stands
neither on a command line nor in an environment. When its standard input ends, so does it.
"""

import json
import logging
import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Sequence
from pathlib import Path
from types import FrameType
from typing import IO

from tftp.monitor.place import Place

__all__ = ["PageProcess", "main"]

logger = logging.getLogger("tftp")

# Seconds that the child has to end by itself.
_GRACE = 5.0


class PageProcess:
    """A page in a child process, from `start` to `stop`."""

    def __init__(
        self,
        sock: socket.socket,
        places: Sequence[Place],
        *,
        local: bool,
        token: str | None,
        version: str,
    ) -> None:
        """As for `tftp.monitor.dashboard.page.Page`; the socket is closed here when it is there."""
        self._socket = sock
        self._task = {
            "descriptor": sock.fileno(),
            "places": [str(place) for place in places],
            "local": local,
            "token": token,
            "version": version,
        }
        self._process: subprocess.Popen[bytes] | None = None
        self._stopping = threading.Event()

    def start(self) -> None:
        """Start the process.

        Raises:
            OSError: the system does not let it.
        """
        root = Path(__file__).parents[3]
        paths = [str(root), *filter(None, [os.environ.get("PYTHONPATH")])]
        # -P: nothing is imported from the current directory, where strangers may upload files.
        process = self._process = subprocess.Popen(
            [sys.executable, "-P", "-m", "tftp.monitor.dashboard.child"],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            pass_fds=[self._socket.fileno()],
            env={**os.environ, "PYTHONPATH": os.pathsep.join(paths)},
            # Ctrl-C is for the server, which may let transfers end: the page shows that.
            start_new_session=True,
        )
        self._socket.close()
        assert process.stdin is not None  # noqa: S101  (a pipe was asked for)
        process.stdin.write(json.dumps(self._task).encode() + b"\n")
        process.stdin.flush()
        threading.Thread(target=self._wait, args=(process,), name="page", daemon=True).start()

    def stop(self) -> None:
        """End it, and wait until it is gone."""
        process = self._process
        if process is None:
            self._socket.close()
            return
        self._stopping.set()
        assert process.stdin is not None  # noqa: S101  (a pipe was asked for)
        process.stdin.close()
        try:
            process.wait(_GRACE)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()

    def _wait(self, process: "subprocess.Popen[bytes]") -> None:
        status = process.wait()
        if status and not self._stopping.is_set():
            logger.error("the page has ended with status %d; the server goes on", status)


def main(stdin: IO[bytes]) -> None:
    """Serve the page that the first line of `stdin` asks for, until `stdin` ends."""
    from tftp.monitor.dashboard.page import Page

    task = json.loads(stdin.readline())
    page = Page(
        socket.socket(fileno=task["descriptor"]),
        task["places"],
        local=task["local"],
        token=task["token"],
        version=task["version"],
    )

    def wait() -> None:
        # Not through the buffer: its lock must not be held when the interpreter ends.
        while os.read(stdin.fileno(), 1024):
            pass
        page.stop()

    def stop(number: int, frame: FrameType | None) -> None:
        page.stop()

    signal.signal(signal.SIGTERM, stop)
    threading.Thread(target=wait, name="parent", daemon=True).start()
    page.run()


if __name__ == "__main__":
    main(sys.stdin.buffer)
