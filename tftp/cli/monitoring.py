"""`tftp serve --monitor`: the channel that it opens, and what there is to say about it."""

import errno
from typing import TYPE_CHECKING

import click

from tftp.cli.banner import version
from tftp.cli.secret import VARIABLE
from tftp.events import printable
from tftp.monitor.place import Place

if TYPE_CHECKING:
    from tftp.monitor.board import Board
    from tftp.monitor.channel import Channel, Controls

__all__ = ["channel_of", "explain_channel", "warning_of"]


def channel_of(board: "Board", server: "Controls", place: Place, token: str | None) -> "Channel":
    """The channel of a server, ready to be opened.

    Raises:
        click.UsageError: it would be open to other hosts, and there is no token.
        click.ClickException: this host has no such address.
    """
    from tftp.monitor.channel import Channel

    try:
        place.check_here()  # Before a token is asked for, which would not help.
    except OSError as error:
        raise click.ClickException(_why(error)) from None
    try:
        return Channel(board, server, place, token=token, version=version())
    except ValueError as error:
        raise click.UsageError(
            f"{error} (--monitor-token-file FILE, or {VARIABLE} in the environment)"
        ) from None


def explain_channel(error: OSError) -> str:
    """Why the channel can not be there, and what to do."""
    return f"tftp: {_why(error)}"


def _why(error: OSError) -> str:
    place, remedy = printable(str(error.filename)), "choose another --monitor"
    if error.errno == errno.ENOENT:
        remedy = f"make its directory first, or {remedy}"
    return f"cannot open the monitor on {place}: {error.strerror}: {remedy}"


def warning_of(place: Place) -> str | None:
    """What whoever opens the channel to other hosts should know."""
    if place.local:
        return None
    return (
        f"tftp: other hosts can reach the monitor on {place}: they need the token, and it travels "
        "in the clear: across networks that you do not trust use a tunnel"
    )
