"""Pairs of client and server over the lossy link: goodput, and whether the file came whole.

A pair is one project's client with its own server, each with its defaults for waiting and giving
up, but that atftp is asked to wait for one second instead of five: it would hardly arrive. Every
pair meets the same seeds. The time is that of the whole command.
"""

from dataclasses import dataclass

from benchmarks.clients import Timed, run_client
from benchmarks.link import Conditions, Link
from benchmarks.measure import Figures, Setting, median, tell
from benchmarks.peers import CLIENTS, SERVERS, Wish, Work
from benchmarks.prepare import Missing
from benchmarks.process import NotReady
from benchmarks.serving import Entrant

__all__ = ["PAIRS", "SCENES", "Scene", "measure_scene"]


@dataclass(frozen=True, kw_only=True)
class Scene:
    """A link, and what is asked of it.

    Attributes:
        loss: the chance of each datagram to be lost, each way.
        rtt: seconds there and back.
        windowsize: 1 is lock-step.
        reorder: the chance of each datagram to be overtaken.
        ratio: of our goodput to the best other pair's: the bar.
        of: the pair to compare with.
        quick: part of a quick run, too.
    """

    loss: float
    rtt: float
    windowsize: int
    reorder: float = 0.0
    ratio: float | None = None
    of: str | None = None
    quick: bool = False

    @property
    def title(self) -> str:
        """What the report calls it."""
        window = f"windowsize {self.windowsize}" if self.windowsize > 1 else "lock-step"
        order = f", {self.reorder:.0%} overtaken" if self.reorder else ""
        return f"{self.loss:.0%} loss each way{order}, RTT {self.rtt * 1000:.0f} ms, {window}"


#: Name, server and client.
PAIRS = (
    ("tftpkit", "tftpkit threads", "tftp"),
    ("atftp", "atftpd", "atftp"),
    ("tftp (PyPI)", "tftp (PyPI)", "pytftp"),
    ("BusyBox", "BusyBox", "BusyBox tftp"),
)
# The last one knows no windows.
_WINDOWED = {"tftpkit", "atftp", "tftp (PyPI)"}

SCENES = (
    Scene(loss=0.01, rtt=0.0, windowsize=16, ratio=5.0, of="atftp", quick=True),
    Scene(loss=0.01, rtt=0.02, windowsize=16, ratio=2.0, of="atftp"),
    Scene(loss=0.01, rtt=0.1, windowsize=16, ratio=1.2, of="atftp"),
    Scene(loss=0.05, rtt=0.0, windowsize=16, ratio=10.0, of="atftp"),
    Scene(loss=0.05, rtt=0.02, windowsize=16, ratio=10.0, of="atftp"),
    Scene(loss=0.05, rtt=0.1, windowsize=16, ratio=10.0, of="atftp"),
    Scene(loss=0.0, rtt=0.02, windowsize=16, reorder=0.02),
    Scene(loss=0.05, rtt=0.0, windowsize=1, ratio=3.0, of="BusyBox", quick=True),
)


def measure_scene(scene: Scene, names: list[str], setting: Setting) -> Figures:
    """All pairs over one link."""
    file = "1m" if setting.quick else "4m"
    runs: dict[str, list[Timed]] = {}
    missing: dict[str, str] = {}
    for seed in range(1, setting.rounds + 1):
        for name, server, client in PAIRS:
            if (names and name not in names) or name in missing:
                continue
            if scene.windowsize > 1 and name not in _WINDOWED:
                continue
            try:
                timed = _run(scene, server, client, file, seed, setting)
            except (Missing, NotReady) as reason:
                missing[name] = str(reason)
                continue
            tell(f"  {name}, seed {seed}: {timed.seconds:.2f} s {timed.fault}")
            runs.setdefault(name, []).append(timed)
    size = (setting.root / file).stat().st_size
    return {
        "title": scene.title,
        "ratio": scene.ratio,
        "of": scene.of,
        "octets": size,
        "limit": setting.limit,
        "pairs": {name: _summary(size, timed) for name, timed in runs.items()}
        | {name: {"goodput": 0.0, "reason": reason} for name, reason in missing.items()},
    }


def _summary(size: int, runs: list[Timed]) -> Figures:
    """A run that has failed counts as no goodput at all."""
    rates = [0.0 if timed.fault else size / 1024 / timed.seconds for timed in runs]
    return {
        "goodput": median(rates),
        "lowest": min(rates),
        "highest": max(rates),
        "runs": len(runs),
        "failures": sum(bool(timed.fault) for timed in runs),
        "reason": next((timed.fault for timed in runs if timed.fault), ""),
    }


def _run(
    scene: Scene, server_name: str, client_name: str, file: str, seed: int, setting: Setting
) -> Timed:
    """One transfer. The server is a new one each time: no old transfer disturbs it."""
    (peer,) = (peer for peer in SERVERS if peer.name == server_name)
    (client,) = (client for client in CLIENTS if client.name == client_name)
    server = Entrant(peer, setting)
    target = setting.local / "got"
    target.unlink(missing_ok=True)
    window = scene.windowsize if scene.windowsize > 1 else None
    both = Conditions(loss=scene.loss, reorder=scene.reorder, delay=scene.rtt / 2)
    try:
        if not server.server.alive:
            raise NotReady(server.death)
        with Link(("127.0.0.1", 0), server.where, both=both, seed=seed) as link:
            wish = Wish(blksize=1428, windowsize=window, timeout=1)
            work = Work(verb="get", where=link.address, remote=file, local=target, wish=wish)
            command = [str(part) for part in client.command(setting.shop, work)]
            return run_client(command, setting.local, setting.limit, setting.root / file, target)
    finally:
        server.stop()
        target.unlink(missing_ok=True)
