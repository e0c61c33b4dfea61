"""Clients as whole commands: what somebody waits for who types one, interpreter's start and all.

All clients talk to the same server, one after the other, in rounds. Every file is compared with
what it should be; a client that says "done" over a wrong file has failed.
"""

import filecmp
import os
import resource
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from benchmarks.loads import FILES
from benchmarks.measure import Figures, Setting, median, tell
from benchmarks.peers import CLIENTS, SERVERS, ClientPeer, Wish, Work, tftp_command
from benchmarks.prepare import Missing
from benchmarks.process import Where
from benchmarks.serving import Entrant

__all__ = ["Timed", "measure_clients", "measure_start", "run_client"]

_WISH = Wish(blksize=1428, windowsize=64)
# A program that has been installed has its bytecode, and keeps it: to compile it each time would be
# the habit of whoever measures, not a cost of the command.
_ENVIRONMENT = {
    name: text for name, text in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"
}


@dataclass(frozen=True, slots=True)
class Timed:
    """How a command went; `fault` is "" where all is well."""

    seconds: float
    cpu: float
    fault: str


def measure_clients(verb: str, server_name: str, names: Sequence[str], setting: Setting) -> Figures:
    """Each client moves one file; `verb` is get or put."""
    (peer,) = (peer for peer in SERVERS if peer.name == server_name)
    server = Entrant(peer, setting)
    file = "16m" if setting.quick else "128m"
    times: dict[str, list[Timed]] = {}
    missing: dict[str, str] = {}
    try:
        where = _where(server)
        # The first turn warms caches, and is not counted.
        for turn in range(setting.rounds + 1):
            for client in CLIENTS:
                if (names and client.name not in names) or client.name in missing:
                    continue
                try:
                    timed = _move(verb, client, where, file, setting)
                except Missing as reason:
                    missing[client.name] = str(reason)
                    continue
                tell(f"  {client.name}: {timed.seconds:.2f} s {timed.fault}")
                if turn or timed.fault:
                    times.setdefault(client.name, []).append(timed)
    finally:
        server.stop()
    return {
        "server": server_name,
        "verb": verb,
        "octets": FILES[file],
        "clients": {
            client.name: _summary(client, times.get(client.name, []), missing)
            for client in CLIENTS
            if not names or client.name in names
        },
    }


def _where(server: Entrant) -> Where:
    return server.where if server.server.alive else ("", 0)


def _summary(client: ClientPeer, times: list[Timed], missing: dict[str, str]) -> Figures:
    good = [timed for timed in times if not timed.fault]
    return {
        "asks": client.asks,
        "seconds": median(timed.seconds for timed in good),
        "cpu": median(timed.cpu for timed in good),
        "runs": len(times),
        "failures": len(times) - len(good),
        "reason": missing.get(client.name) or next((t.fault for t in times if t.fault), ""),
    }


def _move(verb: str, client: ClientPeer, where: Where, file: str, setting: Setting) -> Timed:
    source = setting.root / file
    if verb == "get":
        target = setting.local / "got"
        work = Work(verb=verb, where=where, remote=file, local=target, wish=_WISH)
    else:
        target = setting.root / "put-client"
        work = Work(verb=verb, where=where, remote=target.name, local=source, wish=_WISH)
    target.unlink(missing_ok=True)
    try:
        command = [str(part) for part in client.command(setting.shop, work)]
        return run_client(command, setting.local, setting.limit, source, target)
    finally:
        target.unlink(missing_ok=True)


def run_client(
    command: Sequence[str], folder: Path, limit: float, source: Path, target: Path
) -> Timed:
    """Run a command, and see whether `target` then is what `source` is."""
    timed = _run(command, folder, limit)
    if timed.fault:
        return timed
    if not target.exists():
        return Timed(timed.seconds, timed.cpu, "no file")
    if not filecmp.cmp(source, target, shallow=False):
        return Timed(timed.seconds, timed.cpu, "the file is wrong")
    return timed


def _run(command: Sequence[str], folder: Path, limit: float) -> Timed:
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    start = time.perf_counter()
    try:
        done = subprocess.run(
            command,
            cwd=folder,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            env=_ENVIRONMENT,
            text=True,
            errors="replace",
            timeout=limit,
            check=False,
        )
    except subprocess.TimeoutExpired:
        return Timed(limit, 0.0, f"not done in {limit:.0f} s")
    seconds = time.perf_counter() - start
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    if done.returncode:
        last = done.stdout.strip().splitlines()[-1:] or [""]
        return Timed(seconds, cpu, f"status {done.returncode} {last[0]}".strip())
    return Timed(seconds, cpu, "")


def measure_start(setting: Setting) -> Figures:
    """A whole `tftp get` of 1 KiB, and what importing click and socket alone costs."""
    (peer,) = (peer for peer in SERVERS if peer.name == "tftpkit threads")
    server = Entrant(peer, setting)
    target = setting.local / "got"
    times: dict[str, list[float]] = {"tftp get": [], "import": [], "python": []}
    try:
        host, port = _where(server)
        url = f"tftp://{host}:{port}/1k"
        commands = {
            "tftp get": [tftp_command(), "get", "--quiet", url, "-o", str(target)],
            "import": [sys.executable, "-c", "import click, socket"],
            "python": [sys.executable, "-c", "pass"],
        }
        for turn in range(max(5, 4 * setting.rounds)):
            for name, command in commands.items():
                timed = _run(command, setting.local, setting.limit)
                if timed.fault:
                    raise RuntimeError(f"{os.path.basename(command[0])}: {timed.fault}")  # noqa: PTH119
                if turn:
                    times[name].append(timed.seconds)
        correct = filecmp.cmp(target, setting.root / "1k", shallow=False)
    finally:
        server.stop()
        target.unlink(missing_ok=True)
    return {
        "get": median(times["tftp get"]),
        "import": median(times["import"]),
        "python": median(times["python"]),
        "correct": correct,
    }
