"""`tftp get`: fetch a file. Of a remote name only the last part ever names a local file."""

import os
import sys
from pathlib import Path

import click

from tftp.cli.attempt import Job, run
from tftp.cli.display import Tally
from tftp.cli.options import TransferOptions, location_of, transfer_options
from tftp.client import Client
from tftp.events import Operation, TransferEnded
from tftp.url import Location

__all__ = ["command"]


@click.command(
    "get",
    short_help="Fetch a file from a server.",
    epilog="""\b
Examples:
  tftp get tftp://192.0.2.1/pxelinux.0
  tftp get 192.0.2.1:6969/boot/vmlinuz -o /tmp/kernel
  tftp get 'tftp://[fe80::1%eth0]/config.txt;mode=netascii' -o -
  tftp get 192.0.2.1/initrd.img --blksize 1428 --windowsize 16
""",
)
@click.argument("url")
@click.option(
    "-o",
    "--output",
    metavar="LOCAL",
    help="Where to put it: a file, a directory, or - for standard output. Without it, the last "
    "part of the URL's path, in the current directory.",
)
@transfer_options
def command(url: str, output: str | None, options: TransferOptions) -> int:
    """Fetch a file from a server.

    URL is tftp://HOST[:PORT]/PATH; tftp:// may be left out. The file appears under its name only
    when all of it has arrived. By itself the client asks for a large block size, a window and
    the file's size, and takes what the server grants.
    """
    location = location_of(url, options)
    local = None if output == "-" else _destination(location, output)

    def transfer(client: Client, tally: Tally) -> TransferEnded:
        target = sys.stdout.buffer if local is None else local
        return client.get(location.filename, target, mode=location.mode, progress=tally)

    job = Job(location=location, operation=Operation.READ, local=local, transfer=transfer)
    return run(job, options)


def _destination(location: Location, output: str | None) -> Path:
    """The local file to write."""
    if output is not None and not output.endswith("/") and not Path(output).is_dir():
        return Path(output)
    name = os.fsdecode(location.basename)
    if name in ("", ".", ".."):
        raise click.UsageError(
            "The URL's last part is no name for a file: choose one with -o FILE."
        )
    return Path(output or "", name)
