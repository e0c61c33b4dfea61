"""What a person or a program sees of a transfer: plain words, JSON lines, and a progress bar.

Rich, which draws the bar, takes longer to import than a small file takes to arrive. So the bar has
a thread of its own that imports and draws only when a transfer has gone on for a while; the
transfer itself just leaves two numbers in a `Tally`.
"""

import os
import sys
import threading
from collections.abc import Mapping
from types import TracebackType
from typing import IO, Any

import click

from tftp.events import Outcome, TransferEnded, printable

__all__ = [
    "Bar",
    "Tally",
    "count",
    "discard_output",
    "granted_options",
    "numbers",
    "rate",
    "write_json",
    "write_line",
]

#: A transfer that ends within this time, in seconds, shows no bar.
_APPEAR = 0.3
#: Seconds between two drawings of the bar.
_REFRESH = 0.1


class Tally:
    """How far a transfer has come; it is its own progress callback.

    Attributes:
        started: whether the other side has agreed to it.
        done: octets so far.
        total: octets in all, if known.
    """

    __slots__ = ("done", "started", "total")

    def __init__(self) -> None:
        self.started = False
        self.done = 0
        self.total: int | None = None

    def __call__(self, done: int, total: int | None) -> None:
        self.started = True
        self.done = done
        self.total = total


class Bar:
    """A progress bar on stderr with octets, rate and time left, while the context lasts."""

    def __init__(self, name: str, tally: Tally) -> None:
        self._name = name
        self._tally = tally
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._run, name="progress bar", daemon=True)

    def __enter__(self) -> "Bar":
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """Take the bar off the screen, and give the cursor back."""
        self._over.set()
        self._thread.join()

    def _run(self) -> None:
        if self._over.wait(_APPEAR):
            return
        from rich.console import Console
        from rich.progress import (
            BarColumn,
            DownloadColumn,
            Progress,
            TextColumn,
            TimeRemainingColumn,
            TransferSpeedColumn,
        )

        bar = Progress(
            TextColumn("{task.description}", markup=False),
            BarColumn(),
            DownloadColumn(),
            TransferSpeedColumn(),
            TimeRemainingColumn(compact=True),
            console=Console(stderr=True),
            auto_refresh=False,
            transient=True,
        )
        try:
            with bar:
                task = bar.add_task(self._name, total=None)
                while not self._over.wait(_REFRESH):
                    bar.update(task, completed=self._tally.done, total=self._tally.total)
                    bar.refresh()
        except OSError:
            # The terminal is gone; the transfer needs none.
            return


def write_line(line: str, stream: IO[str] | None = None) -> None:
    """One line for a person, on stderr unless told otherwise."""
    click.echo(line, file=stream or sys.stderr)


def write_json(record: Mapping[str, Any], stream: IO[str]) -> None:
    """One JSON object on a line of its own."""
    import json

    click.echo(json.dumps(record), file=stream)


def numbers(ended: TransferEnded) -> str:
    """The numbers of a transfer: "42430 bytes in 0.012 s, 3.5 MB/s, blksize 1428, ..."."""
    payload = ended.counters.payload
    parts = [f"{count(payload, 'byte')} in {ended.duration:.3f} s"]
    if payload and ended.duration > 0:
        parts.append(rate(payload / ended.duration))
    parts += granted_options(ended.granted, known_size=payload)
    parts.append(count(ended.counters.retransmissions, "retransmission"))
    if ended.outcome is Outcome.UNCONFIRMED:
        parts.append("the last block was never confirmed")
    return ", ".join(parts)


def granted_options(granted: Mapping[str, str], known_size: int | None = None) -> list[str]:
    """The options granted: "blksize 1428"; without a size that only says what is known anyway."""
    if not granted:
        return ["no options"]
    return [
        f"{printable(name)} {printable(value)}"
        for name, value in granted.items()
        if not (name.lower() == "tsize" and value == str(known_size))
    ]


def count(number: int, noun: str) -> str:
    """A number with its noun: "1 byte", "2 bytes"."""
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


def rate(octets_per_second: float) -> str:
    """A rate for people: "3.5 MB/s", in decimal units, as networks and disks count."""
    amount, unit = octets_per_second, "B/s"
    for larger in ("kB/s", "MB/s", "GB/s"):
        if amount < _ROUNDS_TO_1000:
            break
        amount, unit = amount / 1000, larger
    return f"{amount:.1f} {unit}" if amount < _ROUNDS_TO_100 else f"{amount:.0f} {unit}"


_ROUNDS_TO_1000, _ROUNDS_TO_100 = 999.5, 99.95


def discard_output() -> None:
    """Nobody reads standard output any more: let the interpreter's last flush go nowhere."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, sys.stdout.fileno())
    os.close(nowhere)
