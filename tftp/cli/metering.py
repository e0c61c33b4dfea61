"""`tftp serve --metrics`: where it may be, what it needs, and what there is to say about it."""

from typing import TYPE_CHECKING

import click

from tftp.cli.banner import version
from tftp.events import printable
from tftp.monitor.place import Place

if TYPE_CHECKING:
    from tftp.monitor.board import Board
    from tftp.monitor.metrics import Exposition, Observed

__all__ = ["explain_exposition", "exposition_of", "metrics_place", "url_of", "warning_of"]


def metrics_place(text: str) -> Place:
    """The place that `--metrics` names.

    Raises:
        ValueError: it is none, or not one that Prometheus can read from.
    """
    try:
        place = Place.parse(text)
    except ValueError:
        place = None
    if place is None or place.path:
        raise ValueError(f"'{printable(text)}' is no place for metrics: write PORT or HOST:PORT")
    return place


def exposition_of(board: "Board", server: "Observed", place: Place) -> "Exposition":
    """The metrics of a server, ready to be opened.

    Raises:
        click.ClickException: prometheus-client is not installed, or this host has no such address.
    """
    try:
        from tftp.monitor.metrics import Exposition, Metrics
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] != "prometheus_client":
            raise
        raise click.ClickException(
            "--metrics needs prometheus-client: pip install 'tftpkit[monitor]'"
        ) from None
    try:
        place.check_here()
    except OSError as error:
        raise click.ClickException(_why(error)) from None
    return Exposition(Metrics(board, server, version=version()), place)


def explain_exposition(error: OSError) -> str:
    """Why metrics can not be had there, and what to do."""
    return f"tftp: {_why(error)}"


def _why(error: OSError) -> str:
    place = printable(str(error.filename))
    return f"cannot give metrics on {place}: {error.strerror}: choose another --metrics"


def url_of(place: Place) -> str:
    """What Prometheus is to be told."""
    return f"http://{place}/metrics"


def warning_of(place: Place) -> str | None:
    """What whoever opens metrics to other hosts should know."""
    if place.local:
        return None
    return (
        f"tftp: other hosts can read the metrics on {place}, without a token: they hold sums, and "
        "no names or addresses"
    )
