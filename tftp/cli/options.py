"""The options that `tftp get` and `tftp put` share: their help, their limits, and what they mean.

This is the one place where words of the command line become terms and patience of a client.
"""

import functools
import math
import socket
from collections.abc import Callable
from typing import Any, NamedTuple

import click

from tftp.client import Client
from tftp.options import MAX_BLKSIZE, MAX_WINDOWSIZE, MIN_BLKSIZE, Terms
from tftp.timers import Patience
from tftp.url import Location, parse

__all__ = ["TransferOptions", "location_of", "transfer_options"]

#: Seconds of silence that end a transfer, where the options do not say otherwise.
_TOTAL = 20.0
#: Seconds that a get on a lossy network stays at most, while somebody waits for the prompt. It is
#: done sooner: when it has repeated its last ACK three times, or nobody is there to hear it.
_DALLY = 1.5
#: A timeout so long that it does not fit in there so often gets as much time as it needs.
_WAITS = 4


class TransferOptions(NamedTuple):
    """What was said on the command line; None where nothing was."""

    blksize: int | None
    windowsize: int | None
    mode: str | None
    timeout: float | None
    retries: int | None
    no_options: bool
    quiet: bool
    json: bool
    family: int

    def client(self, location: Location) -> Client:
        """A client for the server that `location` names.

        Raises:
            click.UsageError: the options contradict each other.
        """
        wishes = {"blksize": self.blksize, "windowsize": self.windowsize, "timeout": self.timeout}
        overrides = {name: wish for name, wish in wishes.items() if wish is not None}
        if self.no_options and (self.blksize is not None or self.windowsize is not None):
            raise click.UsageError(
                "--no-options asks for none: leave out --blksize and --windowsize"
            )
        return Client(
            location.host,
            location.port,
            terms=Terms() if self.no_options else None,
            overrides={} if self.no_options else overrides,
            patience=self.patience(),
            family=self.family,
        )

    def patience(self) -> Patience:
        """When to repeat, and when to give up."""
        total = _TOTAL if self.retries is None else math.inf
        if self.timeout is None:
            return Patience(total=total, retries=self.retries, dally=_DALLY)
        # The wait is just that, whether or not the server agreed to the option.
        return Patience(
            initial=self.timeout,
            floor=self.timeout,
            ceiling=self.timeout,
            total=max(total, _WAITS * self.timeout),
            retries=self.retries,
            dally=_DALLY,
        )


def location_of(url: str, options: TransferOptions, *, upload: bytes = b"") -> Location:
    """The place that the URL and `--mode` name.

    Raises:
        click.BadParameter: it is no TFTP URL.
    """
    try:
        location = parse(url, upload=upload)
    except ValueError as error:
        raise click.BadParameter(str(error), param_hint="URL") from None
    return location._replace(mode=options.mode or location.mode)


def transfer_options(command: Callable[..., int]) -> Callable[..., int]:
    """Give a verb the shared options; they come to it as one argument, `options`."""

    @functools.wraps(command)
    def call(**parameters: Any) -> int:
        own = {name: parameters.pop(name) for name in TransferOptions._fields}
        return command(options=TransferOptions(**own), **parameters)

    for option in reversed(_OPTIONS):
        call = option(call)
    return call


class _Seconds(click.FloatRange):
    """A range that has no place for "nan", which is neither below nor above anything."""

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> float:
        seconds = float(super().convert(value, param, ctx))
        if math.isnan(seconds):
            self.fail(f"{value} is no number of seconds.", param, ctx)
        return seconds


_OPTIONS = (
    click.option(
        "--blksize",
        type=click.IntRange(MIN_BLKSIZE, MAX_BLKSIZE),
        metavar="N",
        help="Ask for blocks of N octets, 8 to 65464 (RFC 2348).",
    ),
    click.option(
        "--windowsize",
        type=click.IntRange(1, MAX_WINDOWSIZE),
        metavar="N",
        help="Ask for N blocks between two ACKs, 1 to 65535 (RFC 7440).",
    ),
    click.option(
        "--mode",
        type=click.Choice(["octet", "netascii"]),
        help="Send bytes as they are, or text with its line ends translated. Without it the "
        "URL's ;mode= counts, else octet.",
    ),
    click.option(
        "--timeout",
        type=_Seconds(0.01, 255),
        metavar="S",
        help="Repeat after S seconds without an answer, and ask the server to do so too "
        "(RFC 2349). Without it the wait follows the measured round trip.",
    ),
    click.option(
        "--retries",
        type=click.IntRange(0),
        metavar="N",
        help="Give up after N repeats without an answer. Without it, after 20 seconds of silence.",
    ),
    click.option(
        "--no-options",
        is_flag=True,
        help="Ask for no option at all, for servers that choke on them (RFC 1350 alone).",
    ),
    click.option("-q", "--quiet", is_flag=True, help="Say nothing but errors."),
    click.option("--json", is_flag=True, help="Say how it ended as one JSON object on one line."),
    click.option(
        "-4", "family", flag_value=int(socket.AF_INET), type=int, default=0, help="Use IPv4 only."
    ),
    click.option("-6", "family", flag_value=int(socket.AF_INET6), type=int, help="Use IPv6 only."),
)
