"""Real TFTP programs, found and run: each client as one call, each server as one `with`.

A server is given a free loopback port, is ready when it answers a request, and is stopped by the
handle of its own process. Nothing here knows tftpkit. Where a program is missing the test is
skipped, or fails if the environment says REQUIRE_PEERS=1, as CI does. TFTPKIT_PEERS names a folder
that is searched before the system's: atftp and atftpd are unpacked there.
"""

import contextlib
import os
import pwd
import select
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from random import SystemRandom
from time import monotonic, sleep
from typing import NoReturn

import pytest

Where = tuple[str, int]
"""A host, as a number, and a port."""

# Seconds that a client may take (a 32 MiB transfer in lock-step is the longest), and a server to
# come up. Neither is waited for where all is well.
CLIENT_PATIENCE = 50.0
SERVER_PATIENCE = 10.0

# Not $PATH: our own command is called `tftp` too, and so is hpa's.
_FOLDERS = ("/usr/local/sbin", "/usr/sbin", "/usr/bin", "/sbin", "/bin")
_TFTP_PORT = 69


def program(name: str) -> str:
    """The absolute path of a peer."""
    unpacked = os.environ.get("TFTPKIT_PEERS")
    # Only these two: the package of atftpd holds an `in.tftpd` as well.
    prefixes = [unpacked, ""] if unpacked and name in ("atftp", "atftpd") else [""]
    paths = [Path(f"{prefix}{folder}", name) for prefix in prefixes for folder in _FOLDERS]
    found = next((path for path in paths if os.access(path, os.X_OK)), None)
    return str(found or missing(f"{name} is not installed"))


def missing(reason: str) -> NoReturn:
    """End the test: it cannot be run here."""
    if os.environ.get("REQUIRE_PEERS") == "1":
        pytest.fail(f"{reason}, and REQUIRE_PEERS=1 says that it must be", pytrace=False)
    pytest.skip(reason)


# Clients


@dataclass(frozen=True)
class Ended:
    """How a client ended: its exit status and all that it said."""

    status: int
    output: str

    @property
    def failed(self) -> bool:
        # tftp-hpa exits with 0 whatever happens; it is its words that tell.
        return self.status != 0 or "Error code" in self.output


@dataclass(frozen=True, kw_only=True)
class Ask:
    """What a client is to do: one transfer between `remote` at the server and the file `local`."""

    verb: str
    server: Where
    remote: str
    local: Path
    mode: str = "octet"
    options: Mapping[str, int] | None = None
    """None leaves the options to the client."""

    def option_pairs(self, *known: str) -> list[tuple[str, int]]:
        """The options, all of which the client must know."""
        pairs = list((self.options or {}).items())
        assert all(name in known for name, _ in pairs), f"this client knows only {known}"
        return pairs


Client = Callable[[Ask], Ended]


def run(command: Sequence[str], cwd: Path) -> Ended:
    done = subprocess.run(
        command,
        cwd=cwd,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        timeout=CLIENT_PATIENCE,
        check=False,
    )
    return Ended(done.returncode, done.stdout.decode("utf-8", "replace"))


def tftp_hpa(ask: Ask) -> Ended:
    """tftp-hpa; it never sends an option."""
    ask.option_pairs()
    host, port = ask.server
    family = "-6" if ":" in host else "-4"
    files = {"get": [ask.remote, ask.local.name], "put": [ask.local.name, ask.remote]}[ask.verb]
    command = [program("tftp"), family, "-m", ask.mode, host, str(port), "-c", ask.verb, *files]
    return run(command, ask.local.parent)


def atftp(ask: Ask) -> Ended:
    """atftp; it asks for what it is told to, and for nothing by itself."""
    options = ask.option_pairs("blksize", "windowsize", "timeout", "tsize")
    arguments = [f"{name} {value}" for name, value in options]
    if ask.mode != "octet":
        arguments.append(f"mode {ask.mode}")
    command = [program("atftp"), f"--{ask.verb}", "-r", ask.remote, "-l", ask.local.name]
    for argument in arguments:
        command += ["--option", argument]
    host, port = ask.server
    return run([*command, host, str(port)], ask.local.parent)


def curl(ask: Ask) -> Ended:
    """curl; by itself it asks for tsize, blksize and timeout."""
    command = [program("curl"), "--no-progress-meter", "--verbose"]
    if ask.options is None:
        blksize = []
    else:
        blksize = [f"{value}" for _, value in ask.option_pairs("blksize")]
        command += ["--tftp-blksize", *blksize] if blksize else ["--tftp-no-options"]
    host, port = ask.server
    authority = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
    url = f"tftp://{authority}/{ask.remote};mode={ask.mode}"
    flag = {"get": "--output", "put": "--upload-file"}[ask.verb]
    return run([*command, flag, ask.local.name, url], ask.local.parent)


def busybox_tftp(ask: Ask) -> Ended:
    """BusyBox; it knows the mode octet alone, and asks for tsize where it asks for blksize."""
    assert ask.mode == "octet"
    flag = {"get": "-g", "put": "-p"}[ask.verb]
    command = [program("busybox"), "tftp", flag, "-r", ask.remote, "-l", ask.local.name]
    for _, value in ask.option_pairs("blksize"):
        command += ["-b", str(value)]
    host, port = ask.server
    return run([*command, host, str(port)], ask.local.parent)


