"""Who takes part: each server and each client as the command that runs it, and how it is had.

The commands change a peer's defaults in three ways only: it says nothing (a log costs time), it
serves as many clients at once as are asked for, and it takes uploads where it can.
"""

import re
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from random import SystemRandom

from benchmarks.prepare import Missing, Workshop, installed_version
from benchmarks.process import Where, free_port

__all__ = ["CLIENTS", "SERVERS", "ClientPeer", "ServerPeer", "Wish", "Work", "tftp_command"]

Command = list[str | Path]

# More transfers at once than any load has.
_MANY = "2000"
_TFTP_PORT = 69
_PROGRAMS = Path(__file__).parent / "programs"


@dataclass(frozen=True, kw_only=True)
class ServerPeer:
    """A server.

    Attributes:
        name: what the report calls it.
        made: its language and what serves a transfer.
        command: how to run it at an address for a folder; raises `Missing`.
        release: its version, as far as that is known.
        ours: it is one of this project's.
        yardstick: it is no real server, and is not compared with.
        uploads: it takes uploads.
        any_port: it can listen elsewhere than on port 69.
        crowds: it serves many clients that come at once.
        remark: what else is to be known of it.
    """

    name: str
    made: str
    command: Callable[[Workshop, Where, Path], Command]
    release: Callable[[Workshop], str] = lambda shop: ""
    ours: bool = False
    yardstick: bool = False
    uploads: bool = True
    any_port: bool = True
    crowds: bool = True
    remark: str = ""

    def place(self) -> Where:
        """A free address for it."""
        if self.any_port:
            return "127.0.0.1", free_port()
        # A loopback address that nobody else is likely to use.
        octets = SystemRandom().choices(range(1, 255), k=3)
        return "127." + ".".join(map(str, octets)), _TFTP_PORT


# -- servers --------------------------------------------------------------------------------------


def _ours(*options: str) -> Callable[[Workshop, Where, Path], Command]:
    def command(shop: Workshop, where: Where, root: Path) -> Command:
        for option in options:
            if option.startswith("--") and not _knows(option, *options):
                raise Missing(f"not built yet: tftp serve knows no {' '.join(options)}")
        base: Command = [tftp_command(), "serve", root, "--host", where[0]]
        base += ["--port", str(where[1]), "--quiet", "--allow-write", "--overwrite"]
        return [*base, *options]

    return command


def tftp_command() -> str:
    """Our own command, as it is installed beside this interpreter. Raises `Missing`."""
    script = Path(sys.executable).with_name("tftp")
    if not script.exists():
        raise Missing("tftpkit is not installed beside this Python; `make bench` sees to that")
    return str(script)


@cache
def _help() -> str:
    asked = [tftp_command(), "serve", "--help"]
    return subprocess.run(asked, capture_output=True, text=True, check=True, timeout=30).stdout


def _knows(option: str, *options: str) -> bool:
    """Whether `tftp serve` has an option and, if it has choices, the value behind it."""
    found = re.search(rf"^\s*{option}\b(.*)$", _help(), re.MULTILINE)
    if found is None:
        return False
    choices = re.match(r"\s*\[([a-z|]+)\]", found[1])
    value = options[options.index(option) + 1]
    return choices is None or value in choices[1].split("|")


def _our_version(shop: Workshop) -> str:
    try:
        return version("tftpkit")
    except PackageNotFoundError:
        return ""


def _bare(shop: Workshop, where: Where, root: Path) -> Command:
    return [shop.compiled("server.c"), where[0], str(where[1]), root]


def _hpa(shop: Workshop, where: Where, root: Path) -> Command:
    program = shop.installed("in.tftpd", "tftpd-hpa")
    address = f"{where[0]}:{where[1]}"
    command: Command = [program, "--foreground", "--address", address, "--secure", "--create"]
    return [*command, "--user", "root", "--permissive", root]


def _atftpd(shop: Workshop, where: Where, root: Path) -> Command:
    program = shop.unpacked("atftpd", "atftp") / "usr/sbin/atftpd"
    command: Command = [program, "--daemon", "--no-fork", "--user", "root.root"]
    command += ["--port", str(where[1]), "--bind-address", where[0], "--maxthread", _MANY]
    return [*command, "--verbose=0", "--logfile", "/dev/null", root]


def _dnsmasq(shop: Workshop, where: Where, root: Path) -> Command:
    program = shop.installed("dnsmasq", "dnsmasq-base")
    command: Command = [program, "--keep-in-foreground", "--port=0", "--conf-file=/dev/null"]
    command += ["--user=root", "--pid-file=", "--log-facility=/dev/null", "--quiet-tftp"]
    command += ["--bind-interfaces", f"--listen-address={where[0]}", "--enable-tftp"]
    return [*command, f"--tftp-root={root}", f"--tftp-max={_MANY}"]


