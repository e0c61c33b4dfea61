"""The programs to compare with: where they are on this machine, or how they are had.

What is not installed is fetched into one folder, once: Python packages into an environment of their
own each, Debian packages unpacked (nothing is installed, and no root is needed for it), C and Go
compiled on the spot. Whatever cannot be had raises `Missing` with the reason, which the report
then gives in place of figures.
"""

import functools
import hashlib
import os
import re
import shutil
import subprocess
from collections.abc import Callable, Sequence
from pathlib import Path

__all__ = ["Missing", "Workshop", "installed_version"]

_HERE = Path(__file__).parent
# Not $PATH: our own command is called `tftp` too, and so is hpa's.
_FOLDERS = ("/usr/local/sbin", "/usr/sbin", "/usr/bin", "/sbin", "/bin")
# Seconds that a download or a build may take.
_PATIENCE = 600

_GO = (
    "golang-1.19-go",
    "golang-1.19-src",
    "golang-github-pin-tftp-dev",
    "golang-golang-x-net-dev",
    "golang-golang-x-sys-dev",
)
# Debian's BusyBox has the client alone; the server wants a build of one's own.
_BUSYBOX = (
    "BUSYBOX",
    "TFTP",
    "TFTPD",
    "UDPSVD",
    "FEATURE_TFTP_GET",
    "FEATURE_TFTP_PUT",
    "FEATURE_TFTP_BLOCKSIZE",
)


class Missing(Exception):
    """A program is not here and cannot be had; the text says why."""


def _once(function: Callable[..., Path]) -> Callable[..., Path]:
    """Remember what came of it, the failure too: each peer is tried for once."""
    results: dict[tuple[object, ...], Path | Missing] = {}

    @functools.wraps(function)
    def call(*given: object) -> Path:
        if given not in results:
            try:
                results[given] = function(*given)
            except Missing as reason:
                results[given] = reason
        result = results[given]
        if isinstance(result, Missing):
            raise result
        return result

    return call


class Workshop:
    """The folder where programs are fetched to and built."""

    def __init__(self, folder: Path) -> None:
        """The folder is made when something goes into it."""
        self.folder = folder.absolute()

    def installed(self, name: str, package: str) -> Path:
        """A program of this system; `package` is what to install where it is missing."""
        for folder in _FOLDERS:
            path = Path(folder, name)
            if os.access(path, os.X_OK):
                return path
        raise Missing(f"not installed (apt install {package})")

    @_once
    def python(self, requirement: str) -> Path:
        """The interpreter of an environment with this package alone."""
        name = re.sub(r"[^a-z0-9.]+", "-", requirement.lower()).strip("-")
        place = self.folder / f"venv-{name}"
        python = place / "bin" / "python"
        stamp = place / ".complete"
        if not stamp.exists():
            _run(["python3", "-m", "venv", "--clear", place])
            pip = ["-m", "pip", "--quiet", "--disable-pip-version-check", "install"]
            _run([python, *pip, requirement])
            stamp.touch()
        return python

    @_once
    def unpacked(self, *packages: str) -> Path:
        """A folder with these Debian packages, unpacked."""
        place = self.folder / f"debian-{packages[0]}"
        stamp = place / ".complete"
        if not stamp.exists():
            self._empty(place)
            _run(["apt-get", "download", "-qq", *packages], place)
            for archive in sorted(place.glob("*.deb")):
                _run(["dpkg", "-x", archive, place])
            stamp.touch()
        return place

    @_once
    def compiled(self, source: str) -> Path:
        """The program of one of the C files beside this one."""
        path = _HERE / source
        digest = hashlib.sha256(path.read_bytes()).hexdigest()[:12]
        program = self.folder / f"{path.stem}-{digest}"
        if not program.exists():
            self.folder.mkdir(parents=True, exist_ok=True)
            _run(["cc", "-O2", "-Wall", "-o", program, path])
        return program

    @_once
    def pin(self) -> Path:
        """A server made of github.com/pin/tftp, with Debian's Go."""
        source = _HERE / "programs" / "pin.go"
        digest = hashlib.sha256(source.read_bytes()).hexdigest()[:12]
        program = self.folder / f"pin-{digest}"
        if not program.exists():
            root = self.unpacked(*_GO)
            go = root / "usr/lib/go-1.19"
            environment = {
                "PATH": os.environ.get("PATH", ""),
                "GOROOT": str(go),
                "GOPATH": str(root / "usr/share/gocode"),
                "GOCACHE": str(root / "cache"),
                "GO111MODULE": "off",
                "CGO_ENABLED": "0",
            }
            _run([go / "bin/go", "build", "-o", program, source], environment=environment)
        return program

    @_once
    def busybox(self) -> Path:
        """BusyBox with `tftp`, `tftpd` and `udpsvd`, built from Debian's source."""
        place = self.folder / "busybox"
        program = place / "busybox"
        if not program.exists():
            self._empty(place)
            self._source("busybox", place)
            (tree,) = (path for path in place.glob("busybox-*") if path.is_dir())
            _run(["make", "allnoconfig"], tree)
            config = tree / ".config"
            text = config.read_text()
            for option in _BUSYBOX:
                text = text.replace(f"# CONFIG_{option} is not set", f"CONFIG_{option}=y")
            config.write_text(text)
            _run(["make", "silentoldconfig"], tree)
            _run(["make", "-j2", "busybox"], tree)
            shutil.copy2(tree / "busybox", program)
        return program

    def _source(self, package: str, place: Path) -> None:
        """Fetch the source of a Debian package; most machines have no source list of their own."""
        sources = place / "sources.list"
        sources.write_text("deb-src http://deb.debian.org/debian bookworm main\n")
        lists = place / "lists"
        (lists / "partial").mkdir(parents=True)
        apt = ["apt-get", "-qq", "-o", f"Dir::Etc::sourcelist={sources}"]
        apt += ["-o", "Dir::Etc::sourceparts=/dev/null", "-o", f"Dir::State::lists={lists}"]
        _run([*apt, "update"], place)
        _run([*apt, "source", "--download-only", package], place)
        (archive,) = place.glob("*.orig.tar.*")
        _run(["tar", "-xf", archive], place)

    @staticmethod
    def _empty(place: Path) -> None:
        shutil.rmtree(place, ignore_errors=True)
        place.mkdir(parents=True)


def installed_version(package: str) -> str:
    """The version of an installed Debian package, "" where there is none."""
    asked = ["dpkg-query", "-W", "-f", "${Version}", package]
    try:
        return subprocess.run(asked, capture_output=True, text=True, check=True).stdout
    except (OSError, subprocess.CalledProcessError):
        return ""


def _run(
    command: Sequence[str | Path],
    folder: Path | None = None,
    *,
    environment: dict[str, str] | None = None,
) -> None:
    """Run a step. Raises `Missing` with the last that it said where it fails."""
    try:
        done = subprocess.run(
            command,
            cwd=folder,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            timeout=_PATIENCE,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise Missing(f"{Path(command[0]).name}: {error}") from error
    if done.returncode:
        last = done.stdout.strip().splitlines()[-1:] or ["it says nothing"]
        raise Missing(f"{Path(command[0]).name} fails: {last[0]}")
