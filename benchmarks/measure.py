"""What all parts of the benchmark share: the folder that is served, and how medians are taken.

The files are drawn from a seed, and lie in memory where the system has a place for that: disks are
no part of the comparison.
"""

import contextlib
import os
import platform
import shutil
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Any

from benchmarks.loads import FILES
from benchmarks.prepare import Workshop

__all__ = ["Figures", "Setting", "machine", "median", "served_folder", "tell"]

#: What a run gave: JSON, as it is kept.
Figures = dict[str, Any]

_MEMORY = Path("/dev/shm")  # noqa: S108  (a private folder is made in it)


@dataclass(frozen=True, kw_only=True)
class Setting:
    """Where and how long to measure.

    Attributes:
        shop: where programs come from.
        root: the folder that servers serve.
        local: the folder that clients work in.
        rounds: how often each is measured.
        limit: seconds that one run may take.
        quick: small sizes, to see whether everything works.
    """

    shop: Workshop
    root: Path
    local: Path
    rounds: int
    limit: float
    quick: bool


@contextlib.contextmanager
def served_folder() -> Iterator[tuple[Path, Path]]:
    """A folder with `FILES`, and one for clients; both are gone afterwards."""
    base = _MEMORY if _MEMORY.is_dir() else None
    place = Path(tempfile.mkdtemp(prefix="tftpkit-bench-", dir=base))
    try:
        # Servers that change their user must come in.
        place.chmod(0o755)
        root, local = place / "served", place / "local"
        root.mkdir()
        local.mkdir()
        octets = Random(1350).randbytes(max(FILES.values()))
        for name, size in FILES.items():
            (root / name).write_bytes(octets[:size])
        yield root, local
    finally:
        shutil.rmtree(place)


def median(values: Iterable[float]) -> float:
    """The middle one; 0 where there is none."""
    values = list(values)
    return statistics.median(values) if values else 0.0


def tell(text: str) -> None:
    """Say something to whoever waits."""
    print(text, file=sys.stderr, flush=True)


def machine() -> Figures:
    """What it was measured on."""
    return {
        "processor": _processor(),
        "cores": os.cpu_count(),
        "kernel": platform.release(),
        "python": platform.python_version(),
        "load": [round(load, 2) for load in os.getloadavg()],
        "revision": _revision(),
    }


def _processor() -> str:
    with contextlib.suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.machine()


def _revision() -> str:
    """Of this project, with a + where files have changed since."""
    command = ["git", "describe", "--always", "--dirty=+", "--exclude=*"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return ""
    return done.stdout.strip()
