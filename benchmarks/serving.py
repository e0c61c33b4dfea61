"""Servers under load: all in the same rounds, so that a noisy minute hits all alike.

For each load every server is started afresh. A first transfer of everything is checked octet by
octet while the server's memory is watched; then come the rounds, which are timed and not watched.
A server that fails a round is started anew for the next.
"""

import contextlib
import filecmp
import json
import subprocess
import time
from collections.abc import Sequence
from pathlib import Path

from benchmarks.loads import Load
from benchmarks.measure import Figures, Setting, median
from benchmarks.peers import ServerPeer
from benchmarks.prepare import Missing
from benchmarks.process import Memory, NotReady, Sampler, Server

__all__ = ["Entrant", "measure_load", "measure_memory"]

# Seconds that a generator may take beyond its own limit.
_SLACK = 20
# A server that needs more seconds than this for a round gets only one.
_SLOW = 10.0
# Seconds until an upload that was acknowledged must have been written.
_WRITTEN = 3.0


class Entrant:
    """A server that takes part in a load."""

    def __init__(self, peer: ServerPeer, setting: Setting) -> None:
        """Nothing is started yet. Raises `Missing`."""
        self.peer = peer
        self.where = peer.place()
        self._setting = setting
        self._command = peer.command(setting.shop, self.where, setting.root)
        self._server: Server | None = None

    @property
    def server(self) -> Server:
        """The running server; it is started, or started anew, where it does not run."""
        if self._server is not None and not self._server.alive:
            self.stop()
        if self._server is None:
            server = Server(self._command, self.where, self._setting.root)
            self._server = server.__enter__()
        return self._server

    @property
    def death(self) -> str:
        """How the server has ended; "" while it runs."""
        return "" if self._server is None or self._server.alive else self._server.death

    def stop(self) -> None:
        """Stop the server."""
        if self._server is not None:
            self._server.__exit__(None, None, None)
            self._server = None

    def run(self, load: Load, *, check: int = 0) -> Figures:
        """Put the server under the load once. Raises `NotReady`."""
        setting = self._setting
        command = [str(setting.shop.compiled("load.c")), "--limit", str(setting.limit)]
        command += ["--server", f"{self.where[0]}:{self.where[1]}"]
        command += load.arguments(setting.root, check=check)
        server = self.server
        before = server.seconds()
        done = subprocess.run(
            command,
            capture_output=True,
            text=True,
            timeout=setting.limit + _SLACK,
            check=False,
        )
        if not done.stdout:
            raise RuntimeError(f"the generator fails: {done.stderr.strip()}")
        figures: Figures = json.loads(done.stdout)
        figures["cpu"] = server.seconds() - before
        if self.death:
            figures["reason"] = f"the server {self.death}; {figures['reason']}"
        if figures["failures"]:
            # What it still sends to clients that have given up must not disturb the others.
            self.stop()
        return figures


def measure_load(load: Load, entrants: Sequence[Entrant], setting: Setting) -> Figures:
    """All entrants under one load; gives a summary for each."""
    summaries: Figures = {}
    rounds: dict[str, list[Figures]] = {}
    with contextlib.ExitStack() as running:
        for entrant in entrants:
            running.callback(entrant.stop)
            summaries[entrant.peer.name] = _warm_up(load, entrant, setting)
        for turn in range(setting.rounds):
            # Each round starts with another, so that none always follows the same neighbour.
            first = turn % len(entrants)
            for entrant in [*entrants[first:], *entrants[:first]]:
                name = entrant.peer.name
                done = rounds.setdefault(name, [])
                warm = summaries[name]["warm"]
                if not warm.get("transfers") or (done and warm["seconds"] > _SLOW):
                    continue
                try:
                    done.append(entrant.run(load))
                except NotReady as error:
                    summaries[name]["reason"] = str(error)
                _remove_uploads(setting.root)
    for name, summary in summaries.items():
        summary |= _summary(load, summary, rounds.get(name, []))
    return summaries


def _warm_up(load: Load, entrant: Entrant, setting: Setting) -> Figures:
    """The first run: everything is checked, and memory is watched."""
    try:
        with Sampler(entrant.server) as sampler:
            figures = entrant.run(load, check=1)
    except NotReady as error:
        return {"warm": {}, "memory": {}, "reason": str(error)}
    if load.put:
        _check_uploads(load, setting.root, figures)
    _remove_uploads(setting.root)
    return {"warm": figures, "memory": as_figures(sampler.peak), "reason": figures["reason"]}


