"""The server of fbtftp as its documentation shows it: files of a folder, a process per transfer."""

import logging
import sys
from pathlib import Path

from fbtftp.base_handler import BaseHandler, ResponseData
from fbtftp.base_server import BaseServer


class File(ResponseData):  # type: ignore[misc]
    """A file of the folder."""

    def __init__(self, path: Path) -> None:
        self._size = path.stat().st_size
        self._file = path.open("rb")

    def read(self, n: int) -> bytes:
        return self._file.read(n)

    def size(self) -> int:
        return self._size

    def close(self) -> None:
        self._file.close()


class Handler(BaseHandler):  # type: ignore[misc]
    """One transfer."""

    def __init__(self, folder: Path, *given: object) -> None:
        self._folder = folder
        super().__init__(*given, lambda stats: None)

    def get_response_data(self) -> File:
        return File(self._folder / self._path)


class Server(BaseServer):  # type: ignore[misc]
    """The listener."""

    def __init__(self, folder: Path, address: str, port: int) -> None:
        self._folder = folder
        super().__init__(address, port, retries=3, timeout=5)

    def get_handler(self, server: object, peer: object, path: str, options: object) -> Handler:
        return Handler(self._folder, server, peer, path, options)


# It logs each file that is missing with a traceback; that is no part of the comparison.
logging.disable(logging.CRITICAL)
Server(Path(sys.argv[3]), sys.argv[1], int(sys.argv[2])).run()
