"""The token of the monitoring channel: from a file or the environment, never from a command line.

Every user of a host can read the command lines of all processes on it.
"""

import os
from pathlib import Path

import click

from tftp.events import printable

__all__ = ["VARIABLE", "read_token"]

#: The environment variable that may hold it.
VARIABLE = "TFTP_MONITOR_TOKEN"


def read_token(file: Path | None) -> str | None:
    """The token in `file`, or without one in the environment; None where there is none.

    Raises:
        click.ClickException: the file can not be read, or is empty.
    """
    if file is None:
        return os.environ.get(VARIABLE, "").strip() or None
    try:
        token = file.read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError) as error:
        why = error.strerror if isinstance(error, OSError) else "it is no text"
        raise click.ClickException(
            f"cannot read the token in {printable(str(file))}: {why}"
        ) from None
    if not token:
        raise click.ClickException(f"there is no token in {printable(str(file))}")
    return token
