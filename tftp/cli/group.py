"""The group of verbs: finds the one that is asked for, and turns how it ended into an exit code.

A verb is a click command that returns the exit code: 0 done, 1 failed, 2 wrong usage, and 128 plus
the signal's number where a signal ended it. What the verbs do is not known here.
"""

import gc
import signal
import sys
from collections.abc import Sequence
from importlib import import_module
from io import TextIOWrapper

import click

__all__ = ["run"]

_VERBS = ("get", "put", "serve", "top", "events", "dashboard")


class _LazyGroup(click.Group):
    """A group that imports `tftp.cli.VERB` only when VERB is asked for: start-up costs time."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(_VERBS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in _VERBS:
            return None
        command: click.Command = import_module(f"tftp.cli.{cmd_name}").command
        # All that is here now stays to the end: no collection needs to look at it, nor does the
        # last one, when the interpreter ends.
        gc.freeze()
        gc.enable()
        return command


def _print_version(ctx: click.Context, parameter: click.Parameter, wanted: bool) -> None:
    if wanted:
        from tftp.cli.banner import version

        click.echo(f"tftp (tftpkit) {version()}")
        ctx.exit()


@click.group(
    cls=_LazyGroup,
    context_settings={"help_option_names": ["-h", "--help"]},
    epilog="""\b
Examples:
  tftp get tftp://192.0.2.1/pxelinux.0
  tftp put startup.cfg 192.0.2.1:6969/configs/
  tftp serve /srv/tftp --port 6969

`tftp get --help` and its siblings list all options.
""",
)
@click.option(
    "--version",
    is_flag=True,
    expose_value=False,
    is_eager=True,
    callback=_print_version,
    help="Show the version and exit.",
)
def _tftp() -> None:
    """Fetch files, send files and serve files with TFTP."""


def run(arguments: Sequence[str] | None) -> int:
    """Run the verb that the arguments ask for, by default those of the process."""
    # A file name of the network may hold letters that this terminal's encoding has not.
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    try:
        status: int | None = _tftp.main(arguments, "tftp", standalone_mode=False)
        if sys.stdout is not None:
            sys.stdout.flush()
    except click.UsageError as error:
        error.show()
        return error.exit_code
    except click.ClickException as error:
        click.echo(f"tftp: {error.format_message()}", err=True)
        return error.exit_code
    except click.Abort:
        click.echo("tftp: interrupted", err=True)
        return 128 + signal.SIGINT
    except BrokenPipeError:
        from tftp.cli.display import discard_output

        discard_output()
        return 1
    return status or 0
