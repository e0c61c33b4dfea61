"""`make demo`: the real command serves fixtures/trees/demo, and fetches from it and sends to it.

It stands among the tests because it is one: it knows nothing but the command line, compares every
file that arrived with its published hash, and fails if a single one differs. It is not called
test_... because its reader is a newcomer who looks at the table, not pytest.
"""

import contextlib
import hashlib
import json
import queue
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

TREE = Path(__file__).parents[1] / "fixtures" / "trees" / "demo"
COMMAND = Path(sys.executable).with_name("tftp")

# How long anything may take, in seconds: generous, as all of it is loopback.
PATIENCE = 60.0

OPTION_SETS = (
    ("boot/kernel.bin", ()),
    ("boot/kernel.bin", ("--no-options",)),
    ("boot/kernel.bin", ("--blksize", "1428", "--windowsize", "16")),
    ("boot/initrd.bin", ("--blksize", "65464")),
    ("boot/initrd.bin", ("--blksize", "8192")),
    ("boot/firmware-1468.bin", ("--blksize", "1468", "--timeout", "2")),
    ("config/lines.txt", ("--mode", "netascii")),
    ("config/lines.txt", ("--mode", "netascii", "--blksize", "333", "--windowsize", "4")),
    ("empty.bin", ()),
)

# What the totals of the monitor are summed over.
PARTS = ("payload", "blocks", "datagrams_sent", "datagrams_received", "retransmissions")


@dataclass(frozen=True)
class Line:
    """One transfer, as a line of the table; `wrong` is empty where all is well."""

    verb: str
    address: str
    name: str
    options: tuple[str, ...]
    granted: str
    octets: int
    seconds: float
    digest: str
    wrong: str


def main() -> int:
    console = Console(width=None if sys.stdout.isatty() else 140)
    hashes = published_hashes()
    with tempfile.TemporaryDirectory(prefix="tftpkit-demo-") as folder:
        root, arrived = Path(folder, "root"), Path(folder, "arrived")
        # A copy, so that uploads leave no trace in the repository.
        shutil.copytree(TREE, root)
        (root / "incoming").mkdir()
        arrived.mkdir()
        with serving(root) as (addresses, monitor):
            console.print(f"tftp serve listens on {' and '.join(addresses)}")
            lines = list(transfers(addresses, hashes, root, arrived))
            snapshot = snapshot_of(monitor)
    console.print(as_table(lines))
    console.print(as_seen(snapshot, monitor))
    failed = [line for line in lines if line.wrong]
    for line in failed:
        console.print(
            f"{line.verb} {line.name} {' '.join(line.options)}: {line.wrong}", markup=False
        )
    octets = sum(line.octets for line in lines)
    console.print(f"{len(lines) - len(failed)} of {len(lines)} transfers whole, {octets} octets")
    seen = sum(side["requests"] for side in snapshot["totals"].values())
    if seen != len(lines):
        console.print(f"the server's monitor counts {seen} requests, not {len(lines)}")
    return 1 if failed or seen != len(lines) else 0


def published_hashes() -> dict[str, str]:
    """The hash of each file as the repository states it: name to SHA-256."""
    pairs = (line.split(maxsplit=1) for line in (TREE / "SHA256SUMS").read_text().splitlines())
    return {name: digest for digest, name in pairs}


def transfers(
    addresses: list[str], hashes: dict[str, str], root: Path, arrived: Path
) -> Iterator[Line]:
    """Every file of the list down and up, over the first address; one each over the others."""
    first, *others = addresses
    rounds = [(first, name, options) for name, options in OPTION_SETS]
    rounds += [(address, *OPTION_SETS[0]) for address in others]
    for number, (address, name, options) in enumerate(rounds):
        local = arrived / f"{number}"
        command = ["get", f"tftp://{address}/{name}", "-o", str(local), *options]
        yield transfer("get", address, name, options, command, local, hashes[name])
        sent = f"incoming/{number}"
        command = ["put", str(TREE / name), f"tftp://{address}/{sent}", *options]
        yield transfer("put", address, name, options, command, root / sent, hashes[name])


def transfer(
    verb: str,
    address: str,
    name: str,
    options: tuple[str, ...],
    command: list[str],
    result: Path,
    expected: str,
) -> Line:
    """Run one `tftp get` or `tftp put`, and look at the file that it made."""
    start = time.monotonic()
    done = subprocess.run(
        [COMMAND, *command, "--json"],
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        check=False,
    )
    seconds = time.monotonic() - start
    content = result.read_bytes() if result.exists() else b""
    digest = hashlib.sha256(content).hexdigest()
    wrong, granted = "", ""
    if done.returncode:
        wrong = f"exit status {done.returncode}: {done.stderr.strip()}"
    elif not result.exists():
        wrong = "no file arrived"
    elif digest != expected:
        wrong = f"SHA-256 is {digest}, not {expected}"
    else:
        options_granted = json.loads(done.stdout)["granted"]
        granted = " ".join(f"{option} {value}" for option, value in options_granted.items())
    return Line(verb, address, name, options, granted, len(content), seconds, digest, wrong)