def _pin(shop: Workshop, where: Where, root: Path) -> Command:
    return [shop.pin(), f"{where[0]}:{where[1]}", root]


def _pytftp(shop: Workshop, where: Where, root: Path) -> Command:
    program = shop.python("tftp[cli]==0.2.1").with_name("pytftp")
    command: Command = [program, "serve", "-q", "--listen", f"{where[0]}:{where[1]}"]
    return [*command, "--max-sessions", "0", "--write", "--overwrite", root]


def _tftpy(shop: Workshop, where: Where, root: Path) -> Command:
    return [shop.python("tftpy"), _PROGRAMS / "tftpy_server.py", where[0], str(where[1]), root]


def _fbtftp(shop: Workshop, where: Where, root: Path) -> Command:
    return [shop.python("fbtftp"), _PROGRAMS / "fbtftp_server.py", where[0], str(where[1]), root]


def _py3tftp(shop: Workshop, where: Where, root: Path) -> Command:
    # It serves its current directory.
    program = shop.python("py3tftp").with_name("py3tftp")
    return [program, "--host", where[0], "--port", str(where[1])]


def _busybox(shop: Workshop, where: Where, root: Path) -> Command:
    # The same super-server and settings as in BusyBox's own documentation; -c allows uploads.
    program = shop.busybox()
    return [program, "udpsvd", "-E", where[0], str(where[1]), program, "tftpd", "-c", root]


def _cargo(shop: Workshop, where: Where, root: Path) -> Command:
    raise Missing("left out: neither apt nor pip has it, and its registry is not used here")


def _debian(package: str) -> Callable[[Workshop], str]:
    return lambda shop: installed_version(package)


def _archive(package: str, first: str) -> Callable[[Workshop], str]:
    def release(shop: Workshop) -> str:
        names = (shop.folder / f"debian-{first}").glob(f"{package}_*.deb")
        return next((path.name.split("_")[1] for path in names), "")

    return release


def _package(requirement: str, name: str) -> Callable[[Workshop], str]:
    def release(shop: Workshop) -> str:
        asked = f"import importlib.metadata as m; print(m.version({name!r}))"
        command = [str(shop.python(requirement)), "-c", asked]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()

    return release


SERVERS = (
    ServerPeer(
        name="tftpkit threads",
        made="Python, one reactor thread",
        command=_ours("--engine", "threads"),
        release=_our_version,
        ours=True,
    ),
    ServerPeer(
        name="tftpkit processes",
        made="Python, a warm process per transfer",
        command=_ours("--engine", "processes"),
        release=_our_version,
        ours=True,
    ),
    ServerPeer(
        name="tftpkit workers",
        made="Python, a reactor per core",
        command=_ours("--workers", "auto"),
        release=_our_version,
        ours=True,
    ),
    ServerPeer(
        name="tftp-hpa",
        made="C, fork per transfer",
        command=_hpa,
        release=_debian("tftpd-hpa"),
    ),
    ServerPeer(
        name="atftpd",
        made="C, thread per transfer",
        command=_atftpd,
        release=_archive("atftpd", "atftpd"),
    ),
    ServerPeer(
        name="dnsmasq",
        made="C, one loop",
        command=_dnsmasq,
        release=_debian("dnsmasq-base"),
        uploads=False,
        any_port=False,
    ),
    ServerPeer(
        name="BusyBox",
        made="C, fork and exec per transfer",
        command=_busybox,
        release=lambda shop: "1.35.0",
        crowds=False,
        remark="one client at a time: its udpsvd loses requests that come together",
    ),
    ServerPeer(
        name="pin/tftp",
        made="Go, goroutine per transfer",
        command=_pin,
        release=_archive("golang-github-pin-tftp-dev", "golang-1.19-go"),
    ),
    ServerPeer(
        name="tftp (PyPI)",
        made="Python",
        command=_pytftp,
        release=_package("tftp[cli]==0.2.1", "tftp"),
    ),
    ServerPeer(
        name="py3tftp",
        made="Python, asyncio",
        command=_py3tftp,
        release=_package("py3tftp", "py3tftp"),
    ),
    ServerPeer(
        name="tftpy",
        made="Python, one loop",
        command=_tftpy,
        release=_package("tftpy", "tftpy"),
    ),
    ServerPeer(
        name="fbtftp",
        made="Python, fork per transfer",
        command=_fbtftp,
        release=_package("fbtftp", "fbtftp"),
        uploads=False,
    ),
    ServerPeer(name="rs-tftpd", made="Rust, thread per transfer", command=_cargo),
    ServerPeer(
        name="bare C",
        made="C, one loop, no timers, no checks",
        command=_bare,
        yardstick=True,
        uploads=False,
    ),
)


