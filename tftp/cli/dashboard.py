"""`tftp dashboard`, the page for servers that run elsewhere; and the page of `tftp serve`.

This module has the options, the socket and the signals. What the page is stands in
`tftp.monitor.dashboard`; the packages that it needs are imported only where it runs.
"""

import signal
import sys
from pathlib import Path
from tempfile import TemporaryDirectory
from types import FrameType

import click

from tftp.cli.banner import version
from tftp.cli.display import write_line
from tftp.cli.secret import VARIABLE, read_token, warning_of_token
from tftp.events import printable
from tftp.monitor.board import Board
from tftp.monitor.channel import Channel, Controls
from tftp.monitor.dashboard import DEFAULT_LISTEN, INSTALL, missing_packages
from tftp.monitor.dashboard.child import PageProcess
from tftp.monitor.dashboard.listening import check_listen, open_listen, url_of
from tftp.monitor.place import DEFAULT_PLACE, Place

__all__ = ["PageBeside", "command"]

_ENDS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


@click.command(
    "dashboard",
    short_help="Watch servers in a browser.",
    epilog="""\b
Examples:
  tftp dashboard
  tftp dashboard 192.0.2.1:6970 192.0.2.2:6970 --token-file ~/.tftp-token
  tftp dashboard unix:/run/tftp/monitor --listen 8080
""",
)
@click.argument("places", nargs=-1, metavar="[HOST:PORT|unix:PATH]...")
@click.option(
    "--listen",
    metavar="[HOST:]PORT",
    default=str(DEFAULT_LISTEN),
    show_default=True,
    help="Where browsers find the page. Beyond this host it shows nothing without the token.",
)
@click.option(
    "--token-file",
    type=click.Path(path_type=Path, dir_okay=False),
    help="Show the servers the token in this file, and let who knows it cancel and drain on the "
    f"page. Or put it into {VARIABLE}.",
)
def command(places: tuple[str, ...], listen: str, token_file: Path | None) -> int:
    """Watch servers in a browser.

    A place is where a server that was started with --monitor lets itself be watched; without one
    it is 127.0.0.1:6970. Connections that are lost are made again. Ctrl-C ends the page. A server
    can have a page of its own: tftp serve --dashboard.
    """
    _require_packages("tftp dashboard")
    token = read_token(token_file)
    place = _listen(listen, token, "--listen", "--token-file")
    servers = _servers(places)
    from tftp.monitor.dashboard.page import Page

    try:
        sock = open_listen(place)
    except OSError as error:
        write_line(_explain(error, "--listen"))
        return 1
    page = Page(sock, servers, local=place.local, token=token, version=version())

    def stop(number: int, frame: FrameType | None) -> None:
        page.stop()

    for number in _ENDS:
        signal.signal(number, stop)
    click.echo(f"the page is at {url_of(sock)}")
    sys.stdout.flush()
    for warning in (_warning(place), warning_of_token(token_file, token)):
        if warning:
            write_line(warning)
    page.run()
    return 0


class PageBeside:
    """The page of a server that is started by this process; the page itself is another process.

    It reads a channel like any page: one of its own, on a Unix socket in a directory that only this
    user may enter. The one of `--monitor` has room for so many readers, and strangers may be among
    them.

    Attributes:
        url: what to open in a browser.
        warning: what whoever opens it to other hosts should know, or None.
    """

    def __init__(self, listen: str, token: str | None) -> None:
        """Open the page's socket, so that what can not be is known before anything is served.

        Raises:
            click.ClickException: packages are missing, or it can not be there.
        """
        _require_packages("--dashboard")
        place = _listen(listen, token, "--dashboard", "--monitor-token-file")
        try:
            self._socket = open_listen(place)
        except OSError as error:
            raise click.ClickException(_explain(error, "--dashboard", subject="")) from None
        self._token = token
        self._local = place.local
        self._folder: TemporaryDirectory[str] | None = None
        self._channel: Channel | None = None
        self._process: PageProcess | None = None
        self.url = url_of(self._socket)
        self.warning = _warning(place)

    def start(self, board: Board, server: Controls) -> str | None:
        """Serve the page, once the server serves; gives the reason if it can not be."""
        try:
            self._start(board, server)
        except OSError as error:
            # A temporary directory that can not be written to, or has too long a name for a socket;
            # no room for another process.
            where = f" at {printable(str(error.filename))}" if error.filename else ""
            return f"tftp: cannot start the page: {error.strerror or error}{where}"
        return None

    def _start(self, board: Board, server: Controls) -> None:
        self._folder = TemporaryDirectory(prefix="tftp-")
        place = Place(path=str(Path(self._folder.name, "monitor")))
        channel = Channel(board, server, place, version=version())
        channel.start()
        self._channel = channel
        self._process = PageProcess(
            self._socket, [place], local=self._local, token=self._token, version=version()
        )
        self._process.start()

    def stop(self) -> None:
        """End the page, whether or not it was started."""
        if self._process is not None:
            self._process.stop()
        if self._channel is not None:
            self._channel.stop()
        self._socket.close()
        if self._folder is not None:
            self._folder.cleanup()


def _require_packages(what: str) -> None:
    missing = missing_packages()
    if missing:
        raise click.ClickException(f"{what} needs {' and '.join(missing)}: {INSTALL}")


def _listen(text: str, token: str | None, option: str, token_option: str) -> Place:
    try:
        place = Place.parse(text)
    except ValueError:
        place = None
    if place is None or place.path:
        raise click.BadParameter(
            f"'{printable(text)}' is no place for a page: write PORT or HOST:PORT",
            param_hint=option,
        )
    try:
        place.check_here()  # Before a token is asked for, which would not help.
        check_listen(place, token)
    except OSError as error:
        raise click.ClickException(_explain(error, option, subject="")) from None
    except ValueError as error:
        raise click.BadParameter(
            f"{error} ({token_option} FILE, or {VARIABLE} in the environment)", param_hint=option
        ) from None
    return place


def _servers(places: tuple[str, ...]) -> list[Place]:
    """The places, each once."""
    try:
        return list(dict.fromkeys(map(Place.parse, places))) or [DEFAULT_PLACE]
    except ValueError as error:
        raise click.BadParameter(str(error), param_hint="HOST:PORT") from None


def _explain(error: OSError, option: str, *, subject: str = "tftp: ") -> str:
    place = printable(str(error.filename))
    return f"{subject}cannot serve the page on {place}: {error.strerror}: choose another {option}"


def _warning(place: Place) -> str | None:
    if place.local:
        return None
    return (
        f"tftp: other hosts can reach the page on {place}: they need the token to look and to act, "
        "and HTTP carries it in the clear: across networks that you do not trust put a proxy with "
        "TLS in front"
    )