_TFTPY_CLIENT = """
import json, sys, tftpy
verb, host, port, remote, local, options = sys.argv[1:]
client = tftpy.TftpClient(host, int(port), json.loads(options))
{"get": client.download, "put": client.upload}[verb](remote, local)
"""


def tftpy_client(ask: Ask) -> Ended:
    """tftpy, in a process of its own; it knows the mode octet alone."""
    assert ask.mode == "octet"
    pairs = ask.option_pairs("blksize", "tsize")
    options = "{" + ", ".join(f'"{name}": {value}' for name, value in pairs) + "}"
    host, port = ask.server
    arguments = [ask.verb, host, str(port), ask.remote, ask.local.name, options]
    return run([sys.executable, "-c", _TFTPY_CLIENT, *arguments], ask.local.parent)


# Servers


Serving = contextlib.AbstractContextManager[Where]


@contextlib.contextmanager
def tftpd_hpa(root: Path, *, writable: bool = True, host: str = "127.0.0.1") -> Iterator[Where]:
    """tftpd-hpa."""
    needs_root("in.tftpd")
    where = (host, free_port(host))
    command = [program("in.tftpd"), "--foreground", "--address", bracketed(where), "--secure"]
    # As root and "permissive", as pytest's folders are closed to the user `nobody`.
    command += ["--user", "root", "--permissive", *(["--create"] if writable else []), str(root)]
    with running(command, where):
        yield where


@contextlib.contextmanager
def atftpd(root: Path) -> Iterator[Where]:
    """atftpd; it accepts uploads."""
    needs_root("atftpd")
    where = ("127.0.0.1", free_port("127.0.0.1"))
    command = [program("atftpd"), "--daemon", "--no-fork", "--user", "root.root"]
    command += ["--port", str(where[1]), "--bind-address", where[0], "--logfile", "-", str(root)]
    with running(command, where):
        yield where


@contextlib.contextmanager
def dnsmasq(root: Path) -> Iterator[Where]:
    """dnsmasq; read-only. It knows no port but 69, so it gets a loopback address of its own."""
    needs_root("dnsmasq")
    # Not random.choices: pytest-randomly seeds that with the same number in every process.
    octets = SystemRandom().choices(range(1, 255), k=3)
    where = ("127." + ".".join(map(str, octets)), _TFTP_PORT)
    command = [program("dnsmasq"), "--keep-in-foreground", "--port=0", "--conf-file=/dev/null"]
    command += ["--user=root", "--pid-file=", "--log-facility=-", "--bind-interfaces"]
    command += [f"--listen-address={where[0]}", "--enable-tftp", f"--tftp-root={root}"]
    with running(command, where):
        yield where


_TFTPY_SERVER = """
import sys, tftpy
root, host, port = sys.argv[1:]
tftpy.TftpServer(root).listen(host, int(port))
"""


@contextlib.contextmanager
def tftpy_server(root: Path) -> Iterator[Where]:
    """tftpy; it accepts uploads, and knows the mode octet alone."""
    where = ("127.0.0.1", free_port("127.0.0.1"))
    arguments = [str(root), where[0], str(where[1])]
    with running([sys.executable, "-c", _TFTPY_SERVER, *arguments], where):
        yield where


def wait_until_written(path: Path, size: int) -> None:
    """Wait until a server has written what it has acknowledged; tftpy does it in this order.

    Nothing tells when another process has closed a file, so this looks again and again.
    """
    deadline = monotonic() + SERVER_PATIENCE
    while not path.exists() or path.stat().st_size < size:
        assert monotonic() < deadline, f"{path.name} does not get its {size} octets"
        sleep(0.01)


def needs_root(name: str) -> None:
    if os.geteuid() != 0:
        missing(f"{name} runs only as root, and this is {pwd.getpwuid(os.geteuid()).pw_name}")


def free_port(host: str) -> int:
    """A UDP port that was free a moment ago."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family, socket.SOCK_DGRAM) as probe:
        probe.bind((host, 0))
        port: int = probe.getsockname()[1]
        return port


def bracketed(where: Where) -> str:
    host, port = where
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


@contextlib.contextmanager
def running(command: Sequence[str], where: Where) -> Iterator[None]:
    """Run a server for as long as the block takes; it answers requests when the block starts."""
    with subprocess.Popen(
        command,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    ) as process:
        try:
            wait_until_it_answers(process, where)
            yield
        finally:
            process.terminate()
            try:
                # in.tftpd may sleep through a SIGTERM that comes just before its select().
                process.wait(timeout=1)
            except subprocess.TimeoutExpired:
                process.kill()


def wait_until_it_answers(process: subprocess.Popen[bytes], where: Where) -> None:
    """Ask for a file that does not exist until there is an answer; it is an ERROR, and the end."""
    request = b"\0\1there-is-no-such-file\0octet\0"
    deadline = monotonic() + SERVER_PATIENCE
    family = socket.AF_INET6 if ":" in where[0] else socket.AF_INET
    with socket.socket(family, socket.SOCK_DGRAM) as asking:
        while process.poll() is None and monotonic() < deadline:
            asking.sendto(request, where)
            answered, _, _ = select.select([asking], [], [], 0.05)
            if answered:
                return
    raise RuntimeError(f"{process.args!r} does not answer; exit status {process.poll()}")
