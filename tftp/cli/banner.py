"""What a server says of itself when it starts: version, root, addresses, and what to try.

The URL to try is a real one: an address that other machines can reach, and a file that exists.
Inside a container it also says what most people there stumble over.
"""

import os
import re
import socket
from collections.abc import Mapping, Sequence
from importlib import import_module
from itertools import islice
from pathlib import Path

from tftp.events import Address, format_address, printable
from tftp.url import DEFAULT_PORT, Location

__all__ = ["CONTAINER_ADVICE", "banner", "is_container", "needs_advice", "url_to_try", "version"]

CONTAINER_ADVICE = (
    "tftp: this is a container, and replies leave from new ports: publish it with host networking, "
    "--single-port, or --port-range LOW:HIGH"
)

#: How many entries of the root are looked at for a file to name.
_ENTRIES = 1000
# Addresses set aside for documentation (RFC 5737, RFC 3849). Connecting a UDP socket to one sends
# nothing; it only tells which address of this machine faces the network.
_ELSEWHERE = {socket.AF_INET: "192.0.2.1", socket.AF_INET6: "2001:db8::1"}
_ANY = {"0.0.0.0": socket.AF_INET, "::": socket.AF_INET6}  # noqa: S104  (read, not bound)
_CONTAINER_FILES = (".dockerenv", "run/.containerenv")
_CONTAINER_GROUPS = re.compile(r"docker|kubepods|containerd|libpod|lxc")
_CONTAINER_VARIABLES = ("container", "KUBERNETES_SERVICE_HOST")


def version() -> str:
    """The version of the package that runs: nobody but the package itself has it."""
    return str(import_module("tftp").__version__)


def banner(addresses: Sequence[Address], root: Path, *, uploads: str) -> list[str]:
    """The lines for a terminal; `uploads` says in words what may be written."""
    return [
        f"tftpkit {version()} serves {printable(str(root))}, {uploads}",
        f"listening on {', '.join(map(format_address, addresses))}",
        f"try: tftp get {url_to_try(addresses, root)}",
        "Ctrl-C stops it.",
    ]


def url_to_try(addresses: Sequence[Address], root: Path) -> Location:
    """A URL that works: from other machines, where the server listens for them."""
    places = [Location(_reachable(host), port, _some_file(root)) for host, port, *_ in addresses]
    # IPv4 first, and loopback last: that is what most people can try from elsewhere.
    return min(places, key=lambda place: (_is_loopback(place.host), ":" in place.host))


def _reachable(host: str) -> str:
    """The address that another machine uses for a server that listens on `host`."""
    family = _ANY.get(host)
    if family is None:
        return host
    with socket.socket(family, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect((_ELSEWHERE[family], DEFAULT_PORT))
        except OSError:
            return "127.0.0.1" if family == socket.AF_INET else "::1"
        address: str = probe.getsockname()[0]
        return address


def _is_loopback(host: str) -> bool:
    return host.startswith("127.") or host == "::1"


def _some_file(root: Path) -> bytes:
    """The first file of the root that a client can ask for, "NAME" where there is none."""
    try:
        with os.scandir(os.fsencode(root)) as entries:
            names = [entry.name for entry in islice(entries, _ENTRIES) if _is_servable(entry)]
    except OSError:  # A root that can be entered but not listed is served all the same.
        names = []
    return min(names, default=b"NAME")


def _is_servable(entry: os.DirEntry[bytes]) -> bool:
    hidden = entry.name.startswith(b".")
    return not hidden and entry.is_file(follow_symlinks=False) and os.access(entry, os.R_OK)


def needs_advice(addresses: Sequence[Address]) -> bool:
    """Whether `CONTAINER_ADVICE` is due: clients outside of this container are to come in."""
    return is_container() and not all(_is_loopback(host) for host, *_ in addresses)


def is_container(system: Path = Path("/"), environment: Mapping[str, str] = os.environ) -> bool:
    """Whether this process runs in a container, by the marks that the usual engines leave."""
    if any((system / mark).exists() for mark in _CONTAINER_FILES):
        return True
    if any(name in environment for name in _CONTAINER_VARIABLES):
        return True
    try:
        groups = (system / "proc/self/cgroup").read_text(errors="replace")
    except OSError:
        return False
    return _CONTAINER_GROUPS.search(groups) is not None
