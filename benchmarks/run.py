"""The benchmark: `python -m benchmarks.run`, which `make bench` calls. README.md says what it does.

It measures in parts, keeps everything as JSON, and makes the report and the chart of that.
"""

import argparse
import json
import signal
import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from types import FrameType

from benchmarks.chart import draw
from benchmarks.clients import measure_clients, measure_start
from benchmarks.gap import fetch_with_a_gap
from benchmarks.loads import LOADS
from benchmarks.lossy import SCENES, measure_scene
from benchmarks.measure import Figures, Setting, machine, served_folder, tell
from benchmarks.peers import CLIENTS, SERVERS, ServerPeer
from benchmarks.prepare import Missing, Workshop
from benchmarks.process import NotReady
from benchmarks.report import insert, render
from benchmarks.serving import Entrant, measure_load, measure_memory

_PARTS = ("servers", "clients", "start", "loss", "gap", "memory")
_HERE = Path(__file__).parent
_RESULTS = _HERE / "results"
# The file of the gap: 34 blocks, so two windows of 16 and a bit.
_GAP_BLOCKS = 34
_GAP_SIZE = _GAP_BLOCKS * 1428 - 700
_GAP_LOST = 5


def main(given: Sequence[str] | None = None) -> int:
    """Measure, or only report on what was measured before."""
    options = _arguments(given)
    signal.signal(signal.SIGTERM, _stop)
    if options.reuse is not None:
        results = json.loads(options.reuse.read_text())
    else:
        path = options.json or _new_path()
        results = {}
        try:
            _measure(options, results)
        finally:
            # An hour's figures are worth keeping, also where the last one failed.
            path.write_text(json.dumps(results, indent=1) + "\n")
            tell(f"kept in {path}")
    report = render(results)
    if options.docs is not None:
        insert(options.docs, report)
    if options.chart is not None:
        options.chart.write_text(draw(results))
    print(report)
    return 0


def _stop(number: int, frame: FrameType | None) -> None:
    sys.exit(128 + number)


def _arguments(given: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.run",
        description="Measure tftpkit and its peers under the same loads. Several values are "
        "separated by commas.",
    )
    loads = ", ".join(load.key for load in LOADS)
    servers = ", ".join(peer.name for peer in SERVERS)
    clients = ", ".join(peer.name for peer in CLIENTS)
    add = parser.add_argument
    add("--parts", type=_list, default=list(_PARTS), help=f"of {', '.join(_PARTS)}")
    add("--loads", type=_list, default=[], help=f"of the part servers: {loads}")
    add("--peers", type=_list, default=[], help=f"servers: {servers}")
    add("--clients", type=_list, default=[], help=f"clients: {clients}")
    add("--rounds", type=int, help="how often each is measured (5; quick: 1)")
    add("--limit", type=float, help="seconds that one run may take (60; quick: 15)")
    add("--quick", action="store_true", help="small sizes: does everything work?")
    add("--json", type=Path, help="where to keep the results (benchmarks/results/DATE.json)")
    add("--reuse", type=Path, help="measure nothing: report on these results")
    add("--docs", type=Path, help="put the report between the marks of this document")
    add("--chart", type=Path, help="write the SVG chart there")
    add("--folder", type=Path, default=Path(".bench"), help="where peers are fetched to")
    options = parser.parse_args(given)
    _refuse_unknown(parser, options.parts, _PARTS)
    _refuse_unknown(parser, options.loads, [load.key for load in LOADS])
    _refuse_unknown(parser, options.peers, [peer.name for peer in SERVERS])
    _refuse_unknown(parser, options.clients, [peer.name for peer in CLIENTS])
    return options


def _list(text: str) -> list[str]:
    return [part.strip() for part in text.split(",") if part.strip()]


def _refuse_unknown(
    parser: argparse.ArgumentParser, names: Sequence[str], known: Sequence[str]
) -> None:
    for name in names:
        if name not in known:
            parser.error(f"{name!r} is none of: {', '.join(known)}")


def _new_path() -> Path:
    _RESULTS.mkdir(exist_ok=True)
    return _RESULTS / f"{datetime.now(UTC):%Y%m%d-%H%M%S}.json"


# -- the parts ------------------------------------------------------------------------------------


