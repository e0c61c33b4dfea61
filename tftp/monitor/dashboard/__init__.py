"""The page: what servers do, in a browser; a reader of their channels and of nothing else.

`watch` reads the channels, `view` says what one browser has not seen yet, `app` speaks HTTP, `page`
serves it, and `child` runs all of that in a process of its own beside a server. Only `app` and
`page` need the extra packages, starlette and uvicorn; see `missing_packages`.
"""

from importlib.util import find_spec

from tftp.monitor.place import Place

__all__ = ["DEFAULT_LISTEN", "INSTALL", "missing_packages"]

#: Where the page is if it is not told: next to the channel's own port.
DEFAULT_LISTEN = Place("127.0.0.1", 6980)

#: What to do where `missing_packages` finds something.
INSTALL = "pip install 'tftpkit[monitor]'"


def missing_packages() -> list[str]:
    """The packages that the page needs, and that are not there. Imports none of them."""
    return [name for name in ("starlette", "uvicorn") if find_spec(name) is None]