# -- clients --------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class Wish:
    """The options to ask for; None: none of that name.

    Attributes:
        timeout: seconds until a client repeats, for those that by themselves wait longer.
    """

    blksize: int | None = None
    windowsize: int | None = None
    timeout: int | None = None


@dataclass(frozen=True, kw_only=True)
class Work:
    """One transfer for a client: `verb` is get or put."""

    verb: str
    where: Where
    remote: str
    local: Path
    wish: Wish


@dataclass(frozen=True, kw_only=True)
class ClientPeer:
    """A client.

    Attributes:
        name: what the report calls it.
        command: how to run it for one transfer; raises `Missing`.
        asks: what it asks for where blksize 1428 and windowsize 64 are wanted.
        ours: it is this project's.
    """

    name: str
    command: Callable[[Workshop, Work], Command]
    asks: str
    ours: bool = False


def _tftp_client(shop: Workshop, work: Work) -> Command:
    host, port = work.where
    url = f"tftp://{host}:{port}/{work.remote}"
    files: Command = [url, "-o", work.local] if work.verb == "get" else [work.local, url]
    command: Command = [tftp_command(), work.verb, "--quiet", *files]
    if work.wish.blksize is not None:
        command += ["--blksize", str(work.wish.blksize)]
    if work.wish.windowsize is not None:
        command += ["--windowsize", str(work.wish.windowsize)]
    return command


def _atftp(shop: Workshop, work: Work) -> Command:
    command: Command = [shop.unpacked("atftpd", "atftp") / "usr/bin/atftp", f"--{work.verb}"]
    if work.wish.blksize is not None:
        command += ["--option", f"blksize {work.wish.blksize}"]
    if work.wish.windowsize is not None:
        command += ["--option", f"windowsize {work.wish.windowsize}"]
    if work.wish.timeout is not None:
        # Else it waits for five seconds; atftpd goes along.
        command += ["--option", f"timeout {work.wish.timeout}"]
    command += ["--remote-file", work.remote, "--local-file", work.local]
    return [*command, work.where[0], str(work.where[1])]


def _pytftp_client(shop: Workshop, work: Work) -> Command:
    program = shop.python("tftp[cli]==0.2.1").with_name("pytftp")
    host, port = work.where
    command: Command = [program, work.verb, "-q", "--port", str(port)]
    if work.wish.blksize is not None:
        command += ["--blksize", str(work.wish.blksize)]
    if work.wish.windowsize is not None:
        command += ["--windowsize", str(work.wish.windowsize)]
    return [*command, host, *_in_order(work)]


def _curl(shop: Workshop, work: Work) -> Command:
    host, port = work.where
    flag = {"get": "--output", "put": "--upload-file"}[work.verb]
    command: Command = [shop.installed("curl", "curl"), "--silent", "--show-error"]
    if work.wish.blksize is not None:
        command += ["--tftp-blksize", str(work.wish.blksize)]
    return [*command, flag, work.local, f"tftp://{host}:{port}/{work.remote}"]


def _hpa_client(shop: Workshop, work: Work) -> Command:
    host, port = work.where
    program = shop.installed("tftp", "tftp-hpa")
    command: Command = [program, "-4", "-m", "octet", host, str(port), "-c", work.verb]
    return [*command, *_in_order(work)]


def _in_order(work: Work) -> Command:
    """From where to where."""
    return [work.remote, work.local] if work.verb == "get" else [work.local, work.remote]


def _busybox_client(shop: Workshop, work: Work) -> Command:
    flag = {"get": "-g", "put": "-p"}[work.verb]
    command: Command = [shop.busybox(), "tftp", flag, "-r", work.remote, "-l", work.local]
    if work.wish.blksize is not None:
        command += ["-b", str(work.wish.blksize)]
    return [*command, work.where[0], str(work.where[1])]


CLIENTS = (
    ClientPeer(name="tftp", command=_tftp_client, asks="1428 x 64", ours=True),
    ClientPeer(name="atftp", command=_atftp, asks="1428 x 64"),
    ClientPeer(name="pytftp", command=_pytftp_client, asks="1428 x 64"),
    ClientPeer(name="curl", command=_curl, asks="1428"),
    ClientPeer(name="BusyBox tftp", command=_busybox_client, asks="1428"),
    ClientPeer(name="tftp-hpa's tftp", command=_hpa_client, asks="no option (512)"),
)