def _measure(options: argparse.Namespace, results: Figures) -> None:
    """All parts that were asked for, into `results`, figure by figure."""
    results |= {
        "taken": f"{datetime.now(UTC):%Y-%m-%d %H:%M} UTC",
        "machine": machine(),
        "quick": options.quick,
        "rounds": options.rounds or (1 if options.quick else 5),
    }
    with served_folder() as (root, local):
        setting = Setting(
            shop=Workshop(options.folder),
            root=root,
            local=local,
            rounds=results["rounds"],
            limit=options.limit or (15.0 if options.quick else 60.0),
            quick=options.quick,
        )
        peers, results["peers"] = _present(options.peers, setting)
        parts: dict[str, Callable[[], Figures | list[Figures]]] = {
            "clients": lambda: _clients(options.clients, setting),
            "start": lambda: measure_start(setting),
            "loss": lambda: _loss(setting),
            "gap": lambda: _gap(peers, setting),
            "memory": lambda: _memory(peers, setting),
        }
        if "servers" in options.parts:
            results["servers"] = {}
            _servers(peers, options.loads, setting, results["servers"])
        for name, measure in parts.items():
            if name in options.parts:
                tell(name)
                results[name] = measure()
        results["machine"]["load at the end"] = machine()["load"]


def _present(names: Sequence[str], setting: Setting) -> tuple[list[ServerPeer], Figures]:
    """The servers that can take part, and who they are."""
    present = []
    facts: Figures = {}
    for peer in SERVERS:
        if names and peer.name not in names:
            continue
        missing = ""
        release = ""
        tell(f"looking for {peer.name}")
        try:
            peer.command(setting.shop, peer.place(), setting.root)
            release = peer.release(setting.shop)
            present.append(peer)
        except Missing as reason:
            missing = str(reason)
            tell(f"  {reason}")
        remark = missing or peer.remark
        facts[peer.name] = {"made": peer.made, "version": release, "remark": remark}
    return present, facts


def _servers(
    peers: Sequence[ServerPeer], keys: Sequence[str], setting: Setting, figures: Figures
) -> None:
    for load in LOADS:
        if keys and load.key not in keys:
            continue
        tell(load.title)
        chosen = [
            peer
            for peer in peers
            if (peer.uploads or not load.put) and (peer.crowds or load.clients == 1)
        ]
        entrants = [Entrant(peer, setting) for peer in chosen]
        actual = load.shortened() if setting.quick else load
        figures[load.key] = measure_load(actual, entrants, setting)
        for name, summary in figures[load.key].items():
            tell(f"  {name}: {summary['value']:.1f} {load.unit} {summary['reason']}")


def _clients(names: Sequence[str], setting: Setting) -> list[Figures]:
    figures = []
    for verb, server in (("get", "tftpkit threads"), ("get", "bare C"), ("put", "tftpkit threads")):
        tell(f"clients: {verb}, server {server}")
        figures.append(measure_clients(verb, server, names, setting))
    return figures


def _loss(setting: Setting) -> list[Figures]:
    figures = []
    for scene in SCENES:
        if setting.quick and not scene.quick:
            continue
        tell(scene.title)
        figures.append(measure_scene(scene, [], setting))
    return figures


def _gap(peers: Sequence[ServerPeer], setting: Setting) -> Figures:
    path = setting.root / "gap"
    path.write_bytes((setting.root / "1m").read_bytes()[:_GAP_SIZE])
    figures: Figures = {}
    for peer in peers:
        entrant = Entrant(peer, setting)
        try:
            where = entrant.where if entrant.server.alive else ("", 0)
            gap = fetch_with_a_gap(where, path.name, _GAP_SIZE, windowsize=16, lost=_GAP_LOST)
            figures[peer.name] = asdict(gap)
        except NotReady as reason:
            figures[peer.name] = {"reason": str(reason)}
        finally:
            entrant.stop()
    return figures


def _memory(peers: Sequence[ServerPeer], setting: Setting) -> Figures:
    figures: Figures = {}
    for peer in peers:
        if peer.ours:
            tell(f"memory: {peer.name}")
            figures[peer.name] = measure_memory(peer, setting)
    return figures


if __name__ == "__main__":
    sys.exit(main())