def as_table(lines: list[Line]) -> Table:
    table = Table(title="tftpkit demo", title_justify="left")
    for heading in ("", "over", "file", "asked", "granted"):
        table.add_column(heading, overflow="fold")
    for heading in ("octets", "seconds"):
        table.add_column(heading, justify="right")
    table.add_column("SHA-256")
    table.add_column("")
    for line in lines:
        table.add_row(
            line.verb,
            "IPv6" if line.address.startswith("[") else "IPv4",
            line.name,
            " ".join(line.options) or "(its own choice)",
            line.granted,
            str(line.octets),
            f"{line.seconds:.2f}",
            line.digest[:12],
            "[red]FAILED[/red]" if line.wrong else "[green]same[/green]",
        )
    return table


def snapshot_of(monitor: str) -> dict[str, Any]:
    """What the server says of itself: a snapshot is the second line of its monitoring channel."""
    host, _, port = monitor.rpartition(":")
    with socket.create_connection((host, int(port)), PATIENCE) as channel:
        channel.settimeout(PATIENCE)
        with channel.makefile(encoding="ascii") as lines:
            greeting, snapshot = json.loads(lines.readline()), json.loads(lines.readline())
    assert greeting["event"] == "greeting"
    assert snapshot["event"] == "snapshot"
    return dict(snapshot)


def as_seen(snapshot: dict[str, Any], monitor: str) -> Table:
    """The same transfers as the server saw them, and its totals below."""
    table = Table(title=f"the same, as its monitor on {monitor} tells it", title_justify="left")
    for heading in ("", "client", "file"):
        table.add_column(heading, overflow="fold")
    for heading in ("octets", "blocks", "datagrams", "again", "round trip", "seconds"):
        table.add_column(heading, justify="right")
    table.add_column("outcome")
    for ended in snapshot["endings"]:
        counters, round_trip = ended["counters"], ended["round_trip"]
        table.add_row(
            ended["operation"],
            # rich reads brackets as markup, and an IPv6 address has them.
            ended["peer"].replace("[", r"\["),
            ended["file"],
            str(counters["payload"]),
            str(counters["blocks"]),
            str(counters["datagrams_sent"] + counters["datagrams_received"]),
            str(counters["retransmissions"]),
            "" if round_trip is None else f"{1000 * round_trip:.1f} ms",
            f"{ended['duration']:.3f}",
            ended["outcome"],
        )
    sides = snapshot["totals"].values()
    sums = {part: sum(side["counters"][part] for side in sides) for part in PARTS}
    table.add_section()
    table.add_row(
        "all",
        "",
        "",
        str(sums["payload"]),
        str(sums["blocks"]),
        str(sums["datagrams_sent"] + sums["datagrams_received"]),
        str(sums["retransmissions"]),
        "",
        "",
        f"{sum(side['outcomes']['done'] for side in sides)} done",
    )
    return table


@contextlib.contextmanager
def serving(root: Path) -> Iterator[tuple[list[str], str]]:
    """Run `tftp serve` over `root` on ports that the system chooses; gives the addresses, and
    where it can be watched.

    It has started when its first line says where it listens, and must end on SIGTERM with exit
    status 0.
    """
    hosts = ["127.0.0.1", *(["::1"] if has_ipv6() else [])]
    command = [str(COMMAND), "serve", str(root), "--port", "0", "--allow-write", "--json"]
    command += ["--monitor", "0"]
    for host in hosts:
        command += ["--host", host]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as server:
        assert server.stdout is not None
        lines: queue.Queue[str] = queue.Queue()
        # All of its lines are read, or it would come to stand still when the pipe is full.
        reader = threading.Thread(target=drain, args=(server.stdout, lines))
        reader.start()
        try:
            listening = json.loads(lines.get(timeout=PATIENCE) or "{}")
            if listening.get("event") != "listening":
                raise SystemExit("tftp serve did not start; its reason stands above")
            yield listening["addresses"], listening["monitor"][0]
            server.send_signal(signal.SIGTERM)
            status = server.wait(PATIENCE)
            if status:
                raise SystemExit(f"tftp serve ended with exit status {status} on SIGTERM")
        finally:
            if server.poll() is None:
                server.kill()
            reader.join()


def drain(stream: Iterator[str], lines: "queue.Queue[str]") -> None:
    """Pass the lines on; an empty one says that there will be no more."""
    for line in stream:
        lines.put(line)
    lines.put("")


def has_ipv6() -> bool:
    """Whether this host has the IPv6 loopback address."""
    try:
        with socket.socket(socket.AF_INET6, socket.SOCK_DGRAM) as probe:
            probe.bind(("::1", 0))
    except OSError:
        return False
    return True


if __name__ == "__main__":
    sys.exit(main())
