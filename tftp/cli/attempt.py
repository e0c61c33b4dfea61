"""One transfer on behalf of a person: under signals and a display, and with an exit code.

`tftp get` and `tftp put` say what to move; everything that they have in common is here. Results and
errors go to stderr, so that `-o -` has stdout for itself; only `--json` writes its line to stdout.
What words a failure needs is imported when there is one.
"""

import os
import signal
import sys
from collections.abc import Callable
from contextlib import nullcontext, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from tftp.cli.display import Bar, Tally, discard_output, numbers, write_json, write_line
from tftp.cli.interruption import Interruption
from tftp.cli.options import TransferOptions
from tftp.cli.streams import fill_in
from tftp.client import Client
from tftp.errors import TFTPError
from tftp.events import Counters, Operation, TransferEnded, as_json, printable
from tftp.url import Location

if TYPE_CHECKING:
    from tftp.cli.failures import Failure

__all__ = ["Job", "run"]

_PAST = {Operation.READ: "got", Operation.WRITE: "sent"}


class Job(NamedTuple):
    """What is to be moved.

    Attributes:
        location: the file on the server.
        operation: read (get) or write (put).
        local: the local file; None is standard output of a get, standard input of a put.
        transfer: moves it, with a client and a progress callback.
    """

    location: Location
    operation: Operation
    local: Path | None
    transfer: Callable[[Client, Tally], TransferEnded]

    @property
    def to_stdout(self) -> bool:
        """Whether standard output is for the file's bytes alone."""
        return self.local is None and self.operation is Operation.READ

    @property
    def place(self) -> str:
        """Where the bytes go to or come from on this machine, fit for a terminal."""
        if self.local is not None:
            return printable(str(self.local))
        return "standard output" if self.operation is Operation.READ else "standard input"

    @property
    def name(self) -> str:
        """What to call the file on a terminal."""
        return printable(self.location.filename if self.local is None else str(self.local))


def run(job: Job, options: TransferOptions) -> int:
    """Do the job, tell of it, and give the exit code."""
    fill_in()
    tally = Tally()
    with options.client(job.location) as client:
        match _attempt(client, job, options, tally):
            case TransferEnded() as ended:
                _tell_end(job, options, ended)
                if _lost_something(ended.counters):
                    with suppress(KeyboardInterrupt):
                        client.linger()
                return 0
            case signal.Signals() as number:
                _tell_interruption(job, options, number)
                return 128 + number
            case error:
                _tell_failure(job, options, _explained(error, job, tally))
                return 1


def _attempt(
    client: Client, job: Job, options: TransferOptions, tally: Tally
) -> TransferEnded | signal.Signals | TFTPError | OSError | UnicodeError:
    """How it ended: well, by a signal, or in an error."""
    bar = Bar(job.name, tally) if _shows_bar(job, options) else None

    def give_up(number: signal.Signals) -> None:
        """Cancelling did not help: the process hangs inside the system."""
        if bar is not None:
            bar.close()
        _tell_interruption(job, options, number)
        os._exit(128 + number)

    with Interruption(client.cancel, give_up) as interruption, bar or nullcontext():
        try:
            return job.transfer(client, tally)
        except (TFTPError, OSError, UnicodeError) as error:
            if isinstance(error, BrokenPipeError):
                discard_output()
            return interruption.signal or error


def _lost_something(counters: Counters) -> bool:
    """Whether this network loses packets: something had to be said twice. Then it may have lost our
    last ACK, and the server will not know that all went well unless somebody is there to repeat it.
    """
    return counters.retransmissions > 0


def _shows_bar(job: Job, options: TransferOptions) -> bool:
    if options.quiet or options.json or not sys.stderr.isatty():
        return False
    # A file that is shown on the same terminal needs no bar in its midst.
    return not (job.to_stdout and sys.stdout.isatty())


def _tell_end(job: Job, options: TransferOptions, ended: TransferEnded) -> None:
    if options.quiet:
        return
    if options.json:
        _write_json(job, as_json(ended))
    else:
        write_line(f"{_PAST[job.operation]} {job.name}: {numbers(ended)}")


def _explained(error: TFTPError | OSError | UnicodeError, job: Job, tally: Tally) -> "Failure":
    from tftp.cli.failures import Attempt, explain

    moved = tally.done if tally.started else None
    return explain(error, Attempt(job.location, job.operation, job.place, moved))


def _tell_failure(job: Job, options: TransferOptions, failure: "Failure") -> None:
    if options.json:
        record = {"event": "failed", "operation": job.operation.value, "error": failure.as_json()}
        _write_json(job, record)
    if not (options.json and job.to_stdout):
        write_line(str(failure))


def _tell_interruption(job: Job, options: TransferOptions, number: signal.Signals) -> None:
    from tftp.cli.failures import Failure

    if number is signal.SIGINT and sys.stderr.isatty():
        write_line("")  # The terminal has written ^C.
    cause = f"interrupted by {number.name}"
    failure = Failure(str(job.location), cause, "nothing was left behind", number.name)
    _tell_failure(job, options, failure)


def _write_json(job: Job, record: dict[str, Any]) -> None:
    record |= {"url": str(job.location), "local": "-" if job.local is None else job.place}
    write_json(record, sys.stderr if job.to_stdout else sys.stdout)