def as_figures(memory: Memory) -> Figures:
    """In MiB, as they are kept."""
    return {
        "private": round(memory.private, 2),
        "child": round(memory.child, 2),
        "resident": round(memory.resident, 2),
        "processes": memory.processes,
    }


def _summary(load: Load, before: Figures, rounds: list[Figures]) -> Figures:
    """What the rounds come to."""
    good = [one for one in rounds if one["transfers"]]
    values = [_value(load, one) for one in good]
    octets = sum(one["bytes"] for one in good)
    reasons = [before["reason"], *(one["reason"] for one in rounds)]
    return {
        "value": median(values),
        "unit": load.unit,
        "lowest": min(values, default=0.0),
        "highest": max(values, default=0.0),
        "p50": median(one["p50"] for one in good),
        "p99": median(one["p99"] for one in good),
        "cpu_per_gb": sum(one["cpu"] for one in good) / (octets / 1e9) if octets else None,
        "cpu_per_transfer": (
            sum(one["cpu"] for one in good) / sum(one["transfers"] for one in good)
            if good
            else None
        ),
        "failures": sum(one["failures"] for one in [before["warm"], *rounds] if one),
        "retransmissions": sum(one["retransmissions"] for one in rounds),
        "duplicates": sum(one["duplicates"] for one in rounds),
        "blksize": good[0]["blksize"] if good else None,
        "windowsize": good[0]["windowsize"] if good else None,
        "generator": median((one["cpu_user"] + one["cpu_system"]) / one["seconds"] for one in good),
        "reason": next((reason for reason in reasons if reason), ""),
        "rounds": rounds,
    }


def _value(load: Load, figures: Figures) -> float:
    amount = figures["transfers"] if load.counts_transfers else figures["bytes"] / 1e6
    return float(amount / figures["seconds"])


# -- uploads --------------------------------------------------------------------------------------


def _uploads(root: Path) -> list[Path]:
    return sorted(root.glob("put-*"))


def _check_uploads(load: Load, root: Path, figures: Figures) -> None:
    """Some servers acknowledge first and write then: they get a moment."""
    source = root / (load.file or "")
    until = time.monotonic() + _WRITTEN
    wrong = _uploads(root)
    while wrong := [path for path in wrong if not filecmp.cmp(path, source, shallow=False)]:
        if time.monotonic() > until:
            figures["failures"] += len(wrong)
            figures["reason"] = figures["reason"] or f"{len(wrong)} uploads are not what was sent"
            return
        time.sleep(0.02)


def _remove_uploads(root: Path) -> None:
    for path in _uploads(root):
        path.unlink(missing_ok=True)


# -- memory over size and number ------------------------------------------------------------------


def measure_memory(peer: ServerPeer, setting: Setting) -> Figures:
    """What one server holds after files of growing size, and after more and more transfers."""
    sizes = [1, 16, 128] if setting.quick else [1, 16, 128, 1024]
    counts = [100, 500, 1000] if setting.quick else [1000, 5000, 20000]
    figures: Figures = {"sizes": {}, "transfers": {}}
    sparse = setting.root / "sparse"
    try:
        entrant = Entrant(peer, setting)
        with contextlib.ExitStack() as running:
            running.callback(entrant.stop)
            for mebibytes in sizes:
                # A hole of that size: no machine's memory is to be filled with it.
                with sparse.open("wb") as file:
                    file.truncate(mebibytes << 20)
                figures["sizes"][mebibytes] = _memory_after(entrant, _one_of(sparse))
        with contextlib.ExitStack() as running:
            running.callback(entrant.stop)
            done = 0
            for total in counts:
                figures["transfers"][total] = _memory_after(entrant, _many(total - done))
                done = total
    except (Missing, NotReady) as error:
        figures["reason"] = str(error)
    finally:
        sparse.unlink(missing_ok=True)
    return figures


def _memory_after(entrant: Entrant, load: Load) -> float:
    with Sampler(entrant.server) as sampler:
        figures = entrant.run(load)
    if figures["failures"]:
        raise NotReady(figures["reason"])
    return round(sampler.peak.private, 2)


def _one_of(path: Path) -> Load:
    return Load(
        key="memory",
        title="",
        file=path.name,
        quick=(None, 1, 1),
        blksize=1428,
        windowsize=64,
        offload=True,
    )


def _many(transfers: int) -> Load:
    return Load(
        key="memory",
        title="",
        file="1k",
        clients=16,
        transfers=transfers,
        quick=(None, 1, 1),
        blksize=1428,
    )
