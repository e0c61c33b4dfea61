"""The loads that servers are put under, and what each has to reach: the bar of the project.

A load is what the generator (load.c) is told to do, and how its result is read. Sizes come in two:
the real ones, and quick ones that show whether everything works.
"""

from dataclasses import dataclass, field
from pathlib import Path

__all__ = ["FILES", "LOADS", "Bar", "Load"]

MIB = 1 << 20

#: The files that the servers serve, by name, in octets.
FILES = {"1k": 1024, "1m": MIB, "4m": 4 * MIB, "16m": 16 * MIB, "128m": 128 * MIB}


@dataclass(frozen=True, kw_only=True)
class Bar:
    """What one of our servers has to reach under a load.

    Attributes:
        ratio: its figure over that of the fastest peer that does not fail.
        of: the peer to compare with, where it is not the fastest.
        cpu: its processor seconds per GB over those of the thriftiest peer, at most.
        private: MiB of private memory, at most.
        child: the same for each process that serves one transfer.
        flawless: no failure and no retransmission.
    """

    ratio: float
    of: str | None = None
    cpu: float | None = None
    private: float | None = None
    child: float | None = None
    flawless: bool = False


@dataclass(frozen=True, kw_only=True)
class Load:
    """One load.

    Attributes:
        key: what `--loads` calls it.
        title: what the report calls it.
        file: one of `FILES`; None asks for a file that does not exist.
        clients: so many at once.
        transfers: so many in all.
        quick: file, clients and transfers in a quick run.
        blksize, windowsize: to ask for; 0: not.
        offload: the clients use GRO, or GSO to send.
        put: the clients send.
        bars: what is to be reached, by the server's name.
    """

    key: str
    title: str
    file: str | None
    clients: int = 1
    transfers: int = 1
    quick: tuple[str | None, int, int]
    blksize: int = 0
    windowsize: int = 0
    offload: bool = False
    put: bool = False
    bars: dict[str, Bar] = field(default_factory=dict)

    @property
    def counts_transfers(self) -> bool:
        """Whether the figure is transfers per second, not MB/s."""
        return self.file is None or FILES[self.file] < MIB

    @property
    def unit(self) -> str:
        """Of the figure; an MB is 1 000 000 octets."""
        return "transfers/s" if self.counts_transfers else "MB/s"

    def shortened(self) -> "Load":
        """The quick form."""
        file, clients, transfers = self.quick
        given = {name: getattr(self, name) for name in self.__dataclass_fields__}
        return Load(**{**given, "file": file, "clients": clients, "transfers": transfers})

    def arguments(self, root: Path, *, check: int = 0) -> list[str]:
        """For the generator; the content of one transfer in `check` is compared."""
        arguments = ["--clients", str(self.clients), "--transfers", str(self.transfers)]
        if self.blksize:
            arguments += ["--blksize", str(self.blksize)]
        if self.windowsize:
            arguments += ["--windowsize", str(self.windowsize)]
        if self.offload:
            arguments += ["--offload"]
        if self.file is None:
            return [*arguments, "--name", "missing-%d", "--names", "1000000", "--missing"]
        content = str(root / self.file)
        size = (root / self.file).stat().st_size
        if self.put:
            names = str(self.clients)
            return [*arguments, "--name", "put-%d", "--names", names, "--put", "--content", content]
        arguments += ["--name", self.file, "--size", str(size)]
        if check:
            arguments += ["--content", content, "--check", str(check)]
        return arguments


def _bars(threads: Bar, processes: Bar | None = None) -> dict[str, Bar]:
    """The bars of a load: workers are never to be behind one server alone."""
    bars = {"tftpkit threads": threads, "tftpkit workers": Bar(ratio=1.0, of="tftpkit threads")}
    return bars if processes is None else {**bars, "tftpkit processes": processes}


LOADS = (
    Load(
        key="lock512",
        title="one client, lock-step, blksize 512",
        file="16m",
        transfers=2,
        quick=("1m", 1, 4),
        blksize=512,
        bars=_bars(Bar(ratio=1.0)),
    ),
    Load(
        key="lock1428",
        title="one client, lock-step, blksize 1428",
        file="16m",
        transfers=4,
        quick=("1m", 1, 8),
        blksize=1428,
        bars=_bars(Bar(ratio=1.0)),
    ),
    Load(
        key="lock65464",
        title="one client, lock-step, blksize 65464",
        file="128m",
        transfers=4,
        quick=("16m", 1, 8),
        blksize=65464,
        bars=_bars(Bar(ratio=1.0)),
    ),
    Load(
        key="window16",
        title="one client, 1428, windowsize 16",
        file="128m",
        transfers=2,
        quick=("16m", 1, 2),
        blksize=1428,
        windowsize=16,
        bars=_bars(Bar(ratio=3.0, cpu=1 / 3)),
    ),
    Load(
        key="window64",
        title="one client, 1428, windowsize 64, 128 MiB",
        file="128m",
        transfers=2,
        quick=("16m", 1, 4),
        blksize=1428,
        windowsize=64,
        bars=_bars(Bar(ratio=3.0, cpu=1 / 3)),
    ),
    Load(
        key="gro64",
        title="one client that receives with GRO, 1428, windowsize 64, 128 MiB",
        file="128m",
        transfers=4,
        quick=("16m", 1, 8),
        blksize=1428,
        windowsize=64,
        offload=True,
        bars=_bars(Bar(ratio=6.0, cpu=1 / 3)),
    ),
    Load(
        key="clients100",
        title="100 clients at once, 1 MiB each, 1428, lock-step",
        file="1m",
        clients=100,
        transfers=200,
        quick=("1m", 100, 100),
        blksize=1428,
        bars=_bars(Bar(ratio=1.0), Bar(ratio=1.0, of="tftp-hpa", child=2.0)),
    ),
    Load(
        key="clients1000",
        title="1 000 clients at once, 1 MiB each, 1428, lock-step",
        file="1m",
        clients=1000,
        transfers=1000,
        quick=("1m", 300, 300),
        blksize=1428,
        bars=_bars(Bar(ratio=1.0, private=40.0, flawless=True)),
    ),
    Load(
        key="clients100w16",
        title="100 clients at once, 1 MiB each, 1428, windowsize 16",
        file="1m",
        clients=100,
        transfers=400,
        quick=("1m", 100, 100),
        blksize=1428,
        windowsize=16,
        bars=_bars(Bar(ratio=3.0, cpu=1 / 3)),
    ),
    Load(
        key="small",
        title="1 KiB files, 16 in parallel",
        file="1k",
        clients=16,
        transfers=10000,
        quick=("1k", 16, 1000),
        blksize=1428,
        bars=_bars(Bar(ratio=1.0), Bar(ratio=3.0, of="tftp-hpa", child=2.0)),
    ),
    Load(
        key="missing",
        title="not-found probes, 16 in parallel",
        file=None,
        clients=16,
        transfers=10000,
        quick=(None, 16, 1000),
        blksize=1428,
        bars=_bars(Bar(ratio=1.0)),
    ),
    Load(
        key="put64",
        title="one client writes, 1428, windowsize 64, 128 MiB",
        file="128m",
        transfers=2,
        quick=("16m", 1, 2),
        blksize=1428,
        windowsize=64,
        put=True,
    ),
    Load(
        key="put100",
        title="100 clients write at once, 1 MiB each, 1428, lock-step",
        file="1m",
        clients=100,
        transfers=100,
        quick=("1m", 16, 16),
        blksize=1428,
        put=True,
    ),
)
