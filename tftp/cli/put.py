"""`tftp put`: send a file, or what comes on standard input."""

import os
import sys
from pathlib import Path

import click

from tftp.cli.attempt import Job, run
from tftp.cli.display import Tally
from tftp.cli.options import TransferOptions, location_of, transfer_options
from tftp.client import Client
from tftp.events import Operation, TransferEnded

__all__ = ["command"]


@click.command(
    "put",
    short_help="Send a file to a server.",
    epilog="""\b
Examples:
  tftp put startup.cfg tftp://192.0.2.1/startup.cfg
  tftp put firmware.bin 192.0.2.1:6969/incoming/
  journalctl -b | tftp put - 192.0.2.1/logs/board7.txt
""",
)
@click.argument("local")
@click.argument("url")
@transfer_options
def command(local: str, url: str, options: TransferOptions) -> int:
    """Send a file to a server.

    LOCAL is a file, or - for standard input. URL is tftp://HOST[:PORT]/PATH; tftp:// may be left
    out. Where PATH is missing or ends in a slash, LOCAL's own name is added.
    """
    path = None if local == "-" else Path(local)
    own_name = b"" if path is None else os.fsencode(path.name)
    location = location_of(url, options, upload=own_name)
    if not location.basename:
        raise click.UsageError("The URL ends in a slash: write a name for the file behind it.")

    def transfer(client: Client, tally: Tally) -> TransferEnded:
        source = sys.stdin.buffer if path is None else path
        return client.put(source, location.filename, mode=location.mode, progress=tally)

    job = Job(location=location, operation=Operation.WRITE, local=path, transfer=transfer)
    return run(job, options)
