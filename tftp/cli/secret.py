"""The token of the monitoring channel: from a file or the environment, never from a command line.

Every user of a host can read the command lines of all processes on it.
"""

import os
import stat
from pathlib import Path

import click

from tftp.events import printable

__all__ = ["VARIABLE", "read_token", "warning_of_token"]

#: The environment variable that may hold it.
VARIABLE = "TFTP_MONITOR_TOKEN"

# Octets of a file that may be looked at: it might be a device that never ends.
_MOST = 4096
# Fewer letters can be guessed by trying, however slow the network.
_FEWEST = 12

_ADVICE = "put a line of letters that nobody guesses there, for example by openssl rand -hex 16"


def read_token(file: Path | None) -> str | None:
    """The token in `file`, or without one in the environment; None where there is none.

    Raises:
        click.ClickException: the file can not be read, or holds anything but one line.
    """
    if file is None:
        return os.environ.get(VARIABLE, "").strip() or None
    name = printable(str(file))
    try:
        with file.open("rb") as stream:
            octets = stream.read(_MOST + 1)
        token = octets.decode("utf-8").strip()
    except OSError as error:
        raise click.ClickException(
            f"cannot read the token in {name}: {error.strerror}: "
            f"name a file that this user may read, or put the token into {VARIABLE}"
        ) from None
    except UnicodeDecodeError:
        raise click.ClickException(f"the token in {name} is no text: {_ADVICE}") from None
    if not token:
        raise click.ClickException(f"there is no token in {name}: {_ADVICE}")
    if len(octets) > _MOST or len(token.splitlines()) > 1:
        raise click.ClickException(f"{name} holds more than one line: {_ADVICE}")
    return token


def warning_of_token(file: Path | None, token: str | None) -> str | None:
    """What whoever guards a server with this token should know, or None."""
    if token is None:
        return None
    if len(token) < _FEWEST:
        return f"tftp: a token of {len(token)} letters is soon guessed: take at least {_FEWEST}"
    if file is None:
        return None
    mode = file.stat().st_mode
    if stat.S_ISREG(mode) and mode & stat.S_IROTH:
        name = printable(str(file))
        return f"tftp: every user of this host can read the token in {name}: chmod 600 it"
    return None
